/**
 * A decoder for the Huffman code of RFC 7541 Appendix B, which QPACK also uses.
 *
 * The code is canonical: codes of the same length are assigned to symbols in ascending order, and
 * longer codes start where the shorter ones end. The lengths alone therefore define the code.
 *
 * @module
 */
import { H3Error, H3ProtocolError } from "./error_codes.ts";

/**
 * The symbol for the end of a string, which follows the symbols of the 256 bytes. It MUST NOT be
 * sent.
 */
const END_OF_STRING = 256;

/** The length of the longest code, in bits. */
const MAX_CODE_BITS = 30;

/** The length of the shortest code in bits, which limits the decoded size. */
const MIN_CODE_BITS = 5;

/**
 * The length of each symbol's code, in bits. The 256 bytes come first, in order; the end of a
 * string comes last.
 */
// deno-fmt-ignore
const CODE_BITS: readonly number[] = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // 0x00
  28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, // 0x10
  6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // 0x20
  5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // 0x30
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // 0x40
  7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 0x50
  15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // 0x60
  6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 0x70
  20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 0x80
  24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, // 0x90
  22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, // 0xa0
  21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, // 0xb0
  26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, // 0xc0
  19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, // 0xd0
  20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, // 0xe0
  26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, // 0xf0
  30,
];

/** The canonical code; its lists are indexed by length. */
interface HuffmanTable {
  /** The first code of each length. */
  readonly firstCode: Int32Array;
  /** The number of codes of each length. */
  readonly count: Int32Array;
  /** The index in {@linkcode HuffmanTable.symbols} of the first symbol of each length. */
  readonly offset: Int32Array;
  /** All symbols, sorted by length and then by value. */
  readonly symbols: Uint16Array;
}

const CODE_TABLE = buildTable(CODE_BITS);

/**
 * Decodes a Huffman-coded string.
 *
 * @throws {H3ProtocolError} If the padding is invalid, or if the string contains the symbol for the
 * end.
 */
export function decodeHuffman(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const { firstCode, count, offset, symbols } = CODE_TABLE;
  const decoded = new Uint8Array(Math.floor(bytes.length * 8 / MIN_CODE_BITS));
  let size = 0;
  let code = 0;
  let bits = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!;
    for (let shift = 7; shift >= 0; shift--) {
      code = code << 1 | byte >>> shift & 1;
      bits++;
      const rank = code - firstCode[bits]!;
      if (rank >= count[bits]!) continue;
      const symbol = symbols[offset[bits]! + rank]!;
      if (symbol === END_OF_STRING) throw failure("a string contains the end of string");
      decoded[size++] = symbol;
      code = 0;
      bits = 0;
    }
  }
  if (bits > 7) throw failure(`padding must be shorter than 8 bits, received ${bits}`);
  if (code !== (1 << bits) - 1) throw failure("padding must be all ones");
  return decoded.subarray(0, size);
}

function buildTable(lengths: readonly number[]): HuffmanTable {
  const firstCode = new Int32Array(MAX_CODE_BITS + 1);
  const count = new Int32Array(MAX_CODE_BITS + 1);
  const offset = new Int32Array(MAX_CODE_BITS + 1);
  const symbols = new Uint16Array(lengths.length);
  let code = 0;
  let size = 0;
  for (let bits = MIN_CODE_BITS; bits <= MAX_CODE_BITS; bits++) {
    code <<= 1;
    firstCode[bits] = code;
    offset[bits] = size;
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] === bits) symbols[size++] = symbol;
    }
    count[bits] = size - offset[bits]!;
    code += count[bits]!;
  }
  return { firstCode, count, offset, symbols };
}

function failure(message: string): H3ProtocolError {
  return new H3ProtocolError(
    H3Error.qpackDecompressionFailed,
    `Cannot decode Huffman code: ${message}`,
  );
}
