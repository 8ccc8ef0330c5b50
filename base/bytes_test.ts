import { assertEquals, assertNotStrictEquals } from "@std/assert";
import { compareBytes, concat } from "./bytes.ts";

Deno.test("concat() joins views of any buffers in order", () => {
  const bytes = Uint8Array.of(1, 2, 3, 4, 5);
  const all = concat([bytes.subarray(3), new Uint8Array(), bytes.subarray(0, 2)]);
  assertEquals([...all], [4, 5, 1, 2]);
  assertEquals(all.buffer.byteLength, 4);
  assertEquals(concat([]).byteLength, 0);
  assertNotStrictEquals(concat([bytes]).buffer, bytes.buffer);
});

Deno.test("compareBytes() orders by bytes, and a beginning before the whole", () => {
  const sorted = [[], [0], [0, 0], [0, 255], [1], [127], [128], [255], [255, 0]];
  const found = sorted.toReversed().map((bytes) => Uint8Array.from(bytes)).sort(compareBytes);
  assertEquals(found.map((bytes) => [...bytes]), sorted);
});
