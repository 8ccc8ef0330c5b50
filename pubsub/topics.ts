/** Topics and the subscribers on this node. */
import { withoutUndefined } from "../base/options/options.ts";
import { checkOptions } from "../base/options/option_checks.ts";
import { type BrokerError, QueueFullError, UnsupportedError } from "../errors.ts";
import { describe } from "../base/error_text.ts";
import { Broadcast } from "../session/queue/broadcast.ts";
import { Flusher } from "../session/queue/flusher.ts";
import {
  checkTopic,
  encodeMessage,
  MAX_MESSAGE_BYTES,
  MAX_PLACE_BYTES,
} from "../session/wire/encode.ts";
import { isName, isTopic, MAX_NAME_LENGTH, MAX_TOPIC_BYTES } from "../session/wire/envelope.ts";
import {
  type HistoryPosition,
  STREAM_PREFIX,
  type SubscribeReply,
} from "../session/wire/recovery.ts";
import { sessionsAfter, sessionsBefore } from "../session/lineage.ts";
import { internals, type Session } from "../session/session.ts";
import { report } from "../session/settings/settings.ts";
import { waitFor } from "../base/wait.ts";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import { cutReason } from "../transport/close_info.ts";
import {
  type Broker,
  type BrokerSubscription,
  type HistoryBounds,
  INTERNAL_PREFIX,
  payloadBytes,
  type Publication,
  type TopicHistory,
} from "./broker.ts";
import { Confirmation } from "./confirmation.ts";
import { Decisions } from "./decisions.ts";
import { contentOf, HistoryTopics } from "./history/history_topics.ts";
import { heldBy, OtherKinds, type OtherKindsEvents } from "./history/other_kinds.ts";
import type { Agreement } from "./nodes/agreement.ts";
import { Membership } from "./membership.ts";
import { MemoryBroker } from "./memory/broker.ts";
import { exceptionOf, tellReply } from "./history/replay.ts";
import {
  APPEND,
  type AppendPublicationOptions,
  checkSession,
  type JoinOptions,
  POSITION,
  PUBLISH,
  type PublishOptions,
  READ,
  SUBSCRIBE,
  type SubscribeOptions,
  TOPICS,
  type TopicsOptions,
  UNSUBSCRIBE,
  type UnsubscribeOptions,
} from "./topic_options.ts";

/** Default maximum number of topics per session. */
export const MAX_TOPICS_PER_SESSION = 128;

/**
 * Maximum size of the reason for unsubscribing a session, in bytes; the same as for the reason of a
 * close.
 */
const MAX_REASON_BYTES = 1_024;

/**
 * Maximum number of pending subscriptions to topics with a history, for each topic that a session
 * may have. A subscription that was left or restarted stays pending until the broker responds.
 */
const UNDER_WAY_FACTOR = 4;

/**
 * Time after which a broker is considered late with the subscription to a topic without a history,
 * in milliseconds. Sessions that did not wait for the confirmation may then have missed
 * publications.
 */
const LATE_MS = 1_000;

/** Counters of topics since their creation. */
export interface TopicsStats {
  /** Topics with subscribers on this node. */
  readonly topics: number;
  /** Publications made with `publish` on topics with a history that the broker did not accept. */
  readonly failedPublications: number;
  /** Error of the last failed publication. */
  readonly lastFailure: unknown;
  /** Publications that arrived more than once. */
  readonly duplicates: number;
  /** Publications that were missed live and were read from the history. */
  readonly recovered: number;
  /** Gaps that were reported to sessions. */
  readonly gaps: number;
  /** Pages read from the broker. */
  readonly reads: number;
  /** Replays started, for sessions that subscribed or fell behind. */
  readonly replays: number;
  /** Publications that were sent by replays. */
  readonly replayed: number;
  /** Pages currently waiting to be replayed. */
  readonly waitingPages: number;
  /** Bytes of pages that have been read and currently wait for slow sessions. */
  readonly waitingBytes: number;
  /** Bytes of the newest publications that are currently kept in memory for replays. */
  readonly tailBytes: number;
}

/** The sessions of a topic whose messages come from a history or from a durable stream. */
export interface TopicSource {
  /** Number of sessions. */
  readonly size: number;
  /**
   * Set once the broker sends publications to this node; left out if each session reads on its own.
   */
  readonly confirmation?: Confirmation | undefined;
  /** The newest known position in the history, and the number of publications on this node so far. */
  readonly followed?: {
    readonly epoch: string | undefined;
    readonly offset: number;
    readonly publications: number;
  } | undefined;
  /** Lists the sessions. */
  sessions(): Iterable<Session>;
  /**
   * Receives what nodes with other options publish on the topic; returns the promise of new
   * subscriptions. Left out if no options of nodes concern the topic.
   */
  adapt?(): Promise<unknown> | undefined;
  /** Called when such publications may have been missed. */
  missedOutside?(): void;
  /**
   * Adds a session, or restarts an existing one at another position.
   *
   * @param options The start position, and the receiver of the reply.
   * @returns A function that returns the position of the session, if the caller has to reply.
   */
  admit(session: Session, options: JoinOptions): (() => SubscribeReply) | undefined;
  /** Removes a session. */
  delete(session: Session): void;
}

/**
 * A topic with subscribers. If it has a history, it has a feed; otherwise, it has a subscription.
 */
type OpenTopic =
  | {
    readonly feed: TopicSource;
    /** Ends the feed, which has no sessions left. */
    close(): void;
    readonly subscribers?: undefined;
    readonly confirmation?: undefined;
    readonly others?: undefined;
  }
  | {
    readonly feed?: undefined;
    readonly subscribers: Broadcast<Session>;
    readonly confirmation: Confirmation;
    readonly subscription: BrokerSubscription;
    /** Receives the publications of nodes on which the topic has a history. */
    readonly others: OtherKinds;
  };

/** A publication that was encoded and checked, and is not published yet. */
export interface EncodedPublication {
  readonly publication: Publication;
  /** Bounds of the topic's history, if it has one. */
  readonly bounds: TopicHistory | undefined;
}

interface Subscriber {
  /** The session's ids, as used in `except` of publications. */
  readonly ids: string[];
  readonly topics: Map<string, Membership>;
}

/**
 * Topics and the subscribers on this node.
 *
 * - **Once:** a publication is encoded once, for the broker and for all sockets.
 * - **Order:** subscribers receive each publication once, in order.
 * - **Subscribers:** a session that subscribes receives no earlier publications, not even from the
 *   same turn. A session that leaves still receives all earlier publications.
 * - **Notice:** if the server unsubscribes a client, the client receives a notice on `skein.1`,
 *   after all earlier publications.
 * - **Close:** a session that closes leaves all topics. Subscribing a closed session has no effect.
 * - **Cost:** a topic without subscribers on this node uses no resources, and this node does not
 *   subscribe to it at the broker.
 * - **History:** on a topic with a history, a session can start in the past. Missing publications
 *   are read from the history, and sessions are notified of a gap that cannot be filled.
 *
 * @example Usage
 * ```ts
 * import { Session } from "@skein/skein";
 * import { Topics } from "@skein/skein/pubsub";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const settings = sessionSettings({ side: "server" });
 * const { client, server } = memoryPair();
 * await using ann = new Session(server, settings);
 * await using page = new Session(client, sessionSettings({ side: "client" }));
 * await using topics = new Topics({ settings });
 * topics.subscribe(ann, "news");
 * topics.publish("news", "hello");
 * for await (const message of page) {
 *   assertEquals([message.topic, message.data], ["news", "hello"]);
 *   break;
 * }
 * ```
 */
export class Topics implements AsyncDisposable {
  /** Broker that carries publications between nodes. */
  readonly broker: Broker;
  /** Maximum size of a topic in bytes. */
  readonly maxTopicBytes: number;
  /**
   * Decisions about the requests of clients, which {@linkcode Topics.unsubscribe} revokes.
   *
   * @ignore
   */
  readonly decisions: Decisions = new Decisions();
  readonly #runtime: Runtime;
  readonly #ownsBroker: boolean;
  readonly #flusher: Flusher;
  readonly #maxTopics: number;
  readonly #maxMessageBytes: number;
  readonly #histories: HistoryTopics;
  #agreement: Agreement | undefined;
  /** Readers of what nodes with other options publish; bounded by their callers. */
  readonly #followers = new Set<{ readonly topic: string; readonly others: OtherKinds }>();
  readonly #openTopics = new Map<string, OpenTopic>();
  /** Opens the topics of durable streams; see {@linkcode Topics.serveStreams}. */
  #openStream: ((topic: string) => TopicSource | undefined) | undefined;
  readonly #subscribers = new Map<Session, Subscriber>();
  /** The newest session of each id that publications may exclude. */
  readonly #byId = new Map<string, Session>();
  readonly #onEnd = (session: Session) => this.#forget(session);
  #failedPublications = 0;
  #lastFailure: unknown;

  /**
   * Creates topics without subscribers.
   *
   * @param options See {@linkcode TopicsOptions}.
   * @throws {RangeError} If a limit is not a positive integer, or `maxTopicBytes` is above 255.
   * @throws {TypeError} If a pattern of `history` is malformed, or two patterns overlap.
   * @throws {UnsupportedError} If `history` has a pattern, and the broker cannot keep histories.
   */
  constructor(options: TopicsOptions = {}) {
    checkOptions("create server", options, TOPICS);
    this.#runtime = options.runtime ?? platformRuntime();
    this.#ownsBroker = options.broker === undefined;
    this.broker = options.broker ?? new MemoryBroker({ runtime: this.#runtime });
    this.#flusher = options.settings?.flusher ?? new Flusher(this.#runtime);
    const { maxTopicsPerSession = MAX_TOPICS_PER_SESSION, maxTopicBytes = MAX_TOPIC_BYTES } =
      options;
    const { maxMessageBytes = MAX_MESSAGE_BYTES } = options;
    this.#maxTopics = maxTopicsPerSession;
    this.maxTopicBytes = maxTopicBytes;
    this.#maxMessageBytes = maxMessageBytes;
    this.#histories = new HistoryTopics({
      runtime: this.#runtime,
      broker: this.broker,
      flusher: this.#flusher,
      history: options.history ?? {},
      sessionOf: (id) => this.#byId.get(id),
    });
  }

  /** Counters. */
  get stats(): TopicsStats {
    const { counts, waiting, waitingBytes, tailBytes } = this.#histories;
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
   * Returns the bounds of a topic's history.
   *
   * @param topic Any topic.
   * @returns The bounds, and what a broker needs in addition; `undefined` if the topic has no history.
   */
  historyOf(topic: string): TopicHistory | undefined {
    return this.#histories.historyOf(topic);
  }

  /**
   * Receives what nodes with other options publish on a topic, for a reader that is subscribed to the
   * topic at the broker.
   *
   * @ignore
   * @param events Receives the publications, without positions.
   * @returns `ready` resolves once all publications arrive. Disposing ends it.
   */
  followOthers(
    topic: string,
    events: OtherKindsEvents,
  ): Disposable & { readonly ready: Promise<unknown> } {
    const others = new OtherKinds(this.broker, topic, this.historyOf(topic), events);
    const ready = heldBy(this.held, others.update(this.#histories.historiesOf(topic)));
    const follower = { topic, others };
    this.#followers.add(follower);
    return {
      ready: ready ?? Promise.resolve(),
      [Symbol.dispose]: () => {
        this.#followers.delete(follower);
        others.close();
      },
    };
  }

  /**
   * True if nodes may have published on a topic outside its history within the last hour.
   *
   * @ignore
   * @param topic A topic with a history.
   * @returns True if its history may lack publications.
   */
  wasOutside(topic: string): boolean {
    return this.#agreement?.wasOutside(topic) ?? false;
  }

  /** The patterns of topics with a history, with their bounds. @ignore */
  get historyPatterns(): Readonly<Record<string, HistoryBounds>> {
    return this.#histories.patterns;
  }

  /**
   * Receives what nodes with other options publish.
   *
   * @ignore
   * @param agreement The comparison of the nodes' options.
   */
  agree(agreement: Agreement): void {
    this.#agreement = agreement;
    this.#histories.agree(agreement);
  }

  /**
   * Subscribes to open topics as other nodes publish on them; see `AgreementTopics`.
   *
   * @ignore
   */
  adapt(): { readonly live: Promise<void>; readonly late: readonly string[] } {
    const opening: Promise<unknown>[] = [];
    const late: string[] = [];
    for (const [topic, { feed, others, confirmation = feed?.confirmation }] of this.#openTopics) {
      const ready = others?.update(this.#histories.historiesOf(topic)) ?? feed?.adapt?.();
      if (ready === undefined) continue;
      opening.push(ready);
      if (confirmation?.isGiven) late.push(topic);
    }
    for (const { topic, others } of this.#followers) {
      const ready = others.update(this.#histories.historiesOf(topic));
      if (ready === undefined) continue;
      opening.push(ready);
      late.push(topic);
    }
    return { live: Promise.all(opening).then(() => {}), late };
  }

  /**
   * Reports that publications on topics may have been missed; see `AgreementTopics`.
   *
   * @ignore
   */
  missed(topics: readonly string[]): void {
    for (const topic of topics) {
      const { feed, subscribers } = this.#openTopics.get(topic) ?? {};
      feed?.missedOutside?.();
      if (subscribers !== undefined) tellInterrupted(topic, subscribers.members());
    }
    const missed = new Set(topics);
    for (const { topic, others } of this.#followers) if (missed.has(topic)) others.interrupt();
  }

  /**
   * Resolves once nodes with other options receive what this node publishes; `undefined` if they do.
   *
   * @ignore
   */
  get held(): Promise<void> | undefined {
    return this.#agreement?.held;
  }

  /**
   * Flushes all sessions that subscribe.
   *
   * @ignore
   */
  get flusher(): Flusher {
    return this.#flusher;
  }

  /**
   * Serves the topics of durable streams, `stream:<id>`. Without this call, there are no such
   * topics.
   *
   * @ignore
   * @param open Starts to serve a topic to sessions; returns `undefined` if nothing serves it.
   */
  serveStreams(open: (topic: string) => TopicSource | undefined): void {
    this.#openStream = open;
  }

  /** Number of topics with subscribers on this node. */
  get size(): number {
    return this.#openTopics.size;
  }

  /**
   * Subscribes a session. Idempotent; a closed session is ignored.
   *
   * On a topic with a history, the session can start in the past with `since` or `last`. Earlier
   * publications are sent page by page, as fast as the session reads them, followed by new
   * publications. If the session is already subscribed, it starts again at the given position.
   *
   * @example Joining late
   * ```ts
   * import { Session } from "@skein/skein";
   * import { Topics } from "@skein/skein/pubsub";
   * import { sessionSettings } from "@skein/skein/session";
   * import { memoryPair } from "@skein/skein/transport";
   * import { assertEquals } from "@std/assert";
   *
   * const settings = sessionSettings({ side: "server" });
   * const { client, server } = memoryPair();
   * await using ann = new Session(server, settings);
   * await using page = new Session(client, sessionSettings({ side: "client" }));
   * await using topics = new Topics({ settings, history: { "chat:{room}": {} } });
   * for (const text of ["one", "two", "three"]) topics.publish("chat:lobby", text);
   * topics.subscribe(ann, "chat:lobby", { last: 2 });
   * const received: unknown[] = [];
   * for await (const { data } of page) {
   *   if (received.push(data) === 2) break;
   * }
   * assertEquals(received, ["two", "three"]);
   * ```
   *
   * @param session A session of the same flusher.
   * @param topic The topic whose messages the session receives, of 1 to 255 bytes.
   * @param options See {@linkcode SubscribeOptions}.
   * @returns Resolves to true once the broker has confirmed the subscription: from then on,
   * publications from all nodes reach the session. Resolves to false if the session leaves or
   * closes first. Rejects with a `BrokerError` if the broker has not confirmed within ten seconds;
   * the session stays subscribed, and is notified of a gap once the broker is reachable. The error
   * is also passed to `onError`, so you need not await the promise.
   * @throws {TypeError} If the topic is not valid.
   * @throws {RangeError} If the topic is longer than `maxTopicBytes`, or `last` is not an integer
   * of 0 or more.
   * @throws {QueueFullError} If the session already has `maxTopicsPerSession` topics, or has
   * repeatedly left and joined topics with a history while the broker does not respond.
   * @throws {UnsupportedError} If the connection of the session carries no messages, or the broker is
   * closed.
   */
  subscribe(session: Session, topic: string, options: SubscribeOptions = {}): Promise<boolean> {
    checkOptions("subscribe", options, SUBSCRIBE);
    return this.join(session, topic, options);
  }

  /**
   * Subscribes a session as {@linkcode Topics.subscribe} does, for the client's own requests and for
   * rooms.
   *
   * @ignore
   * @param session Any session.
   * @param options See {@linkcode JoinOptions}.
   * @returns As `subscribe` does.
   */
  join(session: Session, topic: string, options: JoinOptions = {}): Promise<boolean> {
    checkSession("subscribe", session);
    checkTopic(topic, "subscribe", this.maxTopicBytes);
    checkPublic(topic, "subscribe");
    if (session.isClosed) return Promise.resolve(false);
    const known = this.#subscribers.get(session);
    const isNew = !known?.topics.has(topic);
    if (isNew && known !== undefined && known.topics.size >= this.#maxTopics) {
      throw new QueueFullError(
        `Cannot subscribe: a session has at most ${this.#maxTopics} topics`,
      );
    }
    if (this.#histories.underWay(session) >= this.#maxTopics * UNDER_WAY_FACTOR) {
      throw new QueueFullError(
        `Cannot subscribe: at most ${this.#maxTopics * UNDER_WAY_FACTOR} subscriptions of a ` +
          "session may be pending",
      );
    }
    // Calls that can fail come first, so that a failure leaves no state behind.
    const queue = session[internals].sending.messages("subscribe");
    const { feed, subscribers, confirmation = feed?.confirmation } = this.#open(topic);
    const { since, onReply, onLeft, isRequested = false } = options;
    const { topics } = known ?? this.#remember(session);
    const membership = topics.get(topic) ?? new Membership({ isRequested, onLeft });
    topics.set(topic, membership);
    if (!isRequested) membership.isRequested = false;
    membership.onLeft = onLeft ?? membership.onLeft;
    if (feed !== undefined) {
      const standing = feed.admit(session, options);
      if (standing !== undefined && onReply !== undefined) {
        membership.replyLater(() => tellReply(session, onReply, standing()));
      }
    } else {
      subscribers.add(session, queue);
      const isRecovery = since !== undefined;
      if (onReply !== undefined) {
        membership.replyLater(
          (error) => tellReply(session, onReply, plainReply(isRecovery, error)),
          confirmation,
        );
      }
    }
    return membership.confirmed(confirmation, (error) => {
      // A client receives a reply instead.
      if (!isRequested) report(session[internals].settings, error, session);
    });
  }

  /**
   * Unsubscribes a session. Earlier publications still reach the session. After them, the client
   * receives a notice with the code and the reason; plain WebSocket clients receive no notice.
   * On a server, a request of the client about the topic for which `authorize` is still running
   * fails with the code, too. Idempotent.
   *
   * @param session Any session.
   * @param topic The topic that the session no longer receives.
   * @param options See {@linkcode UnsubscribeOptions}.
   * @returns True if the session was subscribed, or such a request was under way.
   * @throws {TypeError} If the code is not a text of 1 to 64 characters.
   */
  unsubscribe(session: Session, topic: string, options: UnsubscribeOptions = {}): boolean {
    checkOptions("unsubscribe", options, UNSUBSCRIBE);
    checkSession("unsubscribe", session);
    const notice = noticeOf(options);
    const isRevoked = this.#revoke(session, notice, topic);
    return this.leave(session, topic, notice) || isRevoked;
  }

  /**
   * Unsubscribes a session as {@linkcode Topics.unsubscribe} does, but revokes no decision. Omit
   * `notice` if the client made the request; it then receives no notice.
   *
   * @ignore
   * @param session Any session.
   * @param notice Code and reason for the client.
   * @returns True if the session was subscribed.
   */
  leave(session: Session, topic: string, notice?: Required<UnsubscribeOptions>): boolean {
    const topics = this.#subscribers.get(session)?.topics;
    const membership = topics?.get(topic);
    if (topics === undefined || membership === undefined) return false;
    // The reply to the subscription precedes the notice of the end.
    membership.reply();
    if (topics.get(topic) !== membership) return true;
    this.#remove(session, topic);
    // When a replay ends, it replies to the application, which may have subscribed the session
    // again.
    if (topics.has(topic)) return true;
    const core = session[internals];
    if (notice !== undefined && core.joins) {
      core.sending.post({ unsubscribed: topic, ...notice });
    }
    membership.onLeft?.(notice?.code ?? "removed");
    return true;
  }

  /**
   * Unsubscribes a session from all topics, as {@linkcode Topics.unsubscribe} does.
   *
   * @param session Any session.
   * @param options See {@linkcode UnsubscribeOptions}.
   * @throws {TypeError} If the code is not a text of 1 to 64 characters.
   */
  leaveAll(session: Session, options: UnsubscribeOptions = {}): void {
    checkOptions("leave", options, UNSUBSCRIBE);
    const notice = noticeOf(options);
    this.#revoke(session, notice);
    for (const topic of this.topicsOf(session)) this.leave(session, topic, notice);
  }

  /**
   * Encodes a publication, without a check of the options.
   *
   * @ignore
   * @param verb The operation, for errors.
   * @param data See {@linkcode Topics.publish}.
   * @param options See {@linkcode PublishOptions}.
   * @returns The publication, which may be published once.
   * @throws {TypeError} If JSON cannot hold the data, or the topic or `from` is not valid.
   * @throws {RangeError} If the message is too large, or the topic too long.
   */
  encode(
    verb: string,
    topic: string,
    data: unknown,
    { except, from }: PublishOptions,
  ): EncodedPublication {
    checkPublic(topic, verb);
    if (topic.startsWith(STREAM_PREFIX)) {
      throw new TypeError(
        `Cannot ${verb}: the topics of durable streams accept no publications, received "${topic}"`,
      );
    }
    const bounds = this.historyOf(topic);
    const reserved = bounds === undefined ? 0 : MAX_PLACE_BYTES;
    const maxBytes = this.#maxMessageBytes - reserved;
    if (from !== undefined && !isTopic(from)) {
      throw new TypeError(
        `Cannot ${verb}: from must have 1 to ${MAX_TOPIC_BYTES} bytes, received ${describe(from)}`,
      );
    }
    const { frame: payload, size: bytes } = encodeMessage(topic, data, { verb, maxBytes, from });
    const publication = { topic, payload, bytes };
    if (except === undefined) return { publication, bounds };
    return { publication: { ...publication, except: exceptionOf(except) }, bounds };
  }

  /**
   * Publishes to all subscribers on every node, without waiting for delivery. On a topic with a
   * history, `stats` counts the publications that the broker does not accept.
   *
   * @param topic The topic whose subscribers receive the message, of 1 to 255 bytes.
   * @param data Any value that JSON can hold, or a `Uint8Array` for `skein.1` subscribers.
   * @param options See {@linkcode PublishOptions}.
   * @throws {TypeError} If JSON cannot hold the data, or the topic or `from` is not valid.
   * @throws {RangeError} If the message is larger than `maxMessageBytes` or the topic is too long.
   * On a topic with a history, 69 bytes of the message are reserved for the position.
   * @throws {UnsupportedError} If the broker is closed.
   */
  publish(topic: string, data?: unknown, options: PublishOptions = {}): void {
    checkOptions("publish", options, PUBLISH);
    this.publishEncoded(this.encode("publish", topic, data, options));
  }

  /**
   * Publishes an encoded publication, as {@linkcode Topics.publish} does.
   *
   * @ignore
   */
  publishEncoded({ publication, bounds }: EncodedPublication): void {
    this.#agreement?.published();
    if (bounds === undefined) return this.broker.publish(publication);
    if (this.broker.status.current.name === "closed") {
      throw new UnsupportedError("Cannot publish: the broker is closed");
    }
    this.#histories.history!.append(publication, { bounds }).catch((error) => {
      this.#failedPublications++;
      this.#lastFailure = error;
    });
  }

  /**
   * Publishes on a topic with a history, and waits until the broker has stored the publication.
   *
   * @example Usage
   * ```ts
   * import { Topics } from "@skein/skein/pubsub";
   * import { assertEquals } from "@std/assert";
   *
   * await using topics = new Topics({ history: { orders: {} } });
   * const key = "order-7";
   * const first = await topics.append("orders", { tea: 1 }, { key });
   * const again = await topics.append("orders", { tea: 1 }, { key });
   * assertEquals([first.position?.offset, again.position], [1, undefined]);
   * ```
   *
   * @param topic A topic that a pattern of the option `history` matches.
   * @param data See {@linkcode Topics.publish}.
   * @param options See {@linkcode AppendPublicationOptions}.
   * @returns The position of the publication. A repetition has no position. A first append may have
   * none, too, if the broker's first reply was lost: with a key, no position only means that the
   * publication is stored.
   * @throws {BrokerError} If the publication was dropped because the broker was unreachable for too
   * long or too many were waiting. It may have been stored nevertheless; with the same key, you can
   * append it again.
   * @throws {LimitError} If the topic remembers too many keys; `retryAfterMs` says when it forgets
   * the oldest.
   * @throws {UnsupportedError} If the topic has no history.
   * @throws {TypeError} If JSON cannot hold the data, or the topic or the key is not valid.
   * @throws {RangeError} If the message is too large, or the topic or the key too long.
   */
  async append(
    topic: string,
    data?: unknown,
    options: AppendPublicationOptions = {},
  ): Promise<{ readonly position?: HistoryPosition }> {
    checkOptions("append", options, APPEND);
    return await this.appendEncoded(this.encode("append", topic, data, options), options);
  }

  /**
   * Stores an encoded publication, as {@linkcode Topics.append} does.
   *
   * @ignore
   */
  async appendEncoded(
    { publication, bounds }: EncodedPublication,
    { key, publisher, signal }: Pick<AppendPublicationOptions, "key" | "publisher" | "signal"> = {},
  ): Promise<{ readonly position?: HistoryPosition }> {
    if (bounds === undefined) {
      throw new UnsupportedError(
        `Cannot append: the topic "${publication.topic}" has no history`,
      );
    }
    signal?.throwIfAborted();
    this.#agreement?.published();
    const appending = this.#histories.history!.append(publication, { bounds, key, publisher });
    return await waitFor(this.#runtime, appending, { what: "reply from the broker", signal });
  }

  /**
   * Reads the publications that the broker keeps for a topic with a history, oldest first, up to
   * the newest publication at the time of the call. The history is read page by page while the loop
   * runs.
   *
   * @example Usage
   * ```ts
   * import { Topics } from "@skein/skein/pubsub";
   * import { assertEquals } from "@std/assert";
   *
   * await using topics = new Topics({ history: { orders: {} } });
   * for (const order of ["tea", "bread"]) await topics.append("orders", order);
   * const { data, position } = (await Array.fromAsync(topics.read("orders", { after: 1 })))[0]!;
   * assertEquals([data, position.offset], ["bread", 2]);
   * ```
   *
   * @param topic A topic that a pattern of the option `history` matches.
   * @param options `after` is the offset after which to start; by default, the loop starts with the
   * oldest publication. `signal` ends the wait for the broker.
   * @returns The publications, each with its data and position, and with the publisher if named.
   * @throws {BrokerError} If the broker is unreachable.
   * @throws {UnsupportedError} If the topic has no history.
   */
  async *read(
    topic: string,
    read: { readonly after?: number | undefined; readonly signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<
    { readonly data: unknown; readonly from?: string; readonly position: HistoryPosition },
    void,
    undefined
  > {
    checkOptions("read history", read, READ);
    const { after, signal } = read;
    const bounds = this.historyOf(topic);
    if (bounds === undefined) {
      throw new UnsupportedError(`Cannot read: the topic "${topic}" has no history`);
    }
    const options = { after, signal };
    for await (const publication of this.#histories.read(topic, bounds, options)) {
      const { epoch, offset, tag } = publication.position!;
      const { data, from } = contentOf(publication);
      // Applications print and compare these, so an unknown publisher or tag has no key.
      const position = withoutUndefined({ epoch, offset, tag });
      yield { data, ...withoutUndefined({ from }), position };
    }
  }

  /**
   * Returns the position of the newest publication on a topic with a history. Read the position
   * before you load the state that the topic's messages change. A client that subscribes with the
   * position as `since` then misses none of them, however long loading takes. The client also
   * receives messages that were published while you were loading, so applying a message twice must
   * change nothing.
   *
   * @example Load state, then follow the changes
   * ```ts
   * import { testServer } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * const tasks = new Set(["write"]); // Stands for a database.
   * await using server = testServer({ history: { tasks: {} }, authorize: () => true });
   * await using client = server.connect();
   * const since = await server.topics.position("tasks"); // First the position,
   * const loaded = [...tasks]; // then the state.
   * server.publish("tasks", "publish"); // Before the client subscribes.
   * for await (const { data } of client.subscribe("tasks", { since })) {
   *   assertEquals([...loaded, data], ["write", "publish"]);
   *   break;
   * }
   * ```
   *
   * @param topic A topic that a pattern of the option `history` matches.
   * @param options `signal` ends the wait for the broker.
   * @returns The position. If there is no publication yet, it is the position before the first one.
   * @throws {BrokerError} If the broker is unreachable.
   * @throws {UnsupportedError} If the topic has no history.
   */
  async position(
    topic: string,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<HistoryPosition> {
    checkOptions("read position", options, POSITION);
    const bounds = this.historyOf(topic);
    if (bounds === undefined) {
      throw new UnsupportedError(`Cannot read position: the topic "${topic}" has no history`);
    }
    return await this.#histories.position(topic, bounds, options);
  }

  /**
   * Lists the subscribers of a topic on this node.
   *
   * @param topic The name of the topic; a pattern lists nothing.
   * @returns The sessions, in the order of subscribing.
   */
  subscribers(topic: string): Session[] {
    const { feed, subscribers } = this.#openTopics.get(topic) ?? {};
    return [...feed?.sessions() ?? subscribers?.members() ?? []];
  }

  /**
   * Lists the topics with subscribers on this node, for an inspector.
   *
   * @ignore
   * @returns Each topic with its subscribers, the publications so far, and its newest position if
   * the topic has a history.
   */
  *list(): Generator<{
    readonly topic: string;
    readonly subscribers: number;
    readonly publications: number;
    readonly position: Pick<HistoryPosition, "offset"> & { readonly epoch?: string } | undefined;
  }> {
    for (const [topic, { feed, subscribers }] of this.#openTopics) {
      if (feed === undefined) {
        const { size, sent } = subscribers;
        yield { topic, subscribers: size, publications: sent, position: undefined };
        continue;
      }
      const { publications = 0, epoch, offset = 0 } = feed.followed ?? {};
      const position = feed.followed && { epoch, offset };
      yield { topic, subscribers: feed.size, publications, position };
    }
  }

  /**
   * Returns true if a session is subscribed to a topic.
   *
   * @param session Any session.
   * @param topic The name of the topic, not a pattern.
   * @returns True if subscribed.
   */
  has(session: Session, topic: string): boolean {
    return this.#membershipOf(session, topic) !== undefined;
  }

  /**
   * Lists the topics of a session.
   *
   * @param session Any session.
   * @returns The topics, in the order of subscribing.
   */
  topicsOf(session: Session): string[] {
    return [...this.#subscribers.get(session)?.topics.keys() ?? []];
  }

  /**
   * Records that a session's client has sent an id. From then on, publications that exclude the
   * client exclude this session, even if an earlier session of the client subscribes to its first
   * topic later.
   *
   * @ignore
   * @param session Any session.
   */
  introduced(session: Session): void {
    const subscriber = this.#subscribers.get(session);
    if (subscriber === undefined) this.#remember(session);
    else this.#index(session, subscriber);
  }

  /**
   * Lists the topics that a session's client requested, and that the application did not subscribe
   * it to. These subscriptions depend on the client's permissions.
   *
   * @param session Any session.
   * @returns The topics, in the order of subscribing.
   */
  requestedBy(session: Session): string[] {
    return [...this.#subscribers.get(session)?.topics ?? []]
      .filter(([, { isRequested }]) => isRequested).map(([topic]) => topic);
  }

  /** Unsubscribes all sessions, and closes the broker unless it was passed in. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#subscribers.keys()) this.#leaveAll(session);
    if (this.#ownsBroker) await this.broker.close();
  }

  #open(topic: string): OpenTopic {
    let open = this.#openTopics.get(topic);
    if (open === undefined) {
      open = topic.startsWith(STREAM_PREFIX) ? this.#stream(topic) : this.#follow(topic);
      this.#openTopics.set(topic, open);
    }
    return open;
  }

  #stream(topic: string): OpenTopic {
    const feed = this.#openStream?.(topic);
    if (feed !== undefined) return { feed, close() {} };
    throw new TypeError(`Cannot subscribe: there are no durable streams, received "${topic}"`);
  }

  #follow(topic: string): OpenTopic {
    if (this.historyOf(topic) !== undefined) {
      const feed = this.#histories.open(topic);
      return { feed, close: () => this.#histories.close(feed) };
    }
    const subscribers = new Broadcast<Session>(this.#flusher);
    const onInterrupted = () => tellInterrupted(topic, subscribers.members());
    const others = new OtherKinds(this.broker, topic, undefined, {
      onPublication: (publication) => this.#deliver(subscribers, publication),
      onInterrupted,
    });
    const ready = others.update(this.#histories.historiesOf(topic));
    const held = heldBy(this.held, ready);
    const confirmation = new Confirmation(this.#runtime, topic, held);
    const asked = this.#runtime.monotonic();
    const subscription = this.broker.subscribe(
      topic,
      (publication) => {
        // Proves that the broker has subscribed this node, so sessions receive their reply first.
        confirmation.give();
        this.#deliver(subscribers, publication);
      },
      { onInterrupted },
    );
    void subscription.ready.then(() => {
      if (this.#runtime.monotonic() - asked >= LATE_MS) {
        const isWaiting = (session: Session) => this.#membershipOf(session, topic)?.isUnanswered;
        tellInterrupted(topic, [...subscribers.members()].filter((session) => !isWaiting(session)));
      }
      confirmation.give();
    });
    return { subscribers, confirmation, subscription, others };
  }

  #membershipOf(session: Session, topic: string): Membership | undefined {
    return this.#subscribers.get(session)?.topics.get(topic);
  }

  #leaveAll(session: Session): void {
    for (const topic of this.topicsOf(session)) this.#remove(session, topic);
  }

  /** Revokes decisions about a session, and about later sessions to which its client is moving. */
  #revoke(session: Session, notice: Required<UnsubscribeOptions>, topic?: string): boolean {
    const revoked = [session, ...sessionsAfter(session)]
      .map((one) => this.decisions.revoke(one, notice, topic));
    return revoked.includes(true);
  }

  #remove(session: Session, topic: string): void {
    const topics = this.#subscribers.get(session)?.topics;
    const membership = topics?.get(topic);
    topics?.delete(topic);
    membership?.end();
    const open = this.#openTopics.get(topic);
    if (open === undefined) return;
    const sessions = open.feed ?? open.subscribers;
    sessions.delete(session);
    if (sessions.size > 0) return;
    this.#openTopics.delete(topic);
    if (open.feed !== undefined) open.close();
    else {
      open.confirmation.close();
      open.others.close();
      void open.subscription[Symbol.asyncDispose]();
    }
  }

  #deliver(subscribers: Broadcast<Session>, publication: Publication): void {
    const { topic, payload: frame, except } = publication;
    const message = { frame, size: payloadBytes(publication), topic };
    if (except === undefined) return subscribers.send(message);
    const newest = this.#byId.get(except);
    // A client that moves has the topic in one of its sessions.
    const before = newest && sessionsBefore(newest).find((session) => subscribers.has(session));
    subscribers.send(message, before ?? newest);
  }

  #remember(session: Session): Subscriber {
    const subscriber: Subscriber = { ids: [], topics: new Map() };
    this.#subscribers.set(session, subscriber);
    this.#index(session, subscriber);
    session[internals].whenEnded(this.#onEnd);
    return subscriber;
  }

  /**
   * Maps a client's id to the session that sent it last. An earlier session is no longer found by
   * the id.
   */
  #index(session: Session, { ids }: Subscriber): void {
    const id = exceptionOf(session);
    ids.push(id);
    // On a slow connection, the earlier session's id may arrive after a move.
    const known = this.#byId.get(id);
    if (known !== undefined && sessionsAfter(session).some((later) => later === known)) return;
    this.#byId.set(id, session);
  }

  #forget(session: Session): void {
    const { ids } = this.#subscribers.get(session)!;
    this.#leaveAll(session);
    this.#subscribers.delete(session);
    for (const id of ids) {
      if (this.#byId.get(id) !== session) continue;
      // If a client's new session ends in the middle of a move, the client still has the earlier
      // one.
      const earlier = sessionsBefore(session).find((one) =>
        this.#subscribers.get(one)?.ids.includes(id)
      );
      if (earlier === undefined) this.#byId.delete(id);
      else this.#byId.set(id, earlier);
    }
  }
}

/**
 * Checks that a topic is not internal, because sessions and applications cannot use internal
 * topics.
 */
function checkPublic(topic: string, verb: string): void {
  if (typeof topic !== "string" || !topic.startsWith(INTERNAL_PREFIX)) return;
  throw new TypeError(
    `Cannot ${verb}: a topic must not start with "${INTERNAL_PREFIX}", received "${topic}"`,
  );
}

/** Completes the code and the reason of an end for the client. */
function noticeOf({ code = "removed", reason = "" }: UnsubscribeOptions): Required<
  UnsubscribeOptions
> {
  if (!isName(code)) {
    throw new TypeError(
      `Cannot unsubscribe: code must have 1 to ${MAX_NAME_LENGTH} characters, received "${code}"`,
    );
  }
  return { code, reason: cutReason(reason, MAX_REASON_BYTES) };
}

/** The reply for a topic without a history. */
function plainReply(isRecovery: boolean, error: BrokerError | undefined): SubscribeReply {
  if (isRecovery) return { recovered: false, reason: "no-history" };
  return error === undefined ? {} : { reason: "unavailable" };
}

/**
 * Reports a gap of unknown size to sessions, for a topic without a history. Plain sessions receive
 * no notice.
 */
function tellInterrupted(topic: string, sessions: Iterable<Session>): void {
  for (const session of [...sessions]) {
    const core = session[internals];
    if (core.joins) core.sending.post({ gap: topic, reason: "interrupted" });
  }
}
