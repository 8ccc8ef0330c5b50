/** Texts of findings, for readers. */
import type { HistoryPosition } from "../../../session/wire/recovery.ts";

/**
 * Formats a virtual time.
 *
 * @param ms Milliseconds since the start.
 * @returns The time in seconds.
 */
export function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(3)} s`;
}

/**
 * Formats a position, with the start of its epoch.
 *
 * @returns Offset and epoch.
 */
export function place(position: HistoryPosition | undefined): string {
  if (position === undefined) return "no position";
  return `${position.offset} of epoch ${position.epoch.slice(0, 8)}`;
}

/**
 * Lists names and shows only the first of them.
 *
 * @returns At most five names, and the number of other names.
 */
export function list(names: readonly string[]): string {
  if (names.length === 0) return "none";
  const rest = names.length - 5;
  return names.slice(0, 5).join(", ") + (rest > 0 ? `, and ${rest} more` : "");
}
