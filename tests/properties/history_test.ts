/**
 * Clients that read histories from any position, with full queues, and on very many topics at the
 * same time.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { ClientSubscribeOptions } from "../../client/client_options.ts";
import type { Client, Server } from "../../mod.ts";
import { pause } from "../../base/wait.ts";
import { BrokerError } from "../../errors.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import { HIGH_WATER_MARK } from "../../session/queue/send_queue.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { FaultyStore, pass, replyAfter } from "../faulty_broker.ts";
import { maybe } from "./draw.ts";
import { untilReached } from "./stores.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";
import { areSubscribed, read as readAny, type Reading } from "./readings.ts";

/** Number of publications per history. */
const SIZE = 5;

/** Time without a message after which a reader has received everything, in milliseconds. */
const QUIET_MS = 300;

function read(client: Client, topic: string, options?: ClientSubscribeOptions): Reading<number> {
  return readAny(client, topic, options, (data) => (data as { readonly n: number }).n);
}

/** Publishes numbers, and records their positions. */
class Numbers {
  readonly positions: HistoryPosition[] = [];

  constructor(readonly server: Server, readonly topic: string) {}

  get count(): number {
    return this.positions.length;
  }

  async add(count: number): Promise<void> {
    const first = this.count;
    const appending = range(first + 1, first + count)
      .map((n) => this.server.topics.append(this.topic, { n }));
    for (const { position } of await Promise.all(appending)) this.positions.push(position!);
  }
}

property("a client reads all that a history keeps after a position, or the reason for a gap", {
  cases: fc.record({
    store: fc.constantFrom("memory", "sqlite", "redis", "nats"),
    size: fc.constantFrom<number[]>(SIZE, 100),
    before: fc.integer({ min: 1, max: 12 }),
    readings: fc.array(
      fc.record({
        start: fc.constantFrom("the end", "a position", "beyond", "another epoch", "none"),
        back: fc.nat(12),
        last: maybe(fc.nat(8)),
        /** Number of publications in the meantime, and during an interruption of the connection. */
        during: fc.nat(6),
        lost: fc.nat(4),
      }),
      { maxLength: 4 },
    ),
  }),
  async check(world, { store: name, size, before, readings }) {
    const store = await world.store(name);
    const nodes = [0, 1].map((i) =>
      world.serve(`node-${i}`, (host) => ({
        authorize: () => true,
        broker: store.broker(host)!,
        history: { first: {}, news: { size, bytes: 1 << 20 } },
        onError() {},
      }))
    );
    const client = world.connect("reader", nodes[0]!.host);
    await world.until("a session", () => client.isConnected);
    const numbers = new Numbers(nodes[1]!.server, "news");
    await untilReached(world, () => nodes[1]!.server.topics.append("first", {}));
    await numbers.add(before);
    for (const { start, back, last, during, lost } of readings) {
      const { count, positions } = numbers;
      const head = positions.at(-1)!;
      const at = start === "the end" ? count : Math.max(1, count - back);
      const position = positions[at - 1]!;
      const since = start === "none"
        ? undefined
        : start === "another epoch"
        ? { epoch: "another", offset: position.offset }
        : start === "beyond"
        ? { epoch: head.epoch, offset: head.offset + 7 }
        : position;
      const reason = start === "another epoch"
        ? "new-epoch"
        : start === "beyond"
        ? "beyond-head"
        : start !== "none" && at < count - size
        ? "too-old"
        : undefined;
      const isRecovered = since !== undefined && reason === undefined;
      const newest = Math.min(last ?? 0, size, count);
      const first = isRecovered ? at + 1 : count - newest + 1;
      const reading = read(client, "news", { ...(since && { since }), ...(last && { last }) });
      const { subscription, got, recoveries } = reading;
      await world.until("a subscription", () => areSubscribed([reading]));
      const arrive = async () => {
        const isThere = () => got.length >= numbers.count - first + 1;
        await world.until("publications", isThere).catch(() => {});
        await world.pause(QUIET_MS);
        assertEquals(got, range(first, numbers.count));
      };
      await numbers.add(during);
      await arrive();
      assertEquals(recoveries, since === undefined ? [] : [reason ?? true]);
      // After an interruption, the client continues after its last position.
      world.cut(world.host("reader"));
      await numbers.add(Math.min(lost, size));
      await world.until("a subscription", () => areSubscribed([reading]));
      await arrive();
      await subscription.unsubscribe();
      await numbers.add(1);
      await world.pause(QUIET_MS);
      assertEquals(got.at(-1) ?? first - 1, numbers.count - 1, "a publication after the end");
    }
  },
});

property("a node replays histories larger than its cache, and keeps none of them without readers", {
  cases: fc.record({
    size: fc.integer({ min: 513, max: 530 }),
    more: fc.nat(10),
    isFollowed: fc.boolean(),
    start: fc.constantFrom("before the oldest", "too early", "with the newest ones"),
  }),
  runs: 2,
  async check(world, { size, more, isFollowed, start }) {
    const { server, host } = world.serve("node", () => ({
      authorize: () => true,
      history: { long: { size, bytes: 1 << 24 } },
    }));
    const client = world.connect("reader", host);
    const live = isFollowed ? read(client, "long") : undefined;
    await world.until("a subscription", () => !isFollowed || server.topics.size > 0);
    const numbers = new Numbers(server, "long");
    const count = size + more + 1;
    for (let n = 0; n < count; n++) await numbers.add(1);
    if (live !== undefined) {
      await world.until("all live publications", () => live.got.length === count);
      assertEquals(live.got, range(1, count));
      await live.subscription.unsubscribe();
    }
    const oldest = count - size + 1;
    const [since, last, reason] = {
      "before the oldest": [numbers.positions[oldest - 2], undefined, [true]],
      "too early": [oldest > 2 ? numbers.positions[oldest - 3] : undefined, size, ["too-old"]],
      "with the newest ones": [undefined, size, []],
    }[start] as [HistoryPosition | undefined, number | undefined, unknown[]];
    const { got, recoveries, subscription } = read(client, "long", {
      ...(since && { since }),
      ...(last && { last }),
    });
    await world.until("the history", () => got.length >= size);
    assertEquals(got, range(oldest, count));
    assertEquals(recoveries, since === undefined ? [] : reason);
    await subscription.unsubscribe();
    const kept: number[] = [];
    for await (const { data } of server.topics.read("long")) {
      // A program that reads several pages does not receive publications that were made after the
      // first page.
      if (kept.length === 0) await numbers.add(1);
      kept.push((data as { readonly n: number }).n);
    }
    assertEquals(kept, range(oldest, count));
    await world.until("no topic", () => server.topics.size === 0);
    const { tailBytes, waitingBytes, waitingPages } = server.topics.stats;
    assertEquals({ tailBytes, waitingBytes, waitingPages }, {
      tailBytes: 0,
      waitingBytes: 0,
      waitingPages: 0,
    });
  },
});

property("a client recovers publications that its full queue dropped", {
  cases: fc.record({
    policy: fc.constantFrom("drop-oldest", "drop-newest"),
    maxMessages: fc.integer({ min: 2, max: 8 }),
    /**
     * Number of publications in each burst on the first topic, and whether they are also published
     * on the second topic.
     */
    bursts: fc.array(fc.record({ count: fc.integer({ min: 1, max: 25 }), onBoth: fc.boolean() }), {
      minLength: 1,
      maxLength: 3,
    }),
  }),
  async check(world, { policy, maxMessages, bursts }) {
    const { server, host } = world.serve("node", () => ({
      authorize: () => true,
      history: { "topic:{name}": {} },
      session: { sendQueue: { maxMessages, policy: () => policy } },
    }));
    const reader = world.host("reader");
    const client = world.connect("reader", host, { onMessage() {} });
    const topics = ["topic:1", "topic:2"] as const;
    const readings = topics.map((topic) => read(client, topic));
    await world.until("subscriptions", () => server.topics.subscribers("topic:2").length > 0);
    let count = 0;
    const expected: [number[], number[]] = [[], []];
    const publish = (i: 0 | 1, text = "") => {
      expected[i].push(count);
      server.publish(topics[i], { n: count, text });
    };
    for (const burst of bursts) {
      world.network.change(host, reader, { isBlocked: true });
      count++;
      publish(0, "x".repeat(HIGH_WATER_MARK));
      await world.pause(1);
      for (let left = burst.count; left > 0; left--) {
        count++;
        publish(0);
        if (burst.onBoth) publish(1);
      }
      await world.pause(50);
      world.network.change(host, reader, { isBlocked: false });
      for (const [i, { got }] of readings.entries()) {
        const isThere = () => got.length >= expected[i]!.length;
        await world.until("all publications", isThere, 2_000).catch(() => {});
        assertEquals(got, expected[i]);
      }
    }
    assertEquals(readings.flatMap(({ recoveries }) => recoveries), []);
  },
});

property("each replay that reads the broker returns its turn, however it ends", {
  cases: fc.array(
    fc.record({
      end: fc.constantFrom("all", "the first one", "at once", "a cut"),
      fails: fc.boolean(),
    }),
    { minLength: 1, maxLength: 4 },
  ),
  runs: 2,
  async check(world, kinds) {
    const store = new FaultyStore({ runtime: world.host("broker").runtime });
    let fails = false;
    store.make("history.read", async (run) => {
      await pause(store.runtime, 2);
      if (!fails) return await run();
      fails = false;
      throw new BrokerError("Cannot read: the reply was lost");
    });
    const { server, host } = world.serve("node", () => ({
      authorize: () => true,
      broker: store.connect(),
      history: { large: { bytes: 1 << 24 } },
      onError() {},
    }));
    // A node caches seven or eight of these publications.
    const all = range(1, 10);
    let epoch = "";
    for (const n of all) {
      const { position } = await server.topics.append("large", { n, text: "x".repeat(60_000) });
      epoch = position!.epoch;
    }
    const client = world.connect("reader", host);
    const live = read(client, "large", { last: 1 });
    await world.until("the last publication", () => live.got.length === 1);
    // A node has 64 turns.
    for (let i = 0; i <= 64; i++) {
      const kind = kinds[i % kinds.length]!;
      fails = kind.fails;
      const reader = world.connect(`reader-${i}`, host);
      const { got, subscription } = read(reader, "large", { since: { epoch, offset: 0 } });
      await world.until("a session", () => reader.isConnected);
      if (kind.end === "a cut") world.cut(world.host(`reader-${i}`));
      if (kind.end === "the first one") await world.until("one", () => got.length > 0);
      if (kind.end === "all") await world.until("all", () => got.length === all.length);
      if (kind.end === "at once") await subscription.unsubscribe();
      await reader.close();
    }
    const { got } = read(client, "large", { since: { epoch, offset: 0 } });
    await world.until("one more replay", () => got.length === all.length);
    assertEquals(got, all);
    await client.close();
    await world.until("no topic", () => server.topics.size === 0);
    const { waitingPages, waitingBytes, tailBytes } = server.topics.stats;
    assertEquals({ waitingPages, waitingBytes, tailBytes }, {
      waitingPages: 0,
      waitingBytes: 0,
      tailBytes: 0,
    });
    await store.inner.close();
  },
});

property(
  "readers at old positions receive the rest of the history, or all of the one that replaced it",
  {
    cases: fc.record({
      before: fc.integer({ min: 10, max: 14 }),
      readers: fc.array(
        fc.record({
          start: fc.constantFrom("position", "wrong tag", "last"),
          /** A position that a node must read from the store. */
          at: fc.integer({ min: 1, max: 2 }),
          hasTag: fc.boolean(),
        }),
        { minLength: 1, maxLength: 4 },
      ),
      event: fc.constantFrom("nothing", "publications", "a loss", "a loss under the same epoch"),
      meanwhile: fc.nat(4),
    }),
    async check(world, { before, readers, event, meanwhile }) {
      const { runtime } = world.host("broker");
      const isSame = event === "a loss under the same epoch";
      const isLost = isSame || event === "a loss";
      const make = () =>
        new MemoryBroker({
          runtime: isSame ? { ...runtime, randomUUID: () => "theepoch" } : runtime,
        });
      const store = new FaultyStore({ runtime, make });
      const broker = store.connect();
      const held = Promise.withResolvers<void>();
      let isDeaf = false;
      broker.onDelivery = (publication, deliver) =>
        isDeaf && publication.position ? undefined : deliver(publication);
      const { server, host } = world.serve("node", () => ({
        authorize: () => true,
        broker,
        history: { large: { size: 1_000, bytes: 1 << 26 } },
        onError() {},
      }));
      const follower = read(world.connect("follower", host), "large");
      await world.until("a follower", () => areSubscribed([follower]));
      const positions: HistoryPosition[] = [];
      /** Numbers, by the store's life. */
      const lives: number[][] = [[]];
      const publish = async (count: number, text = "") => {
        for (; count > 0; count--) {
          const n = lives.flat().length + 1;
          const { position } = await server.topics.append("large", { n, text });
          lives.at(-1)!.push(n);
          positions.push(position!);
          await world.pause(6);
        }
      };
      // A node caches seven or eight of these publications.
      await publish(before, "x".repeat(70_000));
      broker.make("history.read", replyAfter(held.promise));
      const returned = readers.map(({ start, at, hasTag }, i) => {
        const { tag, ...place } = positions[at - 1]!;
        const since = {
          ...place,
          ...(start === "wrong tag" ? { tag: "wrong" } : hasTag && tag && { tag }),
        };
        const client = world.connect(`reader-${i}`, host);
        return read(client, "large", start === "last" ? { last: before - at } : { since });
      });
      const areIn = () => server.topics.subscribers("large").length === 1 + readers.length;
      await world.until("all readers", areIn);
      await world.pause(5);
      broker.make("history.read", pass);
      if (isLost) {
        store.lose();
        lives.push([]);
        // A different publication at a known offset shows that this is another history.
        isDeaf = true;
        await publish(meanwhile + (isSame ? before : 0));
        isDeaf = false;
        broker.interrupt();
        await world.until("the news of the loss", () => follower.recoveries.length > 0);
      } else if (event === "publications") await publish(meanwhile);
      const known = lives.at(-1)!.length;
      held.resolve();
      await world.pause(QUIET_MS);
      await publish(2);
      const arrived = ({ got }: Reading<number>) => got.at(-1) === lives.at(-1)!.at(-1);
      await world.until("all publications", () => [follower, ...returned].every(arrived));
      assertEquals(follower.got, lives.flat());
      for (const [i, { start, at }] of readers.entries()) {
        const { got, recoveries } = returned[i]!;
        const isOther = isLost || start === "wrong tag";
        const newest = Math.max(0, (isLost ? known : before) - (before - at));
        const first = start === "last" ? newest : isOther ? known : at;
        assertEquals(got, lives.at(-1)!.slice(first), `${start} at ${at}`);
        assertEquals(recoveries, start === "last" ? [] : [isOther ? "new-epoch" : true]);
      }
      await store.inner.close();
    },
  },
);

property("very many topics that miss publications at once are read again, a few at a time", {
  cases: fc.record({
    topics: fc.integer({ min: 1, max: 90 }),
    rounds: fc.array(
      fc.record({
        readMs: fc.integer({ min: 5, max: 60 }),
        /** The client leaves every n-th topic while the topic waits for its read. */
        leftEach: maybe(fc.integer({ min: 2, max: 5 })),
        failing: fc.nat(9),
      }),
      { minLength: 1, maxLength: 3 },
    ),
  }),
  runs: 3,
  async check(world, { topics: count, rounds }) {
    const { runtime } = world.host("broker");
    const store = new FaultyStore({ runtime });
    const broker = store.connect();
    let [isDeaf, readMs, failing, underWay, peak] = [false, 5, 0, 0, 0];
    broker.onDelivery = (publication, deliver) =>
      isDeaf && publication.position ? undefined : deliver(publication);
    broker.make("history.read", async (run, { args: [, { signal }] }) => {
      peak = Math.max(peak, ++underWay);
      let isOver = false;
      const end = () => {
        if (!isOver) underWay--;
        isOver = true;
      };
      signal?.addEventListener("abort", end);
      try {
        const page = await run();
        await pause(runtime, readMs);
        if (failing === 0) return page;
        failing--;
        throw new BrokerError("Cannot read: the reply was lost");
      } finally {
        end();
      }
    });
    const { server, host } = world.serve("node", () => ({
      authorize: () => true,
      broker,
      history: { "topic:{name}": {} },
      onError() {},
    }));
    const client = world.connect("reader", host);
    const topics = range(1, count).map((i) => `topic:${i}`);
    let readings = topics.map((topic) => read(client, topic));
    const areIn = () => world.until("subscriptions", () => areSubscribed(readings));
    const arrive = async (some: readonly Reading<number>[], round: number) => {
      await world.until("publications", () => some.every(({ got }) => got.at(-1) === round), 4_000);
      for (const { got } of some) assertEquals(got, range(1, round));
    };
    await areIn();
    for (const [i, { leftEach, ...round }] of rounds.entries()) {
      readMs = round.readMs;
      failing = Math.min(round.failing, count >> 2);
      [isDeaf, peak] = [true, 0];
      for (const topic of topics) server.publish(topic, { n: i + 1 });
      await world.pause(1);
      isDeaf = false;
      broker.interrupt();
      const isLeft = (j: number) => leftEach !== undefined && j % leftEach === 1;
      await Promise.all(
        readings.filter((_, j) => isLeft(j))
          .map(({ subscription }) => subscription.unsubscribe()),
      );
      await arrive(readings.filter((_, j) => !isLeft(j)), i + 1);
      assertEquals(peak, Math.min(count, 64), "maximum concurrent reads");
      readings = readings.map((reading, j) =>
        isLeft(j) ? read(client, topics[j]!, { last: i + 1 }) : reading
      );
      await areIn();
      await arrive(readings, i + 1);
    }
    // All topics are replayed at the same time to a client that reconnects.
    world.cut(world.host("reader"));
    await world.until("no session", () => server.manager.count === 0);
    for (const topic of topics) server.publish(topic, { n: rounds.length + 1 });
    await arrive(readings, rounds.length + 1);
    const { waitingPages, waitingBytes } = server.topics.stats;
    assertEquals({ waitingPages, waitingBytes, underWay }, {
      waitingPages: 0,
      waitingBytes: 0,
      underWay: 0,
    });
    assertEquals(
      readings.flatMap(({ recoveries }) => recoveries).filter((one) => one !== true),
      [],
    );
    await client.close();
    await world.until("no topic", () => server.topics.size === 0);
    assertEquals(server.topics.stats.tailBytes, 0);
    await store.inner.close();
  },
});
