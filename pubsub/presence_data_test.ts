/** Presence data: which data counts, which members receive it, and its bound per interval. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { QueueFullError } from "../errors.ts";
import type { PresenceMember, PresenceNotice } from "../session/wire/presence_notice.ts";
import { MOVED } from "../session/wire/recovery.ts";
import { utf8Length } from "../session/wire/utf8.ts";
import type { Peer } from "./peers_fixture.ts";
import { Bench } from "./rooms_fixture.ts";
import { Directory } from "./nodes/directory.ts";
import { MemoryBroker } from "./memory/broker.ts";
import { Nodes } from "./nodes/nodes.ts";
import { Presence } from "./presence/presence.ts";
import { Rooms } from "./presence/rooms.ts";

const PATTERNS = { "chat": { maxDataBytes: 4_096 }, "few": { gatherAbove: 2 } };

/** The notices that a peer received since the last call, abbreviated. */
function told(peer: Peer): string[] {
  // Leaves out the messages that a session was removed from a room.
  return peer.take().filter(Array.isArray).map(([, notice]) => notice as PresenceNotice)
    .filter((notice) => !("connections" in notice)).map(inShort);
}

function inShort(notice: PresenceNotice): string {
  const list = (all: readonly Pick<PresenceMember, "user" | "data">[]) =>
    all.map(({ user, data }) => `${user}:${data ?? "-"}`).join(" ");
  switch (notice.type) {
    case "members":
      return `members ${list(notice.members)}`;
    case "changes": {
      const { joined, left, updated = [] } = notice;
      return `changes +${list(joined)} -${left.map(({ user }) => user)} =${list(updated)}`;
    }
    case "count":
      return `count ${notice.users}`;
    case "leave":
      return `leave ${notice.user}`;
    case "connections":
      return `connections ${notice.user}:${notice.connections}`;
    default:
      return `${notice.type} ${notice.user}:${notice.data ?? "-"}`;
  }
}

function dataOf(bench: Bench, user: string, room = "chat"): unknown {
  return bench.rooms.members(room).find((member) => member.user === user)?.data;
}

Deno.test("Rooms sends a user's data in members, join and update notices", async () => {
  await using bench = new Bench({ graceMs: 0, patterns: PATTERNS });
  const [ann, bob] = await bench.connectAll("ann", "bob");
  bench.rooms.join(ann.session, "chat", { data: "here" });
  bench.rooms.join(bob.session, "chat", { data: 0 });
  await bench.pass(100);
  assert(bench.rooms.update(ann.session, "chat", { data: { is: "away" } }));
  await bench.pass(100);
  bench.rooms.update(ann.session, "chat");
  await bench.pass(0);
  assertEquals(ann.take(), [
    ["presence:chat", {
      type: "members",
      members: [{ user: "ann", connections: 1, joinedAt: 0, data: "here" }],
    }],
    ["presence:chat", { type: "join", user: "bob", at: 0, data: 0 }],
    ["presence:chat", { type: "update", user: "ann", at: 100, data: { is: "away" } }],
    ["presence:chat", { type: "update", user: "ann", at: 200 }],
  ]);
  assertEquals(told(bob)[0], "members ann:here bob:0");
  assertEquals(bench.rooms.members("chat").map(({ data }) => data), [undefined, 0]);
});

Deno.test("Rooms.update() before a join applies to that join and the next one", async () => {
  await using bench = new Bench({ graceMs: 0, patterns: PATTERNS });
  const [ann, bob] = await bench.connectAll("ann", "bob");
  bench.rooms.join(ann.session, "chat");
  assert(!bench.rooms.update(bob.session, "chat", { data: 1 }));
  bench.rooms.join(bob.session, "chat");
  await bench.pass(100);
  bench.rooms.leave(bob.session, "chat");
  bench.rooms.update(bob.session, "chat", { data: 2 });
  bench.rooms.join(bob.session, "chat");
  await bench.pass(100);
  assertEquals(told(ann), ["members ann:-", "join bob:1", "leave bob", "join bob:2"]);
});

Deno.test("Rooms shows the data that was set last, and falls back when that session leaves", async () => {
  await using bench = new Bench({ patterns: PATTERNS });
  const [ann, tab1, tab2] = await bench.connectAll("ann", "bob", "bob");
  bench.rooms.join(ann.session, "chat");
  bench.rooms.join(tab1.session, "chat", { data: "tab1" });
  // Without its own data the second tab changes nothing.
  bench.rooms.join(tab2.session, "chat");
  await bench.pass(100);
  bench.rooms.update(tab2.session, "chat", { data: "tab2" });
  await bench.pass(100);
  // The same data again is no change.
  bench.rooms.update(tab2.session, "chat", { data: "tab2" });
  await bench.pass(100);
  bench.rooms.leave(tab2.session, "chat");
  await bench.pass(100);
  assertEquals(told(ann), ["members ann:-", "join bob:tab1", "update bob:tab2", "update bob:tab1"]);
  assertEquals(dataOf(bench, "bob"), "tab1");
});

Deno.test("Rooms keeps the data of an absent user within the grace period, until a session returns", async () => {
  await using bench = new Bench({ graceMs: 1_000, patterns: PATTERNS });
  const [ann, bob, back] = await bench.connectAll("ann", "bob", "bob");
  bench.rooms.join(ann.session, "chat");
  bench.rooms.join(bob.session, "chat", { data: "old" });
  await bench.pass(100);
  bench.topics.unsubscribe(bob.session, "chat", { code: MOVED });
  await bench.pass(100);
  assertEquals(dataOf(bench, "bob"), "old");
  bench.rooms.join(back.session, "chat", { data: "old" });
  await bench.pass(100);
  // The same data with the join: no member receives a notice.
  assertEquals(told(ann), ["members ann:-", "join bob:old"]);
  bench.topics.unsubscribe(back.session, "chat", { code: MOVED });
  await bench.pass(100);
  bench.rooms.join(bob.session, "chat", { data: "new" });
  await bench.pass(100);
  bench.topics.unsubscribe(bob.session, "chat", { code: MOVED });
  bench.rooms.update(bob.session, "chat");
  bench.rooms.join(bob.session, "chat");
  await bench.pass(100);
  assertEquals(told(ann), ["update bob:new", "update bob:-"]);
  // Their own lists include the data of the join, and no update repeats it.
  assertEquals(told(back), ["members ann:- bob:old"]);
});

Deno.test("Rooms sends a list with the joiner's data, and no update of it to the joiner", async () => {
  await using bench = new Bench({ patterns: PATTERNS });
  const [tab1, tab2] = await bench.connectAll("ann", "ann");
  bench.rooms.join(tab1.session, "chat", { data: 1 });
  bench.rooms.join(tab2.session, "chat", { data: 2 });
  await bench.pass(100);
  assertEquals([told(tab1), told(tab2)], [["members ann:1", "update ann:2"], ["members ann:2"]]);
});

Deno.test("Rooms sends updates immediately, at most twenty times a second, the newest of each user", async () => {
  await using bench = new Bench({ patterns: PATTERNS });
  const [ann, bob] = await bench.connectAll("ann", "bob");
  bench.rooms.join(ann.session, "chat");
  bench.rooms.join(bob.session, "chat");
  await bench.pass(1_000);
  told(ann);
  const heard: string[] = [];
  for (let i = 0; i < 100; i++) {
    bench.rooms.update(bob.session, "chat", { data: i });
    await bench.pass(10);
    heard.push(...told(ann));
  }
  await bench.pass(100);
  heard.push(...told(ann));
  assertEquals([heard[0], heard.at(-1)], ["update bob:0", "update bob:99"]);
  assert(heard.length >= 20 && heard.length <= 22, `${heard.length}`);
  // Data that waited for the next interval is sent before later joins and leaves.
  bench.rooms.update(bob.session, "chat", { data: "a" });
  bench.rooms.update(bob.session, "chat", { data: "b" });
  bench.topics.unsubscribe(bob.session, "chat", { code: MOVED });
  await bench.pass(2_000);
  assertEquals(told(ann), ["update bob:a", "update bob:b", "leave bob"]);
});

Deno.test("Rooms gathers the data of a large room like its joins, reduced to the net effect", async () => {
  await using bench = new Bench({ graceMs: 0, patterns: PATTERNS });
  const peers: Peer[] = [];
  for (const user of ["a", "b", "c", "d", "e"]) peers.push(await bench.connect(user));
  const [a, b, c, d, e] = peers as [Peer, Peer, Peer, Peer, Peer];
  for (const { session } of [a, b, c, e]) bench.rooms.join(session, "few", { data: 0 });
  await bench.pass(1_000);
  told(a);
  // Of the changes before the join, only the last one counts.
  bench.rooms.join(d.session, "few", { data: 1 });
  bench.rooms.update(d.session, "few", { data: 2 });
  bench.rooms.update(b.session, "few", { data: 1 });
  bench.rooms.update(b.session, "few", { data: 2 });
  bench.rooms.update(c.session, "few", { data: 1 });
  bench.rooms.leave(c.session, "few");
  await bench.pass(1_000);
  // A user who left and returned with other data was present the whole time.
  bench.rooms.leave(b.session, "few");
  bench.rooms.join(b.session, "few", { data: 3 });
  await bench.pass(1_000);
  assertEquals(told(a), [
    "changes + -c =",
    "changes +d:2 - =",
    "changes + - =b:2",
    "changes + - =b:3",
  ]);
  assertEquals(told(d), ["members a:0 b:2 e:0 d:2", "changes + - =b:3"]);
});

Deno.test("Rooms sends at most 64 KiB of data at a time, and eventually all of it", async () => {
  await using bench = new Bench({
    graceMs: 0,
    patterns: { "big": { gatherAbove: 10, maxDataBytes: 4_096 } },
  });
  const ann = await bench.connect("ann");
  bench.rooms.join(ann.session, "big");
  const users = Array.from({ length: 60 }, (_, i) => `user-${i}`);
  const known = new Map<string, unknown>();
  const heardBytes: number[] = [];
  const hear = () => {
    let bytes = 0;
    for (const frame of ann.frames) {
      for (const line of String(frame).split("\n")) {
        assert(utf8Length(line) <= 60_000);
        const { data } = JSON.parse(line) as { data: PresenceNotice };
        const all = data.type === "members"
          ? data.members
          : data.type === "changes"
          ? [...data.joined, ...data.updated ?? []]
          : data.type === "join" || data.type === "update"
          ? [data]
          : [];
        for (const { user, data } of all) {
          known.set(user, data);
          if (data !== undefined) bytes += utf8Length(JSON.stringify(data));
        }
      }
    }
    ann.frames.length = 0;
    heardBytes.push(bytes);
  };
  const peers: Peer[] = [];
  for (const user of users) {
    const peer = await bench.connect(user, { sendQueue: { maxMessages: 10_000 } });
    peers.push(peer);
    bench.rooms.join(peer.session, "big", { data: "x".repeat(4_000) });
  }
  await bench.pass(0);
  hear();
  for (let i = 0; i < 6; i++) {
    await bench.pass(1_000);
    hear();
  }
  for (const { session } of peers) bench.rooms.update(session, "big", { data: "y".repeat(4_000) });
  bench.rooms.leave(peers[59]!.session, "big");
  await bench.pass(0);
  hear();
  for (let i = 0; i < 6; i++) {
    await bench.pass(1_000);
    hear();
  }
  const [first, ...rest] = heardBytes;
  // Until the room was large, each join had its own notice.
  assert(first! <= 65_536 + 10 * 4_002, `${first}`);
  for (const bytes of rest) assert(bytes <= 65_536, `${bytes}`);
  assertEquals(known.size, 61);
  for (const user of users.slice(0, 59)) assertEquals(known.get(user), "y".repeat(4_000), user);
});

Deno.test("Rooms with members: count keeps data, and sends it to no member", async () => {
  await using bench = new Bench({ patterns: { "chat": { members: "count" } } });
  const [ann, bob] = await bench.connectAll("ann", "bob");
  bench.rooms.join(ann.session, "chat");
  bench.rooms.join(bob.session, "chat", { data: 1 });
  await bench.pass(1_000);
  bench.rooms.update(bob.session, "chat", { data: 2 });
  await bench.pass(5_000);
  assertEquals([told(ann), dataOf(bench, "bob")], [["count 2"], 2]);
});

Deno.test("Rooms.update() bounds data per room, and rooms per session", async () => {
  await using bench = new Bench({ patterns: { "none": { maxDataBytes: 0 }, ...PATTERNS } });
  const { session } = await bench.connect("ann");
  const { rooms } = bench;
  const update = (room: string, data: unknown) => () => rooms.update(session, room, { data });
  const text = (bytes: number) => "ü".repeat((bytes - 2) / 2);
  update("other", text(512))();
  assertThrows(update("other", text(514)), RangeError, "at most 512 bytes as JSON, received 514");
  update("chat", text(4_096))();
  assertThrows(update("chat", text(4_098)), RangeError, "at most 4096 bytes");
  assertThrows(update("none", 1), RangeError, "at most 0 bytes");
  assertThrows(() => rooms.join(session, "none", { data: 1 }), RangeError);
  assert(!rooms.isMember(session, "none"));
  for (const data of [new Uint8Array(1), 1n, NaN, () => {}, new Map()]) {
    assertThrows(update("chat", data), TypeError, "data must be a value that JSON can hold");
  }
  for (let i = 0; i < 30; i++) update(`room ${i}`, i)();
  assertThrows(update("one more", 1), QueueFullError, "in 32 rooms already");
  update("chat", undefined)();
  update("one more", 1)();
  assertThrows(
    () => bench.presence.enter(session, "x", { data: text(4_098) }),
    RangeError,
    "at most 4096 bytes",
  );
  for (const maxDataBytes of [-1, 1.5, 4_097]) {
    const { topics, presence } = bench;
    const patterns = { a: { maxDataBytes } };
    assertThrows(() => new Rooms({ topics, presence, patterns }), RangeError, "from 0 to 4096");
  }
});

Deno.test("Rooms.update() copies its data, and forgets it with the session", async () => {
  await using bench = new Bench({ graceMs: 0, patterns: PATTERNS });
  const ann = await bench.connect("ann");
  const data = { at: [1] };
  bench.rooms.join(ann.session, "chat", { data });
  data.at.push(2);
  assertEquals(dataOf(bench, "ann"), { at: [1] });
  ann.pair.link.disconnect();
  await ann.session.closed;
  assert(!bench.rooms.update(ann.session, "chat", { data }));
  assertEquals(bench.rooms.members("chat"), []);
});

Deno.test("Presence.update() reports only changes to listeners", async () => {
  await using bench = new Bench({ graceMs: 0 });
  const { presence } = bench;
  const [{ session: ann }, { session: bob }] = await bench.connectAll("ann", "bob");
  const events: unknown[] = [];
  presence.subscribe(({ type, topic, user, ...rest }) => {
    if (topic === "chat") events.push([type, user, "data" in rest ? rest.data : "none"]);
  });
  assert(!presence.update(ann, "chat", { data: 1 }));
  presence.enter(ann, "chat", { data: 1 });
  presence.enter(bob, "chat");
  assert(presence.update(ann, "chat", { data: [1] }));
  presence.update(ann, "chat", { data: [1] });
  presence.enter(ann, "chat", { data: 2 });
  presence.enter(ann, "chat");
  presence.update(ann, "chat");
  presence.update(ann, "chat", { data: null });
  presence.leave(ann, "chat");
  presence.leave(bob, "chat");
  assertEquals(events, [
    ["join", "ann", 1],
    ["join", "bob", "none"],
    ["update", "ann", [1]],
    ["update", "ann", 2],
    ["update", "ann", "none"],
    ["update", "ann", null],
    ["leave", "ann", null],
    ["leave", "bob", "none"],
  ]);
});

Deno.test("Presence sets data that wins over its earlier data if another node's clock is ahead", async () => {
  await using bench = new Bench();
  await using broker = new MemoryBroker();
  await using here = new Nodes({ broker });
  await using there = new Nodes({ broker });
  using presence = new Presence({ nodes: here });
  // Another node, scripted: sent and received messages.
  const read = (value: unknown) => value as unknown[];
  using directory = new Directory<unknown[]>({ nodes: there, name: "presence", read });
  using scope = directory.open("in:chat");
  const { session } = await bench.connect("ann");
  await bench.time.tickAsync(1_000);
  presence.enter(session, "chat", { data: "first" });
  scope.set("ann", [1, 500, 0, 90_000, "ahead"]);
  scope.set("bob", [1, 500]);
  scope.set("cora", [1, 500, 0, -1, "nonsense"]);
  await bench.time.tickAsync(1_000);
  assertEquals(presence.members("chat"), [
    { user: "ann", connections: 2, joinedAt: 500, data: "ahead" },
    { user: "bob", connections: 1, joinedAt: 500 },
  ]);
  presence.update(session, "chat", { data: "later" });
  assertEquals(presence.members("chat")[0]!.data, "later");
  await bench.time.tickAsync(1_000);
  const told = [...scope.entries()].find(({ node, key }) => node === here.id && key === "ann");
  assertEquals(told?.value, [1, 500, 0, 90_001, "later"]);
  // For two updates with the same time, the nodes' ids decide, with the same result on each node.
  scope.set("ann", [1, 500, 0, 90_001, "same time"]);
  await bench.time.tickAsync(1_000);
  const winner = there.id > here.id ? "same time" : "later";
  assertEquals(presence.members("chat")[0]!.data, winner);
});
