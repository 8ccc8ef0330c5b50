// run_tests: alone, and first, as these tests wait for long in real time.
/**
 * Tests frames that RFC 6455 forbids, and allowed frames that no honest peer sends, on the hardened
 * WebSocket engine over raw TCP.
 *
 * @module
 */
import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import type { CloseInfo } from "../mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { connectFrom, listenHardened } from "./hardened.ts";
import { frameOf, portOf, RawSocket } from "./servers.ts";
import { soon, until } from "./waiting.ts";

/** First bytes of frames; FIN is 0x80. */
const CONTINUATION = 0x00, TEXT = 0x01, CLOSE = 0x88, PING = 0x89;
const LAST = 0x80;

const decoder = new TextDecoder();

function join(...frames: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(frames.flatMap((frame) => [...frame]));
}

/** The head of a masked frame with a declared length. */
function headOf(length: bigint): Uint8Array {
  const head = new Uint8Array(14);
  head.set([0x81, 0xff]);
  new DataView(head.buffer).setBigUint64(2, length);
  return head;
}

function closeOf(code: number, ...reason: readonly number[]): Uint8Array {
  return frameOf(new Uint8Array([code >> 8, code & 0xff, ...reason]), { head: CLOSE });
}

const bytes = (...values: readonly number[]) => new Uint8Array(values);

/**
 * One frame for each close code; `WebSocketFrameReader` has a test of all frames that RFC 6455
 * forbids.
 */
const FORBIDDEN: readonly (readonly [string, number, Uint8Array])[] = [
  ["an unmasked frame", 1002, frameOf("{}", { masked: false })],
  ["a length of 2^63", 4413, headOf(2n ** 63n)],
  ["invalid UTF-8", 1007, frameOf(bytes(0xff))],
  ["a close with 1006", 1002, closeOf(1006)],
];

Deno.test("hardened engine closes a peer that breaks RFC 6455, and releases the socket", async (t) => {
  const messages: unknown[] = [];
  const { engine, server } = listenHardened({ onMessage: ({ data }) => void messages.push(data) }, {
    handshakeBurst: Infinity,
  });
  await using _server = server;
  await Promise.all(FORBIDDEN.map(([name, code, frames]) =>
    t.step({
      name,
      sanitizeOps: false,
      sanitizeResources: false,
      sanitizeExit: false,
      async fn() {
        using raw = await RawSocket.open(portOf(server));
        // Frames after the bad one in the same write are ignored.
        await raw.write(join(frames, frameOf('{"topic":"t","data":"late"}')));
        assertEquals((await raw.closed())?.code, code);
        // The engine waits only briefly for the peer's close.
        assertEquals(await raw.read(), undefined);
      },
    })
  ));
  await until(() => engine.stats().connections === 0);
  await until(() => server.manager.count === 0);
  assertEquals(messages, []);
  assertEquals(server.manager.stats().sockets.open, 0);
});

Deno.test("hardened engine accepts all frames that RFC 6455 allows", async () => {
  const messages: unknown[] = [];
  const { server } = listenHardened({ onMessage: ({ data }) => void messages.push(data) });
  await using _server = server;
  using raw = await RawSocket.open(portOf(server));
  const whole = new TextEncoder().encode('{"topic":"t","data":"€"}');
  // Each byte has its own frame, so that one character spans three frames, with empty frames and
  // pings in between.
  const frames = [...whole].flatMap((byte, i) => [
    frameOf(bytes(byte), { head: i === 0 ? TEXT : CONTINUATION }),
    frameOf("", { head: CONTINUATION }),
    ...(i % 8 === 0 ? [frameOf(`${i}`, { head: PING })] : []),
  ]);
  await raw.write(join(...frames, frameOf("", { head: LAST | CONTINUATION })));
  for (const expected of ["0", "8", "16"]) {
    const { opcode, payload } = (await raw.read())!;
    assertEquals([opcode, new TextDecoder().decode(payload)], [10, expected]);
  }
  await until(() => messages.length === 1);
  // Writes each byte separately.
  raw.conn.setNoDelay(true);
  for (const byte of frameOf('{"topic":"t","data":2}')) await raw.write(bytes(byte));
  await until(() => messages.length === 2);
  // A length encoded in too many bytes, and a mask of zeros.
  const { length } = whole;
  await raw.write(join(bytes(0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, length, 0, 0, 0, 0), whole));
  await until(() => messages.length === 3);
  assertEquals(messages, ["€", 2, "€"]);
  // An unsolicited pong.
  await raw.write(join(frameOf("x", { head: 0x8a }), frameOf("", { head: CLOSE })));
  assertEquals(await raw.closed(), { code: 1005, reason: "" });
});

Deno.test("hardened engine answers a peer's close with the same code", async () => {
  let closed = Promise.withResolvers<CloseInfo>();
  const { server } = listenHardened({ onClose: (_session, info) => closed.resolve(info) });
  await using _server = server;
  // The peer's 1009 means that this side's message was too large.
  for (const code of [1001, 1009, 1011, 3000, 4999]) {
    closed = Promise.withResolvers();
    using raw = await RawSocket.open(portOf(server));
    await raw.write(join(closeOf(code, 0x6f, 0x6b), frameOf('{"topic":"t"}')));
    assertEquals(await raw.closed(), { code, reason: "ok" });
    raw[Symbol.dispose]();
    assertEquals(await soon(closed.promise), { code, reason: "ok", by: "remote" });
  }
  closed = Promise.withResolvers();
  using raw = await RawSocket.open(portOf(server));
  await raw.write(closeOf(1009));
  assertEquals(await raw.closed(), { code: 1009, reason: "" });
  raw[Symbol.dispose]();
  assertEquals((await soon(closed.promise)).code, 1009);
});

Deno.test("hardened engine answers thousands of simultaneous pings in order", async () => {
  const { server } = listenHardened();
  await using _server = server;
  using raw = await RawSocket.open(portOf(server));
  for (const count of [100, 5_000]) {
    const pings = Array.from({ length: count }, (_, i) => frameOf(`${i}`, { head: PING }));
    const writing = raw.write(join(...pings));
    for (let i = 0; i < count; i++) {
      const { opcode, payload } = (await raw.read())!;
      assertEquals([opcode, decoder.decode(payload)], [0xa, `${i}`]);
    }
    await writing;
  }
  // A request before the close is answered before the close.
  await raw.write(join(frameOf("last", { head: PING }), closeOf(1000)));
  assertEquals(decoder.decode((await raw.read())!.payload), "last");
  assertEquals(await raw.closed(), { code: 1000, reason: "" });
});

Deno.test("hardened engine closes with 1008 if a peer sends megabytes of pings and reads no pongs", async () => {
  const { server } = listenHardened({}, { closeTimeoutMs: 60_000 });
  await using _server = server;
  using raw = await RawSocket.open(portOf(server));
  const ping = frameOf("x".repeat(125), { head: PING });
  const pings = new Uint8Array(500 * ping.length);
  for (let i = 0; i < 500; i++) pings.set(ping, i * ping.length);
  for (let sent = 0; sent < 30_000_000; sent += pings.length) await soon(raw.write(pings));
  const reason = "Too many pongs are unread";
  assertEquals(await raw.closed(), { code: 1008, reason });
  await raw.write(closeOf(1008));
});

Deno.test("hardened engine drops a peer that keeps pinging without reading the pongs", async () => {
  const { engine, server } = listenHardened({}, { closeTimeoutMs: 200 });
  await using _server = server;
  using raw = await RawSocket.open(portOf(server));
  await until(() => server.manager.count === 1);
  const pings = join(
    ...Array.from({ length: 500 }, () => frameOf("x".repeat(125), { head: PING })),
  );
  let sent = 0;
  try {
    while (sent < 10_000_000_000) {
      await soon(raw.write(pings));
      sent += pings.length;
    }
  } catch { /* It was dropped. */ }
  assertLess(sent, 10_000_000_000);
  await until(() => engine.stats().connections === 0);
  await until(() => server.manager.count === 0);
});

Deno.test("hardened engine drops a silent peer that does not finish a frame in time", async () => {
  const engine = hardenedWebSocket();
  const server = engine.listen(
    { hostname: "127.0.0.1", port: 0 },
    (request) => engine.accept(request, { idleTimeoutMs: 400 }).response,
  );
  using raw = await RawSocket.open(server.addr.port);
  let isOver = false;
  const over = raw.closed().then(() => isOver = true);
  for (const byte of frameOf("x".repeat(10_000))) {
    if (isOver) break;
    await raw.write(bytes(byte)).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await over;
  await until(() => engine.stats().connections === 0);
  await server.shutdown();
});

Deno.test("hardened engine drops peers that do not read, even many, and buffers little for them", async () => {
  const count = 50;
  const { engine, server } = listenHardened({
    session: { sendQueue: { maxMessages: 16, maxBytes: 100_000 }, closeTimeoutMs: 100 },
  }, { closeTimeoutMs: 500, handshakeBurst: Infinity });
  await using _server = server;
  const stalled = await Promise.all(
    Array.from({ length: count }, () => RawSocket.open(portOf(server))),
  );
  using reading = await RawSocket.open(portOf(server));
  await until(() => server.manager.count === count + 1);
  let heard = 0;
  const listening = (async () => {
    while (await reading.read() !== undefined) heard++;
  })();
  const data = "x".repeat(60_000);
  let held = 0;
  let rounds = 0;
  const sessions = [...server.manager.all()];
  while (server.manager.count > 1 && rounds++ < 500) {
    for (const session of sessions) {
      try {
        if (session.isReady) session.send("t", data);
      } catch { /* Its queue is full, and it is closed for that. */ }
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
    held = Math.max(
      held,
      ...sessions.map(({ connection, stats }) =>
        connection.frames!.bufferedAmount + stats.queuedBytes
      ),
    );
  }
  assertEquals(server.manager.count, 1);
  assertLess(held, 400_000);
  await until(() => engine.stats().connections === 1);
  assert(heard > 10);
  for (const raw of stalled) raw[Symbol.dispose]();
  await server.close();
  await listening;
});

Deno.test("Connection.terminate() releases everything, also during writes", async () => {
  const { engine, server } = listenHardened();
  await using _server = server;
  for (const isPaused of [false, true]) {
    using _raw = await RawSocket.open(portOf(server));
    await until(() => server.manager.count === 1);
    const [session] = server.manager.all();
    const { connection } = session!;
    const frames = connection.frames!;
    for (let i = 0; i < 300; i++) frames.send("x".repeat(60_000));
    const drained = frames.drained();
    if (isPaused) session!.close({ code: 4001 });
    connection.terminate!();
    connection.terminate!();
    frames.send("after the end");
    await soon(drained);
    await frames.drained();
    connection.close();
    await connection.closed.catch(() => {});
    await until(() => engine.stats().connections === 0);
    await until(() => server.manager.count === 0);
  }
});

Deno.test({
  name:
    "hardened engine admits other clients while a few addresses hold every slot for connections without a request",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const { engine, server } = listenHardened({}, { maxPending: 8, maxPendingPerAddress: 4 });
    await using _server = server;
    using sockets = new DisposableStack();
    for (const host of [2, 3]) {
      for (let i = 0; i < 4; i++) {
        sockets.use(await connectFrom(`127.0.0.${host}`, portOf(server)));
      }
    }
    await until(() => engine.stats().pending === 8);
    using raw = await RawSocket.open(portOf(server));
    assertEquals(raw.status, 101);
    assertMatch(raw.head, /^HTTP\/1\.1 101 /);
    await until(() => engine.stats().pending === 7);
    assertEquals(engine.stats().tooManyPending, 1);
  },
});
