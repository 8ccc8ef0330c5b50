/**
 * Chooses a client's transport. The preferred one has a head start, and each other one starts when
 * the one before it fails or is late. A page that has only WebSocket never loads this module.
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
  type TransportDialOptions,
  type TransportOptions,
  type TransportPlatform,
  type WebTransportLeg,
} from "./options.ts";
import { dialValue } from "./value.ts";

/**
 * How long a transport may still take after the other one has won or failed, in milliseconds. If a
 * QUIC handshake loses its first packet, it sends the packet again after a second. The wait is
 * limited because a server that is down does not respond over UDP.
 */
export const LATE_LEG_MS = 3_000;

/**
 * Creates the dialer of a client, which races its transports.
 *
 * - **Race:** the preferred transport starts first. Each other one starts after the head start of
 *   the one before it, or as soon as that one fails. The first transport that opens wins.
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
    throw new TypeError("Cannot connect: raceTransports() has no http; use withLastResort()");
  }
  return race(platform, checkTransports(options));
}

/** Creates the dialer that {@linkcode raceTransports} describes. */
export function race(platform: TransportPlatform, options: CheckedTransports): RacingDialer {
  const { transports, values, isChosen, serverCertificateHashes, headStartMs, flowControl } =
    options;
  const preferred = transports[0]!;
  const defect = isChosen ? undefined : platform.defect;
  const losses = new Losses();

  const dialWebTransport: WebTransportLeg = async (url, options) => {
    const { webTransport } = platform;
    if (typeof webTransport === "string") throw new UnsupportedError(webTransport);
    return await webTransport(url, options);
  };
  const dialWith = (name: string, url: URL, given: Parameters<WebTransportLeg>[1]) => {
    const value = values.get(name);
    if (!value && name === "websocket") return platform.webSocket(url, given);
    const all = { protocols: [], ...given, serverCertificateHashes };
    if (!value) return dialWebTransport(url, all);
    return dialValue(value, options, url, all as TransportDialOptions);
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
    // The other transports also need some of the time.
    const alone = Math.min(headStartMs, (rest.timeoutMs ?? Infinity) / transports.length);
    const order = only ? [only] : loss ? [...transports.slice(1), preferred] : transports;
    const { promise, resolve, reject } = Promise.withResolvers<Connection>();
    // The attempts in progress, each with the controller that aborts it.
    const legs = new Map<string, AbortController>();
    const errors = new Map<string, unknown>();
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
      // After a remembered failure, the preferred transport starts only when the others fail.
      const next = order[started];
      if (next && !(loss && next === preferred)) timer = runtime.setTimeout(startNext, alone);
      const leg = new AbortController();
      legs.set(name, leg);
      dialWith(name, target, {
        ...rest,
        runtime,
        flowControl,
        onWorn: name === "websocket" ? undefined : onWorn,
        signal: anySignal(signal, leg.signal),
      }).then((connection) => won(name, connection), (error) => lost(name, error));
    };
    const won = (name: string, connection: Connection) => {
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
      // Once the preferred transport is open, the outcome of the others does not matter.
      if (isPreferred) return finish();
      for (const [other, leg] of legs) {
        if (other === preferred) continue;
        legs.delete(other);
        leg.abort();
      }
      if (legs.size === 0) return;
      timer = runtime.setTimeout(() => {
        finish();
        losses.remember(origin, runtime.now(), tooLate(preferred, LATE_LEG_MS));
      }, LATE_LEG_MS);
      connection.closed.catch(() => {}).then(finish);
    };
    const lost = (name: string, error: unknown) => {
      if (!legs.delete(name)) return;
      if (isOver) {
        runtime.clearTimeout(timer);
        if (!signal?.aborted) losses.remember(origin, runtime.now(), error);
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
      // If UDP is blocked, WebTransport may never fail.
      if (order[started] || !legs.has("webtransport")) return;
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

function tooLate(name: string, ms: number): TimeoutError {
  return new TimeoutError(`Cannot open ${name} within ${ms} ms`, ms);
}

function combined(errors: ReadonlyMap<string, unknown>): unknown {
  const websocket = errors.get("websocket");
  // Arguments that WebSocket rejects with a `TypeError` are also wrong for WebTransport.
  if (websocket instanceof TypeError) return websocket;
  const all = [...new Set([websocket, ...errors.values()])].filter((error) => error !== undefined);
  const tried = all.filter((error) => error === websocket || !(error instanceof UnsupportedError));
  if (tried.length < 2) return tried[0] ?? all[0];
  return new ConnectionError(`Cannot connect: ${tried.map(textOf).join("; ")}`, {
    cause: new AggregateError(tried.reverse()),
  });
}
