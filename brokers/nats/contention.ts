/** Repeated attempts to change what other nodes change at the same time. */
import { BrokerError } from "../../errors.ts";
import type { NatsLink } from "./link.ts";

/** Time after which a change fails if other nodes are always first, in milliseconds. */
const MAX_CONTENDED_MS = 30_000;

/** Longest pause before the next attempt, in milliseconds. */
export const MAX_PAUSE_MS = 10;

export class ChangeAttempts {
  readonly #link: NatsLink;
  readonly #endMs: number;
  #lost = 0;

  constructor(link: NatsLink) {
    this.#link = link;
    this.#endMs = link.runtime.monotonic() + MAX_CONTENDED_MS;
  }

  /**
   * Pauses after an attempt in which another node was first.
   *
   * @param what What is changed, for the error.
   * @throws {BrokerError} If other nodes were first for too long.
   */
  async lost(what: string): Promise<void> {
    const { runtime } = this.#link;
    if (runtime.monotonic() > this.#endMs) {
      throw new BrokerError(
        `Cannot change ${what}: other nodes changed it first for ${MAX_CONTENDED_MS} ms`,
      );
    }
    this.#lost++;
    await this.#link.pause(runtime.random() * Math.min(MAX_PAUSE_MS, this.#lost));
  }
}
