/** A spare Redis, for trials of brokers. */
import { RedisBroker } from "../../../../pubsub/redis/mod.ts";
import { SimulatedRedis } from "../../../../testing/simulation/redis/redis.ts";
import { SPARE_HOST, type SpareEngine, type SpareParts } from "./spare.ts";

/** Time of each command of a slow server, and of a script of another program, in milliseconds. */
const [SLOW_MS, BUSY_MS] = [20, 5_600];

/** Time for which the server is slow, or full, in milliseconds. */
const [SLOW_FOR_MS, FULL_FOR_MS] = [1_500, 2_500];

/** Time in which clients come back, in milliseconds. */
const DROP_MS = 1_000;

/** Time of loading the files at a start, in milliseconds. */
const LOADING_MS = 1_200;

/**
 * Starts a server, which keeps all writes in files, or loses all.
 *
 * @param parts See {@linkcode SpareParts}.
 * @returns The engine.
 */
export async function startSpareRedis(
  { simulation, network, random }: SpareParts,
): Promise<SpareEngine> {
  const host = simulation.host(SPARE_HOST);
  const persistence = random() < 0.5 ? "none" : "always";
  const survivesRestart = persistence === "always" && random() < 0.5;
  const loadingMs = random() < 0.3 ? LOADING_MS : 0;
  const hosts = [host] as const;
  const redis = await SimulatedRedis.create({ simulation, network, hosts, persistence, loadingMs });
  const server = redis.primary;
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
      "is busy": { lastsMs: BUSY_MS, begin: () => server.busy(BUSY_MS) },
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
      redis.restart();
    },
  };
}
