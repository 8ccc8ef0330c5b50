/** A subscription, on the publisher's side. */
import { checkOptions, SIGNAL, TIME } from "../../base/options/option_checks.ts";
import { TimeoutError } from "../../errors.ts";
import { LinkedList } from "../../base/linked_list.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import type { DirectWritable } from "../../transport/connection.ts";
import { type MissedGroups, MoqError, type MoqErrorName } from "../wire/errors.ts";
import type { FrameCodec } from "../wire/frames.ts";
import type { SubscribeFields } from "../wire/messages.ts";
import type { BroadcastPath } from "../wire/path.ts";
import type { WriteBuffers } from "./frame_buffer.ts";
import { LAST_SEQUENCE } from "./group_queue.ts";
import { GroupWriter, type GroupWriterOptions } from "./group_writer.ts";
import { LatestValue } from "./loops.ts";

/** The properties of a subscriber's session that relays read. */
export interface SubscriberSession {
  readonly side: "client" | "server";
  /**
   * The fraction of a relay's slots that `authorize` granted to the peer; `undefined` for the
   * relay's default.
   */
  readonly share: number | undefined;
  /** Network address of the peer, if known. */
  readonly address: string | undefined;
}

/** The session's side of a subscription at the publisher. */
export interface TrackWriterLink {
  readonly runtime: Runtime;
  readonly session: SubscriberSession;
  /** The encoding of groups. */
  readonly frames: FrameCodec;
  /** The transport reports a reset to the peer. */
  readonly resets: boolean;
  /** Memory for waiting frames. */
  readonly buffers: WriteBuffers;
  /** Writer of the response, if the track represents a fetch: the only group that can be opened. */
  readonly fetched?: GroupWriter | undefined;
  /** Opens a stream for a group. */
  open(sendOrder: number): Promise<DirectWritable>;
  /**
   * Accepts the subscription. If it is accepted before there is a group, a second call with the first
   * group follows, which only sends the group's number, if the version has a message for it.
   */
  accept(fields: SubscribeFields, firstGroup: number | undefined): void;
  /** Reports that groups will not be sent, if the version has such a message. */
  drop(missed: MissedGroups, reason: MoqErrorName): void;
  /** Ends the subscription with the number after the last group, or with an error. */
  end(last: number, reason: MoqErrorName | undefined): Promise<void>;
  codeOf(scope: "group" | "subscribe", reason: MoqErrorName): number;
  /** Creates the error of a stream that the subscriber ended. */
  errorOf(error: unknown): unknown;
  /**
   * Called with the number of groups that the connection holds, after each change.
   *
   * @returns The reason if there is no room for so many.
   */
  weigh(groups: number): MoqErrorName | undefined;
  /** Closes the subscriber's session: the only way to free its memory on some transports. */
  closeSession(message: string): void;
}

/**
 * The maximum number of a subscription's groups that wait for a stream. The same maximum applies
 * separately to closed groups that wait to be sent. Beyond it the writer must wait. With a thousand
 * groups at once, the overhead would exceed the data.
 */
export const MAX_OPENING_GROUPS = 64;

/**
 * The maximum number of groups that a waiting writer may open in one turn of the event loop. Deno's
 * QUIC accepts 10 MB at once and sends only between turns: without this limit, a writer would block
 * the whole process until the 10 MB are full.
 */
export const MAX_GROUPS_PER_TURN = 64;

/** Counts the groups of one subscription. */
export class GroupLimit {
  readonly #runtime: Runtime;
  #opening = 0;
  /** Closed groups that the connection has not accepted yet. */
  #unsent = 0;
  #inTurn = 0;
  #isTurnWatched = false;
  /** True if a writer had to wait in this turn. */
  #hasWaited = false;
  #isSaturated = false;
  /** Waiting writers, in the order of their calls. */
  readonly #waiters = new Set<() => void>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** True if another group must wait. */
  get isFull(): boolean {
    return this.#opening >= MAX_OPENING_GROUPS || this.#unsent >= MAX_OPENING_GROUPS ||
      this.#inTurn >= MAX_GROUPS_PER_TURN;
  }

  /** True if a writer had to wait in this or the previous turn of the event loop. */
  get isSaturated(): boolean {
    return this.#isSaturated;
  }

  /** Counts a group that requests a stream. */
  opening(): void {
    this.#opening++;
    this.#inTurn++;
    if (!this.#isTurnWatched) this.#watchTurn();
  }

  /** Counts a group that got a stream, or failed to get one. */
  opened(): void {
    this.#opening--;
    this.#wakeOne();
  }

  /** Counts a group that was closed. */
  closing(): void {
    this.#unsent++;
  }

  /** Counts a closed group that the connection has accepted, or that was aborted. */
  sent(): void {
    this.#unsent--;
    this.#wakeOne();
  }

  /**
   * Waits until a count changes.
   *
   * @throws The reason of the signal, if aborted.
   */
  async wait(signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = () => {
      // A waiter that stopped waiting must not consume a wake-up.
      this.#waiters.delete(resolve);
      reject(signal!.reason);
    };
    this.#waiters.add(resolve);
    this.#hasWaited = this.#isSaturated = true;
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await promise;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Wakes all waiting writers. */
  wakeAll(): void {
    for (const wake of this.#waiters) wake();
    this.#waiters.clear();
  }

  #watchTurn(): void {
    this.#isTurnWatched = true;
    this.#runtime.schedule(() => {
      this.#isTurnWatched = false;
      this.#isSaturated = this.#hasWaited;
      this.#hasWaited = false;
      if (this.#inTurn === 0) return;
      this.#inTurn = 0;
      // The next turn may show that no writer has to wait any longer.
      this.#watchTurn();
      for (let left = MAX_GROUPS_PER_TURN; left > 0 && this.#waiters.size > 0; left--) {
        this.#wakeOne();
      }
    });
  }

  #wakeOne(): void {
    for (const wake of this.#waiters) {
      this.#waiters.delete(wake);
      return wake();
    }
  }
}

/**
 * Send orders for the groups of one priority. QUIC has signed 32-bit send orders; groups use orders
 * below 0, which all other streams have, and a priority uses 8 of the bits.
 */
const ORDERS_PER_PRIORITY = 2 ** 23;

/**
 * Computes the send order of a group: higher priorities first; then the newest group, or the oldest
 * one in ordered mode. Groups of a saturated writer follow all others, oldest first: otherwise the
 * first groups would wait until the writer stops, and every open stream costs the subscriber
 * memory. The numbers wrap around, so one group in four million is sent out of order.
 *
 * @returns The send order; higher values are sent first.
 */
function sendOrderOf(
  distance: number,
  { priority, ordered }: Pick<SubscribeFields, "priority" | "ordered">,
  isBehind: boolean,
): number {
  const half = ORDERS_PER_PRIORITY / 2;
  const rest = distance % half;
  const order = rest < 0 ? rest + half : rest;
  return (priority - 256) * ORDERS_PER_PRIORITY +
    (ordered || isBehind ? half - 1 - order : half + order);
}

/**
 * Computes the send order of a fetched group: after all groups that subscribers receive with the
 * same priority, so that live tracks do not wait for a fetch.
 *
 * @param priority The priority of the fetch.
 */
export function fetchOrderOf(priority: number): number {
  return (priority - 256) * ORDERS_PER_PRIORITY;
}

/**
 * The default time that a closing track gives the subscriber to read the written groups, in
 * milliseconds.
 */
export const CLOSE_TIMEOUT_MS = 30_000;

/**
 * Serves one subscriber of a track. A {@linkcode TrackHandler} receives the writer; when the
 * handler has finished, the track is closed.
 *
 * - **Groups:** several may be open at once, and each may be aborted. Each has a stream. While the
 *   peer allows no more streams, up to 64 groups wait, and opening another one waits as well.
 *   Opening more than 64 in one turn of the event loop also waits.
 * - **Order:** the newest group is sent first, or the oldest if the subscriber requests it. A
 *   writer whose `openGroup()` has to wait is saturated: its groups are sent in order, after the
 *   earlier ones.
 * - **Fetches:** a handler that is a function also receives a track for each fetch, whose range is
 *   the fetched group.
 * - **End:** the track ends when it is closed, the subscriber leaves, the session closes, or the
 *   last requested group is written; `signal` then aborts.
 *
 * @example A track that rejects, and one that serves
 * ```ts
 * import { MoqError, MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/live", async (track) => {
 *   if (track.name !== "video") throw new MoqError("subscribe", "notFound", "There is only video");
 *   const group = await track.openGroup();
 *   await group.writeFrame(new Uint8Array(1_200));
 * });
 * const pair = memoryPair({ protocol: "moq-lite-05" });
 * const [server, client] = await Promise.all([
 *   MoqSession.open(pair.server, { side: "server", mux }),
 *   MoqSession.open(pair.client, { side: "client" }),
 * ]);
 *
 * const audio = await client.subscribe("/live", "audio");
 * const error = await assertRejects(() => audio.ready, MoqError);
 * assertEquals(error.reason, "notFound");
 * const video = await client.subscribe("/live", "video");
 * const group = await video.nextGroup();
 * assertEquals((await group?.readFrame())?.byteLength, 1_200);
 * client.close();
 * await server.closed;
 * ```
 */
export class TrackWriter implements AsyncDisposable {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** The track. */
  readonly name: string;
  /** The number of the subscription; -1 for a fetch, which has none. */
  readonly id: number;
  /** The values of the names in the mux's pattern. */
  readonly params: Readonly<Record<string, string>>;

  /**
   * The first group relative to the next one, for a handler that has cached groups, if the
   * subscriber names none: 1 is the newest group, 0 the next one.
   *
   * @ignore
   */
  groupsBack = 1;
  /**
   * The largest object, for the response to the subscriber; set by a handler that knows it.
   *
   * @ignore
   */
  largest: { readonly group: number; readonly object: number } | undefined = undefined;

  readonly #groupOptions: GroupWriterOptions;
  readonly #link: TrackWriterLink;
  /** Created once it is needed: most subscriptions never need it. */
  #controller: AbortController | undefined = undefined;
  #endReason: unknown = undefined;
  #isEnded = false;
  readonly #onEnd: (() => void)[] = [];
  #onUpdate: (() => void) | undefined = undefined;
  readonly #groups = new LinkedList<GroupWriter>();
  readonly #fields: LatestValue<SubscribeFields>;
  readonly #limit: GroupLimit;
  #next: number;
  #first: number | undefined = undefined;
  #state: "open" | "closing" | "over" = "open";
  #isAccepted = false;
  /** Groups that the connection holds. */
  #held = 0;
  #closing: Promise<void> | undefined = undefined;

  /** Called by a session. */
  constructor(
    link: TrackWriterLink,
    about: {
      readonly path: BroadcastPath;
      readonly name: string;
      readonly id: number;
      readonly params: Readonly<Record<string, string>>;
    },
    fields: SubscribeFields,
  ) {
    this.#link = link;
    this.#limit = new GroupLimit(link.runtime);
    this.path = about.path;
    this.name = about.name;
    this.id = about.id;
    this.params = about.params;
    this.#fields = new LatestValue(fields);
    this.#next = fields.startGroup ?? 1;
    this.#groupOptions = {
      runtime: link.runtime,
      frames: link.frames,
      resets: link.resets,
      buffers: link.buffers,
      errorOf: (error) => link.errorOf(error),
      codeOf: (reason) => link.codeOf("group", reason),
      onClosing: () => this.#limit.closing(),
      onEnd: (group, error) => this.#groupEnded(group, error),
      onReleased: () => void link.weigh(--this.#held),
    };
  }

  /** The fields that the subscriber currently requests. */
  get subscription(): SubscribeFields {
    return this.#fields.latest;
  }

  /**
   * Aborted when the subscriber leaves, this side closes the track, or the session closes; see its
   * reason.
   */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#isEnded) this.#controller.abort(this.#endReason);
    }
    return this.#controller.signal;
  }

  /**
   * True once `signal` is aborted.
   *
   * @ignore
   */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /**
   * Calls back when `signal` aborts, or immediately. It takes less memory than a listener.
   *
   * @ignore
   */
  whenEnded(callback: () => void): void {
    if (this.#isEnded) callback();
    else this.#onEnd.push(callback);
  }

  /**
   * Calls back after each update of the subscription. There is one callback, which takes less
   * memory than a loop over `updated`.
   *
   * @ignore
   */
  whenUpdated(callback: () => void): void {
    this.#onUpdate = callback;
  }

  /**
   * The session of the subscriber.
   *
   * @ignore
   */
  get session(): SubscriberSession {
    return this.#link.session;
  }

  /**
   * Writer of the response, if the track represents a fetch.
   *
   * @ignore
   */
  get fetched(): GroupWriter | undefined {
    return this.#link.fetched;
  }

  /** True once no more groups can be written. */
  get isClosed(): boolean {
    return this.#state !== "open";
  }

  /** True once the subscriber was accepted. */
  get isAccepted(): boolean {
    return this.#isAccepted;
  }

  /** Groups that have not ended yet. */
  get openGroups(): readonly GroupWriter[] {
    return this.#groups.toArray().reverse();
  }

  /**
   * The requested fields, after each change. A change before the loop started is only visible in
   * `subscription`.
   */
  get updated(): AsyncIterable<SubscribeFields> {
    return this.#fields.loop();
  }

  /**
   * Accepts the subscription before there is a group. Idempotent. The first group also accepts it.
   * So does the end of the event loop turn in which the handler was called, if the handler has not
   * rejected it.
   *
   * @param info Properties of the track for the subscriber, if the version can carry them; by
   * default the fields of the request.
   */
  accept(info: Partial<SubscribeFields> = {}): void {
    if (this.#isAccepted || this.#state !== "open") return;
    this.#isAccepted = true;
    this.#link.accept({ ...this.subscription, ...info }, undefined);
  }

  /**
   * Starts a group.
   *
   * @param sequence The number of the group. By default it is one more than the last number; for
   * the first group, it is the requested number, or 1.
   * @param options A signal to end the wait.
   * @returns The group: immediately, unless too many groups wait for a stream or to be sent, or
   * were opened in this turn of the event loop.
   * @throws {MoqError} If the subscription has ended, or the number is above the last requested
   * one.
   * @throws {RangeError} If the number is not an integer from 0 to 2^53 - 2.
   */
  async openGroup(
    sequence: number = this.#next,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<GroupWriter> {
    checkOptions("open group", options, SIGNAL);
    if (!isSequence(sequence)) {
      throw new RangeError(
        `Cannot open group: its number must be an integer from 0 to 2^53 - 2, received ${sequence}`,
      );
    }
    options.signal?.throwIfAborted();
    this.#checkRange(sequence);
    const before = this.#next;
    // Other calls may take the next number while this one waits.
    this.#next = Math.max(before, sequence + 1);
    try {
      while (this.#limit.isFull && this.#state === "open") await this.#limit.wait(options.signal);
      return this.#start(sequence, this.#limit.isSaturated);
    } catch (error) {
      this.#giveBack(sequence, before);
      throw error;
    }
  }

  /**
   * Starts a group without waiting, regardless of the number of waiting groups. It is for callers
   * that limit this number by other means. The group is never sent in the order of a saturated
   * writer.
   *
   * @param sequence The number of the group.
   * @returns A writer for the group's frames.
   * @throws {MoqError} If the subscription has ended, or the number is above the last requested
   * one.
   */
  startGroup(sequence: number): GroupWriter {
    return this.#start(sequence, false);
  }

  /**
   * Reports that groups will not be sent, in versions with such a message. In other versions the
   * subscriber notices missing groups by itself.
   *
   * @param missed The numbers of the first and the last of these groups.
   * @param reason The reason for the subscriber.
   * @throws {RangeError} If the numbers are not integers from 0 to 2^53 - 2, or the last is below
   * the first.
   */
  drop(missed: MissedGroups, reason: MoqErrorName = "expired"): void {
    const { first, last } = missed;
    if (!isSequence(first) || !isSequence(last) || last < first) {
      throw new RangeError(
        "Cannot drop groups: their numbers must be integers from 0 to 2^53 - 2, the last not below " +
          `the first, received ${first} to ${last}`,
      );
    }
    if (this.#state === "over") return;
    this.#next = Math.max(this.#next, missed.last + 1);
    this.#link.drop(missed, reason);
  }

  /**
   * Closes all open groups, and ends the track once all groups are written. Idempotent.
   *
   * @param options The time that the subscriber may take to read the written groups, 30 seconds by
   * default. After this time, the rest is aborted.
   * @throws {RangeError} If `timeoutMs` is negative or not a number.
   */
  async close(options: { readonly timeoutMs?: number | undefined } = {}): Promise<void> {
    checkOptions("close track", options, { timeoutMs: TIME });
    const { timeoutMs = CLOSE_TIMEOUT_MS } = options;
    await (this.#closing ??= this.#close(timeoutMs));
  }

  /**
   * Ends the track, or rejects the subscription before it was accepted; groups that are not closed
   * are aborted.
   *
   * @param reason The reason for the subscriber.
   */
  closeWithError(reason: MoqErrorName): void {
    if (this.#state === "over") return;
    this.#state = "over";
    for (const group of this.#groups.toArray()) group.abort("publishAborted");
    // For this side the track has ended anyway.
    this.#link.end(this.#next, reason).catch(() => {});
    const moqCode = this.#link.codeOf("subscribe", reason);
    this.#over(new MoqError("subscribe", reason, "The track was closed", { moqCode }));
  }

  /** Closes the track; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Closes the subscriber's session: on a transport that cannot reset streams, only that frees the
   * bytes that the subscriber does not read.
   *
   * @ignore
   */
  closeSession(message: string): void {
    this.#link.closeSession(message);
  }

  /**
   * Applies changed fields of the subscriber.
   *
   * @ignore
   */
  update(fields: SubscribeFields): void {
    this.#fields.set(fields);
    for (const group of this.#groups.toArray()) group.sendOrder = this.#sendOrderOf(group);
    this.#closeAtLast();
    if (!this.#isEnded) this.#onUpdate?.();
  }

  /**
   * Ends the track after the subscriber has left, or the session has closed.
   *
   * @ignore
   */
  fail(error: unknown): void {
    if (this.#state === "over") return;
    this.#state = "over";
    for (const group of this.#groups.toArray()) group.fail(error);
    this.#over(error);
  }

  #start(sequence: number, isBehind: boolean): GroupWriter {
    if (this.#state !== "open") {
      throw new MoqError(
        "subscribe",
        "cancelled",
        "Cannot open group: the subscription has ended",
        {
          cause: this.signal.reason,
        },
      );
    }
    this.#checkRange(sequence);
    const link = this.#link;
    const rejection = link.weigh(this.#held + 1);
    if (rejection !== undefined) {
      link.weigh(this.#held);
      const message = `Cannot open group ${sequence}: the subscriber has not received earlier ones`;
      throw new MoqError("group", rejection, message);
    }
    this.#next = Math.max(this.#next, sequence + 1);
    if (this.#first === undefined) {
      this.#first = sequence;
      this.#isAccepted = true;
      link.accept(this.subscription, sequence);
    }
    if (link.fetched !== undefined) return link.fetched;
    const head = link.frames.groupHead(this.id, sequence);
    const group = new GroupWriter(sequence, head, this.#groupOptions);
    group.isBehind = isBehind;
    this.#groups.add(group);
    this.#held++;
    this.#limit.opening();
    link.open(this.#sendOrderOf(group)).then(
      (stream) => {
        this.#limit.opened();
        group.attach(stream);
      },
      (error) => {
        this.#limit.opened();
        group.failToOpen(link.errorOf(error));
      },
    );
    return group;
  }

  #checkRange(sequence: number): void {
    const { endGroup = Infinity } = this.subscription;
    const { fetched } = this.#link;
    const isRequested = fetched === undefined
      ? sequence <= endGroup
      : sequence === fetched.sequence;
    if (isRequested) return;
    const wanted = fetched === undefined
      ? `the subscriber wants no group after ${endGroup}`
      : `the fetch is only for group ${fetched.sequence}`;
    const message = `Cannot open group ${sequence}: ${wanted}`;
    throw new MoqError("group", "outOfRange", message);
  }

  async #close(timeoutMs: number): Promise<void> {
    if (this.#state === "over") return;
    this.accept();
    this.#state = "closing";
    this.#limit.wakeAll();
    const closing = Promise.allSettled(this.#groups.toArray().map((group) => group.close()));
    try {
      await within(this.#link.runtime, closing, { timeoutMs });
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error;
      for (const group of this.#groups.toArray()) group.abort("expired");
    }
    if (this.#isOver()) return;
    this.#state = "over";
    // A subscriber that did not read the groups may not read the end either.
    await within(this.#link.runtime, this.#link.end(this.#next, undefined), { timeoutMs }).catch(
      () => {},
    );
    this.#over(undefined);
  }

  #isOver(): boolean {
    return this.#state === "over";
  }

  #over(reason: unknown): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#endReason = reason ?? new MoqError("subscribe", "cancelled", "The track was closed");
    this.#controller?.abort(this.#endReason);
    for (const callback of this.#onEnd.splice(0)) callback();
    this.#fields.end();
    this.#limit.wakeAll();
  }

  #groupEnded(group: GroupWriter, error: unknown): void {
    this.#groups.delete(group);
    if (group.isClosed) this.#limit.sent();
    // On a transport without resets, only the drop informs the subscriber.
    if (error instanceof MoqError && error.by === "local") {
      this.drop({ first: group.sequence, last: group.sequence }, error.reason);
    }
    this.#closeAtLast();
  }

  #closeAtLast(): void {
    const { endGroup = Infinity } = this.subscription;
    if (this.#state !== "open" || this.#next <= endGroup || this.#groups.size > 0) return;
    if (this.#first !== undefined) void this.close();
  }

  /**
   * Releases the number of a group that was not opened: it becomes the next number again or, if
   * later numbers are in use, counts as dropped.
   */
  #giveBack(sequence: number, before: number): void {
    if (this.#next === sequence + 1) this.#next = before;
    else if (sequence >= before) this.drop({ first: sequence, last: sequence }, "publishAborted");
  }

  #sendOrderOf({ sequence, isBehind }: GroupWriter): number {
    return sendOrderOf(sequence - (this.#first ?? sequence), this.subscription, isBehind);
  }
}

function isSequence(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= LAST_SEQUENCE;
}
