/** Messages and publications that wait for a session: the outbox of a client. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { faultsOf, planFaults } from "./faults.ts";
import { collect, outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";

/** Bounds of the outbox, either of which comes first. */
const OUTBOX = { maxMessages: 12, maxBytes: 6_000 } as const;

/** Most bytes of a message that the server takes: less than the client knows before its session. */
const MAX_MESSAGE_BYTES = 1_024;

const payload = fc.record({
  size: fc.constantFrom(0, 200, 700, MAX_MESSAGE_BYTES),
  isBinary: fc.boolean(),
});

/** Makes the data of a message, which has its number. */
function dataOf(
  n: number,
  { size, isBinary }: { readonly size: number; readonly isBinary: boolean },
) {
  return isBinary ? new Uint8Array([n, ...Array(size).fill(7)]) : { n, pad: "x".repeat(size) };
}

function numberOf(data: unknown): number {
  return data instanceof Uint8Array ? data[0]! : (data as { readonly n: number }).n;
}

property("an outbox takes messages up to its bounds, and gives each one's room back", {
  cases: fc.record({
    delivery: fc.constantFrom("at-least-once", "at-most-once"),
    rounds: fc.array(
      fc.array(fc.record({ size: fc.constantFrom(0, 200, 700, MAX_MESSAGE_BYTES) }), {
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
      onMessage: ({ data }) => void handled.push(numberOf(data)),
      onError() {},
    }));
    const client = world.connect("ada", host, {
      delivery,
      outbox: OUTBOX,
      backoff: { firstDelayMs: 10, maxDelayMs: 50 },
      onRefused() {},
      onError() {},
    });
    for (const sizes of rounds) {
      handled.length = 0;
      world.change(world.host("ada"), host, { isBlocked: true });
      world.cut(world.host("ada"));
      await world.until("a lost session", () => !client.isConnected);
      const expected: number[] = [];
      let [messages, bytes] = [0, 0];
      for (const [n, { size }] of sizes.entries()) {
        const data = dataOf(n, { size, isBinary: false });
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

property(
  "everything that waits in an outbox arrives once and in order, and what is too large is refused",
  {
    cases: fc.record({
      items: fc.array(
        fc.record({
          kind: fc.constantFrom("message", "publication", "publication for others"),
          payload,
        }),
        // More than a client has on the way at once.
        { maxLength: 45, size: "max" },
      ),
      faults: faultsOf(["a cut", "a silent cut"], { withinMs: 60, lastsMs: 1 }),
    }),
    async check(world, { items, faults }) {
      const taken = { message: [] as number[], publication: [] as number[] };
      const node = world.serve("node", () => ({
        authorize: () => true,
        session: { maxMessageBytes: MAX_MESSAGE_BYTES },
        onMessage: ({ data }) => void taken.message.push(numberOf(data)),
        onError() {},
      }));
      const reader = world.connect("bob", node.host);
      const subscription = reader.subscribe("talk");
      void collect(subscription, ({ data }) => taken.publication.push(numberOf(data)));
      await subscription.ready;

      const start = Promise.withResolvers<void>();
      const refused: string[] = [];
      const client = world.connect("ada", node.host, {
        connectAfter: start.promise,
        delivery: "at-least-once",
        backoff: { firstDelayMs: 20, maxDelayMs: 100 },
        onRefused: ({ failure }) => void refused.push(failure.code),
      });
      const expected = { message: [] as number[], publication: [] as number[] };
      const outcomes: Promise<string>[] = [];
      for (const [n, { kind, payload }] of items.entries()) {
        const data = dataOf(n, payload);
        if (payload.size < MAX_MESSAGE_BYTES) {
          expected[kind === "message" ? "message" : "publication"].push(n);
        }
        if (kind === "message") client.send("note", data);
        else {
          const except = kind === "publication" ? undefined : "self";
          outcomes.push(outcomeOf(client.publish("talk", data, { except })));
        }
      }
      assertEquals(client.outbox.messages, items.length);
      planFaults(world, faults, { client: world.host("ada"), server: node });
      start.resolve();

      await world.inTime("an empty outbox", client.flushed(), 120_000);
      const codes = items.filter(({ kind }) => kind !== "message")
        .map(({ payload }) => payload.size < MAX_MESSAGE_BYTES ? "fulfilled" : "too-large");
      assertEquals(await world.inTime("all publications", Promise.all(outcomes)), codes);
      await world.until(
        "all at their readers",
        () =>
          taken.message.length >= expected.message.length &&
          taken.publication.length >= expected.publication.length,
      );
      assertEquals(taken, expected);
      const large = items.filter(({ payload }) => payload.size >= MAX_MESSAGE_BYTES);
      assertEquals(refused, large.map(() => "too-large"));
      assertEquals([client.outbox.messages, client.outbox.bytes], [0, 0]);
    },
  },
);
