/** The events of presence: what a reader receives, on one node and on several. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { QueueFullError } from "../../errors.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { Session } from "../../session/session.ts";
import { sessionSettings } from "../../session/mod.ts";
import { memoryPair } from "../../transport/mod.ts";
import { Nodes, type NodesOptions } from "../nodes/nodes.ts";
import type { Broker } from "../broker.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { passTime, turns } from "../../tests/waiting.ts";
import { Presence } from "./presence.ts";
import { MAX_WAITING } from "./events.ts";
import type { PresenceFeedEvent, PresenceOptions } from "./types.ts";

const settings = sessionSettings({ side: "server" });

/** The events of a presence, in short form. */
class Reading {
  readonly events: PresenceFeedEvent[] = [];
  readonly done: Promise<void>;
  readonly #stop = new AbortController();

  constructor(presence: Presence) {
    this.done = this.#read(presence).catch((error) => {
      if (!this.#stop.signal.aborted) throw error;
    });
  }

  async #read(presence: Presence): Promise<void> {
    for await (const event of presence.events({ signal: this.#stop.signal })) {
      this.events.push(event);
    }
  }

  /** Returns the events since the last call: `*` if this node is responsible, `again` if repeated. */
  take(): string[] {
    return this.events.splice(0).map((event) => {
      if (event.kind === "present") {
        return `present ${event.members.map(({ topic, user }) => `${user}@${topic ?? ""}`)}`;
      }
      const mark = event.isResponsible ? "*" : "";
      if (event.kind === "unknown") return `unknown${mark} ${event.topic} ${event.reason}`;
      const again = event.isRepeat ? " again" : "";
      return `${event.kind}${mark} ${event.user}@${event.topic ?? ""}${again}`;
    });
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.done;
  }
}

/** Nodes on one broker, on fake time. */
class Bench implements AsyncDisposable {
  readonly time = new FakeTime(1_000_000);
  readonly store = new FaultyStore();
  readonly broker: Broker = this.store.connect();
  readonly #held: { node: Nodes; presence: Presence; reading: Reading }[] = [];
  readonly #sessions: Session[] = [];

  async start(
    options: PresenceOptions = {},
    nodeOptions: Partial<NodesOptions> = {},
  ): Promise<{ presence: Presence; reading: Reading }> {
    const node = new Nodes({ broker: this.broker, ...nodeOptions });
    const presence = new Presence({ nodes: node, graceMs: 0, ...options });
    const reading = new Reading(presence);
    this.#held.push({ node, presence, reading });
    await passTime(this.time, 2_500);
    return { presence, reading };
  }

  /** Starts a node that receives nothing at first, and would lead nodes of the same age. */
  async startLate(delayMs: number): Promise<{ presence: Presence; reading: Reading }> {
    const broker = this.store.connect();
    const receives = new Promise<void>((resolve) => void setTimeout(resolve, delayMs));
    broker.ready = receives;
    broker.onDelivery = (publication, deliver) => void receives.then(() => deliver(publication));
    const runtime = Object.assign(platformRuntime(), { randomUUID: () => "0" });
    return await this.start({}, { broker, runtime });
  }

  session(user: string): Session {
    const session = new Session(memoryPair().server, settings, { user });
    this.#sessions.push(session);
    return session;
  }

  /** Ends a node with a farewell. */
  async end(presence: Presence): Promise<void> {
    const { node, reading } = this.#held.find((held) => held.presence === presence)!;
    presence[Symbol.dispose]();
    await reading.done;
    await node.close();
  }

  /** Returns what each reader received since the last call. */
  async pass(ms = 1_500): Promise<string[][]> {
    await passTime(this.time, ms);
    return this.#held.map(({ reading }) => reading.take());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#sessions) void session.close();
    for (const { presence } of this.#held) await this.end(presence);
    await this.broker.close();
    this.time.restore();
  }
}

Deno.test("Presence.events() lists the present users, and then yields each change", async () => {
  using _time = new FakeTime();
  using presence = new Presence({ graceMs: 0 });
  await using ann = new Session(memoryPair().server, settings, { user: "ann" });
  await using bob = new Session(memoryPair().server, settings, { user: "bob" });
  presence.enter(ann, "chat", { data: 1 });
  const events = presence.events();
  const next = async () => (await events.next()).value!;
  const { joinedAt } = presence.members("chat")[0]!;
  assertEquals(await next(), {
    kind: "present",
    members: [
      { topic: undefined, user: "ann", connections: 1, joinedAt },
      { topic: "chat", user: "ann", connections: 1, joinedAt, data: 1 },
    ],
  });
  presence.enter(bob);
  presence.update(ann, "chat", { data: 2 });
  presence.leave(ann, "chat");
  const [join, update, leave] = [await next(), await next(), await next()];
  assert(join.kind === "join" && update.kind === "update" && leave.kind === "leave");
  assertEquals(join, {
    kind: "join",
    id: `join/bob/${join.at}`,
    topic: undefined,
    user: "bob",
    at: join.at,
    joinedAt: join.at,
    lastSeenAt: undefined,
    data: undefined,
    node: undefined,
    isResponsible: true,
    isRepeat: false,
  });
  assertEquals([update.id, update.data], [`update:chat/ann/${update.at}`, 2]);
  assertEquals(leave, {
    kind: "leave",
    id: `leave:chat/ann/${joinedAt}`,
    topic: "chat",
    user: "ann",
    at: leave.at,
    joinedAt,
    lastSeenAt: leave.lastSeenAt,
    data: 2,
    node: undefined,
    isResponsible: true,
    isRepeat: false,
  });
  await events.return();
});

Deno.test("Presence.events() gives each update an id of its own, also within a millisecond", async () => {
  using _time = new FakeTime();
  using presence = new Presence({ graceMs: 0 });
  await using ann = new Session(memoryPair().server, settings, { user: "ann" });
  presence.enter(ann, "chat");
  const reading = new Reading(presence);
  while (reading.events.length === 0) await turns(1);
  for (const data of [1, 2, 3]) presence.update(ann, "chat", { data });
  await turns(5);
  const updates = reading.events.flatMap((event) => event.kind === "update" ? [event] : []);
  assertEquals(updates.map(({ data }) => data), [1, 2, 3]);
  assertEquals(new Set(updates.map(({ id }) => id)).size, 3);
  await reading.stop();
});

Deno.test("Presence.events() ends with the presence, and throws the reason of its signal", async () => {
  const presence = new Presence();
  const [ended, aborted] = [new Reading(presence), new AbortController()];
  const events = presence.events({ signal: aborted.signal });
  await events.next();
  const waiting = events.next();
  aborted.abort(new Error("enough"));
  await assertRejects(() => waiting, Error, "enough");
  await assertRejects(() => presence.events({ signal: aborted.signal }).next(), Error, "enough");
  presence[Symbol.dispose]();
  await ended.done;
  assertEquals((await presence.events().next()).done, true);
});

Deno.test("Presence.events() ends a reader that is too slow", async () => {
  using presence = new Presence({ graceMs: 0 });
  await using ann = new Session(memoryPair().server, settings, { user: "ann" });
  const events = presence.events();
  await events.next();
  for (let i = 0; i <= MAX_WAITING; i++) {
    presence.enter(ann, "chat");
    presence.leave(ann, "chat");
  }
  let count = 0;
  const read = async () => {
    for await (const _ of events) count++;
  };
  await assertRejects(read, QueueFullError, "at most 100000 events may wait for a reader");
  assertEquals(count, MAX_WAITING);
  const again = presence.events();
  assertEquals((await again.next()).value!.kind, "present");
  await again.return();
});

Deno.test("Presence.events() makes one node responsible, and another one if that node ends", async () => {
  await using bench = new Bench();
  const [one, two, three] = [await bench.start(), await bench.start(), await bench.start()];
  for (const { presence } of [one, two, three]) {
    presence.follow("chat");
    await bench.pass();
  }
  const ann = bench.session("ann");
  two.presence.enter(ann, "chat");
  const [joined] = [await bench.pass()];
  assertEquals(joined[0], ["join* ann@", "join* ann@chat"]);
  assertEquals(joined[1], ["join ann@", "join ann@chat"]);
  assertEquals(joined[2], joined[1]);

  // A move to another node is neither a leave nor a join.
  const moved = bench.session("ann");
  three.presence.enter(moved, "chat");
  two.presence.leave(ann, "chat");
  assertEquals((await bench.pass()).flat(), []);

  // It is unknown whether the first node acted on the join.
  await bench.end(one.presence);
  assertEquals(await bench.pass(), [[], ["join* ann@ again", "join* ann@chat again"], []]);
  three.presence.leave(moved, "chat");
  assertEquals(await bench.pass(), [[], ["leave* ann@chat"], ["leave ann@chat"]]);
});

Deno.test("Presence.events() says that a topic's users are unknown if the only node is gone", async () => {
  await using bench = new Bench();
  const [one, , three] = [await bench.start(), await bench.start(), await bench.start()];
  three.presence.enter(bench.session("ann"), "chat");
  await bench.pass();
  await bench.end(three.presence);
  await passTime(bench.time, 1_500);
  const ids = one.reading.events.flatMap((event) => "id" in event ? [event.id] : []);
  const [first, second, third] = await bench.pass(0);
  assertEquals(first, ["unknown* chat gone", "leave* ann@"]);
  assertEquals(second, ["unknown chat gone", "leave ann@"]);
  assertEquals(third, []);
  const [gap] = ids.filter((id) => id.startsWith("unknown"));
  assert(gap?.startsWith("unknown:chat/"));
  // The responsible node ends before anyone knows whether it acted.
  await bench.end(one.presence);
  assertEquals((await bench.pass())[1], [
    "unknown* chat gone",
    "join* ann@ again",
    "leave* ann@ again",
  ]);
});

Deno.test("Presence.events() yields joins in a topic that nodes begin to track at the same time", async () => {
  await using bench = new Bench();
  const [one, two, three] = [await bench.start(), await bench.start(), await bench.start()];
  await bench.pass();
  for (const { presence } of [one, two, three]) {
    presence.enter(bench.session("ann"), "chat");
    presence.enter(bench.session(`user-${presence === one.presence}`), "chat");
  }
  const responsible = (await bench.pass(3_000)).flat().filter((event) =>
    event.includes("*") && event.endsWith("@chat")
  );
  assertEquals(responsible.toSorted(), [
    "join* ann@chat",
    "join* user-false@chat",
    "join* user-true@chat",
  ]);
});

Deno.test("Presence.events() says that it no longer knows a topic's users", async () => {
  await using bench = new Bench();
  const [one, two] = [await bench.start(), await bench.start()];
  one.presence.enter(bench.session("ann"), "chat");
  await bench.pass();
  const following = two.presence.follow("chat");
  assertEquals((await bench.pass(1_500))[1], ["present ann@chat"]);
  following[Symbol.dispose]();
  assertEquals(await bench.pass(19_000), [[], []]);
  assertEquals(await bench.pass(2_000), [[], ["unknown chat untracked"]]);
});

Deno.test("Presence.events() lists users that were present before any node read its events", async () => {
  await using bench = new Bench();
  const [one, two] = [await bench.start(), await bench.start()];
  await one.reading.stop();
  await two.reading.stop();
  one.presence.enter(bench.session("ann"), "chat");
  two.presence.enter(bench.session("bob"), "chat");
  await bench.pass();
  const late = new Reading(two.presence);
  await passTime(bench.time, 3_000);
  assertEquals(late.take(), ["present bob@,ann@,bob@chat,ann@chat"]);
  one.presence.enter(bench.session("cora"), "chat");
  await passTime(bench.time, 1_500);
  assertEquals(late.take(), ["join* cora@", "join* cora@chat"]);
  await late.stop();
});

Deno.test("Presence.events() of a node tells its own online users if the nodes don't share them", async () => {
  await using bench = new Bench();
  const [one, two] = [
    await bench.start({ acrossNodes: false }),
    await bench.start({ acrossNodes: false }),
  ];
  one.presence.enter(bench.session("ann"));
  two.presence.enter(bench.session("ann"));
  assertEquals(await bench.pass(), [["present ", "join* ann@"], ["present ", "join* ann@"]]);
  await bench.end(one.presence);
  assertEquals((await bench.pass())[1], ["unknown* undefined gone"]);
});

Deno.test("Presence.events() yields the same changes with their node and data on all nodes", async () => {
  await using bench = new Bench();
  const [one, two] = [await bench.start(), await bench.start()];
  for (const { presence } of [one, two]) {
    presence.follow("chat");
    await bench.pass();
  }
  const [ann, bob] = [bench.session("ann"), bench.session("bob")];
  two.presence.enter(ann, "chat", { data: { is: "here" } });
  one.presence.enter(bob, "chat");
  await passTime(bench.time, 1_500);
  two.presence.update(ann, "chat", { data: { is: "away" } });
  await passTime(bench.time, 1_500);
  for (const { presence } of [one, two]) {
    for (const user of [ann, bob]) presence.leave(user, "chat");
  }
  await passTime(bench.time, 1_500);
  const [here, there] = [one, two].map(({ reading }) =>
    reading.events.flatMap((event) => "user" in event && event.topic === "chat" ? [event] : [])
  );
  assertEquals(here!.map(({ isResponsible }) => isResponsible), Array(5).fill(true));
  // Each node sees an update when it arrives.
  const same = ({ kind }: PresenceFeedEvent) => kind !== "update";
  assertEquals(
    there!.filter(same).map((event) => ({ ...event, isResponsible: true })),
    here!.filter(same),
  );
  const nodes = here!.map(({ node }) => node);
  assertEquals(nodes, [nodes[0], nodes[1], nodes[1], nodes[0], nodes[1]]);
  assertEquals(here!.map(({ kind, user, data }) => [kind, user, data]), [
    ["join", "bob", undefined],
    ["join", "ann", { is: "here" }],
    ["update", "ann", { is: "away" }],
    ["leave", "bob", undefined],
    ["leave", "ann", { is: "away" }],
  ]);
});

Deno.test("Presence.events() keeps stays if a node starts that receives messages late", async () => {
  await using bench = new Bench();
  const [one, two] = [await bench.start(), await bench.start()];
  const ann = bench.session("ann");
  two.presence.enter(ann);
  await passTime(bench.time, 30_000);
  const events = () => [one, two].flatMap(({ reading }) => reading.events);
  const [joinedAt] = events().flatMap((event) => event.kind === "join" ? [event.joinedAt] : []);
  await bench.pass();
  await bench.startLate(1_100);
  assertEquals(await bench.pass(10_000), [[], [], ["present ", "join ann@"]]);
  two.presence.leave(ann);
  await passTime(bench.time, 1_500);
  const leaves = events().map((event) => event.kind === "leave" && [event.user, event.joinedAt]);
  assertEquals(leaves, [["ann", joinedAt!], ["ann", joinedAt!]]);
  assertEquals((await bench.pass(0)).flat().sort(), ["leave ann@", "leave ann@", "leave* ann@"]);
});

Deno.test("Presence.events() ends the stays of a node that didn't know of the others", async () => {
  await using bench = new Bench();
  const [one, two] = [await bench.start(), await bench.start()];
  two.presence.enter(bench.session("ann"));
  await bench.pass(30_000);
  const late = await bench.startLate(5_000);
  late.presence.enter(bench.session("ann"));
  late.presence.enter(bench.session("bob"));
  await passTime(bench.time, 10_000);
  const idsOf = ({ reading }: { readonly reading: Reading }) =>
    new Set(
      reading.events.flatMap((event) =>
        event.kind === "join" && event.user === "bob" ? [event.id] : []
      ),
    );
  assertEquals(idsOf(one), idsOf(late));
  const [ofOne, ofTwo, ofLate] = await bench.pass(0);
  assertEquals([ofOne, ofTwo], [["join* bob@"], ["join bob@"]]);
  assertEquals(ofLate, ["present ", "join* ann@", "join* bob@", "leave* ann@ again", "join ann@"]);
});

Deno.test("Presence.events() takes short stays, and ids of any users", async () => {
  await using bench = new Bench();
  const [{ presence, reading }] = [await bench.start(), await bench.start()];
  presence.follow("chat");
  await bench.pass();
  const user = "a/b \ud800";
  const session = bench.session(user);
  presence.enter(session, "chat");
  presence.leave(session, "chat");
  await passTime(bench.time, 2_000);
  const [, join, leave] = reading.events;
  assert(join?.kind === "join" && leave?.kind === "leave");
  assertEquals([join.user, leave.user], [user, user]);
  assertEquals(join.id, `join:chat/a%2Fb%20%EF%BF%BD/${join.joinedAt}`);
});
