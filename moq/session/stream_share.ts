/** The streams that a peer makes a server hold, counted for all sessions of the server. */
import { type Account, NOBODY } from "../../base/quotas/accounts.ts";
import type { Quota, Slot } from "../../base/quotas/shares.ts";

/** The reason to reject a stream: the share of an address, or the limit of the server. */
export type StreamRejection = "addressLimit" | "relayLimit";

/**
 * The streams of one session in the quota of its server. A stream counts until both sides have
 * ended it, because the runtime holds it that long. State that a peer piles up, such as
 * announcements that it does not read, counts as further streams.
 */
export class StreamShare {
  readonly #quota: Quota;
  readonly #slots: Slot[] = [];
  #account: Account;
  #isOver = false;

  /** Starts without streams. */
  constructor(quota: Quota, account: Account) {
    this.#quota = quota;
    this.#account = account;
  }

  /**
   * Counts another stream. Each counted stream must be released once.
   *
   * @returns The reason if the stream does not fit; `undefined` if it was counted.
   */
  take(): StreamRejection | undefined {
    if (this.#isOver) return undefined;
    const slot = this.#quota.tryTake(this.#account);
    if (typeof slot === "string") return slot === "server" ? "relayLimit" : "addressLimit";
    this.#slots.push(slot);
    return undefined;
  }

  /** Stops counting a stream. */
  release(): void {
    this.#slots.pop()?.[Symbol.dispose]();
  }

  /** Counts the streams for no address, because the peer is a relay for many clients. */
  exemptAddress(): void {
    if (this.#account === NOBODY) return;
    this.#account = NOBODY;
    for (const slot of this.#slots) slot.change(NOBODY, { ignoresShares: true });
  }

  /** Stops counting all streams when the session ends. Further calls have no effect. */
  end(): void {
    this.#isOver = true;
    for (const slot of this.#slots.splice(0)) slot[Symbol.dispose]();
  }
}

/** Counts the amount of one kind of state as streams. */
export class StreamWeight {
  readonly #share: StreamShare | undefined;
  readonly #perStream: number;
  #streams = 0;

  /**
   * Starts with nothing.
   *
   * @param share The streams of the session; `undefined` if nothing counts.
   * @param perStream The amount that takes as much memory as a stream. Less than that is free.
   */
  constructor(share: StreamShare | undefined, perStream: number) {
    this.#share = share;
    this.#perStream = perStream;
  }

  /**
   * Sets the amount.
   *
   * @returns The reason if the amount does not fit, in which case a part of it is counted.
   */
  set(amount: number): StreamRejection | undefined {
    if (this.#share === undefined) return undefined;
    const streams = Math.floor(amount / this.#perStream);
    for (; this.#streams > streams; this.#streams--) this.#share.release();
    for (; this.#streams < streams; this.#streams++) {
      const rejection = this.#share.take();
      if (rejection !== undefined) return rejection;
    }
    return undefined;
  }
}
