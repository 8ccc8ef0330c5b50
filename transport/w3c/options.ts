/**
 * What the W3C's constructor takes, and its rules.
 *
 * @module
 */
import { type CertificateHash, DIAL_TIMEOUT_MS } from "../webtransport.ts";

/** Longest subprotocol, in characters. */
const MAX_PROTOCOL_LENGTH = 512;

/** What a structured field's string may hold, RFC 9651 section 3.3.3. */
const PRINTABLE = /^[\x20-\x7e]+$/;

/** Length of a hash of SHA-256. */
const HASH_BYTES = 32;

/** The largest hint of how many streams the server will open. */
const MAX_ANTICIPATED = 0xffff;

/** Belong to one connection of HTTP/1.1 (RFC 9114 section 4.2), or are said by a pseudo-header. */
const CONNECTION_HEADERS = [
  "connection",
  "host",
  "keep-alive",
  "proxy-connection",
  "te",
  "transfer-encoding",
  "upgrade",
];

/** For which of the two QUIC is to control congestion, or for neither. */
export type WebTransportCongestionControl = "default" | "throughput" | "low-latency";

/** A certificate by its hash; one with another algorithm is ignored. */
export interface WebTransportHash {
  /** `sha-256`. */
  readonly algorithm: string;
  /** The hash of the certificate in DER: 32 bytes. */
  readonly value: BufferSource;
}

/** Options for {@linkcode WebTransport}. */
export interface WebTransportOptions {
  /**
   * Whether the session may share its connection with other sessions of the same origin.
   *
   * @default {false}
   */
  readonly allowPooling?: boolean;
  /**
   * Whether nothing but HTTP/3 will do; there is nothing but HTTP/3.
   *
   * @default {false}
   */
  readonly requireUnreliable?: boolean;
  /** Request headers, none by default; also those that a browser would not let a page set. */
  readonly headers?: HeadersInit;
  /** Certificates that are trusted without an authority, and nothing else then; none by default. */
  readonly serverCertificateHashes?: readonly WebTransportHash[];
  /**
   * For which of the two QUIC is to control congestion, or for neither.
   *
   * @default {"default"}
   */
  readonly congestionControl?: WebTransportCongestionControl;
  /**
   * A hint that changes nothing: the server may have 128 such streams open in any case.
   *
   * @default {null}
   */
  readonly anticipatedConcurrentIncomingUnidirectionalStreams?: number | null;
  /**
   * A hint that changes nothing: the server may have 128 such streams open in any case.
   *
   * @default {null}
   */
  readonly anticipatedConcurrentIncomingBidirectionalStreams?: number | null;
  /** Subprotocols to offer, the best first; none by default. */
  readonly protocols?: readonly string[];
  /** `bytes` for datagrams that can be read with a BYOB reader; not so by default. */
  readonly datagramsReadableType?: "bytes";
  /**
   * Deadline for the server's answer from the constructor on, in milliseconds: past it `ready` and
   * `closed` reject. `Infinity` waits for as long as the connection lives. Browsers have no such option.
   *
   * @default {10000}
   */
  readonly timeoutMs?: number;
}

/** Options that kept the rules. */
export interface CheckedOptions {
  /** Where to. */
  readonly url: URL;
  /** See {@linkcode WebTransportOptions.allowPooling}. */
  readonly allowPooling: boolean;
  /** What is sent of the headers. */
  readonly headers: Headers;
  /** Those that can match a certificate; `undefined` if none were asked for. */
  readonly serverCertificateHashes: readonly CertificateHash[] | undefined;
  /** See {@linkcode WebTransportOptions.congestionControl}. */
  readonly congestionControl: WebTransportCongestionControl;
  /** See {@linkcode WebTransportOptions.protocols}. */
  readonly protocols: readonly string[];
  /** See {@linkcode WebTransportOptions.datagramsReadableType}. */
  readonly datagramsReadableType: "bytes" | undefined;
  /** See {@linkcode WebTransportOptions.timeoutMs}. */
  readonly timeoutMs: number;
  /** The reason why no certificate can be trusted; `undefined` if one can be. */
  readonly distrust: string | undefined;
}

/**
 * Checks what the constructor was given.
 *
 * @param url As it was given.
 * @param options As they were given.
 * @returns What to dial.
 * @throws {DOMException} `SyntaxError` for the URL and the subprotocols, `NotSupportedError` for hashes with pooling.
 * @throws {TypeError} For what is of the wrong type.
 */
export function checkOptions(url: string | URL, options: WebTransportOptions): CheckedOptions {
  const target = checkUrl(url);
  const { allowPooling = false, congestionControl = "default", datagramsReadableType } = options;
  const { usable: serverCertificateHashes, distrust } = checkHashes(
    options.serverCertificateHashes ?? [],
  );
  if (allowPooling && serverCertificateHashes !== undefined) {
    throw new DOMException(
      "Cannot create WebTransport: a shared connection takes no certificate hashes",
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
 * Checks a hint of how many streams the server will open.
 *
 * @param hint The hint.
 * @returns The same, without a fraction.
 * @throws {TypeError} If it does not fit 16 bits.
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
 * Web IDL's `BufferSource`: bytes that nobody else can change meanwhile.
 *
 * @param chunk What was given.
 * @returns A view of the bytes; `undefined` if it is anything else.
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
    ? "must have no fragment"
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
    `Cannot create WebTransport: timeoutMs must be a number from 0, received ${timeoutMs}`,
  );
}

/**
 * Sorts out the hashes that can match a certificate. To the W3C the others are no error: they match
 * none. Where that leaves no hash, no certificate can be trusted, and the reason tells.
 */
function checkHashes(
  hashes: readonly WebTransportHash[],
): Pick<CheckedOptions, "distrust"> & { readonly usable: readonly CertificateHash[] | undefined } {
  const usable: CertificateHash[] = [];
  let distrust = "a certificate hash must be of the algorithm sha-256, received none of it";
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
