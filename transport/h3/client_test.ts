import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { bindUdp, RawServer, TestServer } from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { SettingId } from "./wire/settings.ts";
import { dialWebTransport } from "./client.ts";
import type { CertificateHash } from "../webtransport.ts";

const certificate = devCertificate({ cacheFolder: null });

/** Dials a raw server. */
function dialRaw(
  server: RawServer,
  options: Parameters<typeof dialWebTransport>[1] = {},
): ReturnType<typeof dialWebTransport> {
  const dialing = dialWebTransport(`https://127.0.0.1:${server.port}/`, {
    serverCertificateHashes: certificate.hashes,
    ...options,
  });
  dialing.catch(() => {}); // The dial may fail before the test awaits its result.
  return dialing;
}

Deno.test("dialWebTransport() offers protocols and sends headers", async () => {
  await using server = new TestServer();
  const dialing = dialWebTransport(`${server.url}a?b=c`, {
    serverCertificateHashes: server.hashes,
    protocols: ["one", "two"],
    headers: { "x-key": "secret" },
  });
  const request = await soon(server.request());
  assertEquals(request.url, `${server.url}a?b=c`);
  assertEquals(request.headers.get("x-key"), "secret");
  request.accept({ protocol: "two" });
  await using session = await soon(dialing);
  assertEquals(session.protocol, "two");
});

Deno.test("dialWebTransport() rejects when the URL or a hash is invalid", async () => {
  await assertRejects(() => dialWebTransport("http://localhost/"), TypeError, "https:");
  await assertRejects(() => dialWebTransport("nonsense"), TypeError);
  const bad: CertificateHash[] = [
    { algorithm: "sha-256", value: new Uint8Array(31) },
    { algorithm: "sha-1" as "sha-256", value: new Uint8Array(32) },
    { algorithm: "sha-256", value: "text" as unknown as Uint8Array<ArrayBuffer> },
  ];
  for (const hash of bad) {
    await assertRejects(
      () => dialWebTransport("https://localhost/", { serverCertificateHashes: [hash] }),
      TypeError,
      "32 bytes",
    );
  }
});

Deno.test("dialWebTransport() rejects when the certificate does not match", async () => {
  await using server = new TestServer();
  const { hashes } = certificate;
  const error = await assertRejects(
    () => soon(dialWebTransport(server.url, { serverCertificateHashes: hashes })),
    ConnectionError,
    "Cannot connect",
  );
  assert(error.cause instanceof Error);
  await assertRejects(() => soon(dialWebTransport(server.url)), ConnectionError);
  assertEquals(server.listener.connectionCount, 0);
});

Deno.test("dialWebTransport() rejects on timeout when there is no server", async () => {
  const socket = bindUdp();
  const url = `https://127.0.0.1:${socket.addr.port}/`;
  await assertRejects(
    () => soon(dialWebTransport(url, { timeoutMs: 50 })),
    TimeoutError,
    "50 ms",
  );
  socket.close();
});

for (const at of ["the handshake", "the response"]) {
  Deno.test(`dialWebTransport() stops after ten seconds without ${at}`, async () => {
    await using server = new RawServer(certificate);
    const silent = bindUdp();
    using time = new FakeTime();
    const port = at === "the response" ? server.port : silent.addr.port;
    const dialing = dialWebTransport(`https://127.0.0.1:${port}/`, {
      serverCertificateHashes: certificate.hashes,
    });
    let state = "pending";
    dialing.catch(() => state = "rejected");
    if (at === "the handshake") await silent.receive(new Uint8Array(2_048));
    else {
      const peer = await server.accept();
      await peer.control();
      await (await peer.nextBidi()).receive.fields();
    }
    await time.tickAsync(9_999);
    assertEquals(state, "pending");
    await time.tickAsync(1);
    await assertRejects(() => dialing, TimeoutError, "10000 ms");
    silent.close();
  });
}

Deno.test("dialWebTransport() rejects when the server speaks another protocol", async () => {
  await using server = new RawServer(certificate, { alpn: "h2" });
  const accepting = server.accept().catch(() => {});
  await assertRejects(() => soon(dialRaw(server)), ConnectionError);
  await accepting;
});

Deno.test("dialWebTransport() rejects with status and headers when the server rejects", async () => {
  await using server = new TestServer();
  const dialing = dialWebTransport(server.url, { serverCertificateHashes: server.hashes });
  dialing.catch(() => {});
  (await soon(server.request())).reject(429, { headers: { "retry-after": "7", "x-why": "busy" } });
  const error = await assertRejects(() => soon(dialing), ConnectionError, "429");
  assertEquals(error.status, 429);
  const { status, headers } = error.cause as { status: number; headers: Headers };
  assertEquals({ status, retryAfter: headers.get("retry-after"), xWhy: headers.get("x-why") }, {
    status: 429,
    retryAfter: "7",
    xWhy: "busy",
  });
  await until(() => server.listener.connectionCount === 0);
});

Deno.test("dialWebTransport() rejects when the server has no WebTransport", async () => {
  await using server = new RawServer(certificate);
  const dialing = dialRaw(server);
  const peer = await soon(server.accept());
  await peer.control([[SettingId.qpackMaxTableCapacity, 0], [SettingId.enableConnectProtocol, 1]]);
  await assertRejects(() => soon(dialing), ConnectionError, "does not speak WebTransport");
});

Deno.test("dialWebTransport() rejects when the connection ends immediately", async () => {
  await using server = new RawServer(certificate);
  const dialing = dialRaw(server);
  (await soon(server.accept())).close(0x107, "Too many connections");
  await assertRejects(() => soon(dialing), ConnectionError, "Too many connections");
});

/** The stages at which a dial is aborted. */
const STAGES = ["handshake", "settings", "response"] as const;

for (const stage of STAGES) {
  for (const how of ["signal", "timeout"] as const) {
    Deno.test(`dialWebTransport() rejects on ${how} while it waits for the ${stage}`, async () => {
      await using server = new RawServer(certificate);
      const silent = bindUdp();
      const port = stage === "handshake" ? silent.addr.port : server.port;
      const aborting = new AbortController();
      using time = new FakeTime();
      const dialing = dialWebTransport(`https://127.0.0.1:${port}/`, {
        serverCertificateHashes: certificate.hashes,
        ...(how === "signal" ? { signal: aborting.signal } : { timeoutMs: 100 }),
      });
      const error = dialing.then(() => undefined, (reason) => reason);
      if (stage === "handshake") await silent.receive(new Uint8Array(2_048));
      const peer = stage === "handshake" ? undefined : await server.accept();
      if (stage === "response") {
        await peer!.control();
        await (await peer!.nextBidi()).receive.fields();
      }
      if (how === "signal") aborting.abort(new Error("enough"));
      else await time.tickAsync(100);
      const failure = await error;
      if (how === "signal") assertEquals(failure.message, "enough");
      else assert(failure instanceof TimeoutError, String(failure));
      // The server notices that the connection has ended.
      if (peer !== undefined) await peer.ending;
      silent.close();
    });
  }
}

Deno.test("dialWebTransport() does nothing with an aborted signal", async () => {
  const signal = AbortSignal.abort(new Error("enough"));
  await assertRejects(() => dialWebTransport("https://localhost/", { signal }), Error, "enough");
});

Deno.test("dialWebTransport() does not close a session when its signal aborts", async () => {
  await using server = new TestServer();
  const aborting = new AbortController();
  const dialing = dialWebTransport(server.url, {
    serverCertificateHashes: server.hashes,
    signal: aborting.signal,
    timeoutMs: 2 ** 31,
  });
  const accepted = await soon(server.accept());
  await using session = await soon(dialing);
  aborting.abort();
  await soon(session.createBidirectionalStream());
  const { value } = await soon(accepted.incomingBidirectionalStreams.getReader().read());
  assert(value !== undefined);
});

Deno.test("dialWebTransport() resolves a name, and closes with its session", async () => {
  await using server = new TestServer();
  const dialing = dialWebTransport(`https://localhost:${server.port}/`, {
    serverCertificateHashes: server.hashes,
  });
  const accepted = await soon(server.accept());
  const session = await soon(dialing);
  session.close({ closeCode: 4001, reason: "bye" });
  assertEquals(await soon(accepted.closed), { closeCode: 4001, reason: "bye" });
  assertEquals(await soon(session.closed), { closeCode: 4001, reason: "bye" });
  // The connection of this dial is not shared.
  await until(() => server.listener.connectionCount === 0);
});
