import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { DurableStreamsHandler, type DurableStreamsHandlerOptions } from "./handler.ts";
import { STALLED_MS } from "../../server/http/event_bodies.ts";
import { SSE_MS } from "./sse.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import type { RequestInfo } from "../../transport/address.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { headOf, partsOf, TextSocket } from "../../tests/peers/text_socket.ts";
import { logsOf } from "../logs/logs_of.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

const TEXT = { "content-type": "text/plain" };
const URL_OF_STREAMS = "http://localhost/streams";

/** A handler without sockets, with a clock that the test controls. */
class Bench implements AsyncDisposable {
  readonly time: FakeTime = new FakeTime();
  readonly broker: MemoryBroker = new MemoryBroker();
  readonly errors: unknown[] = [];
  readonly streams: DurableStreamsHandler;

  constructor(options: Partial<DurableStreamsHandlerOptions> = {}) {
    this.streams = new DurableStreamsHandler({
      broker: this.broker,
      path: "/streams",
      authorize: () => true,
      onError: (error) => this.errors.push(error),
      ...options,
    });
  }

  ask(path: string, init: RequestInit = {}, info?: RequestInfo): Promise<Response> {
    return this.streams.fetch(new Request(`${URL_OF_STREAMS}${path}`, init), info);
  }

  async create(id: string, ...records: string[]): Promise<void> {
    const { status } = await this.ask(`/${id}`, { method: "PUT", headers: TEXT });
    assertEquals(status, 201);
    for (const record of records) await this.append(id, record);
  }

  async append(id: string, body: string): Promise<void> {
    const { status } = await this.ask(`/${id}`, { method: "POST", headers: TEXT, body });
    assertEquals(status, 204);
  }

  get waiting(): number {
    return Object.values(this.streams.stats.readers!).reduce((sum, count) => sum + count, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.streams.close();
    await this.broker.close();
    this.time.restore();
    assertEquals(this.errors, []);
  }
}

function from(hostname: string): RequestInfo {
  return { remoteAddr: { transport: "tcp", hostname, port: 50_000 } };
}

/** Runs everything that is ready, without moving the clock. */
async function settle(time: FakeTime): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await time.tickAsync(0);
}

Deno.test("DurableStreamsHandler() rejects unknown keys, and brokers without logs", async () => {
  await using memory = new MemoryBroker();
  const options = { broker: memory, path: "/streams" };
  assertThrows(
    () => new DurableStreamsHandler({ ...options, paths: "/" } as DurableStreamsHandlerOptions),
    TypeError,
    'unknown option "paths"; did you mean "path"?',
  );
  const broker = new FaultyStore().connect({ without: ["logs"] });
  assertThrows(
    () => new DurableStreamsHandler({ ...options, broker }),
    TypeError,
    "stores no durable streams",
  );
});

Deno.test("DurableStreamsHandler.fetch() responds to other paths with 404, and to other methods with 405", async () => {
  await using bench = new Bench();
  const other = await bench.streams.fetch(new Request("http://localhost/other"));
  assertEquals([other.status, other.headers.get("x-content-type-options")], [404, "nosniff"]);
  const patch = await bench.ask("/a", { method: "PATCH" });
  assertEquals([patch.status, patch.headers.get("allow")], [405, "GET, HEAD, POST, PUT, DELETE"]);
});

slowTest("10,000 long-polls of one address use half of all slots", async () => {
  await using bench = new Bench();
  await bench.create("a");
  const polls = Array.from(
    { length: 10_000 },
    () => bench.ask("/a?offset=-1&live=long-poll", {}, from("192.0.2.1")),
  );
  const statuses: number[] = [];
  for (const poll of polls) void poll.then(({ status }) => statuses.push(status));
  await settle(bench.time);
  assertEquals([statuses.length, new Set(statuses)], [5_000, new Set([429])]);
  assertEquals(bench.waiting, 5_000);
  // The share of requests, half of 11,024, is reached before the share of readers.
  assertEquals(bench.streams.stats.limited?.maxReadersPerAddress, 512);

  const other = bench.ask("/a?offset=-1&live=long-poll", {}, from("192.0.2.2"));
  await settle(bench.time);
  await bench.append("a", "hello");
  assertEquals(await (await other).text(), "hello");
  const all = await Promise.all(polls);
  assertEquals(all.filter(({ status }) => status === 200).length, 5_000);
  assertEquals(bench.waiting, 0);
});

Deno.test("readers of all addresses are limited, and release their slots", async () => {
  await using bench = new Bench({ maxReaders: 20 });
  await bench.create("a");
  const poll = (i: number, live: string) =>
    bench.ask(`/a?offset=-1&live=${live}`, {}, from(`192.0.2.${i}`));
  const polls = Array.from({ length: 15 }, (_, i) => poll(i, "long-poll"));
  const events = await Promise.all(Array.from({ length: 5 }, (_, i) => poll(i, "sse")));
  for (const live of ["long-poll", "sse"]) {
    const rejected = await poll(200, live);
    assertEquals([rejected.status, rejected.headers.get("retry-after")], [429, "5"]);
  }
  assertEquals(bench.streams.stats.limited?.maxReaders, 2);
  await Promise.all(events.map(({ body }) => body!.cancel()));
  await bench.time.tickAsync(20_000);
  assertEquals(new Set((await Promise.all(polls)).map(({ status }) => status)), new Set([204]));
  assertEquals(bench.waiting, 0);
  const next = await poll(200, "sse");
  assertEquals(next.status, 200);
  await next.body!.cancel();
});

Deno.test("requests have a rate limit per address, and a limit of concurrent ones", async () => {
  await using bench = new Bench({ rate: { perSecond: 1, burst: 2 }, maxRequests: 1 });
  const statuses = [];
  for (let i = 0; i < 3; i++) {
    statuses.push((await bench.ask("/none", {}, from("192.0.2.1"))).status);
  }
  assertEquals(statuses, [404, 404, 429]);
  const { readable: body, writable } = new TransformStream();
  const slow = bench.ask("/a", { method: "PUT", headers: TEXT, body }, from("192.0.2.2"));
  const put = () => bench.ask("/b", { method: "PUT", headers: TEXT }, from("192.0.2.3"));
  assertEquals((await put()).status, 429);
  await writable.close();
  assertEquals([(await slow).status, (await put()).status], [201, 201]);
});

Deno.test("a reader of events that does not read holds one event, and is disconnected", async () => {
  await using bench = new Bench();
  await bench.create("a", "0");
  const { body } = await bench.ask("/a?offset=-1&live=sse");
  const reader = body!.getReader();
  await reader.read();
  let reads = 0;
  const logs = logsOf(bench.broker)!;
  const read = logs.read.bind(logs);
  logs.read = (...args) => {
    reads++;
    return read(...args);
  };
  for (let i = 0; i < 1_000; i++) await bench.append("a", "x".repeat(1_000));
  await settle(bench.time);
  assertEquals([reads, bench.waiting], [0, 1]);
  await bench.time.tickAsync(STALLED_MS);
  assertEquals([bench.streams.stats.limited?.stalled, bench.waiting], [1, 0]);
  const error = await reader.read().then(() => undefined, (error) => error);
  assertEquals(error.name, "TimeoutError");
  // An HTTP server prints this error for each stalled reader.
  assertEquals(Deno.inspect(error), `TimeoutError: ${error.message}`);
});

Deno.test("a response with events ends after a minute, read or not", async () => {
  await using bench = new Bench();
  await bench.create("a");
  const [idle, untouched] = await Promise.all(
    [1, 2].map(() => bench.ask("/a?offset=-1&live=sse")),
  );
  const text = idle!.text();
  await settle(bench.time);
  // A reader of an empty stream reaches the end immediately, requests more, and waits.
  await bench.time.tickAsync(SSE_MS - 1);
  assertEquals(bench.waiting, 2);
  await bench.time.tickAsync(1);
  await settle(bench.time);
  assertEquals(bench.waiting, 0);
  assertStringIncludes(await text, '"upToDate":true');
  assertEquals(await untouched!.text(), "");
});

Deno.test("a POST that never ends is rejected in time", async () => {
  await using bench = new Bench();
  await bench.create("a");
  let isCancelled = false;
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(new TextEncoder().encode("x")),
    cancel: () => void (isCancelled = true),
  });
  const post = bench.ask("/a", { method: "POST", headers: TEXT, body });
  await settle(bench.time);
  await bench.time.tickAsync(30_000);
  assertEquals([(await post).status, isCancelled], [408, true]);
  assertEquals(await (await bench.ask("/a")).text(), "");
});

Deno.test("a body that is too large is rejected before the first byte is read", async () => {
  await using bench = new Bench({ maxAppendBytes: 10 });
  await bench.create("a");
  let pulls = 0;
  const body = () =>
    new ReadableStream<Uint8Array>({
      pull(controller) {
        pulls++;
        controller.enqueue(new Uint8Array(8));
      },
    }, { highWaterMark: 0 });
  const announced = { ...TEXT, "content-length": "11" };
  for (const method of ["POST", "PUT"]) {
    const { status } = await bench.ask("/a", { method, headers: announced, body: body() });
    assertEquals([status, pulls], [413, 0]);
  }
  const { status } = await bench.ask("/a", { method: "POST", headers: TEXT, body: body() });
  assertEquals([status, pulls], [413, 2]);
});

Deno.test("a page of another origin cannot write, and no stored page executes on the origin", async () => {
  await using bench = new Bench({ origins: ["https://app.example"] });
  const write = async (headers: Record<string, string>) =>
    (await bench.ask("/a", { method: "PUT", headers: { ...TEXT, ...headers } })).status;
  assertEquals(await write({ origin: "https://evil.example" }), 403);
  assertEquals(await write({ cookie: "session=1" }), 403);
  assertEquals(await write({ origin: "https://app.example", cookie: "session=1" }), 201);

  const headers = { "content-type": "text/html" };
  await bench.ask("/page", { method: "PUT", headers, body: "<script>alert(1)</script>" });
  const page = await bench.ask("/page", { headers: { origin: "https://app.example" } });
  const [type, disposition, policy, origin, exposed] = [
    "content-type",
    "content-disposition",
    "content-security-policy",
    "access-control-allow-origin",
    "access-control-expose-headers",
  ].map((name) => page.headers.get(name));
  assertEquals({ type, disposition, policy }, {
    type: "text/html",
    disposition: "attachment",
    policy: "sandbox",
  });
  assertEquals(origin, "https://app.example");
  assertStringIncludes(exposed!, "stream-next-offset");
});

Deno.test("close() ends waiting reads", async () => {
  await using bench = new Bench();
  await bench.create("a", "1");
  const events = await bench.ask("/a?offset=-1&live=sse");
  const text = events.text();
  const poll = bench.ask("/a?offset=now&live=long-poll");
  await settle(bench.time);
  assertEquals(bench.waiting, 2);
  await bench.streams.close();
  assertEquals([(await poll).status, bench.waiting], [503, 0]);
  assertStringIncludes(await text, "event: control");
  const late = await bench.ask("/a?offset=-1&live=sse");
  assertEquals(late.status, 503);
});

Deno.test("requests receive 503 while the broker is unreachable", async () => {
  const bench = new Bench();
  await bench.create("a");
  await bench.broker.close();
  for (const [method, path] of [["GET", "/a"], ["POST", "/a"], ["PUT", "/b"], ["DELETE", "/a"]]) {
    const body = method === "POST" ? { headers: TEXT, body: "1" } : {};
    const { status, headers } = await bench.ask(path!, { method: method!, ...body });
    assertEquals([status, headers.has("retry-after")], [503, true], method);
  }
  assertEquals(bench.errors.splice(0).length, 4);
  await bench[Symbol.asyncDispose]();
});

/** Sends a raw request, which `fetch` would normalize. */
async function send(port: number, target: string): Promise<number> {
  const head = headOf(`GET ${target}`, { host: "localhost", connection: "close" });
  using socket = await TextSocket.send(port, head);
  return partsOf(await socket.until()).status;
}

Deno.test("paths outside of the streams, encoded slashes and endless ids find nothing", async () => {
  await using broker = new MemoryBroker();
  const asked: string[] = [];
  await using streams = new DurableStreamsHandler({
    broker,
    path: "/streams",
    authorize: ({ id }) => asked.push(id) > 0,
  });
  await using http = Deno.serve({ port: 0, onListen() {} }, streams.fetch);
  const cases: [target: string, status: number][] = [
    ["/streams/../secret", 404],
    ["/streams/%2e%2e/secret", 404],
    ["/streams/a/../../secret", 404],
    ["/streams/..%2fsecret", 400],
    ["/streams/..%5csecret", 400],
    ["/streams/a%2f..%2f..%2fsecret", 400],
    ["/streams/%252e%252e/secret", 404],
    ["/streams//secret", 400],
    ["/streams/", 400],
    ["/streams", 400],
    ["/streams/a%0d%0aset-cookie:%20b=1", 400],
    ["/streams/%00", 400],
    [`/streams/${"x".repeat(241)}`, 400],
  ];
  for (const [target, status] of cases) {
    assertEquals(await send(http.addr.port, target), status, target.slice(0, 64));
  }
  assert([400, 414, 431].includes(await send(http.addr.port, `/streams/${"x".repeat(65_536)}`)));
  // An id is decoded once.
  assertEquals(asked, ["%2e%2e/secret"]);
});
