/**
 * Which transport a client takes: the preferred one with a head start, and the
 * other one beside it when that fails or is late.
 *
 * @module
 */
import { ConnectionError, TimeoutError, UnsupportedError } from "../errors.ts";
import type { Connection } from "./connection.ts";
import { parseServerUrl } from "./_url.ts";
import type { DialWebSocketOptions } from "./websocket_client.ts";
import type { CertificateHash, DialWebTransportOptions } from "./webtransport.ts";
import { within } from "./within.ts";

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
  readonly webTransport: WebTransportLeg | string;
}

/**
 * Finds the WebTransport of a server, and opens it.
 *
 * The URL is the application's own: `ws:`, `wss:`, `http:` or `https:`, without a fragment. A
 * server that has no WebTransport SHOULD be told by {@linkcode UnsupportedError}, which is not
 * remembered.
 */
export type WebTransportLeg = (url: URL, options: DialWebTransportOptions) => Promise<Connection>;

/** Options for one connection. */
export interface RaceOptions extends DialWebSocketOptions {
  /** Called before it is up, when another transport than the preferred one was taken. MUST NOT throw. */
  readonly onFallback?: (fallback: TransportFallback) => void;
}

/** Opens connections; what it learned of a server it keeps for the next time. */
export type RacingDialer = (url: string | URL, options?: RaceOptions) => Promise<Connection>;

/** How long a WebSocket that is not needed any more may take to come and be closed, in milliseconds. */
const LOSER_MS = 2_000;

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
      `Cannot connect: transports must be some of ${TRANSPORTS}, received ${
        JSON.stringify(options.transports)
      }`,
    );
  }
  if (!(headStartMs >= 0)) {
    throw new RangeError(`Cannot connect: headStartMs must be from 0, received ${headStartMs}`);
  }
  const preferred = transports[0]!;
  const losses = new Map<string, Loss>();

  const dialWebTransport: WebTransportLeg = async (url, options) => {
    const { webTransport } = platform;
    if (typeof webTransport === "string") throw new UnsupportedError(webTransport);
    return await webTransport(url, {
      ...options,
      ...(serverCertificateHashes && { serverCertificateHashes }),
    });
  };

  return async (url, { onFallback, signal, ...rest } = {}) => {
    const target = parseServerUrl(url);
    const known = losses.get(target.origin);
    const loss = known && known.until > Date.now() ? known : undefined;
    // The other one needs some of the time too.
    const alone = Math.min(headStartMs, (rest.timeoutMs ?? Infinity) / 2);
    const order = loss ? transports.toReversed() : transports;
    const { promise, resolve, reject } = Promise.withResolvers<Connection>();
    // What is still under way, and what ends it.
    const legs = new Map<TransportName, AbortController>();
    const errors = new Map<TransportName, unknown>();
    let started = 0;
    let isOver = false;
    let timer: ReturnType<typeof setTimeout> | undefined;

    const finish = (winner?: TransportName) => {
      isOver = true;
      clearTimeout(timer);
      for (const [name, leg] of legs) {
        const isLate = winner === "webtransport" && name === "websocket" && !errors.has(name);
        // A server never learns that a WebSocket was dropped in its handshake: it may come, and is closed.
        if (isLate) timer = setTimeout(() => leg.abort(), LOSER_MS);
        else leg.abort();
      }
    };
    const startNext = () => {
      clearTimeout(timer);
      const name = order[started++];
      if (name === undefined) return;
      // Where the preferred one lost before, it waits until the other one fails.
      if (order[started] && !loss) timer = setTimeout(startNext, alone);
      const dial = name === "websocket" ? platform.webSocket : dialWebTransport;
      const leg = new AbortController();
      legs.set(name, leg);
      dial(target, { ...rest, signal: leg.signal })
        .then((connection) => won(name, connection), (error) => lost(name, error));
    };
    const won = (name: TransportName, connection: Connection) => {
      // The other one was there before, or nobody waits any more.
      if (isOver) {
        clearTimeout(timer);
        return connection.close();
      }
      if (name === preferred) losses.delete(target.origin);
      else {
        const error = errors.get(preferred) ?? loss?.error ??
          tooLate(preferred, alone);
        // A refusal says nothing of the wire.
        const isRefusal = (error as { status?: number } | null)?.status;
        if (!loss && !isRefusal && !(error instanceof UnsupportedError)) {
          losses.set(target.origin, { until: Date.now() + REMEMBER_MS, error });
          if (losses.size > MAX_REMEMBERED) losses.delete(losses.keys().next().value!);
        }
        onFallback?.({ transport: preferred, error });
      }
      finish(name);
      resolve(connection);
    };
    const lost = (name: TransportName, error: unknown) => {
      if (isOver) return clearTimeout(timer);
      errors.set(name, error);
      if (errors.size === order.length) {
        finish();
        return reject(combined(errors));
      }
      startNext();
      if (name !== "websocket") return;
      timer = setTimeout(() => {
        lost("webtransport", tooLate("webtransport", LAST_LEG_MS));
      }, LAST_LEG_MS);
    };
    signal?.throwIfAborted();
    startNext();
    try {
      return await within(promise, { signal, discard: (connection) => connection.close() });
    } finally {
      if (!isOver) finish();
    }
  };
}

function tooLate(name: TransportName, ms: number): TimeoutError {
  return new TimeoutError(`Cannot open ${name} within ${ms} ms`, ms);
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
