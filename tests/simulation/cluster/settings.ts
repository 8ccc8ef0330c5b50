/**
 * Settings of a plan's servers and clients, which are limits, times, and the resulting guarantees.
 */
import type { HistoryBounds } from "../../../pubsub/broker.ts";
import type { Terms } from "../facts.ts";
import type { Feature, Plan } from "../plan.ts";

/** Conditions of the network when there are no faults. */
export const NETWORK = { delayMs: 5, jitterMs: 5 } as const;

/** Prefix of topics with presence. */
const ROOM_PREFIX = "room:";

/** Prefixes of topics with a history. */
const HISTORY_PREFIXES = ["news:", ROOM_PREFIX];

/** Limits of a client's send queue, which are the library's defaults. */
export const CLIENT_QUEUE = { maxMessages: 256, maxBytes: 1_048_576 } as const;

/** The library's defaults for limits that a plan does not change. */
const DEFAULTS = {
  maxSessionsPerUser: 100,
  sendQueue: { ...CLIENT_QUEUE, drops: false },
  outbox: { maxMessages: 100, maxBytes: 262_144 },
} as const;

/** Settings of all servers and clients of a run. */
export interface Settings {
  /** Returns true if the plan has a feature. */
  readonly has: (feature: Feature) => boolean;
  /** History limits of topics, by pattern. */
  readonly history: Readonly<Record<string, HistoryBounds>>;
  /** Heartbeat of sessions. */
  readonly heartbeat: { readonly intervalMs: number; readonly timeoutMs: number };
  /** Lifetime of a token, in milliseconds. It is `undefined` for tokens that don't expire. */
  readonly tokenMs: number | undefined;
  /** Maximum time that a message handler takes, in milliseconds. */
  readonly handlerMs: number;
  /** Share of the messages whose handler fails. */
  readonly failureShare: number;
  /**
   * Maximum time until the shared store has changed the first row of a shard, in milliseconds. The
   * servers of NATS then elect the leader of a new stream.
   */
  readonly firstRowMs: number;
  /** Guarantees that follow from the options. */
  readonly terms: Terms;
}

/**
 * Translates the features of a plan into options of its servers and clients, and into the guarantees
 * that a run with these options must keep.
 */
export function settingsOf(plan: Plan): Settings {
  const features = new Set<string>(plan.features);
  const has = (feature: Feature) => features.has(feature);
  const bounds = has("short-history")
    ? { size: 10, ttlMs: 60_000, bytes: 1 << 20 }
    : { size: 10_000, ttlMs: 3_600_000, bytes: 1 << 24 };
  // Shorter than the defaults, so that a run settles sooner.
  const heartbeat = { intervalMs: 5_000, timeoutMs: 12_000 };
  const isSmall = has("small-queues");
  return {
    has,
    history: Object.fromEntries(HISTORY_PREFIXES.map((prefix) => [`${prefix}{name}`, bounds])),
    heartbeat,
    tokenMs: has("tokens") ? 40_000 : undefined,
    handlerMs: has("slow-handlers") ? 400 : 0,
    failureShare: has("throwing-handlers") ? 0.02 : 0,
    firstRowMs: plan.broker === "nats" ? 12_000 : 0,
    terms: {
      historyOf: (topic) => hasHistory(topic) ? bounds : undefined,
      isRoom: (topic) => has("presence") && topic.startsWith(ROOM_PREFIX),
      maxSessionsPerUser: has("limits") ? 3 : DEFAULTS.maxSessionsPerUser,
      heartbeat,
      isApart: plan.broker === "none",
      hasSharedLimits: plan.broker !== "none",
      // Two concurrent changes of one row may both succeed. See docs/deploy/nats.md, Outages.
      hasExactPlaces: plan.broker !== "nats",
      hasResetCodes: !has("http3"),
      rates: has("rates") ? { user: { perSecond: 5, burst: 20 } } : {},
      sendQueue: isSmall ? { maxMessages: 16, maxBytes: 16_384, drops: false } : DEFAULTS.sendQueue,
      outbox: isSmall ? { maxMessages: 8, maxBytes: 4_096 } : DEFAULTS.outbox,
    },
  };
}

/**
 * Returns true if a topic has a history.
 *
 * @returns True for a topic with a history.
 */
export function hasHistory(topic: string): boolean {
  return HISTORY_PREFIXES.some((prefix) => topic.startsWith(prefix));
}
