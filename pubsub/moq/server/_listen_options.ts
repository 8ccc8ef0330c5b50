/**
 * From the options of a server of MoQ to those of its sockets.
 *
 * @module
 */
import { UnsupportedError } from "../../../errors.ts";
import type { FlowControlOptions } from "../../../transport/connection.ts";
import type { ListenMoqOptions } from "./_server_options.ts";
import type { SocketsOptions } from "./_sockets.ts";
import { MAX_STREAMS } from "../wire/wires.ts";
import type { MoqWire } from "./_server_host.ts";

const WIRES: readonly MoqWire[] = ["webtransport", "quic", "websocket"];

/**
 * Checks how to listen, and fills in what is left out.
 *
 * @param options See {@linkcode ListenMoqOptions}.
 * @param protocols The protocols of raw QUIC, the best first.
 * @returns The options of the sockets.
 * @throws {TypeError} If `transports` is empty, one of them is none, or `webSocket` is without its own.
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
 * Finds how much a client may send ahead of who reads, where that is counted.
 *
 * @param options What the application said.
 * @returns The same, with streams enough for groups and subscriptions.
 */
export function flowControlOf(
  { flowControl }: { readonly flowControl?: FlowControlOptions },
): FlowControlOptions {
  return { maxStreamsBidi: MAX_STREAMS, maxStreamsUni: MAX_STREAMS, ...flowControl };
}

/** A connection that asks for nothing is let go after a while, and so is one that is refused. */
function connectionsFor(sessions: number): number {
  return Math.min(2 * sessions, Number.MAX_SAFE_INTEGER);
}
