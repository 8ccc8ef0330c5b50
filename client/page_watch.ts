/** Detects when a page or machine sleeps, wakes up or changes networks. */
import type { Runtime, Timer } from "../base/runtime.ts";
import { CloseCode, TimeoutError, UnsupportedError } from "../errors.ts";
import { internals } from "../session/core.ts";
import { ping } from "../session/insight/ping.ts";
import type { StatusFeed } from "../base/status_feed.ts";
import type { Session } from "../session/session.ts";
import type { ClientStatus } from "./client_options.ts";

/**
 * How long the client waits for a sign of life from the server after the page or machine slept,
 * came back online or changed networks, in milliseconds. If there is none, the client reconnects
 * immediately.
 */
export const WAKE_MS = 5_000;

const TICK_MS = 5_000;

/** If a timer fires later than this, in milliseconds, the page or the whole machine was asleep. */
const LATE_MS = 5_000;

/**
 * The minimum number of bytes received between two clock readings that counts as a flow of
 * messages. A ping after such a flow costs little in comparison.
 */
const FLOW_BYTES = 4_096;

/**
 * The time limit for a sign of life from the server after a flow of messages has stopped, in
 * milliseconds. Two clock readings, this limit and the opening of the next session together take as
 * long as one heartbeat interval. A message of 256 KiB still arrives in time at 125 kbit/s.
 */
const FLOW_TIMEOUT_MS = 12_000;

/** The time between two retries of the preferred transport, in milliseconds. */
const UPGRADE_MS = 600_000;

/**
 * The minimum time between two retries after network changes, in milliseconds. It limits the dials
 * if the network changes often.
 */
const CHANGED_MS = 30_000;

/** The globals of a page that this module uses. Platforms other than browsers lack some of them. */
interface PageGlobals extends Partial<EventTarget> {
  readonly document?: EventTarget & { readonly hidden: boolean };
  readonly navigator?: { readonly connection?: EventTarget };
}

/** The parts of a client that this module uses. */
export interface PageClient {
  /** The session, while there is one. */
  readonly session: Session | undefined;
  readonly status: StatusFeed<ClientStatus>;
  /** Moves to a new session, as `Client.handOver()` does. */
  handOver(options: { readonly transport?: string | undefined }): Promise<boolean>;
  /** Starts an attempt after a wake-up, as `Client.wake()` does. */
  wake(): void;
}

/** The options for {@linkcode PageWatch}. */
export interface PageWatchOptions {
  /** The clock and timers of the client. */
  readonly runtime: Runtime;
  /** True to retry the preferred transport while the client is on a different one. */
  readonly upgrades?: boolean | undefined;
}

/**
 * Watches the page and machine of one client. It reacts after the page wakes, becomes visible,
 * comes back online or changes networks, and after the machine has slept:
 *
 * - **Connected:** the client pings the server. If no pong arrives in time, the session is aborted
 *   and the client reconnects immediately.
 * - **Waiting:** the client tries again immediately.
 * - **Connecting:** if the running attempt hangs, another one starts beside it. If it fails, the
 *   next attempt follows without a delay.
 *
 * At other times:
 *
 * - **Flow:** the client also pings the server when a flow of messages stops, with a longer time
 *   limit, because the heartbeat alone takes a minute to detect a dead connection. Over
 *   WebTransport, no ping is needed, because QUIC's idle timeout is 9 s.
 * - **Upgrade:** with `upgrades`, a client on a fallback transport retries the preferred one within
 *   35 s after a network change, and every 10 minutes.
 *
 * In a hidden page, timers fire up to a minute late, or not at all. Only a timer that fires on time
 * aborts a session. If a timer is late, the client pings again.
 */
export class PageWatch implements Disposable {
  readonly #client: PageClient;
  readonly #upgrades: boolean;
  readonly #runtime: Runtime;
  #timer: Timer | undefined;
  #tickedAt: number;
  #upgradedAt: number;
  /** Time until the next attempt, in milliseconds. */
  #upgradeMs = UPGRADE_MS;
  #isChecking = false;
  /** Ends the running ping if its time limit is longer than after a wake-up. */
  #patience: AbortController | undefined;
  /** The time of the last sleep or network change, in milliseconds since the Unix epoch. */
  disturbedAt = 0;
  /** The number of bytes that the session had received at the last clock reading. */
  #received = 0;
  /** The number of bytes received between the last two clock readings. */
  #flow = 0;

  /** @param options The runtime, and whether to retry the preferred transport. */
  constructor(client: PageClient, { runtime, upgrades = false }: PageWatchOptions) {
    this.#runtime = runtime;
    this.#tickedAt = this.#upgradedAt = runtime.now();
    this.#client = client;
    this.#upgrades = upgrades;
    for (const [target, type] of watched()) target?.addEventListener?.(type, this);
    this.#startTimer();
  }

  handleEvent(event: Event): void {
    const { type } = event;
    const { document } = globalThis as PageGlobals;
    if (type === "online" || type === "change") this.#upgradeMs = CHANGED_MS;
    if (type === "pagehide") return this.#closeWithPage();
    if (type === "pageshow" && !(event as Event & { persisted?: boolean }).persisted) return;
    if (type !== "visibilitychange") return this.wake();
    if (!document?.hidden) void this.#check();
  }

  /** Checks the session after a sleep or a network change. */
  wake(): void {
    this.disturbedAt = this.#runtime.now();
    void this.#check();
  }

  /** Stops watching. */
  [Symbol.dispose](): void {
    this.#runtime.clearTimeout(this.#timer);
    for (const [target, type] of watched()) target?.removeEventListener?.(type, this);
  }

  /**
   * Closes the session, because the page is gone. If the page is restored from the browser's cache,
   * it reconnects.
   */
  #closeWithPage(): void {
    const { session } = this.#client;
    if (session) session[internals].abort(CloseCode.normal, "", undefined, "network");
  }

  #startTimer(): void {
    this.#timer = this.#runtime.setTimeout(() => this.#tick(), TICK_MS);
  }

  #tick(): void {
    this.#startTimer();
    const now = this.#runtime.now();
    const lateMs = now - this.#tickedAt - TICK_MS;
    this.#tickedAt = now;
    const received = this.#client.session?.[internals].receiving.stats.receivedBytes ?? 0;
    const flow = received - this.#received;
    const stopped = !flow && this.#flow >= FLOW_BYTES;
    this.#received = received;
    this.#flow = flow;
    if (lateMs > LATE_MS) {
      this.disturbedAt = now;
      void this.#check();
      // A ping would restart QUIC's idle timeout, which detects a dead server sooner.
    } else if (stopped && this.#client.session?.transport !== "webtransport") {
      void this.#check(FLOW_TIMEOUT_MS);
    }
    // After the clock was set back, the last attempt would be in the future.
    if (this.#upgrades && Math.abs(now - this.#upgradedAt) >= this.#upgradeMs) this.#upgrade(now);
  }

  /** Retries the preferred transport, unless the platform or the server does not support it. */
  #upgrade(now: number): void {
    this.#upgradedAt = now;
    this.#upgradeMs = UPGRADE_MS;
    const { transport, error } = this.#client.session?.fallback ?? {};
    if (!transport || error instanceof UnsupportedError) return;
    this.#client.handOver({ transport }).catch(() => {});
  }

  /**
   * Checks the session. Only one check runs at a time, because a page that wakes up fires several
   * events.
   */
  async #check(timeoutMs = WAKE_MS): Promise<void> {
    const { session } = this.#client;
    if (session === undefined) this.#client.wake();
    if (timeoutMs === WAKE_MS) this.#patience?.abort();
    if (this.#isChecking) return;
    this.#isChecking = true;
    if (session === undefined || await this.#isLost(session, timeoutMs)) {
      await this.#skipDelay(session);
    }
    this.#isChecking = false;
  }

  /**
   * Pings the server. If it stays silent, aborts the session. Resolves with true if the session is
   * over. Never rejects.
   */
  async #isLost(session: Session, timeoutMs: number): Promise<boolean> {
    while (true) {
      const askedAt = this.#runtime.now();
      const patience = timeoutMs > WAKE_MS ? new AbortController() : undefined;
      this.#patience = patience;
      try {
        // The code of `session.ping()` may not be loaded yet, and the network may be down.
        await ping(session[internals], { timeoutMs, signal: patience?.signal });
        return false;
      } catch (error) {
        if (session.isClosed) return true;
        if (patience?.signal.aborted) {
          timeoutMs = WAKE_MS;
          continue;
        }
        // The server does not support pings, or was pinged too often, so rely on the heartbeat.
        if (!(error instanceof TimeoutError)) return false;
        if (this.#runtime.now() - askedAt > timeoutMs + LATE_MS) continue;
        const message = `No reply from the server within ${timeoutMs} ms`;
        const late = new TimeoutError(message, timeoutMs, { cause: error });
        session[internals].abort(CloseCode.timedOut, "No sign of life", late, "network");
        return true;
      }
    }
  }

  /** Skips the delay before the next attempt, unless another session opens first. */
  async #skipDelay(lost: Session | undefined): Promise<void> {
    const client = this.#client;
    for await (const { name } of client.status.follow()) {
      if (name === "reconnecting" || name === "rejected") return client.wake();
      if (client.session !== undefined && client.session !== lost) return;
    }
  }
}

/** The events of a page's life cycle and network. Only the document receives `resume`. */
function watched(): [target: Partial<EventTarget> | undefined, type: string][] {
  const page = globalThis as PageGlobals;
  return [
    [page, "online"],
    [page, "pagehide"],
    [page, "pageshow"],
    [page, "visibilitychange"],
    [page.document, "resume"],
    [page.navigator?.connection, "change"],
  ];
}
