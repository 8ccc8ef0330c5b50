import { drawing } from "../../tests/sessions.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ALL_VERSIONS, HandTrack, MoqNetwork, pass } from "../../tests/moq/network.ts";
import { clockAhead } from "../../tests/globals/clock.ts";
import { passTime, turns } from "../../tests/waiting.ts";
import type { MoqClient } from "./client.ts";
import { MoqError } from "../wire/errors.ts";
import type { GroupReader } from "../track/group_reader.ts";
import type { TrackResumption } from "./resumable_track.ts";

/** A network whose server publishes a track that the test writes. */
function live(version: MoqNetwork["version"] = "moq-lite-05"): {
  readonly network: MoqNetwork;
  readonly track: HandTrack;
} {
  const network = new MoqNetwork(version);
  const track = new HandTrack();
  network.mux.publish("/live", track.serve);
  return { network, track };
}

/** Cuts the session, and waits for the next one. */
async function again(network: MoqNetwork, client: MoqClient): Promise<void> {
  network.cut();
  await turns();
  client.retryNow();
  await turns();
  assert(client.isConnected);
}

async function textOf(group: GroupReader | null): Promise<string> {
  const frame = await group!.readFrame();
  return `${group!.sequence} ${new TextDecoder().decode(frame!)}`;
}

for (const version of ALL_VERSIONS) {
  Deno.test(`ResumableTrack continues at the newest group, and reports the gap, over ${version}`, async () => {
    using _time = new FakeTime();
    const { network, track } = live(version);
    await using client = network.client();
    const told: unknown[] = [];
    const reader = client.subscribe("/live", "video", {
      onMissed: (missed, reason) => told.push([missed, reason]),
      onResumed: ({ kind }) => told.push(kind),
    });
    await turns();
    await track.write(3);
    assertEquals(await textOf(await reader.nextGroup()), "3 3");
    await reader.ready;
    assertEquals({ resumption: reader.resumption, resumptions: reader.resumptions, told }, {
      resumption: undefined,
      resumptions: 0,
      told: [],
    });
    await again(network, client);
    const next = reader.nextGroup();
    await track.write(8);
    await track.write(9);
    assertEquals(await textOf(await next), "8 8");
    const missed = { first: 4, last: 7 };
    assertEquals(reader.resumption, { after: 3, sequence: 8, missed, kind: "gap" });
    assertEquals(told, ["gap", [missed, "sessionClosed"]]);
    assertEquals(await textOf(await reader.nextGroup()), "9 9");
    assertEquals([reader.resumption, reader.resumptions], [undefined, 1]);
    assertEquals(track.writers.length, 2);
  });
}

const KINDS: readonly (readonly [number, TrackResumption["kind"]])[] = [
  [6, "next"],
  [5, "again"],
  [0, "restarted"],
];
for (const [sequence, kind] of KINDS) {
  Deno.test(`ResumableTrack reports "${kind}" when group ${sequence} follows group 5`, async () => {
    using _time = new FakeTime();
    const { network, track } = live();
    await using client = network.client();
    const reader = client.subscribe("/live", "video", { onMissed: () => assert(false) });
    await turns();
    await track.write(5);
    await reader.nextGroup();
    await again(network, client);
    await track.write(sequence);
    assertEquals((await reader.nextGroup())?.sequence, sequence);
    assertEquals(reader.resumption, { after: 5, sequence, missed: undefined, kind });
    await track.write(sequence + 1);
    assertEquals((await reader.nextGroup())?.sequence, sequence + 1);
  });
}

Deno.test("ResumableTrack yields the group after a loss although its callbacks throw", async () => {
  using _time = new FakeTime();
  const { network, track } = live();
  await using client = network.client();
  const reader = client.subscribe("/live", "video", {
    onResumed() {
      throw new Error("onResumed failed");
    },
    onMissed() {
      throw new Error("onMissed failed");
    },
  });
  await turns();
  await track.write(3);
  assertEquals(await textOf(await reader.nextGroup()), "3 3");
  await again(network, client);
  await track.write(8);
  assertEquals(await textOf(await reader.nextGroup()), "8 8");
  assertEquals(network.errors.map(String), ["Error: onResumed failed", "Error: onMissed failed"]);
});

Deno.test("ResumableTrack throws from an open group, and continues with the next", async () => {
  using _time = new FakeTime();
  const { network, track } = live();
  await using client = network.client();
  const reader = client.subscribe("/live", "video");
  await turns();
  const writer = await track.writers[0]!.openGroup(0);
  await writer.writeFrame(Uint8Array.of(1));
  const group = await reader.nextGroup();
  assertEquals(await group!.readFrame(), Uint8Array.of(1));
  const rest = assertRejects(() => group!.readFrame(), MoqError);
  await again(network, client);
  assertEquals((await rest).scope, "session");
  await track.write(1);
  assertEquals(await textOf(await reader.nextGroup()), "1 1");
});

Deno.test("ResumableTrack starts without a session, with the requested range", async () => {
  using time = new FakeTime();
  const { network, track } = live();
  network.fail(1, () => new Error("Nobody listens"));
  await using client = network.client();
  const reader = client.subscribe("/live", "video", { startGroup: 4, endGroup: 90, priority: 7 });
  await turns();
  assertEquals([reader.subscription, network.sessions.length], [undefined, 0]);
  await pass(time, 1_000);
  const { startGroup, endGroup, priority } = track.writers[0]!.subscription;
  assertEquals({ startGroup, endGroup, priority }, { startGroup: 4, endGroup: 90, priority: 7 });
  await track.write(4);
  await reader.nextGroup();
  await reader.update({ priority: 9 });
  await again(network, client);
  const second = track.writers[1]!.subscription;
  // Later subscriptions start at the newest group.
  assertEquals({
    startGroup: second.startGroup,
    endGroup: second.endGroup,
    priority: second.priority,
  }, { startGroup: undefined, endGroup: 90, priority: 9 });
});

Deno.test("ResumableTrack ends when the publisher ends it, not with a session", async () => {
  using _time = new FakeTime();
  const { network, track } = live();
  await using client = network.client();
  const reader = client.subscribe("/live", "video");
  await turns();
  await again(network, client);
  await track.write(0);
  track.end();
  const got = await Array.fromAsync(reader, ({ sequence }) => sequence);
  assertEquals({ got, isEnded: reader.isEnded, error: reader.error }, {
    got: [0],
    isEnded: true,
    error: undefined,
  });
  await reader.closed;
  assertEquals(client.subscriptions, []);
  await again(network, client);
  assertEquals(track.writers.length, 2);
});

Deno.test("ResumableTrack ends immediately if it is rejected from the start", async () => {
  const network = new MoqNetwork();
  await using client = network.client();
  const reader = client.subscribe("/live", "video");
  const error = await assertRejects(() => reader.ready, MoqError);
  assertEquals([error.scope, error.reason], ["subscribe", "notFound"]);
  await assertRejects(() => reader.nextGroup(), MoqError, "notFound");
  assertEquals(reader.error, error);
  assertEquals(client.subscriptions, []);
});

for (const version of ALL_VERSIONS) {
  Deno.test(`ResumableTrack waits for the return of its publisher, over ${version}`, async () => {
    using time = new FakeTime();
    const network = new MoqNetwork(version);
    const track = new HandTrack();
    let publication = network.mux.publish("/room/live", track.serve);
    await using client = network.client();
    const reader = client.subscribe("/room/live", "video");
    await turns();
    await track.write(3);
    await reader.nextGroup();
    // The server restarts, and the publisher returns after the subscriber.
    publication.end();
    await again(network, client);
    await pass(time, 20_000);
    assertEquals([reader.isEnded, track.writers.length], [false, 1]);
    publication = network.mux.publish("/room/live", track.serve);
    await turns();
    // As soon as the broadcast is announced.
    assertEquals(track.writers.length, 2);
    await track.write(0);
    assertEquals(await textOf(await reader.nextGroup()), "0 0");
    assertEquals(reader.resumption?.kind, "restarted");
  });
}

Deno.test("ResumableTrack continues when its publisher returns on the same session", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  const track = new HandTrack();
  const publication = network.mux.publish("/live", track.serve);
  await using client = network.client();
  const reader = client.subscribe("/live", "video");
  await turns();
  await track.write(3);
  await reader.nextGroup();
  publication.end();
  await turns();
  await pass(time, 2_000);
  network.mux.publish("/live", track.serve);
  await turns();
  await track.write(1);
  assertEquals((await reader.nextGroup())?.sequence, 1);
  assertEquals(network.sessions.length, 1);
});

/** Subscribes for at most 5 s without a publisher, who leaves after the first group. */
async function subscribeAndLeave() {
  const network = new MoqNetwork();
  const track = new HandTrack();
  const publication = network.mux.publish("/live", track.serve);
  const client = network.client();
  const reader = client.subscribe("/live", "video", { resumeTimeoutMs: 5_000 });
  await turns();
  await track.write(3);
  await reader.nextGroup();
  publication.end();
  const over = assertRejects(() => reader.nextGroup(), MoqError, "notFound");
  await turns();
  return { reader, over, [Symbol.asyncDispose]: () => client[Symbol.asyncDispose]() };
}

Deno.test("ResumableTrack ends after resumeTimeoutMs without its publisher", async () => {
  using time = new FakeTime();
  await using left = await subscribeAndLeave();
  const { reader, over } = left;
  await passTime(time, 4_000);
  assert(!reader.isEnded);
  await passTime(time, 6_000);
  await over;
  assert(reader.isEnded);
});

Deno.test("ResumableTrack waits no longer for its publisher if the clock is set back", async () => {
  using time = new FakeTime();
  await using left = await subscribeAndLeave();
  const { reader, over } = left;
  await passTime(time, 1_000);
  using _set = clockAhead(-3_600_000);
  await passTime(time, 15_000);
  assert(reader.isEnded);
  await over;
});

Deno.test("ResumableTrack waits from the start with waitForBroadcast", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  const track = new HandTrack();
  await using client = network.client();
  const reader = client.subscribe("/live", "video", { waitForBroadcast: true });
  await turns();
  await passTime(time, 30_000);
  network.mux.publish("/live", track.serve);
  await turns();
  await track.write(0);
  assertEquals((await reader.nextGroup())?.sequence, 0);
});

Deno.test("ResumableTrack backs off from a publisher that fails repeatedly", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  let calls = 0;
  network.mux.publish("/live", async (track) => {
    calls++;
    const group = await track.openGroup(calls);
    await group.close();
    throw new MoqError("subscribe", "internal", "Broken");
  });
  const runtime = drawing(0.5);
  await using client = network.client({ runtime });
  const reader = client.subscribe("/live", "video", { resumeTimeoutMs: 30_000 });
  await turns();
  await passTime(time, 60_000);
  assert(reader.isEnded);
  assert(calls > 3 && calls < 20, `${calls}`);
  await assertRejects(async () => {
    while (await reader.nextGroup() !== null);
  }, MoqError);
});

Deno.test("ResumableTrack does not wait for a forbidden track", async () => {
  using _time = new FakeTime();
  const { network, track } = live("gomoqt-dev");
  let isAllowed = true;
  network.server = { authorize: (_session, _path, action) => action !== "subscribe" || isAllowed };
  await using client = network.client();
  const reader = client.subscribe("/live", "video");
  await turns();
  await track.write(1);
  await reader.nextGroup();
  isAllowed = false;
  await again(network, client);
  const error = await assertRejects(() => reader.nextGroup(), MoqError);
  assertEquals(error.reason, "unauthorized");
});

Deno.test("ResumableTrack.close() unsubscribes, in any state", async () => {
  using _time = new FakeTime();
  const { network, track } = live();
  await using client = network.client();
  const controller = new AbortController();
  const first = client.subscribe("/live", "video", { signal: controller.signal });
  const second = client.subscribe("/nobody", "video", { waitForBroadcast: true });
  await turns();
  assertEquals(client.subscriptions, [first, second]);
  const group = first.nextGroup();
  controller.abort();
  second.close();
  second.close();
  assertEquals([await group, await second.nextGroup()], [null, null]);
  await turns();
  assert(track.writers[0]!.isClosed);
  assertEquals([client.subscriptions, network.last.servedSubscriptions], [[], 0]);
  await again(network, client);
  assertEquals(network.last.servedSubscriptions, 0);
  await Promise.all([first.ready, first.closed, second.closed]);
});

Deno.test("ResumableTrack.nextGroup() rejects by its signal, and loses nothing", async () => {
  const { network, track } = live();
  await using client = network.client();
  const reader = client.subscribe("/live", "video");
  const controller = new AbortController();
  const left = assertRejects(
    () => reader.nextGroup({ signal: controller.signal }),
    Error,
    "enough",
  );
  controller.abort(new Error("enough"));
  await left;
  await turns();
  await track.write(0);
  assertEquals((await reader.nextGroup())?.sequence, 0);
});

Deno.test("ResumableTrack holds no more than two subscriptions for a slow reader", async () => {
  using _time = new FakeTime();
  const { network, track } = live();
  await using client = network.client();
  const reader = client.subscribe("/live", "video");
  await turns();
  for (const sequence of [0, 10, 20, 30]) {
    await track.write(sequence);
    await turns();
    if (sequence < 30) await again(network, client);
  }
  // Groups of the last two sessions; the groups in between are reported.
  assertEquals((await reader.nextGroup())?.sequence, 20);
  assertEquals((await reader.nextGroup())?.sequence, 30);
  assertEquals(reader.resumption?.missed, { first: 21, last: 29 });
});

Deno.test("MoqClient.subscribe() rejects invalid options", async () => {
  await using client = new MoqNetwork().client();
  for (
    const options of [
      { priority: 256 },
      { startGroup: 2, endGroup: 1 },
      { maxQueuedGroups: 0 },
      { resumeTimeoutMs: -1 },
    ]
  ) assertThrows(() => client.subscribe("/live", "video", options), RangeError);
  const signal = AbortSignal.abort(new Error("enough"));
  assertThrows(() => client.subscribe("/live", "video", { signal }), Error, "enough");
  assertEquals(client.subscriptions, []);
});
