/** The broker of nodes that share a Redis. */
import { abortable } from "@std/async/abortable";
import { Buffer } from "node:buffer";
import type { Cluster, Redis } from "ioredis";
import { BrokerError } from "../../errors.ts";
import type { StatusFeed } from "../../base/status_feed.ts";
import { textOf } from "../../base/error_text.ts";
import { outside } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
import type {
  Appended,
  AppendOptions,
  BrokerHistory,
  BrokerStats,
  BrokerStatus,
  BrokerStore,
  BrokerSubscribeOptions,
  BrokerSubscription,
  HistoryPage,
  Publication,
  ReadHistoryOptions,
} from "../../pubsub/broker.ts";
import { DamageError, Damages } from "../../pubsub/broker/damage.ts";
import { BrokerLife } from "../../pubsub/broker/life.ts";
import { Listeners, ListenerTable } from "../../pubsub/broker/listeners.ts";
import { checkWellFormed, MAX_TOPIC_KEYS, nameOfKey } from "../../pubsub/broker/keys.ts";
import { Pace } from "../../pubsub/broker/pace.ts";
import { lateLogs } from "../../streams/logs/late_logs.ts";
import type { BrokerLogs, LogBroker } from "../../streams/logs/log.ts";
import { announcedLog } from "../../streams/logs/log_names.ts";
import { Tags } from "../../pubsub/tag.ts";
import {
  ConnectionHeartbeat,
  endClient,
  isCluster,
  NodeErrors,
  openClient,
  WriteBatch,
} from "./connections.ts";
import { isOfReplica, isUnsent, reasonOf, refusalOf, type Run, whyOf } from "./failures.ts";
import { checkName, decodePlain, decodeRetained, encodeFrame, RedisNames } from "./format.ts";
import {
  checkSource,
  type RedisBrokerOptions,
  type RedisSettings,
  redisSettings,
  type RedisSource,
} from "./options.ts";
import type { RedisLogs } from "./logs/redis_logs.ts";
import { type OutgoingAppend, type OutgoingFrame, RedisPublishQueue } from "./publish_queue.ts";
import { openSubscriberPool, type SubscriberPool } from "./subscriptions.ts";
import { redisStore } from "./facts.ts";
import { RedisHistories } from "./histories.ts";
import { VersionMark } from "./version.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";

/** The part of Redis that rejects writes, which is always the whole server. */
const WRITES = "writes";

/** The listeners for a topic, and its channel in Redis. */
class RedisChannel extends Listeners {
  readonly name: string;
  readonly topic: string;
  readonly isKept: boolean;
  /** The log whose changes are announced on the channel. */
  readonly log: string | undefined;
  /** Newest position received, on a channel with a history. */
  heard: HistoryPosition | undefined;

  constructor({ name, topic, isKept }: Pick<RedisChannel, "name" | "topic" | "isKept">) {
    super();
    this.name = name;
    this.topic = topic;
    this.isKept = isKept;
    this.log = isKept ? undefined : announcedLog(topic);
  }

  /**
   * Records the newest position.
   *
   * @returns False if the history moved back, in which case publications were lost and the epoch
   * has ended.
   */
  note(publications: readonly Publication[]): boolean {
    const [first, last] = [publications[0]?.position, publications.at(-1)?.position];
    if (first === undefined || last === undefined) return true;
    const { epoch } = last;
    const isBehind = this.heard?.epoch === epoch && first.offset <= this.heard.offset;
    this.heard = { epoch, offset: isBehind ? Number.MAX_SAFE_INTEGER : last.offset };
    return !isBehind;
  }
}

/** Lists the policies by which a client's servers evict histories and logs. */
async function evictingPolicies(client: Redis | Cluster): Promise<string[]> {
  const nodes = isCluster(client) ? client.nodes("master") : [client];
  const infos = await Promise.allSettled(nodes.map((node) => node.info("memory")));
  const policies = infos.flatMap((info) => {
    return info.status === "fulfilled" ? policyOf(info.value) ?? [] : [];
  });
  return [...new Set(policies)];
}

/** Returns the eviction policy, if Redis may evict keys. */
function policyOf(info: string): string | undefined {
  const [, policy = "noeviction"] = /^maxmemory_policy:(\S+)/m.exec(info) ?? [];
  const [, limit = "0"] = /^maxmemory:(\d+)/m.exec(info) ?? [];
  return policy === "noeviction" || limit === "0" ? undefined : policy;
}

/**
 * Maximum size of one append to a log in bytes, because Redis does nothing else while a script
 * handles it.
 */
const MAX_APPEND_BYTES = 8_388_608;

/** Time limit for sending waiting publications to Redis when closing, in milliseconds. */
const FLUSH_TIMEOUT_MS = 1_000;

/**
 * Carries publications through Redis 7 or later, on a single server, behind Sentinel, or on a
 * cluster.
 *
 * - **Fan-out:** a node subscribes to the topics that have listeners on it. On a cluster,
 *   publications stay in the shard of their topic.
 * - **Delivery:** without a history, publications are delivered at most once. With a history, each
 *   acknowledged publication has an offset, is stored only once even if it is sent again, and can
 *   be read again. The epoch changes whenever Redis is restarted or fails over.
 * - **Logs:** each call is one atomic step of Redis. Redis's settings determine which failures a
 *   confirmed change survives; see the documentation's page on Redis.
 * - **Outages:** neither `publish` nor `subscribe` throws. A bounded number of publications wait;
 *   they are sent in order once Redis is reachable, and dropped after `giveUpMs`. Subscriptions
 *   resume automatically, and `onInterrupted` reports the interruption.
 *
 * @example Two nodes
 * ```ts ignore
 * import { serve } from "@skein/skein";
 * import { RedisBroker } from "@skein/skein/redis";
 *
 * await using broker = new RedisBroker({ url: "redis://127.0.0.1:6379" });
 * await using server = serve({ port: 8080, broker });
 * ```
 */
export class RedisBroker implements LogBroker {
  /** Always `redis`. */
  readonly name = "redis";
  /** Without a history, a publication reaches only the current subscribers. */
  readonly delivery = "at-most-once";
  /** Options that all nodes should share. */
  readonly shared: Readonly<Record<string, string>>;
  /** State of the connections to Redis. */
  readonly status: StatusFeed<BrokerStatus>;
  /** Keeps publications in streams. */
  readonly history: BrokerHistory;
  /** Keeps logs in streams. */
  readonly logs: BrokerLogs;
  /** State shared by all nodes with the same prefix. */
  readonly store: BrokerStore;
  readonly #settings: RedisSettings;
  readonly #client: Redis | Cluster;
  readonly #names: RedisNames;
  readonly #damages = new Damages();
  /** Present once logs were used. */
  #logs: RedisLogs | undefined;
  readonly #writes: WriteBatch;
  readonly #subscribers: SubscriberPool;
  readonly #heartbeat: ConnectionHeartbeat;
  readonly #mark: VersionMark;
  readonly #histories: RedisHistories;
  readonly #queue: RedisPublishQueue;
  readonly #channels = new ListenerTable<RedisChannel>({
    onFirst: (channel) => this.#want(channel),
    onLast: ({ name }) => this.#subscribers.unwant(name),
  });
  readonly #life: BrokerLife;
  /** The last error of a command; `undefined` after a success. */
  #trouble: unknown;
  readonly #nodeErrors: NodeErrors;
  readonly #pace: Pace;
  /** Producer of publications without a key. */
  readonly #producer: string;
  /** The commands, by what they do, that Redis has rejected because it accepts no writes. */
  readonly #refused = new Set<string>();
  #number = 0;
  readonly #tags: Tags;
  /** Eviction policies by which Redis may drop histories and logs. */
  #evicting: readonly string[] = [];

  /**
   * Connects in the background. Publications wait in the meantime.
   *
   * @param source The address of Redis.
   * @param options See {@linkcode RedisBrokerOptions}.
   * @throws {TypeError} If a key of `source` or `options` is unknown, if the URL is not a Redis
   * URL, if `source` has neither a URL nor a client, or if `prefix` is empty or contains braces.
   * @throws {RangeError} If a number is not a positive integer.
   */
  constructor(source: RedisSource, options: RedisBrokerOptions = {}) {
    const settings = redisSettings(options);
    const { runtime } = settings;
    const client = openClient(runtime, checkSource(source));
    const names = new RedisNames(settings.prefix);
    this.#settings = settings;
    const { rememberMs, survivesRestart } = settings;
    this.shared = {
      "rememberMs of the broker": `${rememberMs}`,
      "survivesRestart of the broker": `${survivesRestart}`,
    };
    this.#pace = new Pace(runtime);
    this.#tags = new Tags(runtime);
    this.#producer = runtime.randomUUID();
    this.history = {
      remembersMs: settings.rememberMs,
      maxKeys: MAX_TOPIC_KEYS,
      append: (publication, options) => this.#append(publication, options),
      read: (topic, options) => this.#read(topic, options),
    };
    this.#life = new BrokerLife(runtime, { broker: "Redis", waits: true });
    this.status = this.#life.status;
    this.#client = client;
    this.#nodeErrors = new NodeErrors(client);
    this.#names = names;
    this.#histories = new RedisHistories({
      ...settings,
      client,
      names,
      heardOf: (topic) => this.#channels.get(names.of("log", topic))?.heard,
    });
    const run: Run = (what, command) => this.#run(what, command);
    this.store = redisStore({ client, names, run });
    this.logs = lateLogs({ keepsRows: true, maxAppendBytes: MAX_APPEND_BYTES }, async () => {
      const { RedisLogs } = await outside(runtime, import("./logs/redis_logs.ts"));
      return this.#logs = new RedisLogs({ runtime, client, names, limits: settings, run });
    }, this.#damages);
    this.#writes = new WriteBatch(runtime, client);
    this.#queue = this.#openQueue();
    this.#mark = new VersionMark({
      ...settings,
      client,
      key: names.version,
      onMatch: (after) => this.#usable(after),
      onError: (error) => this.#update(error),
    });
    client.on("ready", () => {
      this.#mark.check();
      this.#update();
      void evictingPolicies(client).then((policies) => this.#evicting = policies);
    });
    client.on("close", () => {
      this.#mark.forget(isOfReplica(this.#life.lastError));
      this.#update();
    });
    client.on("error", (error: unknown) => this.#update(error));
    this.#subscribers = openSubscriberPool(runtime, client, {
      onMessage: (channel, message) => this.#receive(channel, message),
      onConfirmed: (channels) => {
        for (const name of channels) this.#channels.get(name)?.live();
      },
      onLost: (channels) => {
        for (const name of channels) this.#channels.get(name)?.lose();
      },
      onChange: (error) => this.#update(error),
    });
    this.#heartbeat = new ConnectionHeartbeat(runtime, settings.heartbeatMs, () => {
      if (client.status === "ready") this.#mark.check();
      return [
        ...(isCluster(client) ? client.nodes("master") : [client]),
        ...this.#subscribers.connections(),
      ];
    });
  }

  /** Counters. */
  get stats(): BrokerStats {
    const { waiting, dropped } = this.#queue;
    return { ...this.#life.counts, waiting, dropped, ignored: this.#life.ignored };
  }

  /**
   * Describes the current problems, for example that Redis is unreachable or that many publications
   * are waiting.
   */
  issues(): string[] {
    const { maxWaiting } = this.#settings;
    const issues = this.#life.issues({ waiting: this.#queue.waiting, maxWaiting });
    for (const [address, error] of this.#nodeErrors.list()) {
      issues.push(`There is no connection to Redis at ${address}: ${textOf(error)}`);
    }
    const { rejection } = this.#subscribers;
    if (rejection !== undefined) issues.push(`Redis rejects a subscription: ${textOf(rejection)}`);
    const rejected = this.#queue.rejection;
    if (rejected !== undefined) issues.push(`Redis rejects a publication: ${rejected}`);
    for (const policy of this.#evicting) {
      issues.push(
        `Redis may evict histories and logs: maxmemory-policy must be noeviction, received ${policy}`,
      );
    }
    return [...issues, ...this.#damages.issues()];
  }

  /**
   * Publishes to every node, on a topic without history.
   *
   * @param publication The topic and the encoded message.
   * @throws {UnsupportedError} If the broker is closed.
   * @throws {RangeError} If the topic has more than 65,536 bytes.
   */
  publish(publication: Publication): void {
    this.#life.checkOpen("publish");
    checkName(publication.topic);
    if (this.#queue.push(publication.topic, encodeFrame(publication))) this.#life.published++;
  }

  /**
   * Subscribes this node to a topic.
   *
   * @param topic The name of the topic; it is never a pattern.
   * @param listener Called with each publication.
   * @param options The bounds of a history and a callback for interruptions.
   * @returns The subscription, which is ready once Redis has confirmed it.
   * @throws {UnsupportedError} If the broker is closed.
   * @throws {RangeError} If the topic has more than 65,536 bytes.
   */
  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    this.#life.checkOpen("subscribe");
    checkName(topic);
    const isKept = options.history !== undefined;
    const name = isKept ? this.#names.of("log", topic) : this.#names.channel(topic);
    return this.#channels.subscribe(name, listener, {
      ...options,
      make: () => new RedisChannel({ name, topic, isKept }),
    });
  }

  /**
   * Ends all subscriptions and closes the connections. Waiting publications are given a second to
   * reach Redis, and are then dropped. Idempotent.
   */
  close(): Promise<void> {
    return this.#life.close(() => this.#close());
  }

  /** Closes the broker; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.status.end({ name: "closed" });
    this.#channels.clear();
    this.#logs?.flush();
    if (this.#isReady) {
      await settlesWithin(this.#settings.runtime, this.#queue.empty(), FLUSH_TIMEOUT_MS);
    }
    this.#queue.close();
    this.#mark[Symbol.dispose]();
    this.#heartbeat[Symbol.dispose]();
    await Promise.all([this.#subscribers.close(), endClient(this.#settings.runtime, this.#client)]);
  }

  get #isReady(): boolean {
    return this.#client.status === "ready" && this.#mark.matches;
  }

  #openQueue(): RedisPublishQueue {
    const isReady = () => this.#isReady;
    const [client, life] = [this.#client, this.#life];
    const sender = {
      get isReady(): boolean {
        return isReady();
      },
      get outage(): unknown {
        return isReady() ? undefined : life.lastError;
      },
      publish: (topic: string, items: readonly OutgoingFrame[]) => {
        const channel = this.#names.channel(topic);
        const frames = items.map(({ frame }) => frame);
        const message = frames.length === 1 ? frames[0]! : Buffer.concat(frames);
        this.#writes.begin();
        return isCluster(client)
          ? client.spublish(channel, message)
          : client.publish(channel, message);
      },
      append: (topic: string, items: readonly OutgoingAppend[]) => {
        this.#writes.begin();
        return this.#histories.append(topic, items);
      },
    };
    return new RedisPublishQueue({
      ...this.#settings,
      sender,
      onAppended: () => this.#accepted(),
      // While the connection is lost, its own error is reported.
      onTrouble: (error) => {
        const trouble = isReady() ? error : undefined;
        if (trouble === this.#trouble) return;
        this.#trouble = trouble;
        this.#update(isOfReplica(trouble) ? trouble : undefined);
      },
    });
  }

  /**
   * Called when a connection opened, closed or failed, or when Redis failed or accepted a command.
   */
  #update(error?: unknown): void {
    const life = this.#life;
    if (this.status.isEnded) return;
    const reason = reasonOf(error);
    if (reason !== undefined && !isUnsent(reason)) life.lastError = reason;
    const { mismatch } = this.#mark;
    const isUp = this.#isReady && this.#subscribers.isUp;
    // A replica's error stays the newest one while the connection is renewed.
    const refusal = refusalOf(isUp ? this.#trouble : life.lastError);
    if (mismatch !== undefined) life.mismatched(mismatch, { cannotStart: !life.wasConnected });
    else if (refusal !== undefined) life.refused(WRITES, refusal, { isNewest: true });
    else if (isUp && this.#trouble === undefined) {
      // Only an accepted write shows that Redis accepts writes again.
      if (!life.isRefusing) life.connected();
    } else if (this.status.current.name !== "connecting" || error) {
      life.interrupted(life.lastError ?? this.#trouble);
    }
  }

  /** Called when the data in Redis can be used, over a new connection or after an error. */
  #usable({ mismatch, replica }: { readonly mismatch: boolean; readonly replica: boolean }): void {
    // Redis accepts writes now, or is another server.
    if (refusalOf(this.#life.lastError) !== undefined) this.#life.lastError = undefined;
    // The other connections may still be to the replica that this one has left.
    if (replica) { for (const redis of this.#subscribers.connections()) redis.disconnect(true); }
    else this.#accepted();
    this.#queue.wake();
    this.#update();
    // The publications of the other version were dropped.
    if (mismatch) { for (const channel of this.#channels.all()) channel.interrupt(); }
  }

  /** Subscribes after this node's waiting publications, which precede the subscription. */
  #want(channel: RedisChannel): void {
    const { name, topic, isKept } = channel;
    const want = () => {
      // If the topic was left and subscribed again in the meantime, it waits for later
      // publications.
      if (this.#channels.get(name) === channel) this.#subscribers.want(name);
    };
    if (isKept) want();
    else this.#queue.afterPublished(topic, want);
  }

  #receive(name: string, message: Buffer): void {
    const channel = this.#channels.get(name);
    if (channel === undefined || this.#mark.mismatch !== undefined) return;
    this.#pace.take(message.length, () => {
      // If the topic was left and subscribed again in the meantime, it has another channel.
      if (this.#channels.get(name) === channel) this.#handOn(channel, message);
    });
  }

  #handOn(channel: RedisChannel, message: Buffer): void {
    // Redis confirms many channels together, so publications on the first channels may arrive
    // before the confirmation.
    if (!channel.isLive) channel.live();
    const { topic, isKept, log } = channel;
    const publications = isKept ? decodeRetained(topic, message) : decodePlain(topic, message);
    if (publications.length === 0) this.#life.ignored++;
    this.#life.received += publications.length;
    if (log !== undefined) {
      for (const { payload } of publications) {
        this.#logs?.hear(log, payload);
      }
    }
    const goesOn = channel.note(publications);
    for (const publication of publications) channel.deliver(publication);
    // Subscribers now read the history, and so discover that the epoch has ended.
    if (!goesOn) channel.interrupt();
  }

  async #append(publication: Publication, options: AppendOptions): Promise<Appended> {
    this.#life.checkCall("append");
    checkName(publication.topic);
    const { bounds, key: given } = options;
    if (given !== undefined) {
      checkName(nameOfKey(given));
      checkWellFormed(nameOfKey(given));
    }
    const key = given ?? { producer: this.#producer, number: this.#number++ };
    const appended = Promise.withResolvers<Appended>();
    const tag = this.#tags.next();
    const kept = { bounds, key, isNode: given === undefined, tag, appended };
    const frame = encodeFrame(publication, tag);
    if (this.#queue.push(publication.topic, frame, kept)) this.#life.published++;
    return await appended.promise;
  }

  async #read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage> {
    const { signal } = options;
    signal?.throwIfAborted();
    checkName(topic);
    const reading = this.#run("read history", () => this.#histories.read(topic, options));
    const page = await (signal ? abortable(reading, signal) : reading);
    this.#life.reads++;
    return page;
  }

  /** Called when Redis has accepted a write: it accepts no writes at all, or every one. */
  #accepted(): void {
    this.#refused.clear();
    this.#life.accepted(WRITES);
  }

  async #run<T>(what: string, command: () => Promise<T>): Promise<T> {
    this.#life.checkCall(what);
    if (!this.#isReady) await this.#life.reached();
    const { mismatch } = this.#mark;
    if (mismatch !== undefined) {
      const why = "another version of Skein wrote the data in Redis";
      throw new BrokerError(`Cannot ${what}: ${why}`, { cause: mismatch });
    }
    if (!this.#isReady) {
      const why = refusalOf(this.#life.lastError) ?? "Redis is unreachable";
      throw new BrokerError(`Cannot ${what}: ${why}`);
    }
    this.#writes.begin();
    try {
      const result = await command();
      if (this.#refused.has(what)) this.#accepted();
      return result;
    } catch (cause) {
      const refusal = refusalOf(cause);
      if (refusal !== undefined) {
        this.#refused.add(what);
        this.#life.refused(WRITES, refusal);
        if (isOfReplica(cause)) this.#update(cause);
      }
      const kind = cause instanceof DamageError ? DamageError : BrokerError;
      throw new kind(`Cannot ${what}: ${refusal ?? whyOf(cause)}`, { cause });
    }
  }
}
