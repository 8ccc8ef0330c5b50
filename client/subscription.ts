/**
 * A topic as a client reads it.
 *
 * @module
 */
import { QueueFullError } from "../errors.ts";
import { checkLoop } from "../session/one_loop.ts";
import type { AnyContract, SendTopic, TopicMessage } from "../session/contract.ts";
import { ReceiveQueue } from "../session/queue/receive_queue.ts";
import type {
  HistoryOptions,
  HistoryPosition,
  Recovery,
  SubscribeAnswer,
} from "../session/wire/recovery.ts";
import { lasting } from "./chunks.ts";
import { StatusFeed } from "../session/base/status_feed.ts";
import type { Incoming, TopicNote } from "../session/incoming.ts";

/** Messages and bytes that wait for a reader who is slow. */
const LIMITS = { maxMessages: 4096, maxBytes: 1_048_576 };

/**
 * How a subscription is doing. Between `lost` and `subscribed` messages may
 * have been missed; of a topic with a history they follow, or {@linkcode ClientSubscribeOptions.onRecovery}
 * is told why not.
 */
export type SubscriptionStatus = "pending" | "subscribed" | "lost" | "ended";

/** Options for subscribing; all but `onRecovery` are of use only for a topic with a history. */
export interface ClientSubscribeOptions extends HistoryOptions {
  /**
   * Called after each loss, with whether everything follows that was missed. It is called by the
   * loop, between the messages before and those after, and awaited; what it throws, the loop throws.
   * Nobody is told by default, and {@linkcode Subscription.recovery} says the same.
   */
  readonly onRecovery?: (recovery: Recovery) => void | Promise<void>;
}

/** All that comes of a topic, in order. */
export type TopicEvent =
  | Incoming
  | Exclude<TopicNote, { readonly kind: "unsubscribed" }>
  /** The server answered. */
  | { readonly kind: "answer" } & SubscribeAnswer
  /** The session is over, or the client moves to another one, and the client will ask again. */
  | { readonly kind: "lost" | "moved" };

/** What waits for the reader: a message, or what is to be done when it is its turn. */
export type Waiting = Incoming & { readonly position?: HistoryPosition } | (() => unknown);

/** How far the reader of a subscription is; see there. */
export interface Progress {
  position: HistoryPosition | undefined;
  head: number | undefined;
  recovery: Recovery | undefined;
}

/** How a subscription meets its client. */
export interface SubscriptionOwner {
  /** Checks a message against the contract. */
  check(incoming: Incoming): unknown;
  /** Asks the server for the topic, from where {@linkcode Subscription.from} says. */
  ask(): void;
  /** Ends the subscription at the server; rejects if that is not answered. */
  end(): Promise<void>;
}

/**
 * The messages of one topic. It lives across reconnects, and ends with
 * `unsubscribe`, with `await using`, or with its client.
 *
 * - **Apart:** its messages do not also reach the client's own iterator.
 * - **Several** of one topic get each message, and share its data. The last one that ends leaves the
 *   topic. One with `last` or `since` asks the server again, and the others see nothing twice.
 * - **Reader:** one loop at a time.
 * - **Refused:** once it was in force, a refusal that holds for now (`too-many`, `unavailable`, no
 *   answer in time) is followed by another attempt. Every other one ends it, and so does any before,
 *   unless it is that of a rate which says when to come back, within 30 s.
 * - **Removed:** where the server takes the client off the topic, the loop ends with a
 *   {@linkcode RequestError} of the server's code after what came before. The codes `too-many` and
 *   `unavailable` are followed by another attempt.
 * - **Superseded:** where the server began the subscription anew meanwhile, the client asks again.
 * - **History:** of a topic that has one, what was missed during a loss follows, each message once
 *   and in order, or `onRecovery` is told that it does not.
 * - **Bound:** a reader who falls more than 4,096 messages or 1 MiB behind gets
 *   a {@linkcode QueueFullError} after what waits, never a silent gap.
 *
 * @typeParam C The contract.
 * @typeParam T The topic, which narrows the messages.
 */
export class Subscription<
  C extends AnyContract = AnyContract,
  T extends string = SendTopic<C, "server">,
> implements AsyncIterable<TopicMessage<C, T>>, AsyncDisposable {
  /** The topic. */
  readonly topic: string;
  /** Resolves once the server confirmed it first; rejects if it refused. */
  readonly ready: Promise<void>;
  /** How it is doing: `current`, and each change for a loop or by `subscribe`. */
  readonly status: StatusFeed<SubscriptionStatus> = new StatusFeed<SubscriptionStatus>("pending");

  /**
   * The position of what the loop came to last, of a topic with a history: handed in as `since`
   * later, also by another client, it goes on after that.
   */
  declare readonly position: HistoryPosition | undefined;
  /**
   * The newest offset of the topic when the server answered last: who read it has caught up.
   * `undefined` for a topic without history.
   */
  declare readonly head: number | undefined;
  /**
   * What came of the last loss that the loop came to; `undefined` before the first one. For a topic
   * without history there is one only with `onRecovery`.
   */
  declare readonly recovery: Recovery | undefined;

  readonly #owner: SubscriptionOwner;
  readonly #options: ClientSubscribeOptions;
  readonly #queue = new ReceiveQueue<Waiting>(LIMITS, 1);
  readonly #ready = Promise.withResolvers<void>();
  /** Puts in order what comes of a topic with a history. */
  /** Puts the messages of a topic with a history in order. */
  #resume: {
    readonly from: HistoryOptions;
    receive(event: TopicEvent, size: number): void;
    serve(answer: SubscribeAnswer): boolean;
  } | undefined;
  #error: unknown;
  /** True once it knows if it has to put messages in order. */
  #isPrepared = false;
  #isIterated = false;

  /** Creates a subscription; `client.subscribe` does. */
  constructor(topic: string, owner: SubscriptionOwner, options: ClientSubscribeOptions = {}) {
    this.topic = topic;
    this.#owner = owner;
    this.#options = options;
    // `null` is what a page reads that stored none yet.
    this.position = options.since ?? undefined;
    this.ready = this.#ready.promise;
    this.ready.catch(() => {});
  }

  /** Whether it is over. */
  get isEnded(): boolean {
    return this.#queue.isEnded;
  }

  /**
   * Takes what comes of the topic.
   *
   * @ignore
   */
  offer(event: TopicEvent, size: number = 0): void {
    if (this.#resume) this.#resume.receive(event, size);
    else if (event.kind === "message") this.put(event, size);
    else if (event.kind === "answer") this.confirm();
  }

  /**
   * Takes an answer of the server to another subscription of the topic.
   *
   * @returns Whether all that this one is to get follows; if not, it needs an answer of its own.
   * @ignore
   */
  serve(answer: SubscribeAnswer): boolean {
    if (this.#resume) return this.#resume.serve(answer);
    // The code for histories is loaded with the first question of its own.
    if (this.#isPrepared) this.confirm();
    return this.#isPrepared;
  }

  /** The session is over, and the client will ask again; called by the client. */
  lose(isMove?: boolean): void {
    if (!isMove && this.status.current === "subscribed") this.status.set("lost");
    this.offer({ kind: isMove ? "moved" : "lost" });
  }

  /**
   * Keeps something for the reader.
   *
   * @ignore
   */
  put(next: Waiting, size: number): void {
    if (this.#queue.offer(next, size)) return;
    this.end(new QueueFullError(`Cannot keep up: the reader of "${this.topic}" fell behind`));
    // The reader is told why it ended; that the server did not answer changes nothing of it.
    this.#owner.end().catch(() => {});
  }

  /**
   * It is in force.
   *
   * @ignore
   */
  confirm(): void {
    this.#ready.resolve();
    this.status.set("subscribed");
  }

  /**
   * From where on the server is asked; what is needed for histories is loaded before.
   *
   * @ignore
   */
  async from(hasHistories: boolean | undefined): Promise<HistoryOptions> {
    const { since, last, onRecovery } = this.#options;
    if (hasHistories || since || last || onRecovery) {
      const { Resume } = await lasting();
      this.#resume ??= new Resume(this, this.#owner, this.#options);
    }
    this.#isPrepared = true;
    return this.#resume?.from ?? {};
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
    checkLoop("subscription", this.#isIterated);
    this.#isIterated = true;
    try {
      while (true) {
        const next = this.#queue.take();
        if (typeof next === "function") await next();
        else if (next !== undefined) {
          if (next.position) (this as Progress).position = next.position;
          const message = await this.#owner.check(next);
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
