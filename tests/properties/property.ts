/**
 * Properties: statements about the library that must hold for every generated case.
 *
 * A property has a name in plain words, a generator of cases, and a function that runs one case in
 * a {@linkcode World} and compares the outcome with a model. `deno task test` runs a few cases from
 * a fixed seed, and `deno task simulate` runs many cases from a random seed. Two environment
 * variables override these defaults: `PROPERTY_RUNS` (the number of cases per property) and
 * `PROPERTY_SEED`.
 *
 * A failure shows the smallest case that [fast-check](https://fast-check.dev) found, its timeline,
 * and the variables that replay it. To keep a case, add it to `regressions`. If it fails only with
 * the printed seed, wrap it in {@linkcode atSeed}.
 *
 * @module
 */
import fc from "fast-check";
import { World } from "./world.ts";

/** Number of cases per property in `deno task test`. */
const RUNS = 5;

/** The seed that `deno task test` uses. */
const SEED = 1;

/** Maximum time of the search for a smaller case, in milliseconds. A test may take two minutes. */
const SHRINK_MS = 30_000;

// By default, fast-check generates lists of at most ten items, whatever their `maxLength`.
fc.configureGlobal({ defaultSizeToMaxWhenMaxSpecified: true });

/** A case and the seed of its world. */
export class Seeded<Case> {
  constructor(readonly seed: number, readonly value: Case) {}
}

/**
 * Attaches the seed of its world to a regression. The seed is printed when a case fails.
 *
 * @returns An entry of `regressions`.
 */
export function atSeed<Case>(seed: number, value: Case): Seeded<Case> {
  return new Seeded(seed, value);
}

/** The parts of a {@linkcode property}. */
export interface PropertyParts<Case> {
  /** Generates cases. Each part of a case should shrink towards its simplest value. */
  readonly cases: fc.Arbitrary<Case>;
  /**
   * Cases that failed once, keyed by the name of the bug. They run every time. The seed of their
   * world is 1, unless {@linkcode atSeed} sets it.
   */
  readonly regressions?: Readonly<Record<string, NoInfer<Case> | Seeded<NoInfer<Case>>>>;
  /**
   * Number of cases in `deno task test`. Use fewer for a slow property.
   *
   * @default {5}
   */
  readonly runs?: number;
  /**
   * Runs one case. Throws if the property does not hold.
   *
   * @param world Virtual time, machines, network, servers and clients. All of them are closed at
   * the end.
   */
  check(world: World, value: NoInfer<Case>): Promise<void>;
}

/**
 * Adds a test for a property and a test for each of its regressions.
 *
 * @typeParam Case The type of the cases.
 * @param name The statement, in plain words.
 * @param parts See {@linkcode PropertyParts}.
 *
 * @example A number comes back
 * ```ts ignore
 * property("a number comes back as it was sent", {
 *   cases: fc.record({ n: fc.integer(), transport: fc.constantFrom("websocket", "webtransport") }),
 *   async check(world, { n, transport }) {
 *     const node = world.serve("node", () => ({ requests: { echo: ({ data }) => data } }));
 *     const client = world.connect("ada", node.host, { transports: [transport] });
 *     assertEquals(await client.request("echo", n), n);
 *   },
 * });
 * ```
 */
export function property<Case>(name: string, parts: PropertyParts<Case>): void {
  const { cases, regressions = {} } = parts;
  const play = (seed: number, value: Case) =>
    World.play(seed, (world) => parts.check(world, value));
  for (const [bug, entry] of Object.entries(regressions)) {
    const { seed, value } = entry instanceof Seeded ? entry : new Seeded(SEED, entry);
    Deno.test(`${name}: ${bug}`, () => play(seed, value));
  }
  Deno.test(name, async () => {
    const numRuns = numberOf("PROPERTY_RUNS", 1) ?? parts.runs ?? RUNS;
    const seed = numberOf("PROPERTY_SEED", 0) ?? SEED;
    // A smaller seed is not a simpler case.
    const drawn = fc.asyncProperty(fc.noShrink(fc.nat()), cases, untilLate(play));
    const details = await fc.check(drawn, { numRuns, seed });
    if (details.failed) throw new Error(explain(details));
  });
}

/**
 * Passes all cases once some time has passed since the first failure, which ends the search for
 * smaller cases.
 */
function untilLate<Args extends unknown[]>(
  play: (...args: Args) => Promise<void>,
): (...args: Args) => Promise<void> {
  let lateMs = Infinity;
  return async (...args) => {
    if (performance.now() > lateMs) return;
    try {
      await play(...args);
    } catch (error) {
      lateMs = Math.min(lateMs, performance.now() + SHRINK_MS);
      throw error;
    }
  };
}

/** Reads an integer from an environment variable. */
function numberOf(name: string, least: number): number | undefined {
  const text = Deno.env.get(name);
  if (text === undefined) return undefined;
  const number = Number(text);
  if (text !== "" && Number.isSafeInteger(number) && number >= least) return number;
  throw new TypeError(`Cannot play: ${name} must be an integer from ${least}, received "${text}"`);
}

/** Describes the smallest case and its failure, and explains how to replay it. */
function explain<Case>(
  { counterexample, errorInstance, numRuns, numShrinks, seed }: fc.RunDetails<[number, Case]>,
): string {
  return [
    `does not hold for this case, the smallest after ${numShrinks} steps:`,
    fc.stringify(counterexample?.[1]),
    "",
    // The stack of the case and its timeline.
    errorInstance instanceof Error ? errorInstance.message : `${errorInstance}`,
    "",
    `again: PROPERTY_SEED=${seed} PROPERTY_RUNS=${numRuns} deno task test FILE`,
    `as a regression: atSeed(${counterexample?.[0]}, CASE)`,
  ].join("\n");
}
