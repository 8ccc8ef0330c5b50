import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import { memoryPair } from "../memory/memory.ts";
import { type CertificateHash, type DialWebTransportOptions, TOKEN_MARK } from "../webtransport.ts";
import { locateWebTransport, webTransportLeg } from "./webtransport_leg.ts";

const runtime = platformRuntime();

const HASHES: readonly CertificateHash[] = [{ algorithm: "sha-256", value: Uint8Array.of(1, 2) }];

/** Creates a dialer to a server in memory that speaks a protocol. */
function dialer(protocol: string) {
  const calls: { readonly url: string; readonly options: DialWebTransportOptions }[] = [];
  const pair = memoryPair({ frames: false, protocol });
  const dial = (url: URL, options: DialWebTransportOptions) => {
    calls.push({ url: url.href, options });
    return Promise.resolve(pair.client);
  };
  return { calls, dial, pair };
}

Deno.test("webTransportLeg() dials the address of the server's WebTransport, with all options", async () => {
  const { calls, dial, pair } = dialer("chat");
  await using _pair = pair;
  const options = {
    runtime,
    protocols: ["chat"],
    headers: { a: "b" },
    timeoutMs: 1_000,
    signal: new AbortController().signal,
    serverCertificateHashes: HASHES,
  };
  await webTransportLeg(dial)(new URL("ws://example.com/a?b"), options);
  assertEquals(calls, [{ url: "https://example.com:80/a?b", options }]);
});

Deno.test("webTransportLeg() adds messages only with skein.1", async () => {
  for (const [protocol, expected] of [["skein.1", true], ["chat", false]] as const) {
    const { dial, pair } = dialer(protocol);
    await using _pair = pair;
    const url = new URL("wss://example.com/");
    const connection = await webTransportLeg(dial)(url, { runtime, protocols: [protocol] });
    assertEquals(connection.frames !== undefined, expected, protocol);
    assertEquals(connection.protocol, protocol);
  }
});

Deno.test("webTransportLeg() closes a connection without any of the offered protocols", async () => {
  const { dial, pair } = dialer("");
  const url = new URL("wss://example.com/");
  await assertRejects(
    () => webTransportLeg(dial)(url, { runtime, protocols: ["skein.1", "b"] }),
    ConnectionError,
    "The server does not speak skein.1 or b over WebTransport",
  );
  assertEquals(await pair.server.closed, { closeCode: 0, reason: "" });
  assertStrictEquals(await webTransportLeg(dial)(url, { runtime }), pair.client);
});

Deno.test("webTransportLeg() does not dial if there is no WebTransport", async () => {
  const { calls, dial, pair } = dialer("");
  await using _pair = pair;
  const opening = webTransportLeg(dial)(new URL("ws://example.com/"), { runtime });
  await assertRejects(() => opening, UnsupportedError);
  assertEquals(calls, []);
});

Deno.test("webTransportLeg() counts a server that names no protocol as accepting if the URL requests skein.1", async () => {
  const cases: [url: string, protocols: string[], dialed: string][] = [
    ["?protocol=skein.1", ["skein.1"], "?protocol=skein.1"],
    ["?a=b&protocol=skein.1", ["skein.1", TOKEN_MARK], "?a=b&protocol=skein.1&auth=in-band"],
  ];
  for (const [query, protocols, dialed] of cases) {
    const { calls, dial, pair } = dialer("");
    await using _pair = pair;
    const url = new URL(`wss://example.com/${query}`);
    const connection = await webTransportLeg(dial)(url, { runtime, protocols });
    assertEquals([connection.frames !== undefined, connection.protocol], [true, "skein.1"]);
    assertEquals(calls.map(({ url }) => new URL(url).search), [dialed]);
    assertEquals(url.search, query);
  }
  // The protocol in the server's response takes precedence over the one in the URL.
  const { dial, pair } = dialer("chat");
  await using _pair = pair;
  const url = new URL("wss://example.com/?protocol=skein.1");
  const connection = await webTransportLeg(dial)(url, { runtime, protocols: ["skein.1", "chat"] });
  assertEquals([connection.frames, connection.protocol], [undefined, "chat"]);
});

/** Creates a `fetch` that always has the same response, and records its requests. */
function respondingWith(respond: (signal: AbortSignal) => Promise<Response>) {
  const asked: string[] = [];
  const fetch: typeof globalThis.fetch = (input, init) => {
    asked.push(String(input));
    return respond(init!.signal!);
  };
  return { asked, fetch };
}

Deno.test("locateWebTransport() uses the same port, with the given hashes", async () => {
  const { asked, fetch } = respondingWith(() => Promise.reject(new Error("Asked")));
  for (
    const [url, expected] of [
      ["ws://example.com/x?y", "https://example.com:80/x?y"],
      ["ws://127.0.0.1:8000/", "https://127.0.0.1:8000/"],
      ["http://localhost:443/", "https://localhost/"],
      ["https://example.com/", "https://example.com/"],
      ["wss://example.com:80/", "https://example.com:80/"],
    ] as const
  ) {
    const place = await locateWebTransport(new URL(url), { runtime, hashes: HASHES, fetch });
    assertEquals([place.url.href, place.hashes], [expected, HASHES]);
  }
  const place = await locateWebTransport(new URL("wss://127.0.0.1:8443/a"), { runtime, fetch });
  assertEquals([place.url.href, place.hashes], ["https://127.0.0.1:8443/a", undefined]);
  assertEquals(asked, []);
});

Deno.test("locateWebTransport() requests the endpoint from a server on this machine", async () => {
  const response = {
    port: 4433,
    serverCertificateHashes: [{ algorithm: "sha-256", value: btoa("\x00\xff\x80") }],
  };
  const urls: [url: string, hostname: string | undefined, asked: string, expected: string][] = [
    ["ws://127.0.0.1:8000/a?b", undefined, "http://127.0.0.1:8000", "https://127.0.0.1:4433/a?b"],
    ["ws://localhost/", "127.0.0.1", "http://localhost", "https://127.0.0.1:4433/"],
    ["http://a.localhost:1/", "[::1]", "http://a.localhost:1", "https://[::1]:4433/"],
    ["ws://[::1]:8000/", undefined, "http://[::1]:8000", "https://[::1]:4433/"],
  ];
  for (const [url, hostname, origin, expected] of urls) {
    const { asked, fetch } = respondingWith(() =>
      Promise.resolve(Response.json({ hostname, ...response }))
    );
    const place = await locateWebTransport(new URL(url), { runtime, fetch });
    assertEquals(asked, [`${origin}/.well-known/skein/webtransport`]);
    assertEquals(place.url.href, expected);
    assertEquals(place.hashes, [{ algorithm: "sha-256", value: Uint8Array.of(0, 255, 128) }]);
  }
});

Deno.test("locateWebTransport() rejects if a server does not announce an endpoint", async () => {
  const json = (value: unknown) => () => Promise.resolve(Response.json(value));
  const responses: [what: string, response: () => Promise<Response>][] = [
    ["404", () => Promise.resolve(new Response("Not found", { status: 404 }))],
    ["no HTTP", () => Promise.reject(new TypeError("error sending request"))],
    ["no JSON", () => Promise.resolve(new Response("<p>Hello"))],
    ["no object", json(null)],
    ["no port", json({ serverCertificateHashes: [] })],
    ["no hashes", json({ port: 1 })],
    ["no base64", json({ port: 1, serverCertificateHashes: [{ value: "*" }] })],
    ["another machine", json({ port: 1, hostname: "example.com", serverCertificateHashes: [] })],
  ];
  for (const [what, response] of responses) {
    const { asked, fetch } = respondingWith(response);
    const locating = locateWebTransport(new URL("ws://127.0.0.1:8000/"), { runtime, fetch });
    await assertRejects(() => locating, UnsupportedError, "the server does not offer it", what);
    assertEquals(asked.length, 1, what);
  }
});

Deno.test("locateWebTransport() sends no request to another machine", async () => {
  const { asked, fetch } = respondingWith(() => Promise.reject(new Error("Asked")));
  for (const url of ["ws://example.com/", "http://127.0.0.1.example.com/"]) {
    const locating = locateWebTransport(new URL(url), { runtime, fetch });
    await assertRejects(() => locating, UnsupportedError, "the URL is plain HTTP");
  }
  assertEquals(asked, []);
});

Deno.test("locateWebTransport() waits 5 s for a server that does not respond", async () => {
  using time = new FakeTime();
  let isAborted = false;
  const { fetch } = respondingWith((signal) =>
    new Promise((_, reject) => {
      signal.addEventListener("abort", () => {
        isAborted = true;
        reject(signal.reason);
      });
    })
  );
  const locating = locateWebTransport(new URL("ws://127.0.0.1:8000/"), { runtime, fetch });
  locating.catch(() => {});
  await time.tickAsync(4_999);
  assert(!isAborted);
  await time.tickAsync(1);
  assert(isAborted);
  await assertRejects(() => locating, UnsupportedError, "does not offer it");
});

Deno.test("locateWebTransport() follows no redirect", async () => {
  const asked: string[] = [];
  await using http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, ({ url }) => {
    asked.push(new URL(url).pathname);
    return new Response(null, { status: 307, headers: { location: "/elsewhere" } });
  });
  const url = new URL(`ws://127.0.0.1:${http.addr.port}/`);
  await assertRejects(() => locateWebTransport(url, { runtime }), UnsupportedError);
  assertEquals(asked, ["/.well-known/skein/webtransport"]);
});
