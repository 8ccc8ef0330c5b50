/**
 * Decides when a client in a browser may leave a request for events open. Over HTTP/1.1, browsers
 * allow six connections to a host, for all tabs together, so that a seventh tab could send nothing.
 */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
import { LOST_MS, SELDOM_LOST_MS } from "./connection.ts";
import { type Channel, ChannelPlace, LockPlace, type Locks, type Place } from "./places.ts";
import type { Poll } from "./polls.ts";

/** How long a tab is hidden before it gives its place to a visible one, in milliseconds. */
const HIDDEN_MS = 2_000;

/** The time between two polls of a visible tab, in milliseconds. */
const VISIBLE_MS = 5_000;

/**
 * The same for a hidden tab. Browsers run its timers once a minute, and a timer that is due shortly
 * after one of these moments fires a minute later.
 */
const SELDOM_MS = 50_000;

/** The time that a poll announces until the next one, in seconds. */
const EVERY_S = { visible: 5, hidden: 60 };

/**
 * The times between the polls of a visible tab after it has sent or received something, in
 * milliseconds, because a reply may follow.
 */
const QUICK_MS = [100, 250, 500, 1_000, 2_000];

/**
 * The bytes of a response after which the next poll follows immediately, because a server sends large
 * amounts, such as missed publications, in pages.
 */
const PAGE_BYTES = 4_096;

/** The longest wait for an event if the tabs cannot share places, in seconds. */
const UNSHARED_S = 2;

/**
 * The longest wait for the first event of a connection, and for a reply to a hidden tab, in seconds. A
 * hidden tab could not poll again soon.
 */
const SOON_S = 1;

/** The longest wait for a lock manager, in milliseconds. */
const LOCKS_MS = 100;

/**
 * If a post takes longer, in milliseconds, other requests of the page may occupy all connections, so
 * the client gives up its event stream.
 */
const CROWDED_MS = 2_000;

/** How long the client then polls, in milliseconds. */
const CROWDED_PAUSE_MS = 30_000;

/**
 * The maximum time, in milliseconds, that a post waits for a connection if it is slow for another
 * reason, such as a slow link.
 */
const UNCROWDED_MS = 500;

/** The maximum difference between the start of a post and the start that the browser reports. */
const START_MS = 50;

/** The globals of a browser that a budget uses. Older browsers lack some of them, and workers, too. */
export interface BrowserGlobals {
  readonly document?: (EventTarget & { readonly visibilityState: string }) | undefined;
  readonly navigator?: { readonly locks?: Locks | undefined } | undefined;
  readonly BroadcastChannel?: (new (name: string) => Channel) | undefined;
  readonly PerformanceObserver?: MakeObserver | undefined;
}

type MakeObserver = new (
  callback: (list: { getEntries(): readonly ResourceEntry[] }) => void,
) => { observe(options: { readonly type: string }): void; disconnect(): void };

/** A finished request, in a `PerformanceResourceTiming`. */
interface ResourceEntry {
  readonly name: string;
  readonly nextHopProtocol?: string;
  readonly startTime?: number;
  /** The time at which the request was sent; 0 if unknown. */
  readonly requestStart?: number;
}

/** The next request for events. */
export interface Turn {
  /** Set if the request must not wait longer for an event. */
  readonly poll?: Poll | undefined;
  /** Aborts when the request must end. */
  readonly until?: AbortSignal | undefined;
}

/**
 * The budget of one connection.
 *
 * - **Protocol:** over HTTP/2 and HTTP/3, requests share a connection, so there is no limit. The
 *   protocol is known once a response has finished, and counts as HTTP/1.1 before.
 * - **Places:** see {@linkcode Place}. Without one, the client polls, and the server responds
 *   immediately: after the client has sent something other than the reply to a ping, when the tab is
 *   shown or hidden, and every {@linkcode VISIBLE_MS}, or once a minute in a hidden tab. Only the
 *   first event of a connection, and a reply to a hidden tab, may take up to {@linkcode SOON_S}.
 * - **Crowded:** a client whose post waits for a connection gives up its place for a while.
 * - **Without places:** a browser that has neither Web Locks nor a `BroadcastChannel`, or denies
 *   both because storage is disabled, polls with a short wait, so that the tabs take turns.
 */
export class StreamBudget implements Disposable {
  readonly #runtime: Runtime;
  readonly #document: BrowserGlobals["document"];
  #place: Place | undefined;
  readonly #ended: (() => void)[] = [];
  /** True if requests share a connection. */
  #isMultiplexed = false;
  #isOver = false;
  #isFrozen = false;
  #dueAt = -Infinity;
  #quick = 0;
  #crowdedUntil = -Infinity;
  #postedAt = -Infinity;
  #wake: (() => void) | undefined;
  /** Ends the requests of the current place. */
  #until: { readonly held: AbortSignal; readonly signal: AbortSignal } | undefined;
  #hiding: Timer | undefined;
  #posting: Timer | undefined;

  /** @param url The URL of the server. */
  constructor(
    url: URL,
    { runtime, browser }: { readonly runtime: Runtime; readonly browser: BrowserGlobals },
  ) {
    this.#runtime = runtime;
    this.#document = browser.document;
    this.#place = this.#placeOf(url, browser);
    this.#observe(url, browser);
    for (const type of ["visibilitychange", "freeze", "resume"]) {
      this.#document?.addEventListener(type, this);
      this.#ended.push(() => this.#document?.removeEventListener(type, this));
    }
    if (this.#isHidden) this.#place?.hide(true);
  }

  /**
   * Waits until the next request is due.
   *
   * @param isNew True before the first frame of the server.
   */
  async next(isNew: boolean): Promise<Turn> {
    const now = () => this.#runtime.monotonic();
    if (!this.#isFrozen && now() >= this.#crowdedUntil) {
      const wanted = this.#isMultiplexed ? undefined : this.#place?.want();
      if (wanted) await settlesWithin(this.#runtime, wanted, LOCKS_MS);
    }
    while (!this.#isOver && !this.#isMultiplexed) {
      const held = this.#place?.held;
      if (held) {
        // A lost stream must be followed by a poll, or the server would count the client as lost.
        this.#dueAt = -Infinity;
        return { until: this.#untilLost(held) };
      }
      const waitMs = this.#dueAt - now();
      if (waitMs <= 0) return { poll: this.#poll(now(), isNew) };
      await this.#sleep(waitMs);
    }
    return {};
  }

  /** Notes that a post was started. */
  posting(): void {
    this.#postedAt = this.#runtime.monotonic();
    this.#posting ??= this.#runtime.setTimeout(() => {
      this.#crowdedUntil = this.#runtime.monotonic() + CROWDED_PAUSE_MS;
      this.#place?.release();
    }, CROWDED_MS);
  }

  /**
   * Notes the end of a post.
   *
   * @param isReplyLikely False if no event will follow, so that the next poll can wait.
   */
  posted(isReplyLikely: boolean): void {
    this.#runtime.clearTimeout(this.#posting);
    this.#posting = undefined;
    if (isReplyLikely) this.#pollSoon();
  }

  /** Notes the response to a poll. */
  received(bytes: number): void {
    if (bytes >= PAGE_BYTES) this.#dueAt = -Infinity;
    else if (bytes > 0 && !this.#isHidden) {
      this.#quick = 0;
      this.#dueAt = this.#runtime.monotonic() + QUICK_MS[0]!;
    }
  }

  /** Notes a failed request for events. The next one is due after the client's own delay. */
  failed(): void {
    this.#dueAt = -Infinity;
  }

  /** The time after which the server ends the connection without a request, in milliseconds. */
  get lostMs(): number {
    return this.#isHidden && !this.#place?.held ? SELDOM_LOST_MS : LOST_MS;
  }

  handleEvent({ type }: Event): void {
    if (type !== "visibilitychange") this.#isFrozen = type === "freeze";
    if (this.#isFrozen) this.#place?.release();
    this.#runtime.clearTimeout(this.#hiding);
    if (!this.#isHidden) this.#place?.hide(false);
    else this.#hiding = this.#runtime.setTimeout(() => this.#place?.hide(true), HIDDEN_MS);
    this.#pollSoon();
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    this.#runtime.clearTimeout(this.#hiding);
    this.#runtime.clearTimeout(this.#posting);
    this.#place?.release();
    for (const end of this.#ended.splice(0)) end();
    this.#wake?.();
  }

  get #isHidden(): boolean {
    // In jsdom, all pages are `hidden`, but their state is "prerender".
    return this.#document?.visibilityState === "hidden";
  }

  /** Without a limit, a request goes on after its place has been released. */
  #untilLost(held: AbortSignal): AbortSignal {
    if (this.#until?.held === held) return this.#until.signal;
    const lost = new AbortController();
    held.addEventListener("abort", () => {
      if (!this.#isMultiplexed) lost.abort();
    });
    this.#until = { held, signal: lost.signal };
    return lost.signal;
  }

  /** Returns true for the last post, if it did not wait for a connection. */
  #isUncrowded({ startTime = 0, requestStart = 0 }: ResourceEntry): boolean {
    return Math.abs(startTime - this.#postedAt) < START_MS && requestStart > 0 &&
      requestStart - startTime < UNCROWDED_MS;
  }

  #poll(now: number, isNew: boolean): Poll {
    const isHidden = this.#isHidden;
    const isSoon = isNew || isHidden && this.#quick === 0;
    const waitS = isSoon ? SOON_S : this.#place || isHidden ? 0 : UNSHARED_S;
    const quickMs = QUICK_MS[this.#quick++];
    if (isNew || waitS === UNSHARED_S) this.#dueAt = now;
    else this.#dueAt = now + (isHidden ? SELDOM_MS : quickMs ?? VISIBLE_MS);
    return { waitS, everyS: isHidden ? EVERY_S.hidden : EVERY_S.visible };
  }

  #pollSoon(): void {
    this.#quick = 0;
    this.#dueAt = -Infinity;
    this.#wake?.();
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        this.#runtime.clearTimeout(timer);
        resolve();
      };
      const timer = this.#runtime.setTimeout(this.#wake, ms);
    });
  }

  #placeOf(url: URL, browser: BrowserGlobals): Place | undefined {
    const runtime = this.#runtime;
    const name = `skein ${url.origin}`;
    const rest = { name, id: runtime.randomUUID(), onChange: () => this.#wake?.() };
    const viaChannel = () => {
      const channel = openChannel(name, browser);
      if (!channel) return undefined;
      this.#ended.push(() => channel.close());
      return new ChannelPlace(channel, { runtime, ...rest });
    };
    const locks = browser.navigator?.locks;
    if (!locks) return viaChannel();
    const place = new LockPlace(locks, {
      ...rest,
      onDenied: () => {
        if (this.#isOver || this.#place !== place) return;
        this.#place = viaChannel();
        this.#place?.hide(this.#isHidden);
        this.#pollSoon();
      },
    });
    return place;
  }

  /** Learns from finished responses: the protocol, and why a post was slow. */
  #observe({ origin, pathname }: URL, { PerformanceObserver }: BrowserGlobals): void {
    if (!PerformanceObserver) return;
    const observer = new PerformanceObserver((list) => {
      const own = list.getEntries().filter(({ name }) => name.split("?")[0] === origin + pathname);
      if (own.some((entry) => this.#isUncrowded(entry))) this.#crowdedUntil = -Infinity;
      if (!own.some(({ nextHopProtocol = "" }) => /^h[23]/.test(nextHopProtocol))) return;
      observer.disconnect();
      this.#isMultiplexed = true;
      this.#place?.release();
      this.#wake?.();
    });
    this.#ended.push(() => observer.disconnect());
    observer.observe({ type: "resource" });
  }
}

/** Opens a channel, unless the user has disabled storage, which disables channels in Firefox. */
function openChannel(name: string, { BroadcastChannel }: BrowserGlobals): Channel | undefined {
  try {
    return BroadcastChannel && new BroadcastChannel(name);
  } catch {
    return undefined;
  }
}
