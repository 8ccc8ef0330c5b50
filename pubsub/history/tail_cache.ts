/** The newest publications of topics, kept ready for clients that come back. */
import type { EncodedMessage } from "../../session/wire/encode.ts";

/** Most publications of one topic. */
const MAX_TAIL_MESSAGES = 512;

/** Most bytes of one topic. */
const MAX_TAIL_BYTES = 524_288;

/** Most bytes of all topics of a node; those whose last publication is longest ago are let go of. */
const MAX_TAILS_BYTES = 67_108_864;

/** A publication with its place in it, encoded once. */
export interface Placed {
  readonly message: EncodedMessage;
  readonly offset: number;
  readonly prev: number;
  /** Names it; `undefined` if its engine gave it no tag. */
  readonly tag: string | undefined;
  /** Id of a session that does not get it. */
  readonly except: string | undefined;
}

/** How much is taken at once. */
export interface PageBounds {
  readonly maxMessages: number;
  readonly maxBytes: number;
}

/** All tails of a node. */
export class Tails {
  readonly #maxBytes: number;
  /** In the order of their last publication. */
  readonly #order = new Set<Tail>();
  #bytes = 0;

  constructor(maxBytes: number = MAX_TAILS_BYTES) {
    this.#maxBytes = maxBytes;
  }

  /** Bytes of all of them. */
  get bytes(): number {
    return this.#bytes;
  }

  /** A tail has grown. */
  grew(tail: Tail, bytes: number): void {
    this.#order.delete(tail);
    this.#order.add(tail);
    this.#bytes += bytes;
    for (const oldest of this.#order) {
      if (this.#bytes <= this.#maxBytes) return;
      oldest.drop();
    }
  }

  /** A tail has let go of something. */
  shrank(tail: Tail, bytes: number): void {
    this.#bytes -= bytes;
    if (tail.size === 0) this.#order.delete(tail);
  }
}

/** The newest publications of a topic, without a hole up to the newest that is known. */
export class Tail {
  readonly #tails: Tails;
  #items: Placed[] = [];
  /** Where the oldest stands in `#items`: what is before it is cut off now and then. */
  #start = 0;
  #bytes = 0;
  #after = 0;
  /** Of the publication at `#after`, where that is known. */
  #afterTag: string | undefined;

  constructor(tails: Tails) {
    this.#tails = tails;
  }

  /** How many there are. */
  get size(): number {
    return this.#items.length - this.#start;
  }

  /** Everything after this offset is here. */
  get after(): number {
    return this.#after;
  }

  /** Begins anew behind an offset. */
  reset(after: number): void {
    const bytes = this.#bytes;
    this.#items = [];
    this.#start = 0;
    this.#bytes = 0;
    this.#after = after;
    this.#afterTag = undefined;
    this.#tails.shrank(this, bytes);
  }

  /** Lets go of everything. */
  drop(): void {
    const newest = this.#items.at(-1);
    const tag = newest === undefined ? this.#afterTag : newest.tag;
    this.reset(newest?.offset ?? this.#after);
    this.#afterTag = tag;
  }

  /** Adds the next one. */
  push(item: Placed): void {
    this.#items.push(item);
    this.#bytes += item.message.size;
    let cut = 0;
    while (this.size > MAX_TAIL_MESSAGES || this.#bytes - cut > MAX_TAIL_BYTES) {
      const oldest = this.#items[this.#start++]!;
      cut += oldest.message.size;
      this.#after = oldest.offset;
      this.#afterTag = oldest.tag;
    }
    this.#bytes -= cut;
    if (this.#start * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#start);
      this.#start = 0;
    }
    this.#tails.grew(this, item.message.size - cut);
  }

  /** Puts older ones in front; the last of them is the one before the oldest that is here. */
  prepend(items: readonly Placed[], after: number): void {
    const newer = this.#items.slice(this.#start);
    this.reset(after);
    for (const item of [...items, ...newer]) this.push(item);
  }

  /** What comes after an offset; `undefined` if not all of it is here. */
  page(after: number, { maxMessages, maxBytes }: PageBounds): Placed[] | undefined {
    if (after < this.#after) return undefined;
    return cutPage(this.#items, { maxMessages, maxBytes, from: this.#indexBehind(after) });
  }

  /** The tag of the publication at an offset, where that is known. */
  tagAt(offset: number): string | undefined {
    return offset === this.#after ? this.#afterTag : this.#at(offset)?.tag;
  }

  /** True where the publication at an offset is known, or that there is none. */
  knows(offset: number): boolean {
    return offset > this.#after || offset === this.#after && this.#afterTag !== undefined;
  }

  /**
   * True where the history has another publication, or none, at a position with a tag; false where
   * that cannot be told.
   */
  contradicts({ offset, tag }: { readonly offset: number; readonly tag: string }): boolean {
    if (offset > this.#after && this.#at(offset) === undefined) return true;
    const here = this.tagAt(offset);
    return here !== undefined && here !== tag;
  }

  #at(offset: number): Placed | undefined {
    const index = this.#indexBehind(offset) - 1;
    const item = index < this.#start ? undefined : this.#items[index];
    return item?.offset === offset ? item : undefined;
  }

  /** Index of the first item behind an offset. */
  #indexBehind(offset: number): number {
    const items = this.#items;
    let low = this.#start;
    for (let high = items.length; low < high;) {
      const middle = (low + high) >>> 1;
      if (items[middle]!.offset > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** The offset before the newest so many; `undefined` if they are not all here. */
  before(last: number): number | undefined {
    if (last > this.size) return undefined;
    return last === 0 ? this.#items.at(-1)?.offset ?? this.#after : this.#items.at(-last)!.prev;
  }
}

/** The first of several, within bounds; one always goes. */
export function cutPage(
  items: readonly Placed[],
  { maxMessages, maxBytes, from = 0 }: PageBounds & { readonly from?: number },
): Placed[] {
  const page: Placed[] = [];
  let bytes = 0;
  for (let i = from; i < items.length && page.length < maxMessages; i++) {
    bytes += items[i]!.message.size;
    if (bytes > maxBytes && page.length > 0) break;
    page.push(items[i]!);
  }
  return page;
}
