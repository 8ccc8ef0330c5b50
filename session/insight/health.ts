/** Periodic health of a session. */
import type { Timer } from "../../base/runtime.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import { issues } from "./issues.ts";
import { redactText } from "./redaction.ts";
import type { SessionCore } from "../core.ts";
import { type SessionStats, statsOf } from "./stats.ts";
import type { SessionState } from "../types.ts";
import type { SessionIssue, SessionIssueCode } from "./issue.ts";

export { issues };

/** Options for monitoring a session. */
export interface HealthOptions {
  /**
   * Interval, in milliseconds.
   *
   * @default {60000}
   */
  readonly intervalMs?: number;
  /** Ends the monitoring. */
  readonly signal?: AbortSignal;
}

/** Health of a session at one moment. */
export interface SessionHealth {
  /** Time of the check, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** True without any issues. */
  readonly isHealthy: boolean;
  /** Issues, errors first; counters that only grow are compared with the previous check. */
  readonly issues: readonly SessionIssue[];
  /** The counters. */
  readonly stats: SessionStats;
  /** The last measured round trip, in milliseconds. */
  readonly roundTripMs: number | undefined;
}

/** Summary of a session: a plain object that JSON can hold completely. */
export interface SessionSummary {
  /** Id of the session. */
  readonly id: string;
  /** User of the session. */
  readonly user: string;
  /** State of the session. */
  readonly state: SessionState;
  /** Name of the transport. */
  readonly transport: string;
  /** The subprotocol. */
  readonly protocol: string;
  /** Path of the peer's request, without secrets. */
  readonly path: string;
  /** Time for which the session is, or was, established, in milliseconds. */
  readonly uptimeMs: number;
  /** The last measured round trip, in milliseconds. */
  readonly roundTripMs: number | undefined;
  /** Messages handed to the connection. */
  readonly sentMessages: number;
  /** Received messages. */
  readonly receivedMessages: number;
  /** Bytes handed to the connection: of messages, streams and datagrams. */
  readonly sentBytes: number;
  /** Received bytes: of messages, streams and datagrams. */
  readonly receivedBytes: number;
  /** Open streams. */
  readonly activeStreams: number;
  /** Sent datagrams. */
  readonly datagramsSent: number;
  /** Received datagrams. */
  readonly datagramsReceived: number;
  /** Codes of the issues, for programs. */
  readonly issues: readonly SessionIssueCode[];
}

/** Implements `summary` of a session. */
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

/** Implements `monitorHealth` of a session. */
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
  const { runtime } = core;
  let isOver = core.state === "closed" || signal?.aborted === true;
  let wake = () => {};
  let timer: Timer | undefined;
  const end = () => {
    isOver = true;
    runtime.clearTimeout(timer);
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
        timer = runtime.setTimeout(resolve, intervalMs);
      });
    }
  } finally {
    runtime.clearTimeout(timer);
    signal?.removeEventListener("abort", end);
    core.monitors?.delete(end);
  }
}

/**
 * Returns the callbacks for the end of the session. With the promise of that end instead, each check
 * would add a reaction that stays in memory until the end.
 */
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
    at: core.runtime.now(),
    isHealthy: found.length === 0,
    issues: found,
    stats: statsOf(core),
    roundTripMs: core.roundTripMs,
  };
}
