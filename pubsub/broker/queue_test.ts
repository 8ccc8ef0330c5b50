import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import {
  BrokerLine,
  BrokerOutbox,
  Fifo,
  type Outgoing,
  TurnBatch,
  WaitingBudget,
} from "./queue.ts";
import { turns } from "../../tests/waiting.ts";

Deno.test("Fifo returns items in order, however it is filled", () => {
  const queue = new Fifo<number>();
  const expected: number[] = [];
  const taken: (number | undefined)[] = [];
  for (let i = 1; i <= 1_000; i++) {
    queue.push(i);
    expected.push(i);
    if (i % 3 === 0) taken.push(queue.shift());
    assertEquals([queue.length, queue.first], [expected.length - taken.length, taken.length + 1]);
  }
  while (queue.length > 0) taken.push(queue.shift());
  assertEquals(taken, expected);
  assertEquals([queue.shift(), queue.first], [undefined, undefined]);
});

Deno.test("Fifo.clear() removes and returns all items", () => {
  const queue = new Fifo<number>();
  for (const item of [1, 2, 3, 4]) queue.push(item);
  queue.shift();
  assertEquals([queue.length, queue.clear(), queue.length], [3, [2, 3, 4], 0]);
});

Deno.test("WaitingBudget has room up to a number of messages, and up to a number of bytes", () => {
  const budget = new WaitingBudget({ maxWaiting: 2, maxWaitingBytes: 10 });
  assertEquals([budget.take(5), budget.take(6), budget.take(5), budget.take(0)], [
    true,
    false,
    true,
    false,
  ]);
  assertEquals(budget.messages, 2);
  budget.give(5);
  assertEquals([budget.take(6), budget.take(4), budget.messages], [false, true, 2]);
});

interface Item extends Outgoing {
  readonly name: string;
}

const item = (name: string, bytes = 1): Item => {
  return { name, bytes, due: 0, isOver: false };
};

const namesOf = (items: readonly Item[]) => items.map(({ name }) => name);

/** An outbox with one line, and the items that the line dropped. */
function open(limits: { readonly maxWaiting?: number; readonly giveUpMs?: number } = {}) {
  const runtime = platformRuntime();
  const outbox = new BrokerOutbox({
    runtime,
    broker: "the broker",
    maxWaiting: 100,
    maxWaitingBytes: 1_000,
    ...limits,
  });
  const dropped: [name: string, why: string][] = [];
  const drop = ({ name }: Item, why: string) => void dropped.push([name, why]);
  return { outbox, drop, line: new BrokerLine<Item>(outbox, drop), dropped };
}

Deno.test("Line returns items in order, one by one and in batches", () => {
  const { outbox, line } = open();
  const items = ["a", "b", "c", "d", "e"].map((name) => item(name, 10));
  for (const one of items) line.push(one);
  assertEquals(line.take()?.name, "a");
  assertEquals(namesOf(line.takeBatch({ maxItems: 2, maxBytes: 1_000 })), ["b", "c"]);
  assertEquals(namesOf(line.takeBatch({ maxItems: 2, maxBytes: 15 })), ["d"]);
  assertEquals(namesOf(line.takeBatch({ maxItems: 2, maxBytes: 5 })), ["e"]);
  assertEquals([line.isWaiting, line.take(), line.takeBatch({ maxItems: 2, maxBytes: 5 })], [
    false,
    undefined,
    [],
  ]);
  assertEquals([line.sent, outbox.budget.messages], [5, 5]);
});

Deno.test("BrokerLine.settle() settles an item once, in any order", () => {
  const { outbox, line } = open();
  const items = ["a", "b", "c"].map((name) => item(name));
  for (const one of items) line.push(one);
  line.takeBatch({ maxItems: 3, maxBytes: 1_000 });
  assertEquals([line.settle(items[1]!), line.settle(items[1]!)], [true, false]);
  assertEquals({ messages: outbox.budget.messages, name: line.first?.name, sent: line.sent }, {
    messages: 2,
    name: "a",
    sent: 3,
  });
  line.settle(items[0]!);
  assertEquals({ messages: outbox.budget.messages, name: line.first?.name, sent: line.sent }, {
    messages: 1,
    name: "c",
    sent: 1,
  });
  line.settle(items[2]!);
  assertEquals({ messages: outbox.budget.messages, first: line.first, sent: line.sent }, {
    messages: 0,
    first: undefined,
    sent: 0,
  });
});

Deno.test("BrokerLine.rewind() returns unacknowledged items again, before later items", () => {
  const { line } = open();
  const items = ["a", "b", "c"].map((name) => item(name));
  for (const one of items) line.push(one);
  line.takeBatch({ maxItems: 2, maxBytes: 1_000 });
  line.settle(items[1]!);
  line.rewind();
  assertEquals(namesOf(line.takeBatch({ maxItems: 10, maxBytes: 1_000 })), ["a", "c"]);
});

Deno.test("BrokerLine.push() drops the newest item if the outbox has no room", () => {
  const { outbox, line, drop, dropped } = open({ maxWaiting: 2 });
  const other = new BrokerLine<Item>(outbox, drop);
  assertEquals([line.push(item("a")), other.push(item("b"))], [true, true]);
  assertEquals([line.push(item("c")), line.push({ ...item("free"), bytes: undefined })], [
    false,
    true,
  ]);
  assertEquals(dropped, [["c", "too many publications wait for the broker"]]);
  assertEquals([outbox.dropped, outbox.budget.messages], [1, 2]);
  line.settle(line.take()!);
  assert(other.push(item("d")));
});

Deno.test("Outbox drops items after giveUpMs, not before, sent or not", async () => {
  using time = new FakeTime();
  const { outbox, line, dropped } = open({ giveUpMs: 1_000 });
  const why = "the broker did not acknowledge the publication within 1000 ms";
  for (const name of ["sent", "waiting"]) line.push(item(name));
  line.take();
  await time.tickAsync(500);
  line.push(item("later"));
  await time.tickAsync(499);
  assertEquals(dropped, []);
  await time.tickAsync(101);
  assertEquals(dropped, [["sent", why], ["waiting", why]]);
  await time.tickAsync(399);
  assertEquals([dropped.length, line.first?.name], [2, "later"]);
  await time.tickAsync(101);
  assertEquals({
    dropped: dropped.length,
    outboxDropped: outbox.dropped,
    messages: outbox.budget.messages,
  }, { dropped: 3, outboxDropped: 3, messages: 0 });
  outbox.close();
});

Deno.test("Outbox drops the items of all lines at most a tenth later than giveUpMs", async () => {
  using time = new FakeTime();
  const { outbox, line, drop, dropped } = open({ giveUpMs: 1_000 });
  const other = new BrokerLine<Item>(outbox, drop);
  for (let i = 0; i < 50; i++) {
    (i % 2 === 0 ? line : other).push(item(`${time.now}`));
    await time.tickAsync(10);
  }
  for (let i = 0; i < 200; i++) {
    const before = dropped.length;
    await time.tickAsync(10);
    for (const [name] of dropped.slice(before)) {
      const waitedMs = time.now - Number(name);
      assert(waitedMs >= 1_000 && waitedMs <= 1_110, `${waitedMs}`);
    }
  }
  assertEquals(dropped.length, 50);
  outbox.close();
});

Deno.test("Outbox checks for overdue items again after it was empty", async () => {
  using time = new FakeTime();
  const { outbox, line, dropped } = open({ giveUpMs: 1_000 });
  line.push(item("a"));
  line.settle(line.take()!);
  await time.tickAsync(5_000);
  line.push(item("b"));
  await time.tickAsync(1_000);
  assertEquals([dropped.map(([name]) => name), outbox.dropped], [["b"], 1]);
  outbox.close();
});

Deno.test("BrokerOutbox.empty() resolves once every item of every line is settled or dropped", async () => {
  const { outbox, line, drop } = open();
  await outbox.empty();
  const other = new BrokerLine<Item>(outbox, drop);
  const items = [item("a"), item("b")];
  line.push(items[0]!);
  other.push(items[1]!);
  let isEmpty = false;
  const empty = outbox.empty().then(() => isEmpty = true);
  line.settle(items[0]!);
  await Promise.resolve();
  assertEquals(isEmpty, false);
  other.drop(items[1]!, "rejected");
  await empty;
});

Deno.test("BrokerOutbox.close() drops all items, and accepts no further ones", () => {
  const { outbox, line, dropped } = open({ giveUpMs: 1_000 });
  line.push(item("sent"));
  line.push(item("waiting"));
  line.take();
  outbox.close();
  assertEquals(line.push(item("late")), false);
  const closed = "the broker is closed";
  assertEquals(dropped, [["sent", closed], ["waiting", closed], ["late", closed]]);
  assertEquals([outbox.dropped, outbox.budget.messages], [3, 0]);
});

Deno.test("TurnBatch.gather() makes the calls of a turn before anything that they cause", async () => {
  const batch = new TurnBatch(platformRuntime());
  const calls: string[] = [];
  const [one, two] = ["one", "two"].map((name) => () => {
    calls.push(name);
    queueMicrotask(() => calls.push(`after ${name}`));
  });
  for (const act of [one!, two!, one!]) batch.gather(act, 1);
  assertEquals(calls, []);
  await turns(1);
  assertEquals(calls, ["one", "two", "after one", "after two"]);
});
