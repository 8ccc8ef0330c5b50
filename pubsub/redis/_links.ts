/** The connections for subscriptions, to one server or to the masters of a cluster. */
import type { Cluster, Redis } from "ioredis";
import type { Runtime } from "../../base/runtime.ts";
import { endClient, isCluster, openSubscriber } from "./_clients.ts";
import { ChannelSubscriber, type SubscriptionEvents } from "./_link.ts";
import { slotOf } from "./_names.ts";

/** Connections of a broker for subscriptions. */
export interface SubscriberPool {
  /** `true` if all earlier subscriptions are confirmed. */
  readonly isUp: boolean;
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
    : new SingleServerPool(runtime, client, events);
}

/** One connection for all channels, on one server. */
class SingleServerPool implements SubscriberPool {
  readonly #runtime: Runtime;
  readonly #subscriber: ChannelSubscriber;

  constructor(runtime: Runtime, client: Redis, events: SubscriptionEvents) {
    this.#runtime = runtime;
    this.#subscriber = new ChannelSubscriber({
      runtime,
      redis: openSubscriber(runtime, client),
      events,
    });
  }

  get isUp(): boolean {
    return this.#subscriber.isUp && this.#subscriber.redis.status === "ready";
  }

  connections(): Redis[] {
    return [this.#subscriber.redis];
  }

  want(channel: string): void {
    this.#subscriber.want(channel);
  }

  unwant(channel: string): void {
    this.#subscriber.unwant(channel);
  }

  async close(): Promise<void> {
    this.#subscriber.stop();
    await endClient(this.#runtime, this.#subscriber.redis);
  }
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
    for (const subscriber of this.#subscribers.values()) if (!subscriber.isUp) return false;
    return true;
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
    if (subscriber === place.subscriber) return;
    if (place.subscriber !== undefined) {
      place.subscriber.unwant(channel);
      this.#events.onLost([channel]);
    }
    place.subscriber = subscriber;
    subscriber?.want(channel);
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
    // After a cut, or after a slot moved, another node may serve the channels.
    redis.on("close", () => {
      if (!this.#isClosed && this.#cluster.status === "ready") this.#cluster.refreshSlotsCache();
    });
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
      subscriber.stop();
      const end = endClient(this.#runtime, subscriber.redis)
        .finally(() => this.#ending.delete(end));
      this.#ending.add(end);
    }
  }
}
