/**
 * Tests the first request of a connection on the hardened WebSocket engine, over TCP and TLS. The
 * engine answers an upgrade, and passes any other request to node:http.
 *
 * @module
 */
import { assertEquals, assertMatch } from "@std/assert";
import { devCertificate } from "../transport/mod.ts";
import { hardenedWebSocket, type HardenedWebSocketOptions } from "../transport/hardened/mod.ts";
import type { ServeOptions } from "../server.ts";
import { HOST, listenHardened, UPGRADE } from "./hardened.ts";
import { frameOf, portOf } from "./servers.ts";
import { soon, until } from "./waiting.ts";
import { TextSocket } from "./peers/text_socket.ts";

const UPGRADE_HEAD = `GET /session HTTP/1.1\r\n${HOST}${UPGRADE}\r\n`;

const { cert, key } = devCertificate({ cacheFolder: null });

/** Serves an echo at `/session`. Every other path responds with the length of the request body. */
function listenEcho(
  scheme: "tcp" | "tls",
  options: ServeOptions = {},
  limits: HardenedWebSocketOptions = {},
) {
  const { engine, server } = listenHardened({
    path: "/session",
    onMessage: (message, session) => session.send(message.topic, message.data),
    fetch: async (request) => new Response(`<${(await request.bytes()).length}>`),
    ...(scheme === "tls" ? { tls: { cert, key } } : {}),
    ...options,
  }, { handshakeBurst: Infinity, ...limits });
  return { engine, server, connect: () => dial(scheme, portOf(server)) };
}

/** Connects with or without TLS. */
function dial(scheme: "tcp" | "tls", port: number): Promise<TextSocket> {
  return TextSocket.open(port, scheme === "tls" ? { cert } : {});
}

async function echo(wire: TextSocket, data: string): Promise<void> {
  await wire.write(frameOf(`{"topic":"t","data":"${data}"}`));
  await wire.until(`"data":"${data}"}`);
}

for (const scheme of ["tcp", "tls"] as const) {
  Deno.test(`hardened engine reads an upgrade over ${scheme} byte by byte, and in two pieces`, async () => {
    const { server, connect } = listenEcho(scheme);
    await using _server = server;
    {
      using wire = await connect();
      for (const byte of new TextEncoder().encode(UPGRADE_HEAD)) {
        await wire.write(Uint8Array.of(byte));
      }
      assertMatch(await wire.until("\r\n\r\n"), /^HTTP\/1\.1 101 /);
      await echo(wire, "slow");
    }
    for (let at = 1; at < UPGRADE_HEAD.length; at += 23) {
      using wire = await connect();
      await wire.write(UPGRADE_HEAD.slice(0, at));
      await wire.write(UPGRADE_HEAD.slice(at));
      assertMatch(await wire.until("\r\n\r\n"), /^HTTP\/1\.1 101 /, `cut at ${at}`);
      await echo(wire, "pieces");
    }
  });

  Deno.test(`hardened engine accepts messages over ${scheme} that arrive with the upgrade`, async () => {
    const { server, connect } = listenEcho(scheme);
    await using _server = server;
    const frames = ["one", "two"].map((data) => frameOf(`{"topic":"t","data":"${data}"}`));
    const head = new TextEncoder().encode(UPGRADE_HEAD);
    const bytes = new Uint8Array([...head, ...frames[0]!, ...frames[1]!]);
    // The input is written in one piece, and then cut within each of the frames.
    for (const cut of [bytes.length, head.length + 1, bytes.length - 3]) {
      using wire = await connect();
      await wire.write(bytes.subarray(0, cut));
      await wire.write(bytes.subarray(cut));
      const text = await wire.until('"two"');
      assertMatch(text, /^HTTP\/1\.1 101 .*"one".*"two"/s);
    }
  });

  Deno.test(`hardened engine passes a 100 KB request, and later ones, to node:http over ${scheme}`, async () => {
    const { server, connect } = listenEcho(scheme);
    await using _server = server;
    using wire = await connect();
    const body = "x".repeat(100_000);
    for (let i = 0; i < 5; i++) {
      await wire.write(`POST / HTTP/1.1\r\n${HOST}Content-Length: ${body.length}\r\n\r\n${body}`);
      assertMatch(await wire.until("0\r\n\r\n"), /^HTTP\/1\.1 200 .*<100000>/s);
    }
    for (let i = 0; i < 3; i++) {
      await wire.write(`GET / HTTP/1.1\r\n${HOST}\r\n`);
      assertMatch(await wire.until("\r\n0\r\n\r\n"), /^HTTP\/1\.1 200 .*<0>/s);
    }
    await wire.write(UPGRADE_HEAD);
    assertMatch(await wire.until("-Accept: "), /HTTP\/1\.1 101 /);
  });

  Deno.test(`hardened engine passes requests over ${scheme} that arrive byte by byte to node:http`, async () => {
    const { server, connect } = listenEcho(scheme);
    await using _server = server;
    const heads = {
      [`GET / HTTP/1.1\r\n${HOST}\r\n`]: /<0>/,
      [`POST / HTTP/1.1\r\n${HOST}Content-Length: 5\r\n\r\nhello`]: /<5>/,
      [`POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`]:
        /<5>/,
    };
    for (const [head, answer] of Object.entries(heads)) {
      using wire = await connect();
      for (let i = 0; i < 2; i++) {
        for (const byte of new TextEncoder().encode(head)) await wire.write(Uint8Array.of(byte));
        const text = await wire.until("\r\n0\r\n\r\n");
        assertMatch(text, /^HTTP\/1\.1 200 /, head);
        assertMatch(text, answer, head);
      }
    }
  });

  Deno.test(`hardened engine delimits responses over ${scheme} by their length, or by the end of the connection`, async () => {
    const { server, connect } = listenEcho(scheme, {
      fetch: () => new Response("hello", { headers: { "content-length": "5" } }),
    });
    await using _server = server;
    using wire = await connect();
    // An empty write ends a body of known length.
    for (let i = 0; i < 3; i++) {
      await wire.write(`GET / HTTP/1.1\r\n${HOST}\r\n`);
      assertMatch(await wire.until("hello"), /content-length: 5\r\n/i);
    }
    await wire.write(`GET / HTTP/1.0\r\n${HOST}\r\n`);
    assertMatch(await wire.until(), /hello$/);
  });

  Deno.test(`hardened engine continues writing over ${scheme} after the system's buffer was full`, async () => {
    const engine = hardenedWebSocket();
    const size = 8_000_000;
    const server = engine.listen({
      hostname: "127.0.0.1",
      port: 0,
      ...(scheme === "tls" ? { tls: { cert, key } } : {}),
    }, (request) => {
      const { connection: { frames, closed }, response } = engine.accept(request);
      closed.catch(() => {});
      frames!.receive({
        receiveFrame() {
          // One write that is too large for the system to buffer as a whole.
          frames!.send("x".repeat(size));
          frames!.drained().then(() => frames!.send("the end"));
        },
        framesEnded() {},
      });
      return response;
    });
    {
      using wire = await dial(scheme, server.addr.port);
      await wire.write(UPGRADE_HEAD);
      assertMatch(await wire.until("\r\n\r\n"), /^HTTP\/1\.1 101 /);
      await wire.write(frameOf("go"));
      const text = await wire.until("the end");
      // A head of 10 bytes for the large frame, and one of 2 bytes for the last frame.
      assertEquals([text.length, text.endsWith("\x81\x07the end")], [size + 19, true]);
    }
    await until(() => engine.stats().connections === 0);
    await server.shutdown();
  });

  Deno.test(`hardened engine upgrades over ${scheme} after answered requests`, async () => {
    const { engine, server, connect } = listenEcho(scheme);
    await using _server = server;
    {
      using wire = await connect();
      for (let i = 0; i < 3; i++) {
        await wire.write(`GET / HTTP/1.1\r\n${HOST}\r\n`);
        await wire.until("0\r\n\r\n");
      }
      await wire.write(UPGRADE_HEAD);
      assertMatch(await wire.until("\r\n\r\n"), /^HTTP\/1\.1 101 /);
      await echo(wire, "later");
      assertEquals(server.manager.count, 1);
    }
    await until(() => engine.stats().connections === 0);
    await until(() => server.manager.count === 0);
  });

  Deno.test(`hardened engine rejects an upgrade over ${scheme} with headers and body`, async () => {
    const { engine, server } = listenEcho(scheme, {
      fetch: () => new Response("unused"),
      authenticate: () => null,
    });
    await using _server = server;
    using wire = await dial(scheme, portOf(server));
    await wire.write(UPGRADE_HEAD);
    const text = await wire.until();
    assertMatch(text, /^HTTP\/1\.1 401 Unauthorized\r\n/);
    assertMatch(text, /\r\nconnection: close\r\n/);
    assertMatch(text, /\r\ndate: \w{3}, \d\d \w{3} \d{4} [\d:]+ GMT\r\n/);
    assertMatch(text, /\r\n\r\n[\da-f]+\r\nUnauthenticated\r\n0\r\n\r\n$/);
    await until(() => engine.stats().connections === 0);
  });

  Deno.test(`hardened engine drops a first request over ${scheme} that takes too long`, async () => {
    const { engine, server, connect } = listenEcho(scheme, {}, { handshakeTimeoutMs: 300 });
    await using _server = server;
    for (const start of ["", "G", UPGRADE_HEAD.slice(0, -1), `POST / HTTP/1.1\r\n${HOST}`]) {
      const before = engine.stats().tooSlow;
      using wire = await connect();
      await wire.write(start);
      assertEquals(await wire.until(), "", start);
      await until(() => engine.stats().connections === 0);
      assertEquals(engine.stats().tooSlow, before + 1, start);
    }
  });

  Deno.test(`hardened engine rejects a head over ${scheme} that is too large`, async () => {
    const { engine, server, connect } = listenEcho(scheme, {}, { maxHeaderBytes: 1_024 });
    await using _server = server;
    const large = `X: ${"x".repeat(2_048)}\r\n`;
    for (const head of [UPGRADE_HEAD, `POST / HTTP/1.1\r\n${HOST}\r\n`]) {
      using wire = await connect();
      await wire.write(head.replace(HOST, HOST + large));
      assertMatch(await wire.until(), /^HTTP\/1\.1 431 /);
    }
    using endless = await connect();
    await endless.write(UPGRADE_HEAD.replace(HOST, `X: ${"x".repeat(2_048)}`).slice(0, 1_500));
    assertMatch(await endless.until(), /^HTTP\/1\.1 431 /);
    await until(() => engine.stats().connections === 0);
  });

  Deno.test(`hardened engine aborts an upgrade over ${scheme} whose peer disconnects before the response`, async () => {
    const asked = Promise.withResolvers<Request>();
    const { engine, server, connect } = listenEcho(scheme, {
      authenticate: async ({ request }) => {
        asked.resolve(request);
        await new Promise((resolve) => request.signal.addEventListener("abort", resolve));
        return null;
      },
    });
    await using _server = server;
    {
      using wire = await connect();
      await wire.write(UPGRADE_HEAD);
      await soon(asked.promise);
    }
    const { signal } = await asked.promise;
    await until(() => signal.aborted);
    await until(() => engine.stats().connections === 0);
  });
}

Deno.test("hardened engine streams the body of a rejection, and stops when its peer disconnects", async () => {
  const cancelled = Promise.withResolvers<void>();
  const engine = hardenedWebSocket();
  const server = engine.listen({ hostname: "127.0.0.1", port: 0 }, () =>
    new Response(
      new ReadableStream({
        pull: (controller) => controller.enqueue(new Uint8Array(65_536).fill(120)),
        cancel: () => cancelled.resolve(),
      }),
      { status: 503, statusText: "Later", headers: [["set-cookie", "a=1"], ["set-cookie", "b=2"]] },
    ));
  {
    using wire = await dial("tcp", server.addr.port);
    await wire.write(UPGRADE_HEAD);
    const text = await wire.until("xxx");
    assertMatch(text, /^HTTP\/1\.1 503 Later\r\n/);
    assertMatch(text, /\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n/);
  }
  await soon(cancelled.promise);
  await server.shutdown();
});

Deno.test("hardened engine ends requests of node:http whose body takes too long", async () => {
  const { engine, server, connect } = listenEcho("tcp", {}, { requestTimeoutMs: 300 });
  await using _server = server;
  using wire = await connect();
  await wire.write(`POST / HTTP/1.1\r\n${HOST}Content-Length: 5\r\n\r\nhel`);
  assertMatch(await wire.until(), /^HTTP\/1\.1 408 /);
  await until(() => engine.stats().connections === 0);
});

Deno.test("hardened engine answers all pipelined requests in order", async () => {
  const seen: string[] = [];
  await using hardened = listenEcho("tcp", {
    fetch: (request) => {
      seen.push(new URL(request.url).pathname);
      return new Response(`[${new URL(request.url).pathname}]`);
    },
  }).server;
  const requests = Array.from({ length: 100 }, (_, i) => `GET /${i} HTTP/1.1\r\n${HOST}\r\n`);
  using wire = await dial("tcp", portOf(hardened));
  await wire.write(requests.join(""));
  const text = await wire.until("[/99]");
  assertEquals(text.match(/\[\/\d+\]/g), Array.from({ length: 100 }, (_, i) => `[/${i}]`));
  assertEquals(seen.length, 100);
});

for (
  const [what, head] of [
    ["another version", `GET / HTTP/2.0\r\n${HOST}\r\n`],
    [
      "two transfer codings",
      `POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n`,
    ],
    [
      "transfer codings in two headers",
      `POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    ],
    [
      "the transfer coding identity",
      `POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: identity\r\n\r\n`,
    ],
  ]
) {
  Deno.test(`hardened engine rejects ${what} in a head, and closes the connection`, async () => {
    await using server = listenEcho("tcp").server;
    using wire = await dial("tcp", portOf(server));
    await wire.write(head!);
    assertMatch(await wire.until(), /^HTTP\/1\.1 400 /);
  });
}
