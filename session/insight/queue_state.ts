/**
 * How full the queues of a session are.
 *
 * @module
 */
import type { SessionCore } from "../core.ts";

/** How full a queue is. */
export interface QueueState {
  /** Messages that wait. */
  readonly messages: number;
  /** Bytes that wait. */
  readonly bytes: number;
  /** Most messages that may wait. */
  readonly maxMessages: number;
  /** Most bytes that may wait. */
  readonly maxBytes: number;
}

/** The queues of a session. */
export interface SessionQueues {
  /** What waits to be sent; `undefined` on a wire without messages. */
  readonly send: QueueState | undefined;
  /** What waits to be handled. */
  readonly receive: QueueState;
}

/** How full the queues of a session are. */
export function queuesOf(core: SessionCore): SessionQueues {
  const { inbound, queue, settings } = core;
  const { waitingMessages, waitingBytes } = inbound.stats;
  const { maxMessages, maxBytes } = settings.receiveQueue;
  const sending = queue?.stats;
  return {
    send: sending && {
      messages: sending.queuedMessages,
      bytes: sending.queuedBytes,
      maxMessages: settings.sendQueue.maxMessages,
      maxBytes: settings.sendQueue.maxBytes,
    },
    receive: { messages: waitingMessages, bytes: waitingBytes, maxMessages, maxBytes },
  };
}
