/**
 * How a session is, again and again.
 *
 * @module
 */
import { MAX_TIMER_MS } from "../../transport/within.ts";
import { issues } from "./issues.ts";
import { redactText } from "./redaction.ts";
import type { SessionCore } from "../core.ts";
import { type SessionStats, statsOf } from "./stats.ts";
import type { SessionState } from "../types.ts";
import type { SessionIssue, SessionIssueCode } from "./issue.ts";

export { issues };

/** Options for looking at a session again and again. */
export interface HealthOptions {
  /**
   * How often, in milliseconds.
   *
   * @default {60000}
   */
  readonly intervalMs?: number;
  /** Ends it. */
  readonly signal?: AbortSignal;
}

/** How a session is. */
export interface SessionHealth {
  /** When it was looked at, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** Whether nothing is wrong. */
  readonly isHealthy: boolean;
  /** What is wrong, errors first; of what only grows, what is new since the last look. */
  readonly issues: readonly SessionIssue[];
  /** The counters. */
  readonly stats: SessionStats;
  /** The last measured round trip, in milliseconds. */
  readonly roundTripMs: number | undefined;
}

/** A session in short: a plain object, of which JSON holds all. */
export interface SessionSummary {
  /** Id of the session. */
  readonly id: string;
  /** Who it is. */
  readonly user: string;
  /** Where it is in its life. */
  readonly state: SessionState;
  /** The wire's name. */
  readonly transport: string;
  /** The subprotocol. */
  readonly protocol: string;
  /** The path that the peer connected to, without secrets. */
  readonly path: string;
  /** How long it is, or was, established, in milliseconds. */
  readonly uptimeMs: number;
  /** The last measured round trip, in milliseconds. */
  readonly roundTripMs: number | undefined;
  /** Messages that were handed to the wire. */
  readonly sentMessages: number;
  /** Messages that came. */
  readonly receivedMessages: number;
  /** Bytes that were handed to the wire: of messages, streams and datagrams. */
  readonly sentBytes: number;
  /** Bytes that came: of messages, streams and datagrams. */
  readonly receivedBytes: number;
  /** Streams that are open. */
  readonly activeStreams: number;
  /** Datagrams that were sent. */
  readonly datagramsSent: number;
  /** Datagrams that came. */
  readonly datagramsReceived: number;
  /** What is wrong, for programs. */
  readonly issues: readonly SessionIssueCode[];
}

/** See `summary` of a session. */
export function summary(core: SessionCore): SessionSummary {
  const { session } = core;
  const stats = statsOf(core);
  return {
    id: session.id,
    user: session.user,
    state: stats.state,
    transport: session.transport,
    protocol: session.protocol,
    path: redactText(session.path),
    uptimeMs: stats.uptimeMs,
    roundTripMs: core.roundTripMs,
    sentMessages: stats.sentMessages,
    receivedMessages: stats.receivedMessages,
    sentBytes: stats.sentBytes + stats.streamBytesSent + stats.datagramBytesSent,
    receivedBytes: stats.receivedBytes + stats.streamBytesReceived + stats.datagramBytesReceived,
    activeStreams: stats.activeStreams,
    datagramsSent: stats.datagramsSent,
    datagramsReceived: stats.datagramsReceived,
    issues: issues(core).map(({ code }) => code),
  };
}

/** See `monitorHealth` of a session. */
export async function* monitorHealth(
  core: SessionCore,
  options: HealthOptions,
): AsyncGenerator<SessionHealth, void, undefined> {
  const { intervalMs = 60_000, signal } = options;
  if (!Number.isInteger(intervalMs) || intervalMs < 1 || intervalMs > MAX_TIMER_MS) {
    throw new RangeError(
      `Cannot monitor health: intervalMs must be an integer from 1 to ${MAX_TIMER_MS}, ` +
        `received ${intervalMs}`,
    );
  }
  let isOver = core.state === "closed" || signal?.aborted === true;
  let wake = () => {};
  let timer: ReturnType<typeof setTimeout> | undefined;
  const end = () => {
    isOver = true;
    clearTimeout(timer);
    wake();
  };
  signal?.addEventListener("abort", end);
  if (!isOver) monitorsOf(core).add(end);
  try {
    let before: SessionStats | undefined;
    while (!isOver) {
      const health = healthOf(core, before);
      before = health.stats;
      yield health;
      if (isOver) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
        timer = setTimeout(resolve, intervalMs);
      });
    }
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
    core.monitors?.delete(end);
  }
}

/** Told of the end of the session. On its promise, each look would stay until then. */
function monitorsOf(core: SessionCore): Set<() => void> {
  if (core.monitors === undefined) {
    const monitors = core.monitors = new Set<() => void>();
    core.whenEnded(() => monitors.forEach((end) => end()));
  }
  return core.monitors;
}

function healthOf(core: SessionCore, before: SessionStats | undefined): SessionHealth {
  const found = issues(core, before);
  return {
    at: Date.now(),
    isHealthy: found.length === 0,
    issues: found,
    stats: statsOf(core),
    roundTripMs: core.roundTripMs,
  };
}
