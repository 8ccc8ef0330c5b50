/**
 * Runs the requirements of every broker for NatsBroker on the modeled NATS, on virtual time.
 *
 * @module
 */
import { LOG_TESTS } from "../../../streams/conformance/suite.ts";
import { runTest, TESTS_OF_ONE, TESTS_OF_TWO } from "../../../pubsub/conformance/suite.ts";
import type { Broker } from "../../../pubsub/broker.ts";
import { NatsBroker } from "../../../brokers/nats/mod.ts";
import { installGlobals } from "../globals.ts";
import { SimulatedNetwork } from "../network/network.ts";
import { Simulation } from "../simulation.ts";
import { simulatedNatsConnect } from "./client.ts";
import { SimulatedNats } from "./nats.ts";
import { logsOf } from "../../../streams/logs/logs_of.ts";

/** A page of a log that does not exist. */
const PAGE = { after: 0, maxRecords: 1, maxBytes: 1, renews: false };

/** Longest virtual time of a test, in milliseconds. */
const MAX_MS = 600_000;

/** Clock error of the second node, in milliseconds. */
const FAR_AHEAD_MS = 20_000;

type Test = (typeof TESTS_OF_ONE)[string];

/** A requirement of NatsBroker. */
export interface Requirement {
  /** The name without the broker. */
  readonly name: string;
  /** True for two nodes on one broker. */
  readonly isPair: boolean;
  /**
   * Runs the requirement on a new simulation.
   *
   * @param servers Number of servers in the cluster.
   * @param count Number of each kind of shard; by default, the broker's defaults.
   * @returns The digest of the simulation.
   */
  run(servers: number, count?: number): Promise<string>;
}

/** All requirements, for one node and for two. */
export const REQUIREMENTS: readonly Requirement[] = [
  [false, TESTS_OF_ONE] as const,
  [true, TESTS_OF_TWO] as const,
].flatMap(([isPair, tests]) =>
  Object.entries({ ...tests, ...LOG_TESTS }).map(([name, test]) => ({
    name,
    isPair,
    run: (servers: number, count?: number) => runOn(servers, test, isPair, count),
  }))
);

async function runOn(
  servers: number,
  test: Test,
  isPair: boolean,
  count?: number,
): Promise<string> {
  const simulation = new Simulation({ seed: 1 });
  const network = new SimulatedNetwork(simulation);
  using _globals = installGlobals(simulation);
  const hosts = Array.from({ length: servers }, (_, i) => simulation.host(`nats${i}`));
  const nats = new SimulatedNats(simulation, network, hosts);
  const replicas = servers;
  const shards = count === undefined
    ? undefined
    : { histories: count, logs: count, buckets: count };
  const broker = (name: string): Broker => {
    // Leases and expiry follow the broker's clock, not the nodes' clocks.
    const host = simulation.host(name, { offsetMs: name === "far" ? FAR_AHEAD_MS : 0 });
    const connect = simulatedNatsConnect(network, host, nats.hosts);
    // One server for all, because another server is notified of a subscription slightly later than
    // its client.
    const source = { servers: nats.servers[0]!, ignoreClusterUpdates: true, connect };
    return new NatsBroker(source, { runtime: host.runtime, replicas, shards });
  };
  // A cluster first elects its leader, and then a leader per stream.
  await simulation.run(20_000);
  const near = broker("near");
  const far = isPair ? broker("far") : near;
  simulation.after(
    0,
    () => void Promise.all([near.store!.newest("", 60_000), logsOf(near)!.read("", PAGE)]),
  );
  await simulation.run(20_000);
  let outcome: { readonly error?: unknown } | undefined;
  simulation.after(0, () => {
    runTest(test, [near, far], { withinMs: 5_000 }).then(() => outcome = {}, (error) => {
      outcome = { error };
    });
  }, simulation.hosts.get("near"));
  while (outcome === undefined && simulation.nowMs < MAX_MS) await simulation.run(1_000);
  if (outcome === undefined) throw new Error(`The test did not end within ${MAX_MS} ms`);
  if ("error" in outcome) throw outcome.error;
  return simulation.digest;
}
