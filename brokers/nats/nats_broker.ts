/** The broker of nodes that share a NATS server or a cluster. */
import { outside } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
import type { StatusFeed } from "../../base/status_feed.ts";
import type {
  BrokerHistory,
  BrokerStats,
  BrokerStatus,
  BrokerStore,
  BrokerSubscribeOptions,
  BrokerSubscription,
  Publication,
} from "../../pubsub/broker.ts";
import { TopicSubscription } from "./topic_subscription.ts";
import { DEFAULT_MAX_PAYLOAD, encode, NatsNames } from "./format.ts";
import { NatsHistory } from "./history.ts";
import { textOf } from "../../base/error_text.ts";
import { type LinkTarget, NatsLink } from "./link.ts";
import {
  checkSource,
  type NatsBrokerOptions,
  type NatsSettings,
  natsSettings,
  type NatsSource,
  sharedSettings,
} from "./options.ts";
import { NatsPublishQueue } from "./publish_queue.ts";
import { BrokerLife } from "../../pubsub/broker/life.ts";
import { ListenerTable } from "../../pubsub/broker/listeners.ts";
import { BrokerOutbox } from "../../pubsub/broker/queue.ts";
import { NatsStore } from "./store.ts";
import { VersionMark } from "./version.ts";
import type { NatsLogs } from "./logs/nats_logs.ts";
import { Damages } from "../../pubsub/broker/damage.ts";
import { lateLogs } from "../../streams/logs/late_logs.ts";
import type { BrokerLogs, LogBroker } from "../../streams/logs/log.ts";
import { announcedLog } from "../../streams/logs/log_names.ts";

/** Time limit for sending waiting publications to NATS when closing, in milliseconds. */
const FLUSH_TIMEOUT_MS = 1_000;

/** Skein's default limit for a message, plus room for the bytes before it. */
const LARGEST_MESSAGE_BYTES = 262_144 + 4_096;

/**
 * Carries publications through NATS 2.9 or later. Histories, logs and the store need JetStream.
 *
 * - **Fan-out:** a node subscribes to the topics that have listeners on it.
 * - **Delivery:** without a history, publications are delivered at most once. With a history, each
 *   acknowledged publication has an offset, is stored only once even if it is sent again, and can
 *   be read again. The epoch changes whenever the server that stores the stream is restarted.
 * - **Outages:** neither `publish` nor `subscribe` throws. A bounded number of publications wait;
 *   they are sent in order once NATS is reachable, and dropped after `giveUpMs`. Subscriptions
 *   resume automatically, and `onInterrupted` reports the interruption.
 * - **Names:** a call is rejected if its topic or key takes more than 2,048 characters in a subject
 *   ({@linkcode escapeTopic}). Without this check, a line could exceed 4,096 bytes, and the server
 *   would close the connection of the whole node.
 *
 * @example Two nodes
 * ```ts ignore
 * import { serve } from "@skein/skein";
 * import { NatsBroker } from "@skein/skein/nats";
 *
 * await using broker = new NatsBroker({ servers: "127.0.0.1:4222" });
 * await using server = serve({ port: 8080, broker });
 * ```
 */
export class NatsBroker implements LogBroker {
  /** Always `nats`. */
  readonly name = "nats";
  /** Without a history, a publication reaches only the current subscribers. */
  readonly delivery = "at-most-once";
  /** Options that all nodes should share. */
  readonly shared: Readonly<Record<string, string>>;
  /** State of the connection to NATS. */
  readonly status: StatusFeed<BrokerStatus>;
  /** Keeps publications in streams of JetStream. */
  readonly history: BrokerHistory;
  /** Keeps the logs of durable streams in one stream of JetStream. */
  readonly logs: BrokerLogs;
  /**
   * State shared by all nodes with the same prefix. There are no token buckets, because they would
   * be too slow.
   */
  readonly store: BrokerStore;
  readonly #settings: NatsSettings;
  readonly #names: NatsNames;
  readonly #link: NatsLink;
  readonly #outbox: BrokerOutbox;
  readonly #queue: NatsPublishQueue;
  readonly #history: NatsHistory;
  readonly #damages = new Damages();
  /** Present once logs were used. */
  #logs: NatsLogs | undefined;
  readonly #life: BrokerLife;
  readonly #subscriptions = new ListenerTable<TopicSubscription>({
    onLast: (subscription) => subscription.clear(),
  });

  /**
   * Connects in the background. Publications wait in the meantime.
   *
   * @param source The address of NATS.
   * @param options See {@linkcode NatsBrokerOptions}.
   * @throws {TypeError} If a key of `options` is unknown, if `source` has neither `servers` nor a
   * `connection`, if `prefix` has a character that is not allowed, or if `storage` is neither
   * `"file"` nor `"memory"`.
   * @throws {RangeError} If a number is out of its range.
   */
  constructor(source: NatsSource, options: NatsBrokerOptions = {}) {
    const settings = natsSettings(options);
    const target = checkSource(source);
    const names = new NatsNames(settings.prefix);
    const life = new BrokerLife(settings.runtime, { broker: "NATS" });
    // The broker's own types cover only some of the client library's options.
    const mark = new VersionMark(names, settings);
    const link = new NatsLink({ runtime: settings.runtime, life, mark }, target as LinkTarget, {
      up: (isAgain) => this.#up(isAgain),
      down: () => this.#down(),
    });
    const outbox = new BrokerOutbox({ ...settings, broker: "NATS" });
    this.#settings = settings;
    this.#names = names;
    this.#life = life;
    this.#link = link;
    this.#outbox = outbox;
    this.#queue = new NatsPublishQueue(link, outbox);
    this.#history = new NatsHistory({ link, names, outbox, settings });
    this.status = life.status;
    this.shared = sharedSettings(settings);
    this.history = this.#history;
    this.logs = lateLogs({
      keepsRows: true,
      // Records of this size fit into a message, however many there are.
      get maxAppendBytes() {
        return Math.floor((link.connection?.info?.max_payload ?? DEFAULT_MAX_PAYLOAD) / 2);
      },
    }, async () => {
      const { NatsLogs } = await outside(settings.runtime, import("./logs/nats_logs.ts"));
      return this.#logs = new NatsLogs(link, names, settings, outbox.budget);
    }, this.#damages);
    this.store = new NatsStore(link, names, settings);
  }

  /** Counters. */
  get stats(): BrokerStats {
    const { dropped, budget } = this.#outbox;
    return { ...this.#life.counts, waiting: budget.messages, dropped, ignored: this.#life.ignored };
  }

  /** Describes the current problems. */
  issues(): string[] {
    const { name } = this.status.current;
    if (name === "closed") return [];
    const { maxWaiting } = this.#settings;
    const issues = this.#life.issues({ waiting: this.#outbox.budget.messages, maxWaiting });
    const { lastError } = this.#life;
    if (name === "connected") {
      if (lastError !== undefined) issues.push(`NATS rejected a request: ${textOf(lastError)}`);
      issues.push(...this.#lacks());
    }
    issues.push(
      ...this.#history.issues(),
      ...this.#logs?.issues() ?? [],
      ...this.#damages.issues(),
      ...this.#link.clock.issues(),
      ...this.#link.rates.issues(),
    );
    if (this.#queue.rejection !== undefined) {
      issues.push(`NATS rejected a publication: ${textOf(this.#queue.rejection)}`);
    }
    return issues;
  }

  /**
   * Publishes to every node. While NATS is unreachable, the publication waits.
   *
   * @param publication The topic and the encoded message.
   * @throws {UnsupportedError} If the broker is closed.
   * @throws {RangeError} If the topic has more than 2,048 characters as a part of a subject.
   */
  publish(publication: Publication): void {
    this.#life.checkOpen("publish");
    const subject = this.#names.plain(publication.topic);
    this.#life.published++;
    this.#queue.publish(subject, encode(publication));
  }

  /**
   * Subscribes to a topic.
   *
   * @param topic The name of the topic; it is never a pattern.
   * @param listener Called with each publication.
   * @param options The bounds of a history and a callback for interruptions.
   * @returns The subscription, which is in force once its `ready` resolves.
   * @throws {UnsupportedError} If the broker is closed.
   * @throws {RangeError} If the topic has more than 2,048 characters as a part of a subject.
   */
  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    this.#life.checkOpen("subscribe");
    // The new subscriber must not receive publications from before this call.
    this.#queue.send();
    const { history } = options;
    return history === undefined
      ? this.#subscriptions.subscribe(topic, listener, {
        ...options,
        make: () => this.#topic(topic),
      })
      : this.#history.subscribe(topic, listener, { ...options, history });
  }

  /**
   * Ends all subscriptions, and closes the connection unless the application opened it. Waiting
   * publications are given a second to reach NATS. Idempotent.
   */
  close(): Promise<void> {
    return this.#life.close(() => this.#close());
  }

  /** Closes the broker; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#subscriptions.clear();
    this.#history.end();
    if (this.#link.isUp) {
      const sent = Promise.all([this.#queue.idle(), this.#outbox.empty(), this.#logs?.idle()]);
      await settlesWithin(this.#link.runtime, sent, FLUSH_TIMEOUT_MS);
    }
    this.#history.close();
    this.#outbox.close();
    await this.#link.close();
  }

  #up(isAgain: boolean): void {
    // A server without JetStream stores nothing, and other failures concern the calls that follow.
    this.#link.readMark({ isStart: !isAgain }).catch(() => {});
    this.#queue.resume();
    this.#history.up();
    if (!isAgain) return;
    for (const subscription of this.#subscriptions.all()) subscription.reopened();
  }

  #down(): void {
    for (const subscription of this.#subscriptions.all()) subscription.shut();
    this.#history.down();
  }

  #topic(topic: string): TopicSubscription {
    const log = announcedLog(topic);
    const subject = log === undefined ? this.#names.plain(topic) : this.#names.changes(log);
    const announces = log === undefined
      ? undefined
      : (payload: string | Uint8Array) => this.#logs?.hear(log, payload);
    return new TopicSubscription({ link: this.#link, topic, subject, announces });
  }

  /** Describes the limits of the servers that affect Skein. Others may store the data. */
  #lacks(): string[] {
    const info = this.#link.connection?.info;
    if (info === undefined) return [];
    const { isServed, isClustered } = this.#link.mark.host;
    const lacks: string[] = [];
    if (!info.jetstream && isServed === false) {
      lacks.push("The server has no JetStream: topics with a history, logs and the store need it");
    }
    if (info.max_payload < LARGEST_MESSAGE_BYTES) {
      lacks.push(
        `The server accepts at most ${info.max_payload} bytes per message: larger ones are dropped`,
      );
    }
    if (isClustered && this.#settings.replicas < 3) {
      lacks.push(
        "Histories in a cluster need three replicas: otherwise the restart of a server goes unnoticed",
      );
    }
    return lacks;
  }
}
