/** Tests nodes with different options, as in a rolling deploy. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import { defineContract, type HistoryPosition, type Recovery } from "../mod.ts";
import type { Subscription } from "../client.ts";
import { MemoryBroker, Nodes, type Publication } from "../pubsub/mod.ts";
import { liveState } from "../streams/mod.ts";
import { passTime, type TestServer, testServer, type TestServerOptions } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";

const CHATS = { "chat:{room}": {} };

/** Servers that share a broker, in fake time. */
class Roll implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly broker = new MemoryBroker();
  readonly console = captureConsole();
  readonly #servers: TestServer[] = [];
  readonly #readers: Reader[] = [];

  /** Starts a server, without a wait for the others. */
  begin(options: TestServerOptions = {}): TestServer {
    const server = testServer({ broker: this.broker, authorize: () => true, ...options });
    this.#servers.push(server);
    return server;
  }

  /** Starts a server, and waits until it has compared its options. */
  async start(options: TestServerOptions = {}): Promise<TestServer> {
    const server = this.begin(options);
    await this.pass(300);
    return server;
  }

  /** Subscribes a new client of a server. */
  async read(server: TestServer, topic = "chat:lobby", since?: HistoryPosition) {
    const reader = new Reader(server, topic, since);
    this.#readers.push(reader);
    await this.pass(0);
    return reader;
  }

  async pass(ms: number): Promise<void> {
    await passTime(this.time, ms);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const reader of this.#readers) await reader.leave();
    for (const server of this.#servers) await server[Symbol.asyncDispose]();
    await this.broker.close();
    this.console[Symbol.dispose]();
    this.time.restore();
  }
}

/** A client that records what it receives. */
class Reader {
  readonly subscription: Subscription;
  readonly recoveries: Recovery[] = [];
  readonly #client;
  readonly #seen: unknown[] = [];

  constructor(server: TestServer, topic: string, since?: HistoryPosition) {
    this.#client = server.connect();
    this.subscription = this.#client.subscribe(topic, {
      since,
      onRecovery: (recovery) => void this.recoveries.push(recovery),
    });
    void this.#listen();
  }

  publish(data: unknown): Promise<unknown> {
    return this.#client.publish("chat:lobby", data);
  }

  /** Returns what arrived since the last call. */
  take(): unknown[] {
    return this.#seen.splice(0);
  }

  async leave(): Promise<void> {
    await this.#client.close();
  }

  async #listen(): Promise<void> {
    for await (const { data } of this.subscription) this.#seen.push(data);
  }
}

for (const [change, before, after] of [["adds", {}, CHATS], ["removes", CHATS, {}]] as const) {
  Deno.test(`A deploy that ${change} a history delivers each publication to all nodes once`, async () => {
    await using roll = new Roll();
    const old = await roll.start({ history: before, node: { name: "old" } });
    const early = await roll.read(old);
    const next = await roll.start({ history: after, node: { name: "new" } });
    const third = await roll.start({ history: after, node: { name: "third" } });
    const servers = [old, next, third];
    const readers = [early, ...await Promise.all(servers.map((one) => roll.read(one)))];
    const publishAll = async (running: readonly TestServer[]) => {
      for (const [n, server] of running.entries()) {
        server.publish("chat:lobby", n);
        await roll.pass(0);
      }
      return running.map((_, n) => n);
    };
    const all = await publishAll(servers);
    assertEquals(readers.map((reader) => reader.take()), [all, all, all, all]);
    assertEquals(servers.map(({ nodes }) => nodes!.issues().length), [1, 1, 1]);
    assertStringIncludes(old.nodes!.issues()[0]!, 'history of "chat:{room}"');
    assertStringIncludes(old.nodes!.issues()[0]!, 'on the nodes "new", "third"');
    assertStringIncludes(next.nodes!.issues()[0]!, 'on the node "old"');
    assert(roll.console.lines.some((line) => line.includes('history of "chat:{room}"')));
    await early.leave();
    await readers[1]!.leave();
    await old[Symbol.asyncDispose]();
    assertEquals([next, third].flatMap(({ nodes }) => nodes!.issues()), []);
    const left = await publishAll([next, third]);
    assertEquals(readers.slice(2).map((reader) => reader.take()), [left, left]);
    // The nodes stop listening to what no node publishes any more.
    await roll.pass(15_000);
    const subscribed = roll.broker.stats.received;
    assertEquals(await publishAll([next, third]), left);
    assertEquals(readers.slice(2).map((reader) => reader.take()), [left, left]);
    assert(roll.broker.stats.received > subscribed);
    assertEquals(readers.slice(2).flatMap(({ recoveries }) => recoveries), []);
  });
}

Deno.test("A client's publication on a node that has just started reaches nodes with other options", async () => {
  await using roll = new Roll();
  const old = await roll.start();
  const early = await roll.read(old);
  const next = roll.begin({ history: CHATS });
  const writer = await roll.read(next);
  const publishing = writer.publish("first");
  await roll.pass(300);
  await publishing;
  await writer.subscription.ready;
  await writer.publish("second");
  await roll.pass(0);
  // The second subscription may start after the first publication.
  assertEquals([early.take(), writer.take().slice(-1)], [["first", "second"], ["second"]]);
  assertEquals([...early.recoveries, ...writer.recoveries], []);
});

Deno.test("A program that publishes on a node before it knows the others causes a gap, not a silent loss", async () => {
  await using roll = new Roll();
  const old = await roll.start();
  const early = await roll.read(old);
  const next = roll.begin({ history: CHATS });
  next.publish("chat:lobby", "too early");
  await roll.pass(300);
  assertEquals(early.take(), []);
  assertEquals(early.recoveries.map(({ reason }) => reason), ["interrupted"]);
});

Deno.test("A node with other options that was taken for gone causes a gap, not a silent loss", async () => {
  await using roll = new Roll();
  let isFrozen = false;
  const broker = Object.create(roll.broker, {
    subscribe: { value: roll.broker.subscribe.bind(roll.broker) },
    status: { get: () => roll.broker.status },
    history: { get: () => roll.broker.history },
    publish: {
      value: (publication: Publication) => {
        if (!isFrozen) roll.broker.publish(publication);
      },
    },
  });
  const old = await roll.start({ broker });
  const next = await roll.start({ history: CHATS });
  const reader = await roll.read(next);
  isFrozen = true;
  await roll.pass(30_000);
  assertEquals(next.nodes!.size, 0);
  isFrozen = false;
  old.publish("chat:lobby", "unheard"); // Before the next heartbeat.
  await roll.pass(10_000);
  old.publish("chat:lobby", "heard");
  await roll.pass(0);
  assertEquals(reader.take(), ["heard"]);
  assertEquals(reader.recoveries.map(({ reason }) => reason), ["interrupted"]);
});

Deno.test("A recovery reports a gap if nodes have published outside the history since the position", async () => {
  await using roll = new Roll();
  const old = await roll.start();
  const next = await roll.start({ history: CHATS });
  const [first, second] = [await roll.read(next), await roll.read(next)];
  next.publish("chat:lobby", "kept");
  await roll.pass(0);
  assertEquals(first.take(), ["kept"]);
  const since = first.subscription.position!;
  await first.leave();
  old.publish("chat:lobby", "outside");
  next.publish("chat:lobby", "kept too");
  await roll.pass(0);
  assertEquals(second.take(), ["kept", "outside", "kept too"]);
  // The publications in the history follow the notice of the gap.
  const again = await roll.read(next, "chat:lobby", since);
  assertEquals(again.recoveries.map(({ recovered, reason }) => [recovered, reason]), [
    [false, "interrupted"],
  ]);
  assertEquals(again.take(), ["kept too"]);
  const whole = await roll.read(next, "chat:lobby", second.subscription.position!);
  assertEquals(whole.recoveries.map(({ recovered }) => recovered), [true]);
  // No node follows the topic while the old node publishes on it.
  const last = second.subscription.position!;
  for (const reader of [second, again, whole]) await reader.leave();
  await roll.pass(10_000);
  old.publish("chat:lobby", "unheard");
  await old[Symbol.asyncDispose]();
  await roll.pass(15_000);
  // A node that starts after the deploy learns it from the others.
  const late = await roll.start({ history: CHATS });
  for (const server of [next, late]) {
    const reader = await roll.read(server, "chat:lobby", last);
    assertEquals(reader.recoveries.map(({ reason }) => reason), ["interrupted"]);
    await reader.leave();
  }
  await roll.pass(3_700_000);
  const later = await roll.read(late, "chat:lobby", last);
  assertEquals(later.recoveries.map(({ recovered }) => recovered), [true]);
});

Deno.test("The widest bounds of all nodes are kept, and each node reads within its own", async () => {
  await using roll = new Roll();
  const wide = await roll.start({ history: { "chat:{room}": { size: 5 } } });
  for (let n = 1; n <= 5; n++) wide.publish("chat:lobby", n);
  const narrow = roll.begin({ history: { "chat:{room}": { size: 2 } } });
  const read = async (server: TestServer) => {
    const found = await Array.fromAsync(server.topics.read("chat:lobby"));
    return found.map(({ data }) => data);
  };
  // Also before the nodes know one another.
  assertEquals(await read(narrow), [4, 5]);
  await roll.pass(300);
  narrow.publish("chat:lobby", 6);
  assertEquals([await read(wide), await read(narrow)], [[2, 3, 4, 5, 6], [5, 6]]);
  assertStringIncludes(narrow.nodes!.issues()[0]!, "size 2, ");
  await wide[Symbol.asyncDispose]();
  await roll.pass(15_000);
  narrow.publish("chat:lobby", 7);
  assertEquals(await read(narrow), [6, 7]);
});

Deno.test("Names of parameters don't make the options of nodes differ", async () => {
  const cards = z.object({ title: z.string() });
  const board = (pattern: string) => {
    const contract = defineContract({ state: { [pattern]: { collections: { cards } } } });
    return { contract, features: [liveState(contract)] };
  };
  const many = (name: string) =>
    Array.from({ length: 70 }, (_, n) => [`topic${n}:{${name}}`, { size: n + 1 }]);
  for (
    const [before, after] of [
      [{ history: { "chat:{room}": {} } }, { history: { "chat:{name}": {} } }],
      // The names change the order of the patterns.
      [{ history: { "t{b}x": {}, "t{c}y": {} } }, { history: { "t{b}y": {}, "t{c}x": {} } }],
      [{ history: Object.fromEntries(many("a")) }, { history: Object.fromEntries(many("b")) }],
      [{ rooms: ["chat:{room}"] }, { rooms: ["chat:{name}"] }],
      [board("board:{id}"), board("board:{name}")],
    ] as [TestServerOptions, TestServerOptions][]
  ) {
    await using roll = new Roll();
    const digests = new Set<unknown>();
    await using _subscription = roll.broker.subscribe("$skein:nodes", ({ payload }) => {
      const message = JSON.parse(String(payload));
      if (message.type === "beat") digests.add(message.digest);
    });
    const old = await roll.start(before);
    const next = await roll.start(after);
    assertEquals([...old.nodes!.issues(), ...next.nodes!.issues()], []);
    assertEquals(digests.size, 1, JSON.stringify(after));
  }
});

Deno.test("Nodes name each option that differs, on both sides", async () => {
  const cards = z.object({ title: z.string() });
  const contract = (version: number) =>
    defineContract({ state: { "board:{id}": { collections: { cards }, version } } });
  const [first, second] = [contract(1), contract(2)];
  for (
    const [name, before, after] of [
      ['room "chat:{room}"', { rooms: ["chat:{room}"] }, {}],
      ["limits.maxSessionsPerUser", { limits: { maxSessionsPerUser: 2 } }, {}],
      ["node.heartbeatMs", { node: { heartbeatMs: 1_000 } }, {}],
      ["node.goneAfterMs", { node: { goneAfterMs: 9_000 } }, {}],
      ['history of "chat:{room}"', { history: { "chat:{room}": { ttlMs: 1_000 } } }, {
        history: CHATS,
      }],
      [
        'state "board:{id}"',
        { contract: first, features: [liveState(first)] },
        { contract: second, features: [liveState(second)] },
      ],
    ] as [string, TestServerOptions, TestServerOptions][]
  ) {
    await using roll = new Roll();
    const [old, next] = [await roll.start(before), await roll.start(after)];
    await roll.pass(0);
    for (const { nodes } of [old, next]) {
      assertEquals(nodes!.issues().length, 1, name);
      assertStringIncludes(nodes!.issues()[0]!, ` ${name} is `);
    }
  }
});

Deno.test("Nodes compare at most 64 options one by one, and the others together", async () => {
  await using roll = new Roll();
  const rooms = Array.from({ length: 200 }, (_, n) => `room:${n}`);
  const old = await roll.start({ rooms });
  const next = await roll.start({ rooms: rooms.slice(0, -1) });
  assertEquals(old.nodes!.issues().length, 1);
  assertStringIncludes(next.nodes!.issues()[0]!, "other options");
  const third = await roll.start({ rooms: rooms.map((room) => `other:${room}`) });
  assertEquals(third.nodes!.issues().length, 64);
});

Deno.test("A node waits three seconds at most for a node that confirms nothing", async () => {
  await using roll = new Roll();
  await using silent = new Nodes({ broker: roll.broker, name: "silent" });
  const ignored = { receive() {}, issues: () => [], close() {} };
  silent.announce({ digest: "0123456789abcdef", ...ignored });
  await roll.pass(300);
  const server = roll.begin({ history: CHATS });
  const reader = await roll.read(server);
  const publishing = reader.publish("waits");
  let isPublished = false;
  void publishing.then(() => isPublished = true);
  await roll.pass(2_900);
  assertEquals(isPublished, false);
  assertEquals(server.nodes!.issues(), [
    'Nodes have different options: those of the node "silent" are unknown here',
  ]);
  await roll.pass(100);
  await publishing;
  await reader.subscription.ready;
});

Deno.test("A node that announces no digest is no difference", async () => {
  await using roll = new Roll();
  await using older = new Nodes({ broker: roll.broker, name: "older" });
  const server = await roll.start({ history: CHATS });
  const reader = await roll.read(server);
  assertEquals(older.others().length, 1);
  await roll.pass(10_000);
  assertEquals(server.nodes!.issues(), []);
  server.publish("chat:lobby", 1);
  await roll.pass(0);
  assertEquals([reader.take(), reader.recoveries], [[1], []]);
});

Deno.test("Nodes ignore malformed options of other nodes", async () => {
  await using roll = new Roll();
  const server = await roll.start({ history: CHATS });
  await using other = new Nodes({ broker: roll.broker });
  await roll.pass(300);
  const digest = "0123456789abcdef";
  for (
    const data of [
      null,
      {},
      { digest },
      { digest, history: [["{", 1, 1, 1]], others: [] },
      { digest, history: [["chat", 1, 1]], others: [] },
      { digest, history: [], others: [["name", 7]] },
      { digest, history: [], others: Array.from({ length: 100 }, (_, n) => [`${n}`, ""]) },
      { digest, history: [], others: [["name", "x".repeat(1_000)]] },
    ]
  ) other.tell(server.nodes!.id, "options", data);
  for (const kind of ["listening", "missed"]) other.tell(server.nodes!.id, kind, null);
  await roll.pass(0);
  assertEquals(server.nodes!.issues(), []);
  other.tell(server.nodes!.id, "options", {
    digest,
    history: [],
    others: [],
    outside: [[1], null],
  });
  await roll.pass(0);
  assert(server.nodes!.issues().length > 0);
});

Deno.test("A heartbeat contains a digest of 16 characters", async () => {
  await using roll = new Roll();
  const beats: Record<string, unknown>[] = [];
  await using _subscription = roll.broker.subscribe("$skein:nodes", ({ payload }) => {
    const beat = JSON.parse(String(payload));
    if (beat.type === "beat") beats.push(beat);
  });
  await roll.start({ history: CHATS });
  await roll.pass(2_000);
  const digests = beats.map(({ digest }) => digest);
  assertEquals(new Set(digests).size, 1);
  assertEquals(String(digests[0]).length, 16);
  assert(digests.length > 1);
});
