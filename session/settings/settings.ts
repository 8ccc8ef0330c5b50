/**
 * Settings shared by all sessions of a server or a client, with their instrumentation and services.
 *
 * @module
 */
import type { CallCheck, SessionCalls } from "./calls.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { HandlerServices, RequestTable } from "../responses/request_table.ts";
import type { CloseInfo, RequestError } from "../../errors.ts";
import type { RecoveryReason } from "../wire/recovery.ts";
import type { Contract, ContractRouter, Side } from "../contract.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import type { Envelope, GoAway, ServiceReader, TraceContext } from "../wire/envelope.ts";
import type { Control, UntypedMessage } from "../message.ts";
import type { Heartbeat } from "../heartbeat.ts";
import type { QueuedMessage } from "../queue/frames.ts";
import type { Flusher } from "../queue/flusher.ts";
import type { Overflow, OverflowPolicy } from "../queue/send_queue.ts";
import type { Lineage, SessionLike } from "../types.ts";
import { attempt } from "../../base/call_safely.ts";

/** The limits and timeouts of a session. Each of them has a default. */
export interface SessionLimits {
  /** The limits and the overflow policy for messages that wait to be sent. */
  readonly sendQueue?: {
    /**
     * Maximum number of messages that wait for the network.
     *
     * @default {256}
     */
    readonly maxMessages?: number | undefined;
    /**
     * Maximum size of these messages, in bytes. A message counts with its length in UTF-8.
     *
     * @default {1048576}
     */
    readonly maxBytes?: number | undefined;
    /**
     * The policy when the queue is full. A function chooses it by topic.
     *
     * @default {"close"}
     */
    readonly policy?: OverflowPolicy | ((topic: string) => OverflowPolicy) | undefined;
  } | undefined;
  /** Limits of the received messages that wait to be handled. */
  readonly receiveQueue?: {
    /**
     * Maximum number of messages that wait for the handler or the loop. One more closes the session
     * with 4507.
     *
     * Until the application has read its first message, the oldest message is discarded and counted
     * instead.
     *
     * @default {4096}
     */
    readonly maxMessages?: number | undefined;
    /**
     * Maximum size of these messages, in bytes.
     *
     * @default {1048576}
     */
    readonly maxBytes?: number | undefined;
  } | undefined;
  /** The interval of pings, and the silence after which a peer counts as dead. */
  readonly heartbeat?: {
    /**
     * Interval between two pings of a peer, in milliseconds; a multiple of 1,000.
     *
     * @default {25000}
     */
    readonly intervalMs?: number | undefined;
    /**
     * Silence after which a peer counts as dead, in milliseconds. A dead peer is detected at most
     * one second later.
     *
     * Background pages reply to pings in time, because browsers throttle timers, but not messages.
     *
     * @default {60000}
     */
    readonly timeoutMs?: number | undefined;
  } | undefined;
  /**
   * Size of the largest message that this side accepts, in bytes of its envelope. If a peer sends a
   * larger one, the session closes with 4413.
   *
   * Each side announces its limit, and respects that of the peer: a subscriber receives a gap in
   * place of a larger publication, and a larger request fails with `too-large`.
   *
   * @default {262144}
   */
  readonly maxMessageBytes?: number | undefined;
  /**
   * Number of malformed messages within a minute that closes the session with 4400. After as many
   * messages that do not fit the contract, further ones are rejected with `too-many`.
   *
   * Data that does not fit the contract never closes the session, because the peer may use another
   * version of the contract. Each such message is rejected with `invalid`.
   *
   * @default {16}
   */
  readonly maxInvalidMessages?: number | undefined;
  /**
   * Number of requests that may wait for a reply at the same time, per direction.
   *
   * @default {64}
   */
  readonly maxRequests?: number | undefined;
  /**
   * Number of messages that are handled concurrently. With more than one, their order is not kept.
   *
   * @default {1}
   */
  readonly concurrency?: number | undefined;
  /**
   * Time for which `request` waits for a reply, in milliseconds. It also limits decisions of the
   * application, such as `authorize` and the check of a schema.
   *
   * The decisions are `authorize`, `onOpen`, `tokens.onRenewed` and asynchronous schemas.
   *
   * @default {30000}
   */
  readonly requestTimeoutMs?: number | undefined;
  /**
   * Time that a close may take, in milliseconds.
   *
   * This includes flushing, the peer's close, and running handlers. In a client, also the time for
   * which `await using` waits for the writes of a live state.
   *
   * @default {5000}
   */
  readonly closeTimeoutMs?: number | undefined;
  /**
   * Time that a peer may take to send its first envelope (`hello`, or the token), in milliseconds.
   *
   * @default {5000}
   */
  readonly handshakeTimeoutMs?: number | undefined;
}

/** The handlers of an application, without the types of its contract. */
export interface ErasedHandlers {
  /**
   * Called once the session is established. See `SessionHandlers` for the documentation of all
   * members.
   */
  onOpen?(session: SessionLike): unknown;
  /** Handles a message. */
  onMessage?(message: UntypedMessage, session: SessionLike): void | Promise<void>;
  /** The handlers of requests by pattern. */
  readonly requests?: Readonly<Record<string, unknown>> | undefined;
  /** The contract of the handlers. */
  readonly contract?: Contract | undefined;
  /** Called once, when an established session has closed. */
  onClose?(session: SessionLike, info: CloseInfo): unknown;
  /** Receives the error of a handler that failed. */
  onError?(error: unknown, session: SessionLike | undefined): void;
  /** Called when the peer announces that it will shut down. */
  onGoAway?(goaway: GoAway, session: SessionLike): void;
  /** Called when the peer rejects a message that is not a request. */
  onMessageRejected?(error: RequestError, session: SessionLike): void;
  /** Called when the peer reports that it dropped messages to this side. */
  onDropped?(count: number, topic: string | undefined, session: SessionLike): void;
}

/** A session with the names by which its client identifies it. */
export interface NamedSession {
  /** Id of the session. */
  readonly id: string;
  /** The sessions before and after it. */
  readonly lineage: Lineage<{ readonly id: string }>;
}

/** The checked and complete options. They are created once for any number of sessions. */
export interface SessionSettings {
  /** Clocks, timers and randomness of this node. */
  readonly runtime: Runtime;
  /** This end of the session. */
  readonly side: Side;
  /**
   * The topics that this side receives, with their schemas.
   *
   * @ignore
   */
  readonly router: ContractRouter | undefined;
  /**
   * Sends messages at the end of an event loop turn. Sessions that share broadcasts share it.
   *
   * @ignore
   */
  readonly flusher: Flusher;
  /**
   * Watches all sessions of these settings.
   *
   * @ignore
   */
  readonly heartbeat: Heartbeat;
  /**
   * The handlers of the application.
   *
   * @ignore
   */
  readonly handlers: ErasedHandlers;
  /**
   * The request handlers; a client loads the table before its first session.
   *
   * @ignore
   */
  requests: RequestTable | undefined;
  /**
   * Skips an envelope that is too large, given the core of the session and the text. Returns false
   * if that is not possible. A client loads this function after its first session has started.
   *
   * @ignore
   */
  skipOversize?(core: object, text: string): boolean;
  /**
   * On a client: the tag of its user in the newest `hello`.
   *
   * @ignore
   */
  user?: unknown;
  /** Effect of a failed handler. */
  readonly onHandlerError: "reply" | "close";
  /**
   * Observes the sessions; `instrument` sets it.
   *
   * @ignore
   */
  watch: SessionWatch | undefined;
  /**
   * The services for peers, set once before the first session. A client has none.
   *
   * @ignore
   */
  services: (RequestServer & Disposable) | undefined;
  /**
   * Prints failures that have no handler.
   *
   * @ignore
   */
  readonly console: ConsoleReport;
  /**
   * On a server: writes the first envelope of a session.
   *
   * @ignore
   */
  readonly hello?: ((core: NamedSession) => string) | undefined;
  /**
   * Loads the module `insight/insight.ts`, whose functions take the core of a session. Few sessions
   * use them, so a page loads the module on first use.
   *
   * @ignore
   */
  readonly insight: () => Promise<unknown>;
  /**
   * Loads the module `responses/responses.ts`, as `insight` does.
   *
   * @ignore
   */
  readonly responses: () => Promise<unknown>;
  /**
   * Checks the options of a call.
   *
   * @ignore
   */
  readonly checkOptions: CallCheck<SessionCalls>;
  /**
   * Id of this client across all its sessions, with 128 random bits; empty on a server.
   *
   * @ignore
   */
  readonly client: string;
  /** Limits of the messages that wait to be sent. */
  readonly sendQueue: Required<NonNullable<SessionLimits["sendQueue"]>>;
  /**
   * Makes room in full send queues; `undefined` if the policy is `close`.
   *
   * @ignore
   */
  overflow?: Overflow | undefined;
  /**
   * On a server: creates the notice that replaces a message that is too large for a client.
   *
   * @ignore
   */
  gapOf?: ((entry: QueuedMessage) => QueuedMessage) | undefined;
  /** Limits of the received messages that wait to be handled. */
  readonly receiveQueue: Required<NonNullable<SessionLimits["receiveQueue"]>>;
  /** Largest message, in bytes. */
  readonly maxMessageBytes: number;
  /**
   * Number of malformed messages before the session closes, and of messages that do not fit the
   * contract before the peer is slowed down.
   */
  readonly maxInvalidMessages: number;
  /** Number of concurrent requests, per direction. */
  readonly maxRequests: number;
  /** Number of messages that are handled concurrently. */
  readonly concurrency: number;
  /** Time for which `request` waits, in milliseconds. */
  readonly requestTimeoutMs: number;
  /** Time that a close may take, in milliseconds. */
  readonly closeTimeoutMs: number;
  /** Time that the peer's first envelope may take, in milliseconds. */
  readonly handshakeTimeoutMs: number;
}

/** A handshake that an instrumentation follows. */
export interface FollowedHandshake {
  /** Runs the application's handshake code, in the hook or after it. */
  during<T>(run: () => T): T;
  /** Ends the handshake; only the first call counts. */
  ended(
    outcome: { readonly session: SessionLike } | {
      readonly error: unknown;
      readonly status?: number | undefined;
    },
  ): void;
}

/** Instrumentation of all sessions with the same settings. */
export interface SessionWatch {
  /** Starts to follow a handshake; `undefined` if the instrumentation doesn't. */
  handshake(info: HandshakeInfo): FollowedHandshake | undefined;
  /** Reports an established session. */
  opened(session: SessionLike): void;
  /** Reports a frame that has arrived. */
  received(session: SessionLike, frame: string | Uint8Array): void;
  /** Reports a publication of the peer; absent if there is no such hook. */
  published?(session: SessionLike, topic: string): void;
  /** Reports the end of an established session. */
  closed(session: SessionLike, info: CloseInfo): void;
  /** Runs a request. The function receives the trace to send with it. */
  asking<T>(
    session: SessionLike,
    topic: string,
    ask: (trace: TraceContext | undefined) => Promise<T>,
  ): Promise<T>;
  /** Returns the trace to send with a message. */
  sending(topic: string, session: SessionLike | undefined): TraceContext | undefined;
  /**
   * Runs the handler of a message, with its trace as received. The promise of `run` settles at the
   * end of the response.
   */
  handle(
    message: UntypedMessage,
    session: SessionLike,
    trace: unknown,
    run: () => void | Promise<void>,
  ): void | Promise<void>;
}

/** A handshake at the start. */
export interface HandshakeInfo {
  /** Client or server. */
  readonly side: Side;
  /** URL of the client's request, without the token. */
  readonly url: string;
  /** On a server: the transport of the client's request. A client doesn't know it yet. */
  readonly transport?: string | undefined;
  /** On a server: the client's network address, if known. */
  readonly address?: string | undefined;
}

/** Envelopes that may have the number of a message. */
export type NumberedEnvelope = Extract<Envelope, { kind: "message" | "publish" }>;

/** Envelopes that may carry the id of a client. */
export type IntroducingEnvelope = Extract<Envelope, { readonly client?: string | undefined }>;

/** Requests of the peer of one session for the services of a server. */
export interface SessionRequests {
  /** True if a service may be waiting for the session to close. */
  readonly isBusy: boolean;
  /** Checks the peer's token, and applies the identity. */
  signIn(token: string): Promise<unknown>;
  /** Handles an envelope with a request for a service. */
  receive(envelope: Control, size: number): void;
  /**
   * Registers the client's id, and handles a numbered envelope in its turn. Returns false if the
   * envelope still has to be handled.
   */
  takes(envelope: IntroducingEnvelope | NumberedEnvelope, size: number): boolean;
  /** Stops the services when the session closes. */
  end(reason: unknown): void;
}

/**
 * The services of a server, as its sessions see them. A client has no services, and does not load
 * their code.
 */
export interface RequestServer {
  /** Optional features, announced to clients. */
  readonly features: readonly string[];
  /** The part of the services that a request handler needs. */
  readonly services: HandlerServices;
  /** Reads the envelopes that only a server accepts. */
  readonly readService: ServiceReader;
  /** Creates the secret with which the client of a session can move to another session. */
  ticket(core: NamedSession): string | undefined;
  /** Names a session without a user. */
  nameOf(core: NamedSession): string;
  /** Creates the tag by which a client notices that it has another user than before. */
  userTag(core: NamedSession): string | undefined;
  /**
   * Called before a session receives its first frame, which the services may handle. They also
   * measure the session's back-pressure.
   */
  begin(session: SessionLike): void;
  /** Called before the session is established; a returned code and reason reject the session. */
  admit(session: SessionLike): { readonly code: number; readonly reason: string } | undefined;
  /** Called once the session is established. */
  opened(session: SessionLike): void;
  /** Creates the receiver of the requests of one session. */
  serve(session: SessionLike): SessionRequests;
}

/**
 * Reports an error to the application's `onError`. If there is no `onError`, or if it fails too,
 * the error is printed. Errors are never lost, and never end the process.
 */
export function report(
  settings: SessionSettings,
  error: unknown,
  session?: SessionLike,
): void {
  const { onError } = settings.handlers;
  const print = (error: unknown) =>
    settings.console.failed(
      session ? `A handler of session ${session.id}` : "A handler of a client",
      error,
    );
  if (onError === undefined) return print(error);
  attempt(() => onError(error, session), (failure) => {
    print(failure);
    print(error);
  });
}

/** A loss of one topic, as a subscription notices it. */
export type TopicLoss =
  /** Publications are missing. */
  | { readonly kind: "gap"; readonly gap: { readonly reason: RecoveryReason } }
  /** No loop reads the messages, and the queue is full. */
  | { readonly kind: "unread" }
  /** The server rejected a subscription, or ended it. */
  | { readonly kind: "rejected" | "ended"; readonly error: RequestError };

/** Lost messages, as one end of a session notices them. */
export type Loss =
  | TopicLoss & { readonly topic: string }
  /** The session closed with 4507: one end read too slowly. */
  | { readonly kind: "full"; readonly info: CloseInfo }
  /** The peer dropped messages from its send queue; of several topics if there is no `topic`. */
  | { readonly kind: "dropped"; readonly count: number; readonly topic?: string | undefined };

/** The part of `insight/losses.ts` that reports a loss. */
interface LossPart {
  tellLoss(settings: SessionSettings, loss: Loss, session: SessionLike | undefined): void;
}

/**
 * Reports a loss that no handler of the application receives. The code loads on first use; if it
 * cannot be loaded, the network is the more important problem.
 *
 * @param session The session, if there is only one.
 */
export function tellLoss(settings: SessionSettings, loss: Loss, session?: SessionLike): void {
  settings.insight().then(
    (part) => (part as LossPart).tellLoss(settings, loss, session),
    () => {},
  );
}

const MISFIT_ADVICE = "such data is skipped: set onInvalid or onError, and check that both sides " +
  "have the same contract";

/**
 * Reports skipped data, or a pending subscription, to the application's `onError` or on the
 * console.
 *
 * @param error The reason.
 * @param on The session, and the advice at the end of the console line. By default, the advice is
 * about data that does not fit the contract.
 */
export function tellSkipped(
  settings: SessionSettings,
  error: Error,
  { session, advice = MISFIT_ADVICE }: {
    readonly session: SessionLike;
    readonly advice?: string | undefined;
  },
): void {
  if (settings.handlers.onError !== undefined) return report(settings, error, session);
  const { message } = error;
  settings.console.tell("skipped", `${message}; ${advice}`, { about: message });
}
