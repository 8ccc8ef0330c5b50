/**
 * Runs tests concurrently.
 *
 * @module
 */

/** One of the tests. */
export interface Part {
  readonly name: string;
  readonly fn: () => Promise<void>;
}

/**
 * Runs independent tests concurrently, since they mostly wait. Leaks are found in the test as a
 * whole, since they cannot be assigned to parts.
 */
export function testTogether(name: string, parts: readonly Part[]): void {
  if (parts.length === 0) return;
  const watched = { sanitizeOps: false, sanitizeResources: false, sanitizeExit: false };
  Deno.test(name, async (test) => {
    await Promise.all(parts.map((part) => test.step({ ...part, ...watched })));
  });
}
