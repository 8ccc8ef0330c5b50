/** Problems of certificates, in plain words. */
import { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import type { Finding } from "./check.ts";

/** Longest validity of a certificate that browsers accept by hash, in milliseconds. */
const MAX_HASH_MS = 14 * 86_400_000;

/** Remaining validity below which a certificate causes a warning, in days. */
const SOON_DAYS = 14;

/** A certificate as the server sent it. */
export interface SeenCertificate {
  /** The certificate in DER. */
  readonly raw: Uint8Array;
  /** Number of certificates that the server sent. */
  readonly chainLength: number;
  /** The reason why the platform does not trust the chain; `undefined` if it is trusted. */
  readonly distrust: string | undefined;
}

/** Result of the check of a certificate. */
export interface Judgment extends Pick<Finding, "state" | "detail" | "cause" | "cure"> {
  /** Observed values. */
  readonly facts: {
    readonly subject: string;
    readonly issuer: string;
    readonly names: string;
    readonly validFrom: string;
    readonly validTo: string;
    readonly daysLeft: number;
    readonly chainLength: number;
    readonly sha256: string;
    readonly isHashUsable: boolean;
  };
}

/**
 * Checks the certificate of a server.
 *
 * @param host Name or address in the URL.
 * @param now Current time, in milliseconds since the epoch.
 * @returns The finding.
 */
export function judgeCertificate(
  { raw, chainLength, distrust }: SeenCertificate,
  host: string,
  now: number,
): Judgment {
  const certificate = new X509Certificate(raw as Uint8Array<ArrayBuffer>);
  const { subject, issuer, subjectAltName = "", validFrom, validTo } = certificate;
  const [fromMs, toMs] = [Date.parse(validFrom), Date.parse(validTo)];
  const days = (toMs - now) / 86_400_000;
  const daysLeft = Math.floor(days);
  const facts = {
    subject,
    issuer,
    names: subjectAltName.replaceAll("DNS:", "").replaceAll("IP Address:", ""),
    validFrom: new Date(fromMs).toISOString(),
    validTo: new Date(toMs).toISOString(),
    daysLeft,
    chainLength,
    sha256: certificate.fingerprint256.replaceAll(":", "").toLowerCase(),
    isHashUsable: toMs - fromMs <= MAX_HASH_MS &&
      certificate.publicKey.asymmetricKeyType === "ec",
  };
  const failed = (detail: string, cause: string, cure: string): Judgment => ({
    state: "failed",
    detail,
    cause,
    cure,
    facts,
  });
  if (now > toMs) {
    return failed(
      `the certificate expired ${-daysLeft} ${-daysLeft === 1 ? "day" : "days"} ago`,
      `The certificate was valid until ${facts.validTo.slice(0, 10)}`,
      "Renew the certificate, and reload it in the server or proxy",
    );
  }
  if (now < fromMs) {
    return failed(
      `the certificate is not valid before ${facts.validFrom}`,
      "The clock of this machine is behind, or the certificate was created with a clock that is ahead",
      "Synchronize the clocks of both machines with NTP",
    );
  }
  const isNamed = isIP(host) === 0 ? certificate.checkHost(host) : certificate.checkIP(host);
  if (isNamed === undefined) {
    return failed(
      `the certificate is for other names: ${facts.names || subject}`,
      `"${host}" is not among the names of the certificate, or a proxy sends its default certificate`,
      "Use a name of the certificate in the URL, or get a certificate with this name",
    );
  }
  if (distrust !== undefined) {
    const isOwn = subject === issuer;
    const hash = facts.isHashUsable
      ? `; for development, WebTransport (only) can trust its hash: serverCertificateHashes, sha-256 ${facts.sha256}`
      : "";
    return isOwn
      ? failed(
        "the certificate is self-signed",
        "No authority signed the certificate, so clients reject the connection",
        `Get a certificate from an authority, such as Let's Encrypt${hash}`,
      )
      : failed(
        `the certificate is not trusted (${distrust})`,
        chainLength < 2
          ? "The server sends its certificate without the issuer's, or the issuer is a private authority"
          : "This machine does not trust the issuer",
        "Let the server send the full chain (fullchain.pem); for a private authority set DENO_CERT to its certificate",
      );
  }
  const detail = `${facts.names}, ${daysLeft} days left`;
  if (days < SOON_DAYS) {
    return {
      state: "warning",
      detail,
      cause: "The certificate expires soon",
      cure: "Check that its renewal works",
      facts,
    };
  }
  return { state: "ok", detail, facts };
}
