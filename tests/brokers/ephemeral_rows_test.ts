/**
 * Tests ephemeral rows of states on two nodes that share Redis or NATS, including an outage.
 */
import { assertEquals } from "@std/assert";
import { z } from "zod";
import { connect, defineContract } from "../../mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { listen } from "../servers.ts";
import { soon, until } from "../waiting.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

const ENGINES = [
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

const contract = defineContract({
  state: { "board:{id}": { cards: z.string(), cursors: { schema: z.number(), ephemeral: true } } },
});

for (const { name, ignore, start } of ENGINES) {
  Deno.test({
    name: `Ephemeral rows on ${name} reach the other node, also after an outage`,
    ignore,
    fn: async () => {
      const { engine, open } = await start();
      await using _engine = engine;
      await using near = open();
      await using far = open();
      const options = { contract, authorize: () => true, durableStreams: { path: "/streams" } };
      await using one = listen({ ...options, broker: near });
      await using two = listen({ ...options, broker: far });
      await using _own = await one.state("board:1");
      await using ann = connect(one.url, { contract, transports: ["websocket"] });
      await using bob = connect(two.url, { contract, transports: ["websocket"] });
      using mine = await ann.state("board:1");
      using theirs = await bob.state("board:1");
      await soon(Promise.all([mine.ready, theirs.ready]));
      const [cursors, others] = [mine.collection("cursors"), theirs.collection("cursors")];
      await cursors.set("a", 1);
      await others.set("b", 1);
      await until(() => others.get("a") === 1 && cursors.get("b") === 1);
      await engine.kill();
      // Rows of the same node don't need the broker.
      await soon(cursors.set("a", 2));
      await engine.restart();
      await until(() => others.get("a") === 2);
      await others.delete("b");
      await until(() => !cursors.has("b"));
      mine[Symbol.dispose]();
      await until(() => others.size === 0);
      assertEquals([...others], []);
    },
  });
}
