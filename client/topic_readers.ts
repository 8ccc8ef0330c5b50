/**
 * The subscriptions of one client to one topic, which the server has once.
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
import type { Incoming, TopicNote, TopicSink } from "../session/incoming.ts";

/** One question to the server, and the subscription that it is for. */
export interface Question<C extends AnyContract> {
  /** The subscription whose place is asked for. */
  readonly asker: Subscription<C>;
  /** All that waited for an answer when it was asked; a refusal is for them. */
  readonly waiting: readonly Subscription<C>[];
  /** From where on. */
  readonly from: HistoryOptions;
}

/**
 * Hands what comes of a topic to each of its subscriptions, which drop what they had before.
 *
 * - **Questions:** one at a time. The oldest place is asked for, and the answer serves every
 *   subscription whose own place lies behind it; the others ask again.
 * - **Newcomers:** get nothing before an answer that serves them. One that asks for no history needs
 *   none while the topic is in force: it begins behind the newest publication.
 */
export class TopicReaders<C extends AnyContract> implements TopicSink {
  /** The topic. */
  readonly topic: string;
  /** True if the session's stream of the topic is known: by an answer that nothing replaced. */
  isServed = false;
  /** Takes what comes in the current session: these readers, unless something of an earlier session comes first. */
  head: TopicSink = this;
  /** The session whose answer is awaited; later ones do not wait for it. */
  askedOf: Session | undefined;
  readonly #removed: (why: Unsubscribed) => void;
  readonly #all = new Set<Subscription<C>>();
  /** Those of all that get what comes. */
  readonly #reading = new Set<Subscription<C>>();
  /** Those of all that an answer has yet to serve. */
  readonly #waiting = new Set<Subscription<C>>();
  /** The newest publication that came, or that the server told of. */
  #newest: HistoryPosition | undefined;

  /**
   * Creates a topic without subscriptions.
   *
   * @param topic The topic.
   * @param removed Acts on the server's word that it took the client off the topic.
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

  /** True if an answer has yet to serve a subscription. */
  get isWaiting(): boolean {
    return this.#waiting.size > 0;
  }

  /** Adds a subscription, or has one served anew. */
  ask(subscription: Subscription<C>): void {
    // Before the first answer, what the server sends at once is for the first one already.
    if (this.isEnded) this.#reading.add(subscription);
    this.#all.add(subscription);
    this.#waiting.add(subscription);
  }

  /** Lets go of a subscription. */
  delete(subscription: Subscription<C>): void {
    for (const set of [this.#all, this.#reading, this.#waiting]) set.delete(subscription);
  }

  /** Has a new session serve all of them; what it sends before it is asked is theirs already. */
  resume(): void {
    this.isServed = false;
    for (const subscription of this.#all) {
      this.#reading.add(subscription);
      this.#waiting.add(subscription);
    }
  }

  /** True if the topic has a history, as far as the server told. */
  get hasHistory(): boolean {
    return this.#newest !== undefined;
  }

  /** The server has the topic no longer, and will be asked again; `isMove` if it still has it meanwhile. */
  lose(isMove?: boolean): void {
    this.resume();
    for (const subscription of this.#all) subscription.lose(isMove);
  }

  /** Ends all of them. */
  end(error: unknown): void {
    for (const subscription of [...this.#all]) this.refuse(subscription, error);
  }

  /** Ends one of them. */
  refuse(subscription: Subscription<C>, error: unknown): void {
    this.delete(subscription);
    subscription.end(error);
  }

  /**
   * Prepares the next question.
   *
   * @param hasHistories Whether the server has histories.
   * @returns The question; `undefined` if none is needed.
   */
  async question(hasHistories: boolean | undefined): Promise<Question<C> | undefined> {
    const asked = await Promise.all(
      [...this.#waiting].map(async (asker) => ({ asker, from: await asker.from(hasHistories) })),
    );
    // Some may have been left while what histories need was loaded.
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

  /** Takes the answer to a question. */
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

  /** Takes what comes of the topic. */
  offer(event: Incoming | TopicNote, size: number): void {
    if (event.kind === "unsubscribed") return this.#removed(event.unsubscribed);
    this.#move(event);
    for (const subscription of this.#reading) subscription.offer(event, size);
  }

  /** An answer that lets a subscription begin behind all that came. */
  get #here(): SubscribeAnswer {
    return this.#newest === undefined ? {} : { ...this.#newest, head: this.#newest.offset };
  }

  /** Has an answer that was for another subscription serve one, if it does. */
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

/** Tells whether a question is to be asked before another: its answer may serve both. */
function isBefore(one: HistoryOptions, other: HistoryOptions): boolean {
  if (one.since && other.since) {
    return one.since.epoch === other.since.epoch && one.since.offset < other.since.offset;
  }
  return !isPlain(one) && (one.since !== undefined || isPlain(other));
}
