/** The messages of one stream, within its limits. */
import { byteLength } from "./wire.ts";
import { hasWildcard, matches } from "./subjects.ts";
import type { StreamConfig } from "./config.ts";

/** A message of a stream. */
export interface StoredMessage {
  /** Sequence, starting at 1. */
  readonly seq: number;
  readonly subject: string;
  /** The block of headers; empty for none. */
  readonly headers: string;
  /** The payload. */
  readonly data: Uint8Array;
  /** Time of storage on the server's clock, in milliseconds since 1970. */
  readonly atMs: number;
}

/** Reasons for which a stream that discards new messages rejects a message. */
export type StoreRejection =
  | "maximum messages exceeded"
  | "maximum bytes exceeded"
  | "maximum messages per subject exceeded";

/**
 * Messages by sequence and by subject.
 *
 * - **Limits** apply to the number of messages in total and per subject, to their bytes, and to
 *   their age.
 * - **Sequences** never decrease, even after all messages are removed.
 * - **Bytes** are counted as a server counts them in its files or memory.
 */
export class StreamStore {
  /** The configuration, with the limits. */
  readonly config: StreamConfig;
  /** Ids of recent messages, to detect duplicates; oldest first. */
  readonly ids: Map<string, { readonly seq: number; readonly atMs: number }>;
  /** Id of the newest message; empty for none. */
  lastId = "";
  readonly #messages: Map<number, StoredMessage>;
  /** Sequences by subject, ascending. */
  readonly #bySubject: Map<string, number[]>;
  /**
   * Newest sequence by subject. As in the compared server, removing only the newest message does
   * not restore an earlier sequence until the next start.
   */
  readonly #newest: Map<string, number>;
  #firstSeq = 0;
  #lastSeq = 0;
  #lastAtMs = 0;
  #bytes = 0;

  /**
   * Creates a store.
   *
   * @param from A store to copy; empty by default.
   */
  constructor(config: StreamConfig, from?: StreamStore) {
    this.config = config;
    this.ids = new Map(from?.ids);
    this.#messages = new Map(from === undefined ? [] : from.#messages);
    this.#bySubject = new Map();
    this.#newest = new Map(from === undefined ? [] : from.#newest);
    if (from === undefined) return;
    for (const [subject, seqs] of from.#bySubject) this.#bySubject.set(subject, [...seqs]);
    this.#firstSeq = from.#firstSeq;
    this.#lastSeq = from.#lastSeq;
    this.#lastAtMs = from.#lastAtMs;
    this.#bytes = from.#bytes;
    this.lastId = from.lastId;
  }

  /** Number of messages. */
  get size(): number {
    return this.#messages.size;
  }

  /** Number of subjects with messages. */
  get subjects(): number {
    return this.#bySubject.size;
  }

  /** Bytes of all messages. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Sequence of the oldest message; without messages, the next sequence. */
  get firstSeq(): number {
    return this.#firstSeq;
  }

  /** Sequence of the newest message ever. */
  get lastSeq(): number {
    return this.#lastSeq;
  }

  /** Time of the newest message ever; 0 before the first. */
  get lastAtMs(): number {
    return this.#lastAtMs;
  }

  /** All messages, oldest first. */
  get messages(): IterableIterator<StoredMessage> {
    return this.#messages.values();
  }

  /**
   * Checks whether limits reject a message.
   *
   * @param bytes Bytes of headers and payload.
   * @returns The reason; `undefined` if the message can be stored.
   */
  rejection(subject: string, bytes: number): StoreRejection | undefined {
    const { discard, discard_new_per_subject: isPerSubject, max_msgs: most } = this.config;
    if (discard !== "new") return undefined;
    const { max_msgs_per_subject: mostPerSubject, max_bytes: mostBytes, storage } = this.config;
    const seqs = this.#bySubject.get(subject) ?? [];
    const isAtLimit = mostPerSubject > 0 && seqs.length >= mostPerSubject;
    if (isAtLimit && isPerSubject) return "maximum messages per subject exceeded";
    if (most > 0 && this.size >= most && !isAtLimit) return "maximum messages exceeded";
    if (mostBytes <= 0 || this.#bytes + bytes < mostBytes) return undefined;
    const replaced = isAtLimit ? this.#sizeOf(this.#messages.get(seqs[0]!)!) : 0;
    const isRoom = isAtLimit && (storage === "memory" ? replaced >= bytes : replaced > bytes);
    return isRoom ? undefined : "maximum bytes exceeded";
  }

  /**
   * Stores a message with the next sequence, and removes the oldest beyond the limits.
   *
   * @returns The sequence.
   */
  append(message: Omit<StoredMessage, "seq">): number {
    const seq = this.#lastSeq + 1;
    const stored = { ...message, seq };
    const { subject } = message;
    if (this.size === 0) this.#firstSeq = seq;
    this.#lastSeq = seq;
    this.#lastAtMs = message.atMs;
    this.#messages.set(seq, stored);
    this.#bytes += this.#sizeOf(stored);
    const seqs = this.#bySubject.get(subject);
    if (seqs === undefined) this.#bySubject.set(subject, [seq]);
    else seqs.push(seq);
    this.#newest.set(subject, seq);
    const { max_msgs: most, max_msgs_per_subject: mostPerSubject, max_bytes: bytes } = this.config;
    if (mostPerSubject > 0 && seqs !== undefined && seqs.length > mostPerSubject) {
      this.remove(seqs[0]!);
    }
    while (most > 0 && this.size > most) this.remove(this.#firstSeq);
    while (bytes > 0 && this.#bytes > bytes && this.size > 0) this.remove(this.#firstSeq);
    return seq;
  }

  /**
   * Removes a message.
   *
   * @returns False if there is no such message.
   */
  remove(seq: number): boolean {
    const message = this.#messages.get(seq);
    if (message === undefined) return false;
    this.#messages.delete(seq);
    this.#bytes -= this.#sizeOf(message);
    const seqs = this.#bySubject.get(message.subject)!;
    if (seqs.length === 1) {
      this.#bySubject.delete(message.subject);
      this.#newest.delete(message.subject);
    } else seqs.splice(firstFrom(seqs, seq), 1);
    if (seq === this.#firstSeq) {
      const [first] = this.#messages.keys();
      this.#firstSeq = first ?? this.#lastSeq + 1;
    }
    return true;
  }

  /**
   * Removes messages.
   *
   * @param filter Pattern of the subjects; all by default.
   * @param options `keep`: number of newest messages that remain. `before`: sequence of the first
   * message that remains.
   * @returns The number of removed messages.
   */
  purge(
    filter = ">",
    { keep = 0, before = 0 }: {
      readonly keep?: number | undefined;
      readonly before?: number | undefined;
    } = {},
  ): number {
    const isLiteral = !hasWildcard(filter);
    const found = isLiteral
      ? [...this.#bySubject.get(filter) ?? []]
      : [...this.#messages.values()].filter(({ subject }) => matches(filter, subject))
        .map(({ seq }) => seq);
    const outdated = before > 1
      ? found.filter((seq) => seq < before)
      : found.slice(0, Math.max(0, found.length - keep));
    for (const seq of outdated) this.remove(seq);
    if (filter === ">" && keep === 0 && before <= 1) this.#firstSeq = this.#lastSeq + 1;
    return outdated.length;
  }

  /**
   * Removes expired messages.
   *
   * @param nowMs The clock of the server.
   */
  expire(nowMs: number): void {
    const { max_age: ns } = this.config;
    if (ns === 0) return;
    for (const { seq, atMs } of this.#messages.values()) {
      if (atMs + ns / 1e6 > nowMs) return;
      this.remove(seq);
    }
  }

  /** Reads all messages again, as a server does at its start. */
  reload(): void {
    for (const [subject, seqs] of this.#bySubject) this.#newest.set(subject, seqs.at(-1)!);
  }

  /**
   * Reads a message.
   *
   * @returns The message; `undefined` if there is none.
   */
  get(seq: number): StoredMessage | undefined {
    return this.#messages.get(seq);
  }

  /**
   * Reads the newest message.
   *
   * @returns The message; `undefined` if there is none.
   */
  last(filter: string): StoredMessage | undefined {
    if (filter === ">") return this.#messages.get(this.#lastSeq);
    if (!hasWildcard(filter)) return this.#messages.get(this.#newest.get(filter) ?? 0);
    let last = 0;
    for (const [subject, seq] of this.#newest) {
      if (matches(filter, subject)) last = Math.max(last, seq);
    }
    return this.#messages.get(last);
  }

  /**
   * Reads the first message at or after a sequence.
   *
   * @returns The message; `undefined` if there is none.
   */
  next(filter: string, from: number): StoredMessage | undefined {
    if (!hasWildcard(filter)) {
      const seqs = this.#bySubject.get(filter) ?? [];
      return this.#messages.get(seqs[firstFrom(seqs, from)] ?? 0);
    }
    for (let seq = Math.max(from, this.#firstSeq); seq <= this.#lastSeq; seq++) {
      const message = this.#messages.get(seq);
      if (message !== undefined && matches(filter, message.subject)) return message;
    }
    return undefined;
  }

  /**
   * Counts messages at or after a sequence.
   *
   * @param filter Pattern of the subjects.
   */
  count(filter: string, from: number): number {
    if (!hasWildcard(filter)) {
      const seqs = this.#bySubject.get(filter) ?? [];
      return seqs.length - firstFrom(seqs, from);
    }
    let count = 0;
    const first = Math.max(from, this.#firstSeq);
    // Few messages follow the sequence, because waiting consumers are close to the newest message.
    if (this.#lastSeq - first < this.#bySubject.size) {
      for (let seq = first; seq <= this.#lastSeq; seq++) {
        const message = this.#messages.get(seq);
        if (message !== undefined && matches(filter, message.subject)) count++;
      }
      return count;
    }
    for (const [subject, seqs] of this.#bySubject) {
      if (seqs.at(-1)! >= first && matches(filter, subject)) {
        count += seqs.length - firstFrom(seqs, first);
      }
    }
    return count;
  }

  #sizeOf({ subject, headers, data }: StoredMessage): number {
    const parts = byteLength(subject) + byteLength(headers) + data.length;
    if (this.config.storage === "memory") return parts + 16;
    return parts + 30 + (headers === "" ? 0 : 4);
  }
}

/** Index of the first number of an ascending list that is at least another number. */
function firstFrom(seqs: readonly number[], from: number): number {
  let [low, high] = [0, seqs.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (seqs[middle]! < from) low = middle + 1;
    else high = middle;
  }
  return low;
}
