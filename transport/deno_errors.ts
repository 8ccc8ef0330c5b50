/**
 * Reads information from Deno's error texts, because the runtime has neither error classes nor
 * codes for QUIC and TLS. No other module reads these texts. `deno_errors_test.ts` compares them
 * with the runtime's errors.
 */
import { textOf } from "../base/error_text.ts";

/** The peer's reset or stop of a stream. */
export interface StreamFailure {
  /** `reset` if the peer stopped writing; `stopped` if the peer stopped reading. */
  readonly kind: "reset" | "stopped";
  /** The HTTP/3 error code. */
  readonly code: number;
}

/**
 * Reads from an error how the peer ended a stream. The error's text is the only source of the code.
 *
 * @param error The error of a read or write.
 * @returns The failure, or `undefined` if the connection ended.
 */
export function streamFailure(error: unknown): StreamFailure | undefined {
  const match = /\b(reset|stopped) by peer: error (\d+)/.exec(textOf(error));
  if (match === null) return undefined;
  return { kind: match[1] as StreamFailure["kind"], code: Number(match[2]) };
}

/**
 * Detects a hostname that is no address and no name that this machine knows.
 *
 * @param cause The error of a call that listens.
 * @returns True if the hostname has a wrong form, or its name has no address.
 */
export function isBadHostname(cause: unknown): boolean {
  return cause instanceof URIError || textOf(cause).startsWith("failed to lookup address");
}

/**
 * Distinguishes a reset by the peer from the end of the connection.
 *
 * @param error The error of a read.
 * @returns True if the peer reset the stream.
 */
export function isPeerReset(error: unknown): boolean {
  return /\breset by peer\b/.test(textOf(error));
}

/**
 * Returns whether a response from the peer ended the handshake, rather than silence or a local
 * fault.
 *
 * @param cause The rejection of `Deno.connectQuic`.
 * @returns True if the peer rejected the connection or the protocols, or if this side rejected the
 * certificate.
 */
export function isPeerResponse(cause: unknown): boolean {
  return cause instanceof Error && /\bpeer\b|\bhandshake failed\b/.test(cause.message);
}

/**
 * Detects a server without a common protocol, which sends the alert `no_application_protocol` (RFC
 * 7301 section 3.2).
 *
 * @param error The error of a dial.
 * @returns True if the server supports none of the offered protocols.
 */
export function isNoCommonProtocol(error: unknown): boolean {
  return /\berror 120\b/.test(textOf(error));
}

/**
 * Detects a server that rejects connections before HTTP starts (RFC 9000 section 10.2), as a
 * draining server does.
 *
 * @param cause The rejection of `Deno.connectQuic`.
 * @returns True if the server rejected the connection.
 */
export function isConnectionRefused(cause: unknown): boolean {
  return textOf(cause).includes("refused to accept a new connection");
}

/**
 * Explains why dialing failed. For an untrusted certificate, the text includes the number of hashes
 * that the application passed.
 *
 * @param cause The rejection of `Deno.connectQuic`.
 * @param hashes The certificate hashes that the application passed.
 * @returns The text for an error message.
 */
export function dialFailure(cause: unknown, hashes: readonly unknown[] = []): string {
  const reason = textOf(cause);
  if (!reason.includes("invalid peer certificate")) return reason;
  return hashes.length === 0
    ? `${reason}; a development certificate needs serverCertificateHashes, and none were given`
    : `${reason}; the certificate matches none of the serverCertificateHashes (${hashes.length})`;
}

/**
 * Detects a connection that ended because nothing arrived from the peer for too long.
 *
 * @param error The error with which a QUIC connection ended.
 * @returns True after QUIC's idle timeout.
 */
export function isIdleTimeout(error: unknown): boolean {
  return textOf(error).includes("timed out");
}

/**
 * Detects a server that replied to a TLS handshake with something else, such as HTTP.
 *
 * @param text The error text of a WebSocket.
 * @returns True if the server does not use TLS.
 */
export function isResponseWithoutTls(text: string): boolean {
  return text.includes("InvalidContentType");
}
