/**
 * The errors of a session that its users see.
 *
 * @module
 */
import { ConnectionError, StreamError } from "../../errors.ts";
import type { StreamFailure } from "../quic/runtime.ts";

/** Makes the errors that users see: Skein's own, or the W3C's. */
export interface SessionErrors {
  /** Of a stream that the peer ended; `code` is the application's, if there is one. */
  stream(failure: StreamFailure, code: number | undefined): Error;
  /** Of a session that is over, or could not be made. */
  session(message: string, options?: ErrorOptions & { status?: number }): Error;
}

/** Skein's own errors. */
export const SKEIN_ERRORS: SessionErrors = {
  stream({ kind, code: http3Code }, code) {
    const which = code === undefined ? `HTTP/3 code ${http3Code}` : `code ${code}`;
    const what = kind === "reset" ? "reset" : "stopped reading";
    // A server on Deno's QUIC can say no other code where it refuses a stream.
    const mayBeUnread = kind !== "reset" && http3Code === 0;
    const hint = mayBeUnread
      ? "; its application may not take streams, or have too many unread"
      : "";
    return new StreamError(`The peer ${what} the stream with ${which}${hint}`, {
      streamErrorCode: code ?? 0,
      by: "remote",
    });
  },
  session: (message, options) => new ConnectionError(message, options),
};
