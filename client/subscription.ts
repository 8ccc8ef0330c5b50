/** Subscription of a client to one topic, with recovery where the topic has a history. */
import { QueueFullError } from "../errors.ts";
import { checkLoop } from "../session/inbound.ts";
import type { AnyContract, SendTopic, TopicMessage } from "../session/contract.ts";
import { ReceiveQueue } from "../session/queue/receive_queue.ts";
import type {
  HistoryOptions,
  HistoryPosition,
  Recovery,
  RecoveryReason,
  SubscribeAnswer,
} from "../session/wire/recovery.ts";
import { StatusFeed } from "../base/status_feed.ts";
import type { Incoming, TopicNote } from "../session/message.ts";

/** Most messages and bytes that wait for a slow reader. */
const LIMITS = { maxMessages: 4096, maxBytes: 1_048_576 };

/** Most requests in a row for missing messages without any progress. */
const MAX_REPAIRS = 5;

/**
 * Status of a subscription. Between `lost` and `subscribed`, the client may miss messages. For a
 * topic with a history, the missed messages follow, or
 * {@linkcode ClientSubscribeOptions.onRecovery} receives the reason why not.
 */
export type SubscriptionStatus = "pending" | "subscribed" | "lost" | "ended";

/** Options for subscribing. All but `onRecovery` matter only for a topic with a history. */
export interface ClientSubscribeOptions extends HistoryOptions {
  /**
   * Called after each loss; the argument tells if all missed messages follow. The loop over the
   * subscription calls and awaits this function between the messages before the loss and the
   * messages after the loss, and throws any error of the function. Absent by default;
   * {@linkcode Subscription.recovery} has the same information.
   */
  readonly onRecovery?: (recovery: Recovery) => void | Promise<void>;
}

/** Events of a topic, in order. */
export type TopicEvent =
  | Incoming
  | Exclude<TopicNote, { readonly kind: "unsubscribed" }>
  /** The server answered a request to subscribe. */
  | { readonly kind: "answer" } & SubscribeAnswer
  /** The session ended, or the client moves to another session; the client will subscribe again. */
  | { readonly kind: "lost" | "moved" };

/** An item in the queue of the reader: a message, or a function to call in turn. */
export type Waiting = Incoming & { readonly position?: HistoryPosition } | (() => unknown);

/** Progress of a subscription's reader; {@linkcode Subscription} explains the fields. */
export interface Progress {
  position: HistoryPosition | undefined;
  head: number | undefined;
  recovery: Recovery | undefined;
}

/** The client as a subscription uses it. */
export interface SubscriptionOwner {
  /** Checks a message against the contract. */
  check(incoming: Incoming): unknown;
  /**
   * Asks the server for the topic, from the position that {@linkcode Subscription.from} returns.
   */
  ask(): void;
  /** Ends the subscription at the server; rejects if the server does not answer. */
  end(): Promise<void>;
}

/**
 * The messages of one topic. A subscription survives reconnects, and ends with `unsubscribe`, with
 * `await using`, or with the client.
 *
 * - **Separate:** the messages do not also reach the client's own iterator.
 * - **Several:** all subscriptions to one topic get each message and share the message's data. The
 *   end of the last subscription leaves the topic. A new subscription with `last` or `since` asks
 *   the server again; the other subscriptions get no message twice.
 * - **Reader:** one loop at a time.
 * - **Refused:** after the server first confirmed the subscription, a temporary refusal
 *   (`too-many`, `unavailable`, no answer in time) leads to another attempt; any other refusal ends
 *   the subscription. Before that, every refusal ends the subscription, except a rate limit that
 *   allows a retry within 30 s.
 * - **Removed:** if the server takes the client off the topic, the loop yields the earlier
 *   messages, then throws a {@linkcode RequestError} with the server's code. The codes `too-many`
 *   and `unavailable` lead to another attempt instead.
 * - **Superseded:** if the server meanwhile began the subscription anew, the client asks again.
 * - **History:** for a topic with a history, messages missed during a loss follow, each once and in
 *   order, or `onRecovery` reports the failure.
 * - **Bound:** a reader that falls more than 4,096 messages or 1 MiB behind gets a
 *   {@linkcode QueueFullError} after the queued messages, never a silent gap.
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
  /** Resolves when the server first confirms the subscription; rejects if the server refuses. */
  readonly ready: Promise<void>;
  /** The status: `current`, and each change for a loop or by `subscribe`. */
  readonly status: StatusFeed<SubscriptionStatus> = new StatusFeed<SubscriptionStatus>("pending");

  /**
   * The position of the last message that the loop reached, for a topic with a history. A later
   * subscription with this position as `since`, also of another client, continues after that
   * message.
   */
  declare readonly position: HistoryPosition | undefined;
  /**
   * The newest offset of the topic at the server's last answer: a reader at this offset has caught
   * up. `undefined` for a topic without history.
   */
  declare readonly head: number | undefined;
  /**
   * The outcome of the last loss that the loop reached; `undefined` before the first loss. For a
   * topic without history, set only with `onRecovery`.
   */
  declare readonly recovery: Recovery | undefined;

  readonly #owner: SubscriptionOwner;
  readonly #options: ClientSubscribeOptions;
  readonly #queue = new ReceiveQueue<Waiting>(LIMITS, 1);
  readonly #ready = Promise.withResolvers<void>();
  /** Puts the messages of a topic with a history in order. */
  #resume: Resume | undefined;
  #error: unknown;
  /** True once the subscription knows if `#resume` is needed. */
  #isPrepared = false;
  #isIterated = false;

  /** Creates a subscription; `client.subscribe` does. */
  constructor(topic: string, owner: SubscriptionOwner, options: ClientSubscribeOptions = {}) {
    this.topic = topic;
    this.#owner = owner;
    this.#options = options;
    // `null` comes from storage in which a page has not stored a position yet.
    this.position = options.since ?? undefined;
    this.ready = this.#ready.promise;
    this.ready.catch(() => {});
  }

  /** True if the subscription has ended. */
  get isEnded(): boolean {
    return this.#queue.isEnded;
  }

  /**
   * Takes an event of the topic.
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
   * @returns True if the answer covers all that this subscription needs; false if this subscription
   *   needs an answer of its own.
   * @ignore
   */
  serve(answer: SubscribeAnswer): boolean {
    if (this.#resume) return this.#resume.serve(answer);
    // The subscription's own first request decides if the topic has a history.
    if (this.#isPrepared) this.confirm();
    return this.#isPrepared;
  }

  /** Notes the end of the session, after which the client will ask again; called by the client. */
  lose(isMove?: boolean): void {
    if (!isMove && this.status.current === "subscribed") this.status.set("lost");
    this.offer({ kind: isMove ? "moved" : "lost" });
  }

  /**
   * Queues a message or a function for the reader.
   *
   * @ignore
   */
  put(next: Waiting, size: number): void {
    if (this.#queue.offer(next, size)) return;
    this.end(new QueueFullError(`Cannot keep up: the reader of "${this.topic}" fell behind`));
    // The reader gets the error above, even if the server does not answer.
    this.#owner.end().catch(() => {});
  }

  /**
   * Notes that the subscription is in force.
   *
   * @ignore
   */
  confirm(): void {
    this.#ready.resolve();
    this.status.set("subscribed");
  }

  /**
   * Returns the position from which to ask the server.
   *
   * @ignore
   */
  from(hasHistories: boolean | undefined): HistoryOptions {
    const { since, last, onRecovery } = this.#options;
    if (hasHistories || since || last || onRecovery) {
      this.#resume ??= new Resume(this, this.#owner, this.#options);
    }
    this.#isPrepared = true;
    return this.#resume?.from ?? {};
  }

  /** Ends the subscription at this end only; called by the client. */
  end(error?: unknown): void {
    this.#error ??= error;
    this.#ready.reject(error ?? new DOMException("The subscription ended", "AbortError"));
    this.#queue.end();
    this.status.end("ended");
  }

  /**
   * Leaves the topic. Idempotent.
   *
   * @throws {TimeoutError} If the server does not answer; the subscription has ended nevertheless.
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
   * Yields the topic's messages until the subscription ends. Leaving the loop does not unsubscribe.
   *
   * @returns The messages, checked against the contract.
   * @throws {TypeError} If another loop runs.
   * @throws The error that ended the subscription: a refusal, or a reader that fell behind.
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

/** The subscription as recovery uses it. */
export interface Resumed extends Progress {
  /** Queues an item for the reader: a message, or a function to call in turn. */
  put(next: Waiting, size: number): void;
  /** Notes that the subscription is in force. */
  confirm(): void;
}

/**
 * Puts the messages of one topic in order: each message once, and no message after a hole. The
 * events come in as the session received them.
 *
 * - **Known:** a message with an offset up to the newest known one is a repetition, and is dropped.
 * - **Hole:** a message with a `prev` beyond the newest known offset reveals a hole. The server is
 *   asked for the missing messages, by one request at a time. Messages that arrive before the
 *   answer lie behind the hole and are dropped; the server sends these again.
 * - **Loss:** if the server cannot send the missing messages, the reader is notified at that point
 *   of the order.
 */
export class Resume {
  readonly #subscription: Resumed;
  readonly #owner: Pick<SubscriptionOwner, "ask">;
  readonly #options: ClientSubscribeOptions;
  /** The newest known position; `undefined` until the server tells a position. */
  #known: HistoryPosition | undefined;
  /** True until the current session answers. */
  #isNew = true;
  /** True if the subscription already had a position or an answer. */
  #isAgain: boolean;
  /**
   * True if the client moved while the previous session was still open, so that no message was
   * lost.
   */
  #isMove = false;
  #isRepairing = false;
  #repairs = 0;

  /** Begins at the position of the subscription. */
  constructor(
    subscription: Resumed,
    owner: Pick<SubscriptionOwner, "ask">,
    options: ClientSubscribeOptions,
  ) {
    this.#subscription = subscription;
    this.#owner = owner;
    this.#options = options;
    this.#known = subscription.position;
    this.#isAgain = this.#known !== undefined;
  }

  /** The position from which to ask the server. */
  get from(): HistoryOptions {
    return { since: this.#known, last: this.#options.last };
  }

  /** Takes the next event. */
  receive(event: TopicEvent, size = 0): void {
    switch (event.kind) {
      case "message":
        return this.#take(event, size);
      case "answer":
        return this.#begin(event);
      case "skip": {
        const position = this.#moveTo(event);
        if (position !== undefined) this.#put(() => this.#subscription.position = position);
        return;
      }
      case "dropped":
        return this.#repair();
      case "gap": {
        const { reason, epoch, offset = 0, tag } = event.gap;
        return this.#lost(reason, epoch === undefined ? undefined : at(epoch, offset, tag));
      }
      case "moved":
      case "lost":
        this.#isMove = event.kind === "moved";
        this.#isNew = true;
        this.#isRepairing = false;
        this.#repairs = 0;
    }
  }

  /**
   * Takes an answer of the server to another subscription of the topic.
   *
   * @returns True if the answer covers all that this subscription needs; false if this subscription
   *   needs an answer of its own.
   */
  serve(answer: SubscribeAnswer): boolean {
    const { epoch, offset = 0, tag, head = 0 } = answer;
    const known = this.#known;
    const newest = epoch === undefined
      ? undefined
      : at(epoch, Math.max(offset, head), head > offset ? undefined : tag);
    if (known === undefined) {
      // With `last`, the subscription needs the newest messages, which the other answer lacks.
      if (this.#isNew && newest && this.#options.last !== undefined) return false;
      if (this.#isNew) this.#begin(newest ? { ...newest, head } : {});
      else if (newest) this.#goTo(newest);
      return true;
    }
    // Only the server can tell if a known tag still belongs to the publication at that offset.
    const isSure = known.tag === undefined || !this.#isNew ||
      offset === known.offset && tag === known.tag;
    // The server will reuse offsets above the head for other publications.
    if (known.epoch === epoch && offset <= known.offset && known.offset <= head && isSure) {
      if (this.#isNew) this.#begin({ ...known, head, recovered: true });
      this.#isRepairing = false;
      return true;
    }
    if (this.#isNew || this.#isRepairing) return false;
    this.#isRepairing = ++this.#repairs <= MAX_REPAIRS;
    if (!this.#isRepairing) this.#lost("dropped", newest);
    return !this.#isRepairing;
  }

  /** Continues behind messages that are not for this subscription. */
  #goTo(position: HistoryPosition): void {
    this.#known = position;
    this.#put(() => this.#subscription.position = position);
  }

  #begin({ epoch, offset = 0, tag, head, recovered, reason }: SubscribeAnswer): void {
    const wasNew = this.#isNew;
    const isAgain = this.#isAgain;
    this.#isNew = this.#isRepairing = false;
    this.#isAgain = true;
    this.#subscription.head = head;
    const known = this.#known;
    let position = epoch === undefined ? undefined : at(epoch, offset, tag);
    if (recovered && known?.epoch === epoch) {
      if (wasNew && !this.#isMove) this.#tell({ recovered }, known);
    } else if (isAgain) {
      // Within the same epoch, `last` must not repeat messages that were already received.
      const isAhead = position && known?.epoch === epoch && known!.offset <= (head ?? 0);
      // With "new-epoch", the history is a different one of the same name: no message was received.
      if (isAhead && known!.offset > offset && reason !== "new-epoch") position = known;
      this.#lost(reason ?? (position ? "unavailable" : "no-history"), position);
    } else this.#known = this.#subscription.position = position;
    if (wasNew) this.#subscription.confirm();
  }

  #take(message: Incoming, size: number): void {
    const { offset } = message;
    if (offset === undefined || this.#known === undefined) {
      // In a new session, `last` makes the server send the newest messages again.
      const comesAgain = offset !== undefined && this.#isNew && this.#options.last !== undefined;
      if (!comesAgain) this.#put(message, size);
      return;
    }
    const position = this.#moveTo({ ...message, offset });
    if (position !== undefined) this.#put({ ...message, position }, size);
  }

  /** Advances to an offset; `undefined` for a repetition, or for a message behind a hole. */
  #moveTo(
    { offset, prev = 0, tag }: Pick<Incoming, "prev" | "tag"> & { readonly offset: number },
  ): HistoryPosition | undefined {
    const known = this.#known;
    if (known === undefined || this.#isNew || offset <= known.offset) return undefined;
    const { epoch } = known;
    if (prev > known.offset) {
      if (this.#isRepairing) return undefined;
      if (++this.#repairs <= MAX_REPAIRS) return void this.#repair();
      this.#lost("dropped", { epoch, offset: prev });
    }
    this.#repairs = 0;
    return this.#known = at(epoch, offset, tag);
  }

  /** Asks the server for the missing messages. */
  #repair(): void {
    if (this.#isNew || this.#isRepairing || this.#known === undefined) return;
    this.#isRepairing = true;
    this.#owner.ask();
  }

  #lost(reason: RecoveryReason, position: HistoryPosition | undefined): void {
    this.#known = position;
    this.#tell({ recovered: false, reason }, position);
  }

  /** Notifies the reader, between the earlier and the later messages. */
  #tell(how: Pick<Recovery, "recovered" | "reason">, position: HistoryPosition | undefined): void {
    const recovery = position === undefined ? how : { ...how, position };
    this.#put(() => {
      if (!how.recovered) this.#subscription.position = position;
      this.#subscription.recovery = recovery;
      return this.#options.onRecovery?.(recovery);
    });
  }

  #put(next: Waiting, size = 0): void {
    this.#subscription.put(next, size);
  }
}

function at(epoch: string, offset: number, tag: string | undefined): HistoryPosition {
  return tag === undefined ? { epoch, offset } : { epoch, offset, tag };
}
