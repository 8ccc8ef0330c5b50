/**
 * What a live track may hold, and for how long it waits.
 *
 * @module
 */
import type { TrackInfoMessage } from "../wire/messages.ts";

/** What the subscribers of a live track want together. */
export interface LiveDemand {
  /** The highest of their priorities. */
  readonly priority: number;
  /** The longest of their latencies; 0 if one has no limit. */
  readonly maxLatencyMs: number;
}

/** Options for {@linkcode LiveTrack}. */
export interface LiveTrackOptions {
  /** What to tell of the track, on versions that ask. */
  readonly info?: Partial<TrackInfoMessage>;
  /**
   * Groups that late subscribers and fetches can have. The newest one is always there.
   *
   * @default {32}
   */
  readonly maxCachedGroups?: number;
  /**
   * The same in bytes; for subscribers with timestamps and for those without they are held once each.
   *
   * @default {16777216}
   */
  readonly maxCachedBytes?: number;
  /**
   * How old a group may be that late subscribers get, beside the newest one, in milliseconds.
   *
   * @default {30000}
   */
  readonly maxCacheAgeMs?: number;
  /**
   * How many groups behind a subscriber may be; what is older is dropped.
   *
   * @default {256}
   */
  readonly maxLagGroups?: number;
  /**
   * The same in bytes. A group that is larger than this and `maxCachedBytes` loses its first frames: who
   * took them gets the rest, and nobody else gets it.
   *
   * @default {16777216}
   */
  readonly maxLagBytes?: number;
  /**
   * Groups that are older than this behind the newest one are dropped, in milliseconds; 0 for no limit.
   * A subscriber may ask for less.
   *
   * @default {0}
   */
  readonly maxLatencyMs?: number;
  /**
   * Groups on their way to one subscriber at once; others wait.
   *
   * @default {64}
   */
  readonly maxGroupsInFlight?: number;
  /**
   * Groups of one subscriber that were dropped while the wire has a part of them and can not let go,
   * as over Deno's QUIC; who has more is ended.
   *
   * @default {64}
   */
  readonly maxStuckGroups?: number;
  /**
   * A subscriber that takes nothing for so long, while there is something, is ended: after this time, or
   * up to a quarter of it more. Where it holds streams that can not be reset, its session ends
   * after the same time again, for only that frees them.
   *
   * @default {10000}
   */
  readonly stallTimeoutMs?: number;
  /**
   * Subscribers at once; more are refused.
   *
   * @default {65536}
   */
  readonly maxSubscribers?: number;
  /** Called when a subscriber came, left, or asked for something else. What it throws is lost. */
  readonly onDemand?: () => void;
}

/** The limits, with every default filled in. */
export type LiveTrackLimits = Required<Omit<LiveTrackOptions, "info" | "onDemand">>;

const DEFAULTS: LiveTrackLimits = {
  maxCachedGroups: 32,
  maxCachedBytes: 16_777_216,
  maxCacheAgeMs: 30_000,
  maxLagGroups: 256,
  maxLagBytes: 16_777_216,
  maxLatencyMs: 0,
  maxGroupsInFlight: 64,
  maxStuckGroups: 64,
  stallTimeoutMs: 10_000,
  maxSubscribers: 65_536,
};

/** Limits that may be 0. */
const MAY_BE_ZERO: readonly string[] = ["maxCacheAgeMs", "maxLatencyMs"];

/**
 * Fills in the defaults.
 *
 * @param options Those that are given.
 * @returns All of them.
 * @throws {RangeError} If a limit is not a positive integer.
 */
export function liveTrackLimits(options: Partial<LiveTrackLimits>): LiveTrackLimits {
  const limits = { ...DEFAULTS, ...options };
  for (const [name, value] of Object.entries(limits)) {
    const least = MAY_BE_ZERO.includes(name) ? 0 : 1;
    if (Number.isInteger(value) && value >= least) continue;
    throw new RangeError(
      `Cannot create track: ${name} must be an integer of at least ${least}, received ${value}`,
    );
  }
  return limits;
}
