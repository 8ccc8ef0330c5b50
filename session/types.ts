/**
 * Types of a session that its parts and its users share.
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

/** Where a session is in its life. */
export type SessionState = "connecting" | "connected" | "draining" | "closed";

/** Options for closing a session. */
export interface SessionCloseOptions {
  /**
   * 0, or 3000 to 4999.
   *
   * @default {0}
   */
  readonly code?: number;
  /** Reason in words; cut at a character boundary to what the wire carries. */
  readonly reason?: string;
  /**
   * Also ends what carries the session, and with that every other session there: only WebTransport
   * connections over HTTP/3 can be shared; elsewhere this says nothing.
   *
   * @default {false}
   */
  readonly closeConnection?: boolean;
}

/** Options for what waits. */
export interface WaitOptions {
  /** Gives up. */
  readonly signal?: AbortSignal;
  /** Gives up after this many milliseconds. */
  readonly timeoutMs?: number;
}

/** Options for publishing through the server. */
export interface ClientPublishOptions extends WaitOptions {
  /**
   * Sends the publication to this client too, where it is subscribed. Without an echo it never gets
   * it, also after a reconnect and when it reads the history; others do as ever.
   *
   * @default {true}
   */
  readonly echo?: boolean;
}

/** Options for draining a session. */
export interface SessionDrainOptions extends SessionCloseOptions {
  /** Told to the peer first: when to come back, in milliseconds. Without it, it is told nothing. */
  readonly retryAfterMs?: number;
  /**
   * How long to wait for handlers and answers, in milliseconds.
   *
   * @default {5000}
   */
  readonly withinMs?: number;
}

/** The end of a peer's credentials. */
export interface SessionCredentials {
  /** When they end, in milliseconds since the Unix epoch. */
  readonly endsAt: number;
  /** True if they are a token, which the client can renew. */
  readonly isRenewable: boolean;
}

/** The public side of a session, as its own parts see it; they never name the class. */
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
  /** Where the session is in its life. */
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
 * Facts of a peer that its session's works need.
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
  /** When the credentials end, if they do. */
  readonly credentials?: SessionCredentials | undefined;
  /** True if the session begins with the peer's token. */
  readonly awaitsToken?: boolean;
  /** Makes the session that takes the connection over. */
  readonly successor?: (() => F | undefined) | undefined;
  /** True if the peer was told `hello` by the session before. */
  readonly inherits?: boolean;
  /** The session from which the client moves. */
  readonly predecessor?: F | undefined;
}
