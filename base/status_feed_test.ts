import { captureConsole } from "../tests/console_lines.ts";
import { assertEquals } from "@std/assert";
import { StatusFeed } from "./status_feed.ts";

Deno.test("StatusFeed iteration starts with the current value and follows each change", async () => {
  const feed = new StatusFeed("a");
  const reader = feed[Symbol.asyncIterator]();
  assertEquals((await reader.next()).value, "a");
  const next = reader.next();
  feed.set("b");
  assertEquals((await next).value, "b");
  feed.end("c");
  assertEquals((await reader.next()).value, "c");
  assertEquals(await reader.next(), { value: undefined, done: true });
});

Deno.test("StatusFeed prints its latest value, in texts and on the console", () => {
  const feed = new StatusFeed("pending");
  assertEquals([`${feed}`, Deno.inspect(feed)], ["pending", 'StatusFeed "pending"']);
  feed.set("subscribed");
  assertEquals(`The topic is ${feed}`, "The topic is subscribed");
  const named = new StatusFeed({ name: "connected", session: "s-1" });
  const shown = 'StatusFeed { name: "connected", session: "s-1" }';
  assertEquals([`${named}`, Deno.inspect(named)], ["connected", shown]);
  assertEquals(Deno.inspect({ status: named }), `{ status: ${shown} }`);
  assertEquals(`${new StatusFeed(undefined)} ${new StatusFeed(null)}`, "undefined null");
});

Deno.test("StatusFeed iteration may skip changes for a slow reader, never the latest", async () => {
  const feed = new StatusFeed(0);
  const reader = feed[Symbol.asyncIterator]();
  await reader.next();
  for (let value = 1; value <= 1_000; value++) feed.set(value);
  assertEquals((await reader.next()).value, 1_000);
});

Deno.test("StatusFeed notifies every reader", async () => {
  const feed = new StatusFeed(0);
  const readers = [feed[Symbol.asyncIterator](), feed[Symbol.asyncIterator]()];
  for (const reader of readers) await reader.next();
  const waiting = readers.map((reader) => reader.next());
  feed.set(1);
  assertEquals((await Promise.all(waiting)).map(({ value }) => value), [1, 1]);
});

Deno.test("StatusFeed reports a change to the same value", async () => {
  const feed = new StatusFeed("same");
  const reader = feed[Symbol.asyncIterator]();
  await reader.next();
  feed.set("same");
  assertEquals((await reader.next()).value, "same");
});

Deno.test("StatusFeed does not change after its end", async () => {
  const feed = new StatusFeed("open");
  feed.end("over");
  feed.set("again");
  feed.end("twice");
  assertEquals([feed.current, feed.isEnded], ["over", true]);
  assertEquals(await Array.fromAsync(feed), ["over"]);
  assertEquals(await Array.fromAsync(feed), ["over"]);
});

Deno.test("StatusFeed has ended when its callbacks receive the last value", () => {
  const feed = new StatusFeed("open");
  const seen: unknown[] = [];
  feed.subscribe((value) => seen.push([value, feed.isEnded]));
  feed.end("over");
  assertEquals(seen, [["open", false], ["over", true]]);
});

Deno.test("StatusFeed wakes a waiting reader when it ends", async () => {
  const feed = new StatusFeed("open");
  const all = Array.fromAsync(feed);
  await Promise.resolve();
  feed.end("over");
  assertEquals((await all).at(-1), "over");
});

Deno.test("StatusFeed.subscribe() reports the value immediately, then each change until the end", () => {
  const feed = new StatusFeed("a");
  const seen: string[] = [];
  const unsubscribe = feed.subscribe((value) => seen.push(value));
  assertEquals(seen, ["a"]);
  feed.set("b");
  feed.set("b");
  feed.end("c");
  feed.set("d");
  assertEquals(seen, ["a", "b", "b", "c"]);
  unsubscribe();
  feed.subscribe((value) => seen.push(`late ${value}`));
  assertEquals(seen.at(-1), "late c");
});

Deno.test("StatusFeed.subscribe() returns a function and a disposable that end only this subscription", () => {
  const feed = new StatusFeed(0);
  const seen: number[] = [];
  const callback = (value: number) => seen.push(value);
  const first = feed.subscribe(callback);
  {
    using _second = feed.subscribe(callback);
    feed.set(1);
  }
  feed.set(2);
  first();
  first();
  feed.set(3);
  assertEquals(seen, [0, 0, 1, 1, 2]);
});

Deno.test("StatusFeed.subscribe() continues when a callback fails, or changes the subscriptions", async () => {
  const feed = new StatusFeed(0);
  const seen: unknown[] = [];
  using printed = captureConsole();
  feed.subscribe(() => {
    throw new Error("thrown");
  });
  feed.subscribe(() => Promise.reject(new Error("rejected")));
  const unsubscribe = feed.subscribe((value) => {
    seen.push(value);
    if (value === 1) {
      unsubscribe();
      feed.subscribe((value) => seen.push(`new ${value}`));
    }
  });
  feed.set(1);
  feed.set(2);
  await Promise.resolve();
  assertEquals(seen, [0, 1, "new 1", "new 2"]);
  assertEquals(printed.lines.filter((line) => line.includes("thrown")).length, 3);
  assertEquals(printed.lines.filter((line) => line.includes("rejected")).length, 3);
});

Deno.test("StatusFeed.subscribe() calls no callback after its end, even if another callback ended it", () => {
  const feed = new StatusFeed(0);
  const seen: number[] = [];
  feed.subscribe((value) => {
    if (value === 1) later();
  });
  const later = feed.subscribe((value) => seen.push(value));
  feed.set(1);
  assertEquals(seen, [0]);
});

Deno.test("StatusFeed.subscribe() prints a bounded number of errors", () => {
  const feed = new StatusFeed(0);
  using printed = captureConsole();
  feed.subscribe(() => {
    throw new Error("thrown");
  });
  for (let value = 1; value <= 100; value++) feed.set(value);
  assertEquals(printed.lines.length, 16);
});
