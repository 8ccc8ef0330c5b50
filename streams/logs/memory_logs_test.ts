import { assertEquals } from "@std/assert";
import { Bounded } from "../../pubsub/memory/bounded_fixture.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { testBrokerLogs } from "../conformance/suite.ts";
import { logsOf } from "./logs_of.ts";

testBrokerLogs("MemoryBroker", () => new MemoryBroker(), {
  makePair: () => {
    const store = new FaultyStore();
    return [store.connect(), store.connect()];
  },
});

const CONFIG = { contentType: "text/plain" };
const READING = { after: 0, maxRecords: 100, maxBytes: 1e9, renews: false };

/** A broker with a bound on all bytes, and helpers for its logs. */
class BoundedLogs extends Bounded {
  /** Creates a log with records, and returns the kind of the result. */
  async create(id: string, ...records: readonly string[]): Promise<string> {
    const options = { config: CONFIG, identity: id, records, maxLogs: 100 };
    return (await logsOf(this.broker)!.create(id, options)).kind;
  }

  /** Appends a record of this many bytes, and returns the kind of the result. */
  async append(id: string, bytes: number, options = {}): Promise<string> {
    const records = ["x".repeat(bytes)];
    return (await logsOf(this.broker)!.append(id, { records, maxBytes: 1e9, ...options })).kind;
  }

  /** Counts the records of a log. */
  async records(id: string): Promise<number> {
    const page = await logsOf(this.broker)!.read(id, READING);
    return typeof page === "object" ? page.records.length : 0;
  }
}

Deno.test("MemoryBroker bounds all bytes by dropping histories for logs, but never log records", async () => {
  const bounded = new BoundedLogs(100_000);
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
  assertEquals((await logsOf(bounded.broker)!.append("log", ending)).kind, "appended");
  await logsOf(bounded.broker)!.delete("log");
  assertEquals(await bounded.create("large", "x".repeat(90_000)), "created");
});

Deno.test("MemoryBroker releases all bytes of logs and histories", async () => {
  const bounded = new BoundedLogs(100_000);
  const logs = logsOf(bounded.broker)!;
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
