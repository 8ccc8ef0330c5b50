/**
 * MessagePack for structured streams and datagrams. It is smaller than JSON, and supports bytes and
 * dates. This is a separate entry, so that only applications that use MessagePack load its npm
 * package.
 *
 * @example Bytes in a message
 * ```ts
 * import { Session } from "@skein/skein";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { msgpackCodec } from "@skein/skein/msgpack";
 * import { assertEquals } from "@std/assert";
 * import { z } from "zod";
 *
 * const registry = { 1: z.object({ name: z.string(), pixels: z.instanceof(Uint8Array) }) };
 * const codec = msgpackCodec();
 * const { client, server } = memoryPair();
 * await using near = new Session(client, sessionSettings({ side: "client" }));
 * await using far = new Session(server, sessionSettings({ side: "server" }));
 *
 * await using sending = await near.structuredDatagrams({ registry, codec });
 * await using receiving = await far.structuredDatagrams({ registry, codec });
 * await sending.send(1, { name: "icon", pixels: Uint8Array.of(1, 2, 3) });
 * for await (const { data } of receiving) {
 *   assertEquals(data.pixels, Uint8Array.of(1, 2, 3));
 *   break;
 * }
 * ```
 *
 * @module
 */
import { checkOptions } from "../../base/options/option_checks.ts";
import { Decoder, Encoder } from "@msgpack/msgpack";
import type { Codec } from "./codec.ts";

/** Options for {@linkcode msgpackCodec}. */
export interface MsgpackCodecOptions {
  /**
   * True to receive 64-bit integers as `bigint`, and to allow sending a `bigint`. Otherwise, such
   * integers arrive as numbers, which are exact up to 2^53, and a `bigint` is rejected.
   *
   * @default {false}
   */
  readonly useBigInt64?: boolean | undefined;
}

/**
 * Creates a MessagePack codec, based on `npm:@msgpack/msgpack`.
 *
 * - A `Uint8Array` stays a `Uint8Array`, and a `Date` stays a `Date`.
 * - `undefined` is omitted from objects, as in JSON, and becomes `null` in arrays.
 * - A payload that claims more elements than it has bytes is rejected before memory is allocated.
 *
 * @param options See {@linkcode MsgpackCodecOptions}.
 * @returns The codec; several streams can share one codec.
 *
 * @example Usage
 * ```ts
 * import { msgpackCodec } from "@skein/skein/msgpack";
 * import { assertEquals } from "@std/assert";
 *
 * const codec = msgpackCodec();
 * assertEquals(codec.encode({ x: 1 }), Uint8Array.of(0x81, 0xa1, 0x78, 1));
 * assertEquals(codec.decode(Uint8Array.of(0x81, 0xa1, 0x78, 1)), { x: 1 });
 * ```
 */
export function msgpackCodec(options: MsgpackCodecOptions = {}): Codec {
  checkOptions("make codec", options, { useBigInt64: "boolean" });
  const { useBigInt64 = false } = options;
  const encoder = new Encoder({ useBigInt64, ignoreUndefined: true });
  const decoder = new Decoder({ useBigInt64 });
  return {
    name: "MessagePack",
    encode: (value) => encoder.encode(value),
    decode(bytes) {
      checkClaims(bytes);
      return decoder.decode(bytes);
    },
  };
}

/**
 * Bytes of the length or value after a head byte of 0xc0 or above; negative numbers mean a length.
 */
const HEADS: Readonly<Record<number, number>> = {
  0xc4: -1,
  0xc5: -2,
  0xc6: -4,
  0xc7: -1,
  0xc8: -2,
  0xc9: -4,
  0xca: 4,
  0xcb: 8,
  0xcc: 1,
  0xcd: 2,
  0xce: 4,
  0xcf: 8,
  0xd0: 1,
  0xd1: 2,
  0xd2: 4,
  0xd3: 8,
  0xd4: 2,
  0xd5: 3,
  0xd6: 5,
  0xd7: 9,
  0xd8: 17,
  0xd9: -1,
  0xda: -2,
  0xdb: -4,
  0xdc: -2,
  0xdd: -4,
  0xde: -2,
  0xdf: -4,
};

/**
 * Checks that arrays and maps can be as long as their heads claim. When the decoder reads the head
 * of an array, it allocates memory for all elements, and five bytes can claim four billion
 * elements.
 */
function checkClaims(bytes: Uint8Array): void {
  const { length } = bytes;
  let owed = 1;
  for (let at = 0; owed > 0 && at < length;) {
    const head = bytes[at++]!;
    owed--;
    if (head < 0x80 || head >= 0xe0) continue;
    if (head < 0xa0) owed += head < 0x90 ? (head & 15) * 2 : head & 15;
    else if (head < 0xc0) at += head & 31;
    else {
      const size = HEADS[head] ?? 0;
      if (size >= 0) {
        at += size;
        continue;
      }
      let count = 0;
      for (const end = at - size; at < end; at++) count = count * 256 + (bytes[at] ?? 0);
      if (head >= 0xdc) owed += head < 0xde ? count : count * 2;
      else at += head >= 0xc7 && head <= 0xc9 ? count + 1 : count;
    }
    if (owed > length - at) {
      throw new RangeError(`Cannot decode: ${owed} elements are missing in ${length - at} bytes`);
    }
  }
}
