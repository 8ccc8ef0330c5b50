import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ConnectionError, StreamError, TimeoutError, UnsupportedError } from "../../errors.ts";
import { NativePlatform } from "../../tests/peers/native.ts";
import { withUserAgent } from "../../tests/globals/user_agent.ts";
import type { Connection } from "../connection.ts";
import { dialNativeWebTransport } from "./client.ts";
import { isNativeWebTransportAvailable } from "../webtransport.ts";
import type { CertificateHash } from "../webtransport.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

const URL_OF_SERVER = "https://example.com:8443/a?b=c%20d";

Deno.test("isNativeWebTransportAvailable() checks the features of the platform's WebTransport", () => {
  for (
    const [protocol, page, expected] of [
      [true, undefined, true],
      [true, true, true],
      [false, true, true],
      // Deno's own implementation, which never reports a close.
      [false, undefined, false],
      [false, false, false],
    ] as const
  ) {
    using _platform = new NativePlatform({ protocol, page });
    assertEquals(isNativeWebTransportAvailable(), expected, `${protocol} ${page}`);
  }
  assertEquals(
    isNativeWebTransportAvailable(),
    false,
    "This runtime's own class is not a browser's",
  );
});

Deno.test("dialNativeWebTransport() reports that the platform has no WebTransport", async () => {
  using _platform = new NativePlatform();
  Object.defineProperty(globalThis, "WebTransport", { value: undefined });
  assertEquals(isNativeWebTransportAvailable(), false);
  await assertRejects(() => dialNativeWebTransport(URL_OF_SERVER), UnsupportedError);
});

Deno.test("dialNativeWebTransport() passes on protocols and hashes", async () => {
  using platform = new NativePlatform();
  const serverCertificateHashes: CertificateHash[] = [
    { algorithm: "sha-256", value: new Uint8Array(32) },
  ];
  await using connection = await dialNativeWebTransport(URL_OF_SERVER, {
    protocols: ["a", "b"],
    serverCertificateHashes,
  });
  const [call] = platform.calls;
  assertEquals(call!.url, URL_OF_SERVER);
  assertEquals(call!.options, { protocols: ["a", "b"], serverCertificateHashes });
  assertEquals(connection.protocol, "a");
});

Deno.test("dialNativeWebTransport() requests the protocol in the query if none can be offered", async () => {
  const cases: [string, string[], string, string][] = [
    [URL_OF_SERVER, ["skein.1", "b"], `${URL_OF_SERVER}&protocol=skein.1`, "skein.1"],
    [
      "https://example.com/",
      ["skein.1", "skein.auth"],
      "https://example.com/?protocol=skein.1&auth=in-band",
      "skein.1",
    ],
    ["https://example.com/", ["a b"], "https://example.com/?protocol=a%20b", "a b"],
    ["https://example.com/", [], "https://example.com/", ""],
  ];
  for (const [url, protocols, expected, protocol] of cases) {
    using platform = new NativePlatform({ protocol: false, page: true });
    await using connection = await dialNativeWebTransport(url, { protocols });
    assertEquals(platform.calls[0]!.url, expected);
    assertEquals(connection.protocol, protocol);
  }
});

Deno.test("dialNativeWebTransport() closes an abandoned session, on its signal and after its timeout", async () => {
  using time = new FakeTime();
  using platform = new NativePlatform();
  platform.ready = new Promise(() => {});
  const giveUp = new AbortController();
  const dialing = [
    dialNativeWebTransport(URL_OF_SERVER, { signal: giveUp.signal }),
    dialNativeWebTransport(URL_OF_SERVER, { timeoutMs: 100, signal: giveUp.signal }),
    dialNativeWebTransport(URL_OF_SERVER, { timeoutMs: Infinity, signal: giveUp.signal }),
  ];
  const errors = dialing.map((dialed) => dialed.catch((error) => error));
  await time.tickAsync(100);
  giveUp.abort("enough");
  assertEquals(await errors[0], "enough");
  assert(await errors[1] instanceof TimeoutError);
  assertEquals(await errors[2], "enough");
  for (const { pair } of platform.calls) {
    assertEquals(await pair.server.closed, { closeCode: 0, reason: "" });
  }
  assertEquals(platform.pageHide.size, 0);
  await assertRejects(() => dialNativeWebTransport(URL_OF_SERVER, { signal: giveUp.signal }));
  assertEquals(platform.calls.length, 3);
});

Deno.test("dialNativeWebTransport() rejects with the platform's error", async () => {
  using platform = new NativePlatform();
  const cause = new DOMException("Opening handshake failed.", "WebTransportError");
  platform.ready = Promise.reject(cause);
  const error = await assertRejects(
    () => dialNativeWebTransport(URL_OF_SERVER),
    ConnectionError,
    "Cannot open WebTransport to https://example.com:8443/a: Opening handshake failed.",
  );
  assertStrictEquals(error.cause, cause);
  await assertRejects(
    () => dialNativeWebTransport(URL_OF_SERVER, { headers: { a: "b" } }),
    TypeError,
    "browsers cannot send custom headers",
  );
  assertEquals(platform.pageHide.size, 0);
});

Deno.test("NativeConnection closes when the user leaves the page, and breaks locally", async () => {
  using platform = new NativePlatform();
  const connection = await dialNativeWebTransport(URL_OF_SERVER);
  platform.leavePage();
  await assertRejects(() => connection.closed, ConnectionError, "The page was closed");
  const { server } = platform.calls[0]!.pair;
  assertEquals(await server.closed, { closeCode: 0, reason: "" });
  assertEquals(platform.pageHide.size, 0);
  connection.close({ closeCode: 3000 });
  await assertRejects(() => connection.closed, ConnectionError);
});

Deno.test("NativeConnection stops listening to the page after it ended", async () => {
  using platform = new NativePlatform();
  for (const end of ["client", "server", "network"] as const) {
    const connection = await dialNativeWebTransport(URL_OF_SERVER);
    assertEquals(platform.pageHide.size, 1);
    const { pair } = platform.calls.at(-1)!;
    if (end === "client") connection.close();
    else if (end === "server") pair.server.close();
    else pair.link.disconnect();
    const error = await connection.closed.catch((error) => error);
    assertEquals(error instanceof ConnectionError, end === "network");
    assertEquals(platform.pageHide.size, 0, end);
    platform.leavePage();
  }
});

Deno.test("NativeConnection aborts a stream that opens after the call was cancelled", async () => {
  using time = new FakeTime();
  using platform = new NativePlatform();
  const connection = await dialNativeWebTransport(URL_OF_SERVER);
  const { server } = platform.calls[0]!.pair;
  // The other side receives a hundred streams before the first accept.
  for (let i = 0; i < 100; i++) {
    await connection.createBidirectionalStream();
    await connection.createUnidirectionalStream();
  }
  const giveUp = new AbortController();
  const { signal } = giveUp;
  const opening = [
    connection.createBidirectionalStream({ signal }),
    connection.createUnidirectionalStream({ signal, timeoutMs: 50 }),
  ];
  const errors = opening.map((opened) => opened.catch((error: unknown) => error));
  await time.tickAsync(50);
  giveUp.abort("enough");
  assertEquals(await errors[0], "enough");
  assert(await errors[1] instanceof TimeoutError);
  const bidirectional = server.incomingBidirectionalStreams.getReader();
  const unidirectional = server.incomingUnidirectionalStreams.getReader();
  for (let i = 0; i < 100; i++) {
    await bidirectional.read();
    await unidirectional.read();
  }
  const late = (await bidirectional.read()).value!;
  await assertRejects(() => late.readable.getReader().read(), StreamError);
  await assertRejects(() => late.writable.getWriter().closed, StreamError);
  await assertRejects(
    async () => await (await unidirectional.read()).value!.getReader().read(),
    StreamError,
  );
  connection.close();
});

Deno.test("NativeConnection distinguishes errors of a broken connection from the peer's", async () => {
  using platform = new NativePlatform();
  const connection = await dialNativeWebTransport(URL_OF_SERVER);
  const { link } = platform.calls[0]!.pair;
  const { readable, writable } = await connection.createBidirectionalStream();
  const reading = readable.getReader().read();
  const incoming = connection.incomingBidirectionalStreams.getReader().read();
  const datagram = connection.datagrams.readable.getReader().read();
  link.disconnect();
  for (const failed of [reading, writable.getWriter().closed, incoming, datagram]) {
    await assertRejects(() => failed as Promise<unknown>, ConnectionError);
  }
});

Deno.test("NativeConnection reads into the reader's own buffer", async () => {
  using platform = new NativePlatform();
  await using connection = await dialNativeWebTransport(URL_OF_SERVER);
  const { server } = platform.calls[0]!.pair;
  const writer = (await server.createUnidirectionalStream()).getWriter();
  const incoming = await connection.incomingUnidirectionalStreams.getReader().read();
  const reader = incoming.value!.getReader({ mode: "byob" });
  await writer.write(Uint8Array.of(1, 2, 3));
  assertEquals((await reader.read(new Uint8Array(2))).value, Uint8Array.of(1, 2));
  assertEquals((await reader.read(new Uint8Array(2))).value, Uint8Array.of(3));
  await writer.close();
  assertEquals((await reader.read(new Uint8Array(2))).done, true);
});

Deno.test("NativeConnection has the counters that it knows, and notices that the server drains", async () => {
  using platform = new NativePlatform();
  await using connection = await dialNativeWebTransport(URL_OF_SERVER);
  const { bytesSent, bytesReceived } = await connection.getStats();
  assertEquals({ bytesSent, bytesReceived }, { bytesSent: 0, bytesReceived: 0 });
  platform.calls[0]!.pair.link.drain();
  await connection.draining;
  using _poor = new NativePlatform({ stats: false, draining: false });
  await using other = await dialNativeWebTransport(URL_OF_SERVER);
  assertEquals(await other.getStats(), {});
});

const SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 26_4 like Mac OS X) AppleWebKit/605.1.15 " +
  "(KHTML, like Gecko) Version/26.4 Mobile/15E148 Safari/604.1";
const CHROMIUM = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) " +
  "Chrome/140.0.0.0 Safari/537.36";

/** Writes a number of bytes on a stream at the server, and reads all of them at the client. */
async function readFromServer(server: Connection, client: Connection, bytes: number) {
  const writer = (await server.createUnidirectionalStream()).getWriter();
  void writer.write(new Uint8Array(bytes)).then(() => writer.close());
  const reader = client.incomingUnidirectionalStreams.getReader();
  const { value } = await reader.read();
  reader.releaseLock();
  assertEquals((await new Response(value).bytes()).byteLength, bytes);
}

Deno.test("dialNativeWebTransport() reports once that a WebKit connection is worn after 12 MiB, and never in Chromium", async () => {
  using platform = new NativePlatform();
  for (const [name, expected] of [[SAFARI, 1], [CHROMIUM, 0]] as const) {
    using _agent = withUserAgent(name);
    let worn = 0;
    await using connection = await dialNativeWebTransport(URL_OF_SERVER, { onWorn: () => worn++ });
    const { server } = platform.calls.at(-1)!.pair;
    for (let i = 0; i < 11; i++) await readFromServer(server, connection, 1_048_576);
    await readFromServer(server, connection, 1_048_575);
    assertEquals(worn, 0);
    await readFromServer(server, connection, 1);
    await readFromServer(server, connection, 1_048_576);
    assertEquals(worn, expected, name);
  }
});

slowTest(
  "dialNativeWebTransport() reports that a WebKit connection is worn after 6,000 streams of both sides",
  async () => {
    using platform = new NativePlatform();
    using _agent = withUserAgent(SAFARI);
    let worn = 0;
    await using connection = await dialNativeWebTransport(URL_OF_SERVER, { onWorn: () => worn++ });
    const { server } = platform.calls[0]!.pair;
    const reader = server.incomingUnidirectionalStreams.getReader();
    for (let i = 0; i < 3_000; i++) {
      await readFromServer(server, connection, 1);
      if (i === 2_999) break;
      await connection.createUnidirectionalStream();
      await reader.read();
    }
    assertEquals(worn, 0);
    await connection.createUnidirectionalStream();
    assertEquals(worn, 1);
  },
);

Deno.test("dialNativeWebTransport() opens a connection without datagrams if the platform has none", async () => {
  for (
    const [traits, independentStreams] of [
      [{ datagrams: false }, true],
      // Over TCP, a lost packet delays all streams.
      [{ reliability: "reliable-only" }, false],
    ] as const
  ) {
    using platform = new NativePlatform(traits);
    await using connection = await dialNativeWebTransport(URL_OF_SERVER);
    assertEquals(connection.capabilities, {
      streams: true,
      datagrams: "none",
      resetCodes: true,
      credit: false,
      independentStreams,
    });
    assertEquals(connection.datagrams.maxDatagramSize, 0);
    assertEquals((await connection.datagrams.readable.getReader().read()).done, true);
    const writer = connection.datagrams.writable.getWriter();
    await assertRejects(() => writer.write(Uint8Array.of(1)), UnsupportedError, "no datagrams");
    await writer.closed.catch(() => {});
    // Streams still work.
    const { server } = platform.calls[0]!.pair;
    await (await connection.createUnidirectionalStream()).close();
    const { value } = await server.incomingUnidirectionalStreams.getReader().read();
    assertEquals((await value!.getReader().read()).done, true);
    assertEquals(platform.pageHide.size, 1);
  }
  using _platform = new NativePlatform({ reliability: "supports-unreliable" });
  await using connection = await dialNativeWebTransport(URL_OF_SERVER);
  assertEquals(connection.capabilities.datagrams, "unreliable");
});

Deno.test("dialNativeWebTransport() closes the platform's session when no connection can be built on it", async () => {
  using platform = new NativePlatform();
  const { WebTransport } = globalThis as unknown as { WebTransport: { prototype: object } };
  Object.defineProperty(WebTransport.prototype, "draining", {
    get() {
      throw new TypeError("No such member");
    },
  });
  await assertRejects(() => dialNativeWebTransport(URL_OF_SERVER), TypeError, "No such member");
  const { server } = platform.calls[0]!.pair;
  assertEquals(await server.closed, { closeCode: 0, reason: "" });
  assertEquals(platform.pageHide.size, 0);
});
