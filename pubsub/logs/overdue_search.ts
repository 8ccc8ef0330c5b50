/** The search of one node for logs that are overdue: expired, or without their writer. */
import type { Runtime, Timer } from "../../base/runtime.ts";

/** Most overdue logs that a search takes care of. */
const MAX_OVERDUE = 100;

/** Options for {@linkcode OverdueSearch}. */
interface OverdueSearchOptions {
  readonly runtime: Runtime;
  /** Longest time between two searches, in milliseconds; half of it is the shortest. */
  readonly intervalMs: number;
  /** True if the first search comes at once. */
  readonly isUrgent: boolean;
  /** Finds at most so many overdue logs, the one that is overdue for longest first. */
  readonly find: (limit: number) => Promise<readonly string[]>;
  /** Takes care of one overdue log. */
  readonly tend: (id: string) => Promise<void>;
  /** Receives errors of a search. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
}

/** Looks for overdue logs again and again, at times that differ between nodes. */
export class OverdueSearch {
  readonly #options: OverdueSearchOptions;
  #timer: Timer | undefined;
  #searching: Promise<void> | undefined;
  #isAsked = false;
  #isClosed = false;
  #oldest: string | undefined;

  /** Begins to search. */
  constructor(options: OverdueSearchOptions) {
    this.#options = options;
    this.#plan(options.isUrgent);
  }

  /** Searches at once, or once more after the search that is under way. */
  search(): void {
    this.#isAsked = true;
    if (this.#isClosed || this.#searching !== undefined) return;
    this.#options.runtime.clearTimeout(this.#timer);
    this.#plan(true);
  }

  /** Ends after the search that is under way. */
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

  /** Searches once; true if more logs may be overdue and this search made progress. */
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
