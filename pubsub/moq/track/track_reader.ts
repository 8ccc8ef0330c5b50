/**
 * A subscription, as the subscriber has it.
 *
 * @module
 */
import { GroupQueue } from "./_group_queue.ts";
import { LAST_SEQUENCE, type Sequences } from "./_sequences.ts";
import { Waiters } from "./_waiters.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import { type MissedGroups, MoqLaggedError } from "../wire/errors.ts";
import type { GroupReader } from "./group_reader.ts";
import type { SubscribeFields, TrackInfoMessage } from "../wire/messages.ts";
import type { BroadcastPath } from "../wire/path.ts";
import {
  changedFields,
  maxQueuedGroupsOf,
  subscribeFields,
  type SubscribeOptions,
} from "./subscribe_options.ts";

/**
 * How long after the publisher's end, or after the last group that came behind it, others may still
 * come, on versions that do not tell the last one.
 */
export const END_GRACE_MS = 500;

/** The same where the last one is known, and not all before it came. */
export const END_WAIT_MS = 5_000;

/** Looks after the end of one track. */
class TrackEnd {
  readonly #settled: Sequences;
  readonly #onOver: () => void;
  #first: number | undefined = undefined;
  /** The one behind the last. */
  #end: number | undefined = undefined;
  #timer: ReturnType<typeof setTimeout> | undefined = undefined;

  /** Begins with a track that does not end yet. */
  constructor(settled: Sequences, onOver: () => void) {
    this.#settled = settled;
    this.#onOver = onOver;
  }

  /** The publisher told its first group. */
  begin(first: number): void {
    this.#first = first;
  }

  /** The number behind the last group, as far as somebody told. */
  behind(end: number | undefined): void {
    this.#end = end ?? this.#end;
  }

  /** Something came, or was dropped: it is over, or others may still come. */
  wait(wanted: SubscribeFields): void {
    this.stop();
    if (this.#isWhole(wanted)) return this.#onOver();
    const waitMs = this.#end === undefined ? END_GRACE_MS : END_WAIT_MS;
    this.#timer = setTimeout(() => this.#onOver(), waitMs);
  }

  /** Nothing is waited for any more. */
  stop(): void {
    clearTimeout(this.#timer);
  }

  /** The groups that were wanted, from the first one there is to the last; `undefined` if there are none. */
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

/** What a subscription needs of its session. */
export interface TrackReaderLink {
  /** Sends SUBSCRIBE_UPDATE. */
  update(fields: SubscribeFields): Promise<void>;
  /** Ends the subscription at the publisher. */
  leave(reason: MoqErrorName): void;
  /** Asks for what stays true of the track. */
  info(options: { readonly signal?: AbortSignal }): Promise<TrackInfoMessage>;
  /** Reports what the application threw. */
  report(error: unknown): void;
}

/**
 * The groups of a track: iterate over it. Leaving the loop does not unsubscribe; `close()` and
 * `await using` do.
 *
 * - **Bounded:** a reader that falls behind gets a {@linkcode MoqLaggedError} that says what it missed,
 *   and can go on with another loop.
 * - **Once:** a group that comes a second time, or after it was told as missed, is refused.
 * - **End:** the loop ends once the publisher ended the track, or the last group that was asked for
 *   came, and throws where it was refused or broke, each time that somebody asks. Over Deno's QUIC a session
 *   that closes ends its streams like a clean end: on versions other than `moq-lite-05`, which tells the
 *   end of a track, that may look like the end of the track.
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
  /** Resolves once the publisher accepted, or a group came, or it was closed here; rejects if it was refused. */
  readonly ready: Promise<void>;
  /** Resolves at the end of the track, however it ends. */
  readonly closed: Promise<void>;

  readonly #link: TrackReaderLink;
  readonly #queue: GroupQueue;
  readonly #end: TrackEnd;
  readonly #waiters = new Waiters<GroupReader>(() => this.#takeNow());
  readonly #ready: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #ended: PromiseWithResolvers<void> = Promise.withResolvers();
  #fields: SubscribeFields;
  #accepted: SubscribeFields | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #state: "open" | "ending" | "over" = "open";
  #hasPublisher = true;

  /** Is made by `MoqSession.subscribe()`. */
  constructor(
    link: TrackReaderLink,
    about: { readonly path: BroadcastPath; readonly name: string; readonly id: number },
    options: SubscribeOptions,
  ) {
    this.path = about.path;
    this.name = about.name;
    this.id = about.id;
    this.#link = link;
    this.#fields = subscribeFields(options);
    this.#queue = new GroupQueue({
      maxQueued: maxQueuedGroupsOf(options),
      onMissed: (missed, reason) => {
        try {
          options.onMissed?.(missed, reason);
        } catch (error) {
          link.report(error);
        }
      },
      onGapOver: () => this.#waiters.deliver(),
    });
    this.#end = new TrackEnd(this.#queue.settled, () => this.#over());
    this.#configure();
    this.ready = this.#ready.promise;
    this.ready.catch(() => {});
    this.closed = this.#ended.promise;
  }

  /** What is asked of the publisher. */
  get subscription(): SubscribeFields {
    return this.#fields;
  }

  /** What the publisher answered, on versions whose answer says something. */
  get accepted(): SubscribeFields | undefined {
    return this.#accepted;
  }

  /** What the subscription broke of, or was refused with; `undefined` if it did not. */
  get error(): unknown {
    return this.#failure?.cause;
  }

  /** Whether anything came: the publisher has it. */
  get hasBegun(): boolean {
    return this.#queue.settled.ranges > 0;
  }

  /** Groups that wait for their reader. */
  get queuedGroups(): number {
    return this.#queue.size;
  }

  /**
   * Waits for the next group.
   *
   * @param options Gives up waiting.
   * @returns The group; `null` at the end of the track.
   * @throws {MoqLaggedError} If this reader fell behind; the next call goes on.
   * @throws {MoqError} If the publisher refused or gave up, or the session ended.
   * @throws {ProtocolError} If the publisher broke the protocol.
   */
  nextGroup(options: { readonly signal?: AbortSignal } = {}): Promise<GroupReader | null> {
    return this.#waiters.next(options.signal);
  }

  /** Yields groups until the track ends. Leaving the loop keeps the subscription, and loses no group. */
  [Symbol.asyncIterator](): AsyncIterableIterator<GroupReader> {
    return this.#waiters.loop();
  }

  /**
   * Asks the publisher for the track in another way. At the end of the track it does nothing. On
   * `moq-lite-01` and `-02`, whose peers end the subscription by that message, none is sent: it
   * changes only what this end makes of what comes.
   *
   * @param options What changes; the rest stays.
   * @throws {RangeError} If a value makes no sense.
   * @throws {MoqError} If the subscription ended meanwhile.
   */
  async update(
    options: Pick<
      SubscribeOptions,
      "priority" | "ordered" | "maxLatencyMs" | "startGroup" | "endGroup"
    >,
  ): Promise<void> {
    const fields = changedFields(this.#fields, options);
    if (this.#state !== "open") return;
    this.#fields = fields;
    this.#configure();
    this.#waiters.deliver();
    const sent = this.#link.update(fields);
    this.#endAtLast();
    await sent;
  }

  /**
   * Asks what stays true of the track.
   *
   * @param options Gives up waiting.
   * @returns Its priority, order, cache and timescale.
   * @throws {UnsupportedError} If the version has no such question.
   */
  info(options: { readonly signal?: AbortSignal } = {}): Promise<TrackInfoMessage> {
    return this.#link.info(options);
  }

  /** Unsubscribes. Groups that were not read are cancelled. Idempotent. */
  close(): void {
    this.closeWithError("cancelled");
  }

  /**
   * Unsubscribes, and says why where the wire can.
   *
   * @param reason Why.
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
   * A group came.
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
    this.#waiters.deliver();
    // Who waits all the same waits for a group before these, and for no more of them than that.
    if (this.#queue.shrink()) this.#waiters.deliver();
    if (sequence >= endGroup) this.#endAtLast(sequence);
    else if (this.#state === "ending") this.#end.wait(this.#fields);
  }

  /**
   * The publisher answered.
   *
   * @param fields What it said of the track, where the version has that.
   * @param first The first group, where the version tells it.
   * @ignore
   */
  accept(fields: SubscribeFields | undefined, first?: number): void {
    this.#accepted = fields ?? this.#accepted;
    this.#ready.resolve();
    if (first === undefined) return;
    this.#end.begin(first);
    this.#queue.begin(first);
    this.#waiters.deliver();
  }

  /**
   * The publisher dropped groups.
   *
   * @ignore
   */
  drop({ first, last }: MissedGroups, reason: MoqErrorName): void {
    if (this.#state === "over" || first > LAST_SEQUENCE) return;
    this.#ready.resolve();
    this.#queue.drop(Math.max(first, 0), Math.min(last, LAST_SEQUENCE), reason);
    this.#waiters.deliver();
    if (this.#state === "ending") this.#end.wait(this.#fields);
    else this.#endAtLast();
  }

  /**
   * The publisher ended the track.
   *
   * @param end The number behind the last group, where the version tells it.
   * @ignore
   */
  finish(end: number | undefined): void {
    this.#hasPublisher = false;
    if (this.#state === "over") return;
    this.#state = "ending";
    this.#end.behind(end);
    this.#ready.resolve();
    this.#end.wait(this.#fields);
  }

  /**
   * The subscription broke, or was refused.
   *
   * @ignore
   */
  fail(error: unknown): void {
    this.#hasPublisher = false;
    if (this.#state !== "over") this.#over({ cause: error });
  }

  /** What there is without waiting; `undefined` if there is nothing yet. */
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

  /** The last group that was asked for came, or a later one: those before it are still waited for. */
  #endAtLast(newest: number = this.#queue.settled.highest ?? -1): void {
    const { endGroup } = this.#fields;
    if (this.#state === "over" || endGroup === undefined || newest < endGroup) return;
    this.#state = "ending";
    this.#end.behind(endGroup + 1);
    this.#end.wait(this.#fields);
  }

  #over(failure?: { readonly cause: unknown }, reason?: MoqErrorName): void {
    this.#state = "over";
    this.#end.stop();
    this.#queue.stop();
    if (this.#hasPublisher) this.#link.leave(reason ?? "cancelled");
    this.#failure = failure;
    if (failure === undefined && reason === undefined) this.#tellMissing();
    this.#waiters.deliver();
    if (failure === undefined) this.#ready.resolve();
    else this.#ready.reject(failure.cause);
    this.#ended.resolve();
  }

  /** What is not here at the end will not come. */
  #tellMissing(): void {
    const range = this.#end.range(this.#fields);
    if (range !== undefined) this.#queue.drop(range.first, range.last, "expired");
  }
}
