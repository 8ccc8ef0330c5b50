/**
 * Session types, shared by internal modules and applications.
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
  /** The reason in words, truncated to the length that the connection can carry. */
  readonly reason?: string | undefined;
  /**
   * Also closes the underlying connection and all its other sessions; only WebTransport connections
   * over HTTP/3 can carry several.
   *
   * @default {false}
   */
  readonly closeConnection?: boolean | undefined;
  /**
   * Set in the result of another session's `closed`, so that you can pass that result on unchanged.
   *
   * A code that cannot be sent, such as 1006 for a lost connection, is then sent as 4503.
   */
  readonly by?: CloseInfo["by"] | undefined;
  /** The error of that close; ignored. */
  readonly error?: unknown;
}

/** Options for operations that wait. */
export interface WaitOptions {
  /** Ends the wait when aborted. */
  readonly signal?: AbortSignal | undefined;
  /** Ends the wait after this time, in milliseconds. */
  readonly timeoutMs?: number | undefined;
}

/** Options of a request for a streaming response. */
export interface RequestStreamOptions extends WaitOptions {
  /**
   * Receives each item that does not fit the contract, for example because the peer uses another
   * version of it. The loop skips the item.
   *
   * The loop waits for a promise. If this function throws or rejects, the loop throws that error.
   *
   * @default {`onError` receives the error}
   */
  readonly onInvalid?: ((error: RequestError, data: unknown) => unknown) | undefined;
  /**
   * Timeout for the whole response, in milliseconds.
   *
   * By default, a response may last as long as the session. On a client, the time includes the wait
   * for a session.
   *
   * @default {Infinity}
   */
  readonly timeoutMs?: number | undefined;
  /**
   * The longest time that the loop waits for one item, in milliseconds. A resumable response has no
   * such limit by default.
   *
   * The default is the session's `requestTimeoutMs`. The server reports when a resumable response
   * ends.
   *
   * @default {30000}
   */
  readonly itemTimeoutMs?: number | undefined;
  /**
   * Number of items that the peer may send ahead of the loop, from 1 to 65,536; never more than
   * about 1 MiB.
   *
   * @default {64}
   */
  readonly window?: number | undefined;
  /**
   * Only on a client: the name of a resumable response. Pass the `id` of an earlier response to
   * continue reading it; several loops can read it in parallel.
   *
   * A name has 16 to 64 letters, digits, hyphens and underscores; the default is as from `newId()`.
   * A guest's response with any other name belongs to this guest alone. For a week after the
   * response has expired, the loop throws `gone`, and no new response starts.
   *
   * @default {a random UUID}
   */
  readonly id?: string | null | undefined;
  /**
   * Only on a client: the offset after which to read a resumable response: the `offset` of an
   * earlier one, or `"-1"` for all items. With an offset, the server never starts a new response.
   *
   * If the response is no longer kept, the loop throws `gone`. By default, the loop yields all
   * items, and the server starts a new response if there is none.
   */
  readonly after?: string | null | undefined;
}

/**
 * The streaming response to a request, for one loop.
 *
 * - **Order:** items arrive in the order in which the handler yields them.
 * - **Back-pressure:** if the loop stalls, the handler pauses once `window` items wait.
 * - **End:** the loop ends when the handler returns. If there is an error, the loop throws it after
 *   the preceding items.
 * - **Leaving the loop** cancels the request: the handler's signal aborts, and its generator
 *   returns. A resumable response continues unless you call `cancel`.
 *
 * @typeParam T Type of an item.
 */
export interface StreamingResponse<T> extends AsyncIterable<T> {
  /**
   * The name of a resumable response. Pass it as `id` after a page reload, or on another device. It
   * is empty for other responses.
   */
  readonly id: string;
  /**
   * The offset after the loop's newest item. Pass it as `after` in a later request with the same
   * `id`. It is `undefined` before the first item unless `after` was given, and for responses that
   * are not resumable.
   */
  readonly offset: string | undefined;
  /**
   * Cancels the request. The loop ends without an error, and waiting items are discarded. A request
   * that still waits for a session is not sent. If the response is resumable, its readers receive
   * the items produced so far; their loops then throw a {@linkcode RequestError} with the code
   * `cancelled` and the reason.
   *
   * @param reason The reason, for people.
   * @returns Resolves once the cancel request was sent, or for a resumable response, once the
   * server has stored it.
   */
  cancel(reason?: string): Promise<void>;
  /**
   * Yields the items. A second loop continues where the first one stopped.
   *
   * @returns An iterator over the items that no earlier loop has received.
   */
  [Symbol.asyncIterator](): AsyncIterator<T, void, undefined>;
}

/** Options for publishing through the server. */
export interface SessionPublishOptions extends WaitOptions {
  /**
   * `"self"` excludes this client, which never receives the publication, not even after a reconnect
   * or from the history.
   *
   * @default {a subscribed client receives its own publication}
   */
  readonly except?: "self" | undefined;
}

/** Options for draining a session. */
export interface SessionDrainOptions extends SessionCloseOptions {
  /**
   * Time after which the peer may reconnect, in whole milliseconds, which the session announces
   * before it drains.
   *
   * @default {no announcement}
   */
  readonly retryAfterMs?: number | undefined;
  /**
   * Time to wait for handlers and replies, in milliseconds.
   *
   * @default {5000}
   */
  readonly withinMs?: number | undefined;
}

/** The public interface of a session, for internal modules that must not depend on the class. */
export interface SessionLike {
  /** Id of the session. */
  readonly id: string;
  /** The user on the other side, or the session's own name if there is no user. */
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
  readonly state: SessionState;
  /** True once the session has closed. */
  readonly isClosed: boolean;
  /** Resolves with how the session closed. */
  readonly closed: Promise<CloseInfo>;
  /** The connection of the session. */
  readonly connection: Connection;
  /** Datagrams in both directions. */
  readonly datagrams: DatagramDuplex;
  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream>;
}

/**
 * The sessions of one client before and after a session, and the secrets that identify them.
 *
 * @typeParam S The class of sessions.
 */
export interface Lineage<S> {
  /** Identifies the session to the server in the request for the client's next session. */
  ticket: string | undefined;
  /** On a server: the secret of an earlier ticket, which identifies a returning guest. */
  secret?: string | undefined;
  /** On a server: the session from which the client moves, see `SessionIdentity`. */
  predecessor: S | undefined;
  /** On a server: the session to which the client moved. */
  movedTo: S | undefined;
  /** On a client: id of the session from which the client moved, if the server knows it. */
  follows: string | undefined;
  /** On a client: true if the session started with a token. */
  hasToken?: boolean | undefined;
  /** On a client: true if the peer is another host than that of the URL, so it gets no secrets. */
  isElsewhere?: boolean | undefined;
  /**
   * On a server: the key of the client across its sessions (user and client id), once the client
   * has sent its id.
   */
  client?: string | undefined;
}

/**
 * Facts about the peer of a session.
 *
 * @typeParam V The result of `authenticate`.
 * @typeParam S The class of sessions.
 */
export interface SessionIdentity<V = unknown, S = unknown> {
  /** Id of the session. On a client, the id in the server's `hello` replaces it. */
  readonly id?: string | undefined;
  /** The result of `authenticate`. */
  readonly value?: V | undefined;
  /** The verified user on the other side. */
  readonly user?: string | undefined;
  /** On a server: true if the peer was admitted without an identity. */
  readonly isGuest?: boolean | undefined;
  /** On a server: the secret of the ticket of the client's earlier session. */
  readonly secret?: string | undefined;
  /** On a server: the expiry of the peer's credentials, if they expire. */
  readonly credentials?: {
    /** When the credentials expire, in milliseconds since the Unix epoch. */
    readonly endsAt: number;
    /** True if the credentials are a token that the client can renew. */
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
   * On a server: true if the session starts with the peer's token; frames before the token are not
   * handled.
   */
  readonly awaitsToken?: boolean | undefined;
  /**
   * On a server: the session from which the client moves to this session. This session sends
   * `hello` immediately, and is established when the client sends a message.
   */
  readonly predecessor?: S | undefined;
  /** On a client: the reason why the session does not use the preferred transport. */
  readonly fallback?: TransportFallback | undefined;
}

/**
 * Counters of a session at the time of reading. They contain no header, cookie or token.
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
    | "streamsRejected"
  > {
  /** Id of the session. */
  readonly id: string;
  /** State of the session. */
  readonly state: SessionState;
  /** Time of creation, in milliseconds since the Unix epoch. */
  readonly createdAt: number;
  /** Time at which the session was established; see `createdAt`. */
  readonly readyAt: number | undefined;
  /** Time at which the session closed; see `createdAt`. */
  readonly closedAt: number | undefined;
  /** Time for which the session is, or was, established, in milliseconds. */
  readonly uptimeMs: number;
  /** Waiting messages. */
  readonly queuedMessages: number;
  /** Waiting bytes. */
  readonly queuedBytes: number;
  /** Messages passed to the connection. */
  readonly sentMessages: number;
  /** Bytes passed to the connection. */
  readonly sentBytes: number;
  /** Messages dropped by policy, or because the connection cannot carry them. */
  readonly droppedMessages: number;
  /** Messages received. */
  readonly receivedMessages: number;
  /**
   * Bytes received. Text is counted in UTF-16 units, which is less than its size in bytes if it
   * contains more than ASCII.
   */
  readonly receivedBytes: number;
  /** Messages that wait to be handled. */
  readonly waitingMessages: number;
  /** Bytes of the waiting messages. */
  readonly waitingBytes: number;
  /** Messages discarded because the application never read any. */
  readonly unreadMessages: number;
  /** Messages that are malformed, or whose data does not fit the contract. */
  readonly invalidMessages: number;
  /** Envelopes without a known key. */
  readonly unknownEnvelopes: number;
  /** Protocol violations: malformed messages, and messages that are too large. */
  readonly protocolErrors: number;
  /** Replies that arrived after the request was abandoned. */
  readonly lateReplies: number;
  /** Messages that the peer reports as dropped for this side. */
  readonly droppedByPeer: number;
  /** Messages of this side that the peer rejected. */
  readonly rejectedByPeer: number;
  /** Failed handlers of the application, for which `onError` was called. */
  readonly handlerFailures: number;
  /** Requests of this side that wait for replies. */
  readonly pendingReplies: number;
  /** Streams opened by either side. */
  readonly streamsCreated: number;
  /** Open streams. */
  readonly activeStreams: number;
  /** Bidirectional streams opened by either side. */
  readonly bidirectionalStreams: number;
  /** Unidirectional streams opened by either side. */
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
  "lateReplies" | "droppedByPeer" | "rejectedByPeer"
>;
