/** Tests states whose contract changes: between servers, and under open pages. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import {
  type Broker,
  type Client,
  type ClientState,
  connect,
  type Contract,
  defineContract,
  platformRuntime,
  type RequestedChange,
  RequestError,
  type Runtime,
} from "../mod.ts";
import {
  durableStreams,
  liveState,
  type MigratedRows,
  type MigrateRow,
  type State,
  type StateMigration,
} from "../streams/mod.ts";
import { Cable } from "./networks/cable.ts";
import { captureConsole } from "./console_lines.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { hurried, listen } from "./servers.ts";
import { turns, until } from "./waiting.ts";

const TEXT = z.object({ text: z.string() });

/** The collections of a state, in the short or the long form. */
type States = NonNullable<Contract["definition"]["state"]>[string];

interface NodeOptions {
  readonly migrate?: MigrateRow | undefined;
  readonly onOpen?: () => Record<string, Record<string, unknown>>;
  readonly authorizeChange?: (change: RequestedChange) => boolean;
  readonly session?: { readonly requestTimeoutMs: number };
  readonly runtime?: Runtime;
  readonly onError?: ((error: unknown) => void) | undefined;
}

/** A server with the states `q:{id}` of a contract. */
class Node implements AsyncDisposable {
  readonly server;
  readonly #live;

  constructor(
    broker: Broker,
    collections: States,
    { migrate, onOpen, ...options }: NodeOptions = {},
  ) {
    const contract: Contract = defineContract({ state: { "q:{id}": collections } });
    this.#live = liveState(contract, { migrate, onOpen });
    this.server = listen({
      webTransport: false,
      broker,
      contract,
      features: [durableStreams({ path: "/streams", authorize: () => true }), this.#live],
      authorize: () => true,
      onMessageRejected() {},
      onError() {},
      ...options,
    });
  }

  async open(id = "q:1"): Promise<State> {
    return await this.#live.open(id) as State;
  }

  get port(): number {
    return Number(new URL(this.server.url).port);
  }

  /** Sends changes over HTTP, and returns the code of the rejection. */
  async append(...changes: readonly object[]): Promise<string> {
    const url = new URL("/streams/q:1", this.server.url.replace("ws", "http"));
    const headers = { "content-type": "application/json" };
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(changes) });
    const text = await response.text();
    return response.ok ? "ok" : JSON.parse(text).code;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.server.close();
  }
}

/** A page with the state, whose connection may move between servers. */
class Page implements AsyncDisposable {
  readonly #cable: Cable;
  readonly client: Client;
  declare readonly state: ClientState;

  constructor(node: Node) {
    this.#cable = new Cable(node.port);
    this.client = connect(this.#cable.url, {
      transports: ["websocket"],
      backoff: { firstDelayMs: 1, maxDelayMs: 5 },
      onError() {},
    });
  }

  static async open(node: Node): Promise<Page> {
    const page = new Page(node);
    const state = await page.client.state("q:1");
    await state.ready;
    return Object.assign(page, { state });
  }

  /** Loses the connection, and connects to another server. */
  moveTo(node: Node): void {
    this.#cable.port = node.port;
    this.#cable.cut();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
    await this.#cable[Symbol.asyncDispose]();
  }
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, RequestError)).failure.code;
}

function rowsOf(state: State | ClientState, name: string): Record<string, unknown> {
  return Object.fromEntries<unknown>(state.collection(name));
}

const renamed = { from: { cards: TEXT }, to: { tasks: TEXT } };

Deno.test("rows of a collection that the contract no longer has are listed and deleted", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), renamed.from);
  await using before = await old.open();
  const keys = ["a", "b", "c", "d", "e"];
  for (const key of keys) await before.collection("cards").set(key, { text: key });
  const asked: RequestedChange[] = [];
  const authorizeChange = (change: RequestedChange) => {
    asked.push(change);
    return change.key !== "e";
  };
  await using node = new Node(store.connect(), renamed.to, { authorizeChange });
  await using state = await node.open();
  assertEquals(Array.from(state.collections(), ([name, rows]) => [name, rows.size]), [[
    "cards",
    5,
  ]]);
  assertEquals(new Map(state.collections()).get("cards")?.get("a"), { text: "a" });
  const cards = state.collection("cards");
  assertEquals(await codeOf(cards.set("a", { text: "A" })), "unknown-collection");
  await cards.delete("a");
  await state.transaction((transaction) => {
    transaction.set("tasks", "b", { text: "b" });
    transaction.delete("cards", "b");
  });
  await using page = await Page.open(node);
  await page.state.collection("cards").delete("c");
  const deletion = (key: string) => ({ type: "cards", key, headers: { operation: "delete" } });
  assertEquals(await node.append(deletion("d")), "ok");
  await until(() => cards.size === 1);
  // Clients need the permission of `authorizeChange`.
  assertEquals(await codeOf(page.state.collection("cards").delete("e")), "forbidden");
  assertEquals(await node.append(deletion("e")), "forbidden");
  assertEquals(asked.map(({ action, collection, before }) => [action, collection, before]), [
    ["delete", "cards", { text: "c" }],
    ["delete", "cards", { text: "d" }],
    ["delete", "cards", { text: "e" }],
    ["delete", "cards", { text: "e" }],
  ]);
  assertEquals([rowsOf(state, "cards"), rowsOf(state, "tasks")], [
    { e: { text: "e" } },
    { b: { text: "b" } },
  ]);
});

const EPHEMERAL = { cur: { schema: z.number(), ephemeral: true }, cards: TEXT };
const STORED = { cur: z.number(), cards: TEXT };

Deno.test("a page ends when an ephemeral collection becomes a stored one", async () => {
  const store = new FaultyStore();
  await using one = new Node(store.connect(), EPHEMERAL);
  await using two = new Node(store.connect(), STORED);
  await using _own = await one.open();
  await using page = await Page.open(one);
  const { state } = page;
  await state.collection("cur").set("a", 1);
  page.moveTo(two);
  // It was made before the page knows, and waits for the connection.
  await until(() => state.status.current === "lost");
  const writes = [state.collection("cur").set("b", 2), state.collection("cards").delete("a")];
  const codes = await Promise.all(writes.map(codeOf));
  assertEquals(codes, ["contract-changed", "contract-changed"]);
  assertEquals([state.status.current, state.pendingWrites.current], ["ended", 0]);
  assertEquals(await codeOf(state.collection("cur").set("c", 3)), "contract-changed");
  assertEquals((state.error as RequestError).failure.code, "contract-changed");
  const again = await page.client.state("q:1");
  await again.ready;
  await again.collection("cur").set("b", 2);
  assertEquals(rowsOf(again, "cur"), { b: 2 });
});

Deno.test("a page ends when a stored collection becomes an ephemeral one", async () => {
  const store = new FaultyStore();
  await using one = new Node(store.connect(), STORED);
  await using two = new Node(store.connect(), EPHEMERAL);
  await using _own = await one.open();
  await using page = await Page.open(one);
  const { state } = page;
  await state.collection("cur").set("a", 1);
  page.moveTo(two);
  await until(() => state.status.current === "lost");
  assertEquals(await codeOf(state.collection("cur").set("b", 2)), "contract-changed");
  assertEquals(state.status.current, "ended");
  // The rows of before are not shown any more, and can be deleted.
  await using own = await two.open();
  await using other = await Page.open(two);
  assertEquals([rowsOf(own, "cur"), rowsOf(other.state, "cur")], [{}, {}]);
  const stored = async () => {
    const response = await fetch(`http://127.0.0.1:${two.port}/streams/q:1`);
    const messages: { type?: string; headers: { operation: string } }[] = await response.json();
    return messages.filter(({ type }) => type === "cur").map(({ headers }) => headers.operation);
  };
  assertEquals(await stored(), ["insert"]);
  await own.collection("cur").delete("a");
  assertEquals(await stored(), ["delete"]);
  const missing = own.transaction((transaction) => transaction.delete("cur", "a"));
  assertEquals(await codeOf(missing), "ephemeral");
});

Deno.test("a page goes on when the contract gets more collections", async () => {
  const store = new FaultyStore();
  await using one = new Node(store.connect(), { cards: TEXT });
  await using two = new Node(store.connect(), EPHEMERAL);
  await using _own = await one.open();
  await using page = await Page.open(one);
  const { state } = page;
  await state.collection("cards").set("a", { text: "a" });
  page.moveTo(two);
  await until(() => state.status.current === "lost");
  await state.collection("cards").set("b", { text: "b" });
  await state.collection("cur").set("b", 2);
  await using own = await two.open();
  assertEquals([rowsOf(own, "cards"), rowsOf(own, "cur")], [
    { a: { text: "a" }, b: { text: "b" } },
    { b: 2 },
  ]);
});

const DELETION = { type: "tasks", key: "1", headers: { operation: "delete" } };
const V1 = { collections: { cards: TEXT }, version: 1 };
const TASK = z.object({ text: z.string(), done: z.boolean() });
const V2 = { collections: { tasks: TASK }, version: 2 };

/** Renames the collection of {@linkcode V1}, and notes the rows. */
function renaming(rows: StateMigration[] = []): MigrateRow {
  return (row, transaction) => {
    rows.push(row);
    if (row.collection !== "cards") return;
    transaction.set("tasks", row.key, { ...Object(row.value), done: false });
    transaction.delete("cards", row.key);
  };
}

/** Stores rows of {@linkcode V1}. */
async function fill(node: Node, count: number): Promise<void> {
  await using state = await node.open();
  for (let done = 0; done < count; done += 500) {
    await state.transaction((transaction) => {
      for (let i = done; i < Math.min(done + 500, count); i++) {
        transaction.set("cards", `${i}`, { text: `${i}` });
      }
    });
  }
}

/** The number of rows of each collection. */
function countsOf(state: State | ClientState): Record<string, number> {
  return Object.fromEntries(Array.from(state.collections(), ([name, rows]) => [name, rows.size]));
}

Deno.test("a new version moves the rows once, also with two servers and several readers", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), V1);
  await fill(old, 1_300);
  const moved: StateMigration[] = [];
  await using one = new Node(store.connect(), V2, { migrate: renaming(moved) });
  await using two = new Node(store.connect(), V2, { migrate: renaming(moved) });
  const [own, other, page] = await Promise.all([one.open(), two.open(), Page.open(two)]);
  await using _open = page;
  for (const state of [own, other, page.state]) assertEquals(countsOf(state), { tasks: 1_300 });
  assertEquals(moved.length, 1_300);
  assertEquals(moved[0], {
    id: "q:1",
    collection: "cards",
    key: "0",
    value: { text: "0" },
    from: 1,
    to: 2,
  });
  assertEquals(own.collection("tasks").get("7"), { text: "7", done: false });
  await page.state.collection("tasks").set("new", { text: "new", done: true });
  await using _again = await two.open();
  assertEquals(moved.length, 1_300);
  for (const state of [own, other]) await state[Symbol.asyncDispose]();
});

Deno.test("a server with an older contract rejects writes for now, and its readers read on", async () => {
  const store = new FaultyStore();
  const denied: unknown[] = [];
  await using old = new Node(store.connect(), V1, {
    authorizeChange: (change: RequestedChange) => denied.push(change) < 0,
  });
  await using own = await old.open();
  await own.collection("cards").set("1", { text: "A" });
  await using reader = await Page.open(old);
  await using node = new Node(store.connect(), V2, { migrate: renaming() });
  await using state = await node.open();
  await until(() => reader.state.collection("tasks").size === 1);
  assertEquals([countsOf(own), countsOf(reader.state)], [{ tasks: 1 }, { tasks: 1 }]);
  const set = (type: string) => ({
    type,
    key: "2",
    value: { text: "B", done: true },
    headers: { operation: "upsert" },
  });
  // Neither its schemas nor its `authorizeChange` can judge the rows.
  for (const type of ["cards", "tasks"]) assertEquals(await old.append(set(type)), "unavailable");
  const error = await assertRejects(
    () => own.collection("cards").set("2", { text: "B" }),
    RequestError,
    "have another version than the server's contract",
  );
  assertEquals([error.failure.code, error.failure.retryAfterMs], ["unavailable", 1_000]);
  assertEquals(await node.append(set("tasks")), "ok");
  await until(() => state.collection("tasks").size === 2);
});

Deno.test("a migration changes the rows that fit no schema any more before they are checked", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), { cards: z.number() });
  await using before = await old.open();
  await before.collection("cards").set("a", 7);
  await before.collection("cards").set("b", 8, { ttlMs: 3_600_000 });
  const asked: unknown[] = [];
  await using node = new Node(store.connect(), { collections: { cards: z.string() }, version: 5 }, {
    migrate: async (
      { collection, key, value }: StateMigration,
      rows: MigratedRows,
    ) => {
      await Promise.resolve();
      rows.set(collection, key, String(value));
    },
    authorizeChange: ({ before }: RequestedChange) => asked.push(before) > 0,
  });
  // Without a reader, a write starts the migration.
  const change = { type: "cards", key: "a", value: "9", headers: { operation: "update" } };
  await until(async () => await node.append(change) === "ok");
  await using state = await node.open();
  assertEquals([rowsOf(state, "cards"), asked.at(-1)], [{ a: "9", b: "8" }, "7"]);
});

// Rows are read in pieces of 500, and at most 1,000 changes are written together.
for (
  const [where, between, changesPerRow] of [
    ["in the same piece", 0, 1],
    ["after a write within the piece", 400, 4],
    ["in a later piece", 600, 1],
  ] as const
) {
  Deno.test(`migrate does not receive a row that it has changed, ${where}`, async () => {
    const store = new FaultyStore();
    await using old = new Node(store.connect(), V1);
    await using before = await old.open();
    await before.collection("cards").set("first", { text: "Tea" });
    await fill(old, between);
    for (const key of ["twin", "total"]) await before.collection("cards").set(key, { text: "Tea" });
    const asked: string[] = [];
    await using node = new Node(store.connect(), { collections: { cards: TASK }, version: 2 }, {
      migrate({ collection, key, value }: StateMigration, rows: MigratedRows) {
        asked.push(key);
        if (key === "first") {
          rows.delete(collection, "twin");
          rows.set(collection, "total", { text: "2", done: true });
        }
        rows.set(collection, key, { ...Object(value), done: false });
        for (let i = 1; i < changesPerRow; i++) rows.delete(collection, `${key}/${i}`);
      },
    });
    await using state = await node.open();
    const keys = Array.from({ length: between }, (_, i) => `${i}`);
    assertEquals(asked, ["first", ...keys]);
    const cards = state.collection("cards");
    assertEquals([cards.size, cards.get("twin"), cards.get("total")], [
      between + 2,
      undefined,
      { text: "2", done: true },
    ]);
  });
}

Deno.test("a migration waits for a promise of another library", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), V1);
  await fill(old, 2);
  await using node = new Node(store.connect(), V2, {
    migrate(row: StateMigration, rows: MigratedRows) {
      const moving = turns(1).then(() => renaming()(row, rows));
      return { then: moving.then.bind(moving) } as Promise<void>;
    },
  });
  await using state = await node.open();
  assertEquals(countsOf(state), { tasks: 2 });
});

Deno.test("a failed migration is reported once, and repeated after a pause", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), V1);
  await fill(old, 3);
  let isHanging = false;
  const failures: (() => void | Promise<void>)[] = [
    () => {
      throw new Error("Wrong row");
    },
    () => {
      isHanging = true;
      return new Promise(() => {});
    },
    () => {
      isHanging = false;
      return Promise.reject(new Error("Wrong again"));
    },
  ];
  const errors: unknown[] = [];
  let nowMs = 0;
  const rows: StateMigration[] = [];
  await using node = new Node(store.connect(), V2, {
    migrate: (row: StateMigration, transaction: MigratedRows) =>
      failures.length > 0 ? failures.shift()!() : renaming(rows)(row, transaction),
    session: { requestTimeoutMs: 8_000 },
    onError: (error) => errors.push(error),
    runtime: Object.assign(hurried(50, (ms) => isHanging && ms > 5_000 && ms <= 8_000), {
      monotonic: () => nowMs,
    }),
  });
  for (const waitMs of [1_000, 2_000, 4_000]) {
    assertEquals(await codeOf(node.open()), "unavailable");
    const left = failures.length;
    const error = await assertRejects(() => node.open(), RequestError, "do not have the version");
    assertEquals(failures.length, left, "that it waits for the pause");
    assertEquals(error.failure.retryAfterMs, waitMs);
    assertEquals(
      await node.append({ type: "tasks", key: "1", headers: { operation: "delete" } }),
      "unavailable",
    );
    nowMs += waitMs;
  }
  await using state = await node.open();
  assertEquals(countsOf(state), { tasks: 3 });
  assertEquals(errors.map(String), ['Error: The migration of the state "q:1" failed: Wrong row']);
});

Deno.test("pages wait for the rows while they are moved, and after a failure", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), V1);
  await fill(old, 2);
  const first = Promise.withResolvers<void>();
  let calls = 0;
  await using node = new Node(store.connect(), V2, {
    async migrate(row, rows) {
      if (calls++ === 0) await first.promise;
      await renaming()(row, rows);
    },
  });
  await using page = new Page(node);
  const state = await page.client.state("q:1");
  // The state is shown as it is until the rows have the new form.
  const writing = state.collection("tasks").set("new", { text: "new", done: true });
  await until(async () => await node.append(DELETION) === "unavailable");
  assertEquals([state.status.current, countsOf(state)], ["pending", { tasks: 1 }]);
  first.reject(new Error("Not now"));
  await state.ready;
  await writing;
  assertEquals(countsOf(state), { tasks: 3 });
});

Deno.test("a row that does not fit after a migration stops it, with the row's name", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), V1);
  await fill(old, 2);
  using printed = captureConsole();
  await using node = new Node(store.connect(), V2, {
    migrate: ({ key, value }: StateMigration, rows: MigratedRows) => rows.set("tasks", key, value),
    onError: undefined, // Errors are printed.
  });
  assertEquals(await codeOf(node.open()), "unavailable");
  assertEquals(await codeOf(node.open()), "unavailable");
  // The servers also print that their contracts differ.
  const [line, ...rest] = printed.lines.filter((line) => !line.includes("different options"));
  assertEquals(rest, []);
  assert(line!.includes('the row "0" of "tasks" must fit the contract'));
});

Deno.test("another server goes on with a migration whose server has died", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), V1);
  await fill(old, 1_300);
  const broker = store.connect();
  let pieces = 0;
  const reached = Promise.withResolvers<void>();
  const resumed = Promise.withResolvers<void>();
  // It dies after two pieces.
  broker.make("logs.append", async (run) => {
    if (pieces++ < 3) return await run();
    reached.resolve();
    await resumed.promise;
    return await run();
  });
  const first: StateMigration[] = [];
  const second: StateMigration[] = [];
  const dead = new Node(broker, V2, { migrate: renaming(first) });
  const opening = dead.open();
  await reached.promise;
  let aheadMs = 0;
  await using node = new Node(store.connect(), V2, {
    migrate: renaming(second),
    runtime: Object.assign(platformRuntime(), { monotonic: () => performance.now() + aheadMs }),
  });
  const next = node.open();
  // Until then, the mark may be of a server that goes on.
  assertEquals(
    await node.append({ type: "tasks", key: "1", headers: { operation: "delete" } }),
    "unavailable",
  );
  // Its look at the mark sees that there is no progress.
  await until(() => {
    aheadMs += 10_000;
    return second.length > 0;
  });
  await using state = await next;
  assertEquals(countsOf(state), { tasks: 1_300 });
  // The rows of the two pieces are not moved again.
  assertEquals([first.length, second.length], [1_300, 300]);
  // It was only suspended: its piece comes too late, and changes nothing.
  resumed.resolve();
  assertEquals(countsOf(await opening), { tasks: 1_300 });
  await dead[Symbol.asyncDispose]();
  assertEquals(countsOf(state), { tasks: 1_300 });
});

Deno.test("no write is lost while pages are connected to servers with both versions", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), {
    collections: { cards: TEXT, counts: z.number() },
  }, { authorizeChange: () => false });
  await using before = await old.open();
  await before.collection("counts").set("votes", 0);
  await using node = new Node(store.connect(), {
    collections: { tasks: TASK, counts: z.number() },
    version: 2,
  }, { migrate: renaming() });
  await using page = await Page.open(old);
  await using own = await node.open();
  const { state } = page;
  const counts = state.collection<number>("counts");
  // All of these are sent to the old server, which may not judge them any more.
  const writes = [
    counts.update("votes", (votes) => votes + 1),
    counts.set("other", 1),
    state.collection("tasks").set("1", { text: "A", done: true }),
    state.transaction((rows) => {
      rows.set("tasks", "2", { text: "B", done: true });
      rows.delete("cards", "1");
    }),
  ];
  let settled = 0;
  for (const write of writes) write.finally(() => settled++).catch(() => {});
  await until(async () => await old.append(DELETION) === "unavailable");
  assertEquals([settled, state.pendingWrites.current, counts.get("votes")], [0, 4, 1]);
  page.moveTo(node);
  await Promise.all(writes);
  assertEquals(rowsOf(own, "counts"), { votes: 1, other: 1 });
  assertEquals(countsOf(own), { counts: 2, tasks: 2 });
});

Deno.test("a state without rows takes the version of its first write", async () => {
  const store = new FaultyStore();
  const rows: StateMigration[] = [];
  await using node = new Node(store.connect(), V2, { migrate: renaming(rows) });
  await using old = new Node(store.connect(), V1);
  await using first = await old.open();
  await using state = await node.open();
  await state.collection("tasks").set("1", { text: "A", done: true });
  assertEquals(await codeOf(first.collection("cards").set("1", { text: "A" })), "unavailable");
  assertEquals([rows, countsOf(first)], [[], { tasks: 1 }]);
});

Deno.test("the first rows of a state have the version of the contract", async () => {
  const store = new FaultyStore();
  const moved: StateMigration[] = [];
  const options = {
    migrate: renaming(moved),
    onOpen: () => ({ tasks: { first: { text: "first", done: false } } }),
  };
  await using node = new Node(store.connect(), V2, options);
  await using page = await Page.open(node);
  assertEquals(countsOf(page.state), { tasks: 1 });
  await page.state.collection("tasks").set("1", { text: "A", done: true });
  await using other = new Node(store.connect(), V2, options);
  await using state = await other.open();
  assertEquals([countsOf(state), moved], [{ tasks: 2 }, []]);
  await using old = new Node(store.connect(), V1);
  assertEquals(await old.append(DELETION), "unavailable");
});

Deno.test("rows go back to an older form with a newer version", async () => {
  const store = new FaultyStore();
  await using one = new Node(store.connect(), V2);
  await using state = await one.open();
  await state.collection("tasks").set("1", { text: "A", done: true });
  // The old version alone only reads.
  await using back = new Node(store.connect(), V1);
  await using only = await back.open();
  assertEquals(countsOf(only), { tasks: 1 });
  assertEquals(await codeOf(only.collection("cards").set("2", { text: "B" })), "unavailable");
  await using three = new Node(store.connect(), { ...V1, version: 3 }, {
    migrate({ collection, key, value }: StateMigration, rows: MigratedRows) {
      if (collection !== "tasks") return;
      rows.set("cards", key, { text: Object(value).text });
      rows.delete("tasks", key);
    },
  });
  await using again = await three.open();
  assertEquals(rowsOf(again, "cards"), { 1: { text: "A" } });
  assertEquals(await codeOf(state.collection("tasks").delete("1")), "unavailable");
});

Deno.test("without migrate, the rows stay as they are, with the new version", async () => {
  const store = new FaultyStore();
  await using old = new Node(store.connect(), V1);
  await fill(old, 1);
  await using node = new Node(store.connect(), V2);
  await using state = await node.open();
  assertEquals(countsOf(state), { cards: 1 });
  await state.collection("cards").delete("0");
  assertEquals(
    await old.append({ type: "cards", key: "a", headers: { operation: "delete" } }),
    "unavailable",
  );
});
