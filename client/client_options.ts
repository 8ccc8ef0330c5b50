/**
 * Options of a client, and its status.
 *
 * @module
 */
import type { CloseInfo } from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import type { BackoffOptions } from "../session/base/backoff.ts";
import type { AnyContract } from "../session/contract.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import type { OutboxOptions } from "./outbox.ts";
import type { SessionFallback } from "../session/session.ts";
import type { SessionLimits } from "../session/settings.ts";
import type { Fresh, ServerUrl } from "../session/url.ts";
import type { WaitOptions } from "../session/types.ts";
import type { SessionHandlers } from "../session/session_settings.ts";
import type {
  SilentTransport,
  TransportFallback,
  TransportName,
} from "../transport/race/options.ts";

export type { Fresh, ServerUrl };

/** How a client is doing. */
export type ClientStatus =
  | { readonly name: "connecting" }
  | {
    readonly name: "connected";
    readonly session: string;
    readonly transport: string;
    /** Why the session is not on the transport that was preferred; absent if it is. */
    readonly fallback?: SessionFallback;
  }
  | {
    readonly name: "reconnecting";
    /** Attempts since the last session that held; of several URLs, rounds through all of them. */
    readonly attempt: number;
    /** How long the client waits, in milliseconds. */
    readonly delayMs: number;
    /** When it tries again, in milliseconds since the Unix epoch. */
    readonly retryAt: number;
    /** How the last session, or the last attempt, ended. */
    readonly cause: CloseInfo;
  }
  | { readonly name: "refused"; readonly cause: CloseInfo }
  | { readonly name: "closed"; readonly cause: CloseInfo };

/** Opens a connection; how is the platform's matter. */
export type Dialer = (
  url: string | URL,
  options: {
    /** Subprotocols to offer, the best first. */
    readonly protocols: readonly string[];
    /** Gives up, also when the time is over. */
    readonly signal: AbortSignal;
    /** How long the whole attempt may take, in milliseconds; may be `Infinity`. */
    readonly timeoutMs: number;
    /** Request headers. */
    readonly headers?: HeadersInit;
    /** To be called before the connection is there, if it is not on the transport that was preferred. */
    readonly onFallback?: (fallback: TransportFallback) => void;
    /** The session before, where it opened and then fell silent: its transport counts as one that failed. */
    readonly silent?: SilentTransport | undefined;
    /** See `RaceOptions` of the transports: gets the preferred one where it opens late. */
    readonly onLate?: (connection: Connection) => void;
    /** The one transport to try; all of them if left out. */
    readonly only?: TransportName | undefined;
    /** To be called once the connection should be replaced, since its engine is about to take no more. */
    readonly onWorn?: () => void;
  },
) => Promise<Connection>;

/**
 * Options of a client.
 *
 * @typeParam C The contract.
 */
export interface ClientOptions<C extends AnyContract = AnyContract>
  extends
    Omit<SessionLimits, "heartbeat">,
    Omit<SessionHandlers<unknown, C, "client">, "onClose" | "onOpen"> {
  /** Topics and their schemas, the same as the server's; without one, every topic is let through. */
  readonly contract?: C;
  /**
   * Token of at most 8,192 bytes, sent in band before anything else; none by default. A function is
   * asked anew for each connection, and when the server asks for a new token before the old one
   * ends; where it returns `undefined`, the client comes as a guest.
   */
  readonly token?: Fresh<string | undefined>;
  /** Request headers, none by default; Deno only: in a browser the client closes with a `TypeError`. */
  readonly headers?: HeadersInit;
  /**
   * How long one attempt to connect may take, in milliseconds, from the URL and
   * the token to the server's `hello`. `Infinity` is for ever; `hello` has its
   * own `handshakeTimeoutMs` besides.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number;
  /**
   * How long the server may take to give a sign of life, in milliseconds, when the page or the
   * machine slept, is back online, or changed its network. After it the client reconnects at once.
   *
   * @default {5000}
   */
  readonly wakeTimeoutMs?: number;
  /**
   * Delays between attempts, in milliseconds, and how many attempts there are.
   *
   * @default {{ firstDelayMs: 500, maxDelayMs: 30000, maxAttempts: Infinity }}
   */
  readonly backoff?: BackoffOptions;
  /**
   * How sure messages and publications are to arrive. With `at-least-once` they are numbered, stay in
   * the outbox until the server has handled them, and are sent again after a loss; the server handles
   * each once, unless it ends in the middle. See {@linkcode Client.flushed}.
   *
   * @default {"at-most-once"}
   */
  readonly delivery?: "at-most-once" | "at-least-once";
  /**
   * Bounds of what is said while not connected, in messages and bytes.
   *
   * @default {{ maxMessages: 100, maxBytes: 262144 }}
   */
  readonly outbox?: OutboxOptions;
  /**
   * Whether a client that is not on its preferred transport tries that again in the background, and
   * moves there as {@linkcode Client.handOver} does: at once where that transport opened after the
   * other one was taken, at most 35 s after its network changed, and every 10 minutes. A platform or a server that has no such transport is not asked again.
   *
   * @default {false}
   */
  readonly upgrade?: boolean;
  /** Watches handshakes, sessions and messages from outside, for traces and metrics; nobody by default. */
  readonly instrumentation?: Instrumentation;
  /** Closes the client when it is aborted, for good; none by default. */
  readonly signal?: AbortSignal;
}

/** Options for moving to another session. */
export interface HandOverOptions {
  /** The transport of the new session; by default it is taken as for every session. */
  readonly transport?: TransportName;
}

/** Options for a request of a client. */
export interface ClientRequestOptions extends WaitOptions {
  /**
   * Asks again if the connection is lost before the answer came. The server may
   * get such a request twice: it has to be one that can be repeated.
   *
   * @default {false}
   */
  readonly resend?: boolean;
}
