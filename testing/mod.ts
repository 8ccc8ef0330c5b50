/**
 * The test kit: sessions, servers and clients in one process, with the test's clock and faults on
 * demand; leak checks; and the conformance suites for brokers.
 *
 * - {@linkcode memorySessions}: two connected sessions, to test one handler.
 * - {@linkcode testServer}: a whole server without sockets, with clients that reconnect.
 * - {@linkcode memoryPair}: two connections, and the link between them with faults.
 * - {@linkcode receive}, {@linkcode nextEvent}, {@linkcode turns}, {@linkcode passTime}: waiting
 *   without sleeping.
 * - {@linkcode assertNoLeaks}, {@linkcode watchLeaks}: checks for leaked sessions, subscriptions,
 *   presence and streams.
 *
 * @example A handler in fake time, over a slow connection
 * ```ts
 * import { memorySessions, passTime, receiveOne } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 * import { FakeTime } from "@std/testing/time";
 *
 * using time = new FakeTime();
 * await using pair = memorySessions({
 *   server: { onMessage: ({ data }, session) => session.send("echo", data) },
 *   wire: { faults: { delayMs: 50 } },
 * });
 * await passTime(time, 50); // The server's first envelope.
 * pair.client.send("say", "hello");
 * await passTime(time, 100);
 * assertEquals((await receiveOne(pair.client)).data, "hello");
 * ```
 *
 * @module
 */
export { type BrokerTestOptions, testBroker } from "../pubsub/conformance/suite.ts";
export { testBrokerLogs } from "../streams/conformance/suite.ts";
export { assertNoLeaks, type LeakSubject, watchLeaks } from "./leaks.ts";
export {
  type MemorySessions,
  memorySessions,
  type MemorySessionsOptions,
} from "./memory_sessions.ts";
export { type PlayedSession, playSession, type PlaySessionOptions } from "./play_session.ts";
export { nextEvent, receive, receiveOne } from "./receive.ts";
export {
  TestNetwork,
  type TestRequestOptions,
  TestServer,
  testServer,
  type TestServerOptions,
} from "./test_server.ts";
export { passTime, turns } from "./turns.ts";
export { memoryPair } from "../transport/mod.ts";
