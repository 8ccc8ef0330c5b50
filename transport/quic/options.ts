/**
 * What both ends of raw QUIC are told, checked before anything is dialed or bound.
 *
 * @module
 */

/**
 * How often each end asks a silent connection for a sign of life, in milliseconds. A network that
 * vanished is noticed within this and the idle time, since the first unanswered packet begins that
 * anew (RFC 9000 section 10.1): both ends have the same, so that both notice as soon.
 */
export const KEEP_ALIVE_MS = 5_000;

/** The longest name of a protocol, in bytes (RFC 7301 section 3.1). */
const MAX_PROTOCOL_BYTES = 255;

/**
 * Checks protocols of the handshake.
 *
 * @param protocols What was given.
 * @param verb What it was for.
 * @throws {TypeError} If there is none, or one is not a text of 1 to 255 bytes.
 */
export function checkProtocols(protocols: unknown, verb: string): void {
  if (!Array.isArray(protocols) || protocols.length === 0) {
    throw new TypeError(
      `Cannot ${verb}: protocols must be a list of at least one, received ${
        Array.isArray(protocols) ? "an empty one" : typeof protocols
      }`,
    );
  }
  for (const protocol of protocols) {
    const length = typeof protocol === "string" ? new TextEncoder().encode(protocol).length : 0;
    if (length > 0 && length <= MAX_PROTOCOL_BYTES) continue;
    throw new TypeError(
      `Cannot ${verb}: a protocol must be a text of 1 to ${MAX_PROTOCOL_BYTES} bytes, received ${
        typeof protocol === "string" ? `one of ${length}` : typeof protocol
      }`,
    );
  }
}

/** Where to dial. */
export interface QuicTarget {
  /** A name, or an address without brackets. */
  readonly hostname: string;
  /** The UDP port. */
  readonly port: number;
}

/** What URLs without a port mean by the schemes whose default port a URL does not show. */
const DEFAULT_PORT = 443;

/** Schemes whose default port, which a URL leaves out, is another one. */
const OTHER_SCHEMES = ["http:", "ws:", "ftp:", "file:"];

/**
 * Finds the server in a URL. Any scheme will do, such as `moqt:` or `https:`, where the port is 443
 * unless the URL names another; path and query are for the protocol on top.
 *
 * @param url The URL.
 * @returns Host and port.
 * @throws {TypeError} If it is no URL, has no host, or is of a scheme for something else.
 */
export function quicTarget(url: string | URL): QuicTarget {
  const { protocol, hostname, port } = new URL(url);
  if (hostname === "" || OTHER_SCHEMES.includes(protocol)) {
    throw new TypeError(
      `Cannot dial QUIC: the URL must have a host, and no scheme of TCP, received "${url}"`,
    );
  }
  return {
    hostname: hostname.replace(/^\[|\]$/g, ""),
    port: port === "" ? DEFAULT_PORT : Number(port),
  };
}
