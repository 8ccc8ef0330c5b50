/** The broker of nodes that share a Redis. */
import { Buffer } from "node:buffer";
import type { Cluster, Redis } from "ioredis";
import { BrokerError, UnsupportedError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { settlesWithin } from "../../base/wait.ts";
import type {
  Appended,
  AppendOptions,
  Broker,
  BrokerHistory,
  BrokerStats,
  BrokerStatus,
  BrokerStore,
  BrokerSubscribeOptions,
  BrokerSubscription,
  HistoryPage,
  Publication,
  PublicationListener,
  ReadHistoryOptions,
} from "../../pubsub/broker.ts";
import { Pace } from "../../pubsub/engine/pace.ts";
import type { BrokerLogs } from "../../pubsub/logs/log.ts";
import { Tags } from "../../pubsub/tag.ts";
import {
  endClient,
  Heartbeat,
  isCluster,
  NodeErrors,
  openClient,
  openSubscriberPool,
  type SubscriberPool,
  WriteBatch,
} from "./connections.ts";
import { checkName, decodeKept, decodePlain, encodeFrame, Names } from "./format.ts";
import {
  checkSource,
  type RedisBrokerOptions,
  type RedisSettings,
  redisSettings,
  type RedisSource,
} from "./options.ts";
import { RedisLogs } from "./logs.ts";
import { type OutgoingAppend, type OutgoingFrame, PublishQueue } from "./publish_queue.ts";
import { defineScripts, RedisHistories, RedisStore, type Run } from "./store.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";

/** One subscription. */
interface Listener {
  readonly listener: PublicationListener;
  readonly onInterrupted: (() => void) | undefined;
  readonly ready: PromiseWithResolvers<void>;
  isActive: boolean;
  /** `true` once publications of other nodes reach the listener. */
  isLive: boolean;
  /** `true` if publications may have been missed since then. */
  isInterrupted: boolean;
}

/** A topic's channel and its subscriptions. */
interface Channel {
  readonly name: string;
  readonly topic: string;
  readonly isKept: boolean;
  isConfirmed: boolean;
  /** Newest position received, on a channel with a history. */
  heard: HistoryPosition | undefined;
  /** Replaced on each change, as a delivery under way still iterates over the old array. */
  entries: readonly Listener[];
}

/** The channels that have listeners. */
class Channels {
  readonly #byName = new Map<string, Channel>();

  /** Finds a channel that has listeners, by name. */
  get(name: string): Channel | undefined {
    return this.#byName.get(name);
  }

  /**
   * Adds a subscription.
   *
   * @returns `true` for the first subscription of the channel.
   */
  add(
    { name, topic, isKept }: Pick<Channel, "name" | "topic" | "isKept">,
    entry: Listener,
  ): boolean {
    const known = this.#byName.get(name);
    const channel = known ??
      { name, topic, isKept, isConfirmed: false, heard: undefined, entries: [] };
    channel.entries = [...channel.entries, entry];
    if (channel.isConfirmed) goLive(entry);
    this.#byName.set(name, channel);
    return known === undefined;
  }

  /**
   * Removes a subscription.
   *
   * @returns `true` for the last subscription of the channel.
   */
  remove(name: string, entry: Listener): boolean {
    if (!end(entry)) return false;
    const channel = this.#byName.get(name)!;
    channel.entries = channel.entries.filter((other) => other !== entry);
    return channel.entries.length === 0 && this.#byName.delete(name);
  }

  /** Marks channels whose publications come from now on. */
  confirm(names: readonly string[]): void {
    for (const name of names) {
      const channel = this.#byName.get(name);
      if (channel === undefined) continue;
      channel.isConfirmed = true;
      for (const entry of channel.entries) if (entry.isActive) goLive(entry);
    }
  }

  /** Marks channels whose publications may be missed from now on. */
  lose(names: readonly string[]): void {
    for (const name of names) {
      const channel = this.#byName.get(name);
      if (channel === undefined) continue;
      channel.isConfirmed = false;
      for (const entry of channel.entries) entry.isInterrupted = entry.isLive;
    }
  }

  /** Ends all subscriptions. */
  clear(): void {
    for (const { entries } of this.#byName.values()) for (const entry of entries) end(entry);
    this.#byName.clear();
  }
}

/**
 * Calls the listeners. Listeners added meanwhile are not in the list; removed ones are not active.
 */
function deliver({ entries }: Channel, publications: readonly Publication[]): void {
  for (const publication of publications) {
    for (const entry of entries) if (entry.isActive) entry.listener(publication);
  }
}

/**
 * Records the newest position of a channel.
 *
 * @returns `false` if the history went back. Publications were lost then, and the epoch is over.
 */
function note(channel: Channel, publications: readonly Publication[]): boolean {
  const [first, last] = [publications[0]?.position, publications.at(-1)?.position];
  if (first === undefined || last === undefined) return true;
  const { epoch } = last;
  const isBehind = channel.heard?.epoch === epoch && first.offset <= channel.heard.offset;
  channel.heard = { epoch, offset: isBehind ? Number.MAX_SAFE_INTEGER : last.offset };
  return !isBehind;
}

function goLive(entry: Listener): void {
  if (!entry.isLive) {
    entry.isLive = true;
    entry.ready.resolve();
  } else if (entry.isInterrupted) {
    entry.isInterrupted = false;
    entry.onInterrupted?.();
  }
}

/** Ends a subscription and resolves `ready`; `false` if the subscription was over before. */
function end(entry: Listener): boolean {
  const { isActive } = entry;
  entry.isActive = false;
  entry.ready.resolve();
  return isActive;
}

/** Derives the broker's status from the connections and from the answers of Redis. */
class ConnectionStatus {
  readonly status: StatusFeed<BrokerStatus> = new StatusFeed<BrokerStatus>({ name: "connecting" });
  readonly #runtime: Runtime;
  readonly #isUp: () => boolean;
  #interruptions = 0;
  #wasUp = false;
  /** Last error of a connection. */
  #error: unknown;
  /** Last error of a command; `undefined` after a success. */
  #trouble: unknown;

  /**
   * Starts as connecting.
   *
   * @param runtime Runtime that has the clock.
   * @param isUp Tells if all connections are ready, with all their subscriptions.
   */
  constructor(runtime: Runtime, isUp: () => boolean) {
    this.#runtime = runtime;
    this.#isUp = isUp;
  }

  /** Number of times that Redis went away. */
  get interruptions(): number {
    return this.#interruptions;
  }

  /** Called when a connection opened, closed, or failed. */
  update(error?: unknown): void {
    if (this.status.isEnded) return;
    if (error !== undefined) this.#error = error;
    const { current } = this.status;
    if (this.#isUp() && this.#trouble === undefined) {
      this.#error = undefined;
      this.#wasUp = true;
      if (current.name !== "connected") this.status.set({ name: "connected" });
    } else if (current.name === "connected" || (current.name === "connecting" && error)) {
      this.#interruptions++;
      this.status.set({
        name: "interrupted",
        since: this.#runtime.now(),
        error: this.#error ?? this.#trouble,
      });
    }
  }

  /** Records the error of a failed command; `undefined` after a success. */
  trouble(trouble: unknown): void {
    if (trouble === this.#trouble) return;
    this.#trouble = trouble;
    this.update();
  }

  /** Resolves once the first attempt to reach Redis succeeded or failed. */
  async reached(): Promise<void> {
    for await (const { name } of this.status.follow()) if (name !== "connecting") return;
  }

  /** Describes an interruption in words. */
  issue(): string | undefined {
    const { current } = this.status;
    if (current.name !== "interrupted") return undefined;
    const seconds = Math.round((this.#runtime.now() - current.since) / 1_000);
    const since = this.#wasUp ? `been away for ${seconds} s` : "not been reached since the start";
    // The newest error: a server that is back may refuse the password.
    return `Redis has ${since}: ${textOf(this.#error ?? current.error)}`;
  }

  /** Ends the status when the broker closes. */
  end(): void {
    this.status.end({ name: "closed" });
  }
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return "the connection was lost";
  // The client library's error for all nodes together has the reason of one of them.
  const { lastNodeError } = error as { readonly lastNodeError?: unknown };
  return lastNodeError instanceof Error ? lastNodeError.message : error.message;
}

/** Lists the policies under which a client's servers evict histories and logs. */
async function evictingPolicies(client: Redis | Cluster): Promise<string[]> {
  const nodes = isCluster(client) ? client.nodes("master") : [client];
  const infos = await Promise.allSettled(nodes.map((node) => node.info("memory")));
  const policies = infos.flatMap((info) => {
    return info.status === "fulfilled" ? policyOf(info.value) ?? [] : [];
  });
  return [...new Set(policies)];
}

/** Reads the eviction policy, if Redis can ever evict keys. */
function policyOf(info: string): string | undefined {
  const [, policy = "noeviction"] = /^maxmemory_policy:(\S+)/m.exec(info) ?? [];
  const [, limit = "0"] = /^maxmemory:(\d+)/m.exec(info) ?? [];
  return policy === "noeviction" || limit === "0" ? undefined : policy;
}

/** Longest time for waiting publications to reach Redis at a close, in milliseconds. */
const FLUSH_TIMEOUT_MS = 1_000;

/**
 * Carries publications through Redis 7 or later, on one server, behind Sentinel, or on a cluster.
 *
 * - **Fan-out:** a node subscribes to the topics with listeners on this node; on a cluster,
 *   publications stay in the shard of their topic.
 * - **Delivery:** at most once without a history. With one, each acknowledged publication has an
 *   offset, counts once even if sent again, and can be read again; the epoch changes whenever Redis
 *   started anew or failed over.
 * - **Logs:** each call is one atomic step of Redis. A confirmed change outlasts all that the
 *   settings of Redis let outlast: see the page about Redis in the documentation.
 * - **Outages:** neither `publish` nor `subscribe` throws. The waiting publications are bounded,
 *   sent in order once Redis is back, and given up after `giveUpMs`. Subscriptions resume on their
 *   own, and `onInterrupted` reports the interruption.
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
export class RedisBroker implements Broker {
  /** Always `redis`. */
  readonly name = "redis";
  /** A publication without a history reaches the current subscribers only. */
  readonly delivery = "at-most-once";
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
  readonly #names: Names;
  readonly #writes: WriteBatch;
  readonly #subscribers: SubscriberPool;
  readonly #heartbeat: Heartbeat;
  readonly #histories: RedisHistories;
  readonly #queue: PublishQueue;
  readonly #channels = new Channels();
  readonly #connection: ConnectionStatus;
  readonly #nodeErrors: NodeErrors;
  readonly #pace: Pace;
  /** Producer of publications without a key. */
  readonly #producer: string;
  #number = 0;
  readonly #tags: Tags;
  #published = 0;
  #received = 0;
  #reads = 0;
  #ignored = 0;
  /** Eviction policies under which Redis may drop histories and logs. */
  #evicting: readonly string[] = [];
  #closing: Promise<void> | undefined;

  /**
   * Connects; publications wait meanwhile.
   *
   * @param source The address of Redis.
   * @param options See {@linkcode RedisBrokerOptions}.
   * @throws {TypeError} If a key of `source` or `options` is unknown, the URL is not one of Redis,
   *   `source` has neither a URL nor a client, or `prefix` is empty or has braces.
   * @throws {RangeError} If a number is not a positive whole one.
   */
  constructor(source: RedisSource, options: RedisBrokerOptions = {}) {
    const settings = redisSettings(options);
    const { runtime } = settings;
    const client = openClient(runtime, checkSource(source));
    const names = new Names(settings.prefix);
    const scripts = defineScripts(client);
    this.#settings = settings;
    this.#pace = new Pace(runtime);
    this.#tags = new Tags(runtime);
    this.#producer = runtime.randomUUID();
    this.history = {
      remembersMs: settings.rememberMs,
      append: (publication, options) => this.#append(publication, options),
      read: (topic, options) => this.#read(topic, options),
    };
    this.#connection = new ConnectionStatus(runtime, () => this.#isReady && this.#subscribers.isUp);
    this.status = this.#connection.status;
    this.#client = client;
    this.#nodeErrors = new NodeErrors(client);
    this.#names = names;
    this.#histories = new RedisHistories({
      ...settings,
      scripts,
      names,
      isSharded: isCluster(client),
      heardOf: (topic) => this.#channels.get(names.keptChannel(topic))?.heard,
    });
    const run: Run = (what, command) => this.#run(what, command);
    this.store = new RedisStore(client, scripts, names, run);
    this.#writes = new WriteBatch(runtime, client);
    const writes = this.#writes;
    this.logs = new RedisLogs({ runtime, client, names, writes, limits: settings, run });
    this.#queue = this.#openQueue();
    client.on("ready", () => {
      this.#queue.wake();
      this.#connection.update();
      void this.#lookAtPolicies();
    });
    client.on("close", () => this.#connection.update());
    client.on("error", (error: unknown) => this.#connection.update(error));
    this.#subscribers = openSubscriberPool(runtime, client, {
      onMessage: (channel, message) => this.#receive(channel, message),
      onConfirmed: (channels) => this.#channels.confirm(channels),
      onLost: (channels) => this.#channels.lose(channels),
      onChange: (error) => this.#connection.update(error),
    });
    this.#heartbeat = new Heartbeat(runtime, settings.heartbeatMs, () => [
      ...(isCluster(client) ? client.nodes("master") : [client]),
      ...this.#subscribers.connections(),
    ]);
  }

  /** Counters. */
  get stats(): BrokerStats {
    return {
      published: this.#published,
      received: this.#received,
      waiting: this.#queue.waiting,
      dropped: this.#queue.dropped,
      interruptions: this.#connection.interruptions,
      reads: this.#reads,
      ignored: this.#ignored,
    };
  }

  /** Describes the current problems, such as that Redis is away, or that many publications wait. */
  issues(): string[] {
    const away = this.#connection.issue();
    const issues = away === undefined ? [] : [away];
    for (const [address, error] of this.#nodeErrors.list()) {
      issues.push(`Redis at ${address} has no connection: ${textOf(error)}`);
    }
    const { refusal } = this.#subscribers;
    if (refusal !== undefined) issues.push(`Redis refuses a subscription: ${textOf(refusal)}`);
    for (const policy of this.#evicting) {
      issues.push(
        `Redis may evict histories and logs: maxmemory-policy must be noeviction, received ${policy}`,
      );
    }
    if (this.#ignored > 0) {
      issues.push(`${this.#ignored} messages of other programs were ignored`);
    }
    const { maxWaiting } = this.#settings;
    const { waiting } = this.#queue;
    if (waiting > maxWaiting / 2) {
      issues.push(`${waiting} publications wait for Redis, of ${maxWaiting} at most`);
    }
    return issues;
  }

  /**
   * Publishes to every node, on a topic without history.
   *
   * @param publication The publication.
   * @throws {UnsupportedError} If the broker is closed.
   * @throws {RangeError} If the topic has more than 65,536 bytes.
   */
  publish(publication: Publication): void {
    this.#checkOpen("publish");
    checkName(publication.topic);
    if (this.#queue.push(publication.topic, encodeFrame(publication))) this.#published++;
  }

  /**
   * Subscribes this node to a topic.
   *
   * @param topic The topic.
   * @param listener Called with each publication.
   * @param options The bounds of a history, and a callback for interruptions.
   * @returns The subscription, ready once Redis confirmed it.
   * @throws {UnsupportedError} If the broker is closed.
   * @throws {RangeError} If the topic has more than 65,536 bytes.
   */
  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    this.#checkOpen("subscribe");
    checkName(topic);
    const isKept = options.history !== undefined;
    const name = isKept ? this.#names.keptChannel(topic) : this.#names.channel(topic);
    const entry: Listener = {
      listener,
      onInterrupted: options.onInterrupted,
      ready: Promise.withResolvers(),
      isActive: true,
      isLive: false,
      isInterrupted: false,
    };
    if (this.#channels.add({ name, topic, isKept }, entry)) this.#want(name, topic, isKept);
    return {
      ready: entry.ready.promise,
      [Symbol.asyncDispose]: () => {
        if (this.#channels.remove(name, entry)) this.#subscribers.unwant(name);
        return Promise.resolve();
      },
    };
  }

  /**
   * Ends all subscriptions and the connections. Waiting publications have a second to reach Redis,
   * and are given up then. Idempotent.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Closes the broker; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#connection.end();
    this.#channels.clear();
    if (this.#isReady) {
      await settlesWithin(this.#settings.runtime, this.#queue.empty(), FLUSH_TIMEOUT_MS);
    }
    this.#queue.close();
    this.#heartbeat[Symbol.dispose]();
    await Promise.all([this.#subscribers.close(), endClient(this.#settings.runtime, this.#client)]);
  }

  get #isReady(): boolean {
    return this.#client.status === "ready";
  }

  #openQueue(): PublishQueue {
    const isReady = () => this.#isReady;
    const writes = this.#writes;
    const sender = {
      get isReady(): boolean {
        return isReady();
      },
      publish: (topic: string, items: readonly OutgoingFrame[]) => {
        const channel = this.#names.channel(topic);
        const message = items.length === 1
          ? items[0]!.frame
          : Buffer.concat(items.map(({ frame }) => frame));
        const client = this.#client;
        writes.begin();
        return isCluster(client)
          ? client.spublish(channel, message)
          : client.publish(channel, message);
      },
      append: (topic: string, items: readonly OutgoingAppend[]) => {
        writes.begin();
        return this.#histories.append(topic, items);
      },
    };
    return new PublishQueue({
      ...this.#settings,
      sender,
      // While the connection is away, its own error is reported already.
      onTrouble: (error) => this.#connection.trouble(isReady() ? error : undefined),
    });
  }

  /** Subscribes after this node's waiting publications, which precede the subscription. */
  #want(name: string, topic: string, isKept: boolean): void {
    const channel = this.#channels.get(name);
    const want = () => {
      // A topic that was left and subscribed again meanwhile waits for later publications.
      if (this.#channels.get(name) === channel) this.#subscribers.want(name);
    };
    if (isKept) want();
    else this.#queue.afterPublished(topic, want);
  }

  #receive(name: string, message: Buffer): void {
    const channel = this.#channels.get(name);
    if (channel === undefined) return;
    this.#pace.take(message.length, () => {
      // A topic that was left and subscribed again meanwhile has another channel.
      if (this.#channels.get(name) === channel) this.#handOn(channel, message);
    });
  }

  #handOn(channel: Channel, message: Buffer): void {
    const { name } = channel;
    // Redis confirms many channels together; publications of the first can come before the answer.
    if (!channel.isConfirmed) this.#channels.confirm([name]);
    const { topic, isKept } = channel;
    const publications = isKept ? decodeKept(topic, message) : decodePlain(topic, message);
    if (publications.length === 0) this.#ignored++;
    this.#received += publications.length;
    const goesOn = note(channel, publications);
    deliver(channel, publications);
    if (goesOn) return;
    // SubscriberPool that read the history now learn that the epoch is over.
    this.#channels.lose([name]);
    this.#channels.confirm([name]);
  }

  async #lookAtPolicies(): Promise<void> {
    this.#evicting = await evictingPolicies(this.#client);
  }

  async #append(publication: Publication, options: AppendOptions): Promise<Appended> {
    if (this.#closing) throw new BrokerError("Cannot append: the broker is closed");
    checkName(publication.topic);
    if (options.key !== undefined) checkName(options.key.producer);
    const { bounds, key = { producer: this.#producer, number: this.#number++ } } = options;
    const appended = Promise.withResolvers<Appended>();
    const tag = this.#tags.next();
    const kept = { bounds, key, tag, appended };
    const frame = encodeFrame(publication, tag);
    if (this.#queue.push(publication.topic, frame, kept)) this.#published++;
    return await appended.promise;
  }

  async #read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage> {
    const { signal } = options;
    signal?.throwIfAborted();
    checkName(topic);
    const aborted = Promise.withResolvers<never>();
    const abort = () => aborted.reject(signal!.reason);
    signal?.addEventListener("abort", abort);
    try {
      const page = this.#run("read history", () => this.#histories.read(topic, options));
      const read = await Promise.race([page, aborted.promise]);
      this.#reads++;
      return read;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  async #run<T>(what: string, command: () => Promise<T>): Promise<T> {
    if (this.#closing) throw new BrokerError(`Cannot ${what}: the broker is closed`);
    if (!this.#isReady) await this.#connection.reached();
    if (!this.#isReady) throw new BrokerError(`Cannot ${what}: Redis is away`);
    try {
      return await command();
    } catch (cause) {
      throw new BrokerError(`Cannot ${what}: ${textOf(cause)}`, { cause });
    }
  }

  #checkOpen(verb: string): void {
    if (this.#closing) throw new UnsupportedError(`Cannot ${verb}: the broker is closed`);
  }
}
