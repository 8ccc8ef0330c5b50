/** The search for seeds of simulated clusters that break an invariant. */
import { simulate } from "../simulation/main.ts";
import type { Check } from "./webtransport.ts";

/** Half an hour from a drawn seed. */
const LONG = ["--minutes", "30"];

/** The same plans each time, so that a change of the library is the cause of each new finding. */
const SHORT = ["--seed", "1", "--seeds", "20"];

/**
 * Searches with guidance.
 *
 * @param check Tells the result.
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
  check("no seed of a simulated cluster breaks an invariant", code === 0, last);
}
