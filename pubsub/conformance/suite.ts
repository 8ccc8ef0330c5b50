/** The conformance suite of brokers, also for brokers of applications. */
import { Heard, type Test } from "./kit.ts";
import { BOTH, ONE_NODE, TWO_NODES } from "./fanout.ts";
import { HISTORY } from "./history.ts";
import { STORE } from "./store.ts";
import type { Broker } from "../broker.ts";

/** Options for {@linkcode testBroker}. */
export interface BrokerTestOptions {
  /**
   * Makes two brokers of one engine, as on two nodes. Left out, traffic between nodes is not tested.
   */
  readonly makePair?: () => [Broker, Broker] | Promise<[Broker, Broker]>;
  /** Called after each test, when the brokers are closed, to end clients that were handed in. */
  readonly teardown?: () => void | Promise<void>;
  /**
   * Longest time until a publication arrives, in milliseconds.
   *
   * @default {5000}
   */
  readonly withinMs?: number;
  /**
   * Skips the suite, for a machine without the engine.
   *
   * @default {false}
   */
  readonly ignore?: boolean;
}

/**
 * Registers the conformance suite of {@linkcode Broker} with `Deno.test`: one test for each MUST of
 * the contract that can be seen from outside. Tests of histories and of the store run if the broker
 * has these.
 *
 * Some rules need tests of your own, with your engine: `publish` does not throw while the engine is
 * down, `onInterrupted` is called after that, the epoch changes when the engine may have
 * lost publications, and a client that was handed in is not ended.
 *
 * @example Testing a broker of your own
 * ```ts ignore
 * import { MemoryBroker } from "@skein/skein/pubsub";
 * import { testBroker } from "@skein/skein/testing";
 *
 * testBroker("MemoryBroker", () => new MemoryBroker());
 * ```
 *
 * @param name Name of the broker, in front of the names of the tests.
 * @param makeBroker Makes a broker for each test; the suite closes the broker.
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
