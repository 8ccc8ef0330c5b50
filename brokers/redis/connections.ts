/** Connections to Redis: one for commands, and those for the subscriptions of this node. */
import type { Buffer } from "node:buffer";
import { type Cluster, type ClusterOptions, Redis, type RedisOptions } from "ioredis";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
import type { RedisSource } from "./options.ts";
import { slotOf } from "./format.ts";

/** Longest wait between two attempts to connect, in milliseconds. */
const MAX_RETRY_DELAY_MS = 1_000;

/** Longest wait for the end of a connection, in milliseconds. */
const END_TIMEOUT_MS = 3_000;

function retryWith(runtime: Runtime): (attempts: number) => number {
  return (attempts) => Math.min(50 * attempts, MAX_RETRY_DELAY_MS) * (0.5 + runtime.random() / 2);
}

/**
 * Turns off the queue and the repetition of the client library. The broker bounds the waiting
 * publications, and knows which of these may be sent again. Zero retries a request make commands
 * fail together with their connection.
 */
const OWN: RedisOptions = {
  autoResubscribe: false,
  autoResendUnfulfilledCommands: false,
  enableOfflineQueue: false,
  maxRetriesPerRequest: 0,
  enableAutoPipelining: false,
  keyPrefix: "",
  lazyConnect: false,
  readOnly: false,
  stringNumbers: false,
  connectionName: "skein",
  // Leaves a server that became a replica: Sentinel, or the host name, leads to the new master.
  reconnectOnError: (error) => error.message.startsWith("READONLY"),
};

const OWN_CLUSTER: ClusterOptions = {
  // A node that is still connecting queues commands; the broker bounds their number.
  enableOfflineQueue: true,
  // Commands of a lost node may have run: the broker decides which are repeated.
  retryDelayOnFailover: 0,
  enableAutoPipelining: false,
  shardedSubscribers: false,
  scaleReads: "master",
  keyPrefix: "",
  lazyConnect: false,
};

/** Recognizes a client of a cluster, also of another copy of the library. */
export function isCluster(client: Redis | Cluster): client is Cluster {
  return client.isCluster;
}

/** Opens a connection for commands. */
export function openClient(runtime: Runtime, source: RedisSource): Redis | Cluster {
  const retryStrategy = retryWith(runtime);
  if ("url" in source) {
    if (/^rediss?:\/\//.test(source.url)) return new Redis(source.url, { ...OWN, retryStrategy });
    throw new TypeError(
      `Cannot create broker: url must begin with redis:// or rediss://, received "${source.url}"`,
    );
  }
  const client = source.client as Redis | Cluster | undefined;
  if (typeof client?.duplicate !== "function") {
    throw new TypeError("Cannot create broker: expected a url, or a client of ioredis");
  }
  if (!isCluster(client)) return client.duplicate({ ...OWN, retryStrategy });
  const { enableOfflineQueue: _, ...own } = OWN;
  const redisOptions = { ...client.options.redisOptions, ...own };
  const clusterRetryStrategy = retryStrategy;
  return client.duplicate([], { ...OWN_CLUSTER, clusterRetryStrategy, redisOptions });
}

/** Opens another connection to the same server, for subscriptions. */
function openSubscriber(runtime: Runtime, client: Redis): Redis {
  return client.duplicate({ ...OWN, retryStrategy: retryWith(runtime) });
}

/** Ends connections, and waits for their ends. */
export async function endClient(runtime: Runtime, client: Redis | Cluster): Promise<void> {
  const all = isCluster(client) ? [client, ...client.nodes()] : [client];
  const ends = all.filter(({ status }) => !NOT_OPEN.has(status)).map((each) =>
    new Promise<void>((resolve) => each.once("end", resolve))
  );
  client.disconnect();
  await settlesWithin(runtime, Promise.all(ends), END_TIMEOUT_MS);
}

/** States without a socket, in which no `end` event would come. */
const NOT_OPEN: ReadonlySet<string> = new Set(["wait", "reconnecting", "close", "end"]);

/** The newest errors of a cluster's nodes, which the client library keeps apart from its own. */
export class NodeErrors {
  readonly #client: Redis | Cluster;
  /** By the address of the node. */
  readonly #errors = new Map<string, Error>();

  constructor(client: Redis | Cluster) {
    this.#client = client;
    client.on("node error", (error: Error, address: string) => this.#errors.set(address, error));
  }

  /** Lists the nodes that have no connection, with the reason. */
  list(): readonly (readonly [address: string, error: Error])[] {
    const nodes = isCluster(this.#client) ? this.#client.nodes() : [];
    const away = new Set(
      nodes.filter(({ status }) => status !== "ready").map(({ options }) =>
        `${options.host}:${options.port}`
      ),
    );
    for (const address of this.#errors.keys()) {
      if (!away.has(address)) this.#errors.delete(address);
    }
    return [...this.#errors];
  }
}

/**
 * Gathers the writes of one turn of the event loop, so that many small commands are one write here
 * and one read in Redis.
 */
export class WriteBatch {
  readonly #runtime: Runtime;
  readonly #client: Redis | Cluster;
  #isGathering = false;

  constructor(runtime: Runtime, client: Redis | Cluster) {
    this.#runtime = runtime;
    this.#client = client;
  }

  /** Holds back the writes from now on until the end of the turn. */
  begin(): void {
    if (this.#isGathering) return;
    this.#isGathering = true;
    const nodes = isCluster(this.#client) ? this.#client.nodes("master") : [this.#client];
    const streams = nodes.flatMap(({ stream }) => stream ?? []);
    for (const stream of streams) stream.cork();
    this.#runtime.schedule(() => {
      this.#isGathering = false;
      for (const stream of streams) stream.uncork();
    });
  }
}

/**
 * Heartbeats in a row without an answer after which a connection is dead; a single one may be this
 * process's own delay.
 */
const MAX_SILENT = 2;

/**
 * Pings connections at an interval, and cuts off those that do not answer: a dead connection may
 * give no other sign. So are connections cut off that open, and whose engine then leaves the greeting
 * unanswered: the client library limits only the time until a connection opens.
 */
export class Heartbeat implements Disposable {
  readonly #runtime: Runtime;
  #timer: Timer | undefined;
  /** Heartbeats without an answer, for each connection with a ping under way. */
  readonly #silent = new Map<Redis, number>();
  /** Heartbeats since a connection opened, for each whose greeting has no answer yet. */
  readonly #greeting = new WeakMap<Redis, number>();

  constructor(runtime: Runtime, heartbeatMs: number, connections: () => Iterable<Redis>) {
    this.#runtime = runtime;
    const beat = () => {
      this.#timer = runtime.setTimeout(beat, heartbeatMs);
      for (const connection of connections()) this.#check(connection);
    };
    this.#timer = runtime.setTimeout(beat, heartbeatMs);
  }

  [Symbol.dispose](): void {
    this.#runtime.clearTimeout(this.#timer);
  }

  #check(connection: Redis): void {
    if (connection.status === "connect") {
      const beats = (this.#greeting.get(connection) ?? 0) + 1;
      if (beats <= MAX_SILENT) return void this.#greeting.set(connection, beats);
      this.#greeting.delete(connection);
      return connection.disconnect(true);
    }
    this.#greeting.delete(connection);
    if (connection.status !== "ready") return;
    const silent = this.#silent.get(connection);
    if (silent === undefined) {
      this.#silent.set(connection, 0);
      const answered = () => void this.#silent.delete(connection);
      connection.ping().then(answered, answered);
      return;
    }
    this.#silent.set(connection, silent + 1);
    if (silent + 1 === MAX_SILENT) connection.disconnect(true);
  }
}

/** Most channels of one command. */
const BATCH = 1_000;

/** Wait before a refused command is sent again, in milliseconds. */
const RETRY_MS = 1_000;

/** A change of subscriptions; on a cluster, that in the shard of a channel. */
type Verb = "subscribe" | "unsubscribe";

/** Events of a {@linkcode ChannelSubscriber}. */
interface SubscriptionEvents {
  /** A message came. */
  onMessage(channel: string, message: Buffer): void;
  /** Publications on these channels come from now on. */
  onConfirmed(channels: readonly string[]): void;
  /** Publications on these channels may be missed from now on. */
  onLost(channels: readonly string[]): void;
  /** The connection opened, closed, or refused a command. */
  onChange(error?: unknown): void;
}

/** Options for {@linkcode ChannelSubscriber}. */
interface ChannelSubscriberOptions {
  readonly runtime: Runtime;
  /** The connection; the subscriber ends it. */
  readonly redis: Redis;
  readonly events: SubscriptionEvents;
  /** Slot of a channel, on a cluster: channels of different slots cannot share a command. */
  readonly slotOf?: (channel: string) => number;
}

/**
 * Subscribes to the wanted channels over one connection. One change is under way at a time, and
 * further changes join the next one, so that a storm of changes takes a few commands.
 */
export class ChannelSubscriber implements SubscriberPool {
  readonly redis: Redis;
  /** The answer to a refused command, such as `NOPERM`, until a command succeeds. */
  refusal: unknown;
  readonly #runtime: Runtime;
  readonly #events: SubscriptionEvents;
  readonly #slotOf: ((channel: string) => number) | undefined;
  readonly #wanted = new Set<string>();
  readonly #confirmed = new Set<string>();
  /** Channels that were confirmed before the connection was lost, and are not confirmed again. */
  readonly #lost = new Set<string>();
  /**
   * Channels with an unsubscribe under way: a new subscription ignores messages of the former one.
   */
  readonly #leaving = new Set<string>();
  /** Channels that may be wanted and not confirmed, or the other way round. */
  readonly #changed = new Set<string>();
  /** Waits for the answers to commands, with the verb; they end when the connection is lost. */
  readonly #underWay = new Map<PromiseWithResolvers<void>, Verb>();
  #isChanging = false;
  #isEnded = false;
  #isFresh = true;
  #retry: Timer | undefined;

  constructor({ runtime, redis, events, slotOf }: ChannelSubscriberOptions) {
    this.#runtime = runtime;
    this.redis = redis;
    this.#events = events;
    this.#slotOf = slotOf;
    redis.on(slotOf === undefined ? "messageBuffer" : "smessageBuffer", (bytes, message) => {
      const channel = bytes.toString();
      // Messages of a channel that was left belong to no subscription.
      if (this.#wanted.has(channel) && !this.#leaving.has(channel)) {
        events.onMessage(channel, message);
      }
    });
    redis.on("ready", () => {
      this.#isFresh = false;
      for (const channel of this.#wanted) this.#changed.add(channel);
      this.#change();
      events.onChange();
    });
    redis.on("close", () => this.#lose());
    // The client library cannot continue on a connection after an unexpected answer.
    redis.on("error", (error: unknown) => {
      this.#isFresh = false;
      if (redis.status === "ready") redis.disconnect(true);
      events.onChange(error);
    });
    redis.on("moved", () => this.#refuseAll());
  }

  /** `true` if the connection is ready, and all earlier subscriptions are confirmed. */
  get isUp(): boolean {
    return this.redis.status === "ready" && this.#lost.size === 0;
  }

  /** `true` if the connection never was ready yet. */
  get isFresh(): boolean {
    return this.#isFresh;
  }

  /** `true` without wanted channels. */
  get isIdle(): boolean {
    return this.#wanted.size === 0;
  }

  connections(): Redis[] {
    return [this.redis];
  }

  want(channel: string): void {
    this.#wanted.add(channel);
    this.#touch(channel);
  }

  unwant(channel: string): void {
    this.#wanted.delete(channel);
    this.#lost.delete(channel);
    this.#touch(channel);
  }

  async close(): Promise<void> {
    this.#isEnded = true;
    this.#runtime.clearTimeout(this.#retry);
    this.#wanted.clear();
    await endClient(this.#runtime, this.redis);
  }

  #touch(channel: string): void {
    this.#changed.add(channel);
    if (!this.#isChanging) this.#change();
  }

  #lose(): void {
    for (const { resolve } of this.#underWay.keys()) resolve();
    const lost = [...this.#confirmed];
    this.#confirmed.clear();
    if (this.#isEnded) return;
    for (const channel of lost) if (this.#wanted.has(channel)) this.#lost.add(channel);
    this.#events.onLost(lost);
    this.#events.onChange();
  }

  /**
   * Ends the wait for all subscriptions under way: the client library never settles one that is
   * answered with `MOVED`, and does not tell which. One that succeeds after all is repeated.
   */
  #refuseAll(): void {
    const error = new Error("Cannot subscribe: the slot of a channel moved to another master");
    for (const [{ reject }, verb] of this.#underWay) if (verb === "subscribe") reject(error);
  }

  #change(): void {
    if (this.#isChanging) return;
    this.#isChanging = true;
    // Runs at the end of the turn, so that all changes of one turn go together.
    queueMicrotask(async () => {
      while (!this.#isEnded && this.#changed.size > 0 && this.redis.status === "ready") {
        if (!await this.#changeSome()) break;
      }
      this.#isChanging = false;
      this.#events.onChange();
    });
  }

  /** Sends the next changes; `false` if Redis refused a command. */
  async #changeSome(): Promise<boolean> {
    const coming: string[] = [];
    const going: string[] = [];
    const present: string[] = [];
    for (const channel of this.#changed) {
      this.#changed.delete(channel);
      const isConfirmed = this.#confirmed.has(channel);
      if (!this.#wanted.has(channel)) {
        if (isConfirmed) going.push(channel);
      } else (isConfirmed ? present : coming).push(channel);
      if (coming.length >= BATCH || going.length >= BATCH) break;
    }
    if (present.length > 0) this.#events.onConfirmed(present);
    const results = await Promise.all([
      ...this.#groups(going).map((group) => this.#send("unsubscribe", group)),
      ...this.#groups(coming).map((group) => this.#send("subscribe", group)),
    ]);
    if (results.every((isDone) => isDone)) {
      this.refusal = undefined;
      return true;
    }
    if (!this.#isEnded) {
      this.#runtime.clearTimeout(this.#retry);
      this.#retry = this.#runtime.setTimeout(() => this.#change(), RETRY_MS);
    }
    return false;
  }

  async #send(verb: Verb, channels: string[]): Promise<boolean> {
    const { redis } = this;
    if (verb === "unsubscribe") {
      for (const channel of channels) {
        this.#confirmed.delete(channel);
        this.#leaving.add(channel);
      }
    }
    try {
      const command = this.#slotOf === undefined ? verb : `s${verb}` as const;
      await this.#answered(verb, redis[command](...channels));
    } catch (error) {
      if (redis.status !== "ready") return true;
      for (const channel of channels) {
        this.#changed.add(channel);
        if (verb === "unsubscribe") this.#confirmed.add(channel);
      }
      this.refusal = error;
      this.#events.onChange(error);
      return false;
    } finally {
      if (verb === "unsubscribe") { for (const channel of channels) this.#leaving.delete(channel); }
    }
    if (verb === "unsubscribe" || redis.status !== "ready") return true;
    for (const channel of channels) {
      this.#confirmed.add(channel);
      this.#lost.delete(channel);
    }
    // A channel that was left meanwhile is not ready for the next subscription, which may wait yet.
    const wanted = channels.filter((channel) => this.#wanted.has(channel));
    if (wanted.length > 0) this.#events.onConfirmed(wanted);
    return true;
  }

  /** Waits for the answer to a command; resolves as well when the connection is lost. */
  async #answered(verb: Verb, command: Promise<unknown>): Promise<void> {
    const ended = Promise.withResolvers<void>();
    this.#underWay.set(ended, verb);
    command.then(() => ended.resolve(), ended.reject);
    try {
      await ended.promise;
    } finally {
      this.#underWay.delete(ended);
    }
  }

  #groups(channels: string[]): string[][] {
    if (channels.length === 0) return [];
    const slotOf = this.#slotOf;
    if (slotOf === undefined) return [channels];
    return [...Map.groupBy(channels, slotOf).values()];
  }
}

/** Connections of a broker for subscriptions. */
export interface SubscriberPool {
  /** `true` if all earlier subscriptions are confirmed. */
  readonly isUp: boolean;
  /** The answer of Redis to a subscription that is refused. */
  readonly refusal: unknown;
  /** The connections. */
  connections(): Redis[];
  /** Subscribes to a channel. */
  want(channel: string): void;
  /** Leaves a channel. */
  unwant(channel: string): void;
  /** Ends the connections. */
  close(): Promise<void>;
}

/** Opens connections for subscriptions, beside the one for commands. */
export function openSubscriberPool(
  runtime: Runtime,
  client: Redis | Cluster,
  events: SubscriptionEvents,
): SubscriberPool {
  return isCluster(client)
    ? new ClusterPool(runtime, client, events)
    : new ChannelSubscriber({ runtime, redis: openSubscriber(runtime, client), events });
}

/** One connection for each master with channels, on a cluster: publications stay in their shard. */
class ClusterPool implements SubscriberPool {
  readonly #runtime: Runtime;
  readonly #cluster: Cluster;
  readonly #events: SubscriptionEvents;
  /** By the address of the node. */
  readonly #subscribers = new Map<string, ChannelSubscriber>();
  /** The slot and the subscriber of each wanted channel. */
  readonly #channels = new Map<
    string,
    { readonly slot: number; subscriber: ChannelSubscriber | undefined }
  >();
  readonly #ending = new Set<Promise<void>>();
  #search: Timer | undefined;
  #isClosed = false;

  constructor(runtime: Runtime, cluster: Cluster, events: SubscriptionEvents) {
    this.#runtime = runtime;
    this.#cluster = cluster;
    this.#events = events;
    cluster.on("refresh", () => this.#assignAll());
    cluster.on("ready", () => this.#assignAll());
  }

  get isUp(): boolean {
    for (const { subscriber } of this.#channels.values()) {
      if (subscriber === undefined) return false;
    }
    return this.#subscribers.values().every(({ isUp, isFresh }) => isUp || isFresh);
  }

  get refusal(): unknown {
    return this.#subscribers.values().find(({ refusal }) => refusal !== undefined)?.refusal;
  }

  connections(): Redis[] {
    return [...this.#subscribers.values()].map(({ redis }) => redis);
  }

  want(channel: string): void {
    if (this.#channels.has(channel)) return;
    const place = { slot: slotOf(channel), subscriber: undefined };
    this.#channels.set(channel, place);
    this.#assign(channel, place);
  }

  unwant(channel: string): void {
    this.#channels.get(channel)?.subscriber?.unwant(channel);
    this.#channels.delete(channel);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#runtime.clearTimeout(this.#search);
    this.#channels.clear();
    this.#endIdle(true);
    await Promise.all(this.#ending);
  }

  #assign(
    channel: string,
    place: { readonly slot: number; subscriber: ChannelSubscriber | undefined },
  ): void {
    const node = this.#cluster.slots[place.slot]?.[0];
    const subscriber = node === undefined ? undefined : this.#subscriberOf(node);
    if (subscriber === undefined) this.#searchSoon();
    if (subscriber === place.subscriber) return;
    if (place.subscriber !== undefined) {
      place.subscriber.unwant(channel);
      this.#events.onLost([channel]);
    }
    place.subscriber = subscriber;
    subscriber?.want(channel);
  }

  /**
   * Asks for the map of slots while channels have no node. The client library drops a lost node, and
   * asks for the map again only after an answer such as `MOVED` to a command.
   */
  #searchSoon(): void {
    this.#search ??= this.#runtime.setTimeout(() => {
      this.#search = undefined;
      if (this.#channels.values().every(({ subscriber }) => subscriber !== undefined)) return;
      this.#askForSlots();
      this.#searchSoon();
    }, RETRY_MS);
  }

  #askForSlots(): void {
    if (!this.#isClosed && this.#cluster.status === "ready") this.#cluster.refreshSlotsCache();
  }

  /** Follows the cluster's new map of slots. */
  #assignAll(): void {
    if (this.#isClosed) return;
    for (const [channel, place] of this.#channels) this.#assign(channel, place);
    this.#endIdle(false);
    this.#events.onChange();
  }

  #subscriberOf(address: string): ChannelSubscriber | undefined {
    const known = this.#subscribers.get(address);
    if (known !== undefined) return known;
    const node = this.#cluster.nodes("master").find(({ options: { host, port } }) => {
      return `${host}:${port}` === address;
    });
    if (node === undefined) return undefined;
    const redis = openSubscriber(this.#runtime, node);
    // Another node may serve the channels.
    for (const event of ["close", "moved"]) redis.on(event, () => this.#askForSlots());
    const subscriber = new ChannelSubscriber({
      runtime: this.#runtime,
      redis,
      events: this.#events,
      slotOf,
    });
    this.#subscribers.set(address, subscriber);
    return subscriber;
  }

  #endIdle(all: boolean): void {
    for (const [address, subscriber] of this.#subscribers) {
      if (!all && !subscriber.isIdle) continue;
      this.#subscribers.delete(address);
      const end = subscriber.close().finally(() => this.#ending.delete(end));
      this.#ending.add(end);
    }
  }
}
