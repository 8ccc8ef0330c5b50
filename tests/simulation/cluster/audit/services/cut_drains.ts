/** Drains that are cut, by a signal or by the time, and drains without a session. */
import { stub } from "@std/testing/mock";
import type { Client } from "../../../../../client/client.ts";
import { CloseCode } from "../../../../../errors.ts";
import type { DrainReport } from "../../../../../manager/drain.ts";
import type { Server } from "../../../../../server.ts";
import type { GoAway } from "../../../../../session/wire/envelope.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, type Expect, STEADY } from "../audit.ts";

/** Clients of the server. */
const CLIENTS = 5;

/** Least and longest time of a drain, in milliseconds. */
const [SHORT_MS, LONG_MS] = [1_500, 3_000];

/** Share of the time over which sessions leave. */
const SPREAD = 0.8;

/** Longest mean time between two closes of a drain, in milliseconds. */
const MAX_SLOT_MS = 5;

/** Time for a message there and back, in milliseconds. */
const ROUND_MS = 100;

/** Time of a close on its way, in milliseconds. */
const CLOSE_MS = 5;

/** Ends of a drain. */
const ENDS = ["time", "signal", "signal"] as const;

/** A client of a server that drains. */
interface Drained {
  readonly client: Client;
  /** True if a request holds the session until the end. */
  readonly isHeld: boolean;
  /** Word of the server to leave. */
  readonly told: readonly GoAway[];
  /** Code and reason of the end, as the client heard these. */
  end: readonly [code: number, reason: string] | undefined;
}

/**
 * Drains a server whose sessions are partly held by requests, and cuts the drain.
 *
 * @param audit The audit.
 */
export async function auditCutDrain(audit: Audit): Promise<void> {
  const random = audit.chanceOf("cut");
  const host = audit.host("cut-drain");
  const server = serverOn(audit, host);
  const { manager } = server;
  const expect: Expect = (...outcome) => audit.examine("services", ...outcome);
  const all: Drained[] = [];
  // The sessions leave in the order in which they began.
  for (let i = 0; i < CLIENTS; i++) all.push(await enter(audit, host, { number: i, random }));
  await audit.pause(ROUND_MS);
  const end = oneOf(random, ENDS);
  const withinMs = Math.round(between(random, SHORT_MS, LONG_MS));
  const share = random();
  const slotMs = Math.min(withinMs * SPREAD / CLIENTS, MAX_SLOT_MS);
  const leaveMs = all.map((_, i) => Math.floor((i + share) * slotMs));
  // A signal comes between two sessions that leave.
  const number = Math.floor(CLIENTS * random());
  const cutMs = end === "time" ? withinMs : leaveMs[number]! + slotMs / 2;
  const reason = `The drain of ${withinMs} ms`;
  const stop = new AbortController();
  let report: DrainReport | undefined;
  const beganMs = audit.nowMs;
  // All times are drawn at once.
  const draws = stub(host.runtime, "random", () => share);
  const draining = manager.drain({ withinMs, reason, signal: stop.signal });
  draws.restore();
  let endedMs = Infinity;
  void draining.then((result) => {
    report = result;
    endedMs = audit.nowMs;
  });
  if (end === "signal") {
    await audit.pause(cutMs);
    stop.abort();
  }
  await audit.until(() => report !== undefined, withinMs + ROUND_MS);
  await audit.pause(ROUND_MS);
  const about = `(${end}, ${all.map(({ isHeld }) => isHeld ? "held" : "idle")})`;
  const leftBefore = (ms: number) =>
    all.filter(({ isHeld }, i) => !isHeld && leaveMs[i]! < ms).length;
  // The close of the last one that left may still be on its way.
  const [least, most] = [leftBefore(cutMs - CLOSE_MS), leftBefore(cutMs)];
  const { closed = -1, cut = -1 } = report ?? {};
  expect(
    `report of a drain that is cut ${about}: ${closed} of ${least} to ${most}`,
    [true, CLIENTS],
    [closed >= least && closed <= most, closed + cut],
  );
  const lastMs = cut > 0 ? cutMs : Math.max(...leaveMs);
  const tookMs = endedMs - beganMs;
  const isInTime = (ms: number) => Math.abs(ms - lastMs) <= ROUND_MS / 2;
  expect(
    `time of a drain that is cut ${about}: ${tookMs} and ${report?.tookMs} of ${lastMs} ms`,
    [true, true],
    [isInTime(tookMs), isInTime(report?.tookMs ?? Infinity)],
  );
  for (const [i, one] of all.entries()) {
    expect(`word to leave ${about}`, [{ retryAfterMs: leaveMs[i], reason }], one.told);
    const what = `end of ${one.isHeld ? "a held" : "an idle"} session ${about}`;
    expect(what, [CloseCode.draining, reason], one.end);
  }
  expect("sessions behind a drain that is cut", 0, manager.count);
  expect("state of a manager that drained", true, manager.isDraining);
  const again = await audit.inTime(manager.drain(), ROUND_MS, undefined);
  expect("report of a drain that is asked for again", report, again);
  await Promise.all(all.map(({ client }) => client.close()));
  await server.close();
  await auditShortDrains(audit, expect);
}

/** Connects a client, in some cases with a request that holds the session. */
async function enter(
  audit: Audit,
  host: Host,
  { number, random }: { readonly number: number; readonly random: () => number },
): Promise<Drained> {
  const name = `cut-${number}`;
  audit.change(audit.host(name), host, STEADY);
  const told: GoAway[] = [];
  const client = audit.connect(name, host, {
    token: undefined,
    onGoAway: ({ retryAfterMs, reason }) => told.push({ retryAfterMs, reason }),
    onMessage() {},
    onRefused() {},
    onError() {},
  });
  const drained: Drained = { client, isHeld: random() < 0.6, told, end: undefined };
  await audit.until(() => client.isConnected);
  void client.session!.closed.then(({ code, reason }) => drained.end = [code, reason]);
  if (drained.isHeld) client.request("hold").catch(() => {});
  return drained;
}

/** Starts a server with requests that are never answered. */
function serverOn(audit: Audit, host: Host): Server {
  return new SimulatedServer(audit.network, host, () => ({
    requests: { hold: () => new Promise(() => {}) },
    onError() {},
  })).server;
}

/** Drains whose end is known at once: without a session, and by a signal that was aborted before. */
async function auditShortDrains(
  audit: Audit,
  expect: Expect,
): Promise<void> {
  for (const count of [0, 1]) {
    const host = audit.host(`short-drain-${count}`);
    const server = serverOn(audit, host);
    const { manager } = server;
    const client = count === 0 ? undefined : audit.connect("short-drain", host, {
      token: undefined,
      onRefused() {},
      onError() {},
    });
    await audit.until(() => manager.count === count);
    client?.request("hold").catch(() => {});
    await audit.pause(ROUND_MS);
    const options = count === 0 ? {} : { signal: AbortSignal.abort() };
    const report = await audit.inTime(manager.drain(options), ROUND_MS, undefined);
    const right = { closed: 0, cut: count };
    const received = { closed: report?.closed, cut: report?.cut };
    expect(`report of a drain of ${count} sessions that ends at once`, right, received);
    await client?.close();
    await server.close();
  }
}
