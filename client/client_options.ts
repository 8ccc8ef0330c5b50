/** Options and status of a client. */
import type { CloseInfo, RequestError } from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import type { Runtime } from "../base/runtime.ts";
import type { BackoffOptions } from "../base/backoff.ts";
import type { Contract } from "../session/contract.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";

import type { HistoryOptions, Recovery } from "../session/wire/recovery.ts";
import type { SessionLimits } from "../session/settings.ts";
import type { Fresh, ServerUrl } from "../session/url.ts";
import type { Session } from "../session/session.ts";
import type { WaitOptions } from "../session/types.ts";
import type { SessionHandlers } from "../session/check_settings.ts";
import type {
  SilentTransport,
  TransportFallback,
  TransportName,
} from "../transport/race/options.ts";

export type { Fresh, ServerUrl };

/** Status of a client. */
export type ClientStatus =
  | { readonly name: "connecting" }
  | {
    readonly name: "connected";
    readonly session: string;
    readonly transport: string;
    /** Reason why the session is not on the preferred transport; absent on the preferred one. */
    readonly fallback?: TransportFallback & { readonly message: string } | undefined;
  }
  | {
    readonly name: "reconnecting";
    /** Attempts since the last stable session. With several URLs, rounds through all URLs. */
    readonly attempt: number;
    /** Delay before the next attempt, in milliseconds. */
    readonly delayMs: number;
    /** Time of the next attempt, in milliseconds since the Unix epoch. */
    readonly retryAt: number;
    /**
     * Close of the last session, or failure of the last attempt. The kind is `unavailable` if the
     * server responded that it cannot serve now, with 4503 or the HTTP status 503.
     */
    readonly cause: CloseInfo & { readonly kind?: "unavailable" | undefined };
  }
  | {
    /** The server refused the client, which does not retry on its own; see `retryNow()`. */
    readonly name: "refused";
    readonly cause: CloseInfo;
  }
  | { readonly name: "closed"; readonly cause: CloseInfo };

export type Dialer = (
  url: string | URL,
  options: {
    /** Clocks and timers of the client. */
    readonly runtime: Runtime;
    /** Subprotocols to offer, the best first. */
    readonly protocols: readonly string[];
    /** Aborts the attempt, also after the time limit. */
    readonly signal: AbortSignal;
    /** Time limit of the whole attempt, in milliseconds; may be `Infinity`. */
    readonly timeoutMs: number;
    /** Request headers. */
    readonly headers?: HeadersInit | undefined;
    /** Called before the dialer resolves, if the connection is not on the preferred transport. */
    readonly onFallback?: ((fallback: TransportFallback) => void) | undefined;
    /**
     * The previous session, if the server fell silent, which counts as a failure of the transport.
     */
    readonly silent?: SilentTransport | undefined;
    /**
     * Called with a connection on the preferred transport that opened after another one was chosen.
     */
    readonly onLate?: ((connection: Connection) => void) | undefined;
    /** The one transport to try; all transports by default. */
    readonly only?: TransportName | undefined;
    /** Called when the browser is about to stop the connection, which has to be replaced. */
    readonly onWorn?: (() => void) | undefined;
  },
) => Promise<Connection>;

/** A client's platform: a page, or Deno. */
export interface ClientPlatform {
  /** Opens connections. */
  readonly dial: Dialer;
  /**
   * Loads the session features other than messages, on first use.
   *
   * @ignore
   */
  readonly insight: () => Promise<unknown>;
  /**
   * Loads streaming responses, and request handlers, on first use.
   *
   * @ignore
   */
  readonly answers: () => Promise<unknown>;
  /**
   * Loads the module `recovery.ts`, which notices a lost server and carries subscriptions and
   * messages to the next session.
   *
   * @ignore
   */
  readonly recovery: () => Promise<unknown>;
  /** @ignore */
  readonly checkOptions: (call: string, options: unknown) => void;
}

/**
 * Options of a client.
 *
 * @typeParam C The contract.
 */
export interface ClientOptions<C extends Contract = Contract>
  extends
    Omit<SessionLimits, "heartbeat">,
    Omit<SessionHandlers<unknown, C, "client">, "onClose" | "onError" | "onOpen"> {
  /** Topics with schemas, the same as the server's. Without a contract, every topic is accepted. */
  readonly contract?: C | undefined;
  /**
   * Token of at most 8,192 bytes, sent in band before all messages; no token by default. A function
   * is called for each connection, when the server asks for a new token before the old one expires,
   * and once more after the server refused its last token. `undefined` and `null` mean no token, as
   * a page's storage returns before a login.
   */
  readonly token?:
    | string
    | null
    | undefined
    | (() => string | null | undefined | Promise<string | null | undefined>);
  /**
   * Closes the client when the server refuses it, for programs in which no one can log in again:
   * loops, subscriptions and publications are rejected. By default a refused client keeps them, and
   * waits for {@linkcode Client.retryNow} or `close`.
   *
   * @default {false}
   */
  readonly endOnRefusal?: boolean | undefined;
  /** Request headers; Deno only: in a browser, a client with headers closes with a `TypeError`. */
  readonly headers?: HeadersInit | undefined;
  /**
   * Time limit of one attempt to connect, in milliseconds, from the functions for URL and token to
   * the server's `hello`. `Infinity` sets no limit. The wait for `hello` is also bounded by
   * `handshakeTimeoutMs`.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number | undefined;
  /**
   * Notifies the client that the app woke up or came back online, on a platform without a page's
   * events, such as React Native. `subscribe` receives a function to call at these times, and
   * returns a function that the client calls when it closes.
   */
  readonly life?: {
    subscribe(wake: () => void): () => void;
  } | undefined;
  /**
   * Delays between attempts, in milliseconds, and the number of attempts.
   *
   * @default {{ firstDelayMs: 500, maxDelayMs: 30000, maxAttempts: Infinity }}
   */
  readonly backoff?: BackoffOptions | undefined;
  /**
   * Delivery guarantee of messages and publications. With `at-least-once`, messages are numbered,
   * stay in the outbox until the server has handled them, and are sent again after a loss. The
   * server handles each message once, unless its process ends in the middle. See
   * {@linkcode Client.flushed}.
   *
   * @default {"at-most-once"}
   */
  readonly delivery?: "at-most-once" | "at-least-once" | undefined;
  /** Bounds of the outbox. */
  readonly outbox?: {
    /**
     * Maximum number of messages that wait for a connection or for an acknowledgment.
     *
     * @default {100}
     */
    readonly maxMessages?: number | undefined;
    /**
     * Maximum number of bytes of waiting messages.
     *
     * @default {262144}
     */
    readonly maxBytes?: number | undefined;
  } | undefined;
  /**
   * Lets a client on a fallback transport retry the preferred one in the background, and move there
   * as {@linkcode Client.handOver} does. If the preferred transport opens after the fallback was
   * chosen, the client moves immediately. It retries at most 35 s after a change of the network,
   * and every 10 minutes. A transport that the platform or the server does not support is not
   * retried.
   *
   * @default {false}
   */
  readonly upgrade?: boolean | undefined;
  /**
   * Delays the first attempt to connect until this promise settles, for example until a page has
   * mounted. By default the client connects immediately. Subscriptions, messages and requests wait
   * meanwhile, as during any other time without a connection.
   */
  readonly connectAfter?: Promise<unknown> | undefined;
  /**
   * Clocks, timers and randomness of this client.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /** Watches handshakes, sessions and messages for traces and metrics. */
  readonly instrumentation?: Instrumentation | undefined;
  /**
   * Receives the errors of handlers, the first error of a subscription that waits until the server
   * can answer, and each failure to connect that no reader of `status` sees, which has no session.
   * Without this handler, errors are printed.
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

/** Options for subscribing. `since` and `last` apply only to topics with a history. */
export interface ClientSubscribeOptions extends HistoryOptions {
  /**
   * Receives each message that does not fit the contract, for example because the server uses
   * another version of the contract. The loop skips the message. If this function throws, the loop
   * throws that error. Without this function, `onError` of the client receives the error.
   */
  readonly onInvalid?: ((error: RequestError, data: unknown) => void) | undefined;
  /**
   * Called after each loss; the argument says if all missed messages follow. The loop over the
   * subscription calls and awaits this function between the messages before the loss and the
   * messages after the loss, and throws any error of the function. Absent by default;
   * {@linkcode Subscription.recovery} holds the same information.
   */
  readonly onRecovery?: ((recovery: Recovery) => void | Promise<void>) | undefined;
}

/** Options for a request of a client. */
export interface ClientRequestOptions extends WaitOptions {
  /**
   * Sends the request again if the connection is lost before the reply. The server may receive the
   * request twice, so the request MUST be safe to repeat.
   *
   * @default {false}
   */
  readonly retry?: boolean | undefined;
}
