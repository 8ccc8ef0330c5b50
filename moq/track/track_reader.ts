/** A subscription, on the subscriber's side. */
import { attempt } from "../../base/call_safely.ts";
import { type NumberCheck, type OptionKinds, withDefaults } from "../../base/options/options.ts";
import {
  checkOptions,
  COUNT,
  integer,
  POSITIVE,
  SIGNAL,
} from "../../base/options/option_checks.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { type MissedGroups, type MoqErrorName, MoqLaggedError } from "../wire/errors.ts";
import type { SubscribeFields, TrackInfoMessage } from "../wire/messages.ts";
import type { BroadcastPath } from "../wire/path.ts";
import { GroupQueue, type GroupSequences, LAST_SEQUENCE } from "./group_queue.ts";
import type { GroupReader } from "./group_reader.ts";
import { PendingReads } from "./loops.ts";

/** The options for a subscription to a track. */
export interface MoqSubscribeOptions {
  /**
   * 0 to 255; tracks with a higher priority are sent first.
   *
   * @default {0}
   */
  readonly priority?: number | undefined;
  /**
   * Sends older groups first, and yields groups in the order of their numbers. Otherwise newer
   * groups are sent first, and groups are yielded as they arrive.
   *
   * A group waits for missing groups before it, up to `maxLatencyMs`, or one second if there is no
   * limit.
   *
   * @default {false}
   */
  readonly ordered?: boolean | undefined;
  /**
   * The maximum age of a wanted group relative to the newest one, in milliseconds; 0 for no limit.
   * With `ordered`, also the longest wait for a group.
   *
   * @default {0}
   */
  readonly maxLatencyMs?: number | undefined;
  /**
   * The first group.
   *
   * In versions that cannot send it to the publisher, this side rejects earlier groups.
   *
   * @default {the newest}
   */
  readonly startGroup?: number | undefined;
  /**
   * The last group.
   *
   * The track ends once all groups up to the last one have arrived or were dropped.
   *
   * @default {unlimited}
   */
  readonly endGroup?: number | undefined;
  /**
   * The maximum number of groups that wait for the reader; beyond it, the oldest group is dropped,
   * and the reader receives an error.
   *
   * @default {1024}
   */
  readonly maxQueuedGroups?: number | undefined;
  /** Unsubscribes when aborted. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Receives groups that will not arrive: dropped by the publisher, or still missing after the
   * wait. If it throws or rejects, the session's `onError` receives the error.
   */
  readonly onMissed?: ((missed: MissedGroups, reason: MoqErrorName) => void) | undefined;
}

/** Check of a group number: the protocol sends each number plus one. */
export const SEQUENCE: NumberCheck = integer(0, Number.MAX_SAFE_INTEGER - 1);

/** Check of the priority of a track. */
export const PRIORITY: NumberCheck = integer(0, 255);

export const UPDATE: OptionKinds<Parameters<TrackReader["update"]>[0]> = {
  endGroup: SEQUENCE,
  maxLatencyMs: COUNT,
  ordered: "boolean",
  priority: PRIORITY,
  startGroup: SEQUENCE,
};

export const SUBSCRIBE: OptionKinds<MoqSubscribeOptions> = {
  ...UPDATE,
  maxQueuedGroups: POSITIVE,
  onMissed: "function",
  signal: "AbortSignal",
};

const MAX_QUEUED_GROUPS = 1_024;

/**
 * Fills in the defaults of a subscription.
 *
 * @throws {RangeError} If a value is out of range.
 */
export function subscribeFields(options: MoqSubscribeOptions): SubscribeFields {
  const { priority = 0, ordered = false, maxLatencyMs = 0, startGroup, endGroup } = options;
  if (startGroup !== undefined && endGroup !== undefined && endGroup < startGroup) {
    throw new RangeError(
      `Cannot subscribe: endGroup must be at least startGroup (${startGroup}), received ${endGroup}`,
    );
  }
  return { priority, ordered, maxLatencyMs, startGroup, endGroup };
}

/**
 * Changes the fields of a subscription.
 *
 * @param changes The fields to change; absent or undefined fields stay.
 * @throws {RangeError} If a value is out of range.
 */
function changedFields(
  fields: SubscribeFields,
  changes: Partial<SubscribeFields>,
): SubscribeFields {
  return subscribeFields(withDefaults(fields, changes));
}

/**
 * The time after the publisher's end, or after a later group, in which more groups may arrive, in
 * versions that do not send the number of the last group, in milliseconds.
 */
export const END_GRACE_MS = 500;

/** The time to wait for missing groups when the last number is known, in milliseconds. */
export const END_WAIT_MS = 5_000;

class TrackEnd {
  readonly #runtime: Runtime;
  readonly #settled: GroupSequences;
  readonly #onOver: () => void;
  #first: number | undefined = undefined;
  /** The number after the last group. */
  #end: number | undefined = undefined;
  #timer: Timer | undefined = undefined;

  constructor(runtime: Runtime, settled: GroupSequences, onOver: () => void) {
    this.#runtime = runtime;
    this.#settled = settled;
    this.#onOver = onOver;
  }

  /** Sets the first group, as sent by the publisher. */
  begin(first: number): void {
    this.#first = first;
  }

  /** Sets the number after the last group, if known. */
  setEnd(end: number | undefined): void {
    this.#end = end ?? this.#end;
  }

  /** Ends the track if all groups are settled; otherwise starts to wait for more. */
  wait(wanted: SubscribeFields): void {
    this.stop();
    if (this.#isWhole(wanted)) return this.#onOver();
    const waitMs = this.#end === undefined ? END_GRACE_MS : END_WAIT_MS;
    this.#timer = this.#runtime.setTimeout(() => this.#onOver(), waitMs);
  }

  stop(): void {
    this.#runtime.clearTimeout(this.#timer);
  }

  /**
   * The range of wanted groups, from the publisher's first one to the last; `undefined` if it is
   * empty.
   */
  range({ startGroup, endGroup = Infinity }: SubscribeFields): MissedGroups | undefined {
    const { lowest, highest = -1 } = this.#settled;
    const first = this.#first ?? startGroup ?? lowest;
    if (first === undefined) return undefined;
    const begin = Math.max(startGroup ?? 0, Math.min(first, lowest ?? first));
    const last = Math.min(this.#end === undefined ? highest : this.#end - 1, endGroup);
    return last < begin ? undefined : { first: begin, last };
  }

  #isWhole(wanted: SubscribeFields): boolean {
    if (this.#end === undefined) return false;
    const range = this.range(wanted);
    return range === undefined || this.#settled.has(range.first, range.last);
  }
}

/** The session's side of a subscription. */
export interface TrackReaderLink {
  readonly runtime: Runtime;
  /** Sends SUBSCRIBE_UPDATE. */
  update(fields: SubscribeFields): Promise<void>;
  /** Ends the subscription at the publisher. */
  leave(reason: MoqErrorName): void;
  /** Requests the fixed properties of the track. */
  info(options: { readonly signal?: AbortSignal | undefined }): Promise<TrackInfoMessage>;
  /** Reports an error of the application. */
  report(error: unknown): void;
}

/**
 * The groups of a track, to iterate over. Leaving the loop does not unsubscribe; `close()` and
 * `await using` do.
 *
 * - **Bounded:** a reader that falls behind receives a {@linkcode MoqLaggedError} with the missed
 *   groups, and can continue with another loop.
 * - **Once:** a second copy of a group, or a group that was reported as missed, is rejected.
 * - **End:** the loop ends once the publisher has ended the track, or the last requested group has
 *   arrived. After a rejection or failure, the loop and every later read throw. Over Deno's QUIC
 *   the streams of a closing session appear to end cleanly, which may look like the end of the
 *   track. Only `moq-lite-05` marks the end of a track.
 *
 * @example A range of groups, in order
 * ```ts
 * import { MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/live", async (track) => {
 *   while (!track.isClosed) {
 *     const group = await track.openGroup();
 *     await group.writeFrame(Uint8Array.of(group.sequence));
 *     await group.close();
 *   }
 * });
 * const pair = memoryPair({ protocol: "moq-lite-05" });
 * const [server, client] = await Promise.all([
 *   MoqSession.open(pair.server, { side: "server", mux }),
 *   MoqSession.open(pair.client, { side: "client" }),
 * ]);
 *
 * const options = { startGroup: 3, endGroup: 5, ordered: true };
 * await using track = await client.subscribe("/live", "video", options);
 * const numbers: number[] = [];
 * for await (const group of track) {
 *   numbers.push(group.sequence);
 *   for await (const frame of group) assertEquals(frame, Uint8Array.of(group.sequence));
 * }
 * assertEquals(numbers, [3, 4, 5]);
 * client.close();
 * await server.closed;
 * ```
 */
export class TrackReader implements AsyncIterable<GroupReader>, AsyncDisposable {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** The track. */
  readonly name: string;
  /** The number of the subscription. */
  readonly id: number;
  /**
   * Resolves once the publisher has accepted, a group has arrived, or this side has closed the
   * track; rejects if the subscription is rejected.
   */
  readonly ready: Promise<void>;
  /** Resolves when the track ends, with or without an error. */
  readonly closed: Promise<void>;

  readonly #link: TrackReaderLink;
  readonly #queue: GroupQueue;
  readonly #end: TrackEnd;
  readonly #reads = new PendingReads<GroupReader>(() => this.#takeNow());
  readonly #ready: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #ended: PromiseWithResolvers<void> = Promise.withResolvers();
  #fields: SubscribeFields;
  #accepted: SubscribeFields | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #state: "open" | "ending" | "over" = "open";
  #hasPublisher = true;

  /** Called by `MoqSession.subscribe()`. */
  constructor(
    link: TrackReaderLink,
    about: { readonly path: BroadcastPath; readonly name: string; readonly id: number },
    options: MoqSubscribeOptions,
  ) {
    this.path = about.path;
    this.name = about.name;
    this.id = about.id;
    this.#link = link;
    this.#fields = subscribeFields(options);
    this.#queue = new GroupQueue({
      runtime: link.runtime,
      maxQueued: options.maxQueuedGroups ?? MAX_QUEUED_GROUPS,
      onMissed: (missed, reason) => this.notify(() => options.onMissed?.(missed, reason)),
      onGapOver: () => this.#reads.deliver(),
    });
    this.#end = new TrackEnd(link.runtime, this.#queue.settled, () => this.#over());
    this.#configure();
    this.ready = this.#ready.promise;
    this.ready.catch(() => {});
    this.closed = this.#ended.promise;
  }

  /**
   * Calls the application. The session's `onError` receives its error.
   *
   * @ignore
   */
  notify(call: () => unknown): void {
    attempt(call, (error) => this.#link.report(error));
  }

  /** The requested fields. */
  get subscription(): SubscribeFields {
    return this.#fields;
  }

  /** The publisher's reply, in versions whose reply has fields. */
  get accepted(): SubscribeFields | undefined {
    return this.#accepted;
  }

  /** The error that rejected or ended the subscription; `undefined` without an error. */
  get error(): unknown {
    return this.#failure?.cause;
  }

  /** True once a group has arrived or was dropped: the publisher has the track. */
  get hasBegun(): boolean {
    return this.#queue.settled.ranges > 0;
  }

  /** Groups that wait for the reader. */
  get queuedGroups(): number {
    return this.#queue.size;
  }

  /**
   * Waits for the next group.
   *
   * @param options A signal to end the wait.
   * @returns The group; `null` at the end of the track.
   * @throws {MoqLaggedError} If this reader has fallen behind; the next call continues.
   * @throws {MoqError} If the publisher rejected or aborted the track, or the session closed.
   * @throws {ProtocolError} If the publisher violated the protocol.
   */
  nextGroup(
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<GroupReader | null> {
    checkOptions("read group", options, SIGNAL);
    return this.#reads.next(options.signal);
  }

  /**
   * Yields groups until the track ends. Leaving the loop keeps the subscription, and loses no
   * group.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<GroupReader> {
    return this.#reads.loop();
  }

  /**
   * Changes the subscription. After the end of the track, this has no effect. In `moq-lite-01` and
   * `-02` the change only affects this side, and no message is sent, because peers treat it as the
   * end of the subscription.
   *
   * @param options The options to change.
   * @throws {RangeError} If a value is out of range.
   * @throws {MoqError} If the subscription ends before the change is sent.
   */
  async update(
    options: Pick<
      MoqSubscribeOptions,
      "priority" | "ordered" | "maxLatencyMs" | "startGroup" | "endGroup"
    >,
  ): Promise<void> {
    checkOptions("update subscription", options, UPDATE);
    const fields = changedFields(this.#fields, options);
    if (this.#state !== "open") return;
    this.#fields = fields;
    this.#configure();
    this.#reads.deliver();
    const sent = this.#link.update(fields);
    this.#endAtLast();
    await sent;
  }

  /**
   * Requests the fixed properties of the track.
   *
   * @param options A signal to end the wait.
   * @returns The priority, order, cache and timescale of the track.
   * @throws {UnsupportedError} If the version has no such request.
   */
  info(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<TrackInfoMessage> {
    checkOptions("read track info", options, SIGNAL);
    return this.#link.info(options);
  }

  /** Unsubscribes. Unread groups are cancelled. Idempotent. */
  close(): void {
    this.closeWithError("cancelled");
  }

  /**
   * Unsubscribes with a reason, if the transport can carry one.
   *
   * @param reason The reason for the publisher.
   */
  closeWithError(reason: MoqErrorName): void {
    if (this.#state !== "over") this.#over(undefined, reason);
    this.#queue.clear(reason);
  }

  /** Unsubscribes; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /**
   * Accepts an incoming group.
   *
   * @ignore
   */
  take(group: GroupReader): void {
    if (this.#state === "over") return group.cancel();
    const { sequence } = group;
    const { startGroup = 0, endGroup = LAST_SEQUENCE } = this.#fields;
    this.#ready.resolve();
    if (sequence < startGroup || sequence > endGroup) group.cancel("outOfRange");
    else this.#queue.put(group);
    this.#reads.deliver();
    // A reader that is still waiting lacks an earlier group, which `shrink()` may drop.
    if (this.#queue.shrink()) this.#reads.deliver();
    if (sequence >= endGroup) this.#endAtLast(sequence);
    else if (this.#state === "ending") this.#end.wait(this.#fields);
  }

  /**
   * Handles the publisher's reply.
   *
   * @param fields The properties of the track, in versions that send them.
   * @param first The first group, in versions that send its number.
   * @ignore
   */
  accept(fields: SubscribeFields | undefined, first?: number): void {
    this.#accepted = fields ?? this.#accepted;
    this.#ready.resolve();
    if (first === undefined) return;
    this.#end.begin(first);
    this.#queue.begin(first);
    this.#reads.deliver();
  }

  /**
   * Handles groups that the publisher dropped.
   *
   * @ignore
   */
  drop({ first, last }: MissedGroups, reason: MoqErrorName): void {
    if (this.#state === "over" || first > LAST_SEQUENCE) return;
    this.#ready.resolve();
    this.#queue.drop(Math.max(first, 0), Math.min(last, LAST_SEQUENCE), reason);
    this.#reads.deliver();
    if (this.#state === "ending") this.#end.wait(this.#fields);
    else this.#endAtLast();
  }

  /**
   * Ends the track after the publisher has ended it.
   *
   * @param end The number after the last group, in versions that send it.
   * @ignore
   */
  finish(end: number | undefined): void {
    this.#hasPublisher = false;
    if (this.#state === "over") return;
    this.#state = "ending";
    this.#end.setEnd(end);
    this.#ready.resolve();
    this.#end.wait(this.#fields);
  }

  /**
   * Ends the track after a failure or rejection.
   *
   * @ignore
   */
  fail(error: unknown): void {
    this.#hasPublisher = false;
    if (this.#state !== "over") this.#over({ cause: error });
  }

  /** Takes the next group or the end; `undefined` if there is neither yet. */
  #takeNow(): GroupReader | null | undefined {
    const missed = this.#queue.takeLag();
    if (missed !== undefined) throw this.#lagged(missed);
    const isOver = this.#state === "over";
    const group = this.#queue.take(isOver);
    if (group !== undefined || !isOver) return group;
    if (this.#failure !== undefined) throw this.#failure.cause;
    return null;
  }

  #lagged(missed: MissedGroups): MoqLaggedError {
    const { first, last } = missed;
    const groups = first === last ? `group ${first}` : `groups ${first} to ${last}`;
    const message = `The reader of ${this.path} ${this.name} fell behind and missed ${groups}`;
    return new MoqLaggedError(message, missed);
  }

  #configure(): void {
    const { ordered, maxLatencyMs, startGroup } = this.#fields;
    this.#queue.configure(ordered, maxLatencyMs);
    if (startGroup !== undefined) this.#queue.begin(startGroup);
  }

  /**
   * Ends the track after the last requested group, or a later one, has arrived, but still waits for
   * missing groups before it.
   */
  #endAtLast(newest: number = this.#queue.settled.highest ?? -1): void {
    const { endGroup } = this.#fields;
    if (this.#state === "over" || endGroup === undefined || newest < endGroup) return;
    this.#state = "ending";
    this.#end.setEnd(endGroup + 1);
    this.#end.wait(this.#fields);
  }

  #over(failure?: { readonly cause: unknown }, reason?: MoqErrorName): void {
    this.#state = "over";
    this.#end.stop();
    this.#queue.stop();
    if (this.#hasPublisher) this.#link.leave(reason ?? "cancelled");
    this.#failure = failure;
    if (failure === undefined && reason === undefined) this.#reportMissing();
    this.#reads.deliver();
    if (failure === undefined) this.#ready.resolve();
    else this.#ready.reject(failure.cause);
    this.#ended.resolve();
  }

  #reportMissing(): void {
    const range = this.#end.range(this.#fields);
    if (range !== undefined) this.#queue.drop(range.first, range.last, "expired");
  }
}

export function closeOnAbort(track: TrackReader, signal: AbortSignal | undefined): void {
  if (signal === undefined) return;
  const onAbort = () => track.close();
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) track.close();
  void track.closed.then(() => signal.removeEventListener("abort", onAbort));
}
