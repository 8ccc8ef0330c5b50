import { assertEquals, assertRejects } from "@std/assert";
import { PendingReads } from "./loops.ts";

/** Numbers one by one, and then an end or an error. */
function hand() {
  const there: (number | null)[] = [];
  let failure: Error | undefined;
  const waiters = new PendingReads<number>(() => {
    if (failure !== undefined && there.length === 0) throw failure;
    return there[0] === null ? null : there.shift();
  });
  return {
    waiters,
    there,
    come(...numbers: (number | null)[]) {
      there.push(...numbers);
      waiters.deliver();
    },
    fail(error: Error) {
      failure = error;
      waiters.deliver();
    },
  };
}

Deno.test("PendingReads.next() gives each caller one value, in the order of the calls", async () => {
  const { waiters, come } = hand();
  const waiting = [waiters.next(), waiters.next(), waiters.next()];
  come(1);
  come(2, 3);
  assertEquals(await Promise.all(waiting), [1, 2, 3]);
  come(4, null);
  assertEquals([await waiters.next(), await waiters.next(), await waiters.next()], [4, null, null]);
});

Deno.test("PendingReads.next() that was cancelled leaves the next value to the next call", async () => {
  const { waiters, come } = hand();
  const controller = new AbortController();
  const reason = new Error("no time");
  const first = waiters.next(controller.signal);
  const second = waiters.next();
  controller.abort(reason);
  come(1);
  assertEquals(await assertRejects(() => first), reason);
  assertEquals(await second, 1);
  assertEquals(await assertRejects(() => waiters.next(controller.signal)), reason);
});

Deno.test("PendingReads report an error and the end to every caller", async () => {
  const { waiters, come, fail } = hand();
  const ended = [waiters.next(), waiters.next()];
  come(null);
  assertEquals(await Promise.all(ended), [null, null]);
  const other = hand();
  const failing = Promise.allSettled([other.waiters.next(), other.waiters.next()]);
  const error = new Error("broken");
  other.fail(error);
  assertEquals((await failing).map((one) => one.status === "rejected" && one.reason), [
    error,
    error,
  ]);
  fail(error);
});

Deno.test("PendingReads.loop() that is left ends its next(), and takes no value", async () => {
  const { waiters, come, there } = hand();
  let left = 0;
  const loop = waiters.loop(() => left++);
  const waiting = [loop.next(), loop.next()];
  await loop.return?.();
  come(1);
  assertEquals((await Promise.all(waiting)).map(({ done }) => done), [true, true]);
  assertEquals([(await loop.next()).done, left, there], [true, 1, [1]]);
});
