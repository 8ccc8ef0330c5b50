/** Streaming responses between two sessions, and with a scripted peer. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import { platformRuntime } from "../../base/runtime.ts";
import { QueueFullError, RequestError, SessionClosedError, TimeoutError } from "../../errors.ts";
import { clientByHand, ends, HELLO, PLAIN, serverByHand } from "../../tests/sessions.ts";
import { defineContract } from "../contract.ts";
import { internals, Session } from "../session.ts";
import type { Instrumentation } from "../insight/instrumentation.ts";
import { instrument } from "../insight/watch.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { POLICIES } from "../queue/overflow.ts";
import { sessionSettings } from "../settings/session_settings.ts";
import { soon, turns } from "../../tests/waiting.ts";
import { resumable } from "../../streams/mod.ts";

/** Counts up, and records how far and how the generator ended. */
function counting(): {
  readonly seen: { made: number; reason: unknown; returned: number };
  count(message: { data: unknown; signal: AbortSignal }): AsyncGenerator<number>;
} {
  const seen = { made: 0, reason: undefined as unknown, returned: 0 };
  return {
    seen,
    async *count({ data, signal }) {
      signal.addEventListener("abort", () => seen.reason = signal.reason);
      try {
        for (let i = 0; i < Number(data); i++) {
          seen.made++;
          yield i;
        }
      } finally {
        seen.returned++;
      }
    },
  };
}

/** Yields a text of 5,000 characters a given number of times. */
async function* repeating({ data }: { readonly data: unknown }): AsyncGenerator<string> {
  for (let i = 0; i < Number(data); i++) yield "x".repeat(5_000);
}

const numbers = (count: number) => Array.from({ length: count }, (_, i) => i);

Deno.test("Session.requestStream() yields the items of a generator in order, in both directions", async () => {
  const requests = { count: counting().count };
  await using both = await ends({ requests }, { requests });
  for (const session of [both.client, both.server]) {
    const items = await soon(Array.fromAsync(session.requestStream("count", 1_000)));
    assertEquals(items, numbers(1_000));
    assertEquals(session.stats.pendingReplies, 0);
  }
});

Deno.test("Session.requestStream() yields what onMessage replies with: a generator, a stream, bytes", async () => {
  await using both = await ends({
    onMessage(message) {
      if (message.topic === "stream") {
        return message.reply(ReadableStream.from(["a", null, { b: [1] }]));
      }
      message.reply(async function* () {
        yield Uint8Array.of(1, 2);
        await Promise.resolve();
        yield "text";
      }());
    },
  });
  assertEquals(await soon(Array.fromAsync(both.client.requestStream("stream"))), [
    "a",
    null,
    { b: [1] },
  ]);
  assertEquals(await soon(Array.fromAsync(both.client.requestStream("bytes"))), [
    Uint8Array.of(1, 2),
    "text",
  ]);
});

Deno.test("requests replies with a value, a promise, a generator or a promise of one", async () => {
  await using both = await ends({
    requests: {
      value: ({ data }) => [data],
      promise: ({ data }) => Promise.resolve([data]),
      "to:{name}": ({ params }) => params.name,
      nothing: () => undefined,
      async later() {
        await Promise.resolve();
        return ReadableStream.from([1, 2]);
      },
      rejected: () => {
        throw new RequestError("no", "Not today");
      },
    },
  });
  const { client } = both;
  assertEquals(await soon(client.request("value", 1)), [1]);
  assertEquals(await soon(client.request("promise", 2)), [2]);
  assertEquals(await soon(client.request("to:ann")), "ann");
  assertEquals(await soon(client.request("nothing")), undefined);
  assertEquals(await soon(Array.fromAsync(client.requestStream("later"))), [1, 2]);
  const rejection = await assertRejects(() => soon(client.request("rejected")), RequestError);
  assertEquals([rejection.failure.code, both.server.stats.handlerFailures], ["no", 0]);
  const unknown = await assertRejects(() => soon(client.request("else")), RequestError);
  assertEquals(unknown.failure.code, "unanswered");
});

Deno.test("requests leaves messages to the loop, and other requests to onMessage", async () => {
  await using looped = await ends({ requests: { one: () => 1 } });
  looped.client.send("hi", "there");
  assertEquals(await soon(looped.client.request("one")), 1);
  for await (const { topic, data } of looped.server) {
    assertEquals([topic, data], ["hi", "there"]);
    break;
  }
  const seen: string[] = [];
  await using handled = await ends({
    requests: { one: () => 1 },
    onMessage: (message) => {
      seen.push(message.topic);
      if (message.isRequest) message.reply(2);
    },
  });
  handled.client.send("one");
  assertEquals(await soon(handled.client.request("one")), 1);
  assertEquals(await soon(handled.client.request("two")), 2);
  assertEquals(seen, ["one", "two"]);
});

Deno.test("requests is checked when the settings are created", () => {
  const contract = defineContract({
    requests: {
      sum: { input: z.null(), output: z.number() },
      count: { input: z.null(), stream: z.number() },
    },
  });
  for (
    const [requests, rule] of [
      [{ sum: 1 }, "must be a function"],
      [{ other: () => 1 }, "no request"],
      [{ count: { resumable, handle: async function* () {} } }, "needs resume in the contract"],
    ] as const
  ) {
    const options = { side: "server", contract, requests } as never;
    assertThrows(() => sessionSettings(options), TypeError, rule);
  }
  for (
    const [requests, rule] of [
      [{ "a:{b}": () => 1, "a:b": () => 1 }, "overlap"],
      [{ "a:{": () => 1 }, "braces"],
      [{ a: { anser() {} } }, "must be a function"],
      [{ a: { handle() {} } }, "an object with handle, and resumable or cost"],
      [{ a: { resumable, handle() {}, resume: 1 } }, "must be a function"],
    ] as const
  ) {
    const options = { side: "server", requests } as never;
    assertThrows(() => sessionSettings(options), TypeError, rule);
  }
  for (const cost of [-1, Infinity, NaN, "1"]) {
    const options = { side: "server", requests: { a: { cost, handle() {} } } } as never;
    const rule = 'cost of requests["a"] must be a number of 0 or more, received';
    assertThrows(() => sessionSettings(options), RangeError, rule);
  }
});

Deno.test("Session.requestStream() suspends the producer after exactly one window of items", async () => {
  for (const window of [undefined, 1, 10, 200]) {
    const { seen, count } = counting();
    await using both = await ends({ requests: { count } });
    const response = both.client.requestStream("count", 10_000, window ? { window } : {});
    await turns();
    assertEquals(seen.made, window ?? 64);
    const items: number[] = [];
    for await (const item of response) {
      items.push(item as number);
      await turns(1);
      assert(seen.made - items.length <= (window ?? 64));
      if (items.length === 300) break;
    }
    assertEquals(items, numbers(300));
    await turns();
    assertEquals([seen.returned, both.server.stats.handlerFailures], [1, 0]);
    assert(seen.reason instanceof Error);
  }
});

Deno.test("Session.requestStream() aborts the signal of a producer that never yields, and leaves nothing behind", async () => {
  const aborted = Promise.withResolvers<unknown>();
  await using both = await ends({
    requests: {
      hang({ signal }) {
        signal.addEventListener("abort", () => aborted.resolve(signal.reason));
        return { [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => {}) }) };
      },
      async *obeys({ signal }) {
        await new Promise((_, reject) =>
          signal.addEventListener("abort", () => reject(signal.reason))
        );
        yield 1;
      },
    },
  });
  await soon(Promise.all(["hang", "obeys"].map(async (topic) => {
    const response = both.client.requestStream(topic);
    const first = response[Symbol.asyncIterator]().next();
    await turns();
    await response.cancel();
    assertEquals(await first, { done: true, value: undefined });
  })));
  await soon(aborted.promise);
  await turns();
  assertEquals(both.server[internals].receiving.replies.size, 0);
  assertEquals(both.server.stats.handlerFailures, 0);
});

Deno.test("Session.requestStream() throws a failure after the items before it", async () => {
  const errors: unknown[] = [];
  const circle: unknown[] = [];
  circle.push(circle);
  let returned = 0;
  await using both = await ends({
    onError: (error) => void errors.push(error),
    maxMessageBytes: 1_000,
    requests: {
      async *breaks() {
        yield 1;
        throw new RangeError("Secret");
      },
      async *rejects() {
        yield 1;
        throw new RequestError("limit", "Only one", { retryAfterMs: 7 });
      },
      async *holds({ data }) {
        try {
          yield 1;
          yield data === "circle" ? circle : data === "large" ? "x".repeat(1_000) : () => 1;
        } finally {
          returned++;
        }
      },
      throws: () => {
        throw new RangeError("At once");
      },
      value: () => 5,
    },
  });
  for (
    const [topic, data, code, items] of [
      ["breaks", 0, "failed", 1],
      ["rejects", 0, "limit", 1],
      ["holds", "circle", "failed", 1],
      ["holds", "large", "failed", 1],
      ["holds", "function", "failed", 1],
      ["throws", 0, "failed", 0],
      ["value", 0, "invalid", 0],
    ] as const
  ) {
    const seen: unknown[] = [];
    const error = await assertRejects(
      async () => {
        for await (const item of both.client.requestStream(topic, data)) seen.push(item);
      },
      RequestError,
    );
    assertEquals([error.failure.code, seen.length], [code, items], topic);
    assert(!error.message.includes("Secret"));
  }
  await turns();
  assertEquals([errors.length, returned], [5, 3]);
  assertEquals(both.client.stats.pendingReplies, 0);
});

Deno.test("Session.request() rejects a streaming response, and cancels it", async () => {
  const { seen, count } = counting();
  await using both = await ends({ requests: { count } });
  for (const many of [0, 1_000]) {
    const error = await assertRejects(() => soon(both.client.request("count", many)), RequestError);
    assertEquals(error.failure.code, "invalid");
  }
  await turns();
  assertEquals(seen.returned, 2);
});

Deno.test("A contract checks the items, and types both sides", async () => {
  const contract = defineContract({
    requests: {
      sum: { input: z.tuple([z.number(), z.number()]), output: z.number() },
      count: { input: z.number(), stream: z.object({ n: z.number().transform(String) }) },
      slow: { input: z.number(), stream: z.number().refine((n) => Promise.resolve(n < 3), "Big") },
      "tell:{name}": { input: z.null(), stream: z.string(), resume: true },
    },
  });
  let returned = 0;
  const errors: unknown[] = [];
  const skipped: unknown[] = [];
  await using both = await ends({
    contract,
    onError: (error) => void errors.push(error),
    requests: {
      sum: ({ data }) => data[0] + data[1],
      async *count({ data }, session) {
        assertEquals(session.protocol, "skein.1");
        try {
          for (let n = 0; n < data; n++) yield n === 3 ? { n: "three" as never } : { n };
        } finally {
          returned++;
        }
      },
      slow: ({ data }) => ReadableStream.from(numbers(data)),
      "tell:{name}": {
        resumable,
        async *handle({ params }) {
          yield params.name;
        },
        async *resume({ params }, { written }) {
          yield params.name + written.length;
        },
      },
    },
  }, { contract, onError: (error) => void skipped.push(error) });
  const { client } = both;
  assertEquals(await soon(client.request("sum", [1, 2])), 3);
  const items: { n: string }[] = await soon(Array.fromAsync(client.requestStream("count", 2)));
  assertEquals(items, [{ n: "0" }, { n: "1" }]);
  const told: string[] = await soon(Array.fromAsync(client.requestStream("tell:ann", null)));
  assertEquals(told, ["ann"]);
  const misfits: unknown[] = [];
  const onInvalid = ({ failure }: RequestError, data: unknown) =>
    misfits.push([failure.code, failure.path, data]);
  const seen: unknown[] = [];
  for await (const { n } of client.requestStream("count", 1e9, { onInvalid })) {
    if (seen.push(n) === 5) break;
  }
  assertEquals(seen, ["0", "1", "2", "4", "5"]);
  assertEquals(misfits, [["invalid", ["n"], { n: "three" }]]);
  assertEquals(await soon(Array.fromAsync(client.requestStream("slow", 4))), [0, 1, 2]);
  assertEquals([skipped.map(String), client.stats.invalidMessages], [[
    'RequestError: The response to "slow" does not fit the contract: Big',
  ], 2]);
  const throwing = (error: RequestError) => {
    throw error;
  };
  for (const onInvalid of [throwing, (error: RequestError) => Promise.reject(error)]) {
    const strict = client.requestStream("count", 1e9, { onInvalid });
    await assertRejects(() => Array.fromAsync(strict), RequestError, "does not fit the contract");
  }
  await turns();
  assertEquals(returned, 4);
  const wrong = await assertRejects(
    () => soon(Array.fromAsync(client.requestStream("count", "x" as never))),
    RequestError,
  );
  assertEquals(wrong.failure.code, "invalid");
  const unknown = await assertRejects(
    () => soon(Array.fromAsync(client.requestStream("other" as "count", 1))),
    RequestError,
  );
  assertEquals([unknown.failure.code, errors], ["unknown-topic", []]);
});

Deno.test("A handler fails if its result is not of the kind that the contract defines", async () => {
  const contract = defineContract({
    requests: {
      sum: { input: z.null(), output: z.number() },
      count: { input: z.null(), stream: z.number() },
    },
  });
  const errors: unknown[] = [];
  await using both = await ends({
    contract,
    onError: (error) => void errors.push(String(error)),
    requests: { sum: () => ReadableStream.from([1]) as never, count: () => 1 as never },
  }, { contract });
  const failures = await Promise.all([
    assertRejects(() => soon(both.client.request("sum", null)), RequestError),
    assertRejects(
      () => soon(Array.fromAsync(both.client.requestStream("count", null))),
      RequestError,
    ),
  ]);
  assertEquals(failures.map(({ failure }) => failure.code), ["failed", "failed"]);
  assertEquals(errors.map((text) => String(text).replace(/.*received /, "")), [
    "ReadableStream",
    "1",
  ]);
});

Deno.test("Session.requestStream() times out for a late item or a long response, not for a slow loop", async () => {
  const { seen, count } = counting();
  await using both = await ends({
    requests: {
      count,
      async *stops({ signal }) {
        yield 1;
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
    },
  }, { runtime: Object.assign(platformRuntime(), { monotonic: () => Date.now() }) });
  // Loads the code of streaming responses before time is faked.
  await Array.fromAsync(both.client.requestStream("count", 0));
  using time = new FakeTime();
  const items: unknown[] = [];
  const late = assertRejects(
    async () => {
      for await (const item of both.client.requestStream("stops", 0, { itemTimeoutMs: 200 })) {
        items.push(item);
      }
    },
    TimeoutError,
    'No next item of the response to "stops" within 200 ms',
  );
  await turns();
  assertEquals(items, [1]);
  await time.tickAsync(199);
  await time.tickAsync(1);
  await late;
  const loop = both.client.requestStream("count", 1e9, { timeoutMs: 300 })[Symbol.asyncIterator]();
  assertEquals(await loop.next(), { done: false, value: 0 });
  await time.tickAsync(299);
  assertEquals((await loop.next()).done, false);
  await time.tickAsync(1);
  await assertRejects(() => loop.next(), TimeoutError, "No end of the response");
  await turns();
  // A loop that is slower than the item timeout is not the peer's fault.
  const slow = both.client.requestStream("count", 70, { itemTimeoutMs: 10 })
    [Symbol.asyncIterator]();
  for (let i = 0; i < 70; i++) {
    assertEquals(await slow.next(), { done: false, value: i });
    await time.tickAsync(25);
    await turns(1);
  }
  assertEquals((await slow.next()).done, true);
  assertEquals(seen.returned, 3);
});

Deno.test("A session that closes during a response ends the loop and the producer, from either side", async () => {
  for (const side of ["client", "server"] as const) {
    const { seen, count } = counting();
    await using both = await ends({ requests: { count } });
    const items: unknown[] = [];
    const error = await assertRejects(
      async () => {
        for await (const item of both.client.requestStream("count", 1e9)) {
          items.push(item);
          if (items.length === 10) await both[side].close();
        }
      },
      SessionClosedError,
    );
    assertEquals(items, numbers(items.length));
    assert(items.length >= 10 && error.info !== undefined);
    await turns();
    assertEquals([seen.returned, both.server.stats.handlerFailures], [1, 0]);
    await assertRejects(
      () => Array.fromAsync(both.client.requestStream("count", 1)),
      SessionClosedError,
    );
  }
});

Deno.test("Session streams 64 responses at once, rejects a 65th, and lets other messages pass", async () => {
  const heard: unknown[] = [];
  await using both = await ends({
    requests: { count: counting().count, echo: ({ data }) => data },
    sendQueue: { maxMessages: 16 },
  }, { onMessage: ({ data }) => void heard.push(data), maxRequests: 65 });
  const responses = numbers(64).map(() => both.client.requestStream("count", 500));
  const all = Promise.all(responses.map((response) => Array.fromAsync(response)));
  const rejected = await assertRejects(
    () => soon(Array.fromAsync(both.client.requestStream("count", 1))),
    RequestError,
  );
  assertEquals(rejected.failure.code, "too-many");
  both.server.send("beside", 1);
  for (const items of await soon(all)) assertEquals(items, numbers(500));
  assertEquals(heard, [1]);
  assertEquals(await soon(both.client.request("echo", 1)), 1);
  await using few = await ends({ requests: { count: counting().count } }, { maxRequests: 1 });
  const first = few.client.requestStream("count", 1);
  await assertRejects(() => Array.fromAsync(few.client.requestStream("count", 1)), QueueFullError);
  assertEquals(await soon(Array.fromAsync(first)), [0]);
});

Deno.test("A streaming response consists of parts, credit, end and cancel envelopes", async () => {
  const { seen, count } = counting();
  await using hand = serverByHand({ requests: { count } });
  const { peer } = hand;
  await peer.reach(1);
  peer.say({ topic: "count", data: 5, id: 1, items: 2 });
  await turns();
  const since = (from: number) => peer.envelopes.slice(from);
  assertEquals(since(1), [{ part: 1, data: 0 }, { part: 1, data: 1 }]);
  peer.say({ more: 1, items: 1 });
  await turns();
  assertEquals(since(3), [{ part: 1, data: 2 }]);
  peer.say({ more: 1, items: 64 });
  await turns();
  assertEquals(since(4), [{ part: 1, data: 3 }, { part: 1, data: 4 }, { end: 1 }]);
  peer.say({ topic: "count", data: 5, id: 2, items: 1 });
  peer.say({ cancel: 2 });
  peer.say({ more: 2, items: 1 });
  await turns();
  assertEquals(since(7), []);
  assert(seen.returned >= 1);
  assertEquals(hand.session.stats.invalidMessages, 0);
});

Deno.test("Credit that arrives before the handler starts is added up", async () => {
  const { count } = counting();
  const gate = Promise.withResolvers<void>();
  await using hand = serverByHand({
    concurrency: 1,
    requests: { count, hold: () => gate.promise },
  });
  const { peer } = hand;
  await peer.reach(1);
  peer.say({ topic: "hold", id: 1 });
  peer.say({ topic: "count", data: 5, id: 2, items: 1 });
  peer.say({ more: 2, items: 1 });
  peer.say({ more: 2, items: 1 });
  await turns();
  assertEquals(peer.envelopes.length, 1);
  gate.resolve();
  await turns();
  const parts = peer.envelopes.filter((envelope) => "part" in (envelope as object));
  assertEquals(parts, [{ part: 2, data: 0 }, { part: 2, data: 1 }, { part: 2, data: 2 }]);
  peer.say({ cancel: 2 });
});

Deno.test("Credit that overflows or is impossible is malformed", async () => {
  const { count } = counting();
  await using hand = serverByHand({ requests: { count }, maxInvalidMessages: 100 });
  const { peer, session } = hand;
  await peer.reach(1);
  peer.say({ topic: "count", data: 1e9, id: 1, items: 1 });
  await turns();
  const wrong = [
    { more: 1, items: 65_537 },
    { more: 1, items: 0 },
    { more: 1, items: -1 },
    { more: 1, items: 1.5 },
    { more: 1 },
    { more: "1", items: 1 },
    { topic: "count", id: 2, items: 0 },
    { topic: "count", id: 3, items: 65_537 },
    { part: -1, data: 1 },
    { end: 1, error: 5 },
  ];
  for (const envelope of wrong) peer.say(envelope);
  await turns();
  assertEquals(session.stats.invalidMessages, wrong.length);
  // Many grants that overflow together: the current credit stays.
  peer.say({ topic: "count", data: 0, id: 9, items: 65_536 });
  await turns();
  peer.say({ topic: "count", data: 1e9, id: 10, items: 65_536 });
  peer.say({ more: 10, items: 65_536 });
  await turns(1);
  assertEquals(session.stats.invalidMessages, wrong.length + 1);
  peer.say({ cancel: 10 });
});

Deno.test("Parts for unknown ids are ignored; parts beyond the credit end the response", async () => {
  await using hand = clientByHand();
  const { peer, session } = hand;
  peer.say(HELLO);
  await session.ready;
  peer.say({ part: 7, data: 1 });
  peer.say({ end: 7 });
  await turns();
  assertEquals(session.stats.invalidMessages, 0);
  const response = session.requestStream("count", 1, { window: 2 });
  await turns();
  const [{ id, items }] = peer.envelopes as [{ id: number; items: number }];
  assertEquals(items, 2);
  for (let i = 0; i < 3; i++) peer.say({ part: id, data: i });
  await turns();
  const error = await assertRejects(() => soon(Array.fromAsync(response)), RequestError);
  assertEquals(error.failure.code, "malformed");
  assertEquals(peer.envelopes.at(-1), { cancel: id });
  assertEquals([session.stats.invalidMessages, session.stats.pendingReplies], [1, 0]);
});

Deno.test("A plain session carries parts, credit and the end, but no bytes", async () => {
  await using hand = serverByHand({
    requests: {
      count: counting().count,
      bytes: () => ReadableStream.from([Uint8Array.of(1)]),
    },
    onError() {},
  }, { wire: PLAIN });
  const { peer } = hand;
  peer.say({ topic: "count", data: 65, id: 1 });
  await turns();
  assertEquals(peer.envelopes.length, 64);
  peer.say({ more: 1, items: 10 });
  await turns();
  assertEquals(peer.envelopes.slice(63), [{ part: 1, data: 63 }, { part: 1, data: 64 }, {
    end: 1,
  }]);
  peer.say({ topic: "bytes", id: 2 });
  await turns();
  assertEquals(peer.envelopes.at(-1), {
    end: 2,
    error: { code: "failed", message: "The handler failed" },
  });
});

Deno.test("A stalled consumer does not grow the memory of either side", async () => {
  const { seen, count } = counting();
  await using both = await ends({ requests: { count } });
  const responses = numbers(64).map(() => both.client.requestStream("count", 1e9));
  await turns(50);
  assertEquals(seen.made, 64 * 64);
  const { queuedMessages } = both.server.stats;
  await turns(50);
  assertEquals({
    made: seen.made,
    queuedBefore: queuedMessages,
    queuedNow: both.server.stats.queuedMessages,
  }, { made: 64 * 64, queuedBefore: 0, queuedNow: 0 });
  await Promise.all(responses.map((response) => response.cancel()));
  await turns();
  assertEquals(seen.returned, 64);
});

Deno.test("A streaming response requests no further item while the connection is behind", async () => {
  let made = 0;
  await using both = await ends({
    requests: {
      async *text() {
        for (; made < 60; made++) {
          await turns(1);
          yield "x".repeat(10_000);
        }
      },
    },
  });
  await turns();
  both.link.stall("to-client");
  const items = Array.fromAsync(both.client.requestStream("text"));
  await turns(100);
  // The credit of 64 items is not used up: the connection buffers 64 KiB, then the queue waits.
  assertEquals([made < 12, both.server.stats.queuedMessages <= 2], [true, true]);
  both.link.resume("to-client");
  assertEquals((await soon(items)).length, 60);
});

Deno.test("A streaming response to a peer that reads nothing neither overflows the send queue nor drops messages", async () => {
  for (const policy of POLICIES) {
    const heard: unknown[] = [];
    await using both = await ends(
      { requests: { text: repeating }, sendQueue: { maxMessages: 8, maxBytes: 100_000, policy } },
      { onMessage: ({ data }) => void heard.push(data) },
    );
    const responses = numbers(8).map(() => both.client.requestStream("text", 60));
    await turns();
    both.link.stall("to-client");
    const all = Promise.all(responses.map((response) => Array.fromAsync(response)));
    await turns(50);
    both.server.send("beside", 1);
    assert(both.server.stats.queuedMessages <= 8);
    both.link.resume("to-client");
    const items = await soon(all);
    assertEquals(items.map(({ length }) => length), numbers(8).map(() => 60));
    assertEquals([heard, both.server.stats.droppedMessages], [[1], 0]);
  }
});

Deno.test("Instrumentation hooks follow a streaming response to its end, on both sides", async () => {
  const told: string[] = [];
  const hooks: Instrumentation = {
    request: (_session, topic) => ({
      ended: ({ error }) => void told.push(`asked ${topic}: ${Object(error).message ?? "ended"}`),
    }),
    handle: (_session, { topic }, run) => {
      void Promise.resolve(run()).then(
        () => told.push(`handled ${topic}`),
        (error) => told.push(`failed ${topic}: ${error.message}`),
      );
    },
  };
  const { count } = counting();
  const pair = memoryPair();
  const server = instrument(
    sessionSettings({
      side: "server",
      onError() {},
      requests: {
        count,
        async *fails() {
          yield 1;
          throw new Error("Broken");
        },
      },
    }),
    hooks,
  );
  await using near = new Session(pair.server, server);
  const far = instrument(sessionSettings({ side: "client" }), hooks);
  await using client = new Session(pair.client, far);
  await client.ready;
  const loop = client.requestStream("count", 2)[Symbol.asyncIterator]();
  await loop.next();
  await turns();
  assertEquals(told, ["handled count", "asked count: ended"]);
  await loop.next();
  await loop.next();
  const long = client.requestStream("count", 1e9)[Symbol.asyncIterator]();
  await long.next();
  await turns();
  assertEquals(told.splice(0).length, 2);
  await long.return?.();
  await turns();
  assertEquals(told.splice(0), ["asked count: ended", "handled count"]);
  await assertRejects(() => Array.fromAsync(client.requestStream("fails")), RequestError);
  await turns();
  assertEquals(told.sort(), ["asked fails: The handler failed", "failed fails: Broken"]);
  await near.close();
});

Deno.test("Session.requestStream() rejects invalid options", async () => {
  await using both = await ends({ requests: { count: counting().count } });
  for (const window of [0, -1, 1.5, 65_537, NaN]) {
    await assertRejects(
      async () => await Array.fromAsync(both.client.requestStream("count", 1, { window })),
      RangeError,
      "window",
    );
  }
  await assertRejects(
    () => Array.fromAsync(both.client.requestStream("count", () => 1)),
    TypeError,
    "JSON",
  );
  await assertRejects(() => Array.fromAsync(both.client.requestStream("")), TypeError, "topic");
  for (const times of [{ timeoutMs: -1 }, { itemTimeoutMs: -1 }, { timeoutMs: NaN }]) {
    await assertRejects(
      async () => await Array.fromAsync(both.client.requestStream("count", 1e9, times)),
      RangeError,
      "must be 0 or more",
    );
  }
  await turns();
  assertEquals(both.client.stats.pendingReplies, 0);
});

Deno.test("Cancelled responses whose generators continue are limited, and close no session", async () => {
  const held = Promise.withResolvers<void>();
  let running = 0;
  const requests = {
    async *slow() {
      running++;
      try {
        await held.promise; // Ignores the signal.
        yield 1;
      } finally {
        running--;
      }
    },
    count: counting().count,
  };
  await using both = await ends({ requests, maxRequests: 4 });
  const { client, server } = both;
  const items = () => Array.fromAsync(client.requestStream("count", 2));
  assertEquals(await soon(items()), [0, 1]);
  const askAndCancel = async () => {
    const response = client.requestStream("slow");
    await turns();
    await response.cancel();
    await turns();
  };
  for (let i = 0; i < 4; i++) await askAndCancel();
  assertEquals([running, await soon(items())], [4, [0, 1]]);
  for (let i = 0; i < 20; i++) await askAndCancel();
  assertEquals(running, 5);
  const rejection = await assertRejects(() => soon(items()), RequestError);
  assertEquals([rejection.failure.code, server.state], ["too-many", "connected"]);
  held.resolve();
  await turns();
  assertEquals([running, await soon(items())], [0, [0, 1]]);
});
