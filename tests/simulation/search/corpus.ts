/** Plans that reached rare states, and mutations of these plans. */
import type { Action, Plan } from "../plan.ts";

/** Maximum number of plans in a corpus. One more plan displaces the most common plan. */
const MAX_PLANS = 512;

/** Maximum number of known states, which limits the memory. Later states are ignored. */
const MAX_STATES = 200_000;

/** A state is rare until this number of runs has reached it. */
const RARE = 4;

/**
 * Maximum number of a plan's actions after a change. If there are more, the last actions are
 * dropped.
 */
const MAX_ACTIONS = 256;

/** Maximum number of changes per mutation. */
const MAX_CHANGES = 3;

/** Maximum distance that an action moves, in milliseconds. */
const MAX_MOVE_MS = 10_000;

/** Maximum distance between two actions that are moved together, in milliseconds. */
const CLOSE_MS = 500;

/** Number of plans that are picked for each mutation. The rarest of them is used. */
const DRAWS = 3;

/** A plan in the corpus. */
interface Kept {
  readonly plan: Plan;
  /** States of the run that were rare when the plan was added. */
  readonly states: readonly string[];
}

/**
 * Plans that reached rare states. Mutations of such plans reach deeper states than fresh plans do.
 *
 * - **Rare:** a plan is ranked by its rarest state, which is the state that the fewest runs
 *   reached.
 * - **Bounded:** the corpus keeps at most 512 plans and 200,000 states.
 * - **Deterministic:** the same calls with the same random numbers return the same plans.
 */
export class Corpus {
  /** Number of runs by state. */
  readonly #counts = new Map<string, number>();
  readonly #plans: Kept[] = [];

  /** Number of plans. */
  get size(): number {
    return this.#plans.length;
  }

  /** Number of known states. */
  get states(): number {
    return this.#counts.size;
  }

  /**
   * Counts the states of a run, and keeps the plan if one of them is rare.
   *
   * @param states States of the run, without duplicates.
   * @returns True if the plan is kept.
   */
  add(plan: Plan, states: readonly string[]): boolean {
    const rare: string[] = [];
    for (const state of states) {
      const count = this.#counts.get(state) ?? 0;
      if (count === 0 && this.#counts.size === MAX_STATES) continue;
      this.#counts.set(state, count + 1);
      if (count < RARE) rare.push(state);
    }
    if (rare.length === 0) return false;
    this.#plans.push({ plan, states: rare });
    if (this.#plans.length > MAX_PLANS) this.#dropMostCommon();
    return true;
  }

  /**
   * Creates a plan by changing a stored one.
   *
   * @param fresh A plan of another seed. Parts of it may be used in the result.
   * @param random Returns random numbers in [0, 1).
   * @throws {RangeError} If the corpus is empty.
   */
  mutate(fresh: Plan, random: () => number): Plan {
    let plan = this.#draw(random);
    for (let left = 1 + at(random, MAX_CHANGES); left > 0; left--) {
      const other = random() < 0.5 ? fresh : this.#draw(random);
      plan = CHANGES[at(random, CHANGES.length)]!(plan, other, random);
    }
    const actions = plan.actions.toSorted((a, b) => a.atMs - b.atMs).slice(0, MAX_ACTIONS);
    return { ...plan, actions };
  }

  /** Picks a plan at random, preferring rare plans. */
  #draw(random: () => number): Plan {
    if (this.#plans.length === 0) throw new RangeError("Cannot mutate: the corpus is empty");
    const drawn = Array.from({ length: DRAWS }, () => this.#plans[at(random, this.#plans.length)]!);
    return drawn.reduce((a, b) => this.#countOf(b) < this.#countOf(a) ? b : a).plan;
  }

  #dropMostCommon(): void {
    const counts = this.#plans.map((kept) => this.#countOf(kept));
    this.#plans.splice(counts.indexOf(Math.max(...counts)), 1);
  }

  /** Number of runs that reached the rarest state of a plan. */
  #countOf({ states }: Kept): number {
    return Math.min(...states.map((state) => this.#counts.get(state)!));
  }
}

/** Changes a plan, possibly with parts of another plan. */
type Change = (plan: Plan, other: Plan, random: () => number) => Plan;

const CHANGES: readonly Change[] = [
  // Changes the random numbers, so that the same faults hit other moments.
  (plan, _other, random) => ({ ...plan, seed: at(random, 2 ** 32) }),
  // Moves an action to an earlier or later time.
  changeOne((action, plan, random) => [
    { ...action, atMs: timeIn(plan, action.atMs + (2 * random() - 1) * MAX_MOVE_MS) },
  ]),
  // Moves an action close to another action, so that faults happen at the same time.
  changeOne((action, plan, random) => {
    const near = plan.actions[at(random, plan.actions.length)]!;
    return [{ ...action, atMs: timeIn(plan, near.atMs + (2 * random() - 1) * CLOSE_MS) }];
  }),
  // Adds an action of another plan close to an action of this plan.
  changeOne((action, plan, random, other) => {
    if (other.actions.length === 0) return [action];
    const added = other.actions[at(random, other.actions.length)]!;
    const atMs = timeIn(plan, action.atMs + (2 * random() - 1) * CLOSE_MS);
    return [action, { ...added, atMs }];
  }),
  // Repeats an action.
  changeOne((action, plan, random) => [
    action,
    { ...action, atMs: timeIn(plan, random() * plan.seconds * 1_000) },
  ]),
  // Makes the effect of an action longer or shorter.
  changeOne(({ lastsMs, ...action }, _plan, random) => [
    lastsMs === undefined
      ? action
      : { ...action, lastsMs: Math.round(lastsMs * 4 ** (2 * random() - 1)) },
  ]),
  // Gives an action the target of another action.
  changeOne((action, plan, random) => {
    const same = plan.actions.filter(({ kind }) => kind === action.kind);
    const { target } = same[at(random, same.length)]!;
    return [target === undefined ? action : { ...action, target }];
  }),
  // Removes actions.
  (plan, _other, random) => {
    const share = random() / 2;
    return { ...plan, actions: plan.actions.filter(() => random() >= share) };
  },
  // Replaces the actions after some time with the actions of another plan.
  (plan, other, random) => {
    const fromMs = random() * plan.seconds * 1_000;
    const added = other.actions.filter(({ atMs }) => atMs >= fromMs);
    return { ...plan, actions: [...plan.actions.filter(({ atMs }) => atMs < fromMs), ...added] };
  },
  // Uses the features of another plan.
  (plan, other) => ({ ...plan, features: other.features }),
];

/** Returns a change that replaces one randomly picked action with any number of actions. */
function changeOne(
  change: (
    action: Action,
    plan: Plan,
    random: () => number,
    other: Plan,
  ) => readonly Action[],
): Change {
  return (plan, other, random) => {
    if (plan.actions.length === 0) return plan;
    const index = at(random, plan.actions.length);
    return {
      ...plan,
      actions: plan.actions.flatMap((action, i) =>
        i === index ? change(action, plan, random, other) : [action]
      ),
    };
  };
}

/** Returns a random integer from 0 up to a bound (exclusive). */
function at(random: () => number, bound: number): number {
  return Math.floor(random() * bound);
}

/** Rounds a time, and limits it to the plan's duration. */
function timeIn({ seconds }: Plan, ms: number): number {
  return Math.round(Math.min(Math.max(0, ms), seconds * 1_000));
}
