/**
 * Conformance tests of message frames.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { delay } from "@std/async/delay";
import { CloseCode } from "../../errors.ts";
import { MAX_HELD_FRAMES } from "../../transport/frame_inbox.ts";
import { type ConnectionTest, type ConnectionTraits, FrameLog, framesOf } from "./pair.ts";
import { soon } from "../waiting.ts";

/**
 * Registers the tests of transports with frames.
 *
 * @param test Registers one test.
 * @param traits Features of the implementation.
 */
export function testFrames(test: ConnectionTest, traits: ConnectionTraits): void {
  const { binaryHead = [] } = traits;
  const binary = (...bytes: number[]) => Uint8Array.of(...binaryHead, ...bytes);

  test("delivers text and binary frames in order, in both directions", async ({ a, b }) => {
    const sent = ["one", binary(1, 2, 3), "zwölf 𝄞", "", binary(), binary(0, 255), "last"];
    for (const [from, to] of [[a, b], [b, a]] as const) {
      const log = new FrameLog(to);
      for (const frame of sent) framesOf(from).send(frame);
      assertEquals(await log.reach(sent.length), sent);
    }
  });

  test("delivers a thousand frames in order while both sides send", async ({ a, b }) => {
    const logs = [new FrameLog(a), new FrameLog(b)];
    for (let i = 0; i < 1000; i++) {
      framesOf(a).send(`${i}`);
      framesOf(b).send(`${i}`);
      if (i % 100 === 0) await Promise.resolve();
    }
    const expected = Array.from({ length: 1000 }, (_, i) => `${i}`);
    for (const log of logs) assertEquals(await log.reach(1000), expected);
  });

  test("delivers a frame of 1 MiB whole", async ({ a, b }) => {
    const bytes = new Uint8Array(1024 * 1024);
    bytes.set(binaryHead);
    for (let i = binaryHead.length; i < bytes.length; i++) bytes[i] = i * 31;
    const text = "ab𝄞".repeat(1024 * 1024 / 6);
    const log = new FrameLog(b);
    framesOf(a).send(bytes);
    framesOf(a).send(text);
    const [first, second] = await log.reach(2);
    assertEquals(first, bytes);
    assert(second === text);
  });

  test("holds the frames that arrive before the receiver is set", async ({ a, b }) => {
    framesOf(a).send("early 1");
    framesOf(a).send(binary(2));
    await delay(20);
    const log = new FrameLog(b);
    framesOf(a).send("late 3");
    assertEquals(await log.reach(3), ["early 1", binary(2), "late 3"]);
  });

  test("delivers held frames even after the peer has closed", async ({ a, b }) => {
    framesOf(b).send("early 1");
    framesOf(b).send("early 2");
    b.close();
    await soon(a.closed);
    assertEquals(new FrameLog(a).frames, ["early 1", "early 2"]);
  });

  test("closes if too many frames arrive before the receiver is set", async ({ a, b }) => {
    for (let i = 0; i <= MAX_HELD_FRAMES; i++) framesOf(a).send("x");
    for (const end of [a, b]) {
      assertEquals((await soon(end.closed)).closeCode, CloseCode.queueFull);
    }
  });

  test("rejects a second receiver", ({ a }) => {
    framesOf(a).receive({ receiveFrame() {}, framesEnded() {} });
    assertThrows(() => framesOf(a).receive({ receiveFrame() {}, framesEnded() {} }), TypeError);
    return Promise.resolve();
  });

  test("counts the buffered bytes until it is drained", async ({ a, b }) => {
    const frames = framesOf(a);
    const log = new FrameLog(b);
    assertEquals(frames.bufferedAmount, 0);
    await soon(frames.drained());
    const chunk = new Uint8Array(64 * 1024);
    chunk.set(binaryHead);
    for (let i = 0; i < 128; i++) frames.send(chunk);
    assert(frames.bufferedAmount > frames.lowWaterMark);
    await soon(frames.drained());
    assert(frames.bufferedAmount <= frames.lowWaterMark);
    assertEquals((await log.reach(128)).length, 128);
  });

  test("resolves drained when the connection closes", async ({ a, b }) => {
    const frames = framesOf(a);
    const chunk = new Uint8Array(64 * 1024);
    chunk.set(binaryHead);
    framesOf(b).receive({ receiveFrame() {}, framesEnded() {} });
    for (let i = 0; i < 32; i++) frames.send(chunk);
    const waiting = frames.drained();
    a.close();
    await soon(waiting);
    await soon(frames.drained());
  });

  test("delivers frames that were sent before the close", async ({ a, b }) => {
    for (const [from, to] of [[a, b]] as const) {
      const log = new FrameLog(to);
      const text = "x".repeat(10_000);
      for (let i = 0; i < 100; i++) framesOf(from).send(`${i} ${text}`);
      from.close({ closeCode: 3000 });
      assertEquals((await soon(to.closed)).closeCode, 3000);
      assertEquals(log.frames.length, 100);
      assertEquals(log.frames.at(-1), `99 ${text}`);
    }
  });

  test("sends nothing and throws nothing after the close", async ({ a, b }) => {
    const log = new FrameLog(b);
    framesOf(a).send("before");
    a.close();
    framesOf(a).send("after");
    await soon(a.closed);
    await soon(b.closed);
    for (const end of [a, b]) framesOf(end).send("after");
    assertEquals(log.frames, ["before"]);
  });

  test("counts frames and bytes in its statistics", async ({ a, b }) => {
    const log = new FrameLog(b);
    const before = { a: await a.getStats(), b: await b.getStats() };
    framesOf(a).send("four");
    framesOf(a).send(binary(1, 2, 3));
    await log.reach(2);
    const after = { a: await a.getStats(), b: await b.getStats() };
    // A counter that the transport cannot know is absent.
    const grew = (from: number | undefined, to: number | undefined, atLeast: number) =>
      assert(to === undefined || to - (from ?? 0) >= atLeast, `${from} to ${to}`);
    grew(before.a.framesSent, after.a.framesSent, 2);
    grew(before.b.framesReceived, after.b.framesReceived, 2);
    grew(before.a.bytesSent, after.a.bytesSent, 7);
    grew(before.b.bytesReceived, after.b.bytesReceived, 7);
  });
}
