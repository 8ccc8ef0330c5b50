import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { REDIS_COSTS } from "./costs.ts";
import type { FleetOptions } from "./fleet.ts";
import { Machine, ModelProcess, ModelTime } from "./machine.ts";
import { deploy, hotTopic, loseNodes, moveToSpareNodes, restartBalancer } from "./scenarios.ts";

/** A small service with a core for each node. */
const SMALL: FleetOptions = {
  sessions: 2_000,
  nodes: 4,
  nodesPerMachine: 1,
  coresPerMachine: 1,
  topics: 20,
  topicsEach: 1,
  hasUsers: true,
  shards: 2,
  usualLoad: 0,
  firstDelayMs: 500,
  maxDelayMs: 5_000,
  connectTimeoutMs: 10_000,
  clientWayMs: 10,
  engineWayMs: 1,
  balancer: "least",
  localClients: 0,
  costs: REDIS_COSTS,
  seed: 1,
};

Deno.test("Machine shares its cores among the processes that have work", () => {
  const time = new ModelTime();
  const machine = new Machine(time, 2);
  const ends: [string, number][] = [];
  for (const name of ["a", "b", "c"]) {
    const process = new ModelProcess(machine);
    process.work(10, () => ends.push([name, time.nowMs]));
    if (name === "c") process.work(4, () => ends.push(["c again", time.nowMs]));
  }
  time.run();
  // Three processes on two cores run at two thirds; the last job has a core of its own.
  assertEquals(ends.map(([name]) => name), ["a", "b", "c", "c again"]);
  for (const [i, expected] of [15, 15, 15, 19].entries()) {
    assertAlmostEquals(ends[i]![1], expected, 1e-6);
  }
});

Deno.test("ModelProcess works on one job after the other, those of callbacks last", () => {
  const time = new ModelTime();
  const process = new ModelProcess(new Machine(time, 4));
  const ends: number[] = [];
  process.work(1, () => {
    ends.push(time.nowMs);
    process.work(3, () => ends.push(time.nowMs));
  });
  process.work(2, () => ends.push(time.nowMs));
  time.run();
  assertEquals(ends, [1, 3, 6]);
  assertEquals([process.busyMs, process.peakMs, process.isIdle], [6, 5, true]);
});

Deno.test("A lost node's sessions all come back, the later the longer their first delay", () => {
  const brief = loseNodes(SMALL, 1);
  assertEquals([brief.back, brief.away, brief.givenUp], [500, 0, 0]);
  assert(brief.allMs < 800 && brief.halfMs > 200, `${brief.halfMs} to ${brief.allMs} ms`);
  assertEquals(brief.commands, 500 * REDIS_COSTS.engine.userCommands, "topics are followed");
  const long = loseNodes({ ...SMALL, firstDelayMs: 4_000 }, 1);
  assert(long.halfMs > 1_800 && long.halfMs < 2_400, `half after ${long.halfMs} ms`);
  assert(long.peakCommands < brief.peakCommands / 3);
});

Deno.test("Attempts that clients give up cost their nodes work, and long delays end the overload", () => {
  const costs = { ...REDIS_COSTS, sessionMs: 10 };
  const slow = { ...SMALL, costs, connectTimeoutMs: 2_000 };
  const patient = restartBalancer({ ...slow, maxDelayMs: 30_000 });
  assertEquals([patient.back, patient.away], [2_000, 0]);
  assert(patient.givenUp > 1_000, `${patient.givenUp} attempts given up`);
  // At least the work of one attempt each.
  assert(patient.allMs > 500 * 10, `all after ${patient.allMs} ms`);
  const hasty = restartBalancer({ ...slow, maxDelayMs: 3_000 });
  assert(hasty.away > 200, `${hasty.away} are away for ever`);
});

Deno.test("Spare nodes take all sessions, and ask the engine for each topic once", () => {
  const options = { ...SMALL, nodes: 3, hasUsers: false };
  const { back, commands } = moveToSpareNodes(options, 1);
  assertEquals([back, commands], [2_000, 2 * 20 * REDIS_COSTS.engine.topicCommands]);
});

Deno.test("A deploy moves each session, and no session is away for long", () => {
  const result = deploy(SMALL, { withinMs: 10_000, restartMs: 5_000, together: 1 });
  assert(result.back >= 2_000, `${result.back} moves`);
  assert(result.longestMs < 200, `away for ${result.longestMs} ms`);
  assert(result.allMs > 45_000 && result.allMs < 60_000, `all after ${result.allMs} ms`);
});

Deno.test("Relays take copies off the engine, at the price of one more way", () => {
  const options = {
    subscribers: 100_000,
    nodes: 100,
    perSecond: 10,
    durationMs: 10_000,
    wayMs: 5,
    costs: REDIS_COSTS,
    seed: 1,
  };
  const [direct, relayed] = [0, 10].map((relays) => hotTopic({ ...options, relays }));
  assert(relayed!.engineLoad < direct!.engineLoad / 4);
  assertAlmostEquals(relayed!.halfMs - direct!.halfMs, 5, 0.5);
});
