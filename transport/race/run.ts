/**
 * The race of two transports: what a page that has no WebTransport never loads.
 *
 * @module
 */
import { ConnectionError, TimeoutError, UnsupportedError } from "../../errors.ts";
import type { CheckedTransports } from "./transports.ts";
import { parseServerUrl } from "../url.ts";
import type { Connection } from "../connection.ts";
import { within } from "../within.ts";
import type { RacingDialer, TransportName, TransportPlatform, WebTransportLeg } from "./options.ts";

/**
 * How long a transport may still take once the other one was taken or failed, in milliseconds: a
 * handshake of QUIC that lost its first packet sends it again after a second, and a server that is
 * down does not answer UDP.
 */
export const LATE_LEG_MS = 3_000;

/** How long a transport that failed is not tried first again, in milliseconds; twice as long each time. */
export const FIRST_REMEMBER_MS = 30_000;

/** The longest time that a failure is remembered, in milliseconds. */
export const REMEMBER_MS: number = 10 * 60_000;

/** Servers that are remembered; past it the oldest is forgotten. */
export const MAX_REMEMBERED = 64;

/** What is known of a server: its preferred transport failed, for this reason. */
interface Loss {
  readonly error: unknown;
  /** When it is tried first again. */
  readonly until: number;
  /** Failures in a row; 0 where it opened, and fell silent afterwards. */
  readonly failures: number;
}

/**
 * See {@linkcode raceTransports}.
 *
 * @param platform Dials.
 * @param options The options, checked.
 * @returns The dialer.
 */
export function race(platform: TransportPlatform, options: CheckedTransports): RacingDialer {
  const { transports, isChosen, serverCertificateHashes, headStartMs, flowControl } = options;
  const preferred = transports[0]!;
  const defect = isChosen ? undefined : platform.defect;
  const losses = new Map<string, Loss>();

  const dialWebTransport: WebTransportLeg = async (url, options) => {
    const { webTransport } = platform;
    if (typeof webTransport === "string") throw new UnsupportedError(webTransport);
    return await webTransport(url, {
      ...options,
      ...(serverCertificateHashes && { serverCertificateHashes }),
    });
  };

  /** The preferred transport failed, or fell silent. A refusal says nothing of the wire. */
  const remember = (origin: string, error: unknown, isSilence = false) => {
    if ((error as { status?: number } | null)?.status || error instanceof UnsupportedError) return;
    const failures = isSilence ? 0 : (losses.get(origin)?.failures ?? 0) + 1;
    const forMs = Math.min(FIRST_REMEMBER_MS * 2 ** ((failures || 1) - 1), REMEMBER_MS);
    losses.delete(origin); // The newest is the last.
    losses.set(origin, { error, failures, until: Date.now() + forMs });
    if (losses.size > MAX_REMEMBERED) losses.delete(losses.keys().next().value!);
  };

  return async (url, { onFallback, onLate, only, silent, signal, ...rest } = {}) => {
    const target = parseServerUrl(url);
    const { origin } = target;
    if (silent?.transport === preferred) {
      remember(parseServerUrl(silent.url).origin, silent.error, true);
    }
    const known = losses.get(origin);
    const isLoss = known && known.until > Date.now();
    const loss = isLoss ? known : defect ? { error: new UnsupportedError(defect) } : undefined;
    // The other one needs some of the time too.
    const alone = Math.min(headStartMs, (rest.timeoutMs ?? Infinity) / 2);
    const order = only ? [only] : loss ? transports.toReversed() : transports;
    const { promise, resolve, reject } = Promise.withResolvers<Connection>();
    // What is under way, and what ends it.
    const legs = new Map<TransportName, AbortController>();
    const errors = new Map<TransportName, unknown>();
    let started = 0;
    let isOver = false;
    let timer: ReturnType<typeof setTimeout> | undefined;

    const finish = () => {
      isOver = true;
      clearTimeout(timer);
      for (const leg of legs.values()) leg.abort();
      legs.clear();
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
      dial(target, {
        ...rest,
        ...(flowControl && { flowControl }),
        signal: signal ? AbortSignal.any([signal, leg.signal]) : leg.signal,
      }).then((connection) => won(name, connection), (error) => lost(name, error));
    };
    const won = (name: TransportName, connection: Connection) => {
      const isWanted = legs.delete(name) && !signal?.aborted;
      const isPreferred = name === preferred;
      if (isPreferred) losses.delete(origin);
      clearTimeout(timer);
      if (isOver) {
        return isWanted && isPreferred && onLate ? onLate(connection) : connection.close();
      }
      isOver = true;
      if (!isPreferred) {
        const error = errors.get(preferred);
        if (error) remember(origin, error);
        onFallback?.({
          transport: preferred,
          error: error ?? loss?.error ?? tooLate(preferred, alone),
        });
      }
      resolve(connection);
      // The preferred one is up: nothing is to be learned of the other.
      if (isPreferred) return finish();
      if (legs.size === 0) return;
      timer = setTimeout(() => {
        finish();
        remember(origin, tooLate(preferred, LATE_LEG_MS));
      }, LATE_LEG_MS);
      connection.closed.catch(() => {}).then(finish);
    };
    const lost = (name: TransportName, error: unknown) => {
      const isWanted = legs.delete(name) && !signal?.aborted;
      if (isOver) {
        clearTimeout(timer);
        if (isWanted && name === preferred) remember(origin, error);
        return;
      }
      errors.set(name, error);
      if (errors.size === order.length) {
        finish();
        // The network or the server is away: that a session fell silent says nothing of its transport.
        if (!only && known?.failures === 0) losses.delete(origin);
        return reject(combined(errors));
      }
      startNext();
      if (name !== "websocket") return;
      timer = setTimeout(() => {
        const last = legs.get("webtransport");
        lost("webtransport", tooLate("webtransport", LATE_LEG_MS));
        last?.abort();
      }, LATE_LEG_MS);
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
