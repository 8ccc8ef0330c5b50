/**
 * What both halves of WebTransport, and both ways to dial it, have in common.
 *
 * @module
 */

import type { FlowControlOptions } from "./connection.ts";

/** A certificate by its hash, as the W3C's constructor takes it. */
export interface CertificateHash {
  /** Always `sha-256`. */
  readonly algorithm: "sha-256";
  /** The hash of the certificate in DER: 32 bytes. */
  readonly value: BufferSource;
}

/** Options for dialing WebTransport. */
export interface DialWebTransportOptions {
  /** Subprotocols to offer, the best first; none by default. */
  readonly protocols?: readonly string[];
  /** Request headers, none by default; Deno only. */
  readonly headers?: HeadersInit;
  /** Certificates that are trusted without an authority: short-lived ones, for development. */
  readonly serverCertificateHashes?: readonly CertificateHash[];
  /**
   * How much the server may send ahead of who reads, where it counts too; Deno only, since a browser
   * has its own limits.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /** Gives up dialing; once connected it does nothing. None by default. */
  readonly signal?: AbortSignal;
  /** Gives up after this many milliseconds; the transport's own time by default. */
  readonly timeoutMs?: number;
}
