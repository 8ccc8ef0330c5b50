/** Certificates of servers. */

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
