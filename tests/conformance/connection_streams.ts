/**
 * Conformance tests of streams, or of their absence.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { ConnectionError, StreamError, UnsupportedError } from "../../errors.ts";
import type { BidirectionalStream } from "../../transport/connection.ts";
import {
  directStream,
  openUnidirectional,
  receiveBidirectional,
  receiveUnidirectional,
} from "../../transport/direct.ts";
import {
  type ConnectionPair,
  type ConnectionTest,
  type ConnectionTraits,
  next,
  readAll,
  writeAll,
} from "./pair.ts";
import { soon } from "../waiting.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/**
 * Opens a stream at `a` and accepts it at `b`. On every transport, the first byte announces the
 * stream.
 */
async function openPair(
  { a, b }: ConnectionPair,
): Promise<{ near: BidirectionalStream; far: BidirectionalStream }> {
  const near = await soon(a.createBidirectionalStream());
  const writer = near.writable.getWriter();
  await soon(writer.write(Uint8Array.of(1)));
  writer.releaseLock();
  const far = await next(b.incomingBidirectionalStreams);
  assertEquals(await next(far.readable), Uint8Array.of(1));
  return { near, far };
}

/**
 * Registers the tests of transports with streams.
 *
 * @param test Registers one test.
 * @param traits Features of the implementation.
 */
export function testStreams(test: ConnectionTest, traits: ConnectionTraits): void {
  test("echoes over bidirectional streams that either side opens", async ({ a, b }) => {
    for (const [from, to] of [[a, b], [b, a]] as const) {
      const near = await soon(from.createBidirectionalStream());
      await writeAll(near.writable, encoder.encode("hello"));
      const far = await next(to.incomingBidirectionalStreams);
      await writeAll(far.writable, await readAll(far.readable));
      assertEquals(decoder.decode(await readAll(near.readable)), "hello");
    }
  });

  test("ends each direction of a stream independently", async ({ a, b }) => {
    const near = await soon(a.createBidirectionalStream());
    await writeAll(near.writable, encoder.encode("question"));
    const far = await next(b.incomingBidirectionalStreams);
    assertEquals(decoder.decode(await readAll(far.readable)), "question");
    const writer = far.writable.getWriter();
    for (const word of ["an", "swer"]) await soon(writer.write(encoder.encode(word)));
    await soon(writer.close());
    assertEquals(decoder.decode(await readAll(near.readable)), "answer");
  });

  test("carries unidirectional streams that either side opens", async ({ a, b }) => {
    for (const [from, to] of [[a, b], [b, a]] as const) {
      await writeAll(await soon(from.createUnidirectionalStream()), encoder.encode("one way"));
      const incoming = await next(to.incomingUnidirectionalStreams);
      assertEquals(decoder.decode(await readAll(incoming)), "one way");
    }
  });

  test("carries an empty stream", async ({ a, b }) => {
    const stream = await soon(a.createUnidirectionalStream());
    await soon(stream.close());
    assertEquals((await readAll(await next(b.incomingUnidirectionalStreams))).byteLength, 0);
  });

  test("opens 150 streams sequentially", async ({ a, b }) => {
    // Opens more than the 128 streams that any transport grants at first.
    for (let i = 0; i < 150; i++) {
      const near = await soon(a.createBidirectionalStream());
      await writeAll(near.writable, Uint8Array.of(i));
      const far = await next(b.incomingBidirectionalStreams);
      assertEquals(await readAll(far.readable), Uint8Array.of(i));
      await soon(far.writable.close());
      assertEquals((await readAll(near.readable)).byteLength, 0);
    }
  });

  test("keeps the data of fifty streams apart", async ({ a, b }) => {
    const echo = async () => {
      for (let i = 0; i < 50; i++) {
        const { readable, writable } = await next(b.incomingBidirectionalStreams);
        readable.pipeTo(writable).catch(() => {});
      }
    };
    const ask = async (text: string) => {
      const { readable, writable } = await soon(a.createBidirectionalStream());
      await writeAll(writable, encoder.encode(text));
      return decoder.decode(await readAll(readable));
    };
    const questions = Array.from({ length: 50 }, (_, i) => `stream ${i}`);
    const [answers] = await Promise.all([Promise.all(questions.map(ask)), echo()]);
    assertEquals(answers, questions);
  });

  test("holds back a writer whose peer does not read", async ({ a, b }) => {
    // Deno's QUIC alone buffers 10 MiB of unsent data.
    const CHUNKS = traits.independentStreams ? 256 : 64;
    const writable = await soon(a.createUnidirectionalStream());
    const writer = writable.getWriter();
    let written = 0;
    const writing = (async () => {
      for (; written < CHUNKS; written++) {
        await writer.write(new Uint8Array(64 * 1024).fill(written));
      }
      await writer.close();
    })();
    const incoming = await next(b.incomingUnidirectionalStreams);
    await delay(100);
    assert(written < CHUNKS, `${CHUNKS / 16} MiB were accepted although no one read`);
    const bytes = await readAll(incoming);
    await soon(writing);
    assertEquals(bytes.byteLength, CHUNKS * 64 * 1024);
    for (let i = 0; i < CHUNKS; i++) assertEquals(bytes[i * 64 * 1024 + 7], i & 255);
  });

  test("copies the bytes of a write", async ({ a, b }) => {
    const writer = (await soon(a.createUnidirectionalStream())).getWriter();
    const bytes = encoder.encode("mine");
    await soon(writer.write(bytes));
    bytes.fill(0);
    await soon(writer.close());
    const incoming = await next(b.incomingUnidirectionalStreams);
    assertEquals(decoder.decode(await readAll(incoming)), "mine");
  });

  test("notifies the reader when the writer aborts", async (pair) => {
    const { near, far } = await openPair(pair);
    const reading = readAll(far.readable);
    await soon(near.writable.abort({ streamErrorCode: 7 }));
    if (!traits.resetCodes) return void await reading.catch(() => {});
    const error = await assertRejects(() => reading, StreamError);
    assertEquals({ code: error.streamErrorCode, by: error.by }, { code: 7, by: "remote" });
  });

  test("notifies the writer when the reader cancels", async (pair) => {
    const { near, far } = await openPair(pair);
    const writer = near.writable.getWriter();
    await soon(far.readable.cancel({ streamErrorCode: 9 }));
    // A transport without reset codes may notice the stop only when it writes.
    const writing = async () => {
      for (; !traits.resetCodes; await delay(1)) await writer.write(Uint8Array.of(1));
      await writer.closed;
    };
    const error = await assertRejects(() => soon(writing()), StreamError);
    assertEquals(error.by, "remote");
    if (traits.resetCodes) assertEquals(error.streamErrorCode, 9);
  });

  test("fails open streams and ends the incoming streams on close", async (pair) => {
    const { near, far } = await openPair(pair);
    const reads = [near, far].map(({ readable }) => readable.getReader().read());
    const writes = [near, far].map(({ writable }) => writable.getWriter().closed);
    pair.a.close();
    for (const open of [...reads, ...writes]) await assertRejects(() => soon<unknown>(open));
    for (const end of [pair.a, pair.b]) {
      assertEquals(await soon(Array.fromAsync(end.incomingBidirectionalStreams)), []);
      assertEquals(await soon(Array.fromAsync(end.incomingUnidirectionalStreams)), []);
    }
  });

  test("fails all pending writes and closes of streams on both sides when one side closes", async ({ a, b }) => {
    // Deno's QUIC alone buffers 10 MiB of unsent data.
    const chunks = traits.independentStreams ? 256 : 64;
    const waiting: Promise<unknown>[] = [];
    for (const [from, to] of [[a, b], [b, a]] as const) {
      const writer = (await soon(from.createUnidirectionalStream())).getWriter();
      writer.closed.catch(() => {});
      const writes = Array.from({ length: chunks }, () => writer.write(new Uint8Array(64 * 1024)));
      void Promise.allSettled(writes);
      await next(to.incomingUnidirectionalStreams);
      const direct = await soon(openUnidirectional(from));
      const plain = direct.write(new Uint8Array(chunks * 64 * 1024));
      waiting.push(writes.at(-1)!, writer.close(), plain, direct.close());
    }
    const outcomes = Promise.allSettled(waiting);
    b.close();
    const states = (await soon(outcomes)).map(({ status }) => status);
    assertEquals(states, waiting.map(() => "rejected"));
  });

  test("accepts every form of sendOrder, and sends streams by it where supported", async ({ a }) => {
    const stream = await soon(a.createUnidirectionalStream({ sendOrder: 7 }));
    const direct = directStream(stream);
    if (stream.sendOrder === undefined) return assertEquals(direct.sendOrder, undefined);
    assertEquals([stream.sendOrder, direct.sendOrder], [7, 7]);
    stream.sendOrder = -2;
    assertEquals([stream.sendOrder, direct.sendOrder], [-2, -2]);
    direct.sendOrder = 3;
    assertEquals([stream.sendOrder, direct.sendOrder], [3, 3]);
    const both = directStream(await soon(a.createBidirectionalStream({ sendOrder: 5 })));
    assertEquals(both.sendOrder, 5);
  });

  test("carries unidirectional streams by direct calls, from either side", async ({ a, b }) => {
    for (const [from, to] of [[a, b], [b, a]] as const) {
      const got: number[][] = [];
      const { promise: done, resolve } = Promise.withResolvers<void>();
      receiveUnidirectional(to, async (stream) => {
        const bytes: number[] = [];
        for (let part; (part = await stream.read()) !== null;) bytes.push(...part);
        if (got.push(bytes) === 20) resolve();
      });
      for (let i = 0; i < 20; i++) {
        const stream = await soon(openUnidirectional(from));
        await stream.write(Uint8Array.of(i, 7));
        await stream.close();
      }
      await soon(done);
      const sorted = got.sort(([x], [y]) => x! - y!);
      assertEquals(sorted, Array.from({ length: 20 }, (_, i) => [i, 7]));
    }
  });

  test("echoes over bidirectional streams by direct calls, from either side", async ({ a, b }) => {
    for (const [from, to] of [[a, b], [b, a]] as const) {
      const early = directStream(await soon(from.createBidirectionalStream()));
      await early.write(Uint8Array.of(0));
      receiveBidirectional(to, async (stream) => {
        for (let part; (part = await stream.read()) !== null;) {
          await stream.write(part.map((byte) => byte + 1));
        }
        await stream.close();
      });
      const late = directStream(await soon(from.createBidirectionalStream()));
      await late.write(Uint8Array.of(7));
      for (const [stream, answer] of [[late, 8], [early, 1]] as const) {
        await stream.close();
        assertEquals(await soon(stream.read()), Uint8Array.of(answer));
        assertEquals(await soon(stream.read()), null);
      }
    }
  });

  test("opens no stream after the close", async ({ a, b }) => {
    a.close();
    await soon(Promise.all([a.closed, b.closed]));
    for (const end of [a, b]) {
      await assertRejects(() => end.createBidirectionalStream(), ConnectionError);
      await assertRejects(() => end.createUnidirectionalStream(), ConnectionError);
    }
  });

  test("opens no stream if the signal is aborted", async ({ a }) => {
    const cause = new Error("changed my mind");
    const signal = AbortSignal.abort(cause);
    for (
      const open of [
        () => a.createBidirectionalStream({ signal }),
        () => a.createUnidirectionalStream({ signal }),
      ]
    ) {
      assertEquals(await assertRejects(() => soon<unknown>(open())), cause);
    }
  });
}

/**
 * Registers the tests of transports without streams.
 *
 * @param test Registers one test.
 */
export function testNoStreams(test: ConnectionTest): void {
  test("rejects streams", async ({ a, b }) => {
    for (const end of [a, b]) {
      await assertRejects(() => end.createBidirectionalStream(), UnsupportedError);
      await assertRejects(() => end.createUnidirectionalStream(), UnsupportedError);
      // Locks both at the same time, because they must be different streams.
      const bidirectional = end.incomingBidirectionalStreams.getReader();
      const unidirectional = end.incomingUnidirectionalStreams.getReader();
      assertEquals((await soon(bidirectional.read())).done, true);
      assertEquals((await soon(unidirectional.read())).done, true);
    }
  });
}
