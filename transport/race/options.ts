/**
 * Options of the race of two transports, and its contracts.
 *
 * @module
 */
import type { Connection, FlowControlOptions } from "../connection.ts";
import type { CertificateHash, DialWebTransportOptions } from "../webtransport.ts";
import type { DialWebSocketOptions } from "../websocket/dial.ts";

/** A transport that a client can be told to take. */
export type TransportName = "webtransport" | "websocket";

/** Which transports a client takes, and how. */
export interface TransportOptions {
  /**
   * The transports to try, the preferred one first. Both race: the first that is up is taken. Where
   * it is left out, an engine with a known defect takes WebTransport only where WebSocket fails; see
   * `engineDefect()`.
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
  /** How much the server may send on streams ahead of who reads them. */
  readonly flowControl?: FlowControlOptions;
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
  /** Opens WebTransport; or why this platform cannot. */
  readonly webTransport: WebTransportLeg | string;
  /**
   * A defect of the platform's WebTransport, in words: it is tried only where WebSocket fails then,
   * unless the application chose its `transports`. None by default.
   */
  readonly defect?: string | undefined;
}

/**
 * Finds the WebTransport of a server, and opens it.
 *
 * The URL is the application's own: `ws:`, `wss:`, `http:` or `https:`, without a fragment. A
 * server that has no WebTransport SHOULD be told by {@linkcode UnsupportedError}, which is not
 * remembered.
 */
export type WebTransportLeg = (url: URL, options: DialWebTransportOptions) => Promise<Connection>;

/** A session that opened, and fell silent afterwards. */
export interface SilentTransport {
  /** The URL that was dialed. */
  readonly url: string | URL;
  /** The transport that it was on. */
  readonly transport: string;
  /** How that was noticed. */
  readonly error: unknown;
}

/** Options for one connection. */
export interface RaceOptions extends DialWebSocketOptions {
  /** The one transport to try, whatever is remembered; all of them by default. */
  readonly only?: TransportName | undefined;
  /** Called before it is up, when another transport than the preferred one was taken. MUST NOT throw. */
  readonly onFallback?: (fallback: TransportFallback) => void;
  /**
   * Called with the connection of the preferred transport where it opened at most 3 s after the other
   * one was taken, which still holds. No session was made of it at this end; whoever takes it closes
   * it. Without this it is closed at once. MUST NOT throw.
   */
  readonly onLate?: (connection: Connection) => void;
  /** The session before, where it opened and then fell silent: that counts as a failure of its transport. */
  readonly silent?: SilentTransport | undefined;
}

/** Opens connections; what it learned of a server it keeps for the next time. */
export type RacingDialer = (url: string | URL, options?: RaceOptions) => Promise<Connection>;
