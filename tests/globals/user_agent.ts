/**
 * Sets the user agent for tests.
 *
 * @module
 */

/**
 * Sets `navigator.userAgent`.
 *
 * @returns A disposable that restores the user agent.
 */
export function withUserAgent(value: string): Disposable {
  Object.defineProperty(navigator, "userAgent", { value, configurable: true });
  return {
    [Symbol.dispose]: () => void delete (navigator as Partial<{ userAgent: string }>).userAgent,
  };
}
