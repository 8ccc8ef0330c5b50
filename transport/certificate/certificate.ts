/** Certificates of servers, and the hashes by which browsers trust some without an authority. */
import { builtin } from "./builtins.ts";
import type { CertificateHash } from "../webtransport.ts";

/** A certificate and its key. */
export interface Certificate {
  /** The chain in PEM, the server's own first. */
  readonly cert: string;
  /** The private key in PEM. */
  readonly key: string;
}

/**
 * Checks a certificate before a port is bound: a server without a valid one would refuse all
 * clients, or serve without encryption.
 *
 * @param certificate The value to check.
 * @param what Start of the error text: `listen: the certificate`.
 * @throws {TypeError} If the value is not two texts in PEM.
 */
export function checkCertificate(certificate: unknown, what: string): void {
  const { cert, key } = Object(certificate) as Partial<Record<keyof Certificate, unknown>>;
  const parts = { cert, key };
  for (const [name, value] of Object.entries(parts)) {
    if (typeof value === "string" && value.includes("-----BEGIN ")) continue;
    const received = typeof value === "string" ? "other text" : typeof value;
    throw new TypeError(`Cannot ${what} must have a ${name} in PEM, received ${received}`);
  }
}

/**
 * Longest validity of a trusted certificate: two weeks, from the first second to the last.
 *
 * @see {@link https://www.w3.org/TR/webtransport/#custom-certificate-requirements | WebTransport}
 */
const MAX_VALIDITY_MS = 14 * 86_400_000;

/** A hash with readable bytes. */
export type Sha256Hash = CertificateHash & { readonly value: Uint8Array<ArrayBuffer> };

/**
 * Hashes a certificate.
 *
 * @param der The certificate, in DER.
 * @returns The hash.
 */
export function hashOf(der: Uint8Array): Sha256Hash {
  const { createHash } = builtin("node:crypto");
  const value = new Uint8Array(createHash("sha256").update(der).digest());
  return { algorithm: "sha-256", value };
}

/**
 * Finds the hash by which clients can trust a server's certificate. Browsers accept only
 * certificates with an elliptic curve and a validity of at most two weeks.
 *
 * @param cert A certificate, or a chain that begins with one, in PEM.
 * @returns The one hash; empty if browsers would not accept the certificate.
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
