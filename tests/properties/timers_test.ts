/**
 * Timers of servers and clients. A session uses few timers, and none is left after it has ended.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { CloseCode } from "../../errors.ts";
import { transport } from "./draw.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";
import { byToken, type World } from "./world.ts";

/**
 * Maximum number of a server's timers per session: one for the token's expiry and one for the
 * connection.
 */
const TIMERS = { websocket: 1, webtransport: 2, http: 2 } as const;

/**
 * Lifetime of a token, which no case reaches, and time for which connections and presence are kept,
 * in milliseconds.
 */
const [TOKEN_MS, KEPT_MS] = [600_000, 8_000] as const;

property("sessions have few timers, reconnects add none, and the last session leaves none", {
  cases: fc.record({
    transport,
    topic: fc.constantFrom("talk", "room:a"),
    sessions: fc.integer({ min: 1, max: 4 }),
    /** How all sessions end, one after another. */
    ends: fc.array(fc.constantFrom("close", "cut", "move"), { maxLength: 3 }),
  }),
  async check(world, { transport, topic, sessions, ends }) {
    const { server, host } = world.serve<string>("server", ({ runtime }) => ({
      ...byToken,
      authorize: () => true,
      tokens: { ...byToken.tokens, expiresAt: () => runtime.now() + TOKEN_MS },
      rooms: ["room:{name}"],
      presence: { graceMs: 500 },
      requests: { echo: ({ data }) => data },
      onError() {},
    }));
    await world.pause(100);
    const atFirst = await timersOf(world, "server");
    const counts: number[] = [];
    const clients: Client[] = [];
    for (const n of range(1, sessions)) {
      const client = world.connect(`user-${n}`, host, {
        token: `user-${n}`,
        transports: [transport],
        backoff: { firstDelayMs: 20, maxDelayMs: 50 },
        onError() {},
      });
      clients.push(client);
      await world.inTime("a subscription", client.subscribe(topic).ready);
      assertEquals(await client.request("echo", n), n);
      await world.pause(100);
      counts.push(await timersOf(world, "server"));
    }
    const most = counts[0]! + (sessions - 1) * TIMERS[transport];
    assert(counts.at(-1)! <= most, `${counts} timers of the server`);
    const before = await timersOf(world, "user-1");
    for (const end of ends) {
      const old = new Set(clients.map(({ session }) => session));
      // Connections over HTTP survive a cut.
      if (end === "move") await Promise.all(clients.map((client) => client.handOver()));
      else if (end === "cut" && transport !== "http") {
        for (const n of range(1, sessions)) world.cut(world.host(`user-${n}`));
      } else for (const one of server.manager.all()) void one.close({ code: CloseCode.draining });
      await world.until("the next sessions", () =>
        server.manager.count === sessions &&
        clients.every(({ isConnected, session }) => isConnected && !old.has(session)));
    }
    await world.pause(KEPT_MS);
    const after = await timersOf(world, "user-1");
    assert(after <= before, `${before} timers of a client, then ${after}`);
    const served = await timersOf(world, "server");
    assert(served <= Math.max(counts.at(-1)!, most), `${counts}, then ${served} timers`);
    await Promise.all(clients.map((client) => client.close()));
    await world.pause(KEPT_MS);
    assertEquals(await timersOf(world, "server"), atFirst, "timers without a session");
  },
});

/**
 * Returns the minimum number of a machine's timers at several moments, because messages in flight
 * are events too.
 */
async function timersOf({ simulation }: World, name: string): Promise<number> {
  let fewest = Infinity;
  for (let look = 0; look < 10; look++) {
    const timers = [...simulation.pending()].filter(({ host }) => host?.name === name);
    fewest = Math.min(fewest, timers.length);
    await simulation.sleep(7);
  }
  return fewest;
}
