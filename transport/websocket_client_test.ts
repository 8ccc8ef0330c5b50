import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { ConnectionError } from "../errors.ts";
import { dialWebSocket } from "./websocket_client.ts";

Deno.test("dialWebSocket() refuses a URL that is none of a server, without its query", async () => {
  for (const url of ["", "example.com", "ftp://example.com/?secret"]) {
    const error = await assertRejects(() => dialWebSocket(url), TypeError, "url must begin with");
    assert(!error.message.includes("secret"));
  }
});

Deno.test("dialWebSocket() says with what status a server refused", async () => {
  const refuse = () => new Response("No", { status: 404 });
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, refuse);
  await assertRejects(
    () => dialWebSocket(`ws://127.0.0.1:${server.addr.port}/`),
    ConnectionError,
    "The WebSocket connection failed: Invalid status code: 404",
  );
});

Deno.test("dialWebSocket() refuses headers where the runtime does not take them", async () => {
  const refusal = new DOMException("The subprotocol '[object Object]' is invalid", "SyntaxError");
  using sockets = stub(globalThis, "WebSocket", function () {
    throw refusal;
  } as never);
  const error = await assertRejects(
    () => dialWebSocket("ws://127.0.0.1:1/", { headers: { a: "b" } }),
    TypeError,
    "Cannot open WebSocket with headers",
  );
  assertInstanceOf(error.cause, DOMException);
  assertEquals(sockets.calls.length, 1);
});
