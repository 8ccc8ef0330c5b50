import { assertEquals } from "@std/assert";
import { judge, judgeCount, judgeRows, type LedgerCase } from "./ledger.ts";
import type { LedgerLine } from "./server.ts";

const line = (number: number, more: Partial<LedgerLine> = {}): LedgerLine => ({
  load: "a",
  number,
  kind: "message",
  user: "ann",
  by: "ann",
  ...more,
});

const CASE: LedgerCase = {
  loads: [{ load: "a", user: "ann", stored: 3, dropped: new Map() }],
  ledger: [1, 2, 3, 4].map((number) => line(number)),
  history: [],
  serverKills: 0,
  pages: 1,
};

function faultsOf(changes: Partial<LedgerCase>): readonly string[] {
  return judge({ ...CASE, ...changes }).faults;
}

Deno.test("judge() accepts complete writes in order, of which some weren't told as stored", () => {
  assertEquals(judge(CASE), { faults: [], writes: 4, repeated: 0, unstored: 1, unknown: 0 });
});

Deno.test("judge() finds lost, repeated, disordered and foreign writes", () => {
  const a = "1 of 1 (a)";
  assertEquals(faultsOf({ ledger: [line(1), line(3)] }), [`${a}: write 2 of 3 is missing`]);
  assertEquals(faultsOf({ ledger: [line(1), line(2)] }), [`${a}: write 3 of 3 is missing`]);
  assertEquals(faultsOf({ ledger: [line(1), line(3), line(2)] }), [`${a}: 2 came after 3`]);
  const twice = [line(1), line(1), line(2), line(3)];
  assertEquals(faultsOf({ ledger: twice }), ["1 writes came again, at most 0 may"]);
  assertEquals(faultsOf({ ledger: twice, serverKills: 1 }), []);
  const once = twice.map((line) => ({ ...line, kind: "once", by: undefined }) as never);
  assertEquals(faultsOf({ ledger: once, serverKills: 1 }), [`${a}: once 1 came twice`]);
  const foreign = [line(1), line(2, { by: "bob" }), line(3)];
  assertEquals(faultsOf({ ledger: foreign }), [`${a}: write 2 of ann arrived as bob`]);
  assertEquals(faultsOf({ ledger: [...CASE.ledger, line(1, { load: "b" })] }), ["b is no load"]);
  const unknown = [{ ...CASE.loads[0]!, dropped: new Map([[2, "unknown"]]) }];
  const missing = { ledger: [line(1), line(3)] };
  assertEquals(faultsOf({ loads: unknown, ...missing, serverKills: 1 }), []);
  assertEquals(faultsOf({ loads: unknown, ...missing }), [
    "1 writes are unknown, at most 0 may be",
  ]);
  const full = [{ ...CASE.loads[0]!, dropped: new Map([[2, "full"]]) }];
  assertEquals(faultsOf({ loads: full, ...missing }), [`${a}: write 2 was dropped: full`]);
});

Deno.test("judgeRows() accepts the rows of a complete sequence of writes, and finds others", () => {
  const faults = (
    rows: number[],
    confirmed: number,
    failed: string[] = [],
    unknown: ReadonlySet<number> = new Set(),
    doubts = 1,
  ) =>
    judgeRows(
      [{ load: "a", confirmed, made: 9, failed, unknown }],
      rows.map((number) => `a/0000${number}`),
      doubts,
    );
  for (
    const [rows, confirmed] of [[[], 0], [[1], 1], [[1, 2], 2], [[1], 3], [[1, 4, 5], 4]] as const
  ) {
    assertEquals(faults([...rows], confirmed), []);
  }
  assertEquals(faults([1, 2], 3), ["a: row 2 is the last, but write 3 was confirmed"]);
  assertEquals(faults([4], 4), ["a: row 1 of 4 is missing"]);
  assertEquals(faults([1, 2, 4], 4), ["a: row 2 of 4 is still there"]);
  assertEquals(faults([1, 2, 4], 4, [], new Set([3])), []);
  assertEquals(faults([4], 4, [], new Set([1])), []);
  assertEquals(faults([4], 4, [], new Set([1]), 0), [
    "1 writes to the state are unknown, at most 0 may be",
  ]);
  assertEquals(faults([1], 1, ["2: conflict"]), ["a: write to the state failed: 2: conflict"]);
});

Deno.test("judgeCount() finds mutations that were made twice, or not at all", () => {
  const rows = ["a/00001", "a/00002", "b/00001", "a/00004"];
  assertEquals(judgeCount(rows, 3), []);
  assertEquals(judgeCount(rows, 4), ["4 mutations were made, but added 3 rows"]);
});
