/**
 * Chunks of records, the form in which Redis keeps a log.
 *
 * ```text
 * chunk   = record...
 * record  = head(u32) content    head: bytes of the content times 2, plus 1 for bytes
 * ```
 */
import { Buffer } from "node:buffer";
import { DamageError } from "../../../pubsub/broker/damage.ts";
import type { LogRecord, ReadLogOptions } from "../../../streams/logs/log.ts";

/** Bytes before a record. */
export const RECORD_HEAD_BYTES = 4;

/**
 * Maximum size of a chunk in bytes, unless a single record is larger. A page may have one more
 * chunk at its start than needed.
 */
const CHUNK_BYTES = 16_384;

/** Maximum number of records in a chunk. */
const CHUNK_RECORDS = 1_024;

/** Consecutive records, encoded. */
export interface LogChunk {
  /** Number of records. */
  readonly count: number;
  readonly bytes: Buffer;
}

/** A chunk with its position. */
export interface StoredChunk {
  /** Position of the first record. */
  readonly position: number;
  readonly bytes: Buffer;
}

export function encodeChunks(records: readonly LogRecord[]): LogChunk[] {
  const chunks: LogChunk[] = [];
  let parts: Buffer[] = [];
  let bytes = 0;
  const end = () => {
    if (parts.length > 0) chunks.push({ count: parts.length, bytes: Buffer.concat(parts, bytes) });
    [parts, bytes] = [[], 0];
  };
  for (const record of records) {
    const part = encodeRecord(record);
    if (bytes + part.length > CHUNK_BYTES || parts.length >= CHUNK_RECORDS) end();
    parts.push(part);
    bytes += part.length;
  }
  end();
  return chunks;
}

function encodeRecord(record: LogRecord): Buffer {
  const isText = typeof record === "string";
  const size = isText ? Buffer.byteLength(record) : record.length;
  const part = Buffer.allocUnsafe(RECORD_HEAD_BYTES + size);
  part.writeUInt32BE(size * 2 + (isText ? 0 : 1));
  if (isText) part.write(record, RECORD_HEAD_BYTES);
  else part.set(record, RECORD_HEAD_BYTES);
  return part;
}

/**
 * Decodes the records of a page.
 *
 * @param chunks The chunks, starting with the one that contains the page's first record.
 * @param bounds The start of the page, and its maximum size.
 * @returns The records.
 * @throws {BrokerError} If a record is missing, because Redis can evict keys individually, or if
 * another program has damaged it.
 */
export function decodeChunks(
  chunks: readonly StoredChunk[],
  { after, maxRecords, maxBytes }: Pick<ReadLogOptions, "after" | "maxRecords" | "maxBytes">,
): LogRecord[] {
  const records: LogRecord[] = [];
  let room = maxBytes;
  for (const { position: first, bytes } of chunks) {
    let position = first;
    if (position > after + records.length) throw lostRecord(after + records.length);
    for (let at = 0; at < bytes.length; position++) {
      const start = at + RECORD_HEAD_BYTES;
      const head = start > bytes.length ? Infinity : bytes.readUInt32BE(at);
      at = start + Math.floor(head / 2);
      if (at > bytes.length) throw lostRecord(position);
      if (position < after) continue;
      if (records.length >= maxRecords) return records;
      room -= at - start;
      if (room < 0 && records.length > 0) return records;
      // The record is copied, so that it does not keep the whole page in memory.
      records.push(
        head % 2 === 0
          ? bytes.toString("utf8", start, at)
          : Uint8Array.from(bytes.subarray(start, at)),
      );
    }
  }
  return records;
}

/** Creates the error for a record that Redis has lost. */
export function lostRecord(position: number): DamageError {
  return new DamageError(`Cannot read a log: Redis has lost the record at ${position}`);
}
