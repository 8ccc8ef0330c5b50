import { assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { turns } from "../../tests/waiting.ts";
import type { DirectWritable } from "../../transport/connection.ts";
import { MoqError } from "../wire/errors.ts";
import { type FrameCodec, PLAIN_FRAMES, TIMED_FRAMES } from "../wire/frames.ts";
import { GROUP_HIGH_WATER_BYTES, GroupWriter } from "./group_writer.ts";
import { WriteBuffers } from "./frame_buffer.ts";

const HEAD = Uint8Array.of(0xaa);
const frame = (...bytes: number[]) => Uint8Array.from(bytes);

/** A group whose stream is the test. */
function hand(options: { readonly resets?: boolean; readonly frames?: FrameCodec } = {}) {
  const did: string[] = [];
  const ended: unknown[] = [];
  const group = new GroupWriter(7, HEAD, {
    runtime: platformRuntime(),
    frames: options.frames ?? PLAIN_FRAMES,
    resets: options.resets ?? true,
    buffers: new WriteBuffers(),
    errorOf: (error) => error,
    codeOf: (reason) => reason.length,
    onEnd: (_, error) => ended.push(error),
  });
  let held: PromiseWithResolvers<void> | undefined;
  const stream: DirectWritable & { sendOrder: number } = {
    sendOrder: 0,
    write: (bytes) => {
      did.push(bytes.toHex());
      return held?.promise ?? Promise.resolve();
    },
    close: () => {
      did.push("close");
      return held?.promise ?? Promise.resolve();
    },
    abort: (reason) => {
      did.push(`abort ${(reason as { streamErrorCode: number }).streamErrorCode}`);
      held?.reject(reason);
    },
  };
  const hold = () => void (held = Promise.withResolvers());
  const release = () => {
    held?.resolve();
    held = undefined;
  };
  return { group, stream, did, ended, hold, release };
}

Deno.test("GroupWriter sends the frames of one turn in one write, after its head", async () => {
  const { group, stream, did, ended } = hand();
  await group.writeFrame(frame(1));
  group.attach(stream);
  await turns();
  await group.writeFrame(frame(2, 3));
  await group.writeFrame(frame());
  await turns();
  await group.close();
  await group.close();
  assertEquals(did, ["aa0101", "02020300", "close"]);
  assertEquals(ended, [undefined]);
  assertEquals(group.isEnded, true);
  await assertRejects(() => group.writeFrame(frame(1)), TypeError, "closed");
});

Deno.test("GroupWriter.close() sends the end of the stream with the last frames", async () => {
  const { group, stream, did, hold, release } = hand();
  hold();
  await Promise.all([group.writeFrame(frame(1)), group.writeFrame(frame(2, 3))]);
  const closing = group.close();
  group.attach(stream);
  // The connection has not accepted the bytes yet.
  assertEquals(did, ["aa010102" + "0203", "close"]);
  release();
  await closing;
});

Deno.test("GroupWriter.writeFrame() creates no promise for a frame that has room", () => {
  const { group } = hand();
  const results = Array.from({ length: 10 }, () => group.writeFrame(frame(1)));
  assertEquals(new Set(results).size, 1);
});

Deno.test("GroupWriter writes timestamps as differences", async () => {
  const { group, stream, did } = hand({ frames: TIMED_FRAMES });
  await group.writeFrame(frame(1), { timestamp: 5 });
  await group.writeFrame(frame(2), { timestamp: 3 });
  await group.writeFrame(frame(3), { timestamp: 2 ** 52 - 1 });
  group.attach(stream);
  await group.close();
  assertEquals(did[0], "aa" + "0a0101" + "030102" + "c01ffffffffffff8" + "0103");
});

Deno.test("GroupWriter.writeFrame() rejects invalid frames, and stays usable", async () => {
  const { group, stream, did } = hand({ frames: TIMED_FRAMES });
  for (const timestamp of [-1, 1.5, NaN, 2 ** 52]) {
    await assertRejects(() => group.writeFrame(frame(1), { timestamp }), RangeError, "timestamp");
  }
  await assertRejects(() => group.writeFrame("text" as never), TypeError, "Uint8Array");
  await group.writeFrame(frame(1), { timestamp: 0 });
  group.attach(stream);
  await group.close();
  assertEquals(did, ["aa000101", "close"]);
});

Deno.test("GroupWriter.writeFrame() waits while the connection accepts nothing", async () => {
  const { group, stream, hold, release } = hand();
  hold();
  group.attach(stream);
  await group.writeFrame(new Uint8Array(10));
  await turns();
  let isDone = false;
  const writing = group.writeFrame(new Uint8Array(GROUP_HIGH_WATER_BYTES)).then(() =>
    isDone = true
  );
  await turns();
  assertEquals([isDone, group.bufferedBytes > GROUP_HIGH_WATER_BYTES], [false, true]);
  release();
  await writing;
  await group.close();
  assertEquals(group.bufferedBytes, 0);
});

Deno.test("GroupWriter.abort() resets the stream, or truncates its last frame if the transport has no resets", async () => {
  for (const frames of [PLAIN_FRAMES, TIMED_FRAMES]) {
    const torn = frames.isTimed ? "000200" : "0200";
    for (const resets of [true, false]) {
      for (const isBegun of [true, false]) {
        const { group, stream, did, ended } = hand({ resets, frames });
        if (isBegun) await group.writeFrame(frame(1), { timestamp: 0 });
        group.attach(stream);
        await turns();
        did.length = 0;
        group.abort("expired");
        group.abort();
        await turns();
        const expected = resets ? ["abort 7"] : [torn, "close"];
        assertEquals(did, expected, `${resets} ${isBegun}`);
        assertEquals(ended.length, 1);
        const error = await assertRejects(() => group.writeFrame(frame(1)), MoqError);
        assertEquals([error.reason, error.moqCode], ["expired", 7]);
        await assertRejects(() => group.close(), MoqError);
      }
    }
  }
});

Deno.test("GroupWriter that was aborted before it had a stream still ends that stream", async () => {
  for (const resets of [true, false]) {
    const { group, stream, did } = hand({ resets });
    await group.writeFrame(frame(1));
    group.abort("expired");
    group.attach(stream);
    await turns();
    assertEquals(did, resets ? ["abort 7"] : ["aa0200", "close"]);
  }
});

Deno.test("GroupWriter.abort() ends a group whose last bytes the connection does not accept", async () => {
  const { group, stream, did, hold, ended } = hand();
  group.attach(stream);
  await group.writeFrame(frame(1));
  await turns();
  hold();
  const closing = assertRejects(() => group.close(), MoqError, "was aborted");
  await turns();
  group.abort();
  await closing;
  await turns();
  assertEquals(did, ["aa", "0101", "close", "abort 14"]);
  assertEquals(ended.length, 1);
});

Deno.test("GroupWriter reports once that the subscriber left, even if no one reads the report", async () => {
  const { group, ended } = hand();
  const gone = new Error("The subscriber left");
  group.attach({
    write: () => Promise.reject(gone),
    close: () => Promise.reject(gone),
    abort() {},
  });
  const writing = assertRejects(() => group.writeFrame(new Uint8Array(GROUP_HIGH_WATER_BYTES)));
  assertEquals(await writing, gone);
  group.fail(new Error("Later"));
  await assertRejects(() => group.close(), Error, "The subscriber left");
  assertEquals(ended, [gone]);
});

Deno.test("GroupWriter.sendOrder is applied to a stream that opens later", () => {
  const { group, stream } = hand();
  group.sendOrder = 5;
  group.attach(stream);
  assertEquals(stream.sendOrder, 5);
  group.sendOrder = 9;
  assertEquals(stream.sendOrder, 9);
});

Deno.test("GroupWriter that is aborted at its end is released once the connection has released it", async () => {
  for (const resets of [true, false]) {
    const { group, stream, did, hold, release } = hand({ resets });
    let released = 0;
    // Without resets, a closed stream cannot end early.
    if (!resets) stream.abort = () => {};
    hold();
    group.pullFrom({
      isAtEnd: true,
      pull(into) {
        into.push(frame(1, 5));
        return 2;
      },
      released: () => void released++,
    });
    group.attach(stream);
    await turns();
    assertEquals(did, ["aa0105", "close"]);
    group.abort("expired");
    await assertRejects(() => group.closed, MoqError);
    assertEquals(released, resets ? 1 : 0);
    release();
    await turns();
    assertEquals(released, 1);
  }
});
