/**
 * Who listens on this node.
 *
 * @module
 */
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import type { Publication, PublicationListener } from "../broker.ts";

/** One subscription. */
export interface Entry {
  readonly listener: PublicationListener;
  readonly onInterrupted: (() => void) | undefined;
  readonly ready: PromiseWithResolvers<void>;
  isActive: boolean;
  /** Whether publications of other nodes have reached it. */
  isLive: boolean;
  /** Whether they may have been missed since. */
  isInterrupted: boolean;
}

/** A topic's channel, and who listens to it. */
export interface Channel {
  readonly name: string;
  readonly topic: string;
  readonly isKept: boolean;
  isConfirmed: boolean;
  /** The newest position that was heard, if it has a history. */
  heard: HistoryPosition | undefined;
  /** Replaced by a change, so that a delivery under way does not see it. */
  entries: readonly Entry[];
}

/** The channels that have listeners. */
export class Channels {
  readonly #byName = new Map<string, Channel>();

  /** The channel of this name, if anybody listens. */
  get(name: string): Channel | undefined {
    return this.#byName.get(name);
  }

  /**
   * Adds a subscription.
   *
   * @returns Whether it is the first one of its channel.
   */
  add(
    { name, topic, isKept }: Pick<Channel, "name" | "topic" | "isKept">,
    entry: Entry,
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
   * @returns Whether it was the last one of its channel.
   */
  remove(name: string, entry: Entry): boolean {
    if (!end(entry)) return false;
    const channel = this.#byName.get(name)!;
    channel.entries = channel.entries.filter((other) => other !== entry);
    return channel.entries.length === 0 && this.#byName.delete(name);
  }

  /** Publications come from now on. */
  confirm(names: readonly string[]): void {
    for (const name of names) {
      const channel = this.#byName.get(name);
      if (channel === undefined) continue;
      channel.isConfirmed = true;
      for (const entry of channel.entries) if (entry.isActive) goLive(entry);
    }
  }

  /** Publications may be missed from now on. */
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

/** Tells listeners. Whoever subscribes meanwhile is not in the list; whoever leaves is not active. */
export function deliver({ entries }: Channel, publications: readonly Publication[]): void {
  for (const publication of publications) {
    for (const entry of entries) if (entry.isActive) entry.listener(publication);
  }
}

/**
 * Notes where a topic stands.
 *
 * @returns Whether its history went on; one that went back lost something, and nothing it has
 * counts any more.
 */
export function note(channel: Channel, publications: readonly Publication[]): boolean {
  const [first, last] = [publications[0]?.position, publications.at(-1)?.position];
  if (first === undefined || last === undefined) return true;
  const { epoch } = last;
  const isBehind = channel.heard?.epoch === epoch && first.offset <= channel.heard.offset;
  channel.heard = { epoch, offset: isBehind ? Number.MAX_SAFE_INTEGER : last.offset };
  return !isBehind;
}

function goLive(entry: Entry): void {
  if (!entry.isLive) {
    entry.isLive = true;
    entry.ready.resolve();
  } else if (entry.isInterrupted) {
    entry.isInterrupted = false;
    entry.onInterrupted?.();
  }
}

/** Whether it was active. Whoever waits for it waits no more. */
function end(entry: Entry): boolean {
  const { isActive } = entry;
  entry.isActive = false;
  entry.ready.resolve();
  return isActive;
}
