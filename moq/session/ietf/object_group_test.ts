import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../../base/runtime.ts";
import { ProtocolError, StreamError } from "../../../errors.ts";
import { turns } from "../../../tests/waiting.ts";
import { ObjectReader } from "../../wire/ietf/subgroup.ts";
import { LEADING_INTEGERS } from "../../wire/integers.ts";
import { MessageReader, TruncatedError } from "../../wire/message_reader.ts";
import { MAX_SUBGROUPS, OBJECT_WAIT_MS, ObjectGroup } from "./object_group.ts";

/** A data stream that the test writes. */
class HandData {
  readonly reader: MessageReader;
  #items: (Uint8Array | Error | null)[] = [];
  #wake: (() => void) | undefined = undefined;
  isCancelled = false;

  constructor() {
    this.reader = new MessageReader({
      read: async () => {
        while (this.#items.length === 0) await new Promise<void>((wake) => this.#wake = wake);
        const item = this.#items.shift()!;
        if (item instanceof Error) throw item;
        return item;
      },
      cancel: () => void (this.isCancelled = true),
    }, LEADING_INTEGERS);
  }

  /** The number of pieces that were not read. */
  get unread(): number {
    return this.#items.length;
  }

  /** Adds bytes in hex, the end, or an error. */
  push(...items: readonly (string | Error | null)[]): void {
    const bytes = (item: string) => Uint8Array.fromHex(item.replaceAll(" ", ""));
    this.#items.push(...items.map((item) => typeof item === "string" ? bytes(item) : item));
    this.#wake?.();
  }
}

/** A group of the given streams, and what it reads. */
function hand({ marksEnds = false } = {}) {
  const violations: unknown[] = [];
  let ended = 0;
  const group = new ObjectGroup({
    runtime: platformRuntime(),
    cancelCode: 1,
    marksEnds: () => marksEnds,
    onOver: () => void ended++,
    onTrackEnd: () => {},
    onViolation: (error) => void violations.push(error),
  });
  const frames: string[] = [];
  const reading = { done: false, error: undefined as unknown };
  const add = (endsGroup = false) => {
    const data = new HandData();
    const objects = new ObjectReader(data.reader, false);
    return { data, isAdded: group.add(data.reader, { objects, first: undefined, endsGroup }) };
  };
  const read = async () => {
    try {
      for (let frame; (frame = await group.message(100)) !== undefined;) frames.push(frame.toHex());
    } catch (error) {
      reading.error = error;
    }
    reading.done = true;
  };
  return { group, add, read, frames, reading, violations, ended: () => ended };
}

Deno.test("ObjectGroup merges subgroups by the numbers of their objects", async () => {
  using _time = new FakeTime();
  const { add, read, frames, reading, ended } = hand();
  const [even, odd] = [add().data, add().data];
  void read();
  odd.push("01 01 b1"); // Object 1.
  await turns();
  assertEquals(frames, []);
  even.push("00 01 a0 01 01 a2"); // Objects 0 and 2.
  odd.push("01 01 b3", "00 00 03"); // Object 3, and the end of the group.
  await turns();
  assertEquals(frames, ["a0", "b1", "a2", "b3"]);
  assertEquals({ isDone: reading.done, ended: ended() }, { isDone: true, ended: 1 });
  assertEquals(even.isCancelled, true);
});

Deno.test("ObjectGroup waits for a missing object, and continues with the next one", async () => {
  using time = new FakeTime();
  const { add, read, frames } = hand();
  add().data.push("00 01 a0 01 01 a2"); // Object 1 is missing.
  void read();
  await time.tickAsync(OBJECT_WAIT_MS - 1);
  assertEquals(frames, ["a0"]);
  await time.tickAsync(1);
  await turns();
  assertEquals(frames, ["a0", "a2"]);
});

Deno.test("ObjectGroup reads nothing after an object that has to wait", async () => {
  using time = new FakeTime();
  const { add, read, frames } = hand();
  const [odd, even] = [add().data, add().data];
  void read();
  odd.push("01 01 b1", "01 01 b3");
  even.push("02 01 b2", "01 01 b4");
  await turns();
  assertEquals([odd.unread, even.unread], [1, 1]);
  await time.tickAsync(OBJECT_WAIT_MS);
  await turns();
  assertEquals(frames, ["b1", "b2", "b3", "b4"]);
});

Deno.test("ObjectGroup delivers an object once if two subgroups have it, and fails", async () => {
  using time = new FakeTime();
  const { add, read, frames, reading } = hand();
  for (const data of [add().data, add().data]) data.push("00 01 a0", "00 01 a1", null);
  void read();
  await time.tickAsync(OBJECT_WAIT_MS);
  await turns();
  assertEquals(frames, ["a0", "a1"]);
  assertEquals(reading.error instanceof TruncatedError, true);
});

Deno.test("ObjectGroup ends after its last subgroup once a later group has begun, or after a while", async () => {
  for (const isSuperseded of [true, false]) {
    using time = new FakeTime();
    const { add, group, read, reading } = hand();
    add().data.push("00 01 a0", null);
    void read();
    await turns();
    assertEquals(reading.done, false);
    if (isSuperseded) group.supersede();
    else await time.tickAsync(OBJECT_WAIT_MS);
    await turns();
    assertEquals(reading, { done: true, error: undefined });
  }
});

Deno.test("ObjectGroup of a peer that marks complete groups fails without the mark", async () => {
  using _time = new FakeTime();
  const { add, group, read, frames, reading } = hand({ marksEnds: true });
  add().data.push("00 01 a0", null);
  void read();
  group.supersede();
  await turns();
  assertEquals(frames, ["a0"]);
  assertEquals(reading.error instanceof TruncatedError, true);
});

Deno.test("ObjectGroup fails at the gap that a reset subgroup leaves", async () => {
  using _time = new FakeTime();
  const { add, read, frames, reading } = hand();
  const reset = new StreamError("reset", { streamErrorCode: 5, by: "remote" });
  add().data.push("00 01 a0", reset);
  add().data.push("02 01 b2");
  void read();
  await turns();
  assertEquals(frames, ["a0"]);
  assertEquals(reading.error, reset);
});

Deno.test("ObjectGroup reports a malformed object, and rejects one that is too large", async () => {
  using _time = new FakeTime();
  const { add, read, violations } = hand();
  add().data.push("00 00 07"); // An unknown status.
  void read();
  await turns();
  assertEquals(violations.length, 1);
  const other = hand();
  other.add().data.push("00 80ff");
  await assertRejects(() => other.group.message(100), ProtocolError, "at most 100 bytes");
  other.group.cancel();
});

Deno.test("ObjectGroup has a maximum number of subgroups", () => {
  const { add, group } = hand();
  for (let at = 0; at < MAX_SUBGROUPS; at++) assertEquals(add().isAdded, true);
  assertEquals(add().isAdded, false);
  group.cancel();
  assertEquals(add().isAdded, false);
});
