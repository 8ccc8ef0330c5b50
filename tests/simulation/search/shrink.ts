/** Smaller plans that still fail. */
import fc from "fast-check";
import type { Plan } from "../plan.ts";

/** Options of {@linkcode shrink}. */
export interface ShrinkOptions {
  /**
   * Maximum number of runs.
   *
   * @default {500}
   */
  readonly maxRuns?: number;
  /**
   * Maximum real time, in milliseconds. The last run is allowed to finish.
   *
   * @default {300_000}
   */
  readonly maxMs?: number;
  /** Stops the shrinking early. */
  readonly signal?: AbortSignal | undefined;
}

/** A failing plan, from which no part can be removed. */
export interface Shrunk {
  /** The smallest plan found. */
  readonly plan: Plan;
  readonly runs: number;
  /**
   * False if a smaller plan may exist because a limit or the signal stopped the shrinking, or if
   * the plan did not fail again.
   */
  readonly isMinimal: boolean;
}

/**
 * Shrinks a failing plan. It tries fewer clients, topics, seconds, actions, features and nodes, the
 * broker in memory, and smaller, shorter and earlier actions.
 *
 * - **Minimal:** no single step leads to a smaller plan that still fails. A second call changes
 *   nothing.
 * - **Bounded:** shrinking takes at most `maxRuns` runs and `maxMs` of real time. No plan runs
 *   twice.
 *
 * @param fails Runs a plan and returns `true` if it fails in the same way.
 * @param options See {@linkcode ShrinkOptions}.
 * @returns The result. If the plan does not fail again, the result contains the plan itself.
 */
export async function shrink(
  plan: Plan,
  fails: (plan: Plan) => Promise<boolean>,
  { maxRuns = 500, maxMs = 300_000, signal }: ShrinkOptions = {},
): Promise<Shrunk> {
  const endMs = performance.now() + maxMs;
  const known = new Set<string>();
  let runs = 0;
  let isMinimal = true;
  const passes = async (candidate: Plan) => {
    const key = JSON.stringify(candidate);
    if (known.has(key)) return true;
    if (runs === maxRuns || performance.now() > endMs || signal?.aborted) {
      isMinimal = false;
      return true;
    }
    known.add(key);
    runs++;
    return !await fails(candidate);
  };
  const property = fc.asyncProperty(new SmallerPlans(plan), passes);
  const { counterexample } = await fc.check(property, { numRuns: 1 });
  if (counterexample === null) return { plan, runs, isMinimal: false };
  return { plan: counterexample[0], runs, isMinimal };
}

/**
 * Position of a step in the order of {@linkcode stepsOf}: the section, the size of the part, and
 * the offset.
 */
type Position = readonly [section: number, size: number, offset: number];

/** A plan that is one step smaller than another plan. */
interface Step {
  readonly position: Position;
  readonly plan: Plan;
}

/** The plan and smaller plans derived from it, for fast-check's shrinking. */
class SmallerPlans extends fc.Arbitrary<Plan> {
  readonly #plan: Plan;

  constructor(plan: Plan) {
    super();
    this.#plan = plan;
  }

  override generate(): fc.Value<Plan> {
    return new fc.Value(this.#plan, undefined);
  }

  override canShrinkWithoutContext(_value: unknown): _value is Plan {
    return false;
  }

  /** Continues after the step that led here, and starts over after the last step. */
  override shrink(plan: Plan, context: Position = [0, 0, 0]): fc.Stream<fc.Value<Plan>> {
    function* values() {
      for (const isRest of [true, false]) {
        for (const { position, plan: smaller } of stepsOf(plan)) {
          if (isBefore(position, context) !== isRest) yield new fc.Value(smaller, position);
        }
      }
    }
    return fc.stream(values());
  }
}

/** Numbers of a plan, with their minimum. */
const NUMBERS = { clients: 1, topics: 1, seconds: 1, nodes: 1 } as const;

/** Lists all plans that are one step smaller. Plans with the most effect on time come first. */
function* stepsOf(plan: Plan): Generator<Step> {
  let section = 0;
  // Parts that need no action and have their own servers and clients fail in the smallest run.
  const { clients, topics, seconds } = NUMBERS;
  yield { position: [section++, 0, 0], plan: { ...plan, clients, topics, seconds, actions: [] } };
  for (const name of ["clients", "topics", "seconds"] as const) {
    yield* numbered(section++, smallerNumbers(plan[name], NUMBERS[name]), (value) => ({
      ...plan,
      [name]: value,
    }));
  }
  yield* parts(section++, plan.actions, (actions) => ({ ...plan, actions }));
  yield* parts(section++, plan.features, (features) => ({ ...plan, features }));
  yield* numbered(section++, smallerNumbers(plan.nodes, NUMBERS.nodes), (nodes) => ({
    ...plan,
    nodes,
  }));
  if (plan.broker !== "memory") {
    yield { position: [section, 0, 0], plan: { ...plan, broker: "memory" } };
  }
  section++;
  for (const [index, action] of plan.actions.entries()) {
    for (const name of ["amount", "lastsMs"] as const) {
      yield* numbered(section++, smallerNumbers(action[name] ?? 0, 0), (value) => ({
        ...plan,
        actions: plan.actions.with(index, { ...action, [name]: value }),
      }));
    }
    // Shortens the time since the previous action. All later actions keep their distances.
    const sinceMs = plan.actions[index - 1]?.atMs ?? 0;
    yield* numbered(section++, smallerNumbers(action.atMs, sinceMs), (atMs) => ({
      ...plan,
      actions: plan.actions.map((other, i) =>
        i < index ? other : { ...other, atMs: other.atMs - action.atMs + atMs }
      ),
    }));
  }
}

/** Removes parts of a list. Large parts come first, and each following size is half as large. */
function* parts<T>(
  section: number,
  list: readonly T[],
  make: (list: readonly T[]) => Plan,
): Generator<Step> {
  if (list.length === 0) return;
  for (let size = 2 ** Math.floor(Math.log2(list.length)); size >= 1; size /= 2) {
    for (let offset = 0; offset < list.length; offset += size) {
      yield { position: [section, -size, offset], plan: make(list.toSpliced(offset, size)) };
    }
  }
}

function* numbered(
  section: number,
  values: Iterable<number>,
  make: (value: number) => Plan,
): Generator<Step> {
  let offset = 0;
  for (const value of values) yield { position: [section, 0, offset++], plan: make(value) };
}

/**
 * Lists numbers between a minimum and a value. The minimum comes first, and later numbers are ever
 * closer to the value.
 */
function* smallerNumbers(value: number, smallest: number): Generator<number> {
  if (Number.isInteger(value)) {
    const [min, max] = [Math.min(value, smallest), Math.max(value, smallest)];
    // fast-check shrinks integers towards 0, so positions count from the smallest value.
    const shift = value > smallest ? min : max;
    const distances = fc.integer({ min: min - shift, max: max - shift });
    for (const { value: distance } of distances.shrink(value - shift, undefined)) {
      yield shift + distance;
    }
    return;
  }
  yield smallest;
  const half = Math.round(value * 500) / 1_000;
  if (half !== value && half !== smallest) yield half;
}

function isBefore(a: Position, b: Position): boolean {
  for (const [i, value] of a.entries()) {
    if (value !== b[i]) return value < b[i]!;
  }
  return false;
}
