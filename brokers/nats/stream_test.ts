import { assert, assertEquals } from "@std/assert";
import { installGlobals } from "../../tests/simulator/globals.ts";
import { simulatedNatsConnect } from "../../tests/simulator/nats/client.ts";
import { SimulatedNats } from "../../tests/simulator/nats/nats.ts";
import { SimulatedNetwork } from "../../tests/simulator/network/network.ts";
import { Simulation } from "../../tests/simulator/simulation.ts";
import { NatsBroker } from "./mod.ts";

const BOUNDS = { size: 1_000, ttlMs: 3_600_000, bytes: 1 << 20 };

/** Epochs that three nodes see after a power failure. */
async function epochsAfterLoss(seed: number): Promise<Set<string>> {
  const simulation = new Simulation({ seed });
  const network = new SimulatedNetwork(simulation, { delayMs: 2, jitterMs: 20 });
  using _globals = installGlobals(simulation);
  const host = simulation.host("nats");
  const nats = new SimulatedNats(simulation, network, [host]);
  const nodes = ["a", "b", "c"].map((name) => simulation.host(name));
  const brokers = nodes.map((node) => {
    const connect = simulatedNatsConnect(network, node, nats.hosts);
    return new NatsBroker({ servers: nats.servers, connect }, { runtime: node.runtime });
  });
  const epochs = new Set<string>();
  const publish = (i: number) => {
    const publication = { topic: "kept", payload: "" };
    brokers[i]!.history.append(publication, { bounds: BOUNDS }).then(
      ({ position }) => position && epochs.add(position.epoch),
      () => {},
    );
    simulation.after(50, () => publish(i), nodes[i]!);
  };
  for (const [i, node] of nodes.entries()) simulation.after(0, () => publish(i), node);
  await simulation.run(10_000);
  host.kill({ power: true });
  await simulation.run(1_000);
  epochs.clear();
  nats.restart(host);
  await simulation.run(10_000);
  for (const broker of brokers) void broker.close();
  await simulation.run(2_000);
  return epochs;
}

Deno.test("HistoryStream starts one epoch after a loss, whichever node is first", async () => {
  for (let seed = 1; seed <= 5; seed++) {
    const { size } = await epochsAfterLoss(seed);
    assertEquals(size, 1, `seed ${seed}`);
  }
});

/**
 * Longest duration of the first reads of new streams by two nodes at the same time, in
 * milliseconds.
 */
async function slowestFirstRead(seed: number): Promise<number> {
  const simulation = new Simulation({ seed });
  const network = new SimulatedNetwork(simulation, { delayMs: 2, jitterMs: 20 });
  using _globals = installGlobals(simulation);
  const hosts = ["nats0", "nats1", "nats2"].map((name) => simulation.host(name));
  const nats = new SimulatedNats(simulation, network, hosts);
  const brokers = ["a", "b"].map((name) => {
    const node = simulation.host(name);
    const connect = simulatedNatsConnect(network, node, nats.hosts);
    const options = { runtime: node.runtime, replicas: 3 };
    return new NatsBroker({ servers: nats.servers, connect }, options);
  });
  // The servers elect the leader of the cluster.
  await simulation.run(10_000);
  let slowestMs = 0;
  for (let size = 1; size <= 5; size++) {
    const beganMs = simulation.nowMs;
    const bounds = { ...BOUNDS, size };
    const reads = brokers.map((broker) =>
      broker.history.read("kept", { bounds, maxMessages: 1, maxBytes: 1 })
    );
    let isOver = false;
    const reading = Promise.allSettled(reads).then(() => {
      slowestMs = Math.max(slowestMs, simulation.nowMs - beganMs);
      isOver = true;
    });
    while (!isOver) await simulation.run(100);
    await reading;
  }
  for (const broker of brokers) void broker.close();
  await simulation.run(2_000);
  return slowestMs;
}

Deno.test("HistoryStream opens soon after a new stream has elected its leader", async () => {
  for (let seed = 1; seed <= 10; seed++) {
    const slowestMs = await slowestFirstRead(seed);
    assert(slowestMs < 3_000, `seed ${seed}: ${slowestMs} ms`);
  }
});
