/**
 * The rows of a keyed log in the records of a message. A transaction is the last record that the
 * head counts. If the message changes or carries rows, these records follow:
 *
 * ```text
 * <places as JSON> <text of a carried row> <text of a carried row> ...
 * ```
 *
 * The texts of changed rows are parts of the transaction. All texts are change messages, from which
 * the names of the rows and the deletions are read.
 */
import { readChange } from "../../../pubsub/logs/change_message.ts";
import type { LogRecord, LogRow } from "../../../pubsub/logs/log.ts";
import { decodeRecords, type LiveMessage } from "./format.ts";

/** Bytes of a row in a message in addition to its text; more than its place takes. */
export const PLACE_BYTES = 48;

/** Where to find the rows of a message. */
interface Places {
  /** Time of the deletions in the transaction. */
  readonly at?: number | undefined;
  /** Part of the transaction for each changed row, in UTF-16 code units, and its expiry or 0. */
  readonly set?: readonly (readonly [start: number, length: number, until: number])[] | undefined;
  /** Position of each carried row, with its expiry and the time of its deletion, or 0. */
  readonly carried?:
    | readonly (readonly [position: number, until: number, deletedAt: number])[]
    | undefined;
}

/**
 * Encodes the changes of a transaction.
 *
 * @param texts All changes in the transaction.
 * @param set The rows after the transaction.
 * @returns The records that follow the transaction.
 */
export function changedRows(texts: readonly string[], set: readonly LogRow[]): LogRecord[] {
  if (set.length === 0) return [];
  const starts = new Map<string, number>();
  /** The transaction is a JSON array: `[`, the texts with `,` between them, and `]`. */
  let start = 1;
  for (const text of texts) {
    starts.set(text, start);
    start += text.length + 1;
  }
  const places: Places = {
    at: set.find(({ deletedAt }) => deletedAt !== undefined)?.deletedAt,
    set: set.map(({ text, until = 0 }) => [starts.get(text)!, text.length, until]),
  };
  return [JSON.stringify(places)];
}

/** Encodes rows that are carried to a new message, as the records of that message. */
export function carriedRows(rows: readonly LogRow[]): LogRecord[] {
  const carried = rows.map(({ position, until = 0, deletedAt = 0 }) =>
    [position, until, deletedAt] as const
  );
  const places: Places = { carried };
  return [JSON.stringify(places), ...rows.map(({ text }) => text)];
}

/** Decodes the rows of a message, carried rows first. */
export function rowsOf({ head, body }: LiveMessage): LogRow[] {
  const records = decodeRecords(body);
  const encoded = records[head.count];
  if (encoded === undefined) return [];
  const { at, set = [], carried = [] }: Places = JSON.parse(String(encoded));
  const transaction = String(records[head.count - 1]);
  const texts = records.slice(head.count + 1);
  return [
    ...carried.map(([position, until, deletedAt], i) => ({
      row: readChange(String(texts[i])).row,
      position,
      text: String(texts[i]),
      until: until || undefined,
      deletedAt: deletedAt || undefined,
    })),
    ...set.map(([start, length, until]) => {
      const text = transaction.slice(start, start + length);
      const { row, deletedAt } = readChange(text);
      return {
        row,
        position: head.state.tail - 1,
        text,
        until: until || undefined,
        deletedAt: deletedAt === undefined ? undefined : at,
      };
    }),
  ];
}
