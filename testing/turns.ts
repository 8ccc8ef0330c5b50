/** Turns of the event loop, which also pass in fake time. */
import { platformRuntime } from "../base/runtime.ts";

/** Turns for a full exchange: an envelope, its handler, and the reply. */
const TURNS = 10;

/**
 * Waits for some turns of the event loop. By then, messages sent over memory have been handled, and
 * replies have arrived, unless a fault or a handler adds a delay. Works with fake time.
 *
 * @param count Number of turns; 10 by default.
 * @returns Resolves after these turns.
 *
 * @example No message arrived
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
  const runtime = platformRuntime();
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => runtime.schedule(resolve));
}

/**
 * Waits for a promise that needs no time, for a limited number of turns.
 *
 * @param promise Promise to wait for; the caller handles its rejection.
 * @returns `false` if the promise is still pending after some turns.
 */
export async function settlesSoon(promise: Promise<unknown>): Promise<boolean> {
  return await Promise.race([promise.then(() => true, () => true), turns().then(() => false)]);
}

/** Most steps in which time passes. */
const STEPS = 100;

/**
 * Moves fake time forward in small steps, so that messages, replies and new timers can run in
 * between. One large tick would run only the timers that exist at its start.
 *
 * @param time Time of the test: `FakeTime` of `@std/testing/time`, or a similar class.
 * @param ms Time to pass, in milliseconds.
 * @returns Resolves when the time has passed.
 *
 * @example A round trip over a connection with a delay of 50 ms
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
 * const reply = pair.client.request("ping");
 * await passTime(time, 100);
 * assertEquals(await reply, "pong");
 * ```
 */
export async function passTime(
  time: { tickAsync(ms: number): Promise<unknown> },
  ms: number,
): Promise<void> {
  await turns();
  const step = Math.max(1, Math.ceil(ms / STEPS));
  for (let left = ms; left > 0; left -= step) {
    await time.tickAsync(Math.min(step, left));
    await turns();
  }
}
