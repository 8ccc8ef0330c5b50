/**
 * Detects which programs of the deployment pages are installed.
 *
 * @module
 */

/**
 * Returns true if a program is in the path.
 *
 * @param program Name of the program.
 * @returns False if the program is missing, so tests that need it are ignored.
 * @throws {Error} If `CI` is `true` and the program is missing, because every test must run in CI.
 */
export async function isInstalled(program: string): Promise<boolean> {
  const { success } = await new Deno.Command("sh", {
    args: ["-c", 'command -v "$1"', "sh", program],
    stdout: "null",
    stderr: "null",
  }).output();
  if (success) return true;
  if (Deno.env.get("CI") === "true") throw new Error(`${program} is not installed`);
  console.warn(`Tests with ${program} are ignored: ${program} is not installed`);
  return false;
}
