/**
 * The heartbeat pings peers, and detects peers that are silent for too long.
 *
 * @module
 */
import type { Runtime, Timer } from "../base/runtime.ts";

/** Resolution of all times, in milliseconds: the clock ticks once in this interval. */
export const TICK_MS = 1_000;

/** Default interval between two pings of a peer, in milliseconds. */
export const INTERVAL_MS = 25_000;

/** Default silence after which a peer counts as dead, in milliseconds. */
export const TIMEOUT_MS = 60_000;

/**
 * The longest heartbeat interval accepted from a server, in seconds. A heartbeat uses one slot for
 * each second.
 */
const MAX_INTERVAL_S = 600;

/** A peer that a heartbeat watches. */
export interface WatchedPeer {
  /** The heartbeat's `now` when the peer last sent anything; set by the peer's session. */
  lastReceivedAt: number;
  /** Sends a ping. */
  ping(): void;
  /** Called once per second. */
  tick(): void;
  /** Called when the peer has been silent for too long. */
  dead(silentMs: number): void;
}

/**
 * Watches any number of peers with one timer. Pings are spread over the interval, so that ten
 * thousand sessions are not pinged at the same time.
 *
 * The timer stops while there is no peer to watch. If the whole process was paused, for example
 * because a laptop was asleep, peers are pinged and have ten seconds to reply.
 */
export class Heartbeat implements Disposable {
  /** Interval between two pings of a peer, in milliseconds. */
  declare readonly intervalMs: number;
  /** Silence after which a peer counts as dead, in milliseconds. */
  declare readonly timeoutMs: number;
  /** A coarse clock in milliseconds, accurate enough to tell when a peer last sent something. */
  declare now: number;

  readonly #runtime: Runtime;
  /** The peers. Each value is the tick of the interval at which the peer's ping is due. */
  readonly #peers = new Map<WatchedPeer, number>();
  #tick = 0;
  #timer: Timer | undefined;

  /**
   * Creates a heartbeat.
   *
   * @param runtime The clocks and timers of this node.
   * @param options The interval and the timeout, already checked; see `heartbeat` in
   * `SessionLimits`.
   */
  constructor(
    runtime: Runtime,
    options: { readonly intervalMs?: number | undefined; readonly timeoutMs?: number | undefined } =
      {},
  ) {
    const { intervalMs = INTERVAL_MS, timeoutMs = TIMEOUT_MS } = options;
    this.#runtime = runtime;
    this.now = runtime.now();
    this.intervalMs = intervalMs;
    this.timeoutMs = timeoutMs;
  }

  /** Number of watched peers. */
  get size(): number {
    return this.#peers.size;
  }

  /**
   * Watches a peer. The first ping is due after one interval.
   *
   * @param peer The peer; its `lastReceivedAt` is set to now.
   */
  add(peer: WatchedPeer): void {
    if (this.#peers.has(peer)) return;
    if (this.#timer === undefined) {
      this.now = this.#runtime.now();
      this.#timer = this.#runtime.setTimeout(() => this.#onTick(), TICK_MS);
    }
    peer.lastReceivedAt = this.now;
    // The current tick recurs after a whole interval.
    this.#peers.set(peer, this.#tick);
  }

  /**
   * Stops watching a peer. Idempotent.
   *
   * @param peer The peer, whether it is watched or not.
   */
  delete(peer: WatchedPeer): void {
    this.#peers.delete(peer);
    if (this.#peers.size === 0) this[Symbol.dispose]();
  }

  /** Stops watching all peers. */
  [Symbol.dispose](): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#peers.clear();
  }

  #onTick(): void {
    this.#timer = this.#runtime.setTimeout(() => this.#onTick(), TICK_MS);
    const before = this.now;
    this.now = this.#runtime.now();
    if (this.now - before > 10 * TICK_MS) this.#wakeUp();
    else if (this.now < before) this.#setBack(before - this.now);
    this.#tick = (this.#tick + 1) % (this.intervalMs / TICK_MS);
    // Visits all peers at each tick: ten thousand take a fifth of a millisecond.
    for (const [peer, tick] of this.#peers) {
      peer.tick();
      if (tick === this.#tick) peer.ping();
      const silentMs = this.now - peer.lastReceivedAt;
      if (silentMs < this.timeoutMs) continue;
      this.delete(peer);
      peer.dead(silentMs);
    }
  }

  /**
   * Follows a clock that was set back. Otherwise, the times at which peers last sent something would be
   * in the future.
   */
  #setBack(byMs: number): void {
    for (const peer of this.#peers.keys()) peer.lastReceivedAt -= byMs;
  }

  #wakeUp(): void {
    const graceMs = Math.min(10_000, this.timeoutMs);
    for (const peer of this.#peers.keys()) {
      peer.lastReceivedAt = Math.max(peer.lastReceivedAt, this.now - this.timeoutMs + graceMs);
      peer.ping();
    }
  }
}

/**
 * Creates a client's heartbeat from the interval of its server's pings. The server counts as dead
 * after two missed pings, plus a margin of 40 % of an interval.
 */
export function heartbeatOf(runtime: Runtime, heartbeatMs: number): Heartbeat {
  const seconds = Math.round(heartbeatMs / 1_000) || 1;
  const intervalMs = Math.min(MAX_INTERVAL_S, seconds) * 1_000;
  return new Heartbeat(runtime, { intervalMs, timeoutMs: intervalMs * 2.4 });
}
