import { assert, assertEquals, assertRejects } from "@std/assert";
import { seededRandom } from "../../../transport/memory/path.ts";
import type { Plan } from "../plan.ts";
import { EQUALITY, search, type SearchOptions } from "./search.ts";
import { planOf, runPlan } from "./toy.ts";

/** Plans whose actions cause no finding. */
const quiet = (seed: number): Plan => ({
  ...planOf(seed),
  actions: planOf(seed).actions.filter(({ kind }) => kind !== "kill"),
});

/** Runs plans on a number of toy processes, whose replies arrive in random order. */
function pool(jobs: number): SearchOptions["run"] {
  const random = seededRandom(jobs);
  const waiting: (() => void)[] = [];
  let free = jobs;
  return async (plan) => {
    if (free === 0) await new Promise<void>((resolve) => waiting.push(resolve));
    else free--;
    for (let turns = Math.floor(random() * 20); turns > 0; turns--) await Promise.resolve();
    const outcome = await runPlan(plan);
    const next = waiting.shift();
    if (next === undefined) free++;
    else next();
    return outcome;
  };
}

Deno.test("search() runs the same plans at any number of jobs", async () => {
  const plansOf = async (seed: number, jobs: number) => {
    const sequence: Plan[] = [];
    const onOutcome = ({ plan }: { plan: Plan }) => void sequence.push(plan);
    const result = await search({ seed, seeds: 80, planOf, run: pool(jobs), onOutcome });
    return { sequence, ...result };
  };
  const [one, many, other] = [await plansOf(5, 1), await plansOf(5, 7), await plansOf(6, 1)];
  assertEquals(one, many);
  assert(one.plans > 80, `${one.plans} plans`);
  assert(JSON.stringify(one.sequence) !== JSON.stringify(other.sequence));
});

Deno.test("search() runs only plans of seeds if fresh", async () => {
  const seen: number[] = [];
  const onOutcome = ({ plan }: { plan: Plan }) => void seen.push(plan.seed);
  const { plans } = await search({
    seed: 5,
    seeds: 30,
    isFresh: true,
    planOf,
    run: runPlan,
    onOutcome,
  });
  assertEquals([plans, seen], [30, Array.from({ length: 30 }, (_, i) => 5 + i)]);
});

Deno.test("search() shrinks each finding, and names the first plan", async () => {
  const { found, failed } = await search({ seed: 1, seeds: 200, planOf, run: runPlan });
  const gap = found.find(({ finding }) => finding.invariant === "no gap")!;
  assertEquals(gap.plan.actions.map(({ kind }) => kind), ["kill", "cut"]);
  assertEquals(gap.finding.atMs, gap.plan.actions[1]!.atMs);
  assert(gap.isMinimal && gap.first.actions.length > 2 && failed >= found.length);
  assertEquals(found.filter(({ finding }) => finding.invariant === "no gap").length, 1);
});

Deno.test("search() finds a chain of faults sooner by plans that came close", async () => {
  const plansUntil = async (seed: number, isGuided: boolean) => {
    const { found, plans } = await search({
      seed,
      seeds: 20_000,
      planOf,
      maxFindings: 1,
      run: async (plan) => {
        const { findings, coverage, ...rest } = await runPlan(plan);
        const chains = findings.filter(({ invariant }) => invariant === "no ghost");
        return { ...rest, findings: chains, coverage: isGuided ? coverage : [] };
      },
    });
    assertEquals(found.length, isGuided ? 1 : found.length);
    return plans;
  };
  let [guided, blind] = [0, 0];
  for (let seed = 0; seed < 5; seed++) {
    guided += await plansUntil(seed * 100_000, true);
    blind += await plansUntil(seed * 100_000, false);
  }
  assert(guided * 4 < blind, `${guided} plans with coverage, ${blind} without`);
});

Deno.test("search() runs every n-th plan twice, and finds unequal runs", async () => {
  const uneven = (seed: number): Plan => ({
    ...quiet(seed),
    actions: [...quiet(seed).actions, { atMs: 119_000, kind: "uneven" }],
  });
  const result = await search({ seed: 1, seeds: 10, planOf: uneven, run: runPlan, repeatEvery: 5 });
  const [found] = result.found;
  assertEquals([result.found.length, found?.finding.invariant], [1, EQUALITY]);
  assertEquals(found?.plan.actions, [{ atMs: 0, kind: "uneven" }]);
  const even = await search({ seed: 1, seeds: 10, planOf: quiet, run: runPlan, repeatEvery: 5 });
  assertEquals(even.found, []);
});

Deno.test("search() ends after maxFindings findings, and at the signal", async () => {
  const texts = ["a lost message", "a double one", "a ghost", "a hang", "a leak"];
  const run = async (plan: Plan) => {
    const finding = { invariant: `no ${texts[plan.seed % 5]}`, atMs: 0, host: "", text: "none" };
    return { ...await runPlan(plan), findings: [finding] };
  };
  const two = await search({ seed: 0, planOf, run, maxFindings: 2 });
  assertEquals(two.found.map(({ after }) => after), [0, 1]);
  const stop = new AbortController();
  const onOutcome = (_: unknown, { plans }: { plans: number }) => plans === 30 && stop.abort();
  const stopped = await search({
    seed: 0,
    planOf: quiet,
    run: runPlan,
    signal: stop.signal,
    onOutcome,
  });
  assertEquals(stopped.plans, 45);
});

Deno.test("search() shrinks at most three findings of one invariant", async () => {
  const words = ["one", "two", "three", "four", "five", "six"];
  const run = async (plan: Plan) => {
    const text = `expected message ${words[plan.seed % 6]}, received ${plan.seed} of other things`;
    return { ...await runPlan(plan), findings: [{ invariant: "no gap", atMs: 0, host: "", text }] };
  };
  const { found, failed, plans } = await search({ seed: 0, seeds: 12, planOf, run });
  assertEquals([found.length, failed], [3, plans]);
});

Deno.test("search() finds a second broken invariant next to one that always breaks", async () => {
  const run = async (plan: Plan) => {
    const { findings, ...outcome } = await runPlan(plan);
    const always = {
      invariant: "no leak",
      atMs: 0,
      host: "",
      text: `expected 0, received ${plan.seed}`,
    };
    return { ...outcome, findings: [always, ...findings] };
  };
  const { found } = await search({ seed: 1, seeds: 200, planOf, run });
  assertEquals(found.map(({ finding }) => finding.invariant).slice(0, 2), ["no leak", "no gap"]);
});

Deno.test("search() throws an error of onFound after the end of all runs", async () => {
  const onFound = () => Promise.reject(new Error("no space"));
  await assertRejects(
    () => search({ seed: 1, seeds: 200, planOf, run: runPlan, onFound }),
    Error,
    "no space",
  );
});
