import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { soon, turns } from "../../tests/waiting.ts";
import { acceptEcho, WebTransportPeer } from "../../tests/peers/webtransport_peer.ts";
import { directDatagrams } from "../direct.ts";
import { DatagramQueues } from "./datagrams.ts";
import {
  WebTransport,
  WebTransportDatagramDuplexStream,
  WebTransportDatagramsWritable,
  type WebTransportOptions,
} from "./mod.ts";
import { platformRuntime } from "../../base/runtime.ts";

/** Opens a session with a server that echoes datagrams. */
function openEcho(
  options: WebTransportOptions = {},
): { transport: WebTransport } & AsyncDisposable {
  const peer = new WebTransportPeer({ respond: acceptEcho });
  const transport = new WebTransport(peer.url, { ...peer.trust, ...options });
  return {
    transport,
    async [Symbol.asyncDispose]() {
      await transport[Symbol.asyncDispose]();
      await peer[Symbol.asyncDispose]();
    },
  };
}

/** A link that the test opens. */
class Link {
  readonly maxDatagramSize = 1_200;
  readonly sent: number[] = [];
  readonly waiting: (() => void)[] = [];

  write(datagram: Uint8Array): Promise<void> {
    this.sent.push(datagram[0]!);
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  send(datagram: Uint8Array): void {
    this.sent.push(datagram[0]!);
  }
}

/** Tells whether a promise has settled. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let isSettled = false;
  promise.then(() => isSettled = true, () => isSettled = true);
  for (let i = 0; i < 10; i++) await Promise.resolve();
  return isSettled;
}

Deno.test("WebTransport.datagrams are sent and received, even if written before ready", async () => {
  await using echo = openEcho();
  const { transport } = echo;
  const { datagrams } = transport;
  assertInstanceOf(datagrams, WebTransportDatagramDuplexStream);
  assertStrictEquals(datagrams, transport.datagrams);
  assertStrictEquals(datagrams.writable, datagrams.writable);
  const writer = datagrams.writable.getWriter();
  await Promise.all([0, 1, 2, 3].map((byte) => writer.write(Uint8Array.of(byte))));
  assertEquals(transport.reliability, "pending");
  const reader = datagrams.readable.getReader();
  const received = new Set<number>();
  while (received.size < 4) received.add((await soon(reader.read())).value![0]!);
  assertEquals(received, new Set([0, 1, 2, 3]));
});

Deno.test("WebTransport.datagrams carry datagrams that fit, and lose others", async () => {
  await using echo = openEcho();
  await soon(echo.transport.ready);
  const { datagrams } = echo.transport;
  const { maxDatagramSize } = datagrams;
  assert(maxDatagramSize >= 1_000);
  const writer = datagrams.writable.getWriter();
  const reader = datagrams.readable.getReader();
  await writer.write(new Uint8Array(100_000));
  await writer.write(new Uint8Array(maxDatagramSize));
  assertEquals((await soon(reader.read())).value!.byteLength, maxDatagramSize);
  await writer.write(new Uint8Array());
  assertEquals((await soon(reader.read())).value!.byteLength, 0);
});

Deno.test("WebTransport.datagrams accept any BufferSource, and fail with an error for anything else", async () => {
  await using echo = openEcho();
  const { datagrams } = echo.transport;
  const writer = datagrams.writable.getWriter() as WritableStreamDefaultWriter<unknown>;
  await writer.write(new DataView(Uint8Array.of(1, 2, 3).buffer, 1, 1));
  assertEquals((await soon(datagrams.readable.getReader().read())).value, Uint8Array.of(2));
  for (const chunk of [undefined, null, {}, "text", 7]) {
    const bad = datagrams.createWritable().getWriter() as WritableStreamDefaultWriter<unknown>;
    await assertRejects(() => bad.write(chunk), TypeError);
    await assertRejects(() => bad.closed, TypeError);
  }
});

Deno.test("WebTransport.datagrams can be read as bytes", async () => {
  await using echo = openEcho({ datagramsReadableType: "bytes" });
  const { datagrams } = echo.transport;
  const writer = datagrams.writable.getWriter();
  const reader = datagrams.readable.getReader({ mode: "byob" });
  await writer.write(new Uint8Array()); // A byte stream cannot carry an empty datagram.
  await writer.write(Uint8Array.of(1, 2));
  assertEquals((await soon(reader.read(new Uint8Array(8)))).value, Uint8Array.of(1, 2));
  await writer.write(Uint8Array.of(1, 2));
  await assertRejects(() => soon(reader.read(new Uint8Array(1))), RangeError);
});

Deno.test("WebTransport.datagrams end with the session", async () => {
  for (const type of [undefined, "bytes"] as const) {
    await using echo = openEcho(type && { datagramsReadableType: type });
    const { transport } = echo;
    await soon(transport.ready);
    const { datagrams } = transport;
    const writer = datagrams.writable.getWriter();
    const other = datagrams.createWritable();
    const piped = datagrams.createWritable();
    const source = new ReadableStream({ pull: () => new Promise(() => {}) });
    const piping = source.pipeTo(piped);
    const reader = datagrams.readable.getReader();
    const reading = reader.read();
    transport.close();
    assertEquals((await soon(reading)).done, true);
    assertEquals(await soon(writer.closed), undefined);
    await assertRejects(() => soon(piping));
    await assertRejects(() => soon(other.getWriter().write(Uint8Array.of(1))));
    await soon(transport.closed);
  }
});

Deno.test("WebTransport.datagrams also work with plain calls", async () => {
  await using echo = openEcho();
  const direct = directDatagrams(echo.transport.datagrams);
  const { promise, resolve } = Promise.withResolvers<Uint8Array>();
  direct.receive(resolve);
  assertThrows(() => direct.receive(() => {}), TypeError);
  direct.send(Uint8Array.of(1, 2, 3)); // Until the session is ready, the datagram waits.
  assertEquals(await soon(promise), Uint8Array.of(1, 2, 3));
});

Deno.test("WebTransportDatagramDuplexStream validates its settings like W3C", async () => {
  await using echo = openEcho();
  const { datagrams } = echo.transport;
  for (const name of ["incomingMaxAge", "outgoingMaxAge"] as const) {
    assertEquals(datagrams[name], null);
    datagrams[name] = 5.5;
    assertEquals(datagrams[name], 5.5);
    for (const wrong of [-1, NaN]) assertThrows(() => datagrams[name] = wrong, RangeError);
    assertEquals(datagrams[name], 5.5);
    datagrams[name] = 0;
    assertEquals(datagrams[name], null);
    datagrams[name] = Infinity;
    datagrams[name] = null;
    assertEquals(datagrams[name], null);
  }
  for (
    const [name, old] of [
      ["incomingMaxBufferedDatagrams", "incomingHighWaterMark"],
      ["outgoingMaxBufferedDatagrams", "outgoingHighWaterMark"],
    ] as const
  ) {
    assert(datagrams[name] >= 1);
    datagrams[name] = 5;
    assertEquals([datagrams[name], datagrams[old]], [5, 5]);
    datagrams[name] = 0;
    assertEquals(datagrams[name], 1);
    for (const wrong of [-1, NaN]) assertThrows(() => datagrams[old] = wrong, RangeError);
    datagrams[old] = 7;
    assertEquals(datagrams[name], 7);
    datagrams[old] = 0.5;
    assertEquals(datagrams[old], 1);
  }
});

Deno.test("WebTransportDatagramDuplexStream.createWritable() creates a writable with a priority", async () => {
  await using echo = openEcho();
  await using other = openEcho();
  const { datagrams } = echo.transport;
  const writable = datagrams.createWritable();
  assertInstanceOf(writable, WebTransportDatagramsWritable);
  assertInstanceOf(writable, WritableStream);
  assertEquals([writable.sendOrder, writable.sendGroup], [0, null]);
  writable.sendOrder = -50;
  assertEquals(writable.sendOrder, -50);
  const sendGroup = echo.transport.createSendGroup();
  assertEquals(datagrams.createWritable({ sendGroup, sendOrder: 42 }).sendOrder, 42);
  writable.sendGroup = sendGroup;
  assertStrictEquals(writable.sendGroup, sendGroup);
  const foreign = other.transport.createSendGroup();
  const error = assertThrows(() => writable.sendGroup = foreign, DOMException);
  assertEquals(error.name, "InvalidStateError");
  assertThrows(() => datagrams.createWritable({ sendGroup: foreign }), TypeError);
});

Deno.test("DatagramQueues.write() waits at the limit until a datagram has been sent", async () => {
  const queues = new DatagramQueues(platformRuntime());
  queues.maxOutgoing = 3;
  const link = new Link();
  queues.connect(link);
  const writes = [0, 1, 2].map((byte) => queues.write(Uint8Array.of(byte), { sendOrder: 0 }));
  assertEquals(await Promise.all(writes.map(isSettled)), [true, true, false]);
  await turns(1);
  assertEquals(link.sent, [0, 1, 2]);
  assertEquals(await isSettled(writes[2]!), false);
  for (const sent of link.waiting) sent();
  await writes[2];
  const last = [3, 4, 5].map((byte) => queues.write(Uint8Array.of(byte), { sendOrder: 0 }));
  queues.end();
  assertEquals(await isSettled(last[1]!), true);
});

Deno.test("DatagramQueues sends the waiting datagram with the highest priority first", () => {
  const queues = new DatagramQueues(platformRuntime());
  const place = { sendOrder: 0 };
  void queues.write(Uint8Array.of(1), place);
  void queues.write(Uint8Array.of(2), { sendOrder: 5 });
  void queues.write(Uint8Array.of(3), place);
  void queues.write(Uint8Array.of(4), { sendOrder: -1 });
  const late = { sendOrder: 0 };
  void queues.write(Uint8Array.of(5), late);
  late.sendOrder = 9;
  const link = new Link();
  queues.connect(link);
  assertEquals(link.sent, [5, 2, 1, 3, 4]);
});

Deno.test("DatagramQueues drops the oldest received datagrams, and expired ones", async () => {
  using time = new FakeTime();
  const queues = new DatagramQueues(platformRuntime());
  queues.maxIncoming = 2;
  for (const byte of [0, 1, 2]) queues.deliver(Uint8Array.of(byte));
  assertEquals(await queues.next(), Uint8Array.of(1));
  queues.incomingMaxAge = 10;
  time.tick(11);
  queues.deliver(Uint8Array.of(3));
  assertEquals(await queues.next(), Uint8Array.of(3));
  assertEquals(queues.stats, { droppedIncoming: 1, expiredIncoming: 1, expiredOutgoing: 0 });
});

Deno.test("DatagramQueues does not send expired datagrams", () => {
  using time = new FakeTime();
  const queues = new DatagramQueues(platformRuntime());
  queues.outgoingMaxAge = 10;
  void queues.write(Uint8Array.of(1), { sendOrder: 0 });
  time.tick(11);
  void queues.write(Uint8Array.of(2), { sendOrder: 0 });
  const link = new Link();
  queues.connect(link);
  assertEquals(link.sent, [2]);
  assertEquals(queues.stats.expiredOutgoing, 1);
});
