import { assertEquals } from "@std/assert";
import { CloseCode } from "../errors.ts";
import { Session } from "../session/session.ts";
import { sessionSettings } from "../session/settings.ts";
import { type MemoryPair, memoryPair } from "../transport/memory.ts";
import { SessionManager } from "./session_manager.ts";

const settings = sessionSettings({ side: "server" });

/** A session with a plain peer, so that nothing but messages is counted. */
function join(manager: SessionManager): { session: Session; pair: MemoryPair } {
  const pair = memoryPair({ protocol: "" });
  const session = new Session(pair.server, settings);
  manager.add(session);
  return { session, pair };
}

Deno.test("SessionManager.stats() begins with nothing, and says what it does not count", () => {
  assertEquals(new SessionManager().stats(), {
    count: 0,
    states: { connecting: 0, connected: 0, draining: 0, closed: 0 },
    reserved: 0,
    peak: 0,
    created: 0,
    closed: 0,
    removed: 0,
    refused: { maxSessions: 0, maxSessionsPerUser: 0, maxSessionsPerAddress: 0, draining: 0 },
    closeCodes: {},
    otherCloseCodes: 0,
    users: 0,
    addresses: 0,
    sockets: { open: 0, lingering: 0, refused: 0 },
    messages: { sent: 0, received: 0, dropped: 0, queued: 0, waiting: 0 },
    bytes: { sent: 0, received: 0, queued: 0 },
    isDraining: false,
    streams: { available: false, reason: "Sessions do not count their streams yet" },
    datagrams: { available: false, reason: "Sessions do not count their datagrams yet" },
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

Deno.test("SessionManager.stats() keeps what closed and removed sessions counted", async () => {
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

Deno.test("SessionManager.stats() sums up what is queued and dropped", async () => {
  await using manager = new SessionManager();
  const limits = { maxMessages: 2, policy: "drop-oldest" } as const;
  const slow = sessionSettings({ side: "server", sendQueue: limits });
  for (let i = 0; i < 2; i++) {
    const pair = memoryPair({ protocol: "" });
    pair.link.stall();
    const session = new Session(pair.server, slow);
    manager.add(session);
    session.send("big", "x".repeat(200_000));
    slow.turn.flush();
    for (let n = 0; n < 5; n++) session.send("small", n);
  }
  const { messages, bytes } = manager.stats();
  assertEquals([messages.sent, messages.queued, messages.dropped], [2, 4, 6]);
  assertEquals(bytes.queued, 4 * `{"topic":"small","data":0}`.length);
  for (const session of manager.all()) session.connection.close();
});

Deno.test("SessionManager.stats() counts close codes, whoever closed", async () => {
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

Deno.test("SessionManager.stats() bounds the close codes that peers make up", async () => {
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

Deno.test("SessionManager.stats() fits into JSON and names nobody", async () => {
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
