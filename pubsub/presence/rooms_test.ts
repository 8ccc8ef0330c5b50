import { assert, assertEquals, assertThrows } from "@std/assert";
import { QueueFullError } from "../../errors.ts";
import { MOVED } from "../../session/wire/recovery.ts";
import type { Peer } from "../peers_fixture.ts";
import { Bench, received } from "../rooms_fixture.ts";

Deno.test("Rooms.join() sends the joiner the members, and the others the joiner", async () => {
  await using bench = new Bench();
  const { rooms, peers, time } = bench;
  const [ada, bob] = await bench.connectAll("ada", "bob");
  assert(rooms.join(ada.session, "chat"));
  time.tick(5);
  assert(rooms.join(bob.session, "chat"));
  await peers.endTurn();
  assertEquals(ada.take(), [
    ["presence:chat", {
      type: "members",
      members: [{ user: "ada", connections: 1, joinedAt: 0 }],
    }],
    ["presence:chat", { type: "join", user: "bob", at: 5 }],
  ]);
  assertEquals(bob.take(), [
    ["presence:chat", {
      type: "members",
      members: [
        { user: "ada", connections: 1, joinedAt: 0 },
        { user: "bob", connections: 1, joinedAt: 5 },
      ],
    }],
  ]);
});

Deno.test("Rooms.join() loses and duplicates nothing among joins and messages of one turn", async () => {
  await using bench = new Bench();
  const { rooms, peers } = bench;
  const all = await bench.connectAll("a", "b", "c");
  for (const [i, { session }] of all.entries()) {
    rooms.publish("chat", i);
    rooms.join(session, "chat");
    rooms.publish("chat", `${i} is in`);
  }
  await peers.endTurn();
  assertEquals(all.map(received), [
    ["members a*1", "0 is in", 1, "join b", "1 is in", 2, "join c", "2 is in"],
    ["members a*1 b*1", "1 is in", 2, "join c", "2 is in"],
    ["members a*1 b*1 c*1", "2 is in"],
  ]);
});

Deno.test("Rooms.join() sends a list that is consistent with the joiner's next messages", async () => {
  // A member leaves, another returns and a third joins, before and after, in one turn.
  await using bench = new Bench({ graceMs: 0 });
  const { rooms, peers } = bench;
  const [one, two, three, late] = await bench.connectAll("one", "two", "three", "late");
  rooms.join(one.session, "chat");
  rooms.join(two.session, "chat");
  rooms.leave(one.session, "chat");
  rooms.join(late.session, "chat");
  rooms.leave(two.session, "chat");
  rooms.join(one.session, "chat");
  rooms.join(three.session, "chat");
  await peers.endTurn();
  assertEquals(received(late), [
    "members two*1 late*1",
    "leave two",
    "join one",
    "join three",
  ]);
});

Deno.test("Rooms.join() sends the list before publications of presence listeners", async () => {
  await using bench = new Bench({ graceMs: 0 });
  const { rooms, peers, presence } = bench;
  const [kicked, ada] = await bench.connectAll("kicked", "ada");
  rooms.join(kicked.session, "chat");
  presence.subscribe(({ type, user }) => {
    if (type !== "join" || user !== "ada") return;
    rooms.leave(kicked.session, "chat");
    rooms.publish("chat", "welcome");
  });
  rooms.join(ada.session, "chat");
  await peers.endTurn();
  const [first, ...rest] = received(ada);
  assertEquals(first, "members kicked*1 ada*1");
  assertEquals(rest.filter((text) => text === "leave kicked").length, 1);
  assert(rest.includes("welcome"));
  assert(!rest.includes("join ada"));
});

Deno.test("Rooms reports no join for a second tab, and a leave only for the last tab", async () => {
  await using bench = new Bench({ graceMs: 0 });
  const { rooms, peers } = bench;
  const [bob, tab1, tab2] = await bench.join("chat", "bob", "ada", "ada");
  await peers.endTurn();
  assertEquals(received(bob), ["members bob*1", "join ada", "connections ada*2"]);
  assertEquals(received(tab2), ["members bob*1 ada*2"]);
  assert(rooms.leave(tab1.session, "chat"));
  await peers.endTurn();
  assertEquals(received(bob), ["connections ada*1"]);
  assertEquals(rooms.members("chat").map(({ user }) => user), ["bob", "ada"]);
  rooms.leave(tab2.session, "chat");
  await peers.endTurn();
  assertEquals(received(bob), ["leave ada"]);
});

Deno.test("Rooms reports a leave after the grace period, with the time when the user was last seen", async () => {
  await using bench = new Bench();
  const { rooms, peers, time } = bench;
  const [bob, ada] = await bench.join("chat", "bob", "ada");
  await peers.endTurn();
  bob.take();
  time.tick(100);
  void ada.session.close();
  await peers.endTurn();
  time.tick(999);
  await peers.endTurn();
  assertEquals(bob.take(), []);
  time.tick(1);
  await peers.endTurn();
  const notice = { type: "leave", user: "ada", at: 1_100, lastSeenAt: 100 };
  assertEquals(bob.take(), [["presence:chat", notice]]);
  assertEquals(rooms.roomsOf(ada.session), []);
});

Deno.test("Rooms reports a leave immediately if the user's last session unsubscribes, from either side", async () => {
  const ways = {
    "Rooms.leave()": (bench: Bench, peer: Peer) => bench.rooms.leave(peer.session, "chat"),
    "a request of the client": (bench: Bench, peer: Peer) =>
      bench.topics.leave(peer.session, "chat"),
    "a ban": (bench: Bench, peer: Peer) =>
      bench.topics.unsubscribe(peer.session, "chat", { code: "banned" }),
  };
  for (const [way, leave] of Object.entries(ways)) {
    await using bench = new Bench({ graceMs: 60_000 });
    const [ann, tab1, tab2] = await bench.connectAll("ann", "bob", "bob");
    for (const { session } of [ann, tab1, tab2]) bench.rooms.join(session, "chat");
    await bench.pass(100);
    received(ann);
    leave(bench, tab1);
    await bench.pass(100);
    assertEquals(received(ann), ["connections bob*1"], way);
    leave(bench, tab2);
    await bench.pass(0);
    assertEquals(received(ann), ["leave bob"], way);
    assertEquals(bench.presence.isOnline("bob"), true, "still online");
  }
});

Deno.test("Rooms keeps the user of a session that moves or closes for the grace period", async () => {
  const ways = {
    move: (bench: Bench, peer: Peer) =>
      bench.topics.unsubscribe(peer.session, "chat", { code: MOVED }),
    close: (_bench: Bench, peer: Peer) => peer.session.close(),
  };
  for (const [way, leave] of Object.entries(ways)) {
    await using bench = new Bench({ graceMs: 1_000 });
    const [ann, bob] = await bench.connectAll("ann", "bob");
    for (const { session } of [ann, bob]) bench.rooms.join(session, "chat");
    await bench.pass(100);
    received(ann);
    void leave(bench, bob);
    await bench.pass(0);
    await bench.pass(900);
    assertEquals(received(ann), [], way);
    await bench.pass(100);
    assertEquals(received(ann), ["leave bob"], way);
  }
});

Deno.test("Rooms reports neither leave nor join when a user returns within the grace period", async () => {
  await using bench = new Bench();
  const { rooms, peers, time } = bench;
  const [bob, before, after, carol] = await bench.connectAll("bob", "ada", "ada", "carol");
  rooms.join(bob.session, "chat");
  rooms.join(before.session, "chat");
  before.pair.link.disconnect();
  await peers.endTurn();
  assert(before.session.isClosed);
  time.tick(500);
  rooms.join(carol.session, "chat");
  rooms.join(after.session, "chat");
  time.tick(5_000);
  await peers.endTurn();
  assertEquals(received(bob), ["members bob*1", "join ada", "join carol"]);
  assertEquals(received(carol), ["members bob*1 ada*1 carol*1"]);
  assertEquals(received(after), ["members bob*1 ada*1 carol*1"]);
});

Deno.test("Rooms.leave() stops messages and notices, and sends the leaving session none", async () => {
  await using bench = new Bench({ graceMs: 0 });
  const { rooms, peers, topics } = bench;
  const [bob, ada] = await bench.join("chat", "bob", "ada");
  rooms.publish("chat", "before");
  assert(rooms.leave(ada.session, "chat"));
  assert(!rooms.leave(ada.session, "chat"));
  assert(!rooms.leave(ada.session, "other"));
  rooms.publish("chat", "after");
  await peers.endTurn();
  assertEquals(received(ada), ["members bob*1 ada*1", "before", "off chat"]);
  assertEquals(received(bob).slice(1), ["join ada", "before", "leave ada", "after"]);
  assertEquals([topics.topicsOf(ada.session), rooms.isMember(ada.session, "chat")], [[], false]);
});

Deno.test("Rooms.join() is idempotent, and possible again after a leave", async () => {
  await using bench = new Bench({ graceMs: 0 });
  const { rooms, peers } = bench;
  const ada = await bench.connect("ada");
  rooms.join(ada.session, "chat");
  assert(!rooms.join(ada.session, "chat"));
  rooms.leave(ada.session, "chat");
  assert(rooms.join(ada.session, "chat"));
  await peers.endTurn();
  assertEquals(received(ada), ["members ada*1", "off chat", "members ada*1"]);
});

Deno.test("Rooms.publish() leaves one session out", async () => {
  await using bench = new Bench();
  const { rooms, peers } = bench;
  const [ada, bob] = await bench.join("chat", "ada", "bob");
  rooms.publish("chat", "hello", { except: ada.session });
  await peers.endTurn();
  assertEquals([received(ada).includes("hello"), received(bob).includes("hello")], [false, true]);
});

Deno.test("Rooms keeps rooms apart, and lists them", async () => {
  await using bench = new Bench({ graceMs: 0 });
  const { rooms, peers, presence } = bench;
  const [ada, bob] = await bench.connectAll("ada", "bob");
  rooms.join(ada.session, "one");
  rooms.join(ada.session, "two");
  rooms.join(bob.session, "two");
  presence.enter(bob.session, "no room");
  assertEquals(rooms.roomsOf(ada.session), ["one", "two"]);
  assertEquals([rooms.isMember(bob.session, "one"), rooms.isMember(bob.session, "two")], [
    false,
    true,
  ]);
  assertEquals(rooms.members("one").map(({ user }) => user), ["ada"]);
  void bob.session.close();
  await peers.endTurn();
  assertEquals(received(ada), ["members ada*1", "members ada*1", "join bob", "leave bob"]);
});

Deno.test("Rooms notifies only members when one session ends in several rooms", async () => {
  await using bench = new Bench({ graceMs: 0 });
  const { rooms, peers } = bench;
  const [ada, bob] = await bench.connectAll("ada", "bob");
  for (const room of ["one", "two"]) {
    rooms.join(ada.session, room);
    rooms.join(bob.session, room);
  }
  await peers.endTurn();
  ada.take();
  bob.pair.link.disconnect();
  await peers.endTurn();
  assertEquals(ada.take().map((message) => (message as string[])[0]), [
    "presence:one",
    "presence:two",
  ]);
  assertEquals([rooms.roomsOf(bob.session), bench.topics.size], [[], 2]);
});

Deno.test("Rooms.join() ignores a session that is closed or closing", async () => {
  await using bench = new Bench();
  const { rooms, presence, topics } = bench;
  const ada = await bench.connect("ada");
  ada.pair.link.stall("to-client");
  ada.session.send("t", "x".repeat(100_000));
  const closing = ada.session.close();
  assert(!ada.session.isClosed);
  assert(!rooms.join(ada.session, "chat"));
  ada.pair.link.disconnect();
  await closing;
  assert(!rooms.join(ada.session, "chat"));
  assertEquals([presence.members("chat"), topics.size], [[], 0]);
});

Deno.test("Rooms.join() uses one topic, and leaves nothing behind if there is none left", async () => {
  await using bench = new Bench({ maxTopicsPerSession: 1 });
  const { rooms, topics, presence, peers } = bench;
  const ada = await bench.connect("ada");
  rooms.join(ada.session, "one");
  assertThrows(() => rooms.join(ada.session, "two"), QueueFullError, "at most 1 topics");
  await peers.endTurn();
  assertEquals(topics.topicsOf(ada.session), ["one"]);
  assertEquals([rooms.roomsOf(ada.session), presence.topicsOf("ada")], [["one"], ["one"]]);
  assertEquals(received(ada), ["members ada*1"]);
});

Deno.test("Rooms.join() of a session with a full queue has no effect", async () => {
  await using bench = new Bench({ graceMs: 0 });
  const { rooms, peers, topics, presence } = bench;
  const bob = await bench.connect("bob");
  const slow = await bench.connect("slow", { sendQueue: { maxMessages: 1 } });
  rooms.join(bob.session, "chat");
  slow.pair.link.stall("to-client");
  slow.session.send("t", "x".repeat(100_000));
  await peers.endTurn();
  slow.session.send("t", "full");
  assertThrows(() => rooms.join(slow.session, "chat"), QueueFullError, "the send queue is full");
  await peers.endTurn();
  assert(slow.session.isClosed);
  assertEquals(received(bob), ["members bob*1"]);
  assertEquals([topics.topicsOf(slow.session), presence.online()], [[], ["bob"]]);
});

Deno.test("Rooms rejects invalid room names", async () => {
  await using bench = new Bench();
  const { rooms } = bench;
  const { session } = await bench.connect("ada");
  for (
    const act of [(name: string) => rooms.join(session, name), (n: string) => rooms.publish(n)]
  ) {
    assertThrows(() => act(""), TypeError, "must be a non-empty string");
    assertThrows(() => act("presence:chat"), TypeError, 'must not start with "presence:"');
    assertThrows(() => act("x".repeat(247)), RangeError, "at most 246 bytes");
    assertThrows(() => act("é".repeat(124)), RangeError, "received 248");
    assertThrows(() => act("x".repeat(1_000)), RangeError, "received 1000");
  }
  assert(rooms.join(session, "é".repeat(123)));
});

Deno.test("Rooms accepts only shorter names if the topics do", async () => {
  await using bench = new Bench({ maxTopicBytes: 20 });
  assertThrows(() => bench.rooms.publish("x".repeat(12)), RangeError, "at most 11 bytes");
  bench.rooms.publish("x".repeat(11));
});

Deno.test("Rooms[Symbol.dispose]() stops the notices", async () => {
  await using bench = new Bench({ graceMs: 0 });
  const { rooms, peers } = bench;
  const [ada, bob] = await bench.join("chat", "ada", "bob");
  await peers.endTurn();
  ada.take();
  rooms[Symbol.dispose]();
  void bob.session.close();
  await peers.endTurn();
  assertEquals(received(ada), []);
});
