import { assert, assertEquals, assertRejects } from "@std/assert";
import { dial, type TransportName } from "../client.ts";
import { dial as dialOver } from "../mod.ts";
import { createServer, type ServeOptions, type Server } from "../server.ts";
import { internals } from "../session/session.ts";
import { withTicket } from "../session/url.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { listen, portOf, RawSocket } from "./servers.ts";
import { until } from "./waiting.ts";

/** Opens a session whose peer never replies to a close, and closes it. */
async function linger(server: Server, protocol: string): Promise<RawSocket> {
  const raw = await RawSocket.open(portOf(server), { protocol });
  assertEquals(raw.status, 101);
  await until(() => server.manager.count === 1);
  await server.manager.closeAll({ code: 4000 });
  assertEquals((await raw.closed())?.code, 4000);
  return raw;
}

/** Returns the status of the next upgrade. */
async function statusOf(server: Server, protocol = ""): Promise<number> {
  using raw = await RawSocket.open(portOf(server), { protocol });
  return raw.status;
}

function sockets(
  server: Pick<Server, "manager">,
): [open: number, lingering: number, rejected: number] {
  const { open, lingering, rejected } = server.manager.stats().sockets;
  return [open, lingering, rejected];
}

Deno.test("Server limits the sockets of one address whose peers do not reply to a close", async () => {
  await using server = listen({
    limits: { maxSessionsPerAddress: 2 },
    session: { closeTimeoutMs: 20 },
  });
  using raws = new DisposableStack();
  const lingering: RawSocket[] = [];
  for (let i = 1; i <= 4; i++) {
    lingering.push(raws.use(await linger(server, "skein.1")));
    assertEquals([server.manager.count, sockets(server)], [0, [i, i, 0]]);
  }
  assertEquals([await statusOf(server), await statusOf(server, "skein.1")], [429, 429]);
  // One rejection of the session, plus one rejection of the socket that would deliver the rejection
  // in a close.
  assertEquals(sockets(server), [4, 4, 3]);
  assertEquals(server.manager.stats().rejected.maxSessionsPerAddress, 0);

  lingering[0]![Symbol.dispose]();
  await until(() => server.manager.stats().sockets.open === 3);
  await using session = await dial(server.url);
  assert(session.isReady);
  assertEquals(sockets(server), [4, 3, 3]);
});

Deno.test("Server frees the slot of a socket when its peer finally replies to the close", async () => {
  await using server = listen({ session: { closeTimeoutMs: 20 } });
  using raw = await linger(server, "skein.1");
  assertEquals(sockets(server), [1, 1, 0]);
  await raw.frame(new Uint8Array([0x0f, 0xa0]), { head: 0x88 });
  await until(() => server.manager.stats().sockets.open === 0);
  assertEquals(sockets(server), [0, 0, 0]);
});

Deno.test("Server limits the sockets that it rejects by a close", async () => {
  await using server = listen({ limits: { maxSessionsPerAddress: 2 } });
  await using _first = await dial(server.url);
  await using _second = await dial(server.url);
  using raws = new DisposableStack();
  for (let i = 1; i <= 2; i++) {
    const raw = raws.use(await RawSocket.open(portOf(server), { protocol: "skein.1" }));
    assertEquals([raw.status, (await raw.closed())?.code], [101, 4429]);
    assertEquals(sockets(server), [2 + i, i, 0]);
  }
  const last = raws.use(await RawSocket.open(portOf(server), { protocol: "skein.1" }));
  assertEquals(last.status, 429);
  assertEquals(sockets(server), [4, 2, 1]);
});

Deno.test("Server limits the total number of sockets, from any address", async () => {
  let count = 0;
  await using server = listen({
    clientAddress: () => `192.0.2.${++count}`,
    limits: { maxSessions: 1 },
    session: { closeTimeoutMs: 20 },
  });
  using raws = new DisposableStack();
  for (let i = 1; i <= 2; i++) raws.use(await linger(server, "skein.1"));
  assertEquals([await statusOf(server), await statusOf(server, "skein.1")], [429, 429]);
  assertEquals(sockets(server).slice(0, 2), [2, 2]);
});

Deno.test("Server.close() ends lingering sockets", async () => {
  const server = listen({ session: { closeTimeoutMs: 20 } });
  using raw = await linger(server, "skein.1");
  assertEquals(sockets(server), [1, 1, 0]);
  await server.close();
  await until(() => server.manager.stats().sockets.open === 0);
  assertEquals(await raw.read(), undefined);
});

Deno.test("Server mounted in another server still counts the sockets that the runtime keeps", async () => {
  const server = createServer({ session: { closeTimeoutMs: 20 } });
  await using http = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    server.fetch,
  );
  using raw = await RawSocket.open(http.addr.port, { protocol: "skein.1" });
  await until(() => server.manager.count === 1);
  await server.close();
  assertEquals([server.manager.count, sockets(server)], [0, [1, 1, 0]]);
  raw[Symbol.dispose]();
  await until(() => server.manager.stats().sockets.open === 0);
});

Deno.test("Server counts each socket once, and releases it, for every outcome of its session", async () => {
  await using server = listen({ authenticate: ({ token }) => token ?? null });
  for (let i = 0; i < 3; i++) {
    await using _session = await dial(`${server.url}?token=ann`);
    await dial(server.url).catch(() => {});
    using _vanishes = await RawSocket.open(portOf(server), {
      path: "/?token=bob",
      protocol: i === 0 ? "" : "skein.1",
    });
    using rejected = await RawSocket.open(portOf(server));
    assertEquals(rejected.status, 401);
    using malformed = await RawSocket.open(portOf(server), {
      path: "/?token=bob",
      headers: { "sec-websocket-key": "" },
    });
    assertEquals(malformed.status, 400);
  }
  await until(() => server.manager.stats().sockets.open === 0);
  assertEquals(sockets(server), [0, 0, 0]);
});

Deno.test("Server releases the socket of a peer that vanishes during its request", async () => {
  for (const isLetIn of [true, false]) {
    const asked = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    await using server = listen({
      session: { handshakeTimeoutMs: 20 },
      authenticate: async () => {
        asked.resolve();
        await gate.promise;
        return isLetIn ? "ann" : null;
      },
    });
    const raw = await RawSocket.ask(portOf(server), { protocol: "skein.1" });
    await asked.promise;
    raw[Symbol.dispose]();
    gate.resolve();
    await until(() => server.manager.stats().reserved === 0);
    await until(() => server.manager.stats().sockets.open === 0);
    assertEquals([server.manager.count, sockets(server)], [0, [0, 0, 0]]);
  }
});

const QUIC = { cacheFolder: null, maxConnections: 1, maxConnectionsPerAddress: 1 };

/** The transports, each with the options for its server. */
const TRANSPORTS: readonly [string, TransportName, ServeOptions][] = [
  ["WebTransport", "webtransport", { webTransport: QUIC }],
  ["the runtime's WebTransport", "webtransport", {
    origins: ["*"],
    webTransport: { ...QUIC, engine: "builtin" },
  }],
  ["WebSocket", "websocket", { webTransport: false }],
  ["the hardened WebSocket", "websocket", {
    webTransport: false,
    webSocket: hardenedWebSocket(),
  }],
  ["HTTP", "http", { webTransport: false }],
];

for (const [what, transport, options] of TRANSPORTS) {
  Deno.test(`Server counts a moving client only once in each limit, over ${what}`, async () => {
    await using server = listen({
      ...options,
      authenticate: () => "ann",
      tokens: { inMessage: true },
      limits: { maxSessions: 1, maxSessionsPerAddress: 1, maxSessionsPerUser: 1 },
    });
    const url = what.includes("runtime") ? `${server.url}?protocol=skein.1` : server.url;
    const open = (to: string) => dialOver(to, { transports: [transport], token: "t" });
    await using first = await open(url);
    await using second = await open(withTicket(url, first[internals].lineage.ticket!));
    assertEquals([second[internals].lineage.follows, second.transport], [first.id, transport]);
    await assertRejects(() => open(url));
    await second.ping();
    await first.close();
    await until(() => server.manager.count === 1);
    await using third = await open(withTicket(url, second[internals].lineage.ticket!));
    assertEquals(third[internals].lineage.follows, second.id);
  });
}
