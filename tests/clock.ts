/**
 * What the tests do to the clock.
 *
 * @module
 */

/**
 * Sets the clock ahead, as a machine finds it that slept: no timer ran meanwhile.
 *
 * @param byMs How far, in milliseconds.
 * @returns Sets it back.
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
