/**
 * A message as its receiver gets it.
 *
 * @module
 */
import type { RequestFailure } from "../errors.ts";
import type { ParamsOf, TopicOf } from "./base/topic_pattern.ts";

const NO_PARAMS: Readonly<Record<string, string>> = Object.freeze({});

/** Who sends the answers to messages. */
export interface Answerer {
  /** Sends an answer. */
  answer(id: number, data: unknown): void;
  /** Sends an answer that is a failure; `null` answers a message without id. */
  fail(id: number | null, failure: RequestFailure): void;
}

/** A message where there is no contract: nothing is known of it, or checked. */
export interface UntypedMessage extends Omit<ContractMessage<string, unknown>, "pattern"> {
  /** `undefined` without a contract; the parameters are empty then. */
  readonly pattern: string | undefined;
}

/**
 * A message as the receiving side sees it, for one pattern of the contract.
 *
 * @typeParam P The pattern, as a literal.
 * @typeParam Data What the schema gave.
 * @typeParam Reply What an answer has to be.
 */
export interface ContractMessage<P extends string, Data, Reply = unknown> {
  /** The pattern that the topic fits; narrows the rest. */
  readonly pattern: P;
  /** The topic as it was sent. */
  readonly topic: TopicOf<P>;
  /** The parameters of the topic. */
  readonly params: ParamsOf<P>;
  /** The data, checked. */
  readonly data: Data;
  /**
   * The verified user whose client published it, where the server names publishers. Never there on
   * a server: what a client sends comes with its session.
   */
  readonly from?: string | undefined;
  /** Whether an answer is owed. */
  readonly isRequest: boolean;
  /** True once the asker gave up, or the session closed: an answer goes nowhere. */
  readonly isCancelled: boolean;
  /** Aborted when the asker gave up, or the session closed. */
  readonly signal: AbortSignal;
  /**
   * Answers. After the asker gave up, or the session closed, the answer goes nowhere, which
   * `isCancelled` says.
   *
   * @param data The answer: what JSON can hold, or a `Uint8Array`.
   * @throws {TypeError} If no answer is owed, or `reply` was called already.
   */
  reply(data: Reply): void;
}

/** One message, checked against the contract if there is one. */
export class Message implements UntypedMessage {
  /** The topic as it was sent. */
  readonly topic: string;
  /** The data, checked. */
  readonly data: unknown;
  /** The contract's pattern; `undefined` without one. */
  readonly pattern: string | undefined;
  /** The parameters of the topic. */
  readonly params: Readonly<Record<string, string>>;
  /** The verified user whose client published it, as the server says. */
  readonly from: string | undefined;
  readonly #id: number | undefined;
  readonly #answerer: Answerer;
  #isAnswered = false;
  #abort: AbortController | undefined;
  #cancelled: { readonly reason: unknown } | undefined;

  /** Creates a message; `id` means that an answer is owed. */
  constructor(
    incoming: {
      readonly topic: string;
      readonly data: unknown;
      readonly id?: number | undefined;
      readonly from?: string | undefined;
    },
    match:
      | { readonly pattern: string; readonly params: Readonly<Record<string, string>> }
      | undefined,
    answerer: Answerer,
  ) {
    this.topic = incoming.topic;
    this.data = incoming.data;
    this.from = incoming.from;
    this.pattern = match?.pattern;
    this.params = match?.params ?? NO_PARAMS;
    this.#id = incoming.id;
    this.#answerer = answerer;
  }

  /** Whether an answer is owed. */
  get isRequest(): boolean {
    return this.#id !== undefined;
  }

  /** Whether `reply` was called. */
  get isAnswered(): boolean {
    return this.#isAnswered;
  }

  /** True once the asker gave up, or the session closed: an answer goes nowhere. */
  get isCancelled(): boolean {
    return this.#cancelled !== undefined;
  }

  /** Aborted when the asker gave up, or the session closed. */
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.#cancelled) this.#abort.abort(this.#cancelled.reason);
    return this.#abort.signal;
  }

  /** Tells the handler that nobody waits for the answer any more. */
  cancel(reason: unknown): void {
    if (this.#cancelled) return;
    this.#cancelled = { reason };
    this.#abort?.abort(reason);
  }

  /**
   * Answers. After the asker gave up, or the session closed, the answer goes nowhere, which
   * `isCancelled` says.
   *
   * @param data Any value that JSON can hold, or a `Uint8Array`.
   * @throws {TypeError} If no answer is owed, `reply` was called already, or JSON cannot hold the data.
   * @throws {RangeError} If the answer is larger than `maxMessageBytes`.
   */
  reply(data: unknown): void {
    if (this.#id === undefined) {
      throw new TypeError(`Cannot reply: the message on "${this.topic}" asks for no answer`);
    }
    if (this.#isAnswered) {
      const why = this.#cancelled ? "cancelled" : "answered already";
      throw new TypeError(`Cannot reply: the request on "${this.topic}" was ${why}`);
    }
    if (!this.#cancelled) this.#answerer.answer(this.#id, data);
    this.#isAnswered = true;
  }

  /** Answers with a failure. A message that asks for no answer is told of it too. */
  fail(failure: RequestFailure): void {
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    if (this.#id === undefined) this.#answerer.fail(null, failure);
    else if (!this.#cancelled) this.#answerer.fail(this.#id, failure);
  }
}
