/**
 * Tests WebSocket handshakes according to RFC 6455, section 4.2.1, on both engines. The server
 * checks a request before an engine sees it.
 *
 * @module
 */
import { assertEquals, assertMatch } from "@std/assert";
import { listenMoq } from "../moq/mod.ts";
import type { SessionRejection } from "../server.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { hostBetween, listen, portOf, type RawOptions, RawSocket } from "./servers.ts";

/** A request, and the status of the response. */
interface Handshake extends RawOptions {
  readonly name: string;
  readonly status: number;
  /** The status of the hardened engine, if node:http answers differently. */
  readonly hardened?: number;
}

const KEY = "sec-websocket-key";
const VERSION = "sec-websocket-version";

const HANDSHAKES: readonly Handshake[] = [
  { name: "a correct request", status: 101 },
  {
    name: "other letter case",
    status: 101,
    headers: { upgrade: "WebSocket", connection: "upgrade" },
  },
  { name: "a list in Connection", status: 101, headers: { connection: "keep-alive, Upgrade" } },
  { name: "extra bits after the key", status: 101, headers: { [KEY]: "dGhlIHNhbXBsZSBub25jZR==" } },
  { name: "a POST", status: 405, method: "POST" },
  { name: "a PUT", status: 405, method: "PUT" },
  { name: "a HEAD", status: 405, method: "HEAD" },
  { name: "an unknown method", status: 405, hardened: 400, method: "FOO" },
  { name: "no Host", status: 400, headers: { host: "" } },
  { name: "a duplicate header", status: 400, headers: { Host: "localhost" } },
  { name: "no version", status: 426, headers: { [VERSION]: "" } },
  { name: "a draft's version", status: 426, headers: { [VERSION]: "8" } },
  { name: "a future version", status: 426, headers: { [VERSION]: "14" } },
  { name: "two versions", status: 426, headers: { [VERSION]: "13, 8" } },
  { name: "a version with a decimal point", status: 426, headers: { [VERSION]: "13.0" } },
  { name: "no key", status: 400, headers: { [KEY]: "" } },
  { name: "a key of 15 bytes", status: 400, headers: { [KEY]: btoa("x".repeat(15)) } },
  { name: "a key of 17 bytes", status: 400, headers: { [KEY]: btoa("x".repeat(17)) } },
  { name: "a key that is not base64", status: 400, headers: { [KEY]: "!".repeat(22) + "==" } },
  { name: "two keys", status: 400, headers: { "Sec-WebSocket-Key": btoa("x".repeat(16)) } },
  { name: "no Connection", status: 400, headers: { connection: "" } },
  { name: "another Connection", status: 400, headers: { connection: "close" } },
  { name: "a body", status: 400, headers: { "content-length": "5" } },
  // The runtime's server hides the version.
  { name: "HTTP/1.0", status: 101, hardened: 400, version: "1.0" },
  { name: "HTTP/2.0 in the request line", status: 400, version: "2.0" },
];

for (const engine of ["runtime", "hardened"] as const) {
  Deno.test(`serve() on the ${engine} engine checks WebSocket handshakes`, async () => {
    const rejections: SessionRejection[] = [];
    await using server = listen({
      webTransport: false,
      onSessionRejected: (rejection) => void rejections.push(rejection),
      ...(engine === "hardened" ? { webSocket: hardenedWebSocket() } : {}),
    });
    // Skein's client receives other rejections in a close, so after an upgrade.
    for (const protocol of [undefined, "skein.1"]) {
      for (const { name, status, hardened = status, ...options } of HANDSHAKES) {
        using raw = await RawSocket.open(portOf(server), {
          ...options,
          ...(protocol === undefined ? {} : { protocol }),
        });
        const about = `${name}, offering ${protocol}`;
        assertEquals(raw.status, engine === "hardened" ? hardened : status, about);
        if (raw.status === 426) assertMatch(raw.head, /^sec-websocket-version: 13\r$/mi, about);
        if (raw.status === 405) assertMatch(raw.head, /^allow: GET\r$/mi, about);
      }
    }
    const told = rejections.find(({ reason }) => reason.includes("received 14"));
    assertEquals(told, {
      status: 400,
      reason: "Cannot upgrade to WebSocket: Sec-WebSocket-Version must be 13, received 14",
      address: "127.0.0.1",
    });
  });
}

for (const engine of ["runtime", "hardened"] as const) {
  Deno.test(`The ${engine} engine sends the headers of a response, but no malformed ones`, async () => {
    const hardened = hardenedWebSocket();
    const host = engine === "hardened" ? hardened : hostBetween({});
    let headers: HeadersInit = [["set-cookie", "a=1"], ["set-cookie", "b=2"]];
    await using server = listen({
      webTransport: false,
      webSocket: {
        accept: (request, options) => host.accept(request, { ...options, headers }),
        listen: (options, handler) => host.listen(options, handler),
      },
      onSessionRejected() {},
    });
    using raw = await RawSocket.open(portOf(server));
    assertEquals(raw.status, 101);
    assertEquals(raw.head.match(/^set-cookie: .*$/gim), ["set-cookie: a=1", "set-cookie: b=2"]);
    headers = { "x-a": "1\r\nx-b: 2" };
    using rejected = await RawSocket.open(portOf(server));
    assertEquals(rejected.status, 400);
  });
}

Deno.test("listenMoq() checks WebSocket handshakes", async () => {
  await using server = listenMoq({
    port: 0,
    hostname: "127.0.0.1",
    transports: ["websocket"],
  });
  const port = Number(new URL(server.webSocketUrl).port);
  const protocol = "qmux-01.moq-lite-04";
  for (const { name, status, ...options } of HANDSHAKES) {
    using raw = await RawSocket.open(port, { ...options, protocol });
    assertEquals(raw.status, status, name);
  }
});
