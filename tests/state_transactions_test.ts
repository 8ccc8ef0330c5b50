/** Transactions of servers that read rows before they change them. */
import { AsyncLocalStorage } from "node:async_hooks";
import { assertEquals, assertRejects } from "@std/assert";
import { type Broker, defineContract, MemoryBroker, RequestError, type Server } from "../mod.ts";
import { liveState, type State, type StateTransaction } from "../streams/mod.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { listen } from "./servers.ts";
import { z } from "zod";

interface Node extends AsyncDisposable {
  readonly server: Server;
  readonly state: State;
}

/** A server with the state `bank`. */
async function open(broker: Broker = new MemoryBroker(), session: object = {}): Promise<Node> {
  await using stack = new AsyncDisposableStack();
  const states = liveState();
  const server = stack.use(listen({ webTransport: false, broker, session, features: [states] }));
  const state = stack.use(await states.open("bank"));
  const owned = stack.move();
  return { server, state, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => promise, RequestError);
  return error.failure.code;
}

/** Moves one coin from `a` to `b`. */
async function move(tx: StateTransaction): Promise<void> {
  const [from, to] = [await tx.get("coins", "a"), await tx.get("coins", "b")] as number[];
  await tx.set("coins", "a", from! - 1);
  await tx.set("coins", "b", to! + 1);
}

Deno.test("State.transaction() loses none of many transfers, on one server and on two", async () => {
  const store = new FaultyStore();
  await using one = await open(store.connect());
  await using two = await open(store.connect());
  await one.state.transaction((tx) => {
    tx.set("coins", "a", 100);
    tx.set("coins", "b", 0);
  });
  await Promise.all(
    Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? one : two).state.transaction(move)),
  );
  await one.state.transaction(() => {});
  const version = one.state.version;
  assertEquals({ coins: [...one.state.collection("coins")], version }, {
    coins: [["a", 80], ["b", 20]],
    version: 21,
  });
});

Deno.test("State.transaction() keeps a collection at its bound, on one server and on two", async () => {
  const store = new FaultyStore();
  await using one = await open(store.connect());
  await using two = await open(store.connect());
  const add = (node: Node, key: string) =>
    node.state.transaction(async (tx) => {
      let count = 0;
      for await (const _row of tx.entries("cards")) count++;
      if (count === 5) throw new RequestError("enough", "There are five cards");
      await tx.insert("cards", key, key);
    });
  const added = Array.from(
    { length: 12 },
    (_, i) =>
      add(i % 2 === 0 ? one : two, `${i}`).then(() => "kept", (error) => error.failure?.code),
  );
  const outcomes = (await Promise.all(added)).toSorted();
  assertEquals(outcomes, [...Array(7).fill("enough"), ...Array(5).fill("kept")]);
  assertEquals(one.state.collection("cards").size, 5);
});

Deno.test("State.transaction() does not run again if others change another collection", async () => {
  await using node = await open();
  const { state } = node;
  let runs = 0;
  await state.transaction(async (tx) => {
    runs++;
    for await (const _row of tx.entries("cards"));
    if (runs === 1) await state.collection("other").set("1", 1);
    await tx.set("cards", "a", runs);
  });
  assertEquals({ runs, cards: [...state.collection("cards")] }, { runs: 1, cards: [["a", 1]] });
});

Deno.test("State.transaction() runs again if a row that it only reads has changed", async () => {
  await using node = await open();
  const { state } = node;
  const rules = state.collection<boolean>("rules");
  await rules.set("open", true);
  const seen: unknown[] = [];
  const outside = AsyncLocalStorage.snapshot();
  const writing = state.transaction(async (tx) => {
    const isOpen = await tx.get("rules", "open");
    seen.push(isOpen);
    if (seen.length === 1) await outside(() => rules.set("open", false));
    if (!isOpen) throw new RequestError("closed", "The house is closed");
    await tx.set("guests", "ann", {});
  });
  assertEquals(await codeOf(writing), "closed");
  assertEquals({ seen, guests: state.collection("guests").size }, {
    seen: [true, false],
    guests: 0,
  });
});

Deno.test("State.transaction() runs again if a row that it has not found appears", async () => {
  await using node = await open();
  const { state } = node;
  const seats = state.collection<string>("seats");
  let runs = 0;
  const outside = AsyncLocalStorage.snapshot();
  const claiming = state.transaction(async (tx) => {
    runs++;
    await tx.insert("seats", "7", "ann");
    if (runs === 1) await outside(() => seats.set("7", "bob"));
  });
  assertEquals([await codeOf(claiming), runs, seats.get("7")], ["conflict", 2, "bob"]);
});

Deno.test("A function can't write by a handle the rows that its transaction has read", async () => {
  await using node = await open();
  const { state } = node;
  const cards = state.collection<number>("cards");
  await cards.set("a", 1);
  const own: Record<string, () => Promise<unknown>> = {
    set: () => cards.set("a", 2),
    update: () => cards.update("a", (n) => n + 1),
    delete: () => cards.delete("a"),
    transaction: () => state.transaction((tx) => tx.set("cards", "a", 2)),
    "a transaction that reads": () =>
      state.transaction((tx) => tx.update("cards", "a", (n) => n as number + 1)),
  };
  const reads: Record<string, (tx: StateTransaction) => Promise<unknown>> = {
    'the row "a" of "cards"': (tx) => tx.get("cards", "a"),
    'the collection "cards"': (tx) => Array.fromAsync(tx.entries("cards")),
  };
  for (const [name, write] of Object.entries(own)) {
    for (const [what, read] of Object.entries(reads)) {
      let runs = 0;
      const writing = state.transaction(async (tx) => {
        runs++;
        await read(tx);
        await write();
        await tx.set("cards", "a", 3);
      });
      await assertRejects(() => writing, TypeError, `has read ${what}`);
      assertEquals([name, runs, cards.get("a")], [name, 1, 1]);
    }
    // The function may write other rows, and its own ones once it has returned.
    const later = Promise.withResolvers<void>();
    let writing: Promise<unknown> | undefined;
    await state.transaction(async (tx) => {
      await tx.get("cards", "b");
      await write();
      await tx.set("cards", "b", 1);
      writing = later.promise.then(() => cards.set("b", 2));
    });
    later.resolve();
    await writing;
    assertEquals(cards.get("b"), 2);
    await cards.set("a", 1);
  }
});

Deno.test("A transaction reads its own changes", async () => {
  await using node = await open();
  const { state } = node;
  await state.transaction((tx) => {
    for (const key of ["a", "b", "c"]) tx.set("cards", key, key);
  });
  const seen: unknown[] = [];
  await state.transaction(async (tx) => {
    await tx.set("cards", "a", "A");
    await tx.delete("cards", "b");
    await tx.insert("cards", "d", "d");
    await tx.update("cards", "c", (row) => `${row}!`);
    seen.push(await tx.get("cards", "a"), await tx.has("cards", "b"), await tx.has("cards", "d"));
    for await (const [key, row] of tx.entries("cards")) seen.push(`${key}=${row}`);
  });
  assertEquals(seen, ["A", false, true, "a=A", "c=c!", "d=d"]);
  assertEquals([...state.collection("cards")], [["a", "A"], ["c", "c!"], ["d", "d"]]);
});

Deno.test("A transaction fails as a whole if one of its calls does", async () => {
  await using node = await open();
  const { state } = node;
  const cards = state.collection("cards");
  await cards.set("a", 1);
  const caught = state.transaction(async (tx) => {
    await tx.set("cards", "b", 2);
    await tx.insert("cards", "a", 2).catch(() => {});
  });
  assertEquals(await codeOf(caught), "conflict");
  const missing = state.transaction((tx) => tx.update("cards", "c", (row) => row));
  assertEquals(await codeOf(missing), "conflict");
  const hasty = state.transaction((tx) => {
    void tx.get("cards", "a");
    tx.set("cards", "b", 2);
  });
  await assertRejects(() => hasty, TypeError, "must await each call");
  let late: StateTransaction | undefined;
  await state.transaction((tx) => void (late = tx));
  await assertRejects(() => late!.get("cards", "a"), TypeError, "its function has returned");
  assertEquals([...cards], [["a", 1]]);
});

Deno.test("A transaction reads at most 10,000 rows", async () => {
  await using node = await open();
  const { state } = node;
  for (let i = 0; i < 11; i++) {
    await state.transaction((tx) => {
      for (let j = 0; j < 1_000; j++) tx.set("rows", `${i}-${j}`, 0);
    });
  }
  const reading = state.transaction(async (tx) => {
    for await (const _row of tx.entries("rows"));
    await tx.set("sums", "all", 1);
  });
  assertEquals(await codeOf(reading), "too-large");
});

Deno.test("State.transaction() ends with its handle and its signal", async () => {
  await using node = await open();
  const { state } = node;
  const signal = AbortSignal.abort(new Error("enough"));
  let calls = 0;
  const aborted = state.transaction(() => void calls++, { signal });
  await assertRejects(() => aborted, Error, "enough");
  const hanging = state.transaction(() => new Promise(() => {}));
  await state[Symbol.asyncDispose]();
  assertEquals(await codeOf(hanging), "unavailable");
  assertEquals(calls, 0);
});

Deno.test("A transaction cannot read ephemeral rows, which have no versions", async () => {
  const contract = defineContract({
    state: { "{id}": { cards: z.string(), cursors: { schema: z.string(), ephemeral: true } } },
  });
  const states = liveState(contract);
  await using _server = listen({ webTransport: false, contract, features: [states] });
  await using state = await states.open("board");
  const read = state.transaction(async (tx) => {
    await tx.get("cursors", "ann");
    await tx.set("cards", "a", "a");
  });
  assertEquals(await codeOf(read), "ephemeral");
  const iterated = state.transaction(async (tx) => {
    for await (const _row of tx.entries("cursors"));
  });
  assertEquals(await codeOf(iterated), "ephemeral");
});
