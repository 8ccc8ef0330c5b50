/**
 * Replies to the peer's requests, from the arrival of a request to the end of its response.
 *
 * @module
 */
import { RequestError, type RequestFailure } from "../errors.ts";
import type { Signal } from "../base/signal.ts";
import type { SessionCore } from "./core.ts";
import { type IncomingMessage, Message, type ReplySender } from "./message.ts";
import type { Sending } from "./sending.ts";
import { report } from "./settings/settings.ts";
import { OversizeError } from "./wire/encode.ts";
import { FIRST_CREDIT, MAX_CREDIT } from "./wire/envelope.ts";

/** The module of `SessionSettings.responses`, which takes the session with both halves. */
interface ResponsesModule {
  produceResponse(
    core: SessionCore,
    id: number,
    items: AsyncIterable<unknown>,
    message: Message,
  ): Promise<void>;
}

/** The requests of the peer that wait for replies. */
export class Replies implements ReplySender {
  /** Number of cancelled streaming responses whose iterators have not returned. */
  leaving = 0;
  readonly #core: SessionCore & { readonly sending: Sending };
  readonly #idle: Signal;
  /**
   * Unanswered requests by id. The value is an `IncomingMessage` while the request waits, and a
   * `Message` while it is handled.
   */
  readonly #owed = new Map<number, IncomingMessage | Message>();

  /**
   * Creates the replies of a session.
   *
   * @param core The session, with the half that sends.
   * @param idle Notified of each reply, for callers that wait until no reply is owed.
   */
  constructor(core: SessionCore & { readonly sending: Sending }, idle: Signal) {
    this.#core = core;
    this.#idle = idle;
  }

  /** Number of requests of the peer that wait for replies. */
  get size(): number {
    return this.#owed.size;
  }

  /** Registers a request, to which a reply is due. Returns false if the id is still in use. */
  owe(id: number, incoming: IncomingMessage): boolean {
    if (this.#owed.has(id)) return false;
    this.#owed.set(id, incoming);
    return true;
  }

  /** Records that a waiting request is now handled as this message. */
  handling(id: number, message: Message): void {
    this.#owed.set(id, message);
  }

  /**
   * Adds credit for the response to a request. Returns false if the total exceeds the maximum.
   * Credit for an unknown request has no effect.
   */
  more(id: number, items: number): boolean {
    const owed = this.#owed.get(id);
    if (owed === undefined || owed instanceof Message) return owed?.more(items) ?? true;
    owed.items = (owed.items ?? FIRST_CREDIT) + items;
    return owed.items <= MAX_CREDIT;
  }

  /** Cancels a request that the peer abandoned: the handler continues, but no reply is due. */
  cancel(id: number): void {
    const owed = this.#owed.get(id);
    if (owed === undefined) return;
    this.replied(id);
    cancelOwed(owed, new RequestError("cancelled", "The peer cancelled the request"));
  }

  /** Cancels all requests when the session closes. */
  end(error: unknown): void {
    for (const owed of this.#owed.values()) cancelOwed(owed, error);
    this.#owed.clear();
  }

  /** Records that a request of the peer received its whole reply. */
  replied(id: number): void {
    this.#owed.delete(id);
    this.#idle.notify();
  }

  /** Sends a reply, see {@linkcode ReplySender}. */
  reply(id: number, data: unknown, topic: string): void {
    const { sending } = this.#core;
    const reply = sending.encode({ reply: id, data }, `reply to "${topic}"`);
    this.replied(id);
    sending.give(reply);
  }

  /** Sends a streaming response to a request of the peer, see {@linkcode ReplySender}. */
  stream(id: number, items: AsyncIterable<unknown>, message: Message): Promise<void> {
    const responding = this.#core.settings.responses().then((part) =>
      (part as ResponsesModule).produceResponse(this.#core, id, items, message)
    );
    // Only an instrumentation reads the error; the producer reports it.
    responding.catch((error) => {
      if (message.producer !== undefined) return;
      if (!message.isCancelled) this.fail(id, this.failureOf(error));
      this.report(error);
    });
    return responding;
  }

  /** Sends a failed reply, see {@linkcode ReplySender}. */
  fail(id: number | null, failure: RequestFailure): void {
    if (id !== null) this.replied(id);
    this.#core.sending.post({ reply: id, error: failure });
  }

  /**
   * Returns the failure that the peer receives for a handler's error, without the text of unknown
   * errors.
   */
  failureOf(error: unknown): RequestFailure {
    if (error instanceof RequestError) return error.failure;
    if (this.#isOversize(error)) return { code: "too-large", message: error.message };
    return { code: "failed", message: "The handler failed" };
  }

  /**
   * Reports the error of a handler unless the application threw it as a reply. A reply that is too
   * large for the peer never closes the session, because the handler cannot know the limit.
   */
  report(error: unknown): void {
    if (error instanceof RequestError) return;
    const { settings, session } = this.#core;
    if (this.#isOversize(error)) report(settings, error, session);
    else this.#core.handlerFailed(error, "The handler failed");
  }

  /** True for a reply that fits this side's limit but not the peer's. */
  #isOversize(error: unknown): error is OversizeError {
    return error instanceof OversizeError && error.maxBytes < this.#core.settings.maxMessageBytes;
  }
}

function cancelOwed(owed: IncomingMessage | Message, reason: unknown): void {
  if (owed instanceof Message) owed.cancel(reason);
  else owed.cancelled = reason;
}
