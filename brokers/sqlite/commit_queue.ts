/** Operations that wait for a file, and go together as groups. */
import { textOf } from "../../base/error_text.ts";
import type { Runtime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import { Fifo, WaitingBudget, type WaitingLimits } from "../../pubsub/engine/queue.ts";
import { type CallName, type FileCalls, isWrite, type Operation, type Outcome } from "./file.ts";

/** Most operations of one group: a larger one would hold up the event loop for too long. */
const GROUP = 512;

/** Most bytes of one group, unless one operation alone has more. */
const GROUP_BYTES = 1_048_576;

/** The thread that has the file: this one, or a worker. */
export interface FileThread {
  /** Epoch of all histories. */
  readonly epoch: string;
  /** Runs a group; see `SqliteFile.run`. */
  run(operations: readonly Operation[], now: number): Outcome[] | Promise<Outcome[]>;
  /** Closes the file. */
  close(): void | Promise<void>;
}

/** Arguments of an operation. */
type Arguments<N extends CallName> = Parameters<FileCalls[N]>;

/** Result of an operation. */
type Result<N extends CallName> = ReturnType<FileCalls[N]>;

/** One operation on its way. */
interface Waiting {
  readonly operation: Operation;
  /** Bytes of the budget; `undefined` for an operation outside of the budget. */
  readonly bytes: number | undefined;
  readonly done: (value: unknown) => void;
  readonly failed: (error: BrokerError) => void;
}

/** Options for {@linkcode CommitQueue}. */
interface CommitQueueOptions extends WaitingLimits {
  readonly runtime: Runtime;
  readonly thread: FileThread;
  /** Called after each operation that changes the file, with the reason if it failed. */
  readonly onOutcome: (failure: string | undefined) => void;
}

/**
 * Gathers operations until the end of the turn, and while a group is under way. Each group is one
 * transaction, so that one sync to the disk serves all operations of the group.
 *
 * - **Order:** operations take effect, and `done` is called, in the order of the calls; reads come
 *   after the writes of their group.
 * - **Bounds:** further operations are refused while too many wait.
 */
export class CommitQueue {
  readonly #options: CommitQueueOptions;
  readonly #waiting = new Fifo<Waiting>();
  readonly #budget: WaitingBudget;
  #isScheduled = false;
  #isRunning = false;
  #isEnded = false;
  #whenEnded: (() => void) | undefined;

  constructor(options: CommitQueueOptions) {
    this.#options = options;
    this.#budget = new WaitingBudget(options);
  }

  /** Number of operations that wait for their outcome. */
  get waiting(): number {
    return this.#budget.messages;
  }

  /**
   * Calls an operation of the file.
   *
   * @param what The operation in words, for the error.
   * @param operation Name and arguments of the operation.
   * @param bytes Bytes of the payloads.
   * @throws {BrokerError} If the operation failed, or too many operations wait.
   */
  call<N extends CallName>(
    what: string,
    operation: readonly [name: N, ...args: Arguments<N>],
    bytes = 0,
  ): Promise<Result<N>> {
    return new Promise((done, failed) => {
      this.start(what, operation, { bytes, done, failed });
    });
  }

  /**
   * Starts an operation, whose outcome calls back at once after the commit: before the operations
   * after this one call back.
   */
  start<N extends CallName>(
    what: string,
    operation: readonly [name: N, ...args: Arguments<N>],
    { bytes, done, failed }: {
      readonly bytes: number;
      readonly done: (value: Result<N>) => void;
      readonly failed: (error: BrokerError) => void;
    },
  ): void {
    if (this.#isEnded) {
      return failed(new BrokerError(`Cannot ${what}: the broker is closed`));
    }
    if (!this.#budget.take(bytes)) {
      return failed(new BrokerError(`Cannot ${what}: too many operations wait for the file`));
    }
    this.#push({
      operation,
      bytes,
      done: done as (value: unknown) => void,
      failed: ({ message, cause }) =>
        failed(new BrokerError(`Cannot ${what}: ${message}`, { cause })),
    });
  }

  /** Notes a fact in the memory of the file's thread, which always has room. */
  note<N extends "follow" | "unfollow">(...operation: readonly [name: N, ...Arguments<N>]): void {
    if (!this.#isEnded) {
      this.#push({ operation, bytes: undefined, done: () => {}, failed: () => {} });
    }
  }

  /** Resolves once no operation waits; later ones are refused. */
  end(): Promise<void> {
    if (this.#isRunning || this.#waiting.length > 0) {
      return new Promise((resolve) => this.#whenEnded = resolve);
    }
    this.#isEnded = true;
    return Promise.resolve();
  }

  #push(waiting: Waiting): void {
    this.#waiting.push(waiting);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled || this.#isRunning) return;
    this.#isScheduled = true;
    this.#options.runtime.schedule(() => {
      this.#isScheduled = false;
      void this.#runGroup();
    });
  }

  async #runGroup(): Promise<void> {
    const { runtime, thread } = this.#options;
    const group = this.#takeGroup();
    this.#isRunning = true;
    let outcomes: Outcome[];
    try {
      outcomes = await thread.run(group.map(({ operation }) => operation), runtime.now());
    } catch (error) {
      outcomes = group.map(() => ["failed", textOf(error)]);
    }
    group.forEach((waiting, i) => this.#settle(waiting, outcomes[i]!));
    this.#isRunning = false;
    if (this.#waiting.length > 0) return this.#schedule();
    if (this.#whenEnded === undefined) return;
    this.#isEnded = true;
    this.#whenEnded();
  }

  #settle({ operation: [name], bytes, done, failed }: Waiting, outcome: Outcome): void {
    if (bytes !== undefined) this.#budget.give(bytes);
    const isDone = outcome[0] === "done";
    if (isWrite(name)) this.#options.onOutcome(isDone ? undefined : outcome[1]);
    if (isDone) done(outcome[1]);
    else failed(new BrokerError(outcome[1]));
  }

  #takeGroup(): Waiting[] {
    const group: Waiting[] = [];
    let bytes = 0;
    for (let next = this.#waiting.first; next !== undefined; next = this.#waiting.first) {
      bytes += next.bytes ?? 0;
      if (group.length === GROUP || bytes > GROUP_BYTES && group.length > 0) break;
      group.push(next);
      this.#waiting.shift();
    }
    return group;
  }
}
