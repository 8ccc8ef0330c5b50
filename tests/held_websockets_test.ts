/** Tests clients behind a proxy that lets a WebSocket open, and holds back everything after that. */
import { assertEquals } from "@std/assert";
import { connect } from "../mod.ts";
import { TcpPath } from "./networks/tcp_path.ts";
import { listen, portOf } from "./servers.ts";
import { soon } from "./waiting.ts";

Deno.test("connect() uses HTTP if a proxy holds back what follows the upgrade to WebSocket", async () => {
  await using server = listen({ onMessage: (message) => message.reply(message.data) });
  await using path = new TcpPath(portOf(server));
  path.upgrades = "hold";
  await using client = connect(`http://127.0.0.1:${path.port}/`, {
    transports: ["websocket", "http"],
    connectTimeoutMs: 1_000,
    backoff: { firstDelayMs: 1, maxDelayMs: 10 },
    onError() {},
  });
  assertEquals(await soon(client.request("echo", 1)), 1);
  const { session } = client;
  assertEquals([session!.transport, session!.fallback?.transport], ["http", "websocket"]);
  // An opened WebSocket is no reason to leave the session.
  assertEquals(await soon(client.handOver({ transport: "websocket" })), false);
  assertEquals([client.session === session, await client.request("echo", 2)], [true, 2]);
  path.upgrades = "pass";
  // On a busy machine, an attempt may take longer than it has time.
  while (!await client.handOver({ transport: "websocket" }));
  assertEquals([client.session!.transport, await client.request("echo", 3)], ["websocket", 3]);
});
