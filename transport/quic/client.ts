/** The client side of raw QUIC. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, POSITIVE, RUNTIME, TIME } from "../../base/options/option_checks.ts";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import { requireQuic } from "./deno_quic.ts";
import { dialFailure } from "../deno_errors.ts";
import { type QuicConnection, RawQuicConnection } from "./connection.ts";
import { QuicDial, type QuicDialOptions } from "./dial.ts";
import { checkProtocols, DIAL_KEEP_ALIVE_MS, quicTarget } from "./options.ts";
import { publicUrl } from "../url.ts";
import { type CertificateHash, checkHashes } from "../webtransport.ts";
import { within } from "../../base/wait.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";

/** The options for {@linkcode dialQuic}. */
export interface DialQuicOptions {
  /** The protocols to offer in the handshake (ALPN), in order of preference. */
  readonly protocols: readonly string[];
  /**
   * The hashes of certificates to trust without a certificate authority. Use them for short-lived
   * certificates during development.
   */
  readonly serverCertificateHashes?: readonly CertificateHash[] | undefined;
  /**
   * The maximum number of bidirectional streams that the server can have open.
   *
   * @default {128}
   */
  readonly maxBidirectionalStreams?: number | undefined;
  /**
   * The maximum number of unidirectional streams that the server can have open. Each stream can
   * hold up to 1.25 MB of unread data.
   *
   * @default {1024}
   */
  readonly maxUnidirectionalStreams?: number | undefined;
  /**
   * How long the connection can be silent before it counts as lost, in milliseconds. If the
   * server's idle timeout is shorter, it applies instead.
   *
   * If the server vanishes, the loss is noticed within this time plus `keepAliveIntervalMs`.
   *
   * @default {30000}
   */
  readonly idleTimeoutMs?: number | undefined;
  /**
   * The interval between keep-alive packets on a silent connection, in milliseconds. A Skein server
   * sends such packets every 3 s.
   *
   * @default {10000}
   */
  readonly keepAliveIntervalMs?: number | undefined;
  /** A signal that cancels the dial. It has no effect once the connection is open. */
  readonly signal?: AbortSignal | undefined;
  /**
   * The timeout of the dial, in milliseconds.
   *
   * @default {`idleTimeoutMs`}
   */
  readonly timeoutMs?: number | undefined;
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

const DIAL: OptionKinds<DialQuicOptions> = {
  idleTimeoutMs: POSITIVE,
  keepAliveIntervalMs: POSITIVE,
  maxBidirectionalStreams: POSITIVE,
  maxUnidirectionalStreams: POSITIVE,
  protocols: "array",
  runtime: RUNTIME,
  serverCertificateHashes: "array",
  signal: "AbortSignal",
  timeoutMs: TIME,
};

/**
 * Dials a QUIC connection whose streams all belong to the application.
 *
 * - **Addresses:** if a name has several addresses, attempts start 250 ms apart and alternate
 *   between IPv6 and IPv4 (RFC 8305). The first address that responds is used. The certificate is
 *   checked against the name. An error lists each address that was tried.
 *
 * @param url A URL of any scheme with a host, such as `moqt://example.com:4443/`. If it has no
 * port, the port is 443. The path and query are not sent; they are for the protocol on top.
 * @param options The protocols, certificates, limits and timeouts.
 * @returns The ready connection; `protocol` is the negotiated protocol.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag.
 * @throws {ConnectionError} If the server does not respond, its certificate is not trusted, or there
 * is no common protocol.
 * @throws {TimeoutError} If `timeoutMs` passes first.
 * @throws {TypeError} If the URL has no host, `protocols` is empty, or a hash is malformed.
 * @throws {RangeError} If a limit is not a positive integer.
 */
export async function dialQuic(
  url: string | URL,
  options: DialQuicOptions,
): Promise<QuicConnection> {
  checkOptions("dial QUIC", options, DIAL);
  requireQuic();
  const target = quicTarget(url);
  const connectOptions = optionsOf(options);
  const { signal, timeoutMs, runtime = platformRuntime() } = options;
  signal?.throwIfAborted();
  const dial = new QuicDial(runtime, { ...connectOptions, ...target });
  try {
    const conn = await within(runtime, dial.connect(), {
      late: "Cannot dial within",
      signal,
      timeoutMs,
    });
    return new RawQuicConnection(runtime, conn);
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
    keepAliveIntervalMs = DIAL_KEEP_ALIVE_MS,
  } = options;
  checkProtocols(protocols, "dial QUIC");
  checkHashes(serverCertificateHashes, "dial QUIC");
  return {
    alpnProtocols: [...protocols],
    maxIdleTimeout: idleTimeoutMs,
    keepAliveInterval: keepAliveIntervalMs,
    maxConcurrentBidirectionalStreams: maxBidirectionalStreams,
    maxConcurrentUnidirectionalStreams: maxUnidirectionalStreams,
    serverCertificateHashes: serverCertificateHashes && [...serverCertificateHashes],
  };
}
