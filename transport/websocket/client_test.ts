import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import { dialWebSocket } from "./client.ts";

Deno.test("dialWebSocket() rejects an invalid URL, and omits its query from the error", async () => {
  for (const url of ["", "example.com", "ftp://example.com/?secret"]) {
    const error = await assertRejects(() => dialWebSocket(url), TypeError, "url must start with");
    assert(!error.message.includes("secret"));
  }
});

Deno.test("dialWebSocket() reports the HTTP status of a rejection", async () => {
  const reject = () => new Response("No", { status: 404 });
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, reject);
  await assertRejects(
    () => dialWebSocket(`ws://127.0.0.1:${server.addr.port}/`),
    ConnectionError,
    `Cannot open WebSocket to ws://127.0.0.1:${server.addr.port}/: Invalid status code: 404`,
  );
});

Deno.test("dialWebSocket() names the URL in its errors, without its secrets", async () => {
  const url = "ws://ann:secret@127.0.0.1:1/chat?token=secret#secret";
  const rejected = await assertRejects(() => dialWebSocket(url), ConnectionError);
  using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const place = `127.0.0.1:${silent.addr.port}`;
  const dialing = dialWebSocket(url.replace("127.0.0.1:1", place), { timeoutMs: 10 });
  const late = await assertRejects(() => dialing, TimeoutError);
  for (const [{ message }, host] of [[rejected, "127.0.0.1:1"], [late, place]] as const) {
    assert(message.startsWith(`Cannot open WebSocket to ws://${host}/chat`), message);
    assert(!message.includes("secret"), message);
  }
});

Deno.test("dialWebSocket() reports that a server dialed with TLS does not use TLS", async () => {
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    () => new Response("No"),
  );
  await assertRejects(
    () => dialWebSocket(`https://127.0.0.1:${server.addr.port}/`),
    ConnectionError,
    "a server without TLS needs a ws: or http: URL",
  );
});

Deno.test("dialWebSocket() suggests a cause for a local server if a browser gives none", async () => {
  class Failing extends EventTarget {
    readyState = 0;
    constructor(readonly url: string) {
      super();
      queueMicrotask(() => this.dispatchEvent(new CloseEvent("close", { code: 1006 })));
    }
    close() {}
  }
  using _sockets = stub(globalThis, "WebSocket", function (url: URL) {
    return new Failing(String(url));
  } as never);
  const cases: [url: string, message: string][] = [
    ["wss://localhost/", "a server without TLS needs a ws: or http: URL"],
    ["wss://127.0.0.1:8000/", "a server without TLS needs a ws: or http: URL"],
    ["wss://example.com/", "Cannot open WebSocket to wss://example.com/"],
    ["ws://localhost/", "Cannot open WebSocket to ws://localhost/"],
  ];
  for (const [url, message] of cases) {
    const error = await assertRejects(() => dialWebSocket(url), ConnectionError);
    assert(error.message.endsWith(message), error.message);
  }
});

Deno.test("dialWebSocket() rejects headers if the runtime does not accept them", async () => {
  const rejection = new DOMException("The subprotocol '[object Object]' is invalid", "SyntaxError");
  using sockets = stub(globalThis, "WebSocket", function () {
    throw rejection;
  } as never);
  const error = await assertRejects(
    () => dialWebSocket("ws://127.0.0.1:1/", { headers: { a: "b" } }),
    TypeError,
    "Cannot open WebSocket with headers",
  );
  assertInstanceOf(error.cause, DOMException);
  assertEquals(sockets.calls.length, 1);
});
