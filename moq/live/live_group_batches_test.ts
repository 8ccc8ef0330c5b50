import { assertEquals, assertStrictEquals } from "@std/assert";
import { OBJECT_FRAMES, PLAIN_FRAMES, TIMED_FRAMES } from "../wire/frames.ts";
import { FrameBatch } from "./live_group.ts";

const FRAMES = [
  { bytes: Uint8Array.of(1, 2), timestamp: 100 },
  { bytes: new Uint8Array(0), timestamp: 110 },
  { bytes: Uint8Array.of(3), timestamp: 105 },
];
const ENCODED = {
  plain: "020102" + "00" + "0103",
  // Deltas of 40, 10 and -5 behind 60, as zigzag: 80 takes two bytes.
  timed: "4050020102" + "1400" + "090103",
  // An object without payload has a status.
  objects: "00020102" + "000000" + "000103",
};
const CODECS = { plain: PLAIN_FRAMES, timed: TIMED_FRAMES, objects: OBJECT_FRAMES };
const NAMES = ["plain", "timed", "objects"] as const;

for (const first of NAMES) {
  Deno.test(`FrameBatch.encoded() returns all encodings when created as ${first}`, () => {
    const batch = new FrameBatch(FRAMES, 60, CODECS[first]);
    assertEquals(batch.byteLength, ENCODED[first].length / 2);
    for (const name of NAMES) {
      assertEquals({ name, hex: batch.encoded(CODECS[name]).toHex() }, {
        name,
        hex: ENCODED[name],
      });
    }
  });
}

Deno.test("FrameBatch.encoded() encodes once", () => {
  const batch = new FrameBatch(FRAMES, 0, PLAIN_FRAMES);
  for (const codec of Object.values(CODECS)) {
    assertStrictEquals(batch.encoded(codec), batch.encoded(codec));
  }
});
