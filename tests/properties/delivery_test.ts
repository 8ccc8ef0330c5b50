/** Messages of clients whose connections break. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { faultsOf, planFaults } from "./faults.ts";
import { property } from "./property.ts";

property("the server handles each message of a client with at-least-once delivery, in order", {
  cases: fc.record({
    transport: fc.constantFrom("websocket", "webtransport", "http"),
    pausesMs: fc.array(fc.nat(100), { maxLength: 10 }),
    faults: faultsOf(["a cut", "a silent cut"], { withinMs: 1_000, lastsMs: 500 }),
  }),
  async check(world, { transport, pausesMs, faults }) {
    const handled: unknown[] = [];
    const node = world.serve("node", () => ({
      onMessage: ({ data }) => void handled.push(data),
    }));
    const client = world.connect("ada", node.host, {
      delivery: "at-least-once",
      transports: [transport],
    });
    planFaults(world, faults, { client: world.host("ada"), server: node });
    for (const [number, pauseMs] of pausesMs.entries()) {
      client.send("number", number);
      await world.pause(pauseMs);
    }
    await world.inTime("an empty outbox", client.flushed(), 120_000);
    assertEquals(handled, [...pausesMs.keys()]);
  },
});
