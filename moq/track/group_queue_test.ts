import { assertEquals } from "@std/assert";
import { Random } from "../../tests/random.ts";
import { GroupSequences, MAX_RANGES } from "./group_queue.ts";

Deno.test("Sequences contains the added numbers, in any order", () => {
  const random = new Random(1);
  for (let round = 0; round < 200; round++) {
    const sequences = new GroupSequences();
    const expected = new Set<number>();
    for (let i = random.below(30); i >= 0; i--) {
      const first = random.below(40);
      const last = random.below(2) === 0 ? first : first + random.below(6);
      sequences.add(first, last);
      for (let one = first; one <= last; one++) expected.add(one);
    }
    const [first, last] = [random.below(40), 20 + random.below(30)];
    const missing = sequences.missing(first, last).flatMap((gap) =>
      Array.from({ length: gap.last - gap.first + 1 }, (_, at) => gap.first + at)
    );
    const all = Array.from({ length: Math.max(0, last - first + 1) }, (_, at) => first + at);
    assertEquals(missing, all.filter((one) => !expected.has(one)));
    assertEquals(sequences.has(first, last), missing.length === 0);
    const sorted = [...expected].sort((one, other) => one - other);
    assertEquals([sequences.lowest, sequences.highest], [sorted[0], sorted.at(-1)]);
  }
});

Deno.test("Sequences keeps one range for consecutive numbers, and forgets the oldest gap beyond its limit", () => {
  const sequences = new GroupSequences();
  for (let one = 0; one < 10_000; one++) sequences.add(one);
  assertEquals(sequences.ranges, 1);
  const filled = [];
  for (let one = 0; one < 2 * MAX_RANGES; one++) {
    const gap = sequences.add(20_000 + 2 * one);
    if (gap !== undefined) filled.push(gap);
  }
  assertEquals(sequences.ranges, MAX_RANGES);
  assertEquals([filled.length, ...filled.slice(0, 2)], [
    MAX_RANGES + 1,
    { first: 10_000, last: 19_999 },
    { first: 20_001, last: 20_001 },
  ]);
  assertEquals(sequences.missing(0, 20_000), []);
  sequences.add(0, Number.MAX_SAFE_INTEGER - 1);
  assertEquals(sequences.ranges, 1);
});
