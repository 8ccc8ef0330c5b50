/** Scheduling at the end of a turn of the event loop, on each platform. */

/** Calls back once all callbacks that are ready in this turn of the event loop have run. */
export type Schedule = (callback: () => void) => void;

/**
 * Creates the schedule of the platform: `setImmediate` where available (Deno), a `MessageChannel`
 * in browsers. A timer would wait a millisecond and more.
 *
 * @returns A new schedule. The schedule holds no timer and keeps no process alive.
 */
export function platformSchedule(): Schedule {
  const { setImmediate } = globalThis as { setImmediate?: (callback: () => void) => unknown };
  if (setImmediate !== undefined) return (callback) => void setImmediate(callback);
  const callbacks: (() => void)[] = [];
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => callbacks.shift()?.();
  return (callback) => {
    callbacks.push(callback);
    port2.postMessage(null);
  };
}
