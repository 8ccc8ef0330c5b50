/**
 * Derives malformed inputs from valid ones.
 *
 * @module
 */
import { concat } from "../../base/bytes.ts";
import type { Random } from "../random.ts";

/**
 * The longest input, in bytes or characters. It is long enough for every length with special
 * handling.
 */
const MAX_LENGTH = 4_096;

/** Bytes at which readers change their behavior: the ends of ranges, and wrong lengths. */
const BYTES = [0, 1, 2, 0x1f, 0x20, 0x3f, 0x40, 0x41, 0x53, 0x7f, 0x80, 0xbf, 0xc0, 0xf8, 0xff];

/** Pieces of text that are significant to some reader. */
const TEXTS = [
  '"',
  "\\",
  "{",
  "}",
  "[",
  "]",
  ",",
  ":",
  ";",
  "=",
  " ",
  "\n",
  "\r\n",
  "\t",
  "\0",
  "é",
  "€",
  "😀",
  "\ud800",
  "\udc00",
  "\ufeff",
  "null",
  "true",
  "-1",
  "0",
  "1e999",
  "9007199254740993",
  "0.1",
  "\\u0000",
  "\\ud800",
  "__proto__",
  "constructor",
  "toString",
  "token=",
  "%00",
  "//",
  "@",
  "{a}",
  "{a}{b}",
];

/**
 * Generates an input: usually a mutated seed, otherwise noise.
 *
 * @param random Source of the random choices.
 * @param seeds Valid inputs.
 * @returns A malformed input, or a valid one by chance.
 */
export function mutateBytes(random: Random, seeds: readonly Uint8Array[]): Uint8Array {
  if (random.below(16) === 0) return random.bytes(random.bits(8));
  let bytes: Uint8Array = random.pick(seeds);
  for (let i = random.below(4); i >= 0; i--) bytes = mutateBytesOnce(random, bytes, seeds);
  return bytes.slice(0, MAX_LENGTH);
}

function mutateBytesOnce(
  random: Random,
  bytes: Uint8Array,
  seeds: readonly Uint8Array[],
): Uint8Array {
  const at = random.below(bytes.length + 1);
  const end = at + random.below(bytes.length - at + 1);
  switch (random.below(8)) {
    case 0:
      return changed(bytes, at, (byte) => byte ^ 1 << random.below(8));
    case 1:
      return changed(bytes, at, () => random.pick(BYTES));
    case 2:
      return bytes.slice(0, at);
    case 3:
      return joined(bytes.subarray(0, at), bytes.subarray(end));
    case 4:
      return joined(bytes.subarray(0, end), bytes.subarray(at));
    case 5:
      return joined(bytes.subarray(0, at), random.bytes(random.bits(4)), bytes.subarray(at));
    case 6:
      return joined(bytes.subarray(0, at), random.pick(seeds).subarray(random.below(8)));
    default:
      // A wrong length of 1, 2, 4 or 8 bytes replaces existing bytes.
      return joined(bytes.subarray(0, at), varint(random), bytes.subarray(at + 1));
  }
}

function changed(bytes: Uint8Array, at: number, change: (byte: number) => number): Uint8Array {
  const copy = bytes.slice();
  if (at < copy.length) copy[at] = change(copy[at]!);
  return copy;
}

/** Returns a varint of any length: small, at a boundary, or huge. */
function varint(random: Random): Uint8Array {
  const size = random.below(4);
  const bytes = random.bytes(1 << size);
  bytes[0] = size << 6 | bytes[0]! & 0x3f;
  if (random.below(2) === 0) bytes.fill(random.pick([0, 0xff]), 1);
  return bytes;
}

/**
 * Joins pieces.
 *
 * @param parts The pieces.
 * @returns All pieces joined.
 */
export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  return concat(parts);
}

/**
 * Generates a text; see {@linkcode mutateBytes}.
 *
 * @param random Source of the random choices.
 * @param seeds Valid texts.
 * @returns A malformed text, or a valid one by chance.
 */
export function mutateText(random: Random, seeds: readonly string[]): string {
  if (random.below(16) === 0) return noise(random, random.bits(6));
  let text = random.pick(seeds);
  for (let i = random.below(4); i >= 0; i--) text = mutateTextOnce(random, text, seeds);
  return text.slice(0, MAX_LENGTH);
}

function mutateTextOnce(random: Random, text: string, seeds: readonly string[]): string {
  const at = random.below(text.length + 1);
  const end = at + random.below(text.length - at + 1);
  switch (random.below(7)) {
    case 0:
      return text.slice(0, at) + random.pick(TEXTS) + text.slice(at);
    case 1:
      return text.slice(0, at) + random.pick(TEXTS) + text.slice(end);
    case 2:
      return text.slice(0, at);
    case 3:
      return text.slice(0, at) + text.slice(end);
    case 4:
      return text.slice(0, end) + text.slice(at);
    case 5:
      return text.slice(0, at) + random.pick(seeds).slice(random.below(8));
    default:
      return text.slice(0, at) + noise(random, random.bits(3)) + text.slice(at + 1);
  }
}

function noise(random: Random, length: number): string {
  let text = "";
  for (let i = 0; i < length; i++) {
    text += random.below(3) === 0
      ? random.pick(TEXTS)
      : String.fromCharCode(random.below(random.pick([0x80, 0x100, 0x1_0000])));
  }
  return text;
}

/**
 * Generates a value that JSON can represent, sometimes nested.
 *
 * @param random Source of the random choices.
 * @param depth The maximum nesting depth.
 * @returns The value.
 */
export function anyJson(random: Random, depth = 3): unknown {
  switch (random.below(depth > 0 ? 8 : 6)) {
    case 0:
      return null;
    case 1:
      return random.below(2) === 0;
    case 2:
      return random.pick([0, -0.5, 1e21, -1, random.bits(53)]);
    case 3:
      return noise(random, random.bits(4));
    case 4:
      return random.pick(TEXTS);
    case 5:
      return undefined;
    case 6:
      return Array.from({ length: random.below(4) }, () => anyJson(random, depth - 1) ?? null);
    default:
      return Object.fromEntries(
        Array.from({ length: random.below(4) }, () => [
          random.pick(["topic", "data", "id", "reply", "error", "a", "__proto__"]),
          anyJson(random, depth - 1),
        ]),
      );
  }
}

/**
 * Cuts bytes into pieces, as a network does.
 *
 * @param random Source of the random choices.
 * @returns Copied pieces, each with at least one byte.
 */
export function pieces(random: Random, bytes: Uint8Array): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = Math.min(bytes.length, at + 1 + random.bits(6));
    parts.push(bytes.slice(at, end));
    at = end;
  }
  return parts;
}
