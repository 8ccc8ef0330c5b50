import { assert, assertEquals } from "@std/assert";
import { AuthenticationError } from "../../errors.ts";
import { HandTrack } from "../../tests/moq/network.ts";
import { soon } from "../../tests/waiting.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { connectMoq, type ConnectMoqOptions, type MoqClient } from "./client.ts";
import type { MoqClientStatus } from "./client.ts";
import type { MoqError } from "../wire/errors.ts";
import { TrackMux } from "../track/mux.ts";
import type { MoqSession } from "../session/session.ts";
import { listenMoq, type MoqServer } from "../server/server.ts";
import type { ListenMoqOptions } from "../server/server_options.ts";

const { cert, key, hashes } = devCertificate({ cacheFolder: null });

const URLS: Readonly<Record<string, (server: MoqServer) => string>> = {
  webtransport: ({ url }) => url,
  quic: ({ quicUrl }) => quicUrl,
  websocket: ({ webSocketUrl }) => webSocketUrl,
};

/** A server on one transport. The platform frees a port slowly: each server has a new one. */
function listen(wire: string, options: ListenMoqOptions): MoqServer {
  const transports = [wire] as ListenMoqOptions["transports"] & object;
  // A WebSocket cannot trust a certificate by a hash.
  const tls = wire === "websocket" ? { cacheFolder: null } : { tls: { cert, key } };
  return listenMoq({ hostname: "127.0.0.1", transports, ...tls, ...options });
}

function connect(
  urlOf: () => string | Promise<string>,
  wire: string,
  options: ConnectMoqOptions = {},
): MoqClient {
  return connectMoq(urlOf, {
    retry: { firstDelayMs: 20, maxDelayMs: 100 },
    ...(wire === "websocket" ? {} : { serverCertificateHashes: hashes }),
    ...options,
  });
}

async function statusIs(client: MoqClient, name: MoqClientStatus["name"]): Promise<void> {
  for await (const status of client.status) if (status.name === name) return;
}

for (const wire of Object.keys(URLS)) {
  Deno.test(`connectMoq() reconnects to a restarted server, with all of its tracks, over ${wire}`, async () => {
    const mux = new TrackMux();
    const served = new HandTrack();
    mux.publish("/room/server", served.serve);
    const clientMux = new TrackMux();
    clientMux.publish("/room/client", () => {});
    const sessions: MoqSession[] = [];
    const onSession = (session: MoqSession) => void sessions.push(session);
    let server = listen(wire, { mux, onSession });
    // The client may reconnect before the server listens again: the URL waits for the server.
    let listening = Promise.resolve();
    const urlOf = () => listening.then(() => URLS[wire]!(server));
    await using client = connect(urlOf, wire, { mux: clientMux });
    const reader = client.subscribe("/room/server", "video");
    const announcements = client.acceptAnnounce("/room");
    try {
      for (const round of [0, 1, 2]) {
        await soon(statusIs(client, "connected"));
        await soon(served.reach(round + 1));
        const announced = await sessions[round]!.acceptAnnounce("/room/client");
        assertEquals((await soon(announced.next()))?.path, "/room/client");
        await served.write(10 * round);
        const group = await soon(reader.nextGroup());
        assertEquals(group?.sequence, 10 * round);
        assertEquals(reader.resumptions, round);
        if (round === 2) break;
        const { promise, resolve } = Promise.withResolvers<void>();
        listening = promise;
        // A graceful close, and a drain.
        if (round === 0) await server.close();
        else await server.drain({ timeoutMs: 50 });
        server = listen(wire, { mux, onSession });
        resolve();
      }
      // A broadcast that continued is announced once.
      assertEquals((await soon(announcements.next()))?.path, "/room/server");
      assertEquals(announcements.active.length, 1);
      announcements.close();
      assertEquals(await announcements.next(), null);
    } finally {
      await client.close();
      await server.close();
    }
  });
}

Deno.test("connectMoq() leaves a draining server, and calls its URL function each time", async () => {
  const mux = new TrackMux();
  const { promise: isThere, resolve: onSession } = Promise.withResolvers<unknown>();
  await using first = listen("websocket", { mux, onSession });
  await using second = listen("websocket", { mux });
  let asked = 0;
  await using client = connectMoq(
    () => asked++ === 0 ? first.webSocketUrl : Promise.resolve(second.webSocketUrl),
    { retry: { firstDelayMs: 10 } },
  );
  const session = await soon(client.whenConnected());
  await soon(isThere);
  assertEquals(await soon(first.drain()), { left: 1, cut: 0 });
  assert(session.isClosed);
  await soon(statusIs(client, "connected"));
  assertEquals([asked, [...second.sessions].length], [2, 1]);
});

for (const [wire, expected] of [["webtransport", 403], ["quic", undefined]] as const) {
  Deno.test(`connectMoq() stops if the server rejects it, over ${wire}`, async () => {
    let asked = 0;
    await using server = listen(wire, {
      onSetup() {
        asked++;
        throw new AuthenticationError("Not you", { status: 403 });
      },
    });
    await using client = connect(() => URLS[wire]!(server), wire);
    const { name, error } = await soon(client.closed);
    assertEquals([name, asked], ["rejected", 1]);
    assertEquals((error as { status?: number }).status, expected);
    if (expected === undefined) assertEquals((error as MoqError).reason, "unauthorized");
  });
}
