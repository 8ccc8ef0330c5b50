/**
 * Judges what a server received from pages that were reloaded and killed, while the server was
 * killed as well. The rules are the table of `docs/guide/offline.md`:
 *
 * - **Nothing is lost:** the writes of each load of a page arrive without a gap, up to its last write
 *   that the client had stored.
 * - **In order:** the writes of one load arrive in the order of the calls, over all kinds.
 * - **Once:** a publication is published once or, if a crash makes that unknowable, dropped as
 *   `unknown`. A message or request may be handled again only if the server was killed meanwhile.
 * - **Nobody else's:** each write arrives in a session of its user.
 *
 * @module
 */
import type { LedgerLine, PageWrite } from "./server.ts";

/** A load of a page, as the test saw it last. */
export interface PageLoad {
  readonly load: string;
  readonly user: string | null;
  /** Number of the last write that was stored. */
  readonly stored: number;
  /** Numbers of writes that the client told as dropped, with the reasons. */
  readonly dropped: ReadonlyMap<number, string>;
}

/** The case to judge. */
export interface LedgerCase {
  readonly loads: readonly PageLoad[];
  readonly ledger: readonly LedgerLine[];
  /** The publications in the topic's history. */
  readonly history: readonly PageWrite[];
  /** How often the server was killed. */
  readonly serverKills: number;
  /** How many pages may have had a write in doubt at each kill. */
  readonly pages: number;
}

export interface Judgment {
  /** Sentences about broken rules; empty if there are none. */
  readonly faults: readonly string[];
  readonly writes: number;
  readonly repeated: number;
  /** Writes that arrived although no page had told that they were stored. */
  readonly unstored: number;
  readonly unknown: number;
}

export function judge({ loads, ledger, history, serverKills, pages }: LedgerCase): Judgment {
  const faults: string[] = [];
  const doubts = serverKills * pages;
  const lines = Map.groupBy(ledger, ({ load }) => load);
  const published = Map.groupBy(history, ({ load }) => load);
  const known = new Set(loads.map(({ load }) => load));
  for (const load of lines.keys()) if (!known.has(load)) faults.push(`${load} is no load`);
  let [writes, repeated, unstored, unknown] = [0, 0, 0, 0];
  const addDropped = (load: string, dropped: PageLoad["dropped"]) => {
    for (const [number, reason] of dropped) {
      if (reason === "unknown") unknown++;
      else if (reason !== "unanswered") {
        faults.push(`${load}: write ${number} was dropped: ${reason}`);
      }
    }
  };
  for (const [i, { load: name, user, stored, dropped }] of loads.entries()) {
    const load = `${i + 1} of ${loads.length} (${name})`;
    const found = lines.get(name) ?? [];
    const chat = published.get(name) ?? [];
    for (const line of found) {
      const by = line.by === undefined ? user : line.by;
      if (line.user !== user || by !== user) {
        faults.push(`${load}: write ${line.number} of ${line.user} arrived as ${by}`);
      }
    }
    const again = outOfOrder(found.map(({ number }) => number));
    faults.push(...again.faults.map((fault) => `${load}: ${fault}`));
    faults.push(
      ...outOfOrder(chat.map(({ number }) => number), true).faults
        .map((fault) => `${load}: in the history, ${fault}`),
    );
    const numbers = new Set([...found, ...chat].map(({ number }) => number));
    for (const number of again.repeated) {
      const { kind } = found.find((line) => line.number === number)!;
      if (kind === "once" || kind === "history") {
        faults.push(`${load}: ${kind} ${number} came twice`);
      }
    }
    addDropped(load, dropped);
    const last = Math.max(stored, ...numbers);
    for (let number = 1; number <= last; number++) {
      if (numbers.has(number) || dropped.has(number)) continue;
      faults.push(`${load}: write ${number} of ${last} is missing`);
    }
    writes += numbers.size;
    repeated += again.repeated.length;
    unstored += Math.max(0, last - stored);
  }
  if (unknown > doubts) faults.push(`${unknown} writes are unknown, at most ${doubts} may be`);
  if (repeated > doubts) faults.push(`${repeated} writes came again, at most ${doubts} may`);
  return { faults, writes, repeated, unstored, unknown };
}

/** A load of a page, and its writes to the state. */
export interface StateLoad {
  readonly load: string;
  /** Number of the last write that the server has confirmed to the page. */
  readonly confirmed: number;
  /** Number of the last write. */
  readonly made: number;
  readonly failed: readonly string[];
  /** Numbers of writes of which no page could tell whether they were made. */
  readonly unknown: ReadonlySet<number>;
}

/**
 * Judges the rows of a state, where the write with number n of a load sets a row of its own, or
 * deletes the one of write n - 1 if n is divisible by three. Each first of three is a mutation. The
 * writes of each load must have been made without a gap, up to the last one that was confirmed.
 *
 * @param rows The keys of the rows: the load, a slash, and the number.
 * @param doubts How many writes may be unknown.
 * @returns Sentences about broken rules.
 */
export function judgeRows(
  loads: readonly StateLoad[],
  rows: readonly string[],
  doubts: number,
): string[] {
  const faults: string[] = [];
  const all = loads.reduce((sum, { unknown }) => sum + unknown.size, 0);
  if (all > doubts) faults.push(`${all} writes to the state are unknown, at most ${doubts} may be`);
  const numbersOf = Map.groupBy(rows, (key) => key.split("/")[0]!);
  for (const { load, confirmed, made, failed, unknown } of loads) {
    for (const failure of failed) faults.push(`${load}: write to the state failed: ${failure}`);
    const found = new Set((numbersOf.get(load) ?? []).map((key) => Number(key.split("/")[1])));
    const last = Math.max(0, ...found);
    if (last > made) faults.push(`${load}: row ${last} was never written`);
    // After a deletion, the last row may be two writes old.
    if (last + (last % 3 === 1 ? 2 : 0) < confirmed) {
      faults.push(`${load}: row ${last} is the last, but write ${confirmed} was confirmed`);
    }
    for (let number = 1; number <= last; number++) {
      const isThere = number % 3 === 1 || (number % 3 === 2 && number === last);
      // A row of two is there if it was not deleted.
      const isUnknown = unknown.has(number) || number % 3 === 2 && unknown.has(number + 1);
      if (!isUnknown && found.has(number) !== isThere) {
        faults.push(`${load}: row ${number} of ${last} is ${isThere ? "missing" : "still there"}`);
      }
    }
  }
  return faults;
}

/**
 * Judges how often mutations were made: each of them adds one row that is never deleted, and counts
 * it.
 */
export function judgeCount(rows: readonly string[], added: number): string[] {
  const found = rows.filter((key) => Number(key.split("/")[1]) % 3 === 1).length;
  return found === added ? [] : [`${added} mutations were made, but added ${found} rows`];
}

/** Finds numbers that are smaller than one before, and those that come twice in succession. */
function outOfOrder(
  numbers: readonly number[],
  isOnce = false,
): { readonly faults: readonly string[]; readonly repeated: readonly number[] } {
  const faults: string[] = [];
  const repeated: number[] = [];
  for (const [i, number] of numbers.entries()) {
    const before = numbers[i - 1] ?? 0;
    if (number === before && !isOnce) repeated.push(number);
    else if (number <= before) faults.push(`${number} came after ${before}`);
  }
  return { faults, repeated };
}
