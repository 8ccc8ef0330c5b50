/** Tests the inspector of two nodes on real stores: lists, histories, latency, and an outage. */
import { assert, assertEquals } from "@std/assert";
import { dial, type ServeOptions } from "../../mod.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import type { NodeReply } from "../../operations/inspector/cluster.ts";
import type {
  HistoryReply,
  ListReply,
  NodeOverview,
} from "../../operations/inspector/questions.ts";
import { listen } from "../servers.ts";
import { noTimers } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";
import { until } from "../waiting.ts";
import { inspector } from "../../operations/mod.ts";

interface BrokerServer {
  readonly server: AsyncDisposable & { kill(): Promise<void>; restart(): Promise<void> };
  readonly connect: () => Broker;
}

const BROKERS: Readonly<Record<string, [isMissing: boolean, start: () => Promise<BrokerServer>]>> =
  {
    redis: [isRedisMissing, async () => {
      const server = await RedisServer.start();
      return { server, connect: () => new RedisBroker({ url: server.url }) };
    }],
    nats: [isNatsMissing, async () => {
      const server = await NatsServer.start();
      return { server, connect: () => new NatsBroker({ servers: server.servers }) };
    }],
  };

for (const [name, [ignore, start]] of Object.entries(BROKERS)) {
  Deno.test({
    name: `Inspector shows both nodes on ${name} and an outage of the broker`,
    ignore,
    async fn() {
      {
        const { server: store, connect } = await start();
        await using _store = store;
        await using one = connect();
        await using two = connect();
        const options: ServeOptions<string> = {
          features: [inspector()],
          rooms: ["room:{name}"],
          history: { "room:{name}": {} },
          authenticate: ({ request }) => new URL(request.url).searchParams.get("name")!,
        };
        await using north = listen({ ...options, broker: one, node: { name: "north" } });
        await using south = listen({
          ...options,
          broker: two,
          node: { name: "south" },
          onOpen: (session) => void south.rooms.join(session, "room:a"),
        });
        await using _bob = await dial(`${south.url}?name=bob`, { onMessage() {}, onError() {} });
        const ask = async <T>(question: string): Promise<T> => {
          const url = `${north.url.replace("ws:", "http:")}inspector/data/${question}`;
          const response = await fetch(url, { headers: { "skein-inspector": "1" } });
          assertEquals(response.status, 200);
          return await response.json();
        };
        const overview = (
          holds: (all: readonly NodeOverview[]) => boolean,
        ): Promise<readonly NodeOverview[]> =>
          until(async () => {
            const { nodes } = await ask<{ nodes: NodeReply<NodeOverview>[] }>("overview");
            const all = nodes.flatMap((node) => "reply" in node ? [node.reply] : []);
            return holds(all) && all;
          });
        const both = await overview((all) =>
          all.length === 2 && all.every(({ broker }) => broker.latencyMs !== undefined)
        );
        for (const { broker } of both) {
          assertEquals([broker.name, broker.state], [name, "connected"]);
          assert(broker.latencyMs! > 0);
        }
        for (let n = 1; n <= 300; n++) await south.topics.append("room:a", { n });
        const { history } = await ask<{ history: HistoryReply }>("topic?id=room:a");
        assertEquals([history.messages, history.isPartial], [300, false]);
        assertEquals(history.newest[0]?.text, '{"n":300}');
        // A busy node may reply too late to be in a list.
        const rows = await until(async () => {
          const { rows } = await ask<ListReply>("sessions");
          return rows.length > 0 && rows;
        });
        assertEquals(rows.map((row) => "user" in row && row.user), ["bob"]);

        await store.kill();
        const [alone] = await overview(([first]) => first?.broker.state === "interrupted");
        assert(alone!.broker.issues.length > 0);
        const away = await ask<{ history: object }>("topic?id=room:b");
        assert("unavailable" in away.history, JSON.stringify(away));
        await store.restart();
        await overview((all) => all.length === 2 && all[0]!.broker.state === "connected");
      }
      await noTimers();
    },
  });
}
