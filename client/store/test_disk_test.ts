import { assertEquals, assertRejects } from "@std/assert";
import { StoreError } from "../../errors.ts";
import { testStore } from "./conformance/mod.ts";
import { TestDisk } from "./test_disk_fixture.ts";
import type { Store } from "./store.ts";

const bytes = (...values: number[]) => Uint8Array.from(values);

async function keysOf(store: Store): Promise<number[][]> {
  const { entries } = await store.read({ from: bytes() });
  return entries.map(({ key }) => [...key]);
}

const put = (store: Store, key: number) =>
  store.write({ puts: [{ key: bytes(key), value: bytes(key) }] });

Deno.test("TestDisk loses the last relaxed writes without power, and none that were strict", async () => {
  const disk = new TestDisk();
  const store = disk.open();
  for (const key of [1, 2, 3]) await put(store, key);
  disk.losePower(2);
  assertEquals(await keysOf(disk.open()), [[1]]);
  disk.durability = "strict";
  await put(disk.open(), 4);
  disk.losePower();
  assertEquals(await keysOf(disk.open()), [[1], [4]]);
});

Deno.test("TestDisk is slow, fails and is full as the test says", async () => {
  const disk = new TestDisk();
  const store = disk.open();
  let open = () => {};
  disk.onOperation = () => new Promise<void>((resolve) => open = resolve);
  const slow = put(store, 1);
  assertEquals(disk.entries.length, 0);
  await Promise.resolve();
  open();
  assertEquals(await slow, "relaxed");
  disk.onOperation = ({ kind, number }) => {
    if (kind === "write") throw new StoreError("failed", `Operation ${number} failed`);
  };
  await assertRejects(() => put(store, 2), StoreError, "Operation 2 failed");
  disk.onOperation = undefined;
  disk.maxBytes = 3;
  const full = await assertRejects(() => put(store, 3), StoreError);
  assertEquals([full.reason, await keysOf(store)], ["full", [[1]]]);
});

Deno.test("TestDisk's kill() leaves waiting calls without effect, and its stores hang", async () => {
  const disk = new TestDisk();
  const store = disk.open();
  let open = () => {};
  disk.onOperation = () => new Promise<void>((resolve) => open = resolve);
  let settled = 0;
  const count = () => settled++;
  put(store, 1).then(count, count);
  await Promise.resolve();
  disk.kill();
  open();
  store.read({ from: bytes() }).then(count, count);
  await new Promise((resolve) => setImmediate(resolve));
  assertEquals([settled, disk.entries, disk.openStores], [0, [], 0]);
});

const disks = new Map<string, TestDisk>();
testStore("TestDisk", (storage) => {
  const disk = disks.get(storage) ?? new TestDisk();
  disks.set(storage, disk);
  return disk.open();
}, { remove: (storage) => void disks.delete(storage) });
