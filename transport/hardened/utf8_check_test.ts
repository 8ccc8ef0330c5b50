import { assertEquals } from "@std/assert";
import { Random } from "../../tests/random.ts";
import { FIRST_UTF8, INVALID_UTF8, utf8After } from "./utf8_check.ts";

const decoder = new TextDecoder("utf-8", { fatal: true });

function isValid(bytes: Uint8Array): boolean {
  try {
    decoder.decode(bytes);
    return true;
  } catch {
    return false;
  }
}

Deno.test("utf8After() agrees with TextDecoder on all pairs of bytes, and on random ones", () => {
  const random = new Random(1);
  const edges = [0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xee]
    .concat([0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff]);
  const inputs: Uint8Array[] = [];
  for (let a = 0; a < 256; a++) for (let b = 0; b < 256; b++) inputs.push(Uint8Array.of(a, b));
  for (let i = 0; i < 50_000; i++) {
    inputs.push(Uint8Array.from({ length: 1 + random.below(6) }, () => random.pick(edges)));
  }
  const wrong: Uint8Array[] = [];
  for (const bytes of inputs) {
    const cut = random.below(bytes.length + 1);
    const state = utf8After(FIRST_UTF8, bytes, 0, cut);
    const end = state === INVALID_UTF8 ? state : utf8After(state, bytes, cut, bytes.length);
    if ((end === FIRST_UTF8) !== isValid(bytes)) wrong.push(bytes);
  }
  assertEquals(wrong, []);
});

Deno.test("utf8After() rejects a character at the first byte that rules it out", () => {
  for (const [hex, state] of [["f4", 1], ["f490", 0], ["ed", 1], ["eda0", 0], ["c0", 0]] as const) {
    const bytes = Uint8Array.fromHex(hex);
    assertEquals(utf8After(FIRST_UTF8, bytes, 0, bytes.length) !== INVALID_UTF8, state === 1, hex);
  }
});
