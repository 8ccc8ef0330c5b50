import { assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { ProtocolError, StreamError } from "../../errors.ts";
import { MessageReader } from "../wire/message_reader.ts";
import { MoqError } from "../wire/errors.ts";
import { GroupReader } from "./group_reader.ts";

/** A group whose stream is the test: pieces in hex, then the end, or an error. */
function hand(
  pieces: readonly string[],
  options: { readonly timestamps?: boolean; readonly error?: unknown; readonly isOpen?: boolean } =
    {},
) {
  const did: string[] = [];
  const left = pieces.map((hex) => Uint8Array.fromHex(hex));
  const pending = Promise.withResolvers<null>();
  const stream = new MessageReader({
    read() {
      const bytes = left.shift();
      if (bytes !== undefined) return Promise.resolve(bytes);
      if (options.error !== undefined) return Promise.reject(options.error);
      return options.isOpen ? pending.promise : Promise.resolve(null);
    },
    cancel(reason) {
      did.push(`cancel ${(reason as { streamErrorCode: string }).streamErrorCode}`);
      pending.resolve(null);
    },
  });
  const group = new GroupReader(3, stream, {
    runtime: platformRuntime(),
    timestamps: options.timestamps ?? false,
    maxFrameBytes: 4,
    errorOf: (error) => error,
    codeOf: (reason) => reason as unknown as number,
    onEnd: () => did.push("end"),
  });
  return { group, did };
}

Deno.test("GroupReader yields frames for any chunk boundaries", async () => {
  for (const pieces of [["0101020202"], ["01", "0102", "02", "02"], ["0101", "020202"]]) {
    const { group, did } = hand(pieces);
    const frames = await Array.fromAsync(group);
    assertEquals(frames.map((frame) => frame.toHex()), ["01", "0202"]);
    assertEquals({ isEnded: group.isEnded, readFrame: await group.readFrame(), did }, {
      isEnded: true,
      readFrame: null,
      did: ["end"],
    });
  }
});

Deno.test("GroupReader.timestamp is the timestamp of the last read frame", async () => {
  const { group } = hand(["0a0101", "030102"], { timestamps: true });
  assertEquals([group.timestamp, group.takeFrame()], [undefined, undefined]);
  await group.readFrame();
  assertEquals(group.timestamp, 5);
  await group.readFrame();
  assertEquals([group.timestamp, await group.readFrame()], [3, null]);
});

Deno.test("GroupReader.takeFrame() takes a frame that has arrived", async () => {
  const { group } = hand(["0101010202"]);
  assertEquals(group.takeFrame(), undefined);
  await group.readFrame();
  assertEquals(group.takeFrame()?.toHex(), "02");
  assertEquals(group.takeFrame(), undefined);
});

Deno.test("GroupReader distinguishes an aborted group from a complete one", async () => {
  for (
    const [pieces, timestamps] of [[["0101", "0200"], false], [["000101", "000200"], true]] as const
  ) {
    const { group, did } = hand(pieces, { timestamps });
    await group.readFrame();
    const error = await assertRejects(() => group.readFrame(), MoqError);
    assertEquals({ reason: error.reason, by: error.by, did }, {
      reason: "publishAborted",
      by: "remote",
      did: ["end"],
    });
    await assertRejects(() => group.readFrame(), MoqError, "aborted");
  }
  const reset = new StreamError("reset", { streamErrorCode: 5, by: "remote" });
  const { group, did } = hand(["0101"], { error: reset });
  await group.readFrame();
  assertEquals(await assertRejects(() => group.readFrame()), reset);
  assertEquals(did, ["end"]);
});

Deno.test("GroupReader rejects a frame above maxFrameBytes", async () => {
  const { group, did } = hand(["05"]);
  await assertRejects(() => group.readFrame(), ProtocolError, "at most 4 bytes");
  assertEquals(did, ["end", "cancel frameTooLarge"]);
});

Deno.test("GroupReader loops that are left cancel the group, even while they wait", async () => {
  const one = hand(["0101", "0102"]);
  for await (const frame of one.group) {
    assertEquals(frame.toHex(), "01");
    break;
  }
  assertEquals(one.did, ["end", "cancel subscribeCancelled"]);
  const other = hand([], { isOpen: true });
  const loop = other.group[Symbol.asyncIterator]();
  const pending = loop.next();
  await loop.return!();
  assertEquals([(await pending).done, (await loop.next()).done], [true, true]);
  assertEquals(other.did, ["end", "cancel subscribeCancelled"]);
  other.group.cancel();
});

Deno.test("GroupReader.readFrame() rejects a concurrent read, and splits no frame", async () => {
  for (const timestamps of [false, true]) {
    const frame = timestamps ? ["02", "02", "01", "02"] : ["02", "01", "02"];
    const { group } = hand([...frame, ...frame], { timestamps });
    const first = group.readFrame();
    assertEquals(group.takeFrame(), undefined);
    await assertRejects(() => group.readFrame(), TypeError, "another read");
    await assertRejects(() => group[Symbol.asyncIterator]().next(), TypeError, "another read");
    // A cancelled read does not count as another read.
    assertEquals((await first)?.toHex(), "0102");
    const controller = new AbortController();
    const given = group.readFrame({ signal: controller.signal });
    const beside = group.readFrame({ signal: controller.signal });
    await assertRejects(() => beside, TypeError, "another read");
    controller.abort(new Error("enough"));
    await assertRejects(() => given, Error, "enough");
    const second = group.readFrame();
    await assertRejects(() => group.readFrame(), TypeError, "another read");
    assertEquals((await second)?.toHex(), "0102");
    assertEquals(await group.readFrame(), null);
  }
});

Deno.test("GroupReader rejects timestamps that no track can have", async () => {
  // One below 0, and far above 2^53 - 1.
  for (
    const hex of ["010101", "ffffffffffffffff0101", "ffdffffffffffffc0101ffdffffffffffffc0101"]
  ) {
    const { group, did } = hand([hex], { timestamps: true });
    const error = await assertRejects(() => Array.fromAsync(group), MoqError);
    assertEquals([error.scope, error.reason], ["group", "timestampMismatch"], hex);
    assertEquals(did, ["end", "cancel timestampMismatch"]);
  }
  const { group } = hand(["140101", "030101", "0f0101"], { timestamps: true });
  const seen: unknown[] = [];
  for await (const _ of group) seen.push(group.timestamp);
  // Timestamps may go backwards.
  assertEquals(seen, [10, 8, 0]);
});
