/** Writes ASN.1 values in DER (X.690, sections 8 and 10), as far as certificates need. */

/** A context-specific tag that holds other values. */
export const CONSTRUCTED = 0xa0;

/** A context-specific tag that holds bytes. */
export const PRIMITIVE = 0x80;

/** First year that does not fit into a `UTCTime`. */
const FIRST_LONG_YEAR = 2050;

/**
 * Writes one value: tag, length, content.
 *
 * @param tag The tag's one byte.
 * @param parts The content, joined.
 * @returns The value.
 */
export function value(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const head = length < 0x80 ? [length] : longLength(length);
  const bytes = new Uint8Array(1 + head.length + length);
  bytes[0] = tag;
  bytes.set(head, 1);
  let at = 1 + head.length;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** Writes a SEQUENCE of values. */
export function sequence(...values: readonly Uint8Array[]): Uint8Array {
  return value(0x30, ...values);
}

/** Writes a SET of one value, which needs no order. */
export function setOf(member: Uint8Array): Uint8Array {
  return value(0x31, member);
}

/** Writes a positive INTEGER of these bytes, which MUST NOT begin with a zero. */
export function integer(bytes: Uint8Array): Uint8Array {
  const isNegative = (bytes[0] ?? 0) >= 0x80;
  return value(0x02, isNegative ? Uint8Array.of(0, ...bytes) : bytes);
}

/** Writes BOOLEAN `true`; `false` is a default, which DER leaves out. */
export function yes(): Uint8Array {
  return value(0x01, Uint8Array.of(0xff));
}

/** Writes an OCTET STRING. */
export function octets(bytes: Uint8Array): Uint8Array {
  return value(0x04, bytes);
}

/** Writes a BIT STRING; the `unused` bits of the last byte do not count. */
export function bits(bytes: Uint8Array, unused = 0): Uint8Array {
  return value(0x03, Uint8Array.of(unused), bytes);
}

/** Writes a UTF8String. */
export function utf8(text: string): Uint8Array {
  return value(0x0c, new TextEncoder().encode(text));
}

/** Writes an OBJECT IDENTIFIER such as `2.5.29.17`. */
export function oid(text: string): Uint8Array {
  const [first = 0, second = 0, ...rest] = text.split(".").map(Number);
  return value(0x06, Uint8Array.from([first * 40 + second, ...rest].flatMap(base128)));
}

/** Writes a time to the second, in the form of RFC 5280, section 4.1.2.5. */
export function time(date: Date): Uint8Array {
  const digits = date.toISOString().replace(/\.\d+/, "").replace(/[-:T]/g, "");
  const isLong = date.getUTCFullYear() >= FIRST_LONG_YEAR;
  const text = isLong ? digits : digits.slice(2);
  return value(isLong ? 0x18 : 0x17, new TextEncoder().encode(text));
}

function longLength(length: number): number[] {
  const bytes: number[] = [];
  for (let rest = length; rest > 0; rest = Math.floor(rest / 256)) bytes.unshift(rest % 256);
  return [0x80 | bytes.length, ...bytes];
}

function base128(number: number): number[] {
  const bytes = [number % 128];
  for (let rest = Math.floor(number / 128); rest > 0; rest = Math.floor(rest / 128)) {
    bytes.unshift(0x80 | rest % 128);
  }
  return bytes;
}
