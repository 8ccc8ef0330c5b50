/** Tests that a store recognizes what a client repeats, over real Redis, NATS and SQLite. */
import { assert, assertEquals } from "@std/assert";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import type { Broker } from "../../pubsub/mod.ts";
import { type TestServer, testServer } from "../../testing/mod.ts";
import { named, ProducingPeer } from "../peers/producing_peer.ts";
import { until } from "../waiting.ts";
import { BROKERS } from "./stores.ts";

const STORES = [...BROKERS, {
  name: "SQLite",
  ignore: false,
  start: async () => {
    const folder = await Deno.makeTempDir();
    // Only one broker may open a file.
    const broker = await SqliteBroker.open(`${folder}/skein.db`);
    const store = {
      async [Symbol.asyncDispose](): Promise<void> {
        await broker.close();
        await Deno.remove(folder, { recursive: true });
      },
    };
    return { store, open: () => broker };
  },
}];

function node(broker: Broker, seen: unknown[]): TestServer {
  return testServer({
    broker,
    history: { news: {} },
    authorize: () => true,
    onMessage: ({ data }) => void seen.push(data),
  }) as TestServer;
}

/** Introduces a producer, and returns the reply's data. */
async function introduce(peer: ProducingPeer, of: object): Promise<unknown> {
  const count = () => peer.envelopes.filter(({ reply }) => reply === 0).length;
  const before = count();
  peer.say({ producer: named("a"), id: 0, user: null, acked: 0, sent: 0, epoch: 0, ...of });
  await until(() => count() > before);
  const { data, error } = peer.envelopes.findLast(({ reply }) => reply === 0)!;
  return error === undefined ? data : (error as { code: string }).code;
}

for (const { name, ignore, start } of STORES) {
  Deno.test({
    name: `A producer goes on at another node on ${name}, and nothing is handled twice`,
    ignore,
    async fn() {
      const { store, open } = await start();
      await using _store = store;
      await using near = await open();
      await using far = await open();
      const seen: unknown[] = [];
      await using one = node(near, seen);
      await using two = node(far, seen);
      await Promise.all([one.nodes!.ready, two.nodes!.ready]);
      const items = Array.from({ length: 300 }, (_, i) => {
        const seq = i + 1;
        const topic = ["t", "news", "talk"][i % 3]!;
        return topic === "t"
          ? { topic, data: seq, seq }
          : { publish: topic, data: seq, id: seq, seq };
      });
      using first = await ProducingPeer.open(one);
      assertEquals(await introduce(first, {}), { handled: 0 });
      for (const item of items.slice(0, 60)) first.say(item);
      await until(() => first.envelopes.some(({ ack }) => ack === 20));
      using second = await ProducingPeer.open(two);
      const { handled } = await introduce(second, { acked: 20, sent: 60, epoch: 1 }) as {
        handled: number;
      };
      assert(handled >= 20 && handled <= 60);
      assertEquals(await introduce(first, { sent: 60 }), "fenced");
      // A client has at most 32 publications without a reply.
      for (let from = 20; from < items.length; from += 40) {
        for (const item of items.slice(from, from + 40)) second.say(item);
        const last = Math.min(from + 40, items.length);
        await until(() => second.envelopes.some(({ ack }) => ack === last));
      }
      assertEquals(seen, items.filter(({ topic }) => topic === "t").map(({ data }) => data));
      using reader = await ProducingPeer.open(two);
      reader.say({ subscribe: "news", id: 1, last: 1_000 });
      const wanted = items.filter(({ publish }) => publish === "news").map(({ data }) => data);
      const read = () => reader.envelopes.filter(({ topic }) => topic === "news");
      await until(() => read().length >= wanted.length);
      assertEquals(read().map(({ data }) => data), wanted);
      assertEquals(await introduce(second, { acked: 300, sent: 300, epoch: 1 }), { handled: 300 });
    },
  });
}
