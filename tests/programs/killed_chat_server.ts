/**
 * The program of the tests that kill a chat's server: a chat with a history and guests, in its own
 * process.
 *
 * The arguments are the port, the broker, and the place where the broker keeps data. The program
 * prints a line once the server is listening.
 *
 * @module
 */
import { MemoryBroker } from "../../pubsub/mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { serve } from "../../mod.ts";

/** Opens each broker. The argument is a file or an address. */
const BROKERS = {
  memory: () => new MemoryBroker(),
  sqlite: (file: string) => SqliteBroker.open(file),
  redis: (url: string) => new RedisBroker({ url }),
  nats: (servers: string) => new NatsBroker({ servers }),
} as const satisfies Record<string, (place: string) => Broker | Promise<Broker>>;

/** A broker that outlives the server, or `memory`. */
export type ChatBroker = keyof typeof BROKERS;

if (import.meta.main) {
  const [port, broker, place] = Deno.args;
  serve({
    port: Number(port),
    hostname: "127.0.0.1",
    onListen: () => console.log("listening"),
    broker: await BROKERS[broker as ChatBroker](place!),
    history: { "chat:{room}": {} },
    authorize: () => true,
  });
}
