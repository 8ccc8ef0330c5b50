/**
 * The half of a session that sends: messages, requests of this end, and control.
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
import { type SessionCore, type SessionHalf, SKEIN_PROTOCOL } from "./core.ts";
import { type PendingRequestOptions, PendingRequests, toRequestError } from "./pending_requests.ts";
import type { SendQueue } from "./queue/turn.ts";
import type { ClientPublishOptions, ControlStats, WaitOptions } from "./types.ts";
import {
  encodeControl,
  encodeData,
  type EncodedMessage,
  encodeFailure,
  encodeMessage,
  framed,
  MAX_MESSAGE_BYTES,
} from "./wire/encode.ts";
import {
  checkTopic,
  type Envelope,
  type Hello,
  type OutgoingEnvelope,
  type TraceContext,
} from "./wire/envelope.ts";
import type { HistoryOptions } from "./wire/recovery.ts";

/** Pings of the heartbeat have numbers up to this one, those of `ping()` higher ones. */
export const MAX_PINGS = 2 ** 32;

/** Options of a request to the peer. */
type AskOptions = WaitOptions & Pick<PendingRequestOptions, "onAnswer" | "isRequest">;

/** Sends for one session, and waits for the answers. */
export class Sending implements SessionHalf {
  /** Count of the control envelopes that this end sent. */
  posted = 0;
  /** The last measured round trip, in milliseconds. */
  roundTripMs: number | undefined;
  // A field that is only declared takes no memory until assigned: few sessions have one of these.

  /** On a client: the features in the `hello` of the server. */
  declare features: readonly string[] | undefined;
  /** On a client: true once the server has the id of this client. */
  declare isIntroduced: boolean | undefined;
  /** Calls of `ping()` that wait; pings of the heartbeat are not among these. */
  declare pings: PendingRequests | undefined;
  /** On a client: called with the number up to which the server handled messages. */
  declare onAck: ((n: number) => void) | undefined;
  /** Counters of the answers to what this end sent, once one counts. */
  declare controlStats: { -readonly [Name in keyof ControlStats]: number } | undefined;
  readonly #core: SessionCore;
  readonly #queue: SendQueue | undefined;
  // Created when first needed: a session that only receives messages needs none.
  #requests: PendingRequests | undefined;
  #peerMaxBytes = Infinity;
  /** On a server: true once `hello` is on its way. */
  #hasGreeted = false;
  #pings = 0;
  #pingedAt = 0;

  /** Creates the half of a session that has not begun. */
  constructor(core: SessionCore) {
    this.#core = core;
    this.#queue = core.queue;
    // A client with another bound says so in its first envelope.
    if (core.joins && core.settings.side === "server") this.peerAccepts(MAX_MESSAGE_BYTES);
  }

  /** Sends the first envelope, and limits the wait for that of the peer, see {@linkcode SessionHalf}. */
  begin(token: string | undefined): void {
    const core = this.#core;
    const { side, handshakeTimeoutMs, requestTimeoutMs } = core.settings;
    const awaitsHello = core.joins && side === "client";
    if (!awaitsHello && !core.awaitsToken) {
      if (!core.lineage.predecessor) return core.connected();
      this.#greet();
      return core.giveUpAfter(handshakeTimeoutMs, "first message");
    }
    // A server that checks a token sends `hello` after the check, within the time of a request.
    if (!awaitsHello) return core.giveUpAfter(handshakeTimeoutMs, "token");
    core.giveUpAfter(token === undefined ? handshakeTimeoutMs : requestTimeoutMs, "hello");
    if (token === undefined) return;
    this.authenticate(token, {}).catch((error) => {
      // A server that refuses the token also closes, and the close code says whether to retry.
      if (error instanceof RequestError && core.state === "connecting") return;
      core.abort(CloseCode.unauthenticated, "The token was not accepted", error);
    });
  }

  /** Sends `hello`, or tells the server the bound of this client, see {@linkcode SessionHalf}. */
  opened(hello: Hello | undefined): void {
    const { joins, settings: { side, maxMessageBytes } } = this.#core;
    if (hello === undefined) {
      if (joins && side === "server" && !this.#hasGreeted) this.#greet();
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

  /** True if a caller waits for an answer, see {@linkcode SessionHalf}. */
  get isAwaited(): boolean {
    return this.openRequests > 0 || (this.pings?.size ?? 0) > 0;
  }

  /** Hands over what the connection takes, see {@linkcode SessionHalf}. */
  abort(): void {
    // Flush earlier broadcasts first: the peer may still read the reason of the close, in order.
    this.#core.settings.turn.flush();
    this.#queue?.flush();
  }

  /** Drops what waits, and rejects the requests, see {@linkcode SessionHalf}. */
  end(error: SessionClosedError | undefined): undefined {
    this.#queue?.end();
    this.#requests?.rejectAll(error);
    this.pings?.rejectAll(error);
  }

  /** Requests of this end: those of the application, subscriptions, publications, tokens. */
  get requests(): PendingRequests {
    const { runtime, settings } = this.#core;
    return this.#requests ??= new PendingRequests(runtime, settings.maxRequests);
  }

  /** Count of all requests of this end that wait. */
  get openRequests(): number {
    return this.#requests?.size ?? 0;
  }

  /** Count of the requests for which code of this end may wait. */
  get awaitedAnswers(): number {
    return this.#requests?.awaited ?? 0;
  }

  /** Count of the application's requests that wait for a handler of the peer. */
  get awaitedRequests(): number {
    return this.#requests?.requests ?? 0;
  }

  /** Size of the largest message that this end may send and the peer accepts, in bytes. */
  get maxSendBytes(): number {
    return Math.min(this.#core.settings.maxMessageBytes, this.#peerMaxBytes);
  }

  /** Notes the size of the largest message that the peer accepts, in bytes. */
  peerAccepts(maxBytes: number): void {
    this.#peerMaxBytes = maxBytes;
    if (this.#core.settings.side === "server") this.#queue!.maxMessageBytes = maxBytes;
  }

  /** Returns the send queue, or throws on a connection without message frames. */
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

  /** Sends an encoded message. */
  push({ frame, size, topic, position }: EncodedMessage, isProtected: boolean): void {
    const sequence = this.#core.settings.turn.nextSequence();
    const queue = this.#queue ?? this.messages("send");
    queue.push({ frame, size, topic, position, sequence, isProtected });
  }

  /** Sends an envelope that is never dropped; if the send queue has no room, the session closes. */
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
      // The queue closed the session already, and its `closeError` says why.
      if (!(error instanceof QueueFullError)) throw error;
    }
  }

  /** Sends a request of the application and waits for the reply. */
  request(
    topic: string,
    data: unknown,
    { trace: known, ...options }: WaitOptions & { readonly trace?: TraceContext | undefined },
  ): Promise<unknown> {
    this.checkData("ask", data);
    const { maxSendBytes: maxBytes } = this;
    const trace = this.#core.joins ? known : undefined;
    const what = `the answer to "${topic}"`;
    return this.ask(what, (id) => encodeMessage(topic, data, { id, maxBytes, trace }), {
      ...options,
      isRequest: true,
    });
  }

  /** Sends a request to the peer and waits for the answer. */
  ask(
    what: string,
    encode: (id: number) => EncodedMessage,
    options: AskOptions,
  ): Promise<unknown> {
    const core = this.#core;
    const answer = this.requests.ask({
      ...options,
      what,
      timeoutMs: options.timeoutMs ?? core.settings.requestTimeoutMs,
      send: (id) => {
        // Before the session is established, only a token is offered this way.
        if (core.state === "closed" || core.ending !== undefined) core.checkOpen("ask");
        this.push(encode(id), true);
      },
      cancel: (id, reason) => {
        this.post({ cancel: id });
        this.gaveUp(reason);
      },
    });
    core.receiving.began(options.isRequest);
    core.liveness?.began();
    return answer;
  }

  /** Emits an `error` event where the reason is a timeout. */
  gaveUp(reason: unknown): void {
    if (reason instanceof TimeoutError) this.#core.emit("error", reason);
  }

  /** Returns the id of this client, once a session, for the server to tell clients apart. */
  introduce(): { readonly client?: string } {
    const { joins, settings: { side, client } } = this.#core;
    if (this.isIntroduced || !joins || side === "server") return {};
    this.isIntroduced = true;
    return { client };
  }

  /** Publishes to a topic through the server. */
  async publish(
    topic: string,
    data: unknown,
    { except, ...wait }: ClientPublishOptions,
  ): Promise<void> {
    checkTopic(topic, "publish");
    this.checkData("publish", data);
    const limits = { maxBytes: this.maxSendBytes, verb: "publish", topic };
    await this.ask(
      `the publication on "${topic}"`,
      (id) => {
        const quiet = except === undefined ? {} : { echo: false, ...this.introduce() } as const;
        return encodeData({ publish: topic, data, id, ...quiet }, limits);
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
    this.#core.checkOpen("set presence");
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

  /** Handles an envelope that answers what this end sent. */
  settle(
    envelope: Extract<Envelope, { kind: "reply" | "end" | "pong" | "ack" | "bounds" }>,
  ): void {
    switch (envelope.kind) {
      case "reply": {
        const { id, data, error } = envelope;
        if (id === null) this.refusedByPeer(error);
        else if (!this.requests.answer(id, data, error)) this.count("lateAnswers", 1);
        return;
      }
      case "end":
        if (!this.requests.end(envelope.id, envelope.error)) this.count("lateAnswers", 1);
        return;
      case "pong":
        return this.#pong(envelope.n);
      case "ack":
        return this.onAck?.(envelope.n);
      case "bounds":
        if (this.#core.settings.side === "server") this.peerAccepts(envelope.maxMessageBytes);
    }
  }

  /** Sends a ping of the heartbeat. */
  ping(): void {
    this.#pingedAt = this.#core.runtime.monotonic();
    this.post({ ping: ++this.#pings });
  }

  /** Handles the answer to a ping; ignores late and unexpected answers. */
  #pong(n: number): void {
    if (n > MAX_PINGS) this.pings?.answer(n - MAX_PINGS, undefined, undefined);
    else if (n === this.#pings && this.#pingedAt > 0) {
      this.roundTripMs = this.#core.runtime.monotonic() - this.#pingedAt;
      this.#pingedAt = 0;
    }
  }

  /** Reports a message that the peer refused, and that was not a request. */
  refusedByPeer(failure: RequestFailure | undefined): void {
    this.count("refusedByPeer", 1);
    if (failure === undefined) return;
    const { handlers: { onRefused, onError }, side } = this.#core.settings;
    if (onRefused) {
      return this.#core.notify(() => onRefused(toRequestError(failure), this.#core.session));
    }
    if (onError) return;
    const { code, message } = failure;
    const peer = side === "client" ? "server" : "client";
    const line =
      `The ${peer} refused a message (${code}): ${message}; onRefused receives each refusal`;
    this.#core.settings.console.tell("refused-message", line, { about: message });
  }

  /** Counts an answer to what this end sent. */
  count(name: keyof ControlStats, amount: number): void {
    this.controlStats ??= { lateAnswers: 0, droppedByPeer: 0, refusedByPeer: 0 };
    this.controlStats[name] += amount;
  }
}
