/** The search for plans that break an invariant. */
import { seededRandom } from "../../../transport/memory/path.ts";
import type { Finding, Outcome, Plan } from "../plan.ts";
import { Corpus } from "./corpus.ts";
import { shapeOf } from "./coverage.ts";
import type { RunOptions } from "./runners.ts";
import { shrink, type Shrunk } from "./shrink.ts";

/** The invariant that two runs of a plan return the same digest. */
export const EQUALITY = "a run is the same twice";

/**
 * Number of plans by which results lag. Each plan is chosen from the results of all plans up to
 * this many before it, so the sequence of plans depends neither on the speed nor on the number of
 * jobs.
 */
const LAG = 16;

/** Share of the plans that are mutations, unless the corpus is empty. */
const MUTATED = 0.5;

/** Maximum number of an invariant's findings that are shrunk. Further findings are only counted. */
const MAX_OF_INVARIANT = 3;

export interface SearchOptions {
  /** Seed of the search. It is the first seed of the plans and the seed of all mutations. */
  readonly seed: number;
  /**
   * Number of seeds, not counting mutated plans.
   *
   * @default {Infinity}
   */
  readonly seeds?: number;
  /**
   * True to run only plans of seeds, without mutated plans.
   *
   * @default {false}
   */
  readonly isFresh?: boolean | undefined;
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
   * Every n-th plan runs twice, the second time in a separate process, and the digests are
   * compared.
   *
   * @default {50}
   */
  readonly repeatEvery?: number;
  /** Stops the search. Running plans finish. */
  readonly signal?: AbortSignal | undefined;
  /** Stops the shrinking of findings, which otherwise continues after the search has ended. */
  readonly shrinkSignal?: AbortSignal | undefined;
  /** Called with each result, in the order of the plans. */
  readonly onOutcome?: (outcome: Outcome, counts: SearchCounts) => void;
  /** Called with each finding of a new kind, before it is shrunk. */
  readonly onSeen?: (finding: Finding, plan: Plan) => void;
  /** Called with each shrunk finding. */
  readonly onFound?: (found: Found) => void | Promise<void>;
}

export interface SearchCounts {
  /** Number of plans that ran, not counting runs for shrinking. */
  readonly plans: number;
  /** Number of these plans that came from seeds. */
  readonly seeds: number;
  /** Number of plans with a finding, including known findings. */
  readonly failed: number;
  /** Number of events in all plans. */
  readonly events: number;
  /** Virtual time of all plans, in milliseconds. */
  readonly simulatedMs: number;
  /** Number of known states. */
  readonly states: number;
  /** Number of plans in the corpus. */
  readonly corpus: number;
}

/** A finding and the smallest plan that shows it. */
export interface Found extends Shrunk {
  /** The plan that first showed the finding. */
  readonly first: Plan;
  /** Number of earlier plans. */
  readonly after: number;
  /** The finding as the smallest plan shows it. */
  readonly finding: Finding;
}

export interface SearchResult extends SearchCounts {
  /** Findings, in the order of the plans that showed them. */
  readonly found: readonly Found[];
}

/**
 * Searches for plans that break an invariant.
 *
 * - **Guided:** plans that reach new states are kept, and their mutations run alongside plans of
 *   fresh seeds.
 * - **Deterministic:** the seed determines the sequence of plans, regardless of the speed and the
 *   number of processes.
 * - **Bounded:** findings with the same expectation are counted as one, and at most three per
 *   invariant are shrunk.
 *
 * @param options See {@linkcode SearchOptions}.
 * @returns The counts, and the findings with shrunk plans.
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
    // A known finding must not hide another finding.
    const finding = findings.find((finding) =>
      !shrinking.has(kindOf(finding)) &&
      (ofInvariant.get(finding.invariant) ?? 0) < MAX_OF_INVARIANT
    );
    if (finding !== undefined && shrinking.size < maxFindings) {
      const { invariant } = finding;
      ofInvariant.set(invariant, (ofInvariant.get(invariant) ?? 0) + 1);
      options.onSeen?.(finding, plan);
      const found = shrinkFinding({ plan, finding, after }, options);
      found.catch(() => {}); // The error is thrown at the end, after all other results.
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
    outcome.catch(() => {}); // The results are awaited in the order of the plans.
    underWay.push(outcome);
  }
  for (const outcome of underWay) absorb(await outcome);
  const found = await Promise.all(shrinking.values());
  return { ...counts, states: corpus.states, corpus: corpus.size, found };
}

/**
 * Returns the kind of a finding: the invariant and the shape of the expectation, which ends at a
 * comma.
 */
function kindOf({ invariant, text }: Finding): string {
  return `${invariant}: ${shapeOf(text.split(",", 1)[0]!)}`;
}

/** Runs a plan. If requested, runs it twice and compares the digests. */
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

/** Shrinks a plan for as long as the same invariant breaks. */
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
