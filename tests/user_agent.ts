/**
 * Sets the browser's name for tests.
 *
 * @module
 */

/**
 * Sets `navigator.userAgent`.
 *
 * @param value The name.
 * @returns A disposable that restores the name.
 */
export function withUserAgent(value: string): Disposable {
  Object.defineProperty(navigator, "userAgent", { value, configurable: true });
  return {
    [Symbol.dispose]: () => void delete (navigator as Partial<{ userAgent: string }>).userAgent,
  };
}
