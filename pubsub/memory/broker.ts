/** A broker within one process. */
import { checkOptions, POSITIVE, RUNTIME } from "../../base/options/option_checks.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import type { StatusFeed } from "../../base/status_feed.ts";
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
  Publication,
  TakenTokens,
  TokenRate,
} from "../broker.ts";
import { BrokerLife } from "../broker/life.ts";
import { Publishers } from "../history/publishers.ts";
import { LocalListeners } from "../broker/listeners.ts";
import { MAX_TOPIC_KEYS } from "../broker/keys.ts";
import { appended, MAX_TOPICS, MemoryHistories } from "./history.ts";
import { defaultTotalBytes, type MemoryTenant, type SharedMemory } from "./space.ts";

/**
 * Maximum number of rows, of scopes and of buckets. Beyond that, the least recently used is
 * forgotten, but first a row of the client that created the most within the last hour.
 */
export const MAX_ENTRIES = 100_000;

/** The store of a {@linkcode MemoryBroker}. */
export class MemoryStore implements BrokerStore {
  readonly #runtime: Runtime;
  readonly #numbers = new Map<string, { number: number; until: number }>();
  /** The clients that the rows of `#numbers` are for. */
  readonly #owners = new Publishers(MAX_ENTRIES);
  readonly #scopes = new Map<string, Map<string, number>>();
  readonly #buckets = new Map<string, { tokens: number; at: number }>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  advance(
    key: string,
    number: number,
    windowMs: number,
    { owner }: { readonly owner?: string | undefined } = {},
  ): Promise<boolean> {
    const now = this.#runtime.now();
    const known = this.#numbers.get(key);
    if (known !== undefined && known.until > now && number <= known.number) {
      return Promise.resolve(false);
    }
    if (known === undefined) this.#makeRoom(now);
    if (known === undefined) this.#owners.note(key, owner, now);
    renew(this.#numbers, key, { number, until: now + windowMs });
    return Promise.resolve(true);
  }

  newest(key: string): Promise<number> {
    const known = this.#numbers.get(key);
    return Promise.resolve(
      known === undefined || known.until <= this.#runtime.now() ? -1 : known.number,
    );
  }

  claim(
    scope: string,
    member: string,
    { max, ttlMs }: { readonly max: number; readonly ttlMs: number },
  ): Promise<boolean> {
    const members = this.#members(scope) ?? new Map<string, number>();
    if (!members.has(member) && members.size >= max) return Promise.resolve(false);
    members.set(member, this.#runtime.now() + ttlMs);
    renew(this.#scopes, scope, members);
    return Promise.resolve(true);
  }

  release(scope: string, member: string): Promise<void> {
    const members = this.#scopes.get(scope);
    members?.delete(member);
    if (members?.size === 0) this.#scopes.delete(scope);
    return Promise.resolve();
  }

  claims(scope: string): Promise<string[]> {
    return Promise.resolve([...this.#members(scope)?.keys() ?? []]);
  }

  take(key: string, amount: number, { perSecond, burst }: TokenRate): Promise<TakenTokens> {
    const now = this.#runtime.now();
    const { tokens, at } = this.#buckets.get(key) ?? { tokens: burst, at: now };
    const filled = Math.min(burst, tokens + Math.max(0, now - at) * perSecond / 1_000);
    const granted = filled >= amount;
    renew(this.#buckets, key, { tokens: granted ? filled - amount : filled, at: now });
    const retryAfterMs = granted ? 0 : Math.ceil((amount - filled) / perSecond * 1_000);
    return Promise.resolve({ granted, retryAfterMs });
  }

  clear(): void {
    for (const map of [this.#numbers, this.#owners, this.#scopes, this.#buckets]) map.clear();
  }

  /** Forgets a row if there is no room for another. */
  #makeRoom(now: number): void {
    if (this.#numbers.size < MAX_ENTRIES) return;
    const key = this.#owners.first(now) ?? oldestOf(this.#numbers)!;
    this.#numbers.delete(key);
    this.#owners.forget(key);
  }

  #members(scope: string): Map<string, number> | undefined {
    const members = this.#scopes.get(scope);
    const now = this.#runtime.now();
    for (const [member, until] of members ?? []) if (until <= now) members!.delete(member);
    return members;
  }
}

function renew<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > MAX_ENTRIES) map.delete(oldestOf(map)!);
}

function oldestOf(map: ReadonlyMap<string, unknown>): string | undefined {
  for (const key of map.keys()) return key;
  return undefined;
}

/** Options for {@linkcode MemoryBroker}. */
export interface MemoryBrokerOptions {
  /**
   * Maximum number of topics with a remembered history or position. Beyond that, topics without
   * publications are forgotten first, and then the oldest.
   *
   * In detail, topics are forgotten in this order: topics without publications; topics of the
   * client that created the most within the last hour, if it created more than 256; topics without
   * subscribers, starting with the oldest last publication.
   *
   * @default {10000}
   */
  readonly maxTopics?: number | undefined;
  /**
   * Maximum memory of histories and durable streams together, in bytes with overhead; by default at
   * most a quarter of the machine's memory.
   *
   * Without the permission to read the memory size, the default is 512 MiB.
   *
   * Beyond the limit, histories are forgotten in the same order as for `maxTopics`. If the topics
   * of a client hold more than an eighth of all bytes, the client whose topics hold the most loses
   * histories first. Once no history is left to forget, durable streams accept no more records.
   *
   * Nothing in a durable stream is dropped. While durable streams and responses use more than half
   * of the bytes, the streams that one user or address created over HTTP may grow to at most an
   * eighth of them.
   *
   * @default {536870912}
   */
  readonly maxTotalBytes?: number | undefined;
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

const OPTIONS: OptionKinds<MemoryBrokerOptions> = {
  maxTopics: POSITIVE,
  maxTotalBytes: POSITIVE,
  runtime: RUNTIME,
};

/**
 * Carries publications synchronously within one process. This is the default broker. It can also
 * connect several servers in one process.
 *
 * @example Usage
 * ```ts
 * import { MemoryBroker } from "@skein/skein/pubsub";
 * import { assertEquals } from "@std/assert";
 *
 * await using broker = new MemoryBroker();
 * const received: unknown[] = [];
 * await using subscription = broker.subscribe("news", (publication) => {
 *   received.push(publication.payload);
 * });
 * await subscription.ready;
 * broker.publish({ topic: "news", payload: '{"topic":"news"}' });
 * assertEquals(received, ['{"topic":"news"}']);
 * ```
 */
export class MemoryBroker implements Broker {
  /** Always `memory`. */
  readonly name = "memory";
  /** A publication reaches only the subscriptions that exist when it is made. */
  readonly delivery = "at-most-once";
  /** Always connected, until the broker is closed. */
  readonly status: StatusFeed<BrokerStatus>;
  /** Histories in memory, kept as long as the broker exists. */
  readonly history: BrokerHistory = {
    maxKeys: MAX_TOPIC_KEYS,
    append: (publication, options) => this.#append(publication, options),
    read: async (topic, options) => {
      this.#life.checkCall("read history");
      this.#life.reads++;
      return await this.#histories.read(topic, options);
    },
  };
  /** State shared by all servers of the process that use the broker. */
  readonly store: BrokerStore;
  /** Data of features in the same memory. */
  readonly #tenants = new Map<symbol, MemoryTenant>();
  readonly #memory: MemoryStore;
  readonly #histories: MemoryHistories;
  readonly #plain = new LocalListeners();
  readonly #kept: LocalListeners;
  readonly #life: BrokerLife;
  readonly #runtime: Runtime;
  readonly #maxTotalBytes: number;

  /**
   * Creates a broker without subscriptions.
   *
   * @param options See {@linkcode MemoryBrokerOptions}.
   * @throws {RangeError} If a bound is not a positive integer.
   */
  constructor(options: MemoryBrokerOptions = {}) {
    checkOptions("create broker", options, OPTIONS);
    const { maxTopics = MAX_TOPICS, maxTotalBytes = defaultTotalBytes() } = options;
    const { runtime = platformRuntime() } = options;
    this.#runtime = runtime;
    this.#maxTotalBytes = maxTotalBytes;
    this.#life = new BrokerLife(runtime, { broker: "memory", status: { name: "connected" } });
    this.status = this.#life.status;
    this.#memory = new MemoryStore(runtime);
    const histories = new MemoryHistories(runtime, {
      maxTopics,
      maxBytes: () => maxTotalBytes - this.#tenantBytes,
    });
    this.#histories = histories;
    this.#kept = new LocalListeners(
      (topic) => histories.follow(topic),
      (topic) => histories.unfollow(topic),
    );
    this.store = this.#memory;
  }

  /** Counters. */
  get stats(): BrokerStats {
    const { counts } = this.#life;
    const { forgotten } = this.#histories;
    return { ...counts, received: counts.published, waiting: 0, dropped: 0, forgotten };
  }

  /** Always empty, because a broker in memory has no outages. */
  issues(): string[] {
    return [];
  }

  /**
   * Calls the listeners of the topic before returning. If a listener publishes on the same topic, that
   * publication is delivered after the current one.
   *
   * @param publication The topic and the encoded message.
   * @throws {UnsupportedError} If the broker is closed.
   */
  publish(publication: Publication): void {
    this.#life.checkOpen("publish");
    this.#life.published++;
    this.#plain.deliver(publication);
  }

  async #append(publication: Publication, options: AppendOptions): Promise<Appended> {
    this.#life.checkCall("append");
    const placed = this.#histories.append(publication, options);
    this.#life.published++;
    if (placed !== undefined) this.#kept.deliver(placed);
    return await appended(placed);
  }

  /**
   * Subscribes to a topic.
   *
   * @param topic The name of the topic; it is never a pattern.
   * @param listener Receives the publications of the topic.
   * @param options The bounds of the history, for a topic with a history.
   * @returns The subscription, in force immediately.
   * @throws {UnsupportedError} If the broker is closed.
   */
  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    this.#life.checkOpen("subscribe");
    const listeners = options.history === undefined ? this.#plain : this.#kept;
    return listeners.subscribe(topic, listener);
  }

  /**
   * Keeps data of a feature in the memory of this broker, within the bound that histories share.
   * Histories give way to it.
   *
   * @ignore
   * @param key Identifies the feature.
   * @param make Creates the data. It is called once for each key.
   * @returns The data of the feature.
   */
  share<T extends MemoryTenant>(key: symbol, make: (memory: SharedMemory) => T): T {
    const known = this.#tenants.get(key);
    if (known !== undefined) return known as T;
    const tenant: T = make({
      runtime: this.#runtime,
      life: this.#life,
      maxBytes: this.#maxTotalBytes,
      announce: (topic) => this.#plain.deliver({ topic, payload: "" }),
      hasRoom: (bytes) => this.#makeRoom(this.#tenantBytes - tenant.bytes + bytes),
    });
    this.#tenants.set(key, tenant);
    return tenant;
  }

  /** Ends all subscriptions. Idempotent. */
  close(): Promise<void> {
    return this.#life.close(() => this.#close());
  }

  /** Closes the broker; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get #tenantBytes(): number {
    let sum = 0;
    for (const { bytes } of this.#tenants.values()) sum += bytes;
    return sum;
  }

  /** Forgets histories until features can use a number of bytes; returns false if they cannot. */
  #makeRoom(bytes: number): boolean {
    if (bytes > this.#maxTotalBytes) return false;
    this.#histories.shrink(this.#maxTotalBytes - bytes);
    return true;
  }

  #close(): Promise<void> {
    this.#plain.clear();
    this.#kept.clear();
    this.#histories.clear();
    this.#memory.clear();
    for (const tenant of this.#tenants.values()) tenant.clear();
    this.status.end({ name: "closed" });
    return Promise.resolve();
  }
}
