/** Tracks a server's pending HTTP requests, so that they finish before the server stops. */
import { describe } from "../../base/error_text.ts";
import type { RequestInfo } from "../../transport/address.ts";
import type { FollowedInfo } from "./unread.ts";

/** Seconds after which a client repeats a request that a stopping server rejected. */
const RETRY_AFTER_S = "5";

/** Methods of requests without a body. */
const BODILESS: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS"]);

/**
 * Counts pending requests, and ends them in two steps: first, no new requests are admitted; then,
 * incomplete request bodies are cancelled.
 */
export class RequestGate {
  readonly #stopped = new AbortController();
  readonly #cut = new AbortController();
  #underWay = 0;
  #idle: PromiseWithResolvers<void> | undefined;

  /** Aborts when new requests are no longer admitted. */
  get stopped(): AbortSignal {
    return this.#stopped.signal;
  }

  /** Aborts when incomplete bodies are cancelled. */
  get cut(): AbortSignal {
    return this.#cut.signal;
  }

  /** Resolves once no request is pending. */
  get idle(): Promise<void> {
    if (this.#underWay === 0) return Promise.resolve();
    return (this.#idle ??= Promise.withResolvers()).promise;
  }

  /** Stops admitting requests. Idempotent. */
  stop(): void {
    this.#stopped.abort();
  }

  /** Stops admitting requests, and cancels incomplete bodies. Idempotent. */
  close(): void {
    this.stop();
    this.#cut.abort();
  }

  /**
   * Counts a request until its response. If the request has a body, counts it until the response
   * was sent, because a response may start before the whole body has arrived.
   */
  follow(
    { method }: Request,
    info: RequestInfo,
    result: Response | Promise<Response>,
  ): Response | Promise<Response> {
    const { completed } = BODILESS.has(method) ? {} : info as FollowedInfo;
    const end = completed ?? (result instanceof Promise ? result : undefined);
    if (end === undefined) return result;
    this.#underWay++;
    const ended = () => {
      if (--this.#underWay > 0) return;
      this.#idle?.resolve();
      this.#idle = undefined;
    };
    end.then(ended, ended);
    return result;
  }

  /**
   * Wraps the application's `fetch`. After {@linkcode stop}, new requests receive 503. A request
   * whose body was cancelled also receives 503, because the handler cannot distinguish a cancelled
   * body from a malformed one. The runtime's server reports what the handler throws; the error of a
   * handler that returns no response would name neither.
   */
  guard(
    handle: (request: Request, info: RequestInfo) => Response | Promise<Response>,
  ): (request: Request, info: RequestInfo) => Response | Promise<Response> {
    return (request, info) => {
      if (this.#stopped.signal.aborted) return unavailable();
      const result = handle(request, info);
      if (!(result instanceof Promise)) {
        return this.follow(request, info, responseOf(result));
      }
      const checked = result.then(responseOf);
      const guarded = BODILESS.has(request.method) ? checked : this.#guarded(checked);
      return this.follow(request, info, guarded);
    };
  }

  async #guarded(result: Promise<Response>): Promise<Response> {
    try {
      const response = await result;
      return this.#cut.signal.aborted && isOfClient(response) ? unavailable() : response;
    } catch (error) {
      if (this.#cut.signal.aborted) return unavailable();
      throw error;
    }
  }
}

/** Checks what `fetch` returned. Frameworks have responses of their own classes. */
function responseOf(result: Response): Response {
  if (typeof result === "object" && result !== null) return result;
  throw new TypeError(
    `Cannot respond to a request: fetch must return a Response, received ${describe(result)}`,
  );
}

/** Checks whether a response reports a client error, so that the request had no effect. */
function isOfClient({ status }: Response): boolean {
  return status >= 400 && status < 500;
}

/**
 * Creates the response to a request that another server may handle.
 *
 * @returns A response with 503 and `Retry-After`.
 */
export function unavailable(): Response {
  return new Response("The server is shutting down\n", {
    status: 503,
    headers: { "content-type": "text/plain; charset=utf-8", "retry-after": RETRY_AFTER_S },
  });
}

/** Creates the response to a request that failed for a reason which the client must not learn. */
export function internalError(): Response {
  return new Response("Internal server error", { status: 500 });
}
