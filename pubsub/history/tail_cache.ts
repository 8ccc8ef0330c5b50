/** The newest publications of topics, kept ready for clients that reconnect. */
import { Fifo } from "../broker/queue.ts";
import type { EncodedMessage } from "../../session/wire/encode.ts";

/** Maximum number of publications of one topic. */
const MAX_TAIL_MESSAGES = 512;

/** Maximum number of bytes of one topic. */
const MAX_TAIL_BYTES = 524_288;

/**
 * Maximum total size of a node's cached topics, in bytes. Beyond that, the topics that have been
 * silent longest are dropped.
 */
export const MAX_TAILS_BYTES = 67_108_864;

/** A publication, encoded once with its position. */
export interface Placed {
  readonly message: EncodedMessage;
  readonly offset: number;
  readonly prev: number;
  /** Tag that the broker assigned to the publication, if any. */
  readonly tag: string | undefined;
  /** Id of a session or of a client that does not receive the publication. */
  readonly except: string | undefined;
}

/** Size limits of a page. */
export interface PageBounds {
  readonly maxMessages: number;
  readonly maxBytes: number;
}

/** Bound on the bytes of a node's tails. */
export class TailBudget {
  readonly #maxBytes: number;
  /** The tails, in the order of the last publication. */
  readonly #order = new Set<TailCache>();
  #bytes = 0;

  constructor(maxBytes: number = MAX_TAILS_BYTES) {
    this.#maxBytes = maxBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Counts the growth of a tail, and drops the oldest tails beyond the bound. */
  grew(tail: TailCache, bytes: number): void {
    this.#order.delete(tail);
    this.#order.add(tail);
    this.#bytes += bytes;
    for (const oldest of this.#order) {
      if (this.#bytes <= this.#maxBytes) return;
      oldest.drop();
    }
  }

  /** Counts the bytes that a tail has dropped. */
  shrank(tail: TailCache, bytes: number): void {
    this.#bytes -= bytes;
    if (tail.size === 0) this.#order.delete(tail);
  }
}

/** The newest publications of a topic, without gaps up to the newest known publication. */
export class TailCache {
  readonly #tails: TailBudget;
  readonly #items = new Fifo<Placed>();
  #bytes = 0;
  #after = 0;
  /** Tag of the publication at `#after`, if known. */
  #afterTag: string | undefined;

  constructor(tails: TailBudget) {
    this.#tails = tails;
  }

  get size(): number {
    return this.#items.length;
  }

  /** The offset after which the tail holds all publications. */
  get after(): number {
    return this.#after;
  }

  /** Starts over, empty, after an offset. */
  reset(after: number): void {
    const bytes = this.#bytes;
    this.#items.clear();
    this.#bytes = 0;
    this.#after = after;
    this.#afterTag = undefined;
    this.#tails.shrank(this, bytes);
  }

  drop(): void {
    const newest = this.#items.at(-1);
    const tag = newest === undefined ? this.#afterTag : newest.tag;
    this.reset(newest?.offset ?? this.#after);
    this.#afterTag = tag;
  }

  /** Adds the next publication. */
  push(item: Placed): void {
    this.#items.push(item);
    this.#bytes += item.message.size;
    let cut = 0;
    while (this.size > MAX_TAIL_MESSAGES || this.#bytes - cut > MAX_TAIL_BYTES) {
      const oldest = this.#items.shift()!;
      cut += oldest.message.size;
      this.#after = oldest.offset;
      this.#afterTag = oldest.tag;
    }
    this.#bytes -= cut;
    this.#tails.grew(this, item.message.size - cut);
  }

  /**
   * Adds older publications at the front. The last of them MUST directly precede the oldest
   * publication that is present.
   */
  prepend(items: readonly Placed[], after: number): void {
    const newer = this.#items.clear();
    this.reset(after);
    for (const item of [...items, ...newer]) this.push(item);
  }

  /** Returns the publications after an offset; `undefined` if some are no longer cached. */
  page(after: number, { maxMessages, maxBytes }: PageBounds): Placed[] | undefined {
    if (after < this.#after) return undefined;
    return cutPage(this.#items, { maxMessages, maxBytes, from: this.#indexBehind(after) });
  }

  /** Returns the tag of the publication at an offset, if known. */
  tagAt(offset: number): string | undefined {
    return offset === this.#after ? this.#afterTag : this.#at(offset)?.tag;
  }

  /** True if the publication at an offset is known or is known not to exist. */
  knows(offset: number): boolean {
    return offset > this.#after || offset === this.#after && this.#afterTag !== undefined;
  }

  /**
   * True if the history certainly lacks the publication of a position with a tag; false if this is
   * unknown.
   */
  contradicts({ offset, tag }: { readonly offset: number; readonly tag: string }): boolean {
    if (offset > this.#after && this.#at(offset) === undefined) return true;
    const here = this.tagAt(offset);
    return here !== undefined && here !== tag;
  }

  #at(offset: number): Placed | undefined {
    const index = this.#indexBehind(offset) - 1;
    const item = index < 0 ? undefined : this.#items.at(index);
    return item?.offset === offset ? item : undefined;
  }

  /** Index of the first item after an offset. */
  #indexBehind(offset: number): number {
    const items = this.#items;
    let low = 0;
    for (let high = items.length; low < high;) {
      const middle = (low + high) >>> 1;
      if (items.at(middle)!.offset > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Offset before the newest `last` publications; `undefined` if some are no longer cached. */
  before(last: number): number | undefined {
    if (last > this.size) return undefined;
    return last === 0 ? this.#items.at(-1)?.offset ?? this.#after : this.#items.at(-last)!.prev;
  }
}

/** Returns the first items within bounds; at least one, even if it is larger than the bounds. */
export function cutPage(
  items: Pick<readonly Placed[], "length" | "at">,
  { maxMessages, maxBytes, from = 0 }: PageBounds & { readonly from?: number | undefined },
): Placed[] {
  const page: Placed[] = [];
  let bytes = 0;
  for (let i = from; i < items.length && page.length < maxMessages; i++) {
    const item = items.at(i)!;
    bytes += item.message.size;
    if (bytes > maxBytes && page.length > 0) break;
    page.push(item);
  }
  return page;
}
