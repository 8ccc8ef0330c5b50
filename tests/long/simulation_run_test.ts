import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { firstDifference } from "../simulator/mod.ts";
import { FAULTS, FEATURES, type Plan, planOf } from "../simulation/plan.ts";
import { runPlan } from "../simulation/run.ts";

/** A size that takes half the time of the largest one. */
const SIZE = { nodes: 3, clients: 10, topics: 4 };

/** The plan of a seed with all features and faults, with a shorter duration. */
function fullPlan(seed: number): Plan {
  return { ...planOf(seed, { seconds: 20, isFull: true, broker: "memory" }), ...SIZE };
}

Deno.test("runPlan() returns the same outcome each time, and a different one for another seed", async () => {
  const [first, again, other] = [
    await runPlan(fullPlan(3)),
    await runPlan(JSON.parse(JSON.stringify(fullPlan(3)))),
    await runPlan(fullPlan(4)),
  ];
  assertEquals(first, again);
  assertNotEquals(first.digest, other.digest);
  assertEquals(first.findings, []);
  assert(first.coverage.length > 10);
});

Deno.test("runPlan() returns the same digest in another process", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      "--no-check",
      "--ext=ts",
      `
      import { runPlan } from "${new URL("../simulation/run.ts", import.meta.url)}";
      console.log((await runPlan(${JSON.stringify(fullPlan(5))})).digest);
    `,
    ],
  }).output();
  assertEquals(code, 0, new TextDecoder().decode(stderr));
  const { digest } = await runPlan(fullPlan(5));
  assertEquals(new TextDecoder().decode(stdout).trim(), digest);
});

Deno.test("runPlan() runs any subset of the actions", async () => {
  const plan = fullPlan(6);
  const { findings, trace } = await runPlan({
    ...plan,
    actions: [...plan.actions.filter((_, i) => i % 2 === 0), {
      atMs: 5,
      kind: "kill",
      target: "node99",
    }],
  });
  assertEquals(findings, []);
  assert(!trace.some(({ host }) => host === "node99"));
});

Deno.test("runPlan() draws the same random values with fewer actions until the runs differ", async () => {
  const size = { nodes: 2, clients: 6, topics: 3, seconds: 12 };
  const kill = { atMs: 4_000, kind: "kill", target: "node0", lastsMs: 1_000 };
  const cut = { atMs: 9_000, kind: "cut", target: "node1", lastsMs: 1_000 };
  const run = async (actions: Plan["actions"]) => {
    const { trace } = await runPlan({ ...planOf(8, { broker: "memory" }), ...size, actions });
    return trace.filter(({ atMs }) => atMs < cut.atMs);
  };
  const both = await run([kill, cut]);
  assert(both.some(({ kind }) => kind === "fault"));
  assertEquals(await run([kill]), both);
});

for (const broker of ["memory", "redis", "nats"] as const) {
  Deno.test(`runPlan() starts each kind of fault, the same on ${broker} each time`, async () => {
    const actions = FAULTS.map((kind, i) => ({
      atMs: 4_000 + 250 * i,
      kind,
      target: `node${i % 2}`,
      peer: `client${i % 4}`,
      lastsMs: 1_000,
      amount: 0.6,
    }));
    const size = { nodes: 2, clients: 4, topics: 3, seconds: 15 };
    // A message with this delivery may be handled twice if a node crashes while handling it.
    const features = FEATURES.filter((feature) => feature !== "at-least-once");
    const plan = { ...planOf(1, { broker }), ...size, features, actions };
    const first = await runPlan(plan);
    assertEquals(first.findings, []);
    assert(first.trace.filter(({ kind }) => kind === "fault").length > 20);
    const again = await runPlan(plan);
    assertEquals(again.findings, []);
    assertEquals(firstDifference(first, again), undefined);
    assertEquals(again.digest, first.digest);
  });
}

Deno.test("runPlan() rejects a plan with an unknown kind of action", async () => {
  const plan = { ...fullPlan(7), actions: [{ atMs: 1, kind: "rain", target: "node0" }] };
  await assertRejects(() => runPlan(plan), TypeError, 'received "rain"');
});

Deno.test("planOf() returns the same plan for a seed, and JSON preserves it", () => {
  for (let seed = 0; seed < 100; seed++) {
    const plan = planOf(seed);
    assertEquals(planOf(seed), plan);
    assertEquals(JSON.parse(JSON.stringify(plan)), plan);
  }
  const features = new Set(Array.from({ length: 100 }, (_, i) => planOf(i).features.join()));
  assert(features.size > 30);
});
