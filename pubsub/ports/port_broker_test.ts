import { assert, assertEquals, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { FakeTime } from "@std/testing/time";
import { BrokerError } from "../../errors.ts";
import { MovableClock } from "../../tests/movable_clock.ts";
import { turns } from "../../tests/waiting.ts";
import { RUNS_SLOW } from "../../tools/run_tests/slow.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { testBroker } from "../conformance/suite.ts";
import { connectTo } from "./ports_fixture.ts";
import { MemoryBroker } from "../memory/broker.ts";
import { Nodes } from "../nodes/nodes.ts";
import { BrokerPorts } from "./broker_port.ts";
import type { Batch } from "./link.ts";
import type { BrokerOperation, WorkerOperation } from "./operations.ts";
import { PortBroker } from "./port_broker.ts";

const clock = new MovableClock();
const { runtime } = clock;

testBroker("PortBroker", () => connectTo(new MemoryBroker({ runtime }), 1)[0]!, {
  makePair: () => {
    const [one, two] = connectTo(new MemoryBroker({ runtime }), 2);
    return [one!, two!];
  },
  skipSlow: !RUNS_SLOW,
  pass: (ms) => clock.pass(ms),
});

/** Workers on one store, whose batches the test delivers. */
class Threads {
  readonly store = new MemoryBroker();
  readonly runtime = platformRuntime();
  readonly #ports = new BrokerPorts(this.store, this.runtime);
  /** Batches for workers that currently handle no messages. */
  readonly #late = new Map<PortBroker, Batch<BrokerOperation>[]>();

  start(): PortBroker {
    const broker: PortBroker = new PortBroker({
      runtime: this.runtime,
      broker: this.#ports.facts,
      post: (batch) => port.take(batch),
    });
    const port = this.#ports.open((batch) => {
      const late = this.#late.get(broker);
      if (late === undefined) broker.take(batch);
      else late.push(batch);
    });
    return broker;
  }

  /** Stops a worker from handling messages. */
  block(broker: PortBroker): void {
    this.#late.set(broker, []);
  }

  /** Lets a worker handle all messages. */
  unblock(broker: PortBroker): void {
    const late = this.#late.get(broker)!;
    this.#late.delete(broker);
    for (const batch of late) broker.take(batch);
  }
}

const FACTS = new BrokerPorts(new MemoryBroker(), platformRuntime()).facts;

/** A payload of a mebibyte. */
const MEBIBYTE = "x".repeat(1_048_576);
const BOUNDS = { size: 1_000, ttlMs: 60_000, bytes: 1_000_000_000 };

Deno.test("PortBroker drops publications beyond its bounds while no thread handles any", async () => {
  let posted = 0;
  const options = {
    runtime: platformRuntime(),
    broker: FACTS,
    post: ([, , operations]: Batch<WorkerOperation>) => void (posted += operations.length),
  };
  const large = new PortBroker(options);
  for (let i = 0; i < 80; i++) large.publish({ topic: "news", payload: MEBIBYTE });
  const { published, dropped, waiting } = large.stats;
  assertEquals({ posted, published, waiting, dropped }, {
    posted: 1,
    published: 64,
    waiting: 63,
    dropped: 16,
  });
  const append = large.history!.append({ topic: "kept", payload: MEBIBYTE }, { bounds: BOUNDS });
  await assertRejects(() => append, BrokerError, "too many operations wait for the main thread");

  const small = new PortBroker(options);
  while (small.stats.dropped === 0) small.publish({ topic: "news", payload: "x" });
  assertEquals(small.stats.waiting, 100_000);
  assertEquals(small.issues(), ["100000 operations wait for the main thread, of 100000 at most"]);
});

Deno.test("PortBroker slows down appends while another worker is behind", async () => {
  using time = new FakeTime();
  const threads = new Threads();
  const [writer, reader] = [threads.start(), threads.start()];
  const heard: string[] = [];
  const subscription = reader.subscribe("kept", ({ payload }) => heard.push(payload as string), {
    history: BOUNDS,
  });
  await passTurns(time);
  await subscription.ready;
  threads.block(reader);
  let appended = 0;
  for (let i = 0; i < 20; i++) {
    const payload = `${i} ${MEBIBYTE}`;
    void writer.history!.append({ topic: "kept", payload }, { bounds: BOUNDS })
      .then(() => appended++);
  }
  await passTurns(time);
  // The reader is 8 MiB behind, and no further credit is returned.
  assert(appended > 8 && appended < 12, `${appended}`);
  assertEquals(writer.stats.waiting, 20 - appended);
  await time.tickAsync(1_000);
  await passTurns(time);
  assertEquals([appended, writer.stats.waiting], [20, 0]);
  threads.unblock(reader);
  await passTurns(time);
  assertEquals(
    heard.map((payload) => Number.parseInt(payload)),
    Array.from({ length: 20 }, (_, i) => i),
  );
});

Deno.test("PortBroker reports missed publications to a worker that is too far behind", async () => {
  using time = new FakeTime();
  const threads = new Threads();
  const [writer, reader] = [threads.start(), threads.start()];
  const heard: unknown[] = [];
  let interruptions = 0;
  const subscription = reader.subscribe("news", ({ payload }) => heard.push(payload), {
    onInterrupted: () => interruptions++,
  });
  await passTurns(time);
  await subscription.ready;
  threads.block(reader);
  for (let i = 0; i < 60; i++) writer.publish({ topic: "news", payload: MEBIBYTE });
  for (let i = 0; i < 3; i++) {
    await time.tickAsync(1_000);
    await passTurns(time);
  }
  threads.unblock(reader);
  await passTurns(time);
  assertEquals([interruptions, reader.stats.interruptions], [1, 1]);
  assert(heard.length < 60, `${heard.length}`);
  heard.length = 0;
  writer.publish({ topic: "news", payload: "after" });
  await passTurns(time);
  assertEquals(heard, ["after"]);
});

Deno.test("BrokerPort.end() ends the subscriptions of a worker that is gone", async () => {
  await using store = new MemoryBroker();
  const posted: BrokerOperation[] = [];
  const port = new BrokerPorts(store, platformRuntime()).open(([, , operations]) => {
    posted.push(...operations);
  });
  port.take([0, 0, [["subscribe", 1, "news", undefined]]]);
  await turns();
  assertEquals(posted.splice(0), [["status", { name: "connected" }], ["ready", 1]]);
  store.publish({ topic: "news", payload: "1" });
  port.end();
  port.end();
  store.publish({ topic: "news", payload: "2" });
  await turns();
  assertEquals(posted, []);
});

Deno.test("PortBroker reports an unreachable store, and rejected operations", async () => {
  let operations: unknown[] = [];
  const since = Date.now();
  const broker = new PortBroker({
    // No time passes.
    runtime: Object.assign(platformRuntime(), { now: () => since }),
    broker: FACTS,
    post: ([, , posted]) => operations = [...operations, ...posted],
  });
  broker.take([0, 0, [
    ["status", { name: "interrupted", since, error: "Connection refused" }],
    ["rejected", "Cannot publish: too long"],
  ]]);
  await turns();
  assertEquals(broker.issues(), [
    "The memory broker has been unreachable: Connection refused",
    "The broker rejected 1 operations, the last one: Cannot publish: too long",
  ]);
  assertEquals([broker.stats.interruptions, broker.stats.dropped], [1, 1]);
  const claim = broker.store!.claim("user", "session", { max: 1, ttlMs: 1_000 });
  await turns();
  assertEquals(operations.length, 1);
  broker.take([0, 0, [["failure", 1, "BrokerError", "Cannot claim: Redis is unreachable"]]]);
  await assertRejects(() => claim, BrokerError, "Redis is unreachable");
  broker.take([0, 0, [["ended"]]]);
  await broker.close();
});

Deno.test("PortBroker preserves error classes, also of a store's own subclass", async () => {
  class TooLong extends RangeError {
    override name = "TooLong";
  }
  await using store = new MemoryBroker();
  const errors = [new TooLong("long"), new TypeError("type"), new Error("away")];
  using _newest = stub(store.store, "newest", () => Promise.reject(errors.shift()));
  const [broker] = connectTo(store, 1);
  const newest = () => broker!.store!.newest("key", 1_000);
  await assertRejects(newest, RangeError, "long");
  await assertRejects(newest, TypeError, "type");
  await assertRejects(newest, BrokerError, "away");
  await broker!.close();
});

/** Lets the work of many turns happen, under fake time. */
async function passTurns(time: FakeTime): Promise<void> {
  for (let i = 0; i < 20; i++) {
    await turns();
    await time.tickAsync(0);
  }
}

Deno.test("PortBroker carries heartbeat data between the nodes of two workers", async () => {
  await using store = new MemoryBroker();
  const [one, two] = connectTo(store, 2);
  await using a = new Nodes({ broker: one! });
  await using b = new Nodes({ broker: two! });
  const { promise, resolve } = Promise.withResolvers<unknown>();
  a.carry({ report: () => [["maxTents", "user ann", 7]], receive() {} });
  b.carry({ report: () => undefined, receive: (node, data) => resolve([node, data]) });
  assertEquals(await promise, [a.id, [["maxTents", "user ann", 7]]]);
  await a.close();
  await b.close();
  await one!.close();
  await two!.close();
});
