import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { LimitError } from "../errors.ts";
import { codeOf, TwoNodes } from "./streams_fixture.ts";
import { logsOf } from "./logs/logs_of.ts";
import { replyAfter } from "../tests/faulty_broker.ts";

Deno.test("DurableStreams.create() rejects an existing id, and too many streams", async () => {
  await using nodes = new TwoNodes({ maxStreams: 1 });
  await using writer = await nodes.node.create("a");
  assertEquals(await codeOf(nodes.other.create("a")), "exists");
  const error = await assertRejects(() => nodes.other.create("b"), LimitError);
  assertEquals(error.limit, "maxStreams");
  await assertRejects(() => nodes.node.create(""), RangeError);
  await writer.close();
});

Deno.test("DurableStreams.create() forks a stream at an offset", async () => {
  await using nodes = new TwoNodes();
  await using source = await nodes.node.create<number>("source");
  await source.append(1);
  const offset = source.offset;
  await source.append(2);
  await using fork = await nodes.other.create<number>("fork", {
    fork: { source: "source", offset },
  });
  assertEquals([fork.contentType, fork.offset], ["application/json", offset]);
  await fork.append(3);
  await fork.close();
  assertEquals(await nodes.read("fork"), [1, 3]);
  assertEquals(await codeOf(nodes.node.create("b", { fork: { source: "none" } })), "not-found");
  const gone = { source: "fork", offset: source.offset };
  assertEquals(await codeOf(nodes.node.create("b", { fork: gone })), "gone");
  const bad = { source: "fork", offset: "7" };
  assertEquals(await codeOf(nodes.node.create("b", { fork: bad })), "malformed");
});

Deno.test("DurableStreams.create() sets the type and the lifetime of a stream", async () => {
  using time = new FakeTime();
  await using nodes = new TwoNodes();
  const options = { contentType: "text/plain", ttlMs: 60_000 };
  await (await nodes.node.create<string>("used", options)).close();
  await (await nodes.node.create("fixed", { expiresAt: Date.now() + 60_000 })).close();
  assertEquals((await nodes.other.info("used"))?.contentType, "text/plain");
  await time.tickAsync(50_000);
  await nodes.read("used");
  await nodes.read("fixed");
  await time.tickAsync(20_000);
  assertEquals((await nodes.other.info("used"))?.isEnded, true);
  assertEquals(await nodes.other.info("fixed"), undefined);
  await time.tickAsync(60_000);
  assertEquals(await nodes.other.info("used"), undefined);
});

Deno.test("DurableStreams.create() rejects a fork without a source", async () => {
  await using nodes = new TwoNodes();
  const options: object = { fork: { offset: "-1" } };
  const error = await assertRejects(() => nodes.node.create("fork", options), TypeError);
  assertEquals(
    error.message,
    "Cannot create stream: fork.source must be a string, received undefined",
  );
});

Deno.test("DurableStreams.create() rejects one fork too many with the limit", async () => {
  await using nodes = new TwoNodes({ maxForks: 1 });
  await using source = await nodes.node.create("source");
  const fork = { source: source.id };
  await using writer = await nodes.other.create("a", { fork });
  const error = await assertRejects(() => nodes.other.create("b", { fork }), LimitError);
  assertEquals(error.limit, "maxForks");
  await nodes.other.delete(writer.id);
  await using _next = await nodes.other.create("b", { fork });
});

Deno.test("DurableStreams.info() returns the state of a stream", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create("a");
  await writer.append("é");
  const { offset } = writer;
  const open = { keyed: false, contentType: "application/json", offset, isEnded: false, bytes: 4 };
  assertEquals(await nodes.other.info("a"), open);
  await nodes.other.cancel("a", "enough");
  await writer.abort("stopped");
  const ended = { isEnded: true, error: "stopped", cancelled: "enough" };
  assertEquals(await nodes.other.info("a"), { ...open, ...ended });
  assertEquals(await nodes.other.delete("a"), true);
  assertEquals(await nodes.other.delete("a"), false);
  assertEquals(await nodes.other.info("a"), undefined);
});

Deno.test("DurableStreams.follow() reads from any offset to the end", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create<number>("a");
  await Promise.all(Array.from({ length: 2_500 }, (_, i) => writer.append(i)));
  const all = nodes.other.follow<number>("a");
  const last = nodes.other.follow<number>("a", { after: "now" });
  const first = last.next();
  const reading = Array.fromAsync(all);
  // Both have caught up once the loop below has read everything.
  assertEquals((await nodes.read("a")).length, 2_500);
  await writer.append(2_500);
  assertEquals((await first).value?.data, 2_500);
  await writer.close();
  const items = await reading;
  assertEquals(items.map(({ data }) => data), Array.from({ length: 2_501 }, (_, i) => i));
  assertEquals((await last.next()).done, true);
  const after = items[2_498]!.offset;
  const rest = await Array.fromAsync(nodes.other.follow("a", { after }));
  assertEquals(rest.map(({ data }) => data), [2_499, 2_500]);
  assertEquals(await Array.fromAsync(nodes.other.read("a", { after: "now" })), []);
});

Deno.test("DurableStreams.follow() throws for a missing stream or offset", async () => {
  await using nodes = new TwoNodes();
  const follow = (id: string, after?: string) =>
    codeOf(Array.fromAsync(nodes.other.follow(id, after === undefined ? {} : { after })));
  assertEquals(await follow("a"), "not-found");
  await using writer = await nodes.node.create<number>("a");
  await using other = await nodes.node.create<number>("b");
  await writer.append(1);
  assertEquals(await follow("a", "1"), "malformed");
  assertEquals(await follow("b", writer.offset), "gone");
  const reading = nodes.other.follow("a", { after: writer.offset });
  const gone = codeOf(reading.next());
  await nodes.node.delete("a");
  await nodes.node.create("a");
  assertEquals(await gone, "gone");
  await other.close();
});

Deno.test("DurableStreams.cancel() rejects a reason that is not a string, such as a signal's", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create("a");
  const { reason } = AbortSignal.abort();
  await assertRejects(
    () => nodes.other.cancel("a", reason),
    TypeError,
    "Cannot cancel: reason must be a string, received DOMException",
  );
  assertEquals((await nodes.other.info("a"))?.cancelled, undefined);
  await writer.close();
});

Deno.test("DurableStreams.follow() reports trimmed records and too many readers", async () => {
  await using nodes = new TwoNodes({ keep: { records: 2, bytes: 1_000 }, maxReaders: 1 });
  await using writer = await nodes.node.create<number>("a");
  await writer.append(1);
  const { offset } = writer;
  for (const data of [2, 3, 4]) await writer.append(data);
  assertEquals(await nodes.read("a"), [3, 4]);
  assertEquals(await codeOf(Array.fromAsync(nodes.other.read("a", { after: offset }))), "gone");
  const controller = new AbortController();
  const { signal } = controller;
  const reading = nodes.other.follow("a", { after: "now", signal });
  const next = assertRejects(() => reading.next(), Error, "enough");
  const beside = nodes.other.follow("a");
  await assertRejects(() => beside.next(), LimitError, "at most 1 readers that wait");
  controller.abort(new Error("enough"));
  await next;
  await writer.close();
});

Deno.test("DurableStreams.read() and follow() start at a record that is kept, whatever is dropped meanwhile", async () => {
  await using nodes = new TwoNodes({ keep: { records: 2, bytes: 1_000 } });
  const { node, other, broker } = nodes;
  await using writer = await other.create<number>("a");
  let count = 0;
  const append = () => Promise.all([1, 2, 3].map(() => writer.append(count++)));
  await append();
  // Records are dropped after each read of the state.
  broker.make("logs.read", async (run, { args: [, { maxRecords }] }) => {
    const reply = await run();
    if (maxRecords === 0) await append();
    return reply;
  });
  const items = await Array.fromAsync(node.read("a"));
  assertEquals(items.map(({ data }) => data), [4, 5]);
  assertEquals(items.at(-1)!.offset, writer.offset);
  for (const [after, next] of [[undefined, 7], ["-1", 10], ["now", 13]] as const) {
    for await (const { data } of node.follow("a", { after })) {
      assertEquals(data, next);
      break;
    }
  }
  await writer.close();
});

for (const call of ["create", "open"] as const) {
  Deno.test(`DurableStreams.${call}() makes no writer during and after the close of its server`, async () => {
    await using nodes = new TwoNodes();
    const { node, other, broker } = nodes;
    if (call === "open") await (await other.create("a")).release();
    const gate = Promise.withResolvers<void>();
    const operation = call === "create" ? "logs.create" : "logs.append";
    broker.make(operation, replyAfter(gate.promise));
    const during = codeOf(node[call]("a"));
    await node.close();
    assertEquals((await other.info("a"))?.isEnded, false);
    gate.resolve();
    assertEquals(await during, "unavailable");
    assertEquals((await other.info("a"))?.error, "writer-lost");
    const calls = broker.calls.length;
    assertEquals(await codeOf(node[call]("b")), "unavailable");
    assertEquals(broker.calls.length, calls);
  });
}

Deno.test("DurableStreams.follow() ends when the server closes", async () => {
  const nodes = new TwoNodes();
  const config = { contentType: "application/json" };
  await logsOf(nodes.memory)!.create("a", {
    config,
    identity: "a1b2c3d4",
    records: ["1"],
    maxLogs: 9,
  });
  const reading = nodes.other.follow("a");
  assertEquals((await reading.next()).value?.offset, "0000000000000001_a1b2c3d4");
  const next = codeOf(reading.next());
  await nodes[Symbol.asyncDispose]();
  assertEquals(await next, "unavailable");
});
