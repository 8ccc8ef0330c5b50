/** Real Redis and NATS with storage, each with brokers for any number of nodes. */
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

/** The engines. `start()` starts one; its caller ends it. */
export const ENGINES = [
  {
    name: "Redis",
    ignore: isRedisMissing,
    start: async () => {
      const engine = await RedisServer.start({ append: "always" });
      return { engine, open: () => new RedisBroker({ url: engine.url }) };
    },
  },
  {
    name: "NATS",
    ignore: isNatsMissing,
    start: async () => {
      const engine = await NatsServer.start();
      const { servers } = engine;
      return { engine, open: () => new NatsBroker({ servers }) };
    },
  },
];
