/** Operations between two threads: batches of a turn, with credit and a queue that can be bounded. */
import type { Runtime } from "../../base/runtime.ts";
import { Fifo, TurnBatch } from "../engine/queue.ts";

/**
 * Most bytes that one thread posts before the other thread has handled them. Ports have no bound of
 * their own: without credit, a thread that is behind would find all messages in its memory.
 */
const MAX_UNDERWAY_BYTES = 1_048_576;

/** Handled bytes after which credit goes back alone; less waits for the next batch. */
const CREDIT_BYTES = MAX_UNDERWAY_BYTES / 4;

/** Most bytes of one batch, unless one operation alone has more. */
const BATCH_BYTES = 65_536;

/** Operations that one thread posts to another, as one message. */
export type Batch<Operation> = readonly [
  /** Bytes that the receiver gives back once the operations are handled. */
  cost: number,
  /** Bytes that the sender gives back. */
  credit: number,
  operations: readonly Operation[],
];

/** Options for {@linkcode PortLink}. */
export interface PortLinkOptions<Out, In> {
  /** Calls back at the end of a turn. */
  readonly runtime: Runtime;
  /** Posts a batch to the other thread. */
  readonly post: (batch: Batch<Out>) => void;
  /** Returns the cost of an operation, the same at each call. */
  readonly costOf: (operation: Out) => number;
  /** Handles a batch. MUST call `done` once the batch is handled. MUST NOT throw. */
  readonly handle: (operations: readonly In[], done: () => void) => void;
  /** Called when the other thread has given credit back. */
  readonly onCredit?: (() => void) | undefined;
}

/**
 * One end of a link between two threads.
 *
 * - **Order:** operations arrive in the order of the calls.
 * - **Batches:** the operations of one turn are one message, or several of 64 KiB.
 * - **Bounds:** at most 1 MiB is under way; all else waits here. The owner of the link bounds the
 *   queue, by {@linkcode PortLink.waiting} and {@linkcode PortLink.drop}.
 */
export class PortLink<Out, In> {
  readonly #options: PortLinkOptions<Out, In>;
  readonly #queue = new Fifo<Out>();
  readonly #batch: TurnBatch;
  #queuedBytes = 0;
  /** Bytes posted and not handled yet. */
  #underwayBytes = 0;
  /** Bytes handled here and not given back yet. */
  #owedBytes = 0;
  #isHolding = false;

  /**
   * Creates a link without operations.
   *
   * @param options See {@linkcode PortLinkOptions}.
   */
  constructor(options: PortLinkOptions<Out, In>) {
    this.#options = options;
    this.#batch = new TurnBatch(options.runtime, () => this.#flush(MAX_UNDERWAY_BYTES));
  }

  /** Number of operations that wait here. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** Bytes of the operations that wait here. */
  get waitingBytes(): number {
    return this.#queuedBytes;
  }

  /** Sends an operation at the end of the turn, or once there is credit. */
  send(operation: Out): void {
    const cost = this.#options.costOf(operation);
    this.#queue.push(operation);
    this.#queuedBytes += cost;
    this.#batch.gather(cost);
  }

  /** Posts all operations at once, without regard to credit: for the last ones. */
  flush(): void {
    this.#flush(Infinity);
  }

  /** Takes a batch of the other thread. */
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

  /** Keeps credit back, so that the other thread posts less; `false` gives the credit back. */
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
