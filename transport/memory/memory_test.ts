import { assert, assertEquals, assertGreater, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime, type Timer } from "../../base/runtime.ts";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import type { Connection, Frame, MessageFrames } from "../connection.ts";
import { type MemoryFaults, memoryPair } from "./memory.ts";

function framesOf(connection: Connection): MessageFrames {
  assert(connection.frames !== undefined);
  return connection.frames;
}

function record(connection: Connection): Frame[] {
  const frames: Frame[] = [];
  framesOf(connection).receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
  return frames;
}

/** Sends numbered datagrams, closes the pair, and reads the datagrams that arrived. */
async function exchange(
  faults: MemoryFaults,
  count: number,
  random: number | (() => number) = 1,
): Promise<number[]> {
  using time = new FakeTime();
  const pair = memoryPair({ faults, random });
  const writer = pair.client.datagrams.writable.getWriter();
  for (let i = 0; i < count; i++) await writer.write(Uint8Array.of(i));
  await time.tickAsync(10_000);
  const reading = Array.fromAsync(pair.server.datagrams.readable, (datagram) => datagram[0]!);
  await pair[Symbol.asyncDispose]();
  return await reading;
}

Deno.test("memoryPair() delivers in a microtask, without timers", async () => {
  using _time = new FakeTime();
  await using pair = memoryPair();
  const frames = record(pair.server);
  framesOf(pair.client).send("hello");
  assertEquals(frames, []);
  await Promise.resolve();
  assertEquals(frames, ["hello"]);
});

Deno.test("memoryPair() gives the receiver its own copy of the bytes", async () => {
  await using pair = memoryPair();
  const frames = record(pair.server);
  const sent = Uint8Array.of(1, 2);
  framesOf(pair.client).send(sent);
  await Promise.resolve();
  sent[0] = 9;
  assertEquals(frames, [Uint8Array.of(1, 2)]);
});

Deno.test("memoryPair() has the features that its options enable", async () => {
  await using pair = memoryPair({ protocol: "", frames: false, streams: false, datagrams: false });
  assertEquals(pair.client.protocol, "");
  assertEquals(pair.client.frames, undefined);
  assertEquals(pair.client.capabilities, {
    streams: false,
    datagrams: "none",
    resetCodes: false,
    credit: false,
    independentStreams: true,
  });
});

Deno.test("memoryPair() rejects faults that are out of range", () => {
  for (const name of ["lossRate", "reorderRate"] as const) {
    for (const value of [-0.1, 1.1, NaN]) {
      assertThrows(
        () => memoryPair({ faults: { [name]: value } }),
        RangeError,
        `faults.${name} must be from 0 to 1, received ${value}`,
      );
    }
  }
  for (const name of ["delayMs", "jitterMs"] as const) {
    for (const value of [-1, NaN, Infinity]) {
      assertThrows(() => memoryPair({ faults: { [name]: value } }), RangeError, `${value}`);
    }
  }
});

Deno.test("MemoryLink.setFaults() delays one direction", async () => {
  using time = new FakeTime();
  await using pair = memoryPair();
  pair.link.setFaults({ delayMs: 50 }, "to-server");
  const atServer = record(pair.server);
  const atClient = record(pair.client);
  framesOf(pair.client).send("slow");
  framesOf(pair.server).send("fast");
  await time.tickAsync(49);
  assertEquals([atServer, atClient], [[], ["fast"]]);
  await time.tickAsync(1);
  assertEquals(atServer, ["slow"]);
});

Deno.test("MemoryLink.setFaults() keeps frames in order when the delay decreases", async () => {
  using time = new FakeTime();
  await using pair = memoryPair({ faults: { delayMs: 50 } });
  const frames = record(pair.server);
  framesOf(pair.client).send("1");
  pair.link.setFaults({ delayMs: 0 });
  framesOf(pair.client).send("2");
  await time.tickAsync(49);
  assertEquals(frames, []);
  await time.tickAsync(1);
  assertEquals(frames, ["1", "2"]);
});

Deno.test("MemoryLink.setFaults() with jitter spreads frames and keeps their order", async () => {
  using time = new FakeTime();
  await using pair = memoryPair({ faults: { delayMs: 10, jitterMs: 20 }, random: 7 });
  const arrivals: number[] = [];
  const start = Date.now();
  framesOf(pair.server).receive({
    receiveFrame: () => arrivals.push(Date.now() - start),
    framesEnded() {},
  });
  for (let i = 0; i < 20; i++) framesOf(pair.client).send(`${i}`);
  await time.tickAsync(30);
  assertEquals(arrivals.length, 20);
  assertEquals(arrivals, arrivals.toSorted((a, b) => a - b));
  assert(arrivals[0]! >= 10 && arrivals.at(-1)! <= 30);
  assertGreater(new Set(arrivals).size, 1);
});

Deno.test("memoryPair() loses datagrams at the given rate, the same for the same seed", async () => {
  assertEquals(await exchange({ lossRate: 1 }, 20), []);
  const some = await exchange({ lossRate: 0.5 }, 100, 42);
  assert(some.length > 25 && some.length < 75, `${some.length}`);
  assertEquals(await exchange({ lossRate: 0.5 }, 100, 42), some);
  const every = [0.9, 0.1];
  let turn = 0;
  const odd = await exchange({ lossRate: 0.5 }, 4, () => every[turn++ % 2]!);
  assertEquals(odd, [0, 2]);
});

Deno.test("memoryPair() loses no frame and no stream at any rate", async () => {
  await using pair = memoryPair({ faults: { lossRate: 1, reorderRate: 1 } });
  const frames = record(pair.server);
  for (const frame of ["1", "2", "3"]) framesOf(pair.client).send(frame);
  const stream = await pair.client.createUnidirectionalStream();
  const writer = stream.getWriter();
  for (const byte of [1, 2, 3]) await writer.write(Uint8Array.of(byte));
  await writer.close();
  for await (const incoming of pair.server.incomingUnidirectionalStreams) {
    assertEquals((await Array.fromAsync(incoming)).map((chunk) => chunk[0]), [1, 2, 3]);
    break;
  }
  assertEquals(frames, ["1", "2", "3"]);
});

Deno.test("memoryPair() reorders datagrams that are in flight at the same time", async () => {
  assertEquals(await exchange({ delayMs: 5 }, 10), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const mixed = await exchange({ delayMs: 5, reorderRate: 0.5 }, 50, 3);
  const inOrder = Array.from({ length: 50 }, (_, i) => i);
  assert(mixed.join() !== inOrder.join());
  assertEquals(mixed.toSorted((a, b) => a - b), inOrder);
});

Deno.test("MemoryLink.disconnect() rejects closed on both sides immediately", async () => {
  await using pair = memoryPair();
  const frames = record(pair.server);
  const opened = await pair.client.createBidirectionalStream();
  const reading = opened.readable.getReader().read();
  framesOf(pair.client).send("lost");
  pair.link.disconnect();
  for (const end of [pair.client, pair.server]) {
    await assertRejects(() => end.closed, ConnectionError);
    await assertRejects(() => Array.fromAsync(end.incomingBidirectionalStreams), ConnectionError);
    await assertRejects(() => Array.fromAsync(end.datagrams.readable), ConnectionError);
    await assertRejects(() => end.createBidirectionalStream(), ConnectionError);
  }
  await assertRejects(() => reading, ConnectionError);
  assertEquals(frames, []);
});

Deno.test("MemoryLink.disconnect() leaves no unhandled rejection without a listener", async () => {
  const pair = memoryPair();
  await pair.client.createBidirectionalStream();
  await pair.server.createUnidirectionalStream();
  pair.link.disconnect();
  await new Promise((resolve) => setTimeout(resolve, 0));
});

Deno.test("MemoryLink.disconnect() does not affect an end that has closed", async () => {
  await using pair = memoryPair();
  pair.client.close({ closeCode: 3000 });
  pair.link.disconnect();
  assertEquals((await pair.client.closed).closeCode, 3000);
  await assertRejects(() => pair.server.closed, ConnectionError);
});

Deno.test("MemoryLink.disconnect() reports nothing when silent", async () => {
  using time = new FakeTime();
  await using pair = memoryPair({ faults: { delayMs: 5 } });
  const frames = [record(pair.client), record(pair.server)];
  let settled = 0;
  for (const end of [pair.client, pair.server]) end.closed.finally(() => settled++);
  framesOf(pair.client).send("under way");
  pair.link.disconnect({ silent: true });
  for (const end of [pair.client, pair.server]) framesOf(end).send("vanishes");
  await time.tickAsync(60_000);
  assertEquals(frames, [[], []]);
  assertEquals(framesOf(pair.client).bufferedAmount, 0);
  pair.client.close({ closeCode: 4408 });
  assertEquals((await pair.client.closed).closeCode, 4408);
  await time.tickAsync(60_000);
  assertEquals(settled, 1);
});

Deno.test("MemoryLink.stall() leaves frames with the sender until resume()", async () => {
  using time = new FakeTime();
  await using pair = memoryPair();
  const frames = record(pair.client);
  const sender = framesOf(pair.server);
  pair.link.stall("to-client");
  const chunk = "x".repeat(sender.lowWaterMark);
  for (let i = 0; i < 3; i++) sender.send(chunk);
  let drained = false;
  const waiting = sender.drained().then(() => drained = true);
  await time.tickAsync(1000);
  assertEquals(sender.bufferedAmount, 3 * sender.lowWaterMark);
  assertEquals([frames.length, drained], [0, false]);
  pair.link.resume("to-client");
  await waiting;
  await time.tickAsync(0);
  assertEquals([frames.length, sender.bufferedAmount], [3, 0]);
});

Deno.test("MemoryLink.stall() holds back a delayed close, which arrives after the frames", async () => {
  using time = new FakeTime();
  await using pair = memoryPair({ faults: { delayMs: 10 } });
  const frames = record(pair.server);
  framesOf(pair.client).send("last words");
  pair.client.close({ closeCode: 3000 });
  pair.link.stall("to-server");
  await time.tickAsync(1000);
  assertEquals(frames, []);
  pair.link.resume("to-server");
  assertEquals((await pair.server.closed).closeCode, 3000);
  assertEquals(frames, ["last words"]);
});

Deno.test("MemoryLink.stall() lets a close reach drained()", async () => {
  await using pair = memoryPair();
  const sender = framesOf(pair.server);
  pair.link.stall();
  sender.send("x".repeat(sender.lowWaterMark + 1));
  const waiting = sender.drained();
  pair.server.close();
  await waiting;
});

Deno.test("MemoryLink.drain() resolves draining at the receiving side", async () => {
  await using pair = memoryPair();
  let serverAsked = false;
  pair.server.draining.then(() => serverAsked = true);
  pair.link.drain("to-client");
  await pair.client.draining;
  assertEquals(serverAsked, false);
});

Deno.test("memoryPair() leaves no timer after the close of both sides", async () => {
  using time = new FakeTime();
  const pair = memoryPair({ faults: { delayMs: 50 } });
  for (const end of [pair.client, pair.server]) framesOf(end).send("under way");
  await pair[Symbol.asyncDispose]();
  assertEquals(await time.nextAsync(), false);
});

Deno.test("Connection.createUnidirectionalStream() waits for the peer to accept streams", async () => {
  using time = new FakeTime();
  await using pair = memoryPair();
  for (let i = 0; i < 100; i++) await pair.client.createUnidirectionalStream();
  const controller = new AbortController();
  const { signal } = controller;
  const aborted = assertRejects(() => pair.client.createUnidirectionalStream({ signal }), Error);
  const late = assertRejects(
    () => pair.client.createUnidirectionalStream({ timeoutMs: 1000 }),
    TimeoutError,
  );
  const patient = pair.client.createUnidirectionalStream({ timeoutMs: 5000 });
  const rejected = pair.client.createUnidirectionalStream();
  controller.abort(new Error("changed my mind"));
  await aborted;
  await time.tickAsync(1000);
  await late;
  const incoming = pair.server.incomingUnidirectionalStreams.getReader();
  await incoming.read();
  await patient;
  pair.client.close();
  await assertRejects(() => rejected, ConnectionError);
});

Deno.test("Connection.incomingBidirectionalStreams rejects streams when cancelled", async () => {
  await using pair = memoryPair();
  await pair.server.incomingBidirectionalStreams.cancel();
  const { readable, writable } = await pair.client.createBidirectionalStream();
  await assertRejects(() => readable.getReader().read());
  await assertRejects(() => writable.getWriter().closed);
});

Deno.test("Connection streams over memory can be read into the reader's own buffer", async () => {
  await using pair = memoryPair();
  const writer = (await pair.client.createUnidirectionalStream()).getWriter();
  await writer.write(Uint8Array.of(1, 2, 3));
  await writer.close();
  const incoming = await pair.server.incomingUnidirectionalStreams.getReader().read();
  const reader = incoming.value!.getReader({ mode: "byob" });
  assertEquals((await reader.read(new Uint8Array(2))).value, Uint8Array.of(1, 2));
  assertEquals((await reader.read(new Uint8Array(2))).value, Uint8Array.of(3));
  assertEquals((await reader.read(new Uint8Array(2))).done, true);
});

Deno.test("Connection streams over memory can be read after the connection closed", async () => {
  await using pair = memoryPair();
  const writer = (await pair.client.createUnidirectionalStream()).getWriter();
  await writer.write(Uint8Array.of(1, 2, 3));
  await writer.close();
  pair.client.close();
  await pair.server.closed;
  const streams = await Array.fromAsync(pair.server.incomingUnidirectionalStreams);
  assertEquals(await Array.fromAsync(streams[0]!), [Uint8Array.of(1, 2, 3)]);
});

Deno.test("memoryPair() counts unread datagrams as lost", async () => {
  await using pair = memoryPair();
  const writer = pair.client.datagrams.writable.getWriter();
  for (let i = 0; i < 300; i++) await writer.write(Uint8Array.of(1));
  while (pair.server.inspect!.counters?.datagramsReceived !== 300) await Promise.resolve();
  assertEquals(pair.server.inspect!.counters.datagramsDropped, 300 - 256);
  assertEquals(pair.client.inspect!.counters!.datagramsSent, 300);
});

Deno.test("memoryPair() counts each byte once in its statistics", async () => {
  await using pair = memoryPair();
  pair.client.frames!.send("12345");
  const writer = (await pair.client.createUnidirectionalStream()).getWriter();
  await writer.write(new Uint8Array(100));
  const datagrams = pair.client.datagrams.writable.getWriter();
  await datagrams.write(new Uint8Array(7));
  await pair.server.datagrams.readable.getReader().read();
  assertEquals((await pair.client.getStats()).bytesSent, 112);
  assertEquals((await pair.server.getStats()).bytesReceived, 112);
});

Deno.test("memoryPair() withheldCredit stops at its bytes and at its streams, and first reports that it is worn", async () => {
  await using pair = memoryPair({ withheldCredit: { bytes: 1_000, streams: 120 } });
  let isWorn = false;
  void pair.worn.then(() => isWorn = true);
  const reader = pair.client.incomingUnidirectionalStreams.getReader();
  for (let i = 0; i < 89; i++) {
    await pair.server.createUnidirectionalStream();
    await reader.read();
  }
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(isWorn, false);
  for (let i = 89; i < 120; i++) {
    await pair.server.createUnidirectionalStream();
    await reader.read();
  }
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(isWorn, true);
  await assertRejects(() => pair.server.createUnidirectionalStream({ timeoutMs: 1 }), TimeoutError);
  const frames: unknown[] = [];
  pair.client.frames!.receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
  for (let i = 0; i < 3; i++) pair.server.frames!.send("x".repeat(500));
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(frames.length, 2);
  assertThrows(
    () => memoryPair({ withheldCredit: { bytes: 1, streams: 99 } }),
    RangeError,
    "streams must be 100 or more, received 99",
  );
});

Deno.test("memoryPair() delays by the clock and the timers of its runtime", async () => {
  let now = 1_000;
  const timers: { readonly callback: () => void; readonly ms: number }[] = [];
  const runtime = Object.assign(platformRuntime(), {
    now: () => now,
    setTimeout: (callback: () => void, ms: number) =>
      timers.push({ callback, ms }) as unknown as Timer,
    clearTimeout: () => {},
  });
  await using pair = memoryPair({ runtime, faults: { delayMs: 60_000 } });
  const frames: Frame[] = [];
  const receiveFrame = (frame: Frame) => void frames.push(frame);
  pair.client.frames!.receive({ receiveFrame, framesEnded() {} });
  pair.server.frames!.send("late");
  assertEquals([frames, timers.map(({ ms }) => ms)], [[], [60_000]]);
  now += 60_000;
  timers[0]!.callback();
  assertEquals(frames, ["late"]);
});
