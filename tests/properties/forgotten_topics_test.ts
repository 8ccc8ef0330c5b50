/**
 * Brokers with more topics than they may remember. The properties check which histories a
 * broker forgets and where they continue.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { BrokerError } from "../../errors.ts";
import type { BrokerSubscription, HistoryBounds } from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { ForgettingModel } from "../../pubsub/memory/forgetting_model.ts";
import type { SimulatedDisk } from "../simulator/mod.ts";
import { diskOf } from "./disks.ts";
import { type Drawn, maybe, stepOf } from "./draw.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Number of publications per history. */
const SIZE = 3;

/**
 * The topic whose publications expire. There is only one such topic, because if there were two
 * empty histories, either could be forgotten first.
 */
const BRIEF = 5;

/** Time after which brief publications have expired, and the next sweep of a file has finished. */
const EXPIRED_MS = 12_000;

const LASTING: HistoryBounds = { size: SIZE, ttlMs: 3_600_000, bytes: 1 << 16 };
const BRIEFLY: HistoryBounds = { size: SIZE, ttlMs: 5_000, bytes: 500 };
const PAGE = { maxMessages: 100, maxBytes: 1 << 20 } as const;

const publish = stepOf("publish", {
  topic: fc.nat(BRIEF),
  key: fc.constantFrom("none", "next", "repeated"),
  /** A publication larger than the history of the brief topic. */
  isLarge: fc.boolean(),
  /** Number of disk operations before some of them fail. */
  fault: maybe(
    fc.record({ after: fc.nat(5), times: fc.nat(2), operation: fc.constantFrom("write", "sync") }),
    2,
  ),
}, 8);
const listen = stepOf("listen", { topic: fc.nat(BRIEF) }, 4);
const others = fc.record({ kind: fc.constantFrom("expire", "reopen") });

const cases = fc.record({
  store: fc.constantFrom("memory", "sqlite"),
  maxTopics: fc.integer({ min: 2, max: 4 }),
  steps: fc.array(
    fc.oneof(publish, listen, { weight: 1, arbitrary: others }),
    { maxLength: 40 },
  ),
});

type Case = Drawn<typeof cases>;
type Publish = Drawn<typeof publish>;

const plain = { kind: "publish", key: "none", isLarge: false, fault: undefined } as const;

property(
  "a broker with too many topics forgets the most dispensable one, and never reuses an offset",
  {
    cases,
    regressions: {
      "forgotten topics of a failed transaction": {
        store: "sqlite",
        maxTopics: 2,
        steps: [
          { ...plain, topic: 0 },
          { ...plain, topic: 1 },
          { ...plain, topic: 2, fault: { after: 0, times: 2, operation: "write" } },
          { kind: "expire" },
        ],
      },
    },
    async check(world, { store, maxTopics, steps }) {
      const topics = await FewTopics.start(world, { store, maxTopics });
      for (const step of steps) {
        if (step.kind === "publish") await topics.publish(step);
        else if (step.kind === "listen") await topics.listenOrLeave(step.topic);
        else if (step.kind === "expire") await topics.expire();
        else await topics.reopen();
      }
      await topics.compareAll();
      await topics.close();
    },
  },
);

/** A listener and the publications that it must receive. */
interface Listener {
  readonly subscription: BrokerSubscription;
  readonly expected: string[];
  readonly received: string[];
}

/** A broker that may remember few topics, and its model. */
class FewTopics {
  readonly #model: ForgettingModel;
  readonly #open: () => MemoryBroker | SqliteBroker;
  readonly #disk: SimulatedDisk | undefined;
  readonly #listeners = new Map<number, Listener>();
  #broker: MemoryBroker | SqliteBroker;
  /** Topics that were forgotten before the file was last opened. */
  #before = 0;
  #count = 0;
  #epoch: string | undefined;

  private constructor(readonly world: World, { model, open, disk }: {
    readonly model: ForgettingModel;
    readonly open: () => MemoryBroker | SqliteBroker;
    readonly disk: SimulatedDisk | undefined;
  }) {
    this.#model = model;
    this.#open = open;
    this.#disk = disk;
    this.#broker = open();
  }

  static async start(
    world: World,
    { store, maxTopics }: Pick<Case, "store" | "maxTopics">,
  ): Promise<FewTopics> {
    const host = world.host("node");
    const model = new ForgettingModel({
      prefersListeners: store === "memory",
      maxTopics,
      size: SIZE,
    });
    if (store === "memory") {
      const open = () => new MemoryBroker({ runtime: host.runtime, maxTopics });
      return new FewTopics(world, { model, open, disk: undefined });
    }
    const { disk, open } = await diskOf(world, host.name);
    return new FewTopics(world, { model, open: () => open("few.db", { maxTopics }), disk });
  }

  async publish({ topic, key, isLarge, fault }: Publish): Promise<void> {
    const name = `${topic}`;
    const number = key === "repeated" ? this.#count : ++this.#count;
    const tooLarge = isLarge && topic === BRIEF;
    const payload = `${number}${tooLarge ? "x".repeat(BRIEFLY.bytes) : ""}`;
    if (fault !== undefined) {
      this.#disk?.fail({ kind: "error", ...fault, times: fault.times + 1 });
    }
    const appended = await this.#broker.history.append({ topic: name, payload }, {
      bounds: boundsOf(topic),
      ...(key !== "none" && { key: { producer: "p", number } }),
    }).catch((error) => {
      if (fault === undefined || !(error instanceof BrokerError)) throw error;
    });
    this.#disk?.heal();
    // A failed transaction forgets no topic and advances no offset.
    if (appended !== undefined) {
      const expected = this.#model.append(name, {
        text: `${number}`,
        isLarge: tooLarge,
        key: key === "none" ? undefined : number,
      });
      assertEquals(appended.position?.offset, expected);
      this.#epoch ??= appended.position?.epoch;
      if (expected !== undefined) {
        assertEquals(appended.position?.epoch, this.#epoch);
        this.#listeners.get(topic)?.expected.push(textOf(`${number}`, expected));
      }
    }
    await (appended === undefined ? this.compareAll() : this.#compare(topic));
  }

  async listenOrLeave(topic: number): Promise<void> {
    const listener = this.#listeners.get(topic);
    if (listener !== undefined) {
      await this.#compareReceived(listener);
      this.#listeners.delete(topic);
      this.#model.unfollow(`${topic}`);
      await listener.subscription[Symbol.asyncDispose]();
      return;
    }
    const received: string[] = [];
    const subscription = this.#broker.subscribe(`${topic}`, ({ payload, position }) => {
      assertEquals(position!.prev, position!.offset - 1);
      received.push(textOf(`${payload}`, position!.offset));
    }, { history: boundsOf(topic) });
    this.#listeners.set(topic, { subscription, expected: [], received });
    this.#model.follow(`${topic}`);
    await subscription.ready;
    await this.#compare(topic);
  }

  async expire(): Promise<void> {
    await this.world.pause(EXPIRED_MS);
    this.#model.expire(`${BRIEF}`);
    await this.compareAll();
    // A file counts forgotten topics during its sweeps.
    assertEquals(this.#before + this.#broker.stats.forgotten!, this.#model.forgotten);
  }

  /** Ends the process that has the file open, and starts another process. */
  async reopen(): Promise<void> {
    if (this.#disk === undefined) return;
    await this.expire();
    for (const listener of this.#listeners.values()) await this.#compareReceived(listener);
    this.#before += this.#broker.stats.forgotten!;
    this.#listeners.clear();
    this.#model.restart();
    await this.#broker.close();
    this.#broker = this.#open();
    await this.compareAll();
  }

  async compareAll(): Promise<void> {
    for (let topic = 0; topic <= BRIEF; topic++) await this.#compare(topic);
    for (const listener of this.#listeners.values()) await this.#compareReceived(listener);
  }

  async close(): Promise<void> {
    await this.#broker.close();
  }

  /** Compares pages of a topic, both the whole history and the part after an offset. */
  async #compare(topic: number): Promise<void> {
    const { head, kept } = this.#model.of(`${topic}`);
    for (const after of [undefined, Math.max(0, head - 1), head + 1]) {
      const page = await this.#broker.history.read(`${topic}`, {
        ...PAGE,
        bounds: boundsOf(topic),
        ...(after !== undefined && { after }),
      });
      assertEquals(
        [
          page.head,
          ...page.publications.map((one) => textOf(`${one.payload}`, one.position!.offset)),
        ],
        [
          head,
          ...kept.filter(({ offset }) => after === undefined || offset > after)
            .map(({ text, offset }) => textOf(text, offset)),
        ],
      );
      assertEquals(page.anchor !== undefined, kept.some(({ offset }) => offset === after));
    }
  }

  async #compareReceived({ expected, received }: Listener): Promise<void> {
    await this.world.until("all deliveries", () => received.length >= expected.length, 100);
    assertEquals(received, expected);
  }
}

function boundsOf(topic: number): HistoryBounds {
  return topic === BRIEF ? BRIEFLY : LASTING;
}

function textOf(payload: string, offset: number): string {
  return `${payload.replace(/x+$/, "")} at ${offset}`;
}
