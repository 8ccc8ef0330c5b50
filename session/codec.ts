/**
 * How values become bytes.
 *
 * @module
 */

/** Makes bytes of values, and values of bytes. */
export interface Codec {
  /** Its name, for errors. */
  readonly name: string;
  /**
   * Makes bytes.
   *
   * @param value What to encode.
   * @returns The bytes.
   */
  encode(value: unknown): Uint8Array;
  /**
   * Makes a value. SHOULD throw where the bytes are none of its own.
   *
   * @param bytes Of one value.
   * @returns The value.
   */
  decode(bytes: Uint8Array): unknown;
}
