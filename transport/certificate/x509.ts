/** Creates self-signed certificates for development: X.509 v3 with ECDSA P-256. */
import { builtin } from "../../base/builtins.ts";

/** A context-specific tag that contains other values. */
const CONSTRUCTED = 0xa0;

/** A context-specific tag that contains bytes. */
const PRIMITIVE = 0x80;

/** The first year that does not fit into a `UTCTime`. */
const FIRST_LONG_YEAR = 2050;

/**
 * Writes one value: its tag, length and content.
 *
 * @param tag The tag, which is one byte.
 * @param parts The parts of the content, which are joined.
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

export function sequence(...values: readonly Uint8Array[]): Uint8Array {
  return value(0x30, ...values);
}

/** Writes a SET of one value, which needs no sorting. */
function setOf(member: Uint8Array): Uint8Array {
  return value(0x31, member);
}

/** Writes these bytes as a positive INTEGER. They MUST NOT start with a zero. */
export function integer(bytes: Uint8Array): Uint8Array {
  const isNegative = (bytes[0] ?? 0) >= 0x80;
  return value(0x02, isNegative ? Uint8Array.of(0, ...bytes) : bytes);
}

/** Writes a BOOLEAN `true`. In DER, the default `false` is omitted. */
function yes(): Uint8Array {
  return value(0x01, Uint8Array.of(0xff));
}

/** Writes an OCTET STRING. */
export function octets(bytes: Uint8Array): Uint8Array {
  return value(0x04, bytes);
}

/** Writes a BIT STRING without the `unused` bits of the last byte. */
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

/** Writes a time in whole seconds, in the format of RFC 5280, section 4.1.2.5. */
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

export interface SelfSignOptions {
  /** The DNS names and IP addresses of the server. */
  readonly names: readonly string[];
  readonly notBefore: Date;
  readonly notAfter: Date;
}

export interface SelfSigned {
  /** The certificate, in DER. */
  readonly der: Uint8Array;
  /** The private key, PKCS#8 in PEM. */
  readonly key: string;
}

/**
 * The common name of all these certificates. The names that clients check are in `subjectAltName`.
 */
const COMMON_NAME = "Skein development";

/** The number of bytes in a serial number. RFC 5280 allows 20. */
const SERIAL_BYTES = 16;

const DNS_NAME = PRIMITIVE | 2;
const IP_ADDRESS = PRIMITIVE | 7;
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/;

/**
 * Creates a key, and a certificate signed with it.
 *
 * The certificate is not a CA certificate (`CA:FALSE`), so a client that trusts it by hash or by
 * name trusts no certificate that it signed. Also, rustls rejects a server that uses a CA
 * certificate.
 *
 * @see {@link https://www.rfc-editor.org/rfc/rfc5280 | RFC 5280}, sections 4.1 and 4.2
 *
 * @throws {TypeError} If a name is neither a DNS name nor an IP address.
 */
export function selfSign({ names, notBefore, notAfter }: SelfSignOptions): SelfSigned {
  const { generateKeyPairSync, sign } = builtin("node:crypto");
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const name = sequence(setOf(sequence(oid("2.5.4.3"), utf8(COMMON_NAME))));
  const ecdsaWithSha256 = sequence(oid("1.2.840.10045.4.3.2"));
  const certificate = sequence(
    value(CONSTRUCTED, integer(Uint8Array.of(2))), // v3
    integer(serialNumber()),
    ecdsaWithSha256,
    name,
    sequence(time(notBefore), time(notAfter)),
    name,
    new Uint8Array(publicKey.export({ type: "spki", format: "der" })),
    value(
      CONSTRUCTED | 3,
      sequence(
        extension("2.5.29.19", sequence(), true), // basicConstraints: CA is FALSE by default
        extension("2.5.29.15", bits(Uint8Array.of(0x80), 7), true), // keyUsage: digitalSignature
        extension("2.5.29.37", sequence(oid("1.3.6.1.5.5.7.3.1"))), // extKeyUsage: serverAuth
        subjectAltName(names),
      ),
    ),
  );
  const signature = new Uint8Array(sign("sha256", certificate, privateKey));
  return {
    der: sequence(certificate, ecdsaWithSha256, bits(signature)),
    key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
  };
}

/**
 * Writes the extension that contains the names. If a certificate contains the same bytes, it has
 * the same names.
 *
 * @param names The DNS names and IP addresses.
 * @returns The extension, in DER.
 * @throws {TypeError} If a name is neither a DNS name nor an IP address.
 */
export function subjectAltName(names: readonly string[]): Uint8Array {
  return extension("2.5.29.17", sequence(...names.map(generalName)));
}

function extension(id: string, content: Uint8Array, isCritical = false): Uint8Array {
  return sequence(oid(id), ...(isCritical ? [yes()] : []), octets(content));
}

function generalName(name: string): Uint8Array {
  const address = addressBytes(name);
  if (address !== undefined) return value(IP_ADDRESS, address);
  if (!isDnsName(name)) {
    throw new TypeError(
      `Cannot create certificate: names must be DNS names and IP addresses, received "${name}"`,
    );
  }
  return value(DNS_NAME, new TextEncoder().encode(name.toLowerCase()));
}

function isDnsName(name: string): boolean {
  const labels = name.toLowerCase().replace(/^\*\./, "").split(".");
  return name.length <= 253 && labels.every((label) => LABEL.test(label)) &&
    // Some programs would parse `1.2.3` as an address.
    !/^\d+$/.test(labels.at(-1) ?? "");
}

/** Parses an IP address. Returns `undefined` for any other text. */
function addressBytes(name: string): Uint8Array | undefined {
  if (/^\d+(?:\.\d+){3}$/.test(name)) {
    const bytes = name.split(".").map(Number);
    return bytes.every((byte) => byte < 256) ? Uint8Array.from(bytes) : undefined;
  }
  if (!/^[0-9a-f:.]+$/i.test(name) || !name.includes(":")) return undefined;
  const url = URL.parse(`http://[${name}]/`);
  if (url === null) return undefined;
  // The URL parser returns the shortest form, in hexadecimal.
  const [head = "", tail] = url.hostname.slice(1, -1).split("::");
  const [left, right] = [head, tail ?? ""].map((part) => part === "" ? [] : part.split(":"));
  const zeros = Array<string>(8 - left!.length - right!.length).fill("0");
  const groups = [...left!, ...zeros, ...right!].map((group) => parseInt(group, 16));
  return Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 0xff]));
}

/** Creates a random positive number without a leading zero byte. */
function serialNumber(): Uint8Array {
  const bytes = crypto.getRandomValues(new Uint8Array(SERIAL_BYTES));
  bytes[0] = (bytes[0]! & 0x3f) | 0x40;
  return bytes;
}
