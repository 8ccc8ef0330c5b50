/**
 * Requests to the peer that wait for replies.
 *
 * @module
 */
import { QueueFullError, RequestError, type RequestFailure } from "../errors.ts";
import { Signal } from "../base/signal.ts";
import { waitFor } from "../base/wait.ts";
import type { Runtime } from "../base/runtime.ts";
import type { StreamingAnswer } from "./types.ts";
import type { Envelope } from "./wire/envelope.ts";

/** An event of an answer in parts. */
export type AnswerEvent =
  | Extract<Envelope, { kind: "part" }>
  /** The answer came in one piece. */
  | { readonly kind: "reply"; readonly data: unknown }
  /** The answer has ended, by a failure if there is an error. */
  | { readonly kind: "end"; readonly error?: unknown };

/** Receives an answer in parts. */
export type AnswerTaker = (event: AnswerEvent, size: number) => void;

interface PendingRequest extends Omit<PromiseWithResolvers<unknown>, "promise"> {
  readonly onAnswer: ((data: unknown) => void) | undefined;
  /** True if a handler of the peer answers, and a handler of this end may wait for the answer. */
  isRequest: boolean;
  /** Receives the answer in parts, if the answer may have parts. */
  readonly take?: AnswerTaker;
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
  readonly isRequest?: boolean | undefined;
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
  /** Answers in parts for whose next item no loop waits. */
  #unread = 0;

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

  /** Number of requests for which code of this end may wait: all but answers that no loop awaits. */
  get awaited(): number {
    return this.size - this.#unread;
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
    else if (this.#isFull) return Promise.reject(this.#fullError(what));
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

  /**
   * Sends a request whose answer comes in parts.
   *
   * @param what Name of the expected answer, for errors.
   * @param take Receives the answer.
   * @param send Sends the request with its id.
   * @returns The id.
   * @throws {QueueFullError} If too many requests already wait.
   */
  open(what: string, take: AnswerTaker, send: (id: number) => void): number {
    if (this.#isFull) throw this.#fullError(what);
    const id = ++this.#last;
    (this.#waiting ??= new Map()).set(id, {
      resolve: (data: unknown) => take({ kind: "reply", data }, 0),
      reject: (error: unknown) => take({ kind: "end", error }, 0),
      onAnswer: undefined,
      isRequest: false,
      take,
    });
    this.#unread++;
    try {
      send(id);
    } catch (error) {
      this.#forget(id);
      throw error;
    }
    return id;
  }

  /** Notes if a loop waits for the next item of an answer in parts. */
  awaits(id: number, isAwaited: boolean): void {
    const request = this.#waiting?.get(id);
    if (request === undefined || request.isRequest === isAwaited) return;
    request.isRequest = isAwaited;
    this.#requests += isAwaited ? 1 : -1;
    this.#unread -= isAwaited ? 1 : -1;
  }

  /** Forgets an answer in parts that the caller gave up; false if the answer is over. */
  abandon(id: number): boolean {
    return this.#forget(id) !== undefined;
  }

  /** Hands an item to the receiver of its answer; ignores the item of an unknown answer. */
  part(part: Extract<Envelope, { kind: "part" }>, size: number): void {
    const request = this.#waiting?.get(part.id);
    if (request?.take) request.take(part, size);
    else request?.reject(unexpectedParts());
  }

  /** Ends an answer in parts; false if the request no longer waits. */
  end(id: number, failure: RequestFailure | undefined): boolean {
    const request = this.#forget(id);
    if (request === undefined) return false;
    if (failure !== undefined) request.reject(toRequestError(failure));
    else if (request.take) request.take({ kind: "end" }, 0);
    else request.reject(unexpectedParts());
    return true;
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
    else if (request.take) this.#unread--;
    this.notify();
    return request;
  }

  get #isFull(): boolean {
    return this.size - this.#uncounted >= this.#max;
  }

  #fullError(what: string): QueueFullError {
    return new QueueFullError(`Cannot ask for ${what}: ${this.#max} answers are awaited already`);
  }
}

/** The error of a request for one reply whose answer comes in parts. */
function unexpectedParts(): RequestError {
  return new RequestError("invalid", "The answer comes in parts, which requestStream() reads");
}

/** Creates the error that the caller of a request, or the application, receives. */
export function toRequestError(failure: RequestFailure): RequestError {
  return new RequestError(failure.code, failure.message, failure);
}

/** The reader of an answer in parts; `answers/reader.ts` has the class, which loads on first use. */
export interface OpenAnswer {
  /** Returns the next item, as an iterator does. */
  next(): Promise<IteratorResult<unknown, void>>;
  /** Cancels the request. Idempotent. */
  cancel(reason?: string): void;
}

/** Makes the answer of a reader that may still load, or wait for a session. */
export function answerOf<T>(opening: Promise<OpenAnswer>): StreamingAnswer<T> {
  let reader: OpenAnswer | undefined;
  opening.then((opened) => reader = opened, () => {});
  const iterator = {
    next: () => reader ? reader.next() : opening.then((opened) => opened.next()),
    async return(): Promise<IteratorResult<T, void>> {
      await cancel();
      return { done: true, value: undefined };
    },
  };
  const cancel = async (reason?: string) => (await opening.catch(() => undefined))?.cancel(reason);
  return {
    id: "",
    offset: undefined,
    cancel,
    [Symbol.asyncIterator]: () => iterator as AsyncIterator<T, void, undefined>,
  };
}
