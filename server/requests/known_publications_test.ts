import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Quota, Slot } from "../../base/quotas/shares.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { Nodes } from "../../pubsub/nodes/nodes.ts";
import type { Session } from "../../session/session.ts";
import { passTime } from "../../testing/mod.ts";
import {
  type KnownPublication,
  KnownPublications,
  MAX_ASKED,
  MAX_ASKING,
  MAX_FORMER_CLIENTS,
  MAX_REMEMBERED,
  PUBLISHED,
  type PublishOutcome,
  REMEMBERED_MS,
} from "./known_publications.ts";

const runtime = platformRuntime();

function outcomeOf(known: KnownPublication | typeof PUBLISHED): Promise<PublishOutcome> {
  return known === PUBLISHED ? Promise.resolve({ isPublished: true }) : known.outcome;
}

/** Decides about a publication; returns whether it was decided before. */
async function isKnown(
  known: KnownPublications,
  number: number,
  { producer = "ann", decide = () => Promise.resolve({ data: number }) }: {
    readonly producer?: string;
    readonly decide?: () => Promise<PublishOutcome>;
  } = {},
): Promise<boolean> {
  let isAsked = false;
  const found = known.get({ producer, id: `${number}` }, () => {
    isAsked = true;
    return decide();
  });
  await outcomeOf(found).catch(() => {});
  return !isAsked;
}

Deno.test("KnownPublications remembers the newest publications of each client", async () => {
  using known = new KnownPublications(runtime, { maxSessions: 1 });
  for (let n = 0; n < MAX_REMEMBERED; n++) await isKnown(known, n);
  await isKnown(known, 0, { producer: "bob" });
  assertEquals([await isKnown(known, 0), await isKnown(known, 1)], [true, true]);
  await isKnown(known, MAX_REMEMBERED);
  assertEquals(await isKnown(known, 1), true);
  assertEquals(await isKnown(known, 0), false);
  assertEquals(await isKnown(known, 0, { producer: "bob" }), true);
});

Deno.test("KnownPublications never forgets a publication that is being decided", async () => {
  using known = new KnownPublications(runtime, { maxSessions: 1 });
  const { promise, resolve } = Promise.withResolvers<PublishOutcome>();
  const decided = isKnown(known, 0, { decide: () => promise });
  for (let n = 1; n < 3 * MAX_REMEMBERED; n++) await isKnown(known, n);
  const repeated = isKnown(known, 0);
  resolve({ data: 1 });
  assertEquals([await decided, await repeated], [false, true]);
});

Deno.test("KnownPublications forgets a client two minutes after its last publication", async () => {
  using time = new FakeTime();
  using known = new KnownPublications(runtime, { maxSessions: 1 });
  await isKnown(known, 0);
  await time.tickAsync(REMEMBERED_MS - 1);
  assertEquals(await isKnown(known, 0), true);
  await time.tickAsync(REMEMBERED_MS - 1);
  assertEquals(known.size, 1);
  await time.tickAsync(1);
  assertEquals([known.size, await isKnown(known, 0)], [0, false]);
});

Deno.test("KnownPublications forgets the client that was silent for the longest time when there are too many", async () => {
  using known = new KnownPublications(runtime, { maxSessions: 0 });
  const clients = Array.from({ length: MAX_FORMER_CLIENTS }, (_, i) => `client ${i}`);
  for (const producer of clients) await isKnown(known, 0, { producer });
  assertEquals(await isKnown(known, 0, { producer: clients[0]! }), true);
  assertEquals(await isKnown(known, 0, { producer: "one more" }), false);
  assertEquals(known.size, MAX_FORMER_CLIENTS);
  assertEquals(await isKnown(known, 0, { producer: clients[0]! }), true);
  assertEquals(await isKnown(known, 0, { producer: clients[1]! }), false);
});

Deno.test("KnownPublications remembers rejections, but no failures", async () => {
  using known = new KnownPublications(runtime, { maxSessions: 1 });
  const reject = () => Promise.resolve({ failure: { code: "spam", message: "No" } });
  const fail = () => Promise.reject(new TypeError("no database"));
  for (const [number, decide] of [reject, fail].entries()) await isKnown(known, number, { decide });
  assertEquals([await isKnown(known, 0), await isKnown(known, 1)], [true, false]);
});

Deno.test("KnownPublication keeps data that did not go out, if there is room, until it goes out or is forgotten", async () => {
  using time = new FakeTime();
  const quota = new Quota({ limit: "bytes", verb: "keep", what: "bytes", max: 1, shares: {} });
  const take = () => {
    const slot = quota.tryTake();
    return slot instanceof Slot ? slot : undefined;
  };
  {
    using known = new KnownPublications(runtime, { maxSessions: 1 });
    const get = (number: number) =>
      known.get({ producer: "ann", id: `${number}` }, () => Promise.resolve({ data: 1 }));
    const pending = (number: number) => get(number) as KnownPublication;
    const first = pending(1);
    for (let attempt = 0; attempt < 3; attempt++) first.keep(take);
    const second = pending(2);
    second.keep(take); // There is no room, so it is forgotten.
    assertEquals([get(1) === first, get(2) === second, quota.taken], [true, false, 1]);
    first.published();
    first.keep(take);
    assertEquals([first.isPublished, get(1), quota.taken], [true, PUBLISHED, 0]);
    pending(3).keep(take);
    assertEquals(quota.taken, 1);
    await time.tickAsync(REMEMBERED_MS);
    assertEquals(quota.taken, 0);
    pending(3).keep(take);
  }
  assertEquals(quota.taken, 0);
});

/** Two nodes, of which the first remembers publications. */
async function pair(time: FakeTime) {
  const room = new AsyncDisposableStack();
  const broker = room.use(new MemoryBroker());
  const nodes = room.use(new Nodes({ broker }));
  const other = room.use(new Nodes({ broker }));
  await Promise.all([nodes.ready, other.ready, passTime(time, 300)]);
  const known = room.use(new KnownPublications(runtime, { maxSessions: 1, nodes }));
  const ask = (id: number, session: object = {}) =>
    known.ask({ producer: "ann", id: `${id}` }, {
      session: session as Session,
      timeoutMs: 5_000,
    });
  return { known, nodes, other, ask, [Symbol.asyncDispose]: () => room.disposeAsync() };
}

Deno.test("KnownPublications asks other nodes a bounded number of times for a session, and at a time", async () => {
  using time = new FakeTime();
  await using nodes = await pair(time);
  const { other, ask } = nodes;
  let questions = 0;
  const { promise, resolve } = Promise.withResolvers<PublishOutcome>();
  other.handle("publication", () => questions++ < MAX_ASKED ? { data: 1 } : promise);
  const session = {};
  const outcomes: unknown[] = [];
  for (let id = 0; id <= MAX_ASKED; id++) outcomes.push(await ask(id, session));
  const told = Array.from({ length: MAX_ASKED }, () => ({ data: 1 }));
  assertEquals([outcomes, questions], [[...told, undefined], MAX_ASKED]);
  const all = Array.from({ length: MAX_ASKING }, (_, id) => ask(id));
  assertEquals(await ask(MAX_ASKING), undefined);
  resolve({ data: 2 });
  assertEquals(new Set((await Promise.all(all)).map((one) => JSON.stringify(one))).size, 1);
  assertEquals([await ask(0), questions], [{ data: 2 }, MAX_ASKED + MAX_ASKING + 1]);
});

Deno.test("KnownPublications waits for a node that is deciding, and two seconds for a node that does not reply, once for a session", async () => {
  using time = new FakeTime();
  await using nodes = await pair(time);
  const { known, nodes: node, other, ask } = nodes;
  const { promise, resolve } = Promise.withResolvers<PublishOutcome>();
  void known.get({ producer: "ann", id: "1" }, () => promise);
  using there = new KnownPublications(runtime, { maxSessions: 1, nodes: other });
  const asking = { session: {} as Session, timeoutMs: 5_000 };
  const asked = there.ask({ producer: "ann", id: "1" }, asking);
  await passTime(time, 4_000);
  resolve({ data: new Uint8Array([1]) });
  assertEquals(await asked, { data: new Uint8Array([1]) });
  assertEquals(await ask(2), undefined);
  // The node can't be reached, and it has not been silent for long enough to be gone.
  there[Symbol.dispose]();
  other.handle("publication", () => new Promise(() => {}));
  const session = {};
  const silent = ask(3, session);
  assertEquals(node.size, 1);
  await passTime(time, 1_900);
  assertEquals(await Promise.race([silent, Promise.resolve("waiting")]), "waiting");
  await passTime(time, 100);
  assertEquals([await silent, await ask(4, session)], [undefined, undefined]);
});

Deno.test("Two nodes that ask each other about a publication don't wait for each other", async () => {
  using time = new FakeTime();
  await using nodes = await pair(time);
  const { known, other, ask } = nodes;
  const key = { producer: "ann", id: "1", waits: true };
  other.handle("publication", async () => (await other.ask("publication", key)).replies[0]!.data);
  const decided = known.get(key, async () => await ask(1) ?? { data: "own" });
  assertEquals(await outcomeOf(decided), { data: "own" });
  assertEquals((await other.ask("publication", key)).replies[0]!.data, { data: "own" });
});
