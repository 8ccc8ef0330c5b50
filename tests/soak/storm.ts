/**
 * A reconnect storm. The node to which all clients are connected is killed, and the clients
 * reconnect immediately to two other nodes on the same port. The test measures the time until all
 * clients have recovered, and the load on the broker.
 *
 * @module
 */
import { usageOf } from "../../bench/processes.ts";
import type { ClientsState } from "./chaos/clients.ts";
import { type BrokerServer, startBroker, TOPICS } from "./chaos/broker.ts";
import { Fleet, type FleetNode, type Outcome } from "./chaos/fleet.ts";
import { judge } from "./chaos/judge.ts";
import { openFileLimit, sleep } from "./processes/processes.ts";
import type { Check } from "./webtransport.ts";

/** Number of nodes that take over. */
export const SPARE = 2;

/** Messages per second over all topics, for each of the two publishers. */
export const PER_SECOND = 5;

/** Interval of the broker's statistics, in milliseconds. */
const SAMPLE_MS = 200;

/** Number of measurements before the storm. The test uses the calmest second. */
const CALM_LOOKS = 3;

/** Length of the measurement after the storm, in milliseconds. */
const CALM_MS = 2_000;

/** The tick of CPU times on Linux, which is a hundredth of a second. */
const MS_PER_TICK = 10;

/** Longest recovery of the clients, in milliseconds. */
const PATIENCE_MS = 60_000;

/** Files that a node needs in addition to sockets. */
const SPARE_FILES = 200;

/**
 * Maximum number of broker commands for one topic on a node that takes over clients. The commands
 * subscribe, read the position and read publications. They are repeated if more publications have
 * arrived in the meantime. For comparison, a topic has hundreds of clients.
 */
const MOST_PER_TOPIC = 40;

/**
 * Allowed commands for one user. They start and stop listening for messages to the user, and count
 * the sessions with a script that runs a handful of commands.
 */
const MOST_PER_USER = 14;

/** Commands to a broker during an interval. */
export interface Load {
  /** Length of the interval, in milliseconds. */
  readonly ms: number;
  /** The highest rate of commands per second over any {@linkcode SAMPLE_MS}. */
  readonly peak: number;
  /** Number of commands, by kind. */
  readonly counts: Readonly<Record<string, number>>;
}

/** Runs the test on Redis and on NATS, with anonymous clients and with users. */
export async function soakStorm(check: Check, isShort: boolean): Promise<void> {
  const room = await openFileLimit() - SPARE_FILES;
  const clients = Math.min(isShort ? 500 : 5_000, room - room % 2);
  for (const broker of ["redis", "nats"] as const) {
    for (const hasUsers of isShort ? [true] : [false, true]) {
      await storm(check, { broker, clients, hasUsers });
    }
  }
}

async function storm(check: Check, options: StormOptions): Promise<void> {
  const { broker, clients, hasUsers } = options;
  const title = `storm of ${clients} ${hasUsers ? "users" : "clients"} on ${broker}`;
  const { delays, nodesCpuMs, usual, load, outcome } = await measureStorm(options);
  const quantile = (part: number) => delays[Math.ceil(delays.length * part) - 1] ?? Infinity;
  check(
    `${title}: all clients return, and know that they missed nothing`,
    delays.length === clients,
    `${delays.length} recovered: half after ${quantile(0.5)} ms, 99 % after ${
      quantile(0.99)
    } ms, ` +
      `all after ${quantile(1)} ms; ${
        (nodesCpuMs / clients).toFixed(2)
      } ms of CPU time each on the nodes`,
  );
  const extra = sum(load.counts) - usual * load.ms;
  const most = TOPICS * SPARE * MOST_PER_TOPIC + (hasUsers ? clients * MOST_PER_USER : 0);
  check(
    `${title}: the broker's load depends on topics${hasUsers ? " and users" : ", not on clients"}`,
    extra <= most,
    `${extra.toFixed(0)} more than usual (at most ${most}); ${
      (usual * 1_000).toFixed(0)
    } a second ` +
      `before, ${load.peak.toFixed(0)} in the busiest ${SAMPLE_MS} ms; ${describe(load.counts)}`,
  );
  judge(check, outcome, { title, blows: "1 x kill -9", clients, outages: [] });
}

/** Options for {@linkcode measureStorm}. */
export interface StormOptions {
  readonly broker: "redis" | "nats";
  /** Number of clients, each with one topic. */
  readonly clients: number;
  /** Makes each client a separate user. */
  readonly hasUsers: boolean;
}

/** CPU time of each part without a storm, in milliseconds per second. */
export interface CalmLoad {
  readonly nodes: number;
  /** All processes of clients. */
  readonly clients: number;
}

export interface StormResult {
  /** Times from the kill until each client had recovered, in ascending order, in milliseconds. */
  readonly delays: readonly number[];
  /** CPU time of the nodes that took over, in milliseconds. */
  readonly nodesCpuMs: number;
  /** CPU time of the processes of clients, in milliseconds. */
  readonly clientsCpuMs: number;
  /** CPU time of publishers, broker and test, in milliseconds. */
  readonly restCpuMs: number;
  /** CPU times after the storm, with all clients connected. */
  readonly calm: CalmLoad;
  /** Time from the kill until the process had exited, in milliseconds. */
  readonly endMs: number;
  /**
   * Share of the machine's time in the storm that other programs and machines used, from 0 to 1.
   */
  readonly foreign: number;
  /** Commands to the broker per millisecond before the storm. */
  readonly usual: number;
  /** Commands to the broker in the storm. */
  readonly load: Load;
  /** Logs of all processes. */
  readonly outcome: Outcome;
}

/**
 * Kills the node to which all clients are connected, and measures until all clients have recovered
 * on two other nodes.
 */
export async function measureStorm(options: StormOptions): Promise<StormResult> {
  const { broker: name, clients, hasUsers } = options;
  await using broker = await startBroker(name);
  await using fleet = await Fleet.start(broker, { nodes: 1, sharesPort: true });
  const [first] = fleet.nodes as [FleetNode];
  await fleet.begin({ clients, topicsEach: 1, perSecond: PER_SECOND, hasUsers });
  // The kernel distributes new connections. Open connections stay where they are.
  const others = await Promise.all(Array.from({ length: SPARE }, () => fleet.add()));

  // On a busy machine, the first measurements still include the start.
  let usual = Infinity;
  for (let i = 0; i < CALM_LOOKS; i++) {
    const { counts, ms } = await watch(broker, () => sleep(1_000));
    usual = Math.min(usual, sum(counts) / ms);
  }
  const parts = {
    nodes: others.map(({ process }) => process.pid),
    clients: fleet.clientPids,
    rest: [...fleet.publisherPids, broker.pid],
    test: [Deno.pid],
  };
  const before = await look(parts);
  const killedAt = Date.now();
  let endMs = 0;
  const ending = fleet.kill(first).then(() => endMs = Date.now() - killedAt);
  const load = await watch(broker, () => untilBack(fleet, clients));
  await ending;
  const after = await look(parts);
  await sleep(CALM_MS);
  const later = await look(parts);
  const delays = (await fleet.ask<number[]>("recoveries")).flat()
    .map((at) => at - killedAt).filter((ms) => ms >= 0).sort((a, b) => a - b);
  // A killed process is no longer a node.
  fleet.nodes.shift();
  const outcome = await fleet.settle();
  const calm = (part: keyof typeof parts) =>
    (later.cpuMs[part] - after.cpuMs[part]) / (later.atMs - after.atMs) * 1_000;
  const own = Object.keys(parts) as (keyof typeof parts)[];
  const cpu = (part: keyof typeof parts) => after.cpuMs[part] - before.cpuMs[part];
  const ownMs = own.reduce((all, part) => all + cpu(part), 0);
  // The exit of the killed process is work of the test too, on one core.
  const foreignMs = after.machine.busyMs - before.machine.busyMs - ownMs - endMs;
  return {
    delays,
    nodesCpuMs: cpu("nodes"),
    clientsCpuMs: cpu("clients"),
    restCpuMs: cpu("rest") + cpu("test"),
    calm: { nodes: calm("nodes"), clients: calm("clients") },
    endMs,
    foreign: Math.max(0, foreignMs / (after.machine.allMs - before.machine.allMs)),
    usual,
    load,
    outcome,
  };
}

/** CPU times so far, in milliseconds. */
interface Look<Part extends string> {
  readonly atMs: number;
  readonly cpuMs: Readonly<Record<Part, number>>;
  readonly machine: { readonly busyMs: number; readonly allMs: number };
}

/** Reads the CPU times of processes, by part, and of the machine. */
async function look<Part extends string>(
  parts: Readonly<Record<Part, readonly number[]>>,
): Promise<Look<Part>> {
  const names = Object.keys(parts) as Part[];
  const times = await Promise.all(names.map((name) => cpuOf(parts[name])));
  const cpuMs = Object.fromEntries(names.map((name, i) => [name, times[i]])) as Look<Part>["cpuMs"];
  return { atMs: performance.now(), cpuMs, machine: await machineTimes() };
}

/**
 * CPU time of all cores: the time used by this machine or by others on the same hardware, and the
 * total time.
 */
async function machineTimes(): Promise<Look<string>["machine"]> {
  if (Deno.build.os !== "linux") return { busyMs: NaN, allMs: NaN };
  const [line] = (await Deno.readTextFile("/proc/stat")).split("\n");
  // The ticks are user, nice, system, idle, waiting for disks, interrupts of two kinds, and stolen.
  const ticks = line!.split(/\s+/).slice(1, 9).map((text) => Number(text) * MS_PER_TICK);
  const allMs = ticks.reduce((all, ms) => all + ms, 0);
  return { busyMs: allMs - ticks[3]! - ticks[4]!, allMs };
}

/** Counts a broker's commands during an action. */
async function watch(broker: BrokerServer, work: () => Promise<void>): Promise<Load> {
  const before = await broker.counts();
  const since = performance.now();
  let [last, lastAt, peak, isOver] = [before, since, 0, false];
  const working = work().finally(() => isOver = true);
  while (!isOver) {
    await sleep(SAMPLE_MS);
    const counts = await broker.counts();
    const at = performance.now();
    peak = Math.max(peak, sum(difference(counts, last)) / (at - lastAt) * 1_000);
    [last, lastAt] = [counts, at];
  }
  await working;
  return { ms: lastAt - since, peak, counts: difference(last, before) };
}

async function untilBack(fleet: Fleet, clients: number): Promise<void> {
  const until = Date.now() + PATIENCE_MS;
  while (Date.now() < until) {
    const each = await fleet.ask<ClientsState>("state");
    if (each.reduce((all, { recovered }) => all + recovered, 0) >= clients) return;
    await sleep(SAMPLE_MS);
  }
}

/**
 * Returns the CPU time of processes so far, in milliseconds, or NaN on systems that do not report
 * it.
 */
async function cpuOf(pids: readonly number[]): Promise<number> {
  const each = await Promise.all(pids.map(usageOf));
  return each.reduce((all, { cpuUs = NaN }) => all + cpuUs / 1_000, 0);
}

function difference(
  after: Readonly<Record<string, number>>,
  before: Readonly<Record<string, number>>,
): Record<string, number> {
  return Object.fromEntries(
    Object.entries(after).map(([name, count]) => [name, count - (before[name] ?? 0)]),
  );
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((all, count) => all + count, 0);
}

/** Lists the most frequent commands. */
function describe(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts).filter(([, count]) => count > 0).sort(([, a], [, b]) => b - a)
    .slice(0, 8).map(([name, count]) => `${count} x ${name}`).join(", ");
}
