/**
 * Tests `skein load` and `skein doctor` with a server that uses `ws`, the WebSocket library for
 * Node.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { WebSocketServer } from "npm:ws@8.23.0";
import { doctor } from "../../cli/commands/doctor.ts";
import { load } from "../../cli/commands/load.ts";
import type { Examination } from "../../cli/doctor/examine.ts";
import type { LoadResult } from "../../cli/load/run.ts";
import { main } from "../../cli/skein.ts";
import { fakeContext } from "../cli_context.ts";

async function echoServer() {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  server.on("connection", (socket: EchoSocket) => {
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  await new Promise((resolve) => server.once("listening", resolve));
  return {
    url: `ws://127.0.0.1:${server.address().port}`,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}

/** The members of a `ws` socket that the server uses. */
interface EchoSocket {
  on(event: "message", listener: (data: unknown, isBinary: boolean) => void): void;
  send(data: unknown, options: { readonly binary: boolean }): void;
}

Deno.test("skein load --plain measures a server of ws", async () => {
  await using server = await echoServer();
  for (const payload of [128, 70_000]) {
    const context = fakeContext();
    const args = ["--plain", "-n4", "--rate=max", "--duration=500ms", "--warmup=100ms", "--json"];
    const code = await main(["load", server.url, ...args, `--payload=${payload}`], context, [load]);
    const { sessions, messages, errors } = JSON.parse(context.out) as LoadResult;
    assertEquals(
      { code, errors, open: sessions.open },
      { code: 0, errors: {}, open: 4 },
      context.err,
    );
    assert(messages.received > 0 && messages.received === messages.sent, `${messages.received}`);
  }
});

Deno.test("skein doctor reports that a server of ws is not a Skein server", async () => {
  await using server = await echoServer();
  const context = fakeContext();
  const code = await main(["doctor", server.url, "--json", "--timeout=5s"], context, [doctor]);
  const { checks, transports } = JSON.parse(context.out) as Examination;
  assertEquals([code, transports.websocket], [1, "failed"]);
  const find = (id: string) => checks.find((check) => check.id === id)!;
  // The library accepts the first subprotocol that a client offers.
  assertEquals([find("websocket.upgrade").state, find("websocket.upgrade").detail], [
    "ok",
    "101, skein.1",
  ]);
  assertMatch(find("websocket.session").cause ?? "", /it is not a Skein server/);
});
