/**
 * Runs on our replacements and on the resolved `@std/testing`. If the JSR registry is reachable,
 * that is the original, and the tests show that both behave the same.
 *
 * @module
 */
import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { AssertionError } from "@std/assert";
import { serveDir as stdServeDir } from "@std/http/file-server";
import * as stdMock from "@std/testing/mock";
import * as stdTime from "@std/testing/time";
import { serveDir as ourServeDir } from "../std/http/file_server.ts";
import * as ourMock from "../std/testing/mock.ts";
import * as ourTime from "../std/testing/time.ts";

const times = { "stand-in": ourTime, "@std/testing": stdTime as unknown as typeof ourTime };
const mocks = { "stand-in": ourMock, "@std/testing": stdMock as unknown as typeof ourMock };

for (const [name, { FakeTime, TimeError }] of Object.entries(times)) {
  const test = (what: string, run: () => void | Promise<void>) =>
    Deno.test(`FakeTime (${name}) ${what}`, run);

  test("fakes Date, timers and AbortSignal.timeout", () => {
    using time = new FakeTime(1_000);
    const log: string[] = [];
    setTimeout((text: string) => log.push(text), 20, "timeout");
    const interval = setInterval(() => log.push(`interval ${Date.now()}`), 10);
    const cleared = setTimeout(() => log.push("never"), 5);
    clearTimeout(cleared);
    const signal = AbortSignal.timeout(25);
    time.tick(20);
    assertEquals(log, ["interval 1010", "timeout", "interval 1020"]);
    clearInterval(interval);
    time.tick(4);
    assert(!signal.aborted);
    time.tick(1);
    assertEquals(signal.reason.name, "TimeoutError");
    assertEquals([Date.now(), new Date().valueOf(), time.now, time.start], [
      1_025,
      1_025,
      1_025,
      1_000,
    ]);
    assertInstanceOf(new Date(), Date);
    assertEquals(new Date(5).valueOf(), 5);
  });

  test("fakes nothing else", async () => {
    const real = [
      performance.now,
      queueMicrotask,
      globalThis.setImmediate,
      globalThis.process.nextTick,
      MessageChannel,
    ];
    using _time = new FakeTime(0);
    assertEquals([
      performance.now,
      queueMicrotask,
      globalThis.setImmediate,
      globalThis.process.nextTick,
      MessageChannel,
    ], real);
    await new Promise<void>((resolve) => queueMicrotask(resolve));
    await new Promise<void>((resolve) => setImmediate(resolve));
  });

  test("runs a timer of 0 ms that a timer sets in the same tick", () => {
    using time = new FakeTime(0);
    const log: number[] = [];
    setTimeout(() => setTimeout(() => log.push(Date.now()), 0), 5);
    time.tick(5);
    assertEquals(log, [5]);
  });

  test("stops at a callback that throws, and continues from there", () => {
    using time = new FakeTime(0);
    let last = 0;
    setTimeout(() => {
      throw new Error("boom");
    }, 5);
    setTimeout(() => last = Date.now(), 7);
    assertThrows(() => time.tick(10), Error, "boom");
    assertEquals([time.now, last], [5, 0]);
    time.tick(5);
    assertEquals([time.now, last], [10, 7]);
  });

  test("runs microtasks before it moves the clock with the async methods", async () => {
    using time = new FakeTime(0);
    const log: string[] = [];
    Promise.resolve().then(() => setTimeout(() => log.push(`set late, ${Date.now()}`), 10));
    await time.tickAsync(10);
    assertEquals(log, ["set late, 10"]);
    setTimeout(() => log.push("next"), 10);
    assertEquals([time.next(), time.next(), await time.nextAsync()], [true, false, false]);
    setTimeout(() => setTimeout(() => log.push("all"), 10), 10);
    await time.runAllAsync();
    time.runAll();
    await time.delay(1);
    assertEquals([log.slice(1), time.now], [["next", "all"], 40]);
  });

  test("restores, once", async () => {
    const before = [
      Date,
      setTimeout,
      clearTimeout,
      setInterval,
      clearInterval,
      AbortSignal.timeout,
    ];
    const now = () => [
      Date,
      setTimeout,
      clearTimeout,
      setInterval,
      clearInterval,
      AbortSignal.timeout,
    ];
    const time = new FakeTime();
    assertEquals(now().map((value, i) => value === before[i]), Array(6).fill(false));
    assertThrows(() => new FakeTime(), TimeError);
    assertEquals(await FakeTime.restoreFor(() => now().every((it, i) => it === before[i])), true);
    assertEquals(now().map((value, i) => value === before[i]), Array(6).fill(false));
    time.restore();
    assertEquals(now().map((value, i) => value === before[i]), Array(6).fill(true));
    assertThrows(() => time.restore(), TimeError);
    assertThrows(() => FakeTime.restore(), TimeError);
    await assertRejects(() => FakeTime.restoreFor(() => {}), TimeError);
  });

  test("rejects bad arguments", () => {
    assertThrows(() => new FakeTime("no date"), TypeError);
    using time = new FakeTime(10);
    assertThrows(() => time.now = 9, RangeError);
  });
}

for (const [name, mock] of Object.entries(mocks)) {
  const { assertSpyCall, assertSpyCallArg, assertSpyCallArgs, assertSpyCalls, spy, stub } = mock;
  const test = (what: string, run: () => void | Promise<void>) =>
    Deno.test(`${what} (${name})`, run);

  test("spy() records calls of a function", () => {
    const double = spy((n: number) => {
      if (n < 0) throw new RangeError("negative");
      return n * 2;
    });
    assertEquals(double(2), 4);
    assertThrows(() => double(-1), RangeError);
    assertSpyCalls(double, 2);
    assertSpyCall(double, 0, { args: [2], returned: 4 });
    assertSpyCall(double, 1, { error: { Class: RangeError, msgIncludes: "negative" } });
    assertSpyCallArg(double, 0, 0, 2);
    assertSpyCallArgs(double, 1, [-1]);
    assertThrows(() => assertSpyCalls(double, 1), AssertionError);
    assertThrows(() => assertSpyCall(double, 2), AssertionError);
    assertThrows(() => assertSpyCall(double, 0, { args: [3] }), AssertionError);
  });

  test("spy() and stub() stand in for a method until disposed", () => {
    const counter = { n: 1, add: (by: number) => counter.n += by };
    const { add } = counter;
    {
      using added = spy(counter, "add");
      counter.add(2);
      assertSpyCall(added, 0, { self: counter, args: [2], returned: 3 });
      assertThrows(() => stub(counter, "add"), mock.MockError);
    }
    {
      using added = stub(counter, "add", () => 100);
      assertEquals([counter.add(1), counter.n], [100, 3]);
      assertSpyCalls(added, 1);
      assertEquals(added.restored, false);
    }
    assertEquals(counter.add, add);
    const returned = stub(counter, "add", mock.returnsNext([5]));
    assertEquals(counter.add(0), 5);
    assertThrows(() => counter.add(0), mock.MockError);
    returned.restore();
    assertThrows(() => returned.restore(), mock.MockError);
  });

  test("resolvesNext() resolves and rejects in turn", async () => {
    const next = mock.resolvesNext<number>([1, new RangeError("two")]);
    assertEquals(await next(), 1);
    await assertRejects(() => next(), RangeError, "two");
    await assertRejects(() => next(), mock.MockError);
  });
}

for (const [name, serveDir] of Object.entries({ "stand-in": ourServeDir, std: stdServeDir })) {
  Deno.test(`serveDir() (${name}) serves the files of a folder, and its index`, async () => {
    const fsRoot = await Deno.makeTempDir();
    await Deno.writeTextFile(`${fsRoot}/index.html`, "<p>");
    await Deno.writeTextFile(`${fsRoot}/a.js`, "1");
    const get = async (path: string) => {
      const response = await serveDir(new Request(`http://localhost${path}`), {
        fsRoot,
        quiet: true,
      });
      const type = response.headers.get("content-type")?.split(";")[0];
      return response.ok
        ? [type, await response.text()]
        : (await response.body?.cancel(), response.status);
    };
    assertEquals(await get("/"), ["text/html", "<p>"]);
    assertEquals(await get("/a.js"), ["text/javascript", "1"]);
    assertEquals(await get("/b.js"), 404);
    await Deno.remove(fsRoot, { recursive: true });
  });
}
