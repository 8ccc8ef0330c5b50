/**
 * Readers of histories whose nodes lose, repeat and delay publications. Every loss must be
 * reported.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { pause } from "../../base/wait.ts";
import { BrokerError } from "../../errors.ts";
import type { Publication, PublicationListener } from "../../pubsub/broker.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import { type FaultyBroker, FaultyStore } from "../faulty_broker.ts";
import { type Drawn, stepOf } from "./draw.ts";
import { property } from "./property.ts";
import { type Start, type Taken, TopicReader, type Truth } from "./topic_reader.ts";
import type { World } from "./world.ts";

/** Topics of all readers. Two of them have a history and one does not. */
const [BUSY, BRIEF, PLAIN] = ["busy", "brief", "plain"];
const TOPICS = [BUSY, BRIEF, PLAIN] as const;

const READERS = 3;

/** TTL of a publication in the brief topic, in milliseconds. */
const BRIEF_MS = 1_500;

/** The interval and timeout of pings, in milliseconds. */
const BEAT_MS = 5_000;

/** Maximum time until a node notices that it missed the last publication, in milliseconds. */
const COMPARED_MS = 41_000;

/**
 * Maximum time until readers have received all publications again, in milliseconds. Nodes read for
 * up to seven seconds.
 */
const CALM_MS = 9_000;

/** The fate of a delivery: a delay in milliseconds, a loss, or a repetition. */
const DELIVERIES = [0, 0, 0, 30, 300, "lost", "twice"] as const;

const LONG = { size: 1_000, ttlMs: 3_600_000, bytes: 1 << 28 } as const;
const NO_FAULT = { delivery: 0, at: "all" } as const;

const topic = fc.constantFrom<(typeof TOPICS)[number][]>(BUSY, BUSY, BRIEF, PLAIN);
const reader = fc.nat(READERS - 1);
const step = fc.oneof(
  stepOf("publish", {
    topic,
    count: fc.constantFrom<number[]>(1, 2, 4, 12),
    length: fc.constantFrom<number[]>(0, 0, 0, 4_000, 45_000, 200_000),
    delivery: fc.constantFrom(...DELIVERIES),
    /** Nodes whose deliveries have this fate. */
    at: fc.constantFrom("all", 0, 1),
  }, 10),
  stepOf("subscribe", {
    topic,
    reader,
    start: fc.constantFrom(
      ...["now", "last", "place", "back", "ahead", "ahead", "another epoch", "wrong tag"] as const,
    ),
    by: fc.nat(20),
    /** True if the reader requests the newest publications in case its position is too old. */
    hasLast: fc.boolean(),
  }, 6),
  stepOf("leave", { topic, reader }, 2),
  stepOf("echo", { topic, reader }),
  stepOf("disconnect", { reader, isSilent: fc.boolean() }, 2),
  stepOf("block", { reader, ms: fc.nat(2_000) }, 2),
  stepOf("reads", {
    /**
     * The fate of the next reads. Some fail, all fail, or all wait until the next step of this
     * kind.
     */
    fate: fc.constantFrom(
      ...["pass", "one fails", "three fail", "all fail", "all fail", "wait", "wait"] as const,
    ),
    ms: fc.constantFrom<number[]>(0, 20, 160),
  }, 3),
  stepOf("broker", { event: fc.constantFrom("interrupted", "away", "back", "lost") }),
  stepOf("pause", { ms: fc.constantFrom<number[]>(5, 50, 700, 12_000, 12_000) }, 5),
  stepOf("rest", { isSilent: fc.boolean() }),
);
type Step = Drawn<typeof step>;

const cases = fc.record({
  nodes: fc.integer({ min: 1, max: 2 }),
  size: fc.integer({ min: 10, max: 50 }),
  maxMessages: fc.integer({ min: 8, max: 24 }),
  /** Minimum length of a publication. A node caches a dozen long publications per topic. */
  leastLength: fc.constantFrom<number[]>(0, 0, 45_000),
  steps: fc.array(step, { maxLength: 60 }),
});
type Case = Drawn<typeof cases>;

const calm = { nodes: 1, size: 50, maxMessages: 8, leastLength: 0 } as const;
const one = { kind: "publish", topic: BUSY, count: 1, length: 0, delivery: 0, at: "all" } as const;

property("a reader receives each publication once, in order, or a correct notice of a gap", {
  cases,
  runs: 8,
  regressions: {
    "publications that are held back, and a small queue": {
      ...calm,
      steps: [
        { kind: "reads", fate: "wait", ms: 0 },
        { ...one, delivery: "lost" },
        { ...one, count: 12, length: 45_000 },
        { kind: "pause", ms: 50 },
        { kind: "reads", fate: "pass", ms: 0 },
      ],
    },
    "a gap at the place of the client": {
      ...calm,
      steps: [
        one,
        { kind: "reads", fate: "all fail", ms: 0 },
        { kind: "subscribe", topic: BUSY, reader: 0, start: "ahead", by: 11, hasLast: false },
        { kind: "pause", ms: 12_000 },
      ],
    },
  },
  async check(world, { steps, ...options }) {
    const readers = new Readers(world, options);
    await readers.begin();
    for (const step of steps) await readers.take(step);
    await readers.rest({ isSilent: false });
    await readers.end();
  },
});

property("publications are appended once, in order, even if nodes die before they reply", {
  cases: fc.record({
    /** Pauses before each publication, by client. */
    clients: fc.array(fc.array(fc.constantFrom<number[]>(0, 5, 200), { maxLength: 12 }), {
      minLength: 1,
      maxLength: 2,
    }),
    /** Nodes that die one after another, and how long they are down in milliseconds. */
    deaths: fc.array(
      fc.record({ atMs: fc.nat(800), node: fc.nat(1), lastsMs: fc.nat(1_500) }),
      { maxLength: 3 },
    ),
    appendMs: fc.constantFrom<number[]>(0, 15, 60),
    failing: fc.nat(3),
  }),
  async check(world, { clients, deaths, appendMs, failing }) {
    const { runtime } = world.host("broker");
    const store = new FaultyStore({ runtime });
    const taken: string[] = [];
    store.inner.subscribe(BUSY, ({ payload }) => taken.push(idOf(payload)), { history: LONG });
    // Appends and changes of rows take time, and the first changes of rows fail.
    let left = failing;
    store.make("history.append", async (run) => {
      const appended = await run();
      await pause(runtime, appendMs);
      return appended;
    });
    store.make("store", async (run) => {
      await pause(runtime, appendMs);
      if (left === 0) return await run();
      left--;
      throw new BrokerError("Cannot call the broker: it is away");
    });
    const nodes = [0, 1].map((i) =>
      world.serve(`node-${i}`, () => ({
        authorize: () => true,
        broker: store.connect(),
        history: { [BUSY]: LONG },
        onError() {},
      }))
    );
    for (const { atMs, node, lastsMs } of deaths) {
      world.simulation.after(atMs, () => {
        // At least one node keeps running.
        if (nodes.some(({ host }) => !host.isAlive)) return;
        nodes[node]!.host.kill();
        world.simulation.after(lastsMs, () => nodes[node]!.restart());
      });
    }
    const hosts = nodes.map(({ host }) => host);
    const publishing = clients.map(async (pauses, i) => {
      const client = world.connect(`client-${i}`, i === 0 ? hosts : hosts.toReversed(), {
        delivery: "at-least-once",
        onError() {},
      });
      const outcomes: Promise<unknown>[] = [];
      for (const [n, ms] of pauses.entries()) {
        await world.pause(ms);
        outcomes.push(client.publish(BUSY, { id: `${i}:${n}` }));
      }
      await Promise.all(outcomes);
    });
    await world.inTime("answers to all publications", Promise.all(publishing), 30_000);
    for (const [i, pauses] of clients.entries()) {
      const own = taken.filter((id) => id.startsWith(`${i}:`));
      assertEquals(own, pauses.map((_, n) => `${i}:${n}`));
    }
    await world.pause(Math.max(0, ...deaths.map(({ atMs, lastsMs }) => atMs + lastsMs)));
  },
});

/** Nodes on a failing store, and their readers. */
class Readers {
  readonly #store: FaultyStore;
  readonly #truth: BrokerTruth;
  readonly #nodes: SimulatedServer[] = [];
  readonly #brokers: FaultyBroker[] = [];
  readonly #readers: TopicReader[] = [];
  /** Fates of deliveries, by publication number. */
  readonly #deliveries = new Map<
    number,
    Pick<Extract<Step, { kind: "publish" }>, "delivery" | "at">
  >();
  /** The newest offset that has reached each node, by topic. */
  readonly #reached: Map<string, number>[] = [];
  readonly #leastLength: number;
  #held = Promise.withResolvers<void>();
  #isHeld = false;
  #failing = 0;
  #readMs = 0;
  #count = 0;

  constructor(
    readonly world: World,
    { nodes, size, maxMessages, leastLength }: Omit<Case, "steps">,
  ) {
    this.#leastLength = leastLength;
    const { runtime } = world.host("broker");
    const store = this.#store = new FaultyStore({ runtime });
    this.#truth = new BrokerTruth(world, store, size);
    this.#held.resolve();
    store.make("history.read", async (run) => {
      try {
        const page = await run();
        await pause(runtime, this.#readMs);
        // A read that takes too long fails.
        if (this.#isHeld) this.#truth.failures++;
        await this.#held.promise;
        if (this.#failing === 0) return page;
      } catch (error) {
        this.#truth.failures++;
        throw error;
      }
      this.#failing--;
      this.#truth.failures++;
      throw new BrokerError("Cannot read: the reply was lost");
    });
    for (let i = 0; i < nodes; i++) {
      this.#reached.push(new Map());
      this.#nodes.push(world.serve(`node-${i}`, () => ({
        authorize: () => true,
        broker: this.#connect(i),
        history: {
          [BUSY]: { size, bytes: 1 << 26 },
          [BRIEF]: { size: 100, ttlMs: BRIEF_MS, bytes: 1 << 26 },
        },
        onError() {},
        session: {
          heartbeat: { intervalMs: BEAT_MS, timeoutMs: 2 * BEAT_MS },
          sendQueue: { maxMessages },
        },
      })));
    }
  }

  #connect(i: number): FaultyBroker {
    const { runtime } = this.#store;
    const broker = this.#brokers[i] = this.#store.connect();
    broker.onDelivery = (publication, deliver) => {
      if (publication.position === undefined) return deliver(publication);
      const { delivery, at } = this.#deliveries.get(numberOf(publication)) ?? NO_FAULT;
      const { losses } = this.#truth;
      // A connection that broke when the store failed delivers nothing from before the failure.
      const give: PublicationListener = (one) => {
        if (losses !== this.#truth.losses || this.#store.isAway) return;
        const reached = this.#reached[i]!;
        reached.set(one.topic, Math.max(one.position!.offset, reached.get(one.topic) ?? 0));
        deliver(one);
      };
      if (at !== "all" && at !== i) return give(publication);
      if (delivery === "lost") return void this.#truth.missed.add(publication.topic);
      if (typeof delivery === "number" && delivery > 0) {
        return void runtime.setTimeout(() => give(publication), delivery);
      }
      give(publication);
      if (delivery === "twice") give(publication);
    };
    return broker;
  }

  async begin(): Promise<void> {
    const random = this.world.chanceOf("nodes");
    for (let i = 0; i < READERS; i++) {
      const reader = new TopicReader(this.world, {
        name: `reader-${i}`,
        truth: this.#truth,
        pick: () => this.#nodes[Math.floor(random() * this.#nodes.length)]!.host,
        hasHistory: (topic) => topic !== PLAIN,
      });
      this.#readers.push(reader);
      for (const topic of TOPICS) reader.ask(topic);
    }
    await this.world.until("answers", () => this.#readers.every((reader) => reader.isQuiet));
  }

  async take(step: Step): Promise<void> {
    switch (step.kind) {
      case "publish":
        return await this.#publish(step);
      case "subscribe":
        return this.#readers[step.reader]!.ask(step.topic, this.#startOf(step));
      case "leave":
        return this.#readers[step.reader]!.leave(step.topic);
      case "echo":
        return this.#readers[step.reader]!.publish(step.topic, ++this.#count);
      case "disconnect":
        return this.#readers[step.reader]!.disconnect(step.isSilent);
      case "block":
        return this.#block(this.#readers[step.reader]!, step.ms);
      case "reads":
        this.#readMs = step.ms;
        return this.#setReads(step.fate);
      case "broker":
        return this.#change(step.event);
      case "pause":
        return await this.world.pause(step.ms);
      case "rest":
        return await this.rest(step);
    }
  }

  async #publish(
    { topic, count, length, delivery, at }: Extract<Step, { kind: "publish" }>,
  ): Promise<void> {
    const node = this.#nodes[this.#count % this.#nodes.length]!;
    const bytes = Math.max(length, this.#leastLength);
    for (let i = 1; i <= count; i++) {
      const n = ++this.#count;
      this.#deliveries.set(n, { delivery, at });
      node.server.publish(topic, { n, text: "x".repeat(bytes) });
      // In this time, a healthy reader receives four short publications or one long publication.
      if (bytes > 10_000 || i % 4 === 0) await this.world.pause(6);
    }
  }

  /** Derives a position from the reader's position or from the store's newest position. */
  #startOf({ topic, reader, start, by, hasLast }: Extract<Step, { kind: "subscribe" }>): Start {
    const { place } = this.#readers[reader]!.of(topic);
    if (start === "last") return { last: by };
    if (start === "now" || place === undefined || topic === PLAIN) return {};
    const { epoch, offset, tag } = place;
    const last = hasLast ? { last: by } : {};
    if (start === "another epoch") return { since: { epoch: "another", offset }, ...last };
    const earlier = Math.max(0, offset - by);
    if (start === "wrong tag") return { since: { epoch, offset: earlier, tag: "wrong" }, ...last };
    if (start === "place") return { since: { epoch, offset, ...(tag && { tag }) }, ...last };
    if (start === "back") return { since: { epoch, offset: earlier }, ...last };
    // A client of another node may have received publications that have not reached this node yet.
    const head = epoch === this.#truth.epoch ? this.#truth.headOf(topic) : offset;
    return { since: { epoch, offset: head + (by > 10 ? by : 0) }, ...last };
  }

  /** Blocks a reader's link for a time. */
  #block(reader: TopicReader, ms: number): void {
    const { simulation, network } = this.world;
    const set = (isBlocked: boolean) => {
      for (const { host } of this.#nodes) network.change(host, reader.host, { isBlocked });
    };
    set(true);
    simulation.after(ms, () => set(false));
    reader.mayEndUntilMs = simulation.nowMs + ms + 1_000;
  }

  #setReads(fate: Extract<Step, { kind: "reads" }>["fate"]): void {
    this.#held.resolve();
    this.#failing =
      { pass: 0, wait: 0, "one fails": 1, "three fail": 3, "all fail": Infinity }[fate];
    this.#isHeld = fate === "wait";
    if (this.#isHeld) this.#held = Promise.withResolvers();
  }

  #change(event: Extract<Step, { kind: "broker" }>["event"]): void {
    const store = this.#store;
    if (event === "away") return store.goAway();
    if (event === "lost") {
      this.#truth.lose();
      for (const reached of this.#reached) reached.clear();
    }
    store.comeBack();
  }

  /**
   * Waits without faults until readers have received everything that reached their node. Then
   * publishes once more, and waits again, because the loss of the last publication must be noticed,
   * too.
   */
  async rest({ isSilent }: { readonly isSilent: boolean }): Promise<void> {
    const world = this.world;
    this.#readMs = 0;
    this.#setReads("pass");
    if (this.#store.isAway) this.#store.comeBack();
    // By now, links are open and late publications have arrived.
    await world.pause(2_500);
    await world.until("quiet readers", () => this.#readers.every((one) => one.isQuiet), CALM_MS);
    await this.#arrive("what reached the node", CALM_MS, ({ node }, topic) => {
      return this.#reached[this.#nodes.findIndex(({ host }) => host === node)]!.get(topic) ?? 0;
    });
    const delivery = isSilent ? "lost" : 0;
    for (const topic of [BUSY, BRIEF] as const) {
      await this.#publish({ kind: "publish", topic, count: 1, length: 0, delivery, at: "all" });
    }
    const ms = isSilent ? COMPARED_MS : CALM_MS;
    await this.#arrive("the head", ms, (_reader, topic) => this.#truth.headOf(topic));
    this.#truth.failures = 0;
  }

  /** Waits until all readers are at an offset. */
  async #arrive(
    what: string,
    withinMs: number,
    offsetOf: (reader: TopicReader, topic: string) => number,
  ): Promise<void> {
    const behind = () =>
      this.#readers.flatMap((reader) =>
        [BUSY, BRIEF].filter((topic) => {
          const { isWanted, place } = reader.of(topic);
          const isThere = reader.follows(topic) &&
            (place?.offset ?? 0) >= offsetOf(reader, topic);
          return isWanted && !isThere;
        }).map((topic) => `${reader.host.name} on ${topic} at ${reader.of(topic).place?.offset}`)
      );
    const isOver = () => behind().length === 0;
    await this.world.until("readers", isOver, withinMs).catch(() => {});
    assertEquals(behind(), [], `readers are not at ${what}`);
  }

  /**
   * Expects one notice of an interruption. Then makes all readers leave, and expects that nothing
   * of them is left.
   */
  async end(): Promise<void> {
    const world = this.world;
    const followers = this.#readers.filter((reader) => reader.follows(PLAIN));
    const before = followers.map((reader) => reader.of(PLAIN).interruptions);
    for (const broker of this.#brokers) broker.interrupt();
    await world.pause(1_500);
    const told = followers.map((reader, i) => reader.of(PLAIN).interruptions - before[i]!);
    assertEquals(told, followers.map(() => 1), "notices of one interruption");
    for (const { server, host } of this.#nodes) {
      // Sessions whose client is gone end after their timeout.
      await world.pause(3 * BEAT_MS + 1_000);
      for (const topic of TOPICS) {
        const here = this.#readers.filter((one) => one.node === host && one.follows(topic));
        assertEquals(
          server.topics.subscribers(topic).length,
          here.length,
          `subscribers of ${topic}`,
        );
      }
    }
    for (const reader of this.#readers) reader.close();
    for (const { server } of this.#nodes) {
      await world.until("no topic", () => server.topics.size === 0);
      const { waitingPages, waitingBytes, tailBytes } = server.topics.stats;
      assertEquals({ waitingPages, waitingBytes, tailBytes }, {
        waitingPages: 0,
        waitingBytes: 0,
        tailBytes: 0,
      });
    }
    await this.#store.inner.close();
  }
}

/** The publications that the store accepted, as seen by listeners without faults. */
class BrokerTruth implements Truth {
  losses = 0;
  failures = 0;
  readonly missed = new Set<string>();
  epoch: string | undefined;
  readonly #taken = new Map<number, Taken>();
  readonly #topics = new Map<string, Taken[]>();

  constructor(readonly world: World, readonly store: FaultyStore, readonly size: number) {
    this.#listen();
  }

  taken(n: number): Taken | undefined {
    return this.#taken.get(n);
  }

  headOf(topic: string): number {
    return this.#topics.get(topic)?.at(-1)?.offset ?? 0;
  }

  forgottenOf(topic: string): number {
    const all = this.#topics.get(topic) ?? [];
    const isGone = ({ atMs }: Taken, i: number) =>
      topic === BRIEF ? this.world.nowMs - atMs >= BRIEF_MS : all.length - i > this.size;
    return all.findLast(isGone)?.offset ?? 0;
  }

  /** Loses all publications. */
  lose(): void {
    this.losses++;
    this.epoch = undefined;
    this.#topics.clear();
    this.store.lose();
    this.#listen();
  }

  #listen(): void {
    for (const topic of [BUSY, BRIEF]) {
      const all: Taken[] = [];
      this.#topics.set(topic, all);
      this.store.inner.subscribe(topic, (publication) => {
        const { epoch, offset, tag } = publication.position!;
        const taken = { epoch, offset, tag, atMs: this.world.nowMs };
        this.epoch = epoch;
        all.push(taken);
        this.#taken.set(numberOf(publication), taken);
      }, { history: LONG });
    }
  }
}

/** Returns the id in the data of a publication. */
function idOf(payload: Publication["payload"]): string {
  return (JSON.parse(`${payload}`) as { readonly data: { readonly id: string } }).data.id;
}

/** Returns the number in the data of a publication. */
function numberOf({ payload }: Publication): number {
  return (JSON.parse(`${payload}`) as { readonly data: { readonly n: number } }).data.n;
}
