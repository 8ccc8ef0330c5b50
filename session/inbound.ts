/**
 * The receiving half of a session: frames become envelopes, and messages wait for the handler or the
 * loop.
 *
 * @module
 */
import { CloseCode, type RequestFailure } from "../errors.ts";
import type { Timer } from "../base/runtime.ts";
import type { Backpressure, Frame } from "../transport/connection.ts";
import type { Handling, ReceivingSession } from "./handling.ts";
import type {
  IncomingMessage,
  Message,
  MessageTurn,
  Meter,
  TopicNote,
  TopicSink,
} from "./message.ts";
import type { InboundStats } from "./types.ts";
import { type Overtaking, ReceiveQueue } from "./queue/receive_queue.ts";
import { MAX_JOINED_BYTES } from "./queue/frames.ts";
import type { NumberedEnvelope, SessionSettings } from "./settings.ts";
import { decodeBinary, isBinaryMessage } from "./wire/encode.ts";
import { type Envelope, MAX_CREDIT, readEnvelope } from "./wire/envelope.ts";
import { exceedsBytes } from "./wire/utf8.ts";

/**
 * Time that the first message may wait before a warning that the application has no reader, in
 * milliseconds: a loop may begin late.
 */
const UNHANDLED_MS = 5_000;

/** Faulty inputs, and data that does not fit, are counted per window of this length, in milliseconds. */
const INVALID_WINDOW_MS = 60_000;

/**
 * Shortest interval between two refusals of messages without an id, in milliseconds, once the peer
 * has sent too much data that does not fit.
 */
const REFUSAL_INTERVAL_MS = 1_000;

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

/** The receiving half of a session, which tells the connection how full the queue is. */
export class Inbound implements Overtaking<IncomingMessage>, Backpressure {
  /**
   * Counts envelopes for rate limits. Declared only, to save memory: most sessions have no meter.
   */
  declare meter: Meter | undefined;
  /** Received messages that wait for a handler or a loop. */
  declare readonly queue: ReceiveQueue<IncomingMessage>;
  /**
   * Received requests that wait for their handlers, if there are handlers of requests beside a loop
   * over the messages. Declared only, see `meter`.
   */
  declare readonly requests: ReceiveQueue<IncomingMessage> | undefined;
  /** True once a loop began to read messages. */
  isRead = false;
  /** Receives the messages in place of the loop, which ends. Declared only, see `meter`. */
  declare heir: Inbound | undefined;
  readonly #host: ReceivingSession;
  readonly #handling: Handling;
  readonly #settings: SessionSettings;
  /**
   * Length of the longest frame, of one message or several joined; a longer one is not even parsed.
   */
  readonly #maxFrameLength: number;
  /** Message that the loop took last, and its turn. */
  #yielded: Message | undefined;
  #turn: MessageTurn | undefined;
  #sinks: Map<string, TopicSink> | undefined;
  #receivedMessages = 0;
  #receivedBytes = 0;
  #invalidMessages = 0;
  // Created when first needed: most peers get nothing wrong.
  #faults: Window | undefined;
  /** Messages whose data does not fit the contract. */
  #misfits: Window | undefined;
  #refusedAt = -Infinity;
  #unreadMessages = 0;
  #unknownEnvelopes = 0;
  #protocolErrors = 0;
  #unhandledTimer: Timer | undefined;
  #nestedTimer: Timer | undefined;

  /** Creates the receiving half, which calls the `onMessage` handler if there is one. */
  constructor(host: ReceivingSession, handling: Handling) {
    const { settings } = host;
    this.#host = host;
    this.#handling = handling;
    this.#settings = settings;
    this.queue = new ReceiveQueue(settings.receiveQueue, settings.concurrency);
    this.#maxFrameLength = Math.max(MAX_JOINED_BYTES, settings.maxMessageBytes);
    if (this.isHandled) this.queue.consume(handling, this);
    else if (settings.handlers.requests !== undefined) {
      this.requests = new ReceiveQueue(settings.receiveQueue, settings.concurrency);
      this.requests.consume(handling, this);
    }
  }

  /** True if messages go to a handler. */
  get isHandled(): boolean {
    return this.#settings.handlers.onMessage !== undefined;
  }

  /** True if messages, or requests alone, go to handlers. */
  get hasHandler(): boolean {
    return this.#handled !== undefined;
  }

  get #handled(): ReceiveQueue<IncomingMessage> | undefined {
    return this.isHandled ? this.queue : this.requests;
  }

  /** Runs the requests that may run, now that a request of this end waits. */
  roomGrew(isRequest = true): void {
    this.queue.notify();
    const handled = this.#handled;
    // In a microtask: a handler must not run within the call of another handler.
    if (isRequest && handled !== undefined && handled.size > 0) {
      queueMicrotask(() => handled.pump());
    }
  }

  /** Keeps handlers waiting until a promise settles. */
  holdFor(done: Promise<unknown>): void {
    this.#handled?.holdFor(done);
  }

  /** Drops all waiting messages. */
  clear(): void {
    this.queue.clear();
    this.requests?.clear();
  }

  /**
   * Extra places for handlers: one that waits for a reply of the peer takes no place, because the
   * peer may have to send a request first.
   */
  get extraRoom(): number {
    return Math.min(MAX_NESTED, this.#host.awaitedRequests);
  }

  /** True for requests alone: messages and numbered envelopes keep their order. */
  mayOvertake({ id, seq }: IncomingMessage): boolean {
    return id !== undefined && seq === undefined;
  }

  /** True while the peer waits for replies. */
  get owesAnswers(): boolean {
    return this.#handling.owedAnswers > 0;
  }

  /** True if every message was handled and every request answered. */
  get isIdle(): boolean {
    return this.queue.isIdle && this.requests?.isIdle !== false && !this.owesAnswers;
  }

  /**
   * Fill level of the queue, where 1 is full. Always 0 while the messages have no reader, and while
   * a handler waits for an answer of the peer: only further reading can bring that answer.
   */
  get fill(): number {
    if (this.#host.awaitedAnswers > 0) return 0;
    const { maxMessages, maxBytes } = this.#settings.receiveQueue;
    const fill = ({ size, bytes }: ReceiveQueue<IncomingMessage>) =>
      Math.max(size / maxMessages, bytes / maxBytes);
    const messages = this.isHandled || this.isRead ? fill(this.queue) : 0;
    return this.requests === undefined ? messages : Math.max(messages, fill(this.requests));
  }

  /** Resolves when the fill level, or the work left to do, may have changed. */
  changed(): Promise<void> {
    const { queue, requests } = this;
    return requests ? Promise.race([queue.changed(), requests.changed()]) : queue.changed();
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
    if (frame.length > this.#maxFrameLength && !this.#settings.skipOversize) {
      return this.#tooLarge();
    }
    if (!this.#host.joins || !frame.includes("\n")) return this.#receiveText(frame);
    for (const text of frame.split("\n")) {
      if (text !== "") this.#receiveText(text);
      if (this.queue.isEnded) return;
    }
  }

  /** Returns the next message for an iterator; `undefined` at the end. */
  async next(): Promise<Message | undefined> {
    this.release();
    this.isRead = true;
    this.#settings.runtime.clearTimeout(this.#unhandledTimer);
    while (true) {
      const incoming = this.queue.take();
      if (incoming !== undefined) {
        const message = await this.#handling.check(incoming);
        this.#yielded = message;
        if (message === undefined) continue;
        this.#turn = incoming.turn;
        return message;
      } else if (this.queue.isEnded || this.heir !== undefined) return undefined;
      else await this.queue.changed();
    }
  }

  /** Ends the turn of the message that the loop took last. */
  release(): void {
    this.#turn?.end();
    this.#turn = undefined;
  }

  /** Waits until every message was handled. */
  async idle(): Promise<void> {
    while (!this.isIdle) await this.changed();
  }

  /** Accepts no more messages. Earlier ones are still handled, unless the queue is cleared. */
  end(reason: unknown): void {
    this.#settings.runtime.clearTimeout(this.#unhandledTimer);
    this.#settings.runtime.clearTimeout(this.#nestedTimer);
    this.queue.end();
    this.requests?.end();
    this.#handling.end(reason);
    this.#yielded?.cancel(reason);
  }

  /**
   * Counts a faulty input: an envelope that cannot be read, or too many requests. Too many within a
   * minute end the session.
   *
   * @param what The expected and the received value.
   */
  countInvalid(what: string): void {
    this.#invalidMessages++;
    this.#protocolError(what);
    const { runtime, maxInvalidMessages } = this.#settings;
    const count = (this.#faults ??= new Window()).add(runtime.now());
    if (count < maxInvalidMessages) return;
    this.#host.abort(CloseCode.malformed, `${count} invalid messages`);
  }

  /** Counts data that does not fit the contract: the peer may have another version of the contract. */
  countMisfit(): void {
    this.#invalidMessages++;
  }

  /**
   * Counts data that does not fit the contract, and tells how to refuse it. Such data never ends the
   * session. After `maxInvalidMessages` within a minute, a server slows the peer by `too-many`, and a
   * client no longer tells the server of publications, which go to many other clients too.
   *
   * @param id The id of the request; `null` for a message without an id.
   * @param failure The reason.
   * @returns The failure for the peer; `undefined` if the peer was told often enough.
   */
  misfit(id: number | null, failure: RequestFailure): RequestFailure | undefined {
    this.countMisfit();
    const { runtime, maxInvalidMessages, side } = this.#settings;
    const now = runtime.now();
    const misfits = this.#misfits ??= new Window();
    const count = misfits.add(now);
    if (count <= maxInvalidMessages) return failure;
    if (id === null) {
      if (side === "client") return undefined;
      if (Math.abs(now - this.#refusedAt) < REFUSAL_INTERVAL_MS) return undefined;
      this.#refusedAt = now;
    }
    return {
      code: "too-many",
      message: `${count} messages in a minute did not fit the contract: ${failure.message}`,
      retryAfterMs: misfits.restMs(now),
    };
  }

  #receiveText(text: string): void {
    const { maxMessageBytes } = this.#settings;
    this.#receivedBytes += text.length;
    if (exceedsBytes(text, maxMessageBytes)) return this.#tooLarge(text);
    // Clients have no services, and do not read the requests for these.
    this.#receiveEnvelope(readEnvelope(text, this.#settings.services?.readService), text.length);
  }

  #receiveBinary(frame: Uint8Array): void {
    this.#receivedBytes += frame.length;
    if (!this.#host.joins || !isBinaryMessage(frame)) {
      return this.#malformed("Expected a text frame, received a binary frame", null);
    }
    const parts = decodeBinary(frame);
    if (frame.length > this.#settings.maxMessageBytes) return this.#tooLarge(parts?.head);
    if (parts === undefined) {
      return this.#malformed("Expected a binary message, received a frame that is not whole", null);
    }
    const envelope = readEnvelope(parts.head, this.#settings.services?.readService);
    const whole = "data" in envelope ? { ...envelope, data: parts.data } : envelope;
    this.#receiveEnvelope(whole, frame.length);
  }

  #receiveEnvelope(envelope: Envelope, size: number): void {
    const { joins } = this.#host;
    // Before a meter may refuse the envelope: a client sends its id only once.
    if (joins && "client" in envelope && !this.#host.serving?.introduce(envelope)) return;
    if (joins && "seq" in envelope) {
      const isRead = this.isHandled || this.isRead || envelope.kind === "publish" ||
        this.#goesToRequests(envelope);
      const turn = this.#host.serving?.turnOf(envelope, size, isRead);
      if (turn === null) return;
      // In turn it is never refused: the next acknowledged number would cover this one too.
      if (turn !== undefined) {
        if (envelope.kind === "publish") return this.#host.serving?.receive(envelope, turn);
        return this.#receiveMessage({ ...envelope, turn }, size);
      }
    }
    if (this.meter?.refuses(envelope, size)) return;
    switch (envelope.kind) {
      case "message":
        return this.#receiveMessage(envelope, size);
      case "cancel":
        return this.#handling.cancel(envelope.id);
      case "part":
        return this.#host.requests.part(envelope, size);
      case "more":
        if (this.#handling.more(envelope.id, envelope.items)) return;
        return this.#malformed(`Expected at most ${MAX_CREDIT} items of credit`, null);
      case "malformed":
        return this.#malformed(envelope.message, envelope.id);
      case "unknown":
        this.#unknownEnvelopes++;
        return;
      case "reply":
      case "end":
        return this.#host.receiveControl(envelope);
      default:
        if (this.#host.joins) return this.#host.receiveControl(envelope);
        return this.#malformed(
          `Expected a message: a plain WebSocket carries no ${envelope.kind}`,
          "id" in envelope ? envelope.id ?? null : null,
        );
    }
  }

  /** Accepts a message within the bounds of requests and queue. */
  #receiveMessage(incoming: IncomingMessage, size: number): void {
    const { topic, id } = incoming;
    this.#receivedMessages++;
    const { maxRequests } = this.#settings;
    const { owedAnswers, leaving } = this.#handling;
    if (id !== undefined && (owedAnswers >= maxRequests || leaving > maxRequests)) {
      const message = `${maxRequests} requests wait for answers already`;
      // The number may be that of an open request, which keeps its place.
      this.#host.post({ reply: id, error: { code: "too-many", message } });
      incoming.turn?.skip();
      // Handlers that go on after a cancel are no fault of the peer, but need a bound as well.
      if (owedAnswers < maxRequests) return;
      return this.countInvalid(message);
    }
    if (id !== undefined && !this.#handling.owe(id, incoming)) {
      incoming.turn?.skip();
      return this.#malformed(`Expected a number that is not in use, received ${id} again`, null);
    }
    const sink = this.#sinks?.get(topic);
    if (sink !== undefined && id === undefined && !sink.offer(incoming, size)) return;
    // A request stays with this session, even after a handover, because the reply leaves by the
    // same way.
    const { queue } = id === undefined && this.heir || this;
    if (this.#goesToRequests(incoming)) {
      if (this.requests!.offer(incoming, size)) {
        return this.#isStuck ? this.#watchNested() : undefined;
      }
      return this.#host.abort(CloseCode.queueFull, "The handlers of requests are too slow");
    }
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
      `Messages on "${topic}" have no reader: set onMessage, or loop over the ${reader}`,
    );
  }

  /** True if all handlers may wait for the peer, and no place is left for another. */
  get #isStuck(): boolean {
    const handled = this.#handled;
    return handled !== undefined && this.#host.awaitedRequests > MAX_NESTED &&
      handled.running >= this.#settings.concurrency + MAX_NESTED;
  }

  /** True for a request that the loop over the messages does not get. */
  #goesToRequests({ kind, id }: NumberedEnvelope | IncomingMessage): boolean {
    return this.requests !== undefined && kind === "message" && id !== undefined;
  }

  /**
   * Refuses waiting requests if no handler ends for a while: the peer may wait for these requests.
   */
  #watchNested(): void {
    const { finished } = this.#handling;
    this.#nestedTimer ??= this.#settings.runtime.setTimeout(() => {
      this.#nestedTimer = undefined;
      if (!this.#isStuck) return;
      if (finished !== this.#handling.finished) return this.#watchNested();
      const message = `Requests are nested more than ${MAX_NESTED} deep`;
      for (const { id, cancelled } of this.#handled!.takeOvertaking()) {
        if (cancelled === undefined) this.#host.fail(id!, { code: "too-many", message });
      }
    }, NESTED_MS);
  }

  #discard({ topic, id }: IncomingMessage): void {
    this.#unreadMessages++;
    if (id === undefined) return;
    this.#host.fail(id, { code: "unanswered", message: `No handler or loop reads "${topic}"` });
  }

  #malformed(message: string, id: number | null): void {
    this.#host.fail(id, { code: "malformed", message });
    this.countInvalid(message);
  }

  /** Refuses an envelope that is too large, or its head. The session ends unless a client can go on. */
  #tooLarge(text?: string): void {
    const what = `A message has at most ${this.#settings.maxMessageBytes} bytes`;
    this.#protocolError(what);
    if (text && this.#host.joins && this.#settings.skipOversize?.(this.#host, text)) return;
    this.#host.abort(CloseCode.tooLarge, what);
  }

  #protocolError(what: string): void {
    this.#protocolErrors++;
    this.#host.emit("protocolerror", what);
  }
}

/** Counts events within a minute. */
class Window {
  #since = -Infinity;
  #count = 0;

  /** Counts an event, and returns the number of events in the current minute. */
  add(now: number): number {
    // A clock that was set back begins a new minute, too.
    if (Math.abs(now - this.#since) > INVALID_WINDOW_MS) {
      this.#since = now;
      this.#count = 0;
    }
    return ++this.#count;
  }

  /** Time until the current minute ends, in milliseconds. */
  restMs(now: number): number {
    return Math.max(1, Math.ceil(this.#since + INVALID_WINDOW_MS - now));
  }
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
