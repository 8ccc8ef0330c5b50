/**
 * Tests which transport a client chooses and remembers if packets of the handshake are lost.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { type Client, connect, type Session } from "../mod.ts";
import type { ServeOptions, Server } from "../server.ts";
import { hostBetween, listen } from "./servers.ts";
import { soon, turns, until } from "./waiting.ts";
import { type UdpPacket, UdpPath } from "./networks/udp_path.ts";

/** A server whose WebTransport endpoint is reached over a simulated path. */
function listenBehind(pathOf: () => UdpPath, options: ServeOptions = {}): Server {
  const server: Server = listen({
    ...options,
    webTransport: { cacheFolder: null },
    webSocket: hostBetween({
      answer(request) {
        if (!request.url.endsWith("/.well-known/skein/webtransport")) return undefined;
        const serverCertificateHashes = server.certificateHashes.map(({ algorithm, value }) => ({
          algorithm,
          value: new Uint8Array(value).toBase64(),
        }));
        return Response.json({ port: pathOf().port, serverCertificateHashes });
      },
    }),
  });
  return server;
}

/** Makes the server close all sessions, and waits for the client's next session. */
async function comeBack(client: Client, server: Server): Promise<Session<unknown>> {
  const { session } = client;
  for (const each of server.manager.all()) await each.close({ code: 4000 });
  while (client.session === session || !client.isConnected) {
    client.retryNow();
    await turns(1);
  }
  return client.session!;
}

/** Ways to count the lost packet. */
const COUNTS: Record<string, (packet: UdpPacket) => number> = {
  "in both directions": ({ place }) => place,
  "from the client": ({ from, placeOfSide }) => from === "client" ? placeOfSide : 0,
  "from the server": ({ from, placeOfSide }) => from === "server" ? placeOfSide : 0,
};

for (const [what, placeOf] of Object.entries(COUNTS)) {
  for (const place of [1, 2, 4]) {
    Deno.test(`connect() uses WebTransport again after packet ${place} ${what} was lost`, async () => {
      let path: UdpPath | undefined = undefined;
      let asked = 0;
      const both = Promise.withResolvers<void>();
      await using server = listenBehind(() => path!, {
        authenticate() {
          if (++asked === 2) both.resolve();
          return "ada";
        },
      });
      await using udp = path = new UdpPath(Number(new URL(server.webTransportUrl).port));
      udp.loses = (packet) => placeOf(packet) === place;
      await using client = connect(server.url);
      const { transport } = await soon(client.whenConnected());
      // The late WebTransport also requests a session, after the packet was retransmitted.
      if (transport === "websocket") await soon(both.promise);
      udp.loses = () => false;
      // On a busy machine, WebSocket may be faster.
      await until(async () => (await comeBack(client, server)).transport === "webtransport");
    });
  }
}

Deno.test("Server gets no second session if the WebTransport of connect() opens late", async () => {
  let path: UdpPath | undefined = undefined;
  const opened: string[] = [];
  let asked = 0;
  let mostConnections = 0;
  const both = Promise.withResolvers<void>();
  await using server = listenBehind(() => path!, {
    authenticate() {
      if (++asked === 2) both.resolve();
      return "ada";
    },
    onOpen(session) {
      opened.push(session.transport);
      server.presence.enter(session, "room");
    },
    onMessage: (message) => message.reply(message.data),
  });
  const look = () => {
    mostConnections = Math.max(mostConnections, server.presence.connections("ada", "room"));
  };
  await using udp = path = new UdpPath(Number(new URL(server.webTransportUrl).port));
  udp.loses = ({ place }) => place === 1;
  await using client = connect(server.url);
  const session = await soon(client.whenConnected());
  assertEquals(session.transport, "websocket");
  await soon(both.promise);
  for (look(); server.manager.stats().reserved > 0; look()) await turns(1);
  look();
  assertEquals(await soon(client.request("echo", 1)), 1);
  const { count, created } = server.manager.stats();
  assertEquals({ opened, count, created, mostConnections }, {
    opened: ["websocket"],
    count: 1,
    created: 1,
    mostConnections: 1,
  });
  assert(client.session === session);
});
