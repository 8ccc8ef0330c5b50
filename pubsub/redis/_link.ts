/** One connection for subscriptions. */
import type { Buffer } from "node:buffer";
import type { Redis } from "ioredis";
import type { Runtime, Timer } from "../../base/runtime.ts";

/** Most channels of one command. */
const BATCH = 1_000;

/** Wait before a refused command is sent again, in milliseconds. */
const RETRY_MS = 1_000;

/** Events of a {@linkcode ChannelSubscriber}. */
export interface SubscriptionEvents {
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
export interface ChannelSubscriberOptions {
  readonly runtime: Runtime;
  /** The connection; the subscriber ends it. */
  readonly redis: Redis;
  readonly events: SubscriptionEvents;
  /** Slot of a channel, on a cluster: channels of different slots cannot share a command. */
  readonly slotOf?: (channel: string) => number;
}

/**
 * Subscribes to the wanted channels. One change is under way at a time, and further changes join
 * the next one, so that a storm of changes takes a few commands.
 */
export class ChannelSubscriber {
  readonly redis: Redis;
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
    // The client library never settles a command that is answered with MOVED.
    redis.on("moved", () => redis.disconnect(true));
  }

  /** `true` if all earlier subscriptions are confirmed, or the connection never was ready yet. */
  get isUp(): boolean {
    return this.#isFresh || (this.redis.status === "ready" && this.#lost.size === 0);
  }

  /** `true` without wanted channels. */
  get isIdle(): boolean {
    return this.#wanted.size === 0;
  }

  /** Subscribes to a channel. */
  want(channel: string): void {
    this.#wanted.add(channel);
    this.#touch(channel);
  }

  /** Leaves a channel. */
  unwant(channel: string): void {
    this.#wanted.delete(channel);
    this.#lost.delete(channel);
    this.#touch(channel);
  }

  /** Stops subscribing; the caller ends the connection. */
  stop(): void {
    this.#isEnded = true;
    this.#runtime.clearTimeout(this.#retry);
    this.#wanted.clear();
  }

  #touch(channel: string): void {
    this.#changed.add(channel);
    if (!this.#isChanging) this.#change();
  }

  #lose(): void {
    const lost = [...this.#confirmed];
    this.#confirmed.clear();
    if (this.#isEnded) return;
    for (const channel of lost) if (this.#wanted.has(channel)) this.#lost.add(channel);
    this.#events.onLost(lost);
    this.#events.onChange();
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
    if (results.every((isDone) => isDone)) return true;
    if (!this.#isEnded) {
      this.#runtime.clearTimeout(this.#retry);
      this.#retry = this.#runtime.setTimeout(() => this.#change(), RETRY_MS);
    }
    return false;
  }

  async #send(verb: "subscribe" | "unsubscribe", channels: string[]): Promise<boolean> {
    const { redis } = this;
    if (verb === "unsubscribe") {
      for (const channel of channels) {
        this.#confirmed.delete(channel);
        this.#leaving.add(channel);
      }
    }
    try {
      if (this.#slotOf !== undefined) await redis[`s${verb}`](...channels);
      else await redis[verb](...channels);
    } catch (error) {
      if (redis.status !== "ready") return true;
      for (const channel of channels) this.#changed.add(channel);
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
    this.#events.onConfirmed(channels);
    return true;
  }

  #groups(channels: string[]): string[][] {
    if (channels.length === 0) return [];
    const slotOf = this.#slotOf;
    if (slotOf === undefined) return [channels];
    return [...Map.groupBy(channels, slotOf).values()];
  }
}
