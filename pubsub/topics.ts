/**
 * Topics: who gets what is published, on this node.
 *
 * @module
 */
import { QueueFullError, UnsupportedError } from "../errors.ts";
import { Broadcast } from "../session/queue/broadcast.ts";
import { encodeMessage, framed, MAX_MESSAGE_BYTES } from "../session/wire/encode.ts";
import {
  describe,
  isName,
  isTopic,
  MAX_NAME_LENGTH,
  MAX_TOPIC_BYTES,
} from "../session/wire/envelope.ts";
import { MAX_PLACE_BYTES } from "../session/wire/history_place.ts";
import type { SubscribeAnswer } from "../session/wire/recovery.ts";
import { internals, type Session } from "../session/session.ts";
import { checkTopic } from "../session/base/topic_pattern.ts";
import { Turn } from "../session/queue/turn.ts";
import { waitFor } from "../session/base/wait.ts";
import { cutReason } from "../transport/close_info.ts";
import {
  type Appended,
  type Broker,
  type BrokerSubscription,
  type HistoryBounds,
  INTERNAL_PREFIX,
  type Publication,
  type PublicationKey,
} from "./broker.ts";
import type { Feed } from "./history/topic_feed.ts";
import { Feeds } from "./history/feeds.ts";
import { MemoryBroker } from "./memory/broker.ts";
import { exceptionOf, type SubscribeOptions, tellAnswer } from "./history/replay.ts";

/** Bytes of the reason that a session is told as it is taken off a topic: as much as of a close. */
const MAX_REASON_BYTES = 1_024;

/**
 * Subscriptions of a session to topics with a history that may be under way, for each topic that it
 * may have: one that was left, or begun anew, ends when the engine answers.
 */
const UNDER_WAY_FACTOR = 4;

/** Options for `Topics`. */
export interface TopicsOptions {
  /**
   * Carries publications between nodes. One that is handed in is not closed.
   *
   * @default {new MemoryBroker()}
   */
  readonly broker?: Broker;
  /**
   * The turn of all sessions that subscribe.
   *
   * @default {new Turn()}
   */
  readonly turn?: Turn;
  /**
   * Topics that one session may subscribe to.
   *
   * @default {128}
   */
  readonly maxTopicsPerSession?: number;
  /**
   * Bytes that a topic may have; at most 255.
   *
   * @default {255}
   */
  readonly maxTopicBytes?: number;
  /**
   * Bytes that one message may have.
   *
   * @default {262144}
   */
  readonly maxMessageBytes?: number;
  /**
   * Topics that keep what was published, by patterns such as `chat:{room}`, each with what is
   * kept of one topic: 1,000 publications, five minutes and 1 MiB by default. The same on every
   * node. Topics that begin with `presence:` or `$skein:` are never meant.
   *
   * @default {{}}
   */
  readonly history?: Readonly<Record<string, Partial<HistoryBounds>>>;
}

/** Options for `Topics.subscribe`. */
export interface TopicSubscribeOptions extends SubscribeOptions {
  /**
   * Marks a topic that the client asked for by itself: `Topics.requestedBy` lists it, unless the
   * application subscribes the session too.
   *
   * @default {false}
   */
  readonly isRequested?: boolean;
  /**
   * Called once the session is off the topic again, by whatever call. Not called when the session
   * is over. A later subscription that has one replaces it.
   */
  readonly onLeft?: (() => void) | undefined;
}

/** Code and reason that a session is told as it is taken off a topic. */
export interface UnsubscribeOptions {
  /**
   * Stable code by which the client goes on: `too-many` and `unavailable` have it ask again after a
   * while, every other one ends its subscription. At most 64 characters.
   *
   * @default {"removed"}
   */
  readonly code?: string;
  /**
   * Why, for people; cut to 1,024 bytes.
   *
   * @default {""}
   */
  readonly reason?: string;
}

/** Options for `Topics.unsubscribe`. */
export interface TopicUnsubscribeOptions extends UnsubscribeOptions {
  /**
   * Tells the session nothing, since its client asked for the end.
   *
   * @default {false}
   */
  readonly isSilent?: boolean;
}

/** Options for publishing. */
export interface PublishOptions {
  /**
   * A session that does not get it. Where its client said its id, as Skein's own do when they
   * subscribe, no later session of that client gets it either.
   */
  readonly except?: Session | undefined;
  /** The verified user who publishes, told to every subscriber; 1 to 255 bytes. */
  readonly from?: string | undefined;
}

/** Options for `Topics.append`. */
export interface AppendPublicationOptions extends PublishOptions {
  /** By which the engine recognizes the same publication made twice. */
  readonly key?: PublicationKey;
  /** Gives up waiting; the publication may be made all the same. */
  readonly signal?: AbortSignal;
}

/** Counters of topics, since they were created. */
export interface TopicsStats {
  /** Topics with subscribers on this node. */
  readonly topics: number;
  /** Publications that `publish` made on topics with a history, and the engine did not take. */
  readonly failedPublications: number;
  /** Why the last of them failed. */
  readonly lastFailure: unknown;
  /** Publications that came again. */
  readonly duplicates: number;
  /** Publications that did not come, and were read from the history. */
  readonly recovered: number;
  /** How often sessions were told that publications are missing. */
  readonly gaps: number;
  /** Pages that were read from the engine. */
  readonly reads: number;
  /** How often a session began at another place than where its topic stood. */
  readonly replays: number;
  /** Publications that were sent for it. */
  readonly replayed: number;
  /** Pages that wait for their turn now. */
  readonly waitingPages: number;
  /** Bytes of pages that were read, and wait for slow sessions now. */
  readonly waitingBytes: number;
  /** Bytes of the newest publications that are kept ready now. */
  readonly tailBytes: number;
}

/** A topic with subscribers: one with a history has a feed, another one a subscription. */
type Channel =
  | { readonly feed: Feed; readonly members?: undefined }
  | {
    readonly feed?: undefined;
    readonly members: Broadcast;
    readonly subscription: BrokerSubscription;
  };

interface Subscriber {
  /** Its names in publications that it does not get. */
  readonly ids: string[];
  readonly topics: Map<string, Membership>;
}

/** A session's part in a topic. */
interface Membership {
  /** True if its client asked for the topic, and the application did not. */
  isRequested: boolean;
  /** Called once the session is off the topic. */
  onLeft: (() => void) | undefined;
  /** Answers the client now, where that waits for the end of the current step. */
  answer: (() => void) | undefined;
}

/**
 * Topics and their subscribers.
 *
 * - **Once:** a publication is encoded once, for the broker and for all sockets.
 * - **Order:** subscribers get publications in order, each once.
 * - **Members:** who subscribes gets nothing that was published before, not even
 *   in the same turn; who leaves gets all that was.
 * - **Told:** a client that is taken off a topic is told so on `skein.1`, after all that was
 *   published before.
 * - **Close:** a session that closes leaves everything; subscribing one that is
 *   closed does nothing.
 * - **Cost:** a topic without subscribers here costs nothing and is not
 *   subscribed at the broker.
 * - **History:** on a topic that has one, who subscribes can begin in the past, what
 *   did not come is read again, and what cannot be read any more is told.
 *
 * @example Usage
 * ```ts
 * import { memoryPair, Session, sessionSettings, Topics } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const settings = sessionSettings({ side: "server" });
 * const { client, server } = memoryPair();
 * await using ann = new Session(server, settings);
 * await using page = new Session(client, sessionSettings({ side: "client" }));
 * await using topics = new Topics({ turn: settings.turn });
 * topics.subscribe(ann, "news");
 * topics.publish("news", "hello");
 * for await (const message of page) {
 *   assertEquals([message.topic, message.data], ["news", "hello"]);
 *   break;
 * }
 * ```
 */
export class Topics implements AsyncDisposable {
  /** Carries publications between nodes. */
  readonly broker: Broker;
  /** Bytes that a topic may have. */
  readonly maxTopicBytes: number;
  readonly #ownsBroker: boolean;
  readonly #turn: Turn;
  readonly #maxTopics: number;
  readonly #maxMessageBytes: number;
  readonly #feeds: Feeds;
  readonly #channels = new Map<string, Channel>();
  readonly #subscribers = new Map<Session, Subscriber>();
  readonly #byId = new Map<string, Session>();
  readonly #onEnd = (session: Session) => this.#forget(session);
  #failedPublications = 0;
  #lastFailure: unknown;

  /**
   * Creates topics without subscribers.
   *
   * @param options See {@linkcode TopicsOptions}.
   * @throws {RangeError} If a limit is not a positive integer, or `maxTopicBytes` above 255.
   * @throws {TypeError} If a pattern of `history` is malformed, or two of them overlap.
   * @throws {UnsupportedError} If there is a `history`, and the broker cannot keep one.
   */
  constructor(options: TopicsOptions = {}) {
    this.#ownsBroker = options.broker === undefined;
    this.broker = options.broker ?? new MemoryBroker();
    this.#turn = options.turn ?? new Turn();
    const { maxTopicsPerSession = 128, maxTopicBytes = MAX_TOPIC_BYTES } = options;
    const { maxMessageBytes = MAX_MESSAGE_BYTES } = options;
    this.#maxTopics = checkLimit("maxTopicsPerSession", maxTopicsPerSession);
    this.maxTopicBytes = checkLimit("maxTopicBytes", maxTopicBytes, MAX_TOPIC_BYTES);
    this.#maxMessageBytes = checkLimit("maxMessageBytes", maxMessageBytes);
    this.#feeds = new Feeds({
      broker: this.broker,
      turn: this.#turn,
      history: options.history ?? {},
      sessionOf: (id) => this.#byId.get(id),
    });
  }

  /** Counters. */
  get stats(): TopicsStats {
    const { counts, waiting, waitingBytes, tailBytes } = this.#feeds;
    return {
      ...counts,
      topics: this.size,
      failedPublications: this.#failedPublications,
      lastFailure: this.#lastFailure,
      waitingPages: waiting,
      waitingBytes,
      tailBytes,
    };
  }

  /**
   * Tells what is kept of a topic.
   *
   * @param topic Any topic.
   * @returns The bounds; `undefined` if the topic has no history.
   */
  historyOf(topic: string): HistoryBounds | undefined {
    return this.#feeds.boundsOf(topic);
  }

  /** The turn of all sessions that subscribe. */
  get turn(): Turn {
    return this.#turn;
  }

  /** How many topics have subscribers on this node. */
  get size(): number {
    return this.#channels.size;
  }

  /**
   * Subscribes a session. Idempotent; a closed session is left out.
   *
   * On a topic with a history it can begin in the past, by `since` or `last`: what was
   * published is sent page by page, as fast as the session takes it, and what is published
   * meanwhile comes after it. A session that is subscribed already begins again there.
   *
   * @example Late join
   * ```ts
   * import { memoryPair, Session, sessionSettings, Topics } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * const settings = sessionSettings({ side: "server" });
   * const { client, server } = memoryPair();
   * await using ann = new Session(server, settings);
   * await using page = new Session(client, sessionSettings({ side: "client" }));
   * await using topics = new Topics({ turn: settings.turn, history: { "chat:{room}": {} } });
   * for (const text of ["one", "two", "three"]) topics.publish("chat:lobby", text);
   * topics.subscribe(ann, "chat:lobby", { last: 2 });
   * const heard: unknown[] = [];
   * for await (const { data } of page) {
   *   if (heard.push(data) === 2) break;
   * }
   * assertEquals(heard, ["two", "three"]);
   * ```
   *
   * @param session A session of the same turn.
   * @param topic The topic.
   * @param options See {@linkcode TopicSubscribeOptions}.
   * @returns Whether the session was not subscribed before, and is now.
   * @throws {TypeError} If the topic is no topic.
   * @throws {RangeError} If the topic is longer than `maxTopicBytes`, or `last` is no number from 0.
   * @throws {QueueFullError} If the session has `maxTopicsPerSession` topics already, or left and
   * came to topics with a history over and over while their engine does not answer.
   * @throws {UnsupportedError} If the session's connection carries no messages, or the
   * broker is closed.
   */
  subscribe(session: Session, topic: string, options: TopicSubscribeOptions = {}): boolean {
    checkTopic(topic, "subscribe", this.maxTopicBytes);
    checkPublic(topic, "subscribe");
    checkLast(options.last);
    if (session.isClosed) return false;
    const known = this.#subscribers.get(session);
    const isNew = !known?.topics.has(topic);
    if (isNew && known !== undefined && known.topics.size >= this.#maxTopics) {
      throw new QueueFullError(
        `Cannot subscribe: a session has at most ${this.#maxTopics} topics`,
      );
    }
    if (this.#feeds.underWay(session) >= this.#maxTopics * UNDER_WAY_FACTOR) {
      throw new QueueFullError(
        `Cannot subscribe: at most ${this.#maxTopics * UNDER_WAY_FACTOR} subscriptions of a ` +
          "session may be under way",
      );
    }
    // What can fail comes first, so that a failure leaves nothing behind.
    session[internals].messages("subscribe");
    const { feed, members } = this.#open(topic);
    const { since, onAnswer, onLeft, isRequested = false } = options;
    const { topics } = known ?? this.#remember(session);
    const membership = topics.get(topic) ?? { isRequested, onLeft, answer: undefined };
    topics.set(topic, membership);
    if (!isRequested) membership.isRequested = false;
    membership.onLeft = onLeft ?? membership.onLeft;
    let standing: (() => SubscribeAnswer) | undefined;
    if (feed !== undefined) standing = feed.admit(session, options);
    else {
      members.add(session);
      standing = () => since === undefined ? {} : { recovered: false, reason: "no-history" };
    }
    if (standing !== undefined && onAnswer !== undefined) {
      answerSoon(membership, () => tellAnswer(session, onAnswer, standing()));
    }
    return isNew;
  }

  /**
   * Takes a session off a topic; what was published before still reaches it. Idempotent. Its client
   * is told by what code and for what reason, after all of that; a plain page is not.
   *
   * @param session Any session.
   * @param topic The topic.
   * @param options See {@linkcode TopicUnsubscribeOptions}.
   * @returns Whether the session was subscribed.
   * @throws {TypeError} If the code is no text of 1 to 64 characters.
   */
  unsubscribe(session: Session, topic: string, options: TopicUnsubscribeOptions = {}): boolean {
    const { code = "removed", reason = "", isSilent = false } = options;
    if (!isName(code)) {
      throw new TypeError(
        `Cannot unsubscribe: code must have 1 to ${MAX_NAME_LENGTH} characters, received "${code}"`,
      );
    }
    const topics = this.#subscribers.get(session)?.topics;
    const membership = topics?.get(topic);
    if (topics === undefined || membership === undefined) return false;
    // Before the client is told of the end, it is told of the beginning.
    membership.answer?.();
    if (topics.get(topic) !== membership) return true;
    this.#leave(session, topic);
    // A replay that ends answers the application, which may have subscribed the session again.
    if (topics.has(topic)) return true;
    const core = session[internals];
    if (!isSilent && core.joins) {
      core.post({ unsubscribed: topic, code, reason: cutReason(reason, MAX_REASON_BYTES) });
    }
    membership.onLeft?.();
    return true;
  }

  /**
   * Takes a session off all its topics.
   *
   * @param session Any session.
   * @param options See {@linkcode TopicUnsubscribeOptions}.
   * @throws {TypeError} If the code is no text of 1 to 64 characters.
   */
  leaveAll(session: Session, options: TopicUnsubscribeOptions = {}): void {
    for (const topic of this.topicsOf(session)) this.unsubscribe(session, topic, options);
  }

  /**
   * Publishes to all subscribers, on every node. Does not wait for anybody; what the engine of
   * a topic with a history does not take is counted in `stats`.
   *
   * @param topic The topic.
   * @param data Any value that JSON can hold, or a `Uint8Array` for `skein.1` subscribers.
   * @param options A session that does not get it, and who publishes.
   * @throws {TypeError} If JSON cannot hold the data, the topic is no topic, or `from` no user.
   * @throws {RangeError} If the message is larger than `maxMessageBytes`, or the topic too long.
   * On a topic with a history 69 bytes are for its place in it.
   * @throws {UnsupportedError} If the broker is closed.
   */
  publish(topic: string, data?: unknown, options: PublishOptions = {}): void {
    const bounds = this.historyOf(topic);
    const publication = this.#encode(topic, data, { ...options, bounds, verb: "publish" });
    if (bounds === undefined) return this.broker.publish(publication);
    if (this.broker.status.current.name === "closed") {
      throw new UnsupportedError("Cannot publish: the broker is closed");
    }
    this.#feeds.history!.append(publication, { bounds }).catch((error) => {
      this.#failedPublications++;
      this.#lastFailure = error;
    });
  }

  /**
   * Publishes on a topic with a history, and waits until the engine has it.
   *
   * @example Usage
   * ```ts
   * import { Topics } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using topics = new Topics({ history: { orders: {} } });
   * const key = { producer: "till-1", number: 7 };
   * const first = await topics.append("orders", { tea: 1 }, { key });
   * const again = await topics.append("orders", { tea: 1 }, { key });
   * assertEquals([first.position?.offset, again.position], [1, undefined]);
   * ```
   *
   * @param topic The topic.
   * @param data See {@linkcode Topics.publish}.
   * @param options A session that does not get it, what makes it count once, and a signal.
   * @returns Where it stands; without a position if it had been made before.
   * @throws {BrokerError} If it was given up: the engine was away for too long, or too many waited.
   * @throws {UnsupportedError} If the topic has no history.
   * @throws {TypeError} If JSON cannot hold the data, or the topic is no topic.
   * @throws {RangeError} If the message is too large, or the topic too long.
   */
  async append(
    topic: string,
    data?: unknown,
    options: AppendPublicationOptions = {},
  ): Promise<Appended> {
    const { key, signal } = options;
    const bounds = this.historyOf(topic);
    const publication = this.#encode(topic, data, { ...options, bounds, verb: "append" });
    if (bounds === undefined) {
      throw new UnsupportedError(`Cannot append: the topic "${topic}" has no history`);
    }
    signal?.throwIfAborted();
    const appending = this.#feeds.history!.append(
      publication,
      key === undefined ? { bounds } : { bounds, key },
    );
    return await waitFor(appending, { what: "the engine", signal });
  }

  /**
   * Lists the subscribers of a topic on this node.
   *
   * @param topic The topic.
   * @returns The sessions, in the order in which they came.
   */
  subscribers(topic: string): Session[] {
    const { feed, members } = this.#channels.get(topic) ?? {};
    return [...feed?.sessions() ?? members?.members() ?? []];
  }

  /**
   * Tells whether a session is subscribed to a topic.
   *
   * @param session Any session.
   * @param topic The topic.
   * @returns Whether it is.
   */
  has(session: Session, topic: string): boolean {
    return this.#subscribers.get(session)?.topics.has(topic) ?? false;
  }

  /**
   * Lists the topics of a session.
   *
   * @param session Any session.
   * @returns The topics, in the order in which it came to them.
   */
  topicsOf(session: Session): string[] {
    return [...this.#subscribers.get(session)?.topics.keys() ?? []];
  }

  /**
   * Notes that the client of a session said its id: publications that leave the client out leave
   * this session out from now on.
   *
   * @ignore
   * @param session Any session.
   */
  introduced(session: Session): void {
    const subscriber = this.#subscribers.get(session);
    if (subscriber !== undefined) this.#index(session, subscriber);
  }

  /**
   * Lists the topics of a session for which its client asked, and the application did not: those
   * that depend on what the client may do.
   *
   * @param session Any session.
   * @returns The topics, in the order in which it came to them.
   */
  requestedBy(session: Session): string[] {
    return [...this.#subscribers.get(session)?.topics ?? []]
      .filter(([, { isRequested }]) => isRequested).map(([topic]) => topic);
  }

  /** Takes everybody off everything, and closes the broker unless it was handed in. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#subscribers.keys()) this.#leaveAll(session);
    if (this.#ownsBroker) await this.broker.close();
  }

  #open(topic: string): Channel {
    let channel = this.#channels.get(topic);
    if (channel === undefined) {
      const bounds = this.historyOf(topic);
      channel = bounds === undefined
        ? this.#follow(topic)
        : { feed: this.#feeds.open(topic, bounds) };
      this.#channels.set(topic, channel);
    }
    return channel;
  }

  #follow(topic: string): Channel {
    const members = new Broadcast(this.#turn);
    const subscription = this.broker.subscribe(
      topic,
      (publication) => this.#deliver(members, publication),
      { onInterrupted: () => tellInterrupted(topic, members) },
    );
    return { members, subscription };
  }

  #leaveAll(session: Session): void {
    for (const topic of this.topicsOf(session)) this.#leave(session, topic);
  }

  #leave(session: Session, topic: string): void {
    this.#subscribers.get(session)?.topics.delete(topic);
    const channel = this.#channels.get(topic);
    if (channel === undefined) return;
    const sessions = channel.feed ?? channel.members;
    sessions.delete(session);
    if (sessions.size > 0) return;
    this.#channels.delete(topic);
    if (channel.feed !== undefined) this.#feeds.close(channel.feed);
    else void channel.subscription[Symbol.asyncDispose]();
  }

  #encode(
    topic: string,
    data: unknown,
    { except, from, verb, bounds }: PublishOptions & {
      readonly verb: string;
      readonly bounds: HistoryBounds | undefined;
    },
  ): Publication {
    checkPublic(topic, verb);
    const reserved = bounds === undefined ? 0 : MAX_PLACE_BYTES;
    const maxBytes = this.#maxMessageBytes - reserved;
    if (from !== undefined && !isTopic(from)) {
      throw new TypeError(
        `Cannot ${verb}: from must have 1 to ${MAX_TOPIC_BYTES} bytes, received ${describe(from)}`,
      );
    }
    const { frame: payload } = encodeMessage(topic, data, { verb, maxBytes, from });
    if (except === undefined) return { topic, payload };
    return { topic, payload, except: exceptionOf(except) };
  }

  #deliver(members: Broadcast, { topic, payload, except }: Publication): void {
    const message = framed(payload, topic);
    if (except === undefined) return members.send(message);
    const newest = this.#byId.get(except);
    // A client that moves has the topic in one of its two sessions.
    const before = newest && newest[internals].predecessor;
    members.send(message, before && members.has(before) ? before : newest);
  }

  #remember(session: Session): Subscriber {
    const subscriber: Subscriber = { ids: [], topics: new Map() };
    this.#subscribers.set(session, subscriber);
    this.#index(session, subscriber);
    session[internals].whenEnded(this.#onEnd);
    return subscriber;
  }

  /** A client's newest session is found by its id: what an older one still gets goes nowhere. */
  #index(session: Session, { ids }: Subscriber): void {
    const id = exceptionOf(session);
    ids.push(id);
    this.#byId.set(id, session);
  }

  #forget(session: Session): void {
    const { ids } = this.#subscribers.get(session)!;
    this.#leaveAll(session);
    this.#subscribers.delete(session);
    for (const id of ids) if (this.#byId.get(id) === session) this.#byId.delete(id);
  }
}

/** What the nodes say to one another is not for sessions to hear, nor for applications to say. */
function checkPublic(topic: string, verb: string): void {
  if (typeof topic !== "string" || !topic.startsWith(INTERNAL_PREFIX)) return;
  throw new TypeError(
    `Cannot ${verb}: a topic must not begin with "${INTERNAL_PREFIX}", received "${topic}"`,
  );
}

/** Answers once the application's call is over, or earlier if the next answer or the end comes first. */
function answerSoon(membership: Membership, tell: () => void): void {
  membership.answer?.();
  const answer = () => {
    if (membership.answer !== answer) return;
    membership.answer = undefined;
    tell();
  };
  membership.answer = answer;
  queueMicrotask(answer);
}

/** Without a history nobody knows what was missed. Plain sessions are told nothing. */
function tellInterrupted(topic: string, members: Broadcast): void {
  for (const session of [...members.members()]) {
    const core = session[internals];
    if (core.joins) core.post({ gap: topic, reason: "interrupted" });
  }
}

function checkLast(last: number | undefined): void {
  if (last === undefined || Number.isInteger(last) && last >= 0) return;
  throw new RangeError(`Cannot subscribe: last must be a whole number from 0, received ${last}`);
}

function checkLimit(name: string, value: number, most = Infinity): number {
  if (Number.isInteger(value) && value >= 1 && value <= most) return value;
  const rule = most === Infinity ? "a positive integer" : `an integer from 1 to ${most}`;
  throw new RangeError(`Cannot create topics: ${name} must be ${rule}, received ${value}`);
}
