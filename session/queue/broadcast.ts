/** Messages to many sessions, which share their frames. */
import type { EncodedMessage } from "../wire/encode.ts";
import type { Flushable, Flusher } from "./flusher.ts";
import {
  MAX_JOINED_BYTES,
  mergeEntries,
  packAll,
  type PackedFrame,
  type QueuedMessage,
} from "./frames.ts";
import type { SendQueue } from "./send_queue.ts";

/**
 * Maximum number of messages that a broadcast collects. When this number is reached, they are
 * flushed early.
 */
const MAX_PENDING_MESSAGES = 256;

/**
 * A set of sessions that share messages. Each message is encoded once, and members without other
 * pending messages also share the frame that joins the messages.
 *
 * - **Order:** members receive messages in the order of the calls to `send`, including calls to
 *   their own `session.send`.
 * - **Members:** when a member is added or removed, earlier messages are flushed first.
 *
 * @typeParam S The class of sessions.
 */
export class Broadcast<S extends object> {
  readonly #flusher: Flusher;
  readonly #fanOut: FanOut;
  readonly #members = new Map<S, SendQueue>();
  #entries: QueuedMessage[] = [];
  #bytes = 0;
  #sent = 0;
  #exceptions: Map<QueuedMessage, SendQueue> | undefined;

  /** Creates an empty set of sessions of one flusher. */
  constructor(flusher: Flusher) {
    this.#flusher = flusher;
    this.#fanOut = flusher.distributor(FanOut);
  }

  /** Number of members. */
  get size(): number {
    return this.#members.size;
  }

  /** Number of messages sent so far while there were members. */
  get sent(): number {
    return this.#sent;
  }

  /** True if a session is a member. */
  has(session: S): boolean {
    return this.#members.has(session);
  }

  /** Lists the members, in the order of `add`. */
  members(): IterableIterator<S> {
    return this.#members.keys();
  }

  /**
   * Adds a session, which receives all later messages. Idempotent.
   *
   * @param session A session of the same flusher.
   */
  add(session: S, queue: SendQueue): void {
    if (this.#members.has(session)) return;
    this.#settle();
    this.#members.set(session, queue);
  }

  /** Removes a session, which still receives all earlier messages. Idempotent. */
  delete(session: S): void {
    if (!this.#members.has(session)) return;
    this.#settle();
    this.#members.delete(session);
  }

  /**
   * Sends a message to all members with the next flush.
   *
   * @param except A member that does not receive the message.
   */
  send(message: EncodedMessage, except?: S): void {
    if (this.#members.size === 0) return;
    this.#sent++;
    // Everything collected so far is sent as one frame.
    if (this.#bytes + message.size > MAX_JOINED_BYTES) this.#settle();
    const entry: QueuedMessage = {
      frame: message.frame,
      size: message.size,
      topic: message.topic,
      position: message.position,
      sequence: this.#flusher.nextSequence(),
      isProtected: false,
      isShared: true,
    };
    const excepted = except === undefined ? undefined : this.#members.get(except);
    if (excepted !== undefined) (this.#exceptions ??= new Map()).set(entry, excepted);
    if (this.#entries.push(entry) === 1) this.#fanOut.mark(this);
    this.#bytes += 1 + entry.size;
    if (this.#entries.length >= MAX_PENDING_MESSAGES || this.#bytes >= MAX_JOINED_BYTES) {
      this.#flusher.flush();
    }
  }

  /** Returns the collected messages with their receivers. */
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
    if (this.#entries.length > 0) this.#flusher.flush();
  }
}

/** The entries of one broadcast in one flush. */
export interface BroadcastBatch {
  /** Entries in the order of their sequence. */
  readonly entries: readonly QueuedMessage[];
  /** Entries that one queue does not receive, each with that queue. */
  readonly exceptions: ReadonlyMap<QueuedMessage, SendQueue> | undefined;
  /** Queues of the receivers. */
  readonly members: Iterable<SendQueue>;
}

/**
 * The entries of one broadcast, or the merged entries of several broadcasts, that several sessions
 * share in one flush. They are packed once for all sessions.
 */
export class SharedMessages {
  /** Entries in the order of their sequence. */
  readonly entries: readonly QueuedMessage[];
  /** Entries that one queue does not receive, each with that queue. */
  readonly #exceptions: ReadonlyMap<QueuedMessage, SendQueue> | undefined;
  #joined: readonly PackedFrame[] | undefined;
  #single: readonly PackedFrame[] | undefined;
  #key: BroadcastBatch | undefined;
  #next: SharedMessages | undefined;
  #branches: Map<BroadcastBatch, SharedMessages> | undefined;
  #excepted: ReadonlySet<SendQueue> | undefined;
  #largest: number | undefined;

  /** Creates the shared messages from ordered entries. */
  constructor(
    entries: readonly QueuedMessage[],
    exceptions: ReadonlyMap<QueuedMessage, SendQueue> | undefined,
  ) {
    this.entries = entries;
    this.#exceptions = exceptions;
  }

  /** Returns the entries as frames, packed on the first call of each kind. */
  frames(joins: boolean): readonly PackedFrame[] {
    if (joins) return this.#joined ??= packAll(this.entries, true);
    return this.#single ??= packAll(this.entries, false);
  }

  /**
   * Returns the shared messages of the queues that also receive `pending`. All of them get the same
   * object.
   */
  and(pending: BroadcastBatch): SharedMessages {
    if (this.#key === pending) return this.#next!;
    let next = this.#branches?.get(pending);
    if (next === undefined) {
      next = new SharedMessages(
        mergeEntries(this.entries, pending.entries),
        new Map([...this.#exceptions ?? [], ...pending.exceptions ?? []]),
      );
      (this.#branches ??= new Map()).set(pending, next);
    }
    this.#key = pending;
    this.#next = next;
    return next;
  }

  /** True if this queue skips any of the entries. */
  excepts(queue: SendQueue): boolean {
    if (!this.#exceptions?.size) return false;
    this.#excepted ??= new Set(this.#exceptions.values());
    return this.#excepted.has(queue);
  }

  /** True if the largest entry is too large for the peer of a queue. */
  #exceeds(queue: SendQueue): boolean {
    this.#largest ??= this.entries.reduce((most, { size }) => Math.max(most, size), 0);
    return this.#largest > queue.maxMessageBytes;
  }

  /**
   * Returns the entries of one queue, with gaps in place of entries that are too large for its
   * peer.
   */
  entriesFor(queue: SendQueue): readonly QueuedMessage[] {
    const exceptions = this.#exceptions;
    const entries = exceptions === undefined
      ? this.entries
      : this.entries.filter((entry) => exceptions.get(entry) !== queue);
    return this.#exceeds(queue) ? entries.map((entry) => queue.fitting(entry)) : entries;
  }

  /** True for a queue that sends several entries one by one and has no other pending entries. */
  isSingleFor(queue: SendQueue): boolean {
    return this.entries.length > 1 && !queue.joins && queue.isFlushed && !queue.isOver &&
      !this.excepts(queue);
  }

  /** Sends the entries to a queue. */
  giveTo(queue: SendQueue): void {
    if (queue.isOver) return;
    if (queue.isFlushed && !this.excepts(queue) && !this.#exceeds(queue)) {
      for (const packed of this.frames(queue.joins)) queue.pass(packed);
      return;
    }
    const entries = this.entriesFor(queue);
    if (entries.length > 0) queue.merge(entries);
  }
}

/**
 * The broadcasts of one flusher. The members of each broadcast are visited once, and all members
 * without other pending entries share one frame.
 */
export class FanOut implements Flushable {
  readonly #flusher: Flusher;
  #broadcasts: Pick<Broadcast<object>, "take">[] = [];

  constructor(flusher: Flusher) {
    this.#flusher = flusher;
  }

  /**
   * Includes a broadcast in the next flush. Call this once per broadcast and flush.
   */
  mark(broadcast: Pick<Broadcast<object>, "take">): void {
    this.#broadcasts.push(broadcast);
    this.#flusher.mark(this);
  }

  /** Sends the collected entries to the members, see {@linkcode Flushable}. */
  flush(): void {
    if (this.#broadcasts.length === 0) return;
    // Taken first, because anything that an application's policy publishes in the meantime belongs
    // to the next flush.
    const batches = this.#broadcasts.map((broadcast) => broadcast.take());
    this.#broadcasts = [];
    const single = new Map<SharedMessages, SendQueue[]>();
    const give = (queue: SendQueue, share: SharedMessages) => {
      if (!share.isSingleFor(queue)) share.giveTo(queue);
      else if (single.get(share)?.push(queue) === undefined) single.set(share, [queue]);
    };
    const [first] = batches;
    // The most frequent case needs no map of members.
    if (first !== undefined && batches.length === 1) {
      const share = new SharedMessages(first.entries, first.exceptions);
      for (const queue of [...first.members]) give(queue, share);
    } else for (const [queue, share] of sharesOf(batches)) give(queue, share);
    if (single.size > 0) sendSingly(single);
  }
}

/** Returns the messages of each member of some batches. */
function sharesOf(batches: readonly BroadcastBatch[]): Map<SendQueue, SharedMessages> {
  const shares = new Map<SendQueue, SharedMessages>();
  for (const batch of batches) {
    const alone = new SharedMessages(batch.entries, batch.exceptions);
    for (const queue of batch.members) shares.set(queue, shares.get(queue)?.and(batch) ?? alone);
  }
  return shares;
}

/**
 * Sends one entry to all queues before the next entry, because writing to a connection that is
 * still busy with the previous frame is slower.
 */
function sendSingly(groups: ReadonlyMap<SharedMessages, readonly SendQueue[]>): void {
  for (let i = 0, isDone = false; !isDone; i++) {
    isDone = true;
    for (const [share, queues] of groups) {
      const packed = share.frames(false)[i];
      if (packed === undefined) continue;
      isDone = false;
      for (const queue of queues) queue.pass(packed);
    }
  }
}
