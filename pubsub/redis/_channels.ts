/** The subscriptions of this node, by channel. */
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import type { Publication, PublicationListener } from "../broker.ts";

/** One subscription. */
export interface Listener {
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
export interface Channel {
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
export class Channels {
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
export function deliver({ entries }: Channel, publications: readonly Publication[]): void {
  for (const publication of publications) {
    for (const entry of entries) if (entry.isActive) entry.listener(publication);
  }
}

/**
 * Records the newest position of a channel.
 *
 * @returns `false` if the history went back. Publications were lost then, and the epoch is over.
 */
export function note(channel: Channel, publications: readonly Publication[]): boolean {
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
