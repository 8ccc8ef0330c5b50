import { assertEquals, assertStrictEquals } from "@std/assert";
import type { RowChanges } from "../../session/rows/row_map.ts";
import type { VersionedRowMessage } from "../../session/wire/rows.ts";
import { ClientRows } from "./rows.ts";

function put(key: string, value: unknown, version: number): VersionedRowMessage {
  const operation = value === undefined ? "delete" : "update";
  return { type: "items", key, value, version, headers: { operation } };
}

function complete(): ClientRows {
  const rows = new ClientRows();
  rows.deliver([put("a", 1, 1)], 1, true);
  rows.complete();
  return rows;
}

function shown(rows: ClientRows): unknown {
  return Object.fromEntries(rows.collection("items").view);
}

Deno.test("ClientRows shows a reply until the stream reaches its version", () => {
  const rows = complete();
  rows.learn("items", "a", { value: 3, version: 3 });
  rows.deliver([put("a", 2, 2)], 2, true);
  assertEquals(shown(rows), { a: 3 });
  rows.deliver([put("a", undefined, 4)], 4, true);
  assertEquals(shown(rows), {});
});

Deno.test("ClientRows ignores a reply that comes after a deletion which the stream delivered", () => {
  const rows = complete();
  const write = [{ type: "items", key: "a", value: 2 }];
  const by = { order: 0 };
  rows.begin(by, write);
  rows.deliver([put("a", undefined, 3)], 3, true);
  assertEquals(shown(rows), { a: 2 });
  rows.end(by, write, { rows: write, version: 2 });
  assertEquals([shown(rows), rows.versionOf("items", "a")], [{}, 0]);
});

Deno.test("ClientRows keeps no reply of an earlier stream with the same id", () => {
  const rows = complete();
  rows.learn("items", "a", { value: 9, version: 9 });
  rows.restart();
  rows.deliver([put("b", 1, 1)], 1, true);
  assertEquals(shown(rows), { a: 9 });
  rows.complete();
  assertEquals(shown(rows), { b: 1 });
  rows.deliver([put("a", 2, 2)], 2, true);
  assertEquals(shown(rows), { a: 2, b: 1 });
});

Deno.test("ClientRows shows a reply while the rows that replace it are incomplete", () => {
  const rows = complete();
  rows.restart();
  rows.learn("items", "a", { value: 5, version: 5 });
  rows.deliver([put("b", 6, 6)], 6, true);
  assertEquals(shown(rows), { a: 5 });
  rows.deliver([put("a", 5, 5)], 5, true);
  rows.complete();
  assertEquals(shown(rows), { a: 5, b: 6 });
});

Deno.test("ClientRows shows changes in one step when the last one has arrived", () => {
  const rows = complete();
  const told: RowChanges[] = [];
  rows.listeners.add((changes) => told.push(changes));
  rows.deliver([put("a", undefined, 2)], 2, false);
  rows.deliver([put("b", 3, 3)], 3, false);
  assertEquals([shown(rows), rows.version, told], [{ a: 1 }, 1, []]);
  rows.complete();
  assertEquals([shown(rows), rows.version], [{ b: 3 }, 3]);
  assertEquals(told, [
    new Map([["items", new Map<string, unknown>([["a", 1], ["b", undefined]])]]),
  ]);
});

Deno.test("ClientRows keeps the values and the maps that do not change when all rows are read again", () => {
  const rows = complete();
  rows.deliver([{ ...put("c", { n: 1 }, 2), type: "others" }], 2, true);
  const [others, value] = [rows.collection("others").view, rows.valueAt("others", "c")];
  rows.restart();
  rows.deliver([put("a", 2, 1), { ...put("c", { n: 1 }, 2), type: "others" }], 2, true);
  rows.complete();
  assertEquals(shown(rows), { a: 2 });
  assertStrictEquals(rows.collection("others").view, others);
  assertStrictEquals(rows.valueAt("others", "c"), value);
});
