/** Attacks all limits in the table on Redis and NATS. */
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { testWalks } from "../bounds.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

// Neither store limits the number of topics with a history.
testWalks({
  name: "Redis",
  ignore: isRedisMissing,
  rooms: 1_000,
  open: async (room) => {
    const server = room.use(await RedisServer.start());
    return room.adopt(new RedisBroker({ url: server.url }), (broker) => broker.close());
  },
});

testWalks({
  name: "NATS",
  ignore: isNatsMissing,
  rooms: 1_000,
  open: async (room) => {
    const server = room.use(await NatsServer.start());
    return room.adopt(new NatsBroker({ servers: server.servers }), (broker) => broker.close());
  },
});
