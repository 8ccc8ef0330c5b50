import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { turns } from "../testing/turns.ts";
import { platformRuntime } from "./runtime.ts";
import { SingleCall } from "./single_call.ts";

/** Calls that a test settles, and the largest number of unsettled calls so far. */
function calls() {
  const made: (PromiseWithResolvers<string> & { readonly signal: AbortSignal })[] = [];
  const call = new SingleCall<string>(platformRuntime(), ({ signal }) => {
    const one = { ...Promise.withResolvers<string>(), signal };
    made.push(one);
    return one.promise;
  });
  return { made, call };
}

Deno.test("SingleCall.run() shares the running call, and starts another one after it", async () => {
  const { made, call } = calls();
  const { signal } = new AbortController();
  const results = [call.run(signal), call.run(), call.run(signal)];
  assertEquals(made.length, 1);
  made[0]!.resolve("one");
  assertEquals(await Promise.all(results), ["one", "one", "one"]);
  assertEquals(made[0]!.signal.aborted, false, "It was not aborted");
  const next = call.run(signal);
  made[1]!.reject(new Error("No"));
  await assertRejects(() => next, Error, "No");
  const last = call.run();
  made[2]!.resolve("three");
  assertEquals(await last, "three");
});

Deno.test("SingleCall.run() aborts the call once its last caller with a signal has gone", async () => {
  const { made, call } = calls();
  const [one, two] = [new AbortController(), new AbortController()];
  const all = Promise.allSettled([call.run(one.signal), call.run(two.signal)]);
  const other = call.run();
  one.abort();
  await turns();
  assertEquals(made[0]!.signal.aborted, false);
  two.abort();
  await all;
  assertEquals(made[0]!.signal.aborted, true);
  made[0]!.resolve("late");
  assertEquals(await other, "late");
});

Deno.test("SingleCall.run() calls nothing if its signal was aborted before", async () => {
  const { made, call } = calls();
  const signal = AbortSignal.abort(new Error("Enough"));
  await assertRejects(() => call.run(signal), Error, "Enough");
  assertEquals(made.length, 0);
});

Deno.test("SingleCall.run() waits for an aborted call until it settles, but at most a second", async () => {
  for (const settles of [true, false]) {
    using time = new FakeTime();
    const { made, call } = calls();
    const { signal } = new AbortController();
    const first = call.run(signal);
    first.catch(() => {});
    call.abort();
    call.abort();
    const later = [call.run(signal), call.run(signal)];
    await time.tickAsync(999);
    await turns();
    assertEquals(made.length, 1);
    if (settles) made[0]!.reject(new Error("Aborted"));
    else await time.tickAsync(1);
    await turns();
    assertEquals(made.length, 2, "One call for both");
    made[1]!.resolve("two");
    assertEquals(await Promise.all(later), ["two", "two"]);
    if (!settles) made[0]!.resolve("one");
  }
});

Deno.test("SingleCall.run() waits no second time for a call that was aborted long ago", async () => {
  using time = new FakeTime();
  const { made, call } = calls();
  const gone = new AbortController();
  const first = call.run(gone.signal);
  gone.abort();
  await assertRejects(() => first);
  await time.tickAsync(5_000);
  const { signal } = new AbortController();
  const second = call.run(signal);
  await time.tickAsync(0);
  await turns();
  made[1]!.resolve("two");
  assertEquals(await second, "two");
});

Deno.test("SingleCall.run() leaves no timer behind if its caller gives up, and passes on a thrown error", async () => {
  const { call } = calls();
  const gone = new AbortController();
  const first = call.run(gone.signal);
  gone.abort();
  await assertRejects(() => first);
  const again = new AbortController();
  const second = call.run(again.signal);
  again.abort();
  await assertRejects(() => second);
  const failing = new SingleCall(platformRuntime(), () => {
    throw new TypeError("No token");
  });
  await assertRejects(() => failing.run(), TypeError, "No token");
});
