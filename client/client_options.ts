/** The options and the status of a client. */
import type { CloseInfo, RequestError } from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import type { Runtime } from "../base/runtime.ts";
import type { BackoffOptions } from "../base/backoff.ts";
import type { Contract } from "../session/contract.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";

import type { HistoryOptions, Recovery } from "../session/wire/recovery.ts";
import type { SessionLimits } from "../session/settings/settings.ts";
import type { Fresh, ServerUrl } from "../session/url.ts";
import type { Session } from "../session/session.ts";
import type { OutboxDrop } from "./store/dropped.ts";
import type { ClientStore } from "./store/keeper.ts";
import type { SessionPublishOptions, WaitOptions } from "../session/types.ts";
import type { SessionHandlers } from "../session/settings/check_settings.ts";
import type { SilentTransport, TransportFallback } from "../transport/race/options.ts";

export type { Fresh, ServerUrl };

/** The status of a client. */
export type ClientStatus =
  | { readonly name: "connecting" }
  | {
    readonly name: "connected";
    readonly session: string;
    readonly transport: string;
    /** The reason why the session is not on the preferred transport; absent if it is. */
    readonly fallback?: TransportFallback & { readonly message: string } | undefined;
  }
  | {
    readonly name: "reconnecting";
    /**
     * The number of attempts since the last stable session. With several URLs, the number of rounds
     * through all URLs.
     */
    readonly attempt: number;
    /** The delay before the next attempt, in milliseconds. */
    readonly delayMs: number;
    /** The time of the next attempt, in milliseconds since the Unix epoch. */
    readonly retryAt: number;
    /**
     * How the last session closed, or why the last attempt failed. The kind is `unavailable` if the
     * server responded with the close code 4503 or the HTTP status 503, which means that it cannot
     * serve now.
     */
    readonly cause: CloseInfo & { readonly kind?: "unavailable" | undefined };
  }
  | {
    /**
     * The server rejected the client, or the function `token` did. The client does not retry on its
     * own; call `retryNow()` to retry.
     */
    readonly name: "rejected";
    readonly cause: CloseInfo;
  }
  | { readonly name: "closed"; readonly cause: CloseInfo };

export type Dialer = (
  url: string | URL,
  options: {
    /** The client's clocks and timers. */
    readonly runtime: Runtime;
    /** The subprotocols to offer, in order of preference. */
    readonly protocols: readonly string[];
    /** Aborts the attempt; it also aborts when the time limit has passed. */
    readonly signal: AbortSignal;
    /** The time limit for the whole attempt, in milliseconds; may be `Infinity`. */
    readonly timeoutMs: number;
    /** Request headers. */
    readonly headers?: HeadersInit | undefined;
    /** Called before the dialer resolves, if the connection is not on the preferred transport. */
    readonly onFallback?: ((fallback: TransportFallback) => void) | undefined;
    /**
     * The previous session, if its server fell silent. That counts as a failure of the transport.
     */
    readonly silent?: SilentTransport | undefined;
    /**
     * Called with a connection on the preferred transport that opened after another transport had
     * been chosen.
     */
    readonly onLate?: ((connection: Connection) => void) | undefined;
    /** The only transport to try; all transports by default. */
    readonly only?: string | undefined;
    /**
     * Called when the browser is about to stop the connection, so that the client can replace it.
     */
    readonly onWorn?: (() => void) | undefined;
  },
) => Promise<Connection>;

/**
 * The options of a client.
 *
 * @typeParam C The contract.
 */
export interface ClientOptions<C extends Contract = Contract>
  extends
    Omit<SessionLimits, "heartbeat">,
    Omit<SessionHandlers<unknown, C, "client">, "onClose" | "onError" | "onOpen"> {
  /**
   * The topics and requests with their schemas, the same as on the server.
   *
   * @default {every topic is accepted}
   */
  readonly contract?: C | undefined;
  /**
   * A token of at most 8,192 bytes, or a function that returns one. The function is called for each
   * connection and each renewal, and once more after the server has rejected the last token.
   *
   * The token is sent in band before all messages. `undefined` and `null` mean that there is no
   * token, so you can pass the value from a page's storage even before a login.
   *
   * - **Errors:** an `AuthenticationError`, or a {@linkcode RequestError} with the code
   *   `unauthenticated` or `forbidden`, rejects the client as the server would. After every other
   *   error, such as a failed `fetch`, the client tries again.
   * - **One call at a time:** a client never makes two calls in parallel, which could use the same
   *   refresh token twice.
   * - **The signal** aborts when no attempt or session waits for the token any longer, and when the
   *   page wakes up, comes online or changes networks while an attempt hangs. Pass it to `fetch`.
   *   The next call starts when the aborted one has settled, or after 1 s if it ignores the signal.
   */
  readonly token?:
    | string
    | null
    | undefined
    | ((
      options: { readonly signal: AbortSignal },
    ) => string | null | undefined | Promise<string | null | undefined>);
  /**
   * Closes the client when the server rejects it. By default, a rejected client waits for
   * {@linkcode Client.retryNow} or `close`, and keeps its loops, subscriptions and publications.
   *
   * With this option, loops, subscriptions and publications are then rejected. Use it in programs
   * where no one can log in again.
   *
   * @default {false}
   */
  readonly endOnRejection?: boolean | undefined;
  /**
   * Request headers, which are checked at the call. They work only in Deno: in a browser, a client
   * with headers closes with a `TypeError`.
   */
  readonly headers?: HeadersInit | undefined;
  /**
   * The time limit for one attempt to connect, in milliseconds. `Infinity` means no limit.
   *
   * The attempt includes the functions for the URL and the token, and ends with the server's
   * `hello`. The wait for `hello` is also limited by `handshakeTimeoutMs`.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number | undefined;
  /**
   * `{ subscribe }`, which notifies the client that the app woke up or came back online, on
   * platforms that do not have a page's events, such as React Native.
   *
   * `subscribe` receives a function, which it must call at these times, and returns a function that
   * the client calls when it closes.
   */
  readonly life?: {
    subscribe(wake: () => void): () => void;
  } | undefined;
  /**
   * The delays between attempts, in milliseconds, and the maximum number of attempts. They start
   * over after a session of 5 s or more.
   *
   * @default {{ firstDelayMs: 500, maxDelayMs: 30000, maxAttempts: Infinity }}
   */
  readonly backoff?: BackoffOptions | undefined;
  /**
   * The delivery guarantee for messages and publications: `"at-least-once"` sends everything again
   * until the server has handled it, and `"at-most-once"` sends nothing again.
   *
   * - **By default,** publications on topics with a history are sent again if the session is lost
   *   before the server has replied, and each is published once. All other messages are sent at
   *   most once.
   * - **`at-least-once`:** publications are sent again on all topics. Messages are numbered, stay
   *   in the outbox until the server has handled them, and are sent again if the connection is
   *   lost. The server handles each message once, unless its process ends while it handles the
   *   message. See {@linkcode Client.flushed}.
   * - **`at-most-once`:** nothing is sent again.
   *
   * @default {sends publications on topics with a history again}
   */
  readonly delivery?: "at-most-once" | "at-least-once" | undefined;
  /** The limits of the outbox. */
  readonly outbox?: {
    /**
     * The maximum number of messages that wait for a connection or for an acknowledgment, and of
     * publications without a reply.
     *
     * @default {1000}
     */
    readonly maxMessages?: number | undefined;
    /**
     * The maximum total size of these messages, in bytes. A single message may be larger.
     *
     * @default {1048576} With the option `store`, 5,242,880.
     */
    readonly maxBytes?: number | undefined;
    /**
     * With the option `store`: receives what was kept and isn't sent any more, with the reason, if
     * no promise rejects, for example because a page was reloaded after the call.
     *
     * @default {prints a line}
     */
    readonly onDropped?: ((drop: OutboxDrop) => void) | undefined;
  } | undefined;
  /**
   * Keeps what waits for the server in a store, so that it survives the page or process. The client
   * closes the store.
   *
   * @default {everything waits in memory}
   */
  readonly store?: ClientStore | undefined;
  /**
   * Lets a client on a fallback transport retry the preferred one in the background, and move there
   * as {@linkcode Client.handOver} does.
   *
   * If the preferred transport opens after the fallback was chosen, the client moves immediately.
   * Otherwise, it retries within 35 s after a network change, and every 10 minutes. If the platform
   * or the server does not support the preferred transport, the client does not retry.
   *
   * @default {false}
   */
  readonly upgrade?: boolean | undefined;
  /**
   * Delays the first attempt to connect until this promise settles, for example until a page has
   * mounted.
   *
   * Until the promise settles, subscriptions, messages and requests wait as they do whenever there
   * is no connection.
   *
   * @default {connects immediately}
   */
  readonly connectAfter?: Promise<unknown> | undefined;
  /**
   * The client's clocks, timers and source of randomness.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /** Observes handshakes, sessions and messages for traces and metrics. */
  readonly instrumentation?: Instrumentation | undefined;
  /**
   * Receives errors that have no other recipient, such as errors of handlers, failures to connect,
   * and losses of messages.
   *
   * These are:
   *
   * - errors thrown by handlers,
   * - the first error of a subscription that waits until the server can reply,
   * - each failure to connect, if no one reads `status`; these errors have no session,
   * - once, a time limit of a proxy: two connections in a row broke at the same age,
   * - the failure of WebSocket, if the session then opens over HTTP,
   * - one error an hour about each kind of loss that no other handler receives: a session that
   *   closed with 4507 without a reader of `status`, dropped messages without `onDropped`, a gap
   *   without `onRecovery`, and the end of a subscription without a loop.
   *
   * @default {prints the error}
   */
  readonly onError?:
    | ((
      error: unknown,
      session: Session<unknown, C, "client"> | undefined,
    ) => void)
    | undefined;
  /** Closes the client permanently when aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** The options for subscribing. `since` and `last` apply only to topics with a history. */
export interface ClientSubscribeOptions extends HistoryOptions {
  /**
   * Receives each message that does not match the contract, for example because the server uses a
   * different version of it. The loop skips the message.
   *
   * The loop waits for a promise. If this function throws or rejects, the loop throws that error.
   *
   * @default {`onError` of the client receives the error}
   */
  readonly onInvalid?: ((error: RequestError, data: unknown) => unknown) | undefined;
  /**
   * Called after each loss of the connection, and after messages were dropped because there was no
   * loop. The argument says whether all missed messages will follow.
   *
   * The loop over the subscription calls and awaits this function between the messages before the
   * loss and the messages after it. If the function throws, the loop throws that error. Without
   * this function, read {@linkcode Subscription.recovery}, which holds the same information. A gap
   * in a topic with a history is then also printed, once for each topic.
   */
  readonly onRecovery?: ((recovery: Recovery) => unknown) | undefined;
}

/** The options for a client's publication. */
export interface ClientPublishOptions extends SessionPublishOptions {
  /**
   * The delivery guarantee of this publication, as in `connect`.
   *
   * @default {the `delivery` of `connect`}
   */
  readonly delivery?: ClientOptions["delivery"] | undefined;
}

/** The options of {@linkcode Client.flushed}. */
export interface FlushOptions extends WaitOptions {
  /** `"store"` waits for the store of the client instead of the server. */
  readonly to?: "store" | undefined;
}

/** The options for a client's request. */
export interface ClientRequestOptions extends WaitOptions {
  /**
   * Sends the request again if the connection is lost before the reply arrives. The server may
   * receive the request twice, so it MUST be safe to repeat.
   *
   * @default {false}
   */
  readonly retry?: boolean | undefined;
}
