/** A cluster in a few lines of code with planted bugs, for tests of the search. */
import { seededRandom } from "../../../transport/memory/path.ts";
import type { TraceEntry } from "../../simulator/event_loop.ts";
import type { Action, Finding, Outcome, Plan } from "../plan.ts";

/** Kinds of harmless actions. */
const KINDS = ["kill", "cut", "freeze", "drain", "loss", "slow", "drift", "reject"];

/** Maximum time between two actions that are considered close, in milliseconds. */
const MEET_MS = 2_000;

/**
 * Creates the plan of a seed.
 *
 * @param seed An integer.
 * @returns A plan of ten harmless actions.
 */
export function planOf(seed: number): Plan {
  const random = seededRandom(seed);
  const actions: Action[] = Array.from({ length: 10 }, () => ({
    atMs: Math.floor(random() * 120_000),
    kind: KINDS[Math.floor(random() * KINDS.length)]!,
    target: `node${Math.floor(random() * 4)}`,
    lastsMs: Math.floor(random() * 10_000),
  }));
  return {
    seed,
    seconds: 120,
    broker: "redis",
    nodes: 4,
    clients: 50,
    topics: 10,
    features: ["presence", "requests", "direct"],
    actions: actions.toSorted((a, b) => a.atMs - b.atMs),
  };
}

/**
 * Runs a plan. These bugs are planted:
 *
 * - `no gap`: a cut within two seconds after a kill, with the feature `presence` and three clients.
 * - `no ghost`: a chain of kill, freeze, drain and slow, each within two seconds after the previous
 *   action.
 * - Actions of the kinds `exit`, `hang`, `throw`, `print` and `uneven` do what the name says. `exit
 *   once` ends a process in which another plan ran before.
 *
 * @returns The outcome. Its coverage lists the links of the chain.
 */
export function runPlan(plan: Plan): Promise<Outcome> {
  const { seed, clients, features } = plan;
  const actions = plan.actions.filter(({ atMs }) => atMs < plan.seconds * 1_000);
  const findings: Finding[] = [];
  const coverage = new Set<string>();
  let digest = `${seed}`;
  for (const { kind } of actions) misbehave(kind, (text) => digest += text);
  runs++;
  const found = (invariant: string, { atMs, target = "" }: Action, text: string) =>
    void findings.push({ invariant, atMs, host: target, text });
  for (const kill of actions.filter(({ kind }) => kind === "kill")) {
    const cut = meeting(actions, kill, "cut");
    if (cut !== undefined && features.includes("presence") && clients >= 3) {
      found("no gap", cut, `Expected message ${seed + 1}, received ${seed + 2}`);
    }
    let last: Action | undefined = kill;
    for (const kind of ["freeze", "drain", "slow"]) {
      last = meeting(actions, last, kind);
      if (last === undefined) break;
      coverage.add(`until ${kind}`);
    }
    if (last !== undefined) found("no ghost", last, `Expected 0 users, received ${seed}`);
  }
  const trace: TraceEntry[] = actions.map(({ atMs, kind, target = "" }) => ({
    atMs,
    host: target,
    text: kind,
    kind: "note",
  }));
  return Promise.resolve({
    plan,
    findings,
    digest,
    events: actions.length,
    simulatedMs: plan.seconds * 1_000,
    coverage: [...coverage],
    trace,
    checkpoints: [],
  });
}

/** Number of runs in this process. */
let runs = 0;

function misbehave(kind: string, digested: (text: string) => void): void {
  if (kind === "exit" || kind === "exit once" && runs > 0) Deno.exit(3);
  if (kind === "throw") throw new TypeError("thrown by a plan");
  if (kind === "print") console.log("printed by a plan");
  if (kind === "uneven") digested(crypto.randomUUID());
  while (kind === "hang");
}

function meeting(actions: readonly Action[], before: Action, kind: string): Action | undefined {
  return actions.find((action) =>
    action.kind === kind && action.atMs > before.atMs && action.atMs <= before.atMs + MEET_MS
  );
}
