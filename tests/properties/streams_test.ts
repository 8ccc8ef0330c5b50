/**
 * Streams and datagrams, with streams that open without credit, handlers that fail, and sessions
 * that end.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { concat } from "../../base/bytes.ts";
import type { Client } from "../../client/client.ts";
import { CloseCode, StreamError } from "../../errors.ts";
import type { OpenStreamOptions } from "../../transport/connection.ts";
import { collect, outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** The credit of both sides. Each stream of a case needs more than its own credit. */
const CREDIT = {
  maxData: 16_384,
  maxStreamData: 4_096,
  maxStreamsBidi: 4,
  maxStreamsUni: 2,
} as const;

/** Number of bytes in a stream, which exceeds its credit, and number of bytes in each write. */
const [STREAM_BYTES, WRITE_BYTES] = [9_000, 3_000] as const;

/** Time after which opening without credit times out, in milliseconds. */
const GIVES_UP_MS = 100;

type ClientSession = NonNullable<Client["session"]>;

property("streams without credit, streams of failed handlers and datagrams have defined outcomes", {
  cases: fc.record({
    transport: fc.constantFrom("websocket", "webtransport"),
    steps: fc.array(
      fc.record({
        kind: fc.constantFrom("datagrams", "failed handlers", "openings"),
        /** Number of concurrent calls. It exceeds the number for which there is credit. */
        count: fc.integer({ min: 1, max: 6 }),
      }),
      { minLength: 1, maxLength: 6 },
    ),
  }),
  async check(world, { transport, steps }) {
    let fails = false;
    const { server, host } = world.serve("server", () => ({
      flowControl: CREDIT,
      async onStream(stream) {
        if (fails) throw new Error("as planned");
        if (stream.direction === "bidirectional") await stream.readable.pipeTo(stream.writable);
      },
      onOpen: ({ datagrams }) => void datagrams.readable.pipeTo(datagrams.writable).catch(() => {}),
      onError() {},
    }));
    const client = world.connect("client", host, {
      transports: transport === "websocket" ? [transport] : [transport, "websocket"],
      flowControl: CREDIT,
    });
    const { near, far } = await world.meet(client, server);
    assertEquals(near.transport, transport);
    for (const { kind, count } of steps) {
      fails = kind === "failed handlers";
      if (kind === "datagrams") await world.inTime(kind, datagrams(world, near, count));
      else if (fails) await world.inTime(kind, failedHandlers(near, count));
      // Only this transport counts opened streams itself.
      else if (transport === "websocket") await world.inTime(kind, openings(world, near, count));
    }
    await world.pause(200);
    const { streams, credit } = server.manager.stats();
    assertEquals([streams.active, credit.waiting], [0, 0], "streams and calls without credit");
    assertEquals([near.stats.activeStreams, far.stats.activeStreams], [0, 0]);
  },
});

async function bytesOf(readable: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  return concat(await Array.fromAsync(readable));
}

/** Writes to streams whose handler fails. Each stream must be reset. */
async function failedHandlers(session: ClientSession, count: number): Promise<void> {
  const ends = await Promise.all(
    range(1, count).map(async () => {
      const { readable, writable } = await session.createBidirectionalStream();
      const writer = writable.getWriter();
      void outcomeOf(writer.closed);
      void outcomeOf(writer.write(new Uint8Array(STREAM_BYTES)));
      return await bytesOf(readable).then(
        () => "an end",
        (error) => error instanceof StreamError ? error.streamErrorCode : `${error}`,
      );
    }),
  );
  // The runtime's QUIC cannot reset a stream, so the peer sees a normal end.
  const { resetCodes } = session.connection.capabilities;
  assertEquals(ends, ends.map(() => resetCodes ? CloseCode.handlerFailed : "an end"));
}

/**
 * Opens streams while others use all the credit. Each call waits until there is credit, a timeout
 * ends, or a signal is aborted.
 */
async function openings(world: World, session: ClientSession, count: number): Promise<void> {
  const create = (options?: OpenStreamOptions) => session.createBidirectionalStream(options);
  const end = async ({ readable, writable }: Awaited<ReturnType<typeof create>>) => {
    await writable.close();
    await bytesOf(readable);
  };
  const held = await Promise.all(range(1, CREDIT.maxStreamsBidi).map(() => create()));
  const outcomes = range(1, count).map((n) => {
    const stop = new AbortController();
    if (n % 3 === 0) void world.pause(GIVES_UP_MS / 2).then(() => stop.abort());
    const timeoutMs = n % 3 === 2 ? GIVES_UP_MS : undefined;
    return outcomeOf(create({ signal: stop.signal, timeoutMs }).then(end));
  });
  await world.pause(1.5 * GIVES_UP_MS);
  await Promise.all(held.map(end));
  const expected = ["AbortError", "fulfilled", "TimeoutError"];
  assertEquals(await Promise.all(outcomes), range(1, count).map((n) => expected[n % 3]));
}

/**
 * Sends numbered datagrams and receives them again, then sends a datagram of the maximum size and a
 * larger one.
 */
async function datagrams(world: World, session: ClientSession, count: number): Promise<void> {
  const writer = session.datagrams.writable.getWriter();
  const reader = session.datagrams.readable.getReader();
  for (const number of range(1, count)) {
    await writer.write(Uint8Array.of(number));
    assertEquals((await reader.read()).value, Uint8Array.of(number));
    await world.pause(5);
  }
  writer.releaseLock();
  const { maxDatagramSize: most } = session.datagrams;
  const send = (size: number) =>
    outcomeOf(Promise.try(() => session.sendDatagram(new Uint8Array(size))));
  assertEquals([await send(most), await send(most + 1)], ["fulfilled", "RangeError"]);
  assertEquals((await reader.read()).value?.length, most);
  reader.releaseLock();
}

property("a reader receives what arrived before the end of its session, then the end", {
  cases: fc.record({
    transport: fc.constantFrom("websocket", "webtransport"),
    isServer: fc.boolean(),
    end: fc.constantFrom("this side closes", "the other side closes", "a cut"),
    /** Number of streams per direction, and number of datagrams. */
    count: fc.nat(CREDIT.maxStreamsUni),
    /** If true, the streams have not ended yet. */
    isOpen: fc.boolean(),
    /** If true, the reader starts after the end. */
    isLate: fc.boolean(),
  }),
  async check(world, { transport, isServer, end, count, isOpen, isLate }) {
    const { server, host } = world.serve("server", () => ({ flowControl: CREDIT }));
    const client = world.connect("client", host, {
      transports: [transport],
      flowControl: CREDIT,
    });
    const { near, far } = await world.meet(client, server);
    const [{ connection, closed }, other] = isServer ? [far, near] : [near, far];
    const read = () =>
      Promise.all(
        [
          connection.incomingBidirectionalStreams,
          connection.incomingUnidirectionalStreams,
          connection.datagrams.readable,
        ].map(async (list) => {
          const got: unknown[] = [];
          const outcome = await collect<unknown>(list, (item) => void got.push(item));
          return { got, outcome };
        }),
      );
    const early = isLate ? undefined : read();
    for (let n = 0; n < count; n++) {
      await other.sendDatagram(Uint8Array.of(n));
      const { writable } = await other.createBidirectionalStream();
      for (const stream of [writable, await other.createUnidirectionalStream()]) {
        const writer = stream.getWriter();
        void outcomeOf(writer.closed);
        await writer.write(new Uint8Array(WRITE_BYTES));
        if (!isOpen) await writer.close();
      }
    }
    await world.pause(200);
    if (end === "a cut") world.cut(world.host("client"));
    else void ((end === "this side closes") === isServer ? far : near).close();
    await world.inTime("the end of the session", closed);
    const lists = await world.inTime("the end of all lists", early ?? read(), 1_000);
    for (const { got, outcome } of lists) {
      const isLost = isLate && end === "a cut";
      assertEquals(got.length, isLost ? 0 : count);
      assertEquals(outcome, end === "a cut" ? "ConnectionError" : "fulfilled");
    }
    assertEquals(connection.inspect?.unreadStreams ?? 0, 0);
    // Other transports may drop the bytes of streams with the connection.
    if (transport !== "websocket") return;
    for (const stream of lists.slice(0, 2).flatMap(({ got }) => got)) {
      const { readable = stream } = stream as { readonly readable?: unknown };
      const bytes = bytesOf(readable as ReadableStream<Uint8Array>);
      const received = await bytes.then(({ length }) => length, () => "an error");
      assertEquals(received, isOpen ? "an error" : WRITE_BYTES);
    }
  },
});
