import { assertEquals, assertThrows } from "@std/assert";
import { LEADING_INTEGERS } from "./integers.ts";

const { length, lengthAt, read, write } = LEADING_INTEGERS;

Deno.test("LEADING_INTEGERS reads the examples of the draft", () => {
  const examples: readonly [string, number][] = [
    ["25", 37],
    ["8025", 37],
    ["bbbd", 15_293],
    ["ed7f3e7d", 226_442_877],
    ["faa1a0e403d8", 2_893_212_287_960],
    ["fc8998abc66bc0", 151_288_809_941_952],
    ["fefa318fa8e3ca11", 70_423_237_261_249_041],
    ["ffffffffffffffffff", 18_446_744_073_709_551_615],
  ];
  for (const [hex, value] of examples) {
    const bytes = Uint8Array.fromHex(hex);
    assertEquals({ hex, length: lengthAt(bytes[0]!) }, { hex, length: bytes.byteLength });
    assertEquals({ hex, value: read(bytes, 0) }, { hex, value });
  }
});

Deno.test("LEADING_INTEGERS writes the shortest form on both sides of each limit", () => {
  for (let bytes = 1; bytes <= 7; bytes++) {
    for (const value of [2 ** (7 * bytes) - 1, 2 ** (7 * bytes)]) {
      const target = new Uint8Array(10);
      const end = write(target, 1, value);
      assertEquals(end - 1, length(value));
      assertEquals(length(value), value < 2 ** (7 * bytes) ? bytes : bytes + 1);
      assertEquals(lengthAt(target[1]!), length(value));
      assertEquals(read(target, 1), value);
    }
  }
  assertEquals(length(Number.MAX_SAFE_INTEGER), 8);
});

Deno.test("LEADING_INTEGERS rejects what it cannot write", () => {
  for (const value of [-1, 1.5, 2 ** 53, NaN]) assertThrows(() => length(value), RangeError);
});
