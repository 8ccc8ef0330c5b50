/** Where a replay begins, as it is found out before the answer. */
import type {
  HistoryOptions,
  HistoryPosition,
  RecoveryReason,
  SubscribeAnswer,
} from "../../session/wire/recovery.ts";
import type { HistoryQuery, PlacedPage } from "./reader.ts";
import type { Line } from "./semaphore.ts";
import type { Placed, Tail } from "./tail_cache.ts";

/** How often a page is asked for, if the engine answers in between. */
const MAX_READS = 3;

/** A topic, as its feed follows it. */
export interface Followed {
  /** The topic. */
  readonly topic: string;
  /** The epoch; `undefined` until it is known. */
  readonly epoch: string | undefined;
  /** Counts how often the history began anew: it may do so under the name that it had. */
  readonly era: number;
  /** For how long a place before the first publication is trusted, in milliseconds. */
  readonly remembersMs: number;
  /** The newest offset that is known; the members have everything up to it. */
  readonly known: number;
  /** The newest publications. */
  readonly tail: Tail;
  /** Waits until it is known where the topic stands, or until that took too long. */
  whenOpen(): Promise<void>;
  /** Reads what is newer than what is known, and tells whether the engine answered. */
  sync(): Promise<boolean>;
  /** Reads a page; rejects if the engine does not answer. */
  read(query: HistoryQuery): Promise<PlacedPage>;
}

/** A place in a topic, behind an offset. */
interface Start {
  readonly epoch: string;
  readonly at: number;
  /** The tag of the publication there, where that is known. */
  readonly tag?: string | undefined;
  /** What comes next, if it was read already. */
  readonly ahead?: readonly Placed[] | undefined;
}

/** Where a replay begins. */
export interface Beginning extends Start {
  /** The era of the feed. */
  readonly era: number;
  readonly answer: SubscribeAnswer;
}

/** Why a page cannot be had. */
type Missing = Extract<RecoveryReason, "unavailable" | "new-epoch">;

/** Reads a topic for one replay, and changes nothing of it. */
export class ReplayReader {
  readonly #feed: Followed;
  readonly #line: Line;
  readonly #isOver: () => boolean;

  /** Creates a reader; it asks the engine for nothing any more once `isOver` says so. */
  constructor(feed: Followed, options: { readonly line: Line; readonly isOver: () => boolean }) {
    this.#feed = feed;
    this.#line = options.line;
    this.#isOver = options.isOver;
  }

  /** Reads a page of an epoch. */
  async read(epoch: string | undefined, query: HistoryQuery): Promise<PlacedPage | Missing> {
    const feed = this.#feed;
    for (let i = 0; i < MAX_READS; i++) {
      await this.#line.enter();
      try {
        if (this.#isOver()) return "unavailable";
        const page = await feed.read(query);
        if (page.epoch === epoch) return page;
      } catch {
        // Whether the engine is back, the feed finds out for all.
      } finally {
        this.#line.leave();
      }
      if (this.#isOver() || !await feed.sync()) return "unavailable";
      if (feed.epoch !== epoch) return "new-epoch";
    }
    return "unavailable";
  }

  /** Finds where to begin; `undefined` if nothing is known of the topic. */
  async find({ since, last }: HistoryOptions): Promise<Beginning | undefined> {
    const feed = this.#feed;
    await feed.whenOpen();
    if (feed.epoch === undefined) return undefined;
    let reason: RecoveryReason | undefined;
    if (since !== undefined) {
      const after = isForgotten(feed, since) ? "too-old" : await this.#after(since);
      if (typeof after !== "string") {
        const { epoch, offset: at, tag } = since;
        return beginAt(feed, { ...after, epoch, at, tag }, { recovered: true });
      }
      reason = after;
    }
    const newest = last === undefined ? undefined : await this.#newest(last);
    if (last !== undefined && newest === undefined) reason ??= "unavailable";
    return beginWithout(feed, { since, last }, { reason, newest });
  }

  /** What comes after a position, as far as it was read; or why not everything is here. */
  async #after(since: HistoryPosition): Promise<Pick<Start, "ahead"> | RecoveryReason> {
    const feed = this.#feed;
    if (since.epoch !== feed.epoch || since.offset > feed.known) {
      // Another node may have told the client what this one has yet to hear.
      if (!await feed.sync()) return "unavailable";
      if (since.epoch !== feed.epoch) return "new-epoch";
      if (since.offset > feed.known) return "beyond-head";
    }
    // A place before the first publication has none that it could be told by.
    const tag = since.offset === 0 ? undefined : since.tag;
    const isHere = since.offset >= feed.tail.after;
    if (isHere && (tag === undefined || feed.tail.knows(since.offset))) {
      const { offset } = since;
      return tag !== undefined && feed.tail.contradicts({ offset, tag }) ? "new-epoch" : {};
    }
    const page = await this.read(since.epoch, { after: since.offset });
    if (typeof page === "string") return page;
    const { anchor, items: [first] } = page;
    if (tag !== undefined) {
      if (anchor !== undefined && anchor !== tag) return "new-epoch";
      // Between the two offsets of what comes next nothing has ever stood.
      if (first !== undefined && first.prev < since.offset) return "new-epoch";
    }
    if (isHere) return {};
    return first === undefined || first.prev > since.offset ? "too-old" : { ahead: page.items };
  }

  /** Before the newest so many; `undefined` if that cannot be found out. */
  async #newest(last: number): Promise<Start | undefined> {
    const feed = this.#feed;
    for (let i = 0; i < MAX_READS; i++) {
      const epoch = feed.epoch!;
      const before = feed.tail.before(last);
      if (before !== undefined) return { epoch, at: before, tag: feed.tail.tagAt(before) };
      const page = await this.read(epoch, { last });
      if (page === "unavailable") return undefined;
      // Of an epoch that began meanwhile it is the newest too.
      if (page === "new-epoch" || feed.epoch !== epoch) continue;
      const { items, head } = page;
      // What came live since the page was read is not in it.
      const at = Math.min(items[0]?.prev ?? head, feed.known);
      return {
        epoch,
        at,
        tag: feed.tail.tagAt(at),
        ahead: items[0]?.prev === at ? items : undefined,
      };
    }
    return undefined;
  }
}

/** Begins without what came after `since`: with the newest, or from now on. */
export function beginWithout(
  feed: Followed,
  options: HistoryOptions,
  why: { readonly reason: RecoveryReason | undefined; readonly newest?: Start | undefined },
): Beginning {
  const { since } = options;
  const { reason, newest } = why;
  const start: Start = newest ??
    { epoch: feed.epoch!, at: feed.known, tag: feed.tail.tagAt(feed.known) };
  const { epoch, at } = start;
  if (since === undefined) return beginAt(feed, start, refusal(options, reason));
  // A new epoch may have begun while this was found out.
  if (since.epoch !== epoch) return beginAt(feed, start, refusal(options, "new-epoch"));
  // Whether it is ahead of the engine nobody knows; what it has is not to come again.
  const isAhead = reason === "unavailable" && since.offset > at;
  const { offset, tag } = since;
  return beginAt(feed, isAhead ? { epoch, at: offset, tag } : start, refusal(options, reason));
}

/** What is answered where the asker does not get what it asked for. */
export function refusal(
  { since, last }: HistoryOptions,
  reason: RecoveryReason | undefined,
): Pick<SubscribeAnswer, "recovered" | "reason"> {
  if (reason === undefined) return {};
  if (since !== undefined) return { recovered: false, reason };
  return last === undefined ? {} : { reason };
}

function beginAt(
  feed: Followed,
  { epoch, at, tag, ahead }: Start,
  answer: Pick<SubscribeAnswer, "recovered" | "reason">,
): Beginning {
  const head = Math.max(at, feed.known);
  const named = at === 0 && feed.remembersMs < Infinity ? stamp(Date.now()) : tag;
  const place = named === undefined ? { epoch, offset: at } : { epoch, offset: at, tag: named };
  return { epoch, at, ahead, era: feed.era, answer: { ...place, head, ...answer } };
}

/** In front of the minute at which a place before the first publication was told; no tag has it. */
const STAMP = "~";

const MINUTE_MS = 60_000;

function stamp(now: number): string {
  return STAMP + Math.floor(now / MINUTE_MS).toString(36);
}

/**
 * True for a place before the first publication that is so old that a history of the topic may have
 * come and gone since: half of the time that the engine remembers one leaves room for clocks that differ.
 */
function isForgotten({ remembersMs }: Followed, { offset, tag }: HistoryPosition): boolean {
  if (offset !== 0 || !tag?.startsWith(STAMP) || remembersMs === Infinity) return false;
  const ageMs = Date.now() - parseInt(tag.slice(STAMP.length), 36) * MINUTE_MS;
  return !(ageMs <= remembersMs / 2);
}
