/** Offsets of durable streams: positions, in the form that readers use. */
import type { LogConfig, LogInfo } from "./log.ts";

/**
 * Format of an offset: a position of 16 digits, so that offsets can be sorted, followed by a log's
 * identity. Within a snapshot of a keyed log, it is followed by the position at which the snapshot
 * ends.
 */
const OFFSET = /^(\d{16})_([0-9a-z]{8})(?:~(\d{1,16}))?$/;

/**
 * Formats a position as an offset. A position that a fork shares with its source has the same
 * offset in both.
 *
 * @param snapshot Position at which the snapshot ends that the reader is reading; none by default.
 * @example Usage
 * ```ts
 * import { formatOffset } from "./offset.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(formatOffset({ identity: "a1b2c3d4" }, 7), "0000000000000007_a1b2c3d4");
 * assertEquals(formatOffset({ identity: "a1b2c3d4" }, 7, 42), "0000000000000007_a1b2c3d4~42");
 * ```
 */
export function formatOffset(
  log: Pick<LogInfo, "identity" | "origin">,
  position: number,
  snapshot?: number,
): string {
  const offset = writeOffset(position, identityAt(log, position));
  return snapshot === undefined ? offset : `${offset}~${snapshot}`;
}

/** Formats a position as an offset with the identity that belongs to it. */
export function writeOffset(position: number, identity: string): string {
  return `${`${position}`.padStart(16, "0")}_${identity}`;
}

/** The identity of the oldest log that has a position, which a fork may share with its source. */
export function identityAt(log: Pick<LogInfo, "identity" | "origin">, position: number): string {
  return (lineageOf(log).find(({ until }) => position <= until) ?? log).identity;
}

/**
 * Parses an offset.
 *
 * @param log The log that the offset is meant for.
 * @returns The position; `"malformed"` for any other text, and `"gone"` for an offset of another
 * log.
 *
 * @example Usage
 * ```ts
 * import { parseOffset } from "./offset.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const log = { identity: "a1b2c3d4" };
 * assertEquals(parseOffset(log, "0000000000000007_a1b2c3d4"), 7);
 * assertEquals(parseOffset(log, "0000000000000007_00000000"), "gone");
 * assertEquals(parseOffset(log, "7"), "malformed");
 * ```
 */
export function parseOffset(
  log: Pick<LogInfo, "identity" | "origin">,
  offset: string,
): number | "malformed" | "gone" {
  const position = unboundPosition(offset);
  if (position === undefined) return "malformed";
  return formatOffset(log, position, snapshotOf(offset)) === offset ? position : "gone";
}

/**
 * Parses the position at which the snapshot ends that a reader is reading.
 *
 * @param offset The offset; `undefined` for the start.
 * @returns The position; `undefined` for an offset outside of snapshots.
 */
export function snapshotOf(offset: string | undefined): number | undefined {
  const digits = offset && OFFSET.exec(offset)?.[3];
  return digits ? Number(digits) : undefined;
}

/**
 * The position of the oldest readable record, which may be in a source of the fork. A keyed log can
 * be read from its start.
 */
export function oldestPosition(
  { start, first, keyed }: Pick<LogInfo, "first" | "keyed" | "start">,
): number {
  return keyed === undefined && start > first ? start : 0;
}

/**
 * Parses the position of an offset, whichever log it belongs to.
 *
 * @returns The position; `undefined` for a malformed offset.
 */
export function unboundPosition(offset: string): number | undefined {
  const position = Number(OFFSET.exec(offset)?.[1] ?? NaN);
  return Number.isSafeInteger(position) ? position : undefined;
}

export function identityIn(offset: string): string | undefined {
  return OFFSET.exec(offset)?.[2];
}

/** Identities for the positions that a log shares with its sources, oldest first. */
export function lineageOf(
  { origin }: Pick<LogConfig, "origin">,
): readonly { readonly identity: string; readonly until: number }[] {
  if (origin === undefined) return [];
  return [...origin.lineage, { identity: origin.identity, until: origin.position }];
}
