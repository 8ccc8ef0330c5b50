import { assertEquals, assertThrows } from "@std/assert";
import { FrameInbox, MAX_HELD_BYTES, MAX_HELD_FRAMES } from "./frame_inbox.ts";
import type { Frame } from "./connection.ts";

Deno.test("FrameInbox.deliver() calls the receiver synchronously", () => {
  const inbox = new FrameInbox();
  const frames: Frame[] = [];
  inbox.receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
  assertEquals(inbox.deliver("now"), true);
  assertEquals(frames, ["now"]);
});

Deno.test("FrameInbox.receive() delivers the held frames in order", () => {
  const inbox = new FrameInbox();
  const frames: Frame[] = [];
  inbox.deliver("1");
  inbox.deliver(Uint8Array.of(2));
  inbox.receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
  inbox.deliver("3");
  assertEquals(frames, ["1", Uint8Array.of(2), "3"]);
});

Deno.test("FrameInbox.receive() keeps the order when a receiver causes deliveries", () => {
  const inbox = new FrameInbox();
  const frames: Frame[] = [];
  inbox.deliver("1");
  inbox.deliver("2");
  inbox.receive({
    framesEnded() {},
    receiveFrame: (frame) => {
      frames.push(frame);
      if (frame === "1") inbox.deliver("3");
    },
  });
  assertEquals(frames, ["1", "2", "3"]);
});

Deno.test("FrameInbox.receive() rejects a second receiver, even from within the first", () => {
  const inbox = new FrameInbox();
  inbox.deliver("1");
  inbox.receive({
    framesEnded() {},
    receiveFrame: () => {
      assertThrows(() => inbox.receive({ receiveFrame() {}, framesEnded() {} }), TypeError);
    },
  });
  assertThrows(
    () => inbox.receive({ receiveFrame() {}, framesEnded() {} }),
    TypeError,
    "Cannot receive frames: there is a receiver already",
  );
});

Deno.test("FrameInbox.deliver() rejects the first frame beyond the count limit", () => {
  const inbox = new FrameInbox();
  for (let i = 0; i < MAX_HELD_FRAMES; i++) assertEquals(inbox.deliver(""), true);
  assertEquals(inbox.deliver(""), false);
});

Deno.test("FrameInbox.deliver() rejects the first frame beyond the byte limit", () => {
  for (const half of ["x".repeat(MAX_HELD_BYTES / 2), new Uint8Array(MAX_HELD_BYTES / 2)]) {
    const inbox = new FrameInbox();
    assertEquals(inbox.deliver(half), true);
    assertEquals(inbox.deliver(half), true);
    assertEquals(inbox.deliver("x"), false);
  }
});

Deno.test("FrameInbox.deliver() holds one frame of any size", () => {
  const inbox = new FrameInbox();
  assertEquals(inbox.deliver(new Uint8Array(MAX_HELD_BYTES + 1)), true);
  assertEquals(inbox.deliver("x"), false);
});

Deno.test("FrameInbox.close() keeps held frames and loses later ones", () => {
  const inbox = new FrameInbox();
  const frames: Frame[] = [];
  inbox.deliver("held");
  inbox.close();
  assertEquals(inbox.deliver("lost"), true);
  inbox.receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
  inbox.deliver("lost");
  inbox.close();
  assertEquals(frames, ["held"]);
});
