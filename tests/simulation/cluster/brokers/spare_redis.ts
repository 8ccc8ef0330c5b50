/** A spare Redis, for trials of brokers. */
import { RedisBroker } from "../../../../brokers/redis/mod.ts";
import { SimulatedRedis } from "../../../simulator/redis/redis.ts";
import { oneOf, shuffled } from "../chance.ts";
import { SPARE_HOST, type SpareParts, type SpareStore } from "./spare.ts";

/** Duration of each command on a slow server, in milliseconds. */
const SLOW_MS = 20;

/**
 * Durations of another program's script in milliseconds, one of which is chosen at random. Errors
 * start after 5 s.
 */
const BUSY_MS = [5_600, 9_000] as const;

/**
 * Errors that each write receives for a time, their possible durations in milliseconds, one of
 * which is chosen at random for each error, and the number of errors per store.
 */
const [REJECTIONS, REJECTED_MS, REJECTED] = [
  [
    "READONLY You can't write against a read only replica.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "NOREPLICAS Not enough good replicas to write.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
  ],
  [400, 2_500, 6_500],
  4,
] as const;

/** Time for which the server is slow or full, in milliseconds. */
const [SLOW_FOR_MS, FULL_FOR_MS] = [1_500, 2_500];

/** Time until clients reconnect, in milliseconds. */
const DROP_MS = 1_000;

/** Time that the server needs to load its files when it starts, in milliseconds. */
const LOADING_MS = 1_200;

/**
 * Starts a server that stores all writes in files, or loses them all when it ends.
 *
 * @param parts See {@linkcode SpareParts}.
 */
export async function startSpareRedis(
  { simulation, network, random, number }: SpareParts,
): Promise<SpareStore> {
  const host = simulation.host(SPARE_HOST + number);
  const persistence = random() < 0.5 ? "none" : "always";
  const survivesRestart = persistence === "always" && random() < 0.5;
  const loadingMs = random() < 0.3 ? LOADING_MS : 0;
  const hosts = [host] as const;
  const redis = await SimulatedRedis.create({ simulation, network, hosts, persistence, loadingMs });
  const server = redis.primary;
  const busyMs = oneOf(random, BUSY_MS);
  const rejections = shuffled(random, REJECTIONS).slice(0, REJECTED).map((error) => {
    const lastsMs = oneOf(random, REJECTED_MS);
    const begin = () => {
      server.rejectWrites(error);
      host.after(lastsMs, () => server.rejectWrites());
    };
    return [`rejects writes with ${error.split(" ", 1)[0]}`, { lastsMs, begin }] as const;
  });
  return {
    host,
    keepsEpochs: survivesRestart,
    keepsRows: persistence === "always",
    hasWindow: false,
    hasOneConnection: false,
    hiccups: {
      "drops subscribers": { lastsMs: DROP_MS, begin: () => server.dropSubscribers() },
      "drops clients": { lastsMs: DROP_MS, begin: () => server.dropClients() },
      "forgets scripts": { lastsMs: DROP_MS, begin: () => server.flushScripts() },
      "is busy": { lastsMs: busyMs, begin: () => server.busy(busyMs) },
      ...Object.fromEntries(rejections),
      "is full": {
        lastsMs: FULL_FOR_MS,
        begin: () => {
          server.limitMemory(1);
          host.after(FULL_FOR_MS, () => server.limitMemory(0));
        },
      },
      "is slow": {
        lastsMs: SLOW_FOR_MS,
        begin: () => {
          server.slow(SLOW_MS);
          host.after(SLOW_FOR_MS, () => server.slow(0));
        },
      },
    },
    get subscriptions() {
      return server.subscriptions;
    },
    broker: (host, { giveUpMs, maxWaiting, pingMs }) =>
      new RedisBroker({ client: redis.client(host) }, {
        runtime: host.runtime,
        giveUpMs,
        maxWaiting,
        heartbeatMs: pingMs,
        survivesRestart,
      }),
    restart: () => {
      server.slow(0);
      server.limitMemory(0);
      server.rejectWrites();
      redis.restart();
    },
  };
}
