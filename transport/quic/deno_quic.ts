/** The runtime's QUIC: missing types, availability, opening of streams, and ends of connections. */
import { TimeoutError, UnsupportedError } from "../../errors.ts";
import { textOf } from "../../base/error_text.ts";
import type { CertificateHash } from "../webtransport.ts";
import type { StreamDirection } from "../connection.ts";
import { isDeno, isPermitted } from "../../base/platform.ts";
import { within } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";

/** The options of `Deno.connectQuic`, with one that the types of Deno lack. */
export interface ConnectQuicOptions extends Deno.ConnectQuicOptions<false> {
  /** Certificates trusted by their hash. */
  serverCertificateHashes?: CertificateHash[] | undefined;
}

export interface QuicEnding {
  /** Application close code of the peer; `undefined` if the connection was lost. */
  readonly closeCode: number | undefined;
  /** Close reason, or the error of a loss. */
  readonly reason: string;
}

/** The error text that says how to enable QUIC, which Node lacks. */
export const QUIC_MISSING: string = isDeno
  ? 'WebTransport and raw QUIC need QUIC in the runtime: run with --unstable-net, or set "unstable": ["net"] in deno.json'
  : "WebTransport and raw QUIC need Deno's QUIC: Node does not have it";

/**
 * Tells whether the runtime has QUIC, which requires `--unstable-net`.
 *
 * @returns True if listening and dialing are available.
 */
export function isQuicAvailable(): boolean {
  return isDeno && typeof Deno.QuicEndpoint === "function" &&
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
 * Throws unless the runtime has a WebTransport server.
 *
 * @throws {UnsupportedError} If the server is missing; the message names the flag.
 */
export function requireUpgrade(): void {
  if (typeof Deno.upgradeWebTransport !== "function") throw new UnsupportedError(QUIC_MISSING);
}

/**
 * Returns the address of a peer. The address of `conn` itself has no `transport`, although Deno's
 * types say so, and is another object at each access.
 *
 * @returns The address, with the transport `udp`.
 */
export function remoteAddressOf(conn: Pick<Deno.QuicConn, "remoteAddr">): Deno.NetAddr {
  const { hostname, port } = conn.remoteAddr;
  return { transport: "udp", hostname, port };
}

/**
 * Chooses the address that this process may bind without a permission prompt.
 *
 * @returns `::`, which also reaches IPv4, or `0.0.0.0`; `undefined` if neither is permitted.
 */
export function permittedHost(): string | undefined {
  return ["::", "0.0.0.0"].find((hostname) => {
    const host = hostname === "::" ? "[::]:0" : `${hostname}:0`;
    return isPermitted({ name: "net", host });
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

interface OpeningOptions {
  readonly wire: Deno.QuicSendStreamOptions;
  readonly signal?: AbortSignal | undefined;
  /** The time that the caller allows in milliseconds, for the error. */
  readonly timeoutMs?: number | undefined;
  /** The remaining part of `timeoutMs`. */
  readonly leftMs: number | undefined;
}

export type OpenStream<T> = (
  runtime: Runtime,
  conn: Deno.QuicConn,
  options: OpeningOptions,
) => Promise<T>;

/**
 * Opens a bidirectional stream. The runtime cannot cancel the opening: a stream that opens too late
 * is ended immediately.
 *
 * @throws {TimeoutError} If `leftMs` passed first.
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
 * @throws {TimeoutError} If `leftMs` passed first.
 */
export function openUnidirectional(
  runtime: Runtime,
  conn: Deno.QuicConn,
  options: OpeningOptions,
): Promise<Deno.QuicSendStream> {
  return inTime(runtime, conn.createUnidirectionalStream(options.wire), "unidirectional", options);
}

/** Ends a stream that no caller waits for any longer. */
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
