/**
 * Subscriptions of a client, carried from one session to the next.
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
import { checkTopic } from "../session/wire/topic_pattern.ts";
import { type Question, TopicReaders } from "./topic_readers.ts";
import type { TopicSink } from "../session/message.ts";

/** Most requests to subscribe at once: half of the requests that a server lets wait by default. */
const MAX_ASKED_AT_ONCE = 32;

/**
 * Most requests to subscribe at once if the server has histories: the default limit of a session.
 */
const MAX_RESUMED_AT_ONCE = 128;

/** All subscriptions of one client. */
export class Subscriptions<C extends AnyContract> {
  readonly #all = new Map<string, TopicReaders<C>>();
  /** Topics that are not yet requested in the session, the next one first. */
  #waiting: TopicReaders<C>[] = [];
  /** Functions that each send a request to leave a topic; these requests go before `#waiting`. */
  #leaves: (() => Promise<unknown>)[] = [];
  /** Unanswered requests of both kinds; a server ends a session that has too many. */
  #asking = 0;
  /** Topics that the client is leaving: messages under way are not for the next subscription. */
  readonly #leaving = new Set<string>();
  /** Topics in force: the server answered and no newer request is pending, so a removal counts. */
  readonly #inForce = new Set<TopicReaders<C>>();
  #again: Again | undefined;
  #session: Session | undefined;
  #hasHistories: boolean | undefined;
  /**
   * The last session, which checks queued messages of subscriptions even after the session closed.
   */
  #last: Session | undefined;

  /** Subscribes now, or as soon as there is a session. */
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

  /** Requests all topics in a new session. */
  resume(session: Session): void {
    this.#session = this.#last = session;
    this.#hasHistories = session[internals].features?.includes("history");
    this.#waiting = [...this.#all.values()];
    // Routes come before any request: the readers get even the first messages of the server.
    for (const readers of this.#waiting) {
      readers.resume();
      this.#route(session, readers.topic, readers);
    }
    this.#pump();
  }

  /**
   * Moves all topics to another session while the previous session is still open.
   *
   * @param session The new session.
   * @param pass Makes the sink for the remaining messages of a topic in the previous session;
   *   `isInForce` is true if the topic was in force there.
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

  /** Routes the events of a topic straight to the readers again, after a move. */
  arrive(readers: TopicReaders<C>): void {
    readers.head = readers;
    const session = this.#session;
    if (session && this.#all.get(readers.topic) === readers) {
      this.#route(session, readers.topic, readers);
    }
  }

  /** Notes that the session ended, or that another session replaces the current one. */
  lose(isMove?: boolean): void {
    this.#session = undefined;
    this.#waiting = [];
    this.#leaving.clear();
    this.#giveUpLeaving();
    this.#inForce.clear();
    for (const readers of this.#all.values()) readers.lose(isMove);
  }

  /** Ends all subscriptions. */
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

  /** Requests one topic; resolves with true if the server confirmed. */
  async #ask(session: Session, readers: TopicReaders<C>): Promise<true | void> {
    // One request for each topic at a time: the end of the current request starts the next one.
    if (readers.askedOf === session) return;
    readers.askedOf = session;
    const { topic } = readers;
    const isLeft = () => this.#all.get(topic) !== readers || this.#session !== session;
    const route = () => this.#route(session, topic, readers);
    let question: Question<C> | undefined;
    let wasInForce = false;
    try {
      question = await readers.question(this.#hasHistories);
      // The client may have left the topic while the request was prepared.
      if (isLeft()) return;
      if (question !== undefined) {
        const { asker, from } = question;
        if (!this.#leaving.has(topic)) route();
        wasInForce = this.#inForce.delete(readers);
        await session[internals].askTopic("subscribe", topic, {
          ...from,
          onAnswer: (answer) => {
            // The client has moved to another session and asked again.
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
      // At the server, the topic is still in force, or a newer subscription of this session is.
      const isSuperseded = codeOf(error) === "superseded";
      if ((wasInForce || isSuperseded) && !isLeft()) this.#inForce.add(readers);
      if (isSuperseded) readers.isServed = false;
      if (readers.askedOf === session) readers.askedOf = undefined;
      await this.#refused(session, readers, error, question?.waiting ?? []);
    }
  }

  /** Handles a refusal: ends subscriptions that are refused for good, and retries the others. */
  async #refused(
    session: Session,
    readers: TopicReaders<C>,
    error: unknown,
    refused: readonly Subscription<C>[],
  ): Promise<void> {
    const wasInForce = refused.map(({ status }) => status.current !== "pending");
    const part = await lasting().catch(() => undefined);
    // If the session was lost meanwhile, the next session asks again.
    const isLost = !session.isReady || this.#session !== session;
    if (isLost || this.#all.get(readers.topic) !== readers) return;
    const again = this.#again ??= part && new part.Again();
    const ended = refused.filter((_, i) => !again?.isForNow(error, wasInForce[i]!));
    for (const subscription of ended) readers.refuse(subscription, error);
    if (readers.isEnded) this.#drop(session, readers);
    else if (ended.length < refused.length) {
      again?.take(error, { session, readers, ask: () => this.#ask(session, readers) });
    } else if (readers.isWaiting) this.#later(readers); // For subscriptions added meanwhile.
  }

  /** Handles a removal by the server, unless a request is pending, whose answer will be newer. */
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

  /** Forgets a topic that has no subscription left, neither here nor at the server. */
  #drop(session: Session, readers: TopicReaders<C>): void {
    this.#all.delete(readers.topic);
    this.#inForce.delete(readers);
    this.#route(session, readers.topic);
  }

  /** Removes a subscription; removing the last one leaves the topic. */
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
      // `onAnswer` permits the request even at the limit of pending requests.
      const answer = session[internals].askTopic("unsubscribe", topic, { onAnswer() {} });
      resolve(answer);
      return answer;
    });
    this.#pump();
    try {
      await promise;
    } catch (error) {
      // The end of the session also ended the subscription at the server.
      if (session.isReady) throw error;
    }
    // Until this point, the old readers took and discarded the messages that were under way.
    if (this.#session === session) this.#leaving.delete(topic);
    if (!this.#all.has(topic)) this.#route(session, topic);
  }

  /**
   * Settles the waiting requests to leave a topic: in an ended session, each request fails at once.
   */
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
