import { assert, assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import {
  type Client,
  type ClientState,
  connect,
  type ConnectOptions,
  type Contract,
  defineContract,
  type Server,
} from "../../../mod.ts";
import { liveState } from "../../../streams/mod.ts";
import { listen } from "../../../tests/servers.ts";
import { until } from "../../../tests/waiting.ts";
import { Fixture, type KeptOn, keptOn, rowsOf } from "./kept_fixture.ts";
import { TestDisk } from "../test_disk_fixture.ts";

const anything = z.unknown();

Deno.test("client.state() shows rows that were kept, without a network, and then those of the server", async () => {
  await using fixture = await Fixture.make();
  const { list } = fixture;
  for (const key of ["a", "b", "c"]) await list.collection("items").set(key, 1);
  {
    await using client = fixture.connect();
    using state = await client.state("list:1", { store: true });
    await state.ready;
    assertEquals(state.keptAt, undefined);
    assertEquals(rowsOf(state), [["a", 1], ["b", 1], ["c", 1]]);
    await until(() => fixture.keptRows > 0);
  }
  fixture.offline();
  await list.collection("items").delete("b");
  await list.collection("items").set("a", 2);
  await using client = fixture.connect();
  using state = await client.state("list:1", { store: true });
  assertEquals(state.status.current, "stale");
  assertEquals(rowsOf(state), [["a", 1], ["b", 1], ["c", 1]]);
  assert(Date.now() - state.keptAt! < 10_000);
  await state.ready;
  fixture.online(client);
  await until(() => state.status.current === "live");
  assertEquals(rowsOf(state), [["a", 2], ["c", 1]]);
  assertEquals(state.keptAt, undefined);
});

/** Opens the state once, so that its rows are kept. */
async function keep(
  fixture: Fixture,
  { store = keptOn(fixture.disk), ...options }: Omit<ConnectOptions, "store"> & {
    readonly store?: KeptOn;
  } = {},
): Promise<void> {
  await using client = fixture.connect({ store, ...options });
  using state = await client.state("list:1", { store: true });
  await until(() => state.status.current === "live");
  await store.confirmed(client);
}

/** Opens the state without a network. Returns what a page shows. */
async function shown(
  fixture: Fixture,
  options: ConnectOptions = {},
): Promise<{ readonly status: string; readonly rows: readonly unknown[] }> {
  fixture.offline();
  await using client = fixture.connect(options);
  using state = await client.state("list:1", { store: true });
  const result = { status: state.status.current, rows: rowsOf(state) };
  fixture.online(client);
  return result;
}

const NOTHING = { status: "pending", rows: [] };

Deno.test("client.state() keeps changes of rows in the same copy", async () => {
  await using fixture = await Fixture.make();
  const { list, disk } = fixture;
  for (let i = 0; i < 50; i++) await list.collection("items").set(`${i}`, i);
  await keep(fixture);
  let puts = 0;
  disk.onOperation = ({ batch }) =>
    void (puts += batch?.puts?.filter(({ key }) => key[1] === 4).length ?? 0);
  await list.collection("items").set("7", "seven");
  await list.collection("items").delete("8");
  await keep(fixture);
  assertEquals(puts, 2, "The row, and the head");
  const { status, rows } = await shown(fixture);
  assertEquals([status, rows.length], ["stale", 49]);
  assertEquals(Object.fromEntries(rows as [string, unknown][])["7"], "seven");
  assertEquals(fixture.keptRows, 50);
});

Deno.test("client.state() keeps a state without rows", async () => {
  await using fixture = await Fixture.make();
  await keep(fixture);
  assertEquals(await shown(fixture), { status: "stale", rows: [] });
});

Deno.test("client.state() shows rows of the newest copy if two pages keep them", async () => {
  await using fixture = await Fixture.make();
  const items = fixture.list.collection("items");
  await items.set("a", 1);
  {
    await using first = fixture.connect();
    await using second = fixture.connect();
    using one = await first.state("list:1", { store: true });
    using two = await second.state("list:1", { store: true });
    await Promise.all([one.ready, two.ready]);
    await items.set("b", 2);
    await until(() => rowsOf(one).length === 2 && rowsOf(two).length === 2);
  }
  assertEquals(await shown(fixture), { status: "stale", rows: [["a", 1], ["b", 2]] });
  await items.set("c", 3);
  await keep(fixture);
  assertEquals(fixture.keptRows, 4, "One copy");
});

Deno.test("client.state() keeps a change that arrives while a new copy replaces another page's", async () => {
  await using fixture = await Fixture.make();
  const { disk } = fixture;
  const items = fixture.list.collection("items");
  await items.set("a", 1);
  await keep(fixture);
  {
    await using page = await fixture.page();
    // Another page has changed the copy, so this one writes a new copy once it has the lock.
    const { key, value } = disk.entries.find(({ key }) => key[1] === 4 && key[9] === 0)!;
    const head = JSON.parse(new TextDecoder().decode(value));
    disk.put(key, new TextEncoder().encode(JSON.stringify({ ...head, at: head.at + 1 })));
    let reads = 0;
    disk.onOperation = async ({ kind, range }) => {
      const isHeads = kind === "read" && range!.from[1] === 4;
      if (!isHeads || ++reads !== 2) return;
      await items.set("c", 3);
      await until(() => rowsOf(page.state).length === 3);
    };
    await items.set("b", 2);
    await until(() => fixture.keptRows === 4);
  }
  const { rows } = await shown(fixture);
  assertEquals(rows, [["a", 1], ["b", 2], ["c", 3]]);
});

Deno.test("client.state() forgets rows that are damaged, or incomplete", async () => {
  await using fixture = await Fixture.make();
  const { disk, list } = fixture;
  for (const key of ["a", "b", "c"]) await list.collection("items").set(key, 1);
  await keep(fixture);
  const kept = disk.entries;
  const rows = kept.filter(({ key }) => key[9] === 1);
  assertEquals(rows.length, 3);
  const errors: unknown[] = [];
  const options = () => ({
    store: keptOn(disk),
    onError: (error: unknown) => void errors.push((error as Error).message),
  });
  for (
    const damage of [
      () => disk.put(rows[0]!.key),
      () => disk.put(rows[1]!.key, rows[0]!.value),
      () => disk.put(rows[1]!.key, new TextEncoder().encode("[")),
      () => disk.put(rows[1]!.key, new Uint8Array([255])),
      () => disk.put(rows[1]!.key, new TextEncoder().encode('["items","b",900,1]')),
      () => disk.put(rows[1]!.key, new TextEncoder().encode('["$skein:x","b",2,1]')),
    ]
  ) {
    disk.restore(kept);
    damage();
    assertEquals(await shown(fixture, options()), NOTHING);
    assertEquals(errors.splice(0), [
      'The rows of state "list:1" in the store are damaged; they are read again',
    ]);
  }
  const head = kept.find(({ key }) => key[1] === 4 && key[9] === 0)!;
  for (const text of ["", "null", "{}", '{"id":5}']) {
    disk.restore(kept);
    disk.put(head.key, new TextEncoder().encode(text));
    assertEquals(await shown(fixture, options()), NOTHING);
  }
  await keep(fixture);
  assertEquals((await shown(fixture)).rows.length, 3);
});

Deno.test("client.state() forgets rows of another version of the contract", async () => {
  await using fixture = await Fixture.make();
  await fixture.list.collection("items").set("a", 1);
  const contract = (version: number): Contract =>
    defineContract({
      state: { "list:{id}": { version, collections: { items: anything } } },
    }) as unknown as Contract;
  const errors: string[] = [];
  const options = (version: number) => ({
    store: keptOn(fixture.disk),
    contract: contract(version),
    onError: (error: unknown) => void errors.push((error as Error).message),
  });
  await keep(fixture, options(1));
  assertEquals((await shown(fixture, options(1))).status, "stale");
  assertEquals(await shown(fixture, options(2)), NOTHING);
  assertEquals(errors, [
    'The rows of state "list:1" in the store are of version 1 of the contract; they are read again',
  ]);
});

Deno.test("client.state() shows nothing that another user has kept", async () => {
  await using fixture = await Fixture.make();
  await fixture.list.collection("items").set("a", 1);
  await keep(fixture);
  const kept = fixture.disk.entries;
  await fixture.list.collection("items").set("b", 1);
  fixture.offline();
  await using client = fixture.connect({ store: keptOn(fixture.disk, "ann") });
  using state = await client.state("list:1", { store: true });
  const statuses: string[] = [];
  state.status.subscribe((status) => statuses.push(`${status} ${rowsOf(state)}`));
  assertEquals(rowsOf(state), [["a", 1]]);
  fixture.online(client);
  await until(() => state.status.current === "live");
  assertEquals(statuses, ["stale a,1", "pending ", "live a,1,b,1"]);
  await state.ready;
  await client.close();
  assertEquals(fixture.disk.entries, kept);
});

Deno.test("client.state() deletes the rows that it may no longer read", async () => {
  const states = liveState();
  let mayRead = true;
  await using server = listen({
    webTransport: false,
    features: [states],
    authorize: (_session, _topic, action) => action !== "subscribe" || mayRead,
  });
  await using list = await states.open("list:1");
  await list.collection("items").set("a", 1);
  const disk = new TestDisk();
  const rows = () => disk.entries.filter(({ key }) => key[1] === 4).length;
  const page = () =>
    connect(server.url, { transports: ["websocket"], store: keptOn(disk) }) as Client;
  {
    await using client = page();
    using state = await client.state("list:1", { store: true });
    await until(() => state.status.current === "live");
  }
  assertEquals(rows(), 2);
  mayRead = false;
  await using client = page();
  using state = await client.state("list:1", { store: true });
  assertEquals(state.status.current, "stale");
  await until(() => state.status.current === "ended");
  assertEquals(rowsOf(state), []);
  await until(() => rows() === 0);
});

Deno.test("client.state() reads rows anew whose state was lost meanwhile", async () => {
  const disk = new TestDisk();
  const open = async () => {
    const states = liveState();
    const server: Server = listen({
      webTransport: false,
      features: [states],
      authorize: () => true,
    });
    return { server, list: await states.open("list:1") };
  };
  {
    const { server, list } = await open();
    for (const key of ["a", "b"]) await list.collection("items").set(key, 1);
    await using _server = server;
    await using client = connect(server.url, { transports: ["websocket"], store: keptOn(disk) });
    using state = await client.state("list:1", { store: true });
    await until(() => state.status.current === "live");
  }
  const { server, list } = await open();
  await using _server = server;
  for (const key of ["b", "c", "d"]) await list.collection("items").set(key, 2);
  await using client = connect(server.url, { transports: ["websocket"], store: keptOn(disk) });
  using state = await client.state("list:1", { store: true });
  assertEquals(rowsOf(state as ClientState), [["a", 1], ["b", 1]]);
  await until(() => state.status.current === "live");
  assertEquals(rowsOf(state as ClientState), [["b", 2], ["c", 2], ["d", 2]]);
});

Deno.test("client.state() goes on in memory if the store fails, hangs or is full", async () => {
  await using fixture = await Fixture.make();
  const { disk, list } = fixture;
  await list.collection("items").set("a", 1);
  const errors: string[] = [];
  const onError = (error: unknown) => void errors.push((error as Error).message);
  disk.maxBytes = 10;
  await keep(fixture, { store: keptOn(disk), onError });
  assertEquals(errors.splice(0).length, 1);
  assertEquals(fixture.keptRows, 0);
  disk.maxBytes = Infinity;
  await keep(fixture);
  disk.onOperation = () => {
    throw new Error("broken");
  };
  const options = { store: keptOn(disk), onError };
  assertEquals(await shown(fixture, options), NOTHING);
  assertEquals(errors.splice(0).length, 1);
  await keep(fixture, { store: keptOn(disk), onError });
  disk.onOperation = undefined;
  assertEquals((await shown(fixture)).status, "stale");
});

Deno.test("client.state() rejects the option store in a client without one", async () => {
  await using fixture = await Fixture.make();
  await using client = fixture.connect({ store: undefined });
  await assertRejects(
    () => client.state("list:1", { store: true }),
    TypeError,
    "Cannot open state: store needs a client with the option store",
  );
});

Deno.test("client.state() knows ephemeral collections without a network, and without a contract", async () => {
  const collections = { items: z.unknown(), cursors: { schema: z.unknown(), ephemeral: true } };
  const contract = defineContract({ state: { "list:{id}": { collections } } });
  await using fixture = await Fixture.make({ contract: contract as unknown as Contract });
  await fixture.list.collection("items").set("a", 1);
  await keep(fixture);
  fixture.offline();
  await using page = await fixture.page();
  const { state, client } = page;
  const writing = state.collection("cursors").set("me", 1);
  await client.flushed({ to: "store" });
  assertEquals(state.collection("cursors").get("me"), 1);
  assertEquals([state.pendingWrites.current, fixture.keptWrites], [0, 0]);
  fixture.online(client);
  await writing;
  await until(() => state.status.current === "live");
  assertEquals(fixture.list.collection("cursors").get("me"), 1);
  assertEquals(rowsOf(state), [["a", 1]]);
});

Deno.test("client.state() forgets kept rows if an ephemeral collection has become a stored one", async () => {
  const contractOf = (items: object) =>
    defineContract({ state: { "list:{id}": { collections: { items } as never } } });
  const fixtureOf = (items: object) =>
    Fixture.make({ contract: contractOf(items) as unknown as Contract });
  await using before = await fixtureOf({ schema: anything, ephemeral: true });
  await using after = await fixtureOf(anything);
  await keep(before);
  const store = () => keptOn(before.disk);
  {
    await using page = await after.page({ store: store() });
    await until(() => page.state.status.isEnded);
    await until(() => before.keptRows === 0);
  }
  await using page = await after.page({ store: store() });
  await page.state.collection("items").set("a", 1);
  assertEquals(rowsOf(after.list), [["a", 1]]);
});
