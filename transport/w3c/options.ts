/** The options of the W3C constructor, and their validation. */
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { type CertificateHash, DIAL_TIMEOUT_MS } from "../webtransport.ts";

/** The maximum length of a subprotocol, in characters. */
const MAX_PROTOCOL_LENGTH = 512;

/** The characters that are valid in a structured field string (RFC 9651 section 3.3.3). */
const PRINTABLE = /^[\x20-\x7e]+$/;

const HASH_BYTES = 32;

/** The largest hint for the number of streams that the server will open. */
const MAX_ANTICIPATED = 0xffff;

/**
 * Headers that are removed: they either describe an HTTP/1.1 connection (RFC 9114 section 4.2), or
 * are replaced by a pseudo-header.
 */
const CONNECTION_HEADERS = [
  "connection",
  "host",
  "keep-alive",
  "proxy-connection",
  "te",
  "transfer-encoding",
  "upgrade",
];

/** The goal of QUIC congestion control. */
export type WebTransportCongestionControl = "default" | "throughput" | "low-latency";

/** The hash of a certificate. Hashes with an algorithm other than SHA-256 are ignored. */
export interface WebTransportHash {
  /** The hash algorithm, `sha-256`. */
  readonly algorithm: string;
  /** The SHA-256 hash of the DER-encoded certificate, 32 bytes. */
  readonly value: BufferSource;
}

/** The options for {@linkcode WebTransport}. */
export interface WebTransportOptions {
  /**
   * Allows the session to share a connection with other sessions of the same origin.
   *
   * @default {false}
   */
  readonly allowPooling?: boolean | undefined;
  /**
   * Requires an unreliable transport. The option has no effect, because HTTP/3 is the only
   * transport.
   *
   * @default {false}
   */
  readonly requireUnreliable?: boolean | undefined;
  /**
   * The request headers; none by default. Headers that browsers forbid pages to set are allowed.
   */
  readonly headers?: HeadersInit | undefined;
  /**
   * The hashes of certificates to trust without a certificate authority. If this option is set, no
   * other certificate is trusted. Absent by default.
   */
  readonly serverCertificateHashes?: readonly WebTransportHash[] | undefined;
  /**
   * The goal of QUIC congestion control.
   *
   * @default {"default"}
   */
  readonly congestionControl?: WebTransportCongestionControl | undefined;
  /**
   * A hint that has no effect, because the server can always have 128 such streams open.
   *
   * @default {null}
   */
  readonly anticipatedConcurrentIncomingUnidirectionalStreams?: number | null | undefined;
  /**
   * A hint that has no effect, because the server can always have 128 such streams open.
   *
   * @default {null}
   */
  readonly anticipatedConcurrentIncomingBidirectionalStreams?: number | null | undefined;
  /** The subprotocols to offer, in order of preference; empty by default. */
  readonly protocols?: readonly string[] | undefined;
  /**
   * `"bytes"` turns the readable for datagrams into a byte stream, which supports BYOB readers. By
   * default, it is a plain stream.
   */
  readonly datagramsReadableType?: "bytes" | undefined;
  /**
   * The timeout for the server's response in milliseconds, measured from the constructor call. If
   * it expires, `ready` and `closed` reject. With `Infinity`, the session waits as long as the
   * connection is open. Browsers do not have this option.
   *
   * @default {10000}
   */
  readonly timeoutMs?: number | undefined;
}

/**
 * The key of an option that is not part of the public dictionary. Its value is the session's
 * {@linkcode Runtime}.
 */
export const RUNTIME: unique symbol = Symbol("runtime");

/** The default runtime. All sessions that use it share one pool of connections. */
const PLATFORM: Runtime = platformRuntime();

export interface CheckedOptions {
  readonly runtime: Runtime;
  readonly url: URL;
  /** Allows the session to share a connection with other sessions of the same origin. */
  readonly allowPooling: boolean;
  readonly headers: Headers;
  /** The hashes that can match a certificate; `undefined` if the option was absent. */
  readonly serverCertificateHashes: readonly CertificateHash[] | undefined;
  /** The goal of QUIC congestion control. */
  readonly congestionControl: WebTransportCongestionControl;
  readonly protocols: readonly string[];
  /** `"bytes"` if the readable for datagrams is a byte stream. */
  readonly datagramsReadableType: "bytes" | undefined;
  /** The timeout for the server's response, in milliseconds. */
  readonly timeoutMs: number;
  /** The reason why no certificate can be trusted; `undefined` if some certificate can be. */
  readonly distrust: string | undefined;
}

/**
 * Validates the arguments of the constructor.
 *
 * @throws {DOMException} `SyntaxError` if the URL or a subprotocol is invalid, `NotSupportedError`
 * if certificate hashes are combined with pooling.
 * @throws {TypeError} If an option has an invalid type.
 */
export function checkOptions(url: string | URL, options: WebTransportOptions): CheckedOptions {
  const target = checkUrl(url);
  const { allowPooling = false, congestionControl = "default", datagramsReadableType } = options;
  const { usable: serverCertificateHashes, distrust } = checkHashes(
    options.serverCertificateHashes ?? [],
  );
  if (allowPooling && serverCertificateHashes !== undefined) {
    throw new DOMException(
      "Cannot create WebTransport: a shared connection cannot use certificate hashes",
      "NotSupportedError",
    );
  }
  if (!["default", "throughput", "low-latency"].includes(congestionControl)) {
    throw new TypeError(
      "Cannot create WebTransport: congestionControl must be default, throughput or low-latency, " +
        `received "${congestionControl}"`,
    );
  }
  if (datagramsReadableType !== undefined && datagramsReadableType !== "bytes") {
    throw new TypeError(
      `Cannot create WebTransport: datagramsReadableType must be bytes, received "${datagramsReadableType}"`,
    );
  }
  return {
    runtime: (options as { readonly [RUNTIME]?: Runtime })[RUNTIME] ?? PLATFORM,
    url: target,
    allowPooling: Boolean(allowPooling),
    headers: checkHeaders(options.headers),
    serverCertificateHashes,
    congestionControl,
    protocols: checkProtocols(options.protocols ?? []),
    datagramsReadableType,
    timeoutMs: checkTimeout(options.timeoutMs),
    distrust,
  };
}

/**
 * Validates a hint for the number of streams that the server will open.
 *
 * @returns The integer part of the hint, or `null`.
 * @throws {TypeError} If the value does not fit into 16 bits.
 */
export function checkAnticipated(hint: number | null | undefined): number | null {
  if (hint === null || hint === undefined) return null;
  const whole = Math.trunc(Number(hint));
  if (whole >= 0 && whole <= MAX_ANTICIPATED) return whole;
  throw new TypeError(
    `Cannot anticipate streams: their number must be from 0 to ${MAX_ANTICIPATED}, received ${hint}`,
  );
}

/**
 * Reads a Web IDL `BufferSource`. Shared memory is not accepted, because other threads could change
 * the bytes.
 *
 * @returns A view of the bytes; `undefined` for any other value.
 */
export function viewOf(chunk: unknown): Uint8Array<ArrayBuffer> | undefined {
  if (chunk instanceof ArrayBuffer) return new Uint8Array(chunk);
  if (!ArrayBuffer.isView(chunk) || !(chunk.buffer instanceof ArrayBuffer)) return undefined;
  return new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
}

function checkUrl(url: string | URL): URL {
  const parsed = URL.parse(String(url));
  const fault = parsed === null
    ? "must be absolute and valid"
    : parsed.protocol !== "https:"
    ? "must be https:"
    : parsed.href.includes("#")
    ? "must not have a fragment"
    : undefined;
  if (parsed !== null && fault === undefined) return parsed;
  throw new DOMException(
    `Cannot create WebTransport: the URL ${fault}, received "${url}"`,
    "SyntaxError",
  );
}

function checkTimeout(timeoutMs: number = DIAL_TIMEOUT_MS): number {
  if (timeoutMs >= 0) return timeoutMs;
  throw new TypeError(
    `Cannot create WebTransport: timeoutMs must be 0 or more, received ${timeoutMs}`,
  );
}

/**
 * Selects the hashes that can match a certificate. According to the W3C specification, an unusable
 * hash is not an error; it simply matches no certificate. If there is no usable hash, no
 * certificate can be trusted, and `distrust` contains the reason.
 */
function checkHashes(
  hashes: readonly WebTransportHash[],
): Pick<CheckedOptions, "distrust"> & { readonly usable: readonly CertificateHash[] | undefined } {
  const usable: CertificateHash[] = [];
  let distrust = "no certificate hash has the algorithm sha-256";
  let count = 0;
  for (const { algorithm, value } of hashes) {
    count++;
    const bytes = viewOf(value);
    if (algorithm === undefined || bytes === undefined) {
      throw new TypeError(
        "Cannot create WebTransport: a certificate hash must have an algorithm and bytes, " +
          `received ${typeof value} of ${algorithm}`,
      );
    }
    if (String(algorithm).toLowerCase() !== "sha-256") continue;
    if (bytes.byteLength === HASH_BYTES) {
      usable.push({ algorithm: "sha-256", value: bytes.slice() });
    } else {
      distrust =
        `a certificate hash of sha-256 must be ${HASH_BYTES} bytes, received ${bytes.byteLength}`;
    }
  }
  if (count === 0) return { usable: undefined, distrust: undefined };
  return { usable, distrust: usable.length === 0 ? distrust : undefined };
}

function checkProtocols(protocols: readonly string[]): readonly string[] {
  const checked = Array.from(protocols, String);
  const isValid = (protocol: string) =>
    PRINTABLE.test(protocol) && protocol.length <= MAX_PROTOCOL_LENGTH;
  if (checked.every(isValid) && new Set(checked).size === checked.length) return checked;
  throw new DOMException(
    `Cannot create WebTransport: protocols must differ, and be 1 to ${MAX_PROTOCOL_LENGTH} ` +
      `characters of printable ASCII, received ${JSON.stringify(checked)}`,
    "SyntaxError",
  );
}

function checkHeaders(init: HeadersInit = {}): Headers {
  const headers = new Headers(init);
  if (headers.has("wt-available-protocols")) {
    throw new TypeError(
      "Cannot create WebTransport: the option protocols sets the header wt-available-protocols",
    );
  }
  for (const name of CONNECTION_HEADERS) headers.delete(name);
  return headers;
}
