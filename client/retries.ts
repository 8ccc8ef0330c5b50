/** Retries of subscriptions that a server rejected temporarily. */
import { RequestError, type RequestFailure, TimeoutError } from "../errors.ts";
import { Backoff, boundRetryAfter } from "../base/backoff.ts";
import type { Runtime } from "../base/runtime.ts";
import { settlesWithin } from "../base/wait.ts";
import { CODES_FOR_NOW } from "../session/wire/recovery.ts";
import { internals, type Session } from "../session/session.ts";
import { tellSkipped } from "../session/settings.ts";

/** Longest first pause, in milliseconds, if the server names no time. */
const FIRST_PAUSE_MS = 100;

/**
 * The longest pause because of a limit, in milliseconds, after which a subscription that was never
 * in force is retried: as long as a server has to reply. If the limit asks for more, or names no
 * time (such as the limit of topics), the caller receives the rejection.
 */
const MAX_FIRST_PAUSE_MS = 30_000;

/**
 * Codes of failures at the server; `undefined` if there was no reply in time. Other codes are rules
 * of the server.
 */
const PASSING: ReadonlySet<string | undefined> = new Set(["unavailable", undefined]);

/** A rejected request for a topic. */
export interface Refused {
  /** The session in which the server rejected it. */
  readonly session: Session;
  /** The readers of the topic. */
  readonly readers: { readonly isEnded: boolean; readonly topic: string };
  /** True if a subscription was never in force, so that its status does not show the rejection. */
  readonly isNew: boolean;
  /**
   * Repeats the request. Resolves with true if the server confirmed; otherwise {@linkcode Retries}
   * receives the rejection again. Never rejects.
   */
  readonly ask: () => Promise<true | void>;
}

/**
 * Repeats temporarily rejected requests one after another, so that after a rate limit rejected many
 * requests, each is sent no earlier than the limit allows.
 */
export class Retries {
  readonly #runtime: Runtime;
  readonly #backoff: Backoff;
  #line: Promise<void> = Promise.resolve();
  /** Readers whose rejection was reported to the application. */
  readonly #told = new WeakSet<object>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.#backoff = new Backoff(runtime, { firstDelayMs: FIRST_PAUSE_MS });
  }

  /**
   * True if a rejected subscription is to be retried.
   *
   * @param error The rejection, or the error for a missing reply.
   * @param wasInForce True if the subscription was in force before, so that the reader would miss
   *   messages.
   * @returns False if the rejection is final.
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
   * @param refused The rejected request.
   */
  take(error: unknown, { session, readers, isNew, ask }: Refused): void {
    const { code, retryAfterMs = 0 } = failureOf(error);
    if (isNew && PASSING.has(code) && !this.#told.has(readers)) {
      this.#told.add(readers);
      const advice = `the client requests "${readers.topic}" again until the server answers`;
      tellSkipped(session[internals].settings, error as Error, { session, advice });
    }
    this.#line = this.#line.then(async () => {
      if (session.isClosed || readers.isEnded) return;
      const pauseMs = Math.max(boundRetryAfter(retryAfterMs), this.#backoff.next()!);
      if (!await settlesWithin(this.#runtime, session.closed, pauseMs) && await ask()) {
        this.#backoff.reset();
        this.#told.delete(readers);
      }
    });
  }
}

function failureOf(error: unknown): Partial<RequestFailure> {
  return error instanceof RequestError ? error.failure : {};
}
