/**
 * Helpers for the runtime's QUIC: missing types, checks of availability, and opening and ending
 * streams and connections.
 */
import { TimeoutError, UnsupportedError } from "../../errors.ts";
import { textOf } from "../../base/error_text.ts";
import { isIdleTimeout } from "../deno_errors.ts";
import type { CertificateHash } from "../webtransport.ts";
import type { StreamDirection } from "../connection.ts";
import { isDeno, isPermitted } from "../../base/platform.ts";
import { within } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";

/** The options of `Deno.connectQuic`, including an option that is missing from Deno's types. */
export interface ConnectQuicOptions extends Deno.ConnectQuicOptions<false> {
  /** The hashes of certificates to trust. */
  serverCertificateHashes?: CertificateHash[] | undefined;
}

export interface QuicEnding {
  /** The peer's application close code; `undefined` if the connection was lost. */
  readonly closeCode: number | undefined;
  /** The reason of the close, or the error message if the connection was lost. */
  readonly reason: string;
  /** True if the connection was lost because the peer was silent for too long. */
  readonly isTimeout?: boolean | undefined;
}

/** The error text if QUIC is missing. It says how to enable QUIC, which Node does not have. */
export const QUIC_MISSING: string = isDeno
  ? 'WebTransport and raw QUIC need QUIC in the runtime: run with --unstable-net, or set "unstable": ["net"] in deno.json'
  : "WebTransport and raw QUIC need Deno's QUIC: Node does not have it";

/**
 * Tells whether the runtime has QUIC, which requires `--unstable-net`.
 *
 * @returns True if the runtime can listen and dial.
 */
export function isQuicAvailable(): boolean {
  return isDeno && typeof Deno.QuicEndpoint === "function" &&
    typeof Deno.connectQuic === "function";
}

/**
 * Throws unless the runtime has QUIC.
 *
 * @throws {UnsupportedError} If QUIC is missing; the message names the flag.
 */
export function requireQuic(): void {
  if (!isQuicAvailable()) throw new UnsupportedError(QUIC_MISSING);
}

/**
 * Throws unless the runtime has a WebTransport server.
 *
 * @throws {UnsupportedError} If there is no server; the message names the flag.
 */
export function requireUpgrade(): void {
  if (typeof Deno.upgradeWebTransport !== "function") throw new UnsupportedError(QUIC_MISSING);
}

/**
 * Returns the address of a peer. The address in `conn` has no `transport`, although Deno's types
 * say that it has one, and it is a new object at each access.
 *
 * @returns The address, whose `transport` is `udp`.
 */
export function remoteAddressOf(conn: Pick<Deno.QuicConn, "remoteAddr">): Deno.NetAddr {
  const { hostname, port } = conn.remoteAddr;
  return { transport: "udp", hostname, port };
}

/**
 * Chooses an address that this process may bind to without a permission prompt.
 *
 * @returns `::`, which also reaches IPv4, or `0.0.0.0`; `undefined` if neither is permitted.
 */
export function permittedHost(): string | undefined {
  return ["::", "0.0.0.0"].find((hostname) => {
    const host = hostname === "::" ? "[::]:0" : `${hostname}:0`;
    return isPermitted({ name: "net", host });
  });
}

/** Resolves when a connection has ended. Never rejects. */
export async function quicEnding(conn: Deno.QuicConn): Promise<QuicEnding> {
  try {
    const { closeCode, reason } = await conn.closed;
    return { closeCode, reason };
  } catch (error) {
    return { closeCode: undefined, reason: textOf(error), isTimeout: isIdleTimeout(error) };
  }
}

interface OpeningOptions {
  readonly wire: Deno.QuicSendStreamOptions;
  readonly signal?: AbortSignal | undefined;
  /** The timeout that the caller set, in milliseconds. It is used in the error. */
  readonly timeoutMs?: number | undefined;
  /** The time that remains of `timeoutMs`. */
  readonly leftMs: number | undefined;
}

export type OpenStream<T> = (
  runtime: Runtime,
  conn: Deno.QuicConn,
  options: OpeningOptions,
) => Promise<T>;

/**
 * Opens a bidirectional stream. The runtime cannot cancel the call, so a stream that opens too late
 * is ended immediately.
 *
 * @throws {TimeoutError} If `leftMs` passes first.
 */
export function openBidirectional(
  runtime: Runtime,
  conn: Deno.QuicConn,
  options: OpeningOptions,
): Promise<Deno.QuicBidirectionalStream> {
  return inTime(runtime, conn.createBidirectionalStream(options.wire), "bidirectional", options);
}

/**
 * Opens a unidirectional stream; see {@linkcode openBidirectional}.
 *
 * @throws {TimeoutError} If `leftMs` passes first.
 */
export function openUnidirectional(
  runtime: Runtime,
  conn: Deno.QuicConn,
  options: OpeningOptions,
): Promise<Deno.QuicSendStream> {
  return inTime(runtime, conn.createUnidirectionalStream(options.wire), "unidirectional", options);
}

/** Ends a stream that no caller is waiting for any longer. */
export function endUnused(stream: Deno.QuicBidirectionalStream | Deno.QuicSendStream): void {
  if ("readable" in stream) stream.readable.cancel().catch(() => {});
  const writable = "writable" in stream ? stream.writable : stream;
  writable.abort().catch(() => {});
}

function inTime<T extends Deno.QuicBidirectionalStream | Deno.QuicSendStream>(
  runtime: Runtime,
  opening: Promise<T>,
  direction: StreamDirection,
  { signal, timeoutMs, leftMs }: OpeningOptions,
): Promise<T> {
  if (signal === undefined && leftMs === undefined) return opening;
  return within(runtime, opening, { signal, timeoutMs: leftMs, discard: endUnused })
    .catch((error) => {
      if (!(error instanceof TimeoutError)) throw error;
      const rule = `the peer allowed no ${direction} stream within ${timeoutMs} ms`;
      throw new TimeoutError(`Cannot open stream: ${rule}`, timeoutMs!);
    });
}
