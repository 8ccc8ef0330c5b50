import { assertEquals } from "@std/assert";
import { pause } from "../../../base/wait.ts";
import { installGlobals } from "../../../tests/simulator/globals.ts";
import { simulatedNatsConnect } from "../../../tests/simulator/nats/client.ts";
import { SimulatedNats } from "../../../tests/simulator/nats/nats.ts";
import { SimulatedNetwork } from "../../../tests/simulator/network/network.ts";
import { Simulation } from "../../../tests/simulator/simulation.ts";
import { rowChange } from "../../../streams/logs/change_message.ts";
import type { BrokerLogs, RowChange } from "../../../streams/logs/log.ts";
import { NatsBroker } from "../nats_broker.ts";

/** A call of a log, on a node and at a time in milliseconds. */
type Call = readonly [
  atMs: number,
  node: "near" | "far",
  call: (logs: BrokerLogs) => Promise<unknown>,
];

/** Time by which other replies overtake those to reads, in milliseconds. */
const OVERTAKEN_MS = 5;

/** Makes calls on two nodes of a simulated NATS; returns the results in order. */
async function resultsOf(calls: readonly Call[]): Promise<unknown[]> {
  const simulation = new Simulation({ seed: 1 });
  using _globals = installGlobals(simulation);
  const network = new SimulatedNetwork(simulation);
  const { servers, hosts } = new SimulatedNats(simulation, network, [simulation.host("nats")]);
  const start = (name: string) => {
    const host = simulation.host(name);
    const connect = simulatedNatsConnect(network, host, hosts);
    const connectLate: typeof connect = async (options) => {
      const connection = await connect(options);
      const request = connection.request.bind(connection);
      connection.request = async (subject, ...rest) => {
        const reply = await request(subject, ...rest);
        if (subject.includes(".DIRECT.GET.")) await pause(host.runtime, OVERTAKEN_MS);
        return reply;
      };
      return connection;
    };
    const source = { servers, ignoreClusterUpdates: true, connect: connectLate };
    return { host, broker: new NatsBroker(source, { runtime: host.runtime }) };
  };
  const nodes = { near: start("near"), far: start("far") };
  const results: unknown[] = [];
  for (const [atMs, node, call] of calls) {
    const { host, broker } = nodes[node];
    host.after(atMs, () => void call(broker.logs).then((result) => results.push(result)));
  }
  await simulation.run(8_000);
  for (const { host } of [nodes.near, nodes.far]) host.kill();
  return results;
}

const create = (identity: string, ttlMs?: number) => async (logs: BrokerLogs) => {
  const config = { contentType: "text/plain", ttlMs };
  return (await logs.create("a", { config, identity, records: [], maxLogs: 1 })).kind;
};

const append = (record: string) => async (logs: BrokerLogs) =>
  (await logs.append("a", { records: [record], maxBytes: 1_000 })).kind;

const read = (renews: boolean) => async (logs: BrokerLogs) => {
  const page = await logs.read("a", { after: 0, maxRecords: 10, maxBytes: 1_000, renews });
  return typeof page === "object" ? page.records : page;
};

Deno.test("NatsLogs.read() renews a log that another node has used since this node wrote", async () => {
  const results = await resultsOf([
    [1_000, "near", create("identity", 2_000)],
    [2_000, "far", append("one")],
    // 2 s and some spare time after the creation, and less after the append.
    [3_900, "near", read(true)],
    [5_500, "far", read(false)],
    [7_000, "far", read(false)],
  ]);
  assertEquals(results, ["created", "appended", ["one"], ["one"], "expired"]);
});

Deno.test("NatsLogs.read() renews a log that another node created in place of one that this node wrote", async () => {
  const results = await resultsOf([
    [1_000, "near", create("first")],
    [1_500, "near", append("one")],
    [2_000, "far", async (logs) => (await logs.delete("a")).kind],
    [2_500, "far", create("second", 2_000)],
    [4_000, "near", read(true)],
    [5_500, "far", read(false)],
    [7_000, "far", read(false)],
  ]);
  assertEquals(results, ["created", "appended", "removed", "created", [], [], "expired"]);
});

Deno.test("NatsLogs.read() makes no pause if this node writes the log meanwhile", async () => {
  const elapsed = async (run: () => Promise<unknown>) => {
    const startMs = Date.now();
    await run();
    return Date.now() - startMs < 50 ? "soon" : "late";
  };
  const results = await resultsOf([
    [1_000, "near", create("identity")],
    // The reply to an append overtakes that to a read which came before it.
    [2_000, "near", async (logs) => {
      let isOver = false;
      const writing = (async () => {
        for (let i = 0; i < 8; i++) await append("n")(logs);
        isOver = true;
      })();
      const reads = new Set<string>();
      while (!isOver) reads.add(await elapsed(() => read(false)(logs)));
      await writing;
      return [...reads];
    }],
  ]);
  assertEquals(results, ["created", ["soon"]]);
});

Deno.test("NatsLogs.append() stores many transactions that delete expired rows at the same time", async () => {
  const bounds = {
    maxBytes: 100_000_000,
    rowBounds: { rows: 10_000, deletions: 10_000, deletionMs: 60_000 },
  };
  const change = (logs: BrokerLogs, rows: readonly string[], options: Partial<RowChange>) => {
    const changes = rows.map((row) => ({ ...setting(row), ...options }));
    const expiresRows = options.ttlMs === undefined ? true : undefined;
    return logs.append("a", { records: [], changes, expiresRows, ...bounds });
  };
  const keyed = { records: 1_000, ms: 60_000, bytes: 1_000_000 };
  const config = { contentType: "application/json", keyed };
  const results = await resultsOf([
    [1_000, "near", async (logs) => {
      await logs.create("a", { config, identity: "identity", records: [], maxLogs: 1 });
      for (let n = 0; n < 8; n++) {
        const rows = Array.from({ length: 100 }, (_, i) => `${n}:${i}:${"x".repeat(2_000)}`);
        await change(logs, rows, { ttlMs: 1_000 });
      }
      return "written";
    }],
    [5_000, "near", async (logs) => {
      const changes = Array.from({ length: 60 }, (_, n) => change(logs, [`${n}`], {}));
      return new Set((await Promise.all(changes)).map(({ kind }) => kind));
    }],
  ]);
  assertEquals(results, ["written", new Set(["appended"])]);
});

Deno.test("NatsBroker.issues() does not name logs whose opening failed on an earlier connection", async () => {
  const simulation = new Simulation({ seed: 1 });
  using _globals = installGlobals(simulation);
  const network = new SimulatedNetwork(simulation);
  const server = simulation.host("nats");
  const nats = new SimulatedNats(simulation, network, [server]);
  const host = simulation.host("near");
  const connect = simulatedNatsConnect(network, host, nats.hosts);
  const source = { servers: nats.servers, ignoreClusterUpdates: true, connect };
  const broker = new NatsBroker(source, { runtime: host.runtime });
  const results: unknown[] = [];
  const call = () => {
    create("identity")(broker.logs).then(
      (result) => results.push(result),
      () => results.push("failed"),
    );
  };
  // The replies are lost, and the time limit of the requests outlasts the connection.
  simulation.after(1_000, () => nats.disturb("lost answers", 500));
  host.after(1_100, call);
  simulation.after(1_300, () => nats.disconnectClients(server));
  host.after(3_000, call);
  await simulation.run(9_000);
  assertEquals(results, ["failed", "created"]);
  assertEquals(broker.issues(), []);
  host.kill();
});

/** The change that writes a row. */
function setting(key: string): RowChange {
  return rowChange({ type: "t", key, operation: "upsert", value: "1" }, 0);
}
