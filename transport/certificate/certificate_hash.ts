/**
 * The hash by which a browser trusts a certificate without an authority.
 *
 * @see {@link https://www.w3.org/TR/webtransport/#custom-certificate-requirements | WebTransport}
 *
 * @module
 */
import { builtin } from "./builtins.ts";
import type { CertificateHash } from "../webtransport.ts";

/** The W3C allows two weeks, from the first second to the last. */
const MAX_VALIDITY_MS = 14 * 86_400_000;

/** A hash whose bytes can be looked at. */
export type Sha256Hash = CertificateHash & { readonly value: Uint8Array<ArrayBuffer> };

/**
 * Hashes a certificate.
 *
 * @param der The certificate, in DER.
 * @returns Its hash.
 */
export function hashOf(der: Uint8Array): Sha256Hash {
  const { createHash } = builtin("node:crypto");
  const value = new Uint8Array(createHash("sha256").update(der).digest());
  return { algorithm: "sha-256", value };
}

/**
 * Finds the hash by which clients can trust a server's certificate: one that
 * browsers would take, with an elliptic curve and valid for at most two weeks.
 *
 * @param cert A certificate, or a chain that begins with it, in PEM.
 * @returns The one hash; none if browsers would not take it.
 */
export function certificateHashes(cert: string): readonly Sha256Hash[] {
  try {
    const { X509Certificate } = builtin("node:crypto");
    const certificate = new X509Certificate(cert);
    const lastsMs = Date.parse(certificate.validTo) - Date.parse(certificate.validFrom);
    const isTaken = certificate.publicKey.asymmetricKeyType === "ec" && lastsMs <= MAX_VALIDITY_MS;
    return isTaken ? [hashOf(new Uint8Array(certificate.raw))] : [];
  } catch {
    // Whoever listens with it will say what is wrong with it.
    return [];
  }
}
