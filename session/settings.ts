/**
 * Settings that all sessions of a server, or of a client, share.
 *
 * @module
 */
import type { Runtime } from "../base/runtime.ts";
import type { CloseInfo, RequestError } from "../errors.ts";
import type { ContractRouter, Side } from "./contract.ts";
import type { ConsoleReport } from "./insight/console_report.ts";
import type { GoAway } from "./wire/envelope.ts";
import type { UntypedMessage } from "./message.ts";
import type { Heartbeat, HeartbeatOptions } from "./heartbeat.ts";
import type { SendQueueOptions, Turn } from "./queue/send_queue.ts";
import type { SessionDesk } from "./desk.ts";
import type { SessionFace } from "./types.ts";
import type { SessionWatch } from "./insight/session_watch.ts";

/** Bounds of the received messages that wait to be handled. */
export interface ReceiveQueueOptions {
  /**
   * Most messages that wait for the handler or the loop; one more closes the session with 4507.
   * Until the application first reads a message, the oldest is discarded instead, and counted.
   *
   * @default {4096}
   */
  readonly maxMessages?: number;
  /**
   * Most bytes that wait.
   *
   * @default {1048576}
   */
  readonly maxBytes?: number;
}

/** Limits and times of a session; every one has a default. */
export interface SessionLimits {
  /** Bounds and policy of the messages that wait to be sent. */
  readonly sendQueue?: SendQueueOptions;
  /** Bounds of the received messages that wait to be handled. */
  readonly receiveQueue?: ReceiveQueueOptions;
  /** Interval of pings, and the silence after which a peer counts as dead. */
  readonly heartbeat?: HeartbeatOptions;
  /**
   * Largest message, in bytes of its envelope; a larger one closes the session with 4413.
   *
   * @default {262144}
   */
  readonly maxMessageBytes?: number;
  /**
   * Malformed or invalid messages within a minute before the session closes with 4400.
   *
   * @default {16}
   */
  readonly maxInvalidMessages?: number;
  /**
   * Requests that may wait for a reply at once, per direction.
   *
   * @default {64}
   */
  readonly maxRequests?: number;
  /**
   * Messages handled at once. With more than one, their order is not kept.
   *
   * @default {1}
   */
  readonly concurrency?: number;
  /**
   * Time that `request` waits for a reply, in milliseconds.
   *
   * @default {30000}
   */
  readonly requestTimeoutMs?: number;
  /**
   * Time that a close may take, in milliseconds: flushing, the peer's own close, and handlers that
   * still run.
   *
   * @default {5000}
   */
  readonly closeTimeoutMs?: number;
  /**
   * Time that a peer may take to send its first envelope (`hello`, or the token), in milliseconds.
   *
   * @default {5000}
   */
  readonly handshakeTimeoutMs?: number;
}

/** The handlers of an application, without the types of its contract. */
export interface ErasedHandlers {
  /** Called once the session is established. `SessionHandlers` has the docs of all members. */
  onOpen?(session: SessionFace): void | Promise<void>;
  /** Handles a message. */
  onMessage?(message: UntypedMessage, session: SessionFace): void | Promise<void>;
  /** Called once, when an established session is over. */
  onClose?(session: SessionFace, info: CloseInfo): void | Promise<void>;
  /** Receives the error of a handler that failed. */
  onError?(error: unknown, session: SessionFace): void;
  /** Called when the peer announces that it will go away. */
  onGoAway?(goaway: GoAway, session: SessionFace): void;
  /** Called when the peer refuses a message that is not a request. */
  onRefused?(error: RequestError, session: SessionFace): void;
  /** Called when the peer reports messages that it dropped for this end. */
  onDropped?(count: number, topic: string | undefined, session: SessionFace): void;
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
  readonly services: (SessionDesk & Disposable) | undefined;
  /**
   * Prints failures that have no handler.
   *
   * @ignore
   */
  readonly console: ConsoleReport;
  /**
   * Loads the module `insight/insight.ts`, whose functions take the core of a session: few sessions
   * use these, so a page loads the module on first use.
   *
   * @ignore
   */
  readonly insight: () => Promise<unknown>;
  /**
   * Id of this client over all its sessions: 128 random bits; empty on a server.
   *
   * @ignore
   */
  readonly client: string;
  /** Bounds of the messages that wait to be sent. */
  readonly sendQueue: Required<SendQueueOptions>;
  /** Bounds of the received messages that wait to be handled. */
  readonly receiveQueue: Required<ReceiveQueueOptions>;
  /** Largest message, in bytes. */
  readonly maxMessageBytes: number;
  /** Invalid messages before the session closes. */
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
