/** A server without sockets, and the network in front of it, with faults on demand. */
import { SERVER, type ServerOptions } from "../server/server_options.ts";
import { checkOptions } from "../base/options/option_checks.ts";
import type { OptionKinds } from "../base/options/options.ts";
import { describe } from "../base/error_text.ts";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import { within } from "../base/wait.ts";
import { ConnectionError } from "../errors.ts";
import { Server } from "../server/server.ts";
import { Client } from "../client/client.ts";
import type { ClientOptions, Dialer } from "../client/client_options.ts";
import type { Contract } from "../session/contract.ts";
import { CLIENT_KINDS } from "../client/call_checks.ts";
import type { DialOptions } from "../client/connect.ts";
import { denoPlatform } from "../client/deno.ts";
import { checkConnectTimeout, openSession } from "../client/open.ts";
import { type Session, SKEIN_PROTOCOL } from "../session/session.ts";
import type { Connection } from "../transport/connection.ts";
import {
  checkFaults,
  MEMORY_PAIR,
  type MemoryFaults,
  type MemoryLink,
  type MemoryPair,
  memoryPair,
  type MemoryPairOptions,
} from "../transport/memory/memory.ts";
import type { TransportOptions } from "../transport/race/options.ts";
import { parseQmuxProtocol } from "../transport/qmux/versions.ts";
import type { WebSocketEngine } from "../transport/websocket/server.ts";
import { settlesSoon } from "./turns.ts";
import { sessionSettings } from "../session/settings/session_settings.ts";

/** Origin of a {@linkcode TestServer}, for code that reads the URL. */
const ORIGIN = "http://localhost";

/**
 * Options for {@linkcode testServer}: the options of a server, and of the memory transport.
 *
 * @typeParam V Type of the value that `authenticate` returns.
 * @typeParam C The contract.
 */
export interface TestServerOptions<V = unknown, C extends Contract = Contract>
  extends ServerOptions<V, C> {
  /** Memory transport of Skein clients. Plain clients have only frames, as on a WebSocket. */
  readonly wire?: Omit<MemoryPairOptions, "frames" | "protocol"> | undefined;
}

/** Request of a client to a {@linkcode TestServer}. */
export interface TestRequestOptions {
  /**
   * Path and query.
   *
   * @default {"/"}
   */
  readonly path?: string | undefined;
  /** Request headers, such as `authorization`, `cookie` or `origin`; none by default. */
  readonly headers?: HeadersInit | undefined;
  /** Network address of the client, for limits by address; unknown by default. */
  readonly address?: string | undefined;
}

/** Checks options before `super`, which must be first in a constructor. */
function checked<T>(options: T): T {
  checkOptions("create server", options, { ...SERVER, wire: MEMORY_PAIR });
  return options;
}

const TEST_REQUEST: OptionKinds<TestRequestOptions> = {
  address: "string",
  headers: 0,
  path(value, { verb }) {
    // Otherwise, it would be a part of the host.
    if (typeof value === "string" && /^[/?]/.test(value)) return;
    const received = typeof value === "string" ? `"${value}"` : describe(value);
    throw new TypeError(`Cannot ${verb}: path must start with "/" or "?", received ${received}`);
  },
};

const TEST_DIAL = { ...CLIENT_KINDS.dial, ...TEST_REQUEST };

/**
 * A server over the memory transport. All other parts are the same as in a real server: admission,
 * authentication, limits, topics, rooms and presence.
 *
 * @typeParam V Type of the value that `authenticate` returns.
 * @typeParam C The contract.
 */
export class TestServer<V = unknown, C extends Contract = Contract> extends Server<V, C> {
  /** Network in front of the server, with faults on demand. */
  readonly network: TestNetwork;
  /** Open clients created by `connect`. */
  readonly clients: ReadonlySet<Client<C>>;

  readonly #accepted: WeakMap<Response, MemoryPair>;
  readonly #clients: Set<Client<C>>;
  /** The runtime of clients: the server's, if it has the option. */
  readonly #clientRuntime: Runtime | undefined;

  /**
   * Creates a server; called by {@linkcode testServer}.
   *
   * @param options Options of the server and the transport.
   */
  constructor(options: TestServerOptions<V, C> = {}) {
    const { wire = {}, ...rest } = checked(options);
    const network = new TestNetwork();
    const accepted = new WeakMap<Response, MemoryPair>();
    super(rest, { accept: memoryEngine(network, accepted, wire) });
    this.network = network;
    this.#clientRuntime = options.runtime;
    this.#accepted = accepted;
    this.#clients = new Set();
    this.clients = this.#clients;
  }

  /**
   * Opens one session with this server, as `dial()` does. The server's session is in `manager`, and
   * is passed to `onOpen`. If `protocols` is empty, the client is a plain WebSocket, as in any
   * page. With `qmux-02`, the session has only streams and datagrams.
   *
   * @param options Options of `dial()`, and the client's request.
   * @returns The established session of the client.
   * @throws {SessionClosedError} If the server rejected the session; `info` has the code and the
   * reason.
   * @throws {ConnectionError} If the network is down.
   */
  async dial(
    options: TestRequestOptions & Omit<DialOptions<C>, keyof TransportOptions> = {},
  ): Promise<Session<unknown, C, "client">> {
    checkOptions("dial", options, TEST_DIAL);
    const { path, address, headers, token, protocols = [SKEIN_PROTOCOL], ...rest } = options;
    const { connectTimeoutMs, signal, instrumentation, ...session } = rest;
    const timeoutMs = checkConnectTimeout(connectTimeoutMs);
    const settings = sessionSettings<unknown, C, "client">({
      ...session,
      runtime: session.runtime ?? this.#clientRuntime,
      side: "client",
    });
    return await openSession({
      url: urlOf(path),
      ...denoPlatform(this.#dialer(address)),
      protocols,
      settings,
      token,
      headers,
      timeoutMs,
      signal,
      instrumentation,
    }) as Session<unknown, C, "client">;
  }

  /**
   * Opens a connection with this server without a session, to write raw frames.
   *
   * @param options Request of the client, with `skein.1` as the default subprotocol.
   * @returns The client side; the rejection of a `skein.1` client arrives as a close.
   * @throws {ConnectionError} If the network is down, or a plain client was rejected.
   *
   * @example A page that sends invalid messages
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
    options: TestRequestOptions & { readonly protocols?: readonly string[] | undefined } = {},
  ): Promise<Connection> {
    checkOptions("open", options, { ...TEST_REQUEST, protocols: "array" });
    const { path, address, headers, protocols = [SKEIN_PROTOCOL] } = options;
    return this.#dialer(address)(urlOf(path), {
      protocols,
      signal: new AbortController().signal,
      timeoutMs: Infinity,
      headers,
    });
  }

  /**
   * Connects a client that reconnects automatically, as `connect()` does. If neither the client nor
   * the server has a `runtime`, the delays have no jitter, so that fake time can skip them.
   *
   * @param options Options of `connect()`, and the client's request.
   * @returns The client, which connects in the background.
   *
   * @example Reconnecting and subscribing again
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
  connect(options: TestRequestOptions & ClientOptions<C> = {}): Client<C> {
    checkOptions("connect", options, { ...CLIENT_KINDS.connect, ...TEST_REQUEST });
    const { path, address, ...rest } = options;
    const client = new Client<C>(urlOf(path), denoPlatform(this.#dialer(address)), {
      ...rest,
      runtime: rest.runtime ?? this.#clientRuntime ??
        Object.assign(platformRuntime(), { random: () => 1 }),
    });
    this.#clients.add(client);
    void client.closed.then(() => this.#clients.delete(client));
    return client;
  }

  /** Closes the server, and cuts connections whose close would wait; called by `await using`. */
  override async [Symbol.asyncDispose](): Promise<void> {
    const closing = this.close();
    if (!await settlesSoon(closing)) this.network.disconnect();
    await closing;
  }

  #dialer(
    address: string | undefined,
  ): (url: string | URL, options: Omit<Parameters<Dialer>[1], "runtime">) => Promise<Connection> {
    const info = address === undefined
      ? {}
      : { remoteAddr: { transport: "tcp", hostname: address, port: 0 } as const };
    return async (url, { protocols, headers, signal, onWorn }) => {
      this.network.checkUp();
      const request = new Request(url, { headers: upgradeHeaders(headers, protocols), signal });
      // `authenticate` may take longer than the client waits, or never return.
      const responding = Promise.resolve(this.fetch(request, info));
      const response = await within(platformRuntime(), responding, {
        signal,
        discard: (late) => this.#accepted.get(late)?.client.close(),
      });
      this.network.checkUp(); // No response arrives over a network that has gone down.
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
 * Creates a real server for tests, without sockets.
 *
 * - **Complete:** requests pass the checks of path, origin and limits, then `authenticate`;
 *   `topics`, `presence`, `rooms` and `manager` work as usual.
 * - **Time:** all timers belong to sessions, so that fake time drives the server. By default,
 *   clients use the server's `runtime`.
 * - **Disposal** cleans up completely. To find leaks, call {@linkcode assertNoLeaks} before it.
 *
 * @typeParam V Type of the value that `authenticate` returns.
 * @typeParam C The contract.
 * @param options Options of the server and the transport.
 * @returns The server, whose methods `dial()` and `connect()` create clients.
 *
 * @example Authentication
 * ```ts
 * import { SessionClosedError } from "@skein/skein";
 * import { testServer } from "@skein/skein/testing";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * await using server = testServer({
 *   authenticate: ({ token }) => token === "s3cret" ? "ann" : null,
 *   onMessage: (message, { user }) => message.reply(user),
 * });
 * await using session = await server.dial({ headers: { authorization: "Bearer s3cret" } });
 * assertEquals(await session.request("whoami"), "ann");
 * const rejected = await assertRejects(() => server.dial(), SessionClosedError);
 * assertEquals(rejected.info?.code, 4401);
 * ```
 */
export function testServer<V = unknown, C extends Contract = Contract>(
  options: TestServerOptions<V, C> = {},
): TestServer<V, C> {
  return new TestServer(options);
}

/**
 * Network of a {@linkcode TestServer}. Each method applies to all open connections; `setFaults` and
 * `down` also apply to later ones.
 *
 * @example A server that is unreachable for a while
 * ```ts
 * import { passTime, testServer, turns } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 * import { FakeTime } from "@std/testing/time";
 *
 * using time = new FakeTime();
 * const received: unknown[] = [];
 * await using server = testServer({ onMessage: ({ data }) => void received.push(data) });
 * await using client = server.connect();
 * await client.whenConnected();
 *
 * server.network.down();
 * await turns();
 * client.send("said", "meanwhile"); // Goes to the outbox.
 * server.network.up();
 * await passTime(time, 1_000); // The client reconnects automatically.
 * assertEquals(received, ["meanwhile"]);
 * ```
 */
export class TestNetwork implements MemoryLink {
  // Each connection is removed when it closes.
  readonly #pairs = new Set<MemoryPair>();
  readonly #links = new WeakMap<Connection, MemoryLink>();
  readonly #faults: { faults: MemoryFaults; direction: "to-server" | "to-client" | undefined }[] =
    [];
  #isDown = false;

  /** Number of open connections. */
  get size(): number {
    return this.#pairs.size;
  }

  /** True while the server is unreachable. */
  get isDown(): boolean {
    return this.#isDown;
  }

  /** Open connections, with both sides of each. */
  get pairs(): readonly MemoryPair[] {
    return [...this.#pairs];
  }

  /**
   * Finds the link of one connection, to break only that connection.
   *
   * @param end A session of either side, or a connected client.
   * @returns The link of the connection.
   * @throws {TypeError} If `end` was never connected over this network.
   *
   * @example Breaking one of two connections
   * ```ts
   * import { testServer } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = testServer();
   * await using ann = await server.dial();
   * await using bob = await server.dial();
   * server.network.linkOf(ann).disconnect();
   * assertEquals((await ann.closed).by, "network");
   * assertEquals([bob.isReady, server.manager.count], [true, 1]);
   * ```
   */
  linkOf(
    end: { readonly connection: Connection } | {
      readonly session: { readonly connection: Connection } | undefined;
    },
  ): MemoryLink {
    const connection = "connection" in end ? end.connection : end.session?.connection;
    const link = connection && this.#links.get(connection);
    if (link !== undefined) return link;
    throw new TypeError("Cannot find link: the session is not of this server");
  }

  /** Creates a connection for {@linkcode TestServer.dial}. */
  connect(options: MemoryPairOptions): MemoryPair {
    const pair = memoryPair(options);
    for (const { faults, direction } of this.#faults) pair.link.setFaults(faults, direction);
    this.#pairs.add(pair);
    for (const end of [pair.client, pair.server]) this.#links.set(end, pair.link);
    const ended = Promise.allSettled([pair.client.closed, pair.server.closed]);
    void ended.then(() => this.#pairs.delete(pair));
    // The network has gone down since the request.
    if (this.#isDown) pair.link.disconnect();
    return pair;
  }

  /** Throws while the server is unreachable. */
  checkUp(): void {
    if (this.#isDown) throw new ConnectionError("Cannot connect: the network is down");
  }

  /**
   * Cuts every connection, and prevents clients from connecting until {@linkcode TestNetwork.up}.
   *
   * @param options `silent: true` does not notify either side.
   */
  down(options: { readonly silent?: boolean | undefined } = {}): void {
    checkOptions("cut network", options, { silent: "boolean" });
    this.#isDown = true;
    this.disconnect(options);
  }

  /** Lets clients connect again. */
  up(): void {
    this.#isDown = false;
  }

  /** Sets faults, as {@linkcode MemoryLink} does, also for later connections. */
  setFaults(faults: MemoryFaults, direction?: "to-server" | "to-client"): void {
    checkFaults(faults, direction);
    for (const { link } of this.#pairs) link.setFaults(faults, direction);
    this.#faults.push({ faults, direction });
  }

  /** Stalls every link; see {@linkcode MemoryLink.stall}. */
  stall(direction?: "to-server" | "to-client"): void {
    for (const { link } of this.#pairs) link.stall(direction);
  }

  /** Resumes every link; see {@linkcode MemoryLink.resume}. */
  resume(direction?: "to-server" | "to-client"): void {
    for (const { link } of this.#pairs) link.resume(direction);
  }

  /** Breaks every connection; clients may reconnect. See {@linkcode MemoryLink.disconnect}. */
  disconnect(options: { readonly silent?: boolean | undefined } = {}): void {
    checkOptions("disconnect", options, { silent: "boolean" });
    for (const { link } of [...this.#pairs]) link.disconnect(options);
  }

  /** Drains every link; see {@linkcode MemoryLink.drain}. */
  drain(direction?: "to-server" | "to-client"): void {
    for (const { link } of this.#pairs) link.drain(direction);
  }
}

/**
 * Creates an engine that upgrades a request to one side of a memory pair. The response leads to the
 * other side.
 */
function memoryEngine(
  network: TestNetwork,
  accepted: WeakMap<Response, MemoryPair>,
  wire: Omit<MemoryPairOptions, "frames" | "protocol">,
): WebSocketEngine {
  return (_request, { runtime, protocol = "", lease } = {}) => {
    const pair = network.connect({
      ...wire,
      ...wireOf(protocol),
      runtime: wire.runtime ?? runtime,
    });
    const response = new Response();
    accepted.set(response, pair);
    if (lease !== undefined) {
      const over = () => lease[Symbol.dispose]();
      pair.server.closed.then(over, over);
    }
    return { connection: pair.server, response };
  };
}

/** Transport options for a subprotocol: messages, streams and datagrams, or only some of them. */
function wireOf(protocol: string): MemoryPairOptions {
  if (protocol === "") return { protocol, streams: false, datagrams: false };
  const { protocol: inner } = parseQmuxProtocol(protocol) ?? { protocol };
  return { protocol: inner, frames: inner === SKEIN_PROTOCOL };
}

function urlOf(path = "/"): string {
  return ORIGIN + path;
}

function upgradeHeaders(given: HeadersInit | undefined, protocols: readonly string[]): Headers {
  const headers = new Headers(given);
  headers.set("upgrade", "websocket");
  headers.set("connection", "Upgrade");
  headers.set("sec-websocket-version", "13");
  headers.set("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
  if (protocols.length > 0) headers.set("sec-websocket-protocol", protocols.join(", "));
  if (!headers.has("host")) headers.set("host", new URL(ORIGIN).host);
  return headers;
}
