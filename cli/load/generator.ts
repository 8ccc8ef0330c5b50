/** The load of one thread. It opens the links, sends messages on time, and counts the replies. */
import type { Runtime } from "../../base/runtime.ts";
import { pause, settlesWithin } from "../../base/wait.ts";
import { Signal } from "../../base/signal.ts";
import type { CloseInfo } from "../../errors.ts";
import { errorOf, type Link, type LinkSubscription, type OpenLink, type Stamp } from "./links.ts";
import type { LoadPlan } from "./plan.ts";
import { kindOf, LoadTally, type Sample } from "./tally.ts";

/**
 * Maximum number of links that open at the same time. More would measure the listener's backlog.
 */
const MAX_OPENING = 64;

/** Maximum number of messages in flight per thread. Further messages count as unsent. */
const MAX_PENDING = 100_000;

/**
 * Granularity of timers, in microseconds. If a message is sent later than this, its latency is
 * measured from its intended time.
 */
const GRAIN_US = 2_000;

/** Most messages that are sent in one turn of the event loop. */
const MAX_BURST = 1_000;

/** Longest wait of the pacer, in milliseconds, so that it notices the end of the load. */
const MAX_WAIT_MS = 250;

/** Longest wait for replies after the last message, in milliseconds. */
const DRAIN_MS = 5_000;

/** Longest wait for all links to close, in milliseconds. */
const CLOSE_MS = 5_000;

/** A thread's part of a load. */
export interface LoadPart {
  /** Number of the thread, starting at 0. */
  readonly index: number;
  /** Number of threads. */
  readonly of: number;
}

interface Published {
  readonly name: string;
  /** Link of the publisher. */
  readonly publisher: number;
  /** Number of publications so far, which is also the number of the next one. */
  count: number;
  /** Publications that the server rejected or did not confirm. */
  failed: number;
}

/** A subscription, with the number of the next publication and the number received so far. */
interface Subscribed {
  readonly topic: Published;
  subscription: LinkSubscription | undefined;
  next: number;
  received: number;
}

/** One thread of a load. The steps run in the order `open`, `warmUp`, `measure`, `close`. */
export interface Thread {
  /** Opens all links during the ramp time, and subscribes. */
  open(): Promise<void>;
  /** Begins to send messages, and waits for the planned warm-up. */
  warmUp(): Promise<void>;
  /**
   * Sends messages for the planned time, then waits for their replies. Returns the measured time,
   * in milliseconds.
   */
  measure(): Promise<number>;
  /** Closes all links, and counts missing messages. */
  close(): Promise<void>;
  /** Returns the counts since the last sample. */
  sample(): Sample | Promise<Sample>;
}

/** Options for a {@linkcode Generator}. */
export interface GeneratorOptions {
  /** Clocks and timers. */
  readonly runtime: Runtime;
  /** The part of this thread. */
  readonly part: LoadPart;
  readonly openLink: OpenLink;
  /** Ends the load early. */
  readonly signal: AbortSignal;
}

/**
 * Generates the load of this thread. It serves `skein load`, and the benchmarks with links to other
 * servers.
 *
 * - **Intended times:** with a rate, each message has a time at which it is due. A late message is
 *   sent anyway, and its latency is measured from the intended time. A stall of the server
 *   therefore shows in full (no coordinated omission).
 * - **Bounds:** at most 100,000 messages are in flight. Further messages count as unsent.
 */
export class Generator implements Thread {
  readonly #runtime: Runtime;
  readonly #plan: LoadPlan;
  readonly #part: LoadPart;
  readonly #openLink: OpenLink;
  readonly #signal: AbortSignal;
  readonly #tally = new LoadTally();
  readonly #links: Link[] = [];
  /** Start times of the messages in flight, by link and number; bounded by `MAX_PENDING`. */
  readonly #pending: readonly Map<number, number>[];
  readonly #replied = new Signal();
  readonly #mark: string;
  readonly #pad: string;
  readonly #topics: Published[] = [];
  readonly #subscriptions: Subscribed[] = [];
  #pendingCount = 0;
  #number = 0;
  /** Start of the measurement, in microseconds. */
  #measureFromUs = Infinity;
  #isSending = false;
  #sending: Promise<void> | undefined;
  #isClosing = false;

  /**
   * Creates a generator without links.
   *
   * @param plan The plan of the whole load.
   * @param options See {@linkcode GeneratorOptions}.
   */
  constructor(plan: LoadPlan, { runtime, part, openLink, signal }: GeneratorOptions) {
    this.#runtime = runtime;
    this.#plan = plan;
    this.#part = part;
    this.#openLink = openLink;
    this.#signal = signal;
    this.#pending = Array.from({ length: this.#count }, () => new Map());
    this.#mark = runtime.randomUUID().slice(0, 8);
    const bare = JSON.stringify({ load: this.#mark, n: 1_000_000, at: 1_000_000_000, pad: "" });
    this.#pad = "x".repeat(Math.max(0, plan.payloadBytes - bare.length));
  }

  get #count(): number {
    const { sessions } = this.#plan;
    const { index, of } = this.#part;
    return Math.floor(sessions / of) + (index < sessions % of ? 1 : 0);
  }

  /** Opens all links during the ramp time, and subscribes. */
  async open(): Promise<void> {
    const { rampMs, mode } = this.#plan;
    const count = this.#count;
    const startMs = this.#runtime.monotonic();
    let next = 0;
    const openSome = async () => {
      while (next < count && !this.#signal.aborted) {
        const index = next++;
        const dueMs = startMs + rampMs * (index + this.#part.index / this.#part.of) / count;
        await pause(this.#runtime, dueMs - this.#runtime.monotonic(), this.#signal);
        if (!this.#signal.aborted) await this.#openOne(index);
      }
    };
    await Promise.all(Array.from({ length: Math.min(count, MAX_OPENING) }, openSome));
    if (mode === "publish" && !this.#signal.aborted) await this.#subscribe();
  }

  /** Begins to send messages, and waits for the planned warm-up. */
  async warmUp(): Promise<void> {
    const { warmUpMs, mode, rate } = this.#plan;
    this.#isSending = mode !== "idle";
    this.#sending = !this.#isSending
      ? undefined
      : rate === undefined
      ? this.#sendByReplies()
      : this.#sendByTime(rate / this.#part.of);
    await pause(this.#runtime, warmUpMs, this.#signal);
  }

  /**
   * Sends messages for the planned time, then waits for their replies.
   *
   * @returns Resolves with the measured time, in milliseconds.
   */
  async measure(): Promise<number> {
    this.#measureFromUs = this.#nowUs();
    await pause(this.#runtime, this.#plan.durationMs, this.#signal);
    const measuredMs = (this.#nowUs() - this.#measureFromUs) / 1_000;
    this.#isSending = false;
    await this.#sending;
    await this.#drain();
    return measuredMs;
  }

  /** Closes all links, and counts missing messages. */
  async close(): Promise<void> {
    this.#isClosing = true;
    const { mode } = this.#plan;
    if (mode === "publish" && this.#pendingCount > 0) {
      this.#tally.failAs("unanswered", this.#pendingCount);
    }
    for (const all of this.#pending) this.#giveUp(all);
    for (const { topic, received } of this.#subscriptions) {
      this.#tally.counts.missing += Math.max(0, topic.count - topic.failed - received);
    }
    await settlesWithin(
      this.#runtime,
      Promise.all(this.#links.map((link) => link.close())),
      CLOSE_MS,
    );
  }

  /** Returns the counts since the last sample. Replies that take too long are counted as failed. */
  sample(): Sample {
    const latest = this.#nowUs() - this.#plan.timeoutMs * 1_000;
    for (const all of this.#pending) {
      // In order of sending.
      for (const [number, startUs] of all) {
        if (startUs > latest) break;
        all.delete(number);
        this.#pendingCount--;
        if (this.#isMeasured(startUs)) this.#tally.failAs("timeout");
        this.#replied.notify();
      }
    }
    this.#tally.pending = this.#pendingCount;
    return this.#tally.take();
  }

  #nowUs(): number {
    return this.#runtime.monotonic() * 1_000;
  }

  async #openOne(index: number): Promise<void> {
    const { tokens } = this.#plan;
    const { promise, resolve } = Promise.withResolvers<void>();
    const token = tokens[(this.#part.index + index * this.#part.of) % tokens.length];
    const counts = () => this.#tally.counts;
    this.#links[index] = this.#openLink({
      plan: this.#plan,
      load: this.#mark,
      index,
      runtime: this.#runtime,
      token,
      signal: this.#signal,
      events: {
        onOpen: (_link, tookMs) => {
          counts().opened++;
          this.#tally.connected++;
          this.#tally.connect.add(tookMs * 1_000);
          resolve();
        },
        onDown: (link, cause, wasOpen) => {
          if (wasOpen) this.#tally.connected--;
          if (!this.#isClosing && !this.#signal.aborted) this.#lost(link, cause, wasOpen);
          resolve();
        },
        onEcho: (link, n, nowUs) => this.#echoed(link, n, nowUs),
      },
    });
    await promise;
  }

  #lost(link: Link, cause: CloseInfo, wasOpen: boolean): void {
    const { counts } = this.#tally;
    const { code, reason } = cause;
    if (wasOpen) {
      counts.disconnects++;
      this.#tally.failAs(`disconnected: ${code} ${reason}`.trim());
    } else {
      counts.failedOpens++;
      const isRejected = code >= 3_000;
      this.#tally.failAs(isRejected ? `rejected: ${code} ${reason}` : kindOf(errorOf(cause)));
    }
    // Echoes of a lost session never arrive.
    if (this.#plan.mode === "echo") this.#giveUp(this.#pending[link.index]!);
  }

  /** Counts the unanswered messages of a link as failed. */
  #giveUp(all: Map<number, number>): void {
    for (const startUs of all.values()) {
      if (this.#isMeasured(startUs)) this.#tally.failAs("unanswered");
    }
    this.#pendingCount -= all.size;
    all.clear();
    this.#replied.notify();
  }

  async #subscribe(): Promise<void> {
    const { topic, topics, subscribers } = this.#plan;
    const { index: part, of } = this.#part;
    const count = this.#count;
    const waiting: Promise<unknown>[] = [];
    let next = 0;
    for (let number = part; number < topics; number += of) {
      const name = topics === 1 ? topic : `${topic}:${number + 1}`;
      const published = { name, publisher: number % count, count: 0, failed: 0 };
      this.#topics.push(published);
      // A topic's subscribers are in one thread, so there are at most as many as links.
      for (let i = 0; i < Math.min(subscribers, count); i++) {
        const link = this.#links[next++ % count]!;
        const subscribed: Subscribed = {
          topic: published,
          subscription: undefined,
          next: 0,
          received: 0,
        };
        const subscription = subscribed.subscription = link.subscribe!(
          name,
          (n, atUs, nowUs) => this.#delivered(subscribed, n, atUs, nowUs),
        );
        this.#subscriptions.push(subscribed);
        subscription.ended.catch((error) => {
          if (!this.#isClosing) this.#tally.fail(error);
        });
        waiting.push(subscription.ready.catch(() => {}));
      }
    }
    const all = Promise.all(waiting);
    await settlesWithin(this.#runtime, all, this.#plan.timeoutMs);
  }

  #delivered(subscribed: Subscribed, n: number, atUs: number, nowUs: number): void {
    const { counts, latency } = this.#tally;
    if (n < subscribed.next) counts.disordered++;
    else {
      subscribed.next = n + 1;
      subscribed.received++;
    }
    if (!this.#isMeasured(atUs)) return;
    counts.received++;
    counts.receivedBytes += this.#plan.payloadBytes;
    latency.add(nowUs - atUs);
  }

  #isMeasured(startUs: number): boolean {
    return startUs >= this.#measureFromUs;
  }

  #echoed(link: Link, n: number, nowUs: number): void {
    const startUs = this.#pending[link.index]!.get(n);
    // A duplicate or late reply.
    if (startUs === undefined) this.#tally.counts.disordered++;
    else this.#settle(link, n, { startUs, nowUs });
  }

  #settle(
    link: Link,
    number: number,
    { startUs, nowUs }: { readonly startUs: number; readonly nowUs: number },
  ): void {
    if (!this.#pending[link.index]!.delete(number)) return;
    this.#pendingCount--;
    if (this.#isMeasured(startUs)) {
      const { counts, latency } = this.#tally;
      counts.received++;
      counts.receivedBytes += this.#plan.payloadBytes;
      latency.add(nowUs - startUs);
    }
    this.#replied.notify();
    if (this.#isSending && this.#plan.rate === undefined) this.#sendNext(link);
  }

  async #sendByTime(perSecond: number): Promise<void> {
    const { index, of } = this.#part;
    const stepUs = 1_000_000 / perSecond;
    const firstUs = this.#nowUs() + stepUs * index / of;
    for (let sent = 0; this.#isSending;) {
      let burst = 0;
      let dueUs = firstUs + sent * stepUs;
      for (let now = this.#nowUs(); dueUs <= now && burst < MAX_BURST; burst++) {
        const lateUs = now - dueUs;
        if (this.#isMeasured(now)) this.#tally.lag.add(lateUs);
        this.#sendFrom(sent++, lateUs <= GRAIN_US ? now : dueUs);
        dueUs = firstUs + sent * stepUs;
        now = this.#nowUs();
      }
      const waitMs = Math.min((dueUs - this.#nowUs()) / 1_000, MAX_WAIT_MS);
      if (waitMs > 0) await pause(this.#runtime, waitMs, this.#signal);
      else await new Promise<void>((resolve) => this.#runtime.schedule(resolve));
      if (this.#signal.aborted) return;
    }
  }

  /** Sends the next message of each link after each reply. */
  async #sendByReplies(): Promise<void> {
    const { window, mode } = this.#plan;
    const senders = mode === "publish"
      ? this.#topics.map((topic) => () => this.#publish(topic, this.#nowUs()))
      : this.#links.map((link) => () => this.#sendNext(link));
    for (const send of senders) for (let i = 0; i < window; i++) send();
    // If a link has reconnected or its reply never arrived, it starts again.
    while (this.#isSending && !this.#signal.aborted) {
      await pause(this.#runtime, MAX_WAIT_MS, this.#signal);
      if (mode === "publish" || !this.#isSending) continue;
      for (const link of this.#links) {
        if (link.isOpen && this.#pending[link.index]!.size === 0) this.#sendNext(link);
      }
    }
  }

  #sendNext(link: Link): void {
    if (!link.isOpen) return;
    const startUs = this.#nowUs();
    if (this.#plan.mode === "echo") this.#echo(link, startUs);
    else this.#request(link, startUs);
  }

  #sendFrom(turn: number, startUs: number): void {
    const { mode } = this.#plan;
    if (mode === "publish") {
      return this.#publish(this.#topics[turn % this.#topics.length], startUs);
    }
    const link = this.#links[turn % this.#links.length];
    if (!link?.isOpen || this.#pendingCount >= MAX_PENDING) return this.#unsent(startUs);
    if (mode === "echo") this.#echo(link, startUs);
    else this.#request(link, startUs);
  }

  #unsent(startUs: number): void {
    if (this.#isMeasured(startUs)) this.#tally.counts.unsent++;
  }

  #stamp(n: number, startUs: number): Stamp {
    return { load: this.#mark, n, at: Math.round(startUs), pad: this.#pad };
  }

  #begin(link: Link, number: number, startUs: number): void {
    this.#pending[link.index]!.set(number, startUs);
    this.#pendingCount++;
    this.#countSent(startUs);
  }

  #countSent(startUs: number): void {
    if (!this.#isMeasured(startUs)) return;
    this.#tally.counts.sent++;
    this.#tally.counts.sentBytes += this.#plan.payloadBytes;
  }

  #echo(link: Link, startUs: number): void {
    const number = this.#number++;
    if (!link.echo(this.#stamp(number, startUs))) return this.#unsent(startUs);
    this.#begin(link, number, startUs);
  }

  #request(link: Link, startUs: number): void {
    const number = this.#number++;
    const reply = link.request!(this.#stamp(number, startUs));
    if (reply === undefined) return this.#unsent(startUs);
    this.#begin(link, number, startUs);
    reply.then(
      () => this.#settle(link, number, { startUs, nowUs: this.#nowUs() }),
      (error) => {
        if (!this.#pending[link.index]!.delete(number)) return;
        this.#pendingCount--;
        if (this.#isMeasured(startUs) && !this.#isClosing) this.#tally.fail(error);
        this.#replied.notify();
        // Waits a turn, in case the server rejects immediately.
        if (this.#isSending && this.#plan.rate === undefined) {
          this.#runtime.schedule(() => this.#sendNext(link));
        }
      },
    );
  }

  #publish(topic: Published | undefined, startUs: number): void {
    const link = topic && this.#links[topic.publisher];
    if (link === undefined || this.#pendingCount >= MAX_PENDING) return this.#unsent(startUs);
    const stamp = this.#stamp(topic!.count, startUs);
    const sending = link.publish!(topic!.name, stamp);
    if (sending === undefined) return this.#unsent(startUs);
    topic!.count++;
    const isMeasured = this.#isMeasured(stamp.at);
    this.#countSent(stamp.at);
    this.#pendingCount++;
    const settled = () => {
      this.#pendingCount--;
      this.#replied.notify();
      if (this.#isSending && this.#plan.rate === undefined) this.#publish(topic, this.#nowUs());
    };
    sending.then(() => {
      if (isMeasured) this.#tally.counts.acknowledged++;
      settled();
    }, (error) => {
      topic!.failed++;
      if (isMeasured && !this.#isClosing) this.#tally.fail(error);
      // Waits a turn, in case the server rejects immediately.
      this.#runtime.schedule(settled);
    });
  }

  /** True while replies or deliveries to open sessions are missing. */
  get #isBehind(): boolean {
    return this.#pendingCount > 0 ||
      this.#subscriptions.some(({ topic, received, subscription }) =>
        !subscription!.isEnded && received < topic.count - topic.failed
      );
  }

  async #drain(): Promise<void> {
    const { timeoutMs } = this.#plan;
    const endMs = this.#runtime.monotonic() + Math.min(timeoutMs, DRAIN_MS);
    while (this.#isBehind && this.#runtime.monotonic() < endMs && !this.#signal.aborted) {
      // Nothing signals that all deliveries have arrived, so this polls every few milliseconds.
      await settlesWithin(this.#runtime, this.#replied.changed(), 10);
    }
  }
}
