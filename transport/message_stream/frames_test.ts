import { assert, assertEquals, assertThrows, equal } from "@std/assert";
import fc from "fast-check";
import { FrameQueue, MAX_WRITE_BYTES, StreamFrameParser } from "./frames.ts";
import type { Frame } from "../connection.ts";

/** Returns all waiting bytes of a queue. */
function drain(queue: FrameQueue): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let bytes; (bytes = queue.next()) !== undefined;) {
    pieces.push(bytes.slice());
    queue.confirm();
  }
  return pieces;
}

function encode(...frames: Frame[]): Uint8Array {
  const queue = new FrameQueue();
  for (const frame of frames) queue.add(frame);
  return new Uint8Array(drain(queue).flatMap((piece) => [...piece]));
}

/**
 * Returns the frames that a parser finds in chunks, in order, together with `end` and rejections.
 */
function parse(chunks: Iterable<Uint8Array>, maxFrameBytes = 1 << 20): unknown[] {
  const found: unknown[] = [];
  const parser = new StreamFrameParser({
    onFrame: (frame) => found.push(frame),
    onEnd: () => found.push("end"),
    onRejected: (code, reason) => found.push({ code, reason }),
  }, maxFrameBytes);
  for (const chunk of chunks) parser.push(chunk.slice());
  return found;
}

/** Cuts bytes into chunks of these sizes, which are used in turn. */
function* cut(bytes: Uint8Array, ...sizes: readonly number[]): Generator<Uint8Array> {
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    yield bytes.slice(at, at += sizes[turn % sizes.length]!);
  }
}

function binary(length: number): Uint8Array {
  const frame = new Uint8Array(length + 2).map((_, i) => i * 7);
  frame.set([0x40, 0x53]);
  return frame;
}

const SAMPLES: Frame[] = [
  "",
  "a",
  "é𝄞",
  "\uFEFF with a mark of its own",
  "x".repeat(63),
  "x".repeat(64),
  // This has few characters but more bytes, so the guess must be corrected.
  "é".repeat(40),
  "x".repeat(16_383),
  "x".repeat(16_384),
  "𝄞".repeat(5_000),
  binary(0),
  binary(61),
  binary(64),
  binary(16_383),
  binary(16_384),
  "last",
];

Deno.test("FrameQueue writes length, kind and body", () => {
  const cases: [Frame, string][] = [
    ["", "0000"],
    ["hi", "02006869"],
    ["é\n1", "0400c3a90a31"],
    [Uint8Array.of(0x40, 0x53), "0001"],
    [Uint8Array.of(0x40, 0x53, 1, 2, 255), "03010102ff"],
    ["x".repeat(64), "404000" + "78".repeat(64)],
    ["x".repeat(16_384), "8000400000" + "78".repeat(16_384)],
  ];
  for (const [frame, hex] of cases) assertEquals(encode(frame).toHex(), hex);
  const queue = new FrameQueue();
  queue.addEnd();
  assertEquals(drain(queue)[0]!.toHex(), "0002");
});

Deno.test("FrameQueue.add() rejects bytes without the mark of a binary message", () => {
  for (const bytes of [Uint8Array.of(), Uint8Array.of(0x40), Uint8Array.of(1, 2, 3)]) {
    const error = assertThrows(() => new FrameQueue().add(bytes), TypeError);
    assert(error.message.includes("must be a binary message, which begins with 40 53"));
  }
});

Deno.test("FrameQueue joins waiting frames, counts them, and splits large ones", () => {
  const queue = new FrameQueue();
  for (let i = 0; i < 1000; i++) queue.add("x".repeat(98));
  assertEquals(queue.bytes, 1000 * 101);
  assertEquals(drain(queue).map(({ length }) => length), [101_000]);
  assertEquals(queue.bytes, 0);
  queue.add("y".repeat(1_000_000));
  queue.add(binary(600_000));
  queue.add("z");
  const pieces = drain(queue);
  assert(pieces.every(({ length }) => length <= MAX_WRITE_BYTES + 16));
  assertEquals(pieces.reduce((sum, { length }) => sum + length, 0), 1_000_005 + 600_005 + 3);
  assertEquals(queue.bytes, 0);
});

Deno.test("FrameQueue does not change frames during their write", () => {
  const queue = new FrameQueue();
  for (let round = 0; round < 10; round++) {
    const text = `${round}`.repeat(300);
    queue.add(text);
    const bytes = queue.next()!;
    queue.add("other".repeat(100));
    assertEquals(parse([bytes]), [text]);
    queue.confirm();
    assertEquals(parse([queue.next()!]), ["other".repeat(100)]);
    queue.confirm();
  }
});

Deno.test("FrameQueue.add() encodes a frame for many queues once", () => {
  for (const frame of ["x".repeat(300), binary(400), "y".repeat(300_000), binary(300_000)]) {
    const parts = [{ frame, size: frame.length }];
    const [one, other, last] = [new FrameQueue(), new FrameQueue(), new FrameQueue()];
    for (const queue of [one, other]) queue.add(frame, parts);
    assert(one.next()!.buffer === other.next()!.buffer);
    // Neither the frames of a queue nor its next buffer change the shared bytes.
    last.add("before");
    last.add(frame, parts);
    last.add("after");
    const written = drain(last);
    assertEquals(written.length === 1, frame.length < 16_384);
    assertEquals(parse(written), ["before", frame, "after"]);
    one.add("after".repeat(100));
    for (const [queue, rest] of [[one, ["after".repeat(100)]], [other, []]] as const) {
      assertEquals(parse(drain(queue)), [frame, ...rest]);
      assertEquals(queue.bytes, 0);
    }
  }
});

Deno.test("FrameQueue.add() writes a frame for many queues and a later one together", () => {
  const frame = "x".repeat(300);
  const [one, other] = [new FrameQueue(), new FrameQueue()];
  const parts = [{ frame, size: 300 }];
  for (const queue of [one, other]) queue.add(frame, parts);
  one.add("after");
  assertEquals(drain(one).map((bytes) => parse([bytes])), [[frame, "after"]]);
  assertEquals(parse(drain(other)), [frame]);
});

Deno.test("FrameQueue.clear() removes waiting frames and frames being written", () => {
  const queue = new FrameQueue();
  queue.add("one");
  queue.next();
  queue.add("two");
  queue.clear();
  assertEquals(queue.bytes, 0);
  queue.confirm();
  assertEquals([queue.bytes, queue.next()], [0, undefined]);
});

Deno.test("FrameQueue and StreamFrameParser agree on frames, wherever the bytes are cut", () => {
  const text = fc.string({
    unit: fc.constantFrom("a", "é", "€", "𝄞", "\n", "\0"),
    maxLength: 200,
    size: "max",
  });
  const frame = fc.oneof(fc.constantFrom(...SAMPLES), text, fc.nat(200).map(binary));
  const size = fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 20_000 }));
  fc.assert(
    fc.property(
      fc.array(frame),
      fc.array(size, { minLength: 1 }),
      // `assertEquals()` would take seconds to report on long texts.
      (frames, sizes) => equal(parse(cut(encode(...frames), ...sizes)), frames),
    ),
    { seed: 7, examples: [[SAMPLES, [1]]] },
  );
});

Deno.test("StreamFrameParser gives each binary message its own buffer", () => {
  const [first, second] = parse([encode(binary(4), binary(5))]) as Uint8Array[];
  assertEquals([first!.buffer.byteLength, second!.buffer.byteLength], [6, 7]);
});

Deno.test("StreamFrameParser accepts a length in more bytes than needed", () => {
  for (const length of ["02", "4002", "80000002", "c000000000000002"]) {
    for (const [kind, frame] of [["00", "hi"], ["01", Uint8Array.of(0x40, 0x53, 0x68, 0x69)]]) {
      assertEquals(parse([Uint8Array.fromHex(`${length}${kind}6869`)]), [frame]);
    }
  }
});

Deno.test("StreamFrameParser stops at the end mark", () => {
  assertEquals(parse([Uint8Array.fromHex("0100610002010062")]), ["a", "end"]);
});

Deno.test("StreamFrameParser rejects invalid frames, and reads no further", () => {
  const cases: [string, number, string][] = [
    ["4401", 4413, "A frame has more than 1024 bytes"],
    ["c0ffffffffffffff", 4413, "A frame has more than 1024 bytes"],
    ["0003", 4400, "A frame has the unknown kind 3"],
    ["05ff", 4400, "A frame has the unknown kind 255"],
    ["0102", 4400, "An end mark has a body"],
    ["0200c328", 4400, "A text frame is not UTF-8"],
    ["0200ed41", 4400, "A text frame is not UTF-8"],
  ];
  for (const [hex, code, reason] of cases) {
    const bytes = Uint8Array.fromHex(`010061${hex}00010062`);
    assertEquals(parse([bytes], 1024), ["a", { code, reason }], hex);
    assertEquals(parse(cut(bytes, 1), 1024), ["a", { code, reason }], hex);
  }
  assertEquals(parse([encode("x".repeat(1024))], 1024).length, 1);
});
