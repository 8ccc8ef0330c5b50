/**
 * The implementation of a session: states, queues, requests. `session.ts` has the public class.
 *
 * @module
 */
import {
  CloseCode,
  type CloseInfo,
  QueueFullError,
  RequestError,
  type RequestFailure,
  SessionClosedError,
  TimeoutError,
  UnsupportedError,
} from "../errors.ts";
import type {
  Backpressure,
  Connection,
  Frame,
  FrameReceiver,
  StreamDirection,
} from "../transport/connection.ts";
import { attempt } from "../base/call_safely.ts";
import { type PendingRequestOptions, PendingRequests, toRequestError } from "./pending_requests.ts";
import {
  encodeControl,
  encodeData,
  type EncodedMessage,
  encodeFailure,
  MAX_MESSAGE_BYTES,
} from "./wire/encode.ts";
import { checkTopic, type Hello, type OutgoingEnvelope } from "./wire/envelope.ts";
import { EventsOfSession, type SessionEventMap, type SessionEvents } from "./events.ts";
import { Heartbeat, type WatchedPeer } from "./heartbeat.ts";
import type { HistoryOptions } from "./wire/recovery.ts";
import { Handling, type ReceivingSession } from "./handling.ts";
import { Inbound } from "./inbound.ts";
import type { Control, Message } from "./message.ts";
import type { ControlStats } from "./types.ts";
import type { FrameTap } from "./queue/frames.ts";
import { SendQueue, type SendQueueOwner } from "./queue/turn.ts";
import { report, type SessionRequests, type SessionSettings, tellSkipped } from "./settings.ts";
import { withoutUndefined } from "../base/options.ts";
import { settlesWithin } from "../base/wait.ts";
import type { Runtime, Timer } from "../base/runtime.ts";
import type { SessionFace, SessionIdentity, SessionState, WaitOptions } from "./types.ts";

/** The subprotocol of Skein's own sessions. */
export const SKEIN_PROTOCOL = "skein.1";

/** Pings of the heartbeat have numbers up to this one, those of `ping()` higher ones. */
export const MAX_PINGS = 2 ** 32;

/**
 * The key of the implementation: `session[internals]` is for the modules of Skein alone.
 *
 * @ignore
 */
export const internals: unique symbol = Symbol();

/**
 * Failures of handlers within a minute that a session survives: a handler that always fails serves
 * no peer.
 */
const MAX_FAILURES = 20;

/** Time in which failures count together, in milliseconds. */
const FAILURES_WINDOW_MS = 60_000;

const TOO_MANY_FAILURES = `More than ${MAX_FAILURES} failures of handlers in a minute`;

/** The error of a decision that took longer than `requestTimeoutMs`. */
class LateDecision extends TimeoutError {}

/** The module of `SessionSettings.answers`, which this module must not name. */
interface AnswerModule<C> {
  produceAnswer(
    core: C,
    id: number,
    items: AsyncIterable<unknown>,
    message: Message,
  ): Promise<void>;
}

/**
 * The implementation of one session.
 *
 * @typeParam F The public class of sessions.
 */
export class SessionCore<F extends SessionFace = SessionFace>
  implements ReceivingSession, SendQueueOwner, WatchedPeer, FrameReceiver {
  /** The public face. */
  declare readonly session: F;
  /** The connection, which belongs to the session. */
  declare readonly connection: Connection;
  /** Settings that many sessions share. */
  declare readonly settings: SessionSettings;
  /** True on `skein.1`, which has joined frames, binary messages and control envelopes. */
  declare readonly joins: boolean;
  /** Messages to send; absent on a connection without message frames. */
  declare readonly queue: SendQueue | undefined;
  /** Calls the handler for the messages from the peer. */
  declare readonly handling: Handling;
  /** Reads the frames of the peer. */
  declare readonly inbound: Inbound;
  /** When the session was created, in milliseconds since the Unix epoch. */
  declare readonly createdAt: number;
  /** Id of the session. */
  declare id: string;
  /** The result of `authenticate`. */
  declare value: unknown;
  /** The verified user at the other end, where known. */
  declare user: string | undefined;
  /** True if the peer was admitted without an identity. */
  declare isGuest: boolean;
  /** State of the session. */
  state: SessionState = "connecting";
  /** The close that this end began. */
  ending: CloseInfo | undefined;
  /** How the session ended. */
  info: CloseInfo | undefined;
  /** Time of the peer's last sign of life, see {@linkcode WatchedPeer}; set on each frame. */
  lastHeard = 0;
  /** When the session was established, in milliseconds since the Unix epoch. */
  readyAt: number | undefined;
  /** When the session ended, in milliseconds since the Unix epoch. */
  closedAt: number | undefined;
  /** When the session began to drain, in milliseconds since the Unix epoch. */
  declare drainingAt: number | undefined;
  /** The last measured round trip, in milliseconds. */
  roundTripMs: number | undefined;
  /** True if a close also ends the shared connection below the session. */
  closesConnection = false;
  /** Count of the control envelopes that this end sent. */
  posted = 0;
  /** Count of failed handlers of the application. */
  handlerFailures = 0;
  /** True while the session waits for the peer's token. */
  declare awaitsToken: boolean;
  /** Calls that wait for a stream to open, by direction. */
  declare openings: Record<StreamDirection, number> | undefined;
  /** Merges both kinds of incoming streams for the loop over `incomingStreams()`. */
  declare incomingLoop: object | undefined;
  /** Calls of `ping()` that wait; pings of the heartbeat are not among these. */
  declare pings: PendingRequests | undefined;
  // A field that is only declared takes no memory until assigned: few sessions have one of these.

  /** Callbacks that end the loops over `monitorHealth()`. */
  declare monitors: Set<() => void> | undefined;
  /** Stops the time of each decision of the application that is under way. */
  declare decisions: Set<() => void> | undefined;
  /**
   * Decisions of the application that came too late, counted by name, and the time of the newest.
   * Bounded by the callbacks and the schemas of the application.
   */
  declare late: { readonly counts: Map<string, number>; at: number } | undefined;
  /** Times of the newest failures of handlers, at most `MAX_FAILURES`. */
  declare failedAt: number[] | undefined;
  /** On a client: the features in the `hello` of the server. */
  declare features: readonly string[] | undefined;
  /** On a server: the end of the peer's credentials, see `SessionIdentity`. */
  declare credentials: SessionIdentity["credentials"];
  /** On a client: called when the server asks for a new token. */
  declare onRenew: (() => void) | undefined;
  /** Names this session to the server in the request of the client's next session. */
  declare ticket: string | undefined;
  /** On a server: the secret of an earlier ticket, by which a guest is known again. */
  declare secret: string | undefined;
  /** Name of a session without a user, once asked for. */
  declare ownName: string | undefined;
  /** On a server: the session from which the client moves, see `SessionIdentity`. */
  declare predecessor: F | undefined;
  /** On a server: the session to which the client moved. */
  declare movedTo: F | undefined;
  /** Sees all frames, while an inspector follows the session. */
  declare tap: FrameTap | undefined;
  /** On a server: receives the first frames, in place of `inbound`. */
  declare firstFrames: { receive(frame: Frame): void } | undefined;
  /** Counters of the control envelopes that arrived, once one counts. */
  declare controlStats: { -readonly [Name in keyof ControlStats]: number } | undefined;
  /** On a server: how far the session is behind in handling messages. */
  declare backpressure: Backpressure | undefined;
  /**
   * The client at the other end, over all its sessions: user and client id. Absent until the client
   * gives an id.
   */
  declare client: string | undefined;
  /** On a client: true once the server has the id of this client. */
  declare isIntroduced: boolean | undefined;
  /** On a client: called with the number up to which the server handled messages. */
  declare onAck: ((n: number) => void) | undefined;
  /** On a client: notices a server that is silent while something is awaited. */
  declare liveness: { began(): void; heard(): void } | undefined;
  /** On a client: the session from which the client moved, if the server knows it. */
  declare follows: string | undefined;

  // Created when first needed: a session that only receives messages needs none of these.
  #requests: PendingRequests | undefined;
  #served: SessionRequests | undefined;
  #heartbeat: Heartbeat | undefined;
  #timer: Timer | undefined;
  #ready: PromiseWithResolvers<void> | undefined;
  #closed: PromiseWithResolvers<CloseInfo> | undefined;
  #onEnd: ((session: never) => void)[] | undefined;
  #events: EventsOfSession | undefined;
  /** On a server: true once `hello` is on its way. */
  #hasGreeted = false;
  #wasOpen = false;
  #pings = 0;
  #pingedAt = 0;
  #peerMaxBytes = Infinity;

  /**
   * Creates the session without starting; `begin` starts the session once the public object is
   * complete.
   */
  constructor(
    session: F,
    connection: Connection,
    settings: SessionSettings,
    identity: SessionIdentity<unknown, F>,
  ) {
    this.session = session;
    this.connection = connection;
    this.settings = settings;
    this.createdAt = settings.runtime.now();
    this.id = identity.id ?? settings.runtime.randomUUID();
    this.value = identity.value;
    this.user = identity.user;
    this.isGuest = identity.isGuest === true;
    this.awaitsToken = identity.awaitsToken === true;
    if (identity.secret) this.secret = identity.secret;
    if (identity.credentials) this.credentials = identity.credentials;
    if (identity.predecessor) this.predecessor = identity.predecessor;
    this.joins = connection.frames !== undefined && connection.protocol === SKEIN_PROTOCOL;
    this.handling = new Handling(this);
    this.inbound = new Inbound(this, this.handling);
    if (settings.services !== undefined) this.backpressure = this.inbound;
    const { frames } = connection;
    this.queue = frames && new SendQueue(frames, this, settings);
    // A client with another bound says so in its first envelope.
    if (this.joins && settings.side === "server") this.peerAccepts(MAX_MESSAGE_BYTES);
  }

  /** Starts the session: sends the first envelopes and receives frames. */
  begin(token: string | undefined): void {
    const { frames } = this.connection;
    if (frames === undefined) {
      this.framesEnded();
      return this.connected();
    }
    if (this.awaitsToken || this.predecessor !== undefined) {
      this.firstFrames = this.settings.services?.firstFrames(this.session);
    }
    this.#greet(token);
    frames.receive(this);
  }

  /** Handles a frame of the peer, see {@linkcode FrameReceiver}. */
  receiveFrame(frame: Frame): void {
    if (this.state === "closed") return;
    this.tap?.received(frame);
    this.settings.watch?.received(this.session, frame);
    if (this.#heartbeat !== undefined) this.lastHeard = this.#heartbeat.now;
    this.liveness?.heard();
    if (this.firstFrames !== undefined) this.firstFrames.receive(frame);
    else if (!this.awaitsToken) this.inbound.receive(frame);
  }

  /** Ends the session with the connection, see {@linkcode FrameReceiver}. */
  framesEnded(): void {
    this.connection.closed.then(
      ({ closeCode = 0, reason = "" }) => this.finish({ code: closeCode, reason, by: "remote" }),
      (error) =>
        this.finish({
          code: CloseCode.abnormal,
          reason: "The connection broke",
          by: "network",
          error,
        }),
    );
  }

  /** The user, or a name of its own for a session without one. */
  get name(): string {
    return this.user ?? (this.ownName ??= this.settings.services?.nameOf(this) ?? this.id);
  }

  /** Clocks and timers of this node. */
  get runtime(): Runtime {
    return this.settings.runtime;
  }

  /** Events of the session, created on first access. */
  get events(): SessionEvents {
    return this.#events ??= new EventsOfSession(this.session, this.settings);
  }

  /** Dispatches an event; does nothing before the first access to `events`. */
  emit<K extends keyof SessionEventMap>(type: K, detail: SessionEventMap[K]["detail"]): void {
    this.#events?.emit(type, detail);
  }

  /** Requests of this end: those of the application, subscriptions, publications, tokens. */
  get requests(): PendingRequests {
    return this.#requests ??= new PendingRequests(this.runtime, this.settings.maxRequests);
  }

  /** Count of all requests of this end that wait. */
  get openRequests(): number {
    return this.#requests?.size ?? 0;
  }

  /** Count of the requests for which code of this end may wait, see {@linkcode ReceivingSession}. */
  get awaitedAnswers(): number {
    return this.#requests?.awaited ?? 0;
  }

  /** Count of the application's requests that wait, see {@linkcode ReceivingSession}. */
  get awaitedRequests(): number {
    return this.#requests?.requests ?? 0;
  }

  /**
   * The heartbeat's clock in milliseconds, cheaper than that of the runtime; see
   * {@linkcode ReceivingSession}.
   */
  get now(): number {
    return this.#heartbeat?.now ?? this.runtime.now();
  }

  /** The heartbeat that watches the peer. */
  get heartbeat(): Heartbeat | undefined {
    return this.#heartbeat;
  }

  /** Size of the largest message that this end may send and the peer accepts, in bytes. */
  get maxSendBytes(): number {
    return Math.min(this.settings.maxMessageBytes, this.#peerMaxBytes);
  }

  /** Notes the size of the largest message that the peer accepts, in bytes. */
  peerAccepts(maxBytes: number): void {
    this.#peerMaxBytes = maxBytes;
    if (this.settings.side === "server") this.queue!.maxMessageBytes = maxBytes;
  }

  /** True while messages can be sent. */
  get isReady(): boolean {
    return this.ending === undefined && (this.state === "connected" || this.state === "draining");
  }

  /** Resolves once the session is established; rejects if the session closes before. */
  get ready(): Promise<void> {
    if (this.#ready === undefined) {
      this.#ready = Promise.withResolvers();
      this.#ready.promise.catch(() => {});
      this.#settleReady();
    }
    return this.#ready.promise;
  }

  /** Resolves with the end of the session; never rejects. */
  get closed(): Promise<CloseInfo> {
    if (this.#closed === undefined) {
      this.#closed = Promise.withResolvers();
      if (this.info !== undefined) this.#closed.resolve(this.info);
    }
    return this.#closed.promise;
  }

  /** Calls back when the session ends, before `onClose`; at once if the session is over. */
  whenEnded(callback: (session: F) => void): void {
    if (this.state === "closed") callback(this.session);
    else if (this.#onEnd !== undefined) this.#onEnd.push(callback);
    // Most sessions have one callback, and a list that grows by its first element has room for 17.
    else this.#onEnd = [callback];
  }

  /** Returns the send queue, or throws on a connection without message frames. */
  messages(verb: string): SendQueue {
    if (this.queue === undefined) {
      throw new UnsupportedError(
        `Cannot ${verb}: this ${this.connection.transport} connection carries streams and datagrams only`,
      );
    }
    return this.queue;
  }

  /** Throws if messages cannot be sent. */
  checkOpen(verb: string): void {
    if (!this.isReady) throw this.closedError(`Cannot ${verb}: the session is ${this.state}`);
  }

  /** Throws if the connection cannot carry the data. */
  checkData(verb: string, data: unknown): void {
    if (this.joins || !(data instanceof Uint8Array)) return;
    throw new UnsupportedError(
      `Cannot ${verb}: a ${this.connection.transport} without ${SKEIN_PROTOCOL} carries JSON only, received bytes`,
    );
  }

  /** Sends an encoded message. */
  push(message: EncodedMessage, isProtected: boolean): void {
    const { frame, size, topic, position } = message;
    const sequence = this.settings.turn.nextSequence();
    this.messages("send").push({ frame, size, topic, position, sequence, isProtected });
  }

  /** Sends an envelope that is never dropped; if the send queue has no room, the session closes. */
  post(envelope: OutgoingEnvelope): void {
    this.posted++;
    this.#post(encodeFailure(envelope, this.maxSendBytes));
  }

  #post(message: EncodedMessage): void {
    if (this.state === "closed") return;
    try {
      this.push(message, true);
    } catch (error) {
      // The queue closed the session already, and its `closeError` says why.
      if (!(error instanceof QueueFullError)) throw error;
    }
  }

  /** Sends a request to the peer and waits for the answer. */
  ask(
    what: string,
    encode: (id: number) => EncodedMessage,
    options: WaitOptions & Pick<PendingRequestOptions, "onAnswer" | "isRequest">,
  ): Promise<unknown> {
    const answer = this.requests.ask({
      ...options,
      what,
      timeoutMs: options.timeoutMs ?? this.settings.requestTimeoutMs,
      send: (id) => {
        // Before the session is established, only a token is offered this way.
        if (this.state === "closed" || this.ending !== undefined) this.checkOpen("ask");
        this.push(encode(id), true);
        this.inbound.roomGrew(options.isRequest);
      },
      cancel: (id, reason) => {
        this.post({ cancel: id });
        this.gaveUp(reason);
      },
    });
    this.liveness?.began();
    return answer;
  }

  /** Emits an `error` event where the reason is a timeout. */
  gaveUp(reason: unknown): void {
    if (reason instanceof TimeoutError) this.emit("error", reason);
  }

  /** Counts the calls that wait for a stream to open. */
  async opening<T>(direction: StreamDirection, stream: Promise<T>): Promise<T> {
    const openings = this.openings ??= { bidirectional: 0, unidirectional: 0 };
    openings[direction]++;
    try {
      return await stream;
    } catch (error) {
      this.gaveUp(error);
      throw error;
    } finally {
      openings[direction]--;
    }
  }

  /** Returns the id of this client, once a session, for the server to tell clients apart. */
  introduce(): { readonly client?: string } {
    if (this.isIntroduced || !this.joins || this.settings.side === "server") return {};
    this.isIntroduced = true;
    return { client: this.settings.client };
  }

  /** Subscribes to a topic, or unsubscribes. */
  askTopic(
    kind: "subscribe" | "unsubscribe",
    topic: string,
    options: WaitOptions & HistoryOptions & Pick<PendingRequestOptions, "onAnswer">,
  ): Promise<unknown> {
    checkTopic(topic, kind);
    const { since, last } = options;
    return this.ask(
      `the answer to ${kind} "${topic}"`,
      (id) => {
        const client = kind === "subscribe" ? this.introduce() : {};
        return this.#encode(
          { [kind]: topic, id, since, last, ...client } as OutgoingEnvelope,
          kind,
        );
      },
      options,
    );
  }

  /** Sets the data with which this end is present in a room. */
  async askPresence(room: string, data: unknown, options: WaitOptions): Promise<void> {
    checkTopic(room, "set presence");
    this.checkOpen("set presence");
    await this.ask(
      `the answer to the presence in "${room}"`,
      (id) => this.#encode({ presence: room, data, id }, "set presence"),
      // `onAnswer` exempts the request from `maxRequests`: a client may set data for many rooms.
      { ...options, onAnswer() {} },
    );
  }

  /** Offers a token to the server. */
  async authenticate(token: string, options: WaitOptions): Promise<void> {
    if (typeof token !== "string") {
      throw new TypeError(`Cannot authenticate: token must be a string, received ${typeof token}`);
    }
    await this.ask(
      "the token's acceptance",
      (id) => this.#encode({ auth: token, id }, "authenticate"),
      options,
    );
  }

  /**
   * Encodes a request for a service of the server.
   *
   * @throws {RequestError} If the server does not accept an envelope of that size.
   */
  #encode(envelope: OutgoingEnvelope, verb: string): EncodedMessage {
    const message = encodeControl(envelope, verb);
    if (message.size <= this.#peerMaxBytes) return message;
    throw new RequestError(
      "too-large",
      `Cannot ${verb}: a message must have at most ${this.#peerMaxBytes} bytes, received ${message.size}`,
    );
  }

  /** Answers a request of the peer, see {@linkcode ReceivingSession}. */
  answer(id: number, data: unknown): void {
    this.checkData("reply", data);
    const answer = encodeData({ reply: id, data }, {
      maxBytes: this.maxSendBytes,
      verb: "reply",
    });
    this.handling.answered(id);
    this.#post(answer);
  }

  /** Answers a request of the peer in parts, see {@linkcode ReceivingSession}. */
  stream(id: number, items: AsyncIterable<unknown>, message: Message): Promise<void> {
    const answering = this.settings.answers().then((part) =>
      (part as AnswerModule<this>).produceAnswer(this, id, items, message)
    );
    // Only an instrumentation asks for the failure, which the producer reports.
    answering.catch((error) => {
      if (message.producer === undefined) this.handling.streamFailed(id, error, message);
    });
    return answering;
  }

  /** Answers a request of the peer with a failure. */
  fail(id: number | null, failure: RequestFailure): void {
    if (id !== null) this.handling.answered(id);
    this.post({ reply: id, error: failure });
  }

  /** Services for the peer, if this end has services. */
  get serving(): SessionRequests | undefined {
    return this.#served ??= this.settings.services?.serve(this.session);
  }

  /** Handles an envelope that is no message: replies, pings, farewells, requests for services. */
  receiveControl(envelope: Control): void {
    const { handlers } = this.settings;
    const { session } = this;
    switch (envelope.kind) {
      case "reply": {
        const { id, data, error } = envelope;
        if (id === null) this.refusedByPeer(error);
        else if (!this.requests.answer(id, data, error)) this.#count("lateAnswers", 1);
        return;
      }
      case "end":
        if (!this.requests.end(envelope.id, envelope.error)) this.#count("lateAnswers", 1);
        return;
      case "ping":
        return this.post({ pong: envelope.n });
      case "pong":
        return this.pong(envelope.n);
      case "hello":
        if (this.settings.side === "client" && this.state === "connecting") {
          return this.connected(envelope.hello);
        }
        return this.inbound.countInvalid("Expected no hello");
      case "goaway":
        this.emit("goaway", envelope.goaway);
        this.emit("draining", null);
        return this.#notify(() => handlers.onGoAway?.(envelope.goaway, session));
      case "dropped":
        this.#count("droppedByPeer", envelope.count);
        this.inbound.note(envelope);
        return this.#notify(() => handlers.onDropped?.(envelope.count, envelope.topic, session));
      case "gap":
        this.emit("gap", envelope.gap);
        this.inbound.note(envelope);
        if (envelope.gap.reason === "too-large") this.missed(envelope.topic);
        return;
      case "unsubscribed":
        this.emit("unsubscribed", envelope.unsubscribed);
        return this.inbound.note(envelope);
      case "skip":
        return this.inbound.note(envelope);
      case "ack":
        return this.onAck?.(envelope.n);
      case "bounds":
        if (this.settings.side === "server") this.peerAccepts(envelope.maxMessageBytes);
        return;
      case "renew":
        this.emit("renew", { withinMs: envelope.withinMs });
        return this.onRenew?.();
      case "service": {
        const error = { code: "forbidden", message: `This end offers no ${envelope.service}` };
        return this.post({ reply: envelope.id, error });
      }
      default:
        return this.serving?.receive(envelope);
    }
  }

  /** Tells the application of a message that is too large for this end. */
  missed(topic: string): void {
    const { maxMessageBytes } = this.settings;
    const text =
      `Cannot receive a message on "${topic}": it has more than ${maxMessageBytes} bytes`;
    const advice = "the client goes on after it: raise maxMessageBytes, or send less";
    tellSkipped(this.settings, new RequestError("too-large", text), {
      session: this.session,
      advice,
    });
  }

  /** Reports a message that the peer refused, and that was not a request. */
  refusedByPeer(failure: RequestFailure | undefined): void {
    this.#count("refusedByPeer", 1);
    if (failure === undefined) return;
    const { handlers: { onRefused, onError }, side } = this.settings;
    if (onRefused) return this.#notify(() => onRefused(toRequestError(failure), this.session));
    if (onError) return;
    const { code, message } = failure;
    const peer = side === "client" ? "server" : "client";
    const line =
      `The ${peer} refused a message (${code}): ${message}; onRefused receives each refusal`;
    this.settings.console.tell("refused-message", line, { about: message });
  }

  #count(name: keyof ControlStats, amount: number): void {
    this.controlStats ??= { lateAnswers: 0, droppedByPeer: 0, refusedByPeer: 0 };
    this.controlStats[name] += amount;
  }

  #notify(call: () => unknown): void {
    attempt(call, (error) => this.handlerFailed(error, "A handler failed"));
  }

  /** Establishes the session. */
  connected(hello?: Hello): void {
    if (this.state !== "connecting" || this.ending !== undefined) return;
    const { side, handlers, watch } = this.settings;
    const services = this.settings.services?.services;
    this.runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    this.awaitsToken = false;
    const refusal = services?.admit?.(this.session);
    if (refusal !== undefined) return this.windUp({ ...refusal, by: "local" });
    this.#wasOpen = true;
    this.readyAt = this.runtime.now();
    this.state = "connected";
    if (hello !== undefined) {
      this.id = hello.session;
      this.peerAccepts(hello.maxMessageBytes);
      this.features = hello.features;
      this.ticket = hello.ticket;
      this.follows = hello.predecessor;
    } else if (this.joins && side === "server" && !this.#hasGreeted) this.#sayHello();
    if (this.joins) {
      this.#heartbeat = hello === undefined
        ? this.settings.heartbeat
        : heartbeatOf(this.runtime, hello);
      this.#heartbeat.add(this);
    }
    const { maxMessageBytes } = this.settings;
    if (hello !== undefined && maxMessageBytes !== MAX_MESSAGE_BYTES) {
      this.post({ bounds: { maxMessageBytes } });
    }
    this.#settleReady();
    this.emit("ready", null);
    services?.opened?.(this.session);
    watch?.opened(this.session);
    if (handlers.onOpen !== undefined) this.#callOnOpen();
  }

  /** Sends a ping of the heartbeat, see {@linkcode WatchedPeer}. */
  ping(): void {
    // A client sends a ping only when the server's ping is late.
    const { now, intervalMs } = this.#heartbeat!;
    const isLate = now - this.lastHeard > intervalMs * 1.2;
    if (this.settings.side !== "server" && !isLate) return;
    this.#pingedAt = this.runtime.monotonic();
    this.post({ ping: ++this.#pings });
  }

  /** Handles the answer to a ping; ignores late and unexpected answers. */
  pong(n: number): void {
    if (n > MAX_PINGS) this.pings?.answer(n - MAX_PINGS, undefined, undefined);
    else if (n === this.#pings && this.#pingedAt > 0) {
      this.roundTripMs = this.runtime.monotonic() - this.#pingedAt;
      this.#pingedAt = 0;
    }
  }

  /** Begins to drain. */
  startDraining(): void {
    this.state = "draining";
    this.drainingAt = this.runtime.now();
    this.emit("draining", null);
  }

  /** Ends the session for a peer that was silent for too long, see {@linkcode WatchedPeer}. */
  dead(silentMs: number): void {
    // Reading is paused while this end is behind, so the silence is not the peer's.
    if (this.connection.frames?.isPaused) return this.#heartbeat?.add(this);
    const error = new TimeoutError(
      `Cannot reach the peer: no sign of life in ${silentMs} ms`,
      silentMs,
    );
    this.abort(CloseCode.timedOut, "No sign of life", error, "network");
  }

  /**
   * Ends the session when the send queue overflows under the policy `close`, see {@linkcode
   * SendQueueOwner}.
   */
  overflow(error: QueueFullError): void {
    this.abort(CloseCode.queueFull, "The send queue is full", error);
  }

  /** Closes the session with a code and reason after flushing; the first close decides. */
  refuse(code: number, reason: string): void {
    if (this.state !== "closed" && this.ending === undefined) {
      this.windUp({ code, reason, by: "local" });
    }
  }

  /** Flushes the send queue, then closes, within `closeTimeoutMs`. */
  windUp(ending: CloseInfo): void {
    const { turn, closeTimeoutMs } = this.settings;
    this.ending = ending;
    if (this.state === "connected") this.startDraining();
    this.runtime.clearTimeout(this.#timer);
    turn.flush();
    if (this.info !== undefined) return;
    const close = () =>
      this.connection.close({
        closeCode: ending.code,
        reason: ending.reason,
        closeConnection: this.closesConnection,
      });
    this.#timer = this.runtime.setTimeout(() => {
      close();
      this.finish(ending);
    }, closeTimeoutMs);
    if (this.queue === undefined || this.queue.isFlushed) close();
    else this.queue.flushed().then(close);
  }

  /** Ends the session at once and discards the messages that wait for a handler. */
  abort(code: number, reason: string, error?: unknown, by: CloseInfo["by"] = "local"): void {
    if (this.state === "closed") return;
    if (error !== undefined) this.emit("error", error);
    // Flush earlier broadcasts first: the peer may still read the reason of the close, in order.
    this.settings.turn.flush();
    this.queue?.flush();
    this.connection.close({ closeCode: code, reason });
    this.inbound.clear();
    this.finish(withoutUndefined({ code, reason, by, error }));
  }

  /**
   * Reports a failed handler to the application. The session ends only if `onHandlerError` is
   * `close`, or if handlers fail too often.
   */
  handlerFailed(error: unknown, reason: string): void {
    this.#failed(error, () => {
      if (this.settings.onHandlerError === "close") return reason;
      return this.#failsTooOften() ? TOO_MANY_FAILURES : undefined;
    });
  }

  /** Reports a fatal failure, and ends the session. */
  endByFailure(error: unknown, reason: string): void {
    this.#failed(error, () => reason);
  }

  #failed(error: unknown, end: () => string | undefined): void {
    // The failed handler tried to use a session that closed: an expected error, not reported.
    if (this.state === "closed" && isOfClosing(error)) return;
    // An issue of its own names a decision that came too late.
    if (!(error instanceof LateDecision)) this.handlerFailures++;
    report(this.settings, error, this.session);
    const reason = end();
    if (reason === undefined) this.emit("error", error);
    else this.abort(CloseCode.handlerFailed, reason, error);
  }

  #failsTooOften(): boolean {
    const now = this.runtime.now();
    const failedAt = this.failedAt ??= [];
    return failedAt.push(now) > MAX_FAILURES && now - failedAt.shift()! < FAILURES_WINDOW_MS;
  }

  /** Creates the error of a call on a session that is over. */
  closedError(message: string): SessionClosedError {
    return closedError(message, this.info ?? this.ending);
  }

  #greet(token: string | undefined): void {
    const { side, handshakeTimeoutMs, requestTimeoutMs } = this.settings;
    const awaitsHello = this.joins && side === "client";
    if (!awaitsHello && !this.awaitsToken) {
      if (!this.predecessor) return this.connected();
      this.#sayHello();
      this.#hasGreeted = true;
      return this.giveUpAfter(handshakeTimeoutMs, "first message");
    }
    // A server that checks a token sends `hello` after the check, within the time of a request.
    if (!awaitsHello) return this.giveUpAfter(handshakeTimeoutMs, "token");
    this.giveUpAfter(token === undefined ? handshakeTimeoutMs : requestTimeoutMs, "hello");
    if (token === undefined) return;
    this.authenticate(token, {}).catch((error) => {
      // A server that refuses the token also closes, and the close code says whether to retry.
      if (error instanceof RequestError && this.state === "connecting") return;
      this.abort(CloseCode.unauthenticated, "The token was not accepted", error);
    });
  }

  /** Ends the session unless the handshake completes within a new timeout. */
  giveUpAfter(timeoutMs: number, what: string): void {
    this.runtime.clearTimeout(this.#timer);
    this.#timer = this.runtime.setTimeout(() => {
      const error = new TimeoutError(
        `Cannot wait for the ${what} longer than ${timeoutMs} ms`,
        timeoutMs,
      );
      this.abort(CloseCode.timedOut, `No ${what} in time`, error);
    }, timeoutMs);
  }

  #sayHello(): void {
    this.settings.hello!(this);
  }

  #callOnOpen(): void {
    const { onOpen } = this.settings.handlers;
    let isLate = false;
    const done = attempt(() => onOpen!(this.session), (error) => {
      // Messages were handled in the meantime, so the session goes on.
      if (isLate) this.handlerFailed(error, "The handler failed");
      else this.endByFailure(error, "The handler failed");
    });
    if (done === undefined) return;
    const opened = this.inTime("onOpen", done).catch((error) => {
      isLate = true;
      this.handlerFailed(error, "onOpen took too long");
    });
    this.inbound.holdFor(opened);
  }

  /**
   * Waits for a decision of the application, such as the answer of a schema, at most
   * `requestTimeoutMs`. A later result is ignored. On a server the end of the session ends the
   * limit, not the wait.
   *
   * @param what The function or the schema, for texts; one of a bounded number.
   * @param decision The decision.
   * @returns The decision.
   * @throws {TimeoutError} If the decision takes longer.
   */
  inTime<T>(what: string, decision: Promise<T>): Promise<T> {
    const { requestTimeoutMs: ms } = this.settings;
    const decided = Promise.withResolvers<T>();
    const timer = this.runtime.setTimeout(() => {
      const late = this.late ??= { counts: new Map(), at: 0 };
      late.counts.set(what, (late.counts.get(what) ?? 0) + 1);
      late.at = this.runtime.now();
      decided.reject(new LateDecision(`Cannot wait for ${what} longer than ${ms} ms`, ms));
    }, ms);
    const stop = () => {
      this.runtime.clearTimeout(timer);
      this.decisions?.delete(stop);
    };
    (this.decisions ??= new Set()).add(stop);
    decision.finally(stop).then(decided.resolve, decided.reject);
    return decided.promise;
  }

  /** Ends the session and releases all resources. Idempotent. */
  finish(cause: CloseInfo): void {
    if (this.state === "closed") return;
    // A local close stays local when the peer confirms the close, or the network fails meanwhile.
    const info = this.ending ?? cause;
    this.info = info;
    this.closedAt = this.runtime.now();
    this.state = "closed";
    this.runtime.clearTimeout(this.#timer);
    this.#heartbeat?.delete(this);
    // On a client, loops over subscriptions outlive the session.
    if (this.settings.side === "server") this.decisions?.forEach((stop) => stop());
    this.queue?.end();
    // Creating an Error captures a stack trace, which is slow; skip the error when no call awaits
    // it.
    const isAwaited = this.#requests?.size || this.pings?.size || this.inbound.owesAnswers ||
      this.#served?.isBusy;
    const error = isAwaited
      ? this.closedError("The session closed before the answer, so the outcome is unknown")
      : undefined;
    this.#requests?.rejectAll(error);
    this.pings?.rejectAll(error);
    this.#served?.end(error);
    this.inbound.end(error);
    this.#settleReady();
    const onEnd = this.#onEnd;
    this.#onEnd = undefined;
    onEnd?.forEach((callback) => callback(this.session as never));
    this.#closed?.resolve(info);
    this.#events?.end(info);
    if (!this.#wasOpen) return;
    this.settings.watch?.closed(this.session, info);
    if (this.settings.handlers.onClose !== undefined) void this.#callOnClose(info);
  }

  /** Calls `onClose` after the handlers of earlier messages, at most `closeTimeoutMs` later. */
  async #callOnClose(info: CloseInfo): Promise<void> {
    const { handlers, closeTimeoutMs } = this.settings;
    if (this.inbound.hasHandler && !this.inbound.isIdle) {
      if (!await settlesWithin(this.runtime, this.inbound.idle(), closeTimeoutMs)) {
        this.inbound.clear();
      }
    }
    try {
      await handlers.onClose?.(this.session, info);
    } catch (error) {
      report(this.settings, error, this.session);
    }
  }

  #settleReady(): void {
    if (this.#ready === undefined || this.state === "connecting") return;
    if (this.state === "closed") {
      this.#ready.reject(this.closedError("The session closed before it was ready"));
    } else this.#ready.resolve();
  }
}

/**
 * Creates the error of a call on a closed session or client, with the cause of the close if known.
 */
export function closedError(message: string, info: CloseInfo | undefined): SessionClosedError {
  if (info === undefined) return new SessionClosedError(message);
  const { code, reason, by, error } = info;
  const why = `${message} (${code}${reason && ` ${reason}`}, by ${by})`;
  return new SessionClosedError(why, { info, cause: error });
}

/** True for the error of a send to a closed session or into a full queue. */
function isOfClosing(error: unknown): boolean {
  return error instanceof SessionClosedError || error instanceof QueueFullError;
}

/**
 * Longest heartbeat interval accepted from a server, in seconds: a heartbeat has a slot for each
 * second.
 */
const MAX_INTERVAL_S = 600;

/** A client gives up on the server after two missed pings, with a margin of 40 % of an interval. */
function heartbeatOf(runtime: Runtime, hello: Hello): Heartbeat {
  const seconds = Math.round(hello.heartbeatMs / 1_000) || 1;
  const intervalMs = Math.min(MAX_INTERVAL_S, seconds) * 1_000;
  return new Heartbeat(runtime, { intervalMs, timeoutMs: intervalMs * 2.4 });
}
