/**
 * The store that nodes share, with claims of slots, numbers that only increase, and tokens of a
 * rate.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { BrokerStore, TakenTokens } from "../../pubsub/broker.ts";
import { BucketModel, ClaimsModel, type Span } from "../../pubsub/store_model.ts";
import { untilReached } from "./stores.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Number of nodes that share the store. */
const NODES = 3;

/** Time around a claim's expiry during which the claim may be valid or not, in milliseconds. */
const EDGE_MS = 120;

/** Minimum time for which a number is remembered, in milliseconds. */
const WINDOW_MS = 4_000;

/** Time that is added to a wait for tokens, in milliseconds. It is the duration of a request. */
const LATER_MS = 20;

const store = fc.constantFrom("memory", "redis", "sqlite", "nats");

const node = fc.nat(NODES - 1);

const pauseMs = fc.constantFrom(0, 50, 400, 700, 1_000);

property("nodes claim no more slots than a scope has, and keep those that they renew", {
  cases: fc.record({
    store,
    max: fc.integer({ min: 1, max: 3 }),
    /** Concurrent operations, each by a different member. */
    rounds: fc.array(
      fc.record({
        pauseMs,
        operations: fc.uniqueArray(
          fc.record({
            kind: fc.constantFrom("claim", "claim", "release"),
            member: fc.constantFrom("a", "b", "c", "d", "e"),
            ttlMs: fc.constantFrom(2_400, 900),
            node,
          }),
          { selector: ({ member }) => member },
        ),
      }),
      { maxLength: 12, size: "max" },
    ),
  }),
  async check(world, { store, max, rounds }) {
    const stores = await storesOf(world, store);
    if (stores === undefined) return;
    const model = new ClaimsModel();
    for (const { pauseMs, operations } of rounds) {
      await world.pause(pauseMs);
      await world.until(
        "a time at which no claim expires",
        () => !model.lapse(world.nowMs, EDGE_MS),
      );
      const free = max - model.members.length;
      const claims = operations.filter(({ kind }) => kind === "claim");
      const renewals = claims.filter(({ member }) => model.has(member));
      const newcomers = claims.filter(({ member }) => !model.has(member));
      const releases = operations.filter(({ kind, member }) =>
        kind === "release" && model.has(member)
      );
      const isIn = new Map<string, boolean>();
      await Promise.all(operations.map(async ({ kind, member, ttlMs, node }) => {
        const fromMs = world.nowMs;
        if (kind === "release") {
          model.release(member);
          return await stores[node]!.release("scope", member);
        }
        const isClaimed = await stores[node]!.claim("scope", member, { max, ttlMs });
        isIn.set(member, isClaimed);
        if (isClaimed) model.claim(member, { fromMs, toMs: world.nowMs }, ttlMs);
      }));
      const granted = newcomers.filter(({ member }) => isIn.get(member)).length;
      assertEquals(renewals.map(({ member }) => isIn.get(member)), renewals.map(() => true));
      assert(granted >= Math.min(newcomers.length, free), "a free slot is rejected");
      assert(granted <= Math.min(newcomers.length, free + releases.length), "one slot too many");
      for (const store of stores) {
        assertEquals((await store.claims("scope")).toSorted(), model.members);
      }
    }
  },
});

property("one of several nodes advances a number to its next value, and all read that", {
  cases: fc.record({
    store,
    /**
     * Numbers that nodes store at the same time, relative to the newest number, and the pause
     * afterwards.
     */
    rounds: fc.array(
      fc.record({
        steps: fc.array(fc.integer({ min: -1, max: 3 }), { minLength: 1, maxLength: NODES }),
        pauseShare: fc.constantFrom(0, 0.5, 1),
      }),
      { maxLength: 12, size: "max" },
    ),
  }),
  async check(world, { store, rounds }) {
    const stores = await storesOf(world, store);
    if (stores === undefined) return;
    let [newest, untilMs] = [-1, Infinity];
    for (const { steps, pauseShare } of rounds) {
      const startMs = world.nowMs;
      const numbers = steps.map((step) => Math.max(0, newest + step));
      const areNew = await Promise.all(
        numbers.map((number, node) => stores[node]!.advance("row", number, WINDOW_MS)),
      );
      const largest = Math.max(...numbers);
      const granted = numbers.filter((_, i) => areNew[i]);
      assertEquals(granted.filter((number) => number <= newest), []);
      assertEquals(granted.filter((n) => n === largest).length, largest > newest ? 1 : 0);
      if (largest > newest) [newest, untilMs] = [largest, startMs + WINDOW_MS];
      const leftMs = untilMs - EDGE_MS - world.nowMs;
      // After that, the number may be forgotten.
      if (leftMs <= 0) return;
      if (newest >= 0) await world.pause(leftMs * pauseShare);
      for (const store of stores) assertEquals(await store.newest("row", WINDOW_MS), newest);
    }
  },
});

property("nodes take no more tokens than a bucket has, and wait no longer than it needs", {
  cases: fc.record({
    store: fc.constantFrom("memory", "redis", "sqlite"),
    rate: fc.record({
      perSecond: fc.constantFrom(2, 1, 0.5),
      burst: fc.integer({ min: 1, max: 5 }),
    }),
    takes: fc.array(
      fc.record({
        nodes: fc.array(node, { minLength: 1, maxLength: 4 }),
        amount: fc.integer({ min: 1, max: 3 }),
        /** The length of the pause, or the length that the rejection names. */
        pauseMs: fc.oneof(fc.constant("as rejected" as const), pauseMs),
      }),
      { maxLength: 20, size: "max" },
    ),
  }),
  async check(world, { store, rate, takes }) {
    const stores = await storesOf(world, store);
    if (stores === undefined) return;
    const bucket = new BucketModel(rate, world.nowMs);
    for (const { nodes, amount: drawn, pauseMs } of takes) {
      const amount = Math.min(drawn, rate.burst);
      const { at, results } = await take(world, nodes.map((node) => stores[node]!), amount, rate);
      assertEquals(bucket.take(amount, at, results), undefined);
      const waitMs = results.find(({ granted }) => !granted)?.retryAfterMs ?? 0;
      await world.pause(pauseMs === "as rejected" ? waitMs + LATER_MS : pauseMs);
    }
  },
});

/** Takes tokens on several nodes at the same time. */
async function take(
  world: World,
  stores: readonly BrokerStore[],
  amount: number,
  rate: { readonly perSecond: number; readonly burst: number },
): Promise<{ readonly at: Span; readonly results: readonly TakenTokens[] }> {
  const fromMs = world.nowMs;
  const results = await Promise.all(stores.map((store) => store.take!("bucket", amount, rate)));
  return { at: { fromMs, toMs: world.nowMs }, results };
}

/**
 * Connects nodes to a store and waits until it responds to all of them. Returns nothing for a
 * NATS cluster, where two concurrent changes may both succeed.
 */
async function storesOf(
  world: World,
  name: "memory" | "redis" | "sqlite" | "nats",
): Promise<readonly BrokerStore[] | undefined> {
  const store = await world.store(name);
  if (store.hasExactRows !== true) return undefined;
  const stores = Array.from({ length: NODES }, (_, i) => {
    const broker = store.broker(world.host(`node-${i}`))!;
    world.onEnd(() => broker.close());
    return broker.store!;
  });
  for (const store of stores) await untilReached(world, () => store.newest("first", 1_000));
  return stores;
}
