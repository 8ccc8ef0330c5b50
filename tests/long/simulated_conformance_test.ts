/**
 * The requirements of every broker on the simulator: two runs with one seed are the same, and
 * NatsBroker also meets them with shards and on a cluster.
 */
import { assertEquals } from "@std/assert";
import { REQUIREMENTS } from "../simulator/nats/conformance_fixture.ts";
import { Bench, requirementsOf } from "../simulator/redis/redis_conformance_fixture.ts";

/**
 * Servers of this version accept two concurrent changes of one row of a replicated bucket:
 * https://github.com/nats-io/nats-server/issues/4320. `docs/deploy/nats.md` says so to users.
 */
const BROKEN_IN_CLUSTERS: ReadonlySet<string> = new Set([
  "grants as many concurrent claims as there are slots",
]);

/** Numbers of each kind of shard, besides the default ones. */
const SHARDS = [1, 4, 16];

for (const { name, isPair, run } of REQUIREMENTS) {
  const broker = isPair ? "NatsBroker of two nodes" : "NatsBroker";
  Deno.test(`${broker} on a modeled server ${name}, twice the same way`, async () => {
    assertEquals(await run(1), await run(1));
  });
  for (const count of SHARDS) {
    Deno.test(`${broker} with ${count} shards on a modeled server ${name}`, async () => {
      await run(1, count);
    });
  }
  if (!isPair || BROKEN_IN_CLUSTERS.has(name)) continue;
  Deno.test(`${broker} on three modeled servers ${name}`, async () => void await run(3));
  Deno.test(`${broker} with 16 shards on three modeled servers ${name}`, async () => {
    await run(3, 16);
  });
}

const redis = new Bench();
for (const requirement of requirementsOf(redis)) {
  Deno.test(`${requirement.name} on a simulated Redis, twice the same way`, async () => {
    assertEquals(await redis.run(requirement, 1), await redis.run(requirement, 1));
  });
}
