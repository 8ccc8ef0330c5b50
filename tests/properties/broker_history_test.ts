/** Histories on each store. Two nodes append and read, even over slow, closed or broken links. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type {
  Broker,
  BrokerSubscription,
  HistoryBounds,
  Publication,
  PublicationKey,
} from "../../pubsub/broker.ts";
import { type Acknowledged, HistoryModel, type Query } from "../../pubsub/history/history_model.ts";
import type { Host, LinkConditions } from "../simulator/mod.ts";
import { type Drawn, keyOf, stepOf } from "./draw.ts";
import { untilReached } from "./stores.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

const TOPIC = "topic";
const HOUR_MS = 3_600_000;

/** Limits of the history. In each of them, one limit is small. */
const BOUNDS: Readonly<Record<string, HistoryBounds>> = {
  "many publications": { size: 1_000, ttlMs: HOUR_MS, bytes: 1 << 20 },
  "five publications": { size: 5, ttlMs: HOUR_MS, bytes: 1 << 20 },
  "few bytes": { size: 1_000, ttlMs: HOUR_MS, bytes: 1_000 },
  "a short time": { size: 1_000, ttlMs: 3_000, bytes: 1 << 20 },
};

/** Maximum time until a publication has reached the listeners, in milliseconds. */
const ARRIVES_MS = 2_000;

/** Maximum time after a fault until each publication is acknowledged, in milliseconds. */
const ACKNOWLEDGED_MS = 12_000;

const node = fc.nat(1);
const length = fc.constantFrom<number[]>(10, 200);
const append = stepOf("append", {
  /** Concurrent publications, some of which repeat an earlier publication with a key. */
  items: fc.array(
    fc.record({ node, length, key: fc.constantFrom("none", "new", "repeated"), back: fc.nat(2) }),
    { minLength: 1, maxLength: 4 },
  ),
}, 5);
const read = stepOf("read", {
  node,
  from: fc.constantFrom("the oldest", "the last", "a position", "beyond the head"),
  back: fc.nat(12),
  maxMessages: fc.constantFrom<number[]>(100, 1, 2, 3),
  maxBytes: fc.constantFrom<number[]>(100_000, 1, 210, 410),
}, 5);
const trouble = stepOf("trouble", {
  node,
  of: fc.constantFrom("a cut", "a silent cut", "a closed way", "a slow link"),
  lastsMs: fc.integer({ min: 50, max: 4_000 }),
  count: fc.integer({ min: 1, max: 5 }),
});
const step = fc.oneof(
  append,
  read,
  trouble,
  stepOf("listen", { node }, 2),
  stepOf("pause", { ms: fc.nat(2_000) }, 2),
);
type Trouble = Drawn<typeof trouble>;
type Append = Drawn<typeof append>;
type Read = Drawn<typeof read>;

property("a broker stores each publication once, in order, and returns what the limits keep", {
  cases: fc.record({
    store: fc.constantFrom("memory", "sqlite", "redis", "nats"),
    bounds: keyOf(BOUNDS),
    steps: fc.array(step, { maxLength: 30 }),
  }),
  async check(world, { store: name, bounds, steps }) {
    const store = await world.store(name);
    const brokers = [0, 1].map((i) => store.broker(world.host(`node-${i}`))!);
    const query = { bounds: BOUNDS[bounds]!, maxMessages: 1, maxBytes: 1 };
    for (const { history } of brokers) {
      await untilReached(world, () => history!.read(TOPIC, query));
    }
    const history = new SharedHistory(world, brokers, BOUNDS[bounds]!);
    for (const step of steps) {
      if (step.kind === "append") await history.append(step);
      else if (step.kind === "read") await history.read(step);
      else if (step.kind === "listen") await history.listenOrLeave(step.node);
      else if (step.kind === "pause") await world.pause(step.ms);
      else await history.appendInTrouble(step);
      // If the position of a publication is unknown, the comparison ends there.
      if (history.hasUnknown) break;
      await history.compareHeard();
    }
    if (!history.hasUnknown) await history.readAfterAll();
    for (const broker of brokers) {
      assertEquals(broker.stats.waiting, 0);
      await broker.close();
    }
    // A store does not notice a silent cut for a long time.
    for (const { host } of history.nodes) world.cut(host);
  },
});

/** A node, represented by its broker. */
interface Node {
  readonly host: Host;
  readonly broker: Broker;
  listener: {
    readonly subscription: BrokerSubscription;
    readonly from: number;
    readonly heard: Publication[];
  } | undefined;
}

/** One history and its model. */
class SharedHistory {
  /** True once only the store knows the position of some publication. */
  hasUnknown = false;
  readonly nodes: readonly Node[];
  readonly #model: HistoryModel;
  /** Keys that publications have used so far. */
  readonly #keys: PublicationKey[] = [];
  #count = 0;

  constructor(readonly world: World, brokers: readonly Broker[], readonly bounds: HistoryBounds) {
    // See docs/deploy/nats.md, Delivery.
    this.#model = new HistoryModel(bounds, { hasExactBytes: brokers[0]!.name !== "nats" });
    this.nodes = brokers.map((broker, i) => {
      return { host: world.host(`node-${i}`), broker, listener: undefined };
    });
  }

  async append({ items }: Append): Promise<void> {
    const added = await Promise.all(items.map(async ({ node, length, key, back }) => {
      const repeated = key === "repeated" ? this.#keys.at(-1 - back) : undefined;
      if (repeated === undefined) return await this.#add(node, { length, hasKey: key === "new" });
      const { position } = await this.nodes[node]!.broker.history!.append(
        { topic: TOPIC, payload: "repeated" },
        { bounds: this.bounds, key: repeated },
      );
      assertEquals(position, undefined, `position of a repetition of ${JSON.stringify(repeated)}`);
      return undefined;
    }));
    this.#model.add(added.filter((one) => one !== undefined));
  }

  async #add(
    node: number,
    { length, hasKey }: { readonly length: number; readonly hasKey: boolean },
  ): Promise<Acknowledged | undefined> {
    const number = ++this.#count;
    const payload = `${number}`.padEnd(length);
    // Numbers that fall, and texts, are as good as numbers that grow.
    const keys = [`key ${number}`, { producer: `producer ${node}`, number: 1_000 - number }];
    const key = hasKey ? keys[number % 2] : undefined;
    const fromMs = this.world.nowMs;
    const { position } = await this.nodes[node]!.broker.history!.append(
      { topic: TOPIC, payload },
      { bounds: this.bounds, ...(key && { key }) },
    );
    if (key !== undefined) this.#keys.push(key);
    this.hasUnknown ||= position === undefined;
    return position && { payload, position, taken: { fromMs, toMs: this.world.nowMs } };
  }

  /** Makes one append after another while a node's link to the store fails. */
  async appendInTrouble({ node, of, lastsMs, count }: Trouble): Promise<void> {
    const world = this.world;
    // A listener may miss publications during the fault.
    for (const [i, { listener }] of this.nodes.entries()) {
      if (listener !== undefined) await this.listenOrLeave(i);
    }
    const { host } = this.nodes[node]!;
    const stores = new Set(
      world.network.links.filter(({ client }) => client === host).map(({ server }) => server),
    );
    const change = (conditions: LinkConditions) => {
      for (const store of stores) world.change(host, store, conditions);
    };
    const isCut = of === "a cut" || of === "a silent cut";
    if (isCut) world.cut(host, of === "a silent cut" && "server");
    else change(of === "a closed way" ? { isBlocked: true } : { delayMs: 1_000 });
    const appending: Promise<Acknowledged | undefined>[] = [];
    for (let left = count; left > 0; left--) {
      // A broker that repeats a publication with a key receives no position.
      appending.push(this.#add(node, { length: 10, hasKey: false }));
      await world.pause(lastsMs / count);
    }
    if (!isCut) change({ isBlocked: false, delayMs: 1 });
    const all = await world.inTime("acknowledgments", Promise.all(appending), ACKNOWLEDGED_MS);
    const added = all.filter((one) => one !== undefined);
    const offsets = added.map(({ position }) => position.offset);
    assertEquals(offsets, offsets.toSorted((a, b) => a - b), "order of the calls");
    this.#model.add(added);
    await world.until(
      "connected brokers",
      () => this.nodes.every(({ broker }) => broker.status.current.name === "connected"),
    );
  }

  async listenOrLeave(index: number): Promise<void> {
    const node = this.nodes[index]!;
    const { listener } = node;
    node.listener = undefined;
    if (listener !== undefined) return await listener.subscription[Symbol.asyncDispose]();
    const heard: Publication[] = [];
    const subscription = node.broker.subscribe(TOPIC, (one) => void heard.push(one), {
      history: this.bounds,
    });
    node.listener = { subscription, from: this.#model.all.length, heard };
    await subscription.ready;
  }

  /**
   * Compares the publications that each listener received with all publications since its
   * subscription.
   */
  async compareHeard(): Promise<void> {
    const { all, head } = this.#model;
    for (const { listener } of this.nodes) {
      if (listener === undefined || listener.from === all.length) continue;
      const { from, heard } = listener;
      const isComplete = () => heard.at(-1)?.position?.offset === head;
      await this.world.until("all deliveries", isComplete, ARRIVES_MS);
      const shown = (
        one: Pick<Publication, "payload">,
        position: object,
        prev: number,
        i: number,
      ) => [one.payload, { ...position, prev: i + from === 0 ? "any" : prev }];
      assertEquals(
        heard.map((one, i) => shown(one, one.position!, one.position!.prev, i)),
        all.slice(from).map((one, i) =>
          shown(one, one.position, all[from + i - 1]?.position.offset ?? 0, i)
        ),
      );
    }
  }

  async read({ node, from, back, maxMessages, maxBytes }: Read): Promise<void> {
    const { all, head } = this.#model;
    const part = {
      "the oldest": {},
      "the last": { last: back },
      "a position": { after: all.at(-1 - back)?.position.offset ?? 0 },
      "beyond the head": { after: head + 7 },
    }[from];
    await this.#readPage(node, { ...part, maxMessages, maxBytes });
  }

  /** Reads the history after each of the newest publications. */
  async readAfterAll(): Promise<void> {
    const offsets = this.#model.all.slice(-12).map(({ position }) => position.offset);
    await Promise.all(
      offsets.map((after, i) =>
        this.#readPage(i % 2, { after, maxMessages: i % 3 === 0 ? 3 : 100, maxBytes: 100_000 })
      ),
    );
  }

  async #readPage(node: number, query: Query): Promise<void> {
    const { history } = this.nodes[node]!.broker;
    const fromMs = this.world.nowMs;
    const page = await history!.read(TOPIC, { ...query, bounds: this.bounds });
    const read = { fromMs, toMs: this.world.nowMs };
    const difference = this.#model.differenceOf(query, page, read);
    assertEquals(difference?.received, difference?.expected, JSON.stringify(query));
  }
}
