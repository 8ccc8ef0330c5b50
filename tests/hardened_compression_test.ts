/**
 * Tests message compression on the hardened WebSocket engine, over raw TCP.
 *
 * @module
 */
import { assert, assertEquals, assertLess } from "@std/assert";
import { constants, deflateRawSync, inflateRawSync } from "node:zlib";
import { Buffer } from "node:buffer";
import type { ServeOptions } from "../server.ts";
import type { HardenedWebSocketOptions } from "../transport/hardened/mod.ts";
import { listenHardened } from "./hardened.ts";
import { frameOf, portOf, type RawFrame, RawSocket } from "./servers.ts";
import { until } from "./waiting.ts";

/** First byte of a compressed text frame. */
const COMPRESSED_TEXT = 0xc1;

const OFFER = { "sec-websocket-extensions": "permessage-deflate; client_max_window_bits" };

function listenCompressed(options: ServeOptions = {}, limits: HardenedWebSocketOptions = {}) {
  return listenHardened(options, { compression: true, ...limits }).server;
}

function deflate(text: string | Uint8Array): Buffer {
  return deflateRawSync(text, { finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, -4);
}

function textOf({ payload, isCompressed }: RawFrame): string {
  if (!isCompressed) return new TextDecoder().decode(payload);
  const whole = Buffer.concat([payload, Buffer.of(0, 0, 0xff, 0xff)]);
  return inflateRawSync(whole, { finishFlush: constants.Z_SYNC_FLUSH }).toString();
}

const LONG = "a text that repeats itself, ".repeat(40);

Deno.test("hardened engine compresses publications, but not messages to a single session", async () => {
  const server = listenCompressed({
    onMessage(message, session) {
      if (message.topic === "join") server.subscribe(session, "news");
      message.reply(LONG);
    },
  });
  await using _server = server;
  for (const protocol of ["", "skein.1"]) {
    using raw = await RawSocket.open(portOf(server), { protocol, headers: OFFER });
    assert(
      raw.head.includes(
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n",
      ),
      raw.head,
    );
    await raw.frame(JSON.stringify({ topic: "join", id: 1 }));
    let frame = (await raw.read())!;
    while (!textOf(frame).includes(LONG)) frame = (await raw.read())!;
    assertEquals(frame.isCompressed, false);
    server.publish("news", LONG);
    frame = (await raw.read())!;
    assertEquals([frame.isCompressed, JSON.parse(textOf(frame)).data], [true, LONG]);
    assertLess(frame.payload.length, 200);
    server.publish("news", "short");
    frame = (await raw.read())!;
    assertEquals([frame.isCompressed, JSON.parse(textOf(frame)).data], [false, "short"]);
    if (protocol === "") continue;
    // Publications of one turn share a frame. The frame stays uncompressed if it contains a message
    // to a single session.
    server.publish("news", LONG);
    server.publish("news", "short");
    frame = (await raw.read())!;
    const data = textOf(frame).split("\n").map((line) => JSON.parse(line).data);
    assertEquals([frame.isCompressed, data], [true, [LONG, "short"]]);
    server.publish("news", LONG);
    for (const session of server.manager.all()) session.send("own", "secret");
    frame = (await raw.read())!;
    assert(!frame.isCompressed && textOf(frame).includes("secret"));
  }
});

Deno.test("hardened engine does not compress without an offer, or without the option", async () => {
  for (const [compression, headers] of [[true, {}], [false, OFFER]] as const) {
    const server = listenCompressed({}, { compression });
    await using _server = server;
    using raw = await RawSocket.open(portOf(server), { headers });
    assert(!/extensions/i.test(raw.head));
    await until(() => server.manager.count === 1);
    for (const session of server.manager.all()) server.subscribe(session, "news");
    server.publish("news", LONG);
    const frame = (await raw.read())!;
    assertEquals([frame.isCompressed, JSON.parse(textOf(frame)).data], [false, LONG]);
    await raw.write(frameOf(deflate("{}"), { head: COMPRESSED_TEXT }));
    assertEquals((await raw.closed())?.code, 1002);
  }
});

Deno.test("hardened engine inflates messages of any size in order, in fragments and between pings", async () => {
  const received: unknown[] = [];
  const server = listenCompressed({ onMessage: ({ data }) => void received.push(data) });
  await using _server = server;
  using raw = await RawSocket.open(portOf(server), { headers: OFFER });
  // The data is random, so it exceeds 16 KiB even when compressed.
  const noise = Buffer.from(crypto.getRandomValues(new Uint8Array(45_000))).toString("base64");
  const texts = ["first", noise, "second", LONG, noise.slice(1), "third"];
  const frames = texts.map((data, i) => {
    const payload = deflate(JSON.stringify({ topic: "t", data }));
    if (i % 2 === 0) return frameOf(payload, { head: COMPRESSED_TEXT });
    return Buffer.concat([
      frameOf(payload.subarray(0, 10), { head: 0x41 }),
      frameOf("", { head: 0x89 }),
      frameOf(payload.subarray(10), { head: 0x80 }),
    ]);
  });
  // The close waits for a large message that was sent before it.
  await raw.write(Buffer.concat([...frames, frameOf("", { head: 0x88 })]));
  assertEquals((await raw.closed())?.code, 1005);
  assertEquals(received, texts);
});

Deno.test("hardened engine accepts a message that compresses by a factor of a thousand", async () => {
  const received: unknown[] = [];
  const server = listenCompressed({ onMessage: ({ data }) => void received.push(data) });
  await using _server = server;
  using raw = await RawSocket.open(portOf(server), { headers: OFFER });
  const data = Array.from({ length: 100_000 }, () => 0);
  const payload = deflate(JSON.stringify({ topic: "t", data }));
  assertLess(payload.length, 1_000);
  await raw.write(frameOf(payload, { head: COMPRESSED_TEXT }));
  await until(() => received.length === 1);
  assertEquals(received, [data]);
});

Deno.test("hardened engine closes a peer whose compressed messages are too large or invalid", async () => {
  const server = listenCompressed({ session: { maxMessageBytes: 100_000 } }, {
    handshakeBurst: Infinity,
  });
  await using _server = server;
  const rows: [name: string, frame: Uint8Array, code: number][] = [
    ["a bomb", frameOf(deflate(new Uint8Array(10_000_000)), { head: COMPRESSED_TEXT }), 4413],
    ["no deflate", frameOf(new Uint8Array([0xff, 0xff]), { head: COMPRESSED_TEXT }), 1007],
    ["no UTF-8", frameOf(deflate(Uint8Array.of(0xff)), { head: COMPRESSED_TEXT }), 1007],
    ["a compressed ping", frameOf("", { head: 0xc9 }), 1002],
    ["RSV2", frameOf("", { head: 0xa1 }), 1002],
    [
      "a compressed continuation",
      Buffer.concat([frameOf("a", { head: 0x01 }), frameOf("b", { head: 0xc0 })]),
      1002,
    ],
  ];
  for (const [name, frame, code] of rows) {
    using raw = await RawSocket.open(portOf(server), { headers: OFFER });
    await raw.write(frame);
    assertEquals((await raw.closed())?.code, code, name);
  }
  await until(() => server.manager.stats().sockets.open === 0);
});
