/**
 * The error of the W3C's WebTransport, and how sessions make it.
 *
 * @module
 */
import { H3Error } from "../h3/error_codes.ts";
import type { SessionErrors } from "../h3/session_errors.ts";
import { defineInterface } from "./web_idl.ts";

/** The largest code there is. */
const MAX_CODE = 0xffff_ffff;

/** Options for {@linkcode WebTransportError}. */
export interface WebTransportErrorOptions extends ErrorOptions {
  /**
   * What failed: one stream, or the whole session.
   *
   * @default {"stream"}
   */
  readonly source?: "stream" | "session";
  /**
   * The application's code of a stream, cut to what fits 32 bits.
   *
   * @default {null}
   */
  readonly streamErrorCode?: number | null;
}

/**
 * An error that came from the server or the network, or a reason to end a stream
 * with. A class of this toolkit, also where the runtime has one of its own.
 *
 * @example Usage
 * ```ts
 * import { WebTransportError } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const error = new WebTransportError("No longer needed", { streamErrorCode: 7 });
 * assertEquals([error.name, error.source, error.streamErrorCode], ["WebTransportError", "stream", 7]);
 * ```
 *
 * @see {@link https://www.w3.org/TR/webtransport/#web-transport-error-interface | WebTransport}
 */
export class WebTransportError extends DOMException {
  static {
    defineInterface(this, {
      name: "WebTransportError",
      members: ["source", "streamErrorCode"],
    });
  }

  readonly #source: "stream" | "session";
  readonly #streamErrorCode: number | null;

  /**
   * Creates an error.
   *
   * @param message What happened. Options with a `message`, as older browsers have it, are taken too.
   * @param options See {@linkcode WebTransportErrorOptions}.
   * @throws {TypeError} If `source` is neither of the two.
   */
  constructor(
    message: string | (WebTransportErrorOptions & { readonly message?: string }) = "",
    options: WebTransportErrorOptions = {},
  ) {
    const isInit = typeof message === "object" && message !== null;
    const { source = "stream", streamErrorCode = null, cause } = isInit ? message : options;
    super(isInit ? message.message ?? "" : message, "WebTransportError");
    if (source !== "stream" && source !== "session") {
      throw new TypeError(
        `Cannot create WebTransportError: source must be "stream" or "session", received "${source}"`,
      );
    }
    this.#source = source;
    this.#streamErrorCode = streamErrorCode === null ? null : clamped(streamErrorCode);
    if (cause !== undefined) {
      Object.defineProperty(this, "cause", { value: cause, configurable: true, writable: true });
    }
  }

  /** What failed: one stream, or the whole session. */
  get source(): "stream" | "session" {
    return this.#source;
  }

  /** The application's code of a stream; `null` if there is none. */
  get streamErrorCode(): number | null {
    return this.#streamErrorCode;
  }
}

/** The W3C's errors. */
export const W3C_ERRORS: SessionErrors = {
  stream(failure, code) {
    if (failure.code === H3Error.sessionGone) {
      return new WebTransportError("The session is over", { source: "session" });
    }
    const what = failure.kind === "reset" ? "reset" : "stopped reading";
    // As browsers do where the code is none of an application.
    return new WebTransportError(`The server ${what} the stream`, { streamErrorCode: code ?? 0 });
  },
  session: (message, options) =>
    new WebTransportError(message, { source: "session", cause: options?.cause }),
};

/**
 * Makes the error of a session that is over, or could not be made, of whatever was thrown.
 *
 * @param error What was thrown.
 * @returns The same, if it is one.
 */
export function sessionError(error: unknown): WebTransportError {
  if (error instanceof WebTransportError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new WebTransportError(message, { source: "session", cause: error });
}

/**
 * Makes the error of a call that comes too late.
 *
 * @param what What cannot be done.
 * @returns The error.
 */
export function invalidState(what: string): DOMException {
  return new DOMException(`Cannot ${what}: the session is over`, "InvalidStateError");
}

/** Web IDL's `[Clamp]`. */
function clamped(code: number): number {
  const number = Number(code);
  return Number.isNaN(number) ? 0 : Math.min(MAX_CODE, Math.max(0, Math.round(number)));
}
