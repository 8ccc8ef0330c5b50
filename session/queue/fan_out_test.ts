import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { QueueFullError } from "../../errors.ts";
import type { Frame } from "../../transport/connection.ts";
import { bench } from "./queues_test.ts";
import type { Entry } from "./packing.ts";
import { HIGH_WATER_MARK } from "./send_queue.ts";
import { mergeEntries, type Pending, Share } from "./fan_out.ts";

function entryOf(sequence: number): Entry {
  return { frame: `${sequence}`, size: 1, topic: "t", sequence, isProtected: false };
}

function pendingOf(...sequences: number[]): Pending {
  return { entries: sequences.map(entryOf), exceptions: undefined, members: [] };
}

Deno.test("mergeEntries() keeps the order of both lists", () => {
  const [a, b] = [[1, 4, 5], [2, 3, 6, 7]].map((list) => list.map(entryOf));
  const merged = mergeEntries(a!, b!).map(({ sequence }) => sequence);
  assertEquals(merged, [1, 2, 3, 4, 5, 6, 7]);
  assertEquals(mergeEntries([], b!), b!);
});

Deno.test("Share.and() gives one object to all who get the same", () => {
  const [p, q] = [pendingOf(2), pendingOf(3)];
  const share = new Share([entryOf(1)], undefined);
  const [withP, withQ] = [share.and(p), share.and(q)];
  assertStrictEquals(share.and(p), withP);
  assertStrictEquals(share.and(q), withQ);
  assertStrictEquals(withP.frames(true), share.and(p).frames(true));
  assertEquals(withP.entries.map(({ sequence }) => sequence), [1, 2]);
  assertEquals(withQ.entries.map(({ sequence }) => sequence), [1, 3]);
});

Deno.test("Share.frames() packs once for each kind of wire", () => {
  const share = new Share([entryOf(1), entryOf(2)], undefined);
  assertEquals(share.frames(true).map(({ frame }) => frame), ["1\n2"]);
  assertEquals(share.frames(false).map(({ frame }) => frame), ["1", "2"]);
  assertStrictEquals(share.frames(true), share.frames(true));
  assertStrictEquals(share.frames(false), share.frames(false));
});

Deno.test("Share.entriesFor() leaves out what one queue does not get, also after a merge", () => {
  const [one, two] = [bench().queue, bench().queue];
  const [first, second] = [entryOf(1), entryOf(2)];
  const share = new Share([first], new Map([[first, one]])).and({
    entries: [second],
    exceptions: new Map([[second, two]]),
    members: [],
  });
  assertEquals(share.entriesFor(one), [second]);
  assertEquals(share.entriesFor(two), [first]);
  const { queue: three } = bench();
  assertEquals([one, two, three].map((queue) => share.excepts(queue)), [true, true, false]);
});

Deno.test("Share.giveTo() merges shared entries into those of its own, in order", () => {
  const { frames, queue, entry } = bench();
  const [a, b, c, d] = ["a", "b", "c", "d"].map((text) => entry(text));
  queue.push(a!);
  queue.push(c!);
  assert(new Share([b!, d!], undefined).giveTo(queue));
  assertEquals(frames.sent, ["a\nb\nc\nd"]);
});

Deno.test("Share.giveTo() leaves out the entries that its queue does not get", () => {
  const [one, two] = [bench(), bench()];
  const [a, b] = ["a", "b"].map((text) => one.entry(text));
  const share = new Share([a!, b!], new Map([[a!, one.queue]]));
  for (const { queue } of [one, two]) assert(share.giveTo(queue));
  assertEquals([one.frames.sent, two.frames.sent], [["b"], ["a\nb"]]);
  const none = new Share([a!], new Map([[a!, one.queue]]));
  assert(none.giveTo(one.queue));
  assertEquals(one.frames.sent, ["b"]);
});

Deno.test("Share.giveTo() gives a queue that is not excepted the frame packed for all", () => {
  const [one, two] = [bench(), bench()];
  const [a, b] = ["a", "b"].map((text) => one.entry(text));
  const share = new Share([a!, b!], new Map([[a!, one.queue]]));
  const packed = share.frames(true);
  // Seen by what the packed frame says: it is not made anew from the entries.
  (packed[0] as { frame: Frame }).frame = "packed once";
  share.giveTo(two.queue);
  assertEquals(two.frames.sent, ["packed once"]);
});

Deno.test("Share.giveTo() does not overflow while the wire takes everything", () => {
  for (const own of [false, true]) {
    const { frames, turn, queue, entry, overflows } = bench({ maxMessages: 4 });
    if (own) queue.push(entry("own"));
    const entries = Array.from({ length: 100 }, (_, i) => entry(`${i}`));
    assert(new Share(entries, undefined).giveTo(queue));
    turn.flush();
    const expected = entries.map(({ frame }) => frame as string);
    assertEquals(frames.take(), own ? ["own", ...expected] : expected);
    assertEquals(overflows, []);
  }
});

Deno.test("Share.giveTo() keeps what the wire has no room for", async () => {
  const { frames, turn, queue, entry } = bench();
  frames.isStalled = true;
  const entries = ["a", "b", "c"].map((text) => entry(text.repeat(HIGH_WATER_MARK)));
  assert(new Share(entries, undefined).giveTo(queue));
  assertEquals(frames.sent.splice(0).length, 1);
  assertEquals(queue.stats.queuedMessages, 2);
  await frames.drain();
  turn.flush();
  assertEquals(frames.take().map((text) => text[0]), ["b", "c"]);
});

Deno.test("Share.giveTo() says that it is full, and then takes nothing that would show a gap", () => {
  const { frames, queue, overflows, entry, hold } = bench({ maxMessages: 2 });
  hold();
  const entries = ["a", "b", "c"].map((text) => entry(text));
  assert(!new Share(entries, undefined).giveTo(queue));
  assert(new Share([entry("d")], undefined).giveTo(queue));
  assertThrows(() => queue.push(entry("e")), QueueFullError);
  assertInstanceOf(overflows[0], QueueFullError);
  assertEquals(frames.sent, []);
});

Deno.test("Share.giveTo() keeps notices when it puts the turn in order", async () => {
  const { frames, turn, queue, entry, push, hold } = bench({
    maxMessages: 2,
    policy: "drop-newest",
  });
  hold();
  // Published first, but handed over last, when the turn ends.
  const published = entry("p");
  push("a", "b", "c");
  assert(new Share([published], undefined).giveTo(queue));
  assertEquals(queue.stats.droppedMessages, 2);
  await frames.drain();
  turn.flush();
  assertEquals(frames.take(), ["p", "a", '{"dropped":2}']);
});
