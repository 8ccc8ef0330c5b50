/** A file whose commits run in a worker, so that syncs to the disk do not hold up this thread. */
import { Worker } from "node:worker_threads";
import { textOf } from "../../base/error_text.ts";
import { BrokerError } from "../../errors.ts";
import type { Publication } from "../../pubsub/broker.ts";
import { compact, compactPublication } from "../../pubsub/ports/calls.ts";
import type { FileThread } from "./commit_queue.ts";
import type { FileCalls, Operation, Outcome, SqliteFileOptions } from "./file.ts";

/** Key of the `workerData` of a worker that has a file. */
export const OPTIONS_KEY = "skeinSqlite";

/** A message to the worker, which answers each one. */
export type WorkerRequest =
  | readonly [kind: "run", operations: readonly Operation[], now: number]
  | readonly [kind: "close"];

/** A message of the worker; the first one comes without a request. */
export type WorkerAnswer =
  | readonly [kind: "opened", epoch: string]
  | readonly [kind: "outcomes", outcomes: Outcome[]]
  | readonly [kind: "closed"]
  | readonly [kind: "failed", reason: string];

/** A file in a worker. A worker that ends by itself leaves all later groups rejected. */
export class WorkerFile implements FileThread {
  /** Epoch of all histories. */
  readonly epoch: string;
  readonly #worker: FileWorker;

  private constructor(worker: FileWorker, epoch: string) {
    this.#worker = worker;
    this.epoch = epoch;
  }

  /**
   * Starts the worker, and opens the file there.
   *
   * @param options See {@linkcode SqliteFileOptions}.
   * @throws {BrokerError} If the file cannot be opened.
   */
  static async open(options: SqliteFileOptions): Promise<WorkerFile> {
    const worker = new FileWorker(options);
    try {
      const [, epoch] = await worker.answer("opened");
      return new WorkerFile(worker, epoch);
    } catch (error) {
      await worker.end();
      throw error;
    }
  }

  /** Runs a group; one at a time. */
  async run(operations: readonly Operation[], now: number): Promise<Outcome[]> {
    const request = ["run", operations.map(compactOperation), now] as const;
    const [, outcomes] = await this.#worker.ask("outcomes", request);
    return outcomes;
  }

  /** Closes the file, and ends the worker. */
  async close(): Promise<void> {
    try {
      await this.#worker.ask("closed", ["close"]);
    } finally {
      await this.#worker.end();
    }
  }
}

/** Copies payloads that are views of large buffers, which would be cloned whole. */
function compactOperation([name, ...args]: Operation): Operation {
  if (name === "append") {
    return [name, compactPublication(args[0] as Publication), ...args.slice(1)];
  }
  if (name !== "createLog" && name !== "appendLog") return [name, ...args];
  const [id, options, now] = args as Parameters<FileCalls["appendLog"]>;
  return [name, id, { ...options, records: options.records.map(compact) }, now];
}

/** An answer of one kind. */
type AnswerOf<K extends WorkerAnswer[0]> = Extract<WorkerAnswer, readonly [K, ...unknown[]]>;

/** The worker, with one question at a time. */
class FileWorker {
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  #waiting: PromiseWithResolvers<WorkerAnswer> = Promise.withResolvers();
  /** The end of the worker; undefined as long as it runs. */
  #end: BrokerError | undefined;

  constructor(options: SqliteFileOptions) {
    const program = JSON.stringify(import.meta.resolve("./file_worker.ts"));
    // A worker of this kind starts from a file or from data, and the toolkit may come from a registry.
    const url = new URL(`data:text/javascript,import ${encodeURIComponent(program)}`);
    this.#worker = new Worker(url, { workerData: { [OPTIONS_KEY]: options } });
    this.#worker.on("message", (answer: WorkerAnswer) => this.#waiting.resolve(answer));
    let cause: unknown;
    this.#worker.on("error", (error: unknown) => cause ??= error);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#ended = promise;
    this.#worker.on("exit", (code: number) => {
      const why = cause === undefined ? `code ${code}` : textOf(cause);
      this.#end = new BrokerError(`the worker of the file ended: ${why}`, { cause });
      this.#waiting.reject(this.#end);
      resolve();
    });
  }

  /** Sends a request, and waits for the answer. */
  async ask<K extends WorkerAnswer[0]>(kind: K, request: WorkerRequest): Promise<AnswerOf<K>> {
    if (this.#end !== undefined) throw this.#end;
    this.#waiting = Promise.withResolvers();
    this.#worker.postMessage(request);
    return await this.answer(kind);
  }

  /** Waits for the next answer. */
  async answer<K extends WorkerAnswer[0]>(kind: K): Promise<AnswerOf<K>> {
    const answer = await this.#waiting.promise;
    if (answer[0] === "failed") throw new BrokerError(answer[1]);
    if (answer[0] !== kind) throw new TypeError(`Cannot answer: received "${answer[0]}"`);
    return answer as AnswerOf<K>;
  }

  /** Ends the worker. */
  async end(): Promise<void> {
    // A rejection that nobody awaits any more must not end the process.
    this.#waiting.promise.catch(() => {});
    await this.#worker.terminate();
    await this.#ended;
  }
}
