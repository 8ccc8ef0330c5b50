import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { UnsupportedError } from "../../errors.ts";
import { Random } from "../../tests/random.ts";
import { type FaultyBroker, FaultyStore } from "../../tests/faulty_broker.ts";
import { Directory } from "./directory.ts";
import { Nodes } from "./nodes.ts";
import type { DirectoryScope, EntryBounds } from "./directory_scope.ts";

const read = (value: unknown) => typeof value === "string" ? value : undefined;

/** A node with a directory. */
class Node {
  readonly broker: FaultyBroker;
  readonly nodes: Nodes;
  readonly directory: Directory<string>;
  /** State of the listeners, from their changes. */
  readonly told = new Map<string, Map<string, string>>();
  readonly changes: string[] = [];

  constructor(store: FaultyStore, readonly label: string, bounds?: EntryBounds) {
    this.broker = store.connect();
    this.nodes = new Nodes({ broker: this.broker, name: label });
    this.directory = new Directory({ nodes: this.nodes, name: "test", read, bounds });
  }

  open(name: string): DirectoryScope<string> {
    const known = new Map<string, string>();
    this.told.set(name, known);
    return this.directory.open(name, ({ node, key, value, isSwept }) => {
      const at = `${node} ${key}`;
      if (value === undefined) assert(known.delete(at));
      else known.set(at, value);
      this.changes.push(`${key}=${value}${isSwept ? " swept" : ""}`);
    });
  }

  async close(): Promise<void> {
    this.directory[Symbol.dispose]();
    await this.nodes.close();
  }
}

/** Nodes of one store, at a fake time. */
class Bench implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly store: FaultyStore;
  readonly all: Node[] = [];
  /** Bounds of the nodes that join from now on. */
  bounds: EntryBounds | undefined;

  constructor(random?: Random) {
    this.store = new FaultyStore({ random });
  }

  /** Starts nodes that know one another. */
  async join(...labels: string[]): Promise<Node[]> {
    const joined = labels.map((label) => new Node(this.store, label, this.bounds));
    this.all.push(...joined);
    await this.pass(300);
    return joined;
  }

  async pass(ms: number): Promise<void> {
    await this.time.tickAsync(ms);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.all) await node.close();
    this.time.restore();
  }
}

function keysOf(scope: DirectoryScope<string>): string[] {
  return Array.from(scope.entries(), ({ key, value }) => `${key}=${value}`).sort();
}

Deno.test("Directory publishes the entries of each node, in batches reduced to their net effect", async () => {
  await using bench = new Bench();
  const [a, b] = await bench.join("a", "b");
  const [scopeA, scopeB] = [a!.open("s"), b!.open("s")];
  await bench.pass(100);
  assert(scopeA.isReady && scopeB.isReady);
  const before = bench.store.publications;
  scopeA.set("x", "1");
  scopeA.set("x", "2");
  scopeA.set("y", "1");
  scopeA.set("gone", "1");
  scopeA.delete("gone");
  scopeA.delete("never");
  await bench.pass(49);
  assertEquals(b!.changes, []);
  await bench.pass(1);
  assertEquals(b!.changes, ["x=2", "y=1"]);
  assertEquals(bench.store.publications, before + 1);
  scopeA.delete("x");
  scopeB.set("x", "b");
  await bench.pass(50);
  assertEquals(keysOf(scopeA), ["x=b", "y=1"]);
  assertEquals([...scopeB.entries()], [
    { node: b!.nodes.id, key: "x", value: "b" },
    { node: a!.nodes.id, key: "y", value: "1" },
  ]);
});

Deno.test("Directory sends the existing entries to a node that opens a scope later, in pages", async () => {
  await using bench = new Bench();
  const [a, b] = await bench.join("a", "b");
  const scopeA = a!.open("s");
  for (let i = 0; i < 5_000; i++) scopeA.set(`key ${i}`, "x".repeat(50));
  await bench.pass(100);
  const scopeB = b!.open("s");
  await bench.pass(60);
  await scopeB.ready;
  assertEquals([...scopeB.entries()].length, 5_000);
  // And a new node.
  const [c] = await bench.join("c");
  const scopeC = c!.open("s");
  await bench.pass(60);
  await scopeC.ready;
  assertEquals(keysOf(scopeC), keysOf(scopeA));
});

Deno.test("Directory of one node is ready immediately, and publishes nothing", async () => {
  await using bench = new Bench();
  const [a] = await bench.join("a");
  const scope = a!.open("s");
  assert(scope.isReady);
  const { publications } = bench.store;
  scope.set("x", "1");
  await bench.pass(100);
  assertEquals(bench.store.publications, publications);
  assertEquals(keysOf(scope), ["x=1"]);
  const [b] = await bench.join("b");
  const there = b!.open("s");
  await bench.pass(100);
  assertEquals(keysOf(there), ["x=1"]);
  scope.set("y", "1");
  await bench.pass(100);
  assertEquals(keysOf(there), ["x=1", "y=1"]);
});

Deno.test("Directory removes the entries of a node that closes the scope, leaves or dies", async () => {
  await using bench = new Bench();
  const [a, b, c, d] = await bench.join("a", "b", "c", "d");
  const scopes = [a!, b!, c!, d!].map((node) => node.open("s"));
  for (const [i, scope] of scopes.entries()) scope.set(`k${i}`, "1");
  await bench.pass(100);
  assertEquals(keysOf(scopes[0]!), ["k0=1", "k1=1", "k2=1", "k3=1"]);
  a!.changes.length = 0;
  scopes[1]![Symbol.dispose]();
  scopes[1]!.set("late", "1");
  assertEquals(a!.changes, ["k1=undefined"]);
  await c!.close();
  assertEquals(a!.changes, ["k1=undefined", "k2=undefined swept"]);
  d!.broker.cut();
  await bench.pass(7_000);
  assertEquals(a!.changes, ["k1=undefined", "k2=undefined swept", "k3=undefined swept"]);
  assertEquals(keysOf(scopes[0]!), ["k0=1"]);
  // A scope that is opened again starts over.
  const again = b!.open("s");
  again.set("k1", "2");
  await bench.pass(100);
  assertEquals(keysOf(scopes[0]!), ["k0=1", "k1=2"]);
  assertEquals(keysOf(again), ["k0=1", "k1=2"]);
});

Deno.test("Directory removes entries that a late check received before any change", async () => {
  await using bench = new Bench();
  const [a, b] = await bench.join("a", "b");
  const there = b!.open("s");
  await bench.pass(100);
  const here = a!.open("s");
  here.set("x", "1");
  // The number belongs to an earlier opening of the scope.
  const check = { id: 1, scopes: [["s", 7]], isSure: false };
  b!.nodes.tell(a!.nodes.id, "test:check", check);
  await bench.pass(10);
  assertEquals(keysOf(there), ["x=1"]);
  here[Symbol.dispose]();
  await bench.pass(10);
  assertEquals(keysOf(there), []);
});

Deno.test("Directory does not publish scopes that no other node has open", async () => {
  await using bench = new Bench();
  const [a, b] = await bench.join("a", "b");
  const scope = a!.open("s");
  b!.open("other");
  scope.set("x", "1");
  await bench.pass(100);
  assertEquals([b!.changes, b!.broker.topics.includes("$skein:test:s")], [[], false]);
  scope[Symbol.dispose]();
  assertEquals([a!.directory.size, a!.broker.topics.includes("$skein:test:s")], [0, false]);
});

Deno.test("Directory does not repeat entries in flight", async () => {
  await using bench = new Bench();
  const [a, b] = await bench.join("a", "b");
  const [scopeA, scopeB] = [a!.open("s"), b!.open("s")];
  for (let i = 0; i < 1_000; i++) scopeA.set(`key ${i}`, "1");
  await bench.pass(100);
  const before = bench.store.bytes;
  bench.store.delayMs = 120;
  for (let i = 0; i < 300; i++) {
    scopeA.set(`key ${i}`, "2");
    await bench.pass(37);
  }
  await bench.pass(300);
  assertEquals(keysOf(scopeB), keysOf(scopeA));
  // Each change once, and little for heartbeats and checks.
  assert(bench.store.bytes - before < 60_000, `${bench.store.bytes - before} bytes`);
});

Deno.test("Directory.open() does not wait forever for a node that does not reply", async () => {
  await using bench = new Bench();
  const [a, b] = await bench.join("a", "b");
  b!.broker.cut();
  const scope = a!.open("s");
  await bench.pass(999);
  assert(!scope.isReady);
  await bench.pass(1);
  assert(scope.isReady);
  await scope.ready;
});

Deno.test("Directory.open() during an outage queries all nodes once the broker is reachable", async () => {
  await using bench = new Bench();
  const [a, b] = await bench.join("a", "b", "c");
  b!.open("s").set("x", "1");
  await bench.pass(100);
  bench.store.goAway();
  const scope = a!.open("s");
  await bench.pass(300);
  assert(!scope.isReady);
  bench.store.comeBack();
  await bench.pass(10);
  assert(scope.isReady);
  assertEquals(keysOf(scope), ["x=1"]);
});

Deno.test("Directory.open() waits for all nodes, also during a check of one of them", async () => {
  await using bench = new Bench();
  const [a, b, c] = await bench.join("a", "b", "c");
  const [checked] = a!.nodes.others();
  (checked!.id === b!.nodes.id ? c! : b!).broker.cut();
  await bench.pass(1_500);
  const scope = a!.open("s");
  // The check is sent 2 s after the start.
  await bench.pass(999);
  assert(!scope.isReady);
  await bench.pass(1);
  assert(scope.isReady);
});

Deno.test("Directory ignores and counts invalid messages", async () => {
  await using bench = new Bench();
  const [a, b] = await bench.join("a", "b");
  const scope = a!.open("s");
  await bench.pass(100);
  const node = b!.nodes.id;
  const deltas: unknown[] = [
    "{",
    7,
    { node, n: 1 },
    { node, n: 1, prev: 1 },
    { node, n: 2, prev: 0, set: "x" },
    { node, n: 2, prev: 0, set: [["x"]] },
    { node, n: 2, prev: 0, del: [5] },
    { node, n: 2, prev: 0, isLast: 1 },
    { node: "stranger", n: 2, prev: 0, set: [["x", "1"]] },
    // The value does not belong to this directory.
    { node, n: 2, prev: 0, set: [["x", 5]] },
  ];
  for (const delta of deltas) {
    const payload = typeof delta === "string" ? delta : JSON.stringify(delta);
    bench.store.publish({ topic: "$skein:test:s", payload });
  }
  const told: [string, unknown][] = [
    ["page", 5],
    ["page", { scope: 5 }],
    ["page", { scope: "s", n: 1, page: 0, pages: 1, entries: [[1, 2]] }],
    ["check", null],
    ["check", { id: 1, scopes: [["s"]], isSure: true }],
    ["check", { id: 1, scopes: [] }],
  ];
  for (const [kind, data] of told) b!.nodes.tell(a!.nodes.id, `test:${kind}`, data);
  b!.nodes.tell(a!.nodes.id, "test:done", "x");
  assertEquals(a!.directory.ignored, deltas.length + told.length);
  assertEquals(keysOf(scope), []);
});

Deno.test("Directory rejects invalid options", async () => {
  await using bench = new Bench();
  const [a] = await bench.join("a");
  const { nodes, directory } = a!;
  for (const option of ["batchMs", "checkMs", "openMs"]) {
    assertThrows(
      () => new Directory({ nodes, name: "x", read, [option]: 0 }),
      RangeError,
      `${option} must be a positive integer`,
    );
  }
  assertThrows(() => new Directory({ nodes, name: "test", read }), TypeError, "already");
  directory.open("s");
  assertThrows(() => directory.open("s"), TypeError, 'the scope "s" is open already');
  directory[Symbol.dispose]();
  assertThrows(() => directory.open("t"), UnsupportedError);
});

/** Expected state of a node's scope: the entries of all nodes with the scope open. */
function truth(
  open: ReadonlyMap<string, Map<Node, DirectoryScope<string>>>,
  name: string,
  all: Node[],
) {
  return [...open.get(name) ?? []].filter(([node]) => all.includes(node)).flatMap(([node, scope]) =>
    [...scope.entries()].filter((entry) => entry.node === node.nodes.id)
      .map(({ key, value }) => `${node.nodes.id} ${key} ${value}`)
  ).sort();
}

Deno.test("Directory converges after any loss, duplicate or delay, and any dead node", async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = new Random(seed);
    await using bench = new Bench(random);
    let alive = await bench.join("a", "b", "c");
    const names = ["s", "t", "u"];
    const open = new Map(names.map((name) => [name, new Map<Node, DirectoryScope<string>>()]));
    bench.store.faults = { lost: 60, repeated: 60, late: 120, lateMs: 400 };
    for (let step = 0; step < 400; step++) {
      const node = random.pick(alive);
      const scopes = open.get(random.pick(names))!;
      const scope = scopes.get(node);
      const kind = random.below(100);
      if (kind < 8 && scope !== undefined) {
        scope[Symbol.dispose]();
        scopes.delete(node);
        node.told.delete(scope.name);
      } else if (kind < 60) {
        const opened = scope ?? node.open([...open].find(([, held]) => held === scopes)![0]);
        scopes.set(node, opened);
        opened.set(`k${random.below(20)}`, `${step}`);
      } else if (kind < 90) scope?.delete(`k${random.below(20)}`);
      else if (kind < 92 && alive.length > 1) {
        alive = alive.filter((other) => other !== node);
        if (random.below(2) === 0) await node.close();
        else node.broker.cut();
      } else if (kind < 94 && alive.length < 5) alive.push(...await bench.join(`n${step}`));
      else if (kind === 94) {
        bench.store.goAway();
        await bench.pass(random.below(12_000));
        bench.store.comeBack();
      } else if (kind === 95) {
        node.broker.cut();
        await bench.pass(random.below(12_000));
        node.broker.mend();
      } else await bench.pass(random.below(300));
    }
    bench.store.faults = {};
    // Dead nodes are gone, and every node has been checked.
    await bench.pass(30_000);
    for (const [name, scopes] of open) {
      for (const [node, scope] of scopes) {
        if (!alive.includes(node)) continue;
        const seen = Array.from(scope.entries(), (e) => `${e.node} ${e.key} ${e.value}`).sort();
        const expected = truth(open, name, alive);
        assertEquals(seen, expected, `seed ${seed}, scope ${name}, node ${node.label}`);
        const others = expected.filter((entry) => !entry.startsWith(node.nodes.id));
        const told = Array.from(node.told.get(name)!, ([at, value]) => `${at} ${value}`).sort();
        assertEquals(told, others, `the listener's entries: seed ${seed}, scope ${name}`);
      }
    }
  }
});

Deno.test("DirectoryScope.isComplete is true once every node has replied, until messages are missed", async () => {
  await using bench = new Bench();
  const [a, b] = await bench.join("a", "b");
  const scope = a!.open("s");
  b!.open("s").set("x", "1");
  assertEquals(scope.isComplete, false);
  await bench.pass(100);
  assertEquals([scope.isComplete, keysOf(scope)], [true, ["x=1"]]);
  const [c] = await bench.join("c");
  await bench.pass(100);
  assertEquals([scope.isComplete, c!.open("other").isComplete], [true, false]);
  // A node that can't reach the broker can't know.
  a!.broker.cut();
  await bench.pass(5_000);
  assertEquals(scope.isComplete, false);
  a!.broker.mend();
  await bench.pass(3_000);
  assertEquals(scope.isComplete, true);
  // Nor one that missed messages, until the others have replied.
  c!.broker.cut();
  a!.broker.interrupt();
  assertEquals(scope.isComplete, false);
  c!.broker.mend();
  await bench.pass(4_000);
  assertEquals(scope.isComplete, true);
  await c!.close();
  await bench.pass(100);
  assertEquals(scope.isComplete, true);
});

Deno.test("Directory leaves out entries beyond its bounds, says so, and takes them once there is room", async () => {
  await using bench = new Bench();
  const [b, c] = await bench.join("b", "c");
  bench.bounds = { each: 10, all: 15 };
  const [a] = await bench.join("a");
  const [copy, twelve, seven] = [a!.open("s"), b!.open("s"), c!.open("s")];
  const keys = Array.from({ length: 12 }, (_, i) => `k${i}`);
  for (const key of keys) twelve.set(key, "b");
  await bench.pass(100);
  assertEquals([keysOf(copy).length, copy.isComplete, seven.isComplete], [10, false, true]);
  for (const key of keys.slice(0, 7)) seven.set(key, "c");
  await bench.pass(100);
  assertEquals([keysOf(copy).length, copy.isComplete], [15, false]);
  twelve.delete("k0");
  await bench.pass(8_000);
  assertEquals([keysOf(copy).length, copy.isComplete], [14, false]);
  for (const key of keys.slice(1, 4)) twelve.delete(key);
  await bench.pass(8_000);
  assertEquals([keysOf(copy), copy.isComplete], [keysOf(seven), true]);
  // Also when all entries arrive in pages.
  for (const key of keys.slice(0, 4)) twelve.set(key, "b");
  await bench.pass(100);
  const [late] = await bench.join("late");
  const paged = late!.open("s");
  await bench.pass(100);
  assertEquals([keysOf(paged).length, paged.isComplete], [15, false]);
});

Deno.test("Directory checks all scopes after an outage within a budget, and until all are complete", async () => {
  await using bench = new Bench();
  const all = await bench.join("a", "b", "c");
  const names = Array.from({ length: 3_000 }, (_, i) => `${i}`.padEnd(250, "x"));
  const scopes = all.map((node) => names.map((name) => node.open(name)));
  await bench.pass(3_000);
  const broker = bench.store.connect();
  let bytes = 0;
  for (const { nodes } of all) {
    broker.subscribe(`$skein:node:${nodes.id}`, ({ payload }) => void (bytes += payload.length));
  }
  // Each node missed a change that another one made meanwhile.
  for (const node of all) node.broker.cut();
  for (const [i, one] of scopes.entries()) one[i]!.set("key", "missed");
  await bench.pass(100);
  for (const node of all) node.broker.mend();
  bytes = 0;
  for (const node of all) node.broker.interrupt();
  const each: number[] = [];
  for (let second = 0; second < 6; second++) {
    await bench.pass(1_000);
    each.push(bytes);
    bytes = 0;
  }
  // Names of 250 bytes, with two nodes each, are 5 MB.
  assert(each.reduce((sum, one) => sum + one) > 4_500_000);
  // The saved budget of a second, the budget of a second, and one check of each node more.
  assert(Math.max(...each) < 2 * 2_097_152 + 3 * 55_000);
  assert(scopes.flat().every(({ isComplete }) => isComplete));
  for (const one of scopes) {
    for (const i of scopes.keys()) assertEquals(keysOf(one[i]!), ["key=missed"]);
  }
});
