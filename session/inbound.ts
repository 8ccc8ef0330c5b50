/**
 * The receiving half of a session: frames become envelopes, then checked messages for the handler
 * or loop.
 *
 * @module
 */
import { CloseCode, RequestError, SkeinError } from "../errors.ts";
import type { Runtime, Timer } from "../base/runtime.ts";
import type { Frame } from "../transport/connection.ts";
import { decodeBinary, isBinaryMessage } from "./wire/encode.ts";
import type { Checked, CheckedMessage, ContractMatch, Side } from "./contract.ts";
import { MAX_JOINED_BYTES } from "./queue/send_queue.ts";
import { type Envelope, readEnvelope } from "./wire/envelope.ts";
import {
  type Answerer,
  type Control,
  type InboundStats,
  type Incoming,
  Message,
  type Meter,
  type TopicNote,
  type TopicSink,
} from "./message.ts";
import { type Overtaking, ReceiveQueue } from "./queue/receive_queue.ts";
import type { ConsoleReport } from "./insight/console_report.ts";
import type { SessionWatch } from "./insight/session_watch.ts";
import type { SessionFace } from "./types.ts";
import { exceedsBytes } from "./wire/utf8.ts";

/**
 * Time that the first message may wait before a warning that the application has no reader, in
 * milliseconds: a loop may begin late.
 */
const UNHANDLED_MS = 5_000;

/** Invalid messages are counted per window of this length, in milliseconds. */
const INVALID_WINDOW_MS = 60_000;

/**
 * Requests of the peer that are handled while other handlers wait for the peer. Requests within
 * requests hardly go deeper, and the bound ends an endless recursion.
 */
const MAX_NESTED = 8;

/**
 * Time that further requests wait for one of those handlers to end, in milliseconds, before the
 * session refuses these requests as nested. If the peer only sent many requests at once, handlers
 * end as the peer replies.
 */
const NESTED_MS = 1_000;

/** The parts of a session that its receiving half needs. */
export interface InboundHost extends Answerer, Checked {
  /** The session, for the application's handlers. */
  readonly session: SessionFace;
  /** True on `skein.1`, which has joined frames, binary messages and control envelopes. */
  readonly joins: boolean;
  /** Time in milliseconds since the Unix epoch, as exact as the heartbeat. */
  readonly now: number;
  /** Requests of this end that wait for a handler of the peer. */
  readonly awaitedRequests: number;
  /** Dispatches an event. */
  emit(type: "protocolerror", detail: string): void;
  /** Handles control envelopes. */
  readonly controls: { receive(envelope: Control): void };
  /** Ends the session at once. */
  abort(code: number, reason: string): void;
}

/** Settings of a session that its receiving half needs, see `SessionSettings`. */
export interface InboundSettings {
  /** Clocks and timers of this node. */
  readonly runtime: Runtime;
  /** This end of the session. */
  readonly side: Side;
  /** Topics and their schemas. */
  readonly router: { check(incoming: Incoming, session: Checked): CheckedMessage } | undefined;
  /** The handlers of the application. */
  readonly handlers: {
    onMessage?(message: Message, session: SessionFace): void | Promise<void>;
    onError?(error: unknown, session: SessionFace): void;
  };
  /** The instrumentation of the session. */
  readonly watch: Pick<SessionWatch, "handle"> | undefined;
  /** Reads envelopes of clients; absent on a client, which has no services. */
  readonly services: { read(text: string): Envelope } | undefined;
  /** Prints failures that have no handler. */
  readonly console: ConsoleReport;
  /** Bounds of messages that wait to be handled. */
  readonly receiveQueue: { readonly maxMessages: number; readonly maxBytes: number };
  /** Messages handled at once. */
  readonly concurrency: number;
  /** Largest message, in bytes. */
  readonly maxMessageBytes: number;
  /** Requests at once. */
  readonly maxRequests: number;
  /** Invalid messages before the session closes. */
  readonly maxInvalidMessages: number;
}

/** The receiving half of a session. */
export class Inbound implements Overtaking<Incoming> {
  /**
   * Counts envelopes for rate limits. Declared only, to save memory: most sessions have no meter.
   */
  declare meter: Meter | undefined;
  /** Received messages that wait for a handler. */
  readonly queue: ReceiveQueue<Incoming>;
  /** True once a loop began to read messages. */
  isRead = false;
  /** Receives the messages in place of the loop, which ends. Declared only, see `meter`. */
  declare heir: Inbound | undefined;
  readonly #host: InboundHost;
  readonly #settings: InboundSettings;
  /**
   * Length of the longest frame, of one message or several joined; a longer one is not even parsed.
   */
  readonly #maxFrameLength: number;
  /** Unanswered requests by id: an `Incoming` while waiting, a `Message` while handled. */
  #answering: Map<number, Incoming | Message> | undefined;
  /** Messages whose handlers run, with the start time. */
  #running: Map<Message, number> | undefined;
  #yielded: Message | undefined;
  #sinks: Map<string, TopicSink> | undefined;
  #receivedMessages = 0;
  #receivedBytes = 0;
  #invalidMessages = 0;
  #invalidSince = 0;
  #recentlyInvalid = 0;
  #unreadMessages = 0;
  #unknownEnvelopes = 0;
  #protocolErrors = 0;
  #unhandledTimer: Timer | undefined;
  #nestedTimer: Timer | undefined;
  /** Count of the handlers that ended. */
  #finished = 0;

  /** Creates the receiving half, which calls the `onMessage` handler if there is one. */
  constructor(host: InboundHost, settings: InboundSettings) {
    this.#host = host;
    this.#settings = settings;
    this.queue = new ReceiveQueue(settings.receiveQueue, settings.concurrency);
    this.#maxFrameLength = Math.max(MAX_JOINED_BYTES, settings.maxMessageBytes);
    if (this.isHandled) this.queue.consume((incoming) => this.handle(incoming), this);
  }

  /** True if messages go to a handler. */
  get isHandled(): boolean {
    return this.#settings.handlers.onMessage !== undefined;
  }

  /**
   * Extra places for handlers: one that waits for a reply of the peer takes no place, because the
   * peer may have to send a request first.
   */
  get extraRoom(): number {
    return Math.min(MAX_NESTED, this.#host.awaitedRequests);
  }

  /** True for requests alone: messages and numbered envelopes keep their order. */
  mayOvertake({ id, seq }: Incoming): boolean {
    return id !== undefined && seq === undefined;
  }

  /** True while the peer waits for replies. */
  get owesAnswers(): boolean {
    return (this.#answering?.size ?? 0) > 0;
  }

  /** True if every message was handled and every request answered. */
  get isIdle(): boolean {
    return this.queue.isIdle && !this.owesAnswers;
  }

  /**
   * Start of the handler that runs longest, in milliseconds since the Unix epoch; `undefined` if no
   * handler runs.
   */
  get runningSince(): number | undefined {
    return this.#running?.values().next().value;
  }

  /** Counters, read when asked for. */
  get stats(): InboundStats {
    return {
      receivedMessages: this.#receivedMessages,
      receivedBytes: this.#receivedBytes,
      waitingMessages: this.queue.size,
      waitingBytes: this.queue.bytes,
      unreadMessages: this.#unreadMessages,
      invalidMessages: this.#invalidMessages,
      unknownEnvelopes: this.#unknownEnvelopes,
      protocolErrors: this.#protocolErrors,
    };
  }

  /** Routes the messages of a topic to a sink, or back to the handler or loop. */
  route(topic: string, sink: TopicSink | undefined): void {
    if (sink === undefined) this.#sinks?.delete(topic);
    else (this.#sinks ??= new Map()).set(topic, sink);
  }

  /**
   * Passes a note to the subscriptions of its topic; to all subscriptions if the note has no topic.
   */
  note(note: TopicNote): void {
    for (const [topic, sink] of this.#sinks ?? []) {
      if ((note.topic ?? topic) === topic) sink.offer(note, 0);
    }
  }

  /** Handles one frame. */
  receive(frame: Frame): void {
    if (typeof frame !== "string") return this.#receiveBinary(frame);
    if (frame.length > this.#maxFrameLength) return this.#tooLarge();
    if (!this.#host.joins || !frame.includes("\n")) return this.#receiveText(frame);
    for (const text of frame.split("\n")) {
      if (text !== "") this.#receiveText(text);
      if (this.queue.isEnded) return;
    }
  }

  /** Returns the next message for an iterator; `undefined` at the end. */
  async next(): Promise<Message | undefined> {
    this.isRead = true;
    this.#settings.runtime.clearTimeout(this.#unhandledTimer);
    while (true) {
      const incoming = this.queue.take();
      if (incoming !== undefined) {
        const message = await this.check(incoming);
        this.#yielded = message;
        if (message !== undefined) return message;
      } else if (this.queue.isEnded || this.heir) return undefined;
      else await this.queue.changed();
    }
  }

  /** Called when the loop is done with its last message. */
  release?(): void;

  /** Waits until every message was handled. */
  async idle(): Promise<void> {
    while (!this.isIdle) await this.queue.changed();
  }

  /** Accepts no more messages. Earlier ones are still handled, unless the queue is cleared. */
  end(reason: unknown): void {
    this.#settings.runtime.clearTimeout(this.#unhandledTimer);
    this.#settings.runtime.clearTimeout(this.#nestedTimer);
    this.queue.end();
    for (const owed of this.#answering?.values() ?? []) cancel(owed, reason);
    for (const message of this.#running?.keys() ?? []) message.cancel(reason);
    this.#yielded?.cancel(reason);
    this.#answering = undefined;
  }

  /** Removes a request that was answered. */
  answered(id: number): void {
    this.#answering?.delete(id);
    this.queue.notify();
  }

  /** Checks a message against the contract; `undefined` if refused. */
  check(incoming: Incoming): CheckedMessage {
    const { router } = this.#settings;
    return router ? router.check(incoming, this.#host) : this.accept(incoming, undefined);
  }

  /** Creates a message that fits the contract, or that needs no check without a contract. */
  accept(incoming: Incoming, match: ContractMatch | undefined): Message {
    // A server identifies a peer by its session, and ignores any `from` that the peer sends.
    const keepsFrom = this.#settings.side === "client" || incoming.from === undefined;
    const message = new Message(
      keepsFrom ? incoming : { ...incoming, from: undefined },
      match,
      this.#host,
    );
    if (incoming.cancelled !== undefined) message.cancel(incoming.cancelled);
    else if (incoming.id !== undefined) (this.#answering ??= new Map()).set(incoming.id, message);
    return message;
  }

  /**
   * Counts an invalid input; too many within a minute end the session.
   *
   * @param what The expected and the received value.
   */
  countInvalid(what: string): void {
    this.#invalidMessages++;
    this.#protocolError(what);
    const now = this.#settings.runtime.now();
    if (now - this.#invalidSince > INVALID_WINDOW_MS) {
      this.#invalidSince = now;
      this.#recentlyInvalid = 0;
    }
    this.#recentlyInvalid++;
    if (this.#recentlyInvalid < this.#settings.maxInvalidMessages) return;
    this.#host.abort(CloseCode.malformed, `${this.#recentlyInvalid} invalid messages`);
  }

  #receiveText(text: string): void {
    const { maxMessageBytes } = this.#settings;
    this.#receivedBytes += text.length;
    if (exceedsBytes(text, maxMessageBytes)) return this.#tooLarge();
    this.receiveEnvelope(this.#read(text), text.length);
  }

  #receiveBinary(frame: Uint8Array): void {
    this.#receivedBytes += frame.length;
    if (!this.#host.joins || !isBinaryMessage(frame)) {
      return this.#malformed("Expected a text frame, received a binary frame", null);
    }
    if (frame.length > this.#settings.maxMessageBytes) return this.#tooLarge();
    const parts = decodeBinary(frame);
    if (parts === undefined) {
      return this.#malformed("Expected a binary message, received a frame that is not whole", null);
    }
    const envelope = this.#read(parts.head);
    const whole = "data" in envelope ? { ...envelope, data: parts.data } : envelope;
    this.receiveEnvelope(whole, frame.length);
  }

  /**
   * Reads an envelope; clients do without the services' reader, which also knows the requests of
   * clients.
   */
  #read(text: string): Envelope {
    return this.#settings.services?.read(text) ?? readEnvelope(text);
  }

  /** Handles an envelope; false if the rate limit refuses the envelope. */
  protected receiveEnvelope(envelope: Envelope, size: number): void | false {
    if (this.meter?.refuses(envelope, size)) return false;
    switch (envelope.kind) {
      case "message":
        return this.#receiveMessage(envelope, size);
      case "cancel":
        return this.#cancelled(envelope.id);
      case "malformed":
        return this.#malformed(envelope.message, envelope.id);
      case "unknown":
        this.#unknownEnvelopes++;
        return;
      case "reply":
        return this.#host.controls.receive(envelope);
      default:
        if (this.#host.joins) return this.#host.controls.receive(envelope);
        return this.#malformed(
          `Expected a message: a plain WebSocket carries no ${envelope.kind}`,
          "id" in envelope ? envelope.id ?? null : null,
        );
    }
  }

  /** Accepts a message within the bounds of requests and queue. */
  #receiveMessage(incoming: Incoming, size: number): void {
    const { topic, id } = incoming;
    this.#receivedMessages++;
    if (id !== undefined && (this.#answering?.size ?? 0) >= this.#settings.maxRequests) {
      this.#host.fail(id, {
        code: "too-many",
        message: `${this.#settings.maxRequests} requests wait for their answers already`,
      });
      return this.countInvalid(`Expected at most ${this.#settings.maxRequests} requests at once`);
    }
    if (id !== undefined && !this.#owe(id, incoming)) return;
    const sink = this.#sinks?.get(topic);
    if (sink !== undefined && id === undefined) return sink.offer(incoming, size);
    // A request stays with this session, even after a handover, because the reply leaves by the
    // same way.
    const { queue } = id === undefined && this.heir || this;
    while (!queue.offer(incoming, size)) {
      if (this.isHandled || this.isRead) {
        const who = this.isHandled ? "handler" : "loop";
        return this.#host.abort(CloseCode.queueFull, `The ${who} over the messages is too slow`);
      }
      // The application never read a message, so the oldest is discarded, as events without a
      // listener are.
      this.#discard(queue.take()!);
    }
    if (this.#isStuck) this.#watchNested();
    if (this.isHandled || this.isRead || topic.startsWith("presence:")) return;
    this.#unhandledTimer ??= this.#settings.runtime.setTimeout(
      () => this.#unhandled(topic),
      UNHANDLED_MS,
    );
  }

  /**
   * Prints that messages have no reader. Presence notices do not count: not every client needs
   * these.
   */
  #unhandled(topic: string): void {
    if (this.#settings.handlers.onError !== undefined) return;
    const reader = this.#settings.side === "client" ? "client, or subscribe to it" : "session";
    this.#settings.console.tell(
      "unhandled",
      `Messages on "${topic}" wait in vain: set onMessage, or loop over the ${reader}`,
    );
  }

  /** True if all handlers may wait for the peer, and no place is left for another. */
  get #isStuck(): boolean {
    return this.isHandled && this.#host.awaitedRequests > MAX_NESTED &&
      this.queue.running >= this.#settings.concurrency + MAX_NESTED;
  }

  /**
   * Refuses waiting requests if no handler ends for a while: the peer may wait for these requests.
   */
  #watchNested(): void {
    const finished = this.#finished;
    this.#nestedTimer ??= this.#settings.runtime.setTimeout(() => {
      this.#nestedTimer = undefined;
      if (!this.#isStuck) return;
      if (finished !== this.#finished) return this.#watchNested();
      const message = `Requests are nested more than ${MAX_NESTED} deep`;
      for (const { id, cancelled } of this.queue.takeOvertaking()) {
        if (cancelled === undefined) this.#host.fail(id!, { code: "too-many", message });
      }
    }, NESTED_MS);
  }

  #discard({ topic, id }: Incoming): void {
    this.#unreadMessages++;
    if (id === undefined) return;
    this.#host.fail(id, { code: "unanswered", message: `Nobody reads "${topic}"` });
  }

  /** Registers a request that needs a reply; false if the id is still in use. */
  #owe(id: number, incoming: Incoming): boolean {
    const owed = this.#answering ??= new Map();
    if (owed.has(id)) {
      this.#malformed(`Expected a number that is not in use, received ${id} again`, null);
      return false;
    }
    owed.set(id, incoming);
    return true;
  }

  /** Checks a message, and calls the handler. */
  protected handle(incoming: Incoming): void | Promise<void> {
    const message = this.check(incoming);
    if (message instanceof Promise) {
      return message.then((checked) => checked && this.#call(checked, incoming));
    }
    if (message !== undefined) return this.#call(message, incoming);
  }

  #call(message: Message, incoming: Incoming): void | Promise<void> {
    const { handlers: { onMessage }, watch } = this.#settings;
    const { session } = this.#host;
    try {
      // An untyped program may return any value.
      const running =
        (watch ? watch.handle(message, session, incoming.trace) : onMessage!(message, session)) as
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

  /** Cancels a request whose peer gave up: the handler continues, but no reply is due. */
  #cancelled(id: number): void {
    const owed = this.#answering?.get(id);
    if (owed === undefined) return;
    this.answered(id);
    cancel(owed, new SkeinError("request", "The asker gave up"));
  }

  #done(message: Message): void {
    this.#finished++;
    this.#running?.delete(message);
    if (!message.isRequest || message.isAnswered) return;
    message.fail({
      code: "unanswered",
      message: `The handler of "${message.topic}" gave no answer`,
    });
  }

  #failed(error: unknown, message: Message, incoming: Incoming): void {
    this.#finished++;
    this.#running?.delete(message);
    if (error instanceof RequestError) return message.fail(error.failure);
    message.fail({ code: "failed", message: "The handler failed" });
    this.failed(error, incoming);
  }

  /** Reports the failed handler of a message, which is no fault of the peer. */
  protected failed(error: unknown, _incoming: Incoming): void {
    this.#host.handlerFailed(error, "The handler failed");
  }

  #malformed(message: string, id: number | null): void {
    this.#host.fail(id, { code: "malformed", message });
    this.countInvalid(message);
  }

  #tooLarge(): void {
    const what = `A message has at most ${this.#settings.maxMessageBytes} bytes`;
    this.#protocolError(what);
    this.#host.abort(CloseCode.tooLarge, what);
  }

  #protocolError(what: string): void {
    this.#protocolErrors++;
    this.#host.emit("protocolerror", what);
  }
}

function cancel(owed: Incoming | Message, reason: unknown): void {
  if (owed instanceof Message) owed.cancel(reason);
  else owed.cancelled = reason;
}

/**
 * Throws if another reader already receives the messages of a new loop.
 *
 * @param over Name of the loop's subject, for the error.
 * @param isRead True if another loop runs.
 * @param isHandled True if there is a handler.
 * @throws {TypeError} If another loop runs, or there is a handler.
 */
export function checkLoop(over: string, isRead: boolean, isHandled = false): void {
  if (!isRead && !isHandled) return;
  const reader = isHandled ? "the onMessage handler" : "another loop";
  throw new TypeError(`Cannot iterate over ${over}: its messages go to ${reader}`);
}
