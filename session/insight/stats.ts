/** Counters of a session. */
import type { ConnectionCounters } from "../../transport/connection.ts";
import type { SessionCore } from "../core.ts";
import type { SendQueueStats } from "../queue/send_queue.ts";
import type { SessionState } from "../types.ts";
import type { ControlStats, InboundStats } from "../message.ts";

/**
 * Counters of a session at the time of reading. No header, cookie or token is included.
 *
 * @example Usage
 * ```ts
 * import { Session } from "@skein/skein";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const { client, server } = memoryPair();
 * await using near = new Session(server, sessionSettings({ side: "server" }));
 * await using far = new Session(client, sessionSettings({ side: "client" }));
 * await far.ready;
 * const stream = await far.createUnidirectionalStream();
 * const { streamsCreated, activeStreams, unidirectionalStreams } = far.stats;
 * assertEquals([streamsCreated, activeStreams, unidirectionalStreams], [1, 1, 1]);
 * assertEquals(JSON.parse(JSON.stringify(near.stats)).state, "connected");
 * await stream.close();
 * ```
 */
export interface SessionStats extends
  SendQueueStats,
  InboundStats,
  ControlStats,
  Pick<
    ConnectionCounters,
    | "datagramBytesReceived"
    | "datagramBytesSent"
    | "datagramsDropped"
    | "datagramsReceived"
    | "datagramsSent"
    | "streamBytesReceived"
    | "streamBytesSent"
    | "streamErrors"
    | "streamsClosed"
    | "streamsRefused"
  > {
  /** Id of the session. */
  readonly id: string;
  /** State of the session. */
  readonly state: SessionState;
  /** Time of creation, in milliseconds since the Unix epoch. */
  readonly createdAt: number;
  /** Time at which the session was established; see `createdAt`. */
  readonly readyAt: number | undefined;
  /** Time at which the session ended; see `createdAt`. */
  readonly closedAt: number | undefined;
  /** Time for which the session is, or was, established, in milliseconds. */
  readonly uptimeMs: number;
  /** Failed handlers of the application, for which `onError` was called. */
  readonly handlerFailures: number;
  /** Requests of this end that wait for answers. */
  readonly awaitedAnswers: number;
  /** Streams opened by either end. */
  readonly streamsCreated: number;
  /** Open streams. */
  readonly activeStreams: number;
  /** Bidirectional streams opened by either end. */
  readonly bidirectionalStreams: number;
  /** Unidirectional streams opened by either end. */
  readonly unidirectionalStreams: number;
  /**
   * Converts the counters to a plain object for JSON.
   *
   * @returns All counters.
   */
  toJSON(): Omit<SessionStats, "toJSON">;
}

/** Counters of the connection that a session reports unchanged. */
const COUNTERS = [
  "streamsClosed",
  "streamErrors",
  "streamsRefused",
  "streamBytesSent",
  "streamBytesReceived",
  "datagramsSent",
  "datagramBytesSent",
  "datagramsReceived",
  "datagramBytesReceived",
  "datagramsDropped",
] as const satisfies readonly (keyof ConnectionCounters)[];

const NO_CONTROLS: ControlStats = { lateAnswers: 0, droppedByPeer: 0, refusedByPeer: 0 };

const NO_QUEUE: SendQueueStats = {
  queuedMessages: 0,
  queuedBytes: 0,
  sentMessages: 0,
  sentBytes: 0,
  droppedMessages: 0,
};

/** Base of the counters, with the method for JSON. */
class Snapshot {
  toJSON(): object {
    return { ...this };
  }
}

/** Reads the counters of a session. Creates no state on the session. */
export function statsOf(core: SessionCore): SessionStats {
  const { closedAt, connection, createdAt, id, readyAt, state } = core;
  const counted = (name: keyof ConnectionCounters) => connection.inspect?.counters?.[name] ?? 0;
  const bidirectionalStreams = counted("localBidirectionalOpened") +
    counted("remoteBidirectionalOpened");
  const unidirectionalStreams = counted("localUnidirectionalOpened") +
    counted("remoteUnidirectionalOpened");
  const streamsCreated = bidirectionalStreams + unidirectionalStreams;
  const streams = Object.fromEntries(
    COUNTERS.map((name) => [name, counted(name)]),
  ) as Record<typeof COUNTERS[number], number>;
  const stats: Omit<SessionStats, "toJSON"> = {
    id,
    state,
    createdAt,
    readyAt,
    closedAt,
    uptimeMs: readyAt === undefined ? 0 : (closedAt ?? core.runtime.now()) - readyAt,
    ...(core.queue?.stats ?? NO_QUEUE),
    ...core.inbound.stats,
    ...(core.controlStats ?? NO_CONTROLS),
    handlerFailures: core.handlerFailures,
    awaitedAnswers: core.awaitedAnswers,
    ...streams,
    streamsCreated,
    activeStreams: streamsCreated - streams.streamsClosed,
    bidirectionalStreams,
    unidirectionalStreams,
  };
  return Object.assign(new Snapshot(), stats) as SessionStats;
}
