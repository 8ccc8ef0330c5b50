/**
 * A server without sockets: everything of a server but the network.
 *
 * @module
 */
import { ConnectionError } from "../errors.ts";
import { Server, type ServerOptions } from "../server.ts";
import { Client } from "../client/client.ts";
import type { ClientOptions, Dialer } from "../client/client_options.ts";
import type { AnyContract } from "../session/contract.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import { checkConnectTimeout, openSession } from "../client/open.ts";
import { type Session, SKEIN_PROTOCOL } from "../session/session.ts";
import type { Connection } from "../transport/connection.ts";
import type { MemoryPair, MemoryPairOptions } from "../transport/memory/memory.ts";
import { parseQmuxProtocol } from "../transport/qmux/versions.ts";
import type { WebSocketEngine } from "../transport/websocket/server.ts";
import { settlesSoon } from "./turns.ts";
import { TestNetwork } from "./network.ts";
import { sessionSettings, type SessionSettingsOptions } from "../session/session_settings.ts";

/** Where a {@linkcode TestServer} is, for those who look at the URL. */
const ORIGIN = "http://localhost";

/**
 * Options for {@linkcode testServer}: those of a server, but for what upgrades sockets.
 *
 * @typeParam V What `authenticate` returns.
 * @typeParam C The contract.
 */
export interface TestServerOptions<V = unknown, C extends AnyContract = AnyContract>
  extends Omit<ServerOptions<V, C>, "webSocketEngine"> {
  /** The wire of Skein's clients. Plain ones have frames alone, as a WebSocket has. */
  readonly wire?: Omit<MemoryPairOptions, "frames" | "protocol">;
}

/** How a client of a {@linkcode TestServer} asks for its session. */
export interface TestRequestOptions {
  /**
   * Path and query.
   *
   * @default {"/"}
   */
  readonly path?: string;
  /** Request headers, such as `authorization`, `cookie` or `origin`; none by default. */
  readonly headers?: HeadersInit;
  /** The client's network address, which limits count; not known by default. */
  readonly address?: string;
}

/**
 * Options for {@linkcode TestServer.dial}: those of `dial()`, and what the server is to see.
 *
 * @typeParam C The contract.
 */
export interface TestDialOptions<C extends AnyContract = AnyContract>
  extends
    TestRequestOptions,
    Omit<SessionSettingsOptions<unknown, C, "client">, "side" | "services" | "turn" | "heartbeat"> {
  /** Sent in band before anything else, for a server with `acceptsTokenInBand`; none by default. */
  readonly token?: string;
  /**
   * Subprotocols to offer. None makes a plain WebSocket, as any page has; `qmux-02` a session of
   * streams and datagrams alone.
   *
   * @default {["skein.1"]}
   */
  readonly protocols?: readonly string[];
  /**
   * How long connecting may take, in milliseconds.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number;
  /** Gives up connecting. */
  readonly signal?: AbortSignal;
  /** Watches the session from outside; nobody by default. */
  readonly instrumentation?: Instrumentation;
}

/**
 * Options for {@linkcode TestServer.connect}: those of `connect()`, and what the server is to see.
 *
 * @typeParam C The contract.
 */
export interface TestConnectOptions<C extends AnyContract = AnyContract>
  extends Omit<TestRequestOptions, "headers">, ClientOptions<C> {}

/**
 * A server that is reached over memory. Everything else is the server itself:
 * admission, authentication, limits, topics, rooms, presence.
 *
 * @typeParam V What `authenticate` returns.
 * @typeParam C The contract.
 */
export class TestServer<V = unknown, C extends AnyContract = AnyContract> extends Server<V, C> {
  /** The network before it: faults on demand. */
  readonly network: TestNetwork;
  /** Clients that were made by `connect` and are not closed. */
  readonly clients: ReadonlySet<Client<C>>;

  readonly #accepted: WeakMap<Response, MemoryPair>;
  readonly #clients: Set<Client<C>>;

  /**
   * Creates a server; {@linkcode testServer} does.
   *
   * @param options See {@linkcode TestServerOptions}.
   */
  constructor(options: TestServerOptions<V, C> = {}) {
    const { wire = {}, ...rest } = options;
    const network = new TestNetwork();
    const accepted = new WeakMap<Response, MemoryPair>();
    super({ ...rest, webSocketEngine: memoryEngine(network, accepted, wire) });
    this.network = network;
    this.#accepted = accepted;
    this.#clients = new Set();
    this.clients = this.#clients;
  }

  /**
   * Opens one session with this server, as `dial()` does. The server's own end
   * is in `manager`, or in what `onOpen` gets.
   *
   * @param options See {@linkcode TestDialOptions}.
   * @returns The client's session, established.
   * @throws {SessionClosedError} If the server refused it; `info` has code and reason.
   * @throws {ConnectionError} If the network is down.
   */
  async dial(options: TestDialOptions<C> = {}): Promise<Session<unknown, C, "client">> {
    const { headers, token, protocols = [SKEIN_PROTOCOL], signal } = options;
    const timeoutMs = checkConnectTimeout(options.connectTimeoutMs);
    const settings = sessionSettings<unknown, C, "client">({ ...options, side: "client" });
    return await openSession({
      url: urlOf(options),
      dial: this.#dialer(options),
      protocols,
      settings,
      token,
      headers,
      timeoutMs,
      signal,
      instrumentation: options.instrumentation,
    }) as Session<unknown, C, "client">;
  }

  /**
   * Opens a connection with this server, and no session on it: to speak the wire by hand.
   *
   * @param options What the server is to see, and the subprotocols to offer, `skein.1` by default.
   * @returns The client's end; a refusal of a `skein.1` client is a close.
   * @throws {ConnectionError} If the network is down, or a plain client was refused.
   *
   * @example A page that sends nonsense
   * ```ts
   * import { testServer } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = testServer({ session: { maxInvalidMessages: 1 } });
   * await using page = await server.open({ protocols: [] });
   * page.frames?.send("nonsense");
   * assertEquals((await page.closed).closeCode, 4400);
   * ```
   */
  open(
    options: TestRequestOptions & { readonly protocols?: readonly string[] } = {},
  ): Promise<Connection> {
    const { headers, protocols = [SKEIN_PROTOCOL] } = options;
    return this.#dialer(options)(urlOf(options), {
      protocols,
      signal: new AbortController().signal,
      timeoutMs: Infinity,
      ...(headers === undefined ? {} : { headers }),
    });
  }

  /**
   * Connects a client that comes back by itself, as `connect()` does. Its delays
   * have no jitter, unless `backoff.random` says so: fake time ticks them away.
   *
   * @param options See {@linkcode TestConnectOptions}.
   * @returns The client, which connects in the background.
   *
   * @example It comes back and is subscribed again
   * ```ts
   * import { passTime, receiveOne, testServer } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   * import { FakeTime } from "@std/testing/time";
   *
   * using time = new FakeTime();
   * await using server = testServer({ authorize: () => true });
   * await using client = server.connect();
   * const news = client.subscribe("news");
   * await news.ready;
   * server.network.disconnect();
   * await passTime(time, 500);
   * await news.ready;
   * server.publish("news", "still here");
   * assertEquals((await receiveOne(news)).data, "still here");
   * ```
   */
  connect(options: TestConnectOptions<C> = {}): Client<C> {
    const client = new Client<C>(urlOf(options), this.#dialer(options), {
      ...options,
      backoff: { random: () => 1, ...options.backoff },
    });
    this.#clients.add(client);
    void client.closed.then(() => this.#clients.delete(client));
    return client;
  }

  /** Closes the server, and cuts what a close would wait for; called by `await using`. */
  override async [Symbol.asyncDispose](): Promise<void> {
    const closing = this.close();
    if (!await settlesSoon(closing)) this.network.disconnect();
    await closing;
  }

  #dialer({ address }: TestRequestOptions): Dialer {
    const info = address === undefined
      ? {}
      : { remoteAddr: { transport: "tcp", hostname: address, port: 0 } as const };
    return async (url, { protocols, headers, signal, onWorn }) => {
      this.network.checkUp();
      const request = new Request(url, { headers: upgradeHeaders(headers, protocols), signal });
      const response = await this.fetch(request, info);
      const pair = this.#accepted.get(response);
      if (pair !== undefined) {
        void pair.worn.then(onWorn);
        return pair.client;
      }
      const { status } = response;
      throw new ConnectionError(await response.text(), { status });
    };
  }
}

/**
 * Makes a server for tests: a real one, without sockets.
 *
 * - **Whole:** requests pass path, origin, limits and `authenticate`; then there
 *   are `topics`, `presence`, `rooms` and `manager` as ever.
 * - **Time:** its own timers are those of sessions, so fake time drives it.
 * - **Disposal** leaves nothing; see {@linkcode assertNoLeaks} for what a test left in it.
 *
 * @typeParam V What `authenticate` returns.
 * @typeParam C The contract.
 * @param options See {@linkcode TestServerOptions}.
 * @returns The server; `dial()` and `connect()` are methods of it.
 *
 * @example Who may come in
 * ```ts
 * import { SessionClosedError } from "@skein/skein";
 * import { testServer } from "@skein/skein/testing";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * await using server = testServer({
 *   authenticate: ({ token }) => token === "s3cret" ? "ann" : Promise.reject(),
 *   onMessage: (message, { user }) => message.reply(user),
 * });
 * await using session = await server.dial({ headers: { authorization: "Bearer s3cret" } });
 * assertEquals(await session.request("whoami"), "ann");
 * const refused = await assertRejects(() => server.dial(), SessionClosedError);
 * assertEquals(refused.info?.code, 4401);
 * ```
 */
export function testServer<V = unknown, C extends AnyContract = AnyContract>(
  options: TestServerOptions<V, C> = {},
): TestServer<V, C> {
  return new TestServer(options);
}

/** Upgrades a request to one end of a memory pair; the other end is found by the response. */
function memoryEngine(
  network: TestNetwork,
  accepted: WeakMap<Response, MemoryPair>,
  wire: Omit<MemoryPairOptions, "frames" | "protocol">,
): WebSocketEngine {
  return (_request, { protocol = "", lease } = {}) => {
    const pair = network.connect({ ...wire, ...wireOf(protocol) });
    const response = new Response();
    accepted.set(response, pair);
    if (lease !== undefined) {
      const over = () => lease[Symbol.dispose]();
      pair.server.closed.then(over, over);
    }
    return { connection: pair.server, response };
  };
}

/** What the client of each subprotocol has: messages, streams and datagrams, or not all of them. */
function wireOf(protocol: string): MemoryPairOptions {
  if (protocol === "") return { protocol, streams: false, datagrams: false };
  const { protocol: inner } = parseQmuxProtocol(protocol) ?? { protocol };
  return { protocol: inner, frames: inner === SKEIN_PROTOCOL };
}

function urlOf({ path = "/" }: TestRequestOptions): string {
  return ORIGIN + path;
}

function upgradeHeaders(given: HeadersInit | undefined, protocols: readonly string[]): Headers {
  const headers = new Headers(given);
  headers.set("upgrade", "websocket");
  headers.set("connection", "Upgrade");
  headers.set("sec-websocket-version", "13");
  headers.set("sec-websocket-key", crypto.getRandomValues(new Uint8Array(16)).toBase64());
  if (protocols.length > 0) headers.set("sec-websocket-protocol", protocols.join(", "));
  if (!headers.has("host")) headers.set("host", new URL(ORIGIN).host);
  return headers;
}
