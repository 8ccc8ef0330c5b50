/**
 * The runtime's QUIC: what is missing in its types, what it says only in the
 * text of its errors, and whether it is there at all.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import type { CertificateHash } from "../webtransport.ts";

/** Options of `Deno.connectQuic`, with the one that its types leave out. */
export interface ConnectQuicOptions extends Deno.ConnectQuicOptions<false> {
  /** Certificates trusted by their hash. */
  serverCertificateHashes?: CertificateHash[];
}

/** How the peer ended a stream. */
export interface StreamFailure {
  /** `reset`: it writes no more; `stopped`: it reads no more. */
  readonly kind: "reset" | "stopped";
  /** The code of HTTP/3. */
  readonly code: number;
}

/** How a QUIC connection ended. */
export interface QuicEnding {
  /** The code of the peer's application close; `undefined` if it did not close, but was lost. */
  readonly closeCode: number | undefined;
  /** The reason, or what happened. */
  readonly reason: string;
}

/** Says how to get what the runtime does not have. */
export const QUIC_MISSING: string =
  'WebTransport and raw QUIC need the QUIC of the runtime: run with --unstable-net, or set "unstable": ["net"] in deno.json';

/**
 * Tells whether the runtime has QUIC. Without `--unstable-net` it has not.
 *
 * @returns Whether it can be listened to and dialed.
 */
export function isQuicAvailable(): boolean {
  return typeof Deno !== "undefined" && typeof Deno.QuicEndpoint === "function" &&
    typeof Deno.connectQuic === "function";
}

/**
 * Checks that the runtime has QUIC.
 *
 * @throws {UnsupportedError} If it has not; the message names the flag.
 */
export function requireQuic(): void {
  if (!isQuicAvailable()) throw new UnsupportedError(QUIC_MISSING);
}

/**
 * Says why a connection could not be made, and of a certificate what it was trusted by.
 *
 * @param cause What the runtime threw.
 * @param hashes The hashes that were given for the certificate.
 * @returns The words.
 */
export function dialFailure(cause: unknown, hashes: readonly unknown[] = []): string {
  const reason = cause instanceof Error ? cause.message : String(cause);
  if (!reason.includes("invalid peer certificate")) return reason;
  return hashes.length === 0
    ? `${reason}; one for development is trusted by serverCertificateHashes, and there are none`
    : `${reason}; it is none of the serverCertificateHashes (${hashes.length})`;
}

/**
 * Tells an answer of the peer that ends a handshake from silence, and from faults of this machine.
 *
 * @param cause What `Deno.connectQuic` rejected with.
 * @returns Whether a peer refused: the connection, its protocols or, at our end, its certificate.
 */
export function isPeerAnswer(cause: unknown): boolean {
  return cause instanceof Error && /\bpeer\b|\bhandshake failed\b/.test(cause.message);
}

/**
 * Finds the address that this process may bind without asking for permission.
 *
 * @returns `::`, which reaches IPv4 too, or `0.0.0.0`; `undefined` if it may bind neither.
 */
export function permittedHost(): string | undefined {
  return ["::", "0.0.0.0"].find((hostname) => {
    const host = hostname === "::" ? "[::]:0" : `${hostname}:0`;
    return Deno.permissions.querySync({ name: "net", host }).state === "granted";
  });
}

/**
 * Reads how the peer ended a stream out of what reading or writing threw: the
 * code is nowhere else.
 *
 * @param error What was thrown.
 * @returns The failure; `undefined` if it was the connection that ended.
 */
export function streamFailure(error: unknown): StreamFailure | undefined {
  const text = error instanceof Error ? error.message : String(error);
  const match = /\b(reset|stopped) by peer: error (\d+)/.exec(text);
  if (match === null) return undefined;
  return { kind: match[1] as StreamFailure["kind"], code: Number(match[2]) };
}

/**
 * Waits for the end of a connection.
 *
 * @param conn The connection.
 * @returns How it ended; never rejects.
 */
export async function quicEnding(conn: Deno.QuicConn): Promise<QuicEnding> {
  try {
    const { closeCode, reason } = await conn.closed;
    return { closeCode, reason };
  } catch (error) {
    return { closeCode: undefined, reason: error instanceof Error ? error.message : String(error) };
  }
}
