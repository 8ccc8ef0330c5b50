import { assertEquals } from "@std/assert";
import { judge, type LedgerCase } from "./ledger.ts";
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
  assertEquals(faultsOf({ loads: unknown, ledger: [line(1), line(3)] }), []);
});
