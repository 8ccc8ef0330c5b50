import { assertEquals } from "@std/assert";
import { StatusFeed } from "./status_feed.ts";

Deno.test("StatusFeed iteration begins with the value as it is and follows each change", async () => {
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

Deno.test("StatusFeed iteration leaves out what a slow reader missed, never the latest", async () => {
  const feed = new StatusFeed(0);
  const reader = feed[Symbol.asyncIterator]();
  await reader.next();
  for (let value = 1; value <= 1_000; value++) feed.set(value);
  assertEquals((await reader.next()).value, 1_000);
});

Deno.test("StatusFeed tells every reader", async () => {
  const feed = new StatusFeed(0);
  const readers = [feed[Symbol.asyncIterator](), feed[Symbol.asyncIterator]()];
  for (const reader of readers) await reader.next();
  const waiting = readers.map((reader) => reader.next());
  feed.set(1);
  assertEquals((await Promise.all(waiting)).map(({ value }) => value), [1, 1]);
});

Deno.test("StatusFeed tells a change to the same value", async () => {
  const feed = new StatusFeed("same");
  const reader = feed[Symbol.asyncIterator]();
  await reader.next();
  feed.set("same");
  assertEquals((await reader.next()).value, "same");
});

Deno.test("StatusFeed changes no more after its end", async () => {
  const feed = new StatusFeed("open");
  feed.end("over");
  feed.set("again");
  feed.end("twice");
  assertEquals([feed.current, feed.isEnded], ["over", true]);
  assertEquals(await Array.fromAsync(feed), ["over"]);
  assertEquals(await Array.fromAsync(feed), ["over"]);
});

Deno.test("StatusFeed wakes a reader that waits when it ends", async () => {
  const feed = new StatusFeed("open");
  const all = Array.fromAsync(feed);
  await Promise.resolve();
  feed.end("over");
  assertEquals((await all).at(-1), "over");
});
