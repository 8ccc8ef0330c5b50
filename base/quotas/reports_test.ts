import { assert, assertEquals, assertLess } from "@std/assert";
import fc from "fast-check";
import { type AccountUsage, ReportedUsages, type UsageReport, UsageReporter } from "./reports.ts";

const ENOUGH = 1_000_000;

/** The usages of accounts, each with a share of 16. */
function usagesOf(counts: Readonly<Record<string, number>>): AccountUsage[] {
  return Object.entries(counts).map(([key, taken]) => ({
    name: "q",
    key,
    taken,
    part: taken / 16,
  }));
}

/** A node that counts reports. */
class Receiver {
  readonly counts: Map<string, number> = new Map();
  readonly usages: ReportedUsages = new ReportedUsages(() => ({
    addRemote: (key, difference) => {
      const taken = (this.counts.get(key) ?? 0) + difference;
      if (taken === 0) this.counts.delete(key);
      else this.counts.set(key, taken);
    },
  }));

  /** Returns true if the report shows that another one is missing. */
  take(report: UsageReport | undefined, nodes = 1): boolean {
    if (report === undefined) return false;
    this.usages.take(report);
    return this.usages.isMissing(report, nodes, 0.5);
  }

  get seen(): Record<string, number> {
    return Object.fromEntries([...this.counts].sort());
  }
}

Deno.test("UsageReporter.next() reports only changes, and nothing before the first account", () => {
  const reporter = new UsageReporter();
  assertEquals(reporter.next([], ENOUGH), undefined);
  const willRepeat = undefined;
  assertEquals(reporter.next(usagesOf({ ann: 4, bob: 2 }), ENOUGH), {
    n: 1,
    used: [["q", "ann", 4], ["q", "bob", 2]],
    isFirst: true,
    isLast: true,
    willRepeat,
  });
  assertEquals(reporter.next(usagesOf({ ann: 4, bob: 2 }), ENOUGH), { n: 1, willRepeat });
  assertEquals(reporter.next(usagesOf({ ann: 4, bob: 3 }), ENOUGH)!.used, [["q", "bob", 3]]);
  assertEquals(reporter.next(usagesOf({ bob: 3 }), ENOUGH)!.used, [["q", "ann", 0]]);
  assertEquals(reporter.next(usagesOf({ bob: 3 }), ENOUGH), { n: 3, willRepeat });
});

Deno.test("UsageReporter.next() stays within its budget, starts with the greatest changes, and omits none", () => {
  const reporter = new UsageReporter();
  const receiver = new Receiver();
  const counts = Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`k${i}`, 1 + i]));
  const bytes: number[] = [];
  for (let round = 0; round < 40; round++) {
    // A tenth of the accounts use more and less of their share all the time.
    for (let i = 180; i < 200; i++) counts[`k${i}`] = round % 2 === 0 ? 200 + i : i;
    const report = reporter.next(usagesOf(counts), 200)!;
    bytes.push(JSON.stringify(report.used).length);
    if (round === 0) assertEquals(report.used![0], ["q", "k199", 399]);
    receiver.take(report);
  }
  assertLess(Math.max(...bytes), 203);
  assertEquals(receiver.counts.size, 200);
  // An account whose entry alone is longer than the budget is still reported.
  assertEquals(new UsageReporter().next(usagesOf({ ["x".repeat(200)]: 1 }), 10)!.used!.length, 1);
});

Deno.test("UsageReporter.next() lists accounts that lost their place among the 256 before new ones", () => {
  const reporter = new UsageReporter();
  const receiver = new Receiver();
  const many = (prefix: string, taken: number) =>
    Object.fromEntries(Array.from({ length: 256 }, (_, i) => [`${prefix}${i}`, taken]));
  receiver.take(reporter.next(usagesOf(many("a", 1)), ENOUGH));
  for (let i = 0; i < 4; i++) {
    receiver.take(reporter.next(usagesOf({ ...many("a", 1), ...many("b", 2) }), 5_000));
    assertLess(receiver.counts.size, 257);
  }
  assertEquals(receiver.seen, Object.fromEntries(Object.entries(many("b", 2)).sort()));
});

Deno.test("UsageReporter.clear() ends all accounts with one report", () => {
  const reporter = new UsageReporter();
  assertEquals(reporter.clear(), undefined);
  const receiver = new Receiver();
  receiver.take(reporter.next(usagesOf({ ann: 4, bob: 2 }), ENOUGH));
  assertEquals(receiver.seen, { ann: 4, bob: 2 });
  const late = new Receiver();
  for (const one of [receiver, late]) assertEquals(one.take(reporter.clear()), one === late);
  assertEquals([receiver.seen, late.seen], [{}, {}]);
  reporter.repeat();
  assertEquals(late.take(reporter.clear()), false);
});

Deno.test("UsageReporter.repeat() brings a new node all accounts, once for all requests", () => {
  const reporter = new UsageReporter();
  const known = new Receiver();
  const counts = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`k${i}`, 1]));
  known.take(reporter.next(usagesOf(counts), ENOUGH));
  const joined = new Receiver();
  assertEquals(joined.take(reporter.next(usagesOf(counts), 100)), true);
  for (let i = 0; i < 3; i++) reporter.repeat();
  let reports = 0;
  for (; reporter.next(usagesOf(counts), 0)?.used !== undefined; reports++);
  assertEquals(reports, 50);
  reporter.repeat();
  for (let i = 0; i < 50; i++) {
    const report = reporter.next(usagesOf(counts), 100)!;
    assertEquals([known.take(report), joined.take(report)], [false, false]);
    // The slots of a node count all the time, also while they are repeated.
    assertEquals(known.counts.size, 50);
  }
  assertEquals(joined.seen, known.seen);
});

Deno.test("UsageReporter.repeat() ends its pass while accounts change faster than the budget allows", () => {
  const reporter = new UsageReporter();
  const joined = new Receiver();
  let isDone = false;
  for (let i = 0; i < 200 && !isDone; i++) {
    const counts = Object.fromEntries(Array.from({ length: 50 }, (_, k) => [`k${k}`, 1 + i % 2]));
    const report = reporter.next(usagesOf(counts), 60)!;
    if (i === 20) reporter.repeat();
    if (i <= 20) continue;
    joined.take(report);
    isDone = report.isLast === true && joined.counts.size === 50;
  }
  assert(isDone);
});

Deno.test("ReportedUsages.isMissing() lets few of many nodes request a repetition, and a single one soon", () => {
  const missing = { n: 9 };
  const asking = Array.from({ length: 400 }, (_, i) => {
    const usages = new ReportedUsages(() => undefined);
    usages.take(missing);
    return usages.isMissing(missing, 400, i / 400);
  });
  assertEquals(asking.filter(Boolean).length, 4);
  const single = new ReportedUsages(() => undefined);
  let reports = 0;
  do single.take(missing); while (!single.isMissing(missing, 400, 0.99) && ++reports < 20);
  assertEquals(reports, 7);
  assertEquals(single.isMissing({ n: 9, willRepeat: true }, 1, 0), false);
});

Deno.test("ReportedUsages is right again after any losses, with no request once it is", () => {
  const step = fc.record({
    changes: fc.array(fc.tuple(fc.nat(11), fc.nat(5)), { maxLength: 6 }),
    isLost: fc.boolean(),
    budget: fc.integer({ min: 10, max: 80 }),
  });
  fc.assert(fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
    const reporter = new UsageReporter();
    const receiver = new Receiver();
    const counts: Record<string, number> = {};
    const report = (budget: number, isLost: boolean) => {
      const held = Object.entries(counts).filter(([, taken]) => taken > 0);
      const next = reporter.next(usagesOf(Object.fromEntries(held)), budget);
      if (!isLost && receiver.take(next)) reporter.repeat();
    };
    for (const { changes, isLost, budget } of steps) {
      for (const [key, taken] of changes) counts[`k${key}`] = taken;
      report(budget, isLost);
    }
    for (let i = 0; i < 60; i++) report(40, false);
    const held = Object.entries(counts).filter(([, taken]) => taken > 0);
    assertEquals(receiver.seen, Object.fromEntries(held.sort()));
    const last = reporter.next(usagesOf(Object.fromEntries(held)), 40);
    assertEquals([last?.used, receiver.take(last)], [undefined, false]);
  }));
});
