/** Tests servers that share a broker: users, presence, rooms and limits across nodes. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type PresenceNotice, RequestError, type Session, SessionClosedError } from "../mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { type FaultyBroker, FaultyStore } from "./faulty_broker.ts";
import { internals } from "../session/session.ts";
import { encodeMessage } from "../session/wire/encode.ts";
import { type TestServer, testServer, type TestServerOptions } from "../testing/mod.ts";
import { resumable } from "../streams/mod.ts";

type Options = TestServerOptions<string>;

/** Servers that share a broker, on fake time. */
class Cluster implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly store = new FaultyStore();
  readonly #servers: TestServer<string>[] = [];

  /** Starts servers, and waits until they have discovered each other. */
  async start(count: number, options: Options = {}): Promise<TestServer<string>[]> {
    const servers = Array.from({ length: count }, (_, i) =>
      testServer<string>({
        broker: this.store.connect(),
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

  /** Opens a user's session, and records the received publications. */
  async dial(server: TestServer<string>, user: string): Promise<User> {
    const dialing = server.dial({ headers: { authorization: `Bearer ${user}` } });
    let isPending = true;
    dialing.catch(() => {}).finally(() => isPending = false);
    await this.pass(0);
    // The server's retry may claim a slot that was just released.
    if (isPending) await this.askAgain();
    return new User(await dialing);
  }

  /** Returns how the server rejected a user's session, after its retries to claim a slot. */
  async rejected(
    server: TestServer<string>,
    user: string,
    { afterMs = 0 } = {},
  ): Promise<SessionClosedError> {
    const dialing = server.dial({ headers: { authorization: `Bearer ${user}` } });
    const rejected = assertRejects(() => dialing, SessionClosedError);
    await this.askAgain();
    await this.pass(afterMs);
    return await rejected;
  }

  /** Advances the time past the server's retries to claim a slot. */
  async askAgain(): Promise<void> {
    for (let i = 0; i < 8; i++) await this.pass(50);
  }

  async pass(ms: number): Promise<void> {
    await this.time.tickAsync(ms);
    // Delivers the messages of the last turn.
    await this.time.tickAsync(0);
  }

  /** Simulates a killed process by cutting off its broker and clients without a goodbye. */
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
  readonly #heard: string[] = [];

  constructor(session: unknown) {
    this.session = session as Session<unknown, never, "client">;
    void this.#listen();
  }

  /** Returns the publications received since the last call. */
  take(): string[] {
    return this.#heard.splice(0);
  }

  async #listen(): Promise<void> {
    for await (const { topic, data } of this.session as Session) {
      this.#heard.push(
        topic.startsWith("presence:")
          ? inWords(data as PresenceNotice)
          : `${topic} ${JSON.stringify(data)}`,
      );
    }
  }
}

function inWords(notice: PresenceNotice): string {
  if (notice.type !== "members") return `${notice.type} ${"user" in notice ? notice.user : ""}`;
  const members = notice.members.map(({ user, connections }) => `${user}*${connections}`);
  const isCut = notice.isComplete === false;
  return `members ${members.sort().join(" ")}${isCut ? " and others" : ""}`;
}

/** Adds the session to a room through its own server. */
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

Deno.test("A user's sessions on all nodes each receive a message to the user once", async () => {
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
  assertEquals({
    oneTake: one.take(),
    twoTake: two.take(),
    threeTake: three.take(),
    bobTake: bob.take(),
  }, { oneTake: both, twoTake: both, threeTake: both, bobTake: [] });
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

Deno.test("Server.disconnect() reports that a node did not reply", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  await cluster.dial(b!, "ann");
  await cluster.kill(b!);
  const closing = a!.disconnect("ann");
  await cluster.pass(6_000);
  // The node has timed out, and so have its sessions.
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
  assertEquals([ann.take(), bob.take()], [["connections ann"], ["connections ann"]]);
  assertEquals([a!.rooms.members("room:a").map(({ user, connections }) => [user, connections])], [[
    ["ann", 2],
    ["bob", 1],
  ]]);
  b!.rooms.publish("room:a", "hello");
  await cluster.pass(0);
  assertEquals([ann.take(), bob.take()], [['room:a "hello"'], ['room:a "hello"']]);
  // Each node reports each user once, except users who joined before the node followed the room.
  assertEquals(events, [["join ann", "join bob"], ["join bob"]]);
});

Deno.test("A user who opens a room on a new node receives all members in one list, without joins", async () => {
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

Deno.test("A list of members says that it is not complete if another node does not reply", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2);
  const bob = await cluster.dial(b!, "bob");
  await join(cluster, b!, bob);
  const broker = b!.topics.broker as FaultyBroker;
  broker.cut();
  const ann = await cluster.dial(a!, "ann");
  await join(cluster, a!, ann);
  assertEquals(ann.take(), []);
  await cluster.pass(1_000);
  assertEquals(ann.take(), ["members ann*1 and others"]);
  assertEquals(a!.presence.isComplete("room:a"), false);
  broker.mend();
  await cluster.pass(4_000);
  assertEquals([ann.take(), a!.presence.isComplete("room:a")], [["join bob"], true]);
  const cyd = await cluster.dial(a!, "cyd");
  await join(cluster, a!, cyd);
  assertEquals(cyd.take(), ["members ann*1 bob*1 cyd*1"]);
});

Deno.test("A user on two nodes that open a room at the same time joins once, whichever node asks first", async () => {
  await using cluster = new Cluster();
  // Sorts the servers by id, which decides between simultaneous joins.
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

Deno.test("Presence.follow() works if a topic has no members on this node", async () => {
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

Deno.test("node and presence.graceMs limit how long users of a killed node stay online", async () => {
  await using cluster = new Cluster();
  const node = { heartbeatMs: 500, goneAfterMs: 2_000 };
  const [a, b] = await cluster.start(2, { node, presence: { graceMs: 1_000 } });
  await cluster.dial(b!, "ann");
  await cluster.pass(1_000);
  assertEquals(a!.presence.online(), ["ann"]);
  await cluster.kill(b!);
  await cluster.pass(3_500);
  assertEquals(a!.presence.online(), []);
});

Deno.test("presence: { acrossNodes: false } limits presence to each node", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2, { presence: { acrossNodes: false } });
  const ann = await cluster.dial(a!, "ann");
  await join(cluster, a!, ann);
  const bob = await cluster.dial(b!, "bob");
  await join(cluster, b!, bob);
  assertEquals([a!.presence.online(), b!.presence.online()], [["ann"], ["bob"]]);
  assertEquals(bob.take(), ["members ann*1 bob*1"]);
});

Deno.test("maxSessionsPerUser applies to all nodes together", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerUser: 2 };
  const [a, b] = await cluster.start(2, { limits });
  const one = await cluster.dial(a!, "ann");
  await cluster.dial(b!, "ann");
  await cluster.dial(b!, "bob");
  const rejected = await cluster.rejected(a!, "ann");
  assertEquals([rejected.info?.code, rejected.info?.reason], [
    4429,
    "Cannot admit session: your user may have at most 2 sessions at once",
  ]);
  await one.session.close();
  await cluster.pass(0);
  const [two, three] = [a!, b!].flatMap(({ manager }) => manager.sessionsOf("ann"));
  const four = await cluster.dial(b!, "ann");
  // Long-lived sessions keep their slots.
  for (let i = 0; i < 60; i++) await cluster.pass(10_000);
  assert(four.session.isReady && two!.isReady && three === undefined);
  await cluster.rejected(a!, "ann");
  // A slot is free immediately, even if the last heartbeat of its node still includes it.
  await four.session.close();
  await cluster.pass(0);
  await cluster.dial(a!, "ann");
});

Deno.test("maxSessionsPerUser admits all sessions that fit, while others release their slots", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerUser: 5 };
  const [a, b] = await cluster.start(2, { limits });
  // Makes the broker release slots slowly, one after the other.
  let line: Promise<unknown> = Promise.resolve();
  cluster.store.make("store.release", (run) => {
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
    // All of them close and reconnect immediately.
    for (const session of sessions) void session.close();
    await cluster.pass(0);
    sessions = await come(Array.from({ length: 5 }, (_, i) => servers[i % servers.length]!));
    assertEquals(sessions.length, 5);
    for (const session of sessions) void session.close();
    for (let i = 0; i < 20; i++) await cluster.pass(5);
  }
});

Deno.test("A session that waits for a slot of maxSessionsPerUser takes no slot from others", async () => {
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

Deno.test("A node that is full of a user's sessions rejects another without asking the broker", async () => {
  await using cluster = new Cluster();
  const [a] = await cluster.start(1, { limits: { maxSessionsPerUser: 1 } });
  await cluster.dial(a!, "ann");
  let asked = 0;
  cluster.store.make("store.claim", (run) => {
    asked++;
    return run();
  });
  await assertRejects(() => cluster.dial(a!, "ann"), SessionClosedError);
  assertEquals(asked, 0);
});

Deno.test("The slots of a killed node's sessions are free after the node times out", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerUser: 1 };
  const [a, b] = await cluster.start(2, { limits });
  await cluster.pass(10_000);
  await cluster.dial(a!, "ann");
  await cluster.kill(a!);
  // The killed node does not report whether its sessions are silent.
  await cluster.rejected(b!, "ann", { afterMs: 3_500 });
  await cluster.pass(7_000);
  await cluster.dial(b!, "ann");
});

Deno.test("A slot that is renewed while its session ends is free afterwards", async () => {
  await using cluster = new Cluster();
  const [a, b] = await cluster.start(2, { limits: { maxSessionsPerUser: 1 } });
  const { session } = await cluster.dial(a!, "ann");
  const gate = Promise.withResolvers<void>();
  let renewals = 0;
  cluster.store.make("store.claim", async (run) => {
    if (++renewals === 1) await gate.promise;
    return await run();
  });
  await cluster.pass(40_000);
  assertEquals(renewals, 1);
  void session.close();
  await cluster.pass(100);
  gate.resolve();
  await cluster.pass(100);
  await cluster.dial(b!, "ann");
});

Deno.test("Clients can neither read nor send the messages between nodes", async () => {
  await using cluster = new Cluster();
  const [a] = await cluster.start(1);
  const ann = await cluster.dial(a!, "ann");
  const session = ann.session as Session;
  for (const topic of ["$skein:nodes", "$skein:user:bob"]) {
    for (const ask of [() => session.subscribe(topic), () => session.publish(topic, "x")]) {
      const rejected = assertRejects(ask, RequestError, "may not");
      await cluster.pass(0);
      assertEquals((await rejected).failure.code, "forbidden");
    }
  }
});

/** Opens sessions from one address. */
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

Deno.test("An address's share counts its sessions on all nodes, until their node is gone", async () => {
  for (const how of ["end", "drain", "close", "kill"] as const) {
    await using cluster = new Cluster();
    const limits = { maxSessionsPerAddress: 20 };
    const [a, b] = await cluster.start(2, { limits });
    const there = await come(cluster, a!, { address: GREEDY, count: 20 });
    await cluster.pass(2_000);
    const rejected = await assertRejects(
      () => come(cluster, b!, { address: GREEDY }),
      SessionClosedError,
      "your address may have at most 20 sessions at once",
    );
    assertEquals(rejected.info?.code, 4429);
    await come(cluster, b!, { address: HONEST });
    const ended = how === "kill" ? cluster.kill(a!) : {
      end: () => there.slice(0, 5).map((session) => session.close()),
      drain: () => a!.drain(),
      close: () => a!.close(),
    }[how]();
    // Nodes announce a drain and a goodbye immediately.
    if (how === "end") await cluster.pass(2_000);
    else if (how === "kill") await cluster.pass(7_000);
    else await cluster.pass(how === "close" ? 1_000 : 0);
    await come(cluster, b!, { address: GREEDY, count: 5 });
    await cluster.pass(20_000);
    await ended;
  }
});

Deno.test("An address's share counts its sessions for nodes that missed their report or joined later", async () => {
  await using cluster = new Cluster();
  const limits = { maxSessionsPerAddress: 20 };
  const [a, b] = await cluster.start(2, { limits });
  const broker = b!.topics.broker as FaultyBroker;
  broker.cut();
  await come(cluster, a!, { address: GREEDY, count: 20 });
  await cluster.pass(4_000);
  broker.mend();
  const [c] = await cluster.start(1, { limits });
  // A heartbeat shows what is missing, and the next one brings it.
  await cluster.pass(4_000);
  for (const late of [b!, c!]) {
    await assertRejects(
      () => come(cluster, late, { address: GREEDY }),
      SessionClosedError,
      "your address may have at most 20 sessions at once",
    );
    await come(cluster, late, { address: HONEST });
  }
});

Deno.test("An address's share counts its running responses on other nodes", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  const start = () =>
    testServer<string>({
      broker,
      authenticate: ({ token }) => token ?? "nobody",
      features: [resumable({ maxRunning: 256 })],
      requests: {
        chat: {
          resumable,
          async *handle({ signal }) {
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
    Promise.all(Array.from({ length: 32 }, () => ask(server, address)));
  await asks(a, GREEDY);
  await asks(b, "192.0.2.1");
  await time.tickAsync(2_000);
  const rejected = () => ask(b, GREEDY);
  const error = await assertRejects(rejected, RequestError, "your address may have at most 32");
  assertEquals(error.failure.code, "too-many");
  await ask(b, HONEST);
  const closing = a.close();
  await time.tickAsync(10_000);
  await closing;
  await ask(b, GREEDY);
});
