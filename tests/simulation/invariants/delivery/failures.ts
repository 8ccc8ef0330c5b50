/** Failures of nodes and of the broker, after which some guarantees are weaker. */
import type { Fact } from "../../facts.ts";

/**
 * Maximum time after a broker failure until a ping or a failing command shows a node that its
 * connection is dead, in milliseconds.
 */
const NOTICED_MS = 10_000;

/** Elections of the first leaders. The broker does not respond until they are over. */
export class Elections {
  readonly #underWay = new Set<string>();
  readonly #over = new Set<string>();
  #lastMs = -Infinity;

  /** True while a group of servers has not elected its first leader yet. */
  get isUnderWay(): boolean {
    return this.#underWay.size > 0;
  }

  /** Time of the last election, in milliseconds. It is `-Infinity` before the first election. */
  get lastMs(): number {
    return this.#lastMs;
  }

  /** Records the start or end of an election. */
  brokerElects({ group, isOver, atMs }: Fact<"brokerElects">): void {
    if (isOver) {
      this.#over.add(group);
      if (this.#underWay.delete(group)) this.#lastMs = atMs;
    } // The last server of a group may start when the others already have a leader.
    else if (!this.#over.has(group)) this.#underWay.add(group);
  }
}

/** The last failure of a node or of the broker. */
export class Failures {
  readonly #elections = new Elections();
  /** Virtual time at which nodes notice that the failure is over. */
  #lastMs = -Infinity;

  /** Records a fault, unless it affects only a client or a link. */
  faulted({ scope, atMs, lastsMs = 0 }: Fact<"faulted">): void {
    if (scope === "node") this.#note(atMs + lastsMs);
    if (scope === "broker") this.#note(atMs + lastsMs + NOTICED_MS);
  }

  /** Records that the broker has no leader, for example at the start, or has one again. */
  brokerElects(fact: Fact<"brokerElects">): void {
    this.#elections.brokerElects(fact);
    this.#note(fact.atMs);
  }

  /** Records that the broker lost writes. */
  brokerLost({ atMs }: Fact<"brokerLost">): void {
    this.#note(atMs + NOTICED_MS);
  }

  /**
   * Returns true if a node or the broker failed at or after a given time.
   *
   * @param atMs Virtual time, in milliseconds.
   * @returns True if there was such a failure.
   */
  hasFailedSince(atMs: number): boolean {
    return this.#elections.isUnderWay || atMs <= this.#lastMs;
  }

  #note(atMs: number): void {
    this.#lastMs = Math.max(this.#lastMs, atMs);
  }
}
