/**
 * All subscriptions of one client to one topic, which share one subscription at the server.
 *
 * @module
 */
import type { AnyContract } from "../session/contract.ts";
import type {
  HistoryOptions,
  HistoryPosition,
  SubscribeAnswer,
  Unsubscribed,
} from "../session/wire/recovery.ts";
import type { Session } from "../session/session.ts";
import type { Subscription } from "./subscription.ts";
import type { Incoming, TopicNote, TopicSink } from "../session/message.ts";

/** A request for a topic, on behalf of one subscription. */
export interface Question<C extends AnyContract> {
  /** The subscription whose position the request contains. */
  readonly asker: Subscription<C>;
  /**
   * All subscriptions that waited when the request was sent; a refusal applies to each of these.
   */
  readonly waiting: readonly Subscription<C>[];
  /** The position from which the subscription continues. */
  readonly from: HistoryOptions;
}

/**
 * Hands the events of a topic to each subscription. Each subscription drops messages that were
 * already received.
 *
 * - **Requests:** one at a time. The request contains the oldest position. The answer serves every
 *   subscription with a later position; the other subscriptions need another request.
 * - **New subscriptions:** get no event before an answer that serves the subscription. While the
 *   topic is in force, a subscription without history options needs no answer, and begins behind
 *   the newest publication.
 */
export class TopicReaders<C extends AnyContract> implements TopicSink {
  /** The topic. */
  readonly topic: string;
  /** True if the session's last answer for the topic is still valid. */
  isServed = false;
  /**
   * Sink for events of the current session: these readers, unless events of an earlier session come
   * first.
   */
  head: TopicSink = this;
  /** The session whose answer is awaited; a later session does not wait for that answer. */
  askedOf: Session | undefined;
  readonly #removed: (why: Unsubscribed) => void;
  readonly #all = new Set<Subscription<C>>();
  /** Subscriptions that get events. */
  readonly #reading = new Set<Subscription<C>>();
  /** Subscriptions that still need an answer. */
  readonly #waiting = new Set<Subscription<C>>();
  /** The position of the newest publication that was received or that the server told of. */
  #newest: HistoryPosition | undefined;

  /**
   * Creates a topic without subscriptions.
   *
   * @param topic The topic.
   * @param removed Called when the server took the client off the topic.
   */
  constructor(topic: string, removed: (why: Unsubscribed) => void) {
    this.topic = topic;
    this.#removed = removed;
  }

  /** The subscriptions. */
  get all(): ReadonlySet<Subscription<C>> {
    return this.#all;
  }

  /** True if no subscription is left. */
  get isEnded(): boolean {
    return this.#all.size === 0;
  }

  /** True if a subscription still needs an answer. */
  get isWaiting(): boolean {
    return this.#waiting.size > 0;
  }

  /** Adds a subscription, or marks an existing one as in need of an answer. */
  ask(subscription: Subscription<C>): void {
    // The first subscription also gets events that the server sends before the first answer.
    if (this.isEnded) this.#reading.add(subscription);
    this.#all.add(subscription);
    this.#waiting.add(subscription);
  }

  /** Removes a subscription. */
  delete(subscription: Subscription<C>): void {
    for (const set of [this.#all, this.#reading, this.#waiting]) set.delete(subscription);
  }

  /**
   * Prepares all subscriptions for a new session; each gets events even before the first answer.
   */
  resume(): void {
    this.isServed = false;
    for (const subscription of this.#all) {
      this.#reading.add(subscription);
      this.#waiting.add(subscription);
    }
  }

  /** True if the server told of a history of the topic. */
  get hasHistory(): boolean {
    return this.#newest !== undefined;
  }

  /**
   * Notes that the topic is no longer in force and will be requested again; `isMove` if the topic
   * stays in force in the previous session meanwhile.
   */
  lose(isMove?: boolean): void {
    this.resume();
    for (const subscription of this.#all) subscription.lose(isMove);
  }

  /** Ends all subscriptions. */
  end(error: unknown): void {
    for (const subscription of [...this.#all]) this.refuse(subscription, error);
  }

  /** Ends one subscription. */
  refuse(subscription: Subscription<C>, error: unknown): void {
    this.delete(subscription);
    subscription.end(error);
  }

  /**
   * Prepares the next request.
   *
   * @param hasHistories True if the server has histories.
   * @returns The request; `undefined` if no request is needed.
   */
  async question(hasHistories: boolean | undefined): Promise<Question<C> | undefined> {
    const asked = await Promise.all(
      [...this.#waiting].map(async (asker) => ({ asker, from: await asker.from(hasHistories) })),
    );
    // A subscription may have ended while the code for histories was loaded.
    const left = asked.filter(({ asker }) => this.#waiting.has(asker));
    if (this.isServed) {
      for (const { asker, from } of left) if (isPlain(from)) this.#serve(asker, this.#here);
    }
    const questions = left.filter(({ asker }) => this.#waiting.has(asker));
    const first = questions.reduce<typeof questions[number] | undefined>(
      (oldest, next) => oldest === undefined || isBefore(next.from, oldest.from) ? next : oldest,
      undefined,
    );
    return first && { ...first, waiting: questions.map(({ asker }) => asker) };
  }

  /** Takes the answer to a request. */
  answered(asker: Subscription<C>, answer: SubscribeAnswer): void {
    const { epoch, offset = 0, tag, head = 0 } = answer;
    this.isServed = true;
    this.#newest = epoch === undefined
      ? undefined
      : head > offset
      ? { epoch, offset: head }
      : { epoch, offset, tag };
    const others = [...this.#all].filter((other) => other !== asker);
    if (this.#all.has(asker)) {
      this.#reading.add(asker);
      this.#waiting.delete(asker);
      asker.offer({ ...answer, kind: "answer" });
    }
    for (const other of others) this.#serve(other, answer);
  }

  /** Takes an event of the topic. */
  offer(event: Incoming | TopicNote, size: number): void {
    if (event.kind === "unsubscribed") return this.#removed(event.unsubscribed);
    this.#move(event);
    for (const subscription of this.#reading) subscription.offer(event, size);
  }

  /** An answer that lets a subscription begin behind the newest publication. */
  get #here(): SubscribeAnswer {
    return this.#newest === undefined ? {} : { ...this.#newest, head: this.#newest.offset };
  }

  /** Lets the answer to another subscription serve a subscription, if possible. */
  #serve(subscription: Subscription<C>, answer: SubscribeAnswer): void {
    if (!this.#all.has(subscription)) return;
    if (!subscription.serve(answer)) return void this.#waiting.add(subscription);
    this.#reading.add(subscription);
    this.#waiting.delete(subscription);
  }

  #move(event: Exclude<Incoming | TopicNote, { kind: "unsubscribed" }>): void {
    if (event.kind === "gap") {
      const { epoch, offset = 0, tag } = event.gap;
      this.#newest = epoch === undefined ? undefined : { epoch, offset, tag };
    } else if (event.kind !== "dropped" && this.#newest && event.offset !== undefined) {
      const { epoch, offset } = this.#newest;
      if (event.offset >= offset) this.#newest = { epoch, offset: event.offset, tag: event.tag };
    }
  }
}

function isPlain({ since, last }: HistoryOptions): boolean {
  return since === undefined && last === undefined;
}

/** Tells if one request goes before another, because the answer may serve both. */
function isBefore(one: HistoryOptions, other: HistoryOptions): boolean {
  if (one.since && other.since) {
    return one.since.epoch === other.since.epoch && one.since.offset < other.since.offset;
  }
  return !isPlain(one) && (one.since !== undefined || isPlain(other));
}
