/**
 * Checks server certificates, and computes the hashes by which browsers trust some of them without
 * an authority.
 */
import { builtin } from "../../base/builtins.ts";
import type { CertificateHash } from "../webtransport.ts";

/** A certificate and its key. */
export interface Certificate {
  /** The certificate chain in PEM, starting with the server's own certificate. */
  readonly cert: string;
  /** The private key in PEM. */
  readonly key: string;
}

/**
 * Checks a certificate before a port is bound. A server without a valid certificate would serve
 * without encryption, and a server with the key of another certificate would fail every handshake.
 *
 * @param what The start of the error text, such as `listen: the certificate`.
 * @throws {TypeError} If the value is not a pair of PEM texts, if one of them cannot be read, or if
 * the key does not belong to the certificate.
 */
export function checkCertificate(
  certificate: unknown,
  what: string,
): asserts certificate is Certificate {
  const { cert, key } = Object(certificate) as Partial<Record<keyof Certificate, unknown>>;
  const { createPrivateKey, X509Certificate } = builtin("node:crypto");
  const own = readPem(cert, `${what} must have a cert`, (pem) => new X509Certificate(pem));
  const secret = readPem(key, `${what} must have a key`, createPrivateKey);
  if (!own.checkPrivateKey(secret)) {
    throw new TypeError(`Cannot ${what} has the key of another certificate`);
  }
}

function readPem<T>(pem: unknown, rule: string, read: (pem: string) => T): T {
  if (typeof pem !== "string" || !pem.includes("-----BEGIN ")) {
    const received = typeof pem === "string" ? "other text" : typeof pem;
    throw new TypeError(`Cannot ${rule} in PEM, received ${received}`);
  }
  try {
    return read(pem);
  } catch (cause) {
    const received = pem.includes("ENCRYPTED") ? "encrypted PEM" : "PEM with other content";
    throw new TypeError(`Cannot ${rule} that can be read, received ${received}`, { cause });
  }
}

/**
 * The longest validity of a trusted certificate: two weeks, including the first and the last
 * second.
 *
 * @see {@link https://www.w3.org/TR/webtransport/#custom-certificate-requirements | WebTransport}
 */
const MAX_VALIDITY_MS = 14 * 86_400_000;

export type Sha256Hash = CertificateHash & { readonly value: Uint8Array<ArrayBuffer> };

export function hashOf(der: Uint8Array): Sha256Hash {
  const { createHash } = builtin("node:crypto");
  const value = new Uint8Array(createHash("sha256").update(der).digest());
  return { algorithm: "sha-256", value };
}

/**
 * Computes the hash by which clients can trust a server's certificate. Browsers accept only
 * certificates that use an elliptic curve and are valid for at most two weeks.
 *
 * @param cert The certificate, or a chain that starts with it, in PEM.
 * @returns An array with the hash, or an empty array if browsers would not accept the certificate.
 */
export function certificateHashes(cert: string): readonly Sha256Hash[] {
  try {
    const { X509Certificate } = builtin("node:crypto");
    const certificate = new X509Certificate(cert);
    const lastsMs = Date.parse(certificate.validTo) - Date.parse(certificate.validFrom);
    const isTaken = certificate.publicKey.asymmetricKeyType === "ec" && lastsMs <= MAX_VALIDITY_MS;
    return isTaken ? [hashOf(new Uint8Array(certificate.raw))] : [];
  } catch {
    // A listener with this certificate reports the error.
    return [];
  }
}
