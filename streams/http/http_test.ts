import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Server } from "../../server/server.ts";
import { prometheusText } from "../../server/metrics/prometheus.ts";
import type { DurableStreamsOptions } from "../options.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { type Broker, type BrokerSubscription, countedBytes } from "../../pubsub/broker.ts";
import type { AppendLogOptions } from "../logs/log.ts";
import { LimitError, RequestError } from "../../errors.ts";
import { captureConsole } from "../../tests/console_lines.ts";
import { fail, FaultyStore } from "../../tests/faulty_broker.ts";
import { listen } from "../../tests/servers.ts";
import { streamFeatures, streamsOf } from "../../tests/stream_features.ts";
import { logsOf } from "../logs/logs_of.ts";

const TEXT = { "content-type": "text/plain" };
const JSON_TYPE = { "content-type": "application/json" };
const END = { "stream-closed": "true" };

/** A response, read to its end. */
interface Received {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** Code of a problem. */
  readonly code: string | undefined;
}

class Bench implements AsyncDisposable {
  readonly broker: Broker;
  readonly server: Server;

  constructor(options: Partial<DurableStreamsOptions> = {}, broker: Broker = new MemoryBroker()) {
    this.broker = broker;
    this.server = listen({
      webTransport: false,
      broker: this.broker,
      features: streamFeatures({
        path: "/streams",
        authorize: () => true,
        longPollMs: 100,
        ...options,
      }),
    });
  }

  url(id: string): string {
    return `http://127.0.0.1:${this.server.address!.port}/streams/${id}`;
  }

  async ask(method: string, id: string, init: RequestInit = {}): Promise<Received> {
    const response = await fetch(this.url(id), { method, ...init });
    const text = await response.text();
    const { status, headers } = response;
    const isProblem = headers.get("content-type") === "application/problem+json";
    const code: string | undefined = isProblem && text !== "" ? JSON.parse(text).code : undefined;
    return { status, headers, text, code };
  }

  async status(method: string, id: string, init: RequestInit = {}): Promise<number> {
    return (await this.ask(method, id, init)).status;
  }

  /** Changes a log as a session's writer does. */
  async change(id: string, options: Partial<AppendLogOptions>): Promise<void> {
    const { kind } = await logsOf(this.broker)!.append(id, {
      records: [],
      maxBytes: Infinity,
      ...options,
    });
    assertEquals(kind, "appended");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.broker.close();
  }
}

Deno.test("serve() rejects malformed options of durable streams", () => {
  const broker = new FaultyStore().connect({ without: ["logs"] });
  const cases: [options: object, text: string, broker?: Broker][] = [
    [{ path: "streams" }, "Cannot create durableStreams(): path must be spelled as in a URL"],
    [
      { path: "/streams", cache: "shared" },
      'durableStreams(): cache must be "private" or "public"',
    ],
    [{ path: "/streams", maxReader: 1 }, 'unknown option "maxReader"; did you mean "maxReaders"?'],
    [{ path: "/streams", keep: { record: 1 } }, 'unknown option "record" in keep'],
    [{ path: "/streams", authorize: true }, "authorize must be a function"],
    [{ path: "/streams" }, "Cannot mount durableStreams(): the broker", broker],
  ];
  for (const [durableStreams, text, broker] of cases) {
    const create = () =>
      new Server({ broker, features: streamFeatures(durableStreams as DurableStreamsOptions) });
    assertThrows(create, TypeError, text);
  }
  for (const durableStreams of [{ maxReaders: 0 }, { keep: { records: 0, bytes: 1 } }]) {
    assertThrows(
      () => new Server({ features: streamFeatures({ path: "/streams", ...durableStreams }) }),
      RangeError,
      "must be a positive integer, received 0",
    );
  }
});

Deno.test("durableStreams() counts its limits before the first request", async () => {
  await using bench = new Bench({ maxStreams: 7 });
  assertEquals(bench.server.quotaStats["durableStreams.maxStreams"]?.max, 7);
  assertEquals(bench.server.httpStats.durableStreams?.active, 0);
});

Deno.test("a durable stream is written, read, ended and deleted", async () => {
  await using bench = new Bench();
  const created = await bench.ask("PUT", "a/b", { headers: JSON_TYPE, body: "[1]" });
  assertEquals([created.status, created.headers.get("location")], [201, bench.url("a/b")]);
  for (
    const [name, value] of [["x-forwarded-proto", "https"], ["forwarded", "for=a;proto=https"]]
  ) {
    const headers = { ...JSON_TYPE, [name!]: value! };
    const behind = await bench.ask("PUT", name!, { headers });
    assertEquals(behind.headers.get("location"), bench.url(name!).replace("http:", "https:"));
  }
  const body = '{"x": [1, 2]}';
  assertEquals(await bench.status("POST", "a/b", { headers: JSON_TYPE, body }), 204);
  const read = await bench.ask("GET", "a/b");
  assertEquals(read.text, `[1,${body}]`);
  const next = read.headers.get("stream-next-offset")!;
  assertMatch(next, /^0000000000000002_[0-9a-z]{8}$/);
  assertEquals(await bench.status("POST", "a/b", { headers: END }), 204);
  const rest = await bench.ask("GET", `a/b?offset=${next}`);
  assertEquals([rest.text, rest.headers.get("stream-closed")], ["[]", "true"]);
  const late = await bench.ask("POST", "a/b", { headers: JSON_TYPE, body });
  assertEquals({
    status: late.status,
    code: late.code,
    streamClosed: late.headers.get("stream-closed"),
  }, { status: 409, code: "closed", streamClosed: "true" });
  assertEquals(await bench.status("DELETE", "a/b"), 204);
  assertEquals((await bench.ask("GET", "a/b")).code, "not-found");
});

Deno.test("an append that follows a deletion is checked against the new stream", async () => {
  await using bench = new Bench();
  await bench.ask("PUT", "a", { headers: TEXT, body: "old" });
  assertEquals(await bench.status("POST", "a", { headers: TEXT, body: "1" }), 204);
  // Another node deletes and recreates the stream.
  assertEquals((await logsOf(bench.broker)!.delete("a")).kind, "removed");
  await logsOf(bench.broker)!.create("a", {
    identity: "abcdefgh",
    config: { contentType: "application/json" },
    records: [],
    maxLogs: 10,
  });
  assertEquals((await bench.ask("POST", "a", { headers: TEXT, body: "2" })).code, "wrong-type");
  assertEquals(await bench.status("POST", "a", { headers: JSON_TYPE, body: "[2,3]" }), 204);
  assertEquals((await bench.ask("GET", "a")).text, "[2,3]");
});

Deno.test("an offset of another stream, or after the end, is gone", async () => {
  await using bench = new Bench();
  await bench.ask("PUT", "a", { headers: TEXT, body: "1" });
  const offset = (await bench.ask("HEAD", "a")).headers.get("stream-next-offset")!;
  await bench.ask("PUT", "b", { headers: TEXT, body: "1" });
  const beyond = offset.replace("1_", "2_");
  for (const live of ["", "&live=long-poll", "&live=sse"]) {
    const cases = [["b", offset, 410], ["a", beyond, 410], ["a", "7", 400], ["c", offset, 404]];
    for (const [id, at, status] of cases) {
      assertEquals(await bench.status("GET", `${id}?offset=${at}${live}`), status, `${at}${live}`);
    }
  }
});

Deno.test("a reader of dropped records receives an error, and can start at the oldest record", async () => {
  await using bench = new Bench({ keep: { records: 2, bytes: 1_000 } });
  const created = await bench.ask("PUT", "a", { headers: JSON_TYPE, body: "[1]" });
  const offset = created.headers.get("stream-next-offset")!;
  await bench.ask("POST", "a", { headers: JSON_TYPE, body: "[2,3,4]" });
  for (const live of ["", "&live=long-poll", "&live=sse"]) {
    assertEquals(await bench.status("GET", `a?offset=${offset}${live}`), 410);
  }
  assertEquals((await bench.ask("GET", "a?offset=-1")).text, "[3,4]");
  assertEquals((await bench.ask("GET", "a?offset=-1&live=long-poll")).text, "[3,4]");
});

Deno.test("caches keep no first page of a stream whose oldest records are dropped", async () => {
  await using bench = new Bench({ keep: { records: 2, bytes: 4_000_000 }, cache: "public" });
  const body = "x".repeat(600_000);
  await bench.ask("PUT", "a", { headers: TEXT, body });
  const cachingOf = async (query: string) => {
    const { headers } = await bench.ask("GET", `a${query}`);
    return [headers.get("cache-control"), headers.get("stream-next-offset")!];
  };
  await bench.ask("POST", "a", { headers: TEXT, body });
  const [caching, offset] = await cachingOf("?offset=-1");
  const others = [await cachingOf(""), await cachingOf("?offset=-1&live=long-poll")];
  assertEquals(caching, "public, no-cache");
  assertEquals(others.map(([other]) => other), ["public, no-cache", "no-store"]);
  await bench.ask("POST", "a", { headers: TEXT, body });
  // The page after an offset stays the same.
  assertStringIncludes((await cachingOf(`?offset=${offset}`))[0]!, "max-age=60");
});

Deno.test("a reader at the end starts at a record that is kept, whatever is dropped meanwhile", async () => {
  for (const live of ["long-poll", "sse"]) {
    const broker = new FaultyStore().connect();
    await using bench = new Bench({ keep: { records: 2, bytes: 1_000 } }, broker);
    await bench.ask("PUT", "a", { headers: JSON_TYPE, body: "[1]" });
    let isStarting = true;
    broker.make("logs.read", async (run) => {
      const reply = await run();
      if (isStarting) {
        isStarting = false;
        await bench.ask("POST", "a", { headers: { ...JSON_TYPE, ...END }, body: "[2,3,4]" });
      }
      return reply;
    });
    const { status, text } = await bench.ask("GET", `a?offset=now&live=${live}`);
    assertEquals(status, 200);
    assertStringIncludes(text, "[3,4]");
  }
});

Deno.test("a stream that its writer aborted never looks complete", async () => {
  await using bench = new Bench();
  const created = await bench.ask("PUT", "a", { headers: TEXT, body: "half" });
  const offset = created.headers.get("stream-next-offset")!;
  await bench.change("a", { end: { error: "disk full: 100 %\r\nset-cookie: a=b é" } });
  const error = "disk full: 100 %25%0D%0Aset-cookie: a=b %C3%A9";
  const asks: [method: string, id: string, status: number][] = [
    ["HEAD", "a", 200],
    ["GET", "a", 200],
    ["GET", `a?offset=${offset}`, 200],
    ["GET", "a?offset=now", 200],
    ["GET", `a?offset=${offset}&live=long-poll`, 204],
    ["GET", `a?offset=${offset}&live=sse`, 200],
    ["POST", "a", 409],
  ];
  for (const [method, id, status] of asks) {
    const body = method === "POST" ? { headers: TEXT, body: "more" } : {};
    const response = await bench.ask(method, id, body);
    assertEquals([response.status, response.headers.get("stream-closed")], [status, "true"], id);
    assertEquals(response.headers.get("skein-stream-error"), error, id);
    assertEquals(response.headers.get("set-cookie"), null);
  }
  const { text } = await bench.ask("GET", "a?offset=-1&live=sse");
  const [, control] = /event: control\ndata:(.*)\n\n$/.exec(text)!;
  const { streamClosed, skeinStreamError } = JSON.parse(control!);
  assertEquals([streamClosed, skeinStreamError], [true, "disk full: 100 %\r\nset-cookie: a=b é"]);
});

Deno.test("POST ?action=cancel asks the writer to stop", async () => {
  const actions: string[] = [];
  await using bench = new Bench({
    authorize: ({ action, id }) => actions.push(`${action} ${id}`) > 0,
  });
  await bench.ask("PUT", "a", { headers: TEXT });
  const cancelled = await bench.ask("POST", "a?action=cancel", { body: "too dear" });
  assertEquals([cancelled.status, cancelled.headers.get("skein-stream-cancelled")], [
    204,
    "too dear",
  ]);
  const page = await logsOf(bench.broker)!.read("a", {
    after: 0,
    maxRecords: 0,
    maxBytes: 0,
    renews: false,
  });
  assert(typeof page === "object");
  assertEquals(page.info.cancelled, "too dear");
  assertEquals(await bench.status("POST", "a", { headers: END }), 204);
  const late = await bench.ask("POST", "a?action=cancel");
  assertEquals([late.status, late.headers.get("stream-closed")], [204, "true"]);
  assertEquals(await bench.status("POST", "b?action=cancel"), 404);
  assertEquals((await bench.ask("POST", "a?action=stop")).code, "bad-query");
  assertEquals(await bench.status("POST", "a?action=cancel", { body: "x".repeat(1_025) }), 413);
  assertEquals(actions.slice(0, 2), ["create a", "cancel a"]);
});

Deno.test("a reason in a header is cut between characters", async () => {
  await using bench = new Bench();
  await bench.ask("PUT", "a", { headers: TEXT });
  for (const [id, character] of [["a", "€"], ["b", "é"], ["c", "%"]] as const) {
    await bench.ask("PUT", id, { headers: TEXT });
    const reason = character.repeat(340);
    await bench.ask("POST", `${id}?action=cancel`, { body: reason });
    const text = (await bench.ask("HEAD", id)).headers.get("skein-stream-cancelled")!;
    assert(text.length <= 1_024 && text.length > 1_000);
    assert(reason.startsWith(decodeURIComponent(text)));
  }
});

Deno.test("a stream has at most the allowed bytes, also at its creation", async () => {
  await using bench = new Bench({ maxStreamBytes: countedBytes(10, 1) });
  const large = await bench.ask("PUT", "a", { headers: TEXT, body: "x".repeat(11) });
  assertEquals([large.status, large.code], [413, "full"]);
  assertEquals(await bench.status("HEAD", "a"), 404);
  assertEquals(await bench.status("PUT", "a", { headers: TEXT, body: "x".repeat(10) }), 201);
  const fork = { ...TEXT, "stream-forked-from": "/streams/a" };
  assertEquals(await bench.status("PUT", "b", { headers: fork, body: "x".repeat(11) }), 413);
  assertEquals(bench.server.httpStats.durableStreams?.limited?.maxStreamBytes, 2);
  // The rejected fork does not keep its source.
  await bench.ask("DELETE", "a");
  assertEquals(await bench.status("HEAD", "a"), 404);
});

Deno.test("all streams together have at most the bytes that the broker allows", async () => {
  await using bench = new Bench({}, new MemoryBroker({ maxTotalBytes: 12_000 }));
  const body = "x".repeat(10_000);
  assertEquals(await bench.status("PUT", "a", { headers: TEXT, body }), 201);
  const appended = await bench.ask("POST", "a", { headers: TEXT, body });
  assertEquals([appended.status, appended.code], [413, "full"]);
  const detail = "this server has no room for more bytes of streams and histories";
  assertEquals(JSON.parse(appended.text).detail, `Cannot append: ${detail}`);
  const created = await bench.ask("PUT", "b", { headers: TEXT, body });
  assertEquals([created.status, JSON.parse(created.text).detail], [
    413,
    `Cannot create: ${detail}`,
  ]);
  assertEquals(bench.server.httpStats.durableStreams?.limited?.maxTotalBytes, 2);
  const durableStreams = streamsOf(bench.server);
  await assertRejects(() => durableStreams.create("x".repeat(100)), LimitError, detail);
  await using writer = await durableStreams.open<string>("a");
  const { failure } = await assertRejects(() => writer.append(body), RequestError, detail);
  assertEquals(failure.code, "full");
  await bench.ask("DELETE", "a");
  assertEquals(await bench.status("PUT", "b", { headers: TEXT, body }), 201);
});

Deno.test("a source has at most the allowed forks", async () => {
  await using bench = new Bench({ maxForks: 1 });
  await bench.ask("PUT", "a", { headers: TEXT });
  const fork = { headers: { "stream-forked-from": "/streams/a" } };
  assertEquals([await bench.status("PUT", "b", fork), await bench.status("PUT", "b", fork)], [
    201,
    200,
  ]);
  const rejected = await bench.ask("PUT", "c", fork);
  assertEquals([rejected.status, rejected.code], [409, "too-many-forks"]);
  const { detail } = JSON.parse(rejected.text);
  assertEquals(detail, "Cannot create: the source has 1 forks already (maxForks)");
  assertEquals(bench.server.httpStats.durableStreams?.limited?.maxForks, 1);
  await bench.ask("DELETE", "b");
  assertEquals(await bench.status("PUT", "c", fork), 201);
});

Deno.test("a rejected append reports the expected and the received value", async () => {
  await using bench = new Bench();
  await bench.ask("PUT", "a", { headers: TEXT });
  const append = async (headers: Record<string, string>) => {
    const { text } = await bench.ask("POST", "a", { headers: { ...TEXT, ...headers }, body: "x" });
    return text === "" ? "" : JSON.parse(text).detail.replace("Cannot append: ", "");
  };
  const number = (epoch: number, seq: number) =>
    append({ "producer-id": "p", "producer-epoch": `${epoch}`, "producer-seq": `${seq}` });
  assertEquals(await append({ "stream-seq": "b" }), "");
  assertEquals(await append({ "stream-seq": "a" }), 'Stream-Seq must be above "b", received "a"');
  assertEquals(await number(3, 0), "");
  assertEquals(await number(3, 2), "Producer-Seq must be 1, received 2");
  assertEquals(await number(2, 0), "Producer-Epoch must be at least 3, received 2");
  const first = "the first Producer-Seq of a Producer-Epoch must be 0, received 1";
  assertEquals(await number(4, 1), first);
});

Deno.test("an outage of the broker is a 503 for each request, and one line on the console", async () => {
  using console = captureConsole();
  const broker = new FaultyStore().connect();
  broker.make("logs", fail);
  await using bench = new Bench({}, broker);
  const body = { headers: TEXT, body: "x" };
  const asks: [method: string, id: string, init?: RequestInit][] = [
    ["PUT", "a", body],
    ["POST", "a", body],
    ["POST", "a?action=cancel"],
    ["HEAD", "a"],
    ["GET", "a"],
    ["GET", "a?offset=now&live=sse"],
    ["GET", "a?offset=-1&live=sse"],
    ["GET", "a?offset=-1&live=long-poll"],
    ["DELETE", "a"],
  ];
  for (let round = 0; round < 3; round++) {
    for (const [method, id, init] of asks) {
      assertEquals(await bench.status(method, id, init), 503, `${method} ${id}`);
    }
  }
  assertEquals(bench.server.httpStats.durableStreams?.readers, { "long-poll": 0, sse: 0 });
  const lines = console.lines.filter((line) => line.includes("A request to durableStreams"));
  assertEquals(lines, ["Skein: A request to durableStreams failed: Cannot reach the broker"]);
});

Deno.test("a reader does not wait forever for announcements of a silent broker", async () => {
  using console = captureConsole();
  await using bench = new Bench({ longPollMs: 20_000 });
  await bench.ask("PUT", "a", { headers: TEXT });
  const silent = (...[topic, ...rest]: Parameters<Broker["subscribe"]>): BrokerSubscription => {
    const subscription = MemoryBroker.prototype.subscribe.call(bench.broker, topic, ...rest);
    return Object.assign(subscription, { ready: new Promise<void>(() => {}) });
  };
  Object.assign(bench.broker, { subscribe: silent });
  const asks = ["sse", "long-poll"].map((live) => bench.ask("GET", `a?offset=-1&live=${live}`));
  for (const { status, code } of await Promise.all(asks)) {
    assertEquals([status, code], [503, "unavailable"]);
  }
  assertEquals(bench.server.httpStats.durableStreams?.readers, { "long-poll": 0, sse: 0 });
  assertEquals(console.lines.filter((line) => line.includes("A request to")).length, 1);
});

Deno.test("each action needs its permission, and a fork also needs read on the source", async () => {
  let rights: string[] = [];
  await using bench = new Bench({
    authorize: ({ action, id }) => rights.includes(`${action} ${id}`),
  });
  rights = ["create a"];
  assertEquals(await bench.status("PUT", "a", { headers: TEXT, body: "1" }), 201);
  const asks: [right: string, method: string, id: string, init?: RequestInit][] = [
    ["read a", "GET", "a"],
    ["read a", "HEAD", "a"],
    ["append a", "POST", "a", { headers: TEXT, body: "2" }],
    ["append a", "POST", "a", { headers: END }],
    ["read a", "GET", "a?offset=-1&live=sse"],
    ["cancel a", "POST", "a?action=cancel"],
    ["delete a", "DELETE", "a"],
  ];
  for (const [right, method, id, init] of asks) {
    rights = ["read", "append", "cancel", "delete", "create"].map((action) => `${action} a`)
      .filter((one) => one !== right);
    assertEquals(await bench.status(method, id, init), 403, `${method} ${id}`);
    rights = [right];
    assert(await bench.status(method, id, init) < 300, `${method} ${id}`);
  }
  rights = ["create a"];
  await bench.ask("PUT", "a", { headers: TEXT });
  const fork = { headers: { "stream-forked-from": "/streams/a" } };
  rights = ["create fork"];
  assertEquals(await bench.status("PUT", "fork", fork), 403);
  rights = ["create fork", "read a"];
  assertEquals(await bench.status("PUT", "fork", fork), 201);
});

Deno.test("caches keep a page that cannot change, and revalidate the end of a stream", async () => {
  await using bench = new Bench();
  await bench.ask("PUT", "a", { headers: JSON_TYPE, body: "[1]" });
  const open = await bench.ask("GET", "a");
  assertEquals(open.headers.get("cache-control"), "private, no-cache");
  const etag = open.headers.get("etag")!;
  const again = (condition: string) =>
    bench.ask("GET", "a", { headers: { "if-none-match": condition } });
  for (const condition of [etag, `W/${etag}`, `"x", ${etag}`, "*"]) {
    const same = await again(condition);
    assertEquals({ status: same.status, text: same.text, etag: same.headers.get("etag") }, {
      status: 304,
      text: "",
      etag,
    }, condition);
  }
  await bench.ask("POST", "a", { headers: END });
  const ended = await again(etag);
  assertEquals(ended.status, 200);
  assertEquals(
    ended.headers.get("cache-control"),
    "private, max-age=60, stale-while-revalidate=300",
  );
  const now = await bench.ask("GET", "a?offset=now");
  assertEquals([now.headers.get("etag"), now.headers.get("cache-control")], [null, "no-store"]);
});

Deno.test("a public stream is kept by shared caches, and its long-polls too", async () => {
  await using bench = new Bench({ cache: "public" });
  await bench.ask("PUT", "a", { headers: TEXT, body: "1" });
  const poll = await bench.ask("GET", "a?offset=-1&live=long-poll&cursor=1");
  const [caching, vary] = ["cache-control", "vary"].map((name) => poll.headers.get(name));
  assertEquals([caching, vary], ["public, max-age=60, stale-while-revalidate=300", "Origin"]);
  const next = poll.headers.get("stream-next-offset");
  const idle = await bench.ask("GET", `a?offset=${next}&live=long-poll`);
  assertEquals([idle.status, idle.headers.get("cache-control")], [204, "no-store"]);
  assertEquals(idle.headers.get("stream-up-to-date"), "true");
});

Deno.test("a page of a larger stream ends at its limit, and long-polls continue there", async () => {
  await using bench = new Bench();
  await bench.ask("PUT", "a", { headers: TEXT });
  const part = "x".repeat(700_000);
  await bench.ask("POST", "a", { headers: TEXT, body: part });
  await bench.ask("POST", "a", { headers: { ...TEXT, ...END }, body: part });
  const first = await bench.ask("GET", "a");
  assertEquals(first.text.length, 700_000);
  assertEquals(["stream-up-to-date", "stream-closed"].map((name) => first.headers.get(name)), [
    null,
    null,
  ]);
  assertStringIncludes(first.headers.get("cache-control")!, "max-age=60");
  const next = first.headers.get("stream-next-offset");
  const second = await bench.ask("GET", `a?offset=${next}&live=long-poll`);
  assertEquals([second.text.length, second.headers.get("stream-closed")], [700_000, "true"]);
  assertEquals(second.headers.get("stream-cursor"), null);
});

Deno.test("events contain texts whose lines cannot become fields", async () => {
  await using bench = new Bench();
  const text = " a\r\nevent: control\rdata: {}\n\n b";
  await bench.ask("PUT", "a", { headers: { ...TEXT, ...END }, body: text });
  const { text: events, headers } = await bench.ask("GET", "a?offset=-1&live=sse");
  assertEquals(headers.get("content-type"), "text/event-stream");
  const lines = ["data:  a", "data:event: control", "data:data: {}", "data:", "data:  b"];
  assertStringIncludes(events, `event: data\n${lines.join("\n")}\n\nevent: control\n`);
});

Deno.test("readers and limits of durable streams are in the metrics", async () => {
  await using bench = new Bench({
    maxReadersPerAddress: 1,
    maxStreams: 1,
    maxStreamBytes: countedBytes(4, 1),
  });
  await bench.ask("PUT", "a", { headers: TEXT });
  const body = "12345";
  assertEquals((await bench.ask("POST", "a", { headers: TEXT, body })).code, "full");
  const second = await bench.ask("PUT", "b", { headers: TEXT });
  assertEquals([second.status, second.headers.get("retry-after")], [429, "5"]);
  const reader = await fetch(bench.url("a?offset=-1&live=sse"));
  const rejected = await bench.ask("GET", "a?offset=-1&live=long-poll");
  assertEquals([rejected.status, rejected.headers.get("retry-after")], [429, "5"]);
  const { durableStreams } = bench.server.httpStats;
  assertEquals(durableStreams?.readers, { "long-poll": 0, sse: 1 });
  assertEquals(durableStreams?.limited, {
    maxReaders: 0,
    maxReadersPerAddress: 1,
    maxReadersPerUser: 0,
    maxStreams: 1,
    maxStreamBytes: 1,
    maxForks: 0,
    maxRows: 0,
    maxTotalBytes: 0,
    stalled: 0,
  });
  const text = prometheusText(bench.server);
  assertMatch(text, /^skein_http_readers\{feature="durableStreams",way="sse"\} 1$/m);
  assertMatch(text, /^skein_http_limited_total\{feature="durableStreams",bound="maxStreams"\} 1$/m);
  await reader.body!.cancel();
});

Deno.test("streams of responses can be read over HTTP, but not written", async () => {
  await using bench = new Bench();
  const id = "answer:guest:aaaaaaaaaaaaaaaaaaaaaa:0123456789abcdef";
  for (const method of ["PUT", "POST", "DELETE"]) {
    const rejected = await bench.ask(method, id, { headers: JSON_TYPE, body: "[1]" });
    assertEquals([rejected.status, rejected.headers.get("allow")], [405, "GET, HEAD"], method);
  }
  assertEquals(await bench.status("POST", `${id}?action=cancel`), 405);
  assertEquals(await bench.status("GET", id), 404);
  await using _writer = await streamsOf(bench.server).create(id);
  assertEquals([await bench.status("GET", id), await bench.status("HEAD", id)], [200, 200]);
});

/** Encodings of an internal name. */
const INTERNAL = ["$skein:a", "%24skein:a", "%24%73kein%3aa/b", "$skein:a/../$skein:b"];

Deno.test("internal streams are not found by any method, whatever authorize returns", async () => {
  const asked: string[] = [];
  await using bench = new Bench({ authorize: ({ id }) => asked.push(id) > 0 });
  await logsOf(bench.broker)!.create("$skein:a", {
    config: { contentType: "text/plain" },
    identity: "identity",
    records: ["secret"],
    maxLogs: 10,
  });
  const preflight = { "access-control-request-method": "GET", origin: bench.url("").slice(0, -9) };
  for (const id of INTERNAL) {
    for (const method of ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"]) {
      const { status, text } = await bench.ask(method, id, { headers: { ...TEXT, ...preflight } });
      assertEquals([status, text.includes("secret")], [404, false], `${method} ${id}`);
    }
    for (const query of ["?live=sse", "?live=long-poll", "?offset=now", "?action=cancel"]) {
      assertEquals(await bench.status(query.includes("action") ? "POST" : "GET", id + query), 404);
    }
  }
  assertEquals(asked, []);
  const headers = { ...TEXT, "stream-forked-from": "/streams/%24skein:a" };
  assertEquals(await bench.status("PUT", "fork", { headers }), 404);
});
