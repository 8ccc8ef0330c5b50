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
 * The longest time between two requests that a limit requires, in milliseconds. A limit that
 * concerns few topics must not delay the others for longer.
 */
const MAX_DISTANCE_MS = 30_000;

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
 * Repeats requests that were rejected temporarily, one at a time.
 *
 * - **Pauses:** each topic has its own pause, so that it delays no other topic.
 * - **Limits:** if the newest rejection comes from a limit of the server, which usually applies to
 *   all topics, the client waits as long after each request.
 * - **Outages:** topics whose retry failed share one backoff. If all of them fail, the client sends
 *   few requests, however many topics it has.
 */
export class Retries {
  readonly #runtime: Runtime;
  readonly #backoff: Backoff;
  /** The newest request whose pause has passed, with the pause after it. */
  #queue: Promise<unknown> = Promise.resolve();
  /** The newest of the requests that were retried before, with the backoff after it. */
  #again: Promise<unknown> = Promise.resolve();
  /** The time between two requests that a limit of the server requires, in milliseconds. */
  #distanceMs = 0;
  /** The readers whose last retry failed. */
  readonly #failed = new WeakSet<object>();
  /** The readers whose rejection was reported to the application. */
  readonly #reported = new WeakSet<object>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.#backoff = new Backoff(runtime);
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
    const { code, retryAfterMs = 0 } = failureOf(error);
    const isBrief = retryAfterMs > 0 && retryAfterMs <= MAX_FIRST_PAUSE_MS;
    return CODES_FOR_NOW.has(code!) && (wasInForce || isBrief || code !== "too-many");
  }

  /**
   * Repeats the request for a topic after a pause, unless the session ends first. If a new
   * subscription has to wait, notifies the application once.
   *
   * @param error The rejection, or the error for a missing reply.
   * @param rejected The rejected request.
   */
  schedule(error: unknown, { session, readers, isNew, request }: RejectedSubscription): void {
    const { code, retryAfterMs, level } = failureOf(error);
    // Other codes come from the server's rules.
    if (isNew && code === "unavailable" && !this.#reported.has(readers)) {
      this.#reported.add(readers);
      const advice = `the client requests "${readers.topic}" again until the server replies`;
      tellSkipped(session[internals].settings, error as Error, { session, advice });
    }
    const ownMs = boundRetryAfter(retryAfterMs);
    const leastMs = this.#runtime.random() * FIRST_PAUSE_MS;
    this.#distanceMs = level ? Math.min(ownMs, MAX_DISTANCE_MS) : 0;
    const pass = (ms: number) =>
      settlesWithin(this.#runtime, session.closed, Math.max(leastMs, ms));
    const send = () =>
      this.#queue = this.#queue.then(async () => {
        this.#failed.delete(readers);
        if (session.isClosed || readers.isEnded) return;
        if (await request()) {
          this.#backoff.reset();
          this.#reported.delete(readers);
        } else this.#failed.add(readers);
        await pass(this.#distanceMs);
      });
    void pass(ownMs).then(() => {
      if (!this.#failed.has(readers)) return send();
      return this.#again = this.#again.then(send).then(() =>
        this.#failed.has(readers) && pass(this.#backoff.next()!)
      );
    });
  }
}

/** The failure that the server sent, or `unavailable` if there was no reply in time. */
function failureOf(error: unknown): Partial<RequestFailure> {
  if (error instanceof TimeoutError) return { code: "unavailable" };
  return error instanceof RequestError ? error.failure : {};
}
