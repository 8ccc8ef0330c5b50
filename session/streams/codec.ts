/**
 * How values become bytes.
 *
 * @module
 */

/**
 * Makes bytes of values, and values of bytes.
 *
 * @example Bytes as they are
 * ```ts
 * import type { Codec } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes: Codec = {
 *   name: "bytes",
 *   encode: (value) => value as Uint8Array,
 *   decode: (bytes) => bytes,
 * };
 * assertEquals(bytes.decode(bytes.encode(Uint8Array.of(1, 2))), Uint8Array.of(1, 2));
 * ```
 */
export interface Codec {
  /** Its name, for errors. */
  readonly name: string;
  /**
   * Makes bytes.
   *
   * @param value What to encode.
   * @returns The bytes; none is as good as many.
   */
  encode(value: unknown): Uint8Array;
  /**
   * Makes a value. SHOULD throw where the bytes are none of its own.
   *
   * @param bytes Of one value; they are the codec's to keep.
   * @returns The value.
   */
  decode(bytes: Uint8Array): unknown;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/**
 * JSON (RFC 8259) in UTF-8; what is used where nobody says otherwise.
 *
 * @example Usage
 * ```ts
 * import { jsonCodec } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = jsonCodec.encode({ x: 1 });
 * assertEquals(new TextDecoder().decode(bytes), '{"x":1}');
 * assertEquals(jsonCodec.decode(bytes), { x: 1 });
 * ```
 */
export const jsonCodec: Codec = {
  name: "JSON",
  encode(value): Uint8Array {
    const text = JSON.stringify(value) as string | undefined;
    if (text === undefined) {
      throw new TypeError(
        `Cannot encode value: it must be what JSON can hold, received ${typeof value}`,
      );
    }
    return encoder.encode(text);
  },
  decode: (bytes) => JSON.parse(decoder.decode(bytes)),
};
