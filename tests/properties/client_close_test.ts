/**
 * Clients that close in any state. Everything that the program waits for must settle, and nothing
 * may leak.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { pause } from "../../base/wait.ts";
import type { Client } from "../../client/client.ts";
import { AuthenticationError, CloseCode } from "../../errors.ts";
import type { Server } from "../../server.ts";
import type { Host } from "../simulator/mod.ts";
import { type Drawn, keyOf, maybe, transport } from "./draw.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import { byToken, type World } from "./world.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";
import { resumable } from "../../streams/mod.ts";

/**
 * Maximum time that a message, a close without a reply and a connection attempt take, in
 * milliseconds.
 */
const [TRIP_MS, CLOSE_MS, DIAL_MS] = [60, 400, 300] as const;

/** Ways in which the program itself closes the client. */
const OWN = ["close", "signal", "dispose", "close of the session"] as const;

/** States of a client, with the ways in which it can end in each state. */
const STATES = {
  connected: [...OWN, "normal close by the server", "forbidden"],
  "never connected": [...OWN.slice(0, 3), "unauthenticated", "no attempt left"],
  lost: [...OWN.slice(0, 3), "unauthenticated", "no attempt left"],
} as const;

type End = typeof STATES[keyof typeof STATES][number];

/** Close codes of the server. */
const SERVER_CODES: Readonly<Partial<Record<End, number>>> = {
  "normal close by the server": CloseCode.normal,
  forbidden: CloseCode.forbidden,
};

/** The status, code and origin after each end. */
const STATUSES: Readonly<Partial<Record<End, readonly unknown[]>>> = {
  "normal close by the server": ["closed", CloseCode.normal, "remote"],
  forbidden: ["rejected", CloseCode.forbidden, "remote"],
  unauthenticated: ["rejected", CloseCode.unauthenticated, "remote"],
  "no attempt left": ["closed", CloseCode.abnormal, "network"],
};

const never = () => new Promise<never>(() => {});

/** Calls that the server never answers. */
const CALLS = {
  connection: (client, signal) => client.whenConnected({ signal }),
  request: (client, signal) => client.request("hold", 0, { signal }),
  "request with retry": (client, signal) => client.request("hold", 0, { signal, retry: true }),
  publication: (client, signal) => client.publish("slow:topic", 0, { signal }),
  presence: (client, signal) => client.presence("slow:room", 0, { signal }),
  outbox: (client, signal) => {
    client.send("work", 0);
    return client.flushed({ signal });
  },
  items: (client, signal) => Array.fromAsync(client.requestStream("items", 0, { signal })),
  "kept items": (client, signal) =>
    Array.fromAsync(
      client.requestStream("keep", 0, { id: `kept-${ids++}`.padEnd(16, "x"), signal }),
    ),
  "durable stream": (client, signal) => Array.fromAsync(client.durableStream("log", { signal })),
  subscription: (client) => Array.fromAsync(client.subscribe("talk")),
  history: (client) => Array.fromAsync(client.subscribe("kept")),
  "subscription to come": (client) => client.subscribe("slow:topic").ready,
  status: (client) => Array.fromAsync(client.status),
  messages: (client) => Array.fromAsync(client),
  move: (client) => client.handOver(),
} as const satisfies Readonly<
  Record<string, (client: Client, signal: AbortSignal) => PromiseLike<unknown>>
>;

/** Number of retained responses. Each of them has its own id. */
let ids = 0;

type CallName = keyof typeof CALLS;
const NAMES = Object.keys(CALLS) as CallName[];

/** Calls that wait. These are all calls except a move, which does not end by itself. */
const WAITING = NAMES.filter((name) => name !== "move");

const calls = fc.record({
  /** Calls before the end, and calls after the session is lost. */
  before: fc.subarray(WAITING),
  lost: fc.subarray(WAITING.filter((name) => name !== "messages")),
  /** Calls after the client has ended, each with the number of microtasks before it. */
  after: fc.array(
    fc.tuple(
      fc.constantFrom(...WAITING.filter((name) => name !== "messages" && name !== "outbox")),
      fc.integer({ min: 1, max: 12 }),
    ),
    { maxLength: 5 },
  ),
});

property("closing a client settles all calls in every state, and leaks nothing", {
  cases: keyOf(STATES).chain((state) =>
    fc.record({
      state: fc.constant(state),
      end: fc.constantFrom<End>(...STATES[state]),
      isReliable: fc.boolean(),
      handshake: fc.constantFrom("hangs", "rejected"),
      /** Times before the session is lost and before the client ends, in milliseconds. */
      pausesMs: fc.tuple(fc.nat(150), fc.nat(150)),
      /** If true, nothing reaches the server after the program has closed a session. */
      isBlocked: fc.boolean(),
      /** Time between the start of a move and the client's end, in milliseconds. */
      moveMs: maybe(fc.nat(10)),
      calls,
    })
  ),
  async check(world, { state, end, isReliable, handshake, pausesMs, moveMs, calls, ...one }) {
    const isOwn = (OWN as readonly string[]).includes(end);
    const isBlocked = one.isBlocked && isOwn && state === "connected";
    let isKnown = true;
    const items = async function* () {
      yield 0;
      await never();
    };
    const { server, host } = world.serve<string>("server", () => ({
      ...byToken,
      authenticate: ({ token = "" }) => {
        if (!isKnown) throw new AuthenticationError("The token is bad");
        return token;
      },
      authorize: (_, topic) => topic.startsWith("slow:") ? never() : true,
      history: { kept: {} },
      rooms: ["room"],
      features: streamFeatures({ path: "/streams" }),
      session: { concurrency: 16 },
      requests: { hold: never, items, keep: { resumable, handle: items, resume: items } },
      onMessage: never,
      onError() {},
    }));
    await streamsOf(server).create("log");
    const machine = world.host("client");
    const hide = () => world.network.change(machine, host, { handshake });
    if (state === "never connected") hide();
    const [stop, listeners] = [new AbortController(), { count: 0 }];
    const client = world.connect("client", host, {
      token: "ada",
      signal: counted(stop.signal, listeners),
      delivery: isReliable ? "at-least-once" : "at-most-once",
      backoff: end === "no attempt left"
        ? { firstDelayMs: 50, maxDelayMs: 100, maxAttempts: 2 }
        : { firstDelayMs: 100, maxDelayMs: 200 },
      connectTimeoutMs: DIAL_MS,
      closeTimeoutMs: CLOSE_MS,
      endOnRejection: true,
      onError() {},
    });
    if (state !== "never connected") await world.meet(client, server);
    const waits: { name: CallName; hadEnded: boolean; outcome: string }[] = [];
    const begin = async (name: CallName, steps = 0) => {
      for (let left = steps; left > 0; left--) await Promise.resolve();
      const wait = { name, hadEnded: client.status.isEnded, outcome: "none" };
      waits.push(wait);
      const signal = counted(new AbortController().signal, listeners);
      wait.outcome = await outcomeOf(Promise.try(() => CALLS[name](client, signal)));
    };
    // Without at-least-once delivery, an existing session accepts messages immediately.
    const isAlone = state === "never connected";
    const waitsFor = (name: CallName) =>
      isAlone || name !== "connection" && (name !== "outbox" || isReliable);
    for (const name of calls.before.filter(waitsFor)) void begin(name);
    await world.pause(pausesMs[0]);
    if (state === "lost") {
      hide();
      world.cut(machine);
      await world.pause(pausesMs[1]);
      for (const name of calls.lost.filter(waitsFor)) void begin(name);
    }
    if (isBlocked) world.change(machine, host, { isBlocked: true });
    if (isOwn && moveMs !== undefined) {
      void begin("move");
      await world.pause(moveMs);
    }
    let last: number | undefined;
    void client.closed.then(({ code }) => last = code);
    const beganMs = world.nowMs;
    if (end === "close") void client.close();
    if (end === "signal") stop.abort();
    if (end === "dispose") void client[Symbol.asyncDispose]();
    if (end === "close of the session") void client.session?.close();
    if (end === "unauthenticated") {
      isKnown = false;
      world.network.change(machine, host, { handshake: "none" });
    }
    const code = SERVER_CODES[end];
    for (const session of code === undefined ? [] : server.manager.sessionsOf("ada")) {
      void session.close({ code });
    }
    for (const [name, steps] of calls.after) if (waitsFor(name)) void begin(name, steps);
    await world.until("the end of the client", () => client.status.isEnded, 4_000);
    const tookMs = world.nowMs - beganMs;
    if (isOwn) assert(tookMs <= TRIP_MS + (isBlocked ? CLOSE_MS : 0), `ended after ${tookMs} ms`);
    await world.pause(TRIP_MS);
    const { current } = client.status;
    const cause = "cause" in current ? current.cause : undefined;
    const expected = STATUSES[end] ?? ["closed", CloseCode.normal, "local"];
    assertEquals([current.name, cause?.code, cause?.by], expected);
    assertEquals(last, cause?.code);
    const isNormal = cause?.code === CloseCode.normal;
    for (const name of NAMES) void begin(name);
    await world.pause(TRIP_MS);
    for (const wait of waits) {
      const about = `${wait.name} ${wait.hadEnded ? "after" : "before"} the end`;
      assertEquals(wait.outcome, outcomeAfter(wait, isNormal), about);
    }
    assertEquals(listeners.count, 0, "listeners that are left");
    if (isBlocked) world.change(machine, host, { isBlocked: false });
    else {
      await world.until("no session", () => server.manager.count === 0);
      await noTimersOf(world, machine);
    }
  },
});

/** Returns how a call must settle that is made after the client has ended. */
function outcomeAfter(
  { name, hadEnded }: { readonly name: CallName; readonly hadEnded: boolean },
  isNormal: boolean,
): string {
  if (name === "status" || name === "move" || name === "messages" && isNormal) return "fulfilled";
  // A closed client accepts no new subscription.
  if (hadEnded || !isNormal) return "SessionClosedError";
  if (name === "subscription" || name === "history") return "fulfilled";
  return name === "subscription to come" ? "AbortError" : "SessionClosedError";
}

function counted(signal: AbortSignal, listeners: { count: number }): AbortSignal {
  const { addEventListener, removeEventListener } = signal;
  const known = new Set<unknown>();
  return Object.assign(signal, {
    addEventListener(...args: Parameters<AbortSignal["addEventListener"]>) {
      if (!known.has(args[1])) listeners.count++;
      known.add(args[1]);
      addEventListener.apply(signal, args);
    },
    removeEventListener(...args: Parameters<AbortSignal["removeEventListener"]>) {
      // A listener that was already removed is not counted again.
      if (known.delete(args[1])) listeners.count--;
      removeEventListener.apply(signal, args);
    },
  });
}

/** Waits until a machine has no timers. This may take a turn of the event loop. */
async function noTimersOf(world: World, machine: Host): Promise<void> {
  const isNone = () => ![...world.simulation.pending()].some(({ host }) => host === machine);
  await world.until(`no timer of ${machine.name}`, isNone, 100);
}

/** Timeouts of a handshake and of a connection attempt, in milliseconds. */
const [HANDSHAKE_MS, ATTEMPT_MS] = [600, 900] as const;

/**
 * Maximum time that a server takes to close, and time until it has forgotten a client over HTTP, in
 * milliseconds.
 */
const [SERVER_CLOSE_MS, FORGOTTEN_MS] = [2 * CLOSE_MS + HANDSHAKE_MS, 12_000] as const;

/** Moments at which a client closes itself. */
const MOMENTS = ["signal before", "address", "token", "first message", "first status", "later"];

/** Calls that end the server while clients connect. */
const SERVER_ENDS = ["nothing", "close", "close twice", "signal", "drain", "drain by a signal"];

const guest = fc.record({
  transport,
  moment: fc.constantFrom(...MOMENTS),
  isBySignal: fc.boolean(),
  /** Number of microtasks before the close, and the delay for "later" in milliseconds. */
  steps: fc.nat(12),
  laterMs: fc.nat(90),
  /** The duration and result of the server's token check. */
  checkMs: fc.nat(30),
  isRejected: fc.boolean(),
});

property("clients and a server that close during connects finish in time, and leak nothing", {
  cases: fc.record({
    guests: fc.array(guest, { minLength: 1, maxLength: 4 }),
    end: fc.constantFrom(...SERVER_ENDS),
    endMs: fc.nat(90),
    drainMs: fc.constantFrom(300, 5_000),
    hasUsers: fc.boolean(),
    /**
     * If false, tokens are not sent in band, and the server knows each client before its session.
     */
    isInBand: fc.boolean(),
  }),
  async check(world, { guests, end, endMs, drainMs, hasUsers, isInBand }) {
    const [stop, listeners] = [new AbortController(), { count: 0 }];
    const checks = guests.map(({ checkMs, isRejected }) => ({ checkMs, isRejected }));
    let count = 0;
    const { server, host } = world.serve<string>("server", ({ runtime }) => ({
      tokens: { inMessage: isInBand },
      signal: counted(stop.signal, listeners),
      session: {
        handshakeTimeoutMs: HANDSHAKE_MS,
        closeTimeoutMs: CLOSE_MS,
        heartbeat: { intervalMs: 1_000, timeoutMs: 3_000 },
      },
      authenticate: async ({ token }) => {
        const { checkMs, isRejected } = checks[count++ % checks.length]!;
        await pause(runtime, checkMs);
        if (isRejected) throw new AuthenticationError("The token is bad");
        return token ?? `user ${count}`;
      },
      ...(hasUsers && { userOf: (user: string) => user }),
      authorize: () => true,
      onOpen: (session) => session.send("welcome", 0),
      onMessage() {},
      onError() {},
      onSessionRejected() {},
    }));
    const entering = guests.map((one, i) =>
      new Guest(world, { host, name: `client-${i}`, isInBand, ...one })
    );
    await world.pause(endMs);
    const beganMs = world.nowMs;
    if (end === "nothing") {
      await world.pause(90);
      await world.until("the end of all who left", () => entering.every(({ isGone }) => isGone));
      await Promise.all(entering.map(({ client }) => client.close()));
      await world.until("no slot in use", () => slotsOf(server) === 0, FORGOTTEN_MS);
    } else {
      if (end === "signal") stop.abort();
      const signal = end === "drain by a signal" ? { signal: AbortSignal.abort() } : {};
      const ending = end.startsWith("drain")
        ? server.drain({ withinMs: drainMs, ...signal })
        : server.close();
      const again = end === "close twice" ? server.close() : undefined;
      await world.inTime("the end", Promise.all([ending, again]), 10_000);
      const longestMs = SERVER_CLOSE_MS + (end === "drain" ? drainMs : 0) +
        (end.startsWith("drain") ? 1_000 : 0);
      const tookMs = world.nowMs - beganMs;
      assert(tookMs <= longestMs, `the server ended after ${tookMs} ms`);
      await world.until("no slot in use", () => slotsOf(server) === 0, HANDSHAKE_MS + 30);
      await Promise.all(entering.map(({ client }) => client.close()));
    }
    for (const one of entering) {
      if (one.leftMs < beganMs || end === "nothing") one.checkEnd();
      const tookMs = one.endedMs - one.leftMs;
      assert(!(one.leftMs < Infinity && tookMs > CLOSE_MS + 100), `ended after ${tookMs} ms`);
      await noTimersOf(world, one.machine);
    }
    await server.close();
    assertEquals(listeners.count, 0, "listeners at the signal of the server");
    await noTimersOf(world, host);
  },
});

/** A client that connects and closes itself at a given moment. */
class Guest {
  readonly machine: Host;
  readonly client: Client;
  leftMs = Infinity;
  endedMs = Infinity;

  constructor(
    world: World,
    { host, name, isInBand, transport, moment, isBySignal, steps, laterMs }:
      & { readonly host: Host; readonly name: string; readonly isInBand: boolean }
      & Drawn<typeof guest>,
  ) {
    this.machine = world.host(name);
    const stop = new AbortController();
    const leave = () => {
      this.leftMs = Math.min(this.leftMs, world.nowMs);
      if (isBySignal || moment === "signal before") stop.abort();
      else void this.client.close();
    };
    const leaveSoon = async () => {
      for (let left = steps; left > 0; left--) await Promise.resolve();
      leave();
    };
    if (moment === "signal before") leave();
    this.client = world.connect(name, () => {
      if (moment === "address") leave();
      return host;
    }, {
      transports: [transport],
      token: () => {
        if (moment === "token") leave();
        return isInBand ? name : undefined;
      },
      signal: stop.signal,
      connectTimeoutMs: ATTEMPT_MS,
      closeTimeoutMs: CLOSE_MS,
      backoff: { firstDelayMs: 20, maxDelayMs: 60 },
      ...(moment === "first message" && { onMessage: () => void leaveSoon() }),
      onError() {},
      onMessageRejected() {},
    });
    void this.client.closed.then(() => this.endedMs = world.nowMs);
    if (moment === "first status") {
      this.client.status.subscribe(({ name }) => void (name === "connected" && leaveSoon()));
    }
    if (moment === "later") void world.pause(laterMs).then(leave);
  }

  /** False while the client is still closing. */
  get isGone(): boolean {
    return this.leftMs === Infinity || this.endedMs < Infinity;
  }

  /** Checks that the client closed itself, unless the server rejected it first. */
  checkEnd(): void {
    const { current } = this.client.status;
    if (current.name === "rejected") return;
    const cause = "cause" in current ? current.cause : undefined;
    assertEquals({ name: current.name, code: cause?.code, by: cause?.by }, {
      name: "closed",
      code: 0,
      by: "local",
    });
  }
}

/** Sums the sessions, reservations, users, addresses and sockets that a server has in use. */
function slotsOf({ manager }: Pick<Server, "manager">): number {
  const { count, reserved, users, addresses, sockets } = manager.stats();
  return count + reserved + users + addresses + sockets.open - sockets.lingering;
}
