/** Attacks the limits on the limits page, with an in-memory broker and with SQLite. */
import { MemoryBroker } from "../pubsub/mod.ts";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import { assertEquals } from "@std/assert";
import { bounds } from "../tools/limits_table.ts";
import { RUNS_SLOW } from "../tools/run_tests/slow.ts";
import { QUOTAS, testQuotas, testWalks, WALKS } from "./bounds.ts";

Deno.test("Each bound with an id, and so each with a share, has an attack", async () => {
  const ids = new Set((await bounds()).flatMap(({ id }) => id ?? []));
  assertEquals(new Set([...Object.keys(WALKS), ...QUOTAS]), ids);
});

testQuotas();

testWalks({
  name: "memory",
  rooms: 550,
  bytes: 3_000_000,
  isFirst: true,
  open: (room) => {
    const broker = new MemoryBroker({ maxTopics: 500, maxTotalBytes: 1_500_000 });
    return Promise.resolve(room.adopt(broker, (broker) => broker.close()));
  },
});

// Brokers differ in the data that they store, but limits count in the same way on each.
if (RUNS_SLOW) {
  testWalks({
    name: "SQLite",
    rooms: 550,
    bytes: 4_000_000,
    open: async (room) => {
      const folder = room.adopt(
        await Deno.makeTempDir(),
        (path) => Deno.remove(path, { recursive: true }),
      );
      const broker = await SqliteBroker.open(`${folder}/a.db`, {
        maxTopics: 500,
        maxBytes: 2_097_152,
      });
      return room.adopt(broker, (broker) => broker.close());
    },
  });
}
