import { assertEquals, assertNotStrictEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { Random } from "../../tests/random.ts";
import { Collections, difference, RowMap } from "./row_map.ts";

function row(key: string, value: unknown) {
  return { key, value, version: 1 };
}

Deno.test("RowMap.view does not change, and stays the same map until a row changes", () => {
  const rows = new RowMap();
  for (let i = 0; i < 1_000; i++) rows.set(row(`${i}`, i));
  const { view } = rows;
  assertStrictEquals(rows.view, view);
  rows.set(row("5", "new"));
  rows.set(row("more", 1));
  rows.delete("7");
  assertNotStrictEquals(rows.view, view);
  assertEquals([view.size, view.get("5"), view.get("more"), view.has("7")], [
    1_000,
    5,
    undefined,
    true,
  ]);
  assertThrows(() => Object.assign(view, { size: 0 }), TypeError);
  assertThrows(() => Object.assign(view, { get: () => "mine" }), TypeError);
  assertEquals([view.size, view.get("5")], [1_000, 5]);
  const now = rows.view;
  assertEquals([now.size, now.get("5"), now.get("more"), now.has("7")], [1_000, "new", 1, false]);
});

Deno.test("RowMap.view reads like a Map", () => {
  const rows = new RowMap();
  for (const key of ["c", "a", "b"]) rows.set(row(key, key.toUpperCase()));
  const { view } = rows;
  const entries: [string, unknown][] = [["c", "C"], ["a", "A"], ["b", "B"]];
  assertEquals([...view], entries);
  assertEquals([...view.entries()], entries);
  assertEquals([...view.keys()], ["c", "a", "b"]);
  assertEquals([...view.values()], ["C", "A", "B"]);
  const called: unknown[] = [];
  view.forEach(function (this: unknown, value, key, map) {
    called.push([this, key, value, map]);
  }, called);
  assertEquals(called.map((one) => (one as unknown[]).slice(1, 3)), entries);
  assertStrictEquals((called[0] as unknown[])[3], view);
  assertStrictEquals((called[0] as unknown[])[0], called);
  assertEquals(Deno.inspect(view), Deno.inspect(new Map(view)));
});

Deno.test("RowMap and its copies and views agree with maps, whatever changes", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new Random(seed);
    let pair = { rows: new RowMap(), model: new Map<string, unknown>() };
    const pairs = [pair];
    const views: { view: ReadonlyMap<string, unknown>; model: Map<string, unknown> }[] = [];
    for (let step = 0; step < 3_000; step++) {
      const key = `${random.below(900)}`;
      const what = random.below(1_000);
      if (what < 500 || step < 600) {
        pair.rows.set(row(key, step));
        pair.model.set(key, step);
      } else if (what < 985) {
        pair.rows.delete(key);
        pair.model.delete(key);
      } else if (what < 992) {
        views.push({ view: pair.rows.view, model: new Map(pair.model) });
      } else if (what < 995 && pairs.length < 5) {
        pairs.push(pair = { rows: pair.rows.copy(), model: new Map(pair.model) });
      } else pair = pairs[random.below(pairs.length)]!;
    }
    for (const { rows, model } of pairs) {
      assertEquals(new Map(rows.view), model);
      assertEquals(rows.size, model.size);
      for (const other of pairs) {
        const changed = [...rows.changesTo(other.rows)].sort();
        const keys = new Set([...model.keys(), ...other.model.keys()]);
        const differ = [...keys].filter((key) => model.get(key) !== other.model.get(key));
        assertEquals(changed, differ.map((key) => [key, model.get(key)]).sort());
      }
    }
    for (const { view, model } of views) {
      assertEquals(new Map(view), model);
      assertEquals(view.size, model.size);
      assertEquals([...model.keys()].map((key) => view.get(key)), [...model.values()]);
    }
  }
});

Deno.test("Collections.copy() shares the collections until one of them changes", () => {
  const rows = new Collections();
  rows.set("a", row("1", 1));
  rows.set("b", row("1", 1));
  const copy = rows.copy();
  assertStrictEquals(copy.get("a"), rows.get("a"));
  copy.set("a", row("2", 2));
  rows.delete("b", "1");
  assertEquals([new Map(rows.get("a").view), rows.get("b").size], [new Map([["1", 1]]), 0]);
  assertEquals(copy.get("b").view.get("1"), 1);
  assertEquals([...rows.names], ["a"]);
  assertEquals(
    Array.from(difference(rows, copy), ([name, changed]) => [name, [...changed]]),
    [["a", [["2", undefined]]], ["b", [["1", undefined]]]],
  );
});

Deno.test("Collections.take() shares a collection in place of one that was changed", () => {
  const rows = new Collections();
  rows.set("a", row("1", 1));
  const others = new Collections();
  others.set("a", row("1", 2));
  rows.take("a", others);
  rows.set("a", row("1", 3));
  assertEquals([rows, others].map((each) => each.get("a").view.get("1")), [3, 2]);
});
