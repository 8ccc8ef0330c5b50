/** Bounds that clients without the library meet: handshakes, invalid messages, silence. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { CloseCode } from "../../errors.ts";
import { type ConnectionSlot, HandshakeLimits } from "../../transport/hardened/handshake_limits.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";

/** Addresses by account: IPv6 addresses in the same /64 share one. */
const ADDRESSES = [
  ["203.0.113.1"],
  ["203.0.113.2"],
  ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"],
  ["2001:db8:1:2::1"],
] as const;

/** Limits of a case. */
const limits = fc.record({
  handshakesPerSecond: fc.constantFrom(2, 0.5, 5),
  handshakeBurst: fc.integer({ min: 1, max: 6 }),
  maxPendingPerAddress: fc.integer({ min: 1, max: 4 }),
  maxPending: fc.integer({ min: 3, max: 7 }),
  maxConnectionsPerAddress: fc.integer({ min: 1, max: 4 }),
  maxConnections: fc.integer({ min: 2, max: 9 }),
});

type Limits = typeof limits extends fc.Arbitrary<infer T> ? T : never;

/** A connection of the model. */
interface Connection {
  readonly account: number;
  readonly slot: ConnectionSlot;
  isPending: boolean;
  isOpen: boolean;
}

/** Reference of the limits on connections and handshakes of a port. */
class HandshakeModel {
  readonly all: Connection[] = [];
  readonly counts = { tooFrequent: 0, tooManyPending: 0, tooMany: 0 };
  readonly #limits: Limits;
  readonly #tokens = new Map<number, { tokens: number; atMs: number }>();

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  get open(): Connection[] {
    return this.all.filter(({ isOpen }) => isOpen);
  }

  get pending(): Connection[] {
    return this.open.filter(({ isPending }) => isPending);
  }

  /** Tells if a connection is let in, and when a next one is, in seconds; counts a refused one. */
  admit(account: number, nowMs: number): { readonly fits: boolean; readonly waitS: number } {
    const { handshakesPerSecond: perSecond, handshakeBurst } = this.#limits;
    const fits = this.#fits(account);
    const { tokens: before, atMs } = this.#tokens.get(account) ?? {
      tokens: handshakeBurst,
      atMs: nowMs,
    };
    const tokens = Math.min(handshakeBurst, before + (nowMs - atMs) / 1_000 * perSecond);
    const isFrequent = tokens < 1;
    const left = fits && !isFrequent ? tokens - 1 : tokens;
    this.#tokens.set(account, { tokens: left, atMs: nowMs });
    if (!fits) return { fits, waitS: 0 };
    if (isFrequent) this.counts.tooFrequent++;
    return { fits, waitS: isFrequent ? Math.ceil((1 - tokens) / perSecond) : 0 };
  }

  /** Adds a connection, and returns the one that makes room for it, if any. */
  add(connection: Connection): Connection | undefined {
    this.all.push(connection);
    const [oldest] = this.pending;
    if (this.pending.length <= this.#limits.maxPending) return undefined;
    this.counts.tooManyPending++;
    oldest!.isOpen = false;
    return oldest;
  }

  #fits(account: number): boolean {
    const { maxConnections, maxConnectionsPerAddress, maxPending, maxPendingPerAddress } =
      this.#limits;
    const own = this.open.filter((one) => one.account === account);
    if (
      this.open.length >= maxConnections + maxPending ||
      own.length >= maxConnectionsPerAddress + maxPendingPerAddress
    ) {
      this.counts.tooMany++;
      return false;
    }
    if (own.filter(({ isPending }) => isPending).length < maxPendingPerAddress) return true;
    this.counts.tooManyPending++;
    return false;
  }
}

property("a port counts connections and handshakes by address, and each close gives back once", {
  cases: fc.record({
    limits,
    steps: fc.array(
      fc.record({
        kind: fc.constantFrom("open", "open", "open", "request", "close", "close again"),
        account: fc.nat(ADDRESSES.length - 1),
        /** Which address of the account, and which of the connections. */
        which: fc.nat(20),
        afterMs: fc.nat(400),
      }),
      { maxLength: 60 },
    ),
  }),
  check(_world, { limits: chosen, steps }) {
    const limits = new HandshakeLimits({ ...chosen, maxIdleAddresses: ADDRESSES.length });
    const model = new HandshakeModel(chosen);
    /** Connections that the limits dropped, by their number. */
    const dropped: number[] = [];
    let nowMs = 0;
    for (const { kind, account, which, afterMs } of steps) {
      nowMs += afterMs;
      if (kind === "open") {
        const addresses = ADDRESSES[account]!;
        const { fits, waitS } = model.admit(account, nowMs);
        const number = model.all.length;
        const slot = limits.admit(addresses[which % addresses.length]!, nowMs, {
          destroy: () => void dropped.push(number),
        });
        assertEquals(slot !== undefined, fits);
        if (slot === undefined) continue;
        assertEquals(slot.retryAfterS, waitS);
        const oldest = model.add({ account, slot, isPending: true, isOpen: true });
        assertEquals(dropped.splice(0), oldest === undefined ? [] : [model.all.indexOf(oldest)]);
      } else {
        const some = model.all.filter(({ isOpen }) => isOpen === (kind !== "close again"));
        const one = some[which % Math.max(1, some.length)];
        if (one === undefined) continue;
        if (kind === "request") {
          one.slot.requested();
          one.isPending = false;
        } else {
          one.slot[Symbol.dispose]();
          one.isOpen = false;
        }
      }
      const { connections, pending, tooFrequent, tooManyPending, tooMany } = limits.stats;
      assertEquals(
        { connections, pending, tooFrequent, tooManyPending, tooMany },
        { connections: model.open.length, pending: model.pending.length, ...model.counts },
      );
    }
    for (const { slot } of model.open) slot[Symbol.dispose]();
    // Another address, an hour later, makes the limits forget those that are idle.
    limits.admit("198.51.100.1", nowMs + 3_600_000, { destroy() {} })?.[Symbol.dispose]();
    const { connections, pending, addresses } = limits.stats;
    assertEquals([connections, pending, addresses], [0, 0, 1]);
    return Promise.resolve();
  },
});

/** Time in which invalid messages are counted, and time beyond that, in milliseconds. */
const [WINDOW_MS, BEYOND_MS] = [60_000, 1_000] as const;

/** Messages that each count as invalid; the last one is a request beyond those that may be open. */
const INVALID: readonly ((id: number) => string)[] = [
  () => "{",
  () => "[]",
  () => '{"topic":7,"data":0}',
  (id) => `{"topic":"hold","data":0,"id":${id}}`,
];

property("invalid messages close a session at the bound within a minute, and never at fewer", {
  cases: fc.record({
    most: fc.integer({ min: 4, max: 8 }),
    hasProtocol: fc.boolean(),
    kinds: fc.array(fc.nat(INVALID.length - 1), { minLength: 1, maxLength: 8 }),
    /** One fewer than the bound at once, or twice the bound slowly, each in a new minute. */
    phases: fc.array(fc.constantFrom("at once", "slowly"), { maxLength: 3 }),
  }),
  async check(world, { most, hasProtocol, kinds, phases }) {
    const gate = Promise.withResolvers<void>();
    const { server, host } = world.serve("server", () => ({
      session: { maxInvalidMessages: most, maxRequests: 2, concurrency: 2 },
      requests: { hold: () => gate.promise },
      onError() {},
    }));
    const open = world.network.sockets(world.host("page"));
    const socket = open(new URL(`wss://${host.name}/`), hasProtocol ? ["skein.1"] : []);
    let code: number | undefined;
    socket.onclose = (event) => code = event.code;
    await world.until("a session", () => server.manager.count === 1 && socket.readyState === 1);
    const [session] = server.manager.all();
    for (const id of [1, 2]) socket.send(`{"topic":"hold","data":0,"id":${id}}`);
    let sent = 0;
    const send = async (count: number) => {
      for (const _ of range(1, count)) {
        socket.send(INVALID[kinds[sent % kinds.length]!]!(3 + sent));
        sent++;
      }
      await world.until("all messages", () => session!.stats.invalidMessages === sent);
      assertEquals([session!.state, code], ["connected", undefined]);
    };
    for (const phase of [...phases, "at once"]) {
      host.jumpClock(WINDOW_MS + BEYOND_MS);
      if (phase === "at once") await send(most - 1);
      // One message more in each minute than would be allowed in two at this pace.
      for (let left = phase === "slowly" ? 2 * most : 0; left > 0; left--) {
        await send(1);
        host.jumpClock(Math.ceil(WINDOW_MS / (most - 2)) + BEYOND_MS);
      }
    }
    socket.send(INVALID[kinds[0]!]!(3 + sent));
    await world.until("the close", () => code !== undefined);
    assertEquals(code, CloseCode.malformed);
    gate.resolve();
  },
});

property("a server finds a silent client in time, whatever its clock does, and keeps the others", {
  cases: fc.record({
    /** Pings at a short interval, or at one beyond the 10 s of a server that slept. */
    pings: fc.constantFrom(
      { intervalMs: 1_000, timeoutMs: 3_000, foundMs: [1_700, 5_200] },
      { intervalMs: 20_000, timeoutMs: 30_000, foundMs: [8_500, 51_000] },
    ),
    stepMs: fc.constantFrom(0, -3_600_000, 3_600_000),
    /** A server without sessions has no ticking clock. */
    isIdle: fc.boolean(),
    beforeMs: fc.nat(1_500),
  }),
  async check(world, { pings, stepMs, isIdle, beforeMs }) {
    const { intervalMs, timeoutMs, foundMs: [least, most] } = pings;
    const { server, host } = world.serve("server", () => ({
      session: { heartbeat: { intervalMs, timeoutMs } },
      onError() {},
    }));
    if (isIdle) await world.pause(5_000);
    const [stays] = ["stays", "leaves"].map((name) => world.connect(name, host, { onError() {} }));
    await world.until("both sessions", () => server.manager.count === 2 && stays!.isConnected);
    const { session } = stays!;
    await world.pause(beforeMs);
    world.host("leaves").kill({ power: true });
    host.jumpClock(stepMs);
    const beganMs = world.nowMs;
    await world.until("the end of the silent session", () => server.manager.count < 2, most);
    assert(world.nowMs - beganMs >= least!, `found after ${world.nowMs - beganMs} ms`);
    await world.pause(1_500);
    assert(stays!.isConnected && stays!.session === session, "the other session ended");
    assertEquals(server.manager.count, 1);
  },
});
