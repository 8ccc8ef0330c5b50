import { assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { RequestError } from "../../mod.ts";
import { type Peer, Peers } from "../../pubsub/peers_fixture.ts";
import { EPHEMERAL_PREFIX } from "../../session/wire/rows.ts";
import { EphemeralFeed } from "./ephemeral_feed.ts";
import { EphemeralStates } from "./ephemeral_rows.ts";

const TOPIC = `${EPHEMERAL_PREFIX}board`;

/** Readers of the ephemeral rows of a board. */
class Bench implements AsyncDisposable {
  readonly time = new FakeTime();
  readonly peers = new Peers();
  readonly states = new EphemeralStates({
    runtime: platformRuntime(),
    quotas: new Quotas(platformRuntime()),
    nodes: undefined,
    graceMs: 0,
    isUsed: true,
    namesOf: (id) => new Set(id === "board" ? ["cursors"] : []),
  });
  readonly feed = new EphemeralFeed(TOPIC, this.states);

  set(key: string, value: unknown): void {
    const change = { type: "cursors", key, operation: "upsert", value: JSON.stringify(value) };
    this.states.get("board")!.write(this, change as never);
  }

  delete(key: string): void {
    this.states.get("board")!.write(this, { type: "cursors", key, operation: "delete" });
  }

  async read(options?: Parameters<Peers["connect"]>[0]): Promise<Peer> {
    const peer = await this.peers.connect(options);
    this.feed.admit(peer.session, {});
    // Each message waits until the one before has been sent.
    for (let i = 0; i < 20; i++) await this.peers.endTurn();
    return peer;
  }

  /** Lets a frame pass. Returns the keys and values that a reader has received. */
  async frame(peer: Peer): Promise<unknown[]> {
    await this.time.tickAsync(16);
    for (let i = 0; i < 20; i++) await this.peers.endTurn();
    return this.take(peer);
  }

  take(peer: Peer): unknown[] {
    return peer.take().map((message) => {
      const [, { rows, ...list }] = message as [string, { rows: unknown[][] }];
      const values = rows.map(([, key, , ...values]) => [key, ...values]);
      return Object.keys(list).length > 0 ? [values, list] : values;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peers[Symbol.asyncDispose]();
    this.states.close();
    this.time.restore();
  }
}

Deno.test("EphemeralFeed sends all rows first, and then the newest values, once per frame", async () => {
  await using bench = new Bench();
  bench.set("a", 1);
  const peer = await bench.read();
  assertEquals(bench.take(peer), [[[["a", 1]], { page: 0 }]]);
  for (let i = 2; i <= 9; i++) bench.set("a", i);
  bench.set("b", 1);
  assertEquals(await bench.frame(peer), [[["a", 9], ["b", 1]]]);
  assertEquals(await bench.frame(peer), []);
  // Several messages if the rows do not fit into one.
  const large = "x".repeat(4_000);
  for (let i = 0; i < 6; i++) bench.set(`${i}`, large);
  assertEquals((await bench.frame(peer)).map((rows) => (rows as unknown[]).length), [4, 2]);
  const late = await bench.read();
  const sizes = bench.take(late).map((message) => {
    const [rows, list] = message as [unknown[], object];
    return [rows.length, list];
  });
  assertEquals(sizes, [[6, { page: 0, more: true }], [2, { page: 1 }]]);
});

Deno.test("EphemeralFeed keeps only the newest values for a slow reader", async () => {
  await using bench = new Bench();
  const [slow, fast] = [await bench.read(), await bench.read()];
  assertEquals([bench.take(slow), bench.take(fast)], [[[[], { page: 0 }]], [[[], { page: 0 }]]]);
  slow.pair.link.stall("to-client");
  let received = 0;
  for (let i = 0; i < 200; i++) {
    bench.set("a", `${i} ${"x".repeat(2_000)}`);
    bench.set(`${i % 7}`, i);
    received += (await bench.frame(fast)).length;
  }
  assertEquals(received, 200);
  slow.pair.link.resume("to-client");
  const rest = (await bench.frame(slow)).length + (await bench.frame(slow)).length;
  // The connection had room for 64 KiB before the stall was noticed.
  assertEquals(rest < 50, true, `${rest} messages`);
  bench.set("a", "last");
  bench.set("b", "new");
  assertEquals(await bench.frame(slow), [[["a", "last"], ["b", "new"]]]);
});

Deno.test("EphemeralFeed sends a slow reader a new list instead of many deletions", async () => {
  await using bench = new Bench();
  const slow = await bench.read();
  assertEquals(bench.take(slow), [[[], { page: 0 }]]);
  slow.pair.link.stall("to-client");
  // The connection has room for 64 KiB.
  for (let i = 0; i < 20; i++) bench.set(`${i}`, "x".repeat(4_000));
  await bench.frame(slow);
  for (let i = 0; i < 3_000; i++) {
    bench.set(`new ${i}`, i);
    bench.delete(`new ${i}`);
  }
  await bench.frame(slow);
  slow.pair.link.resume("to-client");
  const received = [];
  for (let i = 0; i < 20; i++) received.push(...await bench.frame(slow));
  const deleted = received.flatMap((rows) =>
    (rows as unknown[][]).filter(({ length }) => length === 1)
  );
  assertEquals(deleted, []);
  const lists = received.filter((message) => JSON.stringify(message).includes('"page":0'));
  assertEquals(lists.length, 1);
});

Deno.test("EphemeralFeed keeps the session of a reader whose queue is small", async () => {
  await using bench = new Bench();
  const reader = await bench.read({ sendQueue: { maxBytes: 65_536 } });
  bench.take(reader);
  for (let i = 0; i < 100; i++) bench.set(`${i}`, "x".repeat(4_000));
  let rows = 0;
  for (let i = 0; i < 10; i++) rows += (await bench.frame(reader)).flat().length;
  assertEquals([reader.session.isClosed, rows], [false, 100]);
});

Deno.test("EphemeralFeed sends smaller messages to a client that accepts no larger ones", async () => {
  await using bench = new Bench();
  for (let i = 0; i < 8; i++) bench.set(`${i}`, "x".repeat(500));
  const small = await bench.read({ maxMessageBytes: 2_048 });
  assertEquals(bench.take(small).length > 4, true);
  for (let i = 0; i < 8; i++) bench.set(`${i}`, "y".repeat(500));
  assertEquals((await bench.frame(small)).length > 4, true);
});

Deno.test("EphemeralFeed needs a state with ephemeral rows", async () => {
  await using bench = new Bench();
  assertThrows(
    () => new EphemeralFeed(`${EPHEMERAL_PREFIX}other`, bench.states),
    RequestError,
    'The state "other" has no ephemeral rows',
  );
});
