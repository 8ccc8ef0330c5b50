/**
 * The subscriptions of a client, carried from one session to the next.
 *
 * @module
 */
import { RequestError } from "../errors.ts";
import type { Again } from "./_again.ts";
import type { AnyContract } from "./contract.ts";
import { CODES_FOR_NOW, type SubscribeAnswer, type Unsubscribed } from "./recovery.ts";
import { lasting } from "./session_base.ts";
import { coreOf, type Session } from "./session.ts";
import {
  type ClientSubscribeOptions,
  Subscription,
  type SubscriptionOwner,
} from "./subscription.ts";
import { checkTopic } from "./topic_pattern.ts";

/** Subscriptions asked for at once: half of what any server lets wait by default. */
const MAX_ASKED_AT_ONCE = 32;

/** The same where the server has histories: as many as a session may have by default. */
const MAX_RESUMED_AT_ONCE = 128;

/** All subscriptions of one client. */
export class Subscriptions<C extends AnyContract> {
  readonly #all = new Map<string, Subscription<C>>();
  /** Those that the session is still to be asked for, the first to go first. */
  #waiting: Subscription<C>[] = [];
  #asking = 0;
  /** Topics that an earlier subscription of the session leaves: what is on its way is not for the next one. */
  readonly #leaving = new Set<string>();
  /** Those that the session answered and is not asked for again: for them the server's word counts. */
  readonly #inForce = new Set<Subscription<C>>();
  #again: Again | undefined;
  #session: Session | undefined;
  #hasHistories: boolean | undefined;
  /** Checks what subscriptions still hold, also once it is closed. */
  #last: Session | undefined;

  /**
   * Subscribes, now or once there is a session.
   *
   * @throws {TypeError} If there is a subscription to the topic already.
   */
  add(topic: string, options: ClientSubscribeOptions): Subscription<C> {
    checkTopic(topic, "subscribe");
    if (this.#all.has(topic)) {
      throw new TypeError(`Cannot subscribe: there is a subscription to "${topic}" already`);
    }
    const owner: SubscriptionOwner = {
      check: (incoming) => coreOf(this.#last!).inbound.check(incoming),
      ask: () => {
        this.#waiting.push(subscription);
        this.#pump();
      },
      end: () => this.#leave(subscription),
      removed: (why) => this.#removed(subscription, why),
    };
    const subscription: Subscription<C> = new Subscription(topic, owner, options);
    this.#all.set(topic, subscription);
    owner.ask();
    return subscription;
  }

  /** Asks a new session for all of them. */
  resume(session: Session): void {
    this.#session = this.#last = session;
    this.#hasHistories = coreOf(session).features?.includes("history");
    this.#waiting = [...this.#all.values()];
    // Before anything is asked: what the server sends at once is theirs already.
    for (const subscription of this.#waiting) {
      this.#route(session, subscription.topic, subscription);
    }
    this.#pump();
  }

  /** The session is over. */
  lose(): void {
    this.#session = undefined;
    this.#waiting = [];
    this.#leaving.clear();
    this.#inForce.clear();
    for (const subscription of this.#all.values()) subscription.lose();
  }

  /** Ends all of them. */
  end(error: unknown): void {
    for (const subscription of this.#all.values()) subscription.end(error);
    this.#all.clear();
    this.#inForce.clear();
    this.#waiting = [];
  }

  #pump(): void {
    const session = this.#session;
    if (!session?.isReady) return;
    while (this.#asking < (this.#hasHistories ? MAX_RESUMED_AT_ONCE : MAX_ASKED_AT_ONCE)) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#asking++;
      void this.#ask(session, next).finally(() => {
        this.#asking--;
        this.#pump();
      });
    }
  }

  /** Asks for one; true if that was answered. */
  async #ask(session: Session, subscription: Subscription<C>): Promise<true | void> {
    const { topic } = subscription;
    const isLeft = () => this.#all.get(topic) !== subscription;
    const route = () => this.#route(session, topic, subscription);
    let wasInForce = false;
    try {
      const from = await subscription.from(this.#hasHistories);
      // It may have been left while others were asked for.
      if (isLeft()) return;
      if (!this.#leaving.has(topic)) route();
      wasInForce = this.#inForce.delete(subscription);
      await coreOf(session).askTopic("subscribe", topic, {
        ...from,
        onAnswer: (answer) => {
          route();
          if (!isLeft()) this.#inForce.add(subscription);
          subscription.offer({ ...answer as SubscribeAnswer, kind: "answer" });
        },
      });
      return true;
    } catch (error) {
      // At the server it is in force still, or another subscription of this session is.
      const isInForce = wasInForce || codeOf(error) === "superseded";
      if (isInForce && this.#session === session && !isLeft()) this.#inForce.add(subscription);
      await this.#refused(session, subscription, error);
    }
  }

  /** Asks again for one that was in force, unless it is refused for good. */
  async #refused(session: Session, subscription: Subscription<C>, error: unknown): Promise<void> {
    const wasInForce = subscription.status.current !== "pending";
    const part = await lasting().catch(() => {});
    // Lost on the way: the next session asks again.
    if (!session.isReady || this.#all.get(subscription.topic) !== subscription) return;
    const ask = () => this.#ask(session, subscription);
    const refused = { session, subscription, wasInForce, ask };
    if (part && (this.#again ??= new part.Again()).takes(error, refused)) return;
    this.#drop(session, subscription, error);
  }

  /** Acts on the server's word, unless a question is unanswered: its answer is newer. */
  #removed(subscription: Subscription<C>, { code, reason }: Unsubscribed): void {
    const session = this.#session;
    if (session === undefined || !this.#inForce.delete(subscription)) return;
    const { topic } = subscription;
    const error = new RequestError(code, reason || `The server took this client off "${topic}"`);
    if (!CODES_FOR_NOW.has(code)) return this.#drop(session, subscription, error);
    subscription.lose();
    void this.#refused(session, subscription, error);
  }

  /** Ends a subscription that the server does not have. */
  #drop(session: Session, subscription: Subscription<C>, error: unknown): void {
    this.#all.delete(subscription.topic);
    this.#inForce.delete(subscription);
    this.#route(session, subscription.topic);
    subscription.end(error);
  }

  async #leave(subscription: Subscription<C>): Promise<void> {
    const { topic } = subscription;
    if (this.#all.get(topic) !== subscription) return;
    this.#all.delete(topic);
    this.#inForce.delete(subscription);
    const session = this.#session;
    if (!session?.isReady) return;
    this.#leaving.add(topic);
    try {
      // With `onAnswer` also where as many answers are awaited as may be.
      await coreOf(session).askTopic("unsubscribe", topic, { onAnswer() {} });
    } catch (error) {
      // With the session the server's side of it is gone too.
      if (session.isReady) throw error;
    }
    // Until here it took, and discarded, what was on its way.
    if (this.#session === session) this.#leaving.delete(topic);
    if (!this.#all.has(topic)) this.#route(session, topic);
  }

  #route(session: Session, topic: string, sink?: Subscription<C>): void {
    coreOf(session).inbound.route(topic, sink);
  }
}

function codeOf(error: unknown): string | undefined {
  return error instanceof RequestError ? error.failure.code : undefined;
}
