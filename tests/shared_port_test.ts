/**
 * Tests several servers in one process that share a port, as several processes would.
 *
 * @module
 */
import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { dial, serve, type Session } from "../mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";

const HOST = "127.0.0.1";

// Other kernels do not distribute connections.
const ignore = Deno.build.os !== "linux";

for (const engine of ["built-in", "hardened"]) {
  Deno.test({
    name:
      `serve({ reusePort }) shares new connections with other servers on the port (${engine} engine)`,
    ignore,
    async fn() {
      const listen = (port: number) =>
        serve({
          hostname: HOST,
          port,
          reusePort: true,
          webTransport: false,
          webSocket: engine === "hardened" ? hardenedWebSocket() : undefined,
          onListen() {},
        });
      await using one = listen(0);
      const { port } = one.address!;
      await using two = listen(port);
      const sessions: Session[] = [];
      for (let i = 0; i < 40; i++) sessions.push(await dial(`ws://${HOST}:${port}/`));
      const counts = [one, two].map(({ manager }) => manager.all().length);
      assertEquals(counts[0]! + counts[1]!, 40);
      assert(counts.every((count) => count > 0), `${counts}`);
      // Closing one server does not affect the other.
      await one.close();
      assertEquals(two.manager.all().length, counts[1]);
      await using session = await dial(`ws://${HOST}:${port}/`);
      assertEquals(two.manager.get(session.id)?.id, session.id);
      await Promise.all(sessions.map((session) => session.close()));
    },
  });

  Deno.test({
    name:
      `serve({ reusePort }) throws if another server does not share the port (${engine} engine)`,
    ignore,
    async fn() {
      const options = {
        hostname: HOST,
        webTransport: false,
        webSocket: engine === "hardened" ? hardenedWebSocket() : undefined,
        onListen() {},
      } as const;
      await using one = serve({ ...options, port: 0 });
      const { port } = one.address!;
      assertThrows(
        () => serve({ ...options, port, reusePort: true }),
        Deno.errors.AddrInUse,
      );
      await using two = serve({ ...options, port: 0, reusePort: true });
      assertThrows(() => serve({ ...options, port: two.address!.port }), Deno.errors.AddrInUse);
    },
  });
}

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
