/**
 * Topics: who gets what is published, on this node.
 *
 * @module
 */
import { QueueFullError } from "../errors.ts";
import { Broadcast } from "../session/broadcast.ts";
import { encodeMessage, framed, MAX_MESSAGE_BYTES } from "../session/encoded.ts";
import { MAX_TOPIC_BYTES } from "../session/envelope.ts";
import { coreOf, type Session } from "../session/session.ts";
import { checkTopic } from "../session/topic_pattern.ts";
import { Turn } from "../session/turn.ts";
import type { Broker, BrokerSubscription, Publication } from "./broker.ts";
import { MemoryBroker } from "./memory_broker.ts";

/** Options for {@linkcode Topics}. */
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
}

/** Options for publishing. */
export interface PublishOptions {
  /** A session that does not get it. */
  readonly except?: Session | undefined;
}

interface Channel {
  readonly members: Broadcast;
  readonly subscription: BrokerSubscription;
}

interface Subscriber {
  /** Its id when it came; a client's session gets another by its server's hello. */
  readonly id: string;
  readonly topics: Set<string>;
}

/**
 * Topics and their subscribers.
 *
 * - **Once:** a publication is encoded once, for the broker and for all sockets.
 * - **Order:** subscribers get publications in order, each once.
 * - **Members:** who subscribes gets nothing that was published before, not even
 *   in the same turn; who leaves gets all that was.
 * - **Close:** a session that closes leaves everything; subscribing one that is
 *   closed does nothing.
 * - **Cost:** a topic without subscribers here costs nothing and is not
 *   subscribed at the broker.
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
  readonly #channels = new Map<string, Channel>();
  readonly #subscribers = new Map<Session, Subscriber>();
  readonly #byId = new Map<string, Session>();
  readonly #onEnd = (session: Session) => this.#forget(session);

  /**
   * Creates topics without subscribers.
   *
   * @param options See {@linkcode TopicsOptions}.
   * @throws {RangeError} If a limit is not a positive integer, or `maxTopicBytes` above 255.
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
  }

  /** How many topics have subscribers on this node. */
  get size(): number {
    return this.#channels.size;
  }

  /**
   * Subscribes a session. Idempotent; a closed session is left out.
   *
   * @param session A session of the same turn.
   * @param topic The topic.
   * @returns Whether the session was not subscribed before, and is now.
   * @throws {TypeError} If the topic is no topic.
   * @throws {RangeError} If the topic is longer than `maxTopicBytes`.
   * @throws {QueueFullError} If the session has `maxTopicsPerSession` topics already.
   * @throws {UnsupportedError} If the session's connection carries no messages, or the
   * broker is closed.
   */
  subscribe(session: Session, topic: string): boolean {
    checkTopic(topic, "subscribe", this.maxTopicBytes);
    if (session.isClosed) return false;
    const known = this.#subscribers.get(session);
    if (known?.topics.has(topic)) return false;
    if (known !== undefined && known.topics.size >= this.#maxTopics) {
      throw new QueueFullError(
        `Cannot subscribe: a session has at most ${this.#maxTopics} topics`,
      );
    }
    // What can fail comes first, so that a failure leaves nothing behind.
    coreOf(session).messages("subscribe");
    this.#open(topic).members.add(session);
    (known ?? this.#remember(session)).topics.add(topic);
    return true;
  }

  /**
   * Takes a session off a topic; what was published before still reaches it. Idempotent.
   *
   * @param session Any session.
   * @param topic The topic.
   * @returns Whether the session was subscribed.
   */
  unsubscribe(session: Session, topic: string): boolean {
    if (!this.#subscribers.get(session)?.topics.delete(topic)) return false;
    this.#leave(session, topic);
    return true;
  }

  /**
   * Takes a session off all its topics.
   *
   * @param session Any session.
   */
  leaveAll(session: Session): void {
    const topics = this.#subscribers.get(session)?.topics;
    if (topics === undefined) return;
    for (const topic of topics) this.#leave(session, topic);
    topics.clear();
  }

  /**
   * Publishes to all subscribers, on every node. Does not wait for anybody.
   *
   * @param topic The topic.
   * @param data Any value that JSON can hold, or a `Uint8Array` for `skein.1` subscribers.
   * @param options A session that does not get it.
   * @throws {TypeError} If JSON can not hold the data, or the topic is no topic.
   * @throws {RangeError} If the message is larger than `maxMessageBytes`, or the topic too long.
   * @throws {UnsupportedError} If the broker is closed.
   */
  publish(topic: string, data?: unknown, options: PublishOptions = {}): void {
    const { frame } = encodeMessage(topic, data, {
      verb: "publish",
      maxBytes: this.#maxMessageBytes,
    });
    const { except } = options;
    this.broker.publish(
      except === undefined
        ? { topic, payload: frame }
        : { topic, payload: frame, except: except.id },
    );
  }

  /**
   * Lists the subscribers of a topic on this node.
   *
   * @param topic The topic.
   * @returns The sessions, in the order in which they came.
   */
  subscribers(topic: string): Session[] {
    return [...this.#channels.get(topic)?.members.members() ?? []];
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
    return [...this.#subscribers.get(session)?.topics ?? []];
  }

  /** Takes everybody off everything, and closes the broker unless it was handed in. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#subscribers.keys()) this.leaveAll(session);
    if (this.#ownsBroker) await this.broker.close();
  }

  #open(topic: string): Channel {
    let channel = this.#channels.get(topic);
    if (channel === undefined) {
      const members = new Broadcast(this.#turn);
      const subscription = this.broker.subscribe(
        topic,
        (publication) => this.#deliver(members, publication),
      );
      channel = { members, subscription };
      this.#channels.set(topic, channel);
    }
    return channel;
  }

  #leave(session: Session, topic: string): void {
    const channel = this.#channels.get(topic);
    if (channel === undefined) return;
    channel.members.delete(session);
    if (channel.members.size > 0) return;
    this.#channels.delete(topic);
    void channel.subscription[Symbol.asyncDispose]();
  }

  #deliver(members: Broadcast, { topic, payload, except }: Publication): void {
    const message = framed(payload, topic);
    if (except === undefined) return members.send(message);
    members.send(message, this.#byId.get(except));
  }

  #remember(session: Session): Subscriber {
    const subscriber: Subscriber = { id: session.id, topics: new Set() };
    this.#subscribers.set(session, subscriber);
    this.#byId.set(subscriber.id, session);
    coreOf(session).whenEnded(this.#onEnd);
    return subscriber;
  }

  #forget(session: Session): void {
    const { id } = this.#subscribers.get(session)!;
    this.leaveAll(session);
    this.#subscribers.delete(session);
    if (this.#byId.get(id) === session) this.#byId.delete(id);
  }
}

function checkLimit(name: string, value: number, most = Infinity): number {
  if (Number.isInteger(value) && value >= 1 && value <= most) return value;
  const rule = most === Infinity ? "a positive integer" : `an integer from 1 to ${most}`;
  throw new RangeError(`Cannot create topics: ${name} must be ${rule}, received ${value}`);
}
