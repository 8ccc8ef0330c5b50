/** Tests live state in clients: rows, writes that are shown at once, and what becomes of them. */
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import {
  AuthenticationError,
  type Broker,
  type Client,
  type ClientState,
  type ClientStateOptions,
  CloseCode,
  connect,
  type ConnectOptions,
  defineContract,
  MemoryBroker,
  platformRuntime,
  QueueFullError,
  type RequestedChange,
  RequestError,
  type Server,
  SessionClosedError,
  type StateConflict,
} from "../mod.ts";
import { durableStreams, liveState, type State } from "../streams/mod.ts";
import v8 from "node:v8";
import vm from "node:vm";
import { z } from "zod";
import { FakeTime } from "@std/testing/time";
import { passTime, testServer } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { Cable } from "./networks/cable.ts";
import { type Fate, FaultyStore, loseReply, pass, waitFor } from "./faulty_broker.ts";
import { Page } from "./peers/page.ts";
import { listen } from "./servers.ts";
import { soon, turns, until } from "./waiting.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";

interface Item {
  readonly text: string;
  readonly count: number;
}

const STATE_ALONE = { after: 0, maxRecords: 0, maxBytes: 0, renews: false };

const TEA: Item = { text: "Tea", count: 0 };

function server(broker: Broker = new MemoryBroker(), options: object = {}): Server {
  return listen({
    webTransport: false,
    broker,
    features: streamFeatures({ path: "/streams", authorize: () => true }),
    authorize: () => true,
    ...options,
  });
}

function client(url: string, options: ConnectOptions = {}): Client {
  return connect(url, {
    ...options,
    transports: ["websocket"],
    backoff: { firstDelayMs: 1, maxDelayMs: 5 },
  });
}

/** A server with a state, and a client whose connection a test can cut. */
class Fixture implements AsyncDisposable {
  readonly store = new FaultyStore();
  readonly server: Server;
  readonly cable: Cable;
  readonly client: Client;
  readonly #port: number;
  declare readonly own: State;

  private constructor(options?: object) {
    this.server = server(this.store.connect(), options);
    this.cable = new Cable(Number(new URL(this.server.url).port));
    this.client = client(this.cable.url);
    this.#port = this.cable.port;
  }

  static async make(options?: object): Promise<Fixture> {
    const fixture = new Fixture(options);
    return Object.assign(fixture, { own: await statesOf(fixture.server).open("list") });
  }

  async open(options?: ClientStateOptions): Promise<ClientState> {
    const state = await this.client.state("list", options);
    await state.ready;
    return state;
  }

  /** Cuts the connection, and lets no other one through. */
  async offline(state: ClientState): Promise<void> {
    this.cable.port = 1;
    this.cable.cut();
    await until(() => state.status.current === "lost");
  }

  /** Makes a write that takes effect, but nothing more reaches the client. */
  async loseReply(write: () => Promise<number>): Promise<{ readonly outcome: Promise<number> }> {
    const held = this.hold();
    const outcome = write();
    outcome.catch(() => {});
    await held.begun;
    this.cable.freeze();
    const { version } = this.own;
    held.release();
    await until(() => this.own.version > version);
    return { outcome };
  }

  /** Holds the next write at the broker. Others pass it. */
  hold(): { readonly begun: Promise<void>; readonly release: () => void } {
    const [begun, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const waits: Fate = async (run) => {
      this.store.make("logs.append", pass);
      begun.resolve();
      await gate.promise;
      return await run();
    };
    this.store.make("logs.append", waits);
    return { begun: begun.promise, release: gate.resolve };
  }

  online(): void {
    this.cable.port = this.#port;
    this.client.retryNow();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
    await this.cable[Symbol.asyncDispose]();
    await this.own[Symbol.asyncDispose]();
    await this.server[Symbol.asyncDispose]();
  }
}

/** Lets the store forget all deletions. Returns the position after the newest of them. */
async function forgetDeletions(store: FaultyStore): Promise<number> {
  // A deletion of a missing row takes no position, but old deletions are forgotten.
  const row = '["items","none"]';
  const sizes = { nameBytes: row.length, bytes: "delete".length };
  const change = { row, operation: "delete", text: ["", ""], ...sizes } as const;
  const forgotten = await store.connect().logs!.append("list", {
    records: [],
    changes: [change],
    rowBounds: { rows: 1, deletions: 0, deletionMs: 0 },
    maxBytes: 1_000,
  });
  assert(forgotten.kind === "appended");
  return forgotten.info.rows!.forgotten;
}

async function code(promise: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => promise, RequestError);
  return error.failure.code;
}

Deno.test("Client.state() shares rows between clients and servers", async () => {
  await using at = await Fixture.make();
  const own = at.own.collection<Item>("items");
  await own.set("a", TEA);
  using state = await at.open();
  const items = state.collection<Item>("items");
  assertEquals([...items], [["a", TEA]]);
  const writing = items.set("b", { text: "Milk", count: 1 });
  assertEquals({
    text: items.get("b")?.text,
    items: items.size,
    pendingWrites: state.pendingWrites.current,
  }, { text: "Milk", items: 2, pendingWrites: 1 });
  assertEquals(await writing, 2);
  assertEquals([state.pendingWrites.current, items.has("b"), [...items.keys()]], [0, true, [
    "a",
    "b",
  ]]);
  await until(() => own.get("b")?.count === 1);
  await own.delete("a");
  await until(() => !items.has("a"));
  await items.delete("b");
  assertEquals([[...items], items.size], [[], 0]);
  await until(() => own.size === 0);
});

Deno.test("A server reads each change of a state once for itself and all clients", async () => {
  const broker = new FaultyStore().connect();
  await using host = server(broker);
  await using board = await statesOf(host).open("list");
  const items = board.collection<Item>("items");
  const states: ClientState[] = [];
  await using clients = new AsyncDisposableStack();
  for (let i = 0; i < 5; i++) {
    const state = await clients.use(client(host.url)).state("list");
    await state.ready;
    states.push(state);
  }
  const before = broker.callsOf("logs.read").length;
  for (let count = 1; count <= 20; count++) {
    await items.set("tea", { text: "Tea", count });
    await until(() =>
      states.every((state) => state.collection<Item>("items").get("tea")?.count === count)
    );
  }
  assertEquals(broker.callsOf("logs.read").length - before, 20);
});

Deno.test("ClientState is complete once it is ready, also without rows", async () => {
  await using at = await Fixture.make();
  const empty = await at.open();
  assertEquals([empty.status.current, empty.collection("items").size], ["live", 0]);
  empty[Symbol.dispose]();
  await at.own.transaction((to) => {
    for (let i = 0; i < 500; i++) to.set("items", `${i}`, { text: "x".repeat(200), count: i });
  });
  await at.own.transaction((to) => {
    for (let i = 0; i < 500; i++) to.set("more", `${i}`, { text: "x".repeat(200), count: i });
  });
  using state = await at.open();
  assertEquals([state.collection("items").size, state.collection("more").size], [500, 500]);
});

Deno.test("ClientState is complete if its last rows were deleted, and are forgotten", async () => {
  await using at = await Fixture.make();
  using early = await at.open();
  const own = at.own.collection<number>("items");
  await own.set("a", 1);
  await until(() => early.collection("items").size === 1);
  await at.offline(early);
  await own.delete("a");
  assertEquals(await forgetDeletions(at.store), 2);
  await using page = client(at.server.url);
  using late = await page.state("list");
  await late.ready;
  assertEquals(late.collection("items").size, 0);
  at.online();
  await until(() => early.status.current === "live" && early.collection("items").size === 0);
  assertEquals(await late.collection("items").set("b", 1), 3);
  await until(() => early.collection("items").has("b"));
});

Deno.test("ClientState takes rows while deletions alone fill the bytes of the state", async () => {
  const store = new FaultyStore();
  const states = liveState();
  await using own = server(store.connect(), {
    features: [
      durableStreams({ path: "/streams", authorize: () => true, maxStreamBytes: 4_000 }),
      states,
    ],
  });
  await using list = await states.open("list");
  await using cable = new Cable(Number(new URL(own.url).port));
  await using away = client(cable.url);
  await using busy = client(own.url);
  using kept = await away.state("list");
  using state = await busy.state("list");
  const items = state.collection<string>("items");
  await items.set("old", "x");
  await until(() => kept.collection("items").size === 1);
  const { port } = cable;
  cable.port = 1;
  cable.cut();
  await until(() => kept.status.current === "lost");
  await items.delete("old");
  const sizes: number[] = [];
  for (let i = 0; i < 40; i++) {
    await items.set(`${i}`, "x".repeat(100));
    await items.delete(`${i}`);
    const page = await store.connect().logs!.read("list", STATE_ALONE);
    assert(typeof page === "object");
    const { bytes, count, deletions } = page.info.rows!;
    sizes.push(bytes + 64 * (count + deletions));
  }
  assert(Math.max(...sizes) <= 4_000 && Math.max(...sizes) > 3_000, `${sizes}`);
  await items.set("new", "x");
  await until(() => list.collection("items").size === 1);
  const seen: number[] = [];
  using _following = kept.collection("items").subscribe(({ size }) => void seen.push(size));
  cable.port = port;
  away.retryNow();
  await until(() => kept.collection("items").has("new"));
  assertEquals([[...kept.collection("items").keys()], seen], [["new"], [1, 1]]);
});

Deno.test("ClientCollection yields its rows after each change", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  const sizes: number[] = [];
  using _following = items.subscribe((rows) => void sizes.push(rows.size));
  const before = items.current;
  await items.set("a", TEA);
  assertEquals([before.size, items.current.size, items.current], [0, 1, items.current]);
  assertEquals(sizes, [0, 1]);
  for await (const rows of items) {
    if (rows.size === 2) break;
    await at.own.collection("items").set("b", TEA);
  }
  const changes = state.changes<Item>();
  const next = changes.next();
  await items.update("a", (item) => ({ ...item, count: 7 }));
  const { value } = await next;
  assertEquals(value, { collection: "items", key: "a", value: { ...TEA, count: 7 }, before: TEA });
  await changes.return();
});

Deno.test("ClientState shows a rejected write no longer, and rejects it", async () => {
  let isAllowed = true;
  await using own = server(undefined, {
    authorize: (_: unknown, __: string, action: string) => action !== "publish" || isAllowed,
    onMessageRejected() {},
    onError() {},
  });
  await using _state = await statesOf(own).open("list");
  await using page = client(own.url);
  using state = await page.state("list");
  await state.ready;
  const items = state.collection<Item>("items");
  await items.set("a", TEA);
  isAllowed = false;
  const writing = items.set("a", { ...TEA, count: 1 });
  const deleting = items.delete("a");
  assertEquals(items.has("a"), false);
  assertEquals([await code(writing), await code(deleting)], ["forbidden", "forbidden"]);
  assertEquals(items.get("a"), TEA);
});

for (const isChecked of [false, true]) {
  const gate = isChecked ? ", each allowed by authorizeChange" : "";

  Deno.test(`ClientState of a client that may only publish writes, and reads nothing${gate}`, async () => {
    await using own = server(undefined, {
      authorize: (_: unknown, __: string, action: string) => action === "publish",
      ...(isChecked && { authorizeChange: () => true }),
      onMessageRejected() {},
    });
    await using list = await statesOf(own).open("list");
    const stored = list.collection<Item>("items");
    await stored.set("a", TEA);
    await using page = client(own.url);
    const asked: StateConflict[] = [];
    using state = await page.state("list", {
      onConflict: (conflict) => (asked.push(conflict), "theirs"),
    });
    const items = state.collection<Item>("items");
    const first = items.set("new", TEA);
    const failure = await assertRejects(
      () => state.ready,
      RequestError,
      'Cannot read state "list"',
    );
    assertEquals(failure.failure.code, "forbidden");
    assertEquals([state.status.current, state.error], ["ended", failure]);
    assertEquals(await first, list.version);
    // Rows that exist, in all ways to write.
    assertEquals(await items.set("a", { ...TEA, count: 1 }), list.version);
    assertEquals(stored.get("a")?.count, 1);
    await Promise.all([items.set("b", TEA), items.set("new", { ...TEA, count: 2 })]);
    await state.transaction((to) => {
      to.set("items", "a", { ...TEA, count: 3 });
      to.delete("items", "b");
      to.delete("items", "none");
    });
    assertEquals([stored.get("a")?.count, stored.get("new")?.count, stored.size], [3, 2, 2]);
    await stored.set("a", { ...TEA, count: 4 });
    await items.delete("a");
    assertEquals([...stored.keys()], ["new"]);
    assertEquals([asked, state.pendingWrites.current], [[], 0]);
    // Nothing can be read.
    assertEquals([items.size, items.get("new"), [...state.collections()]], [0, undefined, []]);
    assertEquals(await code(items.update("new", (item) => item)), "forbidden");
    assertEquals(await code(state.changes().next()), "forbidden");
    assertEquals(await code(Array.fromAsync(items)), "forbidden");
    state[Symbol.dispose]();
    await assertRejects(() => items.set("new", TEA), SessionClosedError);
  });
}

Deno.test("ClientState of a client that may only publish learns the outcome of a write whose reply was lost", async () => {
  await using at = await Fixture.make({
    authorize: (_: unknown, __: string, action: string) => action === "publish",
    onMessageRejected() {},
  });
  using state = await at.client.state("list");
  await code(state.ready);
  const items = state.collection<Item>("items");
  await items.set("a", TEA);
  const { outcome } = await at.loseReply(() => items.set("a", { ...TEA, count: 1 }));
  at.cable.cut();
  assertEquals(await outcome, at.own.version);
  // Others have changed the row in the meantime.
  const lost = await at.loseReply(() => items.set("a", { ...TEA, count: 2 }));
  await at.own.collection<Item>("items").set("a", { ...TEA, count: 3 });
  at.cable.cut();
  assertEquals(await code(lost.outcome), "unknown");
  assertEquals(at.own.collection<Item>("items").get("a")?.count, 3);
});

Deno.test("ClientState shows no rows after a client has lost the right to read, and still writes", async () => {
  const rights = new Set(["subscribe", "publish"]);
  await using own = server(undefined, {
    authenticate: () => "ann",
    tokens: { inMessage: true },
    authorize: (_: unknown, __: string, action: string) => rights.has(action),
    onMessageRejected() {},
  });
  await using list = await statesOf(own).open("list");
  await using page = client(own.url, { token: "t" });
  using state = await page.state("list");
  await state.ready;
  const items = state.collection<Item>("items");
  await items.set("a", TEA);
  rights.delete("subscribe");
  await page.session!.authenticate("t");
  await until(() => state.status.current === "ended");
  assertEquals([items.size, await code(state.ready)], [0, "forbidden"]);
  await items.set("a", { ...TEA, count: 1 });
  await items.set("b", TEA);
  assertEquals(list.collection<Item>("items").get("a")?.count, 1);
  rights.delete("publish");
  assertEquals(await code(items.set("c", TEA)), "forbidden");
});

Deno.test("ClientState rejects what cannot be written", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<unknown>("items");
  await assertRejects(() => items.set("a", new Map()), TypeError, "JSON");
  await assertRejects(() => items.set("", 1), RangeError, "key must have 1 to 1024 bytes");
  await assertRejects(() => items.set("a", 1, { ttlMs: 0 }), RangeError, "ttlMs");
  const none = undefined as unknown as string;
  await assertRejects(() => at.client.state(none), TypeError, "id must be a string");
  assertThrows(() => state.collection(""), RangeError, "name must have 1 to 1024 bytes");
  assertEquals(await code(items.update("a", (value) => value)), "conflict");
  const many = state.transaction((to) => {
    for (let i = 0; i < 1_001; i++) to.set("items", `${i}`, i);
  });
  await assertRejects(() => many, RangeError, "at most 1000 changes, received 1001");
  for (const bytes of [261_950, 300_000]) {
    const writing = items.set("a", "x".repeat(bytes));
    const { failure, message } = await assertRejects(() => writing, RequestError);
    assertEquals(failure.code, "too-large");
    assertMatch(
      message,
      /^Cannot write state: a (row|message) must have at most \d+ bytes, received/,
    );
  }
  await assertRejects(
    () =>
      state.transaction(async (to) => {
        to.delete("items", await "a");
        throw new Error("This error is reported by no one else");
      }),
    Error,
    "by no one else",
  );
  assertEquals([items.size, state.pendingWrites.current], [0, 0]);
  assertEquals(await state.transaction(() => {}), 0);
});

Deno.test("Client.state() has the types of the contract, and rows as its schemas return them", async () => {
  const card = z.object({ title: z.string().min(1), votes: z.number().default(0) });
  const contract = defineContract({ state: { "board:{id}": { cards: card } } });
  const states = liveState();
  await using own = listen({
    webTransport: false,
    contract,
    features: [states],
    authorize: () => true,
    onMessageRejected() {},
  });
  await using _board = await states.open("board:1");
  await using page = connect(own.url, { contract, transports: ["websocket"] });
  using board = await page.state("board:1");
  await board.ready;
  const cards = board.collection("cards");
  await cards.set("1", { title: "Tea" });
  await until(() => cards.get("1")?.votes === 0);
  await cards.update("1", ({ title, votes }) => ({ title, votes: votes + 1 }));
  await board.transaction((to) => to.set("cards", "2", { title: "Milk", votes: 2 }));
  const votes: number[] = [...cards].map(([, row]) => row.votes);
  assertEquals(votes, [1, 2]);
  assertEquals(await code(cards.set("1", { title: "" })), "invalid");
  assertEquals(cards.get("1")?.title, "Tea");
  // @ts-expect-error The contract has no such collection.
  const none = board.collection("none");
  // @ts-expect-error A title is a text.
  assertEquals(await code(cards.set("3", { title: 3 })), "invalid");
  // @ts-expect-error A title is a text.
  assertEquals(await code(cards.insert("3", { title: 3 })), "invalid");
  await cards.insert("3", { title: "Rice" }, { ttlMs: 60_000 });
  // @ts-expect-error A row that must not exist has no version.
  await assertRejects(() => cards.insert("4", { title: "Rice" }, { expect: 1 }), TypeError);
  assertEquals(await code(none.set("1", 1 as never)), "unknown-collection");
});

Deno.test("ClientState.transaction() takes effect completely or not at all", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<number>("items");
  await state.transaction((to) => {
    to.set("items", "a", 1);
    to.set("items", "b", 1);
    to.set("items", "a", 2);
    to.delete("items", "c");
  });
  assertEquals([...items], [["a", 2], ["b", 1]]);
  await until(() => at.own.version === 1);
  const writing = state.transaction((to) => {
    to.set("items", "a", 3);
    to.set("items", "b", "x".repeat(300_000));
  });
  assertEquals(items.get("a"), 3);
  await assertRejects(() => writing, RequestError, "Cannot write state: a message must");
  assertEquals([...items], [["a", 2], ["b", 1]]);
});

Deno.test("ClientCollection.update() loses no change of concurrent clients", async () => {
  await using at = await Fixture.make();
  await using other = client(at.server.url);
  using near = await at.open();
  using far = await other.state("list");
  await far.ready;
  await near.collection<Item>("items").set("a", TEA);
  await until(() => far.collection("items").size === 1);
  await Promise.all([near, far].flatMap((state) =>
    Array.from(
      { length: 20 },
      () => state.collection<Item>("items").update("a", vote),
    )
  ));
  for (const state of [near, far, at.own]) {
    const items = state.collection<Item>("items");
    await until(() => items.get("a")?.count === 40);
  }
});

Deno.test("ClientCollection.update() waits for the first rows", async () => {
  await using at = await Fixture.make();
  await at.own.collection<Item>("items").set("a", TEA);
  using state = await at.client.state("list");
  assertEquals(state.status.current, "pending");
  const items = state.collection<Item>("items");
  const [present, absent] = [items.update("a", vote), items.update("b", vote)];
  assertEquals(state.pendingWrites.current, 2);
  const failure = assertRejects(() => absent, RequestError, 'there is no row "b" in "items"');
  assertEquals(await present, 2);
  assertEquals((await failure).failure.code, "conflict");
  assertEquals(items.get("a"), { text: "Tea", count: 1 });
});

const vote = (item: Item): Item => ({ ...item, count: item.count + 1 });

Deno.test("ClientCollection.update() counts the votes of many clients of two servers", async (t) => {
  const allow = () => new Promise<boolean>((resolve) => setTimeout(resolve, 1, true));
  for (const authorizeChange of [undefined, allow]) {
    await t.step(authorizeChange === undefined ? "unchecked" : "checked", async () => {
      const store = new FaultyStore();
      await using one = server(store.connect(), { authorizeChange });
      await using two = server(store.connect(), { authorizeChange });
      await using own = await statesOf(one).open("list");
      await using _other = await statesOf(two).open("list");
      await own.collection<Item>("items").set("a", TEA);
      await using clients = new AsyncDisposableStack();
      const voters = await Promise.all(Array.from({ length: 12 }, async (_, i) => {
        const { url } = i % 2 ? one : two;
        const state = await clients.use(client(url)).state("list");
        await state.ready;
        return state.collection<Item>("items");
      }));
      await Promise.all(voters.map(async (items) => {
        for (let votes = 0; votes < 5; votes++) await items.update("a", vote);
      }));
      await until(() => own.collection<Item>("items").get("a")?.count === 60);
    });
  }
});

Deno.test("ClientCollection.set() is never refused because others write the row too", async () => {
  const allow = () => new Promise<boolean>((resolve) => setTimeout(resolve, 1, true));
  await using at = await Fixture.make({ authorizeChange: allow });
  await using clients = new AsyncDisposableStack();
  const people = await Promise.all(Array.from({ length: 6 }, async () => {
    const state = await clients.use(client(at.server.url)).state("list");
    await state.ready;
    return state;
  }));
  const own = at.own.collection<number>("items");
  await own.set("a", 0);
  const writes = people.flatMap((state, person) =>
    Array.from({ length: 10 }, (_, i) => {
      const items = state.collection<number>("items");
      // Each is a write of its own: the second kind replaces none, the third has several rows.
      if (i % 3 === 0) return items.set("a", person * 100 + i);
      if (i % 3 === 1) return items.delete("a", { signal: new AbortController().signal });
      return state.transaction((to) => {
        to.set("items", "a", i);
        to.set("items", "b", i);
      });
    })
  );
  for (let i = 0; i < 20; i++) {
    await own.set("a", -1);
    await turns(10);
  }
  await Promise.all(writes);
});

Deno.test("ClientState sends a write again that the server cannot make for now", async () => {
  const asked: string[] = [];
  let isFull = true;
  await using at = await Fixture.make({
    authorizeChange: ({ key, value }: RequestedChange) => {
      asked.push(`${key}: ${value}`);
      if (key !== "a" || !isFull) return true;
      throw new RequestError("unavailable", "Later", { retryAfterMs: 1 });
    },
  });
  using state = await at.open();
  const items = state.collection<number>("items");
  const first = items.set("a", 1);
  await until(() => asked.length > 0);
  // Other rows don't wait, but writes of the same row do, and replace the first one.
  assertEquals(await items.set("b", 2), 1);
  const both = state.transaction((to) => {
    to.set("items", "a", 3);
    to.set("items", "c", 3);
  });
  const last = items.set("c", 4);
  assertEquals([items.get("a"), items.get("c"), state.pendingWrites.current], [3, 4, 3]);
  isFull = false;
  assertEquals(await Promise.all([first, both, last]), [2, 3, 4]);
  const later = asked.filter((one) => one !== "a: 1");
  assertEquals(later, ["b: 2", "a: 3", "c: 3", "c: 4"]);
  assertEquals(state.pendingWrites.current, 0);
});

Deno.test("ClientState takes back a write that waits until the server can make it", async () => {
  const asked: unknown[] = [];
  await using at = await Fixture.make({
    authorizeChange({ value }: RequestedChange) {
      asked.push(value);
      if (value === 1) throw new RequestError("unavailable", "Later", { retryAfterMs: 60_000 });
      return true;
    },
  });
  using state = await at.open();
  const items = state.collection<number>("items");
  const undo = new AbortController();
  const first = items.set("a", 1, { signal: undo.signal });
  await until(() => asked.length === 1);
  const second = items.set("a", 2, { signal: new AbortController().signal });
  undo.abort(new Error("Undone"));
  await assertRejects(() => first, Error, "Undone");
  assertEquals(await second, 1);
  const waiting = items.set("a", 1);
  const closed = assertRejects(() => waiting, SessionClosedError);
  await until(() => asked.length === 3);
  await items.set("b", 2); // The reply to the other write was earlier.
  state[Symbol.dispose]();
  await closed;
});

Deno.test("ClientState sends writes made offline in order, once", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  await items.set("a", TEA);
  await at.offline(state);
  const writing = Promise.all([
    items.set("b", TEA),
    items.update("a", (item) => ({ ...item, count: item.count + 1 })),
    items.update("a", (item) => ({ ...item, count: item.count + 1 })),
    items.delete("b"),
    items.set("c", TEA),
  ]);
  assertEquals([...items.keys()], ["a", "c"]);
  await at.own.collection<Item>("items").update("a", (item) => ({ ...item, count: 10 }));
  at.online();
  assertEquals(await writing, [3, 4, 5, 6, 7]);
  assertEquals(items.get("a")?.count, 12);
  await until(() => at.own.collection<Item>("items").get("a")?.count === 12);
  assertEquals([...at.own.collection("items").keys()], ["a", "c"]);
});

Deno.test("ClientState asks onConflict about rows that changed while it was offline", async () => {
  await using at = await Fixture.make();
  const seen: unknown[] = [];
  using state = await at.open({
    onConflict({ key, mine, theirs }) {
      seen.push([key, mine, theirs]);
      return key === "a" ? "mine" : key === "b" ? "theirs" : { value: `${theirs} and ${mine}` };
    },
  });
  const texts = state.collection<string>("texts");
  const own = at.own.collection<string>("texts");
  for (const key of ["a", "b", "c", "d"]) await texts.set(key, "old");
  await at.offline(state);
  const writing = ["a", "b", "c", "d"].map((key) => texts.set(key, "mine"));
  const again = texts.set("d", "mine again");
  for (const key of ["a", "b", "c"]) await own.set(key, "theirs");
  at.online();
  assertEquals(await code(writing[1]!), "conflict");
  await Promise.all([writing[0], writing[2], writing[3], again]);
  assertEquals(seen, [["a", "mine", "theirs"], ["b", "mine", "theirs"], ["c", "mine", "theirs"]]);
  const values = new Map([["a", "mine"], ["b", "theirs"], ["c", "theirs and mine"], [
    "d",
    "mine again",
  ]]);
  assertEquals(new Map(texts), values);
  await until(() => own.get("d") === "mine again");
  assertEquals(new Map(own), values);
});

Deno.test("ClientState rejects a write if onConflict returns anything else than a decision", async () => {
  for (const verdict of [undefined, null, "their", {}, Promise.resolve("mine")]) {
    await using at = await Fixture.make();
    using state = await at.open({ onConflict: () => verdict as "mine" });
    const items = state.collection<number>("items");
    await items.set("a", 1);
    await at.offline(state);
    const writing = items.set("a", 2);
    await at.own.collection("items").set("a", 3);
    at.online();
    await assertRejects(() => writing, TypeError, 'onConflict must return "mine"');
    assertEquals(items.get("a"), 3);
  }
});

Deno.test("ClientState stores a write that a callback makes during a conflict", async () => {
  await using at = await Fixture.make();
  using state = await at.open({
    onConflict: ({ mine, theirs }) => ({ value: `${theirs} and ${mine}` }),
  });
  const items = state.collection<string>("items");
  await items.set("a", "old");
  await at.offline(state);
  const writing = items.set("a", "mine");
  let again: Promise<number> | undefined;
  using _following = items.subscribe((rows) => {
    if (rows.get("a") === "theirs and mine") again ??= items.set("a", "callback");
  });
  await at.own.collection("items").set("a", "theirs");
  at.online();
  await writing;
  await again;
  assertEquals(items.get("a"), "callback");
  await until(() => at.own.collection("items").get("a") === "callback");
});

Deno.test("ClientState copies values, and shows them as others receive them", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<{ list: unknown[] }>("items");
  await at.offline(state);
  const value = { list: ["first"] as unknown[], none: undefined };
  const writing = items.set("a", value);
  value.list.push(new Map());
  at.online();
  await writing;
  assertEquals(items.get("a"), { list: ["first"] });
});

Deno.test("ClientState settles a write whose reply is lost, once", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  await items.set("a", TEA);
  const { outcome } = await at.loseReply(() =>
    items.update("a", (item) => ({ ...item, count: item.count + 1 }))
  );
  await at.offline(state);
  at.online();
  assertEquals(await outcome, 2);
  assertEquals([items.get("a")?.count, at.own.version], [1, 2]);
});

Deno.test("ClientState sends a write again that was lost on the way", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  await items.set("a", TEA);
  at.cable.freeze();
  const writing = items.update("a", (item) => ({ ...item, count: item.count + 1 }));
  await until(() => state.pendingWrites.current === 1);
  await at.offline(state);
  at.online();
  assertEquals(await writing, 2);
  assertEquals([items.get("a")?.count, at.own.version], [1, 2]);
});

Deno.test("ClientState does not claim to know the outcome of a write if the row changed", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  const own = at.own.collection<Item>("items");
  await items.set("a", TEA);
  const { outcome } = await at.loseReply(() =>
    items.update("a", (item) => ({ ...item, count: 1 }))
  );
  await at.offline(state);
  await own.set("a", { ...TEA, count: 5 });
  at.online();
  assertEquals(await code(outcome), "unknown");
  assertEquals(items.get("a")?.count, 5);
});

Deno.test("ClientState applies no write of a batch again whose replies are lost", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  const own = at.own.collection<Item>("items");
  for (const key of ["a", "b"]) await items.set(key, TEA);
  const count = (item: Item) => ({ ...item, count: item.count + 1 });
  const outcomes: Promise<string>[] = [];
  await at.loseReply(() => {
    for (const key of ["a", "b"]) outcomes.push(code(items.update(key, count)));
    return Promise.resolve(0);
  });
  await until(() => at.own.version === 4);
  await at.offline(state);
  for (const key of ["a", "b"]) await own.update(key, (item) => ({ ...item, text: "Milk" }));
  at.online();
  assertEquals(await Promise.all(outcomes), ["unknown", "unknown"]);
  assertEquals([own.get("a")?.count, own.get("b")?.count], [1, 1]);
});

Deno.test("ClientState shows no row of its transaction that was deleted before it was settled", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const { outcome } = await at.loseReply(() =>
    state.transaction((to) => {
      for (const key of ["a", "b"]) to.set("items", key, TEA);
    })
  );
  await at.offline(state);
  await at.own.collection("items").delete("a");
  at.online();
  assertEquals(await outcome, 1);
  assertEquals([...state.collection("items").keys()], ["b"]);
});

Deno.test("ClientState does not claim that a write failed which may have taken effect before", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  const { outcome } = await at.loseReply(() => items.set("a", TEA));
  await at.offline(state);
  await at.own.collection<Item>("items").set("a", { ...TEA, count: 5 });
  at.store.make("logs.append", () => Promise.resolve({ kind: "full" as const }));
  at.online();
  assertEquals(await code(outcome), "unknown");
  assertEquals(items.get("a")?.count, 5);
});

Deno.test("ClientState does not insert a row again that others have deleted since", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  const own = at.own.collection<Item>("items");
  const { outcome } = await at.loseReply(() => items.set("a", TEA));
  await at.offline(state);
  await own.delete("a");
  at.online();
  assertEquals(await code(outcome), "unknown");
  assertEquals({ itemsHasA: items.has("a"), ownHasA: own.has("a"), version: at.own.version }, {
    itemsHasA: false,
    ownHasA: false,
    version: 2,
  });
});

Deno.test("ClientState settles a deletion whose reply the broker has lost", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  await items.set("a", TEA);
  const gate = Promise.withResolvers<void>();
  at.store.make("logs.read", waitFor(gate.promise));
  let left = 1;
  const fate: Fate = async (run, call) => await (left-- > 0 ? loseReply(run, call) : run());
  at.store.make("logs.append", fate);
  assertEquals(await items.delete("a"), 2);
  gate.resolve();
  await until(() => at.own.version === 2);
});

Deno.test("ClientState replaces no newer row by a copy of a write that is handled late", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  const own = at.own.collection<Item>("items");
  await items.set("a", TEA);
  const [begun, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const late = Promise.withResolvers<void>();
  at.store.make("logs.append", async (run) => {
    begun.resolve();
    await gate.promise;
    return await run().finally(() => late.resolve());
  });
  const writing = items.set("a", { ...TEA, count: 1 });
  await begun.promise;
  at.store.make("logs.append", pass);
  await at.offline(state);
  at.online();
  assertEquals(await writing, 2);
  await own.set("a", { ...TEA, count: 5 });
  gate.resolve();
  await late.promise;
  assertEquals([own.get("a")?.count, at.own.version], [5, 3]);
});

Deno.test("ClientState brings back no deleted row by a copy of a write that is handled late", async () => {
  for (const isForgotten of [false, true]) {
    await using at = await Fixture.make();
    using state = await at.open();
    const items = state.collection<Item>("items");
    const own = at.own.collection<Item>("items");
    await items.set("a", TEA);
    const [begun, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const late = Promise.withResolvers<void>();
    at.store.make("logs.append", async (run) => {
      begun.resolve();
      await gate.promise;
      return await run().finally(() => late.resolve());
    });
    const writing = items.set("b", TEA);
    await begun.promise;
    at.store.make("logs.append", pass);
    await at.offline(state);
    at.online();
    assertEquals(await writing, 2);
    await own.delete("b");
    if (isForgotten) await forgetDeletions(at.store);
    gate.resolve();
    await late.promise;
    assertEquals([own.has("b"), at.own.version], [false, 3]);
    // A client that has seen the deletion may write the row.
    await until(() => !items.has("b"));
    assertEquals([await items.set("b", TEA), items.has("b")], [4, true]);
  }
});

Deno.test("ClientState writes a row anew that others wrote and deleted in the meantime", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  const own = at.own.collection<Item>("items");
  await items.set("a", TEA);
  const [begun, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  at.store.make("logs.append", async (run) => {
    begun.resolve();
    await gate.promise;
    return await run();
  });
  const writing = items.set("b", TEA);
  await begun.promise;
  at.store.make("logs.append", pass);
  await own.set("b", { ...TEA, count: 5 });
  await own.delete("b");
  gate.resolve();
  assertEquals([await writing, items.get("b")], [4, TEA]);
});

Deno.test("ClientState lets the last write win", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  const own = at.own.collection<Item>("items");
  await items.set("a", TEA);
  const begun = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  at.store.make("logs.append", async (run) => {
    begun.resolve();
    await gate.promise;
    return await run();
  });
  const writing = items.set("a", { ...TEA, count: 1 });
  await begun.promise;
  at.store.make("logs.append", pass);
  await own.set("a", { ...TEA, count: 5 });
  gate.resolve();
  assertEquals([await writing, items.get("a")?.count], [3, 1]);
  await until(() => own.get("a")?.count === 1);
});

Deno.test("ClientState repeats a write while the broker is unreachable", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  let left = 2;
  const fate: Fate = async (run, call) => await (left-- > 0 ? loseReply(run, call) : run());
  at.store.make("logs.append", fate);
  assertEquals(await items.set("a", TEA), 1);
  assertEquals([items.get("a"), at.own.version], [TEA, 1]);
});

Deno.test("ClientState replaces its rows in one step if the state was made anew", async () => {
  await using at = await Fixture.make();
  const own = at.own.collection<Item>("items");
  for (const key of ["a", "b"]) await own.set(key, TEA);
  using state = await at.open();
  const items = state.collection<Item>("items");
  const keys: string[] = [];
  using _following = items.subscribe((rows) => void keys.push([...rows.keys()].join()));
  await at.offline(state);
  await streamsOf(at.server).delete("list");
  await using anew = await statesOf(at.server).open("list");
  await anew.transaction((to) => {
    for (const key of ["b", "c"]) to.set("items", key, TEA);
  });
  at.online();
  await until(() => items.has("c"));
  assertEquals(keys, ["a,b", "b,c"]);
});

Deno.test("ClientState.changes() yields rows of a new state that have the versions of the old ones", async () => {
  await using at = await Fixture.make();
  const own = at.own.collection<number>("items");
  for (const key of ["a", "b", "c"]) await own.set(key, 1);
  using state = await at.open();
  const changes = state.changes<number>();
  const first = changes.next();
  await at.offline(state);
  await streamsOf(at.server).delete("list");
  await using anew = await statesOf(at.server).open("list");
  for (const [key, value] of [["a", 2], ["b", 1], ["c", 3]] as const) {
    await anew.collection<number>("items").set(key, value);
  }
  at.online();
  const of = { collection: "items", before: 1 };
  assertEquals((await soon(first)).value, { ...of, key: "a", value: 2 });
  assertEquals((await soon(changes.next())).value, { ...of, key: "c", value: 3 });
  await changes.return();
});

Deno.test("ClientState ends with the code gone if the state is deleted", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<Item>("items");
  await items.set("a", TEA);
  const reading = state.changes().next();
  const loop = (async () => {
    for await (const rows of items) assert(rows.size === 1);
  })();
  await streamsOf(at.server).delete("list");
  assertEquals([await code(reading), await code(loop)], ["gone", "gone"]);
  assertEquals(await code(items.set("a", TEA)), "gone");
});

Deno.test("ClientState waits for a state that its server creates after the start", async () => {
  await using own = server();
  await using page = client(own.url);
  using state = await page.state("list");
  await page.whenConnected();
  const asked = streamsOf(own).info("list"); // After the first request of the client.
  assertEquals(await asked, undefined);
  await using made = await statesOf(own).open("list");
  await made.collection("items").set("a", TEA);
  await state.ready;
  assertEquals(state.collection("items").get("a"), TEA);
});

Deno.test("ClientState waits for a state from the time at which its client is connected", async () => {
  using time = new FakeTime();
  const streams = durableStreams({ path: "/streams" });
  const states = liveState();
  await using own = testServer({ authorize: () => true, features: [streams, states] });
  own.network.down();
  const runtime = Object.assign(platformRuntime(), { monotonic: () => Date.now() });
  await using page = own.connect({ runtime });
  using state = await page.state("list");
  for (const before of ["pending", "lost"]) {
    await passTime(time, 120_000);
    assertEquals(state.status.current, before);
    await streams.delete("list");
    own.network.up();
    page.retryNow();
    await page.whenConnected();
    await passTime(time, 100); // The first reply arrives, which says that there is no state.
    assertEquals([state.status.current, state.error], [before, undefined]);
    await using _made = await states.open("list");
    await passTime(time, 5_000);
    assertEquals(state.status.current, "live");
    own.network.down();
    await passTime(time, 0);
  }
});

Deno.test("ClientState goes on after its server has restarted without the state", async () => {
  await using at = await Fixture.make();
  const own = at.own.collection<Item>("items");
  await own.set("a", TEA);
  using state = await at.open();
  const items = state.collection<Item>("items");
  await at.offline(state);
  await streamsOf(at.server).delete("list");
  at.online();
  await at.client.whenConnected();
  assertEquals(await streamsOf(at.server).info("list"), undefined);
  assertEquals([state.status.current, items.has("a")], ["lost", true]);
  await using anew = await statesOf(at.server).open("list");
  await anew.collection("items").set("b", TEA);
  await until(() => items.has("b"));
  assertEquals([state.status.current, [...items.keys()]], ["live", ["b"]]);
});

Deno.test("ClientState ends if there is no such state, or it is no state", async () => {
  await using at = await Fixture.make();
  await using writer = await streamsOf(at.server).create("plain");
  await writer.append(1);
  await using lists = await streamsOf(at.server).create("lists");
  await lists.append([1]);
  const faults = [["none", "not-found"], ["plain", "wrong-type"], ["lists", "wrong-type"]] as const;
  for (const [id, why] of faults) {
    using state = await at.client.state(id);
    assertEquals(await code(state.ready), why);
    assertEquals(state.status.current, "ended");
    assert(state.error instanceof RequestError);
    await assertRejects(() => state.collection("items").set("a", 1), RequestError);
  }
});

Deno.test("ClientState sends only the newest value of a row that is written again and again", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<number>("items");
  const writing = Array.from({ length: 100 }, (_, i) => items.set("a", i));
  assertEquals([items.get("a"), state.pendingWrites.current], [99, 1]);
  const versions = await Promise.all(writing);
  assertEquals([items.get("a"), at.own.version, versions.at(-1)], [99, 1, 1]);
});

Deno.test("ClientState sends writes in messages that the server accepts", async () => {
  await using own = server(undefined, { session: { maxMessageBytes: 4_096 } });
  await using _state = await statesOf(own).open("list");
  await using page = client(own.url);
  using state = await page.state("list");
  await state.ready;
  const items = state.collection<string>("items");
  const text = "x".repeat(1_000);
  await Promise.all(Array.from({ length: 20 }, (_, i) => items.set(`${i}`, text)));
  assertEquals(items.size, 20);
});

Deno.test("ClientState makes no write twice if the reply to several is too large", async () => {
  await using at = await Fixture.make();
  const own = at.own.collection<string>("items");
  const text = "x".repeat(261_700);
  await own.set("large", text);
  using state = await at.open();
  const items = state.collection<string>("items");
  let left = 1;
  const fate: Fate = async (run) => {
    if (left-- > 0) await own.set("large", text.toUpperCase());
    return await run();
  };
  at.store.make("logs.append", fate);
  const writing = Array.from({ length: 60 }, (_, i) => items.set(`${i}`, "value"));
  // The reply has no room for the row that others have changed.
  const updating = items.update("large", () => "small");
  await Promise.all(writing);
  await updating.catch(() => {});
  const isMade = items.get("large") === "small";
  assertEquals([items.size, at.own.version], [61, isMade ? 63 : 62]);
});

Deno.test("ClientState sends a write later if the session has no room for a request", async () => {
  const gate = Promise.withResolvers<void>();
  await using own = server(undefined, { requests: { slow: () => gate.promise } });
  await using _state = await statesOf(own).open("list");
  await using page = client(own.url);
  using state = await page.state("list");
  await state.ready;
  const session = await page.whenConnected();
  const requests = Array.from({ length: 64 }, () => session.request("slow"));
  await assertRejects(() => session.request("slow"), QueueFullError);
  const writing = state.collection("items").set("a", 1);
  writing.catch(() => {});
  await turns(20);
  gate.resolve();
  await Promise.all(requests);
  assertEquals(await writing, 1);
});

Deno.test("ClientState bounds the bytes of a write that replaces another", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<string>("items");
  await at.offline(state);
  const writing = [items.set("a", "x".repeat(200_000)), items.set("b", "small")];
  await assertRejects(() => items.set("b", "x".repeat(4_194_304)), QueueFullError);
  assertEquals(items.get("b"), "small");
  at.online();
  await Promise.all(writing);
});

Deno.test("ClientState bounds the writes that wait, and gives their room back", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<number>("items");
  for (let round = 0; round < 2; round++) {
    await at.offline(state);
    const writing = Array.from({ length: 1_000 }, (_, i) => items.set(`${i}`, i));
    await assertRejects(() => items.set("more", 1), QueueFullError, "at most 1000 writes");
    assertEquals(items.has("more"), false);
    at.online();
    await Promise.all(writing);
  }
  assertEquals({
    items: items.size,
    version: at.own.version,
    pendingWrites: state.pendingWrites.current,
  }, {
    items: 1_000,
    version: 2_000,
    pendingWrites: 0,
  });
});

Deno.test("ClientState gives back the bytes of writes, however they end", async () => {
  let isAllowed = true;
  const store = new FaultyStore();
  await using own = server(store.connect(), {
    authorizeChange: () => isAllowed,
    onMessageRejected() {},
    onError() {},
  });
  await using _list = await statesOf(own).open("list");
  await using cable = new Cable(Number(new URL(own.url).port));
  await using page = client(cable.url);
  using state = await page.state("list");
  await state.ready;
  const items = state.collection<string>("items");
  const text = "x".repeat(200_000);
  using _closed = captureConsole();
  const ends: Record<string, () => Promise<unknown>> = {
    made: () => items.set("a", text),
    rejected: async () => {
      isAllowed = false;
      assertEquals(await code(items.set("a", text)), "forbidden");
      isAllowed = true;
    },
    "replaced by the next one": () => Promise.all([items.set("a", text), items.set("a", text)]),
    withdrawn: async () => {
      const stop = new AbortController();
      const writing = [
        items.set("b", "busy"),
        items.set("b", text),
        items.set("b", text, { signal: stop.signal }),
      ];
      stop.abort(new Error("Enough"));
      await assertRejects(() => writing[2]!, Error, "Enough");
      await Promise.all(writing.slice(0, 2));
    },
    "with its state": async () => {
      const another = await page.state("list");
      const writing = another.collection<string>("items").set("c", text);
      another[Symbol.dispose]();
      await writing.catch(() => {});
    },
  };
  for (const [end, write] of Object.entries(ends)) {
    // More than 4 MiB in total.
    for (let i = 0; i < 22; i++) await write();
    await Promise.all([items.set("d", "1"), items.set("e", end)]);
  }
  assertEquals(state.pendingWrites.current, 0);
});

Deno.test("ClientState rejects writes that wait when it or its client is closed", async () => {
  await using at = await Fixture.make();
  for (const closes of ["state", "client"] as const) {
    const state = await at.open();
    await at.offline(state);
    const writing = state.collection("items").set("a", 1);
    if (closes === "state") state[Symbol.dispose]();
    else await at.client.close();
    const text = closes === "state" ? `The state "list" was` : `The client of the state "list" is`;
    await assertRejects(() => writing, SessionClosedError, `${text} closed`);
    const late = () => state.collection("items").set("b", 1);
    await assertRejects(late, SessionClosedError, `${text} closed`);
    assertEquals([state.status.current, state.pendingWrites.current], ["ended", 0]);
    assertEquals(state.collection("items").size, 0);
    at.online();
  }
});

Deno.test("ClientState takes back the writes that were not sent when their signal aborts", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<number>("items");
  await items.set("a", 1);
  await at.offline(state);
  const abort = new AbortController();
  const { signal } = abort;
  const withdrawn = [
    items.set("a", 5, { signal }),
    items.update("a", (count) => count * 2, { signal }),
    items.delete("b", { signal }),
    state.transaction((to) => to.set("items", "c", 1), { signal }),
    items.set("d", 1, { signal }),
  ];
  const writing = [items.set("d", 2), items.update("a", (count) => count + 1)];
  assertEquals(
    { a: items.get("a"), d: items.get("d"), pendingWrites: state.pendingWrites.current },
    {
      a: 11,
      d: 2,
      pendingWrites: 7,
    },
  );
  const reason = new Error("Undone");
  abort.abort(reason);
  assertEquals({
    hasC: items.has("c"),
    d: items.get("d"),
    pendingWrites: state.pendingWrites.current,
  }, {
    hasC: false,
    d: 2,
    pendingWrites: 2,
  });
  for (const write of withdrawn) assertEquals(await write.catch((error) => error), reason);
  assertEquals(await items.set("e", 1, { signal }).catch((error) => error), reason);
  assertEquals(await items.update("e", () => 1, { signal }).catch((error) => error), reason);
  const later = new AbortController();
  writing.push(items.set("f", 1));
  const replaced = items.set("f", 2, { signal: later.signal });
  later.abort(reason);
  assertEquals([await replaced.catch((error) => error), items.get("f")], [reason, 1]);
  at.online();
  await Promise.all(writing);
  assertEquals(Object.fromEntries(items), { a: 2, d: 2, f: 1 });
  assertEquals(at.own.version, 4);
});

Deno.test("ClientState rejects a write that is under way when its signal aborts, and shows its outcome", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<number>("items");
  await items.set("a", 1);
  for (const isFirst of [true, false]) {
    const abort = new AbortController();
    const held = at.hold();
    const writing = items.update("a", (count) => count + 10, { signal: abort.signal });
    await held.begun;
    const reason = new Error("Too late");
    abort.abort(reason);
    assertEquals(await writing.catch((error) => error), reason);
    assertEquals([items.get("a"), state.pendingWrites.current], [11, 1]);
    if (!isFirst) await at.own.collection("items").set("a", 3);
    held.release();
    await until(() => state.pendingWrites.current === 0);
    assertEquals(items.get("a"), isFirst ? 11 : 3, "a write that lost is not repeated");
    await items.set("a", 1);
  }
  const abort = new AbortController();
  const { outcome } = await at.loseReply(() => items.set("a", 7, { signal: abort.signal }));
  abort.abort();
  await assertRejects(() => outcome, DOMException);
  at.cable.cut();
  at.online();
  await until(() => state.pendingWrites.current === 0 && items.get("a") === 7);
});

Deno.test("ClientState sends no write whose signal a callback aborts", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const items = state.collection<number>("items");
  await Promise.all([items.set("a", 1), items.set("b", 1)]);
  await at.offline(state);
  const abort = new AbortController();
  let calls = 0;
  const early = items.set("a", 2, { signal: abort.signal });
  const late = items.update("b", (count) => {
    if (++calls === 2) abort.abort();
    return count + 1;
  }, { signal: abort.signal });
  at.online();
  for (const write of [early, late]) await assertRejects(() => write, DOMException);
  assertEquals({ a: items.get("a"), b: items.get("b"), calls, version: at.own.version }, {
    a: 1,
    b: 1,
    calls: 2,
    version: 2,
  });
  await items.set("c", 1);
  assertEquals(at.own.version, 3);
});

Deno.test("ClientState ends while the server rejects its client, and continues afterwards", async () => {
  let isAllowed = false;
  await using own = server(undefined, {
    authenticate: ({ token }: { token?: unknown }) => {
      if (!isAllowed) throw new AuthenticationError("Log in again", { status: 401 });
      return token;
    },
    tokens: { inMessage: true },
    onMessageRejected() {},
  });
  await using list = await statesOf(own).open("list");
  await list.collection("items").set("a", TEA);
  await using page = connect(own.url, { transports: ["websocket"], token: "ann" });
  using state = await page.state("list");
  const rejection = await assertRejects(() => state.ready, SessionClosedError, "Log in again");
  assertEquals({ current: state.status.current, error: state.error, code: rejection.info?.code }, {
    current: "ended",
    error: rejection,
    code: 4401,
  });
  const items = state.collection<Item>("items");
  const writing = items.set("b", TEA);
  page.retryNow();
  assertEquals([state.status.current, state.error], ["pending", undefined]);
  await assertRejects(() => state.ready, SessionClosedError, "4401");
  isAllowed = true;
  page.retryNow();
  await state.ready;
  assertEquals({ writing: await writing, items: items.size, current: state.status.current }, {
    writing: 2,
    items: 2,
    current: "live",
  });
  await page.session?.close({ code: CloseCode.forbidden });
  await until(() => state.status.current === "ended");
  assertEquals([items.size, (state.error as SessionClosedError).info?.code], [2, 4403]);
  const later = items.delete("a");
  page.retryNow();
  assertEquals(state.status.current, "lost");
  assertEquals({ later: await later, current: state.status.current, error: state.error }, {
    later: 3,
    current: "live",
    error: undefined,
  });
});

Deno.test("ClientState rejects everything if a rejection ends its client", async () => {
  await using own = server(undefined, { onMessageRejected() {} });
  await using _list = await statesOf(own).open("list");
  await using page = connect(own.url, { transports: ["websocket"], endOnRejection: true });
  using state = await page.state("list");
  await state.ready;
  await page.session?.close({ code: CloseCode.forbidden });
  await until(() => state.status.isEnded);
  await assertRejects(() => state.collection("items").set("a", 1), SessionClosedError, "4403");
  using late = await page.state("list");
  await assertRejects(() => late.ready, SessionClosedError, "rejected");
  assertEquals([late.status.current, late.status.isEnded], ["ended", true]);
});

Deno.test("ClientState and State leave nothing in memory once they are closed", async () => {
  v8.setFlagsFromString("--expose-gc");
  const collect = vm.runInNewContext("gc") as () => void;
  await using at = await Fixture.make();
  await at.own.collection("items").set("a", 1);
  const { signal } = new AbortController();
  const closed: WeakRef<object>[] = [];
  /** Uses a state in several ways, in a frame that keeps nothing. */
  const use = async (i: number) => {
    using state = await at.open();
    const items = state.collection<number>("items");
    using _following = items.subscribe(() => {});
    const changes = state.changes();
    const next = changes.next();
    await items.update("a", (n) => n + 1, { signal });
    await next;
    const rest = changes.next();
    await using own = await statesOf(at.server).open(i % 2 === 0 ? "list" : "other");
    const rows = state.collection("items").current;
    closed.push(...[state, items, changes, rows, own].map((one) => new WeakRef<object>(one)));
    state[Symbol.dispose]();
    await rest;
  };
  for (let i = 0; i < 8; i++) await use(i);
  await until(() => {
    collect();
    return closed.every((one) => one.deref() === undefined);
  });
});

Deno.test("ClientState does not claim to know the outcome of a write that is under way at its close", async () => {
  await using at = await Fixture.make();
  const state = await at.open();
  const { outcome } = await at.loseReply(() => state.collection("items").set("a", TEA));
  state[Symbol.dispose]();
  assertEquals([await code(outcome), at.own.version], ["unknown", 1]);
  at.cable.cut();
});

Deno.test("Servers show the row of a conflict only to clients that may read it", async () => {
  const asked: string[] = [];
  let mayRead: boolean | RequestError = false;
  await using own = server(undefined, {
    authorize(_: unknown, __: string, action: string) {
      asked.push(action);
      if (action === "publish") return true;
      if (typeof mayRead !== "boolean") throw mayRead;
      return mayRead;
    },
    onMessageRejected() {},
  });
  await using list = await statesOf(own).open("list");
  await list.collection("items").set("a", "secret");
  const socket = new WebSocket(own.url, ["skein.1"]);
  const replies = Array.from({ length: 6 }, () => Promise.withResolvers<string>());
  socket.onmessage = ({ data }) => {
    for (const line of data.split("\n")) replies[JSON.parse(line).reply]?.resolve(line);
  };
  await new Promise((resolve) => socket.onopen = resolve);
  let id = 0;
  const reply = async (envelope: object) => {
    socket.send(JSON.stringify({ ...envelope, id }));
    return JSON.parse(await replies[id++]!.promise).data;
  };
  const guess = { type: "items", key: "a", value: 1, headers: { operation: "upsert", expect: 7 } };
  const conflict = async (key: string) => {
    const data = { writes: [[{ ...guess, key }]] };
    return (await reply({ publish: "stream:list", data })).results[0].conflict;
  };
  assertEquals(await conflict("a"), { type: "items", key: "a", version: 1 });
  mayRead = new RequestError("locked", "Not now");
  assertEquals(await conflict("a"), { type: "items", key: "a", version: 1 });
  assertEquals(await conflict("b"), { type: "items", key: "b", version: 0, since: 1 });
  assertEquals(asked.splice(0), ["publish", "subscribe", "publish", "subscribe", "publish"]);
  mayRead = true;
  assertEquals((await conflict("a")).value, "secret");
  await reply({ subscribe: "stream:list" });
  asked.length = 0;
  assertEquals((await conflict("a")).value, "secret");
  assertEquals(asked, ["publish"], "a subscriber reads the rows in any case");
  const closed = new Promise((resolve) => socket.onclose = resolve);
  socket.close();
  await closed;
});

Deno.test("Servers reject publications on a stream that are no transactions", async () => {
  await using at = await Fixture.make();
  const session = await at.client.whenConnected();
  const change = { type: "t", key: "k", value: 1, headers: { operation: "upsert" } };
  for (
    const data of [undefined, 1, [], {}, { writes: [] }, { writes: [[]] }, { writes: [change] }, {
      writes: Array(65).fill([change]),
    }]
  ) {
    assertEquals(await code(session.publish("stream:list", data)), "malformed");
  }
  assertEquals(await code(session.publish("stream:list", { cancel: 1 })), "malformed");
  assertEquals(at.own.version, 0);
  await session.publish("stream:list", { writes: [[{ ...change, type: 1 }], [change]] });
  await until(() => at.own.version === 1);
});

/** Transactions of one change each. */
function transactions(count: number): { writes: object[][] } {
  const headers = { operation: "upsert" };
  return {
    writes: Array.from(
      { length: count },
      (_, i) => [{ type: "t", key: `${i}`, value: i, headers }],
    ),
  };
}

Deno.test("Servers handle other events between the transactions of a publication", async () => {
  let turn = 0;
  let isOver = false;
  const seen: number[] = [];
  const tick = () => {
    turn++;
    if (!isOver) setImmediate(tick);
  };
  const authorizeChange = () => {
    const end = performance.now() + 1;
    while (performance.now() < end);
    return seen.push(turn) > 0;
  };
  await using host = server(undefined, { authorizeChange });
  await using _own = await statesOf(host).open("list");
  await using page = await Page.open(host.url, "skein.1");
  tick();
  const { data } = await page.ask({ publish: "stream:list", data: transactions(64) });
  isOver = true;
  assertEquals((data!["results"] as unknown[]).length, 64);
  assert(new Set(seen).size >= 10, "At most 5 ms pass without other events");
});

Deno.test("Servers count each change of a publication toward the rates", async () => {
  const rates = { perSession: { publications: { perSecond: 1, burst: 12 } } };
  await using host = server(undefined, { rates });
  await using _own = await statesOf(host).open("list");
  await using page = await Page.open(host.url, "skein.1");
  const publish = (count: number) =>
    page.ask({ publish: "stream:list", data: transactions(count) });
  const first = await publish(10);
  assertEquals((first.data?.["results"] as unknown[])?.length, 10);
  assertEquals((await publish(10)).error?.code, "too-many");
});
