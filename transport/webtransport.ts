/** Constants and options shared by both halves of WebTransport, and by both ways to dial. */

import type { FlowControlOptions } from "./connection.ts";
import type { Runtime } from "../base/runtime.ts";

/**
 * The subprotocol that a client offers in addition to `skein.1` if its token follows in band. No
 * server selects it.
 */
export const TOKEN_MARK = "skein.auth";

/**
 * Query parameter in place of {@linkcode TOKEN_MARK}, for a client that cannot offer subprotocols.
 */
export const TOKEN_MARK_QUERY = "auth=in-band";

/** The default time from the start of a dial to the server's response in Deno, in milliseconds. */
export const DIAL_TIMEOUT_MS = 10_000;

/** Hash of a certificate, in the form of the W3C's constructor. */
export interface CertificateHash {
  /** Always `sha-256`. */
  readonly algorithm: "sha-256";
  /** Hash of the certificate in DER, 32 bytes long. */
  readonly value: BufferSource;
}

/** The options for dialing WebTransport. */
export interface DialWebTransportOptions {
  /** The subprotocols to offer, in order of preference; none by default. */
  readonly protocols?: readonly string[] | undefined;
  /** Request headers, none by default; Deno only. */
  readonly headers?: HeadersInit | undefined;
  /** Certificates to trust without an authority: short-lived ones, for development. */
  readonly serverCertificateHashes?: readonly CertificateHash[] | undefined;
  /**
   * The amount that the server may send before the application reads, if the server uses flow
   * control too. Deno only: a browser has limits of its own.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * The unidirectional streams that the server may have open; each may hold up to 1.25 MB of unread
   * bytes. Deno only: a browser has a limit of its own. Servers of Media over QUIC open their
   * streams without waiting, and need 1024. Also the default of `flowControl.maxStreamsUni`.
   *
   * @default {128}
   */
  readonly maxUnidirectionalStreams?: number | undefined;
  /**
   * The bidirectional streams that the server may have open, with the same rules. Also the default
   * of `flowControl.maxStreamsBidi`.
   *
   * @default {128}
   */
  readonly maxBidirectionalStreams?: number | undefined;
  /**
   * The time of silence after which the connection counts as lost, in milliseconds. Deno only: a
   * browser has a timeout of its own. The server's timeout applies if it is shorter, such as 9 s on
   * a Skein server. If the server is silent for 10 s, or for a third of a timeout below 30 s, the
   * client sends a ping, which restarts the timeout once.
   *
   * @default {30000}
   */
  readonly idleTimeoutMs?: number | undefined;
  /**
   * Called once when the connection should be replaced, because its engine is about to stop
   * receiving: WebKit does not renew connection credit, and stops after some megabytes. MUST NOT
   * throw.
   */
  readonly onWorn?: (() => void) | undefined;
  /** Cancels dialing; without effect once connected. None by default. */
  readonly signal?: AbortSignal | undefined;
  /**
   * The timeout in milliseconds, from the start to the server's response. `Infinity` waits for as
   * long as the connection lives. In a browser, there is no timeout by default except the browser's
   * own.
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
 * Checks hashes of certificates before dialing.
 *
 * @throws {TypeError} If a hash is not 32 bytes of sha-256.
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
 * (`isSecureContext`), as W3C specifies. A class without either is not used: one such
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
