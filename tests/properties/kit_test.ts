/** Cases that fail, and leftovers that make a case fail. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { Simulation } from "../simulator/mod.ts";
import { planFaults } from "./faults.ts";
import { atSeed, property } from "./property.ts";
import { World } from "./world.ts";

/** The seed of each world, unless a test is about the seed. */
const SEED = 1;

Deno.test("a case that fails runs all its onEnd hooks, and shows its own error", async () => {
  const closed: string[] = [];
  await assertRejects(
    () =>
      World.play(SEED, (world) => {
        world.onEnd(() => Promise.reject(new Error("the hook fails")));
        world.onEnd(async () => {
          await world.pause(100);
          closed.push("slow");
        });
        world.onEnd(() => new Promise(() => {}));
        world.onEnd(() => closed.push("last"));
        throw new Error("the case fails");
      }),
    Error,
    "the case fails",
  );
  assertEquals(closed.toSorted(), ["last", "slow"]);
});

Deno.test("a hook that fails does not keep later hooks from running", async () => {
  let isClosed = false;
  const played = World.play(SEED, (world) => {
    world.onEnd(() => Promise.reject(new Error("the hook fails")));
    world.onEnd(() => isClosed = true);
    return Promise.resolve();
  });
  await assertRejects(() => played, Error, "the hook fails");
  assert(isClosed);
});

Deno.test("two overlapping faults each last for their own time", () =>
  World.play(SEED, async (world) => {
    const [server, client] = [world.serve("server"), world.host("client")];
    world.change(client, server.host, { lossRate: 0.01 });
    const conditions = () => {
      const { isBlocked, lossRate } = world.network.conditions(client, server.host);
      return { isBlocked, lossRate, isFrozen: client.isFrozen };
    };
    const kinds = ["a partition", "lost packets", "a frozen client"] as const;
    const faults = kinds.flatMap((kind) => [
      { kind, atMs: 0, lastsMs: 100 },
      { kind, atMs: 50, lastsMs: 150 },
    ]);
    planFaults(world, faults.slice(0, 3), { client, server });
    planFaults(world, faults.slice(3), { client, server });
    await world.pause(150);
    assertEquals(conditions(), { isBlocked: true, lossRate: 0.1, isFrozen: true });
    await world.pause(100);
    assertEquals(conditions(), { isBlocked: false, lossRate: 0.01, isFrozen: false });
  }));

Deno.test("a case fails if any machine keeps a timer", async () => {
  const played = World.play(SEED, (world) => {
    const { runtime } = world.host("bare");
    const repeat = () => void runtime.setTimeout(repeat, 1_000);
    repeat();
    return Promise.resolve();
  });
  await assertRejects(() => played, Error, "received a timer of bare");
});

Deno.test("a case fails if the library prints an error that the case does not expect", async () => {
  const print = (expected?: RegExp) =>
    World.play(SEED, (world) => {
      if (expected) world.expectErrors(expected);
      world.host("server").after(0, () => console.error("handler threw", new Error("boom")));
      return world.pause(10);
    });
  await assertRejects(() => print(), Error, "expected no line on console.error");
  await assertRejects(() => print(/another/), Error, "handler threw Error: boom");
  await print(/^handler threw/);
});

property("a regression plays with the seed that it names, and with 1 by default", {
  cases: fc.constant<number | undefined>(undefined),
  runs: 1,
  regressions: { "by default": SEED, "by name": atSeed(7, 7) },
  check: (world, seed) => {
    if (seed !== undefined) {
      assertEquals(world.chanceOf("seed")(), new Simulation({ seed }).chanceOf("seed")());
    }
    return Promise.resolve();
  },
});
