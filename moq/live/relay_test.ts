/**
 * Routes of a relay: subscriptions, hops, other routes to a publisher, fetches and slow
 * subscribers.
 */
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { MoqNetwork, pass } from "../../tests/moq/network.ts";
import {
  bytesOf,
  LIVE_VERSIONS,
  type LivePair,
  livePair,
  readAll,
  textOf,
} from "../../tests/moq/pair.ts";
import { announced, listen, Publisher, RelayNet, served } from "../../tests/moq/relays.ts";
import { turns, until } from "../../tests/waiting.ts";
import { TrackMux } from "../track/mux.ts";
import type { TrackReader } from "../track/track_reader.ts";
import { MoqError } from "../wire/errors.ts";
import { broadcastPath } from "../wire/path.ts";
import { VERSIONS } from "../wire/versions.ts";
import { LiveTrack } from "./live_track.ts";
import { MoqRelay } from "./relay.ts";
import type { TrackOrigin } from "./relay_source.ts";

const WITH_HOPS = LIVE_VERSIONS.filter((version) => VERSIONS[version].hops);

for (const version of LIVE_VERSIONS) {
  Deno.test(`MoqRelay subscribes upstream once for 100 subscribers over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { relay, publisher, viewer } = await net.live();
    const viewers = [viewer];
    while (viewers.length < 10) viewers.push(await net.join(relay));
    const reading = viewers.flatMap(({ client }) =>
      Array.from(
        { length: 10 },
        async () => readAll(await client.subscribe("/live", "x", { ordered: true })),
      )
    );
    await until(() => publisher.live.subscribers === 1 && served(...viewers) === 100);
    assertEquals([publisher.tracks.length, relay.stats.tracks], [1, 1]);
    await turns(10);
    publisher.write("one", "two");
    publisher.live.openGroup().abort();
    publisher.write("three");
    await turns(50);
    publisher.live.close();
    for (const all of await Promise.all(reading)) {
      const groups = all.filter((group) => !group.startsWith("2"));
      assertEquals(groups, ["1: one two", "3: three"]);
    }
    assertEquals([publisher.tracks.length, relay.stats.tracks], [1, 0]);
  });

  Deno.test(`MoqRelay unsubscribes lingerMs after the last subscriber left over ${version}`, async () => {
    await using net = new RelayNet(version);
    using time = new FakeTime();
    const { relay, publisher, viewer: { client } } = await net.live({ lingerMs: 2_000 });
    const first = await client.subscribe("/live", "x");
    await until(() => publisher.live.subscribers === 1);
    publisher.write("one");
    await first.nextGroup();
    first.close();
    await turns(20);
    await time.tickAsync(1_900);
    // The cache is still warm.
    const second = await client.subscribe("/live", "x");
    const group = await second.nextGroup();
    assertEquals([group?.sequence, publisher.tracks.length], [1, 1]);
    second.close();
    await turns(20);
    await time.tickAsync(2_000);
    await until(() => publisher.live.subscribers === 0);
    assertEquals(relay.stats.tracks, 0);
    const third = await client.subscribe("/live", "x");
    assertEquals((await third.nextGroup())?.sequence, 1);
    assertEquals(publisher.tracks.length, 2);
  });

  Deno.test(`MoqRelay announces that a publisher was killed and returned over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { relay, publisher: old, source, viewer: { client } } = await net.live();
    const heard = await listen(client);
    const track = await client.subscribe("/live", "x");
    await until(() => old.live.subscribers === 1);
    old.write("old");
    const reading = assertRejects(() => readAll(track), MoqError);
    await turns(50);
    source.link.disconnect();
    await until(() => heard.length === 2);
    await reading;
    const fresh = new Publisher();
    await net.join(relay, fresh.mux);
    await until(() => heard.length === 3);
    assertEquals(heard, ["/live on", "/live off", "/live on"]);
    const again = await client.subscribe("/live", "x");
    await until(() => fresh.live.subscribers === 1);
    fresh.write("fresh");
    const group = await again.nextGroup();
    assertEquals(textOf((await group!.readFrame())!), "fresh");
    assertEquals(relay.stats, { sessions: 2, broadcasts: 1, waiting: 0, tracks: 1 });
  });

  Deno.test(`MoqRelay forwards over three hops over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { relay: a, publisher } = await net.live();
    const [b, c] = [net.relay(), net.relay()];
    await net.connect(a, b);
    await net.connect(b, c);
    await until(() => c.mux.size === 1);
    const { client } = await net.join(c);
    const announcement = await (await client.acceptAnnounce("/")).next();
    const hops = [publisher.mux, a.mux, b.mux, c.mux].map(({ hopId }) => hopId);
    const { hops: hasHops, draft } = VERSIONS[version];
    if (draft === undefined) assertEquals(announcement?.hops, hasHops ? hops : []);
    // In the drafts of the IETF, a random id stands for the relay.
    else assertEquals(announcement?.hops.length, 1);
    const track = await client.subscribe("/live", "x");
    await until(() => publisher.live.subscribers === 1);
    publisher.write("one", "two");
    const group = (await track.nextGroup())!;
    const frames: string[] = [];
    for await (const frame of group) frames.push(textOf(frame));
    assertEquals(frames, ["one", "two"]);
    if (version === "moq-lite-05") {
      assertEquals(group.timestamp, 7);
      const { timescale, priority } = await track.info();
      assertEquals([timescale, priority], [90_000, 5]);
    }
    const none = await client.subscribe("/none", "x");
    const error = await assertRejects(() => none.ready, MoqError);
    assertEquals(error.reason, "notFound");
  });
}

for (const version of ["moq-lite-04", "moq-lite-05", "moqt-18", "moqt-20", "moqt-22"] as const) {
  Deno.test(`MoqRelay serves all subscribers after one that starts far in the future over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { relay, publisher, viewer } = await net.live();
    const other = await net.join(relay);
    publisher.write("one");
    publisher.write("two");
    const far = await viewer.client.subscribe("/live", "x", { startGroup: 1_000_000_000 });
    await until(() => publisher.live.subscribers === 1);
    const near = await other.client.subscribe("/live", "x", { startGroup: 4 });
    await until(() => publisher.tracks.at(-1)?.subscription.startGroup === 4);
    far.close();
    await until(() => served(viewer) === 0);
    const newest = await viewer.client.subscribe("/live", "x");
    assertEquals((await newest.nextGroup())?.sequence, 2);
    publisher.write("three");
    assertEquals((await newest.nextGroup())?.sequence, 3);
    publisher.write("four");
    assertEquals((await newest.nextGroup())?.sequence, 4);
    assertEquals((await near.nextGroup())?.sequence, 4);
    // Draft 18 changes its one subscription.
    assertEquals(publisher.tracks.length, version === "moqt-18" ? 1 : 3);
  });

  Deno.test(`MoqRelay gives up sources that accept and fail in turn over ${version}`, async () => {
    await using net = new RelayNet(version);
    const relay = net.relay();
    let asked = 0;
    for (let sources = 1; sources <= 2; sources++) {
      const mux = new TrackMux({ hopId: 77n });
      mux.publish("/live", async (track) => {
        const group = await track.openGroup(++asked);
        await group.close();
        throw new MoqError("subscribe", "internal", "The source has failed");
      });
      await net.join(relay, mux);
    }
    const { client } = await net.join(relay);
    await until(() => relay.mux.size === 1);
    await turns(20);
    const track = await client.subscribe("/live", "x");
    await assertRejects(() => readAll(track), MoqError);
    // In the drafts, the sources count as different publishers.
    assertEquals(asked, VERSIONS[version].draft === undefined ? 2 : 1);
  });

  Deno.test(`MoqRelay forwards past groups to the first subscriber over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { relay, publisher, viewer: { client } } = await net.live();
    const other = await net.join(relay);
    for (const text of ["one", "two", "three"]) publisher.write(text);
    const options = { startGroup: 2, endGroup: 4, ordered: true };
    const past = await client.subscribe("/live", "x", options);
    const reading = readAll(past);
    await other.client.subscribe("/live", "x");
    await until(() => publisher.live.subscribers > 0);
    await turns(20);
    publisher.write("four");
    assertEquals(await reading, ["2: two", "3: three", "4: four"]);
  });
}

/** A publisher at one of three relays that are all connected, and a subscriber at another one. */
interface Ring {
  readonly relays: readonly [MoqRelay, MoqRelay, MoqRelay];
  readonly publisher: Publisher;
  /** The session of the publisher. */
  readonly source: LivePair;
  /** The session between the relays of the publisher and of the subscriber. */
  readonly short: LivePair;
  /** The announcements that the subscriber receives. */
  readonly heard: readonly string[];
  readonly track: TrackReader;
}

async function ring(net: RelayNet): Promise<Ring> {
  const { relay: a, publisher, source } = await net.live();
  const [b, c] = [net.relay(), net.relay()];
  await net.connect(a, b);
  const short = await net.connect(a, c);
  await net.connect(b, c);
  await until(() => b.mux.size === 1 && c.mux.size === 1);
  await turns(50);
  const { client } = await net.join(c);
  const heard = await listen(client);
  const track = await client.subscribe("/live", "x");
  await until(() => publisher.live.subscribers === 1);
  return { relays: [a, b, c], publisher, source, short, heard, track };
}

for (const version of WITH_HOPS) {
  Deno.test(`MoqRelay rejects loops in a ring of three over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { relays, publisher, source, track } = await ring(net);
    const ways = relays.map(({ mux }) => mux.announcements("/")[0]?.hops);
    const [p, id] = [publisher.mux.hopId, relays[0].mux.hopId];
    assertEquals(ways, [[p], [p, id], [p, id]]);
    publisher.write("one");
    assertEquals((await track.nextGroup())?.sequence, 1);
    source.client.close();
    await until(() => relays.every(({ mux }) => mux.size === 0));
    for (const { stats } of relays) assertEquals([stats.broadcasts, stats.tracks], [0, 0]);
    await assertRejects(() => readAll(track), MoqError);
  });

  Deno.test(`MoqRelay switches to another route to the same publisher, and subscriptions stay, over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { relays: [a, b, c], publisher, short, heard, track } = await ring(net);
    publisher.write("one");
    assertEquals((await track.nextGroup())?.sequence, 1);
    const way = () => c.mux.announcements("/")[0]?.hops;
    const [p, viaA, viaB] = [publisher.mux.hopId, a.mux.hopId, b.mux.hopId];
    assertEquals(way(), [p, viaA]);
    short.link.disconnect();
    await until(() => way()?.length === 3);
    assertEquals(way(), [p, viaA, viaB]);
    await until(() => b.stats.tracks === 1);
    await turns(20);
    publisher.write("two");
    assertEquals((await track.nextGroup())?.sequence, 2);
    // Back to the short route, once available again.
    await net.connect(a, c);
    await until(() => way()?.length === 2);
    await turns(50);
    publisher.write("three");
    assertEquals((await track.nextGroup())?.sequence, 3);
    await until(() => b.stats.tracks === 1);
    assertEquals(heard.filter((line) => line.endsWith("off")).length <= 2, true);
    assertEquals(heard.at(-1), "/live on");
    track.close();
  });

  Deno.test(`MoqRelay aborts a group on a broken route, and continues with the next, over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { relays: [, b, c], publisher, short, track } = await ring(net);
    const cut = publisher.live.openGroup();
    cut.writeFrame(bytesOf("half"));
    const group = (await track.nextGroup())!;
    assertEquals(textOf((await group.readFrame())!), "half");
    short.link.disconnect();
    await until(() => c.mux.announcements("/")[0]?.hops.length === 3);
    await assertRejects(() => group.readFrame(), MoqError);
    await until(() => b.stats.tracks === 1);
    await turns(20);
    cut.close();
    publisher.write("two");
    assertEquals((await track.nextGroup())?.sequence, 2);
    track.close();
  });

  Deno.test(`MoqRelay uses the newer of two equally near publishers over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { relay, publisher: old, viewer: { client } } = await net.live();
    const fresh = new Publisher();
    const heard = await listen(client);
    await until(() => heard.length === 1);
    const pair = await net.join(relay, fresh.mux);
    await until(() => heard.length === 3);
    const track = await client.subscribe("/live", "x");
    await until(() => fresh.live.subscribers === 1);
    pair.client.close();
    await until(() => heard.length === 5);
    await assertRejects(() => readAll(track), MoqError);
    const again = await client.subscribe("/live", "x");
    await until(() => old.live.subscribers === 1);
    again.close();
    assertEquals(heard.slice(1), ["/live off", "/live on", "/live off", "/live on"]);
  });

  Deno.test(`MoqRelay responds to fetches from its cache, and otherwise from upstream, over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { publisher, viewer: { client } } = await net.live();
    for (const text of ["one", "two"]) publisher.write(text);
    const track = await client.subscribe("/live", "x");
    assertEquals((await track.nextGroup())?.sequence, 2);
    const far = await client.fetch("/live", "x", { group: 1 });
    assertEquals(textOf((await far.readFrame())!), "one");
    assertEquals(await far.readFrame(), null);
    const none = await client.fetch("/live", "x", { group: 9 });
    await assertRejects(() => none.readFrame(), MoqError);
    let asked = 0;
    publisher.live.serveFetch = () => {
      asked++;
      return Promise.resolve();
    };
    const near = await client.fetch("/live", "x", { group: 2 });
    assertEquals([textOf((await near.readFrame())!), asked], ["two", 0]);
    await near.readFrame();
    track.close();
  });

  Deno.test(`MoqRelay subscribes upstream with the highest priority of its subscribers over ${version}`, async () => {
    await using net = new RelayNet(version);
    const { publisher, viewer: { client } } = await net.live();
    const low = await client.subscribe("/live", "x", { priority: 3, maxLatencyMs: 100 });
    await until(() => publisher.tracks.length === 1);
    const asked = () => {
      const { priority, maxLatencyMs } = publisher.tracks[0]!.subscription;
      return `${priority} ${maxLatencyMs}`;
    };
    assertEquals(asked(), "3 100");
    const high = await client.subscribe("/live", "x", { priority: 200 });
    await until(() => asked() === "200 0");
    high.close();
    await until(() => asked() === "3 100");
    await low.update({ priority: 4 });
    await until(() => asked() === "4 100");
  });

  Deno.test(`MoqRelay holds maxLagBytes of a track for a slow subscriber over ${version}`, async () => {
    await using net = new RelayNet(version);
    const bytes = 200_000;
    const { relay, publisher, viewer: slow } = await net.live({
      track: { maxCachedBytes: 1, maxLagBytes: 2.5 * bytes },
    });
    const quick = await net.join(relay);
    const missed = new Set<number>();
    const late = await slow.client.subscribe("/live", "x", {
      onMissed: ({ first, last }) => {
        for (let at = first; at <= last; at++) missed.add(at);
      },
    });
    const good = await quick.client.subscribe("/live", "x", { ordered: true });
    await until(() => publisher.live.subscribers === 1 && served(slow, quick) === 2);
    await turns(20);
    slow.link.stall("to-client");
    for (let at = 1; at <= 6; at++) {
      using group = publisher.live.openGroup();
      group.writeFrame(new Uint8Array(bytes));
      group.close();
      // The other subscriber has the group, and therefore the relay has it, too.
      const next = (await good.nextGroup())!;
      assertEquals([next.sequence, (await next.readFrame())?.byteLength], [at, bytes]);
      await next.readFrame();
      await turns(20);
    }
    slow.link.resume("to-client");
    publisher.live.close();
    const whole: number[] = [];
    for (let group; (group = await late.nextGroup()) !== null;) {
      const { sequence } = group;
      try {
        while (await group.readFrame() !== null);
        whole.push(sequence);
      } catch (error) {
        assertEquals((error as MoqError).scope, "group");
        missed.add(sequence);
      }
    }
    assertEquals(whole.toSorted(), [5, 6]);
    assertEquals([...missed].toSorted(), [1, 2, 3, 4]);
  });

  Deno.test(`MoqRelay does not forward a broadcast that passed 32 relays over ${version}`, async () => {
    await using net = new RelayNet(version);
    const relay = net.relay();
    const hops = (count: number) => Array.from({ length: count }, (_, at) => BigInt(at + 1));
    // The mux of the publisher adds one hop, and the relay adds another in its own announcements.
    const mux = new TrackMux();
    mux.publish("/near", () => {}, { hops: hops(30) });
    const far = mux.publish("/far", () => {}, { hops: hops(31) });
    mux.publish("/too-far", () => {}, { hops: hops(32) });
    await net.join(relay, mux);
    const heard = await listen((await net.join(relay)).client);
    await turns(50);
    assertEquals([announced(relay), heard], [["/near", "/far"], ["/near on"]]);
    // A shorter route brings the broadcast within reach, and a longer one removes it again.
    far.reannounce(hops(3));
    await turns(50);
    far.reannounce(hops(31));
    await turns(50);
    assertEquals(heard, ["/near on", "/far on", "/far off"]);
  });
}

Deno.test("MoqRelay forwards the rejection of a track, and retries for the next subscriber", async () => {
  await using net = new RelayNet("moq-lite-04");
  const relay = net.relay();
  const mux = new TrackMux();
  let asked = 0;
  mux.publish("/live", (track) => {
    asked++;
    track.closeWithError("unauthorized");
  });
  await net.join(relay, mux);
  await until(() => relay.mux.size === 1);
  const { client } = await net.join(relay);
  for (const times of [1, 2]) {
    const track = await client.subscribe("/live", "x");
    const error = await assertRejects(() => track.ready, MoqError);
    assertEquals(error.reason, "unauthorized");
    await until(() => relay.stats.tracks === 0);
    assertEquals(asked, times);
  }
});

Deno.test("MoqRelay uses a source without hops only after a delay without another source", async () => {
  await using net = new RelayNet("gomoqt-dev");
  using time = new FakeTime();
  const relay = net.relay();
  const [first, second] = [new Publisher(), new Publisher()];
  const pair = await net.join(relay, first.mux);
  await until(() => relay.mux.size === 1);
  await net.join(relay, second.mux);
  await turns(20);
  pair.client.close();
  await turns(50);
  assertEquals(relay.mux.size, 0);
  await time.tickAsync(999);
  assertEquals(relay.mux.size, 0);
  await time.tickAsync(1);
  assertEquals(relay.mux.size, 1);
});

Deno.test("MoqRelay ends a broadcast that loops between relays in versions without hops", async () => {
  await using net = new RelayNet("gomoqt-dev");
  const [a, b, c] = [net.relay(), net.relay(), net.relay()];
  let told = 0;
  for (const { mux } of [a, b, c]) {
    // An endless exchange between relays would never let the test run: stop after 1,000.
    mux.watch("/", () => ++told === 1_000 && [a, b, c].forEach((relay) => relay.close()));
  }
  await net.connect(a, b);
  await net.connect(b, c);
  await net.connect(c, a);
  const publisher = new Publisher();
  const pair = await net.join(a, publisher.mux);
  await until(() => [a, b, c].every(({ mux }) => mux.size === 1));
  await turns(50);
  pair.client.close();
  await until(() => a.mux.size === 0);
  await until(() => [a, b, c].every(({ mux }) => mux.size === 0));
  assertEquals(told < 1_000, true);
});

Deno.test("MoqRelay compares 64 sources of a broadcast, and adds others once one has gone", async () => {
  await using relay = new MoqRelay();
  const path = broadcastPath("/live");
  const sources = Array.from({ length: 67 }, (_, at): TrackOrigin => ({
    version: "moq-lite-05",
    isClosed: false,
    closed: new Promise(() => {}),
    subscribe: () => Promise.reject(new Error(`Nobody subscribes to source ${at}`)),
    fetch: () => Promise.reject(new Error(`Nobody fetches from source ${at}`)),
    trackInfo: () => Promise.reject(new Error(`Nobody asks source ${at}`)),
  }));
  for (const [at, session] of sources.entries()) {
    // Each source is nearer than the sources before.
    const hops = Array.from({ length: 100 - at }, (_, hop) => 7n + BigInt(hop));
    relay.addSource(path, { session, hops, remote: { node: `${at}`, since: at, isBlind: false } });
  }
  const from = () => sources.indexOf(relay.sourceOf(path)!.session);
  assertEquals(from(), 63);
  relay.removeSource(path, sources[65]!); // While the call is pending.
  assertEquals(from(), 63);
  relay.removeSource(path, sources[0]!);
  assertEquals(from(), 64);
  relay.removeSource(path, sources[1]!);
  assertEquals(from(), 66);
  for (const session of sources.slice(2)) relay.removeSource(path, session);
  assertEquals([announced(relay), relay.stats.broadcasts], [[], 0]);
});

Deno.test("Publication.reannounce() announces another route, and subscriptions stay", async () => {
  const mux = new TrackMux();
  const live = new LiveTrack();
  const publication = mux.publish("/live", (track) => live.serve(track), { hops: [1n] });
  await using pair = await livePair("moq-lite-05", { server: mux });
  const announcements = await pair.client.acceptAnnounce("/");
  assertEquals((await announcements.next())?.hops, [1n, mux.hopId]);
  const track = await pair.client.subscribe("/live", "x");
  await until(() => live.subscribers === 1);
  publication.reannounce([2n, 3n]);
  assertEquals((await announcements.next())?.active, false);
  assertEquals((await announcements.next())?.hops, [2n, 3n, mux.hopId]);
  assertEquals(mux.announcements("/")[0]?.hops, [2n, 3n]);
  live.openGroup().close();
  assertEquals((await track.nextGroup())?.sequence, 1);
  // Through the subscriber: for the subscriber the broadcast has ended.
  publication.reannounce([pair.client.mux.hopId]);
  assertEquals((await announcements.next())?.active, false);
  publication.end();
  publication.reannounce([4n]);
  assertEquals(mux.announcements("/"), []);
});

Deno.test("MoqRelay.accept() rejects invalid options", async () => {
  await using net = new RelayNet();
  const relay = net.relay();
  const { server, client } = await net.join(relay);
  assertThrows(() => relay.accept(undefined as never), TypeError, "it must have the mux of");
  assertThrows(() => relay.accept(server), TypeError);
  assertThrows(() => relay.accept(client), TypeError);
  relay.close();
  assertThrows(() => new MoqRelay({ maxTracks: 0 }), RangeError);
  for (const maxShare of [0, -1, 1.1, NaN]) {
    assertThrows(
      () => new MoqRelay({ maxShare }),
      RangeError,
      `Cannot create relay: maxShare must be above 0 and up to 1, received ${maxShare}`,
    );
  }
});

Deno.test("MoqRelay accepts the sessions of a client that reconnects", async () => {
  using time = new FakeTime();
  await using net = new RelayNet();
  const relay = net.relay();
  const network = new MoqNetwork();
  network.mux = new Publisher().mux;
  await using client = network.client({
    mux: relay.mux,
    onSession: (session) => relay.accept(session),
  });
  const heard = await listen((await net.join(relay)).client);
  await pass(time, 0);
  assertEquals(heard, ["/live on"]);
  network.cut();
  await pass(time, 1_000);
  assertEquals(heard, ["/live on", "/live off", "/live on"]);
  assertEquals(client.isConnected, true);
});
