import { assert, assertEquals } from "@std/assert";
import { bytesOf, capsuleFrame, rawSession, TestServer } from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { webTransportPair } from "../../tests/pairs/webtransport.ts";
import { directStream } from "../direct.ts";
import { withMessages } from "../message_stream/server.ts";
import type { ConnectionEvent } from "../connection.ts";
import { CapsuleType } from "./wire/capsules.ts";

/** A frame of the message stream, which contains text and its length. */
const HELLO = Uint8Array.of(0, 10, ...new TextEncoder().encode("hello"));

Deno.test("Http3Session counts each byte once in its statistics", async () => {
  await using pair = await webTransportPair();
  const [client, server] = [
    withMessages(pair.client, { side: "client" }),
    withMessages(pair.server, { side: "server" }),
  ];
  const frames: unknown[] = [];
  const receiver = { receiveFrame: (frame: unknown) => void frames.push(frame), framesEnded() {} };
  for (const end of [client, server]) end.frames!.receive(receiver);
  client.frames!.send("hello");
  await until(() => frames.length === 1);
  // These bytes are the greeting and the head of each frame.
  const before = await client.getStats();
  assert(before.bytesSent! >= 5 && before.bytesSent! < 15, `${before.bytesSent}`);
  assertEquals(before.bytesSent, (await server.getStats()).bytesReceived);
  assertEquals([client.inspect!.counters, server.inspect!.counters], [undefined, undefined]);
  const stream = directStream(await client.createUnidirectionalStream());
  await stream.write(new Uint8Array(100));
  await stream.close();
  const { value } = await soon(server.incomingUnidirectionalStreams.getReader().read());
  for await (const _ of value!);
  client.datagrams.direct!.send(new Uint8Array(7));
  await soon(server.datagrams.readable.getReader().read());
  assertEquals((await client.getStats()).bytesSent, before.bytesSent! + 107);
  assertEquals((await server.getStats()).bytesReceived, before.bytesSent! + 107);
  assertEquals([
    client.inspect!.counters!.streamBytesSent,
    server.inspect!.counters!.streamBytesReceived,
  ], [
    100,
    100,
  ]);
  assertEquals(client.inspect!.counters!.localBidirectionalOpened, 0);
  assertEquals(server.inspect!.counters!.remoteBidirectionalOpened, 0);
  for (const end of [client, server]) await end[Symbol.asyncDispose]();
  // The end of the message stream is not counted, because the application did not open that stream.
  assertEquals([client.inspect!.counters!.streamsClosed, client.inspect!.counters!.streamErrors], [
    1,
    0,
  ]);
  assertEquals([server.inspect!.counters!.streamsClosed, server.inspect!.counters!.streamErrors], [
    1,
    0,
  ]);
});

Deno.test("Http3Session does not count a message stream that arrived before the response", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const connect = await peer.request();
  const request = await soon(server.request());
  await peer.bidi(0x41, connect.id, HELLO);
  const second = await peer.bidi(0x41, connect.id, new Uint8Array(3));
  // The replies arrive after everything that was sent before them.
  for (let i = 0; i < 3; i++) {
    const empty = await peer.bidi();
    await empty.send.end();
    await soon(empty.receive.readAll());
  }
  const session = request.accept();
  assertEquals(session.inspect!.counters!.remoteBidirectionalOpened, 2);
  const messages = withMessages(session, { side: "server" });
  assertEquals(messages.inspect!.counters!.remoteBidirectionalOpened, 1);
  assertEquals(messages.inspect!.counters!.streamBytesReceived, 3);
  assertEquals((await session.getStats()).bytesReceived, HELLO.length + 3);
  const reader = messages.incomingBidirectionalStreams.getReader();
  const taken = directStream((await soon(reader.read())).value!);
  assertEquals(await soon(taken.read()), new Uint8Array(3));
  await second.send.end();
  assertEquals(await soon(taken.read()), null);
  await taken.close();
  await until(() => messages.inspect!.counters!.streamsClosed === 1);
  assertEquals(messages.inspect!.counters!.streamErrors, 0);
  peer.close();
  await messages.closed.catch(() => {});
  assertEquals(messages.inspect!.counters!.streamsClosed, 1);
});

Deno.test("Http3Session counts unread datagrams as lost", async () => {
  await using raw = await rawSession();
  const { connect, session } = raw;
  const datagram = capsuleFrame(CapsuleType.datagram, Uint8Array.of(7, 7));
  const many = bytesOf(...Array.from({ length: 103 }, () => datagram));
  for (let i = 0; i < 10; i++) await connect.send.write(many);
  await until(() => session.inspect!.counters?.datagramsReceived === 1_030);
  assertEquals(session.inspect!.counters!.datagramBytesReceived, 2_060);
  assertEquals(session.inspect!.counters!.datagramsDropped, 6);
});

Deno.test("Http3Session counts datagrams that wait for room, and datagrams that find none", async () => {
  await using pair = await webTransportPair();
  const { client } = pair;
  const { direct } = client.datagrams;
  for (let i = 0; i < 1_030; i++) direct!.send(Uint8Array.of(1));
  const { datagramsSent, datagramsDropped } = client.inspect!.counters!;
  assertEquals([datagramsSent, datagramsDropped], [1_024, 6]);
});

Deno.test("Http3Session counts streams that are not accepted as cut", async () => {
  await using raw = await rawSession();
  const { peer, connect, session } = raw;
  const events: ConnectionEvent[] = [];
  session.inspect!.observe!((event) => void events.push(event));
  for (let i = 0; i < 18; i++) await peer.uni(0x54, connect.id, 1);
  await until(() => session.inspect!.counters?.remoteUnidirectionalOpened === 18);
  assertEquals(
    [session.inspect!.counters!.streamsClosed, session.inspect!.counters!.streamErrors],
    [2, 2],
  );
  const closed = events.filter(({ type }) => type === "streamclosed");
  assertEquals(closed.length, 2);
  for (const event of closed) assert("error" in event && event.error instanceof Error);
});
