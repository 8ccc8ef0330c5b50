/**
 * The life of a page, or of a machine: it sleeps, wakes, goes offline and comes back.
 *
 * @module
 */
import { CloseCode, TimeoutError, UnsupportedError } from "../errors.ts";
import { internals } from "../session/core.ts";
import { ping } from "../session/insight/ping.ts";
import type { StatusFeed } from "../session/base/status_feed.ts";
import type { Session } from "../session/session.ts";
import type { TransportName } from "../transport/race/options.ts";
import type { ClientStatus } from "./client_options.ts";

/** How often the clock is looked at, in milliseconds. */
const TICK_MS = 5_000;

/** A timer that is later than this, in milliseconds, was asleep: its page, or the whole machine. */
const LATE_MS = 5_000;

/** Bytes between two looks at the clock, from which on messages flow: asking after them costs little beside. */
const FLOW_BYTES = 4_096;

/**
 * How long the server may take to give a sign of life once its messages stopped to flow, in
 * milliseconds. With two looks at the clock and the next session that is one heartbeat, and enough for
 * a message of 256 KiB at 125 kbit/s.
 */
const FLOW_TIMEOUT_MS = 12_000;

/** How often the preferred transport is tried again where the client is not on it, in milliseconds. */
const UPGRADE_MS = 600_000;

/** The same where the network changed: networks that change over and over are not dialed each time. */
const CHANGED_MS = 30_000;

/** The part of a page's globals that is used here; elsewhere there is less of it. */
interface Page extends Partial<EventTarget> {
  readonly document?: EventTarget & { readonly hidden: boolean };
  readonly navigator?: { readonly connection?: EventTarget };
}

/** A client whose server is watched. */
export interface LivingClient {
  /** The session, while there is one. */
  readonly session: Session | undefined;
  /** The connection to the server. */
  readonly status: StatusFeed<ClientStatus>;
  /** Moves to another session; see `Client`. */
  handOver(options: { readonly transport?: TransportName }): Promise<boolean>;
  /** Connects without waiting for the delay. */
  retryNow(): void;
}

/** How a client is looked after. */
export interface LifeOptions {
  /** How long the server may take to give a sign of life, in milliseconds. */
  readonly timeoutMs: number;
  /** Whether a client that is not on its preferred transport tries that again. */
  readonly upgrades?: boolean | undefined;
}

/**
 * Looks after one client. When its page wakes, is looked at again, comes back online or
 * changes its network, and when the machine slept:
 *
 * - **Connected:** the server is asked for a sign of life. One that gives none in time is
 *   given up, and the client reconnects at once.
 * - **Flowing:** a server whose messages flowed and then stopped is asked too, and has longer to
 *   answer. The heartbeat alone takes a minute to find that nothing gets through any more.
 * - **Waiting:** the client tries again at once. An attempt that runs goes on; if it fails,
 *   the next one does not wait.
 *
 * - **Upgrade:** where that is wanted, the client tries the preferred transport again if it is on
 *   another one: some seconds after its network changed, and every 10 minutes.
 *
 * Timers of a page that nobody looks at are late by up to a minute, or stand still. A session
 * is given up by one that was on time, and asked again after one that was late.
 */
export class Life implements Disposable {
  readonly #client: LivingClient;
  readonly #timeoutMs: number;
  readonly #upgrades: boolean;
  readonly #timer: ReturnType<typeof setInterval>;
  #tickedAt = Date.now();
  #triedAt = Date.now();
  #tryAt = Date.now() + UPGRADE_MS;
  #isChecking = false;
  /** When the page last slept, or its network last changed, in milliseconds since the Unix epoch. */
  disturbedAt = 0;
  /** Bytes of the session's messages until the last look at the clock, and since the one before. */
  #received = 0;
  #flow = 0;

  /**
   * Begins to look after a client.
   *
   * @param client The client.
   * @param options See {@linkcode LifeOptions}.
   */
  constructor(client: LivingClient, { timeoutMs, upgrades = false }: LifeOptions) {
    this.#client = client;
    this.#timeoutMs = timeoutMs;
    this.#upgrades = upgrades;
    for (const [target, type] of watched()) target?.addEventListener?.(type, this);
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  /** Takes an event of the page. */
  handleEvent(event: Event): void {
    const { type } = event;
    const { document } = globalThis as Page;
    if (type === "online" || type === "change") this.#tryAt = this.#triedAt + CHANGED_MS;
    if (type === "pagehide") return this.#leave();
    if (type === "pageshow" && !(event as Event & { persisted?: boolean }).persisted) return;
    if (type !== "visibilitychange") this.disturbedAt = Date.now();
    if (type !== "visibilitychange" || !document?.hidden) void this.#check();
  }

  /** Looks after it no more. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    for (const [target, type] of watched()) target?.removeEventListener?.(type, this);
  }

  /** The server shall know; a page that comes back from the browser's cache connects anew. */
  #leave(): void {
    const { session } = this.#client;
    if (session) session[internals].abort(CloseCode.normal, "", undefined, "network");
  }

  #tick(): void {
    const lateMs = Date.now() - this.#tickedAt - TICK_MS;
    this.#tickedAt = Date.now();
    const received = this.#client.session?.stats.receivedBytes ?? 0;
    const flow = received - this.#received;
    const stopped = !flow && this.#flow >= FLOW_BYTES;
    this.#received = received;
    this.#flow = flow;
    if (lateMs > LATE_MS) {
      this.disturbedAt = this.#tickedAt;
      void this.#check();
    } else if (stopped) void this.#check(FLOW_TIMEOUT_MS);
    if (this.#upgrades && Date.now() >= this.#tryAt) this.#upgrade();
  }

  /** What the platform or the server does not have is not tried again. */
  #upgrade(): void {
    this.#triedAt = Date.now();
    this.#tryAt = Date.now() + UPGRADE_MS;
    const { transport, error } = this.#client.session?.fallback ?? {};
    if (!transport || error instanceof UnsupportedError) return;
    this.#client.handOver({ transport }).catch(() => {});
  }

  /** Once at a time: what wakes a page comes as several events. */
  async #check(timeoutMs = this.#timeoutMs): Promise<void> {
    if (this.#isChecking) return;
    this.#isChecking = true;
    const { session } = this.#client;
    if (session === undefined || await this.#isLost(session, timeoutMs)) await this.#hurry(session);
    this.#isChecking = false;
  }

  /** Tells whether a session is over, and ends one of which the server is gone. Never rejects. */
  async #isLost(session: Session, timeoutMs: number): Promise<boolean> {
    while (true) {
      const askedAt = Date.now();
      try {
        // Not `session.ping()`, whose code may still have to be loaded: the network may be gone.
        await ping(session[internals], { timeoutMs });
        return false;
      } catch (error) {
        if (session.isClosed) return true;
        // It cannot be asked, or is asked too often: the heartbeat has to do.
        if (!(error instanceof TimeoutError)) return false;
        if (Date.now() - askedAt > timeoutMs + LATE_MS) continue;
        const message = `Cannot reach the server: no answer in ${timeoutMs} ms`;
        const late = new TimeoutError(message, timeoutMs, { cause: error });
        session[internals].abort(CloseCode.timedOut, "No sign of life", late, "network");
        return true;
      }
    }
  }

  /** Skips the delay before the next attempt, unless there is a session before it. */
  async #hurry(lost: Session | undefined): Promise<void> {
    const client = this.#client;
    for await (const { name } of client.status.follow()) {
      if (name === "reconnecting") return client.retryNow();
      if (client.session !== undefined && client.session !== lost) return;
    }
  }
}

/** What tells that a page, or its network, changes; `resume` reaches the document alone. */
function watched(): [target: Partial<EventTarget> | undefined, type: string][] {
  const page = globalThis as Page;
  return [
    [page, "online"],
    [page, "pagehide"],
    [page, "pageshow"],
    [page, "visibilitychange"],
    [page.document, "resume"],
    [page.navigator?.connection, "change"],
  ];
}
