/** The state that all parts of a session share, and helpers for streams and errors. */
import {
  AuthenticationError,
  ConnectionError,
  ProtocolError,
  StreamError,
  UnsupportedError,
} from "../../errors.ts";
import { attempt } from "../../base/call_safely.ts";
import { decide, DecisionFault } from "../../base/decision.ts";
import type { Runtime } from "../../base/runtime.ts";
import { waitFor } from "../../base/wait.ts";
import type { Connection } from "../../transport/connection.ts";
import { fromHttp3StreamCode } from "../../transport/h3/wire/error_codes.ts";
import type { GroupReaderOptions } from "../track/group_reader.ts";
import type { TrackMux } from "../track/mux.ts";
import type { SubscriberSession } from "../track/track_writer.ts";
import {
  moqErrorCode,
  type MoqErrorFamily,
  type MoqErrorName,
  moqErrorName,
  type MoqErrorScope,
} from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import { TruncatedError } from "../wire/message_reader.ts";
import type { MoqToken } from "../wire/ietf/parameters.ts";
import type { BroadcastPath } from "../wire/path.ts";
import type { VersionTraits } from "../wire/versions.ts";
import {
  checkGrant,
  isGranted,
  type MoqAction,
  type MoqGrant,
  type MoqSessionLimits,
} from "./access.ts";
import type { StreamShare } from "./stream_share.ts";

/** The state that all parts of a session share. */
export interface SessionContext {
  readonly runtime: Runtime;
  /** The session, for the writers of served tracks. */
  readonly session: SubscriberSession;
  /** Resolves when the session has closed. */
  readonly closed: Promise<unknown>;
  /** Closes the session for a reason of this side. */
  closeWithError(reason: MoqErrorName, message: string): void;
  readonly connection: Connection;
  readonly traits: VersionTraits;
  /** Broadcasts published to the peer; chosen before the first stream of the peer is read. */
  mux: TrackMux;
  /** Authorizes requests of the peer; without it, the peer may do everything. */
  readonly authorize:
    | ((
      path: BroadcastPath,
      action: MoqAction,
      tokens: readonly MoqToken[],
    ) => MoqGrant | Promise<MoqGrant>)
    | undefined;
  /**
   * The fraction of a relay's slots that `authorize` granted to the peer; `undefined` for the
   * relay's default.
   */
  share: number | undefined;
  /** The streams of the peer that count for its server; `undefined` if they don't count. */
  readonly streams: StreamShare | undefined;
  /** The limits of the session, with defaults. */
  readonly limits: MoqSessionLimits;
  /** Aborted with the cause when the session closes. */
  readonly signal: AbortSignal;
  /** The error code family of the peer, as far as known. */
  family: MoqErrorFamily;
  /**
   * True if a path of the peer may reveal the family: gomoqt and moq-lite both speak the version.
   */
  readonly isFamilyOpen: boolean;
  /** Reports an error that a handler of the application threw. */
  report(error: unknown): void;
  /** Closes the session after a protocol violation of the peer. */
  violated(error: unknown): void;
}

/**
 * Detects the error code family of the peer from a path as sent: gomoqt's paths have a leading
 * slash.
 */
export function detectFamily(context: SessionContext, path: string): void {
  if (context.isFamilyOpen && !path.startsWith("/")) context.family = "moq-lite";
}

/**
 * True for a protocol violation of the peer. A stream that ends inside a message is not a
 * violation: the writer aborted it.
 */
export function isViolation(error: unknown): boolean {
  return error instanceof ProtocolError && !(error instanceof TruncatedError);
}

/** Returns the number of a reason in the peer's error code family. */
export function codeOf(
  { family }: SessionContext,
  scope: MoqErrorScope,
  reason: MoqErrorName,
): number {
  return moqErrorCode(streamScope(family, scope), reason, family);
}

/** Returns what the readers of all received groups share. */
export function groupOptions(context: SessionContext): GroupReaderOptions {
  return {
    runtime: context.runtime,
    timestamps: context.traits.timestamps,
    maxFrameBytes: context.limits.maxFrameBytes,
    errorOf: (error) => moqErrorOf(context, "group", error),
    codeOf: (reason) => codeOf(context, "group", reason),
  };
}

/** Creates the error of a call for which the session's version has no message here. */
export function unsupported({ traits }: SessionContext, what: string): UnsupportedError {
  return new UnsupportedError(`Cannot ${what}: it is not supported over ${traits.version}`);
}

/** Returns the name of a number that the peer sent. */
export function errorNameOf(
  { family }: SessionContext,
  scope: MoqErrorScope,
  code: number,
): MoqErrorName {
  return moqErrorName(streamScope(family, scope), code, family);
}

/** In the IETF's drafts, all streams have the same codes. */
function streamScope(family: MoqErrorFamily, scope: MoqErrorScope): MoqErrorScope {
  return family === "moqt" && scope !== "session" ? "group" : scope;
}

/** Maps a code of HTTP/3 back to the code of MoQ: moq-rs uses the HTTP/3 form over raw QUIC too. */
function plainCode(code: number): number {
  return fromHttp3StreamCode(code) ?? code;
}

/** Creates the application's error from a stream error. */
export function moqErrorOf(
  context: SessionContext,
  scope: MoqErrorScope,
  error: unknown,
): unknown {
  if (error instanceof MoqError) return error;
  if (error instanceof StreamError) {
    const { by } = error;
    const moqCode = plainCode(error.streamErrorCode);
    const reason = errorNameOf(context, scope, moqCode);
    const message = `The peer ended the ${scope} stream with code ${moqCode} (${reason})`;
    return new MoqError(scope, reason, message, { moqCode, by, cause: error });
  }
  if (error instanceof TruncatedError) {
    const message = `The peer aborted the ${scope} stream`;
    return new MoqError(scope, "unknown", message, { by: "remote", cause: error });
  }
  if (error instanceof ConnectionError || context.signal.aborted) {
    return sessionClosed(context.signal.reason ?? error);
  }
  return error;
}

/** Creates the error of operations that end with the session. */
export function sessionClosed(cause: unknown): MoqError {
  if (cause instanceof MoqError && cause.scope === "session") return cause;
  const why = cause instanceof Error ? `: ${cause.message}` : "";
  return new MoqError("session", "sessionClosed", `The session has ended${why}`, { cause });
}

/** The timeout of `authorize`, in milliseconds: as for sessions of `skein.1`. */
const AUTHORIZE_MS = 30_000;

export interface Granted {
  readonly grant: MoqGrant;
  /**
   * The reason to reject the request, if any: `internal` if the application failed to decide, after
   * which the peer may retry.
   */
  readonly rejection: "unauthorized" | "internal" | undefined;
}

const NO_TOKENS: readonly MoqToken[] = [];

/**
 * Asks the application once. An error or an invalid grant is not a decision, and is reported.
 *
 * @param tokens The tokens of the peer, in the IETF's drafts.
 */
export async function requestGrant(
  context: SessionContext,
  path: BroadcastPath,
  action: MoqAction,
  tokens: readonly MoqToken[] = NO_TOKENS,
): Promise<Granted> {
  const { authorize } = context;
  if (authorize === undefined) return { grant: true, rejection: undefined };
  try {
    const ask = () => {
      const response = authorize(path, action, tokens);
      if (!(response instanceof Promise)) return response;
      return waitFor(context.runtime, response, {
        what: "result from authorize",
        timeoutMs: AUTHORIZE_MS,
      });
    };
    const grant = await decide("authorize", ask, [AuthenticationError]);
    checkGrant(grant);
    if (typeof grant !== "boolean" && grant.share !== undefined) {
      context.share = grant.share;
      context.streams?.exemptAddress();
    }
    return { grant, rejection: isGranted(context.runtime, grant) ? undefined : "unauthorized" };
  } catch (error) {
    if (error instanceof AuthenticationError && error.status < 500) {
      return { grant: false, rejection: "unauthorized" };
    }
    context.report(error instanceof DecisionFault ? error.cause : error);
    return { grant: false, rejection: "internal" };
  }
}

/** Passes an error to the application's `onError`. An error of that function is ignored. */
export function reportTo(
  onError: ((error: unknown) => void) | undefined,
  error: unknown,
): void {
  attempt(() => onError?.(error), () => {}); // No other handler is left.
}
