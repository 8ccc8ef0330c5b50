/**
 * Conformance tests of the counters for streams and datagrams, and of events for observers.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import type {
  Connection,
  ConnectionCounters,
  ConnectionEvent,
  StreamDirection,
} from "../../transport/connection.ts";
import { NO_COUNTERS } from "../counters.ts";
import { soon, until } from "../waiting.ts";
import {
  type ConnectionPair,
  type ConnectionTest,
  type ConnectionTraits,
  FrameLog,
  framesOf,
  next,
  readAll,
  writeAll,
} from "./pair.ts";

/** Waits until an end has exactly these counters; missing counters must be 0. */
async function counts(end: Connection, expected: Partial<ConnectionCounters>): Promise<void> {
  const all = { ...NO_COUNTERS, ...expected };
  const names = Object.keys(NO_COUNTERS) as (keyof ConnectionCounters)[];
  const read = () => {
    const { counters } = end.inspect!;
    return Object.fromEntries(names.map((name) => [name, counters?.[name] ?? 0]));
  };
  try {
    await until(() => names.every((name) => read()[name] === all[name]));
  } catch {
    assertEquals(read(), { ...all });
  }
}

/** Sends five bytes and receives three over a bidirectional stream. */
async function ask(from: Connection, to: Connection): Promise<void> {
  const near = await soon(from.createBidirectionalStream());
  await writeAll(near.writable, new Uint8Array(5));
  const far = await next(to.incomingBidirectionalStreams);
  assertEquals((await readAll(far.readable)).byteLength, 5);
  await writeAll(far.writable, new Uint8Array(3));
  assertEquals((await readAll(near.readable)).byteLength, 3);
}

/** Sends seven bytes over a unidirectional stream. */
async function tell(from: Connection, to: Connection): Promise<void> {
  await writeAll(await soon(from.createUnidirectionalStream()), new Uint8Array(7));
  assertEquals((await readAll(await next(to.incomingUnidirectionalStreams))).byteLength, 7);
}

function observed(end: Connection): ConnectionEvent[] {
  const events: ConnectionEvent[] = [];
  end.inspect!.observe!((event) => void events.push(event));
  return events;
}

/** Opens a unidirectional stream at `a`, and accepts it at `b` after its first byte. */
async function openOneWay({ a, b }: ConnectionPair) {
  const near = (await soon(a.createUnidirectionalStream())).getWriter();
  near.closed.catch(() => {});
  await soon(near.write(Uint8Array.of(1)));
  const far = (await next(b.incomingUnidirectionalStreams)).getReader();
  assertEquals((await soon(far.read())).value?.byteLength, 1);
  return { near, far };
}

/** Writes until a write fails. */
async function writeOn(writer: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
  await soon(assertRejects(async () => {
    while (true) {
      await writer.write(Uint8Array.of(1));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }));
}

/**
 * Registers the tests of transports with streams.
 *
 * @param test Registers one test.
 * @param traits Features of the implementation.
 */
export function testCounters(test: ConnectionTest, traits: ConnectionTraits): void {
  test("has no counters before the first stream or datagram", async ({ a, b }) => {
    if (traits.frames) {
      const logs = [new FrameLog(a), new FrameLog(b)];
      framesOf(a).send("there");
      framesOf(b).send("back");
      for (const log of logs) await log.reach(1);
    }
    for (const end of [a, b]) {
      void end.datagrams.maxDatagramSize;
      assertEquals(end.inspect!.counters, undefined);
      end.inspect!.observe!(undefined);
      assertEquals(end.inspect!.counters, undefined);
    }
  });

  test("counts bidirectional streams and their bytes on both sides", async ({ a, b }) => {
    for (let i = 0; i < 3; i++) await ask(a, b);
    await ask(b, a);
    await counts(a, {
      localBidirectionalOpened: 3,
      remoteBidirectionalOpened: 1,
      streamBytesSent: 3 * 5 + 3,
      streamBytesReceived: 3 * 3 + 5,
      streamsClosed: 4,
      bidirectionalClosed: 4,
    });
    await counts(b, {
      localBidirectionalOpened: 1,
      remoteBidirectionalOpened: 3,
      streamBytesSent: 3 * 3 + 5,
      streamBytesReceived: 3 * 5 + 3,
      streamsClosed: 4,
      bidirectionalClosed: 4,
    });
  });

  test("counts unidirectional streams and their bytes on both sides", async ({ a, b }) => {
    for (let i = 0; i < 2; i++) await tell(a, b);
    await tell(b, a);
    await counts(a, {
      localUnidirectionalOpened: 2,
      remoteUnidirectionalOpened: 1,
      streamBytesSent: 2 * 7,
      streamBytesReceived: 7,
      streamsClosed: 3,
    });
    await counts(b, {
      localUnidirectionalOpened: 1,
      remoteUnidirectionalOpened: 2,
      streamBytesSent: 7,
      streamBytesReceived: 2 * 7,
      streamsClosed: 3,
    });
  });

  test("counts a stream as closed after both directions have ended", async ({ a, b }) => {
    const near = await soon(a.createBidirectionalStream());
    await writeAll(near.writable, new Uint8Array(5));
    const far = await next(b.incomingBidirectionalStreams);
    await readAll(far.readable);
    await counts(a, { localBidirectionalOpened: 1, streamBytesSent: 5 });
    await counts(b, { remoteBidirectionalOpened: 1, streamBytesReceived: 5 });
    await soon(far.writable.close());
    await readAll(near.readable);
    const closed = { streamsClosed: 1, bidirectionalClosed: 1 };
    await counts(a, { localBidirectionalOpened: 1, streamBytesSent: 5, ...closed });
    await counts(b, { remoteBidirectionalOpened: 1, streamBytesReceived: 5, ...closed });
  });

  test("counts directions that the reader stopped, on both sides", async (pair) => {
    const { near, far } = await openOneWay(pair);
    await far.cancel();
    const { a, b } = pair;
    await until(() => b.inspect!.counters!.streamErrors === 1);
    await writeOn(near);
    await until(() => a.inspect!.counters!.streamErrors === 1);
    assertEquals([a.inspect!.counters!.streamsClosed, b.inspect!.counters!.streamsClosed], [1, 1]);
  });

  test("counts directions that the writer reset, on both sides", async (pair) => {
    const { near, far } = await openOneWay(pair);
    await near.abort();
    const { a, b } = pair;
    await soon(far.read().catch(() => {}));
    for (const end of [a, b]) await until(() => end.inspect!.counters!.streamsClosed === 1);
    assertEquals(a.inspect!.counters!.streamErrors, 1);
    // Without reset codes, a reset looks like a normal end of the stream.
    if (traits.resetCodes) assertEquals(b.inspect!.counters!.streamErrors, 1);
  });

  test("counts streams that the close cuts", async (pair) => {
    const { near } = await openOneWay(pair);
    await soon(pair.a.createBidirectionalStream());
    pair.a.close();
    await soon(Promise.all([pair.a.closed, pair.b.closed]));
    await soon(near.closed.catch(() => {}));
    const { counters } = pair.a.inspect!;
    await until(() => counters!.streamsClosed === 2);
    assert(counters!.streamErrors >= 2, `${counters!.streamErrors}`);
    await until(() => pair.b.inspect!.counters!.streamErrors >= 1);
  });

  test("counts datagrams, and the datagrams that this side drops", async ({ a, b }) => {
    if (traits.datagrams === "none") return;
    const writer = a.datagrams.writable.getWriter();
    const reader = b.datagrams.readable.getReader();
    for (let i = 0; i < 3; i++) {
      await soon(writer.write(new Uint8Array(10 + i)));
      assertEquals((await soon(reader.read())).value?.byteLength, 10 + i);
    }
    await soon(writer.write(new Uint8Array(a.datagrams.maxDatagramSize + 1)));
    await counts(a, { datagramsSent: 3, datagramBytesSent: 33, datagramsDropped: 1 });
    await counts(b, { datagramsReceived: 3, datagramBytesReceived: 33 });
  });

  test("reports streams to an observer until the observer is removed", async ({ a, b }) => {
    await tell(a, b);
    const events = { a: observed(a), b: observed(b) };
    await ask(a, b);
    await tell(b, a);
    const happened = (by: "local" | "remote") => {
      const other = by === "local" ? "remote" : "local";
      return [
        { type: "streamopened", direction: "bidirectional", by },
        { type: "streamclosed", direction: "bidirectional", by },
        { type: "streamopened", direction: "unidirectional", by: other },
        { type: "streamclosed", direction: "unidirectional", by: other },
      ];
    };
    const ofStreams = (list: ConnectionEvent[]) =>
      list.filter(({ type }) => type === "streamopened" || type === "streamclosed");
    await until(() => ofStreams(events.a).length === 4 && ofStreams(events.b).length === 4);
    assertEquals(sorted(ofStreams(events.a)), sorted(happened("local") as ConnectionEvent[]));
    assertEquals(sorted(ofStreams(events.b)), sorted(happened("remote") as ConnectionEvent[]));
    for (const end of [a, b]) end.inspect!.observe!(undefined);
    await ask(a, b);
    await until(() => a.inspect!.counters!.streamsClosed === 4);
    assertEquals([ofStreams(events.a).length, ofStreams(events.b).length], [4, 4]);
  });

  test("reports to an observer why a stream was cut", async (pair) => {
    const events = { a: observed(pair.a), b: observed(pair.b) };
    const { near, far } = await openOneWay(pair);
    const reason = new Error("enough");
    await far.cancel(reason);
    await writeOn(near);
    const closed = (list: ConnectionEvent[]) => list.find(({ type }) => type === "streamclosed");
    await until(() => closed(events.a) !== undefined && closed(events.b) !== undefined);
    const direction: StreamDirection = "unidirectional";
    assertEquals(closed(events.b), {
      type: "streamclosed",
      direction,
      by: "remote",
      error: reason,
    });
    const end = closed(events.a);
    assert(end?.type === "streamclosed" && end.error instanceof Error, String(end));
    assertEquals([end.direction, end.by], [direction, "local"]);
  });

  test("reports datagrams to an observer", async ({ a, b }) => {
    if (traits.datagrams === "none") return;
    const events = { a: observed(a), b: observed(b) };
    const writer = a.datagrams.writable.getWriter();
    await soon(writer.write(Uint8Array.of(1, 2, 3)));
    const received = await next(b.datagrams.readable);
    const { maxDatagramSize } = a.datagrams;
    await soon(writer.write(new Uint8Array(maxDatagramSize + 1)));
    await until(() => events.a.length >= 2 && events.b.length >= 1);
    assertEquals(events.a, [
      { type: "datagramsent", datagram: Uint8Array.of(1, 2, 3) },
      { type: "datagramdropped", byteLength: maxDatagramSize + 1 },
    ]);
    assertEquals(events.b, [{ type: "datagramreceived", datagram: received }]);
  });

  test("includes the bytes of streams in its statistics", async ({ a, b }) => {
    const before = { a: await a.getStats(), b: await b.getStats() };
    await ask(a, b);
    const after = { a: await a.getStats(), b: await b.getStats() };
    // A counter that the transport cannot know is absent.
    const grew = (from: number | undefined, to: number | undefined, atLeast: number) =>
      assert(to === undefined || to - (from ?? 0) >= atLeast, `${from} to ${to}`);
    grew(before.a.bytesSent, after.a.bytesSent, 5);
    grew(before.a.bytesReceived, after.a.bytesReceived, 3);
    grew(before.b.bytesReceived, after.b.bytesReceived, 5);
    grew(before.b.bytesSent, after.b.bytesSent, 3);
  });
}

/** Sorts events: one stream may close after the next one has opened. */
function sorted(events: readonly ConnectionEvent[]): ConnectionEvent[] {
  return events.toSorted((a, b) => JSON.stringify(a) < JSON.stringify(b) ? -1 : 1);
}
