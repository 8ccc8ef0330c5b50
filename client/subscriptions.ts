/**
 * The subscriptions of a client, carried from one session to the next.
 *
 * @module
 */
import { RequestError } from "../errors.ts";
import type { Again } from "./retry_refused.ts";
import type { AnyContract } from "../session/contract.ts";
import {
  CODES_FOR_NOW,
  type SubscribeAnswer,
  type Unsubscribed,
} from "../session/wire/recovery.ts";
import { lasting } from "./chunks.ts";
import { internals, type Session } from "../session/session.ts";
import {
  type ClientSubscribeOptions,
  Subscription,
  type SubscriptionOwner,
} from "./subscription.ts";
import { checkTopic } from "../session/base/topic_pattern.ts";
import { type Question, TopicReaders } from "./topic_readers.ts";
import type { TopicSink } from "../session/incoming.ts";

/** Subscriptions asked for at once: half of what any server lets wait by default. */
const MAX_ASKED_AT_ONCE = 32;

/** The same where the server has histories: as many as a session may have by default. */
const MAX_RESUMED_AT_ONCE = 128;

/** All subscriptions of one client. */
export class Subscriptions<C extends AnyContract> {
  readonly #all = new Map<string, TopicReaders<C>>();
  /** Topics that the session is still to be asked for, the first to go first. */
  #waiting: TopicReaders<C>[] = [];
  /** Topics that are to be left, before any is asked for: each sends its question. */
  #leaves: (() => Promise<unknown>)[] = [];
  /** Questions without an answer, of both kinds: a server ends a session that has too many. */
  #asking = 0;
  /** Topics that the session is told to leave: what is on its way is not for the next subscription. */
  readonly #leaving = new Set<string>();
  /** Topics that the session answered and is not asked for again: for them the server's word counts. */
  readonly #inForce = new Set<TopicReaders<C>>();
  #again: Again | undefined;
  #session: Session | undefined;
  #hasHistories: boolean | undefined;
  /** Checks what subscriptions still hold, also once it is closed. */
  #last: Session | undefined;

  /** Subscribes, now or once there is a session. */
  add(topic: string, options: ClientSubscribeOptions): Subscription<C> {
    checkTopic(topic, "subscribe");
    const readers = this.#all.get(topic) ??
      new TopicReaders<C>(topic, (why) => this.#removed(readers, why));
    this.#all.set(topic, readers);
    const owner: SubscriptionOwner = {
      check: (incoming) => this.#last![internals].inbound.check(incoming),
      ask: () => {
        if (subscription.isEnded) return;
        readers.ask(subscription);
        this.#later(readers);
      },
      end: () => this.#leave(readers, subscription),
    };
    const subscription: Subscription<C> = new Subscription(topic, owner, options);
    owner.ask();
    return subscription;
  }

  /** Asks a new session for all of them. */
  resume(session: Session): void {
    this.#session = this.#last = session;
    this.#hasHistories = session[internals].features?.includes("history");
    this.#waiting = [...this.#all.values()];
    // Before anything is asked: what the server sends at once is theirs already.
    for (const readers of this.#waiting) {
      readers.resume();
      this.#route(session, readers.topic, readers);
    }
    this.#pump();
  }

  /**
   * Goes on in another session while there is the one before.
   *
   * @param session The session.
   * @param pass Makes what takes the rest of a topic, and whether the server has the topic in force.
   */
  move(session: Session, pass: (readers: TopicReaders<C>, isInForce: boolean) => TopicSink): void {
    const before = this.#session!;
    const inForce = new Set(this.#inForce);
    this.lose(true);
    for (const readers of this.#all.values()) {
      this.#route(before, readers.topic, pass(readers, inForce.has(readers)));
    }
    this.resume(session);
  }

  /** Has what comes of a topic go to its readers, without a detour. */
  arrive(readers: TopicReaders<C>): void {
    readers.head = readers;
    const session = this.#session;
    if (session && this.#all.get(readers.topic) === readers) {
      this.#route(session, readers.topic, readers);
    }
  }

  /** The session is over, or another one is there for it. */
  lose(isMove?: boolean): void {
    this.#session = undefined;
    this.#waiting = [];
    this.#leaving.clear();
    this.#giveUpLeaving();
    this.#inForce.clear();
    for (const readers of this.#all.values()) readers.lose(isMove);
  }

  /** Ends all of them. */
  end(error: unknown): void {
    for (const readers of this.#all.values()) readers.end(error);
    this.#all.clear();
    this.#giveUpLeaving();
    this.#inForce.clear();
    this.#waiting = [];
  }

  #later(readers: TopicReaders<C>): void {
    if (!this.#waiting.includes(readers)) this.#waiting.push(readers);
    this.#pump();
  }

  #pump(): void {
    const session = this.#session;
    if (!session?.isReady) return;
    while (this.#asking < (this.#hasHistories ? MAX_RESUMED_AT_ONCE : MAX_ASKED_AT_ONCE)) {
      const answer = this.#leaves.shift()?.() ?? this.#askNext(session);
      if (answer === undefined) return;
      this.#asking++;
      void answer.catch(() => {}).finally(() => {
        this.#asking--;
        this.#pump();
      });
    }
  }

  #askNext(session: Session): Promise<unknown> | undefined {
    const next = this.#waiting.shift();
    return next && this.#ask(session, next);
  }

  /** Asks for one topic; true if that was answered. */
  async #ask(session: Session, readers: TopicReaders<C>): Promise<true | void> {
    // One question a topic at a time: the end of this one asks on.
    if (readers.askedOf === session) return;
    readers.askedOf = session;
    const { topic } = readers;
    const isLeft = () => this.#all.get(topic) !== readers || this.#session !== session;
    const route = () => this.#route(session, topic, readers);
    let question: Question<C> | undefined;
    let wasInForce = false;
    try {
      question = await readers.question(this.#hasHistories);
      // The topic may have been left while others were asked for.
      if (isLeft()) return;
      if (question !== undefined) {
        const { asker, from } = question;
        if (!this.#leaving.has(topic)) route();
        wasInForce = this.#inForce.delete(readers);
        await session[internals].askTopic("subscribe", topic, {
          ...from,
          onAnswer: (answer) => {
            // The client moved meanwhile, and asked again.
            if (this.#session !== session) return;
            route();
            if (!isLeft()) this.#inForce.add(readers);
            readers.answered(asker, answer as SubscribeAnswer);
          },
        });
      }
      if (readers.askedOf === session) readers.askedOf = undefined;
      if (readers.isWaiting && !isLeft()) this.#later(readers);
      return true;
    } catch (error) {
      // At the server it is in force still, or another subscription of this session is.
      const isSuperseded = codeOf(error) === "superseded";
      if ((wasInForce || isSuperseded) && !isLeft()) this.#inForce.add(readers);
      if (isSuperseded) readers.isServed = false;
      if (readers.askedOf === session) readers.askedOf = undefined;
      await this.#refused(session, readers, error, question?.waiting ?? []);
    }
  }

  /** Asks again for those that were in force, unless they are refused for good. */
  async #refused(
    session: Session,
    readers: TopicReaders<C>,
    error: unknown,
    refused: readonly Subscription<C>[],
  ): Promise<void> {
    const wasInForce = refused.map(({ status }) => status.current !== "pending");
    const part = await lasting().catch(() => undefined);
    // Lost on the way: the next session asks again.
    const isLost = !session.isReady || this.#session !== session;
    if (isLost || this.#all.get(readers.topic) !== readers) return;
    const again = this.#again ??= part && new part.Again();
    const ended = refused.filter((_, i) => !again?.isForNow(error, wasInForce[i]!));
    for (const subscription of ended) readers.refuse(subscription, error);
    if (readers.isEnded) this.#drop(session, readers);
    else if (ended.length < refused.length) {
      again?.take(error, { session, readers, ask: () => this.#ask(session, readers) });
    } else if (readers.isWaiting) this.#later(readers); // Those that came meanwhile.
  }

  /** Acts on the server's word, unless a question is unanswered: its answer is newer. */
  #removed(readers: TopicReaders<C>, { code, reason }: Unsubscribed): void {
    const session = this.#session;
    if (session === undefined || !this.#inForce.delete(readers)) return;
    const { topic } = readers;
    const error = new RequestError(code, reason || `The server took this client off "${topic}"`);
    if (!CODES_FOR_NOW.has(code)) {
      readers.end(error);
      return this.#drop(session, readers);
    }
    readers.lose();
    void this.#refused(session, readers, error, [...readers.all]);
  }

  /** Forgets a topic that has no subscription left, and that the server does not have. */
  #drop(session: Session, readers: TopicReaders<C>): void {
    this.#all.delete(readers.topic);
    this.#inForce.delete(readers);
    this.#route(session, readers.topic);
  }

  /** Lets go of a subscription; the last one leaves the topic. */
  async #leave(readers: TopicReaders<C>, subscription: Subscription<C>): Promise<void> {
    const { topic } = readers;
    readers.delete(subscription);
    if (!readers.isEnded || this.#all.get(topic) !== readers) return;
    this.#all.delete(topic);
    this.#inForce.delete(readers);
    const session = this.#session;
    if (!session?.isReady) return;
    this.#leaving.add(topic);
    const { promise, resolve } = Promise.withResolvers<unknown>();
    this.#leaves.push(() => {
      // With `onAnswer` also where as many answers are awaited as may be.
      const answer = session[internals].askTopic("unsubscribe", topic, { onAnswer() {} });
      resolve(answer);
      return answer;
    });
    this.#pump();
    try {
      await promise;
    } catch (error) {
      // With the session the server's side of it is gone too.
      if (session.isReady) throw error;
    }
    // Until here it took, and discarded, what was on its way.
    if (this.#session === session) this.#leaving.delete(topic);
    if (!this.#all.has(topic)) this.#route(session, topic);
  }

  /** Ends what waits to leave a topic: on a session that is over, each question fails at once. */
  #giveUpLeaving(): void {
    for (const leave of this.#leaves.splice(0)) void leave().catch(() => {});
  }

  #route(session: Session, topic: string, sink?: TopicSink): void {
    session[internals].inbound.route(topic, (sink as TopicReaders<C>)?.head ?? sink);
  }
}

function codeOf(error: unknown): string | undefined {
  return error instanceof RequestError ? error.failure.code : undefined;
}
