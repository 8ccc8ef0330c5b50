/**
 * A rolling restart: each node in turn is drained, stopped and restarted while messages are
 * published. No message may be lost, and clients must not return faster than the drain spreads
 * them.
 *
 * @module
 */
import type { ClientsState } from "./chaos/clients.ts";
import { startBroker } from "./chaos/broker.ts";
import { Fleet, type FleetNode } from "./chaos/fleet.ts";
import { judge } from "./chaos/judge.ts";
import type { Drained, Opened } from "./chaos/server.ts";
import { Lateness } from "./processes/lateness.ts";
import { sleep } from "./processes/processes.ts";
import type { Check } from "./webtransport.ts";

const NODES = 4;

const TOPICS_EACH = 5;

/** Messages per second over all topics, for each of the two publishers. */
const PER_SECOND = 40;

/** The part of `withinMs` over which a drain spreads the sessions. */
const SPREAD = 0.8;

/** Longest mean time between two closes of a drain, in milliseconds. */
const MAX_SLOT_MS = 5;

/** Lengths of the time windows in which the test limits the number of sessions that start. */
const WINDOWS_MS = [100, 1_000] as const;

/**
 * Allowed deviation of the time at which a client returns. The timer delays of the processes are
 * added, because delayed work runs together with work that is due now.
 */
const TOLERANCE_MS = 100;

/** The longest time until the last clients have recovered, in milliseconds. */
const PATIENCE_MS = 10_000;

/** Runs the test on Redis and on NATS. */
export async function soakRolling(check: Check, isShort: boolean): Promise<void> {
  const clients = isShort ? 200 : 400;
  const withinMs = isShort ? 2_000 : 10_000;
  for (const broker of isShort ? ["redis"] as const : ["redis", "nats"] as const) {
    await roll(check, { broker, clients, withinMs });
  }
}

async function roll(
  check: Check,
  { broker: name, clients, withinMs }: {
    readonly broker: "redis" | "nats";
    readonly clients: number;
    readonly withinMs: number;
  },
): Promise<void> {
  const title = `rolling restart on ${name}`;
  await using broker = await startBroker(name);
  await using fleet = await Fleet.start(broker, { nodes: NODES });
  await fleet.begin({ clients, topicsEach: TOPICS_EACH, perSecond: PER_SECOND });
  const lateness = new Lateness();
  await opened(fleet.nodes);

  for (const [i, node] of fleet.nodes.entries()) {
    const others = fleet.nodes.filter((other) => other !== node);
    // The test proceeds like an orchestrator: it stops new connections, stops the node, and
    // continues with the next node.
    fleet.use(others);
    lateness.take();
    await fleet.ask<ClientsState>("state");
    const drained = await node.process.ask<Drained>(`drain ${withinMs}`);
    await node.process.end();
    const { times, lateMs } = await openedSoon(others, drained.closed + drained.cut);
    const clientsLateMs = (await fleet.ask<ClientsState>("state")).map((state) => state.lateMs);
    await fleet.restart(node);
    fleet.use(fleet.nodes);
    judgeReturns(check, `${title}, node ${i + 1}`, {
      drained,
      times,
      withinMs,
      lateMs: drained.lateMs + lateMs + lateness.take() + Math.max(...clientsLateMs),
    });
  }
  const outcome = await fleet.settle();
  judge(check, outcome, {
    title,
    blows: `${NODES} x drain within ${withinMs} ms`,
    clients,
    outages: [],
  });
  check(
    `${title}: all clients recovered each time`,
    outcome.state.failed === 0 && outcome.state.recovered > 0,
    `${outcome.state.recovered} times recovered, ${outcome.state.failed} times not`,
  );
}

/** Checks the recovery of all clients after one drain. */
function judgeReturns(check: Check, title: string, { drained, times, withinMs, lateMs }: {
  readonly drained: Drained;
  readonly times: readonly number[];
  readonly withinMs: number;
  readonly lateMs: number;
}): void {
  const { closed, cut, tookMs } = drained;
  check(
    `${title}: the drain cuts no session, and all clients return`,
    cut === 0 && times.length === closed,
    `${closed} closed, ${cut} cut, ${times.length} returned, in ${tookMs} ms`,
  );
  // A drain has one slot per session, and closes the session at a random time within its slot.
  const slotMs = Math.min(withinMs * SPREAD / Math.max(1, closed), MAX_SLOT_MS);
  const windows = WINDOWS_MS.map((windowMs) => ({
    windowMs,
    most: Math.floor((windowMs + TOLERANCE_MS + lateMs) / slotMs) + 2,
    found: mostWithin(times, windowMs),
  }));
  check(
    `${title}: clients return no faster than the drain spreads them`,
    windows.every(({ found, most }) => found <= most),
    `one each ${slotMs.toFixed(0)} ms; ` +
      windows.map((one) => `at most ${one.found} (of ${one.most}) in ${one.windowMs} ms`)
        .join(", ") +
      `; the processes were up to ${lateMs} ms late`,
  );
}

/**
 * Returns the sessions that started at these nodes since the last report, and the longest timer
 * delay.
 */
async function opened(nodes: readonly FleetNode[]): Promise<{ times: number[]; lateMs: number }> {
  const each = await Promise.all(nodes.map(({ process }) => process.ask<Opened>("opened")));
  return {
    times: each.flatMap(({ times }) => times).sort((a, b) => a - b),
    lateMs: Math.max(...each.map(({ lateMs }) => lateMs)),
  };
}

/**
 * Returns the same once enough sessions have started or the time is up. The last sessions may still
 * be starting.
 */
async function openedSoon(nodes: readonly FleetNode[], count: number): ReturnType<typeof opened> {
  const until = Date.now() + PATIENCE_MS;
  let found = await opened(nodes);
  while (found.times.length < count && Date.now() < until) {
    await sleep(100);
    const { times, lateMs } = await opened(nodes);
    found = { times: [...found.times, ...times], lateMs: Math.max(found.lateMs, lateMs) };
  }
  return found;
}

/** Returns the largest number of times that lie within any window of a given length. */
function mostWithin(times: readonly number[], windowMs: number): number {
  let most = 0;
  for (let from = 0, to = 0; to < times.length; to++) {
    while (times[to]! - times[from]! >= windowMs) from++;
    most = Math.max(most, to - from + 1);
  }
  return most;
}
