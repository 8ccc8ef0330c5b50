/** The search for seeds of simulated clusters that break an invariant, for half an hour. */
import { simulate } from "../simulation/main.ts";
import type { Check } from "./webtransport.ts";

/** Time of the search, in minutes. */
const MINUTES = 30;
const SHORT_MINUTES = 0.25;

/**
 * Searches from a drawn seed.
 *
 * @param check Tells the result.
 * @param say Writes a line.
 * @param isShort True for a quarter of a minute.
 */
export async function soakSimulation(
  check: Check,
  say: (line: string) => void,
  isShort: boolean,
): Promise<void> {
  let last = "";
  const code = await simulate(["--minutes", `${isShort ? SHORT_MINUTES : MINUTES}`], {
    say: (line) => say(`     ${last = line}`),
  });
  check("no seed of a simulated cluster breaks an invariant", code === 0, last);
}
