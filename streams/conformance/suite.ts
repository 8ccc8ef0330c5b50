/** The conformance suite of brokers with logs, also for brokers of applications. */
import type { Broker } from "../../pubsub/broker.ts";
import type { Test } from "../../pubsub/conformance/kit.ts";
import { type BrokerTestOptions, registerTests } from "../../pubsub/conformance/suite.ts";
import { LOGS } from "./logs.ts";
import { ROWS } from "./rows.ts";

/** Tests of one broker, and between two brokers of one store, by name. */
export const LOG_TESTS: Readonly<Record<string, Test>> = { ...LOGS, ...ROWS };

/**
 * Registers the conformance suite of {@linkcode LogBroker} with `Deno.test`: one test for each
 * observable MUST of the contract of logs. Each test fails if the broker has no logs. Tests of rows
 * run if the logs keep them. `testBroker` tests the rest of the broker.
 *
 * @example Testing your own broker
 * ```ts ignore
 * import { MemoryBroker } from "@skein/skein/pubsub";
 * import { testBroker, testBrokerLogs } from "@skein/skein/testing";
 *
 * testBroker("MemoryBroker", () => new MemoryBroker());
 * testBrokerLogs("MemoryBroker", () => new MemoryBroker());
 * ```
 *
 * @param name Name of the broker, a prefix of the test names.
 * @param makeBroker Creates a broker for each test; the suite closes the broker.
 * @param options See {@linkcode BrokerTestOptions}.
 */
export function testBrokerLogs(
  name: string,
  makeBroker: () => Broker | Promise<Broker>,
  options: BrokerTestOptions = {},
): void {
  registerTests([name, LOG_TESTS, LOG_TESTS], makeBroker, options);
}
