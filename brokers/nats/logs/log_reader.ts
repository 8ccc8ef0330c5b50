/** Reads records of logs from any position. */
import { BrokerError } from "../../../errors.ts";
import { DamageError } from "../../../pubsub/broker/damage.ts";
import { recordBytes } from "../../../streams/logs/rules.ts";
import type { LogRecord } from "../../../streams/logs/log.ts";
import { areOfOneLog, firstOf, liveIn, type LiveMessage, recordsOf } from "./format.ts";
import type { LogStreams } from "./log_streams.ts";

/** Maximum number of remembered cursors, across all logs. */
const MAX_CURSORS = 8_192;

/** Bounds of a part of a log. */
export interface PartBounds {
  /** Maximum number of records. */
  readonly maxRecords: number;
  /** Maximum number of bytes. */
  readonly maxBytes: number;
}

/**
 * Finds messages by position.
 *
 * Positions increase with the stream's sequence numbers, so the reader uses interpolation search.
 * It remembers where a page ended, so that the next page needs no search.
 */
export class LogReader {
  readonly #streams: LogStreams;
  /**
   * Maps a log's identity and a position to the sequence from which to read the message with the
   * position.
   */
  readonly #cursors = new Map<string, number>();

  constructor(streams: LogStreams) {
    this.#streams = streams;
  }

  /**
   * Reads records from a position within the log. A single record may exceed the bounds. Returns
   * `undefined` if the log has changed in the meantime.
   */
  async read(
    part: string,
    newest: LiveMessage,
    after: number,
    bounds: PartBounds,
  ): Promise<LogRecord[] | undefined> {
    const messages = await this.messages(part, newest, after, bounds);
    if (messages === undefined) return undefined;
    const records: LogRecord[] = [];
    let bytes = 0;
    for (const message of messages) {
      const first = firstOf(message);
      for (const record of recordsOf(message).slice(Math.max(0, after - first))) {
        bytes += recordBytes([record]);
        const isFull = records.length === bounds.maxRecords;
        if (isFull || bytes > bounds.maxBytes && records.length > 0) {
          this.#remember(part, message, after + records.length);
          return records;
        }
        records.push(record);
      }
    }
    this.#remember(part, messages.at(-1)!, after + records.length);
    return records;
  }

  /**
   * Reads consecutive messages, roughly within the bounds. The first message contains the record at
   * a position within the log. Returns `undefined` if the log has changed in the meantime.
   */
  async messages(
    part: string,
    newest: LiveMessage,
    position: number,
    bounds: PartBounds,
  ): Promise<LiveMessage[] | undefined> {
    if (firstOf(newest) <= position) return [newest];
    const cursor = this.#cursors.get(cursorKey(part, newest, position));
    if (cursor !== undefined) {
      const messages = await this.#follow(part, newest, position, cursor, bounds);
      if (messages.length > 0) return messages;
    }
    const found = await this.#find(part, newest, position);
    if (found === undefined) return undefined;
    const { tail } = found.head.state;
    if (tail === firstOf(newest)) return [found, newest];
    const maxRecords = bounds.maxRecords - (tail - position);
    if (maxRecords <= 0) return [found];
    const rest = await this.#follow(part, newest, tail, found.seq + 1, { ...bounds, maxRecords });
    return [found, ...rest];
  }

  /**
   * Searches for the message that contains a position. The search alternates between the middle and
   * the sequence number that the message would have if positions grew evenly. This needs at most
   * twice as many reads as a binary search.
   */
  async #find(
    part: string,
    newest: LiveMessage,
    position: number,
  ): Promise<LiveMessage | undefined> {
    // The message has a sequence in `[low, high)`, where the log has these positions.
    let [low, start] = [1, newest.head.state.start];
    let [high, end] = [newest.seq, firstOf(newest)];
    for (let isEven = true; low < high; isEven = !isEven) {
      const share = isEven ? (position - start) / (end - start) : 0.5;
      const from = low + Math.floor((high - low) * share);
      const message = liveIn(await this.#streams.next(part, from));
      if (message === undefined || !areOfOneLog(newest, message)) return undefined;
      const first = firstOf(message);
      const { tail } = message.head.state;
      if (message.seq >= high) high = from;
      else if (first > position) [high, end] = [from, first];
      else if (tail <= position) [low, start] = [message.seq + 1, tail];
      else return message;
    }
    return undefined;
  }

  /** Reads forward from a sequence. The first message contains the position. */
  async #follow(
    part: string,
    newest: LiveMessage,
    position: number,
    from: number,
    bounds: PartBounds,
  ): Promise<LiveMessage[]> {
    const { maxBytes } = bounds;
    const count = expectedMessages(newest, bounds);
    const messages = await this.#streams.from(part, { from, count, maxBytes });
    const following: LiveMessage[] = [];
    let next = position;
    for (const message of messages) {
      if (next >= newest.head.state.tail) break;
      const live = liveIn(message);
      if (live === undefined || !areOfOneLog(newest, live)) break;
      // Changes without records, and messages before the position.
      if (live.head.count === 0 || live.head.state.tail <= next) continue;
      const first = firstOf(live);
      if (following.length === 0 ? first > next : first !== next) break;
      following.push(live);
      next = live.head.state.tail;
    }
    return following;
  }

  #remember(part: string, message: LiveMessage, position: number): void {
    const key = cursorKey(part, message, position);
    this.#cursors.delete(key);
    const isWhole = message.head.state.tail === position;
    this.#cursors.set(key, isWhole ? message.seq + 1 : message.seq);
    if (this.#cursors.size <= MAX_CURSORS) return;
    for (const [oldest] of this.#cursors) return void this.#cursors.delete(oldest);
  }
}

/** Number of messages that a part needs by the log's averages, plus one. */
function expectedMessages(
  { head: { state, number, count } }: LiveMessage,
  { maxRecords, maxBytes }: PartBounds,
): number {
  const { first, start, tail, bytes } = state;
  const perMessage = (tail - first) / (count > 0 ? number + 1 : number);
  const perRecord = bytes / (tail - start);
  const records = perRecord > 0 ? Math.min(maxRecords, maxBytes / perRecord) : maxRecords;
  return Math.ceil(records / perMessage) + 1;
}

function cursorKey(part: string, { head }: LiveMessage, position: number): string {
  return `${part} ${head.state.identity} ${position}`;
}

/** Maximum number of attempts to read a page of a log that changes in the meantime. */
export const MAX_READ_ATTEMPTS = 5;

/**
 * Creates the error for a record that was not found in any attempt.
 *
 * @param position Position of the record.
 * @param isChanging True if the log changed between the attempts, which may be the reason.
 */
export function unreadable(position: number, isChanging: boolean): BrokerError {
  return isChanging
    ? new BrokerError("Cannot read a log: the log changes faster than a page is read")
    : new DamageError(
      `Cannot read a log: the record at ${position} was deleted in JetStream; ` +
        "delete the log to drop it",
    );
}
