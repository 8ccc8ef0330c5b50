/**
 * A subscription, as the publisher has it.
 *
 * @module
 */
import { TimeoutError } from "../../../errors.ts";
import { within } from "../../../transport/within.ts";
import { LAST_SEQUENCE } from "./_sequences.ts";
import { Updates } from "./updates.ts";
import { LinkedList } from "../../../transport/linked_list.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import { type MissedGroups, MoqError } from "../wire/errors.ts";
import { GroupWriter, type GroupWriterOptions } from "./group_writer.ts";
import type { SubscriberSession, TrackWriterLink } from "./track_writer_link.ts";
import { encodeGroupHead, type SubscribeFields } from "../wire/messages.ts";
import type { BroadcastPath } from "../wire/path.ts";

/**
 * Groups of a subscription that may wait for a stream, and that may be closed and on their way to the
 * wire; a writer of more has to wait. A thousand at once would cost more than they weigh.
 */
export const MAX_OPENING_GROUPS = 64;

/** Counts the groups of one subscription. */
export class GroupRoom {
  #opening = 0;
  /** Groups that were closed, and that the wire did not take yet. */
  #unsent = 0;
  /** In the order in which they came. */
  readonly #waiters = new Set<() => void>();

  /** Whether another group has to wait. */
  get isFull(): boolean {
    return this.#opening >= MAX_OPENING_GROUPS || this.#unsent >= MAX_OPENING_GROUPS;
  }

  /** A group asks for its stream. */
  opening(): void {
    this.#opening++;
  }

  /** It has its stream, or gets none. */
  opened(): void {
    this.#opening--;
    this.#wakeOne();
  }

  /** A group was closed. */
  closing(): void {
    this.#unsent++;
  }

  /** The wire took all of a group that was closed, or it was given up. */
  sent(): void {
    this.#unsent--;
    this.#wakeOne();
  }

  /**
   * Waits until something changes.
   *
   * @param signal Gives up.
   * @throws What the signal was aborted with.
   */
  async wait(signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = () => {
      // Whoever is woken next shall be one who still waits.
      this.#waiters.delete(resolve);
      reject(signal!.reason);
    };
    this.#waiters.add(resolve);
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await promise;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Wakes all who wait. */
  wakeAll(): void {
    for (const wake of this.#waiters) wake();
    this.#waiters.clear();
  }

  #wakeOne(): void {
    for (const wake of this.#waiters) {
      this.#waiters.delete(wake);
      return wake();
    }
  }
}

/**
 * Places for the groups of one priority. Send orders have 32 bits with a sign in QUIC, those of groups
 * are below that of everything else, which is 0, and a priority has 8 of the bits.
 */
const PLACES = 2 ** 23;

/**
 * Finds the send order of a group: higher priorities first; then the newest group, or the oldest one
 * where the order counts. Of eight million groups one follows another that it should not.
 *
 * @param distance How far the group is behind the first one of its subscription.
 * @param subscription What its subscriber asks for.
 * @returns The send order; higher goes first.
 */
function sendOrderOf(
  distance: number,
  { priority, ordered }: Pick<SubscribeFields, "priority" | "ordered">,
): number {
  const rest = distance % PLACES;
  const place = rest < 0 ? rest + PLACES : rest;
  return (priority - 256) * PLACES + (ordered ? PLACES - 1 - place : place);
}

/** How long a track that is closed waits for its subscriber to take what was written, by default, in milliseconds. */
export const CLOSE_TIMEOUT_MS = 30_000;

/**
 * Serves one subscriber of a track. A {@linkcode TrackHandler} gets it; when the handler is done, it is closed.
 *
 * - **Groups** may be open at once, and given up. Each has a stream: while the peer gives none, up to
 *   64 of them wait, and who opens another waits with them.
 * - **End:** it is over once it is closed, the subscriber left, the session ended, or the last group
 *   that was asked for is written; `signal` tells.
 *
 * @example A track that refuses, and one that serves
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
  /** The number of the subscription. */
  readonly id: number;
  /** What the braces of the mux's pattern stand for. */
  readonly params: Readonly<Record<string, string>>;

  readonly #groupOptions: GroupWriterOptions;
  readonly #link: TrackWriterLink;
  readonly #controller = new AbortController();
  readonly #groups = new LinkedList<GroupWriter>();
  readonly #fields: Updates<SubscribeFields>;
  readonly #room = new GroupRoom();
  #next: number;
  #first: number | undefined = undefined;
  #state: "open" | "closing" | "over" = "open";
  #isAccepted = false;
  #closing: Promise<void> | undefined = undefined;

  /** Is made by a session. */
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
    this.path = about.path;
    this.name = about.name;
    this.id = about.id;
    this.params = about.params;
    this.#fields = new Updates(fields);
    this.#next = fields.startGroup ?? 1;
    this.#groupOptions = {
      timestamps: link.timestamps,
      resets: link.resets,
      buffers: link.buffers,
      schedule: link.schedule,
      errorOf: (error) => link.errorOf(error),
      codeOf: (reason) => link.codeOf("group", reason),
      onClosing: () => this.#room.closing(),
      onEnd: (group, error) => this.#groupEnded(group, error),
    };
  }

  /** What the subscriber asks for now. */
  get subscription(): SubscribeFields {
    return this.#fields.latest;
  }

  /** Aborted when the subscriber left, the track was closed here, or the session ended; its reason says which. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /**
   * The session of the subscriber.
   *
   * @ignore
   */
  get session(): SubscriberSession {
    return this.#link.session;
  }

  /** Whether nothing more can be written. */
  get isClosed(): boolean {
    return this.#state !== "open";
  }

  /** Whether the subscriber was answered. */
  get isAccepted(): boolean {
    return this.#isAccepted;
  }

  /** Groups that are not ended yet. */
  get openGroups(): readonly GroupWriter[] {
    return this.#groups.toArray().reverse();
  }

  /**
   * What the subscriber asks for, each time that it changes it. A change that nobody waited for is
   * seen by the next one to look at `subscription`.
   */
  get updated(): AsyncIterable<SubscribeFields> {
    return this.#fields.loop();
  }

  /**
   * Accepts the subscription before there is a group. Idempotent; the first group does it too, and so
   * does a handler that has not refused by the end of the turn of the event loop in which it was called.
   *
   * @param info What to tell the subscriber of the track, where the version can; what it asked for by default.
   */
  accept(info: Partial<SubscribeFields> = {}): void {
    if (this.#isAccepted || this.#state !== "open") return;
    this.#isAccepted = true;
    this.#link.accept({ ...this.subscription, ...info }, undefined);
  }

  /**
   * Begins a group.
   *
   * @param sequence Its number; one more than the last one by default, and for the first one the one
   * that was asked for, or 1.
   * @param options Gives up waiting.
   * @returns The group: at once, unless too many groups wait for a stream, or to be sent.
   * @throws {MoqError} If the subscription is over, or the number is behind the last one that was asked for.
   * @throws {RangeError} If the number is not an integer from 0 to 2^53 - 2.
   */
  async openGroup(
    sequence: number = this.#next,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<GroupWriter> {
    if (!isSequence(sequence)) {
      throw new RangeError(
        `Cannot open group: its number must be an integer from 0 to 2^53 - 2, received ${sequence}`,
      );
    }
    options.signal?.throwIfAborted();
    this.#checkRange(sequence);
    const before = this.#next;
    // Others may ask for the next one while this one waits.
    this.#next = Math.max(before, sequence + 1);
    try {
      while (this.#room.isFull && this.#state === "open") await this.#room.wait(options.signal);
      return this.startGroup(sequence);
    } catch (error) {
      this.#giveBack(sequence, before);
      throw error;
    }
  }

  /**
   * Begins a group without waiting, whatever waits already; for who bounds that by other means.
   *
   * @param sequence Its number.
   * @returns The group.
   * @throws {MoqError} If the subscription is over, or the number is behind the last one that was asked for.
   */
  startGroup(sequence: number): GroupWriter {
    if (this.#state !== "open") {
      throw new MoqError("subscribe", "cancelled", "Cannot open group: the subscription is over", {
        cause: this.signal.reason,
      });
    }
    this.#checkRange(sequence);
    this.#next = Math.max(this.#next, sequence + 1);
    const link = this.#link;
    if (this.#first === undefined) {
      this.#first = sequence;
      this.#isAccepted = true;
      link.accept(this.subscription, sequence);
    }
    const head = encodeGroupHead({ subscribeId: this.id, sequence });
    const group = new GroupWriter(sequence, head, this.#groupOptions);
    this.#groups.add(group);
    this.#room.opening();
    link.open(this.#sendOrderOf(sequence)).then(
      (stream) => {
        this.#room.opened();
        group.attach(stream);
      },
      (error) => {
        this.#room.opened();
        group.failToOpen(link.errorOf(error));
      },
    );
    return group;
  }

  /**
   * Says that groups will not come, on versions that can; on others the subscriber finds out by itself.
   *
   * @param missed Which.
   * @param reason Why.
   * @throws {RangeError} If the numbers are not integers from 0 to 2^53 - 2, or the last is below the first.
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
   * Ends the track once its groups are written, which ends those that are open. Idempotent.
   *
   * @param options How long the subscriber may take for what was written, 30 seconds by default; then
   * the rest is given up.
   * @throws {RangeError} If `timeoutMs` is negative, or no number.
   */
  async close(options: { readonly timeoutMs?: number } = {}): Promise<void> {
    const { timeoutMs = CLOSE_TIMEOUT_MS } = options;
    if (!(timeoutMs >= 0)) {
      throw new RangeError(`Cannot close track: timeoutMs must be from 0, received ${timeoutMs}`);
    }
    await (this.#closing ??= this.#close(timeoutMs));
  }

  /**
   * Ends the track, or refuses it where it was not accepted yet; groups that are not closed are given up.
   *
   * @param reason Why.
   */
  closeWithError(reason: MoqErrorName): void {
    if (this.#state === "over") return;
    this.#state = "over";
    for (const group of this.#groups.toArray()) group.abort("publishAborted");
    this.#link.end(this.#next, reason).catch(() => {}); // It is over for this end all the same.
    const moqCode = this.#link.codeOf("subscribe", reason);
    this.#over(new MoqError("subscribe", reason, "The track was closed", { moqCode }));
  }

  /** Closes the track; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Ends the session of the subscriber: where a wire cannot reset streams, nothing less frees what
   * a subscriber does not take.
   *
   * @ignore
   */
  closeSession(message: string): void {
    this.#link.closeSession(message);
  }

  /**
   * The subscriber asks for something else.
   *
   * @ignore
   */
  update(fields: SubscribeFields): void {
    this.#fields.set(fields);
    for (const group of this.#groups.toArray()) group.sendOrder = this.#sendOrderOf(group.sequence);
    this.#closeAtLast();
  }

  /**
   * The subscriber left, or the session ended.
   *
   * @ignore
   */
  fail(error: unknown): void {
    if (this.#state === "over") return;
    this.#state = "over";
    for (const group of this.#groups.toArray()) group.fail(error);
    this.#over(error);
  }

  #checkRange(sequence: number): void {
    const { endGroup = Infinity } = this.subscription;
    if (sequence <= endGroup) return;
    const message = `Cannot open group ${sequence}: the subscriber wants none behind ${endGroup}`;
    throw new MoqError("group", "outOfRange", message);
  }

  async #close(timeoutMs: number): Promise<void> {
    if (this.#state === "over") return;
    this.accept();
    this.#state = "closing";
    this.#room.wakeAll();
    const closing = Promise.allSettled(this.#groups.toArray().map((group) => group.close()));
    try {
      await within(closing, { timeoutMs });
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error;
      for (const group of this.#groups.toArray()) group.abort("expired");
    }
    if (this.#isOver()) return;
    this.#state = "over";
    // What the subscriber did not take of groups it may not take of this either.
    await within(this.#link.end(this.#next, undefined), { timeoutMs }).catch(() => {});
    this.#over(undefined);
  }

  #isOver(): boolean {
    return this.#state === "over";
  }

  #over(reason: unknown): void {
    this.#controller.abort(
      reason ?? new MoqError("subscribe", "cancelled", "The track was closed"),
    );
    this.#fields.end();
    this.#room.wakeAll();
  }

  #groupEnded(group: GroupWriter, error: unknown): void {
    this.#groups.delete(group);
    if (group.isClosed) this.#room.sent();
    // Nobody else would tell the subscriber, where the wire cannot.
    if (error instanceof MoqError && error.by === "local") {
      this.drop({ first: group.sequence, last: group.sequence }, error.reason);
    }
    this.#closeAtLast();
  }

  /** All that was asked for is written. */
  #closeAtLast(): void {
    const { endGroup = Infinity } = this.subscription;
    if (this.#state !== "open" || this.#next <= endGroup || this.#groups.size > 0) return;
    if (this.#first !== undefined) void this.close();
  }

  /** A number got no group: it is the next one again, or, if later ones were asked for, it is missing. */
  #giveBack(sequence: number, before: number): void {
    if (this.#next === sequence + 1) this.#next = before;
    else if (sequence >= before) this.drop({ first: sequence, last: sequence }, "publishAborted");
  }

  #sendOrderOf(sequence: number): number {
    return sendOrderOf(sequence - (this.#first ?? sequence), this.subscription);
  }
}

/** Whether a group can have the number. */
function isSequence(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= LAST_SEQUENCE;
}
