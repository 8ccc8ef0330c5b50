/** Ends in the middle of an entry: of the client, of its way, and of the server. */
import { AuthenticationError } from "../../../../../errors.ts";
import type { Client } from "../../../../../client/client.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Server } from "../../../../../server.ts";
import type { Contract } from "../../../../../session/contract.ts";
import {
  SimulatedServer,
  type SimulatedServerOptions,
} from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, counted, type Expect, outcomeOf } from "../audit.ts";

/** Clients that enter one server. */
const CLIENTS = 4;

/** Longest time of `authenticate`, and time in which the server or a client may end, in milliseconds. */
const [AUTHENTICATE_MS, ENTRY_MS] = [30, 90] as const;

/** Time of a handshake, of a close, and of one attempt, in milliseconds. */
const [HANDSHAKE_MS, CLOSE_MS, DIAL_MS] = [600, 400, 900] as const;

/** Heartbeat by which a server notices a client over HTTP that left while entering. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 3_000 } as const;

/** Time in which a client that is closed has ended, in milliseconds. */
const OWN_MS = CLOSE_MS + 100;

/** Time until a server has forgotten a client that left while entering, also over HTTP, in milliseconds. */
const LEFT_MS = 12_000;

/** Most time of the close of a server, in milliseconds. */
const SERVER_CLOSE_MS = 2 * CLOSE_MS + HANDSHAKE_MS;

/** Times of a drain, of which one is drawn, and most time beyond, in milliseconds. */
const [DRAINS_MS, FAREWELL_MS] = [[300, 5_000], 1_000] as const;

/** Share of clients that a server refuses. */
const REFUSED_SHARE = 0.25;

/** Most steps of promises between the first message or status and the end. */
const MAX_STEPS = 12;

/** Transports of clients. */
const TRANSPORTS = ["websocket", "websocket", "webtransport", "http"] as const;

/** Places at which a client ends itself. */
const PLACES = [
  "signal before",
  "address",
  "token",
  "first message",
  "first status",
  "later",
] as const;

/** Ends of the server, at any time of the entries; without one, all clients close. */
const ENDS = [
  "close",
  "close twice",
  "signal",
  "drain",
  "drain by a signal",
  "nothing",
  "nothing",
] as const;

/** Counts of a server without clients. */
const NO_PLACES = { count: 0, reserved: 0, users: 0, addresses: 0, inUse: 0 };

/** A client that enters. */
interface Guest {
  readonly machine: Host;
  readonly client: Client;
  /** Name of the place and the transport. */
  readonly about: string;
  /** Time at which the client ended itself; `Infinity` before, or without such an end. */
  leftMs: number;
  /** Time at which the client had ended; `Infinity` before. */
  endedMs: number;
}

/**
 * Ends clients and a server while clients enter: all ends in time, and nothing is left.
 *
 * @param audit The audit.
 */
export async function auditEntries(audit: Audit): Promise<void> {
  const random = audit.chanceOf("entries");
  const host = audit.host("entries");
  const expect: Expect = (...outcome) => audit.examine("leaks", ...outcome);
  const hasUsers = random() < 0.5;
  // Without tokens in band, the server knows each client before the session.
  const isInBand = random() < 0.5;
  const stop = new AbortController();
  const listeners = { count: 0 };
  const signal = counted(stop.signal, listeners);
  const options = serverOptions(audit, { random, hasUsers, isInBand, signal });
  const { server } = new SimulatedServer<string>(audit.network, host, () => options);
  const guests = Array.from(
    { length: CLIENTS },
    (_, i) => enter(audit, { host, random, number: i, isInBand }),
  );
  const end = oneOf(random, ENDS);
  await audit.pause(between(random, 0, ENTRY_MS));
  const about = `(${end})`;
  const beganMs = audit.nowMs;
  const haveLeft = () =>
    guests.every(({ leftMs, endedMs }) => leftMs === Infinity || endedMs < Infinity);
  if (end === "nothing") {
    await audit.pause(ENTRY_MS);
    await audit.until(haveLeft, 2 * OWN_MS);
    await Promise.all(guests.map(({ client }) => client.close()));
    await audit.until(() => isEmpty(server), LEFT_MS);
    expect(`places behind clients that left ${about}`, NO_PLACES, placesOf(server));
  } else {
    const drainMs = oneOf(random, DRAINS_MS);
    const outcome = await endServer(audit, server, { end, drainMs, stop });
    const waitMs = end === "drain" ? drainMs : 0;
    const mostMs = SERVER_CLOSE_MS + (end.startsWith("drain") ? waitMs + FAREWELL_MS : 0);
    expect(`end of a server ${about}`, "fulfilled", outcome);
    const tookMs = audit.nowMs - beganMs;
    expect(`end of a server after ${tookMs} ms ${about}`, true, tookMs <= mostMs);
    // An authentication that is under way goes on, and the answer reaches no client any more.
    await audit.until(() => isEmpty(server), AUTHENTICATE_MS + HANDSHAKE_MS);
    expect(`places of a server that ended ${about}`, NO_PLACES, placesOf(server));
    await Promise.all(guests.map(({ client }) => client.close()));
  }
  for (const guest of guests) {
    const what = `of a client ${guest.about} ${about}`;
    if (guest.leftMs < beganMs || end === "nothing") expectOwnEnd(guest, what, expect);
    const tookMs = guest.endedMs - guest.leftMs;
    if (guest.leftMs < Infinity) expect(`end after ${tookMs} ms ${what}`, true, tookMs <= OWN_MS);
    expect(`timers ${what}`, 0, await audit.timersOf(guest.machine));
  }
  await server.close();
  expect(`listeners of a server that ended ${about}`, 0, listeners.count);
  expect(`timers of a server that ended ${about}`, 0, await audit.timersOf(host));
}

/** Options of a server that takes its time to authenticate, and refuses some clients. */
function serverOptions(
  audit: Audit,
  { random, hasUsers, isInBand, signal }: {
    readonly random: () => number;
    readonly hasUsers: boolean;
    readonly isInBand: boolean;
    readonly signal: AbortSignal;
  },
): SimulatedServerOptions<string, Contract> {
  let count = 0;
  return {
    allowTokenMessage: isInBand,
    signal,
    session: { handshakeTimeoutMs: HANDSHAKE_MS, closeTimeoutMs: CLOSE_MS, heartbeat: HEARTBEAT },
    authenticate: async ({ token }) => {
      await audit.pause(between(random, 0, AUTHENTICATE_MS));
      if (random() < REFUSED_SHARE) throw new AuthenticationError("The token is bad");
      return token ?? `entering ${count++}`;
    },
    ...(hasUsers && { userOf: (user: string) => user }),
    authorize: () => true,
    onOpen: (session) => session.send("welcome", 0),
    onMessage() {},
    onError() {},
    onRefusal() {},
  };
}

/** Lets a client enter that ends itself at a drawn place. */
function enter(
  audit: Audit,
  { host, random, number, isInBand }: {
    readonly host: Host;
    readonly random: () => number;
    readonly number: number;
    readonly isInBand: boolean;
  },
): Guest {
  const name = `entering${number}`;
  const machine = audit.host(name);
  const transport = oneOf(random, TRANSPORTS);
  const place = oneOf(random, PLACES);
  const isBySignal = random() < 0.5;
  const stop = new AbortController();
  const leave = () => {
    if (guest.leftMs === Infinity) guest.leftMs = audit.nowMs;
    if (isBySignal || place === "signal before") stop.abort();
    else void guest.client.close();
  };
  const leaveSoon = async () => {
    for (let left = Math.floor(MAX_STEPS * random()); left > 0; left--) await Promise.resolve();
    leave();
  };
  if (place === "signal before") stop.abort();
  const address = () => {
    if (place === "address") leave();
    return host;
  };
  const client = audit.connect(name, address, {
    transports: [transport],
    token: () => {
      if (place === "token") leave();
      return isInBand ? name : undefined;
    },
    signal: stop.signal,
    connectTimeoutMs: DIAL_MS,
    closeTimeoutMs: CLOSE_MS,
    backoff: { firstDelayMs: 20, maxDelayMs: 60 },
    // A client without a reader of messages is another case.
    ...(place === "first message" && { onMessage: () => void leaveSoon() }),
    onError() {},
    onRefused() {},
  });
  const guest: Guest = {
    machine,
    client,
    about: `that leaves at "${place}" over ${transport}`,
    leftMs: place === "signal before" ? audit.nowMs : Infinity,
    endedMs: Infinity,
  };
  void client.closed.then(() => guest.endedMs = audit.nowMs);
  if (place === "first status") {
    client.status.subscribe(({ name }) => void (name === "connected" && leaveSoon()));
  }
  if (place === "later") void audit.pause(between(random, 0, ENTRY_MS)).then(leave);
  return guest;
}

/** Expects that a client ended itself, unless the server refused the client before. */
function expectOwnEnd({ client }: Guest, what: string, expect: Expect): void {
  const { current } = client.status;
  if (current.name === "refused") return;
  const cause = "cause" in current ? current.cause : undefined;
  expect(`last status ${what}`, ["closed", 0, "local"], [current.name, cause?.code, cause?.by]);
}

/** Ends the server; tells the outcome of all calls. */
async function endServer(
  audit: Audit,
  server: Server<string>,
  { end, drainMs, stop }: {
    readonly end: Exclude<typeof ENDS[number], "nothing">;
    readonly drainMs: number;
    /** Ends the server by its option. */
    readonly stop: AbortController;
  },
): Promise<string> {
  const signal = end === "drain by a signal" ? AbortSignal.abort() : undefined;
  if (end === "signal") stop.abort();
  const first = end.startsWith("drain")
    ? server.drain({ withinMs: drainMs, ...(signal && { signal }) })
    : server.close();
  const others = end === "close twice" ? [server.close()] : [];
  const all = outcomeOf(Promise.all([first, ...others]));
  return await audit.inTime(all, drainMs + 4 * SERVER_CLOSE_MS, "none");
}

/** Counts of a server: sessions, places that are kept, users, addresses and sockets in use. */
function placesOf({ manager }: Pick<Server, "manager">): typeof NO_PLACES {
  const { count, reserved, users, addresses, sockets } = manager.stats();
  return { count, reserved, users, addresses, inUse: sockets.open - sockets.lingering };
}

/** True if nothing is left of any client. */
function isEmpty(server: Pick<Server, "manager">): boolean {
  return Object.values(placesOf(server)).every((count) => count === 0);
}
