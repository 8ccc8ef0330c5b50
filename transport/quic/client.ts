/**
 * The client half of raw QUIC.
 *
 * @module
 */
import { ConnectionError, TimeoutError } from "../../errors.ts";
import { dialFailure, requireQuic } from "./runtime.ts";
import { type QuicConnection, RawQuicConnection } from "./connection.ts";
import { QuicDial, type QuicDialOptions } from "./dial.ts";
import { checkProtocols, KEEP_ALIVE_MS, quicTarget } from "./options.ts";
import { publicUrl } from "../url.ts";
import { type CertificateHash, checkHashes } from "../webtransport.ts";
import { within } from "../within.ts";

/** Options for {@linkcode dialQuic}. */
export interface DialQuicOptions {
  /** Protocols to offer in the handshake (ALPN), the best first. */
  readonly protocols: readonly string[];
  /** Certificates that are trusted without an authority: short-lived ones, for development. */
  readonly serverCertificateHashes?: readonly CertificateHash[];
  /**
   * Bidirectional streams that the server may have open.
   *
   * @default {128}
   */
  readonly maxBidirectionalStreams?: number;
  /**
   * Unidirectional streams that the server may have open. Each may hold up to 1.25 MB that nobody
   * reads.
   *
   * @default {1024}
   */
  readonly maxUnidirectionalStreams?: number;
  /**
   * How long the connection may be silent before it is given up, in milliseconds; the server's time
   * counts if it is less. A server that vanished is noticed within this and `keepAliveIntervalMs`.
   *
   * @default {30000}
   */
  readonly idleTimeoutMs?: number;
  /**
   * How often a silent connection is asked whether it is still there, in milliseconds.
   *
   * @default {5000}
   */
  readonly keepAliveIntervalMs?: number;
  /** Gives up dialing; once connected it does nothing. None by default. */
  readonly signal?: AbortSignal;
  /** Gives up after this many milliseconds; the idle time by default. */
  readonly timeoutMs?: number;
}

/**
 * Dials a QUIC connection on which every stream is the application's.
 *
 * - **Every address** of a name is tried, IPv6 and IPv4 by turns, 250 ms apart (RFC 8305); the first
 *   that answers is taken, and the certificate is checked against the name. An error names each
 *   address that was tried.
 *
 * @param url Any scheme with a host, such as `moqt://example.com:4443/`. The port is 443 unless the
 * URL names another; path and query are for the protocol on top, and are not sent.
 * @param options See {@linkcode DialQuicOptions}.
 * @returns The connection, ready; its `protocol` is the one agreed on.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag.
 * @throws {ConnectionError} If it cannot be made: nobody answers, the certificate is not trusted, or
 * the server speaks none of the protocols.
 * @throws {TimeoutError} If it takes longer than `timeoutMs`.
 * @throws {TypeError} If the URL has no host, there are no protocols, or a hash makes no sense.
 * @throws {RangeError} If a limit is not a positive integer.
 */
export async function dialQuic(
  url: string | URL,
  options: DialQuicOptions,
): Promise<QuicConnection> {
  requireQuic();
  const target = quicTarget(url);
  const connectOptions = optionsOf(options);
  const { signal, timeoutMs } = options;
  signal?.throwIfAborted();
  const dial = new QuicDial({ ...connectOptions, ...target });
  try {
    const conn = await within(dial.connect(), { late: "Cannot dial within", signal, timeoutMs });
    return new RawQuicConnection(conn);
  } catch (cause) {
    dial.abort();
    if (signal?.aborted || cause instanceof TimeoutError) throw dial.explain(cause);
    const reason = dialFailure(cause, options.serverCertificateHashes);
    throw new ConnectionError(`Cannot connect to ${publicUrl(url)}: ${reason}`, { cause });
  }
}

function optionsOf(options: DialQuicOptions): Omit<QuicDialOptions, "hostname" | "port"> {
  const {
    protocols,
    serverCertificateHashes,
    maxBidirectionalStreams = 128,
    maxUnidirectionalStreams = 1_024,
    idleTimeoutMs = 30_000,
    keepAliveIntervalMs = KEEP_ALIVE_MS,
  } = options;
  checkProtocols(protocols, "dial QUIC");
  checkHashes(serverCertificateHashes, "dial QUIC");
  const limits = {
    maxBidirectionalStreams,
    maxUnidirectionalStreams,
    idleTimeoutMs,
    keepAliveIntervalMs,
  };
  for (const [name, value] of Object.entries(limits)) {
    if (Number.isInteger(value) && value > 0) continue;
    throw new RangeError(
      `Cannot dial QUIC: ${name} must be a positive integer, received ${value}`,
    );
  }
  return {
    alpnProtocols: [...protocols],
    maxIdleTimeout: idleTimeoutMs,
    keepAliveInterval: keepAliveIntervalMs,
    maxConcurrentBidirectionalStreams: maxBidirectionalStreams,
    maxConcurrentUnidirectionalStreams: maxUnidirectionalStreams,
    ...(serverCertificateHashes === undefined
      ? {}
      : { serverCertificateHashes: [...serverCertificateHashes] }),
  };
}
