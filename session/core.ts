/**
 * The lifecycle of a session: its identity, states, failures, events, and close.
 *
 * `sending.ts` and `receiving.ts` contain the two halves of a session, which build on this module.
 * `session.ts` combines all three modules in the public class.
 *
 * @module
 */
import {
  CloseCode,
  type CloseInfo,
  QueueFullError,
  SessionClosedError,
  TimeoutError,
} from "../errors.ts";
import { isOwnClose } from "../transport/close_info.ts";
import type { Connection, StreamDirection } from "../transport/connection.ts";
import { attempt } from "../base/call_safely.ts";
import type { Timer } from "../base/runtime.ts";
import { withoutUndefined } from "../base/options/options.ts";
import { settlesWithin } from "../base/wait.ts";
import { EventsOfSession, type SessionEventMap, type SessionEvents } from "./events.ts";
import type { FrameTap } from "./queue/frames.ts";
import { SendQueue, type SendQueueOwner } from "./queue/send_queue.ts";
import { report, type SessionSettings, tellLoss } from "./settings/settings.ts";
import type { Lineage, SessionIdentity, SessionLike, SessionState } from "./types.ts";
import type { Hello } from "./wire/envelope.ts";

/** The subprotocol of Skein's own sessions. */
export const SKEIN_PROTOCOL = "skein.1";

/**
 * The key of the implementation. `session[internals]` is only for Skein's own modules.
 *
 * @ignore
 */
export const internals: unique symbol = Symbol();

/**
 * Number of handler failures within a minute that a session survives. A handler that always fails
 * is of no use to the peer.
 */
const MAX_FAILURES = 20;

const FAILURES_WINDOW_MS = 60_000;

const TOO_MANY_FAILURES = `More than ${MAX_FAILURES} handler failures in a minute`;

/** One half of a session, `Sending` or `Receiving`, with its lifecycle. */
export interface SessionHalf {
  /** Starts this half; on a client, with its token. */
  begin(token: string | undefined): void;
  /** Called once the session is established; on a client, with the server's `hello`. */
  opened(hello: Hello | undefined): void;
  /** True if code on either side waits for a reply, so that closing needs an error. */
  readonly isAwaited: boolean;
  /** Flushes what the connection accepts immediately, and drops the rest. */
  abort(): void;
  /**
   * Closes with the session. Resolves once its handlers are done; returns `undefined` if no handler
   * is running.
   */
  end(error: SessionClosedError | undefined): Promise<void> | undefined;
}

/**
 * Observes when this side waits for the peer. Implemented by the receiving half, and on a client by
 * the check whether its server is alive.
 */
export interface WaitObserver {
  /**
   * Called when this side starts to wait for the peer. `isRequest` is true if a handler of the peer
   * will reply.
   */
  began(isRequest?: boolean): void;
}

class LateDecision extends TimeoutError {}

/**
 * The lifecycle of one session.
 *
 * @typeParam F The public class of sessions.
 */
export class SessionCore<F extends SessionLike = SessionLike> implements SendQueueOwner {
  /** The session, as the application sees it. */
  declare readonly session: F;
  /** The connection, which belongs to the session. */
  declare readonly connection: Connection;
  /** Settings that many sessions share. */
  declare readonly settings: SessionSettings;
  /**
   * True on `skein.1`, which supports frames that join several messages, binary messages and
   * control envelopes.
   */
  declare readonly joins: boolean;
  /** Send queue; absent on a connection without message frames. */
  declare readonly queue: SendQueue | undefined;
  /** The half that sends; `Inside` has its type. */
  declare readonly sending: SessionHalf;
  /** The half that receives; `Inside` has its type. */
  declare readonly receiving: SessionHalf & WaitObserver & { readonly isRead: boolean };
  /** When the session was created, in milliseconds since the Unix epoch. */
  declare readonly createdAt: number;
  /** Id of the session. */
  declare id: string;
  /** The result of `authenticate`. */
  declare value: unknown;
  /** The verified user on the other side, if known. */
  declare user: string | undefined;
  /** True if the peer was admitted without an identity. */
  declare isGuest: boolean;
  /** The client's other sessions, and the secrets that link them. */
  declare readonly lineage: Lineage<F>;
  state: SessionState = "connecting";
  /** The close that this side started. */
  ending: CloseInfo | undefined;
  /** How the session ended. */
  info: CloseInfo | undefined;
  /** When the session was established, in milliseconds since the Unix epoch. */
  readyAt: number | undefined;
  /** When the session ended, in milliseconds since the Unix epoch. */
  closedAt: number | undefined;
  /** Number of times that a handler of the application failed. */
  handlerFailures = 0;
  /** True if a close also closes the shared connection below the session. */
  closesConnection = false;
  /** True while the session waits for the peer's token. */
  declare awaitsToken: boolean;
  // A field that is only declared takes no memory until assigned, and few sessions have one of these;
  // see `receiving.ts` for the bytes.

  /** When the session started to drain, in milliseconds since the Unix epoch. */
  declare drainingAt: number | undefined;
  /** The times of the newest handler failures, at most `MAX_FAILURES` of them. */
  declare failedAt: number[] | undefined;
  /** Timers of pending decisions of the application. */
  declare decisions: Set<Timer> | undefined;
  /**
   * Number of late decisions of the application, by name, and the time of the newest. Bounded by
   * the number of the application's callbacks and schemas.
   */
  declare late: { readonly counts: Map<string, number>; at: number } | undefined;
  /** Calls that wait for a stream to open, by direction. */
  declare openings: Record<StreamDirection, number> | undefined;
  /** Merges both kinds of incoming streams for the loop over `incomingStreams()`. */
  declare incomingLoop: object | undefined;
  /** Callbacks that end the loops over `monitorHealth()`. */
  declare monitors: Set<() => void> | undefined;
  /** On a server: when the peer's credentials expire, see `SessionIdentity`. */
  declare credentials: SessionIdentity["credentials"];
  /** Name of a session without a user, created on first access. */
  declare ownName: string | undefined;
  /** Receives all frames while an inspector follows the session. */
  declare tap: FrameTap | undefined;
  #timer: Timer | undefined;
  // Created when first needed.
  #ready: PromiseWithResolvers<void> | undefined;
  #closed: PromiseWithResolvers<CloseInfo> | undefined;
  #onEnd: ((session: never) => void)[] | undefined;
  #events: EventsOfSession | undefined;

  /** Creates the session; `begin` starts it once both halves exist. */
  constructor(
    session: F,
    connection: Connection,
    settings: SessionSettings,
    identity: SessionIdentity<unknown, F>,
  ) {
    this.session = session;
    this.connection = connection;
    this.settings = settings;
    this.createdAt = settings.runtime.now();
    this.id = identity.id ?? settings.runtime.randomUUID();
    this.value = identity.value;
    this.user = identity.user;
    this.isGuest = identity.isGuest === true;
    this.awaitsToken = identity.awaitsToken === true;
    const { secret, predecessor } = identity;
    this.lineage = { ticket: undefined, predecessor, movedTo: undefined, follows: undefined };
    if (secret) this.lineage.secret = secret;
    if (identity.credentials) this.credentials = identity.credentials;
    this.joins = connection.frames !== undefined && connection.protocol === SKEIN_PROTOCOL;
    const { frames } = connection;
    this.queue = frames && new SendQueue(frames, this, settings);
  }

  /** Starts the session: sends the first envelopes and receives frames. */
  begin(token: string | undefined): void {
    if (this.connection.frames === undefined) {
      this.followConnection();
      return this.connected();
    }
    this.sending.begin(token);
    this.receiving.begin(token);
  }

  /** Ends the session with the connection. */
  followConnection(): void {
    this.connection.closed.then(
      (info) => {
        const { closeCode = 0, reason = "" } = info;
        this.finish({ code: closeCode, reason, by: isOwnClose(info) ? "local" : "remote" });
      },
      (error) =>
        this.finish({
          code: CloseCode.abnormal,
          reason: "The connection broke",
          by: "network",
          error,
        }),
    );
  }

  /** The user. A session without a user has a name of its own. */
  get name(): string {
    return this.user ?? (this.ownName ??= this.settings.services?.nameOf(this) ?? this.id);
  }

  /** Events of the session, created on first access. */
  get events(): SessionEvents {
    return this.#events ??= new EventsOfSession(this.session, this.settings);
  }

  /** True if the application follows the events of the session. */
  get isFollowed(): boolean {
    return this.#events !== undefined;
  }

  /** Dispatches an event. Does nothing before the first access to `events`. */
  emit<K extends keyof SessionEventMap>(type: K, detail: SessionEventMap[K]["detail"]): void {
    this.#events?.emit(type, detail);
  }

  /** True while messages can be sent. */
  get isReady(): boolean {
    return this.ending === undefined && (this.state === "connected" || this.state === "draining");
  }

  get ready(): Promise<void> {
    if (this.#ready === undefined) {
      this.#ready = Promise.withResolvers();
      this.#ready.promise.catch(() => {});
      this.#settleReady();
    }
    return this.#ready.promise;
  }

  /** Resolves with the end of the session; never rejects. */
  get closed(): Promise<CloseInfo> {
    if (this.#closed === undefined) {
      this.#closed = Promise.withResolvers();
      if (this.info !== undefined) this.#closed.resolve(this.info);
    }
    return this.#closed.promise;
  }

  /**
   * Calls back when the session closes, before `onClose`; immediately if the session is already
   * closed.
   */
  whenEnded(callback: (session: F) => void): void {
    if (this.state === "closed") callback(this.session);
    else if (this.#onEnd !== undefined) this.#onEnd.push(callback);
    // Most sessions have one callback, and an array that grows with its first element allocates
    // room for 17, which takes 128 bytes more.
    else this.#onEnd = [callback];
  }

  /** Throws if messages cannot be sent. */
  checkOpen(verb: string): void {
    if (!this.isReady) throw this.closedError(`Cannot ${verb}: the session is ${this.state}`);
  }

  /** Establishes the session. */
  connected(hello?: Hello): void {
    if (this.state !== "connecting" || this.ending !== undefined) return;
    const { services, watch, runtime } = this.settings;
    runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    this.awaitsToken = false;
    const rejection = services?.admit(this.session);
    if (rejection !== undefined) return this.windUp({ ...rejection, by: "local" });
    this.readyAt = runtime.now();
    this.state = "connected";
    if (hello !== undefined) {
      this.id = hello.session;
      this.lineage.ticket = hello.ticket;
      this.lineage.follows = hello.predecessor;
      this.settings.user = hello.user;
    }
    this.sending.opened(hello);
    this.#settleReady();
    this.emit("ready", null);
    services?.opened(this.session);
    watch?.opened(this.session);
    this.receiving.opened(hello);
  }

  startDraining(): void {
    this.state = "draining";
    this.drainingAt = this.settings.runtime.now();
    this.emit("draining", null);
  }

  /**
   * Flushes the send queue, and then closes, within `closeTimeoutMs`. The first close decides the
   * code and reason.
   */
  windUp(ending: CloseInfo): void {
    if (this.state === "closed" || this.ending !== undefined) return;
    const { flusher, closeTimeoutMs, runtime } = this.settings;
    this.ending = ending;
    if (this.state === "connected") this.startDraining();
    runtime.clearTimeout(this.#timer);
    flusher.flush();
    if (this.info !== undefined) return;
    const close = () =>
      this.connection.close({
        closeCode: ending.code,
        reason: ending.reason,
        closeConnection: this.closesConnection,
      });
    this.#timer = runtime.setTimeout(() => {
      close();
      this.finish(ending);
    }, closeTimeoutMs);
    if (this.queue === undefined || this.queue.isFlushed) close();
    else this.queue.flushed().then(close);
  }

  /** Closes the session immediately, and discards the messages that wait for a handler. */
  abort(code: number, reason: string, error?: unknown, by: CloseInfo["by"] = "local"): void {
    if (this.state === "closed") return;
    if (error !== undefined) this.emit("error", error);
    this.sending.abort();
    this.connection.close({ closeCode: code, reason });
    this.receiving.abort();
    this.finish(withoutUndefined({ code, reason, by, error }));
  }

  /**
   * Reports a failed handler to the application. The session closes only if `onHandlerError` is
   * `close`, or if handlers fail too often.
   */
  handlerFailed(error: unknown, reason: string): void {
    const { runtime, onHandlerError } = this.settings;
    const now = runtime.now();
    const failedAt = this.failedAt ??= [];
    const isTooMany = failedAt.push(now) > MAX_FAILURES &&
      Math.abs(now - failedAt.shift()!) < FAILURES_WINDOW_MS;
    this.failed(
      error,
      onHandlerError === "close" ? reason : isTooMany ? TOO_MANY_FAILURES : undefined,
    );
  }

  /** Reports a failure to the application, and closes the session if a reason is given. */
  failed(error: unknown, reason: string | undefined): void {
    // The handler tried to use a closed session: an expected error, not reported.
    if (this.state === "closed" && isOfClosing(error)) return;
    // Late decisions have their own issue, `late-decision`.
    if (!(error instanceof LateDecision)) this.handlerFailures++;
    report(this.settings, error, this.session);
    if (reason === undefined) this.emit("error", error);
    else this.abort(CloseCode.handlerFailed, reason, error);
  }

  /** Calls the application. An error counts as a handler failure. */
  notify(call: () => unknown): void {
    attempt(call, (error) => this.handlerFailed(error, "A handler failed"));
  }

  /** Creates the error for a call on a closed session. */
  closedError(message: string): SessionClosedError {
    return closedError(message, this.info ?? this.ending);
  }

  /** Closes the session unless the handshake completes within a new timeout. */
  giveUpAfter(timeoutMs: number, what: string): void {
    const { runtime } = this.settings;
    runtime.clearTimeout(this.#timer);
    this.#timer = runtime.setTimeout(() => {
      const error = new TimeoutError(
        `No ${what} within ${timeoutMs} ms`,
        timeoutMs,
      );
      this.abort(CloseCode.timedOut, `No ${what} in time`, error);
    }, timeoutMs);
  }

  /**
   * Waits for a decision of the application, such as the result of a schema, for at most
   * `requestTimeoutMs`. A later result is ignored. On a server, closing the session cancels the
   * timeout, but not the wait.
   *
   * @param what Name of the function or schema, for messages; one of a bounded set of names.
   * @returns The decision.
   * @throws {TimeoutError} If the decision takes longer.
   */
  inTime<T>(what: string, decision: Promise<T>): Promise<T> {
    const { runtime, requestTimeoutMs: ms } = this.settings;
    const decisions = this.decisions ??= new Set();
    const decided = Promise.withResolvers<T>();
    const timer = runtime.setTimeout(() => decided.reject(this.noteLate(what, ms)), ms);
    decisions.add(timer);
    decision.then(decided.resolve, decided.reject);
    return decided.promise.finally(() => {
      runtime.clearTimeout(timer);
      decisions.delete(timer);
    });
  }

  /**
   * Counts a late decision of the application, and returns its error.
   *
   * @param what Name of the function or schema, as for `inTime`.
   * @param ms Its time limit.
   */
  noteLate(what: string, ms: number): TimeoutError {
    const late = this.late ??= { counts: new Map(), at: 0 };
    late.counts.set(what, (late.counts.get(what) ?? 0) + 1);
    late.at = this.settings.runtime.now();
    return new LateDecision(`No result from ${what} within ${ms} ms`, ms);
  }

  /** Closes the session and releases all resources. Idempotent. */
  finish(cause: CloseInfo): void {
    if (this.state === "closed") return;
    // A local close stays local if the peer confirms it, or if the network fails meanwhile.
    const info = this.ending ?? cause;
    const { runtime, side, watch, handlers } = this.settings;
    this.info = info;
    this.closedAt = runtime.now();
    this.state = "closed";
    runtime.clearTimeout(this.#timer);
    // On a client, loops over subscriptions outlive the session.
    if (side === "server") this.decisions?.forEach((timer) => runtime.clearTimeout(timer));
    // Creating an Error captures a stack trace, which is slow; skip the error when no call awaits
    // it.
    const error = this.sending.isAwaited || this.receiving.isAwaited
      ? this.closedError("The session closed before the reply, so the outcome is unknown")
      : undefined;
    this.sending.end(error);
    const handled = this.receiving.end(error);
    this.#settleReady();
    const onEnd = this.#onEnd;
    this.#onEnd = undefined;
    onEnd?.forEach((callback) => callback(this.session as never));
    this.#closed?.resolve(info);
    this.#events?.end(info);
    if (this.readyAt === undefined) return;
    watch?.closed(this.session, info);
    if (handlers.onClose !== undefined) void this.#callOnClose(info, handled);
    // A loop at a client throws.
    else if (info.code === CloseCode.queueFull && (side === "server" || !this.receiving.isRead)) {
      tellLoss(this.settings, { kind: "full", info }, this.session);
    }
  }

  /**
   * Calls `onClose` after the handlers of earlier messages have finished, but at most
   * `closeTimeoutMs` later.
   */
  async #callOnClose(info: CloseInfo, handled: Promise<void> | undefined): Promise<void> {
    const { handlers, closeTimeoutMs, runtime } = this.settings;
    if (handled !== undefined && !await settlesWithin(runtime, handled, closeTimeoutMs)) {
      this.receiving.abort();
    }
    try {
      await handlers.onClose?.(this.session, info);
    } catch (error) {
      report(this.settings, error, this.session);
    }
  }

  #settleReady(): void {
    if (this.#ready === undefined || this.state === "connecting") return;
    if (this.state === "closed") {
      this.#ready.reject(this.closedError("The session closed before it was ready"));
    } else this.#ready.resolve();
  }
}

/**
 * Creates the error for a call on a closed session or client, with the cause of the close if it is
 * known.
 */
export function closedError(message: string, info: CloseInfo | undefined): SessionClosedError {
  if (info === undefined) return new SessionClosedError(message);
  const { code, reason, by, error } = info;
  const why = `${message} (${code}${reason && ` ${reason}`}, by ${by})`;
  return new SessionClosedError(why, { info, cause: error });
}

/** True for the error of a send to a closed session or into a full queue. */
function isOfClosing(error: unknown): boolean {
  return error instanceof SessionClosedError || error instanceof QueueFullError;
}
