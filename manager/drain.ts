/**
 * Drains many sessions gracefully: their peers' reconnects are spread over time instead of
 * happening all at once.
 */
import { TIMER } from "../base/options/option_checks.ts";
import type { OptionKinds } from "../base/options/options.ts";
import { CloseCode } from "../errors.ts";
import { internals, type Session } from "../session/session.ts";
import type { Runtime, Timer } from "../base/runtime.ts";

/**
 * Fraction of the time over which the closes are spread. The rest is left for the last sessions to
 * finish.
 */
const SPREAD = 0.8;

/**
 * Maximum mean time between two closes, in milliseconds. Any server can handle 200 reconnects a
 * second, so draining a few sessions need not take the whole time.
 */
const MAX_SLOT_MS = 5;

/** Default time limit of a drain, in milliseconds. */
export const DRAIN_MS = 10_000;

/** Options for draining. */
export interface DrainOptions {
  /**
   * Time limit of the drain, in milliseconds. Peers are asked to reconnect at different times: 200
   * a second, or faster if 80 % of the limit is too short.
   *
   * @default {10000}
   */
  readonly withinMs?: number | undefined;
  /**
   * Reason for the peers, in words.
   *
   * @default {""}
   */
  readonly reason?: string | undefined;
  /** Closes all sessions immediately when aborted, for example by a second Ctrl-C. */
  readonly signal?: AbortSignal | undefined;
}

export const DRAIN: OptionKinds<DrainOptions> = {
  reason: "string",
  signal: "AbortSignal",
  withinMs: TIMER,
};

/** Result of a drain. */
export interface DrainReport {
  /**
   * Sessions that closed in time: their handlers finished and queues were flushed, or the peer
   * closed.
   */
  readonly closed: number;
  /** Sessions that were cut off, whose waiting messages are lost. */
  readonly cut: number;
  /** Duration of the drain, in milliseconds. */
  readonly tookMs: number;
}

/**
 * Divides a time into one slot per session, and picks a random moment in each slot. The moments are
 * spread evenly, but not in step with other servers that are draining.
 *
 * @param overMs The time, in milliseconds.
 * @param random Returns numbers of 0 or more and below 1.
 * @returns Whole milliseconds from now, in ascending order.
 */
export function spreadDelays(count: number, overMs: number, random: () => number): number[] {
  const slotMs = overMs / count;
  return Array.from({ length: count }, (_, i) => Math.floor((i + random()) * slotMs));
}

/** A drain of many sessions, with only two timers. */
export class Drain {
  readonly #runtime: Runtime;
  readonly #withinMs: number;
  readonly #reason: string;
  readonly #signal: AbortSignal | undefined;
  readonly #open = new Set<Session>(); // Bounded by the sessions at the start.
  readonly #done = Promise.withResolvers<void>();
  #delays: readonly number[] = [];
  #startedAt = 0;
  #next = 0;
  #cut = 0;
  #walker: Timer | undefined;

  /**
   * Checks the options, without further effect.
   *
   * @throws {RangeError} If `withinMs` is not a positive integer within the range of timers.
   */
  constructor(runtime: Runtime, options: DrainOptions = {}) {
    const { withinMs = DRAIN_MS, reason = "", signal } = options;
    this.#runtime = runtime;
    this.#withinMs = withinMs;
    this.#reason = reason;
    this.#signal = signal;
  }

  /**
   * Drains sessions. This can be called only once.
   *
   * @param sessions All sessions, in the order in which to close them.
   * @returns The result, once the last session has closed.
   */
  async run(sessions: readonly Session[]): Promise<DrainReport> {
    this.#startedAt = this.#runtime.monotonic();
    const overMs = Math.min(this.#withinMs * SPREAD, sessions.length * MAX_SLOT_MS);
    this.#delays = spreadDelays(sessions.length, overMs, () => this.#runtime.random());
    const cut = () => this.#cutAll();
    const deadline = this.#runtime.setTimeout(cut, this.#withinMs);
    this.#signal?.addEventListener("abort", cut, { once: true });
    this.#announce(sessions);
    this.#walk(sessions);
    if (this.#signal?.aborted) cut();
    await this.#done.promise;
    this.#runtime.clearTimeout(deadline);
    this.#runtime.clearTimeout(this.#walker);
    this.#signal?.removeEventListener("abort", cut);
    const tookMs = Math.round(this.#elapsedMs);
    return { closed: sessions.length - this.#cut, cut: this.#cut, tookMs };
  }

  get #elapsedMs(): number {
    return this.#runtime.monotonic() - this.#startedAt;
  }

  /** Sends each peer the time at which its session closes; until then, the session continues. */
  #announce(sessions: readonly Session[]): void {
    const onEnd = (session: Session) => this.#ended(session);
    for (const session of sessions) this.#open.add(session);
    for (const [i, session] of sessions.entries()) {
      session[internals].whenEnded(onEnd);
      try {
        session.goAway({ retryAfterMs: this.#delays[i]!, reason: this.#reason });
      } catch {
        // A session without `goAway` is closed at its time, like the others.
      }
    }
    if (this.#open.size === 0) this.#done.resolve();
  }

  /** Closes the sessions that are due, in order of time. */
  #walk(sessions: readonly Session[]): void {
    const elapsedMs = this.#elapsedMs;
    while (this.#next < sessions.length && this.#delays[this.#next]! <= elapsedMs) {
      this.#windUp(sessions[this.#next++]!, Math.max(1, Math.ceil(this.#withinMs - elapsedMs)));
    }
    if (this.#next === sessions.length || this.#open.size === 0) return;
    const waitMs = Math.max(1, this.#delays[this.#next]! - elapsedMs);
    this.#walker = this.#runtime.setTimeout(() => this.#walk(sessions), waitMs);
  }

  #windUp(session: Session, withinMs: number): void {
    // `retryAfterMs` is left out, because the peer already knows the time.
    session.drain({ code: CloseCode.draining, reason: this.#reason, withinMs })
      .catch(() => session.close({ code: CloseCode.draining, reason: this.#reason }));
  }

  #cutAll(): void {
    this.#runtime.clearTimeout(this.#walker);
    this.#cut += this.#open.size;
    for (const session of [...this.#open]) {
      session[internals].abort(CloseCode.draining, this.#reason);
    }
  }

  #ended(session: Session): void {
    this.#open.delete(session);
    if (this.#open.size === 0) this.#done.resolve();
  }
}
