import { assertEquals, assertStrictEquals } from "@std/assert";
import { FrameBatch } from "./live_group.ts";

const FRAMES = [
  { bytes: Uint8Array.of(1, 2), timestamp: 100 },
  { bytes: new Uint8Array(0), timestamp: 110 },
  { bytes: Uint8Array.of(3), timestamp: 105 },
];
const PLAIN = "020102" + "00" + "0103";
// Deltas of 40, 10 and -5 behind 60, as zigzag: 80 takes two bytes.
const TIMED = "4050020102" + "1400" + "090103";

for (const timestamps of [false, true]) {
  Deno.test(`FrameBatch.encoded() returns both encodings when created ${timestamps ? "with" : "without"} timestamps`, () => {
    const batch = new FrameBatch(FRAMES, 60, timestamps);
    assertEquals(batch.byteLength, (timestamps ? TIMED : PLAIN).length / 2);
    assertEquals(batch.encoded(false).toHex(), PLAIN);
    assertEquals(batch.encoded(true).toHex(), TIMED);
  });
}

Deno.test("FrameBatch.encoded() encodes once", () => {
  const batch = new FrameBatch(FRAMES, 0, false);
  assertStrictEquals(batch.encoded(true), batch.encoded(true));
  assertStrictEquals(batch.encoded(false), batch.encoded(false));
});
