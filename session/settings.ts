/**
 * Settings that all sessions of a server, or of a client, share, with the instrumentation and the
 * services that belong to the settings.
 *
 * @module
 */
import type { CallCheck, SessionCalls } from "./calls.ts";
import type { Runtime } from "../base/runtime.ts";
import type { KeepAnswer, RequestTable } from "./answers/request_table.ts";
import type { CloseInfo, RequestError } from "../errors.ts";
import type { Contract, ContractRouter, Side } from "./contract.ts";
import type { ConsoleReport } from "../base/console_report.ts";
import type { Envelope, GoAway, ServiceReader, TraceContext } from "./wire/envelope.ts";
import type { Control, MessageTurn, UntypedMessage } from "./message.ts";
import type { Frame } from "../transport/connection.ts";
import type { Heartbeat } from "./heartbeat.ts";
import type { OverflowPolicy, Turn } from "./queue/turn.ts";
import type { Lineage, SessionFace } from "./types.ts";
import { attempt } from "../base/call_safely.ts";

/** Limits and times of a session; every one has a default. */
export interface SessionLimits {
  /** Bounds and policy of the messages that wait to be sent. */
  readonly sendQueue?: {
    /**
     * Most waiting messages.
     *
     * @default {256}
     */
    readonly maxMessages?: number | undefined;
    /**
     * Most waiting bytes; a message counts its UTF-8 length.
     *
     * @default {1048576}
     */
    readonly maxBytes?: number | undefined;
    /**
     * Treatment of a message that finds the queue full; a function chooses the policy by topic.
     *
     * @default {"close"}
     */
    readonly policy?: OverflowPolicy | ((topic: string) => OverflowPolicy) | undefined;
  } | undefined;
  /** Bounds of the received messages that wait to be handled. */
  readonly receiveQueue?: {
    /**
     * Most messages that wait for the handler or the loop; one more closes the session with 4507.
     * Until the application first reads a message, the oldest is discarded instead, and counted.
     *
     * @default {4096}
     */
    readonly maxMessages?: number | undefined;
    /**
     * Most bytes that wait.
     *
     * @default {1048576}
     */
    readonly maxBytes?: number | undefined;
  } | undefined;
  /** Interval of pings, and the silence after which a peer counts as dead. */
  readonly heartbeat?: {
    /**
     * Interval between two pings of a peer, in milliseconds; a multiple of 1,000.
     *
     * @default {25000}
     */
    readonly intervalMs?: number | undefined;
    /**
     * Silence after which a peer counts as dead, in milliseconds; detected at most one second later.
     * Pages in the background answer pings in time: browsers delay timers, but not messages.
     *
     * @default {60000}
     */
    readonly timeoutMs?: number | undefined;
  } | undefined;
  /**
   * Largest message that this end accepts, in bytes of its envelope. Each end tells the other its bound
   * and keeps to that of the other: a subscriber receives a gap in place of a larger publication, and a
   * request fails with `too-large`. A peer that sends more is closed with 4413.
   *
   * @default {262144}
   */
  readonly maxMessageBytes?: number | undefined;
  /**
   * Messages within a minute that the peer may get wrong. That many malformed messages close the
   * session with 4400. Data that does not fit the contract never closes the session, since the peer
   * may have another version of the contract: each such message is refused as `invalid`, and after
   * this number as `too-many`.
   *
   * @default {16}
   */
  readonly maxInvalidMessages?: number | undefined;
  /**
   * Requests that may wait for a reply at once, per direction.
   *
   * @default {64}
   */
  readonly maxRequests?: number | undefined;
  /**
   * Messages handled at once. With more than one, their order is not kept.
   *
   * @default {1}
   */
  readonly concurrency?: number | undefined;
  /**
   * Time that `request` waits for a reply, in milliseconds. Also the most that a session waits for
   * decisions of the application: `authorize`, `onOpen`, `onRenewed` and asynchronous schemas.
   *
   * @default {30000}
   */
  readonly requestTimeoutMs?: number | undefined;
  /**
   * Time that a close may take, in milliseconds: flushing, the peer's own close, and handlers that
   * still run.
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
  /** Called once the session is established. `SessionHandlers` has the docs of all members. */
  onOpen?(session: SessionFace): void | Promise<void>;
  /** Handles a message. */
  onMessage?(message: UntypedMessage, session: SessionFace): void | Promise<void>;
  /** The handlers of requests by pattern. */
  readonly requests?: Readonly<Record<string, unknown>> | undefined;
  /** The contract to which these belong. */
  readonly contract?: Contract | undefined;
  /** Called once, when an established session is over. */
  onClose?(session: SessionFace, info: CloseInfo): void | Promise<void>;
  /** Receives the error of a handler that failed. */
  onError?(error: unknown, session: SessionFace | undefined): void;
  /** Called when the peer announces that it will go away. */
  onGoAway?(goaway: GoAway, session: SessionFace): void;
  /** Called when the peer refuses a message that is not a request. */
  onRefused?(error: RequestError, session: SessionFace): void;
  /** Called when the peer reports messages that it dropped for this end. */
  onDropped?(count: number, topic: string | undefined, session: SessionFace): void;
}

/** A session with the names by which its client knows it. */
export interface NamedSession {
  /** Id of the session. */
  readonly id: string;
  /** The sessions before and after it. */
  readonly lineage: Lineage<{ readonly id: string }>;
}

/** Options, checked and complete; made once for any number of sessions. */
export interface SessionSettings {
  /** Clocks, timers and randomness of this node. */
  readonly runtime: Runtime;
  /** This end of the session. */
  readonly side: Side;
  /**
   * Topics and their schemas, as this side receives these.
   *
   * @ignore
   */
  readonly router: ContractRouter | undefined;
  /**
   * Sends messages at the end of a turn; sessions that share broadcasts share one.
   *
   * @ignore
   */
  readonly turn: Turn;
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
   * The handlers of requests; a client loads the table before its first session.
   *
   * @ignore
   */
  requests: RequestTable | undefined;
  /**
   * Goes on after an envelope that is too large, of which the text is given; false if that is not
   * possible. Takes the core of the session. A client loads this after its first session has begun.
   *
   * @ignore
   */
  skipOversize?(core: object, text: string): boolean;
  /** Effect of a handler that failed. */
  readonly onHandlerError: "answer" | "close";
  /**
   * Watches the sessions from outside; `instrument` sets it.
   *
   * @ignore
   */
  watch: SessionWatch | undefined;
  /**
   * Services for peers; a client has none.
   *
   * @ignore
   */
  readonly services: (RequestServer & Disposable) | undefined;
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
   * Loads the module `insight/insight.ts`, whose functions take the core of a session: few sessions
   * use these, so a page loads the module on first use.
   *
   * @ignore
   */
  readonly insight: () => Promise<unknown>;
  /**
   * Loads the module `answers/answers.ts`, as `insight` does.
   *
   * @ignore
   */
  readonly answers: () => Promise<unknown>;
  /**
   * Checks the options of a call.
   *
   * @ignore
   */
  readonly checkOptions: CallCheck<SessionCalls>;
  /**
   * Id of this client over all its sessions: 128 random bits; empty on a server.
   *
   * @ignore
   */
  readonly client: string;
  /** Bounds of the messages that wait to be sent. */
  readonly sendQueue: Required<NonNullable<SessionLimits["sendQueue"]>>;
  /** Bounds of the received messages that wait to be handled. */
  readonly receiveQueue: Required<NonNullable<SessionLimits["receiveQueue"]>>;
  /** Largest message, in bytes. */
  readonly maxMessageBytes: number;
  /** Malformed messages before the session closes, and misfits before the peer is slowed. */
  readonly maxInvalidMessages: number;
  /** Requests at once, per direction. */
  readonly maxRequests: number;
  /** Messages handled at once. */
  readonly concurrency: number;
  /** Time that `request` waits, in milliseconds. */
  readonly requestTimeoutMs: number;
  /** Time that a close may take, in milliseconds. */
  readonly closeTimeoutMs: number;
  /** Time that the peer's first envelope may take, in milliseconds. */
  readonly handshakeTimeoutMs: number;
}

/** A handshake that an instrumentation follows. */
export interface FollowedHandshake {
  /** Runs the application's code of the handshake, in the hook or after the hook. */
  during<T>(run: () => T): T;
  /** Ends the handshake; only the first call counts. */
  ended(
    outcome: { readonly session: SessionFace } | {
      readonly error: unknown;
      readonly status?: number | undefined;
    },
  ): void;
}

/** Instrumentation of all sessions with the same settings. */
export interface SessionWatch {
  /** Begins a handshake; `undefined` if the instrumentation does not follow the handshake. */
  handshake(info: HandshakeInfo): FollowedHandshake | undefined;
  /** Reports an established session. */
  opened(session: SessionFace): void;
  /** Reports a frame that has arrived. */
  received(session: SessionFace, frame: string | Uint8Array): void;
  /** Reports the end of an established session. */
  closed(session: SessionFace, info: CloseInfo): void;
  /** Runs a request by a function that receives the trace to send along. */
  asking<T>(
    session: SessionFace,
    topic: string,
    ask: (trace: TraceContext | undefined) => Promise<T>,
  ): Promise<T>;
  /** Returns the trace to send with a message. */
  sending(topic: string, session: SessionFace | undefined): TraceContext | undefined;
  /** Runs the handler of a message; a promise of `run` settles at the end of the answer. */
  handle(
    message: UntypedMessage,
    session: SessionFace,
    trace: TraceContext | undefined,
    run: () => void | Promise<void>,
  ): void | Promise<void>;
}

/** A handshake at the start. */
export interface HandshakeInfo {
  /** Side of this end. */
  readonly side: Side;
  /** URL of the client's request, without the token. */
  readonly url: string;
  /**
   * On a server: the transport of the client's request. A client does not know the transport yet.
   */
  readonly transport?: string | undefined;
  /** On a server: the client's network address, where known. */
  readonly address?: string | undefined;
}

/** Envelopes that may have a number. */
export type NumberedEnvelope = Extract<Envelope, { kind: "message" | "publish" }>;

/** Envelopes that may carry the id of a client. */
export type IntroducingEnvelope = Extract<Envelope, { readonly client?: string | undefined }>;

/** Requests of the peer of one session for the services of a server. */
export interface SessionRequests {
  /** True if a service may wait for the end of the session. */
  readonly isBusy: boolean;
  /** Checks the token of the peer, and takes over the identity. */
  signIn(token: string): Promise<unknown>;
  /** Handles an envelope with a request for a service; a numbered publication in its turn. */
  receive(envelope: Control, turn?: MessageTurn): void;
  /** Registers the id of the client; false if the id is refused. */
  introduce(envelope: IntroducingEnvelope): boolean;
  /**
   * Gives a numbered message or publication its turn. Returns `undefined` if numbers do not count, and `null` if
   * the message must not be handled.
   */
  turnOf(
    envelope: NumberedEnvelope,
    size: number,
    isRead: boolean,
  ): MessageTurn | null | undefined;
  /** Ends the services with the session. */
  end(reason: unknown): void;
}

/**
 * The services of a server, as its sessions see these. A client has none, and does not load their
 * code.
 */
export interface RequestServer {
  /** Optional features, announced to clients. */
  readonly features: readonly string[];
  /** The part of the services that a session calls by itself. */
  readonly services: {
    /** Called before the session is established; a code and a reason refuse the session. */
    admit?(session: SessionFace): { readonly code: number; readonly reason: string } | undefined;
    /** Called once the session is established. */
    opened?(session: SessionFace): void;
    /** Begins an answer that outlives its session, unless begun before, and replies. */
    readonly keepAnswer?: KeepAnswer | undefined;
  };
  /** Reads the envelopes that only a server accepts. */
  readonly readService: ServiceReader;
  /** Creates the secret with which the client of a session can move to another session. */
  ticket(core: NamedSession): string | undefined;
  /** Names a session without a user. */
  nameOf(core: NamedSession): string;
  /** Creates the receiver of the first frames of one session. */
  firstFrames(session: SessionFace): { receive(frame: Frame): void };
  /** Creates the receiver of the requests of one session. */
  serve(session: SessionFace): SessionRequests;
}

/**
 * Reports an error to the application's `onError`. Without that handler, or if the handler fails
 * too, the error is printed: errors are never lost, and never end the process.
 */
export function report(
  settings: SessionSettings,
  error: unknown,
  session: SessionFace | undefined,
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

/** End of the line about data that does not fit the contract. */
const MISFIT_ADVICE = "such data is skipped: set onInvalid or onError, and check that both ends " +
  "have the same contract";

/**
 * Tells the application of data that is skipped, or of a subscription that waits: by `onError`, or by
 * a line on the console.
 *
 * @param settings Settings of the session.
 * @param error The reason.
 * @param on The session, and the end of the line on the console; by default, the data does not fit
 * the contract.
 */
export function tellSkipped(
  settings: SessionSettings,
  error: Error,
  { session, advice = MISFIT_ADVICE }: {
    readonly session: SessionFace;
    readonly advice?: string | undefined;
  },
): void {
  if (settings.handlers.onError !== undefined) return report(settings, error, session);
  const { message } = error;
  settings.console.tell("skipped", `${message}; ${advice}`, { about: message });
}
