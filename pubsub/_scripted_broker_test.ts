/** An engine whose every fault a test decides, and nodes on the engine. */
import { BrokerError } from "../errors.ts";
import { platformRuntime } from "../base/runtime.ts";
import { StatusFeed } from "../base/status_feed.ts";
import {
  type Appended,
  type Broker,
  type BrokerHistory,
  type BrokerStats,
  type BrokerStatus,
  type BrokerSubscribeOptions,
  type BrokerSubscription,
  type HistoryPage,
  payloadBytes,
  type Publication,
  type PublicationListener,
  type ReadHistoryOptions,
} from "./broker.ts";
import { Tags } from "./tag.ts";

/** Keeps one topic. Offsets go up by `step`. */
export class ScriptedEngine {
  epoch = "e1";
  head = 0;
  step = 1;
  kept: Publication[] = [];
  /** Has publications carry tags, as those of every engine do. */
  hasTags = false;
  readonly #tags = new Tags(platformRuntime());
  readonly nodes: ScriptedBroker[] = [];

  /** Makes the broker of a node. */
  node(): ScriptedBroker {
    const node = new ScriptedBroker(this);
    this.nodes.push(node);
    return node;
  }

  append(publication: Publication): Publication {
    const prev = this.head;
    this.head += this.step;
    const place = { epoch: this.epoch, offset: this.head, prev };
    const position = this.hasTags ? { ...place, tag: this.#tags.next() } : place;
    const placed = { ...publication, position };
    this.kept.push(placed);
    for (const node of this.nodes) node.onLive(placed, (one) => node.deliver(one));
    return placed;
  }

  /** Publishes data on the topic `t`. */
  publish(data: unknown, except?: string): Publication {
    const payload = JSON.stringify({ topic: "t", data });
    return this.append({ topic: "t", payload, except });
  }

  /** Has another publication with the same payload where one stood: that one was lost. */
  rewrite(offset: number): void {
    this.kept = this.kept.map((one) =>
      one.position!.offset === offset
        ? { ...one, position: { ...one.position!, tag: this.#tags.next() } }
        : one
    );
  }

  /** The tag of the publication at an offset. */
  tagAt(offset: number | undefined): string | undefined {
    return this.kept.find(({ position }) => position!.offset === offset)?.position?.tag;
  }

  /** Keeps the newest so many only. */
  trim(count: number): void {
    this.kept = count === 0 ? [] : this.kept.slice(-count);
  }

  /** Begins a new epoch, having lost the newest so many. */
  beginEpoch(epoch: string, lost = 0): void {
    this.epoch = epoch;
    this.kept = this.kept.slice(0, this.kept.length - lost).map((publication) => ({
      ...publication,
      position: { ...publication.position!, epoch },
    }));
    this.head = this.kept.at(-1)?.position?.offset ?? 0;
  }

  read({ after, last, maxMessages, maxBytes }: ReadHistoryOptions): HistoryPage {
    let from = this.kept;
    if (after !== undefined) from = from.filter(({ position }) => position!.offset > after);
    else if (last !== undefined) from = last === 0 ? [] : from.slice(-last);
    const publications: Publication[] = [];
    let bytes = 0;
    for (const publication of from.slice(0, maxMessages)) {
      bytes += payloadBytes(publication);
      if (bytes > maxBytes && publications.length > 0) break;
      publications.push(publication);
    }
    const anchor = this.tagAt(after);
    return { epoch: this.epoch, head: this.head, publications, anchor };
  }
}

/** The engine from the view of one node. */
export class ScriptedBroker implements Broker {
  readonly name = "scripted";
  readonly delivery = "at-most-once";
  readonly status: StatusFeed<BrokerStatus> = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly engine: ScriptedEngine;
  readonly history: BrokerHistory;
  /** Every read that was asked for. */
  readonly reads: ReadHistoryOptions[] = [];
  /** Fate of a publication on its way. */
  onLive: (publication: Publication, deliver: (one: Publication) => void) => void = (
    publication,
    deliver,
  ) => deliver(publication);
  /** Runs before and after the engine reads; the read throws any error of this function. */
  onRead: (at: "before" | "after") => void | Promise<void> = () => {};
  onAppend: () => void | Promise<void> = () => {};
  /** True once subscriptions are ready; else they wait. */
  ready: Promise<void> = Promise.resolve();
  readonly #subscriptions = new Set<
    { readonly listener: PublicationListener; readonly options: BrokerSubscribeOptions }
  >();

  constructor(engine: ScriptedEngine) {
    this.engine = engine;
    this.history = {
      append: async (publication): Promise<Appended> => {
        await this.onAppend();
        const { position } = this.engine.append(publication);
        return { position: position! };
      },
      read: async (_topic, options) => {
        this.reads.push(options);
        await this.onRead("before");
        const page = this.engine.read(options);
        await this.onRead("after");
        return page;
      },
    };
  }

  get stats(): BrokerStats {
    return { published: 0, received: 0, waiting: 0, dropped: 0, interruptions: 0, reads: 0 };
  }

  get subscriptions(): number {
    return this.#subscriptions.size;
  }

  issues(): string[] {
    return [];
  }

  publish(): void {
    throw new Error("the topics of these tests have a history");
  }

  deliver(publication: Publication): void {
    for (const { listener } of this.#subscriptions) listener(publication);
  }

  interrupt(): void {
    for (const { options } of this.#subscriptions) options.onInterrupted?.();
  }

  subscribe(
    _topic: string,
    listener: PublicationListener,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    const entry = { listener, options };
    this.#subscriptions.add(entry);
    return {
      ready: this.ready,
      [Symbol.asyncDispose]: () => {
        this.#subscriptions.delete(entry);
        return Promise.resolve();
      },
    };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Error of reads while the engine is away. */
export function away(): never {
  throw new BrokerError("Cannot read history: the engine is away");
}
