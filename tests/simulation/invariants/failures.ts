/** Failures of nodes and of the engine, after which some promises are weaker. */
import type { Fact } from "../facts.ts";

/**
 * Longest time behind the end of a failure of the engine in which a node finds out that its
 * connection is dead, by a ping or by a command that fails, in milliseconds.
 */
const NOTICED_MS = 10_000;

/** The last failure of a node or of the engine. */
export class Failures {
  /** Virtual time of its end, as nodes notice the end. */
  #lastMs = -Infinity;

  /** Notes a fault, unless it is one of a client or of a link. */
  faulted({ scope, atMs, lastsMs = 0 }: Fact<"faulted">): void {
    if (scope === "node") this.#note(atMs + lastsMs);
    if (scope === "engine") this.#note(atMs + lastsMs + NOTICED_MS);
  }

  /** Notes that the engine had no leader, such as at its start. */
  engineElects({ atMs }: Fact<"engineElects">): void {
    this.#note(atMs);
  }

  /** Notes that the engine lost writes. */
  engineLost({ atMs }: Fact<"engineLost">): void {
    this.#note(atMs + NOTICED_MS);
  }

  /**
   * Tells whether a node or the engine failed at a time or later.
   *
   * @param atMs Virtual time, in milliseconds.
   * @returns True after such a failure.
   */
  hasFailedSince(atMs: number): boolean {
    return atMs <= this.#lastMs;
  }

  #note(atMs: number): void {
    this.#lastMs = Math.max(this.#lastMs, atMs);
  }
}
