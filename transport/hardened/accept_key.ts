/**
 * The proof that a server has read the key of a handshake (RFC 6455, section 1.3). It is a SHA-1
 * hash, which is sufficient because nothing here needs to be secret. For a text this short, the
 * runtime's own hash function takes several times as long as this code.
 */

/** The suffix that is appended to the key before hashing. */
const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** The length of each text: a key of 24 characters plus the suffix. */
const TEXT_BYTES = 60;

const BLOCK_BYTES = 64;

/** The initial state of SHA-1. */
const START = [0x67452301, 0xefcdab89 | 0, 0x98badcfe | 0, 0x10325476, 0xc3d2e1f0 | 0] as const;

/** The words of a block, which are used only during a call. */
const words = new Int32Array(80);

const digest = new DataView(new ArrayBuffer(20));
const digestBytes = new Uint8Array(digest.buffer);

/**
 * Computes the value of `Sec-WebSocket-Accept`.
 *
 * @param key The value of `Sec-WebSocket-Key`. It MUST be 24 ASCII characters, as in an upgrade
 * that was checked.
 * @returns The hash in base64.
 *
 * @example The key from RFC 6455
 * ```ts
 * import { acceptKeyOf } from "./accept_key.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(acceptKeyOf("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
 * ```
 */
export function acceptKeyOf(key: string): string {
  const text = key + GUID;
  let [h0, h1, h2, h3, h4]: readonly [number, number, number, number, number] = START;
  for (let block = 0; block < 2; block++) {
    fill(text, block * BLOCK_BYTES);
    // The length in bits ends the second block.
    if (block === 1) words[15] = TEXT_BYTES * 8;
    for (let i = 16; i < 80; i++) {
      words[i] = rotated(words[i - 3]! ^ words[i - 8]! ^ words[i - 14]! ^ words[i - 16]!, 1);
    }
    let a = h0, b = h1, c = h2, d = h3, e = h4;
    for (let i = 0; i < 80; i++) {
      const mixed = i < 20
        ? (b & c | ~b & d) + 0x5a827999
        : i < 40
        ? (b ^ c ^ d) + 0x6ed9eba1
        : i < 60
        ? (b & c | b & d | c & d) + 0x8f1bbcdc
        : (b ^ c ^ d) + 0xca62c1d6;
      const next = rotated(a, 5) + mixed + e + words[i]! | 0;
      e = d;
      d = c;
      c = rotated(b, 30);
      b = a;
      a = next;
    }
    h0 = h0 + a | 0;
    h1 = h1 + b | 0;
    h2 = h2 + c | 0;
    h3 = h3 + d | 0;
    h4 = h4 + e | 0;
  }
  digest.setInt32(0, h0);
  digest.setInt32(4, h1);
  digest.setInt32(8, h2);
  digest.setInt32(12, h3);
  digest.setInt32(16, h4);
  return digestBytes.toBase64();
}

/** Fills the first words with a block of the text, the bit after its end, and zeros. */
function fill(text: string, start: number): void {
  words.fill(0, 0, BLOCK_BYTES / 4);
  for (let i = 0; i < BLOCK_BYTES && start + i <= TEXT_BYTES; i++) {
    const byte = start + i === TEXT_BYTES ? 0x80 : text.charCodeAt(start + i);
    words[i >> 2]! |= byte << 24 - 8 * (i & 3);
  }
}

function rotated(word: number, bits: number): number {
  return word << bits | word >>> 32 - bits;
}
