/** Factory of the session errors that applications see. */
import { ConnectionError, StreamError } from "../../errors.ts";
import type { StreamFailure } from "../quic/deno_quirks.ts";

/** Factory of errors for the application: Skein's own, or those of the W3C. */
export interface SessionErrors {
  /**
   * Makes the error of a stream that the peer ended; `code` is the application's, if the peer sent
   * one.
   */
  stream(failure: StreamFailure, code: number | undefined): Error;
  /** Makes the error of a session that is over or could not be opened. */
  session(message: string, options?: ErrorOptions & { status?: number }): Error;
}

/** Factory of Skein's own errors. */
export const SKEIN_ERRORS: SessionErrors = {
  stream({ kind, code: http3Code }, code) {
    const which = code === undefined ? `HTTP/3 code ${http3Code}` : `code ${code}`;
    const what = kind === "reset" ? "reset" : "stopped reading";
    // A server on Deno's QUIC can refuse a stream with code 0 only.
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
