import { assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { UnsupportedError } from "../../errors.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { MovableClock } from "../../tests/movable_clock.ts";
import { testBroker } from "../conformance/suite.ts";
import { MAX_ENTRIES, MemoryBroker } from "./broker.ts";
import type { SharedMemory } from "./space.ts";
import { Bounded, BOUNDS } from "./bounded_fixture.ts";

const clock = new MovableClock();
const { runtime } = clock;

testBroker("MemoryBroker", () => new MemoryBroker({ runtime }), {
  makePair: () => {
    const store = new FaultyStore({ runtime });
    return [store.connect(), store.connect()];
  },
  pass: (ms) => clock.pass(ms),
});

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

/** Fills a broker's store with numbers, and returns which of the numbers of others it has kept. */
async function keptAmong(ownerOf: (i: number) => string): Promise<string[]> {
  await using broker = new MemoryBroker();
  const { store } = broker;
  const windowMs = 300_000;
  await store.advance("ann", 5, windowMs, { owner: "user ann" });
  await store.advance("server", 5, windowMs);
  for (let i = 0; i < MAX_ENTRIES + 500; i++) {
    if (i === MAX_ENTRIES / 2) await store.advance("server", 6, windowMs);
    await store.advance(`number ${i}`, 5, windowMs, { owner: ownerOf(i) });
  }
  const kept = [];
  for (const key of ["ann", "server", "number 0"]) {
    if (await store.newest(key, windowMs) >= 0) kept.push(key);
  }
  return kept;
}

Deno.test("MemoryBroker forgets the numbers of the client with the most before those of others", async () => {
  assertEquals(await keptAmong(() => "at 203.0.113.66"), ["ann", "server"]);
});

Deno.test("MemoryBroker forgets the oldest numbers if each client has few", async () => {
  assertEquals(await keptAmong((i) => `user ${i >> 7}`), ["server"]);
});

Deno.test("MemoryBroker bounds the number of topics with a history", async () => {
  await using broker = new MemoryBroker({ maxTopics: 2 });
  for (const topic of ["a", "b", "c"]) {
    await broker.history.append({ topic, payload: "x" }, { bounds: BOUNDS });
  }
  assertEquals(broker.stats.forgotten, 1);
});

Deno.test("MemoryBroker.share() makes data once for each key, for which histories give way", async () => {
  const bounded = new Bounded(100_000);
  const { broker } = bounded;
  const memories: SharedMemory[] = [];
  const share = (key: symbol, bytes = 0) => {
    return broker.share(key, (memory) => {
      memories.push(memory);
      return { bytes, clear: () => void (bytes = 0) };
    });
  };
  const [one, other] = [Symbol("one"), Symbol("other")];
  const tenant = share(one, 30_000);
  assertEquals([share(one) === tenant, share(other, 20_000) === tenant], [true, false]);
  assertEquals(memories.map(({ maxBytes }) => maxBytes), [100_000, 100_000]);
  for (const topic of ["a", "b"]) await bounded.publish(topic, 20_000);
  // All tenants' bytes count, and the caller replaces its own.
  assertEquals(memories[0]!.hasRoom(80_001), false);
  assertEquals(await bounded.kept("a", "b"), [1, 1]);
  assertEquals(memories[0]!.hasRoom(50_000), true);
  assertEquals(await bounded.kept("a", "b"), [0, 1]);
  const announced: unknown[] = [];
  broker.subscribe("topic", ({ payload }) => announced.push(payload));
  memories[0]!.announce("topic");
  assertEquals(announced, [""]);
});

Deno.test("MemoryBroker.close() clears the data of features", async () => {
  const broker = new MemoryBroker();
  let cleared = 0;
  broker.share(Symbol("data"), () => ({ bytes: 1, clear: () => void cleared++ }));
  await broker.close();
  assertEquals(cleared, 1);
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
