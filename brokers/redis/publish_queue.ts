/** Publications on their way to Redis. */
import type { Buffer } from "node:buffer";
import { BrokerError } from "../../errors.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { WaitingBudget, type WaitingLimits } from "../../pubsub/engine/queue.ts";
import type { Appended, HistoryBounds, PublicationKey } from "../../pubsub/broker.ts";

/**
 * Result of a command that failed:
 *
 * - `later`: Redis did not run the command, and may run a repetition.
 * - `refused`: Redis did not run the command, and never will.
 * - `unknown`: Redis may have run the command.
 */
type Failure = "later" | "refused" | "unknown";

/** First words of errors that pass: Redis starts, fails over, moves slots, or is full. */
const PASSING: ReadonlySet<string> = new Set([
  "ASK",
  "BUSY",
  "CLUSTERDOWN",
  "LOADING",
  "MASTERDOWN",
  "MISCONF",
  "MOVED",
  "NOREPLICAS",
  "OOM",
  "READONLY",
  "TRYAGAIN",
]);

/** Errors of the client library for commands that were not written. */
const UNSENT = /^(?:Stream isn't writeable|Cluster isn't ready|Too many Cluster redirections)/;

/** Tells if Redis ran a command that failed. */
export function failureOf(error: unknown): Failure {
  if (!(error instanceof Error)) return "unknown";
  if (UNSENT.test(error.message)) return "later";
  if (error.name !== "ReplyError") return "unknown";
  return PASSING.has(error.message.split(" ", 1)[0]!) ? "later" : "refused";
}

/** Most publications of one command. */
const BATCH = 128;

/** Most bytes of one command, unless one publication alone has more. */
const BATCH_BYTES = 262_144;

/** Wait before a failed batch is sent again, in milliseconds. */
const RETRY_MS = 100;

/** Checks for overdue publications in each `giveUpMs`. */
const CHECKS = 10;

/** Additions to a publication on a topic with a history. */
interface AppendRequest {
  readonly bounds: HistoryBounds;
  readonly key: PublicationKey;
  /** Identifies the publication; part of the frame too. */
  readonly tag: string;
  readonly appended: PromiseWithResolvers<Appended>;
}

/** One publication on its way. */
export interface Outgoing {
  readonly frame: Buffer;
  /** Number of checks before this publication came. */
  readonly check: number;
  readonly kept?: AppendRequest;
  /** `true` once the publication was taken or given up. */
  isOver: boolean;
  /** Called once the publication is over, and Redis has neither this nor an earlier one. */
  onOver?: () => void;
}

/** A publication with a history on its way. */
export type OutgoingAppend = Outgoing & { readonly kept: AppendRequest };

/** Sends batches to Redis. */
export interface BatchSender {
  /** `true` while commands can reach Redis. */
  readonly isReady: boolean;
  /** Publishes on a topic without history. */
  publish(topic: string, items: readonly Outgoing[]): Promise<unknown>;
  /** Appends to a history; returns the result of each publication. */
  append(topic: string, items: readonly OutgoingAppend[]): Promise<Appended[]>;
}

/** Bounds of a {@linkcode PublishQueue}. */
interface PublishQueueLimits extends WaitingLimits {
  readonly giveUpMs: number;
}

/**
 * The waiting publications of one topic. At most one batch is with Redis, which keeps the order.
 */
interface TopicQueue {
  readonly topic: string;
  readonly isKept: boolean;
  waiting: Outgoing[];
  isSending: boolean;
  /** The batch that is with Redis. */
  sent: readonly Outgoing[];
}

/**
 * Keeps publications until Redis took them, in order by topic. The first one of a topic goes at the
 * end of the turn; publications that come while a batch is under way go together in the next one.
 */
export class PublishQueue {
  readonly #runtime: Runtime;
  readonly #sender: BatchSender;
  readonly #limits: PublishQueueLimits;
  readonly #onTrouble: (error: unknown) => void;
  readonly #plain = new Map<string, TopicQueue>();
  readonly #kept = new Map<string, TopicQueue>();
  readonly #due = new Set<TopicQueue>();
  #check = 0;
  readonly #budget: WaitingBudget;
  #dropped = 0;
  #isScheduled = false;
  #isClosed = false;
  #retry: Timer | undefined;
  #checks: Timer | undefined;
  #whenEmpty: (() => void) | undefined;

  /**
   * Creates an empty queue.
   *
   * @param runtime Runtime that has the timers.
   * @param sender Sends batches.
   * @param limits See {@linkcode PublishQueueLimits}.
   * @param onTrouble Called with each error that passes, and with `undefined` when Redis took a
   *   batch or no publication waits.
   */
  constructor(
    runtime: Runtime,
    sender: BatchSender,
    limits: PublishQueueLimits,
    onTrouble: (error: unknown) => void,
  ) {
    this.#runtime = runtime;
    this.#sender = sender;
    this.#limits = limits;
    this.#budget = new WaitingBudget(limits);
    this.#onTrouble = onTrouble;
  }

  /** Publications that wait for Redis or for its answer. */
  get waiting(): number {
    return this.#budget.messages;
  }

  /** Publications that were given up. */
  get dropped(): number {
    return this.#dropped;
  }

  /**
   * Takes a publication, or gives it up at once if too many wait.
   *
   * @returns `true` if the publication was taken.
   */
  push(topic: string, frame: Buffer, kept?: AppendRequest): boolean {
    if (this.#isClosed || !this.#budget.take(frame.length)) {
      const why = this.#isClosed ? "the broker is closed" : "too many publications wait for Redis";
      this.#dropped++;
      kept?.appended.reject(new BrokerError(`Cannot append: ${why}`));
      return false;
    }
    this.#checks ??= this.#startChecks();
    const queues = kept === undefined ? this.#plain : this.#kept;
    let topicQueue = queues.get(topic);
    if (topicQueue === undefined) {
      topicQueue = { topic, isKept: kept !== undefined, waiting: [], isSending: false, sent: [] };
      queues.set(topic, topicQueue);
    }
    const check = this.#check;
    topicQueue.waiting.push({
      frame,
      check,
      isOver: false,
      ...(kept === undefined ? {} : { kept }),
    });
    this.#schedule(topicQueue);
    return true;
  }

  /**
   * Calls back once all publications so far on a topic without history are taken or given up; in
   * this turn if none is on its way. A given-up publication that Redis has counts until its answer,
   * since Redis may run the command late, or until the connection is lost. A later callback replaces
   * one that waits for the same publication.
   */
  afterPublished(topic: string, then: () => void): void {
    const topicQueue = this.#plain.get(topic);
    const last = topicQueue?.waiting.at(-1) ?? topicQueue?.sent.at(-1);
    if (last === undefined) then();
    else last.onOver = then;
  }

  /** Sends the waiting publications when Redis is back. */
  wake(): void {
    for (const queues of [this.#plain, this.#kept]) {
      for (const topicQueue of queues.values()) this.#schedule(topicQueue);
    }
  }

  /** Resolves once no publication waits. */
  empty(): Promise<void> {
    if (this.waiting === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenEmpty = resolve);
  }

  /** Gives up all waiting publications. */
  close(): void {
    this.#isClosed = true;
    this.#runtime.clearTimeout(this.#retry);
    this.#giveUp(() => true, "the broker is closed");
  }

  #schedule(topicQueue: TopicQueue): void {
    if (topicQueue.isSending) return;
    this.#due.add(topicQueue);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => {
      this.#isScheduled = false;
      const queues = [...this.#due];
      this.#due.clear();
      for (const due of queues) void this.#send(due);
    });
  }

  async #send(topicQueue: TopicQueue): Promise<void> {
    if (topicQueue.isSending) return;
    topicQueue.isSending = true;
    while (topicQueue.waiting.length > 0 && this.#sender.isReady && !this.#isClosed) {
      const batch = takeBatch(topicQueue.waiting);
      topicQueue.sent = batch;
      const isDone = await this.#try(topicQueue, batch);
      topicQueue.sent = [];
      for (const { isOver, onOver } of batch) if (isOver) onOver?.();
      if (isDone) continue;
      topicQueue.waiting = [...batch.filter(({ isOver }) => !isOver), ...topicQueue.waiting];
      // All of the batch may have been given up before the answer.
      if (this.waiting === 0) this.#onTrouble(undefined);
      this.#retry ??= this.#runtime.setTimeout(() => {
        this.#retry = undefined;
        this.wake();
      }, RETRY_MS);
      break;
    }
    topicQueue.isSending = false;
    if (topicQueue.waiting.length > 0) return;
    (topicQueue.isKept ? this.#kept : this.#plain).delete(topicQueue.topic);
  }

  /** Sends a batch; `false` if the batch has to be sent again. */
  async #try({ topic, isKept }: TopicQueue, batch: readonly Outgoing[]): Promise<boolean> {
    try {
      if (isKept) {
        const answers = await this.#sender.append(topic, batch as readonly OutgoingAppend[]);
        batch.forEach((item, i) => {
          if (this.#settle(item)) item.kept?.appended.resolve(answers[i]!);
        });
      } else {
        await this.#sender.publish(topic, batch);
        for (const item of batch) this.#settle(item);
      }
      this.#onTrouble(undefined);
      return true;
    } catch (error) {
      const failure = failureOf(error);
      this.#onTrouble(failure === "refused" ? undefined : error);
      // A plain publication that Redis may have taken would come twice; keys protect the others.
      if (failure === "later" || (failure === "unknown" && isKept)) return false;
      for (const item of batch) this.#drop(item, "Redis refused the publication", error);
      return true;
    }
  }

  /** Ends the wait of a publication; `false` if the wait was over before. */
  #settle(item: Outgoing): boolean {
    if (item.isOver) return false;
    item.isOver = true;
    this.#budget.give(item.frame.length);
    if (this.waiting > 0) return true;
    this.#runtime.clearTimeout(this.#checks);
    this.#checks = undefined;
    this.#onTrouble(undefined);
    this.#whenEmpty?.();
    return true;
  }

  #drop(item: Outgoing, why: string, cause?: unknown): void {
    if (!this.#settle(item)) return;
    this.#dropped++;
    item.kept?.appended.reject(new BrokerError(`Cannot append: ${why}`, { cause }));
  }

  #startChecks(): Timer {
    return this.#runtime.setTimeout(() => {
      this.#checks = this.#startChecks();
      this.#giveUpOld();
    }, this.#limits.giveUpMs / CHECKS);
  }

  #giveUpOld(): void {
    const now = ++this.#check;
    this.#giveUp(({ check }) => now - check > CHECKS, "Redis was away for too long");
  }

  #giveUp(isDue: (item: Outgoing) => boolean, why: string): void {
    for (const queues of [this.#plain, this.#kept]) {
      for (const topicQueue of queues.values()) {
        for (const item of topicQueue.sent) if (isDue(item)) this.#drop(item, why);
        const stay = topicQueue.waiting.findIndex((item) => !isDue(item));
        const gone = topicQueue.waiting.splice(0, stay < 0 ? topicQueue.waiting.length : stay);
        const last = topicQueue.sent.at(-1);
        for (const item of gone) {
          this.#drop(item, why);
          if (item.onOver === undefined) continue;
          if (last === undefined) item.onOver();
          else last.onOver = item.onOver;
        }
        if (!topicQueue.isSending && topicQueue.waiting.length === 0) {
          queues.delete(topicQueue.topic);
        }
      }
    }
  }
}

/** Takes the publications of the next command. */
function takeBatch(waiting: Outgoing[]): Outgoing[] {
  let count = 0;
  for (let bytes = 0; count < waiting.length && count < BATCH; count++) {
    bytes += waiting[count]!.frame.length;
    if (bytes > BATCH_BYTES && count > 0) break;
  }
  return waiting.splice(0, count);
}
