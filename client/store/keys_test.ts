import { assert, assertEquals } from "@std/assert";
import { compareBytes } from "../../base/bytes.ts";
import { keyIn, type KeyPart, partsOf, rangeOf } from "./keys.ts";
import type { StoreRange } from "./store.ts";

const isIn = (key: Uint8Array, { from, to }: StoreRange): boolean =>
  compareBytes(from, key) <= 0 && compareBytes(key, to!) < 0;

Deno.test("partsOf() reads the parts of keyIn(), and no other bytes", () => {
  const key = keyIn("items", "\uFEFFa:ä", 2 ** 32 - 1);
  assertEquals(partsOf(key, ["text", "number"]), ["\uFEFFa:ä", 2 ** 32 - 1]);
  assertEquals(partsOf(key, ["text"]), undefined);
  assertEquals(partsOf(key.subarray(0, -1), ["text", "number"]), undefined);
  assertEquals(partsOf(Uint8Array.of(1, 2, 0, 1, 255), ["text"]), undefined, "Not UTF-8");
  assertEquals(partsOf(Uint8Array.of(1, 2, 0, 9, 65), ["text"]), undefined, "Too short");
  assertEquals(partsOf(Uint8Array.of(), ["text"]), undefined);
});

Deno.test("keyIn() orders numbers, and rangeOf() has exactly the keys with its first parts", () => {
  const keys = [255, 256, 65_536, 2 ** 40].map((number) => keyIn("items", "a", number));
  assertEquals(keys.toSorted(compareBytes), keys);
  const range = rangeOf(keyIn("items", "a"));
  assert(keys.every((key) => isIn(key, range)));
  const others: (readonly KeyPart[])[] = [["aa", 1], ["b", 1], ["", 1]];
  assert(others.every((parts) => !isIn(keyIn("items", ...parts), range)));
  assert(!isIn(keyIn("positions", "a", 1), range));
  const last = rangeOf(Uint8Array.of(1, 255));
  assertEquals([isIn(Uint8Array.of(1, 255, 255), last), isIn(Uint8Array.of(2), last)], [
    true,
    false,
  ]);
});
