import { assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { UnsupportedError } from "../../errors.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { testBroker } from "../conformance/suite.ts";
import { MemoryBroker } from "./broker.ts";

testBroker("MemoryBroker", () => new MemoryBroker(), {
  makePair: () => {
    const store = new FaultyStore();
    return [store.connect(), store.connect()];
  },
});

const BOUNDS = { size: 1_000, ttlMs: 60_000, bytes: 1_000_000 };
const CONFIG = { contentType: "text/plain" };
const READING = { after: 0, maxRecords: 100, maxBytes: 1e9, renews: false };

/** A broker with a bound on all bytes, and helpers. */
class Bounded {
  readonly broker: MemoryBroker;

  constructor(maxTotalBytes: number) {
    this.broker = new MemoryBroker({ maxTotalBytes });
  }

  /** Publishes this many bytes on a topic with a history. */
  async publish(topic: string, bytes: number, producer?: string): Promise<void> {
    const key = producer === undefined ? {} : { key: { producer, number: 1 } };
    const payload = "x".repeat(bytes);
    await this.broker.history.append({ topic, payload }, { bounds: BOUNDS, ...key });
  }

  /** Publishes this many bytes as a client. */
  async publishAs(publisher: string, topic: string, bytes: number): Promise<void> {
    const payload = "x".repeat(bytes);
    await this.broker.history.append({ topic, payload }, { bounds: BOUNDS, publisher });
  }

  /** Counts the kept publications of topics. */
  async kept(...topics: readonly string[]): Promise<number[]> {
    const reading = { bounds: BOUNDS, maxMessages: 1_000, maxBytes: 1e9 };
    const pages = topics.map((topic) => this.broker.history.read(topic, reading));
    return (await Promise.all(pages)).map(({ publications }) => publications.length);
  }

  /** Creates a log with records, and returns the kind of the result. */
  async create(id: string, ...records: readonly string[]): Promise<string> {
    const options = { config: CONFIG, identity: id, records, maxLogs: 100 };
    return (await this.broker.logs.create(id, options)).kind;
  }

  /** Appends a record of this many bytes, and returns the kind of the result. */
  async append(id: string, bytes: number, options = {}): Promise<string> {
    const records = ["x".repeat(bytes)];
    return (await this.broker.logs.append(id, { records, maxBytes: 1e9, ...options })).kind;
  }

  /** Counts the records of a log. */
  async records(id: string): Promise<number> {
    const page = await this.broker.logs.read(id, READING);
    return typeof page === "object" ? page.records.length : 0;
  }
}

Deno.test("MemoryBroker bounds all bytes by dropping histories, the quietest first", async () => {
  const bounded = new Bounded(100_000);
  for (const topic of ["a", "b", "c"]) await bounded.publish(topic, 25_000);
  await bounded.publish("a", 10);
  assertEquals(await bounded.kept("a", "b", "c"), [2, 1, 1]);
  await bounded.publish("d", 25_000);
  assertEquals(await bounded.kept("a", "b", "c", "d"), [2, 0, 1, 1]);
  assertEquals(bounded.broker.stats.forgotten, 1);
  // A single history loses its oldest publications.
  for (let i = 0; i < 10; i++) await bounded.publish("e", 24_000);
  assertEquals(await bounded.kept("a", "c", "d", "e"), [0, 0, 0, 4]);
  // A publication that is larger than the whole bound is delivered, and not kept.
  const heard: number[] = [];
  bounded.broker.subscribe("e", ({ payload }) => heard.push(payload.length), { history: BOUNDS });
  await bounded.publish("e", 200_000);
  assertEquals([heard, await bounded.kept("e")], [[200_000], [0]]);
  await bounded.publish("e", 1);
  assertEquals(await bounded.kept("e"), [1]);
});

Deno.test("MemoryBroker bounds all bytes by dropping histories for logs, but never log records", async () => {
  const bounded = new Bounded(100_000);
  assertEquals(await bounded.create("log"), "created");
  for (const topic of ["a", "b"]) await bounded.publish(topic, 30_000);
  assertEquals(await bounded.append("log", 30_000), "appended");
  assertEquals(await bounded.kept("a", "b"), [1, 1]);
  assertEquals(await bounded.append("log", 30_000), "appended");
  assertEquals(await bounded.kept("a", "b"), [0, 1]);
  // A rejected append costs no history.
  assertEquals(await bounded.append("log", 60_000), "no-space");
  assertEquals(await bounded.create("large", "x".repeat(60_000)), "no-space");
  assertEquals(await bounded.kept("a", "b"), [0, 1]);
  assertEquals(await bounded.append("log", 30_000), "appended");
  assertEquals([await bounded.kept("b"), await bounded.records("log")], [[0], 3]);
  assertEquals(await bounded.append("log", 10_000), "no-space");
  // The rest still works: the end, and room once a log is gone.
  const ending = { records: [], maxBytes: 1e9, end: {} };
  assertEquals((await bounded.broker.logs.append("log", ending)).kind, "appended");
  await bounded.broker.logs.delete("log");
  assertEquals(await bounded.create("large", "x".repeat(90_000)), "created");
});

Deno.test("MemoryBroker forgets the histories of the client with the most bytes before quiet topics of others", async () => {
  const bounded = new Bounded(4_000_000);
  await bounded.publishAs("user ann", "lobby", 1_000);
  await bounded.publish("news", 1_000);
  const rooms = Array.from({ length: 10 }, (_, i) => `room ${i}`);
  // The publications of ten rooms, each of which could have more than half of all.
  for (let round = 0; round < 10; round++) {
    for (const room of rooms) await bounded.publishAs("at 203.0.113.66", room, 250_000);
  }
  assertEquals(await bounded.kept("lobby", "news"), [1, 1]);
  // One oversized publication also makes room by itself, and so do rooms that fill up long after
  // they started.
  await bounded.publishAs("at 203.0.113.66", "huge", 5_000_000);
  assertEquals(await bounded.kept("lobby", "news", "huge"), [1, 1, 0]);
});

Deno.test("MemoryBroker forgets the quietest histories if no client holds much more than others", async () => {
  const bounded = new Bounded(1_000_000);
  for (let i = 0; i < 20; i++) await bounded.publishAs(`user ${i}`, `room ${i}`, 45_000);
  await bounded.publishAs("user 0", "room 0", 1);
  for (const i of [20, 21]) await bounded.publishAs(`user ${i}`, `room ${i}`, 45_000);
  const quiet = await bounded.kept("room 0", "room 1", "room 2", "room 21");
  assertEquals(quiet, [2, 0, 1, 1]);
});

Deno.test("MemoryBroker bounds the number of topics with a history", async () => {
  await using broker = new MemoryBroker({ maxTopics: 2 });
  for (const topic of ["a", "b", "c"]) {
    await broker.history.append({ topic, payload: "x" }, { bounds: BOUNDS });
  }
  assertEquals(broker.stats.forgotten, 1);
});

Deno.test("MemoryBroker releases all bytes of logs and histories", async () => {
  const bounded = new Bounded(100_000);
  const { logs } = bounded.broker;
  const keep = { records: 2, bytes: 60_000 };
  for (let i = 0; i < 20; i++) {
    // Each round uses most of the room, with records, producers, forks and keys.
    assertEquals(await bounded.create(`log${i}`, "x".repeat(20_000)), "created", `${i}`);
    for (let j = 0; j < 5; j++) {
      assertEquals(await bounded.append(`log${i}`, 20_000, { keep }), "appended", `${i} ${j}`);
    }
    const producer = { id: "p".repeat(10_000), epoch: 0, seq: 0 };
    assertEquals(await bounded.append(`log${i}`, 1, { producer }), "appended");
    await logs.retain(`log${i}`, "fork", { identity: `log${i}`, maxForks: 1 });
    await bounded.publish(`topic${i}`, 20_000, "q".repeat(10_000));
    assertEquals(await bounded.kept(`topic${i}`), [1]);
    assertEquals(await logs.delete(`log${i}`), { kind: "kept" });
    await logs.release(`log${i}`, "fork");
  }
  // Each record uses more than its byte, until it is dropped.
  assertEquals(await bounded.create("ring"), "created");
  for (let i = 0; i < 2_000; i++) {
    assertEquals(await bounded.append("ring", 1, { keep: { records: 1, bytes: 1e9 } }), "appended");
  }
  assertEquals(await bounded.create("last", "x".repeat(95_000)), "created");
});

Deno.test("MemoryBroker counts the overhead of producers and small publications", async () => {
  const bounded = new Bounded(100_000);
  await bounded.publish("quiet", 1);
  for (let i = 0; i < 1_000; i++) await bounded.publish("busy", 1, `producer${i}`);
  assertEquals(await bounded.kept("quiet"), [0]);
  const [busy] = await bounded.kept("busy");
  assertEquals(busy! < 400, true, `${busy}`);
});

Deno.test("MemoryBroker checks maxTotalBytes", () => {
  for (const maxTotalBytes of [0, -1, 1.5, NaN]) {
    assertThrows(
      () => new MemoryBroker({ maxTotalBytes }),
      RangeError,
      `Cannot create broker: maxTotalBytes must be a positive integer, received ${maxTotalBytes}`,
    );
  }
});

Deno.test("MemoryBroker.publish() delivers before it returns", () => {
  const broker = new MemoryBroker();
  const heard: unknown[] = [];
  broker.subscribe("news", ({ payload }) => heard.push(payload));
  broker.publish({ topic: "news", payload: "1" });
  assertEquals(heard, ["1"]);
});

Deno.test("MemoryBroker.publish() skips members that come or go during the delivery", () => {
  const broker = new MemoryBroker();
  const heard: string[] = [];
  broker.subscribe("news", () => {
    void second[Symbol.asyncDispose]();
    broker.subscribe("news", ({ payload }) => heard.push(`late ${payload}`));
  });
  const second = broker.subscribe("news", ({ payload }) => heard.push(`gone ${payload}`));
  broker.publish({ topic: "news", payload: "1" });
  assertEquals(heard, []);
});

Deno.test("MemoryBroker.publish() continues after a listener that threw", () => {
  const broker = new MemoryBroker();
  const heard: unknown[] = [];
  const subscription = broker.subscribe("news", () => {
    throw new Error("must not");
  });
  assertThrows(() => broker.publish({ topic: "news", payload: "1" }), Error, "must not");
  void subscription[Symbol.asyncDispose]();
  broker.subscribe("news", ({ payload }) => heard.push(payload));
  broker.publish({ topic: "news", payload: "2" });
  assertEquals(heard, ["2"]);
});

Deno.test("MemoryBroker is closed when its status says so, and a callback may close it again", async () => {
  const broker = new MemoryBroker();
  const errors: unknown[] = [];
  broker.status.observe(({ name }) => {
    if (name !== "closed" || errors.length > 1) return;
    try {
      broker.publish({ topic: "news", payload: "late" });
      errors.push(undefined);
    } catch (error) {
      errors.push(error);
    }
    void broker.close();
  });
  await broker.close();
  assertEquals(errors.length, 1);
  assertInstanceOf(errors[0], UnsupportedError);
});
