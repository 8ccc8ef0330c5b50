import { assertEquals, assertRejects } from "@std/assert";
import { type Contract, RequestError, SessionClosedError } from "../../../mod.ts";
import { internals } from "../../../session/session.ts";
import { STREAM_PREFIX } from "../../../session/wire/recovery.ts";
import { soon, until } from "../../../tests/waiting.ts";
import { keptIn } from "../keeper.ts";
import { contract, Fixture, keptOn, mutations, type Page, rowsOf } from "./kept_fixture.ts";

/** Waits until the page has the server's rows. */
const live = ({ state }: Page) => until(() => state.status.current === "live");

/** Waits until the page has kept rows, and cuts its connection. */
async function offline(fixture: Fixture, { state }: Page): Promise<void> {
  await until(() => fixture.keptRows > 0);
  fixture.offline();
  await until(() => state.status.current === "lost");
}

/** Opens a page that makes a write offline and is killed. */
async function leaveWrite(fixture: Fixture): Promise<void> {
  const page = await fixture.page();
  await live(page);
  await offline(fixture, page);
  page.state.collection("items").set("a", 1).catch(() => {});
  await until(() => fixture.keptWrites === 1);
  fixture.kill(page);
}

Deno.test("client.state() sends writes that an earlier page has kept, and shows them before", async () => {
  await using fixture = await Fixture.make();
  const { list } = fixture;
  await list.collection("items").set("a", 1);
  {
    await using page = await fixture.page();
    await live(page);
    await offline(fixture, page);
    const items = page.state.collection("items");
    const writes = [items.set("a", 2), items.set("b", 1), items.delete("a"), items.insert("c", 1)];
    assertEquals(await page.client.flushed({ to: "store" }), "relaxed");
    assertEquals(fixture.keptWrites, 4);
    await page.client.close();
    const outcomes = await Promise.allSettled(writes);
    assertEquals(new Set(outcomes.map(({ status }) => status)), new Set(["rejected"]));
  }
  assertEquals(fixture.keptWrites, 4);
  await using page = await fixture.page();
  const { state, client } = page;
  assertEquals(state.status.current, "stale");
  assertEquals(state.pendingWrites.current, 4);
  assertEquals(rowsOf(state), [["b", 1], ["c", 1]]);
  fixture.online(client);
  await state.flush();
  assertEquals(rowsOf(list), [["b", 1], ["c", 1]]);
  await until(() => fixture.keptWrites === 0);
  assertEquals(page.errors, []);
});

Deno.test("client.state() makes a write once whose page was killed before the reply", async () => {
  for (const isMade of [true, false]) {
    await using fixture = await Fixture.make();
    const items = fixture.list.collection("items");
    await items.set("a", 1);
    let writes = 0;
    {
      const page = await fixture.page();
      await live(page);
      fixture.onWrite = () => {
        writes++;
        fixture.cable.freeze();
      };
      if (!isMade) fixture.cable.freeze();
      for (const key of ["a", "b"]) page.state.collection("items").set(key, 2).catch(() => {});
      page.state.collection("items").insert("c", 2).catch(() => {});
      await until(() => fixture.keptWrites === 3);
      if (isMade) await until(() => items.size === 3);
      fixture.kill(page);
      assertEquals(writes, isMade ? 3 : 0);
    }
    fixture.onWrite = undefined;
    const { version } = fixture.list;
    await using page = await fixture.page();
    await page.state.flush();
    await until(() => fixture.keptWrites === 0);
    assertEquals(rowsOf(fixture.list), [["a", 2], ["b", 2], ["c", 2]]);
    if (isMade) assertEquals(fixture.list.version, version, "Nothing is written again");
    assertEquals(page.store.dropped, []);
  }
});

Deno.test("client.state() does not bring back a row that its page deleted before it was killed", async () => {
  for (const isAdopted of [false, true]) {
    await using fixture = await Fixture.make();
    const { disk, list } = fixture;
    const items = list.collection("items");
    await items.set("b", 1);
    {
      await using first = await fixture.page();
      await live(first);
      await until(() => fixture.keptRows === 2);
    }
    const page = await fixture.page();
    await live(page);
    // The writes as they were sent, because the page is killed before it stores that they were made.
    const sent = new Map<string, [Uint8Array, Uint8Array]>();
    disk.onOperation = ({ batch }) => {
      for (const { key, value } of batch?.puts ?? []) {
        if (key[1] !== 5 || "made" in JSON.parse(new TextDecoder().decode(value))) continue;
        sent.set(key.join(), [key, value]);
      }
    };
    const before = disk.entries.filter(({ key }) => key[1] === 4);
    const made = page.state.collection("items").set("a", 1);
    await page.state.collection("items").delete("a");
    await made;
    fixture.kill(page);
    disk.onOperation = undefined;
    disk.restore([...before, ...sent.values().map(([key, value]) => ({ key, value }))]);
    const seen: unknown[] = [];
    items.subscribe((rows) => void seen.push([...rows.keys()]));
    await using later = await fixture.page();
    if (isAdopted) await live(later);
    await later.state.flush();
    await until(() => fixture.keptWrites === 0);
    assertEquals([rowsOf(list), rowsOf(later.state)], [[["b", 1]], [["b", 1]]]);
    assertEquals(seen, [["b"]]);
    assertEquals(later.store.dropped, []);
  }
});

Deno.test("client.state() does not keep a write again that was made before the user is confirmed", async () => {
  await using fixture = await Fixture.make();
  fixture.offline();
  const first = await fixture.page();
  first.state.collection("items").set("a", 1).catch(() => {});
  await until(() => fixture.keptWrites === 1);
  const { value } = fixture.disk.entries.find(({ key }) => key[1] === 5)!;
  const { txid } = JSON.parse(new TextDecoder().decode(value));
  fixture.kill(first);
  fixture.online();
  const store = keptOn(fixture.disk);
  const gate = Promise.withResolvers<void>();
  await using page = await fixture.page({
    store: {
      ...store,
      keep(parts) {
        const keeper = store.keep(parts);
        const { confirmed } = keeper;
        keeper.confirmed = (session) => gate.promise.then(() => confirmed.call(keeper, session));
        return keeper;
      },
    },
  });
  await live(page);
  // The first page's message arrives late.
  await using late = fixture.connect({ store: undefined });
  const headers = { txid, operation: "upsert" };
  await until(() => late.session);
  const { sending } = late.session![internals];
  const writes = [[{ type: "items", key: "a", value: 1, headers }]];
  await sending.publish(`${STREAM_PREFIX}list:1`, { writes }, { verb: "write state" });
  await page.state.flush();
  assertEquals(rowsOf(page.state), [["a", 1]]);
  await until(() => fixture.keptWrites === 0);
  gate.resolve();
  await page.state.collection("items").set("b", 1);
  await until(() => fixture.keptWrites === 0);
  await page.client.close();
  assertEquals(fixture.keptWrites, 0);
  assertEquals(rowsOf(fixture.list), [["a", 1], ["b", 1]]);
});

Deno.test("client.state() decides about kept writes whose rows others have changed", async () => {
  await using fixture = await Fixture.make();
  const { list } = fixture;
  const items = list.collection("items");
  for (const key of ["a", "b", "c", "d"]) await items.set(key, 1);
  {
    const page = await fixture.page();
    await live(page);
    await offline(fixture, page);
    const own = page.state.collection("items");
    const expect = own.versionOf("b");
    void own.set("a", 2).catch(() => {});
    void own.set("b", 2, { expect }).catch(() => {});
    void own.set("c", 2, { expect }).catch(() => {});
    void own.delete("d").catch(() => {});
    void own.insert("e", 2).catch(() => {});
    await until(() => fixture.keptWrites === 5);
    fixture.kill(page);
  }
  for (const key of ["a", "b", "d", "e"]) await items.set(key, 9);
  fixture.online();
  await using page = await fixture.page();
  await page.state.flush();
  assertEquals(rowsOf(list), [["a", 2], ["b", 9], ["c", 1], ["e", 9]]);
  const outcomes = page.store.dropped.map(({ kind, topic, reason, error, data }) => {
    const [{ key }] = data as [{ readonly key: string }];
    return [kind, topic, reason, error?.failure.code, key];
  });
  assertEquals(outcomes, [
    ["set", "list:1", "rejected", "conflict", "b"],
    ["set", "list:1", "rejected", "conflict", "c"],
    ["set", "list:1", "rejected", "conflict", "e"],
  ]);
  await until(() => fixture.keptWrites === 0);
});

Deno.test("client.state() sends kept writes to a state that was lost meanwhile, unless they have a condition", async () => {
  const fixtures = [await Fixture.make(), await Fixture.make()] as const;
  const [first, second] = fixtures;
  await using _first = first;
  await using _second = second;
  for (const key of ["a", "b"]) await first.list.collection("items").set(key, 1);
  {
    const page = await first.page();
    await live(page);
    await offline(first, page);
    const own = page.state.collection("items");
    void own.set("a", 2).catch(() => {});
    void own.set("b", 2, { expect: own.versionOf("b") }).catch(() => {});
    await until(() => first.keptWrites === 2);
    first.kill(page);
  }
  for (const key of ["b", "c"]) await second.list.collection("items").set(key, 9);
  await using page = await second.page({ store: keptOn(first.disk) });
  await live(page);
  await page.state.flush();
  assertEquals(rowsOf(second.list), [["a", 2], ["b", 9], ["c", 9]]);
  assertEquals(page.store.dropped.map(({ error }) => error?.failure.code), ["conflict"]);
});

const bank = {
  contract: contract as unknown as Contract,
  states: { mutations } as never,
};

Deno.test("client.state() makes a mutation once whose page was killed", async () => {
  for (const when of ["before it was sent", "before the server had it", "before the reply"]) {
    await using fixture = await Fixture.make(bank);
    const items = fixture.list.collection("items");
    await items.set("a", 10);
    const open = () =>
      fixture.page({
        contract: bank.contract as never,
        state: { mutations: mutations as never },
      });
    {
      const page = await open();
      await live(page);
      await until(() => fixture.keptRows > 0);
      if (when === "before it was sent") await offline(fixture, page);
      if (when === "before the server had it") fixture.cable.freeze();
      if (when === "before the reply") fixture.onWrite = () => fixture.cable.freeze();
      for (const by of [1, 2]) page.state.mutate.add!({ key: "a", by }).catch(() => {});
      await until(() => fixture.keptWrites === 2);
      await until(() => page.state.collection("items").get("a") === 13);
      if (when === "before the reply") await until(() => items.get("a") === 13);
      fixture.onWrite = undefined;
      fixture.kill(page);
    }
    fixture.online();
    await using page = await open();
    await until(() => page.state.collection("items").get("a") === 13);
    await page.state.flush();
    assertEquals([when, ...rowsOf(fixture.list)], [when, ["a", 13]]);
    assertEquals(page.store.dropped, []);
    await until(() => fixture.keptWrites === 0);
  }
});

Deno.test("client.state() only sends a mutation whose function the page doesn't have", async () => {
  await using fixture = await Fixture.make(bank);
  await fixture.list.collection("items").set("a", 10);
  {
    const page = await fixture.page({
      contract: bank.contract as never,
      state: { mutations: mutations as never },
    });
    await live(page);
    await offline(fixture, page);
    page.state.mutate.add!({ key: "a", by: 1 }).catch(() => {});
    await until(() => fixture.keptWrites === 1);
    fixture.kill(page);
  }
  await using page = await fixture.page({ contract: bank.contract as never });
  assertEquals(rowsOf(page.state), [["a", 10]]);
  fixture.online(page.client);
  await page.state.flush();
  assertEquals(rowsOf(fixture.list), [["a", 11]]);
});

Deno.test("client.state() tells which functions were lost with their page", async () => {
  await using fixture = await Fixture.make();
  await fixture.list.collection("items").set("a", 1);
  {
    const page = await fixture.page();
    await live(page);
    await offline(fixture, page);
    const { state } = page;
    state.transaction(async (tx) => {
      await tx.set("items", "b", await tx.get("items", "a"));
    }).catch(() => {});
    state.transaction((tx) => void tx.set("items", "c", 3)).catch(() => {});
    await until(() => fixture.keptWrites === 2);
    fixture.kill(page);
  }
  await using page = await fixture.page();
  assertEquals(page.store.dropped.map(({ kind, reason }) => [kind, reason]), [
    ["transaction", "function"],
  ]);
  assertEquals(rowsOf(page.state), [["a", 1], ["c", 3]]);
  fixture.online(page.client);
  await page.state.flush();
  assertEquals(rowsOf(fixture.list), [["a", 1], ["c", 3]]);
});

Deno.test("client.state() sends the values of update that an earlier page has kept, unless the rows have changed", async () => {
  await using fixture = await Fixture.make();
  const { list } = fixture;
  const items = list.collection("items");
  const keys = ["a", "b", "c", "d", "e"];
  for (const key of keys) await items.set(key, { n: 1 });
  {
    const page = await fixture.page();
    await live(page);
    await offline(fixture, page);
    const own = page.state.collection<{ n: number }>("items");
    own.set("e", { n: 5 }).catch(() => {});
    for (const key of [...keys, "a", "c"]) {
      own.update(key, ({ n }) => ({ n: n + 1 })).catch(() => {});
    }
    await until(() => fixture.keptWrites === 8);
    fixture.kill(page);
  }
  await items.set("b", { n: 9 });
  await items.set("c", { n: 9 });
  await items.delete("d");
  await using page = await fixture.page();
  assertEquals(page.store.dropped, []);
  const shown = keys.map((key) => page.state.collection<{ n: number }>("items").get(key)?.n);
  assertEquals(shown, [3, 2, 3, 2, 6]);
  fixture.online(page.client);
  await live(page);
  await page.state.flush();
  for (const state of [list, page.state]) {
    assertEquals(rowsOf(state), [
      ["a", { n: 3 }],
      ["b", { n: 9 }],
      ["c", { n: 9 }],
      ["e", { n: 6 }],
    ]);
  }
  const outcomes = page.store.dropped.map(({ kind, reason, error, data }) => {
    return [kind, reason, error?.failure.code, ...data as [{ key: string; value: unknown }]];
  });
  const of = (key: string, n: number) => {
    const change = { collection: "items", key, value: { n } };
    return ["update", "rejected", "conflict", change];
  };
  assertEquals(outcomes, [of("b", 2), of("c", 2), of("d", 2), of("c", 3)]);
  await until(() => fixture.keptWrites === 0);
});

Deno.test("client.state() makes an update once whose page was killed before the reply", async () => {
  for (const others of ["none", "another value", "the value before"]) {
    await using fixture = await Fixture.make();
    const items = fixture.list.collection("items");
    await items.set("a", 1);
    {
      const page = await fixture.page();
      await live(page);
      await until(() => fixture.keptRows > 0);
      fixture.onWrite = () => fixture.cable.freeze();
      const own = page.state.collection<number>("items");
      own.update("a", (value) => value + 1).catch(() => {});
      await until(() => items.get("a") === 2);
      fixture.onWrite = undefined;
      fixture.kill(page);
    }
    if (others !== "none") await items.set("a", others === "another value" ? 9 : 1);
    const rows = rowsOf(fixture.list);
    await using page = await fixture.page();
    await live(page);
    await page.state.flush();
    await until(() => fixture.keptWrites === 0);
    assertEquals(rowsOf(fixture.list), rows);
    const reasons = page.store.dropped.map(({ reason }) => reason);
    assertEquals([others, ...reasons], [others, ...others === "none" ? [] : ["unknown"]]);
  }
});

Deno.test("client.state() leaves the writes of a page that is open to it", async () => {
  await using fixture = await Fixture.make();
  const first = await fixture.page();
  await live(first);
  await offline(fixture, first);
  first.state.collection("items").set("a", 1).catch(() => {});
  await until(() => fixture.keptWrites === 1);
  await using second = await fixture.page();
  assertEquals(second.state.pendingWrites.current, 0);
  second.state.collection("items").set("b", 1).catch(() => {});
  await until(() => fixture.keptWrites === 2);
  await first.client.close();
  await until(() => second.state.pendingWrites.current === 2);
  assertEquals(rowsOf(second.state), [["a", 1], ["b", 1]]);
  fixture.online(second.client);
  await second.state.flush();
  assertEquals(rowsOf(fixture.list), [["a", 1], ["b", 1]]);
});

Deno.test("client.state() does not send what another user has kept", async () => {
  await using fixture = await Fixture.make();
  await leaveWrite(fixture);
  {
    await using page = await fixture.page({ store: keptOn(fixture.disk, "ann") });
    const writing = page.state.collection("items").set("b", 1);
    const rejected = assertRejects(() => writing, RequestError, "the client's user has changed");
    fixture.online(page.client);
    await live(page);
    await rejected;
    assertEquals(rowsOf(page.state), []);
    await page.state.collection("items").set("c", 1);
  }
  assertEquals(rowsOf(fixture.list), [["c", 1]]);
  assertEquals(fixture.keptWrites, 2);
});

Deno.test("client.state() leaves what was kept in the store if the server doesn't know stores", async () => {
  await using fixture = await Fixture.make();
  await leaveWrite(fixture);
  const store = keptIn(fixture.disk.open(), { user: null });
  await using client = fixture.connect({
    store: {
      ...store,
      keep(parts) {
        const keeper = store.keep(parts);
        keeper.confirmed = (session) => {
          session[internals].sending.features = ["history"];
          return Promise.resolve(false);
        };
        return keeper;
      },
    },
  });
  using state = await client.state("list:1", { store: true });
  assertEquals(rowsOf(state), [["a", 1]]);
  const writing = state.collection("items").set("b", 1);
  await until(() => fixture.keptWrites === 2);
  fixture.online(client);
  await writing;
  assertEquals(rowsOf(state), [["b", 1]]);
  assertEquals(rowsOf(fixture.list), [["b", 1]]);
  await until(() => fixture.keptWrites === 1);
});

Deno.test("client.state() drops kept writes that are damaged or too old, and tells so", async () => {
  await using fixture = await Fixture.make();
  const { disk } = fixture;
  {
    const page = await fixture.page();
    fixture.offline();
    for (const key of ["a", "b"]) page.state.collection("items").set(key, 1).catch(() => {});
    await until(() => fixture.keptWrites === 2);
    fixture.kill(page);
  }
  const kept = disk.entries;
  const [entry] = kept.filter(({ key }) => key[1] === 5);
  const write = JSON.parse(new TextDecoder().decode(entry!.value));
  const cases: [object | string, string][] = [
    ["{", "damaged"],
    [{}, "damaged"],
    [{ ...write, id: 7 }, "damaged"],
    [{ ...write, changes: [] }, "damaged"],
    [{ ...write, changes: [{ ...write.changes[0], type: "$skein:mutations" }] }, "damaged"],
    [{ ...write, changes: [{ ...write.changes[0], seen: "0" }] }, "damaged"],
    [{ ...write, kind: "mutation", mutation: { name: "x", client: "!" } }, "damaged"],
    [{ ...write, at: Date.now() - 8 * 86_400_000 }, "expired"],
    [{ ...write, at: Date.now() - 8 * 86_400_000, sent: true }, "unknown"],
  ];
  for (const [value, reason] of cases) {
    disk.restore(kept);
    const text = typeof value === "string" ? value : JSON.stringify(value);
    disk.put(entry!.key, new TextEncoder().encode(text));
    const page = await fixture.page();
    assertEquals(page.store.dropped.map(({ reason }) => reason), [reason]);
    assertEquals(rowsOf(page.state), [["b", 1]]);
    assertEquals(fixture.keptWrites, 1);
    fixture.kill(page);
  }
});

Deno.test("client.forget() deletes the rows and writes of all pages, which keep no more rows", async () => {
  await using fixture = await Fixture.make();
  await fixture.list.collection("items").set("a", 1);
  await using first = await fixture.page();
  await live(first);
  await until(() => fixture.keptRows > 0);
  await using second = await fixture.page();
  await live(second);
  fixture.offline();
  await until(() => second.state.status.current === "lost");
  const writes = [first, second].map(({ state }, i) => state.collection("items").set(`${i}`, i));
  const rejected = writes.map((writing) => assertRejects(() => writing, RequestError, "forget()"));
  await until(() => fixture.keptWrites === 2);
  await second.client.forget();
  await Promise.all(rejected);
  assertEquals([fixture.keptRows, fixture.keptWrites], [0, 0]);
  void first.state.collection("items").set("later", 1).catch(() => {});
  await until(() => fixture.keptWrites === 1);
  fixture.online(first.client);
  await first.state.flush();
  await Promise.all([first.client.close(), second.client.close()]);
  assertEquals([fixture.keptRows, fixture.keptWrites], [0, 0]);
  assertEquals(rowsOf(fixture.list), [["a", 1], ["later", 1]]);
});

Deno.test("client.state() keeps a write whose reply is awaited when the client is closed", async () => {
  await using fixture = await Fixture.make();
  const page = await fixture.page();
  await live(page);
  fixture.cable.freeze();
  page.state.collection("items").set("a", 1).catch(() => {});
  await until(() => fixture.keptWrites === 1);
  const closing = page.client.close();
  fixture.cable.cut();
  await closing;
  assertEquals(fixture.keptWrites, 1);
  await using next = await fixture.page();
  await next.state.flush();
  assertEquals(rowsOf(fixture.list), [["a", 1]]);
});

Deno.test("client.state() keeps a write that was made in the moment of the close", async () => {
  await using fixture = await Fixture.make();
  fixture.offline();
  const page = await fixture.page();
  page.state.collection("items").set("a", 1).catch(() => {});
  await page.client.close();
  assertEquals(fixture.keptWrites, 1);
  await using next = await fixture.page();
  fixture.online(next.client);
  await next.state.flush();
  assertEquals(rowsOf(fixture.list), [["a", 1]]);
});

Deno.test("client.state() rejects waiting writes if the client is closed before it reads", async () => {
  await using fixture = await Fixture.make();
  const first = await fixture.page();
  await first.state.collection("items").set("a", 1);
  await first.client.close();
  fixture.offline();
  const page = await fixture.page();
  await page.state.ready;
  const write = page.state.collection("items").set("b", 1);
  assertEquals(page.state.status.current, "stale");
  await page.client.close();
  await assertRejects(() => soon(write), SessionClosedError, 'The client of the state "list:1"');
  assertEquals([page.state.status.current, fixture.keptWrites], ["ended", 1]);
});

/** Opens a page whose rows are kept, makes writes that settle, and kills it at once. */
async function settle(fixture: Fixture, write: (page: Page) => Promise<unknown>): Promise<void> {
  const page = await fixture.page();
  await live(page);
  await until(() => fixture.keptRows > 0);
  await write(page);
  fixture.kill(page);
  fixture.offline();
}

Deno.test("client.state() shows writes that were made just before the page was killed", async () => {
  await using fixture = await Fixture.make();
  const { list } = fixture;
  const items = list.collection("items");
  for (const key of ["a", "b", "c", "d"]) await items.set(key, 1);
  await settle(fixture, async ({ state }) => {
    const own = state.collection<number>("items");
    await Promise.all([
      own.set("a", 2),
      own.update("b", (value) => value + 1),
      own.delete("c"),
      state.transaction(async (tx) => {
        await tx.set("items", "d", Number(await tx.get("items", "d")) + 1);
      }),
    ]);
    await own.set("a", 3);
  });
  const rows: [string, number][] = [["a", 3], ["b", 2], ["d", 2]];
  assertEquals(rowsOf(list), rows);
  await using page = await fixture.page();
  assertEquals(rowsOf(page.state), rows);
  assertEquals(page.state.pendingWrites.current, 0);
  // They are not made again.
  for (const key of ["a", "c"]) await items.set(key, 9);
  fixture.online(page.client);
  await live(page);
  await page.state.flush();
  await until(() => fixture.keptWrites === 0);
  for (const state of [list, page.state]) {
    assertEquals(rowsOf(state), [["a", 9], ["b", 2], ["c", 9], ["d", 2]]);
  }
  assertEquals(page.store.dropped, []);
});

Deno.test("client.state() shows a mutation that was made just before the page was killed", async () => {
  await using fixture = await Fixture.make(bank);
  await fixture.list.collection("items").set("a", 10);
  const open = () =>
    fixture.page({ contract: bank.contract as never, state: { mutations: mutations as never } });
  {
    const page = await open();
    await live(page);
    await until(() => fixture.keptRows > 0);
    await page.state.mutate.add!({ key: "a", by: 1 });
    fixture.kill(page);
  }
  fixture.offline();
  await using page = await open();
  await until(() => page.state.collection("items").get("a") === 11);
  fixture.online(page.client);
  await page.state.flush();
  await until(() => fixture.keptWrites === 0);
  assertEquals(rowsOf(fixture.list), [["a", 11]]);
  assertEquals(page.store.dropped, []);
});

Deno.test("client.state() does not send a write again that was made before the first rows were kept", async () => {
  await using fixture = await Fixture.make();
  const { list } = fixture;
  const page = await fixture.page();
  await live(page);
  await page.state.collection("items").set("a", 1);
  assertEquals(fixture.keptRows, 0);
  await until(() =>
    fixture.disk.entries.some(({ value }) => new TextDecoder().decode(value).includes('"made":'))
  );
  fixture.kill(page);
  // Someone else changes the row, which the earlier write must not undo.
  await list.collection("items").set("a", 2);
  const { version } = list;
  fixture.offline();
  await using later = await fixture.page();
  fixture.online(later.client);
  await later.state.flush();
  await until(() => later.state.status.current === "live");
  assertEquals([rowsOf(later.state), rowsOf(list)], [[["a", 2]], [["a", 2]]]);
  assertEquals(list.version, version);
  await until(() => fixture.keptWrites === 0);
});

Deno.test("client.state() deletes a kept write in the batch that keeps its rows", async () => {
  await using fixture = await Fixture.make();
  const deleted: boolean[] = [];
  await settle(fixture, async ({ state }) => {
    fixture.disk.onOperation = ({ batch }) => {
      const isDeletion = batch?.deletes?.some(({ from }) => from[1] === 5);
      if (isDeletion) deleted.push(batch!.puts!.some(({ key }) => key[1] === 4));
    };
    for (let n = 0; n < 3; n++) await state.collection("items").set("a", n);
    assertEquals(deleted, []);
    await until(() => fixture.keptWrites === 0);
  });
  assertEquals(deleted, [true]);
});

Deno.test("client.state() deletes kept writes of a page whose rows another page keeps", async () => {
  await using fixture = await Fixture.make();
  await using first = await fixture.page();
  await live(first);
  await until(() => fixture.keptRows > 0);
  await using second = await fixture.page();
  await live(second);
  await second.state.collection("items").set("a", 1);
  assertEquals(fixture.keptWrites, 1);
  await until(() => fixture.keptWrites === 0);
  assertEquals(fixture.keptRows, 2);
});
