/** Copies of the rows of keyed streams, for forks. */
import { Deadlines } from "../../base/deadlines.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { Quota, Quotas, Slot } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import { readChange } from "./change_message.ts";
import type { LogInfo, LogPage, LogRow, ReadLogOptions } from "./log.ts";

/** Part of a state that is read in one step, so that other clients wait for no longer. */
const PAGE = { maxRecords: 1_024, maxBytes: 65_536 };

/** Maximum number of copies of states that are larger than a page. Each may hold an append. */
export const MAX_COPIES = 4;

/** Maximum number of these copies for the forks of one user; of one address if others copy too. */
export const COPY_SHARES = { address: 1, user: 1 };

/**
 * Time for which a copy counts that was made for nothing, because the broker had no room for it, in
 * milliseconds.
 */
const REFUSED_MS = 5_000;

/** Number of times that a copy starts again because deletions were forgotten. */
const MAX_RESTARTS = 3;

/** More rows than any state has. */
const ALL_ROWS = 1_000_000_000;

/** The rows of a state at its end. */
export interface CopiedRows {
  /** The state of the stream with these rows. */
  readonly info: LogInfo;
  /** The rows, ordered by position. */
  readonly set: readonly LogRow[];
}

/** Reads a page of a keyed stream; `undefined` if the stream is gone. */
export type ReadPage = (
  bounds: Pick<ReadLogOptions, "after" | "maxBytes" | "maxRecords">,
) => Promise<LogPage | undefined>;

/**
 * Copies the rows of states.
 *
 * - **Pages:** rows are read page by page, and other work is done in between.
 * - **Shares:** few states are copied at the same time, one of them for each user. Copies of a
 *   single page don't count, and neither do copies by the application.
 */
export class Copies {
  readonly #runtime: Runtime;
  readonly #quota: Quota;
  readonly #refused: Deadlines<Slot>;

  constructor(runtime: Runtime, quotas: Quotas) {
    this.#runtime = runtime;
    this.#quota = quotas.open({
      limit: "states.copies",
      verb: "fork",
      what: "copies of large states at the same time",
      max: MAX_COPIES,
      shares: COPY_SHARES,
      strict: ["user"],
      retryAfterMs: REFUSED_MS,
    });
    this.#refused = new Deadlines(runtime, REFUSED_MS, (slot) => slot[Symbol.dispose]());
  }

  /**
   * Starts a copy.
   *
   * @param info The state of the source.
   * @param account The client; `undefined` for the application.
   * @returns The copy, which the caller has to end.
   * @throws {LimitError} If too many copies are under way.
   */
  begin({ rows }: LogInfo, account: Account | undefined): Copy {
    const isLarge = account !== undefined && rows!.bytes > PAGE.maxBytes;
    const slot = isLarge ? this.#quota.take(account) : undefined;
    return new Copy(this.#runtime, (wasRefused) => {
      if (slot === undefined) return;
      if (wasRefused) this.#refused.add(slot);
      else slot[Symbol.dispose]();
    });
  }

  close(): void {
    for (const slot of this.#refused.clear()) slot[Symbol.dispose]();
  }
}

/** A copy under way. */
class Copy implements Disposable {
  /** True if the broker had no room for the copy. */
  wasRefused = false;
  readonly #runtime: Runtime;
  readonly #onEnd: (wasRefused: boolean) => void;

  constructor(runtime: Runtime, onEnd: (wasRefused: boolean) => void) {
    this.#runtime = runtime;
    this.#onEnd = onEnd;
  }

  /**
   * Reads all rows. If some of them change meanwhile, the result has them as they are at its end.
   *
   * @param maxBytes Maximum size of all rows, in bytes.
   * @returns The rows; `missing` if the stream is gone, `full` if they have become too large.
   */
  async rows(read: ReadPage, maxBytes: number): Promise<CopiedRows | "full" | "missing"> {
    const rows = new Map<string, LogRow>();
    let restarts = 0;
    for (let after = 0, identity: string | undefined;;) {
      // The last attempt reads all rows in one step.
      const bounds = restarts < MAX_RESTARTS ? PAGE : { maxRecords: ALL_ROWS, maxBytes };
      const page = await read({ ...bounds, after });
      if (page?.info.rows === undefined) return "missing";
      const { info, next = info.tail } = page;
      if (info.rows!.bytes > maxBytes) return "full";
      // Rows that were copied may have been deleted and forgotten.
      const hasMissed = after > 0 && after < info.rows!.forgotten;
      if (identity !== undefined && (hasMissed || identity !== info.identity)) {
        restarts++;
        rows.clear();
        [after, identity] = [0, undefined];
        continue;
      }
      identity = info.identity;
      for (const row of rowsIn(page)) {
        // The row moves to the end.
        rows.delete(row.row);
        rows.set(row.row, row);
      }
      if (next >= info.tail) return { info, set: [...rows.values()] };
      after = next;
      // A broker in memory replies within the turn, in which other clients could do nothing.
      await new Promise<void>((end) => this.#runtime.schedule(end));
    }
  }

  [Symbol.dispose](): void {
    this.#onEnd(this.wasRefused);
  }
}

function* rowsIn({ records, positions = [], expiries = [] }: LogPage): Generator<LogRow> {
  for (const [i, record] of records.entries()) {
    const text = String(record);
    const { row, deletedAt } = readChange(text);
    yield { row, position: positions[i]!, text, deletedAt, until: expiries[i] || undefined };
  }
}
