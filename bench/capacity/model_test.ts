import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { NATS_COSTS, REDIS_COSTS } from "./costs.ts";
import type { FleetOptions } from "./fleet.ts";
import { Machine, ModelProcess, ModelTime } from "./machine.ts";
import { costsOf, predict, type StormFigures } from "./real.ts";
import {
  deploy,
  hotTopic,
  loseNodes,
  moveToSpareNodes,
  restartBalancer,
  restartBroker,
  roomsLoad,
} from "./scenarios.ts";
import { seededRandom } from "../../transport/memory/path.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

/** A small service with a core per node. */
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
  brokerWayMs: 1,
  balancer: "least",
  costs: REDIS_COSTS,
  seed: 1,
};

Deno.test("Machine shares its cores among the processes that have work", () => {
  const time = new ModelTime();
  const machine = new Machine(time, 2);
  const ends: [string, number][] = [];
  const processes = ["a", "b", "c"].map((name) => ({ name, process: new ModelProcess(machine) }));
  for (const { name, process } of processes) {
    process.work(10, () => ends.push([name, time.nowMs]));
    if (name === "c") process.work(4, () => ends.push(["c again", time.nowMs]));
  }
  time.run();
  // Three processes on two cores run at two thirds; the last job has its own core.
  assertEquals(ends.map(([name]) => name), ["a", "b", "c", "c again"]);
  for (const [i, expected] of [15, 15, 15, 19].entries()) {
    assertAlmostEquals(ends[i]![1], expected, 1e-6);
  }
});

Deno.test("ModelProcess works on one job after another, those of callbacks last", () => {
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
  assertEquals({ busyMs: process.busyMs, peakMs: process.peakMs, isIdle: process.isIdle }, {
    busyMs: 6,
    peakMs: 5,
    isIdle: true,
  });
});

Deno.test("ModelProcess makes late jobs wait for all others of a turn, and runs 128 per turn", () => {
  const time = new ModelTime();
  const process = new ModelProcess(new Machine(time, 1));
  const order: string[] = [];
  process.work(1, () => {
    process.work(1, () => {
      order.push("first");
      process.work(1, () => order.push("second"));
    });
    for (let i = 0; i < 200; i++) process.work(1, () => order.push("late"), true);
  });
  time.run();
  assertEquals([order.indexOf("first"), order.indexOf("second")], [0, 129]);
  assertEquals([order.length, time.nowMs], [202, 203]);
});

Deno.test("Waiting times match M/D/1 and M/M/1", () => {
  const [load, jobs] = [0.7, 60_000];
  const random = seededRandom(7);
  const exponential = () => -Math.log(1 - random());
  for (
    const [name, service, expected] of [
      ["M/D/1", () => 1, load / (2 * (1 - load))],
      ["M/M/1", exponential, load / (1 - load)],
    ] as const
  ) {
    const time = new ModelTime();
    const process = new ModelProcess(new Machine(time, 1));
    let [atMs, waitedMs] = [0, 0];
    for (let i = 0; i < jobs; i++) {
      atMs += exponential() / load;
      time.after(atMs, () => {
        const [sinceMs, ms] = [time.nowMs, service()];
        process.work(ms, () => waitedMs += time.nowMs - sinceMs - ms);
      });
    }
    time.run();
    const ratio = waitedMs / jobs / expected;
    assert(ratio > 0.93 && ratio < 1.07, `${name}: ${ratio} of the known waiting time`);
    assertAlmostEquals(process.busyMs / time.nowMs, load, 0.02);
  }
});

slowTest("Each lost session is either back or away, and a seed reproduces its result", () => {
  const hard = { ...SMALL, costs: { ...REDIS_COSTS, sessionMs: 10 }, connectTimeoutMs: 2_000 };
  for (const options of [SMALL, hard, { ...SMALL, balancer: "random" as const, seed: 5 }]) {
    const result = restartBalancer(options);
    assertEquals(result.back + result.away, SMALL.sessions);
    assertEquals(restartBalancer(options), result);
  }
  assert(restartBalancer({ ...SMALL, seed: 2 }).halfMs !== restartBalancer(SMALL).halfMs);
});

Deno.test("A lost node's sessions all return, later with a longer first delay", () => {
  const brief = loseNodes(SMALL, 1);
  assertEquals({ back: brief.back, away: brief.away, givenUp: brief.givenUp }, {
    back: 500,
    away: 0,
    givenUp: 0,
  });
  assert(brief.allMs < 800 && brief.halfMs > 200, `${brief.halfMs} to ${brief.allMs} ms`);
  assertEquals(brief.commands, 500 * REDIS_COSTS.broker.userCommands, "topics are followed");
  const long = loseNodes({ ...SMALL, firstDelayMs: 4_000 }, 1);
  assert(long.halfMs > 1_800 && long.halfMs < 2_400, `half after ${long.halfMs} ms`);
  assert(long.peakCommands < brief.peakCommands / 3);
});

slowTest("Attempts that time out cost their nodes work, and long delays end the overload", () => {
  const costs = { ...REDIS_COSTS, sessionMs: 10 };
  const slow = { ...SMALL, costs, connectTimeoutMs: 2_000 };
  const patient = restartBalancer({ ...slow, maxDelayMs: 30_000 });
  assertEquals([patient.back, patient.away], [2_000, 0]);
  assert(patient.givenUp > 1_000, `${patient.givenUp} attempts given up`);
  // At least the work of one attempt each.
  assert(patient.allMs > 500 * 10, `all after ${patient.allMs} ms`);
  const hasty = restartBalancer({ ...slow, maxDelayMs: 3_000 });
  assert(hasty.away > 200, `${hasty.away} never return`);
});

Deno.test("Spare nodes accept all sessions, and request each topic from the broker once", () => {
  const options = { ...SMALL, nodes: 3, hasUsers: false };
  const { back, commands } = moveToSpareNodes(options, 1);
  assertEquals([back, commands], [2_000, 2 * 20 * REDIS_COSTS.broker.topicCommands]);
});

Deno.test("A deploy moves each session, and none is disconnected for long", () => {
  const result = deploy(SMALL, { withinMs: 10_000, restartMs: 5_000, together: 1 });
  assert(result.back >= 2_000, `${result.back} moves`);
  assert(result.longestMs < 200, `away for ${result.longestMs} ms`);
  assert(result.allMs > 45_000 && result.allMs < 60_000, `all after ${result.allMs} ms`);
});

Deno.test("Relays save the broker copies, but add a hop", () => {
  const options = {
    topics: 1,
    shards: 1,
    subscribers: 100_000,
    nodes: 100,
    perSecond: 10,
    durationMs: 10_000,
    wayMs: 5,
    costs: REDIS_COSTS,
    seed: 1,
  };
  const [direct, relayed] = [0, 10].map((relays) => hotTopic({ ...options, relays }));
  assert(relayed!.brokerLoad < direct!.brokerLoad / 4);
  assertAlmostEquals(relayed!.halfMs - direct!.halfMs, 5, 0.5);
});

Deno.test("Hot topics spread over shards, and one topic does not", () => {
  const options = {
    subscribers: 1_000,
    nodes: 20,
    perSecond: 500,
    durationMs: 10_000,
    wayMs: 0.5,
    relays: 0,
    costs: REDIS_COSTS,
    seed: 1,
  };
  const load = (topics: number, shards: number) =>
    hotTopic({ ...options, topics, shards }).brokerLoad;
  const one = load(1, 1);
  assertAlmostEquals(one, 0.5 * (0.03 + 20 * 0.003), 0.005);
  assertAlmostEquals(load(1, 8), one, 1e-9);
  assertAlmostEquals(load(8, 8), one / 8, 0.002);
});

Deno.test("Nodes follow all topics again after a broker restart, faster with more shards", () => {
  const options = { ...SMALL, topics: 4_000, topicsEach: 3, usualLoad: 0.5 };
  const few = restartBroker(options, 1_000);
  const many = restartBroker({ ...options, shards: 16 }, 1_000);
  assert(few.halfMs > 1_000);
  assertEquals({ fewAway: few.away, manyAway: many.away, back: many.back }, {
    fewAway: 0,
    manyAway: 0,
    back: few.back,
  });
  assertEquals(few.commands, few.back * REDIS_COSTS.broker.topicCommands);
  assert(many.allMs < few.allMs, `${many.allMs} and ${few.allMs} ms`);
  assert(many.peakShardCommands < few.peakShardCommands / 2);
});

Deno.test("Hashing by topic keeps its sessions together, and saves copies", () => {
  const options = { ...SMALL, nodes: 40, topics: 400, hasUsers: false };
  const spread = loseNodes(options, 1);
  const together = loseNodes({ ...options, balancer: "topic" }, 1);
  // Each topic that moves is followed by one node instead of several.
  assert(together.commands < spread.commands / 2, `${together.commands} of ${spread.commands}`);
  assertEquals([spread.away, together.away], [0, 0]);
  const rooms = {
    ...{ rooms: 1_000, members: 5, perSecond: 1, nodes: 10, shards: 1, costs: REDIS_COSTS },
  };
  const [byChance, hashed] = [false, true].map((isHashed) => roomsLoad({ ...rooms, isHashed }));
  assertAlmostEquals(byChance!.copies, 4.095, 0.001);
  assertAlmostEquals(byChance!.brokerLoad - hashed!.brokerLoad, 3.095 * 0.003, 1e-4);
});

Deno.test("Costs derived from storms equal the costs of the model that produced the storms", () => {
  const storms = [500, 1_000, 2_500].map((clients): StormFigures => {
    const ms = clients * 0.8;
    const [nodesLoad, clientsLoad] = [0.01 * clients, 0.03 * clients];
    return {
      clients,
      ...{ halfMs: ms / 2, mostMs: ms, allMs: ms, ms, foreign: 0, restCpuMs: ms * 0.1 },
      nodesCpuMs: 200 + 0.5 * clients + nodesLoad * ms / 1_000,
      clientsCpuMs: 0.7 * clients + clientsLoad * ms / 1_000,
      nodesCalmMs: 40 + nodesLoad,
      clientsCalmMs: 60 + clientsLoad,
      endMs: 0.02 * clients,
    };
  });
  const local = costsOf(storms);
  const { costs, restLoad } = local;
  const expected = [0.25, 0.25, 100, 0.02, 0.7, 0.06, 0.02, 0.1];
  const { sessionMs, subscriptionMs, warmUpMs, closeMs, clientMs } = costs;
  const found = [sessionMs, subscriptionMs, warmUpMs, closeMs, clientMs]
    .concat(costs.clientDeliveryMs, costs.deliveryMs, restLoad);
  for (const [i, value] of expected.entries()) assertAlmostEquals(found[i]!, value, 1e-9);
  // A machine with half the cores takes twice as long.
  const [idle, busy] = [2, 1].map((cores) => predict(2_000, local, cores).allMs);
  assert(busy! > 1.8 * idle! && busy! < 2.3 * idle!, `${busy} and ${idle} ms`);
});

Deno.test("Users return as fast as their own shards claim slots, whatever the topics' shards", () => {
  const options = { ...SMALL, costs: { ...NATS_COSTS, warmUpMs: 0 }, firstDelayMs: 100, shards: 1 };
  const [one, eight] = [1, 8].map((userShards) => loseNodes({ ...options, userShards }, 2));
  assertEquals(one!.away + eight!.away, 0);
  assert(one!.shardQueueMs > 4 * eight!.shardQueueMs, `${one!.shardQueueMs} ms`);
});
