import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import { turns } from "../../testing/turns.ts";
import { frameOf } from "../../tests/servers.ts";
import { FrameMaker } from "./socket.ts";
import {
  HardenedSocket,
  MAX_UNSENT_PONG_BYTES,
  type NodeWebSocket,
  NodeWebSocketServer,
} from "./socket.ts";
import { platformRuntime } from "../../base/runtime.ts";

const PING = 0x89;

/** A TCP socket whose system takes no bytes until the test allows. */
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
  setNoDelay(): void {}
}

/** Upgrades a stuck socket. */
function upgrade(): { stuck: StuckSocket; socket: HardenedSocket } {
  const stuck = new StuckSocket();
  const server = new NodeWebSocketServer({
    noServer: true,
    autoPong: false,
    clientTracking: false,
    perMessageDeflate: false,
    skipUTF8Validation: false,
    maxPayload: 1_024,
    maxBufferedChunks: 64,
    maxFragments: 64,
    closeTimeout: 60_000,
    handleProtocols: () => false,
    WebSocket: HardenedSocket as new (...args: never) => NodeWebSocket,
  });
  const headers = {
    upgrade: "websocket",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
  };
  let socket: HardenedSocket | undefined;
  server.handleUpgrade(
    { method: "GET", headers } as unknown as IncomingMessage,
    stuck,
    new Uint8Array(),
    (upgraded) => {
      socket = upgraded as HardenedSocket;
    },
  );
  assert(socket !== undefined);
  socket.attach(stuck as unknown as Socket, {
    runtime: platformRuntime(),
    frames: new FrameMaker(),
    closeTimeoutMs: 5_000,
  });
  return { stuck, socket };
}

Deno.test("HardenedSocket closes a flood of pings behind the pongs that it holds, and then drops it", async () => {
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
  assert(at - head > MAX_UNSENT_PONG_BYTES - 127, "pongs up to the bound");
  const reason = "More pings came than answers were read";
  assertEquals([...bytes.slice(at, at + 4)], [0x88, 2 + reason.length, 1008 >> 8, 1008 & 0xff]);
  assertEquals(new TextDecoder().decode(bytes.slice(at + 4)), reason);
  assertEquals(stuck.destroyed, false);
  await time.tickAsync(5_000);
  assert(stuck.destroyed, "the time to answer a close");
});

Deno.test("HardenedSocket answers any number of pings whose answers are taken", async () => {
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
