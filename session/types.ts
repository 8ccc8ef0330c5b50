/**
 * Types of a session, shared by its parts and its users.
 *
 * @module
 */
import type { CloseInfo } from "../errors.ts";
import type {
  BidirectionalStream,
  Connection,
  DatagramDuplex,
  OpenStreamOptions,
} from "../transport/connection.ts";
import type { TransportFallback } from "../transport/race/options.ts";

/** The state of a session. */
export type SessionState = "connecting" | "connected" | "draining" | "closed";

/** Options for closing a session. */
export interface SessionCloseOptions {
  /**
   * Close code: 0, or 3000 to 4999.
   *
   * @default {0}
   */
  readonly code?: number;
  /** Reason in words; cut at a character boundary to the length that the connection carries. */
  readonly reason?: string;
  /**
   * Also closes the connection below, with all its other sessions. Only WebTransport connections
   * over HTTP/3 can carry several sessions; ignored elsewhere.
   *
   * @default {false}
   */
  readonly closeConnection?: boolean;
}

/** Options for operations that wait. */
export interface WaitOptions {
  /** Ends the wait when aborted. */
  readonly signal?: AbortSignal;
  /** Ends the wait after this time, in milliseconds. */
  readonly timeoutMs?: number;
}

/** Options for publishing through the server. */
export interface ClientPublishOptions extends WaitOptions {
  /**
   * Sends the publication to this client too, if subscribed. Without an echo this client never
   * receives the publication, neither after a reconnect nor from the history; other clients do.
   *
   * @default {true}
   */
  readonly echo?: boolean;
}

/** Options for draining a session. */
export interface SessionDrainOptions extends SessionCloseOptions {
  /**
   * Time after which the peer may come back, in milliseconds, sent first. Without a time the peer
   * receives no announcement.
   */
  readonly retryAfterMs?: number;
  /**
   * Time to wait for handlers and replies, in milliseconds.
   *
   * @default {5000}
   */
  readonly withinMs?: number;
}

/** The end of a peer's credentials. */
export interface SessionCredentials {
  /** When the credentials end, in milliseconds since the Unix epoch. */
  readonly endsAt: number;
  /** True if the credentials are a token, which the client can renew. */
  readonly isRenewable: boolean;
}

/** The public side of a session, for internal modules that must not depend on the class. */
export interface SessionFace {
  /** Id of the session. */
  readonly id: string;
  /** The user at the other end, or the session's id. */
  readonly user: string;
  /** The URL that the peer connected to. */
  readonly url: string;
  /** The path of `url`. */
  readonly path: string;
  /** A copy of the request headers that the server keeps. */
  readonly headers: Headers;
  /** Name of the transport. */
  readonly transport: string;
  /** The subprotocol of the connection. */
  readonly protocol: string;
  /** On a client: why the preferred transport is not in use. */
  readonly fallback: TransportFallback | undefined;
  /** The state of the session. */
  readonly state: SessionState;
  /** True once the session is over. */
  readonly isClosed: boolean;
  /** Resolves with the end of the session. */
  readonly closed: Promise<CloseInfo>;
  /** The connection of the session. */
  readonly connection: Connection;
  /** Datagrams in both directions. */
  readonly datagrams: DatagramDuplex;
  /** Opens a bidirectional stream. */
  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream>;
}

/**
 * Facts about a peer that the implementation of its session needs.
 *
 * @typeParam F The class of sessions.
 */
export interface PeerIdentity<F extends SessionFace = SessionFace> {
  /** Id of the session. */
  readonly id?: string;
  /** The result of `authenticate`. */
  readonly value?: unknown;
  /** The user. */
  readonly user?: string | undefined;
  /** The end of the credentials, if the credentials expire. */
  readonly credentials?: SessionCredentials | undefined;
  /** True if the session begins with the peer's token. */
  readonly awaitsToken?: boolean;
  /** Makes the session that takes the connection over. */
  readonly successor?: (() => F | undefined) | undefined;
  /** True if the peer received `hello` from the session before. */
  readonly inherits?: boolean;
  /** The session from which the client moves. */
  readonly predecessor?: F | undefined;
}
