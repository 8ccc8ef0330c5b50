/** Self-signed certificates for development: ECDSA P-256, X.509 v3. */
import { builtin } from "./builtins.ts";
import {
  bits,
  CONSTRUCTED,
  integer,
  octets,
  oid,
  PRIMITIVE,
  sequence,
  setOf,
  time,
  utf8,
  value,
  yes,
} from "./der.ts";

/** Names and validity of a certificate. */
export interface SelfSignOptions {
  /** DNS names and IP addresses of the server. */
  readonly names: readonly string[];
  /** Start of the validity. */
  readonly notBefore: Date;
  /** End of the validity. */
  readonly notAfter: Date;
}

/** A certificate and its key. */
export interface SelfSigned {
  /** The certificate, in DER. */
  readonly der: Uint8Array;
  /** The private key, PKCS#8 in PEM. */
  readonly key: string;
}

/** Common name of all these certificates; the names that clients check are in `subjectAltName`. */
const COMMON_NAME = "Skein development";

/** Bytes of a serial number: RFC 5280 allows 20. */
const SERIAL_BYTES = 16;

const DNS_NAME = PRIMITIVE | 2;
const IP_ADDRESS = PRIMITIVE | 7;
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/;

/**
 * Makes a key, and a certificate signed with the key.
 *
 * The certificate is no authority (`CA:FALSE`): a client that trusts one by hash or by name trusts
 * no other certificate with it. Also, rustls does not accept an authority's certificate from a
 * server.
 *
 * @see {@link https://www.rfc-editor.org/rfc/rfc5280 | RFC 5280}, sections 4.1 and 4.2
 *
 * @param options Names and validity.
 * @returns The certificate and the key.
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
 * Writes the extension with the names. A certificate that contains the same bytes has the same
 * names.
 *
 * @param names DNS names and IP addresses.
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
      `Cannot make certificate: names must hold DNS names and IP addresses, received "${name}"`,
    );
  }
  return value(DNS_NAME, new TextEncoder().encode(name.toLowerCase()));
}

function isDnsName(name: string): boolean {
  const labels = name.toLowerCase().replace(/^\*\./, "").split(".");
  return name.length <= 253 && labels.every((label) => LABEL.test(label)) &&
    // Some programs would read `1.2.3` as an address.
    !/^\d+$/.test(labels.at(-1) ?? "");
}

/** Parses an IP address; `undefined` for any other text. */
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

/** Makes a random positive number without a leading zero byte. */
function serialNumber(): Uint8Array {
  const bytes = crypto.getRandomValues(new Uint8Array(SERIAL_BYTES));
  bytes[0] = (bytes[0]! & 0x3f) | 0x40;
  return bytes;
}
