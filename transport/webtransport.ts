/**
 * The constants and options shared by the client and server of WebTransport, and by both
 * implementations that dial.
 */

import type { FlowControlOptions } from "./connection.ts";
import type { Runtime } from "../base/runtime.ts";

/**
 * The subprotocol that a client offers in addition to `skein.1` if it will send its token in band.
 * No server selects this subprotocol.
 */
export const TOKEN_MARK = "skein.auth";

/**
 * The query parameter that replaces {@linkcode TOKEN_MARK} for a client that cannot offer
 * subprotocols.
 */
export const TOKEN_MARK_QUERY = "auth=in-band";

/**
 * The default timeout from the start of dialing to the server's response in Deno, in milliseconds.
 */
export const DIAL_TIMEOUT_MS = 10_000;

/** The hash of a certificate, as the W3C constructor accepts it. */
export interface CertificateHash {
  /** Always `sha-256`. */
  readonly algorithm: "sha-256";
  /** The hash of the certificate in DER, 32 bytes long. */
  readonly value: BufferSource;
}

/** The options for dialing WebTransport. */
export interface DialWebTransportOptions {
  /** The subprotocols to offer, in order of preference; none by default. */
  readonly protocols?: readonly string[] | undefined;
  /** The request headers; none by default. Only Deno supports this. */
  readonly headers?: HeadersInit | undefined;
  /**
   * The hashes of certificates to trust without an authority, such as short-lived ones for
   * development.
   */
  readonly serverCertificateHashes?: readonly CertificateHash[] | undefined;
  /**
   * The amount that the server may send before the application reads, if the server also uses flow
   * control. This applies only to Deno, because a browser has its own limits.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * The number of unidirectional streams that the server may have open. Each may hold up to 1.25 MB
   * of unread bytes. The option applies only in Deno, because a browser has its own limit. Media
   * over QUIC servers open their streams without waiting, and need 1024. The value is also the
   * default of `flowControl.maxStreamsUni`.
   *
   * @default {128}
   */
  readonly maxUnidirectionalStreams?: number | undefined;
  /**
   * The number of bidirectional streams that the server may have open, under the same rules. This
   * is also the default of `flowControl.maxStreamsBidi`.
   *
   * @default {128}
   */
  readonly maxBidirectionalStreams?: number | undefined;
  /**
   * The time of silence after which the connection counts as lost, in milliseconds. The option
   * applies only in Deno, because a browser has its own timeout. If the server's timeout is
   * shorter, it applies instead; that of a Skein server is 9 s. If the server is silent for 10 s,
   * or for a third of a timeout below 30 s, the client sends a ping, which restarts the timeout
   * once.
   *
   * @default {30000}
   */
  readonly idleTimeoutMs?: number | undefined;
  /**
   * Called once when the connection should be replaced because its engine is about to stop
   * receiving. WebKit does not renew the connection's credit, so it stops receiving after some
   * megabytes. The callback MUST NOT throw.
   */
  readonly onWorn?: (() => void) | undefined;
  /** Cancels dialing. It has no effect once the connection is open. There is none by default. */
  readonly signal?: AbortSignal | undefined;
  /**
   * The timeout from the start to the server's response, in milliseconds. `Infinity` waits as long
   * as the connection is open. In a browser, only the browser's own timeout applies by default.
   *
   * @default {10000}
   */
  readonly timeoutMs?: number | undefined;
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

/**
 * Checks the hashes of certificates before dialing.
 *
 * @throws {TypeError} If a hash is not a SHA-256 hash of 32 bytes.
 */
export function checkHashes(hashes: readonly CertificateHash[] | undefined, verb: string): void {
  for (const { algorithm, value } of hashes ?? []) {
    const isBytes = value instanceof ArrayBuffer || ArrayBuffer.isView(value);
    if (algorithm === "sha-256" && isBytes && value.byteLength === 32) continue;
    throw new TypeError(
      `Cannot ${verb}: a certificate hash must be 32 bytes of sha-256, received ` +
        `${isBytes ? `${value.byteLength} bytes` : typeof value} of ${algorithm}`,
    );
  }
}

/**
 * Checks whether the platform has a `WebTransport` that can carry a session.
 *
 * The platform's class must report the negotiated protocol (`protocol`), or belong to a page
 * (`isSecureContext`), as W3C specifies. A class that does neither is not used, because one such
 * implementation never reports the server's close, and stalls after its first hundred streams.
 *
 * @returns `true` if `dialNativeWebTransport` can be used.
 */
export function isNativeWebTransportAvailable(): boolean {
  const { isSecureContext, WebTransport } = globalThis as {
    readonly isSecureContext?: boolean;
    readonly WebTransport?: { readonly prototype: object };
  };
  if (WebTransport === undefined) return false;
  const { prototype } = WebTransport;
  return "protocol" in prototype || isSecureContext === true && "ready" in prototype;
}
