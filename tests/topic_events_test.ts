/**
 * Tests topics as server-sent events, which are read as `EventSource` reads them.
 *
 * @module
 */
import { assertEquals, assertMatch } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { createServer, MemoryBroker, type Server, type ServerOptions } from "../mod.ts";
import { captureConsole } from "./console_lines.ts";
import { until } from "./waiting.ts";
import { fail, FaultyStore } from "./faulty_broker.ts";
import { httpApi } from "../operations/http_api/mod.ts";

/** An event, as `EventSource` dispatches it. */
interface Event {
  readonly type: string;
  readonly data: unknown;
  readonly id: string | undefined;
}

/** A reader of a topic. */
class Source implements Disposable {
  readonly response: Response;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #events: Event[] = [];
  /** The number of comments so far. */
  comments = 0;
  /** The `Last-Event-ID` that `EventSource` sends when it reconnects. */
  lastEventId = "";
  #text = "";

  private constructor(response: Response) {
    this.response = response;
    this.#reader = response.body!.getReader();
  }

  static async open(server: Server, topic: string, options: AskOptions = {}): Promise<Source> {
    return new Source(await ask(server, topic, options));
  }

  /** Returns the next events; fewer at the end of the response. */
  async take(count: number): Promise<Event[]> {
    while (this.#events.length < count && await this.read()) { /* reads on */ }
    return this.#events.splice(0, count);
  }

  /** Reads a chunk; returns false at the end of the response. */
  async read(): Promise<boolean> {
    const { value, done } = await this.#reader.read();
    if (done) return false;
    this.#text += new TextDecoder().decode(value);
    const parts = this.#text.split("\n\n");
    this.#text = parts.pop()!;
    for (const part of parts) this.#dispatch(part.split("\n"));
    return true;
  }

  #dispatch(lines: readonly string[]): void {
    const fieldOf = (name: string) =>
      lines.find((line) => line.startsWith(`${name}:`))?.slice(name.length + 1).trim();
    if (lines[0]!.startsWith(":")) this.comments++;
    this.lastEventId = fieldOf("id") ?? this.lastEventId;
    const data = fieldOf("data");
    if (data === undefined) return;
    const type = fieldOf("event") ?? "message";
    if (type === "start") return; // It has only the id.
    this.#events.push({ type, data: JSON.parse(data), id: fieldOf("id") });
  }

  [Symbol.dispose](): void {
    void this.#reader.cancel().catch(() => {});
  }
}

interface AskOptions {
  readonly headers?: Record<string, string>;
  readonly query?: string;
}

async function ask(
  server: Server,
  topic: string,
  { headers = {}, query = "" }: AskOptions = {},
): Promise<Response> {
  const url = `http://localhost/api/topics/${encodeURIComponent(topic)}/publications${query}`;
  const accept = { accept: "text/event-stream" };
  return await server.fetch(new Request(url, { headers: { ...accept, ...headers } }), {
    remoteAddr: { transport: "tcp", hostname: "192.0.2.1", port: 1 },
  });
}

function open(options: ServerOptions = {}): Server {
  return createServer({
    history: { "log:{name}": { size: 3 } },
    features: [httpApi({ path: "/api", authorize: () => true })],
    ...options,
  }) as Server;
}

const dataOf = (events: readonly Event[]) => events.map(({ data }) => (data as Data).data);

interface Data {
  readonly data?: unknown;
}

Deno.test("A topic without a history sends each new publication, with its publisher", async () => {
  await using server = open();
  server.publish("news", "before");
  using source = await Source.open(server, "news");
  assertEquals(source.response.headers.get("content-type"), "text/event-stream");
  server.publish("news", { n: 1 }, { from: "ann" });
  server.publish("news", Uint8Array.of(1, 2));
  server.publish("news", "a\nb");
  assertEquals(await source.take(3), [
    { type: "message", data: { data: { n: 1 }, from: "ann" }, id: undefined },
    { type: "message", data: { base64: "AQI=" }, id: undefined },
    { type: "message", data: { data: "a\nb" }, id: undefined },
  ]);
});

Deno.test("Nodes with and without a history receive what the other publishes", async () => {
  using _console = captureConsole(); // The nodes report that they differ.
  await using broker = new MemoryBroker();
  await using old = open({ broker, history: {} });
  await using next = open({ broker });
  using plain = await Source.open(old, "log:x");
  using kept = await Source.open(next, "log:x");
  for (const text of ["a", "b"]) {
    old.publish("log:x", `outside ${text}`);
    next.publish("log:x", `kept ${text}`);
  }
  const all = ["outside a", "kept a", "outside b", "kept b"];
  assertEquals(dataOf(await plain.take(4)), all);
  const events = await kept.take(4);
  assertEquals(dataOf(events).sort(), all.toSorted());
  // A reader that returns may have missed what the history doesn't contain.
  const { id } = events.findLast(({ id }) => id !== undefined)!;
  using again = await Source.open(next, "log:x", { headers: { "last-event-id": id! } });
  const [gap] = await again.take(1);
  assertEquals([gap!.type, gap!.data], ["gap", { reason: "interrupted" }]);
});

Deno.test("Last-Event-ID resumes a topic with a history, also on another node", async () => {
  await using broker = new MemoryBroker();
  await using one = open({ broker });
  await using two = open({ broker });
  for (const text of ["a", "b"]) one.publish("log:x", text);
  let id: string | undefined;
  {
    using source = await Source.open(one, "log:x", { query: "?last=1" });
    assertEquals(dataOf(await source.take(1)), ["b"]);
    one.publish("log:x", "c");
    const [event] = await source.take(1);
    assertEquals(event!.data, { data: "c" });
    id = event!.id;
  }
  one.publish("log:x", "d");
  for (const options of [{ headers: { "last-event-id": id! } }, { query: `?lastEventId=${id}` }]) {
    using source = await Source.open(two, "log:x", options);
    assertEquals(dataOf(await source.take(1)), ["d"]);
  }
  using source = await Source.open(two, "log:x", { headers: { "last-event-id": id! } });
  await source.take(1);
  one.publish("log:x", "e");
  assertEquals(dataOf(await source.take(1)), ["e"]);
});

for (const [what, query] of [["with", "?last=1"], ["without", ""]] as const) {
  Deno.test(`A reader ${what} last that reconnects before its first event misses nothing`, async () => {
    await using broker = new MemoryBroker();
    await using one = open({ broker });
    await using two = open({ broker });
    for (const topic of ["log:x", "log:empty"]) {
      if (topic === "log:x") one.publish(topic, "before");
      let id: string;
      {
        using source = await Source.open(one, topic, { query });
        await source.read();
        id = source.lastEventId;
      }
      one.publish(topic, "missed");
      using source = await Source.open(two, topic, { query, headers: { "last-event-id": id } });
      one.publish(topic, "later");
      const isFirst = topic === "log:x" && query !== "";
      const all = [...isFirst ? ["before"] : [], "missed", "later"];
      assertEquals(dataOf(await source.take(all.length)), all);
    }
  });
}

Deno.test("A reader receives a publication that arrives while the broker replies to its read", async () => {
  using time = new FakeTime();
  const broker = new FaultyStore().connect();
  await using server = open({ broker });
  using source = await Source.open(server, "log:x");
  const taken: Event[] = [];
  const taking = source.take(2).then((events) => taken.push(...events));
  const replied = Promise.withResolvers<void>();
  const read = Promise.withResolvers<void>();
  broker.make("history.read", async (run) => {
    const page = await run();
    read.resolve();
    await replied.promise;
    return page;
  });
  server.publish("log:x", 1);
  await read.promise;
  server.publish("log:x", 2);
  replied.resolve();
  await time.tickAsync(1_000);
  assertEquals(dataOf(taken), [1, 2]);
  await taking;
});

Deno.test("A reader without an id starts with new publications", async () => {
  await using server = open();
  server.publish("log:x", "before");
  using source = await Source.open(server, "log:x");
  server.publish("log:x", "after");
  assertEquals(dataOf(await source.take(1)), ["after"]);
});

Deno.test("A gap of publications that are no longer kept is a separate event", async () => {
  await using server = open();
  server.publish("log:x", 0);
  using first = await Source.open(server, "log:x", { query: "?last=1" });
  const [{ id } = { id: "" }] = await first.take(1);
  for (let i = 1; i <= 5; i++) server.publish("log:x", i);
  const headers = { "last-event-id": id! };
  using source = await Source.open(server, "log:x", { headers });
  const [gap, ...rest] = await source.take(4);
  assertEquals([gap!.type, gap!.data], ["gap", { reason: "too-old" }]);
  assertEquals(dataOf(rest), [3, 4, 5]);

  const other = { "last-event-id": "7..of-another-history" };
  using lost = await Source.open(server, "log:x", { headers: other });
  const [reset, ...all] = await lost.take(4);
  assertEquals([reset!.type, reset!.data], ["gap", { reason: "new-epoch" }]);
  assertEquals(dataOf(all), [3, 4, 5]);

  using without = await Source.open(server, "news", { headers });
  assertEquals((await without.take(1))[0]!.data, { reason: "no-history" });
});

Deno.test("Last-Event-ID resumes with an epoch of any characters", async () => {
  await using broker = new MemoryBroker();
  const { history } = broker;
  const read = history.read.bind(history);
  history.read = async (...args) => ({ ...await read(...args), epoch: "é, 7..b %" });
  await using server = open({ broker });
  for (const text of ["a", "b"]) server.publish("log:x", text);
  using source = await Source.open(server, "log:x", { query: "?last=2" });
  const [a, b] = await source.take(2);
  for (const { id, next } of [{ id: a!.id!, next: "b" }, { id: b!.id!, next: "c" }]) {
    if (next === "c") server.publish("log:x", next);
    using again = await Source.open(server, "log:x", { headers: { "last-event-id": id } });
    assertEquals(dataOf(await again.take(1)), [next]);
  }
  const broken = await ask(server, "log:x", { headers: { "last-event-id": "1..%" } });
  assertEquals(broken.status, 400);
});

Deno.test("A slow reader of a topic without a history receives a gap and the newest publications", async () => {
  await using server = open();
  using slow = await Source.open(server, "news");
  for (let i = 0; i < 1_500; i++) server.publish("news", i);
  const events = await slow.take(1_025);
  assertEquals(events[0]!.data, { reason: "dropped" });
  assertEquals(dataOf(events.slice(1)), Array.from({ length: 1_024 }, (_, i) => 476 + i));
  server.publish("news", "next");
  assertEquals(dataOf(await slow.take(1)), ["next"]);
  // Dropped events no longer use space.
  for (let i = 0; i < 2_000; i++) server.publish("news", "x".repeat(1_000));
  await slow.take(1 + 1_024);
  for (let i = 0; i < 10; i++) server.publish("news", i);
  assertEquals(dataOf(await slow.take(10)), Array.from({ length: 10 }, (_, i) => i));
});

Deno.test("authorize is called for each reader", async () => {
  const asked: unknown[] = [];
  await using server = open({
    features: [httpApi({
      path: "/api",
      authorize({ action, id }) {
        asked.push([action, id]);
        return id === "news";
      },
    })],
  });
  using _source = await Source.open(server, "news");
  const denied = await ask(server, "log:x");
  assertEquals(denied.status, 403);
  assertEquals((await denied.json()).code, "forbidden");
  assertEquals(asked, [["follow", "news"], ["follow", "log:x"]]);
});

Deno.test("A request that cannot be followed is answered with a problem", async () => {
  await using server = open();
  const cases: readonly [number, string, AskOptions][] = [
    [406, "news", { headers: { accept: "application/json" } }],
    [400, "log:x", { headers: { "last-event-id": "newest" } }],
    [422, "presence:room", {}],
    [422, "stream:a", {}],
    [422, "news", { query: "?last=1001" }],
  ];
  for (const [status, topic, options] of cases) {
    const response = await ask(server, topic, options);
    assertEquals(response.status, status, topic);
    assertMatch((await response.json()).detail, /^Cannot follow: /);
  }
  assertEquals(server.httpStats["api"]!.readers, { sse: 0 });
});

Deno.test("Readers use a slot of maxReaders, and release it", async () => {
  await using server = open({
    features: [httpApi({ path: "/api", authorize: () => true, maxReaders: 1 })],
  });
  {
    using _one = await Source.open(server, "news");
    assertEquals(server.httpStats["api"]!.readers, { sse: 1 });
    const rejected = await ask(server, "news");
    assertEquals([rejected.status, (await rejected.json()).code], [429, "too-many"]);
  }
  await until(() => server.httpStats["api"]!.readers!["sse"] === 0);
  const head = await server.fetch(
    new Request("http://localhost/api/topics/news/publications", { method: "HEAD" }),
    { remoteAddr: { transport: "tcp", hostname: "192.0.2.1", port: 1 } },
  );
  assertEquals([head.status, head.body], [200, null]);
  assertEquals(server.httpStats["api"]!.readers, { sse: 0 });
});

Deno.test("A drain ends the responses of waiting readers", async () => {
  await using server = open();
  using source = await Source.open(server, "news");
  await source.read(); // The reconnection time of EventSource.
  const next = source.read();
  await server.drain();
  assertEquals(await next, false);
  assertEquals((await ask(server, "news")).status, 503);
});

Deno.test("A silent topic sends comments, and its response ends after ten minutes", async () => {
  using time = new FakeTime();
  await using server = open();
  using source = await Source.open(server, "news");
  const reading = (async () => {
    while (await source.read()) { /* reads on */ }
  })();
  for (let i = 0; i < 3; i++) await time.tickAsync(20_000);
  for (let turn = 0; turn < 5; turn++) await time.tickAsync(0);
  assertEquals(source.comments, 3);
  await time.tickAsync(600_000);
  await reading;
  assertEquals(server.httpStats["api"]!.readers, { sse: 0 });
});

Deno.test("An unreachable broker is a 503 for a new reader, and ends the response of another", async () => {
  const broker = new FaultyStore().connect();
  using _lines = captureConsole();
  await using server = open({ broker });
  using source = await Source.open(server, "log:x");
  await source.read(); // The reconnection time of EventSource.
  const next = source.read();
  broker.make("history.read", fail);
  server.publish("log:x", 1);
  assertEquals(await next, false);
  const response = await ask(server, "log:x");
  assertEquals([response.status, (await response.json()).code], [503, "unavailable"]);
  assertEquals(server.httpStats["api"]!.readers, { sse: 0 });
});
