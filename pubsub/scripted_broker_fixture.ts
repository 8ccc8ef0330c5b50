/** A store whose history the test writes, and nodes on it. */
import { platformRuntime } from "../base/runtime.ts";
import { StatusFeed } from "../base/status_feed.ts";
import {
  type Broker,
  type BrokerHistory,
  type BrokerStatus,
  type BrokerSubscription,
  type HistoryPage,
  payloadBytes,
  type Publication,
  type PublicationListener,
  type ReadHistoryOptions,
} from "./broker.ts";
import { LocalListeners } from "./broker/listeners.ts";
import { Tags } from "./tag.ts";
import { type FaultyBroker, FaultyStore } from "../tests/faulty_broker.ts";

/** Keeps one topic. Offsets increase by `step`. */
export class ScriptedStore {
  epoch = "e1";
  head = 0;
  step = 1;
  kept: Publication[] = [];
  /** True to add tags to publications, as every store does. */
  hasTags = false;
  readonly #tags = new Tags(platformRuntime());
  readonly #broker = new ScriptedBroker(this);
  readonly #store = new FaultyStore({ make: () => this.#broker });

  node(): FaultyBroker {
    return this.#store.connect();
  }

  append(publication: Publication): Publication {
    const prev = this.head;
    this.head += this.step;
    const place = { epoch: this.epoch, offset: this.head, prev };
    const position = this.hasTags ? { ...place, tag: this.#tags.next() } : place;
    const placed = { ...publication, position };
    this.kept.push(placed);
    this.#broker.deliver(placed);
    return placed;
  }

  /** Publishes data on the topic `t`. */
  publish(data: unknown, except?: string): Publication {
    const payload = JSON.stringify({ topic: "t", data });
    return this.append({ topic: "t", payload, except });
  }

  /** Replaces a publication, as if it was lost, with another one that has the same payload. */
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

  /** Keeps only the newest publications. */
  trim(count: number): void {
    this.kept = count === 0 ? [] : this.kept.slice(-count);
  }

  /** Starts a new epoch after losing the newest publications. */
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

/** The broker for the history of a {@linkcode ScriptedStore}. */
class ScriptedBroker implements Broker {
  readonly name = "scripted";
  readonly delivery = "at-most-once";
  readonly status = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly stats = {
    published: 0,
    received: 0,
    waiting: 0,
    dropped: 0,
    interruptions: 0,
    reads: 0,
  };
  readonly history: BrokerHistory;
  readonly #listeners = new LocalListeners();

  constructor(store: ScriptedStore) {
    this.history = {
      append: (publication) => {
        const { position } = store.append(publication);
        return Promise.resolve({ position: position! });
      },
      read: (_topic, options) => Promise.resolve(store.read(options)),
    };
  }

  issues(): string[] {
    return [];
  }

  /** There are no other nodes. */
  publish(): void {}

  deliver(publication: Publication): void {
    this.#listeners.deliver(publication);
  }

  subscribe(topic: string, listener: PublicationListener): BrokerSubscription {
    return this.#listeners.subscribe(topic, listener);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
