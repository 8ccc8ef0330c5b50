/** A client's subscription to one topic. */
import { QueueFullError, RequestError } from "../../errors.ts";
import { abortError } from "../../base/wait.ts";
import type { Contract, ContractTopic, TopicMessage } from "../../session/contract.ts";
import { checkLoop, ReceiveQueue } from "../../session/queue/receive_queue.ts";
import type {
  HistoryOptions,
  HistoryPosition,
  Recovery,
  SubscribeReply,
} from "../../session/wire/recovery.ts";
import type { MemberList } from "../../session/wire/member_list.ts";
import type { PresenceNotice } from "../../session/wire/presence_notice.ts";
import type { Progress, QueuedItem, Resume, TopicEvent } from "./resume.ts";
import type { Retries } from "./retries.ts";
import { STATES, type SubscriptionChange, type SubscriptionState } from "./subscription_state.ts";
import type { ClientSubscribeOptions } from "../client_options.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import type { Faults } from "../../session/faults.ts";
import type { TopicLoss } from "../../session/settings/settings.ts";
import type { IncomingMessage } from "../../session/message.ts";

/** The maximum number of messages and bytes that wait for a slow reader, or for the first one. */
export const LIMITS = { maxMessages: 4096, maxBytes: 1_048_576 };

/** The code that loads with the first subscription that needs it. */
export interface RecoveryParts {
  readonly MemberList: typeof MemberList;
  readonly Resume: typeof Resume;
  readonly Retries: typeof Retries;
}

/** The parts of the client that a subscription uses. */
export interface SubscriptionOwner {
  check(incoming: IncomingMessage, onInvalid: ClientSubscribeOptions["onInvalid"]): unknown;
  /** Tells the application that data was skipped. Returns the result of `onInvalid`. */
  skip(error: RequestError, of: Parameters<Faults["skip"]>[1]): unknown;
  /**
   * Requests the topic from the server, from the position that {@linkcode Subscription.from}
   * returns.
   */
  request(): void;
  /** Reports a loss that the application does not handle. */
  lost(loss: TopicLoss): void;
  /** Loads the code that only some subscriptions need. */
  loadRecovery(): Promise<RecoveryParts>;
  /** Ends the subscription at the server. Rejects if the server does not reply. */
  end(): Promise<void>;
  /** Returns whether the server has sent a notice about the users in the topic. */
  isRoom(): boolean;
}

/**
 * The messages of one topic. A subscription survives reconnects. It ends with `unsubscribe`, with
 * `await using`, or when the client closes.
 *
 * - **Separate:** the client's own iterator does not receive these messages.
 * - **Several:** all subscriptions to the same topic receive each message, and share its data. When
 *   the last subscription ends, the client leaves the topic. A new subscription with `last` or
 *   `since` requests the topic again, but the other subscriptions receive no duplicates.
 * - **Reader:** only one loop at a time may read the messages.
 * - **Rejected:** after a temporary rejection (`too-many`, `unavailable`, no reply in time), the
 *   client retries. Any other rejection ends the subscription. If the server has not confirmed the
 *   subscription yet, it stays `pending` during the retries, and the client's `onError` receives
 *   the first such error. Such a subscription ends after `too-many`, unless the limit allows a
 *   retry within 30 s.
 * - **Removed:** if the server removes the client from the topic, the loop yields the earlier
 *   messages, and then throws a {@linkcode RequestError} with the server's code. After `too-many`
 *   and `unavailable`, the client retries instead.
 * - **Reports:** without a loop, a final rejection or removal is printed once for each topic,
 *   unless you read `ready` before the first reply, or follow `status`.
 * - **Superseded:** if the server restarted the subscription in the meantime, the client requests
 *   the topic again.
 * - **History:** if the topic has a history, messages that were missed during a loss are delivered
 *   afterwards, exactly once and in order. If this is not possible, `onRecovery` reports it.
 * - **Invalid:** a message that does not fit the contract is skipped, and `onInvalid` or `onError`
 *   receives the error. The position moves past the message.
 * - **Without a loop,** the subscription stays: the client remains in a room, for example. At most
 *   4,096 messages or 1 MiB wait for a loop. If the topic has a history, the loop then requests the
 *   messages after them. Otherwise, the oldest ones are dropped, and a later loop first calls
 *   `onRecovery` with the reason `dropped`. The console, or the client's `onError`, receives one
 *   line when the queue is full.
 * - **Slow loop:** the same bound applies. If the topic has a history, the loop yields the queued
 *   messages, and then requests the rest. Otherwise, it throws a {@linkcode QueueFullError} after
 *   the queued messages, instead of skipping messages silently.
 *
 * @typeParam C The contract.
 * @typeParam T The topic, which narrows the messages.
 */
export class Subscription<
  C extends Contract = Contract,
  T extends string = ContractTopic<C, "server">,
> implements AsyncIterable<TopicMessage<C, T>>, AsyncDisposable {
  /** The topic. */
  declare readonly topic: string;
  /**
   * The status. Read it from `current`, and follow its changes with a loop or `subscribe`. Between
   * `lost` and `subscribed`, the client may miss messages. If the topic has a history, the missed
   * messages are delivered afterwards, or {@linkcode ClientSubscribeOptions.onRecovery} receives
   * the reason why they are not.
   */
  readonly status: StatusFeed<"pending" | "subscribed" | "lost" | "ended"> = new StatusFeed<
    "pending" | "subscribed" | "lost" | "ended"
  >("pending");

  /**
   * The position of the last message that the loop has reached, for a topic with a history. If you
   * pass this position as `since` to a later subscription, even in another client, it continues
   * after that message.
   */
  declare readonly position: HistoryPosition | undefined;
  /**
   * The newest offset of the topic that the server has told: in its last reply, or in a later
   * message of a state that does not reach it. A reader that has reached this offset has caught up.
   * It is `undefined` for a topic without a history.
   */
  declare readonly head: number | undefined;
  /**
   * The collections of a state whose rows are not in its stream, as the server's last reply with
   * the collections of its contract has them.
   *
   * @ignore
   */
  declare readonly ephemeral: readonly string[] | undefined;
  /**
   * The other collections of the state in that reply.
   *
   * @ignore
   */
  declare readonly stored: readonly string[] | undefined;
  /**
   * The outcome of the last loss that the loop has reached, or `undefined` before the first loss.
   * For a topic without a history, a lost connection sets it only if there is an `onRecovery`
   * callback.
   */
  declare readonly recovery: Recovery | undefined;

  readonly #owner: SubscriptionOwner;
  readonly #options: ClientSubscribeOptions;
  readonly #queue = new ReceiveQueue<QueuedItem>(LIMITS, 1);
  readonly #ready = Promise.withResolvers<void>();
  #state: SubscriptionState = "subscribing";
  #resume: Resume | undefined;
  #error: unknown;
  #isPrepared = false;
  #isIterated = false;
  /** True if messages were dropped because there was no loop. */
  #isDropped = false;
  #isAwaited = false;

  /** Creates a subscription. Called by `client.subscribe`. */
  constructor(topic: string, owner: SubscriptionOwner, options: ClientSubscribeOptions = {}) {
    this.topic = topic;
    this.#owner = owner;
    this.#options = options;
    // The value is `null` if it comes from storage in which a page has not saved a position yet.
    this.position = options.since ?? undefined;
    this.#ready.promise.catch(() => {});
  }

  /**
   * Resolves when the server confirms the subscription for the first time; rejects if the server
   * rejects it.
   */
  get ready(): Promise<void> {
    this.#isAwaited = true;
    return this.#ready.promise;
  }

  /** True if the subscription has ended. */
  get isEnded(): boolean {
    return this.#state === "ended";
  }

  /**
   * The state. `status` shows a simplified form of it.
   *
   * @ignore
   */
  get state(): SubscriptionState {
    return this.#state;
  }

  /**
   * True if the subscription is waiting for a reply from the server.
   *
   * @ignore
   */
  get isWaiting(): boolean {
    return this.#state !== "live" && !this.isEnded;
  }

  /**
   * Changes the state as {@linkcode STATES} defines.
   *
   * @ignore
   */
  change(change: SubscriptionChange): void {
    const state = STATES[this.#state][change];
    if (!state) return;
    this.#state = state;
    if (state === "live") this.#ready.resolve();
    const { status } = STATES[state];
    if (status === "ended") this.status.end(status);
    else if (status !== this.status.current) this.status.set(status);
  }

  /**
   * True once the server has sent a notice about the users in the topic.
   *
   * @ignore
   */
  get isRoom(): boolean {
    return this.#owner.isRoom();
  }

  /**
   * Handles a notice about the users in the topic. A subscription to the messages ignores it.
   *
   * @ignore
   */
  note(_notice: PresenceNotice): void {}

  /**
   * Handles an event of the topic.
   *
   * @ignore
   */
  offer(event: TopicEvent, size: number = 0): void {
    if (this.#state === "joining") return;
    if (this.#resume) this.#resume.receive(event, size);
    else if (event.kind === "message") this.put(event, size);
    else if (event.kind === "gap") this.#owner.lost(event);
  }

  /**
   * Handles the reply to a request with this subscription's position.
   *
   * @ignore
   */
  replied(reply: SubscribeReply): void {
    if (this.#resume) this.#resume.begin(reply);
    else this.change("reply");
  }

  /**
   * Handles a reply to another subscription to the topic. If that reply does not cover everything
   * that this subscription needs, the subscription continues to wait for a reply of its own.
   *
   * @param _wasWaiting True if this subscription was waiting when the request was sent.
   * @ignore
   */
  serve(reply: SubscribeReply, _wasWaiting: boolean): void {
    if (this.#resume) this.#resume.serve(reply);
    // The code for histories is loaded with the subscription's own first request.
    else if (this.#isPrepared) this.change("reply");
  }

  /**
   * Handles the end of the session, or a move to another session. Afterwards the client requests
   * the topic again.
   *
   * @ignore
   */
  lose(by: "loss" | "move"): void {
    this.change(by);
    this.#resume?.lose();
  }

  /**
   * Queues a message for the reader, or a function to call in order. If the queue is full, a slow
   * loop ends, and without a loop, the oldest are dropped.
   *
   * @ignore
   */
  put(next: QueuedItem, size: number): void {
    while (!this.#queue.offer(next, size)) {
      if (this.#isIterated) {
        this.end(new QueueFullError(`Cannot keep up: the reader of "${this.topic}" fell behind`));
        // The reader receives the error above, even if the server does not reply.
        return void this.#owner.end().catch(() => {});
      }
      if (!this.#isDropped) this.#owner.lost({ kind: "unread" });
      this.#isDropped = true;
      this.#queue.take();
    }
  }

  /**
   * True if the queue has room.
   *
   * @ignore
   */
  hasRoom(size: number): boolean {
    return this.#queue.hasRoom(size);
  }

  /**
   * True if messages were ignored because the queue was full, and not requested again yet.
   *
   * @ignore
   */
  get isBehind(): boolean {
    return this.#resume?.isBehind ?? false;
  }

  /**
   * The number of queued messages that a loop is reading; `undefined` without a loop.
   *
   * @ignore
   */
  get queued(): number | undefined {
    return this.#isIterated ? this.#queue.size : undefined;
  }

  /**
   * Tells the application that the reader skips data. Returns the result of `onInvalid`.
   *
   * @ignore
   */
  skip(error: RequestError, data: unknown): unknown {
    return this.#owner.skip(error, { data, onInvalid: this.#options.onInvalid });
  }

  /**
   * Loads the code for histories if needed. Returns the position from which to request the topic.
   *
   * @ignore
   */
  async from(hasHistories: boolean | undefined): Promise<HistoryOptions> {
    const { since, last, onRecovery } = this.#options;
    if (hasHistories || since || last || onRecovery) {
      const { Resume } = await this.#owner.loadRecovery();
      this.#resume ??= new Resume(this, this.#owner, this.#options);
    }
    this.#isPrepared = true;
    return this.#resume?.from ?? {};
  }

  /** Ends the subscription on this side only. Called by the client. */
  end(error?: unknown): void {
    if (error instanceof RequestError) this.#reportEnd(error);
    this.#error ??= error;
    this.#ready.reject(error ?? abortError("The subscription ended"));
    this.#queue.end();
    this.change("end");
  }

  /** Reports the end, unless a loop, `status`, or `ready` before the first reply, tells it. */
  #reportEnd(error: RequestError): void {
    const kind = this.status.current === "pending" ? "rejected" : "ended";
    if (this.#isIterated || this.status.isObserved || kind === "rejected" && this.#isAwaited) {
      return;
    }
    this.#owner.lost({ kind, error });
  }

  /**
   * Leaves the topic. Idempotent.
   *
   * @throws {TimeoutError} If the server does not reply. The subscription has ended anyway.
   */
  async unsubscribe(): Promise<void> {
    if (this.isEnded) return;
    this.end();
    await this.#owner.end();
  }

  /** Leaves the topic. Called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.unsubscribe();
  }

  /**
   * Yields the topic's messages until the subscription ends. Breaking out of the loop does not
   * unsubscribe.
   *
   * @returns The messages, checked against the contract.
   * @throws {TypeError} If another loop is already running.
   * @throws The error that ended the subscription: the server rejected it, or the loop of a topic
   * without a history fell behind.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<TopicMessage<C, T>, void, undefined> {
    checkLoop("subscription", this.#isIterated);
    this.#isIterated = true;
    try {
      if (this.#isDropped) {
        this.#isDropped = false;
        (this as Progress).recovery = { recovered: false, reason: "dropped" };
        await this.#options.onRecovery?.(this.recovery!);
      }
      while (true) {
        const next = this.#queue.take();
        if (typeof next === "function") await next();
        else if (next !== undefined) {
          if (next.position) (this as Progress).position = next.position;
          const message = await this.#owner.check(next, this.#options.onInvalid);
          if (message !== undefined) yield message as TopicMessage<C, T>;
        } else if (!this.isEnded) {
          this.#resume?.readOn();
          await this.#queue.changed();
        } else if (this.#error !== undefined) throw this.#error;
        else return;
      }
    } finally {
      this.#isIterated = false;
    }
  }
}
