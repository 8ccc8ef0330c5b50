/** Runs many cases of each property in separate processes. */

const FOLDER = new URL(".", import.meta.url);

const RUNNER = new URL("../../tools/run_tests.ts", import.meta.url);

/** A search through all properties. */
export interface PropertySearch {
  /** Seed of the cases. */
  readonly seed: number;
  /** Number of cases per property. */
  readonly cases: number;
  /** Writes a line. */
  readonly say: (line: string) => void;
  /** Signal that ends the search. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Runs cases of each property. If a test fails, its output is shown. It contains the smallest case
 * and the variables that replay it.
 *
 * @param search See {@linkcode PropertySearch}.
 * @returns True if all properties hold.
 */
export async function searchProperties(
  { seed, cases, say, signal }: PropertySearch,
): Promise<boolean> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", RUNNER.pathname, "--no-check", "--parallel", "--deadline=1800"]
      .concat("--together=12", FOLDER.pathname),
    env: { PROPERTY_SEED: `${seed}`, PROPERTY_RUNS: `${cases}`, NO_COLOR: "1" },
    ...(signal && { signal }),
  }).output();
  const [text, errors] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  const summary = /^(?:ok|FAILED) \| .*$/m.exec(text!)?.[0] ?? "FAILED | no summary";
  if (!success) { for (const line of `${text}${errors}`.split("\n")) say(line); }
  say(`properties, seed ${seed}, ${cases} cases each: ${summary}`);
  return success;
}
