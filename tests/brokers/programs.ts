/**
 * Detects which stores have a server program installed.
 *
 * @module
 */

/**
 * Returns true if a server is not installed and its tests are skipped. In runs that require all
 * tests, these tests fail instead.
 */
export async function isMissing(program: string, store: string): Promise<boolean> {
  try {
    const { success } = await new Deno.Command(program, {
      args: ["--version"],
      stdout: "null",
      stderr: "null",
    }).output();
    if (success) return false;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  if (Deno.env.get("CI") === "true") throw new Error(`${program} is not installed`);
  console.warn(`Tests with ${store} are ignored: ${program} is not installed`);
  return true;
}
