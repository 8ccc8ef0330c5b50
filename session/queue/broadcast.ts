/** Broadcasts to a set of sessions, packed once for all members that get the same messages. */
import type { EncodedMessage } from "../wire/encode.ts";
import {
  MAX_JOINED_BYTES,
  packAll,
  type PackedFrame,
  type QueuedMessage,
  type SendQueue,
  type Turn,
  type TurnWork,
} from "./turn.ts";
import { internals, type Session } from "../session.ts";

/** Most messages gathered in one turn; at this number the messages are flushed early. */
const MAX_PENDING_MESSAGES = 256;

/**
 * A set of sessions that share messages: each message is encoded once, and members without other
 * pending messages share the joined frame too.
 *
 * - **Order:** members get messages in the order of `send`, and in order with messages of
 *   `session.send` before and after.
 * - **Members:** a change of members first flushes the earlier messages.
 */
export class Broadcast {
  readonly #turn: Turn;
  readonly #fanOut: FanOut;
  readonly #members = new Map<Session, SendQueue>();
  #entries: QueuedMessage[] = [];
  #bytes = 0;
  #sent = 0;
  #exceptions: Map<QueuedMessage, SendQueue> | undefined;

  /**
   * Creates an empty set.
   *
   * @param turn The turn of all members.
   */
  constructor(turn: Turn) {
    this.#turn = turn;
    this.#fanOut = FanOut.of(turn);
  }

  /** Number of members. */
  get size(): number {
    return this.#members.size;
  }

  /** Number of messages sent so far, while there were members. */
  get sent(): number {
    return this.#sent;
  }

  /**
   * Checks a session for membership.
   *
   * @param session Any session.
   * @returns True if the session is a member.
   */
  has(session: Session): boolean {
    return this.#members.has(session);
  }

  /**
   * Lists the members.
   *
   * @returns The sessions, in the order of `add`.
   */
  members(): IterableIterator<Session> {
    return this.#members.keys();
  }

  /**
   * Adds a session, which gets all later messages. Idempotent.
   *
   * @param session A session of the same turn.
   */
  add(session: Session): void {
    if (this.#members.has(session)) return;
    const queue = session[internals].messages("share messages");
    this.#settle();
    this.#members.set(session, queue);
  }

  /**
   * Removes a session, which still gets all earlier messages. Idempotent.
   *
   * @param session Any session.
   */
  delete(session: Session): void {
    if (!this.#members.has(session)) return;
    this.#settle();
    this.#members.delete(session);
  }

  /**
   * Sends a message to all members at the end of this turn.
   *
   * @param message The encoded message.
   * @param except A member that does not get the message.
   */
  send(message: EncodedMessage, except?: Session): void {
    if (this.#members.size === 0) return;
    this.#sent++;
    const entry: QueuedMessage = {
      frame: message.frame,
      size: message.size,
      topic: message.topic,
      position: message.position,
      sequence: this.#turn.nextSequence(),
      isProtected: false,
      isShared: true,
    };
    const excepted = except === undefined ? undefined : this.#members.get(except);
    if (excepted !== undefined) (this.#exceptions ??= new Map()).set(entry, excepted);
    this.#bytes += entry.size;
    if (this.#entries.push(entry) === 1) this.#fanOut.mark(this);
    if (this.#entries.length >= MAX_PENDING_MESSAGES || this.#bytes >= MAX_JOINED_BYTES) {
      this.#turn.flush();
    }
  }

  /**
   * Returns the gathered messages to the turn.
   *
   * @ignore
   * @returns The entries and their receivers.
   */
  take(): BroadcastBatch {
    const pending: BroadcastBatch = {
      entries: this.#entries,
      exceptions: this.#exceptions,
      members: this.#members.values(),
    };
    this.#entries = [];
    this.#bytes = 0;
    this.#exceptions = undefined;
    return pending;
  }

  #settle(): void {
    if (this.#entries.length > 0) this.#turn.flush();
  }
}

/** Entries of one broadcast in one turn. */
export interface BroadcastBatch {
  /** Entries in the order of their sequence. */
  readonly entries: readonly QueuedMessage[];
  /** Entries that one queue does not get, each with that queue. */
  readonly exceptions: ReadonlyMap<QueuedMessage, SendQueue> | undefined;
  /** Queues of the receivers. */
  readonly members: Iterable<SendQueue>;
}

/**
 * Entries that some sessions share in one turn: those of one broadcast, or of several merged ones,
 * packed once for all these sessions.
 */
export class SharedMessages {
  /** Entries in the order of their sequence. */
  readonly entries: readonly QueuedMessage[];
  /** Entries that one queue does not get, each with that queue. */
  readonly exceptions: ReadonlyMap<QueuedMessage, SendQueue> | undefined;
  #joined: readonly PackedFrame[] | undefined;
  #single: readonly PackedFrame[] | undefined;
  #key: BroadcastBatch | undefined;
  #next: SharedMessages | undefined;
  #branches: Map<BroadcastBatch, SharedMessages> | undefined;
  #excepted: ReadonlySet<SendQueue> | undefined;
  #largest: number | undefined;

  /** Creates the share of entries that are in order. */
  constructor(
    entries: readonly QueuedMessage[],
    exceptions: ReadonlyMap<QueuedMessage, SendQueue> | undefined,
  ) {
    this.entries = entries;
    this.exceptions = exceptions;
  }

  /** Returns the entries as frames, packed at the first call of each kind. */
  frames(joins: boolean): readonly PackedFrame[] {
    if (joins) return this.#joined ??= packAll(this.entries, true);
    return this.#single ??= packAll(this.entries, false);
  }

  /** Returns the share of the queues that also get `pending`: the same object for all of them. */
  and(pending: BroadcastBatch): SharedMessages {
    if (this.#key === pending) return this.#next!;
    let next = this.#branches?.get(pending);
    if (next === undefined) {
      next = new SharedMessages(
        mergeEntries(this.entries, pending.entries),
        mergeExceptions(this.exceptions, pending.exceptions),
      );
      (this.#branches ??= new Map()).set(pending, next);
    }
    this.#key = pending;
    this.#next = next;
    return next;
  }

  /** Returns true if this queue skips any of the entries. */
  excepts(queue: SendQueue): boolean {
    if (this.exceptions === undefined) return false;
    this.#excepted ??= new Set(this.exceptions.values());
    return this.#excepted.has(queue);
  }

  /** True if the peer of a queue does not accept the largest of the entries. */
  exceeds(queue: SendQueue): boolean {
    this.#largest ??= this.entries.reduce((most, { size }) => Math.max(most, size), 0);
    return this.#largest > queue.maxMessageBytes;
  }

  /** Returns the entries of one queue, with gaps in place of those that are too large for its peer. */
  entriesFor(queue: SendQueue): readonly QueuedMessage[] {
    const { exceptions } = this;
    const entries = exceptions === undefined
      ? this.entries
      : this.entries.filter((entry) => exceptions.get(entry) !== queue);
    return this.exceeds(queue) ? entries.map((entry) => queue.fitting(entry)) : entries;
  }

  /**
   * Returns true for a queue that sends the entries one by one and has no other entries pending.
   */
  isSingleFor(queue: SendQueue): boolean {
    return !queue.joins && queue.isFlushed && !queue.isOver && !this.excepts(queue);
  }

  /** Adds the entries to a queue. Returns false if the queue is full and has the policy `close`. */
  giveTo(queue: SendQueue): boolean {
    // A failed queue closes before this turn is over, and must not show a gap until then.
    if (queue.isOver) return true;
    const isWhole = !this.excepts(queue) && !this.exceeds(queue);
    if (queue.isFlushed && isWhole) return this.#giveFrames(queue);
    const incoming = this.entriesFor(queue);
    if (incoming.length === 0) return true;
    // Entries that the session itself sent in this turn, after the first shared entry.
    const later = queue.takeBack(incoming[0]!.sequence);
    for (const entry of later.length === 0 ? incoming : mergeEntries(later, incoming)) {
      if (!put(queue, entry)) return false;
    }
    return queue.flush();
  }

  #giveFrames(queue: SendQueue): boolean {
    let from = 0;
    for (const packed of this.frames(queue.joins)) {
      if (queue.isHeld) break;
      queue.hand(packed, packed.end - from);
      from = packed.end;
    }
    for (let i = from; i < this.entries.length; i++) {
      if (!queue.admit(this.entries[i]!)) return false;
    }
    return true;
  }
}

/**
 * The broadcasts of one turn: one walk over the members of each broadcast, and one frame for all
 * members without other pending entries.
 */
export class FanOut implements TurnWork {
  readonly #turn: Turn;
  #broadcasts: Pick<Broadcast, "take">[] = [];

  private constructor(turn: Turn) {
    this.#turn = turn;
  }

  /** Returns the fan-out of a turn and creates it if missing. */
  static of(turn: Turn): FanOut {
    if (turn.fanOut instanceof FanOut) return turn.fanOut;
    const fanOut = new FanOut(turn);
    turn.fanOut = fanOut;
    return fanOut;
  }

  /**
   * Adds a broadcast to the fan-out at the end of the turn. To be called once per broadcast and
   * turn.
   */
  mark(broadcast: Pick<Broadcast, "take">): void {
    this.#broadcasts.push(broadcast);
    this.#turn.wake();
  }

  /** Gives each member the gathered entries; `failed` takes the queues without room. */
  handOut(failed: SendQueue[]): void {
    if (this.#broadcasts.length === 0) return;
    // Taken first: anything that an application's policy publishes meanwhile belongs to the next
    // turn.
    const all = this.#broadcasts.map((broadcast) => broadcast.take());
    this.#broadcasts = [];
    const touched: SendQueue[] = [];
    for (const pending of all) {
      const alone = new SharedMessages(pending.entries, pending.exceptions);
      for (const queue of pending.members) {
        const share = shareOf(queue);
        if (share === undefined) {
          queue.share = alone;
          touched.push(queue);
        } else queue.share = share.and(pending);
      }
    }
    const single: SendQueue[] = [];
    for (const queue of touched) {
      const share = shareOf(queue)!;
      if (share.isSingleFor(queue)) {
        single.push(queue);
        continue;
      }
      queue.share = undefined;
      if (!share.giveTo(queue)) failed.push(queue);
    }
    if (single.length > 0) this.#sendSingly(single, failed);
  }

  /**
   * Sends one entry to all queues, then the next: writing to a connection that is still busy with
   * the last frame is slower.
   */
  #sendSingly(queues: readonly SendQueue[], failed: SendQueue[]): void {
    for (let i = 0, isDone = false; !isDone; i++) {
      isDone = true;
      for (const queue of queues) {
        const share = shareOf(queue);
        if (share === undefined || i >= share.entries.length) continue;
        isDone = false;
        if (giveOne(queue, share, i)) continue;
        queue.share = undefined;
        failed.push(queue);
      }
    }
    for (const queue of queues) queue.share = undefined;
  }
}

/** Returns the share that a queue gets at the end of this turn. */
function shareOf(queue: SendQueue): SharedMessages | undefined {
  return queue.share as SharedMessages | undefined;
}

/**
 * Adds an entry. Entries that only wait for the end of the turn are flushed when room is needed.
 */
function put(queue: SendQueue, entry: QueuedMessage): boolean {
  if (!queue.isHeld && queue.isFullFor(entry) && !queue.flush()) return false;
  return queue.admit(entry);
}

/** Hands an entry to the connection if the queue is empty; otherwise queues the entry. */
function giveOne(queue: SendQueue, share: SharedMessages, index: number): boolean {
  if (queue.isOver) return true;
  if (!queue.isFlushed) return queue.admit(share.entries[index]!);
  queue.hand(share.frames(false)[index]!, 1);
  return true;
}

/** Merges two ordered lists into one. */
export function mergeEntries(
  a: readonly QueuedMessage[],
  b: readonly QueuedMessage[],
): readonly QueuedMessage[] {
  const merged: QueuedMessage[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length && j < b.length) {
    merged.push(a[i]!.sequence < b[j]!.sequence ? a[i++]! : b[j++]!);
  }
  while (i < a.length) merged.push(a[i++]!);
  while (j < b.length) merged.push(b[j++]!);
  return merged;
}

function mergeExceptions(
  a: SharedMessages["exceptions"],
  b: SharedMessages["exceptions"],
): SharedMessages["exceptions"] {
  if (a === undefined || b === undefined) return a ?? b;
  return new Map([...a, ...b]);
}
