/** Patience of programs: some waits have a short time of their own, or a signal that is aborted soon. */
import type { Runtime } from "../../../../base/runtime.ts";

/** Share of waits with a short time, and of those with a signal. */
const SHARE = 0.25;

/** Shortest time of such a wait, in milliseconds: that of a message there and back. */
const LEAST_MS = 5;

/** Longest time of such a wait, in shortest ones. */
const SPREAD = 400;

/** Options of one wait, and the time after which the wait is over. */
export interface Patience {
  /** Options of the operation. */
  readonly options: { readonly timeoutMs?: number; readonly signal?: AbortSignal };
  /** Longest time of the wait, in milliseconds. */
  readonly withinMs: number;
}

/**
 * Draws the patience of one wait.
 *
 * @param runtime Timers of the host.
 * @param random Two numbers from 0 up to 1.
 * @param withinMs Longest time of a wait without a time of its own, in milliseconds.
 * @returns The options and the time.
 */
export function patienceOf(
  runtime: Runtime,
  random: () => number,
  withinMs: number,
): Patience {
  const kind = random();
  const ms = Math.round(LEAST_MS * SPREAD ** random());
  if (kind < SHARE) return { options: { timeoutMs: ms }, withinMs: ms };
  if (kind > 2 * SHARE) return { options: {}, withinMs };
  const controller = new AbortController();
  const abort = () => controller.abort(new DOMException("The program gives up", "AbortError"));
  runtime.setTimeout(abort, ms);
  return { options: { signal: controller.signal }, withinMs: ms };
}
