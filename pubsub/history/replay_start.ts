/** The search for the start of a replay, before the answer. */
import type {
  HistoryOptions,
  HistoryPosition,
  RecoveryReason,
  SubscribeAnswer,
} from "../../session/wire/recovery.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { HistoryQuery, PlacedPage } from "./reader.ts";
import type { Semaphore } from "./semaphore.ts";
import type { Placed, TailCache } from "./tail_cache.ts";

/** Most attempts to read a page, while the engine answers in between. */
const MAX_READS = 3;

/** A topic that a feed follows. */
export interface Followed {
  readonly topic: string;
  readonly runtime: Runtime;
  /** The epoch; `undefined` until known. */
  readonly epoch: string | undefined;
  /** Number of times that the history began anew, also under an epoch of the same name. */
  readonly era: number;
  /** Time for which a position before the first publication is trusted, in milliseconds. */
  readonly remembersMs: number;
  /** The newest known offset: members have all publications up to this one. */
  readonly known: number;
  /** The newest publications. */
  readonly tail: TailCache;
  /** Waits until the position of the topic is known, or until the time for that is over. */
  whenOpen(): Promise<void>;
  /** Reads all publications after the newest known offset; false if the engine does not answer. */
  sync(): Promise<boolean>;
  /** Reads a page; rejects if the engine does not answer. */
  read(query: HistoryQuery): Promise<PlacedPage>;
}

/** A position in a topic, after the publication at an offset. */
interface ReplayPosition {
  readonly epoch: string;
  readonly at: number;
  /** Tag of the publication at the offset, if known. */
  readonly tag?: string | undefined;
  /** The next publications, if already read. */
  readonly ahead?: readonly Placed[] | undefined;
}

/** The start of a replay, and the answer for the client. */
export interface ReplayStart extends ReplayPosition {
  /** The era of the feed. */
  readonly era: number;
  readonly answer: SubscribeAnswer;
}

/** Reason for which a page cannot be read. */
type Missing = Extract<RecoveryReason, "unavailable" | "new-epoch">;

/** Reads a topic for one replay, without changing the feed. */
export class ReplayReader {
  readonly #feed: Followed;
  readonly #semaphore: Semaphore;
  readonly #isOver: () => boolean;

  /** Creates a reader; after `isOver` returns true, the reader sends no more requests. */
  constructor(
    feed: Followed,
    options: { readonly semaphore: Semaphore; readonly isOver: () => boolean },
  ) {
    this.#feed = feed;
    this.#semaphore = options.semaphore;
    this.#isOver = options.isOver;
  }

  /** Reads a page of an epoch. */
  async read(epoch: string | undefined, query: HistoryQuery): Promise<PlacedPage | Missing> {
    const feed = this.#feed;
    for (let i = 0; i < MAX_READS; i++) {
      await this.#semaphore.enter();
      try {
        if (this.#isOver()) return "unavailable";
        const page = await feed.read(query);
        if (page.epoch === epoch) return page;
      } catch {
        // The feed finds out for all replays when the engine is back.
      } finally {
        this.#semaphore.leave();
      }
      if (this.#isOver() || !await feed.sync()) return "unavailable";
      if (feed.epoch !== epoch) return "new-epoch";
    }
    return "unavailable";
  }

  /** Finds the start; `undefined` if the epoch of the topic is still unknown. */
  async find({ since, last }: HistoryOptions): Promise<ReplayStart | undefined> {
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

  /** Checks that all publications after a position can be had; else returns the reason. */
  async #after(since: HistoryPosition): Promise<Pick<ReplayPosition, "ahead"> | RecoveryReason> {
    const feed = this.#feed;
    if (since.epoch !== feed.epoch || since.offset > feed.known) {
      // Another node may have sent the client publications that have yet to arrive here.
      if (!await feed.sync()) return "unavailable";
      if (since.epoch !== feed.epoch) return "new-epoch";
      if (since.offset > feed.known) return "beyond-head";
    }
    // A position before the first publication has no publication with a tag to compare.
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
      // No publication ever had an offset between `prev` and `offset` of the next one.
      if (first !== undefined && first.prev < since.offset) return "new-epoch";
    }
    if (isHere) return {};
    return first === undefined || first.prev > since.offset ? "too-old" : { ahead: page.items };
  }

  /** Finds the position before the newest `last` publications; `undefined` if that fails. */
  async #newest(last: number): Promise<ReplayPosition | undefined> {
    const feed = this.#feed;
    for (let i = 0; i < MAX_READS; i++) {
      const epoch = feed.epoch!;
      const before = feed.tail.before(last);
      if (before !== undefined) return { epoch, at: before, tag: feed.tail.tagAt(before) };
      const page = await this.read(epoch, { last });
      if (page === "unavailable") return undefined;
      // A new epoch has newest publications too: read those.
      if (page === "new-epoch" || feed.epoch !== epoch) continue;
      const { items, head } = page;
      // The page lacks the publications that came live after the read.
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

/** Begins without the publications after `since`: with the newest ones, or from now on. */
export function beginWithout(
  feed: Followed,
  options: HistoryOptions,
  why: {
    readonly reason: RecoveryReason | undefined;
    readonly newest?: ReplayPosition | undefined;
  },
): ReplayStart {
  const { since } = options;
  const { reason, newest } = why;
  const start: ReplayPosition = newest ??
    { epoch: feed.epoch!, at: feed.known, tag: feed.tail.tagAt(feed.known) };
  const { epoch, at } = start;
  if (since === undefined) return beginAt(feed, start, refusal(options, reason));
  // A new epoch may have begun during the search.
  if (since.epoch !== epoch) return beginAt(feed, start, refusal(options, "new-epoch"));
  // The engine cannot confirm the client's offset; publications must not come twice.
  const isAhead = reason === "unavailable" && since.offset > at;
  const { offset, tag } = since;
  return beginAt(feed, isAhead ? { epoch, at: offset, tag } : start, refusal(options, reason));
}

/** The part of an answer that refuses a request; empty without a reason. */
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
  { epoch, at, tag, ahead }: ReplayPosition,
  answer: Pick<SubscribeAnswer, "recovered" | "reason">,
): ReplayStart {
  const head = Math.max(at, feed.known);
  const named = at === 0 && feed.remembersMs < Infinity ? stamp(feed.runtime.now()) : tag;
  const place = named === undefined ? { epoch, offset: at } : { epoch, offset: at, tag: named };
  return { epoch, at, ahead, era: feed.era, answer: { ...place, head, ...answer } };
}

/**
 * Start of a stamp: the minute in which a client got a position before the first publication. No
 * tag of an engine begins with this character.
 */
const STAMP = "~";

const MINUTE_MS = 60_000;

function stamp(now: number): string {
  return STAMP + Math.floor(now / MINUTE_MS).toString(36);
}

/**
 * Tells whether a position before the first publication is so old that a history of the topic may
 * have come and gone since. The limit is half of the time for which the engine remembers a history,
 * which leaves room for clocks that differ.
 */
function isForgotten(
  { remembersMs, runtime }: Followed,
  { offset, tag }: HistoryPosition,
): boolean {
  if (offset !== 0 || !tag?.startsWith(STAMP) || remembersMs === Infinity) return false;
  const ageMs = runtime.now() - parseInt(tag.slice(STAMP.length), 36) * MINUTE_MS;
  return !(ageMs <= remembersMs / 2);
}
