/** Counters of a session. */
import type { ConnectionCounters } from "../../transport/connection.ts";
import type { Inside } from "../receiving.ts";
import type { ControlStats, SendQueueStats, SessionStats } from "../types.ts";

/** Counters of the connection that a session reports unchanged. */
const COUNTERS = [
  "streamsClosed",
  "streamErrors",
  "streamsRejected",
  "streamBytesSent",
  "streamBytesReceived",
  "datagramsSent",
  "datagramBytesSent",
  "datagramsReceived",
  "datagramBytesReceived",
  "datagramsDropped",
] as const satisfies readonly (keyof ConnectionCounters)[];

const NO_CONTROLS: ControlStats = { lateReplies: 0, droppedByPeer: 0, rejectedByPeer: 0 };

const NO_QUEUE: SendQueueStats = {
  queuedMessages: 0,
  queuedBytes: 0,
  sentMessages: 0,
  sentBytes: 0,
  droppedMessages: 0,
};

class Snapshot {
  toJSON(): object {
    return { ...this };
  }
}

/** Reads the counters of a session without creating state on it. */
export function statsOf(core: Inside): SessionStats {
  const { closedAt, connection, createdAt, id, readyAt, state } = core;
  const counters = connection.inspect?.counters;
  const counted = (name: keyof ConnectionCounters) => counters?.[name] ?? 0;
  const bidirectionalStreams = counted("localBidirectionalOpened") +
    counted("remoteBidirectionalOpened");
  const unidirectionalStreams = counted("localUnidirectionalOpened") +
    counted("remoteUnidirectionalOpened");
  const streamsCreated = bidirectionalStreams + unidirectionalStreams;
  const streams = {} as Record<typeof COUNTERS[number], number>;
  for (const name of COUNTERS) streams[name] = counted(name);
  const stats: Omit<SessionStats, "toJSON"> = {
    id,
    state,
    createdAt,
    readyAt,
    closedAt,
    uptimeMs: readyAt === undefined
      ? 0
      : Math.max(0, (closedAt ?? core.settings.runtime.now()) - readyAt),
    ...(core.queue?.stats ?? NO_QUEUE),
    ...core.receiving.stats,
    ...(core.sending.controlStats ?? NO_CONTROLS),
    handlerFailures: core.handlerFailures,
    pendingReplies: core.sending.openRequests,
    ...streams,
    streamsCreated,
    activeStreams: streamsCreated - streams.streamsClosed,
    bidirectionalStreams,
    unidirectionalStreams,
  };
  return Object.assign(new Snapshot(), stats) as SessionStats;
}
