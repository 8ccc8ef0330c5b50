import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ProtocolError } from "../../errors.ts";
import {
  bytesOf,
  LIVE_VERSIONS,
  type LivePair,
  livePair,
  readAll,
  textOf,
} from "../../tests/moq/pair.ts";
import { MoqNetwork, pass } from "../../tests/moq/network.ts";
import { MoqError } from "../wire/errors.ts";
import { LiveTrack } from "./live_track.ts";
import { TrackMux } from "../track/mux.ts";
import { MoqRelay, type MoqRelayOptions } from "./relay.ts";
import { type MoqRelayNotice, NOTICES_PATH, relayNotices } from "./relay_notices.ts";
import type { TrackOrigin } from "./relay_source.ts";
import type { MoqSession, MoqSessionOptions } from "../session/session.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import { broadcastPath } from "../wire/path.ts";
import type { MoqVersion } from "../wire/versions.ts";
import { turns, until } from "../../tests/waiting.ts";

/** Relays and their sessions; disposal closes all. */
class Net implements AsyncDisposable {
  readonly version: MoqVersion;
  readonly #pairs: LivePair[] = [];
  readonly #relays: MoqRelay[] = [];

  constructor(version: MoqVersion) {
    this.version = version;
  }

  relay(options: MoqRelayOptions = {}): MoqRelay {
    const relay = new MoqRelay({ allowAnonymousPublish: true, ...options });
    this.#relays.push(relay);
    return relay;
  }

  /** Connects a client to a relay. */
  async join(
    relay: MoqRelay,
    mux = new TrackMux(),
    options: Partial<MoqSessionOptions> = {},
  ): Promise<LivePair> {
    const pair = await livePair(this.version, { server: relay.mux, client: mux, options });
    void relay.accept(pair.server);
    this.#pairs.push(pair);
    return pair;
  }

  /** Connects two relays. */
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

/** Collects the announcements that a session gets. */
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
    assertEquals(relay.stats, { sessions: 2, broadcasts: 1, waiting: 0, tracks: 1 });
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
    // Back to the short way, once available again.
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

  Deno.test(`MoqRelay gives up a group on a broken path, and continues with the next, over ${version}`, async () => {
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

  Deno.test(`MoqRelay subscribes upstream with the highest priority of its subscribers over ${version}`, async () => {
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
  await turns(50);
  assertEquals(relay.mux.size, 0);
  await time.tickAsync(999);
  assertEquals(relay.mux.size, 0);
  await time.tickAsync(1);
  assertEquals(relay.mux.size, 1);
});

Deno.test("MoqRelay ends a broadcast that runs in a loop of relays, where versions have no hops", async () => {
  await using net = new Net("gomoqt-dev");
  const [a, b, c] = [net.relay(), net.relay(), net.relay()];
  let told = 0;
  for (const { mux } of [a, b, c]) {
    // An endless exchange between relays would leave the test no turn: stop after 1,000.
    mux.watch("/", () => ++told === 1_000 && [a, b, c].forEach((relay) => relay.close()));
  }
  await net.connect(a, b);
  await net.connect(b, c);
  await net.connect(c, a);
  const publisher = new Publisher("/live");
  const pair = await net.join(a, publisher.mux);
  await until(() => [a, b, c].every(({ mux }) => mux.size === 1));
  await turns(50);
  pair.client.close();
  await until(() => a.mux.size === 0);
  await until(() => [a, b, c].every(({ mux }) => mux.size === 0));
  assertEquals(told < 1_000, true);
});

/** A mux that counts the listeners to its announcements. */
class WatchedMux extends TrackMux {
  watching = 0;

  override watch(...args: Parameters<TrackMux["watch"]>): Disposable {
    const watch = super.watch(...args);
    this.watching++;
    return {
      [Symbol.dispose]: () => {
        this.watching--;
        watch[Symbol.dispose]();
      },
    };
  }
}

/** A mux with broadcasts without content. */
function muxOf(...paths: readonly string[]): TrackMux {
  const mux = new TrackMux();
  for (const path of paths) mux.publish(path, () => {});
  return mux;
}

/** Announcements of a relay. */
function announced({ mux }: MoqRelay): string[] {
  return mux.announcements("/").map(({ path }) => `${path}`);
}

function messages(errors: readonly unknown[]): string[] {
  return errors.map((error) => (error as Error).message);
}

Deno.test("MoqRelay relays no more broadcasts than its bound, and takes waiting ones when there is room", async () => {
  await using net = new Net("moq-lite-05");
  const errors: unknown[] = [];
  const relay = net.relay({
    maxBroadcasts: 2,
    maxShare: 1,
    onError: (error) => void errors.push(error),
  });
  const mux = muxOf();
  const one = mux.publish("/one", () => {});
  for (const path of ["/two", "/three", "/four", "/five"]) mux.publish(path, () => {});
  await net.join(relay, mux);
  await until(() => relay.stats.waiting === 2);
  await turns(10);
  assertEquals(announced(relay), ["/one", "/two"]);
  // Two places, and two that wait; the fifth is not kept. Each reason is reported once.
  assertEquals([relay.stats.waiting, messages(errors)], [2, [
    "Cannot relay /three: its session has 2 broadcasts already, see maxShare",
  ]]);
  one.end();
  await until(() => announced(relay).includes("/three"));
  assertEquals([announced(relay), relay.stats.waiting], [["/two", "/three"], 1]);
});

Deno.test("MoqRelay takes broadcasts that wait in turns by session, and forgets those that ended", async () => {
  await using net = new Net("moq-lite-05");
  const errors: unknown[] = [];
  const relay = net.relay({
    maxBroadcasts: 3,
    maxShare: 1,
    onError: (error) => void errors.push(error),
  });
  const first = muxOf();
  const held = ["/1", "/2", "/3"].map((path) => first.publish(path, () => {}));
  await net.join(relay, first);
  await until(() => relay.mux.size === 3);
  const second = muxOf("/a");
  const gone = second.publish("/gone", () => {});
  second.publish("/b", () => {});
  await net.join(relay, second);
  await until(() => relay.stats.waiting === 3);
  const third = await net.join(relay, muxOf("/c"));
  const fourth = await net.join(relay, muxOf("/d"));
  await turns(20);
  // Three wait already, as many as there are places.
  assertEquals([relay.stats.waiting, messages(errors).map((text) => text.split(":")[0])], [3, [
    "Cannot relay /a",
    "Cannot relay /c",
    "Cannot relay /d",
  ]]);
  gone.end();
  await until(() => relay.stats.waiting === 2);
  fourth.client.mux.publish("/e", () => {});
  await until(() => relay.stats.waiting === 3);
  for (const { end } of held.slice(0, 2)) end();
  await until(() => relay.stats.waiting === 1);
  assertEquals(announced(relay).sort(), ["/3", "/a", "/e"]);
  held[2]!.end();
  await until(() => relay.stats.waiting === 0);
  assertEquals(announced(relay).sort(), ["/a", "/b", "/e"]);
  assertEquals(relay.stats.broadcasts, 3);
  third.client.close();
});

Deno.test("MoqRelay relays no more of an address than its share once half of the places are taken", async () => {
  await using net = new Net("moq-lite-05");
  const errors: unknown[] = [];
  const relay = net.relay({
    maxBroadcasts: 10,
    maxShare: 1,
    onError: (error) => void errors.push(error),
  });
  const from = (address: string, mux: TrackMux, options: Partial<MoqSessionOptions> = {}) =>
    net.join(relay, mux, { address, ...options });
  const greedy = muxOf();
  const held = ["/1", "/2", "/3"].map((path) => greedy.publish(path, () => {}));
  await from("192.0.2.1", greedy);
  await until(() => relay.mux.size === 3);
  // Another session of the address, with room for two: nobody else has anything.
  await from("192.0.2.1", muxOf("/a", "/b", "/c", "/d"));
  await until(() => relay.stats.waiting === 2);
  assertEquals(messages(errors), [
    "Cannot relay /c: its address has its share of the broadcasts already, " +
    "see maxBroadcastsPerAddress",
  ]);
  // Broadcasts that wait for their address hold up no other address, nor a relay with a share.
  const other = muxOf("/other");
  const honest = await from("192.0.2.2", other);
  await from("192.0.2.1", muxOf("/relayed"), { authorize: () => ({ share: 1 }) });
  await until(() => relay.mux.size === 7);
  // A broadcast of the address makes room for another.
  held[0]!.end();
  await until(() => announced(relay).includes("/c"));
  assertEquals([relay.mux.size, relay.stats.waiting], [7, 1]);
  // So does the end of contention.
  honest.client.close();
  for (const { end } of held.slice(1)) end();
  await until(() => announced(relay).includes("/d"));
  assertEquals(relay.mux.quotas!.stats["moq.maxBroadcasts"], {
    taken: 5,
    max: 10,
    refused: { server: 0, address: 2, user: 0, session: 0 },
  });
});

Deno.test("MoqRelay takes broadcasts of other addresses while one waits for its own", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({
    maxBroadcasts: 4,
    maxShare: 1,
    maxBroadcastsPerAddress: 2,
    onError() {},
  });
  const from = (address: string, ...paths: readonly string[]) =>
    net.join(relay, muxOf(...paths), { address });
  await from("192.0.2.1", "/1", "/2", "/3");
  await until(() => relay.stats.waiting === 1);
  const leaving = await from("192.0.2.2", "/a", "/b");
  await until(() => relay.mux.size === 4);
  await from("192.0.2.3", "/x");
  await until(() => relay.stats.waiting === 2);
  leaving.client.close();
  await until(() => announced(relay).includes("/x"));
  assertEquals(announced(relay).sort(), ["/1", "/2", "/x"]);
});

Deno.test("MoqRelay counts a broadcast for another source once the first one is gone", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({ maxBroadcasts: 10, maxShare: 1, maxBroadcastsPerAddress: 1 });
  const from = (address: string, ...paths: readonly string[]) =>
    net.join(relay, muxOf(...paths), { address });
  const first = await from("192.0.2.1", "/live");
  await until(() => relay.mux.size === 1);
  await from("192.0.2.2", "/live");
  // The second source costs its address no place.
  await from("192.0.2.2", "/own");
  await until(() => relay.mux.size === 2);
  first.client.close();
  await from("192.0.2.1", "/new");
  await until(() => relay.mux.size === 3);
  assertEquals(announced(relay).sort(), ["/live", "/new", "/own"]);
});

Deno.test("MoqRelay takes a waiting broadcast once its address holds another one no longer", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({
    maxBroadcasts: 10,
    maxShare: 1,
    maxBroadcastsPerAddress: 1,
    onError() {},
  });
  const from = (address: string, ...paths: readonly string[]) =>
    net.join(relay, muxOf(...paths), { address });
  const first = await from("192.0.2.1", "/live");
  await until(() => relay.mux.size === 1);
  await from("192.0.2.2", "/live");
  await from("192.0.2.1", "/new");
  await until(() => relay.stats.waiting === 1);
  // The broadcast goes on, and counts for its second source.
  first.client.close();
  await until(() => announced(relay).includes("/new"));
  assertEquals(announced(relay).sort(), ["/live", "/new"]);
});

Deno.test("MoqRelay keeps nothing of a session that left while its broadcasts wait", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({ maxBroadcasts: 1, onError() {} });
  const first = await net.join(relay, muxOf("/one"));
  await until(() => relay.mux.size === 1);
  const second = await net.join(relay, muxOf("/two"));
  await until(() => relay.stats.waiting === 1);
  second.client.close();
  await until(() => relay.stats.waiting === 0);
  first.client.close();
  await until(() => relay.stats.broadcasts === 0);
  await turns(10);
  assertEquals(announced(relay), []);
});

Deno.test("MoqRelay finds an honest publisher beside sessions that announce up to their bound", async () => {
  await using net = new Net("moq-lite-05");
  let told = 0;
  const relay = net.relay({ maxBroadcasts: 500, onError: () => void told++ });
  const flood = Array.from({ length: 1_000 }, (_, at) => `/flood/${at}`);
  const floods = await Promise.all(
    [1, 2, 3].map((at) => net.join(relay, muxOf(...flood.map((path) => `${path}/${at}`)))),
  );
  const viewer = await net.join(relay);
  const reader = await viewer.client.acceptAnnounce("/live");
  const publisher = new Publisher("/live");
  await net.join(relay, publisher.mux);
  assertEquals((await reader.next())?.path, "/live");
  const track = await viewer.client.subscribe("/live", "x");
  await until(() => publisher.live.subscribers === 1);
  publisher.write("hello");
  assertEquals((await track.nextGroup())?.sequence, 1);
  await until(() => relay.stats.broadcasts === 31);
  // 2 % of 500 for each session, and as many that wait; one error for each session.
  assertEquals([relay.stats.broadcasts, relay.stats.waiting, told], [31, 30, 3]);
  for (const { client } of floods) client.close();
  await until(() => relay.stats.broadcasts === 1);
  assertEquals([announced(relay), relay.stats.waiting], [["/live"], 0]);
});

Deno.test("MoqRelay gives a session the share that authorize says, and all to one that was dialed", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({ maxBroadcasts: 100, onError() {} });
  const paths = (name: string) => Array.from({ length: 40 }, (_, at) => `/${name}/${at}`);
  const count = (name: string) =>
    announced(relay).filter((path) => path.startsWith(`/${name}/`)).length;
  await net.join(relay, muxOf(...paths("stranger")), { authorize: () => true });
  await net.join(relay, muxOf(...paths("guest")), { authorize: () => ({ share: 0.1 }) });
  const expiry = new Date(Date.now() + 60_000);
  await net.join(relay, muxOf(...paths("relay")), {
    authorize: () => ({ share: 1, until: expiry }),
  });
  await until(() => count("relay") === 40);
  await until(() => count("guest") === 10 && count("stranger") === 2);
  const dialed = await livePair("moq-lite-05", {
    server: muxOf(...paths("upstream")),
    client: relay.mux,
  });
  await using _dialed = dialed;
  void relay.accept(dialed.client);
  await until(() => count("upstream") === 40);
});

Deno.test("MoqRelay takes waiting broadcasts once authorize gives their session a larger share", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({ maxBroadcasts: 100, maxShare: 0.01, onError() {} });
  let share = 0.01;
  const mux = muxOf("/one", "/two");
  await net.join(relay, mux, { authorize: () => ({ share }) });
  await until(() => relay.stats.waiting === 1);
  share = 1;
  mux.publish("/three", () => {});
  await until(() => relay.mux.size === 3);
  assertEquals(relay.stats.waiting, 0);
});

for (const version of LIVE_VERSIONS) {
  Deno.test(`MoqRelay allows no publishing without authorize over ${version}`, async () => {
    await using net = new Net(version);
    const errors: unknown[] = [];
    const relay = net.relay({
      allowAnonymousPublish: false,
      onError: (error) => void errors.push(error),
    });
    const mux = new WatchedMux();
    for (const path of ["/anonymous", "/another"]) mux.publish(path, () => {});
    const anonymous = await net.join(relay, mux);
    await until(() => errors.length === 1 || relay.stats.broadcasts > 0);
    assertEquals(relay.stats.broadcasts, 0);
    const [error] = errors as [MoqError];
    assertEquals([error.scope, error.reason, error.message], [
      "announce",
      "bannedPrefix",
      "Cannot relay /anonymous: the session must have authorize, of listenMoq() or " +
      "MoqSession.open(), or the relay allowAnonymousPublish",
    ]);
    await net.join(relay, muxOf("/known"), {
      authorize: (_session, _path, action) => action === "publish",
    });
    await until(() => relay.mux.size === 1);
    await turns(20);
    assertEquals([announced(relay), relay.stats.broadcasts], [["/known"], 1]);
    // The relay reads no more announcements of this session, but serves its subscriptions.
    assertEquals(mux.watching, 0);
    const viewer = await anonymous.client.acceptAnnounce("/");
    assertEquals((await viewer.next())?.path, "/known");
    for await (const notice of relayNotices(anonymous.client)) {
      assertEquals([notice.relayed, notice.reason], [0, "anonymous"]);
      break;
    }
  });
}

Deno.test("MoqRelay prints that authorize is missing, once, where onError is not set", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({ allowAnonymousPublish: false });
  const lines: unknown[] = [];
  const { warn } = console;
  console.warn = (line: unknown) => void lines.push(line);
  try {
    for (const path of ["/one", "/two"]) {
      const { client } = await net.join(relay, muxOf(path));
      for await (const { reason } of relayNotices(client)) if (reason === "anonymous") break;
    }
  } finally {
    console.warn = warn;
  }
  assertEquals(lines, [
    "Skein: Cannot relay /one: the session must have authorize, of listenMoq() or " +
    "MoqSession.open(), or the relay allowAnonymousPublish",
  ]);
});

for (const version of LIVE_VERSIONS) {
  Deno.test(`relayNotices() sends a publisher the reason against its broadcasts over ${version}`, async () => {
    await using net = new Net(version);
    const relay = net.relay({ maxBroadcasts: 1, onError() {} });
    const other = await net.join(relay, muxOf("/other"));
    await until(() => relay.mux.size === 1);
    const mux = muxOf();
    const { client } = await net.join(relay, mux);
    const notices = relayNotices(client);
    const notice = async (isRight: (notice: MoqRelayNotice) => boolean) => {
      while (true) {
        const { value, done } = await notices.next();
        if (done) throw new Error("There are no more notices");
        if (isRight(value)) return value;
      }
    };
    const none = { relayed: 0, places: 1, waiting: [], waitingCount: 0, ignored: 0, reason: null };
    assertEquals(await notice(() => true), none);
    const one = mux.publish("/one", () => {});
    assertEquals(await notice(({ reason }) => reason !== null), {
      ...none,
      waiting: ["/one"],
      waitingCount: 1,
      reason: "full",
    });
    mux.publish("/two", () => {});
    assertEquals((await notice(({ ignored }) => ignored === 1)).waiting, ["/one"]);
    other.client.close();
    assertEquals((await notice(({ relayed }) => relayed === 1)).waitingCount, 0);
    one.end();
    assertEquals(await notice(({ relayed }) => relayed === 0), none);
    await notices.return?.();
  });
}

Deno.test("relayNotices() lists the 64 oldest broadcasts that wait, and counts all", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({ maxBroadcasts: 100, maxShare: 1, onError() {} });
  const paths = (name: string, count: number) =>
    Array.from({ length: count }, (_, at) => `/${name}/${at}`);
  await net.join(relay, muxOf(...paths("other", 100)));
  await until(() => relay.mux.size === 100);
  const { client } = await net.join(relay, muxOf(...paths("late", 70)));
  await until(() => relay.stats.waiting === 70);
  for await (const { waiting, waitingCount } of relayNotices(client)) {
    assertEquals([waiting, waitingCount], [paths("late", 64), 70]);
    break;
  }
});

Deno.test("relayNotices() sends each session notices of its own broadcasts alone", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay();
  const { client } = await net.join(relay);
  const wrong = await client.subscribe(NOTICES_PATH, "other");
  assertEquals((await assertRejects(() => wrong.ready, MoqError)).reason, "notFound");
  // A session that was not accepted gets no notices.
  const stranger = await livePair("moq-lite-05", { server: relay.mux });
  await using _stranger = stranger;
  await assertRejects(() => relayNotices(stranger.client).next(), MoqError);
  const notices = relayNotices(client);
  assertEquals((await notices.next()).value.relayed, 0);
  relay.close();
  await assertRejects(() => notices.next(), MoqError);
  assertEquals(relay.mux.route(NOTICES_PATH), undefined);
});

Deno.test("relayNotices() rejects invalid notices", async () => {
  const frames = ["?", "null", "{}", `{"relayed":-1}`];
  for (const frame of frames) {
    const mux = new TrackMux();
    mux.handle(NOTICES_PATH, async (track) => {
      await using group = await track.openGroup();
      await group.writeFrame(bytesOf(frame));
    });
    await using pair = await livePair("moq-lite-05", { server: mux });
    await assertRejects(() => relayNotices(pair.client).next(), ProtocolError);
  }
});

Deno.test("MoqRelay unsubscribes when the subscriber left before the first group", async () => {
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

Deno.test("MoqRelay sends on as many fetches as its bound, and others again after their end", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay({ maxFetches: 2 });
  const publisher = new Publisher("/live");
  const gate = Promise.withResolvers<void>();
  let asked = 0;
  publisher.live.serveFetch = async (_request, group) => {
    asked++;
    await gate.promise;
    await group.writeFrame(bytesOf("one"));
  };
  await net.join(relay, publisher.mux);
  await until(() => relay.mux.size === 1);
  const { client } = await net.join(relay);
  const fetch = () => client.fetch("/live", "x", { group: 1 });
  const held = [await fetch(), await fetch()];
  await until(() => asked === 2);
  const refused = await fetch();
  const answer = refused.readFrame().catch((error) => error);
  await until(() => asked > 2 || refused.isEnded);
  gate.resolve();
  assertEquals((await answer as MoqError).reason, "notFound");
  for (const group of held) {
    assertEquals(textOf((await group.readFrame())!), "one");
    assertEquals(await group.readFrame(), null);
  }
  await turns(20);
  for (let round = 0; round < 4; round++) {
    const later = await fetch();
    assertEquals(textOf((await later.readFrame())!), "one");
    assertEquals(await later.readFrame(), null);
    await turns(20);
  }
  assertEquals(asked, 6);
});

Deno.test("MoqRelay compares 64 sources of a broadcast, and takes others once one of them is gone", async () => {
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
  relay.removeSource(path, sources[65]!); // While the call waits.
  assertEquals(from(), 63);
  relay.removeSource(path, sources[0]!);
  assertEquals(from(), 64);
  relay.removeSource(path, sources[1]!);
  assertEquals(from(), 66);
  for (const session of sources.slice(2)) relay.removeSource(path, session);
  assertEquals([announced(relay), relay.stats.broadcasts], [[], 0]);
});

Deno.test("MoqRelay refuses tracks beyond its bound", async () => {
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

Deno.test("MoqRelay refuses a session tracks beyond its share, and no other session", async () => {
  await using net = new Net("moq-lite-04");
  const relay = net.relay({ maxTracks: 100 });
  const publisher = new Publisher("/live");
  await net.join(relay, publisher.mux);
  await until(() => relay.mux.size === 1);
  const greedy = await net.join(relay);
  const [one, same, two, three] = await Promise.all(
    ["one", "one", "two", "three"].map((name) => greedy.client.subscribe("/live", name)),
  );
  for (const track of [one, same, two]) await track!.ready;
  assertEquals((await assertRejects(() => three!.ready, MoqError)).reason, "internal");
  // The other subscription still holds the share of the track.
  same!.close();
  await turns(20);
  await assertRejects(async () => (await greedy.client.subscribe("/live", "four")).ready, MoqError);
  one!.close();
  await turns(20);
  await (await greedy.client.subscribe("/live", "four")).ready;
  const other = await net.join(relay);
  await (await other.client.subscribe("/live", "three")).ready;
  const relayed = await net.join(relay, new TrackMux(), { authorize: () => ({ share: 1 }) });
  for (let at = 0; at < 20; at++) await (await relayed.client.subscribe("/live", `${at}`)).ready;
});

Deno.test("MoqRelay refuses an address tracks beyond its share, and no other address", async () => {
  await using net = new Net("moq-lite-04");
  const relay = net.relay({ maxTracks: 100, maxShare: 1, maxTracksPerAddress: 3 });
  const publisher = new Publisher("/live");
  await net.join(relay, publisher.mux);
  await until(() => relay.mux.size === 1);
  const from = (address: string, options: Partial<MoqSessionOptions> = {}) =>
    net.join(relay, new TrackMux(), { address, ...options });
  const greedy = await Promise.all([from("192.0.2.1"), from("::ffff:192.0.2.1")]);
  let names = 0;
  const subscribe = async ({ client }: LivePair, name = `${names++}`) =>
    (await client.subscribe("/live", name)).ready;
  for (const session of [...greedy, greedy[0]!]) await subscribe(session);
  for (const session of greedy) await assertRejects(() => subscribe(session), MoqError);
  await subscribe(await from("192.0.2.1"), "0"); // A track that the relay has costs no place.
  await subscribe(await from("192.0.2.2"));
  const relayed = await from("192.0.2.1", { authorize: () => ({ share: 1 }) });
  for (let at = 0; at < 20; at++) await subscribe(relayed);
});

Deno.test("MoqRelay takes no place of a track that has a subscriber again in the same turn", async () => {
  await using net = new Net("moq-lite-04");
  const relay = net.relay({ maxTracks: 1, maxShare: 1, lingerMs: 3_600_000 });
  const publisher = new Publisher("/live");
  await net.join(relay, publisher.mux);
  await until(() => relay.mux.size === 1);
  const [one, other] = [
    await net.join(relay),
    await net.join(relay, new TrackMux(), {
      authorize: () => ({ share: 1 }),
    }),
  ];
  const first = await one.client.subscribe("/live", "old");
  await first.ready;
  first.close();
  await until(() => served([one]) === 0);
  await turns(20);
  const [old, more] = await Promise.all([
    one.client.subscribe("/live", "old"),
    other.client.subscribe("/live", "new"),
  ]);
  await assertRejects(() => more!.ready, MoqError);
  await old!.ready;
  publisher.write("still there");
  assertEquals((await old!.nextGroup())?.sequence, 1);
  assertEquals(relay.stats.tracks, 1);
});

Deno.test("MoqRelay gives the place of a track without subscribers to another one", async () => {
  await using net = new Net("moq-lite-04");
  const relay = net.relay({ maxTracks: 2, maxShare: 1, lingerMs: 3_600_000 });
  const publisher = new Publisher("/live");
  await net.join(relay, publisher.mux);
  await until(() => relay.mux.size === 1);
  const { client } = await net.join(relay);
  const [old, used] = await Promise.all(
    ["old", "used"].map((name) => client.subscribe("/live", name)),
  );
  await Promise.all([old!.ready, used!.ready]);
  old!.close();
  await until(() => publisher.live.subscribers === 2);
  await turns(20);
  await (await client.subscribe("/live", "new")).ready;
  await until(() => publisher.live.subscribers === 2);
  assertEquals([relay.stats.tracks], [2]);
  await assertRejects(async () => (await client.subscribe("/live", "more")).ready, MoqError);
});

Deno.test("MoqRelay ends one track without subscribers for a new one, the oldest", async () => {
  await using net = new Net("moq-lite-04");
  const relay = net.relay({ maxTracks: 2, maxShare: 1, lingerMs: 3_600_000 });
  const publisher = new Publisher("/live");
  await net.join(relay, publisher.mux);
  await until(() => relay.mux.size === 1);
  const viewer = await net.join(relay);
  for (const name of ["old", "quiet"]) {
    const track = await viewer.client.subscribe("/live", name);
    await track.ready;
    track.close();
    await until(() => served([viewer]) === 0);
    await turns(20);
  }
  await (await viewer.client.subscribe("/live", "new")).ready;
  await turns(20);
  assertEquals([relay.stats.tracks, publisher.live.subscribers], [2, 2]);
});

for (const version of ["moq-lite-05", "moq-lite-04"] as const) {
  Deno.test(`MoqRelay holds maxLagBytes of a track for a slow subscriber over ${version}`, async () => {
    await using net = new Net(version);
    const bytes = 200_000;
    const relay = net.relay({ track: { maxCachedBytes: 1, maxLagBytes: 2.5 * bytes } });
    const publisher = new Publisher("/live");
    await net.join(relay, publisher.mux);
    await until(() => relay.mux.size === 1);
    const slow = await net.join(relay);
    const quick = await net.join(relay);
    const missed = new Set<number>();
    const late = await slow.client.subscribe("/live", "x", {
      onMissed: ({ first, last }) => {
        for (let at = first; at <= last; at++) missed.add(at);
      },
    });
    const good = await quick.client.subscribe("/live", "x", { ordered: true });
    await until(() => publisher.live.subscribers === 1 && served([slow, quick]) === 2);
    await turns(20);
    slow.link.stall("to-client");
    for (let at = 1; at <= 6; at++) {
      using group = publisher.live.openGroup();
      group.writeFrame(new Uint8Array(bytes));
      group.close();
      // The other subscriber has the group, and therefore the relay, too.
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

  Deno.test(`MoqRelay passes on no broadcast that passed 32 relays over ${version}`, async () => {
    await using net = new Net(version);
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
    assertEquals([announced(relay), heard], [["/near", "/far"], ["/near active"]]);
    // A shorter way brings the broadcast within reach, and a longer one removes the broadcast
    // again.
    far.reannounce(hops(3));
    await turns(50);
    far.reannounce(hops(31));
    await turns(50);
    assertEquals(heard, ["/near active", "/far active", "/far ended"]);
  });
}

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
  // Through the subscriber: for the subscriber the broadcast is gone.
  publication.reannounce([pair.client.mux.hopId]);
  assertEquals((await announcements.next())?.active, false);
  publication.end();
  publication.reannounce([4n]);
  assertEquals(mux.announcements("/"), []);
});

Deno.test("MoqRelay.accept() refuses invalid options", async () => {
  await using net = new Net("moq-lite-05");
  const relay = net.relay();
  const { server, client } = await net.join(relay);
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
