/**
 * Requests of one session. The properties compare the limit on open requests on either side, and
 * how each request frees its slot.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { RequestError } from "../../errors.ts";
import { keyOf } from "./draw.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";

/** Maximum number of concurrent requests. */
const MAX_REQUESTS = 4;

/** Timeout of a request that times out, in milliseconds. */
const SHORT_MS = 200;

/** Data that is too large for a message. */
const TOO_LARGE = "x".repeat(4_096);

/** Ways in which a request ends, with their outcomes. */
const ENDS = {
  reply: "fulfilled",
  rejection: "rejected",
  signal: "AbortError",
  "time limit": "TimeoutError",
  stream: "fulfilled",
  "stream that its reader leaves": "fulfilled",
  "stream whose handler fails": "failed",
} as const;

property("a session has a bounded number of open requests, and each frees its slot", {
  cases: fc.record({
    /** The end that reaches its limit first. */
    bound: fc.constantFrom("asker", "replySender"),
    asker: fc.constantFrom("client", "server"),
    beyond: fc.constantFrom("request", "stream"),
    rounds: fc.array(
      fc.array(keyOf(ENDS), {
        minLength: MAX_REQUESTS,
        maxLength: MAX_REQUESTS,
      }),
      { minLength: 1, maxLength: 5 },
    ),
  }),
  async check(world, { bound, asker, beyond, rounds }) {
    let gate = Promise.withResolvers<void>();
    const requests = {
      async hold({ data }: { readonly data: unknown }) {
        await gate.promise;
        if (data === "rejection") throw new RequestError("rejected", "as planned");
        return data;
      },
      async *items({ data }: { readonly data: unknown }) {
        try {
          yield 0;
          await gate.promise;
          if (data === "stream whose handler fails") throw new Error("as planned");
          yield 1;
        } finally {
          // The handler's cleanup may fail too, after its reader has left.
          if (data === "stream that its reader leaves") fail();
        }
      },
    };
    const [few, many] = [MAX_REQUESTS, 2 * MAX_REQUESTS];
    const limitsOf = (end: typeof asker) => ({
      maxRequests: (end === asker) === (bound === "asker") ? few : many,
      maxMessageBytes: TOO_LARGE.length / 2,
      concurrency: many,
    });
    const { server, host } = world.serve("node", () => ({
      session: limitsOf("server"),
      requests,
      onError() {},
    }));
    const { concurrency, maxRequests } = limitsOf("client");
    const client = world.connect("ada", host, {
      concurrency,
      maxRequests,
      requests: requests as never,
      onError() {},
    });
    const { near, far } = await world.meet(client, server);
    const session = asker === "client" ? near : far;
    const rejection = bound === "asker" ? "QueueFullError" : "too-many";
    const first = async (data: string) => {
      for await (const _item of session.requestStream("items", data)) break;
    };
    for (const ends of rounds) {
      gate = Promise.withResolvers();
      // A request that cannot be sent uses no slot.
      assertEquals(await outcomeOf(session.request("hold", TOO_LARGE)), "RangeError");
      assertEquals(await outcomeOf(Promise.try(() => first(TOO_LARGE))), "RangeError");
      const stop = new AbortController();
      const leave: (() => void)[] = [];
      const outcomes = ends.map((end) => {
        if (!end.startsWith("stream")) {
          return outcomeOf(session.request("hold", end, {
            signal: end === "signal" ? stop.signal : undefined,
            timeoutMs: end === "time limit" ? SHORT_MS : undefined,
          }));
        }
        const items = session.requestStream("items", end)[Symbol.asyncIterator]();
        if (end === "stream that its reader leaves") leave.push(() => void items.return?.());
        return outcomeOf((async () => {
          while (!(await items.next()).done);
        })());
      });
      await world.pause(SHORT_MS / 2);
      const next = beyond === "request" ? session.request("hold", "reply") : first("stream");
      assertEquals(await world.inTime("a rejection", outcomeOf(next)), rejection);
      stop.abort();
      for (const end of leave) end();
      await world.pause(SHORT_MS);
      gate.resolve();
      const received = await world.inTime("all outcomes", Promise.all(outcomes));
      assertEquals(received, ends.map((end) => ENDS[end]));
      await world.pause(SHORT_MS);
    }
    gate.resolve();
    const replies = range(1, MAX_REQUESTS).map((n) => session.request("hold", n));
    assertEquals(await Promise.all(replies), range(1, MAX_REQUESTS));
    assertEquals(session.state, "connected");
  },
});

function fail(): never {
  throw new Error("as planned");
}
