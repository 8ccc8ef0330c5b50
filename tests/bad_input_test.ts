import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { connect, dial, type Session, UnsupportedError } from "../client.ts";
import { forwardedAddress, type OverflowPolicy } from "../mod.ts";
import { durableStreams } from "../streams/mod.ts";
import { Server } from "../server.ts";
import type { MemoryPair } from "../transport/mod.ts";
import { memoryPair } from "../testing/mod.ts";
import { testServer, turns } from "../testing/mod.ts";
import { frameOf, listen, portOf, RawSocket, UPGRADE_HEADERS } from "./servers.ts";
import { endOf, Peer } from "./sessions.ts";
import { soon, until } from "./waiting.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { streamFeatures, streamsOf } from "./stream_features.ts";
import { slowTest } from "../tools/run_tests/slow.ts";

/** Asserts that the server still serves requests and keeps no state for disconnected peers. */
async function assertWell(server: Server): Promise<void> {
  const before = server.manager.count;
  const session = await dial(server.url);
  assertEquals(await session.request("ping"), "pong");
  await session.close();
  await until(() => server.manager.count === before);
  assertEquals(server.manager.stats().reserved, 0);
}

const pong = (message: { isRequest: boolean; reply(data: unknown): void }) => {
  if (message.isRequest) message.reply("pong");
};

Deno.test("Server rejects bad upgrades with a status, and continues to serve", async () => {
  await using server = listen({ onMessage: pong, limits: { maxSessions: 2 } });
  const cases: [headers: Record<string, string>, status: number][] = [
    [{ "sec-websocket-key": "" }, 400],
    [{ "sec-websocket-version": "" }, 426],
    [{ "sec-websocket-version": "7" }, 426],
    [{ connection: "keep-alive" }, 400],
  ];
  for (const [headers, status] of cases) {
    for (const protocol of ["skein.1", "other"]) {
      using raw = await RawSocket.open(portOf(server), { headers, protocol });
      assertEquals([raw.status, server.manager.stats().reserved], [status, 0]);
    }
  }
  await until(() => server.manager.count === 0);
  await assertWell(server);
});

Deno.test("Server.fetch() rejects a host that would change the path of the URL", async () => {
  await using server = testServer({
    features: [durableStreams({ path: "/streams", authorize: () => true })],
  });
  for (const host of ["evil.test/streams/a?", "evil.test/streams/a#", "a\\b", "a b", "u@a"]) {
    // HTTP servers build this URL from a request head like the attacker's.
    const request = new Request("http://evil.test/streams/a", { headers: { host } });
    assertEquals((await server.fetch(request)).status, 400, host);
  }
});

/** Values that a client may send in any header or query parameter. */
const ODD_TEXTS = [
  ...["", " ", ";", ",", "=", "=v; sid=ann", "; ;", ";;=;", "a;b", "==", '"', '"a', "W/", "*"],
  ...["%", "%zz", "%00", "-1", "1e999", "NaN", "0x10", "99999999999999999999", "null", "[]", "{}"],
  ...["Bearer", "Bearer  ", " Bearer x", "for=", 'for="[', "[::1", "http://", "//", "?", "a b"],
  ...["\u00ff\u00fe", "x".repeat(4_000), "__proto__", "constructor"],
];

/** Headers and query parameters that the server reads. */
const READ_HEADERS = [
  ...["accept", "authorization", "cookie", "content-length", "content-type", "forwarded"],
  ...["idempotency-key", "if-none-match", "last-event-id", "origin", "x-forwarded-for"],
  ...["producer-epoch", "producer-id", "producer-seq", "sec-websocket-protocol", "skein-transport"],
  ...["stream-closed", "stream-expires-at", "stream-fork-offset", "stream-fork-sub-offset"],
  ...["stream-forked-from", "stream-keyed", "stream-seq", "stream-ttl", "traceparent"],
  ...["access-control-request-method", "access-control-request-headers", "x-forwarded-proto"],
  ...["skein-session", "skein-secret", "skein-number"],
];
const READ_PARAMETERS = [
  ...["offset", "live", "cursor", "changes", "action", "token", "ticket", "protocol", "client"],
  ...["last", "lastEventId", "limit", "after", "epoch", "tag"],
];

slowTest(
  "Server rejects odd headers and query parameters without an error of its own",
  async () => {
    const errors: unknown[] = [];
    await using server = testServer<string>({
      clientAddress: forwardedAddress({ trusted: 1 }),
      authenticate: ({ token, cookies }) => token ?? cookies["sid"] ?? null,
      authorize: () => true,
      features: [
        httpApi({ path: "/api", authorize: () => true }),
        ...streamFeatures({ path: "/streams", authorize: () => true }),
      ],
      history: { "log:{name}": {} },
      onError: (error) => void errors.push(error),
    });
    await (await streamsOf(server).create("a")).append("x");
    const ask = async (path: string, init: RequestInit, what: string) => {
      const response = await server.fetch(new Request(`http://localhost${path}`, init));
      await response.body?.cancel();
      assert(response.status < 500, `${response.status} for ${init.method} ${path}, ${what}`);
    };
    const places = [["GET", "/streams/a"], ["POST", "/streams/a"], ["PUT", "/streams/b"]].concat([
      ["GET", "/api/topics/log%3Aa/history"],
      ["GET", "/api/topics/log%3Aa/publications"],
      ["POST", "/api/topics/a/publications"],
      ["OPTIONS", "/streams/a"],
      ["GET", "/"],
    ]);
    for (const text of ODD_TEXTS) {
      for (const [method, path] of places as [string, string][]) {
        for (const name of READ_HEADERS) {
          const headers = new Headers({ cookie: "sid=ann", [name]: text });
          await ask(path, { method, headers }, `${name}: ${text}`);
        }
        for (const name of READ_PARAMETERS) {
          for (const value of [encodeURIComponent(text), text.replace(/[#\s]/g, "")]) {
            await ask(`${path}?${name}=${value}`, { method }, "");
          }
        }
      }
    }
    assertEquals(errors, []);
  },
);

Deno.test("Server frees the slots of peers that vanish before their response", async () => {
  await using server = listen({ onMessage: pong, limits: { maxSessions: 200 } });
  for (let i = 0; i < 100; i++) {
    const raw = await RawSocket.ask(portOf(server), i % 2 === 0 ? {} : { protocol: "skein.1" });
    raw[Symbol.dispose]();
  }
  await until(() => server.manager.stats().closed === 100);
  await until(() => server.manager.count + server.manager.stats().reserved === 0);
  await assertWell(server);
});

Deno.test("Server frees the slot of a socket that never opens, and closes one that opens late", async () => {
  const pairs: MemoryPair[] = [];
  const opens: (() => void)[] = [];
  const server = new Server({ session: { handshakeTimeoutMs: 20 } }, {
    // Behaves like the runtime when the peer vanishes while `authenticate` is running.
    accept: () => {
      const pair = memoryPair();
      pairs.push(pair);
      const ready = new Promise<void>((resolve) => opens.push(resolve));
      const connection = Object.create(pair.server, { ready: { value: ready } });
      connection.close = (info: object) => pair.server.close(info);
      return { connection, response: new Response() };
    },
  });
  const headers = UPGRADE_HEADERS;
  await server.fetch(new Request("http://localhost/", { headers }));
  assertEquals(server.manager.stats().reserved, 1);
  await until(() => server.manager.stats().reserved === 0);
  opens[0]!();
  assertEquals((await soon(pairs[0]!.client.closed)).closeCode, 4408);
  assertEquals(server.manager.count, 0);
  await server.close();
});

Deno.test("Server.close() does not wait forever for a close that never arrives", async () => {
  const asked = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<Response>();
  const server = listen({
    fetch: () => {
      asked.resolve();
      return gate.promise;
    },
    session: { closeTimeoutMs: 20 },
  });
  const asking = fetch(server.url.replace("ws", "http"));
  await asked.promise;
  await soon(server.close());
  gate.resolve(new Response("late"));
  assertEquals(await (await asking).text(), "late");
});

Deno.test("Server calls onClose when a peer vanishes in the middle of a frame", async () => {
  const closed: number[] = [];
  await using server = listen({
    onMessage: pong,
    onOpen: (session) => void server.subscribe(session, "news"),
    onClose: (_session, { code }) => void closed.push(code),
  });
  for (const protocol of ["skein.1", ""]) {
    const raw = await RawSocket.open(portOf(server), protocol === "" ? {} : { protocol });
    await until(() => server.manager.count === 1);
    await raw.write(frameOf('{"topic":"half"}').subarray(0, 9));
    raw[Symbol.dispose]();
    await until(() => server.manager.count === 0);
  }
  await until(() => closed.length === 2);
  assertEquals([closed, server.topics.size], [[1006, 1006], 0]);
  await assertWell(server);
});

Deno.test("Server accepts a fragmented message, with pings between the fragments", async () => {
  const seen: unknown[] = [];
  await using server = listen({ onMessage: ({ data }) => void seen.push(data) });
  using raw = await RawSocket.open(portOf(server));
  const parts = ['{"topic":"a"', ',"data":"', "é€", '"}'];
  for (const [i, part] of parts.entries()) {
    const fin = i === parts.length - 1 ? 0x80 : 0;
    await raw.frame(part, { head: fin | (i === 0 ? 1 : 0) });
    await raw.frame("", { head: 0x89 });
  }
  await until(() => seen.length === 1);
  assertEquals(seen, ["é€"]);
});

Deno.test("Server drops a peer that violates the framing, and continues to serve", async () => {
  await using server = listen({ onMessage: pong });
  const cases: [what: string, bytes: Uint8Array][] = [
    ["invalid UTF-8", frameOf(new Uint8Array([0x22, 0xff, 0xfe, 0x22]))],
    ["no mask", frameOf('{"topic":"a"}', { masked: false })],
    ["a reserved bit", frameOf("{}", { head: 0xf1 })],
    ["a reserved opcode", frameOf("{}", { head: 0x83 })],
    ["a continuation without a message", frameOf("{}", { head: 0x80 })],
    ["a ping of 126 bytes", frameOf(new Uint8Array(126), { head: 0x89 })],
    ["a close of one byte", frameOf(new Uint8Array(1), { head: 0x88 })],
    ["noise", crypto.getRandomValues(new Uint8Array(512)).fill(0xff, 0, 4)],
  ];
  for (const [what, bytes] of cases) {
    using raw = await RawSocket.open(portOf(server), { protocol: "skein.1" });
    await until(() => server.manager.count === 1);
    await raw.write(bytes).catch(() => {});
    raw.conn.closeWrite().catch(() => {});
    await raw.closed();
    await until(() => server.manager.count === 0).catch(() => assert(false, what));
  }
  await assertWell(server);
});

Deno.test("Server closes with 4413 on a frame of a megabyte", async () => {
  await using server = listen({ onMessage: pong });
  const texts = ["x".repeat(1_000_000), `{"topic":"a","data":"${"y".repeat(1_000_000)}"}`];
  for (const payload of [...texts, "\n".repeat(1_000_000), new Uint8Array(1_000_000)]) {
    using raw = await RawSocket.open(portOf(server), { protocol: "skein.1" });
    const head = typeof payload === "string" ? 0x81 : 0x82;
    if (typeof payload !== "string") payload.set([0x40, 0x53]);
    await raw.frame(payload, { head });
    assertEquals((await raw.closed())?.code, 4413);
  }
  await assertWell(server);
});

slowTest("Server handles a hundred thousand tiny frames, in order", async () => {
  let count = 0;
  let isOrdered = true;
  await using server = listen({
    onMessage: (message) => {
      if (message.isRequest) return message.reply("pong");
      isOrdered &&= message.data === count++;
    },
  });
  using raw = await RawSocket.open(portOf(server));
  for (let i = 0; i < 100; i++) {
    const frames = Array.from(
      { length: 1_000 },
      (_, j) => frameOf(`{"topic":"a","data":${i * 1_000 + j}}`),
    );
    await raw.write(new Uint8Array(await new Blob(frames as BlobPart[]).arrayBuffer()));
  }
  await until(() => count === 100_000);
  assert(isOrdered);
  await assertWell(server);
});

Deno.test("Server closes with 4400 after sixteen invalid frames", async () => {
  const closed = Promise.withResolvers<[code: number, invalid: number]>();
  await using server = listen({
    onMessage: pong,
    onClose: ({ stats }, { code }) => closed.resolve([code, stats.invalidMessages]),
  });
  using raw = await RawSocket.open(portOf(server));
  const frames = Array.from({ length: 1_000 }, () => frameOf("nonsense"));
  await raw.write(new Uint8Array(await new Blob(frames as BlobPart[]).arrayBuffer()));
  assertEquals(await soon(closed.promise), [4400, 16]);
  raw[Symbol.dispose]();
  await assertWell(server);
});

Deno.test("Server survives malicious envelopes", async () => {
  await using server = listen({ onMessage: pong, authorize: () => true });
  const trap = '{"toString":1,"valueOf":1}';
  const traps = [
    `{"reply":1,"error":{"code":"x","message":${trap}}}`,
    `{"goaway":{"retryAfterMs":1,"reason":${trap}}}`,
    `{"topic":{"constructor":{"name":${trap}}}}`,
    `{"__proto__":1,"constructor":1,"topic":"hasOwnProperty","data":{"__proto__":{"a":1}}}`,
    `{"subscribe":"__proto__","id":1}`,
    `{"publish":"constructor","data":${trap},"id":2}`,
    `{"topic":"a","data":${"[".repeat(100_000)}${"]".repeat(100_000)}}`,
    `{"cancel":9007199254740991}`,
    `{"ping":9007199254740991}`,
    `{"dropped":9007199254740991}`,
    `{"auth":"","id":3}`,
  ];
  using raw = await RawSocket.open(portOf(server), { protocol: "skein.1" });
  for (const text of traps) await raw.frame(text);
  await raw.frame('{"topic":"ping","id":99}');
  await until(() => server.manager.all()[0]?.stats.receivedMessages === 3);
  await assertWell(server);
  assertEquals(server.manager.count, 1);
});

Deno.test("Server rejects a publication that JSON cannot encode, and reports no failed handler", async () => {
  const faults: unknown[] = [];
  await using server = testServer({
    authorize: () => true,
    onError: (error) => void faults.push(error),
  });
  const peer = new Peer(await server.open());
  await peer.reach(1);
  // The JSON parser reads this number as Infinity.
  peer.say('{"publish":"news","data":[1e999],"id":1}');
  peer.say('{"publish":"news","data":1e999}');
  await turns();
  const codes = peer.envelopes.slice(1).map(({ error }) => (error as { code: string }).code);
  assertEquals({ codes, faults, count: server.manager.count }, {
    codes: ["malformed", "malformed"],
    faults: [],
    count: 1,
  });
});

Deno.test("Server reports no failed handler if a session closes before a publication to it", async () => {
  const faults: unknown[] = [];
  const gate = Promise.withResolvers<boolean>();
  const server = testServer({
    authorize: () => gate.promise,
    onError: (error) => void faults.push(error),
  });
  const peer = new Peer(await server.open());
  peer.say({ publish: "news", data: 1, id: 1 });
  await turns();
  await server.close();
  gate.resolve(true);
  await turns();
  assertEquals(faults, []);
});

for (const policy of ["close", "drop-oldest", "drop-newest", "latest"] as OverflowPolicy[]) {
  Deno.test(`Server releases a peer that never reads, with the policy ${policy}`, async () => {
    const closed = Promise.withResolvers<Session>();
    await using server = listen({
      session: { sendQueue: { policy }, closeTimeoutMs: 200 },
      rooms: ["room:{name}"],
      presence: { graceMs: 0 },
      userOf: () => "ann",
      authenticate: () => 1,
      onOpen: (session) => {
        server.subscribe(session, "news");
        server.rooms.join(session as Session, "room:a");
      },
      onClose: (session) => closed.resolve(session as Session),
    });
    using raw = await RawSocket.open(portOf(server), { protocol: "skein.1" });
    await until(() => server.manager.count === 1);
    const [session] = server.manager.sessionsOf("ann");
    const data = "x".repeat(10_000);
    let sent = 0;
    let most = 0;
    while (session!.isReady && session!.stats.droppedMessages === 0) {
      server.publish("news", data);
      if (++sent % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
      most = Math.max(most, session!.connection.frames!.bufferedAmount);
      assert(sent < 20_000, "the server must notice a peer that reads nothing");
    }
    assert(most < 65_536 * 2 + 262_144, `${most} bytes passed to the runtime`);
    assert(session!.stats.queuedBytes <= 1_100_000);
    if (policy !== "close") void session!.close({ code: 4000 });
    const { code } = await endOf(session as Session);
    assertEquals(code, policy === "close" ? 4507 : 4000);
    await soon(closed.promise);
    assertEquals({
      count: server.manager.count,
      topics: server.topics.size,
      sessionsOfAnn: server.manager.sessionsOf("ann"),
    }, { count: 0, topics: 0, sessionsOfAnn: [] });
    await until(() => server.presence.members("room:a").length === 0);
    // Reads until the close, because the runtime's own close waits until the close frame is
    // written.
    await raw.closed();
    raw[Symbol.dispose]();
    // The runtime then closes its end.
    await until(() => server.manager.stats().sockets.open === 0);
  });
}

Deno.test("Server does not subscribe a session that closes before authorize decides", async () => {
  const gate = Promise.withResolvers<boolean>();
  await using server = listen({
    onMessage: pong,
    rooms: ["room:{name}"],
    authorize: () => gate.promise,
  });
  for (const topic of ["news", "room:a"]) {
    const raw = await RawSocket.open(portOf(server), { protocol: "skein.1" });
    await until(() => server.manager.count > 0);
    const [session] = server.manager.all();
    await raw.frame(JSON.stringify({ subscribe: topic, id: 1 }));
    await until(() => session!.stats.receivedBytes > 0);
    raw[Symbol.dispose]();
    await soon(session!.closed);
  }
  gate.resolve(true);
  await assertWell(server);
  assertEquals([server.topics.size, server.presence.members("room:a")], [0, []]);
});

Deno.test("connect() and dial() reject a runtime that is too old, and name the missing globals", async () => {
  const { performance } = globalThis;
  const { withResolvers } = Promise;
  const url = "ws://127.0.0.1:9";
  let dialed: Promise<unknown>;
  try {
    Object.assign(globalThis, { performance: undefined });
    Object.assign(Promise, { withResolvers: undefined });
    dialed = assertRejects(
      () => dial(url),
      UnsupportedError,
      "no Promise.withResolvers, performance.now",
    );
    assertThrows(() => connect(url), UnsupportedError, "no Promise.withResolvers, performance.now");
  } finally {
    Object.assign(globalThis, { performance });
    Object.assign(Promise, { withResolvers });
  }
  await dialed;
});
