/**
 * A topic with a history, as this node follows it for its sessions.
 *
 * @module
 */
import { Changing } from "../../session/base/signal.ts";
import type { RecoveryReason, SubscribeAnswer } from "../../session/wire/recovery.ts";
import type { Session } from "../../session/session.ts";
import { startTimer, waitFor } from "../../session/base/wait.ts";
import { Audience, type AudienceHost, type Stage } from "./subscribers.ts";
import {
  type HistoryQuery,
  HistoryReader,
  isPositioned,
  place,
  type PlacedPage,
  type Positioned,
  type PositionedPage,
} from "./reader.ts";
import type { Line } from "./semaphore.ts";
import { type PageBounds, Tail, type Tails } from "./tail_cache.ts";
import type {
  Broker,
  BrokerHistory,
  BrokerSubscription,
  HistoryBounds,
  Publication,
} from "../broker.ts";
import type { ReplayCounts, SubscribeOptions } from "./replay.ts";

/** Publications that are read when a topic gets its first session, for those who come next. */
const OPENING_MESSAGES = 128;

/** Publications that wait for others that are missing before them, and their bytes. */
const MAX_HELD = 256;
const MAX_HELD_BYTES = 1_048_576;

/** More publications than this at once, or bytes, go to slow sessions at their own pace. */
const MAX_BURST = 32;
const MAX_BURST_BYTES = 65_536;

/** Epochs that are over and remembered. */
const MAX_OVER_EPOCHS = 16;

/**
 * After how long a read that failed is tried again, in milliseconds; then it is given up, after seven
 * seconds if the engine refuses at once. Not by chance: who waits longer is told of fewer gaps, and
 * how many read at once is bounded.
 */
const RETRIES_MS = [100, 200, 400, 800, 1_600, 2_000, 2_000];

/** How long the engine may take to let this node subscribe, before clients are told, in milliseconds. */
const OPEN_TIMEOUT_MS = 10_000;

/** What the feeds of a node share. */
export interface FeedHost extends AudienceHost {
  /** Where publications come from. */
  readonly broker: Broker;
  /** Where they are kept. */
  readonly history: BrokerHistory;
  /** What is kept ready. */
  readonly tails: Tails;
  /** For topics that catch up with the engine. */
  readonly catchingUp: Line;
  /** What happened so far. */
  readonly counts: FeedCounts;
}

/** What happened to the topics with a history. */
export interface FeedCounts extends ReplayCounts {
  /** Publications that came again. */
  duplicates: number;
  /** Publications that did not come, and were read. */
  recovered: number;
  /** Pages that were read from the engine. */
  reads: number;
}

/**
 * Follows one topic: gives its audience each publication once and in order, reads what did not come,
 * and tells of a gap where that cannot be read any more.
 */
export class Feed implements Stage {
  /** The topic. */
  readonly topic: string;
  /** The newest publications. */
  readonly tail: Tail;
  readonly #host: FeedHost;
  readonly #reader: HistoryReader;
  readonly #audience: Audience;
  readonly #closing = new AbortController();
  readonly #subscription: BrokerSubscription;
  readonly #begun = Promise.withResolvers<void>();
  readonly #changing = new Changing();
  /** Until this node is subscribed and knows where the topic stands, or that took too long. */
  #opening: Promise<unknown> | undefined;
  #epoch: string | undefined;
  /** The epochs before; what comes late of them is passed over. */
  #overEpochs: string[] = [];
  #era = 0;
  #start = 0;
  #known = 0;
  #held: Positioned[] = [];
  #wasHeard = false;
  #isSyncing = false;
  #nextSync: PromiseWithResolvers<boolean> | undefined;

  /** Follows a topic, for its first session. */
  constructor(topic: string, bounds: HistoryBounds, host: FeedHost) {
    const { signal } = this.#closing;
    this.topic = topic;
    this.tail = new Tail(host.tails);
    this.#host = host;
    this.#reader = new HistoryReader(topic, bounds, { ...host, signal });
    this.#audience = new Audience(this, host);
    this.#subscription = host.broker.subscribe(topic, (publication) => this.#receive(publication), {
      history: bounds,
      onInterrupted: () => void this.sync(),
    });
    // What was published before this node was subscribed does not come by itself.
    const opened = this.#subscription.ready.then(() => this.sync());
    this.#opening = waitFor(opened, { what: "the topic", timeoutMs: OPEN_TIMEOUT_MS, signal })
      .catch(() => {}).finally(() => this.#opening = undefined);
  }

  /** The epoch; `undefined` until it is known. */
  get epoch(): string | undefined {
    return this.#epoch;
  }

  /** Counts how often the history began anew: it may do so under the name that it had. */
  get era(): number {
    return this.#era;
  }

  /** For how long a place before the first publication is trusted, in milliseconds. */
  get remembersMs(): number {
    return this.#host.history.remembersMs ?? Infinity;
  }

  /** The offset behind which this node began to follow the epoch. */
  get start(): number {
    return this.#start;
  }

  /** The newest offset that is known; the members have everything up to it. */
  get known(): number {
    return this.#known;
  }

  /** Resolves once something is known, or never will be. */
  get begun(): Promise<void> {
    return this.#begun.promise;
  }

  /** Resolves when more is known, or the engine answered. */
  changed(): Promise<void> {
    return this.#changing.changed();
  }

  /** How many sessions there are. */
  get size(): number {
    return this.#audience.size;
  }

  /** The sessions; those whose replay runs come last. */
  sessions(): Iterable<Session> {
    return this.#audience.sessions();
  }

  /** Whether a publication came since this was last asked. */
  takeHeard(): boolean {
    const wasHeard = this.#wasHeard;
    this.#wasHeard = false;
    return wasHeard;
  }

  /**
   * Lets a session in, or has one that is in begin at another place.
   *
   * @returns Tells where the session stands, if the caller is to answer.
   */
  admit(session: Session, options: SubscribeOptions): (() => SubscribeAnswer) | undefined {
    return this.#audience.admit(session, options);
  }

  /** Lets a session out. */
  delete(session: Session): void {
    this.#audience.delete(session);
  }

  /** A replay has caught up. */
  join(session: Session): void {
    this.#audience.join(session);
  }

  /** Keeps pages within what a session takes at once. */
  narrow(bounds: PageBounds): void {
    this.#reader.narrow(bounds);
  }

  /** Waits until it is known where the topic stands, or until that took too long. */
  async whenOpen(): Promise<void> {
    if (this.#epoch !== undefined) return;
    await Promise.race([this.#begun.promise, this.#opening ?? this.sync()]);
  }

  /**
   * Reads what is newer than what is known, by a read that begins later than this call.
   *
   * @returns Whether the engine answered.
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
   * @throws {SkeinError} If the engine does not answer.
   */
  read(query: HistoryQuery): Promise<PlacedPage> {
    return this.#reader.share(query);
  }

  /** Stops following. */
  close(): void {
    this.#closing.abort();
    this.#begun.resolve();
    this.#changing.notify();
    this.#held = [];
    this.tail.reset(0);
    void this.#subscription[Symbol.asyncDispose]();
  }

  #receive(publication: Publication): void {
    if (this.#closing.signal.aborted || !isPositioned(publication)) return;
    const { epoch, prev } = publication.position;
    if (this.#epoch === undefined) this.#enter(epoch, prev);
    // Others say nothing of where the topic stands now.
    if (epoch === this.#epoch) this.#wasHeard = true;
    if (this.#take(publication) && this.#held.length > 0) this.#release();
  }

  /** Begins to follow an epoch behind an offset. */
  #enter(epoch: string, offset: number): void {
    if (this.#epoch !== undefined) this.#overEpochs.push(this.#epoch);
    this.#overEpochs = this.#overEpochs.filter((one) => one !== epoch).slice(-MAX_OVER_EPOCHS);
    this.#epoch = epoch;
    this.#era++;
    this.#start = offset;
    this.#skipTo(offset);
    this.#begun.resolve();
  }

  #skipTo(offset: number): void {
    this.#known = offset;
    this.tail.reset(offset);
    this.#changing.notify();
  }

  /** Delivers a publication if it is the next one, and holds it if others are missing before it. */
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

  /** The oldest are let go of first: they are read. */
  #hold(publication: Positioned): void {
    const held = this.#held;
    held.push(publication);
    let bytes = bytesOf(held);
    while (held.length > MAX_HELD || bytes > MAX_HELD_BYTES && held.length > 1) {
      bytes -= held.shift()!.payload.length;
    }
  }

  #deliver(publication: Positioned): void {
    const item = place(publication);
    this.#known = item.offset;
    this.tail.push(item);
    this.#changing.notify();
    this.#audience.give(item);
  }

  /** Delivers of what was held all that is next; the rest is held again. */
  #release(): void {
    const held = this.#held.sort(byOffset);
    this.#held = [];
    for (const publication of held) this.#take(publication);
  }

  async #sync(): Promise<void> {
    if (this.#isSyncing) return;
    this.#isSyncing = true;
    const { signal } = this.#closing;
    while (this.#nextSync !== undefined) {
      const isIn = await this.#host.catchingUp.enter(signal);
      // Who asks from here on wants another read.
      const { resolve } = this.#nextSync;
      this.#nextSync = undefined;
      if (!isIn) {
        resolve(false);
        continue;
      }
      try {
        resolve(await this.#catchUp());
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
        // The engine knows best: what it does not place in its epoch is of one that is over.
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
      await sleep(delayMs, signal);
    }
    this.#giveUp();
    return false;
  }

  /** Goes on with what came live, if anything did. */
  #giveUp(): void {
    // Some of it may have been read after all.
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
    // What comes as the feed is closed is passed over, each time.
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

  /** True where the history has another publication at an offset than this node. */
  #isOther(offset: number, tag: string | null | undefined): boolean {
    const known = this.tail.tagAt(offset);
    return tag !== undefined && known !== undefined && tag !== known;
  }

  /** The newest publications, read when nothing was known: nobody gets them now. */
  #takeOpening({ epoch, head, publications }: PositionedPage): void {
    if (this.#epoch === undefined) this.#enter(epoch, head);
    if (epoch !== this.#epoch) return;
    const { after } = this.tail;
    const items = publications.filter(({ position }) => position.offset <= after).map(place);
    // One that is cut short does not reach up to what came live, or to the head.
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
    if (missing.length > MAX_BURST || bytesOf(missing) > MAX_BURST_BYTES) {
      this.#audience.spareSlow();
    }
    this.#host.counts.recovered += missing.length;
    for (const publication of missing) this.#take(publication);
  }

  /** Goes on behind an offset, and says so. */
  #tellGap(reason: RecoveryReason, offset: number): void {
    this.#skipTo(offset);
    this.#host.counts.gaps++;
    this.#audience.tellGap(reason, offset);
  }
}

function byOffset(a: Positioned, b: Positioned): number {
  return a.position.offset - b.position.offset;
}

function bytesOf(publications: readonly Positioned[]): number {
  return publications.reduce((sum, { payload }) => sum + payload.length, 0);
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = startTimer(ms, done);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}
