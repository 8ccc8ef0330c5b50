/** Presence data of one client across losses and moves. The server rejects some of the data. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { z } from "zod";
import { CloseCode } from "../../errors.ts";
import { defineContract } from "../../session/contract.ts";
import { keyOf } from "./draw.ts";
import { collect, outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import { byToken } from "./world.ts";

const ROOMS = ["room:x", "room:y"] as const;

/** The contract of the data. */
const CONTRACT = defineContract({
  presence: { "room:{name}": z.object({ n: z.number(), text: z.string() }) },
});

/** Kinds of data and their outcomes. */
const DATA = {
  "other data": { outcome: "fulfilled", of: (n: number) => ({ n, text: "" }) },
  "no data": { outcome: "fulfilled", of: () => undefined },
  "too much data": { outcome: "too-large", of: (n: number) => ({ n, text: "x".repeat(600) }) },
  "invalid data": { outcome: "invalid", of: () => ({ n: "one", text: "" }) },
  "a value without JSON": { outcome: "TypeError", of: () => 1n },
} as const;

const change = fc.record({
  room: fc.constantFrom(...ROOMS),
  data: keyOf(DATA),
  pauseMs: fc.constantFrom(0, 0, 60),
});

property("a room shows the newest data that the server accepted, in each session of a client", {
  cases: fc.record({
    delayMs: fc.integer({ min: 1, max: 40 }),
    rounds: fc.array(
      fc.record({
        changes: fc.array(change, { maxLength: 7 }),
        end: fc.constantFrom("none", "cut", "close", "move"),
        /** Data that changes between the end of the session and the next session, for each room. */
        between: fc.array(keyOf(DATA), {
          maxLength: ROOMS.length,
        }),
      }),
      { minLength: 1, maxLength: 4 },
    ),
  }),
  async check(world, { delayMs, rounds }) {
    const { server, host } = world.serve("server", () => ({
      ...byToken,
      contract: CONTRACT,
      authorize: () => true,
      rooms: ["room:{name}"],
      presence: { graceMs: 10 },
      onError() {},
    }));
    const machine = world.host("ada");
    world.change(host, machine, { delayMs });
    let rejected = 0;
    const client = world.connect("ada", host, {
      token: "ada",
      // This is longer than the grace period, so the user leaves when the session ends.
      backoff: { firstDelayMs: 200, maxDelayMs: 200 },
      onMessageRejected: () => void rejected++,
      onError() {},
    });
    for (const room of ROOMS) void collect(client.subscribe(room), () => {});
    const isThere = () => client.isConnected && server.manager.count === 1;
    await world.until("a session", isThere);
    const accepted = new Map<string, unknown>();
    let next = 0;
    const set = (room: string, data: keyof typeof DATA) => {
      const { outcome: due, of } = DATA[data];
      const value = of(next++);
      return { room, due, value, outcome: outcomeOf(client.presence(room, value as never)) };
    };
    /** Checks outcomes, and remembers the newest data that was accepted in each room. */
    const settle = async (changes: ReturnType<typeof set>[]) => {
      const outcomes = await world.inTime(
        "all outcomes",
        Promise.all(changes.map(({ outcome }) => outcome)),
      );
      for (const [i, { room, due, value }] of changes.entries()) {
        const outcome = outcomes[i]!;
        // Data that was replaced before it was sent has the outcome of the next data.
        const after = changes.findIndex((other, at) => at > i && other.room === room);
        if (after < 0 || outcome !== outcomes[after]) assertEquals(outcome, due);
        if (outcome === "fulfilled") accepted.set(room, value);
      }
    };
    const shown = () => ROOMS.map((room) => server.rooms.members(room).map(({ data }) => data));
    const expected = () => ROOMS.map((room) => [accepted.get(room)]);
    const isRight = () => JSON.stringify(shown()) === JSON.stringify(expected());
    for (const { changes, end, between } of rounds) {
      const setting: ReturnType<typeof set>[] = [];
      for (const { room, data, pauseMs } of changes) {
        setting.push(set(room, data));
        await world.pause(pauseMs);
      }
      await settle(setting);
      await world.until("the newest data", isRight);
      rejected = 0;
      if (end === "none") continue;
      const { session } = client;
      if (end === "cut") world.cut(machine);
      if (end === "move") await client.handOver();
      if (end === "close") {
        for (const one of server.manager.all()) void one.close({ code: CloseCode.draining });
      }
      const later = between.map((data, i) => set(ROOMS[i]!, data));
      await world.until("the next session", () => isThere() && client.session !== session);
      await settle(later);
      await world.until("the newest data in the next session", isRight);
      await world.pause(120);
      assertEquals(shown(), expected());
      // Data that the server rejected is not sent again.
      const most = later.filter(({ due }) => due !== "fulfilled").length;
      assert(rejected <= most, `rejected ${rejected} times`);
    }
  },
});
