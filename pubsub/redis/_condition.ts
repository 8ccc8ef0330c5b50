/**
 * How Redis is doing, out of all that is known of it.
 *
 * @module
 */
import { StatusFeed } from "../../session/base/status_feed.ts";
import type { BrokerStatus } from "../broker.ts";

/** Follows the connections, and what Redis answers on them. */
export class Condition {
  readonly status: StatusFeed<BrokerStatus> = new StatusFeed<BrokerStatus>({ name: "connecting" });
  readonly #isUp: () => boolean;
  #interruptions = 0;
  #wasUp = false;
  /** What the client library said last of a connection. */
  #error: unknown;
  /** What Redis answered last, if it did not do what it was asked for. */
  #trouble: unknown;

  /**
   * Begins as connecting.
   *
   * @param isUp Whether all connections are there, with all that comes on them.
   */
  constructor(isUp: () => boolean) {
    this.#isUp = isUp;
  }

  /** How often Redis went away. */
  get interruptions(): number {
    return this.#interruptions;
  }

  /** A connection came, went, or failed. */
  update(error?: unknown): void {
    if (this.status.isEnded) return;
    if (error !== undefined) this.#error = error;
    const { current } = this.status;
    if (this.#isUp() && this.#trouble === undefined) {
      this.#error = undefined;
      this.#wasUp = true;
      if (current.name !== "connected") this.status.set({ name: "connected" });
    } else if (current.name === "connected" || (current.name === "connecting" && error)) {
      this.#interruptions++;
      const told = this.#error ?? this.#trouble;
      this.status.set({
        name: "interrupted",
        since: Date.now(),
        ...(told === undefined ? {} : { error: told }),
      });
    }
  }

  /** Redis did not do what it was asked for; or did, where nothing is told. */
  trouble(trouble: unknown): void {
    if (trouble === this.#trouble) return;
    this.#trouble = trouble;
    this.update();
  }

  /** Resolves once it is known whether Redis can be reached at all. */
  async reached(): Promise<void> {
    for await (const { name } of this.status.follow()) if (name !== "connecting") return;
  }

  /** What is wrong, in words. */
  issue(): string | undefined {
    const { current } = this.status;
    if (current.name !== "interrupted") return undefined;
    const seconds = Math.round((Date.now() - current.since) / 1_000);
    const since = this.#wasUp ? `been away for ${seconds} s` : "not been reached since the start";
    return `Redis has ${since}: ${textOf(current.error)}`;
  }

  /** The broker is closed: nothing counts any more. */
  end(): void {
    this.status.end({ name: "closed" });
  }
}

/** What an error says. */
export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : "the connection was lost";
}
