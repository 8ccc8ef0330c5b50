/**
 * All error classes and close codes of Skein. This file has no imports, so that any module can
 * import it.
 *
 * @module
 */

/**
 * The close codes that Skein itself uses. They are the same on every transport: 4000 plus the HTTP
 * status with the same meaning. The exception is `normal`, which is 0 (1000 on a WebSocket).
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
  /** One side called `close()`; 1000 on a WebSocket. A client that receives this closes, too. */
  normal: 0,
  /**
   * The user left the page, or a foreign server is shutting down. Skein receives this code but
   * never sends it. A client reconnects.
   */
  goingAway: 1001,
  /**
   * The connection broke without a close. Skein reports this code locally and never sends it. A
   * client reconnects.
   */
  abnormal: 1006,
  /**
   * The peer sent invalid messages, or too many of them. A client stops, or reconnects after the
   * longest delay.
   */
  malformed: 4400,
  /** The token is missing, invalid or expired. A client tries a fresh token, and then stops. */
  unauthenticated: 4401,
  /** The origin is not allowed, or the application denied access. A client stops. */
  forbidden: 4403,
  /** The server has no sessions at this path. A client reconnects after the longest delay. */
  notFound: 4404,
  /** The peer was silent for too long, or did not send a token in time. A client reconnects. */
  timedOut: 4408,
  /** A message was larger than the receiver accepts. A client reconnects. */
  tooLarge: 4413,
  /**
   * The server, user or address has too many sessions, or a rate limit was exceeded repeatedly. A
   * client reconnects.
   */
  tooMany: 4429,
  /**
   * The application's `onOpen` failed, or its handlers fail repeatedly; see `onHandlerError`. A
   * client reconnects.
   */
  handlerFailed: 4500,
  /**
   * The server is shutting down, or cannot decide about the client now. A client reconnects, with
   * the kind `unavailable`.
   */
  draining: 4503,
  /** One side does not read its messages fast enough. A client reconnects. */
  queueFull: 4507,
} as const;

/** How and why a session ended. */
export interface CloseInfo {
  /**
   * The close code: 0, a {@linkcode CloseCode}, or one of the application's own codes from 3000 to
   * 4999. Any other code from a foreign peer is passed on unchanged.
   */
  readonly code: number;
  /** The reason in words; may be empty. */
  readonly reason: string;
  /** The end that closed: this one, the peer, or the network between them. */
  readonly by: "local" | "remote" | "network";
  /** The error that caused the close, if any. */
  readonly error?: unknown;
}

/**
 * The base class of every error that Skein throws deliberately. Bad arguments throw `TypeError` and
 * `RangeError` instead.
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
  /**
   * The mark of this class in every copy of the package. The `code` of its errors is the same.
   *
   * @ignore
   */
  static readonly skeinError: string = "";

  /** A stable code to branch on; the message is for humans. */
  declare readonly code:
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
    | "store"
    | "moq";

  /**
   * Creates an error.
   *
   * @param message What failed, in sentence case, without a final period.
   * @param options Standard error options; pass the origin as `cause`.
   */
  constructor(message: string, options?: ErrorOptions) {
    // Set `cause` only if there is one: runtimes print the property even if it is `undefined`.
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    const mark = new.target.skeinError;
    // Minifiers rename classes, so set the error's name explicitly.
    this.name = mark.replace(/(^|-)./g, (start) => start.at(-1)!.toUpperCase()) + "Error";
    this.code = mark as SkeinError["code"];
  }

  /**
   * Makes `instanceof` true for an error of another copy of the package, such as the one in a
   * library. A class of an application that extends an error class has no mark of its own, and only
   * its own instances.
   *
   * @param value Any value.
   * @returns True if a class with the mark of this class created the value.
   */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (!Object.hasOwn(this, "skeinError")) return super[Symbol.hasInstance](value);
    // Data of a peer may have any key, so the value's own keys prove nothing.
    for (let made = Object(value); (made = Object.getPrototypeOf(made));) {
      if (made.constructor?.skeinError === this.skeinError) return true;
    }
    return false;
  }
}

/**
 * Thrown by an operation on a session that is already closed, or that closes before the operation
 * completes.
 */
export class SessionClosedError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "session-closed";
  /** How the session ended, if known. */
  declare readonly info: CloseInfo | undefined;

  /**
   * Creates the error.
   *
   * @param message The operation that failed.
   * @param options Standard error options, and how the session ended.
   */
  constructor(message: string, options?: ErrorOptions & { info?: CloseInfo | undefined }) {
    super(message, options);
    this.info = options?.info;
  }
}

/** Thrown when a bounded queue is full. */
export class QueueFullError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "queue-full";
}

/** Thrown when an operation does not complete in time; the message names the operation. */
export class TimeoutError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "timeout";
  /** The limit that was exceeded, in milliseconds. */
  declare readonly timeoutMs: number;

  /**
   * Creates the error.
   *
   * @param message The operation that did not complete.
   * @param timeoutMs The limit that was exceeded, in milliseconds.
   * @param options Standard error options.
   */
  constructor(message: string, timeoutMs: number, options?: ErrorOptions) {
    super(message, options);
    this.timeoutMs = timeoutMs;
  }
}

/** Thrown by a stream that was reset or stopped before it ended. */
export class StreamError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "stream";
  /** The application's code, or 0 if the transport does not carry codes. */
  declare readonly streamErrorCode: number;
  /** The end that caused it: this one, the peer, or the network between them. */
  declare readonly by: "local" | "remote" | "network";

  /**
   * Creates the error.
   *
   * @param message How the stream ended.
   * @param options The code, the origin, and standard error options.
   */
  constructor(
    message: string,
    options: ErrorOptions & { streamErrorCode: number; by: CloseInfo["by"] },
  ) {
    super(message, options);
    this.streamErrorCode = options.streamErrorCode;
    this.by = options.by;
  }
}

/**
 * Thrown when the peer violates the protocol. The message names the expected and the received
 * value.
 */
export class ProtocolError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "protocol";
}

/** Thrown when a connection cannot be opened, or breaks. */
export class ConnectionError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "connection";
  /**
   * The HTTP status with which the server rejected the connection. It is `undefined` if the server
   * did not reject it, or if the platform hides the status.
   */
  declare readonly status: number | undefined;
  /**
   * True if the connection broke because nothing arrived from the peer for too long. Only QUIC in
   * Deno reports this.
   */
  declare readonly isTimeout: boolean;

  /**
   * Creates the error.
   *
   * @param message The operation that failed.
   * @param options Standard error options, the HTTP status if the server rejected the connection,
   * and `isTimeout` if the peer was silent.
   */
  constructor(
    message: string,
    options: ErrorOptions & {
      status?: number | undefined;
      isTimeout?: boolean | undefined;
    } = {},
  ) {
    super(message, options);
    this.status = options.status;
    this.isTimeout = options.isTimeout === true;
  }
}

/** Thrown when the transport or the runtime does not support an operation; see `capabilities`. */
export class UnsupportedError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "unsupported";
}

/**
 * Reports a typed message that was received on a stream or in a datagram and cannot be delivered.
 * The `reason` is one of:
 *
 * - `unknown-type`: the message's type number is not in the registry.
 * - `too-large`: the message is larger than `maxMessageBytes`; no part of it was kept in memory.
 * - `truncated`: the stream ended inside the message.
 * - `malformed`: the codec cannot decode the message, or the framing is invalid.
 * - `invalid`: the schema rejected the message.
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
  /** @ignore */
  static override readonly skeinError = "structured";
  /** The reason why the message cannot be delivered. */
  declare readonly reason: "unknown-type" | "too-large" | "truncated" | "invalid" | "malformed";
  /** The type number in the message; `undefined` if it is missing. */
  declare readonly type: number | undefined;

  /**
   * Creates the error.
   *
   * @param reason The reason why the message cannot be delivered.
   * @param message The expected and the received value.
   * @param options Standard error options, and the type number in the message.
   */
  constructor(
    reason: StructuredError["reason"],
    message: string,
    options: ErrorOptions & { type?: number | undefined } = {},
  ) {
    super(message, options);
    this.reason = reason;
    this.type = options.type;
  }
}

/**
 * Thrown when a broker such as Redis is unreachable, or has discarded data that Skein relies on.
 */
export class BrokerError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "broker";
}

/**
 * Thrown by a client's store. The `reason` is one of:
 *
 * - `full`: there is no room left, because of a quota, a full disk or a bound of the store.
 * - `closed`: the store was closed.
 * - `unavailable`: the platform has no such storage, or doesn't allow it here; another process or
 *   store has the file open; or the client doesn't use the store in this session, because another
 *   user is signed in or the server doesn't support it.
 * - `failed`: the storage failed, was deleted meanwhile, or is damaged.
 *
 * @example Usage
 * ```ts
 * import { StoreError } from "@skein/skein/store";
 * import { assertEquals } from "@std/assert";
 *
 * const error = new StoreError("full", "Cannot write: the disk is full");
 * assertEquals([error.code, error.reason], ["store", "full"]);
 * ```
 */
export class StoreError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "store";
  /** The reason why the store can't do it. */
  declare readonly reason: "full" | "closed" | "unavailable" | "failed";

  /**
   * Creates the error.
   *
   * @param reason The reason why the store can't do it.
   * @param message What failed.
   * @param options Standard error options.
   */
  constructor(reason: StoreError["reason"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

/**
 * The level at which a limit applies: the whole server, an address, a user (or guest), or a
 * session.
 */
export type LimitLevel = "server" | "address" | "user" | "session";

/**
 * Thrown when a limit is reached, for example on the sessions per server, user or address, on the
 * connection rate, or on the keys that a topic remembers.
 */
export class LimitError extends SkeinError {
  /** @ignore */
  static override readonly skeinError = "limit";
  /** The option that sets the limit; `keys` for the keys that a topic remembers. */
  declare readonly limit: string;
  /** The time until there is room again, in milliseconds, if known. */
  declare readonly retryAfterMs: number | undefined;
  /** The level at which the limit was reached, if known. */
  declare readonly level: LimitLevel | undefined;

  /**
   * Creates the error.
   *
   * @param limit The option that sets the limit, such as `maxSessionsPerUser`.
   * @param message The rejected operation and the limit.
   * @param options The time until there is room, and the level of the limit.
   */
  constructor(
    limit: string,
    message: string,
    options: {
      readonly retryAfterMs?: number | undefined;
      readonly level?: LimitLevel | undefined;
    } = {},
  ) {
    super(message);
    this.limit = limit;
    this.retryAfterMs = options.retryAfterMs;
    this.level = options.level;
  }
}

/**
 * Thrown by the application's `authenticate` to reject a session. The message is sent to the client
 * as the close reason. The function `token` of a client throws it if there is no token, for example
 * because the user has to sign in again.
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
  /** @ignore */
  static override readonly skeinError = "authentication";
  /** The HTTP status of the rejection. The close code is this status plus 4000. */
  declare readonly status: 400 | 401 | 403 | 404 | 408 | 429 | 503;

  /**
   * Creates the rejection.
   *
   * @param message The reason, which is sent to the client.
   * @param options The status (401 by default) and standard error options.
   */
  constructor(
    message: string,
    options: ErrorOptions & { status?: AuthenticationError["status"] | undefined } = {},
  ) {
    super(message, options);
    this.status = options.status ?? 401;
  }
}

/**
 * The error with which a request is rejected. A handler throws it to report a failure to the peer.
 * The messages of other errors are not sent.
 *
 * Skein's own failure codes are `malformed`, `invalid` (the data does not match the contract;
 * `path` says where), `unknown-topic`, `unauthenticated`, `forbidden`, `too-large`, `too-many`
 * (`retryAfterMs` says when to retry), `unavailable`, `unanswered` and `failed`.
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
  /** @ignore */
  static override readonly skeinError = "request";
  /** The part that is sent to the peer. */
  declare readonly failure: {
    /** A stable code: one of Skein's own, or one of the application's. */
    readonly code: string;
    /** A description of the failure, for humans. */
    readonly message: string;
    /** The path to the invalid value in the input, for example `["user", "name"]`. */
    readonly path?: readonly (string | number)[];
    /** The time after which to retry, in whole milliseconds, if known. */
    readonly retryAfterMs?: number;
    /** The level whose rate, limit or share rejected the message before it was handled. */
    readonly level?: LimitLevel;
  };

  /**
   * Creates the failure.
   *
   * @param failureCode A stable code for the peer to branch on.
   * @param message A description of the failure, for humans.
   * @param options The path in the input, the time after which to retry, which is rounded up to whole
   * milliseconds, the level of a limit, and standard error options.
   */
  constructor(
    failureCode: string,
    message: string,
    options: ErrorOptions & Pick<RequestError["failure"], "path" | "retryAfterMs" | "level"> = {},
  ) {
    super(message, options);
    const { path, retryAfterMs, level } = options;
    // Applications print and compare failures, so absent values don't get a key.
    const failure: { -readonly [K in keyof RequestFailure]: RequestFailure[K] } = {
      code: failureCode,
      message,
    };
    if (path !== undefined) failure.path = path;
    // A peer ignores fractions.
    if (retryAfterMs !== undefined) failure.retryAfterMs = Math.ceil(retryAfterMs);
    if (level !== undefined) failure.level = level;
    this.failure = failure;
  }
}

/** The part of a {@linkcode RequestError} that is sent to the peer. */
export type RequestFailure = RequestError["failure"];

/** An HTTP status with which a server can reject a session. */
export type RejectionStatus = AuthenticationError["status"];
