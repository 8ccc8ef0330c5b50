/**
 * The end of a turn of the event loop, as each platform can tell it.
 *
 * @module
 */

/** Calls back once everything that is ready in this turn of the event loop ran. */
export type Schedule = (callback: () => void) => void;

/**
 * Finds the platform's way: `setImmediate` where there is one (Deno), a
 * `MessageChannel` in browsers. A timer would wait a millisecond and more.
 *
 * @returns A schedule of its own; it holds no timer and keeps no process alive.
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
