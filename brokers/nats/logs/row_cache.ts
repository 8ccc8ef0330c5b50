/** The rows of the keyed logs that this node uses. */
import type { NatsLink } from "../link.ts";
import { areOfOneLog, isKept, liveIn, type LiveMessage } from "./format.ts";
import { MAX_READ_ATTEMPTS, unreadable } from "./log_reader.ts";
import { LogRows } from "./log_rows.ts";
import type { LogStreams } from "./log_streams.ts";

/** Memory of all rows in bytes. The log used last is kept, however large. */
const MAX_CACHE_BYTES = 67_108_864;

/** Maximum number of logs whose rows are kept. */
const MAX_CACHED_LOGS = 4_096;

/** Time after which the rows of an unused log are dropped when others are used, in milliseconds. */
const IDLE_MS = 600_000;

/** Messages that are read together. */
const PAGE = { count: 1_024, maxBytes: 4_194_304 };

/**
 * Pause before the messages of a log are read again, in milliseconds, times the cube of the attempt:
 * 2.2 seconds in all, by which a replica may be behind.
 */
export const RETRY_MS = 10;

interface Cached {
  readonly era: unknown;
  rows: LogRows;
  /** Resolves once the last call that reads messages is done. */
  turn: Promise<unknown>;
  bytes: number;
  usedMs: number;
}

/** Rows by log. A log's rows are brought up to date before each use. */
export class RowCache {
  readonly #link: NatsLink;
  readonly #streams: LogStreams;
  /** By the part of the subject, the log used last at the end. */
  readonly #logs = new Map<string, Cached>();
  #bytes = 0;

  constructor(link: NatsLink, streams: LogStreams) {
    this.#link = link;
    this.#streams = streams;
  }

  /**
   * Returns the rows of a log.
   *
   * @param part The log's part of a subject.
   * @param newest A message of the log.
   * @returns The rows as of this message or a later one; `undefined` if the log is gone.
   */
  async at(part: string, newest: LiveMessage): Promise<LogRows | undefined> {
    const cached = this.#use(part);
    if (cached.rows.covers(newest)) return cached.rows;
    // Concurrent calls share what the first one reads.
    const reading = cached.turn.then(() => this.#update(cached, part, newest));
    cached.turn = reading.catch(() => {});
    const rows = await reading;
    this.#measure(part, cached);
    return rows;
  }

  /** Returns the rows of a log if they are current as of a message. */
  peek(part: string, seq: number): LogRows | undefined {
    const { rows } = this.#logs.get(part) ?? {};
    return rows?.isComplete && rows.newest?.seq === seq ? rows : undefined;
  }

  /** Notes a message that this node wrote after the message at `after`. */
  wrote(part: string, message: LiveMessage, after: number): void {
    const rows = this.peek(part, after);
    if (!rows?.isNext(message)) return;
    rows.add(message);
    this.#measure(part, this.#logs.get(part)!);
  }

  /** Drops the rows of a log. */
  forget(part: string): void {
    this.#bytes -= this.#logs.get(part)?.bytes ?? 0;
    this.#logs.delete(part);
  }

  async #update(
    cached: Cached,
    part: string,
    message: LiveMessage,
  ): Promise<LogRows | undefined> {
    let newest: LiveMessage | undefined = message;
    for (let attempt = 1; attempt <= MAX_READ_ATTEMPTS; attempt++) {
      if (cached.rows.covers(newest)) return cached.rows;
      if (cached.rows.isOf(newest) && await this.#follow(cached.rows, part, newest)) {
        return cached.rows;
      }
      cached.rows = new LogRows();
      if (await this.#follow(cached.rows, part, newest)) return cached.rows;
      cached.rows = new LogRows();
      await this.#link.pause(RETRY_MS * attempt ** 3);
      newest = liveIn(await this.#streams.newest(part));
      if (newest?.head.state.keyed === undefined) return undefined;
    }
    throw unreadable(newest.head.state.start, newest.seq !== message.seq);
  }

  /** Adds messages up to the newest. Returns false if a message is missing. */
  async #follow(rows: LogRows, part: string, newest: LiveMessage): Promise<boolean> {
    let next = rows.newest === undefined ? newest.head.from ?? 1 : rows.newest.seq + 1;
    while (rows.newest === undefined || rows.newest.seq < newest.seq) {
      const isComplete = newest.body.length > 0 || !isKept(newest.head);
      if (isComplete && (rows.isNext(newest) || isFirst(newest, newest))) {
        rows.add(newest);
        break;
      }
      const messages = await this.#streams.from(part, { ...PAGE, from: next });
      if (messages.length === 0) return false;
      for (const message of messages) {
        next = message.seq + 1;
        if (rows.newest !== undefined && message.seq <= rows.newest.seq) continue;
        const live = liveIn(message);
        if (live === undefined || !areOfOneLog(live, newest)) return false;
        const isExpected = rows.newest === undefined ? isFirst(live, newest) : rows.isNext(live);
        if (!isExpected) return false;
        rows.add(live);
      }
    }
    rows.complete();
    return true;
  }

  #use(part: string): Cached {
    let cached = this.#logs.get(part);
    const era = this.#streams.era(part);
    if (cached === undefined || cached.era !== era) {
      this.forget(part);
      cached = { era, rows: new LogRows(), turn: Promise.resolve(), bytes: 0, usedMs: 0 };
    }
    cached.usedMs = this.#link.runtime.monotonic();
    this.#logs.delete(part);
    this.#logs.set(part, cached);
    return cached;
  }

  #measure(part: string, cached: Cached): void {
    if (this.#logs.get(part) !== cached) return;
    this.#bytes += cached.rows.cost - cached.bytes;
    cached.bytes = cached.rows.cost;
    const idleSince = this.#link.runtime.monotonic() - IDLE_MS;
    for (const [oldest, { usedMs }] of this.#logs) {
      const isOver = this.#bytes > MAX_CACHE_BYTES || this.#logs.size > MAX_CACHED_LOGS;
      if (oldest === part || !isOver && usedMs > idleSince) break;
      this.forget(oldest);
    }
  }
}

/** True if the rows of a log start with a message. */
function isFirst({ seq, head }: LiveMessage, newest: LiveMessage): boolean {
  const { from } = newest.head;
  return from === undefined ? head.number === 0 : seq === from;
}
