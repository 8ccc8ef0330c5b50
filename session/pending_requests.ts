/**
 * Questions to the peer that wait for their answers.
 *
 * @module
 */
import { QueueFullError, RequestError, type RequestFailure } from "../errors.ts";
import { Changing } from "./base/signal.ts";
import { waitFor } from "./base/wait.ts";

interface Ask extends Omit<PromiseWithResolvers<unknown>, "promise"> {
  readonly onAnswer: ((data: unknown) => void) | undefined;
  readonly isRequest: boolean;
}

/** How one question is asked. */
export interface AskOptions {
  /** Writes the question, once its number is known. */
  readonly send: (id: number) => void;
  /** Tells the peer that its answer is not needed any more. */
  readonly cancel: (id: number, reason: unknown) => void;
  /** What is asked for, for errors. */
  readonly what: string;
  /** How long to wait, in milliseconds. */
  readonly timeoutMs: number;
  /** Gives up. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Called with the answer before anything that came after it is read. Who asks so has a bound of
   * its own: such questions do not count among the others.
   */
  readonly onAnswer?: ((data: unknown) => void) | undefined;
  /** True if a handler of the peer's application answers; Skein itself answers all others. */
  readonly isRequest?: boolean;
}

/** The questions of one session: numbered from 1, at most `max` at once. */
export class Asks extends Changing {
  readonly #max: number;
  // Made when the first question is asked: most sessions of a server ask nothing.
  #waiting: Map<number, Ask> | undefined;
  #last = 0;
  #uncounted = 0;
  #requests = 0;

  /** Creates an empty list. */
  constructor(max: number) {
    super();
    this.#max = max;
  }

  /** How many wait. */
  get size(): number {
    return this.#waiting?.size ?? 0;
  }

  /** How many of them wait for a handler of the peer's application. */
  get requests(): number {
    return this.#requests;
  }

  /**
   * Asks, and waits for the answer.
   *
   * @throws {QueueFullError} If too many wait already.
   * @throws {TimeoutError} If no answer came in time.
   * @throws {RequestError} If the answer is a failure.
   */
  ask(options: AskOptions): Promise<unknown> {
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
    const answer = waitFor(promise, { what, signal, timeoutMs }).catch((error) => {
      // Nobody waits any more, and the peer has not answered.
      if (this.#forget(id) !== undefined) options.cancel(id, error);
      throw error;
    });
    try {
      options.send(id);
    } catch (error) {
      this.#forget(id)?.reject(error);
    }
    return answer;
  }

  /** Gives an answer to its asker; false if nobody waits for it any more. */
  answer(id: number, data: unknown, failure: RequestFailure | undefined): boolean {
    const ask = this.#forget(id);
    if (ask === undefined) return false;
    if (failure === undefined) {
      ask.onAnswer?.(data);
      ask.resolve(data);
    } else ask.reject(toRequestError(failure));
    return true;
  }

  /** Waits until no answer is awaited. */
  async idle(): Promise<void> {
    while (this.size > 0) await this.changed();
  }

  /** Ends all questions with one error. */
  rejectAll(error: unknown): void {
    for (const id of [...this.#waiting?.keys() ?? []]) this.#forget(id)?.reject(error);
  }

  #forget(id: number): Ask | undefined {
    const ask = this.#waiting?.get(id);
    if (ask === undefined) return undefined;
    this.#waiting?.delete(id);
    if (ask.onAnswer) this.#uncounted--;
    if (ask.isRequest) this.#requests--;
    this.notify();
    return ask;
  }
}

/** Makes the error that an asker, or the application, gets to see. */
export function toRequestError(failure: RequestFailure): RequestError {
  return new RequestError(failure.code, failure.message, failure);
}
