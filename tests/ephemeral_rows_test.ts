/** Tests rows of live states that are not stored: cursors, for example. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import {
  type Broker,
  type Client,
  type ClientStateOf,
  CloseCode,
  connect,
  defineContract,
  MemoryBroker,
  QueueFullError,
  RequestError,
  type Server,
} from "../mod.ts";
import { Cable } from "./networks/cable.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { listen } from "./servers.ts";
import { soon, turns, until } from "./waiting.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";
import type { StateOf } from "../streams/mod.ts";

const CURSOR = z.object({ x: z.number().max(1_000), by: z.string().default("") });

const contract = defineContract({
  state: {
    "board:{id}": {
      cards: z.string(),
      cursors: { schema: CURSOR, ephemeral: true },
      notes: { schema: z.string() },
    },
  },
});
type Board = ClientStateOf<typeof contract, `board:${string}`>;
type OwnBoard = StateOf<typeof contract, `board:${string}`>;

function server(broker: Broker = new MemoryBroker(), options: object = {}): Server {
  return listen({
    webTransport: false,
    broker,
    contract,
    features: streamFeatures({ path: "/streams", authorize: () => true }),
    authenticate: ({ token }) => token ?? "guest",
    tokens: { inMessage: true },
    authorize: () => true,
    presence: { graceMs: 60_000 },
    onMessageRejected() {},
    onError() {},
    ...options,
  }) as unknown as Server;
}

function client(url: string, token = "ann"): Client {
  return connect(url, {
    token,
    transports: ["websocket"],
    backoff: { firstDelayMs: 1, maxDelayMs: 5 },
  });
}

/** A server with a board, and clients whose connections a test can cut. */
class Fixture implements AsyncDisposable {
  readonly server: Server;
  readonly #open: AsyncDisposable[] = [];
  declare readonly own: OwnBoard;

  constructor(options: object = {}, broker?: Broker) {
    this.server = server(broker, options);
  }

  static async make(options: object = {}, broker?: Broker): Promise<Fixture> {
    const fixture = new Fixture(options, broker);
    const own = await statesOf(fixture.server).open("board:1") as unknown as OwnBoard;
    return Object.assign(fixture, { own });
  }

  async open(token?: string): Promise<{ client: Client; board: Board; cable: Cable }> {
    const cable = new Cable(Number(new URL(this.server.url).port));
    const one = client(cable.url, token);
    this.#open.push(cable, { [Symbol.asyncDispose]: () => one.close() });
    const board = await one.state("board:1") as unknown as Board;
    await board.ready;
    return { client: one, board, cable };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of this.#open.reverse()) await one[Symbol.asyncDispose]();
    await this.own?.[Symbol.asyncDispose]();
    await this.server[Symbol.asyncDispose]();
  }
}

async function code(promise: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => promise, RequestError);
  return error.failure.code;
}

Deno.test("ephemeral rows are shared between clients and servers, and not stored", async () => {
  await using at = await Fixture.make();
  const own = at.own.collection("cursors");
  await own.set("server", { x: 1 });
  assertEquals([...own], [["server", { x: 1, by: "" }]]);
  const [{ board: ann }, { board: bob }] = [await at.open(), await at.open("bob")];
  const cursors = ann.collection("cursors");
  await until(() => cursors.has("server"));
  const writing = cursors.set("ann", { x: 2 });
  assertEquals({
    x: cursors.get("ann")?.x,
    cursors: cursors.size,
    pendingWrites: ann.pendingWrites.current,
  }, { x: 2, cursors: 2, pendingWrites: 0 });
  await writing;
  assertEquals(own.get("ann"), { x: 2, by: "" });
  await until(() => bob.collection("cursors").get("ann")?.x === 2);
  await until(() => cursors.get("ann")?.by === "");
  await cursors.update("ann", (cursor) => ({ ...cursor, x: 3 }));
  await until(() => bob.collection("cursors").get("ann")?.x === 3);
  await cursors.delete("ann");
  await until(() => !bob.collection("cursors").has("ann"));
  assertEquals([cursors.has("ann"), own.has("ann")], [false, false]);
  assertEquals(at.own.version, 0);
  const { server: { address } } = at;
  const stream = await fetch(`http://127.0.0.1:${address!.port}/streams/board:1`);
  assert(!(await stream.text()).includes("cursors"));
});

Deno.test("an ephemeral row is a change of the state", async () => {
  await using at = await Fixture.make();
  const { board } = await at.open();
  const changes = [board.changes(), at.own.changes()];
  const next = Promise.all(changes.map((one) => one.next()));
  await board.collection("cursors").set("a", { x: 1, by: "ann" });
  const change = {
    collection: "cursors",
    key: "a",
    value: { x: 1, by: "ann" },
    before: undefined,
  } as const;
  assertEquals((await next).map(({ value }) => value), [change, change]);
  for (const one of changes) await one.return();
});

Deno.test("a state that was deleted and created again yields the changes of ephemeral rows", async () => {
  await using at = await Fixture.make();
  await streamsOf(at.server).delete("board:1");
  await using again = await statesOf(at.server).open("board:1") as unknown as OwnBoard;
  await at.own[Symbol.asyncDispose]();
  const changes = again.changes();
  const next = changes.next();
  await again.collection("cursors").set("a", { x: 1 });
  assertEquals((await soon(next)).value?.key, "a");
  await changes.return();
});

Deno.test("ephemeral rows leave with their session, after the grace period", async () => {
  await using at = await Fixture.make({ presence: { graceMs: 50 } });
  const own = at.own.collection("cursors");
  const { board, cable } = await at.open();
  await board.collection("cursors").set("a", { x: 1 });
  cable.port = 1;
  cable.cut();
  await until(() => board.status.current === "lost");
  assertEquals(board.collection("cursors").size, 1);
  await until(() => own.size === 0);
});

Deno.test("ephemeral rows leave immediately with their state", async () => {
  await using at = await Fixture.make();
  const { board } = await at.open();
  await board.collection("cursors").set("a", { x: 1 });
  board[Symbol.dispose]();
  const own = at.own.collection("cursors");
  await until(() => own.size === 0);
  {
    await using other = await statesOf(at.server).open("board:1") as unknown as OwnBoard;
    await other.collection("cursors").set("b", { x: 1 });
    assertEquals(own.size, 1);
  }
  assertEquals(own.size, 0);
});

Deno.test("a client sends its ephemeral rows again after a reconnect", async () => {
  await using at = await Fixture.make({ presence: { graceMs: 0 } });
  const { board: other } = await at.open("bob");
  const { client, board, cable } = await at.open();
  const { port } = cable;
  const [cursors, theirs] = [board.collection("cursors"), other.collection("cursors")];
  await cursors.set("a", { x: 1 });
  await theirs.set("b", { x: 1 });
  await until(() => cursors.has("b") && theirs.has("a"));
  cable.port = 1;
  cable.cut();
  await until(() => !theirs.has("a"));
  await theirs.delete("b");
  // Only the newest value is sent, and both writes resolve.
  const writing = [cursors.set("a", { x: 2 }), cursors.set("a", { x: 3 })];
  assertEquals([cursors.get("a")?.x, cursors.has("b")], [3, true]);
  cable.port = port;
  client.retryNow();
  await Promise.all(writing);
  await until(() => theirs.get("a")?.x === 3);
  await until(() => !cursors.has("b"));
});

Deno.test("ephemeral rows stay during a quick reconnect", async () => {
  await using at = await Fixture.make();
  const { board: other } = await at.open("bob");
  const { board, cable } = await at.open();
  const theirs = other.collection("cursors");
  await board.collection("cursors").set("a", { x: 1 });
  await until(() => theirs.has("a"));
  const sizes: number[] = [];
  using _watching = theirs.subscribe((rows) => void sizes.push(rows.size));
  cable.cut();
  await until(() => board.status.current === "lost");
  await until(() => board.status.current === "live");
  await board.collection("cursors").set("a", { x: 2 });
  await until(() => theirs.get("a")?.x === 2);
  assertEquals(new Set(sizes), new Set([1]));
});

Deno.test("ephemeral rows stay while their client moves to a new session", async () => {
  await using at = await Fixture.make();
  const { board: other } = await at.open("bob");
  const { client, board } = await at.open();
  const theirs = other.collection("cursors");
  await board.collection("cursors").set("a", { x: 1 });
  await until(() => theirs.has("a"));
  const sizes: number[] = [];
  using _watching = theirs.subscribe((rows) => void sizes.push(rows.size));
  const before = await client.whenConnected();
  assert(await client.handOver());
  await before.closed;
  await board.collection("cursors").set("a", { x: 2 });
  await until(() => theirs.get("a")?.x === 2);
  assertEquals(new Set(sizes), new Set([1]));
});

Deno.test("a deleted ephemeral row stays deleted after a quick reconnect", async () => {
  await using at = await Fixture.make();
  const { client, board, cable } = await at.open();
  const { port } = cable;
  const [cursors, own] = [board.collection("cursors"), at.own.collection("cursors")];
  for (const key of ["written", "offline", "closed"]) await cursors.set(key, { x: 1 });
  cable.port = 1;
  cable.cut();
  await until(() => board.status.current === "lost");
  const deleting = cursors.delete("offline");
  cable.port = port;
  client.retryNow();
  await deleting;
  await cursors.set("written", { x: 2 });
  await cursors.delete("written");
  assertEquals([...own.keys()], ["closed"]);
  board[Symbol.dispose]();
  await until(() => own.size === 0);
});

Deno.test("a reply brings back no ephemeral row that was deleted after the write", async () => {
  const slow = Promise.withResolvers<boolean>();
  await using at = await Fixture.make({
    authorizeChange: ({ key }: { key: string }) => key !== "slow" || slow.promise,
  });
  const { board } = await at.open();
  const [cursors, own] = [board.collection("cursors"), at.own.collection("cursors")];
  // Both are in one publication, whose reply comes after the second decision.
  const writing = [cursors.set("fast", { x: 1 }), cursors.set("slow", { x: 1 })];
  await until(() => own.has("fast"));
  await own.delete("fast");
  const { board: other } = await at.open("bob");
  await other.ready;
  slow.resolve(true);
  await Promise.all(writing);
  await until(() => other.collection("cursors").has("slow"));
  assertEquals([...cursors.keys()], ["slow"]);
});

Deno.test("two states of one client have the same ephemeral rows, each its own", async () => {
  await using at = await Fixture.make();
  const { client, board } = await at.open();
  await board.collection("cursors").set("a", { x: 1 });
  using other = await client.state("board:1") as unknown as Board;
  await other.ready;
  const theirs = other.collection("cursors");
  await until(() => theirs.has("a"));
  await theirs.set("b", { x: 1 });
  await until(() => board.collection("cursors").has("b"));
  board[Symbol.dispose]();
  assertEquals([...theirs.keys()], ["b"]);
  const own = at.own.collection("cursors");
  await until(() => !own.has("a"));
  assertEquals([...own.keys()], ["b"]);
  await theirs.set("b", { x: 2 });
  assertEquals(own.get("b")?.x, 2);
});

Deno.test("ephemeral rows leave with their handle although the server rejects a deletion for now", async () => {
  const deleted: string[] = [];
  await using at = await Fixture.make({
    authorizeChange({ key, value }: { key: string; value?: object }) {
      if (value !== undefined) return true;
      const isFirst = !deleted.includes(key);
      deleted.push(key);
      if (isFirst) throw new Error("Not now");
      return true;
    },
  });
  const { client, board } = await at.open();
  using other = await client.state("board:1") as unknown as Board;
  const [cursors, theirs] = [board.collection("cursors"), other.collection("cursors")];
  const own = at.own.collection("cursors");
  for (const key of ["a", "b", "c"]) await cursors.set(key, { x: 1 });
  const abort = new AbortController();
  const unsent = cursors.set("unsent", { x: 1 });
  const aborted = theirs.set("c", { x: 2 }, { signal: abort.signal });
  board[Symbol.dispose]();
  assertEquals([...theirs], [["c", { x: 2 }]]);
  abort.abort(new Error("Not now"));
  assertEquals(theirs.size, 0);
  await assertRejects(() => unsent, Error, "was closed");
  await assertRejects(() => aborted, Error, "Not now");
  await until(() => deleted.length === 3);
  // Another handle writes the row before the deletion is sent again.
  await theirs.set("b", { x: 2 });
  await until(() => own.size === 1);
  assertEquals([own.get("b")?.x, theirs.get("b")?.x, theirs.size], [2, 2, 1]);
  assertEquals(deleted.toSorted(), ["a", "a", "b", "c", "c"]);
});

Deno.test("ephemeral rows leave with their handle beyond the rate limit", async () => {
  await using at = await Fixture.make({
    rates: { perSession: { publications: { perSecond: 10, burst: 4 } } },
  });
  const { client, board } = await at.open();
  using other = await client.state("board:1") as unknown as Board;
  await other.ready;
  const cursors = board.collection("cursors");
  await Promise.all(["a", "b", "c", "d"].map((key) => cursors.set(key, { x: 1 })));
  board[Symbol.dispose]();
  await until(() => at.own.collection("cursors").size === 0);
});

Deno.test("ephemeral rows leave after a reconnect if their handle was closed without a connection", async () => {
  await using at = await Fixture.make({ presence: { graceMs: 600_000 } });
  const { client, board, cable } = await at.open();
  using other = await client.state("board:1") as unknown as Board;
  const { port } = cable;
  const own = at.own.collection("cursors");
  await board.collection("cursors").set("a", { x: 1 });
  await other.collection("cursors").set("b", { x: 1 });
  cable.port = 1;
  cable.cut();
  await until(() => other.status.current === "lost");
  board[Symbol.dispose]();
  assertEquals([...own.keys()], ["a", "b"]);
  cable.port = port;
  client.retryNow();
  await until(() => own.size === 1);
  assert(own.has("b"));
});

Deno.test("the newest value of an ephemeral row is shown, then that of another session", async () => {
  await using at = await Fixture.make();
  const [{ board: tab }, { board: other }] = [await at.open(), await at.open()];
  const own = at.own.collection("cursors");
  await tab.collection("cursors").set("ann", { x: 1 });
  await other.collection("cursors").set("ann", { x: 2 });
  assertEquals(own.get("ann")?.x, 2);
  await until(() => tab.collection("cursors").get("ann")?.x === 2);
  other[Symbol.dispose]();
  await until(() => own.get("ann")?.x === 1);
  await until(() => tab.collection("cursors").get("ann")?.x === 1);
  // A session removes only its own row; the server removes any.
  const { board: third } = await at.open("bob");
  await until(() => third.collection("cursors").has("ann"));
  assertEquals(await code(third.collection("cursors").delete("ann")), "forbidden");
  assert(third.collection("cursors").has("ann"));
  await own.delete("ann");
  await until(() => !tab.collection("cursors").has("ann"));
});

Deno.test("a client does not send an ephemeral row again that the server deleted", async () => {
  await using at = await Fixture.make();
  const { board, cable } = await at.open();
  const [cursors, own] = [board.collection("cursors"), at.own.collection("cursors")];
  await cursors.set("a", { x: 1 });
  await cursors.set("b", { x: 1 });
  await own.delete("a");
  await until(() => !cursors.has("a"));
  cable.cut();
  await until(() => board.status.current === "lost");
  await until(() => board.status.current === "live");
  await cursors.set("c", { x: 1 });
  assertEquals([own.has("a"), own.has("b"), own.has("c")], [false, true, true]);
});

Deno.test("a session that the server removes from a state receives no more ephemeral rows", async () => {
  await using at = await Fixture.make();
  const { client } = await at.open();
  // A client that ignores the end of the state may keep this subscription.
  const rows = client.subscribe("stream:$skein:board:1");
  await rows.ready;
  for (const session of at.server.topics.subscribers("stream:board:1")) {
    at.server.unsubscribe(session, "stream:board:1", { code: "banned" });
  }
  assertEquals(await code(Array.fromAsync(rows)), "banned");
  assertEquals([...at.server.topics.subscribers("stream:$skein:board:1")], []);
});

Deno.test("ephemeral rows pass the schema and authorizeChange", async () => {
  const asked: unknown[] = [];
  await using at = await Fixture.make({
    authorizeChange(
      { key, value, before, user }: { key: string; value: object; before?: object; user: string },
    ) {
      asked.push([key, before]);
      if (key !== user) return false;
      return value === undefined || { value: { ...value, by: user } };
    },
  });
  const { board } = await at.open();
  const cursors = board.collection("cursors");
  assertEquals(await code(cursors.set("bob", { x: 1 })), "forbidden");
  assertEquals(cursors.size, 0);
  await cursors.set("ann", { x: 1 });
  await until(() => cursors.get("ann")?.by === "ann");
  const tooFar = cursors.set("ann", { x: 2_000 });
  assertEquals(cursors.get("ann")?.x, 2_000);
  const error = await assertRejects(() => tooFar, RequestError);
  assertEquals([error.failure.code, error.failure.path], ["invalid", ["x"]]);
  assertEquals(cursors.get("ann"), { x: 1, by: "ann" });
  await cursors.set("ann", { x: 2 });
  assertEquals(asked, [["bob", undefined], ["ann", undefined], ["ann", { x: 1, by: "ann" }]]);
  const own = at.own.collection("cursors");
  assertEquals(await code(own.set("ann", { x: 2_000 })), "invalid");
  await assertRejects(() => own.update("bob", (cursor) => cursor), RequestError, "there is no row");
  await own.update("ann", ({ x }) => ({ x: x + 1 }));
  assertEquals(own.get("ann"), { x: 3, by: "" });
});

Deno.test("ephemeral rows are not written over HTTP, in transactions, with a ttlMs or a condition", async () => {
  await using at = await Fixture.make();
  const { board } = await at.open();
  const response = await fetch(
    `http://127.0.0.1:${at.server.address!.port}/streams/board:1`,
    {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify([
        { type: "cursors", key: "a", value: { x: 1 }, headers: { operation: "upsert" } },
      ]),
    },
  );
  const { code: problem, detail } = await response.json();
  assertEquals([response.status, problem], [400, "ephemeral"]);
  assert(detail.includes('the rows of "cursors" are ephemeral'), detail);
  for (const state of [board, at.own]) {
    const writing = state.transaction((to) => {
      to.set("cards", "1", "a");
      to.set("cursors", "1", { x: 1 });
    });
    assertEquals(await code(writing), "ephemeral");
    assertEquals([state.collection("cards").size, state.collection("cursors").size], [0, 0]);
    await assertRejects(
      () => state.collection("cursors").set("1", { x: 1 }, { ttlMs: 1_000 }),
      TypeError,
      "ttlMs is not available",
    );
    const cursors = state.collection("cursors");
    for (
      const write of [
        () => cursors.insert("1", { x: 1 }),
        () => cursors.set("1", { x: 1 }, { expect: 0 }),
        () => cursors.delete("1", { expect: 1 }),
      ]
    ) await assertRejects(write, TypeError, "not available for ephemeral rows");
  }
});

Deno.test("a session has at most 64 ephemeral rows in a state", async () => {
  await using at = await Fixture.make();
  const { board } = await at.open();
  const cursors = board.collection("cursors");
  const writes = Array.from({ length: 64 }, (_, i) => cursors.set(`${i}`, { x: i }));
  await assertRejects(() => cursors.set("64", { x: 1 }), QueueFullError, "at most 64");
  await Promise.all(writes);
  await cursors.delete("0");
  await cursors.set("64", { x: 1 });
  assertEquals(at.own.collection("cursors").size, 64);
});

Deno.test("ephemeral rows can be written before the state is ready", async () => {
  await using at = await Fixture.make();
  await using one = client(at.server.url);
  using board = await one.state("board:1") as unknown as Board;
  const cursors = board.collection("cursors");
  const writing = [cursors.set("a", { x: 1 }), board.collection("cards").set("1", "A")];
  assertEquals(cursors.get("a")?.x, 1);
  await Promise.all(writing);
  assertEquals(at.own.collection("cursors").get("a")?.x, 1);
  assertEquals(at.own.version, 1);
});

Deno.test("writes of ephemeral rows beyond the rate limit wait, and only the newest is sent", async () => {
  await using at = await Fixture.make({
    rates: { perSession: { publications: { perSecond: 20, burst: 2 } } },
  });
  const { board } = await at.open();
  const [cursors, own] = [board.collection("cursors"), at.own.collection("cursors")];
  const seen: number[] = [];
  const changes = at.own.changes();
  const reading = (async () => {
    for await (const { value } of changes) {
      if (seen.push(Object(value).x) && seen.at(-1) === 29) return;
    }
  })();
  const writes: Promise<number>[] = [];
  for (let x = 0; x < 30; x++) {
    writes.push(cursors.set("a", { x }));
    await turns(20);
  }
  await Promise.all(writes);
  await reading;
  assertEquals([own.get("a")?.x, cursors.get("a")?.x], [29, 29]);
  assertEquals(seen, seen.toSorted((one, other) => one - other));
  // Each row counts.
  const start = performance.now();
  await Promise.all(Array.from({ length: 12 }, (_, i) => cursors.set(`${i}`, { x: i })));
  await cursors.set("a", { x: 30 });
  assert(performance.now() - start > 400);
});

Deno.test("ephemeral rows continue after the server has rejected the client", async () => {
  await using at = await Fixture.make({ presence: { graceMs: 0 } });
  const { client, board } = await at.open();
  const [cursors, own] = [board.collection("cursors"), at.own.collection("cursors")];
  await cursors.set("a", { x: 1 });
  await client.session?.close({ code: CloseCode.forbidden });
  await until(() => board.status.current === "ended" && own.size === 0);
  const writing = cursors.set("b", { x: 1 });
  client.retryNow();
  await writing;
  await until(() => own.size === 2);
});

Deno.test("writes of ephemeral rows reject once the state is closed", async () => {
  await using at = await Fixture.make();
  const { board, cable } = await at.open();
  cable.port = 1;
  cable.cut();
  await until(() => board.status.current === "lost");
  const writing = board.collection("cursors").set("a", { x: 1 });
  board[Symbol.dispose]();
  await assertRejects(() => writing, Error, "was closed");
});

Deno.test("a write of an ephemeral row that was not sent is taken back by its signal", async () => {
  await using at = await Fixture.make();
  const { client, board, cable } = await at.open();
  const [cursors, own] = [board.collection("cursors"), at.own.collection("cursors")];
  await cursors.set("a", { x: 1, by: "ann" });
  const { port } = cable;
  cable.port = 1;
  cable.cut();
  await until(() => board.status.current === "lost");
  const abort = new AbortController();
  const writing = [
    cursors.set("a", { x: 2 }, { signal: abort.signal }),
    cursors.set("b", { x: 2 }, { signal: abort.signal }),
  ];
  const kept = cursors.set("c", { x: 2 }, { signal: abort.signal });
  const newer = cursors.set("c", { x: 3 });
  assertEquals([cursors.get("a")?.x, cursors.size], [2, 3]);
  abort.abort(new Error("Not now"));
  for (const one of [...writing, kept]) await assertRejects(() => one, Error, "Not now");
  assertEquals([cursors.get("a")?.x, cursors.has("b")], [1, false]);
  cable.port = port;
  client.retryNow();
  await newer;
  assertEquals([own.get("a")?.x, own.has("b"), own.get("c")?.x], [1, false, 3]);
  await assertRejects(
    () => own.set("d", { x: 1 }, { signal: abort.signal }),
    Error,
    "Not now",
  );
});

Deno.test("an ephemeral row has its earlier value after the signal of a newer write", async () => {
  const slow = Promise.withResolvers<boolean>();
  let asked = 0;
  await using at = await Fixture.make({
    authorizeChange: ({ key }: { key: string }) => key !== "sent" || ++asked > 1 || slow.promise,
  });
  const { client, board, cable } = await at.open();
  const [cursors, own] = [board.collection("cursors"), at.own.collection("cursors")];
  const { port } = cable;
  const [first, second, unused] = [
    new AbortController(),
    new AbortController(),
    new AbortController(),
  ];
  const kept = [cursors.set("sent", { x: 1 })];
  await until(() => asked === 1);
  const rejected = [cursors.set("sent", { x: 2 }, { signal: first.signal })];
  cable.port = 1;
  cable.cut();
  await until(() => board.status.current === "lost");
  kept.push(cursors.set("one", { x: 1 }), cursors.set("two", { x: 1 }));
  rejected.push(
    cursors.set("one", { x: 2 }, { signal: first.signal }),
    cursors.set("two", { x: 2 }, { signal: first.signal }),
    cursors.set("two", { x: 3 }, { signal: second.signal }),
  );
  const both = [
    cursors.set("taken", { x: 1 }),
    cursors.set("taken", { x: 2 }, { signal: unused.signal }),
  ];
  first.abort(new Error("Not now"));
  assertEquals([cursors.get("sent")?.x, cursors.get("one")?.x, cursors.get("two")?.x], [1, 1, 3]);
  second.abort(new Error("Not now"));
  assertEquals([cursors.get("two")?.x, cursors.get("taken")?.x], [1, 2]);
  for (const one of rejected) await assertRejects(() => one, Error, "Not now");
  cable.port = port;
  client.retryNow();
  await Promise.all(kept);
  const [replaced, newer] = await Promise.all(both);
  assertEquals(replaced, newer);
  assertEquals(["sent", "one", "two", "taken"].map((key) => own.get(key)?.x), [1, 1, 1, 2]);
  slow.resolve(true);
});

/** Two servers of one store, each with its broker. */
class Servers implements AsyncDisposable {
  readonly store = new FaultyStore();
  readonly brokers = [this.store.connect(), this.store.connect()] as const;
  declare readonly one: Fixture;
  declare readonly two: Fixture;

  static async make(options: object = {}): Promise<Servers> {
    const servers = new Servers();
    const [one, two] = servers.brokers;
    return Object.assign(servers, {
      one: await Fixture.make(options, one),
      two: await Fixture.make(options, two),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.one[Symbol.asyncDispose]();
    await this.two[Symbol.asyncDispose]();
  }
}

Deno.test("servers of a broker share ephemeral rows, also with late readers", async () => {
  await using at = await Servers.make();
  const { board: ann } = await at.one.open();
  const cursors = ann.collection("cursors");
  await cursors.set("ann", { x: 1 });
  await at.one.own.collection("cursors").set("one", { x: 1 });
  const { board: bob } = await at.two.open("bob");
  await until(() => bob.collection("cursors").size === 2);
  await bob.collection("cursors").set("bob", { x: 1 });
  await until(() => cursors.has("bob"));
  await cursors.set("ann", { x: 2 });
  await until(() => at.two.own.collection("cursors").get("ann")?.x === 2);
  // A server deletes a row on any node; the client does not send it again.
  await at.two.own.collection("cursors").delete("ann");
  assertEquals(at.two.own.collection("cursors").has("ann"), false);
  await until(() => !cursors.has("ann"));
  bob[Symbol.dispose]();
  await until(() => !cursors.has("bob"));
  assertEquals([...cursors.keys()], ["one"]);
});

Deno.test("a client that moves to another server keeps its ephemeral rows", async () => {
  await using at = await Servers.make();
  const { board, cable, client } = await at.one.open();
  const { board: other } = await at.two.open("bob");
  const theirs = other.collection("cursors");
  await board.collection("cursors").set("ann", { x: 1 });
  await until(() => theirs.has("ann"));
  const sizes: number[] = [];
  using _watching = theirs.subscribe((rows) => void sizes.push(rows.size));
  cable.port = Number(new URL(at.two.server.url).port);
  cable.cut();
  await until(() => board.status.current === "lost");
  client.retryNow();
  await board.collection("cursors").set("ann", { x: 2 });
  await until(() => theirs.get("ann")?.x === 2);
  await until(() => at.one.own.collection("cursors").get("ann")?.x === 2);
  assertEquals(new Set(sizes), new Set([1]));
});

Deno.test("a state continues on a server whose contract has no ephemeral rows", async () => {
  const store = new FaultyStore();
  await using one = await Fixture.make({}, store.connect());
  await using two = server(store.connect(), { contract: undefined });
  const { board, cable, client } = await one.open();
  const { port } = cable;
  const [cursors, cards] = [board.collection("cursors"), board.collection("cards")];
  await one.own.collection("cursors").set("one", { x: 1 });
  await until(() => cursors.has("one"));
  cable.port = Number(new URL(two.url).port);
  cable.cut();
  await until(() => board.status.current === "lost");
  client.retryNow();
  await cards.set("1", "A");
  await until(() => !cursors.has("one"));
  const writing = cursors.set("ann", { x: 1 });
  assertEquals([board.status.current, cursors.get("ann")?.x], ["live", 1]);
  cable.port = port;
  cable.cut();
  await until(() => board.status.current === "lost");
  client.retryNow();
  await writing;
  assertEquals(one.own.collection("cursors").get("ann")?.x, 1);
  await until(() => cursors.has("one"));
});

Deno.test("the ephemeral rows of a server that dies leave after the grace period", async () => {
  await using at = await Servers.make({
    presence: { graceMs: 50 },
    node: { heartbeatMs: 20, goneAfterMs: 200 },
  });
  const { board } = await at.one.open();
  await board.collection("cursors").set("ann", { x: 1 });
  const theirs = at.two.own.collection("cursors");
  await until(() => theirs.has("ann"));
  at.brokers[0].cut();
  await until(() => theirs.size === 0);
  at.brokers[0].mend();
  await until(() => theirs.has("ann"));
});

Deno.test("the ephemeral rows of a server that closes stay for the grace period", async () => {
  await using at = await Servers.make();
  const { board, cable, client } = await at.one.open();
  await board.collection("cursors").set("ann", { x: 1 });
  const theirs = at.two.own.collection("cursors");
  await until(() => theirs.has("ann"));
  await at.one.own[Symbol.asyncDispose]();
  await at.one.server[Symbol.asyncDispose]();
  await until(() => at.two.server.nodes!.size === 0);
  assertEquals(theirs.get("ann")?.x, 1);
  cable.port = Number(new URL(at.two.server.url).port);
  client.retryNow();
  await board.collection("cursors").set("ann", { x: 2 });
  assertEquals(theirs.get("ann")?.x, 2);
});

Deno.test("a client of a draining server takes its ephemeral rows to another one", async () => {
  await using at = await Servers.make();
  const { board, cable } = await at.one.open();
  const { board: other } = await at.two.open("bob");
  const [cursors, theirs] = [board.collection("cursors"), other.collection("cursors")];
  await theirs.set("bob", { x: 1 });
  await cursors.set("ann", { x: 0 });
  await until(() => theirs.has("ann") && cursors.has("bob"));
  const sizes: number[] = [];
  using _own = cursors.subscribe((rows) => void sizes.push(rows.size));
  using _their = theirs.subscribe((rows) => void sizes.push(rows.size));
  cable.port = Number(new URL(at.two.server.url).port);
  const draining = at.one.server.drain({ withinMs: 2_000 });
  // The client keeps writing while it moves; none of the writes is rejected.
  for (let x = 1; board.status.current !== "ended"; x++) {
    await cursors.set("ann", { x });
    if (at.two.server.manager.sessionsOf("ann").length > 0 && x > 20) break;
  }
  await draining;
  assertEquals([board.status.current, new Set(sizes)], ["live", new Set([2])]);
  const { x } = cursors.get("ann")!;
  await until(() => theirs.get("ann")?.x === x);
});

Deno.test("a state waits for room among the topics of its session, and goes on afterwards", async () => {
  let attempts = 0;
  await using at = await Fixture.make({
    limits: { maxTopicsPerSession: 4 },
    authorize: (_session: unknown, topic: string) => topic !== "stream:board:3" || ++attempts > 0,
  });
  const ids = ["1", "2", "3"] as const;
  const stored = await Promise.all(
    ids.map((id) =>
      statesOf(at.server).open(`board:${id}`, { initial: { cards: { a: id } } } as never)
    ),
  );
  const { client: ann, board: first } = await at.open();
  await first.collection("cursors").set("a", { x: 1 });
  const second = await ann.state("board:2") as unknown as Board;
  await second.ready;
  await second.collection("cursors").set("a", { x: 2 });
  // There is room for the two topics of two states.
  const third = await ann.state("board:3") as unknown as Board;
  const writing = third.collection("cards").set("b", "late");
  const statuses: string[] = [];
  third.status.observe((status) => statuses.push(status));
  await until(() => attempts >= 2);
  assertEquals([third.status.current, third.error, statuses], ["pending", undefined, ["pending"]]);
  first[Symbol.dispose]();
  await third.ready;
  assertEquals(third.collection("cards").get("a"), "3");
  await writing;
  await third.collection("cursors").set("a", { x: 3 });
  assertEquals([second.status.current, third.status.current], ["live", "live"]);
  for (const state of stored) await state[Symbol.asyncDispose]();
});
