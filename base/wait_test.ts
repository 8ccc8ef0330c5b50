import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { TimeoutError } from "../errors.ts";
import { pause, untilAborted, waitFor, within } from "./wait.ts";
import { platformRuntime } from "./runtime.ts";
import { turns } from "../tests/waiting.ts";

class CountedSignal extends EventTarget {
  listeners = 0;
  aborted = false;
  reason: unknown;

  override addEventListener(...args: Parameters<EventTarget["addEventListener"]>): void {
    this.listeners++;
    super.addEventListener(...args);
  }

  override removeEventListener(...args: Parameters<EventTarget["removeEventListener"]>): void {
    this.listeners--;
    super.removeEventListener(...args);
  }
}

const asSignal = (signal: CountedSignal) => signal as unknown as AbortSignal;
const never = new Promise<never>(() => {});

Deno.test("waitFor() returns the value of the promise", async () => {
  const { signal } = new AbortController();
  assertEquals(await waitFor(platformRuntime(), Promise.resolve(1), { what: "it" }), 1);
  assertEquals(
    await waitFor(platformRuntime(), Promise.resolve(2), { what: "it", timeoutMs: 1_000, signal }),
    2,
  );
  const failure = new Error("no");
  const error = await assertRejects(() =>
    waitFor(platformRuntime(), Promise.reject(failure), { what: "it", timeoutMs: 1_000 })
  );
  assertEquals(error, failure);
});

Deno.test("waitFor() rejects after its timeout, and names the missing event", async () => {
  using time = new FakeTime();
  const waiting = waitFor(platformRuntime(), never, { what: "tide", timeoutMs: 500 });
  const outcome = assertRejects(() => waiting, TimeoutError, "No tide within 500 ms");
  let isOver = false;
  waiting.catch(() => isOver = true);
  await time.tickAsync(499);
  assertEquals(isOver, false);
  await time.tickAsync(1);
  assertEquals((await outcome).timeoutMs, 500);
});

Deno.test("waitFor() rejects with the signal's reason, and leaves no timer", async () => {
  const controller = new AbortController();
  const waiting = waitFor(platformRuntime(), never, {
    what: "it",
    timeoutMs: 60_000,
    signal: controller.signal,
  });
  const reason = new Error("enough");
  controller.abort(reason);
  assertEquals(await assertRejects(() => waiting), reason);
  const late = waitFor(platformRuntime(), never, {
    what: "it",
    timeoutMs: 60_000,
    signal: controller.signal,
  });
  assertEquals(await assertRejects(() => late), reason);
});

Deno.test("waitFor() leaves no listener on a long-lived signal", async () => {
  using time = new FakeTime();
  const signal = new CountedSignal();
  const options = { what: "it", timeoutMs: 10, signal: asSignal(signal) };
  await waitFor(platformRuntime(), Promise.resolve(), options);
  await time.runMicrotasks();
  assertEquals(signal.listeners, 0, "after success");
  await waitFor(platformRuntime(), Promise.reject(new Error()), options).catch(() => {});
  await time.runMicrotasks();
  assertEquals(signal.listeners, 0, "after failure");
  const waiting = waitFor(platformRuntime(), never, options).catch(() => {});
  await time.tickAsync(10);
  await waiting;
  assertEquals(signal.listeners, 0, "after the time");
});

Deno.test("pause() ends after its time or on a signal, and leaves no listener", async () => {
  using time = new FakeTime();
  const [first, second] = [new CountedSignal(), new CountedSignal()];
  let ended = 0;
  const begin = () =>
    void pause(platformRuntime(), 1_000, asSignal(first), asSignal(second)).then(() =>
      void ended++
    );
  begin();
  await time.tickAsync(999);
  assertEquals({ ended, firstListeners: first.listeners, secondListeners: second.listeners }, {
    ended: 0,
    firstListeners: 1,
    secondListeners: 1,
  });
  await time.tickAsync(1);
  assertEquals({ ended, firstListeners: first.listeners, secondListeners: second.listeners }, {
    ended: 1,
    firstListeners: 0,
    secondListeners: 0,
  });
  begin();
  second.dispatchEvent(new Event("abort"));
  await time.tickAsync(0);
  assertEquals({ ended, firstListeners: first.listeners, secondListeners: second.listeners }, {
    ended: 2,
    firstListeners: 0,
    secondListeners: 0,
  });
  await pause(platformRuntime(), 0);
  await pause(platformRuntime(), 1_000, AbortSignal.abort());
});

Deno.test("within() returns a value that is in time, without discarding it", async () => {
  const { signal } = new AbortController();
  const discarded: unknown[] = [];
  const options = { signal, timeoutMs: 1_000, discard: (late: unknown) => discarded.push(late) };
  assertEquals(await within(platformRuntime(), Promise.resolve(1), options), 1);
  const failure = new Error("no");
  assertStrictEquals(
    await assertRejects(() => within(platformRuntime(), Promise.reject(failure), options)),
    failure,
  );
  assertEquals(discarded, []);
});

Deno.test("within() discards values after its timeout or signal", async () => {
  using time = new FakeTime();
  const controller = new AbortController();
  for (const options of [{ timeoutMs: 100 }, { signal: controller.signal, timeoutMs: Infinity }]) {
    const { promise, resolve } = Promise.withResolvers<string>();
    const discarded: string[] = [];
    const outcome = within(platformRuntime(), promise, {
      ...options,
      discard: (late) => void discarded.push(late),
    })
      .catch((error) => error);
    await time.tickAsync(100);
    controller.abort("enough");
    const error = await outcome;
    if (options.signal) assertEquals(error, "enough");
    else assertEquals(String(error), "TimeoutError: No result within 100 ms");
    resolve("late");
    await time.runMicrotasks();
    assertEquals(discarded, ["late"]);
  }
});

Deno.test("within() does not wait with an aborted signal, nor for a failure after the abort", async () => {
  const signal = AbortSignal.abort("enough");
  const failing = Promise.reject(new Error("Unseen"));
  assertEquals(
    await within(platformRuntime(), failing, { signal }).catch((reason) => reason),
    "enough",
  );
});

Deno.test("within() names the late event, and rejects invalid times", async () => {
  const never = new Promise<never>(() => {});
  const late = "Cannot catch the tide within";
  await assertRejects(
    () => within(platformRuntime(), never, { late, timeoutMs: 0 }),
    TimeoutError,
    `${late} 0 ms`,
  );
  for (const timeoutMs of [-1, NaN]) {
    await assertRejects(
      () => within(platformRuntime(), never, { timeoutMs }),
      RangeError,
      `received ${timeoutMs}`,
    );
  }
});

Deno.test("within() with an invalid time discards the value, and handles the rejection", async () => {
  for (const timeoutMs of [-1, NaN]) {
    // Both settle after the error; an unhandled rejection ends the test.
    const failing = Promise.withResolvers<string>();
    await assertRejects(
      () => within(platformRuntime(), failing.promise, { timeoutMs }),
      RangeError,
    );
    failing.reject(new Error("Unseen"));
    const { promise, resolve } = Promise.withResolvers<string>();
    const discarded: string[] = [];
    const discard = (late: string) => void discarded.push(late);
    await assertRejects(
      () => within(platformRuntime(), promise, { timeoutMs, discard }),
      RangeError,
    );
    resolve("late");
    await turns(1);
    assertEquals(discarded, ["late"]);
  }
});

Deno.test("untilAborted() adds one listener to a signal, however many wait", async () => {
  const counted = new CountedSignal();
  const signal = asSignal(counted);
  const kept = untilAborted(Promise.resolve(1), signal);
  const late = Promise.withResolvers<never>();
  const waits = [never, never, late.promise].map((promise) => untilAborted(promise, signal));
  assertEquals(counted.listeners, 1);
  assertEquals(await kept, 1);
  assertEquals(counted.listeners, 1);
  const reason = new Error("enough");
  counted.aborted = true;
  counted.reason = reason;
  counted.dispatchEvent(new Event("abort"));
  for (const wait of waits) assertStrictEquals(await wait.catch((error) => error), reason);
  assertEquals(counted.listeners, 0);
  late.reject(new Error("A rejection after the end is handled"));
  await assertRejects(() => untilAborted(never, signal), Error, "enough");
});

Deno.test("untilAborted() removes its listener with the last wait", async () => {
  const counted = new CountedSignal();
  const signal = asSignal(counted);
  const failing = untilAborted(Promise.reject(new Error("no")), signal);
  assertEquals(await untilAborted(Promise.resolve(1), signal), 1);
  await assertRejects(() => failing, Error, "no");
  assertEquals(counted.listeners, 0);
  assertEquals(await untilAborted(Promise.resolve(2), undefined), 2);
});
