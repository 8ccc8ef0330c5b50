import { assertEquals, assertNotStrictEquals, assertStrictEquals } from "@std/assert";
import { FIRST_READ_BYTES, FirstReads, nextReadBytes, ReadBuffers } from "./receive_half.ts";

Deno.test("nextReadBytes() grows to 64 KiB", () => {
  const sizes = [256, FIRST_READ_BYTES, 16_384, 65_536].map(nextReadBytes);
  assertEquals(sizes, [16_384, 16_384, 65_536, 65_536]);
});

Deno.test("FirstReads.bytes adapts to the previous streams", () => {
  const reads = new FirstReads();
  const after = (byteLength: number) => {
    reads.learn(byteLength, reads.bytes);
    return reads.bytes;
  };
  const lengths = [100, FIRST_READ_BYTES, 16_384, 2_000, 100];
  assertEquals(lengths.map(after), [FIRST_READ_BYTES, 16_384, 16_384, 16_384, FIRST_READ_BYTES]);
});

Deno.test("ReadBuffers.take() reuses returned buffers", () => {
  for (const size of [FIRST_READ_BYTES, 16_384, 65_536]) {
    const { buffer } = ReadBuffers.take(size);
    ReadBuffers.giveBack(buffer);
    const view = ReadBuffers.take(size);
    assertStrictEquals(view.buffer, buffer);
    assertEquals(view.byteLength, size);
  }
});

Deno.test("ReadBuffers.giveBack() ignores buffers of other sizes", () => {
  const buffer = new ArrayBuffer(300);
  ReadBuffers.giveBack(buffer);
  assertNotStrictEquals(ReadBuffers.take(300).buffer, buffer);
});

Deno.test("ReadBuffers.settle() copies a small part of a large buffer", () => {
  const view = ReadBuffers.take(16_384);
  view.set([1, 2, 3]);
  const bytes = ReadBuffers.settle(view.subarray(0, 3));
  assertEquals(bytes, Uint8Array.of(1, 2, 3));
  assertEquals(bytes.buffer.byteLength, 3);
  assertStrictEquals(ReadBuffers.take(16_384).buffer, view.buffer);
});

Deno.test("ReadBuffers.settle() returns a full or small buffer without a copy", () => {
  for (const [size, count] of [[16_384, 5_000], [FIRST_READ_BYTES, 3]] as const) {
    const bytes = ReadBuffers.take(size).subarray(0, count);
    assertStrictEquals(ReadBuffers.settle(bytes), bytes);
  }
});
