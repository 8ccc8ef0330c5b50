/**
 * The stores that the chaos test kills and restarts, and their brokers.
 *
 * @module
 */
import { lowPort } from "../../networks/ports.ts";
import type { Broker } from "../../../mod.ts";
import { NatsBroker } from "../../../brokers/nats/mod.ts";
import { RedisBroker } from "../../../brokers/redis/mod.ts";
import { NatsServer } from "../../brokers/nats_server.ts";
import { RedisServer } from "../../brokers/redis_server.ts";

/** Bounds of each topic's history. */
export const HISTORY = { size: 20_000, ttlMs: 600_000, bytes: 16 * 1_048_576 } as const;

/** Topics of the test: `chaos:0` and so on. */
export const TOPICS = 20;

/** The pattern of the topics. */
export const PATTERN = "chaos:{number}";

/**
 * The name of a broker and of the data that survives a restart: none, the append-only file, the
 * last snapshot, or the streams. With `nats-kept`, the nodes are configured for streams that
 * survive.
 */
export type BrokerName = "redis" | "redis-aof" | "redis-snapshot" | "nats" | "nats-kept";

/** Suffix of the URL of a broker that loses no data when it is killed. */
const KEPT = "#kept";

/** A broker in a separate process. */
export interface BrokerServer extends AsyncDisposable {
  /** URL of the broker for the nodes. */
  readonly url: string;
  /** Id of the process while it is running. */
  readonly pid: number;
  /** The number of commands so far, by the broker's name for the command. */
  counts(): Promise<Readonly<Record<string, number>>>;
  /** Kills the broker as `kill -9` does. */
  kill(): Promise<void>;
  /** Restarts the broker. Resolves once the broker replies. */
  restart(): Promise<void>;
}

export async function startBroker(name: BrokerName): Promise<BrokerServer> {
  if (name === "nats") return await startNats("");
  return name === "nats-kept" ? await startNats(KEPT) : await startRedis(name);
}

async function startRedis(name: Exclude<BrokerName, "nats" | "nats-kept">): Promise<BrokerServer> {
  const server = await RedisServer.start(name === "redis-aof" ? { append: "everysec" } : {});
  return {
    url: server.url,
    get pid() {
      return server.pid;
    },
    counts: async () => {
      const lines = (await server.run("info", "commandstats")).matchAll(
        /^cmdstat_(.+):calls=(\d+)/gm,
      );
      return Object.fromEntries(lines.map(([, command, calls]) => [command, Number(calls)]));
    },
    kill: () => server.kill(),
    restart: async () => {
      await server.restart();
      // The broker loads this snapshot at the next start. It lacks all later data.
      if (name === "redis-snapshot") await server.run("save");
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

async function startNats(suffix: string): Promise<BrokerServer> {
  const monitor = lowPort();
  const server = await NatsServer.start({ settings: `http: "127.0.0.1:${monitor}"` });
  return {
    url: server.servers + suffix,
    get pid() {
      return server.pid;
    },
    counts: async () => {
      const response = await fetch(`http://127.0.0.1:${monitor}/varz`);
      const { in_msgs, out_msgs, subscriptions } = await response.json();
      return { in_msgs, out_msgs, subscriptions };
    },
    kill: () => server.kill(),
    restart: () => server.restart(),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** Makes a node's broker. */
export function brokerFor(url: string): Broker {
  // In this test the broker is down for seconds, and the nodes must not give up in the meantime.
  const patience = { giveUpMs: 60_000 };
  return url.startsWith("redis")
    ? new RedisBroker({ url }, patience)
    : new NatsBroker({ servers: url.replace(KEPT, "") }, {
      ...patience,
      survivesRestart: url.endsWith(KEPT),
    });
}
