/**
 * Streaming responses. The properties compare how readers and handlers end, how many items are
 * ahead of the reader, and which slots are freed.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { keyOf, transport } from "./draw.ts";
import { collect, outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/**
 * Maximum number of concurrent requests in a session. Each property makes more requests, one after
 * another.
 */
const MAX_REQUESTS = 2;

/** Time until the other side knows that a response has ended, in milliseconds. */
const TRIP_MS = 400;

/** Maximum duration of a response, in milliseconds. */
const RESPONSE_MS = 4_000;

/** Maximum number of bytes ahead of the reader. See docs/protocol.md 25.5. */
const MAX_AHEAD_BYTES = 1_048_576;

/** Ways in which a response ends, with the outcome of the reader's loop. */
const ENDS = {
  "all items": "fulfilled",
  "a break": "fulfilled",
  "a cancel while the loop waits": "fulfilled",
  "a signal": "AbortError",
  "no item in time": "TimeoutError",
  "no end in time": "TimeoutError",
  "an error of the handler": "failed",
} as const;

/** The work that the handler does. */
interface Work {
  readonly items: number;
  readonly betweenMs: number;
  readonly pad: string;
  /** The event after the items. The response ends, waits for its signal, or fails. */
  readonly then: "end" | "wait" | "fail";
}

/** The responses of a server as its handler sees them. */
class Producer {
  /** Number of items that were generated for the newest response. */
  made = 0;
  /** Number of handlers that have not ended. */
  running = 0;

  async *items(
    world: World,
    { data, signal }: { readonly data: unknown; readonly signal: AbortSignal },
  ): AsyncGenerator<unknown> {
    const { items, betweenMs, pad, then } = data as Work;
    this.made = 0;
    this.running++;
    try {
      for (let index = 0; index < items && !signal.aborted; index++) {
        if (betweenMs > 0) await world.pause(betweenMs);
        this.made++;
        yield { index, pad };
      }
      if (then === "fail") throw new Error("the handler fails");
      if (then === "wait") await new Promise((resolve) => signal.onabort = resolve);
    } finally {
      this.running--;
    }
  }
}

property("a streaming response ends as its reader or handler ends it, and frees its slot", {
  runs: 10,
  cases: fc.array(
    fc.record({
      end: keyOf(ENDS),
      items: fc.nat(6),
      window: fc.integer({ min: 1, max: 5 }),
      betweenMs: fc.constantFrom(0, 20),
      loopMs: fc.constantFrom(0, 30, 150),
      padBytes: fc.constantFrom(0, 20_000),
    }),
    { maxLength: 2 * MAX_REQUESTS + 1, size: "max" },
  ),
  async check(world, responses) {
    const producer = new Producer();
    const { server, host } = world.serve("node", () => ({
      session: { maxRequests: MAX_REQUESTS, concurrency: MAX_REQUESTS },
      onError() {},
      requests: {
        items: (request) => producer.items(world, request),
        echo: ({ data }) => data,
      },
    }));
    const client = world.connect("ada", host);
    const { near } = await world.meet(client, server);
    for (const { end, items, window, betweenMs, loopMs, padBytes } of responses) {
      const isLeft = end === "a break" || end === "a signal";
      const then = end === "all items" ? "end" : end.startsWith("an error") ? "fail" : "wait";
      const work: Work = {
        items: isLeft ? 1_000 : items,
        betweenMs,
        pad: "x".repeat(padBytes),
        then,
      };
      const controller = new AbortController();
      const response = client.requestStream("items", work, {
        window,
        signal: controller.signal,
        itemTimeoutMs: end === "no item in time" ? 200 : undefined,
        timeoutMs: end === "no end in time" ? 1_500 : RESPONSE_MS,
      });
      const got: number[] = [];
      const read = async () => {
        for await (const item of response) {
          got.push((item as { readonly index: number }).index);
          assert(producer.made - got.length <= window, "more items ahead than the window");
          if (loopMs > 0) await world.pause(loopMs);
          if (end === "a break" && got.length > items) break;
          if (end === "a signal" && got.length > items) controller.abort();
        }
      };
      if (end.startsWith("a cancel")) {
        void world.pause(1_500).then(() => response.cancel());
      }
      const outcome = await world.inTime("the end of a response", outcomeOf(read()), RESPONSE_MS);
      assertEquals([outcome, got], [ENDS[end], range(0, isLeft ? items : items - 1)]);
      await world.until("the end of the handler", () => producer.running === 0, TRIP_MS);
    }
    // All slots are free again.
    const echoes = range(1, MAX_REQUESTS).map((n) => client.request("echo", n));
    assertEquals(await Promise.all(echoes), range(1, MAX_REQUESTS));
    assertEquals(near.state, "connected");
  },
});

property(
  "a reader that cancels before the response starts receives no item, and none is generated",
  {
    cases: fc.record({
      end: fc.constantFrom("cancel", "signal", "time"),
      afterMs: fc.integer({ min: 1, max: 150 }),
      /**
       * True if the client's connection is lost and then restored before the handler would start.
       */
      isAway: fc.boolean(),
    }),
    async check(world, { end, afterMs, isAway }) {
      let made = 0;
      const { host } = world.serve("node", () => ({
        requests: {
          // This is a generator that ignores its signal and starts late.
          items: async () => {
            await world.pause(200);
            return (async function* () {
              while (made < 1_000) {
                await world.pause(5);
                yield made++;
              }
            })();
          },
        },
      }));
      const client = world.connect("ada", host);
      await world.until("a session", () => client.isConnected);
      if (isAway) await goAway(world, client);
      const controller = new AbortController();
      const response = client.requestStream("items", undefined, {
        signal: controller.signal,
        timeoutMs: end === "time" ? afterMs : undefined,
      });
      const got: unknown[] = [];
      const reading = collect(response, (item) => got.push(item));
      await world.pause(afterMs);
      if (end === "cancel") void response.cancel();
      if (end === "signal") controller.abort();
      if (isAway) world.change(world.host("ada"), host, { isBlocked: false });
      const outcome = await world.inTime("the end of the loop", reading);
      const expected = { cancel: "fulfilled", signal: "AbortError", time: "TimeoutError" };
      assertEquals([outcome, got], [expected[end], []]);
      await world.until("a session", () => client.isConnected);
      await world.pause(200 + TRIP_MS);
      assertEquals(made, 0);
    },
  },
);

property("a handler generates no more bytes than the reader's credit, whatever their form", {
  runs: 3,
  cases: fc.record({
    transport,
    /** Characters of one to four bytes, and plain bytes. */
    form: fc.constantFrom("x", "é", "語", "🧶", "bytes"),
    itemBytes: fc.integer({ min: 40_000, max: 200_000 }),
    loopMs: fc.constantFrom(0, 30),
  }),
  async check(world, { transport, form, itemBytes, loopMs }) {
    const encoder = new TextEncoder();
    const item = form === "bytes"
      ? new Uint8Array(itemBytes).fill(7)
      : form.repeat(itemBytes / encoder.encode(form).length);
    const size = item.length * (form === "bytes" ? 1 : encoder.encode(form).length / form.length);
    const count = Math.ceil(1.5 * MAX_AHEAD_BYTES / size);
    let made = 0;
    const { host } = world.serve("node", () => ({
      requests: {
        async *items() {
          for (; made < count; made++) yield item;
        },
      },
    }));
    const client = world.connect("ada", host, { transports: [transport] });
    let taken = 0;
    // One more is generated before its credit is requested.
    const most = Math.floor(MAX_AHEAD_BYTES / size) + 2;
    const read = async () => {
      for await (const received of client.requestStream("items")) {
        assertEquals(received, item);
        if (taken++ === 0) {
          await world.pause(2_000);
          assert(made >= most - 3, `only ${made} items are made for ${most}`);
        }
        assert(made - taken <= most, `${made - taken} items ahead, at most ${most}`);
        if (loopMs > 0) await world.pause(loopMs);
      }
    };
    assertEquals(await world.inTime("the end", outcomeOf(read()), 10_000), "fulfilled");
    assertEquals(taken, count);
  },
});

/** Breaks a client's connection and keeps the client offline. */
async function goAway(world: World, client: Client): Promise<void> {
  world.change(world.host("ada"), world.host("node"), { isBlocked: true });
  world.cut(world.host("ada"));
  await world.until("a lost session", () => !client.isConnected);
}
