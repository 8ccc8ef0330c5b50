/**
 * The works of a session: its life, its queues, its halves. The public face is
 * in `session.ts`; broadcasts, topics and clients reach in here.
 *
 * @module
 */
import {
  CloseCode,
  type ClosedBy,
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
import { attempt } from "./base/call_safely.ts";
import { type AskOptions, Asks } from "./pending_requests.ts";
import { type ControlHost, Controls, type ControlStats } from "./controls.ts";
import { encodeControl, encodeData, type EncodedMessage } from "./wire/encode.ts";
import type { Hello, OutgoingEnvelope } from "./wire/envelope.ts";
import { EventsOfSession, type SessionEventMap, type SessionEvents } from "./events.ts";
import { type Heart, Heartbeat } from "./heartbeat.ts";
import type { IncomingLoop } from "./streams/incoming_streams.ts";
import type { HistoryOptions } from "./wire/recovery.ts";
import { Inbound, type InboundHost } from "./inbound.ts";
import { SendQueue, type SendQueueOwner } from "./queue/send_queue.ts";
import type { ServiceHost, SessionServing } from "./desk.ts";
import type { SessionSettings } from "./settings.ts";
import { checkTopic } from "./base/topic_pattern.ts";
import { settlesWithin } from "./base/wait.ts";
import type {
  PeerIdentity,
  SessionCredentials,
  SessionFace,
  SessionState,
  WaitOptions,
} from "./types.ts";
import { report } from "./report.ts";

/** The subprotocol of Skein's own sessions. */
export const SKEIN_PROTOCOL = "skein.1";

/** Pings of the heartbeat are numbered up to here, those of `ping()` from here. */
export const MAX_PINGS = 2 ** 32;

/**
 * The key under which a session keeps its works: `session[internals]` is for the modules of Skein
 * alone.
 *
 * @ignore
 */
export const internals: unique symbol = Symbol();

/** Failures of handlers within a minute that a session survives: a handler that always fails serves no peer. */
const MAX_FAILURES = 20;

/** The span of time in which failures count together, in milliseconds. */
const FAILURES_WINDOW_MS = 60_000;

const TOO_MANY_FAILURES = `More than ${MAX_FAILURES} failures of handlers in a minute`;

/**
 * The works of one session.
 *
 * @typeParam F The class of its public face.
 */
export class SessionCore<F extends SessionFace = SessionFace>
  implements InboundHost, ControlHost, ServiceHost, SendQueueOwner, Heart, FrameReceiver {
  /** The public face. */
  readonly session: F;
  /** Belongs to the session. */
  readonly connection: Connection;
  /** What it has in common with others. */
  readonly settings: SessionSettings;
  /** Whether this is `skein.1`: joined frames, binary messages, control. */
  readonly joins: boolean;
  /** What waits to be sent; absent on a wire without message frames. */
  readonly queue: SendQueue | undefined;
  /** What came. */
  readonly inbound: Inbound;
  /** When the session was created, in milliseconds since the Unix epoch. */
  readonly createdAt: number = Date.now();
  /** Id of the session. */
  id: string;
  /** What `authenticate` returned. */
  value: unknown;
  /** Who it is, if somebody said so. */
  user: string | undefined;
  /** Where the session is in its life. */
  state: SessionState = "connecting";
  /** The close that this end began. */
  ending: CloseInfo | undefined;
  /** How the session ended. */
  info: CloseInfo | undefined;
  /** Written by whoever hears the peer; see {@linkcode Heart}. */
  lastHeard = 0;
  /** When it was established; see `createdAt`. */
  readyAt: number | undefined;
  /** When it was over; see `createdAt`. */
  closedAt: number | undefined;
  /** When it began to wind up; see `createdAt`. */
  drainingAt: number | undefined;
  /** The last measured round trip, in milliseconds. */
  roundTripMs: number | undefined;
  /** Whether a close ends what carries the connection too. */
  closesConnection = false;
  /** Envelopes of this end that are no messages. */
  posted = 0;
  /** Handlers of the application that failed. */
  handlerFailures = 0;
  /** Calls that wait for a stream to open. */
  openings: Record<StreamDirection, number> | undefined;
  /** Merges the streams that come, for who loops over them. */
  incoming: IncomingLoop | undefined;
  /** Pings that somebody waits for, beside those of the heartbeat. */
  pings: Asks | undefined;
  /** Those who look at it again and again; only declared, as hardly any session has them. */
  declare monitors: Set<() => void> | undefined;
  /** Times of the newest failures of handlers, at most `MAX_FAILURES`; only declared, see `monitors`. */
  declare failedAt: number[] | undefined;
  /** What the server offers beside; only declared, as a server's sessions have it not. */
  declare features: readonly string[] | undefined;
  /** See `PeerIdentity`; only declared, as a client does not know. */
  declare credentials: SessionCredentials | undefined;
  /** Asked for a new token; only declared, see `onAck`. */
  declare onRenew: (() => void) | undefined;
  /** See `PeerIdentity`; only declared, as hardly any session has one. */
  declare successor: (() => F | undefined) | undefined;
  /** Names this session to its server, in the request of the next one; only declared, see `features`. */
  declare ticket: string | undefined;
  /** See `PeerIdentity`; only declared, as hardly any session has one. */
  declare predecessor: F | undefined;
  /** On a server: the session to which the client moved; only declared, see `predecessor`. */
  declare movedTo: F | undefined;
  /** Takes what comes after the end of this session; only declared, see `successor`. */
  declare heir: FrameReceiver | undefined;
  /** How far a server is behind; only declared, as a client does not tell. */
  declare backpressure: Backpressure | undefined;
  /** The client at the other end, over all its sessions: user and id; only declared, as many never say. */
  declare client: string | undefined;
  /** True if this client told the server its id; only declared, see `features`. */
  declare isIntroduced: boolean | undefined;
  /** Told up to which number the server handled messages; only declared, see `features`. */
  declare onAck: ((n: number) => void) | undefined;

  // Made when first needed: a session that only gets messages needs neither.
  #asks: Asks | undefined;
  #controls: Controls | undefined;
  #served: SessionServing | undefined;
  #heartbeat: Heartbeat | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ready: PromiseWithResolvers<void> | undefined;
  #closed: PromiseWithResolvers<CloseInfo> | undefined;
  #onEnd: ((session: never) => void)[] | undefined;
  #events: EventsOfSession | undefined;
  #awaitsToken: boolean;
  #hasToken = false;
  #inherits: boolean;
  #wasOpen = false;
  #pings = 0;
  #pingedAt = 0;
  #peerMaxBytes = Infinity;

  /** Creates the works; `begin` sets them going once the face is complete. */
  constructor(
    session: F,
    connection: Connection,
    settings: SessionSettings,
    identity: PeerIdentity<F>,
  ) {
    this.session = session;
    this.connection = connection;
    this.settings = settings;
    this.id = identity.id ?? newId();
    this.value = identity.value;
    this.user = identity.user;
    this.#awaitsToken = identity.awaitsToken === true;
    this.#inherits = identity.inherits === true;
    if (identity.successor) this.successor = identity.successor;
    if (identity.credentials) this.credentials = identity.credentials;
    if (identity.predecessor) this.predecessor = identity.predecessor;
    this.joins = connection.frames !== undefined && connection.protocol === SKEIN_PROTOCOL;
    this.inbound = settings.services?.inbound(this) ?? new Inbound(this, settings);
    const { frames } = connection;
    this.queue = frames && new SendQueue(frames, this, settings);
  }

  /** Sets the session going. */
  begin(token: string | undefined): void {
    const { frames } = this.connection;
    if (frames === undefined) {
      this.framesEnded();
      return this.connected();
    }
    const inherits = this.#inherits;
    this.#greet(token);
    if (!inherits) frames.receive(this);
  }

  /** Takes a frame; see {@linkcode FrameReceiver}. */
  receiveFrame(frame: Frame): void {
    if (this.state === "closed") return this.heir?.receiveFrame(frame);
    if (this.#heartbeat !== undefined) this.lastHeard = this.#heartbeat.now;
    if (this.#awaitsToken) void this.serving?.receiveToken(frame);
    else this.inbound.receive(frame);
  }

  /** Learns how the connection ended; see {@linkcode FrameReceiver}. */
  framesEnded(): void {
    if (this.heir) return this.heir.framesEnded();
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

  /** What happens to it, for who listens. */
  get events(): SessionEvents {
    return this.#events ??= new EventsOfSession(this);
  }

  /** Tells who listens, if anybody does. */
  emit<K extends keyof SessionEventMap>(type: K, detail: SessionEventMap[K]["detail"]): void {
    this.#events?.emit(type, detail);
  }

  /** Questions of this end. */
  get asks(): Asks {
    return this.#asks ??= new Asks(this.settings.maxRequests);
  }

  /** Questions of this end that wait. */
  get awaitedAnswers(): number {
    return this.#asks?.size ?? 0;
  }

  /** See {@linkcode InboundHost}. */
  get awaitedRequests(): number {
    return this.#asks?.requests ?? 0;
  }

  /** Counters of what came and is no message. */
  get controlStats(): ControlStats | undefined {
    return this.#controls?.stats;
  }

  /** See {@linkcode InboundHost}. */
  get now(): number {
    return this.#heartbeat?.now ?? Date.now();
  }

  /** What watches the peer. */
  get heartbeat(): Heartbeat | undefined {
    return this.#heartbeat;
  }

  /** What came and is no message. */
  get controls(): Controls {
    return this.#controls ??= new Controls(this, this.settings);
  }

  /** The largest message that can be sent: what this end allows, and the peer takes. */
  get maxSendBytes(): number {
    return Math.min(this.settings.maxMessageBytes, this.#peerMaxBytes);
  }

  /** Whether messages can be sent. */
  get isReady(): boolean {
    return this.ending === undefined && (this.state === "connected" || this.state === "draining");
  }

  /** Resolves once the session is established; rejects if it closes before. */
  get ready(): Promise<void> {
    if (this.#ready === undefined) {
      this.#ready = Promise.withResolvers();
      this.#ready.promise.catch(() => {});
      this.#settleReady();
    }
    return this.#ready.promise;
  }

  /** Resolves with how the session ended; never rejects. */
  get closed(): Promise<CloseInfo> {
    if (this.#closed === undefined) {
      this.#closed = Promise.withResolvers();
      if (this.info !== undefined) this.#closed.resolve(this.info);
    }
    return this.#closed.promise;
  }

  /** Calls back when the session is over, before `onClose`; at once if it is. */
  whenEnded(callback: (session: F) => void): void {
    if (this.state === "closed") callback(this.session);
    else (this.#onEnd ??= []).push(callback);
  }

  /** The send queue, on a wire that has one. */
  messages(verb: string): SendQueue {
    if (this.queue === undefined) {
      throw new UnsupportedError(
        `Cannot ${verb}: this ${this.connection.transport} connection carries streams and datagrams only`,
      );
    }
    return this.queue;
  }

  /** Throws if nothing can be sent. */
  checkOpen(verb: string): void {
    if (!this.isReady) throw this.closedError(`Cannot ${verb}: the session is ${this.state}`);
  }

  /** Throws if the wire cannot carry the data. */
  checkData(verb: string, data: unknown): void {
    if (this.joins || !(data instanceof Uint8Array)) return;
    throw new UnsupportedError(
      `Cannot ${verb}: a ${this.connection.transport} without ${SKEIN_PROTOCOL} carries JSON only, received bytes`,
    );
  }

  /** Sends a message that was encoded already. */
  push(message: EncodedMessage, isProtected: boolean): void {
    const { frame, size, topic } = message;
    const sequence = this.settings.turn.nextSequence();
    this.messages("send").push({ frame, size, topic, sequence, isProtected });
  }

  /** Sends an envelope that is never dropped; where even that finds no room, the session closes. */
  post(envelope: OutgoingEnvelope): void {
    this.posted++;
    this.#post(encodeControl(envelope));
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

  /** Asks the peer something, and waits for the answer. */
  ask(
    what: string,
    encode: (id: number) => EncodedMessage,
    options: WaitOptions & Pick<AskOptions, "onAnswer" | "isRequest">,
  ): Promise<unknown> {
    return this.asks.ask({
      ...options,
      what,
      timeoutMs: options.timeoutMs ?? this.settings.requestTimeoutMs,
      send: (id) => {
        // Before the session is established only a token is asked about.
        if (this.state === "closed" || this.ending !== undefined) this.checkOpen("ask");
        this.push(encode(id), true);
        const { queue } = this.inbound;
        queue.notify();
        // Later: a handler is not to run within the call of another one.
        if (options.isRequest && queue.size > 0) queueMicrotask(() => queue.pump());
      },
      cancel: (id, reason) => {
        this.post({ cancel: id });
        this.gaveUp(reason);
      },
    });
  }

  /** Tells who listens of what was waited for in vain. */
  gaveUp(reason: unknown): void {
    if (reason instanceof TimeoutError) this.emit("error", reason);
  }

  /** Counts who waits for a stream to open. */
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

  /** True if the server can leave the client that publishes out. */
  get canOmitEcho(): boolean {
    return this.features?.includes("echo") === true;
  }

  /** The error of publishing without an echo where the server cannot do so. */
  get echoError(): UnsupportedError | undefined {
    if (this.canOmitEcho) return undefined;
    return new UnsupportedError(
      "Cannot publish without an echo: the server does not tell clients apart",
    );
  }

  /** Gives the id of this client once, to a server that tells clients apart by it. */
  introduce(): { readonly client?: string } {
    if (this.isIntroduced || !this.canOmitEcho) return {};
    this.isIntroduced = true;
    return { client: this.settings.client };
  }

  /** Asks about a topic. */
  askTopic(
    kind: "subscribe" | "unsubscribe",
    topic: string,
    options: WaitOptions & HistoryOptions & Pick<AskOptions, "onAnswer">,
  ): Promise<unknown> {
    checkTopic(topic, kind);
    const { since, last } = options;
    return this.ask(
      `the answer to ${kind} "${topic}"`,
      (id) => {
        const client = kind === "subscribe" ? this.introduce() : {};
        return encodeControl({ [kind]: topic, id, since, last, ...client } as OutgoingEnvelope);
      },
      options,
    );
  }

  /** Tells the peer with which data this end is present in a room. */
  async askPresence(room: string, data: unknown, options: WaitOptions): Promise<void> {
    checkTopic(room, "set presence");
    this.checkOpen("set presence");
    if (!this.features?.includes("presence")) {
      throw new UnsupportedError("Cannot set presence: the peer takes no data of presence");
    }
    await this.ask(
      `the answer to the presence in "${room}"`,
      (id) => encodeControl({ presence: room, data, id }, "set presence"),
      // As many as a client may have data for; so they need no place among the other questions.
      { ...options, onAnswer() {} },
    );
  }

  /** Offers a token. */
  async authenticate(token: string, options: WaitOptions): Promise<void> {
    if (typeof token !== "string") {
      throw new TypeError(`Cannot authenticate: token must be a string, received ${typeof token}`);
    }
    await this.ask("the token's acceptance", (id) => encodeControl({ auth: token, id }), options);
  }

  /** Answers a request; see {@linkcode InboundHost}. */
  answer(id: number, data: unknown): void {
    this.checkData("reply", data);
    const answer = encodeData({ reply: id, data }, {
      maxBytes: this.maxSendBytes,
      verb: "reply",
    });
    this.inbound.answered(id);
    this.#post(answer);
  }

  /** Answers with a failure. */
  fail(id: number | null, failure: RequestFailure): void {
    if (id !== null) this.inbound.answered(id);
    this.post({ reply: id, error: failure });
  }

  /** What is done for the peer, if this end has services. */
  get serving(): SessionServing | undefined {
    return this.#served ??= this.settings.services?.serve(this);
  }

  /** The session is established. */
  connected(hello?: Hello): void {
    if (this.state !== "connecting" || this.ending !== undefined) return;
    const { side, handlers, watch } = this.settings;
    const services = this.settings.services?.services;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#awaitsToken = false;
    const refusal = services?.admit?.(this.session);
    if (refusal !== undefined) return this.windUp({ ...refusal, by: "local" });
    this.#wasOpen = true;
    this.readyAt = Date.now();
    this.state = "connected";
    if (hello !== undefined) {
      this.id = hello.session;
      this.#peerMaxBytes = hello.maxMessageBytes;
      this.features = hello.features;
      this.ticket = hello.ticket;
    } else if (this.joins && side === "server" && !this.#inherits) this.#sayHello();
    if (this.joins) {
      this.#heartbeat = hello === undefined ? this.settings.heartbeat : heartbeatOf(hello);
      this.#heartbeat.add(this);
    }
    this.#settleReady();
    this.emit("ready", null);
    services?.opened?.(this.session);
    watch?.opened(this.session);
    if (handlers.onOpen !== undefined) this.#callOnOpen();
  }

  /** Asks for a sign of life; see {@linkcode Heart}. */
  ping(): void {
    // A client times the server by its pings, and asks only when one is missing.
    const { now, intervalMs } = this.#heartbeat!;
    const isLate = now - this.lastHeard > intervalMs * 1.2;
    if (this.settings.side !== "server" && !isLate) return;
    this.#pingedAt = performance.now();
    this.post({ ping: ++this.#pings });
  }

  /** Takes the answer to a ping; those that nobody waits for, and late ones, say nothing. */
  pong(n: number): void {
    if (n > MAX_PINGS) this.pings?.answer(n - MAX_PINGS, undefined, undefined);
    else if (n === this.#pings && this.#pingedAt > 0) {
      this.roundTripMs = performance.now() - this.#pingedAt;
      this.#pingedAt = 0;
    }
  }

  /** Begins to wind up. */
  startDraining(): void {
    this.state = "draining";
    this.drainingAt = Date.now();
    this.emit("draining", null);
  }

  /** The peer was silent for too long; see {@linkcode Heart}. */
  dead(silentMs: number): void {
    // What it said is not read while this end is behind, so its silence says nothing.
    if (this.connection.frames?.isPaused) return this.#heartbeat?.add(this);
    const error = new TimeoutError(
      `Cannot reach the peer: no sign of life in ${silentMs} ms`,
      silentMs,
    );
    this.abort(CloseCode.timedOut, "No sign of life", error, "network");
  }

  /** The send queue is full, and its policy is `close`; see {@linkcode SendQueueOwner}. */
  overflow(error: QueueFullError): void {
    this.abort(CloseCode.queueFull, "The send queue is full", error);
  }

  /** Says why, flushes, and ends the session. */
  refuse(code: number, reason: string): void {
    if (this.state !== "closed" && this.ending === undefined) {
      this.windUp({ code, reason, by: "local" });
    }
  }

  /** Flushes what was sent, then closes, within `closeTimeoutMs`. */
  windUp(ending: CloseInfo): void {
    const { turn, closeTimeoutMs } = this.settings;
    this.ending = ending;
    if (this.state === "connected") this.startDraining();
    clearTimeout(this.#timer);
    turn.flush();
    if (this.info !== undefined) return;
    const close = () =>
      this.connection.close({
        closeCode: ending.code,
        reason: ending.reason,
        closeConnection: this.closesConnection,
      });
    this.#timer = setTimeout(() => {
      close();
      this.finish(ending);
    }, closeTimeoutMs);
    if (this.queue === undefined || this.queue.isFlushed) close();
    else this.queue.flushed().then(close);
  }

  /** Ends the session at once: what waits has nobody to go to. */
  abort(code: number, reason: string, error?: unknown, by: ClosedBy = "local"): void {
    if (this.state === "closed") return;
    if (error !== undefined) this.emit("error", error);
    // What the peer is told of it, if it still listens: with what broadcasts sent before, in order.
    this.settings.turn.flush();
    this.queue?.flush();
    this.connection.close({ closeCode: code, reason });
    this.inbound.queue.clear();
    this.finish({ code, reason, by, ...(error !== undefined && { error }) });
  }

  /** Reports a failed handler to the application; the session ends only by `onHandlerError`, or if that recurs. */
  handlerFailed(error: unknown, reason: string): void {
    this.#failed(error, () => {
      if (this.settings.onHandlerError === "close") return reason;
      return this.#failsTooOften() ? TOO_MANY_FAILURES : undefined;
    });
  }

  /** Reports a failure that the session cannot go on after, and ends the session. */
  endByFailure(error: unknown, reason: string): void {
    this.#failed(error, () => reason);
  }

  #failed(error: unknown, end: () => string | undefined): void {
    // The session ended meanwhile, or by this: the message of the handler has no receiver.
    if (this.state === "closed" && isOfClosing(error)) return;
    this.handlerFailures++;
    report(this.settings, error, this.session);
    const reason = end();
    if (reason === undefined) this.emit("error", error);
    else this.abort(CloseCode.handlerFailed, reason, error);
  }

  #failsTooOften(): boolean {
    const now = Date.now();
    const failedAt = this.failedAt ??= [];
    return failedAt.push(now) > MAX_FAILURES && now - failedAt.shift()! < FAILURES_WINDOW_MS;
  }

  /** The error of whoever wanted something of a session that is over. */
  closedError(message: string): SessionClosedError {
    return closedError(message, this.info ?? this.ending);
  }

  #greet(token: string | undefined): void {
    const { side, handshakeTimeoutMs, requestTimeoutMs } = this.settings;
    const awaitsHello = this.joins && side === "client";
    if (!awaitsHello && !this.#awaitsToken) {
      if (!this.predecessor) return this.connected();
      this.#sayHello();
      this.#inherits = true;
      return this.giveUpAfter(handshakeTimeoutMs, "first message");
    }
    // A server that looks at a token answers in its time.
    if (!awaitsHello) return this.giveUpAfter(handshakeTimeoutMs, "token");
    this.giveUpAfter(token === undefined ? handshakeTimeoutMs : requestTimeoutMs, "hello");
    if (token === undefined) return;
    this.#hasToken = true;
    this.authenticate(token, {}).catch((error) => {
      // A server that refuses closes too, and its code says whether to try again.
      if (error instanceof RequestError && this.state === "connecting") return;
      this.abort(CloseCode.unauthenticated, "The token was not accepted", error);
    });
  }

  /** A client without a token gives up for good, as if it were refused. */
  tokenExpected(reason: string): void {
    if (this.settings.side === "server" || this.state !== "connecting" || this.#hasToken) return;
    this.abort(CloseCode.unauthenticated, reason || "The server expects a token");
  }

  /** Gives what it waits for to be established another time. */
  giveUpAfter(timeoutMs: number, what: string): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const error = new TimeoutError(
        `Cannot wait for the ${what} longer than ${timeoutMs} ms`,
        timeoutMs,
      );
      this.abort(CloseCode.timedOut, `No ${what} in time`, error);
    }, timeoutMs);
  }

  #sayHello(): void {
    const { heartbeat, maxMessageBytes } = this.settings;
    this.post({
      hello: {
        session: this.id,
        heartbeatMs: heartbeat.intervalMs,
        maxMessageBytes,
        features: this.settings.services?.features ?? [],
        ticket: this.settings.services?.ticket(this),
      },
    });
  }

  #callOnOpen(): void {
    const { onOpen } = this.settings.handlers;
    const done = attempt(
      () => onOpen!(this.session),
      (error) => this.endByFailure(error, "The handler failed"),
    );
    if (done !== undefined && this.inbound.isHandled) this.inbound.queue.holdFor(done);
  }

  /** The session is over. Idempotent. */
  finish(cause: CloseInfo): void {
    if (this.state === "closed") return;
    // A close of ours that the peer, or a cut cable, confirmed stays ours.
    const info = this.ending ?? cause;
    this.info = info;
    this.closedAt = Date.now();
    this.state = "closed";
    clearTimeout(this.#timer);
    this.#heartbeat?.delete(this);
    this.queue?.end();
    // An error is dear for its stack, and most sessions end with nobody waiting.
    const isAwaited = this.#asks?.size || this.pings?.size || this.inbound.owesAnswers ||
      this.#served?.isBusy;
    const error = isAwaited ? this.closedError("The session closed meanwhile") : undefined;
    this.#asks?.rejectAll(error);
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

  /** After the handlers of what came before, unless they take too long. */
  async #callOnClose(info: CloseInfo): Promise<void> {
    const { handlers, closeTimeoutMs } = this.settings;
    if (this.inbound.isHandled && !this.inbound.isIdle) {
      if (!await settlesWithin(this.inbound.idle(), closeTimeoutMs)) this.inbound.queue.clear();
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

/** The error of whoever wanted something of what is over, and how it ended, if that is known. */
export function closedError(message: string, info: CloseInfo | undefined): SessionClosedError {
  if (info === undefined) return new SessionClosedError(message);
  const { code, reason, by, error } = info;
  const why = `${message} (${code}${reason && ` ${reason}`}, by ${by})`;
  return new SessionClosedError(why, { info, ...(error !== undefined && { cause: error }) });
}

/** What sending throws when the peer left, or did not keep up and was closed for it. */
function isOfClosing(error: unknown): boolean {
  return error instanceof SessionClosedError || error instanceof QueueFullError;
}

/** The longest interval that a server is believed, in seconds: a heartbeat has a slot for each. */
const MAX_INTERVAL_S = 600;

/** A client finds its server dead after two pings and a bit were missed. */
function heartbeatOf(hello: Hello): Heartbeat {
  const seconds = Math.round(hello.heartbeatMs / 1_000) || 1;
  const intervalMs = Math.min(MAX_INTERVAL_S, seconds) * 1_000;
  return new Heartbeat({ intervalMs, timeoutMs: intervalMs * 2.4 });
}

/** A page without a secure context has no `randomUUID`; a client's id is the server's anyway. */
function newId(): string {
  return (crypto as Partial<Crypto>).randomUUID?.() ?? String(Math.random());
}
