/**
 * Credit of one kind: how many bytes or streams each end may still send. A
 * session over HTTP/3 has three of each direction (draft-ietf-webtrans-http3,
 * section 5.6), and so has QMux.
 *
 * @module
 */
import { TimeoutError } from "../errors.ts";
import type { CreditState, OpenStreamOptions } from "./connection.ts";
import { startTimer } from "./within.ts";

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
  #toldLimit = -1;
  #failure: { readonly cause: unknown } | undefined;

  /**
   * Creates credit.
   *
   * @param what What is counted, for the message of who waited too long: `bytes`, or a kind of stream.
   * @param limit The total at first.
   * @param onBlocked Tells the peer that its total is used up, once for each total.
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

  /** The total that the peer granted. */
  get limit(): number {
    return this.#limit;
  }

  /** What was taken of it. */
  get used(): number {
    return this.#used;
  }

  /** How many wait for more. */
  get waiting(): number {
    return this.#waiters.size;
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
    this.#tellBlocked();
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

  #tellBlocked(): void {
    if (this.left > 0 || this.#toldLimit === this.#limit) return;
    this.#toldLimit = this.#limit;
    this.#onBlocked(this.#limit);
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
      const action = this.#what === "bytes" ? "write" : "open stream";
      const message = `Cannot ${action}: the peer granted no ${this.#what} within ${ms} ms`;
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
  #window: number;
  readonly #grant: (limit: number) => void;
  readonly #isAutomatic: boolean;
  #limit: number;
  #received = 0;
  #done = 0;
  #owed = 0;
  #lost = 0;

  /**
   * Creates a window.
   *
   * @param window How much the peer may be ahead of who reads.
   * @param grant Tells the peer its new total.
   * @param options Whether the window moves by itself, as it does by default.
   */
  constructor(
    window: number,
    grant: (limit: number) => void,
    options: { readonly automatic?: boolean | undefined } = {},
  ) {
    this.#window = window;
    this.#grant = grant;
    this.#isAutomatic = options.automatic ?? true;
    this.#limit = window;
  }

  /** The total that this end granted. */
  get limit(): number {
    return this.#limit;
  }

  /** How much the peer may be ahead of who reads. */
  get window(): number {
    return this.#window;
  }

  /**
   * Makes the window larger, or smaller before the peer was told of it.
   *
   * @param window How much the peer may be ahead of who reads.
   */
  resize(window: number): void {
    const total = this.#limit + window - this.#window;
    this.#window = window;
    if (total > this.#limit) this.grant(total);
    else this.#limit = total;
  }

  /** What the peer used of it. */
  get received(): number {
    return this.#received;
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
    const left = Math.max(0, this.#limit - this.#received - this.#lost);
    const more = this.#done + this.#window - this.#limit;
    if (more >= Math.min(left, this.#window / 2)) this.grantAll();
  }

  /**
   * Counts what is done with where the peer has to get it back, also from a window that does not
   * move by itself.
   *
   * @param amount Bytes that were read.
   */
  giveBack(amount: number): void {
    if (this.#isAutomatic) return this.release(amount);
    this.#owed += amount;
    const left = Math.max(0, this.#limit - this.#received);
    if (this.#owed < Math.min(left, this.#window / 2)) return;
    this.grant(this.#limit + this.#owed);
    this.#owed = 0;
  }

  /**
   * Counts what was thrown away unseen, where nobody tells how much that was: as much as it can
   * have been. Each time that widens the window, by no more than itself, until the peer says
   * that it waits.
   *
   * @param atMost The most that it can have been.
   */
  lose(atMost: number): void {
    const amount = Math.min(atMost, Math.max(0, this.#limit - this.#received - this.#lost));
    this.#lost += amount;
    this.release(amount);
  }

  /**
   * The peer says that it waits: it gets what can be granted.
   *
   * @param limit The total that it used up.
   */
  peerBlocked(limit: number): void {
    if (limit === this.#limit) {
      // It sent no more than that, so no more can have been thrown away.
      const excess = this.#lost - Math.max(0, limit - this.#received);
      if (excess > 0) {
        this.#lost -= excess;
        this.#done -= excess;
      }
    }
    this.grantAll();
  }

  /** Grants all that can be granted: the peer has nothing left. A window that does not move grants nothing. */
  grantAll(): void {
    if (this.#isAutomatic) this.grant(this.#done + this.#window);
  }

  /**
   * Grants a total by hand. A window that moves goes on from there once as much was released.
   *
   * @param total Since the beginning; what is not more than before changes nothing.
   */
  grant(total: number): void {
    if (total <= this.#limit) return;
    this.#limit = total;
    this.#grant(total);
  }
}

/** Both directions of the credit of one kind. */
export interface CreditPair {
  /** What this end may send. */
  readonly send: SendCredit;
  /** What the peer may send. */
  readonly receive: ReceiveCredit;
}

/**
 * Reads both directions of one kind.
 *
 * @param pair Both directions.
 * @returns Their totals, and who waits for more.
 */
export function creditState({ send, receive }: CreditPair): CreditState {
  return {
    granted: receive.limit,
    received: receive.received,
    allowed: send.limit,
    sent: send.used,
    waiting: send.waiting,
  };
}

/**
 * Checks a total that is granted by hand.
 *
 * @param total What was given.
 * @throws {RangeError} If it is not an integer from 0 to 2^53 - 1.
 */
export function checkTotal(total: number): void {
  if (Number.isSafeInteger(total) && total >= 0) return;
  throw new RangeError(
    `Cannot grant credit: the total must be an integer from 0 to 2^53 - 1, received ${total}`,
  );
}
