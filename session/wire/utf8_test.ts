import { assertEquals } from "@std/assert";
import { exceedsBytes, utf8Length } from "./utf8.ts";

const encoder = new TextEncoder();

const TEXTS = ["", "a", "naïve", "\u007f\u0080\u07ff\u0800\uffff", "€", "😀", "a😀b", "\ud800"];
const LONE = ["\udc00", "\ud800a", "\ud800\ud800\udc00", "\udc00\ud800", "😀\ud83d"];

Deno.test("utf8Length() counts the bytes that TextEncoder writes", () => {
  for (const text of [...TEXTS, ...LONE]) {
    assertEquals(utf8Length(text), encoder.encode(text).length, JSON.stringify(text));
  }
});

Deno.test("utf8Length() agrees with TextEncoder for every single UTF-16 unit", () => {
  for (let unit = 0; unit <= 0xffff; unit++) {
    const text = String.fromCharCode(unit);
    if (utf8Length(text) !== encoder.encode(text).length) {
      assertEquals(utf8Length(text), encoder.encode(text).length, `U+${unit.toString(16)}`);
    }
  }
});

Deno.test("exceedsBytes() is exact to the byte", () => {
  for (const text of [...TEXTS, ...LONE, "x".repeat(300), "é".repeat(150), "€".repeat(100)]) {
    const bytes = encoder.encode(text).length;
    assertEquals(exceedsBytes(text, bytes), false, JSON.stringify(text));
    if (bytes > 0) assertEquals(exceedsBytes(text, bytes - 1), true, JSON.stringify(text));
  }
});
