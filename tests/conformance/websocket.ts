/**
 * The conformance suite for `Connection` over a WebSocket, on any engine.
 *
 * @module
 */
import { assertRejects } from "@std/assert";
import { ConnectionError } from "../../errors.ts";
import type { Connection } from "../../transport/connection.ts";
import { dialWebSocket } from "../../transport/websocket/client.ts";
import type { WebSocketHost } from "../../transport/websocket/server.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";
import { soon } from "../waiting.ts";

/** Connects a client and a server in this process over a real socket. */
function make(engine: WebSocketHost, protocol: string): () => Promise<ConnectionPair> {
  return async () => {
    const accepted = Promise.withResolvers<Connection>();
    const server = engine.listen({ hostname: "127.0.0.1", port: 0 }, (request) => {
      const { connection, response } = engine.accept(request, protocol ? { protocol } : {});
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

/** Swaps the ends, because the suite treats `a` and `b` differently. */
function swapped(makePair: () => Promise<ConnectionPair>): () => Promise<ConnectionPair> {
  return async () => {
    const pair = await makePair();
    return { a: pair.b, b: pair.a, [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose]() };
  };
}

/** The traits of a WebSocket without streams. */
export const PLAIN_TRAITS: ConnectionTraits = {
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
  ...PLAIN_TRAITS,
  streams: true,
  datagrams: "reliable",
  resetCodes: true,
  credit: true,
};

/** The traits of a WebSocket with the subprotocol `skein.1`, which has streams. */
export const SKEIN_TRAITS: ConnectionTraits = {
  ...withStreams,
  protocol: "skein.1",
  binaryHead: [0x40, 0x53],
};

/** QMux carries codes and reasons in a frame of its own. */
const qmux = {
  ...withStreams,
  frames: false,
  maxReasonBytes: 1024,
  maxCloseCode: Number.MAX_SAFE_INTEGER,
};

const messages = { ...SKEIN_TRAITS, maxReasonBytes: 1024 };

/**
 * Registers the tests of an engine, for each subprotocol.
 *
 * @param name The name of the engine.
 * @param engine The engine, with a limit of 1 MiB for frames.
 */
export function testWebSocket(name: string, engine: WebSocketHost): void {
  const test = (protocol: string, what: ConnectionTraits) =>
    testConnection(`${name}, ${protocol || "plain"}`, make(engine, protocol), what);
  const testSwapped = (protocol: string, what: ConnectionTraits) =>
    testConnection(`${name}, ${protocol}, from the server`, swapped(make(engine, protocol)), what);

  test("", PLAIN_TRAITS);
  test("skein.1", SKEIN_TRAITS);
  testSwapped("skein.1", SKEIN_TRAITS);
  test("qmux-02", qmux);
  test("qmux-01", qmux);
  testSwapped("qmux-01", qmux);
  test("qmux-01.skein.1", messages);
  testSwapped("qmux-01.skein.1", messages);

  Deno.test(`Connection over ${name} rejects closed when the network breaks`, async () => {
    await using silent = await acceptSilentPeer(engine, 60_000);
    silent.peer.close();
    await assertRejects(() => soon(silent.connection.closed), ConnectionError);
  });

  Deno.test(`Connection over ${name} rejects closed when the peer sends nothing, not even pongs`, async () => {
    await using silent = await acceptSilentPeer(engine, 1_000);
    await assertRejects(() => soon(silent.connection.closed), ConnectionError);
  });
}

/** Accepts one WebSocket from a peer that sends neither data nor pongs nor a close. */
async function acceptSilentPeer(
  engine: WebSocketHost,
  idleTimeoutMs: number,
): Promise<{ connection: Connection; peer: Deno.Conn } & AsyncDisposable> {
  const accepted = Promise.withResolvers<Connection>();
  const server = engine.listen({ hostname: "127.0.0.1", port: 0 }, (request) => {
    const { connection, response } = engine.accept(request, { idleTimeoutMs });
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
