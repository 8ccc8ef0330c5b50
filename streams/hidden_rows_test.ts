/** Rows that servers keep for themselves: who can name their collections, and who receives them. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { HIDDEN_PREFIX, rowName } from "../session/wire/rows.ts";
import { rowChange } from "./logs/change_message.ts";
import { logsOf } from "./logs/logs_of.ts";
import { type ClientState, connect, defineContract, MemoryBroker } from "../mod.ts";
import { z } from "zod";
import { listen } from "../tests/servers.ts";
import { statesOf, streamFeatures } from "../tests/stream_features.ts";
import { until } from "../tests/waiting.ts";

const RESERVED = `${HIDDEN_PREFIX}:marks`;

/** A server with one state, over sessions and HTTP. */
class House implements AsyncDisposable {
  readonly broker = new MemoryBroker();
  readonly server = listen({
    webTransport: false,
    broker: this.broker,
    authorize: () => true,
    features: streamFeatures({ path: "/streams", authorize: () => true, longPollMs: 50 }),
  });
  readonly client = connect(this.server.url);

  async ask(method: string, path: string, body?: unknown, headers: HeadersInit = {}) {
    const response = await this.server.fetch(
      new Request(`http://localhost/streams/${path}`, {
        method,
        headers: { "content-type": "application/json", ...headers },
        body: body === undefined ? null : JSON.stringify(body),
      }),
    );
    return { status: response.status, text: await response.text() };
  }

  /** Writes a row with a hidden row, as a feature of the server does. */
  async write(id: string, key: string, value: number): Promise<void> {
    const changeOf = (type: string) =>
      rowChange({ type, key, operation: "upsert", value: `${value}` }, Date.now());
    const result = await logsOf(this.broker)!.append(id, {
      records: [],
      changes: [changeOf(RESERVED), changeOf("cards")],
      maxBytes: 1_000_000,
      rowBounds: { rows: 100, deletions: 100, deletionMs: 1_000_000 },
    });
    assertEquals(result.kind, "appended");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
    await this.server.close();
    await this.broker.close();
  }
}

/** Publishes on a socket of its own. Returns the first result. */
async function publish(url: string, data: object) {
  const socket = new WebSocket(url, ["skein.1"]);
  const { promise, resolve } = Promise.withResolvers<string>();
  socket.onmessage = ({ data }) => {
    for (const line of data.split("\n")) if (JSON.parse(line).reply === 0) resolve(line);
  };
  await new Promise((open) => socket.onopen = open);
  socket.send(JSON.stringify({ publish: "stream:board", data, id: 0 }));
  const { data: { results: [result] } } = JSON.parse(await promise);
  const closed = new Promise((close) => socket.onclose = close);
  socket.close();
  await closed;
  return result;
}

Deno.test("Clients and applications can't name a collection that is reserved", async (t) => {
  await using house = new House();
  const rule = `must not start with "${HIDDEN_PREFIX}", which is reserved, received "${RESERVED}"`;
  await using own = await statesOf(house.server).open("board");
  const mine = await house.client.state("board") as ClientState;
  await mine.ready;
  for (const [name, state] of [["server", own], ["client", mine]] as const) {
    await t.step(`the handle of a ${name}`, async () => {
      assertThrows(
        () => state.collection(RESERVED),
        RangeError,
        `Cannot open collection: name ${rule}`,
      );
      const writing = async () => await state.transaction((to) => void to.set(RESERVED, "a", 1));
      await assertRejects(writing, RangeError, `Cannot write state: collection ${rule}`);
    });
  }
  await t.step("a transaction that reads", async () => {
    const reading = () => own.transaction(async (to) => void await to.get(RESERVED, "a"));
    await assertRejects(reading, RangeError, rule);
    const iterating = () =>
      own.transaction(async (to) => void await to.entries(RESERVED)[Symbol.asyncIterator]().next());
    await assertRejects(iterating, RangeError, rule);
  });
  await t.step("the first rows", async () => {
    const initial = { [RESERVED]: { a: 1 } };
    await assertRejects(() => statesOf(house.server).open("new", { initial }), RangeError, rule);
  });
  await t.step("a contract", () => {
    const define = () =>
      defineContract({ state: { board: { cards: z.number(), [RESERVED]: z.any() } } });
    assertThrows(define, TypeError, "a state must have collections, each with a name");
  });
  const message = (operation: string) => ({
    type: RESERVED,
    key: "a",
    value: 1,
    headers: { operation, since: 0 },
  });
  for (const operation of ["upsert", "update", "delete", "check"]) {
    await t.step(`a request to ${operation} a row`, async () => {
      const { status, text } = await house.ask("POST", "board", message(operation));
      assertEquals([status, JSON.parse(text).code], [400, "bad-change"]);
      assert(JSON.parse(text).detail.includes("reserved"), text);
    });
    await t.step(`a publication to ${operation} a row`, async () => {
      for (const key of ["a", ""]) {
        const result = await publish(house.server.url, {
          writes: [[{ ...message(operation), key }]],
        });
        assertEquals(result.error.code, "bad-change", JSON.stringify(result));
        if (key !== "") assert(result.error.message.includes("reserved"), result.error.message);
      }
    });
  }
  await t.step("a publication of ephemeral rows", async () => {
    const result = await publish(house.server.url, { ephemeral: [[RESERVED, "a", 1]] });
    assertEquals(result.error.code, "malformed");
    assert(result.error.message.includes("reserved"), result.error.message);
  });
  assertEquals(own.version, 0);
});

Deno.test("No reader of a state receives its hidden rows", async () => {
  await using house = new House();
  await using own = await statesOf(house.server).open("board");
  const early = await house.client.state("board") as ClientState;
  await early.ready;
  await own.collection("cards").set("0", 0);
  for (let i = 1; i < 4; i++) await house.write("board", `${i % 2}`, i);
  const texts = [];
  for (const query of ["", "&changes=all", "&live=long-poll"]) {
    texts.push((await house.ask("GET", `board?offset=-1${query}`)).text);
  }
  const { status } = await house.ask("PUT", "copy", undefined, {
    "stream-forked-from": "/streams/board",
  });
  assertEquals(status, 201);
  texts.push((await house.ask("GET", "copy?offset=-1")).text);
  assertEquals(texts.filter((text) => text.includes(HIDDEN_PREFIX) || !text.includes("cards")), []);
  const logs = logsOf(house.broker)!;
  const named = { after: 0, maxRecords: 9, maxBytes: 1_000, renews: false };
  const rows = ["0", "1"].map((key) => rowName(RESERVED, key));
  const [source, copy] = await Promise.all(
    ["board", "copy"].map((id) => logs.read(id, { ...named, rows })),
  );
  assert(typeof source === "object" && typeof copy === "object");
  assertEquals([source.records.length, copy.records.length], [2, 0]);
  const other = connect(house.server.url);
  const late = await other.state("board") as ClientState;
  await using forked = await statesOf(house.server).open("copy");
  for (const state of [own, early, late, forked]) {
    await until(() => state.collection("cards").get("1") === 3);
    assertEquals([...state.collections()].map(([name]) => name), ["cards"]);
    assertEquals([...state.collection("cards")], [["0", 2], ["1", 3]]);
  }
  await other.close();
  await house.write("copy", "0", 5);
  await until(() => forked.collection("cards").get("0") === 5);
  assertEquals([...forked.collections()].map(([name]) => name), ["cards"]);
});
