/** The send queue of one session, which is bounded in messages and bytes. */
import type { SendQueueStats } from "../types.ts";
import { CloseCode, QueueFullError } from "../../errors.ts";
import type { MessageFrames } from "../../transport/connection.ts";
import { Signal } from "../../base/signal.ts";
import type { EncodedMessage } from "../wire/encode.ts";
import type { Flusher } from "./flusher.ts";
import {
  type FrameTap,
  mergeEntries,
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

/** The flusher, bounds and policy that all send queues of a server or a client share. */
export interface SendQueueOptions {
  /** Flushes the queues. */
  readonly flusher: Flusher;
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
    const sequence = this.#options.flusher.nextSequence();
    this.push({ frame, size, topic, position, sequence, isProtected });
  }

  /**
   * Adds an entry for this session alone.
   *
   * @param message The entry, with the flusher's next sequence number.
   * @throws {QueueFullError} If the policy is `close` and there is no room. The session closes.
   */
  push(message: QueuedMessage): void {
    if (this.#isEnded) return;
    const entry = this.fitting(message);
    if (this.#entries.length > 0 && !this.#isHeld && this.isFullFor(entry)) {
      this.#options.flusher.flush();
    }
    if (this.#failure !== undefined || !this.#admit(entry)) {
      this.#fail();
      throw this.#failure!;
    }
    if (!this.#isHeld) this.#options.flusher.mark(this);
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
    if (this.isFlushed) this.#hand(packed);
    else this.merge(packed.parts!);
  }

  /**
   * Adds messages of broadcasts, and sends them together with the session's own messages, in the
   * order of their sequence numbers.
   *
   * @param entries At least one, by ascending sequence number.
   */
  merge(entries: readonly QueuedMessage[]): void {
    const { sequence } = entries[0]!;
    const own = this.#entries.findLastIndex((entry) => entry.sequence <= sequence) + 1;
    for (const entry of mergeEntries(this.remove(own, Infinity), entries)) {
      // If room is needed, entries that only wait for the next flush are sent.
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
      else this.#options.flusher.mark(this);
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
