/** Several pages of one device that keep their calls in one store. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type Client, type ClientOptions, guest, RequestError, type ServeOptions } from "../mod.ts";
import { keptIn, type OutboxDrop, type Store, StoreError } from "../client/store/mod.ts";
import { liveState } from "../streams/mod.ts";
import { TestDisk } from "../client/store/test_disk_fixture.ts";
import { type TestServer, testServer } from "../testing/mod.ts";
import { ProducingPeer } from "./peers/producing_peer.ts";
import { entriesOn, recording } from "./peers/recording.ts";
import { passTime, turns } from "./waiting.ts";

/** A page, and whether it is there. */
interface Tab {
  readonly client: Client;
  /** Ends the page without a warning. */
  kill(): Promise<void>;
}

/** A device whose pages share a store. A killed page writes nothing more. */
class Device {
  readonly disk: TestDisk = new TestDisk();
  readonly drops: OutboxDrop[] = [];
  readonly server: TestServer;
  readonly #time: FakeTime;

  constructor(server: TestServer, time: FakeTime) {
    this.server = server;
    this.#time = time;
  }

  async open(options: ClientOptions & { readonly user?: string | null } = {}): Promise<Tab> {
    const { user = null, ...rest } = options;
    const store = this.disk.open();
    let isDead = false;
    const call = <T>(run: () => Promise<T>) => isDead ? new Promise<T>(() => {}) : run();
    const killable: Store = {
      name: store.name,
      read: (...args) => call(() => store.read(...args)),
      write: (batch) => call(() => store.write(batch)),
      delete: (range) => call(() => store.delete(range)),
      close: () => call(() => store.close()),
    };
    const client = this.server.connect({
      store: keptIn(killable, { user }),
      outbox: { onDropped: (drop) => this.drops.push(drop) },
      onError() {},
      ...rest,
    });
    client.status.subscribe(() => {});
    await this.pass();
    return {
      client,
      kill: async () => {
        isDead = true;
        if (client.session) this.server.network.linkOf(client).disconnect();
        const closed = client.close();
        await this.pass(5_000);
        await closed;
      },
    };
  }

  /** Lets time pass, and locks change hands, which takes real turns of the event loop. */
  async pass(ms = 100): Promise<void> {
    for (let i = 0; i < 5; i++) {
      await passTime(this.#time, ms / 5);
      await turns(20);
    }
  }

  get entries(): number {
    return entriesOn(this.disk);
  }
}

Deno.test("Of three tabs, the one that stays sends what two killed ones have left, once and in order", async () => {
  using time = new FakeTime();
  const { server, seen } = recording({ onPublish: ({ data }) => void seen.push(data) });
  await using _server = server;
  const device = new Device(server, time);
  const [a, b, c] = [await device.open(), await device.open(), await device.open()] as [
    Tab,
    Tab,
    Tab,
  ];
  // Half of what the first two send is acknowledged; then replies are lost, and then everything.
  for (const [name, { client }] of Object.entries({ a, b })) {
    for (let i = 0; i < 10; i++) client.send("t", `${name}${i}`);
    await client.flushed();
    server.network.linkOf(client).stall("to-client");
    for (let i = 10; i < 20; i++) {
      if (i % 2 === 0) client.send("t", `${name}${i}`);
      else client.publish("p", `${name}${i}`).catch(() => {});
    }
    await device.pass();
    server.network.linkOf(client).stall("to-server");
    for (let i = 20; i < 30; i++) client.send("t", `${name}${i}`);
    await client.flushed({ to: "store" });
  }
  c.client.send("t", "c0");
  await Promise.all([a.kill(), b.kill()]);
  await device.pass(15_000);
  await c.client.flushed();
  for (const name of ["a", "b"]) {
    const own = seen.filter((data) => `${data}`.startsWith(name));
    assertEquals(own, Array.from({ length: 30 }, (_, i) => `${name}${i}`));
  }
  assertEquals(seen.filter((data) => data === "c0").length, 1);
  assertEquals([device.entries, device.drops], [0, []]);
  await c.kill();
});

Deno.test("A page sends nothing of a tab that is open", async () => {
  using time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const device = new Device(server, time);
  await using away = testServer() as TestServer;
  away.network.down();
  const open = await Object.assign(new Device(away, time), { disk: device.disk }).open();
  open.client.send("t", 1);
  const other = await device.open();
  other.client.send("t", 2);
  await device.pass(60_000);
  assertEquals(seen, [2]);
  // It is sent at once when the tab is gone.
  await open.kill();
  await device.pass();
  assertEquals(seen, [2, 1]);
  await other.kill();
});

Deno.test("A tab that closes while it looks for closed ones reports no error", async () => {
  using time = new FakeTime();
  const { server } = recording();
  await using _server = server;
  server.network.down();
  const device = new Device(server, time);
  const errors: unknown[] = [];
  const other = await device.open();
  other.client.send("t", 1);
  const page = await device.open({
    onError: (error) => error instanceof StoreError && errors.push(error),
  });
  const gate = Promise.withResolvers<void>();
  let reads = 0;
  device.disk.onOperation = ({ kind }) => kind === "read" && ++reads && gate.promise;
  await device.pass(10_000);
  assert(reads > 0);
  const closed = page.client.close();
  await device.pass();
  gate.resolve();
  await device.pass();
  await Promise.all([closed, page.client.closed]);
  assertEquals([errors, device.disk.openStores], [[], 1]);
  await other.kill();
});

Deno.test("Two tabs that race for a closed one's calls send each once", async () => {
  using time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const device = new Device(server, time);
  server.network.down();
  const tabs = await Promise.all([device.open(), device.open(), device.open()]);
  const [first, ...others] = tabs as [Tab, Tab, Tab];
  for (let i = 0; i < 5; i++) first.client.send("t", i);
  await first.client.flushed({ to: "store" });
  await first.kill();
  server.network.up();
  for (const { client } of others) client.retryNow();
  await device.pass(15_000);
  assertEquals(seen, [0, 1, 2, 3, 4]);
  assertEquals(device.entries, 0);
  for (const { kill } of others) await kill();
});

Deno.test("A guest's calls are adopted by a guest, and never by a user; a user's only by this user", async () => {
  using time = new FakeTime();
  const { server, seen } = recording({
    authenticate: ({ token }) => token ?? guest,
    userOf: (name: unknown) => name as string,
    onMessage: ({ data }, session) => void seen.push([session.user?.slice(0, 5), data]),
  } as ServeOptions);
  await using _server = server;
  // Both users share a store by mistake; the server tells them apart.
  const device = new Device(server, time);
  server.network.down();
  const closed = [await device.open(), await device.open({ user: "ann", token: "ann" })];
  for (const [i, { client, kill }] of closed.entries()) {
    client.send("t", i);
    await client.flushed({ to: "store" });
    await kill();
  }
  server.network.up();
  const bob = await device.open({ user: null, token: "bob" });
  await device.pass(15_000);
  assertEquals(seen, []);
  await bob.kill();
  const next = await device.open();
  await device.pass(15_000);
  assertEquals(seen[0], ["guest", 0]);
  await next.kill();
});

Deno.test("What a server has forgotten is unknown after an adoption, and the rest is sent", async () => {
  using time = new FakeTime();
  const { server, seen } = recording();
  const device = new Device(server, time);
  const lost = await device.open();
  server.network.linkOf(lost.client).stall("to-client");
  lost.client.send("t", 1);
  await device.pass();
  server.network.linkOf(lost.client).disconnect();
  server.network.down();
  lost.client.send("t", 2);
  await lost.client.flushed({ to: "store" });
  await lost.kill();
  assertEquals(seen, [1]);
  await server[Symbol.asyncDispose]();
  const again = recording();
  await using _again = again.server;
  const after = new Device(again.server, time);
  Object.assign(after, { disk: device.disk });
  const next = await after.open();
  await after.pass(15_000);
  assertEquals(again.seen, [2]);
  assertEquals(after.drops.map(({ data, reason }) => [data, reason]), [[1, "unknown"]]);
  await next.kill();
});

Deno.test("A page whose producer was taken over tells its callers, and goes on as another one", async () => {
  using time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const device = new Device(server, time);
  const { client, kill } = await device.open();
  client.send("t", 1);
  await client.flushed();
  server.network.down();
  server.network.disconnect();
  client.send("t", 2);
  const published = client.publish("p", 3);
  await client.flushed({ to: "store" });
  // A copy of the store, on another device, is faster.
  const { key } = device.disk.entries.find(({ key }) => key[1] === 1)!;
  const name = new TextDecoder().decode(key.subarray(4));
  server.network.up();
  using copy = await ProducingPeer.open(server);
  assertEquals(await copy.introduce(name, { acked: 1, sent: 1, epoch: 7 }), 1);
  client.retryNow();
  const rejected = assertRejects(() => published, RequestError);
  await device.pass(2_000);
  assertEquals((await rejected).failure.code, "unknown");
  assertEquals(device.drops.map(({ data, reason }) => [data, reason]), [[2, "unknown"]]);
  client.send("t", 4);
  await client.flushed();
  await device.pass();
  assertEquals([seen, device.entries], [[1, 4], 0]);
  await kill();
});

Deno.test("Client.forget() empties the store, and what all tabs have to send", async () => {
  using time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const device = new Device(server, time);
  server.network.down();
  const [closed, one, two] = [await device.open(), await device.open(), await device.open()] as [
    Tab,
    Tab,
    Tab,
  ];
  const published = [one, two].map(({ client }, i) => {
    client.send("t", i);
    return client.publish("p", i);
  });
  closed.client.send("t", "closed");
  for (const { client } of [closed, one, two]) await client.flushed({ to: "store" });
  await closed.kill();
  const outcomes = Promise.allSettled(published);
  await device.pass();
  const forgotten = one.client.forget();
  await device.pass(1_000);
  await forgotten;
  for (const outcome of await outcomes) {
    assert(outcome.status === "rejected" && outcome.reason.failure.code === "cancelled");
  }
  assertEquals(device.disk.entries, []);
  assertEquals([one.client.outbox.messages, two.client.outbox.messages], [0, 0]);
  server.network.up();
  for (const { client } of [one, two]) client.retryNow();
  await device.pass(15_000);
  assertEquals(seen, []);
  // Later calls are kept again.
  for (const { client } of [one, two]) client.send("t", "later");
  await Promise.all([one.client.flushed(), two.client.flushed()]);
  assertEquals([seen, device.drops], [["later", "later"], []]);
  await one.kill();
  await two.kill();
});

Deno.test("Client.forget() in the middle of sends leaves nothing behind", async () => {
  using time = new FakeTime();
  const { server, seen } = recording({ onMessage: async () => await turns(3) });
  await using _server = server;
  const device = new Device(server, time);
  const [one, two] = [await device.open(), await device.open()] as [Tab, Tab];
  for (let i = 0; i < 200; i++) {
    one.client.send("t", i);
    two.client.send("t", i);
    if (i % 20 === 0) await turns(2);
  }
  const forgotten = one.client.forget();
  await device.pass(5_000);
  await forgotten;
  assertEquals(device.entries, 0);
  for (const { client } of [one, two]) {
    assertEquals(client.outbox.messages, 0);
    client.send("t", "later");
    await client.flushed();
  }
  assertEquals(device.drops, []);
  assertEquals(seen.length, 0);
  await one.kill();
  await two.kill();
});

Deno.test("A page without a connection shows what a closed tab has changed since", async () => {
  using time = new FakeTime();
  const states = liveState();
  const { server } = recording({ features: [states] });
  await using _server = server;
  await using board = await states.open("board");
  const device = new Device(server, time);
  const [one, two] = [await device.open(), await device.open()] as [Tab, Tab];
  const [mine, other] = await Promise.all(
    [one, two].map(async ({ client }) => {
      const state = await client.state("board", { store: true });
      return state.collection<number>("cards");
    }),
  );
  await device.pass(20_000);
  server.network.down();
  await device.pass(10_000);
  mine!.set("a", 1).catch(() => {});
  await one.client.flushed({ to: "store" });
  await device.pass(60_000);
  assertEquals(other!.get("a"), undefined);
  await one.kill();
  assertEquals(other!.get("a"), 1);
  server.network.up();
  await device.pass(60_000);
  assertEquals(board.collection("cards").get("a"), 1);
  await two.kill();
});

Deno.test("Client.forget() deletes the rows of states that other tabs have open", async () => {
  using time = new FakeTime();
  const states = liveState();
  const { server } = recording({ features: [states] });
  await using _server = server;
  await using board = await states.open("board");
  const device = new Device(server, time);
  const [one, two] = [await device.open(), await device.open()] as [Tab, Tab];
  for (const { client } of [one, two]) {
    const state = await client.state("board", { store: true });
    await state.collection("cards").set("a", 1);
  }
  await device.pass(20_000);
  assert(device.disk.entries.some(({ key }) => key[1] === 4));
  const forgotten = one.client.forget();
  await device.pass(1_000);
  await forgotten;
  assertEquals(device.disk.entries, []);
  await board.collection("cards").set("b", 2);
  await device.pass(120_000);
  assertEquals(device.entries, 0);
  await one.kill();
  await two.kill();
});

Deno.test("Without locks, a page adopts nothing before it is too old", async () => {
  using time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const locks = Object.getOwnPropertyDescriptor(Navigator.prototype, "locks")!;
  Object.defineProperty(Navigator.prototype, "locks", { ...locks, get: () => undefined });
  try {
    const device = new Device(server, time);
    server.network.down();
    const closed = await device.open();
    closed.client.send("t", 1);
    await closed.client.flushed({ to: "store" });
    await closed.kill();
    server.network.up();
    const next = await device.open();
    await device.pass(60_000);
    assertEquals([seen, device.entries > 0], [[], true]);
    await next.kill();
    await time.tickAsync(605_000_000);
    const late = await device.open();
    await device.pass(15_000);
    assertEquals(seen, []);
    assertEquals(device.drops.map(({ data, reason }) => [data, reason]), [[1, "expired"]]);
    await late.kill();
  } finally {
    Object.defineProperty(Navigator.prototype, "locks", locks);
  }
});
