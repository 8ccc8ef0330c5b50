/** The walk through the table of bounds, on memory and SQLite. */
import { MemoryBroker } from "../pubsub/mod.ts";
import { SqliteBroker } from "../pubsub/sqlite/mod.ts";
import { testWalks } from "./bounds.ts";

testWalks({
  name: "memory",
  rooms: 10_050,
  open: (room) => Promise.resolve(room.adopt(new MemoryBroker(), (broker) => broker.close())),
});

testWalks({
  name: "SQLite",
  rooms: 550,
  open: async (room) => {
    const folder = room.adopt(
      await Deno.makeTempDir(),
      (path) => Deno.remove(path, { recursive: true }),
    );
    const broker = await SqliteBroker.open(`${folder}/a.db`, { maxTopics: 500 });
    return room.adopt(broker, (broker) => broker.close());
  },
});
