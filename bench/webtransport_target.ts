/**
 * Finds the measured WebTransport server, and the hash of its certificate.
 *
 * @module
 */
import type { CertificateHash } from "../transport/webtransport.ts";
import { dialWebTransport } from "../transport/h3/client.ts";
import { UdpPath } from "../tests/networks/udp_path.ts";
import { sleep } from "./meter.ts";

/** Timeout of a server's start, in milliseconds. */
const START_MS = 20_000;

/** Timeout of a connection attempt, in milliseconds. */
const ATTEMPT_MS = 1_000;

/** A server. */
export interface Target {
  /** URL of the server. */
  readonly url: string;
  /** Options for dialing. */
  readonly serverCertificateHashes: readonly CertificateHash[];
}

/** Options for {@linkcode findTarget}. */
export interface FindTargetOptions {
  /** Path of the URL. */
  readonly path: string;
  /**
   * SHA-256 of the certificate in hexadecimal; by default it is fetched from the development
   * server.
   */
  readonly hash?: string | undefined;
  /**
   * Additional round-trip time of packets, in milliseconds.
   *
   * @default {0}
   */
  readonly roundTripMs?: number;
}

/**
 * Finds a server on this machine, and waits until it accepts a session.
 *
 * @param port The port of the server.
 * @param options See {@linkcode FindTargetOptions}.
 * @returns The server.
 * @throws {Error} If the server accepts no session in time; `cause` is the error of the last
 * attempt.
 */
export async function findTarget(port: number, options: FindTargetOptions): Promise<Target> {
  const { path, hash, roundTripMs = 0 } = options;
  const dialed = roundTripMs === 0 ? port : new UdpPath(port, roundTripMs / 2).port;
  const url = `https://127.0.0.1:${dialed}${path}`;
  const end = performance.now() + START_MS;
  while (true) {
    try {
      const value = hash === undefined ? await askedHash(port) : Uint8Array.fromHex(hash);
      const target = { url, serverCertificateHashes: [{ algorithm: "sha-256" as const, value }] };
      const { serverCertificateHashes } = target;
      // Skein opens a raw session for a request without a subprotocol, which is enough here.
      (await dialWebTransport(url, { serverCertificateHashes, timeoutMs: ATTEMPT_MS })).close();
      return target;
    } catch (cause) {
      if (performance.now() > end) throw new Error(`Cannot connect to ${url}`, { cause });
      await sleep(50);
    }
  }
}

/** Fetches the hash from a development server, which replies to programs on the same machine. */
async function askedHash(port: number): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(`http://127.0.0.1:${port}/.well-known/skein/webtransport`);
  const { serverCertificateHashes } = await response.json();
  return Uint8Array.fromBase64(serverCertificateHashes[0].value);
}
