/**
 * Options of a session: handlers, limits and times.
 *
 * @module
 */
import type { CloseInfo, RequestError } from "../errors.ts";
import { type AnyContract, compileContract, type MessageOf, type Side } from "./contract.ts";
import { ConsoleReport } from "./insight/console_report.ts";
import { MAX_MESSAGE_BYTES } from "./wire/encode.ts";
import type { GoAway } from "./wire/envelope.ts";
import { Heartbeat } from "./heartbeat.ts";
import { checkLimits } from "./base/limits.ts";
import type { OverflowPolicy } from "./queue/send_queue.ts";
import { Turn } from "./queue/turn.ts";
import { MAX_TIMER_MS } from "./base/wait.ts";
import type { ServiceDesk } from "./serving/services.ts";
import type { Session } from "./session.ts";
import type { ErasedHandlers, SessionLimits, SessionSettings } from "./settings.ts";

/**
 * What the application does with a session.
 *
 * @typeParam V What `authenticate` returned.
 * @typeParam C The contract.
 * @typeParam S This end's side.
 */
export interface SessionHandlers<
  V = unknown,
  C extends AnyContract = AnyContract,
  S extends Side = Side,
> {
  /** Called once the session is established; messages wait for the promise that it returns. */
  readonly onOpen?: (session: Session<V, C, S>) => void | Promise<void>;
  /**
   * Handles a message. One at a time, in order; a promise is awaited. Without
   * this handler, iterate over the session.
   *
   * While a `request` of this end waits for the peer, requests of the peer are handled beside, one
   * for each and at most 8: the peer may have to ask before it can answer. More of them wait, and are
   * refused as nested too deep if no handler ends within a second. Messages wait.
   */
  readonly onMessage?: (
    message: MessageOf<C, S>,
    session: Session<V, C, S>,
  ) => void | Promise<void>;
  /** Called once, when a session that was open is over. */
  readonly onClose?: (session: Session<V, C, S>, info: CloseInfo) => void | Promise<void>;
  /** Sees the error of a handler that failed, which is printed by default, 16 a minute at most. */
  readonly onError?: (error: unknown, session: Session<V, C, S>) => void;
  /**
   * Effect of a handler that throws, or whose promise rejects, with anything but a `RequestError`:
   *
   * - `"answer"`: the peer is told `failed` and no text, and the session goes on. More than 20
   *   failures within a minute close it with 4500.
   * - `"close"`: the first failure closes the session with 4500, and drops the messages that wait.
   *
   * An `onOpen` that fails closes the session in any case; so does an `onMessage` that throws a
   * `BrokerError` for a message that is sent at least once, since only the next session sends that
   * message again.
   *
   * @default {"answer"}
   */
  readonly onHandlerError?: "answer" | "close";
  /** Called when the peer says that it will go away. */
  readonly onGoAway?: (goaway: GoAway, session: Session<V, C, S>) => void;
  /**
   * Called when the peer refuses a message that asked for no answer. Without it, and without
   * `onError`, a line is printed, once a cause.
   */
  readonly onRefused?: (error: RequestError, session: Session<V, C, S>) => void;
  /** Called when the peer says that it dropped messages for this end; `topic` is absent for several topics. */
  readonly onDropped?: (
    count: number,
    topic: string | undefined,
    session: Session<V, C, S>,
  ) => void;
}

/** Options for {@linkcode sessionSettings}. */
export interface SessionSettingsOptions<
  V = unknown,
  C extends AnyContract = AnyContract,
  S extends Side = Side,
> extends SessionLimits, SessionHandlers<V, C, S> {
  /** Which end this is. */
  readonly side: S;
  /** Topics and their schemas; without one, every topic is let through. */
  readonly contract?: C | undefined;
  /** Shared by sessions that share messages. */
  readonly turn?: Turn;
  /** What this end does for its peers; without it, they are refused. */
  readonly services?: ServiceDesk;
  /**
   * Tells failures that no handler hears of.
   *
   * @ignore
   */
  readonly console?: ConsoleReport;
}

const SEND_QUEUE = { maxMessages: 256, maxBytes: 1_048_576 };

const RECEIVE_QUEUE = { maxMessages: 4096, maxBytes: 1_048_576 };

const LIMITS = {
  maxMessageBytes: MAX_MESSAGE_BYTES,
  maxInvalidMessages: 16,
  maxRequests: 64,
  concurrency: 1,
};

const TIMES_MS = { requestTimeoutMs: 30_000, closeTimeoutMs: 5_000, handshakeTimeoutMs: 5_000 };

const POLICIES: readonly OverflowPolicy[] = ["close", "drop-oldest", "drop-newest", "latest"];

/**
 * Checks options once, for any number of sessions.
 *
 * @param options See {@linkcode SessionSettingsOptions}.
 * @returns The settings, complete.
 * @throws {RangeError} If a limit is not a positive integer.
 * @throws {TypeError} If the policy is none of the four, or `onHandlerError` none of the two.
 */
export function sessionSettings<
  V = unknown,
  C extends AnyContract = AnyContract,
  S extends Side = Side,
>(options: SessionSettingsOptions<V, C, S>): SessionSettings {
  const { sendQueue = {}, receiveQueue = {}, onHandlerError = "answer" } = options;
  const { policy = "close" } = sendQueue;
  if (typeof policy !== "function" && !POLICIES.includes(policy)) {
    throw new TypeError(
      `Cannot create session: sendQueue.policy must be one of ${
        POLICIES.join(", ")
      } or a function, received ${policy}`,
    );
  }
  if (onHandlerError !== "answer" && onHandlerError !== "close") {
    throw new TypeError(
      `Cannot create session: onHandlerError must be "answer" or "close", received ${onHandlerError}`,
    );
  }
  return {
    side: options.side,
    router: options.contract && compileContract(options.contract, options.side),
    turn: options.turn ?? new Turn(),
    heartbeat: new Heartbeat(options.heartbeat),
    // The types were checked where the handlers were written; from here on they are erased.
    handlers: options as ErasedHandlers,
    onHandlerError,
    watch: undefined,
    services: options.services,
    console: options.console ?? new ConsoleReport(),
    client: options.side === "client" ? crypto.getRandomValues(new Uint32Array(4)).join("-") : "",
    sendQueue: { ...checkLimits(SEND_QUEUE, sendQueue, { of: "session: sendQueue." }), policy },
    receiveQueue: checkLimits(RECEIVE_QUEUE, receiveQueue, { of: "session: receiveQueue." }),
    ...checkLimits(LIMITS, options, { of: "session: " }),
    ...checkLimits(TIMES_MS, options, { of: "session: ", max: MAX_TIMER_MS }),
  };
}
