/**
 * What both halves of WebTransport, and both ways to dial it, have in common.
 *
 * @module
 */

import type { FlowControlOptions } from "./connection.ts";

/** Offered beside `skein.1` by a client whose token follows in band; no server ever chooses it. */
export const TOKEN_MARK = "skein.auth";

/** Stands for {@linkcode TOKEN_MARK} in the query of a client that cannot offer subprotocols. */
export const TOKEN_MARK_QUERY = "auth=in-band";

/** Time from the start of a dial to the server's answer in Deno, unless said otherwise. */
export const DIAL_TIMEOUT_MS = 10_000;

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
  /**
   * Unidirectional streams that the server may have open, each of which may hold up to 1.25 MB that
   * nobody reads; Deno only, since a browser has its own limit. Servers of Media over QUIC open theirs
   * without waiting, and need 1024. It is the default of `flowControl.maxStreamsUni` too.
   *
   * @default {128}
   */
  readonly maxUnidirectionalStreams?: number;
  /**
   * The same for bidirectional streams, and `flowControl.maxStreamsBidi`.
   *
   * @default {128}
   */
  readonly maxBidirectionalStreams?: number;
  /**
   * How long the connection may be silent before it is given up, in milliseconds; Deno only, since a
   * browser has its own time. The server's time counts if it is less. A server that is silent is asked
   * for a sign of life every 5 s, and three times in between where this is below 15 s; one that
   * vanished is noticed that much later than this.
   *
   * @default {30000}
   */
  readonly idleTimeoutMs?: number;
  /**
   * Called once when the connection should be replaced, since its engine is about to take no more:
   * WebKit gives no connection credit back, and stops after some megabytes. MUST NOT throw.
   */
  readonly onWorn?: () => void;
  /** Gives up dialing; once connected it does nothing. None by default. */
  readonly signal?: AbortSignal;
  /**
   * Gives up after this many milliseconds, from the start to the server's answer. `Infinity` waits for
   * as long as the connection lives. A browser has no deadline of its own choice by default.
   *
   * @default {10000}
   */
  readonly timeoutMs?: number;
}

/**
 * Checks hashes of certificates before anything is dialed.
 *
 * @param hashes What was given.
 * @param verb What it was for.
 * @throws {TypeError} If one is not 32 bytes of sha-256.
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
