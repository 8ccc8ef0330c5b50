/** One node's search for overdue logs: logs that have expired or lost their writer. */
import type { Runtime, Timer } from "../../base/runtime.ts";

/** Maximum number of overdue logs that one search handles. */
const MAX_OVERDUE = 100;

interface OverdueSearchOptions {
  readonly runtime: Runtime;
  /** Longest time between two searches, in milliseconds. The shortest time is half of it. */
  readonly intervalMs: number;
  /** True to search immediately. */
  readonly isUrgent: boolean;
  /** Finds at most `limit` overdue logs; the log that has been overdue longest comes first. */
  readonly find: (limit: number) => Promise<readonly string[]>;
  /** Handles one overdue log. */
  readonly tend: (id: string) => Promise<void>;
  /** Receives errors of a search. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
}

/** Searches for overdue logs repeatedly, at times that differ between nodes. */
export class OverdueSearch {
  readonly #options: OverdueSearchOptions;
  #timer: Timer | undefined;
  #searching: Promise<void> | undefined;
  #isAsked = false;
  #isClosed = false;
  #oldest: string | undefined;

  constructor(options: OverdueSearchOptions) {
    this.#options = options;
    this.#plan(options.isUrgent);
  }

  /** Searches immediately, or once more after the search in progress. */
  search(): void {
    this.#isAsked = true;
    if (this.#isClosed || this.#searching !== undefined) return;
    this.#options.runtime.clearTimeout(this.#timer);
    this.#plan(true);
  }

  /** Ends after the search in progress. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#options.runtime.clearTimeout(this.#timer);
    await this.#searching;
  }

  #plan(isUrgent: boolean): void {
    const { runtime, intervalMs, onError } = this.#options;
    this.#timer = runtime.setTimeout(() => {
      this.#searching = this.#search().catch(onError).then((hasMore) => {
        this.#searching = undefined;
        if (!this.#isClosed) this.#plan(hasMore === true || this.#isAsked);
      });
    }, isUrgent ? 0 : intervalMs * (1 + runtime.random()) / 2);
  }

  /** Searches once. Resolves to true if more logs may be overdue and this search made progress. */
  async #search(): Promise<boolean> {
    this.#isAsked = false;
    const ids = await this.#options.find(MAX_OVERDUE);
    const outcomes = await Promise.allSettled(ids.map(this.#options.tend));
    const failed = outcomes.find(({ status }) => status === "rejected");
    if (failed?.status === "rejected") throw failed.reason;
    const isStuck = ids[0] === this.#oldest;
    this.#oldest = ids[0];
    return ids.length === MAX_OVERDUE && !isStuck;
  }
}
