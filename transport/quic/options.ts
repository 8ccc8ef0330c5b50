/** Checks the options of both sides of raw QUIC before they dial or bind. */

/**
 * The server's default for how long a connection can be silent before it counts as lost, in
 * milliseconds. A client uses the shorter timeout of both sides, so it notices a dead server within
 * this time.
 */
export const IDLE_TIMEOUT_MS = 9_000;

/**
 * The server's default interval between keep-alive packets, in milliseconds. Three intervals fit
 * into the idle timeout, so a connection survives a lost packet, and also a server that stalls for
 * 5 s. Each interval costs one packet in each direction, 2,400 packets per hour in total.
 */
export const KEEP_ALIVE_MS = 3_000;

/**
 * The client's default interval between keep-alive packets, in milliseconds, for servers that send
 * none. The interval is longer than {@linkcode IDLE_TIMEOUT_MS}, because the first unanswered
 * packet restarts the idle timer (RFC 9000 section 10.1). With a Skein server, the client therefore
 * sends no such packets, and notices that the server is dead 9 s after its last packet.
 */
export const DIAL_KEEP_ALIVE_MS = 10_000;

/** The maximum length of a protocol name, in bytes (RFC 7301 section 3.1). */
const MAX_PROTOCOL_BYTES = 255;

/**
 * Checks the protocols to offer or support in the handshake.
 *
 * @throws {TypeError} If the list is empty, or if a protocol is not a string of 1 to 255 bytes.
 */
export function checkProtocols(protocols: unknown, verb: string): void {
  if (!Array.isArray(protocols) || protocols.length === 0) {
    throw new TypeError(
      `Cannot ${verb}: protocols must be a non-empty array, received ${
        Array.isArray(protocols) ? "an empty array" : typeof protocols
      }`,
    );
  }
  for (const protocol of protocols) {
    const length = typeof protocol === "string" ? new TextEncoder().encode(protocol).length : 0;
    if (length > 0 && length <= MAX_PROTOCOL_BYTES) continue;
    throw new TypeError(
      `Cannot ${verb}: a protocol must be a string of 1 to ${MAX_PROTOCOL_BYTES} bytes, received ${
        typeof protocol === "string" ? `${length} bytes` : typeof protocol
      }`,
    );
  }
}

/**
 * Checks limits.
 *
 * @param limits The limits by name. `undefined` stands for the default.
 * @throws {RangeError} If a limit is not a positive integer.
 */
export function checkPositive(
  verb: string,
  limits: Readonly<Record<string, number | undefined>>,
): void {
  for (const [name, value] of Object.entries(limits)) {
    if (value === undefined || Number.isInteger(value) && value > 0) continue;
    throw new RangeError(`Cannot ${verb}: ${name} must be a positive integer, received ${value}`);
  }
}

export interface QuicTarget {
  /** The name, or the address without brackets. */
  readonly hostname: string;
  readonly port: number;
}

/**
 * The default port for schemes whose default port the URL parser does not know.
 */
const DEFAULT_PORT = 443;

/** The schemes with a different default port, which the URL parser omits. */
const OTHER_SCHEMES = ["http:", "ws:", "ftp:", "file:"];

/**
 * Reads the server from a URL. Any scheme is valid, such as `moqt:` or `https:`. If the URL has no
 * port, the port is 443. The path and query are for the protocol on top.
 *
 * @throws {TypeError} If the URL is invalid, has no host, or has a scheme of another protocol.
 */
export function quicTarget(url: string | URL): QuicTarget {
  const { protocol, hostname, port } = new URL(url);
  if (hostname === "" || OTHER_SCHEMES.includes(protocol)) {
    throw new TypeError(
      `Cannot dial QUIC: the URL must have a host, and no TCP scheme, received "${url}"`,
    );
  }
  return {
    hostname: hostname.replace(/^\[|\]$/g, ""),
    port: port === "" ? DEFAULT_PORT : Number(port),
  };
}
