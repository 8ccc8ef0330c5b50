import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { TimeoutError } from "../errors.ts";
import { within } from "./wait.ts";
import { platformRuntime } from "./runtime.ts";

Deno.test("within(platformRuntime(), ) gives what the promise gives, and discards nothing of it", async () => {
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

Deno.test("within(platformRuntime(), ) discards what comes too late, by time and by signal", async () => {
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
    else assertEquals(String(error), "TimeoutError: Cannot wait longer than 100 ms");
    resolve("late");
    await time.runMicrotasks();
    assertEquals(discarded, ["late"]);
  }
});

Deno.test("within(platformRuntime(), ) does not wait with a signal that is aborted, nor for a failure after it", async () => {
  const signal = AbortSignal.abort("enough");
  const failing = Promise.reject(new Error("Unseen"));
  assertEquals(
    await within(platformRuntime(), failing, { signal }).catch((reason) => reason),
    "enough",
  );
});

Deno.test("within(platformRuntime(), ) says what was too late, and refuses times that are none", async () => {
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

Deno.test("within(platformRuntime(), ) leaves nothing of what it was given with a time that is none", async () => {
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
    await new Promise((resolve) => setImmediate(resolve));
    assertEquals(discarded, ["late"]);
  }
});
