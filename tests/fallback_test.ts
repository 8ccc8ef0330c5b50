/**
 * Tests which transport a client chooses, with real servers.
 *
 * @module
 */
import { createSocket } from "node:dgram";
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import * as browsers from "../client.ts";
import {
  AuthenticationError,
  connect,
  dial,
  Session,
  SessionClosedError,
  UnsupportedError,
} from "../mod.ts";
import { withMessages } from "../transport/mod.ts";
import { sessionSettings } from "../session/mod.ts";
import { NativePlatform } from "./peers/native.ts";
import { hostBetween, listen, portOf } from "./servers.ts";
import { soon, until } from "./waiting.ts";

Deno.test("dial() uses WebTransport if the server on this machine offers it", async () => {
  await using server = listen({
    webTransport: { cacheFolder: null },
    onMessage: (message) => message.reply(message.data),
  });
  for (const url of [server.url, server.url.replace("ws", "http")]) {
    // A busy machine may take longer than the usual head start.
    await using session = await soon(dial(url, { headStartMs: 60_000 }));
    assertEquals(session.transport, "webtransport");
    assertEquals(session.protocol, "skein.1");
    assertEquals(session.fallback, undefined);
    assertEquals(await soon(session.request("echo", { n: 1 })), { n: 1 });
  }
});

Deno.test("dial() uses WebTransport at webTransportUrl with the server's certificate hashes", async () => {
  const answer = ({ url }: Request) =>
    url.endsWith("/.well-known/skein/webtransport") ? new Response("", { status: 404 }) : undefined;
  await using server = listen({
    webTransport: { cacheFolder: null },
    webSocket: hostBetween({ answer }),
  });
  const serverCertificateHashes = server.certificateHashes;
  await using session = await soon(
    dial(server.webTransportUrl, { transports: ["webtransport"], serverCertificateHashes }),
  );
  assertEquals(session.transport, "webtransport");
  await using other = await soon(dial(server.url));
  assertEquals(other.transport, "websocket");
  assert(other.fallback!.error instanceof UnsupportedError);
});

Deno.test("connect() uses WebSocket if the server has no WebTransport, and reports the reason", async () => {
  await using server = listen({ webTransport: false });
  await using client = connect(server.url);
  await soon(client.whenConnected());
  const { current } = client.status;
  assert(current.name === "connected");
  assertEquals(current.transport, "websocket");
  assertEquals(current.fallback!.transport, "webtransport");
  assertStringIncludes(String(current.fallback!.error), "the server does not offer it");
});

Deno.test("dial() of the browser client uses WebSocket in this runtime", async () => {
  await using server = listen({ webTransport: { cacheFolder: null } });
  await using session = await soon(browsers.dial(server.url));
  assertEquals(session.transport, "websocket");
  assert(session.fallback!.error instanceof UnsupportedError);
});

Deno.test("dial() of the browser client uses a browser's WebTransport", async () => {
  using platform = new NativePlatform();
  const dialing = browsers.dial("https://example.com/", { transports: ["webtransport"] });
  await until(() => platform.calls.length > 0);
  const connection = withMessages(platform.calls[0]!.pair.server, { side: "server" });
  await using _peer = new Session(connection, sessionSettings({ side: "server" }));
  await using session = await soon(dialing);
  assertEquals(session.transport, "webtransport");
});

Deno.test("dial() and connect() fail in the same way whichever transport is rejected", async () => {
  await using server = listen({
    webTransport: { cacheFolder: null },
    authenticate() {
      throw new AuthenticationError("Go away", { status: 403 });
    },
  });
  for (
    const transports of [["webtransport"], ["websocket"], ["webtransport", "websocket"]] as const
  ) {
    const error = await assertRejects(
      () => soon(dial(server.url, { transports })),
      SessionClosedError,
    );
    assertEquals([error.info!.code, error.info!.by], [4403, "remote"], `${transports}`);
    const client = connect(server.url, { transports, endOnRejection: true });
    assertEquals((await soon(client.closed)).code, 4403, `${transports}`);
    assertEquals(client.status.current.name, "rejected", `${transports}`);
  }
});

Deno.test("dial() connects to a WebSocket server that is not Skein", async () => {
  const asked: string[] = [];
  await using server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, (request) => {
    asked.push(new URL(request.url).pathname);
    if (request.headers.get("upgrade") === null) return new Response("<p>Hello");
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onmessage = () => socket.close(3001, "enough");
    return response;
  });
  await using session = await soon(
    dial(`ws://127.0.0.1:${server.addr.port}/live`, { protocols: [] }),
  );
  assertEquals(asked, ["/.well-known/skein/webtransport", "/live"]);
  session.send("hello");
  assertEquals((await soon(session.closed)).code, 3001);
});

Deno.test("dial() names the flag if this runtime has no QUIC", async () => {
  await using server = listen();
  const code = `
    import { dial } from ${JSON.stringify(new URL("../client/deno.ts", import.meta.url).href)};
    const session = await dial("ws://127.0.0.1:${portOf(server)}/");
    console.log(session.transport, session.fallback.error.code, session.fallback.error.message);
    await session.close();
  `;
  const { stdout, success } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-config", "--no-check", code],
    env: { NO_COLOR: "1" },
  }).output();
  assert(success);
  const text = new TextDecoder().decode(stdout);
  assertStringIncludes(text, "websocket unsupported ");
  assertStringIncludes(text, "--unstable-net");
});

/**
 * Permissions of a process that calls `connect()`, each with the transport that the process uses.
 */
const PERMISSIONS: Record<string, [more: string[], taken: string]> = {
  "only connect to the server": [[], "websocket unsupported --allow-net=[::]:0 prompt"],
  "also bind an IPv4 port": [["0.0.0.0:0"], "webtransport undefined undefined prompt"],
  "also bind an IPv6 port": [["[::]:0"], "webtransport undefined undefined granted"],
};

for (const [what, [more, expected]] of Object.entries(PERMISSIONS)) {
  Deno.test(`connect() requests no permission if the process may ${what}`, async () => {
    await using server = listen({ webTransport: { cacheFolder: null } });
    const file = await Deno.makeTempFile({ suffix: ".ts" });
    try {
      await Deno.writeTextFile(
        file,
        `
          import { connect } from ${
          JSON.stringify(new URL("../client/deno.ts", import.meta.url).href)
        };
          // A slow start of the process must not make it fall back to WebSocket.
          const client = connect("ws://127.0.0.1:${portOf(server)}/", { headStartMs: 30_000 });
          const { transport, fallback } = await client.whenConnected();
          const hint = fallback?.error.message.match(/--allow-net=\\S+/)?.[0];
          // If the process requests a permission, it is denied, because no one answers the prompt.
          const { state } = await Deno.permissions.query({ name: "net", host: "[::]:0" });
          console.log(transport, fallback?.error.code, hint, state);
          await client.close();
        `,
      );
      const net = [`127.0.0.1:${portOf(server)}`, ...more].join();
      const { stdout, stderr, success } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "--no-config", "--no-check", "--unstable-net", `--allow-net=${net}`, file],
        env: { NO_COLOR: "1" },
        stdin: "null",
      }).output();
      const [said, complaints] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
      assert(success, complaints);
      assertEquals([said!.trim(), complaints], [expected, ""]);
    } finally {
      await Deno.remove(file);
    }
  });
}

Deno.test("connect() ends and dial() fails with the name of the flag if the process may not reach the server", async () => {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    const library = new URL("../client/deno.ts", import.meta.url).href;
    await Deno.writeTextFile(
      file,
      `
        import { connect, dial } from ${JSON.stringify(library)};
        const url = "http://127.0.0.1:9/chat?token=secret";
        const error = await dial(url).catch((error) => error);
        console.log(error.name, error.message);
        for (const transports of [undefined, ["websocket"], ["websocket", "http"], ["http"]]) {
          const client = connect(url, transports && { transports });
          const { code, by, reason } = await client.closed;
          console.log(client.status.current.name, code, by, reason === error.message);
        }
      `,
    );
    const { stdout, stderr, success } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-config", "--no-check", "--no-prompt", "--unstable-net", file],
      env: { NO_COLOR: "1" },
      stdin: "null",
    }).output();
    const [said, complaints] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
    assert(success, complaints);
    const rule = "Cannot connect to http://127.0.0.1:9/chat: Deno must run with " +
      "--allow-net=127.0.0.1:9";
    assertEquals(said!.trim().split("\n"), [
      `TypeError ${rule}`,
      ...Array(4).fill("closed 1006 local true"),
    ]);
    // Because nothing subscribes to the status, each client prints its end once.
    const end = `The client of http://127.0.0.1:9/chat has ended: ${rule}`;
    assertEquals(complaints!.split(end).length - 1, 4, complaints);
  } finally {
    await Deno.remove(file);
  }
});

/** The timeout of WebTransport, which no test here waits for. */
const WEBTRANSPORT_MS = 10_000;

for (const isSilent of [true, false]) {
  const what = isSilent ? "drops every packet" : "is closed";
  Deno.test(`connect() connects over WebSocket long before the timeout of WebTransport if the UDP port ${what}`, async () => {
    // This socket receives packets and never answers. If it were closed, the system would report
    // that the port is closed.
    const hole = createSocket("udp4");
    await new Promise<void>((resolve) => hole.bind(0, "127.0.0.1", resolve));
    const { port } = hole.address();
    const closed = new Promise<void>((resolve) => hole.once("close", resolve));
    if (!isSilent) hole.close();
    await using server = listen({
      webTransport: false,
      fetch(request) {
        if (!request.url.endsWith("/.well-known/skein/webtransport")) return new Response("");
        const value = new Uint8Array(32).toBase64();
        return Response.json({ port, serverCertificateHashes: [{ algorithm: "sha-256", value }] });
      },
    });
    const before = performance.now();
    await using client = connect(server.url);
    const session = await soon(client.whenConnected());
    const tookMs = performance.now() - before;
    assertEquals(session.transport, "websocket");
    assertEquals(session.fallback!.transport, "webtransport");
    // Only the head start of 500 ms passes.
    assert(tookMs < WEBTRANSPORT_MS / 2, `it took ${tookMs} ms`);
    if (isSilent) hole.close();
    await closed;
  });
}
