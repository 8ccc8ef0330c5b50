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

/** The judgement. */
export interface Judgement {
  /** Sentences about broken rules; empty if there are none. */
  readonly faults: readonly string[];
  readonly writes: number;
  readonly repeated: number;
  /** Writes that arrived although no page had told that they were stored. */
  readonly unstored: number;
  readonly unknown: number;
}

/** Judges a case. */
export function judge({ loads, ledger, history, serverKills, pages }: LedgerCase): Judgement {
  const faults: string[] = [];
  const doubts = serverKills * pages;
  const lines = Map.groupBy(ledger, ({ load }) => load);
  const published = Map.groupBy(history, ({ load }) => load);
  const known = new Set(loads.map(({ load }) => load));
  for (const load of lines.keys()) if (!known.has(load)) faults.push(`${load} is no load`);
  let [writes, repeated, unstored, unknown] = [0, 0, 0, 0];
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
    const last = Math.max(stored, ...numbers);
    for (let number = 1; number <= last; number++) {
      if (numbers.has(number)) continue;
      if (dropped.has(number)) unknown++;
      else faults.push(`${load}: write ${number} of ${last} is missing`);
    }
    writes += numbers.size;
    repeated += again.repeated.length;
    unstored += Math.max(0, last - stored);
  }
  if (repeated > doubts) faults.push(`${repeated} writes came again, at most ${doubts} may`);
  return { faults, writes, repeated, unstored, unknown };
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
