import { assert, assertEquals, assertThrows } from "@std/assert";
import { BrokerError } from "../../errors.ts";
import { Simulation } from "../../tests/simulator/simulation.ts";
import {
  decodeShards,
  DEFAULT_SHARDS,
  encodeShards,
  MAX_SHARDS,
  newShards,
  shardOf,
  StreamRates,
} from "./shards.ts";

Deno.test("shardOf() spreads names evenly, and always to the same shard", () => {
  for (const count of [1, 4, 8, 16, MAX_SHARDS]) {
    const names = Array.from({ length: 1_000 * count }, (_, i) => `room:${i}`);
    const found = Map.groupBy(names, (name) => shardOf(name, count));
    assertEquals(found.size, count);
    for (const [shard, { length }] of found) {
      assert(shard < count && length > 800 && length < 1_200, `${length} of ${count}`);
    }
  }
  // Stored data depends on these.
  const names = ["", "chat:1", "board:ä", "user.ann"];
  assertEquals(names.map((name) => shardOf(name, 8)), [5, 6, 5, 7]);
});

Deno.test("decodeShards() reads what encodeShards() wrote, and rejects other numbers", () => {
  const prefix = "app";
  assertEquals(newShards({ logs: 3 }), { histories: 1, logs: 3, buckets: 8 });
  for (const counts of [DEFAULT_SHARDS, { histories: 1, logs: 1, buckets: 1 }]) {
    assertEquals(decodeShards(encodeShards(counts), { shards: {}, prefix }), counts);
  }
  const stored = encodeShards({ histories: 4, logs: 2, buckets: 1 });
  assertThrows(
    () => decodeShards(stored, { shards: { logs: 2 }, prefix }),
    BrokerError,
    'prefix "app" must be { histories: 4, logs: 2, buckets: 1 }, received { histories: 1, logs: 2,',
  );
  for (const text of ["8", "histories=1", "histories=1 logs=8 buckets=x"]) {
    assertThrows(() => decodeShards(text, { shards: {}, prefix }), BrokerError, "is damaged");
  }
});

Deno.test("StreamRates.issues() names a rate above what one stream carries, and the remedy", async () => {
  const simulation = new Simulation({ seed: 1 });
  const { runtime } = simulation.host("node");
  const rates = new StreamRates(runtime);
  const stream = "skein_logs_3";
  const write = async (from: number, perSecond: number, seconds: number) => {
    for (let i = 0; i <= seconds * 10; i++) {
      rates.note(stream, "logs", from + i * perSecond / 10);
      await simulation.run(100);
    }
    return from + seconds * perSecond;
  };
  let seq = await write(1, 15_000, 60);
  assertEquals(rates.issues(), []);
  seq = await write(seq, 30_000, 30);
  const [issue = ""] = rates.issues();
  assert(
    /^The stream skein_logs_3 stores (2\d|30)\d{3} messages per second, and/.test(issue),
    issue,
  );
  assert(issue.endsWith("carries about 20000: move to a prefix with more shards.logs"), issue);
  await simulation.run(21_000);
  assertEquals(rates.issues(), []);
  // An operator deleted the stream.
  await write(1, 100, 10);
  assertEquals(rates.issues(), []);
});
