/**
 * Records that the announcements of logs carry, so that up-to-date readers need not read them.
 *
 * ```text
 * announcement = identity " " start " " tail "\n" record...    the state after the append
 * record       = head(u32) content     head: bytes of the content times 2, plus 1 for bytes
 * ```
 */
import { countedBytes } from "../../pubsub/broker.ts";
import { readChange } from "./change_message.ts";
import type { LogInfo, LogRecord } from "./log.ts";
import { recordBytes, type StoredLog } from "./rules.ts";

/** Maximum size of the records that an announcement carries, in bytes with their heads. */
export const MAX_CARRIED_BYTES = 4_096;

/**
 * Maximum size of the newest records that a node keeps of a stream with readers, in bytes. A reader
 * that lacks older ones reads them from the broker.
 */
const MAX_RETAINED_BYTES = 16_384;

/** The first line: a position has at most 15 digits, which a number represents exactly. */
const FIRST_LINE = /^([0-9a-z]+) (\d{1,15}) (\d{1,15})$/;

/** Maximum length of the first line in bytes. */
const MAX_LINE_BYTES = 100;

const HEAD_BYTES = 4;

/** Keeps a byte order mark, which belongs to the record. */
const TEXT = new TextDecoder("utf-8", { ignoreBOM: true });

/** Results by payload, because a broker, a writer and readers receive the same one. */
const READ = new WeakMap<Uint8Array, CarriedRecords | null>();

/** The records of one append that did not end or cancel the log, and the state after it. */
export interface CarriedRecords {
  /** {@linkcode LogInfo.identity}. */
  readonly identity: string;
  /** {@linkcode LogInfo.start}. */
  readonly start: number;
  /** {@linkcode LogInfo.tail}. */
  readonly tail: number;
  /** The records; in a keyed log, one transaction that changes one row once. */
  readonly records: readonly LogRecord[];
}

/**
 * Reads the payload of an announcement.
 *
 * @returns The records; `undefined` if the announcement carries none.
 */
export function readCarried(payload: string | Uint8Array): CarriedRecords | undefined {
  if (typeof payload === "string") return undefined;
  let carried = READ.get(payload);
  if (carried === undefined) READ.set(payload, carried = decode(payload) ?? null);
  return carried ?? undefined;
}

function decode(payload: Uint8Array): CarriedRecords | undefined {
  const end = payload.subarray(0, MAX_LINE_BYTES).indexOf(0x0a);
  const match = FIRST_LINE.exec(TEXT.decode(payload.subarray(0, Math.max(end, 0))));
  const records = match && readRecords(payload, end + 1);
  if (!records) return undefined;
  const [, identity, start, tail] = match;
  return { identity: identity!, start: Number(start), tail: Number(tail), records };
}

function readRecords(payload: Uint8Array, start: number): LogRecord[] | undefined {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const records: LogRecord[] = [];
  for (let at = start; at < payload.length;) {
    if (at + HEAD_BYTES > payload.length) return undefined;
    const head = view.getUint32(at);
    const from = at + HEAD_BYTES;
    at = from + (head >>> 1);
    if (at > payload.length) return undefined;
    const content = payload.subarray(from, at);
    records.push(head % 2 === 0 ? TEXT.decode(content) : content.slice());
  }
  return records.length > 0 ? records : undefined;
}

/**
 * Encodes the announcement of an append. In a keyed log, it must be one transaction that changes one
 * row once.
 *
 * @param before The state before the append.
 * @param after The state after the append.
 * @param records The appended records.
 * @returns The payload; `undefined` if readers have to read from the broker, because the records are
 * too large or more has changed.
 */
export function encodeCarried(
  before: StoredLog,
  after: StoredLog,
  records: readonly LogRecord[],
): Uint8Array<ArrayBuffer> | undefined {
  if (records.length === 0 || recordBytes(records) > MAX_CARRIED_BYTES) return undefined;
  const contents = records.map((record) =>
    typeof record === "string" ? new TextEncoder().encode(record) : record
  );
  const bytes = contents.reduce((all, { length }) => all + HEAD_BYTES + length, 0);
  if (bytes > MAX_CARRIED_BYTES || !isOnlyAppend(before, after)) return undefined;
  const text = `${after.identity} ${after.start} ${after.tail}`;
  if (!FIRST_LINE.test(text)) return undefined;
  const line = new TextEncoder().encode(`${text}\n`);
  const payload = new Uint8Array(line.length + bytes);
  const view = new DataView(payload.buffer);
  payload.set(line);
  let at = line.length;
  contents.forEach((content, i) => {
    view.setUint32(at, content.length * 2 + (typeof records[i] === "string" ? 0 : 1));
    payload.set(content, at + HEAD_BYTES);
    at += HEAD_BYTES + content.length;
  });
  return payload;
}

/** The parts of a state that an append changes, or that readers don't see. */
const APPENDED: ReadonlySet<string> = new Set<keyof StoredLog>(
  ["bytes", "rows", "sequence", "start", "tail", "until", "writer"],
);

/** True if an append had no further effects. A change keeps the values that it doesn't change. */
function isOnlyAppend(before: StoredLog, after: StoredLog): boolean {
  return Object.entries(after).every(([name, value]) =>
    APPENDED.has(name) || value === before[name as keyof StoredLog]
  );
}

/** The part of a page that a reader chooses. */
interface CarriedOptions {
  /** Position of the first record. */
  readonly after: number;
  /** Identity that the reader knows. */
  readonly identity?: string | undefined;
  /** Maximum number of records. */
  readonly maxRecords: number;
  /** Maximum number of bytes. */
  readonly maxBytes: number;
  /** Reads each change of a keyed log, with one record for each transaction. */
  readonly eachChange?: boolean | undefined;
}

/** A page of carried records. */
interface CarriedPage {
  /** The state after the records. `bytes` and `rows` are older. */
  readonly info: LogInfo;
  readonly records: readonly LogRecord[];
  /** The position of each change of a keyed log. */
  readonly positions?: readonly number[] | undefined;
}

/** The newest records of a stream that announcements have carried, without a gap. */
export class CarriedTail {
  #appends: CarriedRecords[] = [];
  #bytes = 0;
  /** A state without an end, which changes only by the appends. */
  #info: LogInfo | undefined;
  #changes = 0;
  /** The newest state that readers of this node have received. */
  #read = { identity: "", tail: 0 };

  /**
   * Number of other changes, and of interruptions. A state that was read before the last one may be
   * outdated.
   */
  get changes(): number {
    return this.#changes;
  }

  /**
   * Takes an announcement.
   *
   * @param append The records that it carries; `undefined` if readers have to read from the broker.
   */
  add(append: CarriedRecords | undefined): void {
    if (append === undefined) {
      this.#clear();
      this.#info = undefined;
      this.#changes++;
      return;
    }
    const last = this.#appends.at(-1);
    if (last?.identity !== append.identity || last.tail !== firstOf(append)) this.#clear();
    this.#appends.push(append);
    this.#bytes += sizeOf(append);
    while (this.#bytes > MAX_RETAINED_BYTES) this.#bytes -= sizeOf(this.#appends.shift()!);
  }

  /**
   * Learns the state from a page that was read from the broker. Announcements may arrive later than
   * the page: records before its end are then no longer the newest ones.
   *
   * @param info The state.
   * @param changes The value of {@linkcode changes} before the read.
   */
  learn(info: LogInfo, changes: number): void {
    const { identity, tail } = info;
    const isLater = identity !== this.#read.identity || tail > this.#read.tail;
    if (isLater) this.#read = { identity, tail };
    if (changes === this.#changes) this.#info = info;
  }

  /**
   * Returns the records after a position, up to the newest one.
   *
   * @param options See {@linkcode CarriedOptions}.
   * @returns The page; `undefined` if the reader has to read from the broker.
   */
  read({ after, identity, maxRecords, maxBytes, eachChange }: CarriedOptions):
    | CarriedPage
    | undefined {
    const [info, last] = [this.#info, this.#appends.at(-1)];
    if (info === undefined || last === undefined || last.identity !== identity) return undefined;
    const isNewest = info.identity === identity && this.#read.identity === identity &&
      last.tail >= this.#read.tail;
    if (!isNewest || after < last.start) return undefined;
    const from = this.#appends.findIndex((append) => firstOf(append) === after);
    if (from < 0) return undefined;
    const records = this.#appends.slice(from).flatMap((append) => append.records);
    // As in any page, a single record may be larger.
    const isFitting = records.length <= maxRecords && recordBytes(records) <= maxBytes;
    if (records.length > 1 && !isFitting) return undefined;
    const { start, tail } = last;
    const page = { info: { ...info, start, tail }, records };
    if (info.keyed === undefined) return page;
    // The brackets of the list of changes are left out.
    const changes = records.map((record) => (record as string).slice(1, -1));
    return eachChange ? { ...page, records: changes } : { ...page, ...newestOf(changes, after) };
  }

  #clear(): void {
    this.#appends = [];
    this.#bytes = 0;
  }
}

/** The newest change of each row. */
function newestOf(
  changes: readonly string[],
  after: number,
): Required<Pick<CarriedPage, "positions" | "records">> {
  if (changes.length === 1) return { records: changes, positions: [after] };
  const newest = new Map(changes.map((change, i) => [readChange(change).row, i]));
  const kept = [...newest.values()].sort((a, b) => a - b);
  return { records: kept.map((i) => changes[i]!), positions: kept.map((i) => after + i) };
}

/** Position of the first record. */
function firstOf({ tail, records }: CarriedRecords): number {
  return tail - records.length;
}

function sizeOf({ records }: CarriedRecords): number {
  return countedBytes(recordBytes(records), records.length);
}
