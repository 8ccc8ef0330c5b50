/**
 * The race of two transports: what a page that has no WebTransport never loads.
 *
 * @module
 */
import { ConnectionError, TimeoutError, UnsupportedError } from "../../errors.ts";
import type { CheckedTransports } from "./transports.ts";
import { parseServerUrl } from "../url.ts";
import type { Connection } from "../connection.ts";
import type { RacingDialer, TransportName, TransportPlatform, WebTransportLeg } from "./race.ts";
import { within } from "../within.ts";

/** How long a WebSocket that is not needed any more may take to come and be closed, in milliseconds. */
const LOSER_MS = 2_000;

/** How long a transport that lost is not tried first again. */
export const REMEMBER_MS: number = 10 * 60_000;

/** Servers that are remembered; past it the oldest is forgotten. */
export const MAX_REMEMBERED = 64;

/** How long WebTransport may still take once WebSocket failed: a server that is down does not answer UDP. */
export const LAST_LEG_MS = 3_000;

/** What is known of a server: its preferred transport lost, for this reason. */
interface Loss {
  readonly until: number;
  readonly error: unknown;
}

/**
 * See {@linkcode raceTransports}.
 *
 * @param platform Dials.
 * @param options The options, checked.
 * @returns The dialer.
 */
export function race(platform: TransportPlatform, options: CheckedTransports): RacingDialer {
  const { transports, serverCertificateHashes, headStartMs, flowControl } = options;
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

  return async (url, { onFallback, only, signal, ...rest } = {}) => {
    const target = parseServerUrl(url);
    const known = losses.get(target.origin);
    const loss = known && known.until > Date.now() ? known : undefined;
    // The other one needs some of the time too.
    const alone = Math.min(headStartMs, (rest.timeoutMs ?? Infinity) / 2);
    const order = only ? [only] : loss ? transports.toReversed() : transports;
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
      dial(target, { ...rest, ...(flowControl && { flowControl }), signal: leg.signal })
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
