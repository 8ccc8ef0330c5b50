/** The subscriber's part of a session: the requests of this side. */
import { within } from "../../base/wait.ts";
import type { AnnouncementReader } from "../track/announcement.ts";
import { GroupReader, type GroupReaderOptions } from "../track/group_reader.ts";
import { closeOnAbort, type MoqSubscribeOptions, TrackReader } from "../track/track_reader.ts";
import { MoqError, type MoqErrorName } from "../wire/errors.ts";
import { type MessageReader, TruncatedError } from "../wire/message_reader.ts";
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
import { Discovery } from "./announce.ts";
import {
  codeOf,
  errorNameOf,
  groupOptions,
  isViolation,
  moqErrorOf,
  type SessionContext,
  unsupported,
} from "./context.ts";
import { type Exchange, openExchange } from "./exchange.ts";

/** The subscriber of a session: sends the requests of this side, and receives the responses. */
export class MoqSubscriber {
  readonly #context: SessionContext;
  readonly #discovery: Discovery;
  readonly #groupOptions: GroupReaderOptions;
  readonly #tracks = new Map<number, TrackReader>();
  /** Removes the signal listeners of fetches. */
  readonly #fetches = new Set<() => void>();
  #nextId = 0;

  constructor(context: SessionContext) {
    this.#context = context;
    this.#discovery = new Discovery(context);
    this.#groupOptions = groupOptions(context);
  }

  /** All open subscriptions. */
  get tracks(): readonly TrackReader[] {
    return [...this.#tracks.values()];
  }

  /** Ends all requests with the session. */
  end(error: unknown): void {
    for (const track of this.#tracks.values()) track.fail(error);
    this.#tracks.clear();
    this.#discovery.end(error);
    for (const release of [...this.#fetches]) release();
  }

  /** Requests the broadcasts below a prefix. */
  announce(
    prefix: BroadcastPath,
    options: { readonly signal?: AbortSignal | undefined },
  ): Promise<AnnouncementReader> {
    return this.#discovery.announce(prefix, options);
  }

  async subscribe(
    path: BroadcastPath,
    name: string,
    options: MoqSubscribeOptions,
  ): Promise<TrackReader> {
    const context = this.#context;
    const { traits } = context;
    const { signal } = options;
    const id = this.#nextId++;
    let exchange: Exchange | undefined = undefined;
    let left: MoqErrorName | undefined = undefined;
    const track = new TrackReader(
      {
        runtime: context.runtime,
        update: async (fields) => {
          try {
            // In such versions, peers treat an update as the end of the subscription.
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
          // Only an abort can carry a reason.
          else exchange?.abort(code);
        },
        info: (how) => this.trackInfo(path, name, how),
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
    // A group may arrive before the reply.
    this.#tracks.set(id, track);
    try {
      exchange = await openExchange(context, BidiType.subscribe, { message, signal });
    } catch (error) {
      this.#tracks.delete(id);
      track.fail(error);
      throw error;
    }
    // The application may have closed the track, found in `subscriptions`, before the stream
    // opened.
    if (left !== undefined) exchange.leave(codeOf(context, "subscribe", left));
    closeOnAbort(track, signal);
    void track.closed.then(() => this.#tracks.delete(id));
    void this.#readResponses(exchange, track);
    return track;
  }

  /** Passes an incoming group to the matching subscription; returns false without a match. */
  take({ subscribeId, sequence }: GroupHeader, reader: MessageReader): boolean {
    const track = this.#tracks.get(subscribeId);
    track?.take(new GroupReader(sequence, reader, this.#groupOptions));
    return track !== undefined;
  }

  async fetch(
    path: BroadcastPath,
    name: string,
    options: {
      readonly group: number;
      readonly priority?: number | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<GroupReader> {
    const context = this.#context;
    const { traits } = context;
    const { group, priority = 0, signal } = options;
    if (!traits.requests) throw unsupported(context, "fetch");
    const wire = wirePath(path, traits.slashedPaths);
    const message = encodeFetch({ path: wire, track: name, priority, group });
    const exchange = await openExchange(context, BidiType.fetch, { message, signal });
    const onAbort = () => reader.cancel();
    const release = (reason?: MoqErrorName) => {
      this.#fetches.delete(release);
      signal?.removeEventListener("abort", onAbort);
      // A publisher that has sent nothing yet sees only the reset.
      if (reason !== undefined) return exchange.abort(codeOf(context, "fetch", reason));
      // Closed only now: moq-rs treats the end of this direction as the end of interest.
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

  /** Requests the fixed properties of a track. */
  async trackInfo(
    path: BroadcastPath,
    name: string,
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<TrackInfoMessage> {
    const context = this.#context;
    const { traits } = context;
    if (!traits.timestamps) throw unsupported(context, "ask for the properties of a track");
    const message = encodeTrackRequest(wirePath(path, traits.slashedPaths), name);
    const exchange = await openExchange(context, BidiType.track, { message, signal });
    try {
      const body = await within(context.runtime, exchange.reader.message(), { signal });
      if (body === undefined) throw rejectedError(path, name, { reason: "unknown" });
      const info = fromWireLatency(decodeTrackInfo(body), context.family);
      exchange.leave(codeOf(context, "subscribe", "cancelled"));
      return info;
    } catch (error) {
      // A publisher that has sent nothing yet sees only the reset.
      exchange.abort(codeOf(context, "subscribe", "cancelled"));
      if (isViolation(error)) context.violated(error);
      throw moqErrorOf(context, "subscribe", error);
    }
  }

  async #readResponses(exchange: Exchange, track: TrackReader): Promise<void> {
    const context = this.#context;
    let hasReplied = false;
    let end: number | undefined;
    try {
      for (let response; (response = await this.#nextResponse(exchange)) !== undefined;) {
        hasReplied = true;
        if (response.type === "end") end = response.group;
        else this.#respond(track, response);
      }
      // In moq-lite-05, only a group or END shows that the subscription was accepted.
      if (!hasReplied && !track.hasBegun) {
        throw rejectedError(track.path, track.name, { reason: "unknown" });
      }
      track.finish(end);
      await exchange.end();
    } catch (error) {
      track.fail(moqErrorOf(context, "subscribe", error));
      exchange.abort(codeOf(context, "subscribe", "cancelled"));
      if (isViolation(error)) context.violated(error);
    }
  }

  async #nextResponse({ reader }: Exchange): Promise<SubscribeResponse | undefined> {
    const { traits } = this.#context;
    const isTyped = hasResponseType(traits);
    const type = isTyped ? await reader.varint() : 0;
    if (type === undefined) return undefined;
    const body = await reader.message();
    if (body !== undefined) return decodeSubscribeResponse(type, body, traits);
    if (isTyped) throw new TruncatedError("Expected a response after its type, received the end");
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
      // An empty drop range rejects the subscription, on transports without resets.
      if (end < start) {
        const reason = errorNameOf(context, "subscribe", code);
        throw rejectedError(track.path, track.name, { reason, moqCode: code });
      }
      const from = context.family === "gomoqt" ? 1 : 0;
      const first = Math.max(0, start - from);
      const last = Math.max(first, end - from);
      track.drop({ first, last }, errorNameOf(context, "group", code));
    }
  }
}

/** Creates the error of a subscription that the publisher rejected or ended. */
function rejectedError(
  path: BroadcastPath,
  name: string,
  { reason, moqCode }: { readonly reason: MoqErrorName; readonly moqCode?: number | undefined },
): MoqError {
  const how = moqCode === undefined ? "it was rejected without a code" : `${reason} (${moqCode})`;
  const message = `The subscription to ${path} ${name} ended: ${how}`;
  return new MoqError("subscribe", reason, message, { moqCode, by: "remote" });
}
