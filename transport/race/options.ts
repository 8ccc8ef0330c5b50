/** The options and interfaces of the race between transports, and the check of the options. */
import type { Runtime } from "../../base/runtime.ts";
import type { Connection, FlowControlOptions } from "../connection.ts";
import { parseUrl } from "../url.ts";
import type { CertificateHash, DialWebTransportOptions } from "../webtransport.ts";
import type { DialWebSocketOptions } from "../websocket/connection.ts";

/** The name of a transport that every client has. */
export type TransportName = "webtransport" | "websocket" | "http";

/** The options of {@linkcode Transport.dial}. */
export interface TransportDialOptions extends DialWebTransportOptions {
  /** The subprotocols to offer, in order of preference. */
  readonly protocols: readonly string[];
  /** Aborts the attempt, also when its time is over. */
  readonly signal: AbortSignal;
}

/**
 * A transport as a value, for the option `transports`. `webTransport()`, `webSocket()` and `http()`
 * return the client's own ones. Any other object with a name and a `dial` is a transport too, for
 * example one that reaches the server through a worker's port.
 *
 * - **Secrets:** the client's token, its ticket and `headers` are for the origin of the URL that
 *   `connect` received. If `host` names another origin, the client sends none of them over this
 *   transport, also not when that host asks for a new token.
 * - **Failures:** if `dial` throws or rejects, the client continues with the next transport, and
 *   makes another attempt later.
 * - **Late connections** are closed, if the attempt has ended when `dial` resolves.
 */
export interface Transport {
  /**
   * The name, for example in `handOver({ transport })` and in errors. Each transport of a client has
   * another name.
   */
  readonly name: string;
  /**
   * The host that `dial` connects to, as a URL such as `https://edge.example` or `worker:chat`, if
   * that isn't the origin of the server's URL.
   *
   * @default {the origin of the server's URL}
   */
  readonly host?: string | URL | undefined;
  /**
   * Opens a connection. Its `transport` SHOULD be the `name`, by which the client remembers a
   * transport that fell silent.
   *
   * @param url The server's URL, without a fragment. For another `host`, it has no ticket and no
   * token.
   * @param options The subprotocols to offer, and a signal that ends the attempt.
   * @returns The open connection.
   */
  dial(url: URL, options: TransportDialOptions): Promise<Connection>;
  /**
   * True for the client's own transports, whose `TypeError` means that no attempt can succeed.
   *
   * @ignore
   */
  readonly isBuiltIn?: boolean | undefined;
  /**
   * Adds this transport to the others as the last resort; only of `http()`.
   *
   * @ignore
   */
  readonly lastResort?:
    | ((dial: ClientDialer, checked: CheckedTransports) => ClientDialer)
    | undefined;
}

/** The options for the transports of a client. */
export interface TransportOptions {
  /**
   * The transports to try, in order of preference. WebTransport and WebSocket race, and the first
   * that opens is used; `http` is the last resort, after the others have failed.
   *
   * Without this option, a browser engine with a known defect uses WebTransport only if WebSocket
   * fails; see `engineDefect()`.
   *
   * `http` is the last resort, for networks that block both. It sends messages in requests and
   * server-sent events, and has no streams or datagrams. Whatever its position in the list, it is
   * tried only after the others have failed. If you leave it out, it is never used.
   *
   * Besides names, the list may contain values: those of `webTransport()`, `webSocket()` and
   * `http()`, and your own ones; see {@linkcode Transport}.
   *
   * @default {["webtransport", "websocket", "http"]}
   */
  readonly transports?: readonly (TransportName | Transport)[] | undefined;
  /**
   * The hashes of certificates that WebTransport trusts without an authority, such as short-lived
   * ones for development. A server on this machine announces its own certificates.
   *
   * @default {[]}
   */
  readonly serverCertificateHashes?: readonly CertificateHash[] | undefined;
  /**
   * The head start of the preferred transport, in milliseconds; at most half of the time for the
   * whole attempt.
   *
   * If the preferred transport fails sooner, the other one starts immediately.
   *
   * @default {500}
   */
  readonly headStartMs?: number | undefined;
  /**
   * The amount of data that the server may send on streams before the application reads.
   *
   * @default {1 MiB, 100 streams}
   */
  readonly flowControl?: FlowControlOptions | undefined;
}

/** A report that a session does not use the preferred transport. */
export interface TransportFallback {
  /** The name of the transport that was preferred. */
  readonly transport: string;
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
  readonly only?: string | undefined;
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

export type LastResortOptions = Parameters<ClientDialer>[1];

/** Loads the code of HTTP. Called again after a failure. */
export type LoadHttp = () => Promise<{
  fallBackToHttp(dial: ClientDialer, options: FallBackOptions): FallBackDialer;
}>;

/** The options for the code of HTTP. */
export interface FallBackOptions {
  /** The other transports, in order of preference. */
  readonly transports: readonly string[];
  /**
   * The time at which a WebSocket fell silent, in milliseconds since the epoch. By default, none
   * has.
   */
  readonly silentAt?: number | undefined;
}

/**
 * Opens connections with all transports. `late` is an attempt with the others that is still in
 * progress.
 */
export type FallBackDialer = (
  url: string | URL,
  options: LastResortOptions,
  late?: Leg,
) => Promise<Connection>;

/** One attempt with some of the transports. */
export interface Leg {
  /** The attempt, which may still open a connection after an error. */
  readonly opening: Promise<Connection>;
  readonly stop: AbortController;
  /**
   * The reason to try other transports: a failure or a timeout. This is absent if a connection
   * opened.
   */
  readonly error?: unknown;
}

/** The names of the transports that every client has, in order of preference. */
export const TRANSPORT_NAMES: readonly TransportName[] = ["webtransport", "websocket", "http"];

/** The transport options after the check, with defaults filled in. */
export interface CheckedTransports extends Omit<TransportOptions, "transports"> {
  /** The names of the transports that race, in order of preference, without `http`. */
  readonly transports: readonly string[];
  /** The transports that the application passed as values, by name. */
  readonly values: ReadonlyMap<string, Transport>;
  /** The open connections to other hosts than that of the URL, which receive no secrets. */
  readonly elsewhere: WeakSet<Connection>;
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
 * @throws {TypeError} If `transports` is empty, or contains an unknown name, a value without a name
 * or `dial`, or a value with the name of another transport.
 * @throws {RangeError} If `headStartMs` is negative or not a number.
 */
export function checkTransports(options: TransportOptions): CheckedTransports {
  const { headStartMs = 500, transports: given = TRANSPORT_NAMES } = options;
  const names = new Set<string>();
  const values = new Map<string, Transport>();
  for (const each of given) {
    const name = typeof each === "string" ? each : each?.name;
    const isValid = typeof each === "string"
      ? TRANSPORT_NAMES.includes(each) && !values.has(each)
      : isTransport(each) && !names.has(name);
    if (!isValid) throw badTransports(given);
    if (typeof each !== "string") values.set(name, each);
    names.add(name);
  }
  if (names.size === 0) throw badTransports(given);
  if (!(headStartMs >= 0)) {
    throw new RangeError(`Cannot connect: headStartMs must be 0 or more, received ${headStartMs}`);
  }
  const hasHttp = names.delete("http");
  const isChosen = options.transports !== undefined;
  const elsewhere = new WeakSet<Connection>();
  return { ...options, transports: [...names], values, elsewhere, hasHttp, isChosen, headStartMs };
}

/** Returns whether a value is a transport. Only the value of `http()` can be the last resort. */
function isTransport(value: Transport | null | undefined): boolean {
  const { name, host, dial, lastResort } = value ?? {};
  if (host !== undefined && !parseUrl(String(host))) {
    throw new TypeError(
      `Cannot connect: host must be a URL such as https://edge.example, received "${host}"`,
    );
  }
  return typeof name === "string" && name !== "" && typeof dial === "function" &&
    (name !== "http" || lastResort !== undefined);
}

function badTransports(given: NonNullable<TransportOptions["transports"]>): TypeError {
  const known = `${TRANSPORT_NAMES}, or values with a dial and a name of their own`;
  const isPolling = given.includes("polling" as TransportName);
  return new TypeError(
    `Cannot connect: transports must be some of ${known}, received ${
      JSON.stringify(given, ["name"])
    }${isPolling ? '; socket.io\'s "polling" is http' : ""}`,
  );
}
