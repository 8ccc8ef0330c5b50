/**
 * Change messages of the Durable Streams State Protocol: the texts of the rows of keyed logs.
 *
 * @see {@link https://github.com/durable-streams/durable-streams State Protocol}, sections 4 and 5
 */
import { countFault, readRowName, rowName } from "../../session/wire/rows.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import type { RowChange } from "./log.ts";

/** Maximum number of bytes that the version of a change takes in a message, with a comma. */
export const MAX_VERSION_BYTES = 30;

/** Number of bytes of an operation in a text: `insert`, `update` or `delete`. */
const OPERATION_BYTES = 6;

/** A change of one row, as a writer requests it. */
export interface Change {
  /** Collection of the row. */
  readonly type: string;
  /** Key of the row within its collection. */
  readonly key: string;
  /** Name of the row, if {@linkcode rowName} has made it. */
  readonly row?: string | undefined;
  /**
   * `insert` and `upsert` write the row whether or not it exists. `check` changes nothing: the
   * transaction only takes effect if the row meets `expect` and `since`.
   */
  readonly operation: "insert" | "update" | "upsert" | "delete" | "check";
  /** The value as JSON; ignored for `delete`. */
  readonly value?: string | undefined;
  /** Identifies the writer's transaction for other programs. */
  readonly txid?: string | undefined;
  /** See {@linkcode RowChange.expect}. */
  readonly expect?: number | undefined;
  /** See {@linkcode RowChange.since}. */
  readonly since?: number | undefined;
  /** See {@linkcode RowChange.ttlMs}. */
  readonly ttlMs?: number | undefined;
}

/** A change as a client requests it, whose value is parsed and not encoded again yet. */
export interface ClientChange extends Omit<Change, "value"> {
  /** The value; ignored for `delete`. */
  readonly data: unknown;
}

/** Encodes the value of a change, unless it is encoded. */
export function withValue(change: Change | ClientChange): Change {
  if (!("data" in change)) return change;
  const { data, ...rest } = change;
  return { ...rest, value: JSON.stringify(data) };
}

/**
 * Reads the row that a change message changes, and if the message deletes the row, the time at which
 * its writer did so.
 */
export function readChange(
  text: string,
): { readonly row: string; readonly deletedAt: number | undefined } {
  const { type, key, headers: { operation, timestamp } } = JSON.parse(text);
  const deletedAt = operation === "delete" ? Date.parse(timestamp) : undefined;
  return { row: rowName(type, key), deletedAt };
}

/**
 * Encodes a change. The broker adds the operation, because only the broker knows whether the row
 * exists.
 *
 * @param now Time of the change, in milliseconds since the Unix epoch.
 */
export function rowChange(change: Change, now: number): RowChange {
  const { type, key, row = rowName(type, key), operation, value, txid, expect, since, ttlMs } =
    change;
  const isDelete = operation === "delete";
  const content = isDelete ? "" : `"value":${value ?? "null"},`;
  const named = txid === undefined ? "" : `,"txid":${JSON.stringify(txid)}`;
  const before = `{"type":${JSON.stringify(type)},"key":${
    JSON.stringify(key)
  },${content}"headers":{"operation":"`;
  const after = `"${named},"timestamp":"${new Date(now).toISOString()}"}}`;
  return {
    row,
    nameBytes: utf8Length(row),
    operation: isDelete || operation === "update" ? operation : "set",
    text: [before, after],
    bytes: utf8Length(before) + OPERATION_BYTES + utf8Length(after),
    expect,
    since,
    ttlMs: isDelete ? undefined : ttlMs,
  };
}

/**
 * Creates a condition on a row that a transaction does not change.
 *
 * @param check The row, with the version that it must have, or the position after which it must not
 * have changed.
 * @returns The condition, in the form of a change.
 */
export function rowCheck(
  { type, key, row = rowName(type, key), expect, since }: Pick<
    Change,
    "expect" | "key" | "row" | "since" | "type"
  >,
): RowChange {
  return {
    row,
    nameBytes: utf8Length(row),
    operation: "check",
    text: ["", ""],
    bytes: OPERATION_BYTES,
    expect,
    since,
  };
}

/**
 * Counts the bytes of the texts of changes, with any operation.
 *
 * @param perChange Number of bytes that each change takes in addition.
 */
export function changeBytes(changes: readonly RowChange[], perChange: number): number {
  return changes.reduce((sum, { bytes }) => sum + bytes + perChange, 0);
}

/** Counts the bytes of changes in a request: names, and texts without operations. */
export function requestBytes(changes: readonly RowChange[]): number {
  return changes.reduce(
    (sum, { nameBytes, bytes }) => sum + nameBytes + bytes - OPERATION_BYTES,
    0,
  );
}

/** A transaction as a broker receives it, or the limit that it exceeds. */
export type EncodedTransaction =
  | { readonly changes: readonly RowChange[]; readonly fault?: undefined }
  | { readonly fault: string };

/**
 * Encodes a transaction, which has to fit into a message to a session.
 *
 * @param options Time of the changes in milliseconds since the Unix epoch, and the maximum size of
 * the message's data in bytes.
 * @returns The encoded changes, or the rule and the received number.
 */
export function encodeTransaction(
  changes: readonly Change[],
  { now, maxBytes }: { readonly now: number; readonly maxBytes: number },
): EncodedTransaction {
  const encoded = changes.map((change) =>
    change.operation === "check" ? rowCheck(change) : rowChange(change, now)
  );
  const fault = countFault(changes.length) ?? sizeFault(encoded, maxBytes);
  return fault === undefined ? { changes: encoded } : { fault };
}

function sizeFault(changes: readonly RowChange[], maxBytes: number): string | undefined {
  const bytes = changeBytes(changes, MAX_VERSION_BYTES);
  if (bytes <= maxBytes) return undefined;
  const what = changes.length === 1 ? "a row" : "a transaction";
  return `${what} must have at most ${maxBytes} bytes, received ${bytes}`;
}

/**
 * Adds the version of a row to the text of its change, for readers over sessions.
 *
 * @param text The change, as JSON.
 * @param position Position of the change.
 */
export function withVersion(text: string, position: number): string {
  return `${text.slice(0, -1)},"version":${position + 1}}`;
}

/**
 * Returns the change that deletes a row.
 *
 * @param row Name of the row.
 * @param now Time of the deletion, in milliseconds since the Unix epoch.
 */
export function deletionOf(row: string, now: number): RowChange {
  const [type, key] = readRowName(row);
  return rowChange({ type, key, row, operation: "delete" }, now);
}

/**
 * Returns the text of a control message that marks the start or the end of a snapshot.
 *
 * @param offset The offset of the stream at the start of the snapshot.
 */
export function snapshotMark(control: "snapshot-start" | "snapshot-end", offset: string): string {
  return JSON.stringify({ headers: { control, offset } });
}
