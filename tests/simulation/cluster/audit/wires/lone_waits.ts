/** Sessions at whose end one call alone waits: the call learns how the session ended. */
import { SessionClosedError } from "../../../../../errors.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Server } from "../../../../../server.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import type { AnySession, Audit } from "../audit.ts";

/** Heartbeat of the server, which the client follows. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 3_000 } as const;

/** Longest time of a close whose peer hears nothing, in milliseconds. */
const CLOSE_MS = 300;

/** Longest time between a call and the end of its session, in milliseconds. */
const BEFORE_MS = 150;

/** Longest time until a session ends, in milliseconds: longer than the silence of a heartbeat. */
const END_MS = 5_000;

/** Time for a message to the other end, in milliseconds. */
const TRIP_MS = 60;

/** Ways in which sessions end. */
const WAYS = ["close of this end", "close of the peer", "reset", "silence"] as const;

/** An end of a session. */
type Side = "client" | "server";

/** A wait: the call, the ends that have the call, and the place of the peer's handler, if any. */
interface Wait {
  readonly sides: readonly Side[];
  /** True for a call that only the peer's library could answer: nothing passes the way. */
  readonly isBlocked: boolean;
  readonly call: (session: AnySession, requests: readonly Heard[]) => Promise<unknown>;
}

/** The request that a handler of this end got. */
interface Heard {
  readonly signal: AbortSignal;
}

const BOTH = ["client", "server"] as const;

/** All waits, each of which is alone in its session. */
const WAITS: Readonly<Record<string, Wait>> = {
  ping: { sides: BOTH, isBlocked: true, call: (session) => session.ping() },
  request: { sides: BOTH, isBlocked: false, call: (session) => session.request("hold") },
  "request that is on its way": {
    sides: BOTH,
    isBlocked: true,
    call: (session) => session.request("hold"),
  },
  answer: {
    sides: BOTH,
    isBlocked: false,
    call: (session) => Array.fromAsync(session.requestStream("hold")),
  },
  token: {
    sides: ["client"],
    isBlocked: true,
    call: (session) => session.authenticate("guest"),
  },
  subscription: {
    sides: ["client"],
    isBlocked: true,
    call: (session) => session.subscribe("talk:lone"),
  },
  publication: {
    sides: ["client"],
    isBlocked: false,
    call: (session) => session.publish("talk:lone"),
  },
  "handler of a request": {
    sides: BOTH,
    isBlocked: false,
    call: (_session, [heard]) => heard === undefined ? Promise.resolve() : aborted(heard),
  },
};

/** The reason of a signal, once aborted. */
function aborted({ signal }: Heard): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener("abort", () => reject(signal.reason));
  });
}

/**
 * Ends sessions, each of which has one call that waits.
 *
 * @param audit The audit.
 */
export async function auditLoneWaits(audit: Audit): Promise<void> {
  const random = audit.chanceOf("lone waits");
  const host = audit.host("lone-waits");
  const heard = new Map<string, Heard[]>();
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "guest" }) => token,
    // Publications wait for rights without an end.
    authorize: () => new Promise<never>(() => {}),
    session: { heartbeat: HEARTBEAT, closeTimeoutMs: CLOSE_MS },
    limits: { maxSessionsPerUser: Infinity },
    requests: {
      hold: ({ signal }: Heard, session: { readonly id: string }) => {
        noteIn(heard, `server ${session.id}`, { signal });
        return new Promise(() => {});
      },
    } as never,
    onError() {},
  }));
  await Promise.all(
    Object.keys(WAITS).map((name, i) =>
      auditWait({ audit, random, host, server, heard, name, number: i })
    ),
  );
  await server.close();
}

function noteIn(heard: Map<string, Heard[]>, end: string, one: Heard): void {
  heard.set(end, [...heard.get(end) ?? [], one]);
}

/** Connects a client, lets one end wait, ends the session, and examines the outcome. */
async function auditWait(
  { audit, random, host, server, heard, name, number }: {
    readonly audit: Audit;
    readonly random: () => number;
    readonly host: Host;
    readonly server: Server<string>;
    readonly heard: Map<string, Heard[]>;
    readonly name: string;
    readonly number: number;
  },
): Promise<void> {
  const machine = audit.host(`lone-waiter${number}`);
  const client = audit.connect(`lone-waiter${number}`, host, {
    transports: [oneOf(random, ["websocket", "websocket", "webtransport"] as const)],
    closeTimeoutMs: CLOSE_MS,
    requests: {
      hold: ({ signal }: Heard, session: { readonly id: string }) => {
        noteIn(heard, `client ${session.id}`, { signal });
        return new Promise(() => {});
      },
    } as never,
    onError() {},
  });
  const { sides, isBlocked, call } = WAITS[name]!;
  const side = oneOf(random, sides);
  const ways = isBlocked ? WAYS.filter((way) => way !== "close of the peer") : WAYS;
  const way = oneOf(random, ways);
  const farOf = () => server.manager.all().find(({ id }) => id === client.session?.id);
  await audit.until(() => client.isConnected && farOf() !== undefined);
  const near = client.session!;
  const far = farOf() as AnySession | undefined;
  if (far === undefined) return audit.examine("waits", "session of a wait", "one", "none");
  const [session, peer] = side === "client" ? [near, far] : [far, near];
  if (name === "handler of a request") {
    peer.request("hold").catch(() => {});
    await audit.until(() => heard.has(`${side} ${session.id}`));
  }
  if (isBlocked) audit.block(machine, host);
  let error: unknown = "none";
  void call(session, heard.get(`${side} ${session.id}`) ?? []).then(
    () => error = "fulfilled",
    (reason) => error = reason,
  );
  await audit.pause(between(random, 0, BEFORE_MS));
  const about = `(${name} at the ${side}, ${way} over ${near.transport})`;
  if (way === "close of this end") void session.close();
  if (way === "close of the peer") void peer.close({ code: 3_100 });
  if (way === "reset") audit.cut(machine);
  if (way === "silence") audit.block(machine, host);
  const info = await audit.inTime(session.closed, END_MS, undefined);
  await audit.pause(TRIP_MS);
  const ended = `closed ${info?.code} by ${info?.by}`;
  const received = error instanceof SessionClosedError
    ? `closed ${error.info?.code} by ${error.info?.by}`
    : `${error}`;
  audit.examine("waits", `the only wait ${about}`, ended, received);
  audit.examine("waits", `answers awaited ${about}`, 0, session.stats.awaitedAnswers);
  audit.block(machine, host, false);
  await client.close();
}
