/**
 * Rates of sessions, users and addresses on one node. The properties check what is counted,
 * what is rejected, and for how long.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { AuthenticationError, CloseCode } from "../../errors.ts";
import {
  type ModelAccount,
  ModelAccounts,
  type ModelRates,
  type Need,
  type Shortage,
  shortageOf,
  type Unit,
} from "../../manager/rates_model.ts";
import { type Drawn, keyOf, maybe, stepOf } from "./draw.ts";
import { SimulatedPage } from "./simulated_page.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** The token of a session without a user, and a token that the server rejects. */
const [GUEST, FORGED] = ["guest", "forged"] as const;

/** Time that an envelope and its reply take, in milliseconds. */
const TRIP_MS = 40;

/** A rate that does not refill during a case, in tokens per second. */
const SLOW = 0.01;

/** Number of rejections within 10 s after which a session closes by default. */
const MAX_REJECTIONS = 100;

/** The minimum and maximum burst of each unit. */
const BURSTS = {
  messages: [1, 12],
  bytes: [60, 1_500],
  publications: [1, 8],
  subscriptions: [1, 8],
} as const;

/** A kind of envelope, with the units that it uses in addition to bytes. */
interface Kind {
  readonly units: readonly Unit[];
  readonly isRequest?: boolean;
  /** True for an envelope that ends work. The server handles it even above a rate. */
  readonly isAlways?: boolean;
  make(text: string, topic: string, token: string): object;
}

const KINDS = {
  message: { units: ["messages"], make: (data) => ({ topic: "note", data }) },
  request: { units: ["messages"], isRequest: true, make: (data) => ({ topic: "note", data }) },
  publish: {
    units: ["publications", "messages"],
    isRequest: true,
    make: (data, publish) => ({ publish, data }),
  },
  presence: {
    units: ["messages"],
    isRequest: true,
    make: (data) => ({ presence: "room:1", data }),
  },
  subscribe: {
    units: ["subscriptions"],
    isRequest: true,
    make: (_, subscribe) => ({ subscribe }),
  },
  unsubscribe: {
    units: ["subscriptions"],
    isRequest: true,
    isAlways: true,
    make: (_, unsubscribe) => ({ unsubscribe }),
  },
  auth: { units: ["messages"], isRequest: true, make: (_, __, auth) => ({ auth }) },
  ping: { units: ["messages"], make: () => ({ ping: 1 }) },
  pong: { units: [], isAlways: true, make: () => ({ pong: 1 }) },
  cancel: { units: [], isAlways: true, make: () => ({ cancel: 9_000 }) },
  reply: { units: [], isAlways: true, make: (data) => ({ reply: 9_000, data }) },
} as const satisfies Readonly<Record<string, Kind>>;

type KindName = keyof typeof KINDS;

/** A rate of a unit. The default burst is the amount of one second, but at least 1. */
function rateOf(unit: keyof typeof BURSTS) {
  const [min, max] = BURSTS[unit];
  const burst = fc.integer({ min, max }).map((burst) => ({ perSecond: SLOW, burst }));
  return fc.option(
    fc.oneof(
      { weight: 5, arbitrary: burst },
      unit === "bytes" ? burst : fc.constant({ perSecond: SLOW }),
      fc.constantFrom({ perSecond: Infinity }, { perSecond: SLOW, burst: Infinity }),
    ),
    { nil: undefined, freq: 2 },
  );
}

const scopeRates = fc.record({
  messages: rateOf("messages"),
  bytes: rateOf("bytes"),
  publications: rateOf("publications"),
  subscriptions: rateOf("subscriptions"),
});

const envelope = fc.record({
  kind: keyOf(KINDS),
  chars: fc.nat(100),
  /** If true, the data contains characters of several UTF-8 bytes. */
  isWide: fc.boolean(),
  topic: fc.constantFrom("a", "b", "c"),
});

/** Maximum number of token renewals in a session. The server allows more. */
const MAX_RENEWALS = 8;

type Envelope = Drawn<typeof envelope>;

/** The sessions' users and machines. */
const SESSIONS = [["ann", "x"], ["ann", "y"], ["ben", "x"], [GUEST, "y"]] as const;

/** A session and its part of the model. */
interface Metered {
  readonly page: SimulatedPage;
  readonly accounts: readonly ModelAccount[];
  /**
   * Publications that the server rejects together, until the client can know about the first
   * rejection.
   */
  hold: { readonly need: Need; readonly isEarly: boolean } | undefined;
  /** True once the client can know about a rejected publication. */
  isWarned: boolean;
  rejections: number;
  renewals: number;
  isOver: boolean;
}

property("each kind of envelope counts toward the rates of its session, user and address", {
  cases: fc.record({
    perSession: scopeRates,
    perUser: scopeRates,
    perAddress: scopeRates,
    maxRejections: maybe(fc.integer({ min: 3, max: 40 })),
    steps: fc.array(
      fc.record({
        session: fc.nat(SESSIONS.length - 1),
        /** If true, the session is reopened first. */
        isNew: fc.nat(4).map((n) => n === 4),
        envelopes: fc.array(envelope, { minLength: 1, maxLength: 12 }),
      }),
      { maxLength: 12 },
    ),
  }),
  async check(world, { steps, maxRejections, ...rates }) {
    let handled = 0;
    const { host, server } = world.serve<unknown>("server", () => ({
      tokens: { inMessage: true },
      authenticate: ({ token }) => token === GUEST ? {} : token,
      authorize: () => true,
      rooms: ["room:{name}"],
      rates: { ...rates, ...(maxRejections !== undefined && { maxRejections }) },
      onMessage: (message) => {
        if (message.isRequest) return message.reply(true);
        handled++;
      },
      onError() {},
    }));
    const accounts = new ModelAccounts({
      session: bounded(rates.perSession),
      user: bounded(rates.perUser),
      address: bounded(rates.perAddress),
    });
    const expected = { handled: 0, closed: 0, rejected: { session: 0, user: 0, address: 0 } };
    const open = async (index: number): Promise<Metered> => {
      const [token, name] = SESSIONS[index]!;
      const page = new SimulatedPage(world, host, { token, name });
      await world.until("a session", () => page.isIn);
      const own = accounts.ofSession(token === GUEST ? undefined : token, name);
      const start = { hold: undefined, isWarned: false, rejections: 0, renewals: 0, isOver: false };
      return { page, accounts: own, ...start };
    };
    const sessions = await Promise.all(SESSIONS.keys().map(open));
    for (const { session: index, isNew, envelopes } of steps) {
      if (isNew || sessions[index]!.isOver) {
        sessions[index]!.page.close();
        sessions[index] = await open(index);
      }
      const session = sessions[index]!;
      const { page } = session;
      page.received.length = 0;
      const [token] = SESSIONS[index]!;
      const sent: Sent[] = [];
      for (const one of envelopes) {
        const envelope = send(session, { ...one, token, ms: world.nowMs });
        const { shortage, name } = envelope;
        if (shortage !== undefined) expected.rejected[shortage.scope]++;
        if (session.rejections > (maxRejections ?? MAX_REJECTIONS)) {
          session.isOver = true;
          expected.closed++;
          break;
        }
        sent.push(envelope);
        if (name === "message" && shortage === undefined) expected.handled++;
      }
      await world.pause(TRIP_MS);
      session.hold = undefined;
      const stats = server.manager.stats().rates;
      assertEquals({ handled, closed: stats.closed, rejected: stats.rejected }, expected);
      assertEquals(page.code, session.isOver ? CloseCode.tooMany : undefined, "close code");
      // If a session closes, replies in flight are lost.
      if (!session.isOver) compare(page, sent, world.nowMs);
    }
  },
});

/** An envelope and the number of tokens that it lacks. */
interface Sent {
  readonly name: KindName;
  /** The number of the request, if the envelope is one. */
  readonly id: number | undefined;
  readonly shortage: Shortage | undefined;
}

/** Sends an envelope and counts it in the model. */
function send(
  session: Metered,
  { kind: drawn, chars, isWide, topic, token, ms }: Envelope & {
    readonly token: string;
    readonly ms: number;
  },
): Sent {
  const { page } = session;
  const isRenewal = drawn === "auth" && token !== GUEST && ++session.renewals < MAX_RENEWALS;
  const name = drawn === "auth" && !isRenewal ? "ping" : drawn;
  const kind: Kind = KINDS[name];
  const body = kind.make((isWide ? "字" : "x").repeat(chars), topic, token);
  const bytes = kind.isRequest ? page.sizeOf(body) : JSON.stringify(body).length;
  const need = { ...Object.fromEntries(kind.units.map((unit) => [unit, 1])), bytes };
  const shortage = meter(session, name, need, ms);
  if (kind.isRequest) return { name, id: page.ask(body), shortage };
  page.send(body);
  return { name, id: undefined, shortage };
}

/** Compares the replies to envelopes. */
function compare(page: SimulatedPage, sent: readonly Sent[], toleranceMs: number): void {
  const pings = sent.filter(({ name, shortage }) => name === "ping" && shortage === undefined);
  const pongs = page.received.filter(({ pong }) => pong !== undefined);
  assertEquals(pongs.length, pings.length, "pongs");
  for (const { name, id, shortage } of sent) {
    if (id === undefined) continue;
    const isHandled = shortage === undefined || (KINDS[name] as Kind).isAlways === true;
    // The reply to a renewal follows after the rights checks of all topics, up to a second later.
    if (name === "auth" && isHandled && page.replyTo(id) === undefined) continue;
    assertEquals(outcomeOf(page, id), isHandled ? "granted" : "too-many", name);
    if (!isHandled) assertWait(page, { id, waitMs: shortage.waitMs, toleranceMs });
  }
}

/** Counts an envelope in the model. Returns the shortage if the server rejects the envelope. */
function meter(
  session: Metered,
  kind: KindName,
  need: Need,
  ms: number,
): Shortage | undefined {
  const { accounts, hold } = session;
  const shortage = shortageOf(accounts, need, ms);
  const isPublication = kind === "publish";
  if (shortage === undefined && !(isPublication && hold !== undefined)) {
    for (const account of accounts) account.take(need, ms);
    return undefined;
  }
  if (!isPublication) {
    session.rejections++;
    return shortage;
  }
  const sum = (unit: Unit) => (hold?.need[unit] ?? 0) + need[unit]!;
  session.hold = {
    need: { publications: sum("publications"), messages: sum("messages"), bytes: sum("bytes") },
    isEarly: hold?.isEarly ?? session.isWarned,
  };
  session.isWarned = true;
  // Publications that were sent before the client could know about a rejection do not close the
  // session.
  if (session.hold.isEarly) session.rejections++;
  return shortageOf(accounts, session.hold.need, ms);
}

/** The rates that are limited, each with its burst. */
function bounded(rates: Readonly<Record<string, object | undefined>>): ModelRates {
  const known = Object.entries(rates).flatMap(([unit, rate]) => {
    const { perSecond = Infinity, burst = 1 } = (rate ?? {}) as {
      perSecond: number;
      burst: number;
    };
    return Number.isFinite(perSecond) && Number.isFinite(burst)
      ? [[unit, { perSecond, burst }]]
      : [];
  });
  return Object.fromEntries(known);
}

/** The outcome of a request. */
function outcomeOf(page: SimulatedPage, id: number): string {
  const reply = page.replyTo(id);
  return reply === undefined ? "none" : reply.error?.code ?? "granted";
}

/** Compares the retry time of a rejected request. */
function assertWait(page: SimulatedPage, { id, waitMs, toleranceMs }: {
  readonly id: number;
  readonly waitMs: number;
  readonly toleranceMs: number;
}): void {
  const { retryAfterMs = 0 } = page.replyTo(id)?.error ?? {};
  const isInTime = Math.abs(retryAfterMs - waitMs) <= toleranceMs;
  assert(isInTime, `expected a retry after ${waitMs} ms, received one after ${retryAfterMs} ms`);
}

/** Time until all buckets are full again, in milliseconds. */
const FULL_MS = 12_000;

/** A rate that refills within a case. */
const refilled = fc.option(
  fc.record({
    perSecond: fc.integer({ min: 5, max: 25 }).map((tenths) => tenths / 10),
    burst: fc.integer({ min: 1, max: 3 }),
  }),
  { nil: undefined, freq: 3 },
);
const refilledBytes = fc.option(
  fc.record({
    perSecond: fc.integer({ min: 100, max: 300 }),
    burst: fc.integer({ min: 60, max: 250 }),
  }),
  { nil: undefined, freq: 2 },
);

const user = fc.constantFrom("ann", "ben");
const machine = fc.constantFrom("x", "y");
const timed = fc.oneof(
  stepOf("open", {
    token: fc.oneof({ weight: 5, arbitrary: user }, fc.constant(FORGED)),
    machine,
    stays: fc.boolean(),
  }, 6),
  stepOf("ask", { page: fc.nat(5), count: fc.integer({ min: 1, max: 6 }), chars: fc.nat(400) }, 3),
  stepOf("leave", { page: fc.nat(5) }),
  stepOf("wait", { ms: fc.nat(1_500) }, 2),
  stepOf("set the clock", { byMs: fc.constantFrom(3_600_000, -7_200_000) }),
);

type Timed = Drawn<typeof timed>;

interface OpenPage {
  readonly page: SimulatedPage;
  readonly token: string;
  readonly machine: string;
}

/** A node whose rates refill, and its model. */
class Metering {
  pages: OpenPage[] = [];
  rejected = 0;
  readonly #node;
  readonly #accounts: ModelAccounts;

  constructor(readonly world: World, rates: {
    readonly perUser: Readonly<Record<string, object | undefined>>;
    readonly perAddress: Readonly<Record<string, object | undefined>>;
  }) {
    const { perUser, perAddress } = rates;
    this.#accounts = new ModelAccounts({
      session: {},
      user: bounded(perUser),
      address: bounded(perAddress),
    });
    this.#node = world.serve<string>("server", () => ({
      authenticate: ({ token = FORGED }) => {
        if (token === FORGED) throw new AuthenticationError("Forged");
        return token;
      },
      onMessage: (message) => message.reply(true),
      onError() {},
      onSessionRejected() {},
      rates: { ...rates, maxRejections: 1_000 },
    }));
  }

  get stats() {
    return this.#node.server.manager.stats().rates;
  }

  async take(step: Timed): Promise<void> {
    const at = "page" in step ? this.pages[step.page % this.pages.length] : undefined;
    if (step.kind === "open") return await this.open(step);
    if (step.kind === "ask") return await (at && this.#ask(at, step));
    if (step.kind === "wait") return await this.world.pause(step.ms);
    if (step.kind === "leave") return at && this.leave(at);
    this.#node.host.jumpClock(step.byMs);
    // After the clock has been set back, the first count in a bucket refills nothing. In each
    // round, one more bucket counts for the first time, because a bucket that rejects keeps the
    // others from counting.
    for (let round = 0; round < 3; round++) {
      for (const { page } of this.pages) page.ask({ topic: "ask" });
      for (const [token, name] of [["ann", "x"], ["ben", "y"]] as const) {
        const page = new SimulatedPage(this.world, this.#node.host, { token, name });
        await this.world.pause(TRIP_MS);
        if (page.entry === CloseCode.tooMany) this.rejected++;
        page.close();
      }
      await this.world.pause(FULL_MS);
    }
  }

  /** Opens a page. It is counted against its address and then against its user. */
  async open({ token, machine, stays }: {
    readonly token: string;
    readonly machine: string;
    readonly stays: boolean;
  }): Promise<void> {
    const need = { connections: 1 };
    const accounts = [
      this.#accounts.of("address", machine),
      ...(token === FORGED ? [] : [this.#accounts.of("user", token)]),
    ];
    await this.#leaveEdges(accounts, need);
    const ms = this.world.nowMs;
    const isRejected = accounts.some((account) => {
      if (account.waitMs(need, ms) > 0) return true;
      account.take(need, ms);
      return false;
    });
    if (isRejected) this.rejected++;
    const page = new SimulatedPage(this.world, this.#node.host, { token, name: machine });
    await this.world.pause(TRIP_MS);
    const isIn = token === FORGED ? CloseCode.unauthenticated : "in";
    assertEquals(page.entry, isRejected ? CloseCode.tooMany : isIn, `attempt of ${token}`);
    if (page.isIn && stays) this.pages.push({ page, token, machine });
    else page.close();
  }

  leave(one: OpenPage): void {
    this.pages = this.pages.filter((other) => other !== one);
    one.page.close();
  }

  async #ask({ page, token, machine }: OpenPage, { count, chars }: {
    readonly count: number;
    readonly chars: number;
  }): Promise<void> {
    const body = { topic: "ask", data: "x".repeat(chars) };
    const accounts = [this.#accounts.of("user", token), this.#accounts.of("address", machine)];
    const asked: { readonly id: number; readonly waitMs: number }[] = [];
    for (let left = count; left > 0; left--) {
      const need = { messages: 1, bytes: page.sizeOf(body) };
      await this.#leaveEdges(accounts, need);
      const ms = this.world.nowMs;
      const { waitMs = 0 } = shortageOf(accounts, need, ms) ?? {};
      if (waitMs === 0) { for (const account of accounts) account.take(need, ms); }
      asked.push({ id: page.ask(body), waitMs });
    }
    await this.world.pause(TRIP_MS);
    for (const { id, waitMs } of asked) {
      assertEquals(outcomeOf(page, id), waitMs === 0 ? "granted" : "too-many");
      if (waitMs > 0) assertWait(page, { id, waitMs, toleranceMs: TRIP_MS });
    }
  }

  /** Lets time pass for as long as an outcome depends on a few milliseconds. */
  async #leaveEdges(accounts: readonly ModelAccount[], need: Need): Promise<void> {
    const isNear = () => accounts.some((account) => account.isNear(need, this.world.nowMs));
    while (isNear()) await this.world.pause(TRIP_MS / 2);
  }
}

property("rates refill over time, even while the user is away, and full buckets are forgotten", {
  cases: fc.record({
    perUser: fc.record({ connections: refilled, messages: refilled, bytes: refilledBytes }),
    perAddress: fc.record({ connections: refilled, messages: refilled }),
    steps: fc.array(timed, { maxLength: 16 }),
  }),
  async check(world, { steps, ...rates }) {
    const metering = new Metering(world, rates);
    for (const step of steps) await metering.take(step);
    for (const one of metering.pages) metering.leave(one);
    await world.pause(FULL_MS);
    // The node forgets full buckets when another session leaves.
    await metering.open({ token: "eve", machine: "z", stays: false });
    await world.pause(TRIP_MS);
    const { remembered, rejectedConnections: { user, address } } = metering.stats;
    assertEquals(user + address, metering.rejected, "rejected connections");
    // After the clock has been set back, a bucket is considered used until the clock has caught up.
    if (steps.some(({ kind }) => kind === "set the clock")) return;
    assert(remembered <= 2, `expected the buckets of the last session, received ${remembered}`);
  },
});
