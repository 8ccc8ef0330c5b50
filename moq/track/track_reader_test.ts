import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { MessageReader } from "../wire/message_reader.ts";
import { MoqError, MoqLaggedError } from "../wire/errors.ts";
import { GroupReader } from "./group_reader.ts";
import { DEFAULT_ORDER_WAIT_MS, MAX_RANGES } from "./group_queue.ts";
import { END_GRACE_MS, END_WAIT_MS, type MoqSubscribeOptions } from "./track_reader.ts";
import { TrackReader } from "./track_reader.ts";
import { turns } from "../../tests/waiting.ts";

/** A track without a session, and a record of calls. */
function hand(options: MoqSubscribeOptions = {}) {
  const did: string[] = [];
  const reported: unknown[] = [];
  const track = new TrackReader(
    {
      runtime: platformRuntime(),
      update: () => Promise.resolve(void did.push("update")),
      leave: (reason) => void did.push(`leave: ${reason}`),
      info: () => Promise.reject(new Error("no info")),
      report: (error) => void reported.push(error),
    },
    { path: "/a", name: "b", id: 0 },
    {
      onMissed: ({ first, last }, reason) => void did.push(`missed ${first}-${last}: ${reason}`),
      ...options,
    },
  );
  const come = (...sequences: number[]) => {
    for (const sequence of sequences) {
      const reader = new MessageReader({
        read: () => Promise.resolve(null),
        cancel: (reason) => {
          const { streamErrorCode } = reason as { streamErrorCode: string };
          did.push(`cancel ${sequence}: ${streamErrorCode}`);
        },
      });
      track.take(
        new GroupReader(sequence, reader, {
          runtime: platformRuntime(),
          timestamps: false,
          maxFrameBytes: 100,
          errorOf: (error) => error,
          codeOf: (reason) => reason as unknown as number,
        }),
      );
    }
  };
  return { track, did, come, reported };
}

/** The numbers of all groups up to the end. */
async function numbers(track: TrackReader): Promise<number[]> {
  const all: number[] = [];
  for await (const { sequence } of track) all.push(sequence);
  return all;
}

Deno.test("TrackReader() rejects a last group before the first", () => {
  assertThrows(
    () => hand({ startGroup: 5, endGroup: 4 }),
    RangeError,
    "Cannot subscribe: endGroup must be at least startGroup (5), received 4",
  );
});

Deno.test("TrackReader yields groups as they arrive, and each number once", async () => {
  const { track, did, come } = hand();
  come(3, 1, 2, 1, 3);
  track.finish(4);
  assertEquals(await numbers(track), [3, 1, 2]);
  assertEquals(did, ["cancel 1: expired", "cancel 3: expired"]);
});

Deno.test("TrackReader with ordered yields groups in the order of their numbers", async () => {
  const { track, come } = hand({ ordered: true, startGroup: 1 });
  come(3, 2, 4, 1);
  track.finish(5);
  assertEquals(await numbers(track), [1, 2, 3, 4]);
});

Deno.test("TrackReader with ordered waits for a missing group, and reports it after a timeout", async () => {
  for (const maxLatencyMs of [0, 300]) {
    using time = new FakeTime();
    const { track, did, come } = hand({ ordered: true, startGroup: 1, maxLatencyMs });
    come(1, 3);
    assertEquals((await track.nextGroup())?.sequence, 1);
    const next = track.nextGroup();
    await time.tickAsync((maxLatencyMs || DEFAULT_ORDER_WAIT_MS) - 1);
    assertEquals(did, []);
    await time.tickAsync(1);
    assertEquals((await next)?.sequence, 3);
    assertEquals(did, ["missed 2-2: expired"]);
    come(2);
    assertEquals(did.at(-1), "cancel 2: expired");
    track.close();
  }
});

Deno.test("TrackReader with ordered waits equally long for each gap", async () => {
  using time = new FakeTime();
  const { track, did, come } = hand({ ordered: true, startGroup: 1 });
  come(2);
  const first = track.nextGroup();
  await time.tickAsync(DEFAULT_ORDER_WAIT_MS - 1);
  come(1, 4);
  assertEquals((await first)?.sequence, 1);
  assertEquals((await track.nextGroup())?.sequence, 2);
  const late = track.nextGroup();
  await time.tickAsync(DEFAULT_ORDER_WAIT_MS - 1);
  assertEquals(did, []);
  await time.tickAsync(1);
  assertEquals((await late)?.sequence, 4);
  assertEquals(did, ["missed 3-3: expired"]);
  track.close();
});

Deno.test("TrackReader with ordered does not wait for dropped groups, in any order of the notices", async () => {
  const { track, did, come } = hand({ ordered: true, startGroup: 1 });
  come(1, 5);
  assertEquals((await track.nextGroup())?.sequence, 1);
  const next = track.nextGroup();
  track.drop({ first: 4, last: 4 }, "expired");
  track.drop({ first: 2, last: 3 }, "publishAborted");
  assertEquals((await next)?.sequence, 5);
  // A second drop, including groups that arrived: no group is reported twice.
  track.drop({ first: 1, last: 5 }, "expired");
  assertEquals(did, ["missed 4-4: expired", "missed 2-3: publishAborted"]);
  come(3);
  assertEquals(did.at(-1), "cancel 3: expired");
  track.close();
});

Deno.test("TrackReader.nextGroup() reports groups that a slow reader missed, and continues", async () => {
  for (const ordered of [false, true]) {
    const { track, did, come } = hand({ ordered, maxQueuedGroups: 2 });
    come(1, 2, 3, 4, 5);
    assertEquals(track.queuedGroups, 2);
    assertEquals(did, [1, 2, 3].map((one) => `cancel ${one}: tooFarBehind`));
    const error = await assertRejects(() => track.nextGroup(), MoqLaggedError, "groups 1 to 3");
    assertEquals([error.missed, error.reason], [{ first: 1, last: 3 }, "tooFarBehind"]);
    track.finish(6);
    assertEquals(await numbers(track), [4, 5]);
  }
});

Deno.test("TrackReader ends immediately when all groups have arrived, and later when one is missing", async () => {
  using time = new FakeTime();
  const whole = hand();
  whole.come(2, 3);
  whole.track.accept(undefined, 2);
  whole.track.finish(4);
  assertEquals(await numbers(whole.track), [2, 3]);

  const torn = hand();
  torn.track.accept(undefined, 1);
  torn.come(3);
  torn.track.finish(4);
  const all = numbers(torn.track);
  await time.tickAsync(END_WAIT_MS - 1);
  torn.come(1);
  await time.tickAsync(END_WAIT_MS);
  assertEquals(await all, [3, 1]);
  assertEquals(torn.did, ["missed 2-2: expired"]);

  const untold = hand();
  untold.come(1);
  untold.track.finish(undefined);
  const rest = numbers(untold.track);
  await time.tickAsync(END_GRACE_MS - 1);
  untold.come(4);
  await time.tickAsync(END_GRACE_MS);
  assertEquals(await rest, [1, 4]);
  assertEquals(untold.did, ["missed 2-3: expired"]);
});

Deno.test("TrackReader also reports missing first groups if the subscription starts with them", async () => {
  using time = new FakeTime();
  const { track, did, come } = hand({ startGroup: 0 });
  come(2);
  track.finish(3);
  const all = numbers(track);
  await time.tickAsync(END_WAIT_MS);
  assertEquals(await all, [2]);
  assertEquals(did, ["missed 0-1: expired"]);
});

Deno.test("TrackReader with endGroup ends after that group, and rejects later ones", async () => {
  const { track, did, come } = hand({ startGroup: 2, endGroup: 4 });
  come(1, 4, 5, 2);
  const all = numbers(track);
  assertEquals(did, ["cancel 1: outOfRange", "cancel 5: outOfRange"]);
  track.drop({ first: 3, last: 3 }, "expired");
  assertEquals(await all, [4, 2]);
  assertEquals(did.slice(2), ["missed 3-3: expired", "leave: cancelled"]);
  await track.closed;
});

Deno.test("TrackReader.update() changes the range, and ends a track whose last group has arrived", async () => {
  const { track, did, come } = hand();
  come(3, 2);
  await track.update({ ordered: true, priority: 9 });
  assertEquals(track.subscription, {
    priority: 9,
    ordered: true,
    maxLatencyMs: 0,
    startGroup: undefined,
    endGroup: undefined,
  });
  await assertRejects(() => track.update({ priority: 300 }), RangeError);
  assertEquals(track.subscription.priority, 9);
  await track.update({ endGroup: 3 });
  assertEquals(await numbers(track), [2, 3]);
  await track.update({ priority: 1 });
  assertEquals(did, ["update", "update", "leave: cancelled"]);
});

Deno.test("TrackReader reports its error to all callers, any number of times", async () => {
  const { track, come } = hand();
  const error = new MoqError("subscribe", "notFound", "There is no such track");
  const waiting = [assertRejects(() => track.nextGroup()), assertRejects(() => track.nextGroup())];
  const looping = assertRejects(() => numbers(track));
  track.fail(error);
  assertEquals(await Promise.all([...waiting, looping]), [error, error, error]);
  assertEquals(await assertRejects(() => track.ready), error);
  assertEquals(await assertRejects(() => track.nextGroup()), error);
  assertEquals(await assertRejects(() => numbers(track)), error);
  await track.closed;
  assertEquals(track.error, error);
  come(1);
  assertEquals(track.queuedGroups, 0);
});

Deno.test("TrackReader yields groups that arrived before its error", async () => {
  const { track, come } = hand();
  come(1);
  track.fail(new MoqError("session", "sessionClosed", "Over"));
  assertEquals((await track.nextGroup())?.sequence, 1);
  await assertRejects(() => track.nextGroup(), MoqError, "Over");
});

Deno.test("TrackReader loops can be left, even while they wait, and lose nothing", async () => {
  const { track, did, come } = hand();
  const loop = track[Symbol.asyncIterator]();
  const pending = loop.next();
  await loop.return!();
  assertEquals((await pending).done, true);
  come(1, 2);
  for await (const { sequence } of track) {
    assertEquals(sequence, 1);
    break;
  }
  assertEquals((await track.nextGroup())?.sequence, 2);
  assertEquals(did, []);
  track.close();
});

Deno.test("TrackReader.nextGroup() rejects with its signal, and the next call receives the group", async () => {
  const { track, come } = hand();
  const controller = new AbortController();
  const given = track.nextGroup({ signal: controller.signal });
  controller.abort(new Error("enough"));
  await assertRejects(() => given, Error, "enough");
  await assertRejects(() => track.nextGroup({ signal: controller.signal }), Error, "enough");
  const next = track.nextGroup();
  come(1);
  assertEquals((await next)?.sequence, 1);
  track.close();
});

Deno.test("TrackReader.close() cancels unread groups, once", async () => {
  const { track, did, come } = hand();
  come(1);
  const { promise, resolve } = Promise.withResolvers<void>();
  void track.closed.then(resolve);
  track.closeWithError("goingAway");
  track.close();
  await promise;
  await track.ready;
  assertEquals(did, ["leave: goingAway", "cancel 1: goingAway"]);
  assertEquals(await track.nextGroup(), null);
  come(2);
  assertEquals(did.at(-1), "cancel 2: subscribeCancelled");
});

Deno.test("TrackReader reports errors of onMissed, and continues", async () => {
  const fail = () => {
    throw new Error("onMissed failed");
  };
  for (const onMissed of [fail, () => Promise.reject(new Error("onMissed failed"))]) {
    const { track, come, reported } = hand({ onMissed });
    track.drop({ first: 1, last: 2 }, "expired");
    come(3);
    assertEquals((await track.nextGroup())?.sequence, 3);
    await turns();
    assertEquals(reported.length, 1);
    track.close();
  }
});

Deno.test("TrackReader with ordered that waits for a group reports immediately that it fell behind", async () => {
  const { track, come, did } = hand({ ordered: true, startGroup: 1, maxQueuedGroups: 2 });
  const waiting = assertRejects(() => track.nextGroup(), MoqLaggedError);
  const next = track.nextGroup();
  come(3, 4, 5);
  // The missing groups before count as missed, too.
  assertEquals((await waiting).missed, { first: 1, last: 3 });
  assertEquals([(await next)?.sequence, (await track.nextGroup())?.sequence], [4, 5]);
  come(2, 6);
  assertEquals((await track.nextGroup())?.sequence, 6);
  assertEquals(did, ["cancel 3: tooFarBehind", "cancel 2: expired"]);
  track.close();
});

Deno.test("TrackReader reports every gap, including gaps beyond its limit", async () => {
  const { track, come, did } = hand();
  const count = 2 * MAX_RANGES;
  for (let at = 0; at < count; at++) {
    come(2 * at);
    await track.nextGroup();
  }
  track.finish(2 * count);
  track.drop({ first: 0, last: 2 * count - 1 }, "expired");
  const missed = Array.from(
    { length: count },
    (_, at) => `missed ${2 * at + 1}-${2 * at + 1}: expired`,
  );
  assertEquals(did, missed);
  await track.closed;
});

Deno.test("TrackReader neither accepts nor reports numbers that cannot be forwarded", async () => {
  const { track, come, did } = hand();
  const last = Number.MAX_SAFE_INTEGER - 1;
  come(last, last + 1);
  track.drop({ first: last - 1, last: last + 1 }, "expired");
  track.drop({ first: last + 1, last: last + 1 }, "expired");
  assertEquals((await track.nextGroup())?.sequence, last);
  assertEquals(did, [`cancel ${last + 1}: outOfRange`, `missed ${last - 1}-${last - 1}: expired`]);
  track.close();
});
