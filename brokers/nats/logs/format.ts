/**
 * The messages that store logs. Each message is one complete change of a log: the state after the
 * change, and the added records.
 *
 * ```text
 * <head as JSON> LF <record> <record> ...
 * ```
 *
 * A record starts with a QUIC varint: twice the record's length in bytes, plus 1 if the record is
 * binary. Its bytes follow. The head `null` marks a removed log. In a keyed log, more records follow
 * the head's number of records; see `row_format.ts`.
 */
import { utf8Length } from "../../../session/wire/utf8.ts";
import {
  readVarint,
  varintLength,
  varintLengthAt,
  writeVarint,
} from "../../../transport/quic/varint.ts";
import { DamageError } from "../../../pubsub/broker/damage.ts";
import type { MarkWrites } from "../../../streams/logs/callers.ts";
import type { LogRecord } from "../../../streams/logs/log.ts";
import type { LogView, LogWrite } from "../../../streams/logs/changes.ts";
import type { RowView } from "../../../streams/logs/rows.ts";
import type { StoredLog } from "../../../streams/logs/rules.ts";

/** A log's whole state, which each message contains. */
export interface WholeLog extends StoredLog {
  /** Newest epoch and number of each producer. */
  readonly producers: Readonly<Record<string, readonly [epoch: number, seq: number]>>;
  /** The marks of callers of a keyed log, by name. */
  readonly marks?: Readonly<Record<string, string>> | undefined;
  /** Forks that depend on the log. */
  readonly forks: readonly string[];
  /** The log's first identity, if it was given another one because changes were lost. */
  readonly chain?: string | undefined;
}

/** The head of a message. */
export interface LogHead {
  /** The state after the change. */
  readonly state: WholeLog;
  /** Number of records in this message. They are the log's newest records. */
  readonly count: number;
  /** Number of earlier messages with records or carried rows. */
  readonly number: number;
  /**
   * Number of rows of a keyed log that were carried from earlier messages to this one, and of
   * changed hidden rows.
   */
  readonly carried?: number | undefined;
  /**
   * Sequence of the oldest message that the rows and the tail of a keyed log need. Absent while all
   * messages are needed.
   */
  readonly from?: number | undefined;
  /** Time of the log's next check, if it may expire or lose its writer. */
  readonly look?: number | undefined;
}

/** A message of a log, as read from the stream. */
export interface LogMessage {
  /** Sequence in the stream. */
  readonly seq: number;
  /** The head; `null` after the removal of the log, `undefined` if another program wrote. */
  readonly head: LogHead | null | undefined;
  /** The encoded records. */
  readonly body: Uint8Array;
  /** Size of the whole message in bytes. */
  readonly bytes: number;
}

/** A message of a log that has not been removed. */
export interface LiveMessage extends LogMessage {
  readonly head: LogHead;
}

/**
 * Returns the newest message of a log; `undefined` if there is no log.
 *
 * @throws {DamageError} If another program wrote the message.
 */
export function liveIn(message: LogMessage | undefined): LiveMessage | undefined {
  if (message === undefined || message.head === null) return undefined;
  const { seq, head } = message;
  if (head !== undefined) return { ...message, head };
  throw new DamageError(
    `Cannot read a log: the message at sequence ${seq} does not start with a state`,
  );
}

export function viewOf(whole: WholeLog, rows?: RowView): LogView {
  const { producers, forks, marks = {} } = whole;
  return {
    state: storedOf(whole),
    rows,
    marks: {
      mark: (name) => Object.hasOwn(marks, name) ? marks[name] : undefined,
      allMarks: () => Object.entries(marks),
    },
    get producerCount() {
      return Object.keys(producers).length;
    },
    forkCount: forks.length,
    numbersOf: (id) => Object.hasOwn(producers, id) ? producers[id] : undefined,
    hasFork: (fork) => forks.includes(fork),
  };
}

export function storedOf(
  { producers: _producers, marks: _marks, forks: _forks, chain: _chain, ...state }: WholeLog,
): StoredLog {
  return state;
}

/** True if two messages belong to the same log. */
export function areOfOneLog({ head: one }: LiveMessage, { head: other }: LiveMessage): boolean {
  return chainOf(one.state) === chainOf(other.state);
}

/** The identity that all messages of a log share. */
export function chainOf({ chain, identity }: WholeLog): string {
  return chain ?? identity;
}

export function wholeAfter(
  before: WholeLog | undefined,
  { next, producer, marks: changed, fork }: LogWrite<unknown>,
): WholeLog {
  const { producers = {}, marks, forks = [], chain } = before ?? {};
  const others = fork === undefined ? forks : forks.filter((one) => one !== fork.name);
  return {
    ...next,
    producers: producer === undefined
      ? producers
      : { ...producers, [producer.id]: [producer.epoch, producer.seq] },
    marks: changed === undefined ? marks : marksAfter(marks, changed),
    forks: fork === undefined || fork.isGone ? others : [...others, fork.name],
    chain,
  };
}

function marksAfter(
  before: WholeLog["marks"] = {},
  { set, drop }: MarkWrites,
): Readonly<Record<string, string>> {
  const kept = Object.entries(before).filter(([name]) => !drop.includes(name));
  return Object.fromEntries([...kept, ...set]);
}

/** True if a message has content, which later messages don't replace. */
export function isKept({ count, carried = 0 }: LogHead): boolean {
  return count > 0 || carried > 0;
}

/** Position of a message's first record. */
export function firstOf({ head: { state, count } }: LiveMessage): number {
  return state.tail - count;
}

const encoder = new TextEncoder();
/** Keeps a byte order mark at the start of a text. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

const LINE_FEED = 0x0a;

/** Counts the bytes of records in a message, including marks. */
export function encodedBytes(records: readonly LogRecord[]): number {
  let bytes = 0;
  for (const record of records) {
    const length = typeof record === "string" ? utf8Length(record) : record.length;
    bytes += varintLength(length * 2) + length;
  }
  return bytes;
}

/** Counts the bytes of a state in a message. */
export function stateBytes(state: WholeLog): number {
  return utf8Length(JSON.stringify(state));
}

/** Encodes a message. The head of a removed log is `null`. */
export function encodeLog(head: LogHead | null, records: readonly LogRecord[]): Uint8Array {
  const front = encoder.encode(`${JSON.stringify(head)}\n`);
  if (records.length === 0) return front;
  const message = new Uint8Array(front.length + encodedBytes(records));
  message.set(front);
  let at = front.length;
  for (const record of records) {
    const isText = typeof record === "string";
    const length = isText ? utf8Length(record) : record.length;
    at = writeVarint(message, at, length * 2 + (isText ? 0 : 1));
    if (isText) encoder.encodeInto(record, message.subarray(at));
    else message.set(record, at);
    at += length;
  }
  return message;
}

/** Decodes a message. The records stay encoded. */
export function decodeLog(seq: number, message: Uint8Array): LogMessage {
  const bytes = message.length;
  const end = message.indexOf(LINE_FEED);
  const body = message.subarray(end + 1);
  try {
    const head: unknown = JSON.parse(decoder.decode(message.subarray(0, Math.max(end, 0))));
    return { seq, head: isHead(head) ? head : undefined, body, bytes };
  } catch {
    return { seq, head: undefined, body, bytes };
  }
}

function isHead(head: unknown): head is LogHead | null {
  if (head === null) return true;
  const { state, count, number } = Object(head) as Partial<LogHead>;
  return [state?.tail, count, number].every((one) => typeof one === "number");
}

/** Decodes the records of a message, oldest first. */
export function recordsOf({ head, body }: LiveMessage): LogRecord[] {
  return decodeRecords(body, head.count);
}

/** Decodes records, by default all. */
export function decodeRecords(body: Uint8Array, count: number = Infinity): LogRecord[] {
  const records: LogRecord[] = [];
  let at = 0;
  while (records.length < count && (at < body.length || count < Infinity)) {
    const mark = readVarint(body, at);
    at += varintLengthAt(body[at]!);
    const end = at + Math.floor(mark / 2);
    const bytes = body.subarray(at, end);
    // The bytes are copied, because the message is a view of the socket's last read and would keep
    // all of it in memory. The client library returns a `Buffer`, whose `slice` is a view, too.
    records.push(mark % 2 === 0 ? decoder.decode(bytes) : new Uint8Array(bytes));
    at = end;
  }
  return records;
}
