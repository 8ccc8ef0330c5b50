import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Client } from "../../../client/client.ts";
import { RequestError, UnsupportedError } from "../../../errors.ts";
import type { Contract } from "../../../session/contract.ts";
import type { Host } from "../../../testing/simulation/host.ts";
import { SimulatedNetwork } from "../../../testing/simulation/network/network.ts";
import {
  simulatedClient,
  SimulatedServer,
  type SimulatedServerOptions,
} from "../../../testing/simulation/programs.ts";
import { Simulation } from "../../../testing/simulation/simulation.ts";
import { MemoryEngine } from "../cluster/engine_memory.ts";
import { LastReleaseBroker } from "./broker.ts";
import { ADDITIONS, asOfLastRelease, KNOWN } from "./envelopes.ts";
import { lastReleaseNetwork } from "./network.ts";

Deno.test("ADDITIONS and KNOWN together are the table of envelopes of the protocol", async () => {
  const protocol = await Deno.readTextFile(new URL("../../../docs/protocol.md", import.meta.url));
  const table = protocol.slice(protocol.indexOf("**5.2**"), protocol.indexOf("- **5.3**"));
  const rows = [...table.matchAll(/^\| `(\{.*?\})`\s+\|/gm)].map(([, row]) => row!);
  assert(rows.length > 20);
  for (const row of rows) {
    // Keys of the envelope, and of the object in an envelope such as `hello`.
    const keys = [...row.matchAll(/"(\w+)"/g)].map(([, key]) => key!);
    const kind = keys[0]!;
    for (const key of keys) {
      const isKnown = key === kind && kind in KNOWN || KNOWN[kind]?.includes(key);
      const isAdded = ADDITIONS.some((one) =>
        one.envelope === kind && (one.key === undefined || one.key === key)
      );
      const isInside = ["hello", "goaway", "reply"].includes(kind) && key !== "ticket";
      assert(isKnown || isAdded || isInside, `${key} of ${row}`);
      assert(!(isKnown && isAdded), `${key} of ${row} is known, and an addition`);
    }
  }
  for (const { rule } of ADDITIONS) assert(protocol.includes(`**${rule}**`), rule);
});

Deno.test("asOfLastRelease() leaves out each addition, and keeps the rest", () => {
  for (const { envelope, key } of ADDITIONS) {
    if (key === undefined) {
      assertEquals(asOfLastRelease({ [envelope]: 1, id: 1, data: 1 }), undefined);
    } else if (envelope !== "hello") {
      assertEquals(asOfLastRelease({ [envelope]: "a", [key]: 1 }), { [envelope]: "a" });
    }
  }
  const hello = { session: "a", heartbeatMs: 1, maxMessageBytes: 1, features: ["history", "seq"] };
  const features = ["history", "seq", "echo", "presence", "handover", "answers"];
  assertEquals(asOfLastRelease({ hello: { ...hello, features, ticket: "t" } }), { hello });
  assertEquals(
    asOfLastRelease({
      topic: "presence:a",
      data: { type: "members", members: [{ user: "ann", connections: 1, joinedAt: 1, data: 5 }] },
    }),
    {
      topic: "presence:a",
      data: { type: "members", members: [{ user: "ann", connections: 1, joinedAt: 1 }] },
    },
  );
  assertEquals(
    asOfLastRelease({ topic: "presence:a", data: { type: "update", user: "a" } }),
    undefined,
  );
});

type Options = SimulatedServerOptions<string, Contract>;

/** A cluster in which each life of a node, and each client, is of today or of the last release. */
class MixedCluster {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  /** Errors of handlers and of connections. */
  readonly errors: string[] = [];
  readonly hosts: readonly Host[];
  readonly servers = new Map<string, SimulatedServer<string>>();
  readonly #old = new Set<string>();
  readonly #engine;

  constructor(seed: number, names: readonly string[]) {
    this.simulation = new Simulation({ seed });
    this.network = new SimulatedNetwork(this.simulation, { delayMs: 2, jitterMs: 2 });
    this.#engine = new MemoryEngine(this.simulation);
    this.hosts = names.map((name) => this.simulation.host(name));
  }

  /** Starts a node, or the next life of a node. */
  start(host: Host, version: "old" | "new", options: Partial<Options> = {}): void {
    if (version === "old") this.#old.add(host.name);
    else this.#old.delete(host.name);
    const known = this.servers.get(host.name);
    if (known !== undefined) return known.restart();
    const network = lastReleaseNetwork(this.network, () => this.#old.has(host.name));
    const server = new SimulatedServer<string>(network, host, () => {
      const broker = this.#engine.broker(host);
      const isOld = this.#old.has(host.name);
      return {
        broker: isOld ? new LastReleaseBroker(broker) : broker,
        node: { name: host.name },
        authenticate: ({ token = "guest" }) => token,
        allowTokenMessage: true,
        authorize: () => true,
        history: { "news": { size: 10_000 } },
        rooms: ["room:{name}"],
        limits: { maxSessionsPerUser: 5 },
        requests: { double: ({ data }) => 2 * Number(data) },
        webTransport: false,
        onMessage() {},
        onError: (error) => this.errors.push(`${host.name}: ${error}`),
        ...(isOld ? {} : { durableStreams: { path: "/streams", authorize: () => true } }),
        ...options,
      };
    });
    this.servers.set(host.name, server);
  }

  client(name: string, version: "old" | "new", servers = this.hosts): Client {
    const host = this.simulation.host(name);
    const network = version === "old" ? lastReleaseNetwork(this.network) : this.network;
    return simulatedClient(network, host, servers, {
      token: name,
      transports: ["websocket"],
      delivery: "at-least-once",
      onMessage() {},
      onError: (error, session) => {
        if (session) this.errors.push(`${name}: ${error}`);
      },
    });
  }

  /** Lets virtual time pass until a promise settles, for at most so long. */
  async within<T>(ms: number, promise: Promise<T>): Promise<T> {
    let isOver = false;
    const end = () => isOver = true;
    promise.then(end, end);
    for (let passed = 0; passed < ms && !isOver; passed += 50) await this.simulation.run(50);
    assert(isOver, `Expected an end within ${ms} ms of virtual time`);
    return await promise;
  }

  /** Drains a node, and ends its process. */
  async stop(host: Host): Promise<void> {
    await this.within(20_000, this.servers.get(host.name)!.server.drain({ withinMs: 2_000 }));
    host.kill();
  }
}

/** Collects the messages of a client on a topic. */
function collect(client: Client, topic: string): { got: string[]; recoveries: string[] } {
  const [got, recoveries]: [string[], string[]] = [[], []];
  const onRecovery = ({ recovered, reason }: { recovered: boolean; reason?: string }) =>
    void recoveries.push(recovered ? "recovered" : reason!);
  const subscription = client.subscribe(topic, { onRecovery });
  (async () => {
    for await (const { data } of subscription) got.push(String(data));
  })().catch((error) => got.push(`ended: ${error}`));
  return { got, recoveries };
}

for (const [server, client] of [["new", "old"], ["old", "new"]] as const) {
  Deno.test(`a client of ${client} release at a server of ${server} release has all of version 0.1`, async () => {
    const cluster = new MixedCluster(1, ["a"]);
    const [host] = cluster.hosts;
    cluster.start(host!, server);
    const [ann, bob] = [cluster.client("ann", client), cluster.client("bob", client)];
    const news = collect(bob, "news");
    await cluster.simulation.run(2_000);
    await cluster.within(5_000, ann.publish("news", "one"));
    assertEquals(await cluster.within(5_000, ann.request("double", 4)), 8);
    ann.send("note", 1);
    await cluster.within(5_000, ann.flushed());
    // Neither end has the additions of version 0.2.
    await assertRejects(() => cluster.within(5_000, ann.presence("room:a", 1)), UnsupportedError);
    for (const link of cluster.network.links) link.disconnect();
    cluster.servers.get("a")!.server.publish("news", "two");
    await cluster.simulation.run(20_000);
    assertEquals(news.got, ["one", "two"]);
    assertEquals(news.recoveries, ["recovered"]);
    await cluster.within(5_000, Promise.all([ann.close(), bob.close()]));
    assertEquals(cluster.errors, []);
  });
}

Deno.test("a client tells each feature that a server of the last release lacks", async () => {
  const cluster = new MixedCluster(2, ["a"]);
  cluster.start(cluster.hosts[0]!, "old");
  const ann = cluster.client("ann", "new");
  await cluster.simulation.run(1_000);
  const missing: (() => Promise<unknown>)[] = [
    () => ann.presence("room:a", { is: "here" }),
    () => ann.publish("news", 1, { except: "self" }),
    () => Array.fromAsync(ann.requestStream("double", 1)),
  ];
  for (const call of missing) {
    await assertRejects(() => cluster.within(5_000, call()), UnsupportedError);
  }
  const reading = Array.fromAsync(ann.durableStream("one"));
  const error = await assertRejects(() => cluster.within(5_000, reading), RequestError);
  assertEquals(error.failure.code, "gone");
  assertEquals(error.message, 'Cannot continue "stream:one": no-history');
  await cluster.within(5_000, ann.close());
});

Deno.test("members of a room with data see each other on both releases once all nodes are of one", async () => {
  const cluster = new MixedCluster(3, ["a", "b"]);
  const [a, b] = cluster.hosts;
  cluster.start(a!, "old");
  cluster.start(b!, "new");
  await cluster.simulation.run(3_000);
  const ann = cluster.client("ann", "new", [a!]);
  const bob = cluster.client("bob", "new", [b!]);
  await cluster.within(5_000, bob.presence("room:a", { is: "here" }));
  const rooms = [ann.subscribe("room:a"), bob.subscribe("room:a")];
  await cluster.simulation.run(3_000);
  const members = (host: Host) =>
    [...cluster.servers.get(host.name)!.server.rooms!.members("room:a")]
      .map(({ user, data }) => [user, data]).sort();
  // The documented limit: a node of version 0.1 ignores members with data of other nodes.
  assertEquals(members(a!), [["ann", undefined]]);
  assertEquals(members(b!), [["ann", undefined], ["bob", { is: "here" }]]);
  await cluster.stop(a!);
  cluster.start(a!, "new");
  await cluster.simulation.run(10_000);
  assertEquals(members(a!), [["ann", undefined], ["bob", { is: "here" }]]);
  assertEquals(members(b!), members(a!));
  assertEquals(cluster.errors, []);
  await cluster.within(
    5_000,
    Promise.all([...rooms, ann, bob].map((one) => one[Symbol.asyncDispose]())),
  );
});

/** Way in which the nodes of a rolling upgrade end. */
type Ending = "drain" | "kill" | "power";

/** Replaces each node by a node of the other release, then back, while clients publish and read. */
async function roll(seed: number, ending: Ending = "drain") {
  const cluster = new MixedCluster(seed, ["a", "b", "c"]);
  const { simulation, hosts } = cluster;
  for (const host of hosts) cluster.start(host, "old");
  await simulation.run(3_000);
  const names = ["old0", "new0", "old1", "new1"];
  const clients = names.map((name, i) => {
    const order = hosts.map((_, at) => hosts[(at + i) % hosts.length]!);
    return cluster.client(name, name.startsWith("old") ? "old" : "new", order);
  });
  const readers = clients.map((client) => collect(client, "news"));
  const rooms = clients.map((client) => collect(client, "room:a"));
  await simulation.run(3_000);
  const failed: string[] = [];
  let [count, isOver] = [0, false];
  const random = simulation.chanceOf("load");
  const publish = () => {
    if (isOver) return;
    const client = clients[Math.floor(random() * clients.length)]!;
    const id = `${++count}`;
    client.publish("news", id).catch((error) => failed.push(`${id}: ${error}`));
    simulation.after(100 + random() * 200, publish);
  };
  publish();
  for (const version of ["new", "old"] as const) {
    for (const host of hosts) {
      if (ending === "drain") await cluster.stop(host);
      else host.kill({ power: ending === "power" });
      await simulation.run(500);
      cluster.start(host, version);
      await simulation.run(3_000 + random() * 2_000);
    }
  }
  isOver = true;
  await simulation.run(ending === "power" ? 150_000 : 30_000); // Heartbeats notice a silent end.
  const online = hosts.map(({ name }) => {
    const { server } = cluster.servers.get(name)!;
    return [...server.rooms!.members("room:a")].map(({ user }) => user).sort().join();
  }).filter((users) => users !== ""); // A node without a session in the room lists no members.
  await cluster.within(30_000, Promise.all(clients.map((client) => client.close())));
  const { digest } = simulation;
  return { count, readers, rooms, failed, online, names, errors: cluster.errors, digest };
}

Deno.test("a rolling upgrade and its rollback under load lose no publication, and repeat none", async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const ending = (["drain", "drain", "kill", "power"] as const)[seed % 4]!;
    const { count, readers, failed, online, names, errors } = await roll(seed, ending);
    assertEquals([failed, errors], [[], []], `seed ${seed}`);
    const all = Array.from({ length: count }, (_, i) => `${i + 1}`).sort();
    for (const { got, recoveries } of readers) {
      assertEquals(got.toSorted(), all, `seed ${seed}`);
      assertEquals(recoveries.filter((one) => one !== "recovered"), [], `seed ${seed}`);
    }
    const orders = new Set(readers.map(({ got }) => got.join()));
    assertEquals(orders.size, 1, `seed ${seed}: one order for all`);
    assertEquals(new Set(online), new Set([names.toSorted().join()]), `seed ${seed}`);
  }
});

Deno.test("a rolling upgrade of a seed has one digest, in another process too", async () => {
  assertEquals((await roll(3)).digest, (await roll(3)).digest);
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", import.meta.url],
    stderr: "inherit",
  }).output();
  assertEquals(new TextDecoder().decode(stdout).trim(), (await roll(3)).digest);
});

// The program of the subprocess.
if (import.meta.main) console.log((await roll(3)).digest);
