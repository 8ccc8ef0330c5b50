/**
 * The receiving half of a session. It splits frames into envelopes. Messages wait for the handler
 * or the loop, are checked, and are then passed on. Handlers reply through `replies.ts`.
 *
 * @module
 */
import {
  CloseCode,
  type RequestFailure,
  type SessionClosedError,
  TimeoutError,
} from "../errors.ts";
import { attempt } from "../base/call_safely.ts";
import type { Timer } from "../base/runtime.ts";
import type { Backpressure, Frame, FrameReceiver } from "../transport/connection.ts";
import type { CheckedData } from "./contract.ts";
import type { SessionCore, SessionHalf, WaitObserver } from "./core.ts";
import { Faults, type InvalidHandler } from "./faults.ts";
import { type Heartbeat, heartbeatOf, type WatchedPeer } from "./heartbeat.ts";
import {
  type CheckedMessage,
  type Control,
  type IncomingMessage,
  Message,
  type MessageMatch,
  type MessageTurn,
  type Meter,
  noHandler,
  type TopicNote,
  type TopicSink,
} from "./message.ts";
import { MAX_JOINED_BYTES } from "./queue/frames.ts";
import { type Consumer, ReceiveQueue } from "./queue/receive_queue.ts";
import { Replies } from "./replies.ts";
import { type Sending, toRequestError } from "./sending.ts";
import {
  report,
  type SessionRequests,
  type SessionSettings,
  tellLoss,
} from "./settings/settings.ts";
import type { InboundStats, SessionLike } from "./types.ts";
import { decodeBinary, isBinaryMessage } from "./wire/encode.ts";
import { type Envelope, type Hello, MAX_CREDIT, readEnvelope } from "./wire/envelope.ts";
import { exceedsBytes } from "./wire/utf8.ts";

/**
 * If the first message has waited for this time, a warning says that the application has no reader.
 * In milliseconds; a loop may start late.
 */
const UNHANDLED_MS = 5_000;

/**
 * Number of the peer's requests that may run while other handlers wait for the peer. Nested
 * requests rarely go deeper, and the limit stops an endless recursion.
 */
const MAX_NESTED = 8;

/**
 * Maximum time that further requests wait for one of the waiting handlers to return, in
 * milliseconds. After that, the session rejects them as nested. If the peer merely sent many
 * requests at once, handlers return as the peer replies.
 */
const NESTED_MS = 1_000;

/** Time after which a handler counts as slow, in milliseconds. */
export const SLOW_HANDLER_MS = 10_000;

/** A message whose handler is running, with the time at which it started. */
export type Running = [message: Message, sinceMs: number];

/** The part of `insight/health.ts` that prints a slow handler. */
interface SlowPart {
  tellSlow(core: Inside): void;
}

/** A session with both of its halves: `session[internals]`. */
export type Inside<F extends SessionLike = SessionLike> = SessionCore<F> & {
  readonly sending: Sending;
  readonly receiving: Receiving;
};

/** Receives the frames of one session. */
export class Receiving
  implements SessionHalf, WaitObserver, FrameReceiver, WatchedPeer, Consumer<IncomingMessage> {
  /** Received messages that wait for a handler or a loop. */
  declare readonly queue: ReceiveQueue<IncomingMessage>;
  /** True once a loop has started to read messages. */
  isRead = false;
  /** Time at which the peer last sent something, see {@linkcode WatchedPeer}; set on each frame. */
  lastReceivedAt = 0;
  // A field that is only declared takes no memory until assigned, and few sessions have one of these.
  // Here and in the other classes of a session, that saves 200 of 2,400 bytes a session.

  /**
   * Received requests that wait for their handlers, if the application has request handlers and
   * also a loop over the messages.
   */
  declare readonly requests: ReceiveQueue<IncomingMessage> | undefined;
  /** The heartbeat that watches the peer. */
  declare heartbeat: Heartbeat | undefined;
  /** On a client: detects a server that is silent while something is awaited. */
  declare liveness: WaitObserver & { received(): void } | undefined;
  /** Counts envelopes for rate limits. */
  declare meter: Meter | undefined;
  /** Receives the messages instead of the loop, which ends. */
  declare heir: Receiving | undefined;
  /** On a server: measures how far the session is behind, see {@linkcode FrameReceiver}. */
  declare backpressure: Backpressure | undefined;
  /** On a server: receives the first frames instead of this half. */
  declare firstFrames: { receive(frame: Frame): void } | undefined;
  /** The last message of which a line said that its handler holds up others. */
  declare toldSlow: Message | undefined;
  /** On a client: called when the server asks for a new token. */
  declare onRenew: (() => void) | undefined;
  /** True while a loop reads messages. */
  declare isLooped: boolean | undefined;
  /**
   * True if messages are discarded while no loop is running, although one has run before. Whoever
   * sets this MUST tell the next loop.
   */
  declare discards: boolean | undefined;
  readonly #core: Inside;
  readonly #sending: Sending;
  readonly #settings: SessionSettings;
  /** Maximum length of a frame with one or several messages. A longer frame is not even parsed. */
  readonly #maxFrameLength: number;
  /** Messages whose handlers are running, with the time at which they started. */
  #running: Map<Message, number> | undefined;
  #yielded: Message | undefined;
  #turn: MessageTurn | undefined;
  #sinks: Map<string, TopicSink> | undefined;
  #faults: Faults | undefined;
  #replies: Replies | undefined;
  #services: SessionRequests | undefined;
  /** Number of handlers that have returned. */
  #finished = 0;
  #receivedMessages = 0;
  #receivedBytes = 0;
  #unreadMessages = 0;
  #unknownEnvelopes = 0;
  #unhandledTimer: Timer | undefined;
  #nestedTimer: Timer | undefined;

  constructor(core: SessionCore, sending: Sending) {
    const { settings } = core;
    this.#core = core as Inside;
    this.#sending = sending;
    this.#settings = settings;
    this.queue = new ReceiveQueue(settings.receiveQueue, settings.concurrency);
    this.#maxFrameLength = Math.max(MAX_JOINED_BYTES, settings.maxMessageBytes);
    if (this.isHandled) this.queue.consume(this);
    else if (settings.handlers.requests !== undefined) {
      this.requests = new ReceiveQueue(settings.receiveQueue, settings.concurrency);
      this.requests.consume(this);
    }
  }

  /** Starts to receive frames, see {@linkcode SessionHalf}. */
  begin(): void {
    this.#settings.services?.begin(this.#core.session);
    this.#core.connection.frames!.receive(this);
  }

  /** Watches the peer, and calls `onOpen`, see {@linkcode SessionHalf}. */
  opened(hello: Hello | undefined): void {
    const { handlers, heartbeat, runtime } = this.#settings;
    if (this.#core.joins) {
      this.heartbeat = hello === undefined ? heartbeat : heartbeatOf(runtime, hello.heartbeatMs);
      this.heartbeat.add(this);
    }
    if (handlers.onOpen !== undefined) this.#callOnOpen();
  }

  #callOnOpen(): void {
    const core = this.#core;
    const { onOpen } = this.#settings.handlers;
    let isLate = false;
    const done = attempt(() => onOpen!(core.session), (error) => {
      // Messages were handled in the meantime, so the session continues.
      if (isLate) core.handlerFailed(error, "The handler failed");
      else core.failed(error, "The handler failed");
    });
    if (done === undefined) return;
    const opened = core.inTime("onOpen", done).catch((error) => {
      isLate = true;
      core.handlerFailed(error, "onOpen took too long");
    });
    this.handled?.holdFor(opened);
  }

  /** True while the peer or a service waits for a reply, see {@linkcode SessionHalf}. */
  get isAwaited(): boolean {
    return this.#owesReplies || this.#services?.isBusy === true;
  }

  /** Drops all waiting messages, see {@linkcode SessionHalf}. */
  abort(): void {
    this.queue.clear();
    this.requests?.clear();
  }

  /**
   * Accepts no more messages, and cancels the requests of the peer, see {@linkcode SessionHalf}.
   * Earlier messages are still handled, unless they are dropped.
   */
  end(error: SessionClosedError | undefined): Promise<void> | undefined {
    const { runtime } = this.#settings;
    this.#services?.end(error);
    this.heartbeat?.delete(this);
    runtime.clearTimeout(this.#unhandledTimer);
    runtime.clearTimeout(this.#nestedTimer);
    this.queue.end();
    this.requests?.end();
    this.#replies?.end(error);
    for (const message of this.#running?.keys() ?? []) message.cancel(error);
    this.#yielded?.cancel(error);
    return this.handled !== undefined && !this.isIdle ? this.idle() : undefined;
  }

  /** Handles a frame of the peer, see {@linkcode FrameReceiver}. */
  receiveFrame(frame: Frame): void {
    const core = this.#core;
    if (core.state === "closed") return;
    core.tap?.received(frame);
    this.#settings.watch?.received(core.session, frame);
    if (this.heartbeat !== undefined) this.lastReceivedAt = this.heartbeat.now;
    this.liveness?.received();
    if (this.firstFrames !== undefined) this.firstFrames.receive(frame);
    else if (!core.awaitsToken) this.receive(frame);
  }

  /** Closes the session with the connection, see {@linkcode FrameReceiver}. */
  framesEnded(): void {
    this.#core.followConnection();
  }

  /** Sends a ping of the heartbeat, see {@linkcode WatchedPeer}. */
  ping(): void {
    // A client pings only when the server's ping is late.
    const { now, intervalMs } = this.heartbeat!;
    const isLate = now - this.lastReceivedAt > intervalMs * 1.2;
    if (this.#settings.side !== "server" && !isLate) return;
    this.#sending.ping();
  }

  /**
   * Prints a line if messages wait and no handler has started for a while, see
   * {@linkcode WatchedPeer}.
   */
  tick(): void {
    const started = this.handled?.size && this.#running?.values();
    // All of them, because a message waits for the first that returns.
    if (!started || this.heartbeat!.now - Math.max(...started) < SLOW_HANDLER_MS) return;
    this.#settings.insight().then((part) => (part as SlowPart).tellSlow(this.#core), () => {});
  }

  /** Closes the session of a peer that was silent for too long, see {@linkcode WatchedPeer}. */
  dead(silentMs: number): void {
    // Either this side reads nothing, or the peer polls, and its connection has its own time limit.
    if (this.#core.connection.frames?.isPaused) return this.heartbeat?.add(this);
    const message = `No message from the peer within ${silentMs} ms`;
    const error = new TimeoutError(message, silentMs);
    this.#core.abort(CloseCode.timedOut, "No sign of life", error, "network");
  }

  /** The faults of the peer. */
  get faults(): Faults {
    return this.#faults ??= new Faults(this.#core);
  }

  /** Replies to the requests of the peer. */
  get replies(): Replies {
    return this.#replies ??= new Replies(this.#core, this.queue);
  }

  /** On a server: the services for the peer, created with its first request for one. */
  get services(): SessionRequests {
    return this.#services ??= this.#settings.services!.serve(this.#core.session);
  }

  get #owesReplies(): boolean {
    return (this.#replies?.size ?? 0) > 0;
  }

  /** True if messages go to a handler. */
  get isHandled(): boolean {
    return this.#settings.handlers.onMessage !== undefined;
  }

  get hasReader(): boolean {
    return this.isHandled || this.isRead;
  }

  /**
   * The queue that feeds the handlers, which contains all messages or only requests; `undefined`
   * without a handler.
   */
  get handled(): ReceiveQueue<IncomingMessage> | undefined {
    return this.isHandled ? this.queue : this.requests;
  }

  /** Runs the requests of the peer that may run now, see {@linkcode WaitObserver}. */
  began(isRequest = true): void {
    this.liveness?.began();
    this.queue.notify();
    const handled = this.handled;
    // In a microtask: a handler must not run within the call of another handler.
    if (isRequest && handled !== undefined && handled.size > 0) {
      queueMicrotask(() => handled.pump());
    }
  }

  /**
   * Additional slots for handlers. A handler that waits for a reply of the peer does not use a
   * slot, because the peer may have to send a request first.
   */
  get extraRoom(): number {
    return Math.min(MAX_NESTED, this.#sending.awaitedRequests);
  }

  /** True only for requests: messages and numbered envelopes keep their order. */
  mayOvertake({ id, seq }: IncomingMessage): boolean {
    return id !== undefined && seq === undefined;
  }

  /**
   * Message of the longest-running handler, with the time at which it started, in milliseconds since
   * the Unix epoch; `undefined` if no handler is running.
   */
  get longest(): Running | undefined {
    return this.#running?.entries().next().value;
  }

  /** True if every message was handled and every request received a reply. */
  get isIdle(): boolean {
    return this.queue.isIdle && this.requests?.isIdle !== false && !this.#owesReplies;
  }

  /** Resolves when the fill level or the remaining work may have changed. */
  changed(): Promise<void> {
    const { queue, requests } = this;
    return requests ? Promise.race([queue.changed(), requests.changed()]) : queue.changed();
  }

  get stats(): InboundStats {
    return {
      receivedMessages: this.#receivedMessages,
      receivedBytes: this.#receivedBytes,
      waitingMessages: this.queue.size,
      waitingBytes: this.queue.bytes,
      unreadMessages: this.#unreadMessages,
      invalidMessages: this.#faults?.messages ?? 0,
      unknownEnvelopes: this.#unknownEnvelopes,
      protocolErrors: this.#faults?.protocolErrors ?? 0,
    };
  }

  /** Routes the messages of a topic to a sink, or back to the handler or loop if there is none. */
  route(topic: string, sink: TopicSink | undefined): void {
    if (sink === undefined) this.#sinks?.delete(topic);
    else (this.#sinks ??= new Map()).set(topic, sink);
  }

  /**
   * Passes a note to the subscriptions of its topic, or to all subscriptions if it has no topic.
   *
   * @returns True if the subscriptions of its topic request again what was dropped.
   */
  note(note: TopicNote): boolean {
    let isHandled = false;
    for (const [topic, sink] of this.#sinks ?? []) {
      if ((note.topic ?? topic) !== topic) continue;
      if (sink.offer(note, 0) === true) isHandled = true;
    }
    return isHandled && note.topic !== undefined;
  }

  receive(frame: Frame): void {
    if (typeof frame !== "string") return this.#receiveBinary(frame);
    if (frame.length > this.#maxFrameLength && !this.#settings.skipOversize) {
      return this.#tooLarge();
    }
    if (!this.#core.joins || !frame.includes("\n")) return this.#receiveText(frame);
    for (const text of frame.split("\n")) {
      if (text !== "") this.#receiveText(text);
      if (this.queue.isEnded) return;
    }
  }

  /** Returns the next message for an iterator; `undefined` at the end. */
  async next(): Promise<Message | undefined> {
    this.release();
    this.isRead = this.isLooped = true;
    this.#settings.runtime.clearTimeout(this.#unhandledTimer);
    while (true) {
      const incoming = this.queue.take();
      if (incoming !== undefined) {
        const message = await this.#checkDue(incoming);
        this.#yielded = message;
        if (message === undefined) continue;
        this.#turn = incoming.turn;
        return message;
      } else if (this.queue.isEnded || this.heir !== undefined) return undefined;
      else await this.queue.changed();
    }
  }

  /** Ends the turn of the message that the loop received last. */
  release(): void {
    this.#turn?.end();
    this.#turn = undefined;
  }

  /** Ends the loop that reads messages. */
  leave(): void {
    this.release();
    this.isLooped = false;
  }

  /** Waits until every message was handled. */
  async idle(): Promise<void> {
    while (!this.isIdle) await this.changed();
  }

  #receiveText(text: string): void {
    const { maxMessageBytes } = this.#settings;
    this.#receivedBytes += text.length;
    if (exceedsBytes(text, maxMessageBytes)) return this.#tooLarge(text);
    // Clients have no services, and don't read requests for them.
    this.#receiveEnvelope(readEnvelope(text, this.#settings.services?.readService), text.length);
  }

  #receiveBinary(frame: Uint8Array): void {
    this.#receivedBytes += frame.length;
    if (!this.#core.joins || !isBinaryMessage(frame)) {
      return this.#malformed("Expected a text frame, received a binary frame", null);
    }
    const parts = decodeBinary(frame);
    if (frame.length > this.#settings.maxMessageBytes) return this.#tooLarge(parts?.head);
    if (parts === undefined) {
      return this.#malformed("Expected a binary message, received a malformed frame", null);
    }
    const envelope = readEnvelope(parts.head, this.#settings.services?.readService);
    const whole = "data" in envelope ? { ...envelope, data: parts.data } : envelope;
    this.#receiveEnvelope(whole, frame.length);
  }

  #receiveEnvelope(envelope: Envelope, size: number): void {
    // This comes before a meter can reject the envelope, because a client sends its id only once. A
    // numbered message is never rejected, because the next acknowledged number would include it.
    const isOfClient = this.#core.joins && ("client" in envelope || "seq" in envelope);
    if (isOfClient && this.services.takes(envelope, size)) return;
    if (this.meter?.rejects(envelope, size)) return;
    switch (envelope.kind) {
      case "message":
        return this.receiveMessage(envelope, size);
      case "cancel":
        return this.#replies?.cancel(envelope.id);
      case "part":
        return this.#sending.requests.part(envelope, size);
      case "more":
        if (this.#replies?.more(envelope.id, envelope.items) !== false) return;
        return this.#malformed(`Expected at most ${MAX_CREDIT} items of credit`, null);
      case "malformed":
        return this.#malformed(envelope.message, envelope.id);
      case "unknown":
        this.#unknownEnvelopes++;
        return;
      case "reply":
      case "end":
        return this.#receiveControl(envelope, size);
      default:
        if (this.#core.joins) return this.#receiveControl(envelope, size);
        return this.#malformed(
          `Expected a message: a plain WebSocket carries no ${envelope.kind}`,
          (envelope as { readonly id?: number | null }).id ?? null,
        );
    }
  }

  receiveMessage(incoming: IncomingMessage, size: number): void {
    const { topic, id } = incoming;
    this.#receivedMessages++;
    if (id !== undefined && !this.#owe(id, incoming)) return;
    const sink = this.#sinks?.get(topic);
    if (sink !== undefined && id === undefined && !sink.offer(incoming, size)) return;
    // A request stays with this session even after a handover, because its reply is sent in the
    // same session.
    const { queue } = id === undefined && this.heir || this;
    if (this.requests !== undefined && id !== undefined) {
      if (this.requests.offer(incoming, size)) return this.#watchNested();
      return this.#core.abort(CloseCode.queueFull, "The request handlers are too slow");
    }
    while (!queue.offer(incoming, size)) {
      const isLeft = this.discards && !this.isLooped && !this.isHandled;
      if (isLeft) this.#unhandled(topic);
      else if (this.hasReader) {
        const who = this.isHandled ? "handler" : "loop";
        return this.#core.abort(CloseCode.queueFull, `The message ${who} is too slow`);
      }
      // No one reads the messages, so the oldest is discarded, like an event without a listener.
      this.#discard(queue.take()!);
    }
    this.#watchNested();
    if (!this.hasReader && !topic.startsWith("presence:")) this.#awaitReader(incoming);
  }

  /**
   * Rejects the requests that nothing has read after a while. Messages stay in the queue.
   *
   * @param first The first message. If it is no request, a warning names its topic.
   */
  #awaitReader(first: IncomingMessage): void {
    this.#unhandledTimer ??= this.#settings.runtime.setTimeout(() => {
      this.#unhandledTimer = undefined;
      // `onOpen` may start a loop.
      if (this.#core.decisions?.size) return this.#awaitReader(first);
      for (const request of this.queue.takeOvertaking(this)) this.#discard(request);
      if (first.id === undefined) this.#unhandled(first.topic);
    }, UNHANDLED_MS);
  }

  /**
   * Registers a request, to which a reply is due. Rejects it if the limit is exceeded, or if its id
   * is in use.
   */
  #owe(id: number, incoming: IncomingMessage): boolean {
    const { maxRequests } = this.#settings;
    const { replies } = this;
    if (replies.size >= maxRequests || replies.leaving > maxRequests) {
      const message = `At most ${maxRequests} requests may wait for replies`;
      // The id may belong to an open request, which stays registered.
      this.#sending.post({ reply: id, error: { code: "too-many", message } });
      incoming.turn?.skip();
      // Handlers that continue after a cancel are not the peer's fault, but they need a limit as
      // well.
      if (replies.size >= maxRequests) {
        this.faults.reject(`at most ${maxRequests} requests at once`);
      }
      return false;
    }
    if (replies.owe(id, incoming)) return true;
    incoming.turn?.skip();
    this.#malformed(`Expected an unused request id, received ${id} again`, null);
    return false;
  }

  /**
   * Warns that messages have no reader. Presence notices don't count: not every client needs them.
   */
  #unhandled(topic: string): void {
    if (this.#settings.handlers.onError !== undefined) return;
    const reader = this.#settings.side === "client" ? "client, or subscribe to it" : "session";
    this.#settings.console.tell(
      "unhandled",
      `Messages on "${topic}" have no reader: set onMessage, or loop over the ${reader}`,
    );
  }

  /** True if all handlers may be waiting for the peer and no slot is free. */
  get #isStuck(): boolean {
    const handled = this.handled;
    return handled !== undefined && this.#sending.awaitedRequests > MAX_NESTED &&
      handled.running >= this.#settings.concurrency + MAX_NESTED;
  }

  /**
   * Rejects waiting requests if all handlers are stuck and none returns for a while, because the
   * peer may be waiting for them.
   */
  #watchNested(): void {
    if (!this.#isStuck) return;
    const finished = this.#finished;
    this.#nestedTimer ??= this.#settings.runtime.setTimeout(() => {
      this.#nestedTimer = undefined;
      if (finished !== this.#finished || !this.#isStuck) return this.#watchNested();
      const message = `Requests are nested more than ${MAX_NESTED} deep`;
      for (const { id, cancelled } of this.handled!.takeOvertaking(this)) {
        if (cancelled === undefined) this.replies.fail(id!, { code: "too-many", message });
      }
    }, NESTED_MS);
  }

  #discard({ topic, id, cancelled }: IncomingMessage): void {
    this.#unreadMessages++;
    if (id === undefined || cancelled !== undefined) return;
    const message = noHandler(topic, this.#settings.side);
    this.replies.fail(id, { code: "unanswered", message });
  }

  #malformed(message: string, id: number | null): void {
    this.replies.fail(id, { code: "malformed", message });
    this.faults.countInvalid(message);
  }

  /**
   * Rejects an envelope, or its head, that is too large. The session closes unless a client can
   * skip it.
   */
  #tooLarge(text?: string): void {
    const what = `A message has at most ${this.#settings.maxMessageBytes} bytes`;
    this.faults.note(what);
    if (text && this.#core.joins && this.#settings.skipOversize?.(this.#core, text)) return;
    this.#core.abort(CloseCode.tooLarge, what);
  }

  /** Checks a message, and calls the handler. MUST NOT be called without a handler. */
  handle(incoming: IncomingMessage): void | Promise<void> {
    const message = this.#checkDue(incoming);
    const running = message instanceof Promise
      ? message.then((checked) => checked && this.#call(checked, incoming))
      : message && this.#call(message, incoming);
    return incoming.turn?.endAfter(running) ?? running;
  }

  /**
   * Checks a message when its turn comes. Returns `undefined` if the message is rejected, or is not
   * due.
   */
  #checkDue(incoming: IncomingMessage): CheckedMessage {
    return incoming.turn?.check(() => this.check(incoming)) ?? this.check(incoming);
  }

  /**
   * Checks a message against the contract. Returns `undefined` if the message is rejected.
   *
   * @param subscription The subscription that receives the message. If it is given, data that does
   * not fit is skipped: `onInvalid` receives the error and the data, or by default, `onError`
   * receives the error.
   */
  check(
    incoming: IncomingMessage,
    subscription?: { readonly onInvalid: InvalidHandler },
  ): CheckedMessage {
    const { router, requests } = this.#settings;
    const { topic, id } = incoming;
    if (router === undefined) {
      return this.#accept(incoming, id === undefined ? undefined : requests?.match(topic));
    }
    const match = router.match(topic);
    const judge = (checked: CheckedData) =>
      checked.failure === undefined
        ? this.#accept({ ...incoming, data: checked.data }, match)
        : this.#reject(incoming, checked.failure, subscription?.onInvalid);
    const failed = (error: unknown) => this.#schemaFailed(incoming, error, subscription);
    let checked: CheckedData | Promise<CheckedData>;
    try {
      checked = router.check(match, incoming);
    } catch (error) {
      return failed(error);
    }
    if (!(checked instanceof Promise)) return judge(checked);
    return this.#core.inTime(`the schema of "${match!.pattern}"`, checked).then(
      judge,
      failed,
    );
  }

  #accept(incoming: IncomingMessage, match: MessageMatch | undefined): Message {
    const { id, from, cancelled } = incoming;
    // A server identifies a peer by its session, and ignores any `from` that the peer sends.
    const keepsFrom = this.#settings.side === "client" || from === undefined;
    const message = new Message(
      keepsFrom ? incoming : { ...incoming, from: undefined },
      match,
      this.replies,
    );
    // The session may have closed while the message waited.
    if (cancelled !== undefined || this.#core.state === "closed") message.cancel(cancelled);
    else if (id !== undefined) this.replies.handling(id, message);
    return message;
  }

  /**
   * Rejects a message that does not fit the contract. Unless the message is a request, a client
   * also reports it to the application; a server leaves that to its peer.
   */
  #reject(
    { id: number, data }: IncomingMessage,
    failure: RequestFailure,
    onInvalid: InvalidHandler,
  ): Promise<undefined> | undefined {
    const id = number ?? null;
    const told = this.faults.misfit(id, failure);
    if (told !== undefined) this.replies.fail(id, told);
    if (id !== null || this.#settings.side === "server") return undefined;
    const error = toRequestError(failure);
    return (this.faults.tell(error, { data, onInvalid }) as Promise<void>)?.then?.(() => undefined);
  }

  /** Replies to a message whose schema threw, which is not the peer's fault. */
  #schemaFailed(
    { id }: IncomingMessage,
    error: unknown,
    subscription: object | undefined,
  ): undefined {
    if (subscription !== undefined) return void report(this.#settings, error, this.#core.session);
    this.replies.fail(id ?? null, { code: "failed", message: "The schema failed" });
    this.#core.handlerFailed(error, "The schema failed");
  }

  /** Calls the handler, and waits for it, but not for the end of a streaming response. */
  #call(message: Message, incoming: IncomingMessage): void | Promise<void> {
    const { watch } = this.#settings;
    try {
      // An untyped program may return any value.
      const running = (watch === undefined
        ? this.#run(message, incoming)
        : watch.handle(message, this.#core.session, incoming.trace, () =>
          this.#run(message, incoming))) as
          | Promise<void>
          | null
          | undefined;
      if (typeof running?.then === "function") {
        (this.#running ??= new Map()).set(
          message,
          this.heartbeat?.now ?? this.#settings.runtime.now(),
        );
        return running.then(
          () =>
            this.#done(message),
          (error) => this.#failed(error, message, incoming),
        );
      }
      this.#done(message);
    } catch (error) {
      this.#failed(error, message, incoming);
    }
  }

  #run(message: Message, incoming: IncomingMessage): void | Promise<void> {
    const { handlers: { onMessage }, requests } = this.#settings;
    const { session } = this.#core;
    if (requests === undefined || !message.isRequest) return onMessage!(message, session);
    return requests.handle(message, incoming, session);
  }

  #done(message: Message): void {
    this.#finished++;
    this.#running?.delete(message);
    if (!message.isRequest || message.hasReplied) return;
    message.fail({
      code: "unanswered",
      message: `The handler for "${message.topic}" returned without replying`,
    });
  }

  #failed(error: unknown, message: Message, { turn }: IncomingMessage): void {
    this.#finished++;
    this.#running?.delete(message);
    message.fail(this.replies.failureOf(error));
    if (!turn?.givesBack(error)) this.replies.report(error);
  }

  /**
   * Handles an envelope that is not a message, such as a reply, a ping, a `goaway`, or a request
   * for a service.
   */
  #receiveControl(envelope: Control, size: number): void {
    const core = this.#core;
    const { sending, session } = core;
    const { handlers, side } = this.#settings;
    switch (envelope.kind) {
      case "reply": {
        const { id, data, error } = envelope;
        if (id === null) sending.rejectedByPeer(error);
        else if (!sending.requests.reply(id, data, error)) sending.count("lateReplies");
        return;
      }
      case "end":
        if (!sending.requests.end(envelope.id, envelope.error)) sending.count("lateReplies");
        return;
      case "pong":
        return sending.pong(envelope.n);
      case "ack":
        return sending.onAck?.(envelope.n);
      case "bounds":
        if (side === "server") sending.peerAccepts(envelope.maxMessageBytes);
        return;
      case "ping":
        return sending.post({ pong: envelope.n });
      case "hello":
        if (side === "client" && core.state === "connecting") return core.connected(envelope.hello);
        return this.faults.countInvalid("Expected no hello");
      case "goaway":
        core.emit("goaway", envelope.goaway);
        core.emit("draining", null);
        return core.notify(() => handlers.onGoAway?.(envelope.goaway, session));
      case "dropped":
        sending.count("droppedByPeer", envelope.count);
        if (!this.note(envelope) && handlers.onDropped === undefined) {
          tellLoss(this.#settings, envelope, session);
        }
        return core.notify(() => handlers.onDropped?.(envelope.count, envelope.topic, session));
      case "gap": {
        const { gap, topic } = envelope;
        core.emit("gap", gap);
        this.note(envelope);
        if (gap.reason === "too-large") this.faults.missed(topic);
        else if (side === "client" && !this.#sinks?.has(topic) && !core.isFollowed) {
          tellLoss(this.#settings, envelope, session);
        }
        return;
      }
      case "unsubscribed":
        core.emit("unsubscribed", envelope.unsubscribed);
        return void this.note(envelope);
      case "skip":
        return void this.note(envelope);
      case "renew":
        core.emit("renew", { withinMs: envelope.withinMs });
        return this.onRenew?.();
      case "service": {
        const error = {
          code: "forbidden",
          message: `This side does not support ${envelope.service}`,
        };
        return sending.post({ reply: envelope.id, error });
      }
      default:
        // Without services, no such envelope is read.
        return this.services.receive(envelope, size);
    }
  }
}
