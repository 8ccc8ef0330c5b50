/** Tests the ledger of writes to a state: it must find every kind of fault. */
import { assertEquals } from "@std/assert";
import { connect, serve } from "../mod.ts";
import { liveState } from "../streams/mod.ts";
import {
  differences,
  type LedgerWrite,
  NO_COUNT,
  NO_ITEM,
  NO_VOTES,
  readRows,
  type ServerRow,
  StateLedger,
} from "./state_ledger.ts";

Deno.test("StateLedger.check() finds each way in which rows contradict the outcomes", async () => {
  let isAllowed = true;
  const states = liveState();
  await using server = serve({
    port: 0,
    hostname: "127.0.0.1",
    webTransport: false,
    onListen() {},
    features: [states],
    authorize: (_session, _topic, action) => action !== "publish" || isAllowed,
    onMessageRejected() {},
    onError() {},
  });
  await using own = await states.open("board");
  await own.collection("counters").set("a", NO_COUNT);
  await using client = connect(server.url, { transports: ["websocket"] });
  using state = await client.state("board");
  await state.ready;
  const ledger = new StateLedger();
  const write = (kind: LedgerWrite["kind"], key: string = "a") =>
    ledger.write("ann", state, { kind, key });
  for (const kind of ["set", "update", "update", "set", "move"] as const) await write(kind);
  await write("set", "b");
  await write("delete", "b");
  isAllowed = false;
  for (const kind of ["set", "update", "move"] as const) await write(kind);

  const rows = await readRows(client, "board");
  assertEquals([ledger.check(rows), differences(state, rows)], [[], []]);
  assertEquals([ledger.waiting, ledger.outcomes], [0, { done: 7, forbidden: 3 }]);

  const at = (name: string): ServerRow => rows.get(name)!;
  const counter = (...by: string[]): ServerRow => ({
    ...at("counters/a"),
    value: { count: by.length, by },
  });
  const wrong: readonly (readonly [string, ServerRow | undefined, string])[] = [
    ["items/a", undefined, "is missing after ann#3, version 5"],
    ["items/a", { ...at("items/a"), value: "ann#9" }, "has ann#9, which no one wrote"],
    ["items/a", { ...at("items/a"), value: "ann#7" }, "has ann#7, but forbidden"],
    ["items/a", { value: "ann#0", version: 2 }, "has ann#0, version 2, after ann#3, version 5"],
    ["items/a", { ...at("items/a"), version: 9 }, "has ann#3 as version 9 instead of 5"],
    ["items/a", { ...at("items/a"), value: NO_ITEM }, "still has the first row, after ann#3"],
    ["items/b", { value: "ann#5", version: 7 }, "has ann#5, version 7, after ann#6, version 8"],
    ["counters/a", undefined, "is missing"],
    ["counters/a", counter("ann#1"), "lacks ann#2, which is done"],
    ["counters/a", counter("ann#1", "ann#2", "ann#2"), "has a write twice: ann#1,ann#2,ann#2"],
    ["counters/a", counter("ann#1", "ann#2", "ann#8"), "has ann#8, but forbidden"],
    ["pairs/a.left", undefined, "is missing after ann#4, version 6"],
  ];
  for (const [name, row, fault] of wrong) {
    const others = new Map(rows);
    if (row === undefined) others.delete(name);
    else others.set(name, row);
    assertEquals(ledger.check(others)[0], `${name}: ${fault}`);
    assertEquals(differences(state, others).length, fault.includes("instead of") ? 0 : 1);
  }
});

Deno.test("StateLedger.check() finds votes that are not counted once, and false insertions", async () => {
  let isRejecting = false;
  const states = liveState();
  await using server = serve({
    port: 0,
    hostname: "127.0.0.1",
    webTransport: false,
    onListen() {},
    features: [states],
    authorize: (_session, _topic, action) => action !== "publish" || !isRejecting,
    onMessageRejected() {},
  });
  await using own = await states.open("board");
  await own.collection("votes").set("a", NO_VOTES);
  await using client = connect(server.url, { transports: ["websocket"] });
  using state = await client.state("board");
  await state.ready;
  const ledger = new StateLedger();
  const write = (kind: LedgerWrite["kind"]) => ledger.write("ann", state, { kind, key: "a" });
  for (const kind of ["vote", "vote", "insert", "insert", "delete", "insert"] as const) {
    await write(kind);
  }
  const rows = await readRows(client, "board");
  assertEquals([ledger.check(rows), ledger.outcomes], [[], { done: 5, conflict: 1 }]);
  assertEquals(ledger.refusals, {});
  for (const [slot, count] of [[0, 2], [1, 0], [2, 1]] as const) {
    const votes = rows.get("votes/a")!.value as readonly number[];
    const others = new Map(rows).set("votes/a", { value: votes.with(slot, count), version: 3 });
    const done = slot < 2 ? 1 : 0;
    assertEquals(ledger.check(others), [
      `votes/a: counts ${count} in slot ${slot}, but ${done} are done, and 0 are unknown`,
    ]);
  }
  isRejecting = true;
  await write("set");
  assertEquals(ledger.refusals, { "set forbidden": 1 });
});

Deno.test("StateLedger.check() finds an insertion that replaced a row", async () => {
  const ledger = new StateLedger();
  let version = 0;
  const rows = {
    get: () => undefined,
    set: () => Promise.resolve(++version),
    insert: () => Promise.resolve(++version),
    delete: () => Promise.resolve(++version),
    update: () => Promise.resolve(++version),
  };
  const state = { collection: () => rows, transaction: () => Promise.resolve(++version) };
  const write = (kind: LedgerWrite["kind"]) => ledger.write("ann", state, { kind, key: "a" });
  for (const kind of ["set", "delete", "insert"] as const) await write(kind);
  assertEquals(ledger.check(new Map([["items/a", { value: "ann#2", version: 3 }]])), []);
  await write("insert");
  assertEquals(ledger.check(new Map([["items/a", { value: "ann#3", version: 4 }]])), [
    "items/a: ann#3 was inserted as version 4, after ann#2",
  ]);
});

Deno.test("StateLedger.check() finds writes that are not settled, and half a transaction", async () => {
  const states = liveState();
  await using server = serve({
    port: 0,
    hostname: "127.0.0.1",
    webTransport: false,
    onListen() {},
    features: [states],
    authorize: () => true,
  });
  await using _own = await states.open("board");
  await using client = connect(server.url, { transports: ["websocket"] });
  using state = await client.state("board");
  await state.ready;
  const ledger = new StateLedger();
  const writing = ledger.write("ann", state, { kind: "move", key: "a" });
  assertEquals(ledger.check(new Map()), ["ann#0 was not settled"]);
  await writing;
  const rows = await readRows(client, "board");
  assertEquals(ledger.check(rows), []);
  rows.delete("pairs/a.right");
  assertEquals(ledger.check(rows), [
    "pairs/a.right: is missing after ann#0, version 1",
    "pairs/a.left: ann#0, but pairs/a.right: undefined",
  ]);
});
