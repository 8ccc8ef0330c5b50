import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { RequestError, TimeoutError } from "../../errors.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { runTransaction } from "../../session/mutations/transaction.ts";
import type { ProgramFunction } from "./programs.ts";
import { ClientRows } from "./rows.ts";
import { turns, until } from "../../tests/waiting.ts";
import type { VersionedRowMessage } from "../../session/wire/rows.ts";
import type { WriteTarget } from "./write.ts";
import { Writes } from "./writes.ts";

function put(key: string, value: unknown, version: number): VersionedRowMessage {
  return { type: "items", key, value, version, headers: { operation: "update" } };
}

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
    keeping: () => undefined,
    isStored: () => true,
    whenOwned: () => Promise.resolve(),
    publish,
  });
  return { rows, writes, writer };
}

/** A mutation that gives a row a value. */
function putting(key: string, value: unknown, name = "put"): ProgramFunction {
  return {
    mutation: { name, input: value },
    isReader: true,
    run: (rows) =>
      runTransaction(rows, async (tx) => {
        await tx.get("items", key);
        await tx.set("items", key, value);
      }),
  };
}

interface Sent {
  readonly mutations: readonly (readonly [name: string, input: unknown])[];
  readonly n: number;
  readonly since: number;
  readonly again?: true;
  readonly txids: readonly string[];
}

/** Writes of mutations, which a server handles as a test says. Tells what was sent. */
function mutationsOver(reply: (sent: Sent, nth: number) => unknown) {
  const sent: string[] = [];
  const over = writesOver(async (data) => {
    const message = data as Sent;
    const { mutations, n, since, again } = message;
    const inputs = mutations.map(([, input]) => input);
    sent.push(`${n}: ${inputs}${again ? " again" : ""}, since ${since}`);
    return await reply(message, sent.length);
  }, { random: () => 0 });
  const { writes, writer } = over;
  const add = (value: unknown, signal?: AbortSignal) =>
    writes.addProgram({ writer, signal, function: putting(`${value}`, value) });
  return { ...over, sent, add };
}

function made(count: number, version = 1) {
  return { results: Array.from({ length: count }, () => ({ version })) };
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

Deno.test("Writes waits for at most an hour after a rejection, whatever the server asks for", async () => {
  using time = new FakeTime();
  let sent = 0;
  const { writes, writer } = writesOver(() => {
    if (++sent > 1) return Promise.resolve({ results: [{ version: 1 }] });
    return Promise.reject(new RequestError("too-many", "Later", { retryAfterMs: 3e9 }));
  }, {});
  const writing = writes.add({ writer, changes: [{ type: "items", key: "a", value: 5, seen: 0 }] });
  await time.tickAsync(3_599_000);
  assertEquals(sent, 1);
  await time.tickAsync(1_000);
  assertEquals([await writing, sent], [1, 2]);
});

Deno.test("Writes repeats mutations with their numbers after a lost reply, before new ones", async () => {
  const timeout = Promise.withResolvers<never>();
  const { rows, sent, add } = mutationsOver(({ mutations }, nth) => {
    if (nth === 2) return timeout.promise;
    if (nth === 3) {
      return { results: [{ version: 3 }, { error: { code: "taken", message: "No" } }] };
    }
    return made(mutations.length, nth + 1);
  });
  const first = add("a");
  await until(() => sent.length === 1);
  const lost = ["b", "c", "d"].map((value) => add(value));
  const rejected = assertRejects(() => lost[1]!, RequestError, "No");
  await until(() => sent.length === 2);
  const later = add("e");
  timeout.reject(new TimeoutError("Late", 1));
  await rejected;
  await until(() => sent.length === 5);
  assertEquals(sent, [
    "1: a, since 0",
    "2: b,c,d, since 2",
    "2: b,c,d again, since 2",
    "4: d again, since 2",
    "5: e, since 5",
  ]);
  rows.deliver([], 6, true);
  assertEquals(await Promise.all([first, lost[0], lost[2], later]), [2, 3, 5, 6]);
});

Deno.test("Writes gives mutations that were not begun new numbers", async () => {
  const error = { code: "unavailable", message: "Later", retryAfterMs: 1 };
  const { writes, writer, rows, sent, add } = mutationsOver(({ mutations }, nth) => {
    if (nth === 1) throw new RequestError("too-many", "Slowly", { retryAfterMs: 1 });
    if (nth === 2) return { results: [{ version: 1 }, { error }] };
    return made(mutations.length, nth);
  });
  const all = ["a", "b", "c"].map((value) => add(value));
  const same = writes.addProgram({ writer, function: putting("b", "b2") });
  await until(() => sent.length === 4);
  assertEquals(sent, [
    "1: a,b,c,b2, since 0",
    "5: a,b,c,b2, since 0",
    "9: c, since 1",
    "10: b,b2, since 3",
  ]);
  rows.deliver([], 5, true);
  assertEquals(await Promise.all([...all, same]), [1, 4, 3, 4]);
});

Deno.test("Writes shows a mutation until the rows of the server have come", async () => {
  const { rows, writes, writer, add } = mutationsOver((_, nth) => made(1, nth + 6));
  const shown = () => Object.fromEntries(rows.collection("items").view);
  const changes: unknown[] = [];
  const adding = add("a");
  await until(() => rows.collection("items").has("a"));
  rows.listeners.add(() => changes.push(shown()));
  rows.deliver([put("b", 1, 6)], 6, true);
  assertEquals([shown(), writer.pendingWrites.current], [{ a: "a", b: 1 }, 1]);
  rows.deliver([put("a", "A", 7), put("c", 1, 7)], 7, true);
  assertEquals([await adding, writer.pendingWrites.current], [7, 0]);
  assertEquals(changes, [{ a: "a", b: 1 }, { a: "A", b: 1, c: 1 }]);
  // A handle that is closed meanwhile doesn't make it fail.
  const last = add("d");
  await turns();
  assertEquals(rows.valueAt("items", "d"), "d");
  writes.end(new Error("Closed"));
  assertEquals([await last, rows.valueAt("items", "d")], [8, undefined]);
});

Deno.test("Writes recognizes its mutation in the stream before the reply", async () => {
  const reply = Promise.withResolvers<unknown>();
  let txid = "";
  const { rows, writes, writer } = mutationsOver((sent) => {
    txid = sent.txids[0]!;
    return reply.promise;
  });
  const runs: unknown[] = [];
  const adding = writes.addProgram({
    writer,
    function: {
      mutation: { name: "add", input: 1 },
      isReader: true,
      run: (rows) =>
        runTransaction(rows, async (tx) => {
          const before = await tx.get("items", "a");
          runs.push(before);
          await tx.set("items", "a", Number(before ?? 0) + 1);
        }),
    },
  });
  await until(() => txid !== "");
  const delivered = [{ ...put("a", 1, 3), headers: { operation: "insert", txid } } as const];
  writes.arrived(delivered);
  rows.deliver(delivered, 3, true);
  assertEquals([await adding, runs, rows.valueAt("items", "a")], [3, [undefined], 1]);
  reply.resolve(made(1, 3));
  await turns();
  assertEquals([runs.length, rows.valueAt("items", "a")], [1, 1]);
});

Deno.test("Writes runs a function again in one step with the rows that it has read", async () => {
  const { rows, writes, writer } = mutationsOver(() => new Promise(() => {}));
  const move = (isSync: boolean): ProgramFunction => ({
    mutation: { name: "move", input: 1 },
    isReader: true,
    run: (rows) =>
      runTransaction(rows, async (tx) => {
        const a = Number(await tx.get("items", "a") ?? 0);
        if (!isSync) await turns();
        const b = Number(await tx.get("items", "b") ?? 0);
        await tx.set("items", "a", a - 1);
        await tx.set("items", "b", b + 1);
      }),
  });
  rows.deliver([put("a", 10, 1)], 1, true);
  const sums = new Set<number>();
  rows.listeners.add(() => {
    const values = [...rows.collection("items").view.values()].map(Number);
    sums.add(values.reduce((sum, one) => sum + one, 0));
  });
  for (const isSync of [true, false, true]) {
    writes.addProgram({ writer, function: move(isSync) }).catch(() => {});
  }
  await until(() => rows.valueAt("items", "b") === 3);
  rows.deliver([put("a", 5, 2), put("c", 5, 2)], 2, true);
  await until(() => rows.valueAt("items", "c") === 5);
  assertEquals([rows.valueAt("items", "a"), [...sums]], [2, [10]]);
  writes.end(new Error("Closed"));
});

Deno.test("Writes shows the first changes of a function with the rows that changed under it", async () => {
  const { rows, writes, writer } = mutationsOver(() => new Promise(() => {}));
  rows.deliver([put("a", 10, 1)], 1, true);
  const sums = new Set<number>();
  rows.listeners.add(() => {
    const values = [...rows.collection("items").view.values()].map(Number);
    sums.add(values.reduce((sum, one) => sum + one, 0));
  });
  const gate = Promise.withResolvers<void>();
  const moving = writes.addProgram({
    writer,
    function: {
      mutation: { name: "move", input: 1 },
      isReader: true,
      run: (rows) =>
        runTransaction(rows, async (tx) => {
          const a = Number(await tx.get("items", "a"));
          await gate.promise;
          await tx.set("items", "a", a - 1);
          await tx.set("items", "b", 1);
        }),
    },
  });
  moving.catch(() => {});
  await turns();
  rows.deliver([put("a", 5, 2), put("c", 5, 2)], 2, true);
  gate.resolve();
  await until(() => rows.valueAt("items", "b") === 1);
  assertEquals([rows.valueAt("items", "a"), [...sums]], [4, [10]]);
  writes.end(new Error("Closed"));
});
