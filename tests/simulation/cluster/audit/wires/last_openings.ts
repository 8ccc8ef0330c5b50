/** Streams that a program opens while the session ends: each call has an outcome. */
import type { Client } from "../../../../../client/client.ts";
import { CloseCode } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import { type AnySession, type Audit, outcomeOf } from "../audit.ts";

/** Name of the client, and of the server. */
const NAME = "last-openings";

/** Ends of a session. */
const ENDS = ["this end closes", "the other end closes", "a cut", "a silent cut"] as const;

/** Most steps of promises, and longest time between an opening and the end, in milliseconds. */
const [MOST_STEPS, SOON_MS] = [6, 4] as const;

/** Times in which a client loads the code for streams, in milliseconds. */
const LOADS_MS = [0, 5, 100] as const;

/** Longest time until a session is gone, and until all calls have an outcome, in milliseconds. */
const [GONE_MS, OUTCOME_MS] = [6_000, 1_000] as const;

/** Heartbeat of the server, which the client follows. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 3_000 } as const;

/** Calls that open or take streams and datagrams. */
const CALLS: readonly ((session: AnySession) => Promise<unknown>)[] = [
  (session) => session.createBidirectionalStream().then(({ readable }) => drained(readable)),
  (session) => session.createBidirectionalStream().then(({ readable }) => drained(readable)),
  (session) => session.createUnidirectionalStream().then((stream) => stream.getWriter().closed),
  (session) => Array.fromAsync(session.incomingStreams()),
  (session) => drained(session.datagrams.readable),
];

/**
 * Opens streams at the end of sessions, as the first ones of these.
 *
 * @param audit The audit.
 */
export async function auditLastOpenings(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const host = audit.host(`${NAME}-server`);
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    session: { heartbeat: HEARTBEAT },
    onStream: (stream) => void ("readable" in stream && drained(stream.readable).catch(() => {})),
    onError() {},
  }));
  for (const end of shuffled(random, ENDS)) {
    const transport = random() < 0.8 ? "websocket" : "webtransport";
    const client: Client = audit.connect(NAME, host, {
      token: undefined,
      transports: transport === "websocket" ? [transport] : [transport, "websocket"],
      backoff: { firstDelayMs: 20, maxDelayMs: 100 },
      onError() {},
    });
    const { near, far } = await audit.meet(client, server);
    const isNear = random() < 0.7;
    const [session, other]: AnySession[] = isNear ? [near, far] : [far, near];
    // The first stream of a client over WebSocket waits for code to load.
    audit.network.slowLoads(audit.host(NAME), oneOf(random, LOADS_MS));
    let left = 0;
    const calls = CALLS.filter(() => random() < 0.6).map((call) => {
      left++;
      return outcomeOf(Promise.try(() => call(session!))).finally(() => left--);
    });
    if (random() < 0.5) await audit.pause(between(random, 0, SOON_MS));
    else for (let n = Math.floor(MOST_STEPS * random()); n > 0; n--) await Promise.resolve();
    if (end === "this end closes") void session!.close({ code: oneOf(random, CODES) });
    else if (end === "the other end closes") void other!.close({ code: oneOf(random, CODES) });
    else audit.cut(audit.host(NAME), end === "a silent cut");
    const gone = audit.inTime(session!.closed.then(() => true), GONE_MS, false);
    const about = `over ${near.transport}, ${isNear ? "client" : "server"}, ${end}`;
    audit.examine("flows", `end of a session with openings ${about}`, true, await gone);
    await audit.inTime(Promise.all(calls), OUTCOME_MS, undefined);
    audit.examine("flows", `calls without an outcome ${about}`, 0, left);
    await client.close();
    await audit.until(() => server.manager.count === 0);
  }
  await server.close();
}

/** Codes of a close. */
const CODES = [CloseCode.normal, 3_000, 4_000] as const;

/** Reads all of a stream. */
async function drained(readable: ReadableStream<unknown>): Promise<void> {
  for await (const _ of readable);
}
