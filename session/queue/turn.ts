/**
 * Outgoing messages. This module contains the send queue of one session, which is bounded in
 * messages and bytes; broadcasts to many sessions; and the event loop turn, which flushes all of
 * them in as few frames as possible.
 */
import type { SendQueueStats } from "../types.ts";
import { CloseCode, QueueFullError } from "../../errors.ts";
import type { MessageFrames } from "../../transport/connection.ts";
import { Signal } from "../../base/signal.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { EncodedMessage } from "../wire/encode.ts";
import {
  type FrameTap,
  MAX_JOINED_BYTES,
  mergeEntries,
  packAll,
  type PackedFrame,
  packNext,
  type QueuedMessage,
} from "./frames.ts";

/**
 * Policies for a full send queue:
 *
 * - `close` closes the session with 4507, and the peer reconnects and starts afresh.
 * - `drop-oldest` and `drop-newest` make room by dropping messages, and send the peer the number of
 *   dropped messages.
 * - `latest` keeps only the newest message of each topic as soon as the peer falls behind; older
 *   messages of the topic are dropped and counted.
 */
export type OverflowPolicy = "close" | "drop-oldest" | "drop-newest" | "latest";

/** The bounds of a send queue. See `sendQueue` in `SessionLimits`. */
export interface SendQueueBounds {
  /** Maximum number of waiting messages. */
  readonly maxMessages: number;
  /** Maximum number of waiting bytes. */
  readonly maxBytes: number;
  /** Policy of a full queue. */
  readonly policy: OverflowPolicy | ((topic: string) => OverflowPolicy);
}

/** The turn, bounds and policy that all send queues of a server or a client share. */
export interface SendQueueOptions {
  /** Flushes the queues. */
  readonly turn: Turn;
  readonly sendQueue: SendQueueBounds;
  /** Makes room in a full queue; `undefined` if the policy is `close`. */
  readonly overflow?: Overflow | undefined;
  /** On a server: creates the notice that replaces a message that is too large for a client. */
  readonly gapOf?: ((entry: QueuedMessage) => QueuedMessage) | undefined;
}

/** Makes room in full queues. A client loads the code for this only if its policy drops messages. */
export interface Overflow {
  /**
   * Makes room for an entry according to the policy.
   *
   * @returns True if the entry was dropped, or is in the queue already; false if the queue still
   * has to add it, or to fail because it is full.
   */
  settles(queue: SendQueue, entry: QueuedMessage): boolean;
}

/**
 * If the connection buffers more bytes than this, further messages wait in this queue, where a
 * policy can drop them.
 */
export const HIGH_WATER_MARK = 65_536;

/**
 * Maximum number of messages collected in one turn. When this number is reached, they are flushed
 * early.
 */
const MAX_PENDING_MESSAGES = 256;

/** The session, as the send queue sees it. */
export interface SendQueueOwner {
  /** Observes the frames while an inspector follows the session. */
  readonly tap?: FrameTap | undefined;
  /**
   * True if several envelopes may share a frame, and the peer supports binary messages and control
   * envelopes.
   */
  readonly joins: boolean;
  /** Closes the session because the queue is full and the policy is `close`. */
  abort(code: number, reason: string, error: QueueFullError): void;
}

/**
 * The send queue of one session.
 *
 * Messages wait only while the connection buffers more than {@linkcode HIGH_WATER_MARK} bytes. The
 * bounds then apply. Replies and control envelopes are never dropped. If there is no room for one
 * of them, the session closes.
 */
export class SendQueue extends Signal {
  /**
   * Size of the largest message that the peer accepts, in bytes. A larger message becomes a gap.
   */
  maxMessageBytes = Infinity;
  /** Number of dropped messages. */
  dropped = 0;
  /** The error of a policy that threw. */
  policyError: unknown;

  readonly #frames: MessageFrames;
  readonly #owner: SendQueueOwner;
  readonly #options: SendQueueOptions;
  #entries: QueuedMessage[] = [];
  #bytes = 0;
  // Excludes drop notices, which are in the list but don't count towards the bounds.
  #messages = 0;
  #isHeld = false;
  #isEnded = false;
  #failure: QueueFullError | undefined;
  // An upper bound for the connection's buffer: the last measured size plus the bytes passed since.
  #handed = 0;
  #sentMessages = 0;
  #sentBytes = 0;

  /** Creates the send queue of a session on `frames`. */
  constructor(frames: MessageFrames, owner: SendQueueOwner, options: SendQueueOptions) {
    super();
    this.#frames = frames;
    this.#owner = owner;
    this.#options = options;
  }

  /** True if no message waits, and the connection is not behind. */
  get isFlushed(): boolean {
    return this.#entries.length === 0 && !this.#isHeld;
  }

  /** True while the connection is behind. */
  get isHeld(): boolean {
    return this.#isHeld;
  }

  /**
   * True if the queue accepts no more messages, because of `end()` or a failure that will close the
   * session.
   */
  get isOver(): boolean {
    return this.#isEnded || this.#failure !== undefined;
  }

  /** True if several envelopes may share a frame. */
  get joins(): boolean {
    return this.#owner.joins;
  }

  get stats(): SendQueueStats {
    return {
      queuedMessages: this.#messages + this.#entries.filter(({ isNotice }) => isNotice).length,
      queuedBytes: this.#bytes,
      sentMessages: this.#sentMessages,
      sentBytes: this.#sentBytes,
      droppedMessages: this.dropped,
    };
  }

  /** Adds a message for this session alone. See {@linkcode push}. */
  add({ frame, size, topic, position }: EncodedMessage, isProtected: boolean): void {
    const sequence = this.#options.turn.nextSequence();
    this.push({ frame, size, topic, position, sequence, isProtected });
  }

  /**
   * Adds an entry for this session alone.
   *
   * @param message The entry, with the turn's next sequence number.
   * @throws {QueueFullError} If the policy is `close` and there is no room. The session closes.
   */
  push(message: QueuedMessage): void {
    if (this.#isEnded) return;
    const entry = this.fitting(message);
    if (this.#entries.length > 0 && !this.#isHeld && this.isFullFor(entry)) {
      this.#options.turn.flush();
    }
    if (this.#failure !== undefined || !this.#admit(entry)) {
      this.#fail();
      throw this.#failure!;
    }
    if (!this.#isHeld) this.#options.turn.mark(this);
  }

  /** Returns the entry, or a gap instead if the entry is too large for the peer. */
  fitting(entry: QueuedMessage): QueuedMessage {
    const { gapOf } = this.#options;
    if (!gapOf || entry.size <= this.maxMessageBytes || entry.topic === "") return entry;
    this.dropped++;
    return gapOf(entry);
  }

  /** Passes a frame of a broadcast to the connection, or adds its entries if earlier ones wait. */
  pass(packed: PackedFrame): void {
    // A failed queue will close soon, and must not show a gap until then.
    if (this.isOver) return;
    if (this.isFlushed) return this.#hand(packed);
    for (const entry of packed.parts!) if (!this.#admit(entry)) return;
  }

  /**
   * Adds entries of broadcasts, and sends them with the session's own entries in the order of their
   * sequence.
   *
   * @param entries The entries, in order; at least one.
   */
  merge(entries: readonly QueuedMessage[]): void {
    const { sequence } = entries[0]!;
    const own = this.#entries.findLastIndex((entry) => entry.sequence <= sequence) + 1;
    for (const entry of mergeEntries(this.remove(own, Infinity), entries)) {
      // If room is needed, entries that are only waiting for the end of the turn are flushed.
      if (!this.#isHeld && this.isFullFor(entry)) this.flush();
      if (!this.#admit(entry)) return;
    }
    this.flush();
  }

  /** Adds an entry, and makes room according to the policy. Returns false if there is no room. */
  #admit(entry: QueuedMessage): boolean {
    if (this.#options.overflow?.settles(this, entry)) return true;
    if (this.isFullFor(entry)) {
      this.#failure = new QueueFullError(
        `Cannot send: the send queue is full (${this.#entries.length} messages, ${this.#bytes} bytes)`,
        { cause: this.policyError },
      );
      // Deferred, because closing a session runs application code, which may change the members of
      // a broadcast that is being sent.
      queueMicrotask(() => this.#fail());
      return false;
    }
    this.insert(entry, this.#entries.length);
    return true;
  }

  #hand({ frame, size, messages, parts }: PackedFrame): void {
    if (typeof frame !== "string" && !this.#owner.joins) {
      this.dropped += messages;
      return;
    }
    this.#owner.tap?.sent(frame);
    this.#frames.send(frame, parts);
    this.#sentMessages += messages;
    this.#sentBytes += size;
    this.#handed += size;
    if (this.#handed < HIGH_WATER_MARK) return;
    this.#handed = this.#frames.bufferedAmount;
    if (this.#handed >= HIGH_WATER_MARK) this.#hold();
  }

  /** Passes entries to the connection until it is behind. */
  flush(): void {
    if (this.#failure !== undefined) return;
    const entries = this.#entries;
    let from = 0;
    while (from < entries.length && !this.#isHeld && !this.#isEnded) {
      const packed = packNext(entries, from, this.#owner.joins);
      this.#hand(packed);
      from = packed.end;
    }
    if (from < entries.length) this.remove(0, from);
    else if (from > 0) this.#clear();
    if (this.isFlushed) this.notify();
  }

  /** Closes the session because the queue is full. Idempotent. */
  #fail(): void {
    if (this.#isEnded) return;
    this.#owner.abort(CloseCode.queueFull, "The send queue is full", this.#failure!);
  }

  /** Waits until all messages were passed to the connection, or the queue has ended. */
  flushed(): Promise<void> {
    if (this.#isEnded || this.isFlushed) return Promise.resolve();
    return this.changed();
  }

  /** Drops all waiting messages and accepts no more. */
  end(): void {
    this.#isEnded = true;
    this.#clear();
    this.notify();
  }

  #hold(): void {
    this.#isHeld = true;
    this.#frames.drained().then(() => {
      this.#isHeld = false;
      this.#handed = this.#frames.bufferedAmount;
      if (this.#isEnded) return;
      if (this.#entries.length === 0) this.notify();
      else this.#options.turn.mark(this);
    });
  }

  /**
   * True if a streaming response may add another part. Streaming responses use at most half of the
   * queue.
   */
  get hasRoom(): boolean {
    const { maxMessages, maxBytes } = this.#options.sendQueue;
    return !this.#isHeld && this.#messages * 2 < maxMessages && this.#bytes * 2 < maxBytes;
  }

  /** True if the queue has no room for an entry. */
  isFullFor(entry: Pick<QueuedMessage, "size">): boolean {
    const { maxMessages, maxBytes } = this.#options.sendQueue;
    return this.#messages >= maxMessages ||
      (this.#messages > 0 && this.#bytes + entry.size > maxBytes);
  }

  /** The waiting entries, in order. */
  get entries(): readonly QueuedMessage[] {
    return this.#entries;
  }

  /** Adds an entry at an index, even if the queue is full. */
  insert(entry: QueuedMessage, at: number): void {
    if (at === this.#entries.length) this.#entries.push(entry);
    else this.#entries.splice(at, 0, entry);
    this.#count(entry, 1);
  }

  /** Removes and returns entries. */
  remove(from: number, count: number): QueuedMessage[] {
    const removed = this.#entries.splice(from, count);
    for (const entry of removed) this.#count(entry, -1);
    return removed;
  }

  #count(entry: QueuedMessage, sign: 1 | -1): void {
    if (entry.isNotice) return;
    this.#messages += sign * (entry.messages ?? 1);
    this.#bytes += sign * entry.size;
  }

  #clear(): void {
    this.#entries = [];
    this.#bytes = 0;
    this.#messages = 0;
  }
}

/** Adds the messages of a page to a queue, as whole frames that the queue must not drop. */
export function pushPage(queue: SendQueue, turn: Turn, page: readonly EncodedMessage[]): void {
  const entries = page.map((message) =>
    queue.fitting({ ...message, sequence: turn.nextSequence(), isProtected: true })
  );
  for (const { frame, size, end, messages } of packAll(entries, queue.joins)) {
    const { sequence } = entries[end - 1]!;
    queue.push({ frame, size, topic: "", sequence, isProtected: true, messages });
  }
}

/** Collects messages, and sends them when it is flushed. */
export interface Flushable {
  /** Sends the collected messages. MUST NOT throw. */
  flush(): void;
}

/**
 * Collects outgoing messages until the event loop turn ends, and then sends them.
 *
 * A server has one turn for all its sessions. Each session keeps the order of all its messages
 * within a turn, including broadcasts.
 */
export class Turn {
  readonly #runtime: Runtime;
  #distributor: Flushable | undefined;
  #queues = new Set<Flushable>();
  #sequence = 0;
  #isScheduled = false;
  #isFlushing = false;

  /**
   * Creates a turn.
   *
   * @param runtime The runtime, which schedules the end of a turn.
   */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Returns the sequence number of the next entry, larger than all earlier ones. */
  nextSequence(): number {
    return ++this.#sequence;
  }

  /**
   * Flushes a queue with waiting messages when the turn ends. Idempotent.
   *
   * @ignore
   */
  mark(queue: Flushable): void {
    this.#queues.add(queue);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#runtime.schedule(() => {
      this.#isScheduled = false;
      this.flush();
    });
  }

  /**
   * Returns the part that passes broadcasts to the queues, and is flushed before them. The first
   * broadcast creates it, so that a bundle without broadcasts omits its code.
   *
   * @ignore
   */
  distributor<T extends Flushable>(create: new (turn: Turn) => T): T {
    return (this.#distributor ??= new create(this)) as T;
  }

  /**
   * Flushes all queues now. Called when the turn ends, before the members of a broadcast change,
   * and when the collected messages reach their limit.
   */
  flush(): void {
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    try {
      this.#distributor?.flush();
      const queues = this.#queues;
      this.#queues = new Set();
      for (const queue of queues) queue.flush();
    } finally {
      this.#isFlushing = false;
    }
  }
}

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
  readonly #turn: Turn;
  readonly #fanOut: FanOut;
  readonly #members = new Map<S, SendQueue>();
  #entries: QueuedMessage[] = [];
  #bytes = 0;
  #sent = 0;
  #exceptions: Map<QueuedMessage, SendQueue> | undefined;

  /** Creates an empty set of sessions of one turn. */
  constructor(turn: Turn) {
    this.#turn = turn;
    this.#fanOut = turn.distributor(FanOut);
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
   * @param session A session of the same turn.
   * @param queue Its send queue.
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
   * Sends a message to all members at the end of this turn.
   *
   * @param message The encoded message.
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
      sequence: this.#turn.nextSequence(),
      isProtected: false,
      isShared: true,
    };
    const excepted = except === undefined ? undefined : this.#members.get(except);
    if (excepted !== undefined) (this.#exceptions ??= new Map()).set(entry, excepted);
    if (this.#entries.push(entry) === 1) this.#fanOut.mark(this);
    this.#bytes += 1 + entry.size;
    if (this.#entries.length >= MAX_PENDING_MESSAGES || this.#bytes >= MAX_JOINED_BYTES) {
      this.#turn.flush();
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
    if (this.#entries.length > 0) this.#turn.flush();
  }
}

/** Entries of one broadcast in one turn. */
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
 * share in one turn. They are packed once for all sessions.
 */
export class SharedMessages {
  /** Entries in the order of their sequence. */
  readonly entries: readonly QueuedMessage[];
  /** Entries that one queue does not receive, each with that queue. */
  readonly exceptions: ReadonlyMap<QueuedMessage, SendQueue> | undefined;
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
    this.exceptions = exceptions;
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
        new Map([...this.exceptions ?? [], ...pending.exceptions ?? []]),
      );
      (this.#branches ??= new Map()).set(pending, next);
    }
    this.#key = pending;
    this.#next = next;
    return next;
  }

  /** True if this queue skips any of the entries. */
  excepts(queue: SendQueue): boolean {
    if (!this.exceptions?.size) return false;
    this.#excepted ??= new Set(this.exceptions.values());
    return this.#excepted.has(queue);
  }

  /** True if the largest entry is too large for the peer of a queue. */
  exceeds(queue: SendQueue): boolean {
    this.#largest ??= this.entries.reduce((most, { size }) => Math.max(most, size), 0);
    return this.#largest > queue.maxMessageBytes;
  }

  /**
   * Returns the entries of one queue, with gaps in place of entries that are too large for its
   * peer.
   */
  entriesFor(queue: SendQueue): readonly QueuedMessage[] {
    const { exceptions } = this;
    const entries = exceptions === undefined
      ? this.entries
      : this.entries.filter((entry) => exceptions.get(entry) !== queue);
    return this.exceeds(queue) ? entries.map((entry) => queue.fitting(entry)) : entries;
  }

  /** True for a queue that sends entries one by one and has no other pending entries. */
  isSingleFor(queue: SendQueue): boolean {
    return !queue.joins && queue.isFlushed && !queue.isOver && !this.excepts(queue);
  }

  /** Sends the entries to a queue. */
  giveTo(queue: SendQueue): void {
    if (queue.isOver) return;
    if (queue.isFlushed && !this.excepts(queue) && !this.exceeds(queue)) {
      for (const packed of this.frames(queue.joins)) queue.pass(packed);
      return;
    }
    const entries = this.entriesFor(queue);
    if (entries.length > 0) queue.merge(entries);
  }
}

/**
 * The broadcasts of one turn. The members of each broadcast are visited once, and all members
 * without other pending entries share one frame.
 */
export class FanOut implements Flushable {
  readonly #turn: Turn;
  #broadcasts: Pick<Broadcast<object>, "take">[] = [];

  constructor(turn: Turn) {
    this.#turn = turn;
  }

  /**
   * Adds a broadcast to the fan-out at the end of the turn. Call this once per broadcast and turn.
   */
  mark(broadcast: Pick<Broadcast<object>, "take">): void {
    this.#broadcasts.push(broadcast);
    this.#turn.mark(this);
  }

  /** Sends the collected entries to the members, see {@linkcode Flushable}. */
  flush(): void {
    if (this.#broadcasts.length === 0) return;
    // Taken first, because anything that an application's policy publishes in the meantime belongs
    // to the next turn.
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
