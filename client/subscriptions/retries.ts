/** Retries subscriptions that a server has rejected temporarily. */
import { RequestError, type RequestFailure, TimeoutError } from "../../errors.ts";
import { Backoff, boundRetryAfter } from "../../base/backoff.ts";
import type { Runtime } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
import { CODES_FOR_NOW } from "../../session/wire/recovery.ts";
import { internals, type Session } from "../../session/session.ts";
import { tellSkipped } from "../../session/settings/settings.ts";

/** The longest first pause if the server specifies no time, in milliseconds. */
const FIRST_PAUSE_MS = 100;

/**
 * The longest pause after which a rejected subscription that was never in force is retried, in
 * milliseconds. It equals the time that a server has to reply. If a limit requires a longer pause,
 * or specifies no time, as the limit on topics does, the caller receives the rejection.
 */
const MAX_FIRST_PAUSE_MS = 30_000;

/**
 * The codes of temporary failures at the server, and `undefined` for no reply in time. Other codes
 * come from the server's rules.
 */
const PASSING: ReadonlySet<string | undefined> = new Set(["unavailable", undefined]);

/** A rejected request for a topic. */
export interface RejectedSubscription {
  /** The session in which the server rejected it. */
  readonly session: Session;
  readonly readers: { readonly isEnded: boolean; readonly topic: string };
  /** True if a subscription was never in force. Its status then does not show the rejection. */
  readonly isNew: boolean;
  /**
   * Repeats the request. Resolves with true if the server has confirmed it. If the server rejects
   * it, {@linkcode Retries} receives the rejection again. Never rejects.
   */
  readonly request: () => Promise<true | void>;
}

/**
 * Repeats requests that were rejected temporarily. It sends them one after another, so that if a
 * rate limit has rejected many requests, none is sent earlier than the limit allows.
 */
export class Retries {
  readonly #runtime: Runtime;
  readonly #backoff: Backoff;
  #queue: Promise<void> = Promise.resolve();
  /** The readers whose rejection was reported to the application. */
  readonly #reported = new WeakSet<object>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.#backoff = new Backoff(runtime, { firstDelayMs: FIRST_PAUSE_MS });
  }

  /**
   * Returns whether a rejected subscription should be retried.
   *
   * @param error The rejection, or the error for a missing reply.
   * @param wasInForce True if the subscription was in force before. Without a retry, its reader
   *   would miss messages.
   * @returns `false` if the rejection is final.
   */
  isForNow(error: unknown, wasInForce: boolean): boolean {
    const { code = "", retryAfterMs = 0 } = failureOf(error);
    const isForNow = error instanceof TimeoutError || CODES_FOR_NOW.has(code);
    const isBrief = retryAfterMs > 0 && retryAfterMs <= MAX_FIRST_PAUSE_MS;
    return isForNow && (wasInForce || isBrief || code !== "too-many");
  }

  /**
   * Repeats the request for a topic after a pause, unless the session ends first. If a new
   * subscription has to wait, notifies the application once.
   *
   * @param error The rejection, or the error for a missing reply.
   * @param rejected The rejected request.
   */
  schedule(error: unknown, { session, readers, isNew, request }: RejectedSubscription): void {
    const { code, retryAfterMs = 0 } = failureOf(error);
    if (isNew && PASSING.has(code) && !this.#reported.has(readers)) {
      this.#reported.add(readers);
      const advice = `the client requests "${readers.topic}" again until the server replies`;
      tellSkipped(session[internals].settings, error as Error, { session, advice });
    }
    this.#queue = this.#queue.then(async () => {
      if (session.isClosed || readers.isEnded) return;
      const pauseMs = Math.max(boundRetryAfter(retryAfterMs), this.#backoff.next()!);
      if (!await settlesWithin(this.#runtime, session.closed, pauseMs) && await request()) {
        this.#backoff.reset();
        this.#reported.delete(readers);
      }
    });
  }
}

function failureOf(error: unknown): Partial<RequestFailure> {
  return error instanceof RequestError ? error.failure : {};
}
