/**
 * Measures how many publications per second a broker with a history accepts, and how late event
 * loop timers fire in the meantime. There are four loads: one topic with one publication at a time,
 * one topic with many at once, many topics, and many topics with a few publications every five
 * milliseconds.
 *
 * Run it with `deno task bench:appends`. Options are, for example, `--seconds 3 --bytes 200 --only
 * sqlite --folder /data`. The folder determines which disk is measured. The Redis broker needs
 * `redis-server`.
 *
 * @module
 */
import { argument, numberArgument } from "./args.ts";
import { Histogram } from "../cli/load/histogram.ts";
import { RedisServer } from "../tests/brokers/redis_server.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import type { Broker } from "../pubsub/broker.ts";
import { RedisBroker } from "../brokers/redis/mod.ts";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";

const { args } = Deno;
const SECONDS = numberArgument(args, "seconds", 3);
const BYTES = numberArgument(args, "bytes", 200);
const ONLY = argument(args, "only") ?? "";
const FOLDER = argument(args, "folder");

/** Time between two timers, in milliseconds. */
const TIMER_MS = 5;

const BOUNDS = { size: 1_000, ttlMs: 300_000, bytes: 1_048_576 };
const PAYLOAD = `"${"x".repeat(BYTES - 2)}"`;

/** Number of topics, and of concurrent publications or publications per timer interval. */
interface Load {
  readonly topics: number;
  readonly atOnce?: number;
  readonly perTimer?: number;
}

const LOADS: readonly Load[] = [
  { topics: 1, atOnce: 1 },
  { topics: 1, atOnce: 256 },
  { topics: 1_000, atOnce: 256 },
  { topics: 1_000, perTimer: 10 },
];

const BROKERS: Readonly<Record<string, (stack: AsyncDisposableStack) => Promise<Broker>>> = {
  "memory": () => Promise.resolve(new MemoryBroker()),
  "sqlite, normal": () => sqlite("normal"),
  "sqlite, full": () => sqlite("full"),
  "redis, everysec": (stack) => redis("everysec", stack),
  "redis, always": (stack) => redis("always", stack),
};

async function sqlite(synchronous: "normal" | "full"): Promise<Broker> {
  const folder = await Deno.makeTempDir(FOLDER === undefined ? {} : { dir: FOLDER });
  return await SqliteBroker.open(`${folder}/bench.db`, { synchronous });
}

async function redis(append: "everysec" | "always", stack: AsyncDisposableStack): Promise<Broker> {
  const server = stack.use(await RedisServer.start({ append }));
  return new RedisBroker({ url: server.url }, { survivesRestart: append === "always" });
}

/** Appends for a time; returns the appends per second and the delay of timers. */
async function load(
  broker: Broker,
  { topics, atOnce = 0, perTimer = 0 }: Load,
): Promise<{ perSecond: number; histogram: Histogram }> {
  const names = Array.from({ length: topics }, (_, i) => `topic:${i}`);
  let [appended, next, isOver] = [0, 0, false];
  const append = async () => {
    const topic = names[next++ % topics]!;
    await broker.history!.append({ topic, payload: PAYLOAD, bytes: BYTES }, { bounds: BOUNDS });
    appended++;
  };
  const publish = async () => {
    while (!isOver) {
      await append();
      // A broker in memory would otherwise never yield to the event loop.
      if (appended % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const publishers = Array.from({ length: atOnce }, publish);
  await wait(500);
  const histogram = new Histogram();
  const [begin, before] = [performance.now(), appended];
  for (let at = begin; at < begin + SECONDS * 1_000; at = performance.now()) {
    await wait(TIMER_MS);
    for (let i = 0; i < perTimer; i++) void append();
    histogram.add((performance.now() - at - TIMER_MS) * 1_000);
  }
  const perSecond = (appended - before) / (performance.now() - begin) * 1_000;
  isOver = true;
  await Promise.all(publishers);
  return { perSecond, histogram };
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

console.log(`${BYTES} bytes, ${SECONDS} s per row`);
console.log("broker            topics  at once   appends/s   timers late p50, p99 (ms)");
for (const [name, make] of Object.entries(BROKERS)) {
  if (!name.includes(ONLY)) continue;
  await using stack = new AsyncDisposableStack();
  const broker = stack.use(await make(stack));
  for (const each of LOADS) {
    const { perSecond, histogram } = await load(broker, each);
    const [p50, p99] = [0.5, 0.99].map((q) => histogram.quantileMs(q).toFixed(1));
    console.log(
      `${name.padEnd(16)} ${`${each.topics}`.padStart(7)} ${
        `${each.atOnce ?? "timed"}`.padStart(8)
      } ${Math.round(perSecond).toLocaleString("en").padStart(11)}   ${p50}, ${p99}`,
    );
  }
}
