import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { bytesOf, livePair, textOf } from "../../tests/moq/pair.ts";
import { turns } from "../../tests/waiting.ts";
import { TrackMux } from "../track/mux.ts";
import type { MoqSubscribeOptions } from "../track/track_reader.ts";
import type { TrackReader } from "../track/track_reader.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import { type MissedGroups, MoqError, MoqLaggedError } from "../wire/errors.ts";
import { broadcastPath } from "../wire/path.ts";
import { LiveTrack } from "./live_track.ts";
import { RelayTrack } from "./relay_track.ts";
import type { TrackOrigin } from "./relay_source.ts";

Deno.test("RelayTrack stays open for a subscriber that joins in the turn of its end", async () => {
  using time = new FakeTime();
  await using source = new LiveTrack();
  const publisher = new TrackMux();
  publisher.publish("/live", (track) => source.serve(track));
  await using upstream = await livePair("moq-lite-05", { server: publisher });

  const writers: TrackWriter[] = [];
  const mux = new TrackMux();
  mux.publish("/live", async (track) => {
    writers.push(track);
    await new Promise((resolve) => track.signal.addEventListener("abort", resolve));
  });
  await using downstream = await livePair("moq-lite-05", { server: mux });
  let isOver = false;
  const relayed = new RelayTrack({
    runtime: platformRuntime(),
    path: broadcastPath("/live"),
    name: "video",
    lingerMs: 1_000,
    live: {},
    next: () => undefined,
    onIdle() {},
    onOver: () => isOver = true,
  }, { session: upstream.client, hops: [] });

  const first = await downstream.client.subscribe("/live", "video");
  await turns();
  const served = relayed.serve(writers[0]!);
  await turns();
  first.close();
  await served;
  await turns();
  const second = await downstream.client.subscribe("/live", "video");
  await turns();
  const servedNext = relayed.serve(writers[1]!);
  time.tick(1_000);
  assertEquals([isOver, relayed.live.isClosed], [false, false]);
  source.openGroup().close();
  assertEquals((await second.nextGroup())?.sequence, 1);
  second.close();
  await servedNext;
  await turns();
  time.tick(1_000);
  assertEquals(isOver, true);
});

async function relayedTo(
  session: TrackOrigin,
  onMissed: MoqSubscribeOptions["onMissed"] = () => {},
) {
  const served = Promise.withResolvers<void>();
  let isOver = false;
  const relayed = new RelayTrack({
    runtime: platformRuntime(),
    path: broadcastPath("/live"),
    name: "video",
    lingerMs: 1,
    live: {},
    next: () => undefined,
    onIdle() {},
    onOver: () => isOver = true,
  }, { session, hops: [] });
  const mux = new TrackMux();
  mux.publish("/live", {
    serveTrack: (track) => {
      served.resolve();
      return relayed.serve(track);
    },
    acceptLater: true,
  });
  const pair = await livePair("moq-lite-05", { server: mux });
  const track = await pair.client.subscribe("/live", "video", { onMissed });
  await served.promise;
  return {
    relayed,
    track,
    async [Symbol.asyncDispose]() {
      if (!isOver) relayed.end(undefined);
      await pair[Symbol.asyncDispose]();
    },
  };
}

/** A session whose track yields groups on demand. */
function handSource(): {
  readonly session: TrackOrigin;
  readonly missed: (missed: MissedGroups) => void;
  readonly lag: (missed: MissedGroups) => void;
} {
  const steps: PromiseWithResolvers<never>[] = [Promise.withResolvers()];
  const closed = Promise.withResolvers<void>();
  let onMissed: MoqSubscribeOptions["onMissed"];
  const reader = {
    ready: Promise.resolve(),
    closed: closed.promise,
    nextGroup: () => steps.at(-1)!.promise,
    update: () => Promise.resolve(),
  };
  const session = {
    version: "moq-lite-05",
    isClosed: false,
    closed: closed.promise,
    subscribe: (_path: string, _name: string, options: MoqSubscribeOptions) => {
      ({ onMissed } = options);
      return Promise.resolve(reader as unknown as TrackReader);
    },
  };
  return {
    session: session as unknown as TrackOrigin,
    missed: (missed) => onMissed?.(missed, "evicted"),
    lag: (missed) => {
      const step = steps.at(-1)!;
      steps.push(Promise.withResolvers());
      step.reject(new MoqLaggedError("The relay fell behind", missed));
    },
  };
}

Deno.test("RelayTrack reports groups that its source dropped or that it missed to its subscribers", async () => {
  const source = handSource();
  const told: string[] = [];
  await using viewer = await relayedTo(source.session, ({ first, last }, reason) => {
    told.push(`${first} to ${last}: ${reason}`);
  });
  await turns();
  source.missed({ first: 1, last: 2 });
  await turns();
  source.lag({ first: 3, last: 7 });
  await turns();
  source.lag({ first: 9, last: 9 });
  await turns();
  assertEquals(told, ["1 to 2: evicted", "3 to 7: tooFarBehind", "9 to 9: tooFarBehind"]);
  // A lag does not end the track.
  assertEquals([viewer.relayed.live.isClosed, viewer.relayed.live.subscribers], [false, 1]);
});

Deno.test("RelayTrack aborts a group as cancelled if a replaced source did not finish it in time", async () => {
  using time = new FakeTime();
  const sources = [new LiveTrack(), new LiveTrack()] as const;
  const pairs = await Promise.all(sources.map((source) => {
    const mux = new TrackMux();
    mux.publish("/live", (track) => source.serve(track));
    return livePair("moq-lite-05", { server: mux });
  }));
  const [first, second] = pairs as [typeof pairs[0], typeof pairs[0]];
  await using _first = first;
  await using _second = second;
  await using viewer = await relayedTo(first.client);
  await turns();
  const open = sources[0].openGroup();
  open.writeFrame(bytesOf("half"));
  const group = (await viewer.track.nextGroup())!;
  assertEquals(textOf((await group.readFrame())!), "half");
  const rest = assertRejects(() => group.readFrame(), MoqError);
  viewer.relayed.switchTo({ session: second.client, hops: [] });
  await turns();
  await time.tickAsync(4_999);
  await turns();
  assertEquals([sources[0].subscribers, sources[1].subscribers], [1, 1]);
  await time.tickAsync(1);
  const { scope, reason } = await rest;
  assertEquals([scope, reason], ["group", "cancelled"]);
  await turns();
  assertEquals([sources[0].subscribers, sources[1].subscribers], [0, 1]);
});
