/**
 * What all parts of a session know of each other.
 *
 * @module
 */
import { ConnectionError, ProtocolError, StreamError } from "../../../errors.ts";
import type { Schedule } from "../../../session/queue/schedule.ts";
import type { Connection } from "../../../transport/connection.ts";
import { fromHttp3StreamCode } from "../../../transport/h3/error_codes.ts";
import { within } from "../../../transport/within.ts";
import { Exchange } from "./_exchange.ts";
import { TruncatedError } from "../wire/message_reader.ts";
import type { MoqLimits } from "./limits.ts";
import {
  moqErrorCode,
  type MoqErrorFamily,
  type MoqErrorName,
  moqErrorName,
  type MoqErrorScope,
} from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import type { TrackMux } from "../track/mux.ts";
import type { BroadcastPath } from "../wire/path.ts";
import type { MoqAction, MoqGrant } from "./access.ts";
import type { SubscriberSession } from "../track/track_writer_link.ts";
import type { VersionTraits } from "../wire/versions.ts";

/** What all parts of a session have in common. */
export interface SessionContext {
  /** The session, as its subscriptions see it. */
  readonly session: SubscriberSession;
  /** Resolves when the session is over. */
  readonly closed: Promise<unknown>;
  /** Ends the session with a reason of this end. */
  closeWithError(reason: MoqErrorName, message: string): void;
  /** What carries it. */
  readonly connection: Connection;
  /** Its version. */
  readonly traits: VersionTraits;
  /** What it publishes; chosen before the first stream of the peer is looked at. */
  mux: TrackMux;
  /** Decides what the peer may do; everything without it. */
  readonly authorize:
    | ((path: BroadcastPath, action: MoqAction) => MoqGrant | Promise<MoqGrant>)
    | undefined;
  /** The part of a relay's places that `authorize` gave to the peer; the relay's default without it. */
  share: number | undefined;
  /** Its limits. */
  readonly limits: Required<MoqLimits>;
  /** Calls back at the end of this turn of the event loop. */
  readonly schedule: Schedule;
  /** Aborted when the session is over; its reason is why. */
  readonly signal: AbortSignal;
  /** Whose numbers the peer uses, as far as that is known. */
  family: MoqErrorFamily;
  /** Whether paths of the peer may tell whose numbers it uses: both families speak the version. */
  readonly isFamilyOpen: boolean;
  /** Reports what a handler of the application threw. */
  report(error: unknown): void;
  /** Ends the session, for the peer broke the protocol. */
  violated(error: unknown): void;
}

/** Learns from a path, as it stands on the wire, whose numbers the peer uses: gomoqt's have a leading slash. */
export function noticeStyle(context: SessionContext, path: string): void {
  if (context.isFamilyOpen && !path.startsWith("/")) context.family = "moq-lite";
}

/** Whether the peer broke the protocol. A stream that ends inside a message was given up by its writer. */
export function isViolation(error: unknown): boolean {
  return error instanceof ProtocolError && !(error instanceof TruncatedError);
}

/**
 * Opens a stream with its type and first message.
 *
 * @throws {MoqError} If the session is over.
 * @throws What the signal was aborted with, while the peer gives no stream, or takes nothing.
 */
export async function openExchange(
  context: SessionContext,
  type: number,
  options: { readonly message: Uint8Array; readonly signal?: AbortSignal | undefined },
): Promise<Exchange> {
  const { connection, signal: over } = context;
  const { message, signal } = options;
  if (over.aborted) throw sessionClosed(over.reason);
  signal?.throwIfAborted();
  const bytes = new Uint8Array(message.byteLength + 1);
  bytes[0] = type;
  bytes.set(message, 1);
  let exchange: Exchange | undefined;
  try {
    exchange = new Exchange(
      await connection.createBidirectionalStream(signal === undefined ? {} : { signal }),
    );
    await within(exchange.write(bytes), { signal });
    return exchange;
  } catch (error) {
    exchange?.abort(codeOf(context, "subscribe", "cancelled"));
    throw signal?.aborted ? signal.reason : moqErrorOf(context, "session", error);
  }
}

/** Finds the number of a reason, for the peer. */
export function codeOf(
  { family }: SessionContext,
  scope: MoqErrorScope,
  reason: MoqErrorName,
): number {
  return moqErrorCode(scope, reason, family);
}

/** Finds the name of a number that the peer sent. */
export function nameOf(
  { family }: SessionContext,
  scope: MoqErrorScope,
  code: number,
): MoqErrorName {
  return moqErrorName(scope, code, family);
}

/** moq-rs writes codes over raw QUIC as over WebTransport. */
function plainCode(code: number): number {
  return fromHttp3StreamCode(code) ?? code;
}

/** Makes the error that a user gets of what a stream threw. */
export function moqErrorOf(
  context: SessionContext,
  scope: MoqErrorScope,
  error: unknown,
): unknown {
  if (error instanceof MoqError) return error;
  if (error instanceof StreamError) {
    const { by } = error;
    const moqCode = plainCode(error.streamErrorCode);
    const reason = nameOf(context, scope, moqCode);
    const message = `The peer ended the ${scope} stream with code ${moqCode} (${reason})`;
    return new MoqError(scope, reason, message, { moqCode, by, cause: error });
  }
  if (error instanceof TruncatedError) {
    const message = `The peer gave up the ${scope} stream`;
    return new MoqError(scope, "unknown", message, { by: "remote", cause: error });
  }
  if (error instanceof ConnectionError || context.signal.aborted) {
    return sessionClosed(context.signal.reason ?? error);
  }
  return error;
}

/** Makes the error of what ended with its session. */
export function sessionClosed(cause: unknown): MoqError {
  if (cause instanceof MoqError && cause.scope === "session") return cause;
  const why = cause instanceof Error ? `: ${cause.message}` : "";
  return new MoqError("session", "sessionClosed", `The session is over${why}`, { cause });
}
