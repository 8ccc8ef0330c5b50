/**
 * Subscriptions that are refused for now, and asked for again: loaded when that happens first.
 *
 * @module
 */
import { RequestError, type RequestFailure, TimeoutError } from "../errors.ts";
import { Backoff } from "../session/base/backoff.ts";
import { CODES_FOR_NOW } from "../session/wire/recovery.ts";
import type { Session } from "../session/session.ts";
import { settlesWithin } from "../session/base/wait.ts";

/** Upper end of the first pause, in milliseconds, where the server says nothing. */
const FIRST_PAUSE_MS = 100;

/**
 * Longest time, in milliseconds, after which a subscription that was never in force is asked for
 * again, as long as a server has to answer; whoever waits for it is told of a longer one.
 */
const MAX_FIRST_PAUSE_MS = 30_000;

/** What is to be asked for again. */
export interface Refused {
  /** Who refused it. */
  readonly session: Session;
  /** What was refused. */
  readonly readers: { readonly isEnded: boolean };
  /** Asks; tells whether that was answered, and comes back here if not. Never rejects. */
  readonly ask: () => Promise<true | void>;
}

/**
 * Asks again for what a server refused for now, one after the other: a rate that refused many
 * lets them through one by one, and is asked no more often than it said.
 */
export class Again {
  readonly #backoff = new Backoff({ firstDelayMs: FIRST_PAUSE_MS });
  #line: Promise<void> = Promise.resolve();

  /**
   * Tells whether a subscription that was refused is to be asked for again.
   *
   * @param error Why it was refused, or not answered.
   * @param wasInForce Whether it was in force before: its reader would miss messages by its end.
   * @returns False if the refusal is final.
   */
  isForNow(error: unknown, wasInForce: boolean): boolean {
    const { code = "", retryAfterMs = 0 } = failureOf(error);
    const isForNow = error instanceof TimeoutError || CODES_FOR_NOW.has(code);
    const isBrief = code === "superseded" || retryAfterMs > 0 && retryAfterMs <= MAX_FIRST_PAUSE_MS;
    return isForNow && (wasInForce || isBrief);
  }

  /**
   * Has a topic asked for again, for as long as its session lasts.
   *
   * @param error Why it was refused, or not answered.
   * @param refused What, and by whom.
   */
  take(error: unknown, { session, readers, ask }: Refused): void {
    const { retryAfterMs = 0 } = failureOf(error);
    this.#line = this.#line.then(async () => {
      if (session.isClosed || readers.isEnded) return;
      const pauseMs = Math.max(retryAfterMs, this.#backoff.next()!);
      if (!await settlesWithin(session.closed, pauseMs) && await ask()) this.#backoff.reset();
    });
  }
}

function failureOf(error: unknown): Partial<RequestFailure> {
  return error instanceof RequestError ? error.failure : {};
}
