/** Claims of gomoqt's documentation about sessions that have no other test, in gomoqt's version. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { moqEnds } from "../tests/moq/network.ts";
import { soon, turns } from "../tests/waiting.ts";
import { MoqError } from "./wire/errors.ts";
import { type TrackHandler, TrackMux } from "./track/mux.ts";
import type { TrackReader } from "./track/track_reader.ts";
import type { TrackWriter } from "./track/track_writer.ts";

const VERSION = "gomoqt-dev";

function muxOf(handler: TrackHandler): TrackMux {
  const mux = new TrackMux();
  mux.publish("/broadcast_path", handler);
  return mux;
}

interface Subscription extends AsyncDisposable {
  readonly writer: TrackWriter;
  readonly reader: TrackReader;
}

async function subscription(): Promise<Subscription> {
  const served = Promise.withResolvers<TrackWriter>();
  const mux = muxOf(async (track) => {
    served.resolve(track);
    await new Promise((resolve) => track.signal.addEventListener("abort", resolve));
  });
  const ends = await moqEnds(VERSION, { mux });
  const reader = await ends.client.subscribe("/broadcast_path", "track_name");
  return {
    reader,
    writer: await soon(served.promise),
    [Symbol.asyncDispose]: () => ends[Symbol.asyncDispose](),
  };
}

Deno.test("a handler is a function or an object, and may leave its track open", async () => {
  const names: string[] = [];
  class Handler {
    serveTrack(track: TrackWriter): void {
      names.push(track.name);
    }
  }
  const mux = muxOf(new Handler());
  mux.publish("/other", (track) => void names.push(track.name));
  await using ends = await moqEnds(VERSION, { mux });
  for (const [path, name] of [["/broadcast_path", "one"], ["/other", "two"]] as const) {
    const track = await ends.client.subscribe(path, name);
    assertEquals(await soon(track.nextGroup()), null);
  }
  assertEquals(names, ["one", "two"]);
});

Deno.test("an announcement ends with its handler on request", async () => {
  const mux = new TrackMux();
  const publication = mux.publish("/live/a", () => {});
  await using ends = await moqEnds(VERSION, { mux });
  const reader = await ends.client.acceptAnnounce("/live/");
  assertEquals((await soon(reader.next()))?.path, "/live/a");
  assert(publication.isActive);
  publication.end();
  assertEquals([publication.isActive, mux.route("/live/a")], [false, undefined]);
  assertEquals((await soon(reader.next()))?.active, false);
  reader.close();
});

Deno.test("groups are read concurrently, and the reader may keep frames", async () => {
  await using ends = await subscription();
  const writers = await Promise.all([1, 2, 3].map((sequence) => ends.writer.openGroup(sequence)));
  for (const byte of [10, 20]) {
    for (const group of writers) await group.writeFrame(Uint8Array.of(byte + group.sequence));
    await turns();
  }
  const groups = [];
  for (const _ of writers) groups.push((await soon(ends.reader.nextGroup()))!);
  const reading = groups.map((group) => Array.fromAsync(group));
  for (const group of writers) await group.close();
  assertEquals((await soon(Promise.all(reading))).map((frames) => frames.map(([byte]) => byte)), [
    [11, 21],
    [12, 22],
    [13, 23],
  ]);
});

Deno.test("the memory of a written frame can be reused for the next one", async () => {
  await using ends = await subscription();
  const writer = await ends.writer.openGroup();
  const frame = new Uint8Array(3);
  for (const byte of [1, 2, 3]) await writer.writeFrame(frame.fill(byte));
  await writer.close();
  const group = (await soon(ends.reader.nextGroup()))!;
  const frames = await soon(Array.fromAsync(group));
  assertEquals(frames.map(([byte]) => byte), [1, 2, 3]);
});

Deno.test("a handwritten relay forwards groups with their numbers, and frames unchanged", async () => {
  await using up = await subscription();
  await using one = await subscription();
  await using other = await subscription();
  const relaying = (async () => {
    for await (const group of up.reader) {
      const writers = await Promise.all(
        [one, other].map(({ writer }) => writer.openGroup(group.sequence)),
      );
      for await (const frame of group) {
        await Promise.all(writers.map((writer) => writer.writeFrame(frame)));
      }
      await Promise.all(writers.map((writer) => writer.close()));
    }
  })();
  const source = await up.writer.openGroup(7);
  for (const length of [1, 0, 20_000]) await source.writeFrame(new Uint8Array(length));
  await source.close();
  for (const { reader } of [one, other]) {
    const group = (await soon(reader.nextGroup()))!;
    assertEquals(group.sequence, 7);
    assertEquals(await soon(Array.fromAsync(group, ({ length }) => length)), [1, 0, 20_000]);
  }
  await up.writer.close();
  await soon(relaying);
});

Deno.test("a leaving subscriber is reported to its publisher through signal and groups", async () => {
  await using ends = await subscription();
  const group = await ends.writer.openGroup();
  await group.writeFrame(Uint8Array.of(1));
  assertEquals(ends.writer.isClosed, false);
  ends.reader.closeWithError("timeout");
  await soon(ends.reader.closed);
  while (!ends.writer.signal.aborted) await turns();
  const { scope, by } = ends.writer.signal.reason as MoqError;
  assertEquals([scope, by], ["subscribe", "remote"]);
  await assertRejects(() => soon(group.close()), MoqError);
});

Deno.test("a subscriber that leaves with a reason reports it to the publisher", async () => {
  await using ends = await subscription();
  ends.reader.closeWithError("timeout");
  while (!ends.writer.signal.aborted) await turns();
  const { scope, reason, moqCode, by } = ends.writer.signal.reason as MoqError;
  assertEquals({ scope, reason, moqCode, by }, {
    scope: "subscribe",
    reason: "timeout",
    moqCode: 5,
    by: "remote",
  });
});

Deno.test("a read times out, and the next one receives the frame", async () => {
  await using ends = await subscription();
  const writer = await ends.writer.openGroup();
  await writer.writeFrame(Uint8Array.of(1));
  const group = (await soon(ends.reader.nextGroup()))!;
  assertEquals(await soon(group.readFrame()), Uint8Array.of(1));
  const over = AbortSignal.abort(new Error("enough"));
  await assertRejects(() => group.readFrame({ signal: over }), Error, "enough");
  for (const _ of [1, 2]) {
    const controller = new AbortController();
    const reading = assertRejects(
      () => group.readFrame({ signal: controller.signal }),
      Error,
      "enough",
    );
    await turns();
    controller.abort(new Error("enough"));
    await soon(reading);
  }
  await writer.writeFrame(Uint8Array.of(2));
  await writer.writeFrame(Uint8Array.of(3));
  await turns();
  assertEquals(group.takeFrame(), undefined);
  const { signal } = new AbortController();
  assertEquals(await soon(group.readFrame({ signal })), Uint8Array.of(2));
  assertEquals(await soon(group.readFrame()), Uint8Array.of(3));
  await writer.close();
  assertEquals(await soon(group.readFrame({ signal })), null);
});

Deno.test("a read that timed out leaves its failure to the next one", async () => {
  await using ends = await subscription();
  const writer = await ends.writer.openGroup();
  await writer.writeFrame(Uint8Array.of(1));
  const group = (await soon(ends.reader.nextGroup()))!;
  await soon(group.readFrame());
  const controller = new AbortController();
  const reading = assertRejects(
    () => group.readFrame({ signal: controller.signal }),
    Error,
    "enough",
  );
  controller.abort(new Error("enough"));
  await soon(reading);
  writer.abort("expired");
  for (const _ of [1, 2]) {
    const error = await assertRejects(() => soon(group.readFrame()), MoqError);
    assertEquals([error.scope, error.reason], ["group", "expired"]);
  }
});

Deno.test("a waiting write times out, and the group can be aborted", async () => {
  await using ends = await subscription();
  const writer = await ends.writer.openGroup();
  const closed = assertRejects(() => writer.closed, MoqError, "was aborted");
  const signal = AbortSignal.timeout(20);
  await assertRejects(
    async () => {
      while (true) await soon(writer.writeFrame(new Uint8Array(60_000), { signal }));
    },
    DOMException,
  );
  writer.abort("expired");
  await soon(closed);
});

Deno.test("a group reports its end, whichever end aborted it", async () => {
  await using ends = await subscription();
  const [whole, left] = await Promise.all([ends.writer.openGroup(), ends.writer.openGroup()]);
  for (const group of [whole, left]) await group.writeFrame(Uint8Array.of(1));
  await whole.close();
  await soon(whole.closed);
  for await (const group of ends.reader) {
    if (group.sequence !== left.sequence) continue;
    group.cancel();
    break;
  }
  // The next write notices the cancel.
  while (!left.isEnded) {
    await left.writeFrame(Uint8Array.of(2)).catch(() => {});
    await turns();
  }
  const error = await assertRejects(() => soon(left.closed), MoqError);
  assertEquals({ scope: error.scope, reason: error.reason, by: error.by }, {
    scope: "group",
    reason: "subscribeCancelled",
    by: "remote",
  });
});

Deno.test("sessions with different muxes have separate broadcasts", async () => {
  await using one = await moqEnds(VERSION, { mux: muxOf(() => {}) });
  await using other = await moqEnds(VERSION);
  assertEquals([one.server.mux.size, other.server.mux.size, other.client.mux.size], [1, 0, 0]);
  const track = await other.client.subscribe("/broadcast_path", "track_name");
  const error = await assertRejects(() => soon(track.ready), MoqError);
  assertEquals(error.reason, "notFound");
});
