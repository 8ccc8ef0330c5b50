import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { turns } from "../../tests/waiting.ts";
import type { DirectWritable } from "../../transport/connection.ts";
import { MoqError } from "../wire/errors.ts";
import { PLAIN_FRAMES } from "../wire/frames.ts";
import type { SubscribeFields } from "../wire/messages.ts";
import { MAX_OPENING_GROUPS } from "./track_writer.ts";
import { CLOSE_TIMEOUT_MS, TrackWriter } from "./track_writer.ts";
import { WriteBuffers } from "./frame_buffer.ts";

const FIELDS: SubscribeFields = {
  priority: 0,
  ordered: false,
  maxLatencyMs: 0,
  startGroup: undefined,
  endGroup: undefined,
};

interface HandStream extends DirectWritable {
  sendOrder: number;
}

/** A track whose session is the test. */
function hand(fields: Partial<SubscribeFields> = {}) {
  const did: string[] = [];
  const streams: HandStream[] = [];
  const state: { gate: Promise<void> | undefined; stalls: boolean } = {
    gate: undefined,
    stalls: false,
  };
  const track = new TrackWriter(
    {
      runtime: Object.assign(platformRuntime(), { schedule: queueMicrotask }),
      frames: PLAIN_FRAMES,
      resets: true,
      buffers: new WriteBuffers(),
      async open(sendOrder) {
        await state.gate;
        const stalled = Promise.withResolvers<void>();
        stalled.promise.catch(() => {});
        const take = () => state.stalls ? stalled.promise : Promise.resolve();
        const stream: HandStream = {
          sendOrder,
          write: take,
          close: take,
          abort: (reason) => {
            did.push(`abort ${(reason as { streamErrorCode: string }).streamErrorCode}`);
            stalled.reject(reason);
          },
        };
        streams.push(stream);
        return stream;
      },
      accept: (_, first) => void did.push(`accept ${first}`),
      drop: ({ first, last }, reason) => void did.push(`drop ${first}-${last}: ${reason}`),
      end: (last, reason) => Promise.resolve(void did.push(`end ${last}: ${reason}`)),
      codeOf: (_, reason) => reason as unknown as number,
      errorOf: (error) => error,
      session: { side: "server", share: undefined, address: undefined },
      weigh: () => undefined,
      closeSession: (message) => void did.push(message),
    },
    { path: "/a", name: "b", id: 0, params: {} },
    { ...FIELDS, ...fields },
  );
  return { track, did, streams, state };
}

Deno.test("TrackWriter numbers its groups, accepts with the first one, and ends after the last", async () => {
  const { track, did } = hand();
  const first = await track.openGroup();
  const second = await track.openGroup();
  assertEquals({
    firstSequence: first.sequence,
    secondSequence: second.sequence,
    openGroups: track.openGroups.length,
  }, { firstSequence: 1, secondSequence: 2, openGroups: 2 });
  assertEquals((await track.openGroup(9)).sequence, 9);
  assertEquals((await track.openGroup()).sequence, 10);
  await track.close();
  await track.close();
  assertEquals(did, ["accept 1", "end 11: undefined"]);
  assert(track.isClosed && track.signal.aborted);
  assertThrows(() => track.startGroup(11), MoqError, "has ended");
  await assertRejects(() => track.openGroup(), MoqError, "has ended");
});

Deno.test("TrackWriter starts at the subscriber's first group, and closes after its last", async () => {
  const { track, did } = hand({ startGroup: 4, endGroup: 5 });
  const first = await track.openGroup();
  const last = await track.openGroup();
  assertEquals([first.sequence, last.sequence], [4, 5]);
  const error = await assertRejects(() => track.openGroup(), MoqError, "no group after 5");
  assertEquals([error.scope, error.reason], ["group", "outOfRange"]);
  await last.close();
  assertEquals(track.isClosed, false);
  await first.close();
  await turns();
  assertEquals([track.isClosed, did.at(-1)], [true, "end 6: undefined"]);
});

Deno.test("TrackWriter.openGroup() rejects invalid numbers", async () => {
  const { track } = hand();
  for (const sequence of [-1, 0.5, NaN, Number.MAX_SAFE_INTEGER]) {
    await assertRejects(() => track.openGroup(sequence), RangeError, "Cannot open group");
  }
  await track.close();
});

Deno.test("TrackWriter.openGroup() waits while the peer grants no streams, and rejects with its signal", async () => {
  const { track, streams, state } = hand();
  const gate = Promise.withResolvers<void>();
  state.gate = gate.promise;
  for (let at = 0; at < MAX_OPENING_GROUPS; at++) await track.openGroup();
  const controller = new AbortController();
  const given = track.openGroup(undefined, { signal: controller.signal });
  const waiting = track.openGroup();
  controller.abort(new Error("enough"));
  await assertRejects(() => given, Error, "enough");
  gate.resolve();
  assertEquals((await waiting).sequence, MAX_OPENING_GROUPS + 2);
  await turns();
  assertEquals(streams.length, MAX_OPENING_GROUPS + 1);
  await track.close();
});

Deno.test("TrackWriter.openGroup() rejects while waiting when the subscriber leaves", async () => {
  const { track, state } = hand();
  state.gate = new Promise(() => {});
  for (let at = 0; at < MAX_OPENING_GROUPS; at++) await track.openGroup();
  const waiting = assertRejects(() => track.openGroup(), MoqError, "has ended");
  const gone = new Error("The subscriber left");
  track.fail(gone);
  await waiting;
  assertEquals(track.signal.reason, gone);
  await track.close();
});

Deno.test("TrackWriter.close() aborts groups that a stalled subscriber does not read in time", async () => {
  for (const timeoutMs of [undefined, 100]) {
    using time = new FakeTime();
    const { track, did, state } = hand();
    state.stalls = true;
    const group = await track.openGroup();
    await group.writeFrame(new Uint8Array(4));
    const closing = track.close(timeoutMs === undefined ? {} : { timeoutMs });
    await time.tickAsync((timeoutMs ?? CLOSE_TIMEOUT_MS) - 1);
    assertEquals(track.signal.aborted, false);
    await time.tickAsync(1);
    await closing;
    assertEquals(did, ["accept 1", "drop 1-1: expired", "abort expired", "end 2: undefined"]);
  }
  await assertRejects(() => hand().track.close({ timeoutMs: -1 }), RangeError, "timeoutMs");
});

Deno.test("TrackWriter.close() resolves immediately when the subscriber leaves in the meantime", async () => {
  const { track, state } = hand();
  state.stalls = true;
  const group = await track.openGroup();
  await group.writeFrame(new Uint8Array(4));
  const closing = track.close();
  await turns();
  track.fail(new Error("The subscriber left"));
  await closing;
  assertEquals(track.openGroups, []);
});

Deno.test("TrackWriter.closeWithError() rejects the subscription, or aborts open groups", async () => {
  const rejected = hand();
  rejected.track.closeWithError("notFound");
  rejected.track.closeWithError("internal");
  await rejected.track.close();
  assertEquals(rejected.did, ["end 1: notFound"]);
  assertEquals((rejected.track.signal.reason as MoqError).reason, "notFound");

  const begun = hand();
  const group = await begun.track.openGroup();
  await turns();
  begun.track.closeWithError("internal");
  assertEquals(begun.did, ["accept 1", "abort publishAborted", "end 2: internal"]);
  await assertRejects(() => group.writeFrame(new Uint8Array(1)), MoqError, "was aborted");
});

Deno.test("TrackWriter reports aborted groups, and groups that will not be sent, to the subscriber", async () => {
  const { track, did } = hand();
  (await track.openGroup()).abort("expired");
  track.drop({ first: 2, last: 4 });
  assertEquals((await track.openGroup()).sequence, 5);
  assertEquals(did.slice(1, 3), ["drop 1-1: expired", "drop 2-4: expired"]);
  await track.close();
});

Deno.test("TrackWriter orders its groups in 32 bits: by priority, then newest or oldest first", async () => {
  const { track, streams } = hand({ priority: 7 });
  for (const sequence of [2 ** 40, 2 ** 40 + 1, 2 ** 40 + 2]) await track.openGroup(sequence);
  await turns();
  const orders = () => streams.map(({ sendOrder }) => sendOrder);
  const isRising = (numbers: number[]) =>
    numbers.every((one, at) => at === 0 || one > numbers[at - 1]!);
  const newest = orders();
  assert(isRising(newest), `${newest}`);
  track.update({ ...FIELDS, priority: 7, ordered: true });
  const oldest = orders();
  assert(isRising([...oldest].reverse()), `${oldest}`);
  track.update({ ...FIELDS, priority: 8 });
  const higher = orders();
  assert(Math.min(...higher) > Math.max(...newest, ...oldest));
  track.update({ ...FIELDS, priority: 255, ordered: true });
  track.update({ ...FIELDS, priority: 0 });
  for (const order of [...newest, ...oldest, ...higher, ...orders()]) {
    assert(order < 0 && order >= -(2 ** 31) && Number.isInteger(order), `${order}`);
  }
  await track.close();
});

Deno.test("TrackWriter.openGroup() that had to wait sends its group after earlier ones, until no writer waits", async () => {
  const { track, streams, state } = hand();
  const gate = Promise.withResolvers<void>();
  state.gate = gate.promise;
  for (let at = 0; at < MAX_OPENING_GROUPS; at++) await track.openGroup();
  const waiting = [1, 2, 3].map(() => track.openGroup());
  gate.resolve();
  await Promise.all(waiting);
  await turns();
  await track.openGroup();
  await turns();
  const orders = () => streams.map(({ sendOrder }) => sendOrder);
  const [early, waited, [late]] = [
    orders().slice(0, MAX_OPENING_GROUPS),
    orders().slice(MAX_OPENING_GROUPS, -1),
    orders().slice(-1),
  ];
  assertEquals(waited, waited.toSorted((one, other) => other - one));
  assert(Math.max(...waited) < Math.min(...early), `${waited} behind ${early}`);
  assert(late! > Math.max(...early), `${late} before ${early}`);
  const before = orders();
  track.update({ ...FIELDS, priority: 1 });
  assertEquals(new Set(orders().map((order, at) => order - before[at]!)).size, 1);
  await track.close();
});

Deno.test("TrackWriter.updated yields the subscriber's changes, and ends with the track", async () => {
  const { track } = hand();
  const seen: number[] = [];
  const reading = (async () => {
    for await (const { priority } of track.updated) seen.push(priority);
  })();
  track.update({ ...FIELDS, priority: 1 });
  await turns();
  track.update({ ...FIELDS, priority: 2 });
  await turns();
  await track.close();
  await reading;
  assertEquals([seen, track.subscription.priority], [[1, 2], 2]);
});

Deno.test("TrackWriter.openGroup() that was cancelled leaves its number to the next one, or reports it as missing", async () => {
  const { track, did, state } = hand();
  const gate = Promise.withResolvers<void>();
  state.gate = gate.promise;
  const open = [];
  for (let at = 0; at < MAX_OPENING_GROUPS; at++) open.push(await track.openGroup());
  const controllers = [1, 2, 3].map(() => new AbortController());
  const waiting = controllers.map(({ signal }) => track.openGroup(undefined, { signal }));
  for (const at of [2, 0]) {
    controllers[at]!.abort(new Error("enough"));
    await assertRejects(() => waiting[at]!, Error, "enough");
  }
  gate.resolve();
  const last = MAX_OPENING_GROUPS;
  assertEquals((await waiting[1]!).sequence, last + 2);
  assertEquals((await track.openGroup()).sequence, last + 3);
  await track.close();
  assertEquals(did.slice(1), [
    `drop ${last + 1}-${last + 1}: publishAborted`,
    `end ${last + 4}: undefined`,
  ]);
});

Deno.test("TrackWriter.close() does not count a waiting group as sent", async () => {
  const { track, did, state } = hand();
  const gate = Promise.withResolvers<void>();
  state.gate = gate.promise;
  for (let at = 0; at < MAX_OPENING_GROUPS; at++) await track.openGroup();
  const waiting = [1, 2].map(() => assertRejects(() => track.openGroup(), MoqError, "has ended"));
  const closing = track.close();
  gate.resolve();
  await Promise.all([closing, ...waiting]);
  const first = MAX_OPENING_GROUPS + 1;
  const end = [`drop ${first}-${first}: publishAborted`, `end ${first + 1}: undefined`];
  assertEquals(did.slice(-2), end);
});

Deno.test("TrackWriter.drop() rejects invalid numbers", async () => {
  const { track, did } = hand();
  const bad = [[-1, 0], [0.5, 1], [2, 1], [0, Number.MAX_SAFE_INTEGER], [NaN, NaN]] as const;
  for (const [first, last] of bad) {
    assertThrows(() => track.drop({ first, last }), RangeError, "Cannot drop groups");
  }
  track.drop({ first: 0, last: Number.MAX_SAFE_INTEGER - 1 });
  await track.close();
  assertEquals(did.at(-1), `end ${Number.MAX_SAFE_INTEGER}: undefined`);
});
