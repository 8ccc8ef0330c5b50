/**
 * Turns of the event loop, which pass in fake time too.
 *
 * @module
 */
import { platformSchedule } from "../session/queue/schedule.ts";

/** As many turns as what is under way needs: an envelope there, its handler, and the answer back. */
const TURNS = 10;

/**
 * Lets the event loop turn: what was sent over memory has arrived by then, was handled, and the
 * answer is back, unless a delay or a handler of its own takes time. Fake time does not stop it.
 *
 * @param count How many turns; 10 if left out.
 * @returns Resolves after them.
 *
 * @example Nothing came
 * ```ts
 * import { memorySessions, turns } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memorySessions();
 * await turns();
 * assertEquals(pair.client.stats.receivedMessages, 0);
 * ```
 */
export async function turns(count: number = TURNS): Promise<void> {
  const schedule = platformSchedule();
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => schedule(resolve));
}

/**
 * Waits for what needs no time, but not for ever.
 *
 * @param promise What to wait for; its rejection is the caller's.
 * @returns False if it is not settled after some turns.
 */
export async function settlesSoon(promise: Promise<unknown>): Promise<boolean> {
  return await Promise.race([promise.then(() => true, () => true), turns().then(() => false)]);
}

/** In how many steps time passes at most. */
const STEPS = 100;

/** Time that a test moves: `FakeTime` of `@std/testing/time`, or what is like it. */
export interface TickingTime {
  /** Moves it by some milliseconds. */
  tickAsync(ms: number): Promise<unknown>;
}

/**
 * Lets fake time pass in small steps, and everything happen in between: what is
 * sent, what answers it, and what waits for that. One large tick would run the
 * timers that there are, and none that come of them.
 *
 * @param time The test's time.
 * @param ms How long, in milliseconds.
 * @returns Resolves when the time has passed.
 *
 * @example There and back over a line of 50 ms
 * ```ts
 * import { memorySessions, passTime } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 * import { FakeTime } from "@std/testing/time";
 *
 * using time = new FakeTime();
 * await using pair = memorySessions({
 *   server: { onMessage: (message) => message.reply("pong") },
 *   wire: { faults: { delayMs: 50 } },
 * });
 * await passTime(time, 50); // The server's first envelope.
 * const answer = pair.client.request("ping");
 * await passTime(time, 100);
 * assertEquals(await answer, "pong");
 * ```
 */
export async function passTime(time: TickingTime, ms: number): Promise<void> {
  await turns();
  const step = Math.max(1, Math.ceil(ms / STEPS));
  for (let left = ms; left > 0; left -= step) {
    await time.tickAsync(Math.min(step, left));
    await turns();
  }
}
