import { assertRejects } from "@std/assert";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import type { Connection } from "../../transport/connection.ts";
import { dialWebSocket } from "../../transport/websocket_client.ts";
import { acceptWebSocket } from "../../transport/websocket_server.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";
import { soon } from "./pair.ts";

/** A client and a server in this process, over a real socket. */
function make(protocol: string): () => Promise<ConnectionPair> {
  return async () => {
    const accepted = Promise.withResolvers<Connection>();
    const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
      const { connection, response } = acceptWebSocket(request, protocol ? { protocol } : {});
      accepted.resolve(connection);
      return response;
    });
    const protocols = protocol ? [protocol] : [];
    const a = await dialWebSocket(`ws://127.0.0.1:${server.addr.port}/`, { protocols });
    const b = await accepted.promise;
    await b.ready;
    return {
      a,
      b,
      async [Symbol.asyncDispose](): Promise<void> {
        await Promise.all([a[Symbol.asyncDispose](), b[Symbol.asyncDispose]()]);
        await server.shutdown();
      },
    };
  };
}

/** The same with its ends changed over: what the suite does at one of them, it does at the other. */
function swapped(makePair: () => Promise<ConnectionPair>): () => Promise<ConnectionPair> {
  return async () => {
    const pair = await makePair();
    return { a: pair.b, b: pair.a, [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose]() };
  };
}

const traits: ConnectionTraits = {
  frames: true,
  streams: false,
  datagrams: "none",
  resetCodes: false,
  credit: false,
  independentStreams: false,
  maxReasonBytes: 123,
  protocol: "",
};

const withStreams: ConnectionTraits = {
  ...traits,
  streams: true,
  datagrams: "reliable",
  resetCodes: true,
  credit: true,
};

testConnection("WebSocket, plain", make(""), traits);

const skein = { ...withStreams, protocol: "skein.1", binaryHead: [0x40, 0x53] };
testConnection("WebSocket, skein.1", make("skein.1"), skein);
testConnection("WebSocket, skein.1, from the server", swapped(make("skein.1")), skein);

/** Codes and reasons travel in a frame of QMux. */
const qmux = {
  ...withStreams,
  frames: false,
  maxReasonBytes: 1024,
  maxCloseCode: Number.MAX_SAFE_INTEGER,
};
testConnection("WebSocket, qmux-02", make("qmux-02"), qmux);
testConnection("WebSocket, qmux-01", make("qmux-01"), qmux);
testConnection("WebSocket, qmux-01, from the server", swapped(make("qmux-01")), qmux);
testConnection("WebSocket, qmux-00", make("qmux-00"), { ...qmux, datagrams: "none" });

const messages = { ...skein, maxReasonBytes: 1024 };
const makeMessages = make("qmux-01.skein.1");
testConnection("WebSocket, qmux-01.skein.1", makeMessages, messages);
testConnection("WebSocket, qmux-01.skein.1, from the server", swapped(makeMessages), messages);

/** Accepts one WebSocket from a peer that then says nothing, not even a pong or a close. */
async function acceptSilentPeer(
  idleTimeoutMs: number,
): Promise<{ connection: Connection; peer: Deno.Conn } & AsyncDisposable> {
  const accepted = Promise.withResolvers<Connection>();
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    const { connection, response } = acceptWebSocket(request, { idleTimeoutMs });
    accepted.resolve(connection);
    return response;
  });
  const peer = await Deno.connect({ hostname: "127.0.0.1", port: server.addr.port });
  const upgrade = [
    "GET / HTTP/1.1",
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
  ];
  await peer.write(new TextEncoder().encode(`${upgrade.join("\r\n")}\r\n\r\n`));
  const connection = await accepted.promise;
  await connection.ready;
  return {
    connection,
    peer,
    async [Symbol.asyncDispose](): Promise<void> {
      try {
        peer.close();
      } catch { /* The test closed it. */ }
      await connection.closed.catch(() => {});
      await server.shutdown();
    },
  };
}

Deno.test("Connection over WebSocket rejects closed when the network breaks", async () => {
  await using silent = await acceptSilentPeer(60_000);
  silent.peer.close();
  await assertRejects(() => soon(silent.connection.closed), ConnectionError);
});

Deno.test("Connection over WebSocket rejects closed when the peer shows no sign of life", async () => {
  await using silent = await acceptSilentPeer(1_000);
  await assertRejects(() => soon(silent.connection.closed), ConnectionError);
});

Deno.test("dialWebSocket() drops the socket when it gives up", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepting = listener.accept();
  const url = `ws://127.0.0.1:${listener.addr.port}/`;
  await assertRejects(() => dialWebSocket(url, { timeoutMs: 100 }), TimeoutError);
  using peer = await accepting;
  const buffer = new Uint8Array(4096);
  while (await soon(peer.read(buffer)) !== null);
});

Deno.test("dialWebSocket() rejects when nobody listens", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  await assertRejects(() => dialWebSocket(`ws://127.0.0.1:${port}/`), ConnectionError);
});
