/** A file whose commits run in a worker, so that syncs to disk do not block this thread. */
import { Worker } from "node:worker_threads";
import { textOf } from "../../base/error_text.ts";
import { BrokerError } from "../../errors.ts";
import type { Publication } from "../../pubsub/broker.ts";
import { compact, compactPublication } from "../../pubsub/ports/calls.ts";
import type { FileThread } from "./commit_queue.ts";
import {
  type FileCalls,
  type FileOperation,
  type OperationOutcome,
  OPTIONS_KEY,
  type SqliteFileOptions,
  type WorkerRequest,
} from "./file.ts";

/**
 * A file in a worker, which handles one request at a time. If the worker ends on its own, all later
 * groups are rejected.
 */
export class WorkerFile implements FileThread {
  readonly #worker: Worker;
  readonly #ended = Promise.withResolvers<void>();
  #reply: PromiseWithResolvers<OperationOutcome> = Promise.withResolvers();
  #epoch = "";
  /** The reason why the worker ended; `undefined` while it is running. */
  #end: BrokerError | undefined;

  private constructor(program: string, options: SqliteFileOptions) {
    // A worker of this kind can start only from a file or from data, but the toolkit may be loaded
    // from a registry.
    const code = `import ${JSON.stringify(program)}`;
    const url = new URL(`data:text/javascript,${encodeURIComponent(code)}`);
    this.#worker = new Worker(url, { workerData: { [OPTIONS_KEY]: options } });
    this.#worker.on("message", (outcome: OperationOutcome) => this.#reply.resolve(outcome));
    let cause: unknown;
    this.#worker.on("error", (error: unknown) => cause ??= error);
    this.#worker.on("exit", (code: number) => {
      const why = cause === undefined ? `code ${code}` : textOf(cause);
      this.#end = new BrokerError(`The worker of the file ended: ${why}`, { cause });
      this.#reply.reject(this.#end);
      this.#ended.resolve();
    });
  }

  /**
   * Starts the worker, and opens the file there.
   *
   * @param options See {@linkcode SqliteFileOptions}.
   * @returns The file; `undefined` if a bundle has the worker's program and the server in one file,
   * which would start the server again in the worker.
   * @throws {BrokerError} If the file cannot be opened.
   */
  static async open(options: SqliteFileOptions): Promise<WorkerFile | undefined> {
    // An import that `deno compile` and bundlers can see, so that they include the program.
    const { url } = await import("./file_worker.ts");
    if (url === import.meta.url) return undefined;
    const file = new WorkerFile(url, options);
    try {
      // The worker sends the first outcome without a request.
      file.#epoch = await file.#outcome() as string;
      return file;
    } catch (error) {
      await file.#terminate();
      throw error;
    }
  }

  /** Epoch of all histories. */
  get epoch(): string {
    return this.#epoch;
  }

  /** Runs a group, one at a time. */
  async run(operations: readonly FileOperation[], now: number): Promise<OperationOutcome[]> {
    return await this.#ask(["run", operations.map(compactOperation), now]) as OperationOutcome[];
  }

  /** Closes the file, and stops the worker. */
  async close(): Promise<void> {
    try {
      await this.#ask(["close"]);
    } finally {
      await this.#terminate();
    }
  }

  async #ask(request: WorkerRequest): Promise<unknown> {
    if (this.#end !== undefined) throw this.#end;
    this.#reply = Promise.withResolvers();
    this.#worker.postMessage(request);
    return await this.#outcome();
  }

  async #outcome(): Promise<unknown> {
    const [kind, value] = await this.#reply.promise;
    if (kind === "failed") throw new BrokerError(value);
    return value;
  }

  async #terminate(): Promise<void> {
    // A rejection that is no longer awaited must not end the process.
    this.#reply.promise.catch(() => {});
    await this.#worker.terminate();
    await this.#ended.promise;
  }
}

/** Copies payloads that are views of large buffers, which would otherwise be cloned entirely. */
function compactOperation([name, ...args]: FileOperation): FileOperation {
  if (name === "append") {
    return [name, compactPublication(args[0] as Publication), ...args.slice(1)];
  }
  if (name !== "changeLog") return [name, ...args];
  const [id, change, options, now] = args as Parameters<FileCalls["changeLog"]>;
  if (!("records" in options)) return [name, ...args];
  return [name, id, change, { ...options, records: options.records.map(compact) }, now];
}
