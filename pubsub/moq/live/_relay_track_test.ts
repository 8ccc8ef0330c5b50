import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { livePair } from "../../../tests/moq/pair.ts";
import { turns } from "../../../testing/turns.ts";
import { TrackMux } from "../track/mux.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import { broadcastPath } from "../wire/path.ts";
import { LiveTrack } from "./live_track.ts";
import { RelayTrack } from "./_relay_track.ts";

Deno.test("RelayTrack stays for who subscribes in the turn in which it would have ended", async () => {
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
