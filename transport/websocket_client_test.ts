import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { dialWebSocket } from "./websocket_client.ts";

Deno.test("dialWebSocket() refuses a URL that is none of a server, without its query", async () => {
  for (const url of ["", "example.com", "ftp://example.com/?secret"]) {
    const error = await assertRejects(() => dialWebSocket(url), TypeError, "url must begin with");
    assert(!error.message.includes("secret"));
  }
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
