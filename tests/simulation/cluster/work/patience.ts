/** Timeouts of programs. Some waits have a short timeout or a signal that is aborted soon. */
import type { Runtime } from "../../../../base/runtime.ts";

/** Share of waits with a short timeout, and share of waits with a signal. */
const SHARE = 0.25;

/** Minimum duration of such a wait in milliseconds, which is a round trip. */
const LEAST_MS = 5;

/** Maximum duration of such a wait, as a multiple of the minimum. */
const SPREAD = 400;

/** Options of a wait, and the time after which it ends. */
export interface Patience {
  /** Options of the operation. */
  readonly options: { readonly timeoutMs?: number; readonly signal?: AbortSignal };
  /** Maximum duration of the wait, in milliseconds. */
  readonly withinMs: number;
}

/**
 * Picks the timeout or signal of a wait at random.
 *
 * @param runtime Timers of the host.
 * @param random Returns random numbers in [0, 1). It is called twice.
 * @param withinMs Maximum duration of a wait that has no timeout of its own, in milliseconds.
 * @returns The options and the maximum duration.
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
