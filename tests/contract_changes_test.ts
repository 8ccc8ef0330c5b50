/** Tests states whose contract changes: between servers, and under open pages. */
import { assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import {
  type Broker,
  type Client,
  type ClientState,
  connect,
  type Contract,
  defineContract,
  type RequestedChange,
  RequestError,
} from "../mod.ts";
import { durableStreams, liveState, type State } from "../streams/mod.ts";
import { Cable } from "./networks/cable.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { listen } from "./servers.ts";
import { until } from "./waiting.ts";

const TEXT = z.object({ text: z.string() });

type States = NonNullable<Contract["definition"]["state"]>[string];

/** A server with the states `q:{id}` of a contract. */
class Node implements AsyncDisposable {
  readonly server;
  readonly #live;

  constructor(broker: Broker, collections: States | undefined, options: object = {}) {
    const contract: Contract | undefined = collections &&
      defineContract({ state: { "q:{id}": collections } });
    this.#live = liveState(contract);
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
