/** The transport of each attempt of a client, behind sessions that fell silent and ways without UDP. */
import { CloseCode } from "../../../../../errors.ts";
import type { Client } from "../../../../../client/client.ts";
import type { TransportName } from "../../../../../transport/race/options.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, STEADY } from "../audit.ts";
import { TransportModel } from "./transport_model.ts";

/** Beginning of the names of machines and users. */
const NAME = "silences";

/** The transports of a client, the preferred one first. */
const TRANSPORTS: readonly (readonly TransportName[])[] = [
  ["webtransport", "websocket"],
  ["websocket", "webtransport"],
  ["websocket", "http"],
  ["webtransport", "websocket", "http"],
];

/** Clients of a run, and sessions of each. */
const [CLIENTS, SESSIONS] = [2, 8] as const;

/** Signs of life, which show soon that a session is silent. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 2_000 } as const;

/** Longest time until the next session, in milliseconds. */
const BACK_MS = 8_000;

/** Share of ends of a session before and behind the end of a memory, to which the clock steps. */
const [BEFORE_SHARE, BEHIND_SHARE] = [0.15, 0.6] as const;

/** Time without an attempt around the end of a memory, in milliseconds. */
const MARGIN_MS = 6_000;

/**
 * Time behind a step of the clock in which a client notices the step, in milliseconds: a silence
 * before counts as one of a machine that slept.
 */
const NOTICED_MS = 5_000 + 2 * HEARTBEAT.intervalMs;

/** Time in which a client gives up a transport that does not open, in milliseconds. */
const LATE_MS = 3_300;

/** Share of ends by silence, and of attempts without UDP. */
const [SILENT_SHARE, NO_UDP_SHARE] = [0.35, 0.5] as const;

/** Ends of a session that no memory keeps. */
const ENDS = ["cut", "close"] as const;

/**
 * Ends the sessions of clients with several transports, and lets their clocks go on in between.
 *
 * @param audit The audit.
 */
export async function auditSilences(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  await Promise.all(
    Array.from({ length: CLIENTS }, (_, i) => auditClient(audit, i, oneOf(random, TRANSPORTS))),
  );
}

/** Ends the sessions of one client, and compares the transport of each with the model. */
async function auditClient(
  audit: Audit,
  number: number,
  transports: readonly TransportName[],
): Promise<void> {
  const name = `${NAME}-${number}`;
  const random = audit.chanceOf(name);
  const [host, machine] = [audit.host(`${name}-server`), audit.host(name)];
  const { server } = new SimulatedServer(audit.network, host, () => ({
    session: { heartbeat: HEARTBEAT },
    onMessage() {},
    onError() {},
  }));
  audit.change(host, machine, { ...STEADY, lossRate: 0, reorderRate: 0 });
  const client = audit.connect(name, host, {
    token: undefined,
    transports,
    backoff: { firstDelayMs: 20, maxDelayMs: 100 },
    onMessage() {},
    onError() {},
  });
  const now = () => machine.runtime.now();
  const model = new TransportModel(transports);
  const told: string[] = [];
  await audit.until(() => client.isConnected);
  const first = model.next(now(), { hasUdp: true });
  audit.examine("lives", `first transport of ${transports}`, first, transportOf(client));
  let noticedMs = 0;
  for (let session = 1; session < SESSIONS; session++) {
    const { session: last } = client;
    // Connections over HTTP outlive a cut.
    const isHttp = last?.transport === "http";
    const maySilence = !isHttp && random() < SILENT_SHARE;
    if (maySilence) await audit.pause(noticedMs - audit.nowMs);
    const isSilent = maySilence && !model.endsMs.some((endMs) => isNear(endMs, now()));
    // A step would explain the silence.
    const jumpMs = Math.round(isSilent ? 0 : stepOf(model, random, now()));
    if (jumpMs > 0) {
      machine.jumpClock(jumpMs);
      noticedMs = audit.nowMs + NOTICED_MS;
    }
    const hasUdp = transports[0] !== "webtransport" || random() >= NO_UDP_SHARE;
    // Without UDP, the close of a session on WebTransport is lost, and the client hears silence.
    const isDeaf = !hasUdp && last?.transport === "webtransport";
    const drawn = isDeaf ? "cut" : oneOf(random, ENDS);
    const end = isSilent ? "silence" : isHttp ? "close" : drawn;
    audit.change(host, machine, { blocksUdp: !hasUdp });
    if (end === "cut") audit.cut(machine);
    if (end === "silence") audit.cut(machine, true);
    if (end === "close") {
      for (const one of server.manager.all()) void one.close({ code: CloseCode.draining });
    }
    const isBack = await audit.until(() => client.isConnected && client.session !== last, BACK_MS);
    const silent = isSilent ? last?.transport : undefined;
    const expected = isBack ? model.next(now(), { hasUdp, silent }) : "connected";
    told.push(`${end}${hasUdp ? "" : " without UDP"}${jumpMs ? ` ${jumpMs} ms later` : ""}`);
    const what = `transport of ${transports} behind ${told.join(", ")}`;
    audit.examine("lives", what, expected, transportOf(client));
    if (!isBack) break;
    await audit.pause(hasUdp ? between(random, 50, 500) : LATE_MS);
    audit.change(host, machine, { blocksUdp: false });
  }
  await client.close();
  await server.close();
}

/** Draws a step of the clock, to a time before or behind the end of a memory. */
function stepOf({ endsMs }: TransportModel, random: () => number, nowMs: number): number {
  const draw = random();
  const later = endsMs.filter((endMs) => endMs > nowMs - MARGIN_MS);
  let toMs = nowMs;
  if (later.length > 0 && draw < BEFORE_SHARE + BEHIND_SHARE) {
    const endMs = oneOf(random, later);
    toMs = Math.max(nowMs, endMs + (draw < BEFORE_SHARE ? -MARGIN_MS : MARGIN_MS));
  }
  while (later.some((endMs) => isNear(endMs, toMs))) toMs += MARGIN_MS;
  return toMs - nowMs;
}

/** Tells if an attempt may come at either side of the end of a memory. */
function isNear(endMs: number, nowMs: number): boolean {
  return Math.abs(endMs - nowMs) < MARGIN_MS;
}

/** Names the transport of a client's session, and the one that it stands for. */
export function transportOf({ session }: Client): string {
  if (session === undefined) return "none";
  const { transport, fallback } = session;
  return fallback === undefined ? transport : `${transport} for ${fallback.transport}`;
}
