/** Durable streams judged by the conformance suite of the protocol's authors, on each engine. */
import { assertEquals } from "@std/assert";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { SqliteBroker } from "../../pubsub/sqlite/mod.ts";
import { listen } from "../servers.ts";
import { NatsBroker } from "../../pubsub/nats/mod.ts";
import { isNatsMissing, NatsServer } from "../brokers/nats_server.ts";
import { buildDurableStreamsSuite, builtPeers } from "./peers.ts";

/** Time after which a long-poll is answered: the suite waits for some. */
const LONG_POLL_MS = 2_000;

/** Tests of the suite: all but those of subscriptions, which are another protocol. */
const TESTS = 332;
const TESTS_OF_SUBSCRIPTIONS = 6;

/** The part of the report that the test reads. */
interface Report {
  readonly numPassedTests: number;
  readonly numPendingTests: number;
  readonly testResults: readonly {
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

/** An engine, with what has to end after its server. */
interface Engine {
  readonly name: string;
  /** True on a machine without the engine, where such tests are skipped. */
  readonly ignore?: boolean;
  start(): Promise<AsyncDisposable & { readonly broker: Broker }>;
}

const ENGINES: readonly Engine[] = [
  {
    name: "memory",
    start: () => {
      const broker = new MemoryBroker();
      return Promise.resolve({ broker, [Symbol.asyncDispose]: () => broker.close() });
    },
  },
  {
    name: "NATS",
    ignore: isNatsMissing,
    start: async () => {
      const stack = new AsyncDisposableStack();
      const { servers } = stack.use(await NatsServer.start());
      const broker = stack.use(new NatsBroker({ servers }));
      return { broker, [Symbol.asyncDispose]: () => stack.disposeAsync() };
    },
  },
  ...(["normal", "full"] as const).map((synchronous) => ({
    name: `SQLite, ${synchronous},`,
    start: async () => {
      const folder = await Deno.makeTempDir();
      const broker = await SqliteBroker.open(`${folder}/streams.db`, { synchronous });
      return {
        broker,
        async [Symbol.asyncDispose]() {
          await broker.close();
          await Deno.remove(folder, { recursive: true });
        },
      };
    },
  })),
];

for (const suite of builtPeers(await buildDurableStreamsSuite())) {
  for (const { name, ignore = false, start } of ENGINES) {
    const title = `durable streams on ${name} pass the conformance suite ${suite.version}`;
    Deno.test(title, { ignore }, async () => {
      await using engine = await start();
      await using server = listen({
        broker: engine.broker,
        origins: ["*"],
        durableStreams: { path: "/v1/stream", authorize: () => true, longPollMs: LONG_POLL_MS },
      });
      const { port } = server.address!;
      await using child = suite.start([], {
        SUITE: "@durable-streams/server-conformance-tests",
        STREAMS_URL: `http://127.0.0.1:${port}`,
        LONG_POLL_MS: `${LONG_POLL_MS}`,
      });
      const { stdout } = await child.output();
      const report: Report = JSON.parse(new TextDecoder().decode(stdout));
      const failures = report.testResults.flatMap(({ assertionResults }) => assertionResults)
        .filter(({ status }) => status === "failed")
        .map(({ fullName, failureMessages }) => `${fullName}: ${failureMessages[0]}`);
      assertEquals(failures, []);
      assertEquals(report.numPassedTests, TESTS);
      assertEquals(report.numPendingTests, TESTS_OF_SUBSCRIPTIONS);
    });
  }
}
