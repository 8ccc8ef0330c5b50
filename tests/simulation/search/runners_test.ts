import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import type { Plan } from "../plan.ts";
import { Runners } from "./runners.ts";
import { planOf, runPlan } from "./toy.ts";

const program = new URL("toy.ts", import.meta.url);

const withAction = (kind: string): Plan => ({ ...planOf(1), actions: [{ atMs: 0, kind }] });

Deno.test("Runners.run() returns the same result as a run in this process, with the trace if requested", async () => {
  await using runners = new Runners({ program, jobs: 2 });
  const plans = Array.from({ length: 20 }, (_, seed) => planOf(seed));
  const outcomes = await Promise.all(plans.map((plan) => runners.run(plan, { trace: true })));
  for (const [i, outcome] of outcomes.entries()) {
    const { findings, digest, events, trace } = await runPlan(plans[i]!);
    assertEquals({ ...outcome, coverage: [], simulatedMs: 0 }, {
      plan: plans[i]!,
      findings,
      digest,
      events,
      trace,
      checkpoints: [],
      coverage: [],
      simulatedMs: 0,
    });
  }
  assertEquals((await runners.run(plans[0]!)).trace, []);
});

Deno.test("Runners.run() reports an error and an exit as findings, and continues", async () => {
  await using runners = new Runners({ program, jobs: 1 });
  for (
    const [kind, text] of [
      ["throw", /^received TypeError: thrown by a plan\n/],
      ["exit", /^Expected a result, received the end of the process with code 3: $/],
    ] as const
  ) {
    const { findings } = await runners.run(withAction(kind));
    assertEquals(findings.map(({ invariant }) => invariant), ["a run ends"]);
    assertMatch(findings[0]!.text, text);
    assertEquals((await runners.run(withAction("print"))).findings, []);
  }
});

Deno.test("Runners.run() reports a run that takes five deadlines as a finding", async () => {
  await using runners = new Runners({ program, jobs: 1, deadlineMs: 1_000 });
  const { findings } = await runners.run(withAction("hang"));
  const text = "Expected a result, received none within 5 s of real time";
  assertEquals(findings, [{ invariant: "a run ends", atMs: 0, host: "", text }]);
});

Deno.test("Runners.run() retries a plan in a new process, and reports a lost process", async () => {
  const lost: string[] = [];
  await using runners = new Runners({
    program,
    jobs: 1,
    onLost: (_plan, why) => void lost.push(why),
  });
  assertEquals((await runners.run(withAction("exit once"))).findings, []);
  assertEquals(lost, []);
  assertEquals((await runners.run(withAction("exit once"))).findings, []);
  assertEquals(lost, ["received the end of the process with code 3: "]);
  assertEquals((await runners.run(withAction("exit once"), { isApart: true })).findings, []);
  assertEquals(lost.length, 1);
});

Deno.test("Runners.run() runs urgent plans before waiting ones", async () => {
  await using runners = new Runners({ program, jobs: 1 });
  const order: number[] = [];
  await Promise.all([0, 1, 2, 3].map(async (seed) => {
    await runners.run(planOf(seed), { isUrgent: seed === 3 });
    order.push(seed);
  }));
  assertEquals(order, [0, 3, 1, 2]);
});

Deno.test("Runners.run() rejects once the runners have ended", async () => {
  const runners = new Runners({ program, jobs: 1 });
  const hung = assertRejects(() => runners.run(withAction("hang")), TypeError, "have ended");
  await runners[Symbol.asyncDispose]();
  await hung;
  await assertRejects(() => runners.run(planOf(1)), TypeError, "the runners have ended");
});
