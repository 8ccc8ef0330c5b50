/** The sending half of a streaming response. This module is loaded with the first response. */
import { Signal } from "../../base/signal.ts";
import type { Inside } from "../receiving.ts";
import type { Message, MessageProducer } from "../message.ts";
import { type EncodedMessage, encodeFailure } from "../wire/encode.ts";
import { MAX_UNPAID_BYTES } from "../wire/envelope.ts";

/**
 * Sends the items of an async iterable as the response to a request.
 *
 * @param core The session.
 * @param id The id of the request.
 * @param message The request.
 * @returns Resolves when the response has ended; rejects with the error of the handler.
 */
export function produceResponse(
  core: Inside,
  id: number,
  items: AsyncIterable<unknown>,
  message: Message,
): Promise<void> {
  const producer = message.producer = new ResponseProducer(core, id, items, message);
  if (message.isCancelled) producer.stop(message.signal.reason);
  else void producer.run();
  return producer.over.promise;
}

/**
 * Sends the items of an async iterable as the parts of one response.
 *
 * - **Pull:** the producer reads the next item only if it has credit and the send queue has room.
 *   Streaming responses use at most half of the queue.
 * - **Stop:** after `stop`, no part is sent, and the iterator's `return()` is called once.
 */
class ResponseProducer extends Signal implements MessageProducer {
  /** Resolves when the response has ended; rejects with the error of the handler. */
  readonly over: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #core: Inside;
  readonly #id: number;
  readonly #message: Message;
  readonly #iterator: AsyncIterator<unknown>;
  /** Sizes of the parts for which the peer has not returned credit, and their sum. */
  readonly #unpaid: number[] = [];
  #unpaidBytes = 0;
  #step: Promise<unknown> = Promise.resolve();
  #stopped: { readonly reason: unknown } | undefined;

  constructor(core: Inside, id: number, items: AsyncIterable<unknown>, message: Message) {
    super();
    this.#core = core;
    this.#id = id;
    this.#message = message;
    this.#iterator = items[Symbol.asyncIterator]();
  }

  paid(items: number): void {
    for (const size of this.#unpaid.splice(0, items)) this.#unpaidBytes -= size;
    this.notify();
  }

  stop(reason: unknown): void {
    if (this.#stopped) return;
    this.#stopped = { reason };
    this.over.resolve();
    this.#return();
    this.notify();
  }

  /** Sends the items until the end. Never rejects. */
  async run(): Promise<void> {
    const message = this.#message;
    const queue = this.#core.sending.messages("reply");
    try {
      while (!this.#stopped) {
        if (message.credit === 0 || this.#unpaidBytes >= MAX_UNPAID_BYTES) {
          await this.changed();
        } else if (!queue.hasRoom) await queue.flushed();
        else {
          const step = this.#step = Promise.resolve(this.#iterator.next());
          const { done, value } = await step;
          if (this.#stopped) return;
          if (done) break;
          const part = this.#encode(value);
          message.credit--;
          this.#unpaid.push(part.size);
          this.#unpaidBytes += part.size;
          if (queue.isFullFor(part)) await this.#room(part);
          if (!this.#stopped) this.#core.sending.push(part, true);
        }
      }
      await this.#end();
    } catch (error) {
      await this.#failed(error);
    }
  }

  #encode(data: unknown): EncodedMessage {
    const verb = `reply to "${this.#message.topic}"`;
    try {
      // As in a resumable response: JSON has no such value, and the item would be lost.
      if (data === undefined) {
        throw new TypeError(
          `Cannot ${verb}: an item must be a value that JSON can hold, received undefined`,
        );
      }
      return this.#core.sending.encode({ part: this.#id, data }, verb);
    } catch (error) {
      this.#return();
      throw error;
    }
  }

  async #end(error?: unknown, isFailure = false): Promise<void> {
    if (this.#stopped) return;
    const { replies } = this.#core.receiving;
    const failure = isFailure ? replies.failureOf(error) : undefined;
    const end = encodeFailure({ end: this.#id, error: failure }, this.#core.sending.maxSendBytes);
    await this.#room(end);
    if (this.#stopped) return;
    this.#stopped = { reason: error };
    replies.replied(this.#id);
    this.#core.sending.push(end, true);
    if (!isFailure) this.over.resolve();
  }

  async #failed(error: unknown): Promise<void> {
    const stopped = this.#stopped;
    if (stopped !== undefined) {
      // A generator whose signal was aborted often throws the reason, or an AbortError.
      const isExpected = error === stopped.reason || Object(error).name === "AbortError";
      if (!isExpected) this.#core.receiving.replies.report(error);
      return;
    }
    await this.#end(error, true);
    this.over.reject(error);
    this.#core.receiving.replies.report(error);
  }

  async #room(part: EncodedMessage): Promise<void> {
    const { queue } = this.#core;
    while (!this.#stopped && queue!.isFullFor(part)) await queue!.flushed();
  }

  /**
   * Lets the handler clean up, without waiting for it: a generator first finishes its current step.
   * Until then, the response counts towards the session's limit.
   */
  #return(): void {
    const { replies } = this.#core.receiving;
    const returned = () => void replies.leaving--;
    replies.leaving++;
    try {
      const returning = this.#iterator.return?.() ?? this.#step.catch(() => {});
      returning.then(undefined, (error) => replies.report(error)).then(returned);
    } catch (error) {
      returned();
      replies.report(error);
    }
  }
}
