import { assertEquals } from "@std/assert";
import { installGlobals } from "../../../testing/simulation/globals.ts";
import type { Host } from "../../../testing/simulation/host.ts";
import { simulatedNatsConnect } from "../../../testing/simulation/nats/client.ts";
import { SimulatedNats } from "../../../testing/simulation/nats/engine.ts";
import { SimulatedNetwork } from "../../../testing/simulation/network/network.ts";
import { Simulation } from "../../../testing/simulation/simulation.ts";
import type { BrokerLogs } from "../../logs/log.ts";
import { NatsBroker } from "../nats_broker.ts";

Deno.test("NatsLogs.read() renews a log that another node has used since this node wrote", async () => {
  const simulation = new Simulation({ seed: 1 });
  using _globals = installGlobals(simulation);
  const network = new SimulatedNetwork(simulation);
  const { servers, hosts } = new SimulatedNats(simulation, network, [simulation.host("nats")]);
  const start = (name: string) => {
    const host = simulation.host(name);
    const connect = simulatedNatsConnect(network, host, hosts);
    const source = { servers, ignoreClusterUpdates: true, connect };
    return { host, broker: new NatsBroker(source, { runtime: host.runtime }) };
  };
  const [near, far] = [start("near"), start("far")];
  const results: unknown[] = [];
  const at = (
    ms: number,
    { host, broker }: { readonly host: Host; readonly broker: NatsBroker },
    call: (logs: BrokerLogs) => Promise<unknown>,
  ) => void host.after(ms, () => void call(broker.logs).then((result) => results.push(result)));
  const read = async (logs: BrokerLogs, renews: boolean) => {
    const options = { after: 0, maxRecords: 10, maxBytes: 1_000, renews };
    const page = await logs.read("a", options);
    return typeof page === "object" ? page.records : page;
  };
  at(1_000, near, async (logs) => {
    const config = { contentType: "text/plain", ttlMs: 2_000 };
    const options = { config, identity: "identity", records: [], maxLogs: 1 };
    return (await logs.create("a", options)).kind;
  });
  at(
    2_000,
    far,
    async (logs) => (await logs.append("a", { records: ["one"], maxBytes: 1_000 })).kind,
  );
  // 2 s and a spare time after the creation, and less after the append.
  at(3_900, near, (logs) => read(logs, true));
  at(5_500, far, (logs) => read(logs, false));
  at(7_000, far, (logs) => read(logs, false));
  await simulation.run(8_000);
  assertEquals(results, ["created", "appended", ["one"], ["one"], "expired"]);
  for (const { host } of [near, far]) host.kill();
});
