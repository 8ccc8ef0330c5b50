/** Tests durable streams over sessions: a client's reader, and the topics `stream:<id>`. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { z } from "zod";
import {
  type Client,
  connect,
  defineContract,
  MemoryBroker,
  type PresenceNotice,
  RequestError,
  SessionClosedError,
} from "../mod.ts";
import type { LogRecord } from "../streams/mod.ts";
import type { Server, ServerOptions } from "../server.ts";
import { receiveOne, testServer, turns } from "../testing/mod.ts";
import { listen } from "./servers.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { soon, until } from "./waiting.ts";
import { Page } from "./peers/page.ts";
import { streamFeatures, streamsOf } from "./stream_features.ts";
import { durableStreams, type DurableStreamsOptions } from "../streams/mod.ts";

/** Options of a server with durable streams. */
function withStreams(options: DurableStreamsOptions = {}) {
  return {
    authorize: () => true,
    features: streamFeatures({ path: "/streams", authorize: () => true, ...options }),
  } satisfies ServerOptions;
}

/** Expects a `RequestError`, and returns its code and message. */
async function failureOf(promise: Promise<unknown>): Promise<[code: string, message: string]> {
  const { failure: { code, message } } = await assertRejects(() => soon(promise), RequestError);
  return [code, message];
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await failureOf(promise))[0];
}

function readAll(client: Client, id: string, after?: string): Promise<unknown[]> {
  return soon(Array.fromAsync(client.durableStream(id, { after })));
}

function range(length: number): number[] {
  return Array.from({ length }, (_, i) => i);
}

/** Creates a complete stream of records. */
async function complete(
  server: Server,
  id: string,
  records: readonly unknown[],
): Promise<void> {
  await using writer = await streamsOf(server).create(id);
  await Promise.all(records.map((record) => writer.append(record)));
  await writer.close();
}

Deno.test("A durable stream is a topic with positions, which notifies subscribers of its end", async () => {
  await using server = listen(withStreams());
  await complete(server, "a", ["one", { two: 2 }]);
  const { offset } = (await streamsOf(server).info("a"))!;
  const tag = offset.split("_")[1]!;
  await using page = await Page.open(server.url, "skein.1");
  page.socket.send('{"subscribe":"stream:a","id":1,"last":9007199254740991}');
  assertEquals(await page.take(4), [
    `{"reply":1,"data":{"epoch":"stream","offset":0,"tag":"${tag}","head":2}}`,
    `{"topic":"stream:a","data":"one","offset":1,"prev":0,"tag":"${tag}"}`,
    `{"topic":"stream:a","data":{"two":2},"offset":2,"prev":1,"tag":"${tag}"}`,
    '{"unsubscribed":"stream:a","code":"ended","reason":"The durable stream is complete"}',
  ]);
  const since = `"since":{"epoch":"stream","offset":1,"tag":"${tag}"}`;
  page.socket.send(`{"subscribe":"stream:a","id":2,${since}}`);
  assertEquals(
    (await page.take(3))[0],
    `{"reply":2,"data":{"epoch":"stream","offset":1,"tag":"${tag}","head":2,"recovered":true}}`,
  );
  page.socket.send('{"subscribe":"stream:b","id":3}');
  page.socket.send('{"publish":"stream:a","id":4,"data":"news"}');
  page.socket.send('{"subscribe":"stream:a","id":5,"since":{"epoch":"other","offset":0}}');
  const failures = (await page.take(3)).map((text) => JSON.parse(text));
  const codes = failures.toSorted((a, b) => a.reply - b.reply).map(({ error }) => error.code);
  assertEquals(codes, ["not-found", "malformed", "gone"]);
});

Deno.test("A plain page receives the records of a stream that the application subscribes it to", async () => {
  await using server = listen({
    ...withStreams(),
    onOpen: (session) => void server.subscribe(session, "stream:a", { last: 2 }),
  });
  await complete(server, "a", range(3));
  await using page = new Page(server.url, []);
  const texts = await page.take(2);
  assertEquals(texts.map((text) => JSON.parse(text).data), [1, 2]);
});

for (const transport of ["websocket", "webtransport", "memory"] as const) {
  Deno.test(`client.durableStream() reads a stream to its end over ${transport}`, async () => {
    await using memory = transport === "memory" ? testServer(withStreams()) : undefined;
    await using sockets = memory === undefined ? listen(withStreams()) : undefined;
    const server = (memory ?? sockets)!;
    await using client = memory?.connect() ?? connect(server.url, {
      transports: [transport === "webtransport" ? "webtransport" : "websocket"],
      serverCertificateHashes: server.certificateHashes,
    });
    await using writer = await streamsOf(server).create<number>("a");
    await Promise.all(range(300).map((i) => writer.append(i)));
    const stream = client.durableStream<number>("a");
    assertEquals({ id: stream.id, offset: stream.offset, isUpToDate: stream.isUpToDate }, {
      id: "a",
      offset: undefined,
      isUpToDate: false,
    });
    const seen: number[] = [];
    const reading = (async () => {
      for await (const item of stream) seen.push(item);
    })();
    await until(() => stream.isUpToDate);
    assertEquals([seen.length, stream.offset], [300, writer.offset]);
    for (let i = 300; i < 320; i++) await writer.append(i);
    await writer.close();
    await soon(reading);
    assertEquals([seen, stream.offset], [range(320), writer.offset]);
    assertEquals(
      client.status.current.name === "connected" && client.status.current.transport,
      transport,
    );
  });
}

// Over HTTP, the reply, the records and the end of the stream arrive together.
for (const transport of ["http", "websocket"] as const) {
  Deno.test(`client.durableStream() delivers all records to each of several loops over ${transport}`, async () => {
    await using server = listen(withStreams());
    await complete(server, "a", range(17));
    await using client = connect(server.url, { transports: [transport] });
    for (let round = 0; round < 2; round++) {
      const loops = await Promise.all(Array.from({ length: 3 }, () => readAll(client, "a")));
      assertEquals(loops, [range(17), range(17), range(17)]);
    }
  });
}

Deno.test("client.durableStream() starts at any offset, including an offset from HTTP", async () => {
  await using server = listen(withStreams());
  await using client = connect(server.url);
  await complete(server, "a", range(5));
  const offsets = await Array.fromAsync(streamsOf(server).read("a"));
  assertEquals(await readAll(client, "a", offsets[2]!.offset), [3, 4]);
  assertEquals(await readAll(client, "a", "-1"), range(5));
  assertEquals(await readAll(client, "a", "now"), []);
  assertEquals(await readAll(client, "a", offsets[4]!.offset), []);

  const url = `${server.url.replace("ws:", "http:")}streams/b`;
  const headers = { "content-type": "application/json" };
  await (await fetch(url, { method: "PUT", headers, body: '[1, {\n"two": 2\n}]' })).body?.cancel();
  const page = await fetch(url);
  assertEquals(await page.json(), [1, { two: 2 }]);
  const close = { ...headers, "stream-closed": "true" };
  await (await fetch(url, { method: "POST", headers: close, body: "[3]" })).body?.cancel();
  assertEquals(await readAll(client, "b", page.headers.get("stream-next-offset")!), [3]);
  assertEquals(await readAll(client, "b"), [1, { two: 2 }, 3]);
});

Deno.test("client.durableStream() continues where the last loop stopped", async () => {
  await using server = testServer(withStreams());
  await complete(server, "a", range(5));
  await using client = server.connect();
  const stream = client.durableStream<number>("a");
  for await (const item of stream) if (item === 2) break;
  assertEquals(await soon(Array.fromAsync(stream)), [3, 4]);
  await using other = server.connect();
  assertEquals(await readAll(other, "a", stream.offset), []);
});

Deno.test("client.durableStream() reads text, bytes, and records that a schema validates", async () => {
  await using server = testServer(withStreams());
  await using client = server.connect();
  const records: LogRecord[] = ["one\ntwo", Uint8Array.of(0, 255)];
  await using writer = await streamsOf(server).create("a", { contentType: "text/plain" });
  for (const record of records) void writer.append(record);
  await writer.close();
  assertEquals(await readAll(client, "a"), records);

  await complete(server, "b", [{ token: "x" }, { token: 7 }]);
  const parse = z.object({ token: z.string() }).parse;
  const tokens: string[] = [];
  await assertRejects(async () => {
    for await (const { token } of client.durableStream("b", { parse })) tokens.push(token);
  }, z.ZodError);
  assertEquals(tokens, ["x"]);
});

Deno.test("client.durableStream() throws the error that ended a stream after all records", async () => {
  await using server = testServer(withStreams());
  await using client = server.connect();
  const writer = await streamsOf(server).create<number>("a");
  const stream = client.durableStream("a");
  const seen: unknown[] = [];
  const reading = failureOf((async () => {
    for await (const item of stream) seen.push(item);
  })());
  await writer.append(1);
  void writer.append(2);
  await writer.abort("The model failed");
  assertEquals(await reading, ["aborted", "The model failed"]);
  assertEquals(seen, [1, 2]);
  await using lost = await streamsOf(server).create("b");
  await lost.abort("writer-lost");
  assertEquals(await codeOf(readAll(client, "b")), "writer-lost");
});

Deno.test("client.durableStream() reports that a stream is missing, deleted, replaced or forbidden", async () => {
  await using server = testServer({
    ...withStreams(),
    authorize: (_session, topic) => topic !== "stream:secret",
  });
  await using client = server.connect();
  assertEquals(await codeOf(readAll(client, "a")), "not-found");
  assertEquals(await codeOf(readAll(client, "secret")), "forbidden");
  await using writer = await streamsOf(server).create("a");
  await writer.append(1);
  const stream = client.durableStream("a");
  const reading = codeOf(Array.fromAsync(stream));
  await until(() => stream.isUpToDate);
  await streamsOf(server).delete("a");
  assertEquals(await reading, "gone");
  await complete(server, "a", [1, 2]);
  assertEquals(await codeOf(readAll(client, "a", stream.offset)), "gone");
  assertEquals(await codeOf(readAll(client, "a", "nonsense")), "malformed");
});

Deno.test("client.durableStream() reports records that are no longer kept", async () => {
  await using server = testServer(withStreams({ keep: { records: 2, bytes: 1_000 } }));
  await using client = server.connect();
  await using writer = await streamsOf(server).create<number>("a");
  await writer.append(0);
  const { offset } = writer;
  for (const i of [1, 2, 3]) await writer.append(i);
  await writer.close();
  assertEquals(await readAll(client, "a"), [2, 3]);
  assertEquals(await codeOf(readAll(client, "a", offset)), "gone");
});

for (const end of ["a lost connection", "a handover"] as const) {
  Deno.test(`client.durableStream() continues after ${end}, with each record exactly once`, async () => {
    await using server = testServer(withStreams());
    await using client = server.connect({ backoff: { firstDelayMs: 1, maxDelayMs: 1 } });
    await using writer = await streamsOf(server).create<number>("a");
    const reading = Array.fromAsync(client.durableStream<number>("a"));
    await client.whenConnected();
    let moving = Promise.resolve(true);
    for (const i of range(200)) {
      void writer.append(i);
      if (i % 5 === 0) await turns(1);
      if (i % 40 !== 20) continue;
      assert(await moving);
      if (end === "a lost connection") server.network.disconnect();
      else moving = client.handOver();
    }
    assert(await moving);
    await writer.close();
    assertEquals(await soon(reading), range(200));
  });
}

Deno.test("client.durableStream() continues if the stream ends while the client is disconnected", async () => {
  await using server = testServer(withStreams());
  await using client = server.connect({ backoff: { firstDelayMs: 1, maxDelayMs: 1 } });
  await using writer = await streamsOf(server).create<number>("a");
  await writer.append(1);
  const stream = client.durableStream<number>("a");
  const reading = Array.fromAsync(stream);
  await until(() => stream.isUpToDate);
  server.network.down();
  await writer.append(2);
  await writer.close();
  server.network.up();
  assertEquals(await soon(reading), [1, 2]);
});

Deno.test("client.durableStream() is not up to date if a reply tells of records that the loop lacks", async () => {
  await using server = testServer(withStreams());
  await using client = server.connect({ backoff: { firstDelayMs: 1, maxDelayMs: 1 } });
  await using writer = await streamsOf(server).create<number>("a");
  await writer.append(1);
  const stream = client.durableStream<number>("a");
  const busy = Promise.withResolvers<void>();
  const seen: (readonly [record: number, isUpToDate: boolean])[] = [];
  const reading = (async () => {
    for await (const record of stream) {
      seen.push([record, stream.isUpToDate]);
      await busy.promise;
    }
  })();
  await until(() => stream.isUpToDate);
  server.network.down();
  await writer.append(2);
  await writer.append(3);
  await writer.close();
  assertEquals(stream.isUpToDate, true);
  server.network.up();
  await until(() => !stream.isUpToDate);
  busy.resolve();
  await soon(reading);
  assertEquals(seen, [[1, true], [2, false], [3, true]]);
});

Deno.test("client.durableStream() ends by its signal, and when the client closes", async () => {
  await using server = testServer(withStreams());
  const client = server.connect();
  await using writer = await streamsOf(server).create<number>("a");
  await writer.append(1);
  const controller = new AbortController();
  const { signal } = controller;
  const stream = client.durableStream("a", { signal });
  const stopped = assertRejects(() => soon(Array.fromAsync(stream)), Error, "enough");
  await until(() => stream.isUpToDate);
  controller.abort(new Error("enough"));
  await stopped;
  await until(() => server.topics.subscribers("stream:a").length === 0);
  await assertRejects(() => soon(Array.fromAsync(stream)), Error, "enough");
  const open = client.durableStream("a");
  const reading = soon(Array.fromAsync(open));
  await until(() => open.isUpToDate);
  await client.close();
  await assertRejects(() => reading, SessionClosedError);
});

Deno.test("Two readers of one client read a stream from different offsets", async () => {
  await using server = testServer(withStreams());
  await using client = server.connect();
  await using writer = await streamsOf(server).create<number>("a");
  for (const i of range(50)) await writer.append(i);
  const { offset } = writer;
  for (let i = 50; i < 100; i++) await writer.append(i);
  const readers = [undefined, offset, "now", "-1"].map((after) =>
    client.durableStream("a", { after })
  );
  const reading = Promise.all(readers.map((reader) => Array.fromAsync(reader)));
  await until(() => readers.every(({ isUpToDate }) => isUpToDate));
  for (let i = 100; i < 110; i++) await writer.append(i);
  await writer.close();
  const all = range(110);
  assertEquals(await soon(reading), [all, all.slice(50), all.slice(100), all]);
});

Deno.test("A reader cancels a stream on another node, within one round trip", async () => {
  await using broker = new MemoryBroker();
  await using one = testServer({ ...withStreams(), broker });
  await using two = testServer({
    ...withStreams(),
    broker,
    authorize: (_session, topic, action) => action !== "cancel" || topic === "stream:a",
  });
  await using client = two.connect();
  await using writer = await streamsOf(one).create<string>("a");
  const stopped = Promise.withResolvers<unknown>();
  writer.signal.addEventListener("abort", () => stopped.resolve(writer.signal.reason));
  const stream = client.durableStream<string>("a");
  const reading = Array.fromAsync(stream);
  await stream.cancel("Enough for me");
  const reason = await soon(stopped.promise) as RequestError;
  assertEquals([reason.failure.code, reason.message], ["cancelled", "Enough for me"]);
  await writer.append("the rest");
  await writer.close();
  assertEquals(await soon(reading), ["the rest"]);
  await stream.cancel("too late");
  assertEquals(await codeOf(client.durableStream("b").cancel()), "forbidden");
  await streamsOf(two).delete("a");
  assertEquals(await codeOf(stream.cancel()), "not-found");
  assertEquals(await codeOf(stream.cancel("x".repeat(1_025))), "malformed");
});

Deno.test("A slow reader of a long stream buffers at most a page at the server and a queue at the client", async () => {
  const count = 40_000;
  await using server = testServer(withStreams());
  await complete(server, "a", []);
  await using writer = await streamsOf(server).create<number>("b");
  for (let i = 0; i < count; i += 5_000) {
    await Promise.all(range(5_000).map((j) => writer.append(i + j)));
  }
  await writer.close();
  await using client = server.connect();
  const session = await client.whenConnected();
  const stream = client.durableStream<number>("b");
  let next = 0;
  let mostQueued = 0;
  for await (const item of stream) {
    assertEquals(item, next++);
    if (item % 500 !== 0) continue;
    await turns(5);
    const [peer] = server.topics.subscribers("stream:b");
    mostQueued = Math.max(mostQueued, peer?.stats.queuedMessages ?? 0);
  }
  assertEquals(next, count);
  assert(mostQueued <= 512, `${mostQueued} messages in the send queue`);
  assertEquals(client.session, session, "The session outlives a reader that is too slow");
});

for (const maxMessages of [4, 256]) {
  Deno.test(`Readers of a stream receive each record exactly once while others stop and fall behind, with room for ${maxMessages} messages`, async () => {
    const count = 1_000;
    const topic = "stream:a";
    const broker = new FaultyStore().connect();
    await using server = listen({
      ...withStreams(),
      broker,
      session: { sendQueue: { maxMessages } },
    });
    await using writer = await streamsOf(server).create<number>("a");
    await using stack = new AsyncDisposableStack();
    const pages: Page[] = [];
    for (let i = 0; i < 9; i++) {
      const page = stack.use(await Page.open(server.url, "skein.1"));
      pages.push(page);
      assertEquals((await page.ask({ subscribe: topic })).error, undefined);
    }
    const restart = async (page: Page) => {
      await page.ask({ unsubscribe: topic });
      const { offset = 0, tag } = page.envelopes.findLast((one) => one["topic"] === topic) ?? {};
      const since = { epoch: "stream", offset, tag };
      assertEquals((await page.ask({ subscribe: topic, since })).error, undefined);
    };
    let reads = 0;
    // The replies to reads arrive in another order than the reads.
    broker.make("logs.read", async (run) => {
      const page = await run();
      await turns(reads++ * 7 % 9);
      return page;
    });
    const restarts: Promise<void>[] = [];
    for (let i = 0, step = 0; i < count; step++) {
      for (const end = Math.min(count, i + step % 5 + 1); i < end; i++) void writer.append(i);
      // The first reader reads for all others, so it is among those that stop.
      if (step % 4 === 0) {
        await Promise.all(restarts.splice(0));
        restarts.push(restart(pages[step / 4 % 4]!), restart(pages[4 + step / 4 % 5]!));
      }
      await turns(step % 3);
    }
    await Promise.all(restarts);
    await writer.close();
    for (const page of pages) {
      await page.next(({ unsubscribed }) => unsubscribed === topic);
      assertEquals(page.on(topic), range(count));
    }
  });
}

for (const end of ["deletion", "error", "close"] as const) {
  Deno.test(`The ${end} of a stream reaches all readers that wait for its next record`, async () => {
    await using server = testServer(withStreams());
    const clients = range(5).map(() => server.connect());
    await using writer = await streamsOf(server).create<number>("a");
    await writer.append(1);
    const streams = clients.map((client) => client.durableStream("a"));
    const readings = streams.map((stream) =>
      Array.fromAsync(stream).catch((error) => error.failure?.code)
    );
    await until(() => streams.every(({ isUpToDate }) => isUpToDate));
    // The first reader, which reads for all others, leaves.
    await clients[0]!.close();
    if (end === "deletion") await streamsOf(server).delete("a");
    else if (end === "error") await writer.abort("The model failed");
    else {
      void writer.append(2);
      await writer.close();
    }
    const expected = { deletion: "gone", error: "aborted", close: [1, 2] }[end];
    assertEquals(await soon(Promise.all(readings.slice(1))), Array(4).fill(expected));
    await readings[0]!;
    for (const client of clients) await client.close();
  });
}

Deno.test("A room on a stream lists the readers", async () => {
  await using server = testServer({
    ...withStreams(),
    authenticate: ({ token = "ann" }) => token,
    rooms: ["stream:{id}"],
    presence: { graceMs: 0 },
  });
  await using writer = await streamsOf(server).create<number>("a");
  await using client = server.connect();
  const stream = client.durableStream("a");
  const reading = Array.fromAsync(stream);
  const { data } = await soon(receiveOne(client as unknown as AsyncIterable<{ data: unknown }>));
  assertEquals((data as PresenceNotice).type, "members");
  await until(() => stream.isUpToDate);
  assertEquals(server.rooms.members("stream:a").map(({ user }) => user), ["ann"]);
  await writer.close();
  await soon(reading);
  await until(() => server.rooms.members("stream:a").length === 0);
});

Deno.test("A contract does not check the records of durable streams", async () => {
  const contract = defineContract({ toClient: { news: z.string() } });
  await using server = testServer({ ...withStreams(), contract });
  await complete(server as unknown as Server, "a", range(3));
  await using client = server.connect({ contract });
  assertEquals(await soon(Array.fromAsync(client.durableStream("a"))), range(3));
  assertThrows(
    () => defineContract({ toClient: { "stream:{id}": z.string() } }),
    TypeError,
    "topics under stream: are built in",
  );
});

Deno.test("Topics of durable streams reject publications, and require durable streams", async () => {
  await using server = testServer(withStreams());
  assertThrows(() => server.publish("stream:a", 1), TypeError, "accept no publications");
  await assertRejects(() => server.topics.append("stream:a", 1), TypeError);
  await using other = testServer({ authorize: () => true });
  await assertRejects(() => durableStreams().cancel("a"), TypeError, "pass it to serve");
  await using client = other.connect();
  const [code, message] = await failureOf(readAll(client, "a"));
  assertEquals({ code, message }, {
    code: "not-found",
    message: "This server has no durable streams",
  });
  assertEquals(await codeOf(client.durableStream("a").cancel()), "not-found");
});

Deno.test("A reader starts at a record that is kept, whatever is dropped before it starts", async () => {
  const broker = new FaultyStore().connect();
  const keep = { records: 2, bytes: 1_000 };
  await using server = testServer({ ...withStreams({ keep }), broker });
  await using writer = await streamsOf(server).create<number>("a");
  let count = 0;
  const append = () => Promise.all([1, 2, 3].map(() => writer.append(count++)));
  await append();
  let isStarting = false;
  broker.make("logs.read", async (run) => {
    const reply = await run();
    if (isStarting) {
      isStarting = false;
      await append();
    }
    return reply;
  });
  await using client = server.connect();
  for (const [after, records] of [["-1", [4, 5]], ["now", [7, 8]]] as const) {
    const stream = client.durableStream("a", { after });
    const seen: unknown[] = [];
    await turns(); // The writer has looked for a cancellation.
    isStarting = true;
    for await (const record of stream) {
      seen.push(record);
      if (seen.length === 2) break;
    }
    assertEquals([seen, stream.offset], [records, writer.offset]);
  }
  await writer.close();
});

Deno.test("A record larger than a message ends the reader, not the session", async () => {
  const broker = new FaultyStore().connect();
  await using server = testServer({
    ...withStreams(),
    broker,
    session: { maxMessageBytes: 1_000 },
  });
  await using writer = await streamsOf(server).create<string>("a");
  await writer.append("small");
  await assertRejects(() => writer.append("x".repeat(1_000)), RangeError);
  await broker.logs!.append("a", { records: [`"${"x".repeat(1_000)}"`], maxBytes: Infinity });
  await using client = server.connect();
  const stream = client.durableStream("a");
  const seen: unknown[] = [];
  const reading = codeOf((async () => {
    for await (const item of stream) seen.push(item);
  })());
  assertEquals([await reading, seen], ["too-large", ["small"]]);
  assert(client.isConnected);
  await writer.close();
});

/**
 * Runs a test while the stream `a` is being read, then closes the stream. It may have only one
 * reader.
 */
async function withFullStream(
  test: (server: Server, bob: Client) => Promise<void>,
): Promise<void> {
  await using server = testServer(withStreams({ maxReaders: 1 }));
  await using writer = await streamsOf(server).create("a");
  await using ann = server.connect();
  await using bob = server.connect();
  const stream = ann.durableStream("a");
  const reading = Array.fromAsync(stream);
  await until(() => stream.isUpToDate);
  await test(server, bob);
  await writer.close();
  assertEquals(await soon(reading), []);
}

Deno.test("A reader above the limit of readers is rejected", () =>
  withFullStream(async (_server, bob) => {
    // A session receives the rejection; a client would retry after the delay that the rejection
    // contains.
    const session = await bob.whenConnected();
    const { failure } = await assertRejects(() => session.subscribe("stream:a"), RequestError);
    assertEquals([failure.code, failure.retryAfterMs], ["too-many", 5_000]);
  }));

Deno.test("A session stays open if the application subscribes it to a stream above the limit of readers", () =>
  withFullStream(async (server, bob) => {
    const { id } = await bob.whenConnected();
    const session = server.manager.get(id)!;
    await server.subscribe(session, "stream:a");
    await until(() => !server.topics.has(session, "stream:a"));
    await turns();
    assertEquals([session.isClosed, bob.isConnected], [false, true]);
  }));

for (const contentType of ["application/octet-stream", "text/plain"]) {
  Deno.test(`Client reads 300 kB of ${contentType} that one request appended, in slices`, async () => {
    await using server = testServer(withStreams());
    const url = "http://localhost/streams/a";
    const body = "ab\u{1f600}".repeat(50_000);
    const headers = { "content-type": contentType };
    const ask = (method: string, text?: string, more = {}) =>
      server.fetch(
        new Request(url, { method, headers: { ...headers, ...more }, body: text ?? null }),
      );
    assertEquals((await ask("PUT")).status, 201);
    assertEquals((await ask("POST", body)).status, 204);
    assertEquals((await ask("POST", "end", { "stream-closed": "true" })).status, 204);
    const whole = await (await server.fetch(new Request(url))).text();
    assertEquals(whole, body + "end");
    // The same applies to a client whose limit is below the server's.
    for (const maxMessageBytes of [262_144, 70_000]) {
      await using client = server.connect({ maxMessageBytes } as never) as unknown as Client;
      const records = await soon(Array.fromAsync(client.durableStream<string | Uint8Array>("a")));
      const decoder = new TextDecoder();
      const parts = records.map((one) =>
        typeof one === "string" ? one : decoder.decode(one, { stream: true })
      );
      assertEquals(parts.join(""), body + "end");
      assert(records.length > 2 && records.every((one) => one.length < maxMessageBytes));
      if (contentType === "text/plain") assert(parts.every((part) => part.isWellFormed()));
    }
  });
}

for (const contentType of ["application/octet-stream", "text/plain"]) {
  Deno.test(`Client continues within a large record of ${contentType} after a lost connection, and when it is slow`, async () => {
    await using server = testServer(withStreams());
    const text = Array.from({ length: 300_000 }, (_, i) => `${i % 10}`).join("");
    await using log = await streamsOf(server).create<unknown>("a", { contentType });
    const headers = { "content-type": contentType };
    await log.append(contentType === "text/plain" ? "begin" : new TextEncoder().encode("begin"));
    await log.release();
    const url = "http://localhost/streams/a";
    const ask = (body: string, more = {}) =>
      server.fetch(new Request(url, { method: "POST", headers: { ...headers, ...more }, body }));
    for (let i = 0; i < 6; i++) assertEquals((await ask(text)).status, 204);
    assertEquals((await ask("end", { "stream-closed": "true" })).status, 204);
    await using client = server.connect({
      maxMessageBytes: 50_000,
      backoff: { firstDelayMs: 1, maxDelayMs: 1 },
    });
    const decoder = new TextDecoder();
    let read = "";
    let losses = 0;
    for await (const part of client.durableStream<string | Uint8Array>("a")) {
      read += typeof part === "string" ? part : decoder.decode(part, { stream: true });
      // Loses the connection in the middle of a record. The reader is then slow enough to fill the
      // queue.
      if (read.length > 400_000 * (losses + 1) && losses < 2) {
        losses++;
        server.network.disconnect();
        await turns();
      } else if (losses === 2 && read.length > 1_000_000) {
        losses++;
        await until(() => client.isConnected);
        for (let i = 0; i < 50; i++) await turns();
      }
    }
    assertEquals(read.length, 8 + 6 * 300_000);
    assertEquals(read, `begin${text.repeat(6)}end`);
  });
}

Deno.test("A JSON record may be as large as a message, and a body may contain many records", async () => {
  await using server = testServer({ ...withStreams(), session: { maxMessageBytes: 10_000 } });
  const headers = { "content-type": "application/json" };
  const put = (records: unknown[], method = "POST") =>
    server.fetch(
      new Request("http://localhost/streams/a", {
        method,
        headers,
        body: JSON.stringify(records),
      }),
    );
  assertEquals((await put([], "PUT")).status, 201);
  const large = await put([1, "x".repeat(10_000)]);
  assertEquals([large.status, (await large.json()).code], [413, "too-large"]);
  const many = Array.from({ length: 20 }, () => "x".repeat(9_000));
  assertEquals((await put(many)).status, 204);
  await using client = server.connect();
  const read: unknown[] = [];
  for await (const record of client.durableStream("a")) if (read.push(record) === 20) break;
  assertEquals(read, many);
});
