import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { dial } from "../client/deno.ts";
import { ConnectionError } from "../errors.ts";
import { createServer, serve, type Server } from "./server.ts";
import { dialMoq } from "../moq/client/dial.ts";
import { TrackMux } from "../moq/track/mux.ts";
import { listenMoq, MoqServer } from "../moq/server/server.ts";
import type { MoqServerOptions } from "../moq/server/server_options.ts";
import type { MoqSession } from "../moq/session/session.ts";
import { dialQuic } from "../transport/quic/client.ts";
import type { ServeOptions } from "./server_options.ts";

function muxOf(): TrackMux {
  const mux = new TrackMux();
  mux.publish("/greeting", async (track) => {
    const group = await track.openGroup();
    await group.writeFrame(new TextEncoder().encode("hello"));
    await group.close();
  });
  return mux;
}

function mounted(
  options: MoqServerOptions = {},
  serveOptions: ServeOptions = {},
): { readonly moq: MoqServer; readonly server: Server } {
  const moq = new MoqServer({ mux: muxOf(), ...options });
  const server = serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    webTransport: { cacheFolder: null },
    onMessage: (message) => message.reply("pong"),
    ...serveOptions,
    features: [moq],
  });
  return { moq, server };
}

async function greetingOf(session: MoqSession): Promise<string> {
  const track = await session.subscribe("/greeting", "text");
  let text = "";
  for await (const group of track) {
    for await (const frame of group) text += new TextDecoder().decode(frame);
  }
  return text;
}

Deno.test("serve() serves MoQ and messages, on every transport", async () => {
  const { moq, server: _server } = mounted();
  await using server = _server;
  const serverCertificateHashes = moq.certificateHashes;
  assertEquals(
    { port: moq.address?.port, webSocketUrl: moq.webSocketUrl, url: moq.url, quicUrl: moq.quicUrl },
    {
      port: server.address!.port,
      webSocketUrl: server.url,
      url: server.webTransportUrl,
      quicUrl: server.webTransportUrl.replace("https", "moqt"),
    },
  );
  for (const url of [moq.url, moq.quicUrl, moq.webSocketUrl, moq.url.replace("https", "http")]) {
    const isAsked = url.startsWith("http:");
    await using session = await dialMoq(url, isAsked ? {} : { serverCertificateHashes });
    assertEquals(await greetingOf(session), "hello", url);
  }
  for (const transport of ["websocket", "webtransport"] as const) {
    await using session = await dial(server.url, { transports: [transport] });
    assertEquals([session.transport, await session.request("ping")], [transport, "pong"]);
  }
  assertEquals(moq.sessions.size, 0);
});

Deno.test("serve() sends the bitrate to MoQ clients", async () => {
  const { promise, resolve } = Promise.withResolvers<MoqSession>();
  const { moq, server: _server } = mounted({
    bitrate: { intervalMs: 10, minSamples: 1 },
    versions: ["moq-lite-02"],
    onSession: resolve,
  });
  await using _ = _server;
  await using session = await dialMoq(moq.webSocketUrl, { versions: ["moq-lite-02"] });
  const { connection } = await promise;
  let bitrate: number | undefined;
  const reading = (async () => {
    for await (const update of session.updated) {
      bitrate = update.bitrate;
      break;
    }
  })();
  const writer = connection.datagrams.writable.getWriter();
  while (bitrate === undefined) {
    await writer.write(new Uint8Array(500));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await reading;
  assert(bitrate > 0);
});

Deno.test("serve() accepts MoQ clients without a version, only at the MoQ path", async () => {
  const versions = ["gomoqt-dev"] as const;
  const { moq, server: _server } = mounted({ versions, path: "/moq" });
  await using _ = _server;
  const serverCertificateHashes = moq.certificateHashes;
  for (const url of [moq.url, moq.quicUrl, moq.webSocketUrl]) {
    await using session = await dialMoq(`${url}moq`, { versions, serverCertificateHashes });
    assertEquals([session.version, await greetingOf(session)], ["gomoqt-dev", "hello"]);
    await assertRejects(() =>
      dialMoq(`${url}other`, { versions, serverCertificateHashes, timeoutMs: 300 })
    );
  }
});

Deno.test("serve() accepts raw QUIC only if the option is set", async () => {
  const { moq, server: _server } = mounted({ versions: ["moq-lite-05"] });
  await using server = _server;
  const { host } = new URL(server.webTransportUrl);
  const serverCertificateHashes = server.certificateHashes;
  for (const protocol of ["moq-00", "moq-lite-04"]) {
    await assertRejects(
      () => dialQuic(`moqt://${host}`, { protocols: [protocol], serverCertificateHashes }),
      ConnectionError,
    );
  }
  await using session = await dialMoq(moq.quicUrl, { serverCertificateHashes });
  assertEquals(session.version, "moq-lite-05");
});

Deno.test("Server.drain() and Server.close() also close MoQ sessions", async () => {
  for (const end of ["drain", "close"] as const) {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    const { moq, server } = mounted({ onSession: resolve });
    const session = await dialMoq(moq.quicUrl, { serverCertificateHashes: moq.certificateHashes });
    await promise;
    if (end === "drain") {
      void session.draining.then(() => session.close());
      await server.drain({ withinMs: 5_000 });
      assertEquals((await session.closed).by, "local");
    } else {
      await server.close();
      assertEquals((await session.closed).by, "remote");
    }
  }
});

Deno.test("createServer() serves MoQ over WebSocket", async () => {
  await using server = createServer({ features: [new MoqServer({ mux: muxOf() })] });
  await using http = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    server.fetch,
  );
  await using session = await dialMoq(`ws://127.0.0.1:${http.addr.port}`);
  assertEquals(await greetingOf(session), "hello");
});

Deno.test("MoqServer.mount() works only once", async () => {
  const { moq, server: _server } = mounted();
  await using _ = _server;
  assertThrows(
    () => serve({ port: 0, onListen() {}, webTransport: false, features: [moq] }),
    TypeError,
  );
});

Deno.test("createServer() rejects a MoqServer that listens by itself", async () => {
  await using moq = listenMoq({ hostname: "127.0.0.1" });
  assertThrows(
    () => createServer({ features: [moq] }),
    TypeError,
    "Cannot mount listenMoq(): it listens by itself; write serve({ features: [new MoqServer()] })",
  );
  assertEquals(moq.url !== "", true);
});

Deno.test("createServer() mounts a MoqServer once, with the quotas of the server", async () => {
  await using moq = new MoqServer();
  await using server = createServer({ features: [moq] });
  assert("moq.maxSessions" in server.quotaStats);
  const { address, url, certificateHashes } = moq;
  assertEquals({ address, url, certificateHashes }, {
    address: undefined,
    url: "",
    certificateHashes: [],
  });
  const error = assertThrows(() => createServer({ features: [moq] }), TypeError);
  assertEquals(
    error.message,
    "Cannot mount new MoqServer(): it belongs to one server; create another with new MoqServer()",
  );
});

Deno.test("createServer() leaves a MoqServer unmounted if another option is invalid", async () => {
  await using moq = new MoqServer();
  assertThrows(() => createServer({ features: [moq], origins: ["example.com/path"] }), TypeError);
  await using server = createServer({ features: [moq] });
  assert("moq.maxSessions" in server.quotaStats);
});
