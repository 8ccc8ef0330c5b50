/**
 * Everything that is known of a session, in one snapshot.
 *
 * @module
 */
import type { SessionCore } from "../core.ts";
import type {
  ConnectionCapabilities,
  ConnectionStats,
  CreditKind,
  CreditState,
} from "../../transport/connection.ts";
import { redactHeaders, redactText } from "./redaction.ts";
import { issues } from "./issues.ts";
import { queuesOf, type SessionQueues } from "./queue_state.ts";
import { type SessionStats, statsOf } from "./stats.ts";
import type { SessionState } from "../types.ts";
import type { SessionIssue } from "./issue.ts";

/**
 * A snapshot of a session: a plain object, of which JSON holds all. Times are milliseconds since the
 * Unix epoch. What a wire does not count is `undefined`, and not zero. Values of headers and of
 * parameters that can hold secrets are replaced.
 *
 * Streams and bytes that were counted are the application's, as in `session.stats`. The credit of the
 * peers (`localMax…`, `peerMax…`) is the wire's: where messages travel on a stream, that stream uses
 * some of it, which `debugState().credit` shows.
 */
export interface SessionDiagnostics {
  /** Id of the session. */
  readonly id: string;
  /** The number of the stream that stands for the session, where there is one: CONNECT over HTTP/3. */
  readonly controlStreamId: number | undefined;
  /** Where it is in its life. */
  readonly state: SessionState;
  /** Where the peer connected to, without secrets. */
  readonly url: string;
  /** The path of that. */
  readonly path: string;
  /** Request headers that are kept, without secrets. */
  readonly headers: Readonly<Record<string, string>>;
  /** Who it is. */
  readonly user: string;
  /** The wire's name. */
  readonly transport: string;
  /** The subprotocol. */
  readonly protocol: string;
  /** On a client: what it could not take, and why. */
  readonly fallback: { readonly transport: string; readonly reason: string } | undefined;
  /** When it was created. */
  readonly createdAt: number;
  /** When it was established. */
  readonly readyAt: number | undefined;
  /** When it was over. */
  readonly closedAt: number | undefined;
  /** How it was closed: the code. */
  readonly closeCode: number | undefined;
  /** How it was closed: the reason. */
  readonly closeReason: string | undefined;
  /** When the peer was heard, as exact as the heartbeat; `undefined` where there is none. */
  readonly lastHeardAt: number | undefined;
  /** The last measured round trip, in milliseconds. */
  readonly roundTripMs: number | undefined;
  /** Bytes of streams that this end allowed the peer. */
  readonly localMaxData: number | undefined;
  /** Bytes of streams that this end sent. */
  readonly localDataSent: number;
  /** Bytes of streams that the peer allowed this end. */
  readonly peerMaxData: number | undefined;
  /** Bytes of streams that the peer sent. */
  readonly peerDataSent: number;
  /** Bidirectional streams that this end allowed the peer. */
  readonly localMaxStreamsBidi: number | undefined;
  /** Bidirectional streams that this end opened. */
  readonly localStreamsBidiOpened: number;
  /** Bidirectional streams that the peer allowed this end. */
  readonly peerMaxStreamsBidi: number | undefined;
  /** Bidirectional streams that the peer opened. */
  readonly peerStreamsBidiOpened: number;
  /** Unidirectional streams that this end allowed the peer. */
  readonly localMaxStreamsUni: number | undefined;
  /** Unidirectional streams that this end opened. */
  readonly localStreamsUniOpened: number;
  /** Unidirectional streams that the peer allowed this end. */
  readonly peerMaxStreamsUni: number | undefined;
  /** Unidirectional streams that the peer opened. */
  readonly peerStreamsUniOpened: number;
  /** Calls that wait for a bidirectional stream to open. */
  readonly pendingBidiStreams: number;
  /** Calls that wait for a unidirectional stream to open. */
  readonly pendingUniStreams: number;
  /** Streams of the peer that nobody took yet; `undefined` where the wire does not tell. */
  readonly unreadStreams: number | undefined;
  /** Datagrams that were sent. */
  readonly datagramsSent: number;
  /** Their bytes. */
  readonly datagramBytesSent: number;
  /** Datagrams that came. */
  readonly datagramsReceived: number;
  /** Their bytes. */
  readonly datagramBytesReceived: number;
  /** Datagrams that were lost at this end. */
  readonly datagramsDropped: number;
  /** How full its queues are. */
  readonly queues: SessionQueues;
}

/** What a session may do: the settings that limit it. */
export interface SessionLimitState {
  /** Largest message that comes, in bytes. */
  readonly maxMessageBytes: number;
  /** Largest message that goes: what this end allows and the peer takes. */
  readonly maxSendBytes: number;
  /** Invalid messages within a minute that close the session. */
  readonly maxInvalidMessages: number;
  /** Requests at once, per direction. */
  readonly maxRequests: number;
  /** Messages handled at once. */
  readonly concurrency: number;
  /** How long a request waits, in milliseconds. */
  readonly requestTimeoutMs: number;
  /** How long a close may take, in milliseconds. */
  readonly closeTimeoutMs: number;
  /** How long the handshake may take, in milliseconds. */
  readonly handshakeTimeoutMs: number;
  /** How often the peer is pinged, in milliseconds; `undefined` where it is not. */
  readonly heartbeatIntervalMs: number | undefined;
  /** How long it may be silent, in milliseconds. */
  readonly heartbeatTimeoutMs: number | undefined;
}

/** Everything, taken apart: a plain object, of which JSON holds all. */
export interface SessionDebugState {
  /** The snapshot. */
  readonly diagnostics: SessionDiagnostics;
  /** The counters. */
  readonly stats: Omit<SessionStats, "toJSON">;
  /** What is wrong. */
  readonly issues: readonly SessionIssue[];
  /** What limits it. */
  readonly limits: SessionLimitState;
  /** What the wire can do. */
  readonly capabilities: ConnectionCapabilities;
  /** What the wire counted; empty if that cannot be read any more. */
  readonly wire: ConnectionStats;
  /** Flow control, where both ends count. */
  readonly credit: Readonly<Record<CreditKind, CreditState>> | undefined;
  /** Whether messages go to a handler. */
  readonly isHandled: boolean;
  /** Requests of the peer that were not answered yet. */
  readonly owesAnswers: boolean;
}

/** See `diagnostics` of a session. */
export function diagnostics(core: SessionCore): SessionDiagnostics {
  const { connection, info, openings, session } = core;
  const { counters, credit, unreadStreams } = connection;
  const { fallback } = session;
  const data = credit?.state("data");
  const bidi = credit?.state("bidirectional");
  const uni = credit?.state("unidirectional");
  return {
    id: session.id,
    controlStreamId: connection.controlStreamId,
    state: core.state,
    url: redactText(session.url),
    path: redactText(session.path),
    headers: redactHeaders(session.headers),
    user: session.user,
    transport: session.transport,
    protocol: session.protocol,
    fallback: fallback && { transport: fallback.transport, reason: reasonOf(fallback.error) },
    createdAt: core.createdAt,
    readyAt: core.readyAt,
    closedAt: core.closedAt,
    closeCode: info?.code,
    closeReason: info && redactText(info.reason),
    lastHeardAt: core.lastHeard === 0 ? undefined : core.lastHeard,
    roundTripMs: core.roundTripMs,
    localMaxData: data?.granted,
    localDataSent: counters?.streamBytesSent ?? 0,
    peerMaxData: data?.allowed,
    peerDataSent: counters?.streamBytesReceived ?? 0,
    localMaxStreamsBidi: bidi?.granted,
    localStreamsBidiOpened: counters?.localBidirectionalOpened ?? 0,
    peerMaxStreamsBidi: bidi?.allowed,
    peerStreamsBidiOpened: counters?.remoteBidirectionalOpened ?? 0,
    localMaxStreamsUni: uni?.granted,
    localStreamsUniOpened: counters?.localUnidirectionalOpened ?? 0,
    peerMaxStreamsUni: uni?.allowed,
    peerStreamsUniOpened: counters?.remoteUnidirectionalOpened ?? 0,
    pendingBidiStreams: Math.max(bidi?.waiting ?? 0, openings?.bidirectional ?? 0),
    pendingUniStreams: Math.max(uni?.waiting ?? 0, openings?.unidirectional ?? 0),
    unreadStreams,
    datagramsSent: counters?.datagramsSent ?? 0,
    datagramBytesSent: counters?.datagramBytesSent ?? 0,
    datagramsReceived: counters?.datagramsReceived ?? 0,
    datagramBytesReceived: counters?.datagramBytesReceived ?? 0,
    datagramsDropped: counters?.datagramsDropped ?? 0,
    queues: queuesOf(core),
  };
}

/** See `debugState` of a session. */
export async function debugState(core: SessionCore): Promise<SessionDebugState> {
  const { connection, heartbeat, inbound, settings } = core;
  const { credit, capabilities } = connection;
  // A wire that is over may not know any more.
  const wire = await connection.getStats().catch(() => ({}));
  return {
    diagnostics: diagnostics(core),
    stats: statsOf(core).toJSON(),
    issues: issues(core),
    limits: {
      maxMessageBytes: settings.maxMessageBytes,
      maxSendBytes: core.maxSendBytes,
      maxInvalidMessages: settings.maxInvalidMessages,
      maxRequests: settings.maxRequests,
      concurrency: settings.concurrency,
      requestTimeoutMs: settings.requestTimeoutMs,
      closeTimeoutMs: settings.closeTimeoutMs,
      handshakeTimeoutMs: settings.handshakeTimeoutMs,
      heartbeatIntervalMs: heartbeat?.intervalMs,
      heartbeatTimeoutMs: heartbeat?.timeoutMs,
    },
    capabilities: { ...capabilities },
    wire: { ...wire },
    credit: credit && {
      data: { ...credit.state("data") },
      bidirectional: { ...credit.state("bidirectional") },
      unidirectional: { ...credit.state("unidirectional") },
    },
    isHandled: inbound.isHandled,
    owesAnswers: inbound.owesAnswers,
  };
}

/** What an error says, which may name the URL with its token. */
function reasonOf(error: unknown): string {
  return redactText(error instanceof Error ? error.message : String(error));
}
