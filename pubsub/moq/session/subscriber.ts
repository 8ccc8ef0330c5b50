/** The subscriber's part of a session: the requests of this end. */
import { UnsupportedError } from "../../../errors.ts";
import { within } from "../../../base/wait.ts";
import { codeOf, isViolation, moqErrorOf, nameOf, type SessionContext } from "./context.ts";
import { Discovering } from "./announce.ts";
import { openRequest, type RequestStream } from "./request_stream.ts";
import { type MessageReader, TruncatedError } from "../wire/message_reader.ts";
import type { AnnouncementReader } from "../track/announcement.ts";
import { GroupReader, type GroupReaderOptions } from "../track/group_reader.ts";
import {
  BidiType,
  decodeSubscribeResponse,
  decodeTrackInfo,
  encodeFetch,
  encodeSubscribe,
  encodeSubscribeUpdate,
  encodeTrackRequest,
  fromWireLatency,
  type GroupHeader,
  hasResponseType,
  type SubscribeResponse,
  toWireLatency,
  type TrackInfoMessage,
} from "../wire/messages.ts";
import { type BroadcastPath, wirePath } from "../wire/path.ts";
import { type SubscribeOptions, TrackReader } from "../track/track_reader.ts";
import { MoqError, type MoqErrorName } from "../wire/errors.ts";

/** The track to subscribe to. */
interface Wanted {
  readonly path: BroadcastPath;
  readonly name: string;
  /** Asks for the fixed properties of the track. */
  readonly info: (options: { readonly signal?: AbortSignal }) => Promise<TrackInfoMessage>;
}

/** The subscriptions of this end. */
class Subscribing {
  readonly #context: SessionContext;
  readonly #tracks = new Map<number, TrackReader>();
  #nextId = 0;

  constructor(context: SessionContext) {
    this.#context = context;
  }

  /** All open subscriptions. */
  get tracks(): readonly TrackReader[] {
    return [...this.#tracks.values()];
  }

  /** Ends all subscriptions with the session. */
  end(error: unknown): void {
    for (const track of this.#tracks.values()) track.fail(error);
    this.#tracks.clear();
  }

  /** Hands a group to the matching subscription; returns false without a match. */
  take(subscribeId: number, group: () => GroupReader): boolean {
    const track = this.#tracks.get(subscribeId);
    track?.take(group());
    return track !== undefined;
  }

  /** Subscribes to a track. */
  async subscribe(
    { path, name, info }: Wanted,
    options: SubscribeOptions,
  ): Promise<TrackReader> {
    const context = this.#context;
    const { traits } = context;
    const { signal } = options;
    const id = this.#nextId++;
    let exchange: RequestStream | undefined = undefined;
    let left: MoqErrorName | undefined = undefined;
    const track = new TrackReader(
      {
        runtime: context.runtime,
        update: async (fields) => {
          try {
            // On such versions, peers take an update for the end of the subscription.
            if (!traits.subscribeUpdates) return;
            await exchange?.write(encodeSubscribeUpdate(toWireLatency(fields), traits));
          } catch (error) {
            throw moqErrorOf(context, "subscribe", error);
          }
        },
        leave: (reason) => {
          this.#tracks.delete(id);
          left = reason;
          const code = codeOf(context, "subscribe", reason);
          if (reason === "cancelled") exchange?.leave(code);
          // Only an abort carries a reason; an end has no room for one.
          else exchange?.abort(code);
        },
        info,
        report: (error) => context.report(error),
      },
      { path, name, id },
      options,
    );
    const message = encodeSubscribe(
      {
        ...toWireLatency(track.subscription),
        id,
        path: wirePath(path, traits.slashedPaths),
        track: name,
      },
      traits,
    );
    // A group may arrive before the answer.
    this.#tracks.set(id, track);
    try {
      exchange = await openRequest(context, BidiType.subscribe, { message, signal });
    } catch (error) {
      this.#tracks.delete(id);
      track.fail(error);
      throw error;
    }
    // The application may have closed the track, found in `subscriptions`, before the stream
    // opened.
    if (left !== undefined) exchange.leave(codeOf(context, "subscribe", left));
    const onAbort = () => track.close();
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) track.close();
    void track.closed.then(() => {
      this.#tracks.delete(id);
      signal?.removeEventListener("abort", onAbort);
    });
    void this.#readResponses(exchange, track);
    return track;
  }

  async #readResponses(exchange: RequestStream, track: TrackReader): Promise<void> {
    const context = this.#context;
    let isAnswered = false;
    let end: number | undefined;
    try {
      for (let response; (response = await this.#nextResponse(exchange)) !== undefined;) {
        isAnswered = true;
        if (response.type === "end") end = response.group;
        else this.#respond(track, response);
      }
      // On moq-lite-05, acceptance shows only in a group or END.
      if (!isAnswered && !track.hasBegun) {
        throw refusedError(track.path, track.name, { reason: "unknown" });
      }
      track.finish(end);
      await exchange.end();
    } catch (error) {
      track.fail(moqErrorOf(context, "subscribe", error));
      exchange.abort(codeOf(context, "subscribe", "cancelled"));
      if (isViolation(error)) context.violated(error);
    }
  }

  async #nextResponse({ reader }: RequestStream): Promise<SubscribeResponse | undefined> {
    const { traits } = this.#context;
    const isTyped = hasResponseType(traits);
    const type = isTyped ? await reader.varint() : 0;
    if (type === undefined) return undefined;
    const body = await reader.message();
    if (body !== undefined) return decodeSubscribeResponse(type, body, traits);
    if (isTyped) throw new TruncatedError("Expected an answer behind its type, received the end");
    return undefined;
  }

  #respond(track: TrackReader, response: SubscribeResponse): void {
    const context = this.#context;
    if (response.type === "ok") {
      const { fields } = response;
      track.accept(fields && fromWireLatency(fields, context.family));
    } else if (response.type === "start") track.accept(undefined, response.group);
    else if (response.type === "drop") {
      const { start, end, code } = response;
      // An empty drop range refuses the subscription, on wires without resets.
      if (end < start) {
        const reason = nameOf(context, "subscribe", code);
        throw refusedError(track.path, track.name, { reason, moqCode: code });
      }
      const from = context.family === "gomoqt" ? 1 : 0;
      const first = Math.max(0, start - from);
      const last = Math.max(first, end - from);
      track.drop({ first, last }, nameOf(context, "group", code));
    }
  }
}

/** Makes the error of a subscription that the publisher refused or gave up. */
function refusedError(
  path: BroadcastPath,
  name: string,
  { reason, moqCode }: { readonly reason: MoqErrorName; readonly moqCode?: number | undefined },
): MoqError {
  const how = moqCode === undefined ? "it was refused without a code" : `${reason} (${moqCode})`;
  const message = `The subscription to ${path} ${name} ended: ${how}`;
  return new MoqError("subscribe", reason, message, { moqCode, by: "remote" });
}

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
  ): Promise<RequestStream> {
    return openRequest(this.#context, type, { message, signal });
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
    const exchange = await openRequest(context, BidiType.fetch, { message, signal });
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
    const exchange = await openRequest(context, BidiType.track, { message, signal });
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
