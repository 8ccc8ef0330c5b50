/**
 * A topic as a client reads it.
 *
 * @module
 */
import { QueueFullError } from "../errors.ts";
import type { AnyContract, SendTopic, TopicMessage } from "./contract.ts";
import type { Incoming, TopicSink } from "./inbound.ts";
import { ReceiveQueue } from "./receive_queue.ts";
import { StatusFeed } from "./status_feed.ts";

/** Messages and bytes that wait for a reader who is slow. */
const LIMITS = { maxMessages: 4096, maxBytes: 1_048_576 };

/**
 * How a subscription is doing. Between `lost` and `subscribed` messages may
 * have been missed.
 */
export type SubscriptionStatus = "pending" | "subscribed" | "lost" | "ended";

/** How a subscription meets its client. */
export interface SubscriptionOwner {
  /** Checks a message against the contract. */
  check(incoming: Incoming): unknown;
  /** Ends the subscription at the server; rejects if that is not answered. */
  end(): Promise<void>;
}

/**
 * The messages of one topic. It lives across reconnects, and ends with
 * `unsubscribe`, with `await using`, or with its client.
 *
 * - **Apart:** its messages do not also reach the client's own iterator.
 * - **Reader:** one loop at a time.
 * - **Bound:** a reader who falls more than 4,096 messages or 1 MiB behind gets
 *   a {@linkcode QueueFullError} after what waits, never a silent gap.
 *
 * @typeParam C The contract.
 * @typeParam T The topic, which narrows the messages.
 */
export class Subscription<
  C extends AnyContract = AnyContract,
  T extends string = SendTopic<C, "server">,
> implements AsyncIterable<TopicMessage<C, T>>, AsyncDisposable, TopicSink {
  /** The topic. */
  readonly topic: string;
  /** Resolves once the server confirmed it first; rejects if it refused. */
  readonly ready: Promise<void>;
  /** How it is doing: `current`, and each change as an async iterable. */
  readonly status: StatusFeed<SubscriptionStatus> = new StatusFeed<SubscriptionStatus>("pending");

  readonly #owner: SubscriptionOwner;
  readonly #queue = new ReceiveQueue<Incoming>(LIMITS, 1);
  readonly #ready = Promise.withResolvers<void>();
  #error: unknown;
  #isIterated = false;

  /** Creates a subscription; `client.subscribe` does. */
  constructor(topic: string, owner: SubscriptionOwner) {
    this.topic = topic;
    this.#owner = owner;
    this.ready = this.#ready.promise;
    this.ready.catch(() => {});
  }

  /** Whether it is over. */
  get isEnded(): boolean {
    return this.#queue.isEnded;
  }

  /** Takes a message off the session; called by the client. */
  offer(incoming: Incoming, size: number): boolean {
    if (this.#queue.offer(incoming, size)) return true;
    this.end(new QueueFullError(`Cannot keep up: the reader of "${this.topic}" fell behind`));
    // The reader is told why it ended; that the server did not answer changes nothing of it.
    this.#owner.end().catch(() => {});
    return false;
  }

  /** The server confirmed; called by the client. */
  confirm(): void {
    this.#ready.resolve();
    this.status.set("subscribed");
  }

  /** The session is over, and the client will ask again; called by the client. */
  lose(): void {
    if (this.status.current === "subscribed") this.status.set("lost");
  }

  /** Ends it from this side of the wire; called by the client. */
  end(error?: unknown): void {
    this.#error ??= error;
    this.#ready.reject(error ?? new DOMException("The subscription ended", "AbortError"));
    this.#queue.end();
    this.status.end("ended");
  }

  /**
   * Leaves the topic. Idempotent.
   *
   * @throws {TimeoutError} If the server does not answer; the subscription has ended all the same.
   */
  async unsubscribe(): Promise<void> {
    if (this.isEnded) return;
    this.end();
    await this.#owner.end();
  }

  /** Leaves the topic; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.unsubscribe();
  }

  /**
   * Yields the topic's messages until it ends. Leaving the loop does not unsubscribe.
   *
   * @returns The messages, checked against the contract.
   * @throws {TypeError} If another loop runs.
   * @throws What ended it: a refusal, or that the reader fell behind.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<TopicMessage<C, T>, void, undefined> {
    if (this.#isIterated) {
      throw new TypeError("Cannot iterate over subscription: its messages go to another loop");
    }
    this.#isIterated = true;
    try {
      while (true) {
        const incoming = this.#queue.take();
        if (incoming !== undefined) {
          const message = await this.#owner.check(incoming);
          if (message !== undefined) yield message as TopicMessage<C, T>;
        } else if (!this.#queue.isEnded) await this.#queue.changed();
        else if (this.#error !== undefined) throw this.#error;
        else return;
      }
    } finally {
      this.#isIterated = false;
    }
  }
}
