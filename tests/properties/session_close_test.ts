/**
 * Sessions that close or break. The property compares what each side receives and how waiting calls
 * settle.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { CloseCode, type CloseInfo, SessionClosedError } from "../../errors.ts";
import { prometheusText } from "../../server.ts";
import { internals } from "../../session/session.ts";
import type { Host } from "../simulator/mod.ts";
import { FINAL, nameAfter } from "../simulation/closes.ts";
import type { Drawn } from "./draw.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { type Carrier, CARRIERS, type Ends, type World } from "./world.ts";

/** The server's heartbeat. The client uses it too. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 3_000 } as const;

/** Time that each side has to flush before a close, in milliseconds. */
const CLOSE_MS = 1_000;

/**
 * Time until both sides know that the session has ended without a fault, in milliseconds. HTTP
 * needs one more request.
 */
const KNOWN_MS = { near: 500, http: 1_200 } as const;

/** Time until an end drops a silent peer, in milliseconds. */
const SILENCE_MS = 4_200;

/**
 * Time until a peer knows of a close that is followed by a fault, or times out, in milliseconds.
 */
const FAULT_MS = 7_500;

type Side = "client" | "server";
const SIDES = ["client", "server"] as const;

/** A session as one end uses it. */
type Used = Ends["near"] | Ends["far"];

/** A call and its outcomes. */
interface Call {
  readonly call: (session: Used) => Promise<unknown>;
  /** Outcomes of a call while the session ends. Without an outcome, the call is not made then. */
  readonly early: readonly string[];
  /** Outcomes after the session has ended. */
  readonly late: readonly string[];
  /** True for a call that waits as long as the session lasts. */
  readonly waits?: boolean;
  /** True for a call that only clients can make. */
  readonly isOfClient?: boolean;
}

const CLOSED = "SessionClosedError";
const EITHER = ["fulfilled", CLOSED];

/** Returns a call that waits as long as the session lasts. */
function waiting(call: Call["call"]): Call {
  return { call, early: [CLOSED], late: [CLOSED], waits: true };
}

/** Returns such a call for a client. */
function waitingOfClient(call: (session: Ends["near"]) => Promise<unknown>): Call {
  return { ...waiting((session) => call(session as Ends["near"])), isOfClient: true };
}

/** Returns a call that resolves when the session ends. */
function ending(call: Call["call"], ...early: string[]): Call {
  return { call, early, late: ["fulfilled"] };
}

/** Calls that either side can make. */
const CALLS: Readonly<Record<string, Call>> = {
  request: waiting((one) => one.request("hold")),
  items: waiting((one) => Array.fromAsync(one.requestStream("hold"))),
  subscription: waitingOfClient((one) => one.subscribe("talk")),
  publication: waitingOfClient((one) => one.publish("talk", 0)),
  presence: waitingOfClient((one) => one.presence("room", 0)),
  token: waitingOfClient((one) => one.authenticate("again")),
  closed: ending((one) => one.closed),
  close: ending((one) => one.close()),
  drain: ending((one) => one.drain()),
  flushed: ending((one) => one.flushed(), "fulfilled"),
  // A server's session is ready immediately, and has no such promise.
  ready: { call: (one) => one.whenReady(), early: EITHER, late: EITHER },
  health: ending((one) => Array.fromAsync(one.monitorHealth()), "fulfilled"),
  streams: ending((one) => Array.fromAsync(one.incomingStreams())),
  ping: { call: (one) => one.ping(), early: EITHER, late: [CLOSED] },
  datagram: {
    call: (one) => one.sendDatagram(new Uint8Array(1)),
    early: EITHER,
    late: [CLOSED],
  },
  stream: {
    call: (one) => one.createBidirectionalStream().then(({ readable }) => drained(readable)),
    early: ["fulfilled", "ConnectionError", "StreamError"],
    late: ["ConnectionError"],
  },
  "stream of one direction": {
    call: (one) => one.createUnidirectionalStream().then((stream) => stream.getWriter().closed),
    early: ["fulfilled", "ConnectionError", "StreamError"],
    late: ["ConnectionError"],
  },
};
const NAMES = Object.keys(CALLS);

/** Code and reason of a close. */
const close = fc.record({
  code: fc.constantFrom(CloseCode.normal, 3_000, 4_000, 4_999, ...FINAL),
  reason: fc.constantFrom("", "enough"),
});

/** Events that end the session. */
const ends = [
  "client closes",
  "server closes",
  "both close",
  "reset",
  "reset that only the client sees",
  "reset that only the server sees",
  "client dies",
  "client loses power",
] as const;

/** Faults before a close or some milliseconds after it. */
const faults = [
  "none",
  "lost network",
  "no answer",
  "no answer, then death",
  "silent cut",
  "death",
] as const;

/** Messages before the end, by size in bytes. */
const messages = fc.array(fc.constantFrom(10, 20_000), { maxLength: 6 });

/** Calls of one end that wait. */
const waits = (side: Side) =>
  fc.subarray(NAMES.filter((name) => CALLS[name]!.waits && hasCall(side, name, "websocket")));

const cases = fc.record({
  carrier: fc.constantFrom(...CARRIERS),
  end: fc.constantFrom(...ends),
  fault: fc.constantFrom(...faults),
  /** Time between a close and a fault, in milliseconds. */
  faultMs: fc.nat(40),
  /** Duration of the session, in milliseconds. */
  beforeMs: fc.nat(1_500),
  closes: fc.record({ client: close, server: close }),
  messages: fc.record({ client: messages, server: messages }),
  waits: fc.record({ client: waits("client"), server: waits("server") }),
  /** Time that the client needs to load the code for streams, in milliseconds. */
  loadMs: fc.constantFrom(0, 5, 100),
  /** Calls in the turn in which the session ends, after some microtasks. */
  calls: fc.array(
    fc.record({
      side: fc.constantFrom(...SIDES),
      name: fc.constantFrom(...NAMES.filter((name) => CALLS[name]!.early.length > 0)),
      steps: fc.nat(12),
    }),
    { maxLength: 6 },
  ),
});

type Case = Drawn<typeof cases>;

/**
 * Replaces ends that are impossible on a transport. For example, over HTTP, a client resends what
 * was lost in a fault.
 */
function shownIn({ carrier, end, fault }: Case): Pick<Case, "end" | "fault"> {
  if (carrier === "http") {
    return { end: end.startsWith("reset") ? "server closes" : end, fault: "none" };
  }
  // With this store, the model of a page's socket keeps a connection whose other side is silent.
  if (carrier === "hardened" && /only the server/.test(end)) return { end: "reset", fault: "none" };
  if (!end.endsWith("closes")) return { end, fault: "none" };
  // Only a message stream confirms its end.
  const isStream = carrier === "webtransport" || carrier === "http3";
  return { end, fault: fault.startsWith("no answer") && !isStream ? "none" : fault };
}

class End {
  readonly got: number[] = [];
  info: CloseInfo | undefined;
  endedMs = Infinity;
  readonly waits = new Map<string, unknown>();

  constructor(world: World, readonly side: Side, readonly session: Used) {
    void session.closed.then((info) => {
      this.info = info;
      this.endedMs = world.nowMs;
    });
  }

  /** Records the error of a waiting call. */
  wait(name: string, call: Promise<unknown>): void {
    this.waits.set(name, "no end");
    call.then(() => this.waits.set(name, "fulfilled"), (error) => this.waits.set(name, error));
  }
}

/**
 * Returns how and until when a session may end on one side, according to docs/protocol.md 15 and
 * 16.9.
 */
function expectedOf(one: Case, side: Side): {
  readonly infos: readonly (Pick<CloseInfo, "by" | "code"> & { readonly reason?: string })[];
  readonly withinMs: number;
} {
  const { carrier, closes } = one;
  const { end, fault } = shownIn(one);
  const isStream = carrier === "webtransport" || carrier === "http3";
  const knownMs = carrier === "http" ? KNOWN_MS.http : KNOWN_MS.near;
  const lost = { by: "network", code: CloseCode.abnormal } as const;
  const silent = { by: "network", code: CloseCode.timedOut } as const;
  const own = { by: "local", ...closes[side] } as const;
  if (end === "both close") return { infos: [own], withinMs: knownMs };
  if (end.endsWith("closes")) {
    const closer = end.split(" ")[0] as Side;
    if (closer === side) return { infos: [own], withinMs: fault === "none" ? knownMs : 2_500 };
    const heard = { by: "remote", ...closes[closer] } as const;
    if (fault === "none") return { infos: [heard], withinMs: knownMs };
    if (fault === "no answer") return { infos: [heard], withinMs: 1_900 };
    // The code follows the last message. A client that misses it reconnects, but a server does not.
    const unknown = { by: "remote", code: CloseCode.normal, reason: "" } as const;
    const missed = side === "client" ? lost : unknown;
    if (fault === "no answer, then death") {
      // QUIC also waits for a dead peer to confirm the close. This takes longer than a heartbeat's
      // timeout.
      return carrier === "http3"
        ? { infos: [missed, silent], withinMs: SILENCE_MS }
        : { infos: [missed], withinMs: 2_600 };
    }
    const isLost = fault === "lost network";
    return {
      infos: [lost, silent, ...isLost ? [] : [heard, ...isStream ? [missed] : []]],
      withinMs: FAULT_MS,
    };
  }
  const hears = end === "reset" ||
    end === `reset that only the ${side} sees` ||
    end === "client dies" && (carrier === "websocket" || carrier === "hardened");
  return hears
    ? { infos: [lost], withinMs: knownMs }
    : { infos: [silent, ...carrier === "http3" ? [lost] : []], withinMs: SILENCE_MS };
}

property("both sides of a session report how it closed, and all waiting calls fail with it", {
  cases,
  async check(world, one) {
    const { carrier, calls } = one;
    const { end, fault } = shownIn(one);
    const got: Readonly<Record<Side, number[]>> = { client: [], server: [] };
    const take = (side: Side) => ({ data }: { readonly data: unknown }) => {
      got[side].push((data as { readonly n: number }).n);
    };
    const never = () => new Promise<never>(() => {});
    const { transports } = world.carry(carrier);
    let closes: Record<string, number> = {};
    const program = world.serve<string>("server", () => (closes = {}, {
      session: { heartbeat: HEARTBEAT, closeTimeoutMs: CLOSE_MS, concurrency: 16 },
      tokens: { inMessage: true },
      authenticate: ({ token = "ada" }) => token === "again" ? never() : token,
      userOf: (user) => user,
      authorize: never,
      rooms: ["room"],
      requests: { hold: never },
      onMessage: take("server"),
      onOpen: ({ closed }) =>
        void closed.then(({ code }) => closes[code] = (closes[code] ?? 0) + 1),
      onStream: (stream) => void ("readable" in stream && drained(stream.readable).catch(() => {})),
      onError() {},
    }));
    const client = world.connect("client", program.host, {
      transports,
      connectTimeoutMs: 2_000,
      closeTimeoutMs: CLOSE_MS,
      concurrency: 16,
      requests: { hold: never } as never,
      onMessage: take("client"),
      onError() {},
    });
    const sessions = await world.meet(client, program.server);
    const both = {
      client: new End(world, "client", sessions.near),
      server: new End(world, "server", sessions.far),
    };
    for (const side of SIDES) {
      for (const name of one.waits[side]) {
        both[side].wait(name, CALLS[name]!.call(both[side].session));
      }
    }
    world.network.slowLoads(world.host("client"), one.loadMs);
    await world.pause(one.beforeMs);
    for (const side of SIDES) {
      for (const [i, size] of one.messages[side].entries()) {
        both[side].session.send("number", {
          n: i,
          pad: "x".repeat(fault.startsWith("no answer") ? 10 : size),
        });
      }
    }
    const early = calls.filter(({ name, side }) =>
      hasCall(side, name, carrier) && !(side === "client" && /dies|power/.test(end))
    ).map(
      async (call) => {
        for (let left = call.steps; left > 0; left--) await Promise.resolve();
        const { session } = both[call.side];
        const wasOver = session.isClosed;
        return {
          ...call,
          wasOver,
          outcome: await outcomeOf(Promise.try(() => CALLS[call.name]!.call(session))),
        };
      },
    );
    const machine = world.host("client");
    const beganMs = world.nowMs;
    const alive = await strike(world, { end, fault, one, both, host: program.host, machine });
    await world.until(
      "the end on each side that runs",
      () => alive.every((side) => both[side].info !== undefined),
      FAULT_MS + CLOSE_MS,
    );
    world.network.heal();
    await world.pause(100);
    for (const side of alive) {
      checkEnd(both[side], { ...expectedOf(one, side), beganMs });
      checkMessages(one, { end: both[side], got: got[side] });
      await checkWaits(both[side]);
    }
    const results = Promise.all(early).then((all) =>
      all.filter(({ side }) => alive.includes(side))
    );
    if (alive.length === 2) {
      for (const { name, side, wasOver, outcome } of await world.inTime("early calls", results)) {
        const allowed = CALLS[name]![wasOver ? "late" : "early"];
        assert(allowed.includes(outcome), `${name} of the ${side} at the end: ${outcome}`);
      }
    }
    for (const side of alive) await checkLateCalls(world, both[side], carrier);
    if (alive.includes("client")) await checkReturn(world, { client, both, program });
    if (machine.isAlive) await client.close();
    if (!program.host.isAlive) program.restart();
    await world.until("no session", () => program.server.manager.count === 0, 30_000);
    await world.pause(30_000);
    for (const [name, value] of gaugesOf(program.server)) assertEquals(value, 0, name);
    const closed = prometheusText(program.server)
      .matchAll(/^skein_sessions_closed_total\{code="(\d+)"\} ([1-9]\d*)$/gm);
    assertEquals(Object.fromEntries(closed.map(([, code, n]) => [code, Number(n)])), closes);
  },
});

/**
 * Gauges of a server that count resources of sessions, except sockets that received no reply to
 * their close.
 */
function* gaugesOf(server: Parameters<typeof prometheusText>[0]): Generator<[string, number]> {
  let isCounted = false;
  for (const line of prometheusText(server).split("\n")) {
    const type = /^# TYPE skein_(\w+) (\w+)/.exec(line);
    if (type) isCounted = type[2] === "gauge" && !/peak|connected|listening|max$/.test(type[1]!);
    const [, name, value] = /^(skein\S+) (\S+)$/.exec(line) ?? [];
    if (isCounted && name !== undefined && !name.includes("sockets")) yield [name, Number(value)];
  }
}

/** Returns true if a side can make a call over a transport. */
function hasCall(side: Side, name: string, carrier: Carrier): boolean {
  if (side === "server" && CALLS[name]!.isOfClient) return false;
  return carrier !== "http" || !/stream|datagram/.test(name);
}

/** Ends the session and returns the sides whose programs are still running. */
async function strike(
  world: World,
  { end, fault, one, both, host, machine }: Pick<Case, "end" | "fault"> & {
    readonly one: Case;
    readonly both: Readonly<Record<Side, End>>;
    readonly host: Host;
    readonly machine: Host;
  },
): Promise<Side[]> {
  const closer = end.startsWith("server") ? "server" : "client";
  if (fault === "lost network") world.change(host, machine, { isBlocked: true });
  if (fault.startsWith("no answer")) {
    const path = closer === "server" ? [machine, host] as const : [host, machine] as const;
    world.network.change(...path, { isBlocked: true });
  }
  for (const side of SIDES) {
    if (end !== `${side} closes` && end !== "both close") continue;
    void both[side].session.close(one.closes[side]);
  }
  if (end === "reset") world.cut(machine);
  if (end === "reset that only the client sees") world.cut(machine, "server");
  if (end === "reset that only the server sees") world.cut(machine, "client");
  if (end === "client dies") machine.kill();
  if (end === "client loses power") machine.kill({ power: true });
  const alive = end.startsWith("client ") && !end.endsWith("closes") ? ["server" as const] : SIDES;
  if (!end.includes("close")) {
    // The end notices the loss later.
    for (const side of alive) {
      both[side].wait("late request", both[side].session.request("hold"));
      both[side].wait("ping", both[side].session.ping());
    }
  }
  if (fault === "none" || fault === "no answer") return [...alive];
  await world.pause(fault === "no answer, then death" ? 150 + 10 * one.faultMs : one.faultMs);
  if (fault.endsWith("death")) {
    (closer === "server" ? host : machine).kill();
    return [closer === "server" ? "client" : "server"];
  }
  world.cut(machine, fault === "silent cut");
  if (fault === "lost network") world.change(host, machine, { isBlocked: false });
  return [...alive];
}

function checkEnd(
  { side, session, info, endedMs }: End,
  { infos, withinMs, beganMs }: ReturnType<typeof expectedOf> & { readonly beganMs: number },
): void {
  const { by, code, reason } = info!;
  const isRight = infos.some((one) =>
    one.by === by && one.code === code && (one.reason ?? reason) === reason
  );
  const received = `${side}: ${by} ${code} "${reason}"`;
  assert(isRight, `expected one of ${JSON.stringify(infos)}, received ${received}`);
  assertEquals(session.state, "closed");
  assert(endedMs - beganMs <= withinMs, `${side}: ended after ${endedMs - beganMs} ms`);
}

/** Expects all messages from before a close to have arrived. A fault may lose the last messages. */
function checkMessages(one: Case, { end, got }: { readonly end: End; readonly got: number[] }) {
  const peer = end.side === "client" ? "server" : "client";
  const sent = range(0, one.messages[peer].length - 1);
  const { by, code } = end.info!;
  const isWhole = shownIn(one).end === `${peer} closes` && by === "remote" &&
    code === one.closes[peer].code && /^no/.test(shownIn(one).fault);
  assertEquals(got, isWhole ? sent : sent.slice(0, got.length), `messages at the ${end.side}`);
}

/**
 * Expects each wait to have failed with the session's reason, and expects that no new wait can
 * start.
 */
async function checkWaits({ session, info, waits, side }: End): Promise<void> {
  const expected = `closed ${info?.code} by ${info?.by}`;
  const outcome = (error: unknown) =>
    error instanceof SessionClosedError
      ? `closed ${error.info?.code} by ${error.info?.by}`
      : `${error}`;
  for (const [name, error] of waits) assertEquals(outcome(error), expected, `${name}, ${side}`);
  const sending = Promise.try(() => session.send("number", { n: 0 }));
  assertEquals(outcome(await sending.catch((error) => error)), expected);
}

/** Expects each call after the end to have its outcome, and expects no open resources. */
async function checkLateCalls(world: World, { side, session }: End, carrier: Carrier) {
  const outcomes = NAMES.filter((name) => hasCall(side, name, carrier)).map(async (name) => {
    const outcome = outcomeOf(Promise.try(() => CALLS[name]!.call(session)));
    return [name, await outcome] as const;
  });
  // A stream may open until the peer has confirmed the end, but the peer may be silent.
  const all = Promise.all(outcomes);
  for (const [name, outcome] of await world.inTime("late calls", all, 2_500)) {
    assert(CALLS[name]!.late.includes(outcome), `${name} of the ${side} after the end: ${outcome}`);
  }
  const { openRequests, pendingReplies } = session[internals].sending;
  const { replies } = session[internals].receiving;
  assertEquals({ openRequests, pendingReplies, replies: replies.size, leaving: replies.leaving }, {
    openRequests: 0,
    pendingReplies: 0,
    replies: 0,
    leaving: 0,
  }, side);
}

/** Expects the client to reconnect after recoverable ends and to stay closed after other ends. */
async function checkReturn(
  world: World,
  { client, both, program }: {
    readonly client: Client;
    readonly both: Readonly<Record<Side, End>>;
    readonly program: { readonly host: Host; restart(): void };
  },
): Promise<void> {
  const name = nameAfter(both.client.info!, true);
  if (name !== "reconnecting") return assertEquals(client.status.current.name, name);
  assert(!client.status.isEnded, "the client stays closed");
  if (!program.host.isAlive) program.restart();
  await world.until("another session", () => client.isConnected, 40_000);
}

/** Reads a stream to its end. */
async function drained(readable: ReadableStream<unknown>): Promise<void> {
  for await (const _ of readable);
}
