/** Adapter for the runtime's QUIC: missing types, error texts that carry data, and availability. */
import { UnsupportedError } from "../../errors.ts";
import type { CertificateHash } from "../webtransport.ts";

/** Options of `Deno.connectQuic`, with one that the types of Deno lack. */
export interface ConnectQuicOptions extends Deno.ConnectQuicOptions<false> {
  /** Certificates trusted by their hash. */
  serverCertificateHashes?: CertificateHash[];
}

/** End of a stream by the peer. */
export interface StreamFailure {
  /** `reset`: the peer writes no more; `stopped`: the peer reads no more. */
  readonly kind: "reset" | "stopped";
  /** Error code of HTTP/3. */
  readonly code: number;
}

/** End of a QUIC connection. */
export interface QuicEnding {
  /** Application close code of the peer; `undefined` if the connection was lost. */
  readonly closeCode: number | undefined;
  /** Close reason, or the error of a loss. */
  readonly reason: string;
}

/** Error text with the way to enable QUIC. */
export const QUIC_MISSING: string =
  'WebTransport and raw QUIC need the QUIC of the runtime: run with --unstable-net, or set "unstable": ["net"] in deno.json';

/**
 * Tells whether the runtime has QUIC, which requires `--unstable-net`.
 *
 * @returns True if listening and dialing are available.
 */
export function isQuicAvailable(): boolean {
  return typeof Deno !== "undefined" && typeof Deno.QuicEndpoint === "function" &&
    typeof Deno.connectQuic === "function";
}

/**
 * Checks that the runtime has QUIC.
 *
 * @throws {UnsupportedError} If QUIC is missing; the message names the flag.
 */
export function requireQuic(): void {
  if (!isQuicAvailable()) throw new UnsupportedError(QUIC_MISSING);
}

/**
 * Explains a failed dial; for an untrusted certificate, with the number of given hashes.
 *
 * @param cause Error of the runtime.
 * @param hashes Certificate hashes given by the application.
 * @returns Text for an error message.
 */
export function dialFailure(cause: unknown, hashes: readonly unknown[] = []): string {
  const reason = cause instanceof Error ? cause.message : String(cause);
  if (!reason.includes("invalid peer certificate")) return reason;
  return hashes.length === 0
    ? `${reason}; one for development is trusted by serverCertificateHashes, and there are none`
    : `${reason}; it is none of the serverCertificateHashes (${hashes.length})`;
}

/**
 * Distinguishes an answer of the peer that ends a handshake from silence and from local faults.
 *
 * @param cause Rejection of `Deno.connectQuic`.
 * @returns True if a peer refused the connection or the protocols, or this end refused the
 * certificate.
 */
export function isPeerAnswer(cause: unknown): boolean {
  return cause instanceof Error && /\bpeer\b|\bhandshake failed\b/.test(cause.message);
}

/**
 * Chooses the address that this process may bind without a permission prompt.
 *
 * @returns `::`, which also reaches IPv4, or `0.0.0.0`; `undefined` if neither is permitted.
 */
export function permittedHost(): string | undefined {
  return ["::", "0.0.0.0"].find((hostname) => {
    const host = hostname === "::" ? "[::]:0" : `${hostname}:0`;
    return Deno.permissions.querySync({ name: "net", host }).state === "granted";
  });
}

/**
 * Parses the end of a stream by the peer out of an error text, which is the only source of the
 * code.
 *
 * @param error Error of a read or write.
 * @returns The failure; `undefined` if the connection ended.
 */
export function streamFailure(error: unknown): StreamFailure | undefined {
  const text = error instanceof Error ? error.message : String(error);
  const match = /\b(reset|stopped) by peer: error (\d+)/.exec(text);
  if (match === null) return undefined;
  return { kind: match[1] as StreamFailure["kind"], code: Number(match[2]) };
}

/** Resolves at the end of a connection; never rejects. */
export async function quicEnding(conn: Deno.QuicConn): Promise<QuicEnding> {
  try {
    const { closeCode, reason } = await conn.closed;
    return { closeCode, reason };
  } catch (error) {
    return { closeCode: undefined, reason: error instanceof Error ? error.message : String(error) };
  }
}
