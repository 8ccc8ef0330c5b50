/** The replay of a history to one session, before the session follows the topic live. */
import { QueueFullError } from "../../errors.ts";
import type {
  HistoryOptions,
  HistoryPosition,
  RecoveryReason,
  SubscribeReply,
} from "../../session/wire/recovery.ts";
import { internals, type Session } from "../../session/session.ts";
import type { Flusher } from "../../session/queue/flusher.ts";
import { packAll } from "../../session/queue/frames.ts";
import type { SendQueue } from "../../session/queue/send_queue.ts";
import type { EncodedMessage } from "../../session/wire/encode.ts";
import { settlesWithin } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Confirmation } from "../confirmation.ts";
import type { Semaphore } from "./semaphore.ts";
import { cutPage, type PageBounds, type Placed, type TailCache } from "./tail_cache.ts";
import type { HistoryQuery, PlacedPage } from "./reader.ts";

/** Maximum number of attempts to read a page while the broker responds in between. */
const MAX_READS = 3;

/** Longest wait before the reply, in milliseconds: by default a client waits for 30 s. */
const REPLY_TIMEOUT_MS = 20_000;

/**
 * Maximum total size of the pages that wait for a node's sessions, in bytes. Pages beyond that are
 * read again later.
 */
const MAX_AHEAD_BYTES = 67_108_864;

/** Options of a replay; `SubscribeOptions` of topics documents these. */
export interface ReplayOptions extends HistoryOptions {
  /**
   * Called once with the start position, after `subscribe` returned, and before the first
   * publication is sent. Not called when the session is closed.
   */
  readonly onReply?: ((reply: SubscribeReply) => void) | undefined;
}

/**
 * The start of a replay: the position that a client requested, or the offset that the session has
 * reached.
 */
export type ReplayRequest =
  | (ReplayOptions & { readonly at?: undefined })
  | { readonly at: number };

/** The part of a feed that replays use. */
export interface Replayable {
  readonly topic: string;
  readonly runtime: Runtime;
  /** The epoch; `undefined` until known. */
  readonly epoch: string | undefined;
  /** Number of times that the history has started over, even under the same epoch name. */
  readonly era: number;
  /** Time for which a position before the first publication is trusted, in milliseconds. */
  readonly remembersMs: number;
  /** The newest known offset. Members have received all publications up to it. */
  readonly known: number;
  /** The newest publications. */
  readonly tail: TailCache;
  /** Set once the position is known and live publications arrive. */
  readonly confirmation: Confirmation;
  /** Waits for the confirmation, or until the time limit is over. */
  whenOpen(): Promise<void>;
  /**
   * Reads all publications after the newest known offset. Resolves to false if the broker does not
   * respond.
   */
  sync(): Promise<boolean>;
  /** Reads a page. Rejects if the broker does not respond. */
  read(query: HistoryQuery): Promise<PlacedPage>;
  /** The offset at which this node started to follow the epoch. */
  readonly start: number;
  /** Resolves when the position of the topic is known, or the feed is closed. */
  readonly begun: Promise<void>;
  /** Resolves at the next change of the newest known offset, or response of the broker. */
  changed(): Promise<void>;
  /** Adds a session that has caught up to the live subscribers. */
  join(session: Session): void;
  /** Number of publications outside the history so far. */
  readonly outside: number;
  /** True if something may have been published outside the history after an offset. */
  hasOutsideAfter(offset: number): boolean;
}

export interface ReplayCounts {
  /** Replays that began. */
  replays: number;
  /** Publications that were sent by replays. */
  replayed: number;
  /** Gaps that were reported to sessions. */
  gaps: number;
}

/** State that a node's replays share. */
export interface ReplayHost {
  readonly runtime: Runtime;
  /** Bounds the pages that are read or replayed at the same time. */
  readonly replaying: Semaphore;
  readonly counts: ReplayCounts;
  /** Number of replays of a session, including ended ones that still wait for the broker. */
  readonly underWay: Map<Session, number>;
  /** Bytes of pages that have been read and wait for sessions. */
  aheadBytes: number;
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

/** The start of a replay, and the reply for the client. */
interface ReplayStart extends ReplayPosition {
  /** The era of the feed. */
  readonly era: number;
  readonly reply: SubscribeReply;
}

/** Reason why a page cannot be read. */
type Missing = Extract<RecoveryReason, "unavailable" | "new-epoch">;

/** Reads a topic for one replay, without changing the feed. */
class ReplayReader {
  readonly #feed: Replayable;
  readonly #semaphore: Semaphore;
  readonly #isOver: () => boolean;

  /** Creates a reader, which sends no more requests once `isOver` returns true. */
  constructor(
    feed: Replayable,
    options: { readonly semaphore: Semaphore; readonly isOver: () => boolean },
  ) {
    this.#feed = feed;
    this.#semaphore = options.semaphore;
    this.#isOver = options.isOver;
  }

  async read(epoch: string | undefined, query: HistoryQuery): Promise<PlacedPage | Missing> {
    const feed = this.#feed;
    for (let i = 0; i < MAX_READS; i++) {
      await this.#semaphore.enter();
      try {
        if (this.#isOver()) return "unavailable";
        const page = await feed.read(query);
        if (page.epoch === epoch) return page;
      } catch {
        // The feed detects for all replays that the broker is reachable again.
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
    const { outside } = feed;
    await feed.whenOpen();
    if (feed.epoch === undefined) return undefined;
    // Without an earlier position, the reply promises that publications arrive from now on.
    if (!feed.confirmation.isGiven && since === undefined) return undefined;
    let reason: RecoveryReason | undefined;
    if (since !== undefined) {
      const after = isForgotten(feed, since) ? "too-old" : await this.#after(since);
      if (typeof after !== "string") {
        const { epoch, offset: at, tag } = since;
        const start = { ...after, epoch, at, tag };
        const isWhole = outside === feed.outside && !feed.hasOutsideAfter(at);
        if (isWhole) return beginAt(feed, start, { recovered: true });
        // The publications in the history follow anyway.
        return beginAt(feed, start, { recovered: false, reason: "interrupted" });
      }
      reason = after;
    }
    const newest = last === undefined ? undefined : await this.#newest(last);
    if (last !== undefined && newest === undefined) reason ??= "unavailable";
    return beginWithout(feed, { since, last }, { reason, newest });
  }

  /** Checks that all publications after a position are available. If not, returns the reason. */
  async #after(since: HistoryPosition): Promise<Pick<ReplayPosition, "ahead"> | RecoveryReason> {
    const feed = this.#feed;
    if (since.epoch !== feed.epoch || since.offset > feed.known) {
      // Another node may have sent the client publications that have yet to arrive on this node.
      if (!await feed.sync()) return "unavailable";
      if (since.epoch !== feed.epoch) return "new-epoch";
      if (since.offset > feed.known) return "beyond-head";
    }
    // For a position before the first publication there is no tag to compare.
    const tag = since.offset === 0 ? undefined : since.tag;
    const isHere = since.offset >= feed.tail.after;
    if (isHere && (tag === undefined || feed.tail.knows(since.offset))) {
      const { offset } = since;
      return tag !== undefined && feed.tail.contradicts({ offset, tag }) ? "new-epoch" : {};
    }
    const { era } = feed;
    const page = await this.read(since.epoch, { after: since.offset });
    if (typeof page === "string") return page;
    // The history may have started over while the page was being read.
    if (feed.era !== era) return "new-epoch";
    const { anchor, items: [first] } = page;
    if (tag !== undefined) {
      if (anchor !== undefined && anchor !== tag) return "new-epoch";
      // No publication ever had an offset between the next one's `prev` and `offset`.
      if (first !== undefined && first.prev < since.offset) return "new-epoch";
    }
    if (isHere) return {};
    return first === undefined || first.prev > since.offset ? "too-old" : { ahead: page.items };
  }

  /**
   * Finds the position before the newest `last` publications. Returns `undefined` if that fails.
   */
  async #newest(last: number): Promise<ReplayPosition | undefined> {
    const feed = this.#feed;
    for (let i = 0; i < MAX_READS; i++) {
      const { era } = feed;
      const epoch = feed.epoch!;
      const before = feed.tail.before(last);
      if (before !== undefined) return { epoch, at: before, tag: feed.tail.tagAt(before) };
      const page = await this.read(epoch, { last });
      if (page === "unavailable") return undefined;
      // A new epoch has newest publications too, so read those.
      if (page === "new-epoch" || feed.era !== era) continue;
      const { items, head } = page;
      // The page lacks the publications that arrived live after the read.
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

/** Starts without the publications after `since`: with the newest ones, or from now on. */
function beginWithout(
  feed: Replayable,
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
  if (since === undefined) return beginAt(feed, start, rejection(options, reason));
  // A new epoch may have started during the search.
  if (since.epoch !== epoch) return beginAt(feed, start, rejection(options, "new-epoch"));
  // The broker cannot confirm the client's offset; publications must not be duplicated.
  const isAhead = reason === "unavailable" && since.offset > at;
  const { offset, tag } = since;
  return beginAt(feed, isAhead ? { epoch, at: offset, tag } : start, rejection(options, reason));
}

/** The part of a reply that rejects a request; empty if there is no reason. */
function rejection(
  { since, last }: HistoryOptions,
  reason: RecoveryReason | undefined,
): Pick<SubscribeReply, "recovered" | "reason"> {
  if (reason === undefined) return {};
  if (since !== undefined) return { recovered: false, reason };
  return last === undefined ? {} : { reason };
}

/** The reply while no position of the topic is known; a gap with the position follows. */
function unknownStart({ since }: HistoryOptions): SubscribeReply {
  const reason = "unavailable";
  return since === undefined ? { reason } : { recovered: false, reason };
}

function beginAt(
  feed: Replayable,
  { epoch, at, tag, ahead }: ReplayPosition,
  reply: Pick<SubscribeReply, "recovered" | "reason">,
): ReplayStart {
  const head = Math.max(at, feed.known);
  const named = at === 0 && feed.remembersMs < Infinity ? stamp(feed.runtime.now()) : tag;
  const place = named === undefined ? { epoch, offset: at } : { epoch, offset: at, tag: named };
  return { epoch, at, ahead, era: feed.era, reply: { ...place, head, ...reply } };
}

/**
 * Prefix of a stamp: the minute in which a client received a position before the first publication.
 * No broker's tag starts with this character.
 */
const STAMP = "~";

const MINUTE_MS = 60_000;

/**
 * Returns the tag of a position before the first publication.
 *
 * @param now The time, in milliseconds since the Unix epoch.
 * @returns The minute, in a form that no broker uses for tags.
 */
export function stamp(now: number): string {
  return STAMP + Math.floor(now / MINUTE_MS).toString(36);
}

/**
 * True if a position before the first publication is so old that a history of the topic may have
 * existed and been forgotten since then. The limit is half of the time for which the broker
 * remembers a history, which leaves room for clocks that differ.
 */
function isForgotten(
  { remembersMs, runtime }: Replayable,
  { offset, tag }: HistoryPosition,
): boolean {
  if (offset !== 0 || !tag?.startsWith(STAMP) || remembersMs === Infinity) return false;
  const ageMs = runtime.now() - parseInt(tag.slice(STAMP.length), 36) * MINUTE_MS;
  return !(ageMs <= remembersMs / 2);
}

/**
 * Brings one session to the newest offset of its feed. The session receives the reply first, then
 * one page after another, as fast as the peer reads them. It joins the live subscribers in the same
 * step in which it reaches the feed's offset.
 *
 * A page fills at most half of the session's send queue, and is sent when the queue is empty.
 */
export class Replay {
  readonly #feed: Replayable;
  readonly #session: Session;
  readonly #host: ReplayHost;
  readonly #request: ReplayRequest;
  readonly #bounds: PageBounds;
  readonly #reader: ReplayReader;
  #finding: Promise<ReplayStart | undefined> | undefined;
  /** The next publications, if already read. */
  #ahead: readonly Placed[] | undefined;
  #aheadBytes = 0;
  #at: number | undefined;
  #epoch: string | undefined;
  #era: number;
  #hasReplied = false;
  #isEnded = false;
  /** A later call for the session that asked only for the position. */
  #asker: ReplayOptions["onReply"];

  /** Creates a replay; `start` starts reading and sending. */
  constructor(
    feed: Replayable,
    session: Session,
    options: { readonly request: ReplayRequest; readonly host: ReplayHost },
  ) {
    this.#feed = feed;
    this.#session = session;
    this.#host = options.host;
    this.#request = options.request;
    this.#at = options.request.at;
    this.#epoch = feed.epoch;
    this.#era = feed.era;
    const { maxMessages, maxBytes } = session[internals].settings.sendQueue;
    this.#bounds = {
      maxMessages: Math.max(1, maxMessages >> 1),
      maxBytes: Math.max(1, maxBytes >> 1),
    };
    const semaphore = options.host.replaying;
    this.#reader = new ReplayReader(feed, { semaphore, isOver: () => this.#isEnded });
  }

  /** The offset that the session has reached; `undefined` before the reply. */
  get at(): number | undefined {
    return this.#at;
  }

  /**
   * The epoch of `at`, if it is over and the session is about to be notified; otherwise
   * `undefined`.
   */
  get pastEpoch(): string | undefined {
    return this.#era === this.#feed.era ? undefined : this.#epoch;
  }

  /** True once the call that started the replay has a reply. */
  get hasReplied(): boolean {
    return this.#hasReplied;
  }

  /**
   * Replies to another call together with the first. If there are several such calls, only the
   * newest waits.
   */
  tellToo(onReply: ReplayOptions["onReply"]): void {
    const before = this.#asker;
    this.#asker = onReply;
    tellReply(this.#session, before, { isSuperseded: true });
  }

  /** Starts in a later step than this one. */
  start(): void {
    const { counts, underWay } = this.#host;
    const session = this.#session;
    counts.replays++;
    underWay.set(session, (underWay.get(session) ?? 0) + 1);
    const over = () => {
      this.#keep(undefined);
      const left = underWay.get(session)! - 1;
      if (left > 0) underWay.set(session, left);
      else underWay.delete(session);
    };
    // Starting now could let the session join before its feed has delivered the current page.
    Promise.resolve().then(() => this.#run()).catch((error) => {
      // A full queue has already closed the session.
      if (error instanceof QueueFullError || session.isClosed) return;
      session[internals].failed(error, "The replay failed");
    }).then(() => this.#finding).then(over, over);
  }

  /** Ends the replay immediately; a pending reply says that the request was superseded. */
  end(): void {
    this.#isEnded = true;
    this.#keep(undefined);
    if (this.#request.at === undefined) this.#reply({ isSuperseded: true });
  }

  async #run(): Promise<void> {
    if (this.#request.at === undefined) await this.#begin(this.#request);
    const feed = this.#feed;
    const queue = this.#session[internals].queue!;
    while (!this.#isEnded && !queue.isOver) {
      this.#followEpoch();
      if (this.#at === feed.known) return feed.join(this.#session);
      if (this.#at! > feed.known) await this.#waitForFeed();
      else if (!await this.#step()) await queue.flushed();
    }
  }

  /** Finds the start, and replies within the time limit. */
  async #begin(options: ReplayOptions): Promise<void> {
    const feed = this.#feed;
    let found: ReplayStart | undefined;
    this.#finding = this.#reader.find(options);
    const finding = this.#finding.then((one) => void (found = one));
    const isInTime = await settlesWithin(this.#host.runtime, finding, REPLY_TIMEOUT_MS);
    if (this.#isEnded) return;
    if (!isInTime && feed.epoch !== undefined && options.since !== undefined) {
      found = beginWithout(feed, options, { reason: "unavailable" });
    }
    if (found === undefined) {
      this.#reply(unknownStart(options));
      await feed.begun;
      if (this.#isEnded) return;
      return this.#beginAnew("unavailable");
    }
    const { epoch, era, at, ahead, reply } = found;
    this.#epoch = epoch;
    this.#era = era;
    this.#at = at;
    this.#keep(ahead);
    this.#reply(reply);
  }

  /** Starts over if the topic's history has. */
  #followEpoch(): void {
    if (this.#era !== this.#feed.era) this.#beginAnew("new-epoch");
  }

  /**
   * Continues where this node started to follow the epoch, or later if the client has received
   * more.
   */
  #beginAnew(reason: RecoveryReason): void {
    const { epoch, start } = this.#feed;
    const since = this.#request.at === undefined ? this.#request.since : undefined;
    // A new history under the same name does not contain the publications that the client has
    // received.
    const isAhead = since?.epoch === epoch && this.#epoch !== epoch;
    const offset = isAhead ? Math.max(start, since!.offset) : start;
    this.#epoch = epoch;
    this.#era = this.#feed.era;
    this.#at = offset;
    this.#keep(undefined);
    tellGap(this.#feed, this.#session, { reason, offset });
  }

  /**
   * Waits for the feed, because the client has received more than this node, and the broker was
   * unreachable.
   */
  async #waitForFeed(): Promise<void> {
    const feed = this.#feed;
    await feed.changed();
    const isAhead = () => !this.#isEnded && this.#era === feed.era && this.#at! > feed.known;
    if (isAhead() && await feed.sync() && isAhead()) this.#skipTo("beyond-head", feed.known);
  }

  /**
   * Sends the next page, if there is one. Returns false if the session's queue has no room for it.
   */
  async #step(): Promise<boolean> {
    const page = await this.#nextPage();
    if (this.#isEnded || page === undefined || this.#feed.era !== this.#era) return true;
    // Checking right before sending prevents the pages of several topics from adding up.
    const isTaken = this.#session[internals].queue!.isFlushed;
    this.#keep(isTaken ? undefined : page);
    if (isTaken) this.#send(page);
    return isTaken;
  }

  /** Returns the next page; `undefined` if the caller has to check the feed again. */
  async #nextPage(): Promise<readonly Placed[] | undefined> {
    const feed = this.#feed;
    if (this.#ahead !== undefined) return cutPage(this.#ahead, this.#bounds);
    const after = this.#at!;
    if (after >= feed.tail.after) {
      const { replaying } = this.#host;
      await replaying.enter();
      replaying.leave();
      // The tail may have dropped the page in the meantime.
      return feed.tail.page(after, this.#bounds);
    }
    const page = await this.#reader.read(this.#epoch, { after });
    if (this.#isEnded) return undefined;
    if (page === "unavailable") this.#skipTo("unavailable", feed.known);
    if (typeof page === "string") return undefined;
    const { items, head } = page;
    if (items.length > 0) return cutPage(items, this.#bounds);
    // Publications after this head have arrived since then, and may be available.
    const at = head > after ? Math.min(head, feed.known) : feed.known;
    if (feed.era === this.#era) this.#skipTo("too-old", at);
    return undefined;
  }

  /** Keeps the next publications until the session accepts a page, within the limit of the node. */
  #keep(page: readonly Placed[] | undefined): void {
    const host = this.#host;
    host.aheadBytes -= this.#aheadBytes;
    const bytes = page?.reduce((sum, { message }) => sum + message.size, 0) ?? 0;
    const isKept = page !== undefined && host.aheadBytes + bytes <= MAX_AHEAD_BYTES;
    this.#ahead = isKept ? page : undefined;
    this.#aheadBytes = isKept ? bytes : 0;
    host.aheadBytes += this.#aheadBytes;
  }

  #send(page: readonly Placed[]): void {
    const feed = this.#feed;
    // Publications that the feed has yet to deliver arrive live.
    const items = page.filter(({ offset }) => offset <= feed.known);
    const [first] = items;
    if (first === undefined) return this.#skipTo("too-old", feed.known);
    if (first.prev > this.#at!) this.#skipTo("too-old", first.prev);
    const session = this.#session;
    const { queue, settings } = session[internals];
    const push = (page: readonly EncodedMessage[]) => pushPage(queue!, settings.flusher, page);
    // The reply promised these publications to the client, so the queue may not drop any of them.
    let messages: EncodedMessage[] = [];
    for (const item of items) {
      if (!isLeftOut(session, item.except)) {
        messages.push(item.message);
        continue;
      }
      push(messages);
      messages = [];
      tellSkip(session, item);
    }
    push(messages);
    if (this.#isEnded) return;
    this.#at = items.at(-1)!.offset;
    this.#host.counts.replayed += items.length;
  }

  #skipTo(reason: RecoveryReason, offset: number): void {
    this.#at = offset;
    this.#keep(undefined);
    this.#host.counts.gaps++;
    tellGap(this.#feed, this.#session, { reason, offset });
  }

  #reply(reply: SubscribeReply): void {
    if (this.#hasReplied) return;
    this.#hasReplied = true;
    tellReply(this.#session, (this.#request as ReplayOptions).onReply, reply);
    const { recovered: _recovered, reason, ...standing } = reply;
    // Without an epoch and without a reason, a reply says that the topic has no history.
    const isUnknown = reply.epoch === undefined && reason !== undefined;
    tellReply(this.#session, this.#asker, isUnknown ? { reason } : standing);
  }
}

/** Calls `onReply`; an error of the application counts as a failed handler. */
export function tellReply(
  session: Session,
  onReply: ReplayOptions["onReply"],
  reply: SubscribeReply,
): void {
  if (!session.isClosed) session[internals].notify(() => onReply?.(reply));
}

/** Returns a function that calls `onReply` once; later calls have no effect. */
export function replyOnce(
  session: Session,
  onReply: ReplayOptions["onReply"],
): (reply: SubscribeReply) => void {
  let hasReplied = false;
  return (reply) => {
    if (hasReplied) return;
    hasReplied = true;
    tellReply(session, onReply, reply);
  };
}

/**
 * Reports a gap to a session, and the offset after which publications continue. Plain sessions
 * receive no notice.
 */
export function tellGap(
  { topic, epoch, tail }: Pick<Replayable, "topic" | "epoch" | "tail">,
  session: Session,
  gap: { readonly reason: RecoveryReason; readonly offset: number },
): void {
  const core = session[internals];
  const { reason, offset } = gap;
  const tag = tail.tagAt(offset);
  if (core.joins) core.sending.post({ gap: topic, reason, epoch: epoch!, offset, tag });
}

/**
 * Names a session in a publication that leaves it out: by the client's id, which stays the same
 * across reconnects, or by the session's id if the client sent none.
 */
export function exceptionOf(session: Session): string {
  return session[internals].lineage.client ?? session.id;
}

function isLeftOut(session: Session, except: string | undefined): boolean {
  return except !== undefined &&
    (except === session[internals].lineage.client || except === session.id);
}

/** Sends a session the position of a publication that leaves it out, to avoid a gap. */
export function tellSkip(session: Session, item: Placed): void {
  const core = session[internals];
  const { message: { topic }, offset, prev, tag } = item;
  if (core.joins) core.sending.post({ skip: topic, offset, prev, tag });
}

/** Adds the messages of a page to a queue, as whole frames that the queue must not drop. */
function pushPage(queue: SendQueue, flusher: Flusher, page: readonly EncodedMessage[]): void {
  const entries = page.map((message) =>
    queue.fitting({ ...message, sequence: flusher.nextSequence(), isProtected: true })
  );
  for (const { frame, size, end, messages } of packAll(entries, queue.joins)) {
    const { sequence } = entries[end - 1]!;
    queue.push({ frame, size, topic: "", sequence, isProtected: true, messages });
  }
}
