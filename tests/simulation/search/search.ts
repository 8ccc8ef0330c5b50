/** The search for plans that break an invariant. */
import { seededRandom } from "../../../transport/memory/path.ts";
import type { Finding, Outcome, Plan } from "../plan.ts";
import { Corpus } from "./corpus.ts";
import { shapeOf } from "./coverage.ts";
import type { RunOptions } from "./runners.ts";
import { shrink, type Shrunk } from "./shrink.ts";

/** Invariant: each plan returns the same digest twice. */
export const EQUALITY = "a run is the same twice";

/**
 * Number of plans by which results lag: a plan is chosen from the results of all plans up to this
 * many before it. So the sequence of plans depends neither on speed nor on the number of jobs.
 */
const LAG = 16;

/** Share of plans that are mutations, unless the corpus is empty. */
const MUTATED = 0.5;

/** Maximum findings of an invariant that are shrunk; further ones are only counted. */
const MAX_OF_INVARIANT = 3;

/** Options of a search. */
export interface SearchOptions {
  /** Seed of the search: the first seed of plans, and the seed of all mutations. */
  readonly seed: number;
  /**
   * Number of seeds, not counting mutated plans.
   *
   * @default {Infinity}
   */
  readonly seeds?: number;
  /**
   * True to run only plans of seeds, and no mutated ones.
   *
   * @default {false}
   */
  readonly isFresh?: boolean | undefined;
  /** Creates the plan of a seed. */
  readonly planOf: (seed: number) => Plan;
  /** Runs a plan, as `Runners.run()` does. */
  readonly run: (plan: Plan, options?: RunOptions) => Promise<Outcome>;
  /**
   * Number of findings that end the search.
   *
   * @default {10}
   */
  readonly maxFindings?: number;
  /**
   * Runs every n-th plan twice, the second time in a separate process, and compares the digests.
   *
   * @default {50}
   */
  readonly repeatEvery?: number;
  /** Stops the search; running plans finish. */
  readonly signal?: AbortSignal | undefined;
  /** Stops the shrinking of findings, which continues after the end of the search. */
  readonly shrinkSignal?: AbortSignal | undefined;
  /** Called with each result, in the order of the plans. */
  readonly onOutcome?: (outcome: Outcome, counts: SearchCounts) => void;
  /** Called with each finding of a new kind, before it is shrunk. */
  readonly onSeen?: (finding: Finding, plan: Plan) => void;
  /** Called with each shrunk finding. */
  readonly onFound?: (found: Found) => void | Promise<void>;
}

/** Counts of a search. */
export interface SearchCounts {
  /** Plans that ran, without those of shrinking. */
  readonly plans: number;
  /** Plans of seeds among them. */
  readonly seeds: number;
  /** Plans with a finding, including known ones. */
  readonly failed: number;
  /** Events of all plans. */
  readonly events: number;
  /** Virtual time of all plans, in milliseconds. */
  readonly simulatedMs: number;
  /** Known states. */
  readonly states: number;
  /** Plans in the corpus. */
  readonly corpus: number;
}

/** A finding with the smallest plan. */
export interface Found extends Shrunk {
  /** The plan that showed the finding first. */
  readonly first: Plan;
  /** Number of earlier plans. */
  readonly after: number;
  /** The finding, in the smallest plan. */
  readonly finding: Finding;
}

/** The result of a search. */
export interface SearchResult extends SearchCounts {
  /** Findings, in the order of the plans that showed them. */
  readonly found: readonly Found[];
}

/**
 * Searches plans that break an invariant.
 *
 * - **Guided:** plans that reach new states are kept, and mutations of them run next to plans of
 *   fresh seeds.
 * - **Deterministic:** the seed determines the sequence of plans, at any speed and number of
 *   processes.
 * - **Bounded:** findings with the same expectation count as one; at most three per invariant are
 *   shrunk.
 *
 * @param options See {@linkcode SearchOptions}.
 * @returns Counts, and findings with shrunk plans.
 */
export async function search(options: SearchOptions): Promise<SearchResult> {
  const { seed, seeds = Infinity, planOf, run, maxFindings = 10, repeatEvery = 50, signal } =
    options;
  const mutated = options.isFresh ? 0 : MUTATED;
  const corpus = new Corpus();
  const counts = { plans: 0, seeds: 0, failed: 0, events: 0, simulatedMs: 0 };
  const shrinking = new Map<string, Promise<Found>>();
  const ofInvariant = new Map<string, number>();
  const underWay: Promise<Outcome>[] = [];

  const absorb = (outcome: Outcome) => {
    const { plan, findings, events, simulatedMs, coverage } = outcome;
    const after = counts.plans++;
    counts.events += events;
    counts.simulatedMs += simulatedMs;
    corpus.add(plan, coverage);
    if (findings.length > 0) counts.failed++;
    // A known finding must not hide another one.
    const finding = findings.find((finding) =>
      !shrinking.has(kindOf(finding)) &&
      (ofInvariant.get(finding.invariant) ?? 0) < MAX_OF_INVARIANT
    );
    if (finding !== undefined && shrinking.size < maxFindings) {
      const { invariant } = finding;
      ofInvariant.set(invariant, (ofInvariant.get(invariant) ?? 0) + 1);
      options.onSeen?.(finding, plan);
      const found = shrinkFinding({ plan, finding, after }, options);
      found.catch(() => {}); // Thrown at the end, with the results of all others.
      shrinking.set(kindOf(finding), found);
    }
    options.onOutcome?.(outcome, { ...counts, states: corpus.states, corpus: corpus.size });
  };

  for (let index = 0; counts.seeds < seeds; index++) {
    if (underWay.length === LAG) absorb(await underWay.shift()!);
    if (signal?.aborted || shrinking.size >= maxFindings) break;
    const random = seededRandom(Math.imul(seed, 0x9e3779b1) + index);
    const plan = corpus.size > 0 && random() < mutated
      ? corpus.mutate(planOf(Math.floor(random() * 2 ** 32)), random)
      : planOf(seed + counts.seeds++);
    const isTwice = index % repeatEvery === repeatEvery - 1;
    const outcome = runOnceOrTwice(plan, { run, isTwice });
    outcome.catch(() => {}); // Awaited in the order of the plans.
    underWay.push(outcome);
  }
  for (const outcome of underWay) absorb(await outcome);
  const found = await Promise.all(shrinking.values());
  return { ...counts, states: corpus.states, corpus: corpus.size, found };
}

/** Kind of a finding: the invariant, and the shape of the expectation, which ends at a comma. */
function kindOf({ invariant, text }: Finding): string {
  return `${invariant}: ${shapeOf(text.split(",", 1)[0]!)}`;
}

/** Runs a plan; if requested, twice, and compares the digests. */
async function runOnceOrTwice(
  plan: Plan,
  { run, isTwice, isUrgent = false }: Pick<SearchOptions, "run"> & {
    readonly isTwice: boolean;
    readonly isUrgent?: boolean;
  },
): Promise<Outcome> {
  const outcome = await run(plan, { isUrgent });
  if (!isTwice || outcome.findings.length > 0) return outcome;
  return withEquality(outcome, await run(plan, { isUrgent, isApart: true }));
}

/**
 * Compares two runs of a plan.
 *
 * @param first The result of one run.
 * @param second The result of the other run.
 * @returns The first result, with a finding if the digests differ.
 */
export function withEquality(first: Outcome, second: Outcome): Outcome {
  if (first.digest === second.digest) return first;
  const text = `Expected the digest ${first.digest} of the first run, received ${second.digest}` +
    ` (${first.events} and ${second.events} events)`;
  const finding = { invariant: EQUALITY, atMs: first.simulatedMs, host: "", text };
  return { ...first, findings: [...first.findings, finding] };
}

/** Shrinks a plan while the same invariant breaks. */
async function shrinkFinding(
  { plan: first, finding, after }: {
    readonly plan: Plan;
    readonly finding: Finding;
    readonly after: number;
  },
  options: SearchOptions,
): Promise<Found> {
  const { invariant } = finding;
  let smallest = finding;
  const fails = async (plan: Plan) => {
    const { findings } = await runOnceOrTwice(plan, {
      run: options.run,
      isTwice: invariant === EQUALITY,
      isUrgent: true,
    });
    const again = findings.find((found) => found.invariant === invariant);
    if (again !== undefined) smallest = again;
    return again !== undefined;
  };
  const shrunk = await shrink(first, fails, { signal: options.shrinkSignal });
  const found = { ...shrunk, first, after, finding: smallest };
  await options.onFound?.(found);
  return found;
}
