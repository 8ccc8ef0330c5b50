/**
 * Tests that run at the same time.
 *
 * @module
 */

/** One of the tests. */
export interface Part {
  readonly name: string;
  readonly fn: () => Promise<void>;
}

/**
 * Runs independent tests at the same time, since most time is waiting. Leaks are found in the test
 * as a whole, since the parts cannot be told apart there.
 */
export function testTogether(name: string, parts: readonly Part[]): void {
  if (parts.length === 0) return;
  const watched = { sanitizeOps: false, sanitizeResources: false, sanitizeExit: false };
  Deno.test(name, async (test) => {
    await Promise.all(parts.map((part) => test.step({ ...part, ...watched })));
  });
}
