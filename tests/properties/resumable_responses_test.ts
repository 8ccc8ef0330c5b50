/**
 * Responses that survive their sessions and nodes. Each response uses a slot on one node at a time, and
 * frees it however the response ends.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { requestLog } from "../../streams/logs/log_names.ts";
import { RESCUE_INTERVAL_MS } from "../../streams/logs/stream_logs.ts";
import { MAX_TAKEOVERS, RESUME_LEASE_MS } from "../../streams/responses/stored_responses.ts";
import { responseId } from "../../streams/options.ts";
import { fail, pass } from "../faulty_broker.ts";
import type { ClusterStore } from "../simulation/cluster/store.ts";
import {
  type Asked,
  Asker,
  type GeneratorKind,
  GENERATORS,
  ITEM_MS,
  nameOf,
  readAtAnotherNode,
  ResponseNode,
  TOPIC,
  untilIdle,
} from "./response_nodes.ts";
import { type Drawn, stepOf } from "./draw.ts";
import { reach } from "./stores.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

const BROKERS = ["memory", "redis", "nats", "sqlite"] as const;

/** Time that the calls of a store take, in milliseconds. */
const CALLS_MS = 2_500;

/** Time for which nodes that cannot continue a response leave it to other nodes, in milliseconds. */
const SPARE_MS = 20_000;

/** Outcomes for readers of a response that ends by itself. */
const ENDS: Partial<Record<GeneratorKind, string>> = {
  short: "fulfilled",
  empty: "fulfilled",
  throws: "failed",
  rejects: "tired",
  fails: "tired",
};

const asks = stepOf("ask", {
  user: fc.nat(1),
  name: fc.nat(3),
  generator: fc.constantFrom(...GENERATORS),
  isOutage: fc.constantFrom(false, false, false, true),
}, 6);
const step = fc.oneof(
  asks,
  stepOf("ask in vain", { part: fc.constantFrom("name" as const, "input" as const) }),
  stepOf("cancel", { of: fc.nat(20) }, 3),
  stepOf("let go", {}),
);

property("a node has as many slots for responses as configured, however responses end", {
  cases: fc.record({
    store: fc.constantFrom(...BROKERS),
    slots: fc.integer({ min: 2, max: 4 }),
    steps: fc.array(step, { maxLength: 25 }),
  }),
  async check(world, { store, slots, steps }) {
    const made = await world.store(store);
    const node = new ResponseNode(world, { name: "node", store: made, slots });
    await reach(world, node);
    const running = new RunningResponses(world, node, slots);
    for (const step of steps) {
      if (step.kind === "ask") await running.ask(step);
      else if (step.kind === "ask in vain") await running.askInVain(step.part);
      else if (step.kind === "cancel") await running.cancel(step.of);
      else running.letGo();
      await running.compare();
    }
    await running.cancelAll();
    await running.fill();
  },
});

/** Two users' responses on one node, and their model. */
class RunningResponses {
  readonly #askers: readonly Asker[];
  /** Responds to whose generator has started, by key. */
  readonly #begun = new Map<string, { readonly asked: Asked; readonly kind: GeneratorKind }>();
  /** Keys of the responds to that have not ended. */
  readonly #running = new Set<string>();
  /** Keys of cancelled responses whose generator is still running. */
  readonly #lingering = new Set<string>();

  constructor(
    readonly world: World,
    readonly node: ResponseNode,
    readonly slots: number,
    users: readonly string[] = ["ann", "bob"],
  ) {
    this.#askers = users.map((user) => new Asker(world, user, node));
  }

  async ask({ user, name, generator, isOutage }: Drawn<typeof asks>): Promise<void> {
    const key = `${user}-${name}`;
    const before = this.#begun.get(key);
    const rejection = isOutage ? "unavailable" : before ? undefined : this.#rejectionOf(user);
    if (isOutage) this.node.broker.make("logs", fail);
    const patience = rejection === "too-many" ? BRIEF : {};
    const asked = this.#askers[user]!.ask(key, generator, patience);
    await this.world.until(
      `a response or its rejection (${rejection})`,
      () =>
        asked.outcome !== undefined || rejection === undefined && !isOutage &&
          (before !== undefined || this.node.begun.includes(key)),
    );
    this.node.broker.make("logs", pass);
    if (rejection !== undefined) return assertEquals(asked.outcome, rejection);
    if (before !== undefined) {
      const generators = this.node.begun.filter((one) => one === key).length;
      assert(generators <= 1, `${generators} generators of one name`);
      // The same items arrive, starting with the first.
      if (!this.#running.has(key)) await this.#expectEnd(asked, before.asked.outcome!);
      return;
    }
    this.#begun.set(key, { asked, kind: generator });
    const end = ENDS[generator];
    if (end === undefined) this.#running.add(key);
    else await this.#expectEnd(asked, end);
  }

  async askInVain(part: "name" | "input"): Promise<void> {
    const [asker] = this.#askers;
    if (part === "name") {
      return await this.#expectEnd(asker!.ask("x", "endless", { name: "short" }), "TypeError");
    }
    const asked = asker!.ask("x", "endless", { input: new Uint8Array(3) });
    await this.#expectEnd(asked, this.#rejectionOf(0) ?? "malformed");
  }

  async cancel(of: number): Promise<void> {
    const key = [...this.#running][of % Math.max(1, this.#running.size)];
    if (key === undefined) return;
    const { asked, kind } = this.#begun.get(key)!;
    this.#running.delete(key);
    if (kind === "lingers") {
      await this.world.until("the first item", () => asked.items.length > 0);
      this.#lingering.add(key);
    }
    await asked.cancel();
    await this.#expectEnd(asked, "cancelled");
  }

  /** Stops the generators that ignore their signal. */
  letGo(): void {
    for (const key of this.#lingering) this.node.gates.get(key)!.resolve();
    this.#lingering.clear();
  }

  /** Compares the slots in use. */
  async compare(): Promise<void> {
    const expected = this.#running.size + this.#lingering.size;
    const { taken } = this.node;
    await this.world.until(
      `${expected} slots that are taken, of ${taken} before`,
      () => this.node.taken === expected,
    );
    const generators = new Set([...this.#running, ...this.#lingering]);
    assertEquals(new Set(this.node.generators), generators);
  }

  async cancelAll(): Promise<void> {
    while (this.#running.size > 0) await this.cancel(0);
    this.letGo();
    await this.compare();
  }

  /** Fills all slots and requests one more. */
  async fill(): Promise<void> {
    for (let i = 0; i < this.slots - 1; i++) await this.#begin(0, `full-${i}`);
    assertEquals(this.#rejectionOf(0), "too-many");
    const more = (user: number) => this.#askers[user]!.ask(`${user}-more`, "endless", BRIEF);
    await this.#expectEnd(more(0), "too-many");
    await this.#begin(1, "full");
    await this.#expectEnd(more(1), "too-many");
    await this.cancelAll();
  }

  async #begin(user: number, name: string): Promise<void> {
    const key = `${user}-${name}`;
    const asked = this.#askers[user]!.ask(key, "endless");
    this.#begun.set(key, { asked, kind: "endless" });
    this.#running.add(key);
    await this.world.until("an item", () => asked.items.length > 0);
  }

  #rejectionOf(user: number): string | undefined {
    const all = [...this.#running, ...this.#lingering];
    const ofUser = all.filter((key) => key.startsWith(`${user}-`)).length;
    const isFull = all.length >= this.slots || ofUser >= Math.max(1, this.slots - 1);
    return isFull ? "too-many" : undefined;
  }

  async #expectEnd(asked: Asked, outcome: string): Promise<void> {
    await this.world.until(`the end ${outcome}`, () => asked.outcome !== undefined);
    assertEquals(asked.outcome, outcome);
    assertEquals(asked.items, range(0, asked.items.length - 1));
  }
}

/** For requests whose rejection the test expects. */
const BRIEF = { itemTimeoutMs: 1_000 };

/** Maximum duration of a takeover if no other node is left, in milliseconds. */
const FORSAKEN_MS = 60_000;

const turn = fc.record({
  stayMs: fc.integer({ min: 50, max: 400 }),
  end: fc.constantFrom("close", "drain", "kill", "freeze"),
  /**
   * Time between the end of the node and the start of the next node, in milliseconds. If it is
   * omitted, the next node starts before the end.
   */
  awayMs: fc.oneof(
    { withCrossShrink: true },
    { weight: 6, arbitrary: fc.constant(undefined) },
    { weight: 6, arbitrary: fc.nat(10_000) },
    { weight: 1, arbitrary: fc.constant(FORSAKEN_MS) },
  ),
});

property("a response continues on exactly one node, which frees its slots, however a node ends", {
  cases: fc.record({
    store: fc.constantFrom(...BROKERS),
    responses: fc.integer({ min: 1, max: 3 }),
    /** If true, a second node is always running and tries to take over. */
    hasRival: fc.boolean(),
    turns: fc.array(turn, { minLength: 1, maxLength: 7 }),
  }),
  runs: 3,
  regressions: {
    "a node that cannot continue waits for others again after each takeover": {
      store: "memory",
      responses: 1,
      hasRival: false,
      turns: Array(7).fill({ stayMs: 50, end: "close", awayMs: 4_900 }),
    },
  },
  async check(world, { store, responses, hasRival, turns }) {
    // Each of two rivals may take over one response.
    const count = hasRival ? 1 : responses;
    const relay = new Relay(world, await world.store(store), count);
    await relay.begin();
    if (hasRival) relay.startNode();
    for (const turn of turns) {
      if (await relay.hasGoneOn(hasRival ? { ...turn, awayMs: undefined } : turn)) continue;
      return await relay.compareForgotten();
    }
    await relay.finish();
  },
});

/** Responses that one node after another takes over. */
class Relay {
  readonly #slots: number;
  readonly #keys: readonly string[];
  /** The node on which the responses are read. It never takes over. */
  readonly #desk: ResponseNode;
  readonly #nodes: ResponseNode[] = [];
  /** The node that currently generates the responses. */
  #holder!: ResponseNode;
  #read: readonly Asked[] = [];
  /** Number of takeovers from nodes that did not hand over their responses. */
  #lost = 0;

  constructor(readonly world: World, readonly store: ClusterStore, responses: number) {
    this.#slots = responses + 1;
    this.#keys = range(1, responses).map((i) => `response-${i}`);
    this.#desk = new ResponseNode(world, { name: "desk", store, slots: 1, resumes: false });
  }

  /** Starts the responses on the first node and reads them on another node. */
  async begin(): Promise<void> {
    const first = this.#holder = this.startNode();
    this.#read = await readAtAnotherNode(this.world, [first, this.#desk], this.#keys);
  }

  /**
   * Ends the node that generates the responses. Returns false if no other node takes over in time, or
   * if the responses are dropped.
   */
  async hasGoneOn({ stayMs, end, awayMs }: Drawn<typeof turn>) {
    const world = this.world;
    await world.pause(stayMs);
    const leaving = this.#holder;
    const { length: begun } = leaving.begun;
    if (awayMs === undefined) this.startNode();
    const isLost = end === "kill" || end === "freeze";
    const { host, server } = leaving;
    world.note(end, host.name);
    if (end === "kill") host.kill();
    else if (end === "freeze") host.freeze();
    else if (end === "close") void world.run(host, () => server.close());
    else void world.run(host, () => server.drain({ withinMs: CALLS_MS }));
    const endedMs = world.nowMs;
    const lapseMs = endedMs + (isLost ? RESUME_LEASE_MS : 0);
    if (isLost) this.#lost++;
    if (awayMs === FORSAKEN_MS) {
      await this.#expectLost(lapseMs + SPARE_MS + 4 * CALLS_MS);
      const leastMs = (isLost ? RESUME_LEASE_MS / 3 : 0) + SPARE_MS - CALLS_MS;
      assert(world.nowMs - endedMs >= leastMs, `given up after ${world.nowMs - endedMs} ms`);
      host.thaw();
      return false;
    }
    if (awayMs !== undefined) {
      await world.pause(awayMs);
      // A node that hands over its responses does not take any of them back.
      if (!isLost) await untilIdle(this.world, leaving);
      this.startNode();
    }
    const { length } = this.#keys;
    const takenByMs = Math.max(world.nowMs, lapseMs) + RESCUE_INTERVAL_MS + CALLS_MS;
    if (this.#lost > MAX_TAKEOVERS) {
      await this.#expectLost(takenByMs + CALLS_MS);
      host.thaw();
      return false;
    }
    const others = this.#nodes.filter((node) => node !== leaving && node.host.isAlive);
    await world.until(
      `a takeover of ${length} responses after ${end}`,
      () => others.reduce((sum, { taken }) => sum + taken, 0) === length,
      takenByMs - world.nowMs,
    );
    const fromMs = world.nowMs;
    // The pause depends on all nodes that were lost so far, even if the last node left on purpose.
    const pauseMs = this.#lost < 2 ? 0 : 1_000 * 2 ** (this.#lost - 2);
    // A node that was too late to take over frees its slot.
    const isHolder = (node: ResponseNode) =>
      node.taken === length && node.generators.length === length;
    await world.until("generators", () => others.some(isHolder), pauseMs + CALLS_MS);
    const next = this.#holder = others.find(isHolder)!;
    assert(world.nowMs - fromMs >= pauseMs - ITEM_MS, `early after ${world.nowMs - fromMs} ms`);
    host.thaw();
    if (host.isAlive) {
      await untilIdle(this.world, leaving);
      await world.run(host, () => server.close());
    }
    const before = this.#read.map(({ items }) => items.length);
    await world.until(
      "more items",
      () => this.#read.every(({ items }, i) => items.length > before[i]!),
    );
    assertEquals(next.generators.toSorted(), this.#keys);
    for (const other of others) if (other !== next) await untilIdle(this.world, other);
    assertEquals(leaving.begun.length, begun, "generators of a node that has left");
    return true;
  }

  /** Cancels the responses and fills all slots of the last node. */
  async finish(): Promise<void> {
    const node = this.#holder;
    await Promise.all(this.#read.map((asked) => asked.cancel()));
    await this.world.until("ends", () => this.#read.every(({ outcome }) => outcome));
    assertEquals(this.#read.map(({ outcome }) => outcome), this.#keys.map(() => "cancelled"));
    await untilIdle(this.world, node);
    await this.compareForgotten();
    // The responses of a killed node may still be counted against the first user's share.
    const users = ["cem", "dan"];
    await new RunningResponses(this.world, node, this.#slots, users).fill();
  }

  /** Compares the items and the data that the store stores. */
  async compareForgotten(): Promise<void> {
    for (const { items } of this.#read) assertEquals(items, range(0, items.length - 1));
    const { host, broker } = this.#desk;
    for (const key of this.#keys) {
      const response = { topic: TOPIC, user: "ann", name: nameOf(key) };
      const id = requestLog(await responseId(host.runtime, response));
      const options = { after: 0, maxRecords: 0, maxBytes: 1, renews: false };
      const find = () => broker.logs!.read(id, options);
      let isKept = true;
      for (let left = 20; left > 0 && isKept; left--) {
        isKept = await this.world.run(host, find) !== undefined;
        if (isKept) await this.world.pause(ITEM_MS);
      }
      assert(!isKept, `the request of ${key} is kept`);
    }
    for (const node of this.#nodes) if (node.host.isAlive) await untilIdle(this.world, node);
  }

  /** Starts a node that can take over responses. */
  startNode(): ResponseNode {
    const node = new ResponseNode(this.world, {
      name: `node-${this.#nodes.length}`,
      store: this.store,
      slots: this.#slots,
    });
    this.#nodes.push(node);
    return node;
  }

  async #expectLost(byMs: number): Promise<void> {
    const world = this.world;
    await world.until(
      "the loss of the writer",
      () => this.#read.every(({ outcome }) => outcome),
      byMs - world.nowMs,
    );
    assertEquals(this.#read.map(({ outcome }) => outcome), this.#keys.map(() => "writer-lost"));
  }
}
