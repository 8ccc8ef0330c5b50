import { assert, assertEquals } from "@std/assert";
import type { Plan } from "../plan.ts";
import { shrink } from "./shrink.ts";
import { planOf, runPlan } from "./toy.ts";

const fails = async (plan: Plan) => (await runPlan(plan)).findings.length > 0;

/** A plan with ten harmless actions and, among them, a cut soon after a kill. */
const gap: Plan = {
  ...planOf(1),
  actions: [
    ...planOf(1).actions.filter(({ atMs, kind }) => atMs < 60_000 && kind !== "kill"),
    { atMs: 60_000, kind: "kill", target: "node1", lastsMs: 3_000, amount: -0.37 },
    { atMs: 61_500, kind: "cut", target: "node2", amount: 12 },
    ...planOf(1).actions.filter(({ atMs, kind }) => atMs > 62_000 && kind !== "kill"),
  ],
};

Deno.test("shrink() removes everything that the failure does not need", async () => {
  const { plan, isMinimal } = await shrink(gap, fails);
  assertEquals(plan, {
    seed: 1,
    seconds: 1,
    broker: "memory",
    nodes: 1,
    clients: 3,
    topics: 1,
    features: ["presence"],
    actions: [
      { atMs: 0, kind: "kill", target: "node1", lastsMs: 0, amount: 0 },
      { atMs: 1, kind: "cut", target: "node2", amount: 0 },
    ],
  });
  assert(isMinimal);
});

Deno.test("shrink() of a shrunk plan changes nothing", async () => {
  const { plan } = await shrink(gap, fails);
  const again = await shrink(plan, fails);
  assertEquals(again.plan, plan);
  assert(again.isMinimal);
});

Deno.test("shrink() runs no plan twice, and at most maxRuns plans", async () => {
  for (const maxRuns of [1, 5, 20]) {
    const seen = new Set<string>();
    let count = 0;
    const { plan, runs, isMinimal } = await shrink(gap, (candidate) => {
      seen.add(JSON.stringify(candidate));
      count++;
      return fails(candidate);
    }, { maxRuns });
    assertEquals({ count, seen: seen.size, runs, isMinimal }, {
      count: maxRuns,
      seen: maxRuns,
      runs: maxRuns,
      isMinimal: false,
    });
    assert(await fails(plan));
  }
});

Deno.test("shrink() returns the smallest plan so far when the signal aborts or the time is up", async () => {
  const stop = new AbortController();
  let count = 0;
  const stopped = await shrink(gap, (plan) => {
    if (++count === 10) stop.abort();
    return fails(plan);
  }, { signal: stop.signal });
  assertEquals([count, stopped.isMinimal, await fails(stopped.plan)], [10, false, true]);
  const late = await shrink(gap, fails, { maxMs: -1 });
  assertEquals({ plan: late.plan, runs: late.runs, isMinimal: late.isMinimal }, {
    plan: gap,
    runs: 0,
    isMinimal: false,
  });
});

Deno.test("shrink() returns a plan unchanged that does not fail again", async () => {
  const { plan, runs, isMinimal } = await shrink(gap, () => Promise.resolve(false));
  assertEquals({ plan, runs, isMinimal }, { plan: gap, runs: 1, isMinimal: false });
});

Deno.test("shrink() tries the smallest plan first, for failures that need no action", async () => {
  const { plan, runs } = await shrink(
    gap,
    ({ features }) => Promise.resolve(features.includes("presence")),
  );
  assertEquals({ features: plan.features, actions: plan.actions.length, seconds: plan.seconds }, {
    features: ["presence"],
    actions: 0,
    seconds: 1,
  });
  assert(runs <= 12, `${runs} runs`);
});
