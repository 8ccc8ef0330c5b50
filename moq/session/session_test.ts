import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { ConnectionError, TimeoutError, UnsupportedError } from "../../errors.ts";
import { ALL_VERSIONS, protocolOf } from "../../tests/moq/network.ts";
import { HandPeer } from "../../tests/moq/peer.ts";
import { testWire, wiredEnds } from "../../tests/moq/wires.ts";
import { type QuicPair, quicPair, unmarked } from "../../tests/pairs/quic.ts";
import { soon, turns, until } from "../../tests/waiting.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { MoqError } from "../wire/errors.ts";
import { TrackMux } from "../track/mux.ts";
import { MoqSession } from "./session.ts";
import type { SetupRequest } from "./setup.ts";
import { type MoqVersion, protocolsOf, VERSIONS } from "../wire/versions.ts";

const text = (value: string) => new TextEncoder().encode(value);

for (const version of ALL_VERSIONS) {
  const { setup, code, slashedPaths } = VERSIONS[version];

  Deno.test(`${version}: a session exposes its version, its path and the setups of both sides`, async () => {
    const requests: SetupRequest[] = [];
    await using ends = await wiredEnds(version, {
      transport: "quic",
      client: { path: "/live", extensions: new Map([[0x41, text("client")]]) },
      server: {
        extensions: new Map([[0x43, text("server")]]),
        onSetup: (request) => void requests.push(request),
      },
    });
    const { server, client } = ends;
    // SETUP on a separate stream arrived with the first response at the latest.
    await (await client.acceptAnnounce("/")).next({ signal: AbortSignal.timeout(1) }).catch(
      () => {},
    );
    for (const session of [server, client]) {
      assertEquals([session.version, session.versions], [version, [code]]);
      const isInSetup = setup !== "none" && setup !== "compat";
      const hasPath = isInSetup || session === client;
      assertEquals(session.path, hasPath ? "/live" : "");
      assertEquals(session.setupRequest, {
        path: session.path,
        versions: [code],
        extensions: session.clientExtensions,
      });
      const hasSetup = setup !== "none" || session === client;
      assertEquals(session.clientExtensions.get(0x41), hasSetup ? text("client") : undefined);
      const isTold = setup !== "none" || session === server;
      assertEquals(session.serverExtensions.get(0x43), isTold ? text("server") : undefined);
    }
    assertEquals(requests.map(({ path, versions }) => [path, versions]), [[server.path, [code]]]);
    assertEquals([server.side, client.side], ["server", "client"]);
  });

  Deno.test(`${version}: a session closes with a name or a number, which the other side receives`, async () => {
    const cases = [
      ["unauthorized", 2, "unauthorized"],
      ["protocolViolation", 3, "protocolViolation"],
      ["goawayTimeout", 0x10, "goawayTimeout"],
      ["unsupportedVersion", slashedPaths ? 0x12 : 0x15, "unsupportedVersion"],
      [4321, 4321, "unknown"],
      [0, 0, "none"],
    ] as const;
    for (const [given, number, name] of cases) {
      await using ends = await wiredEnds(version);
      const { server, client } = ends;
      client.closeWithError(given, "enough");
      client.closeWithError("internal", "too late");
      client.close();
      const info = { code: number, reason: name, message: "enough" };
      assertEquals(await soon(client.closed), { ...info, by: "local" });
      assertEquals(await soon(server.closed), { ...info, by: "remote" });
      assert(client.isClosed && client.signal.aborted && server.signal.aborted);
      const { reason, moqCode, by } = server.signal.reason as MoqError;
      assertEquals({ reason, moqCode, by }, { reason: name, moqCode: number, by: "remote" });
      const { cause } = server.signal.reason;
      assert(cause instanceof ConnectionError);
      assertEquals(cause.message, `The peer closed the connection with code ${number}: enough`);
      assertEquals(client.signal.reason.cause, undefined);
    }
  });

  Deno.test(`${version}: a closed session rejects every call`, async () => {
    await using ends = await wiredEnds(version);
    const { client } = ends;
    client.closeWithError("internal", "broken");
    for (
      const ask of [
        () => client.subscribe("/a", "b"),
        () => client.acceptAnnounce("/"),
      ]
    ) {
      const error = await assertRejects(ask, MoqError, "broken");
      assertEquals([error.scope, error.reason], ["session", "internal"]);
    }
    assertEquals([client.subscriptions, client.servedSubscriptions], [[], 0]);
    for await (const _ of client.updated) throw new Error("No more announcements");
  });

  Deno.test(`${version}: a broken session reports the error, and all of its parts end`, async () => {
    const mux = new TrackMux();
    mux.publish("/a", async (track) => {
      await track.openGroup();
      await new Promise((resolve) => track.signal.addEventListener("abort", resolve));
    });
    const pair = memoryPair({ protocol: protocolOf(version) });
    const versions = [version];
    const [server, client] = await Promise.all([
      MoqSession.open(pair.server, { side: "server", versions, mux }),
      MoqSession.open(pair.client, { side: "client", versions }),
    ]);
    const track = await client.subscribe("/a", "b");
    const announcements = await client.acceptAnnounce("/");
    assertEquals((await soon(announcements.next()))?.path, "/a");
    const waiting = [
      assertRejects(() => soon(announcements.next()), MoqError),
      assertRejects(() => soon(track.nextGroup().then(() => track.nextGroup())), MoqError),
    ];
    await turns();
    pair.link.disconnect();
    await Promise.all(waiting);
    await soon(track.closed);
    for (const session of [server, client]) {
      const { by, reason } = await soon(session.closed);
      assertEquals([by, reason], ["network", "unknown"]);
      const error = session.signal.reason as MoqError;
      const raw = await assertRejects(() => session.connection.closed);
      assertEquals({ scope: error.scope, by: error.by, cause: error.cause }, {
        scope: "session",
        by: "network",
        cause: raw,
      });
      assertEquals([session.subscriptions, session.servedSubscriptions], [[], 0]);
    }
  });

  Deno.test(`${version}: a server rejects a client with the error of onSetup, and the number of its name`, async () => {
    for (
      const [thrown, number, message] of [
        [new MoqError("session", "unauthorized", "No entry"), 2, "No entry"],
        [new MoqError("session", "internal", "Mine", { moqCode: 4999 }), 4999, "Mine"],
        [new Error("Secret"), slashedPaths ? 0x13 : 1, "The setup failed"],
        [new MoqError("session", "internal", "Odd", { moqCode: -5 }), 0, "Odd"],
      ] as const
    ) {
      const pair = memoryPair({ protocol: protocolOf(version) });
      const opening = MoqSession.open(pair.client, { side: "client", versions: [version] })
        .then((session) => session.closed, () => {});
      const onSetup = () => Promise.reject(thrown);
      const options = { side: "server", versions: [version], onSetup } as const;
      assertEquals(await assertRejects(() => soon(MoqSession.open(pair.server, options))), thrown);
      assertEquals(await soon(pair.client.closed), { closeCode: number, reason: message });
      await soon(opening);
    }
  });
}

/** Opens both sides of a session on raw QUIC, and waits until each has the setup of the other. */
async function openOnQuic(version: MoqVersion, wires: Pick<QuicPair, "client" | "server">) {
  const versions = [version];
  const [client, server] = await Promise.all([
    MoqSession.open(wires.client, { side: "client", versions }),
    MoqSession.open(wires.server, { side: "server", versions }),
  ]);
  const hasSetup = VERSIONS[version].setup !== "none";
  await until(() => !hasSetup || client.serverExtensions.size > 0);
  return { client, server };
}

for (const version of ALL_VERSIONS) {
  const protocol = protocolsOf([version], "quic")[0]!;
  // A version without a setup does not identify the peer as Skein: code 0 stays a close.
  const crashBy = VERSIONS[version].setup === "none" ? "remote" : "network";

  for (const [side, other] of [["server", "client"], ["client", "server"]] as const) {
    Deno.test(`${version}: MoqSession.closed of a ${side} on raw QUIC distinguishes a close of Skein from a crash`, async () => {
      for (const isCrash of [false, true]) {
        await using pair = await quicPair(protocol);
        const wires = { ...pair, [other]: isCrash ? unmarked(pair[other]) : pair[other] };
        const ends = await openOnQuic(version, wires);
        ends[other].close();
        const info = await soon(ends[side].closed);
        assertEquals([info.code, info.by], [0, isCrash ? crashBy : "remote"]);
        if (info.by === "remote") assertEquals(info.message, "");
        else assertStringIncludes(info.message, "without a close");
      }
    });
  }

  Deno.test(`${version}: MoqSession.closed on raw QUIC resolves by remote after a close with 0 of another implementation`, async () => {
    await using pair = await quicPair(protocol);
    await using peer = await HandPeer.open(version, {}, pair);
    peer.connection.close();
    const { code, reason, by } = await soon(peer.session.closed);
    assertEquals({ code, reason, by }, { code: 0, reason: "none", by: "remote" });
  });
}

Deno.test("MoqSession.close() marks its close on raw QUIC before the setup of the peer has arrived", async () => {
  await using pair = await quicPair("moq-lite-05");
  const [client] = await Promise.all([
    MoqSession.open(pair.client, { side: "client" }),
    // Reads the setup of the client, and sends none.
    pair.server.incomingUnidirectionalStreams.getReader().read(),
  ]);
  pair.server.inspect?.requireClose?.();
  client.close();
  assertEquals(await soon(pair.server.closed), { closeCode: 0, reason: "" });
});

Deno.test("MoqSession.open() rejects if the peer does not reply, or when its signal aborts", async () => {
  for (const version of ["moq-lite-02", "gomoqt-dev"] as const) {
    for (const side of ["client", "server"] as const) {
      const late = memoryPair({ protocol: "" });
      const options = { side, versions: [version] };
      await assertRejects(
        () => soon(MoqSession.open(late[side], { ...options, setupTimeoutMs: 5 })),
        TimeoutError,
        "did not finish the setup within 5 ms",
      );
      assert((await soon(late[side].closed)).closeCode! > 0);
      const given = memoryPair({ protocol: "" });
      const controller = new AbortController();
      const opening = MoqSession.open(given[side], { ...options, signal: controller.signal });
      controller.abort(new Error("enough"));
      await assertRejects(() => soon(opening), Error, "enough");
      await soon(given[side].closed);
    }
  }
});

Deno.test("MoqSession.open() rejects a connection without streams, and one without a common version", async () => {
  const plain = memoryPair({ streams: false });
  await assertRejects(
    () => MoqSession.open(plain.client, { side: "client" }),
    UnsupportedError,
    "no streams",
  );
  const named = memoryPair({ protocol: "moq-lite-04" });
  const versions = ["moq-lite-05"] as const;
  for (const side of ["client", "server"] as const) {
    const error = await assertRejects(
      () => MoqSession.open(named[side], { side, versions }),
      MoqError,
    );
    assertEquals(error.reason, "unsupportedVersion");
  }
  const offered = memoryPair({ protocol: "" });
  const client = MoqSession.open(offered.client, { side: "client", versions: ["moq-lite-02"] });
  const server = MoqSession.open(offered.server, { side: "server", versions: ["moq-lite-01"] });
  const error = await assertRejects(() => soon(server), MoqError);
  assertEquals([error.reason, error.moqCode], ["unsupportedVersion", 0x15]);
  await assertRejects(() => soon(client));
});

Deno.test("MoqSession chooses the client's first version that the server supports, through SETUP", async () => {
  const pair = memoryPair({ protocol: "" });
  const [server, client] = await soon(Promise.all([
    MoqSession.open(pair.server, { side: "server", versions: ["moq-lite-01", "moq-lite-02"] }),
    MoqSession.open(pair.client, { side: "client", versions: ["moq-lite-02", "moq-lite-01"] }),
  ]));
  assertEquals([server.version, client.version], ["moq-lite-02", "moq-lite-02"]);
  assertEquals(server.versions, [0xff0dad02, 0xff0dad01]);
  await client[Symbol.asyncDispose]();
  await soon(server.closed);
});

Deno.test("MoqSession names the closing side in later calls", async () => {
  await using ends = await wiredEnds("moq-lite-05");
  const { server, client } = ends;
  client.close();
  await soon(server.closed);
  await assertRejects(() => client.subscribe("/a", "b"), MoqError, "ended: it was closed here");
  await assertRejects(() => server.subscribe("/a", "b"), MoqError, "ended: the peer closed it");
});

Deno.test("MoqSession.subscribe() rejects a track without a name", async () => {
  await using ends = await wiredEnds("moq-lite-05");
  assertThrows(
    () => void ends.client.subscribe("/a", undefined as never),
    TypeError,
    "Cannot subscribe: name must be a string, received undefined",
  );
});

Deno.test("MoqSession names the argument that is missing or wrong", async () => {
  await using ends = await wiredEnds("moq-lite-05");
  const { client } = ends;
  const none = undefined as never;
  const calls: readonly [text: string, call: () => unknown][] = [
    ["Cannot fetch: name must be a string", () => client.fetch("/a", none, { group: 1 })],
    ["Cannot fetch: group must be a number", () => client.fetch("/a", "b", {} as never)],
    ["Cannot read track info: name must be a string", () => client.trackInfo("/a", none)],
    ["Cannot report: update must be an object", () => client.report(none)],
    [
      "Cannot open session: connection must be a Connection",
      () => MoqSession.open(none, { side: "client" }),
    ],
  ];
  for (const [text, call] of calls) {
    await assertRejects(async () => await call(), TypeError, `${text}, received undefined`);
  }
  for (const bitrate of [-1, NaN, Infinity]) {
    assertThrows(
      () => client.report({ bitrate, rttMs: undefined }),
      RangeError,
      `Cannot report: update.bitrate must be a finite number of 0 or more, received ${bitrate}`,
    );
  }
});

Deno.test("MoqSession closes with its signal, and keeps no listener on it", async () => {
  const controller = new AbortController();
  await using ends = await wiredEnds("moq-lite-05", { client: { signal: controller.signal } });
  controller.abort();
  assertEquals((await soon(ends.client.closed)).by, "local");
  await soon(ends.server.closed);
});

Deno.test("MoqSession.closeWithError() throws for a number that the transport cannot carry, and stays open", async () => {
  await using ends = await wiredEnds("moq-lite-05");
  for (const number of [-1, 0.5, NaN, 2 ** 60]) {
    assertThrows(() => ends.client.closeWithError(number, ""), RangeError, "code must be");
  }
  assertEquals(ends.client.isClosed, false);
  ends.client.closeWithError(2 ** 32 - 1, "");
  assertEquals((await soon(ends.server.closed)).code, 2 ** 32 - 1);
});

Deno.test("MoqSession reads no request before onSetup has admitted the client", async () => {
  const pair = memoryPair({ protocol: "moq-lite-05", frames: false });
  const entry = Promise.withResolvers<void>();
  const mux = new TrackMux();
  let served = 0;
  mux.publish("/a", () => void served++);
  const opening = MoqSession.open(testWire(pair.server, { transport: "quic" }).connection, {
    side: "server",
    mux,
    onSetup: () => entry.promise,
  });
  const client = await MoqSession.open(testWire(pair.client, { transport: "quic" }).connection, {
    side: "client",
    path: "/live",
  });
  const track = await client.subscribe("/a", "b");
  await turns();
  assertEquals(served, 0);
  entry.resolve();
  const server = await soon(opening);
  assertEquals(await soon(track.nextGroup()), null);
  assertEquals([served, server.path], [1, "/live"]);
  await client[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});
