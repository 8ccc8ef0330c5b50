import { assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { internals, type Session } from "../../session/session.ts";
import { Network, settled } from "../../tests/clients.ts";
import { drawing, HELLO, type Peer } from "../../tests/sessions.ts";
import { turns } from "../../tests/waiting.ts";
import { type ClientStore, type Keeper, keptIn } from "./keeper.ts";
import { TestDisk } from "./test_disk_fixture.ts";

/** The `hello` of a server that knows producers and has a tag for the client's user. */
const hello = (user: string) => ({
  hello: { ...HELLO.hello, features: ["producers"], user },
});

/** A store of a user, whose keeper a test can ask. */
function watched(disk: TestDisk, user: string | null): ClientStore & { keeper?: Keeper } {
  const kept = keptIn(disk.open(), { user });
  const store: ClientStore & { keeper?: Keeper } = {
    ...kept,
    keep: (parts) => store.keeper = kept.keep(parts),
  };
  return store;
}

Deno.test("keptIn() needs a user, who may be null", () => {
  for (const user of [undefined, "", 7]) {
    const rule = "Cannot keep data: user must be the user's id, or null for guests, received";
    assertThrows(() => keptIn(new TestDisk().open(), { user: user as string }), TypeError, rule);
  }
});

Deno.test("connect() closes its store, and rejects one without a user", async () => {
  const disk = new TestDisk();
  const network = new Network();
  {
    await using client = network.client({ store: keptIn(disk.open(), { user: "ann" }) });
    assertEquals([await settled(client), disk.openStores], ["connected", 1]);
  }
  assertEquals(disk.openStores, 0);
  const store = disk.open() as unknown as ClientStore;
  assertThrows(() => network.client({ store }), TypeError, "store must be a ClientStore");
});

Deno.test("A client whose store was closed by another one says so, with the remedy", async () => {
  const network = new Network();
  const store = keptIn(new TestDisk().open(), { user: null });
  await network.client({ store }).close();
  const errors: string[] = [];
  await using client = network.client({
    store,
    onError: (error) => errors.push((error as Error).message),
  });
  await settled(client);
  assertEquals(
    errors[0],
    "The store (test disk) can't keep data now (closed), so it is only in memory: " +
      "Cannot read: the store is closed; create a store for each client",
  );
});

Deno.test("Keeper.confirmed() asks the server for the user once, and knows their tag later", async () => {
  const disk = new TestDisk();
  const network = new Network();
  const asked: unknown[] = [];
  for (const tag of ["tag-a", "tag-a", "tag-b"]) {
    let peer: Peer;
    network.outcomes.push(network.byHand((it) => (peer = it).say(hello(tag))));
    const store = watched(disk, "ann");
    await using client = network.client({ store });
    await settled(client);
    const confirmed = store.keeper!.confirmed(client.session as Session);
    await turns(20);
    const request = peer!.envelopes.find(({ producer }) => producer);
    asked.push(request?.user);
    if (request) {
      const isAnn = tag === "tag-a";
      const error = { code: "other-user", message: "The session belongs to another user" };
      peer!.say({ reply: request.id, ...isAnn ? { data: { handled: 0 } } : { error } });
    }
    assertEquals(await confirmed, tag === "tag-a");
  }
  assertEquals(asked, ["ann", undefined, "ann"]);
});

Deno.test("Keeper.confirmed() is false on a server that doesn't know producers, which is told once", async () => {
  using _time = new FakeTime();
  const network = new Network();
  const errors: string[] = [];
  const store = watched(new TestDisk(), null);
  await using client = network.client({
    store,
    runtime: drawing(0.5),
    onError: (error) => errors.push((error as Error).message),
  });
  for (let sessions = 0; sessions < 2; sessions++) {
    await settled(client);
    assertEquals(await store.keeper!.confirmed(client.session as Session), false);
    client.session![internals].abort(1001, "");
    await network.retry(_time);
  }
  assertEquals(errors, ["The store is not used in this session: the server doesn't support it"]);
});
