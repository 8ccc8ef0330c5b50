import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import type { Socket } from "node:net";
import { Buffer } from "node:buffer";
import { Duplex } from "node:stream";
import { constants, deflateRawSync } from "node:zlib";
import { turns } from "../../tests/waiting.ts";
import { frameOf } from "../../tests/servers.ts";
import type { FrameLimits } from "./frame_reader.ts";
import { WriteTurn } from "./frame_writer.ts";
import { HardenedSocket, INFLATE_RATE, MAX_UNSENT_PONG_BYTES, SocketLiveness } from "./socket.ts";
import { platformRuntime } from "../../base/runtime.ts";

const PING = 0x89;

/** A TCP socket whose system accepts no bytes until the test allows it. */
class StuckSocket extends Duplex {
  readonly written: Uint8Array[] = [];
  readonly #waiting: (() => void)[] = [];
  #isStuck = true;

  override _read(): void {}

  override _write(chunk: Uint8Array, _encoding: string, taken: () => void): void {
    this.written.push(chunk);
    if (this.#isStuck) this.#waiting.push(taken);
    else taken();
  }

  loosen(): void {
    this.#isStuck = false;
    for (const taken of this.#waiting.splice(0)) taken();
  }

  setTimeout(): void {}
  hasDelay = true;

  setNoDelay(): void {
    this.hasDelay = false;
  }
}

/** Opens a WebSocket on a stuck socket. */
function upgrade(
  limits: Partial<FrameLimits> = {},
): { stuck: StuckSocket; socket: HardenedSocket } {
  const stuck = new StuckSocket();
  const greeting = Buffer.from("HTTP/1.1 101 Switching Protocols\r\n\r\n");
  const socket = new HardenedSocket(stuck as unknown as Socket, greeting, {
    // FakeTime has no `performance.now()`.
    runtime: Object.assign(platformRuntime(), { monotonic: () => Date.now() }),
    turn: new WriteTurn(),
    limits: { maxPayloadBytes: 1_024, maxFragments: 64, allowsCompression: false, ...limits },
    closeTimeoutMs: 5_000,
    protocol: "",
  });
  stuck.on("data", (chunk: Buffer) => socket.receiveBytes(chunk));
  stuck.on("close", () => socket.socketClosed());
  socket.flush();
  return { stuck, socket };
}

Deno.test("HardenedSocket closes after its held pongs during a flood of pings, and then drops the peer", async () => {
  using time = new FakeTime();
  const { stuck, socket } = upgrade();
  const pings = new Uint8Array(500 * 131);
  for (let i = 0; i < 500; i++) {
    pings.set(frameOf("x".repeat(125), { head: PING }), i * 131);
  }
  for (let read = 0; read < 10; read++) {
    stuck.push(pings);
    await turns(1);
  }
  assertEquals(socket.readyState, WebSocket.CLOSING);
  stuck.loosen();
  await turns(1);
  const bytes = new Uint8Array(stuck.written.flatMap((chunk) => [...chunk]));
  const head = new TextDecoder().decode(bytes).indexOf("\r\n\r\n") + 4;
  let at = head;
  while (bytes[at] === 0x8a) at += 2 + bytes[at + 1]!;
  assertLessOrEqual(at - head, MAX_UNSENT_PONG_BYTES);
  assert(at - head > MAX_UNSENT_PONG_BYTES - 127, "pongs up to the limit");
  const reason = "Too many pongs are unread";
  assertEquals([...bytes.slice(at, at + 4)], [0x88, 2 + reason.length, 1008 >> 8, 1008 & 0xff]);
  assertEquals(new TextDecoder().decode(bytes.slice(at + 4)), reason);
  assertEquals(stuck.destroyed, false);
  await time.tickAsync(5_000);
  assert(stuck.destroyed, "the time to reply to a close");
});

Deno.test("HardenedSocket.flushed() of a broken socket waits for the close event", async () => {
  const { stuck, socket } = upgrade();
  await turns(1);
  stuck.destroy();
  assertEquals([stuck.closed, stuck.writableLength > 0], [true, true]);
  await socket.flushed();
  assertEquals(socket.readyState, WebSocket.CLOSED);
  await socket.flushed();
});

Deno.test("HardenedSocket sends frames without the delay of Nagle's algorithm", () => {
  const { stuck, socket } = upgrade();
  assertEquals(stuck.hasDelay, false);
  socket.terminate();
});

Deno.test("HardenedSocket replies to any number of pings of a peer that reads", async () => {
  const { stuck, socket } = upgrade();
  stuck.loosen();
  const pings = new Uint8Array(1_000 * 7);
  for (let i = 0; i < 1_000; i++) pings.set(frameOf("x", { head: PING }), i * 7);
  for (let read = 0; read < 50; read++) {
    stuck.push(pings);
    await turns(1);
  }
  const pongs = stuck.written.slice(1).reduce((sum, { length }) => sum + length, 0) / 3;
  assertEquals(pongs, 50_000);
  socket.terminate();
  await turns(1);
});

/** The part of a socket that Liveness uses. */
class Fake {
  isHeard = true;
  isPaused = false;
  readyState = 1;
  pings = 0;
  isTerminated = false;
  liveness: SocketLiveness | undefined = undefined;

  ping(): void {
    this.pings++;
  }

  terminate(): void {
    this.isTerminated = true;
    this.liveness!.delete(this as unknown as HardenedSocket);
  }
}

function watched(liveness: SocketLiveness): Fake {
  const socket = new Fake();
  liveness.add(socket as unknown as HardenedSocket);
  return socket;
}

Deno.test("Liveness pings a silent socket, and ends it if it stays silent", () => {
  using time = new FakeTime();
  const socket = watched(new SocketLiveness(platformRuntime(), 900));
  time.tick(300);
  // The socket sent a message after it was added.
  assertEquals(socket.pings, 0);
  time.tick(300);
  assertEquals([socket.pings, socket.isTerminated], [1, false]);
  time.tick(300);
  assertEquals([socket.pings, socket.isTerminated], [1, true]);
});

Deno.test("Liveness does not end a socket that receives messages", () => {
  using time = new FakeTime();
  const socket = watched(new SocketLiveness(platformRuntime(), 900));
  for (let i = 0; i < 10; i++) {
    time.tick(300);
    socket.isHeard = true;
  }
  time.tick(300);
  assertEquals([socket.pings, socket.isTerminated], [0, false]);
  time.tick(300);
  assertEquals(socket.pings, 1);
  socket.isHeard = true;
  time.tick(600);
  assertEquals([socket.pings, socket.isTerminated], [2, false]);
  socket.terminate();
});

Deno.test("Liveness does not end a socket that is paused or closing", () => {
  using time = new FakeTime();
  const liveness = new SocketLiveness(platformRuntime(), 900);
  const paused = watched(liveness);
  const closing = watched(liveness);
  paused.isPaused = true;
  closing.readyState = 2;
  time.tick(3_000);
  // Pings continue while paused, because a failed write ends the socket.
  assertEquals([paused.pings, paused.isTerminated], [10, false]);
  assertEquals([closing.pings, closing.isTerminated], [0, false]);
  paused.terminate();
  closing.terminate();
});

/** Records the messages of a socket by length, and its close. */
function record(socket: HardenedSocket): { events: unknown[]; closed: Promise<void> } {
  const events: unknown[] = [];
  const { promise: closed, resolve } = Promise.withResolvers<void>();
  socket.addEventListener("message", (event) => {
    events.push(((event as MessageEvent).data as ArrayBuffer).byteLength);
  });
  socket.addEventListener("close", (event) => {
    const { code, wasClean } = event as CloseEvent;
    events.push([code, wasClean]);
    resolve();
  });
  return { events, closed };
}

Deno.test("HardenedSocket replies to a close that waited for resume() when the peer's bytes end", async () => {
  const { stuck, socket } = upgrade();
  const { events, closed } = record(socket);
  stuck.loosen();
  socket.pause();
  socket.receiveBytes(Buffer.from(frameOf(new Uint8Array(3), { head: 0x82 })));
  socket.receiveBytes(Buffer.from(frameOf(Uint8Array.of(0x03, 0xe8), { head: 0x88 })));
  assertEquals(events, []);
  socket.bytesEnded();
  assertEquals(events, [3]);
  stuck.destroy();
  await closed;
  assertEquals(events, [3, [1000, true]]);
});

Deno.test("HardenedSocket passes on a large compressed message that waited at the end, and then the close, once", async () => {
  const { stuck, socket } = upgrade({ maxPayloadBytes: 100_000, allowsCompression: true });
  const { events, closed } = record(socket);
  const bytes = crypto.getRandomValues(new Uint8Array(50_000));
  const payload = deflateRawSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, -4);
  socket.pause();
  socket.receiveBytes(Buffer.from(frameOf(new Uint8Array(payload), { head: 0xc2 })));
  socket.receiveBytes(Buffer.from(frameOf(new Uint8Array(3), { head: 0x82 })));
  stuck.destroy();
  await closed;
  await turns(5);
  assertEquals(events, [50_000, 3, [1006, false]]);
});

Deno.test("HardenedSocket reads inflated bytes at a bounded rate, one message at a time", async () => {
  using time = new FakeTime();
  const MIB = 1_048_576;
  const { stuck, socket } = upgrade({ maxPayloadBytes: 4 * MIB, allowsCompression: true });
  let received = 0;
  let isSeen = Promise.withResolvers<void>();
  socket.addEventListener("message", (event) => {
    received += (event as MessageEvent).data.byteLength;
    isSeen.resolve();
  });
  const payload = deflateRawSync(new Uint8Array(4 * MIB), { finishFlush: constants.Z_SYNC_FLUSH });
  const frame = frameOf(payload.subarray(0, -4), { head: 0xc2 });
  // 64 MiB in 64 KiB.
  stuck.push(Buffer.concat(Array.from({ length: 16 }, () => frame)));
  const next = async () => {
    await isSeen.promise;
    isSeen = Promise.withResolvers();
  };
  // The burst, and the message that exceeds it.
  for (let count = 1; count <= 5; count++) await next();
  assertEquals([received, socket.isPaused], [INFLATE_RATE.burst + 4 * MIB, true]);
  for (let count = 6; count <= 16; count++) {
    await time.tickAsync(499);
    assertEquals(received, (count - 1) * 4 * MIB);
    await time.tickAsync(1);
    await next();
    assertEquals(received, count * 4 * MIB);
  }
  socket.terminate();
  await turns(1);
  assertEquals(socket.readyState, WebSocket.CLOSED);
});

Deno.test("HardenedSocket passes on paced messages after the peer's end, and then the close", async () => {
  using time = new FakeTime();
  const { stuck, socket } = upgrade({ maxPayloadBytes: 1_048_576, allowsCompression: true });
  const events: string[] = [];
  const over = Promise.withResolvers<void>();
  socket.addEventListener("message", () => void events.push("message"));
  socket.addEventListener("close", () => {
    events.push("close");
    over.resolve();
  });
  const payload = deflateRawSync(new Uint8Array(1_048_576), {
    finishFlush: constants.Z_SYNC_FLUSH,
  });
  const frame = frameOf(payload.subarray(0, -4), { head: 0xc2 });
  stuck.push(Buffer.concat(Array.from({ length: 20 }, () => frame)));
  await turns(1);
  stuck.destroy();
  await turns(1);
  assertEquals(events.length, 17);
  await time.tickAsync(1_000);
  await over.promise;
  assertEquals(events, [...Array.from({ length: 20 }, () => "message"), "close"]);
});

Deno.test("HardenedSocket also paces empty compressed messages", async () => {
  using time = new FakeTime();
  const { stuck, socket } = upgrade({ allowsCompression: true });
  let received = 0;
  socket.addEventListener("message", () => void received++);
  const frame = frameOf(new Uint8Array([0]), { head: 0xc1 }); // Inflates to zero bytes.
  stuck.push(Buffer.concat(Array.from({ length: 40_000 }, () => frame)));
  await turns(1);
  const atOnce = INFLATE_RATE.burst / 512 + 1;
  assertEquals([received, socket.isPaused], [atOnce, true]);
  await time.tickAsync(1_000);
  assertEquals(received, 40_000);
  socket.terminate();
  await turns(1);
});
