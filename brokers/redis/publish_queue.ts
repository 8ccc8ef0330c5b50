/** Publications that are sent to Redis. */
import type { Buffer } from "node:buffer";
import { BrokerError, LimitError } from "../../errors.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { failureOf, refusalOf, whyOf } from "./failures.ts";
import {
  BrokerLine,
  BrokerOutbox,
  type Outgoing,
  type WaitingLimits,
} from "../../pubsub/broker/queue.ts";
import type { Appended, HistoryBounds, PublicationKey } from "../../pubsub/broker.ts";

/**
 * Maximum number of publications in one command, and maximum number of bytes unless a single
 * publication is larger.
 */
const BATCH = { maxItems: 128, maxBytes: 262_144 };

/** Wait before a failed batch is sent again, in milliseconds. */
const RETRY_MS = 100;

/** Additions to a publication on a topic with a history. */
interface AppendRequest {
  readonly bounds: HistoryBounds;
  readonly key: PublicationKey;
  /** True if the key is this node's own, for a publication without a key. */
  readonly isNode: boolean;
  /** Identifies the publication; also part of the frame. */
  readonly tag: string;
  readonly appended: PromiseWithResolvers<Appended>;
}

/** A publication to send. */
export interface OutgoingFrame extends Outgoing {
  readonly frame: Buffer;
  readonly line: TopicLine;
  readonly kept: AppendRequest | undefined;
  /** Called once the publication is done and Redis is processing neither it nor an earlier one. */
  onOver: (() => void) | undefined;
}

/** A publication with a history to send. */
export type OutgoingAppend = OutgoingFrame & { readonly kept: AppendRequest };

/** Sends batches to Redis. */
export interface BatchSender {
  /** True while commands can reach Redis. */
  readonly isReady: boolean;
  /** The reason why they can't, if known. */
  readonly outage: unknown;
  /** Publishes on a topic without history. */
  publish(topic: string, items: readonly OutgoingFrame[]): Promise<unknown>;
  /** Appends to a history, and returns the result of each publication, or why it was rejected. */
  append(topic: string, items: readonly OutgoingAppend[]): Promise<(Appended | LimitError)[]>;
}

interface PublishQueueOptions extends WaitingLimits {
  /** Clocks and timers of this node. */
  readonly runtime: Runtime;
  readonly sender: BatchSender;
  /** Time after which a publication is dropped, in milliseconds. */
  readonly giveUpMs: number;
  /** Called when Redis has accepted publications on a topic with a history. */
  readonly onAppended: () => void;
  /**
   * Called with each temporary error, and with `undefined` when Redis has accepted a batch or no
   * publication is waiting.
   */
  readonly onTrouble: (error: unknown) => void;
}

const NONE: readonly OutgoingFrame[] = [];

/**
 * The publications of one topic. Redis processes at most one batch at a time, which keeps the
 * order.
 */
class TopicLine extends BrokerLine<OutgoingFrame> {
  readonly topic: string;
  /** The lines of topics of the same kind, by topic. */
  readonly siblings: Map<string, TopicLine>;
  isSending = false;
  /** The in-flight batch, all of whose publications may have been dropped. */
  batch = NONE;

  constructor(
    outbox: BrokerOutbox,
    onDropped: (item: OutgoingFrame, why: string, cause?: unknown) => void,
    { topic, siblings }: Pick<TopicLine, "topic" | "siblings">,
  ) {
    super(outbox, onDropped);
    this.topic = topic;
    this.siblings = siblings;
    siblings.set(topic, this);
  }

  /** Ends the line if it is empty. */
  endIfIdle(): void {
    if (this.isSending || this.first !== undefined) return;
    this.siblings.delete(this.topic);
    this.leave();
  }
}

/**
 * Keeps publications until Redis has accepted them, in the order of the calls for each topic. A
 * topic's first publication is sent at the end of the turn. Publications that arrive while a batch
 * is in flight are sent together in the next batch.
 */
export class RedisPublishQueue {
  readonly #options: PublishQueueOptions;
  readonly #outbox: BrokerOutbox;
  readonly #plain = new Map<string, TopicLine>();
  readonly #kept = new Map<string, TopicLine>();
  /** Lines to send at the end of the turn. */
  readonly #due = new Set<TopicLine>();
  #retry: Timer | undefined;
  /** The reason why Redis did not accept the last batch. */
  #trouble: unknown;
  #rejection: string | undefined;

  /** @param options See {@linkcode PublishQueueOptions}. */
  constructor(options: PublishQueueOptions) {
    this.#options = options;
    this.#outbox = new BrokerOutbox({ ...options, broker: "Redis" });
  }

  /** Publications that wait for Redis or for its reply. */
  get waiting(): number {
    return this.#outbox.budget.messages;
  }

  /** The reason why Redis rejected the last batch permanently. */
  get rejection(): string | undefined {
    return this.#rejection;
  }

  /** Publications that were dropped. */
  get dropped(): number {
    return this.#outbox.dropped;
  }

  /**
   * Accepts a publication, or drops it immediately if too many are waiting.
   *
   * @returns True if the publication was accepted.
   */
  push(topic: string, frame: Buffer, kept?: AppendRequest): boolean {
    const siblings = kept === undefined ? this.#plain : this.#kept;
    const line = siblings.get(topic) ??
      new TopicLine(this.#outbox, this.#onDropped, { topic, siblings });
    const bytes = frame.length;
    const isTaken = line.push({
      frame,
      bytes,
      due: 0,
      isOver: false,
      line,
      kept,
      onOver: undefined,
    });
    if (isTaken) this.#schedule(line);
    return isTaken;
  }

  /**
   * Calls `then` once all publications so far on a topic without a history have been accepted or
   * dropped. If none is in flight, calls it in this turn. If Redis may have received a dropped
   * publication, this method waits until the reply arrives or the connection is lost, because Redis
   * may run the command late. A later callback replaces an earlier one that waits for the same
   * publication.
   */
  afterPublished(topic: string, then: () => void): void {
    const line = this.#plain.get(topic);
    const last = line?.last ?? line?.batch.at(-1);
    if (last === undefined) then();
    else last.onOver = then;
  }

  /** Sends the waiting publications when Redis is reachable again. */
  wake(): void {
    for (const lines of [this.#plain, this.#kept]) {
      for (const line of lines.values()) this.#schedule(line);
    }
  }

  /** Resolves once no publication waits. */
  empty(): Promise<void> {
    return this.#outbox.empty();
  }

  /** Drops all waiting publications. */
  close(): void {
    this.#options.runtime.clearTimeout(this.#retry);
    this.#outbox.close();
  }

  #schedule(line: TopicLine): void {
    if (line.isSending) return;
    if (this.#due.size === 0) queueMicrotask(() => this.#sendDue());
    this.#due.add(line);
  }

  #sendDue(): void {
    const lines = [...this.#due];
    this.#due.clear();
    for (const line of lines) void this.#send(line);
  }

  async #send(line: TopicLine): Promise<void> {
    if (line.isSending) return;
    line.isSending = true;
    while (line.isWaiting && this.#options.sender.isReady) {
      const batch = line.takeBatch(BATCH);
      line.batch = batch;
      const isDone = await this.#try(line, batch);
      line.batch = NONE;
      for (const { isOver, onOver } of batch) if (isOver) onOver?.();
      if (isDone) continue;
      line.rewind();
      // The whole batch may have been dropped before the reply.
      if (this.waiting === 0) this.#options.onTrouble(undefined);
      else this.#retryLater();
      break;
    }
    line.isSending = false;
    line.endIfIdle();
  }

  #retryLater(): void {
    this.#retry ??= this.#options.runtime.setTimeout(() => {
      this.#retry = undefined;
      this.wake();
    }, RETRY_MS);
  }

  /** Sends a batch. Resolves to false if it has to be sent again. */
  async #try(line: TopicLine, batch: readonly OutgoingFrame[]): Promise<boolean> {
    const { sender, onAppended, onTrouble } = this.#options;
    const isKept = line.siblings === this.#kept;
    try {
      if (isKept) {
        const replies = await sender.append(line.topic, batch as readonly OutgoingAppend[]);
        batch.forEach((item, i) => {
          if (!line.settle(item)) return;
          const reply = replies[i]!;
          if (reply instanceof LimitError) item.kept?.appended.reject(reply);
          else item.kept?.appended.resolve(reply);
        });
        onAppended();
      } else {
        await sender.publish(line.topic, batch);
        for (const item of batch) line.settle(item);
      }
      this.#trouble = this.#rejection = undefined;
      onTrouble(undefined);
      return true;
    } catch (error) {
      const failure = failureOf(error);
      this.#trouble = error;
      onTrouble(failure === "rejected" ? undefined : error);
      // Sending a plain publication again would duplicate it if Redis had accepted it; keys prevent
      // this for the others.
      if (failure === "later" || (failure === "unknown" && isKept)) return false;
      this.#rejection = whyOf(error);
      const why = `Redis rejected the publication: ${this.#rejection}`;
      for (const item of batch) line.drop(item, why, error);
      return true;
    }
  }

  readonly #onDropped = (
    item: OutgoingFrame,
    why: string,
    cause: unknown = this.#options.sender.outage ?? this.#trouble,
  ): void => {
    const { line, kept, onOver } = item;
    const refusal = refusalOf(cause);
    const text = refusal === undefined ? why : `${why}: ${refusal}`;
    kept?.appended.reject(new BrokerError(`Cannot append: ${text}`, { cause }));
    if (this.waiting === 0) this.#options.onTrouble(undefined);
    // The end of the batch calls back for its own publications.
    const sent = line.batch.at(-1);
    if (sent === undefined) onOver?.();
    else if (onOver !== undefined && !line.batch.includes(item)) sent.onOver = onOver;
    line.endIfIdle();
  };
}
