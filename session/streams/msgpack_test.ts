import { assert, assertEquals, assertThrows } from "@std/assert";
import { msgpackCodec } from "./msgpack.ts";
import { Random } from "../../tests/random.ts";

const bytes = (...values: number[]) => new Uint8Array(values);

function anyValue(random: Random, depth = 0): unknown {
  switch (random.below(depth > 3 ? 8 : 10)) {
    case 0:
      return null;
    case 1:
      return random.below(2) === 0;
    case 2:
      return random.bits(53) * (random.below(2) === 0 ? -1 : 1) || 0;
    case 3:
      return random.below(1000) / 7;
    case 4:
      return "é".repeat(random.bits(8));
    case 5:
      return random.bytes(random.bits(9));
    case 6:
      return new Date(random.bits(42));
    case 7:
      return random.below(128);
    case 8:
      return Array.from({ length: random.bits(5) }, () => anyValue(random, depth + 1));
    default:
      return Object.fromEntries(
        Array.from({ length: random.bits(5) }, (_, n) => [`key ${n}`, anyValue(random, depth + 1)]),
      );
  }
}

Deno.test("msgpackCodec() preserves MessagePack values", () => {
  const random = new Random(3);
  const codec = msgpackCodec();
  for (let round = 0; round < 500; round++) {
    const value = anyValue(random);
    assertEquals(codec.decode(codec.encode(value)), value);
  }
});

Deno.test("msgpackCodec() preserves long strings, bytes, arrays and maps", () => {
  const codec = msgpackCodec();
  for (const length of [15, 16, 31, 32, 255, 256, 65_535, 65_536]) {
    const values = [
      "x".repeat(length),
      new Uint8Array(length),
      Array.from({ length }, (_, n) => n),
      Object.fromEntries(Array.from({ length }, (_, n) => [`${n}`, n])),
    ];
    for (const value of values) assertEquals(codec.decode(codec.encode(value)), value);
  }
});

Deno.test("msgpackCodec() omits undefined properties", () => {
  const codec = msgpackCodec();
  assertEquals(codec.decode(codec.encode({ a: undefined, b: [undefined] })), { b: [null] });
  assertEquals(codec.decode(codec.encode(undefined)), null);
});

Deno.test("msgpackCodec() accepts bigint with useBigInt64", () => {
  const exact = msgpackCodec({ useBigInt64: true });
  assertEquals(exact.decode(exact.encode(2n ** 63n)), 2n ** 63n);
  assertEquals(exact.decode(exact.encode(-(2n ** 63n))), -(2n ** 63n));
  assertThrows(() => msgpackCodec().encode(1n));
  assertEquals(msgpackCodec().decode(bytes(0xcf, 0, 0, 1, 0, 0, 0, 0, 0)), 2 ** 40);
});

Deno.test("msgpackCodec() accepts extensions of every length, and throws for truncated ones", () => {
  const codec = msgpackCodec();
  for (const size of [1, 2, 4, 8, 16, 3, 300, 70_000]) {
    const head = size <= 16 && size !== 3
      ? [0xd4 + Math.log2(size)]
      : size < 256
      ? [0xc7, size]
      : size < 65_536
      ? [0xc8, size >> 8, size & 255]
      : [0xc9, 0, size >> 16, size >> 8 & 255, size & 255];
    const whole = bytes(...head, 5, ...new Array(size).fill(7));
    const { type, data } = codec.decode(whole) as { type: number; data: Uint8Array };
    assertEquals([type, data.length], [5, size]);
    assertThrows(() => codec.decode(whole.subarray(0, whole.length - 1)));
  }
});

Deno.test("msgpackCodec() throws on invalid MessagePack", () => {
  const codec = msgpackCodec();
  const cases = [bytes(), bytes(0xc1), bytes(1, 1), bytes(0x92, 1), bytes(0xa5, 1), bytes(0xcf, 1)];
  for (const wrong of cases) assertThrows(() => codec.decode(wrong), Error, "", wrong.toHex());
  assertThrows(() => codec.encode(() => 1), Error);
});

Deno.test("msgpackCodec() allocates no memory for elements that are only claimed", () => {
  const codec = msgpackCodec();
  for (const head of [0xdc, 0xdd, 0xde, 0xdf]) {
    const claim = head % 2 === 0 ? [head, 0xff, 0xff] : [head, 0xff, 0xff, 0xff, 0xff];
    assertThrows(
      () => codec.decode(bytes(...claim)),
      RangeError,
      "elements are missing in 0 bytes",
    );
  }
  // Each claims no more than the number of bytes; together they claim much more.
  const nested = bytes(...Array.from({ length: 20_000 }, () => [0xdd, 0, 1, 0, 0]).flat());
  assertThrows(() => codec.decode(nested), RangeError, "elements are missing");
  assert(codec.decode(bytes(...new Array(5_000).fill(0x91), 1)));
});

Deno.test("msgpackCodec() decodes corrupted bytes, or throws", () => {
  const random = new Random(9);
  const codec = msgpackCodec();
  for (let round = 0; round < 3_000; round++) {
    const wrong = codec.encode(anyValue(random)).slice();
    for (let n = random.below(4); n >= 0 && wrong.length > 0; n--) {
      wrong[random.below(wrong.length)] = random.below(256);
    }
    try {
      codec.decode(
        wrong.subarray(0, random.below(4) === 0 ? random.below(wrong.length) : undefined),
      );
    } catch (error) {
      assert(["RangeError", "DecodeError"].includes((error as Error).name), String(error));
    }
  }
});
