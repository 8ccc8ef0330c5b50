import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { InOrder } from "./topic_subscription.ts";

/** Takes offsets, each behind its given predecessor. */
function bench() {
  const heard: string[] = [];
  const order = new InOrder(
    platformRuntime(),
    ({ position }) => heard.push(`${position!.epoch}${position!.offset}`),
  );
  const take = (offset: number, prev: number, { known = 0, epoch = "" } = {}) =>
    order.take({ topic: "a", payload: "", position: { epoch, offset, prev } }, known);
  return { heard, order, take };
}

Deno.test("InOrder delivers the next publication at once", () => {
  const { heard, take } = bench();
  take(3, 0);
  take(7, 3);
  take(20, 15, { known: 15 });
  assertEquals(heard, ["3", "7", "20"]);
});

Deno.test("InOrder holds early publications until the missing ones are there", () => {
  const { heard, take } = bench();
  take(1, 0);
  take(4, 3);
  take(3, 2);
  take(9, 4);
  assertEquals(heard, ["1"]);
  take(2, 1);
  assertEquals(heard, ["1", "2", "3", "4", "9"]);
});

Deno.test("InOrder delivers held publications after a moment, and drops later ones", () => {
  using time = new FakeTime();
  const { heard, take } = bench();
  take(1, 0);
  take(4, 3);
  take(3, 2);
  time.tick(49);
  assertEquals(heard, ["1"]);
  time.tick(1);
  assertEquals(heard, ["1", "3", "4"]);
  take(2, 1);
  take(5, 4);
  assertEquals(heard, ["1", "3", "4", "5"]);
});

Deno.test("InOrder holds each publication for a time of its own", () => {
  using time = new FakeTime();
  const { heard, take } = bench();
  take(3, 2);
  time.tick(40);
  take(6, 5);
  time.tick(10);
  assertEquals(heard, ["3"]);
  time.tick(30);
  take(5, 3);
  assertEquals(heard, ["3", "5", "6"]);
  take(9, 8);
  time.tick(49);
  assertEquals(heard, ["3", "5", "6"]);
  time.tick(1);
  assertEquals(heard, ["3", "5", "6", "9"]);
});

Deno.test("InOrder holds no more than its bound", () => {
  const { heard, take, order } = bench();
  for (let offset = 2; offset < 258; offset++) take(offset, offset - 1);
  assertEquals(heard.length, 256);
  order.close();
});

Deno.test("InOrder delivers held publications before the first of another epoch", () => {
  const { heard, take } = bench();
  take(9, 8, { epoch: "a" });
  take(1, 0, { epoch: "b" });
  take(2, 1, { epoch: "b" });
  assertEquals(heard, ["a9", "b1", "b2"]);
});

Deno.test("InOrder leaves no timer behind a close by the listener", () => {
  const heard: number[] = [];
  const order: InOrder = new InOrder(platformRuntime(), ({ position }) => {
    if (heard.push(position!.offset) === 2) order.close();
  });
  const take = (offset: number, prev: number) =>
    order.take({ topic: "a", payload: "", position: { epoch: "", offset, prev } }, 0);
  take(3, 2);
  take(4, 3);
  take(9, 8);
  take(2, 0);
  assertEquals(heard, [2, 3]);
});

Deno.test("InOrder delivers nothing after its close", () => {
  using time = new FakeTime();
  const { heard, take, order } = bench();
  take(9, 8);
  order.close();
  time.tick(100);
  assertEquals(heard, []);
});
