import { assertEquals } from "@std/assert";
import { LatestValue } from "./loops.ts";

Deno.test("LatestValue.loop() yields changes after its start, and only the last state to a slow reader", async () => {
  const updates = new LatestValue(0);
  updates.set(1);
  const loop = updates.loop()[Symbol.asyncIterator]();
  const next = loop.next();
  updates.set(2);
  assertEquals(await next, { done: false, value: 2 });
  updates.set(3);
  updates.set(4);
  assertEquals(await loop.next(), { done: false, value: 4 });
  const last = loop.next();
  updates.end();
  assertEquals((await last).done, true);
  updates.set(5);
  assertEquals([updates.latest, (await loop.next()).done], [4, true]);
});

Deno.test("LatestValue.loop() can be left while it waits, and reports it once", async () => {
  const told: string[] = [];
  const updates = new LatestValue(0);
  const loop = updates.loop({
    onBegin: () => told.push("begin"),
    onEnd: () => told.push("end"),
  })[Symbol.asyncIterator]();
  const next = loop.next();
  await loop.return!();
  assertEquals([(await next).done, (await loop.next()).done], [true, true]);
  updates.end();
  assertEquals(told, ["begin", "end"]);
});
