/** Relays whose broker loses, repeats and delays messages become consistent. */
import { assertEquals } from "@std/assert";
import { ClusterBench, read } from "../../tests/moq/cluster.ts";
import { Publisher } from "../../tests/moq/relays.ts";
import type { LivePair } from "../../tests/moq/pair.ts";
import { Random } from "../../tests/random.ts";

const PATHS = ["/a", "/b", "/c", "/d"];

interface Published {
  readonly at: number;
  readonly path: string;
  readonly publisher: Publisher;
  readonly pair: LivePair;
}

for (const seed of [1, 2, 3]) {
  Deno.test(`MoqCluster agrees eventually on the relay of each broadcast, seed ${seed}`, async () => {
    const random = new Random(seed);
    await using bench = new ClusterBench(random);
    const sites = await bench.start(4);
    const published: Published[] = [];
    bench.store.faults = { lost: 100, repeated: 100, late: 200, lateMs: 300 };
    for (let step = 0; step < 60; step++) {
      const at = random.below(sites.length);
      const path = PATHS[random.below(PATHS.length)]!;
      if (published.length > 6 || random.below(3) === 0) {
        const [gone] = published.splice(random.below(published.length), 1);
        gone?.pair.client.close();
      } else if (!published.some((one) => one.at === at && one.path === path)) {
        const publisher = new Publisher(path);
        published.push({ at, path, publisher, pair: await sites[at]!.join(publisher.mux) });
      }
      // Subscribers come and go, too.
      const viewer = await sites[random.below(sites.length)]!.join();
      const track = await viewer.client.subscribe(path, "x");
      await bench.pass(random.below(200));
      if (random.below(2) === 0) track.close();
      else viewer.client.close();
    }
    bench.store.faults = {};
    await bench.pass(20_000);

    for (const path of PATHS) {
      const all = published.filter((one) => one.path === path);
      // The newest broadcast wins, except where the relay itself has one.
      const expected = sites.map((_, here) =>
        (all.find(({ at }) => at === here) ?? all.at(-1))?.publisher.mux.hopId
      );
      assertEquals(sites.map(({ ways }) => ways[path]?.[0]), expected, path);
      for (const [here, site] of all.length === 0 ? [] : sites.entries()) {
        const { publisher } = all.find(({ at }) => at === here) ?? all.at(-1)!;
        const { client } = await site.join();
        publisher.write(`${path} to ${here}`);
        await bench.pass(10);
        const track = await client.subscribe(path, "x");
        assertEquals(await read(track), `${path} to ${here}`);
        client.close();
      }
    }
    for (const { pair } of published) pair.client.close();
    await bench.pass(30_000);
    for (const { relay, cluster } of sites) {
      assertEquals({
        mux: relay.mux.size,
        broadcasts: relay.stats.broadcasts,
        tracks: relay.stats.tracks,
      }, { mux: 0, broadcasts: 0, tracks: 0 });
      assertEquals(cluster.stats, { held: 0, relays: 0, links: 0 });
    }
  });
}
