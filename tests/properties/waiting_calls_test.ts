/**
 * Calls that wait for a store. The properties compare their buffer and their timeout, and what
 * happens when the broker closes.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Broker, HistoryBounds } from "../../pubsub/broker.ts";
import type { Host } from "../simulator/mod.ts";
import { type Drawn, keyOf, maybe } from "./draw.ts";
import { diskOf } from "./disks.ts";
import { untilReached } from "./stores.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

const BOUNDS: HistoryBounds = { size: 100, ttlMs: 60_000, bytes: 1 << 20 };
const PAGE = { bounds: BOUNDS, maxMessages: 100, maxBytes: 1 << 20 } as const;
const MAX_BYTES = 1 << 26;

/** Maximum time until all calls have an outcome, in milliseconds. */
const SETTLED_MS = 20_000;

/** Broker calls by name. Each receives the name of a topic, key or log. */
const CALLS: Readonly<Record<string, (broker: Broker, name: string) => Promise<unknown>>> = {
  "append to a history": ({ history }, topic) =>
    history!.append({ topic, payload: "kept" }, { bounds: BOUNDS }),
  "read a history": ({ history }, topic) => history!.read(topic, PAGE),
  "advance a number": ({ store }, key) => store!.advance(key, 1, 60_000),
  "read a number": ({ store }, key) => store!.newest(key, 60_000),
  claim: ({ store }, scope) => store!.claim(scope, "member", { max: 2, ttlMs: 60_000 }),
  "release a claim": ({ store }, scope) => store!.release(scope, "member"),
  "list claims": ({ store }, scope) => store!.claims(scope),
  "create a log": (broker, id) => createLog(broker, id),
  "append to a log": (broker, id) =>
    logsOf(broker)!.append(id, { records: ["1"], maxBytes: MAX_BYTES }),
  "read a log": (broker, id) =>
    logsOf(broker)!.read(id, { after: 0, maxRecords: 10, maxBytes: MAX_BYTES, renews: true }),
  "delete a log": (broker, id) => logsOf(broker)!.delete(id),
  "fork a log": (broker, id) =>
    logsOf(broker)!.retain(id, "fork", { identity: "waiting0", maxForks: 1 }),
  "release a log": (broker, id) => logsOf(broker)!.release(id, "fork"),
};

/** Names that a file rejects. See `SqliteBroker.subscribe`. */
const UNFIT = ["x".repeat(1_025), "ü".repeat(513), "a\0b"];

const store = fc.constantFrom("sqlite", "redis", "nats");
type BrokerName = Drawn<typeof store>;

/**
 * Payload sizes as fractions of the buffer. Three payloads of the second size fit into it, and a
 * payload of the last size never fits.
 */
const SIZES = [0, 0.3, 0.8, 1.5] as const;

property("each call that waits for a broker frees its buffer space, whatever its outcome", {
  runs: 3,
  cases: fc.record({
    store,
    maxWaiting: fc.constantFrom<number[]>(3, 8, 20),
    maxWaitingBytes: fc.constantFrom<number[]>(6_000, 12_000),
    giveUpMs: maybe(fc.constant(3_000)),
    rounds: fc.array(
      fc.record({
        calls: fc.array(
          fc.record({
            kind: fc.constantFrom("history", "log", "publish"),
            size: fc.constantFrom<number[]>(...SIZES),
          }),
          { maxLength: 15 },
        ),
        /** Time for which the store is unreachable, in milliseconds. */
        awayMs: maybe(fc.nat(5_000)),
      }),
      { minLength: 1, maxLength: 3 },
    ),
  }),
  async check(world, { store, rounds, ...room }) {
    const { broker, host } = await brokerOf(world, store, room);
    await world.run(host, () => createLog(broker, "log"));
    const call = (kind: "history" | "log" | "publish", size: number) => {
      const payload = "x".repeat(Math.max(1, size * room.maxWaitingBytes));
      return outcomeOf(world.run<unknown>(host, () => {
        if (kind === "publish") return broker.publish({ topic: "topic", payload });
        return kind === "history"
          ? broker.history!.append({ topic: "topic", payload }, { bounds: BOUNDS })
          : logsOf(broker)!.append("log", { records: [payload], maxBytes: MAX_BYTES });
      }));
    };
    const nothingWaits = () =>
      world.until("no waiting call", () => broker.stats.waiting === 0, SETTLED_MS);
    for (const { calls, awayMs } of rounds) {
      const heal = awayMs === undefined ? undefined : block(world, host);
      const outcomes = calls.map(({ kind, size }) => call(kind, size));
      await world.pause(awayMs ?? 0);
      heal?.();
      await world.inTime("all outcomes", Promise.all(outcomes), SETTLED_MS);
      for (const kind of ["history", "log"] as const) {
        await untilReached(world, async () => assertEquals(await call(kind, 0), "fulfilled"));
        for (const [size, count] of [[0, room.maxWaiting], [0.3, 3], [1.5, 0]] as const) {
          if (count > room.maxWaiting || size > 0 && count === room.maxWaiting) continue;
          await nothingWaits();
          const told = Promise.all(Array.from({ length: count + 2 }, () => call(kind, size)));
          const expected = [...Array(count).fill("fulfilled"), "BrokerError", "BrokerError"];
          assertEquals(
            await world.inTime("outcomes", told, SETTLED_MS),
            expected,
            `${kind} ${size}`,
          );
        }
      }
    }
    await nothingWaits();
    const startMs = world.nowMs;
    await world.run(host, () => broker.close());
    assert(world.nowMs - startMs < 900, "a broker that waits for nothing closes at once");
  },
});

property("a broker fails calls that wait too long, and none of them takes effect later", {
  cases: fc.record({
    store: fc.constantFrom("redis", "nats"),
    giveUpMs: fc.integer({ min: 1_200, max: 2_600 }),
    early: fc.integer({ min: 1, max: 5 }),
    late: fc.integer({ min: 1, max: 5 }),
    lateMs: fc.nat(200),
  }),
  async check(world, { store, giveUpMs, early, late, lateMs }) {
    const { broker, host, near } = await brokerOf(world, store, { giveUpMs });
    const kept: unknown[] = [];
    const plain: unknown[] = [];
    near.subscribe("kept", ({ payload }) => kept.push(payload), { history: BOUNDS });
    near.subscribe("plain", ({ payload }) => plain.push(payload));
    const probe = async () => {
      const before = plain.length;
      for (let left = 40; left > 0 && plain.length === before; left--) {
        await world.run(host, () => broker.publish({ topic: "plain", payload: "probe" }));
        await world.pause(50);
      }
      assert(plain.length > before, "a publication passes");
    };
    await probe();
    const append = (payload: string) => {
      const appending = world.run(
        host,
        () => broker.history!.append({ topic: "kept", payload }, { bounds: BOUNDS }),
      );
      return outcomeOf(appending);
    };
    const texts = (of: string, count: number) =>
      Array.from({ length: count }, (_, i) => `${of} ${i}`);
    const heal = block(world, host);
    const startMs = world.nowMs;
    for (const payload of texts("lost", early)) {
      await world.run(host, () => broker.publish({ topic: "plain", payload }));
    }
    const given = await Promise.all(texts("early", early).map(append));
    assertEquals(given, given.map(() => "BrokerError"));
    const tookMs = world.nowMs - startMs;
    assert(tookMs >= 0.9 * giveUpMs && tookMs <= 1.25 * giveUpMs, `given up after ${tookMs} ms`);
    await world.pause(1.25 * giveUpMs);
    // The NATS client passes publications without a history to the system immediately.
    assertEquals(broker.stats.dropped, early * (store === "redis" ? 2 : 1));
    const appending = texts("late", late).map(append);
    await world.pause(lateMs);
    // The store receives none of the bytes in flight.
    world.cut(host);
    heal();
    for (const one of await world.inTime("appends", Promise.all(appending), SETTLED_MS)) {
      assertEquals(one, "fulfilled");
    }
    for (const payload of texts("early", early)) assertEquals(await append(payload), "fulfilled");
    await probe();
    const expected = [...texts("late", late), ...texts("early", early)];
    await world.until("publications", () => kept.length >= expected.length);
    assertEquals(kept, expected);
    assertEquals(plain.filter((one) => one !== "probe"), []);
    const { publications } = await near.history!.read("kept", PAGE);
    assertEquals(publications.map(({ payload }) => payload), expected);
    assertEquals(broker.stats.waiting, 0);
  },
});

property("a broker that closes settles all calls, rejects later ones, and leaves nothing", {
  cases: fc.record({
    store,
    calls: fc.array(
      fc.record({ call: keyOf(CALLS), name: fc.nat(2) }),
      { maxLength: 15 },
    ),
    /** Number of subscriptions that become live, some of which were left in the meantime. */
    subscriptions: fc.array(fc.record({ hasHistory: fc.boolean(), isLeft: fc.boolean() }), {
      maxLength: 3,
    }),
    last: fc.nat(3),
    isAway: fc.boolean(),
    hasBackup: fc.boolean(),
    /**
     * Time between the calls and the close, in milliseconds. A file needs 2 ms for a group of
     * calls.
     */
    afterMs: fc.constantFrom<number[]>(0, 1, 2, 3, 20),
    unfit: fc.constantFrom(...UNFIT),
  }),
  async check(world, { store, calls, subscriptions, last, isAway, hasBackup, afterMs, unfit }) {
    const { broker, host, near, file } = await brokerOf(world, store);
    const heard: unknown[] = [];
    near.subscribe("last", ({ payload }) => heard.push(payload));
    for (let left = 40; left > 0 && heard.length === 0; left--) {
      await world.run(host, () => broker.publish({ topic: "last", payload: "probe" }));
      await world.pause(50);
    }
    if (file !== undefined) {
      for (const [name, call] of Object.entries(CALLS)) {
        const outcome = outcomeOf(world.run(host, () => call(broker, unfit)));
        assertEquals(await outcome, "RangeError", name);
      }
      assertEquals(broker.status.current.name, "connected");
    }
    const heal = isAway ? block(world, host) : undefined;
    const outcomes = calls.map(({ call, name }) =>
      outcomeOf(world.run(host, () => CALLS[call]!(broker, `name ${name}`)))
    );
    for (const { hasHistory, isLeft } of subscriptions) {
      outcomes.push(outcomeOf(world.run(host, () => {
        const options = hasHistory ? { history: BOUNDS } : {};
        const subscription = broker.subscribe("topic", () => {}, options);
        if (isLeft) void subscription[Symbol.asyncDispose]();
        return subscription.ready;
      })));
    }
    const copying = file && hasBackup
      ? outcomeOf(world.run(host, () => file.broker.backup("copy.db")))
      : undefined;
    await world.pause(afterMs);
    const payloads = Array.from({ length: isAway ? 0 : last }, (_, i) => `${i}`);
    const closes = [payloads, []].map((payloads) =>
      world.run(host, () => {
        for (const payload of payloads) broker.publish({ topic: "last", payload });
        return broker.close();
      })
    );
    await world.inTime("two closes", Promise.all(closes), 15_000);
    const told = await world.inTime("all outcomes", Promise.all(outcomes), 1_000);
    assertEquals(told.filter((one) => one !== "fulfilled" && one !== "BrokerError"), []);
    if (file !== undefined && copying !== undefined) {
      assertEquals(file.disk.has("copy.db"), await copying === "fulfilled");
      assert(!file.disk.has("copy.db.part"));
    }
    assertEquals([broker.status.current.name, broker.stats.waiting], ["closed", 0]);
    if (file === undefined) {
      const arrived = () => heard.length > payloads.length;
      await world.until("publications right before the close", arrived, 2_000);
      assertEquals(heard.filter((one) => one !== "probe"), payloads);
    }
    heal?.();
    for (const [name, call] of Object.entries(CALLS)) {
      const outcome = outcomeOf(world.run(host, () => call(broker, "name 0")));
      assertEquals(await world.inTime(name, outcome, 1_000), "BrokerError", name);
    }
    for (
      const call of [
        () => broker.publish({ topic: "topic", payload: "plain" }),
        () => broker.subscribe("topic", () => {}),
        () => broker.subscribe("topic", () => {}, { history: BOUNDS }),
      ]
    ) assertEquals(await outcomeOf(world.run(host, call)), "UnsupportedError");
    const timers = () => [...world.simulation.pending()].filter((one) => one.host === host);
    const links = () => world.network.links.filter(({ client }) => client === host);
    const isGone = () => timers().length === 0 && links().length === 0;
    // A connection to an unreachable store ends only after its timeout.
    const withinMs = file === undefined ? 6_000 : 0;
    await world.until("no timer and no connection of a closed broker", isGone, withinMs);
  },
});

/** Starts a store with one broker on each of two machines. */
async function brokerOf(
  world: World,
  name: BrokerName,
  options: {
    readonly maxWaiting?: number;
    readonly maxWaitingBytes?: number;
    readonly giveUpMs?: number | undefined;
  } = {},
) {
  const { giveUpMs, ...room } = options;
  const host = world.host("node");
  if (name === "sqlite") {
    const file = await diskOf(world, host.name);
    const broker = await world.run(
      host,
      () => file.open("file.db", { synchronous: "full", ...room }),
    );
    world.onEnd(() => broker.close());
    return { broker: broker as Broker, host, near: broker as Broker, file: { ...file, broker } };
  }
  const store = await world.store(name);
  const make = (host: Host, more: typeof options) =>
    world.run(host, () => store.broker(host, more as Parameters<typeof store.broker>[1])!);
  const near = await make(world.host("near"), {});
  const broker = await make(host, { ...room, ...(giveUpMs !== undefined && { giveUpMs }) });
  for (const one of [near, broker]) {
    world.onEnd(() => one.close());
    await untilReached(world, () => one.history!.read("topic", PAGE));
    await untilReached(world, () => logsOf(one)!.delete("none"));
  }
  return { broker, host, near, file: undefined };
}

/** Blocks the link between a machine and its store. Returns a function that unblocks it. */
function block(world: World, host: Host): () => void {
  const stores = new Set(
    world.network.links.filter(({ client }) => client === host).map(({ server }) => server),
  );
  for (const store of stores) world.change(host, store, { isBlocked: true });
  return () => {
    for (const store of stores) world.change(host, store, { isBlocked: false });
  };
}

function createLog(broker: Broker, id: string) {
  const config = { contentType: "text/plain" };
  return logsOf(broker)!.create(id, { config, identity: "waiting0", records: [], maxLogs: 1_000 });
}
