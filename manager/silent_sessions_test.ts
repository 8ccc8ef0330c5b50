import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../base/runtime.ts";
import { internals, Session } from "../session/session.ts";
import { endSettings, Peer } from "../tests/sessions.ts";
import { turns } from "../tests/waiting.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { closeUnlessAlive, MAX_PINGED, silentSessions } from "./silent_sessions.ts";

const runtime = platformRuntime();

/** A session of a server, and its peer, which replies to no pings by itself. */
function served({ protocol = "skein.1" } = {}) {
  const pair = memoryPair({ protocol });
  const session = new Session(pair.server, endSettings("server", { onMessage() {} }));
  return { session, peer: protocol === "" ? undefined : new Peer(pair.client), pair };
}

Deno.test("silentSessions() lists sessions after 2 s of silence, the most silent first", async () => {
  using time = new FakeTime();
  const [a, b] = [served(), served()];
  const plain = served({ protocol: "" });
  const sessions = [b.session, a.session, plain.session];
  await time.tickAsync(3_000);
  b.peer!.say('{"topic":"x"}');
  await time.tickAsync(1_000);
  assertEquals(silentSessions(runtime, sessions), [a.session]);
  await time.tickAsync(1_000);
  assertEquals(silentSessions(runtime, sessions), [a.session, b.session]);
  const many = Array.from({ length: MAX_PINGED + 1 }, () => a.session);
  assertEquals(silentSessions(runtime, many).length, MAX_PINGED);
  await b.session.close();
  assertEquals(silentSessions(runtime, sessions), [a.session]);
  for (const { session } of [a, plain]) await session.close();
});

Deno.test("closeUnlessAlive() waits for 3 s or four round trips, but at most 10 s", async () => {
  for (
    const [roundTripMs, waitMs] of [[undefined, 3_000], [700, 3_000], [1_500, 6_000], [
      60_000,
      10_000,
    ]] as const
  ) {
    using time = new FakeTime();
    const { session } = served();
    session[internals].sending.roundTripMs = roundTripMs;
    let closed: number | undefined;
    void closeUnlessAlive(runtime, [session]).then((count) => closed = count);
    await time.tickAsync(waitMs - 1);
    assertEquals([session.isReady, closed], [true, undefined], `${roundTripMs}`);
    await time.tickAsync(1);
    await turns();
    assertEquals([session.isReady, closed], [false, 1]);
    const { code, by } = await session.closed;
    assertEquals([code, by], [4408, "network"]);
  }
});

Deno.test("closeUnlessAlive() keeps a session whose peer shows any sign of life", async () => {
  const signs: [what: string, act: (made: ReturnType<typeof served>) => unknown][] = [
    [
      "a pong",
      ({ peer }) => peer!.say({ pong: peer!.envelopes.findLast(({ ping }) => ping)!.ping }),
    ],
    ["a message", ({ peer }) => peer!.say('{"topic":"x"}')],
    ["bytes on a stream", async ({ pair }) => {
      const stream = await pair.client.createUnidirectionalStream();
      await stream.getWriter().write(new Uint8Array(1));
    }],
  ];
  for (const [what, act] of signs) {
    using time = new FakeTime();
    const made = served();
    const closing = closeUnlessAlive(runtime, [made.session]);
    await time.tickAsync(1_500);
    await act(made);
    await turns();
    await time.tickAsync(1_500);
    assertEquals([await closing, made.session.isReady], [0, true], what);
    await made.session.close();
  }
});

Deno.test("closeUnlessAlive() counts a session that closes during the wait", async () => {
  using _time = new FakeTime();
  const { session, peer } = served();
  const closing = closeUnlessAlive(runtime, [session]);
  peer!.connection.close();
  assertEquals(await closing, 1);
});
