import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { RequestError, type Server } from "../../mod.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { rowChange } from "../logs/change_message.ts";
import type { ServeOptions } from "../../server.ts";
import { MovableClock } from "../../tests/movable_clock.ts";
import { listen } from "../../tests/servers.ts";
import { soon, until } from "../../tests/waiting.ts";
import { statesOf, streamFeatures, streamsOf } from "../../tests/stream_features.ts";
import { liveState, type State } from "../mod.ts";
import { logsOf } from "../logs/logs_of.ts";
import { MAX_WAITING } from "./row_queue.ts";

interface Card {
  readonly title: string;
  readonly votes: number;
}

const DRAFT: Card = { title: "Draft", votes: 0 };

function server(broker: Broker = new MemoryBroker(), options: object = {}): Server {
  return listen({
    webTransport: false,
    broker,
    features: streamFeatures({
      path: "/streams",
      authorize: () => ({ close: true }),
      ...options,
    }),
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
    'there is no row "a" in "cards"',
  );
});

/** A server, and a row that others can change. */
async function votes(options: Pick<ServeOptions, "runtime" | "session"> = {}) {
  const broker = new MemoryBroker();
  const live = listen({
    webTransport: false,
    broker,
    features: streamFeatures(),
    ...options,
  });
  const state = await statesOf(live).open("board:1");
  const cards = state.collection<Card>("cards");
  await cards.set("a", DRAFT);
  /** Writes the row as another server would. */
  const elsewhere = async (votes: number) => {
    const value = JSON.stringify({ ...DRAFT, votes });
    const change = rowChange({ type: "cards", key: "a", operation: "upsert", value }, 0);
    await logsOf(broker)!.append("board:1", { records: [], changes: [change], maxBytes: 1e6 });
  };
  return { server: live, state, cards, elsewhere, [Symbol.asyncDispose]: () => live.close() };
}

const vote = (card: Card): Card => ({ ...card, votes: card.votes + 1 });

Deno.test("StateCollection.update() counts all votes of one handle and of two servers", async () => {
  const store = new FaultyStore();
  await using one = server(store.connect());
  await using two = server(store.connect());
  await using near = await statesOf(one).open("board:1");
  await using far = await statesOf(two).open("board:1");
  const [cards, others] = [near, far].map((state) => state.collection<Card>("cards"));
  await cards!.set("a", DRAFT);
  await until(() => others!.has("a"));
  await Promise.all(Array.from({ length: 40 }, () => cards!.update("a", vote)));
  assertEquals(cards!.get("a")?.votes, 40);
  const both = [cards!, others!].flatMap((of) => Array.from({ length: 40 }, () => of));
  await Promise.all(both.map((of) => of.update("a", vote)));
  await until(() => cards!.get("a")?.votes === 120);
});

Deno.test("StateCollection.update() repeats its function while others change the row", async () => {
  await using at = await votes();
  let calls = 0;
  await at.cards.update("a", async (card) => {
    if (++calls < 9) await at.elsewhere(calls);
    return vote(card);
  });
  assertEquals([calls, at.cards.get("a")?.votes], [9, 9]);
});

Deno.test("StateCollection.update() is unavailable if others change the row all the time", async () => {
  const clock = new MovableClock();
  await using at = await votes({ runtime: clock.runtime });
  let calls = 0;
  const updating = at.cards.update("a", async (card) => {
    await at.elsewhere(++calls);
    clock.pass(8_000);
    return vote(card);
  });
  const { failure } = await assertRejects(() => updating, RequestError);
  assertEquals(failure, {
    code: "unavailable",
    message: 'Cannot write state: others changed the row "a" of "cards" during each attempt',
    retryAfterMs: 1_000,
  });
  await until(() => at.cards.get("a")?.votes === calls);
  await at.cards.update("a", vote);
  assertEquals(at.cards.get("a")?.votes, calls + 1);
});

Deno.test("StateCollection.update() goes on after a function that throws", async () => {
  await using at = await votes();
  const lost = new Error("Lost");
  const outcomes = await Promise.allSettled([
    at.cards.update("a", vote),
    at.cards.update("a", () => {
      throw lost;
    }),
    at.cards.update("a", () => Promise.reject(lost)),
    at.cards.update("a", () => new Map() as never),
    at.cards.update("a", vote),
  ]);
  assertEquals(outcomes.map(({ status }) => status), [
    "fulfilled",
    "rejected",
    "rejected",
    "rejected",
    "fulfilled",
  ]);
  assertEquals([outcomes[1], outcomes[2]].map((one) => one as unknown), [
    { status: "rejected", reason: lost },
    { status: "rejected", reason: lost },
  ]);
  assertEquals(at.cards.get("a")?.votes, 2);
});

Deno.test("StateCollection.update() goes on after a function that hangs, and calls it again", async () => {
  await using at = await votes({ session: { requestTimeoutMs: 400 } });
  const gate = Promise.withResolvers<void>();
  const seen: number[] = [];
  const hanging = at.cards.update("a", async (card) => {
    seen.push(card.votes);
    if (seen.length === 1) await gate.promise;
    return { title: "late", votes: card.votes + 10 };
  });
  const stuck = at.cards.update("a", () => new Promise(() => {}));
  stuck.catch(() => {});
  await at.cards.update("a", vote);
  assertEquals(at.cards.get("a"), { title: "Draft", votes: 1 });
  gate.resolve();
  // Its time may be over, so that its late result is dropped.
  const outcome = await hanging.then(() => "written", ({ failure }) => failure.code);
  const expected = outcome === "written"
    ? [[0, 1], { title: "late", votes: 11 }]
    : [[0], { title: "Draft", votes: 1 }];
  assertEquals([seen, at.cards.get("a")], expected);
});

Deno.test("StateCollection.update() does not wait for itself", async () => {
  await using at = await votes();
  const rows = at.state.collection<Card>("cards");
  await rows.set("b", DRAFT);
  const nested = rows.update("a", async (card) => {
    await rows.update("b", async (other) => {
      const own = rows.update("a", vote);
      await assertRejects(() => own, TypeError, 'changes the row "a" of "cards" must not update');
      return vote(other);
    });
    return vote(card);
  });
  await nested;
  assertEquals([rows.get("a")?.votes, rows.get("b")?.votes], [1, 1]);
  // Afterwards, work that the function has started may update the row.
  let later: Promise<number> | undefined;
  await rows.update("a", (card) => {
    later = new Promise<void>((resolve) => setTimeout(resolve))
      .then(() => until(() => rows.get("a")?.votes === 2))
      .then(() => rows.update("a", vote));
    return vote(card);
  });
  await later;
  assertEquals(rows.get("a")?.votes, 3);
});

Deno.test("StateCollection.update() waits no longer once it is aborted, or its handle is closed", async () => {
  await using at = await votes();
  await using other = await statesOf(at.server).open("board:1");
  const gate = Promise.withResolvers<void>();
  const first = at.cards.update("a", async (card) => {
    await gate.promise;
    return vote(card);
  });
  const undo = new AbortController();
  const reason = new Error("Undone");
  const mine = other.collection<Card>("cards");
  const aborted = at.cards.update("a", vote, { signal: undo.signal });
  const closed = mine.update("a", vote);
  const last = at.cards.update("a", vote);
  undo.abort(reason);
  assertEquals(await aborted.catch((error) => error), reason);
  await other[Symbol.asyncDispose]();
  await assertRejects(() => closed, RequestError, '"board:1" was closed');
  gate.resolve();
  await Promise.all([first, last]);
  assertEquals(at.cards.get("a")?.votes, 2);
});

Deno.test("StateCollection.update() rejects the calls that wait when the server closes", async () => {
  await using at = await votes();
  const called = Promise.withResolvers<void>();
  const hanging = at.cards.update("a", () => {
    called.resolve();
    return new Promise<never>(() => {});
  });
  hanging.catch(() => {});
  const waiting = at.cards.update("a", vote);
  const rejected = assertRejects(() => waiting, RequestError, "The server is closed");
  await called.promise;
  await at.server.close();
  await rejected;
});

Deno.test("State writes do not wait for an update of the same row", async () => {
  await using at = await votes();
  const gate = Promise.withResolvers<void>();
  let calls = 0;
  const updating = at.cards.update("a", async (card) => {
    if (++calls === 1) await gate.promise;
    return vote(card);
  });
  await at.cards.set("a", { ...DRAFT, votes: 5 });
  await at.state.transaction((to) => to.set("cards", "a", { ...DRAFT, votes: 6 }));
  gate.resolve();
  await updating;
  assertEquals([calls, at.cards.get("a")?.votes], [2, 7]);
});

Deno.test("StateCollection.update() rejects calls beyond the number that may wait", async () => {
  await using at = await votes();
  const gate = Promise.withResolvers<void>();
  const first = at.cards.update("a", async (card) => {
    await gate.promise;
    return card;
  });
  const undo = new AbortController();
  const { signal } = undo;
  const waiting = Promise.allSettled(
    Array.from({ length: MAX_WAITING }, () => at.cards.update("a", vote, { signal })),
  );
  const error = await assertRejects(
    () => at.cards.update("a", vote),
    RequestError,
    "at most 10000",
  );
  assertEquals([error.failure.code, error.failure.retryAfterMs], ["unavailable", 1_000]);
  undo.abort(new Error("Undone"));
  await waiting;
  gate.resolve();
  await first;
  await at.cards.update("a", vote);
  assertEquals(at.cards.get("a")?.votes, 1);
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
  assertThrows(() => board.collection(1 as never), TypeError, "name must be a string, received 1");
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
  const late = board.transaction(() => Promise.reject(new Error("late")));
  await assertRejects(() => late, Error, "late");
  const hasty = board.transaction((transaction) => {
    void transaction.insert("cards", "a", 1);
  });
  await assertRejects(() => hasty, TypeError, "must await each call");
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

Deno.test("State.changes() yields rows of a new state that have the versions of the old ones", async () => {
  const store = new FaultyStore();
  const broker = store.connect();
  await using one = server(broker);
  await using two = server(store.connect());
  await using board = await statesOf(one).open("board:1");
  const cards = board.collection<number>("cards");
  for (const key of ["a", "b", "c"]) await cards.set(key, 1);
  const changes = board.changes<number>();
  const first = changes.next();
  broker.cut();
  await streamsOf(two).delete("board:1");
  await using anew = await statesOf(two).open("board:1");
  for (const [key, value] of [["a", 2], ["b", 1], ["c", 3]] as const) {
    await anew.collection<number>("cards").set(key, value);
  }
  broker.mend();
  await anew.collection<number>("cards").set("d", 1);
  const of = { collection: "cards", before: 1 };
  assertEquals((await soon(first)).value, { ...of, key: "a", value: 2 });
  assertEquals((await soon(changes.next())).value, { ...of, key: "c", value: 3 });
  await changes.return();
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
