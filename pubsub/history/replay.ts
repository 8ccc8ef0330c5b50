/**
 * What a session gets of a history before it follows the topic live.
 *
 * @module
 */
import { QueueFullError } from "../../errors.ts";
import type {
  HistoryOptions,
  RecoveryReason,
  SubscribeAnswer,
} from "../../session/wire/recovery.ts";
import { internals, type Session } from "../../session/session.ts";
import { settlesWithin } from "../../session/base/wait.ts";
import {
  type Beginning,
  beginWithout,
  type Followed,
  refusal,
  ReplayReader,
} from "./replay_start.ts";
import type { Line } from "./semaphore.ts";
import { cutPage, type PageBounds, type Placed } from "./tail_cache.ts";

/** How long the answer may take, in milliseconds: a client waits for 30 s by default. */
const ANSWER_TIMEOUT_MS = 20_000;

/** Most bytes of pages that wait for their sessions, of a node; past it they are read again. */
const MAX_AHEAD_BYTES = 67_108_864;

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
export interface Replayable extends Followed {
  /** The offset behind which this node began to follow the epoch. */
  readonly start: number;
  /** Resolves once something is known, or never will be. */
  readonly begun: Promise<void>;
  /** Resolves when more is known, or the engine answered. */
  changed(): Promise<void>;
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
  /** How many replays of a session are under way, those included that ended and still wait for the engine. */
  readonly underWay: Map<Session, number>;
  /** Bytes of pages that were read and wait for their sessions. */
  aheadBytes: number;
}

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
  readonly #reader: ReplayReader;
  #finding: Promise<Beginning | undefined> | undefined;
  /** What comes next, where it was read already. */
  #ahead: readonly Placed[] | undefined;
  #aheadBytes = 0;
  #at: number | undefined;
  #epoch: string | undefined;
  #era: number;
  #isAnswered = false;
  #isEnded = false;
  /** Another question of the session, which asked only where it stands. */
  #asker: SubscribeOptions["onAnswer"];

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
    this.#era = feed.era;
    const { maxMessages, maxBytes } = session[internals].settings.sendQueue;
    this.#bounds = {
      maxMessages: Math.max(1, maxMessages >> 1),
      maxBytes: Math.max(1, maxBytes >> 1),
    };
    const line = options.host.replaying;
    this.#reader = new ReplayReader(feed, { line, isOver: () => this.#isEnded });
  }

  /** The offset up to which the session has everything; `undefined` before the answer. */
  get at(): number | undefined {
    return this.#at;
  }

  /** Answers another question together with the first; of several, only the newest waits. */
  tellToo(onAnswer: SubscribeOptions["onAnswer"]): void {
    const before = this.#asker;
    this.#asker = onAnswer;
    tellAnswer(this.#session, before, { isSuperseded: true });
  }

  /** Begins, in a later step than this one. */
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
    // Now it would stand where the feed does, if it makes room for a page that is not delivered yet.
    Promise.resolve().then(() => this.#run()).catch((error) => {
      // A queue that is full closed its session already.
      if (error instanceof QueueFullError || session.isClosed) return;
      session[internals].endByFailure(error, "The replay failed");
    }).then(() => this.#finding).then(over, over);
  }

  /** Ends it where it is; an answer that is owed says that the question was superseded. */
  end(): void {
    this.#isEnded = true;
    this.#keep(undefined);
    if (this.#request.at === undefined) this.#answer({ isSuperseded: true });
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

  /** Finds out where it begins, and answers in time. */
  async #begin(options: SubscribeOptions): Promise<void> {
    const feed = this.#feed;
    let found: Beginning | undefined;
    this.#finding = this.#reader.find(options);
    const finding = this.#finding.then((one) => void (found = one));
    const isInTime = await settlesWithin(finding, ANSWER_TIMEOUT_MS);
    if (this.#isEnded) return;
    if (!isInTime && feed.epoch !== undefined) {
      found = beginWithout(feed, options, { reason: "unavailable" });
    }
    if (found === undefined) {
      this.#answer(refusal(options, "unavailable"));
      await feed.begun;
      if (this.#isEnded) return;
      return this.#beginAnew("unavailable");
    }
    const { epoch, era, at, ahead, answer } = found;
    this.#epoch = epoch;
    this.#era = era;
    this.#at = at;
    this.#keep(ahead);
    this.#answer(answer);
  }

  /** The history began anew: so does the session. */
  #followEpoch(): void {
    if (this.#era !== this.#feed.era) this.#beginAnew("new-epoch");
  }

  /** Goes on where this node began to follow the epoch, unless the client has more of it. */
  #beginAnew(reason: RecoveryReason): void {
    const { epoch, start } = this.#feed;
    const since = this.#request.at === undefined ? this.#request.since : undefined;
    // Another history of the same name has not what the client has.
    const isAhead = since?.epoch === epoch && this.#epoch !== epoch;
    const offset = isAhead ? Math.max(start, since!.offset) : start;
    this.#epoch = epoch;
    this.#era = this.#feed.era;
    this.#at = offset;
    this.#keep(undefined);
    tellGap(this.#feed, this.#session, { reason, offset });
  }

  /** The client has more than this node knows, and the engine could not be asked. */
  async #waitForFeed(): Promise<void> {
    const feed = this.#feed;
    await feed.changed();
    const isAhead = () => !this.#isEnded && this.#era === feed.era && this.#at! > feed.known;
    if (isAhead() && await feed.sync() && isAhead()) this.#skipTo("beyond-head", feed.known);
  }

  /** Sends the next page if there is one and the session takes it; false if it does not. */
  async #step(): Promise<boolean> {
    const page = await this.#nextPage();
    if (this.#isEnded || page === undefined || this.#feed.era !== this.#era) return true;
    // Looked at right before sending, so that the pages of several topics do not add up.
    const isTaken = this.#session[internals].queue!.isFlushed;
    this.#keep(isTaken ? undefined : page);
    if (isTaken) this.#send(page);
    return isTaken;
  }

  /** What comes next; `undefined` if that is to be looked at again. */
  async #nextPage(): Promise<readonly Placed[] | undefined> {
    const feed = this.#feed;
    if (this.#ahead !== undefined) return cutPage(this.#ahead, this.#bounds);
    const after = this.#at!;
    if (after >= feed.tail.after) {
      const { replaying } = this.#host;
      await replaying.enter();
      replaying.leave();
      // It may have been let go of while this waited.
      return feed.tail.page(after, this.#bounds);
    }
    const page = await this.#reader.read(this.#epoch, { after });
    if (page === "unavailable" && !this.#isEnded) this.#skipTo("unavailable", feed.known);
    return typeof page === "string" ? undefined : cutPage(page.items, this.#bounds);
  }

  /** Keeps what comes next until the session takes it. */
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
    // What the feed has yet to give its members comes live.
    const items = page.filter(({ offset }) => offset <= feed.known);
    const [first] = items;
    if (first === undefined) return this.#skipTo("too-old", feed.known);
    if (first.prev > this.#at!) this.#skipTo("too-old", first.prev);
    const session = this.#session;
    const core = session[internals];
    for (const item of items) {
      if (isLeftOut(session, item.except)) tellSkip(session, item);
      // Protected: the client was told that it would get it.
      else core.push(item.message, true);
      if (this.#isEnded) return;
      this.#at = item.offset;
    }
    this.#host.counts.replayed += items.length;
  }

  #skipTo(reason: RecoveryReason, offset: number): void {
    this.#at = offset;
    this.#keep(undefined);
    this.#host.counts.gaps++;
    tellGap(this.#feed, this.#session, { reason, offset });
  }

  #answer(answer: SubscribeAnswer): void {
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    tellAnswer(this.#session, (this.#request as SubscribeOptions).onAnswer, answer);
    const { recovered: _recovered, reason: _reason, ...standing } = answer;
    tellAnswer(this.#session, this.#asker, standing);
  }
}

/** Answers; a function of the application that throws is a handler that failed. */
export function tellAnswer(
  session: Session,
  onAnswer: SubscribeOptions["onAnswer"],
  answer: SubscribeAnswer,
): void {
  if (session.isClosed) return;
  try {
    onAnswer?.(answer);
  } catch (error) {
    session[internals].handlerFailed(error, "A handler failed");
  }
}

/** Tells a session that publications are missing, and where it goes on; a plain one is not told. */
export function tellGap(
  { topic, epoch, tail }: Pick<Replayable, "topic" | "epoch" | "tail">,
  session: Session,
  gap: { readonly reason: RecoveryReason; readonly offset: number },
): void {
  const core = session[internals];
  const { reason, offset } = gap;
  const tag = tail.tagAt(offset);
  if (core.joins) core.post({ gap: topic, reason, epoch: epoch!, offset, tag });
}

/**
 * Names a session in the publications that it does not get: by its client, which stays the same over
 * reconnects, or by its own id where the client said none.
 */
export function exceptionOf(session: Session): string {
  return session[internals].client ?? session.id;
}

function isLeftOut(session: Session, except: string | undefined): boolean {
  return except !== undefined && (except === session[internals].client || except === session.id);
}

/** Tells a session of a publication that it does not get, so that it does not miss it. */
export function tellSkip(session: Session, item: Placed): void {
  const core = session[internals];
  const { message: { topic }, offset, prev, tag } = item;
  if (core.joins) core.post({ skip: topic, offset, prev, tag });
}
