/**
 * The sending half of a session. It sends messages, control envelopes, and requests, which wait for
 * replies.
 *
 * @module
 */
import {
  CloseCode,
  QueueFullError,
  RequestError,
  type RequestFailure,
  type SessionClosedError,
  TimeoutError,
  UnsupportedError,
} from "../errors.ts";
import type { Runtime } from "../base/runtime.ts";
import { Signal } from "../base/signal.ts";
import { waitFor } from "../base/wait.ts";
import { type SessionCore, type SessionHalf, SKEIN_PROTOCOL } from "./core.ts";
import type { SendQueue } from "./queue/send_queue.ts";
import type { ControlStats, SessionPublishOptions, WaitOptions } from "./types.ts";
import {
  checkTopic,
  type DataEnvelope,
  encodeControl,
  encodeData,
  type EncodedMessage,
  encodeFailure,
  encodeMessage,
  framed,
  MAX_MESSAGE_BYTES,
  oversize,
} from "./wire/encode.ts";
import type { Envelope, Hello, OutgoingEnvelope, TraceContext } from "./wire/envelope.ts";
import type { HistoryOptions } from "./wire/recovery.ts";

/** Pings of the heartbeat have numbers up to this one; pings from `ping()` have higher numbers. */
export const MAX_PINGS = 2 ** 32;

/**
 * Number of values of presence data that may wait for replies, in addition to other requests. It is
 * twice the number of rooms in which a client may have data, so that a client may replace all of
 * them at once.
 */
export const MAX_PRESENCES = 64;

type AskOptions = WaitOptions & Pick<PendingRequestOptions, "onReply" | "isRequest">;

/** Sends for one session, and waits for replies. */
export class Sending implements SessionHalf {
  /** Number of control envelopes that this side sent. */
  posted = 0;
  /** The last measured round trip, in milliseconds. */
  roundTripMs: number | undefined;
  // A field that is only declared takes no memory until assigned, and few sessions have one of these;
  // see `receiving.ts` for the bytes.

  /** On a client: the features in the `hello` of the server. */
  declare features: readonly string[] | undefined;
  /** On a client: true once the server has the id of this client. */
  declare isIntroduced: boolean | undefined;
  /** Values of presence data that wait for replies. */
  declare presences: number | undefined;
  /** Pending calls of `ping()`, not including pings of the heartbeat. */
  declare pings: PendingRequests | undefined;
  /** On a client: called with the number up to which the server handled messages. */
  declare onAck: ((n: number) => void) | undefined;
  /**
   * Counters for late replies, and for reported drops and rejections. They are created on first
   * use.
   */
  declare controlStats: { -readonly [Name in keyof ControlStats]: number } | undefined;
  readonly #core: SessionCore;
  readonly #queue: SendQueue | undefined;
  // Created when first needed: a session that only receives messages needs none.
  #requests: PendingRequests | undefined;
  /** On a server: true once `hello` was sent. */
  #hasGreeted = false;
  #pings = 0;
  #pingedAt = 0;

  constructor(core: SessionCore) {
    this.#core = core;
    this.#queue = core.queue;
    // A client with another limit announces it in its first envelope.
    if (core.joins && core.settings.side === "server") this.peerAccepts(MAX_MESSAGE_BYTES);
  }

  /**
   * Sends the first envelope, and limits the wait for the peer's first envelope, see {@linkcode
   * SessionHalf}.
   */
  begin(token: string | undefined): void {
    const core = this.#core;
    const { side, handshakeTimeoutMs, requestTimeoutMs } = core.settings;
    const awaitsHello = core.joins && side === "client";
    if (!awaitsHello && !core.awaitsToken) {
      if (!core.lineage.predecessor) return core.connected();
      this.#greet();
      return core.giveUpAfter(handshakeTimeoutMs, "first message");
    }
    // If a server checks a token, it sends `hello` after the check, within the request timeout.
    if (!awaitsHello) return core.giveUpAfter(handshakeTimeoutMs, "token");
    core.giveUpAfter(token === undefined ? handshakeTimeoutMs : requestTimeoutMs, "hello");
    if (token === undefined) return;
    this.authenticate(token, {}).catch((error) => {
      // If a server rejects the token, it also closes, and the close code says whether to retry.
      if (error instanceof RequestError && core.state === "connecting") return;
      core.abort(CloseCode.unauthenticated, "The token was not accepted", error);
    });
  }

  /** Sends `hello`, or on a client its size limit, see {@linkcode SessionHalf}. */
  opened(hello: Hello | undefined): void {
    const { joins, settings: { maxMessageBytes } } = this.#core;
    if (hello === undefined) {
      if (joins && !this.#hasGreeted) this.#greet();
      return;
    }
    this.features = hello.features;
    this.peerAccepts(hello.maxMessageBytes);
    if (maxMessageBytes !== MAX_MESSAGE_BYTES) this.post({ bounds: { maxMessageBytes } });
  }

  #greet(): void {
    this.#hasGreeted = true;
    this.posted++;
    this.push(framed(this.#core.settings.hello!(this.#core), ""), true);
  }

  /** True if a caller waits for a reply, see {@linkcode SessionHalf}. */
  get isAwaited(): boolean {
    return this.openRequests > 0 || (this.pings?.size ?? 0) > 0;
  }

  /** Flushes what the connection accepts, see {@linkcode SessionHalf}. */
  abort(): void {
    // Flush earlier broadcasts first: the peer may still read why the session closes, in order.
    this.#core.settings.flusher.flush();
    this.#queue?.flush();
  }

  /** Drops waiting messages, and rejects the requests, see {@linkcode SessionHalf}. */
  end(error: SessionClosedError | undefined): undefined {
    this.#queue?.end();
    this.#requests?.rejectAll(error);
    this.pings?.rejectAll(error);
  }

  /**
   * The requests of this side, which include subscriptions, publications and tokens.
   */
  get requests(): PendingRequests {
    const { runtime, maxRequests } = this.#core.settings;
    return this.#requests ??= new PendingRequests(runtime, maxRequests);
  }

  /** Number of all waiting requests of this side. */
  get openRequests(): number {
    return this.#requests?.size ?? 0;
  }

  /** Number of requests for which code on this side may wait. */
  get pendingReplies(): number {
    return this.#requests?.awaited ?? 0;
  }

  /** Number of the application's requests that wait for a handler of the peer. */
  get awaitedRequests(): number {
    return this.#requests?.requests ?? 0;
  }

  get maxSendBytes(): number {
    return Math.min(this.#core.settings.maxMessageBytes, this.#peerMaxBytes);
  }

  get #peerMaxBytes(): number {
    return this.#queue?.maxMessageBytes ?? Infinity;
  }

  /** Records the size of the largest message that the peer accepts, in bytes. */
  peerAccepts(maxBytes: number): void {
    this.#queue!.maxMessageBytes = maxBytes;
  }

  /** Returns the send queue. Throws on a connection without message frames. */
  messages(verb: string): SendQueue {
    if (this.#queue !== undefined) return this.#queue;
    throw new UnsupportedError(
      `Cannot ${verb}: this ${this.#core.connection.transport} connection carries streams and datagrams only`,
    );
  }

  /** Throws if the connection cannot carry the data. */
  checkData(verb: string, data: unknown): void {
    const { joins, connection } = this.#core;
    if (joins || !(data instanceof Uint8Array)) return;
    throw new UnsupportedError(
      `Cannot ${verb}: a ${connection.transport} without ${SKEIN_PROTOCOL} carries JSON only, received bytes`,
    );
  }

  /**
   * Encodes an envelope with application data, and enforces the limits of both sides.
   *
   * @throws {UnsupportedError} If the connection cannot carry the data.
   * @throws {TypeError} If JSON cannot hold the data.
   * @throws {RangeError} If the message is larger than this side may send or than the peer accepts.
   */
  encode(envelope: DataEnvelope, verb: string, topic?: string): EncodedMessage {
    this.checkData(verb, envelope.data);
    return encodeData(envelope, { maxBytes: this.maxSendBytes, verb, topic });
  }

  /** Sends an encoded message. */
  push(message: EncodedMessage, isProtected: boolean): void {
    this.messages("send").add(message, isProtected);
  }

  /** Sends an envelope that is never dropped. If the send queue has no room, the session closes. */
  post(envelope: OutgoingEnvelope): void {
    this.posted++;
    this.give(encodeFailure(envelope, this.maxSendBytes));
  }

  /** Sends an encoded envelope as {@linkcode post} does. */
  give(message: EncodedMessage): void {
    if (this.#core.state === "closed") return;
    try {
      this.push(message, true);
    } catch (error) {
      // The queue has already closed the session, and `closeError` says why.
      if (!(error instanceof QueueFullError)) throw error;
    }
  }

  /** Sends a request of the application, and waits for the reply. */
  request(
    topic: string,
    data: unknown,
    { trace: known, ...options }: WaitOptions & { readonly trace?: TraceContext | undefined },
  ): Promise<unknown> {
    this.checkData("request", data);
    const { maxSendBytes: maxBytes } = this;
    const trace = this.#core.joins ? known : undefined;
    const what = `reply to "${topic}"`;
    const encode = (id: number) =>
      encodeMessage(topic, data, { id, maxBytes, trace, verb: "request" });
    return this.ask(what, encode, { ...options, isRequest: true });
  }

  /** Sends a request to the peer, and waits for the reply. */
  ask(
    what: string,
    encode: (id: number) => EncodedMessage,
    options: AskOptions,
  ): Promise<unknown> {
    const core = this.#core;
    const reply = this.requests.ask({
      ...options,
      what,
      timeoutMs: options.timeoutMs ?? core.settings.requestTimeoutMs,
      send: (id) => {
        // Before the session is established, only a token is sent in this way.
        if (core.state === "closed" || core.ending !== undefined) core.checkOpen("request");
        this.messages("send").add(encode(id), true);
      },
      cancel: (id, reason) => {
        this.post({ cancel: id });
        this.gaveUp(reason);
      },
    });
    core.receiving.began(options.isRequest);
    return reply;
  }

  /** Emits an `error` event if the reason is a timeout. */
  gaveUp(reason: unknown): void {
    if (reason instanceof TimeoutError) this.#core.emit("error", reason);
  }

  /**
   * Returns the id by which the server recognizes this client. Returns it only once per session.
   */
  introduce(): { readonly client?: string } {
    const { joins, settings: { side, client } } = this.#core;
    if (this.isIntroduced || !joins || side === "server") return {};
    this.isIntroduced = true;
    return { client };
  }

  /**
   * Publishes to a topic through the server, and returns the data of the reply. `verb` is the
   * caller's operation, for error messages.
   */
  async publish(
    topic: string,
    data: unknown,
    { except, verb = "publish", ...wait }: SessionPublishOptions & { readonly verb?: string },
  ): Promise<unknown> {
    checkTopic(topic, verb);
    return await this.ask(
      `confirmation of the publication on "${topic}"`,
      (id) => {
        const quiet = except === undefined ? {} : { echo: false, ...this.introduce() } as const;
        return this.encode({ publish: topic, data, id, ...quiet }, verb, topic);
      },
      wait,
    );
  }

  /** Subscribes to a topic, or unsubscribes. */
  askTopic(
    kind: "subscribe" | "unsubscribe",
    topic: string,
    options: AskOptions & HistoryOptions,
  ): Promise<unknown> {
    checkTopic(topic, kind);
    const { since, last } = options;
    return this.ask(
      `reply to ${kind} "${topic}"`,
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

  /** Sets the presence data of this side in a room. */
  async askPresence(room: string, data: unknown, options: WaitOptions): Promise<void> {
    checkTopic(room, "set presence");
    this.#core.checkOpen("set presence");
    const waiting = this.presences ?? 0;
    if (waiting >= MAX_PRESENCES) {
      throw new QueueFullError(
        `Cannot set presence: ${MAX_PRESENCES} values already wait for replies`,
      );
    }
    this.presences = waiting + 1;
    try {
      await this.ask(
        `reply to the presence data in "${room}"`,
        (id) => this.#encode({ presence: room, data, id }, "set presence"),
        // `onReply` exempts the request from `maxRequests`: a client may set data for many rooms.
        { ...options, onReply() {} },
      );
    } finally {
      this.presences!--;
    }
  }

  /** Sends a token to the server. */
  async authenticate(token: string, options: WaitOptions): Promise<void> {
    if (typeof token !== "string") {
      throw new TypeError(`Cannot authenticate: token must be a string, received ${typeof token}`);
    }
    await this.ask(
      "reply to the token",
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
    throw new RequestError("too-large", oversize(verb, message, this.#peerMaxBytes));
  }

  /** Sends a ping of the heartbeat. */
  ping(): void {
    this.#pingedAt = this.#core.settings.runtime.monotonic();
    this.post({ ping: ++this.#pings });
  }

  /** Handles a pong; ignores late and unexpected ones. */
  pong(n: number): void {
    if (n > MAX_PINGS) this.pings?.reply(n - MAX_PINGS, undefined, undefined);
    else if (n === this.#pings && this.#pingedAt > 0) {
      this.roundTripMs = this.#core.settings.runtime.monotonic() - this.#pingedAt;
      this.#pingedAt = 0;
    }
  }

  /** Reports that the peer rejected a message other than a request. */
  rejectedByPeer(failure: RequestFailure | undefined): void {
    this.count("rejectedByPeer");
    if (failure === undefined) return;
    const { handlers: { onMessageRejected, onError }, side } = this.#core.settings;
    if (onMessageRejected) {
      return this.#core.notify(() =>
        onMessageRejected(toRequestError(failure), this.#core.session)
      );
    }
    if (onError) return;
    const { code, message } = failure;
    const peer = side === "client" ? "server" : "client";
    const line =
      `The ${peer} rejected a message (${code}): ${message}; onMessageRejected receives each rejection`;
    this.#core.settings.console.tell("rejected-message", line, { about: message });
  }

  /** Counts late replies, or messages that the peer dropped or rejected. */
  count(name: keyof ControlStats, amount = 1): void {
    this.controlStats ??= { lateReplies: 0, droppedByPeer: 0, rejectedByPeer: 0 };
    this.controlStats[name] += amount;
  }
}

/** An event of a streaming response. */
export type ResponseEvent =
  | Extract<Envelope, { kind: "part" }>
  /** A single reply instead of a stream. */
  | { readonly kind: "reply"; readonly data: unknown }
  /** The response has ended, with a failure if there is an error. */
  | { readonly kind: "end"; readonly error?: unknown };

/** Receives a streaming response. */
export type ResponseListener = (event: ResponseEvent, size: number) => void;

interface PendingRequest extends Omit<PromiseWithResolvers<unknown>, "promise"> {
  readonly onReply: ((data: unknown) => void) | undefined;
  /** True if a handler of the peer replies, and a handler of this side may wait for the reply. */
  isRequest: boolean;
  /** Receives the response, if it may stream. */
  readonly take?: ResponseListener;
}

export interface PendingRequestOptions {
  /** Sends the request with its id. */
  readonly send: (id: number) => void;
  /** Notifies the peer that the reply is no longer needed. */
  readonly cancel: (id: number, reason: unknown) => void;
  /** Name of the expected reply, for errors. */
  readonly what: string;
  /** Time to wait, in milliseconds. */
  readonly timeoutMs: number;
  /** Ends the wait when aborted. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Called with the reply, before the session reads any later envelope. A request with this
   * function doesn't count towards the maximum, so its caller MUST have its own limit.
   */
  readonly onReply?: ((data: unknown) => void) | undefined;
  /**
   * True if a handler of the peer's application replies. Skein itself replies to all other
   * requests.
   */
  readonly isRequest?: boolean | undefined;
}

/**
 * The requests of one session. They are numbered from 1, and at most `max` of them can wait at the
 * same time.
 */
export class PendingRequests extends Signal {
  readonly #runtime: Runtime;
  readonly #max: number;
  // Created for the first request: most sessions of a server send none.
  #waiting: Map<number, PendingRequest> | undefined;
  #last = 0;
  #uncounted = 0;
  #requests = 0;
  /** Number of streaming responses whose next item is not awaited by a loop. */
  #unread = 0;

  constructor(runtime: Runtime, max: number) {
    super();
    this.#runtime = runtime;
    this.#max = max;
  }

  /** Number of requests that wait. */
  get size(): number {
    return this.#waiting?.size ?? 0;
  }

  /** Number of requests that wait for a handler of the peer's application. */
  get requests(): number {
    return this.#requests;
  }

  /**
   * Number of requests for which code on this side may be waiting. These are all requests, except
   * streaming responses that no loop awaits.
   */
  get awaited(): number {
    return this.size - this.#unread;
  }

  /**
   * Sends a request, and waits for the reply.
   *
   * @throws {QueueFullError} If too many requests already wait.
   * @throws {TimeoutError} If no reply arrives in time.
   * @throws {RequestError} If the reply is a failure.
   */
  ask(options: PendingRequestOptions): Promise<unknown> {
    const { signal, timeoutMs, what, onReply, isRequest = false } = options;
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (onReply) this.#uncounted++;
    else if (this.#isFull) return Promise.reject(this.#fullError(what));
    const id = ++this.#last;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    (this.#waiting ??= new Map()).set(id, { resolve, reject, onReply, isRequest });
    if (isRequest) this.#requests++;
    const reply = waitFor(this.#runtime, promise, { what, signal, timeoutMs }).catch((error) => {
      // The caller abandoned the request before the reply was complete.
      if (this.#forget(id) !== undefined) options.cancel(id, error);
      throw error;
    });
    try {
      options.send(id);
    } catch (error) {
      this.#forget(id)?.reject(error);
    }
    return reply;
  }

  /**
   * Sends a request for a streaming response.
   *
   * @param what Name of the expected response, for errors.
   * @param take Receives the response.
   * @param send Sends the request with its id.
   * @returns The id.
   * @throws {QueueFullError} If too many requests already wait.
   */
  open(what: string, take: ResponseListener, send: (id: number) => void): number {
    if (this.#isFull) throw this.#fullError(what);
    const id = ++this.#last;
    (this.#waiting ??= new Map()).set(id, {
      resolve: (data: unknown) => take({ kind: "reply", data }, 0),
      reject: (error: unknown) => take({ kind: "end", error }, 0),
      onReply: undefined,
      isRequest: false,
      take,
    });
    this.#unread++;
    try {
      send(id);
    } catch (error) {
      this.#forget(id);
      throw error;
    }
    return id;
  }

  /** Records whether a loop waits for the next item of a streaming response. */
  awaits(id: number, isAwaited: boolean): void {
    const request = this.#waiting?.get(id);
    if (request === undefined || request.isRequest === isAwaited) return;
    request.isRequest = isAwaited;
    this.#requests += isAwaited ? 1 : -1;
    this.#unread -= isAwaited ? 1 : -1;
  }

  /**
   * Forgets a streaming response that the caller abandoned. Returns false if it has already ended.
   */
  abandon(id: number): boolean {
    return this.#forget(id) !== undefined;
  }

  /** Passes an item to the receiver of its response. Ignores an item of an unknown response. */
  part(part: Extract<Envelope, { kind: "part" }>, size: number): void {
    const request = this.#waiting?.get(part.id);
    if (request?.take) request.take(part, size);
    else request?.reject(unexpectedParts());
  }

  /** Ends a streaming response. Returns false if the request is no longer waiting. */
  end(id: number, failure: RequestFailure | undefined): boolean {
    const request = this.#forget(id);
    if (request === undefined) return false;
    if (failure !== undefined) request.reject(toRequestError(failure));
    else if (request.take) request.take({ kind: "end" }, 0);
    else request.reject(unexpectedParts());
    return true;
  }

  /** Resolves the request with a reply. Returns false if the request is no longer waiting. */
  reply(id: number, data: unknown, failure: RequestFailure | undefined): boolean {
    const request = this.#forget(id);
    if (request === undefined) return false;
    if (failure === undefined) {
      request.onReply?.(data);
      request.resolve(data);
    } else request.reject(toRequestError(failure));
    return true;
  }

  /** Waits until no request is pending. */
  async idle(): Promise<void> {
    while (this.size > 0) await this.changed();
  }

  /** Rejects all requests with one error. */
  rejectAll(error: unknown): void {
    for (const id of [...this.#waiting?.keys() ?? []]) this.#forget(id)?.reject(error);
  }

  #forget(id: number): PendingRequest | undefined {
    const request = this.#waiting?.get(id);
    if (request === undefined) return undefined;
    this.#waiting?.delete(id);
    if (request.onReply) this.#uncounted--;
    if (request.isRequest) this.#requests--;
    else if (request.take) this.#unread--;
    this.notify();
    return request;
  }

  get #isFull(): boolean {
    return this.size - this.#uncounted >= this.#max;
  }

  #fullError(what: string): QueueFullError {
    return new QueueFullError(
      `Cannot wait for the ${what}: ${this.#max} requests already wait for replies; await some ` +
        "first, or raise maxRequests of the client and session.maxRequests of the server",
    );
  }
}

function unexpectedParts(): RequestError {
  return new RequestError("invalid", "The response streams: read it with requestStream()");
}

/** The error for a failure, as the application receives it. */
export function toRequestError(failure: RequestFailure): RequestError {
  return new RequestError(failure.code, failure.message, failure);
}
