// run_tests: alone, and first, as these tests take longest.
import { assertRejects } from "@std/assert";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import { dialWebSocket } from "../../transport/websocket/client.ts";
import { acceptWebSocket } from "../../transport/websocket/server.ts";
import { soon } from "../waiting.ts";
import { testWebSocket } from "./websocket.ts";

testWebSocket("WebSocket", {
  accept: acceptWebSocket,
  listen: ({ hostname, port }, handler) => Deno.serve({ hostname, port, onListen() {} }, handler),
});

Deno.test("dialWebSocket() drops the socket on a timeout", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepting = listener.accept();
  const url = `ws://127.0.0.1:${listener.addr.port}/`;
  await assertRejects(() => dialWebSocket(url, { timeoutMs: 100 }), TimeoutError);
  using peer = await accepting;
  const buffer = new Uint8Array(4096);
  while (await soon(peer.read(buffer)) !== null);
});

Deno.test("dialWebSocket() rejects when the port is closed", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  await assertRejects(() => dialWebSocket(`ws://127.0.0.1:${port}/`), ConnectionError);
});
