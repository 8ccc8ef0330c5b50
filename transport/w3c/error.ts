/** The error class of the W3C `WebTransport`, and the factory of its sessions' errors. */
import { H3Error } from "../h3/wire/error_codes.ts";
import type { SessionErrors } from "../h3/session.ts";
import { defineInterface } from "./web_idl.ts";
import { textOf } from "../../base/error_text.ts";

const MAX_CODE = 0xffff_ffff;

/** The options for {@linkcode WebTransportError}. */
export interface WebTransportErrorOptions extends ErrorOptions {
  /**
   * The origin of the error, which is either one stream or the whole session.
   *
   * @default {"stream"}
   */
  readonly source?: "stream" | "session" | undefined;
  /**
   * The application's stream error code, clamped to an unsigned 32-bit integer.
   *
   * @default {null}
   */
  readonly streamErrorCode?: number | null | undefined;
}

/**
 * An error caused by the server or the network, or a reason for ending a stream. This is Skein's
 * own class, even if the runtime has a class of that name.
 *
 * @example Usage
 * ```ts
 * import { WebTransportError } from "@skein/skein/webtransport";
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
   * @param message The description. For compatibility with older browsers, it can also be an
   * options object with a `message`.
   * @param options The origin, stream error code and cause.
   * @throws {TypeError} If `source` is neither `stream` nor `session`.
   */
  constructor(
    message: string | (WebTransportErrorOptions & { readonly message?: string | undefined }) = "",
    options: WebTransportErrorOptions = {},
  ) {
    const isInit = typeof message === "object" && message !== null;
    const { source = "stream", streamErrorCode = null, cause } = isInit ? message : options ?? {};
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

  /** The origin of the error, which is either one stream or the whole session. */
  get source(): "stream" | "session" {
    return this.#source;
  }

  /** The application's stream error code; `null` if there is none. */
  get streamErrorCode(): number | null {
    return this.#streamErrorCode;
  }
}

/** The factory of the W3C errors. */
export const W3C_ERRORS: SessionErrors = {
  stream(failure, code) {
    if (failure.code === H3Error.sessionGone) {
      return new WebTransportError("The session has ended", { source: "session" });
    }
    const what = failure.kind === "reset" ? "reset" : "stopped reading";
    // Browsers report 0 for codes outside the range for applications.
    return new WebTransportError(`The server ${what} the stream`, { streamErrorCode: code ?? 0 });
  },
  session: (message, options) =>
    new WebTransportError(message, { source: "session", cause: options?.cause }),
};

/**
 * Converts any error to the error of a session that broke or could not be opened.
 *
 * @param error Any thrown value.
 * @returns The value itself if it is a {@linkcode WebTransportError}; otherwise an error that wraps
 * the value.
 */
export function sessionError(error: unknown): WebTransportError {
  if (error instanceof WebTransportError) return error;
  const message = textOf(error);
  return new WebTransportError(message, { source: "session", cause: error });
}

/**
 * Creates the error for a call made after the session has ended.
 *
 * @param what The action that failed, as a verb phrase.
 */
export function invalidState(what: string): DOMException {
  return new DOMException(`Cannot ${what}: the session has ended`, "InvalidStateError");
}

/** Implements `[Clamp]` of Web IDL. */
function clamped(code: number): number {
  const number = Number(code);
  return Number.isNaN(number) ? 0 : Math.min(MAX_CODE, Math.max(0, Math.round(number)));
}
