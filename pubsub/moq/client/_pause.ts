/** A pause that signals can cut short. */
import { startTimer } from "../../../transport/within.ts";

/**
 * Waits for a time or a signal. Leaves neither a timer nor a listener behind.
 *
 * @param ms The time, in milliseconds.
 * @param signals Each of these ends the pause.
 */
export function pause(ms: number, signals: readonly AbortSignal[]): Promise<void> {
  if (ms <= 0 || signals.some(({ aborted }) => aborted)) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = startTimer(ms, done);
    for (const signal of signals) signal.addEventListener("abort", done, { once: true });
  });
}
