/** Terminal plots of a load: small columns of rate and latency over time. */
import type { Colors } from "../context.ts";

const BARS = "▁▂▃▄▅▆▇█";

/**
 * Draws each value as a one-character column with one of eight heights, scaled from 0 to the largest
 * value.
 *
 * @param values The values, newest last; `undefined` leaves a gap.
 * @param width Maximum number of columns; older values are left out.
 * @returns The columns.
 */
export function sparkline(values: readonly (number | undefined)[], width: number): string {
  const shown = width > 0 ? values.slice(-width) : [];
  const most = Math.max(0, ...shown.map((value) => value ?? 0));
  return shown.map((value) => {
    if (value === undefined) return " ";
    if (most === 0) return BARS[0];
    return BARS[Math.min(BARS.length - 1, Math.floor(value / most * BARS.length))];
  }).join("");
}

/**
 * Formats a number with at most six characters.
 *
 * @param value A number of at least 0.
 * @returns The number, with the suffix `k`, `M` or `G` if it is large.
 */
export function shortNumber(value: number): string {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]] as const) {
    if (value >= size * 9.9995) return `${significant(value / size)}${unit}`;
  }
  return significant(value);
}

function significant(value: number): string {
  if (Number.isInteger(value)) return String(value);
  return value >= 1_000 ? value.toFixed(0) : value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/**
 * Formats a time.
 *
 * @param ms The time, in milliseconds.
 * @returns The time in microseconds, milliseconds or seconds, with three digits.
 */
export function shortTime(ms: number): string {
  if (ms === 0) return "0 ms";
  if (ms < 1) return `${Math.round(ms * 1_000)} µs`;
  return ms < 1_000 ? `${significant(ms)} ms` : `${significant(ms / 1_000)} s`;
}

/**
 * Formats a number of bytes.
 *
 * @param bytes The number.
 * @returns The number with a unit.
 */
export function shortBytes(bytes: number): string {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]] as const) {
    if (bytes >= size) return `${significant(bytes / size)} ${unit}`;
  }
  return `${Math.round(bytes)} B`;
}

/** A row of a plot: a name, the newest value, and the values over time. */
export interface PlotRow {
  /** Name of the value. */
  readonly name: string;
  /** The newest value, as text. */
  readonly now: string;
  /** All values, the newest last. */
  readonly values: readonly (number | undefined)[];
  /** Style of the columns. */
  readonly style: Exclude<keyof Colors, "isOn">;
}

/**
 * Draws rows that fit in the terminal's width.
 *
 * @param options Width of the terminal, and its colors.
 * @returns One line for each row.
 */
export function plot(
  rows: readonly PlotRow[],
  { width, colors }: { readonly width: number; readonly colors: Colors },
): string[] {
  const names = Math.max(...rows.map(({ name }) => name.length));
  const values = Math.max(...rows.map(({ now }) => now.length), 9);
  const room = width - names - values - 5;
  return rows.map(({ name, now, values: all, style }) => {
    const head = `  ${name.padEnd(names)} ${now.padStart(values)}`;
    if (room < 4) return head.slice(0, width);
    return `${head}  ${colors[style](sparkline(all, room))}`;
  });
}

/** Maximum number of values kept per row. No terminal has as many columns. */
export const MAX_POINTS = 400;
