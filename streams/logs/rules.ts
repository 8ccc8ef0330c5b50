/** Rules of logs that all brokers share: sizes, times and states. */
import { utf8Length } from "../../session/wire/utf8.ts";
import { least, type StoredRows } from "./rows.ts";
import type {
  BrokerLogs,
  LogConfig,
  LogEnd,
  LogInfo,
  LogProducer,
  LogRecord,
  RowStats,
} from "./log.ts";

/** Maximum number of producers per log whose number is remembered. */
export const MAX_LOG_PRODUCERS = 1_000;

/** Maximum number of characters in the reason of a cancellation, or of an end. */
export const MAX_REASON_LENGTH = 1_024;

/**
 * Counts the bytes of records, in UTF-8 for texts.
 *
 * @returns The number of bytes.
 */
export function recordBytes(records: readonly LogRecord[]): number {
  return records.reduce(
    (sum, record) => sum + (typeof record === "string" ? utf8Length(record) : record.length),
    0,
  );
}

/** The state of a log that a broker keeps in addition to the records and the producers. */
export interface StoredLog extends Omit<LogInfo, "end" | "rows"> {
  /** Time at which the log expires, in milliseconds since the Unix epoch; moved by each use. */
  readonly until?: number | undefined;
  /** Present once the log has ended; `by` is the append that ended the log. */
  readonly end?: LogEnd & { readonly by?: LogProducer | undefined } | undefined;
  /** Time of the end, in milliseconds since the Unix epoch. */
  readonly endedAt?: number | undefined;
  readonly sequence?: string | undefined;
  readonly writer?: { readonly holder?: string | undefined; readonly until: number } | undefined;
  readonly rows?: StoredRows | undefined;
}

/** A page of the list of logs. */
export type RetainedLogs = Awaited<ReturnType<BrokerLogs["list"]>>;

/** An entry in the list of logs. */
export type RetainedLog = RetainedLogs["logs"][number];

/** Result of the deletion of a log. */
export type LogDeleted = Awaited<ReturnType<BrokerLogs["delete"]>>;

/** The public part of a state. */
export function infoOf(state: StoredLog): LogInfo {
  const { until: _until, sequence: _sequence, writer: _writer, endedAt: _endedAt, ...rest } = state;
  const { end, rows, ...shared } = rest;
  const info = rows === undefined ? shared : { ...shared, rows: rowsOf(rows) };
  if (end === undefined) return info;
  const { by: _by, ...shown } = end;
  return { ...info, end: shown };
}

function rowsOf({ count, deletions, bytes, forgotten, hidden }: StoredRows): RowStats {
  const stats = { count, deletions, bytes, forgotten };
  return hidden === undefined ? stats : { ...stats, hidden };
}

/** A log in the form of the list of logs. */
export function retainedOf(
  id: string,
  { owner, endedAt }: {
    readonly owner?: string | undefined;
    readonly endedAt?: number | undefined;
  },
): RetainedLog {
  return { id, owner, endedAt };
}

/** The time at which a log expires after a use at `now`; `undefined` if never. */
export function expiryOf({ ttlMs, expiresAt }: LogConfig, now: number): number | undefined {
  if (ttlMs === undefined) return expiresAt;
  return Math.min(now + ttlMs, expiresAt ?? Infinity);
}

/** True if the writer of an open log has stopped renewing its lease. */
export function isWriterLost({ end, writer }: StoredLog, now: number): boolean {
  return end === undefined && writer !== undefined && writer.until <= now;
}

/** The time at which a log or a row expires, or the log loses its writer; `undefined` if never. */
export function dueAt({ isDeleted, until, end, writer, rows }: StoredLog): number | undefined {
  if (isDeleted) return undefined;
  return end === undefined ? least(until, writer?.until, rows?.dueAt) : until;
}

export function isExpired({ until }: Pick<StoredLog, "until">, now: number): boolean {
  return until !== undefined && until <= now;
}

/** Media type of a stream created without one. */
export const DEFAULT_CONTENT_TYPE = "application/octet-stream";

/** Media type of keyed streams. */
export const JSON_TYPE = "application/json";

/** The media type without parameters, in lower case. */
export function mediaType(contentType: string): string {
  return contentType.split(";", 1)[0]!.trim().toLowerCase();
}

/** True if each element of the stream's JSON is a separate record. */
export function isJson(contentType: string): boolean {
  return mediaType(contentType) === JSON_TYPE;
}
