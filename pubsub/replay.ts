/**
 * What a session gets of a history before it follows the topic live.
 *
 * @module
 */
import { QueueFullError } from "../errors.ts";
import type {
  HistoryOptions,
  HistoryPosition,
  RecoveryReason,
  SubscribeAnswer,
} from "../session/recovery.ts";
import { coreOf, type Session } from "../session/session.ts";
import type { HistoryQuery, PlacedPage } from "./_history_reader.ts";
import type { Line } from "./_line.ts";
import { cutPage, type PageBounds, type Placed, type Tail } from "./_tail.ts";

/** How often a page is asked for, if the engine answers in between. */
const MAX_READS = 3;

/** Options for subscribing: where it begins, on a topic with a history. */
export interface SubscribeOptions extends HistoryOptions {
  /**
   * Called once with where it begins, before anything that follows is sent, and after `subscribe`
   * returned. Not called once the session is closed.
   */
  readonly onAnswer?: ((answer: SubscribeAnswer) => void) | undefined;
}

/** Where a replay begins: where a client asks for, or where its session stood. */
export type ReplayRequest =
  | (SubscribeOptions & { readonly at?: undefined })
  | { readonly at: number };

/** What a replay needs from the feed of its topic. */
export interface Replayable {
  /** The topic. */
  readonly topic: string;
  /** The epoch; `undefined` until it is known. */
  readonly epoch: string | undefined;
  /** The offset behind which this node began to follow the epoch. */
  readonly start: number;
  /** The newest offset that is known; the members have everything up to it. */
  readonly known: number;
  /** The newest publications. */
  readonly tail: Tail;
  /** Resolves once something is known, or never will be. */
  readonly begun: Promise<void>;
  /** Waits until it is known where the topic stands, or until that took too long. */
  whenOpen(): Promise<void>;
  /** Reads what is newer than what is known, and tells whether the engine answered. */
  sync(): Promise<boolean>;
  /** Reads a page; rejects if the engine does not answer. */
  read(query: HistoryQuery): Promise<PlacedPage>;
  /** The session has caught up. */
  join(session: Session): void;
}

/** What happened so far. */
export interface ReplayCounts {
  /** Replays that began. */
  replays: number;
  /** Publications that were sent for them. */
  replayed: number;
  /** How often sessions were told that publications are missing. */
  gaps: number;
}

/** What the replays of a node share. */
export interface ReplayHost {
  /** For pages. */
  readonly replaying: Line;
  /** What happened so far. */
  readonly counts: ReplayCounts;
}

/** Why a page can not be had. */
type Missing = Extract<RecoveryReason, "unavailable" | "new-epoch">;

/**
 * Brings one session to where its feed stands: the answer first, then page by page as fast as the
 * session takes them, then it joins in the same step in which it stands where the feed does.
 *
 * A page has at most half the session's send queue, and is sent when that is empty.
 */
export class Replay {
  readonly #feed: Replayable;
  readonly #session: Session;
  readonly #host: ReplayHost;
  readonly #request: ReplayRequest;
  readonly #bounds: PageBounds;
  /** A page that was read already. */
  #ahead: { readonly after: number; readonly items: readonly Placed[] } | undefined;
  #at: number | undefined;
  #epoch: string | undefined;
  #isAnswered = false;
  #isEnded = false;

  /** Creates a replay; `start` sets it going. */
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
    const { maxMessages, maxBytes } = coreOf(session).settings.sendQueue;
    this.#bounds = {
      maxMessages: Math.max(1, maxMessages >> 1),
      maxBytes: Math.max(1, maxBytes >> 1),
    };
  }

  /** The offset up to which the session has everything; `undefined` before the answer. */
  get at(): number | undefined {
    return this.#at;
  }

  /** Begins, in a later step than this one. */
  start(): void {
    this.#host.counts.replays++;
    // Now it would stand where the feed does, if it makes room for a page that is not delivered yet.
    Promise.resolve().then(() => this.#run()).catch((error) => {
      // A queue that is full closed its session already.
      if (error instanceof QueueFullError || this.#session.isClosed) return;
      coreOf(this.#session).handlerFailed(error, "The replay failed");
    });
  }

  /** Ends it where it is. */
  end(): void {
    this.#isEnded = true;
    this.#answer(this.#refusal("unavailable"));
  }

  async #run(): Promise<void> {
    if (this.#at === undefined) await this.#begin();
    const feed = this.#feed;
    const queue = coreOf(this.#session).queue!;
    while (!this.#isEnded && !queue.isOver) {
      this.#followEpoch();
      if (this.#at! >= feed.known) return feed.join(this.#session);
      const items = await this.#nextPage();
      if (this.#isEnded || items === undefined || feed.epoch !== this.#epoch) continue;
      // Looked at right before sending, so that the pages of several topics do not add up.
      if (queue.isFlushed) {
        this.#ahead = undefined;
        this.#send(items);
      } else {
        this.#ahead = { after: this.#at!, items };
        await queue.flushed();
      }
    }
  }

  /** Finds out where it begins, and answers. */
  async #begin(): Promise<void> {
    const feed = this.#feed;
    await feed.whenOpen();
    if (this.#isEnded) return;
    if (feed.epoch === undefined) {
      this.#answer(this.#refusal("unavailable"));
      await feed.begun;
      if (this.#isEnded) return;
      this.#beginAt(feed.start);
      return tellGap(feed, this.#session, { reason: "unavailable", offset: feed.start });
    }
    const { since, last } = this.#request as SubscribeOptions;
    this.#epoch = feed.epoch;
    const reason = since && await this.#whyNotFrom(since);
    if (this.#isEnded) return;
    if (since !== undefined && reason === undefined) {
      this.#at = since.offset;
      return this.#answer({ recovered: true });
    }
    this.#epoch = feed.epoch;
    const offset = last === undefined ? undefined : await this.#beforeNewest(last);
    if (this.#isEnded) return;
    if (offset === undefined) this.#beginAt(feed.known);
    else this.#at = offset;
    if (reason === "unavailable" && since?.epoch === this.#epoch) {
      // Whether it is ahead of the engine nobody knows; what it has is not to come again.
      this.#at = Math.max(this.#at!, since!.offset);
    }
    if (since !== undefined && reason !== undefined) {
      // A new epoch may have begun while this was found out.
      const isOver = since.epoch !== this.#epoch;
      return this.#answer({ recovered: false, reason: isOver ? "new-epoch" : reason });
    }
    this.#answer(last === undefined || offset !== undefined ? {} : { reason: "unavailable" });
  }

  #beginAt(offset: number): void {
    this.#epoch = this.#feed.epoch;
    this.#at = offset;
    this.#ahead = undefined;
  }

  /** Why not everything after a position is here; `undefined` if it is. */
  async #whyNotFrom(since: HistoryPosition): Promise<RecoveryReason | undefined> {
    const feed = this.#feed;
    if (since.epoch !== feed.epoch || since.offset > feed.known) {
      // Another node may have told the client what this one has yet to hear.
      if (!await feed.sync()) return "unavailable";
      if (since.epoch !== feed.epoch) return "new-epoch";
      if (since.offset > feed.known) return "beyond-head";
    }
    this.#epoch = since.epoch;
    if (since.offset >= feed.tail.after) return undefined;
    const page = await this.#read({ after: since.offset });
    if (typeof page === "string") return page;
    const [first] = page.items;
    if (first === undefined || first.prev > since.offset) return "too-old";
    this.#ahead = { after: since.offset, items: page.items };
    return undefined;
  }

  /** The offset before the newest so many; `undefined` if it can not be found out. */
  async #beforeNewest(last: number): Promise<number | undefined> {
    const feed = this.#feed;
    for (let i = 0; i < MAX_READS; i++) {
      this.#epoch = feed.epoch;
      const known = feed.tail.before(last);
      if (known !== undefined) return known;
      const page = await this.#read({ last });
      if (page === "unavailable") return undefined;
      // Of an epoch that began meanwhile it is the newest too.
      if (page === "new-epoch" || feed.epoch !== this.#epoch) continue;
      const { items, head } = page;
      // What came live since the page was read is not in it.
      const after = Math.min(items[0]?.prev ?? head, feed.known);
      if (items.length > 0) this.#ahead = { after, items };
      return after;
    }
    return undefined;
  }

  /** Reads a page of the epoch that the session is in. */
  async #read(query: HistoryQuery): Promise<PlacedPage | Missing> {
    const feed = this.#feed;
    const { replaying } = this.#host;
    for (let i = 0; i < MAX_READS; i++) {
      await replaying.enter();
      try {
        if (this.#isEnded) return "unavailable";
        const page = await feed.read(query);
        if (page.epoch === this.#epoch) return page;
      } catch {
        // Whether the engine is back, the feed finds out for all.
      } finally {
        replaying.leave();
      }
      if (this.#isEnded || !await feed.sync()) return "unavailable";
      if (feed.epoch !== this.#epoch) return "new-epoch";
    }
    return "unavailable";
  }

  /** The history began anew: so does the session. */
  #followEpoch(): void {
    const feed = this.#feed;
    if (this.#epoch === feed.epoch) return;
    this.#beginAt(feed.start);
    tellGap(feed, this.#session, { reason: "new-epoch", offset: feed.start });
  }

  /** What comes next; `undefined` if that is to be looked at again. */
  async #nextPage(): Promise<readonly Placed[] | undefined> {
    const feed = this.#feed;
    const after = this.#at!;
    if (this.#ahead?.after === after) return cutPage(this.#ahead.items, this.#bounds);
    if (after >= feed.tail.after) {
      const { replaying } = this.#host;
      await replaying.enter();
      replaying.leave();
      // It may have been let go of while this waited.
      return feed.tail.page(after, this.#bounds);
    }
    const page = await this.#read({ after });
    if (page === "unavailable" && !this.#isEnded) this.#skipTo("unavailable", feed.known);
    return typeof page === "string" ? undefined : cutPage(page.items, this.#bounds);
  }

  #send(page: readonly Placed[]): void {
    const feed = this.#feed;
    // What the feed has yet to give its members comes live.
    const items = page.filter(({ offset }) => offset <= feed.known);
    const [first] = items;
    if (first === undefined) return this.#skipTo("too-old", feed.known);
    if (first.prev > this.#at!) this.#skipTo("too-old", first.prev);
    const session = this.#session;
    const core = coreOf(session);
    for (const item of items) {
      if (item.except === session.id) tellSkip(session, item);
      // Protected: the client was told that it would get it.
      else core.push(item.message, true);
      if (this.#isEnded) return;
      this.#at = item.offset;
    }
    this.#host.counts.replayed += items.length;
  }

  #skipTo(reason: RecoveryReason, offset: number): void {
    this.#at = offset;
    this.#host.counts.gaps++;
    tellGap(this.#feed, this.#session, { reason, offset });
  }

  #refusal(reason: RecoveryReason): Pick<SubscribeAnswer, "recovered" | "reason"> {
    if (this.#request.at !== undefined) return {};
    const { since, last } = this.#request;
    if (since !== undefined) return { recovered: false, reason };
    return last === undefined ? {} : { reason };
  }

  /** Answers, with where the session stands if that is known. */
  #answer(answer: SubscribeAnswer): void {
    if (this.#isAnswered || this.#request.at !== undefined) return;
    this.#isAnswered = true;
    const epoch = this.#epoch;
    const offset = this.#at;
    tellAnswer(
      this.#session,
      this.#request.onAnswer,
      epoch === undefined || offset === undefined
        ? answer
        : { epoch, offset, head: Math.max(offset, this.#feed.known), ...answer },
    );
  }
}

/** Answers; a function of the application that throws ends its session, and nothing else. */
export function tellAnswer(
  session: Session,
  onAnswer: SubscribeOptions["onAnswer"],
  answer: SubscribeAnswer,
): void {
  if (session.isClosed) return;
  try {
    onAnswer?.(answer);
  } catch (error) {
    coreOf(session).handlerFailed(error, "A handler failed");
  }
}

/** Tells a session that publications are missing, and where it goes on; a plain one is not told. */
export function tellGap(
  { topic, epoch }: Pick<Replayable, "topic" | "epoch">,
  session: Session,
  gap: { readonly reason: RecoveryReason; readonly offset: number },
): void {
  const core = coreOf(session);
  if (core.joins) core.post({ gap: topic, reason: gap.reason, epoch: epoch!, offset: gap.offset });
}

/** Tells a session of a publication that it does not get, so that it does not miss it. */
export function tellSkip(session: Session, { message: { topic }, offset, prev }: Placed): void {
  const core = coreOf(session);
  if (core.joins) core.post({ skip: topic, offset, prev });
}
