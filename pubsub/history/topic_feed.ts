/** A topic with a history that this node follows for its sessions. */
import { Signal } from "../../base/signal.ts";
import type { RecoveryReason, SubscribeReply } from "../../session/wire/recovery.ts";
import { internals, type Session } from "../../session/session.ts";
import { pause } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";
import {
  type HistoryQuery,
  HistoryReader,
  isPositioned,
  place,
  type PlacedPage,
  type Positioned,
  type PositionedPage,
} from "./reader.ts";
import type { Semaphore } from "./semaphore.ts";
import { type PageBounds, type Placed, type TailBudget, TailCache } from "./tail_cache.ts";
import {
  type Broker,
  type BrokerHistory,
  type BrokerSubscription,
  payloadBytes,
  type Publication,
  type TopicHistory,
} from "../broker.ts";
import {
  Replay,
  type Replayable,
  type ReplayCounts,
  type ReplayHost,
  type ReplayOptions,
  type ReplayRequest,
  tellGap,
  tellSkip,
} from "./replay.ts";
import { Broadcast } from "../../session/queue/broadcast.ts";
import type { Flusher } from "../../session/queue/flusher.ts";
import { Confirmation } from "../confirmation.ts";
import { QueueFullError } from "../../errors.ts";
import { heldBy, OtherKinds } from "./other_kinds.ts";

/**
 * Number of publications that are read when a topic gets its first session, for replays to later
 * sessions.
 */
const OPENING_MESSAGES = 128;

/** Maximum number of publications, and bytes, that wait for missing earlier ones. */
const MAX_HELD = 256;
const MAX_HELD_BYTES = 1_048_576;

/**
 * Maximum number of publications, and bytes, that slow sessions receive at once; half a page if
 * pages are smaller. They receive anything more page by page.
 */
const MAX_BURST = 32;
const MAX_BURST_BYTES = 65_536;

/** Maximum number of past epochs that are remembered. */
const MAX_OVER_EPOCHS = 16;

/**
 * Delays before the attempts after a failed read, in milliseconds. After the last attempt, the feed
 * skips the gap; this takes seven seconds if the broker rejects each read immediately. The delays
 * have no jitter, because shorter waits cause more gaps, and because the number of concurrent reads
 * is bounded.
 */
const RETRIES_MS = [100, 200, 400, 800, 1_600, 2_000, 2_000];

/** State that a node's feeds share. */
export interface FeedHost extends ReplayHost {
  /** Flushes all sessions. */
  readonly flusher: Flusher;
  sessionOf(id: string): Session | undefined;
  /** Delivers publications. */
  readonly broker: Broker;
  /** Keeps publications. */
  readonly history: BrokerHistory;
  /** The newest publications of each topic. */
  readonly tails: TailBudget;
  /** Bounds the topics that catch up with the broker at the same time. */
  readonly catchingUp: Semaphore;
  readonly counts: FeedCounts;
  /** The nodes with other options. */
  readonly others: OtherNodes;
}

/** The nodes with other options than this node. */
export interface OtherNodes {
  /** Resolves when they receive what this node publishes; `undefined` if they do. */
  held(): Promise<void> | undefined;
  /** Lists how they may publish on a topic: with a history, or `undefined` for without one. */
  historiesOf(topic: string): Iterable<TopicHistory | undefined>;
  /** True if they may have published on a topic outside its history within the last hour. */
  wasOutside(topic: string): boolean;
  /** The history of a topic for the broker. */
  historyOf(topic: string): TopicHistory;
}

/** Counters of topics with a history. */
export interface FeedCounts extends ReplayCounts {
  /** Publications that arrived more than once. */
  duplicates: number;
  /** Publications that were missed live, and then read from the broker. */
  recovered: number;
  /** Pages read from the broker. */
  reads: number;
}

/**
 * The sessions of a topic. Each is either a member, which has received all publications up to the
 * feed's newest offset, or has a {@linkcode Replay} that brings it there.
 */
class Subscribers {
  readonly #feed: TopicFeed;
  readonly #host: FeedHost;
  readonly #members: Broadcast<Session>;
  readonly #replays = new Map<Session, Replay>();
  /** Number of publications delivered so far. */
  given = 0;

  constructor(feed: TopicFeed, host: FeedHost) {
    this.#feed = feed;
    this.#host = host;
    this.#members = new Broadcast<Session>(host.flusher);
  }

  /** Number of sessions. */
  get size(): number {
    return this.#members.size + this.#replays.size;
  }

  /** Lists the sessions, those with a replay last. */
  *sessions(): Generator<Session, void, undefined> {
    yield* this.#members.members();
    yield* this.#replays.keys();
  }

  /**
   * Adds a session, or restarts an existing one at another position.
   *
   * @returns A function that returns the position of the session, if the caller has to reply.
   */
  admit(
    session: Session,
    { since, last, onReply }: ReplayOptions,
  ): (() => SubscribeReply) | undefined {
    const before = this.#replays.get(session);
    const isIn = before !== undefined || this.#members.has(session);
    // If the position of the feed is unknown, a member has no position to reply with.
    const hasPlace = before !== undefined || isIn && this.#feed.epoch !== undefined;
    if (since !== undefined || last !== undefined || !hasPlace && onReply !== undefined) {
      this.#members.delete(session);
      this.#replay(session, { since, last, onReply });
      // This comes last, because it calls the application, which may remove the session.
      before?.end();
      return undefined;
    }
    if (before !== undefined && before.at === undefined && !before.hasReplied) {
      if (onReply !== undefined) before.tellToo(onReply);
      return undefined;
    }
    if (isIn) return () => this.#standingOf(session);
    this.join(session);
    return undefined;
  }

  /** Removes a session. */
  delete(session: Session): void {
    this.#members.delete(session);
    const replay = this.#replays.get(session);
    this.#replays.delete(session);
    replay?.end();
  }

  /** Makes a session that has reached the feed's newest offset a member. */
  join(session: Session): void {
    this.#replays.delete(session);
    this.#narrowFor(session);
    this.#members.add(session, session[internals].sending.messages("subscribe"));
  }

  /** Sends the next publication to the members. */
  give(item: Placed): void {
    this.given++;
    if (this.#members.size === 0) return;
    const { except } = item;
    const excepted = except === undefined ? undefined : this.#host.sessionOf(except);
    // The skip comes first, because sending may flush, and the application's policy may then
    // publish the next message.
    if (excepted !== undefined && this.#members.has(excepted)) tellSkip(excepted, item);
    this.#members.send(item.message, excepted);
  }

  /** Sends a publication without a position to all sessions that have their reply. */
  giveOutside(publication: Publication): void {
    this.given++;
    const { topic, payload: frame, except } = publication;
    const message = { frame, size: payloadBytes(publication), topic };
    const excepted = except === undefined ? undefined : this.#host.sessionOf(except);
    this.#members.send(message, excepted);
    for (const [session, { hasReplied }] of [...this.#replays]) {
      if (!hasReplied || session === excepted) continue;
      try {
        session[internals].sending.push(message, false);
      } catch (error) {
        // This session could not keep up and was closed; the others continue.
        if (!(error instanceof QueueFullError)) throw error;
      }
    }
  }

  /** Reports that publications without a position may have been missed. */
  tellMissed(): void {
    const reason = "interrupted";
    this.tellGap(reason, this.#feed.known);
    for (const [session, { hasReplied, at }] of this.#replays) {
      if (hasReplied && at !== undefined) tellGap(this.#feed, session, { reason, offset: at });
    }
  }

  /** Reports a gap to the members, and the offset after which publications continue. */
  tellGap(reason: RecoveryReason, offset: number): void {
    for (const session of [...this.#members.members()]) {
      tellGap(this.#feed, session, { reason, offset });
    }
  }

  /** Turns members with unsent messages into replays, which send page by page. */
  spareSlow(): void {
    this.#host.flusher.flush();
    for (const session of [...this.#members.members()]) {
      if (session[internals].queue!.isFlushed) continue;
      this.#members.delete(session);
      this.#replay(session, { at: this.#feed.known });
    }
  }

  #replay(session: Session, request: ReplayRequest): void {
    this.#narrowFor(session);
    const replay = new Replay(this.#feed, session, { request, host: this.#host });
    this.#replays.set(session, replay);
    replay.start();
  }

  #narrowFor(session: Session): void {
    const { maxMessages, maxBytes } = session[internals].settings.sendQueue;
    this.#feed.narrow({
      maxMessages: Math.ceil(maxMessages / 2),
      maxBytes: Math.ceil(maxBytes / 2),
    });
  }

  #standingOf(session: Session): SubscribeReply {
    const { epoch, known, tail } = this.#feed;
    const replay = this.#replays.get(session);
    const offset = replay === undefined ? known : replay.at;
    if (epoch === undefined || offset === undefined) return { reason: "unavailable" };
    // A gap with the position in the current epoch follows.
    const pastEpoch = replay?.pastEpoch;
    if (pastEpoch !== undefined) return { epoch: pastEpoch, offset, head: offset };
    const tag = tail.tagAt(offset);
    return tag === undefined ? { epoch, offset, head: known } : { epoch, offset, tag, head: known };
  }
}

/**
 * Follows one topic: delivers each publication to the sessions exactly once and in order, reads
 * missed publications from the broker, and reports a gap if the broker no longer has them.
 */
export class TopicFeed implements Replayable {
  readonly topic: string;
  readonly runtime: Runtime;
  readonly tail: TailCache;
  /** Set once the topic's position is known and live publications arrive. */
  readonly confirmation: Confirmation;
  readonly #host: FeedHost;
  readonly #reader: HistoryReader;
  readonly #subscribers: Subscribers;
  readonly #closing = new AbortController();
  readonly #subscription: BrokerSubscription;
  readonly #begun = Promise.withResolvers<void>();
  readonly #changing = new Signal();
  #epoch: string | undefined;
  /** Past epochs, whose late publications are ignored. */
  #overEpochs: string[] = [];
  #era = 0;
  #start = 0;
  #known = 0;
  #held: Positioned[] = [];
  readonly #others: OtherKinds;
  #outside = 0;
  /** The newest offset when something was published outside the history, or may have been. */
  #outsideAt = -1;
  /** The newest offset when this node started to receive what is published outside the history. */
  #unheardUntil = -1;
  #wasHeard = false;
  #isSubscribed = false;
  #isSyncing = false;
  #nextSync: PromiseWithResolvers<boolean> | undefined;

  /** Starts to follow a topic. */
  constructor(topic: string, host: FeedHost) {
    const { signal } = this.#closing;
    const history = host.others.historyOf(topic);
    this.topic = topic;
    this.runtime = host.runtime;
    this.tail = new TailCache(host.tails);
    this.#host = host;
    this.#others = new OtherKinds(host.broker, topic, history, {
      onPublication: (publication) => this.#receiveOutside(publication),
      onInterrupted: () => this.missedOutside(),
    });
    this.confirmation = new Confirmation(
      host.runtime,
      topic,
      heldBy(host.others.held(), this.adapt()),
    );
    const bounds = () => host.others.historyOf(topic);
    this.#reader = new HistoryReader(topic, bounds, { ...host, signal });
    this.#subscribers = new Subscribers(this, host);
    this.#subscription = host.broker.subscribe(topic, (publication) => this.#receive(publication), {
      history,
      onInterrupted: () => void this.sync(),
    });
    // Sessions start at the current position, not at the position where the broker confirms later.
    void this.sync();
    void this.#confirm();
  }

  get epoch(): string | undefined {
    return this.#epoch;
  }

  get era(): number {
    return this.#era;
  }

  get remembersMs(): number {
    return this.#host.history.remembersMs ?? Infinity;
  }

  get start(): number {
    return this.#start;
  }

  get known(): number {
    return this.#known;
  }

  get begun(): Promise<void> {
    return this.#begun.promise;
  }

  changed(): Promise<void> {
    return this.#changing.changed();
  }

  /** The newest known position, and the number of publications on this node so far. */
  get followed() {
    const publications = this.#subscribers.given;
    return { epoch: this.#epoch, offset: this.#known, publications };
  }

  get size(): number {
    return this.#subscribers.size;
  }

  /** Lists the sessions, those with a replay last. */
  sessions(): Iterable<Session> {
    return this.#subscribers.sessions();
  }

  /** True if a publication of the epoch arrived since the last call. */
  takeHeard(): boolean {
    const wasHeard = this.#wasHeard;
    this.#wasHeard = false;
    return wasHeard;
  }

  /**
   * Adds a session, or restarts an existing one at another position.
   *
   * @returns A function that returns the position of the session, if the caller has to reply.
   */
  admit(session: Session, options: ReplayOptions): (() => SubscribeReply) | undefined {
    return this.#subscribers.admit(session, options);
  }

  /** Removes a session. */
  delete(session: Session): void {
    this.#subscribers.delete(session);
  }

  join(session: Session): void {
    this.#subscribers.join(session);
  }

  /**
   * Receives what other nodes publish on the topic, as their options are now.
   *
   * @returns The promise of new subscriptions; `undefined` if there are none.
   */
  adapt(): Promise<unknown> | undefined {
    const ready = this.#others.update(this.#host.others.historiesOf(this.topic));
    return ready?.then(() => void (this.#unheardUntil = this.#known));
  }

  /** Called when publications outside the history may have been missed. */
  missedOutside(): void {
    if (!this.#host.others.wasOutside(this.topic)) return;
    this.#outside++;
    this.#outsideAt = this.#known;
    this.#subscribers.tellMissed();
  }

  get outside(): number {
    return this.#outside;
  }

  hasOutsideAfter(offset: number): boolean {
    if (offset <= this.#outsideAt) return true;
    return offset <= this.#unheardUntil && this.#host.others.wasOutside(this.topic);
  }

  narrow(bounds: PageBounds): void {
    this.#reader.narrow(bounds);
  }

  async whenOpen(): Promise<void> {
    // A feed that skipped a gap tries again for each session.
    if (!this.confirmation.isGiven && this.#isSubscribed) void this.sync();
    await this.confirmation.waited();
  }

  /**
   * Reads all publications after the newest known offset, by a read that starts after this call.
   *
   * @returns True if the broker responded.
   */
  sync(): Promise<boolean> {
    this.#nextSync ??= Promise.withResolvers();
    const { promise } = this.#nextSync;
    void this.#sync();
    return promise;
  }

  /**
   * Reads a page for a replay.
   *
   * @throws {SkeinError} If the broker does not respond.
   */
  read(query: HistoryQuery): Promise<PlacedPage> {
    return this.#reader.share(query);
  }

  close(): void {
    this.#closing.abort();
    this.confirmation.close();
    this.#begun.resolve();
    this.#changing.notify();
    this.#held = [];
    this.tail.reset(0);
    this.#others.close();
    void this.#subscription[Symbol.asyncDispose]();
  }

  #receive(publication: Publication): void {
    if (this.#closing.signal.aborted || !isPositioned(publication)) return;
    const { epoch, prev } = publication.position;
    if (this.#epoch === undefined) this.#enter(epoch, prev);
    // A publication of another epoch does not prove that live delivery works.
    if (epoch === this.#epoch) {
      this.#wasHeard = true;
      this.confirmation.give();
    }
    if (this.#take(publication) && this.#held.length > 0) this.#release();
  }

  /** Delivers a publication that a node with other options made outside the history. */
  #receiveOutside(publication: Publication): void {
    if (this.#closing.signal.aborted) return;
    this.#outside++;
    this.#outsideAt = this.#known;
    this.#subscribers.giveOutside(publication);
  }

  /** Reads again once publications arrive live, because earlier publications do not arrive live. */
  async #confirm(): Promise<void> {
    await this.#subscription.ready;
    this.#isSubscribed = true;
    if (!this.#closing.signal.aborted) await this.sync();
  }

  /** Starts to follow an epoch after an offset. */
  #enter(epoch: string, offset: number): void {
    if (this.#epoch !== undefined) this.#overEpochs.push(this.#epoch);
    this.#overEpochs = this.#overEpochs.filter((one) => one !== epoch).slice(-MAX_OVER_EPOCHS);
    this.#epoch = epoch;
    this.#era++;
    this.#start = offset;
    this.#outsideAt = -1;
    this.#unheardUntil = offset;
    this.#skipTo(offset);
    this.#begun.resolve();
  }

  #skipTo(offset: number): void {
    this.#known = offset;
    this.tail.reset(offset);
    this.#changing.notify();
  }

  /**
   * Delivers the next publication. A later publication is held until the missing publications
   * before it have arrived.
   */
  #take(publication: Positioned): boolean {
    const { epoch, offset, prev } = publication.position;
    if (epoch === this.#epoch && offset <= this.#known || this.#overEpochs.includes(epoch)) {
      this.#host.counts.duplicates++;
      return false;
    }
    if (epoch === this.#epoch && prev <= this.#known) {
      this.#deliver(publication);
      return true;
    }
    this.#hold(publication);
    void this.sync();
    return false;
  }

  /**
   * Holds a publication. Beyond the bound, drops the oldest, which will be read from the broker.
   */
  #hold(publication: Positioned): void {
    const held = this.#held;
    // Computed once, because each call needs the bytes of all.
    held.push(
      publication.bytes === undefined
        ? { ...publication, bytes: payloadBytes(publication) }
        : publication,
    );
    let bytes = bytesOf(held);
    while (held.length > MAX_HELD || bytes > MAX_HELD_BYTES && held.length > 1) {
      bytes -= held.shift()!.bytes!;
    }
  }

  #deliver(publication: Positioned): void {
    const item = place(publication);
    this.#known = item.offset;
    this.tail.push(item);
    this.#changing.notify();
    this.#subscribers.give(item);
  }

  /** Delivers the held publications that come next, and holds the rest again. */
  #release(): void {
    const held = this.#held.sort(byOffset);
    this.#held = [];
    this.#takeAll(held);
  }

  async #sync(): Promise<void> {
    if (this.#isSyncing) return;
    this.#isSyncing = true;
    const { signal } = this.#closing;
    while (this.#nextSync !== undefined) {
      const isIn = await this.#host.catchingUp.enter(signal);
      // Calls of `sync` from here on need another read.
      const { resolve } = this.#nextSync;
      this.#nextSync = undefined;
      if (!isIn) {
        resolve(false);
        continue;
      }
      const isSubscribed = this.#isSubscribed;
      try {
        const hasReplied = await this.#catchUp();
        if (hasReplied && isSubscribed) this.confirmation.give();
        resolve(hasReplied);
      } finally {
        this.#host.catchingUp.leave();
      }
    }
    this.#isSyncing = false;
  }

  async #catchUp(): Promise<boolean> {
    const { signal } = this.#closing;
    for (let i = 0; !signal.aborted; i++) {
      const waiting = new Set(this.#held);
      try {
        await this.#readAll();
        this.#changing.notify();
        // The broker names the current epoch, so held publications of any other epoch are outdated.
        this.#held = this.#held.filter((one) =>
          !waiting.has(one) || one.position.epoch === this.#epoch
        );
        this.#release();
        if (!this.#held.some((one) => waiting.has(one))) return true;
      } catch {
        if (signal.aborted) return false;
      }
      const delayMs = RETRIES_MS[i];
      if (delayMs === undefined) break;
      await pause(this.runtime, delayMs, signal);
    }
    this.#giveUp();
    return false;
  }

  /** Continues after a gap with the publications that arrived live, if any. */
  #giveUp(): void {
    // A read may have filled a part of the gap.
    this.#release();
    const [first] = this.#held;
    if (first === undefined || this.#closing.signal.aborted) return;
    const { epoch, prev } = first.position;
    const isNew = epoch !== this.#epoch;
    if (isNew) this.#enter(epoch, prev);
    this.#tellGap(isNew ? "new-epoch" : "unavailable", prev);
    this.#release();
  }

  async #readAll(): Promise<void> {
    // Pages that arrive after the feed was closed are ignored.
    const { signal } = this.#closing;
    if (this.#epoch === undefined) {
      const page = await this.#reader.read({ last: OPENING_MESSAGES });
      signal.throwIfAborted();
      this.#takeOpening(page);
      if (page.epoch === this.#epoch && page.head <= this.#known) return;
    }
    for (let isAnew = false, isOldest = false, isWhole = false; !isWhole;) {
      const after = this.#known;
      const page = await this.#reader.read(isOldest ? {} : { after });
      signal.throwIfAborted();
      const { epoch, head, publications } = page;
      isAnew ||= !isOldest && this.#isOther(after, page.anchor);
      if ((isAnew || epoch !== this.#epoch) && !isOldest) {
        isOldest = true;
        continue;
      }
      if (isAnew || epoch !== this.#epoch) {
        this.#enter(epoch, publications[0]?.position.prev ?? head);
        this.#tellGap("new-epoch", this.#known);
      }
      isAnew = false;
      isOldest = false;
      this.#takePage(page);
      isWhole = (publications.at(-1)?.position.offset ?? head) >= head;
    }
  }

  /** True if the history has another publication at an offset than this node has. */
  #isOther(offset: number, tag: string | null | undefined): boolean {
    const known = this.tail.tagAt(offset);
    return tag !== undefined && known !== undefined && tag !== known;
  }

  /**
   * Fills the tail with the newest publications, which are read at the start. No session receives
   * them live.
   */
  #takeOpening({ epoch, head, publications }: PositionedPage): void {
    if (this.#epoch === undefined) this.#enter(epoch, head);
    if (epoch !== this.#epoch) return;
    const { after } = this.tail;
    const items = publications.filter(({ position }) => position.offset <= after).map(place);
    // A truncated page ends before the publications that arrived live, or before the head.
    if (items.at(-1)?.offset === after) this.tail.prepend(items, items[0]!.prev);
  }

  #takePage({ head, publications }: PositionedPage): void {
    const missing = publications.filter(({ position }) => position.offset > this.#known);
    const first = missing[0]?.position;
    if (first === undefined) {
      if (publications.length === 0 && head > this.#known) this.#tellGap("too-old", head);
      return;
    }
    if (first.prev > this.#known) this.#tellGap("too-old", first.prev);
    this.#host.counts.recovered += missing.length;
    this.#takeAll(missing);
  }

  /**
   * Delivers many publications without filling the queues of sessions that keep up with the topic.
   */
  #takeAll(publications: readonly Positioned[]): void {
    const { page } = this.#reader;
    const isLarge = publications.length > Math.min(MAX_BURST, page.maxMessages / 2) ||
      bytesOf(publications) > Math.min(MAX_BURST_BYTES, page.maxBytes / 2);
    for (const burst of pagesOf(publications, page)) {
      if (isLarge) this.#subscribers.spareSlow();
      for (const publication of burst) this.#take(publication);
    }
  }

  /** Continues after an offset, and reports the gap to the members. */
  #tellGap(reason: RecoveryReason, offset: number): void {
    this.#skipTo(offset);
    this.#host.counts.gaps++;
    this.#subscribers.tellGap(reason, offset);
  }
}

function byOffset(a: Positioned, b: Positioned): number {
  return a.position.offset - b.position.offset;
}

/** Divides publications into pages, each of which fits half of a session's smallest send queue. */
function pagesOf(
  publications: readonly Positioned[],
  { maxMessages, maxBytes }: PageBounds,
): Positioned[][] {
  const pages: Positioned[][] = [];
  let bytes = 0;
  for (const publication of publications) {
    const size = payloadBytes(publication);
    const page = pages.at(-1);
    if (page === undefined || page.length + 1 > maxMessages || bytes + size > maxBytes) {
      pages.push([publication]);
      bytes = size;
    } else {
      page.push(publication);
      bytes += size;
    }
  }
  return pages;
}

function bytesOf(publications: readonly Positioned[]): number {
  return publications.reduce((sum, publication) => sum + payloadBytes(publication), 0);
}
