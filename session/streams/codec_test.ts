import { assertEquals, assertThrows } from "@std/assert";
import { jsonCodec } from "./codec.ts";

Deno.test("jsonCodec preserves JSON values", () => {
  for (const value of [null, 0, -1.5, "", "grüße 🎉", [], [1, [2]], {}, { a: { b: [true] } }]) {
    assertEquals(jsonCodec.decode(jsonCodec.encode(value)), value);
  }
});

Deno.test("jsonCodec.encode() throws for values that JSON cannot hold", () => {
  for (const [name, value] of [["undefined"], ["a function", () => 1], ["symbol", Symbol("a")]]) {
    assertThrows(() => jsonCodec.encode(value), TypeError, `received ${String(name)}`);
  }
  assertThrows(() => jsonCodec.encode(1n), TypeError);
});

Deno.test("jsonCodec.decode() throws on invalid JSON, and on invalid UTF-8", () => {
  for (const bytes of [[], [0x7b], [0x22, 0xff, 0x22], [0x31, 0x20, 0x31]]) {
    assertThrows(() => jsonCodec.decode(Uint8Array.from(bytes)));
  }
});
