/**
 * Chooses a client's transport. The preferred one has a head start, and the other one starts when
 * the preferred one fails or is late. A page without WebTransport never loads this module.
 */
import { ConnectionError, TimeoutError, UnsupportedError } from "../../errors.ts";
import { parseServerUrl } from "../url.ts";
import type { Connection } from "../connection.ts";
import { anySignal, within } from "../../base/wait.ts";
import { platformRuntime, type Timer } from "../../base/runtime.ts";
import { Losses } from "./losses.ts";
import { textOf } from "../../base/error_text.ts";
import {
  type CheckedTransports,
  checkTransports,
  type RacingDialer,
  type TransportName,
  type TransportOptions,
  type TransportPlatform,
  type WebTransportLeg,
} from "./options.ts";

/**
 * How long a transport may still take after the other one has won or failed, in milliseconds. If a
 * QUIC handshake loses its first packet, it sends the packet again after a second. The wait is
 * limited because a server that is down does not respond over UDP.
 */
export const LATE_LEG_MS = 3_000;

/**
 * Creates the dialer of a client, which races two transports.
 *
 * - **Race:** the preferred transport starts first. The other one starts after the head start, or
 *   as soon as the preferred one fails. The first transport that opens wins.
 * - **Late:** if the other transport wins, the preferred one may take 3 s longer, as long as the
 *   winning connection stays open. A late connection is closed, or passed to `onLate`. A single
 *   lost packet therefore does not affect later connections.
 * - **Memory:** if the preferred transport fails, does not open within these 3 s, or falls silent
 *   after opening, the other one is tried first for 30 s. Each failure in a row doubles that time,
 *   up to 10 minutes. A success clears the memory, unless it falls silent within 2 minutes.
 *   Rejections and late connections are not remembered.
 *
 * @returns The dialer. Create one for each client.
 * @throws {TypeError} If `transports` is empty, or if it contains `http` or an unknown name.
 * @throws {RangeError} If `headStartMs` is negative or not a number.
 */
export function raceTransports(
  platform: TransportPlatform,
  options: TransportOptions = {},
): RacingDialer {
  if (options.transports?.includes("http")) {
    throw new TypeError("Cannot connect: transports must not include http here, received http");
  }
  return race(platform, checkTransports(options));
}

/** Creates the dialer that {@linkcode raceTransports} describes. */
export function race(platform: TransportPlatform, options: CheckedTransports): RacingDialer {
  const { transports, isChosen, serverCertificateHashes, headStartMs, flowControl } = options;
  const preferred = transports[0]!;
  const defect = isChosen ? undefined : platform.defect;
  const losses = new Losses();

  const dialWebTransport: WebTransportLeg = async (url, options) => {
    const { webTransport } = platform;
    if (typeof webTransport === "string") throw new UnsupportedError(webTransport);
    return await webTransport(url, { ...options, serverCertificateHashes });
  };

  return async (url, options = {}) => {
    const {
      runtime = platformRuntime(),
      onFallback,
      onLate,
      onWorn,
      only,
      silent,
      signal,
      ...rest
    } = options;
    const target = parseServerUrl(url);
    const { origin } = target;
    if (silent?.transport === preferred) {
      losses.remember(parseServerUrl(silent.url).origin, runtime.now(), silent.error, true);
    }
    const loss = losses.recent(origin, runtime.now()) ??
      (defect ? { error: new UnsupportedError(defect) } : undefined);
    // The other transport also needs some of the time.
    const alone = Math.min(headStartMs, (rest.timeoutMs ?? Infinity) / 2);
    const order = only ? [only] : loss ? transports.toReversed() : transports;
    const { promise, resolve, reject } = Promise.withResolvers<Connection>();
    // The attempts in progress, each with the controller that aborts it.
    const legs = new Map<TransportName, AbortController>();
    const errors = new Map<TransportName, unknown>();
    let started = 0;
    let isOver = false;
    let timer: Timer | undefined;

    const finish = () => {
      isOver = true;
      runtime.clearTimeout(timer);
      for (const leg of legs.values()) leg.abort();
      legs.clear();
    };
    const startNext = () => {
      runtime.clearTimeout(timer);
      const name = order[started++];
      if (name === undefined) return;
      // After a remembered failure, the preferred transport starts only when the other one fails.
      if (order[started] && !loss) timer = runtime.setTimeout(startNext, alone);
      const isWebSocket = name === "websocket";
      const dial = isWebSocket ? platform.webSocket : dialWebTransport;
      const leg = new AbortController();
      legs.set(name, leg);
      dial(target, {
        ...rest,
        runtime,
        flowControl,
        onWorn: isWebSocket ? undefined : onWorn,
        signal: signal ? anySignal(signal, leg.signal) : leg.signal,
      }).then((connection) => won(name, connection), (error) => lost(name, error));
    };
    const won = (name: TransportName, connection: Connection) => {
      const isWanted = legs.delete(name) && !signal?.aborted;
      const isPreferred = name === preferred;
      if (isPreferred) losses.opened(origin, runtime.now());
      runtime.clearTimeout(timer);
      if (isOver) {
        return isWanted && isPreferred && onLate ? onLate(connection) : connection.close();
      }
      isOver = true;
      if (!isPreferred) {
        const error = errors.get(preferred);
        if (error) losses.remember(origin, runtime.now(), error);
        onFallback?.({
          transport: preferred,
          error: error ?? loss?.error ?? tooLate(preferred, alone),
        });
      }
      resolve(connection);
      // Once the preferred transport is open, the outcome of the other one does not matter.
      if (isPreferred) return finish();
      if (legs.size === 0) return;
      timer = runtime.setTimeout(() => {
        finish();
        losses.remember(origin, runtime.now(), tooLate(preferred, LATE_LEG_MS));
      }, LATE_LEG_MS);
      connection.closed.catch(() => {}).then(finish);
    };
    const lost = (name: TransportName, error: unknown) => {
      const isWanted = legs.delete(name) && !signal?.aborted;
      if (isOver) {
        runtime.clearTimeout(timer);
        if (isWanted && name === preferred) losses.remember(origin, runtime.now(), error);
        return;
      }
      errors.set(name, error);
      if (errors.size === order.length) {
        finish();
        // All transports failed, so the network or the server is down, and the previous session's
        // silence was not the fault of its transport.
        if (!only && losses.get(origin)?.failures === 0) losses.delete(origin);
        return reject(combined(errors));
      }
      startNext();
      if (name !== "websocket") return;
      timer = runtime.setTimeout(() => {
        const last = legs.get("webtransport");
        lost("webtransport", tooLate("webtransport", LATE_LEG_MS));
        last?.abort();
      }, LATE_LEG_MS);
    };
    signal?.throwIfAborted();
    startNext();
    try {
      return await within(runtime, promise, {
        signal,
        discard: (connection) => connection.close(),
      });
    } finally {
      if (!isOver) finish();
    }
  };
}

function tooLate(name: TransportName, ms: number): TimeoutError {
  return new TimeoutError(`Cannot open ${name} within ${ms} ms`, ms);
}

function combined(errors: ReadonlyMap<TransportName, unknown>): unknown {
  const [other, last] = [errors.get("webtransport"), errors.get("websocket")];
  if (errors.size === 1) return last ?? other;
  // Arguments that WebSocket rejects with a `TypeError` are also wrong for WebTransport.
  if (other instanceof UnsupportedError || last instanceof TypeError) return last;
  return new ConnectionError(`Cannot connect: ${textOf(last)}; ${textOf(other)}`, {
    cause: new AggregateError([other, last]),
  });
}
