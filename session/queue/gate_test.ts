import { platformRuntime } from "../../base/runtime.ts";
import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Peer } from "../../tests/sessions.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import type { Contract } from "../contract.ts";
import { RequestService } from "../serving/requests.ts";
import { internals, Session } from "../session.ts";
import { type SessionSettingsOptions, settingsWith } from "../settings/session_settings.ts";
import { turns } from "../../tests/waiting.ts";

/** A session with a short queue on a connection that reports reads, and its peer. */
function paused(options: Partial<SessionSettingsOptions<unknown, Contract, "server">>) {
  const pair = memoryPair({ protocol: "skein.1", streams: false, datagrams: false });
  const wire = { isPaused: false };
  Object.defineProperty(pair.server.frames!, "isPaused", { get: () => wire.isPaused });
  const settings = settingsWith({}, {
    side: "server",
    heartbeat: { intervalMs: 1_000, timeoutMs: 2_000 },
    receiveQueue: { maxMessages: 4 },
    ...options,
  });
  settings.services = new RequestService(platformRuntime(), {});
  const peer = new Peer(pair.client);
  const session = new Session(pair.server, settings, {});
  const send = async (count: number) => {
    for (let i = 0; i < count; i++) pair.client.frames!.send('{"topic":"t"}');
    await turns();
  };
  return { peer, session, core: session[internals], send, wire };
}

Deno.test("Session does not count as dead while its connection is paused, only afterwards", async () => {
  using time = new FakeTime();
  const { session, wire } = paused({});
  await session.ready;
  wire.isPaused = true;
  await time.tickAsync(10_000);
  assertEquals(session.state, "connected");
  wire.isPaused = false;
  await time.tickAsync(4_000);
  assertEquals([session.state, (await session.closed).code], ["closed", 4408]);
});

Deno.test("Session of a server with a handler reports its fill level to the connection", async () => {
  const gate = Promise.withResolvers<void>();
  const { core, send, session } = paused({ onMessage: () => gate.promise });
  await session.ready;
  await send(3);
  assertEquals(core.receiving.backpressure!.fill, 2 / 4);
  const changed = core.receiving.backpressure!.changed();
  gate.resolve();
  await changed;
  while (core.receiving.backpressure!.fill > 0) await core.receiving.backpressure!.changed();
  await session.close();
});

Deno.test("Session reports its fill level by the limit of its receive queue that is closer", async () => {
  const size = '{"topic":"t"}'.length;
  for (
    const [maxBytes, expected] of [[8 * size, 2 / 4], [4 * size, 2 / 4], [2 * size, 1]] as const
  ) {
    const gate = Promise.withResolvers<void>();
    const { core, send, session } = paused({
      receiveQueue: { maxMessages: 4, maxBytes },
      onMessage: () => gate.promise,
    });
    await session.ready;
    assertEquals(core.receiving.backpressure!.fill, 0);
    await send(3);
    assertEquals([session.stats.waitingMessages, core.receiving.backpressure!.fill], [2, expected]);
    gate.resolve();
    await session.close();
  }
});

Deno.test("Session without a reader does not pause its connection, but discards the oldest messages", async () => {
  const { core, send, session } = paused({});
  await session.ready;
  await send(10);
  assertEquals([core.receiving.backpressure!.fill, session.stats.unreadMessages], [0, 6]);
  await session.close();
});

Deno.test("Session with a pending request does not pause its connection, so that the reply can arrive", async () => {
  const { core, peer, send, session } = paused({
    onMessage: async (_message, session) => void await session.request("sum"),
  });
  await session.ready;
  await send(3);
  assertEquals([session.stats.waitingMessages, core.receiving.backpressure!.fill], [2, 0]);
  for (let id = 1; core.receiving.isIdle === false && id < 10; id++) {
    peer.connection.frames!.send(`{"reply":${id},"data":1}`);
    await turns();
  }
  assertEquals(session.stats.waitingMessages, 0);
  await session.close();
});
