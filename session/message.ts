/**
 * A message on the receiving side.
 *
 * @module
 */
import type { RequestFailure } from "../errors.ts";
import type { ParamsOf, TopicOf } from "./wire/topic_pattern.ts";
import { type Envelope, FIRST_CREDIT, MAX_CREDIT } from "./wire/envelope.ts";

/** A message that was parsed, but not checked. */
export interface IncomingMessage {
  /** Distinguishes a message from the other events of a topic. */
  readonly kind: "message";
  readonly topic: string;
  /** The data, unchecked. */
  readonly data: unknown;
  /** The verified user whose client published the message, according to the server. */
  readonly from?: string | undefined;
  /** Id of a request, to which a reply is due; absent for other messages. */
  readonly id?: number | undefined;
  /** Number of the message, if numbered messages are handled in order. */
  readonly seq?: number | undefined;
  /**
   * Offset in the history of the topic, if the topic has a history. Always set together with
   * `prev`.
   */
  readonly offset?: number | undefined;
  /** Offset of the previous message. */
  readonly prev?: number | undefined;
  /** Tag that identifies the publication. */
  readonly tag?: string | undefined;
  /** As received: the newest offset of the stream, if this message does not reach it. */
  readonly head?: unknown;
  /** As received: the slice of a record that is larger than a message. */
  readonly slice?: unknown;
  /** Trace context of the sender, as received; `watch.ts` reads it. */
  readonly trace?: unknown;
  /** Turn of the message, if numbered messages are handled in order. */
  readonly turn?: MessageTurn | undefined;
  /** Credit for a streaming response, in items. It grows while the request waits. */
  items?: number | undefined;
  /** Name of a resumable response. */
  readonly stream?: string | undefined;
  /** True if the requester has already received a part of that response. */
  readonly begun?: true | undefined;
  /** The reason why the reply is no longer needed, if set while the message waits. */
  cancelled?: unknown;
}

/** The text for the peer whose request no handler or loop reads. */
export function noHandler(topic: string, side: string): string {
  return `No request handler for "${topic}": add it to the option requests of the ${side}`;
}

/** The checked message; `undefined` if rejected. */
export type CheckedMessage = Message | undefined | Promise<Message | undefined>;

/** The turn of a numbered message. Each numbered message is handled exactly once, in order. */
export interface MessageTurn {
  /**
   * Waits for the message's turn and for the rate limits, and checks the message. Resolves with
   * `undefined`, and ends the turn, if the check rejects the message, if the message was handled
   * before, or if the session has closed. Never rejects.
   */
  check(check: () => CheckedMessage): Promise<Message | undefined>;
  /** Ends the turn. Idempotent. */
  end(): void;
  /**
   * Ends the turn after the handler, even if it failed: otherwise, the client would send the
   * message forever. Never rejects.
   */
  endAfter(handling: void | Promise<void>): Promise<void>;
  /**
   * Skips the turn of a rejected request when the turn comes, unless the peer sends the request
   * again later.
   */
  skip(): void;
  /**
   * Gives the message back if the handler failed with an error after which the peer sends it again,
   * for example in its next session; false for any other error.
   */
  givesBack(error: unknown): boolean;
}

/**
 * A note about a topic between its messages: messages are missing, a message is not for this side,
 * or the server has ended the subscription.
 */
export type TopicNote = Extract<Envelope, { kind: "gap" | "skip" | "dropped" | "unsubscribed" }>;

/** Receives the messages of one topic instead of the session's own queue. */
export interface TopicSink {
  /**
   * Offers a message, or a note between messages.
   *
   * @returns `true` to pass the message on to the handler or loop as well. For a note about
   * dropped messages, `true` if the sink requests them again.
   */
  offer(event: IncomingMessage | TopicNote, size: number): void | true;
}

/** Counts envelopes of the peer, and rejects envelopes above a limit. */
export interface Meter {
  /** Rejections of the session within ten seconds before it is closed. */
  readonly maxRejections: number;
  /**
   * Counts an envelope. Returns true if the envelope must not be handled and the peer has been
   * notified.
   */
  rejects(envelope: Envelope, size: number): boolean;
  /**
   * Waits until a numbered message may be handled, and counts it. Numbered messages are never
   * rejected. Resolves without counting once the meter has stopped.
   *
   * @param size Size in bytes.
   * @param publications Number of publications as which it counts; 0 for a message.
   */
  admit(size: number, publications?: number): Promise<void>;
  /**
   * Counts publications that no envelope has announced: handling one took as much work as several.
   *
   * @returns Time until later publications may pass, in milliseconds; 0 if they may now.
   */
  spent(count: number): number;
  /** Counts that the session is closed because of its rejections. */
  closed(): void;
}

/** Envelopes that are not messages. */
export type Control = Exclude<
  Envelope,
  { kind: "message" | "malformed" | "unknown" | "cancel" | "part" | "more" }
>;

const NO_PARAMS: Readonly<Record<string, string>> = Object.freeze({});

/** Sends the parts of one response. The class in `responses/producer.ts` loads on first use. */
export interface MessageProducer {
  /** Called when the requester grants credit for further items. */
  paid(items: number): void;
  /** Ends the response. After that, no part may be sent. Idempotent. */
  stop(reason: unknown): void;
}

/** Returns true for an async iterable, such as an async generator or a `ReadableStream`. */
export function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}

/** Sends the replies to messages. */
export interface ReplySender {
  /** Sends a reply. */
  reply(id: number, data: unknown, topic: string): void;
  /** Sends the items of an async iterable as the response to a request; resolves at the end. */
  stream(id: number, items: AsyncIterable<unknown>, message: Message): Promise<void>;
  /** Sends a failed reply; `null` replies to a message without an id. */
  fail(id: number | null, failure: RequestFailure): void;
}

/** A message without a contract, which may have any topic and unchecked data. */
export interface UntypedMessage extends Omit<ContractMessage<string, unknown>, "pattern"> {
  /** The contract's pattern; `undefined` without a contract, and the parameters are then empty. */
  readonly pattern: string | undefined;
}

/**
 * A received message, for one pattern of the contract.
 *
 * @typeParam P The pattern, as a literal.
 * @typeParam Data The output of the schema.
 * @typeParam Reply The type of a reply.
 */
export interface ContractMessage<P extends string, Data, Reply = unknown> {
  /** The pattern that the topic matches. It narrows the types of the other members. */
  readonly pattern: P;
  /** The topic as it was sent. */
  readonly topic: TopicOf<P>;
  /** The parameters of the topic. */
  readonly params: ParamsOf<P>;
  /** The checked data. */
  readonly data: Data;
  /**
   * The verified user whose client published the message, if the server includes publishers. Always
   * absent on a server, where the session identifies the client.
   */
  readonly from?: string | undefined;
  /**
   * On a server: the same for each attempt to handle a message that the client keeps in a store, and
   * for no other message. A handler may run again for the one message that was being handled when a
   * server crashed; with this key, for example as a unique column, it has an effect once. Absent for
   * clients without a store.
   */
  readonly idempotencyKey?: string | undefined;
  /** True if the peer waits for a reply. */
  readonly isRequest: boolean;
  /** True once the peer abandoned the request, or the session closed: a reply is then discarded. */
  readonly isCancelled: boolean;
  /** Aborted when the peer abandons the request, or the session closes. */
  readonly signal: AbortSignal;
  /**
   * Replies to a request. The reply is discarded if the peer abandoned the request or the session
   * closed; see `isCancelled`.
   *
   * To reply to `requestStream`, pass an async iterable, such as a generator. Its next item is
   * requested once the caller and the send queue have room. If the caller cancels, `signal` is
   * aborted and the iterator's `return()` is called.
   *
   * @param data The reply: any value that JSON can hold, a `Uint8Array`, or an async iterable of
   * such values.
   * @throws {TypeError} If the message is not a request, or `reply` has already been called.
   */
  reply(data: Reply): void;
}

/** The pattern that a topic fits, with the parameters of the topic. */
export interface MessageMatch {
  readonly pattern: string;
  readonly params: Readonly<Record<string, string>>;
}

/** A message, checked against the contract if there is one. */
export class Message implements UntypedMessage {
  declare readonly topic: string;
  declare readonly data: unknown;
  /** The contract's pattern; `undefined` without a contract. */
  declare readonly pattern: string | undefined;
  declare readonly params: Readonly<Record<string, string>>;
  declare readonly from: string | undefined;
  /** Items that a streaming response may still send. */
  credit: number;
  // Few messages have one of these. If they were not only declared, a message would take 128 bytes
  // instead of 112.

  /** Sends the parts of a streaming response. */
  declare producer: MessageProducer | undefined;
  declare idempotencyKey: string | undefined;
  /** Settles at the end of a streaming response; rejects with its error. */
  declare streaming: Promise<void> | undefined;
  readonly #id: number | undefined;
  readonly #replySender: ReplySender;
  #hasReplied = false;
  #abort: AbortController | undefined;
  #cancelled: { readonly reason: unknown } | undefined;

  /** Creates a message. If `id` is given, the message is a request. */
  constructor(
    incoming: {
      readonly topic: string;
      readonly data: unknown;
      readonly id?: number | undefined;
      readonly from?: string | undefined;
      readonly items?: number | undefined;
    },
    match: MessageMatch | undefined,
    replySender: ReplySender,
  ) {
    this.topic = incoming.topic;
    this.data = incoming.data;
    this.from = incoming.from;
    this.pattern = match?.pattern;
    this.params = match?.params ?? NO_PARAMS;
    this.credit = incoming.items ?? FIRST_CREDIT;
    this.#id = incoming.id;
    this.#replySender = replySender;
  }

  get isRequest(): boolean {
    return this.#id !== undefined;
  }

  /** True once `reply` was called, or a failure was sent. */
  get hasReplied(): boolean {
    return this.#hasReplied;
  }

  get isCancelled(): boolean {
    return this.#cancelled !== undefined;
  }

  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.#cancelled) this.#abort.abort(this.#cancelled.reason);
    return this.#abort.signal;
  }

  /** Notifies the handler that the reply is no longer needed. */
  cancel(reason: unknown): void {
    if (this.#cancelled) return;
    this.#cancelled = { reason };
    this.#abort?.abort(reason);
    this.producer?.stop(reason);
  }

  /** Adds credit for a streaming response. Returns false if the total exceeds the maximum. */
  more(items: number): boolean {
    if (this.credit + items > MAX_CREDIT) return false;
    this.credit += items;
    this.producer?.paid(items);
    return true;
  }

  /**
   * Replies to a request. The reply is discarded if the peer abandoned the request or the session
   * closed; see `isCancelled`.
   *
   * @param data Any value that JSON can hold, a `Uint8Array`, or an async iterable of such values.
   * @throws {TypeError} If the message is not a request, if `reply` has already been called, or if
   * JSON cannot represent the data.
   * @throws {RangeError} If the reply is larger than `maxMessageBytes`.
   */
  reply(data: unknown): void {
    if (this.#id === undefined) {
      throw new TypeError(`Cannot reply: the message on "${this.topic}" is not a request`);
    }
    if (this.#hasReplied) {
      const why = this.#cancelled ? "cancelled" : "settled";
      throw new TypeError(`Cannot reply: the request on "${this.topic}" was ${why}`);
    }
    if (isAsyncIterable(data)) {
      this.streaming = this.#replySender.stream(this.#id, data, this);
    } else if (!this.#cancelled) this.#replySender.reply(this.#id, data, this.topic);
    this.#hasReplied = true;
  }

  /** Replies with a failure. The peer also receives it if the message is not a request. */
  fail(failure: RequestFailure): void {
    if (this.#hasReplied) return;
    this.#hasReplied = true;
    if (this.#id === undefined) this.#replySender.fail(null, failure);
    else if (!this.#cancelled) this.#replySender.fail(this.#id, failure);
  }
}
