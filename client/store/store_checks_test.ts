import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { fileStore, indexedDbStore } from "./mod.ts";
import { TestDisk } from "./test_disk_fixture.ts";

const bytes = (...values: number[]) => Uint8Array.from(values);

Deno.test("Stores of the package reject arguments of a wrong type", async () => {
  const stores = [
    new TestDisk().open(),
    fileStore({ user: null, path: "never-opened.db" }).store,
    indexedDbStore({ user: null }).store,
  ];
  const text = "a" as never;
  for (const store of stores) {
    await assertRejects(
      () => store.read({ from: text }),
      TypeError,
      "Cannot read: from must be a Uint8Array, received a string",
    );
    await assertRejects(() => store.read({ from: bytes(), to: text }), TypeError, "to must be");
    await assertRejects(() => store.delete({ from: null as never }), TypeError, "received null");
    for (const entry of [{ key: text, value: bytes() }, { key: bytes(1), value: text }]) {
      await assertRejects(() => store.write({ puts: [entry] }), TypeError, "must be a Uint8Array");
    }
    for (const options of [{ maxEntries: 0 }, { maxBytes: 1.5 }]) {
      await assertRejects(() => store.read({ from: bytes() }, options), RangeError, "a positive");
    }
    await store.close();
  }
});

Deno.test("A store needs a user, and null means the guests of this device", () => {
  for (const user of [undefined, ""] as never[]) {
    const text = "user must be the user's id, or null for guests";
    assertThrows(() => indexedDbStore({ user }), TypeError, text);
    assertThrows(() => fileStore({ user, path: "a.db" }), TypeError, text);
  }
  assertEquals([indexedDbStore({ user: null }).user, indexedDbStore({ user: "null" }).user], [
    null,
    "null",
  ]);
});

Deno.test("fileStore() needs a path", () => {
  for (const path of [undefined, "", 5] as never[]) {
    assertThrows(
      () => fileStore({ user: null, path }),
      TypeError,
      "Cannot create store: path must",
    );
  }
});
