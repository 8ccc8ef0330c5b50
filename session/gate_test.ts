import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Peer } from "../tests/sessions.ts";
import { memoryPair } from "../transport/memory.ts";
import type { FrameGate } from "../transport/connection.ts";
import { Session } from "./session.ts";
import { sessionSettings, type SessionSettingsOptions } from "./settings.ts";

/** A session on a wire that can stop reading, and its peer. */
function gated(options: Partial<SessionSettingsOptions<unknown, never, "server">>) {
  const calls: string[] = [];
  const pair = memoryPair({ protocol: "skein.1", streams: false, datagrams: false });
  const gate: FrameGate = {
    pause: () => void calls.push("pause"),
    resume: () => void calls.push("resume"),
  };
  Object.defineProperty(pair.server.frames!, "gate", { value: gate });
  const settings = sessionSettings({
    side: "server",
    heartbeat: { intervalMs: 1_000, timeoutMs: 2_000 },
    receiveQueue: { maxMessages: 4 },
    ...options,
  });
  const peer = new Peer(pair.client);
  const session = new Session(pair.server, settings, {});
  return { calls, peer, session };
}

Deno.test("Session stops the wire while its handler is behind, and its peer is not dead then", async () => {
  using time = new FakeTime();
  const gate = Promise.withResolvers<void>();
  const { calls, peer, session } = gated({ onMessage: () => gate.promise });
  await session.ready;
  for (let i = 0; i < 3; i++) peer.connection.frames!.send('{"topic":"t"}');
  await time.tickAsync(1);
  assertEquals(calls, ["pause"]);
  await time.tickAsync(10_000);
  assertEquals([session.state, calls], ["connected", ["pause"]]);
  gate.resolve();
  await time.tickAsync(1);
  assertEquals(calls, ["pause", "resume"]);
  // From now on it is read again, and has to answer.
  await time.tickAsync(4_000);
  assertEquals([session.state, (await session.closed).code], ["closed", 4408]);
});

Deno.test("Session that nobody reads does not stop the wire: the oldest are discarded", async () => {
  const { calls, peer, session } = gated({});
  await session.ready;
  for (let i = 0; i < 10; i++) peer.connection.frames!.send('{"topic":"t"}');
  while (session.stats.receivedMessages < 10) await new Promise((resolve) => setTimeout(resolve));
  assertEquals([calls, session.stats.unreadMessages], [[], 6]);
  for await (const _message of session) break;
  await session.close();
});
