/**
 * A client that reconnects, restores its subscriptions in each session, and queues messages in an
 * outbox.
 */
import { isForSize } from "../transport/close_info.ts";
import { checkTopic, type EncodedMessage, encodeMessage } from "../session/wire/encode.ts";
import {
  CloseCode,
  type CloseInfo,
  ConnectionError,
  SessionClosedError,
  TimeoutError,
  UnsupportedError,
} from "../errors.ts";
import { Attempts } from "../base/attempts.ts";
import { attempt } from "../base/call_safely.ts";
import { Outbox } from "./outbox/outbox.ts";
import { OutboxPublications } from "./outbox/publications.ts";
import type { Connection } from "../transport/connection.ts";
import type { PageWatch } from "./page_watch.ts";
import type {
  ClientOptions,
  ClientPublishOptions,
  ClientRequestOptions,
  ClientStatus,
  ClientSubscribeOptions,
  Dialer,
  FlushOptions,
  ServerUrl,
} from "./client_options.ts";
import { internals, type Session, SKEIN_PROTOCOL } from "../session/session.ts";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import { checkLoop } from "../session/queue/receive_queue.ts";
import type {
  ComparedByMembers,
  Contract,
  ContractData,
  ContractItem,
  ContractReply,
  ContractTopic,
  MessageOf,
  RoomData,
  StateIds,
} from "../session/contract.ts";
import { closedError } from "../session/core.ts";
import { Guest } from "./guest.ts";
import {
  attemptSession,
  checkConnectTimeout,
  fresh,
  type OpenFailure,
  type Opening,
} from "./open.ts";
import type { ClientPlatform } from "./platform.ts";
import { STREAM_PREFIX } from "../session/wire/recovery.ts";
import { StatusFeed } from "../base/status_feed.ts";
import { withoutUndefined } from "../base/options/options.ts";
import type { Moves } from "./handover.ts";
import type { Liveness } from "./liveness.ts";
import type { Delivery } from "./outbox/delivery.ts";
import type { Keeper } from "./store/keeper.ts";
import type { Durability } from "./store/store.ts";
import type { Verdict } from "./recovery.ts";
import type { DurableStream, DurableStreamOptions } from "./durable_stream.ts";
import type { ClientStateOf, ClientStateOptions } from "./state/state.ts";
import type { ClientStates } from "./state/states.ts";
import { ClientPresence, Members, WatchedRooms } from "./subscriptions/rooms.ts";
import { report, type SessionSettings } from "../session/settings/settings.ts";
import type { Subscription } from "./subscriptions/subscription.ts";
import { ClientSubscriptions } from "./subscriptions/subscriptions.ts";
import type { UnreadSessions } from "./unread_sessions.ts";
import { publicUrl } from "../transport/url.ts";
import { TOKEN_MARK } from "../transport/webtransport.ts";
import { Backoff, boundRetryAfter } from "../base/backoff.ts";
import { ServerUrls, withTicket } from "../session/url.ts";
import { SingleCall } from "../base/single_call.ts";
import { anySignal, waitFor, within } from "../base/wait.ts";
import { responseOf } from "../session/responses/streaming_response.ts";
import type { RequestStreamOptions, StreamingResponse, WaitOptions } from "../session/types.ts";
import { checkSettings } from "../session/settings/check_settings.ts";
import type { SilentTransport } from "../transport/race/options.ts";

/** The length of a session after which it counts as a success and the delays start over. */
const STABLE_MS = 5_000;

/**
 * The shortest pause between a rejected attempt and the attempt with a fresh token, in
 * milliseconds. The longest pause is three times as long. A pause is needed because the library
 * that provides the token may still be renewing it after a wake-up.
 */
const FRESH_TOKEN_MS = 500;

/**
 * A client that reconnects whenever the connection is lost, with capped and jittered delays. If the
 * server rejects it, the client stays disconnected until `retryNow()` or `wake()` retries.
 *
 * - **Subscriptions** are requested again in every new session. Subscriptions to a topic with a
 *   history resume from their position.
 * - **Presence:** the client's presence data in rooms is set again in every new session.
 * - **Outbox:** messages that you send while the client is not connected go out after it has
 *   reconnected, in order, and no faster than the server reads them. A message larger than the
 *   server's limit is dropped and reported to `onMessageRejected` with the code `too-large`.
 * - **Console:** if the client cannot connect or is rejected, it prints one line per URL, unless
 *   there is an `onError` handler. If `status` was read or subscribed to, it prints only that it is
 *   rejected, or that the function `token` failed.
 * - **Rejected:** after the close code 4401 or 4403, after 4400 in response to an attempt to
 *   connect, or after such a rejection by `token`, the client stays disconnected with the status
 *   `rejected`. Requests are rejected immediately, while subscriptions, loops and the outbox wait.
 *   {@linkcode Client.retryNow} tries again. With `endOnRejection`, the client closes instead;
 *   loops and publications are then rejected too.
 * - **Fresh token:** if `token` is a function, the client makes one more attempt after 4401 before
 *   it counts as rejected. A rejected client also retries after the page or machine wakes up or
 *   comes back online.
 * - **Not found:** after 4404, the client waits for the longest delay and then retries, because a
 *   newer version of the server may serve the path.
 * - **Closed:** a normal close by the server closes the client, and loops end without an error.
 * - **Silence:** while the client waits for a response, it detects a dead server within 4 s and
 *   then continues in a new session.
 *
 * A function with a parameter of type `Client` accepts every client, except one whose contract has
 * states. For that one, write `Client<typeof contract>`.
 *
 * Publications on topics with a history survive a lost connection and, with a broker that outlives
 * the server, a killed server; see {@linkcode Client.publish}. Other messages in flight when a
 * connection breaks may be lost. For messages that must arrive, use `delivery: "at-least-once"`. For
 * requests that must arrive, use `retry`.
 *
 * @typeParam C The contract.
 */
export class Client<C extends Contract = Contract>
  implements AsyncIterable<MessageOf<C, "client">>, AsyncDisposable {
  /**
   * Lets a `Client<C>` be passed where a `Client` is expected. Has no value.
   *
   * @ignore
   */
  declare readonly compared?: ComparedByMembers<C>;
  /**
   * The client's status. Read it from `current`, or follow each change in a loop or with
   * `subscribe`.
   */
  readonly status: StatusFeed<ClientStatus> = new StatusFeed<ClientStatus>({ name: "connecting" });
  /**
   * Resolves once the client is closed, or is rejected with `endOnRejection`. The value says how
   * the last session closed.
   */
  declare readonly closed: Promise<CloseInfo>;

  readonly #runtime: Runtime;
  readonly #platform: ClientPlatform;
  readonly #urls: ServerUrls;
  /** The calls of the application's `token`, if that is a function. */
  readonly #tokens: SingleCall<string | null | undefined> | undefined;
  readonly #options: ClientOptions;
  readonly #settings: SessionSettings;
  readonly #backoff: Backoff;
  readonly #attempts: Attempts<Opening>;
  readonly #outbox: Outbox;
  readonly #publications: OutboxPublications;
  #delivery: Delivery | undefined;
  /** Keeps data in the option `store`. */
  readonly #keeper: Keeper | undefined;
  readonly #stop = new AbortController();
  readonly #subscriptions: ClientSubscriptions<Contract>;
  readonly #presence: ClientPresence;
  readonly #rooms = new WatchedRooms((room) => {
    if (this.status.isEnded) throw this.#closedError("watch members");
    return this.#subscriptions.join(room);
  });
  /** The sessions for the loop over the client; set by the first loop. */
  #unread: UnreadSessions | undefined;
  #isIterated = false;
  readonly #connectTimeoutMs: number;
  readonly #onAbort = () => void this.close();
  /** Callbacks for events on a connection after the dial. */
  readonly #hooks = {
    // The browser is about to stop the connection. If the code for the move cannot be loaded, the
    // session continues.
    onWorn: () => {
      const session = this.#session;
      this.#loadMoves().then((moves) => moves.replace(session), () => {});
    },
    onLate: (late: Connection) => {
      // A better transport has opened after the session. A connection can continue another session
      // only if its request named that session, so dial again.
      late.close();
      const { transport } = late;
      if (!this.#options.upgrade) return;
      this.whenConnected().then(() => this.handOver({ transport })).catch(() => {});
    },
  };
  #session: Session | undefined;
  /** Resolves when the current session closes. A session that was moved away from does not count. */
  #sessionClosed = Promise.withResolvers<CloseInfo>();
  #moves: Moves<Contract> | undefined;
  /** The previous session, if its server fell silent and no page or network event explains that. */
  #silent: SilentTransport | undefined;
  #pageWatch: PageWatch | undefined;
  #liveness: Liveness | undefined;
  #recovery: Awaited<ReturnType<ClientPlatform["recovery"]>> | undefined;
  /** The line of requests for resumable responses that the server rejected for now. */
  readonly #rejected = { closed: this.#stop.signal };
  /** The number of loops that wait for an item of a resumable response. */
  #awaitedItems = 0;
  /** Removes the callback that was passed to the option `life`. */
  readonly #unfollowLife: (() => void) | undefined;
  /** The URL of the last attempt, without secrets. */
  #attemptUrl = "";
  #states: ClientStates | undefined;
  readonly #guest: Guest;
  /** The time at which the server asked the client to reconnect, in milliseconds. */
  #retryAt: number | undefined;
  /** The number of consecutive attempts that the server rejected with 4401. */
  #rejections = 0;
  #skipDelay: (() => void) | undefined;

  /**
   * Creates a client and starts to connect. Applications call `connect()` instead.
   *
   * @param url The URL of the server. It may also be a list of URLs or a function; see
   * {@linkcode ServerUrl}.
   * @param platform Opens connections, and loads code when it is first needed.
   * @param options As for `connect()`.
   * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
   */
  constructor(url: ServerUrl, platform: ClientPlatform, options: ClientOptions<C> = {}) {
    this.#platform = platform;
    this.#check("connect", options);
    const { runtime = platformRuntime() } = options;
    this.#runtime = runtime;
    this.#subscriptions = new ClientSubscriptions(runtime, platform.recovery);
    this.#presence = new ClientPresence(runtime);
    this.#urls = new ServerUrls(url, runtime);
    const { token } = options;
    if (typeof token === "function") this.#tokens = new SingleCall(runtime, token);
    this.#guest = new Guest(platform.tab);
    this.#options = options as unknown as ClientOptions;
    this.#settings = checkSettings<unknown, C, "client">({
      ...options,
      ...platform,
      side: "client",
      onClose() {}, // `#report` prints the line for this.
      onGoAway: (goaway, session) => {
        this.#retryAt = runtime.now() + goaway.retryAfterMs;
        return options.onGoAway?.(goaway, session);
      },
      runtime,
    });
    this.#connectTimeoutMs = checkConnectTimeout(options.connectTimeoutMs);
    this.#backoff = new Backoff(runtime, options.backoff);
    this.#attempts = new Attempts({
      runtime,
      open: (signal) => this.#attempt(signal),
      isFinal: (opening) => opening.info?.by !== "network",
      discard: ({ session }) => session?.[internals].abort(CloseCode.normal, ""),
      // From now on, the client notices when its page wakes up.
      onHang: () => void this.#watch(),
      onBeside: () => this.#abortCalls(),
    });
    const { delivery, store } = options;
    const isKept = delivery === "at-least-once" || store && !delivery;
    const outbox = this.#outbox = new Outbox(
      runtime,
      { ...store?.limits, ...options.outbox },
      isKept ? (session) => this.#deliver(session) : undefined,
    );
    const mustWait = (topic: string) => this.#subscriptions.isWaiting(topic);
    this.#publications = new OutboxPublications(outbox, this.#stop.signal, mustWait);
    this.#keeper = store?.keep({
      settings: this.#settings,
      outbox,
      mustWait,
      onDropped: options.outbox?.onDropped,
    });
    this.#subscriptions.onRequested = () => this.#outbox.notify();
    this.#unfollowLife = options.life?.subscribe(() =>
      this.#pageWatch ? this.#pageWatch.wake() : this.wake()
    );
    options.signal?.addEventListener("abort", this.#onAbort, { once: true });
    if (options.signal?.aborted) this.#stop.abort();
    this.closed = this.#run();
  }

  /** The current session, if there is one. */
  get session(): Session<unknown, C, "client"> | undefined {
    return this.#session as Session<unknown, C, "client"> | undefined;
  }

  /** True while a session is established. */
  get isConnected(): boolean {
    return this.#session?.isReady ?? false;
  }

  /**
   * The number of messages in the outbox and their size in bytes. These messages wait for a
   * connection, for an acknowledgment, or for the reply to a publication.
   */
  get outbox(): { readonly messages: number; readonly bytes: number } {
    return this.#outbox.state;
  }

  /**
   * Waits for a session.
   *
   * @param options A signal or time limit that ends the wait.
   * @returns The current session, or the next one.
   * @throws {SessionClosedError} If the client is closed or rejected.
   * @throws {TimeoutError} If there is no session within `timeoutMs`.
   */
  whenConnected(options: WaitOptions = {}): Promise<Session<unknown, C, "client">> {
    this.#check("wait", options);
    return waitFor(this.#runtime, this.#nextSession(), { ...options, what: "connection" });
  }

  /**
   * Sends a message. While the client is not connected, or earlier messages are in the outbox, the
   * message waits in the outbox.
   *
   * @param topic The name under which the server's handlers receive the message, of 1 to 255 bytes.
   * @param data Any value that JSON can represent; on `skein.1` also a `Uint8Array`.
   * @throws {QueueFullError} If the outbox, or the session's send queue, is full.
   * @throws {SessionClosedError} If the client is closed.
   * @throws {TypeError} If JSON cannot represent the data.
   */
  send<T extends ContractTopic<C, "client">>(topic: T, data?: ContractData<C, "client", T>): void {
    this.#check("send");
    const { session } = this;
    const { first, awaitsAcks } = this.#outbox;
    // To keep the order, send earlier messages in the outbox first.
    if (session?.isReady && !first && !awaitsAcks) return session.send(topic, data);
    (this.#keeperFor() ?? this.#outbox).add(this.#encode("send", topic, data));
  }

  /**
   * Waits until the option `store` has everything that the server hasn't handled yet, so that you can
   * tell the user that the page can be closed.
   *
   * @param options A signal or time limit that ends the wait.
   * @returns What the stored data survives.
   * @throws {SessionClosedError} If the client is closed first.
   * @throws {StoreError} If the store has failed or is full, so that something is only in memory.
   * @throws {TimeoutError} If the wait takes longer than `timeoutMs`.
   * @throws {UnsupportedError} If the client has no store.
   */
  flushed(options: FlushOptions & { readonly to: "store" }): Promise<Durability>;
  /**
   * Waits until the server has replied to all publications and handled all messages that were sent
   * so far. With the default `delivery`, it waits for messages only until they have moved from the
   * outbox to a session. With a store, it waits until the server has handled every message,
   * including the messages of earlier pages.
   *
   * @param options A signal or time limit that ends the wait.
   * @throws {SessionClosedError} If the client is closed first.
   * @throws {TimeoutError} If the wait takes longer than `timeoutMs`.
   */
  flushed(options?: FlushOptions): Promise<void>;
  async flushed(options: FlushOptions = {}): Promise<Durability | void> {
    this.#check("flush", options);
    if (options.to && this.#keeper) return await this.#keeper.stored(options);
    const outbox = this.#outbox;
    const publications = this.#publications;
    const { last } = outbox;
    const { last: published } = publications;
    const isKeptDone = this.#keeper?.settled();
    const isDone = () =>
      (outbox.first?.seq ?? Infinity) > last && publications.isSettled(published) &&
      isKeptDone?.() !== false;
    await (await this.#platform.recovery()).flushed(outbox, isDone, options);
  }

  /**
   * Sends a request to the server. If the client is not connected, the request waits for a session
   * first.
   *
   * @param topic The name of the request, which selects the server's handler, of 1 to 255 bytes.
   * @param data The input of the handler: any value that JSON can represent; on `skein.1` also a
   * `Uint8Array`.
   * @param options A signal, a timeout, and `retry` to repeat the request if the connection is
   * lost.
   * @returns The result of the server's handler.
   * @throws {RequestError} If the server replies with an error.
   * @throws {TimeoutError} If there is no reply in time.
   * @throws {SessionClosedError} If the client is closed or rejected, or if the session closed
   * before the reply arrived. In the latter case, the outcome is unknown. With `retry`, the error
   * is thrown if two sessions in a row were closed because a message was too large.
   */
  async request<T extends ContractTopic<C, "requests">>(
    topic: T,
    data?: ContractData<C, "requests", T>,
    options: ClientRequestOptions = {},
  ): Promise<ContractReply<C, T>> {
    this.#check("request", options);
    const { signal, retry = false } = options;
    const keeper = retry && this.#keeper?.taking;
    if (keeper) {
      const message = this.#encode("request", topic, data);
      return await keeper.request(message, options) as ContractReply<C, T>;
    }
    const { timeoutMs = this.#settings.requestTimeoutMs } = options;
    const stop = new AbortController();
    const wait = { timeoutMs, signal: anySignal(signal, stop.signal) };
    const ask = async () => {
      for (let rejected = 0;;) {
        const session = await this.whenConnected(wait);
        wait.timeoutMs = Infinity; // The limit for all attempts applies.
        try {
          return await session.request(topic, data, wait);
        } catch (error) {
          if (!retry || !(error instanceof SessionClosedError)) throw error;
          // The first time, another message may have been too large. Twice in a row, it must be
          // this one.
          if (isForSize(error.info) && ++rejected > 1) throw error;
        }
      }
    };
    const what = `reply to "${topic}"`;
    return await waitFor(this.#runtime, ask(), { timeoutMs, what }).catch((error) => {
      stop.abort(error); // Also cancels the request at the server.
      throw error;
    });
  }

  /**
   * Sends a request with a streaming response. If the client is not connected, the request waits
   * for a session first. The response ends when the session in which it started ends. During a
   * handover, the old session stays open so that the response can finish.
   *
   * @param topic The name of the request, which selects the server's handler, of 1 to 255 bytes.
   * @param data The input of the handler: any value that JSON can represent; on `skein.1` also a
   * `Uint8Array`.
   * @param options A signal, time limits, and how many items the server may send ahead.
   * @returns The response, which you can iterate once. The loop throws a {@linkcode RequestError}
   * if the response fails, a {@linkcode TimeoutError} if an item or the end does not arrive in
   * time, and a {@linkcode SessionClosedError} if the session or the client closes first.
   *
   * @example A count
   * ```ts
   * import { connect, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   requests: {
   *     async *count({ data }) {
   *       for (let n = 1; n <= Number(data); n++) yield n;
   *     },
   *   },
   * });
   * await using client = connect(server.url);
   * const seen: unknown[] = [];
   * for await (const n of client.requestStream("count", 1_000_000)) {
   *   if (seen.push(n) === 3) break; // Leaving the loop cancels the request.
   * }
   * assertEquals(seen, [1, 2, 3]);
   * ```
   */
  requestStream<T extends ContractTopic<C, "responses">>(
    topic: T,
    data?: ContractData<C, "responses", T>,
    options: RequestStreamOptions = {},
  ): StreamingResponse<ContractItem<C, T>> {
    this.#check("request stream", options);
    const isKept = this.#settings.router?.match(topic)?.resume;
    const since = this.#runtime.monotonic();
    if (isKept || options.id) return this.#streamResumable({ ...options, topic, data, since });
    const stop = new AbortController();
    const open = async () => {
      const { timeoutMs = Infinity, itemTimeoutMs = this.#settings.requestTimeoutMs } = options;
      const session = this.#session?.isReady ? this.#session : await this.whenConnected({
        timeoutMs: Math.min(timeoutMs, itemTimeoutMs),
        signal: anySignal(options.signal, stop.signal),
      });
      const { openResponse } = await this.#platform.responses();
      return openResponse(session[internals], topic, data, { ...options, since, stop });
    };
    return responseOf(open(), stop);
  }

  /**
   * Subscribes to a topic until the subscription or the client ends.
   *
   * @typeParam T The topic. With a contract, it must be a topic that the server sends.
   * @param topic The topic. If there are several subscriptions to one topic, each receives every
   * message.
   * @param options The start position and the handler for gaps, for a topic with a history.
   * @returns The subscription. To wait for the server's reply, use `await subscription.ready`.
   * @throws {TypeError} If the topic is not valid.
   * @throws {SessionClosedError} If the client is closed.
   */
  subscribe<T extends ContractTopic<C, "server">>(
    topic: T,
    options: ClientSubscribeOptions = {},
  ): Subscription<C, T> {
    if (typeof options === "function") {
      throw new TypeError("subscribe takes no callback: loop over it with `for await`");
    }
    this.#check("subscribe", options);
    if (this.status.isEnded) throw this.#closedError("subscribe");
    return this.#subscriptions.add(topic, options) as Subscription<C, T>;
  }

  /**
   * Reads one of the server's durable streams. The server's `authorize` must allow this client to
   * subscribe to `stream:<id>`. Reading starts when you iterate the result.
   *
   * @example A response that survives a page reload
   * ```ts
   * import { connect, serve } from "@skein/skein";
   * import { durableStreams } from "@skein/skein/streams";
   * import { assertEquals } from "@std/assert";
   *
   * const streams = durableStreams();
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   features: [streams],
   *   authorize: () => true,
   * });
   * await using response = await streams.create<string>("answer-7");
   * await Promise.all(["one", "two", "three"].map((word) => response.append(word)));
   * await response.close();
   *
   * let offset: string | undefined;
   * {
   *   await using page = connect(server.url);
   *   const before = page.durableStream<string>("answer-7");
   *   for await (const word of before) if (word === "two") break;
   *   offset = before.offset;
   * }
   * await using page = connect(server.url);
   * const rest = await Array.fromAsync(page.durableStream<string>("answer-7", { after: offset }));
   * assertEquals(rest, ["three"]);
   * ```
   *
   * @typeParam R The type of a record.
   * @param id The stream's id, of 1 to 240 bytes.
   * @param options The start position, a function that checks records, and a signal.
   * @returns The stream. Only one loop can read it at a time.
   */
  durableStream<R = unknown>(
    id: string,
    options: DurableStreamOptions<R> = {},
  ): DurableStream<R> {
    this.#check("read stream", options);
    const client = this as unknown as Client;
    const subscribe: Client["subscribe"] = client.subscribe.bind(client);
    return {
      id,
      offset: options.after ?? undefined,
      isUpToDate: false,
      cancel: (reason = "") => client.publish(STREAM_PREFIX + id, { cancel: reason }),
      async *[Symbol.asyncIterator]() {
        yield* (await client.#platform.responses()).readStream(this, { ...options, subscribe });
      },
    };
  }

  /**
   * Opens a state: rows that all clients and servers share, and that this client may also write.
   * The server's `authorize` must allow this client to subscribe to `stream:<id>` to read the rows,
   * and to publish on it to write them. See {@linkcode ClientState}.
   *
   * @param id The state's id, for which the server has called `open(id)` of `liveState()`.
   * @param options What to do if others change a row at the same time, and the functions of the
   * state's mutations.
   * @returns The state, once its code is loaded. Its rows are complete once `ready` has resolved.
   */
  async state<Id extends StateIds<C>>(
    id: Id,
    options?: ClientStateOptions<C>,
  ): Promise<ClientStateOf<C, Id>> {
    this.#check("open state");
    const { ClientStates } = await this.#platform.state();
    const states = this.#states ??= new ClientStates({
      ...this.#options,
      ...this.#platform,
      settings: this.#settings,
      client: this as unknown as Client,
      keeper: this.#keeper,
    });
    // Only the types depend on the contract.
    const state: unknown = states.open(id as string, options as ClientStateOptions);
    return state as Promise<ClientStateOf<C, Id>>;
  }

  /**
   * Publishes to a topic through the server. The server's `authorize` must allow this. The
   * publication stays in the outbox until the server has replied.
   *
   * - **Exactly once:** if the session is lost before the reply, the next session sends
   *   publications again that are on topics with a history and at most 90 s old. The broker stores
   *   each once.
   * - **Other topics:** the client does not know whether the server published, and rejects with a
   *   {@linkcode SessionClosedError}. With `delivery: "at-least-once"`, these publications are sent
   *   again too.
   * - **Order:** the publications on each topic keep the order of the calls, across sessions.
   * - **Rate limits:** if a publication exceeds one of the server's rate limits, the client waits
   *   and publishes it again. Later publications wait too.
   *
   * @typeParam T The topic. With a contract, it must be a topic that clients receive.
   * @param topic The topic whose subscribers receive the message, of 1 to 255 bytes.
   * @param data Any value that JSON can represent; on `skein.1` also a `Uint8Array`.
   * @param options A signal, a timeout, the delivery, and `except: "self"` to leave out this
   * client. If a publication is aborted or times out before a session accepts it, or while it waits
   * for a rate limit or another session, it is not sent.
   * @returns Resolves once the server has published the message.
   * @throws {RequestError} With the code `forbidden`, if the server does not allow the publication.
   * With the code `too-many`, if a rate limit does not allow it within 30 s.
   * @throws {QueueFullError} If the outbox is full.
   * @throws {SessionClosedError} If the client is closed, or if the outcome is unknown.
   */
  async publish<T extends ContractTopic<C, "server">>(
    topic: T,
    data?: ContractData<C, "server", T>,
    options: ClientPublishOptions = {},
  ): Promise<void> {
    this.#check("publish", options);
    const { delivery = this.#options.delivery } = options;
    options.signal?.throwIfAborted();
    const message = this.#encode("publish", topic, data);
    await (this.#keeperFor(delivery) ?? this.#publications).publish(message, {
      ...options,
      delivery,
    });
  }

  /**
   * Sets this client's presence data in a room. The server's `authorize` must allow this. If the
   * client is in the room, the data takes effect immediately. It also takes effect at each later
   * join, including joins after a reconnect. {@linkcode Client.members} includes the data of all
   * members. If a user has several clients, the data that was set last applies.
   *
   * You may call this at each mouse move: one value per room waits for the server's reply, the
   * newest value is sent afterwards, and values in between are skipped. A skipped call settles as
   * the call that replaced it.
   *
   * @example Members of a room and their data
   * ```ts
   * import { connect, serve } from "@skein/skein";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   authenticate: () => "ann",
   *   authorize: () => true,
   *   rooms: ["room:{name}"],
   * });
   * await using client = connect(server.url);
   * await client.presence("room:a", { is: "here" });
   * for await (const members of client.members("room:a")) {
   *   const { is } = Object(members.get("ann")?.data);
   *   if (is === "here") await client.presence("room:a", { is: "away" });
   *   if (is === "away") break;
   * }
   * ```
   *
   * @typeParam T The room. With a contract, it must be listed in the contract's `presence`.
   * @param room The room. At most 32 rooms can have data.
   * @param data Any value that JSON can represent, up to 512 bytes unless the server allows more.
   * `undefined` removes the data.
   * @param options A signal or time limit for the wait. If the wait ends early, the client still
   * sets the data in the next session, unless the signal was aborted before the call.
   * @returns Resolves once the server has accepted the data.
   * @throws {RequestError} With the code `forbidden`, if the server does not allow the data. With
   * `too-large`, if the data is too large. With `invalid`, if the data does not match the contract.
   * @throws {QueueFullError} If 32 other rooms already have data.
   * @throws {TypeError} If JSON cannot represent the data, or if the room is not a valid topic.
   * @throws {SessionClosedError} If the client is closed or rejected. A rejected client still sets
   * the data in its next session.
   */
  presence<T extends ContractTopic<C, "presence">>(
    room: T,
    data?: ContractData<C, "presence", T>,
    options: WaitOptions = {},
  ): Promise<void> {
    this.#check("set presence", options);
    const next = () =>
      this.#session?.isReady ? this.#session : this.#nextSession() as Promise<Session>;
    return this.#presence.set(room, data, { ...options, next });
  }

  /**
   * Returns the members of a room, for use in a page. You can read `current`, use the result as a
   * store, or iterate it. The client joins the room when the first callback or loop starts, and
   * leaves it when the last one ends. See {@linkcode Members}.
   *
   * @example A list in a page
   * ```ts
   * import { connect, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   authenticate: () => "ann",
   *   authorize: () => true,
   *   rooms: ["room:{name}"],
   * });
   * await using client = connect(server.url);
   * const drawn = Promise.withResolvers<string>();
   * const leave = client.members("room:a").subscribe((members) => {
   *   if (members.size > 0) drawn.resolve(`Here: ${[...members.keys()].join(", ")}`);
   * });
   * assertEquals(await drawn.promise, "Here: ann");
   * leave();
   * ```
   *
   * @typeParam T The room.
   * @param room The room, which is a topic listed in the server's `rooms`.
   * @returns The members. This call itself sends nothing to the server.
   * @throws {TypeError} If the room is not a valid topic.
   */
  members<T extends ContractTopic<C, "server"> | ContractTopic<C, "presence">>(
    room: T,
  ): Members<RoomData<C, T>> {
    this.#check("watch members");
    checkTopic(room, "watch members");
    return new Members(room, this.#rooms);
  }

  /**
   * Starts the next attempt to connect immediately, if the client is waiting for it or is rejected.
   * If an attempt is running, another one starts beside it once the first has taken a second. The
   * first session that opens is used. At most two attempts run at a time, however often you call
   * this. When a page comes back online, wakes up, changes networks or becomes visible again, the
   * client does the same on its own unless it is rejected.
   */
  retryNow(): void {
    // Do this immediately, so that a call in the same turn waits for the attempt.
    if (this.status.current.name === "rejected" && this.#skipDelay) {
      this.status.set({ name: "connecting" });
    }
    if (this.#skipDelay) {
      this.#abortCalls();
      this.#skipDelay();
    }
    this.#attempts.hurry();
  }

  /**
   * Starts an attempt after the page or machine woke up or came back online. A rejected client
   * retries only if it can get a fresh token for the attempt.
   *
   * @ignore
   */
  wake(): void {
    const { current } = this.status;
    const mayDiffer = current.name !== "rejected" ||
      this.#tokens !== undefined && current.cause.code === CloseCode.unauthenticated;
    if (mayDiffer) this.retryNow();
  }

  /**
   * Moves to a new session without a gap, if the server supports handovers. The new session opens
   * while the old one is still in use. The old session is closed once its requests and streams have
   * ended, or after 30 s.
   *
   * - **Topics with a history** resume from their position, so no publication is lost or
   *   duplicated.
   * - **Other topics** have no gap either if the server is a single node: each publication arrives
   *   in one of the two sessions, in order. If the old session breaks during the move, its
   *   in-flight publications are lost.
   * - **Messages and publications** that you send from now on go to the new session. Publications
   *   on topics with a history that have no reply are sent there again, and each is published once.
   *   So are unacknowledged messages with `delivery: "at-least-once"`.
   * - **Requests and streams** finish in the session in which they started. New ones start in the
   *   new session.
   *
   * Some browsers are known to stop a connection after a few megabytes. In these browsers, the
   * client moves automatically.
   *
   * @example Usage
   * ```ts
   * import { connect, serve } from "@skein/skein";
   * import { assert, assertNotEquals } from "@std/assert";
   *
   * await using server = serve({ port: 0, onListen() {} });
   * await using client = connect(server.url);
   * const { id } = await client.whenConnected();
   * assert(await client.handOver());
   * assertNotEquals(client.session?.id, id);
   * ```
   *
   * @param options The transport of the new session.
   * @returns True if the client moved. If false, the old session continues. If the new session
   * opened but then broke, the old session continues without the topics to which the server's
   * application had subscribed it (protocol 23.5).
   */
  async handOver(
    options: {
      /**
       * The name of the new session's transport.
       *
       * @default {chosen as for any other session}
       */
      readonly transport?: string | undefined;
    } = {},
  ): Promise<boolean> {
    this.#check("hand over", options);
    if (!this.isConnected) return false;
    return await (await this.#loadMoves()).handOver(options.transport);
  }

  /**
   * Forgets the guest that this client is, so that the next session, after a reconnect or a page
   * reload, is a new guest. The current session remains the same guest. Call this, for example,
   * before you reload the page for someone else.
   *
   * With the option `store`, it also deletes everything that is kept for the user of the store,
   * signed in or not, in all open pages. Calls that wait are not sent, and their promises reject
   * with the code `cancelled`. What was sent before may still be handled. Later calls are kept again.
   *
   * @returns Resolves once the store is empty.
   * @throws {StoreError} If the store can't be emptied, or belongs to a client that is closed. What
   * waits in this page is deleted anyway, unless the client is closed.
   *
   * @example Usage
   * ```ts
   * import { connect, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * const guests = new Set<string>();
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   onOpen: (session) => void guests.add(session.user),
   * });
   * await using client = connect(server.url);
   * for (let sessions = 0; sessions < 3; sessions++) {
   *   const { id } = await client.whenConnected();
   *   if (sessions === 1) client.forget();
   *   const { closed } = client.session!;
   *   await server.manager.get(id)!.close({ code: 4503 });
   *   await closed;
   * }
   * await client.whenConnected();
   * assertEquals(guests.size, 2);
   * ```
   */
  async forget(): Promise<void> {
    this.#guest.forget();
    await this.#keeper?.forget();
  }

  /**
   * Closes the client permanently. Messages in the outbox are not sent.
   *
   * @returns Resolves once the session is closed.
   */
  async close(): Promise<void> {
    this.#check("close");
    this.#stop.abort();
    this.#guest.end(); // Immediately, for a client that opens in the same turn.
    await this.#session?.close();
    await this.#moves?.finished;
    await this.closed;
  }

  /** Closes the client; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Yields the messages of one session after another until the client ends. Messages on subscribed
   * topics go to the subscriptions instead.
   *
   * - **Start:** the first loop starts with the current session. From then on, messages are kept
   *   until a loop reads them, even while no loop is running.
   * - **Bound:** a loop can fall behind by one full receive queue, or by 8 sessions with unread
   *   messages. Beyond that, it throws a {@linkcode QueueFullError} instead of skipping messages
   *   silently. The next loop continues after the gap. If no loop is running, the session stays
   *   open meanwhile.
   * - **End:** if the client or the server closes normally, the loop ends. After any other close,
   *   the loop yields the messages that arrived before the close, then throws.
   *
   * @returns The messages, checked against the contract.
   * @throws {TypeError} If there is an `onMessage` handler, or if another loop is already running.
   * @throws {QueueFullError} If the loop fell behind and messages are missing.
   * @throws {SessionClosedError} If the client has made its last attempt, or was rejected with
   * `endOnRejection`; `info` contains the code and the reason.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<MessageOf<C, "client">, void, undefined> {
    this.#check("receive");
    checkLoop("client", this.#isIterated, this.#settings.handlers.onMessage !== undefined);
    this.#isIterated = true;
    try {
      const unread = this.#unread ??= await this.#openUnread();
      const messages: AsyncIterable<unknown> = unread.read(this.status, this.#session);
      yield* messages as AsyncIterable<MessageOf<C, "client">>;
      if (this.#hasFailed) throw this.#closedError("receive");
    } finally {
      this.#isIterated = false;
    }
  }

  async #openUnread(): Promise<UnreadSessions> {
    const opened = new Set<Session>();
    const unobserve = this.status.observe(() => void (this.#session && opened.add(this.#session)));
    const { UnreadSessions } = await this.#platform.recovery().finally(unobserve);
    return new UnreadSessions(opened);
  }

  async #loadMoves(): Promise<Moves<Contract>> {
    const { Moves } = await this.#platform.recovery();
    return this.#moves ??= new Moves<Contract>({
      session: () => this.#session,
      transports: this.#platform.transports,
      subscriptions: this.#subscriptions,
      signal: this.#stop.signal,
      open: (change, signal) => this.#open(change, signal),
      adopt: (session, move) => this.#adopt(session, move),
    });
  }

  /** Returns what keeps a call with a delivery; `undefined` if it isn't kept. */
  #keeperFor(delivery = this.#options.delivery): Keeper | undefined {
    return delivery === "at-most-once" ? undefined : this.#keeper?.taking;
  }

  #encode(verb: "send" | "publish" | "request", topic: string, data: unknown): EncodedMessage {
    if (this.status.isEnded) throw this.#closedError(verb);
    const core = this.#session?.isReady ? this.#session[internals] : undefined;
    core?.sending.checkData(verb, data);
    const maxBytes = core?.sending.maxSendBytes ?? this.#settings.maxMessageBytes;
    const isSent = verb === "send";
    const trace = isSent ? this.#settings.watch?.sending(topic, this.#session) : undefined;
    return encodeMessage(topic, data, { maxBytes, verb, trace });
  }

  async #run(): Promise<CloseInfo> {
    const { connectAfter, endOnRejection = false } = this.#options;
    const { signal } = this.#stop;
    try {
      if (connectAfter) await within(this.#runtime, connectAfter, { signal }).catch(() => {});
      while (true) {
        const ending = await this.#runSession();
        const { info } = ending;
        const wasOpen = ending.during === "session";
        const verdict = this.#judge(ending);
        // The loop over the client throws if it was too slow itself.
        const isFull = info.code === CloseCode.queueFull &&
          !(this.#isIterated && info.by === "local");
        if (verdict === "closed" || verdict === "rejected" || isFull || !wasOpen) {
          this.#report(ending, verdict);
        }
        if (verdict === "closed") return this.#finish("closed", info);
        if (verdict === "rejected") {
          if (endOnRejection) return this.#finish("rejected", info);
          await this.#waitWhileRejected(info);
        } else {
          // A draining server sets the time for all of its URLs.
          const mayChangeUrl = this.#retryAt === undefined && !isOffline();
          const delayMs = this.#urls.failed() && mayChangeUrl ? 0 : this.#delay(verdict);
          if (delayMs === undefined) return this.#finish("closed", info);
          this.status.set({
            name: "reconnecting",
            attempt: this.#backoff.attempt,
            delayMs,
            retryAt: this.#runtime.now() + delayMs,
            cause: causeOf(info),
          });
          void this.#watch();
          if (delayMs > 0) {
            const waited = this.#wait(delayMs);
            // After the first delay, which is short, the result is still fresh at the next attempt.
            if (wasOpen && mayChangeUrl && this.#backoff.attempt === 1) void this.#tryOtherHost();
            await waited;
          }
        }
        // `retryNow` may already have set this status.
        const isNews = this.status.current.name !== "connecting";
        if (isNews && !this.#stop.signal.aborted) this.status.set({ name: "connecting" });
      }
    } finally {
      this.#abortCalls();
      this.#pageWatch?.[Symbol.dispose]();
      this.#liveness?.[Symbol.dispose]();
      attempt(() => this.#unfollowLife?.(), (error) => report(this.#settings, error));
      this.#guest.end();
      this.#options.signal?.removeEventListener("abort", this.#onAbort);
      await this.#keeper?.end(this.#closedError("deliver"));
    }
  }

  /**
   * Checks the options of a call. On Cloudflare Workers, only the request that created a client can
   * use it: in another one, all I/O fails or hangs, and the client's signal throws.
   */
  #check(call: string, options?: unknown): void {
    try {
      void this.#stop.signal.aborted;
    } catch (cause) {
      throw new UnsupportedError(
        `Cannot ${call}: the client belongs to another request; connect in each one, or in a Durable Object`,
        { cause },
      );
    }
    if (options !== undefined) this.#platform.checkOptions(call, options);
  }

  /**
   * Reports a failure if no one reads the status. A rejection by the server, and an error of the
   * function for the token that causes retries, are always reported: they are rarely intended, and
   * most pages show only the name of the status.
   */
  #report({ during, info }: Ending, verdict: Verdict): void {
    const isRejected = verdict === "rejected";
    const isLoud = during === "token" ? !isRejected : isRejected;
    if (this.#stop.signal.aborted || this.status.isObserved && !isLoud) return;
    const failure = { during, info, verdict, url: this.#attemptUrl };
    // If this code cannot be loaded, the browser's console already shows that the network is down.
    this.#platform.recovery().then((part) => part.reportFailure(this.#settings, failure), () => {});
  }

  /**
   * Waits while the client is rejected, until a call or a wake-up starts an attempt or the client
   * closes.
   */
  async #waitWhileRejected(info: CloseInfo): Promise<void> {
    const resumed = this.#wait(Infinity);
    this.status.set({ name: "rejected", cause: info });
    if (this.#tokens) void this.#watch();
    await resumed;
    this.#rejections = 0;
    this.#backoff.reset();
  }

  /** Skips the delay that has just started if the next connection goes to another host. */
  async #tryOtherHost(): Promise<void> {
    // The result may arrive when the client waits for something else.
    const skip = this.#skipDelay;
    if (await this.#urls.isElsewhere(this.#attemptUrl)) skip?.();
  }

  #streamResumable<T>(
    { id, after, ...options }: RequestStreamOptions & {
      topic: string;
      data: unknown;
      since: number;
    },
  ): StreamingResponse<T> {
    const response = {
      id: id || this.#runtime.randomUUID(),
      offset: after || undefined,
      cancel: async (reason?: string) => (await reading).cancel(reason),
      async *[Symbol.asyncIterator]() {
        yield* (await reading).items() as AsyncGenerator<T>;
      },
    };
    const reading = this.#platform.responses().then((part) =>
      new part.ResumableResponse(this as unknown as Client, {
        ...options,
        response,
        line: this.#rejected,
        awaits: (isAwaited) => this.#noteAwaitedItem(isAwaited),
      })
    );
    reading.catch(() => {});
    return response;
  }

  /** Records that a loop started or stopped waiting for an item of a resumable response. */
  #noteAwaitedItem(isAwaited: boolean): void {
    this.#awaitedItems += isAwaited ? 1 : -1;
    if (isAwaited) this.#session?.[internals].receiving.liveness?.began();
  }

  async #deliver(session: Session): Promise<void> {
    if (await this.#keeper?.confirmed(session)) return;
    this.#delivery ??= new (await this.#platform.recovery()).Delivery(this.#outbox);
    await this.#delivery.sendIn(session);
  }

  /**
   * Loads and starts the code that watches the page, the machine and the server for the current
   * session. If loading fails, the next call retries it.
   */
  async #watch(): Promise<void> {
    const part = this.#recovery ??= await this.#platform.recovery().catch(() => undefined);
    if (!part || this.status.isEnded) return;
    this.#settings.skipOversize = part.skipOversize;
    this.#pageWatch ??= new part.PageWatch(this, {
      runtime: this.#runtime,
      upgrades: this.#options.upgrade,
    });
    this.#liveness ??= new part.Liveness(this.#runtime);
    const session = this.#session;
    if (!session?.isReady || session[internals].receiving.liveness) return;
    this.#liveness.follow(part.watchedSession(session, {
      countAwaited: () =>
        this.#awaitedItems + (this.#delivery?.unacknowledged ?? 0) +
        (this.#keeper?.awaited ?? 0),
      dial: (alarm) => this.#loadMoves().then((moves) => moves.rescue(alarm), () => false),
    }));
  }

  /** Opens a session, and resolves once it has ended or the attempt has failed. */
  async #runSession(): Promise<Ending> {
    // A session that the client moved away from may outlive the one that it moved to.
    const left = this.#moves?.left;
    const opening = await this.#attempts.run();
    const { session } = opening;
    if (!session) return opening;
    // If `close` was called between the hello and this turn, it found no session to close.
    if (this.#stop.signal.aborted) return { during: "session", info: await session.close() };
    const since = this.#runtime.now();
    this.#sessionClosed = Promise.withResolvers();
    this.#adopt(session, () => this.#subscriptions.resume(session));
    void left?.assign(session, this.#stop.signal);
    const info = await this.#sessionClosed.promise;
    const { transport, [internals]: { receiving } } = this.#session!;
    this.#noteSilence({ info, transport }, receiving.lastReceivedAt);
    this.#session = undefined;
    this.#liveness?.[Symbol.dispose]();
    this.#subscriptions.lose();
    if (this.#runtime.now() - since >= STABLE_MS) {
      this.#backoff.reset();
      this.#urls.held();
    }
    return { during: "session", info };
  }

  /** Aborts the running calls of the application's functions, which may hang. */
  #abortCalls(): void {
    this.#urls.abort();
    this.#tokens?.abort();
  }

  /** Makes one attempt to open a session. Never rejects. */
  async #attempt(signal: AbortSignal): Promise<Opening> {
    const left = this.#moves?.left;
    const opening = await this.#open((dial) => async (url, options) => {
      const silent = this.#silent;
      this.#silent = undefined;
      const known = left ? left.dialBeside(dial) : this.#dialAsGuest(dial);
      const dialing = known(url, { ...options, silent });
      // Topics with a history need this code for their first request. It loads while the connection
      // opens, after the transport's code.
      if (!this.#subscriptions.isEmpty) this.#platform.recovery().catch(() => {});
      return await dialing;
    }, anySignal(this.#stop.signal, signal));
    if (!opening.session && !signal.aborted) this.#noteSilence(opening);
    return opening;
  }

  /**
   * Records a silent server for the next attempt, unless the page or the network explains the
   * silence.
   *
   * @param ending The end of a session or an attempt.
   * @param lastReceivedAt The time of the session's last sign of life.
   */
  #noteSilence(
    { info: { error }, transport }: Pick<OpenFailure, "info" | "transport">,
    lastReceivedAt = Infinity,
  ): void {
    const isSilence = error instanceof TimeoutError ||
      error instanceof ConnectionError && error.isTimeout;
    const isExplained = isOffline() || (this.#pageWatch?.disturbedAt ?? 0) >= lastReceivedAt;
    if (isSilence && transport && !isExplained) {
      this.#silent = { url: this.#attemptUrl, transport, error };
    }
  }

  /** Adds the secret of a guest. It does not name a session, because the last one has closed. */
  #dialAsGuest(dial: Dialer): Dialer {
    return (url, options) => {
      const secret = this.#guest.secretFor(url, options.protocols.includes(TOKEN_MARK));
      return dial(secret ? withTicket(url, secret) : url, options);
    };
  }

  #open(change: (dial: Dialer) => Dialer, signal: AbortSignal): Promise<Opening> {
    const tokens = this.#tokens;
    const next = this.#urls.next();
    return attemptSession({
      ...this.#options,
      ...this.#platform,
      token: tokens ? ({ signal }) => tokens.run(signal) : this.#options.token,
      url: async ({ signal }) => {
        const url = await fresh(next, signal);
        this.#attemptUrl = publicUrl(url);
        return url;
      },
      protocols: [SKEIN_PROTOCOL],
      settings: this.#settings,
      timeoutMs: this.#connectTimeoutMs,
      signal,
      dial: change(this.#platform.dial),
      hooks: this.#hooks,
    });
  }

  /**
   * Makes a session the current one.
   *
   * @param move Requests the subscriptions, before anything that waits is sent.
   */
  #adopt(session: Session, move: () => void): void {
    this.#session = session;
    this.#rejections = 0;
    void session.closed.then((info) => {
      if (this.#session === session) this.#sessionClosed.resolve(info);
    });
    this.#unread?.add(session);
    this.#presence.resume(session);
    move();
    void this.#outbox.sendIn(session);
    if (this.#keeper) void this.#outbox.run(session, () => this.#keeper!.sendIn(session));
    void this.#outbox.run(session, () => this.#publications.sendIn(session));
    const { receiving } = session[internals];
    receiving.discards = true;
    receiving.onRenew = () => void this.#renew(session);
    this.#guest.opened(session[internals].lineage);
    const { id, transport, fallback } = session;
    this.status.set(withoutUndefined({ name: "connected", session: id, transport, fallback }));
    void this.#watch();
  }

  /**
   * Sends a new token to the server. If that fails, the server ends the session when the old token
   * expires, and the next session starts with a new token.
   */
  async #renew(session: Session): Promise<void> {
    if (!this.#tokens || session[internals].lineage.isElsewhere) return;
    const gone = new AbortController();
    session[internals].whenEnded(() => gone.abort());
    try {
      const renewed = await this.#tokens.run(gone.signal);
      if (renewed != null && !session.isClosed) await session.authenticate(renewed);
    } catch (error) {
      if (!gone.signal.aborted) session[internals].emit("error", error);
    }
  }

  /** Decides what to do after a session or an attempt has ended. */
  #judge({ during, info: { code, by } }: Ending): Verdict {
    const wasOpen = during === "session";
    // The dialer would not accept the same arguments, such as the URL, at the next attempt.
    const isInvalid = during === "dial" && by === "local";
    if (this.#stop.signal.aborted || isInvalid) return "closed";
    if (by === "network") return "usual";
    switch (code) {
      case CloseCode.normal:
        return "closed";
      case CloseCode.unauthenticated:
        // An expired token says nothing about the next one.
        if (wasOpen) return by === "remote" ? "usual" : "rejected";
        // The function for the token has just been called, so a fresh token would not help.
        if (during === "token" || !this.#tokens) return "rejected";
        return this.#rejections++ === 0 ? "fresh-token" : "rejected";
      case CloseCode.forbidden:
        return "rejected";
      case CloseCode.malformed:
        // During a session, the cause is a bug or a version mismatch, which a deployment may fix.
        return wasOpen ? "longest" : "rejected";
      case CloseCode.notFound:
        return by === "local" ? "rejected" : "longest";
      default:
        return "usual";
    }
  }

  #finish(name: "rejected" | "closed", last: CloseInfo): CloseInfo {
    const isOwn = this.#stop.signal.aborted;
    const cause = isOwn ? { code: CloseCode.normal, reason: "", by: "local" } as const : last;
    this.status.end({ name, cause });
    this.#subscriptions.end(this.#hasFailed ? this.#closedError("receive") : undefined);
    this.#outbox.end(this.#closedError("deliver"));
    this.#publications.end(this.#closedError("publish"));
    return cause;
  }

  /** Returns the delay of the next attempt; `undefined` after the last one. */
  #delay(verdict: Verdict): number | undefined {
    // While the page is offline, an attempt is expected to fail and does not count.
    const drawnMs = isOffline() ? this.#backoff.maxDelayMs : this.#backoff.next();
    const retryAt = this.#retryAt;
    this.#retryAt = undefined;
    if (drawnMs === undefined) return undefined;
    // The server chose this delay to spread reconnects. The client chooses later delays itself.
    if (retryAt !== undefined) return boundRetryAfter(retryAt - this.#runtime.now());
    if (verdict === "longest") return this.#backoff.maxDelayMs;
    if (verdict !== "fresh-token") return drawnMs;
    return FRESH_TOKEN_MS * (1 + 2 * this.#runtime.random());
  }

  async #wait(timeoutMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#skipDelay = resolve;
    const { signal } = this.#stop;
    await within(this.#runtime, promise, { timeoutMs, signal }).catch(() => {});
    this.#skipDelay = undefined;
  }

  async #nextSession(): Promise<Session<unknown, C, "client">> {
    for await (const { name } of this.status.follow()) {
      const { session } = this;
      if (name === "connected" && session?.isReady) return session;
      if (name === "rejected") break;
    }
    throw this.#closedError("connect");
  }

  get #hasFailed(): boolean {
    const { current } = this.status;
    return "cause" in current && current.cause.code !== CloseCode.normal;
  }

  #closedError(verb: string): SessionClosedError {
    const { current } = this.status;
    const info = "cause" in current ? current.cause : undefined;
    const by = current.name === "rejected" ? ` by ${this.#attemptUrl}` : "";
    return closedError(`Cannot ${verb}: the client is ${current.name}${by}`, info);
  }
}

/** The end of a session, or a failed attempt to open one. */
type Ending = OpenFailure | { readonly during: "session"; readonly info: CloseInfo };

/** Adds the kind of failure, which a page can show to its user. */
function causeOf(info: CloseInfo): Extract<ClientStatus, { name: "reconnecting" }>["cause"] {
  const isUnavailable = info.code === CloseCode.draining && info.by === "remote";
  return isUnavailable ? { ...info, kind: "unavailable" } : info;
}

/** True if the page is known to be offline; false without a page. */
function isOffline(): boolean {
  return (globalThis as { navigator?: { onLine?: boolean } }).navigator?.onLine === false;
}
