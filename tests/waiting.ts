/**
 * The ways in which tests wait:
 *
 * - {@linkcode soon} for a promise, with a time limit,
 * - {@linkcode until} for a condition without an event,
 * - {@linkcode turns} for messages over in-memory connections, and {@linkcode settlesSoon} for
 *   promises that depend only on such messages,
 * - {@linkcode passTime} for fake time.
 *
 * @module
 */
import { assert } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { turns } from "../testing/turns.ts";

export { passTime, settlesSoon, turns } from "../testing/turns.ts";

// These are real timers, so that `until()` also works in fake time.
const { setTimeout: startRealTimer } = globalThis;

/** Maximum wait, in milliseconds. It ends shortly before the test's deadline. */
export const PATIENCE_MS: number = Number(Deno.env.get("TEST_DEADLINE_MS") ?? 60_000) - 10_000;

/**
 * Number of times that a condition is checked without a pause, and the maximum pause after that, in
 * milliseconds.
 */
const [EAGER_CHECKS, LONGEST_PAUSE_MS] = [20, 10];

/**
 * Waits for a promise, with a time limit.
 *
 * @returns The value of the promise.
 */
export function soon<T>(promise: PromiseLike<T>): Promise<T> {
  return deadline(Promise.resolve(promise), PATIENCE_MS);
}

/**
 * Waits for a condition that no event announces. It checks the condition in every turn of the event
 * loop at first, then with short pauses in real time. Fake time does not advance in the meantime.
 *
 * @param look Returns a truthy value once the condition holds.
 * @returns The truthy value.
 */
export async function until<T>(
  look: () => T | PromiseLike<T>,
): Promise<Exclude<T, undefined | null | false>> {
  const end = performance.now() + PATIENCE_MS;
  for (let checks = 1;; checks++) {
    const found = await look();
    if (found) return found as Exclude<T, undefined | null | false>;
    assert(performance.now() < end, `not true after ${PATIENCE_MS / 1_000} s: ${look}`);
    const pauseMs = Math.min(checks - EAGER_CHECKS, LONGEST_PAUSE_MS);
    if (pauseMs <= 0) await turns(1);
    else await new Promise<void>((resolve) => startRealTimer(resolve, pauseMs));
  }
}
