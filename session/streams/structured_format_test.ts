import { assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { StructuredError } from "../../errors.ts";
import { Random } from "../../tests/random.ts";
import { END_MARK, framed, joined } from "../../tests/structured.ts";
import { StructuredParser, type StructuredParserRules } from "./structured_format.ts";

const bytes = (...values: number[]) => new Uint8Array(values);

function parserOf(rules: Partial<StructuredParserRules> = {}): StructuredParser {
  return new StructuredParser({
    maxMessageBytes: 1024,
    hasEndMark: false,
    accepts: () => true,
    ...rules,
  });
}

/** Feeds chunks as a stream does, and returns the messages with copies of the payloads. */
function read(parser: StructuredParser, chunks: readonly Uint8Array[]): [number, number[]][] {
  const found: [number, number[]][] = [];
  for (const chunk of chunks) {
    parser.push(chunk);
    for (let frame = parser.next(); frame !== undefined; frame = parser.next()) {
      found.push([frame.type, [...frame.payload]]);
    }
    parser.takeUsed().fill(0xee); // The connection reuses the buffer.
  }
  return found;
}

Deno.test("StructuredParser.next() reads type and length in network byte order", () => {
  const parser = parserOf();
  assertEquals(read(parser, [bytes(0x9c, 0x40, 0, 0, 0, 2, 7, 8)]), [[40_000, [7, 8]]]);
  assertEquals(parser.gap, undefined);
});

Deno.test("StructuredParser.next() reads the same messages for all chunk boundaries", () => {
  const messages: [number, number[]][] = [
    [1, [1, 2, 3]],
    [0, []],
    [65_534, Array.from({ length: 300 }, (_, n) => n % 256)],
    [2, []],
    [3, [9]],
  ];
  const all = joined(...messages.map(([type, body]) => framed(type, bytes(...body))), END_MARK);
  for (let a = 0; a <= all.length; a++) {
    const parser = parserOf({ hasEndMark: true });
    assertEquals(read(parser, [all.slice(0, a), all.slice(a)]), messages, `cut at ${a}`);
    assertEquals([parser.isAtEnd, parser.gap], [true, undefined]);
  }
  const single = parserOf({ hasEndMark: true });
  assertEquals(read(single, Array.from(all, (byte) => bytes(byte))), messages, "byte by byte");
  assertEquals(single.isAtEnd, true);
});

Deno.test("StructuredParser.next() reads random messages in random chunks", () => {
  const random = new Random(5);
  for (let round = 0; round < 500; round++) {
    const messages: [number, number[]][] = Array.from({ length: random.below(20) }, () => [
      random.below(65_535),
      [...random.bytes(random.below(4) === 0 ? random.below(1024) : random.below(12))],
    ]);
    const known = (type: number) => type % 3 !== 0;
    const all = joined(...messages.map(([type, body]) => framed(type, bytes(...body))));
    const chunks: Uint8Array[] = [];
    for (let at = 0; at < all.length;) {
      const end = Math.min(all.length, at + random.bits(9) + 1);
      chunks.push(all.slice(at, at = end));
    }
    const parser = parserOf({ accepts: known });
    assertEquals(read(parser, chunks), messages.filter(([type]) => known(type)), `round ${round}`);
    assertEquals(parser.gap, undefined);
  }
});

Deno.test("StructuredParser.gap tells where the bytes stop inside a message", () => {
  const whole = framed(5, bytes(1, 2, 3, 4));
  for (let length = 1; length < whole.length; length++) {
    const parser = parserOf();
    read(parser, [whole.slice(0, length)]);
    const expected = length < 6
      ? `${length} of 6 bytes of a head`
      : `${length - 6} of 4 bytes of a message of type 5`;
    assertEquals(parser.gap, expected);
    assertEquals(parser.openType, length < 6 ? undefined : 5);
  }
  const passing = parserOf({ accepts: () => false });
  read(passing, [whole.slice(0, 7)]);
  assertEquals(passing.gap, "a message that lacks 3 bytes");
});

Deno.test("StructuredParser.next() rejects a message above the limit at its head, and buffers none of it", () => {
  for (const claimed of [1025, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
    const parser = parserOf();
    parser.push(framed(9, bytes(), claimed));
    const error = assertThrows(() => parser.next(), StructuredError);
    assertEquals([error.reason, error.type], ["too-large", 9]);
    assertEquals(
      error.message,
      `Cannot read message: expected at most 1024 bytes, received a message of type 9 with ${claimed}`,
    );
  }
  const parser = parserOf();
  assertEquals(read(parser, [framed(9, new Uint8Array(1024))])[0]![1].length, 1024);
});

Deno.test("StructuredParser.next() allocates at most twice the received bytes of a message that claims 4 GiB", () => {
  const parser = parserOf({ maxMessageBytes: 0xffff_ffff });
  const sizes: number[] = [];
  const Original = Uint8Array;
  globalThis.Uint8Array = new Proxy(Original, {
    construct(target, args, newTarget) {
      if (typeof args[0] === "number") sizes.push(args[0]);
      return Reflect.construct(target, args, newTarget);
    },
  });
  try {
    read(parser, [
      framed(9, new Original(10), 0xffff_ffff),
      ...Array.from({ length: 64 }, () => new Original(1024)),
    ]);
  } finally {
    globalThis.Uint8Array = Original;
  }
  assertEquals(parser.gap, `${10 + 64 * 1024} of 4294967295 bytes of a message of type 9`);
  assertEquals(Math.max(...sizes), 128 * 1024);
});

Deno.test("StructuredParser.next() recognizes the end mark only if both sides agreed on it", () => {
  const agreed = parserOf({ hasEndMark: true });
  assertEquals(read(agreed, [joined(framed(1, bytes(1)), END_MARK, framed(2, bytes(2)))]), [[1, [
    1,
  ]]]);
  assertEquals(agreed.isAtEnd, true);

  const seen: number[] = [];
  const foreign = parserOf({ accepts: (type) => seen.push(type) < 0 });
  assertEquals(read(foreign, [END_MARK.slice()]), []);
  assertEquals([seen, foreign.isAtEnd], [[0xffff], false]);

  const wrong = parserOf({ hasEndMark: true });
  wrong.push(framed(0xffff, bytes(1)));
  const error = assertThrows(() => wrong.next());
  assertInstanceOf(error, StructuredError);
  assertEquals(error.reason, "malformed");
});
