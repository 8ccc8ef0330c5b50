/**
 * Signs of life: a peer that is silent for too long is taken for dead.
 *
 * @module
 */

/** How exact the times are: the clock ticks once in this many milliseconds. */
const TICK_MS = 1_000;

/** Options for {@linkcode Heartbeat}. */
export interface HeartbeatOptions {
  /**
   * How often each peer is pinged, in milliseconds; a multiple of 1,000.
   *
   * @default {25000}
   */
  readonly intervalMs?: number;
  /**
   * How long a peer may be silent, in milliseconds; it is found dead at most
   * one second later. Pages in the background answer pings in time: browsers
   * hold back their timers, not what comes.
   *
   * @default {60000}
   */
  readonly timeoutMs?: number;
}

/** Somebody whose signs of life are watched. */
export interface Heart {
  /** The heartbeat's `now` when the peer was last heard; written by its owner. */
  lastHeard: number;
  /** Sends a ping. */
  ping(): void;
  /** The peer was silent for too long. */
  dead(silentMs: number): void;
}

/**
 * Watches any number of peers with one timer: pings are spread over the
 * interval, so that ten thousand sessions do not ping at once.
 *
 * The clock stops while nobody is watched. After a pause of the whole process
 * (a laptop's sleep) peers are pinged and get ten seconds to answer.
 */
export class Heartbeat implements Disposable {
  /** Pinged every so many milliseconds. */
  readonly intervalMs: number;
  /** Dead after so many milliseconds of silence. */
  readonly timeoutMs: number;
  /** Coarse clock in milliseconds, good enough to note when a peer was heard. */
  now: number = Date.now();

  /** Each with the tick of the interval at which it is pinged. */
  readonly #hearts = new Map<Heart, number>();
  #tick = 0;
  #timer: ReturnType<typeof setInterval> | undefined;

  /**
   * Creates a heartbeat that watches nobody.
   *
   * @param options See {@linkcode HeartbeatOptions}.
   * @throws {RangeError} If the interval is not a positive multiple of 1,000, or not below the timeout.
   */
  constructor(options: HeartbeatOptions = {}) {
    const { intervalMs = 25_000, timeoutMs = 60_000 } = options;
    if (!(intervalMs > 0) || intervalMs % TICK_MS !== 0) {
      throw new RangeError(
        `Cannot create heartbeat: intervalMs must be a positive multiple of ${TICK_MS}, received ${intervalMs}`,
      );
    }
    if (!(timeoutMs > intervalMs)) {
      throw new RangeError(
        `Cannot create heartbeat: timeoutMs must be above intervalMs (${intervalMs}), received ${timeoutMs}`,
      );
    }
    this.intervalMs = intervalMs;
    this.timeoutMs = timeoutMs;
  }

  /** How many peers are watched. */
  get size(): number {
    return this.#hearts.size;
  }

  /**
   * Watches a peer; its first ping is due in one interval.
   *
   * @param heart Its `lastHeard` is set to now.
   */
  add(heart: Heart): void {
    if (this.#hearts.has(heart)) return;
    if (this.#timer === undefined) {
      this.now = Date.now();
      this.#timer = setInterval(() => this.#onTick(), TICK_MS);
    }
    heart.lastHeard = this.now;
    // The tick that was last comes again in a whole interval.
    this.#hearts.set(heart, this.#tick);
  }

  /**
   * Stops watching a peer. Idempotent.
   *
   * @param heart Any peer.
   */
  delete(heart: Heart): void {
    this.#hearts.delete(heart);
    if (this.#hearts.size === 0) this[Symbol.dispose]();
  }

  /** Stops watching everybody. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#hearts.clear();
  }

  #onTick(): void {
    const before = this.now;
    this.now = Date.now();
    if (this.now - before > 10 * TICK_MS) this.#wakeUp();
    this.#tick = (this.#tick + 1) % (this.intervalMs / TICK_MS);
    // All of them, each tick: ten thousand take a fifth of a millisecond.
    for (const [heart, tick] of this.#hearts) {
      if (tick === this.#tick) heart.ping();
      const silentMs = this.now - heart.lastHeard;
      if (silentMs < this.timeoutMs) continue;
      this.delete(heart);
      heart.dead(silentMs);
    }
  }

  #wakeUp(): void {
    const graceMs = Math.min(10_000, this.timeoutMs);
    for (const heart of this.#hearts.keys()) {
      heart.lastHeard = Math.max(heart.lastHeard, this.now - this.timeoutMs + graceMs);
      heart.ping();
    }
  }
}
