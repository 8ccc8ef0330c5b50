import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { clientByHand, ends, HELLO, PLAIN, serverByHand } from "../../tests/sessions.ts";
import { turns } from "../../tests/waiting.ts";

Deno.test("Session.stats has the times when the session started, was ready and closed", async () => {
  using time = new FakeTime(1_000);
  await using hand = clientByHand();
  const { session, peer } = hand;
  await time.tickAsync(5);
  const { createdAt, readyAt, closedAt, uptimeMs } = session.stats;
  assertEquals({ createdAt, readyAt, closedAt, uptimeMs }, {
    createdAt: 1_000,
    readyAt: undefined,
    closedAt: undefined,
    uptimeMs: 0,
  });
  peer.say(HELLO);
  await turns();
  await time.tickAsync(20);
  assertEquals([session.stats.readyAt, session.stats.uptimeMs], [1_005, 20]);
  peer.connection.close();
  await session.closed;
  await time.tickAsync(60_000);
  assertEquals([session.stats.closedAt, session.stats.uptimeMs], [1_025, 20]);
});

Deno.test("Session.stats has no uptime for a session that was never established", async () => {
  await using hand = clientByHand();
  hand.peer.connection.close();
  await hand.session.closed;
  const { readyAt, closedAt, uptimeMs } = hand.session.stats;
  assertEquals({ readyAt, uptimeMs, hasClosed: closedAt !== undefined }, {
    readyAt: undefined,
    uptimeMs: 0,
    hasClosed: true,
  });
});

Deno.test("Session.stats.toJSON() has all counters, and is valid JSON", async () => {
  using _time = new FakeTime();
  await using both = await ends();
  await both.client.createBidirectionalStream();
  const { stats } = both.client;
  const plain = stats.toJSON();
  assertEquals(Object.getPrototypeOf(plain), Object.prototype);
  assertEquals({ ...stats }, plain);
  assertEquals([plain.streamsCreated, plain.activeStreams], [1, 1]);
  const { closedAt, ...there } = plain;
  assertEquals([JSON.parse(JSON.stringify(stats)), closedAt], [there, undefined]);
  assertEquals(structuredClone(plain), plain);
});

Deno.test("Session.stats does not change by being read", async () => {
  using _time = new FakeTime();
  await using hand = serverByHand({}, { wire: PLAIN });
  const { connection } = hand.session;
  const read: string[] = [];
  const streams = ["datagrams", "incomingBidirectionalStreams", "incomingUnidirectionalStreams"];
  for (const name of streams) {
    Object.defineProperty(connection, name, { get: () => read.push(name) });
  }
  const first = hand.session.stats;
  assertEquals(hand.session.stats, first);
  assertEquals(read, []);
});
