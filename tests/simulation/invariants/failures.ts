/** Failures of nodes and of the engine, after which some promises are weaker. */
import type { Fact } from "../facts.ts";

/**
 * Longest time behind the end of a failure of the engine in which a node finds out that its
 * connection is dead, by a ping or by a command that fails, in milliseconds.
 */
const NOTICED_MS = 10_000;

/** Elections of first leaders: until then, the engine does not answer. */
export class Elections {
  readonly #underWay = new Set<string>();
  readonly #over = new Set<string>();
  #lastMs = -Infinity;

  /** True while a group of servers has yet to elect its first leader. */
  get isUnderWay(): boolean {
    return this.#underWay.size > 0;
  }

  /** Time of the last election, in milliseconds; `-Infinity` before the first one. */
  get lastMs(): number {
    return this.#lastMs;
  }

  /** Notes the beginning or the end of an election. */
  engineElects({ group, isOver, atMs }: Fact<"engineElects">): void {
    if (isOver) {
      this.#over.add(group);
      if (this.#underWay.delete(group)) this.#lastMs = atMs;
    } // The last server of a group may begin when the others have a leader.
    else if (!this.#over.has(group)) this.#underWay.add(group);
  }
}

/** The last failure of a node or of the engine. */
export class Failures {
  readonly #elections = new Elections();
  /** Virtual time of its end, as nodes notice the end. */
  #lastMs = -Infinity;

  /** Notes a fault, unless it is one of a client or of a link. */
  faulted({ scope, atMs, lastsMs = 0 }: Fact<"faulted">): void {
    if (scope === "node") this.#note(atMs + lastsMs);
    if (scope === "engine") this.#note(atMs + lastsMs + NOTICED_MS);
  }

  /** Notes that the engine has no leader, such as at the start, or has one again. */
  engineElects(fact: Fact<"engineElects">): void {
    this.#elections.engineElects(fact);
    this.#note(fact.atMs);
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
    return this.#elections.isUnderWay || atMs <= this.#lastMs;
  }

  #note(atMs: number): void {
    this.#lastMs = Math.max(this.#lastMs, atMs);
  }
}
