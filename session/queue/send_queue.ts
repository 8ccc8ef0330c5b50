/**
 * What one session still has to send: bounded in messages and bytes, with a
 * policy for the case that the peer does not take it fast enough.
 *
 * @module
 */
import { QueueFullError } from "../../errors.ts";
import type { MessageFrames } from "../../transport/connection.ts";
import { Changing } from "../base/signal.ts";
import { type Entry, packNext } from "./packing.ts";
import { encodeEnvelope } from "../wire/envelope.ts";
import type { Sender, Turn } from "./turn.ts";
import { utf8Length } from "../wire/utf8.ts";

/**
 * What a full send queue does:
 *
 * - `close` ends the session with 4507: the peer reconnects and starts afresh.
 * - `drop-oldest` and `drop-newest` make room, and tell the peer how many were dropped.
 * - `latest` keeps the newest message of each topic from the moment that the peer falls
 *   behind; older ones of the topic are dropped, and counted.
 */
export type OverflowPolicy = "close" | "drop-oldest" | "drop-newest" | "latest";

/** Bounds of a send queue. */
export interface SendQueueOptions {
  /**
   * Most messages that wait.
   *
   * @default {256}
   */
  readonly maxMessages?: number;
  /**
   * Most bytes that wait; one message counts its UTF-8 length.
   *
   * @default {1048576}
   */
  readonly maxBytes?: number;
  /**
   * What happens to the message that finds the queue full; by topic, if given as a function.
   *
   * @default {"close"}
   */
  readonly policy?: OverflowPolicy | ((topic: string) => OverflowPolicy);
}

/** Counters of a send queue. */
export interface SendQueueStats {
  /** Messages waiting. */
  readonly queuedMessages: number;
  /** Bytes waiting. */
  readonly queuedBytes: number;
  /** Messages handed to the wire. */
  readonly sentMessages: number;
  /** Bytes handed to the wire. */
  readonly sentBytes: number;
  /** Messages dropped by policy, or because the wire cannot carry them. */
  readonly droppedMessages: number;
}

/** Above this many bytes held by the wire, the rest stays here, where it can be dropped. */
export const HIGH_WATER_MARK = 65_536;

/** How a send queue meets its session. */
export interface SendQueueOwner {
  /** Whether several envelopes may share a frame, and binary messages and control are known. */
  readonly joins: boolean;
  /** Ends the session: its queue is full and the policy is `close`. */
  overflow(error: QueueFullError): void;
}

/**
 * The send queue of one session.
 *
 * Messages wait only while the wire holds more than {@linkcode HIGH_WATER_MARK}
 * bytes; then the bounds apply. Answers and control are never dropped: where
 * no room can be made for one, the session closes.
 */
export class SendQueue extends Changing implements Sender {
  /** A slot for the code that hands over broadcasts, which sets and clears it within one turn. */
  share: object | undefined = undefined;
  /** Whether the turn knows that there is something to send. */
  isMarked = false;

  readonly #frames: MessageFrames;
  readonly #turn: Turn;
  readonly #owner: SendQueueOwner;
  readonly #limits: Required<SendQueueOptions>;
  #entries: Entry[] = [];
  #bytes = 0;
  // Notices of drops stand in the list, but take no room from messages.
  #notices = 0;
  #isHeld = false;
  #isEnded = false;
  #failure: QueueFullError | undefined;
  #policyError: unknown;
  // At most what the wire holds: its last reading and what was handed over since.
  #handed = 0;
  #sentMessages = 0;
  #sentBytes = 0;
  #dropped = 0;

  /** Creates the queue of a session on `frames`. */
  constructor(
    frames: MessageFrames,
    owner: SendQueueOwner,
    options: { readonly turn: Turn; readonly sendQueue: Required<SendQueueOptions> },
  ) {
    super();
    this.#frames = frames;
    this.#owner = owner;
    this.#turn = options.turn;
    this.#limits = options.sendQueue;
  }

  /** Whether everything was handed to the wire, and the wire is not behind. */
  get isFlushed(): boolean {
    return this.#entries.length === 0 && !this.#isHeld;
  }

  /** Whether the wire is behind. */
  get isHeld(): boolean {
    return this.#isHeld;
  }

  /** Whether it takes no more: it ended, or it failed and will be ended. */
  get isOver(): boolean {
    return this.#isEnded || this.#failure !== undefined;
  }

  /** Whether several envelopes may share a frame. */
  get joins(): boolean {
    return this.#owner.joins;
  }

  /** Counters, read when asked for. */
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
   * @param entry The entry; its sequence is the turn's next.
   * @throws {QueueFullError} If the policy is `close` and there is no room. The session closes.
   */
  push(entry: Entry): void {
    if (this.#isEnded) return;
    if (this.#entries.length > 0 && !this.#isHeld && this.isFullFor(entry)) this.#turn.flush();
    if (this.#failure !== undefined || !this.admit(entry)) {
      const error = this.#failure!;
      this.fail();
      throw error;
    }
    if (!this.#isHeld) this.#turn.mark(this);
  }

  /** Adds an entry, making room by policy; false if there is none. */
  admit(entry: Entry): boolean {
    if (entry instanceof DropNotice) {
      this.#addNotice(entry, "newest");
      return true;
    }
    const policy = this.#policyOf(entry);
    if (this.#isHeld && policy === "latest" && !entry.isProtected) this.#dropOlder(entry.topic);
    while (this.isFullFor(entry)) {
      if (policy === "drop-newest") {
        this.#noteDrop(entry.topic, "newest");
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

  /** Takes out what was added later than an entry of a broadcast, to be put in order with it. */
  takeBack(sequence: number): Entry[] {
    const last = this.#entries.findLastIndex((entry) => entry.sequence <= sequence);
    return this.#remove(last + 1, Infinity);
  }

  /** Hands a frame to the wire at once, with how many messages it holds. */
  hand(frame: string | Uint8Array, size: number, messages: number): void {
    if (typeof frame !== "string" && !this.#owner.joins) {
      this.#dropped += messages;
      return;
    }
    this.#frames.send(frame);
    this.#sentMessages += messages;
    this.#sentBytes += size;
    this.#handed += size;
    if (this.#handed < HIGH_WATER_MARK) return;
    this.#handed = this.#frames.bufferedAmount;
    if (this.#handed >= HIGH_WATER_MARK) this.#hold();
  }

  /**
   * Hands entries to the wire until it has enough.
   *
   * @returns False if the queue failed before.
   */
  flush(): boolean {
    if (this.#failure !== undefined) return false;
    const entries = this.#entries;
    let from = 0;
    while (from < entries.length && !this.#isHeld && !this.#isEnded) {
      const packed = packNext(entries, from, this.#owner.joins);
      this.hand(packed.frame, packed.size, packed.end - from);
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
   * Waits until everything was handed to the wire.
   *
   * @returns Resolves at once if nothing waits, or when the queue ended.
   */
  flushed(): Promise<void> {
    if (this.#isEnded || this.isFlushed) return Promise.resolve();
    return this.changed();
  }

  /** Forgets what waits and takes no more. */
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

  /** Whether there is no room for an entry. */
  isFullFor(entry: Entry): boolean {
    return this.#entries.length - this.#notices >= this.#limits.maxMessages ||
      (this.#entries.length > this.#notices &&
        this.#bytes + entry.size > this.#limits.maxBytes);
  }

  /** A protected entry makes room as the default policy of its session would. */
  #policyOf(entry: Entry): OverflowPolicy {
    const { policy } = this.#limits;
    const own = typeof policy === "function" ? this.#ask(policy, entry.topic) : policy;
    return entry.isProtected && own === "drop-newest" ? "drop-oldest" : own;
  }

  /** The application's function runs amid a flush of many sessions: its fault closes this one. */
  #ask(policy: (topic: string) => OverflowPolicy, topic: string): OverflowPolicy {
    try {
      return policy(topic);
    } catch (error) {
      this.#policyError = error;
      return "close";
    }
  }

  #add(entry: Entry, at: number): void {
    if (at === this.#entries.length) this.#entries.push(entry);
    else this.#entries.splice(at, 0, entry);
    if (entry instanceof DropNotice) this.#notices++;
    else this.#bytes += entry.size;
  }

  /** A notice always has room: it stands for what is gone already. Two that meet become one. */
  #addNotice(notice: DropNotice, end: "oldest" | "newest"): void {
    const last = this.#entries.length - 1;
    const at = end === "oldest" ? 0 : last;
    const other = this.#entries[at];
    if (other instanceof DropNotice) {
      this.#remove(at, 1);
      this.#add(other.and(notice), at);
    } else this.#add(notice, end === "oldest" ? 0 : last + 1);
  }

  #remove(from: number, count: number): Entry[] {
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

  /** Drops what stands at an index; false if that is none. */
  #drop(at: number): boolean {
    if (at < 0) return false;
    const [entry] = this.#remove(at, 1);
    this.#noteDrop(entry!.topic, "oldest");
    return true;
  }

  /** Counts a dropped message, and tells the peer where it is missing. */
  #noteDrop(topic: string, end: "oldest" | "newest"): void {
    this.#dropped++;
    if (!this.#owner.joins) return;
    const beside = this.#entries.at(end === "oldest" ? 0 : -1);
    this.#addNotice(new DropNotice(1, topic, beside?.sequence ?? 0), end);
  }
}

/** Tells the peer how many messages are missing at this place. */
class DropNotice implements Entry {
  readonly frame: string;
  readonly size: number;
  readonly isProtected = true;
  readonly #count: number;

  /** Of one topic, or of several where `topic` is empty. */
  constructor(count: number, readonly topic: string, readonly sequence: number) {
    this.#count = count;
    this.frame = encodeEnvelope(topic === "" ? { dropped: count } : { dropped: count, topic });
    this.size = utf8Length(this.frame);
  }

  /** The drops of both, at the place of this one. */
  and(other: DropNotice): DropNotice {
    const topic = other.topic === this.topic ? this.topic : "";
    return new DropNotice(this.#count + other.#count, topic, this.sequence);
  }
}
