/** Histories at the engine: nodes append and read by their brokers, beside a model of the contract. */
import type {
  Broker,
  BrokerHistory,
  BrokerSubscription,
  HistoryBounds,
  Publication,
  PublicationKey,
} from "../../../../../pubsub/broker.ts";
import type { LinkConditions } from "../../../../../testing/simulation/network/conditions.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { AUDIT_HISTORY } from "../history.ts";
import { LogMachine } from "../logs/machine.ts";
import { type Acknowledged, HistoryModel, type Query } from "./history_model.ts";

/** Rounds of appends and reads. */
const ROUNDS = 8;

/** Reads of one round. */
const READS = 3;

/** Most publications of one round. */
const MAX_APPENDS = 4;

/** Share of publications that repeat an earlier one. */
const REPEATED_SHARE = 0.3;

/** Characters of a short and of a long publication. */
const SIZES = [10, 200] as const;

/** Longest pause between two rounds, as a share of the time of the history. */
const MAX_PAUSE = 0.7;

/** Longest pause between two rounds, in milliseconds. */
const MAX_PAUSE_MS = 3_000;

/** Longest time until a publication reaches the listeners, in milliseconds. */
const ARRIVES_MS = 2_000;

/** Share of audits on machines whose ways to the engine are at times slow, closed or cut. */
const TROUBLED_SHARE = 0.5;

/** Shortest and longest trouble, and longest delay of a packet meanwhile, in milliseconds. */
const [TROUBLE_MS, SLOW_MS] = [[50, 4_000], 2_000] as const;

/** Longest time behind a trouble until each publication is acknowledged, in milliseconds. */
const ACKNOWLEDGED_MS = 12_000;

/** Publications of each of two groups at the end, and the time between these, as a share of the time. */
const [GROUP, GROUP_SHARE] = [4, 0.6] as const;

/** Newest publications behind each of which the history is read at the end. */
const BEHIND = 12;

/** Most time and bytes of a history that drops publications during an audit. */
const [MAX_TTL_MS, MAX_BYTES] = [10_000, 10_000];

/** Share of audits of a history that drops publications by time or bytes, beside those of any. */
const BOUNDED_SHARE = 0.4;

/** A listener of one node. */
interface Listener {
  readonly subscription: BrokerSubscription;
  /** Number of publications before. */
  readonly from: number;
  readonly heard: Publication[];
}

/** A node, as its broker. */
interface Node {
  readonly broker: Broker;
  readonly history: BrokerHistory;
  readonly producer: string;
  listener: Listener | undefined;
}

/**
 * Appends to one history and reads it, on two nodes of the cluster, with drawn bounds.
 *
 * @param audit The audit.
 */
export async function auditEngineHistory(audit: Audit): Promise<void> {
  const all = Object.entries(AUDIT_HISTORY);
  const { random } = audit;
  const bounded = all.filter(([, { ttlMs, bytes }]) => ttlMs <= MAX_TTL_MS || bytes <= MAX_BYTES);
  const [pattern, bounds] = oneOf(random, random() < BOUNDED_SHARE ? bounded : all);
  const topic = pattern.replace("{name}", "engine");
  if (random() < TROUBLED_SHARE) {
    return await LogMachine.use(audit, ["historian-0", "historian-1"], async (machines) => {
      await new Rounds(audit, { topic, bounds, machines }).run();
    });
  }
  await new Rounds(audit, { topic, bounds, machines: [] }).run();
}

/** The rounds on one topic. */
class Rounds {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #topic: string;
  readonly #bounds: HistoryBounds;
  readonly #model: HistoryModel;
  readonly #nodes: readonly Node[];
  /** Keys of the publications so far. */
  readonly #keys: PublicationKey[] = [];
  readonly #machines: readonly LogMachine[];
  #count = 0;
  /** True once a publication has a position that the audit does not know. */
  #hasUnknown = false;

  /** Takes the brokers of the machines; those of the cluster without any. */
  constructor(audit: Audit, { topic, bounds, machines }: {
    readonly topic: string;
    readonly bounds: HistoryBounds;
    readonly machines: readonly LogMachine[];
  }) {
    this.#audit = audit;
    this.#random = audit.random;
    this.#topic = topic;
    this.#bounds = bounds;
    this.#machines = machines;
    // docs/deploy/nats.md, Bounds.
    const hasExactBytes = audit.node(0).server.topics.broker.name !== "nats";
    this.#model = new HistoryModel(bounds, { hasExactBytes });
    this.#nodes = [0, 1].map((i) => {
      const { broker } = machines[i] ?? audit.node(i).server.topics;
      return { broker, history: broker.history!, producer: `auditor ${i}`, listener: undefined };
    });
  }

  async run(): Promise<void> {
    const pauseMs = Math.min(MAX_PAUSE_MS, MAX_PAUSE * this.#bounds.ttlMs);
    await this.#read();
    for (let round = 0; round < ROUNDS; round++) {
      const isTroubled = this.#machines.length > 0 && this.#draw(2) === 0;
      for (const node of this.#nodes) {
        // A listener may miss publications of such a time.
        const changes = isTroubled ? node.listener !== undefined : this.#draw(2) === 0;
        if (changes) await this.#comeOrGo(node);
      }
      await (isTroubled ? this.#appendInTrouble() : this.#append());
      if (this.#hasUnknown) break;
      await Promise.all(this.#nodes.map((node) => this.#compareHeard(node)));
      if (this.#draw(2) === 0) await this.#audit.pause(pauseMs * this.#random());
      await Promise.all(Array.from({ length: READS }, () => this.#read()));
    }
    if (!this.#hasUnknown) await this.#readBehindAll();
    await Promise.all(
      this.#nodes.map(({ listener }) => listener?.subscription[Symbol.asyncDispose]()),
    );
  }

  /**
   * Reads behind each of the newest publications, once the older ones of these are no longer kept: an
   * engine may still have the one at which a reader stands, and those between.
   */
  async #readBehindAll(): Promise<void> {
    const { ttlMs } = this.#bounds;
    for (let group = 0; group < 2; group++) {
      for (let left = GROUP; left > 0; left--) {
        const one = await this.#appendNew();
        if (one !== undefined) this.#model.add([one]);
      }
      if (ttlMs <= MAX_TTL_MS) await this.#audit.pause(GROUP_SHARE * ttlMs);
    }
    if (this.#hasUnknown) return;
    const behind = this.#model.all.slice(-BEHIND).map(({ position }) => position.offset);
    await Promise.all(behind.map(async (after, i) => {
      const maxMessages = oneOf(this.#random, [3, 100, 100]);
      await this.#readPage(i, { after, maxMessages, maxBytes: 100_000 });
    }));
  }

  /** Draws a whole number below a bound. */
  #draw(below: number): number {
    return Math.floor(this.#random() * below);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `${this.#topic} at the engine: ${what}`, expected, received);
  }

  /** Subscribes a node, or ends its subscription. */
  async #comeOrGo(node: Node): Promise<void> {
    const { listener } = node;
    if (listener !== undefined) {
      node.listener = undefined;
      return await listener.subscription[Symbol.asyncDispose]();
    }
    const heard: Publication[] = [];
    const subscription = node.broker.subscribe(this.#topic, (one) => void heard.push(one), {
      history: this.#bounds,
    });
    node.listener = { subscription, from: this.#model.all.length, heard };
    await subscription.ready;
  }

  /** Appends some publications at once, new ones and repetitions. */
  async #append(): Promise<void> {
    const appending = Array.from({ length: 1 + this.#draw(MAX_APPENDS) }, () => {
      const repeated = this.#random() < REPEATED_SHARE
        ? this.#keys[Math.max(0, this.#keys.length - 1 - this.#draw(3))]
        : undefined;
      return repeated === undefined ? this.#appendNew() : this.#repeat(repeated);
    });
    const added = await Promise.all(appending);
    this.#model.add(added.filter((one) => one !== undefined));
  }

  /** Appends one after the other while the way of a node to the engine is slow, closed or cut. */
  async #appendInTrouble(): Promise<void> {
    const audit = this.#audit;
    const i = this.#draw(this.#machines.length);
    const { host } = this.#machines[i]!;
    const node = this.#nodes[i]!;
    const engines = audit.network.links.filter(({ client }) => client === host)
      .map(({ server }) => server);
    const [engine] = engines;
    const appending: Promise<Acknowledged | undefined>[] = [];
    const forMs = between(this.#random, ...TROUBLE_MS);
    const append = async () => {
      for (let left = 2 + this.#draw(MAX_APPENDS); left > 0; left--) {
        appending.push(this.#appendNew(node));
        await audit.pause(forMs / 2 * this.#random());
      }
    };
    if (engine === undefined || this.#draw(3) === 0) {
      audit.cut(host, oneOf(this.#random, [false, "server"]));
      await append();
    } else {
      const { delayMs } = audit.network.conditions(host, engine);
      const [trouble, end]: readonly LinkConditions[] = this.#draw(2) === 0
        ? [{ isBlocked: true }, { isBlocked: false }]
        : [{ delayMs: SLOW_MS * this.#random() }, { delayMs }];
      for (const one of engines) audit.change(host, one, trouble!);
      await Promise.all([append(), audit.pause(forMs)]);
      for (const one of engines) audit.change(host, one, end!);
    }
    const all = Promise.all(appending);
    const inTime = await audit.inTime(all, ACKNOWLEDGED_MS, undefined);
    this.#expect("publications acknowledged behind a trouble", true, inTime !== undefined);
    const added = (inTime ?? await all).filter((one) => one !== undefined);
    const offsets = added.map(({ position: { offset } }) => offset);
    this.#expect("order behind a trouble", `${offsets.toSorted((a, b) => a - b)}`, `${offsets}`);
    this.#model.add(added);
    const isBack = ({ broker }: Node) => broker.status.current.name === "connected";
    await audit.until(() => this.#nodes.every(isBack));
  }

  async #appendNew(
    { history, producer } = this.#nodes[this.#draw(2)]!,
  ): Promise<Acknowledged | undefined> {
    const number = ++this.#count;
    const payload = `${number}`.padEnd(SIZES[this.#draw(SIZES.length)]!);
    // A broker that repeats a publication with a key in a trouble learns no position.
    const hasKey = this.#machines.length === 0 && this.#draw(2) === 0;
    const key = hasKey ? { producer, number } : undefined;
    const fromMs = this.#audit.nowMs;
    const { position } = await history.append(
      { topic: this.#topic, payload, ...(this.#draw(2) === 0 && { bytes: payload.length }) },
      { bounds: this.#bounds, ...(key && { key }) },
    );
    if (key !== undefined) this.#keys.push(key);
    if (position === undefined) {
      // A trouble leaves the position unknown of which a node hears before the epoch is known again.
      this.#hasUnknown = this.#machines.length > 0;
      if (this.#hasUnknown) return undefined;
      this.#expect(`position of new publication ${number}`, "an offset", "none");
      return undefined;
    }
    return { payload, position, taken: { fromMs, toMs: this.#audit.nowMs } };
  }

  /** Appends a publication that the engine has, as after a lost answer. */
  async #repeat(key: PublicationKey): Promise<undefined> {
    const { history } = this.#nodes[this.#draw(2)]!;
    const { position } = await history.append(
      { topic: this.#topic, payload: "repeated" },
      { bounds: this.#bounds, key },
    );
    this.#expect(`position of a repetition of ${key.number}`, "none", position?.offset ?? "none");
  }

  /** Compares the publications that a listener got with all since its subscription. */
  async #compareHeard({ listener }: Node): Promise<void> {
    if (listener === undefined) return;
    const { from, heard } = listener;
    const all = this.#model.all;
    await this.#audit.until(
      () => heard.at(-1)?.position?.offset === all.at(-1)?.position.offset,
      from === all.length ? 0 : ARRIVES_MS,
    );
    const expected = all.slice(from).map(({ payload, position: { epoch, offset, tag } }, i) => {
      const prev = all[from + i - 1]?.position.offset ?? 0;
      return `${payload.trim()} at ${epoch} ${offset} ${tag} behind ${
        from + i === 0 ? "any" : prev
      }`;
    });
    const received = heard.map(({ payload, position }, i) => {
      const { epoch, offset, tag, prev } = position!;
      return `${`${payload}`.trim()} at ${epoch} ${offset} ${tag} behind ${
        from + i === 0 ? "any" : prev
      }`;
    });
    this.#expect("publications that a listener got", expected.join(), received.join());
  }

  /** Reads a page from a drawn place, within drawn bounds. */
  async #read(): Promise<void> {
    const number = this.#draw(2);
    const all = this.#model.all;
    const place = this.#draw(all.length + 2);
    const after = place > all.length
      ? this.#model.head + 7
      : all[all.length - 1 - place]?.position.offset ?? 0;
    const parts: readonly Pick<Query, "after" | "last">[] = [{ after }, { after }, {
      last: this.#draw(8),
    }, {}];
    const query: Query = {
      ...parts[this.#draw(parts.length)]!,
      maxMessages: [1, 2, 3, 100][this.#draw(4)]!,
      maxBytes: [1, 210, 410, 100_000][this.#draw(4)]!,
    };
    await this.#readPage(number, query);
  }

  /** Reads a page on a node, and compares it with the model. */
  async #readPage(number: number, query: Query): Promise<void> {
    const { history } = this.#nodes[number % this.#nodes.length]!;
    const fromMs = this.#audit.nowMs;
    const page = await history.read(this.#topic, { ...query, bounds: this.#bounds });
    const read = { fromMs, toMs: this.#audit.nowMs };
    const { expected, received } = this.#model.differenceOf(query, page, read) ?? {};
    this.#expect(`page of ${JSON.stringify(query)}`, expected ?? "", received ?? "");
  }
}
