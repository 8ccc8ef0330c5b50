import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { ConnectionError } from "../../errors.ts";
import { lowPort } from "../../tests/networks/ports.ts";
import { directStream } from "../../transport/direct.ts";
import { hardenedWebSocket } from "../../transport/hardened/mod.ts";
import type { WebSocketHost } from "../../transport/websocket/server.ts";
import { dialWebSocket } from "../../transport/websocket/client.ts";
import { dialWebTransport } from "../../transport/h3/client.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { GOMOQT_CODES, MOQ_LITE_SESSION_CODES } from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import { dialMoq } from "../client/dial.ts";
import { TrackMux } from "../track/mux.ts";
import { listenMoq, MoqServer } from "./server.ts";
import type { ListenMoqOptions } from "./server_options.ts";
import { MoqSession } from "../session/session.ts";
import { DEFAULT_VERSIONS, type MoqVersion, protocolsOf } from "../wire/versions.ts";
import { LiveBroadcast } from "../live/live_track.ts";
import { soon } from "../../tests/waiting.ts";
import { ALL_VERSIONS, LITE_VERSIONS } from "../../tests/moq/network.ts";
import {
  arrivals,
  clock,
  dial,
  listen,
  textsOf,
  type Wire,
  WIRES,
} from "../../tests/moq/servers.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

for (const wire of WIRES) {
  for (const version of wire === "websocket" ? LITE_VERSIONS : ALL_VERSIONS) {
    Deno.test(`listenMoq() serves ${version} over ${wire}`, async () => {
      const { mux, end } = clock();
      const { onSession, next } = arrivals();
      await using server = listen({ mux, onSession });
      const session = await dial(server, wire, { versions: [version] });
      const served = await next();
      assertEquals(
        {
          sessionVersion: session.version,
          servedVersion: served.version,
          transport: session.connection.transport,
          sessions: server.sessions.size,
        },
        { sessionVersion: version, servedVersion: version, transport: wire, sessions: 1 },
      );

      const announcements = await session.acceptAnnounce("/live");
      const first = await announcements.next();
      assertEquals(first?.path, "/live/clock");
      assertEquals(await textsOf(session), ["tick", "tock", "tick", "tock", "tick", "tock"]);

      const none = await session.subscribe("/live/nothing", "seconds");
      const error = await assertRejects(() => none.ready, MoqError);
      assertEquals(error.scope, "subscribe");

      end();
      assertEquals((await announcements.next())?.active ?? false, false);

      session.closeWithError(0x51, "bye");
      const { code, message, by } = await served.closed;
      assertEquals({ code, message, by }, { code: 0x51, message: "bye", by: "remote" });
      await session.connection.closed;
      assertEquals(server.sessions.size, 0);
    });

    Deno.test(`listenMoq() closes ${version} over ${wire} with a code`, async () => {
      const { onSession, next } = arrivals();
      await using server = listen({ onSession });
      const session = await dial(server, wire, { versions: [version] });
      (await next()).closeWithError(0x52, "enough");
      const { code, message, by } = await session.closed;
      assertEquals({ code, message, by }, { code: 0x52, message: "enough", by: "remote" });
    });
  }
}

Deno.test("listenMoq() lets clients publish", async () => {
  const { mux } = clock();
  const { onSession, next } = arrivals();
  await using server = listen({ onSession });
  for (const wire of WIRES) {
    await using _session = await dial(server, wire, { mux });
    assertEquals((await textsOf(await next())).length, 6);
  }
});

slowTest(
  "listenMoq() serves hundreds of concurrent subscriptions and groups in both directions",
  async () => {
    const count = 300;
    for (const wire of WIRES) {
      const mux = new TrackMux();
      const ready = Promise.withResolvers<void>();
      let served = 0;
      mux.publish("/many", async (track) => {
        const group = await track.openGroup();
        await group.writeFrame(Uint8Array.of(1));
        if (++served === 2 * count) ready.resolve();
        // No group ends before all have started.
        await ready.promise;
        await group.close();
      });
      const { onSession, next } = arrivals();
      await using server = listen({ mux, onSession });
      await using client = await dial(server, wire, { mux });
      const reads = [client, await next()].flatMap((session) =>
        Array.from({ length: count }, async (_, index) => {
          const track = await session.subscribe("/many", `${index}`);
          for await (const group of track) {
            let frames = 0;
            for await (const _frame of group) frames++;
            track.close();
            return frames;
          }
          return 0;
        })
      );
      assertEquals(await Promise.all(reads), Array(2 * count).fill(1));
    }
  },
);

for (const wire of WIRES) {
  Deno.test(`listenMoq() frees the streams of requests that it has answered, over ${wire}`, async () => {
    await using media = new LiveBroadcast();
    {
      using group = media.track("video").openGroup();
      group.writeFrame(Uint8Array.of(1));
    }
    const mux = new TrackMux();
    mux.publish("/live", media);
    const authorize = (_session: MoqSession, path: string) => path !== "/secret";
    await using server = listen({ mux, authorize, maxBidirectionalStreams: 4 });
    await using client = await dial(server, wire);
    const read = async (path: string, name: string) => {
      await using track = await client.subscribe(path, name);
      for await (const group of track) {
        for await (const _frame of group);
        return;
      }
    };
    const fetch = async (path: string, group: number) => {
      for await (const _frame of await client.fetch(path, "video", { group }));
    };
    const requests: Record<string, () => Promise<unknown>> = {
      "subscribe": () => read("/live", "video"),
      "subscribe to nothing": () => read("/none", "video"),
      "subscribe to no track": () => read("/live", "none"),
      "subscribe, forbidden": () => read("/secret", "video"),
      "fetch": () => fetch("/live", 1),
      "fetch nothing": () => fetch("/none", 1),
      "fetch no group": () => fetch("/live", 9),
      "fetch, forbidden": () => fetch("/secret", 1),
      "track info": () => client.trackInfo("/live", "video"),
      "track info of nothing": () => client.trackInfo("/none", "video"),
      "track info, forbidden": () => client.trackInfo("/secret", "video"),
      "announcements": async () => {
        for await (const _ of await client.acceptAnnounce("/live")) return;
      },
      "announcements, forbidden": async () => (await client.acceptAnnounce("/secret")).close(),
    };
    for (const [name, request] of Object.entries(requests)) {
      for (let i = 0; i < 12; i++) {
        await soon(
          request().catch((error) => assertInstanceOf(error, MoqError, name)),
        );
      }
    }
  });
}

Deno.test("listenMoq() passes path and query to the application, if the version can carry them", async () => {
  const { onSession, next } = arrivals();
  const told: [string, string][] = [];
  await using server = listen({
    onSession,
    onSetup: ({ path }, { transport }) => void told.push([transport, path]),
  });
  const pathOf = async (wire: Wire, version: MoqVersion) => {
    await using _session = await dial(server, wire, {
      versions: [version],
      path: "room/1?token=x",
    });
    return (await next()).path;
  };
  for (const wire of WIRES) {
    for (const version of ["moq-lite-05", "gomoqt-dev"] as const) {
      assertEquals(await pathOf(wire, version), "/room/1?token=x");
      assertEquals(told.pop(), [wire, "/room/1?token=x"]);
    }
  }
  assertEquals(await pathOf("quic", "moq-lite-04"), "");
  assertEquals(told, [["quic", ""]]);
});

Deno.test("listenMoq() uses the best common version", async () => {
  await using server = listen({ versions: ["moq-lite-04", "moq-lite-05", "moq-lite-02"] });
  for (const wire of WIRES) {
    const version = async (versions: MoqVersion[]) => {
      await using session = await dial(server, wire, { versions });
      return session.version;
    };
    assertEquals(await version(["moq-lite-05", "moq-lite-04"]), "moq-lite-04");
    assertEquals(await version(["moq-lite-05", "moq-lite-02"]), "moq-lite-05");
    assertEquals(await version(["moq-lite-01", "moq-lite-02"]), "moq-lite-02");
  }
});

Deno.test("listenMoq() accepts clients that offer no version by name", async () => {
  const { onSession, next } = arrivals();
  await using server = listen({ onSession });
  for (const version of ["moq-lite-02", "moq-lite-01", "gomoqt-dev"] as const) {
    const connection = await dialWebTransport(server.url, {
      serverCertificateHashes: server.certificateHashes,
    });
    await using session = await MoqSession.open(connection, {
      side: "client",
      versions: [version],
    });
    assertEquals([session.version, (await next()).version], [version, version]);
    for (const name of ["qmux-02", "qmux-01"]) {
      const connection = await dialWebSocket(server.webSocketUrl, { protocols: [name] });
      await using session = await MoqSession.open(connection, {
        side: "client",
        versions: [version],
      });
      assertEquals([session.version, (await next()).version], [version, version]);
    }
  }
});

Deno.test("listenMoq() closes a client without a common version with the code of its family", async () => {
  await using server = listen({ versions: ["moq-lite-04"] });
  // With a protocol name, over WebTransport.
  for (const versions of [["moq-lite-05"], ["moq-lite-02"], ["gomoqt-dev"]] as MoqVersion[][]) {
    const error = await assertRejects(() => dial(server, "webtransport", { versions }), MoqError);
    assertEquals(error.reason, "unsupportedVersion", `${versions}`);
  }
  // Over raw QUIC the handshake fails, and a WebSocket is not upgraded.
  await assertRejects(() => dial(server, "quic", { versions: ["moq-lite-05"] }), MoqError);
  await assertRejects(
    () => dial(server, "websocket", { versions: ["moq-lite-05"] }),
    ConnectionError,
  );
  for (const protocols of [[], ["moq-lite-04"], ["qmux-01.moq-lite-05"], ["qmux-01"]]) {
    const response = await fetch(server.webSocketUrl.replace("ws", "http"), {
      headers: {
        connection: "upgrade",
        upgrade: "websocket",
        "sec-websocket-key": btoa("0123456789abcdef"),
        "sec-websocket-version": "13",
        ...(protocols.length > 0 && { "sec-websocket-protocol": protocols.join(",") }),
      },
    });
    await response.body?.cancel();
    assertEquals(response.status, 400, `${protocols}`);
  }
  // Protocol names without a common version, and first messages of both kinds.
  await using other = listen({ versions: ["moq-lite-02"] });
  const cases: [string[], number[], number][] = [
    [["moq-lite-05", "moqt-19"], [], MOQ_LITE_SESSION_CODES.unsupportedVersion],
    [[], [0x20, 0, 4, 1, 0x40, 0x50, 0], MOQ_LITE_SESSION_CODES.unsupportedVersion],
    [[], [0x00, 4, 1, 0x40, 0x50, 0], GOMOQT_CODES.session.unsupportedVersion],
    [[], [0x01, 1, 0x2f], GOMOQT_CODES.session.protocolViolation],
  ];
  for (const [protocols, bytes, code] of cases) {
    const connection = await dialWebTransport(other.url, {
      protocols,
      serverCertificateHashes: other.certificateHashes,
    });
    if (bytes.length > 0) {
      const stream = directStream(await connection.createBidirectionalStream());
      await stream.write(Uint8Array.from(bytes));
    }
    assertEquals((await connection.closed).closeCode, code);
  }
});

Deno.test("listenMoq() chooses a mux for each client", async () => {
  await using server = listen({
    muxOf({ path }) {
      const mux = new TrackMux();
      mux.publish(path, () => {});
      return mux;
    },
  });
  for (const wire of WIRES) {
    for (const version of ["moq-lite-05", "gomoqt-dev"] as const) {
      await using session = await dial(server, wire, { versions: [version], path: "of/me" });
      const announcements = await session.acceptAnnounce("/");
      assertEquals((await announcements.next())?.path, "/of/me");
    }
  }
});

Deno.test("listenMoq() survives handlers that throw", async () => {
  const errors: unknown[] = [];
  const fault = new Error("A fault of the application");
  await using server = listen({
    onSession: () => Promise.reject(fault),
    onError(error) {
      errors.push(error);
      throw new Error("Another one");
    },
  });
  for (const wire of WIRES) {
    // The client may receive the close before its own setup has finished.
    const reason = await dial(server, wire).then(
      async ({ closed }) => (await closed).reason,
      (error) => (error as MoqError).reason,
    );
    assertEquals(reason, "internal");
  }
  assertEquals(errors, [fault, fault, fault]);
});

Deno.test("listenMoq() keeps nothing of a hundred closed sessions", async () => {
  const { mux } = clock();
  await using server = listen({ mux });
  for (const wire of WIRES) {
    for (let batch = 0; batch < 5; batch++) {
      await Promise.all(Array.from({ length: 20 }, async () => {
        await using session = await dial(server, wire);
        assertEquals((await textsOf(session)).length, 6);
      }));
    }
    await Promise.all([...server.sessions].map(({ closed }) => closed));
    assertEquals(server.sessions.size, 0);
  }
});

Deno.test("MoqServer can be mounted in another server", async () => {
  const { mux } = clock();
  await using moq = new MoqServer({ mux, path: "/moq" });
  assertEquals({
    address: moq.address,
    url: moq.url,
    quicUrl: moq.quicUrl,
    webSocketUrl: moq.webSocketUrl,
  }, { address: undefined, url: "", quicUrl: "", webSocketUrl: "" });
  assertEquals(moq.protocols, protocolsOf(DEFAULT_VERSIONS, "quic"));
  await using http = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, moq.fetch);
  const { port } = http.addr;
  await using session = await dialMoq(`ws://127.0.0.1:${port}/moq`);
  assertEquals((await textsOf(session)).length, 6);
  const response = await fetch(`http://127.0.0.1:${port}/`);
  await response.body?.cancel();
  assertEquals(response.status, 426);
});

Deno.test("MoqServer.accept() accepts any connection", async () => {
  const { mux } = clock();
  await using moq = new MoqServer({ mux, limits: { maxSessions: 1 } });
  const pair = memoryPair({ protocol: "moq-lite-05" });
  const [served, session] = await Promise.all([
    moq.accept(pair.server),
    MoqSession.open(pair.client, { side: "client" }),
  ]);
  assertEquals(served?.side, "server");
  assertEquals((await textsOf(session)).length, 6);
  const other = memoryPair({ protocol: "moq-lite-05" });
  assertEquals(await moq.accept(other.server), undefined);
  assertEquals((await other.client.closed).closeCode, 4429);
  await session[Symbol.asyncDispose]();
});

Deno.test("listenMoq() rejects invalid options", () => {
  const cases: [object, string][] = [
    [{ versions: [] }, "versions"],
    [{ versions: ["moq-lite-99"] }, "versions"],
    [{ path: "rooms" }, "path"],
    [{ origins: ["https://app.example/"] }, "origins"],
    [{ transports: [] }, "transports"],
    [{ transports: ["carrier-pigeon"] }, "transports"],
    [{ tls: { cert: "", key: "" } }, "tls"],
    [{ webSocket: hardenedWebSocket(), transports: ["quic"] }, "webSocket"],
  ];
  for (const [options, name] of cases) {
    assertThrows(() => listenMoq(options as ListenMoqOptions), TypeError, name);
  }
  for (const name of ["maxSessions", "maxSessionsPerAddress", "maxPendingSetups"]) {
    assertThrows(() => listenMoq({ limits: { [name]: 0 } }), RangeError, name);
  }
});

Deno.test("listenMoq() listens on the given transports", async () => {
  for (const wire of WIRES) {
    await using server = listen({ transports: [wire], limits: { maxSessions: Infinity } });
    assertEquals(
      [server.url !== "", server.quicUrl !== "", server.webSocketUrl !== ""],
      WIRES.map((one) => one === wire),
    );
    await using session = await dial(server, wire);
    assert(!session.isClosed);
  }
});

Deno.test("listenMoq() listens and upgrades with a given WebSocket engine", async () => {
  const webSocket = hardenedWebSocket();
  let upgrades = 0;
  let limits: (number | undefined)[] = [];
  const counted: WebSocketHost = {
    listen(options, handler) {
      limits = [options.maxConnections, options.maxConnectionsPerAddress];
      return webSocket.listen(options, handler);
    },
    accept: (request, options) => {
      upgrades++;
      return webSocket.accept(request, options);
    },
  };
  const { mux } = clock();
  await using server = listen({ mux, webSocket: counted, limits: { maxSessionsPerAddress: 2 } });
  await using session = await dial(server, "websocket");
  assertEquals(await textsOf(session), ["tick", "tock", "tick", "tock", "tick", "tock"]);
  assertEquals([upgrades, webSocket.stats().connections > 0], [1, true]);
  // Twice as many connections as sessions: a connection may be rejected, or stay unused.
  assertEquals(limits, [20_000, 4]);
  // The host serves the hash, and the other transports have the same port number.
  await using other = await dialMoq(server.webSocketUrl.replace("ws:", "http:"));
  assertEquals(other.connection.transport, "webtransport");
  await assertRejects(() => dial(server, "websocket"), ConnectionError);
  await session[Symbol.asyncDispose]();
  await other[Symbol.asyncDispose]();
});

Deno.test("listenMoq() with only a WebSocket engine releases its port", async () => {
  const port = lowPort();
  const server = listen({ webSocket: hardenedWebSocket(), transports: ["websocket"], port });
  await using session = await dial(server, "websocket");
  await server.close();
  assertEquals((await session.closed).by, "remote");
  await using again = listen({ webSocket: hardenedWebSocket(), transports: ["websocket"], port });
  assertEquals(again.address?.port, port);
});

for (const [version, wire] of [["moq-lite-05", "quic"], ["moq-lite-02", "websocket"]] as const) {
  Deno.test(`listenMoq() sends its clients the bitrate, over ${version}`, async () => {
    const { next, onSession } = arrivals();
    await using server = listen({
      versions: [version],
      bitrate: { intervalMs: 10, minSamples: 1 },
      onSession,
    });
    await using session = await dial(server, wire);
    const end = await next();
    const updates = session.updated[Symbol.asyncIterator]();
    let isTold = false;
    const told = updates.next().then((result) => {
      isTold = true;
      return result;
    });
    const writer = end.connection.datagrams.writable.getWriter();
    // The bitrate is measured every 10 ms.
    for (let round = 0; !isTold && round < 1_000; round++) {
      await writer.write(new Uint8Array(500));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assert(isTold, "The client received no bitrate");
    assert((await told).value.bitrate > 0);
    await updates.return?.();
  });
}

Deno.test("new MoqServer() rejects an invalid bitrate", () => {
  assertThrows(() => new MoqServer({ bitrate: { alpha: 2 } }), RangeError, "alpha");
  new MoqServer({ bitrate: false });
});
