import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { turns } from "../../tests/waiting.ts";
import { Client } from "../clients_fixture.ts";
import {
  countedBytes,
  type HistoryBounds,
  type Publication,
  type ReadHistoryOptions,
} from "../broker.ts";
import { MemoryBroker } from "./broker.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { LimitError } from "../../errors.ts";
import { MemoryHistories } from "./history.ts";
import { Topics } from "../topics.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

const MAX_HISTORIES = 10_000;
const BOUNDS: HistoryBounds = { size: 100, ttlMs: 60_000, bytes: 1_000_000 };

/** Publishes this many times on a topic, and returns the positions. */
function publish(
  histories: MemoryHistories,
  topic: string,
  count = 1,
  bounds: HistoryBounds = BOUNDS,
): Publication["position"][] {
  return Array.from(
    { length: count },
    () => histories.append({ topic, payload: topic }, { bounds })?.position,
  );
}

function read(
  histories: MemoryHistories,
  topic: string,
  options: Partial<ReadHistoryOptions> = {},
) {
  return histories.read(topic, { bounds: BOUNDS, maxMessages: 100, maxBytes: 100_000, ...options });
}

/** Counts the topics that have publications. */
function countKept(histories: MemoryHistories, topics: readonly string[]): number {
  return topics.filter((topic) => read(histories, topic).publications.length > 0).length;
}

function names(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${prefix}:${i}`);
}

Deno.test("MemoryHistories.read() of topics without publications forgets nothing", () => {
  const histories = new MemoryHistories(platformRuntime());
  const rooms = names("room", 100);
  for (const room of rooms) publish(histories, room);
  for (const topic of names("unknown", 2 * MAX_HISTORIES)) read(histories, topic);
  // If each read created a history, all 100 rooms would be forgotten here.
  assertEquals([countKept(histories, rooms), histories.forgotten], [100, 0]);
});

Deno.test("MemoryHistories.append() remembers the numbers of the last 10,000 producers of a topic", () => {
  // Room for these producers, and for a few more.
  const histories = new MemoryHistories(platformRuntime(), { maxBytes: () => 13_000_000 });
  const append = (producer: number, number = 1) =>
    histories.append({ topic: "a", payload: "x" }, {
      bounds: BOUNDS,
      key: { producer: `${producer}`.padStart(1_000), number },
    });
  for (let producer = 0; producer < 10_000; producer++) append(producer);
  // A producer that publishes again is no older than the others.
  assert(append(0) === undefined);
  assert(append(0, 2) !== undefined);
  append(10_000);
  assertEquals([0, 2, 9_999, 10_000].map((one) => append(one)), Array(4).fill(undefined));
  assert(append(1) !== undefined);
  for (let producer = 10_001; producer < 11_000; producer++) append(producer);
  assertEquals([append(10_000), histories.forgotten], [undefined, 0]);
});

/** A clock that moves by hand. */
function handClock(): Runtime & { pass(ms: number): void; set(ms: number): void } {
  let [passed, offset] = [0, 0];
  return Object.assign(platformRuntime(), {
    now: () => 1_000_000_000 + passed + offset,
    monotonic: () => passed,
    pass: (ms: number) => void (passed += ms),
    set: (ms: number) => void (offset += ms),
  });
}

Deno.test("MemoryHistories.append() remembers a key for two minutes, whatever the wall clock says", () => {
  const clock = handClock();
  const histories = new MemoryHistories(clock);
  const keys = ["order-7", { producer: "p", number: 7 }];
  const append = () =>
    keys.map((key) => histories.append({ topic: "a", payload: "x" }, { bounds: BOUNDS, key }));
  assertEquals(append().map((placed) => placed?.position?.offset), [1, 2]);
  for (const jump of [3_600_000, -7_200_000]) {
    clock.set(jump);
    clock.pass(59_999);
    assertEquals(append(), [undefined, undefined], `${jump}`);
  }
  clock.pass(2);
  assertEquals(append().map((placed) => placed?.position?.offset), [3, 4]);
  assertEquals(append(), [undefined, undefined]);
});

Deno.test("MemoryHistories.append() remembers the keys of a history that was forgotten", () => {
  const clock = handClock();
  const histories = new MemoryHistories(clock, { maxTopics: 2 });
  const append = (topic: string) =>
    histories.append({ topic, payload: topic }, { bounds: BOUNDS, key: "1" });
  for (const topic of names("order", 10)) assert(append(topic) !== undefined);
  assertEquals(histories.forgotten, 8);
  assertEquals(names("order", 10).map(append), Array(10).fill(undefined));
});

Deno.test("MemoryHistories.append() rejects a key when all keys use a quarter of the bytes, and forgets none", () => {
  const clock = handClock();
  const histories = new MemoryHistories(clock, { maxBytes: () => 100_000 });
  const append = (topic: string, key: string) =>
    histories.append({ topic, payload: "x" }, { bounds: BOUNDS, key });
  let count = 0;
  const error = assertThrows(
    () => {
      while (append(`t${count % 3}`, `key ${count}`)) count++;
    },
    LimitError,
    "a quarter of maxTotalBytes",
  );
  assertEquals([error.limit, error.level, error.retryAfterMs], ["keys", "server", 120_000]);
  assert(count > 100, `${count}`);
  assertEquals(append("t0", "key 0"), undefined);
  assert(histories.append({ topic: "t0", payload: "x" }, { bounds: BOUNDS }) !== undefined);
  // The keys of all topics are forgotten in time, also of those that nothing is appended to.
  clock.pass(120_000);
  let again = 0;
  assertThrows(() => {
    while (append("t4", `again ${again}`)) again++;
  }, LimitError);
  assert(again >= count, `${again} after ${count}`);
});

slowTest("Reading 20,000 topics evicts no history, and reports no gap to listeners", async () => {
  await using broker = new MemoryBroker();
  await using topics = new Topics({ broker, history: { "room:{name}": {} } });
  await using listener = new Client(topics.flusher);
  const rooms = names("room", 100);
  for (const room of rooms) listener.subscribe(topics, room);
  await turns();
  for (const room of rooms) topics.publish(room, 1);
  await turns();
  await using reader = new Client(topics.flusher);
  const unknown = names("room:unknown", 2 * MAX_HISTORIES);
  while (unknown.length > 0) {
    for (const topic of unknown.splice(0, 100)) {
      topics.subscribe(reader.session, topic, { last: 1 });
    }
    await turns(2);
    topics.leaveAll(reader.session);
  }
  assert(broker.stats.reads >= 2 * MAX_HISTORIES);
  for (const room of rooms) topics.publish(room, 2);
  await turns();
  assertEquals(listener.lines.filter(({ gap }) => gap !== undefined), []);
  assertEquals(listener.lines.filter(({ topic }) => topic !== "reply").length, 200);
  assertEquals(broker.stats.forgotten, 0);
});

Deno.test("MemoryHistories forgets histories without publications first", () => {
  using time = new FakeTime();
  const histories = new MemoryHistories(platformRuntime());
  const [quiet, brief, busy] = [names("quiet", 100), names("brief", 5_000), names("busy", 9_000)];
  for (const topic of quiet) publish(histories, topic);
  for (const topic of brief) publish(histories, topic, 1, { ...BOUNDS, ttlMs: 1_000 });
  time.tick(2_000);
  for (const topic of busy) publish(histories, topic);
  assertEquals(countKept(histories, [...quiet, ...busy]), 9_100);
  assertEquals(histories.forgotten, 0);
});

Deno.test("MemoryHistories counts bytes, not characters", () => {
  const histories = new MemoryHistories(platformRuntime());
  const bounds = { ...BOUNDS, bytes: countedBytes(90, 3) };
  // 30 bytes each, in 10 UTF-16 units.
  const payload = "€".repeat(10);
  for (let i = 0; i < 5; i++) histories.append({ topic: "a", payload }, { bounds });
  assertEquals(read(histories, "a", { bounds }).publications.length, 3);
  assertEquals(read(histories, "a", { bounds, maxBytes: 60 }).publications.length, 2);
  // A size that the publisher counted is used.
  for (let i = 0; i < 2; i++) histories.append({ topic: "b", payload, bytes: 190 }, { bounds });
  assertEquals(read(histories, "b", { bounds }).publications.length, 1);
});

Deno.test("MemoryBroker takes its epoch and time from its runtime", async () => {
  let now = 1_000;
  const runtime = Object.assign(platformRuntime(), {
    randomUUID: () => "epoch-of-the-test",
    now: () => now,
  });
  await using broker = new MemoryBroker({ runtime });
  const bounds = { ...BOUNDS, ttlMs: 10 };
  const { position } = await broker.history.append({ topic: "a", payload: "1" }, { bounds });
  assertEquals(position?.epoch, "epoch-of");
  const query = { bounds, maxMessages: 10, maxBytes: 1_000 };
  assertEquals((await broker.history.read("a", query)).publications.length, 1);
  now += 10;
  assertEquals((await broker.history.read("a", query)).publications.length, 0);
});
