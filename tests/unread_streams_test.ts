/**
 * Tests a server's unread streams: how long they may wait, and how many there may be.
 *
 * @module
 */
import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { dial, type ServeOptions, type Session } from "../mod.ts";
import { prometheusText } from "../server.ts";
import { listenMoq } from "../moq/mod.ts";
import {
  devCertificate,
  dialQuic,
  dialWebTransport,
  directStream,
  listenQuic,
} from "../transport/mod.ts";
import { STREAM_WINDOW_BYTES, UnreadStreams } from "../transport/quic/unread_streams.ts";
import { headersFrame, RawPeer, REQUEST_FIELDS, TestServer } from "./peers/raw_http3.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";

/** More data than the server reads ahead for a stream that a handler holds. */
const BODY = new Uint8Array(64 * 1024);

/** Limits for the streams of a connection and an address. */
const LIMITS = {
  maxBytesPerConnection: 4 * STREAM_WINDOW_BYTES,
  maxBytesPerAddress: 6 * STREAM_WINDOW_BYTES,
  timeoutMs: 600_000,
};

/** Lets the server notice a disconnected client soon even if its last packet is lost. */
const webTransport = { keepAliveIntervalMs: 100 };

/** A client that grants no credit, with a number of sessions on its connection. */
class Client implements AsyncDisposable {
  readonly #peer: RawPeer;
  readonly #sessions: readonly number[];

  private constructor(peer: RawPeer, sessions: readonly number[]) {
    this.#peer = peer;
    this.#sessions = sessions;
  }

  static async open(server: ReturnType<typeof listen>, sessions = 1): Promise<Client> {
    const port = Number(new URL(server.webTransportUrl!).port);
    const peer = await RawPeer.dial(port, { hashes: server.certificateHashes! });
    await peer.control();
    const ids: number[] = [];
    for (let i = 0; i < sessions; i++) {
      const connect = await peer.request();
      assertEquals(await connect.status(), 200);
      ids.push(connect.id);
    }
    return new Client(peer, ids);
  }

  /** Opens streams of both kinds that are slightly too large to be read ahead. */
  async flood(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      const id = this.#sessions[i % this.#sessions.length]!;
      const stream = i % 2 === 0 ? await this.#peer.bidi() : await this.#peer.uni();
      const send = "send" in stream ? stream.send : stream;
      // The server may reject the stream in the meantime.
      send.write(i % 2 === 0 ? 0x41 : 0x54, id, BODY).catch(() => {});
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#peer[Symbol.asyncDispose]();
  }
}

/** Ways in which an application fails to read. */
const WAYS: readonly (readonly [string, ServeOptions])[] = [
  ["the program never reads them", {}],
  ["onStream does not read them", { onStream: () => new Promise(() => {}) }],
  ["a loop over incomingStreams() hangs", {
    onOpen(session) {
      void standStill(session);
    },
  }],
  ["readers of the connection never read", {
    onOpen({ connection }) {
      connection.incomingBidirectionalStreams.getReader();
      connection.incomingUnidirectionalStreams.getReader();
    },
  }],
];

async function standStill(session: Session): Promise<void> {
  for await (const _ of session.incomingStreams()) await new Promise(() => {});
}

for (const [what, options] of WAYS) {
  Deno.test(`serve() limits unread streams per connection and address if ${what}`, async () => {
    await using server = listen({ ...options, webTransport, limits: { unreadStreams: LIMITS } });
    const stats = () => server.manager.stats().unreadStreams;
    const rejected = () => Object.values(stats().rejected).reduce((sum, count) => sum + count, 0);
    {
      // Sessions on one connection share its limit.
      await using first = await Client.open(server, 4);
      await first.flood(20);
      await until(() => stats().count + rejected() === 20);
      assertEquals([stats().count, stats().rejected.address], [4, 0]);
      await using second = await Client.open(server);
      await second.flood(10);
      await until(() => stats().count + rejected() === 30);
      assertEquals([stats().count, stats().bytes], [6, 6 * STREAM_WINDOW_BYTES]);
      const { connection, address, session, timeout } = stats().rejected;
      assertEquals({ connection, address, session, timeout }, {
        connection: 16,
        address: 8,
        session: 0,
        timeout: 0,
      });
      const text = prometheusText(server);
      assertStringIncludes(text, "\nskein_streams_unread 6\n");
      assertStringIncludes(text, `\nskein_streams_unread_bytes ${6 * STREAM_WINDOW_BYTES}\n`);
      assertStringIncludes(
        text,
        `\nskein_streams_rejected_total{reason="connection"} 16\n`,
      );
    }
    await until(() => stats().count === 0);
  });
}

Deno.test("serve() rejects a stream that is not accepted in time, and issues() reports it", async () => {
  const opened = Promise.withResolvers<Session>();
  await using server = listen({
    limits: { unreadStreams: { timeoutMs: 50 } },
    onOpen: (session) => opened.resolve(session),
  });
  await using client = await Client.open(server);
  const session = await soon(opened.promise);
  await client.flood(2);
  const { connection } = session;
  await until(() => connection.inspect!.counters?.streamsRejected === 2);
  assertEquals([connection.inspect!.unreadStreams, session.stats.streamsRejected], [0, 2]);
  assertEquals(server.manager.stats().unreadStreams.rejected.timeout, 2);
  assertEquals(server.manager.stats().unreadStreams.count, 0);
  const [issue] = (await session.issues()).filter(({ code }) => code === "rejected-streams");
  assertEquals(issue?.severity, "warning");
  assertStringIncludes(issue!.message, "2 streams of the peer were rejected");
  // The session continues, and accepts the next stream.
  const next = session.incomingStreams().next();
  await client.flood(1);
  assertEquals((await soon(next)).value?.direction, "bidirectional");
});

Deno.test("serve() gives a loop time for the current stream, but not for the next one", async () => {
  const gate = Promise.withResolvers<void>();
  const read = Promise.withResolvers<number>();
  await using server = listen({
    limits: { unreadStreams: { timeoutMs: 20 } },
    onOpen: (session) => void readFirst(session),
  });
  const readFirst = async (session: Session) => {
    for await (const { readable } of session.incomingStreams()) {
      await gate.promise;
      let bytes = 0;
      for (const direct = directStream(readable); bytes < BODY.length;) {
        bytes += (await direct.read())!.length;
      }
      read.resolve(bytes);
    }
  };
  const stats = () => server.manager.stats().unreadStreams;
  await using client = await Client.open(server);
  await client.flood(1);
  await until(() => stats().count === 1);
  await client.flood(1);
  await until(() => stats().rejected.timeout === 1);
  assertEquals(stats().count, 1);
  gate.resolve();
  assertEquals(await soon(read.promise), BODY.length);
  assertEquals(stats().count, 0);
});

Deno.test("serve() fails the read of a stream that a handler holds above a limit", async () => {
  const gate = Promise.withResolvers<void>();
  const failed = Promise.withResolvers<unknown>();
  await using server = listen({
    limits: { unreadStreams: { maxBytes: STREAM_WINDOW_BYTES } },
    async onStream({ readable }) {
      await gate.promise;
      // A clean end would look as if the peer had sent nothing more.
      for (const direct = directStream(readable); await direct.read() !== null;);
    },
    onError: (error) => failed.resolve(error),
  });
  const stats = () => server.manager.stats().unreadStreams;
  await using client = await Client.open(server);
  await client.flood(2);
  await until(() => stats().rejected.connection === 1);
  gate.resolve();
  const error = await soon(
    assertRejects(() => failed.promise.then((cause) => Promise.reject(cause))),
  );
  assertStringIncludes(`${error}`, "unread streams of a connection may use 1250000 bytes");
});

Deno.test("serve() does not count streams that are read immediately, however many there are", async () => {
  await using server = listen({
    limits: { unreadStreams: { maxBytes: STREAM_WINDOW_BYTES } },
    async onStream(stream) {
      if (stream.direction === "bidirectional") await stream.readable.pipeTo(stream.writable);
    },
  });
  await using session = await dialWebTransport(server.webTransportUrl!, {
    serverCertificateHashes: server.certificateHashes!,
  });
  const echoes = await soon(Promise.all(Array.from({ length: 100 }, async (_, index) => {
    const stream = directStream(await session.createBidirectionalStream());
    await stream.write(Uint8Array.of(index));
    await stream.close();
    return (await stream.read())?.[0];
  })));
  assertEquals(echoes, Array.from({ length: 100 }, (_, index) => index));
  const { count, rejected } = server.manager.stats().unreadStreams;
  assertEquals({ count, connection: rejected.connection, session: rejected.session }, {
    count: 0,
    connection: 0,
    session: 0,
  });
});

Deno.test("serve() does not count a session's message stream", async () => {
  const unreadStreams = { maxBytes: STREAM_WINDOW_BYTES };
  await using server = listen({
    limits: { unreadStreams },
    onMessage: (message) => message.reply(message.data),
  });
  await using session = await dial(server.webTransportUrl, {
    serverCertificateHashes: server.certificateHashes,
  });
  assertEquals(session.transport, "webtransport");
  for (let i = 0; i < 3; i++) assertEquals(await soon(session.request("echo", i)), i);
  const { count, rejected } = server.manager.stats().unreadStreams;
  assertEquals({ count, connection: rejected.connection, timeout: rejected.timeout }, {
    count: 0,
    connection: 0,
    timeout: 0,
  });
});

Deno.test("listenWebTransport() counts streams of sessions that are not yet accepted", async () => {
  const unreadStreams = new UnreadStreams({
    maxBytes: 8 * STREAM_WINDOW_BYTES,
    maxBytesPerAddress: 4 * STREAM_WINDOW_BYTES,
  });
  await using server = new TestServer({ unreadStreams });
  await using peer = await server.dial();
  await peer.control();
  const first = await peer.bidi(); // Requests the session only after its streams were written.
  for (let i = 0; i < 5; i++) {
    const stream = await peer.uni();
    stream.write(0x54, first.id, BODY).catch(() => {});
  }
  await until(() => unreadStreams.stats.rejected.connection === 2);
  assertEquals(unreadStreams.stats.count, 3);
  await first.send.write(headersFrame(REQUEST_FIELDS));
  const streams = (await soon(server.accept())).incomingUnidirectionalStreams.getReader();
  for (let i = 0; i < 3; i++) {
    const { value } = await soon(streams.read());
    await soon(directStream(value!).read());
  }
  assertEquals(unreadStreams.stats.count, 0);
});

Deno.test("listenQuic() counts unread streams before the application accepts them", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  const unreadStreams = { maxBytes: 2 * STREAM_WINDOW_BYTES };
  const options = { hostname: "127.0.0.1", protocols: ["flood"], ...certificate };
  await using listener = listenQuic({ ...options, unreadStreams });
  const accepting = listener[Symbol.asyncIterator]().next();
  await using client = await dialQuic(`quic://127.0.0.1:${listener.address.port}`, {
    protocols: ["flood"],
    serverCertificateHashes: certificate.hashes,
  });
  const connection = (await soon(accepting)).value!;
  for (let i = 0; i < 4; i++) {
    const stream = directStream(await client.createBidirectionalStream());
    stream.write(BODY).catch(() => {});
    const writer = (await client.createUnidirectionalStream()).getWriter();
    writer.write(BODY).catch(() => {});
  }
  // One stream per connection, because three quarters of an eighth are less than one stream.
  await until(() => connection.inspect.counters?.streamsRejected === 7);
  assertEquals(connection.inspect.unreadStreams, 1);
});

Deno.test("listenMoq() and serve() reject limits of unread streams below one window", () => {
  const unreadStreams = { maxBytes: STREAM_WINDOW_BYTES - 1 };
  const message = "maxBytes must be an integer of at least 1250000, or Infinity, received 1249999";
  assertThrows(() => listenMoq({ unreadStreams }), RangeError, message);
  assertThrows(() => listen({ limits: { unreadStreams } }), RangeError, message);
  const misspelled = { limits: { unreadStreams: { timeoutMS: 1 } as object } };
  assertThrows(() => listen(misspelled), TypeError, "timeoutMS");
});
