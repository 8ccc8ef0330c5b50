/**
 * Several servers on one port, as several processes would share the port, here in one process.
 *
 * @module
 */
import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { dial, serve, type Session } from "../mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";

const HOST = "127.0.0.1";

// Elsewhere no kernel shares connections out.
const ignore = Deno.build.os !== "linux";

Deno.test({
  name: "serve({ reusePort }) shares new connections with others on the port",
  ignore,
  async fn() {
    const options = { hostname: HOST, reusePort: true, webTransport: false, onListen() {} };
    await using one = serve({ ...options, port: 0 });
    const { port } = one.address!;
    await using two = serve({ ...options, port });
    const sessions: Session[] = [];
    for (let i = 0; i < 40; i++) sessions.push(await dial(`ws://${HOST}:${port}/`));
    const counts = [one, two].map(({ manager }) => manager.all().length);
    assertEquals(counts[0]! + counts[1]!, 40);
    assert(counts.every((count) => count > 0), `${counts}`);
    // The close of one server does not affect the other.
    await one.close();
    assertEquals(two.manager.all().length, counts[1]);
    await using session = await dial(`ws://${HOST}:${port}/`);
    assertEquals(two.manager.get(session.id)?.id, session.id);
    await Promise.all(sessions.map((session) => session.close()));
  },
});

Deno.test({
  name: "serve({ reusePort }) leaves WebTransport to the first server",
  ignore,
  async fn() {
    const told: (Error | undefined)[] = [];
    const options = {
      hostname: HOST,
      reusePort: true,
      onListen: (_: Deno.NetAddr, info: { webTransportError: Error | undefined }) =>
        void told.push(info.webTransportError),
    };
    await using one = serve({ ...options, port: 0 });
    await using two = serve({ ...options, port: one.address!.port });
    assertEquals([one.webTransportUrl === "", two.webTransportUrl], [false, ""]);
    assertEquals(told[0], undefined);
    assertInstanceOf(told[1], Deno.errors.AddrInUse);
  },
});

Deno.test("serve({ reusePort }) is not for an engine with a listener of its own", () => {
  assertThrows(
    () => serve({ port: 0, reusePort: true, webSocket: hardenedWebSocket(), onListen() {} }),
    TypeError,
    "reusePort must be false with a webSocket",
  );
});
