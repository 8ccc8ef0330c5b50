/** The outbox of a client, in which messages wait for a session. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";

/** Limits of the outbox. Either of them may be reached first. */
const OUTBOX = { maxMessages: 12, maxBytes: 6_000 } as const;

/**
 * Maximum size of a message that the server accepts, in bytes. It is less than the client assumes
 * before its session.
 */
const MAX_MESSAGE_BYTES = 1_024;

property("an outbox accepts messages up to its limits, and frees the space of sent ones", {
  cases: fc.record({
    delivery: fc.constantFrom("at-least-once", "at-most-once"),
    rounds: fc.array(
      fc.array(fc.constantFrom(0, 200, 700, MAX_MESSAGE_BYTES), {
        maxLength: OUTBOX.maxMessages + 1,
        size: "max",
      }),
      { minLength: 1, maxLength: 4 },
    ),
  }),
  async check(world, { delivery, rounds }) {
    const handled: number[] = [];
    const { host } = world.serve("node", () => ({
      session: { maxMessageBytes: MAX_MESSAGE_BYTES },
      onMessage: ({ data }) => void handled.push((data as { readonly n: number }).n),
      onError() {},
    }));
    const client = world.connect("ada", host, {
      delivery,
      outbox: OUTBOX,
      backoff: { firstDelayMs: 10, maxDelayMs: 50 },
      onMessageRejected() {},
      onError() {},
    });
    for (const sizes of rounds) {
      handled.length = 0;
      world.change(world.host("ada"), host, { isBlocked: true });
      world.cut(world.host("ada"));
      await world.until("a lost session", () => !client.isConnected);
      const expected: number[] = [];
      let [messages, bytes] = [0, 0];
      for (const [n, size] of sizes.entries()) {
        const data = { n, pad: "x".repeat(size) };
        const own = JSON.stringify({ topic: "kept", data }).length;
        const isFull = messages >= OUTBOX.maxMessages || bytes + own > OUTBOX.maxBytes;
        const outcome = await outcomeOf(Promise.try(() => client.send("kept", data)));
        assertEquals(outcome, isFull ? "QueueFullError" : "fulfilled");
        if (isFull) break;
        messages++;
        bytes += own;
        if (own <= MAX_MESSAGE_BYTES) expected.push(n);
      }
      assertEquals([client.outbox.messages, client.outbox.bytes], [messages, bytes]);
      world.change(world.host("ada"), host, { isBlocked: false });
      await world.until("a session", () => client.isConnected);
      await world.inTime("an empty outbox", client.flushed());
      await world.until("all messages", () => handled.length >= expected.length);
      assertEquals(handled, expected);
      assertEquals([client.outbox.messages, client.outbox.bytes], [0, 0]);
    }
  },
});
