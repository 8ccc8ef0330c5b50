/**
 * One peer: messages, requests and their answers, from the first envelope to
 * the last, over any connection.
 *
 * @module
 */
import type {
  BidirectionalStream,
  Connection,
  DatagramDuplex,
  OpenStreamOptions,
  SendStream,
  StreamDirection,
} from "../transport/connection.ts";
import type { HealthOptions, SessionHealth, SessionSummary } from "./insight/health.ts";
import type { SessionDebugState, SessionDiagnostics } from "./insight/diagnostics.ts";
import type { SessionEvents } from "./events.ts";
import type { IncomingStream } from "./streams/incoming_streams.ts";
import type {
  ClientPublishOptions,
  SessionCloseOptions,
  SessionDrainOptions,
  SessionState,
  WaitOptions,
} from "./types.ts";
import type { SessionSettings } from "./settings.ts";
import { type SessionStats, statsOf } from "./insight/stats.ts";
import type { StructuredStream, StructuredStreamOptions } from "./streams/structured.ts";
import type {
  StructuredDatagrams,
  StructuredDatagramsOptions,
} from "./streams/structured_datagrams.ts";
import type { Registry } from "./streams/registry.ts";
import type { SessionIssue } from "./insight/issue.ts";
import { CloseCode, type CloseInfo } from "../errors.ts";
import { checkCloseInfo } from "../transport/close_info.ts";
import { checkLoop } from "./one_loop.ts";
import type {
  AnyContract,
  MessageOf,
  PresenceInput,
  PresenceTopic,
  RequestInput,
  RequestOutput,
  RequestTopic,
  SendData,
  SendTopic,
  Side,
} from "./contract.ts";
import { internals, SessionCore, SKEIN_PROTOCOL } from "./core.ts";
import { encodeData, encodeMessage } from "./wire/encode.ts";
import type { GoAway, TraceContext } from "./wire/envelope.ts";
import type { HistoryOptions, SubscribeAnswer } from "./wire/recovery.ts";
import { checkTopic } from "./base/topic_pattern.ts";
import { settlesWithin, waitFor } from "./base/wait.ts";
import type { TransportFallback } from "../transport/race/options.ts";

export { internals, SKEIN_PROTOCOL };

/** Loads the code that most sessions never need. */
export const insight = (): Promise<typeof import("./insight/chunk_insight.ts")> =>
  import("./insight/chunk_insight.ts");

/**
 * Who and where the peer of a session is.
 *
 * @typeParam V The result of `authenticate`.
 */
export interface SessionIdentity<V = unknown> {
  /** Id of the session; on a client, the server's `hello` replaces it. */
  readonly id?: string;
  /** What `authenticate` returned. */
  readonly value?: V;
  /** Who it is; the session's id if nobody says. */
  readonly user?: string | undefined;
  /** On a server: the credentials of the peer, where they end. */
  readonly credentials?: {
    /** When they end, in milliseconds since the Unix epoch. */
    readonly endsAt: number;
    /** True if they are a token, which the client can renew. */
    readonly isRenewable: boolean;
  } | undefined;
  /** Where the peer connected to. */
  readonly url?: string;
  /** Request headers. */
  readonly headers?: HeadersInit;
  /** The peer's network address. */
  readonly address?: string | undefined;
  /** A client's token, sent as the first envelope. */
  readonly token?: string | undefined;
  /** On a server: the session begins with the peer's token, and nothing is read before it. */
  readonly awaitsToken?: boolean;
  /**
   * On a server: makes the session that takes the connection over where the peer's first frame is a
   * token all the same, as that of a client of 0.1 may be; its identity `inherits`. Without one the
   * connection is closed.
   */
  readonly successor?: (() => Session | undefined) | undefined;
  /** On a server: the peer was told `hello` already, by the session of the same id before it. */
  readonly inherits?: boolean;
  /**
   * On a server: the session from which the client moves to this one. Until the client speaks this one
   * has told `hello`, and nothing else knows of it.
   */
  readonly predecessor?: Session | undefined;
  /** On a client: why it is not on the transport that was preferred. */
  readonly fallback?: TransportFallback | undefined;
}

/** Why a session is not on the transport that was preferred, as it is printed and serialised. */
export interface SessionFallback extends TransportFallback {
  /** The message of `error`, which is not enumerable: it would be serialised without its message. */
  readonly message: string;
}

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
  /** Where the peer connected to. */
  readonly url: string;
  /** The peer's network address, where it is known. */
  readonly address: string | undefined;
  /** On a client: why it is not on the transport that was preferred; `undefined` if it is. */
  readonly fallback: SessionFallback | undefined;

  /** The connection: streams and datagrams, where it has them. */
  readonly connection: Connection;
  /**
   * The works of the session, for the other modules of Skein.
   *
   * @ignore
   */
  readonly [internals]: SessionCore<Session>;
  readonly #core: SessionCore;
  readonly #headers: HeadersInit | undefined;
  #isIterated = false;

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
    const face = this as unknown as Session;
    this.#core = this[internals] = new SessionCore<Session>(face, connection, settings, identity);
    this.url = identity.url ?? "";
    this.address = identity.address;
    this.fallback = identity.fallback && withMessage(identity.fallback);
    this.#headers = identity.headers;
    this.#core.begin(identity.token);
  }

  /** Id of the session, the same on both ends of `skein.1`. */
  get id(): string {
    return this.#core.id;
  }

  /** What `authenticate` returned; a refreshed token renews it. */
  get value(): V {
    return this.#core.value as V;
  }

  /** Who it is: what `userOf` said, or the session's id. */
  get user(): string {
    return this.#core.user ?? this.#core.id;
  }

  /**
   * A copy of the request headers that the server keeps (`keepsHeaders`); snapshots show them
   * without secrets.
   */
  get headers(): Headers {
    return new Headers(this.#headers);
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
    return this.#core.state;
  }

  /** Whether messages can be sent. */
  get isReady(): boolean {
    return this.#core.isReady;
  }

  /** Whether the session is over. */
  get isClosed(): boolean {
    return this.#core.state === "closed";
  }

  /** Resolves once the session is established; rejects if it closes before. */
  get ready(): Promise<void> {
    return this.#core.ready;
  }

  /** Resolves with how the session ended; never rejects. */
  get closed(): Promise<CloseInfo> {
    return this.#core.closed;
  }

  /** Why the session ended, if that was not a normal close. */
  get closeError(): unknown {
    const { info } = this.#core;
    if (info === undefined || info.error !== undefined) return info?.error;
    if (info.code === CloseCode.normal || info.code === CloseCode.goingAway) return undefined;
    return this.#core.closedError("The session was closed");
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
   * @throws {TypeError} If JSON cannot hold the data, or the topic is no topic.
   * @throws {RangeError} If the message is larger than this end sends, or the peer takes.
   */
  send<T extends SendTopic<C, S>>(topic: T, data?: SendData<C, S, T>): void {
    const core = this.#core;
    core.checkData("send", data);
    core.checkOpen("send");
    const { joins, maxSendBytes: maxBytes, settings: { watch } } = core;
    const trace = joins ? watch?.sending(topic, core.session) : undefined;
    core.push(encodeMessage(topic, data, { maxBytes, trace }), false);
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
    const queue = this.#core.messages("wait for the send queue");
    this.#core.settings.turn.flush();
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
    const core = this.#core;
    const { maxSendBytes: maxBytes } = core;
    core.checkData("ask", data);
    const ask = (trace?: TraceContext) =>
      core.ask(
        `the answer to "${topic}"`,
        (id) => encodeMessage(topic, data, { id, maxBytes, trace: core.joins ? trace : undefined }),
        { ...options, isRequest: true },
      );
    const answer = await (core.settings.watch?.asking(core.session, topic, ask) ?? ask());
    const { router } = core.settings;
    return (router ? await router.checkAnswer(topic, answer) : answer) as RequestOutput<C, T>;
  }

  /**
   * Subscribes to a topic of the server, if its `authorize` lets this session.
   * Its messages come like all others.
   *
   * @param topic The topic.
   * @param options From where on, for a topic with a history, and what gives up, by signal or time.
   * @returns What the server answered: where in the history the messages begin that follow.
   * @throws {RequestError} With code `forbidden`, if it may not.
   */
  async subscribe<T extends SendTopic<C, "server">>(
    topic: T,
    options: WaitOptions & HistoryOptions = {},
  ): Promise<SubscribeAnswer> {
    const answer = await this.#core.askTopic("subscribe", topic, options);
    return (answer ?? {}) as SubscribeAnswer;
  }

  /**
   * Leaves a topic of the server.
   *
   * @param topic The topic.
   * @param options Gives up by signal or time.
   */
  async unsubscribe(topic: string, options: WaitOptions = {}): Promise<void> {
    await this.#core.askTopic("unsubscribe", topic, options);
  }

  /**
   * Publishes to a topic through the server, if its `authorize` lets this session.
   *
   * @param topic The topic.
   * @param data What to publish.
   * @param options Gives up by signal or time, and leaves this client out.
   * @returns Resolves once the server published it.
   * @throws {RequestError} With code `forbidden`, if it may not.
   * @throws {TypeError} If JSON cannot hold the data, or the topic is no topic.
   * @throws {RangeError} If the message is larger than `maxMessageBytes`.
   * @throws {UnsupportedError} If there is to be no echo, and the server cannot tell clients apart.
   */
  async publish<T extends SendTopic<C, "server">>(
    topic: T,
    data?: SendData<C, "server", T>,
    options: ClientPublishOptions = {},
  ): Promise<void> {
    const core = this.#core;
    checkTopic(topic, "publish");
    core.checkData("publish", data);
    const { echo = true, ...wait } = options;
    const echoError = echo ? undefined : core.echoError;
    if (echoError !== undefined) throw echoError;
    const limits = { maxBytes: core.maxSendBytes, verb: "publish", topic };
    await core.ask(
      `the publication on "${topic}"`,
      (id) => {
        const quiet = echo ? {} : { echo: false, ...core.introduce() } as const;
        return encodeData({ publish: topic, data, id, ...quiet }, limits);
      },
      wait,
    );
  }

  /**
   * Sets the data with which this session is present in a room, if the server's `authorize` lets it:
   * now, if it is in the room, and whenever it joins.
   *
   * @param room The room.
   * @param data Any value that JSON can hold, of at most 512 bytes unless the server allows more;
   * `undefined` takes it back.
   * @param options Gives up by signal or time.
   * @throws {RequestError} With code `forbidden`, if it may not; `too-large`, or `invalid` where the
   * data does not fit the contract.
   * @throws {TypeError} If JSON cannot hold the data, or the room is no topic.
   * @throws {UnsupportedError} If the server takes no data of presence.
   */
  async presence<T extends PresenceTopic<C>>(
    room: T,
    data?: PresenceInput<C, T>,
    options: WaitOptions = {},
  ): Promise<void> {
    await this.#core.askPresence(room, data, options);
  }

  /**
   * Renews the token of a client's session in place.
   *
   * @param token The new token.
   * @param options Gives up by signal or time.
   * @throws {RequestError} If the server does not accept it; the session goes on as it was.
   */
  async authenticate(token: string, options: WaitOptions = {}): Promise<void> {
    await this.#core.authenticate(token, options);
  }

  /**
   * Tells the peer that this server will go away, and when to come back. The
   * session goes on; a plain WebSocket is told nothing.
   *
   * @param goaway When to come back, and why.
   */
  goAway(goaway: GoAway): void {
    const core = this.#core;
    if (core.joins && core.isReady) core.post({ goaway });
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
    const core = this.#core;
    const isServer = core.settings.side === "server";
    const { code = isServer ? CloseCode.draining : CloseCode.normal } = options;
    checkCloseInfo({ closeCode: code, reason });
    // The first drain decides, as with a close.
    if (core.state === "draining") return await this.closed;
    if (core.state === "connected") {
      core.startDraining();
      if (isServer && retryAfterMs !== undefined) this.goAway({ retryAfterMs, reason });
      const done = Promise.all([core.inbound.idle(), core.asks.idle()]);
      // Whoever is not done by then is cut off by the close.
      await settlesWithin(Promise.race([done, this.closed]), withinMs);
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
    const { code = CloseCode.normal, reason = "", closeConnection = false } = options;
    const checked = checkCloseInfo({ closeCode: code, reason });
    this.#core.closesConnection ||= closeConnection;
    this.#core.refuse(code, checked.reason);
    return this.closed;
  }

  /** Counters, read when asked for; `toJSON()` makes a plain object of them. */
  get stats(): SessionStats {
    return statsOf(this.#core);
  }

  /**
   * The events of the session, made when they are first asked for: what happened before is not told.
   *
   * @example Streams of the peer
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * const opened = new Promise<string>((resolve) =>
   *   pair.server.events.addEventListener("streamopened", ({ detail }) => resolve(detail.direction))
   * );
   * await pair.client.createUnidirectionalStream();
   * assertEquals(await opened, "unidirectional");
   * ```
   */
  get events(): SessionEvents {
    return this.#core.events;
  }

  /** Datagrams in both directions, as web streams. */
  get datagrams(): DatagramDuplex {
    return this.connection.datagrams;
  }

  /**
   * The last measured round trip to the peer and back, in milliseconds; `undefined` before the first.
   * A server measures it by the heartbeat; a client by {@linkcode Session.ping}.
   */
  get roundTripMs(): number | undefined {
    return this.#core.roundTripMs;
  }

  /**
   * Opens a bidirectional stream. Over Deno's QUIC a session that closes, a peer that gives the stream up,
   * and a server that refuses it unread, end it like a clean end: an answer that has to be whole tells
   * its length, or its end.
   *
   * @param options See {@linkcode OpenStreamOptions}.
   * @returns The stream.
   * @throws {UnsupportedError} If the wire has no streams; see `connection.capabilities`.
   * @throws {TimeoutError} If the peer allowed none within `timeoutMs`.
   * @throws {ConnectionError} If the connection is over.
   */
  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    return this.#core.opening("bidirectional", this.connection.createBidirectionalStream(options));
  }

  /**
   * Opens a unidirectional stream. A server whose application does not take it, or has too many unread,
   * refuses it; over Deno's QUIC that looks like a stream that ended well.
   *
   * @param options See {@linkcode OpenStreamOptions}.
   * @returns Its writable end.
   * @throws {UnsupportedError} If the wire has no streams; see `connection.capabilities`.
   * @throws {TimeoutError} If the peer allowed none within `timeoutMs`.
   * @throws {ConnectionError} If the connection is over.
   */
  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream> {
    return this.#core.opening(
      "unidirectional",
      this.connection.createUnidirectionalStream(options),
    );
  }

  /**
   * Yields the streams that the peer opens, of both kinds: each kind in the order in which they
   * came, in turns where both wait. A stream that is not taken waits, within the connection's bounds,
   * and on a server over WebTransport for 5 s (`limits.unreadStreams`), then it is refused; leaving the
   * loop leaves it there. Over Deno's QUIC a session that closes, and a peer that gives a stream up, end
   * the stream like a clean end: data that has to be whole tells its length, or its end.
   *
   * @param options Gives up waiting by a signal.
   * @returns The streams; it ends with the session, however that ends, and at once where the wire has none.
   * @throws {TypeError} If another loop over them runs.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * await pair.client.createBidirectionalStream();
   * for await (const stream of pair.server.incomingStreams()) {
   *   assertEquals(stream.direction, "bidirectional");
   *   break;
   * }
   * ```
   */
  async *incomingStreams(
    options: { readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<IncomingStream, void, undefined> {
    yield* (await insight()).incomingStreams(this.#core, options);
  }

  /**
   * Sends a datagram, or loses it: where too many wait already.
   *
   * @param data Its bytes; they MUST NOT be changed afterwards.
   * @throws {UnsupportedError} If the wire has no datagrams.
   * @throws {RangeError} If it is larger than `datagrams.maxDatagramSize`.
   * @throws {SessionClosedError} If the session is closed.
   * @throws {TypeError} If it is no `Uint8Array`.
   */
  async sendDatagram(data: Uint8Array): Promise<void> {
    (await insight()).sendDatagram(this.#core, data);
  }

  /**
   * Opens a stream of typed messages, or makes one of a stream that the peer opened. On some wires
   * the peer learns of a stream by its first bytes, so the end that opened it speaks first.
   *
   * @typeParam R The registry.
   * @param options The registry, and how messages become bytes.
   * @returns The stream.
   * @throws {TypeError} If the registry is empty, a key of it no integer from 0 to 65,534, or a value no
   * schema; if the codec is none, or the stream has not two ends.
   * @throws {RangeError} If `maxMessageBytes` is not an integer from 1 to 2^32 - 1.
   * @throws {UnsupportedError} If the wire has no streams.
   * @throws {TimeoutError} If the peer allowed none within `timeoutMs`.
   *
   * @example Both ends
   * ```ts
   * import { memoryPair, Session, sessionSettings } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   * import { z } from "zod";
   *
   * const registry = { 1: z.object({ x: z.number() }), 2: z.string() };
   * const { client, server } = memoryPair();
   * await using near = new Session(client, sessionSettings({ side: "client" }));
   * await using far = new Session(server, sessionSettings({ side: "server" }));
   *
   * await using sending = await near.structuredStream({ registry });
   * await sending.send(1, { x: 7 });
   * await sending.close();
   * for await (const stream of far.connection.incomingBidirectionalStreams) {
   *   await using receiving = await far.structuredStream({ registry, stream });
   *   assertEquals(await Array.fromAsync(receiving), [{ type: 1, data: { x: 7 } }]);
   *   break;
   * }
   * ```
   */
  async structuredStream<R extends Registry>(
    options: StructuredStreamOptions<R>,
  ): Promise<StructuredStream<R>> {
    return (await insight()).structuredStream(this, options);
  }

  /**
   * Makes typed messages of the datagrams, which are this one's until it is disposed of.
   *
   * @typeParam R The registry.
   * @param options The registry, and how messages become bytes.
   * @returns What sends and receives them.
   * @throws {TypeError} If the registry is none, or somebody reads the datagrams already.
   * @throws {RangeError} If `maxQueued` is not a positive integer.
   * @throws {UnsupportedError} If the wire has no datagrams.
   *
   * @example Positions
   * ```ts
   * import { memoryPair, Session, sessionSettings } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   * import { z } from "zod";
   *
   * const registry = { 1: z.object({ sequence: z.number(), x: z.number() }) };
   * const { client, server } = memoryPair();
   * await using near = new Session(client, sessionSettings({ side: "client" }));
   * await using far = new Session(server, sessionSettings({ side: "server" }));
   *
   * await using sending = await near.structuredDatagrams({ registry });
   * await using receiving = await far.structuredDatagrams({ registry });
   * await sending.send(1, { sequence: 1, x: 7 });
   * for await (const { type, data } of receiving) {
   *   assertEquals([type, data], [1, { sequence: 1, x: 7 }]);
   *   break;
   * }
   * ```
   */
  async structuredDatagrams<R extends Registry>(
    options: StructuredDatagramsOptions<R>,
  ): Promise<StructuredDatagrams<R>> {
    return (await insight()).structuredDatagrams(this, options);
  }

  /**
   * Allows the peer to send so many bytes on streams, in all.
   *
   * @param maxData The total since the beginning; what is lower than before changes nothing.
   * @throws {UnsupportedError} If the peer counts no credit on this wire.
   * @throws {RangeError} If it is not an integer from 0.
   */
  async grantDataCredit(maxData: number): Promise<void> {
    (await insight()).grantCredit(this.#core, "data", maxData);
  }

  /**
   * Allows the peer to open so many streams, in all.
   *
   * @param maxStreams The total since the beginning; what is lower than before changes nothing.
   * @param options Of which direction.
   * @throws {UnsupportedError} If the peer counts no credit on this wire.
   * @throws {RangeError} If it is not an integer from 0.
   */
  async grantStreamsCredit(
    maxStreams: number,
    options: { readonly direction: StreamDirection },
  ): Promise<void> {
    (await insight()).grantCredit(this.#core, options.direction, maxStreams);
  }

  /**
   * Measures the time to the peer and back.
   *
   * @param options Gives up by signal or time, 10,000 ms by default.
   * @returns Milliseconds.
   * @throws {UnsupportedError} If the wire has no heartbeat of its own: a plain WebSocket, or one without messages.
   * @throws {TimeoutError} If no answer came in time.
   * @throws {SessionClosedError} If the session is closed, or closes meanwhile.
   * @throws {QueueFullError} If too many wait already.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assert } from "@std/assert";
   *
   * await using pair = memorySessions();
   * await pair.client.ready;
   * const ms = await pair.client.ping();
   * assert(ms > 0 && pair.client.roundTripMs === ms);
   * ```
   */
  async ping(options: WaitOptions = {}): Promise<number> {
    return await (await insight()).ping(this.#core, options);
  }

  /**
   * Takes a snapshot of everything that is known of the session. It has no side
   * effect, and no header that could hold a secret.
   *
   * @returns The snapshot.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * const { state, transport, queues } = await pair.server.diagnostics();
   * assertEquals([state, transport, queues.receive.messages], ["connected", "memory", 0]);
   * ```
   */
  async diagnostics(): Promise<SessionDiagnostics> {
    return (await insight()).diagnostics(this.#core);
  }

  /**
   * Sums up the session for a list of many.
   *
   * @returns A small plain object.
   */
  async summary(): Promise<SessionSummary> {
    return (await insight()).summary(this.#core);
  }

  /**
   * Takes everything apart for a person who looks for a fault: the snapshot,
   * the queues, the limits and the issues, as one plain object.
   *
   * @returns What JSON can hold.
   */
  async debugState(): Promise<SessionDebugState> {
    return (await insight()).debugState(this.#core);
  }

  /**
   * Looks for what is wrong: stuck states, error rates, unread or leaking
   * streams, queues near their bound, missing heartbeats, starvation by credit.
   *
   * @returns One entry for each, with a sentence that says what to do; empty if all is well.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * await pair.client.createUnidirectionalStream();
   * const [issue] = await pair.server.issues();
   * assertEquals([issue?.code, issue?.severity], ["unread-streams", "warning"]);
   * ```
   */
  async issues(): Promise<SessionIssue[]> {
    return (await insight()).issues(this.#core);
  }

  /**
   * Looks at the session again and again, until it closes.
   *
   * @param options How often, and a signal that ends it.
   * @returns Yields how it is: at once, and then at each interval.
   * @throws {RangeError} If the interval is not a positive integer.
   *
   * @example Usage
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions();
   * for await (const { isHealthy, issues } of pair.server.monitorHealth({ intervalMs: 30_000 })) {
   *   assertEquals([isHealthy, issues], [true, []]);
   *   break;
   * }
   * ```
   */
  async *monitorHealth(
    options: HealthOptions = {},
  ): AsyncGenerator<SessionHealth, void, undefined> {
    yield* (await insight()).monitorHealth(this.#core, options);
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
    checkLoop("session", this.#isIterated, this.#core.inbound.isHandled);
    this.#isIterated = true;
    try {
      while (true) {
        const message = await this.#core.inbound.next();
        if (message === undefined) return;
        yield message as unknown as MessageOf<C, S>;
      }
    } finally {
      this.#isIterated = false;
      this.#core.inbound.release?.();
    }
  }
}

function withMessage({ transport, error }: TransportFallback): SessionFallback {
  const message = error instanceof Error ? error.message : String(error);
  return Object.defineProperty({ transport, message, error }, "error", { enumerable: false });
}
