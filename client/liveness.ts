/** Detects a server that falls silent while the client waits for it. */
import type { Runtime, Timer } from "../base/runtime.ts";
import { abortError, pause } from "../base/wait.ts";
import { internals, type WaitObserver } from "../session/core.ts";
import { ping } from "../session/insight/ping.ts";
import type { Session } from "../session/session.ts";
import { PathFaults } from "./failures.ts";

/**
 * The silence before each ping during one wait, in milliseconds. The last value repeats, because a
 * long wait, such as for a response that takes minutes, needs only a few pings.
 */
export const SILENCES_MS = [2_000, 4_000, 8_000, 15_000] as const;

/**
 * The minimum silence, in round trips. It exists because responses from a distant server take
 * longer.
 */
const SILENCE_ROUND_TRIPS = 4;

/**
 * How long an idle session may be silent before the client pings, in milliseconds. This applies
 * only to browser engines that are slow to notice a dead server. Including the later waits, a
 * killed server is detected within 10 s.
 */
const IDLE_SILENCE_MS = 6_000;

/** The minimum wait for a sign of life after a ping, in milliseconds. */
export const WAIT_MS = 1_000;

/** The minimum wait after a ping, in round trips. */
const WAIT_ROUND_TRIPS = 2;

/**
 * The maximum random delay between the wait and the dial, in milliseconds. It exists because
 * thousands of clients may notice in the same second that a server is busy.
 */
const SPREAD_MS = 1_000;

/** How long a connection usually takes to open if the server is not busy, in milliseconds. */
const PROMPT_MS = 250;

/**
 * The bounds of the time that the old connection gets after the new one has opened, in
 * milliseconds. Between them, the old connection gets as much time as the new one was late, because
 * a server that was frozen accepts the new connection late and then responds on both.
 */
const GRACE_MS = { min: 100, max: 1_000 } as const;

/**
 * If a timer fires later than this, in milliseconds, this process or page must have been asleep or
 * busy.
 */
const LATE_MS = 250;

/**
 * How long no alarm is raised after such a timer, in milliseconds, because received frames are
 * still unread.
 */
const LATE_PAUSE_MS = 1_000;

/** How long both waits stay longer after a false alarm, in milliseconds. */
const CAUTIOUS_MS = 300_000;

/** The maximum factor for both waits. Each false alarm within that time doubles the factor. */
const MAX_CAUTION = 8;

/** The weight of a new round trip in the smoothed round trip, as in RFC 6298. */
const ROUND_TRIP_WEIGHT = 1 / 8;

/** An alarm: the server gave no sign of life after a ping. */
export interface Alarm {
  /** Aborts at the first sign of life on the old connection, or when the session ends. */
  readonly signal: AbortSignal;
  /** The time since the last sign of life or the start of the wait, in milliseconds. */
  readonly silentMs: number;
  /**
   * After a new connection has opened, waits once more for a sign of life on the old connection.
   *
   * @param openedInMs How long the new connection took to open, in milliseconds.
   * @throws The signal's reason, if there was a sign of life.
   */
  confirm(openedInMs: number): Promise<void>;
}

/** The parts of a session that {@linkcode Liveness} uses. */
export interface WatchedSession {
  /** The number of responses, items and acknowledgments that the client is waiting for. */
  readonly awaited: number;
  /**
   * True if an idle session must also be pinged, because nothing else detects a dead server in
   * time.
   */
  readonly isPingedIdle: boolean;
  /** True while the page is not visible; an idle session is then not pinged. */
  readonly isHidden: boolean;
  /** True while this side is not reading, so that silence proves nothing. */
  readonly isPaused: boolean;
  /** A number that changes whenever bytes arrive that are not yet a complete frame. */
  readonly activity: number;
  /** The number of unsent bytes of a large message, which a slow link needs time to transfer. */
  readonly unsentBytes: number;
  /** Sets or removes the watch that is notified of waits and frames. */
  watchedBy(liveness: Liveness | undefined): void;
  /** Passes the session to the client's search for faults, now and once it has ended. */
  examinedBy(faults: PathFaults): void;
  /** Pings the server. Resolves with the round-trip time, in milliseconds. */
  ping(): Promise<number>;
  /**
   * Opens a connection next to the silent one, and moves the client there. Never rejects.
   *
   * @returns Resolves once the session has been replaced or given up, or is known to continue. The
   * value is true if the server still knew the silent session, so that the alarm was false.
   */
  dial(alarm: Alarm): Promise<boolean>;
}

/**
 * Watches one client's server while the client waits for a reply, an acknowledgment, a response
 * item or the reply to a subscription. An idle session costs nothing unless it has to be pinged.
 *
 * 1. **Listening:** after 2 s of silence, or four smoothed round trips if that is longer, the
 *    client pings. Further pings during the same wait follow after 4, 8 and 15 s of silence.
 * 2. **Pinged:** the server has 1 s, or two round trips if that is longer, to give any sign of
 *    life.
 * 3. **Alarmed:** after a random delay of up to 1 s, the client dials a new connection next to the
 *    old one. The first sign of life on the old connection cancels this. Each such false alarm
 *    doubles both waits for five minutes, up to a factor of eight.
 *
 * If a timer fires late, no alarm is raised for a second, because this process was stalled rather
 * than the server.
 */
export class Liveness implements WaitObserver, Disposable {
  readonly #runtime: Runtime;
  readonly #faults = new PathFaults();
  #session: WatchedSession | undefined;
  #timer: Timer | undefined;
  #next: "ping" | "alarm" | "dial" | undefined;
  #dueAt = 0;
  #receivedAt = 0;
  #hasWait = false;
  /** The start of the first wait after the last sign of life. */
  #waitsSince = 0;
  #activity = 0;
  #unsentBytes = 0;
  #pings = 0;
  #lateAt = -Infinity;
  #roundTripMs = 0;
  #caution = 1;
  #cautiousUntil = -Infinity;
  /** Set from the start of an alarm until its outcome is known. */
  #alarm: AbortController | undefined;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Watches a session in place of the previous one. */
  follow(session: WatchedSession): void {
    this[Symbol.dispose]();
    this.#session = session;
    session.watchedBy(this);
    session.examinedBy(this.#faults);
    this.#receivedAt = this.#runtime.now();
    if (session.awaited > 0) this.began();
    else if (session.isPingedIdle) this.#start("ping", IDLE_SILENCE_MS);
  }

  [Symbol.dispose](): void {
    this.#session?.watchedBy(undefined);
    this.#hasWait = false;
    this.#session = undefined;
    this.#stop();
    this.#alarm?.abort();
    this.#alarm = undefined;
  }

  /** Records that the client is waiting for something from now on. */
  began(): void {
    const session = this.#session;
    if (!session) return;
    const now = this.#runtime.now();
    if (!this.#hasWait) {
      this.#hasWait = true;
      this.#waitsSince = now;
      this.#showsLife(session);
    }
    // Silence during a new wait must be noticed as quickly as during the first one.
    this.#pings = 0;
    if (this.#alarm || this.#next === "alarm") return;
    const dueAt = this.#silentSince + this.#silenceMs;
    if (this.#next === undefined || dueAt < this.#dueAt) this.#start("ping", dueAt - now);
  }

  /** Records a sign of life. */
  received(): void {
    this.#hasWait = false;
    this.#receivedAt = this.#runtime.now();
    if (this.#next === "alarm") this.#start("ping", this.#silenceMs);
    else if (this.#alarm) this.#endFalseAlarm(this.#alarm);
  }

  get #silentSince(): number {
    return Math.max(this.#receivedAt, this.#waitsSince);
  }

  get #silenceMs(): number {
    const silenceMs = SILENCES_MS[Math.min(this.#pings, SILENCES_MS.length - 1)]!;
    return Math.max(silenceMs, SILENCE_ROUND_TRIPS * this.#roundTripMs) * this.#factor;
  }

  get #waitMs(): number {
    return Math.max(WAIT_MS, WAIT_ROUND_TRIPS * this.#roundTripMs) * this.#factor;
  }

  get #factor(): number {
    return this.#caution > 1 && this.#runtime.now() < this.#cautiousUntil ? this.#caution : 1;
  }

  #start(next: "ping" | "alarm" | "dial", ms: number): void {
    const delayMs = Math.max(0, ms);
    this.#stop();
    this.#next = next;
    this.#dueAt = this.#runtime.now() + delayMs;
    this.#timer = this.#runtime.setTimeout(() => this.#fired(next), delayMs);
  }

  #stop(): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = this.#next = undefined;
  }

  #fired(next: "ping" | "alarm" | "dial"): void {
    const session = this.#session!;
    this.#stop();
    this.#noteLateness();
    if (this.#showsLife(session)) {
      this.received();
      if (this.#next === undefined) this.#start("ping", this.#silenceMs);
    } else if (next === "ping") this.#ping(session);
    else {
      const leftMs = this.#latePauseMs;
      if (leftMs > 0) this.#start(next, leftMs);
      else if (next === "alarm") {
        this.#alarm = new AbortController();
        this.#start("dial", this.#runtime.random() * SPREAD_MS);
      } else void this.#dial(session, this.#alarm!);
    }
  }

  /**
   * Returns whether something other than a frame has been a sign of life since the last call, or
   * explains the silence.
   */
  #showsLife({ activity, unsentBytes, isPaused }: WatchedSession): boolean {
    const shows = isPaused || activity !== this.#activity || unsentBytes < this.#unsentBytes;
    this.#activity = activity;
    this.#unsentBytes = unsentBytes;
    return shows;
  }

  #noteLateness(): void {
    const now = this.#runtime.now();
    // After the clock was set back, the last sign of life would be in the future.
    this.#receivedAt = Math.min(this.#receivedAt, now);
    this.#waitsSince = Math.min(this.#waitsSince, now);
    this.#cautiousUntil = Math.min(this.#cautiousUntil, now + CAUTIOUS_MS);
    this.#lateAt = now - this.#dueAt > LATE_MS ? now : Math.min(this.#lateAt, now);
  }

  get #latePauseMs(): number {
    return this.#lateAt + LATE_PAUSE_MS - this.#runtime.now();
  }

  #ping(session: WatchedSession): void {
    const isIdle = session.awaited === 0;
    // The next wait starts the timer again.
    if (isIdle && !session.isPingedIdle) return;
    if (isIdle && session.isHidden) return this.#start("ping", IDLE_SILENCE_MS);
    const silenceMs = isIdle ? IDLE_SILENCE_MS * this.#factor : this.#silenceMs;
    const leftMs = this.#silentSince + silenceMs - this.#runtime.now();
    if (leftMs > 0) return this.#start("ping", leftMs);
    if (!isIdle) this.#pings++;
    this.#start("alarm", this.#waitMs);
    session.ping().then((roundTripMs) => {
      const smoothed = this.#roundTripMs || roundTripMs;
      this.#roundTripMs = smoothed + (roundTripMs - smoothed) * ROUND_TRIP_WEIGHT;
    }, () => {});
  }

  async #dial(session: WatchedSession, alarm: AbortController): Promise<void> {
    const { signal } = alarm;
    const wasAlive = await session.dial({
      signal,
      silentMs: this.#runtime.now() - this.#silentSince,
      confirm: (openedInMs) => this.#confirm(session, signal, openedInMs),
    });
    if (wasAlive) this.#beCautious();
    if (this.#alarm !== alarm) return;
    // The session continues, because a server that rejects a connection is alive.
    this.#alarm = undefined;
    this.#start("ping", this.#silenceMs);
  }

  async #confirm(session: WatchedSession, signal: AbortSignal, openedInMs: number): Promise<void> {
    let leftMs = Math.min(GRACE_MS.max, Math.max(GRACE_MS.min, openedInMs - PROMPT_MS));
    while (leftMs > 0) {
      this.#dueAt = this.#runtime.now() + leftMs;
      await pause(this.#runtime, leftMs, signal);
      if (!signal.aborted && this.#showsLife(session)) this.received();
      signal.throwIfAborted();
      this.#noteLateness();
      leftMs = this.#latePauseMs;
    }
  }

  #endFalseAlarm(alarm: AbortController): void {
    this.#alarm = undefined;
    this.#beCautious();
    this.#start("ping", this.#silenceMs);
    alarm.abort(abortError("The server is responding"));
  }

  #beCautious(): void {
    this.#caution = Math.min(MAX_CAUTION, this.#factor * 2);
    this.#cautiousUntil = this.#runtime.now() + CAUTIOUS_MS;
  }
}

/** The parts of a client that the watch needs in addition to the session. */
export interface WatchedClient {
  /** Counts the items and acknowledgments that the client is waiting for. */
  countAwaited(): number;
  /** See {@linkcode WatchedSession.dial}. */
  dial(alarm: Alarm): Promise<boolean>;
}

/**
 * Returns whether the browser engine is slow to notice a dead server. Firefox sends a keep-alive
 * after half of the idle timeout, and this restarts the timeout. In a measurement, Firefox 153
 * noticed a dead server after 13 s instead of 9 s.
 *
 * @returns True if the client must use pings to notice that a server is silent.
 */
export function isEngineLate(): boolean {
  const { navigator } = globalThis as { readonly navigator?: { readonly userAgent?: string } };
  return / Firefox\//.test(navigator?.userAgent ?? "");
}

/** Adapts a session and its client for {@linkcode Liveness}. */
export function watchedSession(session: Session, client: WatchedClient): WatchedSession {
  const core = session[internals];
  const { frames, inspect, transport } = core.connection;
  return {
    get awaited() {
      return core.sending.pendingReplies + client.countAwaited();
    },
    isPingedIdle: transport === "webtransport" && isEngineLate(),
    get isHidden() {
      const { document } = globalThis as { readonly document?: { readonly hidden: boolean } };
      return document?.hidden === true;
    },
    get isPaused() {
      return frames?.isPaused === true;
    },
    get activity() {
      const { streamBytesReceived = 0, datagramsReceived = 0 } = inspect?.counters ?? {};
      return (frames?.partialBytes ?? 0) + streamBytesReceived + datagramsReceived;
    },
    get unsentBytes() {
      const { bufferedAmount = 0, lowWaterMark = 0 } = frames ?? {};
      return Math.max(0, bufferedAmount - lowWaterMark);
    },
    watchedBy: (liveness) => core.receiving.liveness = liveness,
    examinedBy(faults) {
      faults.opened(session);
      core.whenEnded((session) => faults.ended(session));
    },
    ping: () => ping(core, { timeoutMs: Infinity }),
    dial: (alarm) => client.dial(alarm),
  };
}
