/** Notices a server that is silent while the client waits for it. */
import type { Runtime, Timer } from "../base/runtime.ts";
import { abortError, pause } from "../base/wait.ts";
import { internals, type WaitObserver } from "../session/core.ts";
import { ping } from "../session/insight/ping.ts";
import type { Session } from "../session/session.ts";
import { isEngineLate } from "../transport/native/engines.ts";

/**
 * Silence before each ping of one wait, in milliseconds; the last one repeats. A long wait, such as
 * for an answer that takes minutes, costs few pings.
 */
export const SILENCES_MS = [2_000, 4_000, 8_000, 15_000] as const;

/** Round trips that a silence takes at least: a server far away answers late. */
const SILENCE_ROUND_TRIPS = 4;

/**
 * Silence of an idle session before a ping, in milliseconds, on an engine that notices a dead server
 * late: with the waits after that, a server that was killed is noticed within 10 s.
 */
const IDLE_SILENCE_MS = 6_000;

/** Shortest wait for a sign of life after a ping, in milliseconds. */
export const WAIT_MS = 1_000;

/** Round trips that the wait after a ping takes at least. */
const WAIT_ROUND_TRIPS = 2;

/**
 * Longest random delay between the wait and the dial, in milliseconds: thousands of clients notice
 * a busy server in the same second.
 */
const SPREAD_MS = 1_000;

/** Time that a new connection to a server that is not busy takes to open, in milliseconds. */
const PROMPT_MS = 250;

/**
 * Bounds of the time that the old connection has after the new one opened, in milliseconds. In
 * between, the old connection has the time by which the new one opened late: a server that was
 * frozen opens late, and answers on both.
 */
const GRACE_MS = { min: 100, max: 1_000 } as const;

/** Delay of a timer, in milliseconds, above which this process or page was asleep or busy. */
const LATE_MS = 250;

/** Time without an alarm after such a timer, in milliseconds: arrived frames are still unread. */
const LATE_PAUSE_MS = 1_000;

/** Time for which both waits are longer after a false alarm, in milliseconds. */
const CAUTIOUS_MS = 300_000;

/** Largest factor of both waits: each false alarm within that time doubles them. */
const MAX_CAUTION = 8;

/** Weight of a new round trip in the smoothed one, as in RFC 6298. */
const ROUND_TRIP_WEIGHT = 1 / 8;

/** One alarm: the server gave no sign of life after a ping. */
export interface Alarm {
  /** Aborted at the first sign of life of the old connection, and at the end of the session. */
  readonly signal: AbortSignal;
  /** Time since the last sign of life or the start of the wait, in milliseconds. */
  readonly silentMs: number;
  /**
   * Gives the old connection a last chance, after a new connection opened.
   *
   * @param openedInMs Time that the new connection took to open, in milliseconds.
   * @throws The reason of the signal, if there was a sign of life.
   */
  confirm(openedInMs: number): Promise<void>;
}

/** A session with the server, as {@linkcode Liveness} sees it. */
export interface WatchedSession {
  /** Number of answers, items and acknowledgments that the client waits for. */
  readonly awaited: number;
  /** True if an idle session is pinged too, because nothing else notices a dead server in time. */
  readonly isPingedIdle: boolean;
  /** True while no one sees the page: an idle session is not pinged meanwhile. */
  readonly isHidden: boolean;
  /** True while this end does not read, so that silence proves nothing. */
  readonly isPaused: boolean;
  /** A number that changes whenever bytes arrive that are not a whole frame. */
  readonly activity: number;
  /** Bytes of a large message that the connection has yet to send; a slow link takes its time. */
  readonly unsentBytes: number;
  /** Sets the watch that is notified of waits and frames, or removes it. */
  watchedBy(liveness: Liveness | undefined): void;
  /** Pings the server; resolves with the round trip, in milliseconds. */
  ping(): Promise<number>;
  /**
   * Opens a connection next to the silent one, and moves there. Never rejects.
   *
   * @returns Resolves when the session was replaced or given up, or continues: with true if the
   * server still knew the silent session, so that the alarm was false.
   */
  dial(alarm: Alarm): Promise<boolean>;
}

/**
 * Watches one client's server while something is awaited: a reply, an acknowledgment, an item of an
 * answer, the answer to a subscription. An idle session costs nothing, unless it has to be pinged.
 *
 * 1. **Listening:** after 2 s of silence, or four smoothed round trips, the client pings. Further
 *    pings of the same wait follow after 4, 8 and 15 s of silence.
 * 2. **Asked:** the server has 1 s, or two round trips, for any sign of life.
 * 3. **Alarmed:** after a random delay of up to 1 s the client dials next to the old connection.
 *    The first sign of life on the old connection cancels that. Each such false alarm doubles both
 *    waits for five minutes, up to eight times.
 *
 * After a timer that fired late there is no alarm for a second, since this process, not the server,
 * was silent.
 */
export class Liveness implements WaitObserver, Disposable {
  readonly #runtime: Runtime;
  #session: WatchedSession | undefined;
  #timer: Timer | undefined;
  /** The step that the timer starts. */
  #next: "ping" | "alarm" | "dial" | undefined;
  #dueAt = 0;
  #heardAt = 0;
  /** True if a wait began after the last sign of life. */
  #hasWait = false;
  /** Start of the first such wait. */
  #waitsSince = 0;
  #activity = 0;
  #unsentBytes = 0;
  /** Pings of the current wait. */
  #pings = 0;
  #lateAt = -Infinity;
  #roundTripMs = 0;
  #caution = 1;
  #cautiousUntil = -Infinity;
  /** Set from the alarm to its outcome. */
  #alarm: AbortController | undefined;

  /** Creates a watch without a session. */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Watches a session, in place of the previous one.
   *
   * @param session The session.
   */
  follow(session: WatchedSession): void {
    this[Symbol.dispose]();
    this.#session = session;
    session.watchedBy(this);
    this.#heardAt = this.#runtime.now();
    if (session.awaited > 0) this.began();
    else if (session.isPingedIdle) this.#start("ping", IDLE_SILENCE_MS);
  }

  /** Stops watching, such as at the end of the session. */
  [Symbol.dispose](): void {
    this.#session?.watchedBy(undefined);
    this.#hasWait = false;
    this.#session = undefined;
    this.#stop();
    this.#alarm?.abort();
    this.#alarm = undefined;
  }

  /** Notes that something is awaited from now on. */
  began(): void {
    const session = this.#session;
    if (!session) return;
    const now = this.#runtime.now();
    if (!this.#hasWait) {
      this.#hasWait = true;
      this.#waitsSince = now;
      this.#showsLife(session);
    }
    // A new wait is noticed as fast as the first one.
    this.#pings = 0;
    if (this.#alarm || this.#next === "alarm") return;
    const dueAt = this.#silentSince + this.#silenceMs;
    if (this.#next === undefined || dueAt < this.#dueAt) this.#start("ping", dueAt - now);
  }

  /** Notes a sign of life. */
  heard(): void {
    this.#hasWait = false;
    this.#heardAt = this.#runtime.now();
    if (this.#next === "alarm") this.#start("ping", this.#silenceMs);
    else if (this.#alarm) this.#endFalseAlarm(this.#alarm);
  }

  get #silentSince(): number {
    return Math.max(this.#heardAt, this.#waitsSince);
  }

  get #silenceMs(): number {
    const silenceMs = SILENCES_MS[Math.min(this.#pings, SILENCES_MS.length - 1)]!;
    return Math.max(silenceMs, SILENCE_ROUND_TRIPS * this.#roundTripMs) * this.#factor;
  }

  get #waitMs(): number {
    return Math.max(WAIT_MS, WAIT_ROUND_TRIPS * this.#roundTripMs) * this.#factor;
  }

  /** Factor of both waits. */
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
      this.heard();
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

  /** Tells if something other than a frame showed life since the last call, or explains the silence. */
  #showsLife({ activity, unsentBytes, isPaused }: WatchedSession): boolean {
    const shows = isPaused || activity !== this.#activity || unsentBytes < this.#unsentBytes;
    this.#activity = activity;
    this.#unsentBytes = unsentBytes;
    return shows;
  }

  #noteLateness(): void {
    const now = this.#runtime.now();
    // A clock that was set back would seem to have heard the server in the future.
    this.#heardAt = Math.min(this.#heardAt, now);
    this.#waitsSince = Math.min(this.#waitsSince, now);
    this.#cautiousUntil = Math.min(this.#cautiousUntil, now + CAUTIOUS_MS);
    this.#lateAt = now - this.#dueAt > LATE_MS ? now : Math.min(this.#lateAt, now);
  }

  /** Time without an alarm that is left after a late timer, in milliseconds. */
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
    // The session continues: the server rejected the new connection, and so it lives.
    this.#alarm = undefined;
    this.#start("ping", this.#silenceMs);
  }

  async #confirm(session: WatchedSession, signal: AbortSignal, openedInMs: number): Promise<void> {
    let leftMs = Math.min(GRACE_MS.max, Math.max(GRACE_MS.min, openedInMs - PROMPT_MS));
    while (leftMs > 0) {
      this.#dueAt = this.#runtime.now() + leftMs;
      await pause(this.#runtime, leftMs, signal);
      if (!signal.aborted && this.#showsLife(session)) this.heard();
      signal.throwIfAborted();
      this.#noteLateness();
      leftMs = this.#latePauseMs;
    }
  }

  #endFalseAlarm(alarm: AbortController): void {
    this.#alarm = undefined;
    this.#beCautious();
    this.#start("ping", this.#silenceMs);
    alarm.abort(abortError("The server gave a sign of life"));
  }

  #beCautious(): void {
    this.#caution = Math.min(MAX_CAUTION, this.#factor * 2);
    this.#cautiousUntil = this.#runtime.now() + CAUTIOUS_MS;
  }
}

/** The parts of a client that the watch needs besides its session. */
export interface WatchedClient {
  /** Counts the items and acknowledgments that the client waits for. */
  countAwaited(): number;
  /** See {@linkcode WatchedSession.dial}. */
  dial(alarm: Alarm): Promise<boolean>;
}

/** Makes the view that {@linkcode Liveness} has of a session. */
export function watchedSession(session: Session, client: WatchedClient): WatchedSession {
  const core = session[internals];
  const { frames, inspect, transport } = core.connection;
  return {
    get awaited() {
      return core.sending.awaitedAnswers + client.countAwaited();
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
    ping: () => ping(core, { timeoutMs: Infinity }),
    dial: (alarm) => client.dial(alarm),
  };
}
