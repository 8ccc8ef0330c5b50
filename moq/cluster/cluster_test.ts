/** The broadcasts of relays that dial each other in memory, with fake time. */
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { ClusterBench, read, type Site } from "../../tests/moq/cluster.ts";
import { listen, Publisher } from "../../tests/moq/relays.ts";
import { textOf } from "../../tests/moq/pair.ts";
import { turns } from "../../tests/waiting.ts";
import { Nodes } from "../../pubsub/nodes/nodes.ts";
import { TrackMux } from "../track/mux.ts";
import { MoqError } from "../wire/errors.ts";
import { MoqCluster } from "./cluster.ts";

Deno.test("MoqCluster finds a broadcast of another relay, and subscribes there once for all subscribers", async () => {
  await using bench = new ClusterBench();
  const { sites: [a, b], publisher, client, heard } = await bench.live();
  assertEquals(heard, ["/live on"]);
  assertEquals(b.ways, { "/live": [publisher.mux.hopId, a.relay.mux.hopId] });
  // Announcements need no session between relays.
  assertEquals([a.cluster.stats, b.cluster.stats], [
    { held: 1, relays: 0, links: 0 },
    { held: 0, relays: 1, links: 0 },
  ]);

  const others = await Promise.all(Array.from({ length: 9 }, () => b.join()));
  const tracks = await Promise.all(
    [client, ...others.map(({ client }) => client)].map((one) => one.subscribe("/live", "x")),
  );
  await bench.pass(10);
  publisher.write("one");
  assertEquals(await Promise.all(tracks.map(read)), Array(10).fill("one"));
  assertEquals([publisher.tracks.length, a.relay.stats.tracks, b.relay.stats.tracks], [1, 1, 1]);
  assertEquals([b.dialed, b.cluster.stats.links], [["https://relay-0.test/"], 1]);

  // Track info and old groups come from that relay, too.
  assertEquals((await tracks[0]!.info()).timescale, 90_000);
  publisher.write("two");
  assertEquals(await Promise.all(tracks.map(read)), Array(10).fill("two"));
  const old = await client.fetch("/live", "x", { group: 1 });
  assertEquals(textOf((await old.readFrame())!), "one");
  for (const track of tracks) track.close();
});

Deno.test("MoqCluster announces the broadcasts of three relays to each other, including late ones", async () => {
  await using bench = new ClusterBench();
  const [a, b] = await bench.start(2) as [Site, Site];
  const [one, two] = [new Publisher("/one"), new Publisher("/two")];
  await a.join(one.mux);
  await b.join(two.mux);
  await bench.pass(100);
  const [c] = await bench.start(1) as [Site];
  const { ready } = c.cluster;
  await bench.pass(100);
  await ready;
  for (const site of [a, b, c]) assertEquals(Object.keys(site.ways).sort(), ["/one", "/two"]);
  const viewers = [await b.join(), await c.join(), await c.join()];
  const tracks = await Promise.all(viewers.map(({ client }) => client.subscribe("/one", "x")));
  await bench.pass(10);
  one.write("frame");
  assertEquals(await Promise.all(tracks.map(read)), ["frame", "frame", "frame"]);
  assertEquals({ tracks: one.tracks.length, bDialed: b.dialed.length, cDialed: c.dialed.length }, {
    tracks: 1,
    bDialed: 1,
    cDialed: 1,
  });
  for (const track of tracks) track.close();
});

Deno.test("MoqCluster ends broadcasts that ended at another relay, and their subscriptions", async () => {
  await using bench = new ClusterBench();
  const { sites: [a, b], source, heard, track } = await bench.watched();
  const ending = assertRejects(() => track.nextGroup(), MoqError);
  source.client.close();
  await bench.pass(100);
  await ending;
  assertEquals(heard, ["/live on", "/live off"]);
  assertEquals({
    broadcasts: b.relay.stats.broadcasts,
    tracks: b.relay.stats.tracks,
    held: a.cluster.stats.held,
  }, { broadcasts: 0, tracks: 0, held: 0 });
  // The session is kept for further subscriptions, but not for longer.
  assertEquals(b.cluster.stats, { held: 0, relays: 1, links: 1 });
  await bench.pass(10_000);
  assertEquals(b.cluster.stats, { held: 0, relays: 0, links: 0 });
});

Deno.test("MoqCluster ends the broadcasts of a killed relay in time", async () => {
  await using bench = new ClusterBench();
  const [a, b, c] = await bench.start(3) as [Site, Site, Site];
  const publisher = new Publisher();
  await a.join(publisher.mux);
  const viewers = [await b.join(), await c.join()];
  const heard = await Promise.all(viewers.map(({ client }) => listen(client)));
  await bench.pass(100);
  const track = await viewers[0]!.client.subscribe("/live", "x");
  await bench.pass(10);
  const ending = assertRejects(() => track.nextGroup(), MoqError);
  a.kill();
  await bench.pass(3_000);
  await ending;
  assertEquals(heard[1], ["/live on"]);
  await bench.pass(4_000);
  assertEquals(heard, [["/live on", "/live off"], ["/live on", "/live off"]]);
  assertEquals(b.cluster.stats, { held: 0, relays: 0, links: 0 });
  assertEquals(b.relay.stats.tracks, 0);
});

Deno.test("MoqCluster ends the broadcasts of a leaving relay immediately", async () => {
  await using bench = new ClusterBench();
  const [a, b] = await bench.start(2) as [Site, Site];
  await a.join(new Publisher().mux);
  await b.join(new Publisher("/other").mux);
  const { client } = await b.join();
  const heard = await listen(client);
  await bench.pass(100);
  const track = await client.subscribe("/live", "x");
  await bench.pass(10);
  await a.cluster.close();
  await turns();
  assertEquals(heard.at(-1), "/live off");
  await assertRejects(() => track.nextGroup(), MoqError);
  // The relay continues alone.
  assertEquals([Object.keys(a.ways), Object.keys(b.ways)], [["/live"], ["/other"]]);
  await a.nodes.close();
  await turns();
  assertEquals(b.nodes.size, 0);
});

Deno.test("MoqCluster follows a broadcast that moves to another relay", async () => {
  await using bench = new ClusterBench();
  const { sites: [, b, c], source, client, heard, track } = await bench.watched(3);
  const ending = assertRejects(() => track.nextGroup(), MoqError);
  source.client.close();
  await bench.pass(100);
  const moved = new Publisher();
  await b.join(moved.mux);
  await bench.pass(100);
  await ending;
  assertEquals(heard, ["/live on", "/live off", "/live on"]);
  const again = await client.subscribe("/live", "x");
  await bench.pass(10);
  moved.write("here");
  assertEquals(await read(again), "here");
  assertEquals(c.dialed, ["https://relay-0.test/", "https://relay-1.test/"]);
  again.close();
});

Deno.test("MoqCluster follows a publisher to another relay before its old session is known to be closed", async () => {
  await using bench = new ClusterBench();
  const { sites: [, b, c], publisher, source: dead, track } = await bench.watched(3);
  publisher.write("one");
  assertEquals(await read(track), "one");
  await b.join(publisher.mux);
  await bench.pass(100);
  assertEquals(c.ways["/live"]?.[1], b.relay.mux.hopId);
  // The subscription stays.
  publisher.write("two");
  assertEquals(await read(track), "two");
  dead.link.disconnect();
  await bench.pass(5_000);
  publisher.write("three");
  assertEquals(await read(track), "three");
  assertEquals(publisher.live.subscribers, 1);
  track.close();
});

Deno.test("MoqCluster uses the newer of two broadcasts of one path on every other relay", async () => {
  await using bench = new ClusterBench();
  const [a, b, c] = await bench.start(3) as [Site, Site, Site];
  const [old, fresh] = [new Publisher(), new Publisher()];
  const first = await b.join(old.mux);
  await bench.pass(100);
  const second = await a.join(fresh.mux);
  await bench.pass(100);
  const [d] = await bench.start(1) as [Site];
  // A relay keeps its own broadcast, which is nearer; all others use the new one.
  const origins = () => [a, b, c, d].map(({ ways }) => ways["/live"]?.[0]);
  const [o, f] = [old.mux.hopId, fresh.mux.hopId];
  assertEquals(origins(), [f, o, f, f]);
  await bench.pass(60_000);
  assertEquals(origins(), [f, o, f, f]);
  second.client.close();
  await bench.pass(100);
  assertEquals(origins(), [o, o, o, o]);
  first.client.close();
  await bench.pass(100);
  assertEquals(origins(), [undefined, undefined, undefined, undefined]);
  for (const { relay } of [a, b, c, d]) assertEquals(relay.stats.broadcasts, 0);
});

Deno.test("MoqCluster finds the latest broadcast although clocks differ", async () => {
  await using bench = new ClusterBench();
  const [a, b] = await bench.start(2) as [Site, Site];
  await using ahead = new Nodes({ broker: bench.store.connect() });
  await bench.pass(300);
  const held = { url: "https://x.test/", since: 3_600_000, hops: ["5", "6"] };
  const payload = JSON.stringify({ node: ahead.id, n: 1, prev: 0, set: [["/live", held]] });
  bench.store.publish({ topic: "$skein:moq:broadcasts", payload });
  await turns();
  assertEquals(a.ways, { "/live": [5n, 6n] });
  const fresh = new Publisher();
  await b.join(fresh.mux);
  await bench.pass(100);
  assertEquals(a.ways, { "/live": [fresh.mux.hopId, b.relay.mux.hopId] });
});

Deno.test("MoqCluster rejects loops, and uses the shortest route", async () => {
  await using bench = new ClusterBench();
  const [a, b, c] = await bench.start(3) as [Site, Site, Site];
  // A ring outside the cluster.
  await bench.connect(a, b);
  await bench.connect(b, c);
  await bench.connect(c, a);
  const publisher = new Publisher();
  const heard = await listen((await a.join()).client);
  const { client: source } = await a.join(publisher.mux);
  await bench.pass(1_000);
  const [p, viaA] = [publisher.mux.hopId, a.relay.mux.hopId];
  assertEquals([a, b, c].map(({ ways }) => ways["/live"]), [[p], [p, viaA], [p, viaA]]);
  const track = await (await c.join()).client.subscribe("/live", "x");
  await bench.pass(10);
  publisher.write("one");
  assertEquals([await read(track), publisher.tracks.length], ["one", 1]);
  track.close();
  // The others have the broadcast through the ring as well; no echo of it comes back.
  assertEquals(b.cluster.stats.held, 1);
  source.close();
  await bench.pass(1_000);
  for (const { relay, cluster } of [a, b, c]) {
    assertEquals({
      mux: relay.mux.size,
      broadcasts: relay.stats.broadcasts,
      held: cluster.stats.held,
    }, { mux: 0, broadcasts: 0, held: 0 });
  }
  assertEquals(heard, ["/live on", "/live off"]);
});

Deno.test("MoqCluster keeps broadcasts of two relays apart if their publishers send no hops", async () => {
  await using bench = new ClusterBench();
  const [a, b, c] = await bench.start(3) as [Site, Site, Site];
  const [one, two] = [new Publisher(), new Publisher()];
  const first = await a.join(one.mux, "gomoqt-dev");
  const second = await b.join(two.mux, "gomoqt-dev");
  await bench.pass(1_000);
  assertEquals([a, b].map(({ ways }) => ways["/live"]), [[], []]);
  assertEquals([a, b].map(({ cluster }) => cluster.stats.held), [1, 1]);
  const track = await (await c.join()).client.subscribe("/live", "x");
  await bench.pass(10);
  one.write("frame");
  two.write("frame");
  assertEquals(await read(track), "frame");
  first.client.close();
  // A source without hops may be an echo: it takes over one second later.
  await bench.pass(900);
  assertEquals(Object.keys(a.ways), []);
  await bench.pass(1_000);
  assertEquals([a, c].map(({ ways }) => ways["/live"]), [
    [b.relay.mux.hopId],
    [b.relay.mux.hopId],
  ]);
  second.client.close();
  await bench.pass(3_000);
  assertEquals([a, b, c].map(({ relay }) => relay.mux.size), [0, 0, 0]);
});

Deno.test("MoqCluster reports that a broadcast restarted within one batch of changes", async () => {
  await using bench = new ClusterBench();
  const [a, b] = await bench.start(2) as [Site, Site];
  const publisher = new Publisher();
  const publication = new TrackMux();
  const first = publication.publish("/live", () => {});
  await a.join(publication);
  const heard = await listen((await b.join()).client);
  await bench.pass(100);
  first.end();
  await turns();
  publication.publish("/live", (track) => publisher.live.serve(track));
  await bench.pass(100);
  assertEquals(heard, ["/live on", "/live off", "/live on"]);
});

Deno.test("MoqCluster prefers the program's own broadcasts, and uses others after they end", async () => {
  await using bench = new ClusterBench();
  const [a, b, c] = await bench.start(3) as [Site, Site, Site];
  const own = b.relay.mux.publish("/live", () => {});
  await bench.pass(100);
  const publisher = new Publisher();
  await a.join(publisher.mux);
  await bench.pass(100);
  assertEquals(b.ways["/live"], []);
  assertEquals(c.ways["/live"], [publisher.mux.hopId, a.relay.mux.hopId]);
  assertEquals([a.cluster.stats.held, b.cluster.stats.held], [1, 1]);
  own.end();
  await bench.pass(100);
  assertEquals(b.ways["/live"], [publisher.mux.hopId, a.relay.mux.hopId]);
  assertEquals(b.cluster.stats.held, 0);
});

Deno.test("MoqCluster relays broadcasts below the prefix of its relay", async () => {
  await using bench = new ClusterBench();
  const [a] = await bench.start(1) as [Site];
  const [b] = await bench.start(1, { with: { prefix: "/public" } }) as [Site];
  await a.join(new Publisher("/public/one").mux);
  await a.join(new Publisher("/secret/one").mux);
  b.relay.mux.publish("/own", () => {});
  b.relay.mux.publish("/public/own", () => {});
  await bench.pass(100);
  assertEquals(Object.keys(b.ways).sort(), ["/own", "/public/one", "/public/own"]);
  assertEquals(Object.keys(a.ways).sort(), ["/public/one", "/public/own", "/secret/one"]);
});

Deno.test("MoqCluster keeps its state while the broker is unreachable, and is correct afterwards", async () => {
  await using bench = new ClusterBench();
  const { sites: [a, b], publisher, source, track } = await bench.watched();
  bench.store.goAway();
  await bench.pass(30_000);
  publisher.write("frame");
  assertEquals(await read(track), "frame");
  await a.join(new Publisher("/next").mux);
  source.client.close();
  await bench.pass(1_000);
  assertEquals(Object.keys(b.ways), ["/live"]);
  bench.store.comeBack();
  await bench.pass(1_000);
  assertEquals(Object.keys(b.ways), ["/next"]);
});

Deno.test("MoqCluster ignores invalid notices of another relay", async () => {
  await using bench = new ClusterBench();
  const [a] = await bench.start(1) as [Site];
  await using liar = new Nodes({ broker: bench.store.connect() });
  await bench.pass(300);
  const good = { url: "https://x.test/", since: 1, hops: ["5"] };
  const values: [string, unknown][] = [
    ["/a", null],
    ["/b", { ...good, url: 7 }],
    ["/c", { ...good, since: 1.5 }],
    ["/d", { ...good, hops: [] }],
    ["/e", { ...good, hops: [5] }],
    ["/f", { ...good, hops: ["-5"] }],
    ["/g", { ...good, hops: Array(33).fill("5") }],
    ["x".repeat(2_000), good],
    ["/good", good],
  ];
  const payload = JSON.stringify({ node: liar.id, n: 1, prev: 0, set: values });
  bench.store.publish({ topic: "$skein:moq:broadcasts", payload });
  await turns();
  assertEquals(a.ways, { "/good": [5n] });
});

Deno.test("new MoqCluster() rejects invalid options", async () => {
  await using bench = new ClusterBench();
  const [{ relay, nodes }] = await bench.start(1) as [Site];
  for (const lingerMs of [0, -1, 1.5, NaN]) {
    assertThrows(
      () => new MoqCluster({ relay, nodes, url: "https://x.test", lingerMs }),
      RangeError,
    );
  }
  assertThrows(() => new MoqCluster({ relay, nodes, url: "/relay" }), TypeError);
  assertThrows(() => new MoqCluster({ relay, nodes, url: "https://x.test" }), TypeError, "moq");
});

Deno.test("MoqCluster queues a broadcast of another relay until a slot is free", async () => {
  await using bench = new ClusterBench();
  const [a] = await bench.start(1) as [Site];
  const [b] = await bench.start(1, { with: { maxBroadcasts: 1, maxShare: 1 } }) as [Site];
  const local = await b.join(new Publisher("/local").mux);
  await bench.pass(100);
  for (const path of ["/one", "/two"]) await a.join(new Publisher(path).mux);
  await bench.pass(100);
  assertEquals([Object.keys(b.ways), b.relay.stats.waiting], [["/local"], 1]);
  local.client.close();
  await bench.pass(100);
  assertEquals([Object.keys(b.ways).length, b.relay.stats.waiting], [1, 0]);
  // A broadcast that the other relay no longer holds leaves the queue.
  const again = await b.join(new Publisher("/again").mux);
  await bench.pass(100);
  assertEquals(b.relay.stats.waiting, 1);
  again.client.close();
  await bench.pass(100);
  assertEquals(b.relay.stats.waiting, 0);
  a.kill();
  await bench.pass(10_000);
  assertEquals([b.ways, b.relay.stats.broadcasts], [{}, 0]);
});
