/**
 * Measures how many changes of one row per second a live state accepts, beside records of a durable
 * stream and publications on a topic with a history, by broker.
 *
 * ```sh
 * deno task bench:state:appends --seconds 3 --only redis
 * ```
 *
 * The brokers need `redis-server` and `nats-server`. They run on the same machine, and keep what
 * they have confirmed if they are killed, but SQLite and Redis may lose the last second if the
 * machine fails.
 *
 * @module
 */
import process from "node:process";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { type Broker, MemoryBroker, serve, type Server } from "../../mod.ts";
import {
  type DurableStreams,
  durableStreams,
  liveState,
  type LiveStates,
} from "@skein/skein/streams";
import { NatsServer } from "../../tests/brokers/nats_server.ts";
import { RedisServer } from "../../tests/brokers/redis_server.ts";
import { argument, numberArgument } from "../args.ts";

const { args } = Deno;
const SECONDS = numberArgument(args, "seconds", 3);
const RUNS = numberArgument(args, "runs", 3);
const ONLY = argument(args, "only") ?? "";

/** Numbers of concurrent appends. */
const AT_ONCE = [1, 64];

/** Maximum size of the stream of records, and of all that a broker in memory stores, in bytes. */
const MAX_BYTES = 4_294_967_296;

const ROWS = 100;
const TEXT = "x".repeat(98);

const BROKERS: Readonly<Record<string, (stack: AsyncDisposableStack) => Promise<Broker>>> = {
  memory: () => Promise.resolve(new MemoryBroker({ maxTotalBytes: MAX_BYTES })),
  sqlite: async () => await SqliteBroker.open(`${await Deno.makeTempDir()}/bench.db`),
  redis: async (stack) => new RedisBroker({ url: stack.use(await RedisServer.start()).url }),
  nats: async (stack) => new NatsBroker({ servers: stack.use(await NatsServer.start()).servers }),
};

type Append = () => Promise<unknown>;

/** A server, with the handles of its features. */
interface Ends {
  readonly server: Server;
  readonly streams: DurableStreams;
  readonly states: LiveStates;
}

/** The kinds of appends. A stream combines concurrent records, and a broker concurrent changes. */
const WORK: Readonly<Record<string, (ends: Ends) => Promise<Append>>> = {
  "publication": ({ server }) => Promise.resolve(() => server.topics.append("bench", TEXT)),
  "record": async ({ streams }) => {
    const writer = await streams.create("plain");
    return () => writer.append(TEXT);
  },
  "change": async ({ states }) => {
    const rows = (await states.open("state")).collection("rows");
    let count = 0;
    return () => rows.set(`${count++ % ROWS}`, TEXT);
  },
};

/** Appends for a time. */
async function load(append: Append, atOnce: number): Promise<[perSecond: number, cpuUs: number]> {
  let [appended, isOver] = [0, false];
  const writers = Array.from({ length: atOnce }, async () => {
    while (!isOver) {
      await append();
      appended++;
      // A broker in memory would otherwise never yield to the event loop.
      await new Promise((resolve) => setImmediate(resolve));
    }
  });
  await wait(SECONDS * 500);
  const [begin, before, cpu] = [performance.now(), appended, process.cpuUsage()];
  await wait(SECONDS * 1_000);
  const [count, took] = [appended - before, performance.now() - begin];
  const { user, system } = process.cpuUsage(cpu);
  isOver = true;
  await Promise.all(writers);
  return [count / took * 1_000, (user + system) / count];
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Formats minimum, median and maximum. */
function summary(values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  return [sorted[0], sorted[sorted.length >> 1], sorted.at(-1)]
    .map((value) => value!.toFixed(0)).join(" / ");
}

for (const [name, start] of Object.entries(BROKERS)) {
  if (!name.includes(ONLY)) continue;
  await using stack = new AsyncDisposableStack();
  const streams = durableStreams({ path: "/streams", maxStreamBytes: MAX_BYTES });
  const states = liveState();
  await using broker = await start(stack);
  await using server = serve({
    port: 0,
    onListen() {},
    webTransport: false,
    broker,
    history: { bench: { size: 1_000, ttlMs: 300_000 } },
    features: [streams, states],
  });
  const appends = new Map<string, Append>();
  for (const [work, make] of Object.entries(WORK)) {
    appends.set(work, await make({ server, streams, states }));
  }
  for (const atOnce of AT_ONCE) {
    const results = new Map<string, [number, number][]>();
    for (let run = 0; run < RUNS; run++) {
      for (const [work, append] of appends) {
        results.set(work, [...results.get(work) ?? [], await load(append, atOnce)]);
      }
    }
    for (const [work, all] of results) {
      console.log(
        `${name}, ${atOnce} at once, ${work}: ${summary(all.map(([rate]) => rate))} per second, ` +
          `${summary(all.map(([, us]) => us))} µs of CPU each`,
      );
    }
  }
}
