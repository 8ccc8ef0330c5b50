import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { bindUdp, headersFrame, RawServer } from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { acceptEcho, WebTransportPeer } from "../../tests/peers/webtransport_peer.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { H3Error } from "../h3/wire/error_codes.ts";
import { WebTransport, WebTransportError, type WebTransportOptions } from "./mod.ts";
import { RUNTIME } from "./options.ts";
import { platformRuntime } from "../../base/runtime.ts";

const NOBODY = "https://127.0.0.1:1/";

const certificate = devCertificate({ cacheFolder: null });

/** The timeouts, as options and in milliseconds. */
const TIMEOUTS: readonly [what: string, options: WebTransportOptions, timeoutMs: number][] = [
  ["ten seconds", {}, 10_000],
  ["its timeoutMs", { timeoutMs: 250 }, 250],
];

/** Returns the error with which a session's promise rejects. */
async function sessionErrorOf(promise: Promise<unknown>): Promise<WebTransportError> {
  const error = await assertRejects(() => soon(promise));
  assertInstanceOf(error, WebTransportError);
  assertEquals([error.source, error.streamErrorCode], ["session", null]);
  return error;
}

/** Creates a session with invalid arguments. */
function create(url: unknown, options: unknown = {}): () => void {
  return () => void new WebTransport(url as string, options as WebTransportOptions);
}

/** Asserts that a function throws a `DOMException`. */
function assertThrowsDom(act: () => unknown, name: string): void {
  assertEquals(assertThrows(act, DOMException).name, name);
}

/** Asserts that a promise rejects with a `DOMException`. */
async function assertRejectsDom(act: () => Promise<unknown>, name: string): Promise<void> {
  assertEquals((await assertRejects(() => soon(act()), DOMException)).name, name);
}

Deno.test("WebTransport() rejects a URL that is relative, not https:, or has a fragment", () => {
  for (
    const url of [
      null,
      "",
      "no-scheme",
      "http://example.com/",
      "wss://example.com/",
      "https:///",
      "https://example.com:999999/",
      "https://example.com/#part",
      "https://example.com/#",
    ]
  ) {
    assertThrowsDom(create(url), "SyntaxError");
  }
});

Deno.test("WebTransport() rejects subprotocols that repeat, are empty, too long or not printable", () => {
  for (
    const protocols of [[""], ["誤"], ["a", "a"], ["a".repeat(513)], ["a\r"], ["\0"], ["\x7f"]]
  ) {
    assertThrowsDom(create(NOBODY, { protocols }), "SyntaxError");
  }
});

Deno.test("WebTransport() rejects options of the wrong type", () => {
  const shared = new SharedArrayBuffer(32);
  for (
    const options of [
      { serverCertificateHashes: [{}] },
      { serverCertificateHashes: [{ algorithm: "sha-256", value: "00" }] },
      { serverCertificateHashes: [{ algorithm: "sha-256", value: shared }] },
      { serverCertificateHashes: [{ algorithm: "sha-256", value: new Uint8Array(shared) }] },
      { congestionControl: "fast" },
      { datagramsReadableType: "text" },
      { headers: [["only-one"]] },
      { headers: { "WT-Available-Protocols": "a" } },
      { anticipatedConcurrentIncomingBidirectionalStreams: -1 },
      { anticipatedConcurrentIncomingUnidirectionalStreams: 65_536 },
      { anticipatedConcurrentIncomingUnidirectionalStreams: NaN },
      { timeoutMs: -1 },
      { timeoutMs: NaN },
    ]
  ) {
    assertThrows(create(NOBODY, options), TypeError);
  }
});

Deno.test("WebTransport.ready rejects when no certificate hash can match, and says why", async () => {
  const cases: [hashes: [algorithm: string, length: number][], message: string][] = [
    [[["sha-256", 31]], "a certificate hash of sha-256 must be 32 bytes, received 31"],
    [[["sha-256", 0]], "must be 32 bytes, received 0"],
    [[["sha-512", 64], ["SHA-256", 33]], "must be 32 bytes, received 33"],
    [[["sha-512", 64]], "no certificate hash has the algorithm sha-256"],
  ];
  for (const [hashes, message] of cases) {
    const transport = new WebTransport(NOBODY, {
      serverCertificateHashes: hashes.map(([algorithm, length]) => ({
        algorithm,
        value: new Uint8Array(length),
      })),
    });
    for (const promise of [transport.ready, transport.closed]) {
      assertStringIncludes((await sessionErrorOf(promise)).message, message);
    }
  }
  // If there is also a matching hash, they are not an error.
  await using peer = new WebTransportPeer();
  const short = { algorithm: "sha-256", value: new Uint8Array(31) };
  await using transport = new WebTransport(peer.url, {
    serverCertificateHashes: [short, ...peer.trust.serverCertificateHashes],
  });
  await soon(transport.ready);
});

for (const at of ["the handshake", "the response"]) {
  for (const [what, options, timeoutMs] of TIMEOUTS) {
    Deno.test(`WebTransport.ready rejects after ${what} without ${at}`, async () => {
      await using server = new RawServer(certificate);
      const silent = bindUdp();
      const port = at === "the response" ? server.port : silent.addr.port;
      using time = new FakeTime();
      const transport = new WebTransport(`https://127.0.0.1:${port}/`, {
        serverCertificateHashes: certificate.hashes,
        ...options,
      });
      let state = "pending";
      transport.ready.catch(() => state = "rejected");
      if (at === "the handshake") await silent.receive(new Uint8Array(2_048));
      else {
        const peer = await server.accept();
        await peer.control();
        await (await peer.nextBidi()).receive.fields();
      }
      await time.tickAsync(timeoutMs - 1);
      assertEquals(state, "pending");
      await time.tickAsync(1);
      assertEquals(state, "rejected");
      // Either the connection releases the session, or a second passes.
      await time.tickAsync(1_000);
      const error = await assertRejects(() => transport.closed);
      assertInstanceOf(error, WebTransportError);
      assertEquals(error.source, "session");
      assertStringIncludes(error.message, `within ${timeoutMs} ms`);
      silent.close();
    });
  }
}

Deno.test("WebTransport.ready names the flag if the runtime has no QUIC", async () => {
  const code = `
    import { WebTransport } from ${JSON.stringify(import.meta.resolve("./mod.ts"))};
    const transport = new WebTransport("https://localhost/");
    for (const promise of [transport.ready, transport.closed]) {
      console.log(await promise.catch(({ name, message }) => name + ": " + message));
    }
  `;
  const { stdout, success } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-config", "--no-check", code],
    env: { NO_COLOR: "1" },
  }).output();
  assert(success);
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  assertEquals(lines.length, 2);
  for (const line of lines) assert(/^WebTransportError: .*--unstable-net/.test(line), line);
});

Deno.test("WebTransport() rejects certificate hashes together with pooling", () => {
  const hash = { algorithm: "sha-256", value: new Uint8Array(32) };
  assertThrowsDom(
    create(NOBODY, { allowPooling: true, serverCertificateHashes: [hash] }),
    "NotSupportedError",
  );
});

Deno.test("WebTransport.supportsReliableOnly is false", () => {
  assertFalse(WebTransport.supportsReliableOnly);
});

Deno.test("WebTransport.ready resolves with the negotiated protocol", async () => {
  await using peer = new WebTransportPeer({
    respond(request) {
      assertEquals(new URL(request.url).search, "?room=1");
      assertEquals(request.headers.get("x-token"), "secret");
      assertEquals(request.headers.get("connection"), null);
      const headers = { "x-response": "yes", "set-cookie": "a=b" };
      return request.accept({ protocol: "chat.1", headers });
    },
  });
  await using transport = new WebTransport(`${peer.url}?room=1`, {
    ...peer.trust,
    protocols: ["chat.2", "chat.1"],
    headers: { "X-Token": "secret", connection: "close" },
    congestionControl: "low-latency",
    requireUnreliable: true,
    anticipatedConcurrentIncomingUnidirectionalStreams: 7,
  });
  assertEquals(transport.protocol, "");
  assertEquals(transport.reliability, "pending");
  assertEquals(transport.responseHeaders, null);
  assertStrictEquals(transport.ready, transport.ready);

  assertEquals(await soon(transport.ready), undefined);
  assertEquals(transport.protocol, "chat.1");
  assertEquals(transport.reliability, "supports-unreliable");
  assertEquals(transport.congestionControl, "low-latency");
  assertEquals(transport.anticipatedConcurrentIncomingUnidirectionalStreams, 7);
  assertEquals(transport.anticipatedConcurrentIncomingBidirectionalStreams, null);
  assertThrows(() => transport.anticipatedConcurrentIncomingBidirectionalStreams = Infinity);

  const { responseHeaders } = transport;
  assertInstanceOf(responseHeaders, Headers);
  assertEquals(responseHeaders.get("x-response"), "yes");
  assertFalse(responseHeaders.has("wt-protocol"));
  assertFalse(responseHeaders.has("set-cookie"));
  assertThrows(() => responseHeaders.set("x-response", "no"), TypeError);
  assertThrows(() => responseHeaders.append("x-response", "no"), TypeError);
  assertThrows(() => responseHeaders.delete("x-response"), TypeError);
});

Deno.test("WebTransport.ready and closed reject with the same error if the server rejects", async () => {
  for (const status of [301, 401, 404, 503]) {
    await using peer = new WebTransportPeer({ respond: (request) => void request.reject(status) });
    const transport = new WebTransport(peer.url, peer.trust);
    const error = await sessionErrorOf(transport.ready);
    assert(error.message.includes(`${status}`));
    assertStrictEquals(await sessionErrorOf(transport.closed), error);
    assertEquals(transport.reliability, "pending");
    await assertRejectsDom(() => transport.getStats(), "InvalidStateError");
  }
});

Deno.test("WebTransport.ready rejects without a server, and with an untrusted one", async () => {
  await using peer = new WebTransportPeer();
  const zeros = new Uint8Array(32);
  const hash = (algorithm: string, value: Uint8Array<ArrayBuffer>) => ({
    serverCertificateHashes: [{ algorithm, value }],
  });
  const own = new Uint8Array(peer.trust.serverCertificateHashes[0]!.value as Uint8Array);
  for (
    const [url, options] of [
      ["https://127.0.0.1:0/", {}],
      ["https://webtransport.invalid/", {}],
      [peer.url, {}],
      [peer.url, hash("sha-256", zeros)],
      // A hash of an unknown algorithm is ignored, so no hash remains.
      [peer.url, hash("sha-512", own)],
    ] as const
  ) {
    const transport = new WebTransport(url, options);
    const error = await sessionErrorOf(transport.ready);
    assertStrictEquals(await sessionErrorOf(transport.closed), error);
  }
  await using trusted = new WebTransport(peer.url, hash("SHA-256", own));
  await soon(trusted.ready);
});

Deno.test("WebTransport.close() before ready rejects ready and closed", async () => {
  await using peer = new WebTransportPeer();
  const transport = new WebTransport(peer.url, peer.trust);
  transport.close({ closeCode: 5 });
  const error = await sessionErrorOf(transport.ready);
  assertStrictEquals(await sessionErrorOf(transport.closed), error);
  await assertRejectsDom(() => transport.createUnidirectionalStream(), "InvalidStateError");
  transport.close();
});

Deno.test("WebTransport.close() before the server responds rejects ready and closed", async () => {
  const { promise: asked, resolve } = Promise.withResolvers<AbortSignal>();
  await using peer = new WebTransportPeer({ respond: ({ signal }) => void resolve(signal) });
  const transport = new WebTransport(peer.url, peer.trust);
  const signal = await soon(asked);
  transport.close();
  assertStrictEquals(await sessionErrorOf(transport.closed), await sessionErrorOf(transport.ready));
  await until(() => signal.aborted);
});

Deno.test("WebTransport.close() reports code and reason on both sides", async () => {
  await using peer = new WebTransportPeer();
  const long = "あいうえお".repeat(1_000);
  for (
    const [info, closed, told] of [
      [undefined, { closeCode: 0, reason: "" }, { closeCode: 0, reason: "" }],
      [
        { closeCode: 0xffff_ffff, reason: "bye" },
        { closeCode: 0xffff_ffff, reason: "bye" },
        { closeCode: 0xffff_ffff, reason: "bye" },
      ],
      // The server receives the part that fits into 1024 bytes. The reason is cut between
      // characters.
      [
        { closeCode: 11, reason: long },
        { closeCode: 11, reason: long },
        { closeCode: 11, reason: long.slice(0, 341) },
      ],
    ] as const
  ) {
    const transport = new WebTransport(peer.url, peer.trust);
    await soon(transport.ready);
    const session = await peer.session();
    transport.close(info);
    transport.close({ closeCode: 1 });
    assertEquals(await soon(transport.closed), closed);
    assertEquals(await soon(session.closed), told);
  }
});

Deno.test("WebTransport.closed resolves with the server's code and reason", async () => {
  for (const info of [{ closeCode: 0, reason: "" }, { closeCode: 3_200, reason: "möglich" }]) {
    await using peer = new WebTransportPeer({
      respond(request) {
        const session = request.accept();
        session.close(info);
        return session;
      },
    });
    const transport = new WebTransport(peer.url, peer.trust);
    await soon(transport.ready);
    assertEquals(await soon(transport.closed), info);
    transport.close({ closeCode: 1 });
    assertEquals(await transport.closed, info);
  }
});

Deno.test("WebTransport.closed resolves with 0 if the server ends the session's stream, and rejects if it closes only the connection", async () => {
  await using server = new RawServer(certificate);
  const open = async () => {
    const transport = new WebTransport(`https://127.0.0.1:${server.port}/`, {
      serverCertificateHashes: certificate.hashes,
    });
    const peer = await soon(server.accept());
    await peer.control();
    const request = await peer.nextBidi();
    await request.send.write(headersFrame([[":status", "200"]]));
    await soon(transport.ready);
    return { transport, peer, request };
  };
  const ended = await open();
  await ended.request.send.end();
  assertEquals(await soon(ended.transport.closed), { closeCode: 0, reason: "" });
  for (const code of [0, H3Error.noError]) {
    const lost = await open();
    lost.peer.close(code);
    const error = await sessionErrorOf(lost.transport.closed);
    assert(error.message.includes(`0x${code.toString(16)}`));
  }
});

Deno.test("WebTransport.closed rejects with the error of all streams if the connection breaks", async () => {
  await using server = new RawServer(certificate);
  const transport = new WebTransport(`https://127.0.0.1:${server.port}/`, {
    serverCertificateHashes: certificate.hashes,
  });
  const peer = await soon(server.accept());
  await peer.control();
  const request = await peer.nextBidi();
  await request.send.write(headersFrame([[":status", "200"]]));
  await soon(transport.ready);
  // These bytes are the head of a stream of session 0, and one byte of data.
  await peer.bidi(Uint8Array.of(0x40, 0x41, 0, 1));
  const incoming = transport.incomingBidirectionalStreams.getReader();
  const { value: stream } = await soon(incoming.read());
  const writer = stream!.writable.getWriter();
  const reader = stream!.readable.getReader();
  await writer.write(Uint8Array.of(2));
  const datagrams = transport.datagrams.readable.getReader();
  const sending = transport.datagrams.writable.getWriter();

  peer.close(H3Error.internalError, "out of luck");
  const error = await sessionErrorOf(transport.closed);
  assert(error.message.includes("out of luck"));
  const { closed: incomingClosed } = incoming;
  for (
    const promise of [
      writer.closed,
      reader.closed,
      incomingClosed,
      datagrams.closed,
      sending.closed,
    ]
  ) {
    assertStrictEquals(await sessionErrorOf(promise), error);
  }
  await transport.ready;
  await assertRejectsDom(() => transport.getStats(), "InvalidStateError");
});

Deno.test("WebTransport streams fail with the session's error when it is closed", async () => {
  for (const closer of ["client", "server"]) {
    await using peer = new WebTransportPeer();
    const transport = new WebTransport(peer.url, peer.trust);
    const bidirectional = transport.incomingBidirectionalStreams.getReader();
    const unidirectional = transport.incomingUnidirectionalStreams.getReader();
    const session = await peer.session();
    const send = await transport.createUnidirectionalStream();
    const writer = send.getWriter();
    await writer.write(Uint8Array.of(1));
    const stream = await transport.createBidirectionalStream();
    const reading = stream.readable.getReader().read();
    const pending = [bidirectional.read(), unidirectional.read()];

    if (closer === "client") transport.close();
    else session.close();
    const error = await sessionErrorOf(reading);
    assertStrictEquals(await sessionErrorOf(writer.closed), error);
    // A stream that is first used after the session's end has also ended.
    await sessionErrorOf(stream.writable.getWriter().closed);
    for (const { done } of await soon(Promise.all(pending))) assert(done);
    await soon(transport.closed);
    await assertRejectsDom(() => transport.createBidirectionalStream(), "InvalidStateError");
    await assertRejectsDom(() => transport.createUnidirectionalStream(), "InvalidStateError");
    assertThrowsDom(() => transport.createSendGroup(), "InvalidStateError");
    assertThrowsDom(() => transport.datagrams.createWritable(), "InvalidStateError");
    assertEquals((await transport.getStats()).bytesSent, 1);
  }
});

Deno.test("WebTransport.createBidirectionalStream() waits for ready", async () => {
  await using peer = new WebTransportPeer({ respond: acceptEcho });
  await using transport = new WebTransport(peer.url, peer.trust);
  const { readable, writable } = await soon(transport.createBidirectionalStream());
  const writer = writable.getWriter();
  await writer.write(new TextEncoder().encode("hello"));
  await writer.close();
  assertEquals(await soon(new Response(readable).text()), "hello");
  await soon(transport.ready);
});

Deno.test("WebTransport.createUnidirectionalStream() rejects if the session is never ready", async () => {
  await using peer = new WebTransportPeer({ respond: (request) => void request.reject(404) });
  const transport = new WebTransport(peer.url, peer.trust);
  await assertRejectsDom(() => transport.createUnidirectionalStream(), "InvalidStateError");
  await sessionErrorOf(transport.incomingBidirectionalStreams.getReader().closed);
  await sessionErrorOf(transport.closed);
});

Deno.test("WebTransport.createUnidirectionalStream() fails or waits while there is no stream credit", async () => {
  await using peer = new WebTransportPeer({ maxStreams: 2 });
  await using transport = new WebTransport(peer.url, peer.trust);
  const session = await peer.session();
  const writers = [];
  while (true) {
    try {
      const stream = await transport.createUnidirectionalStream();
      writers.push(stream.getWriter());
      assert(writers.length < 10);
    } catch (error) {
      assertInstanceOf(error, QuotaExceededError);
      assertEquals(error.name, "QuotaExceededError");
      break;
    }
  }
  const waiting = transport.createUnidirectionalStream({ waitUntilAvailable: true });
  const incoming = session.incomingUnidirectionalStreams.getReader();
  for (const writer of writers) await writer.close();
  for (const _ of writers) await new Response((await soon(incoming.read())).value).bytes();
  const writer = (await soon(waiting)).getWriter();
  await writer.close();
});

Deno.test("WebTransport.draining resolves when the server drains, and streams continue", async () => {
  await using peer = new WebTransportPeer({ respond: acceptEcho });
  await using transport = new WebTransport(peer.url, peer.trust);
  await soon(transport.ready);
  peer.listener.stop();
  assertEquals(await soon(transport.draining), undefined);
  const { readable, writable } = await transport.createBidirectionalStream();
  await writable.close();
  assertEquals((await soon(new Response(readable).bytes())).length, 0);
});

Deno.test("WebTransport.getStats() waits for ready, and counts", async () => {
  await using peer = new WebTransportPeer({ respond: acceptEcho });
  await using transport = new WebTransport(peer.url, peer.trust);
  assertEquals(await soon(transport.getStats()), {
    bytesSent: 0,
    bytesReceived: 0,
    datagrams: { droppedIncoming: 0, expiredIncoming: 0, expiredOutgoing: 0 },
  });
  const { readable, writable } = await transport.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.write(new Uint8Array(10));
  await writer.close();
  await soon(new Response(readable).bytes());
  const { bytesSent, bytesReceived } = await transport.getStats();
  assertEquals([bytesSent, bytesReceived], [10, 10]);
});

Deno.test("WebTransport with allowPooling shares the connection of an origin", async () => {
  await using peer = new WebTransportPeer();
  const file = await Deno.makeTempFile({ suffix: ".pem" });
  await Deno.writeTextFile(file, peer.cert);
  // A shared connection cannot use hashes, so an authority must have signed the certificate.
  const script = `
    import { WebTransport } from ${JSON.stringify(import.meta.resolve("./mod.ts"))};
    const open = () => new WebTransport(${JSON.stringify(peer.url)}, { allowPooling: true });
    const transports = [open(), open(), open()];
    await Promise.all(transports.map(({ ready }) => ready));
    console.log(Object.keys(await transports[0].getStats()).join());
    for (const transport of transports) transport.close({ closeCode: 3 });
    console.log((await Promise.all(transports.map(({ closed }) => closed))).length);
    Deno.exit(0);
  `;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-lock", "--unstable-net", `--cert=${file}`, script],
  }).output();
  const sessions = [await peer.session(), await peer.session(), await peer.session()];
  assertEquals(peer.listener.connectionCount, 1);
  for (const { closed } of sessions) assertEquals((await soon(closed)).closeCode, 3);
  const { stdout, stderr } = await soon(child);
  await Deno.remove(file);
  assertEquals(
    new TextDecoder().decode(stdout),
    "datagrams\n3\n",
    new TextDecoder().decode(stderr),
  );
});

Deno.test("WebTransport leaves no unhandled rejection without listeners", async () => {
  const { promise: gone, resolve } = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  {
    await using peer = new WebTransportPeer({
      respond(request) {
        request.reject(403);
        asked.resolve();
        return undefined;
      },
    });
    // This is like a page that never uses the promises.
    const transport = new WebTransport(peer.url, peer.trust);
    void transport.incomingUnidirectionalStreams.getReader();
    void transport.datagrams.readable.getReader();
    void transport.datagrams.writable.getWriter().write(Uint8Array.of(1)).catch(() => {});
    await asked.promise;
    await until(() => peer.listener.connectionCount === 0);
  }
  {
    await using peer = new WebTransportPeer();
    const transport = new WebTransport(peer.url, peer.trust);
    const session = await peer.session();
    const { readable, writable } = await transport.createBidirectionalStream();
    void writable.getWriter().write(Uint8Array.of(1));
    void readable.getReader();
    session.close({ closeCode: 3_000 });
    await until(() => peer.listener.connectionCount === 0);
    setImmediate(resolve);
  }
  await soon(gone);
});

Deno.test("WebTransport uses the timers of a runtime that is not part of the dictionary", async () => {
  const timersMs: number[] = [];
  const { setTimeout } = platformRuntime();
  const runtime = Object.assign(platformRuntime(), {
    setTimeout(callback: () => void, ms: number) {
      timersMs.push(ms);
      return setTimeout(callback, ms);
    },
  });
  const options = { timeoutMs: 30, [RUNTIME]: runtime };
  const transport = new WebTransport(NOBODY, options);
  await assertRejects(() => transport.ready, WebTransportError, "30 ms");
  await assertRejects(() => transport.closed, WebTransportError, "30 ms");
  assertEquals(timersMs.includes(30), true);
  assertEquals(JSON.stringify(options), '{"timeoutMs":30}');
});
