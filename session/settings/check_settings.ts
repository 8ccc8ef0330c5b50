/**
 * Options of a session: handlers, limits and times.
 *
 * @module
 */
import type { CloseInfo, RequestError } from "../../errors.ts";
import type { RequestHandlers } from "../responses/request_handlers.ts";
import type { Contract, ContractRouter, MessageOf, Side } from "../contract.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { MAX_MESSAGE_BYTES } from "../wire/encode.ts";
import type { GoAway } from "../wire/envelope.ts";
import { Heartbeat } from "../heartbeat.ts";
import { checkLimits } from "../../base/options/options.ts";
import type { Runtime } from "../../base/runtime.ts";
import { Flusher } from "../queue/flusher.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import type { Session } from "../session.ts";
import type { ErasedHandlers, SessionLimits, SessionSettings } from "./settings.ts";

/**
 * Handlers of an application for its sessions.
 *
 * @typeParam V The result of `authenticate`.
 * @typeParam C The contract.
 * @typeParam S This side's side.
 */
export interface SessionHandlers<
  V = unknown,
  C extends Contract = Contract,
  S extends Side = Side,
> {
  /**
   * Called once the session is established. If this handler returns a promise, messages wait until
   * it settles, for at most `requestTimeoutMs`.
   */
  readonly onOpen?: ((session: Session<V, C, S>) => unknown) | undefined;
  /**
   * Handles messages one at a time, in order. If it returns a promise, the next message waits for
   * it.
   *
   * While this side waits for the reply to a `request`, or a loop waits for an item of a response,
   * the peer may need a reply before it can send its own. For each such wait, one request of the
   * peer can therefore run in parallel, up to a total of 8. Further requests wait, and are rejected
   * as nested too deeply if no handler returns within a second. Messages always wait.
   *
   * @default {messages are read by a loop over the session}
   */
  readonly onMessage?:
    | ((
      message: MessageOf<C, S>,
      session: Session<V, C, S>,
    ) => void | Promise<void>)
    | undefined;
  /**
   * Handlers of requests by pattern, also with streaming or resumable responses, or with a `cost`.
   *
   * With a contract, the keys are the patterns of its requests. Otherwise, they are topics; on a
   * server, they can also be patterns such as `sum:{room}`. A handler returns the response: a value
   * or a promise, or for `requestStream` an async iterable such as a generator.
   *
   * - **Turns:** these handlers and `onMessage` run one at a time, in order, until they return a
   *   result. A streaming response then continues alongside later messages, and counts towards
   *   `maxRequests`. Cancelled responses whose handlers ignore the signal count separately, with
   *   the same limit.
   * - **Failures:** if a handler throws a `RequestError`, the peer receives it. For any other
   *   error, the peer receives `failed`, and `onError` receives the error.
   * - **Other requests** go to `onMessage`. Without that handler, a request that has no entry is
   *   rejected with `unanswered`, because loops do not read requests.
   */
  readonly requests?: RequestHandlers<V, NoInfer<C>, S> | undefined;
  /**
   * Called once, when an established session has closed.
   *
   * Without this handler and `onError`, one line an hour is printed about sessions that close with
   * 4507, because messages may be missing.
   */
  readonly onClose?:
    | ((session: Session<V, C, S>, info: CloseInfo) => unknown)
    | undefined;
  /**
   * Receives the error of a handler that failed. Without this handler, errors are printed, at most
   * 16 a minute. It also receives one error an hour about each kind of loss that no other handler
   * receives, such as dropped messages without `onDropped`.
   */
  readonly onError?: ((error: unknown, session: Session<V, C, S>) => void) | undefined;
  /**
   * The effect if a handler fails with an error that isn't a `RequestError`: `"reply"` sends the
   * code `failed` to the peer, and `"close"` closes the session with 4500.
   *
   * - `"reply"`: the peer receives no details of the error, and the session continues.
   *   More than 20 failures within a minute close the session with 4500.
   * - `"close"`: the first failure closes the session with 4500, and drops the waiting messages.
   *
   * A failed `onOpen` always closes the session. If `onMessage` throws a `BrokerError` for a
   * message with at-least-once delivery, the session also closes, because the message is only sent
   * again in the next session.
   *
   * @default {"reply"}
   */
  readonly onHandlerError?: "reply" | "close" | undefined;
  /** Called when the peer announces that it will shut down. */
  readonly onGoAway?: ((goaway: GoAway, session: Session<V, C, S>) => void) | undefined;
  /**
   * Called when the peer rejects a message that is not a request.
   *
   * Without this handler, `onError` receives the error.
   *
   * @default {prints each cause once}
   */
  readonly onMessageRejected?:
    | ((error: RequestError, session: Session<V, C, S>) => void)
    | undefined;
  /**
   * Called with the number of messages that the peer dropped before it sent them to this side. If
   * they belong to several topics, `topic` is absent.
   *
   * Without this handler, `onError` receives an error.
   *
   * @default {prints a line, at most one an hour}
   */
  readonly onDropped?:
    | ((
      count: number,
      topic: string | undefined,
      session: Session<V, C, S>,
    ) => void)
    | undefined;
}

/** Options for `sessionSettings()`. */
export interface SessionSettingsOptions<
  V = unknown,
  C extends Contract = Contract,
  S extends Side = Side,
> extends SessionLimits, SessionHandlers<V, C, S> {
  /** Client or server. */
  readonly side: S;
  /** Topics and their schemas; without a contract, every topic is allowed. */
  readonly contract?: C | undefined;
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

/** The parts of a server that its sessions share. */
export interface SharedParts {
  /**
   * Sends messages at the end of an event loop turn. Sessions that share broadcasts must share it.
   */
  readonly flusher?: Flusher | undefined;
  /** Prints failures that have no handler. */
  readonly console?: ConsoleReport | undefined;
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

/**
 * Checks options once, for any number of sessions. See `sessionSettings`.
 *
 * @param options Options of the sessions, with the parts that the entry module selects.
 * @returns The complete settings.
 */
export function checkSettings<
  V = unknown,
  C extends Contract = Contract,
  S extends Side = Side,
>(
  options:
    & SessionSettingsOptions<V, C, S>
    & SharedParts
    & Pick<SessionSettings, "responses" | "checkOptions" | "hello" | "insight" | "runtime">,
): SessionSettings {
  const { runtime, insight, responses } = options;
  const { sendQueue = {}, receiveQueue = {}, onHandlerError = "reply" } = options;
  const { policy = "close" } = sendQueue;
  return {
    runtime,
    side: options.side,
    router: options.contract && compileContract(options.contract, options.side),
    flusher: options.flusher ?? new Flusher(runtime),
    heartbeat: new Heartbeat(runtime, options.heartbeat),
    // The public signature has checked the caller's types; from here on, they are erased.
    handlers: options as ErasedHandlers,
    requests: undefined,
    onHandlerError,
    watch: undefined,
    services: undefined,
    console: options.console ?? new ConsoleReport(runtime),
    hello: options.hello,
    checkOptions: options.checkOptions,
    insight,
    responses,
    client: options.side === "client" ? runtime.getRandomValues(new Uint32Array(4)).join("-") : "",
    sendQueue: { ...checkLimits(SEND_QUEUE, sendQueue, { of: "session: sendQueue." }), policy },
    receiveQueue: checkLimits(RECEIVE_QUEUE, receiveQueue, { of: "session: receiveQueue." }),
    ...checkLimits(LIMITS, options, { of: "session: " }),
    ...checkLimits(TIMES_MS, options, { of: "session: ", max: MAX_TIMER_MS }),
  };
}

/**
 * Returns the router for the topics that one side receives. `defineContract()` has compiled the
 * contract once, and all sessions share the result.
 *
 * @example Usage
 * ```ts
 * import { compileContract } from "./check_settings.ts";
 * import { defineContract } from "../contract.ts";
 * import { assertEquals } from "@std/assert";
 * import { z } from "zod";
 *
 * const contract = defineContract({ toServer: { "chat:{room}": z.string() } });
 * const match = compileContract(contract, "server").match("chat:lobby");
 * assertEquals(match?.pattern, "chat:{room}");
 * assertEquals(match?.params, { room: "lobby" });
 * assertEquals(compileContract(contract, "client").match("chat:lobby"), undefined);
 * ```
 *
 * @param side The side that receives, or `presence` for rooms with presence data.
 * @returns The router, for the topics that the other side sends, the requests, and on the client
 * the presence notices.
 * @throws {TypeError} If the contract was not created by `defineContract()`.
 */
export function compileContract(
  contract: Contract,
  side: Side | "presence",
): ContractRouter {
  // A method of the contract, so that a page without a contract does not load the compiler.
  const { router } = Object(contract) as { router?: (side: Side | "presence") => ContractRouter };
  if (typeof router === "function") return router.call(contract, side);
  throw new TypeError(
    `Cannot use contract: it must be made by defineContract(), received ${typeof contract}`,
  );
}
