/** Calls of a function that must not run twice at the same time. */
import type { Runtime } from "./runtime.ts";
import { within } from "./wait.ts";

/** How long the next call waits for an aborted one, in milliseconds. */
const ABORTED_MS = 1_000;

interface SharedCall<T> {
  readonly result: Promise<T>;
  readonly stop: AbortController;
  /** Number of callers that wait for the result and have a signal. */
  callers: number;
  abortedAt: number;
}

/**
 * A function of the application that is called once at a time. For example, a provider may revoke a
 * whole family of tokens if two calls use the same refresh token.
 *
 * - **Shared:** while a call runs, all callers wait for its result.
 * - **Abort:** the call's signal aborts once none of the callers with a signal waits any longer, or
 *   after {@linkcode SingleCall.abort}.
 * - **Next:** after an abort, the next call starts when the aborted one has settled, or after 1 s.
 *
 * @typeParam T The type of the result.
 */
export class SingleCall<T> {
  readonly #runtime: Runtime;
  readonly #run: (options: { readonly signal: AbortSignal }) => T | Promise<T>;
  #call: SharedCall<T> | undefined;

  constructor(
    runtime: Runtime,
    run: (options: { readonly signal: AbortSignal }) => T | Promise<T>,
  ) {
    this.#runtime = runtime;
    this.#run = run;
  }

  /**
   * Calls the function, or waits for the call that is running.
   *
   * @param signal Ends the wait. A caller without a signal does not keep a call running for others.
   * @returns The result.
   */
  async run(signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    const runtime = this.#runtime;
    while (this.#call?.stop.signal.aborted) {
      const aborted = this.#call;
      const leftMs = aborted.abortedAt + ABORTED_MS - runtime.now();
      const timeoutMs = Math.max(0, Math.min(ABORTED_MS, leftMs));
      await within(runtime, aborted.result, { timeoutMs, signal }).catch(() => {});
      signal?.throwIfAborted();
      if (this.#call === aborted) this.#call = undefined;
    }
    const call = this.#call ??= this.#start();
    if (!signal) return await call.result;
    call.callers++;
    try {
      return await within(runtime, call.result, { signal });
    } finally {
      if (--call.callers === 0 && this.#call === call) this.abort();
    }
  }

  /** Aborts the signal of the running call. */
  abort(): void {
    const call = this.#call;
    if (!call || call.stop.signal.aborted) return;
    call.abortedAt = this.#runtime.now();
    call.stop.abort();
  }

  #start(): SharedCall<T> {
    const stop = new AbortController();
    const result = (async () => await this.#run({ signal: stop.signal }))();
    const call = { result, stop, callers: 0, abortedAt: 0 };
    const over = () => {
      if (this.#call === call) this.#call = undefined;
    };
    result.then(over, over);
    return call;
  }
}
