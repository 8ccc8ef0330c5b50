/** Tails of topics beside a model: a tail has all publications behind its place, or refuses a page. */
import { type Placed, TailBudget, TailCache } from "../../../../../pubsub/history/tail_cache.ts";
import { framed } from "../../../../../session/wire/encode.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Tails of one node, operations on these, and most items of one operation. */
const [TAILS, OPERATIONS, MOST] = [3, 60, 5] as const;

/** Bytes of all tails, and those of a small and a large publication. */
const [MAX_BYTES, SIZES] = [6_000, [20, 400, 1_500]] as const;

/** Bounds of a page that takes all. */
const ALL = { maxMessages: 1_000, maxBytes: Infinity } as const;

/** Changes of a tail; most of all are publications. */
const KINDS = ["push", "push", "push", "push", "prepend", "reset", "drop"] as const;

/** A tail, and all publications that it may know. */
class Tail {
  readonly cache: TailCache;
  /** All publications since the topic began anew. */
  all: Placed[] = [];
  /** The place behind which the topic began, with the tag if known. */
  begin = 0;

  constructor(budget: TailBudget) {
    this.cache = new TailCache(budget);
  }
}

/**
 * Lets tails of a node grow beyond their bound, and asks for pages and tags at all places.
 *
 * @param audit The audit.
 */
export function auditTails(audit: Audit): void {
  const random = audit.chanceOf("tails");
  const expect = (what: string, expected: unknown, received: unknown) =>
    audit.examine("history", `tails of topics: ${what}`, expected, received);
  const budget = new TailBudget(MAX_BYTES);
  const tails = Array.from({ length: TAILS }, () => new Tail(budget));
  for (let left = OPERATIONS; left > 0; left--) {
    const tail = oneOf(random, tails);
    change(tail, oneOf(random, KINDS), random);
    expect("bytes within the bound", true, budget.bytes <= MAX_BYTES);
    let bytes = 0;
    for (const { cache, all, begin } of tails) {
      const kept = all.slice(all.length - cache.size);
      bytes += kept.reduce((sum, { message }) => sum + message.size, 0);
      const before = all[all.length - cache.size - 1];
      expect("place of a tail", before?.offset ?? begin, cache.after);
      const newest = all.at(-1)?.offset ?? begin;
      for (let offset = Math.max(0, cache.after - 3); offset <= newest + 1; offset++) {
        const items = cache.page(offset, ALL)?.map((item) => item.offset);
        const behind = all.filter((item) => item.offset > offset).map((item) => item.offset);
        expect(`page behind ${offset}`, offset < cache.after ? undefined : behind, items);
        const here = all.find((item) => item.offset === offset);
        const isKnown = offset > cache.after || offset === cache.after && before !== undefined;
        expect(`knowledge of ${offset}`, isKnown, cache.knows(offset));
        expect(`tag at ${offset}`, isKnown ? here?.tag : undefined, cache.tagAt(offset));
        for (const tag of [here?.tag ?? "none", "other"]) {
          const isWrong = isKnown && here?.tag !== tag;
          expect(`denial of ${tag} at ${offset}`, isWrong, cache.contradicts({ offset, tag }));
        }
      }
    }
    expect("bytes of all tails", bytes, budget.bytes);
  }
}

/** Changes a tail, and the model. */
function change(tail: Tail, kind: typeof KINDS[number], random: () => number): void {
  const { cache } = tail;
  const count = 1 + Math.floor(MOST * random());
  const newest = tail.all.at(-1)?.offset ?? tail.begin;
  switch (kind) {
    case "push":
      for (const item of itemsBehind(newest, count, random)) {
        tail.all.push(item);
        cache.push(item);
      }
      break;
    case "prepend": {
      // A page of the history ends where the tail begins.
      const items = tail.all.slice(0, tail.all.length - cache.size).slice(-count);
      const first = items[0];
      if (first !== undefined) {
        cache.prepend(items, first.prev);
        tail.all = tail.all.slice(tail.all.indexOf(first));
        tail.begin = first.prev;
      }
      break;
    }
    case "reset":
      tail.all = [];
      tail.begin = newest + count;
      cache.reset(tail.begin);
      break;
    case "drop":
      cache.drop();
  }
}

/** Makes the next publications of a topic. */
function itemsBehind(newest: number, count: number, random: () => number): Placed[] {
  let prev = newest;
  return Array.from({ length: count }, () => {
    const offset = prev + 1 + Math.floor(2 * random());
    const message = framed("x".repeat(oneOf(random, SIZES)), "t");
    const item = { message, offset, prev, tag: `t${offset}`, except: undefined };
    prev = offset;
    return item;
  });
}
