/**
 * Types of a session that its parts and its users share.
 *
 * @module
 */

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
