import {
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { soon, turns } from "../../tests/waiting.ts";
import { acceptEcho, WebTransportPeer } from "../../tests/peers/webtransport_peer.ts";
import { directStream } from "../direct.ts";
import {
  WebTransport,
  WebTransportBidirectionalStream,
  WebTransportError,
  WebTransportReceiveStream,
  WebTransportSendGroup,
  WebTransportSendStream,
  WebTransportWriter,
} from "./mod.ts";

const HELLO = new TextEncoder().encode("hello");

/** Opens a session with a server that echoes streams. */
async function openEcho(): Promise<{ transport: WebTransport } & AsyncDisposable> {
  const peer = new WebTransportPeer({ respond: acceptEcho });
  const transport = new WebTransport(peer.url, peer.trust);
  await soon(transport.ready);
  return {
    transport,
    async [Symbol.asyncDispose]() {
      await transport[Symbol.asyncDispose]();
      await peer[Symbol.asyncDispose]();
    },
  };
}

/** Repeats a step forever, and lets packets arrive in between. */
async function forever(act: () => Promise<unknown>): Promise<never> {
  while (true) {
    await soon(act());
    await turns(1);
  }
}

async function first<T>(streams: ReadableStream<T>): Promise<T> {
  const reader = streams.getReader();
  const { value } = await soon(reader.read());
  reader.releaseLock();
  return value!;
}

Deno.test("WebTransport streams are instances of the W3C classes", async () => {
  await using echo = await openEcho();
  const stream = await echo.transport.createBidirectionalStream();
  assertInstanceOf(stream, WebTransportBidirectionalStream);
  assertInstanceOf(stream.readable, WebTransportReceiveStream);
  assertInstanceOf(stream.readable, ReadableStream);
  assertInstanceOf(stream.writable, WebTransportSendStream);
  assertInstanceOf(stream.writable, WritableStream);
  assertStrictEquals(stream.writable, stream.writable);
  const send = await echo.transport.createUnidirectionalStream();
  assertInstanceOf(send, WebTransportSendStream);
  await send.close();
  const received = await first(echo.transport.incomingUnidirectionalStreams);
  assertInstanceOf(received, WebTransportReceiveStream);
});

Deno.test("WebTransport sends back and forth on a bidirectional stream", async () => {
  await using echo = await openEcho();
  const { readable, writable } = await echo.transport.createBidirectionalStream();
  const writer = writable.getWriter();
  const chunk = new Uint8Array(16_384);
  const [reply] = await soon(Promise.all([
    new Response(readable).bytes(),
    writer.write(chunk),
    writer.write(chunk),
    writer.write(chunk),
    writer.close(),
  ]));
  assertEquals(reply.byteLength, 3 * chunk.byteLength);
  assertEquals(await writable.getStats(), { bytesWritten: 3 * chunk.byteLength });
  const { byteLength } = reply;
  assertEquals(await readable.getStats(), { bytesReceived: byteLength, bytesRead: byteLength });
});

Deno.test("WebTransport sends on one stream through a pipe, and reads another", async () => {
  await using echo = await openEcho();
  const send = await echo.transport.createUnidirectionalStream();
  const encoder = new TextEncoderStream();
  const piping = encoder.readable.pipeTo(send);
  const writer = encoder.writable.getWriter();
  await writer.write("hello");
  await writer.close();
  await piping;
  const received = await first(echo.transport.incomingUnidirectionalStreams);
  assertEquals(await soon(new Response(received).text()), "hello");
});

Deno.test("WebTransport replies on a stream that the server opened", async () => {
  await using peer = new WebTransportPeer();
  await using transport = new WebTransport(peer.url, peer.trust);
  const session = await peer.session();
  const server = directStream(await session.createBidirectionalStream());
  await server.write(HELLO);
  const stream = await first(transport.incomingBidirectionalStreams);
  const reader = stream.readable.getReader();
  assertEquals((await soon(reader.read())).value, HELLO);
  const writer = stream.writable.getWriter();
  await writer.write(HELLO);
  await writer.close();
  assertEquals(await soon(server.read()), HELLO);
  assertEquals(await soon(server.read()), null);
});

Deno.test("WebTransportReceiveStream can be read with a BYOB reader", async () => {
  await using echo = await openEcho();
  const { readable, writable } = await echo.transport.createBidirectionalStream();
  const writer = writable.getWriter();
  const bytes = Uint8Array.from({ length: 64 }, (_, index) => index);
  await writer.write(bytes);
  await writer.close();
  const reader = readable.getReader({ mode: "byob" });
  assertInstanceOf(reader, ReadableStreamBYOBReader);
  for (const byte of bytes) {
    const { value, done } = await soon(reader.read(new Uint8Array(1)));
    assertEquals([done, value], [false, Uint8Array.of(byte)]);
  }
  const { value, done } = await soon(reader.read(new Uint8Array(1)));
  assertEquals([done, value?.byteLength], [true, 0]);
  await soon(reader.closed);
});

Deno.test("WebTransportReceiveStream notices the end before the first read", async () => {
  await using echo = await openEcho();
  const { readable, writable } = await echo.transport.createBidirectionalStream();
  await writable.close();
  await soon(readable.getReader().closed);
});

Deno.test("WebTransportSendStream accepts any BufferSource, and fails with an error for anything else", async () => {
  await using echo = await openEcho();
  const { readable, writable } = await echo.transport.createBidirectionalStream();
  const writer = writable.getWriter() as WritableStreamDefaultWriter<unknown>;
  const { buffer } = Uint8Array.of(0, 104, 105, 0);
  await writer.write(new DataView(buffer, 1, 2));
  await writer.write(new Uint16Array([0x2121]));
  await writer.write(Uint8Array.of(33).buffer);
  await writer.write(new Uint8Array());
  await writer.close();
  assertEquals(await soon(new Response(readable).text()), "hi!!!");

  for (const chunk of [undefined, null, {}, "text", 7, new SharedArrayBuffer(1)]) {
    const send = await echo.transport.createUnidirectionalStream();
    const bad = send.getWriter() as WritableStreamDefaultWriter<unknown>;
    await assertRejects(() => bad.write(chunk), TypeError);
    await assertRejects(() => bad.closed, TypeError);
  }
});

Deno.test("WebTransportSendStream copies written bytes", async () => {
  await using echo = await openEcho();
  const { readable, writable } = await echo.transport.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.ready; // The stream has started, so it passes on a chunk immediately.
  const bytes = HELLO.slice();
  const writing = writer.write(bytes);
  bytes.fill(0);
  await writing;
  await writer.close();
  assertEquals(await soon(new Response(readable).text()), "hello");
});

Deno.test("WebTransportSendStream.abort() and cancel() reach the server without their codes", async () => {
  await using peer = new WebTransportPeer();
  await using transport = new WebTransport(peer.url, peer.trust);
  const session = await peer.session();
  const reason = new WebTransportError("enough", { streamErrorCode: 139 });

  const { readable, writable } = await transport.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.write(HELLO);
  const server = directStream(await first(session.incomingBidirectionalStreams));
  assertEquals(await soon(server.read()), HELLO);
  await writer.abort(reason);
  assertStrictEquals(await assertRejects(() => writer.closed), reason);
  // The runtime ends the stream instead of resetting it.
  assertEquals(await soon(server.read()), null);

  await readable.cancel(reason);
  const error = await assertRejects(async () => {
    await forever(() => server.write(HELLO));
  });
  assertEquals((error as { streamErrorCode?: number }).streamErrorCode, 0);
});

Deno.test("WebTransportSendStream.abort() ends a write that waits for the server", async () => {
  await using peer = new WebTransportPeer();
  await using transport = new WebTransport(peer.url, peer.trust);
  const send = await transport.createUnidirectionalStream();
  const writer = send.getWriter();
  const written = writer.write(new Uint8Array(8_000_000));
  const reason = new WebTransportError("enough");
  const aborted = writer.abort(reason);
  assertStrictEquals(await assertRejects(() => soon(written)), reason);
  await soon(aborted);
});

Deno.test("WebTransportSendStream.abort() takes over from a close in progress", async () => {
  await using echo = await openEcho();
  const writer = (await echo.transport.createUnidirectionalStream()).getWriter();
  await writer.write(new Uint8Array(65_536));
  const reason = new WebTransportError("enough", { streamErrorCode: 134 });
  const closing = writer.close();
  const aborting = writer.abort(reason);
  for (const promise of [closing, writer.closed, aborting]) {
    assertStrictEquals(await assertRejects(() => soon(promise)), reason);
  }
});

Deno.test("WebTransportSendStream fails with an error after the server stopped reading", async () => {
  await using peer = new WebTransportPeer();
  await using transport = new WebTransport(peer.url, peer.trust);
  const session = await peer.session();
  const send = await transport.createUnidirectionalStream();
  const writer = send.getWriter();
  await writer.write(HELLO);
  directStream(await first(session.incomingUnidirectionalStreams)).cancel();
  // A write notices that the server stopped reading.
  const error = await assertRejects(async () => {
    await forever(() => writer.write(HELLO));
  }, WebTransportError);
  assertEquals([error.source, error.streamErrorCode], ["stream", 0]);
  assertStrictEquals(await assertRejects(() => writer.closed), error);
});

Deno.test("WebTransport streams also work with plain calls", async () => {
  await using echo = await openEcho();
  const { transport } = echo;
  const both = directStream(await transport.createBidirectionalStream());
  await both.write(HELLO);
  await both.close();
  assertEquals(await soon(both.read()), HELLO);
  assertEquals(await soon(both.read()), null);

  const send = directStream(await transport.createUnidirectionalStream());
  await send.write(HELLO);
  await send.close();
  const received = directStream(await first(transport.incomingUnidirectionalStreams));
  assertEquals(await soon(received.read()), HELLO);
  assertEquals(await soon(received.read()), null);
});

Deno.test("WebTransport streams have a priority that can be changed", async () => {
  await using echo = await openEcho();
  const { transport } = echo;
  const { writable } = await transport.createBidirectionalStream();
  assertEquals(writable.sendOrder, 0);
  writable.sendOrder = 4;
  assertEquals(writable.sendOrder, 4);
  writable.sendOrder = null as unknown as number;
  assertEquals(writable.sendOrder, 0);

  const ordered = await transport.createBidirectionalStream({ sendOrder: 3 });
  assertEquals(ordered.writable.sendOrder, 3);
  const writer = ordered.writable.getWriter();
  await writer.write(HELLO);
  await writer.close();
  ordered.writable.sendOrder = -1;
  assertEquals(ordered.writable.sendOrder, -1);
  assertEquals(await soon(new Response(ordered.readable).text()), "hello");

  const far = await transport.createUnidirectionalStream({ sendOrder: 2 ** 50 });
  assertEquals(far.sendOrder, 2 ** 50);
});

Deno.test("WebTransport.createSendGroup() counts streams together", async () => {
  await using echo = await openEcho();
  await using other = await openEcho();
  const { transport } = echo;
  const group = transport.createSendGroup();
  assertInstanceOf(group, WebTransportSendGroup);
  const one = await transport.createUnidirectionalStream({ sendGroup: group, sendOrder: 1 });
  const { writable: two } = await transport.createBidirectionalStream({ sendGroup: group });
  const three = await transport.createUnidirectionalStream();
  assertEquals({
    oneSendGroup: one.sendGroup,
    twoSendGroup: two.sendGroup,
    threeSendGroup: three.sendGroup,
  }, { oneSendGroup: group, twoSendGroup: group, threeSendGroup: null });
  for (const send of [one, two, three]) {
    const writer = send.getWriter();
    await writer.write(HELLO);
    if (send === one) await writer.close();
  }
  assertEquals(await group.getStats(), { bytesWritten: 10 });
  three.sendGroup = group;
  assertEquals(await group.getStats(), { bytesWritten: 15 });
  one.sendGroup = null;
  two.sendGroup = null;
  assertEquals(await group.getStats(), { bytesWritten: 5 });

  const foreign = other.transport.createSendGroup();
  assertEquals(
    assertThrows(() => three.sendGroup = foreign, DOMException).name,
    "InvalidStateError",
  );
  await assertRejects(
    () => transport.createUnidirectionalStream({ sendGroup: foreign }),
    TypeError,
  );
});

Deno.test("WebTransport treats null as an empty dictionary", async () => {
  await using echo = await openEcho();
  const { transport } = echo;
  const none = null as never;
  assertEquals((await transport.createUnidirectionalStream(none)).sendOrder, 0);
  assertEquals((await transport.createBidirectionalStream(none)).writable.sendOrder, 0);
  assertEquals(transport.datagrams.createWritable(none).sendOrder, 0);
  assertEquals(new WebTransportError("", none).source, "stream");
  transport.close(none);
  assertEquals(await soon(transport.closed), { closeCode: 0, reason: "" });
});

Deno.test("WebTransport.incomingUnidirectionalStreams rejects streams after it is cancelled", async () => {
  await using peer = new WebTransportPeer();
  await using transport = new WebTransport(peer.url, peer.trust);
  await transport.incomingUnidirectionalStreams.cancel();
  const session = await peer.session();
  const send = directStream(await session.createUnidirectionalStream());
  await assertRejects(async () => {
    await forever(() => send.write(HELLO));
  });
});

Deno.test("WebTransport opens and ends more streams than may be open at the same time", async () => {
  await using echo = await openEcho();
  const { transport } = echo;
  for (let i = 0; i < 300; i++) {
    const { readable, writable } = await transport.createBidirectionalStream({
      waitUntilAvailable: true,
    });
    const writer = writable.getWriter();
    await writer.write(HELLO);
    await writer.close();
    assertEquals(await soon(new Response(readable).text()), "hello");
  }
});

Deno.test("WebTransportReceiveStream rejects a read of wider elements that the end cuts off", async () => {
  await using peer = new WebTransportPeer();
  await using transport = new WebTransport(peer.url, peer.trust);
  await soon(transport.ready);
  const session = await peer.session();
  for (const size of [1, 3]) {
    const writer = (await session.createUnidirectionalStream()).getWriter();
    await writer.write(new Uint8Array(size));
    const received = await first(transport.incomingUnidirectionalStreams);
    const reader = received.getReader({ mode: "byob" });
    if (size > 1) assertEquals((await soon(reader.read(new Uint16Array(4)))).value?.byteLength, 2);
    const read = assertRejects(() => soon(reader.read(new Uint16Array(4))), TypeError);
    await writer.close();
    await read;
    await assertRejects(() => soon(reader.closed), TypeError);
  }
  // The session can still be used.
  const sent = directStream(await session.createUnidirectionalStream());
  await sent.write(HELLO);
  const received = await first(transport.incomingUnidirectionalStreams);
  assertEquals((await soon(received.getReader().read())).value, HELLO);
});

/** Opens a session with a server that grants a fixed number of bytes. */
async function openWithCredit(maxData: number): Promise<
  {
    readonly transport: WebTransport;
    readonly writer: WebTransportWriter;
    /** Grants bytes beyond the first grant. */
    grant(bytes: number): void;
    /** Returns all bytes that the server receives until the stream ends. */
    received(): Promise<string>;
  } & AsyncDisposable
> {
  const peer = new WebTransportPeer({ flowControl: { maxData, automatic: false } });
  const transport = new WebTransport(peer.url, peer.trust);
  const session = await peer.session();
  await soon(transport.ready);
  const stream = await soon(transport.createUnidirectionalStream());
  return {
    transport,
    writer: stream.getWriter(),
    grant: (bytes) => session.inspect!.credit!.grant("data", maxData + bytes),
    async received() {
      const incoming = await first(session.incomingUnidirectionalStreams);
      return await soon(new Response(incoming).text());
    },
    async [Symbol.asyncDispose]() {
      await transport[Symbol.asyncDispose]();
      await peer[Symbol.asyncDispose]();
    },
  };
}

function text(letter: string, count: number): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(letter.repeat(count));
}

/** Returns the name of a write's error, or `undefined` if there is no error. */
function failureOf(writing: Promise<void>): Promise<string | undefined> {
  return soon(writing.then(() => undefined, ({ name }) => name));
}

Deno.test("WebTransportWriter.atomicWrite() sends a whole chunk, or nothing", async () => {
  await using ends = await openWithCredit(10);
  const { writer } = ends;
  assertInstanceOf(writer, WebTransportWriter);
  assertInstanceOf(writer, WritableStreamDefaultWriter);
  assertEquals(await failureOf(writer.atomicWrite(text("a", 6))), undefined);
  assertEquals(await failureOf(writer.atomicWrite(text("b", 5))), "AbortError");
  // The stream can still be used, and writes stay in order.
  assertEquals(await failureOf(writer.atomicWrite(text("c", 3))), undefined);
  const plain = writer.write(text("d", 4));
  const behind = writer.atomicWrite(text("e", 2));
  ends.grant(5);
  assertEquals(await failureOf(plain), undefined);
  assertEquals(await failureOf(behind), undefined);
  writer.commit();
  await soon(writer.close());
  assertEquals(await ends.received(), "aaaaaacccddddee");
});

Deno.test("WebTransportWriter.atomicWrite() fails together with the writes that wait after it", async () => {
  await using ends = await openWithCredit(10);
  const { writer } = ends;
  const writes = [9, 2, 1, 1].map((size) => writer.atomicWrite(text("a", size)));
  assertEquals(await Promise.all(writes.map(failureOf)), [
    undefined,
    "AbortError",
    "AbortError",
    "AbortError",
  ]);
  assertEquals(await failureOf(writer.atomicWrite(text("b", 1))), undefined);
  await soon(writer.close());
  assertEquals(await ends.received(), "aaaaaaaaab");
});

Deno.test("WebTransportWriter.atomicWrite() breaks the stream if other writes wait after it", async () => {
  await using ends = await openWithCredit(10);
  const { writer } = ends;
  const closed = failureOf(writer.closed.then(() => {}));
  const writes = [
    writer.write(text("a", 5)),
    writer.atomicWrite(text("b", 6)),
    writer.write(text("c", 1)),
  ];
  assertEquals(await Promise.all(writes.map(failureOf)), [undefined, "AbortError", "AbortError"]);
  assertEquals(await closed, "AbortError");
  assertEquals(await ends.received(), "aaaaa");
});

Deno.test("WebTransportWriter.atomicWrite() rejects everything except bytes, and a released writer", async () => {
  await using echo = await openEcho();
  const stream = await soon(echo.transport.createUnidirectionalStream());
  assertThrows(() => [stream.getWriter(), stream.getWriter()], TypeError);
  const other = (await soon(echo.transport.createUnidirectionalStream())).getWriter();
  other.releaseLock();
  assertEquals(await failureOf(other.atomicWrite(HELLO)), "TypeError");
  const { writable } = await soon(echo.transport.createBidirectionalStream());
  const writer = writable.getWriter();
  assertEquals(await failureOf(writer.atomicWrite()), "TypeError");
  assertEquals(await failureOf(writer.write(HELLO)), "TypeError");
});
