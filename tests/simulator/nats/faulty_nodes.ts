/** Nodes on a modeled NATS under faults: everything acknowledged is kept, or the epoch is new. */
import type { Publication, PublicationPosition } from "../../../pubsub/broker.ts";
import { NatsBroker } from "../../../brokers/nats/mod.ts";
import { installGlobals } from "../globals.ts";
import type { Host } from "../host.ts";
import { SimulatedNetwork } from "../network/network.ts";
import { Simulation } from "../simulation.ts";
import { simulatedNatsConnect } from "./client.ts";
import { SimulatedNats } from "./nats.ts";

/** Time with faults, and time for everything to settle, in milliseconds. */
const FAULTS_MS = 120_000;
const SETTLE_MS = 60_000;

/** Time between two faults, and the longest duration of a fault, in milliseconds. */
const FAULT_EVERY_MS = 15_000;
const FAULT_MS = 8_000;

const BOUNDS = { size: 5_000, ttlMs: 3_600_000, bytes: 1 << 24 };
const TOPIC = "news";

/** An acknowledged publication. */
interface Acknowledged {
  readonly payload: string;
  readonly position: PublicationPosition | Omit<PublicationPosition, "prev">;
}

/** Outcome of a run. */
export interface FaultyRun {
  readonly digest: string;
  /** Number of acknowledged publications. */
  readonly acknowledged: number;
  /** Number of publications that the model lost after acknowledging them. */
  readonly lost: number;
  /** Violated guarantees, as text. */
  readonly violations: readonly string[];
}

/**
 * Runs three nodes while the NATS servers fail.
 *
 * @param servers Number of NATS servers. If there are three, one fails at a time.
 * @returns The outcome.
 */
export async function runFaulty(seed: number, servers: 1 | 3): Promise<FaultyRun> {
  const simulation = new Simulation({ seed });
  const network = new SimulatedNetwork(simulation, { delayMs: 2, jitterMs: 3, lossRate: 0.005 });
  using _globals = installGlobals(simulation);
  let lost = 0;
  const hosts = Array.from({ length: servers }, (_, i) => simulation.host(`nats${i}`));
  const nats = new SimulatedNats(simulation, network, hosts, {
    onLost: ({ writes }) => lost += writes.length,
  });
  const acknowledged: Acknowledged[] = [];
  const nodes = ["a", "b", "c"].map((name) => simulation.host(name));
  const brokers = nodes.map((host) => {
    const connect = simulatedNatsConnect(network, host, nats.hosts);
    const source = { servers: nats.servers, connect };
    return new NatsBroker(source, { runtime: host.runtime, replicas: servers });
  });
  for (const [i, host] of nodes.entries()) publishFrom(simulation, host, brokers[i]!, acknowledged);
  planFaults(simulation, nats);
  await simulation.run(FAULTS_MS);
  for (const host of hosts) {
    host.thaw();
    nats.restart(host);
  }
  await simulation.run(SETTLE_MS);
  const violations: string[] = [];
  for (const [i, host] of nodes.entries()) {
    simulation.after(0, () => {
      readAll(brokers[i]!).then((found) => {
        check(host, found, acknowledged, violations);
        simulation.note(`has ${found.length}`, host.name);
      }, (error) => violations.push(`${host.name} reads: ${error}`));
    }, host);
  }
  await simulation.run(SETTLE_MS);
  for (const broker of brokers) void broker.close();
  await simulation.run(SETTLE_MS);
  return { digest: simulation.digest, acknowledged: acknowledged.length, lost, violations };
}

/** Publishes from a node during faults. */
function publishFrom(
  simulation: Simulation,
  host: Host,
  broker: NatsBroker,
  acknowledged: Acknowledged[],
): void {
  const random = simulation.chanceOf(`${host.name}/publish`);
  let number = 0;
  const publish = () => {
    const payload = `${host.name}${number++}`;
    broker.history.append({ topic: TOPIC, payload }, { bounds: BOUNDS }).then(
      ({ position }) => {
        if (position !== undefined) acknowledged.push({ payload, position });
      },
      (error) => simulation.note(`${payload} failed: ${error}`, host.name),
    );
    if (simulation.nowMs < FAULTS_MS) simulation.after(100 + random() * 600, publish, host);
  };
  simulation.after(random() * 1_000, publish, host);
}

function planFaults(simulation: Simulation, nats: SimulatedNats): void {
  const random = simulation.chanceOf("faults");
  const fault = () => {
    const host = nats.hosts[Math.floor(random() * nats.hosts.length)]!;
    const lastsMs = 500 + random() * FAULT_MS;
    const kind = Math.floor(random() * 7);
    if (kind < 2) {
      host.kill({ power: kind === 1 });
      simulation.after(lastsMs, () => nats.restart(host));
    } else if (kind === 2) {
      host.freeze();
      simulation.after(lastsMs, () => host.thaw());
    } else if (kind === 3) nats.changeLeader();
    else if (kind === 4) nats.loseConsumers();
    else if (kind === 5) nats.disconnectClients(host);
    else {
      nats.lameDuck(host, lastsMs);
      simulation.after(lastsMs + 1_000, () => {
        host.kill();
        nats.restart(host);
      });
    }
    if (simulation.nowMs < FAULTS_MS - 2 * FAULT_EVERY_MS) simulation.after(FAULT_EVERY_MS, fault);
  };
  simulation.after(FAULT_EVERY_MS, fault);
}

async function readAll(broker: NatsBroker): Promise<Publication[]> {
  const found: Publication[] = [];
  for (;;) {
    const after = found.at(-1)?.position?.offset;
    const { publications, head } = await broker.history.read(TOPIC, {
      bounds: BOUNDS,
      maxMessages: 1_000,
      maxBytes: 1 << 20,
      after,
    });
    found.push(...publications);
    if (publications.length === 0 || publications.at(-1)!.position!.offset >= head) return found;
  }
}

/** Compares a history with everything acknowledged in the same epoch. */
function check(
  { name }: Host,
  found: readonly Publication[],
  acknowledged: readonly Acknowledged[],
  violations: string[],
): void {
  const epoch = found[0]?.position?.epoch;
  const byOffset = new Map(found.map(({ position, payload }) => [position!.offset, payload]));
  for (const { payload, position } of acknowledged) {
    if (position.epoch !== epoch) continue;
    const kept = byOffset.get(position.offset);
    if (kept === payload) continue;
    violations.push(
      `${name} expected ${payload} at ${position.offset} of ${epoch}, received ${kept}`,
    );
  }
  const payloads = found.map(({ payload }) => payload);
  const twice = payloads.find((payload, i) => payloads.indexOf(payload) !== i);
  if (twice !== undefined) violations.push(`${name} has ${twice} twice`);
}

if (import.meta.main) {
  const [seed, servers] = Deno.args.map(Number);
  console.log((await runFaulty(seed!, servers as 1 | 3)).digest);
}
