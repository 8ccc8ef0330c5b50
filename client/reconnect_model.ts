/**
 * A reference model of a client's delays between attempts, based on rules 7.10 and 15.4 of the
 * protocol.
 */

/** The length of a session after which the delays start over, in milliseconds. */
const STABLE_MS = 5_000;

export interface ModelWait {
  readonly delayMs: number;
  /** The number of attempts since the last stable session. */
  readonly attempt: number;
}

/** The options of a client that the model describes. */
export interface ModelBackoff {
  readonly urls: number;
  /** The random number that is used for each delay. */
  readonly share: number;
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
}

/** The attempts of one client, for which every random number is the same. */
export class ReconnectModel {
  /** The index of the URL of the current attempt or session. */
  url = 0;
  /**
   * The time at which the server asked the client to reconnect, in milliseconds; 0 if it did not.
   */
  retryAtMs = 0;
  readonly #options: ModelBackoff;
  #attempt = 0;
  /** The number of URLs in a row without a stable session. */
  #failed = 0;
  #connectedMs = Infinity;

  /** @param options See {@linkcode ModelBackoff}. */
  constructor(options: ModelBackoff) {
    this.#options = options;
  }

  /** Records that a session has opened. */
  connected(nowMs: number): void {
    this.#connectedMs = nowMs;
  }

  /**
   * Records that an attempt has failed, or that a session has ended.
   *
   * @param nowMs The time, in milliseconds.
   * @returns The delay before the next attempt.
   */
  lost(nowMs: number): ModelWait {
    const { urls, share, firstDelayMs, maxDelayMs } = this.#options;
    if (nowMs - this.#connectedMs >= STABLE_MS) this.#attempt = this.#failed = 0;
    this.#connectedMs = Infinity;
    this.url = (this.url + 1) % urls;
    const { retryAtMs } = this;
    this.retryAtMs = 0;
    const hasOther = ++this.#failed < urls;
    if (!hasOther) this.#failed = 0;
    // The next URL is tried immediately, until all have failed.
    if (hasOther && retryAtMs === 0) return { delayMs: 0, attempt: this.#attempt };
    const drawnMs = share * Math.min(maxDelayMs, firstDelayMs * 2 ** this.#attempt);
    const delayMs = retryAtMs === 0 ? drawnMs : Math.max(0, retryAtMs - nowMs);
    return { delayMs, attempt: ++this.#attempt };
  }
}
