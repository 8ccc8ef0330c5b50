/** Subscribes to tracks of a peer. */
import {
  codeOf,
  isViolation,
  moqErrorOf,
  nameOf,
  openExchange,
  type SessionContext,
} from "./_context.ts";
import type { Exchange } from "./_exchange.ts";
import { fromWireLatency, toWireLatency } from "./_latency.ts";
import { TruncatedError } from "../wire/message_reader.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import type { GroupReader } from "../track/group_reader.ts";
import {
  BidiType,
  decodeSubscribeResponse,
  encodeSubscribe,
  encodeSubscribeUpdate,
  hasResponseType,
  type SubscribeResponse,
  type TrackInfoMessage,
} from "../wire/messages.ts";
import { type BroadcastPath, wirePath } from "../wire/path.ts";
import type { SubscribeOptions } from "../track/subscribe_options.ts";
import { TrackReader } from "../track/track_reader.ts";

/** The track to subscribe to. */
interface Wanted {
  readonly path: BroadcastPath;
  readonly name: string;
  /** Asks for the fixed properties of the track. */
  readonly info: (options: { readonly signal?: AbortSignal }) => Promise<TrackInfoMessage>;
}

/** The subscriptions of this end. */
export class Subscribing {
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
    let exchange: Exchange | undefined = undefined;
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
      exchange = await openExchange(context, BidiType.subscribe, { message, signal });
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

  async #readResponses(exchange: Exchange, track: TrackReader): Promise<void> {
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

  async #nextResponse({ reader }: Exchange): Promise<SubscribeResponse | undefined> {
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
export function refusedError(
  path: BroadcastPath,
  name: string,
  { reason, moqCode }: { readonly reason: MoqErrorName; readonly moqCode?: number | undefined },
): MoqError {
  const how = moqCode === undefined ? "it was refused without a code" : `${reason} (${moqCode})`;
  const message = `The subscription to ${path} ${name} ended: ${how}`;
  return new MoqError("subscribe", reason, message, { moqCode, by: "remote" });
}
