import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { UnsupportedError } from "../../errors.ts";
import { locateWebTransport } from "./locate.ts";
import type { CertificateHash } from "../webtransport.ts";

const HASHES: readonly CertificateHash[] = [{ algorithm: "sha-256", value: Uint8Array.of(1, 2) }];

/** A `fetch` that answers all the same, and remembers what it was asked. */
function answering(answer: (signal: AbortSignal) => Promise<Response>) {
  const asked: string[] = [];
  const fetch: typeof globalThis.fetch = (input, init) => {
    asked.push(String(input));
    return answer(init!.signal!);
  };
  return { asked, fetch };
}

Deno.test("locateWebTransport() takes the same port, with the hashes that it was given", async () => {
  const { asked, fetch } = answering(() => Promise.reject(new Error("Asked")));
  for (
    const [url, expected] of [
      ["ws://example.com/x?y", "https://example.com:80/x?y"],
      ["ws://127.0.0.1:8000/", "https://127.0.0.1:8000/"],
      ["http://localhost:443/", "https://localhost/"],
      ["https://example.com/", "https://example.com/"],
      ["wss://example.com:80/", "https://example.com:80/"],
    ] as const
  ) {
    const place = await locateWebTransport(new URL(url), { hashes: HASHES, fetch });
    assertEquals([place.url.href, place.hashes], [expected, HASHES]);
  }
  const place = await locateWebTransport(new URL("wss://127.0.0.1:8443/a"), { fetch });
  assertEquals([place.url.href, place.hashes], ["https://127.0.0.1:8443/a", undefined]);
  assertEquals(asked, []);
});

Deno.test("locateWebTransport() asks a server on this machine", async () => {
  const answer = {
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
    const { asked, fetch } = answering(() =>
      Promise.resolve(Response.json({ hostname, ...answer }))
    );
    const place = await locateWebTransport(new URL(url), { fetch });
    assertEquals(asked, [`${origin}/.well-known/skein/webtransport`]);
    assertEquals(place.url.href, expected);
    assertEquals(place.hashes, [{ algorithm: "sha-256", value: Uint8Array.of(0, 255, 128) }]);
  }
});

Deno.test("locateWebTransport() rejects where a server does not tell of it", async () => {
  const json = (value: unknown) => () => Promise.resolve(Response.json(value));
  const answers: [what: string, answer: () => Promise<Response>][] = [
    ["404", () => Promise.resolve(new Response("Not found", { status: 404 }))],
    ["no HTTP", () => Promise.reject(new TypeError("error sending request"))],
    ["no JSON", () => Promise.resolve(new Response("<p>Hello"))],
    ["no object", json(null)],
    ["no port", json({ serverCertificateHashes: [] })],
    ["no hashes", json({ port: 1 })],
    ["no base64", json({ port: 1, serverCertificateHashes: [{ value: "*" }] })],
    ["another machine", json({ port: 1, hostname: "example.com", serverCertificateHashes: [] })],
  ];
  for (const [what, answer] of answers) {
    const { asked, fetch } = answering(answer);
    const locating = locateWebTransport(new URL("ws://127.0.0.1:8000/"), { fetch });
    await assertRejects(() => locating, UnsupportedError, "the server does not offer it", what);
    assertEquals(asked.length, 1, what);
  }
});

Deno.test("locateWebTransport() asks no server on another machine", async () => {
  const { asked, fetch } = answering(() => Promise.reject(new Error("Asked")));
  for (const url of ["ws://example.com/", "http://127.0.0.1.example.com/"]) {
    const locating = locateWebTransport(new URL(url), { fetch });
    await assertRejects(() => locating, UnsupportedError, "the URL is one of plain HTTP");
  }
  assertEquals(asked, []);
});

Deno.test("locateWebTransport() waits a second for a server that does not answer", async () => {
  using time = new FakeTime();
  let isAborted = false;
  const { fetch } = answering((signal) =>
    new Promise((_, reject) => {
      signal.addEventListener("abort", () => {
        isAborted = true;
        reject(signal.reason);
      });
    })
  );
  const locating = locateWebTransport(new URL("ws://127.0.0.1:8000/"), { fetch });
  locating.catch(() => {});
  await time.tickAsync(999);
  assert(!isAborted);
  await time.tickAsync(1);
  assert(isAborted);
  await assertRejects(() => locating, UnsupportedError, "does not offer it");
});
