/**
 * Tests requests that an application or its framework changed before a mounted server received
 * them.
 */
import { assertEquals, assertMatch } from "@std/assert";
import { Hono } from "npm:hono@^4";
import { connect, createServer, type RequestInfo } from "../mod.ts";
import { captureConsole } from "./console_lines.ts";
import { until } from "./waiting.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { streamFeatures } from "./stream_features.ts";

type Handler = (request: Request, info: RequestInfo) => Response | Promise<Response>;

/** Serves a handler on a free port of this machine. */
const serving = (handler: Handler) =>
  Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, handler);

/** Ways to rebuild a request. */
const REBUILT: Readonly<Record<string, (live: Handler) => Handler>> = {
  "new Request()": (live) => (request, info) => live(new Request(request), info),
  "Hono's app.mount()": (live) => {
    const app = new Hono();
    app.mount("/live", (request: Request) => live(request, {}));
    return (request) => app.fetch(request);
  },
};

for (const [name, rebuild] of Object.entries(REBUILT)) {
  Deno.test(`Server.fetch() prints why upgrades fail after ${name}`, async () => {
    using printed = captureConsole();
    await using live = createServer({ session: { handshakeTimeoutMs: 50 } });
    await using http = serving(rebuild(live.fetch));
    await using _client = connect(`ws://127.0.0.1:${http.addr.port}/live`, {
      transports: ["websocket"],
      backoff: { firstDelayMs: 10, maxDelayMs: 20 },
      onError() {},
    });
    // The runtime prints its own line about rebuilt requests.
    const lines = () => printed.lines.filter((line) => line.startsWith("Skein: "));
    await until(() => lines().length > 0);
    assertMatch(
      lines().join("\n"),
      /^Skein: A WebSocket upgrade of \/(?:live)? did not open within 50 ms: pass the original .*$/,
    );
  });
}

Deno.test("Server.fetch() prints nothing about a peer that left if another upgrade succeeded", async () => {
  using printed = captureConsole();
  await using live = createServer({ session: { handshakeTimeoutMs: 1_000 } });
  let rebuilds = false;
  await using http = serving((request, info) =>
    live.fetch(rebuilds ? new Request(request) : request, info)
  );
  const url = `ws://127.0.0.1:${http.addr.port}/`;
  await using client = connect(url, { transports: ["websocket"] });
  await client.whenConnected();
  rebuilds = true;
  const socket = new WebSocket(url);
  await new Promise((resolve) => socket.onopen = resolve);
  await until(() => live.manager.stats().reserved === 0);
  socket.close();
  assertEquals(printed.lines, []);
});

Deno.test("Server.fetch() prints one line with the remedy if a middleware has read bodies", async () => {
  using printed = captureConsole();
  await using live = createServer({
    authorize: () => true,
    features: [
      httpApi({ path: "/api", authorize: () => true }),
      ...streamFeatures({ path: "/streams", authorize: () => true }),
    ],
    onMessage: (message) => message.reply("pong"),
  });
  let spares = false;
  await using http = serving(async (request, info) => {
    await (spares ? request.clone() : request).text();
    return await live.fetch(request, info);
  });
  const base = `http://127.0.0.1:${http.addr.port}`;
  const post = async (path: string, method: string) => {
    const response = await fetch(base + path, {
      method,
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    await response.body?.cancel();
    return response.status;
  };
  const hint = /failed: Cannot read body: nothing may read .*; leave the path of the server out of/;
  const takeLine = () => {
    const [line, ...others] = printed.lines.splice(0);
    assertMatch(line!, hint);
    assertEquals(others, []);
  };
  for (let i = 0; i < 2; i++) assertEquals(await post("/api/topics/a/publications", "POST"), 500);
  takeLine();
  assertEquals(await post("/streams/a", "PUT"), 500);
  spares = true;
  assertEquals(await post("/api/topics/a/publications", "POST"), 200);
  assertEquals(await post("/streams/a", "PUT"), 201);
  await using client = connect(base, { transports: ["http"] });
  assertEquals(await client.request("ping"), "pong");
});

Deno.test("Server.fetch() prints one line if the bodies of sessions over HTTP were read", async () => {
  using printed = captureConsole();
  await using live = createServer({ onMessage: (message) => message.reply("pong") });
  await using http = serving(async (request, info) => {
    await request.text();
    return await live.fetch(request, info);
  });
  await using _client = connect(`http://127.0.0.1:${http.addr.port}`, {
    transports: ["http"],
    onError() {},
    connectTimeoutMs: 500,
  });
  await until(() => printed.lines.some((line) => line.includes("Cannot read body")));
  await live.close(); // Ends the transport's responses; otherwise `http` would wait for them.
});
