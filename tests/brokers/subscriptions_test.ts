/**
 * Tests that subscriptions on real stores are active on every node once their promise resolves.
 */
import { assertEquals } from "@std/assert";
import type { Broker } from "../../pubsub/broker.ts";
import { Client } from "../../pubsub/clients_fixture.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { Topics } from "../../pubsub/topics.ts";
import { BOUNDS } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";
import { until } from "../waiting.ts";

/** Topics with and without a history, each with its first subscriber. */
const TOPICS = Array.from({ length: 100 }, (_, i) => `${i % 2 === 0 ? "kept" : "plain"}:${i}`);

/**
 * Subscribes to all topics on one node. Once the subscriptions are active, the other node publishes
 * one message to each topic.
 */
async function reaches(near: Broker, far: Broker): Promise<void> {
  const history = { "kept:{n}": BOUNDS };
  await using publishing = new Topics({ broker: near, history });
  await using topics = new Topics({ broker: far, history });
  await using client = new Client(topics.flusher);
  const asked = TOPICS.slice(0, 50).map((topic) => topics.subscribe(client.session, topic));
  for (const topic of TOPICS.slice(50)) client.subscribe(topics, topic, { isRequested: true });
  assertEquals(new Set(await Promise.all(asked)), new Set([true]));
  const replies = () => client.lines.filter(({ topic }) => topic === "reply").length;
  await until(() => replies() === 50);
  for (const topic of TOPICS) publishing.publish(topic, topic);
  const heard = () =>
    client.lines.filter(({ topic }) => TOPICS.includes(`${topic}`)).map(({ topic }) => `${topic}`);
  await until(() => heard().length >= TOPICS.length);
  assertEquals(heard().toSorted(), TOPICS.toSorted());
}

Deno.test({
  name: "Topics.subscribe() on NATS is active once it resolved or its client received the reply",
  ignore: isNatsMissing,
  async fn() {
    await using server = await NatsServer.start();
    await using near = new NatsBroker({ servers: server.servers });
    await using far = new NatsBroker({ servers: server.servers });
    await reaches(near, far);
  },
});

Deno.test({
  name: "Topics.subscribe() on Redis is active once it resolved or its client received the reply",
  ignore: isRedisMissing,
  async fn() {
    await using server = await RedisServer.start();
    await using near = new RedisBroker({ url: server.url });
    await using far = new RedisBroker({ url: server.url });
    await reaches(near, far);
  },
});
