/**
 * What came of a session of a client, or of the attempt to get one.
 *
 * @module
 */
import { isRefusal } from "./_retrying.ts";
import type { MoqClientCause } from "./client_options.ts";
import type { Goaway, MoqCloseInfo } from "../session/session.ts";
import { MoqError } from "../wire/errors.ts";

/** What came of it. */
export interface Outcome {
  /** Why there is no session any more, or not for long. */
  readonly cause: MoqClientCause;
  /** Trying again is no use. */
  readonly isFinal: boolean;
  /** Where to go instead. */
  readonly uri?: string | undefined;
}

/** What comes of an attempt that nobody wants any more. */
export const STOPPED: Outcome = { cause: { error: undefined }, isFinal: false };

/**
 * Judges a session that ended.
 *
 * @param info How it ended.
 * @param isStable Whether it held: then it may have had a token that expired.
 */
export function ended(info: MoqCloseInfo, isStable: boolean): Outcome {
  const { code: moqCode, reason, message, by } = info;
  const text = `The session ended: ${message || reason}`;
  const error = new MoqError("session", reason, text, { moqCode, by });
  const isFinal = by === "remote" && isRefusal(error) && !(isStable && reason === "unauthorized");
  return { cause: { error, info }, isFinal };
}

/**
 * Tells of a session that lives on for a while.
 *
 * @param goaway What the server said.
 * @param uri Where to go; `undefined` for the usual place.
 */
export function askedToLeave(goaway: Goaway, uri: string | undefined): Outcome {
  const message = `The server asked to leave${goaway.uri && ` for ${goaway.uri}`}`;
  const error = new MoqError("session", "goingAway", message, { by: "remote" });
  return { cause: { error }, isFinal: false, uri };
}

/** Makes the error of a client that reached one of its limits. */
export function gaveUp({ error }: MoqClientCause, attempts: number, ms: number): MoqError {
  const why = error instanceof Error ? error.message : String(error);
  return new MoqError(
    "session",
    "timeout",
    `The client gave up after ${attempts} attempts in ${ms} ms: ${why}`,
    { cause: error },
  );
}
