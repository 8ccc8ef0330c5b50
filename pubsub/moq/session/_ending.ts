/**
 * The end of a session, in numbers and words.
 *
 * @module
 */
import { ConnectionError } from "../../../errors.ts";
import type { Connection } from "../../../transport/connection.ts";
import {
  moqErrorCode,
  type MoqErrorFamily,
  type MoqErrorName,
  moqErrorName,
} from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import type { MoqCloseInfo } from "./session_info.ts";

/**
 * Describes a close by this end.
 *
 * @param reason A name, or a number of the application.
 * @param message The reason in words.
 * @param family The error code family of the peer.
 * @returns The close, with number and name.
 */
export function localEnd(
  reason: MoqErrorName | number,
  message: string,
  family: MoqErrorFamily,
): MoqCloseInfo {
  const isNumber = typeof reason === "number";
  const code = isNumber ? reason : moqErrorCode("session", reason, family);
  const name = isNumber ? moqErrorName("session", reason, family) : reason;
  return { code, reason: name, message, by: "local" };
}

/** The end of a connection. */
export interface RemoteEnd {
  /** The close of the session. */
  readonly info: MoqCloseInfo;
  /** The error of the connection, or an error for the close by the peer. */
  readonly cause: unknown;
}

/**
 * Waits for the end of a connection, and describes the end.
 *
 * @param connection The connection.
 * @param familyOf Finds the error code family of the peer; called at the end.
 * @returns The end of the connection; never rejects.
 */
export async function remoteEnd(
  { closed }: Connection,
  familyOf: () => MoqErrorFamily,
): Promise<RemoteEnd> {
  try {
    const { closeCode: code = 0, reason: message = "" } = await closed;
    const reason = moqErrorName("session", code, familyOf());
    const words = `The peer closed the connection with code ${code}${message && `: ${message}`}`;
    return { info: { code, reason, message, by: "remote" }, cause: new ConnectionError(words) };
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    return { info: { code: 0, reason: "unknown", message, by: "network" }, cause };
  }
}

/**
 * Makes the error of everything that ends with a session.
 *
 * @param info The close of the session.
 * @param cause The raw error, if any.
 * @returns The error.
 */
export function endError(info: MoqCloseInfo, cause?: unknown): MoqError {
  const { code: moqCode, reason, message, by } = info;
  const words = `The session is over: ${message || wordsOf(info)}`;
  const options = cause === undefined ? {} : { cause };
  return new MoqError("session", reason, words, { ...options, moqCode, by });
}

/** Describes the end of a session that was closed without a message. */
function wordsOf({ reason, by }: MoqCloseInfo): string {
  if (reason !== "none") return reason;
  return by === "local" ? "it was closed here" : "the peer closed it";
}
