import {
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { ConnectionError, StreamError } from "../../errors.ts";
import { ends } from "../../tests/sessions.ts";
import {
  accept,
  anything,
  byHand,
  bytesCodec,
  END_MARK,
  failureOf,
  framed,
  HandStream,
  joined,
  registry,
  type TestRegistry as R,
} from "../../tests/structured.ts";
import { structuredStream as open } from "./structured.ts";
import { soon, turns } from "../../tests/waiting.ts";

Deno.test("StructuredStream reads one chunk at a time, as its loop advances", async () => {
  const chunk = () => joined(framed(2, "a"), framed(2, "b"));
  const wire = new HandStream(chunk(), chunk(), chunk());
  const stream = await byHand(wire);
  await turns();
  assertEquals(wire.reads, 0);
  const loop = stream[Symbol.asyncIterator]();
  const reads: number[] = [];
  for (let n = 0; n < 5; n++) {
    await loop.next();
    await turns();
    reads.push(wire.reads);
  }
  assertEquals(reads, [1, 1, 2, 2, 3]);
});

Deno.test("StructuredStream returns messages in order to concurrent next() calls", async () => {
  const stream = await byHand(
    new HandStream(framed(2, "a"), framed(2, "b"), END_MARK.slice(), null),
  );
  const loop = stream[Symbol.asyncIterator]();
  const results = await Promise.all([loop.next(), loop.next(), loop.next()]);
  assertEquals(results.map(({ value }) => value?.data), ["a", "b", undefined]);
});

Deno.test("StructuredStream continues in another loop, and allows one at a time", async () => {
  const wire = new HandStream(joined(framed(2, "a"), framed(2, "b")), END_MARK.slice(), null);
  const stream = await byHand(wire);
  for await (const { data } of stream) {
    assertEquals(data, "a");
    await assertRejects(() => Array.fromAsync(stream), TypeError, "another loop reads it");
    break;
  }
  assertEquals(await Array.fromAsync(stream), [{ type: 2, data: "b" }]);
  assertEquals(await Array.fromAsync(stream), []);
  assertEquals([wire.cancelled, wire.aborted], [[], []]);
});

Deno.test("StructuredStream ends at the end mark, and releases the stream", async () => {
  const wire = new HandStream(joined(framed(2, "a"), END_MARK), null);
  const stream = await byHand(wire);
  assertEquals(await Array.fromAsync(stream), [{ type: 2, data: "a" }]);
  assertEquals([wire.incoming.length, wire.cancelled], [0, []]);
  await stream.close();
  await stream.closed;
  stream.abort(5);
  assertEquals([wire.cancelled, wire.aborted], [[], []]);

  const more = new HandStream(joined(END_MARK, framed(2, "b")), framed(2, "c"));
  assertEquals(await Array.fromAsync(await byHand(more)), []);
  await turns();
  assertEquals(more.cancelled.length, 1);
});

Deno.test("StructuredStream reports an end without the agreed mark as an abort", async () => {
  const cases: [incoming: Uint8Array[], where: string][] = [
    [[], "it ended without the end mark"],
    [[framed(2, "a")], "it ended without the end mark"],
    [[framed(2, "a").slice(0, 4)], "it ended after 4 of 6 bytes of a head without the end mark"],
    [[framed(2, "abc", 9)], "after 5 of 9 bytes of a message of type 2 without"],
  ];
  for (const [incoming, where] of cases) {
    const wire = new HandStream(...incoming, null);
    const error = await failureOf(await byHand(wire));
    assertInstanceOf(error, StreamError);
    assertEquals([error.by, error.streamErrorCode], ["remote", 0]);
    assertMatch(error.message, new RegExp(where));
    assertEquals([wire.cancelled, wire.aborted], [[0], [0]]);
  }
});

Deno.test("StructuredStream passes on a reset with its code", async () => {
  const reset = new StreamError("The peer reset it", { streamErrorCode: 9, by: "remote" });
  const wire = new HandStream(framed(2, "a"), reset);
  const stream = await byHand(wire);
  assertStrictEquals(await failureOf(stream), reset);
  assertStrictEquals(await failureOf(stream), reset);
  assertStrictEquals(await assertRejects(() => stream.closed), reset);
});

Deno.test("StructuredStream lets a codec keep the bytes", async () => {
  const wire = new HandStream(
    joined(framed(5, Uint8Array.of(1, 2)), framed(5, new Uint8Array())),
    joined(framed(5, Uint8Array.of(3)), END_MARK),
    null,
  );
  const read = wire.read.bind(wire);
  wire.read = (used?: Uint8Array | null) => {
    used?.fill(0xee); // As a connection that reuses the buffer.
    return read();
  };
  const stream = await byHand(wire, {
    registry: { 5: anything } as unknown as R,
    codec: bytesCodec,
  });
  const messages = await Array.fromAsync(stream);
  assertEquals(messages.map(({ data }) => [...data as unknown as Uint8Array]), [[1, 2], [], [3]]);
});

Deno.test("StructuredStream is closed by await using, which releases unread messages", async () => {
  const wire = new HandStream(framed(2, "a"), framed(2, "b"));
  const stream = await byHand(wire);
  {
    await using _ = stream;
    await stream.send(2, "bye");
    for await (const _ of stream) break;
  }
  assertEquals(wire.written.at(-1), END_MARK);
  assertEquals({ isClosed: wire.isClosed, cancelled: wire.cancelled, aborted: wire.aborted }, {
    isClosed: true,
    cancelled: [undefined],
    aborted: [],
  });
  await stream.closed;
  assertEquals(await Array.fromAsync(stream), []);
  await stream[Symbol.asyncDispose]();
});

Deno.test("StructuredStream ends a waiting loop when disposed, and fails it when aborted", async () => {
  const left = await byHand(new HandStream());
  const reading = Array.fromAsync(left);
  await turns();
  await left[Symbol.asyncDispose]();
  assertEquals(await soon(reading), []);

  const aborted = await byHand(new HandStream());
  const waiting = Array.fromAsync(aborted);
  await turns();
  aborted.abort(3);
  const error = await soon(assertRejects(() => waiting, StreamError));
  assertEquals([error.streamErrorCode, error.by], [3, "local"]);
  await aborted[Symbol.asyncDispose]();
});

Deno.test("StructuredStream.abort() accepts a 32-bit code", async () => {
  const wire = new HandStream();
  const stream = await byHand(wire);
  for (const code of [-1, 1.5, 2 ** 32, NaN]) {
    assertThrows(() => stream.abort(code), RangeError, `from 0 to 4294967295, received ${code}`);
  }
  stream.abort();
  assertEquals([wire.cancelled, wire.aborted], [[0], [0]]);
});

Deno.test("StructuredStream fails with the connection", async () => {
  await using pair = await ends();
  const near = await open(pair.client, { registry });
  await near.send(2, "a");
  const far = await accept(pair.server);
  const loop = far[Symbol.asyncIterator]();
  await soon(loop.next());
  const waiting = loop.next();
  pair.link.disconnect();
  await soon(assertRejects(() => waiting, ConnectionError));
  await assertRejects(() => far.closed, ConnectionError);
  await assertRejects(() => near.send(2, "b"), ConnectionError);
});
