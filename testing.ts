/**
 * What tests need: two ends in one process with faults on demand, and the
 * suite that every broker passes.
 *
 * @example A message over a slow line, in fake time
 * ```ts
 * import { memoryPair } from "@skein/skein/testing";
 * import { Session, sessionSettings } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const { client, server } = memoryPair({ faults: { delayMs: 5 } });
 * await using near = new Session(server, sessionSettings({ side: "server" }));
 * await using far = new Session(client, sessionSettings({ side: "client" }));
 * near.send("hello");
 * for await (const message of far) {
 *   assertEquals(message.topic, "hello");
 *   break;
 * }
 * ```
 *
 * @module
 */
export { type BrokerTestOptions, testBroker } from "./pubsub/broker_conformance.ts";
export {
  type DisconnectOptions,
  type MemoryDirection,
  type MemoryFaults,
  type MemoryLink,
  type MemoryPair,
  memoryPair,
  type MemoryPairOptions,
} from "./transport/mod.ts";
