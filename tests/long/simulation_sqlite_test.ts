import { assert, assertEquals } from "@std/assert";
import { type Action, type Plan, planOf } from "../simulation/plan.ts";
import { runPlan } from "../simulation/run.ts";

const KINDS = ["broker-disk", "broker-kill", "broker-power", "broker-full", "kill", "drain"];

/**
 * A small cluster on SQLite with durable streams and streaming responses, and a fault every four
 * seconds.
 */
function planOnSqlite(seed: number): Plan {
  const plan = planOf(seed, { broker: "sqlite", seconds: 30 });
  const actions = Array.from({ length: 7 }, (_, i): Action => ({
    atMs: 2_000 + 4_000 * i,
    kind: KINDS[(seed + i) % KINDS.length]!,
    target: "node0",
    lastsMs: 2_000,
    amount: (seed * 7 + i * 3) % 10 / 10,
  }));
  const features = ["answers", "at-least-once", "durable", "nodes-publish", "requests"];
  return { ...plan, nodes: 2, clients: 6, topics: 3, features, actions };
}

Deno.test("SqliteStore upholds a cluster's guarantees under kills, torn writes and full disks", async () => {
  const reached = new Set<string>();
  for (let seed = 1; seed <= 8; seed++) {
    const { findings, coverage } = await runPlan(planOnSqlite(seed));
    assertEquals(findings, [], `seed ${seed}`);
    for (const state of coverage) reached.add(state);
  }
  assert([...reached].some((state) => state.startsWith("broker-disk")), [...reached].join());
});

Deno.test("SqliteStore gives a plan the same digest in each process", async () => {
  const [first, again] = [await runPlan(planOnSqlite(3)), await runPlan(planOnSqlite(3))];
  assertEquals(first.digest, again.digest);
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", import.meta.url],
    stderr: "inherit",
  }).output();
  assertEquals(new TextDecoder().decode(stdout).trim(), first.digest);
});

// The subprocess's program.
if (import.meta.main) console.log((await runPlan(planOnSqlite(3))).digest);
