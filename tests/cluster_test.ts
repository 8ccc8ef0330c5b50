/** Servers that share a broker: users, presence, rooms and limits across nodes. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type PresenceNotice, RequestError, type Session, SessionClosedError } from "../mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { fail, type FaultyBroker, FaultyEngine, pass } from "./faulty_broker.ts";
import { internals } from "../session/session.ts";
import { encodeMessage } from "../session/wire/encode.ts";
import { Random } from "./random.ts";
import { type TestServer, testServer, type TestServerOptions } from "../testing/mod.ts";

type Options = TestServerOptions<string>;

/** Servers of one engine, at a fake time. */
class Cluster implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly engine: FaultyEngine;
  readonly #servers: TestServer<string>[] = [];

  constructor(random?: Random) {
    this.engine = new FaultyEngine({ random });
  }

  /** Servers that know one another. */
  async start(count: number, options: Options = {}): Promise<TestServer<string>[]> {
    const servers = Array.from({ length: count }, (_, i) =>
      testServer<string>({
        broker: this.engine.connect(),
        node: { name: `node-${i}` },
        authenticate: ({ token }) => token ?? "nobody",
        authorize: () => true,
        rooms: ["room:{name}"],
        ...options,
      }));
    this.#servers.push(...servers);
    await this.pass(300);
    return servers;
  }

  /** A user's session, and the received publications. */
  async dial(server: TestServer<string>, user: string): Promise<User> {
    const dialing = server.dial({ headers: { authorization: `Bearer ${user}` } });
    let isPending = true;
    dialing.catch(() => {}).finally(() => isPending = false);
    await this.pass(0);
    // A place that was only just given up is asked for again.
    if (isPending) await this.askAgain();
    return new User(await dialing);
  }

  /** How a user's session is refused, once the nodes were asked for a place again. */
  async refused(server: TestServer<string>, user: string): Promise<SessionClosedError> {
    const dialing = server.dial({ headers: { authorization: `Bearer ${user}` } });
    const refused = assertRejects(() => dialing, SessionClosedError);
    await this.askAgain();
    return await refused;
  }

  /** Time for places that are asked for again. */
  async askAgain(): Promise<void> {
    for (let i = 0; i < 8; i++) await this.pass(50);
  }

  async pass(ms: number): Promise<void> {
    await this.time.tickAsync(ms);
    // Messages of the last turn arrive.
    await this.time.tickAsync(0);
  }

  /** A killed process: its broker and its clients are cut off, without a farewell. */
  async kill(server: TestServer<string>): Promise<void> {
    (server.topics.broker as FaultyBroker).cut();
    server.network.disconnect();
    await this.pass(0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server[Symbol.asyncDispose]();
    this.time.restore();
  }
}

class User {
  readonly session: Session<unknown, never, "client">;
  /** Repeated notices, and notices about absent users. */
  readonly faults: string[] = [];
  readonly #heard: string[] = [];
  readonly #present = new Map<string, Map<string, unknown>>();

  constructor(session: unknown) {
    this.session = session as Session<unknown, never, "client">;
    void this.#listen();
  }

  /** Publications since the last call. */
  take(): string[] {
    return this.#heard.splice(0);
  }

  /** Users in a room and their data, by the received notices. */
  present(room: string): [user: string, data: unknown][] {
    return [...this.#present.get(room) ?? []].sort();
  }

  async #listen(): Promise<void> {
    for await (const { topic, data } of this.session as Session) {
      if (!topic.startsWith("presence:")) this.#heard.push(`${topic} ${JSON.stringify(data)}`);
      else {
        this.#heard.push(inWords(data as PresenceNotice));
        this.#note(topic.slice("presence:".length), data as PresenceNotice);
      }
    }
  }

  #note(room: string, notice: PresenceNotice): void {
    const present = this.#present.get(room) ?? new Map<string, unknown>();
    this.#present.set(room, present);
    if (notice.type === "members") {
      present.clear();
      for (const { user, data } of notice.members) present.set(user, data);
      return;
    }
    if (notice.type === "count") return;
    const changes = notice.type === "changes" ? notice : {
      joined: notice.type === "join" ? [notice] : [],
      left: notice.type === "leave" ? [notice] : [],
      updated: notice.type === "update" ? [notice] : [],
    };
    for (const { user, data } of changes.joined) {
      if (present.has(user)) this.faults.push(`a second join of ${user}`);
      present.set(user, data);
    }
    for (const { user } of changes.left) {
      if (!present.delete(user)) this.faults.push(`a second leave of ${user}`);
    }
    for (const { user, data } of changes.updated ?? []) {
      if (!present.has(user)) this.faults.push(`an update of ${user}, who is not there`);
      present.set(user, data);
    }
  }
}

function inWords(notice: PresenceNotice): string {
  switch (notice.type) {
    case "members":
      return `members ${
        notice.members.map(({ user, connections }) => `${user}*${connections}`).sort().join(" ")
      }`;
    case "changes":
      return `changes +${notice.joined.length} -${notice.left.length}`;
    case "count":
      return `count ${notice.users}`;
    default:
      return `${notice.type} ${notice.user}`;
  }
}

/** Joins a room by the session's own server. */
async function join(cluster: Cluster, server: TestServer<string>, user: User, room = "room:a") {
  server.rooms.join(server.manager.get(user.session.id)!, room);
  await cluster.pass(100);
}

function eventsOf(server: TestServer<string>): string[] {
  const events: string[] = [];
  server.presence.subscribe(({ type, user, topic }) => {
    if (topic !== undefined) events.push(`${type} ${user}`);
  });
  return events;
}

Deno.test("A user's sessions on all nodes get each message to the user once", async () => {
  await using cluster = new Cluster();
  const [a, b, c] = await cluster.start(3);
  const [one, two, three] = [
    await cluster.dial(a!, "ann"),
    await cluster.dial(b!, "ann"),
    await cluster.dial(b!, "ann"),
  ];
  const bob = await cluster.dial(c!, "bob");
  assertEquals(a!.to("ann").send("hi", 1), 1);
  assertEquals(c!.to("ann").send("hi", new Uint8Array([7])), 0);
  await cluster.pass(0);
  const both = ["hi 1", 'hi {"0":7}'];
  assertEquals([one.take(), two.take(), three.take(), bob.take()], [both, both, both, []]);
  await two.session.close();
  await three.session.close();
  await cluster.pass(0);
  const broker = b!.topics.broker as FaultyBroker;
  assert(!broker.topics.includes("$skein:user:ann"));
});

Deno.test("Server.sessions() lists sessions of all nodes, and disconnect() closes them", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const one = await cluster.dial(a!, "ann");
  await cluster.pass(1_000);
  const two = await cluster.dial(b!, "ann");
  const bob = await cluster.dial(b!, "bob");
  const listed = await a!.sessions("ann");
  assertEquals(listed.map(({ session: _, ...info }) => info), [
    { id: one.session.id, node: a!.nodes!.id, user: "ann", transport: "memory", connectedAt: 300 },
    {
      id: two.session.id,
      node: b!.nodes!.id,
      user: "ann",
      transport: "memory",
      connectedAt: 1_300,
    },
  ]);
  assertEquals(listed.map(({ session }) => session?.id), [one.session.id, undefined]);
  const closing = a!.disconnect("ann", { code: 4403, reason: "Banned" });
  await cluster.pass(0);
  assertEquals(await closing, { closed: 2, isComplete: true });
  for (const { session } of [one, two]) {
    const { code, reason } = await session.closed;
    assertEquals([code, reason], [4403, "Banned"]);
  }
  assert(bob.session.isReady);
});

Deno.test("Server.disconnect() says when a node did not answer", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  await cluster.dial(b!, "ann");
  await cluster.kill(b!);
  const closing = a!.disconnect("ann");
  await cluster.pass(6_000);
  // The node is gone by now, with its sessions.
  await cluster.pass(1_000);
  assertEquals(await closing, { closed: 0, isComplete: true });
  const [c] = await cluster.start(1);
  c!.nodes!.handle("silent", () => {});
  const asked = a!.nodes!.ask("unknown");
  await cluster.pass(0);
  assertEquals((await asked).isComplete, false);
});

Deno.test("A room has the members of all nodes, each user once", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const events = [eventsOf(a!), eventsOf(b!)];
  const ann = await cluster.dial(a!, "ann");
  await join(cluster, a!, ann);
  assertEquals(ann.take(), ["members ann*1"]);
  const bob = await cluster.dial(b!, "bob");
  await join(cluster, b!, bob);
  assertEquals(bob.take(), ["members ann*1 bob*1"]);
  assertEquals(ann.take(), ["join bob"]);
  const tab = await cluster.dial(b!, "ann");
  await join(cluster, b!, tab);
  assertEquals(tab.take(), ["members ann*2 bob*1"]);
  assertEquals([ann.take(), bob.take()], [[], []]);
  assertEquals([a!.rooms.members("room:a").map(({ user, connections }) => [user, connections])], [[
    ["ann", 2],
    ["bob", 1],
  ]]);
  b!.rooms.publish("room:a", "hello");
  await cluster.pass(0);
  assertEquals([ann.take(), bob.take()], [['room:a "hello"'], ['room:a "hello"']]);
  // Each node reports each user once, and no user from before it followed the room.
  assertEquals(events, [["join ann", "join bob"], ["join bob"]]);
});

Deno.test("A user leaves once, with the last session on any node and after the grace", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const [bob, eve] = [await cluster.dial(a!, "bob"), await cluster.dial(b!, "eve")];
  await join(cluster, a!, bob);
  await join(cluster, b!, eve);
  const [one, two] = [await cluster.dial(a!, "ann"), await cluster.dial(b!, "ann")];
  await join(cluster, a!, one);
  await join(cluster, b!, two);
  const leaves: unknown[] = [];
  a!.presence.subscribe((event) => {
    if (event.type === "leave") leaves.push(event);
  });
  bob.take();
  eve.take();
  await one.session.close();
  await cluster.pass(20_000);
  assertEquals([bob.take(), eve.take()], [[], []]);
  assertEquals(a!.presence.connections("ann", "room:a"), 1);
  await two.session.close();
  await cluster.pass(50);
  const lastSeenAt = Date.now() - 50;
  assertEquals(a!.presence.lastSeenAt("ann"), lastSeenAt);
  assertEquals(a!.rooms.members("room:a").find(({ user }) => user === "ann")!.connections, 0);
  await cluster.pass(4_900);
  assertEquals([bob.take(), eve.take()], [[], []]);
  await cluster.pass(150);
  assertEquals([bob.take(), eve.take()], [["leave ann"], ["leave ann"]]);
  assertEquals(leaves.length, 2);
  assertEquals((leaves[0] as { lastSeenAt: number }).lastSeenAt, lastSeenAt);
  assertEquals([a!.presence.lastSeenAt("ann"), b!.presence.lastSeenAt("ann")], [
    lastSeenAt,
    lastSeenAt,
  ]);
});

Deno.test("The data of a user's last session on any node stays for the grace", async () => {
  await using cluster = new Cluster();
  const [a, b, c] = await cluster.start(3);
  const bob = await cluster.dial(c!, "bob");
  await join(cluster, c!, bob);
  const enter = async (server: TestServer<string>, data?: unknown) => {
    const user = await cluster.dial(server, "ann");
    server.rooms.join(server.manager.get(user.session.id)!, "room:a", { data });
    await cluster.pass(100);
    return user;
  };
  const kept = await enter(a!, "kept");
  const newer = await enter(b!, "newer");
  assertEquals(bob.present("room:a"), [["ann", "newer"], ["bob", undefined]]);
  await newer.session.close();
  await cluster.pass(100);
  assertEquals(bob.present("room:a"), [["ann", "kept"], ["bob", undefined]]);
  bob.take();
  await kept.session.close();
  await cluster.pass(1_000);
  assertEquals(bob.take(), []);
  for (const server of [a!, b!, c!]) {
    const ann = server.rooms.members("room:a").find(({ user }) => user === "ann")!;
    assertEquals([ann.connections, ann.data], [0, "kept"]);
  }
});

Deno.test("Moving from one node to another within the grace is no leave and no join", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const [bob, eve] = [await cluster.dial(a!, "bob"), await cluster.dial(b!, "eve")];
  await join(cluster, a!, bob);
  await join(cluster, b!, eve);
  const before = await cluster.dial(a!, "ann");
  await join(cluster, a!, before);
  const { joinedAt } = a!.rooms.members("room:a").find(({ user }) => user === "ann")!;
  bob.take();
  eve.take();
  before.session.connection.close();
  await cluster.pass(3_000);
  const after = await cluster.dial(b!, "ann");
  await join(cluster, b!, after);
  await cluster.pass(30_000);
  assertEquals([bob.take(), eve.take()], [[], []]);
  for (const server of [a!, b!]) {
    const ann = server.rooms.members("room:a").find(({ user }) => user === "ann");
    assertEquals(ann, { user: "ann", connections: 1, joinedAt });
  }
});

Deno.test("A node that restarts in good order keeps each user who reconnects within the grace", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const bob = await cluster.dial(b!, "bob");
  await join(cluster, b!, bob);
  const before = await cluster.dial(a!, "ann");
  await join(cluster, a!, before);
  bob.take();
  const closing = a!.close();
  await cluster.pass(100);
  await closing;
  await cluster.pass(4_000);
  const after = await cluster.dial(b!, "ann");
  await join(cluster, b!, after);
  await cluster.pass(20_000);
  assertEquals(bob.take(), []);
});

Deno.test("The users of a killed node leave within the time to notice its loss and the grace", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const bob = await cluster.dial(b!, "bob");
  await join(cluster, b!, bob);
  const [ann, eve] = [await cluster.dial(a!, "ann"), await cluster.dial(a!, "eve")];
  await join(cluster, a!, ann);
  await join(cluster, a!, eve);
  bob.take();
  await cluster.pass(10_000);
  const killedAt = Date.now();
  await cluster.kill(a!);
  // Eve finds the other node; Ann does not.
  await cluster.pass(3_000);
  const again = await cluster.dial(b!, "eve");
  await join(cluster, b!, again);
  assertEquals(bob.take(), []);
  await cluster.pass(killedAt + 12_000 - Date.now());
  assertEquals(bob.take(), ["leave ann"]);
  const { lastSeenAt } = { lastSeenAt: b!.presence.lastSeenAt("ann")! };
  assert(lastSeenAt <= killedAt && lastSeenAt > killedAt - 2_100, `${killedAt - lastSeenAt}`);
  assertEquals(b!.presence.online().sort(), ["bob", "eve"]);
});

Deno.test("Users stay through an outage of the engine, and afterwards all views are right", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const [ann, bob] = [await cluster.dial(a!, "ann"), await cluster.dial(b!, "bob")];
  await join(cluster, a!, ann);
  await join(cluster, b!, bob);
  const eve = await cluster.dial(a!, "eve");
  await join(cluster, a!, eve);
  for (const user of [ann, bob, eve]) user.take();
  cluster.engine.goAway();
  await cluster.pass(30_000);
  const new1 = await cluster.dial(a!, "new");
  a!.rooms.join(a!.manager.get(new1.session.id)!, "room:a");
  await eve.session.close();
  await cluster.pass(30_000);
  assertEquals([ann.take(), bob.take()], [["join new", "leave eve"], []]);
  cluster.engine.comeBack();
  await cluster.pass(200);
  assertEquals(bob.take().sort(), ["join new", "leave eve"]);
  assertEquals(ann.take(), []);
});

Deno.test("A user who opens a room on a new node gets all members at once, without joins", async () => {
  await using cluster = new Cluster();
  const [a] = await cluster.start(1);
  for (let i = 0; i < 150; i++) {
    const user = await cluster.dial(a!, `user-${i}`);
    a!.rooms.join(a!.manager.get(user.session.id)!, "room:a");
  }
  await cluster.pass(2_000);
  const [b] = await cluster.start(1);
  const bob = await cluster.dial(b!, "bob");
  await join(cluster, b!, bob);
  const [list, ...rest] = bob.take();
  assertEquals([list!.split(" ").length - 1, rest], [151, []]);
});

Deno.test("All nodes end with one view of the members, whatever happened before", async () => {
  for (let seed = 1; seed <= 4; seed++) {
    const random = new Random(seed);
    await using cluster = new Cluster(random);
    let servers = await cluster.start(3);
    const users: { server: TestServer<string>; user: User }[] = [];
    /** The data that each session set, and the time of its validity: by setting or by joining. */
    const set = new Map<string, { data: unknown; at: number }>();
    const keyOf = (session: { id: string }, room: string) => `${session.id} ${room}`;
    cluster.engine.faults = { lost: 30, repeated: 30, late: 60, lateMs: 300 };
    for (let step = 0; step < 250; step++) {
      const kind = random.below(100);
      const one = users.length === 0 ? undefined : random.pick(users);
      if (kind < 25) {
        const server = random.pick(servers);
        const user = await cluster.dial(server, `user-${random.below(12)}`);
        users.push({ server, user });
      } else if (kind < 55) {
        const room = `room:${random.below(3)}`;
        const near = one?.server.manager.get(one.user.session.id);
        if (near === undefined) continue;
        const isData = kind < 40;
        const known = set.get(keyOf(near, room));
        const isNew = !one!.server.rooms.isMember(near, room);
        // A millisecond apart, so that the order of all that is set is known.
        await cluster.pass(1);
        if (isData) {
          const data = step % 7 === 0 ? undefined : step;
          one!.server.rooms.update(near, room, { data });
          set.set(keyOf(near, room), { data, at: step });
        } else {
          one!.server.rooms.join(near, room);
          if (isNew && known) set.set(keyOf(near, room), { ...known, at: step });
        }
      } else if (kind < 65) {
        const near = one?.server.manager.get(one.user.session.id);
        const [room] = near === undefined ? [] : one!.server.rooms.roomsOf(near);
        if (room !== undefined) one!.server.rooms.leave(near!, room);
      } else if (kind < 78) one?.user.session.connection.close();
      else if (kind === 78) {
        cluster.engine.goAway();
        await cluster.pass(random.below(10_000));
        cluster.engine.comeBack();
      } else if (kind === 79 && servers.length > 1) {
        const [killed, ...rest] = servers;
        await cluster.kill(killed!);
        servers = rest;
      } else if (kind === 80 && servers.length < 4) servers.push(...await cluster.start(1));
      else await cluster.pass(random.below(1_000));
    }
    // Users with several sessions, on one node or more, have data of each.
    for (const [n, { server, user }] of users.toReversed().entries()) {
      const near = server.manager.get(user.session.id);
      for (const room of near === undefined ? [] : server.rooms.roomsOf(near)) {
        await cluster.pass(1);
        server.rooms.update(near!, room, { data: `last ${n}` });
        set.set(keyOf(near!, room), { data: `last ${n}`, at: 1_000 + n });
      }
    }
    cluster.engine.faults = {};
    // In steps, so that sessions can answer their pings.
    for (let i = 0; i < 40; i++) await cluster.pass(1_000);
    assertEquals(users.flatMap(({ user }) => user.faults), [], `seed ${seed}`);
    for (const room of ["room:0", "room:1", "room:2"]) {
      const truth = new Map<string, { count: number; at: number; data: unknown }>();
      for (const server of servers) {
        for (const session of server.topics.subscribers(room)) {
          const { user } = session;
          const one = truth.get(user) ?? { count: 0, at: -1, data: undefined };
          one.count++;
          const own = set.get(keyOf(session, room));
          if (own?.data !== undefined && own.at > one.at) Object.assign(one, own);
          truth.set(user, one);
        }
      }
      const expected = [...truth].map(([user, one]) => [user, one.count, one.data]).sort();
      for (const server of servers) {
        if (server.topics.subscribers(room).length === 0) continue;
        const seen = server.rooms.members(room)
          .map(({ user, connections, data }) => [user, connections, data]).sort();
        assertEquals(seen, expected, `seed ${seed}, ${room}, ${server.nodes!.name}`);
        // The notices of the members add up to the same.
        for (const { server: own, user } of users) {
          const near = own === server ? server.manager.get(user.session.id) : undefined;
          if (near === undefined || !server.rooms.isMember(near, room)) continue;
          const present = expected.map(([name, , data]) => [name, data]);
          assertEquals(user.present(room), present, `seed ${seed}, ${room}`);
        }
      }
    }
    const online = new Set(servers.flatMap(({ manager }) => manager.all().map(({ user }) => user)));
    for (const server of servers) {
      assertEquals(server.presence.online().sort(), [...online].sort(), `seed ${seed}`);
    }
  }
});

Deno.test("A node reports no join for a user who was in the room on another node", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const events = [eventsOf(a!), eventsOf(b!)];
  const ann = await cluster.dial(a!, "ann");
  await join(cluster, a!, ann);
  const tab = await cluster.dial(b!, "ann");
  await join(cluster, b!, tab);
  assertEquals(events, [["join ann"], []]);
  // Two users who open the same room on two nodes at once are one join.
  const [one, two] = [await cluster.dial(a!, "eve"), await cluster.dial(b!, "eve")];
  a!.rooms.join(a!.manager.get(one.session.id)!, "room:b");
  b!.rooms.join(b!.manager.get(two.session.id)!, "room:b");
  await cluster.pass(1_000);
  assertEquals(events.flat(), ["join ann", "join eve"]);
});

Deno.test("A user on two nodes that open a room at once joins once, whichever asks first", async () => {
  await using cluster = new Cluster();
  // By their ids, which decide between two joins of the very same time.
  const [a, b] = (await cluster.start(2)).sort((a, b) => a.nodes!.id < b.nodes!.id ? -1 : 1);
  const events = [eventsOf(a!), eventsOf(b!)];
  const [one, two] = [await cluster.dial(a!, "eve"), await cluster.dial(b!, "eve")];
  using _following = a!.presence.follow("room:b");
  await cluster.pass(1);
  b!.rooms.join(b!.manager.get(two.session.id)!, "room:b");
  await cluster.pass(1);
  a!.rooms.join(a!.manager.get(one.session.id)!, "room:b");
  await cluster.pass(1_000);
  assertEquals(events, [[], ["join eve"]]);
});

Deno.test("Presence.follow() works for a topic without members on this node", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const ann = await cluster.dial(a!, "ann");
  await join(cluster, a!, ann);
  assertEquals(b!.presence.members("room:a"), []);
  const following = b!.presence.follow("room:a");
  await cluster.pass(100);
  await following.ready;
  assertEquals(b!.presence.count("room:a"), 1);
  following[Symbol.dispose]();
  assertEquals(b!.presence.members("room:a"), []);
  assertEquals(b!.presence.isOnline("ann"), true);
});

Deno.test("Presence tells the first join of a user, also by a node to which the room was new", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const first = await cluster.dial(a!, "ann");
  await join(cluster, a!, first);
  const { joinedAt } = a!.rooms.members("room:a")[0]!;
  await cluster.pass(1_000);
  await join(cluster, b!, await cluster.dial(b!, "ann"));
  await cluster.pass(1_000);
  await first.session.close();
  await cluster.pass(30_000);
  const [c] = await cluster.start(1);
  using _following = c!.presence.follow("room:a");
  await cluster.pass(1_000);
  assertEquals(c!.presence.members("room:a"), [{ user: "ann", connections: 1, joinedAt }]);
});

Deno.test("node and presenceGraceMs bound how long users of a killed node stay online", async () => {
  await using cluster = new Cluster();
  const node = { heartbeatMs: 500, goneAfterMs: 2_000 };
  const [a, b] = await cluster.start(2, { node, presenceGraceMs: 1_000 });
  await cluster.dial(b!, "ann");
  await cluster.pass(1_000);
  assertEquals(a!.presence.online(), ["ann"]);
  await cluster.kill(b!);
  await cluster.pass(3_500);
  assertEquals(a!.presence.online(), []);
});

Deno.test("clusterPresence: false keeps being online to each node", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2, { clusterPresence: false });
  const ann = await cluster.dial(a!, "ann");
  await join(cluster, a!, ann);
  const bob = await cluster.dial(b!, "bob");
  await join(cluster, b!, bob);
  assertEquals([a!.presence.online(), b!.presence.online()], [["ann"], ["bob"]]);
  assertEquals(bob.take(), ["members ann*1 bob*1"]);
});

Deno.test("maxSessionsPerUser holds on all nodes together", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerUser: 2 };
  const [a, b] = await cluster.start(2, { limits });
  const one = await cluster.dial(a!, "ann");
  await cluster.dial(b!, "ann");
  await cluster.dial(b!, "bob");
  const refused = await cluster.refused(a!, "ann");
  assertEquals([refused.info?.code, refused.info?.reason], [
    4429,
    "Cannot admit session: your user may have at most 2 sessions at once",
  ]);
  await one.session.close();
  await cluster.pass(0);
  const [two, three] = [a!, b!].flatMap(({ manager }) => manager.sessionsOf("ann"));
  const four = await cluster.dial(b!, "ann");
  // Long sessions keep their places.
  for (let i = 0; i < 60; i++) await cluster.pass(10_000);
  assert(four.session.isReady && two!.isReady && three === undefined);
  await cluster.refused(a!, "ann");
  // A place is free immediately, whatever the last heartbeat of its node says.
  await four.session.close();
  await cluster.pass(0);
  await cluster.dial(a!, "ann");
});

Deno.test("maxSessionsPerUser holds for tokens in band, too", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerUser: 1 };
  const [a, b] = await cluster.start(2, { limits, allowTokenMessage: true });
  const dial = async (server: TestServer<string>) => {
    const dialing = server.dial({ token: "ann" });
    dialing.catch(() => {});
    await cluster.pass(0);
    return await dialing;
  };
  const one = await dial(a!);
  const refused = assertRejects(() => dial(b!), SessionClosedError);
  await cluster.askAgain();
  assertEquals((await refused).info?.code, 4429);
  await one.close();
  await cluster.pass(0);
  await dial(b!);
});

Deno.test("maxSessionsPerUser admits all sessions that fit, while others give up their places", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerUser: 5 };
  const [a, b] = await cluster.start(2, { limits });
  // An engine that takes its time to free a place, one after the other.
  let line: Promise<unknown> = Promise.resolve();
  cluster.engine.make("store.release", (run) => {
    const freed = line.then(() => new Promise((resolve) => setTimeout(resolve, 5))).then(run);
    line = freed;
    return freed;
  });
  const come = async (servers: TestServer<string>[]) => {
    const dialing = servers.map((server) =>
      server.dial({ headers: { authorization: "Bearer ann" } })
    );
    const settled = Promise.allSettled(dialing);
    for (let i = 0; i < 60; i++) await cluster.pass(5);
    return (await settled).flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
  };
  for (const servers of [[a!], [a!, b!]]) {
    let sessions = await come(Array.from({ length: 8 }, (_, i) => servers[i % servers.length]!));
    assertEquals(sessions.length, 5);
    // All of them leave, and return at once.
    for (const session of sessions) void session.close();
    await cluster.pass(0);
    sessions = await come(Array.from({ length: 5 }, (_, i) => servers[i % servers.length]!));
    assertEquals(sessions.length, 5);
    for (const session of sessions) void session.close();
    for (let i = 0; i < 20; i++) await cluster.pass(5);
  }
});

Deno.test("A session that waits for a place of maxSessionsPerUser takes none from others", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerUser: 2 };
  const [a, b] = await cluster.start(2, { limits });
  const there = [await cluster.dial(b!, "ann"), await cluster.dial(b!, "ann")];
  const coming = Promise.allSettled(
    [1, 2, 3].map(() => a!.dial({ headers: { authorization: "Bearer ann" } })),
  );
  await cluster.pass(100);
  for (const { session } of there) void session.close();
  await cluster.askAgain();
  const statuses = (await coming).map(({ status }) => status).sort();
  assertEquals(statuses, ["fulfilled", "fulfilled", "rejected"]);
});

Deno.test("A node that is full with a user's sessions refuses another without asking the engine", async () => {
  await using cluster = new Cluster();
  const [a] = await cluster.start(1, { limits: { maxSessionsPerUser: 1 } });
  await cluster.dial(a!, "ann");
  let asked = 0;
  cluster.engine.make("store.claim", (run) => {
    asked++;
    return run();
  });
  await assertRejects(() => cluster.dial(a!, "ann"), SessionClosedError);
  assertEquals(asked, 0);
});

Deno.test("The places of a killed node's sessions are free once the node is gone", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerUser: 1 };
  const [a, b] = await cluster.start(2, { limits });
  await cluster.pass(10_000);
  await cluster.dial(a!, "ann");
  await cluster.kill(a!);
  await cluster.refused(b!, "ann");
  await cluster.pass(7_000);
  await cluster.dial(b!, "ann");
});

Deno.test("While the engine is away sessions are counted by node, and claimed later", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerUser: 2 };
  const [a, b] = await cluster.start(2, { limits });
  cluster.engine.make("store.claim", fail);
  await cluster.dial(a!, "ann");
  await cluster.dial(a!, "ann");
  await cluster.refused(a!, "ann");
  cluster.engine.make("store.claim", pass);
  await cluster.pass(40_000);
  await cluster.refused(b!, "ann");
});

Deno.test("An engine that lost its data gets all sessions again once it is back", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2, { limits: { maxSessionsPerUser: 1 } });
  await cluster.dial(a!, "ann");
  cluster.engine.goAway();
  await cluster.pass(1_000);
  cluster.engine.lose();
  cluster.engine.comeBack();
  await cluster.pass(100);
  await cluster.refused(b!, "ann");
});

Deno.test("Clients can neither read nor send the messages between nodes", async () => {
  await using cluster = new Cluster();
  const [a] = await cluster.start(1);
  const ann = await cluster.dial(a!, "ann");
  const session = ann.session as Session;
  for (const topic of ["$skein:nodes", "$skein:user:bob"]) {
    for (const ask of [() => session.subscribe(topic), () => session.publish(topic, "x")]) {
      const refused = assertRejects(ask, RequestError, "may not");
      await cluster.pass(0);
      assertEquals((await refused).failure.code, "forbidden");
    }
  }
});

/** Sessions of one address at a server. */
async function come(
  cluster: Cluster,
  server: TestServer<string>,
  { address, count = 1 }: { readonly address: string; readonly count?: number },
): Promise<Session[]> {
  const dialing = Promise.all(Array.from({ length: count }, () => server.dial({ address })));
  dialing.catch(() => {});
  await cluster.pass(0);
  return await dialing as Session[];
}

const GREEDY = "203.0.113.66";
const HONEST = "198.51.100.7";

Deno.test("A share of an address counts the sessions of all nodes, until their node is gone", async () => {
  for (const how of ["end", "drain", "close", "kill"] as const) {
    await using cluster = new Cluster();
    const limits = { maxSessionsPerAddress: 20 };
    const [a, b] = await cluster.start(2, { limits });
    const there = await come(cluster, a!, { address: GREEDY, count: 20 });
    await cluster.pass(2_000);
    const refused = await assertRejects(
      () => come(cluster, b!, { address: GREEDY }),
      SessionClosedError,
      "your address may have at most 20 sessions at once",
    );
    assertEquals(refused.info?.code, 4429);
    await come(cluster, b!, { address: HONEST });
    const ended = how === "kill" ? cluster.kill(a!) : {
      end: () => there.slice(0, 5).map((session) => session.close()),
      drain: () => a!.drain(),
      close: () => a!.close(),
    }[how]();
    // A drain says so immediately, and a farewell too.
    if (how === "end") await cluster.pass(2_000);
    else if (how === "kill") await cluster.pass(7_000);
    else await cluster.pass(how === "close" ? 1_000 : 0);
    await come(cluster, b!, { address: GREEDY, count: 5 });
    await cluster.pass(20_000);
    await ended;
  }
});

Deno.test("A share of a full server counts the answers that an address runs on other nodes", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  const start = () =>
    testServer<string>({
      broker,
      authenticate: ({ token }) => token ?? "nobody",
      answers: { maxRunning: 256 },
      requests: {
        chat: {
          async *answer({ signal }) {
            yield 1;
            await new Promise((resolve) => signal.addEventListener("abort", resolve));
          },
        },
      },
    });
  await using a = start();
  await using b = start();
  await time.tickAsync(300);
  let last = 0;
  const ask = async (server: TestServer<string>, address: string) => {
    const user = `user-${last++}`;
    const headers = { authorization: `Bearer ${user}` };
    const core = (await server.dial({ address, headers }) as Session)[internals];
    const encode = (id: number) =>
      encodeMessage("chat", 1, { id, stream: user.padStart(20, "0"), maxBytes: 1_000 });
    return await core.sending.ask("the stream", encode, {});
  };
  const asks = (server: TestServer<string>, address: string) =>
    Promise.all(Array.from({ length: 128 }, () => ask(server, address)));
  await asks(a, GREEDY);
  await asks(b, "192.0.2.1");
  await time.tickAsync(2_000);
  const refused = () => ask(b, GREEDY);
  const error = await assertRejects(refused, RequestError, "your address may have at most 128");
  assertEquals(error.failure.code, "too-many");
  await ask(b, HONEST);
  const closing = a.close();
  await time.tickAsync(10_000);
  await closing;
  await ask(b, GREEDY);
});
