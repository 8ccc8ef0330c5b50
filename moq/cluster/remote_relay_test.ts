/** Dialing and leaving between relays of a cluster. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { ClusterBench, read, type Site } from "../../tests/moq/cluster.ts";
import { bytesOf, type LivePair, livePair } from "../../tests/moq/pair.ts";
import { turns } from "../../tests/waiting.ts";
import type { MoqSession } from "../session/session.ts";
import { TrackMux } from "../track/mux.ts";
import { MoqError } from "../wire/errors.ts";

Deno.test("MoqCluster leaves another relay some time after the last subscription, and dials it again", async () => {
  await using bench = new ClusterBench();
  const { sites: [a, b], publisher, client } = await bench.live(2, { lingerMs: 2_000 });
  for (const times of [1, 2]) {
    const track = await client.subscribe("/live", "x");
    await bench.pass(10_000);
    publisher.write("frame");
    assertEquals([await read(track), b.cluster.stats.links], ["frame", 1]);
    track.close();
    // The relay keeps the track for a second.
    await bench.pass(2_900);
    assertEquals(b.cluster.stats.links, 1);
    await bench.pass(1_000 + 2 * 2_000 - 2_900);
    assertEquals([b.cluster.stats.links, b.dialed.length], [0, times]);
    assertEquals(a.relay.stats.sessions, 1);
  }
  assertEquals(b.ways["/live"]?.length, 2);
});

Deno.test("MoqCluster rejects tracks of an unreachable relay, and retries", async () => {
  await using bench = new ClusterBench();
  const { sites: [a, b], publisher, client } = await bench.live();
  a.isDown = true;
  for (let times = 0; times < 3; times++) {
    const track = await client.subscribe("/live", "x");
    const error = await assertRejects(() => track.ready, MoqError);
    assertEquals(error.reason, "unroutable");
  }
  // One failed attempt rejects all requests.
  assertEquals([b.dialed.length, b.errors.length], [1, 1]);
  assertEquals(
    (b.errors[0] as MoqError).message,
    "Cannot reach the relay at https://relay-0.test/",
  );
  a.isDown = false;
  await bench.pass(1_000);
  const track = await client.subscribe("/live", "x");
  await bench.pass(10);
  publisher.write("frame");
  assertEquals(await read(track), "frame");
  track.close();
});

Deno.test("MoqCluster times out dialing a silent relay, and closes its late session", async () => {
  await using bench = new ClusterBench();
  const late = Promise.withResolvers<MoqSession>();
  const signals: AbortSignal[] = [];
  const muxes: TrackMux[] = [];
  const { sites: [, b], client } = await bench.live(2, {
    dial: (_url, { mux, signal }) => {
      muxes.push(mux);
      signals.push(signal);
      return late.promise;
    },
  });
  const track = await client.subscribe("/live", "x");
  const rejected = assertRejects(() => track.ready, MoqError);
  await bench.pass(10_100);
  await rejected;
  assertEquals([signals[0]?.aborted, b.cluster.stats.links], [true, 0]);
  await using pair = await livePair("moq-lite-05", { client: muxes[0]! });
  late.resolve(pair.client);
  await turns();
  assert(pair.client.isClosed);
});

Deno.test("MoqCluster rejects a session with another mux or version", async () => {
  await using bench = new ClusterBench();
  const pairs: LivePair[] = [];
  const { sites: [, b], client } = await bench.live(2, {
    dial: async (_url, { mux }) => {
      const isFirst = pairs.length === 0;
      const pair = await livePair(isFirst ? "moq-lite-05" : "moq-lite-04", {
        client: isFirst ? new TrackMux() : mux,
      });
      pairs.push(pair);
      return pair.client;
    },
  });
  for (const at of [0, 1]) {
    const track = await client.subscribe("/live", "x");
    await assertRejects(() => track.ready, MoqError);
    assert(pairs[at]!.client.isClosed);
    assertEquals(((b.errors[at] as MoqError).cause as Error).name, "TypeError");
    await bench.pass(1_000);
  }
  for (const pair of pairs) await pair[Symbol.asyncDispose]();
});

Deno.test("MoqCluster leaves a draining relay once its tracks have ended", async () => {
  await using bench = new ClusterBench();
  const { sites: [, b], publisher, source, track } = await bench.watched();
  const link = b.pairs.at(-1)!;
  const left = link.server.goaway();
  await bench.pass(100);
  publisher.write("still here");
  assertEquals([await read(track), b.cluster.stats.links], ["still here", 1]);
  source.client.close();
  await bench.pass(100);
  await left;
  assertEquals(b.cluster.stats.links, 0);
});

Deno.test("MoqCluster leaves nothing behind after a thousand broadcasts came and went", async () => {
  await using bench = new ClusterBench();
  const [a, b] = await bench.start(2) as [Site, Site];
  const mux = new TrackMux();
  await a.join(mux);
  const { client } = await b.join();
  for (let round = 0; round < 10; round++) {
    const all = Array.from(
      { length: 100 },
      (_, at) =>
        mux.publish(`/live/${round}/${at}`, async (track) => {
          await using group = await track.openGroup();
          await group.writeFrame(bytesOf(`${at}`));
        }),
    );
    await bench.pass(200);
    assertEquals(b.relay.mux.size, 100);
    const track = await client.subscribe(`/live/${round}/7`, "x");
    assertEquals(await read(track), "7");
    for (const one of all) one.end();
    await bench.pass(200);
    assertEquals([b.relay.stats.broadcasts, a.cluster.stats.held], [0, 0]);
  }
  assertEquals(b.dialed.length, 1);
  await bench.pass(15_000);
  assertEquals([b.relay.stats.tracks, b.cluster.stats], [0, { held: 0, relays: 0, links: 0 }]);
});
