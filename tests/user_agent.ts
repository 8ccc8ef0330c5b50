/**
 * A browser's name of itself, for tests.
 *
 * @module
 */

/**
 * Sets `navigator.userAgent`.
 *
 * @param value What it says.
 * @returns Puts it back, when disposed of.
 */
export function withUserAgent(value: string): Disposable {
  Object.defineProperty(navigator, "userAgent", { value, configurable: true });
  return {
    [Symbol.dispose]: () => void delete (navigator as Partial<{ userAgent: string }>).userAgent,
  };
}
