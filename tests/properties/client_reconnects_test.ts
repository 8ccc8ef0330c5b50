/**
 * Clients on two nodes whose sessions end and move, while their programs make calls of all kinds.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import { CloseCode } from "../../errors.ts";
import type { Host, SimulatedServer } from "../simulator/mod.ts";
import { type Drawn, maybe, stepOf, transport } from "./draw.ts";
import { collect, outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import { areSubscribed } from "./readings.ts";
import { byToken, type World } from "./world.ts";

/** Topics that each client reads throughout, one with a history and one without. */
const [KEPT, TALK] = ["kept:all", "talk:all"] as const;

/** Topics to which clients subscribe for a while. */
const TOPICS = ["kept:some", "talk:some", "room:one", "room:two"] as const;

/** Maximum time until everything is idle after a round, in milliseconds. */
const REST_MS = 12_000;

/** Close codes after which a client reconnects. */
const CODES = [CloseCode.draining, CloseCode.tooMany, CloseCode.handlerFailed, 3_000] as const;

/** A call of a program. */
const call = fc.oneof(
  stepOf("ask", { retry: fc.boolean(), ms: fc.nat(300) }),
  stepOf("send", { isLarge: fc.boolean() }),
  stepOf("publish", { isKept: fc.boolean(), echo: fc.boolean() }),
  /** Subscribes or leaves. `again` reverts that some microtasks later. */
  stepOf("toggle", {
    topic: fc.constantFrom(...TOPICS),
    again: maybe(fc.nat(12)),
  }),
  stepOf("present", { room: fc.constantFrom(TOPICS[2], TOPICS[3]) }),
);

type Call = Drawn<typeof call>;

/** A fault that affects one client's session. */
const trouble = fc.record({
  kind: fc.constantFrom(
    "nothing",
    "a cut",
    "a silent cut",
    "a cut that no node notices",
    "a close",
    "a frozen client",
    "a move",
    "two moves",
    "a move with a cut",
    "a move on a slow link",
    "a move on a narrow link",
  ),
  /** The index of the call before the fault, and a delay. */
  at: fc.nat(5),
  ms: fc.nat(150),
});

type Trouble = Drawn<typeof trouble>;

const round = fc.record({
  /** The programs of one or more clients. */
  clients: fc.array(
    fc.record({
      calls: fc.array(fc.tuple(call, fc.nat(80)), { maxLength: 5 }),
      trouble,
    }),
    { minLength: 1, maxLength: 3 },
  ),
  /** The fate of a node in the middle of the round. */
  node: fc.constantFrom("stays", "stays", "stays", "is killed", "drains"),
  which: fc.nat(1),
});

property("a client whose sessions end and move still does all that its program requested", {
  cases: fc.record({
    reliable: fc.boolean(),
    /** Maximum time that a rights check takes, in milliseconds. */
    rightMs: fc.constantFrom(0, 100, 250),
    transports: transport,
    rounds: fc.array(round, { minLength: 1, maxLength: 3 }),
  }),
  async check(world, { reliable, rightMs, transports, rounds }) {
    const nodes = await Nodes.start(world, rightMs);
    const most = Math.max(...rounds.map(({ clients }) => clients.length));
    const programs = Array.from(
      { length: most },
      (_, i) =>
        new Program(world, `user-${i}`, { nodes, isReliable: reliable, transport: transports }),
    );
    await atRest(world, nodes, programs);
    for (const { clients, node, which } of rounds) {
      const running = clients.map((own, i) => programs[i]!.play(own));
      if (node !== "stays") await nodes.end(which, node === "drains");
      await Promise.all(running);
      // A request detects a session whose end went unnoticed.
      await Promise.all(programs.map((program) => program.confirm()));
      await atRest(world, nodes, programs);
      for (const program of programs) program.compare();
      await probe(world, programs);
    }
    await Promise.all(programs.map(({ client }) => client.close()));
    await world.until(
      "no session and no topic",
      () => nodes.servers.every(({ manager, topics }) => manager.count === 0 && topics.size === 0),
    );
  },
});

/** Waits until each client has one session with its program's topics, members and publications. */
async function atRest(world: World, nodes: Nodes, programs: readonly Program[]): Promise<void> {
  const restless = () => {
    const sessions = nodes.servers.flatMap(({ manager }) => manager.all());
    if (sessions.length !== programs.length) return `${sessions.length} sessions`;
    for (const program of programs) {
      if (!program.isAtRest) return `calls of ${program.name}`;
      const { wanted } = program;
      if (`${nodes.topicsOf(program.name)}` !== `${wanted}`) return `topics of ${program.name}`;
      const lacking = programs.flatMap((other) => other.missingAt(program));
      if (lacking.length > 0) return `publications ${lacking} at ${program.name}`;
    }
    for (const room of [TOPICS[2], TOPICS[3]]) {
      const expected = programs.filter(({ wanted }) => wanted.includes(room))
        .map(({ name, presence }) => `${name} ${presence.get(room)}`).sort();
      for (const { rooms, topics } of nodes.servers) {
        // A node that has no members itself does not follow the room.
        if (topics.subscribers(room).length === 0) continue;
        const members = rooms.members(room).map(({ user, data }) => `${user} ${data}`).sort();
        if (`${members}` !== `${expected}`) return `members of ${room}: ${members}`;
      }
    }
    return "";
  };
  const endMs = world.nowMs + REST_MS;
  while (restless() !== "" && world.nowMs < endMs) await world.pause(20);
  assertEquals(restless(), "", "what is not idle");
}

/**
 * Publishes once on each topic. Only the subscribers must receive the publication, each of them
 * once.
 */
async function probe(world: World, programs: readonly Program[]): Promise<void> {
  const [first] = programs as [Program];
  for (const topic of [KEPT, TALK, ...TOPICS]) {
    const id = first.newId();
    await world.inTime("a publication", first.client.publish(topic, { id }));
    const counts = () => programs.map(({ got }) => got(topic).filter((one) => one === id).length);
    const expected = programs.map(({ wanted }) => wanted.includes(topic) ? 1 : 0);
    await world.until(`${id} on ${topic}`, () => counts().every((n, i) => n >= expected[i]!));
    await world.pause(60);
    assertEquals(counts(), expected, `${id} on ${topic}`);
    assert(programs.every(({ strays }) => !strays.has(id)), `${id} without a subscription`);
  }
}

/** Two nodes on a store that never fails, and what their handlers received. */
class Nodes {
  readonly requests: Map<string, number> = new Map();
  readonly messages: Map<string, string[]> = new Map();
  /** True once a node died, so that a message may be handled again. */
  hasDied = false;
  #programs: readonly SimulatedServer<string>[] = [];

  private constructor(readonly world: World) {}

  static async start(world: World, rightMs: number): Promise<Nodes> {
    const store = await world.store("memory");
    const nodes = new Nodes(world);
    let rights = 0;
    nodes.#programs = ["node-0", "node-1"].map((name) =>
      world.serve<string>(name, (host) => ({
        ...byToken,
        broker: store.broker(host),
        authorize: async () => {
          await world.pause(rightMs * (rights++ % 3) / 2);
          return true;
        },
        history: { "kept:{name}": {} },
        rooms: ["room:{name}"],
        presence: { graceMs: 200 },
        session: { heartbeat: { intervalMs: 1_000, timeoutMs: 2_400 } },
        requests: {
          hold: async ({ data }) => {
            const { id, ms } = data as { readonly id: string; readonly ms: number };
            nodes.requests.set(id, (nodes.requests.get(id) ?? 0) + 1);
            await world.pause(ms);
          },
        },
        onMessage: async ({ data }, { user }) => {
          const [id = ""] = `${data}`.split(" ");
          nodes.messages.set(user, [...nodes.messages.get(user) ?? [], id]);
          await world.pause(nodes.messages.size % 3 * 15);
        },
        onError() {},
      }))
    );
    await Promise.all(nodes.servers.map((server) => server.nodes!.ready));
    return nodes;
  }

  get hosts(): readonly Host[] {
    return this.#programs.map(({ host }) => host);
  }

  get servers(): readonly SimulatedServer<string>["server"][] {
    return this.#programs.map(({ server }) => server);
  }

  /** Returns the sorted topics of a user's sessions. */
  topicsOf(user: string): string[] {
    return this.servers.flatMap(({ manager, topics }) =>
      manager.sessionsOf(user).flatMap((session) => topics.requestedBy(session))
    ).sort();
  }

  /** Stops a node and starts it again. */
  async end(index: number, drains: boolean): Promise<void> {
    const program = this.#programs[index]!;
    if (drains) await program.server.drain({ withinMs: 400 });
    this.hasDied = true;
    program.host.kill();
    await this.world.pause(600);
    program.restart();
  }
}

/** A client, its calls and their outcomes. */
class Program {
  readonly client: Client;
  readonly presence: Map<string, string> = new Map();
  /** Publications that reached no subscription. */
  readonly strays: Set<string> = new Set();
  readonly #nodes: Nodes;
  readonly #isReliable: boolean;
  readonly #subscriptions = new Map<string, { subscription: Subscription; got: string[] }>();
  readonly #sent: string[] = [];
  readonly #published: { id: string; echo: boolean; isAcknowledged: boolean }[] = [];
  readonly #requests: { id: string; retry: boolean; outcome: string }[] = [];
  readonly #wrong: string[] = [];
  #waiting = 0;
  #ids = 0;

  constructor(readonly world: World, readonly name: string, { nodes, isReliable, transport }: {
    readonly nodes: Nodes;
    readonly isReliable: boolean;
    readonly transport: "websocket" | "webtransport" | "http";
  }) {
    this.#nodes = nodes;
    this.#isReliable = isReliable;
    this.client = world.connect(name, nodes.hosts, {
      token: name,
      transports: [transport],
      delivery: isReliable ? "at-least-once" : "at-most-once",
      backoff: { firstDelayMs: 100, maxDelayMs: 400 },
      connectTimeoutMs: 1_500,
      onMessage: ({ data }) => void this.strays.add((data as { readonly id: string })?.id),
      // The nodes accept everything that the program sends.
      onMessageRejected: ({ message }) => void this.#wrong.push(message),
      onError() {},
    });
    this.#toggle(KEPT);
    this.#toggle(TALK);
  }

  /** The topics of live subscriptions, sorted. */
  get wanted(): string[] {
    return [...this.#subscriptions.keys()].sort();
  }

  /** True if no call is pending, nothing waits, and all subscriptions are live. */
  get isAtRest(): boolean {
    return this.#waiting === 0 && this.client.isConnected && this.client.outbox.messages === 0 &&
      areSubscribed([...this.#subscriptions.values()]);
  }

  /** Ids that the subscription of a topic received. */
  readonly got = (topic: string): readonly string[] => this.#subscriptions.get(topic)?.got ?? [];

  newId(): string {
    return `${this.name}.${this.#ids++}`;
  }

  /** Acknowledged publications with a history that a client has not read. */
  missingAt(reader: Program): string[] {
    const got = reader.got(KEPT);
    return this.#published
      .filter(({ echo, isAcknowledged }) => isAcknowledged && (echo || reader !== this))
      .flatMap(({ id }) => got.includes(id) ? [] : [id]);
  }

  /** Makes calls, with a fault after one of them. */
  async play({ calls, trouble }: { readonly calls: readonly [Call, number][]; trouble: Trouble }) {
    let running: Promise<unknown> | undefined;
    for (const [i, [call, pauseMs]] of calls.entries()) {
      if (i === trouble.at) running = this.#trouble(trouble);
      this.#call(call);
      await this.world.pause(pauseMs);
    }
    await (running ?? this.#trouble(trouble));
  }

  /** Sends requests until a session replies. */
  async confirm(): Promise<void> {
    const asking = this.client.request("hold", { id: this.newId(), ms: 0 }, { retry: true });
    await this.world.inTime(`an answer for ${this.name}`, asking, REST_MS);
  }

  /** Compares all outcomes with what the nodes handled and this client received. */
  compare(): void {
    const { requests, messages, hasDied } = this.#nodes;
    for (const { id, retry, outcome } of this.#requests.splice(0)) {
      const times = requests.get(id) ?? 0;
      const isDone = outcome === "fulfilled";
      const isRight = isDone ? times > 0 : !retry && outcome === "SessionClosedError";
      assert(isRight && (retry || times <= 1), `request ${id}: ${outcome}, handled ${times} times`);
    }
    const handled = messages.get(this.name) ?? [];
    const once = [...new Set(handled)];
    if (!hasDied) assertEquals(handled, once, "messages that were handled twice");
    if (this.#isReliable) assertEquals(once, this.#sent);
    const kept = this.got(KEPT);
    assertEquals(kept, [...new Set(kept)], `publications on ${KEPT}`);
    const own = this.#published.filter(({ id, echo }) => !echo && kept.includes(id));
    assertEquals(own, [], "echoes");
    assertEquals(this.#wrong.splice(0), []);
  }

  #call(call: Call): void {
    const id = this.newId();
    switch (call.kind) {
      case "ask": {
        const request = { id, retry: call.retry, outcome: "" };
        this.#requests.push(request);
        const asking = this.client.request("hold", { id, ms: call.ms }, { retry: call.retry });
        return void this.#settle(asking).then((outcome) => request.outcome = outcome);
      }
      case "send":
        this.#sent.push(id);
        return this.client.send("work", `${id} ${call.isLarge ? "x".repeat(20_000) : ""}`);
      case "publish": {
        const published = { id, echo: call.echo, isAcknowledged: false };
        if (call.isKept) this.#published.push(published);
        const except = call.echo ? undefined : "self" as const;
        const publishing = this.client.publish(call.isKept ? KEPT : TALK, { id }, { except });
        return void this.#settle(publishing).then((outcome) => {
          published.isAcknowledged = outcome === "fulfilled";
          if (this.#isReliable && outcome !== "fulfilled") this.#wrong.push(`${id}: ${outcome}`);
        });
      }
      case "toggle":
        this.#toggle(call.topic);
        return void this.#toggleAgain(call.topic, call.again);
      case "present": {
        const data = this.presence.has(call.room) ? undefined : id;
        if (data === undefined) this.presence.delete(call.room);
        else this.presence.set(call.room, data);
        void this.#expect(`presence in ${call.room}`, this.client.presence(call.room, data));
      }
    }
  }

  #toggle(topic: string): void {
    const known = this.#subscriptions.get(topic);
    if (known !== undefined) {
      this.#subscriptions.delete(topic);
      return void this.#expect(`leave of ${topic}`, known.subscription.unsubscribe());
    }
    const isKept = topic.startsWith("kept:");
    const subscription = this.client.subscribe(topic, {
      onRecovery: ({ recovered, reason }) => {
        if (!recovered && isKept) this.#wrong.push(`gap in ${topic}: ${reason}`);
      },
    });
    const got: string[] = [];
    this.#subscriptions.set(topic, { subscription, got });
    void collect(subscription, async ({ data }) => {
      got.push((data as { readonly id: string }).id);
      const { position } = subscription;
      await this.world.pause(got.length % 3 * 10);
      // A slow loop is at the position of the message that it is processing.
      if (subscription.position !== position) this.#wrong.push(`position of ${topic}`);
    }).then((outcome) => {
      if (outcome !== "fulfilled") this.#wrong.push(`loop over ${topic}: ${outcome}`);
    });
  }

  async #toggleAgain(topic: string, steps: number | undefined): Promise<void> {
    if (steps === undefined) return;
    for (let left = steps; left > 0; left--) await Promise.resolve();
    this.#toggle(topic);
  }

  async #trouble({ kind, ms }: Trouble): Promise<unknown> {
    const world = this.world;
    const machine = world.host(this.name);
    const change = (conditions: Parameters<World["change"]>[2]) => {
      for (const host of this.#nodes.hosts) world.change(host, machine, conditions);
    };
    switch (kind) {
      case "nothing":
        return;
      case "a cut":
        return world.cut(machine);
      case "a silent cut":
        return world.cut(machine, true);
      case "a cut that no node notices":
        return world.cut(machine, "server");
      case "a close":
        for (const { manager } of this.#nodes.servers) {
          for (const session of manager.sessionsOf(this.name)) {
            void session.close({ code: CODES[ms % CODES.length]! });
          }
        }
        return;
      case "a frozen client":
        machine.freeze();
        await world.pause(ms * 12);
        return machine.thaw();
      case "two moves":
        await this.client.handOver();
        return await this.client.handOver();
      case "a move with a cut": {
        const moving = this.client.handOver();
        await world.pause(ms / 3);
        world.cut(machine, ms % 2 === 0 ? "server" : false);
        return await moving;
      }
      case "a move":
        return await this.client.handOver();
      case "a move on a slow link":
        change({ delayMs: Math.max(1, ms) });
        await this.client.handOver();
        return change({ delayMs: 1 });
      case "a move on a narrow link":
        change({ bytesPerSecond: 20_000 });
        await this.client.handOver();
        return change({ bytesPerSecond: Infinity });
    }
  }

  async #expect(what: string, promise: Promise<unknown>): Promise<void> {
    const outcome = await this.#settle(promise);
    if (outcome !== "fulfilled") this.#wrong.push(`${what}: ${outcome}`);
  }

  async #settle(promise: Promise<unknown>): Promise<string> {
    this.#waiting++;
    const outcome = await outcomeOf(promise);
    this.#waiting--;
    return outcome;
  }
}
