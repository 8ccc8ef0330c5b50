/**
 * Stores that keep all acknowledged data when they are killed, and their brokers.
 *
 * @module
 */
import type { Broker } from "../../../mod.ts";
import { SqliteBroker } from "../../../brokers/sqlite/mod.ts";
import { NatsServer } from "../../brokers/nats_server.ts";
import { RedisServer } from "../../brokers/redis_server.ts";
import { brokerFor } from "../chaos/broker.ts";

/** A broker that keeps all acknowledged data when it is killed. */
export interface DurableBroker extends AsyncDisposable {
  /** The broker's name in the arguments of nodes. */
  readonly url: string;
  /** Number of nodes that the broker allows. */
  readonly nodes: number;
  /** Kills the broker and restarts it. It is absent if the broker runs inside the node. */
  readonly strike?: () => Promise<void>;
}

/** Functions that start each broker, by its name. */
export const DURABLE_BROKERS: Readonly<Record<string, () => Promise<DurableBroker>>> = {
  sqlite: async () => {
    const folder = await Deno.makeTempDir({ prefix: "skein-durable-" });
    return {
      url: `${folder}/streams.db`,
      nodes: 1,
      [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
    };
  },
  redis: async () => {
    const server = await RedisServer.start({ append: "always" });
    return durable(server, server.url);
  },
  nats: async () => {
    const server = await NatsServer.start();
    return durable(server, `${server.servers}#kept`);
  },
};

/** Creates a node's broker from the URL of a store. */
export async function durableBroker(url: string): Promise<Broker> {
  return url.startsWith("/") ? await SqliteBroker.open(url) : brokerFor(url);
}

function durable(server: RedisServer | NatsServer, url: string): DurableBroker {
  return {
    url,
    nodes: 3,
    strike: async () => {
      await server.kill();
      await server.restart();
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}
