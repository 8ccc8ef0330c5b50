import { assert, assertEquals } from "@std/assert";
import { CloseCode } from "../errors.ts";
import { Session } from "../session/session.ts";
import { turns } from "../tests/waiting.ts";
import { type MemoryPair, memoryPair } from "../transport/memory/memory.ts";
import { SessionManager } from "./session_manager.ts";
import { sessionSettings } from "../session/settings/session_settings.ts";

const settings = sessionSettings({ side: "server" });

/** A session with a plain peer, so that only messages are counted. */
function join(manager: SessionManager): { session: Session; pair: MemoryPair } {
  const pair = memoryPair({ protocol: "" });
  const session = new Session(pair.server, settings);
  manager.add(session);
  return { session, pair };
}

Deno.test("SessionManager.stats() starts with zeros", () => {
  assertEquals(new SessionManager().stats(), {
    count: 0,
    states: { connecting: 0, connected: 0, draining: 0, closed: 0 },
    reserved: 0,
    peak: 0,
    created: 0,
    closed: 0,
    removed: 0,
    rejected: { maxSessions: 0, maxSessionsPerUser: 0, maxSessionsPerAddress: 0, draining: 0 },
    closeCodes: {},
    otherCloseCodes: 0,
    users: 0,
    addresses: 0,
    sockets: { open: 0, lingering: 0, rejected: 0 },
    unreadStreams: {
      count: 0,
      bytes: 0,
      rejected: { timeout: 0, session: 0, connection: 0, address: 0, server: 0 },
    },
    rates: {
      rejected: { session: 0, user: 0, address: 0 },
      rejectedConnections: { user: 0, address: 0 },
      closed: 0,
      remembered: 0,
      brokerFailures: 0,
    },
    messages: { sent: 0, received: 0, dropped: 0, queued: 0, waiting: 0 },
    bytes: { sent: 0, received: 0, queued: 0 },
    isDraining: false,
    streams: {
      created: 0,
      closed: 0,
      active: 0,
      errors: 0,
      bidirectional: 0,
      unidirectional: 0,
      bytesSent: 0,
      bytesReceived: 0,
    },
    datagrams: { sent: 0, received: 0, dropped: 0, bytesSent: 0, bytesReceived: 0 },
    credit: { waiting: 0, exhausted: 0 },
  });
});

Deno.test("SessionManager.stats() counts sessions by state, and the peak", async () => {
  await using manager = new SessionManager();
  const { session } = join(manager);
  const leaving = join(manager);
  join(manager);
  await session.close();
  leaving.pair.link.stall();
  leaving.session.send("waits", "x".repeat(200_000));
  leaving.session.send("waits", "y");
  const closing = leaving.session.close();
  const { count, states, peak, created, closed } = manager.stats();
  assertEquals({ count, peak, created, closed }, { count: 2, peak: 3, created: 3, closed: 1 });
  assertEquals(states, { connecting: 0, connected: 1, draining: 1, closed: 0 });
  leaving.pair.link.resume();
  await closing;
});

Deno.test("SessionManager.stats() keeps the counters of closed and removed sessions", async () => {
  await using manager = new SessionManager();
  const text = `{"topic":"a","data":"hello"}`;
  for (const end of ["close", "remove", "stay"]) {
    const { session, pair } = join(manager);
    session.send("a", "hello");
    await session.flushed();
    pair.client.frames?.send(text);
    await Promise.resolve();
    if (end === "close") await session.close();
    if (end === "remove") await manager.remove(session.id)?.close();
  }
  const { messages, bytes } = manager.stats();
  assertEquals(messages, { sent: 3, received: 3, dropped: 0, queued: 0, waiting: 1 });
  assertEquals(bytes, { sent: 3 * text.length, received: 3 * text.length, queued: 0 });
});

Deno.test("SessionManager.stats() sums up queued and dropped messages", async () => {
  await using manager = new SessionManager();
  const limits = { maxMessages: 2, policy: "drop-oldest" } as const;
  const slow = sessionSettings({ side: "server", sendQueue: limits });
  for (let i = 0; i < 2; i++) {
    const pair = memoryPair({ protocol: "" });
    pair.link.stall();
    const session = new Session(pair.server, slow);
    manager.add(session);
    session.send("big", "x".repeat(200_000));
    slow.flusher.flush();
    for (let n = 0; n < 5; n++) session.send("small", n);
  }
  const { messages, bytes } = manager.stats();
  assertEquals({ sent: messages.sent, queued: messages.queued, dropped: messages.dropped }, {
    sent: 2,
    queued: 4,
    dropped: 6,
  });
  assertEquals(bytes.queued, 4 * `{"topic":"small","data":0}`.length);
  for (const session of manager.all()) session.connection.close();
});

Deno.test("SessionManager.stats() counts close codes from either side", async () => {
  await using manager = new SessionManager();
  await join(manager).session.close();
  await join(manager).session.close({ code: 4401 });
  const left = join(manager);
  left.pair.client.close({ closeCode: 4401 });
  await left.session.closed;
  const broken = join(manager);
  broken.pair.link.disconnect();
  await broken.session.closed;
  await Promise.resolve();
  const { closeCodes, closed } = manager.stats();
  assertEquals(closeCodes, { 0: 1, 1006: 1, 4401: 2 });
  assertEquals(closed, 4);
});

Deno.test("SessionManager.stats() bounds the close codes that peers choose", async () => {
  await using manager = new SessionManager();
  for (let code = 3000; code < 3100; code++) await join(manager).session.close({ code });
  for (const code of [3000, 3099, CloseCode.draining, CloseCode.normal]) {
    await join(manager).session.close({ code });
  }
  await Promise.resolve();
  const { closeCodes, otherCloseCodes } = manager.stats();
  assertEquals(Object.keys(closeCodes).length, 64 + 2);
  assertEquals([closeCodes[3000], closeCodes[3063], closeCodes[3064]], [2, 1, undefined]);
  assertEquals([closeCodes[CloseCode.draining], closeCodes[CloseCode.normal]], [1, 1]);
  assertEquals(otherCloseCodes, 100 - 64 + 1);
});

Deno.test("SessionManager.stats() fits into JSON and names no user", async () => {
  await using manager = new SessionManager();
  const session = new Session(memoryPair().server, settings, {
    id: "secret-id",
    user: "secret-user",
    address: "203.0.113.7",
  });
  manager.add(session);
  const json = JSON.stringify(manager.stats());
  assertEquals(JSON.parse(json), manager.stats());
  for (const secret of ["secret", "203.0.113.7"]) assertEquals(json.includes(secret), false);
});

Deno.test("SessionManager.stats() sums up streams and datagrams, including those of closed sessions", async () => {
  await using manager = new SessionManager();
  const open: MemoryPair[] = [];
  for (const end of ["close", "remove", "stay"]) {
    const pair = memoryPair();
    open.push(pair);
    const session = new Session(pair.server, settings);
    manager.add(session);
    const near = await session.createBidirectionalStream();
    const far = await pair.client.createUnidirectionalStream();
    await near.writable.getWriter().write(new Uint8Array(5));
    const writer = far.getWriter();
    await writer.write(new Uint8Array(3));
    await writer.abort();
    await session.sendDatagram(new Uint8Array(2));
    await pair.client.datagrams.writable.getWriter().write(new Uint8Array(7));
    await turns();
    for await (const { readable } of session.incomingStreams()) {
      await Array.fromAsync(readable).catch(() => {});
      break;
    }
    if (end === "close") await session.close();
    if (end === "remove") assertEquals(manager.remove(session.id), session);
  }
  const { streams, datagrams, credit } = manager.stats();
  assertEquals(streams, {
    created: 6,
    closed: 4, // All of the closed session's, and one of each of the others.
    active: 1, // The removed session is no longer managed.
    errors: streams.errors,
    bidirectional: 3,
    unidirectional: 3,
    bytesSent: 15,
    bytesReceived: streams.bytesReceived,
  });
  assert(streams.errors >= 3 && streams.bytesReceived <= 9);
  assertEquals(datagrams, { sent: 3, received: 3, dropped: 0, bytesSent: 6, bytesReceived: 21 });
  assertEquals(credit, { waiting: 0, exhausted: 0 });
  for (const pair of open) pair.client.close();
});

Deno.test("SessionManager.stats() sums up writers that wait for credit", async () => {
  await using manager = new SessionManager();
  for (let i = 0; i < 3; i++) {
    const { session } = join(manager);
    const state = { granted: 10, received: 5 * i, allowed: 10, sent: 10, waiting: i };
    const credit = { state: () => state, grant() {} };
    Object.defineProperty(session.connection.inspect!, "credit", { value: credit });
  }
  assertEquals(manager.stats().credit, { waiting: 3 * (0 + 1 + 2), exhausted: 1 });
});

Deno.test("SessionManager.stats() counts a session once that was removed and added again", async () => {
  await using manager = new SessionManager();
  const { session } = join(manager);
  const sent = () => manager.stats().messages.sent;
  session.send("one");
  await session.flushed();
  for (let round = 0; round < 3; round++) {
    assertEquals(manager.remove(session.id), session);
    assertEquals(sent(), 1);
    manager.add(session);
    assertEquals(sent(), 1);
  }
  manager.remove(session.id);
  session.send("two, while not counted");
  await session.flushed();
  manager.add(session);
  assertEquals(sent(), 2);
  await session.close();
  assertEquals(sent(), 2);
  const { created, closed, removed, count } = manager.stats();
  assertEquals({ created, closed, removed, count }, {
    created: 5,
    closed: 1,
    removed: 4,
    count: 0,
  });
});

Deno.test("SessionManager.stats() sums up the statistics of its sessions", async () => {
  await using manager = new SessionManager();
  const { client, server } = memoryPair();
  const far = new Session(client, sessionSettings({ side: "client" }));
  const near = new Session(server, settings);
  manager.add(near);
  await far.ready;
  near.send("one");
  far.send("two");
  await far.sendDatagram(new Uint8Array(7));
  await near.sendDatagram(new Uint8Array(3));
  const writer = (await far.createUnidirectionalStream()).getWriter();
  await writer.write(new Uint8Array(5));
  await writer.close();
  await near.createBidirectionalStream();
  await turns();
  const check = () => {
    const { stats } = near;
    const { messages, bytes, streams, datagrams } = manager.stats();
    assertEquals({ sent: messages.sent, received: messages.received, waiting: messages.waiting }, {
      sent: stats.sentMessages,
      received: stats.receivedMessages,
      waiting: manager.count * stats.waitingMessages,
    });
    assertEquals([bytes.sent, bytes.received], [stats.sentBytes, stats.receivedBytes]);
    assertEquals(streams, {
      created: stats.streamsCreated,
      closed: manager.count === 0 ? stats.streamsCreated : stats.streamsClosed,
      active: manager.count * stats.activeStreams,
      errors: stats.streamErrors,
      bidirectional: stats.bidirectionalStreams,
      unidirectional: stats.unidirectionalStreams,
      bytesSent: stats.streamBytesSent,
      bytesReceived: stats.streamBytesReceived,
    });
    assertEquals(datagrams, {
      sent: stats.datagramsSent,
      received: stats.datagramsReceived,
      dropped: stats.datagramsDropped,
      bytesSent: stats.datagramBytesSent,
      bytesReceived: stats.datagramBytesReceived,
    });
    return stats;
  };
  const { streamsCreated, datagramsSent, receivedMessages, sentMessages } = check();
  assert(streamsCreated === 2 && datagramsSent === 1 && receivedMessages > 0 && sentMessages > 0);
  await near.close();
  check();
  await far.closed;
});
