/** The connection to NATS: opened in the background, and reopened indefinitely. */
import {
  type Authenticator,
  type ConnectionOptions,
  createInbox,
  errors,
  type Msg,
  type MsgHdrs,
  type NatsConnection,
  type ServerInfo,
  type Subscription,
} from "@nats-io/nats-core";
import { type JetStreamManager, jetstreamManager } from "@nats-io/jetstream";
import { BrokerError } from "../../errors.ts";
import { Signal } from "../../base/signal.ts";
import { pause, settlesWithin, waitFor } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { BrokerLife } from "../../pubsub/broker/life.ts";
import { Pace } from "../../pubsub/broker/pace.ts";
import { TurnBatch } from "../../pubsub/broker/queue.ts";
import { NatsClock } from "./clock.ts";
import { OtherVersionError } from "../stored_version.ts";
import { connectNats } from "./transport.ts";
import type { VersionMark } from "./version.ts";
import { StreamRates } from "./shards.ts";

/** Time limit for a reply from the server, in milliseconds. */
export const REQUEST_TIMEOUT_MS = 5_000;

/** Wait between attempts to connect, in milliseconds. Up to the same time is added at random. */
const RETRY_MS = 250;

/** Longest wait for the connection to close, in milliseconds. */
const CLOSE_TIMEOUT_MS = 1_000;

/**
 * Interval of requests to far servers, in milliseconds. By default, a leaf node connects again a
 * second after it has lost its connection, so at least one request notices the loss.
 */
const FAR_PING_MS = 500;

/** Interval of pings, in milliseconds; two unanswered pings reveal a frozen server. */
const PING_INTERVAL_MS = 10_000;

/** Options of a new connection, and the function that opens it. */
type NewConnection = ConnectionOptions & {
  readonly connect?: (options: ConnectionOptions) => Promise<NatsConnection>;
};

/** Options of a new connection, or an open connection of the application. */
export type LinkTarget = NewConnection | { readonly connection: NatsConnection };

/** Events of a {@linkcode NatsLink}. No callback may throw. */
interface NatsLinkEvents {
  /** Called when the server is reachable and has all subscriptions again. */
  up(isAgain: boolean): void;
  /** Called when the connection is lost. */
  down(): void;
}

/** One connection over its whole lifetime. */
export class NatsLink {
  readonly runtime: Runtime;
  /** The broker's lifecycle, which holds the state of the connection. */
  readonly life: BrokerLife;
  /** The version mark of the data, with the numbers of shards and what stores them. */
  readonly mark: VersionMark;
  /** The server's time. */
  readonly clock: NatsClock;
  /** Paces the delivery of messages to subscriptions. */
  readonly pace: Pace;
  /** Ends the turns of all queues together, so that one write carries the messages of all shards. */
  readonly turn: TurnBatch;
  /** The rates of all streams and buckets that this node has used. */
  readonly rates: StreamRates;
  readonly #events: NatsLinkEvents;
  readonly #isOwn: boolean;
  readonly #inboxPrefix: string | undefined;
  readonly #ended = new AbortController();
  readonly #changes = new Signal();
  readonly #running: Promise<void>;
  #connection: NatsConnection | undefined;
  #period: AbortController | undefined;
  #flushing: Promise<boolean> | undefined;
  /** Everything opened in this period of the connection, by name. */
  readonly #opened = new Map<string, Promise<unknown>>();

  constructor(
    { runtime, life, mark }: {
      readonly runtime: Runtime;
      readonly life: BrokerLife;
      readonly mark: VersionMark;
    },
    target: LinkTarget,
    events: NatsLinkEvents,
  ) {
    this.runtime = runtime;
    this.life = life;
    this.mark = mark;
    this.clock = new NatsClock(runtime);
    this.pace = new Pace(runtime);
    this.turn = new TurnBatch(runtime);
    this.rates = new StreamRates(runtime);
    this.#events = events;
    this.#isOwn = !("connection" in target);
    this.#inboxPrefix = "connection" in target ? undefined : target.inboxPrefix;
    this.#running = this.#run(target);
  }

  /** True if messages can be sent. */
  get isUp(): boolean {
    return this.#period !== undefined;
  }

  /** Aborted when the connection is lost; `undefined` while there is none. */
  get period(): AbortSignal | undefined {
    return this.#period?.signal;
  }

  /**
   * The connection, even while the server is unreachable, because the client library renews
   * subscriptions.
   */
  get connection(): NatsConnection | undefined {
    return this.#connection;
  }

  /** The connection. Throws while the server is unreachable. */
  get open(): NatsConnection {
    if (this.#period === undefined) throw this.#awayError();
    return this.#connection!;
  }

  /**
   * Opens JetStream's management API, whose calls wait for replies up to a time limit. Everything
   * stored is reached through this method, which therefore checks the version mark. Rejects while
   * the server is unreachable, and if another version of Skein has stored the data.
   */
  async manager(timeoutMs = REQUEST_TIMEOUT_MS): Promise<JetStreamManager> {
    const manager = await this.#jetstream(timeoutMs);
    if (!this.mark.matches) await this.#ensureMark(manager, timeoutMs);
    return manager;
  }

  /** Prefix of the subjects of JetStream's API. */
  get api(): string {
    const { domain } = this.mark.settings;
    return domain === undefined ? "$JS.API" : `$JS.${domain}.API`;
  }

  /** True if the connected server is none of those that store the data, such as a leaf node. */
  get isFar(): boolean {
    const { domain } = this.mark.settings;
    const info: Partial<ServerInfo & { readonly domain: string }> = this.#connection?.info ?? {};
    return !info.jetstream || domain !== undefined && info.domain !== domain;
  }

  /**
   * Reads the version mark once per connection, and again after a failure.
   *
   * @param options True if the node has just started.
   * @returns False if there is no mark.
   */
  readMark({ isStart = false, timeoutMs }: {
    readonly isStart?: boolean;
    readonly timeoutMs?: number | undefined;
  } = {}): Promise<boolean> {
    return this.once("version", async () => {
      const manager = await this.#jetstream(timeoutMs);
      return await this.#noteVersion(this.mark.read(manager), isStart);
    });
  }

  /** Sets the version mark if there is none. */
  async #ensureMark(manager: JetStreamManager, timeoutMs: number): Promise<void> {
    if (await this.readMark({ timeoutMs })) return;
    await this.once("version mark", () => this.#noteVersion(this.mark.set(manager), false));
  }

  /** Shows in the status whether another version has stored the data. */
  async #noteVersion<T>(checking: Promise<T>, isStart: boolean): Promise<T> {
    try {
      const result = await checking;
      if (this.life.isMismatched && this.isUp) this.life.connected();
      return result;
    } catch (error) {
      if (error instanceof OtherVersionError) {
        this.life.mismatched(error, { cannotStart: isStart });
      }
      throw error;
    }
  }

  async #jetstream(timeoutMs: number = REQUEST_TIMEOUT_MS): Promise<JetStreamManager> {
    const { domain } = this.mark.settings;
    return await jetstreamManager(this.open, { checkAPI: false, timeout: timeoutMs, domain });
  }

  /**
   * Opens something once per connection, and again after a failure. Throws while the server is
   * unreachable.
   */
  once<T>(name: string, open: (connection: NatsConnection) => Promise<T>): Promise<T> {
    const connection = this.open;
    const known = this.#opened.get(name);
    if (known !== undefined) return known as Promise<T>;
    const opening = open(connection);
    this.#opened.set(name, opening);
    opening.catch(() => this.reopen(name, opening));
    return opening;
  }

  /** Returns what was opened in this period under a name. */
  opened(name: string): Promise<unknown> | undefined {
    return this.#opened.get(name);
  }

  /** Makes the next use open something again. */
  reopen(name: string, opened: Promise<unknown> | undefined): void {
    if (this.#opened.get(name) === opened) this.#opened.delete(name);
  }

  /** Reads the server's clock if this is due, through a stream that exists. Never rejects. */
  async followClock(manager: JetStreamManager, stream: string): Promise<void> {
    const { period } = this;
    if (period !== undefined) await this.clock.follow(manager, stream, period);
  }

  /** Resolves when the server is reachable, or to false once the link has closed. */
  async whenUp(): Promise<boolean> {
    while (!this.isUp && !this.#ended.signal.aborted) await this.#changes.changed();
    return this.isUp;
  }

  /**
   * Waits for the first contact with the server. After that, rejects if the server is unreachable.
   */
  async reach(signal?: AbortSignal): Promise<void> {
    if (this.life.status.current.name === "connecting") {
      const what = "connection to NATS";
      await waitFor(this.runtime, this.whenUp(), {
        what,
        timeoutMs: REQUEST_TIMEOUT_MS,
        signal,
      });
    }
    if (!this.isUp) throw this.#awayError();
  }

  /**
   * Resolves once the server has received all earlier messages, or to false if the connection was
   * lost first. Calls in one turn share the result.
   */
  flush(): Promise<boolean> {
    this.#flushing ??= Promise.resolve().then(async () => {
      this.#flushing = undefined;
      if (this.#period === undefined) return false;
      try {
        await this.#connection!.flush();
        return true;
      } catch (error) {
        this.#lost(error);
        return false;
      }
    });
    return this.#flushing;
  }

  /** Ends a subscription, unless all subscriptions have already ended with the connection. */
  leave(subscription: Subscription | undefined): void {
    if (this.#connection?.isClosed() === false) subscription?.unsubscribe();
  }

  /** Waits until a time has passed, in milliseconds, or the link closes. */
  async pause(ms: number): Promise<void> {
    await pause(this.runtime, ms, this.#ended.signal);
  }

  /** Returns a unique subject for replies. */
  inbox(): string {
    return createInbox(this.#inboxPrefix);
  }

  /** Sends a request, and waits for one reply up to a time limit. */
  async request(
    subject: string,
    body: string | Uint8Array,
    { headers, timeoutMs = REQUEST_TIMEOUT_MS }: {
      readonly headers?: MsgHdrs;
      readonly timeoutMs?: number | undefined;
    } = {},
  ): Promise<Msg> {
    return await this.open.request(subject, body, { timeout: timeoutMs, headers });
  }

  /**
   * Closes the connection, unless it belongs to the application. A hanging attempt to connect
   * cannot be stopped and is not awaited, but its connection is closed.
   */
  async close(): Promise<void> {
    if (!this.#ended.signal.aborted) {
      this.#ended.abort();
      this.#period?.abort();
      this.#period = undefined;
      this.#changes.notify();
      this.life.status.end({ name: "closed" });
    }
    await settlesWithin(this.runtime, this.#running, CLOSE_TIMEOUT_MS);
  }

  async #run(target: LinkTarget): Promise<void> {
    const connection = "connection" in target ? target.connection : await this.#connect(target);
    if (connection === undefined) return;
    this.#connection = connection;
    await this.#follow(connection);
    if (this.#isOwn) await connection.close();
  }

  async #connect(
    { connect: open = connectNats, ...options }: NewConnection,
  ): Promise<NatsConnection | undefined> {
    while (!this.#ended.signal.aborted) {
      try {
        const { authenticator } = options;
        return await open({
          noAsyncTraces: true,
          pingInterval: PING_INTERVAL_MS,
          reconnectJitter: RETRY_MS,
          reconnectTimeWait: RETRY_MS,
          timeout: REQUEST_TIMEOUT_MS,
          ...options,
          authenticator: authenticator && this.#lasting(authenticator),
          // An error that ends the connection permanently would outlast its cause.
          ignoreAuthErrorAbort: true,
          maxReconnectAttempts: -1,
          noEcho: false,
          reconnect: true,
          waitOnFirstConnect: false,
        });
      } catch (error) {
        this.life.lastError = error;
        await this.pause(RETRY_MS * (1 + this.runtime.random()));
      }
    }
    return undefined;
  }

  /**
   * Repeats the last credentials if an authenticator throws, because the client library would stop
   * permanently.
   */
  #lasting(authenticator: Authenticator | Authenticator[]): Authenticator[] {
    return [authenticator].flat().map((tell) => {
      let last: ReturnType<Authenticator>;
      return (nonce?: string) => {
        try {
          last = tell(nonce);
        } catch (error) {
          this.life.lastError = error;
        }
        return last;
      };
    });
  }

  /** Follows the connection until the link is closed. */
  async #follow(connection: NatsConnection): Promise<void> {
    const { signal } = this.#ended;
    const statuses = connection.status()[Symbol.asyncIterator]();
    const ended = new Promise<undefined>((resolve) => {
      if (signal.aborted) resolve(undefined);
      else signal.addEventListener("abort", () => resolve(undefined), { once: true });
    });
    this.#reached(connection);
    void this.#watchFar(connection);
    while (true) {
      const next = await Promise.race([statuses.next(), ended]);
      if (next === undefined) break;
      if (next.done) {
        this.#lost(new BrokerError("The connection was closed outside the broker"));
        await ended;
        break;
      }
      if (next.value.type === "disconnect") this.#lost(this.life.lastError);
      else if (next.value.type === "reconnect") this.#reached(connection);
      else if (next.value.type === "error") this.life.lastError = next.value.error;
    }
    // This is not awaited, because the library's iterator ends only with the next status.
    statuses.return?.().catch(() => {});
  }

  /**
   * Watches the way to far servers. If it breaks, the connected server has lost messages, and keeps
   * the connection, so this counts as a lost connection.
   */
  async #watchFar(connection: NatsConnection): Promise<void> {
    if (this.mark.settings.domain === undefined) return;
    while (!this.#ended.signal.aborted && !connection.isClosed()) {
      // A request that gets lost must not delay the next one.
      if (!this.isUp || this.isFar) void this.#askFar(connection);
      await this.pause(FAR_PING_MS);
    }
  }

  async #askFar(connection: NatsConnection): Promise<void> {
    try {
      await connection.request(`${this.api}.INFO`, "", { timeout: REQUEST_TIMEOUT_MS });
      if (!this.isUp) this.#reached(connection);
    } catch (error) {
      if (!(error instanceof errors.RequestError) || !error.isNoResponders()) return;
      this.#lost(new BrokerError("The servers with the data are unreachable"));
    }
  }

  #awayError(): BrokerError {
    const isClosed = this.#ended.signal.aborted;
    return new BrokerError(
      `Cannot reach NATS: ${isClosed ? "the broker is closed" : "the server is unreachable"}`,
    );
  }

  #reached(connection: NatsConnection): void {
    connection.flush().then(() => {
      if (this.#ended.signal.aborted || this.isUp) return;
      this.#period = new AbortController();
      const isAgain = this.life.wasConnected;
      this.life.connected();
      this.#changes.notify();
      this.#events.up(isAgain);
    }, (error) => this.life.interrupted(error));
  }

  #lost(error: unknown): void {
    if (this.#period === undefined) return;
    this.#period.abort();
    this.#period = undefined;
    this.#opened.clear();
    this.life.interrupted(error);
    this.#events.down();
  }
}
