import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  bytesOf,
  LIVE_VERSIONS,
  type LivePair,
  livePair,
  readAll,
  textOf,
} from "../../../tests/moq/pair.ts";
import { MoqNetwork, pass } from "../../../tests/moq/network.ts";
import { MoqError } from "../wire/errors.ts";
import { LiveTrack } from "./live_track.ts";
import { TrackMux } from "../track/mux.ts";
import { MoqRelay, type MoqRelayOptions } from "./relay.ts";
import type { MoqSession } from "../session/session.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import type { MoqVersion } from "../wire/versions.ts";

/** Waits for what an event loop without timers brings. */
async function until(isRight: () => boolean): Promise<void> {
  while (!isRight()) await new Promise<void>((resolve) => void setImmediate(resolve));
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) {
    await new Promise<void>((resolve) => void setImmediate(resolve));
  }
}

/** Relays, and who is connected to them; disposing ends all of it. */
class Net implements AsyncDisposable {
  readonly version: MoqVersion;
  readonly #pairs: LivePair[] = [];
  readonly #relays: MoqRelay[] = [];

  constructor(version: MoqVersion) {
    this.version = version;
  }

  relay(options: MoqRelayOptions = {}): MoqRelay {
    const relay = new MoqRelay(options);
    this.#relays.push(relay);
    return relay;
  }

  /** A client of a relay. */
  async join(relay: MoqRelay, mux = new TrackMux()): Promise<LivePair> {
    const pair = await livePair(this.version, { server: relay.mux, client: mux });
    void relay.accept(pair.server);
    this.#pairs.push(pair);
    return pair;
  }

  /** Two relays. */
  async connect(one: MoqRelay, other: MoqRelay): Promise<LivePair> {
    const pair = await livePair(this.version, { server: one.mux, client: other.mux });
    void one.accept(pair.server);
    void other.accept(pair.client);
    this.#pairs.push(pair);
    return pair;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const relay of this.#relays) relay.close();
    for (const pair of this.#pairs) await pair[Symbol.asyncDispose]();
  }
}

/** A publisher of one track, which counts its subscriptions. */
class Publisher {
  readonly mux: TrackMux;
  readonly live = new LiveTrack();
  readonly tracks: TrackWriter[] = [];

  constructor(path: string, mux = new TrackMux()) {
    this.mux = mux;
    mux.publish(path, {
      serveTrack: (track) => {
        this.tracks.push(track);
        return this.live.serve(track);
      },
      serveFetch: (request, group) => this.live.serveFetch(request, group),
      trackInfo: () => ({ timescale: 90_000, priority: 5 }),
    });
  }

  write(text: string, sequence?: number): void {
    using group = this.live.openGroup(sequence);
    for (const frame of text.split(" ")) group.writeFrame(bytesOf(frame), { timestamp: 7 });
  }
}

/** Collects what a session hears of. */
async function listen(session: MoqSession): Promise<string[]> {
  const heard: string[] = [];
  const reader = await session.acceptAnnounce("/");
  void (async () => {
    for await (const { path, active } of reader) {
      heard.push(`${path} ${active ? "active" : "ended"}`);
    }
  })().catch(() => {});
  return heard;
}

for (const version of LIVE_VERSIONS) {
  Deno.test(`MoqRelay subscribes upstream once for 100 subscribers over ${version}`, async () => {
    await using net = new Net(version);
    const relay = net.relay();
    const publisher = new Publisher("/live");
    await net.join(relay, publisher.mux);
    await until(() => relay.mux.size === 1);
    const viewers = await Promise.all(Array.from({ length: 10 }, () => net.join(relay)));
    const reading = await Promise.all(
      viewers.flatMap(({ client }) =>
        Array.from({ length: 10 }, async () =>
          readAll(
            await client.subscribe("/live", "x", {
              ordered: true,
            }),
          ))
      ).map((promise) => ({ promise })),
    );
    await until(() => publisher.live.subscribers === 1 && served(viewers) === 100);
    assertEquals([publisher.tracks.length, relay.stats.tracks], [1, 1]);
    await turns(10);
    publisher.write("one two");
    publisher.live.openGroup().abort();
    publisher.write("three");
    await turns(50);
    publisher.live.close();
    for (const { promise } of reading) {
      const groups = (await promise).filter((group) => !group.startsWith("2"));
      assertEquals(groups, ["1: one two", "3: three"]);
    }
    assertEquals([publisher.tracks.length, relay.stats.tracks], [1, 0]);
  });

  Deno.test(`MoqRelay unsubscribes some time after the last subscriber left over ${version}`, async () => {
    await using net = new Net(version);
    using time = new FakeTime();
    const relay = net.relay({ lingerMs: 2_000 });
    const publisher = new Publisher("/live");
    await net.join(relay, publisher.mux);
    await until(() => relay.mux.size === 1);
    const { client } = await net.join(relay);
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

  Deno.test(`MoqRelay tells that a publisher was killed, and came back, over ${version}`, async () => {
    await using net = new Net(version);
    const relay = net.relay();
    const old = new Publisher("/live");
    const oldPair = await net.join(relay, old.mux);
    await until(() => relay.mux.size === 1);
    const { client } = await net.join(relay);
    const heard = await listen(client);
    const track = await client.subscribe("/live", "x");
    await until(() => old.live.subscribers === 1);
    old.write("old");
    const reading = assertRejects(() => readAll(track), MoqError);
    await turns(50);
    oldPair.link.disconnect();
    await until(() => heard.length === 2);
    await reading;
    const fresh = new Publisher("/live");
    await net.join(relay, fresh.mux);
    await until(() => heard.length === 3);
    assertEquals(heard, ["/live active", "/live ended", "/live active"]);
    const again = await client.subscribe("/live", "x");
    await until(() => fresh.live.subscribers === 1);
    fresh.write("fresh");
    const group = await again.nextGroup();
    assertEquals(textOf((await group!.readFrame())!), "fresh");
    assertEquals(relay.stats, { sessions: 2, broadcasts: 1, tracks: 1 });
  });

  Deno.test(`MoqRelay hands on over three hops over ${version}`, async () => {
    await using net = new Net(version);
    const [a, b, c] = [net.relay(), net.relay(), net.relay()];
    await net.connect(a, b);
    await net.connect(b, c);
    const publisher = new Publisher("/live");
    await net.join(a, publisher.mux);
    await until(() => c.mux.size === 1);
    const viewer = await net.join(c);
    const announcement = await (await viewer.client.acceptAnnounce("/")).next();
    const hops = [publisher.mux, a.mux, b.mux, c.mux].map(({ hopId }) => hopId);
    assertEquals(announcement?.hops, version === "gomoqt-dev" ? [] : hops);
    const track = await viewer.client.subscribe("/live", "x");
    await until(() => publisher.live.subscribers === 1);
    publisher.write("one two");
    const group = (await track.nextGroup())!;
    const frames: string[] = [];
    for await (const frame of group) frames.push(textOf(frame));
    assertEquals(frames, ["one", "two"]);
    if (version === "moq-lite-05") {
      assertEquals(group.timestamp, 7);
      const { timescale, priority } = await track.info();
      assertEquals([timescale, priority], [90_000, 5]);
    }
    const none = await viewer.client.subscribe("/none", "x");
    const error = await assertRejects(() => none.ready, MoqError);
    assertEquals(error.reason, "notFound");
  });
}

for (const version of ["moq-lite-05", "moq-lite-04"] as const) {
  Deno.test(`MoqRelay refuses loops in a ring of three over ${version}`, async () => {
    await using net = new Net(version);
    const [a, b, c] = [net.relay(), net.relay(), net.relay()];
    await net.connect(a, b);
    await net.connect(b, c);
    await net.connect(c, a);
    const publisher = new Publisher("/live");
    const pair = await net.join(a, publisher.mux);
    await until(() => b.mux.size === 1 && c.mux.size === 1);
    await turns(50);
    const ways = [a, b, c].map(({ mux }) => mux.announcements("/")[0]?.hops);
    const [p, id] = [publisher.mux.hopId, a.mux.hopId];
    assertEquals(ways, [[p], [p, id], [p, id]]);
    const track = await (await net.join(c)).client.subscribe("/live", "x");
    await until(() => publisher.live.subscribers === 1);
    publisher.write("one");
    assertEquals((await track.nextGroup())?.sequence, 1);
    pair.client.close();
    await until(() => [a, b, c].every(({ mux }) => mux.size === 0));
    assertEquals([a, b, c].map(({ stats }) => [stats.broadcasts, stats.tracks]), [
      [0, 0],
      [0, 0],
      [0, 0],
    ]);
    await assertRejects(() => readAll(track), MoqError);
  });

  Deno.test(`MoqRelay takes another way to the same publisher over, and subscriptions stay, over ${version}`, async () => {
    await using net = new Net(version);
    const [a, b, c] = [net.relay(), net.relay(), net.relay()];
    await net.connect(a, b);
    const short = await net.connect(a, c);
    await net.connect(b, c);
    const publisher = new Publisher("/live");
    await net.join(a, publisher.mux);
    await until(() => c.mux.size === 1 && b.mux.size === 1);
    await turns(50);
    const viewer = await net.join(c);
    const heard = await listen(viewer.client);
    const track = await viewer.client.subscribe("/live", "x");
    await until(() => publisher.live.subscribers === 1);
    publisher.write("one");
    assertEquals((await track.nextGroup())?.sequence, 1);
    const way = () => c.mux.announcements("/")[0]?.hops;
    const [p, viaA, viaB] = [publisher, a, b].map(({ mux }) => mux.hopId) as [
      bigint,
      bigint,
      bigint,
    ];
    assertEquals(way(), [p, viaA]);
    short.link.disconnect();
    await until(() => way()?.length === 3);
    assertEquals(way(), [p, viaA, viaB]);
    await until(() => b.stats.tracks === 1);
    await turns(20);
    publisher.write("two");
    assertEquals((await track.nextGroup())?.sequence, 2);
    // And back, once the short way is there again.
    await net.connect(a, c);
    await until(() => way()?.length === 2);
    await turns(50);
    publisher.write("three");
    assertEquals((await track.nextGroup())?.sequence, 3);
    await until(() => b.stats.tracks === 1);
    assertEquals(heard.filter((line) => line.endsWith("ended")).length <= 2, true);
    assertEquals(heard.at(-1), "/live active");
    track.close();
  });

  Deno.test(`MoqRelay gives up a group whose way was cut, and goes on with the next, over ${version}`, async () => {
    await using net = new Net(version);
    const [a, b, c] = [net.relay(), net.relay(), net.relay()];
    await net.connect(a, b);
    const short = await net.connect(a, c);
    await net.connect(b, c);
    const publisher = new Publisher("/live");
    await net.join(a, publisher.mux);
    await until(() => c.mux.size === 1 && b.mux.size === 1);
    await turns(50);
    const viewer = await net.join(c);
    const track = await viewer.client.subscribe("/live", "x");
    await until(() => publisher.live.subscribers === 1);
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

  Deno.test(`MoqRelay takes the newer of two publishers that are as near over ${version}`, async () => {
    await using net = new Net(version);
    const relay = net.relay();
    const [old, fresh] = [new Publisher("/live"), new Publisher("/live")];
    await net.join(relay, old.mux);
    await until(() => relay.mux.size === 1);
    const { client } = await net.join(relay);
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
    assertEquals(heard.slice(1), ["/live ended", "/live active", "/live ended", "/live active"]);
  });

  Deno.test(`MoqRelay answers fetches from its cache, and otherwise from upstream, over ${version}`, async () => {
    await using net = new Net(version);
    const relay = net.relay();
    const publisher = new Publisher("/live");
    for (const text of ["one", "two"]) publisher.write(text);
    const pair = await net.join(relay, publisher.mux);
    await until(() => relay.mux.size === 1);
    const { client } = await net.join(relay);
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
    pair.client.close();
  });

  Deno.test(`MoqRelay asks upstream with the highest priority of its subscribers over ${version}`, async () => {
    await using net = new Net(version);
    const relay = net.relay();
    const publisher = new Publisher("/live");
    await net.join(relay, publisher.mux);
    await until(() => relay.mux.size === 1);
    const { client } = await net.join(relay);
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
}

Deno.test("MoqRelay hands on that a track is refused, and asks again for the next one", async () => {
  await using net = new Net("moq-lite-04");
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

Deno.test("MoqRelay takes a source without hops only after a while without another one", async () => {
  await using net = new Net("gomoqt-dev");
  using time = new FakeTime();
  const relay = net.relay();
  const [first, second] = [new Publisher("/live"), new Publisher("/live")];
  const pair = await net.join(relay, first.mux);
  await until(() => relay.mux.size === 1);
  await net.join(relay, second.mux);
  await turns(20);
  pair.client.close();
  await until(() => relay.mux.size === 0);
  await time.tickAsync(999);
  assertEquals(relay.mux.size, 0);
  await time.tickAsync(1);
  assertEquals(relay.mux.size, 1);
});

Deno.test("MoqRelay sees the end of a loop that nobody can see, where versions have no hops", async () => {
  await using net = new Net("gomoqt-dev");
  const [a, b, c] = [net.relay(), net.relay(), net.relay()];
  await net.connect(a, b);
  await net.connect(b, c);
  await net.connect(c, a);
  const publisher = new Publisher("/live");
  const pair = await net.join(a, publisher.mux);
  await until(() => [a, b, c].every(({ mux }) => mux.size === 1));
  await turns(50);
  pair.client.close();
  await until(() => a.mux.size === 0);
  while ([a, b, c].some(({ mux }) => mux.size > 0)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});

Deno.test("MoqRelay relays no more broadcasts than it may", async () => {
  await using net = new Net("moq-lite-05");
  const errors: unknown[] = [];
  const relay = net.relay({ maxBroadcasts: 1, onError: (error) => void errors.push(error) });
  const mux = new TrackMux();
  const one = mux.publish("/one", () => {});
  mux.publish("/two", () => {});
  await net.join(relay, mux);
  await until(() => errors.length === 1);
  assertEquals(relay.mux.announcements("/").map(({ path }) => `${path}`), ["/one"]);
  one.end();
  await until(() => relay.stats.broadcasts === 0);
  mux.publish("/three", () => {});
  await until(() => relay.mux.size === 1);
});

Deno.test("MoqRelay unsubscribes where the subscriber left before it was served", async () => {
  await using net = new Net("moq-lite-05");
  using time = new FakeTime();
  const relay = net.relay({ lingerMs: 1_000 });
  const publisher = new Publisher("/live");
  await net.join(relay, publisher.mux);
  await until(() => relay.mux.size === 1);
  const { client } = await net.join(relay);
  for (let count = 0; count < 20; count++) {
    const track = await client.subscribe("/live", `track${count}`);
    await turns(count % 7);
    track.close();
  }
  await turns(50);
  await time.tickAsync(1_000);
  await until(() => relay.stats.tracks === 0 && publisher.live.subscribers === 0);
});

Deno.test("MoqRelay refuses more tracks than it may have", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({ maxTracks: 1 });
  const publisher = new Publisher("/live");
  await net.join(relay, publisher.mux);
  await until(() => relay.mux.size === 1);
  const { client } = await net.join(relay);
  const one = await client.subscribe("/live", "one");
  await until(() => relay.stats.tracks === 1);
  const two = await client.subscribe("/live", "two");
  await assertRejects(() => two.ready, MoqError);
  one.close();
});

Deno.test("Publication.reannounce() tells another way, and subscriptions stay", async () => {
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
  // By the subscriber itself: it is gone, as far as that is concerned.
  publication.reannounce([pair.client.mux.hopId]);
  assertEquals((await announcements.next())?.active, false);
  publication.end();
  publication.reannounce([4n]);
  assertEquals(mux.announcements("/"), []);
});

Deno.test("MoqRelay.accept() refuses what makes no sense", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay();
  const { server, client } = await net.join(relay);
  assertThrows(() => relay.accept(server), TypeError);
  assertThrows(() => relay.accept(client), TypeError);
  relay.close();
  assertThrows(() => new MoqRelay({ maxTracks: 0 }), RangeError);
});

function served(pairs: readonly LivePair[]): number {
  return pairs.reduce((sum, { server }) => sum + server.servedSubscriptions, 0);
}

Deno.test("MoqRelay takes the sessions of a client that comes back", async () => {
  using time = new FakeTime();
  await using net = new Net("moq-lite-05");
  const relay = net.relay();
  const network = new MoqNetwork();
  new Publisher("/live", network.mux);
  await using client = network.client({
    mux: relay.mux,
    onSession: (session) => relay.accept(session),
  });
  const heard = await listen((await net.join(relay)).client);
  await pass(time, 0);
  assertEquals(heard, ["/live active"]);
  network.cut();
  await pass(time, 1_000);
  assertEquals(heard, ["/live active", "/live ended", "/live active"]);
  assertEquals(client.isConnected, true);
});
