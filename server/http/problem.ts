/** Problem details (RFC 9457): bodies of HTTP error responses. */

import { STATUS_TEXT } from "@std/http/status";
import type { LimitError, LimitLevel, RequestFailure } from "../../errors.ts";

const REASONS: Readonly<Record<number, string>> = STATUS_TEXT;

/** Content type of problem details. */
export const PROBLEM_TYPE = "application/problem+json";

/** Codes of rejections, by status. */
export const REJECTION_CODES: Readonly<Record<number, string>> = {
  400: "malformed",
  401: "unauthenticated",
  404: "not-found",
  408: "too-slow",
  413: "too-large",
  429: "too-many",
  503: "unavailable",
};

/** Seconds after which a client may retry, unless the problem has its own time. */
const RETRY_AFTER_S = 5;

/** Parts of a {@linkcode Problem}, in addition to its status. */
export interface ProblemOptions extends ErrorOptions {
  /** Stable reason that clients can branch on, such as `too-large`; lower case with dashes. */
  readonly code: string;
  /** The operation, the broken rule and the received value, in one sentence without a period. */
  readonly detail: string;
  /** Headers of the response. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** More members of the body. */
  readonly members?: Readonly<Record<string, unknown>> | undefined;
}

/**
 * An error that becomes the response to an HTTP request.
 *
 * The body has `type` (`urn:skein:problem:` plus the code), `title`, `status`, `code`, `detail`,
 * and the members of the problem. `type`, `title` and `code` never change. A problem with status
 * 429 or 503 has the header `Retry-After`.
 *
 * @example Usage
 * ```ts
 * import { Problem } from "./problem.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const problem = new Problem(404, {
 *   code: "no-history",
 *   detail: 'Cannot read history: the topic must have a history, received "news"',
 * });
 * const response = problem.toResponse();
 * const { title, status } = await response.json();
 * assertEquals([title, status, response.statusText], ["No history", 404, "Not Found"]);
 * ```
 */
export class Problem extends Error {
  /** HTTP status. */
  readonly status: number;
  /** Stable reason for programs. */
  readonly code: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #members: Readonly<Record<string, unknown>>;

  /**
   * Creates a problem.
   *
   * @param status HTTP status, between 400 and 599.
   */
  constructor(status: number, options: ProblemOptions) {
    const { code, detail, headers = {}, members = {}, ...errorOptions } = options;
    super(detail, errorOptions);
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.#headers = headers;
    this.#members = members;
  }

  /** Returns the body: type, title, status, code, detail and the members of the problem. */
  toJSON(): Record<string, unknown> {
    const { status, code, message: detail } = this;
    const words = code.replaceAll("-", " ");
    const title = words.charAt(0).toUpperCase() + words.slice(1);
    return { type: `urn:skein:problem:${code}`, title, status, code, detail, ...this.#members };
  }

  /** Returns the response, which is not cached. */
  toResponse(): Response {
    const { status } = this;
    const isTemporary = status === 429 || status === 503;
    return new Response(`${JSON.stringify(this)}\n`, {
      status,
      statusText: REASONS[status] ?? "",
      headers: {
        "content-type": PROBLEM_TYPE,
        "cache-control": "no-store",
        ...(isTemporary && { "retry-after": String(RETRY_AFTER_S) }),
        ...this.#headers,
      },
    });
  }
}

/** Returns the JSON Pointer (RFC 6901) of a path in a value. */
export function pointerOf(path: readonly (string | number)[]): string {
  return path.map((key) => `/${String(key).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

/**
 * Creates the problem for a rate limit or bound that was reached.
 *
 * @param retryAfterMs Time after which a client may retry, in milliseconds.
 * @param level The level at which it was reached, if known; a member of the body.
 * @returns The problem, of status 429.
 */
export function tooMany(detail: string, retryAfterMs: number, level?: LimitLevel): Problem {
  const seconds = Math.max(1, Math.ceil(retryAfterMs / 1_000));
  return new Problem(429, {
    code: "too-many",
    detail,
    headers: { "retry-after": String(seconds) },
    members: { level },
  });
}

/**
 * Creates the problem of a request that was rejected.
 *
 * @param failure The rejection.
 * @param status Status of the response.
 * @param cause The error of the rejection.
 * @returns The problem, with the same code.
 */
export function rejectedFor(failure: RequestFailure, status: number, cause: unknown): Problem {
  const { code, message: detail, path, retryAfterMs, level } = failure;
  const after = retryAfterMs && { "retry-after": String(Math.ceil(retryAfterMs / 1_000)) };
  return new Problem(status, {
    code,
    detail,
    headers: { ...after },
    members: { ...(path && { pointer: pointerOf(path) }), level },
    cause,
  });
}

/**
 * Creates the problem of a limit or share that was reached.
 *
 * @returns The problem, of status 429.
 */
export function rejectedBy({ message, retryAfterMs = 1_000, level }: LimitError): Problem {
  return tooMany(message, retryAfterMs, level);
}

/**
 * Creates the problem of an unsupported method.
 *
 * @returns The problem, of status 405.
 */
export function methodNotAllowed(method: string, allowed: readonly string[]): Problem {
  const list = allowed.join(", ");
  return new Problem(405, {
    code: "method-not-allowed",
    detail: `The method must be ${list.replace(/, (\w+)$/, " or $1")}, received ${
      method.slice(0, 32)
    }`,
    headers: { allow: list },
  });
}
