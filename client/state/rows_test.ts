import { assertEquals } from "@std/assert";
import type { VersionedRowMessage } from "../../session/wire/rows.ts";
import { ClientRows } from "./rows.ts";

function put(key: string, value: unknown, version: number): VersionedRowMessage {
  const operation = value === undefined ? "delete" : "update";
  return { type: "items", key, value, version, headers: { operation } };
}

/** Rows that are complete, with one row. */
function complete(): ClientRows {
  const rows = new ClientRows();
  rows.deliver([put("a", 1, 1)], 1);
  rows.complete();
  return rows;
}

function shown(rows: ClientRows): unknown {
  return Object.fromEntries(rows.collection("items"));
}

Deno.test("ClientRows shows a reply until the stream reaches its version", () => {
  const rows = complete();
  rows.learn("items", "a", { value: 3, version: 3 });
  rows.deliver([put("a", 2, 2)], 2);
  assertEquals(shown(rows), { a: 3 });
  rows.deliver([put("a", undefined, 4)], 4);
  assertEquals(shown(rows), {});
});

Deno.test("ClientRows ignores a reply that comes after a deletion which the stream delivered", () => {
  const rows = complete();
  const write = [{ type: "items", key: "a", value: 2 }];
  rows.begin("write", write);
  rows.deliver([put("a", undefined, 3)], 3);
  assertEquals(shown(rows), { a: 2 });
  rows.end("write", write, 2);
  assertEquals([shown(rows), rows.versionOf("items", "a")], [{}, 0]);
});

Deno.test("ClientRows keeps no reply of an earlier stream with the same id", () => {
  const rows = complete();
  rows.learn("items", "a", { value: 9, version: 9 });
  rows.restart();
  rows.deliver([put("b", 1, 1)], 1);
  assertEquals(shown(rows), { a: 9 });
  rows.complete();
  assertEquals(shown(rows), { b: 1 });
  rows.deliver([put("a", 2, 2)], 2);
  assertEquals(shown(rows), { a: 2, b: 1 });
});

Deno.test("ClientRows shows a reply while the rows that replace it are incomplete", () => {
  const rows = complete();
  rows.restart();
  rows.learn("items", "a", { value: 5, version: 5 });
  rows.deliver([put("b", 6, 6)], 6);
  assertEquals(shown(rows), { a: 5 });
  rows.deliver([put("a", 5, 5)], 5);
  rows.complete();
  assertEquals(shown(rows), { a: 5, b: 6 });
});

Deno.test("ClientRows no longer copies a collection that nothing follows", () => {
  const rows = complete();
  const [feed, same] = [rows.follow("items"), rows.follow("items")];
  rows.leave("items");
  rows.deliver([put("a", 2, 2)], 2);
  assertEquals([same, feed.current.get("a")], [feed, 2]);
  rows.leave("items");
  rows.deliver([put("a", 3, 3)], 3);
  assertEquals(feed.current.get("a"), 2);
  assertEquals(rows.follow("items").current.get("a"), 3);
});
