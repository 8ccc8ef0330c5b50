import { durableStreams } from "../../streams/mod.ts";
/** Tests durable streams on each broker with the conformance suite of the protocol's authors. */
import { assertEquals } from "@std/assert";
import type { Broker } from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { noTimers } from "../brokers/receiving.ts";
import { isNatsMissing, NatsServer } from "../brokers/nats_server.ts";
import { isRedisMissing, RedisServer } from "../brokers/redis_server.ts";
import { listen } from "../servers.ts";
import { buildDurableStreamsSuite, builtPeers, type Peer } from "./peers.ts";

/** The long-poll timeout; the suite waits until it expires for some polls. */
const LONG_POLL_MS = 2_000;

/** The tests of the suite, except the tests of subscriptions, which are a separate protocol. */
const TESTS = 332;
const TESTS_OF_SUBSCRIPTIONS = 6;

/**
 * Attempts of a test. Most tests of the suite allow a response half a second to two seconds, which
 * may be too short on a busy machine.
 */
const MAX_ATTEMPTS = 3;

interface Report {
  readonly numPassedTests: number;
  readonly numPendingTests: number;
  readonly testResults: readonly { readonly assertionResults: readonly TestResult[] }[];
}

interface TestResult {
  readonly fullName: string;
  readonly status: string;
  readonly failureMessages: readonly string[];
}

/** A broker that keeps logs. */
interface TestedBroker {
  readonly name: string;
  /** True if the machine lacks the broker; the tests are then skipped. */
  readonly ignore?: boolean;
  /** Starts the store and its broker; the stack disposes of both. */
  start(stack: AsyncDisposableStack): Broker | Promise<Broker>;
}

const BROKERS: readonly TestedBroker[] = [
  { name: "memory", start: (stack) => stack.use(new MemoryBroker()) },
  ...(["normal", "full"] as const).map((synchronous): TestedBroker => ({
    name: `SQLite (${synchronous})`,
    async start(stack) {
      const folder = await Deno.makeTempDir();
      stack.defer(() => Deno.remove(folder, { recursive: true }));
      return stack.use(await SqliteBroker.open(`${folder}/streams.db`, { synchronous }));
    },
  })),
  {
    name: "Redis",
    ignore: isRedisMissing,
    async start(stack) {
      const { url } = stack.use(await RedisServer.start());
      return stack.use(new RedisBroker({ url }));
    },
  },
  {
    name: "NATS",
    ignore: isNatsMissing,
    async start(stack) {
      const { servers } = stack.use(await NatsServer.start());
      return stack.use(new NatsBroker({ servers }));
    },
  },
];

for (const suite of builtPeers(await buildDurableStreamsSuite())) {
  Deno.test(`durable streams pass the conformance suite ${suite.version}`, async (t) => {
    // The brokers run concurrently, because the suite mostly waits. The test as a whole checks for
    // leaks.
    await Promise.all(BROKERS.map((broker) =>
      t.step({
        name: `on ${broker.name}`,
        ignore: broker.ignore === true,
        fn: () => passOn(broker, suite),
        sanitizeOps: false,
        sanitizeResources: false,
        sanitizeExit: false,
      })
    ));
    await noTimers();
  });
}

async function passOn({ start }: TestedBroker, suite: Peer): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const broker = await start(stack);
  await using server = listen({
    broker,
    origins: ["*"],
    features: [
      durableStreams({ path: "/v1/stream", authorize: () => true, longPollMs: LONG_POLL_MS }),
    ],
  });
  const { port } = server.address!;
  const judge = async (options: readonly string[]): Promise<Report> => {
    await using child = suite.start(options, {
      SUITE: "@durable-streams/server-conformance-tests",
      STREAMS_URL: `http://127.0.0.1:${port}`,
      LONG_POLL_MS: `${LONG_POLL_MS}`,
    });
    const { stdout } = await child.output();
    return JSON.parse(new TextDecoder().decode(stdout));
  };
  const report = await judge([]);
  let failures = failuresOf(report);
  const repeated = failures.length;
  for (let attempt = 1; attempt < MAX_ATTEMPTS && failures.length > 0; attempt++) {
    const names = failures.map(({ fullName }) => RegExp.escape(fullName));
    const again = await judge(["--testNamePattern", `^(?:${names.join("|")})$`]);
    failures = failuresOf(again);
    assertEquals(again.numPassedTests + failures.length, names.length);
  }
  assertEquals(
    failures.map(({ fullName, failureMessages: [text = ""] }) => `${fullName}: ${text}`),
    [],
  );
  assertEquals(report.numPassedTests + repeated, TESTS);
  assertEquals(report.numPendingTests, TESTS_OF_SUBSCRIPTIONS);
}

function failuresOf({ testResults }: Report): TestResult[] {
  return testResults.flatMap(({ assertionResults }) => assertionResults)
    .filter(({ status }) => status === "failed");
}
