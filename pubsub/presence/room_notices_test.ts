import { assert, assertEquals, assertThrows } from "@std/assert";
import { Bench, received } from "../rooms_fixture.ts";
import { updateMembers } from "../../session/wire/member_list.ts";
import type { PresenceMember, PresenceNotice } from "../../session/wire/presence_notice.ts";
import type { Peer } from "../peers_fixture.ts";
import { type RoomOptions, Rooms } from "./rooms.ts";

const SMALL: RoomOptions = { gatherAbove: 2, gatherMs: 1_000 };

/** A bench whose rooms gather changes above two users. */
function largeRooms(options: RoomOptions = SMALL): Bench {
  return new Bench({ graceMs: 0, patterns: { "{room}": options } });
}

Deno.test("Rooms gathers the changes of a large room, reduced to their net effect", async () => {
  await using bench = largeRooms();
  const [a] = await bench.join("chat", "a", "b", "c", "d");
  await bench.pass(0);
  assertEquals(received(a!), ["members a*1", "join b", "changes +c d -"]);
  const [e, f] = await bench.join("chat", "e", "f");
  bench.rooms.leave(e!.session, "chat");
  await bench.pass(999);
  assertEquals([received(a!), received(f!)], [[], []]);
  await bench.pass(1);
  assertEquals(received(a!), ["changes +f -"]);
  assertEquals(received(f!), ["members a*1 b*1 c*1 d*1 f*1"]);
  assertEquals(received(e!), ["off chat"]);
});

Deno.test("Rooms reports only the connections of a user who leaves a large room and returns before the next notice", async () => {
  await using bench = largeRooms();
  const [a, b] = await bench.join("chat", "a", "b", "c", "d");
  await bench.pass(0);
  received(a!);
  bench.rooms.leave(b!.session, "chat");
  bench.rooms.join(b!.session, "chat");
  await bench.pass(1_000);
  assertEquals(received(a!), ["changes + - b*1"]);
  assertEquals(received(b!).slice(-2), ["off chat", "members a*1 c*1 d*1 b*1"]);
});

Deno.test("Rooms reports no data of a user who leaves a large room before the next notice", async () => {
  await using bench = largeRooms();
  const [a, b] = await bench.join("chat", "a", "b", "c", "d");
  await bench.pass(0);
  received(a!);
  bench.rooms.update(b!.session, "chat", { data: "away" });
  bench.rooms.leave(b!.session, "chat");
  await bench.pass(1_000);
  assertEquals(received(a!), ["changes + -b"]);
});

Deno.test("Rooms starts and stops gathering as a room grows and shrinks, in order", async () => {
  await using bench = largeRooms();
  const [a, b, c] = await bench.join("chat", "a", "b", "c");
  await bench.pass(0);
  await bench.pass(2_000);
  received(a!);
  bench.rooms.leave(c!.session, "chat");
  await bench.pass(0);
  assertEquals(received(a!), ["leave c"]);
  bench.rooms.leave(b!.session, "chat");
  bench.rooms.join(c!.session, "chat");
  await bench.pass(0);
  assertEquals(received(a!), ["leave b", "join c"]);
});

Deno.test("Rooms encodes the list of a large room once for all sessions that join meanwhile", async () => {
  await using bench = largeRooms();
  const first = await bench.join("chat", "a", "b", "c");
  await bench.pass(0);
  for (const peer of first) received(peer);
  const { stringify } = JSON;
  let lists = 0;
  JSON.stringify = ((value: { data?: { type?: string } }) => {
    if (value?.data?.type === "members") lists++;
    return stringify(value);
  }) as typeof stringify;
  try {
    const late = await bench.join("chat", "d", "e", "f", "g");
    await bench.pass(1_000);
    for (const peer of late) assertEquals(received(peer), ["members a*1 b*1 c*1 d*1 e*1 f*1 g*1"]);
  } finally {
    JSON.stringify = stringify;
  }
  assertEquals(lists, 1);
});

Deno.test("Rooms sends a long list in parts, each half of the queue at most, and changes after it", async () => {
  await using bench = largeRooms();
  const sendQueue = { maxBytes: 2_000, maxMessages: 8 };
  const names = Array.from({ length: 60 }, (_, i) => `user-${i}`);
  for (const user of names) {
    const { session } = await bench.connect(user, { sendQueue });
    bench.rooms.join(session, "chat");
  }
  await bench.pass(2_000);
  const late = await bench.connect("late", { sendQueue });
  bench.rooms.join(late.session, "chat");
  for (let i = 0; i < 20; i++) await bench.pass(0);
  const frames = [...late.frames];
  const parts = received(late) as string[];
  assert(parts.length > 3);
  for (const frame of frames) assert((frame as string).length <= 1_000);
  assertEquals(parts.map((part) => part.split(" ").slice(0, 2).join(" ")), [
    ...parts.slice(1).map((_, i) => `members ${i}+`),
    `members ${parts.length - 1}.`,
  ]);
  const users = parts.flatMap((part) => part.split(" ").slice(2));
  assertEquals(users, [...names, "late"].map((user) => `${user}*1`));
  const [next] = await bench.join("chat", "next");
  await bench.pass(1_000);
  assertEquals(received(late), ["changes +next -"]);
  assert(!next!.session.isClosed);
});

Deno.test("Rooms sends a new list to a session that is slower than the room's changes", async () => {
  await using bench = largeRooms();
  for (let i = 0; i < 60; i++) {
    const { session } = await bench.connect(`user-${i}`, { sendQueue: { maxBytes: 2_000 } });
    bench.rooms.join(session, "chat");
  }
  await bench.pass(2_000);
  const slow = await bench.connect("slow", { sendQueue: { maxBytes: 2_000 } });
  slow.pair.link.stall("to-client");
  // The connection accepts no more.
  slow.session.send("t", "x".repeat(70_000));
  await bench.peers.endTurn();
  bench.rooms.join(slow.session, "chat");
  for (let i = 0; i < 20; i++) {
    await bench.join("chat", `new-${i}`);
    await bench.pass(1_000);
  }
  assert(!slow.session.isClosed);
  slow.pair.link.resume("to-client");
  for (let i = 0; i < 200; i++) await bench.pass(100);
  const present = new Set<string>();
  let lists = 0;
  const came = slow.take().filter((one) => Array.isArray(one) && one[0] === "presence:chat");
  for (const [, data] of came as [string, PresenceNotice][]) {
    if (data.type === "members") {
      if (!data.page) {
        present.clear();
        lists++;
      }
      for (const { user } of data.members) present.add(user);
    } else if (data.type === "changes") { for (const { user } of data.joined) present.add(user); }
  }
  assertEquals([...present].sort(), bench.rooms.members("chat").map(({ user }) => user).sort());
  assertEquals(lists, 2);
});

Deno.test("Rooms sends only the number of members with members: count", async () => {
  await using bench = largeRooms({ members: "count", gatherMs: 500 });
  const [a, tab] = await bench.join("chat", "a", "a", "b");
  await bench.pass(0);
  assertEquals([received(a!), received(tab!)], [["count 2"], ["count 2"]]);
  const [c] = await bench.join("chat", "c");
  await bench.pass(499);
  assertEquals(received(a!), []);
  await bench.pass(1);
  assertEquals([received(a!), received(c!)], [["count 3"], ["count 3"]]);
  bench.rooms.leave(c!.session, "chat");
  await bench.join("chat", "d");
  await bench.pass(500);
  // Another user, and an unchanged count.
  assertEquals(received(a!), []);
});

Deno.test("Rooms forgets a session that leaves before its list, and leaves no timer running", async () => {
  await using bench = largeRooms();
  const peers = await bench.join("chat", "a", "b", "c", "d");
  for (const { session } of peers) bench.rooms.leave(session, "chat");
  await bench.pass(5_000);
  assertEquals(received(peers[3]!), ["off chat"]);
  assertEquals(bench.rooms.members("chat"), []);
  const [again] = await bench.join("chat", "a");
  await bench.pass(0);
  assertEquals(received(again!), ["members a*1"]);
});

Deno.test("Rooms() rejects invalid options", async () => {
  await using bench = new Bench();
  const { topics, presence } = bench;
  const make = (options: RoomOptions) => new Rooms({ topics, presence, patterns: { a: options } });
  assertThrows(() => make({ gatherAbove: -1 }), RangeError, "gatherAbove must be");
  assertThrows(() => make({ gatherMs: 1.5 }), RangeError, "gatherMs must be");
  assertThrows(() => make({ gatherMs: 2 ** 31 }), RangeError, "gatherMs must be");
  assertThrows(
    () => make({ members: "all" as "list" }),
    TypeError,
    'must be "list" or "count", received "all"',
  );
  const patterns = { "room:{name}": {}, "room:a": {} };
  assertThrows(() => new Rooms({ topics, presence, patterns }), TypeError, "overlap");
});

/** The members of the room `chat`, as a session knows them from its notices. */
class Watcher {
  readonly members = new Map<string, PresenceMember>();
  /** The number of notices, and their bytes, since the last reset. */
  notices = 0;
  bytes = 0;
  readonly #peer: Peer;

  constructor(peer: Peer) {
    this.#peer = peer;
  }

  read(): ReadonlyMap<string, PresenceMember> {
    for (const message of this.#peer.take()) {
      if (!Array.isArray(message)) continue;
      this.notices++;
      this.bytes += JSON.stringify(message).length;
      updateMembers(this.members, message[1] as PresenceNotice);
    }
    return this.members;
  }

  reset(): void {
    this.read();
    this.notices = this.bytes = 0;
  }
}

for (const gatherAbove of [100, 0]) {
  const size = gatherAbove === 0 ? "large" : "small";

  Deno.test(`Rooms keeps the members of a ${size} room the same for early and late watchers`, async () => {
    await using bench = new Bench({ graceMs: 5_000, patterns: { chat: { gatherAbove } } });
    const { rooms } = bench;
    const tabs = await bench.connectAll("ann", "ann", "ann", "ann", "ann", "ann");
    const [one, two, three, four, five, six] = tabs.map(({ session }) => session);
    const watchers: Watcher[] = [];
    const watch = async (user: string) => {
      const peer = await bench.connect(user);
      rooms.join(peer.session, "chat");
      watchers.push(new Watcher(peer));
    };
    const steps: (() => unknown)[] = [
      () => rooms.join(one!, "chat", { data: "one" }),
      () => rooms.join(two!, "chat"),
      () => rooms.join(three!, "chat", { data: "three" }),
      () => rooms.leave(three!, "chat"),
      () => void two!.close(),
      // The user leaves, and returns before the next notice of a large room.
      () => rooms.leave(one!, "chat") && rooms.join(one!, "chat") && rooms.join(three!, "chat"),
      // A reload: the last sessions close, and a new one opens within the grace period.
      () => void one!.close(),
      () => void three!.close(),
      () => rooms.join(four!, "chat", { data: "four" }),
      () => rooms.join(five!, "chat"),
      () => rooms.leave(five!, "chat") && rooms.join(five!, "chat") && rooms.join(six!, "chat"),
      () => rooms.update(six!, "chat", { data: "six" }),
    ];
    await watch("early");
    for (const [i, step] of steps.entries()) {
      await step();
      await bench.pass(0);
      await watch(`watcher ${i}`);
      await bench.pass(1_000);
      for (const watcher of watchers) {
        const known = watcher.read();
        for (const member of rooms.members("chat")) {
          const isAway = member.connections === 0;
          const seen = known.get(member.user)!;
          const { connections } = isAway ? seen : member;
          assertEquals(seen, { ...member, connections }, `after step ${i}`);
          assert(seen.connections > 0);
        }
        assertEquals(known.size, rooms.members("chat").length);
      }
    }
    assertEquals(watchers[0]!.members.get("ann")?.connections, 3);
  });

  Deno.test(`Rooms sends nothing about users of a ${size} room who reload`, async () => {
    await using bench = new Bench({ graceMs: 5_000, patterns: { chat: { gatherAbove } } });
    const users = Array.from({ length: 50 }, (_, i) => `user-${i}`);
    const [watcher] = await bench.join("chat", "watcher");
    const before = await bench.join("chat", ...users);
    await bench.pass(2_000);
    const known = new Watcher(watcher!);
    known.reset();
    for (const { session } of before) void session.close();
    await bench.pass(3_000);
    await bench.join("chat", "late");
    await bench.pass(1_000);
    const after = await bench.join("chat", ...users);
    await bench.pass(2_000);
    known.read();
    assertEquals([known.notices, known.members.get("late")?.connections], [1, 1]);
    assertEquals(after.length, 50);
  });
}

Deno.test("Rooms sends at most 4 KiB about connections in an interval, and later only what still differs", async () => {
  await using bench = new Bench({ graceMs: 0, patterns: { chat: { gatherAbove: 0 } } });
  const users = Array.from({ length: 500 }, (_, i) => `user-${i}`);
  const [watcher] = await bench.join("chat", "watcher");
  await bench.join("chat", ...users);
  await bench.pass(2_000);
  const known = new Watcher(watcher!);
  known.reset();
  const doubled = () => users.filter((user) => known.members.get(user)?.connections === 2).length;
  const doubles = await bench.join("chat", ...users);
  for (const ms of [0, 1_000, 1_000]) {
    await bench.pass(ms);
    known.read();
    assert(known.bytes < 4_096 + 400, `${known.bytes} bytes`);
    known.reset();
  }
  const told = doubled();
  assert(told > 100 && told < 400, `${told}`);
  // The second sessions of all users are over, as after a node was declared gone.
  for (const { session } of doubles) bench.rooms.leave(session, "chat");
  for (let intervals = 0; intervals < 30; intervals++) await bench.pass(1_000);
  known.read();
  assertEquals(doubled(), 0);
  assert(known.bytes < 2 * told * 60, "nothing about users who were not reported");
});
