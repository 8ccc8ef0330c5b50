/**
 * Tests the boards: order keys, the arrangement of rows, and pages without their appearance against
 * a server.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { type Client, connect, createServer, dial, MemoryBroker, RequestError } from "../mod.ts";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import { Board } from "../examples/board/board.ts";
import { type Card, contract } from "../examples/board/contract.ts";
import { type BoardServer, serveBoards } from "../examples/board/kanban.ts";
import { mutations } from "../examples/board/mutations.ts";
import { between, byOrder, isOrder, orderAt } from "../examples/board/order.ts";
import { type Change, Past, readPast } from "../examples/board/past.ts";
import { arrange, placeOf, withCardAt } from "../examples/board/rows.ts";
import { Cable } from "./networks/cable.ts";
import { soon, until } from "./waiting.ts";
import { durableStreams, liveState } from "../streams/mod.ts";

/* Order keys */

const RANDOM = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

Deno.test("between() returns a key between any two keys", () => {
  fc.assert(fc.property(
    fc.stringMatching(/^[0-9a-z]{0,12}[1-9a-z]$/),
    fc.stringMatching(/^[0-9a-z]{0,12}[1-9a-z]$/),
    RANDOM,
    (one, other, number) => {
      const [low, high] = one < other ? [one, other] : [other, one];
      const random = () => number;
      const keys = [
        between("", low, random),
        low,
        ...(low === high ? [] : [between(low, high, random), high]),
        between(high, undefined, random),
      ];
      assertEquals(keys.every(isOrder), true, keys.join());
      assertEquals(keys.toSorted(), keys);
      assertEquals(new Set(keys).size, keys.length, keys.join());
    },
  ));
});

Deno.test("between() finds room for thousands of rows at the same place", () => {
  for (const atStart of [true, false]) {
    let [low, high] = [between("", undefined), between(between("", undefined), undefined)];
    if (low > high) [low, high] = [high, low];
    for (let i = 0; i < 3_000; i++) {
      const key = between(low, high);
      assert(low < key && key < high && isOrder(key), key);
      if (atStart) high = key;
      else low = key;
    }
  }
});

Deno.test("between() rejects keys in the wrong order", () => {
  assertThrows(() => between("b", "a"), RangeError, 'received "b" and "a"');
  assertThrows(() => between("a", "a"), RangeError, "low must be below high");
});

Deno.test("byOrder() compares equal order keys by the keys of their rows", () => {
  const rows = [
    { key: "c", order: "i" },
    { key: "b", order: "i" },
    { key: "a", order: "z" },
    { key: "d", order: "1" },
  ];
  assertEquals(rows.sort(byOrder).map(({ key }) => key), ["d", "b", "c", "a"]);
});

Deno.test("orderAt() places a row after rows with equal keys", () => {
  const rows = [{ order: "i" }, { order: "i" }, { order: "k" }];
  const placed = [0, 1, 2, 3].map((index) => orderAt(rows, index, () => 0));
  assertEquals(placed, ["911", "j11", "j11", "s11"]);
});

Deno.test("isOrder() rejects what is not an order key", () => {
  for (const value of [undefined, 1, "", "0", "a0", "A", "ä", "a b", "z".repeat(1_001)]) {
    assertEquals(isOrder(value), false, String(value));
  }
});

/* Rows */

const COLUMNS = new Map([["b", { title: "Doing", order: "2" }], ["a", {
  title: "Do",
  order: "1",
}]]);

function card(column: string, order: string): Card {
  return { title: `in ${column}`, note: "", column, order };
}

function shape(columns: ReturnType<typeof arrange>): unknown {
  return columns.map(({ key, cards }) => [key, cards.map((card) => card.key)]);
}

Deno.test("arrange() sorts columns and their cards", () => {
  const cards = new Map([["y", card("a", "2")], ["x", card("a", "2")], ["z", card("a", "1")]]);
  assertEquals(shape(arrange(COLUMNS, cards)), [["a", ["z", "x", "y"]], ["b", []]]);
});

Deno.test("arrange() shows cards of a deleted column in the first one", () => {
  const cards = new Map([["x", card("gone", "1")], ["y", card("b", "1")]]);
  assertEquals(shape(arrange(COLUMNS, cards)), [["a", ["x"]], ["b", ["y"]]]);
  assertEquals(arrange(new Map(), cards), []);
});

Deno.test("withCardAt() shows a card at another place", () => {
  const cards = new Map([["x", card("a", "1")], ["y", card("a", "2")], ["z", card("b", "1")]]);
  const columns = arrange(COLUMNS, cards);
  const at = (key: string, column: string, index: number) =>
    shape([...withCardAt(columns, key, { column, index })]);
  assertEquals(at("x", "b", 1), [["a", ["y"]], ["b", ["z", "x"]]]);
  assertEquals(at("x", "a", 1), [["a", ["y", "x"]], ["b", ["z"]]]);
  assertEquals(at("none", "a", 1), shape(columns));
  assertEquals(at("x", "none", 1), shape(columns));
  assertEquals([placeOf(columns, "y"), placeOf(columns, "none")], [
    { column: "a", index: 1 },
    undefined,
  ]);
});

/* The past */

/** A change of a row at a time of the Unix epoch, in seconds. */
function change(
  seconds: number,
  operation: "insert" | "update" | "delete",
  key: string,
  value?: unknown,
): Change {
  const timestamp = new Date(seconds * 1_000).toISOString();
  const type = key.length === 1 ? "cards" : "columns";
  return { type, key, value, headers: { operation, timestamp } };
}

const LIST = change(1, "insert", "todo", { title: "To do", order: "1" });

function cardsAt(past: Past, seconds: number): string[] {
  return past.at(seconds * 1_000).flatMap(({ cards }) =>
    cards.map(({ key, title }) => key + title)
  );
}

Deno.test("Past shows the board as it was after each change", () => {
  const row = { ...card("todo", "1"), title: "1" };
  const changes = [
    LIST,
    change(2, "insert", "x", row),
    change(3, "update", "x", { ...row, title: "2" }),
    change(3, "insert", "y", { ...row, order: "2" }),
    change(4, "delete", "x"),
    change(5, "insert", "x", { ...row, title: "3" }),
  ];
  const past = new Past(changes.slice(4), changes);
  assertEquals(past.moments, [1_000, 2_000, 3_000, 4_000, 5_000]);
  const shown = past.moments.map((at) => cardsAt(past, at / 1_000));
  assertEquals(shown, [[], ["x1"], ["x2", "y1"], ["y1"], ["x3", "y1"]]);
  assertEquals([cardsAt(past, 0), cardsAt(past, 9), past.isWhole], [[], ["x3", "y1"], true]);
});

Deno.test("Past ends where a row is not known", () => {
  const row = { ...card("todo", "1"), title: "1" };
  const rows = [LIST, change(2, "insert", "x", row), change(7, "update", "y", row)];
  const kept = [
    change(5, "insert", "z", row),
    change(6, "delete", "w"),
    change(7, "update", "y", row),
    change(8, "delete", "z"),
  ];
  const past = new Past([{ headers: {} }, ...rows], kept);
  assertEquals([past.moments, past.isWhole], [[7_000, 8_000], false]);
  assertEquals([cardsAt(past, 7), cardsAt(past, 8)], [["x1", "y1", "z1"], ["x1", "y1"]]);
  assertEquals(new Past(rows, []).moments, []);
});

Deno.test("Past keeps the order of changes if a clock was set back", () => {
  const row = { ...card("todo", "1"), title: "1" };
  const changes = [LIST, change(5, "insert", "x", row), change(4, "delete", "x")];
  const past = new Past([LIST], changes);
  assertEquals(past.moments, [1_000, 5_000]);
  assertEquals(cardsAt(past, 5), []);
});

/* A page and its server */

/** A page: a client with an open board. */
interface Page extends AsyncDisposable {
  readonly client: Client<typeof contract>;
  readonly board: Board;
  readonly rejections: string[];
}

async function open(url: string, name: string): Promise<Page> {
  const client = connect(`${url}session?name=${name}`, {
    contract,
    transports: ["websocket"],
    backoff: { firstDelayMs: 1, maxDelayMs: 5 },
  });
  const rejections: string[] = [];
  const state = await client.state("board:plans", { mutations });
  const board = new Board(state, {
    onChange() {},
    onRejected: (sentence) => rejections.push(sentence),
  });
  await soon(state.ready);
  return {
    client,
    board,
    rejections,
    async [Symbol.asyncDispose]() {
      board[Symbol.dispose]();
      await client.close();
    },
  };
}

function start(options: Parameters<typeof serveBoards>[0] = {}): BoardServer {
  return serveBoards({ port: 0, hostname: "127.0.0.1", onListen() {}, ...options });
}

function titlesOf({ columns }: Board): Record<string, string[]> {
  return Object.fromEntries(
    columns.map(({ title, cards }) => [title, cards.map(({ title }) => title)]),
  );
}

function keyOf({ columns }: Board, title: string): string {
  return [...columns, ...columns.flatMap(({ cards }) => cards)]
    .find((row) => row.title === title)!.key;
}

Deno.test("A new board has three columns, also with two servers", async () => {
  const broker = new MemoryBroker();
  await using one = start({ broker });
  await using two = start({ broker });
  const pages = await Promise.all([open(one.url, "ann"), open(two.url, "bob")]);
  for (const { board } of pages) {
    await until(() => board.columns.length === 3);
    assertEquals(titlesOf(board), { "To do": [], "Doing": [], "Done": [] });
  }
  const [ann, bob] = pages as [Page, Page];
  for (const title of ["To do", "Doing", "Done"]) {
    await ann.board.deleteColumn(keyOf(ann.board, title));
  }
  await until(() => bob.board.columns.length === 0);
  // An empty board stays empty.
  await using eve = await open(two.url, "eve");
  assertEquals(eve.board.columns, []);
  for (const page of pages) await page[Symbol.asyncDispose]();
});

Deno.test("Users who change different cards lose no change", async () => {
  await using server = start();
  await using ann = await open(server.url, "ann");
  await using bob = await open(server.url, "bob");
  const column = keyOf(ann.board, "To do");
  const done = keyOf(ann.board, "Done");
  const names = ["1", "2", "3", "4", "5", "6"];
  for (const name of names) await ann.board.addCard(column, name);
  await until(() => bob.board.columns[0]!.cards.length === 6);
  const pages = [ann, bob];
  await Promise.all(names.map((name, i) => {
    const { board } = pages[i % 2]!;
    return board.moveCard(keyOf(board, name), { column: done, index: 0 });
  }));
  for (const { board } of pages) {
    await until(() => board.columns[2]!.cards.length === 6);
    assertEquals(titlesOf(board)["Done"]!.toSorted(), names);
  }
  assertEquals(titlesOf(ann.board), titlesOf(bob.board));
  // One user edits a card while another one moves it.
  const key = keyOf(ann.board, "4");
  await Promise.all([
    ann.board.editCard(key, { title: "four", note: "even" }),
    bob.board.moveCard(key, { column, index: 0 }),
  ]);
  for (const { board } of pages) {
    await until(() => titlesOf(board)["To do"]!.includes("four"));
  }
  assertEquals([ann.rejections, bob.rejections], [[], []]);
});

Deno.test("Board moves cards and columns to the place that the user chooses", async () => {
  await using server = start();
  await using ann = await open(server.url, "ann");
  const { board } = ann;
  const column = keyOf(board, "To do");
  for (const title of ["a", "b", "c"]) await board.addCard(column, title);
  const place = (title: string, index: number) =>
    board.moveCard(keyOf(board, title), { column, index });
  await place("c", 0);
  assertEquals(titlesOf(board)["To do"], ["c", "a", "b"]);
  await place("c", 1);
  assertEquals(titlesOf(board)["To do"], ["a", "c", "b"]);
  await place("a", 2);
  assertEquals(titlesOf(board)["To do"], ["c", "b", "a"]);
  await board.moveColumn(keyOf(board, "Done"), 0);
  await board.renameColumn(keyOf(board, "Doing"), "Now");
  await board.addColumn("Later");
  assertEquals(Object.keys(titlesOf(board)), ["Done", "To do", "Now", "Later"]);
  await board.deleteCard(keyOf(board, "b"));
  await board.deleteColumn(column);
  assertEquals(titlesOf(board), { "Done": [], "Now": [], "Later": [] });
});

Deno.test("Changes made offline are shown, and saved after the reconnect", async () => {
  await using server = start();
  await using cable = new Cable(Number(new URL(server.url).port));
  const { port } = cable;
  await using ann = await open(cable.url, "ann");
  await using bob = await open(server.url, "bob");
  const column = keyOf(ann.board, "To do");
  await ann.board.addCard(column, "before");
  cable.port = 1;
  cable.cut();
  await until(() => !ann.client.isConnected);
  const saving = [
    ann.board.addCard(column, "offline"),
    ann.board.moveCard(keyOf(ann.board, "before"), { column: keyOf(ann.board, "Done"), index: 0 }),
  ];
  assertEquals(ann.board.waiting, 2);
  await until(() => titlesOf(ann.board)["To do"]!.includes("offline"));
  assertEquals(titlesOf(ann.board), { "To do": ["offline"], "Doing": [], "Done": ["before"] });
  // Meanwhile another user adds a card, and edits the one that has moved.
  await bob.board.addCard(column, "online");
  await bob.board.editCard(keyOf(bob.board, "before"), { title: "edited", note: "" });
  cable.port = port;
  ann.client.retryNow();
  await soon(Promise.all(saving));
  assertEquals(ann.board.waiting, 0);
  for (const { board } of [ann, bob]) {
    await until(() => titlesOf(board)["To do"]!.length === 2);
    assertEquals(titlesOf(board)["To do"]!.toSorted(), ["offline", "online"]);
    assertEquals(titlesOf(board)["Done"], ["edited"]);
  }
  assertEquals(ann.rejections, []);
});

Deno.test("Board says why a change was not saved, and shows the board without it", async () => {
  await using broker = new MemoryBroker();
  await using server = start({ broker });
  await using ann = await open(server.url, "ann");
  await using bob = await open(server.url, "bob");
  const column = keyOf(ann.board, "To do");
  await ann.board.addCard(column, "short-lived");
  const key = keyOf(ann.board, "short-lived");
  await until(() => bob.board.columns[0]!.cards.length === 1);
  await Promise.all([
    ann.board.deleteCard(key),
    bob.board.editCard(key, { title: "kept", note: "" }),
  ]);
  assertEquals(bob.rejections, ["“kept” was not saved: someone else has deleted it."]);
  const states = liveState();
  await using _other = createServer({ broker, features: [states] });
  await using state = await states.open("board:plans");
  for (const half of [0, 1]) {
    await state.transaction((transaction) => {
      for (let i = 0; i < 998; i++) transaction.set("cards", `${half}-${i}`, card("none", "1"));
    });
  }
  for (const title of ["1", "2"]) await ann.board.addCard(column, title);
  assertEquals(ann.rejections, ["“2” was not saved: this board is full."]);
  assertEquals(titlesOf(ann.board)["To do"]!.filter((title) => title !== "in none"), ["1"]);
});

Deno.test("A card is never left without a column, whoever deletes the column", async () => {
  const broker = new MemoryBroker();
  await using one = start({ broker });
  await using two = start({ broker });
  await using ann = await open(one.url, "ann");
  await using bob = await open(two.url, "bob");
  await ann.board.addCard(keyOf(ann.board, "To do"), "moved");
  await until(() => bob.board.columns[0]!.cards.length === 1);
  const doing = keyOf(ann.board, "Doing");
  await Promise.all([
    ann.board.deleteColumn(doing),
    bob.board.moveCard(keyOf(bob.board, "moved"), { column: doing, index: 0 }),
    bob.board.addCard(doing, "new"),
  ]);
  using state = await ann.client.state("board:plans");
  await state.ready;
  const [columns, cards] = [state.collection("columns"), [...state.collection("cards").values()]];
  assertEquals([columns.has(doing), cards.filter(({ column }) => !columns.has(column))], [
    false,
    [],
  ]);
  // Either the card moved first, and the deletion deleted it too, or it could not move.
  const isRejected = bob.rejections.some((sentence) => sentence.startsWith("“moved” was not"));
  assertEquals(cards.some(({ title }) => title === "moved"), isRejected);
  await ann.board.addCard(doing, "late");
  assertEquals(ann.rejections, ["“late” was not saved: someone else has deleted the column."]);
});

Deno.test("serveBoards() accepts only changes of columns and cards", async () => {
  await using server = start();
  await using ann = await open(server.url, "ann");
  const column = keyOf(ann.board, "To do");
  await ann.board.addCard(column, "x".repeat(121));
  await ann.board.addColumn(" ");
  assertEquals(ann.rejections.length, 2);
  assertEquals(titlesOf(ann.board), { "To do": [], "Doing": [], "Done": [] });
  using state = await (ann.client as unknown as Client).state("board:plans");
  await soon(state.ready);
  const row = card(column, "1");
  for (const collection of ["columns", "cards", "others"]) {
    const write = state.collection(collection).set("a", row);
    assertEquals((await assertRejects(() => write, RequestError)).failure.code, "forbidden");
  }
  using mutable = await ann.client.state("board:plans");
  const input = { key: "a", title: "A", column, order: "1" };
  for (
    const bad of [{ ...input, order: "0" }, { ...input, note: "" }, { ...input, key: 1 }, null]
  ) {
    const call = mutable.mutate.addCard(bad as never);
    assertEquals((await assertRejects(() => call, RequestError)).failure.code, "invalid");
  }
});

Deno.test("readPast() reads all changes of a board, for users only", async () => {
  await using server = start();
  await using ann = await open(server.url, "ann");
  const column = keyOf(ann.board, "To do");
  for (const title of ["a", "b"]) await ann.board.addCard(column, title);
  await ann.board.editCard(keyOf(ann.board, "a"), { title: "c" });
  await ann.board.deleteCard(keyOf(ann.board, "b"));
  const stream = (query: string, board = "plans") =>
    new URL(`http://127.0.0.1:${new URL(server.url).port}/streams/board:${board}${query}`);
  const past = await readPast(stream("?name=bob"), { fetch });
  const seen = past.moments.map((at) => past.at(at)[0]!.cards.map(({ title }) => title).join());
  assertEquals(seen[0], "");
  assertEquals(seen.at(-1), "c");
  for (const query of ["", "?name=!", "?name=bob&live=sse&changes=all"]) {
    await assertRejects(() => readPast(stream(query), { fetch }), Error, "The server answered 4");
  }
  await assertRejects(() => readPast(stream("?name=bob", "PLANS"), { fetch }), Error, "403");
});

Deno.test("Board calls its page if the board cannot be read", async () => {
  await using server = start();
  await using client = connect(`${server.url}session?name=ann`, {
    contract,
    transports: ["websocket"],
  });
  const state = await client.state("board:No board");
  const ended = Promise.withResolvers<void>();
  const rejections: string[] = [];
  using board = new Board(state, {
    onChange: () => state.status.current === "ended" && ended.resolve(),
    onRejected: (sentence) => rejections.push(sentence),
  });
  await soon(ended.promise);
  assertEquals((state.error as RequestError).failure.code, "forbidden");
  await board.addColumn("Late");
  assertEquals(rejections.length, 1);
});

Deno.test("A deleted board is created again, with its columns, by the pages that read it", async () => {
  await using broker = new MemoryBroker();
  await using server = start({ broker });
  const streams = durableStreams();
  await using _other = createServer({ broker, features: [streams] });
  await using ann = await open(server.url, "ann");
  await ann.board.addCard(keyOf(ann.board, "To do"), "gone");
  await streams.delete("board:plans");
  await until(() => ann.board.columns.every(({ cards }) => cards.length === 0));
  await until(() => ann.board.columns.length === 3);
});

Deno.test("A board in a file survives a restart of the server", async () => {
  const path = await Deno.makeTempFile();
  for (const visit of [1, 2]) {
    await using broker = await SqliteBroker.open(path);
    await using server = start({ broker });
    await using ann = await open(server.url, "ann");
    if (visit === 1) await ann.board.addCard(keyOf(ann.board, "Doing"), "kept");
    assertEquals(titlesOf(ann.board), { "To do": [], "Doing": ["kept"], "Done": [] });
  }
  await Deno.remove(path);
});

Deno.test("serveBoards() rejects other topics, faulty pointers and requests over HTTP", async () => {
  await using server = start();
  await using ann = await open(server.url, "ann");
  const { client } = ann;
  using state = await client.state("board:plans");
  await state.ready;
  const pointers = state.collection("pointers");
  const at = { column: "column-1", x: 0.5, y: 20 };
  for (const pointer of [{ at, from: "bob" }, { at: { ...at, x: 2 } }, "x"]) {
    const error = await assertRejects(
      () => pointers.set("p-1", pointer as never),
      RequestError,
    );
    assertEquals(error.failure.code, "invalid");
  }
  for (const id of ["board:", "board:A B", "other"]) {
    using other = await (client as unknown as Client).state(id);
    await assertRejects(() => soon(other.ready), RequestError, undefined, id);
  }
  const session = await dial(`${server.url}session?name=bob`);
  const cancelling = session.publish("stream:board:plans", { cancel: "stop" });
  await assertRejects(() => cancelling, RequestError);
  await session.close();
  const { port } = new URL(server.url);
  // The board is not stored before its first change.
  const expected = { GET: 404, HEAD: 404, POST: 403, PUT: 403, DELETE: 403 };
  for (const [method, status] of Object.entries(expected)) {
    const url = `http://127.0.0.1:${port}/streams/board:plans?name=bob`;
    const response = await fetch(url, { method });
    await response.body?.cancel();
    assertEquals([method, response.status], [method, status]);
  }
});

Deno.test("A pointer reaches the other pages, with the user's name, and leaves with its page", async () => {
  await using server = start();
  await using ann = await open(server.url, "ann");
  await using bob = await open(server.url, "bob");
  using near = await ann.client.state("board:plans");
  using far = await bob.client.state("board:plans");
  await Promise.all([near.ready, far.ready]);
  const pointer = { at: { column: "column-1", x: 0.5, y: 20 }, holds: "card-1" };
  const [pointers, theirs] = [near.collection("pointers"), far.collection("pointers")];
  await pointers.set("p-1", { ...pointer, user: "bob" });
  await until(() => theirs.get("p-1")?.user === "ann");
  assertEquals(theirs.get("p-1"), { ...pointer, user: "ann" });
  const error = await assertRejects(() => theirs.set("p-1", pointer), RequestError);
  assertEquals(error.failure.code, "forbidden");
  near[Symbol.dispose]();
  await until(() => theirs.size === 0);
});
