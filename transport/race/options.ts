/** The options and interfaces of the race between two transports, and the check of the options. */
import type { Runtime } from "../../base/runtime.ts";
import type { Connection, FlowControlOptions } from "../connection.ts";
import type { CertificateHash, DialWebTransportOptions } from "../webtransport.ts";
import type { DialWebSocketOptions } from "../websocket/connection.ts";

/** A transport that a client can use. */
export type TransportName = "webtransport" | "websocket" | "http";

/** The options for the transports of a client. */
export interface TransportOptions {
  /**
   * The transports to try, in order of preference. WebTransport and WebSocket race, and the first
   * that opens is used. Without this option, a browser engine with a known defect uses WebTransport
   * only if WebSocket fails; see `engineDefect()`.
   *
   * `http` is the last resort, for networks that block both. It sends messages in requests and
   * server-sent events, and has no streams or datagrams. Whatever its position in the list, it is
   * tried only after the others have failed. If you leave it out, it is never used.
   *
   * @default {["webtransport", "websocket", "http"]}
   */
  readonly transports?: readonly TransportName[] | undefined;
  /**
   * The hashes of the server's certificates that WebTransport trusts without an authority, such as
   * short-lived ones for development. A server on this machine announces its own certificates. The
   * array is empty by default.
   */
  readonly serverCertificateHashes?: readonly CertificateHash[] | undefined;
  /**
   * The head start of the preferred transport, in milliseconds. It is limited to half of the time
   * for the whole attempt. If the preferred transport fails sooner, the other one starts
   * immediately.
   *
   * @default {500}
   */
  readonly headStartMs?: number | undefined;
  /** The amount of data that the server may send on streams before the application reads. */
  readonly flowControl?: FlowControlOptions | undefined;
}

/** A report that a session does not use the preferred transport. */
export interface TransportFallback {
  /** The transport that was preferred. */
  readonly transport: TransportName;
  /** The reason. Browsers give little detail. */
  readonly error: unknown;
}

/** The dialers of a platform. */
export interface TransportPlatform {
  readonly webSocket: (
    url: URL,
    options: DialWebSocketOptions & { readonly runtime: Runtime },
  ) => Promise<Connection>;
  /** The function that opens WebTransport, or a text that says why this platform cannot. */
  readonly webTransport: WebTransportLeg | string;
  /**
   * The description of a defect of the platform's WebTransport. If it is set, WebTransport is tried
   * only after WebSocket fails, unless the application sets `transports`. There is none by default.
   */
  readonly defect?: string | undefined;
}

/**
 * Finds the WebTransport endpoint of a server and opens a connection.
 *
 * The function receives the URL as the application passed it: `ws:`, `wss:`, `http:` or `https:`,
 * without a fragment. If the server has no WebTransport, the function SHOULD reject with
 * {@linkcode UnsupportedError}, which the race does not remember as a failure.
 */
export type WebTransportLeg = (
  url: URL,
  options: DialWebTransportOptions & { readonly runtime: Runtime },
) => Promise<Connection>;

/** A session that opened and later fell silent. */
export interface SilentTransport {
  /** The URL that was dialed. */
  readonly url: string | URL;
  readonly transport: string;
  /** The error with which the client noticed the silence. */
  readonly error: unknown;
}

/** The options for one connection. */
export interface RaceOptions extends DialWebSocketOptions, Pick<DialWebTransportOptions, "onWorn"> {
  /**
   * The only transport to try, regardless of remembered failures. By default, all transports are
   * tried.
   */
  readonly only?: TransportName | undefined;
  /**
   * Called before the dialer resolves, if a transport other than the preferred one has won. The
   * callback MUST NOT throw.
   */
  readonly onFallback?: ((fallback: TransportFallback) => void) | undefined;
  /**
   * Called with a late connection of the preferred transport. A connection is late if it opens at
   * most 3 s after the other transport has won, while the winning connection is still open. The
   * late connection has no session on this side, and the callback MUST close it when done. Without
   * `onLate`, the late connection is closed immediately. The callback MUST NOT throw.
   */
  readonly onLate?: ((connection: Connection) => void) | undefined;
  /**
   * The previous session, if it fell silent after opening. This counts as a failure of its
   * transport.
   */
  readonly silent?: SilentTransport | undefined;
}

/** Opens connections, and remembers which of a server's transports failed. */
export type RacingDialer = (url: string | URL, options?: RaceOptions) => Promise<Connection>;

/** Opens connections for a client. A client always sets these four options. */
export type ClientDialer = (
  url: string | URL,
  options: RaceOptions & {
    readonly runtime: Runtime;
    readonly protocols: readonly string[];
    readonly signal: AbortSignal;
    readonly timeoutMs: number;
  },
) => Promise<Connection>;

const RACERS: readonly TransportName[] = ["webtransport", "websocket"];

/** The transport options after the check, with defaults filled in. */
export interface CheckedTransports extends TransportOptions {
  /** The transports that race, in order of preference, without duplicates and without `http`. */
  readonly transports: readonly TransportName[];
  /** True if `http` is tried after the others. */
  readonly hasHttp: boolean;
  /** True if the application chose the transports. */
  readonly isChosen: boolean;
  /** The head start of the preferred transport, in milliseconds. */
  readonly headStartMs: number;
}

/**
 * Checks transport options when a client is created, before the first connection.
 *
 * @returns The options with defaults filled in.
 * @throws {TypeError} If `transports` is empty or contains an unknown name.
 * @throws {RangeError} If `headStartMs` is negative or not a number.
 */
export function checkTransports(options: TransportOptions): CheckedTransports {
  const { headStartMs = 500 } = options;
  const names = new Set<TransportName>(options.transports ?? [...RACERS, "http"]);
  const hasHttp = names.delete("http");
  const transports = [...names];
  if (transports.length + +hasHttp === 0 || !transports.every((name) => RACERS.includes(name))) {
    throw new TypeError(
      `Cannot connect: transports must be some of ${RACERS},http, received ${
        JSON.stringify(options.transports)
      }${
        transports.includes("polling" as TransportName) ? '; socket.io\'s "polling" is http' : ""
      }`,
    );
  }
  if (!(headStartMs >= 0)) {
    throw new RangeError(`Cannot connect: headStartMs must be 0 or more, received ${headStartMs}`);
  }
  const isChosen = options.transports !== undefined;
  return { ...options, transports, hasHttp, isChosen, headStartMs };
}
