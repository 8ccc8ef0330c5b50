/**
 * At-least-once delivery of messages and publications across lost connections, moves and store
 * failures.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { CloseCode } from "../../errors.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import { fail, type Fate, type FaultyBroker, FaultyStore, pass } from "../faulty_broker.ts";
import { NodePorts } from "../simulation/cluster/node_ports.ts";
import { type Drawn, transport } from "./draw.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { read } from "./readings.ts";
import { byToken, type World } from "./world.ts";

/** Short waits between attempts. */
const BACKOFF = { firstDelayMs: 50, maxDelayMs: 200 } as const;

/**
 * Time for messages in flight, and maximum time until all messages are handled, in milliseconds.
 */
const [TRIP_MS, REST_MS] = [200, 12_000] as const;

/** A broker in memory with a slow store. Its calls fail while it is unreachable. */
class AwayStore {
  readonly broker: FaultyBroker;
  isAway = false;
  /** The newest stored number of each client. */
  readonly numbers: Map<string, number> = new Map();

  constructor(world: World, storeMs: number) {
    const { runtime } = world.host("broker");
    this.broker = new FaultyStore({ runtime }).connect({ without: ["store.take"] });
    const reach: Fate = (run, call) => (this.isAway ? fail : pass)(run, call);
    this.broker.make("store", reach);
    this.broker.make("store.advance", async (run, call) => {
      const [key, number] = call.args;
      await world.pause(storeMs);
      const isNew = await reach(run, call);
      this.numbers.set(key, Math.max(number, this.numbers.get(key) ?? number));
      await world.pause(storeMs);
      // The number is stored, but the reply is lost.
      return await reach(() => Promise.resolve(isNew), call);
    });
  }
}

/** A session ends and its acknowledgments are lost. The next session is on another node. */
const ELSEWHERE = "lost answers, and another node";

/** Messages of a client, followed by the end of its session. */
const step = fc.record({
  count: fc.nat(3),
  pauseMs: fc.nat(250),
  end: fc.constantFrom(
    "none",
    "none",
    "a cut",
    "a cut that no node notices",
    "a close",
    "a move",
    ELSEWHERE,
  ),
});

type Step = Drawn<typeof step>;

property("a message with at-least-once delivery is handled once, in order, and then stored", {
  cases: fc.record({
    storeMs: fc.constantFrom(0, 30, 60),
    handlerMs: fc.constantFrom(0, 30, 300),
    rounds: fc.array(
      fc.record({
        /**
         * The state of the store during the steps. It may fail from the start, fail later, or stop
         * responding.
         */
        store: fc.constantFrom("there", "fails", "fails later", "hangs"),
        awayMs: fc.integer({ min: 50, max: 2_200 }),
        /** Steps of each client. */
        steps: fc.array(fc.array(step, { maxLength: 3 }), { minLength: 1, maxLength: 3 }),
      }),
      { minLength: 1, maxLength: 3 },
    ),
  }),
  async check(world, { storeMs, handlerMs, rounds }) {
    const store = new AwayStore(world, storeMs);
    const brokerHost = world.host("broker");
    const ports = new NodePorts(world.simulation, brokerHost, store.broker);
    const handled = new Map<string, number[]>();
    const nodes = ["node-0", "node-1"].map((name) =>
      world.serve<string>(name, (host) => ({
        ...byToken,
        broker: ports.broker(host),
        onMessage: async ({ data }, { user }) => {
          handled.get(user)!.push(Number(data));
          await world.pause(handlerMs);
        },
        onError() {},
      }))
    );
    await Promise.all(nodes.map(({ server }) => server.nodes!.ready));
    const most = Math.max(...rounds.map(({ steps }) => steps.length));
    const senders = range(1, most).map((i) => {
      handled.set(`user-${i}`, []);
      return new Sender(world, `user-${i}`, nodes);
    });
    for (const { store: state, awayMs, steps } of rounds) {
      const before = senders.map(({ sent }) => sent);
      const isAway = state === "fails";
      store.isAway = isAway;
      const running = steps.map((own, i) => senders[i]!.play(own, state));
      if (state === "fails later") await world.pause(awayMs / 10);
      store.isAway = state.startsWith("fails");
      if (state === "hangs") brokerHost.freeze();
      await world.pause(state === "there" ? 0 : awayMs);
      if (isAway) {
        await Promise.all(running);
        for (const [i, { client, sent }] of senders.entries()) {
          assertEquals(client.outbox.messages, sent - before[i]!, "acknowledged without a store");
        }
      }
      store.isAway = false;
      brokerHost.thaw();
      await Promise.all(running);
      const areAnswered = () => senders.every(({ client }) => client.outbox.messages === 0);
      await world.until("all acknowledgments", areAnswered, REST_MS);
      for (const { name, sent } of senders) {
        assertEquals(handled.get(name), range(0, sent - 1), `messages of ${name}`);
      }
      const stored = [...store.numbers.values()].toSorted((a, b) => a - b);
      const counts = senders.map(({ sent }) => sent).filter((sent) => sent > 0);
      assertEquals(stored, counts.toSorted((a, b) => a - b), "stored numbers");
    }
  },
});

/** A client that sends numbered messages to two nodes. */
class Sender {
  readonly client: Client;
  sent = 0;
  #at = 0;

  constructor(
    readonly world: World,
    readonly name: string,
    readonly nodes: readonly SimulatedServer<string>[],
  ) {
    this.client = world.connect(name, () => this.#node.host, {
      token: name,
      delivery: "at-least-once",
      backoff: BACKOFF,
      onError() {},
    });
  }

  get #node(): SimulatedServer<string> {
    return this.nodes[this.#at]!;
  }

  /**
   * Sends messages. Ends a session only if each message can still be handled exactly once, because
   * another node, or a node that has forgotten the client, cannot ask an unreachable store.
   */
  async play(steps: readonly Step[], store: "there" | "fails" | "fails later" | "hangs") {
    for (const { count, pauseMs, end: wanted } of steps) {
      const staysHere = wanted === ELSEWHERE && store !== "there";
      const end = store === "fails later" ? "none" : staysHere ? "a cut" : wanted;
      const world = this.world;
      const { session } = this.client;
      const machine = world.host(this.name);
      const isLost = end === ELSEWHERE;
      const { host } = this.#node;
      if (isLost) world.network.change(host, machine, { isBlocked: true });
      for (let left = count; left > 0; left--) this.client.send("work", this.sent++);
      await world.pause(pauseMs);
      if (end === "none") continue;
      await this.#end(end);
      if (isLost) world.network.change(host, machine, { isBlocked: false });
      const isBack = () => this.client.isConnected && this.client.session !== session;
      await world.until("the next session", isBack);
      await world.pause(TRIP_MS);
    }
  }

  async #end(end: Step["end"]): Promise<void> {
    const machine = this.world.host(this.name);
    if (end === ELSEWHERE) this.#at = 1 - this.#at;
    if (end === "a move") await this.client.handOver();
    else if (end === "a close") {
      for (const session of this.#node.server.manager.sessionsOf(this.name)) {
        void session.close({ code: CloseCode.draining });
      }
    } else this.world.cut(machine, end === "a cut that no node notices" ? "server" : false);
  }
}

property("a client that moves with a backlog sends each message once, in order", {
  cases: fc.record({
    transport,
    maxMessages: fc.constantFrom(4, 8, 32, 256),
    delayMs: fc.integer({ min: 1, max: 30 }),
    handlerMs: fc.constantFrom(0, 60, 100),
    isNarrow: fc.boolean(),
    burst: fc.array(
      fc.record({ length: fc.constantFrom(10, 500, 8_000), isPublished: fc.boolean() }),
      { minLength: 1, maxLength: 50 },
    ),
    beforeMs: fc.nat(200),
    later: fc.nat(3),
    narrowMs: fc.nat(2_000),
    again: fc.boolean(),
    isCut: fc.boolean(),
  }),
  async check(world, { transport, maxMessages, delayMs, handlerMs, burst, ...step }) {
    const handled: number[] = [];
    const { host } = world.serve("server", () => ({
      authorize: () => true,
      onMessage: async ({ data }) => {
        handled.push((data as { readonly n: number }).n);
        await world.pause(handlerMs * (handled.length % 3) / 2);
      },
      onError() {},
    }));
    const machine = world.host("client");
    const client = world.connect("client", host, {
      transports: [transport],
      delivery: "at-least-once",
      outbox: { maxMessages: 200, maxBytes: 2_000_000 },
      sendQueue: { maxMessages },
      backoff: BACKOFF,
      onError() {},
    });
    await world.until("a session", () => client.isConnected);
    world.change(host, machine, { delayMs });
    let sent = 0;
    const outcomes: Promise<string>[] = [];
    for (const { length, isPublished } of burst) {
      const text = "x".repeat(length);
      if (isPublished && length === 500) outcomes.push(outcomeOf(client.publish("talk", text)));
      else client.send("work", { n: sent++, text });
    }
    await world.pause(step.beforeMs);
    // The messages that the next session resends arrive slowly.
    world.change(host, machine, { bytesPerSecond: step.isNarrow ? 20_000 : Infinity });
    await client.handOver();
    for (let left = step.later; left > 0; left--) client.send("work", { n: sent++ });
    await world.pause(step.narrowMs);
    if (step.again) await client.handOver();
    if (step.isCut) world.cut(machine);
    world.change(host, machine, { bytesPerSecond: Infinity });
    await world.inTime("a flush of the backlog", client.flushed(), 2 * REST_MS);
    assertEquals(handled, range(0, sent - 1));
    const got = await world.inTime("all publications", Promise.all(outcomes));
    assertEquals(got, outcomes.map(() => "fulfilled"));
    assertEquals(client.outbox, { messages: 0, bytes: 0 });
  },
});

/** Maximum number of unacknowledged publications, messages and bytes. */
const [MAX_PUBLICATIONS, MAX_MESSAGES, MAX_BYTES] = [32, 1_024, 524_288] as const;

/** A heartbeat that tolerates a silent peer. */
const PATIENT = { intervalMs: 10_000, timeoutMs: 30_000 } as const;

property("a client has at most 32 unacknowledged publications, and each is published once", {
  cases: fc.record({
    /**
     * The reason for late replies. The server decides late, the replies are late or lost, or there
     * is no session at first.
     */
    how: fc.constantFrom("decided late", "moved", "answered late", "cut", "disconnected"),
    /** True for a publication that the server rejects. */
    denied: fc.array(fc.boolean(), { minLength: MAX_PUBLICATIONS + 1, maxLength: 85 }),
    /** True for topics with a history, and the default delivery. */
    hasHistory: fc.boolean(),
  }),
  async check(world, { how, denied, hasHistory }) {
    let gate: Promise<unknown> = Promise.resolve();
    let asked = 0;
    const { server, host } = world.serve("server", () => ({
      ...byToken,
      ...(hasHistory && { history: { talk: {}, denied: {} } }),
      authorize: async (_session, topic, action) => {
        if (action === "subscribe") return true;
        asked++;
        await gate;
        return topic !== "denied";
      },
      session: { heartbeat: PATIENT },
      onError() {},
    }));
    const machine = world.host("ada");
    const client = world.connect("ada", host, {
      token: "ada",
      delivery: hasHistory ? undefined : "at-least-once",
      backoff: BACKOFF,
      onError() {},
    });
    const listener = world.connect("bob", host, { token: "bob" });
    const { subscription, got: heard } = read(listener, "talk");
    await world.until(
      "both sessions",
      () => client.isConnected && subscription.status.current === "subscribed",
    );
    const held = Promise.withResolvers<void>();
    const isHeld = how === "decided late" || how === "moved" || how === "disconnected";
    if (isHeld) gate = held.promise;
    else world.network.change(host, machine, { isBlocked: true });
    const { session } = client;
    if (how === "disconnected") {
      world.cut(machine);
      await world.until("no session", () => client.session !== session);
    }
    const outcomes = denied.map((isDenied, n) =>
      outcomeOf(client.publish(isDenied ? "denied" : "talk", n))
    );
    const unanswered = () => client.session?.stats.pendingReplies ?? 0;
    await world.until("publications in flight", () => unanswered() >= MAX_PUBLICATIONS);
    await world.pause(TRIP_MS);
    assertEquals(unanswered(), MAX_PUBLICATIONS, "unacknowledged publications");
    if (!isHeld) {
      // After the first denial, the server rejects the topic's publications without a decision,
      // until the client knows.
      const deniedAtOnce = denied.slice(0, MAX_PUBLICATIONS).filter((isDenied) => isDenied).length;
      const undecided = Math.max(0, deniedAtOnce - 1);
      assertEquals(asked, MAX_PUBLICATIONS - undecided, "decisions of the server");
    }
    if (how === "cut") world.cut(machine);
    if (how === "moved") {
      await client.handOver();
      await world.until("publications after the move", () => unanswered() >= MAX_PUBLICATIONS);
      await world.pause(TRIP_MS);
      assertEquals(unanswered(), MAX_PUBLICATIONS, "unacknowledged publications after a move");
    }
    world.network.change(host, machine, { isBlocked: false });
    held.resolve();
    const got = await world.inTime("all outcomes", Promise.all(outcomes), REST_MS);
    assertEquals(got, denied.map((isDenied) => isDenied ? "forbidden" : "fulfilled"));
    const allowed = [...denied.keys()].filter((n) => !denied[n]);
    await world.until("all publications", () => heard.length >= allowed.length);
    await world.pause(TRIP_MS);
    assertEquals(heard, allowed);
    assertEquals(client.outbox, { messages: 0, bytes: 0 });
    assertEquals(unanswered(), 0);
    assertEquals(server.manager.count, 2);
  },
});

property("a client has a bounded number of unacknowledged messages", {
  cases: fc.record({ isLarge: fc.boolean(), beyond: fc.nat(40), isCut: fc.boolean() }),
  runs: 2,
  async check(world, { isLarge, beyond, isCut }) {
    const handled: number[] = [];
    const { host } = world.serve("server", () => ({
      session: { heartbeat: PATIENT },
      onMessage: ({ data }) => void handled.push((data as readonly [number, string])[0]),
    }));
    const machine = world.host("client");
    const client = world.connect("client", host, {
      delivery: "at-least-once",
      outbox: { maxMessages: 2_000, maxBytes: 2_000_000 },
      backoff: BACKOFF,
    });
    await world.until("a session", () => client.isConnected);
    world.network.change(host, machine, { isBlocked: true });
    const count = (isLarge ? 60 : MAX_MESSAGES) + beyond;
    // All numbers have five digits, so all messages have the same size.
    const numbers = range(10_000, 9_999 + count);
    for (const n of numbers) client.send("burst", [n, isLarge ? "x".repeat(9_000) : ""]);
    const { messages, bytes } = client.outbox;
    const most = Math.min(count, MAX_MESSAGES, Math.floor(MAX_BYTES * messages / bytes));
    await world.until("the first messages", () => handled.length >= most);
    await world.pause(TRIP_MS);
    assertEquals(handled, numbers.slice(0, most));
    // The next session receives all of them again.
    if (isCut) world.cut(machine);
    world.network.change(host, machine, { isBlocked: false });
    await world.until("all acknowledgments", () => client.outbox.messages === 0, REST_MS);
    assertEquals(handled, numbers);
  },
});
