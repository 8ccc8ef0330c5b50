/**
 * Credit of a WebTransport session: how many bytes and streams each end may
 * still send, where both ends said that they count (draft-ietf-webtrans-http3,
 * section 5.6).
 *
 * @module
 */
import { TimeoutError } from "../../errors.ts";
import type { OpenStreamOptions } from "../connection.ts";
import { startTimer } from "../within.ts";

/** Somebody who waits for credit. */
interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** What the peer granted: a total that only grows. */
export class SendCredit {
  readonly #what: string;
  readonly #onBlocked: (limit: number) => void;
  readonly #waiters = new Set<Waiter>();
  #limit: number;
  #used = 0;
  #failure: { readonly cause: unknown } | undefined;

  /**
   * Creates credit.
   *
   * @param what What is counted, for the message of who waited too long.
   * @param limit The total at first.
   * @param onBlocked Tells the peer that its total is used up.
   */
  constructor(what: string, limit: number, onBlocked: (limit: number) => void) {
    this.#what = what;
    this.#limit = limit;
    this.#onBlocked = onBlocked;
  }

  /** How much is left. */
  get left(): number {
    return this.#limit - this.#used;
  }

  /**
   * Takes credit, at most what is wanted and at least one, waiting in line for it.
   *
   * @param wanted How much.
   * @param options Its `signal` and `timeoutMs` give up waiting.
   * @returns How much was taken.
   * @throws {TimeoutError} If `timeoutMs` passed first.
   */
  async take(wanted: number, options: OpenStreamOptions = {}): Promise<number> {
    options.signal?.throwIfAborted();
    if (this.#failure !== undefined) throw this.#failure.cause;
    if (this.left > 0 && this.#waiters.size === 0) return this.#takeSome(wanted);
    if (this.left <= 0) this.#onBlocked(this.#limit);
    return await this.#wait(wanted, options);
  }

  /**
   * Takes credit, if there is as much as is wanted and nobody waits.
   *
   * @param wanted How much.
   * @returns Whether it was taken.
   */
  takeNow(wanted: number): boolean {
    if (this.#failure !== undefined || this.#waiters.size > 0 || this.left < wanted) return false;
    this.#used += wanted;
    return true;
  }

  /**
   * Takes nothing after all.
   *
   * @param amount What was taken.
   */
  giveBack(amount: number): void {
    this.#used -= amount;
    this.#wakeNext();
  }

  /**
   * Raises the total.
   *
   * @param limit The new total.
   * @returns False if it is lower than before, which the peer may not do.
   */
  raise(limit: number): boolean {
    if (limit < this.#limit) return false;
    this.#limit = limit;
    this.#wakeNext();
    return true;
  }

  /**
   * Refuses everybody who waits, and all who come.
   *
   * @param error What they get.
   */
  fail(error: unknown): void {
    this.#failure = { cause: error };
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters.clear();
  }

  #takeSome(wanted: number): number {
    const taken = Math.min(wanted, this.left);
    this.#used += taken;
    return taken;
  }

  #wakeNext(): void {
    if (this.left <= 0) return;
    const [first] = this.#waiters;
    first?.resolve();
  }

  async #wait(wanted: number, { signal, timeoutMs }: OpenStreamOptions): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter = { resolve, reject };
    const timer = startTimer(timeoutMs, (ms) => {
      const message = `Cannot open stream: the peer granted no ${this.#what} within ${ms} ms`;
      reject(new TimeoutError(message, ms));
    });
    const onAbort = () => reject(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    // It keeps its place until it has taken, so that nobody comes between.
    this.#waiters.add(waiter);
    try {
      await promise;
      return this.#takeSome(wanted);
    } finally {
      this.#waiters.delete(waiter);
      this.#wakeNext();
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
  }
}

/** What this end grants: a window that moves as the peer's bytes are read, or its streams end. */
export class ReceiveCredit {
  readonly #window: number;
  readonly #grant: (limit: number) => void;
  #limit: number;
  #received = 0;
  #done = 0;

  /**
   * Creates a window.
   *
   * @param window How much the peer may be ahead of who reads.
   * @param grant Tells the peer its new total.
   */
  constructor(window: number, grant: (limit: number) => void) {
    this.#window = window;
    this.#grant = grant;
    this.#limit = window;
  }

  /**
   * Counts what came.
   *
   * @param amount Bytes, or streams.
   * @returns False if the peer sent more than it may.
   */
  receive(amount: number): boolean {
    this.#received += amount;
    return this.#received <= this.#limit;
  }

  /**
   * Counts what is done with, and grants more once half of the window is, or as
   * much as the peer has left: where some stay open for long, what it has left
   * may be little.
   *
   * @param amount Bytes that were read, or streams that ended.
   */
  release(amount: number): void {
    this.#done += amount;
    const left = Math.max(0, this.#limit - this.#received);
    const more = this.#done + this.#window - this.#limit;
    if (more >= Math.min(left, this.#window / 2)) this.grantAll();
  }

  /** Grants all that can be granted: the peer has nothing left. */
  grantAll(): void {
    const limit = this.#done + this.#window;
    if (limit <= this.#limit) return;
    this.#limit = limit;
    this.#grant(limit);
  }
}
