/**
 * The simulated program: three servers on one Redis, and eight clients that talk on a topic with a
 * history. `simulate()` runs this module on virtual time.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../`.
 *
 * @module
 */
import { RedisBroker } from "../../brokers/redis/mod.ts";
import {
  type Host,
  simulatedClient,
  SimulatedRedis,
  SimulatedServer,
  type SimulationContext,
} from "../../testing/simulation/mod.ts";
import { CLIENTS, DURATION_MS, ENGINE, type Fault, NODES } from "./faults.ts";

/** Time after which a host is repaired, in milliseconds. */
const REPAIR_MS = 5_000;

/** Mean time between a client's lines, in milliseconds. */
const PAUSE_MS = 4_000;

/** Time at the end without new lines, so that all lines arrive, in milliseconds. */
const QUIET_MS = 15_000;

/**
 * Runs the cluster with the faults in the input, and notes a finding for each client that lacks a
 * line that Redis had accepted.
 */
export default async function ({ simulation, network, input }: SimulationContext): Promise<void> {
  const host = (name: string) => simulation.host(name);
  const engine = host(ENGINE);
  const redis = await SimulatedRedis.create({
    simulation,
    network,
    hosts: [engine],
    persistence: "always",
  });
  const servers = NODES.map((name) =>
    new SimulatedServer(network, host(name), (host) => ({
      broker: new RedisBroker({ client: redis.client(host) }, {
        runtime: host.runtime,
        survivesRestart: true,
      }),
      authorize: () => true,
      history: { talk: { size: 1_000, ttlMs: 600_000 } },
      onError: (error) => simulation.note(`reports ${error}`, host.name),
    }))
  );
  const talk = CLIENTS.map((name, i) => {
    // Clients notice the loss of a WebTransport connection later: the page shows both transports.
    const transport = i % 2 === 0 ? "websocket" : "webtransport";
    return new Talker(host(name), { simulation, network, servers, transport });
  });

  /** Repairs a host, and restarts its program if it has ended. */
  const repair = (name: string) => {
    const host = simulation.hosts.get(name)!;
    if (host.isFrozen) host.thaw();
    if (host.isAlive) return;
    if (host === engine) redis.restart();
    else servers.find((server) => server.host === host)?.restart();
    talk.find((talker) => talker.host === host)?.start();
  };
  for (const { atMs, host: name, kind } of input as readonly Fault[]) {
    const host = simulation.hosts.get(name)!;
    simulation.after(atMs, () => {
      if (kind === "kill" || kind === "power") host.kill({ power: kind === "power" });
      else if (kind === "freeze") host.freeze();
      else cutOff(host, true);
    });
    simulation.after(atMs + REPAIR_MS, () => kind === "cut" ? cutOff(host, false) : repair(name));
  }
  const cutOff = (host: Host, isBlocked: boolean) => {
    for (const other of simulation.hosts.values()) {
      if (other === host) continue;
      network.change(host, other, { isBlocked });
      network.change(other, host, { isBlocked });
    }
  };

  for (const talker of talk) talker.start();
  await simulation.run(DURATION_MS);

  const said = new Set(talk.flatMap(({ said }) => said));
  for (const { host, heard, isWhole } of talk) {
    const missing = [...said].filter((line) => !heard.has(line));
    if (!isWhole || missing.length === 0) continue;
    simulation.note(`lacks ${missing.length} lines, such as "${missing[0]}"`, host.name, {
      kind: "finding",
    });
  }
}

/** A client that writes lines and reads everyone's lines. */
class Talker {
  readonly host: Host;
  /** Lines that the server has acknowledged. */
  readonly said: string[] = [];
  /** Lines read since the program started. */
  readonly heard = new Set<string>();
  /** True if the program has run from the start and no gap was reported. */
  isWhole = true;
  readonly #parts: TalkerParts;
  #count = 0;
  #starts = 0;

  constructor(host: Host, parts: TalkerParts) {
    this.host = host;
    this.#parts = parts;
  }

  /** Starts the program, at first and after each end. */
  start(): void {
    const { simulation, network, servers } = this.#parts;
    if (this.#starts++ > 0) this.isWhole = false;
    const { name, runtime } = this.host.isAlive ? this.host : (this.host.start(), this.host);
    const order = servers.map(({ host }) => host).sort(() => runtime.random() - 0.5);
    const client = simulatedClient(network, this.host, order, {
      delivery: "at-least-once",
      transports: [this.#parts.transport],
      onError: (error) => simulation.note(`reports ${error}`, name),
    });
    const talk = client.subscribe("talk", {
      onRecovery: ({ recovered, reason }) => {
        if (!recovered) this.isWhole = false;
        simulation.note(recovered ? "has missed nothing" : `has missed lines: ${reason}`, name, {
          kind: "session",
        });
      },
    });
    const read = async () => {
      for await (const { data } of talk) {
        this.heard.add(`${data}`);
        simulation.note(`reads "${data}"`, name, { kind: "message" });
      }
    };
    const write = async () => {
      await talk.ready;
      for (;;) {
        await new Promise<void>((resolve) =>
          runtime.setTimeout(resolve, -PAUSE_MS * Math.log(1 - runtime.random()))
        );
        if (simulation.nowMs > DURATION_MS - QUIET_MS) return;
        const line = `${name} ${++this.#count}`;
        simulation.note(`writes "${line}"`, name, { kind: "message" });
        await client.publish("talk", line);
        this.said.push(line);
      }
    };
    void Promise.all([read(), write()]).catch((error) => simulation.note(`ends: ${error}`, name));
  }
}

interface TalkerParts extends Pick<SimulationContext, "simulation" | "network"> {
  readonly servers: readonly SimulatedServer[];
  readonly transport: "websocket" | "webtransport";
}
