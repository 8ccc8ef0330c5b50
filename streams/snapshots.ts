/** Snapshots of keyed streams over HTTP: where they start and end. */
import { snapshotMark } from "./logs/change_message.ts";
import type { LogRecord } from "./logs/log.ts";
import { formatOffset } from "./logs/offset.ts";
import type { StreamPage } from "./logs/stream_logs.ts";

/** The offset with which a reader continues after a page. */
export function offsetAfter({ info, next, snapshot = 0 }: StreamPage): string {
  return formatOffset(info, next, next < snapshot ? snapshot : undefined);
}

/**
 * The records of a page, with `snapshot-start` before the first one of a snapshot, and
 * `snapshot-end` after the last one.
 */
export function bracketed(
  { info, records, after, next, snapshot }: StreamPage,
): readonly LogRecord[] {
  if (snapshot === undefined) return records;
  const offset = formatOffset(info, snapshot);
  return [
    ...(after === 0 ? [snapshotMark("snapshot-start", offset)] : []),
    ...records,
    ...(next >= snapshot ? [snapshotMark("snapshot-end", offset)] : []),
  ];
}
