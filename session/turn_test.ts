import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import type { QueueFullError } from "../errors.ts";
import type { MessageFrames } from "../transport/connection.ts";
import type { Entry } from "./entry.ts";
import { SendQueue, type SendQueueOwner } from "./send_queue.ts";
import { type Gathering, mergeEntries, type Pending, type Sender, Share, Turn } from "./turn.ts";

function entryOf(sequence: number): Entry {
  return { frame: `${sequence}`, size: 1, topic: "t", sequence, isProtected: false };
}

function pendingOf(members: Iterable<SendQueue>, ...sequences: number[]): Pending {
  return {
    entries: sequences.map((sequence) => entryOf(sequence)),
    exceptions: undefined,
    members,
  };
}

/** A queue, and what it handed to its wire. */
function queueOn(turn: Turn, maxMessages = 256, bufferedAmount = 0) {
  const sent: unknown[] = [];
  const overflows: QueueFullError[] = [];
  const frames: MessageFrames = {
    send: (frame) => void sent.push(frame),
    bufferedAmount,
    drained: () => new Promise(() => {}),
    lowWaterMark: 0,
    receive() {},
  };
  const owner: SendQueueOwner = {
    joins: true,
    overflow: (error) => void overflows.push(error),
  };
  const queue: SendQueue = new SendQueue(frames, owner, {
    turn,
    sendQueue: { maxMessages, maxBytes: 1_000_000, policy: "close" },
  });
  return { queue, sent, overflows };
}

/** Gathered already. */
function gathering(pending: Pending): Gathering {
  return { take: () => pending };
}

Deno.test("mergeEntries() keeps the order of both lists", () => {
  const [a, b] = [[1, 4, 5], [2, 3, 6, 7]].map((list) => list.map(entryOf));
  const merged = mergeEntries(a!, b!).map(({ sequence }) => sequence);
  assertEquals(merged, [1, 2, 3, 4, 5, 6, 7]);
  assertEquals(mergeEntries([], b!), b!);
});

Deno.test("Share.and() gives one object to all who get the same", () => {
  const [p, q] = [pendingOf([], 2), pendingOf([], 3)];
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
  const turn = new Turn(() => {});
  const [one, two] = [queueOn(turn).queue, queueOn(turn).queue];
  const [first, second] = [entryOf(1), entryOf(2)];
  const share = new Share([first], new Map([[first, one]])).and({
    entries: [second],
    exceptions: new Map([[second, two]]),
    members: [],
  });
  assertEquals(share.entriesFor(one), [second]);
  assertEquals(share.entriesFor(two), [first]);
  const { queue: three } = queueOn(turn);
  assertEquals([one, two, three].map((queue) => share.excepts(queue)), [true, true, false]);
});

Deno.test("Turn schedules one flush, however much is marked", () => {
  const scheduled: (() => void)[] = [];
  const turn = new Turn((callback) => void scheduled.push(callback));
  const { queue, sent } = queueOn(turn);
  queue.push(entryOf(turn.nextSequence()));
  queue.push(entryOf(turn.nextSequence()));
  turn.markGathering(gathering(pendingOf([queue], turn.nextSequence())));
  assertEquals([scheduled.length, sent], [1, []]);
  scheduled[0]!();
  assertEquals(sent, ["1\n2\n3"]);
  queue.push(entryOf(turn.nextSequence()));
  assertEquals(scheduled.length, 2);
});

Deno.test("Turn.flush() hands over early, once, and in the order of the turn", () => {
  const scheduled: (() => void)[] = [];
  const turn = new Turn((callback) => void scheduled.push(callback));
  const { queue, sent } = queueOn(turn);
  const early = pendingOf([queue], turn.nextSequence());
  queue.push(entryOf(turn.nextSequence()));
  turn.markGathering(gathering(early));
  turn.flush();
  assertEquals(sent, ["1\n2"]);
  queue.push(entryOf(turn.nextSequence()));
  scheduled[0]!();
  assertEquals(sent, ["1\n2", "3"]);
});

Deno.test("Turn.flush() sends a queue what several broadcasts have, in one order and one frame", () => {
  const turn = new Turn(() => {});
  const [one, two, three] = [queueOn(turn), queueOn(turn), queueOn(turn)];
  turn.markGathering(gathering(pendingOf([one.queue, two.queue], 1, 5)));
  turn.markGathering(gathering(pendingOf([two.queue, three.queue], 2, 6)));
  turn.markGathering(gathering(pendingOf([one.queue, two.queue, three.queue], 3, 4)));
  turn.flush();
  assertEquals(one.sent, ["1\n3\n4\n5"]);
  assertEquals(two.sent, ["1\n2\n3\n4\n5\n6"]);
  assertEquals(three.sent, ["2\n3\n4\n6"]);
});

Deno.test("Turn.flush() closes a queue that is full only when whoever flushed is done", async () => {
  const turn = new Turn(() => {});
  const [slow, healthy] = [queueOn(turn, 1, 1e6), queueOn(turn)];
  slow.queue.push({ ...entryOf(turn.nextSequence()), size: 100_000 });
  turn.flush();
  turn.markGathering(gathering(pendingOf([slow.queue, healthy.queue], 2, 3)));
  turn.flush();
  assertEquals(slow.overflows.length, 0);
  assertEquals(healthy.sent, ["2\n3"]);
  await Promise.resolve();
  assertEquals(slow.overflows.length, 1);
  assert(slow.sent.length === 1);
});

Deno.test("Turn.flush() gives those who take singly one entry after the other, each to all", () => {
  const turn = new Turn(() => {});
  const log: string[] = [];
  const fails: string[] = [];
  const sender = (name: string, room: number): Sender => ({
    share: undefined,
    isMarked: false,
    takesSingly: () => true,
    takeOne: ({ frame }) => {
      log.push(`${name}${frame}`);
      return --room > 0;
    },
    take: () => true,
    flush: () => true,
    fail: () => void fails.push(name),
  });
  const [a, b] = [sender("a", 9), sender("b", 2)];
  turn.markGathering({
    take: () => ({ entries: [1, 2, 3].map(entryOf), exceptions: undefined, members: [a, b] }),
  });
  turn.flush();
  // The second had no room after its second entry, and is asked for no more.
  assertEquals(log, ["a1", "b1", "a2", "b2", "a3"]);
  assertEquals([a.share, b.share], [undefined, undefined]);
});
