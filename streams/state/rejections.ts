/** Rejections of writes that may be made again later. */
import { RequestError, TimeoutError } from "../../errors.ts";

/** Time after which a write that was rejected for now may be made again, in milliseconds. */
export const RETRY_MS = 1_000;

/** The rejection of a write that may be made again later. */
export function forNow(why: string, retryAfterMs: number = RETRY_MS): RequestError {
  return new RequestError("unavailable", `Cannot write state: ${why}`, { retryAfterMs });
}

/** The rejection of a server that is closed. A client sends the write to another server. */
export function serverClosed(): RequestError {
  return new RequestError("unavailable", "The server is closed", { retryAfterMs: RETRY_MS });
}

/** Turns the timeout of a wait for rows into what the client may know; other errors stay. */
export function lateRows(cause: unknown): unknown {
  if (!(cause instanceof TimeoutError)) return cause;
  return new RequestError("unavailable", cause.message, { cause, retryAfterMs: RETRY_MS });
}
