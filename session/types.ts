/**
 * Types of a session, shared by its parts and its users.
 *
 * @module
 */
import type { CloseInfo, RequestError } from "../errors.ts";
import type {
  BidirectionalStream,
  Connection,
  ConnectionCounters,
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
  readonly code?: number | undefined;
  /** Reason in words; cut at a character boundary to the length that the connection carries. */
  readonly reason?: string | undefined;
  /**
   * Also closes the connection below, with all its other sessions. Only WebTransport connections
   * over HTTP/3 can carry several sessions; ignored elsewhere.
   *
   * @default {false}
   */
  readonly closeConnection?: boolean | undefined;
  /**
   * Marks the end of another session, whose `closed` can be passed on as it is: a code that no end
   * can send, such as 1006 for a loss, is then sent as 4503.
   */
  readonly by?: CloseInfo["by"] | undefined;
  /** The error of that end; ignored. */
  readonly error?: unknown;
}

/** Options for operations that wait. */
export interface WaitOptions {
  /** Ends the wait when aborted. */
  readonly signal?: AbortSignal | undefined;
  /** Ends the wait after this time, in milliseconds. */
  readonly timeoutMs?: number | undefined;
}

/** Options of a request whose answer streams. */
export interface RequestStreamOptions extends WaitOptions {
  /**
   * Receives each item that does not fit the contract, for example because the peer has another
   * version of the contract. The loop skips the item, and throws an error that this function throws.
   * Without this function, `onError` receives the error.
   */
  readonly onInvalid?: ((error: RequestError, data: unknown) => void) | undefined;
  /**
   * Time for the whole answer, in milliseconds. By default an answer may last as long as the session.
   *
   * @default {Infinity}
   */
  readonly timeoutMs?: number | undefined;
  /**
   * Longest wait of the loop for one item, in milliseconds; by default `requestTimeoutMs` of the
   * session. An answer that outlives its session has no such limit by default: its end is told.
   *
   * @default {30000}
   */
  readonly itemTimeoutMs?: number | undefined;
  /**
   * Items that the peer may send ahead of the loop, from 1 to 65,536. The peer sends no more than
   * about 1 MiB ahead in any case.
   *
   * @default {64}
   */
  readonly window?: number | undefined;
  /**
   * Name of an answer that outlives its session, of 16 to 64 letters, digits, hyphens and underscores:
   * the `id` of an earlier answer, to read on or beside. By default 128 random bits. For a week after
   * the answer has expired the loop throws `gone`, and none is started. Of a client only.
   */
  readonly id?: string | null | undefined;
  /**
   * Offset behind which to read an answer that outlives its session, as `offset` of an earlier one,
   * or `"-1"` for all items. With an offset the server starts no answer: the loop throws `gone` if
   * the answer is no longer kept. By default all items, of a new answer if there is none. Of a client
   * only.
   */
  readonly after?: string | null | undefined;
}

/**
 * The answer to a request, item by item, for one loop.
 *
 * - **Order:** the items come in the order in which the handler yields them.
 * - **Pace:** a loop that stalls suspends the handler once `window` items wait.
 * - **End:** the loop ends when the handler returns. A failure is thrown after the items before.
 * - **Leaving the loop** cancels the request: the signal of the handler is aborted, and its
 *   generator returns. An answer that outlives its session goes on, unless `cancel` is called.
 *
 * @typeParam T Type of an item.
 */
export interface StreamingAnswer<T> extends AsyncIterable<T> {
  /**
   * Name of an answer that outlives its session: for `id` of the request of a page that comes back,
   * and of another device. Empty for other answers.
   */
  readonly id: string;
  /**
   * Offset behind the newest item of the loop, for `after` of a later request with the same `id`.
   * `undefined` before the first item unless `after` was given, and for other answers.
   */
  readonly offset: string | undefined;
  /**
   * Cancels the request. The loop ends without an error, and items that wait are discarded. The loops
   * of all readers of an answer that outlives its session get its items instead, then throw a
   * {@linkcode RequestError} with the code `cancelled` and the reason.
   *
   * @param reason Reason for people.
   * @returns Resolves once the request to cancel is on its way, or kept for an answer that outlives
   * its session.
   */
  cancel(reason?: string): Promise<void>;
  /**
   * Yields the items. A second loop continues behind the first.
   *
   * @returns The iterator.
   */
  [Symbol.asyncIterator](): AsyncIterator<T, void, undefined>;
}

/** Options for publishing through the server. */
export interface ClientPublishOptions extends WaitOptions {
  /**
   * `"self"` leaves out this client: it never receives the publication, neither after a reconnect
   * nor from the history; other clients do. By default a subscribed client gets its own publication.
   */
  readonly except?: "self" | undefined;
}

/** Options for draining a session. */
export interface SessionDrainOptions extends SessionCloseOptions {
  /**
   * Time after which the peer may come back, in milliseconds, sent first. Without a time the peer
   * receives no announcement.
   */
  readonly retryAfterMs?: number | undefined;
  /**
   * Time to wait for handlers and replies, in milliseconds.
   *
   * @default {5000}
   */
  readonly withinMs?: number | undefined;
}

/** The public side of a session, for internal modules that must not depend on the class. */
export interface SessionFace {
  /** Id of the session. */
  readonly id: string;
  /** The user at the other end, or a name of its own for a session without a user. */
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
 * The sessions of one client before and after a session, and the secrets by which these are known.
 *
 * @typeParam S The class of sessions.
 */
export interface Lineage<S> {
  /** Names the session to the server in the request of the client's next session. */
  ticket: string | undefined;
  /** On a server: the secret of an earlier ticket, by which a guest is known again. */
  secret?: string | undefined;
  /** On a server: the session from which the client moves, see `SessionIdentity`. */
  predecessor: S | undefined;
  /** On a server: the session to which the client moved. */
  movedTo: S | undefined;
  /** On a client: id of the session from which the client moved, if the server knows it. */
  follows: string | undefined;
  /** On a server: the client over all its sessions, user and client id, once it has given an id. */
  client?: string | undefined;
}

/**
 * Facts about the peer of a session.
 *
 * @typeParam V The result of `authenticate`.
 * @typeParam S The class of sessions.
 */
export interface SessionIdentity<V = unknown, S = unknown> {
  /** Id of the session; on a client, the server's `hello` replaces it. */
  readonly id?: string | undefined;
  /** The result of `authenticate`. */
  readonly value?: V | undefined;
  /** The verified user at the other end. */
  readonly user?: string | undefined;
  /** On a server: true if the peer was admitted without an identity. */
  readonly isGuest?: boolean | undefined;
  /** On a server: the secret of the ticket of the client's earlier session. */
  readonly secret?: string | undefined;
  /** On a server: the end of the peer's credentials, if the credentials expire. */
  readonly credentials?: {
    /** When the credentials end, in milliseconds since the Unix epoch. */
    readonly endsAt: number;
    /** True if the credentials are a token, which the client can renew. */
    readonly isRenewable: boolean;
  } | undefined;
  /** The URL that the peer connected to. */
  readonly url?: string | undefined;
  /** Request headers. */
  readonly headers?: HeadersInit | undefined;
  /** The peer's network address. */
  readonly address?: string | undefined;
  /** A client's token, sent as the first envelope. */
  readonly token?: string | undefined;
  /**
   * On a server: true if the session begins with the peer's token; no frame before the token is
   * handled.
   */
  readonly awaitsToken?: boolean | undefined;
  /**
   * On a server: the session from which the client moves to this one. This session sends `hello` at
   * once, and is not established until the client sends a message.
   */
  readonly predecessor?: S | undefined;
  /** On a client: the reason why the session does not use the preferred transport. */
  readonly fallback?: TransportFallback | undefined;
}

/**
 * Counters of a session at the time of reading. No header, cookie or token is included.
 *
 * @example Usage
 * ```ts
 * import { Session } from "@skein/skein";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const { client, server } = memoryPair();
 * await using near = new Session(server, sessionSettings({ side: "server" }));
 * await using far = new Session(client, sessionSettings({ side: "client" }));
 * await far.ready;
 * const stream = await far.createUnidirectionalStream();
 * const { streamsCreated, activeStreams, unidirectionalStreams } = far.stats;
 * assertEquals([streamsCreated, activeStreams, unidirectionalStreams], [1, 1, 1]);
 * assertEquals(JSON.parse(JSON.stringify(near.stats)).state, "connected");
 * await stream.close();
 * ```
 */
export interface SessionStats extends
  Pick<
    ConnectionCounters,
    | "datagramBytesReceived"
    | "datagramBytesSent"
    | "datagramsDropped"
    | "datagramsReceived"
    | "datagramsSent"
    | "streamBytesReceived"
    | "streamBytesSent"
    | "streamErrors"
    | "streamsClosed"
    | "streamsRefused"
  > {
  /** Id of the session. */
  readonly id: string;
  /** State of the session. */
  readonly state: SessionState;
  /** Time of creation, in milliseconds since the Unix epoch. */
  readonly createdAt: number;
  /** Time at which the session was established; see `createdAt`. */
  readonly readyAt: number | undefined;
  /** Time at which the session ended; see `createdAt`. */
  readonly closedAt: number | undefined;
  /** Time for which the session is, or was, established, in milliseconds. */
  readonly uptimeMs: number;
  /** Waiting messages. */
  readonly queuedMessages: number;
  /** Waiting bytes. */
  readonly queuedBytes: number;
  /** Messages handed to the connection. */
  readonly sentMessages: number;
  /** Bytes handed to the connection. */
  readonly sentBytes: number;
  /** Messages dropped by policy, or because the connection cannot carry them. */
  readonly droppedMessages: number;
  /** Messages received. */
  readonly receivedMessages: number;
  /**
   * Bytes received. Text counts its length in UTF-16 units, which is less than its bytes beyond
   * ASCII.
   */
  readonly receivedBytes: number;
  /** Messages that wait to be handled. */
  readonly waitingMessages: number;
  /** Bytes of the messages that wait. */
  readonly waitingBytes: number;
  /** Messages discarded because the application never read any. */
  readonly unreadMessages: number;
  /** Messages that are malformed, or whose data does not fit the contract. */
  readonly invalidMessages: number;
  /** Envelopes with no known key. */
  readonly unknownEnvelopes: number;
  /** Violations of the protocol: malformed messages, and too large ones. */
  readonly protocolErrors: number;
  /** Replies that arrived after the request was abandoned. */
  readonly lateAnswers: number;
  /** Messages that the peer reports as dropped for this end. */
  readonly droppedByPeer: number;
  /** Messages of this end that the peer refused. */
  readonly refusedByPeer: number;
  /** Failed handlers of the application, for which `onError` was called. */
  readonly handlerFailures: number;
  /** Requests of this end that wait for answers. */
  readonly awaitedAnswers: number;
  /** Streams opened by either end. */
  readonly streamsCreated: number;
  /** Open streams. */
  readonly activeStreams: number;
  /** Bidirectional streams opened by either end. */
  readonly bidirectionalStreams: number;
  /** Unidirectional streams opened by either end. */
  readonly unidirectionalStreams: number;
  /**
   * Converts the counters to a plain object for JSON.
   *
   * @returns All counters.
   */
  toJSON(): Omit<SessionStats, "toJSON">;
}

/** Counters of a send queue. */
export type SendQueueStats = Pick<
  SessionStats,
  "queuedMessages" | "queuedBytes" | "sentMessages" | "sentBytes" | "droppedMessages"
>;

/** Counters of the receiving half. */
export type InboundStats = Pick<
  SessionStats,
  | "receivedMessages"
  | "receivedBytes"
  | "waitingMessages"
  | "waitingBytes"
  | "unreadMessages"
  | "invalidMessages"
  | "unknownEnvelopes"
  | "protocolErrors"
>;

/** Counters of control envelopes. */
export type ControlStats = Pick<
  SessionStats,
  "lateAnswers" | "droppedByPeer" | "refusedByPeer"
>;
