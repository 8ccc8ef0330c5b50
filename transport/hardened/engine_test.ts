import { assert, assertEquals, assertMatch, assertStrictEquals, assertThrows } from "@std/assert";
import net from "node:net";
import { UnsupportedError } from "../../errors.ts";
import { captureConsole } from "../../tests/console_lines.ts";
import { RawSocket } from "../../tests/servers.ts";
import { soon, until } from "../../tests/waiting.ts";
import { dialWebSocket } from "../websocket/client.ts";
import type { Connection } from "../connection.ts";
import type { UpgradeHost } from "../websocket/server.ts";
import { hardenedWebSocket } from "./mod.ts";

const anyPort = { hostname: "127.0.0.1", port: 0 };

Deno.test("hardenedWebSocket() rejects invalid limits", () => {
  for (const value of [0, -1, NaN, Infinity]) {
    assertThrows(
      () => hardenedWebSocket({ handshakeTimeoutMs: value }),
      RangeError,
      `handshakeTimeoutMs must be a finite number above 0, received ${value}`,
    );
  }
  for (const value of [0, 1.5, Infinity]) {
    assertThrows(
      () => hardenedWebSocket({ maxPayloadBytes: value }),
      RangeError,
      "maxPayloadBytes",
    );
  }
  hardenedWebSocket({ handshakeBurst: Infinity, maxPending: Infinity });
});

Deno.test("accept() accepts only upgrades of its own server, each once", async () => {
  const engine = hardenedWebSocket();
  const upgrade = { upgrade: "websocket", connection: "upgrade" };
  const foreign = new Request("http://localhost/", { headers: upgrade });
  assertThrows(() => engine.accept(foreign), TypeError, "that this engine's server received");

  const errors: string[] = [];
  const server = engine.listen(anyPort, (request) => {
    const thrown = (run: () => unknown) => errors.push(assertThrows(run, TypeError).message);
    if (request.headers.get("upgrade") !== "websocket") thrown(() => engine.accept(request));
    else {
      thrown(() => engine.accept(request, { protocol: "other" }));
      const { response } = engine.accept(request, { protocol: "chat" });
      thrown(() => engine.accept(request, { protocol: "chat" }));
      return response;
    }
    return new Response("plain");
  });
  const { port } = server.addr;
  assertEquals(await (await fetch(`http://127.0.0.1:${port}/`)).text(), "plain");
  const client = await dialWebSocket(`ws://127.0.0.1:${port}/`, { protocols: ["game", "chat"] });
  assertEquals([client.protocol, errors.length], ["chat", 3]);
  assertMatch(errors[1]!, /protocol must be one that the peer offers, received "other"/);
  await client[Symbol.asyncDispose]();
  await server.shutdown();
});

Deno.test("listen() offers upgrades without a Request first, and creates one when read", async () => {
  const engine: UpgradeHost = hardenedWebSocket();
  const seen: unknown[] = [];
  const server = engine.listen(anyPort, (request) => {
    seen.push(request.headers.get("sec-websocket-protocol"));
    return engine.accept(request, { protocol: "chat" }).response;
  }, (upgrade) => {
    const { method, url, headers } = upgrade;
    seen.push([method, new URL(url).pathname, headers.get("X-Two"), headers.has("x-none")]);
    if (new URL(url).pathname === "/leave") return undefined;
    if (url.endsWith("/read")) {
      const { request } = upgrade;
      assertStrictEquals(upgrade.request, request);
      seen.push([request.url === url, new Request(request).headers.get("x-two")]);
    }
    return upgrade.accept({ protocol: "chat" }).response;
  });
  const ask = async (path: string) => {
    const headers = { "x-two": "a" };
    using raw = await RawSocket.open(server.addr.port, { path, headers, protocol: "chat" });
    return raw.status;
  };
  assertEquals(await ask("/at-once"), 101);
  assertEquals(seen.splice(0), [["GET", "/at-once", "a", false]]);
  assertEquals(await ask("/read"), 101);
  assertEquals(seen.splice(0), [["GET", "/read", "a", false], [true, "a"]]);
  assertEquals(await ask("/leave"), 101);
  assertEquals(seen.splice(0), [["GET", "/leave", "a", false], "chat"]);
  await server.shutdown();
});

Deno.test("accept() selects no protocol by default", async () => {
  const engine = hardenedWebSocket();
  const server = engine.listen(anyPort, (request) => engine.accept(request).response);
  using raw = await RawSocket.open(server.addr.port, { protocol: "chat" });
  assertEquals([raw.status, /sec-websocket-protocol/i.test(raw.head)], [101, false]);
  await server.shutdown();
  assertEquals(await raw.read(), undefined);
});

Deno.test("listen() delivers bytes that follow the upgrade", async () => {
  const engine = hardenedWebSocket();
  const accepted = Promise.withResolvers<Connection>();
  const server = engine.listen(anyPort, async (request) => {
    // The server reads nothing before the handler accepts.
    await new Promise((resolve) => setTimeout(resolve, 20));
    const { connection, response } = engine.accept(request);
    accepted.resolve(connection);
    return response;
  });
  using raw = await RawSocket.ask(server.addr.port);
  await raw.frame("early");
  const connection = await soon(accepted.promise);
  const frame = new Promise((resolve) => {
    connection.frames!.receive({ receiveFrame: resolve, framesEnded() {} });
  });
  assertEquals(await soon(frame), "early");
  await server.shutdown();
  await connection.closed.catch(() => {});
});

Deno.test("listen() aborts the signal of a request whose client disconnected", async () => {
  const engine = hardenedWebSocket();
  const asked = Promise.withResolvers<Request>();
  const server = engine.listen(anyPort, async (request) => {
    asked.resolve(request);
    await new Promise((resolve) => request.signal.addEventListener("abort", resolve));
    return new Response("for nobody");
  });
  const leaving = new AbortController();
  const fetching = fetch(`http://127.0.0.1:${server.addr.port}/`, { signal: leaving.signal });
  const { signal } = await soon(asked.promise);
  leaving.abort();
  await fetching.catch(() => {});
  await until(() => signal.aborted);
  await server.shutdown();
});

Deno.test("listen() ends the body of a response whose client disconnected", async () => {
  const engine = hardenedWebSocket();
  const cancelled = Promise.withResolvers<void>();
  const server = engine.listen(anyPort, () =>
    new Response(
      new ReadableStream({
        pull: (controller) => controller.enqueue(new Uint8Array(65_536)),
        cancel: () => cancelled.resolve(),
      }),
    ));
  const response = await fetch(`http://127.0.0.1:${server.addr.port}/`);
  const reader = response.body!.getReader();
  assert(!(await reader.read()).done);
  await reader.cancel();
  await soon(cancelled.promise);
  await server.shutdown();
});

Deno.test("listen() resolves names, and reports a free port immediately", async () => {
  const engine = hardenedWebSocket();
  const server = engine.listen({ hostname: "localhost", port: 0 }, () => new Response("hello"));
  assert(server.addr.port > 0);
  assertEquals(await (await fetch(`http://localhost:${server.addr.port}/`)).text(), "hello");
  await Promise.all([server.shutdown(), server.shutdown()]);
  assertEquals(engine.stats().connections, 0);
});

Deno.test("listen() reports it if the runtime cannot listen synchronously", () => {
  const descriptor = Object.getOwnPropertyDescriptor(net, "_createServerHandle")!;
  Object.defineProperty(net, "_createServerHandle", { ...descriptor, value: undefined });
  try {
    assertThrows(
      () => hardenedWebSocket().listen(anyPort, () => new Response()),
      UnsupportedError,
      "needs _createServerHandle of node:net",
    );
  } finally {
    Object.defineProperty(net, "_createServerHandle", descriptor);
  }
});

Deno.test("frames.drained() waits for the system, not for a timer", async () => {
  const engine = hardenedWebSocket();
  const accepted = Promise.withResolvers<Connection>();
  const server = engine.listen(anyPort, (request) => {
    const { connection, response } = engine.accept(request);
    accepted.resolve(connection);
    return response;
  });
  using raw = await RawSocket.open(server.addr.port);
  const connection = await accepted.promise;
  const frames = connection.frames!;
  // More bytes than the system buffers.
  for (let i = 0; i < 300; i++) frames.send("x".repeat(60_000));
  let isDrained = false;
  const drained = frames.drained().then(() => {
    isDrained = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assertEquals([isDrained, frames.bufferedAmount > frames.lowWaterMark], [false, true]);
  for (let i = 0; i < 300; i++) assertEquals((await raw.read())?.payload.length, 60_000);
  await soon(drained);
  assert(frames.bufferedAmount <= frames.lowWaterMark);
  // A wait for a drain that never happens ends with the connection.
  for (let i = 0; i < 300; i++) frames.send("x".repeat(60_000));
  const dropped = frames.drained();
  connection.terminate!();
  await soon(dropped);
  await connection.closed.catch(() => {});
  await server.shutdown();
});

Deno.test("listen() responds with 500 to each request whose handler fails, and prints 16 errors a minute", async () => {
  using console = captureConsole();
  const server = hardenedWebSocket().listen(anyPort, () => {
    throw new Error("Broken");
  });
  for (let i = 0; i < 20; i++) {
    const response = await fetch(`http://127.0.0.1:${server.addr.port}/`);
    assertEquals([response.status, await response.text()], [500, "Internal Server Error"]);
  }
  assertEquals(console.lines.length, 16);
  assertMatch(console.lines[0]!, /^A request failed: .*Broken/s);
  await server.shutdown();
});
