import { assertEquals, assertNotStrictEquals } from "@std/assert";
import { concat } from "./bytes.ts";

Deno.test("concat() joins views of any buffers in order", () => {
  const bytes = Uint8Array.of(1, 2, 3, 4, 5);
  const all = concat([bytes.subarray(3), new Uint8Array(), bytes.subarray(0, 2)]);
  assertEquals([...all], [4, 5, 1, 2]);
  assertEquals(all.buffer.byteLength, 4);
  assertEquals(concat([]).byteLength, 0);
  assertNotStrictEquals(concat([bytes]).buffer, bytes.buffer);
});
