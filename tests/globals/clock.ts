/**
 * Clock changes for tests.
 *
 * @module
 */

/**
 * Sets the clock ahead without running timers, as if the machine had slept.
 *
 * @param byMs Milliseconds to add.
 * @returns A function that resets the clock.
 */
export function clockAhead(byMs: number): Disposable {
  const { Date } = globalThis;
  globalThis.Date = class extends Date {
    static override now = () => Date.now() + byMs;
  } as DateConstructor;
  return {
    [Symbol.dispose]() {
      globalThis.Date = Date;
    },
  };
}
