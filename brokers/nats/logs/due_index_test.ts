import { assertEquals } from "@std/assert";
import { installGlobals } from "../../../tests/simulator/globals.ts";
import { simulatedNatsConnect } from "../../../tests/simulator/nats/client.ts";
import { SimulatedNats } from "../../../tests/simulator/nats/nats.ts";
import { SimulatedNetwork } from "../../../tests/simulator/network/network.ts";
import { Simulation } from "../../../tests/simulator/simulation.ts";
import { NatsBroker } from "../mod.ts";
import { NatsClock } from "../clock.ts";
import { DueIndex } from "./due_index.ts";
import type { LogStreams } from "./log_streams.ts";

const CREATION = {
  config: { contentType: "text/plain" },
  identity: "identity",
  records: [],
  maxLogs: 10,
};

Deno.test("DueIndex.list() covers a log whose check the server lost, once the log was read", async () => {
  const simulation = new Simulation({ seed: 1 });
  const network = new SimulatedNetwork(simulation);
  using _globals = installGlobals(simulation);
  const host = simulation.host("nats");
  const node = simulation.host("node");
  const nats = new SimulatedNats(simulation, network, [host]);
  const connect = simulatedNatsConnect(network, node, nats.hosts);
  const { runtime } = node;
  const broker = new NatsBroker({ servers: nats.servers, connect }, {
    runtime,
    shards: { logs: 1 },
  });
  const { logs } = broker;
  const on = async <T>(work: () => Promise<T>): Promise<T> => {
    const { promise, resolve } = Promise.withResolvers<T>();
    simulation.after(0, () => resolve(work()), node);
    await simulation.run(5_000);
    return await promise;
  };
  const read = () => logs.read("log", { after: 0, maxRecords: 1, maxBytes: 1, renews: true });
  const overdue = () => on(() => logs.overdue({ limit: 10 }));

  const writer = { holder: "writer", ttlMs: 500 };
  await on(() => logs.create("log", { ...CREATION, writer }));
  host.kill();
  nats.damage(host, "skein_due");
  nats.restart(host);
  await simulation.run(30_000);
  assertEquals(await overdue(), []);
  await on(read);
  assertEquals(await overdue(), ["log"]);
  await on(() => logs.append("log", { records: [], maxBytes: 1, end: {}, ifWriterLost: true }));
  assertEquals(await overdue(), []);
  void broker.close();
  await simulation.run(5_000);
});

Deno.test("DueIndex.list() finds a check that a replica did not have at the previous search", async () => {
  const { runtime } = new Simulation({ seed: 1 }).host("node");
  const check = { seq: 1, data: new TextEncoder().encode(JSON.stringify(["log", 0])) };
  const state = { writer: { holder: "writer", until: 0 } };
  let isBehind = true;
  const firstCheck = (_shard: number, kind: number, from: number) =>
    Promise.resolve(kind === 0 && from <= check.seq && !isBehind ? check : undefined);
  const streams = {
    era: () => 1,
    open: () => Promise.resolve(),
    shards: () => Promise.resolve([0]),
    newestCheck: () => Promise.resolve(check.seq),
    firstCheck,
    checks: () => Promise.resolve([check]),
    newest: () => Promise.resolve({ seq: 1, head: { state } }),
  };
  const due = new DueIndex(new NatsClock(runtime), streams as unknown as LogStreams);
  assertEquals(await due.list(10), []);
  isBehind = false;
  assertEquals(await due.list(10), ["log"]);
});

Deno.test("DueIndex.list() keeps a check that a rejected node wrote in place of a later one", async () => {
  const { runtime } = new Simulation({ seed: 1 }).host("node");
  const now = runtime.now();
  const check = { seq: 1, data: new TextEncoder().encode(JSON.stringify(["log", now - 2])) };
  const head = { state: { writer: { holder: "writer", until: now + 3_000 } }, look: now - 1 };
  const removed: number[] = [];
  const streams = {
    era: () => 1,
    open: () => Promise.resolve(),
    shards: () => Promise.resolve([0]),
    newestCheck: () => Promise.resolve(check.seq),
    firstCheck: (_shard: number, kind: number) => Promise.resolve(kind === 2 ? check : undefined),
    checks: () => Promise.resolve([check]),
    newest: () => Promise.resolve({ seq: 1, head }),
    remove: (_shard: number, seq: number) => Promise.resolve(removed.push(seq)),
  };
  const due = new DueIndex(new NatsClock(runtime), streams as unknown as LogStreams);
  assertEquals(await due.list(10), []);
  assertEquals(removed, []);
});
