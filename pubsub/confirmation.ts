/** The wait for a broker to confirm a subscription. */
import { BrokerError } from "../errors.ts";
import type { Runtime, Timer } from "../base/runtime.ts";

/**
 * Longest wait for the broker to subscribe this node, in milliseconds. After that, callers receive
 * an error.
 */
const CONFIRM_TIMEOUT_MS = 10_000;

/**
 * Called once, with an error if the broker did not confirm. MUST NOT throw.
 */
type ConfirmationCallback = (error?: BrokerError) => void;

/** Notifies the sessions of a topic when publications of all nodes reach this node. */
export class Confirmation {
  readonly #runtime: Runtime;
  readonly #topic: string;
  readonly #waiting = new Set<ConfirmationCallback>();
  #isGiven = false;
  #isHeld = false;
  #isClosed = false;
  #timer: Timer | undefined;

  /**
   * Creates a confirmation that is not given.
   *
   * @param runtime Provides the timers.
   * @param topic The topic, for errors.
   * @param held Until this promise resolves, the confirmation has no effect.
   */
  constructor(runtime: Runtime, topic: string, held?: Promise<void>) {
    this.#runtime = runtime;
    this.#topic = topic;
    if (held === undefined) return;
    this.#isHeld = true;
    void held.then(() => {
      this.#isHeld = false;
      if (this.#isGiven) this.#settle();
    });
  }

  /** True if the subscription is in force. */
  get isGiven(): boolean {
    return this.#isGiven && !this.#isHeld;
  }

  /** Notes that the subscription is in force. Idempotent. */
  give(): void {
    if (this.#isGiven) return;
    this.#isGiven = true;
    if (!this.#isHeld) this.#settle();
  }

  /**
   * Calls back once the subscription is in force or the time limit has passed. If it is already in
   * force, calls back immediately.
   */
  wait(waiter: ConfirmationCallback): void {
    if (this.isGiven || this.#isClosed) return waiter();
    this.#waiting.add(waiter);
    this.#timer ??= this.#runtime.setTimeout(
      () => this.#settle(this.#lateError()),
      CONFIRM_TIMEOUT_MS,
    );
  }

  /** Waits as {@linkcode Confirmation.wait} does; the promise never rejects. */
  async waited(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.wait(() => resolve());
    await promise;
  }

  /** Ends all waits, because the subscription has ended. */
  close(): void {
    this.#isClosed = true;
    this.#settle();
  }

  #settle(error?: BrokerError): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const waiter of waiting) waiter(error);
  }

  #lateError(): BrokerError {
    return new BrokerError(
      `Cannot subscribe: the broker has not confirmed "${this.#topic}" within ${CONFIRM_TIMEOUT_MS} ms`,
    );
  }
}
