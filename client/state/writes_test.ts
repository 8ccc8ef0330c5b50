import { assertEquals, assertRejects } from "@std/assert";
import { RequestError } from "../../errors.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { ClientRows } from "./rows.ts";
import { Writes, type WriteTarget } from "./writes.ts";

/** Creates the writes of one handle, which are sent by a function. */
function writesOver(publish: WriteTarget["publish"], runtime: Partial<Runtime>) {
  const rows = new ClientRows();
  rows.complete();
  const writer = { onConflict: undefined, pendingWrites: new StatusFeed(0) };
  const writes = new Writes({
    runtime: Object.assign(platformRuntime(), runtime),
    timeoutMs: 1_000,
    rows,
    fits: () => true,
    signal: new AbortController().signal,
    divert: () => undefined,
    isReading: () => true,
    whenCurrent: () => Promise.resolve(),
    publish,
  });
  return { writes, writer };
}

Deno.test("Writes puts fewer writes into a message if the server is slow, and more if it is fast again", async () => {
  let nowMs = 0;
  let msPerWrite = 100;
  let version = 0;
  const sizes: number[] = [];
  const { writes, writer } = writesOver((data) => {
    const { writes } = data as { readonly writes: readonly unknown[] };
    sizes.push(writes.length);
    nowMs += writes.length * msPerWrite;
    return Promise.resolve({ results: writes.map(() => ({ version: ++version })) });
  }, { monotonic: () => nowMs });
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

Deno.test("Writes sends a write again after a conflict, without a condition if it has none", async () => {
  let conflicts = 9;
  let version = 0;
  const sent: unknown[] = [];
  const { writes, writer } = writesOver((data) => {
    const [[{ key, value, headers: { expect, operation } }]] = Object(data).writes;
    sent.push([operation, value, expect]);
    version++;
    if (conflicts-- <= 0) return Promise.resolve({ results: [{ version }] });
    const headers = { operation: "update" };
    const conflict = { type: "items", key, value: version * 10, version, headers };
    return Promise.resolve({ results: [{ conflict }] });
  }, { random: () => 0 });
  const change = { type: "items", key: "a", value: 5, seen: 0 };
  assertEquals(await writes.add({ writer, changes: [change] }), 10);
  // A server that conflicts without a condition is another one than Skein's.
  const none = undefined;
  assertEquals(sent.splice(0).map((one) => (one as unknown[])[2]), [
    0,
    1,
    2,
    3,
    4,
    none,
    none,
    none,
    none,
    none,
  ]);
  conflicts = 9;
  const update = (value: unknown) => Number(value) + 1;
  await writes.add({ writer, changes: [{ ...change, value: 6 }], update });
  const last = sent.at(-1);
  assertEquals([sent.length, last], [10, ["update", 191, 19]]);
});

Deno.test("Writes traces a write of unknown outcome that the server cannot make for now", async () => {
  const expected: unknown[] = [];
  const { writes, writer } = writesOver((data) => {
    const [[{ key, headers }]] = Object(data).writes;
    expected.push(headers.expect);
    if (expected.length === 1) return Promise.reject(new RequestError("unavailable", "Lost"));
    const error = { code: "unavailable", message: "Later", retryAfterMs: 1 };
    if (expected.length === 2) return Promise.resolve({ results: [{ error }] });
    const conflict = { type: "items", key, value: 1, version: 7, headers: { txid: "other" } };
    return Promise.resolve({ results: [{ conflict }] });
  }, { random: () => 0 });
  const writing = writes.add({ writer, changes: [{ type: "items", key: "a", value: 5, seen: 0 }] });
  const { failure } = await assertRejects(() => writing, RequestError);
  assertEquals([failure.code, expected], ["unknown", [0, 0, 0]]);
});
