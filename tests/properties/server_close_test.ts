/** Servers that close or drain while clients use them and connect, as in a deploy. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { pause } from "../../base/wait.ts";
import type { Client } from "../../client/client.ts";
import { AuthenticationError, CloseCode } from "../../errors.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import { TOKEN_MARK } from "../../transport/webtransport.ts";
import { type Drawn, keyOf } from "./draw.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

const TRANSPORTS = ["websocket", "webtransport", "http"] as const;

/** Maximum duration of a token check and of a close, in milliseconds. */
const [AUTHENTICATE_MS, CLOSE_MS] = [300, 800] as const;

/** Maximum time that a server waits for a slow reader, and slack, in milliseconds. */
const [BEHIND_MS, SLACK_MS] = [3_000, 1_200] as const;

/** Timeout of a connection that announces a token but sends none, in milliseconds. */
const HANDSHAKE_MS = 4_000;

/** Data of a message that a reader without a network cannot receive. */
const FILL = "x".repeat(200_000);

/**
 * Calls that end a server. `rejects` is true if new sessions are rejected as soon as the call
 * returns; `close()` ends other services first. `leaves` is true if connections without a session
 * stay open.
 */
const WAYS = {
  close: { rejects: false, leaves: true },
  signal: { rejects: false, leaves: true },
  "close twice": { rejects: false, leaves: true },
  shutdown: { rejects: true, leaves: false },
  drain: { rejects: true, leaves: true },
  "drain of the manager": { rejects: true, leaves: false },
  "drain, then close": { rejects: true, leaves: true },
} as const;

const entry = fc.record({
  transport: fc.constantFrom(...TRANSPORTS),
  /** Duration of the token check, in milliseconds, and its result. */
  checkMs: fc.nat(AUTHENTICATE_MS),
  fails: fc.boolean(),
});

const cases = fc.record({
  way: keyOf(WAYS),
  code: fc.constantFrom(undefined, 3_001, 4_900),
  withinMs: fc.integer({ min: 100, max: 1_500 }),
  /** Time between the calls of "drain, then close", in milliseconds. */
  apartMs: fc.nat(1_500),
  hasHttp3: fc.boolean(),
  isInBand: fc.boolean(),
  residents: fc.array(fc.constantFrom(...TRANSPORTS), { minLength: 1, maxLength: 4 }),
  /** If true, the first resident does not read. */
  isBehind: fc.boolean(),
  /** Clients that connect from the start. The server ends after 300 ms. */
  newcomers: fc.array(
    fc.record({ atMs: fc.nat(AUTHENTICATE_MS + CLOSE_MS), entry }),
    { maxLength: 6 },
  ),
  /** Connections that announce a token but send none. */
  mutes: fc.nat(2),
});

type Case = Drawn<typeof cases>;

const PLAIN: Case = {
  way: "close",
  code: undefined,
  withinMs: 500,
  apartMs: 0,
  hasHttp3: true,
  isInBand: false,
  residents: ["webtransport"],
  isBehind: true,
  newcomers: [],
  mutes: 0,
};

/** A session of the server. */
interface Opened {
  readonly atMs: number;
  /** Close codes that `onClose` received. */
  readonly codes: number[];
}

property("a server that closes or drains closes each session once, and frees all slots", {
  cases,
  regressions: {
    "a client returns to a server that closed while the client read nothing": PLAIN,
  },
  async check(world, one) {
    const { way, code, isInBand, residents, isBehind } = one;
    const { rejects, leaves } = WAYS[way];
    if (one.hasHttp3) world.carry("http3");
    const closing = new Closing(world, one);
    const { program, opened } = closing;
    const { host } = program;
    const { manager } = program.server;
    for (const transport of residents) closing.enter({ transport, checkMs: 0, fails: false });
    await world.until("all residents", () => manager.count === residents.length);
    if (isBehind) {
      world.network.change(host, world.host("client-0"), { isBlocked: true });
      for (const session of manager.all()) for (let n = 0; n < 2; n++) session.send("fill", FILL);
    }
    const entering = Promise.all(one.newcomers.map(async ({ atMs, entry }) => {
      await world.pause(atMs);
      closing.enter(entry);
    }));
    const mutes = leaves && isInBand ? closing.enterMute(one.mutes) : [];
    await world.pause(AUTHENTICATE_MS);

    const [beganMs, before] = [world.nowMs, opened.size];
    const ending = outcomeOf(closing.end());
    if (rejects) assert(manager.isDraining, "sessions are not rejected immediately");
    const mostMs = CLOSE_MS + SLACK_MS + (way.startsWith("drain") ? one.withinMs : 0) +
      (isBehind ? BEHIND_MS : 0);
    assertEquals(await world.inTime("the end of the server", ending, mostMs), "fulfilled");
    assertEquals(manager.count, 0);
    const lastMs = rejects ? beganMs : world.nowMs;
    if (isBehind) world.network.change(host, world.host("client-0"), { isBlocked: false });
    await entering;
    await world.pause(AUTHENTICATE_MS + 200);

    const { count, reserved, users, addresses } = manager.stats();
    assertEquals({ count, reserved, users, addresses }, {
      count: 0,
      reserved: 0,
      users: 0,
      addresses: 0,
    }, "slots after the end");
    const all = [...opened.values()];
    const late = all.slice(before).filter(({ atMs }) => atMs > lastMs).length;
    assertEquals(late, 0, "sessions that start after the end");
    assertEquals(
      all.filter(({ codes }) => codes.length !== 1).length,
      0,
      "sessions not closed once",
    );
    const given = (way === "signal" || way === "drain" ? undefined : code) ?? CloseCode.draining;
    // Either of two calls may close a connection without a session.
    if (way !== "drain, then close") {
      assertEquals(
        mutes,
        mutes.map(() => given),
        "mute connections",
      );
    }
    // Clients leave a draining server by themselves.
    const codes = new Set(all.flatMap(({ codes }) => codes));
    if (!way.startsWith("drain")) assertEquals([...codes], [given]);
    assertEquals([...closing.rejected].filter((status) => status !== 503), [], "rejections");
    // A slow reader may miss the close.
    const told = closing.clients.slice(isBehind ? 1 : 0);
    assertEquals(told.filter(({ isConnected }) => isConnected).length, 0, "clients with a session");

    host.kill();
    program.restart();
    const areBack = () => closing.clients.every(({ isConnected }) => isConnected);
    await world.until("all clients at the next server", areBack);
  },
});

/** A server that ends and its clients. */
class Closing {
  readonly program: SimulatedServer<string>;
  readonly clients: Client[] = [];
  readonly opened = new Map<unknown, Opened>();
  /** Statuses of rejected sessions. */
  readonly rejected = new Set<number>();
  readonly #case: Case;
  readonly #stop = new AbortController();
  readonly #checks: { readonly checkMs: number; readonly fails: boolean }[] = [];

  constructor(readonly world: World, one: Case) {
    this.#case = one;
    this.program = world.serve<string>("server", (host) => ({
      ...(host.life === 0 && { signal: this.#stop.signal }),
      session: { closeTimeoutMs: CLOSE_MS, handshakeTimeoutMs: HANDSHAKE_MS },
      limits: { maxSessionsPerUser: Infinity },
      tokens: { inMessage: one.isInBand },
      authenticate: async ({ token = "guest" }) => {
        const { checkMs, fails } = this.#checks.shift() ?? { checkMs: 0, fails: false };
        await pause(host.runtime, checkMs);
        if (fails) throw new AuthenticationError("away", { status: 503 });
        return token;
      },
      onOpen: (session) => void this.opened.set(session, { atMs: world.nowMs, codes: [] }),
      onClose: (session, { code }) => void this.opened.get(session)?.codes.push(code),
      onSessionRejected: ({ status }) => void this.rejected.add(status),
      onError() {},
    }));
  }

  /** Connects a client with its own token check. */
  enter({ transport, ...check }: Case["newcomers"][number]["entry"]): void {
    const name = `client-${this.clients.length}`;
    this.#checks.push(check);
    this.clients.push(this.world.connect(name, this.program.host, {
      token: this.#case.isInBand ? name : undefined,
      transports: [transport],
      backoff: { firstDelayMs: 20, maxDelayMs: 150 },
      connectTimeoutMs: 1_000,
      onMessage() {},
      onMessageRejected() {},
      onError() {},
    }));
  }

  /** Opens connections that announce a token but send none, and returns their close codes. */
  enterMute(count: number): number[] {
    const codes: number[] = [];
    for (let i = 0; i < count; i++) {
      codes.push(0);
      const open = this.world.network.sockets(this.world.host(`mute-${i}`));
      const url = new URL(`wss://${this.program.host.name}/`);
      open(url, ["skein.1", TOKEN_MARK]).onclose = ({ code }) => void (codes[i] = code);
    }
    return codes;
  }

  /** Ends the server in the way that the case specifies. */
  async end(): Promise<void> {
    const { server } = this.program;
    const { way, code, withinMs, apartMs } = this.#case;
    const options = code === undefined ? {} : { code, reason: "A new version" };
    switch (way) {
      case "close":
        return await server.close(options);
      case "close twice":
        return void await Promise.all([server.close(options), server.close({ code: 4_001 })]);
      case "signal":
        this.#stop.abort();
        // The first call decides how the server ends. Later calls wait for the same end.
        return await server.close();
      case "shutdown":
        return await server.manager.shutdown(options);
      case "drain":
        return void await server.drain({ withinMs });
      case "drain of the manager":
        return void await server.manager.drain({ withinMs });
      case "drain, then close": {
        const draining = server.drain({ withinMs });
        await this.world.pause(Math.min(apartMs, withinMs));
        await server.close(options);
        return void await draining;
      }
    }
  }
}

property("a session that a drain cuts receives its code, even if the machine stops right after", {
  cases: fc.record({
    hasHttp3: fc.boolean(),
    withinMs: fc.integer({ min: 100, max: 1_500 }),
    /** Time that a packet to the client takes over each transport, in milliseconds. */
    delaysMs: fc.tuple(...TRANSPORTS.map(() => fc.integer({ min: 1, max: 200 }))),
  }),
  regressions: {
    "a drain whose last packets arrive after the server has ended": {
      hasHttp3: true,
      withinMs: 100,
      delaysMs: [1, 200, 1],
    },
  },
  async check(world, { hasHttp3, withinMs, delaysMs }) {
    if (hasHttp3) world.carry("http3");
    const { server, host } = world.serve("server", () => ({
      requests: { hold: () => new Promise(() => {}) },
      onError() {},
    }));
    const clients = TRANSPORTS.map((transport, i) => {
      world.change(world.host(transport), host, { delayMs: delaysMs[i]! });
      return world.connect(transport, host, { transports: [transport], onError() {} });
    });
    await world.until("all sessions", () => clients.every(({ isConnected }) => isConnected));
    const codes = clients.map((client, i) => {
      // If no reply were pending, the client would leave early.
      client.request("hold").catch(() => {});
      void client.session!.closed.then(({ code }) => codes[i] = code);
      return 0;
    });
    await world.pause(400);
    await server.drain({ withinMs });
    host.kill();
    await world.until("the end of all sessions", () => codes.every((code) => code !== 0), 4_000);
    assertEquals(codes, codes.map(() => CloseCode.draining));
  },
});
