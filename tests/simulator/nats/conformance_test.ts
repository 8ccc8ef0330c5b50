/** The requirements of every broker, for NatsBroker on the modelled NATS, on virtual time. */
import { assertEquals } from "@std/assert";
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

/**
 * Servers of this version accept two concurrent changes of one row of a replicated bucket:
 * https://github.com/nats-io/nats-server/issues/4320. `docs/deploy/nats.md` says so to users.
 */
const BROKEN_IN_CLUSTERS: ReadonlySet<string> = new Set([
  "grants as many concurrent claims as there are slots",
]);

/** Clock error of the second node, in milliseconds. */
const FAR_AHEAD_MS = 20_000;

type Test = (typeof TESTS_OF_ONE)[string];

/** Numbers of each kind of shard, besides the default ones. */
const SHARDS = [1, 4, 16];

/** Runs one test on a new simulation; returns the digest. */
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

for (const [isPair, tests] of [[false, TESTS_OF_ONE], [true, TESTS_OF_TWO]] as const) {
  for (const [name, test] of Object.entries({ ...tests, ...LOG_TESTS })) {
    const broker = isPair ? "NatsBroker of two nodes" : "NatsBroker";
    Deno.test(`${broker} on a modelled server ${name}`, async () => {
      const digest = await runOn(1, test, isPair);
      assertEquals(await runOn(1, test, isPair), digest);
    });
    for (const count of SHARDS) {
      Deno.test(`${broker} with ${count} shards on a modelled server ${name}`, async () => {
        await runOn(1, test, isPair, count);
      });
    }
    if (!isPair || BROKEN_IN_CLUSTERS.has(name)) continue;
    Deno.test(`${broker} on three modelled servers ${name}`, async () => {
      await runOn(3, test, isPair);
    });
    Deno.test(`${broker} with 16 shards on three modelled servers ${name}`, async () => {
      await runOn(3, test, isPair, 16);
    });
  }
}
