import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { QueueFullError, UnsupportedError } from "../../errors.ts";
import type { Frame } from "../../transport/connection.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { encodeMessage } from "../wire/encode.ts";
import { internals, Session } from "../session.ts";
import type { SessionLimits } from "../settings/settings.ts";
import { settingsWith } from "../settings/session_settings.ts";
import { bench, flusherByHand } from "./queues_fixture.ts";
import { MAX_JOINED_BYTES, mergeEntries, type QueuedMessage } from "./frames.ts";
import { Broadcast, type BroadcastBatch, SharedMessages } from "./broadcast.ts";
import { HIGH_WATER_MARK } from "./send_queue.ts";

/** Sessions that a test flushes, and the messages of their peers. */
class Bench implements AsyncDisposable {
  readonly flusher = flusherByHand();
  readonly #stack = new AsyncDisposableStack();

  async connect(protocol = "skein.1", limits: SessionLimits = {}) {
    const pair = memoryPair({ protocol });
    const session = new Session(
      pair.server,
      settingsWith({ flusher: this.flusher }, { side: "server", ...limits }),
    );
    this.#stack.defer(async () => {
      pair.link.disconnect();
      await session.closed;
    });
    const frames: Frame[] = [];
    pair.client.frames!.receive({
      receiveFrame: (frame) => void frames.push(frame),
      framesEnded() {},
    });
    await this.endTurn();
    frames.length = 0;
    return { session, frames, link: pair.link };
  }

  /** Creates a group of these members. */
  group(...members: readonly { readonly session: Session }[]): Broadcast<object> {
    const group = new Broadcast<object>(this.flusher);
    for (const { session } of members) join(group, session);
    return group;
  }

  async endTurn(): Promise<void> {
    // Repeated for messages that wait until the connection has accepted the first part.
    for (let i = 0; i < 20; i++) {
      if (i % 10 === 0) this.flusher.flush();
      await Promise.resolve();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

function join(group: Broadcast<object>, session: Session): void {
  group.add(session, session[internals].sending.messages("share messages"));
}

/** The data of all messages in some frames. */
function dataOf(frames: Frame[]): unknown[] {
  const lines = frames.flatMap((frame) => (frame as string).split("\n"));
  return lines.map((line) => JSON.parse(line).data);
}

function message(data: unknown) {
  return encodeMessage("t", data);
}

Deno.test("Broadcast.send() gives all members the same frame when the turn ends", async () => {
  await using bench = new Bench();
  const [one, two] = [await bench.connect(), await bench.connect()];
  const group = bench.group(one, two);
  group.send(message(1));
  group.send(message(2));
  assertEquals(one.frames, []);
  await bench.endTurn();
  assertEquals(one.frames, ['{"topic":"t","data":1}\n{"topic":"t","data":2}']);
  assertEquals(two.frames, one.frames);
  await bench.endTurn();
  assertEquals(one.frames.length, 1);
});

Deno.test("Broadcast.send() gathers up to one frame, then sends it to all members", async () => {
  for (const size of [1_000, 1_024, 16_000, 16_384, 40_000, 65_536, 100_000]) {
    await using bench = new Bench();
    const members = [await bench.connect(), await bench.connect()];
    const group = bench.group(...members);
    const text = message("x".repeat(size));
    for (let i = 0; i < 100; i++) {
      group.send(text);
      // The connection accepts all bytes.
      for (let j = 0; j < 20; j++) await Promise.resolve();
    }
    await bench.endTurn();
    const perFrame = Math.max(1, Math.floor((MAX_JOINED_BYTES + 1) / (text.size + 1)));
    const messages = members.map(({ frames }) => frames.map((frame) => dataOf([frame]).length));
    const full = Array.from({ length: Math.floor(100 / perFrame) }, () => perFrame);
    const expected = 100 % perFrame === 0 ? full : [...full, 100 % perFrame];
    assertEquals(messages, [expected, expected], `${size} bytes`);
  }
});

Deno.test("Broadcast keeps the order of overlapping groups and of single sends", async () => {
  await using bench = new Bench();
  const peers = [await bench.connect(), await bench.connect(), await bench.connect()];
  const [a, b, c] = peers.map(({ session }) => session);
  const [left, right] = [new Broadcast(bench.flusher), new Broadcast(bench.flusher)];
  for (const session of [a!, b!]) join(left, session);
  for (const session of [b!, c!]) join(right, session);
  b!.send("t", 1);
  right.send(message(2));
  left.send(message(3));
  b!.send("t", 4);
  a!.send("t", 5);
  right.send(message(6), c);
  left.send(message(7));
  await bench.endTurn();
  assertEquals(peers.map(({ frames }) => dataOf(frames)), [[3, 5, 7], [1, 2, 3, 4, 6, 7], [2]]);
  assertEquals(peers.map(({ frames }) => frames.length), [1, 1, 1]);
});

Deno.test("Broadcast.add() and delete() first deliver earlier messages", async () => {
  await using bench = new Bench();
  const [one, two] = [await bench.connect(), await bench.connect()];
  const group = bench.group(one);
  group.send(message(1));
  join(group, two.session);
  group.send(message(2));
  group.delete(one.session);
  group.send(message(3));
  await bench.endTurn();
  assertEquals([dataOf(one.frames), dataOf(two.frames)], [[1, 2], [2, 3]]);
});

Deno.test("Broadcast.add() and delete() are idempotent, and flush only for a change", async () => {
  await using bench = new Bench();
  const [one, two] = [await bench.connect(), await bench.connect()];
  const group = bench.group(one);
  group.send(message(1));
  join(group, one.session);
  group.delete(two.session);
  group.send(message(2));
  await bench.endTurn();
  assertEquals(one.frames.length, 1);
  assertEquals(dataOf(one.frames), [1, 2]);
  assertEquals(
    { size: group.size, hasOne: group.has(one.session), hasTwo: group.has(two.session) },
    { size: 1, hasOne: true, hasTwo: false },
  );
  assertEquals([...group.members()], [one.session]);
});

Deno.test("Broadcast.add() rejects a session that carries no messages", async () => {
  await using pair = memoryPair({ protocol: "", frames: false });
  const flusher = flusherByHand();
  const session = new Session(pair.server, settingsWith({ flusher }, { side: "server" }));
  const group = new Broadcast(flusher);
  assertThrows(
    () => join(group, session),
    UnsupportedError,
  );
  assertEquals(group.size, 0);
  await session.close();
});

Deno.test("Broadcast.send() flushes early, so that a healthy member never overflows", async () => {
  await using bench = new Bench();
  const { session, frames } = await bench.connect("skein.1", { sendQueue: { maxMessages: 16 } });
  const plain = await bench.connect("", { sendQueue: { maxMessages: 16 } });
  const group = bench.group({ session }, plain);
  const sent = Array.from({ length: 1_000 }, (_, i) => i);
  for (const i of sent) group.send(message(i), i % 7 === 0 ? plain.session : undefined);
  session.send("t", 1_000);
  await bench.endTurn();
  assertEquals(dataOf(frames), [...sent, 1_000]);
  assertEquals(dataOf(plain.frames), sent.filter((i) => i % 7 !== 0));
  assert(!session.isClosed && !plain.session.isClosed);
});

Deno.test("Broadcast.send() flushes early at either of its bounds, any number of times", async () => {
  for (const [size, most] of [[1, 256], [30_000, 3]] as const) {
    await using bench = new Bench();
    const { session, frames } = await bench.connect();
    const group = bench.group({ session });
    const text = message("x".repeat(size));
    const send = async (count: number) => {
      for (let i = 0; i < count; i++) group.send(text);
      for (let i = 0; i < 20; i++) await Promise.resolve();
    };
    for (let round = 1; round <= 3; round++) {
      const before = frames.length;
      await send(most - 1);
      assertEquals(frames.length, before, "before the bound");
      await send(1);
      assert(frames.length > before, "at the bound");
      await bench.endTurn();
      assertEquals(dataOf(frames).length, most * round);
    }
  }
});

Deno.test("Broadcast.send() splits batches larger than a joined frame", async () => {
  await using bench = new Bench();
  const { session, frames } = await bench.connect();
  const group = bench.group({ session });
  for (let i = 0; i < 5; i++) group.send(message("x".repeat(30_000)));
  await bench.endTurn();
  assertEquals(dataOf(frames).length, 5);
  assertEquals(frames.map((frame) => frame.length <= 65_536), [true, true, true]);
});

Deno.test("Broadcast closes a member that does not read, and other members lose nothing", async () => {
  await using bench = new Bench();
  const limits = { sendQueue: { maxMessages: 8 } };
  const [slow, healthy] = [
    await bench.connect("skein.1", limits),
    await bench.connect("skein.1", limits),
  ];
  const group = bench.group(slow, healthy);
  slow.link.stall("to-client");
  for (let i = 0; i < 20; i++) {
    group.send(message("x".repeat(20_000)));
    await bench.endTurn();
  }
  assert(slow.session.isClosed);
  assertEquals((await slow.session.closed).code, 4507);
  assertEquals(dataOf(healthy.frames).length, 20);
  assert(!healthy.session.isClosed);
});

Deno.test("Broadcast.add() takes effect while it closes another full member", async () => {
  await using bench = new Bench();
  const slow = await bench.connect("skein.1", { sendQueue: { maxMessages: 1 } });
  const late = await bench.connect();
  const group = bench.group(slow);
  slow.link.stall("to-client");
  slow.session.send("t", "x".repeat(100_000));
  await bench.endTurn();
  group.send(message(1));
  group.send(message(2));
  join(group, late.session);
  assertEquals([group.size, slow.session.isClosed], [2, false]);
  await Promise.resolve();
  assert(slow.session.isClosed);
});

Deno.test("Broadcast.send() queues messages that a plain member's connection does not accept, in order", async () => {
  await using bench = new Bench();
  const [slow, quick] = [await bench.connect(""), await bench.connect("")];
  const group = bench.group(slow, quick);
  slow.link.stall("to-client");
  const texts = Array.from({ length: 5 }, (_, i) => `${i}${"x".repeat(30_000)}`);
  for (const text of texts) group.send(message(text));
  await bench.endTurn();
  assertEquals(dataOf(quick.frames), texts);
  assert(slow.session.stats.queuedMessages > 0);
  slow.link.resume("to-client");
  for (let i = 0; i < 5; i++) await bench.endTurn();
  assertEquals(dataOf(slow.frames), texts);
  assertEquals(slow.session.stats.queuedMessages, 0);
});

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

function pendingOf(...sequences: number[]): BroadcastBatch {
  return { entries: sequences.map(entryOf), exceptions: undefined, members: [] };
}

Deno.test("mergeEntries() keeps the order of both lists", () => {
  const [a, b] = [[1, 4, 5], [2, 3, 6, 7]].map((list) => list.map(entryOf));
  const merged = mergeEntries(a!, b!).map(({ sequence }) => sequence);
  assertEquals(merged, [1, 2, 3, 4, 5, 6, 7]);
  assertEquals(mergeEntries([], b!), b!);
});

Deno.test("SharedMessages.and() returns one object for all members with the same entries", () => {
  const [p, q] = [pendingOf(2), pendingOf(3)];
  const share = new SharedMessages([entryOf(1)], undefined);
  const [withP, withQ] = [share.and(p), share.and(q)];
  assertStrictEquals(share.and(p), withP);
  assertStrictEquals(share.and(q), withQ);
  assertStrictEquals(withP.frames(true), share.and(p).frames(true));
  assertEquals(withP.entries.map(({ sequence }) => sequence), [1, 2]);
  assertEquals(withQ.entries.map(({ sequence }) => sequence), [1, 3]);
});

Deno.test("SharedMessages.frames() packs once for each kind of connection", () => {
  const share = new SharedMessages([entryOf(1), entryOf(2)], undefined);
  assertEquals(share.frames(true).map(({ frame }) => frame), ["1\n2"]);
  assertEquals(share.frames(false).map(({ frame }) => frame), ["1", "2"]);
  assertStrictEquals(share.frames(true), share.frames(true));
  assertStrictEquals(share.frames(false), share.frames(false));
});

Deno.test("SharedMessages.entriesFor() leaves out excluded entries of a queue, also after a merge", () => {
  const [one, two] = [bench().queue, bench().queue];
  const [first, second] = [entryOf(1), entryOf(2)];
  const share = new SharedMessages([first], new Map([[first, one]])).and({
    entries: [second],
    exceptions: new Map([[second, two]]),
    members: [],
  });
  assertEquals(share.entriesFor(one), [second]);
  assertEquals(share.entriesFor(two), [first]);
  const { queue: three } = bench();
  assertEquals([one, two, three].map((queue) => share.excepts(queue)), [true, true, false]);
});

Deno.test("SharedMessages.giveTo() merges shared entries into the queue's own, in order", () => {
  const { frames, queue, entry } = bench();
  const [a, b, c, d] = ["a", "b", "c", "d"].map((text) => entry(text));
  queue.push(a!);
  queue.push(c!);
  new SharedMessages([b!, d!], undefined).giveTo(queue);
  assertEquals(frames.sent, ["a\nb\nc\nd"]);
});

Deno.test("SharedMessages.giveTo() leaves out excluded entries of its queue", () => {
  const [one, two] = [bench(), bench()];
  const [a, b] = ["a", "b"].map((text) => one.entry(text));
  const share = new SharedMessages([a!, b!], new Map([[a!, one.queue]]));
  for (const { queue } of [one, two]) share.giveTo(queue);
  assertEquals([one.frames.sent, two.frames.sent], [["b"], ["a\nb"]]);
  const none = new SharedMessages([a!], new Map([[a!, one.queue]]));
  none.giveTo(one.queue);
  assertEquals(one.frames.sent, ["b"]);
});

Deno.test("SharedMessages.giveTo() sends the shared frame to a queue without exceptions", () => {
  const [one, two] = [bench(), bench()];
  const [a, b] = ["a", "b"].map((text) => one.entry(text));
  const share = new SharedMessages([a!, b!], new Map([[a!, one.queue]]));
  const packed = share.frames(true);
  // The packed frame shows that the entries were not packed again.
  (packed[0] as { frame: Frame }).frame = "packed once";
  share.giveTo(two.queue);
  assertEquals(two.frames.sent, ["packed once"]);
});

Deno.test("SharedMessages.giveTo() does not overflow while the connection accepts all entries", () => {
  for (const own of [false, true]) {
    const { frames, flusher, queue, entry, overflows } = bench({ maxMessages: 4 });
    if (own) queue.push(entry("own"));
    const entries = Array.from({ length: 100 }, (_, i) => entry(`${i}`));
    new SharedMessages(entries, undefined).giveTo(queue);
    flusher.flush();
    const expected = entries.map(({ frame }) => frame as string);
    assertEquals(frames.take(), own ? ["own", ...expected] : expected);
    assertEquals(overflows, []);
  }
});

Deno.test("SharedMessages.giveTo() queues entries that the connection does not accept", async () => {
  const { frames, flusher, queue, entry } = bench();
  frames.isStalled = true;
  const entries = ["a", "b", "c"].map((text) => entry(text.repeat(HIGH_WATER_MARK)));
  new SharedMessages(entries, undefined).giveTo(queue);
  assertEquals(frames.sent.splice(0).length, 1);
  assertEquals(queue.stats.queuedMessages, 2);
  await frames.drain();
  flusher.flush();
  assertEquals(frames.take().map((text) => text[0]), ["b", "c"]);
});

Deno.test("SharedMessages.giveTo() reports a full queue, then adds nothing that would hide a gap", () => {
  const { frames, queue, overflows, entry, hold } = bench({ maxMessages: 2 });
  hold();
  const entries = ["a", "b", "c"].map((text) => entry(text));
  new SharedMessages(entries, undefined).giveTo(queue);
  assert(queue.isOver);
  new SharedMessages([entry("d")], undefined).giveTo(queue);
  assertEquals([queue.stats.queuedMessages, overflows], [2, []]);
  assertThrows(() => queue.push(entry("e")), QueueFullError);
  assertInstanceOf(overflows[0], QueueFullError);
  assertEquals(frames.sent, []);
});

Deno.test("SharedMessages.giveTo() keeps notices when it orders the turn", async () => {
  const { frames, flusher, queue, entry, push, hold } = bench({
    maxMessages: 2,
    policy: "drop-newest",
  });
  hold();
  // Published first, but passed on last, by the flush.
  const published = entry("p");
  push("a", "b", "c");
  new SharedMessages([published], undefined).giveTo(queue);
  assertEquals(queue.stats.droppedMessages, 2);
  await frames.drain();
  flusher.flush();
  assertEquals(frames.take(), ["p", "a", '{"dropped":2}']);
});
