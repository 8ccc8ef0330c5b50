/**
 * Certificates of servers.
 *
 * @module
 */

/** A certificate and its key. */
export interface Certificate {
  /** The chain in PEM, the server's own first. */
  readonly cert: string;
  /** The private key in PEM. */
  readonly key: string;
}

/**
 * Checks a certificate before anything is bound: plain text in its place would
 * serve nobody, or serve in the clear.
 *
 * @param certificate What was given.
 * @param what What it is called, with the verb: `listen: the certificate`.
 * @throws {TypeError} If it is not two texts of PEM.
 */
export function checkCertificate(certificate: unknown, what: string): void {
  const { cert, key } = Object(certificate) as Partial<Record<keyof Certificate, unknown>>;
  const parts = { cert, key };
  for (const [name, value] of Object.entries(parts)) {
    if (typeof value === "string" && value.includes("-----BEGIN ")) continue;
    const received = typeof value === "string" ? "a text that is none" : typeof value;
    throw new TypeError(`Cannot ${what} must have a ${name} in PEM, received ${received}`);
  }
}
