import { platformRuntime, type Runtime, type Timer } from "../../base/runtime.ts";
import { captureConsole } from "../../tests/console_lines.ts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import type { StatusFeed } from "../../base/status_feed.ts";
import type { BrokerStatus } from "../broker.ts";
import { MemoryBroker } from "../memory/broker.ts";
import { Nodes, type NodesOptions, sayFarewell } from "./nodes.ts";

/** Nodes of one store, at a fake time. */
class Bench implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly store = new FaultyStore();
  readonly #nodes: Nodes[] = [];

  join(options: Omit<NodesOptions, "broker"> = {}) {
    const broker = this.store.connect();
    const nodes = new Nodes({ broker, ...options });
    this.#nodes.push(nodes);
    const events: string[] = [];
    nodes.subscribe((event) => {
      events.push(event.type === "restored" ? "restored" : `${event.type} ${event.node.name}`);
    });
    return { nodes, broker, events };
  }

  async pass(ms: number): Promise<void> {
    await this.time.tickAsync(ms);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const nodes of this.#nodes) await nodes.close();
    this.time.restore();
  }
}

Deno.test("Nodes know one another immediately, and are ready a moment later", async () => {
  await using bench = new Bench();
  const a = bench.join({ name: "a" });
  await bench.pass(300);
  assert(a.nodes.isReady);
  const b = bench.join({ name: "b" });
  await bench.pass(0);
  assertEquals([a.events, b.events], [["join b"], ["join a"]]);
  assert(!b.nodes.isReady);
  await bench.pass(300);
  assert(b.nodes.isReady);
  assertEquals(a.nodes.others().map(({ id, name }) => [id, name]), [[b.nodes.id, "b"]]);
  assert(a.nodes.has(b.nodes.id) && !a.nodes.has(a.nodes.id));
});

Deno.test("Nodes declare a silent node gone within goneAfterMs, and no other one", async () => {
  await using bench = new Bench();
  const [a, b, c] = [
    bench.join({ name: "a" }),
    bench.join({ name: "b" }),
    bench.join({ name: "c" }),
  ];
  await bench.pass(60_500);
  assertEquals(a.events, ["join b", "join c"]);
  b.broker.cut();
  const cutAt = Date.now();
  await bench.pass(3_900);
  assertEquals([a.events.length, c.events.length], [2, 2]);
  await bench.pass(7_000 - 3_900);
  assertEquals([a.events.at(-1), c.events.at(-1)], ["leave b", "leave b"]);
  assert(Date.now() - cutAt <= 7_000);
  assertEquals(a.nodes.others().map(({ name }) => name), ["c"]);
});

Deno.test("Nodes declare a node gone relative to its last heartbeat, whenever it ended", async () => {
  for (const endsMs of [60_100, 61_000, 61_900]) {
    await using bench = new Bench();
    const [a, b] = [bench.join({ name: "a" }), bench.join({ name: "b" })];
    // The last heartbeat of `b` was sent at second 60.
    await bench.pass(endsMs);
    b.broker.cut();
    await bench.pass(65_900 - endsMs);
    assertEquals(a.events, ["join b"]);
    await bench.pass(1_100);
    assertEquals(a.events, ["join b", "leave b"]);
  }
});

Deno.test("Nodes send fewer heartbeats if they are more than a hundred, and allow longer silence", async () => {
  await using bench = new Bench();
  const all = Array.from({ length: 120 }, () => bench.join());
  await bench.pass(10_000);
  const [first, second, ...others] = all;
  let beats = 0;
  bench.store.connect().subscribe("$skein:nodes", () => void beats++);
  await bench.pass(40_000);
  // One in four seconds.
  assertEquals(beats, 1_200);
  second!.broker.cut();
  await bench.pass(9_000);
  assertEquals(first!.nodes.size, 119);
  await bench.pass(5_000);
  assertEquals(first!.nodes.size, 118);
  // Half of them are gone together; the others don't lose each other when their times get shorter.
  for (const { broker } of others.slice(60)) broker.cut();
  await bench.pass(14_000);
  const staying = [first!, ...others.slice(0, 60)];
  beats = 0;
  await bench.pass(40_000);
  assertEquals(beats, 61 * 20);
  for (const { nodes, events } of staying) {
    const left = events.filter((event) => event.startsWith("leave"));
    assertEquals([nodes.size, left.length], [60, 59]);
  }
});

Deno.test("Nodes receive a farewell immediately, and late messages do not bring the node back", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join({ name: "a" }), bench.join({ name: "b" })];
  await bench.pass(300);
  await b.nodes.close();
  assertEquals(a.events, ["join b", "leave b"]);
  assert(a.nodes.isGone(b.nodes.id));
  const beat = { type: "beat", name: "b", isHello: false, node: b.nodes.id };
  bench.store.publish({ topic: "$skein:nodes", payload: JSON.stringify(beat) });
  assertEquals(a.events.length, 2);
});

Deno.test("Nodes reply to a node that starts, and only to that node", async () => {
  await using bench = new Bench();
  const all = Array.from({ length: 10 }, () => bench.join());
  await bench.pass(300);
  const heard = { all: 0, one: 0 };
  const broker = bench.store.connect();
  const listen = (topic: string, part: "all" | "one") =>
    broker.subscribe(topic, () => void heard[part]++);
  listen("$skein:nodes", "all");
  for (const { nodes } of all) listen(`$skein:node:${nodes.id}`, "one");
  for (const { broker } of all) broker.interrupt();
  await bench.pass(0);
  // All nodes know one another.
  assertEquals(heard, { all: 10, one: 0 });
  const late = bench.join();
  listen(`$skein:node:${late.nodes.id}`, "one");
  await bench.pass(0);
  assertEquals([heard, late.nodes.size], [{ all: 11, one: 10 }, 10]);
});

Deno.test("Nodes accept a node again after a network partition", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join({ name: "a" }), bench.join({ name: "b" })];
  await bench.pass(300);
  b.broker.cut();
  await bench.pass(8_000);
  b.broker.mend();
  await bench.pass(2_000);
  // A node that does not even receive its own messages cannot judge others.
  assertEquals([a.events, b.events], [["join b", "leave b", "join b"], ["join a", "restored"]]);
});

Deno.test("Nodes declare no node gone because the broker was unreachable", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join({ name: "a" }), bench.join({ name: "b" })];
  await bench.pass(300);
  bench.store.goAway();
  await bench.pass(60_000);
  b.broker.cut();
  bench.store.comeBack();
  assertEquals(a.events, ["join b", "restored"]);
  // B died meanwhile: its time limit starts over, and then it is gone.
  await bench.pass(5_900);
  assertEquals(a.events, ["join b", "restored"]);
  await bench.pass(1_100);
  assertEquals(a.events, ["join b", "restored", "leave b"]);
});

Deno.test("Nodes declare a silent node gone while the store rejects writes", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join({ name: "a" }), bench.join({ name: "b" })];
  await bench.pass(60_500);
  const { status } = a.broker;
  (status as StatusFeed<BrokerStatus>).set({ name: "interrupted", since: 0, rejects: true });
  b.broker.cut();
  await bench.pass(7_000);
  assertEquals(a.events, ["join b", "leave b"]);
});

Deno.test("Nodes declare no node gone because this process was suspended", async () => {
  await using bench = new Bench();
  const [a] = [bench.join({ name: "a" }), bench.join({ name: "b" })];
  await bench.pass(500);
  // The clock advanced, and no timer ran.
  const { Date: Clock } = globalThis;
  globalThis.Date = class extends Clock {
    static override now = () => Clock.now() + 60_000;
  } as DateConstructor;
  try {
    await bench.pass(1_000);
    assert(a.events.includes("restored"));
    assert(!a.events.some((event) => event.startsWith("leave")));
  } finally {
    globalThis.Date = Clock;
  }
});

Deno.test("Nodes.isGone() is true only if the node is certainly gone", async () => {
  await using bench = new Bench();
  const a = bench.join({ name: "a" });
  await bench.pass(5_000);
  assert(!a.nodes.isGone("somebody"));
  await bench.pass(4_000);
  assert(a.nodes.isGone("somebody"));
  assert(!a.nodes.isGone(a.nodes.id));
  bench.store.goAway();
  await bench.pass(2_000);
  bench.store.comeBack();
  assert(!a.nodes.isGone("somebody"));
});

Deno.test("Nodes.isSilent() is true for a node that missed its last two heartbeats", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join()];
  await bench.pass(10_000);
  assert(!a.nodes.isSilent(b.nodes.id) && !a.nodes.isSilent("unknown"));
  b.broker.cut();
  await bench.pass(1_900);
  assert(!a.nodes.isSilent(b.nodes.id));
  await bench.pass(2_600);
  assert(a.nodes.isSilent(b.nodes.id) && a.nodes.has(b.nodes.id));
  b.broker.mend();
  await bench.pass(2_000);
  assert(!a.nodes.isSilent(b.nodes.id));
});

Deno.test("Nodes.tell() reaches one node or all, in order", async () => {
  await using bench = new Bench();
  const all = [bench.join(), bench.join(), bench.join()];
  await bench.pass(300);
  const heard: unknown[][] = [[], [], []];
  for (const [i, { nodes }] of all.entries()) {
    nodes.handle("say", (data, from) => void heard[i]!.push([data, from === all[0]!.nodes.id]));
  }
  all[0]!.nodes.tell(all[1]!.nodes.id, "say", 1);
  all[0]!.nodes.tell(undefined, "say", 2);
  all[0]!.nodes.tell(undefined, "unknown", 3);
  assertEquals(heard, [[], [[1, true], [2, true]], [[2, true]]]);
});

Deno.test("Nodes.ask() is incomplete on a node that may not know all others yet", async () => {
  await using bench = new Bench();
  const a = bench.join();
  await bench.pass(300);
  a.nodes.handle("q", () => "here");
  const b = bench.join();
  const asked = b.nodes.ask("q", undefined, { timeoutMs: 100 });
  await bench.pass(200);
  const replies = [{ node: a.nodes.id, data: "here" }];
  assertEquals(await asked, { replies, isComplete: false });
  await bench.pass(100);
  assertEquals(await b.nodes.ask("q"), { replies, isComplete: true });
});

Deno.test("Nodes.ask() resolves immediately on a single node", async () => {
  await using bench = new Bench();
  const { nodes } = bench.join();
  await bench.pass(300);
  assertEquals(await nodes.ask("q"), { replies: [], isComplete: true });
});

Deno.test("Nodes ignore and count invalid messages", async () => {
  await using bench = new Bench();
  const { nodes, events } = bench.join();
  await bench.pass(300);
  const node = "somebody";
  const bad = [
    new Uint8Array(3),
    "{",
    "null",
    "[]",
    "7",
    { type: "beat" },
    { node, type: "beat" },
    { node: 5, type: "beat", name: "" },
    { node: "", type: "beat", name: "" },
    { node, type: "here" },
    { node, type: "other" },
    { node, type: "tell", kind: 5 },
    { node, type: "ask", kind: "q", id: -1 },
    { node, type: "ask", kind: 1, id: 1 },
    { node, type: "answer", id: "x" },
  ];
  for (const payload of bad) {
    const isRaw = typeof payload === "string" || payload instanceof Uint8Array;
    bench.store.publish({
      topic: "$skein:nodes",
      payload: isRaw ? payload : JSON.stringify(payload),
    });
  }
  assertEquals({ ignored: nodes.ignored, events, nodes: nodes.size }, {
    ignored: bad.length,
    events: [],
    nodes: 0,
  });
});

Deno.test("Nodes know at most a thousand others", async () => {
  await using bench = new Bench();
  const { nodes } = bench.join();
  await bench.pass(300);
  let heard = 0;
  nodes.carry({ report: () => undefined, receive: () => void heard++ });
  for (let i = 0; i < 1_005; i++) {
    const beat = { node: `n${i}`, type: "beat", name: "", isHello: false };
    bench.store.publish({ topic: "$skein:nodes", payload: JSON.stringify(beat) });
  }
  assertEquals([nodes.size, nodes.ignored], [1_000, 5]);
  assertEquals(heard, 1_000);
});

Deno.test("Nodes survive a listener that throws, and a broker that was closed first", async () => {
  using time = new FakeTime();
  const broker = new MemoryBroker();
  const errors: unknown[] = [];
  const a = new Nodes({ broker, onError: (error) => errors.push(error) });
  a.subscribe(() => {
    throw new Error("listener");
  });
  const b = new Nodes({ broker });
  await time.tickAsync(300);
  assertEquals(errors.length, 1);
  await broker.close();
  await time.tickAsync(10_000);
  await a.close();
  await a.close();
  await b.close();
});

Deno.test("Nodes reject invalid times, and two handlers of a kind", async () => {
  await using bench = new Bench();
  const broker = bench.store.connect();
  for (const heartbeatMs of [0, 1, 1.5, NaN, Infinity]) {
    assertThrows(() => new Nodes({ broker, heartbeatMs }), RangeError, "heartbeatMs must be");
  }
  for (const goneAfterMs of [0, 2_000, 2.5, Infinity]) {
    assertThrows(() => new Nodes({ broker, goneAfterMs }), RangeError, "goneAfterMs must be");
  }
  const { nodes } = bench.join();
  const handling = nodes.handle("q", () => {});
  assertThrows(() => nodes.handle("q", () => {}), TypeError, 'there is a handler for "q" already');
  handling[Symbol.dispose]();
  nodes.handle("q", () => {});
  handling[Symbol.dispose]();
  assertThrows(() => nodes.handle("q", () => {}), TypeError, 'there is a handler for "q" already');
});

Deno.test("Nodes print a bounded number of errors of their listeners", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  using printed = captureConsole();
  await using nodes = new Nodes({ broker });
  nodes.subscribe(() => {
    throw new Error("listener");
  });
  for (let i = 0; i < 50; i++) {
    await using _other = new Nodes({ broker });
    await time.tickAsync(10);
  }
  assertEquals(printed.lines.length, 16);
});

Deno.test("Nodes take id, time and timers from the given runtime", async () => {
  await using broker = new MemoryBroker();
  const timers: number[] = [];
  const runtime: Runtime = Object.assign(platformRuntime(), {
    randomUUID: () => "one",
    now: () => 42,
    setTimeout(_callback: () => void, ms: number) {
      timers.push(ms);
      return 0 as unknown as Timer;
    },
  });
  await using one = new Nodes({ broker, runtime });
  await using _two = new Nodes({ broker });
  for (let i = 0; i < 20; i++) await Promise.resolve();
  assertEquals([one.id, one.others().map(({ lastSeenAt }) => lastSeenAt)], ["one", [42]]);
  assertEquals(timers.includes(1_000), true);
});

Deno.test("sayFarewell() removes a node that ended without a farewell", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join({ name: "a" }), bench.join({ name: "b" })];
  await bench.pass(300);
  b.broker.cut();
  sayFarewell(a.broker, b.nodes.id);
  await bench.pass(0);
  assertEquals([a.events, a.nodes.has(b.nodes.id)], [["join b", "leave b"], false]);
});

Deno.test("Nodes.carry() gives all nodes together one budget, and no node more than its own", async () => {
  const budgets: number[] = [];
  for (const count of [1, 5, 40]) {
    await using bench = new Bench();
    const [first] = Array.from({ length: count }, () => bench.join());
    first!.nodes.carry({ report: (maxBytes) => void budgets.push(maxBytes), receive() {} });
    await bench.pass(2_000);
  }
  // In a heartbeat of two seconds: 8 KiB a second each, and 64 KiB a second together.
  assertEquals(budgets.slice(-3).map((bytes) => Math.round(bytes)), [16_384, 16_384, 3_276]);
});

Deno.test("Nodes.carry() sends data with each heartbeat, until the node is gone", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join()];
  const heard: unknown[] = [];
  let data: unknown = [1];
  a.nodes.carry({
    report: () => undefined,
    receive: (node, data) => void heard.push([node === b.nodes.id, data]),
  });
  b.nodes.carry({ report: () => data, receive() {} });
  await bench.pass(1_000);
  assertEquals(heard.at(-1), [true, [1]]);
  heard.length = 0;
  for (const next of [[2], undefined, [3]]) {
    data = next;
    await bench.pass(2_000);
  }
  data = [4];
  b.nodes.beat();
  assertEquals(heard, [[true, [2]], [true, undefined], [true, [3]], [true, [4]]]);
  b.broker.cut();
  await bench.pass(7_000);
  assertEquals(heard.slice(4), [[true, undefined]]);
  b.broker.mend();
  await bench.pass(2_000);
  assertEquals(heard.at(-1), [true, [4]]);
  await b.nodes.close();
  assertEquals(heard.at(-1), [true, undefined]);
});
