/**
 * Heartbeat: pings peers, and detects peers that are silent for too long.
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
 * Longest heartbeat interval accepted from a server, in seconds: a heartbeat has a slot for each
 * second.
 */
const MAX_INTERVAL_S = 600;

/** A peer that a heartbeat watches. */
export interface WatchedPeer {
  /** The heartbeat's `now` at the last sign of life; the peer's session sets it. */
  lastHeard: number;
  /** Sends a ping. */
  ping(): void;
  /** Called when the peer has been silent for too long. */
  dead(silentMs: number): void;
}

/**
 * Watches any number of peers with one timer. Pings are spread over the interval, so that ten
 * thousand sessions do not ping at the same time.
 *
 * The clock stops while there is no peer to watch. After the whole process was paused (for example,
 * a sleeping laptop), peers are pinged and have ten seconds to answer.
 */
export class Heartbeat implements Disposable {
  /** Interval between two pings of a peer, in milliseconds. */
  declare readonly intervalMs: number;
  /** Silence after which a peer counts as dead, in milliseconds. */
  declare readonly timeoutMs: number;
  /** Coarse clock in milliseconds, exact enough for signs of life. */
  declare now: number;

  readonly #runtime: Runtime;
  /** Peers, each with the tick of the interval at which its ping is due. */
  readonly #peers = new Map<WatchedPeer, number>();
  #tick = 0;
  #timer: Timer | undefined;

  /**
   * Creates a heartbeat.
   *
   * @param runtime Clocks and timers of this node.
   * @param options Interval and timeout, checked; see `heartbeat` of `SessionLimits`.
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
   * @param peer The peer; its `lastHeard` is set to now.
   */
  add(peer: WatchedPeer): void {
    if (this.#peers.has(peer)) return;
    if (this.#timer === undefined) {
      this.now = this.#runtime.now();
      this.#timer = this.#runtime.setTimeout(() => this.#onTick(), TICK_MS);
    }
    peer.lastHeard = this.now;
    // The current tick recurs after a whole interval.
    this.#peers.set(peer, this.#tick);
  }

  /**
   * Stops watching a peer. Idempotent.
   *
   * @param peer Any peer.
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
      if (tick === this.#tick) peer.ping();
      const silentMs = this.now - peer.lastHeard;
      if (silentMs < this.timeoutMs) continue;
      this.delete(peer);
      peer.dead(silentMs);
    }
  }

  /**
   * Follows a clock that was set back: otherwise peers' last signs of life would be in the future.
   */
  #setBack(byMs: number): void {
    for (const peer of this.#peers.keys()) peer.lastHeard -= byMs;
  }

  #wakeUp(): void {
    const graceMs = Math.min(10_000, this.timeoutMs);
    for (const peer of this.#peers.keys()) {
      peer.lastHeard = Math.max(peer.lastHeard, this.now - this.timeoutMs + graceMs);
      peer.ping();
    }
  }
}

/**
 * Creates a client's heartbeat from the interval of its server's pings: the server counts as dead
 * after two missed pings, with a margin of 40 % of an interval.
 */
export function heartbeatOf(runtime: Runtime, heartbeatMs: number): Heartbeat {
  const seconds = Math.round(heartbeatMs / 1_000) || 1;
  const intervalMs = Math.min(MAX_INTERVAL_S, seconds) * 1_000;
  return new Heartbeat(runtime, { intervalMs, timeoutMs: intervalMs * 2.4 });
}
