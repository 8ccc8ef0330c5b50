/** Converts the options of a MoQ server to those of its sockets. */
import { UnsupportedError } from "../../../errors.ts";
import type { FlowControlOptions } from "../../../transport/connection.ts";
import type { ListenMoqOptions } from "./_server_options.ts";
import type { SocketsOptions } from "./_sockets.ts";
import { MAX_STREAMS } from "../wire/wires.ts";
import type { MoqWire } from "./_server_host.ts";

const WIRES: readonly MoqWire[] = ["webtransport", "quic", "websocket"];

/**
 * Checks the options of a listening server and fills in defaults.
 *
 * @param options Options of the application.
 * @param protocols The protocols of raw QUIC, the best first.
 * @returns The options of the sockets.
 * @throws {TypeError} If `transports` is empty, has an unknown name, or lacks `websocket` beside
 * `webSocket`.
 * @throws {UnsupportedError} If the platform cannot listen.
 */
export function socketsOptions(
  options: ListenMoqOptions,
  protocols: readonly string[],
): SocketsOptions {
  const { port = 0, tls, transports = WIRES, names, cacheFolder, limits = {}, webSocket } = options;
  const { hostname = tls === undefined ? "127.0.0.1" : "0.0.0.0" } = options;
  const wires = [...new Set(transports)];
  if (wires.length === 0 || !wires.every((wire) => WIRES.includes(wire))) {
    throw new TypeError(
      `Cannot serve MoQ: transports must be some of ${WIRES.join(", ")}, received ${
        JSON.stringify(transports)
      }`,
    );
  }
  if (webSocket !== undefined && !wires.includes("websocket")) {
    throw new TypeError(
      `Cannot serve MoQ: transports must have websocket where there is a webSocket, received ${
        JSON.stringify(transports)
      }`,
    );
  }
  if (typeof Deno === "undefined") {
    throw new UnsupportedError("Cannot listen: a server takes Deno");
  }
  const { maxSessions = 10_000, maxSessionsPerAddress = 1_000 } = limits;
  const { idleTimeoutMs } = options;
  return {
    port,
    hostname,
    tls,
    dev: {
      ...(names === undefined ? {} : { names }),
      ...(cacheFolder === undefined ? {} : { cacheFolder }),
    },
    wires,
    protocols,
    webSocket,
    limits: {
      maxConnections: connectionsFor(maxSessions),
      maxConnectionsPerAddress: connectionsFor(Math.min(maxSessions, maxSessionsPerAddress)),
      maxStreams: options.maxBidirectionalStreams ?? MAX_STREAMS,
      maxUnidirectionalStreams: options.maxUnidirectionalStreams ?? MAX_STREAMS,
      flowControl: flowControlOf(options),
      unreadStreams: options.unreadStreams,
      ...(idleTimeoutMs === undefined ? {} : {
        idleTimeoutMs,
        keepAliveIntervalMs: Math.max(1, Math.round(idleTimeoutMs / 3)),
      }),
    },
  };
}

/**
 * Returns the flow control of a server, for wires that count credit.
 *
 * @param options Options of the application.
 * @returns The same credit, with streams enough for groups and subscriptions by default.
 */
export function flowControlOf(
  { flowControl }: { readonly flowControl?: FlowControlOptions },
): FlowControlOptions {
  return { maxStreamsBidi: MAX_STREAMS, maxStreamsUni: MAX_STREAMS, ...flowControl };
}

/** Two connections a session: refused and unused connections stay open for a while. */
function connectionsFor(sessions: number): number {
  return Math.min(2 * sessions, Number.MAX_SAFE_INTEGER);
}
