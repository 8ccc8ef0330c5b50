/** The HTTP requests under way at a server, which finish before the server stops. */
import type { RequestInfo } from "../../transport/address.ts";

/** Seconds after which a client repeats a request that a server did not answer before its end. */
const RETRY_AFTER_S = "5";

/** Methods of requests without a body. */
const BODILESS: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS"]);

/** Information from an HTTP server that also tells when a response was sent, as `Deno.serve` does. */
interface FollowedInfo extends RequestInfo {
  /** Settles after the response was sent, or the client left. */
  readonly completed?: Promise<unknown>;
}

/**
 * Counts the requests of a server that are under way, and ends them in two steps: first no new one
 * is admitted, then the bodies that are still on their way are cut.
 */
export class RequestGate {
  readonly #stopped = new AbortController();
  readonly #cut = new AbortController();
  #underWay = 0;
  #idle: PromiseWithResolvers<void> | undefined;

  /** Aborts when no new request is admitted any longer. */
  get stopped(): AbortSignal {
    return this.#stopped.signal;
  }

  /** Aborts when bodies that are not complete are given up. */
  get cut(): AbortSignal {
    return this.#cut.signal;
  }

  /** Resolves once no request is under way. */
  get idle(): Promise<void> {
    if (this.#underWay === 0) return Promise.resolve();
    return (this.#idle ??= Promise.withResolvers()).promise;
  }

  /** Admits no further request. Idempotent. */
  stop(): void {
    this.#stopped.abort();
  }

  /** Admits no further request, and gives up the bodies that are not complete. Idempotent. */
  close(): void {
    this.stop();
    this.#cut.abort();
  }

  /**
   * Counts a request until its answer, or with a body until its response was sent: a response may
   * begin before the whole body came.
   */
  follow(
    { method }: Request,
    info: RequestInfo,
    answer: Response | Promise<Response>,
  ): Response | Promise<Response> {
    const { completed } = BODILESS.has(method) ? {} : info as FollowedInfo;
    const end = completed ?? (answer instanceof Promise ? answer : undefined);
    if (end === undefined) return answer;
    this.#underWay++;
    const ended = () => {
      if (--this.#underWay > 0) return;
      this.#idle?.resolve();
      this.#idle = undefined;
    };
    end.then(ended, ended);
    return answer;
  }

  /**
   * Wraps a handler of the application: new requests get 503 after {@linkcode stop}, and so does a
   * request whose body was cut, which the handler cannot tell from a wrong one.
   */
  guard(
    handle: (request: Request, info: RequestInfo) => Response | Promise<Response>,
  ): (request: Request, info: RequestInfo) => Response | Promise<Response> {
    return (request, info) => {
      if (this.#stopped.signal.aborted) return unavailable();
      const answer = handle(request, info);
      if (!(answer instanceof Promise)) return this.follow(request, info, answer);
      const guarded = BODILESS.has(request.method) ? answer : this.#guarded(answer);
      return this.follow(request, info, guarded);
    };
  }

  async #guarded(answer: Promise<Response>): Promise<Response> {
    try {
      const response = await answer;
      return this.#cut.signal.aborted && isOfClient(response) ? unavailable() : response;
    } catch (error) {
      if (this.#cut.signal.aborted) return unavailable();
      throw error;
    }
  }
}

/** Tells whether a response blames the client, for which nothing was done. */
function isOfClient({ status }: Response): boolean {
  return status >= 400 && status < 500;
}

/**
 * Creates the answer to a request that another server, or the next one, may answer.
 *
 * @returns A response with 503 and `Retry-After`.
 */
export function unavailable(): Response {
  return new Response("The server is shutting down\n", {
    status: 503,
    headers: { "content-type": "text/plain; charset=utf-8", "retry-after": RETRY_AFTER_S },
  });
}
