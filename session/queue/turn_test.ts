import { platformRuntime } from "../../base/runtime.ts";
import { assert, assertEquals } from "@std/assert";
import type { QueueFullError } from "../../errors.ts";
import type { MessageFrames } from "../../transport/connection.ts";
import type { Entry } from "./packing.ts";
import { SendQueue, type SendQueueOwner } from "./send_queue.ts";
import { type Pending, Sharing } from "./fan_out.ts";
import { Turn } from "./turn.ts";

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

interface QueueOptions {
  readonly maxMessages?: number;
  readonly bufferedAmount?: number;
  readonly joins?: boolean;
  readonly send?: (frame: unknown) => unknown;
}

/** A queue, and what it handed to its wire. */
function queueOn(turn: Turn, options: QueueOptions = {}) {
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
  const owner: SendQueueOwner = { joins, overflow: (error) => void overflows.push(error) };
  const queue: SendQueue = new SendQueue(frames, owner, {
    turn,
    sendQueue: { maxMessages, maxBytes: 1_000_000, policy: "close" },
  });
  return { queue, sent, overflows };
}

/** Has the turn hand out what was gathered already. */
function share(turn: Turn, pending: Pending): void {
  Sharing.of(turn).mark({ take: () => pending });
}

Deno.test("Turn schedules one flush, however much is marked", () => {
  const scheduled: (() => void)[] = [];
  const turn = new Turn(
    Object.assign(platformRuntime(), {
      schedule: (callback: () => void) => void scheduled.push(callback),
    }),
  );
  const { queue, sent } = queueOn(turn);
  queue.push(entryOf(turn.nextSequence()));
  queue.push(entryOf(turn.nextSequence()));
  share(turn, pendingOf([queue], turn.nextSequence()));
  assertEquals([scheduled.length, sent], [1, []]);
  scheduled[0]!();
  assertEquals(sent, ["1\n2\n3"]);
  queue.push(entryOf(turn.nextSequence()));
  assertEquals(scheduled.length, 2);
});

Deno.test("Turn.flush() hands over early, once, and in the order of the turn", () => {
  const scheduled: (() => void)[] = [];
  const turn = new Turn(
    Object.assign(platformRuntime(), {
      schedule: (callback: () => void) => void scheduled.push(callback),
    }),
  );
  const { queue, sent } = queueOn(turn);
  const early = pendingOf([queue], turn.nextSequence());
  queue.push(entryOf(turn.nextSequence()));
  share(turn, early);
  turn.flush();
  assertEquals(sent, ["1\n2"]);
  queue.push(entryOf(turn.nextSequence()));
  scheduled[0]!();
  assertEquals(sent, ["1\n2", "3"]);
});

Deno.test("Turn.flush() sends a queue what several broadcasts have, in one order and one frame", () => {
  const turn = new Turn(Object.assign(platformRuntime(), { schedule() {} }));
  const [one, two, three] = [queueOn(turn), queueOn(turn), queueOn(turn)];
  share(turn, pendingOf([one.queue, two.queue], 1, 5));
  share(turn, pendingOf([two.queue, three.queue], 2, 6));
  share(turn, pendingOf([one.queue, two.queue, three.queue], 3, 4));
  turn.flush();
  assertEquals(one.sent, ["1\n3\n4\n5"]);
  assertEquals(two.sent, ["1\n2\n3\n4\n5\n6"]);
  assertEquals(three.sent, ["2\n3\n4\n6"]);
});

Deno.test("Turn.flush() closes a queue that is full only when whoever flushed is done", async () => {
  const turn = new Turn(Object.assign(platformRuntime(), { schedule() {} }));
  const [slow, healthy] = [queueOn(turn, { maxMessages: 1, bufferedAmount: 1e6 }), queueOn(turn)];
  slow.queue.push({ ...entryOf(turn.nextSequence()), size: 100_000 });
  turn.flush();
  share(turn, pendingOf([slow.queue, healthy.queue], 2, 3));
  turn.flush();
  assertEquals(slow.overflows.length, 0);
  assertEquals(healthy.sent, ["2\n3"]);
  await Promise.resolve();
  assertEquals(slow.overflows.length, 1);
  assert(slow.sent.length === 1);
});

Deno.test("Turn.flush() gives those who take singly one entry after the other, each to all", async () => {
  const turn = new Turn(Object.assign(platformRuntime(), { schedule() {} }));
  const log: string[] = [];
  const queueOf = (name: string, bufferedAmount: number) =>
    queueOn(turn, {
      maxMessages: 1,
      bufferedAmount,
      joins: false,
      send: (f) => log.push(name + f),
    });
  const [a, b] = [queueOf("a", 0), queueOf("b", 1e6)];
  const large = [1, 2, 3, 4].map((sequence) => ({ ...entryOf(sequence), size: 100_000 }));
  share(turn, { entries: large, exceptions: undefined, members: [a.queue, b.queue] });
  turn.flush();
  // The wire of the second took one, and its queue another.
  assertEquals(log, ["a1", "b1", "a2", "a3", "a4"]);
  assertEquals([a.queue.share, b.queue.share], [undefined, undefined]);
  await Promise.resolve();
  assertEquals([a.overflows.length, b.overflows.length], [0, 1]);
});
