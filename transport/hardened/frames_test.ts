import { assertEquals, assertStrictEquals } from "@std/assert";
import { FrameMaker } from "./socket.ts";

Deno.test("FrameMaker.make() writes the length as RFC 6455 has it", () => {
  const frames = new FrameMaker();
  const heads: [number, number[]][] = [
    [0, [0x81, 0]],
    [125, [0x81, 125]],
    [126, [0x81, 126, 0, 126]],
    [65_535, [0x81, 126, 255, 255]],
    [65_536, [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]],
  ];
  for (const [length, head] of heads) {
    const text = frames.make("x".repeat(length));
    assertEquals([...text.subarray(0, head.length)], head);
    assertEquals(text.length, head.length + length);
    const binary = frames.make(new Uint8Array(length));
    assertEquals([...binary.subarray(0, head.length)], [0x82, ...head.slice(1)]);
    assertEquals(binary.length, text.length);
  }
});

Deno.test("FrameMaker.make() encodes text as UTF-8, and counts its bytes", () => {
  const frames = new FrameMaker();
  assertEquals([...frames.make("é€")], [0x81, 5, 0xc3, 0xa9, 0xe2, 0x82, 0xac]);
  // UTF-8 has no encoding of a lone surrogate.
  assertEquals([...frames.make("\ud800")], [0x81, 3, 0xef, 0xbf, 0xbd]);
});

Deno.test("FrameMaker.make() makes one frame for all who get the same text", () => {
  const frames = new FrameMaker();
  const first = frames.make("news");
  assertStrictEquals(frames.make("news"), first);
  assertEquals([...frames.make("other")].slice(2), [...new TextEncoder().encode("other")]);
});

Deno.test("FrameMaker.make() copies bytes, which may be others the next time", () => {
  const frames = new FrameMaker();
  const bytes = Uint8Array.of(1, 2);
  const first = frames.make(bytes);
  bytes[0] = 9;
  assertEquals([...first], [0x82, 2, 1, 2]);
  assertEquals([...frames.make(bytes)], [0x82, 2, 9, 2]);
});
