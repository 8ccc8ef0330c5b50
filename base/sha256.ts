/**
 * SHA-256 (FIPS 180-4) of a short text, at once: the platform's hash needs a promise, or a module that
 * takes tens of milliseconds to load.
 *
 * @module
 */

const BLOCK_BYTES = 64;

/** The first 32 bits of the fractional parts of the square roots of the first 8 primes. */
const START = fractions(8, 1 / 2);

/** The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
const ROUNDS = fractions(64, 1 / 3);

/**
 * Hashes a text.
 *
 * @param text The text, hashed in UTF-8.
 * @returns The 32 bytes of the hash.
 *
 * @example The first test vector of FIPS 180-4
 * ```ts
 * import { sha256 } from "./sha256.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
 * assertEquals(sha256("abc").toHex(), hash);
 * ```
 */
export function sha256(text: string): Uint8Array<ArrayBuffer> {
  const blocks = paddedBlocks(new TextEncoder().encode(text));
  const state = Int32Array.from(START);
  const words = new Int32Array(64);
  for (let at = 0; at < blocks.byteLength; at += BLOCK_BYTES) {
    for (let i = 0; i < 16; i++) words[i] = blocks.getInt32(at + 4 * i);
    for (let i = 16; i < 64; i++) {
      const a = words[i - 15]!, b = words[i - 2]!;
      const mixed = (rotated(a, 7) ^ rotated(a, 18) ^ a >>> 3) +
        (rotated(b, 17) ^ rotated(b, 19) ^ b >>> 10);
      words[i] = mixed + words[i - 16]! + words[i - 7]!;
    }
    compress(state, words);
  }
  const hash = new DataView(new ArrayBuffer(32));
  state.forEach((word, i) => hash.setInt32(4 * i, word));
  return new Uint8Array(hash.buffer);
}

/** Mixes one block into the state. */
function compress(state: Int32Array, words: Int32Array): void {
  let [a, b, c, d, e, f, g, h] = state as unknown as Tuple;
  for (let i = 0; i < 64; i++) {
    const first = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + (e & f ^ ~e & g) +
        ROUNDS[i]! + words[i]! | 0;
    const second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + (a & b ^ a & c ^ b & c);
    h = g;
    g = f;
    f = e;
    e = d + first | 0;
    d = c;
    c = b;
    b = a;
    a = first + second | 0;
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => state[i]! += word);
}

type Tuple = [number, number, number, number, number, number, number, number];

/** Adds a bit, zeros, and the length in bits, up to whole blocks. */
function paddedBlocks(bytes: Uint8Array): DataView {
  const { length } = bytes;
  const padded = new Uint8Array(Math.ceil((length + 9) / BLOCK_BYTES) * BLOCK_BYTES);
  padded.set(bytes);
  padded[length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, length * 8);
  return view;
}

/** Computes the constants: bits behind the point of roots of the first primes. */
function fractions(count: number, power: number): Int32Array {
  const found: number[] = [];
  for (let n = 2; found.length < count; n++) if (found.every((prime) => n % prime)) found.push(n);
  return Int32Array.from(found, (prime) => prime ** power % 1 * 2 ** 32);
}

function rotated(word: number, bits: number): number {
  return word >>> bits | word << 32 - bits;
}
