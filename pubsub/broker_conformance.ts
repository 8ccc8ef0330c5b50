/**
 * What every broker must do, as tests that anybody can run on their own.
 *
 * @module
 */
import { Heard, type Test } from "./_conformance_kit.ts";
import { BOTH, ONE_NODE, TWO_NODES } from "./_conformance_fanout.ts";
import { HISTORY } from "./_conformance_history.ts";
import { STORE } from "./_conformance_store.ts";
import type { Broker } from "./broker.ts";

/** Options for {@linkcode testBroker}. */
export interface BrokerTestOptions {
  /**
   * Makes two brokers of one engine, as two nodes would have them. Without it,
   * what crosses nodes is not tested.
   */
  readonly makePair?: () => [Broker, Broker] | Promise<[Broker, Broker]>;
  /** Runs after each test, when its brokers are closed: ends clients that were handed in. */
  readonly teardown?: () => void | Promise<void>;
  /**
   * How long a publication may take to arrive, in milliseconds.
   *
   * @default {5000}
   */
  readonly withinMs?: number;
  /**
   * Skips the suite, where there is no engine to test with.
   *
   * @default {false}
   */
  readonly ignore?: boolean;
}

/**
 * Registers the conformance suite of {@linkcode Broker} with `Deno.test`: one
 * test for each of the contract's MUSTs that can be seen from outside. What concerns histories and
 * the store runs where the broker has them.
 *
 * Some are left to tests of your own, since they need your engine: that `publish` does not throw
 * while it is down, that `onInterrupted` is called after that, that the epoch changes when it may
 * have lost what it had, and that a client which was handed in is not ended.
 *
 * @example Testing a broker of your own
 * ```ts ignore
 * import { MemoryBroker } from "@skein/skein/pubsub";
 * import { testBroker } from "@skein/skein/testing";
 *
 * testBroker("MemoryBroker", () => new MemoryBroker());
 * ```
 *
 * @param name The broker's name, in front of the names of the tests.
 * @param makeBroker Makes one for each test; the suite closes it.
 * @param options See {@linkcode BrokerTestOptions}.
 */
export function testBroker(
  name: string,
  makeBroker: () => Broker | Promise<Broker>,
  options: BrokerTestOptions = {},
): void {
  const { makePair, ignore = false } = options;
  for (const [what, test] of Object.entries({ ...BOTH, ...ONE_NODE, ...HISTORY, ...STORE })) {
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
  for (const [what, test] of Object.entries({ ...BOTH, ...TWO_NODES, ...HISTORY, ...STORE })) {
    Deno.test({
      name: `${name} of two nodes ${what}`,
      ignore,
      fn: async () => await runTest(test, await makePair(), options),
    });
  }
}

async function runTest(
  test: Test,
  [near, far]: [Broker, Broker],
  { withinMs = 5_000, teardown }: BrokerTestOptions,
): Promise<void> {
  try {
    await test({
      id: `skein-test-${crypto.randomUUID().slice(0, 8)}`,
      near,
      far,
      listen: (broker, topic, how) => Heard.on(broker, topic, withinMs, how),
    });
  } finally {
    await near.close();
    await far.close();
    await teardown?.();
  }
}
