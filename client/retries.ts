/** Retries of subscriptions that a server refused for now. */
import { RequestError, type RequestFailure, TimeoutError } from "../errors.ts";
import { Backoff, boundRetryAfter } from "../base/backoff.ts";
import type { Runtime } from "../base/runtime.ts";
import { settlesWithin } from "../base/wait.ts";
import { CODES_FOR_NOW } from "../session/wire/recovery.ts";
import { internals, type Session } from "../session/session.ts";
import { tellSkipped } from "../session/settings.ts";

/** Longest first pause, in milliseconds, if the server gives no time. */
const FIRST_PAUSE_MS = 100;

/**
 * Longest pause of a limit, in milliseconds, after which a subscription that was never in force is
 * retried: as long as a server has to answer. After another limit, such as that of topics, the
 * caller gets the refusal.
 */
const MAX_FIRST_PAUSE_MS = 30_000;

/** Codes of faults at the server; `undefined` for no answer in time. The others are its rules. */
const PASSING: ReadonlySet<string | undefined> = new Set(["unavailable", undefined]);

/** A refused request for a topic. */
export interface Refused {
  /** The session in which the server refused. */
  readonly session: Session;
  /** The readers of the topic. */
  readonly readers: { readonly isEnded: boolean; readonly topic: string };
  /** True if a subscription was never in force, so that its status does not show the refusal. */
  readonly isNew: boolean;
  /**
   * Repeats the request. Resolves with true if the server confirmed; otherwise the refusal reaches
   * {@linkcode Retries} again. Never rejects.
   */
  readonly ask: () => Promise<true | void>;
}

/**
 * Repeats temporarily refused requests, one after the other. A rate limit that refused many
 * requests thus lets one after the other through, and gets no request earlier than the limit
 * allows.
 */
export class Retries {
  readonly #runtime: Runtime;
  readonly #backoff: Backoff;
  #line: Promise<void> = Promise.resolve();
  /** Readers whose refusal the application was told of. */
  readonly #told = new WeakSet<object>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.#backoff = new Backoff(runtime, { firstDelayMs: FIRST_PAUSE_MS });
  }

  /**
   * Tells if a refused subscription is to be retried.
   *
   * @param error The refusal, or the error for a missing answer.
   * @param wasInForce True if the subscription was in force before, so that the reader would miss
   *   messages.
   * @returns False if the refusal is final.
   */
  isForNow(error: unknown, wasInForce: boolean): boolean {
    const { code = "", retryAfterMs = 0 } = failureOf(error);
    const isForNow = error instanceof TimeoutError || CODES_FOR_NOW.has(code);
    const isBrief = retryAfterMs > 0 && retryAfterMs <= MAX_FIRST_PAUSE_MS;
    return isForNow && (wasInForce || isBrief || code !== "too-many");
  }

  /**
   * Repeats the request for a topic after a pause, unless the session ends first. Tells the
   * application once of a new subscription that has to wait.
   *
   * @param error The refusal, or the error for a missing answer.
   * @param refused The refused request.
   */
  take(error: unknown, { session, readers, isNew, ask }: Refused): void {
    const { code, retryAfterMs = 0 } = failureOf(error);
    if (isNew && PASSING.has(code) && !this.#told.has(readers)) {
      this.#told.add(readers);
      const advice = `the client asks again for "${readers.topic}" until the server answers`;
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
