import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { nextBidirectional, nextUnidirectional } from "../../tests/incoming.ts";
import { StreamError } from "../../errors.ts";
import {
  control,
  decodeRecord,
  parameters,
  record,
  sent,
  serverOf,
  stream,
  testEnd,
  TestPair,
  turn,
} from "../../tests/peers/qmux_wire.ts";
import { directStream } from "../direct.ts";
import { MAX_BUFFERED_BYTES } from "./record_scheduler.ts";
import { MAX_HELD_DATAGRAMS, MAX_WAITING_DATAGRAMS } from "./datagrams.ts";
import { PING_TYPE, PONG_TYPE } from "./frames.ts";
import { MAX_DATAGRAM_FRAME_BYTES, MAX_RECORD_BYTES } from "./qmux.ts";
import { turns } from "../../tests/waiting.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

Deno.test("Qmux sends nothing before its first use", async () => {
  using pair = new TestPair();
  const { client, server } = pair;
  void client.qmux.incomingBidirectionalStreams;
  void client.qmux.datagrams.maxDatagramSize;
  client.qmux.credit.grant("data", 2_000_000);
  await pair.settle();
  assertEquals(client.link.records, []);
  const opening = client.qmux.createBidirectionalStream();
  await turn();
  const [first] = decodeRecord(client.link.records[0]!);
  assert(first?.kind === "parameters");
  // The parameters include the earlier grant.
  assertEquals(first.parameters.maxData, 2_000_000);
  assertEquals(server.link.records, []);
  await pair.settle();
  await opening;
  assertEquals(server.qmux.isOpen && client.qmux.isOpen, true);
});

const LIMITS = { maxData: 1_000, maxStreamData: 600, maxStreamsBidi: 2, maxStreamsUni: 3 };

/** Records that a client must not send, with the code of the resulting close. */
const VIOLATIONS: [title: string, code: number, records: Uint8Array[]][] = [
  ["more bytes of a stream than allowed", 3, [stream(0, 0, 601)]],
  ["more bytes of all streams than allowed", 3, [stream(0, 0, 600), stream(2, 0, 401)]],
  ["a reset beyond the limit of a stream", 3, [control(0x04, 0, 0, 601)]],
  [
    "a reset beyond the limit of all streams",
    3,
    [stream(0, 0, 600), control(0x04, 2, 0, 401)],
  ],
  ["a third bidirectional stream", 4, [stream(8, 0, 0)]],
  ["a fourth unidirectional stream", 4, [stream(14, 0, 0)]],
  ["a reset of a stream beyond the limit", 4, [control(0x04, 8, 0, 0)]],
  ["a stop of a stream beyond the limit", 4, [control(0x05, 8, 0)]],
  ["a stream ID that no double can hold", 4, [
    Uint8Array.fromHex("0a" + "fffffffffffffffc" + "00"),
  ]],
  ["bytes of a stream that the server did not open", 5, [stream(1, 0, 1)]],
  ["bytes of a stream that only the server writes", 5, [stream(3, 0, 1)]],
  ["a reset of a stream that the server did not open", 5, [control(0x04, 1, 0, 0)]],
  ["a stop of a stream that only the client writes", 5, [control(0x05, 2, 0)]],
  ["a stop of a stream that the server did not open", 5, [control(0x05, 1, 0)]],
  ["credit of a stream that only the client writes", 5, [control(0x11, 2, 1)]],
  ["a wait for a stream that only the server writes", 5, [control(0x15, 3, 1)]],
  ["bytes after the end", 6, [stream(0, 0, 5, true), stream(0, 5, 1)]],
  ["another end", 6, [stream(0, 0, 5, true), stream(0, 0, 4, true)]],
  ["a reset before the received bytes", 6, [stream(0, 0, 5), control(0x04, 0, 0, 4)]],
  ["a reset before the first byte", 6, [stream(0, 0, 5), control(0x04, 0, 0, 0)]],
  ["a reset with another end", 6, [stream(0, 0, 5, true), control(0x04, 0, 0, 6)]],
  ["a second reset with another end", 6, [control(0x04, 0, 0, 4), control(0x04, 0, 0, 5)]],
  ["bytes after a reset", 6, [control(0x04, 0, 0, 4), stream(0, 4, 1)]],
  ["a frame that is cut off", 7, [stream(0, 0, 5).subarray(0, 5)]],
  ["a frame that QMux does not have", 7, [Uint8Array.of(1)]],
  ["a record that is too large", 7, [new Uint8Array(MAX_RECORD_BYTES + 1)]],
  ["bytes that skip an offset", 10, [stream(0, 1, 1)]],
  ["bytes twice", 10, [stream(0, 0, 2), stream(0, 1, 1)]],
  ["parameters twice", 10, [parameters()]],
  ["a record without a frame", 10, [new Uint8Array()]],
  ["a datagram that is too large", 10, [
    record((writer) => writer.datagram(new Uint8Array(MAX_DATAGRAM_FRAME_BYTES - 2))),
  ]],
  ["a ping that does not ascend", 10, [
    record((writer) => writer.ping(PING_TYPE, 7n)),
    record((writer) => writer.ping(PING_TYPE, 7n)),
  ]],
  ["a reply to a ping that was not sent", 10, [record((writer) => writer.ping(PONG_TYPE, 0n))]],
];

for (const [title, code, records] of VIOLATIONS) {
  Deno.test(`Qmux ends the connection with code ${code} on ${title}`, () => {
    using server = serverOf({ flowControl: LIMITS });
    for (const one of records) {
      assertEquals(server.link.faults, []);
      server.qmux.receive(one);
    }
    assertEquals(server.link.faults.map((fault) => fault.code), [code]);
    server.qmux.receive(stream(0, 99, 99)); // The stream has no reader.
    assertEquals(server.link.faults.length, 1);
  });
}

for (const version of [1, 2] as const) {
  Deno.test(`Qmux of draft 0${version} requires parameters first`, () => {
    const { qmux, link } = testEnd("server", { version });
    qmux.receive(stream(0, 0, 1));
    assertEquals(link.faults.map(({ code }) => code), [10]);
    qmux.end(new Error("Over"), false);
  });
}

Deno.test("Qmux ends the connection with code 8 on forbidden parameters", () => {
  for (const hex of ["ff5153300d0a0d0a020000", "ff5153300d0a0d0a0404050401"]) {
    const { qmux, link } = testEnd("server");
    qmux.receive(Uint8Array.fromHex(hex));
    assertEquals(link.faults.map(({ code }) => code), [8]);
    qmux.end(new Error("Over"), false);
  }
});

Deno.test("Qmux accepts a reset without a size if it is lenient", async () => {
  using server = serverOf({ isLenient: true });
  server.qmux.receive(stream(2, 0, 5));
  const incoming = await nextUnidirectional(server.qmux);
  server.qmux.receive(control(0x04, 2, 9, 0));
  const error = await assertRejects(() => incoming.read(), StreamError);
  assertEquals({
    streamErrorCode: error.streamErrorCode,
    by: error.by,
    faults: server.link.faults.length,
  }, { streamErrorCode: 9, by: "remote", faults: 0 });
});

Deno.test("Qmux accepts bytes without an offset if it is lenient", async () => {
  const unplaced = Uint8Array.fromHex("0a02026162");
  using strict = serverOf();
  strict.qmux.receive(unplaced);
  strict.qmux.receive(unplaced.slice());
  assertEquals(strict.link.faults.map(({ code }) => code), [10]);
  using lenient = serverOf({ isLenient: true });
  for (let i = 0; i < 2; i++) lenient.qmux.receive(unplaced.slice());
  assertEquals((await (await nextUnidirectional(lenient.qmux)).read())!.byteLength, 4);
});

Deno.test("Qmux ignores late frames of a finished stream", async () => {
  using server = serverOf();
  server.qmux.receive(stream(2, 0, 5, true));
  await (await nextUnidirectional(server.qmux)).read();
  assertEquals(server.qmux.openStreams, 0);
  for (const one of [stream(2, 0, 9), control(0x04, 2, 0, 1), control(0x15, 2, 1)]) {
    server.qmux.receive(one);
  }
  assertEquals([server.link.faults, server.qmux.openStreams], [[], 0]);
});

Deno.test("Qmux opens all streams before the received stream, in order", async () => {
  using server = serverOf();
  server.qmux.receive(stream(8, 0, 1));
  const reader = server.qmux.incomingBidirectionalStreams.getReader();
  const ids: number[] = [];
  for (let i = 0; i < 3; i++) ids.push(((await reader.read()).value!).id);
  assertEquals(ids, [0, 4, 8]);
});

slowTest("Qmux removes streams that have ended", async () => {
  using pair = new TestPair();
  const { client, server } = pair;
  const STREAMS = 100_000;
  const echo = async () => {
    for await (const incoming of server.qmux.incomingBidirectionalStreams) {
      const bytes = await incoming.read();
      assertEquals(await incoming.read(), null);
      await incoming.write(bytes!);
      await incoming.close();
    }
  };
  const echoing = echo();
  const ask = async (i: number) => {
    const near = await client.qmux.createBidirectionalStream();
    await near.write(Uint8Array.of(i));
    await near.close();
    assertEquals(await near.read(), Uint8Array.of(i & 255));
    assertEquals(await near.read(), null);
  };
  for (let i = 0; i < STREAMS; i += 100) {
    const all = Promise.all(Array.from({ length: 100 }, (_, at) => ask(i + at)));
    await pair.settle();
    await all;
  }
  await pair.settle();
  assertEquals([client.qmux.openStreams, server.qmux.openStreams], [0, 0]);
  assertEquals(client.qmux.counters!.streamsClosed, STREAMS);
  assertEquals(server.qmux.counters!.streamsClosed, STREAMS);
  server.qmux.end(new Error("Over"), false);
  await echoing;
});

Deno.test("Qmux never passes on more than its bound and a record", async () => {
  using server = serverOf();
  const writer = directStream(await server.qmux.createUnidirectionalStream());
  const writing = writer.write(new Uint8Array(1_000_000));
  await Promise.resolve();
  const { link } = server;
  assert(link.bufferedAmount >= MAX_BUFFERED_BYTES);
  for (let i = 0; i < 100 && link.records.length > 0; i++) {
    link.take();
    await Promise.resolve();
  }
  await writing;
  assert(link.mostBytes <= MAX_BUFFERED_BYTES + MAX_RECORD_BYTES, `${link.mostBytes}`);
});

Deno.test("Qmux shares the connection between streams of one order, and serves a higher one first", async () => {
  using server = serverOf();
  const { qmux, link } = server;
  const open = async (sendOrder?: number) => {
    const options = sendOrder === undefined ? {} : { sendOrder };
    return await qmux.createBidirectionalStream(options);
  };
  const filler = await open();
  const a = await open(1);
  const b = await open(1);
  const c = await open(2);
  // From here on, the link is full.
  void filler.write(new Uint8Array(500_000)).catch(() => {});
  const writes = [a, b, c].map((one) => one.write(new Uint8Array(100_000)));
  while (link.bufferedAmount > 0) link.take();
  const order: number[] = [];
  let done = false;
  const all = Promise.all(writes).then(() => done = true);
  for (let i = 0; i < 1_000 && !done; i++) {
    await Promise.resolve();
    for (let one; (one = link.take()) !== undefined;) {
      for (const frame of decodeRecord(one)) if (frame.kind === "stream") order.push(frame.id);
    }
  }
  await all;
  const name = new Map([[filler.id, "f"], [a.id, "a"], [b.id, "b"], [c.id, "c"]]);
  const text = order.map((id) => name.get(id)).join("").replace(/(.)\1+/g, "$1");
  assert(/^f?cf?(ab){4,}/.test(text), text);
});

Deno.test("Qmux announces a stream without data", async () => {
  using pair = new TestPair();
  const opening = pair.client.qmux.createBidirectionalStream();
  await pair.settle();
  const near = await opening;
  await new Promise((resolve) => setTimeout(resolve, 5));
  await pair.settle();
  const far = await nextBidirectional(pair.server.qmux);
  await far.write(Uint8Array.of(1));
  await pair.settle();
  assertEquals(await near.read(), Uint8Array.of(1));
});

Deno.test("Qmux holds few bytes more than it received, however small the pieces are", async () => {
  using server = serverOf();
  for (let i = 0; i < 50_000; i++) server.qmux.receive(stream(2, i, 1));
  const far = await nextUnidirectional(server.qmux);
  let reads = 0;
  for (let size = 0; size < 50_000; reads++) size += (await far.read())!.byteLength;
  assert(reads < 10, `${reads} reads`);
});

Deno.test("Qmux reads the frames after large bytes in a record, whichever reader takes the bytes", async () => {
  using server = serverOf();
  const { qmux } = server;
  qmux.receive(stream(0, 0, 0));
  const accepting = qmux.incomingBidirectionalStreams.getReader();
  const { value: accepted } = await accepting.read();
  // A web stream transfers the memory of its chunks to its reader.
  const reading = new Response(accepted!.readable).bytes();
  await turn();
  qmux.receive(record((writer) => {
    const bytes = new Uint8Array(40_000);
    writer.stream(0, 0, { bytes, start: 0, end: bytes.byteLength }, false);
    writer.stream(0, bytes.byteLength, { bytes, start: 0, end: 0 }, true);
  }));
  assertEquals((await reading).byteLength, 40_000);
});

Deno.test("Qmux does not keep a large record for a small part of it", async () => {
  using server = serverOf();
  const padded = (frame: Uint8Array) => {
    const whole = new Uint8Array(60_000);
    whole.set(frame, whole.length - frame.length);
    return whole;
  };
  server.qmux.receive(padded(stream(2, 0, 5_000)));
  server.qmux.receive(padded(record((writer) => writer.datagram(new Uint8Array(5_000)))));
  const chunk = (await (await nextUnidirectional(server.qmux)).read())!;
  assertEquals([chunk.byteLength, chunk.buffer.byteLength], [5_000, 5_000]);
  const datagram = (await server.qmux.datagrams.readable.getReader().read()).value!;
  assertEquals([datagram.byteLength, datagram.buffer.byteLength], [5_000, 5_000]);
});

Deno.test("Qmux drops the oldest datagrams that wait to be sent, and those that are too large", async () => {
  const { qmux, link } = testEnd("client");
  const { datagrams } = qmux;
  for (let i = 0; i < MAX_WAITING_DATAGRAMS + 10; i++) datagrams.direct!.send(Uint8Array.of(i));
  datagrams.direct!.send(new Uint8Array(datagrams.maxDatagramSize + 1));
  assertEquals(qmux.counters!.datagramsDropped, 11);
  qmux.receive(parameters());
  const frames = await sent({ qmux, link });
  assertEquals(frames.length, MAX_WAITING_DATAGRAMS);
  assertEquals(frames[0], { kind: "datagram", data: Uint8Array.of(10), frameSize: 3 });
  assertEquals(qmux.counters!.datagramsSent, MAX_WAITING_DATAGRAMS);
  qmux.end(new Error("Over"), false);
});

Deno.test("Qmux drops the oldest unread datagrams", async () => {
  using server = serverOf();
  for (let i = 0; i < MAX_HELD_DATAGRAMS + 5; i++) {
    server.qmux.receive(record((writer) => writer.datagram(Uint8Array.of(i & 255))));
  }
  assertEquals(server.qmux.counters!.datagramsDropped, 5);
  const reader = server.qmux.datagrams.readable.getReader();
  assertEquals((await reader.read()).value, Uint8Array.of(5));
});

Deno.test("Qmux sends no datagram to a peer that accepts none", async () => {
  using server = serverOf({}, { maxDatagramFrameSize: 0 });
  assertEquals(server.qmux.datagrams.maxDatagramSize, 0);
  server.qmux.datagrams.direct!.send(Uint8Array.of(1));
  assertEquals(await sent(server), []);
  assertEquals(server.qmux.counters!.datagramsDropped, 1);
});

Deno.test("Qmux replies to the last of several pings", async () => {
  using server = serverOf();
  await sent(server);
  server.qmux.receive(record((writer) => {
    writer.ping(PING_TYPE, 5n);
    writer.ping(PING_TYPE, 2n ** 62n - 1n);
  }));
  assertEquals(await sent(server), [{ kind: "pong", sequence: 2n ** 62n - 1n }]);
});

Deno.test("Qmux sends a ping before its peer's idle timeout", async () => {
  using time = new FakeTime();
  using server = serverOf({}, { maxIdleTimeoutMs: 30_000 });
  await time.tickAsync(0);
  for (let one; (one = server.link.take()) !== undefined;) void one;
  for (let i = 0; i < 3; i++) {
    await time.tickAsync(20_000);
    await turns(1);
    assert(server.link.records.length > 0);
    for (let one; (one = server.link.take()) !== undefined;) {
      const [ping] = decodeRecord(one);
      assert(ping?.kind === "ping");
      server.qmux.receive(record((writer) => writer.ping(PONG_TYPE, ping.sequence)));
    }
  }
  assertEquals(server.link.faults, []);
});

Deno.test("Qmux reports the peer's close, and a violation that the peer reported", () => {
  using server = serverOf();
  server.qmux.receive(record((writer) => writer.close(4_001, "bye")));
  assertEquals(server.link.closes, [{ closeCode: 4_001, reason: "bye" }]);
  using other = serverOf();
  other.qmux.receive(record((writer) => writer.close(3, "too much", 0)));
  assertEquals(other.link.failures, [{ code: 3, reason: "too much" }]);
});

Deno.test("Qmux keeps its payloads small for peers with small records", async () => {
  using server = serverOf({}, { maxRecordSize: 16_382 });
  const near = directStream(await server.qmux.createUnidirectionalStream());
  const writing = near.write(new Uint8Array(50_000));
  let largest = 0;
  for (const frame of await sent(server)) {
    if (frame.kind === "stream") largest = Math.max(largest, frame.data.byteLength);
  }
  await writing;
  assertEquals(largest, 16_352);
});

Deno.test("Qmux sends at its end the frames that a write left pending", async () => {
  const server = serverOf();
  const near = directStream(await server.qmux.createUnidirectionalStream());
  await near.write(new Uint8Array(7));
  await near.close();
  server.qmux.end(new Error("Over"), false);
  const [frame, ...more] = await sent(server);
  assert(frame?.kind === "stream");
  assertEquals([frame.data.byteLength, more.length], [7, 1]);
});

Deno.test("Qmux resets a stream whose buffer was transferred before the bytes were sent", async () => {
  for (const maxData of [0, 5]) {
    using server = serverOf({}, { maxData });
    const near = await server.qmux.createUnidirectionalStream();
    const other = directStream(await server.qmux.createUnidirectionalStream());
    const bytes = new Uint8Array(10);
    const writer = near.getWriter();
    const writing = assertRejects(() => writer.write(bytes), TypeError, "was transferred");
    await sent(server);
    structuredClone(bytes, { transfer: [bytes.buffer] });
    const behind = other.write(Uint8Array.of(1));
    server.qmux.receive(control(0x10, 100));
    await Promise.all([writing, behind]);
    await assertRejects(() => writer.closed, TypeError);
    const frames = await sent(server);
    const reset = frames.find(({ kind }) => kind === "reset");
    assertEquals(reset, { kind: "reset", id: 3, code: 0, finalSize: maxData });
    assertEquals(frames.filter(({ kind }) => kind === "stream").length, 1);
  }
});

Deno.test("Qmux puts the end of a stream and the start of the next into one record", async () => {
  using server = serverOf();
  const one = await server.qmux.createBidirectionalStream();
  await one.write(Uint8Array.of(1));
  await sent(server);
  await one.close();
  // Like a connection, this opens a stream with a promise of its own.
  const open = async () => await server.qmux.createBidirectionalStream();
  await (await open()).write(Uint8Array.of(2));
  await turn();
  assertEquals(server.link.records.length, 1);
});

Deno.test("Qmux removes streams that were cut while the connection is blocked", async () => {
  using server = serverOf();
  const { qmux, link } = server;
  const near = directStream(await qmux.createUnidirectionalStream());
  const writing = near.write(new Uint8Array(1_000_000));
  await turn();
  const before = link.records.length;
  for (let id = 2; id < 4 * 10_000; id += 4) {
    qmux.receive(stream(id, 0, 1));
    (await nextUnidirectional(qmux)).cancel();
    qmux.receive(control(0x04, id, 0, 1));
  }
  assertEquals(
    { faults: link.faults, records: link.records.length, openStreams: qmux.openStreams },
    { faults: [], records: before, openStreams: 1 },
  );
  assert(qmux.waitingStreams < 2_000, `${qmux.waitingStreams} streams`);
  writing.catch(() => {});
});

Deno.test("Qmux drops waiting datagrams above the peer's limit", async () => {
  for (
    const [maxDatagramFrameSize, kept] of [[0, []], [100, [0, 50]], [16_382, [0, 50, 99]]] as const
  ) {
    const server = testEnd("server");
    const { direct } = server.qmux.datagrams;
    for (const length of [0, 50, 99]) direct!.send(new Uint8Array(length));
    server.qmux.receive(parameters({ maxDatagramFrameSize }));
    direct!.send(new Uint8Array());
    const lengths = (await sent(server)).map((frame) =>
      frame.kind === "datagram" ? frame.data.byteLength : frame.kind
    );
    assertEquals(lengths, kept.length === 0 ? [] : [...kept, 0]);
    assertEquals(server.qmux.ledger.datagramsDropped, 4 - lengths.length);
    server.qmux.end(new Error("Over"), false);
  }
});

Deno.test("Qmux bounds its pings, for any timeout of its peer", () => {
  using time = new FakeTime();
  using server = serverOf({}, { maxIdleTimeoutMs: 1 });
  const before = server.link.records.length;
  time.tick(1_000);
  assert(server.link.records.length - before <= 10);
});

Deno.test("Qmux keeps whole messages, when the connection ends", async () => {
  using server = serverOf();
  server.qmux.receive(stream(2, 0, 5, true));
  server.qmux.receive(stream(6, 0, 5));
  const whole = await nextUnidirectional(server.qmux);
  const cut = await nextUnidirectional(server.qmux);
  server.qmux.end(new Error("The wire broke"), true);
  assertEquals([(await whole.read())!.byteLength, await whole.read()], [5, null]);
  await assertRejects(() => cut.read(), Error, "The wire broke");
  const { streamsClosed, streamErrors } = server.qmux.counters!;
  assertEquals([streamsClosed, streamErrors], [2, 1]);
});
