/**
 * Detects which programs of the deployment pages are installed, and copies Deno for other users.
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

/**
 * Copies this Deno to a place where other users can run it: it may be in the home of root.
 *
 * Another process writes the copy. If this one did, a program that another test starts at that
 * moment would have the file open for writing until it runs, and the copy could not be run ("Text
 * file busy").
 *
 * @param to The path of the copy.
 */
export async function copyDeno(to: string): Promise<void> {
  const { success, stderr } = await new Deno.Command("cp", { args: [Deno.execPath(), to] })
    .output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
}
