/**
 * Marks tests that take long, such as tests that fill a bound of ten thousand entries.
 *
 * @module
 */

/**
 * False in a run of the whole suite without `--slow`. True if files or folders are named, in the
 * gate and in `.ci/run`.
 */
export const RUNS_SLOW: boolean = Deno.env.get("TEST_SLOW") !== "false";

/**
 * Registers a test that takes long. `deno task test` leaves it out, unless its file or folder is
 * named, or with `--slow`.
 */
export function slowTest(name: string, test: () => void | Promise<void>): void {
  if (RUNS_SLOW) Deno.test(name, test);
}
