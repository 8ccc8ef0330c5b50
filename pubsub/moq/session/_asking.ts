/** Requests of this end to the peer. */
import { UnsupportedError } from "../../../errors.ts";
import { within } from "../../../base/wait.ts";
import { codeOf, isViolation, moqErrorOf, openExchange, type SessionContext } from "./_context.ts";
import { Discovering } from "./_discovering.ts";
import type { Exchange } from "./_exchange.ts";
import { fromWireLatency } from "./_latency.ts";
import type { MessageReader } from "../wire/message_reader.ts";
import { refusedError, Subscribing } from "./_subscribing.ts";
import type { AnnouncementReader } from "../track/announcement.ts";
import { GroupReader, type GroupReaderOptions } from "../track/group_reader.ts";
import {
  BidiType,
  decodeTrackInfo,
  encodeFetch,
  encodeTrackRequest,
  type GroupHeader,
  type TrackInfoMessage,
} from "../wire/messages.ts";
import { type BroadcastPath, wirePath } from "../wire/path.ts";
import type { SubscribeOptions } from "../track/subscribe_options.ts";
import type { TrackReader } from "../track/track_reader.ts";

/** Sends the requests of this end. */
export class Asking {
  readonly #context: SessionContext;
  readonly #subscribing: Subscribing;
  readonly #discovering: Discovering;
  readonly #groupOptions: GroupReaderOptions;
  /** Removes the signal listeners of fetches. */
  readonly #fetches = new Set<() => void>();

  constructor(context: SessionContext) {
    this.#context = context;
    this.#subscribing = new Subscribing(context);
    this.#discovering = new Discovering(context);
    this.#groupOptions = {
      runtime: context.runtime,
      timestamps: context.traits.timestamps,
      maxFrameBytes: context.limits.maxFrameBytes,
      errorOf: (error) => moqErrorOf(context, "group", error),
      codeOf: (reason) => codeOf(context, "group", reason),
    };
  }

  get tracks(): readonly TrackReader[] {
    return this.#subscribing.tracks;
  }

  /** Ends all requests with the session. */
  end(error: unknown): void {
    this.#subscribing.end(error);
    this.#discovering.end(error);
    for (const release of [...this.#fetches]) release();
  }

  /** Opens a stream with the type and the first message. */
  open(
    type: number,
    message: Uint8Array,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<Exchange> {
    return openExchange(this.#context, type, { message, signal });
  }

  /** Asks for the broadcasts below a prefix. */
  announce(
    prefix: BroadcastPath,
    options: { readonly signal?: AbortSignal },
  ): Promise<AnnouncementReader> {
    return this.#discovering.announce(prefix, options);
  }

  /** Subscribes to a track. */
  subscribe(path: BroadcastPath, name: string, options: SubscribeOptions): Promise<TrackReader> {
    const info = (how: { readonly signal?: AbortSignal }) => this.trackInfo(path, name, how);
    return this.#subscribing.subscribe({ path, name, info }, options);
  }

  /** Hands an incoming group to the matching subscription; returns false without a match. */
  take({ subscribeId, sequence }: GroupHeader, reader: MessageReader): boolean {
    return this.#subscribing.take(
      subscribeId,
      () => new GroupReader(sequence, reader, this.#groupOptions),
    );
  }

  async fetch(
    path: BroadcastPath,
    name: string,
    options: { readonly group: number; readonly priority?: number; readonly signal?: AbortSignal },
  ): Promise<GroupReader> {
    const context = this.#context;
    const { traits } = context;
    const { group, priority = 0, signal } = options;
    if (!traits.requests) throw this.#unsupported("fetch");
    const wire = wirePath(path, traits.slashedPaths);
    const message = encodeFetch({ path: wire, track: name, priority, group });
    const exchange = await openExchange(context, BidiType.fetch, { message, signal });
    const onAbort = () => reader.cancel();
    const release = () => {
      this.#fetches.delete(release);
      signal?.removeEventListener("abort", onAbort);
      // Ended only now: moq-rs takes the end of this direction for the end of interest.
      void exchange.end();
    };
    const reader = new GroupReader(group, exchange.reader, {
      ...this.#groupOptions,
      errorOf: (error) => moqErrorOf(context, "fetch", error),
      codeOf: (reason) => codeOf(context, "fetch", reason),
      onEnd: release,
    });
    this.#fetches.add(release);
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) reader.cancel();
    return reader;
  }

  /** Asks for the fixed properties of a track. */
  async trackInfo(
    path: BroadcastPath,
    name: string,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<TrackInfoMessage> {
    const context = this.#context;
    const { traits } = context;
    if (!traits.timestamps) throw this.#unsupported("ask for facts of a track");
    const message = encodeTrackRequest(wirePath(path, traits.slashedPaths), name);
    const exchange = await openExchange(context, BidiType.track, { message, signal });
    try {
      const body = await within(context.runtime, exchange.reader.message(), { signal });
      if (body === undefined) throw refusedError(path, name, { reason: "unknown" });
      return fromWireLatency(decodeTrackInfo(body), this.#context.family);
    } catch (error) {
      if (isViolation(error)) context.violated(error);
      throw moqErrorOf(context, "subscribe", error);
    } finally {
      exchange.leave(codeOf(context, "subscribe", "cancelled"));
    }
  }

  #unsupported(what: string): UnsupportedError {
    return new UnsupportedError(
      `Cannot ${what}: ${this.#context.traits.version} has no message for it`,
    );
  }
}
