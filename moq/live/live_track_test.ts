import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  bytesOf,
  LIVE_VERSIONS,
  type LivePair,
  livePair,
  readAll,
  textOf,
} from "../../tests/moq/pair.ts";
import { MoqError } from "../wire/errors.ts";
import { LiveBroadcast } from "./live_track.ts";
import { LiveTrack, type LiveTrackOptions } from "./live_track.ts";
import { TrackMux } from "../track/mux.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import { turns, until } from "../../tests/waiting.ts";

/** More bytes than a memory stream buffers without a reader. */
const LARGE = 200_000;

/** A published live track, and the results of its subscriptions. */
function liveMux(options: LiveTrackOptions = {}) {
  const live = new LiveTrack(options);
  const mux = new TrackMux();
  const ends: unknown[] = [];
  mux.publish("/live", {
    serveTrack: async (track: TrackWriter) => {
      try {
        await live.serve(track);
        ends.push(undefined);
      } catch (error) {
        ends.push(error);
        throw error;
      }
    },
    serveFetch: (request, group) => live.serveFetch(request, group),
    trackInfo: () => live.trackInfo(),
  });
  return { live, mux, ends };
}

function write(live: LiveTrack, text: string, sequence?: number): void {
  using group = live.openGroup(sequence);
  for (const frame of text.split(" ")) group.writeFrame(bytesOf(frame));
}

for (const version of LIVE_VERSIONS) {
  Deno.test(`LiveTrack.serve() sends every group to 1,000 subscribers over ${version}`, async () => {
    const { live, mux } = liveMux();
    const pairs = await Promise.all(
      Array.from({ length: 10 }, () => livePair(version, { server: mux })),
    );
    const tracks = await Promise.all(
      pairs.flatMap(({ client }) =>
        Array.from({ length: 100 }, () => client.subscribe("/live", "x", { ordered: true }))
      ),
    );
    await until(() => live.subscribers === 1_000);
    const reading = tracks.map(readAll);
    write(live, "one two");
    write(live, "three");
    live.openGroup().abort();
    write(live, "five");
    live.close();
    const expected = ["1: one two", "2: three", "4: five"];
    for (const groups of await Promise.all(reading)) {
      assertEquals(groups.filter((group) => !group.startsWith("3")), expected);
    }
    assertEquals(live.subscribers, 0);
    for (const pair of pairs) await pair[Symbol.asyncDispose]();
  });

  Deno.test(`LiveTrack.serve() starts at the newest group for a late subscriber over ${version}`, async () => {
    const { live, mux } = liveMux();
    for (const text of ["one", "two"]) write(live, text);
    const open = live.openGroup();
    open.writeFrame(bytesOf("three"));
    await using pair = await livePair(version, { server: mux });
    const track = await pair.client.subscribe("/live", "x");
    const group = await track.nextGroup();
    assertEquals(textOf((await group!.readFrame())!), "three");
    open.writeFrame(bytesOf("more"));
    assertEquals(textOf((await group!.readFrame())!), "more");
    open.close();
    assertEquals(await group!.readFrame(), null);
    write(live, "four");
    live.close();
    assertEquals(await readAll(track), ["4: four"]);
  });

  Deno.test(`LiveTrack explicitly drops groups for which a subscriber is too late over ${version}`, async () => {
    const { live, mux } = liveMux({
      maxLagGroups: 2,
      maxCachedGroups: 2,
      maxGroupsInFlight: 1,
    });
    await using slow = await livePair(version, { server: mux });
    await using quick = await livePair(version, { server: mux });
    const missed: number[] = [];
    const late = await slow.client.subscribe("/live", "x", {
      onMissed: ({ first, last }) => {
        for (let at = first; at <= last; at++) missed.push(at);
      },
    });
    const good = await quick.client.subscribe("/live", "x");
    await until(() => live.subscribers === 2);
    const reading = readAll(good);
    slow.link.stall("to-client");
    for (let at = 1; at <= 5; at++) {
      using group = live.openGroup();
      group.writeFrame(new Uint8Array(LARGE));
      await turns(20);
    }
    assertEquals(live.heldGroups, 2);
    slow.link.resume("to-client");
    live.close();
    const got = (await readAll(late)).map((group) => Number(group.split(":")[0]));
    assertEquals((await reading).length, 5);
    // The reset may overtake the head of the group, which is then lost entirely.
    if (version === "gomoqt-dev" || version === "moqt-20") {
      return assertEquals(got.slice(-2).toSorted(), [4, 5]);
    }
    assertEquals(new Set([...got, ...missed]), new Set([1, 2, 3, 4, 5]));
    assertEquals(
      missed,
      [2, 1, 3].filter((at) => missed.includes(at)).toSorted((a, b) =>
        missed.indexOf(a) - missed.indexOf(b)
      ),
    );
  });

  Deno.test(`LiveTrack ends only the subscriber that reads nothing over ${version}`, async () => {
    using time = new FakeTime();
    const { live, mux, ends } = liveMux({ stallTimeoutMs: 4_000 });
    await using stalled = await livePair(version, { server: mux });
    await using well = await livePair(version, { server: mux });
    const ended = await stalled.client.subscribe("/live", "x");
    const good = await well.client.subscribe("/live", "x");
    await until(() => live.subscribers === 2);
    const reading = readAll(good);
    stalled.link.stall("to-client");
    for (let second = 1; second <= 8; second++) {
      using group = live.openGroup();
      group.writeFrame(new Uint8Array(LARGE));
      await turns(10);
      await time.tickAsync(1_000);
      await turns(10);
      assertEquals(live.subscribers, second < 5 ? 2 : 1, `after ${second} s`);
    }
    const [error] = ends as [MoqError];
    assertEquals([error.scope, error.reason], ["subscribe", "tooFarBehind"]);
    live.close();
    await turns(10);
    await time.tickAsync(1_000);
    assertEquals((await reading).length, 8);
    assertEquals(well.server.isClosed || stalled.server.isClosed, false);
    ended.close();
  });
}

for (const version of ["moq-lite-05", "moq-lite-04"] as const) {
  Deno.test(`LiveTrack.serve() starts at the requested group, and drops expired groups, over ${version}`, async () => {
    const { live, mux } = liveMux({ maxCachedGroups: 3 });
    for (let at = 1; at <= 6; at++) write(live, `group${at}`);
    live.openGroup().abort();
    write(live, "group8");
    await using pair = await livePair(version, { server: mux });
    const missed: string[] = [];
    const track = await pair.client.subscribe("/live", "x", {
      startGroup: 2,
      endGroup: 9,
      ordered: true,
      onMissed: ({ first, last }, reason) => void missed.push(`${first}-${last} ${reason}`),
    });
    await until(() => live.subscribers === 1);
    for (const text of ["group9", "group10"]) write(live, text);
    assertEquals(await readAll(track), ["6: group6", "8: group8", "9: group9"]);
    const reason = version === "moq-lite-05" ? "evicted" : "expired";
    assertEquals(missed, [`2-5 ${reason}`, `7-7 ${reason}`]);
    await until(() => live.subscribers === 0);
  });

  Deno.test(`LiveTrack.serveFetch() responds from the cache over ${version}`, async () => {
    const { live, mux } = liveMux({ maxCachedGroups: 2 });
    for (const text of ["one", "two", "three four"]) write(live, text);
    await using pair = await livePair(version, { server: mux });
    const group = await pair.client.fetch("/live", "x", { group: 3 });
    const frames = (await Array.fromAsync(group)).map(textOf);
    assertEquals(frames, ["three", "four"]);
    for (const gone of [1, 4]) {
      const rejected = await pair.client.fetch("/live", "x", { group: gone });
      await assertRejects(() => rejected.readFrame(), MoqError);
    }
    const open = live.openGroup();
    open.writeFrame(bytesOf("five"));
    const begun = await pair.client.fetch("/live", "x", { group: 4 });
    assertEquals(textOf((await begun.readFrame())!), "five");
    open.abort();
    await assertRejects(() => begun.readFrame(), MoqError);
  });

  Deno.test(`LiveTrack aborts groups that are older than maxLatencyMs over ${version}`, async () => {
    using time = new FakeTime();
    const { live, mux } = liveMux({ maxLatencyMs: 500 });
    await using pair = await livePair(version, { server: mux });
    const missed: number[] = [];
    const track = await pair.client.subscribe("/live", "x", {
      onMissed: ({ first }) => void missed.push(first),
    });
    await until(() => live.subscribers === 1);
    pair.link.stall("to-client");
    for (let at = 1; at <= 4; at++) {
      using group = live.openGroup();
      group.writeFrame(new Uint8Array(LARGE));
      await turns(20);
      await time.tickAsync(300);
    }
    pair.link.resume("to-client");
    await until(() => missed.length === 2);
    assertEquals(missed, [1, 2]);
    track.close();
    await until(() => live.subscribers === 0);
  });
}

Deno.test("LiveTrack reports groups after the last requested one", async () => {
  const { live, mux } = liveMux();
  await using pair = await livePair("moq-lite-04", { server: mux });
  const missed: number[] = [];
  const track = await pair.client.subscribe("/live", "x", {
    startGroup: 1,
    endGroup: 3,
    onMissed: ({ first }) => void missed.push(first),
  });
  await until(() => live.subscribers === 1);
  for (const sequence of [1, 3, 2, 4]) write(live, `group${sequence}`, sequence);
  const got = (await readAll(track)).map((group) => Number(group[0]));
  assertEquals([...got, ...missed].toSorted(), [1, 2, 3]);
  await until(() => live.subscribers === 0);
});

Deno.test("LiveTrack.serve() rejects subscribers beyond its limit, and accepts others once one has left", async () => {
  const { live, mux, ends } = liveMux({ maxSubscribers: 2 });
  await using pair = await livePair("moq-lite-05", { server: mux });
  const tracks = await Promise.all([1, 2, 3].map(() => pair.client.subscribe("/live", "x")));
  await until(() => live.subscribers + ends.length === 3);
  assertEquals(live.subscribers, 2);
  const error = await assertRejects(() => tracks[2]!.nextGroup(), MoqError);
  assertEquals([error.scope, error.reason], ["subscribe", "relayLimit"]);
  tracks[0]!.close();
  await until(() => live.subscribers === 1);
  const later = await pair.client.subscribe("/live", "x");
  await until(() => live.subscribers === 2);
  write(live, "one");
  assertEquals((await later.nextGroup())?.sequence, 1);
});

Deno.test("LiveTrack closes the session of a stalled subscriber if streams have no resets", async () => {
  using time = new FakeTime();
  const { live, mux } = liveMux({ stallTimeoutMs: 4_000 });
  await using pair = await livePair("moq-lite-05", { server: mux, hasNoResets: true });
  const track = await pair.client.subscribe("/live", "x");
  await until(() => live.subscribers === 1);
  pair.link.stall("to-client");
  using group = live.openGroup();
  group.writeFrame(new Uint8Array(LARGE));
  await turns(20);
  await time.tickAsync(5_000);
  await until(() => live.subscribers === 0);
  assertEquals(pair.server.isClosed, false);
  await time.tickAsync(4_000);
  assertEquals((await pair.server.closed).by, "local");
  track.close();
});

Deno.test("LiveTrack ends a subscriber with too many stuck groups", async () => {
  const { live, mux, ends } = liveMux({ maxStuckGroups: 2, maxLagGroups: 1, maxCachedGroups: 1 });
  await using pair = await livePair("moq-lite-05", { server: mux, hasNoResets: true });
  await pair.client.subscribe("/live", "x");
  await until(() => live.subscribers === 1);
  pair.link.stall("to-client");
  for (let at = 0; at < 4; at++) {
    using group = live.openGroup();
    group.writeFrame(new Uint8Array(LARGE));
    await turns(20);
  }
  assertEquals(live.subscribers, 0);
  assertEquals((ends[0] as MoqError).reason, "tooFarBehind");
  pair.server.close();
  await turns(5);
});

Deno.test("LiveTrack counts no group as stuck that the subscriber eventually read, however many", async () => {
  const { live, mux, ends } = liveMux({ maxStuckGroups: 2, maxLagGroups: 1, maxCachedGroups: 1 });
  await using pair = await livePair("moq-lite-05", { server: mux, hasNoResets: true });
  const track = await pair.client.subscribe("/live", "x");
  const reading = readAll(track).catch(() => {});
  await until(() => live.subscribers === 1);
  for (let round = 0; round < 4; round++) {
    pair.link.stall("to-client");
    for (let at = 0; at < 2; at++) {
      using group = live.openGroup();
      group.writeFrame(new Uint8Array(LARGE));
      await turns(20);
    }
    pair.link.resume("to-client");
    await turns(200);
  }
  assertEquals([live.subscribers, ends], [1, []]);
  track.close();
  await reading;
});

Deno.test("LiveTrack holds no more than its limits", () => {
  using time = new FakeTime();
  const live = new LiveTrack({
    maxCachedGroups: 4,
    maxLagGroups: 2,
    maxCachedBytes: 5_000,
    maxLagBytes: 1_000,
    maxCacheAgeMs: 1_000,
  });
  for (let at = 0; at < 10; at++) write(live, "a");
  assertEquals([live.heldGroups, live.newestGroup], [4, 10]);
  assertEquals([live.canOpen(6), live.canOpen(7), live.canOpen(10), live.canOpen(11)], [
    false,
    false,
    false,
    true,
  ]);
  for (let at = 0; at < 4; at++) {
    using group = live.openGroup();
    group.writeFrame(new Uint8Array(2_000));
  }
  assertEquals([live.heldGroups, live.heldBytes], [2, 4_004]);
  time.tick(2_000);
  // Too old for late subscribers, but not for subscribers that are behind.
  write(live, "b");
  assertEquals([live.heldGroups, live.heldBytes, live.hasCached(14), live.hasCached(15)], [
    1,
    2,
    false,
    true,
  ]);
});

for (const [less, most] of [[0, 3], [1, 2]] as const) {
  Deno.test(`LiveTrack holds maxLagBytes for a slow subscriber, to the byte: ${most} groups`, async () => {
    const probe = new LiveTrack();
    probe.openGroup().writeFrame(new Uint8Array(LARGE));
    const size = probe.heldBytes;
    const { live, mux } = liveMux({
      maxCachedGroups: 1,
      maxCachedBytes: 1,
      maxLagGroups: 1_000,
      maxLagBytes: 3 * size - less,
    });
    await using pair = await livePair("moq-lite-04", { server: mux });
    const missed = new Set<number>();
    const track = await pair.client.subscribe("/live", "x", {
      onMissed: ({ first, last }) => {
        for (let at = first; at <= last; at++) missed.add(at);
      },
    });
    await until(() => live.subscribers === 1);
    pair.link.stall("to-client");
    const held: number[] = [];
    for (let at = 1; at <= 6; at++) {
      using group = live.openGroup();
      group.writeFrame(new Uint8Array(LARGE));
      group.close();
      await turns(20);
      held.push(live.heldBytes / size);
    }
    assertEquals(held, [1, 2, most, most, most, most]);
    pair.link.resume("to-client");
    live.close();
    const whole = (await readAll(track)).filter((group) => !/^\d+: \w+$/.test(group))
      .map((group) => Number(group.split(":")[0])).toSorted();
    assertEquals(whole, [4, 5, 6].slice(-most));
    assertEquals([...missed].filter((at) => at > 6 - most), []);
  });
}

Deno.test("LiveTrack drops the first frames of a group that is too large", async () => {
  const { live, mux } = liveMux({ maxCachedBytes: 100_000, maxLagBytes: 100_000 });
  await using pair = await livePair("moq-lite-04", { server: mux });
  const track = await pair.client.subscribe("/live", "x");
  await until(() => live.subscribers === 1);
  const group = live.openGroup();
  let received = 0;
  const reading = (async () => {
    for await (const frame of (await track.nextGroup())!) received += frame.byteLength;
  })();
  for (let at = 0; at < 20; at++) {
    group.writeFrame(new Uint8Array(20_000));
    await turns(20);
    assert(live.heldBytes <= 100_000, `${live.heldBytes}`);
  }
  // A subscriber that joins now does not receive the group.
  const late = await pair.client.subscribe("/live", "x");
  await until(() => live.subscribers === 2);
  group.close();
  await reading;
  assertEquals(received, 400_000);
  write(live, "next");
  live.close();
  assertEquals(await readAll(late), ["2: next"]);
});

Deno.test("LiveTrack aborts an open group when newer ones fill its limits", () => {
  const live = new LiveTrack({ maxCachedGroups: 2, maxLagGroups: 2 });
  const old = live.openGroup();
  live.openGroup();
  live.openGroup();
  assertEquals(old.isAborted, true);
  const error = assertThrows(() => old.writeFrame(new Uint8Array(1)), MoqError);
  assertEquals(error.reason, "expired");
  old.close();
});

Deno.test("LiveTrack.demand combines its subscribers' demands", async () => {
  let changes = 0;
  const { live, mux } = liveMux({ onDemand: () => void changes++ });
  await using pair = await livePair("moq-lite-05", { server: mux });
  assertEquals(live.demand, undefined);
  const low = await pair.client.subscribe("/live", "x", { priority: 3, maxLatencyMs: 100 });
  const high = await pair.client.subscribe("/live", "x", { priority: 9, maxLatencyMs: 50 });
  await until(() => live.subscribers === 2);
  assertEquals(live.demand, { priority: 9, maxLatencyMs: 100 });
  await high.update({ priority: 1, maxLatencyMs: 0 });
  await until(() => changes === 3);
  assertEquals(live.demand, { priority: 3, maxLatencyMs: 0 });
  low.close();
  high.close();
  await until(() => live.subscribers === 0);
  assertEquals(changes, 5);
});

Deno.test("LiveTrack.closeWithError() ends its subscribers, now and later", async () => {
  const { live, mux } = liveMux();
  await using pair = await livePair("moq-lite-05", { server: mux });
  const track = await pair.client.subscribe("/live", "x");
  await until(() => live.subscribers === 1);
  live.closeWithError("malformedTrack");
  const error = await assertRejects(() => track.nextGroup(), MoqError);
  assertEquals(error.reason, "malformedTrack");
  const late = await pair.client.subscribe("/live", "x");
  await assertRejects(() => late.nextGroup(), MoqError);
  assertThrows(() => live.openGroup(), TypeError);
});

Deno.test("LiveTrack.serve() sends the newest group of a closed track", async () => {
  const { live, mux } = liveMux();
  for (const text of ["one", "two"]) write(live, text);
  live.close();
  await using pair = await livePair("moq-lite-05", { server: mux });
  assertEquals(await readAll(await pair.client.subscribe("/live", "x")), ["2: two"]);
});

Deno.test("LiveTrack keeps timestamps, and publishes the constants of the track", async () => {
  const { live, mux } = liveMux({ info: { timescale: 90_000, priority: 7 } });
  const group = live.openGroup();
  for (const timestamp of [9_000, 12_000, 10_500]) {
    group.writeFrame(bytesOf("x"), { timestamp });
    await turns(2);
  }
  group.close();
  await using pair = await livePair("moq-lite-05", { server: mux });
  const track = await pair.client.subscribe("/live", "x");
  const read = (await track.nextGroup())!;
  const timestamps: (number | undefined)[] = [];
  while (await read.readFrame() !== null) timestamps.push(read.timestamp);
  assertEquals(timestamps, [9_000, 12_000, 10_500]);
  const info = await track.info();
  assertEquals({ timescale: info.timescale, priority: info.priority, ordered: info.ordered }, {
    timescale: 90_000,
    priority: 7,
    ordered: false,
  });
});

Deno.test("new LiveTrack() and openGroup() reject invalid options", () => {
  for (const name of ["maxCachedGroups", "maxLagBytes", "maxGroupsInFlight", "stallTimeoutMs"]) {
    for (const value of [0, -1, 1.5, NaN]) {
      assertThrows(() => new LiveTrack({ [name]: value }), RangeError, name);
    }
  }
  const live = new LiveTrack();
  live.openGroup(5);
  for (const sequence of [5, -1, 0.5, Number.MAX_SAFE_INTEGER]) {
    assertThrows(() => live.openGroup(sequence), RangeError, `${sequence}`);
  }
  assertEquals([live.openGroup(3).sequence, live.openGroup().sequence], [3, 6]);
  const group = live.openGroup();
  for (const timestamp of [-1, 0.5, NaN, 2 ** 52]) {
    assertThrows(() => group.writeFrame(new Uint8Array(1), { timestamp }), RangeError);
  }
  assertThrows(() => group.writeFrame("text" as unknown as Uint8Array), TypeError);
  group.close();
  assertThrows(() => group.writeFrame(new Uint8Array(1)), TypeError);
});

Deno.test("LiveBroadcast serves its tracks by name, and rejects others", async () => {
  await using broadcast = new LiveBroadcast({ maxTracks: 2 });
  const live = broadcast.track("video");
  broadcast.track("audio");
  assertThrows(() => broadcast.track("audio"), TypeError);
  assertThrows(() => broadcast.track("more"), RangeError);
  write(live, "picture");
  const mux = new TrackMux();
  mux.publish("/live", broadcast);
  await using pair: LivePair = await livePair("moq-lite-05", { server: mux });
  const none = await pair.client.subscribe("/live", "text");
  const error = await assertRejects(() => none.nextGroup(), MoqError);
  assertEquals(error.reason, "notFound");
  await assertRejects(() => pair.client.trackInfo("/live", "text"), MoqError);
  const noGroup = await pair.client.fetch("/live", "text", { group: 1 });
  await assertRejects(() => noGroup.readFrame(), MoqError);
  const group = await pair.client.fetch("/live", "video", { group: 1 });
  assertEquals(textOf((await group.readFrame())!), "picture");
  await group.readFrame();
  const track = await pair.client.subscribe("/live", "video");
  assertEquals(textOf((await (await track.nextGroup())!.readFrame())!), "picture");
  assertEquals(broadcast.remove("video"), true);
  assertEquals(await track.nextGroup(), null);
  assertEquals([broadcast.names, broadcast.get("video")], [["audio"], undefined]);
});

Deno.test("LiveTrack survives an onDemand that throws", async () => {
  const { live, mux } = liveMux({
    onDemand() {
      throw new Error("It must not");
    },
  });
  await using pair = await livePair("moq-lite-05", { server: mux });
  const track = await pair.client.subscribe("/live", "video");
  live.openGroup().close();
  assertEquals((await track.nextGroup())?.sequence, 1);
  await track.update({ priority: 9 });
  live.openGroup().close();
  assertEquals((await track.nextGroup())?.sequence, 2);
  assertEquals(live.demand?.priority, 9);
  track.close();
  await track.closed;
});

Deno.test("LiveTrack holds no more than its cache without a slow subscriber", async () => {
  const { live, mux } = liveMux({ maxCachedGroups: 3 });
  for (let number = 0; number < 50; number++) write(live, "x");
  assertEquals(live.heldGroups, 3);
  await using pair = await livePair("moq-lite-05", { server: mux });
  await using track = await pair.client.subscribe("/live", "x");
  await until(() => live.subscribers === 1);
  for (let number = 0; number < 50; number++) write(live, "x");
  assert(live.heldGroups > 3); // In flight.
  track.close();
  await until(() => live.subscribers === 0);
  assertEquals(live.heldGroups, 3);
  // A group that is still being written stays, within the limits.
  using open = live.openGroup();
  for (let number = 0; number < 5; number++) write(live, "x");
  assertEquals([live.heldGroups, open.isEnded], [6, false]);
});
