/** Beginnings at about the end: sessions on ended connections, and calls on ended sessions. */
import { CloseCode, type CloseInfo } from "../../../../../errors.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Connection } from "../../../../../transport/connection.ts";
import { memoryPair } from "../../../../../transport/memory/memory.ts";
import { checkTransports } from "../../../../../transport/race/options.ts";
import { Session, SKEIN_PROTOCOL } from "../../../../../session/session.ts";
import { sessionSettings } from "../../../../../session/session_settings.ts";
import { between, oneOf } from "../../chance.ts";
import { type AnySession, type Audit, type Expect, outcomeOf } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";

/** Longest time between the end and a beginning, and share of beginnings in the turn of the end. */
const [BEHIND_MS, SAME_TURN_SHARE] = [40, 0.5] as const;

/** Most steps of promises between the end and a beginning in the same turn. */
const MAX_STEPS = 12;

/** Time until both sides know of an end, also over HTTP, and until a late session or call has ended. */
const [HEARD_MS, LATE_MS] = [1_500, 100] as const;

/** Most messages of the server before the end. */
const MESSAGES = 4;

/** Codes of a close by the server. */
const CODES = [CloseCode.normal, CloseCode.draining, 3_000, 4_000] as const;

/** Transports of connections on which sessions begin late. */
const TRANSPORTS = ["websocket", "webtransport", "http", "memory"] as const;

/** Reason of an aborted signal. */
const ENOUGH = new DOMException("Enough", "AbortError");

/** Ways in which a session ends, while and after which programs call both ends. */
const WAYS = ["client closes", "server closes", "both close", "reset"] as const;

/**
 * Begins sessions on connections that end, and calls sessions at about their end.
 *
 * @param audit The audit.
 */
export async function auditLateBegins(audit: Audit): Promise<void> {
  const random = audit.chanceOf("late");
  await Promise.all([
    auditLateSession(audit, { transport: oneOf(random, TRANSPORTS), number: 0 }),
    auditLateSession(audit, { transport: oneOf(random, TRANSPORTS), number: 1 }),
    auditLateCalls(audit, random),
  ]);
}

/** A session that begins on a connection at about its end gets the messages before, and the close. */
async function auditLateSession(
  audit: Audit,
  { transport, number }: { readonly transport: typeof TRANSPORTS[number]; readonly number: number },
): Promise<void> {
  const random = audit.chanceOf(`late ${number}`);
  const [host, machine] = [audit.host(`late-host${number}`), audit.host(`late-user${number}`)];
  const { near, end, close } = transport === "memory"
    ? memoryEnds(machine, random)
    : await dialedEnds(audit, { transport, host, machine, random });
  const sent = await end();
  let info: Partial<CloseInfo> | undefined;
  let isOver = false;
  const over = near.closed.then(() => isOver = true, () => isOver = true);
  if (random() < 0.8) await audit.inTime(over, HEARD_MS, undefined);
  await delay(audit, random);
  const wasOver = isOver;
  const beganMs = audit.nowMs;
  const got: number[] = [];
  const session = new Session(near, sessionSettings({ side: "client", runtime: machine.runtime }));
  void session.closed.then((last) => info = last);
  const isReady = outcomeOf(session.ready);
  const request = outcomeOf(session.request("hold"));
  const loop = outcomeOf((async () => {
    for await (const { data } of session) got.push((data as { readonly n: number }).n);
  })());
  await audit.until(() => info !== undefined, HEARD_MS);
  const about = `(${transport}, ${wasOver ? "ended before" : "ends at once"})`;
  const expect: Expect = (what, ...values) =>
    audit.examine("waits", `${what} of a session that began late ${about}`, ...values);
  expect("end", close, info && pick(info, close));
  const mostMs = wasOver ? LATE_MS : HEARD_MS;
  expect(`end within ${mostMs} ms`, true, audit.nowMs - beganMs <= mostMs);
  expect("state", "closed", session.state);
  expect("loop", "fulfilled", await audit.inTime(loop, LATE_MS, "none"));
  expect("request", "SessionClosedError", await audit.inTime(request, LATE_MS, "none"));
  const ready = await audit.inTime(isReady, LATE_MS, "none");
  expect("readiness", true, ready === "fulfilled" || ready === "SessionClosedError");
  if (sent !== undefined) expect("messages", range(1, sent), got);
}

/** A connection of a client, and its end. */
interface Ends {
  readonly near: Connection;
  /** Ends the connection; tells the number of messages before, if all of these have to arrive. */
  readonly end: () => Promise<number | undefined>;
  /** The expected close. */
  readonly close: Partial<CloseInfo>;
}

/** A connection to a session of a server. */
async function dialedEnds(
  audit: Audit,
  { transport, host, machine, random }: {
    readonly transport: Exclude<typeof TRANSPORTS[number], "memory">;
    readonly host: Host;
    readonly machine: Host;
    readonly random: () => number;
  },
): Promise<Ends> {
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    onError() {},
  }));
  const dial = audit.network.dialer(machine, checkTransports({ transports: [transport] }));
  const near = await dial(`https://${host.name}/`, {
    runtime: machine.runtime,
    protocols: [SKEIN_PROTOCOL],
    signal: new AbortController().signal,
    timeoutMs: HEARD_MS,
  });
  await audit.until(() => server.manager.count === 1);
  const [far] = server.manager.all() as Session[];
  await audit.pause(between(random, 0, BEHIND_MS));
  // A reset does not end a session over HTTP: the client asks again.
  if (transport !== "http" && random() < 0.3) {
    const close = { by: "network", code: CloseCode.abnormal } as const;
    return { near, end: () => Promise.resolve(void audit.cut(machine)), close };
  }
  const close = { by: "remote", code: oneOf(random, CODES), reason: `late ${random()}` } as const;
  return { near, end: () => sendAndClose(far!, close, random), close };
}

/** Both ends of a connection in memory. */
function memoryEnds({ runtime }: Host, random: () => number): Ends {
  const { client: near, server, link } = memoryPair({ runtime, random });
  if (random() < 0.5) {
    const close = { by: "network", code: CloseCode.abnormal } as const;
    return { near, end: () => Promise.resolve(void link.disconnect()), close };
  }
  const close = { by: "remote", code: oneOf(random, CODES), reason: "late" } as const;
  const far = new Session(server, sessionSettings({ side: "server", runtime }));
  return { near, end: () => sendAndClose(far, close, random), close };
}

/** Sends some messages, then closes the session; tells the number of messages. */
function sendAndClose(
  session: Session,
  { code, reason }: { readonly code: number; readonly reason: string },
  random: () => number,
): Promise<number> {
  const count = Math.floor(MESSAGES * random());
  for (let n = 1; n <= count; n++) session.send("number", { n });
  void session.close({ code, reason });
  return Promise.resolve(count);
}

/** A call of a program on a session, and its outcome. */
interface Call {
  readonly name: string;
  readonly side: "client" | "server";
  /** True if the session was over before the call. */
  readonly wasOver: boolean;
  outcome: string;
}

/** Calls on both ends of a session at about the close, and behind it: each call ends. */
async function auditLateCalls(audit: Audit, random: () => number): Promise<void> {
  const [host, machine] = [audit.host("late-calls"), audit.host("late-caller")];
  const way = oneOf(random, WAYS);
  const transport = oneOf(random, ["websocket", "webtransport"] as const);
  const never = () => new Promise<never>(() => {});
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    authorize: never,
    rooms: ["room"],
    requests: { hold: never },
    onError() {},
  }));
  const client = audit.connect("late-caller", host, {
    token: undefined,
    transports: [transport],
    requests: { hold: never } as never,
    onError() {},
  });
  const { near, far } = await audit.meet(client, server);
  const sides = [["client", near], ["server", far]] as const;
  const calls: Call[] = [];
  // In some audits no call awaits the close before it comes.
  const isAwaited = random() < 0.5;
  const begin = (side: Call["side"], session: AnySession, name: string) => {
    const wasOver = session.isClosed;
    const call: Call = { name, side, wasOver, outcome: "none" };
    calls.push(call);
    void outcomeOf(callsOf(session)[name]!()).then((outcome) => call.outcome = outcome);
  };
  await auditAbortedCalls(audit, near, random);
  await audit.pause(between(random, 0, BEHIND_MS));
  const code = oneOf(random, CODES);
  if (way === "client closes" || way === "both close") void near.close({ code });
  if (way === "server closes" || way === "both close") void far.close({ code });
  if (way === "reset") audit.cut(machine);
  for (let turn = 0; turn < 2; turn++) {
    for (const [side, session] of sides) {
      for (const name of Object.keys(callsOf(session))) {
        const mayBegin = (side === "client" || !isOfClients(name)) && (isAwaited || !isEnd(name));
        if (mayBegin && !isExclusive(name) && random() < 0.3) begin(side, session, name);
      }
    }
    await delay(audit, random);
  }
  await audit.until(() => near.isClosed && far.isClosed);
  await delay(audit, random);
  for (const [side, session] of sides) {
    for (const name of Object.keys(callsOf(session))) begin(side, session, name);
  }
  await audit.pause(LATE_MS);
  const about = `(${way}, ${transport})`;
  for (const { name, side, wasOver, outcome } of calls) {
    const when = wasOver ? "behind" : "at about";
    const what = `${name} ${when} the end of the ${side} ${about}`;
    const right = outcomesOf(name, wasOver);
    const expected = right.join(" or ");
    audit.examine("waits", what, expected, right.includes(outcome) ? expected : outcome);
  }
  // Later closes by the same side change nothing.
  for (const [side, session] of sides) {
    if (way !== `${side} closes` && way !== "both close") continue;
    const last = await audit.inTime(session.closed, LATE_MS, undefined);
    const received = [last?.by, last?.code];
    audit.examine("waits", `close by the ${side} ${about}`, ["local", code], received);
  }
  await client.close();
  // A session that the client was about to begin anew closes its connection within a second.
  await audit.pause(HEARD_MS);
  const timers = await audit.timersOf(machine);
  audit.examine("waits", `timers behind late calls ${about}`, 0, timers);
  await server.close();
}

/** Calls with a signal that is aborted before, or soon: each ends at once, and the session goes on. */
async function auditAbortedCalls(
  audit: Audit,
  session: AnySession,
  random: () => number,
): Promise<void> {
  const callAll = (signal: AbortSignal, when: string) =>
    Promise.all(
      Object.entries(callsWith(signal, session)).map(async ([name, call]) =>
        [name + when, await audit.inTime(outcomeOf(call()), LATE_MS, "none")] as const
      ),
    );
  const aborted = await callAll(AbortSignal.abort(ENOUGH), "");
  const stop = new AbortController();
  const soon = callAll(stop.signal, " soon");
  await audit.pause(between(random, 0, BEHIND_MS));
  stop.abort(ENOUGH);
  for (const [name, outcome] of [...aborted, ...await soon]) {
    const isEnded = outcome === "AbortError: Enough" || outcome === "fulfilled" && mayPass(name);
    audit.examine("waits", `${name} by an aborted signal, ${outcome}`, true, isEnded);
  }
  audit.examine("waits", "session behind aborted signals", "connected", session.state);
}

/**
 * True for a loop, which may end without an error, and for a call that may succeed before its signal is
 * aborted.
 */
function mayPass(name: string): boolean {
  return /^(streams|health)|^(whenReady|ping) soon$/.test(name);
}

/** True for a loop of which there is one at a time. */
function isExclusive(name: string): boolean {
  return name === "streams" || name === "messages";
}

/** True for a call that resolves with the end of the session. */
function isEnd(name: string): boolean {
  return name === "closed" || name === "close" || name === "drain";
}

/** True for a call that only servers answer: a client refuses the call while the session is open. */
function isOfClients(name: string): boolean {
  return ["subscription", "leave", "publication", "presence"].includes(name);
}

/** All calls that wait for the peer, or for the end. */
function callsOf(session: AnySession): Readonly<Record<string, () => Promise<unknown>>> {
  const read = async (loop: () => AsyncIterable<unknown>) => void await Array.fromAsync(loop());
  const one = session as Session;
  return {
    closed: () => one.closed,
    ready: () => one.ready,
    whenReady: () => one.whenReady(),
    request: () => one.request("hold"),
    answer: () => read(() => one.requestStream("hold")),
    subscription: () => one.subscribe("topic"),
    leave: () => one.unsubscribe("topic"),
    publication: () => one.publish("topic", 1),
    presence: () => one.presence("room", 1),
    ping: () => one.ping(),
    flushed: () => one.flushed(),
    datagram: () => one.sendDatagram(new Uint8Array(1)),
    stream: () => one.createBidirectionalStream(),
    "stream one way": () => one.createUnidirectionalStream(),
    streams: () => read(() => one.incomingStreams()),
    messages: () => read(() => one),
    health: () => read(() => one.monitorHealth()),
    close: () => one.close(),
    drain: () => one.drain(),
  };
}

/** Calls that a signal ends. */
function callsWith(
  signal: AbortSignal,
  session: AnySession,
): Readonly<Record<string, () => Promise<unknown>>> {
  const one = session as Session;
  return {
    whenReady: () => one.whenReady({ signal }),
    request: () => one.request("hold", 0, { signal }),
    answer: () => Array.fromAsync(one.requestStream("hold", 0, { signal })),
    subscription: () => one.subscribe("topic", { signal }),
    publication: () => one.publish("topic", 1, { signal }),
    presence: () => one.presence("room", 1, { signal }),
    ping: () => one.ping({ signal }),
    streams: () => Array.fromAsync(one.incomingStreams({ signal })),
    health: () => Array.fromAsync(one.monitorHealth({ signal })),
  };
}

/** Outcomes of a call behind the end of the session, or at about that end. */
function outcomesOf(name: string, wasOver: boolean): readonly string[] {
  const closed = "SessionClosedError";
  switch (name) {
    case "closed":
    case "close":
    case "drain":
    case "streams":
    case "messages":
    case "health":
    case "flushed":
      return ["fulfilled"];
    case "ready":
    case "whenReady":
      return ["fulfilled", closed];
    case "stream":
    case "stream one way":
      return wasOver ? ["ConnectionError"] : ["ConnectionError", "fulfilled"];
    case "datagram":
    case "ping":
      return wasOver ? [closed] : [closed, "fulfilled"];
    default:
      return [closed];
  }
}

/** Waits some steps of promises, or some time. */
async function delay(audit: Audit, random: () => number): Promise<void> {
  if (random() >= SAME_TURN_SHARE) return await audit.pause(between(random, 0, BEHIND_MS));
  for (let left = Math.floor(MAX_STEPS * random()); left > 0; left--) await Promise.resolve();
}

/** The members of a close that are expected. */
function pick(info: Partial<CloseInfo>, expected: Partial<CloseInfo>): Partial<CloseInfo> {
  const { by, code, reason } = info;
  return { by, code, ...("reason" in expected && { reason }) } as Partial<CloseInfo>;
}
