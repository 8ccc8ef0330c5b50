import { assert, assertEquals, assertThrows } from "@std/assert";
import { Bench, heard } from "../_rooms_bench_test.ts";
import type { PresenceNotice } from "../../session/wire/presence_notice.ts";
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
  assertEquals(heard(a!), ["members a*1", "join b", "changes +c d -"]);
  const [e, f] = await bench.join("chat", "e", "f");
  bench.rooms.leave(e!.session, "chat");
  await bench.pass(999);
  assertEquals([heard(a!), heard(f!)], [[], []]);
  await bench.pass(1);
  assertEquals(heard(a!), ["changes +f -"]);
  assertEquals(heard(f!), ["members a*1 b*1 c*1 d*1 f*1"]);
  assertEquals(heard(e!), ["off chat"]);
});

Deno.test("Rooms reports nothing about a user who leaves a large room and returns before the next notice", async () => {
  await using bench = largeRooms();
  const [a, b] = await bench.join("chat", "a", "b", "c", "d");
  await bench.pass(0);
  heard(a!);
  bench.rooms.leave(b!.session, "chat");
  bench.rooms.join(b!.session, "chat");
  await bench.pass(1_000);
  assertEquals(heard(a!), []);
  assertEquals(heard(b!).slice(-2), ["off chat", "members a*1 c*1 d*1 b*1"]);
});

Deno.test("Rooms starts and stops gathering as a room grows and shrinks, in order", async () => {
  await using bench = largeRooms();
  const [a, b, c] = await bench.join("chat", "a", "b", "c");
  await bench.pass(0);
  await bench.pass(2_000);
  heard(a!);
  bench.rooms.leave(c!.session, "chat");
  await bench.pass(0);
  assertEquals(heard(a!), ["leave c"]);
  bench.rooms.leave(b!.session, "chat");
  bench.rooms.join(c!.session, "chat");
  await bench.pass(0);
  assertEquals(heard(a!), ["leave b", "join c"]);
});

Deno.test("Rooms encodes the list of a large room once for all sessions that join meanwhile", async () => {
  await using bench = largeRooms();
  const first = await bench.join("chat", "a", "b", "c");
  await bench.pass(0);
  for (const peer of first) heard(peer);
  const { stringify } = JSON;
  let lists = 0;
  JSON.stringify = ((value: { data?: { type?: string } }) => {
    if (value?.data?.type === "members") lists++;
    return stringify(value);
  }) as typeof stringify;
  try {
    const late = await bench.join("chat", "d", "e", "f", "g");
    await bench.pass(1_000);
    for (const peer of late) assertEquals(heard(peer), ["members a*1 b*1 c*1 d*1 e*1 f*1 g*1"]);
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
  const parts = heard(late) as string[];
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
  assertEquals(heard(late), ["changes +next -"]);
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
  assertEquals([heard(a!), heard(tab!)], [["count 2"], ["count 2"]]);
  const [c] = await bench.join("chat", "c");
  await bench.pass(499);
  assertEquals(heard(a!), []);
  await bench.pass(1);
  assertEquals([heard(a!), heard(c!)], [["count 3"], ["count 3"]]);
  bench.rooms.leave(c!.session, "chat");
  await bench.join("chat", "d");
  await bench.pass(500);
  // Another user, and an unchanged count.
  assertEquals(heard(a!), []);
});

Deno.test("Rooms forgets a session that leaves before its list, and leaves no timer running", async () => {
  await using bench = largeRooms();
  const peers = await bench.join("chat", "a", "b", "c", "d");
  for (const { session } of peers) bench.rooms.leave(session, "chat");
  await bench.pass(5_000);
  assertEquals(heard(peers[3]!), ["off chat"]);
  assertEquals(bench.rooms.members("chat"), []);
  const [again] = await bench.join("chat", "a");
  await bench.pass(0);
  assertEquals(heard(again!), ["members a*1"]);
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
    "must be one of list, count, received all",
  );
  const patterns = { "room:{name}": {}, "room:a": {} };
  assertThrows(() => new Rooms({ topics, presence, patterns }), TypeError, "overlap");
});
