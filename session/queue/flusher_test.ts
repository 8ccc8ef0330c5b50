import { assert, assertEquals } from "@std/assert";
import type { QueueFullError } from "../../errors.ts";
import { platformRuntime } from "../../base/runtime.ts";
import type { MessageFrames } from "../../transport/connection.ts";
import { type BroadcastBatch, FanOut } from "./broadcast.ts";
import { Flusher } from "./flusher.ts";
import type { QueuedMessage } from "./frames.ts";
import { flusherByHand } from "./queues_fixture.ts";
import { SendQueue, type SendQueueOwner } from "./send_queue.ts";

function entryOf(sequence: number): QueuedMessage {
  return {
    frame: `${sequence}`,
    size: 1,
    topic: "t",
    sequence,
    isProtected: false,
    isShared: true,
  };
}

function pendingOf(members: Iterable<SendQueue>, ...sequences: number[]): BroadcastBatch {
  return {
    entries: sequences.map((sequence) => entryOf(sequence)),
    exceptions: undefined,
    members,
  };
}

interface QueueOptions {
  readonly maxMessages?: number;
  readonly bufferedAmount?: number;
  readonly joins?: boolean;
  readonly send?: (frame: unknown) => unknown;
}

/** A queue, and the frames of its connection. */
function queueOn(flusher: Flusher, options: QueueOptions = {}) {
  const { maxMessages = 256, bufferedAmount = 0, joins = true } = options;
  const sent: unknown[] = [];
  const overflows: QueueFullError[] = [];
  const { send = (frame: unknown) => sent.push(frame) } = options;
  const frames: MessageFrames = {
    send: (frame) => void send(frame),
    bufferedAmount,
    drained: () => new Promise(() => {}),
    lowWaterMark: 0,
    receive() {},
  };
  const owner: SendQueueOwner = {
    joins,
    abort: (_code, _reason, error) => void overflows.push(error),
  };
  const queue: SendQueue = new SendQueue(frames, owner, {
    flusher,
    sendQueue: { maxMessages, maxBytes: 1_000_000, policy: "close" },
  });
  return { queue, sent, overflows };
}

/** Includes the messages in the next flush. */
function share(flusher: Flusher, pending: BroadcastBatch): void {
  flusher.distributor(FanOut).mark({ take: () => pending });
}

function scheduledFlusher(): { flusher: Flusher; scheduled: (() => void)[] } {
  const scheduled: (() => void)[] = [];
  const schedule = (callback: () => void) => void scheduled.push(callback);
  return { flusher: new Flusher(Object.assign(platformRuntime(), { schedule })), scheduled };
}

Deno.test("Flusher schedules one flush for any number of marked queues", () => {
  const { flusher, scheduled } = scheduledFlusher();
  const { queue, sent } = queueOn(flusher);
  queue.push(entryOf(flusher.nextSequence()));
  queue.push(entryOf(flusher.nextSequence()));
  share(flusher, pendingOf([queue], flusher.nextSequence()));
  assertEquals([scheduled.length, sent], [1, []]);
  scheduled[0]!();
  assertEquals(sent, ["1\n2\n3"]);
  queue.push(entryOf(flusher.nextSequence()));
  assertEquals(scheduled.length, 2);
});

Deno.test("Flusher.flush() sends early, once, and in the order of the turn", () => {
  const { flusher, scheduled } = scheduledFlusher();
  const { queue, sent } = queueOn(flusher);
  const early = pendingOf([queue], flusher.nextSequence());
  queue.push(entryOf(flusher.nextSequence()));
  share(flusher, early);
  flusher.flush();
  assertEquals(sent, ["1\n2"]);
  queue.push(entryOf(flusher.nextSequence()));
  scheduled[0]!();
  assertEquals(sent, ["1\n2", "3"]);
});

Deno.test("Flusher.flush() sends a queue the messages of several broadcasts, in one order and one frame", () => {
  const flusher = flusherByHand();
  const [one, two, three] = [queueOn(flusher), queueOn(flusher), queueOn(flusher)];
  share(flusher, pendingOf([one.queue, two.queue], 1, 5));
  share(flusher, pendingOf([two.queue, three.queue], 2, 6));
  share(flusher, pendingOf([one.queue, two.queue, three.queue], 3, 4));
  flusher.flush();
  assertEquals(one.sent, ["1\n3\n4\n5"]);
  assertEquals(two.sent, ["1\n2\n3\n4\n5\n6"]);
  assertEquals(three.sent, ["2\n3\n4\n6"]);
});

Deno.test("Flusher.flush() closes a full queue only after the flush", async () => {
  const flusher = flusherByHand();
  const [slow, healthy] = [
    queueOn(flusher, { maxMessages: 1, bufferedAmount: 1e6 }),
    queueOn(flusher),
  ];
  slow.queue.push({ ...entryOf(flusher.nextSequence()), size: 100_000 });
  flusher.flush();
  share(flusher, pendingOf([slow.queue, healthy.queue], 2, 3));
  flusher.flush();
  assertEquals(slow.overflows.length, 0);
  assertEquals(healthy.sent, ["2\n3"]);
  await Promise.resolve();
  assertEquals(slow.overflows.length, 1);
  assert(slow.sent.length === 1);
});

Deno.test("Flusher.flush() sends queues of single frames one entry at a time, each to all", async () => {
  const flusher = flusherByHand();
  const log: string[] = [];
  const queueOf = (name: string, bufferedAmount: number) =>
    queueOn(flusher, {
      maxMessages: 1,
      bufferedAmount,
      joins: false,
      send: (f) => log.push(name + f),
    });
  const [a, b] = [queueOf("a", 0), queueOf("b", 1e6)];
  const large = [1, 2, 3, 4].map((sequence) => ({ ...entryOf(sequence), size: 100_000 }));
  share(flusher, { entries: large, exceptions: undefined, members: [a.queue, b.queue] });
  flusher.flush();
  // The connection of the second accepted one, and its queue another.
  assertEquals(log, ["a1", "b1", "a2", "a3", "a4"]);
  await Promise.resolve();
  assertEquals([a.overflows.length, b.overflows.length], [0, 1]);
});
