import { assert, assertEquals } from "@std/assert";
import type { Client } from "../../client/client.ts";
import { SessionClosedError } from "../../errors.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { guest } from "../../server/admission/guest.ts";
import type { TransportName } from "../../transport/race/options.ts";
import {
  type HandshakeFault,
  type Host,
  type LinkConditions,
  simulatedClient,
  SimulatedNetwork,
  SimulatedServer,
  Simulation,
} from "../simulator/mod.ts";

/** Transports of the clients; two clients share each entry. */
const MIXES: readonly (readonly TransportName[])[] = [
  ["webtransport"],
  ["websocket"],
  ["http"],
  ["webtransport", "websocket"],
  ["webtransport", "websocket", "http"],
  ["websocket", "http"],
];

/** Duration of the faults, in milliseconds. */
const FAULTS_MS = 90_000;

/** Time until all faults are over, and then until all clients have reconnected, in milliseconds. */
const LAST_MS = 40_000;
const SETTLING_MS = 180_000;

const HANDSHAKES: readonly HandshakeFault[] = ["rejected", "hangs", "tls", 503];

/** A client with everything that it received. */
interface Member {
  readonly host: Host;
  readonly client: Client;
  readonly got: number[];
}

/** Three servers and twelve clients over all transports, under faults of the network. */
class FaultyCluster {
  readonly simulation: Simulation;
  readonly findings: string[] = [];
  readonly #network: SimulatedNetwork;
  readonly #random: () => number;
  readonly #servers: readonly SimulatedServer<string | typeof guest>[];
  readonly #members: readonly Member[];
  #published = 0;
  #isResting = false;

  constructor(seed: number) {
    const simulation = this.simulation = new Simulation({ seed });
    const random = this.#random = simulation.random;
    this.#network = new SimulatedNetwork(simulation, {
      delayMs: 5,
      jitterMs: 10,
      lossRate: random() < 0.5 ? 0.02 : 0,
      splitRate: 0.1,
      jitter: random() < 0.3 ? "long-tail" : "exponential",
    });
    const broker = new MemoryBroker({ runtime: simulation.host("broker").runtime });
    this.#servers = ["a", "b", "c"].map((name) =>
      new SimulatedServer<string | typeof guest>(this.#network, simulation.host(name), () => ({
        broker,
        authorize: () => true,
        authenticate: ({ token }) => token ?? guest,
        tokens: { inMessage: true },
        history: { news: { size: 10_000, ttlMs: 3_600_000, bytes: 1 << 24 } },
        requests: { double: ({ data }) => 2 * Number(data) },
        session: { heartbeat: { intervalMs: 5_000, timeoutMs: 12_000 } },
        onError: (error) => this.#find(name, `error ${error}`),
        onMessage() {},
        onSessionRejected: ({ reason }) => simulation.note(`rejected ${reason}`, name),
      }))
    );
    this.#members = MIXES.flatMap((transports, mix) =>
      [0, 1].map((number) => this.#join(simulation.host(`c${mix}${number}`), transports))
    );
    simulation.after(8_000, () => this.#publish());
    simulation.after(10_000, () => this.#disturb());
  }

  /** Runs all faults, heals the network, and checks that everything works again. */
  async run(): Promise<readonly string[]> {
    const { simulation } = this;
    await simulation.run(FAULTS_MS + LAST_MS);
    this.#network.heal();
    for (const { host } of [...this.#servers, ...this.#members]) host.thaw();
    for (const server of this.#servers) this.#restart(server);
    this.#isResting = true;
    await simulation.run(SETTLING_MS);
    for (const { host: { name }, client, got } of this.#members) {
      const { current } = client.status;
      if (current.name !== "connected") this.#find(name, JSON.stringify(current));
      if (got.at(-1) !== this.#published) this.#find(name, `has ${got.at(-1)}`);
    }
    const sessions = this.#servers.reduce((sum, { server }) => sum + server.manager.count, 0);
    if (sessions !== this.#members.length) this.#find("servers", `${sessions} sessions`);
    for (const { client, host: { name } } of this.#members) {
      client.close().catch((error) => this.#find(name, `close: ${error}`));
    }
    await simulation.run(60_000);
    for (const { kind, client, server, isBroken } of this.#network.links) {
      if (!isBroken) this.#find(client.name, `${kind} to ${server.name} is left`);
    }
    return this.findings;
  }

  #find(who: string, text: string): void {
    this.findings.push(`${Math.floor(this.simulation.nowMs)} ${who} ${text}`);
  }

  #restart(server: SimulatedServer<string | typeof guest>): void {
    if (!server.host.isAlive) server.restart();
  }

  #join(host: Host, transports: readonly TransportName[]): Member {
    const { name } = host;
    const order = this.#servers.map(({ host }) => host).sort(() => this.#random() - 0.5);
    const client = simulatedClient(this.#network, host, order, {
      transports,
      token: () => name,
      onMessage() {},
      onError: (error) => {
        // The first failed attempt is reported; the end of the run shows if the client reconnected.
        // A session over HTTP is no failure, but the client reports why it is not over WebSocket.
        const isKnown = error instanceof SessionClosedError ||
          /^ConnectionError: HTTP works, but WebSocket fails: /.test(`${error}`);
        if (isKnown) this.simulation.note(`error ${error}`, name);
        else this.#find(name, `error ${error}`);
      },
    });
    const got: number[] = [];
    let mayMiss = false;
    const news = client.subscribe("news", {
      onRecovery: ({ recovered }) => {
        if (!recovered) mayMiss = true;
      },
    });
    (async () => {
      for await (const { data } of news) {
        const last = got.at(-1) ?? 0;
        const number = Number(data);
        if (number <= last) this.#find(name, `got ${number} again after ${last}`);
        if (last > 0 && number > last + 1 && !mayMiss) {
          this.#find(name, `got ${number} after ${last}`);
        }
        mayMiss = false;
        got.push(number);
        this.simulation.note(`got ${number}`, name);
      }
    })().catch((error) => this.#find(name, `subscription ended: ${error}`));
    this.#ask(host, client);
    return { host, client, got };
  }

  #ask(host: Host, client: Client): void {
    const number = Math.floor(this.#random() * 100);
    client.request("double", number, { timeoutMs: 30_000 }).then((reply) => {
      if (reply !== 2 * number) this.#find(host.name, `asked for ${number}, got ${reply}`);
    }, (error) => this.simulation.note(`request ${error.name}`, host.name)).then(() => {
      host.after(3_000, () => this.#ask(host, client));
    });
  }

  #publish(): void {
    const awake = this.#servers.filter(({ host }) => host.isAlive && !host.isFrozen);
    const server = awake[Math.floor(this.#random() * awake.length)]?.server;
    server?.publish("news", server === undefined ? 0 : ++this.#published);
    if (!this.#isResting) this.simulation.after(300, () => this.#publish());
  }

  /** Starts a random fault, and plans the next one. */
  #disturb(): void {
    const { simulation } = this;
    const random = this.#random;
    const server = this.#servers[Math.floor(random() * this.#servers.length)]!;
    const { host } = this.#members[Math.floor(random() * this.#members.length)]!;
    const lastsMs = 2_000 + 20_000 * random();
    const links = (pairs: readonly (readonly [Host, Host])[], conditions: LinkConditions) => {
      for (const [from, to] of pairs) this.#network.change(from, to, conditions);
      simulation.after(lastsMs, () => this.#network.heal());
    };
    const [up, down] = [[host, server.host], [server.host, host]] as const;
    const every = this.#members.flatMap(({ host }) =>
      this.#servers.map(({ host: other }) => [host, other] as const)
    );
    const freeze = (host: Host) => {
      host.freeze();
      simulation.after(lastsMs, () => host.thaw());
    };
    const faults: readonly (() => void)[] = [
      () => {
        server.host.kill({ power: random() < 0.5 });
        simulation.after(lastsMs / 3, () => this.#restart(server));
      },
      () => freeze(server.host),
      () => freeze(host),
      () => this.#cut(),
      () => links([up, down], { isBlocked: true }),
      () => links([up], { isBlocked: true }),
      () => links([down], { isBlocked: true }),
      () => links([up, down], { lossRate: 0.3, duplicateRate: 0.3, reorderRate: 0.3 }),
      () => links([up, down], { bytesPerSecond: 300 + 2_000 * random() }),
      () => links([up, down], { delayMs: 2_000 * random(), splitRate: 1 }),
      () => links(every, { blockUdp: true }),
      () => links(every, { stripUpgrades: true }),
      () => links([up], { handshake: HANDSHAKES[Math.floor(random() * HANDSHAKES.length)]! }),
      () => this.#network.move(host),
    ];
    faults[Math.floor(random() * faults.length)]!();
    if (simulation.nowMs < FAULTS_MS) {
      simulation.after(5_000 * random() + 1_000, () => this.#disturb());
    }
  }

  #cut(): void {
    for (const link of this.#network.links) {
      if (this.#random() < 0.5) continue;
      const silent = ([false, true, "client", "server"] as const)[Math.floor(this.#random() * 4)]!;
      link.disconnect({ silent });
    }
  }
}

Deno.test("SimulatedNetwork loses nothing silently over all transports, under all faults", async () => {
  // With 52 and 54 a server is frozen in the middle of a close, whose code a client never receives.
  for (const seed of [0, 1, 2, 3, 4, 5, 52, 54]) {
    assertEquals(await new FaultyCluster(seed).run(), [], `seed ${seed}`);
  }
});

Deno.test("SimulatedNetwork runs a faulty cluster the same way for a seed", async () => {
  const digests: string[] = [];
  for (const seed of [3, 3, 4]) {
    const cluster = new FaultyCluster(seed);
    await cluster.run();
    digests.push(cluster.simulation.digest);
  }
  assertEquals(digests[0], digests[1]);
  assert(digests[0] !== digests[2]);
});
