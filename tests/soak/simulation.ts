/**
 * Searches for cases that violate properties, and for seeds of clusters that break an invariant.
 */
import { simulate } from "../simulation/main.ts";
import type { Check } from "./webtransport.ts";

/** A thousand cases of each property and half an hour of plans, from a random seed. */
const LONG = ["--minutes", "30", "--cases", "1000"];

/** The same cases and plans each time, so that a change of the library is the cause of each new finding. */
const SHORT = ["--seed", "1", "--seeds", "20", "--cases", "20"];

/**
 * Runs a guided search.
 *
 * @param check Receives the result.
 * @param say Writes a line.
 * @param isShort True for the first plans of one seed.
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
