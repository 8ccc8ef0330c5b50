import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { NatsBroker } from "../../../brokers/nats/mod.ts";
import { installGlobals } from "../globals.ts";
import type { Host } from "../host.ts";
import { SimulatedNetwork } from "../network/network.ts";
import type { SimulatedSocket } from "../network/sockets.ts";
import { Simulation } from "../simulation.ts";
import { runFaulty } from "./faulty_nodes.ts";
import { simulatedNatsConnect } from "./client.ts";
import { SimulatedNats, type SimulatedNatsOptions } from "./nats.ts";

const BOUNDS = { size: 1_000, ttlMs: 3_600_000, bytes: 1 << 20 };
const PAGE = { bounds: BOUNDS, maxMessages: 1_000, maxBytes: 1 << 20 };

/** Servers, and two nodes with a broker each. */
class Bench implements Disposable {
  readonly simulation = new Simulation({ seed: 1 });
  readonly network = new SimulatedNetwork(this.simulation);
  readonly #globals = installGlobals(this.simulation);
  readonly nats: SimulatedNats;
  readonly nodes: readonly Host[];
  readonly brokers: readonly NatsBroker[];
  /** Number of acknowledged writes that the model reported as lost. */
  lost = 0;

  constructor(servers: number, options: SimulatedNatsOptions = {}) {
    const { simulation, network } = this;
    const hosts = Array.from({ length: servers }, (_, i) => simulation.host(`nats${i}`));
    this.nats = new SimulatedNats(simulation, network, hosts, {
      onLost: ({ writes }) => this.lost += writes.length,
      ...options,
    });
    this.nodes = ["a", "b"].map((name) => simulation.host(name));
    this.brokers = this.nodes.map((host) => {
      const connect = simulatedNatsConnect(network, host, this.nats.hosts);
      const { servers } = this.nats;
      const replicas = hosts.length;
      return new NatsBroker({ servers, connect }, { runtime: host.runtime, replicas });
    });
  }

  /** Runs work on a node until it settles. */
  async on<T>(node: number, work: (broker: NatsBroker) => Promise<T>): Promise<T> {
    let outcome: Promise<T> | undefined;
    let isOver = false;
    this.simulation.after(0, () => {
      outcome = work(this.brokers[node]!);
      outcome.then(() => isOver = true, () => isOver = true);
    }, this.nodes[node]!);
    for (let i = 0; !isOver && i < 600; i++) await this.simulation.run(100);
    assert(isOver, "The work did not end within a minute");
    return await outcome!;
  }

  /** Appends publications one after the other; returns the epoch. */
  append(node: number, count: number): Promise<string> {
    return this.on(node, async (broker) => {
      let epoch = "";
      for (let i = 0; i < count; i++) {
        const publication = { topic: "kept", payload: `${i}` };
        const { position } = await broker.history.append(publication, { bounds: BOUNDS });
        epoch = position!.epoch;
      }
      return epoch;
    });
  }

  /** Reads the whole history; returns epoch and number of publications. */
  read(node: number): Promise<[epoch: string, count: number]> {
    return this.on(node, async (broker) => {
      const { epoch, publications } = await broker.history.read("kept", PAGE);
      return [epoch, publications.length];
    });
  }

  [Symbol.dispose](): void {
    this.#globals[Symbol.dispose]();
  }
}

Deno.test("SimulatedNats carries publications between brokers", async () => {
  using bench = new Bench(1);
  const { simulation, brokers: [a, b], nodes: [host] } = bench;
  const got: unknown[] = [];
  b!.subscribe("news", ({ payload }) => got.push(payload));
  await simulation.run(1_000);
  simulation.after(0, () => a!.publish({ topic: "news", payload: "one" }), host);
  await simulation.run(1_000);
  assertEquals({ aIssues: a!.issues(), bIssues: b!.issues(), got }, {
    aIssues: [],
    bIssues: [],
    got: ["one"],
  });
});

Deno.test("NatsBroker keeps its epoch for hours without publications", async () => {
  using bench = new Bench(1);
  const epoch = await bench.append(0, 1);
  for (let i = 0; i < 3; i++) {
    await bench.simulation.run(2_400_000);
    assertEquals((await bench.read(0))[0], epoch);
  }
});

Deno.test("SimulatedNats keeps all writes when its process is killed", async () => {
  using bench = new Bench(1);
  const [host] = bench.nats.hosts;
  const before = await bench.append(0, 20);
  host!.kill();
  await bench.simulation.run(3_000);
  bench.nats.restart(host!);
  await bench.simulation.run(3_000);
  const [after] = await bench.read(1);
  // A node does not know that nothing was lost.
  assertNotEquals(after, before);
  assertEquals(bench.lost, 0);
});

Deno.test("SimulatedNats reports the writes that a power loss loses", async () => {
  for (const [syncMs, isLossy] of [[120_000, true], [0, false]] as const) {
    using bench = new Bench(1, { syncMs });
    const [host] = bench.nats.hosts;
    await bench.append(0, 50);
    host!.kill({ power: true });
    bench.nats.restart(host!);
    await bench.simulation.run(30_000);
    const [, count] = await bench.read(1);
    assertEquals([bench.lost > 0, count], [isLossy, 0]);
  }
});

Deno.test("SimulatedNats of three servers continues without a leader that lost power", async () => {
  using bench = new Bench(3);
  await bench.simulation.run(15_000);
  const epoch = await bench.append(0, 20);
  for (const host of bench.nats.hosts) {
    host.kill({ power: true });
    await bench.simulation.run(30_000);
    assertEquals(await bench.append(1, 5), epoch);
    bench.nats.restart(host);
    await bench.simulation.run(30_000);
  }
  bench.nats.changeLeader();
  await bench.simulation.run(30_000);
  assertEquals(await bench.read(0), [epoch, 35]);
  assertEquals(bench.lost, 0);
});

Deno.test("SimulatedNats reports the writes that are lost with two of three disks", async () => {
  using bench = new Bench(3);
  await bench.simulation.run(15_000);
  await bench.append(0, 20);
  const [first, second, third] = bench.nats.hosts;
  assertThrows(() => bench.nats.wipe(first!), TypeError, "must not run, received nats0");
  for (const host of [first!, second!]) {
    host.kill({ power: true });
    bench.nats.wipe(host);
  }
  third!.freeze();
  bench.nats.restart(first!);
  bench.nats.restart(second!);
  await bench.simulation.run(60_000);
  await bench.append(0, 1);
  assert(bench.lost >= 20, `${bench.lost}`);
});

Deno.test("SimulatedNats disconnects clients in lame duck mode, and slow clients", async () => {
  using bench = new Bench(3);
  await bench.simulation.run(15_000);
  for (const host of bench.nats.hosts) {
    bench.nats.disconnectClients(host);
    await bench.simulation.run(5_000);
    bench.nats.lameDuck(host, 1_000);
    await bench.simulation.run(5_000);
    host.kill();
    bench.nats.restart(host);
    await bench.simulation.run(30_000);
  }
  for (const { status, stats } of bench.brokers) {
    assertEquals(status.current.name, "connected");
    assert(stats.interruptions > 0);
  }
  await bench.append(0, 3);
});

Deno.test("SimulatedNats disconnects a client that violates the protocol, or does not read", async () => {
  const simulation = new Simulation({ seed: 1 });
  const network = new SimulatedNetwork(simulation);
  const [broker, rude, slow, fast] = ["nats", "rude", "slow", "fast"].map((name) =>
    simulation.host(name)
  );
  new SimulatedNats(simulation, network, [broker!]);
  const open = async (host: Host) => {
    let socket: SimulatedSocket | undefined;
    void network.connectSocket(host, broker!, 4_222).then((opened) => socket = opened);
    await simulation.run(1_000);
    const seen = { text: "", end: "" };
    socket!.onMessage = (bytes) => seen.text += new TextDecoder().decode(bytes as Uint8Array);
    socket!.onClose = (reason) => seen.end = reason;
    const say = (text: string) => {
      const bytes = new TextEncoder().encode(text);
      socket!.send(bytes, bytes.length);
    };
    return { seen, say };
  };
  const one = await open(rude!);
  one.say(`SUB ${"x".repeat(5_000)} 1\r\n`);
  await simulation.run(1_000);
  assert(one.seen.text.includes("-ERR 'maximum control line exceeded'"));
  assertEquals(one.seen.end, "closed");

  const [two, three] = [await open(slow!), await open(fast!)];
  two.say('CONNECT {"verbose":false}\r\nSUB big 1\r\n');
  await simulation.run(1_000);
  network.change(broker!, slow!, { isBlocked: true });
  const big = `PUB big 1000000\r\n${"x".repeat(1_000_000)}\r\n`;
  three.say(`CONNECT {"verbose":false}\r\n${big}`);
  await simulation.run(20_000);
  assert(simulation.trace.some(({ text }) => text.includes("slow consumer")));
  assertEquals(three.seen.end, "");
});

Deno.test("SimulatedNats rejects a request that the model lacks by name", async () => {
  using bench = new Bench(1);
  const { network, simulation, nats, nodes: [host] } = bench;
  const connect = simulatedNatsConnect(network, host!, nats.hosts);
  simulation.after(0, () => {
    void connect({ servers: nats.servers }).then((connection) => {
      connection.publish("$JS.API.STREAM.SNAPSHOT.x", "{}");
    });
  }, host!);
  await assertRunFails(simulation, "received $JS.API.STREAM.SNAPSHOT.x");
});

Deno.test("SimulatedNats of three servers reconnects to a server that lost power", async () => {
  // Seed 46: the route of a server without traffic to the lost server stayed, and led nowhere.
  assertEquals((await runFaulty(46, 3)).violations, []);
});

Deno.test("SimulatedNats of three servers dials a server without power until it is back", async () => {
  using bench = new Bench(3);
  await bench.simulation.run(15_000);
  const epoch = await bench.append(0, 5);
  const [host] = bench.nats.hosts;
  // The first end closes all routes, so that the others dial.
  host!.kill();
  bench.nats.restart(host!);
  host!.kill({ power: true });
  await bench.simulation.run(200_000);
  bench.nats.restart(host!);
  await bench.simulation.run(30_000);
  assertEquals(await bench.append(1, 5), epoch);
});

Deno.test("simulatedNatsConnect() leaves no timer if the host ends during the attempt", async () => {
  using bench = new Bench(1);
  const { simulation, network, nats: { hosts, servers } } = bench;
  await simulation.run(1_000);
  const host = simulation.host("c");
  // Timers of the scenario would not end with the host.
  const known = [...hosts, ...bench.nodes, host];
  const count = () =>
    [...simulation.pending()].filter((event) => !known.some((one) => one === event.host)).length;
  const before = count();
  hosts[0]!.freeze();
  const connect = simulatedNatsConnect(network, host, hosts);
  new NatsBroker({ servers, connect }, { runtime: host.runtime });
  await simulation.run(100);
  assertEquals(count(), before);
  host.kill();
});

Deno.test("SimulatedNats under faults loses no write silently, the same way in each process", async () => {
  for (const servers of [1, 3] as const) {
    const { digest, violations, acknowledged } = await runFaulty(7, servers);
    assertEquals(violations, []);
    assert(acknowledged > 100);
    const program = new URL("./faulty_nodes.ts", import.meta.url).pathname;
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", "--quiet", program, "7", `${servers}`],
      stdout: "piped",
      stderr: "piped",
    }).output();
    const text = new TextDecoder().decode(stdout).trim();
    assertEquals(text, digest, new TextDecoder().decode(stderr));
  }
});

/** Expects that a simulation fails with a text. */
async function assertRunFails(simulation: Simulation, text: string): Promise<void> {
  try {
    await simulation.run(5_000);
  } catch (error) {
    assert(String(error).includes(text), String(error));
    return;
  }
  throw new Error("Expected an error, received none");
}
