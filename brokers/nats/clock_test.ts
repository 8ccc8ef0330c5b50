import type { JetStreamManager } from "@nats-io/jetstream";
import { assertEquals } from "@std/assert";
import { Simulation } from "../../tests/simulator/simulation.ts";
import { NatsClock } from "./clock.ts";

Deno.test("NatsClock.issues() reports a difference that a late reply cannot explain", async () => {
  for (
    const [byMs, issues] of [[0, 0], [-2_500, 0], [2_500, 0], [-4_500, 1], [4_500, 1]] as const
  ) {
    const simulation = new Simulation({ seed: 1 });
    const { runtime } = simulation.host("node");
    const add = async () => {
      await simulation.sleep(6_000);
      return { name: "c", created: new Date(runtime.now() - 3_000 + byMs).toISOString() };
    };
    const manager = {
      consumers: { add, delete: () => Promise.resolve(true) },
    } as unknown as JetStreamManager;
    const clock = new NatsClock(runtime);
    const following = clock.follow(manager, "stream", new AbortController().signal);
    await simulation.run(10_000);
    await following;
    assertEquals(clock.issues().length, issues, `${byMs} ms`);
  }
});

Deno.test("NatsClock.follow() reads the clock again at the next use after a failure", async () => {
  const { runtime } = new Simulation({ seed: 1 }).host("node");
  let isLost = false;
  const add = () =>
    isLost
      ? Promise.reject(new Error("timeout"))
      : Promise.resolve({ name: "c", created: new Date(runtime.now()).toISOString() });
  const manager = {
    consumers: { add, delete: () => Promise.resolve(true) },
  } as unknown as JetStreamManager;
  const clock = new NatsClock(runtime);
  await clock.follow(manager, "stream", new AbortController().signal);
  assertEquals(clock.issues(), []);

  isLost = true;
  const { signal } = new AbortController();
  await clock.follow(manager, "stream", signal);
  assertEquals(clock.issues(), [
    "The clock of NATS cannot be read, so this node's clock is used: timeout",
  ]);

  isLost = false;
  await clock.follow(manager, "stream", signal);
  await Promise.resolve();
  assertEquals(clock.issues(), []);
});
