import { assertEquals } from "@std/assert";
import type { Frame } from "../connection.ts";
import { BackpressureBuffer, MAX_HELD_BYTES, MAX_HELD_FRAMES } from "./connection.ts";

/** Creates a receiver with a given fill level, and a connection that records its calls. */
function setUp() {
  const log: string[] = [];
  const frames: Frame[] = [];
  let changed = Promise.withResolvers<void>();
  const backpressure = { fill: 0, changed: () => changed.promise };
  const receiver = {
    backpressure,
    receiveFrame: (frame: Frame) => void frames.push(frame),
    framesEnded: () => void frames.push("end"),
  };
  const buffer = new BackpressureBuffer(receiver, {
    pause: () => void log.push("pause"),
    resume: () => void log.push("resume"),
    overflow: () => void log.push("overflow"),
  });
  const setFill = async (fill: number) => {
    backpressure.fill = fill;
    changed.resolve();
    changed = Promise.withResolvers();
    for (let i = 0; i < 5; i++) await Promise.resolve();
  };
  return { buffer, backpressure, frames, log, receiver, setFill };
}

Deno.test("BackpressureBuffer pauses the connection at a half, and resumes at a quarter", async () => {
  const { buffer, backpressure, frames, log, setFill } = setUp();
  buffer.receiveFrame("1");
  assertEquals([log, buffer.isPaused], [[], false]);
  backpressure.fill = 0.5;
  buffer.receiveFrame("2");
  buffer.receiveFrame("3");
  assertEquals({ log, isPaused: buffer.isPaused, frames }, {
    log: ["pause"],
    isPaused: true,
    frames: ["1", "2"],
  });
  await setFill(0.3);
  assertEquals([log, frames], [["pause"], ["1", "2"]]);
  await setFill(0.25);
  assertEquals([log, buffer.isPaused], [["pause", "resume"], false]);
  buffer.receiveFrame("4");
  assertEquals(frames, ["1", "2", "3", "4"]);
});

Deno.test("BackpressureBuffer passes on no more than fits, and keeps the order", async () => {
  const { buffer, backpressure, frames, log, receiver, setFill } = setUp();
  const { receiveFrame } = receiver;
  receiver.receiveFrame = (frame) => {
    receiveFrame(frame);
    backpressure.fill += 0.25;
  };
  for (const frame of ["1", "2", "3", "4", "5"]) buffer.receiveFrame(frame);
  assertEquals(frames, ["1", "2"]);
  await setFill(0);
  assertEquals([frames, log], [["1", "2", "3", "4"], ["pause"]]);
  await setFill(0);
  assertEquals([frames, log], [["1", "2", "3", "4", "5"], ["pause", "resume"]]);
});

Deno.test("BackpressureBuffer delivers held frames at the end, and then reports the last", async () => {
  const { buffer, backpressure, frames, log, setFill } = setUp();
  backpressure.fill = 1;
  for (const frame of ["1", "2", "3"]) buffer.receiveFrame(frame);
  buffer.framesEnded();
  assertEquals(frames, ["1", "2", "3", "end"]);
  await setFill(0);
  assertEquals([frames.length, log], [4, ["pause"]]);
});

Deno.test("BackpressureBuffer limits its frames by count, and all but the first by bytes", () => {
  for (
    const [first, frame, count] of [["", "", MAX_HELD_FRAMES - 1], [
      new Uint8Array(MAX_HELD_BYTES * 4),
      new Uint8Array(MAX_HELD_BYTES / 4),
      4,
    ]] as const
  ) {
    const { buffer, backpressure, log } = setUp();
    backpressure.fill = 1;
    buffer.receiveFrame("handed on");
    buffer.receiveFrame(first);
    for (let i = 0; i < count; i++) buffer.receiveFrame(frame);
    assertEquals(log, ["pause"]);
    buffer.receiveFrame("x");
    assertEquals(log, ["pause", "overflow"]);
  }
});
