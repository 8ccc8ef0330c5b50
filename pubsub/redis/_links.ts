/** The connections for subscriptions, to one server or to the masters of a cluster. */
import type { Cluster, Redis } from "ioredis";
import type { Runtime } from "../../base/runtime.ts";
import { endClient, isCluster, openSubscriber } from "./_clients.ts";
import { Link, type LinkEvents } from "./_link.ts";
import { slotOf } from "./_names.ts";

/** Connections of a broker for subscriptions. */
export interface Links {
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
export function openLinks(
  runtime: Runtime,
  client: Redis | Cluster,
  events: LinkEvents,
): Links {
  return isCluster(client)
    ? new ShardLinks(runtime, client, events)
    : new SingleLink(runtime, client, events);
}

/** One connection for all channels, on one server. */
class SingleLink implements Links {
  readonly #runtime: Runtime;
  readonly #link: Link;

  constructor(runtime: Runtime, client: Redis, events: LinkEvents) {
    this.#runtime = runtime;
    this.#link = new Link({ runtime, redis: openSubscriber(runtime, client), events });
  }

  get isUp(): boolean {
    return this.#link.isUp && this.#link.redis.status === "ready";
  }

  connections(): Redis[] {
    return [this.#link.redis];
  }

  want(channel: string): void {
    this.#link.want(channel);
  }

  unwant(channel: string): void {
    this.#link.unwant(channel);
  }

  async close(): Promise<void> {
    this.#link.stop();
    await endClient(this.#runtime, this.#link.redis);
  }
}

/** One connection for each master with channels, on a cluster: publications stay in their shard. */
class ShardLinks implements Links {
  readonly #runtime: Runtime;
  readonly #cluster: Cluster;
  readonly #events: LinkEvents;
  /** By the address of the node. */
  readonly #links = new Map<string, Link>();
  /** The slot and the link of each wanted channel. */
  readonly #channels = new Map<string, { readonly slot: number; link: Link | undefined }>();
  readonly #ending = new Set<Promise<void>>();
  #isClosed = false;

  constructor(runtime: Runtime, cluster: Cluster, events: LinkEvents) {
    this.#runtime = runtime;
    this.#cluster = cluster;
    this.#events = events;
    cluster.on("refresh", () => this.#assignAll());
    cluster.on("ready", () => this.#assignAll());
  }

  get isUp(): boolean {
    for (const { link } of this.#channels.values()) if (link === undefined) return false;
    for (const link of this.#links.values()) if (!link.isUp) return false;
    return true;
  }

  connections(): Redis[] {
    return [...this.#links.values()].map(({ redis }) => redis);
  }

  want(channel: string): void {
    if (this.#channels.has(channel)) return;
    const place = { slot: slotOf(channel), link: undefined };
    this.#channels.set(channel, place);
    this.#assign(channel, place);
  }

  unwant(channel: string): void {
    this.#channels.get(channel)?.link?.unwant(channel);
    this.#channels.delete(channel);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#channels.clear();
    this.#endIdle(true);
    await Promise.all(this.#ending);
  }

  #assign(channel: string, place: { readonly slot: number; link: Link | undefined }): void {
    const node = this.#cluster.slots[place.slot]?.[0];
    const link = node === undefined ? undefined : this.#linkOf(node);
    if (link === place.link) return;
    if (place.link !== undefined) {
      place.link.unwant(channel);
      this.#events.onLost([channel]);
    }
    place.link = link;
    link?.want(channel);
  }

  /** Follows the cluster's new map of slots. */
  #assignAll(): void {
    if (this.#isClosed) return;
    for (const [channel, place] of this.#channels) this.#assign(channel, place);
    this.#endIdle(false);
    this.#events.onChange();
  }

  #linkOf(address: string): Link | undefined {
    const known = this.#links.get(address);
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
    const link = new Link({ runtime: this.#runtime, redis, events: this.#events, slotOf });
    this.#links.set(address, link);
    return link;
  }

  #endIdle(all: boolean): void {
    for (const [address, link] of this.#links) {
      if (!all && !link.isIdle) continue;
      this.#links.delete(address);
      link.stop();
      const end = endClient(this.#runtime, link.redis)
        .finally(() => this.#ending.delete(end));
      this.#ending.add(end);
    }
  }
}
