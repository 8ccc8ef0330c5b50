/**
 * The rows of a keyed log in the records of a message. The last records that the head counts are
 * transactions. If the message changes or carries rows, these records follow:
 *
 * ```text
 * <places as JSON> <text of a carried row> <text of a carried row> ...
 * ```
 *
 * The texts of changed rows are parts of the transactions. A hidden row is in no transaction, so the
 * message contains its text as it does for a carried row. All texts are change messages, from which
 * the names of the rows and the deletions are read.
 */
import { readChange } from "../../../streams/logs/change_message.ts";
import type { LogRecord, LogRow } from "../../../streams/logs/log.ts";
import { decodeRecords, type LiveMessage } from "./format.ts";

/** Bytes of a row in a message in addition to its text; more than its place takes. */
export const PLACE_BYTES = 48;

/** Bytes of a transaction in a message in addition to its rows; more than its marks take. */
export const TRANSACTION_BYTES = 64;

/** Where to find the rows of a message. */
interface Places {
  /** The changes of each transaction. */
  readonly changed?: readonly ChangedPlaces[] | undefined;
  /** Position of each carried row, with its expiry and the time of its deletion, or 0. */
  readonly carried?:
    | readonly (readonly [position: number, until: number, deletedAt: number])[]
    | undefined;
  /** Names of hidden rows that are gone. */
  readonly gone?: readonly string[] | undefined;
}

/** Where to find the rows that a transaction changes. */
interface ChangedPlaces {
  /** Time of the deletions. */
  readonly at?: number | undefined;
  /** Part of the transaction for each row, in UTF-16 code units, and its expiry or 0. */
  readonly set: readonly (readonly [start: number, length: number, until: number])[];
}

export interface StoredTransaction {
  /** All changes. */
  readonly texts: readonly string[];
  /** The rows after the transaction, without hidden ones. */
  readonly set: readonly LogRow[];
}

/** The changed hidden rows by name; `undefined` for those that are gone. */
export type HiddenRows = ReadonlyMap<string, LogRow | undefined>;

/**
 * Encodes the changes of transactions.
 *
 * @param transactions The transactions, each of which is a record of the message.
 * @param hidden The hidden rows that they, or their expiry, have changed.
 * @returns The records that follow the transactions.
 */
export function changedRows(
  transactions: readonly StoredTransaction[],
  hidden: HiddenRows,
): LogRecord[] {
  if (transactions.length + hidden.size === 0) return [];
  const changed = transactions.length > 0 ? transactions.map(placesOf) : undefined;
  if (hidden.size === 0) return encode({ changed }, []);
  const gone = [...hidden].flatMap(([name, row]) => row === undefined ? name : []);
  return encode({ changed, gone }, [...hidden.values()].filter((row) => row !== undefined));
}

function placesOf({ texts, set }: StoredTransaction): ChangedPlaces {
  const starts = new Map<string, number>();
  /** The transaction is a JSON array: `[`, the texts with `,` between them, and `]`. */
  let start = 1;
  for (const text of texts) {
    starts.set(text, start);
    start += text.length + 1;
  }
  return {
    at: set.find(({ deletedAt }) => deletedAt !== undefined)?.deletedAt,
    set: set.map(({ text, until = 0 }) => [starts.get(text)!, text.length, until]),
  };
}

/** Encodes rows that are carried to a new message, as the records of that message. */
export function carriedRows(rows: readonly LogRow[]): LogRecord[] {
  return encode({}, rows);
}

function encode(places: Places, rows: readonly LogRow[]): LogRecord[] {
  const carried = rows.map(({ position, until = 0, deletedAt = 0 }) =>
    [position, until, deletedAt] as const
  );
  const all: Places = carried.length > 0 ? { ...places, carried } : places;
  return [JSON.stringify(all), ...rows.map(({ text }) => text)];
}

export interface MessageRows {
  /** Their newest states, by position, after carried and hidden rows. */
  readonly set: readonly LogRow[];
  /** Names of hidden rows that are gone. */
  readonly gone: readonly string[];
}

/** Decodes the rows of a message. */
export function rowsOf({ head, body }: LiveMessage): MessageRows {
  const { count, state: { tail } } = head;
  const records = decodeRecords(body);
  const encoded = records[count];
  if (encoded === undefined) return { set: [], gone: [] };
  const { changed = [], carried = [], gone = [] }: Places = JSON.parse(String(encoded));
  const texts = records.slice(count + 1).map(String);
  const rows = new Map<string, LogRow>();
  for (const [i, [position, until, deletedAt]] of carried.entries()) {
    const text = texts[i]!;
    const { row } = readChange(text);
    const times = { until: until || undefined, deletedAt: deletedAt || undefined };
    rows.set(row, { row, position, text, ...times });
  }
  // The first records of a new log are no transactions.
  const first = count - changed.length;
  for (const [i, { at, set }] of changed.entries()) {
    const transaction = String(records[first + i]);
    for (const [start, length, until] of set) {
      const text = transaction.slice(start, start + length);
      const { row, deletedAt } = readChange(text);
      const times = {
        until: until || undefined,
        deletedAt: deletedAt === undefined ? undefined : at,
      };
      rows.delete(row); // A row that changes again moves to the end.
      rows.set(row, { row, position: tail - changed.length + i, text, ...times });
    }
  }
  return { set: [...rows.values()], gone };
}
