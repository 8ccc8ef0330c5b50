/**
 * Runs the suite for every broker on the broker of workers whose main thread uses Redis or NATS.
 */
import type { Broker } from "../../pubsub/broker.ts";
import { connectTo } from "../../pubsub/ports/ports_fixture.ts";
import { LOGS_PART } from "../../streams/logs/logs_of.ts";
import { testBroker } from "../../pubsub/conformance/suite.ts";
import { testBrokerLogs } from "../../streams/conformance/suite.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { noTimers } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

let redis: RedisServer;
let nats: NatsServer;

Deno.test.beforeAll(async () => {
  if (!isRedisMissing) redis = await RedisServer.start();
  if (!isNatsMissing) nats = await NatsServer.start();
});

Deno.test.afterAll(async () => {
  await redis?.[Symbol.asyncDispose]();
  await nats?.[Symbol.asyncDispose]();
});

testWorkers("Redis", () => new RedisBroker({ url: redis.url }), isRedisMissing);
testWorkers("NATS", () => new NatsBroker({ servers: nats.servers }), isNatsMissing);

/** Runs the suite on a store, for one worker and for two. */
function testWorkers(name: string, makeBroker: () => Broker, ignore: boolean): void {
  const stores: Broker[] = [];
  const connect = (count: number) => {
    const store = makeBroker();
    stores.push(store);
    return connectTo(store, count, [LOGS_PART]);
  };
  for (const suite of [testBroker, testBrokerLogs]) {
    suite(`PortBroker on ${name}`, () => connect(1)[0]!, {
      makePair: () => {
        const [one, two] = connect(2);
        return [one!, two!];
      },
      async teardown() {
        for (const store of stores.splice(0)) await store.close();
        await noTimers();
      },
      skipSlow: true,
      ignore,
    });
  }
}
