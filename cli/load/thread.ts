/** The main thread's side of a thread that runs a part of a load. */
import type { LoadPart, Thread } from "./generator.ts";
import type { LoadPlan } from "./plan.ts";
import type { Sample } from "./tally.ts";

type ThreadStep = keyof Thread;

/** A message to the worker. */
export type ThreadCall =
  | { readonly begin: { readonly plan: LoadPlan; readonly part: LoadPart } }
  | { readonly id: number; readonly step: ThreadStep }
  | { readonly stop: true };

/** A message from the worker. */
export interface ThreadReply {
  /** Number of the call. */
  readonly id: number;
  /** Result of the call. */
  readonly value?: unknown;
  /** Error message of the call. */
  readonly error?: string | undefined;
}

/** A generator in a worker. */
export class LoadThread implements Thread, Disposable {
  readonly #worker: Worker;
  readonly #signal: AbortSignal;
  readonly #stop = () => this.#worker.postMessage({ stop: true } satisfies ThreadCall);
  /** Pending calls; at most one per step. */
  readonly #calls = new Map<number, PromiseWithResolvers<unknown>>();
  #lastId = 0;

  /**
   * Starts a worker.
   *
   * @param plan The plan of the whole load.
   * @param part The thread's part.
   * @param signal Ends the load early.
   */
  constructor(plan: LoadPlan, part: LoadPart, signal: AbortSignal) {
    this.#worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    this.#signal = signal;
    this.#worker.onmessage = ({ data: { id, value, error } }: MessageEvent<ThreadReply>) => {
      const call = this.#calls.get(id);
      this.#calls.delete(id);
      if (error === undefined) call?.resolve(value);
      else call?.reject(new Error(error));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      for (const { reject } of this.#calls.values()) {
        reject(new Error(`Cannot continue: a thread failed, ${event.message}`));
      }
      this.#calls.clear();
    };
    this.#worker.postMessage({ begin: { plan, part } } satisfies ThreadCall);
    signal.addEventListener("abort", this.#stop, { once: true });
    if (signal.aborted) this.#stop();
  }

  /** Opens all links. */
  open(): Promise<void> {
    return this.#call("open") as Promise<void>;
  }

  /** Begins to send messages, and waits for the warm-up. */
  warmUp(): Promise<void> {
    return this.#call("warmUp") as Promise<void>;
  }

  /** Measures. Returns the measured time, in milliseconds. */
  measure(): Promise<number> {
    return this.#call("measure") as Promise<number>;
  }

  /** Closes all links. */
  close(): Promise<void> {
    return this.#call("close") as Promise<void>;
  }

  /** Returns the counts since the last sample. */
  sample(): Promise<Sample> {
    return this.#call("sample") as Promise<Sample>;
  }

  /** Terminates the worker. */
  [Symbol.dispose](): void {
    this.#signal.removeEventListener("abort", this.#stop);
    this.#worker.terminate();
  }

  #call(step: ThreadStep): Promise<unknown> {
    const id = ++this.#lastId;
    const call = Promise.withResolvers<unknown>();
    this.#calls.set(id, call);
    this.#worker.postMessage({ id, step } satisfies ThreadCall);
    return call.promise;
  }
}
