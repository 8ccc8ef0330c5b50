/**
 * Tests ephemeral rows of states on two nodes that share Redis or NATS, including an outage, and on
 * two workers that share the broker of their main thread.
 */
import { assertEquals } from "@std/assert";
import { z } from "zod";
import { connect, defineContract } from "../../mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { connectTo } from "../../pubsub/ports/ports_fixture.ts";
import { LOGS_PART } from "../../streams/logs/logs_of.ts";
import { listen } from "../servers.ts";
import { soon, until } from "../waiting.ts";
import { BROKERS } from "./stores.ts";
import { statesOf, streamFeatures } from "../stream_features.ts";

const contract = defineContract({
  state: { "board:{id}": { cards: z.string(), cursors: { schema: z.number(), ephemeral: true } } },
});

/** Opens the same state by two clients, each on a node of its own. */
async function openBoards(room: AsyncDisposableStack, near: Broker, far: Broker) {
  const options = () => ({
    contract,
    authorize: () => true,
    features: streamFeatures({ path: "/streams" }),
  });
  const one = room.use(listen({ ...options(), broker: near }));
  const two = room.use(listen({ ...options(), broker: far }));
  room.use(await statesOf(one).open("board:1"));
  const ann = room.use(connect(one.url, { contract, transports: ["websocket"] }));
  const bob = room.use(connect(two.url, { contract, transports: ["websocket"] }));
  const [mine, theirs] = [
    room.use(await ann.state("board:1")),
    room.use(await bob.state("board:1")),
  ];
  await soon(Promise.all([mine.ready, theirs.ready]));
  return { mine, cursors: mine.collection("cursors"), others: theirs.collection("cursors") };
}

for (const { name, ignore, start } of BROKERS) {
  Deno.test({
    name: `Ephemeral rows on ${name} reach the other node, also after an outage`,
    ignore,
    fn: async () => {
      const { store, open } = await start();
      await using _store = store;
      await using near = open();
      await using far = open();
      await using room = new AsyncDisposableStack();
      const { mine, cursors, others } = await openBoards(room, near, far);
      await cursors.set("a", 1);
      await others.set("b", 1);
      await until(() => others.get("a") === 1 && cursors.get("b") === 1);
      await store.kill();
      // Rows of the same node don't need the broker.
      await soon(cursors.set("a", 2));
      await store.restart();
      await until(() => others.get("a") === 2);
      await others.delete("b");
      await until(() => !cursors.has("b"));
      mine[Symbol.dispose]();
      await until(() => others.size === 0);
      assertEquals([...others], []);
    },
  });
}

const SHARED: Readonly<Record<string, (folder: string) => Broker | Promise<Broker>>> = {
  memory: () => new MemoryBroker(),
  SQLite: (folder) => SqliteBroker.open(`${folder}/broker.db`),
};

for (const [name, make] of Object.entries(SHARED)) {
  Deno.test(`Ephemeral rows of workers on ${name} reach the other worker`, async () => {
    const folder = await Deno.makeTempDir();
    {
      await using store = await make(folder);
      const [near, far] = connectTo(store, 2, [LOGS_PART]);
      await using _near = near!;
      await using _far = far!;
      await using room = new AsyncDisposableStack();
      const { mine, cursors, others } = await openBoards(room, near!, far!);
      await cursors.set("a", 1);
      await others.set("b", 1);
      await until(() => others.get("a") === 1 && cursors.get("b") === 1);
      await others.delete("b");
      await until(() => !cursors.has("b"));
      mine[Symbol.dispose]();
      await until(() => others.size === 0);
    }
    await Deno.remove(folder, { recursive: true });
  });
}
