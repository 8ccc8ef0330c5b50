/**
 * The past of a board, which the server keeps as the newest changes of its state. The page shows
 * any moment between the oldest kept change and now.
 *
 * @module
 */
import type { Card, Column } from "./contract.ts";
import { arrange, type ShownColumn } from "./rows.ts";

/** A change of a row, as the server keeps it. */
export interface Change {
  /** Name of the collection; absent in marks between changes. */
  readonly type?: string | undefined;
  readonly key?: string | undefined;
  /** The row; absent if it was deleted. */
  readonly value?: unknown;
  readonly headers: {
    readonly operation?: "insert" | "update" | "delete" | undefined;
    readonly timestamp?: string | undefined;
  };
}

/** A row from the time of a change on; its value is absent before it existed. */
interface Version {
  readonly at: number;
  readonly value?: unknown;
}

/** One row with its versions, oldest first. */
interface Row {
  readonly type: string;
  readonly key: string;
  readonly versions: Version[];
}

/** Reads a part of the past. */
type Fetch = (url: string, init: { readonly signal?: AbortSignal }) => Promise<Response>;

/** The past of a board, as far as it is kept. */
export class Past {
  /** The times at which the board changed, oldest first, in milliseconds since the Unix epoch. */
  readonly moments: readonly number[];
  /** True if the past goes back to the board's first change. */
  readonly isWhole: boolean;
  readonly #rows: readonly Row[];

  /**
   * Puts the past together.
   *
   * @param rows The newest change of each row, some of which may be older than the kept changes.
   * @param changes The kept changes, oldest first.
   */
  constructor(rows: readonly Change[], changes: readonly Change[]) {
    const known = new Map<string, Row>();
    const times = new Set<number>();
    /** The time never goes back, even if the clock of a server does. */
    let last = -Infinity;
    /** The board before this time is not known, because older changes are no longer kept. */
    let start = -Infinity;
    let isWhole = true;
    for (const { type, key, value, headers: { operation, timestamp = "" } } of changes) {
      if (type === undefined || key === undefined) continue;
      const at = last = Math.max(last, Date.parse(timestamp));
      const name = JSON.stringify([type, key]);
      const row = known.get(name) ?? { type, key, versions: [] };
      if (row.versions.length === 0 && operation !== "insert") start = Math.max(start, at);
      known.set(name, row);
      row.versions.push({ at, value });
      times.add(at);
    }
    for (const { type, key, value, headers: { timestamp = "" } } of rows) {
      if (type === undefined || key === undefined) continue;
      const name = JSON.stringify([type, key]);
      const at = Date.parse(timestamp);
      if (known.has(name)) continue;
      known.set(name, { type, key, versions: [{ at, value }] });
      isWhole = false;
    }
    this.#rows = [...known.values()];
    this.moments = [...times].filter((at) => at >= start);
    this.isWhole = isWhole && start === -Infinity;
  }

  /**
   * Returns the board as it was.
   *
   * @param moment One of the moments.
   * @returns The columns with their cards.
   */
  at(moment: number): readonly ShownColumn[] {
    const columns = new Map<string, Column>();
    const cards = new Map<string, Card>();
    for (const { type, key, versions } of this.#rows) {
      const value = versions.findLast(({ at }) => at <= moment)?.value;
      if (value === undefined) continue;
      if (type === "columns") columns.set(key, value as Column);
      if (type === "cards") cards.set(key, value as Card);
    }
    return arrange(columns, cards);
  }
}

/**
 * Reads the past of a board.
 *
 * @param stream The address of the board's stream, with the user's name.
 * @param options A signal, and how to fetch.
 * @returns The past; empty if no one has changed the board.
 * @throws {Error} If the server can't be reached, or rejects.
 */
export async function readPast(
  stream: URL,
  { fetch, signal }: { readonly fetch: Fetch; readonly signal?: AbortSignal },
): Promise<Past> {
  // In this order, a row that changes meanwhile is in the second list.
  const rows = await readAll(stream, { fetch, signal });
  const all = new URL(stream);
  all.searchParams.set("changes", "all");
  return new Past(rows, await readAll(all, { fetch, signal }));
}

/** Reads all pages. */
async function readAll(
  stream: URL,
  { fetch, signal }: { readonly fetch: Fetch; readonly signal?: AbortSignal },
): Promise<Change[]> {
  const changes: Change[] = [];
  const page = new URL(stream);
  for (let offset = "-1";;) {
    page.searchParams.set("offset", offset);
    const response = await fetch(page.href, { signal });
    if (!response.ok) {
      await response.body?.cancel();
      // No one has changed the board yet, so it is not stored.
      if (response.status === 404) return [];
      throw new Error(`The server answered ${response.status}`);
    }
    for (const change of await response.json()) changes.push(change);
    if (response.headers.has("stream-up-to-date")) return changes;
    offset = response.headers.get("stream-next-offset")!;
  }
}
