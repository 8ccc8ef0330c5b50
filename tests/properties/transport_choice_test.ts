/**
 * Clients with several transports. The properties check which transport a session uses, and
 * when it moves to the preferred one.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { AuthenticationError, CloseCode } from "../../errors.ts";
import { guest } from "../../server/admission/guest.ts";
import { type Fate, RaceModel } from "../../transport/race/race_model.ts";
import { maybe } from "./draw.ts";
import { collect, range } from "./outcomes.ts";
import { property } from "./property.ts";

/** The heartbeat of a server that detects a silent session quickly. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 2_000 } as const;

/**
 * Time around the moment at which a failure is forgotten, in milliseconds. No attempt is made
 * during this time.
 */
const MARGIN_MS = 6_000;

/**
 * Time until a client notices that its clock has jumped. An earlier silence is considered a sleep
 * of the client.
 */
const NOTICED_MS = 5_000 + 2 * HEARTBEAT.intervalMs;

/** Time after which a client abandons a transport that does not open, in milliseconds. */
const GIVEN_UP_MS = 3_300;

/** How a session ends, and what happens to the next attempt over WebTransport. */
const step = fc.record({
  end: fc.constantFrom("cut", "close", "silence"),
  fate: fc.constantFrom<Fate>("opens", "waits", "breaks", "rejected"),
  failsMs: fc.nat(2_500),
  /** If true, the clock jumps to a time before or after a failure is forgotten. */
  clock: fc.constantFrom("stays", "before", "after"),
  failure: fc.nat(2),
});

property("a client uses the transport that it prefers, except while it remembers a failure", {
  cases: fc.record({
    transports: fc.constantFrom(
      ["webtransport", "websocket"] as const,
      ["websocket", "webtransport"] as const,
      ["websocket", "http"] as const,
      ["webtransport", "websocket", "http"] as const,
    ),
    steps: fc.array(step, { minLength: 1, maxLength: 8 }),
  }),
  async check(world, { transports, steps }) {
    let rejectsMs: number | undefined;
    const { server, host } = world.serve("server", () => ({
      authenticate: async ({ request: { headers } }) => {
        const isWebTransport = !headers.has("upgrade") && !headers.has("skein-transport");
        if (rejectsMs === undefined || !isWebTransport) return guest;
        await world.pause(rejectsMs);
        throw new AuthenticationError("As planned");
      },
      session: { heartbeat: HEARTBEAT },
      onError() {},
    }));
    const client = world.connect("client", host, {
      transports,
      backoff: { firstDelayMs: 20, maxDelayMs: 100 },
      onError() {},
    });
    const machine = world.host("client");
    const now = () => machine.runtime.now();
    const model = new RaceModel(transports);
    await world.until("a session", () => client.isConnected);
    assertEquals(transportOf(client), model.next(now(), { fate: "opens", failsMs: 0 }));
    let noticedMs = 0;
    for (const { end, failsMs, clock, failure, ...step } of steps) {
      const { session } = client;
      const fate = transports[0] === "webtransport" ? step.fate : "opens";
      // HTTP has no connection to cut, and without UDP, WebTransport loses a close.
      const isHttp = session!.transport === "http";
      const blockUdp = fate === "waits" || fate === "breaks";
      const isDeaf = blockUdp && session!.transport === "webtransport";
      if (end === "silence" && !isHttp) await world.pause(Math.max(0, noticedMs - world.nowMs));
      const isSilent = end === "silence" && !isHttp &&
        !model.endsMs.some((ms) => isNear(ms, now()));
      const jumpMs = isSilent ? 0 : jumpOf(model, { clock, failure, nowMs: now() });
      if (jumpMs > 0) {
        machine.jumpClock(jumpMs);
        noticedMs = world.nowMs + NOTICED_MS;
      }
      world.change(host, machine, { blockUdp });
      rejectsMs = fate === "rejected" ? failsMs : undefined;
      if (isSilent) world.cut(machine, true);
      else if (isHttp || end === "close" && !isDeaf) {
        for (const one of server.manager.all()) void one.close({ code: CloseCode.draining });
      } else world.cut(machine);
      const isBack = () => client.isConnected && client.session !== session;
      await world.until("the next session", isBack);
      const silent = isSilent ? session!.transport : undefined;
      assertEquals(transportOf(client), model.next(now(), { fate, failsMs, silent }));
      if (fate === "breaks") {
        await world.pause(failsMs);
        for (const link of world.network.links) {
          if (link.client === machine && link.kind === "webtransport") link.disconnect();
        }
      }
      await world.pause(fate === "opens" ? 300 : GIVEN_UP_MS);
      world.change(host, machine, { blockUdp: false });
      rejectsMs = undefined;
    }
  },
});

/** Interval between upgrade attempts, in milliseconds. */
const AGAIN_MS = 600_000;

/**
 * Time before an attempt during which no other attempt may be made, and time until an attempt is
 * visible, in milliseconds.
 */
const [EARLY_MS, SEEN_MS] = [30_000, 7_000] as const;

property("a client moves to its preferred transport once that opens, if it may upgrade", {
  cases: fc.record({
    upgrade: fc.boolean(),
    /** Time without UDP, or `undefined` if it lasts longer than the client tries WebTransport. */
    blockedMs: maybe(fc.nat(400)),
    /** Number of further attempts that fail. */
    fruitless: fc.nat(1),
    end: fc.constantFrom("cut", "close"),
  }),
  async check(world, { upgrade, blockedMs, fruitless, end }) {
    const handled: unknown[] = [];
    const { server, host } = world.serve("server", () => ({
      authorize: () => true,
      onMessage: ({ data }) => void handled.push(data),
    }));
    const machine = world.host("client");
    const block = (blockUdp: boolean) => world.change(host, machine, { blockUdp });
    block(true);
    const client = world.connect("client", host, {
      transports: ["webtransport", "websocket"],
      upgrade,
      delivery: "at-least-once",
      connectTimeoutMs: 4_000,
      backoff: { firstDelayMs: 20, maxDelayMs: 100 },
      onError() {},
    });
    let sessions = 0;
    client.status.observe(({ name }) => void (sessions += Number(name === "connected")));
    const subscription = client.subscribe("talk");
    const got: unknown[] = [];
    void collect(subscription, ({ data }) => void got.push(data));
    await world.until("a subscription", () => subscription.status.current === "subscribed");
    assertEquals(transportOf(client), "websocket for webtransport");
    let next = 0;
    const passTime = async (ms: number) => {
      for (const endMs = world.nowMs + ms; world.nowMs < endMs;) {
        server.publish("talk", next);
        client.send("work", next++);
        await world.pause(150);
      }
      await world.pause(400);
      assertEquals([got, handled], [range(0, next - 1), range(0, next - 1)]);
    };
    if (blockedMs !== undefined) {
      await world.pause(blockedMs);
      block(false);
      await passTime(3_500);
    } else {
      await world.pause(4_000);
      for (let left = upgrade ? fruitless : 0; left >= 0; left--) {
        block(left > 0);
        machine.jumpClock(AGAIN_MS - EARLY_MS);
        await world.pause(SEEN_MS);
        assertEquals(transportOf(client), "websocket for webtransport", "before its time");
        machine.jumpClock(EARLY_MS);
        await (left > 0 ? world.pause(10_000) : passTime(10_000));
      }
    }
    assertEquals(transportOf(client), upgrade ? "webtransport" : "websocket for webtransport");
    // On the preferred transport or without the option, no further attempt is made.
    machine.jumpClock(AGAIN_MS + EARLY_MS);
    await world.pause(SEEN_MS);
    assertEquals(sessions, upgrade ? 2 : 1);
    await world.until("one session at the server", () => server.manager.count === 1);
    const { session } = client;
    if (end === "cut") world.cut(machine);
    else for (const one of server.manager.all()) void one.close({ code: CloseCode.draining });
    await world.until("the next session", () => client.isConnected && client.session !== session);
    assertEquals(transportOf(client), "webtransport");
  },
});

/** Returns a clock jump to a time well before or well after a failure is forgotten. */
function jumpOf(
  { endsMs }: RaceModel,
  { clock, failure, nowMs }: {
    readonly clock: "stays" | "before" | "after";
    readonly failure: number;
    readonly nowMs: number;
  },
): number {
  const later = endsMs.filter((endMs) => endMs > nowMs - MARGIN_MS);
  const endMs = later[failure % later.length];
  const aside = clock === "before" ? -MARGIN_MS : MARGIN_MS;
  let toMs = endMs === undefined || clock === "stays" ? nowMs : Math.max(nowMs, endMs + aside);
  while (later.some((endMs) => isNear(endMs, toMs))) toMs += MARGIN_MS;
  return Math.round(toMs - nowMs);
}

/** Returns true if an attempt may happen before or after a failure is forgotten. */
function isNear(endMs: number, nowMs: number): boolean {
  return Math.abs(endMs - nowMs) < MARGIN_MS;
}

/**
 * Returns the name of the transport of a client's session, and of the transport that it replaces.
 */
function transportOf({ session }: Client): string {
  if (session === undefined) return "none";
  const { transport, fallback } = session;
  return fallback === undefined ? transport : `${transport} for ${fallback.transport}`;
}
