import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { framed } from "../../session/wire/encode.ts";
import { property } from "../../tests/properties/property.ts";
import { cutPage, type Placed, TailBudget, TailCache } from "./tail_cache.ts";

const ALL = { maxMessages: 10_000, maxBytes: Infinity };

function item(offset: number, bytes = 10, prev = offset - 1): Placed {
  return {
    message: framed("x".repeat(bytes), "t"),
    offset,
    prev,
    tag: `t${offset}`,
    except: undefined,
  };
}

function offsets(items: readonly Placed[] | undefined): number[] | undefined {
  return items?.map(({ offset }) => offset);
}

Deno.test("TailCache returns publications after an offset, if it holds all of them", () => {
  const tail = new TailCache(new TailBudget());
  tail.reset(4);
  for (const offset of [6, 8, 10]) tail.push(item(offset, 10, offset - 2));
  assertEquals([tail.after, tail.size], [4, 3]);
  assertEquals(offsets(tail.page(4, ALL)), [6, 8, 10]);
  assertEquals(offsets(tail.page(7, ALL)), [8, 10]);
  assertEquals(offsets(tail.page(10, ALL)), []);
  assertEquals(tail.page(3, ALL), undefined);
  assertEquals(offsets(tail.page(4, { ...ALL, maxMessages: 2 })), [6, 8]);
  assertEquals(offsets(tail.page(4, { ...ALL, maxBytes: 25 })), [6, 8]);
  assertEquals(offsets(tail.page(4, { ...ALL, maxBytes: 1 })), [6]);
  assertEquals([0, 1, 3, 4].map((last) => tail.before(last)), [10, 8, 4, undefined]);
  tail.reset(20);
  assertEquals([tail.before(0), tail.before(1), offsets(tail.page(20, ALL))], [20, undefined, []]);
});

Deno.test("TailCache bounds the number of publications, and their bytes", () => {
  const tails = new TailBudget();
  const tail = new TailCache(tails);
  for (let offset = 1; offset <= 2_000; offset++) tail.push(item(offset));
  assertEquals({ tail: tail.size, after: tail.after, bytes: tails.bytes }, {
    tail: 512,
    after: 1_488,
    bytes: 5_120,
  });
  assertEquals(offsets(tail.page(1_997, ALL)), [1_998, 1_999, 2_000]);
  tail.push(item(2_001, 524_288));
  assertEquals({ tail: tail.size, after: tail.after, bytes: tails.bytes }, {
    tail: 1,
    after: 2_000,
    bytes: 524_288,
  });
  // A publication larger than the whole cache is not kept.
  tail.push(item(2_002, 524_289));
  assertEquals({ tail: tail.size, after: tail.after, bytes: tails.bytes }, {
    tail: 0,
    after: 2_002,
    bytes: 0,
  });
  tail.push(item(2_003));
  assertEquals(offsets(tail.page(2_002, ALL)), [2_003]);
});

/** Changes of a few tails, which share 6,000 bytes. */
const changes = fc.array(
  fc.record({
    tail: fc.nat(2),
    kind: fc.constantFrom("push", "push", "push", "prepend", "reset", "drop"),
    /** Steps between the offsets of publications, whose sizes follow from the offsets. */
    steps: fc.array(fc.integer({ min: 1, max: 2 }), { minLength: 1, maxLength: 5 }),
  }),
  { maxLength: 60 },
);

property("TailCache holds all publications after its offset, within the bytes of all tails", {
  cases: changes,
  runs: 20,
  check(_world, changes) {
    const budget = new TailBudget(6_000);
    const tails = [0, 1, 2].map(() => ({
      cache: new TailCache(budget),
      /** All publications after the offset at which the topic started over. */
      all: [] as Placed[],
      start: 0,
    }));
    for (const { tail: i, kind, steps } of changes) {
      const tail = tails[i]!;
      const { cache, all } = tail;
      let newest = all.at(-1)?.offset ?? tail.start;
      if (kind === "push") {
        for (const step of steps) {
          const offset = newest + step;
          all.push(item(offset, [20, 400, 1_500][offset % 3], newest));
          cache.push(all.at(-1)!);
          newest = offset;
        }
      } else if (kind === "prepend") {
        const older = all.slice(0, all.length - cache.size).slice(-steps.length);
        if (older.length === 0) continue;
        tail.start = older[0]!.prev;
        tail.all = all.slice(all.indexOf(older[0]!));
        cache.prepend(older, tail.start);
      } else if (kind === "reset") {
        Object.assign(tail, { all: [], start: newest + steps.length });
        cache.reset(tail.start);
      } else cache.drop();
      for (const one of tails) checkTail(one);
      const bytes = tails.flatMap(({ cache, all }) => all.slice(all.length - cache.size))
        .reduce((sum, { message }) => sum + message.size, 0);
      assertEquals(budget.bytes, bytes);
      assert(bytes <= 6_000);
    }
    return Promise.resolve();
  },
});

/** Compares pages, tags and knowledge at all offsets. */
function checkTail({ cache, all, start }: {
  readonly cache: TailCache;
  readonly all: readonly Placed[];
  readonly start: number;
}): void {
  const newest = all.at(-1)?.offset ?? start;
  assertEquals(cache.after, all.at(-cache.size - 1)?.offset ?? start);
  for (let offset = Math.max(0, cache.after - 3); offset <= newest + 1; offset++) {
    const later = all.filter((one) => one.offset > offset).map((one) => one.offset);
    assertEquals(offsets(cache.page(offset, ALL)), offset < cache.after ? undefined : later);
    const tag = all.find((one) => one.offset === offset)?.tag;
    const isKnown = offset > cache.after || offset === cache.after && tag !== undefined;
    assertEquals(cache.knows(offset), isKnown);
    assertEquals(cache.tagAt(offset), isKnown ? tag : undefined);
    assertEquals(cache.contradicts({ offset, tag: "other" }), isKnown);
    assertEquals(cache.contradicts({ offset, tag: tag ?? "none" }), isKnown && tag === undefined);
  }
}

Deno.test("TailBudget bounds all tails, and drops those that were silent longest", () => {
  const tails = new TailBudget(1_000);
  const [one, two, three] = [new TailCache(tails), new TailCache(tails), new TailCache(tails)];
  for (let offset = 1; offset <= 3; offset++) {
    for (const tail of [one, two, three]) tail.push(item(offset, 100));
  }
  assertEquals(tails.bytes, 900);
  one.push(item(4, 100));
  two.push(item(4, 100));
  assertEquals({ one: one.size, two: two.size, three: three.size, bytes: tails.bytes }, {
    one: 4,
    two: 4,
    three: 0,
    bytes: 800,
  });
  assertEquals([three.after, three.page(2, ALL), three.page(3, ALL)], [3, undefined, []]);
  for (const tail of [one, two, three]) tail.reset(0);
  assertEquals(tails.bytes, 0);
});

Deno.test("cutPage() takes the first items within bounds, and always at least one", () => {
  const items = [item(1, 10), item(2, 20), item(3, 30)];
  assertEquals(offsets(cutPage(items, ALL)), [1, 2, 3]);
  assertEquals(offsets(cutPage(items, { maxMessages: 3, maxBytes: 30 })), [1, 2]);
  assertEquals(offsets(cutPage(items, { maxMessages: 3, maxBytes: 5 })), [1]);
  assertEquals(offsets(cutPage(items, { ...ALL, from: 2 })), [3]);
  assert(cutPage([], ALL).length === 0);
});
