/**
 * Sends operations between two threads: one batch per turn, with credit and a queue that can be
 * bounded.
 */
import type { Runtime } from "../../base/runtime.ts";
import { Fifo, TurnBatch } from "../broker/queue.ts";

/**
 * Maximum number of bytes that one thread posts before the other has handled them. Ports have no
 * bound, so without credit, all messages would pile up in the memory of a slow thread.
 */
const MAX_UNDERWAY_BYTES = 1_048_576;

/**
 * Number of handled bytes after which credit is returned in a message of its own. A smaller credit
 * waits for the next batch.
 */
const CREDIT_BYTES = MAX_UNDERWAY_BYTES / 4;

/** Maximum size of a batch in bytes, unless a single operation is larger. */
const BATCH_BYTES = 65_536;

/** Operations that one thread posts to another, as one message. */
export type Batch<Operation> = readonly [
  /** Bytes of credit that the receiver returns once the operations are handled. */
  cost: number,
  /** Bytes of credit that the sender returns. */
  credit: number,
  operations: readonly Operation[],
];

/** Options for {@linkcode PortLink}. */
export interface PortLinkOptions<Out, In> {
  /** Calls back at the end of a turn. */
  readonly runtime: Runtime;
  /** Posts a batch to the other thread. */
  readonly post: (batch: Batch<Out>) => void;
  /** Returns the cost of an operation, the same on each call. */
  readonly costOf: (operation: Out) => number;
  /** Handles a batch. MUST call `done` once it is handled. MUST NOT throw. */
  readonly handle: (operations: readonly In[], done: () => void) => void;
  /** Called when the other thread has returned credit. */
  readonly onCredit?: (() => void) | undefined;
}

/**
 * One end of a link between two threads.
 *
 * - **Order:** operations arrive in the order of the calls.
 * - **Batches:** the operations of one turn are sent as one message, or as several of 64 KiB.
 * - **Bounds:** at most 1 MiB is in flight; everything else waits here. The owner of the link
 *   bounds the queue, with {@linkcode PortLink.waiting} and {@linkcode PortLink.drop}.
 */
export class PortLink<Out, In> {
  readonly #options: PortLinkOptions<Out, In>;
  readonly #queue = new Fifo<Out>();
  readonly #batch: TurnBatch;
  readonly #flushTurn = (): void => this.#flush(MAX_UNDERWAY_BYTES);
  #queuedBytes = 0;
  /** Bytes posted that have not been handled. */
  #underwayBytes = 0;
  /** Bytes handled here whose credit has not been returned. */
  #owedBytes = 0;
  #isHolding = false;

  /** @param options See {@linkcode PortLinkOptions}. */
  constructor(options: PortLinkOptions<Out, In>) {
    this.#options = options;
    this.#batch = new TurnBatch(options.runtime);
  }

  /** Number of waiting operations. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** Bytes of waiting operations. */
  get waitingBytes(): number {
    return this.#queuedBytes;
  }

  /** Sends an operation at the end of the turn, or once there is credit. */
  send(operation: Out): void {
    const cost = this.#options.costOf(operation);
    this.#queue.push(operation);
    this.#queuedBytes += cost;
    this.#batch.gather(this.#flushTurn, cost);
  }

  /** Posts all operations immediately, regardless of credit. Used for the last operations. */
  flush(): void {
    this.#flush(Infinity);
  }

  /** Handles a batch from the other thread. */
  take([cost, credit, operations]: Batch<In>): void {
    if (credit > 0) {
      this.#underwayBytes -= credit;
      this.#flush(MAX_UNDERWAY_BYTES);
      this.#options.onCredit?.();
    }
    if (operations.length === 0) return;
    this.#options.handle(operations, () => {
      this.#owedBytes += cost;
      this.#giveBack();
    });
  }

  /** Withholds credit, so that the other thread posts less; `false` returns it. */
  hold(isHolding: boolean): void {
    this.#isHolding = isHolding;
    this.#giveBack();
  }

  /** Drops waiting operations. */
  drop(isDropped: (operation: Out) => boolean): void {
    for (const operation of this.#queue.clear()) {
      if (isDropped(operation)) this.#queuedBytes -= this.#options.costOf(operation);
      else this.#queue.push(operation);
    }
  }

  #giveBack(): void {
    if (this.#isHolding || this.#owedBytes < CREDIT_BYTES) return;
    this.#options.post([0, this.#takeOwed(), []]);
  }

  #takeOwed(): number {
    if (this.#isHolding) return 0;
    const owed = this.#owedBytes;
    this.#owedBytes = 0;
    return owed;
  }

  #flush(maxUnderwayBytes: number): void {
    while (this.#queue.length > 0 && this.#underwayBytes < maxUnderwayBytes) {
      const operations: Out[] = [];
      let cost = 0;
      while (this.#queue.length > 0 && cost < BATCH_BYTES) {
        const operation = this.#queue.shift()!;
        cost += this.#options.costOf(operation);
        operations.push(operation);
      }
      this.#queuedBytes -= cost;
      this.#underwayBytes += cost;
      this.#options.post([cost, this.#takeOwed(), operations]);
    }
  }
}
