/**
 * Requests to the peer that wait for replies.
 *
 * @module
 */
import { QueueFullError, RequestError, type RequestFailure } from "../errors.ts";
import { Signal } from "../base/signal.ts";
import { waitFor } from "../base/wait.ts";
import type { Runtime } from "../base/runtime.ts";

interface PendingRequest extends Omit<PromiseWithResolvers<unknown>, "promise"> {
  readonly onAnswer: ((data: unknown) => void) | undefined;
  readonly isRequest: boolean;
}

/** Options of one request. */
export interface PendingRequestOptions {
  /** Sends the request with its id. */
  readonly send: (id: number) => void;
  /** Tells the peer that the reply is no longer needed. */
  readonly cancel: (id: number, reason: unknown) => void;
  /** Name of the expected reply, for errors. */
  readonly what: string;
  /** Time to wait, in milliseconds. */
  readonly timeoutMs: number;
  /** Ends the wait when aborted. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Called with the reply before the session reads any later envelope. Such a request does not
   * count towards the maximum, so its caller MUST have a bound of its own.
   */
  readonly onAnswer?: ((data: unknown) => void) | undefined;
  /** True if a handler of the peer's application answers; Skein itself answers all others. */
  readonly isRequest?: boolean;
}

/** The requests of one session: numbered from 1, at most `max` at once. */
export class PendingRequests extends Signal {
  readonly #runtime: Runtime;
  readonly #max: number;
  // Created for the first request: most sessions of a server send none.
  #waiting: Map<number, PendingRequest> | undefined;
  #last = 0;
  #uncounted = 0;
  #requests = 0;

  /** Creates an empty list. */
  constructor(runtime: Runtime, max: number) {
    super();
    this.#runtime = runtime;
    this.#max = max;
  }

  /** Number of requests that wait. */
  get size(): number {
    return this.#waiting?.size ?? 0;
  }

  /** Number of requests that wait for a handler of the peer's application. */
  get requests(): number {
    return this.#requests;
  }

  /**
   * Sends a request, and waits for the reply.
   *
   * @throws {QueueFullError} If too many requests already wait.
   * @throws {TimeoutError} If no reply arrives in time.
   * @throws {RequestError} If the reply is a failure.
   */
  ask(options: PendingRequestOptions): Promise<unknown> {
    const { signal, timeoutMs, what, onAnswer, isRequest = false } = options;
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (onAnswer) this.#uncounted++;
    else if (this.size - this.#uncounted >= this.#max) {
      return Promise.reject(
        new QueueFullError(`Cannot ask for ${what}: ${this.#max} answers are awaited already`),
      );
    }
    const id = ++this.#last;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    (this.#waiting ??= new Map()).set(id, { resolve, reject, onAnswer, isRequest });
    if (isRequest) this.#requests++;
    const answer = waitFor(this.#runtime, promise, { what, signal, timeoutMs }).catch(
      (error) => {
        // The caller gave up, and the peer has not replied.
        if (this.#forget(id) !== undefined) options.cancel(id, error);
        throw error;
      },
    );
    try {
      options.send(id);
    } catch (error) {
      this.#forget(id)?.reject(error);
    }
    return answer;
  }

  /** Resolves the request with a reply; false if the request no longer waits. */
  answer(id: number, data: unknown, failure: RequestFailure | undefined): boolean {
    const request = this.#forget(id);
    if (request === undefined) return false;
    if (failure === undefined) {
      request.onAnswer?.(data);
      request.resolve(data);
    } else request.reject(toRequestError(failure));
    return true;
  }

  /** Waits until no request waits. */
  async idle(): Promise<void> {
    while (this.size > 0) await this.changed();
  }

  /** Rejects all requests with one error. */
  rejectAll(error: unknown): void {
    for (const id of [...this.#waiting?.keys() ?? []]) this.#forget(id)?.reject(error);
  }

  #forget(id: number): PendingRequest | undefined {
    const request = this.#waiting?.get(id);
    if (request === undefined) return undefined;
    this.#waiting?.delete(id);
    if (request.onAnswer) this.#uncounted--;
    if (request.isRequest) this.#requests--;
    this.notify();
    return request;
  }
}

/** Creates the error that the caller of a request, or the application, receives. */
export function toRequestError(failure: RequestFailure): RequestError {
  return new RequestError(failure.code, failure.message, failure);
}
