import { assertEquals, assertStrictEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { encodeClose, FrameEncoder, WriteTurn } from "./frame_writer.ts";

Deno.test("FrameEncoder.encode() writes the length as in RFC 6455", () => {
  const frames = new FrameEncoder();
  const heads: [number, number[]][] = [
    [0, [0x81, 0]],
    [125, [0x81, 125]],
    [126, [0x81, 126, 0, 126]],
    [65_535, [0x81, 126, 255, 255]],
    [65_536, [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]],
  ];
  for (const [length, head] of heads) {
    const text = frames.encode("x".repeat(length));
    assertEquals([...text.subarray(0, head.length)], head);
    assertEquals(text.length, head.length + length);
    const binary = frames.encode(new Uint8Array(length));
    assertEquals([...binary.subarray(0, head.length)], [0x82, ...head.slice(1)]);
    assertEquals(binary.length, text.length);
  }
});

Deno.test("FrameEncoder.encode() encodes text as UTF-8, and counts its bytes", () => {
  const frames = new FrameEncoder();
  assertEquals([...frames.encode("é€")], [0x81, 5, 0xc3, 0xa9, 0xe2, 0x82, 0xac]);
  // UTF-8 has no encoding of a lone surrogate.
  assertEquals([...frames.encode("\ud800")], [0x81, 3, 0xef, 0xbf, 0xbd]);
});

Deno.test("FrameEncoder.encode() creates one frame for all sockets that send the same text", () => {
  const frames = new FrameEncoder();
  const first = frames.encode("news");
  assertStrictEquals(frames.encode("news"), first);
  assertEquals([...frames.encode("other")].slice(2), [...new TextEncoder().encode("other")]);
});

Deno.test("FrameEncoder.encode() creates one frame for all sockets that alternate between shared messages", () => {
  const frames = new FrameEncoder();
  const shared = ["first", "second"].map((frame) => ({ frame, parts: [{ frame, size: 6 }] }));
  const encoded = Array.from(
    { length: 3 },
    () => shared.map(({ frame, parts }) => frames.encode(frame, parts)),
  ).flat();
  assertEquals(new Set(encoded).size, 2);
  assertEquals(encoded.slice(0, 2).map((bytes) => String(bytes.subarray(2))), ["first", "second"]);
});

Deno.test("FrameEncoder.encode() creates one frame for all sockets that send the same bytes, as a copy", () => {
  const frames = new FrameEncoder();
  const bytes = Uint8Array.of(1, 2);
  const first = frames.encode(bytes);
  assertEquals([...first], [0x82, 2, 1, 2]);
  assertStrictEquals(frames.encode(bytes), first);
  // A socket may send the frame late.
  bytes[0] = 9;
  assertEquals([...first], [0x82, 2, 1, 2]);
  assertEquals([...frames.encode(Uint8Array.of(9, 2))], [0x82, 2, 9, 2]);
});

Deno.test("encodeClose() cuts a reason after a whole character", () => {
  assertEquals([...encodeClose(undefined, "")], [0x88, 0]);
  assertEquals([...encodeClose(1000, "ok")], [0x88, 4, 0x03, 0xe8, 0x6f, 0x6b]);
  const frame = encodeClose(4001, "€".repeat(42));
  assertEquals([frame[1], frame.length], [125, 127]);
  assertEquals(encodeClose(4001, "x€".repeat(42))[1], 2 + 121);
});

Deno.test("WriteTurn.join() joins once for all sockets with the same frames", async () => {
  const turn = new WriteTurn();
  const [a, b, c] = [Buffer.from("a"), Buffer.from("b"), Buffer.from("c")];
  const joined: Buffer[] = [];
  for (const parts of [[a, b], [a, b], [a], [a, b], [a, c]]) {
    turn.mark({ flush: () => void joined.push(turn.join(parts)) });
  }
  assertEquals(joined, []);
  await Promise.resolve();
  assertEquals(joined.map(String), ["ab", "ab", "a", "ab", "ac"]);
  assertStrictEquals(joined[1], joined[0]);
  assertStrictEquals(joined[2], a);
  assertStrictEquals(joined[3], joined[0]);
});
