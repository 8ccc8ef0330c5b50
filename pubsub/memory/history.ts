/** Histories of topics in the memory of one process. */
import {
  type Appended,
  type AppendOptions,
  countedBytes,
  type HistoryBounds,
  type HistoryPage,
  keptBounds,
  KEY_WINDOW_MS,
  payloadBytes,
  type Publication,
  type PublicationKey,
  type ReadHistoryOptions,
} from "../broker.ts";
import { type Linked, LinkedList } from "../../base/linked_list.ts";
import type { Runtime } from "../../base/runtime.ts";
import { withNumber } from "../broker/keys.ts";
import { Fifo } from "../broker/queue.ts";
import { Holders, Publishers } from "../history/publishers.ts";
import { Tags } from "../tag.ts";
import { RememberedKeys } from "./keys.ts";
import { ByteSum, COSTS, type Counted } from "./space.ts";

/** Maximum number of topics with a remembered history or offset. */
export const MAX_TOPICS = 10_000;

/**
 * Fraction of the topics that may take precedence because they have listeners. It is half of all
 * topics, so that listeners of many topics leave room for topics that have no listeners at the
 * moment.
 */
const RETAINED_FOR_LISTENERS = 1 / 2;

/**
 * Maximum number of producers per topic whose last numbers are remembered. Each client that
 * publishes is a producer, so beyond that, the producer that has been quiet for longest is forgotten:
 * otherwise, the clients of one user could block a topic for all others.
 */
export const MAX_PRODUCERS = 10_000;

/** Minimum time between two sweeps of the expired publications of all topics, in milliseconds. */
const TIDY_INTERVAL_MS = 1_000;

type ProducerKey = Exclude<PublicationKey, string>;

/** The last numbers of a producer. */
interface ProducerNumbers {
  /** The numbers, separated by spaces, the newest first. */
  readonly numbers: string;
  /** Time at which they are forgotten, on the monotonic clock. */
  untilMs: number;
}

interface StoredPublication {
  readonly publication: Publication;
  readonly bytes: number;
  readonly at: number;
}

/** The history of one topic, with consecutive offsets. */
class TopicHistory implements Linked<TopicHistory>, Counted {
  readonly topic: string;
  previous: TopicHistory | undefined = undefined;
  next: TopicHistory | undefined = undefined;
  /** The list that contains this history. */
  list: LinkedList<TopicHistory> | undefined;
  readonly #epoch: string;
  /** The producers, the one that has been quiet for longest first. */
  readonly #producers = new Map<string, ProducerNumbers>();
  /** The topic's newest offset, also if no publication is kept. */
  head: number;
  bounds: HistoryBounds;
  /** Number of the last publication across all topics; the quietest history has the lowest. */
  usedAt = 0;
  counted = 0;
  readonly #kept = new Fifo<StoredPublication>();
  #bytes = 0;
  #producerBytes = 0;

  constructor(
    topic: string,
    from: { readonly epoch: string; readonly head: number; readonly bounds: HistoryBounds },
  ) {
    this.topic = topic;
    this.#epoch = from.epoch;
    this.head = from.head;
    this.bounds = from.bounds;
  }

  get isEmpty(): boolean {
    return this.#kept.length === 0;
  }

  get cost(): number {
    const { topic, publication, producer } = COSTS;
    return topic + this.#bytes + publication * this.#kept.length +
      this.#producerBytes + producer * this.#producers.size;
  }

  /** Records a producer's number. Returns false for a repetition. */
  admit({ producer, number }: ProducerKey, nowMs: number): boolean {
    this.#forgetProducers(({ untilMs }) => untilMs <= nowMs);
    const known = this.#producers.get(producer);
    const numbers = withNumber(known?.numbers ?? "", number);
    if (numbers === undefined) return false;
    if (known !== undefined) this.#forgetProducer(producer, known);
    this.#producers.set(producer, { numbers, untilMs: nowMs + KEY_WINDOW_MS });
    this.#producerBytes += producer.length + numbers.length;
    this.#forgetProducers(() => this.#producers.size > MAX_PRODUCERS);
    return true;
  }

  /** Forgets the quietest producers. */
  #forgetProducers(isGone: (producer: ProducerNumbers) => boolean): void {
    for (const [name, producer] of this.#producers) {
      if (!isGone(producer)) return;
      this.#forgetProducer(name, producer);
    }
  }

  #forgetProducer(name: string, { numbers }: ProducerNumbers): void {
    this.#producers.delete(name);
    this.#producerBytes -= name.length + numbers.length;
  }

  /** Keeps a publication, and returns it with a position. */
  add(publication: Publication, tag: string, now: number): Publication {
    const prev = this.head++;
    const position = { epoch: this.#epoch, offset: this.head, prev, tag };
    const placed: Publication = { ...publication, position };
    const bytes = payloadBytes(publication);
    this.#kept.push({ publication: placed, bytes, at: now });
    this.#bytes += bytes;
    this.trim(now);
    return placed;
  }

  /** Drops the publications beyond the bounds. */
  trim(now: number): void {
    const { size, ttlMs, bytes } = this.bounds;
    const kept = this.#kept;
    for (let oldest = kept.first; oldest; oldest = kept.first) {
      const isWithin = kept.length <= size && now - oldest.at < ttlMs &&
        countedBytes(this.#bytes, kept.length) <= bytes;
      if (isWithin) break;
      this.drop();
    }
  }

  /** Index of the oldest kept publication within bounds that are narrower than the kept ones. */
  #startWithin({ size, ttlMs, bytes }: HistoryBounds, now: number): number {
    let sum = 0;
    for (let i = 1; i <= this.#kept.length; i++) {
      const { at, bytes: own } = this.#kept.at(-i)!;
      sum += countedBytes(own, 1);
      if (i > size || now - at >= ttlMs || sum > bytes) return this.#kept.length - i + 1;
    }
    return 0;
  }

  drop(): void {
    this.#bytes -= this.#kept.shift()!.bytes;
  }

  read(options: ReadHistoryOptions, now: number): HistoryPage {
    const { bounds, after, last, maxMessages, maxBytes } = options;
    const kept = this.#kept;
    const oldest = this.head - kept.length + 1;
    let from = bounds.widest === undefined ? 0 : this.#startWithin(bounds, now);
    const anchor = after === undefined || after < oldest ? undefined : kept.at(after - oldest);
    if (after !== undefined) from = Math.max(from, after + 1 - oldest);
    else if (last !== undefined) from = Math.max(from, kept.length - last);
    const publications: Publication[] = [];
    let bytes = 0;
    for (let i = from; i < kept.length && publications.length < maxMessages; i++) {
      const item = kept.at(i)!;
      bytes += item.bytes;
      if (bytes > maxBytes && publications.length > 0) break;
      publications.push(item.publication);
    }
    const tag = anchor?.publication.position?.tag;
    return { epoch: this.#epoch, head: this.head, publications, anchor: tag };
  }
}

/**
 * The histories of a {@linkcode MemoryBroker}; both the publications per topic and the topics are
 * bounded.
 *
 * - **Reading creates no history:** a topic without one starts at the highest offset of any forgotten
 *   history. Therefore, all topics share one epoch, and no pair of epoch and offset ever identifies
 *   two publications.
 * - **Order of forgetting:** histories without publications are forgotten first, then histories of
 *   the client that created the most within the last hour, then histories without listeners, starting
 *   with the quietest. If the histories with listeners exceed {@linkcode RETAINED_FOR_LISTENERS} of
 *   the maximum, they are forgotten, too.
 * - **Bytes:** beyond the bound on bytes, histories of the client that holds the most bytes are
 *   forgotten directly after the histories without publications, starting with the quietest. Then the
 *   order is the same. The last history loses its oldest publications.
 * - **Listeners:** forgetting a history does not disturb listeners. The offsets of a topic with
 *   listeners continue after the last one.
 */
export class MemoryHistories {
  /** The epoch of all topics, as long as the broker exists. */
  readonly #epoch: string;
  readonly #runtime: Runtime;
  readonly #maxTopics: number;
  readonly #maxBytes: () => number;
  readonly #sum = new ByteSum();
  readonly #keys = new RememberedKeys();
  readonly #tags: Tags;
  readonly #histories = new Map<string, TopicHistory>();
  /** Each history is in one of these three lists, ordered by last publication. */
  #empty = new LinkedList<TopicHistory>();
  #unsubscribed = new LinkedList<TopicHistory>();
  #subscribed = new LinkedList<TopicHistory>();
  /**
   * Maps each topic with listeners to the offset at which a new history continues; bounded by the
   * listeners.
   */
  readonly #followed = new Map<string, number>();
  /** The highest offset of any forgotten history. */
  #floor = 0;
  readonly #publishers: Publishers;
  readonly #holders = new Holders();
  #forgotten = 0;
  #uses = 0;
  #tidiedAt = 0;

  /**
   * @param runtime Clocks and randomness of the node.
   * @param options Maximum number of topics with a remembered history or offset, and the current
   * maximum number of bytes of all.
   */
  constructor(
    runtime: Runtime,
    { maxTopics = MAX_TOPICS, maxBytes = () => Infinity }: {
      readonly maxTopics?: number | undefined;
      readonly maxBytes?: (() => number) | undefined;
    } = {},
  ) {
    this.#runtime = runtime;
    this.#maxTopics = maxTopics;
    this.#maxBytes = maxBytes;
    this.#publishers = new Publishers(maxTopics);
    this.#tags = new Tags(runtime);
    this.#epoch = runtime.randomUUID().slice(0, 8);
  }

  /** Number of histories with publications that were forgotten for lack of topics or bytes. */
  get forgotten(): number {
    return this.#forgotten;
  }

  /** Records that a topic has its first listener. */
  follow(topic: string): void {
    const history = this.#histories.get(topic);
    this.#followed.set(topic, history?.head ?? this.#floor);
    if (history?.list === this.#unsubscribed) move(history, this.#subscribed);
  }

  /** Records that a topic's last listener has left. */
  unfollow(topic: string): void {
    const history = this.#histories.get(topic);
    this.#followed.delete(topic);
    if (history?.list === this.#subscribed) move(history, this.#unsubscribed);
  }

  /**
   * Keeps a publication. Returns `undefined` for a repetition.
   *
   * @throws {LimitError} If there is no room for the key.
   */
  append(
    publication: Publication,
    { bounds, key, publisher }: AppendOptions,
  ): Publication | undefined {
    const now = this.#runtime.now();
    const nowMs = this.#runtime.monotonic(); // The time of keys, which never jumps.
    const { topic } = publication;
    if (typeof key === "string") {
      if (!this.#keys.admit(topic, key, { nowMs, maxBytes: this.#maxBytes() })) return undefined;
      this.#sum.update(this.#keys);
    }
    let history = this.#histories.get(topic);
    if (history === undefined) {
      history = this.#begin(topic, keptBounds(bounds));
      this.#publishers.note(topic, publisher, now);
      this.#holders.note(topic, publisher);
    }
    if (typeof key === "object" && !history.admit(key, nowMs)) return undefined;
    history.bounds = keptBounds(bounds);
    history.usedAt = ++this.#uses;
    this.#holders.use(topic);
    const placed = history.add(publication, this.#tags.next(), now);
    this.#count(history);
    this.#sort(history);
    if (Math.abs(now - this.#tidiedAt) >= TIDY_INTERVAL_MS) this.#tidy(now);
    if (this.#histories.size > this.#maxTopics) this.#forget(this.#mostDispensable(now));
    if (this.#sum.bytes > this.#maxBytes()) this.shrink(this.#maxBytes());
    return placed;
  }

  /**
   * Forgets histories until all together use at most this many bytes. The last history loses only
   * its oldest publications.
   */
  shrink(maxBytes: number): void {
    const now = this.#runtime.now();
    while (this.#sum.bytes > maxBytes && this.#histories.size > 1) {
      const held = this.#empty.oldest ? undefined : this.#holders.first(this.#sum.bytes);
      this.#forget(this.#histories.get(held ?? "") ?? this.#mostDispensable(now));
    }
    if (this.#sum.bytes <= maxBytes) return;
    for (const last of this.#histories.values()) {
      while (this.#sum.bytes > maxBytes && !last.isEmpty) {
        last.drop();
        this.#count(last);
      }
      if (last.isEmpty) this.#forget(last);
    }
  }

  /** Reads a page; a topic without a history is empty. */
  read(topic: string, options: ReadHistoryOptions): HistoryPage {
    const history = this.#histories.get(topic);
    if (history === undefined) {
      return { epoch: this.#epoch, head: this.#floorOf(topic), publications: [] };
    }
    const now = this.#runtime.now();
    history.bounds = keptBounds(options.bounds);
    history.trim(now);
    this.#count(history);
    return history.read(options, now);
  }

  clear(): void {
    this.#histories.clear();
    this.#sum.clear();
    this.#keys.clear();
    this.#publishers.clear();
    this.#holders.clear();
    this.#followed.clear();
    this.#empty = new LinkedList();
    this.#unsubscribed = new LinkedList();
    this.#subscribed = new LinkedList();
  }

  #begin(topic: string, bounds: HistoryBounds): TopicHistory {
    const history = new TopicHistory(topic, {
      epoch: this.#epoch,
      head: this.#floorOf(topic),
      bounds,
    });
    this.#histories.set(topic, history);
    return history;
  }

  #floorOf(topic: string): number {
    return this.#followed.get(topic) ?? this.#floor;
  }

  /** Makes a history the newest in the list that it belongs to. */
  #sort(history: TopicHistory): void {
    if (history.isEmpty) move(history, this.#empty);
    else move(history, this.#followed.has(history.topic) ? this.#subscribed : this.#unsubscribed);
  }

  /** Drops expired publications, including those on topics without readers and writers. */
  #tidy(now: number): void {
    this.#tidiedAt = now;
    this.#keys.tidy(this.#runtime.monotonic());
    this.#sum.update(this.#keys);
    for (const histories of [this.#unsubscribed, this.#subscribed]) {
      for (const history of histories.toArray().reverse()) {
        history.trim(now);
        this.#count(history);
        if (history.isEmpty) move(history, this.#empty);
      }
    }
  }

  /** Updates the bytes of a history after a change. */
  #count(history: TopicHistory): void {
    this.#sum.update(history);
    this.#holders.count(history.topic, history.counted);
  }

  #forget(history: TopicHistory): void {
    this.#histories.delete(history.topic);
    this.#sum.remove(history);
    this.#publishers.forget(history.topic);
    this.#holders.forget(history.topic);
    if (history.list !== this.#empty) this.#forgotten++;
    move(history, undefined);
    this.#floor = Math.max(this.#floor, history.head);
    if (this.#followed.has(history.topic)) this.#followed.set(history.topic, history.head);
  }

  #mostDispensable(now: number): TopicHistory {
    const empty = this.#empty.oldest;
    if (empty !== undefined) return empty;
    const made = this.#publishers.first(now);
    if (made !== undefined) return this.#histories.get(made)!;
    const [unsubscribed, subscribed] = [this.#unsubscribed.oldest, this.#subscribed.oldest];
    const kept = this.#maxTopics * RETAINED_FOR_LISTENERS;
    if (subscribed === undefined || unsubscribed !== undefined && this.#subscribed.size <= kept) {
      return unsubscribed!;
    }
    return unsubscribed !== undefined && unsubscribed.usedAt < subscribed.usedAt
      ? unsubscribed
      : subscribed;
  }
}

/** Makes a history the newest of a list, or removes it from its list. */
function move(history: TopicHistory, list: LinkedList<TopicHistory> | undefined): void {
  history.list?.delete(history);
  history.list = list;
  list?.add(history);
}

/** The result of an append. A repetition has no position. */
export function appended(placed: Publication | undefined): Appended {
  if (placed?.position === undefined) return {};
  const { prev: _prev, ...position } = placed.position;
  return { position };
}
