/**
 * A thread that runs one worker. It starts the thread, exchanges messages with it, supervises it,
 * and ends it.
 */
import { textOf } from "../../base/error_text.ts";
import { getHeapStatistics } from "node:v8";
import { Worker } from "node:worker_threads";
import type { Runtime } from "../../base/runtime.ts";
import { pause, within } from "../../base/wait.ts";
import { TimeoutError } from "../../errors.ts";
import type { BrokerPort, BrokerPorts } from "../../pubsub/ports/broker_port.ts";
import {
  type MainQuestions,
  type QuestionHandlers,
  ThreadCalls,
  type ThreadMessage,
  type WorkerQuestions,
} from "./thread_calls.ts";
import { INIT_KEY, type WorkerInit } from "./worker_node.ts";

/** Interval at which a worker is pinged, in milliseconds. */
const PING_MS = 1_000;

/** Starts a thread with its data, and with a heap limit in MiB. */
export type StartThread = (
  init: WorkerInit,
  maxHeapMb: number,
) => Pick<Worker, "on" | "postMessage" | "terminate">;

/** Options for {@linkcode WorkerThread}. */
export interface WorkerThreadOptions {
  readonly runtime: Runtime;
  /** Starts the thread; by default, as the platform does. */
  readonly startThread?: StartThread | undefined;
  readonly ports: BrokerPorts;
  readonly init: WorkerInit;
  /** Heap limit of the thread, in MiB; `undefined` for the limit of this process. */
  readonly maxHeapMb: number | undefined;
  /** Time without a response after which the thread is terminated, in milliseconds. */
  readonly silentMs: number;
  /** Responds to calls of the worker. */
  readonly handlers: QuestionHandlers<MainQuestions>;
}

export class WorkerThread {
  /** Resolves with the reason once the thread has ended. */
  readonly ended: Promise<Error>;
  readonly calls: ThreadCalls<WorkerQuestions, MainQuestions>;
  readonly #options: WorkerThreadOptions;
  readonly #worker: ReturnType<StartThread>;
  readonly #port: BrokerPort;
  readonly #over = new AbortController();
  #error: Error | undefined;

  /**
   * Starts the thread, without loading a module of the application.
   *
   * @throws {TypeError} If the data cannot be cloned.
   */
  constructor(options: WorkerThreadOptions) {
    const { init, ports, maxHeapMb = processHeapMb(), handlers, startThread = startWorker } =
      options;
    this.#options = options;
    const worker = this.#worker = startThread(init, maxHeapMb);
    const post = (message: unknown) => {
      if (!this.#over.signal.aborted) worker.postMessage(message);
    };
    this.calls = new ThreadCalls<WorkerQuestions, MainQuestions>(post, handlers);
    this.#port = ports.open(post);
    worker.on("message", (message: ThreadMessage) => {
      // Batches of the broker are arrays; everything else is a call or a response.
      if (Array.isArray(message)) this.#port.take(message as never);
      else this.calls.take(message);
    });
    worker.on("error", (error: unknown) => this.#error ??= new Error(textOf(error)));
    const { promise, resolve } = Promise.withResolvers<Error>();
    this.ended = promise;
    worker.on("exit", (code: number) => {
      const error = this.#error ?? new Error(`Worker ${init.index} ended with code ${code}`);
      this.#over.abort();
      this.#port.end();
      this.calls.end(error);
      resolve(error);
    });
  }

  /** Pings the worker repeatedly, and terminates the thread if it does not respond. */
  async watch(): Promise<void> {
    const { runtime, silentMs, init } = this.#options;
    const { signal } = this.#over;
    while (!signal.aborted) {
      await pause(runtime, PING_MS, signal);
      if (signal.aborted) return;
      const fault = await this.#findFault(runtime, silentMs);
      if (fault !== undefined) await this.terminate(new Error(`Worker ${init.index} ${fault}`));
    }
  }

  async #findFault(runtime: Runtime, timeoutMs: number): Promise<string | undefined> {
    try {
      const { isExhausted } = await within(runtime, this.calls.ask("ping"), { timeoutMs });
      return isExhausted ? "has filled its heap" : undefined;
    } catch (error) {
      // Another error means that the thread has ended, which `ended` reports.
      return error instanceof TimeoutError ? `did not respond for ${timeoutMs} ms` : undefined;
    }
  }

  /** Terminates the thread. Unsent data of the worker is lost. */
  async terminate(error: Error): Promise<void> {
    this.#error ??= error;
    await this.#worker.terminate();
    await this.ended;
  }
}

/**
 * Heap limit of this process in MiB. With the same limit, only the worker ends if it exceeds it.
 */
function processHeapMb(): number {
  return Math.floor(getHeapStatistics().heap_size_limit / 1_048_576);
}

function startWorker(init: WorkerInit, maxHeapMb: number): Worker {
  const program = JSON.stringify(import.meta.resolve("./worker.ts"));
  // A worker of this kind can start only from a file or from data, but the toolkit may be loaded
  // from a registry.
  const url = new URL(`data:text/javascript,import ${encodeURIComponent(program)}`);
  try {
    return new Worker(url, {
      workerData: { [INIT_KEY]: init },
      resourceLimits: { maxOldGenerationSizeMb: maxHeapMb },
    });
  } catch (cause) {
    if (!(cause instanceof DOMException) || cause.name !== "DataCloneError") throw cause;
    throw new TypeError(
      `Cannot serve workers: options must be values that can be cloned, received "${cause.message}"`,
      { cause },
    );
  }
}
