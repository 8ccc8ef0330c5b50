import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import fc from "fast-check";
import { platformRuntime } from "../../base/runtime.ts";
import { property } from "../../tests/properties/property.ts";
import { InOrder } from "./topic_subscription.ts";

/** Receives offsets, each with its given predecessor. */
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

Deno.test("InOrder delivers the next publication immediately", () => {
  const { heard, take } = bench();
  take(3, 0);
  take(7, 3);
  take(20, 15, { known: 15 });
  assertEquals(heard, ["3", "7", "20"]);
});

/** A publication of an epoch: the step from the previous offset, and its delivery to the node. */
interface Arrival {
  readonly step: number;
  /** Delay of the delivery; `undefined` for a publication that never arrives. */
  readonly lateMs: number | undefined;
}

property(
  "InOrder delivers each publication that arrives, in order, and holds none for longer than 50 ms",
  {
    cases: fc.array(
      fc.record({
        /** Time without a publication before the epoch. */
        quietMs: fc.constantFrom<number[]>(60, 0),
        arrivals: fc.array(
          fc.record({
            step: fc.integer({ min: 1, max: 3 }),
            lateMs: fc.constantFrom<(number | undefined)[]>(0, 0, 6, 20, 40, undefined),
          }),
          { maxLength: 24 },
        ),
      }),
      { maxLength: 3 },
    ),
    regressions: {
      "a late publication after a lost one": [{
        quietMs: 0,
        arrivals: [0, undefined, 0, 0, 0, 0, 0, 0, 30, 0].map((lateMs) => ({ step: 1, lateMs })),
      }],
    },
    runs: 50,
    async check(world, epochs) {
      const delivered: string[] = [];
      const due = new Map<string, number>();
      const late: string[] = [];
      const order = new InOrder(world.host("node").runtime, ({ position }) => {
        const name = `${position!.epoch} ${position!.offset}`;
        delivered.push(name);
        if (world.nowMs > due.get(name)!) late.push(name);
      });
      const expected: string[] = [];
      for (const [i, { quietMs, arrivals }] of epochs.entries()) {
        await world.pause(quietMs);
        for (const { position, atMs } of publicationsOf(`epoch ${i}`, arrivals)) {
          const name = `${position.epoch} ${position.offset}`;
          expected.push(name);
          world.simulation.after(atMs, () => {
            due.set(name, world.nowMs + 50);
            order.take({ topic: "a", payload: "", position }, 0);
          });
        }
        // All have arrived, but some may still be held.
        await world.pause(4 * arrivals.length + 40);
      }
      await world.pause(51);
      assertEquals(delivered, expected);
      assertEquals(late, []);
      assertEquals([...world.simulation.pending()].length, 0);
    },
  },
);

/** Lists the publications that arrive, one every 4 ms, the first of which shows the epoch. */
function publicationsOf(epoch: string, arrivals: readonly Arrival[]) {
  let offset = 0;
  return arrivals.flatMap(({ step, lateMs }, i) => {
    const prev = offset;
    offset += step;
    if (lateMs === undefined) return [];
    return [{ position: { epoch, offset, prev }, atMs: 4 * i + (i === 0 ? 0 : lateMs) }];
  });
}

Deno.test("InOrder holds no more than its bound", () => {
  const { heard, take, order } = bench();
  for (let offset = 2; offset < 258; offset++) take(offset, offset - 1);
  assertEquals(heard.length, 256);
  order.close();
});

Deno.test("InOrder leaves no timer running if the listener closes it", () => {
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

Deno.test("InOrder delivers nothing after it is closed", () => {
  using time = new FakeTime();
  const { heard, take, order } = bench();
  take(9, 8);
  order.close();
  time.tick(100);
  assertEquals(heard, []);
});
