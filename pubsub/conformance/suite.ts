/** The conformance suite of brokers, also for brokers of applications. */
import {
  HUGE_NAMES,
  isTaken,
  Received,
  same,
  type Test,
  type TestKit,
  undisturbed,
} from "./kit.ts";
import { BOTH, ONE_NODE, TWO_NODES } from "./fanout.ts";
import { HISTORY } from "./history.ts";
import { KEYS, SLOW_KEYS } from "./keys.ts";
import type { Broker, BrokerStore } from "../broker.ts";

const HOUR = { max: 3, ttlMs: 3_600_000 };

/** Tests that run with one broker, and between two. */
const STORE: Record<string, Test> = {
  "records growing numbers": withStore(async ({ id }, near, far) => {
    same(await near.newest(id, 60_000), -1, "the number of a new row");
    same(await near.advance(id, 0, 60_000), true, "advancing to the first number");
    same(await far.advance(id, 0, 60_000), false, "advancing to the same number");
    same(await far.advance(id, 7, 60_000), true, "advancing to a greater number");
    same(await near.advance(id, 6, 60_000), false, "advancing to a smaller number");
    same([await near.newest(id, 60_000), await far.newest(id, 60_000)], [7, 7], "the newest");
    same(await near.newest(`${id} other`, 60_000), -1, "the number of another row");
  }),

  "remembers a number for up to a week": withStore(async ({ id }, near, far) => {
    const weekMs = 604_800_000;
    same(await near.newest(id, weekMs), -1, "the number of a new row");
    same(await near.advance(id, 1, weekMs), true, "advancing to the first number");
    same(await far.advance(id, 1, weekMs), false, "advancing to the same number");
    same(await far.newest(id, weekMs), 1, "the newest");
  }),

  "lets one of several callers advance to a number": withStore(async ({ id }, near, far) => {
    const tries = Array.from(
      { length: 10 },
      (_, i) => (i % 2 === 0 ? near : far).advance(id, 1, 60_000),
    );
    same((await Promise.all(tries)).filter((won) => won).length, 1, "the number of granted calls");
  }),

  "holds at most the given number of claims": withStore(async ({ id }, near, far) => {
    for (const member of ["a", "b é", "c"]) {
      same(await near.claim(id, member, HOUR), true, `claim of ${member}`);
    }
    same(await far.claim(id, "d", HOUR), false, "claim of one too many");
    same(await far.claim(id, "b é", HOUR), true, "claim that is renewed");
    same((await far.claims(id)).sort(), ["a", "b é", "c"], "the holders of claims");
    await near.release(id, "a");
    await near.release(id, "a");
    same(await far.claim(id, "d", HOUR), true, "claim of a free slot");
    same(
      (await near.claims(id)).sort(),
      ["b é", "c", "d"],
      "the holders of claims after the release",
    );
    same(await near.claims(`${id} other`), [], "the holders of claims of another key");
  }),

  "separates the holders of claims with lone surrogates, or rejects them": withStore(
    async ({ id }, near, far) => {
      const claimed = [];
      for (const [i, member] of ["a\ud800", "a\udbff", "a\ufffd"].entries()) {
        const claim = () => (i % 2 === 0 ? near : far).claim(id, member, HOUR);
        if (await isTaken(claim)) claimed.push(member);
      }
      same((await near.claims(id)).sort(), claimed, "the holders of claims");
    },
  ),

  "grants as many concurrent claims as there are slots": withStore(async ({ id }, near, far) => {
    const tries = Array.from(
      { length: 10 },
      (_, i) => (i % 2 === 0 ? near : far).claim(id, `m${i}`, HOUR),
    );
    same((await Promise.all(tries)).filter((won) => won).length, 3, "the number of granted calls");
    same((await near.claims(id)).length, 3, "the holders of claims");
  }),

  "grants hundreds of concurrent claims of one scope": withStore(async ({ id }, near, far) => {
    const most = { max: 300, ttlMs: 3_600_000 };
    const tries = Array.from(
      { length: 300 },
      (_, i) => (i % 2 === 0 ? near : far).claim(id, `m${i}`, most),
    );
    same(await Promise.all(tries), Array(300).fill(true), "the results");
    same((await near.claims(id)).length, 300, "the holders of claims");
  }),

  "keeps a claim and a number as long as promised, on every node": withStore(
    async ({ id }, near, far) => {
      const seconds = { max: 1, ttlMs: 10_000 };
      same(await near.claim(id, "holder", seconds), true, "the first claim");
      same(await far.claim(id, "other", seconds), false, "a claim of a full scope");
      same(await far.claims(id), ["holder"], "the holders of claims");
      same(await near.advance(id, 1, 10_000), true, "advancing to the first number");
      same(await far.newest(id, 60_000), 1, "the newest number");
    },
  ),

  "ends claims that are not renewed": withStore(async ({ id }, near, far) => {
    const begin = performance.now(); // Before the claim, which may take long.
    same(await near.claim(id, "gone", { max: 1, ttlMs: 1_000 }), true, "the first claim");
    while (!await far.claim(id, "next", { max: 1, ttlMs: 60_000 })) {
      if (performance.now() - begin > 30_000) throw new Error("Expected the claim to be gone");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    if (performance.now() - begin < 500) throw new Error("Expected it to be held for a second");
    same(await near.claims(id), ["next"], "the holder of the claim");
  }),

  "keeps other keys working next to a key of 8 KiB, accepted or rejected": withStore(
    async (bench, near, far) => {
      await undisturbed(bench, async () => {
        for (const [i, name] of HUGE_NAMES.entries()) {
          const key = `${bench.id}${i}${name}`;
          const acts = [
            () => near.advance(key, 7, 60_000),
            () => far.newest(key, 60_000),
            () => near.claim(key, "a", HOUR),
            () => far.claims(key),
            () => near.release(key, "a"),
            () => near.take?.(key, 1, { perSecond: 1, burst: 1 }),
          ];
          const taken = await Promise.all(acts.map(isTaken));
          const [isAdvanced] = taken;
          same(
            taken.slice(0, 5),
            Array(5).fill(isAdvanced),
            "the operations that accept a huge key",
          );
        }
        same(await near.advance(bench.id, 7, 60_000), true, "the result for another key");
        same(
          await near.claim(bench.id, HUGE_NAMES[1], HOUR),
          true,
          "the claim of a huge member",
        );
        same(await far.claims(bench.id), [HUGE_NAMES[1]], "the holder of the claim");
      });
    },
  ),

  "takes tokens from one bucket": withStore(async ({ id }, near, far) => {
    if (near.take === undefined || far.take === undefined) return;
    const rate = { perSecond: 0.05, burst: 10 };
    same(await near.take(id, 8, rate), { granted: true, retryAfterMs: 0 }, "the first tokens");
    const { granted, retryAfterMs } = await far.take(id, 4, rate);
    same(granted, false, "the grant beyond the available tokens");
    if (retryAfterMs < 10_000 || retryAfterMs > 40_000) {
      throw new Error(`Expected about 40 s to wait, received ${retryAfterMs} ms`);
    }
    same((await far.take(id, 2, rate)).granted, true, "the grant of the remaining tokens");
    same(
      (await near.take(`${id} other`, 10, rate)).granted,
      true,
      "the grant from another full bucket",
    );
  }),
};

/** Creates a test that passes for brokers without a store. */
function withStore(
  test: (bench: TestKit, near: BrokerStore, far: BrokerStore) => Promise<void>,
): Test {
  return async (bench) => {
    const { near, far } = bench;
    if (near.store === undefined || far.store === undefined) return;
    await test(bench, near.store, far.store);
  };
}

/** Tests of one broker, by name. */
export const TESTS_OF_ONE: Readonly<Record<string, Test>> = {
  ...BOTH,
  ...ONE_NODE,
  ...HISTORY,
  ...KEYS,
  ...STORE,
};

/** Tests of two brokers of one store, by name. */
export const TESTS_OF_TWO: Readonly<Record<string, Test>> = {
  ...BOTH,
  ...TWO_NODES,
  ...HISTORY,
  ...KEYS,
  ...STORE,
};

/** Options for {@linkcode testBroker}. */
export interface BrokerTestOptions {
  /**
   * Creates two brokers of one store, as on two nodes. If left out, traffic between nodes is not
   * tested.
   */
  readonly makePair?: (() => [Broker, Broker] | Promise<[Broker, Broker]>) | undefined;
  /**
   * Called after each test, when the brokers are closed, to close client libraries that were passed
   * in.
   */
  readonly teardown?: (() => void | Promise<void>) | undefined;
  /**
   * Time limit for a publication to arrive, in milliseconds.
   *
   * @default {30000}
   */
  readonly withinMs?: number | undefined;
  /**
   * Lets time pass, for a broker whose clock the test can move. If left out, the test of two minutes
   * takes as long.
   *
   * @param ms The time in milliseconds.
   */
  readonly pass?: ((ms: number) => void | Promise<void>) | undefined;
  /**
   * Leaves out the only test that takes minutes: whether the broker remembers a key for two minutes.
   *
   * @default {false}
   */
  readonly skipSlow?: boolean | undefined;
  /**
   * Skips the suite, on a machine without the broker.
   *
   * @default {false}
   */
  readonly ignore?: boolean | undefined;
}

/**
 * Registers the conformance suite of {@linkcode Broker} with `Deno.test`: one test for each
 * observable MUST of the contract. Tests of histories and the store run if the broker has them.
 *
 * Test the remaining rules yourself, with your broker: `publish` does not throw while the broker is
 * down, `onInterrupted` is called after an outage, the epoch changes when the broker may have lost
 * publications, and a client library that was passed in is not closed.
 *
 * @example Testing your own broker
 * ```ts ignore
 * import { MemoryBroker } from "@skein/skein/pubsub";
 * import { testBroker } from "@skein/skein/testing";
 *
 * testBroker("MemoryBroker", () => new MemoryBroker());
 * ```
 *
 * @param name Name of the broker, a prefix of the test names.
 * @param makeBroker Creates a broker for each test; the suite closes the broker.
 * @param options See {@linkcode BrokerTestOptions}.
 */
export function testBroker(
  name: string,
  makeBroker: () => Broker | Promise<Broker>,
  options: BrokerTestOptions = {},
): void {
  const slow = options.skipSlow ? {} : SLOW_KEYS;
  const isPair = options.makePair !== undefined;
  const ofOne = isPair ? TESTS_OF_ONE : { ...TESTS_OF_ONE, ...slow };
  registerTests([name, ofOne, { ...TESTS_OF_TWO, ...slow }], makeBroker, options);
}

/** The name of a broker, the tests of one broker, and the tests of two brokers of one store. */
type Suite = readonly [
  name: string,
  ofOne: Readonly<Record<string, Test>>,
  ofTwo: Readonly<Record<string, Test>>,
];

/**
 * Registers tests with `Deno.test`.
 *
 * @param makeBroker Creates a broker for each test.
 * @param options See {@linkcode BrokerTestOptions}.
 */
export function registerTests(
  [name, ofOne, ofTwo]: Suite,
  makeBroker: () => Broker | Promise<Broker>,
  options: BrokerTestOptions,
): void {
  const { makePair, ignore = false } = options;
  for (const [what, test] of Object.entries(ofOne)) {
    Deno.test({
      name: `${name} ${what}`,
      ignore,
      fn: async () => {
        const broker = await makeBroker();
        await runTest(test, [broker, broker], options);
      },
    });
  }
  if (makePair === undefined) return;
  for (const [what, test] of Object.entries(ofTwo)) {
    Deno.test({
      name: `${name} of two nodes ${what}`,
      ignore,
      fn: async () => await runTest(test, await makePair(), options),
    });
  }
}

/**
 * Runs one test, and closes the brokers.
 *
 * @param brokers The brokers; for a test of one broker, the same one twice.
 * @param options See {@linkcode BrokerTestOptions}.
 */
export async function runTest(
  test: Test,
  [near, far]: readonly [Broker, Broker],
  { withinMs = 30_000, teardown, pass }: BrokerTestOptions,
): Promise<void> {
  let passedMs = 0;
  try {
    await test({
      id: `skein-test-${crypto.randomUUID().slice(0, 8)}`,
      near,
      far,
      listen: (broker, topic, how) => Received.on(broker, topic, withinMs, how),
      nowMs: () => performance.now() + passedMs,
      pass: async (ms) => {
        if (pass === undefined) return await new Promise((resolve) => setTimeout(resolve, ms));
        await pass(ms);
        passedMs += ms;
      },
    });
  } finally {
    await near.close();
    await far.close();
    await teardown?.();
  }
}
