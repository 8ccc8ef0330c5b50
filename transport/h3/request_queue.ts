/** The requests of a WebTransport listener that wait for the application. */
import type { WebTransportRequest } from "./request.ts";

/** The maximum number of waiting requests. Further requests are rejected with 503. */
const MAX_WAITING_REQUESTS = 1_024;

/** The requests of a listener in order of arrival. The iteration ends after `stop()` is called. */
export class Http3RequestQueue implements AsyncIterable<WebTransportRequest> {
  readonly #waiting: WebTransportRequest[] = [];
  #wake: PromiseWithResolvers<void> | undefined = undefined;
  #isStopped = false;

  get isStopped(): boolean {
    return this.#isStopped;
  }

  /** Adds a request. Rejects it with 503 if the queue is full or has stopped. */
  push(request: WebTransportRequest): void {
    if (this.#isStopped || this.#waiting.length >= MAX_WAITING_REQUESTS) {
      return request.reject(503);
    }
    this.#waiting.push(request);
    this.#wake?.resolve();
  }

  /** Rejects all waiting and later requests with 503. Further calls have no effect. */
  stop(): void {
    this.#isStopped = true;
    for (const request of this.#waiting.splice(0)) request.reject(503);
    this.#wake?.resolve();
  }

  /** Yields requests until `stop()` is called. */
  async *[Symbol.asyncIterator](): AsyncGenerator<WebTransportRequest, void, undefined> {
    while (true) {
      for (let request; (request = this.#waiting.shift()) !== undefined;) yield request;
      if (this.#isStopped) return;
      this.#wake = Promise.withResolvers();
      await this.#wake.promise;
    }
  }
}
