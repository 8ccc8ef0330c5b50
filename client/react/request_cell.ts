/** A component's newest request and its reply. */
import { Cell, errorOf, type Rounds } from "./cell.ts";

/**
 * The newest request and the newest reply.
 *
 * @typeParam D The reply.
 */
export interface RequestSnapshot<D = unknown> {
  /** The newest reply. It stays while another request is waiting. */
  readonly data: D | undefined;
  /** The error of the newest request. */
  readonly error: Error | undefined;
  /** True while a request is waiting for its reply. */
  readonly isPending: boolean;
}

/** The state before the first request. */
export const NO_REQUEST: RequestSnapshot<never> = Object.freeze({
  data: undefined,
  error: undefined,
  isPending: false,
});

/** Sends requests, and keeps only the newest one. */
export class RequestCell extends Cell<RequestSnapshot> {
  #state: RequestSnapshot = NO_REQUEST;
  #waiting: AbortController | undefined;

  constructor(rounds: Rounds) {
    super(rounds, NO_REQUEST);
  }

  /**
   * Cancels the previous request, and sends another one in its place.
   *
   * @param send Sends the request. The signal aborts once the request is cancelled.
   * @returns The reply. A rejection counts as handled, because the snapshot holds the error.
   */
  send<D>(send: (signal: AbortSignal) => Promise<D>): Promise<D> {
    this.#waiting?.abort();
    const waiting = this.#waiting = new AbortController();
    const { data } = this.#state;
    this.#set({ data, error: undefined, isPending: true });
    const reply = send(waiting.signal);
    const settle = (state: RequestSnapshot) => {
      if (this.#waiting !== waiting) return;
      this.#waiting = undefined;
      this.#set(state);
    };
    reply.then(
      (data) => settle({ data, error: undefined, isPending: false }),
      (error) => settle({ data, error: errorOf(error), isPending: false }),
    );
    return reply;
  }

  /** Cancels the waiting request, if there is one. An earlier reply stays. */
  cancel(): void {
    if (this.#waiting === undefined) return;
    this.#waiting.abort();
    this.#waiting = undefined;
    this.#set({ ...this.#state, isPending: false });
  }

  protected override take(): RequestSnapshot {
    return this.#state;
  }

  #set(state: RequestSnapshot): void {
    this.#state = state;
    this.refresh();
  }
}
