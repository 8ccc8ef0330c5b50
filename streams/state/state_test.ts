import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { RequestError, type Server } from "../../mod.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { rowChange } from "../logs/change_message.ts";
import { listen } from "../../tests/servers.ts";
import { until } from "../../tests/waiting.ts";
import { statesOf, streamFeatures, streamsOf } from "../../tests/stream_features.ts";
import { liveState, type State } from "../mod.ts";
import { logsOf } from "../logs/logs_of.ts";

interface Card {
  readonly title: string;
  readonly votes: number;
}

const DRAFT: Card = { title: "Draft", votes: 0 };

function server(broker: Broker = new MemoryBroker(), options: object = {}): Server {
  return listen({
    webTransport: false,
    broker,
    features: streamFeatures({ path: "/streams", authorize: () => true, ...options }),
  });
}

async function fails(promise: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => promise, RequestError);
  return error.failure.code;
}

Deno.test("LiveState.open() shares the rows of a state between servers", async () => {
  const store = new FaultyStore();
  await using one = server(store.connect());
  await using two = server(store.connect());
  await using near = await statesOf(one).open("board:1");
  const cards = near.collection<Card>("cards");
  assertEquals(await cards.set("a", DRAFT), 1);
  await using far = await statesOf(two).open("board:1");
  const others = far.collection<Card>("cards");
  assertEquals({ row: others.get("a"), size: others.size, version: far.version }, {
    row: DRAFT,
    size: 1,
    version: 1,
  });
  assertEquals(await others.update("a", (card) => ({ ...card, votes: card.votes + 1 })), 2);
  await until(() => cards.get("a")?.votes === 1);
  await others.delete("a");
  await until(() => !cards.has("a"));
  assertEquals({ entries: [...cards], keys: [...cards.keys()], size: cards.size }, {
    entries: [],
    keys: [],
    size: 0,
  });
  assertEquals(await others.delete("a"), 3);
});

Deno.test("StateCollection.update() loses no change of concurrent writers", async () => {
  const store = new FaultyStore();
  await using one = server(store.connect());
  await using two = server(store.connect());
  await using near = await statesOf(one).open("board:1");
  await using far = await statesOf(two).open("board:1");
  const collections = [near, far].map((state) => state.collection<Card>("cards"));
  await collections[0]!.set("a", DRAFT);
  const vote = (i: number) =>
    collections[i % 2]!.update("a", (card) => ({ ...card, votes: card.votes + 1 }));
  const results = await Promise.allSettled(Array.from({ length: 8 }, (_, i) => vote(i)));
  const counted = results.filter(({ status }) => status === "fulfilled").length;
  assert(counted > 0);
  await until(() => collections.every((cards) => cards.get("a")?.votes === counted));
});

Deno.test("StateCollection.update() rejects a row that does not exist", async () => {
  await using one = server();
  await using board = await statesOf(one).open("board:1");
  const cards = board.collection<Card>("cards");
  let calls = 0;
  const change = (card: Card) => (calls++, card);
  assertEquals(await fails(cards.update("a", change)), "conflict");
  await cards.set("a", DRAFT);
  await cards.delete("a");
  assertEquals(await fails(cards.update("a", change)), "conflict");
  assertEquals(calls, 0);
  await assertRejects(
    () => cards.update("a", change),
    RequestError,
    'the row "a" of "cards" must exist',
  );
});

Deno.test("StateCollection.update() gives up after five other writers", async () => {
  const broker = new MemoryBroker();
  await using one = server(broker);
  await using board = await statesOf(one).open("board:1");
  const cards = board.collection<Card>("cards");
  await cards.set("a", DRAFT);
  let calls = 0;
  const updating = cards.update("a", async (card) => {
    calls++;
    const change = rowChange({
      type: "cards",
      key: "a",
      operation: "upsert",
      value: JSON.stringify({ ...card, title: `${calls}` }),
    }, 0);
    await logsOf(broker)!.append("board:1", { records: [], changes: [change], maxBytes: 1e6 });
    return { ...card, votes: 1 };
  });
  assertEquals([await fails(updating), calls], ["conflict", 5]);
  const text = 'Cannot update: other writers changed the row "a" of "cards" during each attempt';
  await assertRejects(() => updating, RequestError, text);
  await until(() => cards.get("a")?.title === "5");
});

Deno.test("StateCollection.insert() writes a row only if there is none", async () => {
  const store = new FaultyStore();
  await using one = server(store.connect());
  await using two = server(store.connect());
  await using near = await statesOf(one).open("board:1");
  await using far = await statesOf(two).open("board:1");
  const both = [near, far].map((state) => state.collection<Card>("cards"));
  const racing = await Promise.allSettled(both.map((cards) => cards.insert("a", DRAFT)));
  assertEquals(racing.map(({ status }) => status).toSorted(), ["fulfilled", "rejected"]);
  await until(() => both.every((cards) => cards.has("a")));
  const again = () => both[0]!.insert("a", DRAFT);
  const text = 'Cannot write state: the row "a" of "cards" already exists';
  assertEquals(await fails(again()), "conflict");
  await assertRejects(again, RequestError, text);
});

Deno.test("StateCollection.set() and delete() with expect need a row of this version", async () => {
  await using own = server();
  await using state = await statesOf(own).open("board:1");
  const cards = state.collection<Card>("cards");
  assertEquals(cards.versionOf("a"), 0);
  const first = await cards.set("a", DRAFT, { expect: 0 });
  assertEquals(cards.versionOf("a"), first);
  const second = await cards.set("a", { ...DRAFT, votes: 1 }, { expect: first });
  await assertRejects(
    () => cards.set("a", DRAFT, { expect: first }),
    RequestError,
    `Cannot write state: the row "a" of "cards" no longer has the version ${first}`,
  );
  assertEquals(await fails(cards.delete("a", { expect: first })), "conflict");
  await cards.delete("a", { expect: second });
  await assertRejects(() => cards.set("a", DRAFT, { expect: -1 }), RangeError);
});

Deno.test("State.transaction() changes several rows or none", async () => {
  await using one = server(undefined, { maxRows: 3 });
  await using board = await statesOf(one).open("board:1");
  const version = await board.transaction((transaction) => {
    transaction.set("cards", "a", DRAFT);
    transaction.set("cards", "b", DRAFT, { ttlMs: 60_000 });
    transaction.delete("cards", "c");
    transaction.set("lists", "a", { name: "To do" });
  });
  assertEquals([version, board.version], [1, 1]);
  const rejected = board.transaction((transaction) => {
    transaction.set("cards", "a", { title: "Changed" });
    transaction.set("cards", "c", DRAFT);
  });
  assertEquals(await fails(rejected), "full");
  assertEquals(board.collection("cards").get("a"), DRAFT);
  assertEquals(board.collection("lists").get("a"), { name: "To do" });
  assertEquals(await board.transaction(() => {}), 1);
});

Deno.test("State rejects writes with the reason of their signal", async () => {
  const store = new FaultyStore();
  await using one = server(store.connect());
  await using board = await statesOf(one).open("board:1");
  const cards = board.collection<Card>("cards");
  await cards.set("a", DRAFT);
  const reason = new Error("Undone");
  const aborted = { signal: AbortSignal.abort(reason) };
  const writes = [
    () => cards.set("a", { title: "Changed", votes: 1 }, aborted),
    () => cards.update("a", (card) => ({ ...card, votes: 1 }), aborted),
    () => cards.delete("a", aborted),
    () => board.transaction((to) => to.delete("cards", "a"), aborted),
  ];
  for (const write of writes) assertEquals(await write().catch((error) => error), reason);
  const during = new AbortController();
  const { promise, resolve } = Promise.withResolvers<Card>();
  const updating = cards.update("a", () => promise, { signal: during.signal });
  during.abort(reason);
  assertEquals(await updating.catch((error) => error), reason);
  resolve(DRAFT);
  await promise;
  assertEquals([board.version, cards.get("a")], [1, DRAFT]);
  // The broker already has this write.
  const sent = new AbortController();
  const gate = Promise.withResolvers<void>();
  store.make("logs.append", async (run) => {
    await gate.promise;
    return await run();
  });
  const writing = cards.delete("a", { signal: sent.signal });
  sent.abort(reason);
  assertEquals(await writing.catch((error) => error), reason);
  gate.resolve();
  await until(() => !cards.has("a"));
});

Deno.test("State rejects names, values and transactions that do not fit", async () => {
  await using one = server();
  await using board = await statesOf(one).open("board:1");
  const cards = board.collection("cards");
  assertThrows(() => board.collection(""), RangeError, "name must have 1 to 1024 bytes");
  assertThrows(() => board.collection(1 as never), TypeError, "name must be a text, received 1");
  await assertRejects(() => cards.set("x".repeat(1_025), 1), RangeError, "key must have 1 to 1024");
  await assertRejects(() => cards.delete(""), RangeError, "key must have 1 to 1024 bytes");
  await assertRejects(
    () => cards.set("a", undefined),
    TypeError,
    "a row must be plain JSON, received undefined",
  );
  await assertRejects(
    () => cards.set("a", 1, { ttlMs: 0 }),
    RangeError,
    "ttlMs must be an integer from 1 to 3153600000000, received 0",
  );
  assertEquals(await fails(cards.set("a", "x".repeat(300_000))), "too-large");
  const many = board.transaction((transaction) => {
    for (let i = 0; i < 1_001; i++) transaction.delete("cards", `${i}`);
  });
  await assertRejects(() => many, RangeError, "at most 1000 changes, received 1001");
  const slow = board.transaction(() => Promise.reject(new Error("late")));
  await assertRejects(() => slow, TypeError, "must not be asynchronous");
  assertEquals([board.version, cards.size], [0, 0]);
});

Deno.test("State.changes() yields the newest value of each changed row", async () => {
  await using one = server();
  await using board = await statesOf(one).open("board:1");
  const cards = board.collection<number>("cards");
  await cards.set("before", 0);
  const changes = board.changes<number>();
  const first = changes.next();
  await cards.set("a", 1);
  assertEquals((await first).value, { collection: "cards", key: "a", value: 1, before: undefined });
  for (let i = 2; i < 5; i++) await cards.set("a", i);
  await cards.delete("before");
  assertEquals((await changes.next()).value, {
    collection: "cards",
    key: "a",
    value: 4,
    before: 1,
  });
  assertEquals((await changes.next()).value, {
    collection: "cards",
    key: "before",
    value: undefined,
    before: 0,
  });
  const last = changes.next();
  await board[Symbol.asyncDispose]();
  assertEquals(await last, { done: true, value: undefined });
});

Deno.test("State.changes() ends with the reason of its signal", async () => {
  await using one = server();
  await using board = await statesOf(one).open("board:1");
  const stop = new AbortController();
  const next = board.changes({ signal: stop.signal }).next();
  stop.abort(new Error("Enough"));
  await assertRejects(() => next, Error, "Enough");
});

Deno.test("State ends when its stream is deleted", async () => {
  await using one = server();
  await using board = await statesOf(one).open("board:1");
  const cards = board.collection("cards");
  await cards.set("a", 1);
  const next = board.changes().next();
  await streamsOf(one).delete("board:1");
  assertEquals(await fails(next), "gone");
  assertEquals(await fails(cards.set("a", 2)), "gone");
  await using anew = await statesOf(one).open("board:1");
  assertEquals(await fails(cards.set("a", 3)), "gone");
  assertEquals(anew.collection("cards").size, 0);
});

Deno.test("State ends when its stream is closed", async () => {
  await using one = server();
  await using board = await statesOf(one).open("board:1");
  const code = fails(board.changes().next());
  const { port } = one.address!;
  const headers = { "stream-closed": "true" };
  await fetch(`http://127.0.0.1:${port}/streams/board:1`, { method: "POST", headers });
  assertEquals(await code, "ended");
  assertEquals(await fails(board.collection("cards").set("a", 1)), "ended");
});

Deno.test("State.changes() leaves out rows that came and went", async () => {
  await using one = server();
  await using board = await statesOf(one).open("board:1");
  const cards = board.collection("cards");
  const changes = board.changes();
  const first = changes.next();
  await cards.set("a", 1);
  assertEquals((await first).value?.key, "a");
  await cards.set("b", 1);
  await cards.delete("b");
  await cards.set("c", 1);
  assertEquals((await changes.next()).value?.key, "c");
  await changes.return();
});

Deno.test("State replaces its rows in one step if it missed forgotten deletions", async () => {
  const store = new FaultyStore();
  await using one = server(store.connect());
  const link = store.connect();
  await using two = server(link);
  await using near = await statesOf(one).open("board:1");
  const cards = near.collection<number>("cards");
  for (const key of ["a", "b", "c"]) await cards.set(key, 1);
  await using far = await statesOf(two).open("board:1");
  const seen: string[] = [];
  const loop = (async () => {
    for await (const { key, value } of far.changes()) seen.push(`${key} ${value}`);
  })();
  link.cut();
  await cards.delete("a");
  await cards.set("b", 2);
  // Another writer with smaller bounds makes the log forget the deletion.
  const change = rowChange({ type: "cards", key: "d", operation: "upsert", value: "1" }, 0);
  const rowBounds = { rows: 9, deletions: 0, deletionMs: 0 };
  await store.connect().logs!.append("board:1", {
    records: [],
    changes: [change],
    maxBytes: 1e6,
    rowBounds,
  });
  link.mend();
  link.interrupt();
  const others = far.collection<number>("cards");
  await until(() => others.has("d"));
  assertEquals(Object.fromEntries(others), { b: 2, c: 1, d: 1 });
  await until(() => seen.length === 3);
  assertEquals(seen.sort(), ["a undefined", "b 2", "d 1"]);
  await far[Symbol.asyncDispose]();
  await loop;
});

Deno.test("LiveState.open() waits while too many readers wait", async () => {
  await using one = server(undefined, { maxReaders: 1 });
  const first = await statesOf(one).open("a");
  const opening = statesOf(one).open("b");
  await first[Symbol.asyncDispose]();
  await using second = await opening;
  assertEquals(second.collection("cards").size, 0);
});

Deno.test("LiveState.open() rejects other streams, and needs a server", async () => {
  await using one = server();
  await (await streamsOf(one).create("plain")).close();
  assertEquals(await fails(statesOf(one).open("plain")), "wrong-type");
  await assertRejects(() => statesOf(one).open(""), RangeError, "the id must have 1 to 240 bytes");
  await assertRejects(() => liveState().open("a"), TypeError, "pass it to serve");
});

Deno.test("Handles of one state share its rows until the last one is closed", async () => {
  await using one = server();
  const handles: State[] = [];
  for (let i = 0; i < 3; i++) handles.push(await statesOf(one).open("board:1"));
  await handles[0]!.collection("cards").set("a", 1);
  for (const handle of handles) assertEquals(handle.collection("cards").get("a"), 1);
  const [first, second, third] = handles as [State, State, State];
  await first[Symbol.asyncDispose]();
  await first[Symbol.asyncDispose]();
  await second.collection("cards").set("a", 2);
  assertEquals(third.collection("cards").get("a"), 2);
  await second[Symbol.asyncDispose]();
  await third[Symbol.asyncDispose]();
  assertEquals(await fails(third.collection("cards").set("a", 3)), "unavailable");
});
