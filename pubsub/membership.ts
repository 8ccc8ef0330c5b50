/** A session's subscription to a topic, with the calls and the client that are waiting for it. */
import type { BrokerError } from "../errors.ts";
import type { Confirmation } from "./confirmation.ts";

/** A session's subscription to a topic. */
export class Membership {
  /** True if the client requested the topic, and the application did not subscribe it. */
  isRequested: boolean;
  /** Called after the session was unsubscribed. */
  onLeft: ((code: string) => void) | undefined;
  /** Settle the promises of calls that wait for the broker. */
  readonly #waits = new Set<() => void>();
  #reply: ((error?: BrokerError) => void) | undefined;

  constructor({ isRequested, onLeft }: Pick<Membership, "isRequested" | "onLeft">) {
    this.isRequested = isRequested;
    this.onLeft = onLeft;
  }

  /** True while a reply waits. */
  get isUnanswered(): boolean {
    return this.#reply !== undefined;
  }

  /** Sends the waiting reply, if there is one. */
  reply(): void {
    this.#reply?.();
  }

  /**
   * Replies once the broker confirms, but not before the application's call has returned. It
   * replies earlier if another reply is due or the subscription ends.
   *
   * @param tell Sends the reply, with an error if the broker did not confirm.
   * @param confirmation The confirmation to wait for, if any.
   */
  replyLater(tell: (error?: BrokerError) => void, confirmation?: Confirmation): void {
    this.reply();
    const reply = (error?: BrokerError) => {
      if (this.#reply !== reply) return;
      this.#reply = undefined;
      tell(error);
    };
    this.#reply = reply;
    if (confirmation === undefined || confirmation.isGiven) queueMicrotask(reply);
    else confirmation.wait(reply);
  }

  /**
   * Waits until the broker confirms, but only as long as the session is subscribed.
   *
   * @param onLate Called if the promise rejects. The rejection need not be handled.
   * @returns Resolves to false if the session leaves first.
   */
  confirmed(
    confirmation: Confirmation | undefined,
    onLate: (error: BrokerError) => void,
  ): Promise<boolean> {
    if (confirmation === undefined || confirmation.isGiven) return Promise.resolve(true);
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    promise.catch(() => {});
    const leave = () => resolve(false);
    this.#waits.add(leave);
    confirmation.wait((error) => {
      if (!this.#waits.delete(leave)) return;
      if (error === undefined) return resolve(true);
      reject(error);
      onLate(error);
    });
    return promise;
  }

  /** Ends all waits: the session is no longer subscribed. */
  end(): void {
    this.#reply = undefined;
    for (const leave of this.#waits) leave();
    this.#waits.clear();
  }
}
