/** The subscriber's part of a session in the IETF's drafts. */
import type { GroupReaderOptions } from "../../track/group_reader.ts";
import { closeOnAbort, type MoqSubscribeOptions, TrackReader } from "../../track/track_reader.ts";
import { doneName, MoqError, type MoqErrorName, moqErrorName } from "../../wire/errors.ts";
import {
  checkTrackName,
  decodePublishDone,
  decodeRequestError,
  decodeRequestOk,
  decodeSubscribeOk,
  type DraftMessage,
  DraftType,
  encodeDraftSubscribe,
  encodeRequestUpdate,
  type PublishDoneMessage,
  readDraftMessage,
  unexpected,
} from "../../wire/ietf/messages.ts";
import type { DraftParameters } from "../../wire/ietf/parameters.ts";
import { readSubgroupHead, type SubgroupHead } from "../../wire/ietf/subgroup.ts";
import type { MessageReader } from "../../wire/message_reader.ts";
import type { SubscribeFields } from "../../wire/messages.ts";
import type { BroadcastPath } from "../../wire/path.ts";
import { groupOptions, moqErrorOf, unsupported } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import type { DraftPeer } from "./peer.ts";
import { ReceivedTrack } from "./received_track.ts";

/**
 * The maximum number of data streams that wait for the response to a subscription, which names
 * their track; further ones are cancelled.
 */
export const MAX_EARLY_STREAMS = 64;

interface EarlyStream {
  readonly head: SubgroupHead;
  readonly reader: MessageReader;
}

/** The subscriptions of this side. */
export class DraftSubscriber {
  readonly #peer: DraftPeer;
  readonly #groupOptions: GroupReaderOptions;
  readonly #tracks = new Set<TrackReader>();
  /** The received tracks by alias. */
  readonly #received = new Map<number, ReceivedTrack>();
  #early: EarlyStream[] = [];
  /** The subscriptions without a response. */
  #pending = 0;

  constructor(peer: DraftPeer) {
    this.#peer = peer;
    this.#groupOptions = groupOptions(peer.context);
  }

  /** All open subscriptions. */
  get tracks(): readonly TrackReader[] {
    return [...this.#tracks];
  }

  /** Ends all subscriptions with the session. */
  end(error: unknown): void {
    for (const track of this.#tracks) track.fail(error);
    this.#tracks.clear();
    this.#received.clear();
    this.#early = [];
  }

  async subscribe(
    path: BroadcastPath,
    name: string,
    options: MoqSubscribeOptions,
  ): Promise<TrackReader> {
    const peer = this.#peer;
    const { signal } = options;
    checkTrackName(path, name);
    const requestId = peer.nextId();
    let exchange: Exchange | undefined;
    let left: number | undefined;
    const updates = new RequestUpdates(peer);
    const track = createReader(peer, { path, name, id: requestId }, {
      options,
      update: (parameters) => updates.send(parameters),
      leave(reason) {
        left = peer.streamCode(reason);
        exchange?.leave(left);
      },
    });
    const parameters = parametersOf(track.subscription);
    const message = encodeDraftSubscribe({ requestId, path, track: name, parameters }, peer.draft);
    this.add(track);
    this.#pending++;
    try {
      exchange = await peer.open(message, { signal });
    } catch (error) {
      this.#responded();
      track.fail(error);
      throw error;
    }
    // The application may have closed the track before the stream opened.
    if (left !== undefined) exchange.leave(left);
    closeOnAbort(track, signal);
    void this.#follow(exchange, track, updates);
    return track;
  }

  /**
   * Registers a track that the peer sends.
   *
   * @returns The track, and a function that removes it.
   * @throws {MoqError} If another track has the alias.
   */
  register(alias: number): { readonly received: ReceivedTrack; readonly remove: () => void } {
    if (this.#received.has(alias)) {
      const message = `Expected a new alias of a track, received ${alias}`;
      throw new MoqError("session", "duplicateAlias", message);
    }
    const received = new ReceivedTrack(this.#peer, this.#groupOptions);
    this.#received.set(alias, received);
    return { received, remove: () => void this.#received.delete(alias) };
  }

  /** Passes waiting data streams to a track that now has a reader. */
  deliverEarly(alias: number, received: ReceivedTrack): void {
    const early = this.#early;
    this.#early = early.filter(({ head }) => head.alias !== alias);
    for (const { head, reader } of early) if (head.alias === alias) received.take(head, reader);
  }

  /** Accepts a data stream, after its type. */
  async take(
    type: number,
    reader: MessageReader,
    cancel: (reason: MoqErrorName) => void,
  ): Promise<void> {
    const head = await readSubgroupHead(type, reader);
    const received = this.#received.get(head.alias);
    if (received !== undefined) return received.take(head, reader);
    if (this.#pending === 0 || this.#early.length >= MAX_EARLY_STREAMS) {
      return cancel("invalidSubscribeId");
    }
    this.#early.push({ head, reader });
  }

  /** Counts a response; data streams that still have no track are cancelled after the last one. */
  #responded(): void {
    if (--this.#pending > 0) return;
    const streamErrorCode = this.#peer.streamCode("cancelled");
    for (const { reader } of this.#early.splice(0)) reader.cancel({ streamErrorCode });
  }

  /** Counts a subscription until it ends. */
  add(track: TrackReader): void {
    this.#tracks.add(track);
    void track.closed.then(() => this.#tracks.delete(track));
  }

  async #follow(exchange: Exchange, track: TrackReader, updates: RequestUpdates): Promise<void> {
    const peer = this.#peer;
    const { path, name } = track;
    let isPending = true;
    const responded = () => {
      if (isPending) this.#responded();
      isPending = false;
    };
    let remove: (() => void) | undefined;
    try {
      const response = await readDraftMessage(exchange.reader);
      if (response?.type === DraftType.requestError) throw rejectionOf(track, response);
      if (response?.type !== DraftType.subscribeOk) throw unexpected(response, "SUBSCRIBE_OK");
      const { alias, isUnsupported } = decodeSubscribeOk(response.body, peer.draft);
      if (isUnsupported) throw unsupportedTrack(track);
      const registered = this.register(alias);
      remove = registered.remove;
      registered.received.reader = track;
      track.accept(undefined);
      updates.accepted(exchange);
      this.deliverEarly(alias, registered.received);
      responded();
      const { received } = registered;
      await followTrack(peer, exchange, { name: `${path} ${name}`, received, updates });
      await exchange.end();
      await track.closed;
    } catch (error) {
      track.fail(moqErrorOf(peer.context, "subscribe", error));
      peer.failed(exchange, error);
    } finally {
      responded();
      remove?.();
    }
  }
}

/**
 * Reads the messages about a track until its end.
 *
 * @throws {MoqError} If the publisher ended the track with an error, or without a reason.
 */
export async function followTrack(
  peer: DraftPeer,
  exchange: Exchange,
  { name, received, updates }: {
    /** The track, for errors. */
    readonly name: string;
    readonly received: ReceivedTrack;
    readonly updates: RequestUpdates;
  },
): Promise<void> {
  for (let message; (message = await readDraftMessage(exchange.reader)) !== undefined;) {
    const { type, body } = message;
    if (type === DraftType.publishDone) {
      const done = decodePublishDone(body);
      const reason = doneName(done.code);
      if (reason !== "none" && reason !== "outOfRange") throw endError(name, reason, done);
      return received.done(done);
    }
    if (type === DraftType.requestOk) {
      decodeRequestOk(body, peer.draft);
      updates.responded();
    } else if (type === DraftType.requestError) {
      // PUBLISH_DONE follows.
      decodeRequestError(body);
    } else if (type !== DraftType.goaway && type !== DraftType.publishState) {
      throw unexpected(message, "PUBLISH_DONE");
    }
  }
  throw endError(name, "unknown");
}

/** The changes of a request: one at a time, because a peer may limit unanswered ones. */
export class RequestUpdates {
  readonly #peer: DraftPeer;
  /** The request; `undefined` until it is accepted. */
  #exchange: Exchange | undefined;
  #isWaiting = false;
  /** Changes that were not sent yet. */
  #next: DraftParameters | undefined = undefined;

  constructor(peer: DraftPeer, exchange?: Exchange) {
    this.#peer = peer;
    this.#exchange = exchange;
  }

  /** Sends a change now, or together with later ones after the response to the last one. */
  async send(parameters: DraftParameters): Promise<void> {
    const exchange = this.#exchange;
    if (this.#isWaiting || exchange === undefined) {
      this.#next = { ...this.#next, ...parameters };
      return;
    }
    this.#isWaiting = true;
    const { draft } = this.#peer;
    await exchange.write(
      encodeRequestUpdate({ requestId: this.#peer.nextId(), parameters }, draft),
    );
  }

  /** Called once the peer has accepted the request: its response precedes those to changes. */
  accepted(exchange: Exchange): void {
    this.#exchange = exchange;
    this.responded();
  }

  /** Called once the peer has accepted the last change. */
  responded(): void {
    this.#isWaiting = false;
    const next = this.#next;
    this.#next = undefined;
    // If the write fails, the next read reports it.
    if (next !== undefined) this.send(next).catch(() => {});
  }
}

/** Creates the reader of a track, whose changes become parameters. */
export function createReader(
  peer: DraftPeer,
  about: { readonly path: BroadcastPath; readonly name: string; readonly id: number },
  { options, update, leave }: {
    readonly options: MoqSubscribeOptions;
    update(parameters: DraftParameters): Promise<void>;
    leave(reason: MoqErrorName): void;
  },
): TrackReader {
  const { context } = peer;
  return new TrackReader(
    {
      runtime: context.runtime,
      leave,
      async update(fields) {
        try {
          // The order of groups cannot change.
          const { order: _order, ...parameters } = parametersOf(fields);
          await update(parameters);
        } catch (error) {
          throw moqErrorOf(context, "subscribe", error);
        }
      },
      info: () => Promise.reject(unsupported(context, "ask for the properties of a track")),
      report: (error) => context.report(error),
    },
    about,
    options,
  );
}

/** The highest priority of the drafts' numbers is 0, that of this library's 255. */
const LOWEST_PRIORITY = 255;

/** Converts the fields of a subscription. */
export function parametersOf(fields: SubscribeFields): DraftParameters {
  const { priority, ordered, maxLatencyMs, startGroup, endGroup } = fields;
  const hasRange = startGroup !== undefined || endGroup !== undefined;
  const start = { group: startGroup ?? 0, object: 0 };
  return {
    subgroupTimeoutMs: maxLatencyMs === 0 ? undefined : maxLatencyMs,
    priority: LOWEST_PRIORITY - priority,
    filter: hasRange ? { from: "start", start, endGroup } : undefined,
    order: ordered ? "ascending" : "descending",
  };
}

function rejectionOf({ path, name }: TrackReader, { body }: DraftMessage): MoqError {
  const { code, reason: text } = decodeRequestError(body);
  const reason = moqErrorName("subscribe", code, "moqt");
  const words = `The subscription to ${path} ${name} was rejected: ${reason} (${code})`;
  const message = text === "" ? words : `${words}: ${text}`;
  return new MoqError("subscribe", reason, message, { moqCode: code, by: "remote" });
}

function endError(name: string, reason: MoqErrorName, done?: PublishDoneMessage): MoqError {
  const how = done === undefined ? "without a code" : `${reason} (${done.code})`;
  const text = done === undefined || done.reason === "" ? "" : `: ${done.reason}`;
  const message = `The subscription to ${name} ended: ${how}${text}`;
  return new MoqError("subscribe", reason, message, { moqCode: done?.code, by: "remote" });
}

function unsupportedTrack({ path, name }: TrackReader): MoqError {
  const message = `Cannot subscribe to ${path} ${name}: the track requires an unknown extension`;
  return new MoqError("subscribe", "unsupportedExtension", message);
}
