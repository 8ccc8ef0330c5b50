/** The credit of one kind: the bytes or streams that each side may still send. */
import type { Runtime, Timer } from "../base/runtime.ts";
import { within } from "../base/wait.ts";
import type { CreditState, OpenStreamOptions } from "./connection.ts";

/** The credit granted by the peer, as a total that only grows. */
export class SendCredit {
  readonly #runtime: Runtime;
  readonly #what: string;
  readonly #onBlocked: (limit: number) => void;
  readonly #waiters = new Set<PromiseWithResolvers<void>>();
  #limit: number;
  #used = 0;
  #reportedLimit = -1;
  #failure: { readonly cause: unknown } | undefined;

  /**
   * Creates credit.
   *
   * @param what The unit to name in the timeout error: `bytes`, or a kind of stream.
   * @param limit The initial total.
   * @param onBlocked Reports to the peer that the total is used up. Called once for each total.
   */
  constructor(
    runtime: Runtime,
    what: string,
    limit: number,
    onBlocked: (limit: number) => void,
  ) {
    this.#runtime = runtime;
    this.#what = what;
    this.#limit = limit;
    this.#onBlocked = onBlocked;
  }

  /** The remaining credit. */
  get left(): number {
    return this.#limit - this.#used;
  }

  /** The total granted by the peer. */
  get limit(): number {
    return this.#limit;
  }

  /** The part of the total that has been used. */
  get used(): number {
    return this.#used;
  }

  /** The number of calls that are waiting for more. */
  get waiting(): number {
    return this.#waiters.size;
  }

  /**
   * Takes at least one unit of credit and at most `wanted`. Calls are served in order.
   *
   * @param wanted The maximum number of units to take.
   * @param options `signal` and `timeoutMs`, which end the wait.
   * @returns The number of units taken.
   * @throws {TimeoutError} If `timeoutMs` passes first.
   */
  async take(wanted: number, options: OpenStreamOptions = {}): Promise<number> {
    options.signal?.throwIfAborted();
    if (this.#failure !== undefined) throw this.#failure.cause;
    if (this.left > 0 && this.#waiters.size === 0) return this.#takeSome(wanted);
    this.reportBlocked();
    return await this.#wait(wanted, options);
  }

  /**
   * Takes credit immediately if all of it is available and no other call is waiting.
   *
   * @returns `true` if the credit was taken.
   */
  takeNow(wanted: number): boolean {
    if (this.#failure !== undefined || this.#waiters.size > 0 || this.left < wanted) return false;
    this.#used += wanted;
    return true;
  }

  /** Returns credit that was not used. */
  giveBack(amount: number): void {
    this.#used -= amount;
    this.#wakeNext();
  }

  /**
   * Raises the total.
   *
   * @returns `false` if the total is lower than before, which the protocol forbids.
   */
  raise(limit: number): boolean {
    if (limit < this.#limit) return false;
    this.#limit = limit;
    this.#wakeNext();
    return true;
  }

  /** Rejects all waiting calls, and all later ones. */
  fail(error: unknown): void {
    this.#failure = { cause: error };
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters.clear();
  }

  /** Reports that the total is used up, once for each total. */
  reportBlocked(): void {
    if (this.left > 0 || this.#reportedLimit === this.#limit) return;
    this.#reportedLimit = this.#limit;
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
    const waiter = Promise.withResolvers<void>();
    const action = this.#what === "bytes" ? "write" : "open stream";
    const late = `Cannot ${action}: the peer granted no ${this.#what} within`;
    // The call stays first in line until it has taken its credit, so no other call can overtake it.
    this.#waiters.add(waiter);
    try {
      await within(this.#runtime, waiter.promise, { late, signal, timeoutMs });
      return this.#takeSome(wanted);
    } finally {
      this.#waiters.delete(waiter);
      this.#wakeNext();
    }
  }
}

/** The largest total of an automatic window. A window without a limit never moves. */
const MAX_TOTAL = Number.MAX_SAFE_INTEGER;

/**
 * The time after which released streams are granted again, even if there are few, in milliseconds.
 * Otherwise a peer that does not report that it is blocked would never get the rest of the window.
 */
const GRANT_REST_MS = 20;

/**
 * The credit granted by this side. It is a window that moves as the peer's bytes are read, or as
 * the peer's streams end.
 */
export class ReceiveCredit {
  #window: number;
  readonly #grant: (limit: number) => void;
  readonly #isAutomatic: boolean;
  readonly #restAfter: Runtime | undefined;
  #rest: Timer | undefined = undefined;
  #limit: number;
  #received = 0;
  #done = 0;
  #owed = 0;
  #lost = 0;

  /**
   * @param window The amount that the peer may send before the application reads.
   * @param grant Sends a new total to the peer.
   * @param options `automatic: false` keeps the window from moving automatically. With `restAfter`,
   * a timer of that runtime grants everything released at most {@linkcode GRANT_REST_MS} later.
   */
  constructor(
    window: number,
    grant: (limit: number) => void,
    options: {
      readonly automatic?: boolean | undefined;
      readonly restAfter?: Runtime | undefined;
    } = {},
  ) {
    this.#restAfter = options.restAfter;
    this.#window = window;
    this.#grant = grant;
    this.#isAutomatic = options.automatic ?? true;
    this.#limit = window;
  }

  /** The total granted by this side. */
  get limit(): number {
    return this.#limit;
  }

  /** The amount that the peer may send before the application reads. */
  get window(): number {
    return this.#window;
  }

  /**
   * Enlarges the window. A window that has not been announced to the peer yet can also shrink.
   *
   * @param window The amount that the peer may send before the application reads.
   */
  resize(window: number): void {
    const total = this.#limit + window - this.#window;
    this.#window = window;
    if (total > this.#limit) this.grant(total);
    else this.#limit = total;
  }

  /** The part of the total that the peer has used. */
  get received(): number {
    return this.#received;
  }

  /**
   * Counts bytes or streams of the peer.
   *
   * @returns `false` if the peer exceeded the total.
   */
  receive(amount: number): boolean {
    this.#received += amount;
    return this.#received <= this.#limit;
  }

  /**
   * Counts bytes that were read, or streams that ended. Grants more immediately if the grant would
   * be at least half of the window, or at least as much as the peer's remaining credit. That credit
   * can be small while some streams stay open for a long time.
   */
  release(amount: number): void {
    this.#done += amount;
    const left = Math.max(0, this.#limit - this.#received - this.#lost);
    const more = Math.min(this.#done + this.#window, MAX_TOTAL) - this.#limit;
    if (more >= Math.min(left, this.#window / 2)) this.grantAll();
    else if (more > 0 && this.#isAutomatic) this.#grantLater();
  }

  /** Stops automatic grants, because the connection has ended. */
  end(): void {
    this.#restAfter?.clearTimeout(this.#rest);
    this.#rest = undefined;
  }

  #grantLater(): void {
    if (this.#rest !== undefined) return;
    this.#rest = this.#restAfter?.setTimeout(() => {
      this.#rest = undefined;
      this.grantAll();
    }, GRANT_REST_MS);
  }

  /** Counts bytes that were read. Grants them again even if the window is not automatic. */
  giveBack(amount: number): void {
    if (this.#isAutomatic) return this.release(amount);
    this.#owed += amount;
    const left = Math.max(0, this.#limit - this.#received);
    if (this.#owed < Math.min(left, this.#window / 2)) return;
    this.grant(this.#limit + this.#owed);
    this.#owed = 0;
  }

  /**
   * Counts bytes or streams that were discarded unseen. Their number is unknown, so the maximum is
   * assumed. Each call widens the window by at most `atMost`. A report from the peer that it is
   * blocked corrects this.
   */
  lose(atMost: number): void {
    const amount = Math.min(atMost, Math.max(0, this.#limit - this.#received - this.#lost));
    this.#lost += amount;
    this.release(amount);
  }

  /**
   * Handles the peer's report that it is blocked, by granting all that can be granted.
   *
   * @param limit The total that the peer used up.
   */
  peerBlocked(limit: number): void {
    if (limit === this.#limit) {
      // The peer has sent no more than `limit`, so correct an assumed loss that was larger.
      const excess = this.#lost - Math.max(0, limit - this.#received);
      if (excess > 0) {
        this.#lost -= excess;
        this.#done -= excess;
      }
    }
    this.grantAll();
  }

  /**
   * Grants all that can be granted to a peer that has no credit left. A window that is not
   * automatic grants nothing.
   */
  grantAll(): void {
    if (this.#isAutomatic) this.grant(Math.min(this.#done + this.#window, MAX_TOTAL));
  }

  /**
   * Grants a total explicitly. An automatic window grants more once its own total exceeds this one.
   *
   * @param total The total since the start. It is ignored unless it is larger than before.
   */
  grant(total: number): void {
    if (total <= this.#limit) return;
    this.#limit = total;
    this.#grant(total);
  }
}

/**
 * The credit of one kind in both directions. A session over HTTP/3 has three kinds
 * (draft-ietf-webtrans-http3, section 5.6), as does QMux.
 */
export interface CreditPair {
  readonly send: SendCredit;
  /** The peer's credit. */
  readonly receive: ReceiveCredit;
}

/**
 * Reads the credit of one kind in both directions.
 *
 * @returns The totals and the number of waiting calls.
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
 * Checks the total of an explicit grant.
 *
 * @throws {RangeError} If the total is not an integer from 0 to 2^53 - 1.
 */
export function checkTotal(total: number): void {
  if (Number.isSafeInteger(total) && total >= 0) return;
  throw new RangeError(
    `Cannot grant credit: the total must be an integer from 0 to 2^53 - 1, received ${total}`,
  );
}
