import { assertEquals, assertInstanceOf, assertRejects, assertStringIncludes } from "@std/assert";
import { ConnectionError, TimeoutError, UnsupportedError } from "../../errors.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { listenQuic } from "../../transport/quic/server.ts";
import { listenWebTransport } from "../../transport/h3/server.ts";
import { HELD_MS, HeldTimers } from "../../tests/movable_clock.ts";
import { dialMoq } from "./dial.ts";
import { MoqError } from "../wire/errors.ts";
import { listenMoq, type MoqServer } from "../server/server.ts";
import type { ListenMoqOptions } from "../server/server_options.ts";
import { webSocketOffers } from "../wire/versions.ts";

function listen(options: ListenMoqOptions = {}): MoqServer {
  return listenMoq({ cacheFolder: null, ...options });
}

Deno.test("dialMoq() rejects invalid URLs and options", async () => {
  const cases: [string, object, ErrorConstructor][] = [
    ["ftp://localhost/", {}, TypeError],
    ["localhost:4443", {}, TypeError],
    ["", {}, TypeError],
    ["moqt://localhost/", { fallback: true }, TypeError],
    ["moqt://localhost/", { headers: { a: "b" } }, TypeError],
    ["https://localhost/", { versions: [] }, TypeError],
    ["https://localhost/", { versions: ["moq-lite-03"] }, TypeError],
    ["https://localhost/", { maxUnidirectionalStreams: 0 }, RangeError],
    ["https://localhost/", { timeoutMs: -1 }, RangeError],
    ["moqt://localhost/", { idleTimeoutMs: 0 }, RangeError],
    ["https://localhost/", { idleTimeoutMs: 0 }, RangeError],
    ["https://localhost/", { fallback: true, headStartMs: -1 }, RangeError],
  ];
  for (const [url, options, type] of cases) {
    const error = await assertRejects(() => dialMoq(url, options));
    assertInstanceOf(error, type, `${url} ${JSON.stringify(options)}`);
  }
  const error = await assertRejects(() => dialMoq("ftp://localhost/?token=secret"));
  assertEquals((error as Error).message.includes("secret"), false);
});

Deno.test("dialMoq() finds the development certificate of a server by itself", async () => {
  await using server = listen();
  const { port } = server.address!;
  await using session = await dialMoq(`http://127.0.0.1:${port}/here`);
  assertEquals([session.connection.transport, session.path], ["webtransport", "/here"]);
});

Deno.test("dialMoq() reports a server that provides no certificate hash", async () => {
  for (const body of ["not hex", "", "ab".repeat(31), "ab".repeat(5_000)]) {
    await using http = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen() {} },
      () => new Response(body),
    );
    await assertRejects(() => dialMoq(`http://127.0.0.1:${http.addr.port}/`), UnsupportedError);
  }
});

Deno.test("dialMoq() distinguishes an unreachable server and a missing hash from an invalid one", async () => {
  const error = await assertRejects(() => dialMoq("http://127.0.0.1:1/"), ConnectionError);
  assertEquals(error.status, undefined);
  for (const status of [404, 503]) {
    await using http = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen() {} },
      () => new Response("No", { status }),
    );
    const url = `http://127.0.0.1:${http.addr.port}/`;
    assertEquals((await assertRejects(() => dialMoq(url), ConnectionError)).status, status);
  }
});

Deno.test("dialMoq() names possible causes if a server does not respond to SETUP", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  await using listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
  const timers = new HeldTimers();
  void (async () => {
    for await (const request of listener) {
      const session = request.accept();
      // The client has sent its SETUP.
      await Promise.race([
        session.incomingBidirectionalStreams.getReader().read(),
        session.incomingUnidirectionalStreams.getReader().read(),
      ]);
      timers.fire();
    }
  })();
  const { runtime } = timers;
  const timeoutMs = HELD_MS;
  const options = { serverCertificateHashes: certificate.hashes, timeoutMs, runtime };
  const url = `https://127.0.0.1:${listener.address.port}/`;
  const error = await assertRejects(() => dialMoq(url, options), TimeoutError, "gomoqt");
  assertEquals(error.timeoutMs, timeoutMs);
  const offer =
    "offered moq-lite-05, moq-lite-04, moql, moqt-18, moqt-20, moqt-22; the server chose none";
  assertStringIncludes(error.message, offer);
  const other = await assertRejects(
    () => dialMoq(url, { ...options, versions: ["gomoqt-dev"] }),
    TimeoutError,
  );
  const host = new URL(url).host;
  assertEquals(other.message, `Cannot open a MoQ session with ${host} within ${timeoutMs} ms`);
});

Deno.test("dialMoq() uses WebTransport if possible, and WebSocket otherwise", async () => {
  await using server = listen();
  const url = server.url.replace("https", "http");
  const fallbacks: unknown[] = [];
  const errors: unknown[] = [];
  const onFallback = (fallback: unknown) => {
    fallbacks.push(fallback);
    throw new Error("The log is full");
  };
  await using first = await dialMoq(url, { fallback: true, headStartMs: 5_000, onFallback });
  assertEquals([first.connection.transport, fallbacks], ["webtransport", []]);

  await using webSocketOnly = listen({ transports: ["websocket"] });
  await using second = await dialMoq(webSocketOnly.webSocketUrl.replace("ws", "http"), {
    fallback: true,
    onFallback,
    onError: (error) => errors.push(error),
  });
  assertEquals(second.connection.transport, "websocket");
  assertEquals([fallbacks.length, errors.map(String)], [1, ["Error: The log is full"]]);

  await using third = await dialMoq("https://127.0.0.1:1/", {
    fallback: webSocketOnly.webSocketUrl,
    headStartMs: 0,
  });
  assertEquals(third.connection.transport, "websocket");
});

Deno.test("dialMoq() rejects after its timeout, and with its signal", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  // A server that accepts connections, and stays silent.
  await using listener = listenQuic({
    hostname: "127.0.0.1",
    protocols: ["moq-00"],
    cert: certificate.cert,
    key: certificate.key,
  });
  const connections = listener[Symbol.asyncIterator]();
  const url = `moqt://127.0.0.1:${listener.address.port}/`;
  const options = {
    versions: ["gomoqt-dev"],
    serverCertificateHashes: certificate.hashes,
  } as const;
  const timers = new HeldTimers();
  const slow = dialMoq(url, { ...options, runtime: timers.runtime, timeoutMs: HELD_MS });
  const { value: late } = await connections.next();
  timers.fire();
  await assertRejects(() => slow, TimeoutError);
  await late!.closed;

  const ending = new AbortController();
  const dialing = dialMoq(url, { ...options, signal: ending.signal });
  const { value: waiting } = await connections.next();
  ending.abort(new Error("Enough"));
  await assertRejects(() => dialing, Error, "Enough");
  await waiting!.closed;
  await assertRejects(() => dialMoq(url, { ...options, signal: ending.signal }), Error, "Enough");
});

Deno.test("dialMoq() reports the code with which a server rejected the setup", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  await using listener = listenQuic({
    hostname: "127.0.0.1",
    protocols: ["moq-00"],
    cert: certificate.cert,
    key: certificate.key,
  });
  const dialing = dialMoq(`moqt://127.0.0.1:${listener.address.port}/`, {
    versions: ["gomoqt-dev"],
    serverCertificateHashes: certificate.hashes,
  });
  for await (const connection of listener) {
    connection.close({ closeCode: 2, reason: "Go away" });
    break;
  }
  const error = await assertRejects(() => dialing, MoqError);
  assertEquals({ scope: error.scope, reason: error.reason, moqCode: error.moqCode, by: error.by }, {
    scope: "session",
    reason: "unauthorized",
    moqCode: 2,
    by: "remote",
  });
  assertStringIncludes(error.message, "Go away");
});

Deno.test("dialMoq() names the offered versions if a server of the IETF drafts supports none", async () => {
  const { cert, key, hashes } = devCertificate({ cacheFolder: null });
  const options = { serverCertificateHashes: hashes };
  const hostname = "127.0.0.1";
  await using raw = listenQuic({ hostname, protocols: ["moq-00", "moqt-16"], cert, key });
  const error = await assertRejects(
    () => dialMoq(`moqt://127.0.0.1:${raw.address.port}/`, options),
    MoqError,
    "the server speaks none of moq-lite-05, moq-lite-04, moql",
  );
  assertEquals(error.reason, "unsupportedVersion");

  await using listener = listenWebTransport({ hostname, cert, key });
  const rejecting = (async () => {
    for await (const request of listener) request.reject(400);
  })();
  const rejected = await assertRejects(
    () => dialMoq(`https://127.0.0.1:${listener.address.port}/`, options),
    ConnectionError,
    "offered moq-lite-05, moq-lite-04, moql",
  );
  assertEquals(rejected.status, 400);
  await listener.close();
  await rejecting;
});

Deno.test("dialMoq() reports a closed port", async () => {
  for (const url of ["wss://127.0.0.1:1/", "ws://127.0.0.1:1/"]) {
    await assertRejects(() => dialMoq(url), ConnectionError);
  }
  for (const url of ["https://127.0.0.1:1/", "moqt://127.0.0.1:1/"]) {
    await assertRejects(() => dialMoq(url, { timeoutMs: 100 }), TimeoutError);
  }
});

Deno.test("dialMoq() closes a WebSocket of another protocol", async () => {
  await using http = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, (request) => {
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onclose = () => closed.resolve();
    return response;
  });
  const closed = Promise.withResolvers<void>();
  await assertRejects(() => dialMoq(`ws://127.0.0.1:${http.addr.port}/`), ConnectionError);
  await closed.promise;
});

Deno.test("webSocketOffers() names each version with each draft of QMux", () => {
  assertEquals(webSocketOffers(["moq-lite-04"]), [
    "qmux-02.moq-lite-04",
    "qmux-01.moq-lite-04",
  ]);
  assertEquals(webSocketOffers(["gomoqt-dev"]), ["qmux-02", "qmux-01"]);
  assertEquals(webSocketOffers(["moq-lite-02"])[0], "qmux-02.moql");
});
