/** The runtime's QUIC: missing types, availability, and ends of connections. */
import { UnsupportedError } from "../../errors.ts";
import { textOf } from "../deno_errors.ts";
import type { CertificateHash } from "../webtransport.ts";

/** Options of `Deno.connectQuic`, with one that the types of Deno lack. */
export interface ConnectQuicOptions extends Deno.ConnectQuicOptions<false> {
  /** Certificates trusted by their hash. */
  serverCertificateHashes?: CertificateHash[];
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

/** Resolves at the end of a connection; never rejects. */
export async function quicEnding(conn: Deno.QuicConn): Promise<QuicEnding> {
  try {
    const { closeCode, reason } = await conn.closed;
    return { closeCode, reason };
  } catch (error) {
    return { closeCode: undefined, reason: textOf(error) };
  }
}
