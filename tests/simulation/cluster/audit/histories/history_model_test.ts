import { assertEquals } from "@std/assert";
import type { HistoryPage } from "../../../../../pubsub/broker.ts";
import { type Acknowledged, HistoryModel } from "./history_model.ts";

const BOUNDS = { size: 3, ttlMs: 10_000, bytes: 1_000 };
const ALL = { maxMessages: 10, maxBytes: 1_000 };
const SOON = { fromMs: 100, toMs: 100 };

/** Makes publications at even offsets, one each second. */
function publications(count: number): Acknowledged[] {
  return Array.from({ length: count }, (_, i) => ({
    payload: `${i + 1}`,
    position: { epoch: "e", offset: 2 * (i + 1), tag: `tag${i + 1}` },
    taken: { fromMs: 1_000 * i, toMs: 1_000 * i },
  }));
}

/** Makes the page that has some of the publications. */
function pageOf(of: readonly Acknowledged[], head: number): HistoryPage {
  return {
    epoch: "e",
    head,
    publications: of.map(({ payload, position }) => ({
      topic: "t",
      payload,
      position: { ...position, prev: position.offset - 2 },
    })),
  };
}

Deno.test("HistoryModel takes the page of the newest publications within the size", () => {
  const model = new HistoryModel(BOUNDS);
  const all = publications(5);
  model.add(all);
  assertEquals(model.differenceOf(ALL, pageOf(all.slice(2), 10), SOON), undefined);
  assertEquals(model.differenceOf(ALL, pageOf(all.slice(1), 10), SOON), {
    expected: "page 3 4 5",
    received: "page 2 3 4 5",
  });
  assertEquals(model.differenceOf({ ...ALL, last: 1 }, pageOf(all.slice(3), 10), SOON), {
    expected: "page 5",
    received: "page 4 5",
  });
});

Deno.test("HistoryModel refuses a page that hides missing publications", () => {
  const model = new HistoryModel(BOUNDS);
  const all = publications(5);
  model.add(all);
  const page = pageOf(all.slice(2), 10);
  const [first, ...others] = page.publications;
  const hidden = [{ ...first!, position: { ...first!.position!, prev: 2 } }, ...others];
  const query = { ...ALL, after: 2 };
  assertEquals(model.differenceOf(query, page, SOON), undefined);
  assertEquals(model.differenceOf(query, { ...page, publications: hidden }, SOON), {
    expected: "prev of 6 4",
    received: "prev of 6 2",
  });
});

Deno.test("HistoryModel leaves publications open whose time is just over", () => {
  const model = new HistoryModel(BOUNDS);
  const all = publications(3);
  model.add(all);
  const read = { fromMs: 11_000, toMs: 11_000 };
  assertEquals(model.differenceOf(ALL, pageOf(all.slice(1), 6), read), undefined);
  assertEquals(model.differenceOf(ALL, pageOf(all.slice(2), 6), read), undefined);
  assertEquals(model.differenceOf(ALL, pageOf(all, 6), read), {
    expected: "page 2 3 or 3",
    received: "page 1 2 3",
  });
});
