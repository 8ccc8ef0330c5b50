/**
 * What a session counted.
 *
 * @module
 */
import type { InboundStats } from "./inbound.ts";
import type { ControlStats } from "./controls.ts";
import type { SendQueueStats } from "./send_queue.ts";
import type { SessionState } from "./session.ts";

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
