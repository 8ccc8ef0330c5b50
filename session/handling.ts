/**
 * The messages of the peer on their way through the contract to the handler of the application, and
 * the replies that are owed.
 *
 * @module
 */
import { RequestError, type RequestFailure, SkeinError } from "../errors.ts";
import type { CheckedMessage, MessageAcceptor } from "./contract.ts";
import {
  type Answerer,
  type Control,
  type IncomingMessage,
  Message,
  type MessageMatch,
  type MessageTurn,
  type TopicNote,
} from "./message.ts";
import { report, type SessionRequests, type SessionSettings, tellSkipped } from "./settings.ts";
import type { RequestStreamOptions, SessionFace } from "./types.ts";
import { OversizeError } from "./wire/encode.ts";
import { type Envelope, FIRST_CREDIT, MAX_CREDIT } from "./wire/envelope.ts";

/** Receives data that does not fit the contract. */
type InvalidHandler = RequestStreamOptions["onInvalid"];

/** Data that does not fit the contract. */
interface Misfit {
  readonly data: unknown;
  /** Receives the error and the data; by default, `onError` receives the error. */
  readonly onInvalid: InvalidHandler;
}

/** The session, as its receiving half sees the session. */
export interface ReceivingSession extends Answerer {
  /** The session, for the application's handlers. */
  readonly session: SessionFace;
  /** Settings that many sessions share. */
  readonly settings: SessionSettings;
  /** True on `skein.1`, which has joined frames, binary messages and control envelopes. */
  readonly joins: boolean;
  /** Time in milliseconds since the Unix epoch, as exact as the heartbeat. */
  readonly now: number;
  /** Requests of this end that wait, without answers in parts that no loop awaits. */
  readonly awaitedAnswers: number;
  /** Requests of this end that wait for a handler of the peer. */
  readonly awaitedRequests: number;
  /** Requests of the peer for services, if this end has services. */
  readonly serving: SessionRequests | undefined;
  /** The part that reads frames and queues messages. */
  readonly inbound: {
    /** Counts a faulty input; too many within a minute end the session. */
    countInvalid(what: string): void;
    /** Counts data that does not fit the contract. */
    countMisfit(): void;
    /** Counts data that does not fit the contract, and tells how to refuse it. */
    misfit(id: number | null, failure: RequestFailure): RequestFailure | undefined;
    /** Passes a note to the subscriptions of its topic. */
    note(note: TopicNote): void;
    /** Messages that wait for a handler. */
    readonly queue: { notify(): void };
  };
  /** Dispatches an event. */
  emit(type: "protocolerror", detail: string): void;
  /** Requests of this end, which take the parts of answers. */
  readonly requests: {
    /** Hands an item to the receiver of its answer. */
    part(part: Extract<Envelope, { kind: "part" }>, size: number): void;
    /** Resolves a request with a reply; false if the request no longer waits. */
    answer(id: number, data: unknown, failure: RequestFailure | undefined): boolean;
    /** Ends an answer in parts; false if the request no longer waits. */
    end(id: number, failure: RequestFailure | undefined): boolean;
  };
  /** Sends an envelope. */
  post(envelope: object): void;
  /** Handles a control envelope. */
  receiveControl(envelope: Control): void;
  /** Tells the application of a message that is too large for this end. */
  missed(topic: string): void;
  /** Reports a failed handler to the application. */
  handlerFailed(error: unknown, reason: string): void;
  /** Waits for a decision of the application for a limited time. */
  inTime<T>(what: string, decision: Promise<T>): Promise<T>;
  /** Ends the session at once. */
  abort(code: number, reason: string): void;
}

/** Checks received messages, calls the handler, and knows the requests without a reply. */
export class Handling implements MessageAcceptor {
  /** Count of the handlers that ended. */
  finished = 0;
  /** Count of the cancelled answers in parts whose iterators have not returned. */
  leaving = 0;
  readonly #host: ReceivingSession;
  readonly #settings: SessionSettings;
  /** Unanswered requests by id: an `IncomingMessage` while waiting, a `Message` while handled. */
  #owed: Map<number, IncomingMessage | Message> | undefined;
  /** Messages whose handlers run, with the start time. */
  #running: Map<Message, number> | undefined;

  /** Creates the handling, with no message yet. */
  constructor(host: ReceivingSession) {
    this.#host = host;
    this.#settings = host.settings;
  }

  /** Count of the requests of the peer that wait for replies. */
  get owedAnswers(): number {
    return this.#owed?.size ?? 0;
  }

  /**
   * Start of the handler that runs longest, in milliseconds since the Unix epoch; `undefined` if no
   * handler runs.
   */
  get runningSince(): number | undefined {
    return this.#running?.values().next().value;
  }

  /** Registers a request that needs a reply; false if the id is still in use. */
  owe(id: number, incoming: IncomingMessage): boolean {
    const owed = this.#owed ??= new Map();
    if (owed.has(id)) return false;
    owed.set(id, incoming);
    return true;
  }

  /** Removes a request that was answered. */
  answered(id: number): void {
    this.#owed?.delete(id);
    this.#host.inbound.queue.notify();
  }

  /**
   * Adds credit for the answer to a request; false beyond the most credit of an answer. Credit for an
   * unknown answer has no effect.
   */
  more(id: number, items: number): boolean {
    const owed = this.#owed?.get(id);
    if (owed === undefined || owed instanceof Message) return owed?.more(items) ?? true;
    owed.items = (owed.items ?? FIRST_CREDIT) + items;
    return owed.items <= MAX_CREDIT;
  }

  /** Cancels a request whose peer gave up: the handler continues, but no reply is due. */
  cancel(id: number): void {
    const owed = this.#owed?.get(id);
    if (owed === undefined) return;
    this.answered(id);
    cancelOwed(owed, new SkeinError("request", "The peer cancelled the request"));
  }

  /** Cancels all requests and running handlers at the end of the session. */
  end(reason: unknown): void {
    for (const owed of this.#owed?.values() ?? []) cancelOwed(owed, reason);
    for (const message of this.#running?.keys() ?? []) message.cancel(reason);
    this.#owed = undefined;
  }

  /** Checks a message, and calls the handler. MUST NOT be called without a handler. */
  handle(incoming: IncomingMessage): void | Promise<void> {
    const { turn } = incoming;
    const message = this.check(incoming);
    const running = message instanceof Promise
      ? message.then((checked) => checked && this.#call(checked, incoming))
      : message && this.#call(message, incoming);
    // Runs after a failure too; otherwise the client would send the message for ever.
    return turn ? Promise.resolve(running).then(() => turn.end()) : running;
  }

  /** Checks a message against the contract; `undefined` if refused, or not due in its turn. */
  check(incoming: IncomingMessage): CheckedMessage {
    const { turn } = incoming;
    return turn ? this.#checkInTurn(incoming, turn) : this.#check(incoming);
  }

  #check(incoming: IncomingMessage): CheckedMessage {
    const { router, requests } = this.#settings;
    if (router !== undefined) return router.check(incoming, this);
    return this.accept(
      incoming,
      incoming.id === undefined ? undefined : requests?.match(incoming.topic),
    );
  }

  async #checkInTurn(incoming: IncomingMessage, turn: MessageTurn): Promise<Message | undefined> {
    const message = await turn.isDue() ? await this.#check(incoming) : undefined;
    if (message === undefined) turn.end();
    return message;
  }

  /** Creates a message that fits the contract, or that needs no check without a contract. */
  accept(incoming: IncomingMessage, match: MessageMatch | undefined): Message {
    const { id, from, cancelled } = incoming;
    // A server identifies a peer by its session, and ignores any `from` that the peer sends.
    const keepsFrom = this.#settings.side === "client" || from === undefined;
    const message = new Message(
      keepsFrom ? incoming : { ...incoming, from: undefined },
      match,
      this.#host,
    );
    // The message may have waited beyond the end of the session.
    if (cancelled !== undefined || this.#host.session.isClosed) message.cancel(cancelled);
    else if (id !== undefined) (this.#owed ??= new Map()).set(id, message);
    return message;
  }

  /** Waits for an asynchronous schema for a limited time. */
  inTime<T>({ pattern }: MessageMatch, outcome: Promise<T>): Promise<T> {
    return this.#host.inTime(`the schema of "${pattern}"`, outcome);
  }

  /**
   * Refuses a message that does not fit the contract. The application of a client learns of a message
   * that is no request; a server leaves that to its peer.
   */
  refuse(incoming: IncomingMessage, failure: RequestFailure): undefined {
    this.#refuse(incoming, failure, undefined);
  }

  /**
   * Checks a message of a subscription. Data that does not fit the contract is skipped.
   *
   * @param incoming The message.
   * @param onInvalid Receives the error and the data; by default, `onError` receives the error.
   */
  checkPublication(incoming: IncomingMessage, onInvalid: InvalidHandler): CheckedMessage {
    const { router } = this.#settings;
    if (router === undefined) return this.accept(incoming, undefined);
    return router.check(incoming, {
      accept: (accepted, match) => this.accept(accepted, match),
      refuse: (refused, failure) => this.#refuse(refused, failure, onInvalid),
      inTime: (match, outcome) => this.inTime(match, outcome),
      schemaFailed: (_, error) => void report(this.#settings, error, this.#host.session),
    });
  }

  /**
   * Checks the reply to a request of this end.
   *
   * @throws {RequestError} If the reply does not fit the contract.
   */
  async checkAnswer(topic: string, answer: unknown): Promise<unknown> {
    const { router } = this.#settings;
    if (router === undefined) return answer;
    try {
      const checked = router.checkAnswer(topic, answer);
      return await this.#host.inTime("the schema of a reply", checked);
    } catch (error) {
      if (error instanceof RequestError) this.#host.inbound.countMisfit();
      throw error;
    }
  }

  #refuse(
    { id: number, topic, data }: IncomingMessage,
    failure: RequestFailure,
    onInvalid: InvalidHandler,
  ): undefined {
    const id = number ?? null;
    const told = this.#host.inbound.misfit(id, failure);
    if (told !== undefined) this.#host.fail(id, told);
    if (id !== null || this.#settings.side === "server") return;
    const error = new RequestError(
      failure.code,
      `Cannot read the message on "${topic}": ${failure.message}`,
      failure,
    );
    this.#tell(error, { data, onInvalid });
  }

  /**
   * Counts data that is skipped because it does not fit the contract, and tells the application.
   *
   * @param error The reason.
   * @param of The data, and the function that receives both.
   */
  skip(error: RequestError, of: Misfit): void {
    this.#host.inbound.countMisfit();
    this.#tell(error, of);
  }

  #tell(error: RequestError, { data, onInvalid }: Misfit): void {
    if (onInvalid !== undefined) onInvalid(error, data);
    else tellSkipped(this.#settings, error, { session: this.#host.session });
  }

  /** Answers a message whose schema failed, which is no fault of the peer. */
  schemaFailed({ id }: IncomingMessage, error: unknown): undefined {
    this.#host.fail(id ?? null, { code: "failed", message: "The schema failed" });
    this.#host.handlerFailed(error, "The schema failed");
  }

  /** Calls the handler. Waits until the handler is done, but not until an answer in parts ends. */
  #call(message: Message, incoming: IncomingMessage): void | Promise<void> {
    const { handlers: { onMessage }, requests, watch } = this.#settings;
    const { session } = this.#host;
    const handler = requests?.handlerOf(message, incoming) ?? onMessage!;
    try {
      // An untyped program may return any value.
      const running = (watch
        ? watch.handle(message, session, incoming.trace, () =>
          handler(message, session))
        : handler(message, session)) as
          | Promise<void>
          | null
          | undefined;
      if (typeof running?.then === "function") {
        (this.#running ??= new Map()).set(message, this.#host.now);
        return running.then(
          () => this.#done(message),
          (error) => this.#failed(error, message, incoming),
        );
      }
      this.#done(message);
    } catch (error) {
      this.#failed(error, message, incoming);
    }
  }

  #done(message: Message): void {
    this.finished++;
    this.#running?.delete(message);
    if (!message.isRequest || message.isAnswered) return;
    message.fail({
      code: "unanswered",
      message: `The handler of "${message.topic}" gave no answer`,
    });
  }

  #failed(error: unknown, message: Message, { turn }: IncomingMessage): void {
    this.finished++;
    this.#running?.delete(message);
    message.fail(this.failureOf(error));
    if (!turn?.endsSession(error)) this.report(error);
  }

  /** Answers a request whose answer in parts could not begin. */
  streamFailed(id: number, error: unknown, { isCancelled }: Message): void {
    if (!isCancelled) this.#host.fail(id, this.failureOf(error));
    this.report(error);
  }

  /** Returns the failure that a peer gets for an error of a handler: no text of unknown errors. */
  failureOf(error: unknown): RequestFailure {
    if (error instanceof RequestError) return error.failure;
    if (this.#isOversize(error)) return { code: "too-large", message: error.message };
    return { code: "failed", message: "The handler failed" };
  }

  /** Recognizes an answer that fits the bound of this end, and not the bound of the peer. */
  #isOversize(error: unknown): error is OversizeError {
    return error instanceof OversizeError && error.maxBytes < this.#settings.maxMessageBytes;
  }

  /**
   * Reports the error of a handler, unless the error is an answer of the application. An answer that
   * is too large for the peer is no failure that ends the session: the handler cannot know the bound.
   */
  report(error: unknown): void {
    if (error instanceof RequestError) return;
    if (this.#isOversize(error)) report(this.#settings, error, this.#host.session);
    else this.#host.handlerFailed(error, "The handler failed");
  }
}

function cancelOwed(owed: IncomingMessage | Message, reason: unknown): void {
  if (owed instanceof Message) owed.cancel(reason);
  else owed.cancelled = reason;
}
