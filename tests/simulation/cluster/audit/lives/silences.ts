/** The transport of each attempt of a client, behind sessions that fell silent, and fates of WebTransport. */
import { guest } from "../../../../../server/guest.ts";
import { pause } from "../../../../../base/wait.ts";
import { AuthenticationError, CloseCode } from "../../../../../errors.ts";
import type { Client } from "../../../../../client/client.ts";
import type { TransportName } from "../../../../../transport/race/options.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, STEADY } from "../audit.ts";
import { TransportModel } from "./transport_model.ts";

/** Beginning of the names of machines and users. */
const NAME = "silences";

/** The transports of a client, the preferred one first; the most usual ones twice. */
const TRANSPORTS: readonly (readonly TransportName[])[] = [
  ["webtransport", "websocket"],
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

/** Share of ends by silence. */
const SILENT_SHARE = 0.35;

/** Fates of WebTransport. */
const WAYS = ["opens", "opens", "opens", "waits", "breaks", "refused"] as const;

/** Longest time behind the other transport until an attempt breaks or is refused, in milliseconds. */
const FAILS_MS = 2_500;

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
  let refusesMs: number | undefined;
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    authenticate: async ({ request: { headers } }) => {
      // Only requests of WebTransport have neither header.
      if (refusesMs === undefined || headers.has("upgrade") || headers.has("skein-transport")) {
        return guest;
      }
      await pause(host.runtime, refusesMs);
      throw new AuthenticationError("As planned");
    },
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
  const first = model.next(now(), { way: "opens" });
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
    const way = transports[0] === "webtransport" ? oneOf(random, WAYS) : "opens";
    const failsMs = between(random, 0, FAILS_MS);
    const blockUdp = way === "waits" || way === "breaks";
    // Without UDP, the close of a session on WebTransport is lost, and the client hears silence.
    const isDeaf = blockUdp && last?.transport === "webtransport";
    const drawn = isDeaf ? "cut" : oneOf(random, ENDS);
    const end = isSilent ? "silence" : isHttp ? "close" : drawn;
    audit.change(host, machine, { blockUdp });
    refusesMs = way === "refused" ? failsMs : undefined;
    if (end === "cut") audit.cut(machine);
    if (end === "silence") audit.cut(machine, true);
    if (end === "close") {
      for (const one of server.manager.all()) void one.close({ code: CloseCode.draining });
    }
    const isBack = await audit.until(() => client.isConnected && client.session !== last, BACK_MS);
    const silent = isSilent ? last?.transport : undefined;
    const expected = isBack ? model.next(now(), { way, failsMs, silent }) : "connected";
    told.push(`${end}, UDP ${way}${jumpMs ? `, ${jumpMs} ms later` : ""}`);
    const what = `transport of ${transports} behind ${told.join("; ")}`;
    audit.examine("lives", what, expected, transportOf(client));
    if (!isBack) break;
    if (way === "breaks") {
      await audit.pause(failsMs);
      for (const link of audit.network.links) {
        if (link.client === machine && link.kind === "webtransport") link.disconnect();
      }
    }
    await audit.pause(way === "opens" ? between(random, 50, 500) : LATE_MS);
    audit.change(host, machine, { blockUdp: false });
    refusesMs = undefined;
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
