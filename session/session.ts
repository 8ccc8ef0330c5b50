/**
 * One peer: messages, requests and their answers, from the first envelope to
 * the last, over any connection.
 *
 * @module
 */
import {
  CloseCode,
  type ClosedBy,
  type CloseInfo,
  QueueFullError,
  SessionClosedError,
  TimeoutError,
  UnsupportedError,
} from "../errors.ts";
import { checkCloseInfo } from "../transport/close_info.ts";
import type { Connection, Frame } from "../transport/connection.ts";
import { Asks } from "./asks.ts";
import type {
  AnyContract,
  MessageOf,
  RequestInput,
  RequestOutput,
  RequestTopic,
  SendData,
  SendTopic,
  Side,
} from "./contract.ts";
import { type ControlHost, Controls } from "./controls.ts";
import { type EncodedMessage, encodeMessage } from "./encoded.ts";
import { encodeBinary } from "./_binary.ts";
import { encodeData, errorEnvelope, type GoAway, type Hello, replyEnvelope } from "./envelope.ts";
import { type Heart, Heartbeat } from "./heartbeat.ts";
import { Inbound, type InboundHost, type Incoming, report, type TopicSink } from "./inbound.ts";
import type { Message } from "./message.ts";
import { SendQueue, type SendQueueStats } from "./send_queue.ts";
import type { SessionSettings } from "./settings.ts";
import type { SessionStats } from "./stats.ts";
import { checkTopic } from "./topic_pattern.ts";
import { utf8Length } from "./utf8.ts";
import { waitFor } from "./wait.ts";

/** The subprotocol of Skein's own sessions. */
export const SKEIN_PROTOCOL = "skein.1";

/** Where a session is in its life. */
export type SessionState = "connecting" | "connected" | "draining" | "closed";

/** Who and where the peer of a session is. */
export interface SessionIdentity<V = unknown> {
  /** Id of the session; on a client, the server's `hello` replaces it. */
  readonly id?: string;
  /** What `authenticate` returned. */
  readonly value?: V;
  /** Who it is; the session's id if nobody says. */
  readonly user?: string;
  /** Where the peer connected to. */
  readonly url?: string;
  /** Request headers. */
  readonly headers?: HeadersInit;
  /** The peer's network address. */
  readonly address?: string;
  /** A client's token, sent as the first envelope. */
  readonly token?: string;
  /** On a server: the session begins with the peer's token, and nothing is read before it. */
  readonly awaitsToken?: boolean;
}

/** Options for closing a session. */
export interface SessionCloseOptions {
  /**
   * 0, or 3000 to 4999.
   *
   * @default {0}
   */
  readonly code?: number;
  /** Reason in words; cut at a character boundary to what the wire carries. */
  readonly reason?: string;
}

/** Options for what waits. */
export interface WaitOptions {
  /** Gives up. */
  readonly signal?: AbortSignal;
  /** Gives up after this many milliseconds. */
  readonly timeoutMs?: number;
}

/** Options for draining a session. */
export interface SessionDrainOptions extends SessionCloseOptions {
  /** Told to the peer first: when to come back, in milliseconds. Without it, it is told nothing. */
  readonly retryAfterMs?: number;
  /**
   * How long to wait for handlers and answers, in milliseconds.
   *
   * @default {5000}
   */
  readonly withinMs?: number;
}

/** @ignore How the modules of Skein that belong to it reach into a session. */
export let queueOf: (session: Session) => SendQueue;
/** @ignore Calls back when the session is over, before `onClose`; at once if it is. */
export let whenEnded: (session: Session, callback: (session: Session) => void) => void;
/** @ignore Sends a message that was encoded already. */
export let sendEncoded: (session: Session, message: EncodedMessage) => void;
/** @ignore Sends the messages of a topic to a sink of its own. */
export let routeTopic: (session: Session, topic: string, sink: TopicSink | undefined) => void;
/** @ignore Checks a message of a sink as the session's own are checked. */
export let checkIncoming: (
  session: Session,
  incoming: Incoming,
) => Message | undefined | Promise<Message | undefined>;

/**
 * A session with one peer. It wraps one {@linkcode Connection} and ends with it.
 *
 * - **Order:** messages arrive in the order of `send`, one is handled at a time.
 * - **Bounds:** what waits to be sent and to be handled is bounded; a full queue
 *   acts by its policy and never grows in silence.
 * - **Close:** what was sent before is flushed, `onClose` runs once, iteration
 *   ends normally; the cause is in `closeError`.
 *
 * @example Two ends in one process
 * ```ts
 * import { memoryPair, Session, sessionSettings } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const { client, server } = memoryPair();
 * await using alice = new Session(server, sessionSettings({ side: "server" }), { value: "alice" });
 * await using bob = new Session(client, sessionSettings({ side: "client" }));
 * alice.send("greeting", { text: "hello" });
 * for await (const message of bob) {
 *   assertEquals(message.data, { text: "hello" });
 *   break;
 * }
 * ```
 *
 * @typeParam V What `authenticate` returned.
 * @typeParam C The contract.
 * @typeParam S This end's side.
 */
export class Session<
  V = unknown,
  C extends AnyContract = AnyContract,
  S extends Side = Side,
> implements AsyncIterable<MessageOf<C, S>>, AsyncDisposable {
  /** The connection: streams and datagrams, where it has them. */
  readonly connection: Connection;
  /** Where the peer connected to. */
  readonly url: string;
  /** The peer's network address, where it is known. */
  readonly address: string | undefined;

  readonly #settings: SessionSettings;
  readonly #isSkein: boolean;
  readonly #queue: SendQueue | undefined;
  readonly #inbound: Inbound;
  readonly #asks: Asks;
  readonly #controls: Controls;
  readonly #heart: Heart | undefined;
  readonly #createdAt = Date.now();
  #heartbeat: Heartbeat | undefined;
  #headers: HeadersInit | undefined;
  #id: string;
  #value: V;
  #user: string | undefined;
  #state: SessionState = "connecting";
  #ending: CloseInfo | undefined;
  #info: CloseInfo | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ready: PromiseWithResolvers<void> | undefined;
  #closed: PromiseWithResolvers<CloseInfo> | undefined;
  #onEnd: ((session: Session) => void)[] | undefined;
  #isIterated = false;
  #awaitsToken: boolean;
  #wasOpen = false;
  #pings = 0;

  static {
    queueOf = (session) => session.#messages("share messages");
    sendEncoded = (session, message) => session.#push(message, false);
    checkIncoming = (session, incoming) => session.#inbound.check(incoming);
    routeTopic = (session, topic, sink) => session.#inbound.route(topic, sink);
    whenEnded = (session, callback) => {
      if (session.#state === "closed") callback(session);
      else (session.#onEnd ??= []).push(callback);
    };
  }

  /**
   * Begins a session on a connection that is established.
   *
   * @param connection Belongs to the session from now on.
   * @param settings Made once by {@linkcode sessionSettings}, for any number of sessions.
   * @param identity Who and where the peer is.
   */
  constructor(
    connection: Connection,
    settings: SessionSettings,
    identity: SessionIdentity<V> = {},
  ) {
    this.connection = connection;
    this.#settings = settings;
    this.#id = identity.id ?? crypto.randomUUID();
    this.#value = identity.value as V;
    this.#user = identity.user;
    this.url = identity.url ?? "";
    this.#headers = identity.headers;
    this.address = identity.address;
    this.#awaitsToken = identity.awaitsToken === true;
    const { frames } = connection;
    this.#isSkein = connection.protocol === SKEIN_PROTOCOL;
    this.#asks = new Asks(settings.maxRequests);
    const host = this.#host();
    this.#inbound = new Inbound(host, settings);
    this.#controls = new Controls(host, settings);
    connection.closed.then(
      ({ closeCode = 0, reason = "" }) => this.#finish({ code: closeCode, reason, by: "remote" }),
      (error) =>
        this.#finish({
          code: CloseCode.abnormal,
          reason: "The connection broke",
          by: "network",
          error,
        }),
    );
    if (frames === undefined) {
      this.#connected();
      return;
    }
    this.#queue = new SendQueue(frames, {
      turn: settings.turn,
      limits: settings.sendQueue,
      owner: {
        joins: this.#isSkein,
        overflow: (error) => this.#abort(CloseCode.queueFull, "The send queue is full", error),
      },
    });
    if (this.#isSkein) this.#heart = this.#newHeart();
    this.#begin(identity);
    frames.receive((frame) => {
      if (this.#state === "closed") return;
      if (this.#heart !== undefined && this.#heartbeat !== undefined) {
        this.#heart.lastHeard = this.#heartbeat.now;
      }
      if (this.#awaitsToken) void this.#controls.receiveToken(frame);
      else this.#inbound.receive(frame);
    });
  }

  /** Id of the session, the same on both ends of `skein.1`. */
  get id(): string {
    return this.#id;
  }

  /** What `authenticate` returned; a refreshed token renews it. */
  get value(): V {
    return this.#value;
  }

  /** Who it is: what `userOf` said, or the session's id. */
  get user(): string {
    return this.#user ?? this.#id;
  }

  /** Request headers; they hold secrets, so snapshots leave them out. */
  get headers(): Headers {
    const headers = this.#headers instanceof Headers ? this.#headers : new Headers(this.#headers);
    this.#headers = headers;
    return headers;
  }

  /** The path of `url`. */
  get path(): string {
    return URL.parse(this.url)?.pathname ?? "";
  }

  /** The subprotocol of the connection; empty on a plain WebSocket. */
  get protocol(): string {
    return this.connection.protocol;
  }

  /** The wire's name, for people. */
  get transport(): string {
    return this.connection.transport;
  }

  /** Where the session is in its life. */
  get state(): SessionState {
    return this.#state;
  }

  /** Whether messages can be sent. */
  get isReady(): boolean {
    return this.#state === "connected" || (this.#state === "draining" && !this.#ending);
  }

  /** Whether the session is over. */
  get isClosed(): boolean {
    return this.#state === "closed";
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
      if (this.#info !== undefined) this.#closed.resolve(this.#info);
    }
    return this.#closed.promise;
  }

  /** Why the session ended, if that was not a normal close. */
  get closeError(): unknown {
    const info = this.#info;
    if (info === undefined || info.error !== undefined) return info?.error;
    if (info.code === CloseCode.normal || info.code === CloseCode.goingAway) return undefined;
    return this.#closedError("The session was closed");
  }

  /** Counters, read when asked for. */
  get stats(): SessionStats {
    return {
      id: this.#id,
      state: this.#state,
      createdAt: this.#createdAt,
      ...(this.#queue?.stats ?? NO_QUEUE),
      ...this.#inbound.stats,
      ...this.#controls.stats,
      awaitedAnswers: this.#asks.size,
    };
  }

  /**
   * Waits until the session is established.
   *
   * @param options The signal, and the time (30,000 ms by default).
   * @returns Resolves once messages can be sent.
   * @throws {TimeoutError} If it takes longer.
   * @throws {SessionClosedError} If the session closes before.
   */
  whenReady(options: WaitOptions = {}): Promise<void> {
    const { timeoutMs = 30_000, signal } = options;
    return waitFor(this.ready, { timeoutMs, signal, what: "the session" });
  }

  /**
   * Sends a message. Never blocks: it waits in the send queue, and goes out
   * when this turn of the event loop ends.
   *
   * @param topic The topic.
   * @param data Any value that JSON can hold; a `Uint8Array` on `skein.1`.
   * @throws {SessionClosedError} If the session is closing or closed.
   * @throws {QueueFullError} If the queue is full and its policy is `close`; the session closes.
   * @throws {TypeError} If JSON can not hold the data, or the topic is no topic.
   * @throws {RangeError} If the message is larger than `maxMessageBytes`.
   */
  send<T extends SendTopic<C, S>>(topic: T, data?: SendData<C, S, T>): void {
    if ((data as unknown) instanceof Uint8Array && !this.#isSkein) {
      throw new UnsupportedError(
        `Cannot send: a ${this.transport} without ${SKEIN_PROTOCOL} carries JSON only, received bytes`,
      );
    }
    this.#checkOpen("send");
    this.#push(encodeMessage(topic, data, { maxBytes: this.#settings.maxMessageBytes }), false);
  }

  /**
   * Waits until everything sent so far was handed to the wire, and the wire is
   * not behind: the back-pressure for whoever produces faster than a peer takes.
   *
   * @param options Gives up by signal or time.
   * @returns Resolves when there is room, or the session closed.
   * @throws {TimeoutError} If it takes longer than `timeoutMs`.
   */
  async flushed(options: WaitOptions = {}): Promise<void> {
    const queue = this.#messages("wait for the send queue");
    this.#settings.turn.flush();
    await waitFor(queue.flushed(), { ...options, what: "the send queue" });
  }

  /**
   * Asks the peer, and waits for its answer.
   *
   * @param topic What is asked.
   * @param data The question.
   * @param options The signal, and the time (`requestTimeoutMs` by default).
   * @returns The answer.
   * @throws {RequestError} If the answer is a failure.
   * @throws {TimeoutError} If none came in time.
   * @throws {SessionClosedError} If the session closed meanwhile.
   * @throws {QueueFullError} If `maxRequests` answers are awaited already.
   */
  async request<T extends RequestTopic<C>>(
    topic: T,
    data?: RequestInput<C, T>,
    options: WaitOptions = {},
  ): Promise<RequestOutput<C, T>> {
    const answer = await this.#ask(
      `the answer to "${topic}"`,
      (id) => encodeMessage(topic, data, { id, maxBytes: this.#settings.maxMessageBytes }),
      options,
    );
    return await this.#controls.checkAnswer(topic, answer) as RequestOutput<C, T>;
  }

  /**
   * Subscribes to a topic of the server, if its `authorize` lets this session.
   * Its messages come like all others.
   *
   * @param topic The topic.
   * @param options Gives up by signal or time.
   * @returns What the server answered.
   * @throws {RequestError} With code `forbidden`, if it may not.
   */
  subscribe(topic: string, options: WaitOptions = {}): Promise<unknown> {
    return this.#askControl("subscribe", topic, options);
  }

  /**
   * Leaves a topic of the server.
   *
   * @param topic The topic.
   * @param options Gives up by signal or time.
   */
  async unsubscribe(topic: string, options: WaitOptions = {}): Promise<void> {
    await this.#askControl("unsubscribe", topic, options);
  }

  /**
   * Publishes to a topic through the server, if its `authorize` lets this session.
   *
   * @param topic The topic.
   * @param data What to publish.
   * @param options Gives up by signal or time.
   * @returns Resolves once the server published it.
   * @throws {RequestError} With code `forbidden`, if it may not.
   */
  async publish(topic: string, data?: unknown, options: WaitOptions = {}): Promise<void> {
    const isBinary = data instanceof Uint8Array;
    const text = isBinary ? undefined : encodeData(data, "publish");
    await this.#ask(`the publication on "${topic}"`, (id) => {
      const head = `{"publish":${JSON.stringify(topic)},"id":${id}`;
      if (isBinary) return framed(encodeBinary(`${head}}`, data), topic);
      return framed(text === undefined ? `${head}}` : `${head},"data":${text}}`, topic);
    }, options);
  }

  /**
   * Renews the token of a client's session in place.
   *
   * @param token The new token.
   * @param options Gives up by signal or time.
   * @throws {RequestError} If the server does not accept it; the session goes on as it was.
   */
  async authenticate(token: string, options: WaitOptions = {}): Promise<void> {
    if (typeof token !== "string") {
      throw new TypeError(`Cannot authenticate: token must be a string, received ${typeof token}`);
    }
    await this.#ask(
      "the token's acceptance",
      (id) => framed(`{"auth":${JSON.stringify(token)},"id":${id}}`, ""),
      options,
    );
  }

  /**
   * Tells the peer that this server will go away, and when to come back. The
   * session goes on; a plain WebSocket is told nothing.
   *
   * @param goaway When to come back, and why.
   */
  goAway(goaway: GoAway): void {
    if (this.#isSkein && this.isReady) this.#controls.sendGoAway(goaway);
  }

  /**
   * Winds up: tells the peer (`goaway`), lets handlers and answers finish,
   * flushes, then closes.
   *
   * @param options Close code (a server's 4503 by default), what the peer is told, and the time.
   * @returns How the session ended.
   */
  async drain(options: SessionDrainOptions = {}): Promise<CloseInfo> {
    const { retryAfterMs, reason = "", withinMs = 5_000 } = options;
    const isServer = this.#settings.side === "server";
    const { code = isServer ? CloseCode.draining : CloseCode.normal } = options;
    checkCloseInfo({ closeCode: code, reason });
    if (this.#state === "connected") {
      this.#state = "draining";
      if (isServer && retryAfterMs !== undefined) this.goAway({ retryAfterMs, reason });
      const done = Promise.all([this.#inbound.idle(), this.#asks.idle()]);
      // Whoever is not done by then is cut off by the close.
      await waitFor(Promise.race([done, this.closed]), { timeoutMs: withinMs, what: "handlers" })
        .catch((error) => {
          if (!(error instanceof TimeoutError)) throw error;
        });
    }
    return await this.close({ code, reason });
  }

  /**
   * Closes the session: what was sent is flushed, within `closeTimeoutMs`.
   * Idempotent; the first call decides.
   *
   * @param options Code and reason.
   * @returns How the session ended. Never rejects.
   * @throws {RangeError} If the code is neither 0 nor 3000 to 4999.
   */
  close(options: SessionCloseOptions = {}): Promise<CloseInfo> {
    const { code = CloseCode.normal, reason = "" } = options;
    const checked = checkCloseInfo({ closeCode: code, reason });
    if (this.#state !== "closed" && this.#ending === undefined) {
      if (this.#state === "connected") this.#state = "draining";
      this.#windUp({ code, reason: checked.reason, by: "local" });
    }
    return this.closed;
  }

  /** Closes the session and waits; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Yields messages until the session closes; what came before is still yielded.
   *
   * @returns The messages, checked against the contract.
   * @throws {TypeError} If messages go to an `onMessage` handler, or another loop runs.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<MessageOf<C, S>, void, undefined> {
    if (this.#inbound.isHandled || this.#isIterated) {
      throw new TypeError(
        "Cannot iterate over session: its messages go to " +
          (this.#isIterated ? "another loop" : "the onMessage handler"),
      );
    }
    this.#isIterated = true;
    try {
      while (true) {
        const message = await this.#inbound.next();
        if (message === undefined) return;
        yield message as unknown as MessageOf<C, S>;
      }
    } finally {
      this.#isIterated = false;
    }
  }

  #begin(identity: SessionIdentity<V>): void {
    const { side, handshakeTimeoutMs } = this.#settings;
    const awaitsHello = this.#isSkein && side === "client";
    if (!awaitsHello && !identity.awaitsToken) return this.#connected();
    const what = awaitsHello ? "hello" : "token";
    this.#timer = setTimeout(() => {
      const error = new TimeoutError(
        `Cannot wait for the ${what} longer than ${handshakeTimeoutMs} ms`,
        handshakeTimeoutMs,
      );
      this.#abort(CloseCode.timedOut, `No ${what} in time`, error);
    }, handshakeTimeoutMs);
    if (awaitsHello && identity.token !== undefined) {
      this.authenticate(identity.token).catch((error) =>
        this.#abort(CloseCode.unauthenticated, "The token was not accepted", error)
      );
    }
  }

  #connected(hello?: Hello): void {
    if (this.#state !== "connecting" || this.#ending !== undefined) return;
    const { side, heartbeat, maxMessageBytes } = this.#settings;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#awaitsToken = false;
    const refusal = this.#settings.services.admit?.(this as Session);
    if (refusal !== undefined) return this.#windUp({ ...refusal, by: "local" });
    this.#wasOpen = true;
    this.#state = "connected";
    if (this.#heart !== undefined) {
      this.#heartbeat = hello === undefined ? heartbeat : heartbeatOf(hello);
      this.#heartbeat.add(this.#heart);
    }
    if (hello !== undefined) this.#id = hello.session;
    else if (side === "server" && this.#isSkein) {
      this.#control(
        `{"hello":{"session":${
          JSON.stringify(this.#id)
        },"heartbeatMs":${heartbeat.intervalMs},"maxMessageBytes":${maxMessageBytes},"features":[]}}`,
      );
    }
    this.#settleReady();
    if (this.#settings.handlers.onOpen !== undefined) this.#callOnOpen();
  }

  #callOnOpen(): void {
    const { handlers } = this.#settings;
    const failed = (error: unknown) => {
      // The peer left meanwhile: what was to be sent has nobody to go to.
      if (this.isClosed && error instanceof SessionClosedError) return;
      report(this.#settings, error, this as Session);
      this.#abort(CloseCode.handlerFailed, "The handler failed", error);
    };
    try {
      const running = handlers.onOpen!(this as Session);
      if (running === undefined) return;
      const done = Promise.resolve(running).catch(failed);
      if (this.#inbound.isHandled) this.#inbound.holdFor(done);
    } catch (error) {
      failed(error);
    }
  }

  #newHeart(): Heart {
    const heart: Heart = {
      lastHeard: 0,
      ping: () => {
        const { side } = this.#settings;
        // A client times the server by its pings, and asks only when one is missing.
        const heartbeat = this.#heartbeat!;
        const isLate = heartbeat.now - heart.lastHeard > heartbeat.intervalMs * 1.2;
        if (side === "server" || isLate) this.#control(`{"ping":${++this.#pings}}`);
      },
      dead: (silentMs) =>
        this.#abort(
          CloseCode.timedOut,
          "No sign of life",
          new TimeoutError(`Cannot reach the peer: no sign of life in ${silentMs} ms`, silentMs),
          "network",
        ),
    };
    return heart;
  }

  #host(): InboundHost & ControlHost {
    return {
      session: this as Session,
      joins: this.#isSkein,
      asks: this.#asks,
      control: (envelope) => this.#controls.receive(envelope),
      post: (text) => this.#control(text),
      countInvalid: () => this.#inbound.countInvalid(),
      connected: (hello) => this.#connected(hello),
      identify: (value, user) => {
        this.#value = value as V;
        this.#user = user;
      },
      refuse: (code, reason) => void this.close({ code, reason }),
      abort: (code, reason, error) => this.#abort(code, reason, error),
      answer: (id, data) => this.#answer(id, data),
      fail: (id, failure) => {
        if (id !== null) this.#inbound.answered(id);
        this.#control(errorEnvelope(id, failure));
      },
    };
  }

  #answer(id: number, data: unknown): void {
    const isBinary = data instanceof Uint8Array && this.#isSkein;
    const text = replyEnvelope(id, isBinary ? undefined : encodeData(data, "reply"));
    this.#inbound.answered(id);
    if (isBinary) this.#push(framed(encodeBinary(text, data), ""), true);
    else this.#control(text);
  }

  #messages(verb: string): SendQueue {
    if (this.#queue === undefined) {
      throw new UnsupportedError(
        `Cannot ${verb}: this ${this.transport} connection carries streams and datagrams only`,
      );
    }
    return this.#queue;
  }

  #checkOpen(verb: string): void {
    if (!this.isReady) throw this.#closedError(`Cannot ${verb}: the session is ${this.#state}`);
  }

  #push(message: EncodedMessage, isProtected: boolean): void {
    const { frame, size, topic } = message;
    const sequence = this.#settings.turn.nextSequence();
    this.#messages("send").push({ frame, size, topic, sequence, isProtected });
  }

  /** Sends an envelope that is never dropped; where even that finds no room, the session closes. */
  #control(text: string): void {
    if (this.#state === "closed") return;
    try {
      this.#push(framed(text, ""), true);
    } catch (error) {
      // The queue closed the session already, and its `closeError` says why.
      if (!(error instanceof QueueFullError)) throw error;
    }
  }

  #ask(
    what: string,
    encode: (id: number) => EncodedMessage,
    options: WaitOptions,
  ): Promise<unknown> {
    const { requestTimeoutMs } = this.#settings;
    return this.#asks.ask({
      what,
      timeoutMs: options.timeoutMs ?? requestTimeoutMs,
      signal: options.signal,
      send: (id) => {
        if (this.#state === "closed" || this.#ending !== undefined) this.#checkOpen("ask");
        this.#push(encode(id), true);
      },
      cancel: (id) => this.#control(`{"cancel":${id}}`),
    });
  }

  #askControl(kind: string, topic: string, options: WaitOptions): Promise<unknown> {
    checkTopic(topic, kind);
    return this.#ask(
      `the answer to ${kind} "${topic}"`,
      (id) => framed(`{"${kind}":${JSON.stringify(topic)},"id":${id}}`, ""),
      options,
    );
  }

  #windUp(ending: CloseInfo): void {
    const { turn, closeTimeoutMs } = this.#settings;
    this.#ending = ending;
    clearTimeout(this.#timer);
    const close = () => this.connection.close({ closeCode: ending.code, reason: ending.reason });
    turn.flush();
    if (this.#state === "closed") return;
    this.#timer = setTimeout(() => {
      close();
      this.#finish(ending);
    }, closeTimeoutMs);
    if (this.#queue === undefined || this.#queue.isFlushed) close();
    else this.#queue.flushed().then(close);
  }

  /** Ends the session at once: what waits has nobody to go to. */
  #abort(code: number, reason: string, error?: unknown, by: ClosedBy = "local"): void {
    if (this.#state === "closed") return;
    // What the peer is told of it, if it still listens.
    this.#queue?.flush();
    this.connection.close({ closeCode: code, reason });
    this.#inbound.clear();
    this.#finish({ code, reason, by, ...(error === undefined ? {} : { error }) });
  }

  #finish(cause: CloseInfo): void {
    if (this.#state === "closed") return;
    // A close of ours that the peer, or a cut cable, confirmed stays ours.
    const info = this.#ending ?? cause;
    this.#info = info;
    this.#state = "closed";
    clearTimeout(this.#timer);
    if (this.#heart !== undefined) this.#heartbeat?.delete(this.#heart);
    this.#queue?.end();
    const error = this.#closedError("The session closed meanwhile");
    this.#asks.rejectAll(error);
    this.#controls.end(error);
    this.#inbound.end(error);
    this.#settleReady();
    const onEnd = this.#onEnd;
    this.#onEnd = undefined;
    onEnd?.forEach((callback) => callback(this as Session));
    this.#closed?.resolve(info);
    if (this.#wasOpen && this.#settings.handlers.onClose !== undefined) this.#callOnClose(info);
  }

  /** After the handlers of what came before, unless they take too long. */
  async #callOnClose(info: CloseInfo): Promise<void> {
    const { handlers, closeTimeoutMs } = this.#settings;
    if (this.#inbound.isHandled && !this.#inbound.isIdle) {
      await waitFor(this.#inbound.idle(), { timeoutMs: closeTimeoutMs, what: "handlers" })
        .catch(() => this.#inbound.clear());
    }
    try {
      await handlers.onClose?.(this as Session, info);
    } catch (error) {
      report(this.#settings, error, this as Session);
    }
  }

  #settleReady(): void {
    if (this.#ready === undefined || this.#state === "connecting") return;
    if (this.#state === "closed") {
      this.#ready.reject(this.#closedError("The session closed before it was ready"));
    } else this.#ready.resolve();
  }

  #closedError(message: string): SessionClosedError {
    const info = this.#info ?? this.#ending;
    if (info === undefined) return new SessionClosedError(message);
    const { code, reason, by, error } = info;
    const why = `${message} (${code}${reason && ` ${reason}`}, by ${by})`;
    return new SessionClosedError(why, { info, ...(error === undefined ? {} : { cause: error }) });
  }
}

function framed(frame: Frame, topic: string): EncodedMessage {
  return { frame, size: typeof frame === "string" ? utf8Length(frame) : frame.length, topic };
}

/** A client finds its server dead after two pings and a bit were missed. */
function heartbeatOf(hello: Hello): Heartbeat {
  const intervalMs = Math.max(1, Math.round(hello.heartbeatMs / 1_000)) * 1_000;
  return new Heartbeat({ intervalMs, timeoutMs: intervalMs * 2.4 });
}

const NO_QUEUE: SendQueueStats = {
  queuedMessages: 0,
  queuedBytes: 0,
  sentMessages: 0,
  sentBytes: 0,
  droppedMessages: 0,
};
