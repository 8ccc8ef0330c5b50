/** Tests states of which Redis or NATS has lost a part: all who use them learn the reason. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { jetstreamManager } from "@nats-io/jetstream";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { connectNats } from "../../brokers/nats/transport.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { type Broker, connect, RequestError } from "../../mod.ts";
import { durableStreams, liveState } from "../../streams/mod.ts";
import { listen } from "../servers.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { noTimers } from "./receiving.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

Deno.test({
  name: "A state of which Redis has evicted a key ends with a reason until it is deleted",
  ignore: isRedisMissing,
  async fn() {
    {
      await using server = await RedisServer.start();
      await testDamage(() => new RedisBroker({ url: server.url }), async () => {
        const [key] = (await server.keys()).filter((key) => key.includes("log-rows"));
        assertEquals(await server.run("del", key!), "1");
      });
    }
    await noTimers();
  },
});

Deno.test({
  name: "A state of which JetStream has lost a message ends with a reason until it is deleted",
  ignore: isNatsMissing,
  async fn() {
    {
      await using server = await NatsServer.start();
      const { servers } = server;
      await testDamage(() => new NatsBroker({ servers }, { shards: { logs: 1 } }), async () => {
        const connection = await connectNats({ servers });
        await (await jetstreamManager(connection)).streams.deleteMessage("skein_logs", 2);
        await connection.close();
      });
    }
    await noTimers();
  },
});

async function testDamage(open: () => Broker, damage: () => Promise<void>): Promise<void> {
  {
    await using broker = open();
    const { states } = features();
    await using _server = listen({ broker, webTransport: false, features: [states] });
    await using board = await states.open("board");
    for (const key of ["a", "b", "c"]) await board.collection("cards").set(key, key);
  }
  await damage();
  await using broker = open();
  const errors: unknown[] = [];
  const { streams, states } = features();
  await using server = listen({
    broker,
    webTransport: false,
    features: [streams, states],
    authorize: () => true,
    onError: (error) => errors.push(error),
  });
  for (let i = 0; i < 2; i++) {
    const error = await assertRejects(() => states.open("board"), RequestError);
    assertEquals(error.failure.code, "damaged");
    assertMatch(error.message, /"board" is damaged: the broker has evicted/);
  }
  await using client = connect(server.url, { transports: ["websocket"] });
  const page = await client.state("board");
  const write = page.collection("cards").set("d", "d");
  for (const promise of [page.ready, write]) {
    const error = await assertRejects(() => promise, RequestError);
    assertEquals(error.failure.code, "damaged");
  }
  assertEquals(page.status.current, "ended");
  const response = await fetch(`${server.url.replace("ws", "http")}streams/board`);
  assertEquals([response.status, (await response.json()).code], [500, "damaged"]);
  assertMatch(broker.issues().join(), /The stream "board" is damaged/);
  assertEquals(errors.length, 1);

  assert(await streams.delete("board"));
  await using board = await states.open("board");
  assertEquals(board.collection("cards").size, 0);
  await board.collection("cards").set("a", "again");
  assertEquals(broker.issues(), []);
}

function features() {
  const streams = durableStreams({ path: "/streams", authorize: () => true });
  return { streams, states: liveState() };
}
