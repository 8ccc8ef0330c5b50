/** Connections for this node's subscriptions, separate from the connection for commands. */
import type { Buffer } from "node:buffer";
import type { Cluster, Redis } from "ioredis";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { endClient, isCluster, openSubscriber } from "./connections.ts";
import { slotOf } from "./format.ts";

/** Maximum number of channels in one command. */
const BATCH = 1_000;

/** Wait before a rejected command is sent again, in milliseconds. */
const RETRY_MS = 1_000;

/** A command that changes subscriptions; on a cluster, in the shard of a channel. */
type Verb = "subscribe" | "unsubscribe";

interface SubscriptionEvents {
  /** A message arrived. */
  onMessage(channel: string, message: Buffer): void;
  /** Publications on these channels arrive from now on. */
  onConfirmed(channels: readonly string[]): void;
  /** Publications on these channels may be missed from now on. */
  onLost(channels: readonly string[]): void;
  /** The connection opened, closed, or rejected a command. */
  onChange(error?: unknown): void;
}

interface ChannelSubscriberOptions {
  readonly runtime: Runtime;
  /** The connection, which the subscriber closes. */
  readonly redis: Redis;
  readonly events: SubscriptionEvents;
  /** Slot of a channel on a cluster. Channels in different slots cannot share a command. */
  readonly slotOf?: (channel: string) => number;
}

/**
 * Subscribes to the wanted channels over one connection. One change is in flight at a time, and
 * further changes join the next one, so that a burst of changes needs only a few commands.
 */
export class ChannelSubscriber implements SubscriberPool {
  readonly redis: Redis;
  /** The reply to a rejected command, such as `NOPERM`, until a command succeeds. */
  rejection: unknown;
  readonly #runtime: Runtime;
  readonly #events: SubscriptionEvents;
  readonly #slotOf: ((channel: string) => number) | undefined;
  readonly #wanted = new Set<string>();
  readonly #confirmed = new Set<string>();
  /**
   * Channels that were confirmed before the connection was lost and have not been confirmed again.
   */
  readonly #lost = new Set<string>();
  /**
   * Channels with an unsubscribe in flight. A new subscription ignores messages of the former one.
   */
  readonly #leaving = new Set<string>();
  /** Channels that may be wanted and not confirmed, or vice versa. */
  readonly #changed = new Set<string>();
  /** Waits for replies to commands, by verb. They end when the connection is lost. */
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
    // The client library cannot continue on a connection after an unexpected reply.
    redis.on("error", (error: unknown) => {
      this.#isFresh = false;
      if (redis.status === "ready") redis.disconnect(true);
      events.onChange(error);
    });
    redis.on("moved", () => this.#rejectAll());
  }

  /** True if the connection is ready and all earlier subscriptions are confirmed. */
  get isUp(): boolean {
    return this.redis.status === "ready" && this.#lost.size === 0;
  }

  /** True if the connection has never been ready. */
  get isFresh(): boolean {
    return this.#isFresh;
  }

  /** True without wanted channels. */
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
   * Ends the wait for all in-flight subscriptions, because the client library never settles a
   * subscription that receives `MOVED`, and does not say which one it was. A subscription that
   * succeeds anyway is repeated.
   */
  #rejectAll(): void {
    const error = new Error("Cannot subscribe: the slot of a channel moved to another master");
    for (const [{ reject }, verb] of this.#underWay) if (verb === "subscribe") reject(error);
  }

  #change(): void {
    if (this.#isChanging) return;
    this.#isChanging = true;
    // Runs at the end of the turn, so that all changes of one turn are sent together.
    queueMicrotask(async () => {
      while (!this.#isEnded && this.#changed.size > 0 && this.redis.status === "ready") {
        if (!await this.#changeSome()) break;
      }
      this.#isChanging = false;
      this.#events.onChange();
    });
  }

  /** Sends the next changes. Resolves to false if Redis rejected a command. */
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
      ...this.#groups(going).map((group) => this.#unsubscribe(group)),
      ...this.#groups(coming).map((group) => this.#subscribe(group)),
    ]);
    if (results.every((isDone) => isDone)) {
      this.rejection = undefined;
      return true;
    }
    if (!this.#isEnded) {
      this.#runtime.clearTimeout(this.#retry);
      this.#retry = this.#runtime.setTimeout(() => this.#change(), RETRY_MS);
    }
    return false;
  }

  async #unsubscribe(channels: string[]): Promise<boolean> {
    for (const channel of channels) {
      this.#confirmed.delete(channel);
      this.#leaving.add(channel);
    }
    const isDone = await this.#send("unsubscribe", channels);
    for (const channel of channels) {
      this.#leaving.delete(channel);
      if (!isDone) this.#confirmed.add(channel);
    }
    return isDone;
  }

  async #subscribe(channels: string[]): Promise<boolean> {
    const isDone = await this.#send("subscribe", channels);
    if (!isDone || this.redis.status !== "ready") return isDone;
    for (const channel of channels) {
      this.#confirmed.add(channel);
      this.#lost.delete(channel);
    }
    // If the channel was left in the meantime, it is not ready for the next subscription, which may
    // still be waiting.
    const wanted = channels.filter((channel) => this.#wanted.has(channel));
    if (wanted.length > 0) this.#events.onConfirmed(wanted);
    return true;
  }

  /**
   * Sends a command. Resolves to false if Redis rejected it; resolves to true even if the
   * connection was lost.
   */
  async #send(verb: Verb, channels: string[]): Promise<boolean> {
    const { redis } = this;
    const answered = Promise.withResolvers<void>();
    this.#underWay.set(answered, verb);
    try {
      const command = this.#slotOf === undefined ? verb : `s${verb}` as const;
      redis[command](...channels).then(() => answered.resolve(), answered.reject);
      await answered.promise;
      return true;
    } catch (error) {
      if (redis.status !== "ready") return true;
      for (const channel of channels) this.#changed.add(channel);
      this.rejection = error;
      this.#events.onChange(error);
      return false;
    } finally {
      this.#underWay.delete(answered);
    }
  }

  #groups(channels: string[]): string[][] {
    const slotOf = this.#slotOf ?? (() => 0);
    return [...Map.groupBy(channels, slotOf).values()];
  }
}

/** Connections of a broker for subscriptions. */
export interface SubscriberPool {
  /** True if all earlier subscriptions are confirmed. */
  readonly isUp: boolean;
  /** Redis's reply to a rejected subscription. */
  readonly rejection: unknown;
  connections(): Redis[];
  /** Subscribes to a channel. */
  want(channel: string): void;
  /** Leaves a channel. */
  unwant(channel: string): void;
  /** Closes the connections. */
  close(): Promise<void>;
}

/** Opens the connections for subscriptions, separate from the connection for commands. */
export function openSubscriberPool(
  runtime: Runtime,
  client: Redis | Cluster,
  events: SubscriptionEvents,
): SubscriberPool {
  return isCluster(client)
    ? new ClusterPool(runtime, client, events)
    : new ChannelSubscriber({ runtime, redis: openSubscriber(runtime, client), events });
}

/**
 * On a cluster, there is one connection for each master with channels, because publications stay in
 * their shard.
 */
class ClusterPool implements SubscriberPool {
  readonly #runtime: Runtime;
  readonly #cluster: Cluster;
  readonly #events: SubscriptionEvents;
  /** By address of the node. */
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

  get rejection(): unknown {
    return this.#subscribers.values().find(({ rejection }) => rejection !== undefined)?.rejection;
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
   * Requests the map of slots while some channels have no node. The client library drops a lost
   * node, and requests the map again only after a reply such as `MOVED` to a command.
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

  /** Applies the cluster's new map of slots. */
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
