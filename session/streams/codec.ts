/** Codecs between values and bytes. */
import { encodeJson } from "../../base/json.ts";

/**
 * Encodes values as bytes, and decodes bytes to values.
 *
 * @example Plain bytes
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
  /** Name of the codec, for errors. */
  readonly name: string;
  /**
   * Encodes a value.
   *
   * @param value A value that the stream's schema has accepted.
   * @returns The bytes; an empty array is allowed.
   */
  encode(value: unknown): Uint8Array;
  /**
   * Decodes a value. SHOULD throw if the bytes are not valid in this encoding.
   *
   * @param bytes The bytes of one value, which the codec may keep.
   * @returns The value.
   */
  decode(bytes: Uint8Array): unknown;
}

const encoder = /* @__PURE__ */ new TextEncoder();
const decoder = /* @__PURE__ */ new TextDecoder("utf-8", { fatal: true });

/**
 * JSON (RFC 8259) in UTF-8; the default codec.
 */
export const jsonCodec: Codec = {
  name: "JSON",
  encode: (value) => encoder.encode(encodeJson(value, "encode")),
  decode: (bytes) => JSON.parse(decoder.decode(bytes)),
};
