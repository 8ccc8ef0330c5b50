/** Snapshot and summary of a session, without secrets. */
import type { Inside } from "../receiving.ts";
import type {
  ConnectionCapabilities,
  ConnectionStats,
  CreditState,
} from "../../transport/connection.ts";
import { issues, queuesOf, type SessionIssue } from "./health.ts";
import type { SessionSettings } from "../settings/settings.ts";
import { statsOf } from "./stats.ts";
import type { SessionState, SessionStats } from "../types.ts";
import { textOf } from "../../base/error_text.ts";

/**
 * A snapshot of a session, as a plain object that JSON can represent completely. Times are
 * milliseconds since the Unix epoch. Counters that a connection does not support are `undefined`,
 * not zero. Headers and parameters whose values may be secrets are redacted.
 *
 * Only the application's streams and bytes count, as in `session.stats`. The credit
 * (`localMax…`, `peerMax…`) belongs to the connection: if messages are sent on a stream, that
 * stream uses some of the credit, as `debugState().credit` shows.
 */
export interface SessionDiagnostics {
  /** Id of the session. */
  readonly id: string;
  /**
   * Id of the stream that represents the session, if there is one. Over HTTP/3, this is the CONNECT
   * stream.
   */
  readonly controlStreamId: number | undefined;
  /** State of the session. */
  readonly state: SessionState;
  /** URL of the peer's request, without secrets. */
  readonly url: string;
  /** Path of the URL. */
  readonly path: string;
  /** Request headers that the server keeps, without secrets. */
  readonly headers: Readonly<Record<string, string>>;
  /** User of the session. */
  readonly user: string;
  /** Name of the transport. */
  readonly transport: string;
  /** The subprotocol. */
  readonly protocol: string;
  /** On a client: the preferred transport that failed, and the reason. */
  readonly fallback: { readonly transport: string; readonly reason: string } | undefined;
  /** Time of creation. */
  readonly createdAt: number;
  /** Time at which the session was established. */
  readonly readyAt: number | undefined;
  /** Time at which the session closed. */
  readonly closedAt: number | undefined;
  /** Close code. */
  readonly closeCode: number | undefined;
  /** Close reason. */
  readonly closeReason: string | undefined;
  /**
   * Time at which the peer last sent something, with the precision of the heartbeat; `undefined` without
   * a heartbeat.
   */
  readonly lastReceivedAt: number | undefined;
  /** The last measured round trip, in milliseconds. */
  readonly roundTripMs: number | undefined;
  /** Stream bytes that this side allows the peer. */
  readonly localMaxData: number | undefined;
  /** Stream bytes that this side sent. */
  readonly localDataSent: number;
  /** Stream bytes that the peer allows this side. */
  readonly peerMaxData: number | undefined;
  /** Stream bytes that the peer sent. */
  readonly peerDataSent: number;
  /** Bidirectional streams that this side allows the peer. */
  readonly localMaxStreamsBidi: number | undefined;
  /** Bidirectional streams that this side opened. */
  readonly localStreamsBidiOpened: number;
  /** Bidirectional streams that the peer allows this side. */
  readonly peerMaxStreamsBidi: number | undefined;
  /** Bidirectional streams that the peer opened. */
  readonly peerStreamsBidiOpened: number;
  /** Unidirectional streams that this side allows the peer. */
  readonly localMaxStreamsUni: number | undefined;
  /** Unidirectional streams that this side opened. */
  readonly localStreamsUniOpened: number;
  /** Unidirectional streams that the peer allows this side. */
  readonly peerMaxStreamsUni: number | undefined;
  /** Unidirectional streams that the peer opened. */
  readonly peerStreamsUniOpened: number;
  /** Calls that wait for a bidirectional stream to open. */
  readonly pendingBidiStreams: number;
  /** Calls that wait for a unidirectional stream to open. */
  readonly pendingUniStreams: number;
  /**
   * Streams of the peer that the application has not accepted; `undefined` if the connection does
   * not count them.
   */
  readonly unreadStreams: number | undefined;
  /** Sent datagrams. */
  readonly datagramsSent: number;
  /** Bytes of sent datagrams. */
  readonly datagramBytesSent: number;
  /** Received datagrams. */
  readonly datagramsReceived: number;
  /** Bytes of received datagrams. */
  readonly datagramBytesReceived: number;
  /** Datagrams lost on this side. */
  readonly datagramsDropped: number;
  /** Fill levels of the queues. */
  readonly queues: {
    /** Messages to send; `undefined` on a connection without messages. */
    readonly send: SessionDiagnostics["queues"]["receive"] | undefined;
    /** Messages to handle. */
    readonly receive: {
      /** Waiting messages. */
      readonly messages: number;
      /** Waiting bytes. */
      readonly bytes: number;
      /** Maximum number of waiting messages. */
      readonly maxMessages: number;
      /** Maximum number of waiting bytes. */
      readonly maxBytes: number;
    };
  };
}

/** A summary of a session, as a plain object that JSON can represent completely. */
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
  /** Messages passed to the connection. */
  readonly sentMessages: number;
  /** Received messages. */
  readonly receivedMessages: number;
  /** Bytes passed to the connection: messages, streams and datagrams. */
  readonly sentBytes: number;
  /** Received bytes: messages, streams and datagrams. */
  readonly receivedBytes: number;
  /** Open streams. */
  readonly activeStreams: number;
  /** Sent datagrams. */
  readonly datagramsSent: number;
  /** Received datagrams. */
  readonly datagramsReceived: number;
  /** Codes of the issues. */
  readonly issues: readonly SessionIssue["code"][];
}

/**
 * The complete state of a session in several parts, as a plain object that JSON can represent
 * completely.
 */
export interface SessionDebugState {
  /** The snapshot. */
  readonly diagnostics: SessionDiagnostics;
  /** The counters. */
  readonly stats: Omit<SessionStats, "toJSON">;
  /** The issues. */
  readonly issues: readonly SessionIssue[];
  /** The limits of the session. */
  readonly limits:
    & Pick<
      SessionSettings,
      | "maxMessageBytes"
      | "maxInvalidMessages"
      | "maxRequests"
      | "concurrency"
      | "requestTimeoutMs"
      | "closeTimeoutMs"
      | "handshakeTimeoutMs"
    >
    & {
      /** Size of the largest message that this side may send and the peer accepts, in bytes. */
      readonly maxSendBytes: number;
      /** Interval of pings to the peer, in milliseconds; `undefined` without pings. */
      readonly heartbeatIntervalMs: number | undefined;
      /** Longest silence of the peer, in milliseconds. */
      readonly heartbeatTimeoutMs: number | undefined;
    };
  /** Capabilities of the connection. */
  readonly capabilities: ConnectionCapabilities;
  /** Counters of the connection; empty if they can no longer be read. */
  readonly wire: ConnectionStats;
  /** Flow control, if both sides keep these counters. */
  readonly credit:
    | Readonly<Record<"data" | "bidirectional" | "unidirectional", CreditState>>
    | undefined;
  /** True if messages go to a handler. */
  readonly isHandled: boolean;
  /** True if any request of the peer waits for a reply. */
  readonly owesReplies: boolean;
}

/** Implements `diagnostics` of a session. */
export function diagnostics(core: Inside): SessionDiagnostics {
  const { connection, info, openings, session } = core;
  const { controlStreamId, counters, credit, unreadStreams } = connection.inspect ?? {};
  const { fallback } = session;
  const data = credit?.state("data");
  const bidi = credit?.state("bidirectional");
  const uni = credit?.state("unidirectional");
  return {
    id: session.id,
    controlStreamId,
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
    lastReceivedAt: core.receiving.lastReceivedAt === 0 ? undefined : core.receiving.lastReceivedAt,
    roundTripMs: core.sending.roundTripMs,
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

/** Implements `summary` of a session. */
export function summary(core: Inside): SessionSummary {
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
    roundTripMs: core.sending.roundTripMs,
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

/** Implements `debugState` of a session. */
export async function debugState(core: Inside): Promise<SessionDebugState> {
  const { connection, receiving, settings } = core;
  const { heartbeat } = receiving;
  const { capabilities, inspect } = connection;
  const credit = inspect?.credit;
  // A closed connection may have lost its counters.
  const wire = await connection.getStats().catch(() => ({}));
  return {
    diagnostics: diagnostics(core),
    stats: statsOf(core).toJSON(),
    issues: issues(core),
    limits: {
      maxMessageBytes: settings.maxMessageBytes,
      maxSendBytes: core.sending.maxSendBytes,
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
    isHandled: receiving.isHandled,
    owesReplies: receiving.replies.size > 0,
  };
}

/** Returns an error's message without secrets, because it may contain the URL with the token. */
function reasonOf(error: unknown): string {
  return redactText(textOf(error));
}

const REDACTED = "[redacted]";

/** Names of headers and parameters that hold secrets, or often do. */
const SECRET_NAME =
  /auth|bearer|cookie|token|secret|pass(?:w|phrase)|pwd|credential|signature|assertion|saml|sess(?:ion|id)|jwt|csrf|api[-_]?key|(?:access|private|subscription|functions|websocket)[-_]?key|websocket-protocol|^(?:key|sig|code|ticket|pass|sid|otp|pin)$/i;

/** True if a header, parameter or property with this name often holds a secret. */
export function isSecretName(name: string): boolean {
  return SECRET_NAME.test(name);
}

/** A parameter in the query or fragment of a URL. */
const PARAMETER = /([?&#])([^=&#\s"<>?]+)=([^&#\s"<>]*)/g;

/** A parameter after a semicolon, as in paths and old queries. */
const PATH_PARAMETER = /(;)([^=&#;\s"<>?]+)=([^&#;\s"<>?]*)/g;

/**
 * The user and the password of a URL in text. The length of a scheme is bounded, because an
 * unbounded search could take seconds on hostile input.
 */
const USER_INFO = /\b([a-z][a-z0-9+.-]{0,31}:\/\/)[^/?#@\s"'<>]*@/gi;

/**
 * Removes secrets from text that may contain URLs. The secrets are passwords, and parameters whose
 * names indicate a secret.
 *
 * @param text Any text.
 * @returns The text without secrets.
 */
export function redactText(text: string): string {
  return text
    .replace(USER_INFO, `$1${REDACTED}@`)
    .replace(PARAMETER, redactParameter)
    .replace(PATH_PARAMETER, redactParameter);
}

function redactParameter(whole: string, start: string, name: string): string {
  return SECRET_NAME.test(decoded(name)) ? `${start}${name}=${REDACTED}` : whole;
}

/**
 * Removes secrets from headers.
 *
 * @param headers Any headers.
 * @returns A plain object, with lower-case names as keys.
 */
export function redactHeaders(headers: Headers): Record<string, string> {
  const shown: Record<string, string> = {};
  for (const [name, value] of headers) {
    shown[name] = SECRET_NAME.test(name) ? REDACTED : redactText(value);
  }
  return shown;
}

/** Decodes a name, which may be percent-encoded to hide a secret from this check. */
function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}
