/**
 * The error texts of Deno that carry data: for QUIC and TLS, the runtime has neither error classes
 * nor codes. No other module reads these texts; `deno_errors_test.ts` compares them with the
 * runtime.
 */
import { textOf } from "../base/error_text.ts";

/** Reset or stop of a stream by the peer. */
export interface StreamFailure {
  /** `reset`: the peer will write no more; `stopped`: the peer will read no more. */
  readonly kind: "reset" | "stopped";
  /** HTTP/3 error code. */
  readonly code: number;
}

/**
 * Parses how the peer ended a stream; the text is the only source of the code.
 *
 * @param error The error of a read or write.
 * @returns The failure; `undefined` if the connection ended.
 */
export function streamFailure(error: unknown): StreamFailure | undefined {
  const match = /\b(reset|stopped) by peer: error (\d+)/.exec(textOf(error));
  if (match === null) return undefined;
  return { kind: match[1] as StreamFailure["kind"], code: Number(match[2]) };
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
 * Distinguishes a handshake that the peer's response ended from silence and from local faults.
 *
 * @param cause Rejection of `Deno.connectQuic`.
 * @returns True if the peer rejected the connection or the protocols, or this end rejected the
 * certificate.
 */
export function isPeerAnswer(cause: unknown): boolean {
  return cause instanceof Error && /\bpeer\b|\bhandshake failed\b/.test(cause.message);
}

/**
 * Detects a server without a common protocol: the alert `no_application_protocol` (RFC 7301 section
 * 3.2).
 *
 * @param error The error of a dial.
 * @returns True if the server has none of the offered protocols.
 */
export function isNoCommonProtocol(error: unknown): boolean {
  return /\berror 120\b/.test(textOf(error));
}

/**
 * Detects a server that rejects connections before any HTTP (RFC 9000 section 10.2), as a draining
 * server does.
 *
 * @param cause Rejection of `Deno.connectQuic`.
 * @returns True if the server rejected the connection.
 */
export function isConnectionRefused(cause: unknown): boolean {
  return textOf(cause).includes("refused to accept a new connection");
}

/**
 * Explains a failed dial. For an untrusted certificate, the text includes the number of given
 * hashes.
 *
 * @param cause Rejection of `Deno.connectQuic`.
 * @param hashes The certificate hashes given by the application.
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
 * Detects a server that replied to a TLS handshake with something else, such as HTTP.
 *
 * @param text The error text of a WebSocket.
 * @returns True if the server does not use TLS.
 */
export function isAnswerWithoutTls(text: string): boolean {
  return text.includes("InvalidContentType");
}
