/**
 * Tests that rows are values: wherever an application receives a row, the row is frozen, and a
 * function that may change its argument has a copy of its own.
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { createCollection } from "npm:@tanstack/db@0.15.2";
import { z } from "zod";
import { stateCollection } from "../examples/adapters/tanstack_db.ts";
import { connect, defineContract, RequestError, type RowReader, type StateChange } from "../mod.ts";
import { durableStreams, liveState } from "../streams/mod.ts";
import { listen } from "./servers.ts";
import { until } from "./waiting.ts";

interface Card {
  title: string;
  tags: { name: string }[];
}

const CARD = z.object({
  title: z.string().max(20),
  tags: z.array(z.object({ name: z.string() })),
});

const contract = defineContract({
  state: { "board:{id}": { cards: CARD, cursors: { schema: CARD, ephemeral: true } } },
});

function card(title: string): Card {
  return { title, tags: [{ name: "a" }] };
}

/** Rows that the application has received, by their places. */
class Seen {
  readonly #rows = new Map<string, unknown>();

  add(place: string, row: unknown): void {
    assert(row !== undefined, `${place} has received no row`);
    this.#rows.set(place, row);
  }

  /** Tries to change all rows, at the top and inside. */
  check(...places: readonly string[]): void {
    assertEquals([...this.#rows.keys()].sort(), [...places].sort());
    for (const [place, row] of this.#rows) {
      const { tags } = row as Card;
      for (const part of [row, tags, tags[0]]) assert(Object.isFrozen(part), place);
      assertThrows(() => (row as Card).title = "changed", TypeError, "read only", place);
      assertThrows(() => tags.push({ name: "b" }), TypeError, "not extensible", place);
    }
    this.#rows.clear();
  }
}

/** Reads the row `a` of a collection in all ways. */
async function read(seen: Seen, cards: RowReader<Card>): Promise<void> {
  seen.add("get", cards.get("a"));
  for (const [key, row] of cards) if (key === "a") seen.add("iterator", row);
  for (const [key, row] of cards.entries()) if (key === "a") seen.add("entries", row);
  for (const row of cards.values()) seen.add("values", row);
  for (const [, row] of cards.current) seen.add("current", row);
  for (const row of cards.current.values()) seen.add("values of current", row);
  cards.forEach((row) => seen.add("forEach", row));
  cards.current.forEach((row) => seen.add("forEach of current", row));
  cards.subscribe((rows) => seen.add("subscribe", rows.get("a")))();
  for await (const rows of cards) {
    seen.add("loop", rows.get("a"));
    break;
  }
}

const READS = [
  ...["get", "iterator", "entries", "values", "current", "values of current", "forEach"],
  ...["forEach of current", "subscribe", "loop"],
];

Deno.test("rows are frozen wherever an application receives them", async () => {
  const seen = new Seen();
  const states = liveState(contract);
  await using server = listen({
    webTransport: false,
    contract,
    features: [durableStreams({ path: "/streams", authorize: () => true }), states],
    authorize: () => true,
    authorizeChange({ action, value, before }) {
      if (value !== undefined) seen.add(`value of ${action}`, value);
      if (before !== undefined) seen.add(`before of ${action}`, before);
      return true;
    },
  });
  await using board = await states.open("board:1");
  await using client = connect(server.url, { contract, transports: ["websocket"] });
  using mine = await client.state("board:1", {
    onConflict({ mine, theirs }) {
      seen.add("mine", mine);
      seen.add("theirs", theirs);
      return "mine";
    },
  });
  await mine.ready;

  for (const name of ["cards", "cursors"] as const) {
    const [own, other] = [board.collection(name), mine.collection(name)];
    const changes = [board.changes(), mine.changes()] as const;
    const pulled = changes.map((changes) => changes.next());
    await own.set("a", card("first"));
    await until(() => other.has("a"));
    await read(seen, own);
    seen.check(...READS);
    await read(seen, other);
    seen.check(...READS);
    for (const next of pulled) seen.add("value of changes", (await next).value?.value);
    seen.check("value of changes");

    const again = changes.map((changes) => changes.next());
    await other.set("a", card("second"));
    seen.check("value of set", "before of set");
    await until(() => own.get("a")?.title === "second");
    for (const next of again) {
      const { value } = await next;
      seen.add("value of changes", value?.value);
      seen.add("before of changes", value?.before);
      seen.check("value of changes", "before of changes");
    }
    for (const loop of changes) await loop.return();
    // The row as this client wrote it.
    await read(seen, other);
    seen.check(...READS);
    await read(seen, own);
    seen.check(...READS);
    for (const state of [board, mine]) {
      for (const [collection, rows] of state.collections()) {
        if (collection === name) seen.add("collections", rows.get("a"));
      }
      seen.check("collections");
    }
  }

  await mine.collection("cards").set("b", card("gone"));
  seen.check("value of set");
  await mine.collection("cards").delete("b");
  seen.check("before of delete");

  const written = mine.collection("cards").set("a", card("mine"));
  await board.collection("cards").set("a", card("theirs"));
  await written;
  seen.check("mine", "theirs", "value of set", "before of set");

  const rows = createCollection(
    stateCollection<Card>({ state: mine as never, name: "cards", getKey: () => "a" }),
  );
  await rows.preload();
  seen.add("TanStack DB", rows.get("a"));
  await rows.cleanup();

  const url = new URL("/streams/board:1", server.url.replace("ws:", "http:"));
  const response = await fetch(url);
  const [{ value }] = (await response.json()).filter(({ key }: { key?: string }) => key === "a");
  assertEquals(value, card("mine"));
  assertEquals(board.collection("cards").get("a"), card("mine"));
});

/** Never called: only its types count. */
export function rowsAreReadOnlyInTypes(
  cards: RowReader<Card>,
  { value, before }: StateChange<Card>,
): void {
  for (const row of [cards.get("a")!, ...cards.values(), value!, before!]) {
    // @ts-expect-error A row is read only.
    row.title = "changed";
    const title: string = row.title;
    assert(title);
  }
  cards.subscribe((rows) => {
    // @ts-expect-error So are the rows.
    rows.set("a", { title: "changed", tags: [] });
  });
}

Deno.test("update() passes a copy of the row, which its function may change", async () => {
  const states = liveState(contract);
  const befores: unknown[] = [];
  await using server = listen({
    webTransport: false,
    contract,
    features: [states],
    authorize: () => true,
    authorizeChange: ({ before }) => Boolean(befores.push(before)),
  });
  await using board = await states.open("board:1");
  await using client = connect(server.url, { contract, transports: ["websocket"] });
  using mine = await client.state("board:1");
  await mine.ready;
  for (const name of ["cards", "cursors"] as const) {
    const [own, other] = [board.collection(name), mine.collection(name)];
    await own.set("a", card("x"));
    await until(() => other.has("a"));
    for (const cards of [own, other]) {
      const before = cards.get("a")!;
      await assertRejects(
        () =>
          cards.update("a", (row) => {
            row.title = "x".repeat(21);
            return row;
          }),
        RequestError,
        "must fit the contract",
      );
      await assertRejects(() =>
        cards.update("a", (row) => {
          row.tags.length = 0;
          throw new Error("mine");
        })
      );
      assertEquals([own.get("a"), other.get("a")], [before, before]);
      await cards.update("a", (row) => {
        row.title += "y";
        row.tags.push({ name: "b" });
        return row;
      });
      await until(() => own.get("a")?.title === `${before.title}y`);
      await until(() => other.get("a")?.title === `${before.title}y`);
      assertEquals(before.tags.length + 1, own.get("a")!.tags.length);
    }
    // The present row, not the one that a function has changed.
    assertEquals((befores.at(-1) as Card).title, "xy");
  }
});

/** Values that a row cannot have, with their descriptions and their places. */
const REFUSED: readonly (readonly [value: unknown, received: string])[] = [
  [{ due: new Date(0) }, "Date at due. Write date.toISOString() or date.getTime()"],
  [{ list: [{}, { due: new Date(0) }] }, "Date at list.1.due"],
  [new Map(), "Map"],
  [{ a: { b: new Set() } }, "Set at a.b"],
  [{ count: 1n }, "bigint at count"],
  [{ at: new URL("http://a.example") }, "URL at at"],
  [{
    price: new (class Price {
      toJSON = () => 1;
    })(),
  }, "Price at price"],
  [{ toJSON: () => 1 }, "a function at toJSON"],
  [{ n: NaN }, "NaN at n"],
  [[undefined], "undefined at 0"],
  [undefined, "undefined"],
];

Deno.test("rows that are not plain JSON are refused at the call, by their place", async () => {
  const states = liveState();
  await using server = listen({ webTransport: false, features: [states], authorize: () => true });
  await using board = await states.open("list");
  await using client = connect(server.url, { transports: ["websocket"] });
  using mine = await client.state("list");
  await mine.ready;
  await assertRejects(
    () => states.open("other", { initial: { rows: { a: { due: new Date(0) } } } }),
    TypeError,
    "Cannot open state: a row must be plain JSON, received Date at due",
  );
  const circle: Record<string, unknown> = {};
  circle.list = [circle];
  for (const state of [board, mine]) {
    const rows = state.collection("rows");
    await rows.set("a", { n: 1, none: undefined });
    assertEquals(rows.get("a"), { n: 1 });
    for (const [value, received] of [...REFUSED, [circle, "Object at list.0"] as const]) {
      const text = `Cannot write state: a row must be plain JSON, received ${received}`;
      const calls = [
        () => rows.set("a", value),
        // The function of an update may not return nothing.
        ...(value === undefined ? [] : [() => rows.update("a", () => value)]),
        () => state.transaction((to) => to.set("rows", "a", value)),
      ];
      for (const call of calls) await assertRejects(call, TypeError, text);
    }
    assertEquals(rows.get("a"), { n: 1 });
  }
});
