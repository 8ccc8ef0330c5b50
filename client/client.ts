/**
 * A client that comes back: one session after the other, the same
 * subscriptions, and an outbox for what is said in between.
 *
 * @module
 */
import { CloseCode, type CloseInfo, SessionClosedError } from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import { absoluteUrl, publicUrl } from "../transport/url.ts";
import { within } from "../transport/within.ts";
import type { Life } from "./page_life.ts";
import { checkLoop } from "../session/one_loop.ts";
import { Backoff } from "../session/base/backoff.ts";
import type {
  ClientOptions,
  ClientRequestOptions,
  ClientStatus,
  Dialer,
  HandOverOptions,
  ServerUrl,
} from "./client_options.ts";
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
} from "../session/contract.ts";
import { ClientPresence } from "./presence.ts";
import { closedError } from "../session/core.ts";
import { encodeMessage } from "../session/wire/encode.ts";
import { checkLimits } from "../session/base/limits.ts";
import { checkConnectTimeout, openSession } from "./open.ts";
import { Outbox, type OutboxPublication, type OutboxState } from "./outbox.ts";
import { lasting } from "./chunks.ts";
import { internals, type Session, SKEIN_PROTOCOL } from "../session/session.ts";
import type { SessionSettings } from "../session/settings.ts";
import { StatusFeed } from "../session/base/status_feed.ts";
import type { ClientSubscribeOptions, Subscription } from "./subscription.ts";
import { Subscriptions } from "./subscriptions.ts";
import { UnreadSessions } from "./unread_sessions.ts";
import { ServerUrls } from "../session/url.ts";
import { MAX_TIMER_MS, waitFor } from "../session/base/wait.ts";
import type { ClientPublishOptions, WaitOptions } from "../session/types.ts";
import { sessionSettings } from "../session/session_settings.ts";
import type { SilentTransport, TransportName } from "../transport/race/options.ts";

/** A session that held for this long was a success: delays begin anew after it. */
const STABLE_MS = 5_000;

const TIMES_MS = { wakeTimeoutMs: 5_000 };

/** Close codes that say that trying again is no use, whichever end sends them. */
const FINAL_CODES: ReadonlySet<number> = new Set([
  CloseCode.malformed,
  CloseCode.unauthenticated,
  CloseCode.forbidden,
  CloseCode.notFound,
]);

/**
 * A connection that lasts: it comes back by itself after a loss, with capped,
 * jittered delays, and stops when the server refuses it.
 *
 * - **Subscriptions** are asked for again on every new session, and go on where they were if the
 *   topic has a history.
 * - **Presence:** the data with which the client is present in rooms goes with it from session to
 *   session.
 * - **Outbox:** what is sent while not connected goes out after reconnecting, in order, and no
 *   faster than the server takes it. A message that is larger than the server's limit is dropped,
 *   and told to `onRefused` with the code `too-large`.
 * - **Console:** a client that cannot connect, or is refused, says so in a line, once a URL, unless
 *   `status` was read or subscribed to, or there is an `onError`.
 * - **Refused:** 4400, 4401, 4403 and 4404 end it, whichever end closed so; a server's normal close
 *   does too. After a session that held, a server's 4401 gets one more try, with a fresh token. What
 *   waits then, such as a loop, a request or a publication, is rejected at once; after a normal close
 *   loops end.
 *
 * What was handed to a connection that broke may be lost: for what must arrive, there is
 * `delivery: "at-least-once"`, and for requests `resend`.
 *
 * @typeParam C The contract.
 */
export class Client<C extends AnyContract = AnyContract>
  implements AsyncIterable<MessageOf<C, "client">>, AsyncDisposable {
  /** How the client is doing: `current`, and each change for a loop or by `subscribe`. */
  readonly status: StatusFeed<ClientStatus> = new StatusFeed<ClientStatus>({ name: "connecting" });
  /** Resolves with the end of the last session once the client is closed or refused. */
  readonly closed: Promise<CloseInfo>;

  readonly #dial: Dialer;
  readonly #urls: ServerUrls;
  readonly #options: ClientOptions<C>;
  readonly #settings: SessionSettings;
  readonly #backoff: Backoff;
  readonly #outbox: Outbox;
  readonly #stop = new AbortController();
  readonly #subscriptions = new Subscriptions<C>();
  readonly #presence = new ClientPresence();
  readonly #unread = new UnreadSessions();
  readonly #connectTimeoutMs: number;
  readonly #wakeTimeoutMs: number;
  readonly #onAbort = () => void this.close();
  /** What connections tell later. */
  readonly #hooks = {
    onWorn: () => void this.#replace(),
    onLate: (late: Connection) => {
      // Only a new request can name the session that it is to follow.
      late.close();
      const transport = late.transport as TransportName;
      if (!this.#options.upgrade) return;
      this.whenConnected().then(() => this.handOver({ transport })).catch(() => {});
    },
  };
  #session: Session | undefined;
  /** How the session ended that the client had last. */
  #over = Promise.withResolvers<CloseInfo>();
  #isMoving = false;
  /** Waits for the sessions that this client moved from. */
  #finished: Promise<unknown> | undefined;
  /** The session before, if it fell silent while nothing happened to the page or its network. */
  #silent: SilentTransport | undefined;
  #life: Life | undefined;
  /** Where the last attempt went, without secrets. */
  #place = "";
  #retryAt = 0;
  #skipDelay: (() => void) | undefined;

  /**
   * Creates a client and begins to connect; `connect()` does.
   *
   * @param url Where to; see {@linkcode ServerUrl}.
   * @param dial Opens connections.
   * @param options See {@linkcode ClientOptions}.
   * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
   */
  constructor(url: ServerUrl, dial: Dialer, options: ClientOptions<C> = {}) {
    this.#urls = new ServerUrls(url);
    this.#dial = dial;
    this.#options = options;
    this.#settings = sessionSettings<unknown, C, "client">({
      ...options,
      side: "client",
      onGoAway: (goaway, session) => {
        this.#retryAt = Date.now() + goaway.retryAfterMs;
        options.onGoAway?.(goaway, session);
      },
    });
    this.#connectTimeoutMs = checkConnectTimeout(options.connectTimeoutMs);
    const limits = { of: "client: ", max: MAX_TIMER_MS };
    this.#wakeTimeoutMs = checkLimits(TIMES_MS, options, limits).wakeTimeoutMs;
    this.#backoff = new Backoff(options.backoff);
    this.#outbox = new Outbox(options.outbox, options.delivery === "at-least-once");
    options.signal?.addEventListener("abort", this.#onAbort, { once: true });
    if (options.signal?.aborted) this.#stop.abort();
    this.closed = this.#run();
  }

  /** The session, while there is one. */
  get session(): Session<unknown, C, "client"> | undefined {
    return this.#session as Session<unknown, C, "client"> | undefined;
  }

  /** Whether there is a session now. */
  get isConnected(): boolean {
    return this.#session?.isReady ?? false;
  }

  /** What waits for a connection. */
  get outbox(): OutboxState {
    return this.#outbox.state;
  }

  /**
   * Waits for a session.
   *
   * @param options Gives up by signal or time.
   * @returns The session.
   * @throws {SessionClosedError} If the client is closed, or the server refused it.
   * @throws {TimeoutError} If it takes longer than `timeoutMs`.
   */
  whenConnected(options: WaitOptions = {}): Promise<Session<unknown, C, "client">> {
    return waitFor(this.#nextSession(), { ...options, what: "the connection" });
  }

  /**
   * Sends a message; while not connected, and while others are still in the outbox, it waits there.
   *
   * @param topic The topic.
   * @param data The data.
   * @throws {QueueFullError} If the outbox, or the session's send queue, is full.
   * @throws {SessionClosedError} If the client is closed.
   * @throws {TypeError} If JSON cannot hold the data.
   */
  send<T extends SendTopic<C, "client">>(topic: T, data?: SendData<C, "client", T>): void {
    const session = this.#session;
    const { first, isKept } = this.#outbox;
    // Behind what was sent before.
    if (session?.isReady && !first && !isKept) return session.send(topic, data);
    this.#keep("send", topic, data);
  }

  /**
   * Waits until the server has handled everything that was sent and published so far; with the
   * default `delivery`, until a session took it.
   *
   * @param options Gives up by signal or time.
   * @throws {SessionClosedError} If the client is closed before.
   * @throws {UnsupportedError} If the server does not tell what it handled.
   * @throws {TimeoutError} If it takes longer than `timeoutMs`.
   */
  async flushed(options: WaitOptions = {}): Promise<void> {
    const { last } = this.#outbox;
    return (await lasting()).flushed(this.#outbox, last, options);
  }

  /**
   * Asks the server; waits for a session first, if there is none.
   *
   * @param topic What is asked.
   * @param data The question.
   * @param options Signal, time, and whether to ask again after a loss.
   * @returns The answer.
   * @throws {RequestError} If the answer is a failure.
   * @throws {TimeoutError} If there is no answer in time.
   * @throws {SessionClosedError} If the session closed meanwhile, or the client is closed.
   */
  async request<T extends RequestTopic<C>>(
    topic: T,
    data?: RequestInput<C, T>,
    options: ClientRequestOptions = {},
  ): Promise<RequestOutput<C, T>> {
    const { signal, resend = false } = options;
    const deadline = Date.now() + (options.timeoutMs ?? this.#settings.requestTimeoutMs);
    const left = () => ({
      timeoutMs: Math.max(1, deadline - Date.now()),
      ...(signal && { signal }),
    });
    while (true) {
      const session = await this.whenConnected(left());
      try {
        return await session.request(topic, data, left());
      } catch (error) {
        if (!resend || !(error instanceof SessionClosedError)) throw error;
      }
    }
  }

  /**
   * Subscribes to a topic, for as long as the client lives or until it is left.
   *
   * @typeParam T The topic: with a contract, one of those that the server sends.
   * @param topic The topic. Several subscriptions of one topic get each message.
   * @param options For a topic with a history: from where on, and who is told of what is missing.
   * @returns The subscription; `await subscription.ready` waits for the server's word.
   * @throws {TypeError} If the topic is none.
   * @throws {SessionClosedError} If the client is closed.
   */
  subscribe<T extends SendTopic<C, "server">>(
    topic: T,
    options: ClientSubscribeOptions = {},
  ): Subscription<C, T> {
    if (this.status.isEnded) throw this.#ended("subscribe");
    return this.#subscriptions.add(topic, options) as Subscription<C, T>;
  }

  /**
   * Publishes to a topic through the server, if its `authorize` lets this client.
   *
   * @typeParam T The topic: with a contract, one of those that go to clients.
   * @param topic The topic.
   * @param data The data.
   * @param options Gives up by signal or time, and leaves this client out.
   * @throws {RequestError} With code `forbidden`, if it may not.
   * @throws {UnsupportedError} If there is to be no echo, and the server cannot tell clients apart.
   */
  async publish<T extends SendTopic<C, "server">>(
    topic: T,
    data?: SendData<C, "server", T>,
    options: ClientPublishOptions = {},
  ): Promise<void> {
    const { echo = true, ...wait } = options;
    if (this.#outbox.isKept) {
      const answer = Promise.withResolvers<void>();
      this.#keep("publish", topic, data, { answer, echo });
      return await waitFor(answer.promise, { ...wait, what: `the publication on "${topic}"` });
    }
    const session = await this.whenConnected(wait);
    await session.publish(topic, data, options);
  }

  /**
   * Sets the data with which this client is present in a room, if the server's `authorize` lets it:
   * at once, if it is in the room, and whenever it joins, also after a reconnect. Members are told by
   * notices on `presence:<room>`; of several clients of a user the one that set it last stands.
   *
   * @example Who is here, and how
   * ```ts
   * import { connect, type PresenceNotice, serve } from "@skein/skein";
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
   * await client.presence("room:a", { is: "here" });
   * client.subscribe("room:a");
   * for await (const { data } of client) {
   *   const notice = data as PresenceNotice;
   *   if (notice.type === "members") {
   *     assertEquals(notice.members[0]?.data, { is: "here" });
   *     void client.presence("room:a", { is: "away" });
   *   } else if (notice.type === "update") {
   *     assertEquals(notice.data, { is: "away" });
   *     break;
   *   }
   * }
   * ```
   *
   * @typeParam T The room: with a contract, one that its `presence` names.
   * @param room The room; at most 32 have data.
   * @param data Any value that JSON can hold, of at most 512 bytes unless the server allows more;
   * `undefined` takes it back.
   * @param options Gives up by signal or time; the data is kept for the next session all the same.
   * @returns Resolves once the server has it.
   * @throws {RequestError} With code `forbidden`, if it may not; `too-large`, or `invalid` where the
   * data does not fit the contract.
   * @throws {QueueFullError} If there is data for 32 other rooms.
   * @throws {TypeError} If JSON cannot hold the data, or the room is no topic.
   * @throws {UnsupportedError} If the server takes no data of presence.
   * @throws {SessionClosedError} If the client is closed, or the server refused it.
   */
  presence<T extends PresenceTopic<C>>(
    room: T,
    data?: PresenceInput<C, T>,
    options: WaitOptions = {},
  ): Promise<void> {
    const next = () =>
      this.#session?.isReady ? this.#session : this.#nextSession() as Promise<Session>;
    return this.#presence.set(room, data, { ...options, next });
  }

  /**
   * Tries again now, if the client waits for its next attempt. A page that comes back online,
   * wakes or is looked at again does so too.
   */
  retryNow(): void {
    this.#skipDelay?.();
  }

  /**
   * Moves to a new session without a gap, if the server can do that: the new one is opened beside the
   * old one, which is closed once its requests and streams have ended, within 30 s.
   *
   * - **Topics with a history** go on at their position: no publication is lost, none comes twice.
   * - **Other topics** too, on a server of one node: each publication comes in one of the sessions, and
   *   in order. Where the old one breaks meanwhile, what was on its way there is lost.
   * - **Messages and publications** that are sent from now on go to the new session. With
   *   `delivery: "at-least-once"` so do those that are not acknowledged.
   * - **Requests and streams** end where they began; new ones begin in the new session.
   *
   * A client does so by itself where an engine is known to stop a connection after some megabytes.
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
   * @param options See {@linkcode HandOverOptions}.
   * @returns Whether it moved; if not, all is as before.
   */
  async handOver({ transport }: HandOverOptions = {}): Promise<boolean> {
    const from = this.#session;
    if (!from?.isReady || this.#isMoving) return false;
    this.#isMoving = true;
    try {
      const moved = await (await lasting()).handOver({
        from,
        transport,
        subscriptions: this.#subscriptions,
        signal: this.#stop.signal,
        open: (change, signal) => this.#open(change, signal),
        take: (session, move) => this.#take(session, move),
      });
      if (moved) this.#finished = Promise.all([this.#finished, moved.finished]);
      return moved !== undefined;
    } finally {
      this.#isMoving = false;
    }
  }

  /**
   * Closes the client for good. What waits in the outbox is not sent.
   *
   * @returns Resolves once the session is closed.
   */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#session?.close();
    await this.#finished;
    await this.closed;
  }

  /** Closes the client; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Yields the messages of one session after the other, until the client ends.
   * Those of subscriptions are not among them.
   *
   * - **First:** the first loop begins with the session that there is then. From
   *   it on nothing is missed, also between one loop and the next.
   * - **Bound:** a reader who falls behind, by the receive queue of a session or
   *   by more than 8 sessions with messages, gets a {@linkcode QueueFullError},
   *   never a silent gap. The next loop goes on after the gap.
   * - **End:** a normal close of either end ends the loop. Every other end is thrown, after the
   *   messages that came before it.
   *
   * @returns The messages, checked against the contract.
   * @throws {TypeError} If messages go to an `onMessage` handler, or another loop runs.
   * @throws {QueueFullError} If the reader fell behind, and messages are missing.
   * @throws {SessionClosedError} If the server refused the client for good, or the client gave up; `info`
   * has code and reason.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<MessageOf<C, "client">, void, undefined> {
    const unread = this.#unread;
    checkLoop("client", unread.isRead, this.#settings.handlers.onMessage !== undefined);
    unread.isRead = true;
    try {
      unread.begin(this.#session);
      while (true) {
        for (let session; (session = unread.next()) !== undefined; unread.done(session)) {
          yield* session as AsyncIterable<MessageOf<C, "client">>;
        }
        if (this.status.isEnded) {
          if (this.#hasFailed) throw this.#ended("receive");
          return;
        }
        for await (const _ of this.status.follow()) if (unread.size > 0) break;
      }
    } finally {
      unread.isRead = false;
    }
  }

  /** Has a message wait in the outbox; with `publication` as what is to be published. */
  #keep(
    verb: string,
    topic: string,
    data: unknown,
    publication?: OutboxPublication,
  ): void {
    if (this.status.isEnded) throw this.#ended(verb);
    const core = this.#session?.isReady ? this.#session[internals] : undefined;
    core?.checkData(verb, data);
    const maxBytes = core?.maxSendBytes ?? this.#settings.maxMessageBytes;
    const trace = publication ? undefined : this.#settings.watch?.sending(topic, this.#session);
    this.#outbox.add(encodeMessage(topic, data, { maxBytes, verb, trace }), publication);
  }

  async #run(): Promise<CloseInfo> {
    try {
      while (true) {
        const { info, wasReady } = await this.#live();
        const end = this.#endOf(info, wasReady);
        if (end !== undefined || !wasReady) this.#report(info, end);
        if (end !== undefined) return this.#finish(end, info);
        const mayMove = this.#retryAt === 0 && !isOffline();
        const delayMs = this.#urls.failed() && mayMove ? 0 : this.#delay();
        if (delayMs === undefined) return this.#finish("closed", info);
        this.status.set({
          name: "reconnecting",
          attempt: this.#backoff.attempt,
          delayMs,
          retryAt: Date.now() + delayMs,
          cause: info,
        });
        void this.#lookAfter();
        // The answer is for the next attempt, so it must not grow old.
        if (wasReady && mayMove && this.#backoff.attempt === 1) void this.#askElsewhere();
        if (delayMs > 0) await this.#wait(delayMs);
        if (!this.#stop.signal.aborted) this.status.set({ name: "connecting" });
      }
    } finally {
      this.#life?.[Symbol.dispose]();
      this.#options.signal?.removeEventListener("abort", this.#onAbort);
    }
  }

  /** Prints a failure that neither a handler nor a reader of the status hears of. */
  #report({ code, reason, error }: CloseInfo, end: "refused" | "closed" | undefined): void {
    const isNormal = code === CloseCode.normal || this.#stop.signal.aborted;
    if (isNormal || this.status.isObserved || this.#options.onError) return;
    const why = error === undefined ? `${code}${reason && ` ${reason}`}` : reason;
    // Its own errors name the server already, by another scheme perhaps.
    const isNamed = why.includes(`//${absoluteUrl(this.#place)?.host}`);
    const line = end === undefined
      ? `${isNamed ? why : `Cannot connect to ${this.#place}: ${why}`}; ` +
        "the client tries again, and its status tells how that goes"
      : `The client of ${this.#place} has ended (${end}): ${why}`;
    const isUnexplained = code === CloseCode.unauthenticated && !/token/i.test(reason);
    const cure = isUnexplained ? "; give connect() a token that is valid" : "";
    this.#settings.console.tell(end ?? "unreachable", line + cure, { about: this.#place });
  }

  /** Does not wait where the next connection goes to another host. */
  async #askElsewhere(): Promise<void> {
    if (await this.#urls.isElsewhere(this.#place)) this.retryNow();
  }

  /** Looks after page and machine, once what does so is loaded; where it is not, the next time. */
  async #lookAfter(): Promise<void> {
    const part = this.#life ? undefined : await lasting().catch(() => undefined);
    const options = { timeoutMs: this.#wakeTimeoutMs, upgrades: this.#options.upgrade };
    if (!this.status.isEnded) this.#life ??= part && new part.Life(this, options);
  }

  /** One session, from dialling to its end. */
  async #live(): Promise<{ info: CloseInfo; wasReady: boolean }> {
    let dialed: unknown;
    let session: Session;
    try {
      session = await this.#open((dial) => async (url, options) => {
        this.#place = publicUrl(url);
        const silent = this.#silent;
        this.#silent = undefined;
        try {
          return dialed = await dial(url, { ...options, silent }) as Connection;
        } catch (error) {
          throw dialed = error;
        }
      });
    } catch (error) {
      this.#hear(error, dialed, Infinity);
      // The application's functions may fail by a session too, but not by this one.
      const told = dialed && error instanceof SessionClosedError ? error.info : undefined;
      const reason = error instanceof Error ? error.message : String(error);
      // What the dialer does not take, it never will.
      const by = dialed instanceof TypeError ? "local" : "network";
      const info = told ?? { code: CloseCode.abnormal, reason, by, error };
      return { info, wasReady: false };
    }
    const since = Date.now();
    this.#over = Promise.withResolvers();
    this.#take(session, () => this.#subscriptions.resume(session));
    const info = await this.#over.promise;
    const last = this.#session!;
    this.#hear(info.error, last, last[internals].lastHeard);
    this.#session = undefined;
    this.#subscriptions.lose();
    if (Date.now() - since >= STABLE_MS) {
      this.#backoff.reset();
      this.#urls.held();
    }
    return { info, wasReady: true };
  }

  /** Notes for the next attempt that a session fell silent, unless its page or network explain that. */
  #hear(error: unknown, on: unknown, lastHeard: number): void {
    const { transport } = Object(on) as Partial<Connection>;
    const isExplained = isOffline() || (this.#life?.disturbedAt ?? 0) >= lastHeard;
    if (!transport || isExplained || !/Timeout|timed out/.test(String(error))) return;
    this.#silent = { url: this.#place, transport, error };
  }

  #open(change: (dial: Dialer) => Dialer, signal = this.#stop.signal): Promise<Session> {
    return openSession({
      ...this.#options,
      url: this.#urls.next(),
      protocols: [SKEIN_PROTOCOL],
      settings: this.#settings,
      timeoutMs: this.#connectTimeoutMs,
      signal,
      dial: change(this.#dial),
      hooks: this.#hooks,
    });
  }

  /** Moves from a session of which the engine takes no more, or ends it; where that cannot be loaded, it stays. */
  async #replace(): Promise<void> {
    const session = this.#session;
    const part = await lasting().catch(() => undefined);
    if (!part || this.#isMoving || await this.handOver()) return;
    if (session && session === this.#session) await part.giveUp(session);
  }

  #take(session: Session, move: () => void): void {
    this.#session = session;
    void session.closed.then((info) => {
      if (this.#session === session) this.#over.resolve(info);
    });
    this.#unread.add(session);
    this.#presence.resume(session);
    move();
    void this.#outbox.handTo(session);
    session[internals].onRenew = () => void this.#renew(session);
    const { id, transport, fallback } = session;
    this.status.set({ name: "connected", session: id, transport, ...(fallback && { fallback }) });
    void this.#lookAfter();
  }

  /** Offers a new token. Where that fails the server ends the session, and the next one begins with one. */
  async #renew(session: Session): Promise<void> {
    const { token } = this.#options;
    if (typeof token !== "function") return;
    try {
      const renewed = await token();
      if (renewed !== undefined && !session.isClosed) await session.authenticate(renewed);
    } catch (error) {
      session[internals].emit("error", error);
    }
  }

  #endOf(info: CloseInfo, wasReady: boolean): "refused" | "closed" | undefined {
    if (this.#stop.signal.aborted || info.by === "local" && info.code === CloseCode.normal) {
      return "closed";
    }
    // What cannot be dialled, such as a URL that is none, never can.
    if (info.by === "local" && !wasReady && info.error instanceof TypeError) return "closed";
    if (info.by === "network") return undefined;
    // A token that expired gets one more try, with a fresh one.
    const isExpired = wasReady && info.by === "remote" && info.code === CloseCode.unauthenticated;
    if (isExpired) return undefined;
    if (FINAL_CODES.has(info.code)) return "refused";
    return info.code === CloseCode.normal ? "closed" : undefined;
  }

  #finish(name: "refused" | "closed", last: CloseInfo): CloseInfo {
    const isOwn = this.#stop.signal.aborted;
    const cause = isOwn ? { code: CloseCode.normal, reason: "", by: "local" } as const : last;
    this.status.end({ name, cause });
    this.#subscriptions.end(this.#hasFailed ? this.#ended("receive") : undefined);
    this.#outbox.end(this.#ended("deliver"));
    return cause;
  }

  #delay(): number | undefined {
    const delayMs = this.#backoff.next(isOffline());
    const retryAt = this.#retryAt;
    this.#retryAt = 0;
    if (delayMs === undefined || retryAt === 0) return delayMs;
    // The server said when, and spread its clients by it; from then on the delays are ours again.
    return Math.min(MAX_TIMER_MS, Math.max(0, retryAt - Date.now()));
  }

  async #wait(timeoutMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#skipDelay = resolve;
    const { signal } = this.#stop;
    await within(promise, { timeoutMs, signal }).catch(() => {});
    this.#skipDelay = undefined;
  }

  async #nextSession(): Promise<Session<unknown, C, "client">> {
    for await (const { name } of this.status.follow()) {
      const { session } = this;
      if (name === "connected" && session?.isReady) return session;
    }
    throw this.#ended("wait for the connection");
  }

  /** True if the client ended in another way than by a normal close. */
  get #hasFailed(): boolean {
    const { current } = this.status;
    return "cause" in current && current.cause.code !== CloseCode.normal;
  }

  #ended(verb: string): SessionClosedError {
    const { current } = this.status;
    const info = "cause" in current ? current.cause : undefined;
    const by = current.name === "refused" ? ` by ${this.#place}` : "";
    return closedError(`Cannot ${verb}: the client is ${current.name}${by}`, info);
  }
}

/** Where a page says so; elsewhere nothing is known. */
function isOffline(): boolean {
  return (globalThis as { navigator?: { onLine?: boolean } }).navigator?.onLine === false;
}
