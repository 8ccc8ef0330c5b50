import v8 from "node:v8";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ConnectionError } from "../../errors.ts";
import type {
  BidirectionalStream,
  Connection,
  ConnectionCloseInfo,
  DirectStream,
  Frame,
} from "../connection.ts";
import { nextBidirectional } from "../../tests/incoming.ts";
import { quicPair, unmarked } from "../../tests/pairs/quic.ts";
import { directStream, receiveBidirectional } from "../direct.ts";
import { type MemoryLink, memoryPair } from "../memory/memory.ts";
import { type MessageStreamOptions, withMessages } from "./server.ts";
import { turns } from "../../tests/waiting.ts";

const WRITTEN = Promise.resolve();

/** A connection that reports an end without a close as a close with 0, as browsers do. */
function ambiguous(inner: Connection): Connection {
  const inspect = { requireClose: () => false };
  return new Proxy(inner, {
    get(target, key): unknown {
      if (key === "inspect") return inspect;
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** One end with messages. The test reads and writes the raw bytes of the other side. */
interface Half extends AsyncDisposable {
  readonly end: Connection;
  readonly peer: Connection;
  readonly link: MemoryLink;
  /** The peer's side of the message stream. */
  readonly stream: DirectStream;
  /** The frames that the end received; `undefined` marks the end of all frames. */
  readonly received: (Frame | undefined)[];
}

async function half(
  options: MessageStreamOptions,
  wrap: (inner: Connection) => Connection = (inner) => inner,
): Promise<Half> {
  const { client, server, link } = memoryPair({ frames: false });
  const [inner, peer] = options.side === "client" ? [client, server] : [server, client];
  const end = withMessages(wrap(inner), options);
  const received: (Frame | undefined)[] = [];
  end.frames!.receive({
    receiveFrame: (frame) => void received.push(frame),
    framesEnded: () => void received.push(undefined),
  });
  const stream = options.side === "client"
    ? await nextBidirectional(peer)
    : directStream(await peer.createBidirectionalStream());
  return {
    end,
    peer,
    link,
    stream,
    received,
    async [Symbol.asyncDispose](): Promise<void> {
      peer.close();
      await end.closed.catch(() => {});
      await peer.closed.catch(() => {});
    },
  };
}

/** Reads a number of bytes, or fewer at the end of the stream. */
async function read(stream: DirectStream, count = Infinity): Promise<string> {
  let hex = "";
  while (hex.length < count * 2) {
    const bytes = await stream.read();
    if (bytes === null) return hex + "|";
    hex += bytes.toHex();
  }
  return hex;
}

const write = (stream: DirectStream, hex: string) => stream.write(Uint8Array.fromHex(hex));

/**
 * A connection that waits for a gate before it opens its first stream or reads the peer's streams.
 */
function slowed(inner: Connection, gate: Promise<void>): Connection {
  let opened = 0;
  const incoming = inner.incomingBidirectionalStreams.pipeThrough(
    new TransformStream<BidirectionalStream, BidirectionalStream>({
      transform(stream, controller): void {
        const direct = directStream(stream);
        const read = () => gate.then(() => direct.read());
        // Web streams are not used if there is a direct stream.
        controller.enqueue({ ...stream, direct: { ...direct, read } });
      },
    }),
  );
  return {
    capabilities: inner.capabilities,
    transport: inner.transport,
    protocol: inner.protocol,
    ready: inner.ready,
    closed: inner.closed,
    draining: inner.draining,
    datagrams: inner.datagrams,
    incomingBidirectionalStreams: incoming,
    incomingUnidirectionalStreams: inner.incomingUnidirectionalStreams,
    async createBidirectionalStream(options): Promise<BidirectionalStream> {
      if (opened++ === 0) await gate;
      return await inner.createBidirectionalStream(options);
    },
    createUnidirectionalStream: (options) => inner.createUnidirectionalStream(options),
    close: (info) => inner.close(info),
    getStats: () => inner.getStats(),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  };
}

const CLOSE: ConnectionCloseInfo = { closeCode: 3000, reason: "moved" };

Deno.test("withMessages() writes a greeting, frames, an end mark and a FIN, then the code", async () => {
  await using hand = await half({ side: "client" });
  const { end, peer, stream } = hand;
  end.frames!.send("hi");
  end.frames!.send(Uint8Array.of(0x40, 0x53, 1, 255));
  end.close(CLOSE);
  end.frames!.send("too late");
  let isClosed = false;
  void peer.closed.then(() => isClosed = true);
  assertEquals(await read(stream), "0000" + "02006869" + "020101ff" + "0002" + "|");
  await turns();
  assert(!isClosed, "the code arrived before the peer had ended its half");
  await write(stream, "010061" + "0002");
  assertEquals(await peer.closed, CLOSE);
  assertEquals(await end.closed, CLOSE);
  // Frames after the queue's own close are discarded.
  assertEquals(hand.received, [undefined]);
});

Deno.test("withMessages() writes as a server on the client's stream, without a greeting", async () => {
  await using hand = await half({ side: "server" });
  hand.end.frames!.send("one");
  hand.end.frames!.send("two");
  assertEquals(await read(hand.stream, 10), "03006f6e65" + "030074776f");
});

Deno.test("withMessages() joins messages of one turn, or during a write", async () => {
  await using hand = await half({ side: "server" });
  const { frames } = hand.end;
  for (let i = 0; i < 1000; i++) frames!.send("x");
  assertEquals((await hand.stream.read())!.length, 3000);
  hand.link.stall("to-client");
  frames!.send("y".repeat(70_000));
  await turns();
  for (let i = 0; i < 1000; i++) frames!.send("x");
  await turns();
  assertEquals(frames!.bufferedAmount, 73_005);
  hand.link.resume("to-client");
  const sizes: number[] = [];
  while (sizes.reduce((a, b) => a + b, 0) < 73_005) sizes.push((await hand.stream.read())!.length);
  assertEquals(sizes, [70_005, 3000]);
  await turns();
  assertEquals(frames!.bufferedAmount, 0);
});

Deno.test("MessageFrames.send() needs two promises for a write, and encodes shared frames once", async () => {
  const writes: Uint8Array[] = [];
  const { client, server } = memoryPair({ frames: false });
  const stream = await client.createBidirectionalStream();
  const write = (bytes: Uint8Array) => {
    writes.push(bytes);
    return WRITTEN;
  };
  // Count only the promises of the messages.
  const direct = { ...directStream(stream), write, close: () => WRITTEN };
  const inner = new Proxy(client, {
    get: (target, key) =>
      key === "createBidirectionalStream"
        ? () => Promise.resolve({ ...stream, direct })
        : Reflect.get(target, key, target),
  });
  const end = withMessages(inner, { side: "client" });
  await turns();
  writes.length = 0;
  let promises = 0;
  const stop = v8.promiseHooks.onInit(() => void promises++);
  end.frames!.send("one");
  end.frames!.send("two");
  await WRITTEN.then(() => {}).then(() => {}).then(() => {});
  stop();
  // Three of them are the test's own, and one is its `await`.
  assertEquals([writes.map(({ length }) => length), promises - 4], [[10], 2]);
  const parts = [{ frame: "three", size: 5 }];
  for (let i = 0; i < 2; i++) {
    end.frames!.send("three", parts);
    await turns();
  }
  assert(writes[1]!.buffer === writes[2]!.buffer);
  server.close();
  await end.closed;
});

Deno.test("withMessages() keeps messages from before the stream", async () => {
  const pair = memoryPair({ frames: false });
  await using server = withMessages(pair.server, { side: "server" });
  server.frames!.send("early");
  await turns();
  assertEquals(server.frames!.bufferedAmount, 7);
  const stream = directStream(await pair.client.createBidirectionalStream());
  assertEquals(await read(stream, 7), "05006561726c79");
  server.close();
  assertEquals(await read(stream), "0002|");
  await write(stream, "0002");
});

Deno.test("withMessages() delivers frames wherever the bytes are cut", async () => {
  const bytes = Uint8Array.fromHex("0000" + "02006869" + "020101ff" + "0000" + "0200c3a9");
  await using hand = await half({ side: "server" });
  const { stream, received } = hand;
  for (const byte of bytes) await stream.write(Uint8Array.of(byte));
  await turns();
  // The first frame, being empty, was a greeting; the second empty one is not.
  assertEquals(received, ["hi", Uint8Array.of(0x40, 0x53, 1, 255), "", "é"]);
});

Deno.test("withMessages() replies to the peer's end after its own messages", async () => {
  await using hand = await half({ side: "server" });
  const { end, peer, stream, received } = hand;
  await write(stream, "010061");
  await turns();
  end.frames!.send("b");
  await write(stream, "0002");
  await stream.close();
  assertEquals(await read(stream), "010062" + "0002" + "|");
  end.frames!.send("to nobody");
  assertEquals(received, ["a"]);
  peer.close(CLOSE);
  assertEquals(await end.closed, CLOSE);
  assertEquals(received, ["a", undefined]);
});

Deno.test("withMessages() rejects invalid frames", async () => {
  const cases: [string, number][] = [
    ["8001000100", 4413],
    ["0003", 4400],
    ["0102", 4400],
    ["0200c328", 4400],
  ];
  for (const [hex, closeCode] of cases) {
    await using hand = await half({ side: "server", maxFrameBytes: 65_536 });
    await write(hand.stream, `010061${hex}`);
    await write(hand.stream, "010062");
    await hand.stream.close();
    assertEquals((await hand.end.closed).closeCode, closeCode, hex);
    assertEquals((await hand.peer.closed).closeCode, closeCode, hex);
    assertEquals(hand.received, ["a", undefined]);
  }
});

Deno.test("withMessages() breaks when the stream ends without its mark", async () => {
  for (const how of ["close", "abort"] as const) {
    using time = new FakeTime();
    await using hand = await half({ side: "server" });
    await write(hand.stream, "0100610500");
    await time.tickAsync(1);
    void hand.stream[how]();
    const broken = assertRejects(() => hand.end.closed, ConnectionError, "without its end mark");
    await time.tickAsync(249);
    assertEquals(hand.received, ["a"]);
    await time.tickAsync(1);
    await broken;
    assertEquals((await hand.peer.closed).closeCode, 4400);
    assertEquals(hand.received, ["a", undefined]);
  }
});

Deno.test("withMessages() breaks when the peer stops reading the stream", async () => {
  using time = new FakeTime();
  await using hand = await half({ side: "client" });
  hand.stream.cancel();
  await turns();
  const broken = assertRejects(() => hand.end.closed, ConnectionError, "could not be written");
  hand.end.frames!.send("a");
  await time.tickAsync(250);
  hand.end.frames!.send("to nobody");
  assertEquals(hand.end.frames!.bufferedAmount, 0);
  await broken;
});

Deno.test("withMessages() reports the connection's reason if the stream ended", async () => {
  for (const how of ["close", "abort"] as const) {
    await using hand = await half({ side: "server" });
    await write(hand.stream, "010061");
    void hand.stream[how]();
    await turns();
    hand.peer.close(CLOSE);
    assertEquals(await hand.end.closed, CLOSE);
    assertEquals(hand.received, ["a", undefined]);
  }
});

Deno.test("withMessages() delivers frames that were overtaken by a later code", async () => {
  await using hand = await half({ side: "server" });
  const text = "x".repeat(1000);
  for (let i = 0; i < 20; i++) await write(hand.stream, "43e800" + "78".repeat(1000));
  await write(hand.stream, "0002");
  await hand.stream.close();
  hand.peer.close(CLOSE);
  assertEquals(await hand.end.closed, CLOSE);
  await turns();
  assertEquals(hand.received, [...Array(20).fill(text), undefined]);
});

for (const readAfterMs of [200, Infinity]) {
  const title = readAfterMs === Infinity ? "waits no longer than 250 ms" : "waits";
  Deno.test(`withMessages() ${title} for unread frames sent before the code`, async () => {
    using time = new FakeTime();
    const pair = memoryPair({ frames: false });
    const gate = Promise.withResolvers<void>();
    const end = withMessages(slowed(pair.server, gate.promise), { side: "server" });
    const received: (Frame | undefined)[] = [];
    end.frames!.receive({
      receiveFrame: (frame) => void received.push(frame),
      framesEnded: () => void received.push(undefined),
    });
    const stream = directStream(await pair.client.createBidirectionalStream());
    await write(stream, "010061" + "010062" + "0002");
    await stream.close();
    pair.client.close(CLOSE);
    let closedAt = NaN;
    const start = Date.now();
    void end.closed.then(() => closedAt = Date.now() - start);
    if (readAfterMs < Infinity) setTimeout(() => gate.resolve(), readAfterMs);
    for (let i = 0; i < 20; i++) await time.tickAsync(50);
    assertEquals(closedAt, Math.min(readAfterMs, 250));
    assertEquals(await end.closed, CLOSE);
    assertEquals(received, readAfterMs === Infinity ? [undefined] : ["a", "b", undefined]);
    gate.resolve();
  });
}

Deno.test("MessageFrames.drained() resolves when the connection breaks", async () => {
  await using hand = await half({ side: "client" });
  hand.link.stall("to-server");
  hand.end.frames!.send("x".repeat(100_000));
  await turns();
  const drained = hand.end.frames!.drained();
  hand.link.disconnect();
  await drained;
  assertEquals(hand.end.frames!.bufferedAmount, 0);
});

Deno.test("withMessages() opens its own stream before any other", async () => {
  const pair = memoryPair({ frames: false });
  const gate = Promise.withResolvers<void>();
  await using client = withMessages(slowed(pair.client, gate.promise), { side: "client" });
  const reason = new Error("changed my mind");
  const controller = new AbortController();
  const aborted = client.createBidirectionalStream({ signal: controller.signal });
  const rejected = assertRejects(() => aborted, Error, reason.message);
  controller.abort(reason);
  await rejected;
  const opening = client.createBidirectionalStream();
  await turns();
  gate.resolve();
  await directStream(await opening).write(Uint8Array.of(9));
  assertEquals(await read(await nextBidirectional(pair.server), 2), "0000");
  assertEquals(await (await nextBidirectional(pair.server)).read(), Uint8Array.of(9));
  pair.server.close();
});

Deno.test("withMessages() rejects closed when the network breaks", async () => {
  await using hand = await half({ side: "client" });
  hand.link.disconnect();
  await assertRejects(() => hand.end.closed, ConnectionError, "the network was disconnected");
  assertEquals(hand.received, [undefined]);
});

Deno.test("withMessages() closes a connection whose client does not open a stream", async () => {
  using time = new FakeTime();
  await using pair = memoryPair({ frames: false });
  const server = withMessages(pair.server, { side: "server" });
  await time.tickAsync(9_999);
  assert(pair.client.frames === undefined);
  const expected = { closeCode: 4408, reason: "No message stream in time" };
  await time.tickAsync(1);
  assertEquals(await pair.client.closed, expected);
  assertEquals(await server.closed, expected);
});

Deno.test("withMessages() closes immediately without a stream and without messages", async () => {
  using _time = new FakeTime();
  await using pair = memoryPair({ frames: false });
  const server = withMessages(pair.server, { side: "server" });
  server.close(CLOSE);
  assertEquals(await server.closed, CLOSE);
  assertEquals(await pair.client.closed, CLOSE);
});

Deno.test("withMessages() does not delay the close for a peer that reads nothing", async () => {
  using time = new FakeTime();
  await using hand = await half({ side: "server", closeTimeoutMs: 700 });
  const { end, peer } = hand;
  for (let i = 0; i < 20; i++) end.frames!.send("x".repeat(20_000));
  end.close(CLOSE);
  let isClosed = false;
  void end.closed.then(() => isClosed = true);
  await time.tickAsync(699);
  assert(!isClosed);
  await time.tickAsync(1);
  assertEquals(await end.closed, CLOSE);
  assertEquals(await peer.closed, CLOSE);
  assertEquals(end.frames!.bufferedAmount, 0);
  await end.frames!.drained();
});

Deno.test("withMessages() closes normally when the peer only ends its stream", async () => {
  using time = new FakeTime();
  await using hand = await half({ side: "server" });
  await write(hand.stream, "0002");
  await hand.stream.close();
  await time.tickAsync(1_999);
  let isClosed = false;
  void hand.end.closed.then(() => isClosed = true);
  await time.tickAsync(0);
  assert(!isClosed);
  await time.tickAsync(1);
  assertEquals(await hand.end.closed, { closeCode: 0, reason: "" });
});

Deno.test("withMessages() breaks at a client if the server ends the stream and its close is lost", async () => {
  using time = new FakeTime();
  await using hand = await half({ side: "client" });
  await write(hand.stream, "0002");
  await hand.stream.close();
  const broken = assertRejects(() => hand.end.closed, ConnectionError, "its close did not arrive");
  await time.tickAsync(2_000);
  await broken;
  assertEquals((await hand.peer.closed).closeCode, 0);
});

/**
 * The ways in which an ambiguous connection ends. The value is true if the end counts as a close.
 */
const AMBIGUOUS: [
  what: string,
  hasEndMark: boolean,
  info: ConnectionCloseInfo,
  isClose: boolean,
][] = [
  ["an end without a close", false, {}, false],
  ["a close with 0 after the end mark", true, {}, true],
  ["a close with 0 and a reason", false, { reason: "done" }, true],
  ["a close with a code", false, { closeCode: 4503 }, true],
];

for (const side of ["client", "server"] as const) {
  for (const [what, hasEndMark, info, isClose] of AMBIGUOUS) {
    Deno.test(`withMessages() of a ${side} in a browser recognizes ${what}`, async () => {
      await using hand = await half({ side }, ambiguous);
      if (side === "server") await write(hand.stream, "0000");
      if (hasEndMark) {
        await write(hand.stream, "0002");
        await hand.stream.close();
      }
      await turns();
      hand.peer.close(info);
      const { closed } = hand.end;
      if (isClose) assertEquals((await closed).closeCode, info.closeCode ?? 0);
      else await assertRejects(() => closed, ConnectionError, "without a close");
    });
  }
}

Deno.test("withMessages() of a client in a browser treats an end before its stream as a loss", async () => {
  const pair = memoryPair({ frames: false });
  await using _server = pair.server;
  pair.server.close();
  await pair.client.closed;
  await using end = withMessages(ambiguous(pair.client), { side: "client" });
  await assertRejects(() => end.closed, ConnectionError);
});

Deno.test("withMessages() closes normally at a server if the client ended its messages and was lost", async () => {
  await using hand = await half({ side: "server" });
  await write(hand.stream, "0002");
  await hand.stream.close();
  await turns();
  hand.link.disconnect();
  assertEquals(await hand.end.closed, { closeCode: 0, reason: "" });
});

Deno.test("withMessages() reports the same close on both sides when the peer closes first", async () => {
  await using hand = await half({ side: "server" });
  await write(hand.stream, "0002");
  await turns();
  hand.end.close({ closeCode: 3002 });
  hand.peer.close(CLOSE);
  assertEquals(await hand.end.closed, CLOSE);
});

Deno.test("withMessages() hides its stream from readers of other streams", async () => {
  const pair = memoryPair({ frames: false });
  await using client = withMessages(pair.client, { side: "client" });
  await using server = withMessages(pair.server, { side: "server" });
  // Both are read before the first stream is open.
  const incoming = server.incomingBidirectionalStreams;
  const opening = client.createBidirectionalStream();
  assert(server.incomingBidirectionalStreams === incoming);
  const near = directStream(await opening);
  await near.write(Uint8Array.of(7));
  const reader = incoming.getReader();
  const far = directStream((await reader.read()).value!);
  assertEquals(await far.read(), Uint8Array.of(7));
  const second = directStream(await client.createBidirectionalStream());
  await second.write(Uint8Array.of(8));
  assertEquals(await directStream((await reader.read()).value!).read(), Uint8Array.of(8));
});

Deno.test("withMessages() returns the inner streams after its own stream opened", async () => {
  const pair = memoryPair({ frames: false });
  await using _client = withMessages(pair.client, { side: "client" });
  await using server = withMessages(pair.server, { side: "server" });
  await turns();
  assert(server.incomingBidirectionalStreams === pair.server.incomingBidirectionalStreams);
});

Deno.test("MessageFrames.send() rejects bytes that are not a binary message", async () => {
  await using hand = await half({ side: "client" });
  const send = () => hand.end.frames!.send(Uint8Array.of(1, 2, 3));
  assertThrows(send, TypeError, "Cannot send frame");
  hand.end.close();
  send();
});

Deno.test("withMessages() excludes its stream from the counters, even if it opens early", async () => {
  await using pair = memoryPair({ frames: false });
  const client = withMessages(pair.client, { side: "client" });
  client.frames!.send("early");
  while ((pair.server.inspect!.counters?.streamBytesReceived ?? 0) === 0) await Promise.resolve();
  const events: string[] = [];
  const server = withMessages(pair.server, { side: "server" });
  server.inspect!.observe!(({ type }) => void events.push(type));
  const received = new Promise((resolve) => {
    server.frames!.receive({ receiveFrame: resolve, framesEnded() {} });
  });
  assertEquals(await received, "early");
  const { bytesSent } = await client.getStats();
  assertEquals((await server.getStats()).bytesReceived, bytesSent);
  assert(bytesSent! > 5);
  assertEquals(client.inspect!.counters, undefined);
  const { remoteBidirectionalOpened, streamBytesReceived } = server.inspect!.counters!;
  assertEquals([remoteBidirectionalOpened, streamBytesReceived], [0, 0]);
  await directStream(await client.createBidirectionalStream()).write(new Uint8Array(4));
  while (events.length === 0) await Promise.resolve();
  await Promise.all([client, server].map((end) => end[Symbol.asyncDispose]()));
  assertEquals(server.inspect!.counters!.streamBytesReceived, 4);
  // These are events of the other stream only.
  assertEquals(events, ["streamopened", "streamclosed"]);
});

Deno.test("withMessages() passes on credit and closeConnection", () => {
  const credit = { state: () => ({}), grant() {} };
  const closes: unknown[] = [];
  const { client } = memoryPair({ frames: false });
  const inner = Object.create(client, {
    inspect: { value: { credit } },
    close: { value: (options: unknown) => void closes.push(options) },
    closed: { value: client.closed },
    incomingBidirectionalStreams: { value: client.incomingBidirectionalStreams },
    createBidirectionalStream: { value: () => new Promise(() => {}) },
  });
  const connection = withMessages(inner as Connection, { side: "client" });
  assertEquals(connection.inspect!.credit as unknown, credit);
  connection.close({ closeCode: 4001, reason: "bye", closeConnection: true });
  assertEquals(closes, [{ closeCode: 4001, reason: "bye", closeConnection: true }]);
  client.close();
});

for (const reads of [true, false]) {
  Deno.test(`withMessages() closes right after its messages to a peer that has ended and ${reads ? "still reads" : "no longer reads"}`, async () => {
    // The clock stands still, because the close must not wait for a timer.
    using _time = new FakeTime();
    await using pair = memoryPair({ frames: false });
    const client = withMessages(pair.client, { side: "client" });
    for (let i = 0; i < 20; i++) client.frames?.send("x".repeat(50_000));
    client.close({ closeCode: 4000 });
    const stream = await nextBidirectional(pair.server);
    await write(stream, "0002");
    await stream.close();
    if (reads) {
      const hex = await read(stream);
      // These are the greeting, the messages with their heads, and the end mark.
      assertEquals([hex.length > 2 * 20 * 50_000, hex.slice(-5)], [true, "0002|"]);
    } else stream.cancel();
    assertEquals((await pair.server.closed).closeCode, 4000);
  });
}

for (const side of ["client", "server"] as const) {
  Deno.test(`withMessages() of a ${side} over raw QUIC distinguishes a close from a crash`, async () => {
    for (const isCrash of [false, true]) {
      await using pair = await quicPair();
      const other = side === "client" ? "server" : "client";
      const wires = { ...pair, [other]: isCrash ? unmarked(pair[other]) : pair[other] };
      const ends = {
        client: withMessages(wires.client, { side: "client" }),
        server: withMessages(wires.server, { side: "server" }),
      };
      const { promise: arrived, resolve } = Promise.withResolvers<void>();
      ends[side].frames!.receive({ receiveFrame: () => resolve(), framesEnded() {} });
      // A server writes after the client's stream arrived.
      ends.client.frames!.send("hello");
      ends[other].frames!.send("hello");
      await arrived;
      // A process that crashes closes its QUIC connections with 0 and no reason.
      if (isCrash) pair[other].close();
      else ends[other].close();
      const { closed } = ends[side];
      if (isCrash) await assertRejects(() => closed, ConnectionError, "without a close");
      else assertEquals(await closed, { closeCode: 0, reason: "" });
    }
  });
}

Deno.test("withMessages() hides the message stream from a stream receiver that is set first", async () => {
  await using pair = await quicPair();
  const server = withMessages(pair.server, { side: "server" });
  const got = new Promise<DirectStream>((resolve) => receiveBidirectional(server, resolve));
  assertThrows(() => receiveBidirectional(server, () => {}), TypeError, "a receiver already");
  const frame = new Promise<Frame>((resolve) =>
    server.frames!.receive({ receiveFrame: resolve, framesEnded() {} })
  );
  const client = withMessages(pair.client, { side: "client" });
  client.frames!.send("hello");
  const stream = directStream(await client.createBidirectionalStream());
  await stream.write(Uint8Array.of(7));
  assertEquals(await frame, "hello");
  assertEquals(await (await got).read(), Uint8Array.of(7));
  assertThrows(() => receiveBidirectional(server, () => {}), TypeError, "a receiver already");
});
