import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { MemoryBroker } from "../pubsub/memory/broker.ts";
import { connect, RequestError, type Server } from "../mod.ts";
import type { DurableStreamsOptions } from "./options.ts";
import { clockAhead } from "../tests/globals/clock.ts";
import { listen } from "../tests/servers.ts";
import { statesOf, streamFeatures, streamsOf } from "../tests/stream_features.ts";
import { until } from "../tests/waiting.ts";

const JSON_MIME = "application/json";

const JSON_TYPE = { "content-type": JSON_MIME };

/** A change message as a writer sends it. */
function change(operation: string, key: string, value?: unknown, headers: object = {}): object {
  return { type: "card", key, value, headers: { operation, ...headers } };
}

/** A server with one keyed stream. */
class Bench implements AsyncDisposable {
  readonly server: Server;
  readonly #broker = new MemoryBroker();

  constructor(options: Partial<DurableStreamsOptions> = {}) {
    this.server = listen({
      webTransport: false,
      broker: this.#broker,
      authorize: () => true,
      features: streamFeatures({
        path: "/streams",
        authorize: () => true,
        longPollMs: 100,
        ...options,
      }),
    });
  }

  async ask(method: string, query: string, init: RequestInit = {}) {
    const { port } = this.server.address!;
    const response = await fetch(`http://127.0.0.1:${port}/streams/${query}`, { method, ...init });
    const text = await response.text();
    const { status, headers } = response;
    return { status, headers, text, offset: headers.get("stream-next-offset")! };
  }

  async create(id: string = "board", headers: HeadersInit = {}) {
    return await this.ask("PUT", id, {
      headers: { ...JSON_TYPE, "stream-keyed": "true", ...headers },
    });
  }

  async append(changes: unknown, headers: HeadersInit = {}, id: string = "board") {
    const body = JSON.stringify(changes);
    return await this.ask("POST", id, { headers: { ...JSON_TYPE, ...headers }, body });
  }

  async read(query: string = "board?offset=-1") {
    const { text, ...rest } = await this.ask("GET", query);
    return { ...rest, messages: text === "" ? [] : JSON.parse(text) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.#broker.close();
  }
}

// deno-lint-ignore no-explicit-any
function shown(messages: any[]): string[] {
  return messages.map(({ key, value, headers }) =>
    headers.control ??
      [headers.operation, key, value].filter((part) => part !== undefined).join(" ")
  );
}

Deno.test("durableStreams() keeps the newest change of each row of a keyed stream", async () => {
  await using bench = new Bench();
  const created = await bench.create();
  assertEquals([created.status, created.headers.get("stream-keyed")], [201, "true"]);
  assertEquals((await bench.ask("HEAD", "board")).headers.get("stream-keyed"), "true");
  const first = await bench.append([change("insert", "a", 1), change("upsert", "b", 1)]);
  assertEquals(first.status, 204);
  await bench.append(change("update", "a", 2));
  await bench.append(change("upsert", "b", 2));
  await bench.append(change("delete", "b"));
  const whole = await bench.read();
  assertEquals(shown(whole.messages), ["snapshot-start", "update a 2", "delete b", "snapshot-end"]);
  const rest = await bench.read(`board?offset=${first.offset}`);
  assertEquals(shown(rest.messages), ["update a 2", "delete b"]);
  assertEquals(whole.offset, rest.offset);
});

Deno.test("durableStreams() writes change messages that the State Protocol allows", async () => {
  await using bench = new Bench();
  await bench.create();
  const forged = { ...change("upsert", "a", { n: 1 }, { txid: "t1", timestamp: "never" }) };
  await bench.append({ ...forged, old_value: "forged", extra: 1 });
  const { messages: [, message] } = await bench.read();
  const { headers, ...rest } = message;
  assertEquals(rest, { type: "card", key: "a", value: { n: 1 } });
  assertEquals({ ...headers, timestamp: "" }, { operation: "insert", txid: "t1", timestamp: "" });
  assertMatch(headers.timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
});

Deno.test("durableStreams() rejects everything else than changes of a keyed stream", async () => {
  await using bench = new Bench({ maxRows: 2 });
  await bench.create();
  const cases: [body: unknown, status: number, code: string][] = [
    [{ headers: { control: "reset" } }, 400, "bad-change"],
    [change("insert", "a"), 400, "bad-change"],
    [change("insert", "", 1), 400, "bad-change"],
    [change("insert", "x".repeat(1_025), 1), 400, "bad-change"],
    [change("replace", "a", 1), 400, "bad-change"],
    [{ ...change("insert", "a", 1), type: 7 }, 400, "bad-change"],
    [1, 400, "bad-change"],
    [change("insert", "a", 1, { expect: -1 }), 400, "bad-change"],
    [change("insert", "a", 1, { since: 0.5 }), 400, "bad-change"],
    [change("insert", "a", 1, { txid: "" }), 400, "bad-change"],
    [Array(1_001).fill(change("upsert", "a", 1)), 413, "too-large"],
    [["a", "b", "c"].map((key) => change("insert", key, 1)), 413, "full"],
    [change("update", "a", 1), 409, "conflict"],
  ];
  for (const [body, status, code] of cases) {
    const { text, ...response } = await bench.append(body);
    assertEquals([response.status, JSON.parse(text).code], [status, code], text);
  }
  assertEquals(shown((await bench.read()).messages), ["snapshot-start", "snapshot-end"]);
});

Deno.test("durableStreams() returns the present row of a conflict", async () => {
  await using bench = new Bench();
  await bench.create();
  await bench.append(change("insert", "a", 1, { expect: 0 }));
  const { status, text } = await bench.append(change("update", "a", 2, { expect: 7 }));
  assertEquals(status, 409);
  const { row } = JSON.parse(text);
  assertEquals({ type: row.type, key: row.key, version: row.version, value: row.change.value }, {
    type: "card",
    key: "a",
    version: 1,
    value: 1,
  });
  await using strict = new Bench({ authorize: ({ action }) => action !== "read" });
  await strict.create();
  await strict.append(change("insert", "a", 1));
  const rejected = await strict.append(change("update", "a", 2, { expect: 7 }));
  assertEquals(JSON.parse(rejected.text).row, { type: "card", key: "a", version: 1 });
  assertEquals((await bench.append(change("update", "a", 2, { expect: 1 }))).status, 204);
});

Deno.test("durableStreams() brings back no row that was deleted after the version in since", async () => {
  await using bench = new Bench();
  await bench.create();
  const insert = (since: number) => change("insert", "a", 1, { expect: 0, since });
  assertEquals((await bench.append(insert(0))).status, 204);
  await bench.append(change("delete", "a"));
  const { status, text } = await bench.append(insert(0));
  assertEquals(status, 409);
  assertEquals(JSON.parse(text).row, { type: "card", key: "a", version: 0, since: 2 });
  assertEquals((await bench.append(insert(2))).status, 204);
});

Deno.test("DurableStreams.create() creates keyed streams, whose rows states and HTTP write", async () => {
  await using bench = new Bench();
  const streams = streamsOf(bench.server);
  const created = await streams.create("board", { keyed: true, ttlMs: 60_000 });
  assertEquals(
    { keyed: created.keyed, contentType: created.contentType, isEnded: created.isEnded },
    { keyed: true, contentType: JSON_MIME, isEnded: false },
  );
  assertEquals(created.rows, { count: 0, deletions: 0, bytes: 0 });
  assertEquals((await bench.ask("HEAD", "board")).headers.get("stream-keyed"), "true");
  assertEquals((await bench.append(change("insert", "a", 1))).status, 204);
  await using state = await statesOf(bench.server).open("board");
  await state.collection("card").set("b", 2);
  assertEquals([...state.collection("card")], [["a", 1], ["b", 2]]);
  const again = await streams.create("board", { keyed: true, ttlMs: 60_000 });
  assertEquals([again.rows?.count, again], [2, await streams.info("board")]);
  await using _plain = await streams.create("plain", { keyed: false });
  assertEquals((await streams.info("plain"))?.keyed, false);
});

Deno.test("DurableStreams.create() creates no keyed stream in place of another one", async () => {
  await using bench = new Bench();
  const streams = streamsOf(bench.server);
  await streams.create("board", { keyed: true });
  await using _plain = await streams.create("plain");
  const exists = (id: string, options: object) =>
    assertRejects(() => streams.create(id, options), RequestError, "there is a durable stream");
  await exists("plain", { keyed: true });
  await exists("board", {});
  await exists("board", { keyed: true, ttlMs: 1_000 });
  const keyed = (options: object) => streams.create("other", { ...options, keyed: true });
  await assertRejects(() => keyed({ contentType: "text/plain" }), TypeError, "received text/plain");
  const both = "either both streams are keyed or none";
  await assertRejects(() => keyed({ fork: { source: "plain" } }), RequestError, both);
  await assertRejects(
    () => streams.create("other", { fork: { source: "board" } }),
    RequestError,
    both,
  );
  await assertRejects(() => streams.open("board"), RequestError, "it is keyed");
  assertEquals(await streams.info("other"), undefined);
});

Deno.test("durableStreams() returns all changes in the tail of a keyed stream", async () => {
  await using bench = new Bench({ tail: { records: 3, ms: 1, bytes: 65_536 } });
  await bench.create();
  const all = (offset = "-1") => bench.read(`board?changes=all&offset=${offset}`);
  assertEquals(shown((await all()).messages), []);
  const first = await bench.append([change("insert", "a", 1), change("insert", "b", 1)]);
  await bench.append(change("update", "a", 2));
  const whole = await all();
  assertEquals(shown(whole.messages), ["insert a 1", "insert b 1", "update a 2"]);
  assertEquals(whole.headers.get("stream-up-to-date"), "true");
  assertEquals(shown((await all(first.offset)).messages), ["update a 2"]);
  assertEquals(shown((await all(whole.offset)).messages), []);
  await bench.append(change("delete", "a"));
  await bench.append(change("upsert", "a", 3));
  // The tail also keeps what is younger than its time.
  const written = Date.now();
  await until(() => Date.now() > written + 1);
  await bench.append(change("upsert", "a", 4));
  assertEquals(shown((await all()).messages), ["delete a", "insert a 3", "update a 4"]);
  assertEquals((await all(first.offset)).status, 410);
  const newest = (await bench.read()).messages.slice(1, -1);
  assertEquals(shown(newest), ["insert b 1", "update a 4"]);
  for (const query of ["changes=some", "changes=all&live=long-poll", "changes=all&changes=all"]) {
    assertEquals((await bench.ask("GET", `board?offset=-1&${query}`)).status, 400, query);
  }
});

Deno.test("durableStreams() returns all changes in a tail that is longer than a page", async () => {
  await using bench = new Bench();
  await bench.create();
  const text = "-".repeat(100_000);
  for (let i = 0; i < 14; i++) await bench.append(change("upsert", "a", `${i}${text}`));
  const values: number[] = [];
  let pages = 0;
  for (let offset = "-1", isOver = false; !isOver; pages++) {
    const page = await bench.read(`board?changes=all&offset=${offset}`);
    for (const { value } of page.messages) values.push(parseInt(value));
    isOver = page.headers.has("stream-up-to-date");
    ({ offset } = page);
  }
  assertEquals(values, Array.from({ length: 14 }, (_, i) => i));
  assert(pages > 1, `${pages} pages`);
});

Deno.test("durableStreams() creates keyed streams only for JSON, and without content", async () => {
  await using bench = new Bench();
  assertEquals((await bench.create("board", { "content-type": "text/plain" })).status, 400);
  const body = { headers: { ...JSON_TYPE, "stream-keyed": "true" }, body: "[]" };
  assertEquals((await bench.ask("PUT", "board", body)).status, 400);
  await bench.create();
  assertEquals((await bench.create()).status, 200);
  assertEquals((await bench.ask("PUT", "board", { headers: JSON_TYPE })).status, 409);
  const fork = { headers: { ...JSON_TYPE, "stream-forked-from": "/streams/board" }, body: "[1]" };
  assertEquals((await bench.ask("PUT", "fork", fork)).status, 409);
  await bench.ask("PUT", "plain", { headers: JSON_TYPE });
  assertEquals((await bench.create("plain")).status, 409);
  const keyed = { "stream-forked-from": "/streams/plain" };
  assertEquals((await bench.create("fork", keyed)).status, 409);
});

Deno.test("durableStreams() starts the fork of a keyed stream with its rows", async () => {
  await using bench = new Bench();
  await bench.create();
  const { offset } = await bench.append(change("insert", "a", 1));
  await bench.append([change("insert", "b", 1), change("upsert", "c", 1)]);
  await bench.append(change("delete", "b"));
  const headers = { "stream-forked-from": "/streams/board" };
  const forked = await bench.ask("PUT", "fork", { headers });
  assertEquals([forked.status, forked.headers.get("stream-keyed")], [201, "true"]);
  assertEquals((await bench.ask("PUT", "fork", { headers })).status, 200);
  assertEquals((await bench.create("fork", headers)).status, 200);
  const whole = await bench.read("fork?offset=-1");
  assertEquals(whole.messages.slice(1, -1), (await bench.read()).messages.slice(1, -1));
  const next = await bench.append(change("update", "a", 2, { expect: 1 }), {}, "fork");
  assertEquals(next.status, 204);
  const rest = await bench.read(`fork?offset=${offset}`);
  assertEquals(shown(rest.messages), ["insert c 1", "delete b", "update a 2"]);
  assertEquals([rest.offset, rest.offset.slice(0, 16)], [next.offset, "0000000000000004"]);
  const all = (offset: string) => bench.read(`fork?changes=all&offset=${offset}`);
  assertEquals(shown((await all("-1")).messages), ["update a 2"]);
  assertEquals((await all(offset)).status, 410);
  assertEquals((await bench.ask("DELETE", "board")).status, 204);
  const old = { ...headers, "stream-forked-from": "/streams/fork", "stream-fork-offset": offset };
  assertEquals((await bench.ask("PUT", "old", { headers: old })).status, 410);
  const part = { ...headers, "stream-forked-from": "/streams/fork", "stream-fork-sub-offset": "1" };
  assertEquals((await bench.ask("PUT", "part", { headers: part })).status, 400);
  await using state = await statesOf(bench.server).open("fork");
  assertEquals([...state.collection("card")], [["c", 1], ["a", 2]]);
});

Deno.test("DurableStreams.create() forks a keyed stream, unless its rows are too large", async () => {
  await using bench = new Bench();
  const streams = streamsOf(bench.server);
  await using source = await statesOf(bench.server).open("source");
  await source.collection("card").set("a", 1, { ttlMs: 3_600_000 });
  const fork = await streams.create("fork", { keyed: true, fork: { source: "source" } });
  assertEquals([fork.rows?.count, fork.offset.slice(0, 16)], [1, "0000000000000001"]);
  await using copy = await statesOf(bench.server).open("fork");
  await copy.collection("card").set("a", 2);
  assertEquals([source.collection("card").get("a"), copy.collection("card").get("a")], [1, 2]);
  for (let i = 0; i < 70; i++) await source.collection("card").set(`${i}`, "x".repeat(250_000));
  const large = () => streams.create("large", { keyed: true, fork: { source: "source" } });
  await assertRejects(large, RequestError, "the rows of the source are too large");
  assertEquals(await streams.info("large"), undefined);
});

Deno.test("durableStreams() gives keyed pages that change an ETag of their own", async () => {
  await using bench = new Bench();
  await bench.create();
  await bench.append(change("insert", "a", 1));
  const { headers } = await bench.read();
  const etag = headers.get("etag")!;
  assertEquals(headers.get("cache-control"), "private, no-cache");
  const again = { headers: { "if-none-match": etag } };
  assertEquals((await bench.ask("GET", "board?offset=-1", again)).status, 304);
  await bench.append(change("update", "a", 2));
  await bench.append(change("update", "a", 3));
  assertEquals((await bench.ask("GET", "board?offset=-1", again)).status, 200);
});

Deno.test("durableStreams() gives a full keyed page another ETag if one of its rows changes", async () => {
  await using bench = new Bench();
  await bench.create();
  const large = "x".repeat(250_000);
  await bench.append(change("insert", "small", 1));
  for (let i = 0; i < 6; i++) await bench.append(change("insert", `${i}`, large));
  const first = await bench.read();
  const again = { headers: { "if-none-match": first.headers.get("etag")! } };
  assertEquals((await bench.ask("GET", "board?offset=-1", again)).status, 304);
  await bench.append(change("update", "small", 2));
  // The page starts and ends at the same rows as before.
  const second = await bench.ask("GET", "board?offset=-1", again);
  assertEquals([second.status, second.offset.slice(0, 16)], [200, first.offset.slice(0, 16)]);
});

Deno.test("durableStreams() repeats the headers of a keyed page in 304, for each page", async () => {
  await using bench = new Bench();
  await bench.create();
  for (let i = 0; i < 30; i++) await bench.append(change("insert", `${i}`, "x".repeat(50_000)));
  for (let query = "board", pages = 0, isLast = false; !isLast; pages++) {
    const { headers, offset, status } = await bench.read(query);
    assertEquals([status, pages < 9], [200, true]);
    const again = { headers: { "if-none-match": headers.get("etag")! } };
    const same = await bench.ask("GET", query, again);
    assertEquals([same.status, same.offset], [304, offset]);
    for (const name of ["etag", "cache-control", "stream-up-to-date", "content-type"]) {
      assertEquals(same.headers.get(name), headers.get(name), name);
    }
    const other = { headers: { "if-none-match": `"x", ${headers.get("etag")}` } };
    assertEquals((await bench.ask("GET", query, other)).status, 304);
    isLast = headers.has("stream-up-to-date");
    if (!isLast) assertEquals(offset.includes("~"), true);
    query = `board?offset=${offset}`;
  }
  const { headers } = await bench.read("board");
  const again = { headers: { "if-none-match": headers.get("etag")! } };
  await bench.append(change("delete", "29"));
  assertEquals((await bench.ask("GET", "board", again)).status, 200);
  await bench.ask("DELETE", "board");
  await bench.create();
  for (let i = 0; i < 31; i++) await bench.append(change("insert", `${i}`, 1));
  assertEquals((await bench.ask("GET", "board", again)).status, 200);
});

Deno.test("durableStreams() returns 410 to any condition at an offset whose deletions are forgotten", async () => {
  await using bench = new Bench();
  await bench.create();
  const { offset } = await bench.append(change("insert", "a", 1));
  const again = { headers: { "if-none-match": "*" } };
  assertEquals((await bench.ask("GET", `board?offset=${offset}`, again)).status, 304);
  await bench.append(change("delete", "a"));
  using _later = clockAhead(8 * 86_400_000);
  await bench.append(change("insert", "b", 1));
  await bench.append(change("insert", "c", 1));
  assertEquals((await bench.ask("GET", `board?offset=${offset}`)).status, 410);
  assertEquals((await bench.ask("GET", `board?offset=${offset}`, again)).status, 410);
});

Deno.test("durableStreams() counts each append of a producer to a keyed stream once", async () => {
  await using bench = new Bench();
  await bench.create();
  const producer = (seq: number) => ({
    "producer-id": "p",
    "producer-epoch": "0",
    "producer-seq": `${seq}`,
  });
  assertEquals((await bench.append(change("upsert", "a", 1), producer(0))).status, 200);
  await bench.append(change("upsert", "a", 2));
  assertEquals((await bench.append(change("upsert", "a", 1), producer(0))).status, 204);
  assertEquals(shown((await bench.read()).messages)[1], "update a 2");
});

Deno.test("durableStreams() reads a snapshot of many pages, although rows change meanwhile", async () => {
  await using bench = new Bench();
  await bench.create();
  const text = "x".repeat(4_000);
  const count = 900;
  for (let i = 0; i < count; i += 50) {
    await bench.append(Array.from({ length: 50 }, (_, j) => change("insert", `${i + j}`, text)));
  }
  const rows = new Map<string, unknown>();
  const controls: string[] = [];
  let offset = "-1";
  let pages = 0;
  for (let isUpToDate = false; !isUpToDate; pages++) {
    const page = await bench.read(`board?offset=${offset}`);
    for (const { key, value, headers } of page.messages) {
      if (headers.control !== undefined) controls.push(headers.control);
      else if (headers.operation === "delete") rows.delete(key);
      else rows.set(key, value);
    }
    offset = page.offset;
    isUpToDate = page.headers.get("stream-up-to-date") === "true";
    if (pages === 0) {
      assertMatch(offset, /~18$/);
      await bench.append([
        change("update", "0", 1),
        change("delete", "1"),
        change("insert", "n", 2),
      ]);
    }
  }
  assert(pages > 2, `${pages} pages`);
  assertEquals(controls, ["snapshot-start", "snapshot-end"]);
  assertEquals({
    count: rows.size,
    updated: rows.get("0"),
    inserted: rows.get("n"),
    hasDeleted: rows.has("1"),
  }, { count, updated: 1, inserted: 2, hasDeleted: false });
});

Deno.test("durableStreams() sends the changes of a keyed stream as events", async () => {
  await using bench = new Bench();
  await bench.create();
  await bench.append(change("insert", "a", 1));
  const { port } = bench.server.address!;
  const url = `http://127.0.0.1:${port}/streams/board?offset=-1&live=sse`;
  const { body } = await fetch(url);
  let received = "";
  for await (const text of body!.pipeThrough(new TextDecoderStream())) {
    received += text;
    if (received.includes('"upToDate"') && !received.includes('"b"')) {
      await bench.append(change("insert", "b", 2));
    }
    if (received.includes('"b"')) break;
  }
  const data = [...received.matchAll(/event: data\ndata: ?(.*)\n/g)].flatMap(([, one]) =>
    JSON.parse(one!)
  );
  const expected = ["snapshot-start", "insert a 1", "snapshot-end", "insert b 2"];
  assertEquals(shown(data), expected);
});

Deno.test("durableStreams() reads a keyed stream by long-poll", async () => {
  await using bench = new Bench();
  const { offset } = await bench.create();
  const polling = bench.read(`board?offset=${offset}&live=long-poll`);
  await bench.append(change("insert", "a", 1));
  assertEquals(shown((await polling).messages).filter((one) => !one.startsWith("snapshot")), [
    "insert a 1",
  ]);
});

Deno.test("durableStreams() sends each change to readers that wait and are not far behind", async () => {
  await using bench = new Bench();
  const { offset } = await bench.create();
  const counts = Array.from({ length: 99 }, (_, i) => i);
  for (const count of counts) await bench.append(change("upsert", "a", count));
  await bench.append([change("upsert", "a", 99), change("upsert", "a", 100)]);
  const near = await bench.read(`board?offset=${offset}&live=long-poll`);
  assertEquals(near.messages.map(({ value }: { value: number }) => value), [...counts, 99, 100]);
  await bench.append([change("upsert", "a", 101), change("delete", "a")]);
  const rest = await bench.read(`board?offset=${near.offset}&live=long-poll`);
  assertEquals(shown(rest.messages), ["update a 101", "delete a"]);
  const far = await bench.read(`board?offset=${offset}&live=long-poll`);
  assertEquals(shown(far.messages), ["snapshot-start", "delete a", "snapshot-end"]);
  assertEquals(far.offset, rest.offset);
});

Deno.test("durableStreams() sends the newest changes of rows if the tail lacks older ones", async () => {
  await using bench = new Bench({ tail: { records: 100, ms: 60_000, bytes: 2_000 } });
  await bench.create();
  const { offset } = await bench.append(change("upsert", "a", 0));
  for (let i = 1; i < 50; i++) await bench.append(change("upsert", "a", i));
  const { messages } = await bench.read(`board?offset=${offset}&live=long-poll`);
  assertEquals(shown(messages), ["update a 49"]);
});

Deno.test("DurableStreams.read() and clients receive lists of changes of a keyed stream", async () => {
  await using bench = new Bench();
  await bench.create();
  await bench.append([change("insert", "a", 1), change("insert", "b", 1)]);
  await bench.append(change("update", "a", 2));
  // deno-lint-ignore no-explicit-any
  const items = await Array.fromAsync(streamsOf(bench.server).read<any[]>("board"));
  assertEquals(items.map(({ data }) => shown(data)), [["insert b 1", "update a 2"]]);
  assertEquals(items[0]!.data.map(({ version }) => version), [1, 2]);
  const after = (await bench.append(change("delete", "b"))).offset;
  assertEquals(await Array.fromAsync(streamsOf(bench.server).read("board", { after })), []);

  await using client = connect(bench.server.url);
  // deno-lint-ignore no-explicit-any
  const stream = client.durableStream<any[]>("board");
  const received: string[][] = [];
  for await (const changes of stream) {
    received.push(shown(changes));
    assertEquals(changes.at(-1).version, received.length + 2);
    if (received.length === 1) await bench.append(change("insert", "c", "é\n\u2028"));
    else if (received.length === 2) break;
  }
  assertEquals(received, [["update a 2", "delete b"], ["insert c é\n\u2028"]]);
  const { offset } = stream;
  await bench.append(change("insert", "d", 4));
  // deno-lint-ignore no-explicit-any
  for await (const changes of client.durableStream<any[]>("board", { after: offset })) {
    assertEquals(shown(changes), ["insert d 4"]);
    break;
  }
});

Deno.test("Sessions receive large keyed streams in messages of whole transactions", async () => {
  await using bench = new Bench();
  await bench.create();
  const text = "x".repeat(2_000);
  for (let i = 0; i < 1_000; i += 100) {
    const { status } = await bench.append(
      Array.from({ length: 100 }, (_, j) => change("insert", `${i + j}`, text)),
    );
    assertEquals(status, 204);
  }
  const large = Array.from({ length: 200 }, (_, i) => change("insert", `${i}`, text));
  assertEquals((await bench.append(large)).status, 413);
  await using client = connect(bench.server.url);
  const keys = new Set<string>();
  // deno-lint-ignore no-explicit-any
  for await (const changes of client.durableStream<any[]>("board")) {
    assertEquals(changes.length % 100, 0);
    for (const { key } of changes) keys.add(key);
    if (keys.size === 1_000) break;
  }
});

Deno.test("DurableStreams.open() rejects a keyed stream, which no lease can end", async () => {
  const authorize = () => ({ close: true } as const);
  await using bench = new Bench({ keep: { records: 1, bytes: 1_000 }, authorize });
  await bench.create();
  for (let i = 0; i < 3; i++) await bench.append(change("upsert", "a", i));
  const error = await assertRejects(() => streamsOf(bench.server).open("board"), RequestError);
  assertEquals(error.failure.code, "wrong-type");
  const closed = await bench.ask("POST", "board", { headers: { "stream-closed": "true" } });
  assertEquals(closed.status, 204);
  assertEquals(shown((await bench.read()).messages)[1], "update a 2");
});

Deno.test("durableStreams() closes a keyed stream only for { close: true }, and no other for it", async () => {
  type Permission = true | { close: true } | { caller: string; close?: boolean };
  const rights = new Map<string, Permission>();
  await using bench = new Bench({ authorize: ({ action }) => rights.get(action) ?? true });
  const end = { "stream-closed": "true" };
  const close = async (id = "board") => (await bench.ask("POST", id, { headers: end })).status;
  const last = async () => {
    const { status, text } = await bench.append(change("insert", "z", 1), end);
    return status === 204 ? status : JSON.parse(text).code;
  };
  await bench.create();
  assertEquals(await bench.ask("PUT", "plain", { headers: JSON_TYPE }).then((r) => r.status), 201);
  for (const denied of [true, { caller: "eve" }, { caller: "eve", close: false }] as const) {
    rights.set("close", denied);
    assertEquals([await close(), await last()], [403, "forbidden"], JSON.stringify(denied));
    assertEquals((await bench.create("closed", end)).status, 403);
    assertEquals((await bench.append(change("upsert", "a", 1))).status, 204);
  }
  assertEquals(await close("plain"), 204);
  // An object without a caller grants no other action, unless it grants `close` too.
  rights.set("append", { caller: undefined, close: true } as never);
  assertEquals((await bench.append(change("upsert", "a", 1))).status, 403);
  rights.set("append", { close: true });
  rights.set("close", { close: true });
  assertEquals([await last(), await close()], [204, 204]);
  assertEquals((await bench.create("closed", end)).status, 201);
  assertEquals(shown((await bench.read()).messages).at(-2), "insert z 1");
});

Deno.test("durableStreams() wants the right to delete for a keyed stream that expires", async () => {
  await using bench = new Bench({ authorize: ({ action }) => action !== "delete" });
  assertEquals((await bench.create("a", { "stream-ttl": "60" })).status, 403);
  const expiresAt = new Date(Date.now() + 60_000).toISOString();
  assertEquals((await bench.create("a", { "stream-expires-at": expiresAt })).status, 403);
  assertEquals((await bench.create("a")).status, 201);
  const plain = { headers: { ...JSON_TYPE, "stream-ttl": "60" } };
  assertEquals((await bench.ask("PUT", "b", plain)).status, 201);
});

Deno.test("A session closes a keyed stream only if authorize returns { close: true }", async () => {
  const broker = new MemoryBroker();
  let permission: true | { close?: boolean } = true;
  await using server = listen({
    webTransport: false,
    broker,
    authorize: (_session, _topic, action) => action === "close" ? permission : true,
    features: streamFeatures(),
  });
  await using client = connect(server.url);
  const close = (id: string) =>
    client.publish(`stream:${id}`, { close: true }).then(
      () => "closed",
      (error) => (error as RequestError).failure.code,
    );
  await using board = await statesOf(server).open("board");
  await board.collection("cards").set("a", 1);
  for (const denied of [true, { close: false }]) {
    permission = denied as typeof permission;
    assertEquals(await close("board"), "forbidden");
    await board.collection("cards").set("a", 2);
  }
  permission = { close: true };
  await using writer = await streamsOf(server).create("plain");
  assertEquals([await close("none"), await close("plain")], ["not-found", "wrong-type"]);
  await writer.append(1);
  assertEquals([await close("board"), await close("board")], ["closed", "closed"]);
  const error = await assertRejects(() => board.collection("cards").set("a", 3), RequestError);
  assertEquals(error.failure.code, "ended");
});

Deno.test("durableStreams() keeps the producers and sequences of the callers of a keyed stream apart", async () => {
  await using bench = new Bench({
    authorize: ({ request }) => {
      const caller = request.headers.get("x-caller");
      return caller === null || { caller };
    },
  });
  await bench.create();
  const send = async (caller: string | undefined, headers: Record<string, string>) => {
    const by: Record<string, string> = caller === undefined ? {} : { "x-caller": caller };
    const { status, text } = await bench.append(change("upsert", "a", 1), { ...headers, ...by });
    return text === "" ? status : JSON.parse(text).code;
  };
  const producer = (id: string, epoch: number, seq: number) => ({
    "producer-id": id,
    "producer-epoch": `${epoch}`,
    "producer-seq": `${seq}`,
  });
  assertEquals(await send("ann", producer("p", 0, 0)), 200);
  // An epoch and a sequence beyond all others have no effect on the other callers.
  assertEquals(await send("eve", producer("p", Number.MAX_SAFE_INTEGER, 0)), 200);
  assertEquals(await send("eve", { "stream-seq": "~".repeat(256) }), 204);
  assertEquals(await send("ann", producer("p", 0, 1)), 200);
  assertEquals(await send("ann", producer("p", 0, 1)), 204);
  assertEquals(await send("ann", { "stream-seq": "0001" }), 204);
  assertEquals(await send("ann", { "stream-seq": "0001" }), "out-of-sequence");
  assertEquals(await send(undefined, { "stream-seq": "0000" }), 204);
  assertEquals(await send(undefined, producer("p", 0, 0)), 200);
  // A producer that the stream does not know is not taken for a new one.
  assertEquals(await send("bob", producer("p", 0, 2)), "sequence-gap");
  let most = 0;
  while (await send("eve", producer(`p${most}`, 0, 0)) === 200) most++;
  assert(most > 10 && most < 100, `${most} producers`);
  assertEquals(await send("eve", producer("more", 0, 0)), "too-many-producers");
  assertEquals(await send("eve", producer("p0", 1, 0)), 200);
  assertEquals(await send("ann", producer("q", 0, 0)), 200);
});

Deno.test("durableStreams() serves a program that takes a new producer at each of 100 starts", async () => {
  await using bench = new Bench({ authorize: () => ({ caller: "importer" }) });
  await bench.create();
  const started = Date.now();
  let minutes = 0;
  using _clock = stub(Date, "now", () => started + minutes * 60_000);
  const send = async (seq: number) => {
    const { status, headers } = await bench.append(change("upsert", "a", minutes), {
      "producer-id": `start-${minutes}`,
      "producer-epoch": "0",
      "producer-seq": `${seq}`,
    });
    return [status, headers.get("producer-expected-seq")];
  };
  for (; minutes < 100; minutes++) assertEquals(await send(0), [200, null], `start ${minutes}`);
  minutes = 99;
  assertEquals(await send(0), [204, null]);
  assertEquals(await send(1), [200, null]);
  // The server has forgotten the first one, and says so.
  minutes = 0;
  assertEquals(await send(1), [409, "0"]);
});

Deno.test("durableStreams() shares producers and the sequence in a stream that is not keyed", async () => {
  await using bench = new Bench({
    authorize: ({ request }) => ({ caller: request.headers.get("x-caller") ?? "none" }),
  });
  await bench.ask("PUT", "plain", { headers: JSON_TYPE });
  const send = async (caller: string, seq: string) => {
    const headers = { ...JSON_TYPE, "x-caller": caller, "stream-seq": seq };
    return (await bench.ask("POST", "plain", { headers, body: "1" })).status;
  };
  assertEquals([await send("ann", "2"), await send("bob", "1")], [204, 409]);
});
