/** Kept responses: the ledger, and making room, in memory and on SQLite. */
import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { RequestError } from "../../errors.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import {
  ANN,
  assertJustice,
  BOB,
  EVE,
  fill,
  guestAt,
  RetainingNode,
  userAt,
} from "./retained_fixture.ts";
import { RetainedLedger } from "./retained_ledger.ts";

const MINUTE = 60_000;

/** A runtime with a manual clock. */
function byHand() {
  let passed = 0;
  const runtime = Object.assign(platformRuntime(), {
    now: () => 1_000_000 + passed,
    monotonic: () => passed,
  });
  return { runtime, pass: (ms: number) => void (passed += ms) };
}

Deno.test("RetainedLedger.first() finds the oldest response of the network with the most responses", () => {
  const ledger = new RetainedLedger();
  ledger.add("ann", "u.ann a1.ann", 1);
  for (let i = 0; i < 4; i++) ledger.add(`eve-${i}`, `g.${i} a1.eve`, 2 + i);
  assertEquals(ledger.count, 5);
  const order: (string | undefined)[] = [];
  for (let i = 0; i < 3; i++) {
    order.push(ledger.first(20 * MINUTE));
    ledger.remove(order.at(-1)!);
  }
  assertEquals(order, ["eve-0", "eve-1", "eve-2"]);
  for (const id of ["ann", "eve-3"]) ledger.remove(id);
  assertEquals([ledger.count, ledger.first(0)], [0, undefined]);
});

Deno.test("RetainedLedger.first() weights networks by their size", () => {
  const ledger = new RetainedLedger();
  for (let i = 0; i < 20; i++) ledger.add(`wide-${i}`, `a1.w${i} a16.wide`, 1);
  for (let i = 0; i < 30; i++) ledger.add(`office-${i}`, `u.o${i} f1.office`, 1);
  for (let i = 0; i < 4; i++) ledger.add(`eve-${i}`, "a1.eve", 2);
  assertEquals(ledger.first(MINUTE), "eve-0");
});

Deno.test("RetainedLedger.first() chooses fresh unread responses last, and never running ones", () => {
  const ledger = new RetainedLedger();
  ledger.add("running", "a1.eve");
  assertEquals(ledger.first(0), undefined);
  ledger.add("unread", "a1.eve", 1);
  ledger.add("read", "a1.eve", 2);
  ledger.read("read");
  ledger.read("running");
  assertEquals(ledger.first(9 * MINUTE), "read");
  assertEquals(ledger.first(11 * MINUTE), "unread");
  ledger.remove("read");
  assertEquals(ledger.first(9 * MINUTE), "unread");
  ledger.remove("unread");
  ledger.end("running", 3);
  assertEquals(ledger.first(9 * MINUTE), "running");
});

Deno.test("RetainedLedger.first() chooses the older one of a read and an old unread response", () => {
  const ledger = new RetainedLedger();
  for (const [id, endedAt] of [["read", 1], ["unread", 2], ["read later", 3]] as const) {
    ledger.add(id, "a1.eve", endedAt);
  }
  for (const id of ["read", "read later"]) ledger.read(id);
  const order: (string | undefined)[] = [];
  for (let i = 0; i < 3; i++) {
    order.push(ledger.first(11 * MINUTE));
    ledger.remove(order.at(-1)!);
  }
  assertEquals(order, ["read", "unread", "read later"]);
});

Deno.test("StoredResponses.begin() makes room at the address with the most responses, in memory", async () => {
  await using broker = new MemoryBroker();
  await using near = new RetainingNode(broker);
  await using far = new RetainingNode(broker);
  await assertJustice(near, far, await fill(near));
});

Deno.test("StoredResponses.begin() makes room at the address with the most responses on SQLite, across a restart", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/responses.db`;
  const filled = await (async () => {
    await using broker = await SqliteBroker.open(path);
    await using node = new RetainingNode(broker);
    return await fill(node);
  })();
  await using broker = await SqliteBroker.open(path);
  await using node = new RetainingNode(broker);
  await assertJustice(node, node, filled);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("StoredResponses.begin() drops the oldest responses of an account beyond its share under contention", async () => {
  await using broker = new MemoryBroker();
  await using node = new RetainingNode(broker);
  const ids: string[] = [];
  for (let i = 0; i < 14; i++) ids.push(await node.make(guestAt(EVE, `eve-${i}`), `eve-${i}`));
  // Half of the limit, and one dropped for each new one.
  const kept = await Promise.all(ids.map((id) => node.keeps(id)));
  assertEquals(kept, ids.map((_, i) => i >= 4));
  const bob: string[] = [];
  for (let i = 0; i < 6; i++) bob.push(await node.make(userAt(BOB, "bob"), `bob-${i}`));
  const ofBob = await Promise.all(bob.map((id) => node.keeps(id)));
  assertEquals(ofBob, bob.map((_, i) => i >= 2));
  const { dropped, taken: count } = node.responses.retained.stats;
  assertEquals([dropped, count], [6, 14]);
});

Deno.test("StoredResponses.begin() drops at most an address's share of responses per hour for its new ones", async () => {
  const { runtime, pass } = byHand();
  await using broker = new MemoryBroker({ runtime });
  await using node = new RetainingNode(broker, { runtime });
  for (let i = 0; i < 18; i++) await node.make(guestAt(EVE, `eve-${i}`), `eve-${i}`);
  const error = await assertRejects(
    () => node.begin(guestAt(EVE, "eve"), "eve-18"),
    RequestError,
    "Cannot start a response: your address may replace at most 8 retained responses an hour; raise " +
      "maxRetainedPerAddress of resumable()",
  );
  const { code, level, retryAfterMs } = error.failure;
  assertEquals([code, level, retryAfterMs], ["too-many", "address", 3_600_000]);
  assertEquals(node.responses.retained.stats.rejected.address, 1);
  await node.make(userAt(ANN, "ann"), "ann");
  pass(3_600_000);
  await node.make(guestAt(EVE, "eve"), "eve-18");
});

Deno.test("StoredResponses.begin() does not count a rejection as one of the responses that an account may replace in an hour", async () => {
  await using broker = new MemoryBroker();
  await using node = new RetainingNode(broker, { maxRetained: 4, perUser: 2 });
  const ends = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  for (const [i, { promise }] of ends.entries()) {
    await node.begin(userAt(ANN, "ann"), `ann-${i}`, async function* () {
      yield 1;
      await promise;
    });
  }
  for (let i = 0; i < 10; i++) {
    const { failure: { level, retryAfterMs } } = await assertRejects(
      () => node.begin(userAt(ANN, "ann"), "ann-2"),
      RequestError,
      "your user may have at most 2 retained responses while the server is busy; raise " +
        "maxRetainedPerUser of resumable()",
    );
    // No one knows when one of the running ones ends.
    assertEquals([level, retryAfterMs], ["user", undefined]);
  }
  for (const { resolve } of ends) resolve();
  while (node.responses.running > 0) await node.node.info("none");
  await node.make(userAt(ANN, "ann"), "ann-2");
});

Deno.test("StoredResponses.begin() rejects with the level if all responses are running", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  await using node = new RetainingNode(broker, { maxRetained: 6, perUser: 3, perAddress: 3 });
  const forever = (signal: AbortSignal) =>
    (async function* () {
      yield 1;
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
    })();
  const begin = (address: string, name: string) => node.begin(userAt(address, name), name, forever);
  for (let i = 0; i < 3; i++) await begin(EVE, `eve-${i}`);
  await assertRejects(() => begin(EVE, "eve"), RequestError, "your address may have at most 3");
  for (let i = 0; i < 3; i++) await begin(ANN, `ann-${i}`);
  await assertRejects(() => begin(BOB, "bob"), RequestError, "this server may have at most 6");
  assertEquals(node.quotas.stats["responses.maxRetained"]!.rejected, {
    server: 1,
    address: 1,
    user: 0,
    session: 0,
  });
  const closing = node.responses.close();
  await time.tickAsync(2_000);
  await closing;
});

Deno.test("StoredResponses.begin() counts users behind one proxy separately", async () => {
  await using broker = new MemoryBroker();
  await using node = new RetainingNode(broker);
  const behind = (user: string) => ({ ...userAt(EVE, user), isBehindProxy: true });
  const ids: string[] = [];
  for (let i = 0; i < 19; i++) ids.push(await node.make(behind(`user-${i}`), `one-${i}`));
  ids.push(await node.make(behind("user-5"), "two"), await node.make(behind("ann"), "ann"));
  const kept = await Promise.all(ids.map((id) => node.keeps(id)));
  assertEquals(kept, ids.map((_, i) => i !== 5));
});
