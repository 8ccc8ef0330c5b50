/**
 * What a session counted.
 *
 * @module
 */
import type { SessionCore } from "./core.ts";
import type { ControlStats } from "./controls.ts";
import type { InboundStats } from "./inbound.ts";
import type { SendQueueStats } from "./send_queue.ts";
import type { SessionState } from "./session.ts";

const NO_QUEUE: SendQueueStats = {
  queuedMessages: 0,
  queuedBytes: 0,
  sentMessages: 0,
  sentBytes: 0,
  droppedMessages: 0,
};

/** Counters of a session; no header, cookie or token is among them. */
export interface SessionStats extends SendQueueStats, InboundStats, ControlStats {
  /** Id of the session. */
  readonly id: string;
  /** Where it is in its life. */
  readonly state: SessionState;
  /** When it was created, in milliseconds since the Unix epoch. */
  readonly createdAt: number;
  /** Requests of this end that wait for their answers. */
  readonly awaitedAnswers: number;
}

/** Reads the counters of a session. */
export function statsOf(core: SessionCore): SessionStats {
  return {
    id: core.id,
    state: core.state,
    createdAt: core.createdAt,
    ...(core.queue?.stats ?? NO_QUEUE),
    ...core.inbound.stats,
    ...core.controls.stats,
    awaitedAnswers: core.asks.size,
  };
}
