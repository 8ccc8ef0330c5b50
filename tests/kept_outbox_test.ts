/** Messages, publications and requests that a client keeps in a store, over reloads. */
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type Client, type ClientOptions, type ServeOptions, SessionClosedError } from "../mod.ts";
import { keptIn, type OutboxDrop, StoreError } from "../client/store/mod.ts";
import { TestDisk } from "../client/store/test_disk_fixture.ts";
import type { TestServer } from "../testing/mod.ts";
import { entriesOn, recording } from "./peers/recording.ts";
import { passTime, turns } from "./waiting.ts";

/** A device with a store, on which pages of a user open one after another. */
class Device {
  readonly disk = new TestDisk();
  readonly drops: OutboxDrop[] = [];
  readonly server: TestServer;

  constructor(server: TestServer) {
    this.server = server;
  }

  /** Opens a page. */
  open(options: ClientOptions & { readonly user?: string | null } = {}): Client {
    const { user = null, ...rest } = options;
    const client = this.server.connect({
      store: keptIn(this.disk.open(), { user }),
      outbox: { onDropped: (drop) => this.drops.push(drop) },
      ...rest,
    });
    client.status.subscribe(() => {});
    return client;
  }

  /** Ends a page without a warning. */
  async kill(page: Client, time: FakeTime): Promise<void> {
    if (page.session) this.server.network.linkOf(page).disconnect();
    this.disk.kill();
    const closed = page.close();
    await time.tickAsync(2_000);
    await closed;
  }

  get entries(): number {
    return entriesOn(this.disk);
  }
}

Deno.test("A message of a page that was killed offline is sent by the next page, in order", async () => {
  using time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const device = new Device(server);
  server.network.down();
  for (const data of [1, 2, 3]) {
    const page = device.open();
    page.send("t", data);
    page.send("t", data + 0.5);
    assertEquals(await page.flushed({ to: "store" }), "relaxed");
    await device.kill(page, time);
  }
  server.network.up();
  await using page = device.open();
  page.send("t", 4);
  await page.flushed();
  assertEquals(seen, [1, 1.5, 2, 2.5, 3, 3.5, 4]);
  await turns(20);
  assertEquals([device.entries, device.drops], [0, []]);
});

Deno.test("A client that is closed leaves what waits in its store, and reports no error", async () => {
  using _time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const device = new Device(server);
  server.network.down();
  const errors: unknown[] = [];
  const page = device.open({ onError: (error) => void errors.push(error) });
  const calls = [page.publish("t", 1), page.request("t", 2, { retry: true })];
  assertEquals(await page.flushed({ to: "store" }), "relaxed");
  const closing = page.close();
  for (const call of calls) await assertRejects(() => call, SessionClosedError);
  await closing;
  await turns(20);
  assertEquals(errors.filter((error) => error instanceof StoreError), []);
  server.network.up();
  await using next = device.open();
  await next.flushed();
  assertEquals([seen, device.drops], [[2], []]); // The server publishes the first.
});

Deno.test("A message whose acknowledgment a killed page didn't receive is handled once", async () => {
  using time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const device = new Device(server);
  const page = device.open();
  await page.whenConnected();
  await turns(20);
  server.network.linkOf(page).stall("to-client");
  for (let data = 1; data <= 100; data++) page.send("t", data);
  await turns(100);
  assertEquals(seen.length, 100);
  await device.kill(page, time);
  await using next = device.open();
  next.send("t", 101);
  await next.flushed();
  assertEquals(seen, Array.from({ length: 101 }, (_, i) => i + 1));
});

Deno.test("A page doesn't take what it stored while the store opened for an earlier page's", async () => {
  using _time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const device = new Device(server);
  device.disk.onOperation = () => turns(5);
  await using page = device.open();
  for (let data = 1; data <= 20; data++) {
    page.send("t", data);
    await turns(4);
  }
  await page.flushed();
  assertEquals(seen, Array.from({ length: 20 }, (_, i) => i + 1));
  await turns(50);
  assertEquals([device.entries, device.drops], [0, []]);
});

Deno.test("flushed() waits for the store only with what was called before", async () => {
  using _time = new FakeTime();
  const { server } = recording();
  await using _server = server;
  const device = new Device(server);
  server.network.down();
  await using page = device.open();
  await page.flushed({ to: "store" });
  device.disk.onOperation = () => turns(5);
  const flushed: Promise<string>[] = [];
  for (let data = 1; data <= 20; data++) {
    page.send("t", data);
    flushed.push(page.flushed({ to: "store" }));
    await turns(3);
  }
  assertEquals(await Promise.all(flushed), Array(20).fill("relaxed"));
});

Deno.test("Publications and requests with retry keep one order with messages, and settle", async () => {
  using _time = new FakeTime();
  const { server, seen } = recording({ onPublish: ({ data }) => void seen.push(data) });
  await using _server = server;
  const device = new Device(server);
  server.network.down();
  await using page = device.open();
  page.send("t", 1);
  const published = page.publish("news", 2);
  const reply = page.request("t", 3, { retry: true });
  page.send("t", 4);
  const rejected = page.publish("news", 5, { except: "self" });
  server.network.up();
  page.retryNow();
  await published;
  assertEquals(await reply, { got: 3 });
  await rejected;
  await page.flushed();
  assertEquals(seen, [1, 2, 3, 4, 5]);
});

Deno.test("After a reload, failures of publications and requests go to outbox.onDropped", async () => {
  using time = new FakeTime();
  const { server, seen } = recording({ authorize: (_session, topic) => topic !== "shut" });
  await using _server = server;
  const device = new Device(server);
  server.network.down();
  const page = device.open();
  const calls = [
    page.publish("shut", "a"),
    page.publish("open", "b"),
    page.request("t", "c", { retry: true }),
  ];
  const settled = Promise.allSettled(calls);
  await page.flushed({ to: "store" });
  await device.kill(page, time);
  assertEquals((await settled).map(({ status }) => status), ["rejected", "rejected", "rejected"]);
  server.network.up();
  await using next = device.open();
  await next.flushed();
  assertEquals(seen, ["c"]);
  const [drop, ...others] = device.drops;
  assertEquals(
    [drop!.kind, drop!.topic, drop!.reason, drop!.data, drop!.error?.failure.code, others],
    ["publication", "shut", "rejected", "a", "forbidden", []],
  );
});

Deno.test("What was sent to a server that has forgotten it is unknown, and the rest is sent", async () => {
  using time = new FakeTime();
  const first = recording({ onMessage: () => new Promise(() => {}) });
  const device = new Device(first.server);
  const page = device.open();
  await page.whenConnected();
  await turns(20);
  page.send("t", "sent");
  const lost = page.publish("news", "sent, too").catch(() => {});
  await turns(50);
  first.server.network.down();
  page.send("t", "never sent");
  assertEquals(await page.flushed({ to: "store" }), "relaxed");
  await device.kill(page, time);
  await lost;
  await first.server[Symbol.asyncDispose]();
  // Another server with an empty broker.
  const { server, seen } = recording();
  await using _server = server;
  const other = new Device(server);
  other.disk.restore(device.disk.entries);
  await using next = other.open();
  await next.flushed();
  assertEquals(seen, ["never sent"]);
  const told = other.drops.map(({ kind, reason, data }) => [kind, reason, data]);
  assertEquals(told, [["message", "unknown", "sent"], ["publication", "unknown", "sent, too"]]);
});

Deno.test("Another user neither sends nor sees what is kept, and goes on in memory", async () => {
  using time = new FakeTime();
  const { server, seen } = recording({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token!,
    userOf: (user) => String(user),
    onMessage: ({ data }, { user }) => void seen.push(`${user}: ${data}`),
  } as ServeOptions);
  await using _server = server;
  const device = new Device(server);
  server.network.down();
  const page = device.open({ user: "ann", token: "ann" });
  page.send("t", "mine");
  await page.flushed({ to: "store" });
  await device.kill(page, time);
  server.network.up();
  const errors: string[] = [];
  {
    await using other = device.open({
      user: "ann",
      token: "bob",
      onError: (error) => errors.push((error as Error).message),
    });
    await other.whenConnected();
    while (errors.length === 0) await turns(1);
    other.send("t", "in memory");
    await other.flushed();
    assertEquals(seen, ["bob: in memory"]);
  }
  assertEquals(errors, ["The store is not used in this session: another user is signed in"]);
  await using again = device.open({ user: "ann", token: "ann" });
  await again.flushed();
  assertEquals(seen, ["bob: in memory", "ann: mine"]);
});

Deno.test("A store that fails, or is slow or full, is told once, and the client goes on in memory", async () => {
  for (const fault of ["fails", "slow", "full"] as const) {
    using time = new FakeTime();
    const { server, seen } = recording();
    await using _server = server;
    const device = new Device(server);
    if (fault === "full") device.disk.maxBytes = 10;
    else {
      device.disk.onOperation = () => {
        if (fault === "slow") return new Promise((resolve) => setTimeout(resolve, 60_000));
        throw new Error("The disk is broken");
      };
    }
    const errors: unknown[] = [];
    await using page = device.open({ onError: (error) => errors.push(error) });
    page.send("t", 1);
    page.send("t", 2);
    await passTime(time, 10_000);
    await page.flushed();
    page.send("t", 3);
    await page.flushed();
    assertEquals(seen, [1, 2, 3], fault);
    server.network.down();
    page.send("t", 4);
    await assertRejects(() => page.flushed({ to: "store" }), Error, "", fault);
    assertEquals(errors.length, 1, fault);
    await time.tickAsync(120_000);
  }
});

Deno.test("What is too old, too much, damaged or newer is dropped with a reason", async () => {
  using time = new FakeTime();
  const { server, seen } = recording();
  await using _server = server;
  const device = new Device(server);
  server.network.down();
  const page = device.open();
  page.send("t", "old");
  await page.flushed({ to: "store" });
  await device.kill(page, time);
  await time.tickAsync(604_800_000);
  const second = device.open();
  for (const data of ["a", "b", "c"]) second.send("t", data);
  await second.flushed({ to: "store" });
  await device.kill(second, time);
  const last = device.disk.entries.find(({ value }) =>
    new TextDecoder().decode(value).includes('"c"')
  );
  device.disk.put(last!.key, new TextEncoder().encode("{}\n{}"));
  device.disk.put(Uint8Array.of(9, 2, 7), Uint8Array.of(1));
  server.network.up();
  await using next = device.open({
    outbox: { maxMessages: 2, onDropped: (drop) => device.drops.push(drop) },
  });
  await next.flushed();
  assertEquals(
    device.drops.map(({ reason, data }) => [reason, data]),
    [["newer", undefined], ["damaged", undefined], ["full", "old"]],
  );
  assertEquals(seen, ["a", "b"]);
});

Deno.test("Kept positions survive pages, are bounded, and drop what is damaged", async () => {
  using _time = new FakeTime();
  const { server } = recording({ history: { news: {} } });
  await using _server = server;
  const disk = new TestDisk();
  {
    const store = keptIn(disk.open(), { user: null });
    await using page = server.connect({ store });
    await page.whenConnected();
    for (let i = 0; i < 1_002; i++) store.positions.set(`t${i}`, { epoch: "e", offset: i });
    store.positions.set("gone", { epoch: "e", offset: 1 });
    store.positions.set("gone", undefined);
    assertThrows(() => store.positions.set("x".repeat(513), undefined), RangeError, "512 bytes");
  }
  const positions = disk.entries.filter(({ key }) => key[1] === 3);
  assertEquals(positions.length, 999); // 1,000 until "gone" was deleted.
  disk.put(positions.at(-1)!.key, new TextEncoder().encode('{"position":{"epoch":7}}'));
  const store = keptIn(disk.open(), { user: null });
  await using _page = server.connect({ store });
  assertEquals(await store.positions.get("t1001"), undefined); // Damaged.
  assertEquals(await store.positions.get("t500"), { epoch: "e", offset: 500 });
  assertEquals(await store.positions.get("t0"), undefined);
  assertEquals(await store.positions.get("gone"), undefined);
});

Deno.test("Another user neither reads nor changes kept positions", async () => {
  using _time = new FakeTime();
  const { server } = recording({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token!,
    userOf: (user) => String(user),
  } as ServeOptions);
  await using _server = server;
  const disk = new TestDisk();
  for (const [token, expected] of [["ann", undefined], ["bob", undefined], ["ann", 7]] as const) {
    const store = keptIn(disk.open(), { user: "ann" });
    await using page = server.connect({ store, token, onError() {} });
    await page.whenConnected();
    assertEquals((await store.positions.get("news"))?.offset, expected);
    store.positions.set("news", { epoch: "e", offset: token === "ann" ? 7 : 8 });
  }
});

Deno.test("A client reads and saves positions again once its user has returned", async () => {
  using time = new FakeTime();
  const { server } = recording({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token!,
    userOf: (user) => String(user),
  } as ServeOptions);
  await using _server = server;
  const store = keptIn(new TestDisk().open(), { user: "ann" });
  const users = ["ann", "bob", "ann"];
  await using page = server.connect({ store, token: () => users.shift()!, onError() {} });
  for (const expected of [undefined, undefined, 2]) {
    const { closed } = await page.whenConnected();
    assertEquals((await store.positions.get("news"))?.offset, expected);
    store.positions.set("news", { epoch: "e", offset: users.length });
    if (users.length === 0) break;
    server.network.linkOf(page).disconnect();
    await passTime(time, 1_000);
    await closed;
  }
});

Deno.test("positions.set() rejects what is no position", () => {
  const { positions } = keptIn(new TestDisk().open(), { user: null });
  for (const wrong of [null, 7, {}, { epoch: "e", offset: 1n }, { epoch: "e", offset: -1 }]) {
    const set = () => positions.set("news", wrong as never);
    assertThrows(set, TypeError, "Cannot save position: position must be that of a subscription");
  }
  assertThrows(() => positions.set(7 as never, undefined), TypeError, "name must be a string");
});

Deno.test("What is sent after forget() goes out once the server has handled what was in flight", async () => {
  using time = new FakeTime();
  const handling = Promise.withResolvers<void>();
  const handled = Promise.withResolvers<void>();
  const { server, seen } = recording({
    onMessage: async ({ data }) => {
      handling.resolve();
      await handled.promise;
      seen.push(data);
    },
  });
  await using _server = server;
  await using page = new Device(server).open();
  page.send("t", 1);
  await handling.promise;
  const forgotten = page.forget();
  await passTime(time, 1_000);
  await forgotten;
  page.send("t", 2);
  await turns(20);
  handled.resolve();
  await turns(50);
  assertEquals(seen, [1, 2]);
});

Deno.test("Client.forget() rejects if the store can't be emptied, and once the client is closed", async () => {
  for (const fault of ["fails", "full", "closed"] as const) {
    using time = new FakeTime();
    const { server } = recording();
    await using _server = server;
    server.network.down();
    const device = new Device(server);
    await using page = device.open({ onError() {} });
    page.send("t", "secret");
    await page.flushed({ to: "store" });
    if (fault === "closed") await page.close();
    else {
      device.disk.onOperation = ({ kind }) => {
        if (kind !== "read") throw new StoreError(fault === "full" ? "full" : "failed", fault);
      };
    }
    const forgotten = assertRejects(() => page.forget(), StoreError, "Cannot forget: ");
    await passTime(time, 1_000);
    const { reason } = await forgotten;
    assertEquals(reason, fault === "fails" ? "failed" : fault);
    assertEquals(page.outbox.messages, fault === "closed" ? 1 : 0);
    device.disk.onOperation = undefined;
  }
});

Deno.test("A client that is closed during forget() still empties the store", async () => {
  using time = new FakeTime();
  const { server } = recording();
  await using _server = server;
  server.network.down();
  const device = new Device(server);
  const page = device.open();
  page.send("t", "secret");
  await page.flushed({ to: "store" });
  const forgotten = page.forget();
  const closed = page.close();
  await passTime(time, 1_000);
  await Promise.all([forgotten, closed, page.closed]);
  assertEquals([device.disk.entries, device.disk.openStores], [[], 0]);
});
