/** Timers of a separate server and of its clients: none outlives its session, and none is doubled. */
import type { Client } from "../../../../client/client.ts";
import { pause, waitFor } from "../../../../base/wait.ts";
import { AuthenticationError, CloseCode } from "../../../../errors.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import { between } from "../chance.ts";
import { type Audit, counted, type Expect, outcomeOf } from "./audit.ts";

/** Sessions at once. */
const SESSIONS = 3;

/** Most timers of a server for each session: the end of the token, and one of the connection. */
const TIMERS = { websocket: 1, webtransport: 2, http: 2 } as const;

/** Duration of a token, in milliseconds: longer than the audit. */
const TOKEN_MS = 600_000;

/** Time for messages under way, in milliseconds. */
const ROUND_MS = 100;

/** Time for which connections over HTTP are kept after the end, and presence, in milliseconds. */
const KEPT_MS = 6_500;

/** Time in which a client that is back comes to rest, in milliseconds. */
const BACK_MS = 1_000;

/** Topics of the sessions; a user stays in a room for a while after the end. */
const TOPICS = { websocket: "timers", webtransport: "room:timers", http: "room:timers" } as const;

/** Most waits on the signals of a program at once, and the longest time of one, in milliseconds. */
const [WAITS, WAIT_MS] = [6, 400] as const;

/**
 * Counts the timers with sessions, after new sessions of the same clients, and without sessions, and
 * what waits leave behind.
 *
 * @param audit The audit.
 */
export async function auditTimers(audit: Audit): Promise<void> {
  await Promise.all([auditSessions(audit), auditWaits(audit)]);
}

/** Counts what waits leave behind, on a signal that outlives these and on one that ends some. */
async function auditWaits(audit: Audit): Promise<void> {
  const random = audit.chanceOf("waits");
  const host = audit.host("timed-waits");
  const stop = new AbortController();
  const listeners = { count: 0 };
  const long = counted(new AbortController().signal, listeners);
  const short = counted(stop.signal, listeners);
  const count = Math.ceil(WAITS * random());
  const waits = Array.from({ length: count }, () => {
    const ms = between(random, 0, WAIT_MS);
    const end = audit.pause(between(random, 0, WAIT_MS));
    return random() < 0.5
      ? pause(host.runtime, ms, ...(random() < 0.5 ? [long] : [long, short]))
      : outcomeOf(waitFor(host.runtime, end, { what: "an end", timeoutMs: ms, signal: long }));
  });
  await audit.pause(between(random, 0, WAIT_MS));
  if (random() < 0.5) stop.abort();
  await Promise.all(waits);
  audit.examine("leaks", `listeners behind ${count} waits`, 0, listeners.count);
  audit.examine("leaks", `timers behind ${count} waits`, 0, await audit.timersOf(host));
}

/** Counts the timers of a server and of its clients. */
async function auditSessions(audit: Audit): Promise<void> {
  const host = audit.host("timed");
  const { runtime } = host;
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token }) => {
      if (token === undefined) throw new AuthenticationError("A token is needed");
      return token;
    },
    authorize: () => true,
    expiresAt: () => runtime.now() + TOKEN_MS,
    rooms: ["room:{name}"],
    presenceGraceMs: BACK_MS / 2,
    requests: { echo: ({ data }) => data },
    onError() {},
  }));
  const expect: Expect = (...outcome) => audit.examine("leaks", ...outcome);
  await audit.pause(ROUND_MS);
  const atFirst = await audit.timersOf(host);
  for (const transport of ["websocket", "webtransport", "http"] as const) {
    const counts: number[] = [];
    const clients: Client[] = [];
    for (let n = 0; n < SESSIONS; n++) {
      const client = audit.connect(`timed ${transport} ${n}`, host, { transports: [transport] });
      clients.push(client);
      const { ready } = client.subscribe(TOPICS[transport]);
      expect(`subscription over ${transport}`, "fulfilled", await outcomeOf(ready));
      expect(`request over ${transport}`, n, await client.request("echo", n));
      await audit.pause(ROUND_MS);
      counts.push(await audit.timersOf(host));
    }
    const most = counts[0]! + (SESSIONS - 1) * TIMERS[transport];
    const isBounded = counts.at(-1)! <= most;
    expect(`timers of ${SESSIONS} sessions over ${transport}, ${counts}`, true, isBounded);
    const machine = audit.host(`timed ${transport} 0`);
    const before = await audit.timersOf(machine);
    // Each client comes back.
    const { length } = await Promise.all(
      server.manager.all().map((session) => session.close({ code: CloseCode.draining })),
    );
    await audit.until(() => server.manager.count === length);
    await audit.pause(BACK_MS);
    const after = await audit.timersOf(machine);
    expect(`timers of a client over ${transport}, ${before}, then ${after}`, true, after <= before);
    await Promise.all(clients.map((client) => client.close()));
    if (transport !== "websocket") continue;
    // Nothing is kept of such a session, and all upgrades share one timer.
    await audit.pause(BACK_MS + ROUND_MS);
    const left = await audit.timersOf(host);
    expect(`${left} timers after sessions over ${transport}`, true, left <= atFirst + 1);
  }
  await audit.pause(KEPT_MS);
  expect("timers of a server without sessions", atFirst, await audit.timersOf(host));
  await server.close();
}
