/**
 * Tests HTTP from malicious peers on the hardened WebSocket engine: request smuggling, thousands of
 * requests, and misplaced bodies.
 *
 * @module
 */
import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { devCertificate } from "../transport/mod.ts";
import { HOST, listenHardened, UPGRADE } from "./hardened.ts";
import { frameOf, portOf, RawSocket } from "./servers.ts";
import { until } from "./waiting.ts";
import { TextSocket } from "./peers/text_socket.ts";

Deno.test("hardened engine survives a rejected upgrade after an unanswered request", async () => {
  const gate = Promise.withResolvers<void>();
  const { engine, server } = listenHardened({
    path: "/session",
    fetch: async (request) => {
      if (request.url.endsWith("/slow")) await gate.promise;
      return new Response("plain");
    },
  });
  await using _server = server;
  const slow = `GET /slow HTTP/1.1\r\n${HOST}\r\n`;
  for (const path of ["/elsewhere", "/session"]) {
    using plain = await TextSocket.send(
      portOf(server),
      `${slow}GET ${path} HTTP/1.1\r\n${HOST}${UPGRADE}\r\n`,
    );
    await until(() => engine.stats().connections > 0);
    gate.resolve();
    // Responses are sent in order, and never into a WebSocket.
    const text = await plain.until("HTTP/1.1 4");
    assertMatch(text, /^HTTP\/1\.1 200 .*plain.*HTTP\/1\.1 4\d\d /s);
    assert(!text.includes("101"), text);
  }
  assertEquals(server.manager.count, 0);
});

Deno.test("hardened engine sends a slow response before an early response to an incomplete request", async () => {
  const gate = Promise.withResolvers<void>();
  let isRejected = false;
  const { server } = listenHardened({
    fetch: async (request) => {
      isRejected = request.method === "POST";
      if (isRejected) return new Response(null, { status: 403 });
      await gate.promise;
      return new Response("slow");
    },
  });
  await using _server = server;
  // The body of the second request never ends.
  const requests = `GET / HTTP/1.1\r\n${HOST}\r\nPOST / HTTP/1.1\r\n${HOST}` +
    "Content-Length: 100\r\n\r\nabc";
  using plain = await TextSocket.send(portOf(server), requests);
  await until(() => isRejected);
  gate.resolve();
  assertMatch(await plain.until(), /^HTTP\/1\.1 200 .*slow.*HTTP\/1\.1 403 /s);
});

Deno.test("hardened engine cancels the bodies of a client that leaves, also of those that wait for their turn", async () => {
  const cancelled: string[] = [];
  const signals: AbortSignal[] = [];
  const { server } = listenHardened({
    fetch({ url, signal }) {
      signals.push(signal);
      return new Response(
        new ReadableStream({
          start: (controller) => controller.enqueue(new TextEncoder().encode("begun")),
          cancel: () => void cancelled.push(new URL(url).pathname),
        }),
      );
    },
  });
  await using _server = server;
  {
    const paths = ["/1", "/2", "/3"].map((path) => `GET ${path} HTTP/1.1\r\n${HOST}\r\n`);
    using socket = await TextSocket.send(portOf(server), paths.join(""));
    await socket.until("begun");
    await until(() => signals.length === 3);
  }
  await until(() => cancelled.length === 3);
  assertEquals(cancelled.toSorted(), ["/1", "/2", "/3"]);
  assertEquals(signals.map(({ aborted }) => aborted), [true, true, true]);
});

Deno.test("hardened engine limits the pending requests of one connection", async () => {
  const gate = Promise.withResolvers<void>();
  let running = 0;
  const { engine, server } = listenHardened({
    fetch: async () => {
      running++;
      await gate.promise;
      return new Response("hello");
    },
  });
  await using _server = server;
  using few = await TextSocket.send(portOf(server), `GET / HTTP/1.1\r\n${HOST}\r\n`.repeat(4));
  await until(() => running === 4);
  using many = await TextSocket.send(portOf(server), `GET / HTTP/1.1\r\n${HOST}\r\n`.repeat(2_000));
  assertEquals(await many.until(), "");
  assertLess(running, 40);
  await until(() => engine.stats().connections === 1);
  gate.resolve();
  const text = await few.until("hello\r\n0\r\n\r\nHTTP/1.1 200 OK");
  assertMatch(text, /^HTTP\/1\.1 200 /);
});

Deno.test("hardened engine passes on the body of a request that offers another upgrade", async () => {
  const { server } = listenHardened({
    fetch: async (request) => new Response(await request.text()),
  });
  await using _server = server;
  // Clients that would prefer HTTP/2 send this.
  using plain = await TextSocket.send(
    portOf(server),
    `POST / HTTP/1.1\r\n${HOST}Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\nhello`,
  );
  assertMatch(await plain.until("hello"), /^HTTP\/1\.1 200 .*hello/s);
});

Deno.test("hardened engine rejects an upgrade with a body", async () => {
  const { server } = listenHardened({ path: "/session" });
  await using _server = server;
  const frame = frameOf('{"topic":"t"}');
  for (
    const [header, body] of [
      ["Content-Length: 5", "hello"],
      ["Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"],
    ]
  ) {
    using plain = await TextSocket.send(
      portOf(server),
      `GET /session HTTP/1.1\r\n${HOST}${UPGRADE}${header}\r\n\r\n${body}`,
    );
    await plain.write(frame).catch(() => {});
    assertMatch(await plain.until("\r\n\r\n"), /^HTTP\/1\.1 400 /, header);
  }
  using raw = await RawSocket.open(portOf(server), {
    path: "/session",
    headers: { "content-length": "0" },
  });
  assertEquals(raw.status, 101);
});

Deno.test("hardened engine rejects ambiguous heads", async () => {
  const urls: string[] = [];
  const { server } = listenHardened({
    fetch: async (request) => {
      urls.push(request.url);
      return new Response(await request.text());
    },
  });
  await using _server = server;
  const smuggled = `GET /smuggled HTTP/1.1\r\n${HOST}\r\n`;
  const heads = [
    `POST / HTTP/1.1\r\n${HOST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    `POST / HTTP/1.1\r\n${HOST}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello`,
    `POST / HTTP/1.1\r\n${HOST}Content-Length: +5\r\n\r\nhello`,
    `POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\nxyz\r\n`,
    `GET / HTTP/1.1\r\nHost : localhost\r\n\r\n`,
    `GET / HTTP/1.1\r\n${HOST}X: a\0b\r\n\r\n`,
    `GET / HTTP/1.1\n${HOST}\n\n`,
    `GET / HTTP/1.1\r\n${HOST}Host: evil.test\r\n\r\n`,
    `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`,
  ];
  const { error } = console;
  // A handler throws if its request breaks off. The engine reports this as the runtime's server
  // does.
  console.error = () => {};
  try {
    for (const head of heads) {
      using plain = await TextSocket.send(portOf(server), head + smuggled);
      assertMatch(await plain.until(), /^HTTP\/1\.1 400 /, head);
      assert(!urls.some((url) => url.includes("smuggled")), head);
    }
  } finally {
    console.error = error;
  }
});

Deno.test("hardened engine also ends later requests of a connection that take too long", async () => {
  const { engine, server } = listenHardened({ fetch: () => new Response("hello") }, {
    handshakeTimeoutMs: 300,
    keepAliveTimeoutMs: 60_000,
  });
  await using _server = server;
  using plain = await TextSocket.send(portOf(server), `GET / HTTP/1.1\r\n${HOST}\r\n`);
  await plain.until("0\r\n\r\n");
  await plain.write(`GET / HTTP/1.1\r\n${HOST}X: `);
  let isOver = false;
  const over = plain.until().then(() => isOver = true);
  while (!isOver) {
    await plain.write("y").catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await over;
  await until(() => engine.stats().connections === 0);
});

Deno.test("hardened engine answers a request with an unread body", async () => {
  const { server } = listenHardened({ fetch: () => new Response(null, { status: 403 }) });
  await using _server = server;
  const body = new Uint8Array(3_000_000);
  for (let i = 0; i < 5; i++) {
    const response = await fetch(`http://127.0.0.1:${portOf(server)}/`, { method: "POST", body });
    assertEquals([response.status, await response.text()], [403, ""]);
  }
});

Deno.test("hardened engine closes a connection with a partly read body", async () => {
  const paths: string[] = [];
  const { server } = listenHardened({
    fetch: async ({ url, body }) => {
      const { pathname } = new URL(url);
      paths.push(pathname);
      if (pathname === "/cancelled") await body!.cancel();
      if (pathname === "/partly") await body!.getReader().read();
      return new Response("hello");
    },
  }, { keepAliveTimeoutMs: 60_000 });
  await using _server = server;
  for (const path of ["/cancelled", "/partly", "/unread"]) {
    const head = `POST ${path} HTTP/1.1\r\n${HOST}Content-Length: 100000\r\n\r\nabc`;
    using plain = await TextSocket.send(portOf(server), head);
    const first = await plain.until("0\r\n\r\n");
    await plain.write(`GET /smuggled HTTP/1.1\r\n${HOST}\r\n`).catch(() => {});
    assertMatch(first + await plain.until(), /^HTTP\/1\.1 200 .*hello/s);
  }
  assertEquals(paths, ["/cancelled", "/partly", "/unread"]);
});

Deno.test("hardened engine survives bytes that are not TLS, and broken handshakes", async () => {
  const { cert, key } = devCertificate({ cacheFolder: null });
  const { engine, server } = listenHardened({
    tls: { cert, key },
    fetch: () => new Response("hello"),
  });
  await using _server = server;
  for (const bytes of [`GET / HTTP/1.1\r\n${HOST}\r\n`, "\x16\x03\x01\x02\x00\x01\x00", ""]) {
    for (const isRead of [true, false]) {
      using plain = await TextSocket.send(portOf(server), bytes);
      await until(() => engine.stats().connections <= 1);
      if (isRead && bytes.startsWith("GET")) assert(!(await plain.until()).includes("HTTP"));
    }
  }
  await until(() => engine.stats().connections === 0);
  using client = Deno.createHttpClient({ caCerts: [cert] });
  const response = await fetch(`https://127.0.0.1:${portOf(server)}/`, { client });
  assertEquals(await response.text(), "hello");
});
