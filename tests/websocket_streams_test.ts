/**
 * Tests streams and datagrams in addition to messages on a WebSocket, between `serve()` and
 * `dial()`.
 *
 * @module
 */
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { delay } from "@std/async/delay";
import {
  ConnectionError,
  dial,
  type DialOptions,
  SessionClosedError,
  TimeoutError,
  UnsupportedError,
} from "../client.ts";
import { type BidirectionalStream, directStream, type DirectWritable } from "../transport/mod.ts";
import { createServer, type ServeOptions } from "../server.ts";
import { next, readAll, writeAll } from "./conformance/pair.ts";
import { listen, RawSocket, served, type ServedEnds } from "./servers.ts";
import { endOf } from "./sessions.ts";
import { soon } from "./waiting.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Both sides of a session over a WebSocket. */
const both = ({ server, client }: {
  readonly server?: ServeOptions;
  readonly client?: DialOptions | undefined;
} = {}): Promise<ServedEnds> =>
  served(
    { webTransport: false, ...server },
    { transports: ["websocket"], ...client },
  );

/** Returns bytes that encode their position. */
function pattern(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + (i >> 10)) & 255;
  return bytes;
}

/** Writes until the peer accepts no more bytes; returns the number of accepted bytes. */
async function writeUntilHeld(writable: DirectWritable, limit: number): Promise<number> {
  const chunk = new Uint8Array(16 * KIB);
  for (let written = 0; written < limit; written += chunk.length) {
    const writing = writable.write(chunk);
    writing.catch(() => {}); // The stream ends with the session.
    const isHeld = await Promise.race([
      writing.then(() => false),
      delay(300).then(() => true),
    ]);
    if (isHeld) return written;
  }
  return limit;
}

const numbers = (length: number) => Array.from({ length }, (_, i) => i);

Deno.test("Session over skein.1 keeps the order of messages during streams of 8 MiB", async () => {
  const COUNT = 500;
  const heard: unknown[] = [];
  const all = Promise.withResolvers<void>();
  await using ends = await both({
    server: {
      onMessage: ({ data }) => {
        heard.push(data);
        if (heard.length === COUNT) all.resolve();
      },
    },
  });
  const bytes = pattern(8 * MIB);
  const { client, server } = ends;
  const upload = await soon(client.createUnidirectionalStream());
  const download = await soon(server.createUnidirectionalStream());
  const transfers = Promise.all([
    writeAll(upload, bytes),
    writeAll(download, bytes),
    next(server.connection.incomingUnidirectionalStreams).then(readAll),
    next(client.connection.incomingUnidirectionalStreams).then(readAll),
  ]);
  for (let i = 0; i < COUNT; i++) {
    client.send("n", i);
    if (i % 10 === 0) await delay(1);
  }
  await soon(all.promise);
  assertEquals(heard, numbers(COUNT));
  const [, , up, down] = await transfers;
  assert(up.length === bytes.length && up.every((byte, i) => byte === bytes[i]));
  assert(down.length === bytes.length && down.every((byte, i) => byte === bytes[i]));
});

Deno.test("Session over skein.1 answers requests while a stream keeps the socket busy", async () => {
  await using ends = await both({
    server: { onMessage: (message) => message.reply(message.data) },
  });
  const stream = directStream(await soon(ends.server.createUnidirectionalStream()));
  let isOver = false;
  let sent = 0;
  const chunk = new Uint8Array(64 * KIB);
  const sending = (async () => {
    for (; !isOver; sent += chunk.length) await stream.write(chunk);
    await stream.close();
  })();
  const incoming = directStream(
    await next(ends.client.connection.incomingUnidirectionalStreams),
  );
  const reading = (async () => {
    let bytes = 0;
    for (let part; (part = await incoming.read()) !== null;) bytes += part.length;
    return bytes;
  })();
  const behind: number[] = [];
  for (let i = 0; i < 100 || sent < 16 * MIB; i++) {
    const before = sent;
    assertEquals(await soon(ends.client.request("echo", i)), i);
    behind.push(sent - before);
  }
  isOver = true;
  await soon(sending);
  assertEquals(await soon(reading), sent);
  behind.sort((a, b) => a - b);
  const median = behind[behind.length >> 1]!;
  assert(median < MIB, `A round trip waited for ${median} bytes`);
});

Deno.test("Session over skein.1 continues with messages and other streams while one is not read", async () => {
  await using ends = await both({
    server: { onMessage: (message) => message.reply(message.data) },
  });
  const { client, server } = ends;
  const stalled = directStream(await soon(client.createUnidirectionalStream()));
  const held = await writeUntilHeld(stalled, 8 * MIB);
  assert(held <= 512 * KIB, `${held} bytes were accepted although no one read`);
  for (let i = 0; i < 20; i++) {
    const near = directStream(await soon(client.createBidirectionalStream()));
    const writing = near.write(pattern(100_000)).then(() => near.close());
    const far = await next(server.connection.incomingBidirectionalStreams);
    assertEquals((await readAll(far.readable)).length, 100_000);
    await soon(writing);
    await soon(far.writable.close());
    assertEquals(await soon(client.request("echo", i)), i);
  }
  const incoming = directStream(await next(server.connection.incomingUnidirectionalStreams));
  assertEquals((await soon(incoming.read()))!.length > 0, true);
});

Deno.test("Session over skein.1 accepts at most its grant without a reader", async () => {
  const flowControl = { maxData: 96 * KIB, maxStreamData: 64 * KIB, maxStreamsUni: 3 };
  await using ends = await both({ server: { flowControl } });
  const streams = [];
  for (let i = 0; i < 3; i++) {
    streams.push(directStream(await soon(ends.client.createUnidirectionalStream())));
  }
  let total = 0;
  for (const stream of streams) {
    const held = await writeUntilHeld(stream, MIB);
    assert(held <= 64 * KIB, `${held} bytes of one stream were accepted`);
    total += held;
  }
  assert(total <= 96 * KIB, `${total} bytes were accepted in total`);
  const { receivedMessages } = ends.server.stats;
  assertEquals(receivedMessages, 0);
  await assertRejects(
    () => ends.client.createUnidirectionalStream({ timeoutMs: 50 }),
    Error,
    "50 ms",
  );
});

Deno.test("dial() and serve() each announce their limits to the other", async () => {
  await using ends = await both({
    server: { flowControl: { maxStreamData: 32 * KIB } },
    client: { flowControl: { maxStreamData: 16 * KIB } },
  });
  for (const [from, most] of [[ends.client, 32 * KIB], [ends.server, 16 * KIB]] as const) {
    const stream = directStream(await soon(from.createUnidirectionalStream()));
    assertEquals(await writeUntilHeld(stream, MIB), most);
  }
});

Deno.test("createServer() rejects invalid flow control", () => {
  for (const maxData of [-1, 1.5, NaN, 2 ** 53]) {
    assertThrows(
      () => createServer({ flowControl: { maxData } }),
      RangeError,
      `flowControl.maxData must be an integer of 0 or more, received ${maxData}`,
    );
  }
  const text = { flowControl: { maxData: "1" as unknown as number } };
  assertThrows(() => createServer(text), TypeError, "flowControl.maxData must be a number");
});

Deno.test("Session over skein.1 carries datagrams in both directions", async () => {
  await using ends = await both();
  for (const [from, to] of [[ends.client, ends.server], [ends.server, ends.client]] as const) {
    const reading = next(to.datagrams.readable);
    await from.datagrams.writable.getWriter().write(Uint8Array.of(1, 2, 3));
    assertEquals(await reading, Uint8Array.of(1, 2, 3));
  }
});

Deno.test("Session over skein.1 fails its streams when it closes", async () => {
  await using ends = await both();
  const near: BidirectionalStream = await soon(ends.client.createBidirectionalStream());
  const writer = near.writable.getWriter();
  await writer.write(Uint8Array.of(1));
  const far = await next(ends.server.connection.incomingBidirectionalStreams);
  const reading = [near, far].map(({ readable }) =>
    assertRejects(async () => {
      for await (const _ of readable);
    }, ConnectionError)
  );
  await ends.client.close({ code: 3001, reason: "enough" });
  await soon(Promise.all(reading));
  assertEquals(await endOf(ends.server), { code: 3001, reason: "enough", by: "remote" });
  await assertRejects(() => ends.server.createUnidirectionalStream(), ConnectionError);
});

/** Sends records as a client of `skein.1`; returns the server's close. */
async function closeAfter(...records: string[]): Promise<{ code: number; reason: string }> {
  await using server = listen({ webTransport: false });
  using socket = await RawSocket.open(server.address!.port, { protocol: "skein.1" });
  for (const record of records) await socket.frame(Uint8Array.fromHex(record), { head: 0x82 });
  let frame = await soon(socket.read());
  while (frame !== undefined && frame.opcode !== 8) frame = await soon(socket.read());
  const { payload } = frame!;
  const reason = new TextDecoder().decode(payload.subarray(2));
  return { code: payload[0]! * 256 + payload[1]!, reason };
}

/** The parameters of an end that grants no credit. */
const PARAMETERS = "ff5153300d0a0d0a" + "00";

Deno.test("Server closes a session over skein.1 for invalid records or a close of its peer", async () => {
  const bye = "03" + "627965";
  const cases: [what: string, records: string[], code: number, reason: RegExp][] = [
    ["a malformed record", ["ffffff"], 4400, /^Streams failed with QUIC error 0x7: /],
    // A stream number of the server, which the client cannot have opened.
    [
      "data of a stream that the server never opened",
      [PARAMETERS, "0b" + "01" + "01" + "00"],
      4400,
      /^Streams failed with QUIC error 0x5: /,
    ],
    ["a close with a session's code", [PARAMETERS, "1d" + "4bbd" + bye], 3005, /^bye$/],
    [
      "a close with another code",
      [PARAMETERS, "1d" + "07" + bye],
      4400,
      /^Closed with code 7: bye$/,
    ],
  ];
  for (const [what, records, code, reason] of cases) {
    const close = await closeAfter(...records);
    assertEquals(close.code, code, what);
    assertMatch(close.reason, reason, what);
  }
});

Deno.test("A plain WebSocket has no streams", async () => {
  await using ends = await both({ client: { protocols: [] } });
  for (const session of [ends.client, ends.server]) {
    assertEquals(session.connection.capabilities.streams, false);
    assertEquals(session.connection.inspect!.credit, undefined);
    await assertRejects(() => session.createBidirectionalStream(), UnsupportedError);
  }
});

Deno.test("dial() opens streams over QMux, with and without a protocol on top", async () => {
  for (const [offered, protocol] of [["qmux-01", ""], ["qmux-01.chat", "chat"]] as const) {
    await using ends = await both({ client: { protocols: [offered] } });
    const { client, server } = ends;
    assertEquals([client.protocol, server.protocol], [protocol, protocol]);
    assertEquals(client.connection.frames, undefined);
    const near = await soon(client.createBidirectionalStream());
    const writing = writeAll(near.writable, pattern(MIB));
    const far = await next(server.connection.incomingBidirectionalStreams);
    assertEquals((await readAll(far.readable)).length, MIB);
    await writing;
    await client.close({ code: 3002, reason: "done" });
    assertEquals(await endOf(server), { code: 3002, reason: "done", by: "remote" });
  }
});

Deno.test("dial() supports messages and streams over QMux that names skein.1", async () => {
  await using ends = await both({
    server: { onMessage: (message) => message.reply(message.data) },
    client: { protocols: ["qmux-02.skein.1", "qmux-01.skein.1"] },
  });
  assertEquals(ends.client.protocol, "skein.1");
  assertEquals(await soon(ends.client.request("echo", 1)), 1);
  const stream = await soon(ends.client.createUnidirectionalStream());
  const writing = writeAll(stream, pattern(300_000));
  const incoming = await next(ends.server.connection.incomingUnidirectionalStreams);
  assertEquals((await readAll(incoming)).length, 300_000);
  await writing;
});

Deno.test("dial() supports messages over QMux even if the server grants manually, and no streams", async () => {
  const flowControl = { automatic: false, maxStreamsBidi: 0 };
  await using ends = await both({
    server: { flowControl, onMessage: (message) => message.reply((message.data as string).length) },
    client: { protocols: ["qmux-02.skein.1"], flowControl },
  });
  const text = "a".repeat(200 * KIB);
  for (let i = 0; i < 8; i++) {
    assertEquals(await soon(ends.client.request("length", text)), text.length);
  }
  await assertRejects(() => ends.client.createBidirectionalStream({ timeoutMs: 1 }), TimeoutError);
  assertEquals(ends.server.connection.inspect!.counters, undefined);
});

Deno.test("A stream that was written and closed arrives whole, even if the session closes right after", async () => {
  for (const protocols of [undefined, ["qmux-02.skein.1"], ["qmux-02"]]) {
    await using ends = await both({ client: protocols && { protocols } });
    const near = directStream(await soon(ends.client.createUnidirectionalStream()));
    await near.write(pattern(3_000));
    await near.close();
    const closing = ends.client.close();
    const incoming = await next(ends.server.connection.incomingUnidirectionalStreams);
    assertEquals(await readAll(incoming), pattern(3_000));
    await closing;
  }
});

Deno.test("Server prefers skein.1, then messages over QMux, then QMux without a protocol on top", async () => {
  await using server = listen({ webTransport: false });
  const { port } = server.address!;
  const cases = [
    ["qmux-02, qmux-01.skein.1, skein.1", "skein.1"],
    ["qmux-02, chat, qmux-01.skein.1", "qmux-01.skein.1"],
    ["qmux-02.chat, qmux-01", "qmux-01"],
    ["qmux-01.chat, qmux-02.chat", "qmux-01.chat"],
    ["qmux-00, webtransport", undefined],
    ["qmux-77, chat", undefined],
  ] as const;
  for (const [protocol, expected] of cases) {
    using socket = await RawSocket.open(port, { protocol });
    const [, chosen] = /^sec-websocket-protocol: (.*)\r$/mi.exec(socket.head) ?? [];
    assertEquals([socket.status, chosen], [101, expected]);
  }
});

Deno.test("Server rejects a QMux client by a close if it speaks skein.1, and otherwise by a status", async () => {
  await using server = listen({
    webTransport: false,
    authenticate: () => null,
  });
  const transports = ["websocket"] as const;
  const error = await assertRejects(
    () => soon(dial(server.url, { transports, protocols: ["qmux-01.skein.1"] })),
    SessionClosedError,
  );
  assertEquals(error.info?.code, 4401);
  using socket = await RawSocket.open(server.address!.port, { protocol: "qmux-01" });
  assertEquals(socket.status, 401);
});
