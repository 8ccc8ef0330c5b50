import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { endOf, ends, serverByHand } from "../tests/sessions.ts";
import { turns } from "../tests/waiting.ts";

Deno.test("Session.drain() waits for handlers and replies, then closes with 4503", async () => {
  const gate = Promise.withResolvers<void>();
  await using both = await ends({
    onMessage: async (message) => {
      await gate.promise;
      message.reply("done");
    },
  });
  const asking = both.client.request("ask");
  await turns();
  const draining = both.server.drain({ reason: "New version" });
  const again = both.server.drain({ code: 4000 });
  await turns();
  assertEquals([both.server.state, both.server.isReady], ["draining", true]);
  both.server.send("still");
  gate.resolve();
  assertEquals(await asking, "done");
  assertEquals(await draining, { code: 4503, reason: "New version", by: "local" });
  assertStrictEquals(await again, await draining);
  assertEquals((await endOf(both.client)).code, 4503);
});

Deno.test("Session.drain() closes after withinMs, or when close() is called", async () => {
  using time = new FakeTime();
  const never = () => new Promise<void>(() => {});
  await using slow = serverByHand({ onMessage: never });
  await using cut = serverByHand({ onMessage: never });
  for (const hand of [slow, cut]) hand.peer.say({ topic: "a" });
  await turns();
  const draining = slow.session.drain({ withinMs: 1_000 });
  const other = cut.session.drain();
  assertEquals((await cut.session.close({ code: 4009 })).code, 4009);
  assertEquals((await other).code, 4009);
  await time.tickAsync(999);
  assertEquals(slow.session.isClosed, false);
  await time.tickAsync(1);
  assertEquals((await draining).code, 4503);
});

Deno.test("Session.drain() waits no longer for a request that the peer cancels", async () => {
  using _time = new FakeTime();
  await using hand = serverByHand({ requests: { never: () => new ReadableStream() } });
  const { peer, session } = hand;
  await peer.reach(1);
  peer.say({ topic: "never", id: 1 });
  await turns();
  let isOver = false;
  const draining = session.drain().finally(() => isOver = true);
  await turns();
  assertEquals(isOver, false);
  peer.say({ cancel: 1 });
  await turns();
  assertEquals(isOver, true);
  await draining;
});

Deno.test("Session.drain() sends a client a delay, and a server nothing", async () => {
  const heard: unknown[] = [];
  await using both = await ends({}, { onGoAway: (goaway) => void heard.push(goaway) });
  await both.server.drain({ retryAfterMs: 700, reason: "soon" });
  await turns();
  assertEquals(heard, [{ retryAfterMs: 700, reason: "soon" }]);
  await using other = await ends();
  assertEquals(await other.client.drain({ retryAfterMs: 1 }), { code: 0, reason: "", by: "local" });
  assertEquals(other.server.stats.receivedMessages + other.server.stats.invalidMessages, 0);
});

Deno.test("Session.drain() and Session.goAway() reject a delay that a client could not read", async () => {
  await using both = await ends();
  for (const retryAfterMs of [0.5, -1, NaN, Infinity]) {
    const rule = `retryAfterMs must be an integer of 0 or more, received ${retryAfterMs}`;
    await assertRejects(() => both.server.drain({ retryAfterMs }), RangeError, rule);
    assertThrows(() => both.server.goAway({ retryAfterMs, reason: "" }), RangeError, rule);
  }
  assertEquals(both.server.state, "connected");
});

Deno.test("Session.close() during handlers and sends loses no earlier message", async () => {
  const counts = { server: 0, client: 0 };
  await using both = await ends(
    { onMessage: () => void counts.server++ },
    { onMessage: () => void counts.client++ },
  );
  for (let round = 0; round < 50; round++) {
    for (let i = 0; i < 20; i++) {
      both.server.send("a", i);
      both.client.send("b", i);
    }
    if (round % 10 === 0) await turns(1);
  }
  await both.client.close();
  await turns();
  assertEquals(counts.server, 1_000);
  assert(counts.client >= 800);
});
