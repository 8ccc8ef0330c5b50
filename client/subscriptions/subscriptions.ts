/** Keeps a client's subscriptions, and moves them from one session to the next. */
import { RequestError } from "../../errors.ts";
import type { Retries } from "./retries.ts";
import { Backoff } from "../../base/backoff.ts";
import type { Runtime } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
import type { Contract } from "../../session/contract.ts";
import {
  CODES_FOR_NOW,
  type HistoryOptions,
  type HistoryPosition,
  type SubscribeReply,
  type Unsubscribed,
} from "../../session/wire/recovery.ts";
import { internals, type Session } from "../../session/session.ts";
import type { ClientSubscribeOptions } from "../client_options.ts";
import { ClientMembership } from "./rooms.ts";
import { type RecoveryParts, Subscription, type SubscriptionOwner } from "./subscription.ts";
import { PRESENCE_PREFIX, type PresenceNotice } from "../../session/wire/presence_notice.ts";
import { checkTopic } from "../../session/wire/encode.ts";
import type { IncomingMessage, TopicNote, TopicSink } from "../../session/message.ts";
import { tellLoss } from "../../session/settings/settings.ts";

/**
 * The maximum number of concurrent requests to subscribe. It is half of the pending requests that a
 * server allows by default.
 */
const MAX_REQUESTS = 32;

/**
 * The maximum number of concurrent requests to subscribe if the server has histories. It equals the
 * default topic limit of a session.
 */
const MAX_RESUMING_REQUESTS = 128;

export class ClientSubscriptions<C extends Contract> {
  readonly #all = new Map<string, TopicReaders<C>>();
  /** The topics that have not been requested in the session yet, the next one first. */
  #waiting: TopicReaders<C>[] = [];
  /**
   * The requests to leave a topic. They are sent before the requests for the topics in `#waiting`.
   */
  #unsubscribes: (() => Promise<unknown>)[] = [];
  /** The number of pending requests of both kinds. A server closes a session that has too many. */
  #pendingRequests = 0;
  /**
   * The topics that the client is leaving, each with the newest request to leave it. Messages in
   * flight are not for the next subscription.
   */
  readonly #leaving = new Map<string, Promise<unknown>>();
  readonly #loadRecovery: () => Promise<RecoveryParts>;
  #retries: Retries | undefined;
  readonly #runtime: Runtime;
  /** The pauses after code has failed to load. */
  readonly #loadBackoff: Backoff;
  #session: Session | undefined;
  #hasHistories: boolean | undefined;
  /** The last session. It checks queued messages of subscriptions even after it has closed. */
  #lastSession: Session | undefined;

  /**
   * Creates the object without subscriptions. The code for histories is loaded when it is first
   * needed.
   */
  constructor(runtime: Runtime, loadRecovery: () => Promise<RecoveryParts>) {
    this.#loadRecovery = loadRecovery;
    this.#runtime = runtime;
    this.#loadBackoff = new Backoff(runtime);
  }

  /** Called when the request for a topic was sent, or ended. */
  onRequested: () => void = () => {};

  /** True if there are no subscriptions. */
  get isEmpty(): boolean {
    return this.#all.size === 0;
  }

  /**
   * True while a topic is still to be requested. A publication on the topic waits until it was, so
   * that the client's own subscription receives it.
   */
  isWaiting(topic: string): boolean {
    const readers = this.#all.get(topic);
    if (readers === undefined) return false;
    const { request } = readers;
    return this.#waiting.includes(readers) || request !== undefined && !request.reply;
  }

  /** Subscribes immediately, or as soon as there is a session. */
  add(topic: string, options: ClientSubscribeOptions): Subscription<C> {
    checkTopic(topic, "subscribe");
    return this.#add(topic, (owner) => new Subscription<C>(topic, owner, options));
  }

  /** Subscribes to a room to track its members. */
  join(room: string): ClientMembership<C> {
    return this.#add(room, (owner) => new ClientMembership<C>(room, owner));
  }

  #add<S extends Subscription<C>>(topic: string, make: (owner: SubscriptionOwner) => S): S {
    const readers = this.#all.get(topic) ??
      new TopicReaders<C>(topic, (why) => this.#removed(readers, why));
    this.#all.set(topic, readers);
    const owner: SubscriptionOwner = {
      check: (incoming, onInvalid) =>
        this.#lastSession![internals].receiving.check(incoming, { onInvalid }),
      skip: (error, of) => this.#lastSession![internals].receiving.faults.skip(error, of),
      request: () => {
        if (!subscription.isEnded) this.#enqueue(readers);
      },
      lost: (loss) => tellLoss(this.#lastSession![internals].settings, { ...loss, topic }),
      loadRecovery: this.#loadRecovery,
      end: () => {
        readers.all.delete(subscription);
        return this.#leave(readers);
      },
      isRoom: () => readers.isRoom,
    };
    const subscription: S = make(owner);
    // The first subscription, and those that are waiting for a session, receive all events of the
    // session.
    if (this.#session && !readers.isEnded) subscription.change("join");
    readers.all.add(subscription);
    this.#enqueue(readers);
    return subscription;
  }

  /** Requests all topics in a new session. */
  resume(session: Session): void {
    this.#session = this.#lastSession = session;
    this.#hasHistories = session[internals].sending.features?.includes("history");
    this.#waiting = [...this.#all.values()];
    // Set the routes before any request, so that the readers receive even the server's first
    // messages.
    for (const readers of this.#waiting) this.#route(session, readers.topic, readers);
    this.#pump();
  }

  /**
   * Moves all topics to another session while the previous session is still open.
   *
   * @param session The new session.
   * @param pass Creates the sink for the remaining messages of a topic in the previous session.
   *   `reply` settles with the last request for the topic in that session, if there was one.
   */
  move(
    session: Session,
    pass: (readers: TopicReaders<C>, reply?: Promise<unknown>) => TopicSink,
  ): void {
    const before = this.#session!;
    const replies = [...this.#all.values()].map((readers) => [readers, readers.reply] as const);
    this.lose("move");
    for (const [readers, reply] of replies) {
      this.#route(before, readers.topic, pass(readers, reply));
    }
    this.resume(session);
  }

  /**
   * After a move, routes a topic's events to the readers again, or to the sink of an earlier move
   * that still holds events.
   */
  arrive(readers: TopicReaders<C>, head: HeadSink): void {
    readers.head = head;
    const session = this.#session;
    if (session && this.#all.get(readers.topic) === readers) {
      this.#route(session, readers.topic, readers);
    }
  }

  lose(by: "loss" | "move" = "loss"): void {
    this.#session = undefined;
    this.#leaving.clear();
    this.#cancelWaiting();
    for (const readers of this.#all.values()) {
      // The next session does not wait for a reply from this one.
      readers.request = undefined;
      readers.lose(by);
    }
  }

  /** Ends all subscriptions. */
  end(error: unknown): void {
    for (const readers of this.#all.values()) readers.end(error);
    this.#all.clear();
    this.#cancelWaiting();
  }

  #enqueue(readers: TopicReaders<C>): void {
    if (!this.#waiting.includes(readers)) this.#waiting.push(readers);
    this.#pump();
  }

  #pump(): void {
    const session = this.#session;
    if (!session?.isReady) return;
    while (this.#pendingRequests < (this.#hasHistories ? MAX_RESUMING_REQUESTS : MAX_REQUESTS)) {
      const reply = this.#unsubscribes.shift()?.() ?? this.#requestNext(session);
      if (reply === undefined) return;
      this.#pendingRequests++;
      void reply.catch(() => {}).finally(() => {
        this.#pendingRequests--;
        this.#pump();
      });
    }
  }

  #requestNext(session: Session): Promise<unknown> | undefined {
    const next = this.#waiting.shift();
    return next && this.#request(session, next);
  }

  /** Requests one topic. Resolves with true if the server has confirmed it. */
  async #request(session: Session, readers: TopicReaders<C>): Promise<true | void> {
    // There is only one request per topic at a time; when it settles, the next one starts. A retry
    // may start in a session that the client has left.
    if (readers.request || this.#session !== session) return;
    const request: TopicRequest = readers.request = { reply: undefined };
    const { topic } = readers;
    const isLeft = () => this.#all.get(topic) !== readers || this.#session !== session;
    const route = () => this.#route(session, topic, readers);
    const settle = () => {
      if (readers.request === request) readers.request = undefined;
      this.onRequested();
    };
    let planned: PlannedRequest<C> | undefined;
    try {
      planned = await readers.planRequest(this.#hasHistories);
      this.#loadBackoff.reset();
      // The client may have left the topic while the request was prepared.
      if (isLeft()) return settle();
      if (planned !== undefined) {
        if (!this.#leaving.has(topic)) route();
        request.reply = session[internals].sending.askTopic("subscribe", topic, {
          ...planned.from,
          onReply: (reply) => {
            // The client has moved to another session and requested the topic there.
            if (this.#session !== session) return;
            route();
            settle(); // A removal right after this is handled.
            readers.replied(planned!, reply as SubscribeReply);
            readers.head.begin?.(session);
          },
        });
        this.onRequested();
        await request.reply;
      }
      settle();
      if (readers.isWaiting && !isLeft()) this.#enqueue(readers);
      return true;
    } catch (error) {
      const isSuperseded = error instanceof RequestError && error.failure.code === "superseded";
      if (isSuperseded && !isLeft()) readers.supersede();
      settle();
      if (planned) await this.#rejected(session, readers, error, planned.waiting);
      else void this.#retryLoad(session, readers);
    }
  }

  /** Repeats a request after a pause, because the code that it needs did not load. */
  async #retryLoad(session: Session, readers: TopicReaders<C>): Promise<void> {
    await settlesWithin(this.#runtime, session.closed, this.#loadBackoff.next()!);
    if (this.#session === session && this.#all.get(readers.topic) === readers) {
      this.#enqueue(readers);
    }
  }

  /**
   * Handles a rejection. Ends subscriptions that are rejected permanently, and retries the others.
   */
  async #rejected(
    session: Session,
    readers: TopicReaders<C>,
    error: unknown,
    rejected: readonly Subscription<C>[],
  ): Promise<void> {
    const wasInForce = rejected.map(({ status }) => status.current !== "pending");
    const part = await this.#loadRecovery().catch(() => undefined);
    // If the session was lost in the meantime, the next session requests the topic.
    const isLost = !session.isReady || this.#session !== session;
    if (isLost || this.#all.get(readers.topic) !== readers) return;
    const retries = this.#retries ??= part && new part.Retries(this.#runtime);
    const ended = rejected.filter((_, i) => !retries?.isForNow(error, wasInForce[i]!));
    for (const subscription of ended) readers.reject(subscription, error);
    if (readers.isEnded) {
      // If there was no reply, the topic may be in force at the server, now or later. After a
      // rejection, an earlier subscription stays in force.
      if (error instanceof RequestError && !readers.isInForce) this.#drop(session, readers);
      else void this.#leave(readers).catch(() => {});
    } else if (ended.length < rejected.length) {
      const isNew = rejected.some(({ isEnded }, i) => !isEnded && !wasInForce[i]);
      retries?.schedule(error, {
        session,
        readers,
        isNew,
        request: () => this.#request(session, readers),
      });
    } else if (readers.isWaiting) this.#enqueue(readers); // For subscriptions that were added in the meantime.
  }

  /**
   * Handles a removal by the server. If a request is pending, the removal is ignored, because the
   * reply will be newer.
   */
  #removed(readers: TopicReaders<C>, { code, reason }: Unsubscribed): void {
    const session = this.#session;
    const { topic } = readers;
    const isForgotten = this.#all.get(topic) !== readers;
    if (!session || isForgotten || !readers.isInForce) return;
    const text = reason || `The server ended the subscription to "${topic}"`;
    const error = new RequestError(code, text);
    if (!CODES_FOR_NOW.has(code)) {
      readers.end(error, true);
      // The subscriptions that had no reply yet request the topic next.
      if (readers.isEnded) this.#drop(session, readers);
      return;
    }
    readers.lose("loss");
    void this.#rejected(session, readers, error, [...readers.all]);
  }

  #drop(session: Session, readers: TopicReaders<C>): void {
    this.#forget(readers);
    this.#route(session, readers.topic);
  }

  #forget(readers: TopicReaders<C>): void {
    this.#all.delete(readers.topic);
    readers.head.leave?.();
  }

  async #leave(readers: TopicReaders<C>): Promise<void> {
    const { topic } = readers;
    if (!readers.isEnded || this.#all.get(topic) !== readers) return;
    this.#forget(readers);
    const session = this.#session;
    if (!session?.isReady) return;
    const { promise, resolve } = Promise.withResolvers<unknown>();
    this.#leaving.set(topic, promise);
    this.#unsubscribes.push(() => {
      // `onReply` also allows the request when the limit of pending requests is reached.
      const reply = session[internals].sending.askTopic("unsubscribe", topic, {
        onReply: () => this.#unsubscribed(session, topic, promise),
      });
      resolve(reply);
      return reply;
    });
    this.#pump();
    try {
      await promise;
    } catch (error) {
      // If the session has ended, the subscription at the server has ended too.
      if (session.isReady) throw error;
    }
  }

  /**
   * Handles the reply to a request to leave a topic. Until this reply, the old readers receive and
   * discard messages in flight. A later subscription receives everything after this reply. That
   * includes the list of a room, which arrives before the reply to the subscription.
   */
  #unsubscribed(session: Session, topic: string, request: Promise<unknown>): void {
    // In a session that the client has left, messages of the topic may remain. They have their own
    // route.
    if (this.#session !== session || this.#leaving.get(topic) !== request) return;
    this.#leaving.delete(topic);
    this.#route(session, topic, this.#all.get(topic));
  }

  /**
   * Drops waiting work, and settles waiting requests to leave a topic. These fail immediately in a
   * session that has ended.
   */
  #cancelWaiting(): void {
    this.#waiting = [];
    for (const leave of this.#unsubscribes.splice(0)) void leave().catch(() => {});
  }

  #route(session: Session, topic: string, sink?: TopicSink): void {
    const { receiving } = session[internals];
    const { head = sink, notices } = sink as Partial<TopicReaders<C>> ?? {};
    receiving.route(topic, head);
    // After a move, the new session starts with a list of the users. An older notice would corrupt
    // it.
    receiving.route(PRESENCE_PREFIX + topic, notices ?? (sink && { offer() {} }));
  }
}

/**
 * A sink for events of the current session. It holds them until all events of the earlier session
 * have been delivered.
 */
export interface HeadSink extends TopicSink {
  /** Called once the topic is in force in the current session. */
  begin?(session: Session): void;
  /**
   * Stops waiting for events of earlier sessions, because there is no subscription to the topic any
   * more.
   */
  leave?(): void;
}

/**
 * The status of a topic in the current session.
 *
 * | standing     | since                              | a new subscription  | a removal  |
 * | ------------ | ---------------------------------- | ------------------- | ---------- |
 * | `out`        | the session's start, or a removal  | needs a request     | is ignored |
 * | `in force`   | a reply                            | may need no request | is handled |
 * | `superseded` | a newer subscription by the server | needs a request     | is handled |
 *
 * A rejection changes nothing. While a request waits for its reply, removals are ignored, because
 * the reply will be newer.
 */
type Standing = "out" | "in force" | "superseded";

/** A request for a topic, which is being prepared until it has a `reply`. */
interface TopicRequest {
  /** Settles with the server's reply. */
  reply: Promise<unknown> | undefined;
}

/** A request for a topic, on behalf of one subscription. */
interface PlannedRequest<C extends Contract> {
  /** The subscription whose position the request contains. */
  readonly reader: Subscription<C>;
  /**
   * All subscriptions that were waiting when the request was sent. A rejection applies to all of
   * them.
   */
  readonly waiting: readonly Subscription<C>[];
  /** The position from which the subscription continues. */
  readonly from: HistoryOptions;
}

/**
 * Passes a topic's events to each subscription. Each subscription drops messages that it has
 * already received.
 *
 * - **Requests:** there is one request at a time. It contains the oldest position of the
 *   subscriptions. The reply serves every subscription with a later position; the others need
 *   another request.
 * - **New subscriptions:** a new subscription receives no event before a reply that serves it.
 *   While the topic is in force, a subscription without history options needs no reply. It starts
 *   after the newest publication.
 */
export class TopicReaders<C extends Contract> implements TopicSink {
  declare readonly topic: string;
  /** The request in the current session that has no reply yet. */
  declare request: TopicRequest | undefined;
  /**
   * The sink for events of the current session. It is this object, unless an earlier session's
   * events must be delivered first.
   */
  head: HeadSink = this;
  /** True once the server has sent a notice about the users in the topic. */
  isRoom = false;
  /** The sink for such notices. The application also receives them. */
  readonly notices: TopicSink = {
    offer: (event) => {
      if (event.kind !== "message") return true;
      this.isRoom = true;
      for (const one of this.all) one.note(event.data as PresenceNotice);
      return true;
    },
  };
  #standing: Standing = "out";
  readonly #removed: (why: Unsubscribed) => void;
  readonly all: Set<Subscription<C>> = new Set();
  /** The position of the newest publication that was received, or that the server reported. */
  #newest: HistoryPosition | undefined;

  constructor(topic: string, removed: (why: Unsubscribed) => void) {
    this.topic = topic;
    this.#removed = removed;
  }

  get isEnded(): boolean {
    return this.all.size === 0;
  }

  /** True if a subscription still needs a reply. */
  get isWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /**
   * True if the topic is in force and no request is pending. The reply to a request would be newer.
   */
  get isInForce(): boolean {
    return this.#standing !== "out" && !this.request?.reply;
  }

  /** Settles with the session's last reply. `undefined` if no request was sent in the session. */
  get reply(): Promise<unknown> | undefined {
    return this.isInForce ? Promise.resolve() : this.request?.reply;
  }

  /** True if the server has reported that the topic has a history. */
  get hasHistory(): boolean {
    return this.#newest !== undefined;
  }

  /**
   * Marks the subscription to the topic as lost, so that the client requests it again.
   *
   * @param by `loss` if the session has ended, or the server ended the subscription for now; `move`
   * if the client moves to another session. The previous session then still delivers messages until
   * the reply of the new one.
   */
  lose(by: "loss" | "move"): void {
    this.#standing = "out";
    for (const subscription of this.all) subscription.lose(by);
  }

  /** Handles a subscription by the server, which makes the last reply invalid. */
  supersede(): void {
    this.#standing = "superseded";
  }

  /** Ends all subscriptions, or with `hadReply`, only those that have had a reply. */
  end(error: unknown, hadReply?: boolean): void {
    this.#standing = "out";
    for (const subscription of [...this.all]) {
      if (!hadReply || !subscription.isWaiting) this.reject(subscription, error);
    }
  }

  /** Ends one subscription. */
  reject(subscription: Subscription<C>, error: unknown): void {
    this.all.delete(subscription);
    subscription.end(error);
  }

  /**
   * @param hasHistories True if the server has histories.
   * @returns The request, or `undefined` if no request is needed.
   */
  async planRequest(hasHistories: boolean | undefined): Promise<PlannedRequest<C> | undefined> {
    const requests = await Promise.all(
      this.#waiting.map(async (reader) => ({
        reader,
        from: await reader.from(hasHistories),
      })),
    );
    const waiting: Subscription<C>[] = [];
    let first: typeof requests[number] | undefined;
    for (const next of requests) {
      const { reader, from } = next;
      if (this.#standing === "in force" && reader.isWaiting && isPlain(from)) {
        reader.serve(this.#newestReply, false);
      }
      // The subscription was served, or it ended while the code for histories was loading.
      if (!reader.isWaiting) continue;
      waiting.push(reader);
      if (!first || isBefore(from, first.from)) first = next;
    }
    return first && { ...first, waiting };
  }

  /** Handles the reply to a request. */
  replied({ reader, waiting }: PlannedRequest<C>, reply: SubscribeReply): void {
    const { epoch, offset = 0, tag, head = 0 } = reply;
    this.#standing = "in force";
    this.#newest = epoch === undefined
      ? undefined
      : head > offset
      ? { epoch, offset: head }
      : { epoch, offset, tag };
    for (const one of [...this.all]) {
      if (one === reader) one.replied(reply);
      else one.serve(reply, waiting.includes(one));
    }
  }

  /** Handles an event of the topic. */
  offer(event: IncomingMessage | TopicNote, size: number): void | true {
    if (event.kind === "unsubscribed") return this.#removed(event.unsubscribed);
    this.#move(event);
    for (const subscription of this.all) {
      // The application may change what a loop yields, so each loop has its own copy.
      subscription.offer(this.all.size > 1 ? structuredClone(event) : event, size);
    }
    // If the topic has a history, messages that were dropped are requested again.
    if (event.kind === "dropped" && this.hasHistory) return true;
  }

  /** A reply that lets a subscription start after the newest publication. */
  get #newestReply(): SubscribeReply {
    return this.#newest === undefined ? {} : { ...this.#newest, head: this.#newest.offset };
  }

  get #waiting(): Subscription<C>[] {
    return [...this.all].filter(({ isWaiting }) => isWaiting);
  }

  #move(event: Exclude<IncomingMessage | TopicNote, { kind: "unsubscribed" }>): void {
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

/** Returns whether one request must be sent before another, because its reply may serve both. */
function isBefore(one: HistoryOptions, other: HistoryOptions): boolean {
  if (one.since && other.since) {
    return one.since.epoch === other.since.epoch && one.since.offset < other.since.offset;
  }
  return !isPlain(one) && (one.since !== undefined || isPlain(other));
}
