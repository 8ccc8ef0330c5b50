import { checkKilledChat } from "../programs/killed_chat.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

Deno.test({
  name: "Client.publish() arrives once, in order, though the server was killed, with RedisBroker",
  ignore: isRedisMissing,
  async fn() {
    await using store = await RedisServer.start();
    await checkKilledChat("redis", store.url);
  },
});

Deno.test({
  name: "Client.publish() arrives once, in order, though the server was killed, with NatsBroker",
  ignore: isNatsMissing,
  async fn() {
    await using store = await NatsServer.start();
    await checkKilledChat("nats", store.servers);
  },
});
