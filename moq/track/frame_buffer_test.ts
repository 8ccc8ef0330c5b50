import { assert, assertEquals } from "@std/assert";
import {
  LARGE_BUFFER_BYTES,
  MAX_FREE_LARGE,
  MAX_FREE_SMALL,
  SMALL_BUFFER_BYTES,
  WriteBuffers,
} from "./frame_buffer.ts";

const KINDS = [
  [SMALL_BUFFER_BYTES, MAX_FREE_SMALL],
  [LARGE_BUFFER_BYTES, MAX_FREE_LARGE],
] as const;

for (const [byteLength, maxFree] of KINDS) {
  Deno.test(`WriteBuffers.take() reuses a returned buffer of ${byteLength} bytes`, () => {
    const buffers = new WriteBuffers();
    const first = buffers.take(byteLength);
    assertEquals(first.byteLength, byteLength);
    assert(buffers.take(byteLength) !== first);
    buffers.give(first);
    assert(buffers.take(byteLength - 1) === first);
  });

  Deno.test(`WriteBuffers.give() keeps no more than ${maxFree} of ${byteLength} bytes`, () => {
    const buffers = new WriteBuffers();
    const take = () => Array.from({ length: maxFree + 1 }, () => buffers.take(byteLength));
    const all = take();
    for (const buffer of all) buffers.give(buffer);
    const again = new Set(take());
    assertEquals(all.filter((buffer) => again.has(buffer)).length, maxFree);
  });
}

Deno.test("WriteBuffers.give() keeps no larger buffers", () => {
  const buffers = new WriteBuffers();
  const huge = buffers.take(LARGE_BUFFER_BYTES + 1);
  assertEquals(huge.byteLength, LARGE_BUFFER_BYTES + 1);
  buffers.give(huge);
  assert(buffers.take(LARGE_BUFFER_BYTES + 1) !== huge);
});
