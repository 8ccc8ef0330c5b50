/** Real Redis and NATS with storage, each with brokers for any number of nodes. */
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

/** The stores. `start()` starts one; its caller ends it. */
export const BROKERS = [
  {
    name: "Redis",
    ignore: isRedisMissing,
    start: async () => {
      const store = await RedisServer.start({ append: "always" });
      return { store, open: () => new RedisBroker({ url: store.url }) };
    },
  },
  {
    name: "NATS",
    ignore: isNatsMissing,
    start: async () => {
      const store = await NatsServer.start();
      const { servers } = store;
      return { store, open: () => new NatsBroker({ servers }) };
    },
  },
];
