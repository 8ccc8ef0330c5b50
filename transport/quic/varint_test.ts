import { assertEquals, assertThrows } from "@std/assert";
import { Random } from "../../tests/random.ts";
import {
  encodeVarint,
  MAX_VARINT,
  readVarint,
  varintLength,
  varintLengthAt,
  writeVarint,
} from "./varint.ts";

/** The values on both sides of each change of length. */
const EDGES: readonly [value: number, hex: string][] = [
  [0, "00"],
  [0x3f, "3f"],
  [0x40, "4040"],
  [0x41, "4041"],
  [0x3fff, "7fff"],
  [0x4000, "80004000"],
  [0x3fff_ffff, "bfffffff"],
  [0x4000_0000, "c000000040000000"],
  [0x7fff_ffff, "c00000007fffffff"],
  [0x8000_0000, "c000000080000000"],
  [0xffff_ffff, "c0000000ffffffff"],
  [0x1_0000_0000, "c000000100000000"],
  [MAX_VARINT, "c01fffffffffffff"],
];

Deno.test("readVarint() reads the examples of RFC 9000 A.1", () => {
  const examples: [hex: string, value: number][] = [
    ["c2197c5eff14e88c", Number(151_288_809_941_952_652n)],
    ["9d7f3e7d", 494_878_333],
    ["7bbd", 15_293],
    ["25", 37],
    ["4025", 37],
  ];
  for (const [hex, value] of examples) {
    const bytes = Uint8Array.fromHex(hex);
    assertEquals(varintLengthAt(bytes[0]!), bytes.length);
    assertEquals(readVarint(bytes, 0), value);
  }
});

Deno.test("encodeVarint() uses the shortest form at each change of length", () => {
  for (const [value, hex] of EDGES) {
    assertEquals(encodeVarint(value).toHex(), hex);
    assertEquals(varintLength(value), hex.length / 2);
    assertEquals(readVarint(Uint8Array.fromHex(hex), 0), value);
  }
});

Deno.test("readVarint() rounds values above 2^53 - 1", () => {
  assertEquals(readVarint(Uint8Array.fromHex("ffffffffffffffff"), 0), 2 ** 62);
  assertEquals(readVarint(Uint8Array.fromHex("c020000000000000"), 0), 2 ** 53);
});

Deno.test("writeVarint() does not change the bytes around it", () => {
  for (const [value, hex] of EDGES) {
    const target = new Uint8Array(11).fill(0xee);
    const end = writeVarint(target, 1, value);
    assertEquals(target.toHex(), "ee" + hex + "ee".repeat(10 - hex.length / 2));
    assertEquals(end, 1 + hex.length / 2);
    assertEquals(readVarint(target, 1), value);
  }
});

Deno.test("varintLength() rejects everything except integers from 0 to 2^53 - 1", () => {
  for (const value of [-1, 0.5, NaN, Infinity, -Infinity, 2 ** 53]) {
    const message = `Cannot encode varint: value must be an integer from 0 to ${MAX_VARINT}, ` +
      `received ${value}`;
    assertThrows(() => varintLength(value), RangeError, message);
    assertThrows(() => encodeVarint(value), RangeError, message);
    assertThrows(() => writeVarint(new Uint8Array(8), 0, value), RangeError, message);
  }
});

Deno.test("readVarint() reads the output of encodeVarint() back", () => {
  const random = new Random(9000);
  for (let run = 0; run < 20_000; run++) {
    const value = random.bits(53);
    const bytes = encodeVarint(value);
    assertEquals(varintLengthAt(bytes[0]!), bytes.length);
    assertEquals(readVarint(bytes, 0), value);
  }
});
