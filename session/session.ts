/**
 * The public class of a session with one peer, for messages, requests, streams and datagrams.
 *
 * @module
 */
import { parseUrl } from "../transport/url.ts";
import type {
  BidirectionalStream,
  Connection,
  DatagramDuplex,
  OpenStreamOptions,
  SendStream,
  StreamDirection,
} from "../transport/connection.ts";
import type { SessionHealth, SessionIssue } from "./insight/health.ts";
import type {
  SessionDebugState,
  SessionDiagnostics,
  SessionSummary,
} from "./insight/diagnostics.ts";
import type { SessionEvents } from "./events.ts";
import type { IncomingStream } from "./streams/incoming_streams.ts";
import type {
  RequestStreamOptions,
  SessionCloseOptions,
  SessionDrainOptions,
  SessionIdentity,
  SessionPublishOptions,
  SessionState,
  SessionStats,
  StreamingResponse,
  WaitOptions,
} from "./types.ts";
import type { SessionSettings } from "./settings/settings.ts";
import { statsOf } from "./insight/stats.ts";
import type { StructuredStream } from "./streams/structured.ts";
import type { StructuredDatagrams } from "./streams/structured_datagrams.ts";
import type {
  StructuredDatagramsOptions,
  StructuredStreamOptions,
} from "./streams/structured_options.ts";
import type { Registry } from "./streams/registry.ts";
import { CloseCode, type CloseInfo } from "../errors.ts";
import { checkCloseInfo, isSendable } from "../transport/close_info.ts";
import { checkLoop } from "./queue/receive_queue.ts";
import { type Inside, Receiving } from "./receiving.ts";
import { responseOf } from "./responses/streaming_response.ts";
import { Sending } from "./sending.ts";
import type {
  Contract,
  ContractData,
  ContractItem,
  ContractReply,
  ContractTopic,
  MessageOf,
  Side,
} from "./contract.ts";
import { internals, SessionCore, SKEIN_PROTOCOL } from "./core.ts";
import { encodeMessage } from "./wire/encode.ts";
import type { GoAway } from "./wire/envelope.ts";
import type { HistoryOptions, SubscribeReply } from "./wire/recovery.ts";
import { settlesWithin, waitFor } from "../base/wait.ts";
import { textOf } from "../base/error_text.ts";
import type { TransportFallback } from "../transport/race/options.ts";

/** Default time in which a session drains, in milliseconds. */
export const SESSION_DRAIN_MS = 5_000;

/** Default timeout for an established session, in milliseconds. */
export const READY_MS = 30_000;

export { internals, SKEIN_PROTOCOL };

/** Features that load on first use, see `SessionSettings.insight`. */
type InsightModule = typeof import("./insight/insight.ts");

/** Streaming responses, see `SessionSettings.responses`. */
type ResponsesModule = typeof import("./responses/responses.ts");

/**
 * A session with one peer, over one {@linkcode Connection}. The session and the connection close
 * together.
 *
 * - **Order:** messages arrive in the order of the calls to `send`, and are handled one at a time.
 * - **Bounds:** the queues of messages to send and of messages to handle are bounded. When a queue
 *   is full, its policy applies.
 * - **Close:** when the session closes, it flushes all messages sent earlier, `onClose` runs once,
 *   and iteration ends without an error. `closeError` contains the cause.
 *
 * @example Two ends in one process
 * ```ts
 * import { Session } from "@skein/skein";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
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
 * @typeParam V The result of `authenticate`.
 * @typeParam C The contract.
 * @typeParam S The side of this end, `client` or `server`.
 */
export class Session<
  V = unknown,
  C extends Contract = Contract,
  S extends Side = Side,
> implements AsyncIterable<MessageOf<C, S>>, AsyncDisposable {
  /** The URL that the peer connected to. */
  declare readonly url: string;
  /** The peer's network address, if known. */
  declare readonly address: string | undefined;
  /**
   * On a client, the reason why the session does not use the preferred transport; otherwise
   * `undefined`. `message` repeats the message of `error`, which JSON would omit.
   */
  declare readonly fallback: TransportFallback & { readonly message: string } | undefined;

  /** The connection of the session, with streams and datagrams if the transport supports them. */
  declare readonly connection: Connection;
  /**
   * The implementation of the session, for other modules of Skein.
   *
   * @ignore
   */
  readonly [internals]: Inside<Session>;
  readonly #core: Inside;
  readonly #headers: HeadersInit | undefined;
  #isIterated = false;

  /**
   * Starts a session on an established connection.
   *
   * @param connection The connection, which the session then owns.
   * @param settings The settings, created once by {@linkcode sessionSettings} for any number of
   * sessions.
   * @param identity Facts about the peer.
   */
  constructor(
    connection: Connection,
    settings: SessionSettings,
    identity: SessionIdentity<V, Session> = {},
  ) {
    this.connection = connection;
    const session = this as unknown as Session;
    const core = new SessionCore<Session>(session, connection, settings, identity);
    const sending = new Sending(core);
    const receiving = new Receiving(core, sending);
    this.#core = this[internals] = Object.assign(core, { sending, receiving });
    this.url = identity.url ?? "";
    this.address = identity.address;
    this.fallback = identity.fallback && withMessage(identity.fallback);
    this.#headers = identity.headers;
    this.#core.begin(identity.token);
  }

  /** Id of the session; the same on both sides of `skein.1`. */
  get id(): string {
    return this.#core.id;
  }

  /** The result of `authenticate`; `undefined` for a guest. A renewed token replaces the value. */
  get value(): V {
    return this.#core.value as V;
  }

  /**
   * The user on the other side, as returned by `userOf`. On the server, a session without a user
   * has its own name, which starts with `guest:` and stays the same when the client reconnects.
   */
  get user(): string {
    return this.#core.name;
  }

  /**
   * True if the server admitted the peer as a guest: `authenticate` returned `guest`, or the server
   * has no `authenticate`.
   */
  get isGuest(): boolean {
    return this.#core.isGuest;
  }

  /**
   * A copy of the request headers that the server keeps (`keepHeaders`). Snapshots include these
   * headers without secrets.
   */
  get headers(): Headers {
    return new Headers(this.#headers);
  }

  /** The path of `url`. */
  get path(): string {
    return parseUrl(this.url)?.pathname ?? "";
  }

  /** The subprotocol of the connection; empty on a plain WebSocket. */
  get protocol(): string {
    return this.connection.protocol;
  }

  /** Name of the transport, for humans. */
  get transport(): string {
    return this.connection.transport;
  }

  /** The state of the session. */
  get state(): SessionState {
    return this.#core.state;
  }

  /** True while messages can be sent. */
  get isReady(): boolean {
    return this.#core.isReady;
  }

  /** True once the session has closed. */
  get isClosed(): boolean {
    return this.#core.state === "closed";
  }

  /** Resolves once the session is established; rejects if the session closes before. */
  get ready(): Promise<void> {
    return this.#core.ready;
  }

  /** Resolves with how the session closed; never rejects. */
  get closed(): Promise<CloseInfo> {
    return this.#core.closed;
  }

  /** The error that closed the session; `undefined` while it is open and after a normal close. */
  get closeError(): unknown {
    const { info } = this.#core;
    if (info === undefined || info.error !== undefined) return info?.error;
    if (info.code === CloseCode.normal || info.code === CloseCode.goingAway) return undefined;
    return this.#core.closedError("The session was closed");
  }

  /**
   * Waits until the session is established.
   *
   * @param options The signal, and the timeout (30,000 ms by default).
   * @returns Resolves once messages can be sent.
   * @throws {TimeoutError} If the timeout expires first.
   * @throws {SessionClosedError} If the session closes first.
   */
  whenReady(options: WaitOptions = {}): Promise<void> {
    this.#core.settings.checkOptions("wait", options);
    const { timeoutMs = READY_MS, signal } = options;
    return waitFor(this.#core.settings.runtime, this.ready, {
      timeoutMs,
      signal,
      what: "session",
    });
  }

  /**
   * Sends a message. Never blocks: the message is queued, and is sent at the end of this event loop
   * turn.
   *
   * @param topic The name under which the peer's handlers receive the message, of 1 to 255 bytes.
   * @param data Any value that JSON can hold; on `skein.1` also a `Uint8Array`.
   * @throws {SessionClosedError} If the session is closing or closed.
   * @throws {QueueFullError} If the queue is full and its policy is `close`; the session closes.
   * @throws {TypeError} If JSON cannot hold the data, or the topic is not valid.
   * @throws {RangeError} If the message is larger than this side may send, or the peer accepts.
   */
  send<T extends ContractTopic<C, S>>(topic: T, data?: ContractData<C, S, T>): void {
    const core = this.#core;
    const { joins, sending, settings: { watch } } = core;
    sending.checkData("send", data);
    core.checkOpen("send");
    const { maxSendBytes: maxBytes } = sending;
    const trace = joins ? watch?.sending(topic, core.session) : undefined;
    sending.push(encodeMessage(topic, data, { maxBytes, trace }), false);
  }

  /**
   * Waits until the connection has accepted every message sent so far and is ready for more. If you
   * produce messages faster than the peer reads them, await this before each batch, to apply
   * back-pressure.
   *
   * @param options The signal and the timeout; by default, there is no timeout.
   * @returns Resolves when there is room, or when the session closes.
   * @throws {TimeoutError} If the wait takes longer than `timeoutMs`.
   * @throws {UnsupportedError} If the connection carries only streams and datagrams.
   */
  async flushed(options: WaitOptions = {}): Promise<void> {
    this.#core.settings.checkOptions("wait", options);
    const queue = this.#core.sending.messages("wait for the send queue");
    this.#core.settings.flusher.flush();
    await waitFor(this.#core.settings.runtime, queue.flushed(), {
      ...options,
      what: "room in the send queue",
    });
  }

  /**
   * Sends a request to the peer, and waits for the reply.
   *
   * @param topic The name of the request, which selects the peer's handler, of 1 to 255 bytes.
   * @param data The input of the request.
   * @param options The signal, and the timeout (`requestTimeoutMs` by default).
   * @returns The result of the peer's handler.
   * @throws {RequestError} If the reply is a failure, or does not fit the contract.
   * @throws {TimeoutError} If no reply arrives in time.
   * @throws {SessionClosedError} If the session closes first.
   * @throws {QueueFullError} If `maxRequests` requests already wait for replies.
   */
  async request<T extends ContractTopic<C, "requests">>(
    topic: T,
    data?: ContractData<C, "requests", T>,
    options: WaitOptions = {},
  ): Promise<ContractReply<C, T>> {
    const { sending, receiving, settings: { checkOptions, router, watch } } = this.#core;
    checkOptions("session.request", options);
    const reply = await (watch === undefined ? sending.request(topic, data, options) : watch.asking(
      this.#core.session,
      topic,
      (trace) => sending.request(topic, data, { ...options, trace }),
    ));
    const checked = router && receiving.faults.checked(router.checkReply(topic, reply));
    return await (checked ?? reply) as ContractReply<C, T>;
  }

  /**
   * Sends a request for a streaming response. The request is sent in this event loop turn, but the
   * first such request waits until the code for it has loaded. The loop throws any errors.
   *
   * @param topic The name of the request, which selects the peer's handler, of 1 to 255 bytes.
   * @param data The input of the request.
   * @param options The signal, timeouts, and the number of items that the peer may send ahead.
   * @returns The response, for one loop. The loop throws a {@linkcode RequestError} if the response
   * fails, a {@linkcode TimeoutError} if an item or the end is late, a
   * {@linkcode SessionClosedError} if the session closes first, and a {@linkcode QueueFullError} if
   * `maxRequests` requests already wait.
   *
   * @example A count
   * ```ts
   * import { memorySessions } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memorySessions({
   *   server: {
   *     requests: {
   *       async *count({ data }) {
   *         for (let n = 1; n <= Number(data); n++) yield n;
   *       },
   *     },
   *   },
   * });
   * await pair.client.ready;
   * assertEquals(await Array.fromAsync(pair.client.requestStream("count", 3)), [1, 2, 3]);
   * ```
   */
  requestStream<T extends ContractTopic<C, "responses">>(
    topic: T,
    data?: ContractData<C, "responses", T>,
    options: Omit<RequestStreamOptions, "id" | "after"> = {},
  ): StreamingResponse<ContractItem<C, T>> {
    this.#core.settings.checkOptions("session.request stream", options);
    return responseOf(
      this.#core.settings.responses().then((part) =>
        (part as ResponsesModule).openResponse(this.#core, topic, data, options)
      ),
    );
  }

  /**
   * Subscribes to a topic of the server, if the server's `authorize` allows it. The messages of the
   * topic arrive like all other messages.
   *
   * @param topic The topic whose messages the server should send, of 1 to 255 bytes.
   * @param options The start position, for a topic with a history; the signal, and the timeout
   * (`requestTimeoutMs` by default).
   * @returns The position in the history after which the following messages start.
   * @throws {RequestError} With code `forbidden`, if the server does not allow the subscription.
   */
  async subscribe<T extends ContractTopic<C, "server">>(
    topic: T,
    options: WaitOptions & HistoryOptions = {},
  ): Promise<SubscribeReply> {
    this.#core.settings.checkOptions("session.subscribe", options);
    const reply = await this.#core.sending.askTopic("subscribe", topic, options);
    return (reply ?? {}) as SubscribeReply;
  }

  /**
   * Ends the subscription to a topic of the server.
   *
   * @param topic A topic to which the session is subscribed.
   * @param options The signal, and the timeout (`requestTimeoutMs` by default).
   */
  async unsubscribe(topic: string, options: WaitOptions = {}): Promise<void> {
    this.#core.settings.checkOptions("unsubscribe", options);
    await this.#core.sending.askTopic("unsubscribe", topic, options);
  }

  /**
   * Publishes to a topic through the server, if the server's `authorize` allows it.
   *
   * @param topic The topic whose subscribers receive the message, of 1 to 255 bytes.
   * @param data Any value that JSON can hold; on `skein.1` also a `Uint8Array`.
   * @param options The signal, the timeout (`requestTimeoutMs` by default), and `except`.
   * @returns Resolves once the server has published the message.
   * @throws {RequestError} With code `forbidden` if the server does not allow the publication; with
   * `too-many` and `retryAfterMs` if the publication exceeds a rate limit of the server.
   * @throws {TypeError} If JSON cannot hold the data, or the topic is not valid.
   * @throws {RangeError} If the message is larger than `maxMessageBytes`.
   */
  async publish<T extends ContractTopic<C, "server">>(
    topic: T,
    data?: ContractData<C, "server", T>,
    options: SessionPublishOptions = {},
  ): Promise<void> {
    this.#core.settings.checkOptions("session.publish", options);
    await this.#core.sending.publish(topic, data, options);
  }

  /**
   * Sets this session's presence data in a room, if the server's `authorize` allows it. If the
   * session is in the room, the data applies immediately. It also applies each time the session
   * joins the room.
   *
   * @param room The room's topic. The session need not be in the room yet.
   * @param data Any value that JSON can hold, of at most 512 bytes unless the server allows more;
   * `undefined` removes the data.
   * @param options The signal, and the timeout (`requestTimeoutMs` by default).
   * @throws {RequestError} With code `forbidden` if the server does not allow the data, `too-large`
   * if it is too large, or `invalid` if it does not fit the contract.
   * @throws {QueueFullError} If 64 values already wait for replies.
   * @throws {TypeError} If JSON cannot hold the data, or the room is not a valid topic.
   */
  async presence<T extends ContractTopic<C, "presence">>(
    room: T,
    data?: ContractData<C, "presence", T>,
    options: WaitOptions = {},
  ): Promise<void> {
    this.#core.settings.checkOptions("set presence", options);
    await this.#core.sending.askPresence(room, data, options);
  }

  /**
   * Renews the token of a client's session, without a new connection.
   *
   * @param token The new token.
   * @param options The signal, and the timeout (`requestTimeoutMs` by default).
   * @throws {RequestError} If the server rejects the token; the session continues as before.
   */
  async authenticate(token: string, options: WaitOptions = {}): Promise<void> {
    this.#core.settings.checkOptions("authenticate", options);
    await this.#core.sending.authenticate(token, options);
  }

  /**
   * Announces to the peer that this server will shut down, and when the peer should reconnect. The
   * session continues. Does nothing on a plain WebSocket, which has no such message.
   *
   * @param goaway The time after which the peer should reconnect, in whole milliseconds, and the
   * reason.
   * @throws {RangeError} If the time is not an integer of 0 or more.
   */
  goAway(goaway: GoAway): void {
    const core = this.#core;
    core.settings.checkOptions("go away", goaway);
    if (core.joins && core.isReady) core.sending.post({ goaway });
  }

  /**
   * Drains the session: notifies the peer with `goaway` if `retryAfterMs` is set, lets handlers and
   * requests finish, flushes, and then closes.
   *
   * @param options The close code (on a server, 4503 by default), the reason, and the timeouts.
   * @returns How the session closed.
   */
  async drain(options: SessionDrainOptions = {}): Promise<CloseInfo> {
    const core = this.#core;
    core.settings.checkOptions("drain", options);
    const { retryAfterMs, reason = "", withinMs = SESSION_DRAIN_MS } = options;
    const isServer = core.settings.side === "server";
    const code = closeCodeOf(options, isServer ? CloseCode.draining : CloseCode.normal);
    checkCloseInfo({ closeCode: code, reason });
    // The first call decides, as in `close`. If a session drains after a handover, there was no
    // call yet.
    if (core.state === "draining" && !core.lineage.movedTo) return await this.closed;
    if (core.isReady) {
      if (core.state === "connected") core.startDraining();
      if (isServer && retryAfterMs !== undefined) this.goAway({ retryAfterMs, reason });
      const done = Promise.all([core.receiving.idle(), core.sending.requests.idle()]);
      // The close cuts off handlers and requests that take longer.
      await settlesWithin(this.#core.settings.runtime, Promise.race([done, this.closed]), withinMs);
    }
    return await this.close({ code, reason });
  }

  /**
   * Flushes earlier messages and closes the session, within `closeTimeoutMs`. Idempotent; the first
   * call determines the code and the reason.
   *
   * @param options The code and the reason, or the result of another session's `closed`.
   * @returns How the session closed. Never rejects.
   * @throws {RangeError} If the code is neither 0 nor 3000 to 4999.
   */
  close(options: SessionCloseOptions = {}): Promise<CloseInfo> {
    this.#core.settings.checkOptions("close", options);
    const { reason = "", closeConnection = false } = options;
    const code = closeCodeOf(options, CloseCode.normal);
    const checked = checkCloseInfo({ closeCode: code, reason });
    this.#core.closesConnection ||= closeConnection;
    this.#core.windUp({ code, reason: checked.reason, by: "local" });
    return this.closed;
  }

  /** The counters, which are read on each access. `toJSON()` returns a plain object. */
  get stats(): SessionStats {
    return statsOf(this.#core);
  }

  /**
   * The events of the session. The event target is created on first access, so earlier events are
   * not replayed.
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
   * The last measured round trip to the peer, in milliseconds; `undefined` before the first
   * measurement. A server measures it with the heartbeat, and a client with {@linkcode
   * Session.ping}.
   */
  get roundTripMs(): number | undefined {
    return this.#core.sending.roundTripMs;
  }

  /**
   * Opens a bidirectional stream. Over Deno's QUIC, a stream also appears to end cleanly if the
   * session closes, if the peer abandons the stream, or if the server rejects it unread. If a reply
   * must be complete, send its length or an end marker.
   *
   * @param options Options of the stream, see {@linkcode OpenStreamOptions}.
   * @returns The stream, whose two directions end separately.
   * @throws {UnsupportedError} If the transport has no streams; see `connection.capabilities`.
   * @throws {TimeoutError} If the peer allows no stream within `timeoutMs`.
   * @throws {ConnectionError} If the connection is closed.
   */
  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    this.#core.settings.checkOptions("open stream", options ?? {});
    return this.#opening("bidirectional", this.connection.createBidirectionalStream(options));
  }

  /**
   * Opens a unidirectional stream. A server rejects a stream if its application does not read the
   * stream, or if too many streams are unread. Over Deno's QUIC, the rejection looks like a clean
   * end.
   *
   * @param options Options of the stream, see {@linkcode OpenStreamOptions}.
   * @returns The writable end.
   * @throws {UnsupportedError} If the transport has no streams; see `connection.capabilities`.
   * @throws {TimeoutError} If the peer allows no stream within `timeoutMs`.
   * @throws {ConnectionError} If the connection is closed.
   */
  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream> {
    this.#core.settings.checkOptions("open stream", options ?? {});
    return this.#opening(
      "unidirectional",
      this.connection.createUnidirectionalStream(options),
    );
  }

  /**
   * Yields the streams of both kinds that the peer opens. Streams of the same kind are yielded in
   * order of arrival. If streams of both kinds are waiting, the kinds alternate.
   *
   * - **Unread streams:** streams wait within the connection's limits. Over WebTransport, a server
   *   rejects a stream that has waited for 5 s (`limits.unreadStreams`).
   * - **Leaving the loop:** waiting streams remain for the next loop.
   * - **End of a stream:** over Deno's QUIC, a stream also appears to end cleanly if the session
   *   closes or the peer abandons the stream. If data must be complete, send its length or an end
   *   marker.
   *
   * @param options A signal that ends the wait.
   * @returns The streams. The loop ends without an error when the session closes, and immediately
   * if the transport has no streams.
   * @throws {TypeError} If another loop over the streams is already running.
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
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<IncomingStream, void, undefined> {
    yield* (await this.#insight()).incomingStreams(this.#core, options);
  }

  /**
   * Sends a datagram, or drops it if too many are waiting already.
   *
   * @param data The bytes, which MUST NOT be changed afterwards.
   * @throws {UnsupportedError} If the transport has no datagrams.
   * @throws {RangeError} If the data is larger than `datagrams.maxDatagramSize`.
   * @throws {SessionClosedError} If the session is closed.
   * @throws {TypeError} If the data is not a `Uint8Array`.
   */
  async sendDatagram(data: Uint8Array): Promise<void> {
    (await this.#insight()).sendDatagram(this.#core, data);
  }

  /**
   * Opens a stream of typed messages, or wraps a stream that the peer opened. On some transports,
   * the peer sees a stream only after its first bytes, so the end that opens the stream must send
   * first.
   *
   * @typeParam R The registry.
   * @param options The registry, and how messages are encoded.
   * @returns The stream, whose messages are checked against the registry.
   * @throws {TypeError} If the registry is empty, if one of its keys is not an integer from 0 to
   * 65,534, if one of its values is not a schema, if the codec is not valid, or if the stream lacks
   * its readable or writable end.
   * @throws {RangeError} If `maxMessageBytes` is not an integer from 1 to 2^32 - 1.
   * @throws {UnsupportedError} If the transport has no streams.
   * @throws {TimeoutError} If the peer allows no stream within `timeoutMs`.
   *
   * @example Both sides
   * ```ts
   * import { Session } from "@skein/skein";
   * import { sessionSettings } from "@skein/skein/session";
   * import { memoryPair } from "@skein/skein/transport";
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
    return (await this.#insight()).structuredStream(this, options);
  }

  /**
   * Sends and receives datagrams as typed messages. The result owns the session's datagrams until
   * it is disposed.
   *
   * @typeParam R The registry.
   * @param options The registry, and how messages are encoded.
   * @returns The sender and receiver of the messages.
   * @throws {TypeError} If the registry is not valid, or if the datagrams already have a reader.
   * @throws {RangeError} If `maxQueued` is not a positive integer.
   * @throws {UnsupportedError} If the transport has no datagrams.
   *
   * @example Positions
   * ```ts
   * import { Session } from "@skein/skein";
   * import { sessionSettings } from "@skein/skein/session";
   * import { memoryPair } from "@skein/skein/transport";
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
    return (await this.#insight()).structuredDatagrams(this, options);
  }

  /**
   * Raises the total number of bytes that the peer may send on streams.
   *
   * @param maxData The total since the session started; a lower value than before has no effect.
   * @throws {UnsupportedError} If the transport does not let the application grant credit.
   * @throws {RangeError} If the total is not an integer of 0 or more.
   */
  async grantDataCredit(maxData: number): Promise<void> {
    (await this.#insight()).grantCredit(this.#core, "data", maxData);
  }

  /**
   * Raises the total number of streams that the peer may open.
   *
   * @param maxStreams The total since the session started; a lower value than before has no effect.
   * @param options Which kind of streams the total applies to.
   * @throws {UnsupportedError} If the transport does not let the application grant credit.
   * @throws {RangeError} If the total is not an integer of 0 or more.
   */
  async grantStreamsCredit(
    maxStreams: number,
    options: {
      /** The kind of streams that the peer may open. */
      readonly direction: "bidirectional" | "unidirectional";
    },
  ): Promise<void> {
    (await this.#insight()).grantStreamsCredit(this.#core, maxStreams, options);
  }

  /**
   * Measures the round trip to the peer.
   *
   * @param options The signal, and the timeout (10,000 ms by default).
   * @returns The round trip in milliseconds.
   * @throws {UnsupportedError} If the session does not support pings, because it uses a plain
   * WebSocket or a connection without messages.
   * @throws {TimeoutError} If no reply arrives in time.
   * @throws {SessionClosedError} If the session is closed, or closes first.
   * @throws {QueueFullError} If too many pings already wait.
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
    return await (await this.#insight()).ping(this.#core, options);
  }

  /**
   * Takes a snapshot of everything that is known about the session. This has no side effects.
   * Headers that could contain a secret are not included.
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
    return (await this.#insight()).diagnostics(this.#core);
  }

  /**
   * Returns a summary of the session, for lists of many sessions.
   *
   * @returns A small plain object.
   */
  async summary(): Promise<SessionSummary> {
    return (await this.#insight()).summary(this.#core);
  }

  /**
   * Collects the snapshot, the queues, the limits and the issues, for debugging.
   *
   * @returns A plain object that JSON can hold.
   */
  async debugState(): Promise<SessionDebugState> {
    return (await this.#insight()).debugState(this.#core);
  }

  /**
   * Detects problems such as stuck states, high error rates, unread or leaking streams, nearly full
   * queues, missing heartbeats, and lack of credit.
   *
   * @returns One issue for each problem, with advice; empty if the session is healthy.
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
    return (await this.#insight()).issues(this.#core);
  }

  /**
   * Checks the health of the session at regular intervals, until the session closes.
   *
   * @param options The interval, and a signal that ends the loop.
   * @returns The health of the session: immediately, and then at each interval.
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
    options: {
      /**
       * Interval, in milliseconds.
       *
       * @default {60000}
       */
      readonly intervalMs?: number | undefined;
      /** Ends the monitoring. */
      readonly signal?: AbortSignal | undefined;
    } = {},
  ): AsyncGenerator<SessionHealth, void, undefined> {
    yield* (await this.#insight()).monitorHealth(this.#core, options);
  }

  async #opening<T>(direction: StreamDirection, stream: Promise<T>): Promise<T> {
    const core = this.#core;
    const openings = core.openings ??= { bidirectional: 0, unidirectional: 0 };
    openings[direction]++;
    try {
      return await stream;
    } catch (error) {
      core.sending.gaveUp(error);
      throw error;
    } finally {
      openings[direction]--;
    }
  }

  #insight(): Promise<InsightModule> {
    return this.#core.settings.insight() as Promise<InsightModule>;
  }

  /** Closes the session and waits until it has closed. Called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Yields messages until the session closes, including messages that arrived earlier.
   *
   * @returns The messages, checked against the contract.
   * @throws {TypeError} If the session has an `onMessage` handler, or if another loop is already
   * running.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<MessageOf<C, S>, void, undefined> {
    checkLoop("session", this.#isIterated, this.#core.receiving.isHandled);
    this.#isIterated = true;
    try {
      while (true) {
        const message = await this.#core.receiving.next();
        if (message === undefined) return;
        yield message as unknown as MessageOf<C, S>;
      }
    } finally {
      this.#isIterated = false;
      this.#core.receiving.leave();
    }
  }
}

function withMessage(
  { transport, error }: TransportFallback,
): TransportFallback & { readonly message: string } {
  const message = textOf(error);
  return Object.defineProperty({ transport, message, error }, "error", { enumerable: false });
}

/** Returns the code to send. See `by` of {@linkcode SessionCloseOptions} for foreign codes. */
function closeCodeOf({ code, by }: SessionCloseOptions, normal: number): number {
  if (code === undefined) return normal;
  return by === undefined || isSendable(code) ? code : CloseCode.draining;
}
