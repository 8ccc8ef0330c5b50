/** Fill levels of the queues of a session. */
import type { SessionCore } from "../core.ts";

/** Fill level of a queue. */
export interface QueueState {
  /** Waiting messages. */
  readonly messages: number;
  /** Waiting bytes. */
  readonly bytes: number;
  /** Most messages that may wait. */
  readonly maxMessages: number;
  /** Most bytes that may wait. */
  readonly maxBytes: number;
}

/** The queues of a session. */
export interface SessionQueues {
  /** Messages to send; `undefined` on a connection without messages. */
  readonly send: QueueState | undefined;
  /** Messages to handle. */
  readonly receive: QueueState;
}

/** Returns the fill levels of the queues of a session. */
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
