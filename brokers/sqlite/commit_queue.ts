/** Operations that wait for a file, and are run in groups. */
import { textOf } from "../../base/error_text.ts";
import type { Runtime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import { DamageError } from "../../pubsub/broker/damage.ts";
import {
  BrokerLine,
  BrokerOutbox,
  type Outgoing,
  TurnBatch,
  type WaitingLimits,
} from "../../pubsub/broker/queue.ts";
import {
  CALLS,
  type FileCallName,
  type FileCalls,
  type FileOperation,
  type OperationOutcome,
} from "./file.ts";

/**
 * Maximum number of operations in a group. A larger group would block the event loop for too long.
 */
const GROUP = 512;

/** Maximum size of a group in bytes, unless a single operation is larger. */
const GROUP_BYTES = 1_048_576;

/** The thread with the file: this one, or a worker. */
export interface FileThread {
  /** Epoch of all histories. */
  readonly epoch: string;
  /** Runs a group; see `SqliteFile.run`. */
  run(
    operations: readonly FileOperation[],
    now: number,
  ): OperationOutcome[] | Promise<OperationOutcome[]>;
  /** Closes the file. */
  close(): void | Promise<void>;
}

type OperationArguments<N extends FileCallName> = Parameters<FileCalls[N]>;

type OperationResult<N extends FileCallName> = ReturnType<FileCalls[N]>;

interface WaitingOperation extends Outgoing {
  readonly operation: FileOperation;
  readonly done: (value: unknown) => void;
  readonly failed: (error: BrokerError) => void;
}

/** Options for {@linkcode CommitQueue.call}. */
export interface CallOptions {
  /** Bytes of the payloads. */
  readonly bytes?: number | undefined;
  /** Description of the operation, for errors; by default, the description in the table. */
  readonly verb?: string | undefined;
}

/** Options of a call of the file that a signal can end. */
export type FileCallOptions = CallOptions & { readonly signal?: AbortSignal | undefined };

/** Calls the file, and returns the result of the operation. */
export type CallFile = <N extends FileCallName>(
  operation: readonly [name: N, ...args: OperationArguments<N>],
  options?: FileCallOptions,
) => Promise<OperationResult<N>>;

interface CommitQueueOptions extends WaitingLimits {
  readonly runtime: Runtime;
  readonly thread: FileThread;
  /** Called after each operation that changes the file, with the reason if it failed. */
  readonly onOutcome: (failure: string | undefined) => void;
}

/**
 * Gathers operations into groups, until the end of the turn or until the previous group is
 * complete. Each group is one transaction, so that all its operations share one sync to disk.
 *
 * - **Order:** operations take effect, and `done` is called, in the order of the calls; reads run
 *   after the writes of their group.
 * - **Bounds:** while too many operations wait, further ones are rejected.
 * - **A lost file:** while {@linkcode refusal} is set, writes are rejected, and reads continue.
 */
export class CommitQueue {
  readonly #options: CommitQueueOptions;
  readonly #outbox: BrokerOutbox;
  readonly #line: BrokerLine<WaitingOperation>;
  readonly #turn: TurnBatch;
  readonly #commit = (): void => void this.#runGroup();
  #isRunning = false;
  /** The reason why further operations that change the file are rejected. */
  refusal: string | undefined;

  constructor(options: CommitQueueOptions) {
    this.#options = options;
    const { runtime, maxWaiting, maxWaitingBytes } = options;
    const bounds = { maxWaiting, maxWaitingBytes };
    this.#outbox = new BrokerOutbox({
      runtime,
      broker: "the file",
      items: "operations",
      ...bounds,
    });
    this.#line = new BrokerLine(this.#outbox, ({ failed }, why) => failed(new BrokerError(why)));
    this.#turn = new TurnBatch(runtime);
  }

  /** Number of operations that wait for their outcome. */
  get waiting(): number {
    return this.#outbox.budget.messages;
  }

  /**
   * Runs an operation on the file.
   *
   * @param options See {@linkcode CallOptions}.
   * @throws {BrokerError} If the operation failed, or too many operations wait.
   */
  call<N extends FileCallName>(
    operation: readonly [name: N, ...args: OperationArguments<N>],
    { bytes, verb }: CallOptions = {},
  ): Promise<OperationResult<N>> {
    return new Promise((done, failed) => this.start(operation, { bytes, verb, done, failed }));
  }

  /**
   * Starts an operation that calls back with its outcome immediately after the commit, before later
   * operations do.
   */
  start<N extends FileCallName>(
    operation: readonly [name: N, ...args: OperationArguments<N>],
    { bytes = 0, verb = CALLS[operation[0]].verb, done, failed }: CallOptions & {
      readonly done: (value: OperationResult<N>) => void;
      readonly failed: (error: BrokerError) => void;
    },
  ): void {
    this.#push({
      operation,
      bytes,
      due: 0,
      isOver: false,
      done: done as (value: unknown) => void,
      failed: (error) => {
        const kind = error instanceof DamageError ? DamageError : BrokerError;
        failed(new kind(`Cannot ${verb}: ${error.message}`, { cause: error.cause }));
      },
    });
  }

  /** Records a fact in the memory of the file's thread, for which there is always room. */
  note<N extends "follow" | "unfollow">(
    ...operation: readonly [name: N, ...OperationArguments<N>]
  ): void {
    const quiet = { done: () => {}, failed: () => {} };
    this.#push({ operation, bytes: undefined, due: 0, isOver: false, ...quiet });
  }

  /** Resolves once no operation is waiting. Later operations are rejected. */
  async end(): Promise<void> {
    await this.#outbox.empty();
    this.#outbox.close();
  }

  #push(waiting: WaitingOperation): void {
    const { refusal } = this;
    if (refusal !== undefined && CALLS[waiting.operation[0]].effect === "write") {
      this.#options.onOutcome(refusal);
      return waiting.failed(new BrokerError(refusal));
    }
    if (this.#line.push(waiting)) this.#schedule();
  }

  #schedule(): void {
    if (!this.#isRunning) this.#turn.gather(this.#commit, 0);
  }

  async #runGroup(): Promise<void> {
    const { runtime, thread } = this.#options;
    const group = this.#line.takeBatch({ maxItems: GROUP, maxBytes: GROUP_BYTES });
    if (group.length === 0) return;
    this.#isRunning = true;
    let outcomes: OperationOutcome[];
    try {
      outcomes = await thread.run(group.map(({ operation }) => operation), runtime.now());
    } catch (error) {
      outcomes = group.map(() => ["failed", textOf(error)]);
    }
    group.forEach((waiting, i) => this.#settle(waiting, outcomes[i]!));
    this.#isRunning = false;
    if (this.#line.isWaiting) this.#schedule();
  }

  #settle(waiting: WaitingOperation, [kind, value]: OperationOutcome): void {
    this.#line.settle(waiting);
    if (kind === "damaged") return waiting.failed(new DamageError(value));
    const failure = kind === "failed" ? value : undefined;
    if (CALLS[waiting.operation[0]].effect === "write") this.#options.onOutcome(failure);
    if (failure === undefined) waiting.done(value);
    else waiting.failed(new BrokerError(failure));
  }
}
