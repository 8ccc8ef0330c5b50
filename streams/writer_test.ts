import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { BrokerError, QueueFullError, RequestError } from "../errors.ts";
import { countedBytes } from "../pubsub/broker.ts";
import { codeOf, TwoNodes } from "./streams_fixture.ts";
import { fail, loseReply, pass, waitFor } from "../tests/faulty_broker.ts";
import { settlesSoon, turns, until } from "../tests/waiting.ts";
import { logsOf } from "./logs/logs_of.ts";
import type { DurableStreamWriter } from "./writer.ts";

/** Resolves once a signal aborts, with the reason. */
function aborted(signal: AbortSignal): Promise<unknown> {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  if (signal.aborted) resolve(signal.reason);
  else signal.addEventListener("abort", () => resolve(signal.reason), { once: true });
  return promise;
}

Deno.test("DurableStreamWriter.append() keeps JSON in order, with one broker call per turn", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create("a");
  const appends = [1, "two", [3], null].map((data) => writer.append(data));
  assertEquals(writer.waiting, 4);
  await Promise.all(appends);
  assertEquals(nodes.appends.map(({ records }) => records), [["1", '"two"', "[3]", "null"]]);
  const late = writer.append(5);
  await writer.close();
  await late;
  assertEquals(nodes.appends.map(({ records }) => records.length), [4, 1]);
  assertEquals(await nodes.read("a"), [1, "two", [3], null, 5]);
  assertEquals((await nodes.other.info("a"))?.offset, writer.offset);
  assertEquals((await nodes.other.info("a"))?.isEnded, true);
});

Deno.test("DurableStreamWriter.append() resolves with the offset after the record", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create<number>("a");
  const offsets = await Promise.all([1, 2, 3].map((data) => writer.append(data)));
  assertEquals(offsets.at(-1), writer.offset);
  // The broker stores the record, but its reply is lost.
  nodes.broker.make("logs.append", loseReply);
  const append = writer.append(4);
  await until(() => nodes.appends.length === 2);
  nodes.broker.make("logs.append", pass);
  offsets.push(await append);
  for (const [i, after] of offsets.entries()) {
    assertEquals(await nodes.read("a", { after }), [1, 2, 3, 4].slice(i + 1));
  }
});

Deno.test("DurableStreamWriter.append() accepts texts and bytes by media type", async () => {
  await using nodes = new TwoNodes();
  const contentType = "text/plain";
  await using writer = await nodes.node.create<string | Uint8Array>("a", { contentType });
  await writer.append("one\n");
  await writer.append(Uint8Array.of(1, 2));
  assertEquals(await nodes.read("a"), ["one\n", Uint8Array.of(1, 2)]);
  await assertRejects(
    () => writer.append(7 as unknown as string),
    TypeError,
    "Cannot append: data of text/plain must be a string or a Uint8Array, received 7",
  );
  await using json = await nodes.node.create("b");
  await assertRejects(
    () => json.append(undefined),
    TypeError,
    "must be a value that JSON can hold",
  );
  await json.close();
  await writer.close();
});

Deno.test("DurableStreamWriter.append() limits the size of a record, and the waiting records", async () => {
  await using nodes = new TwoNodes({ maxStreamBytes: Infinity }, Infinity);
  await using writer = await nodes.node.create<string>("a");
  const most = 8_388_608;
  await assertRejects(
    () => writer.append("x".repeat(most)),
    RangeError,
    `Cannot append: a record must have at most ${most} bytes, received ${most + 2}`,
  );
  const first = writer.append("x".repeat(most - 2));
  await assertRejects(() => writer.append(""), QueueFullError, "at most 10000 records or");
  await first;
  const many = Array.from({ length: 10_000 }, () => writer.append(""));
  await assertRejects(() => writer.append(""), QueueFullError);
  await Promise.all(many);
  assertEquals(nodes.appends.map(({ records }) => records.length), [1, ...Array(10).fill(1_000)]);
  await writer.close();
});

Deno.test("DurableStreamWriter.close() rejects if a rejected append was ignored", async () => {
  await using nodes = new TwoNodes({ maxStreamBytes: Infinity });
  const cases: [
    type: ErrorConstructor | typeof QueueFullError,
    ignore: (writer: DurableStreamWriter) => void,
  ][] = [
    [QueueFullError, (writer) => {
      for (let i = 0; i < 10_002; i++) void writer.append(i);
    }],
    [RangeError, (writer) => void writer.append("x".repeat(1_000))],
    [TypeError, (writer) => void writer.append(undefined)],
  ];
  for (const [i, [type, ignore]] of cases.entries()) {
    {
      await using writer = await nodes.node.create(`${i}`);
      ignore(writer);
      await writer.append("last").catch(() => {});
      await assertRejects(() => writer.close(), type, "Cannot append: ");
    }
    assertEquals(
      (await nodes.node.info(`${i}`))?.error,
      "The writer ended before the stream was complete",
    );
  }
});

Deno.test("DurableStreamWriter.close() resolves if each rejected append was handled", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create("a");
  const rejected = Array.from({ length: 4 }, () => writer.append(undefined));
  await rejected[0]!.catch(() => {});
  await Promise.allSettled(rejected.slice(1, 3));
  await assertRejects(() => writer.close(), TypeError);
  await assertRejects(() => rejected[3]!, TypeError);
  await writer.append("last");
  await writer.close();
  // An append after the end does not change how the stream has ended.
  void writer.append("late");
  await writer.close();
  assertEquals(await nodes.read("a"), ["last"]);
});

Deno.test("DurableStreamWriter.ready rejects after a failed append", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create("a");
  const gate = Promise.withResolvers<void>();
  nodes.broker.make("logs.append", waitFor(gate.promise));
  const appends = Array.from({ length: 1_100 }, () => writer.append("x"));
  const { ready } = writer;
  await nodes.other.delete("a");
  gate.resolve();
  assertEquals(await codeOf(ready), "gone");
  assertEquals(await codeOf(writer.ready), "gone");
  void writer.ready;
  await Promise.allSettled(appends);
});

Deno.test("DurableStreamWriter.close() rejects after release()", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create("a");
  await writer.release();
  assertEquals(await codeOf(writer.close()), "ended");
  await using next = await nodes.other.open("a");
  await next.close();
  await next.release();
  await next.close();
});

Deno.test("DurableStreamWriter.ready limits a loop to the pace of the broker", async () => {
  await using nodes = new TwoNodes({ maxStreamBytes: Infinity }, 4_000_000);
  await using writer = await nodes.node.create<string>("a");
  for (const [size, most] of [[1, 128], [100_000, 24], [3_500_000, 6]] as const) {
    let largest = 0;
    for (let i = 0; i < most * 3; i++) {
      await writer.ready;
      void writer.append("x".repeat(size));
      largest = Math.max(largest, writer.waiting);
    }
    assert(largest <= most, `${largest} records of ${size} bytes`);
  }
  await writer.close();
});

Deno.test("DurableStreamWriter.ready waits at either of its bounds, any number of times", async () => {
  await using nodes = new TwoNodes({ maxStreamBytes: Infinity }, 200_000);
  await using writer = await nodes.node.create<string>("a");
  for (const [size, most] of [[1, 64], [100_000, 11], [1, 64]] as const) {
    const gate = Promise.withResolvers<void>();
    nodes.broker.make("logs.append", waitFor(gate.promise));
    const appends = [writer.append("first")];
    await turns();
    for (let i = 1; i < most; i++) appends.push(writer.append("x".repeat(size)));
    const before = await settlesSoon(writer.ready);
    appends.push(writer.append("x".repeat(size)));
    const { ready, waiting } = writer;
    const after = await settlesSoon(ready);
    gate.resolve();
    assertEquals({ before, waiting, after }, { before: true, waiting: most, after: false });
    await ready;
    await Promise.all(appends);
  }
  await writer.close();
});

Deno.test("DurableStreamWriter.append() writes at most as many bytes at once as the broker takes", async () => {
  await using nodes = new TwoNodes({ maxStreamBytes: Infinity }, 2_000);
  Object.defineProperty(logsOf(nodes.broker)!, "maxAppendBytes", { value: 2_500 });
  await using writer = await nodes.node.create<string>("a");
  for (let round = 1; round <= 2; round++) {
    await Promise.all(Array.from({ length: 5 }, () => writer.append("x".repeat(1_000))));
    const counts = nodes.appends.map(({ records }) => records.length);
    assertEquals(counts.slice(3 * (round - 1)), [2, 2, 1]);
  }
  await writer.close();
});

Deno.test("DurableStreams.close() leaves nothing behind while the broker is unreachable", async () => {
  using time = new FakeTime();
  await using nodes = new TwoNodes();
  const writer = await nodes.node.create<number>("a");
  nodes.broker.make("logs.append", fail);
  void writer.append(1);
  await time.tickAsync(1_000);
  const closing = nodes.node.close();
  await time.tickAsync(2_000);
  await closing;
  const { length } = nodes.appends;
  await time.tickAsync(20_000);
  assertEquals(nodes.appends.length, length);
});

Deno.test("DurableStreamWriter.release() hands the stream to the next writer, on any node", async () => {
  await using nodes = new TwoNodes();
  const writer = await nodes.node.create<number>("a");
  void writer.append(1);
  assertEquals(await codeOf(nodes.other.open("a")), "held");
  await Promise.all([writer.release(), writer.release()]);
  assertEquals(await codeOf(writer.append(2)), "ended");
  await using next = await nodes.other.open<number>("a");
  await writer[Symbol.asyncDispose]();
  await next.append(2);
  await next.close();
  await next.release();
  assertEquals(await nodes.read("a"), [1, 2]);
  assertEquals((await nodes.other.info("a"))?.error, undefined);
});

Deno.test("DurableStreamWriter.release() leaves the stream open for 5 s, despite searches", async () => {
  using time = new FakeTime();
  await using nodes = new TwoNodes();
  const writer = await nodes.node.create("a");
  await writer.release();
  for (let i = 0; i < 49; i++) await time.tickAsync(100);
  const next = await nodes.other.open("a");
  await next.release();
  for (let i = 0; i < 100; i++) await time.tickAsync(100);
  assertEquals((await nodes.node.info("a"))?.error, "writer-lost");
});

Deno.test("DurableStreamWriter.release() rejects if the writer has lost the stream", async () => {
  using time = new FakeTime();
  await using nodes = new TwoNodes();
  const failed = await nodes.node.create("a");
  nodes.broker.make("logs.append", fail);
  const append = failed.append(1);
  await time.tickAsync(20_000);
  await assertRejects(() => append, BrokerError);
  await assertRejects(() => failed.release(), BrokerError);
  nodes.broker.make("logs.append", pass);
  const gone = await nodes.node.create("b");
  await nodes.other.delete("b");
  assertEquals(await codeOf(gone.append(1)), "gone");
  assertEquals(await codeOf(gone.release()), "gone");
});

Deno.test("DurableStreamWriter.abort() sends readers a code, and rejects reserved codes", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create("a");
  for (const code of ["ended", "handover", "too-many", "unavailable", "", "x".repeat(65)]) {
    assertThrows(() => writer.abort("No more", { code }), TypeError, "code must have");
  }
  await writer.abort("No more", { code: "quota" });
  const { error, code } = (await nodes.other.info("a"))!;
  assertEquals([error, code], ["No more", "quota"]);
  assertEquals(await codeOf(Array.fromAsync(nodes.other.follow("a"))), "quota");
});

Deno.test("DurableStreamWriter fails when the broker stays unreachable, and can still abort", async () => {
  using time = new FakeTime();
  await using nodes = new TwoNodes();
  const writer = await nodes.node.create<number>("a");
  nodes.broker.make("logs.append", (run, call) => {
    return (call.args[1].writer === undefined ? pass : loseReply)(run, call);
  });
  const append = writer.append(1);
  const later = aborted(writer.signal);
  for (let i = 0; i < 20; i++) await time.tickAsync(1_000);
  const error = await assertRejects(() => append, BrokerError);
  assertEquals(await later, error);
  assertEquals(await assertRejects(() => writer.append(2), BrokerError), error);
  assertEquals(await assertRejects(() => writer.close(), BrokerError), error);
  nodes.broker.make("logs.append", pass);
  await writer[Symbol.asyncDispose]();
  assertEquals(await nodes.read("a"), [1], "The records of the doubtful append count once");
});

Deno.test("DurableStreamWriter aborts with an append number that the broker has not seen", async () => {
  await using nodes = new TwoNodes({ maxStreamBytes: countedBytes(10, 2) });
  await using writer = await nodes.node.create<string>("a");
  await writer.append("12345");
  assertEquals(await codeOf(writer.append("123456")), "full");
  assertEquals(await codeOf(writer.append("")), "full", "A stream has no holes");
  assertEquals(await codeOf(writer.close()), "full");
  await writer.abort("no room");
  assertEquals((await nodes.other.info("a"))?.error, "no room");
  assertEquals(await nodes.read("a"), ["12345"]);
});

Deno.test("DurableStreamWriter.abort() after a failed append has no effect once the writer is lost", async () => {
  using time = new FakeTime();
  await using nodes = new TwoNodes({ maxStreamBytes: 10 });
  const fail = async (id: string) => {
    const writer = await nodes.node.create<string>(id);
    assertEquals(await codeOf(writer.append("1234567890")), "full");
    return writer;
  };
  const [overtaken, lapsed, deleted] = [await fail("a"), await fail("b"), await fail("c")];
  for (let i = 0; i < 16; i++) await time.tickAsync(1_000);
  // A search may have ended the stream first.
  for (const writer of [overtaken, lapsed]) {
    await nodes.other.open(writer.id).catch(() => {});
    await writer.abort("too late");
  }
  await nodes.other.delete("c");
  await deleted[Symbol.asyncDispose]();
  assertEquals((await nodes.other.info("a"))?.code, undefined);
  assertEquals(nodes.node.activity().length, 0);
});

Deno.test("DurableStreamWriter.abort() sends readers the reason, after all records", async () => {
  await using nodes = new TwoNodes();
  const writer = await nodes.node.create<number>("a");
  void writer.append(1);
  await writer.abort("The model failed");
  const items: unknown[] = [];
  const error = await assertRejects(
    async () => {
      for await (const { data } of nodes.other.follow("a")) items.push(data);
    },
    RequestError,
    "The model failed",
  );
  assertEquals([items, error.failure.code], [[1], "aborted"]);
  await Promise.all([writer.abort("again"), writer.close()]);
  assertEquals(await codeOf(writer.append(2)), "ended");
  assertEquals((await nodes.other.info("a"))?.error, "The model failed");
});

Deno.test("DurableStreamWriter.abort() cuts a long reason, and rejects an empty one", async () => {
  await using nodes = new TwoNodes();
  const writer = await nodes.node.create("a");
  assertThrows(
    () => writer.abort(""),
    TypeError,
    "Cannot abort: reason must be a non-empty string",
  );
  await writer.abort("x".repeat(2_000));
  assertEquals((await nodes.other.info("a"))?.error, "x".repeat(1_024));
});

Deno.test("DurableStreamWriter renews the lease while alive", async () => {
  using time = new FakeTime();
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create<number>("a");
  for (let i = 0; i < 60; i++) await time.tickAsync(1_000);
  await writer.append(1);
  await writer.close();
  assertEquals((await nodes.other.info("a"))?.error, undefined);
  const { length } = nodes.appends;
  assert(length > 4 && length <= 17, `${length} appends: a renewal in four seconds`);
});

Deno.test("A stream ends with writer-lost when the lease expires, and its writer is notified", async () => {
  using time = new FakeTime();
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create<number>("a");
  await writer.append(1);
  const stopped = aborted(writer.signal);
  nodes.broker.make("logs.append", (run, call) => {
    return (call.args[1].writer === undefined ? pass : fail)(run, call);
  });
  const items: unknown[] = [];
  const reading = assertRejects(async () => {
    for await (const { data } of nodes.other.follow("a")) items.push(data);
  }, RequestError);
  for (let i = 0; i < 25; i++) await time.tickAsync(1_000);
  assertEquals([(await reading).failure.code, items], ["writer-lost", [1]]);
  const reason = await stopped;
  assertInstanceOf(reason, RequestError);
  assertEquals(reason.failure.code, "writer-lost");
  assertEquals(await codeOf(writer.append(2)), "writer-lost");
});

Deno.test("DurableStreams.open() takes over an expired lease, and fences the previous writer", async () => {
  using time = new FakeTime();
  await using nodes = new TwoNodes();
  await using before = await nodes.node.create<number>("a");
  await before.append(1);
  assertEquals(await codeOf(nodes.other.open("a")), "held");
  assertEquals(await codeOf(nodes.other.open("b")), "not-found");
  // This writer receives no announcement, and no node searches for lost writers.
  nodes.broker.make("logs.append", fail);
  time.now += 16_000;
  await using writer = await nodes.other.open<number>("a");
  nodes.broker.make("logs.append", pass);
  assertEquals(await codeOf(before.append(2)), "fenced");
  assertEquals(before.signal.aborted, true);
  await writer.append(3);
  await writer.close();
  assertEquals(await nodes.read("a"), [1, 3]);
  assertEquals(await codeOf(nodes.other.open("a")), "ended");
});

Deno.test("DurableStreamWriter.signal aborts when a reader cancels on another node", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create<number>("a");
  const stopped = aborted(writer.signal);
  assertEquals(await nodes.other.cancel("a", "enough"), true);
  assertEquals(await nodes.other.cancel("a", "again"), true);
  const reason = await stopped;
  assertInstanceOf(reason, RequestError);
  assertEquals([reason.failure.code, reason.message], ["cancelled", "enough"]);
  // The stream stays open for the writer's remaining records.
  await writer.append(1);
  await writer.close();
  assertEquals(await nodes.other.cancel("a", ""), false);
  assertEquals((await nodes.other.info("a"))?.cancelled, "enough");
  assertEquals(await codeOf(nodes.other.cancel("b", "")), "not-found");
});

Deno.test("DurableStreamWriter.signal aborts when the stream is deleted or ended by others", async () => {
  await using nodes = new TwoNodes();
  await using writer = await nodes.node.create<number>("a");
  const stopped = aborted(writer.signal);
  assertEquals(await nodes.other.delete("a"), true);
  assertEquals((await stopped as RequestError).failure.code, "gone");
  assertEquals(await codeOf(writer.append(1)), "gone");

  await using ended = await nodes.node.create<number>("b");
  const told = aborted(ended.signal);
  await logsOf(nodes.memory)!.append("b", { records: [], end: {}, maxBytes: 1 });
  assertEquals((await told as RequestError).failure.code, "ended");
  assertEquals(await codeOf(ended.close()), "ended");
});

Deno.test("DurableStreams.close() notifies readers of open writers immediately", async () => {
  await using nodes = new TwoNodes();
  const writer = await nodes.node.create<number>("a");
  const reading = codeOf(Array.fromAsync(nodes.other.follow("a")));
  await nodes.node.close();
  assertEquals(await reading, "writer-lost");
  assertEquals(await codeOf(writer.append(1)), "ended");
  await assertRejects(() => writer.close(), RequestError, '"a" was lost: its server has closed');
});
