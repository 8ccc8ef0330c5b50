/**
 * Tests that whole clusters and their brokers use only the time and randomness of their simulation.
 */
import { assertEquals } from "@std/assert";
import { Traps } from "../globals/traps.ts";
import { planOf } from "../simulation/plan.ts";
import { runPlan } from "../simulation/run.ts";

for (const broker of ["memory", "redis"] as const) {
  Deno.test(`runPlan() uses no globals for time and randomness on the broker ${broker}`, async () => {
    const size = { nodes: 3, clients: 10, topics: 4 };
    const plan = { ...planOf(3, { isFull: true, broker, seconds: 20 }), ...size };
    const { digest } = await runPlan(plan); // Loads all modules first, which may read a clock.
    using traps = new Traps();
    assertEquals((await runPlan(plan)).digest, digest);
    assertEquals(traps.uses, []);
  });
}
