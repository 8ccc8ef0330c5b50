/** Topics with a history: their streams, and the subscriptions that follow them. */
import { BrokerError } from "../../errors.ts";
import { waitFor } from "../../base/wait.ts";
import type {
  Appended,
  AppendOptions,
  BrokerHistory,
  BrokerSubscribeOptions,
  BrokerSubscription,
  HistoryPage,
  Publication,
  PublicationKey,
  PublicationListener,
  ReadHistoryOptions,
  TopicHistory,
} from "../../pubsub/broker.ts";
import { MAX_TOPIC_KEYS } from "../../pubsub/broker/keys.ts";
import { KeyPlaces } from "./key_places.ts";
import { AppendQueue } from "./publish_queue.ts";
import { TopicSubscription } from "./topic_subscription.ts";
import { encode, escapeTopic, type NatsNames, subjectPart } from "./format.ts";
import { type NatsLink, REQUEST_TIMEOUT_MS } from "./link.ts";
import { replyText } from "./limits.ts";
import { HistoryStream, StreamRejection } from "./stream.ts";
import type { NatsSettings } from "./options.ts";
import { DEFAULT_SHARDS, shardOf } from "./shards.ts";
import { ListenerTable } from "../../pubsub/broker/listeners.ts";
import type { BrokerOutbox } from "../../pubsub/broker/queue.ts";
import { readPage } from "./history_reader.ts";

/** The stream of one pattern, or of a shard of it, and the subscriptions to its topics. */
interface OpenHistory {
  readonly stream: HistoryStream;
  readonly appends: AppendQueue;
  readonly subscriptions: ListenerTable<TopicSubscription>;
  /** True if this node has appended or read; false if it only receives what others publish. */
  isUsed: boolean;
}

interface NatsHistoryOptions {
  readonly link: NatsLink;
  readonly names: NatsNames;
  readonly outbox: BrokerOutbox;
  readonly settings: NatsSettings;
}

/** The histories of one broker, with one or several streams for each pattern of topics. */
export class NatsHistory implements BrokerHistory {
  /** Each pattern has its own streams. */
  readonly separates = true;
  /** Maximum number of texts that a topic remembers, of those that this node appends. */
  readonly maxKeys = MAX_TOPIC_KEYS;
  readonly #options: NatsHistoryOptions;
  readonly #streams = new Map<string, OpenHistory>();
  /** Producer of publications without a key. */
  readonly #producer: string;
  #number = 0;
  readonly #places = new KeyPlaces();

  constructor(options: NatsHistoryOptions) {
    this.#options = options;
    this.#producer = options.link.runtime.randomUUID();
  }

  issues(): string[] {
    return [...this.#streams.values()].flatMap(({ stream }) =>
      // The broker's lifecycle describes limits.
      stream.epoch !== undefined || stream.problem === undefined || stream.rejection?.isLimit
        ? []
        : [`The stream ${stream.names.stream} is not available: ${replyText(stream.problem)}`]
    );
  }

  /** Called when the server is reachable. */
  up(): void {
    for (const { stream } of this.#streams.values()) stream.open();
  }

  /** Called when the connection is lost. */
  down(): void {
    for (const { stream, appends, subscriptions } of this.#streams.values()) {
      stream.shut();
      appends.suspend();
      for (const subscription of subscriptions.all()) subscription.shut();
    }
  }

  /** Ends all subscriptions; accepted publications are still sent. */
  end(): void {
    for (const { subscriptions } of this.#streams.values()) subscriptions.clear();
  }

  close(): void {
    for (const { stream, appends } of this.#streams.values()) {
      stream.close();
      appends.close();
    }
  }

  /** Subscribes to a topic; see `Broker.subscribe`. */
  subscribe(
    topic: string,
    listener: PublicationListener,
    { history, ...options }: BrokerSubscribeOptions & { readonly history: TopicHistory },
  ): BrokerSubscription {
    const subject = subjectPart(topic);
    const { link } = this.#options;
    const { stream, subscriptions } = this.#open(topic, history);
    return subscriptions.subscribe(topic, listener, {
      ...options,
      make: () =>
        new TopicSubscription({ link, topic, subject: `${stream.names.live}.${subject}`, stream }),
    });
  }

  async append(publication: Publication, { bounds, key }: AppendOptions): Promise<Appended> {
    const { life } = this.#options.link;
    life.checkCall("append");
    const topic = subjectPart(publication.topic);
    const { stream, appends } = this.#use(publication.topic, bounds);
    stream.touch();
    const subject = `${stream.names.log}.${topic}`;
    const id = key === undefined ? `${this.#producer}:${this.#number++}` : `${topic}:${idOf(key)}`;
    let release: (() => void) | undefined;
    try {
      if (typeof key === "string") {
        release = this.#places.take(publication.topic, this.#options.link.runtime.monotonic());
      }
    } catch (error) {
      // A repetition needs no place.
      if (await appends.isStored(subject, id)) return {};
      throw error;
    }
    life.published++;
    let appended: Appended = {};
    try {
      return appended = await appends.add(subject, encode(publication), id, key !== undefined);
    } finally {
      if (appended.position === undefined) release?.();
    }
  }

  async read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage> {
    this.#options.link.life.checkCall("read history");
    const part = subjectPart(topic);
    const { link } = this.#options;
    const { bounds, signal } = options;
    const { stream, subscriptions } = this.#use(topic, bounds);
    signal?.throwIfAborted();
    try {
      await link.reach(signal);
      const what = `usable stream ${stream.names.stream}`;
      await waitFor(link.runtime, stream.usable(), {
        what,
        timeoutMs: REQUEST_TIMEOUT_MS,
        signal,
      });
      stream.touch();
      link.life.reads++;
      const subject = `${stream.names.log}.${part}`;
      const knownHead = subscriptions.get(topic)?.knownHead;
      return await readPage({ link, stream, topic, subject, knownHead }, options);
    } catch (cause) {
      signal?.throwIfAborted();
      const isForeign = !(cause instanceof BrokerError) || cause instanceof StreamRejection;
      if (!isForeign) throw cause;
      const reason = cause instanceof StreamRejection
        ? cause
        : stream.epoch === undefined
        ? stream.problem ?? cause
        : cause;
      throw new BrokerError(`Cannot read history: ${replyText(reason)}`, { cause: reason });
    }
  }

  #use(topic: string, history: TopicHistory): OpenHistory {
    const open = this.#open(topic, history);
    open.isUsed = true;
    return open;
  }

  #open(topic: string, history: TopicHistory): OpenHistory {
    const { link, names, outbox, settings } = this.#options;
    const { histories: count = DEFAULT_SHARDS.histories } = settings.shards;
    const streamNames = names.stream(history, shardOf(topic, count), count);
    let open = this.#streams.get(streamNames.stream);
    if (open !== undefined) {
      open.stream.adapt(history);
      return open;
    }
    const subscriptions = new ListenerTable<TopicSubscription>({
      onLast: (subscription) => {
        subscription.clear();
        this.#leave(streamNames.stream);
      },
    });
    const stream = new HistoryStream(link, streamNames, history, settings, {
      opened: () => {
        appends.resume();
        for (const subscription of subscriptions.all()) subscription.reopened();
      },
      rejected: (rejection) => appends.rejectAll(rejection.message, rejection),
    });
    const appends = new AppendQueue(link, stream, outbox);
    open = { stream, appends, subscriptions, isUsed: false };
    this.#streams.set(streamNames.stream, open);
    stream.open();
    return open;
  }

  /** Leaves a stream that only other nodes use, for example since a deploy has ended. */
  #leave(name: string): void {
    const { stream, appends, subscriptions, isUsed } = this.#streams.get(name)!;
    if (isUsed || subscriptions.all().length > 0) return;
    this.#streams.delete(name);
    stream.close();
    appends.close();
  }
}

/** Part of a message id. Escaped texts contain no colon, so a text is never taken for a number. */
function idOf(key: PublicationKey): string {
  return typeof key === "string" ? escapeTopic(key) : `${escapeTopic(key.producer)}:${key.number}`;
}
