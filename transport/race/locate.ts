/**
 * Where the WebTransport of a server is.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import type { CertificateHash } from "../webtransport.ts";

/** Where a server on this machine says where its WebTransport is. */
const WELL_KNOWN = "/.well-known/skein/webtransport";

/** How long a server on this machine may take to say so, in milliseconds. */
const WELL_KNOWN_MS = 1_000;

const LOOPBACK = /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/;

/** Where to dial, and whom to trust there. */
export interface WebTransportPlace {
  /** The URL, of `https:`. */
  readonly url: URL;
  /** Certificates that are trusted without an authority. */
  readonly hashes: readonly CertificateHash[] | undefined;
}

/** What the well-known URL answers. */
interface Answer {
  readonly port: number;
  readonly hostname?: string;
  readonly serverCertificateHashes: readonly { readonly value: string }[];
}

/** Options for {@linkcode locateWebTransport}. */
export interface LocateOptions {
  /** The hashes that the application gave. */
  readonly hashes?: readonly CertificateHash[] | undefined;
  /** Gives up. */
  readonly signal?: AbortSignal | undefined;
  /** Asks the server; the global `fetch` by default. */
  readonly fetch?: typeof fetch;
}

/**
 * Finds the WebTransport of a server.
 *
 * A URL of `wss:` or `https:` has it at the same host and port. One of `ws:` or `http:` has it if
 * hashes of certificates are given, or if the server is on this machine and says so at
 * `/.well-known/skein/webtransport`.
 *
 * @param url Where the application wants to go: `ws:`, `wss:`, `http:` or `https:`.
 * @param options See {@linkcode LocateOptions}.
 * @returns Where to dial.
 * @throws {UnsupportedError} If there is none.
 */
export async function locateWebTransport(
  url: URL,
  options: LocateOptions = {},
): Promise<WebTransportPlace> {
  const { hashes, signal, fetch = globalThis.fetch } = options;
  const isPlain = /^(ws|http):$/.test(url.protocol);
  const place = new URL(url);
  place.protocol = "https:";
  // The default port of one is not that of the other.
  if (isPlain) place.port = url.port || "80";
  if (hashes || !isPlain) return { url: place, hashes };
  if (!LOOPBACK.test(url.hostname)) {
    throw new UnsupportedError("Cannot open WebTransport: the URL is one of plain HTTP");
  }
  const asked = new URL(WELL_KNOWN, url);
  asked.protocol = "http:";
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), WELL_KNOWN_MS);
  try {
    const response = await fetch(asked, {
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
    });
    // What is none of it, such as a page that says 404, fails one way or the other.
    const { port, hostname = url.hostname, serverCertificateHashes }: Answer = await response
      .json();
    if (!response.ok || !Number.isInteger(port) || !LOOPBACK.test(hostname)) {
      throw new Error(`${WELL_KNOWN} answered ${response.status}`);
    }
    place.port = String(port);
    place.hostname = hostname;
    return {
      url: place,
      hashes: serverCertificateHashes.map(({ value }) => ({
        algorithm: "sha-256",
        value: Uint8Array.from(atob(value), (character) => character.charCodeAt(0)),
      })),
    };
  } catch (cause) {
    throw new UnsupportedError("Cannot open WebTransport: the server does not offer it", { cause });
  } finally {
    clearTimeout(timer);
    // Lets go of an answer that nobody reads.
    late.abort();
  }
}
