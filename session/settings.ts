/**
 * What all sessions of a server, or of a client, have in common.
 *
 * @module
 */
import type { CloseInfo, RequestError } from "../errors.ts";
import type { ContractRouter, Side } from "./contract.ts";
import type { ConsoleReport } from "./insight/console_report.ts";
import type { GoAway } from "./wire/envelope.ts";
import type { UntypedMessage } from "./message.ts";
import type { Heartbeat, HeartbeatOptions } from "./heartbeat.ts";
import type { SendQueueOptions } from "./queue/send_queue.ts";
import type { SessionDesk } from "./desk.ts";
import type { SessionFace } from "./types.ts";
import type { Turn } from "./queue/turn.ts";
import type { SessionWatch } from "./insight/session_watch.ts";

/** Bounds of what came and was not handled yet. */
export interface ReceiveQueueOptions {
  /**
   * Most messages that wait for the handler or the loop; one more closes the session with 4507.
   * While nobody ever read one, the oldest is discarded instead, and counted.
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
  /** Bounds and policy of what waits to be sent. */
  readonly sendQueue?: SendQueueOptions;
  /** Bounds of what waits to be handled. */
  readonly receiveQueue?: ReceiveQueueOptions;
  /** How often peers are pinged, and when silence means dead. */
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
   * Requests that may wait for an answer at once, per direction.
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
   * How long `request` waits for an answer, in milliseconds.
   *
   * @default {30000}
   */
  readonly requestTimeoutMs?: number;
  /**
   * How long a close may take, in milliseconds: flushing, the peer's own close, and handlers still running.
   *
   * @default {5000}
   */
  readonly closeTimeoutMs?: number;
  /**
   * How long a peer may take to say its first envelope (`hello`, or the token), in milliseconds.
   *
   * @default {5000}
   */
  readonly handshakeTimeoutMs?: number;
}

/** The handlers of an application, without the types of its contract. */
export interface ErasedHandlers {
  /** See `SessionHandlers`, as for every member. */
  onOpen?(session: SessionFace): void | Promise<void>;
  /** Handles a message. */
  onMessage?(message: UntypedMessage, session: SessionFace): void | Promise<void>;
  /** Called once, when a session that was open is over. */
  onClose?(session: SessionFace, info: CloseInfo): void | Promise<void>;
  /** Sees the error of a handler that failed. */
  onError?(error: unknown, session: SessionFace): void;
  /** Called when the peer says that it will go away. */
  onGoAway?(goaway: GoAway, session: SessionFace): void;
  /** Called when the peer refuses a message that asked for no answer. */
  onRefused?(error: RequestError, session: SessionFace): void;
  /** Called when the peer says that it dropped messages for this end. */
  onDropped?(count: number, topic: string | undefined, session: SessionFace): void;
}

/** Options, checked and complete; made once for any number of sessions. */
export interface SessionSettings {
  /** Which end this is. */
  readonly side: Side;
  /** Topics and their schemas, as this side receives them. */
  readonly router: ContractRouter | undefined;
  /** Shared by sessions that share messages. */
  readonly turn: Turn;
  /** Watches all sessions of these settings. */
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
   * Tells failures that no handler hears of.
   *
   * @ignore
   */
  readonly console: ConsoleReport;
  /**
   * Names this client to servers, over all its sessions: 128 random bits; empty on a server.
   *
   * @ignore
   */
  readonly client: string;
  /** Bounds of what waits to be sent. */
  readonly sendQueue: Required<SendQueueOptions>;
  /** Bounds of what waits to be handled. */
  readonly receiveQueue: Required<ReceiveQueueOptions>;
  /** Largest message, in bytes. */
  readonly maxMessageBytes: number;
  /** Invalid messages before the session closes. */
  readonly maxInvalidMessages: number;
  /** Requests at once, per direction. */
  readonly maxRequests: number;
  /** Messages handled at once. */
  readonly concurrency: number;
  /** How long `request` waits, in milliseconds. */
  readonly requestTimeoutMs: number;
  /** How long a close may take, in milliseconds. */
  readonly closeTimeoutMs: number;
  /** How long the peer's first envelope may take, in milliseconds. */
  readonly handshakeTimeoutMs: number;
}
