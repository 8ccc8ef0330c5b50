import { assertEquals } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { ClientRows } from "./rows.ts";
import { Writes } from "./writes.ts";

Deno.test("Writes puts fewer writes into a message if the server is slow, and more if it is fast again", async () => {
  const rows = new ClientRows();
  rows.complete();
  let nowMs = 0;
  let msPerWrite = 100;
  let version = 0;
  const sizes: number[] = [];
  const writer = { onConflict: undefined, pendingWrites: new StatusFeed(0) };
  const writes = new Writes({
    runtime: Object.assign(platformRuntime(), { monotonic: () => nowMs }),
    rows,
    fits: () => true,
    signal: new AbortController().signal,
    divert: () => undefined,
    whenCurrent: () => Promise.resolve(),
    publish(data) {
      const { writes } = data as { readonly writes: readonly unknown[] };
      sizes.push(writes.length);
      nowMs += writes.length * msPerWrite;
      return Promise.resolve({ results: writes.map(() => ({ version: ++version })) });
    },
  });
  const add = (count: number) =>
    Promise.all(Array.from({ length: count }, (_, i) => {
      const change = { type: "items", key: `${i}`, value: i, seen: 0 };
      return writes.add({ writer, changes: [change] });
    }));
  await add(104);
  assertEquals(sizes.splice(0), [64, 20, 20]);
  msPerWrite = 5_000;
  await add(22);
  assertEquals(sizes.splice(0), [20, 1, 1]);
  msPerWrite = 1;
  await add(66);
  assertEquals(sizes.splice(0), [1, 64, 1]);
});
