/**
 * Tests resumable responses: page reloads, other devices, stopping, lost replies, and other nodes.
 */
import {
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  type Client,
  connect,
  guest,
  MemoryBroker,
  newId,
  platformRuntime,
  RequestError,
  SessionClosedError,
  TimeoutError,
} from "../mod.ts";
import { passTime, testServer } from "../testing/mod.ts";
import { internals } from "../session/session.ts";
import { encodeMessage } from "../session/wire/encode.ts";
import { responseId } from "../streams/options.ts";
import { contract, Model, type Shared, words } from "./responding.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { Page } from "./peers/page.ts";
import { streamFeatures } from "./stream_features.ts";
import { resumable } from "../streams/mod.ts";

/** Returns the durable stream of a response, which it reads with a raw request. */
async function streamOf(client: Client<Shared>, name: string): Promise<string> {
  const session = await client.whenConnected();
  const core = session[internals];
  const encode = (id: number) =>
    encodeMessage("chat:lobby", "hi", { id, stream: name, maxBytes: core.sending.maxSendBytes });
  const { stream } = await core.sending.ask("the stream", encode, {}) as {
    readonly stream: string;
  };
  assertMatch(stream, /^answer:/);
  return stream;
}

Deno.test("A reader of a response that made room for others receives `gone` with the reason", async () => {
  const model = new Model();
  await using server = listen({
    ...model.options(),
    features: streamFeatures({ path: "/streams", authorize: () => true }, { maxRetained: 2 }),
  });
  await using client = connect(server.url, { contract, token: "ann", transports: ["websocket"] });
  const responses = ["first", "second", "third"].map(() => () =>
    client.requestStream("count", "2")
  );
  const first = responses[0]!();
  assertEquals(await soon(Array.fromAsync(first)), [0, 1]);
  const { id: name, offset } = first;
  const id = await responseId(platformRuntime(), { topic: "count", user: "ann", name });
  assertEquals(await soon(Array.fromAsync(client.durableStream(id, { after: "-1" }))), [0, 1]);
  for (const begin of responses.slice(1)) await soon(Array.fromAsync(begin()));
  const gone = { code: "gone", message: "The response was dropped to make room for newer ones" };
  for (
    const again of [
      client.requestStream("count", "2", { id: name }),
      client.requestStream("count", "2", { id: name, after: offset }),
      client.durableStream(id, { after: "-1" }),
    ]
  ) {
    const { failure } = await assertRejects(
      () => soon(Array.fromAsync<unknown>(again)),
      RequestError,
    );
    assertEquals({ code: failure.code, message: failure.message }, gone);
  }
  const url = new URL(`/streams/${encodeURIComponent(id)}`, server.url.replace(/^ws/, "http"));
  const response = await fetch(url);
  assertEquals(response.status, 410);
  assertEquals((await response.json()).detail, gone.message);
});

Deno.test("A response keeps all items on a server whose durable streams keep the newest records", async () => {
  const model = new Model();
  const keep = { records: 2, bytes: 1_000 };
  await using server = listen({ ...model.options(), features: streamFeatures({ keep }) });
  await using client = connect(server.url, { contract, token: "ann" });
  const response = client.requestStream("count", "5");
  const { id } = response;
  for (const reading of [response, client.requestStream("count", "5", { id })]) {
    assertEquals(await soon(Array.fromAsync(reading)), [0, 1, 2, 3, 4]);
  }
});

for (
  const [limit, responses] of [
    ["user", { maxRetainedPerUser: 2 }],
    ["address", { maxRetainedPerAddress: 2 }],
  ] as const
) {
  Deno.test(`A reader's third response replaces the oldest if each ${limit} may have two`, async () => {
    await using server = testServer(new Model().options({ features: [resumable(responses)] }));
    await using client = server.connect({ contract, token: "ann" });
    const ask = (id: string) =>
      Array.fromAsync(client.requestStream("count", "2", { id: id.repeat(16) }));
    for (const id of ["a", "b", "c"]) assertEquals(await ask(id), [0, 1]);
    await assertRejects(() => ask("a"), RequestError, "dropped to make room");
    assertEquals(await ask("b"), [0, 1]);
  });
}

for (const transport of ["websocket", "webtransport", "memory"] as const) {
  Deno.test(`client.requestStream() continues after a page reload, and on a second device, over ${transport}`, async () => {
    const model = new Model();
    await using memory = transport === "memory" ? testServer(model.options()) : undefined;
    await using sockets = memory ? undefined : listen(model.options());
    const open = () =>
      memory?.connect({ contract, token: "ann" }) ?? connect(sockets!.url, {
        contract,
        token: "ann",
        transports: [transport === "webtransport" ? "webtransport" : "websocket"],
        serverCertificateHashes: sockets!.certificateHashes,
      });
    const page = open();
    const response = page.requestStream("chat:lobby", "hi");
    assertMatch(response.id, /^[0-9a-f]{8}-[0-9a-f]{4}-4/);
    assertEquals(response.offset, undefined);
    model.release(5);
    const seen: string[] = [];
    for await (const word of response) if (seen.push(word) === 3) break;
    const { id, offset } = response;
    await page.close();

    await using again = open();
    await using device = open();
    const rest = again.requestStream("chat:lobby", "hi", { id, after: offset });
    const all = device.requestStream("chat:lobby", "ignored", { id });
    assertEquals([rest.id, rest.offset], [id, offset]);
    model.release();
    assertEquals(await soon(Array.fromAsync(rest)), words(8, 3));
    assertEquals(await soon(Array.fromAsync(all)), words(8));
    assertEquals(seen, words(3));
    assertEquals(model.calls, [{ data: "hi", room: "lobby", user: "ann" }]);
  });
}

Deno.test("client.requestStream() validates input and items of a resumable response", async () => {
  await using server = testServer(new Model().options());
  await using client = server.connect({ contract });
  assertEquals(await soon(Array.fromAsync(client.requestStream("count", "3"))), [0, 1, 2]);
  const rejected = client.requestStream("chat:a", 7 as unknown as string);
  const error = await assertRejects(() => soon(Array.fromAsync(rejected)), RequestError);
  assertEquals(error.failure.code, "invalid");
});

Deno.test("cancel() of a response stops the generator, and ends the loops on all devices in the same way", async () => {
  const model = new Model();
  await using server = testServer(model.options());
  await using page = server.connect({ contract, token: "ann" });
  await using device = server.connect({ contract, token: "ann" });
  model.release(2);
  const response = page.requestStream("chat:lobby", "hi");
  const seen: string[] = [];
  const reading = (async () => {
    for await (const word of response) seen.push(word);
  })();
  await until(() => seen.length === 2);
  const beside = device.requestStream("chat:lobby", "hi", { id: response.id });
  const other: string[] = [];
  const failed = assertRejects(async () => {
    for await (const word of beside) other.push(word);
  }, RequestError);
  await until(() => other.length === 2);
  await soon(response.cancel("Enough"));
  for (const end of [assertRejects(() => reading, RequestError), failed]) {
    assertEquals((await soon(end)).failure, { code: "cancelled", message: "Enough" });
  }
  assertEquals((model.signals[0]!.reason as RequestError).message, "Enough");
  assertEquals([seen, other], [words(2), words(2)]);
});

for (
  const [what, options] of [
    ["", () => ({})],
    [
      "that continues ",
      ({ offset }: { readonly offset: string | undefined }) => ({ after: offset }),
    ],
    ["that reads again ", () => ({ after: "-1" })],
  ] as const
) {
  Deno.test(`client.requestStream() ${what}rejects with gone after the response has expired, and starts nothing`, async () => {
    using time = new FakeTime();
    const model = new Model();
    await using server = testServer(model.options({ features: [resumable({ retainMs: 60_000 })] }));
    await using page = server.connect({ contract, token: "ann" });
    model.release();
    const response = page.requestStream("chat:lobby", "hi");
    for await (const word of response) if (word === "word 1") break;
    const { id } = response;
    const read = () =>
      Array.fromAsync(page.requestStream("chat:lobby", "hi", { id, ...options(response) }));
    assertEquals((await read()).at(-1), "word 7");
    await passTime(time, 180_000);
    const gone = assertRejects(read, RequestError);
    await passTime(time, 1_000);
    assertEquals((await gone).failure.code, "gone");
    assertEquals(model.calls.length, 1);
  });
}

Deno.test("client.requestStream() fails at an item that is undefined, resumable or not", async () => {
  async function* items(): AsyncGenerator<unknown> {
    yield 1;
    yield undefined;
    yield 2;
  }
  const errors: unknown[] = [];
  const requests = { plain: items, kept: { resumable, handle: items } };
  await using server = testServer({ requests, onError: (error) => void errors.push(error) });
  await using client = server.connect();
  for (const [topic, options] of [["plain", {}], ["kept", { id: "a".repeat(22) }]] as const) {
    const seen: unknown[] = [];
    const error = await assertRejects(async () => {
      for await (const item of client.requestStream(topic, 1, options)) seen.push(item);
    }, RequestError);
    assertEquals([seen, error.failure.code], [[1], "failed"], topic);
    assertInstanceOf(errors.pop(), TypeError, topic);
  }
});

Deno.test("cancel() of a response that another page has started stops it before the first item is read", async () => {
  const model = new Model();
  await using server = listen(model.options());
  await using client = connect(server.url, { contract, token: "ann" });
  const first = client.requestStream("chat:lobby", "hi");
  await until(() => model.calls.length === 1);
  const end = assertRejects(() => Array.fromAsync(first), RequestError);
  await soon(client.requestStream("chat:lobby", "hi", { id: first.id }).cancel("Enough"));
  assertEquals((await soon(end)).failure, { code: "cancelled", message: "Enough" });
});

Deno.test("cancel() of a response is sent again if its session is lost", async () => {
  const model = new Model();
  await using server = testServer(model.options());
  await using page = server.connect({ contract, token: "ann" });
  model.release(1);
  const response = page.requestStream("chat:lobby", "hi");
  for await (const word of response) if (word === "word 0") break;
  const session = page.session!;
  let sent = 0;
  const { sending } = session[internals];
  const ask = sending.ask.bind(sending);
  sending.ask = (...args) => {
    sent++;
    session[internals].abort(4000, "The network changed");
    return ask(...args);
  };
  await soon(response.cancel("Enough"));
  assertEquals(sent, 1);
  const end = await assertRejects(() => soon(Array.fromAsync(response)), RequestError);
  assertEquals(end.failure, { code: "cancelled", message: "Enough" });
  assertEquals((model.signals[0]!.reason as RequestError).message, "Enough");
  await page.close();
  await assertRejects(() => response.cancel(), SessionClosedError);
});

Deno.test("A response belongs to its user, or to everyone who knows the random UUID of a guest's", async () => {
  const model = new Model();
  model.release();
  await using server = testServer(model.options({ authorize: () => false }));
  await using ann = server.connect({ contract, token: "ann" });
  await using bob = server.connect({ contract, token: "bob" });
  const response = ann.requestStream("chat:lobby", "hi");
  assertEquals(await soon(Array.fromAsync(response)), words(8));
  const { id } = response;
  // The same name refers to another response if the user or the topic differs.
  assertEquals(
    await soon(Array.fromAsync(bob.requestStream("chat:lobby", "ho", { id }))),
    words(8),
  );
  assertEquals(await soon(Array.fromAsync(ann.requestStream("chat:b", "he", { id }))), words(8));
  assertEquals(model.calls.length, 3);
  const stream = await streamOf(ann, id);
  const failed = await assertRejects(
    () => soon(Array.fromAsync(bob.durableStream(stream))),
    RequestError,
  );
  assertEquals(failed.failure.code, "forbidden");
  const stop = await assertRejects(() => bob.durableStream(stream).cancel(), RequestError);
  assertEquals(stop.failure.code, "forbidden");

  await using guest = server.connect({ contract });
  await using other = server.connect({ contract });
  const first = guest.requestStream("chat:lobby", "hi");
  assertEquals(await soon(Array.fromAsync(first)), words(8));
  const again = other.requestStream("chat:lobby", "hi", { id: first.id });
  assertEquals(await soon(Array.fromAsync(again)), words(8));
  assertEquals(model.calls.length, 4);
  // The id of the stream is enough, and a user's response of the same name is another one.
  const shared = bob.durableStream(await streamOf(guest, first.id), { after: "-1" });
  assertEquals(await soon(Array.fromAsync(shared)), words(8));
  await shared.cancel();
  await soon(Array.fromAsync(bob.requestStream("chat:lobby", "hi", { id: first.id })));
  assertEquals(model.calls.length, 5);
});

for (
  const [what, id] of [
    ["a name", "question-7-of-the-visitor"],
    ["a UUID of another version", "0192f0c1-2345-7abc-8def-0123456789ab"],
    ["a UUID in upper case", "0192F0C1-2345-4ABC-8DEF-0123456789AB"],
    ["random hexadecimal digits", "0192f0c123454abc8def0123456789ab"],
  ] as const
) {
  Deno.test(`A guest's response that is named by ${what} belongs to this guest alone`, async () => {
    const model = new Model();
    model.release(3);
    await using server = testServer(model.options({ authorize: () => false }));
    await using guest = server.connect({ contract });
    await using other = server.connect({ contract });
    const response = guest.requestStream("chat:lobby", "hi", { id });
    const reading = response[Symbol.asyncIterator]();
    assertEquals((await soon(reading.next())).value, "word 0");
    const stream = await streamOf(guest, id);
    // Another guest begins another response by this name, and takes nothing over.
    const theirs = other.requestStream("chat:lobby", "ho", { id })[Symbol.asyncIterator]();
    await soon(theirs.next());
    assertEquals(model.calls.length, 2);
    assertNotEquals(await streamOf(other, id), stream);
    for (
      const attempt of [
        (): Promise<unknown> => Array.fromAsync(other.durableStream(stream, { after: "-1" })),
        () => other.durableStream(stream).cancel(),
        () => other.durableStream(stream.replace(/^answer:[^:]+/, "answer:guest")).cancel(),
      ]
    ) {
      const { failure } = await assertRejects(() => soon(attempt()), RequestError);
      assertEquals(failure.code, "forbidden");
    }
    // The guest stays the same one after a lost connection.
    guest.session![internals].abort(4000, "The network changed");
    assertEquals((await soon(reading.next())).value, "word 1");
    const again = guest.requestStream("chat:lobby", "hi", { id });
    assertEquals((await soon(again[Symbol.asyncIterator]().next())).value, "word 0");
    assertEquals(model.calls.length, 2);
    await soon(again.cancel());
    assertEquals(model.signals.map(({ aborted }) => aborted), [true, false]);
    await theirs.return?.();
    await reading.return?.();
  });
}

Deno.test("authorize can allow other users to read and stop a response", async () => {
  const model = new Model();
  model.release(1);
  const topics: string[] = [];
  await using server = testServer(model.options({
    authorize: ({ value }, topic) => topics.push(topic) > 0 && value === "moderator",
  }));
  await using ann = server.connect({ contract, token: "ann" });
  await using moderator = server.connect({ contract, token: "moderator" });
  const response = ann.requestStream("chat:lobby", "hi");
  const reading = Array.fromAsync(response);
  await until(() => response.offset !== undefined);
  assertEquals(topics, []);
  const stream = moderator.durableStream(await streamOf(ann, response.id));
  for await (const word of stream) {
    assertEquals(word, "word 0");
    break;
  }
  await stream.cancel("Not here");
  const error = await assertRejects(() => soon(reading), RequestError);
  assertEquals([error.failure.code, error.message], ["cancelled", "Not here"]);
  assertEquals(new Set(topics), new Set([`stream:${stream.id}`]));
});

Deno.test("A request whose reply is lost is sent again, and starts only one generator", async () => {
  const model = new Model();
  await using broker = new MemoryBroker();
  await using server = testServer(model.options({ broker }));
  await using other = testServer(model.options({ broker }));
  await using page = server.connect({ contract, token: "ann" });
  await using device = other.connect({ contract, token: "ann" });
  const response = page.requestStream("chat:lobby", "hi");
  await until(() => model.calls.length === 1);
  page.session![internals].abort(4000, "The network changed");
  const again = device.requestStream("chat:lobby", "hi", { id: response.id });
  model.release();
  assertEquals(await soon(Array.fromAsync(response)), words(8));
  assertEquals(await soon(Array.fromAsync(again)), words(8));
  assertEquals(model.calls.length, 1);
});

Deno.test("A page without Skein receives the items of a response from the start, and can stop it", async () => {
  const name = crypto.randomUUID();
  const model = new Model();
  model.release(2);
  await using server = listen(model.options());
  await using page = await Page.open(server.url);
  const ask = (id: number) => page.say({ topic: "chat:lobby", data: "hi", id, stream: name });
  ask(1);
  assertEquals(await page.takeEnvelopes(2), words(2).map((data) => ({ part: 1, data })));
  await using again = await Page.open(server.url);
  again.say({ topic: "chat:lobby", data: "hi", id: 7, stream: name });
  // A guest in another session knows the name.
  assertEquals(await again.takeEnvelopes(2), words(2).map((data) => ({ part: 7, data })));
  assertEquals(model.calls.length, 1);
  await page.close();
  assertEquals(model.signals[0]!.aborted, false);
  model.release(1);
  assertEquals(await again.takeEnvelopes(1), [{ part: 7, data: "word 2" }]);
  again.say({ cancel: 7 });
  await until(() => model.signals[0]!.aborted);
  again.say({ topic: "chat:lobby", data: "hi", id: 8, stream: name });
  assertEquals(await again.takeEnvelopes(4), [
    ...words(3).map((data) => ({ part: 8, data })),
    { end: 8, error: { code: "cancelled", message: "The caller cancelled" } },
  ]);
});

Deno.test("A page without Skein can stop a response whose stream is being created", async () => {
  const model = new Model();
  const broker = new FaultyStore().connect();
  const asked = Promise.withResolvers<void>();
  const created = Promise.withResolvers<void>();
  broker.make("logs.create", async (run) => {
    asked.resolve();
    await created.promise;
    return await run();
  });
  await using server = listen(model.options({ broker }));
  await using page = await Page.open(server.url);
  page.say({ topic: "chat:lobby", data: "hi", id: 1, stream: "a-name-of-sixteen" });
  await soon(asked.promise);
  page.say({ cancel: 1 });
  page.say({ subscribe: "chat:lobby", id: 2 });
  // The subscription is rejected after the cancel.
  await page.takeEnvelopes(1);
  created.resolve();
  await until(() => model.signals[0]?.aborted === true);
});

Deno.test("A response to a request without a name ends with its session", async () => {
  const model = new Model();
  model.release(2);
  await using server = listen(model.options());
  await using page = await Page.open(server.url);
  page.say({ topic: "chat:lobby", data: "hi", id: 1 });
  assertEquals(await page.takeEnvelopes(2), words(2).map((data) => ({ part: 1, data })));
  await page.close();
  await until(() => model.signals[0]!.aborted);
});

Deno.test("client.requestStream() limits the wait for an item, and for all items, by its options", async () => {
  const model = new Model();
  await using server = testServer(model.options());
  await using client = server.connect({ contract });
  model.release(1);
  for (const options of [{ itemTimeoutMs: 100 }, { timeoutMs: 100 }]) {
    const seen: string[] = [];
    const what = "timeoutMs" in options ? "end" : "next item";
    const response = client.requestStream("chat:lobby", "hi", options);
    const reading = async () => {
      for await (const word of response) seen.push(word);
    };
    await assertRejects(reading, TimeoutError, `No ${what} of the response`);
    assertEquals(seen, words(seen.length));
    const left = client.requestStream("chat:lobby", "hi", {
      id: response.id,
      after: response.offset,
    });
    await soon(left.cancel());
    const end = await assertRejects(() => soon(Array.fromAsync(left)), RequestError);
    assertEquals(end.failure.code, "cancelled");
  }
  const stop = AbortSignal.abort(new Error("Enough"));
  const response = client.requestStream("chat:lobby", "hi", { signal: stop });
  await assertRejects(() => Array.fromAsync(response), Error, "Enough");
});

Deno.test("client.requestStream() throws the failure of a generator after the items before it", async () => {
  const errors: unknown[] = [];
  await using server = testServer({
    onError: (error) => void errors.push(error),
    requests: {
      fails: {
        resumable,
        async *handle({ data }: { data: unknown }) {
          yield 1;
          throw data === "quota" ? new RequestError("quota", "No more") : new Error("Secret");
        },
      },
      value: { resumable, handle: () => 5 },
    },
  });
  await using client = server.connect();
  for (
    const [topic, data, code, count] of [
      ["fails", "quota", "quota", 1],
      ["fails", "", "failed", 1],
      ["value", "", "failed", 0],
    ] as const
  ) {
    const seen: unknown[] = [];
    const id = crypto.randomUUID();
    const error = await assertRejects(async () => {
      for await (const item of client.requestStream(topic, data, { id })) seen.push(item);
    }, RequestError);
    assertEquals([error.failure.code, seen.length], [code, count]);
  }
  assertEquals(errors.map((error) => (error as Error).name), ["Error", "TypeError"]);
});

Deno.test("client.requestStream() rejects an id that no response can have, and names it", async () => {
  await using server = testServer({ requests: { numbers: { resumable, async *handle() {} } } });
  await using client = server.connect();
  for (const id of ["7", "x".repeat(65), "an id with spaces"]) {
    const rule = "Cannot request stream: id must have 16 to 64 letters, digits, - or _";
    const reading = Array.fromAsync(client.requestStream("numbers", 1, { id }));
    await assertRejects(() => reading, TypeError, `${rule}, received "${id}"`);
  }
});

Deno.test("client.requestStream() reports that a handler's responses are not resumable", async () => {
  let calls = 0;
  const requests = {
    async *numbers() {
      calls++;
      yield 1;
    },
    number: () => ++calls,
  };
  await using server = testServer({ requests, onMessage: () => void calls++ });
  await using client = server.connect();
  for (const topic of ["numbers", "number", "other"]) {
    const response = client.requestStream(topic, 1, { id: "a-name-of-sixteen" });
    const text = `The response to "${topic}" is not resumable: leave out id`;
    const error = await assertRejects(() => soon(Array.fromAsync(response)), RequestError, text);
    assertEquals(error.failure.code, "invalid");
  }
  assertEquals(calls, 0);
  assertEquals(server.streams, undefined);
});

Deno.test("Requests without a contract are resumable if their handler is an object", async () => {
  const seen: unknown[] = [];
  await using broker = new MemoryBroker();
  const options = {
    broker,
    requests: {
      "count:{to}": {
        resumable,
        async *handle({ params, signal }: { params: Record<string, string>; signal: AbortSignal }) {
          yield 0;
          yield Number(params.to);
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
        },
        async *resume(
          { topic, params, data }: { topic: string; params: object; data: unknown },
          { written, count }: { written: readonly unknown[]; count: number },
        ) {
          seen.push({ topic, params, data, written, count });
          yield 2;
        },
      },
    },
  };
  await using node = testServer(options);
  await using other = testServer(options);
  await using client = other.connect();
  const page = node.connect();
  const response = page.requestStream("count:7", { a: 1 }, { id: crypto.randomUUID() });
  for await (const item of response) if (item === 7) break;
  const { id, offset: after } = response;
  await page.close();
  await node.close();
  const rest = client.requestStream("count:7", undefined, { id, after });
  assertEquals(await soon(Array.fromAsync(rest)), [2]);
  const input = { topic: "count:7", params: { to: "7" }, data: { a: 1 } };
  assertEquals(seen, [{ ...input, written: [0, 7], count: 2 }]);
});

Deno.test("A server whose broker keeps no logs rejects resumable responses", () => {
  const broker = new FaultyStore().connect({ without: ["logs"] });
  assertThrows(
    () => testServer(new Model().options({ broker })),
    TypeError,
    "Cannot mount resumable(): the broker",
  );
  assertThrows(
    () => testServer(new Model().options({ features: [resumable({ maxRunning: 0 })] })),
    RangeError,
    "Cannot create resumable(): maxRunning must be a positive integer",
  );
});

Deno.test("Server.drain() lets responses finish in time, and leaves the rest to the next node", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  const model = new Model();
  model.release(2);
  const server = testServer(model.options({ broker }));
  await using client = server.connect({ contract, token: "ann" });
  const response = client.requestStream("chat:lobby", "hi");
  for await (const word of response) if (word === "word 1") break;
  const draining = server.drain({ withinMs: 5_000 });
  await passTime(time, 4_000);
  assertEquals(model.signals[0]!.aborted, false);
  await passTime(time, 2_000);
  await draining;
  assertEquals([model.signals[0]!.aborted, model.calls.length], [true, 1]);
  await using next = testServer(model.options({ broker }));
  await using page = next.connect({ contract, token: "ann" });
  const rest = page.requestStream("chat:lobby", "hi", { id: response.id, after: response.offset });
  const reading = Array.fromAsync(rest);
  while (model.calls.length < 2) await passTime(time, 100);
  assertEquals(model.calls[1], { data: "hi", room: "lobby", written: words(2), count: 2 });
  model.release();
  assertEquals(await reading, words(8, 2));
});

Deno.test("Server.drain() passes responses to another node immediately", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  const model = new Model();
  model.release(2);
  const server = testServer(model.options({ broker }));
  await using other = testServer(model.options({ broker }));
  await using client = server.connect({ contract, token: "ann" });
  const response = client.requestStream("chat:lobby", "hi");
  for await (const word of response) if (word === "word 1") break;
  while (server.nodes!.size === 0) await passTime(time, 100);
  const draining = server.drain({ withinMs: 60_000 });
  await passTime(time, 10);
  assertEquals(model.calls[1], { data: "hi", room: "lobby", written: words(2), count: 2 });
  await using page = other.connect({ contract, token: "ann" });
  const reading = Array.fromAsync(page.requestStream("chat:lobby", "hi", { id: response.id }));
  model.release();
  assertEquals(await reading, words(8));
  await passTime(time, 60_000);
  await draining;
});

Deno.test("A handler's resume receives the request's topic, parameters, data and user", async () => {
  const resumed: unknown[] = [];
  for (const user of ["ann", undefined]) {
    await using broker = new MemoryBroker();
    const start = () =>
      testServer({
        broker,
        tokens: { inMessage: true },
        authenticate: ({ token }) => token ?? guest,
        requests: {
          "tale:{name}": {
            resumable,
            async *handle() {
              yield "Once";
              await new Promise<never>(() => {});
            },
            async *resume(request, { count }) {
              resumed.push(request);
              yield `${count}`;
            },
          },
        },
      });
    const first = start();
    await using second = start();
    await using writer = first.connect({ token: user });
    const options = { id: newId() };
    await writer.requestStream("tale:a", { tone: "dry" }, options)[Symbol.asyncIterator]().next();
    await first.close();
    await using reader = second.connect({ token: user });
    const read = await soon(Array.fromAsync(reader.requestStream("tale:a", {}, options)));
    assertEquals(read, ["Once", "1"]);
  }
  const request = {
    topic: "tale:a",
    pattern: "tale:{name}",
    params: { name: "a" },
    data: { tone: "dry" },
  };
  assertEquals(resumed, [{ ...request, user: "ann" }, { ...request, user: undefined }]);
});

Deno.test("serve() reports an error of resume to onError", async () => {
  const broker = new MemoryBroker();
  const errors: string[] = [];
  const start = () =>
    listen({
      broker,
      requests: {
        tale: {
          resumable,
          async *handle() {
            yield "Once";
            await new Promise<never>(() => {});
          },
          resume() {
            throw new Error("no ink");
          },
        },
      },
      onError: (error) => void errors.push(String(error)),
    });
  const first = start();
  await using second = start();
  const options = { id: newId() };
  await using writer = connect(first.url);
  await using client = connect(second.url);
  await writer.requestStream("tale", null, options)[Symbol.asyncIterator]().next();
  const reading = Array.fromAsync(client.requestStream("tale", null, options));
  await Promise.all([assertRejects(() => reading, RequestError, "failed"), first.close()]);
  assertEquals(errors, ["Error: The handler of a response failed: no ink"]);
});

Deno.test("serve() reports a resumable handler that returns no items", async () => {
  const errors: string[] = [];
  await using server = listen({
    requests: { tale: { resumable, handle: () => 5 as never } },
    onError: (error) => void errors.push(String(error)),
  });
  await using client = connect(server.url);
  const reading = Array.fromAsync(client.requestStream("tale", null, { id: newId() }));
  await assertRejects(() => reading, RequestError, "failed");
  const rule = 'the handler for "tale" must return an async iterable, received 5';
  assertEquals(errors, [`TypeError: Cannot reply to "tale": ${rule}`]);
});
