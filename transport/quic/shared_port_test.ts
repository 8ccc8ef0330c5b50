import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { certificate, connectBare, PROTOCOL } from "../../tests/peers/quic_peer.ts";
import { soon, until } from "../../tests/waiting.ts";
import { CloseCode } from "../../errors.ts";
import type { Connection } from "../connection.ts";
import { directStream } from "../direct.ts";
import { dialQuic } from "./client.ts";
import type { QuicConnection } from "./connection.ts";
import { dialWebTransport } from "../h3/client.ts";
import {
  listenWebTransport,
  type ListenWebTransportOptions,
  type RawQuicOptions,
  type WebTransportListener,
} from "../h3/server.ts";

const TEXT = new TextEncoder().encode("hello");

/** Listens for sessions and raw connections, and echoes the bidirectional streams of both. */
function listenBoth(
  quic: Partial<RawQuicOptions> = {},
  options: Partial<ListenWebTransportOptions> = {},
): WebTransportListener {
  const listener = listenWebTransport({
    hostname: "127.0.0.1",
    ...certificate,
    ...options,
    quic: { protocols: [PROTOCOL], onConnection: echo, ...quic },
  });
  void (async () => {
    for await (const request of listener) void echo(request.accept());
  })();
  return listener;
}

async function echo(connection: Connection): Promise<void> {
  try {
    for await (const { readable, writable } of connection.incomingBidirectionalStreams) {
      readable.pipeTo(writable).catch(() => {});
    }
  } catch {
    // The packet was lost.
  }
}

/** Checks that the peer echoes the bytes of a stream. */
async function checkEcho(connection: Connection): Promise<void> {
  const stream = directStream(await soon(connection.createBidirectionalStream()));
  await stream.write(TEXT);
  await stream.close();
  assertEquals(await soon(stream.read()), TEXT);
  assertEquals(await soon(stream.read()), null);
}

Deno.test("WebTransportListener accepts sessions and raw connections on one port", async () => {
  await using listener = listenBoth();
  const { port } = listener.address;
  const serverCertificateHashes = certificate.hashes;
  await using session = await soon(
    dialWebTransport(`https://127.0.0.1:${port}/`, { serverCertificateHashes }),
  );
  const protocols = [PROTOCOL];
  await using raw = await soon(
    dialQuic(`moqt://127.0.0.1:${port}/`, { protocols, serverCertificateHashes }),
  );
  assertEquals([session.transport, raw.transport], ["webtransport", "quic"]);
  for (let i = 0; i < 3; i++) await Promise.all([checkEcho(session), checkEcho(raw)]);
  assertEquals([listener.connectionCount, listener.sessionCount], [2, 1]);
});

Deno.test("WebTransportListener sends no settings to a raw connection", async () => {
  await using listener = listenBoth({
    async onConnection(connection) {
      const stream = directStream(await connection.createUnidirectionalStream());
      await stream.write(TEXT);
      await stream.close();
    },
  });
  await using raw = await soon(
    dialQuic(`quic://127.0.0.1:${listener.address.port}/`, {
      protocols: [PROTOCOL],
      serverCertificateHashes: certificate.hashes,
    }),
  );
  const { value } = await soon(raw.incomingUnidirectionalStreams.getReader().read());
  assertEquals(await soon(directStream(value!).read()), TEXT);
});

Deno.test("WebTransportListener rejects a client with neither protocol", async () => {
  await using listener = listenBoth();
  const { port } = listener.address;
  await assertRejects(() => soon(connectBare(port, { alpnProtocols: ["another"] })));
  const both = await connectBare(port, { alpnProtocols: ["another", PROTOCOL] });
  assertEquals(both.protocol, PROTOCOL);
  both.close({ closeCode: 0, reason: "" });
  await soon(both.closed);
});

Deno.test("WebTransportListener without raw QUIC rejects its protocols", async () => {
  await using listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
  await assertRejects(() => soon(connectBare(listener.address.port)));
});

Deno.test("WebTransportListener lets a raw peer open 1024 unidirectional streams", async () => {
  for (const [options, max] of [[{}, 1_024], [{ maxUnidirectionalStreams: 4 }, 4]] as const) {
    const { promise, resolve } = Promise.withResolvers<QuicConnection>();
    await using listener = listenBoth({ onConnection: resolve }, options);
    const peer = await connectBare(listener.address.port);
    const connection = await soon(promise);
    const sending = [];
    // Three more streams are allowed, for the control streams of HTTP/3.
    for (let i = 0; i < max + 3; i++) {
      const writer = (await peer.createUnidirectionalStream()).getWriter();
      sending.push(writer.write(Uint8Array.of(i)).then(() => writer.close()));
    }
    await assertRejects(() => peer.createUnidirectionalStream());
    await soon(Promise.all(sending));
    let count = 0;
    for await (const stream of connection.incomingUnidirectionalStreams) {
      const direct = directStream(stream);
      assertEquals(await soon(direct.read()), Uint8Array.of(count));
      assertEquals(await soon(direct.read()), null);
      if (++count === max) break;
    }
    await listener.close();
    await soon(peer.closed);
  }
});

Deno.test("WebTransportListener counts both kinds against its limits", async () => {
  await using listener = listenBoth({}, { maxConnectionsPerAddress: 1 });
  const { port } = listener.address;
  const serverCertificateHashes = certificate.hashes;
  {
    await using _session = await soon(
      dialWebTransport(`https://127.0.0.1:${port}/`, { serverCertificateHashes }),
    );
    const { closeCode } = await soon((await connectBare(port)).closed);
    assertEquals(closeCode, CloseCode.tooMany);
  }
  await until(() => listener.connectionCount === 0);
  const { closed } = await connectBare(port);
  await until(() => listener.connectionCount === 1);
  await listener.close();
  await soon(closed);
});

Deno.test("WebTransportListener closes a raw connection with 4500 when its handler fails", async (t) => {
  const handlers: [string, RawQuicOptions["onConnection"]][] = [
    ["throws", () => {
      throw new Error("oh no");
    }],
    ["rejects", () => Promise.reject(new Error("oh no"))],
  ];
  for (const [how, onConnection] of handlers) {
    await t.step(how, async () => {
      const errors: unknown[] = [];
      const onError = (error: unknown) => {
        errors.push(error);
        return Promise.reject(new Error("The log is full"));
      };
      await using listener = listenBoth({ onConnection, onError });
      const { closeCode } = await soon((await connectBare(listener.address.port)).closed);
      assertEquals(closeCode, CloseCode.handlerFailed);
      assertEquals(errors.map((error) => (error as Error).message), ["oh no"]);
    });
  }
});

Deno.test("WebTransportListener.close() closes raw connections with 0", async () => {
  const listener = listenBoth();
  const peer = await connectBare(listener.address.port);
  await until(() => listener.connectionCount === 1);
  await listener.close();
  assertEquals((await soon(peer.closed)).closeCode, 0);
});

Deno.test("listenWebTransport() throws when the options of raw QUIC are invalid", () => {
  const wrong: [Partial<RawQuicOptions>, string][] = [
    [{ protocols: [] }, "protocols must be a non-empty array"],
    [{ protocols: ["h3"] }, 'protocols of raw QUIC must not include "h3"'],
    [
      { onConnection: undefined as unknown as RawQuicOptions["onConnection"] },
      "onConnection must be a function, received undefined",
    ],
  ];
  for (const [quic, message] of wrong) {
    assertThrows(() => listenBoth(quic), TypeError, message);
  }
  assertThrows(
    () => listenBoth({}, { maxUnidirectionalStreams: 0 }),
    RangeError,
    "maxUnidirectionalStreams must be a positive integer, received 0",
  );
});
