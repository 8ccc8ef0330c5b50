/** Searches for cases that violate properties, and for cluster seeds that break an invariant. */
import { simulate } from "../simulation/main.ts";
import type { Check } from "./webtransport.ts";

/**
 * The full run has a thousand cases of each property and half an hour of plans, from a random seed.
 */
const LONG = ["--minutes", "30", "--cases", "1000"];

/**
 * The short run uses the same cases and plans each time, so that any new finding is caused by a
 * change of the library.
 */
const SHORT = ["--seed", "1", "--seeds", "20", "--cases", "20"];

/**
 * Runs a guided search.
 *
 * @param check Receives the result.
 * @param say Writes a line.
 * @param isShort True to run only the first plans of one seed.
 */
export async function soakSimulation(
  check: Check,
  say: (line: string) => void,
  isShort: boolean,
): Promise<void> {
  let last = "";
  const code = await simulate(isShort ? SHORT : LONG, {
    say: (line) => say(`     ${last = line}`),
  });
  check("all properties hold, and no seed of a cluster breaks an invariant", code === 0, last);
}
