/** Tests states that the broker has lost, and states that were deleted. */
import { AsyncLocalStorage } from "node:async_hooks";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { z } from "zod";
import {
  type Broker,
  type ClientStateOptions,
  connect,
  defineContract,
  MemoryBroker,
  type OnConflict,
  RequestError,
  type ServeOptions,
} from "../../mod.ts";
import { durableStreams, liveState, type StateTransaction } from "../mod.ts";
import { rowChange } from "../logs/change_message.ts";
import { logsOf } from "../logs/logs_of.ts";
import { Cable } from "../../tests/networks/cable.ts";
import { listen } from "../../tests/servers.ts";
import { fail, FaultyStore, pass } from "../../tests/faulty_broker.ts";
import { until } from "../../tests/waiting.ts";

/** Starts a server with the streams and states of a broker. */
function start(
  broker: Broker = new MemoryBroker(),
  { authorize = () => true, session }: Pick<ServeOptions, "authorize" | "session"> = {},
) {
  const errors: unknown[] = [];
  const streams = durableStreams({ path: "/streams", authorize: () => true });
  const states = liveState();
  const server = listen({
    broker,
    webTransport: false,
    features: [streams, states],
    authorize,
    session,
    onError: (error) => errors.push(error),
  });
  return {
    broker,
    errors,
    streams,
    states,
    url: server.url,
    /** Removes a stream as a broker that stores nothing does. */
    lose: async (id: string) => assertEquals((await logsOf(broker)!.delete(id)).kind, "removed"),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, RequestError)).failure.code;
}

Deno.test("A state that the broker has lost is created anew by its open handle, and read on", async () => {
  await using one = start();
  await using board = await one.states.open("board");
  const cards = board.collection("cards");
  for (const key of ["a", "b"]) await cards.set(key, 1);
  await using client = connect(one.url, { transports: ["websocket"] });
  const page = await client.state("board");
  await page.ready;
  const seen: string[] = [];
  page.collection("cards").subscribe((rows) => void seen.push([...rows.keys()].join()));
  for (let i = 1; i <= 2; i++) {
    await one.lose("board");
    // The rows of the handle may still be those of the lost state.
    assertEquals(await cards.set("c", i), 1);
    assertEquals([...cards], [["c", i]]);
    await assertRejects(() => cards.set("c", 0, { expect: 3 }), RequestError, "no longer has");
    await until(() => page.status.current === "live" && page.collection("cards").size === 1);
    await page.collection("cards").set("d", i);
    assertEquals([...cards.keys()], ["c", "d"]);
    assertEquals(one.errors.length, i);
  }
  // The old rows stay until the new ones are complete.
  assert(!seen.includes(""), seen.join(" "));
  const error = one.errors[0];
  assert(error instanceof RequestError);
  assertEquals(error.failure.code, "lost");
  assertMatch(error.message, /The broker has lost the state "board"/);
});

Deno.test("A handle with recreate: false ends with the code lost", async () => {
  await using one = start();
  await using board = await one.states.open("board", { recreate: false });
  const cards = board.collection("cards");
  await cards.set("a", 1);
  const changes = board.changes();
  const next = changes.next();
  await one.lose("board");
  assertEquals(await codeOf(cards.set("b", 1)), "lost");
  assertEquals(await codeOf(next), "lost");
  assertEquals(one.errors.length, 1);
  assertEquals(await one.streams.info("board"), undefined);
  // Another handle may have created it in the meantime.
  await using again = await one.states.open("board", { recreate: false });
  await again.collection("cards").set("b", 2);
  await one.lose("board");
  await using other = await one.states.open("board");
  assertEquals(await codeOf(again.collection("cards").set("c", 3)), "lost");
  await other.collection("cards").set("d", 4);
});

Deno.test("A state that was deleted ends as gone, and is not created anew", async () => {
  await using one = start();
  await using two = start(one.broker);
  await using board = await one.states.open("board");
  const cards = board.collection("cards");
  await cards.set("a", 1);
  await using client = connect(one.url, { transports: ["websocket"] });
  const page = await client.state("board");
  await page.ready;
  assert(await two.streams.delete("board"));
  const error = await assertRejects(() => cards.set("b", 1), RequestError);
  assertEquals(error.failure.code, "gone");
  assertMatch(error.message, /"board" was deleted/);
  await until(() => page.status.current === "ended");
  assertEquals((page.error as RequestError).failure.code, "gone");
  assertEquals(await one.streams.info("board"), undefined);
  assertEquals([one.errors, two.errors], [[], []]);
});

Deno.test("A lost state is created anew with the initial rows of its handle", async () => {
  await using one = start();
  await using board = await one.states.open("board", { initial: { cards: { a: 0 } } });
  const cards = board.collection("cards");
  await cards.set("a", 1);
  await one.lose("board");
  await cards.set("b", 2);
  assertEquals([...cards], [["a", 0], ["b", 2]]);
});

Deno.test("A write of a client to a state that is being created anew is made", async () => {
  await using one = start();
  await using board = await one.states.open("board");
  await using client = connect(one.url, { transports: ["websocket"] });
  const page = await client.state("board");
  await page.ready;
  await one.lose("board");
  await page.collection("cards").set("a", 1);
  await until(() => board.collection("cards").has("a"));
});

Deno.test("A client keeps a write that a server without a handle can't make, until the state is there again", async () => {
  await using one = start();
  await using two = start(one.broker);
  await using client = connect(two.url, { transports: ["websocket"] });
  {
    await using _board = await one.states.open("board");
    const page = await client.state("board");
    await page.ready;
    const cards = page.collection<number>("cards");
    await cards.set("a", 1);
    for (let i = 1; i <= 5; i++) {
      await one.lose("board");
      // Sent before the client knows that its rows are lost.
      const writes = [cards.set("a", i), cards.set("b", i), cards.insert(`c${i}`, i)];
      assertEquals((await Promise.allSettled(writes)).map(({ status }) => status), [
        "fulfilled",
        "fulfilled",
        "fulfilled",
      ]);
      await until(() => page.status.current === "live");
      assertEquals([...cards.entries()].toSorted(), [["a", i], ["b", i], [`c${i}`, i]]);
    }
    assertEquals(page.pendingWrites.current, 0);
  }
  // Without a handle that creates it anew, the state and its writes end for the same reason.
  await using other = await one.states.open("other", { recreate: false });
  const page = await client.state("other");
  await page.ready;
  assert(await one.streams.delete("other"));
  assertEquals(await codeOf(page.collection("cards").set("a", 1)), "gone");
  assertEquals((page.error as RequestError).failure.code, "gone");
  assertEquals(await codeOf(other.collection("cards").set("a", 1)), "gone");
});

Deno.test("A client that may only write hears that there is no state, whether it was lost or deleted", async () => {
  const broker = new MemoryBroker();
  await using one = start(broker, { authorize: (_, __, action) => action === "publish" });
  await using client = connect(one.url, { transports: ["websocket"] });
  const page = await client.state("board");
  await assertRejects(() => page.ready, RequestError);
  const write = () => page.collection("cards").set("a", 1);
  assertEquals(await codeOf(write()), "not-found");
  await (await one.states.open("board"))[Symbol.asyncDispose]();
  await write();
  await one.lose("board");
  assertEquals(await codeOf(write()), "not-found");
  await (await one.states.open("board"))[Symbol.asyncDispose]();
  await write();
  await one.streams.delete("board");
  assertEquals(await codeOf(write()), "not-found");
});

Deno.test("A transaction runs again if the rows that it has read are those of a lost state", async () => {
  await using one = start();
  await using board = await one.states.open("board");
  const cards = board.collection<number>("cards");
  for (const key of ["a", "b"]) await cards.set(key, 1);
  const reads = {
    "a row": async (tx: StateTransaction) => [await tx.get("cards", "a")],
    "a missing row": async (tx: StateTransaction) => [await tx.get("cards", "c")],
    "a collection": async (tx: StateTransaction) =>
      (await Array.fromAsync(tx.entries("cards"))).map(([, row]) => row),
  };
  for (const read of Object.values(reads)) {
    const seen: unknown[] = [];
    const outside = AsyncLocalStorage.snapshot();
    await board.transaction(async (tx) => {
      seen.push(await read(tx));
      if (seen.length === 1) {
        await one.lose("board");
        // The new rows have the versions of the old ones.
        for (const key of ["a", "b"]) await outside(() => cards.set(key, seen.length + 1));
      }
      await tx.set("cards", "sum", 0);
    });
    assertEquals(seen.length, 2);
    await one.lose("board");
    for (const key of ["a", "b"]) await cards.set(key, 1);
  }
});

Deno.test("A server's write to a lost state that can't be read anew is rejected for now, and not made", async () => {
  const store = new FaultyStore();
  const broker = store.connect();
  await using one = start(broker, { session: { requestTimeoutMs: 100 } });
  await using board = await one.states.open("board");
  const cards = board.collection<number>("cards");
  await cards.set("a", 1);
  broker.make("logs.read", fail);
  assertEquals((await logsOf(store.inner)!.delete("board")).kind, "removed");
  const writes = {
    set: () => cards.set("b", 1),
    delete: () => cards.delete("a"),
    update: () => cards.update("a", (count) => count + 1),
    "a transaction": () => board.transaction((tx) => tx.set("cards", "b", 2)),
    "a transaction that reads": () =>
      board.transaction(async (tx) => {
        const count = await tx.get("cards", "a") as number;
        await tx.set("cards", "a", count + 1);
      }),
    "a transaction that iterates": () =>
      board.transaction(async (tx) => {
        const all = await Array.fromAsync(tx.entries("cards"));
        await tx.set("cards", "b", all.length);
      }),
  };
  for (const [name, write] of Object.entries(writes)) {
    const { failure } = await assertRejects(write, RequestError);
    const { code, retryAfterMs, message } = failure;
    assertEquals([code, retryAfterMs], ["unavailable", 1_000], name);
    assertMatch(message, /the broker no longer has "board", and its rows are not read anew yet/);
  }
  broker.make("logs.read", pass);
  await until(() => cards.size === 0);
  await cards.set("c", 1);
  assertEquals([...cards], [["c", 1]]);
});

Deno.test("A handle whose state was lost stays open while onOpen fails, and has its rows afterwards", async () => {
  const broker = new MemoryBroker();
  const contract = defineContract({ state: { "board:{id}": { cards: z.number() } } });
  let failures = 0;
  const states = liveState(contract, {
    onOpen: () => {
      if (failures-- > 0) throw new Error("The database is unreachable");
      return { cards: { first: 0 } };
    },
  });
  const errors: unknown[] = [];
  await using _server = listen({
    broker,
    webTransport: false,
    contract,
    features: [durableStreams({ path: "/streams", authorize: () => true }), states],
    onError: (error) => errors.push(error),
  });
  await using board = await states.open("board:1");
  const cards = board.collection("cards");
  await cards.set("a", 1);
  failures = 1;
  await logsOf(broker)!.delete("board:1");
  await cards.set("b", 2);
  assertEquals([...cards], [["first", 0], ["b", 2]]);
  assertEquals(errors.length, 2, errors.join());
});

/** A client that a test takes offline. */
async function awayFrom(url: string, options?: ClientStateOptions) {
  const port = Number(new URL(url).port);
  const cable = new Cable(port);
  const client = connect(cable.url, {
    transports: ["websocket"],
    backoff: { firstDelayMs: 1, maxDelayMs: 5 },
  });
  client.status.subscribe(() => {}); // Keeps the client from printing that it reconnects.
  const state = await client.state("board", options);
  await state.ready;
  return {
    state,
    offline: async () => {
      cable.port = 1;
      cable.cut();
      await until(() => state.status.current === "lost");
    },
    online: () => {
      cable.port = port;
      client.retryNow();
    },
    [Symbol.asyncDispose]: async () => {
      await client.close();
      await cable[Symbol.asyncDispose]();
    },
  };
}

async function outcomeOf(write: Promise<number>): Promise<string> {
  try {
    await write;
    return "stored";
  } catch (error) {
    return (error as RequestError).failure.code;
  }
}

Deno.test("A write that has waited depends on no version of a state that was lost meanwhile", async () => {
  await using one = start();
  await using board = await one.states.open("board");
  const cards = board.collection<number>("cards");
  const keys = ["a", "b", "c"];
  for (const key of keys) await cards.set(key, 1);
  const conflicts: string[] = [];
  const onConflict: OnConflict = ({ key, theirs }) => {
    conflicts.push(`${key}=${theirs}`);
    return "theirs";
  };
  await using page = await awayFrom(one.url, { onConflict });
  const own = page.state.collection<number>("cards");
  const [a, b, c] = keys.map((key) => own.versionOf(key));
  await page.offline();
  const writes = [
    own.set("a", 2, { expect: a! }),
    own.delete("b", { expect: b! }),
    own.set("c", 2),
    own.insert("d", 2),
  ];
  await one.lose("board");
  for (const key of keys) await cards.set(key, 3);
  // The new rows have the versions of the lost ones.
  assertEquals(keys.map((key) => cards.versionOf(key)), [a, b, c]);
  page.online();
  assertEquals(await Promise.all(writes.map(outcomeOf)), [
    "conflict",
    "conflict",
    "conflict",
    "stored",
  ]);
  assertEquals(conflicts, ["c=3"]);
  assertEquals([...cards], [["a", 3], ["b", 3], ["c", 3], ["d", 2]]);
  await until(() => own.size === 4);
  assertEquals([...own.entries()], [...cards]);
});

Deno.test("A write that has waited still expects its version if the client reads all rows again", async () => {
  await using one = start();
  await using board = await one.states.open("board");
  const cards = board.collection<number>("cards");
  for (const key of ["a", "b"]) await cards.set(key, 1);
  await using page = await awayFrom(one.url);
  const own = page.state.collection<number>("cards");
  await page.offline();
  const writes = ["a", "b"].map((key) => own.set(key, 2, { expect: own.versionOf(key) }));
  await cards.set("b", 3);
  // The stream forgets a deletion that the client lacks.
  await cards.set("c", 1);
  await cards.delete("c");
  const change = { type: "cards", key: "d", operation: "upsert", value: "1" } as const;
  await logsOf(one.broker)!.append("board", {
    records: [],
    changes: [rowChange(change, 0)],
    rowBounds: { rows: 10, deletions: 0, deletionMs: 0 },
    maxBytes: 1e6,
  });
  page.online();
  assertEquals(await Promise.all(writes.map(outcomeOf)), ["stored", "conflict"]);
  await until(() => cards.size === 3);
  assertEquals([...cards], [["a", 2], ["b", 3], ["d", 1]]);
});
