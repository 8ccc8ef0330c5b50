import { assertEquals } from "@std/assert";
import { encodeFrame, joinFrames, readFrames } from "./frames.ts";

const encode = (...frames: (string | Uint8Array)[]) => joinFrames(frames.map(encodeFrame));

Deno.test("readFrames() returns the frames that joinFrames() joined", () => {
  const sizes = [0, 1, 63, 64, 16_383, 16_384, 70_000];
  const frames = sizes.flatMap((size) => ["ä".repeat(size), new Uint8Array(size).fill(size)]);
  assertEquals(readFrames(encode(...frames)), frames);
  assertEquals(readFrames(new Uint8Array()), []);
});

Deno.test("readFrames() keeps a byte order mark and lone line ends", () => {
  const frames = ["\ufeffmark", "\r", "\n", "a\r\nb"];
  assertEquals(readFrames(encode(...frames)), frames);
});

Deno.test("readFrames() accepts every form of a length", () => {
  for (const length of [[0x01], [0x40, 0x01], [0x80, 0, 0, 1], [0xc0, 0, 0, 0, 0, 0, 0, 1]]) {
    assertEquals(readFrames(Uint8Array.of(...length, 0, 0x61)), ["a"]);
  }
});

Deno.test("readFrames() returns undefined for bytes that are not frames", () => {
  const malformed = {
    "a length alone": [0x01],
    "half a length": [0x40],
    "a type alone": [0x01, 0x00],
    "a frame that is cut off": [0x02, 0x00, 0x61],
    "an unknown type": [0x01, 0x02, 0x61],
    "an invalid text": [0x01, 0x00, 0xff],
    "a length of 2^62 - 1": [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00],
    "bytes after the last frame": [0x01, 0x00, 0x61, 0x01],
  };
  for (const [name, bytes] of Object.entries(malformed)) {
    assertEquals(readFrames(Uint8Array.from(bytes)), undefined, name);
  }
});
