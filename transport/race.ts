/**
 * Which transport a client takes: the preferred one with a head start, and the
 * other one beside it when that fails or is late.
 *
 * @module
 */
import { ConnectionError, TimeoutError, UnsupportedError } from "../errors.ts";
import type { Connection } from "./connection.ts";
import type { DialWebSocketOptions } from "./websocket_client.ts";
import { locateWebTransport } from "./_well_known.ts";
import type { CertificateHash, DialWebTransportOptions } from "./webtransport.ts";

/** A transport that a client can be told to take. */
export type TransportName = "webtransport" | "websocket";

/** Which transports a client takes, and how. */
export interface TransportOptions {
  /**
   * The transports to try, the preferred one first. Both race: the first that is up is taken.
   *
   * @default {["webtransport", "websocket"]}
   */
  readonly transports?: readonly TransportName[];
  /**
   * Certificates of the server that WebTransport trusts without an authority: short-lived ones,
   * for development. A server on this machine tells its own by itself. None by default.
   */
  readonly serverCertificateHashes?: readonly CertificateHash[];
  /**
   * How long the preferred transport is tried alone, in milliseconds; at most half of the time for
   * the whole attempt. When it fails sooner, the other one is tried at once.
   *
   * @default {500}
   */
  readonly headStartMs?: number;
}

/** Why a session is not on the transport that was preferred. */
export interface TransportFallback {
  /** The transport that was preferred. */
  readonly transport: TransportName;
  /** Why it was not taken; browsers tell little of that. */
  readonly error: unknown;
}

/** What dials on a platform. */
export interface TransportPlatform {
  /** Opens a WebSocket. */
  readonly webSocket: (url: URL, options: DialWebSocketOptions) => Promise<Connection>;
  /** Opens WebTransport; or why this platform can not. */
  readonly webTransport:
    | ((url: URL, options: DialWebTransportOptions) => Promise<Connection>)
    | string;
  /** Asks a server on this machine where its WebTransport is; the global `fetch` by default. */
  readonly fetch?: typeof fetch;
}

/** Options for one connection. */
export interface RaceOptions extends DialWebSocketOptions {
  /** Called before it is up, when another transport than the preferred one was taken. */
  readonly onFallback?: (fallback: TransportFallback) => void;
}

/** Opens connections; what it learned of a server it keeps for the next time. */
export type RacingDialer = (url: string | URL, options?: RaceOptions) => Promise<Connection>;

/** How long a transport that lost is not tried first again. */
export const REMEMBER_MS: number = 10 * 60_000;

/** Servers that are remembered; past it the oldest is forgotten. */
export const MAX_REMEMBERED = 64;

/** How long WebTransport may still take once WebSocket failed: a server that is down does not answer UDP. */
export const LAST_LEG_MS = 3_000;

const TRANSPORTS: readonly TransportName[] = ["webtransport", "websocket"];

/** What is known of a server: its preferred transport lost, for this reason. */
interface Loss {
  readonly until: number;
  readonly error: unknown;
}

/**
 * Makes what a client dials with.
 *
 * - **Where:** a URL of `wss:` or `https:` has WebTransport at the same host and port. One of `ws:`
 *   or `http:` has it if hashes of certificates are given, or if the server is on this machine and
 *   says so at `/.well-known/skein/webtransport`.
 * - **Race:** the preferred transport starts, the other one after the head start, or as soon as the
 *   first failed. The first that is up wins; the other one is given up, and closed if it comes late.
 * - **Memory:** where the preferred one lost, the other one is tried first for 10 minutes.
 *
 * @param platform Dials.
 * @param options See {@linkcode TransportOptions}.
 * @returns The dialer; one for each client.
 * @throws {TypeError} If `transports` is empty, or one of them is none.
 * @throws {RangeError} If `headStartMs` is negative, or no number.
 */
export function raceTransports(
  platform: TransportPlatform,
  options: TransportOptions = {},
): RacingDialer {
  const { serverCertificateHashes, headStartMs = 500 } = options;
  const transports = [...new Set(options.transports ?? TRANSPORTS)];
  if (transports.length === 0 || !transports.every((name) => TRANSPORTS.includes(name))) {
    throw new TypeError(
      `Cannot connect: transports must be some of ${TRANSPORTS.join(", ")}, received ${
        JSON.stringify(options.transports)
      }`,
    );
  }
  if (!(headStartMs >= 0)) {
    throw new RangeError(`Cannot connect: headStartMs must be from 0, received ${headStartMs}`);
  }
  const preferred = transports[0]!;
  const losses = new Map<string, Loss>();

  async function dialWebTransport(url: URL, options: DialWebTransportOptions): Promise<Connection> {
    const { webTransport } = platform;
    if (typeof webTransport === "string") throw new UnsupportedError(webTransport);
    const { protocols = [], signal } = options;
    const place = await locateWebTransport(url, {
      hashes: serverCertificateHashes,
      signal,
      fetch: platform.fetch ?? fetch,
    });
    const connection = await webTransport(place.url, {
      ...options,
      ...(place.hashes && { serverCertificateHashes: place.hashes }),
    });
    if (protocols.length === 0 || connection.protocol) return connection;
    connection.close();
    throw new ConnectionError(
      `The server does not speak ${protocols.join(" or ")} over WebTransport`,
    );
  }

  return async (url, { onFallback, signal, ...rest } = {}) => {
    const target = parse(url);
    const known = losses.get(target.origin);
    const loss = known && known.until > Date.now() ? known : undefined;
    // The other one needs some of the time too.
    const alone = Math.min(headStartMs, (rest.timeoutMs ?? Infinity) / 2);
    const order = loss ? transports.toReversed() : transports;
    const { promise, resolve, reject } = Promise.withResolvers<Connection>();
    // Ends the race, and whatever of it is still under way.
    const over = new AbortController();
    const legs = {
      ...rest,
      signal: signal ? AbortSignal.any([signal, over.signal]) : over.signal,
    };
    const errors = new Map<TransportName, unknown>();
    let started = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;

    const end = (settle: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      over.abort();
      settle();
    };
    const onAbort = () => end(() => reject(signal?.reason));
    const startNext = () => {
      clearTimeout(timer);
      const name = order[started++];
      if (name === undefined) return;
      // Where the preferred one lost before, it waits until the other one fails.
      if (order[started] && !loss) timer = setTimeout(startNext, alone);
      const dial = name === "websocket" ? platform.webSocket : dialWebTransport;
      dial(target, legs).then((connection) => won(name, connection), (error) => lost(name, error));
    };
    const won = (name: TransportName, connection: Connection) => {
      // The other one was there before, or nobody waits any more.
      if (over.signal.aborted) return connection.close();
      if (name === preferred) losses.delete(target.origin);
      else {
        const error = errors.get(preferred) ?? loss?.error ??
          new TimeoutError(`Cannot open ${preferred} within ${alone} ms`, alone);
        if (!loss && !(error instanceof UnsupportedError)) {
          losses.set(target.origin, { until: Date.now() + REMEMBER_MS, error });
          if (losses.size > MAX_REMEMBERED) losses.delete(losses.keys().next().value!);
        }
        onFallback?.({ transport: preferred, error });
      }
      end(() => resolve(connection));
    };
    const lost = (name: TransportName, error: unknown) => {
      if (over.signal.aborted) return;
      errors.set(name, error);
      if (errors.size === order.length) return end(() => reject(combined(errors)));
      startNext();
      if (name !== "websocket") return;
      timer = setTimeout(() => {
        lost(
          "webtransport",
          new TimeoutError(`Cannot open WebTransport within ${LAST_LEG_MS} ms`, LAST_LEG_MS),
        );
      }, LAST_LEG_MS);
    };
    if (signal?.aborted) throw signal.reason;
    signal?.addEventListener("abort", onAbort);
    startNext();
    return await promise;
  };
}

function parse(url: string | URL): URL {
  const base = (globalThis as { location?: { href: string } }).location?.href;
  const parsed = URL.parse(String(url), base);
  if (parsed === null || !/^(ws|http)s?:$/.test(parsed.protocol)) {
    throw new TypeError(
      // Without the query, where tokens are.
      `Cannot connect: url must begin with ws:, wss:, http: or https:, received ${
        String(url).split("?")[0]
      }`,
    );
  }
  parsed.hash = "";
  return parsed;
}

/** One error of all that failed: what was never tried says nothing. */
function combined(errors: ReadonlyMap<TransportName, unknown>): unknown {
  const [other, last] = [errors.get("webtransport"), errors.get("websocket")];
  if (errors.size === 1) return last ?? other;
  // What the WebSocket does not take, the other one does not either.
  if (other instanceof UnsupportedError || last instanceof TypeError) return last;
  return new ConnectionError(`Cannot connect: ${textOf(last)}; ${textOf(other)}`, {
    cause: new AggregateError([other, last]),
  });
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
