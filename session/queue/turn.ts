/**
 * Send queue of one session, bounded in messages and bytes, and the turn of the event loop that
 * flushes the queues of all sessions in as few frames as possible.
 */
import type { SendQueueStats } from "../types.ts";
import { QueueFullError } from "../../errors.ts";
import type { Frame, MessageFrames } from "../../transport/connection.ts";
import { Signal } from "../../base/signal.ts";
import type { EncodedMessage } from "../wire/encode.ts";
import { encodeEnvelope } from "../wire/envelope.ts";
import { utf8Length } from "../wire/utf8.ts";
import type { Runtime } from "../../base/runtime.ts";

/**
 * Policies of a full send queue:
 *
 * - `close` ends the session with 4507: the peer reconnects and starts afresh.
 * - `drop-oldest` and `drop-newest` make room, and tell the peer the number of dropped messages.
 * - `latest` keeps the newest message of each topic from the moment that the peer falls behind;
 *   older ones of the topic are dropped and counted.
 */
export type OverflowPolicy = "close" | "drop-oldest" | "drop-newest" | "latest";

/** Bounds of a send queue; `sendQueue` of `SessionLimits` documents these. */
export interface SendQueueBounds {
  /** Most waiting messages. */
  readonly maxMessages: number;
  /** Most waiting bytes. */
  readonly maxBytes: number;
  /** Policy of a full queue. */
  readonly policy: OverflowPolicy | ((topic: string) => OverflowPolicy);
}

/**
 * Buffered bytes of the connection above which further messages wait here, where a policy can
 * drop them.
 */
export const HIGH_WATER_MARK = 65_536;

/** Sees the frames of one session, for an inspector. MUST NOT throw. */
export interface FrameTap {
  /** Called with a frame of the peer, before the session handles that frame. */
  received(frame: Frame): void;
  /** Called with a frame that this end hands to the connection. */
  sent(frame: Frame): void;
}

/** The session, as the send queue sees it. */
export interface SendQueueOwner {
  /** Sees the frames, while an inspector follows the session. */
  readonly tap?: FrameTap | undefined;
  /**
   * True if several envelopes may share a frame, and the peer knows binary messages and control.
   */
  readonly joins: boolean;
  /** Ends the session because the queue is full and the policy is `close`. */
  overflow(error: QueueFullError): void;
}

/**
 * The send queue of one session.
 *
 * Messages wait only while the connection buffers more than {@linkcode HIGH_WATER_MARK} bytes; then
 * the bounds apply. Answers and control are never dropped: without room for one, the session
 * closes.
 */
export class SendQueue extends Signal {
  /** A slot for the fan-out of broadcasts, which sets and clears the slot within one turn. */
  share: object | undefined = undefined;
  /** True while the turn has this queue on its list. */
  isMarked = false;
  /** Largest message that the peer accepts, in bytes. A larger one becomes a gap. */
  maxMessageBytes = Infinity;

  readonly #frames: MessageFrames;
  readonly #turn: Turn;
  readonly #owner: SendQueueOwner;
  readonly #limits: SendQueueBounds;
  #entries: QueuedMessage[] = [];
  #bytes = 0;
  // Notices of drops stand in the list, but take no room from messages.
  #notices = 0;
  #isHeld = false;
  #isEnded = false;
  #failure: QueueFullError | undefined;
  #policyError: unknown;
  // Upper limit of the connection's buffer: its last reading and the bytes handed over since.
  #handed = 0;
  #sentMessages = 0;
  #sentBytes = 0;
  #dropped = 0;

  /** Creates the queue of a session on `frames`. */
  constructor(
    frames: MessageFrames,
    owner: SendQueueOwner,
    options: { readonly turn: Turn; readonly sendQueue: SendQueueBounds },
  ) {
    super();
    this.#frames = frames;
    this.#owner = owner;
    this.#turn = options.turn;
    this.#limits = options.sendQueue;
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
   * True if the queue takes no more messages, after its end or a failure that will end the session.
   */
  get isOver(): boolean {
    return this.#isEnded || this.#failure !== undefined;
  }

  /** True if several envelopes may share a frame. */
  get joins(): boolean {
    return this.#owner.joins;
  }

  /** Current counters. */
  get stats(): SendQueueStats {
    return {
      queuedMessages: this.#entries.length,
      queuedBytes: this.#bytes,
      sentMessages: this.#sentMessages,
      sentBytes: this.#sentBytes,
      droppedMessages: this.#dropped,
    };
  }

  /**
   * Adds an entry of this session alone.
   *
   * @param message The entry; its sequence is the turn's next.
   * @throws {QueueFullError} If the policy is `close` and there is no room. The session closes.
   */
  push(message: QueuedMessage): void {
    if (this.#isEnded) return;
    const entry = this.fitting(message);
    if (this.#entries.length > 0 && !this.#isHeld && this.isFullFor(entry)) this.#turn.flush();
    if (this.#failure !== undefined || !this.admit(entry)) {
      const error = this.#failure!;
      this.fail();
      throw error;
    }
    if (!this.#isHeld) this.#turn.mark(this);
  }

  /** Returns an entry, or a gap in its place if the peer does not accept a message of that size. */
  fitting(entry: QueuedMessage): QueuedMessage {
    if (entry.size <= this.maxMessageBytes || entry.topic === "") return entry;
    this.#dropped++;
    return gapOf(entry);
  }

  /** Adds an entry, making room by policy. Returns false if the queue has no room. */
  admit(entry: QueuedMessage): boolean {
    if (entry instanceof DropNotice) {
      this.#addNotice(entry, this.#entries.length);
      return true;
    }
    const policy = this.#policyOf(entry);
    if (this.#isHeld && policy === "latest" && !entry.isProtected) this.#dropOlder(entry.topic);
    while (this.isFullFor(entry)) {
      if (policy === "drop-newest") {
        this.#noteDrop(entry.topic, this.#entries.length);
        return true;
      }
      if (policy === "close" || !this.#dropOldest()) {
        this.#failure = new QueueFullError(
          `Cannot send: the send queue is full (${this.#entries.length} messages, ${this.#bytes} bytes)`,
          this.#policyError === undefined ? undefined : { cause: this.#policyError },
        );
        return false;
      }
    }
    this.#add(entry, this.#entries.length);
    return true;
  }

  /**
   * Removes and returns the entries that were added later than an entry of a broadcast, so that the
   * caller can merge both in order.
   */
  takeBack(sequence: number): QueuedMessage[] {
    const last = this.#entries.findLastIndex((entry) => entry.sequence <= sequence);
    return this.#remove(last + 1, Infinity);
  }

  /** Hands a frame with this number of messages to the connection at once. */
  hand({ frame, size, parts }: PackedFrame, messages: number): void {
    if (typeof frame !== "string" && !this.#owner.joins) {
      this.#dropped += messages;
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

  /**
   * Hands entries to the connection until the connection is behind.
   *
   * @returns False if the queue failed before.
   */
  flush(): boolean {
    if (this.#failure !== undefined) return false;
    const entries = this.#entries;
    let from = 0;
    while (from < entries.length && !this.#isHeld && !this.#isEnded) {
      const packed = packNext(entries, from, this.#owner.joins);
      this.hand(packed, packed.end - from);
      from = packed.end;
    }
    if (from === entries.length) this.#clear();
    else this.#remove(0, from);
    if (this.isFlushed) this.notify();
    return true;
  }

  /** Closes the session because the queue is full. */
  fail(): void {
    const error = this.#failure;
    if (error !== undefined && !this.#isEnded) this.#owner.overflow(error);
  }

  /**
   * Waits until all messages were handed to the connection.
   *
   * @returns Resolves at once if no message waits, or when the queue has ended.
   */
  flushed(): Promise<void> {
    if (this.#isEnded || this.isFlushed) return Promise.resolve();
    return this.changed();
  }

  /** Drops all waiting messages and takes no more. */
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
      else this.#turn.mark(this);
    });
  }

  /**
   * True if an answer in parts may add another part: such answers leave half of the queue to other
   * messages.
   */
  get hasRoom(): boolean {
    const { maxMessages, maxBytes } = this.#limits;
    return !this.#isHeld && this.#entries.length * 2 < maxMessages && this.#bytes * 2 < maxBytes;
  }

  /** Returns true if the queue has no room for an entry. */
  isFullFor(entry: Pick<QueuedMessage, "size">): boolean {
    return this.#entries.length - this.#notices >= this.#limits.maxMessages ||
      (this.#entries.length > this.#notices &&
        this.#bytes + entry.size > this.#limits.maxBytes);
  }

  /**
   * Returns the policy for an entry. A protected entry makes room by `drop-oldest` instead of
   * `drop-newest`, which would drop the entry itself.
   */
  #policyOf(entry: QueuedMessage): OverflowPolicy {
    const { policy } = this.#limits;
    const own = typeof policy === "function" ? this.#ask(policy, entry.topic) : policy;
    return entry.isProtected && own === "drop-newest" ? "drop-oldest" : own;
  }

  /**
   * Calls the application's policy. The call runs amid a flush of many sessions, so an error closes
   * only this session.
   */
  #ask(policy: (topic: string) => OverflowPolicy, topic: string): OverflowPolicy {
    try {
      return policy(topic);
    } catch (error) {
      this.#policyError = error;
      return "close";
    }
  }

  #add(entry: QueuedMessage, at: number): void {
    if (at === this.#entries.length) this.#entries.push(entry);
    else this.#entries.splice(at, 0, entry);
    if (entry instanceof DropNotice) this.#notices++;
    else this.#bytes += entry.size;
  }

  /** Adds a notice at an end. A notice always has room, because its message is gone. */
  #addNotice(notice: DropNotice, at: number): void {
    this.#add(notice, at);
    this.#joinNotices(at || 1);
  }

  /** Makes one notice of two neighbours at an index, so that there are no more notices than messages. */
  #joinNotices(at: number): void {
    const [before, after] = [this.#entries[at - 1], this.#entries[at]];
    if (!(before instanceof DropNotice && after instanceof DropNotice)) return;
    this.#remove(at - 1, 2);
    this.#add(before.and(after), at - 1);
  }

  #remove(from: number, count: number): QueuedMessage[] {
    const removed = this.#entries.splice(from, count);
    for (const entry of removed) {
      if (entry instanceof DropNotice) this.#notices--;
      else this.#bytes -= entry.size;
    }
    return removed;
  }

  #clear(): void {
    this.#entries = [];
    this.#bytes = 0;
    this.#notices = 0;
  }

  #dropOlder(topic: string): boolean {
    return this.#drop(
      this.#entries.findLastIndex((entry) => entry.topic === topic && !entry.isProtected),
    );
  }

  #dropOldest(): boolean {
    return this.#drop(this.#entries.findIndex((entry) => !entry.isProtected));
  }

  /** Drops the entry at an index. Returns false for a negative index. */
  #drop(at: number): boolean {
    if (at < 0) return false;
    const [entry] = this.#remove(at, 1);
    this.#joinNotices(at);
    this.#noteDrop(entry!.topic, 0);
    return true;
  }

  /** Counts a dropped message, and adds a notice at an end of the queue. */
  #noteDrop(topic: string, at: number): void {
    this.#dropped++;
    if (!this.#owner.joins) return;
    const beside = this.#entries[at && at - 1];
    this.#addNotice(new DropNotice(1, topic, beside?.sequence ?? 0), at);
  }
}

/** Makes the notice that takes the place of a message that is too large for the peer. */
function gapOf({ topic, position, sequence }: QueuedMessage): QueuedMessage {
  const { epoch, offset, tag } = position ?? {};
  const frame = encodeEnvelope({ gap: topic, reason: "too-large", epoch, offset, tag });
  return { frame, size: utf8Length(frame), topic, sequence, isProtected: true };
}

/** Notice to the peer of the number of messages missing at this place. */
class DropNotice implements QueuedMessage {
  declare readonly frame: string;
  declare readonly size: number;
  readonly isProtected = true;
  readonly #count: number;

  /** Creates a notice for one topic, or for several if `topic` is empty. */
  constructor(count: number, readonly topic: string, readonly sequence: number) {
    this.#count = count;
    this.frame = encodeEnvelope(topic === "" ? { dropped: count } : { dropped: count, topic });
    this.size = utf8Length(this.frame);
  }

  /** Returns the sum of two notices, at the place of this one. */
  and(other: DropNotice): DropNotice {
    const topic = other.topic === this.topic ? this.topic : "";
    return new DropNotice(this.#count + other.#count, topic, this.sequence);
  }
}

/** Most bytes of a frame that joins several envelopes. */
export const MAX_JOINED_BYTES = 65_536;

/** One encoded envelope that waits. Immutable, so that any number of sessions can share it. */
export interface QueuedMessage extends EncodedMessage {
  /** Position in the order of everything sent in one {@linkcode Turn}. */
  readonly sequence: number;
  /** True for answers and control, which are never dropped. */
  readonly isProtected: boolean;
  /** True for a message that many sessions get, which therefore holds no secret of one session. */
  readonly isShared?: boolean;
}

/** A frame made of one or more consecutive entries. */
export interface PackedFrame {
  /** The frame to send. */
  readonly frame: Frame;
  /** Size in bytes. */
  readonly size: number;
  /** Index after the last packed entry. */
  readonly end: number;
  /** The packed entries, if many sessions get all of these. */
  readonly parts: readonly QueuedMessage[] | undefined;
}

/**
 * Packs entries into one frame, as many as the connection allows.
 *
 * @param entries The entries to send, in order.
 * @param from Index of the first entry to pack.
 * @param joins True if several text envelopes may share a frame.
 * @returns The next frame.
 */
function packNext(entries: readonly QueuedMessage[], from: number, joins: boolean): PackedFrame {
  let { frame, size, isShared } = entries[from]!;
  let end = from + 1;
  while (joins && typeof frame === "string" && end < entries.length) {
    const next = entries[end]!;
    if (typeof next.frame !== "string" || size + 1 + next.size > MAX_JOINED_BYTES) break;
    frame += "\n" + next.frame;
    size += 1 + next.size;
    isShared &&= next.isShared;
    end++;
  }
  return { frame, size, end, parts: isShared ? entries.slice(from, end) : undefined };
}

/**
 * Packs all entries.
 *
 * @param entries The entries to send, in order.
 * @param joins True if several text envelopes may share a frame.
 * @returns The frames, in order.
 */
export function packAll(entries: readonly QueuedMessage[], joins: boolean): PackedFrame[] {
  const frames: PackedFrame[] = [];
  for (let from = 0; from < entries.length; from = frames[frames.length - 1]!.end) {
    frames.push(packNext(entries, from, joins));
  }
  return frames;
}

/** Work done for many queues at once when a turn ends. */
export interface TurnWork {
  /** Hands entries to the queues; `failed` takes the queues without room. */
  handOut(failed: SendQueue[]): void;
}

/**
 * Gathers outgoing messages until the turn of the event loop ends, then sends them.
 *
 * A server has one turn for all its sessions. Each session keeps the order of all messages within a
 * turn, broadcasts included.
 */
export class Turn {
  /**
   * The broadcasts of the turn, set by the first broadcast, so that a page without broadcasts does
   * not load their code.
   *
   * @ignore
   */
  fanOut: TurnWork | undefined = undefined;

  readonly #runtime: Runtime;
  #queues: SendQueue[] = [];
  #sequence = 0;
  #isScheduled = false;
  #isFlushing = false;
  readonly #onTurn = () => {
    this.#isScheduled = false;
    this.flush();
  };

  /**
   * Creates a turn.
   *
   * @param runtime Schedules the end of a turn.
   */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Returns the sequence number of the next entry.
   *
   * @returns A number larger than all earlier ones.
   */
  nextSequence(): number {
    return ++this.#sequence;
  }

  /**
   * Flushes a queue when the turn ends. Idempotent.
   *
   * @ignore
   * @param queue A queue with waiting messages.
   */
  mark(queue: SendQueue): void {
    if (queue.isMarked) return;
    queue.isMarked = true;
    this.#queues.push(queue);
    this.wake();
  }

  /**
   * Flushes all queues now. Called when the turn ends, before the members of a broadcast change,
   * and when the gathered messages reach their bound.
   */
  flush(): void {
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    const failed: SendQueue[] = [];
    try {
      this.fanOut?.handOut(failed);
      const queues = this.#queues;
      this.#queues = [];
      for (const queue of queues) {
        queue.isMarked = false;
        if (!queue.flush()) failed.push(queue);
      }
    } finally {
      this.#isFlushing = false;
    }
    // Deferred, because closing a session runs the application's code. That code may change the
    // members of the broadcast that caused this flush.
    for (const queue of failed) queueMicrotask(() => queue.fail());
  }

  /**
   * Schedules a flush at the end of the turn.
   *
   * @ignore
   */
  wake(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#runtime.schedule(this.#onTurn);
  }
}
