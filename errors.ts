/**
 * Every error class and close code of Skein. This file imports nothing and is
 * imported by all others, so a code has one place where it is defined.
 *
 * @module
 */

/**
 * Application close codes, the same number on every wire: 4000 plus the HTTP
 * status that says the same thing. `normal` is 0 (1000 on a WebSocket).
 *
 * @example Usage
 * ```ts
 * import { CloseCode } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(CloseCode.queueFull, 4507);
 * ```
 */
export const CloseCode = {
  /** Nothing went wrong; 1000 on a WebSocket. */
  normal: 0,
  /** A page was left, or a server of another make stops. Never sent, only seen. */
  goingAway: 1001,
  /** The connection broke without a close. Never sent, only seen. */
  abnormal: 1006,
  /** The peer sent what this end cannot read, or too much of it. */
  malformed: 4400,
  /** No credentials, or invalid ones. */
  unauthenticated: 4401,
  /** Valid credentials that do not allow this. */
  forbidden: 4403,
  /** No session is served at this path. */
  notFound: 4404,
  /** No sign of life from the peer, or no token in time. */
  timedOut: 4408,
  /** One message was larger than this end takes. */
  tooLarge: 4413,
  /** A limit of sessions, per server, user or address, was reached; or a rate, again and again. */
  tooMany: 4429,
  /** The application's `onOpen` failed, or its handlers fail again and again; see `onHandlerError`. */
  handlerFailed: 4500,
  /** The server is going away; come back later. */
  draining: 4503,
  /** The peer does not take its messages fast enough, or nobody reads them here. */
  queueFull: 4507,
} as const;

/** A close code that Skein itself gives; see {@linkcode CloseCode}. */
export type CloseCodeValue = typeof CloseCode[keyof typeof CloseCode];

/** Who ended a session: this end, the other one, or the network between them. */
export type ClosedBy = "local" | "remote" | "network";

/** How and why a session ended. */
export interface CloseInfo {
  /**
   * Close code: 0, a {@linkcode CloseCode}, or the application's own from 3000
   * to 4999. What else a foreign peer sends is passed on as it came.
   */
  readonly code: number;
  /** Reason in words; may be empty. */
  readonly reason: string;
  /** Who ended it. */
  readonly by: ClosedBy;
  /** The error behind it, where there was one. */
  readonly error?: unknown;
}

/** Machine-readable reason of a {@linkcode SkeinError}. */
export type SkeinErrorCode =
  | "session-closed"
  | "queue-full"
  | "timeout"
  | "stream"
  | "protocol"
  | "authentication"
  | "request"
  | "connection"
  | "unsupported"
  | "limit"
  | "structured"
  | "broker"
  | "moq";

/**
 * The base of every error that Skein throws on purpose. Bad arguments throw
 * `TypeError` and `RangeError` instead.
 *
 * @example Usage
 * ```ts
 * import { SessionClosedError, SkeinError } from "@skein/skein";
 * import { assert } from "@std/assert";
 *
 * const error: unknown = new SessionClosedError("Cannot send: the session is closed");
 * assert(error instanceof SkeinError && error.code === "session-closed");
 * ```
 */
export class SkeinError extends Error {
  /** Stable code to branch on; the message is for people. */
  readonly code: SkeinErrorCode;

  /**
   * Creates an error.
   *
   * @param code Stable reason.
   * @param message What failed, in sentence case, without a final period.
   * @param options Standard error options; pass the origin as `cause`.
   */
  constructor(code: SkeinErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    // A minifier renames the classes, and must not rename their errors.
    this.name = code.replace(/(^|-)./g, (start) => start.at(-1)!.toUpperCase()) + "Error";
    this.code = code;
  }
}

/** Thrown by an operation on a session that is closed, or that closed meanwhile. */
export class SessionClosedError extends SkeinError {
  /** How the session ended, where that is known. */
  readonly info: CloseInfo | undefined;

  /**
   * Creates the error.
   *
   * @param message What could not be done.
   * @param options Standard error options and how the session ended.
   */
  constructor(message: string, options?: ErrorOptions & { info?: CloseInfo }) {
    super("session-closed", message, options);
    this.info = options?.info;
  }
}

/** Thrown when a bounded queue has no room for one more. */
export class QueueFullError extends SkeinError {
  /**
   * Creates the error.
   *
   * @param message Which queue, and its bound.
   * @param options Standard error options.
   */
  constructor(message: string, options?: ErrorOptions) {
    super("queue-full", message, options);
  }
}

/** Thrown when something did not happen in time; the message names what was waited for. */
export class TimeoutError extends SkeinError {
  /** How long was waited, in milliseconds. */
  readonly timeoutMs: number;

  /**
   * Creates the error.
   *
   * @param message What was waited for.
   * @param timeoutMs How long was waited, in milliseconds.
   * @param options Standard error options.
   */
  constructor(message: string, timeoutMs: number, options?: ErrorOptions) {
    super("timeout", message, options);
    this.timeoutMs = timeoutMs;
  }
}

/** A stream that was reset or stopped before its end. */
export class StreamError extends SkeinError {
  /** The application's code; 0 where the wire carries none. */
  readonly streamErrorCode: number;
  /** Who ended the stream. */
  readonly by: ClosedBy;

  /**
   * Creates the error.
   *
   * @param message What happened to the stream.
   * @param options The code, who did it, and standard error options.
   */
  constructor(message: string, options: ErrorOptions & { streamErrorCode: number; by: ClosedBy }) {
    super("stream", message, options);
    this.streamErrorCode = options.streamErrorCode;
    this.by = options.by;
  }
}

/** The peer broke the protocol: what was expected, and what came. */
export class ProtocolError extends SkeinError {
  /**
   * Creates the error.
   *
   * @param message What was expected, and what came.
   * @param options Standard error options.
   */
  constructor(message: string, options?: ErrorOptions) {
    super("protocol", message, options);
  }
}

/** The connection could not be made, or broke. */
export class ConnectionError extends SkeinError {
  /** HTTP status with which the server refused it, where it did and the platform tells. */
  readonly status: number | undefined;

  /**
   * Creates the error.
   *
   * @param message What failed.
   * @param options Standard error options, and the status of a refusal.
   */
  constructor(message: string, options?: ErrorOptions & { status?: number }) {
    super("connection", message, options);
    this.status = options?.status;
  }
}

/** This wire or runtime cannot do what was asked for; see `capabilities`. */
export class UnsupportedError extends SkeinError {
  /**
   * Creates the error.
   *
   * @param message What is not supported, and by what.
   * @param options Standard error options.
   */
  constructor(message: string, options?: ErrorOptions) {
    super("unsupported", message, options);
  }
}

/** What is wrong with a typed message; see {@linkcode StructuredError}. */
export type StructuredErrorReason =
  | "unknown-type"
  | "too-large"
  | "truncated"
  | "invalid"
  | "malformed";

/**
 * A typed message that came, on a stream or in a datagram, and cannot be taken. By `reason`:
 *
 * - `unknown-type`: the registry has no such number.
 * - `too-large`: it is larger than `maxMessageBytes`; none of it was held.
 * - `truncated`: the stream ended inside it.
 * - `malformed`: the codec cannot read it, or the framing is wrong.
 * - `invalid`: its schema refuses it.
 *
 * @example Usage
 * ```ts
 * import { StructuredError } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const message = "Cannot read message: expected type 1, received 7";
 * const error = new StructuredError("unknown-type", message, { type: 7 });
 * assertEquals([error.code, error.reason, error.type], ["structured", "unknown-type", 7]);
 * ```
 */
export class StructuredError extends SkeinError {
  /** What is wrong with it. */
  readonly reason: StructuredErrorReason;
  /** The number that it came with; `undefined` if that was missing. */
  readonly type: number | undefined;

  /**
   * Creates the error.
   *
   * @param reason What is wrong.
   * @param message What was expected, and what came.
   * @param options Standard error options, and the number of the message.
   */
  constructor(
    reason: StructuredErrorReason,
    message: string,
    options: ErrorOptions & { type?: number | undefined } = {},
  ) {
    super("structured", message, options);
    this.reason = reason;
    this.type = options.type;
  }
}

/** Thrown where a broker's engine was away, or gave up what it was to keep. */
export class BrokerError extends SkeinError {
  /**
   * Creates the error.
   *
   * @param message What failed.
   * @param options Standard error options; what the client library threw is the `cause`.
   */
  constructor(message: string, options?: ErrorOptions) {
    super("broker", message, options);
  }
}

/** A limit of sessions, per server, user or address, or a rate of connections was reached. */
export class LimitError extends SkeinError {
  /** Which limit. */
  readonly limit: string;
  /** When there will be room, in milliseconds, where that is known. */
  readonly retryAfterMs: number | undefined;

  /**
   * Creates the error.
   *
   * @param limit The option that sets the limit, such as `maxSessionsPerUser`.
   * @param message What was refused, and the limit.
   * @param options When there will be room.
   */
  constructor(limit: string, message: string, options: { readonly retryAfterMs?: number } = {}) {
    super("limit", message);
    this.limit = limit;
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** HTTP statuses with which a session can be refused. */
export type RefusalStatus = 400 | 401 | 403 | 404 | 408 | 429 | 503;

/**
 * Refuses a session. Thrown by the application's `authenticate`; its message
 * does cross the wire, as the close reason.
 *
 * @example Usage
 * ```ts
 * import { AuthenticationError } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(new AuthenticationError("Banned", { status: 403 }).status, 403);
 * ```
 */
export class AuthenticationError extends SkeinError {
  /** HTTP status of the refusal; the close code is 4000 more. */
  readonly status: RefusalStatus;

  /**
   * Creates the refusal.
   *
   * @param message Told to the peer.
   * @param options The status (401 by default) and standard error options.
   */
  constructor(message: string, options: ErrorOptions & { status?: RefusalStatus } = {}) {
    super("authentication", message, options);
    this.status = options.status ?? 401;
  }
}

/** The part of a {@linkcode RequestError} that crosses the wire. */
export interface RequestFailure {
  /** Stable code: one of Skein's own, or the application's. */
  readonly code: string;
  /** What went wrong, for people. */
  readonly message: string;
  /** Where in the input, for example `["user", "name"]`. */
  readonly path?: readonly (string | number)[];
  /** When to try again, in milliseconds, if that is known. */
  readonly retryAfterMs?: number;
}

/**
 * The answer to a request, when it is a failure. It is the only error of a
 * handler whose text crosses the wire: a handler throws it to tell its asker what is wrong.
 *
 * Skein's own failure codes: `malformed`, `invalid` (the data does not fit the
 * contract; `path` says where), `unknown-topic`, `unauthenticated`,
 * `forbidden`, `too-large`, `too-many` (`retryAfterMs` may say when to try again), `unavailable`,
 * `unanswered`, `failed`.
 *
 * @example Usage
 * ```ts
 * import { RequestError } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const error = new RequestError("taken", "This name is taken", { path: ["name"] });
 * assertEquals(error.failure, { code: "taken", message: "This name is taken", path: ["name"] });
 * ```
 */
export class RequestError extends SkeinError {
  /** What crosses the wire. */
  readonly failure: RequestFailure;

  /**
   * Creates the failure.
   *
   * @param failureCode Stable code for the asker to branch on.
   * @param message For people.
   * @param options Where in the input, when to try again, and standard error options.
   */
  constructor(
    failureCode: string,
    message: string,
    options: ErrorOptions & Pick<RequestFailure, "path" | "retryAfterMs"> = {},
  ) {
    super("request", message, options);
    const { path, retryAfterMs } = options;
    this.failure = {
      code: failureCode,
      message,
      ...(path && { path }),
      ...(retryAfterMs !== undefined && { retryAfterMs }),
    };
  }
}
