/** HTTP between the hosts of a simulation: servers, `fetch`, and upgrades to WebSockets. */
import type {
  AcceptWebSocketOptions,
  HttpHandler,
  HttpListener,
  HttpListenOptions,
  UpgradeHandler,
  UpgradeHost,
  WebSocketEngine,
} from "../../../transport/websocket/server.ts";
import { checkOffered, isWebSocketUpgrade } from "../../../transport/websocket/server.ts";
import type { Host } from "../host.ts";
import { Body } from "./body.ts";
import type { Link } from "./link.ts";
import type { Links } from "./links.ts";
import { acceptedSocket, SimulatedWebSocket, type SocketPair } from "./websocket.ts";

/** Approximate bytes of the head of a request or response. */
const HEAD_BYTES = 400;

/** Silence after which a broker pings its peer, in milliseconds; the runtime's default. */
const IDLE_TIMEOUT_MS = 60_000;

/** Statuses without a body. */
const EMPTY: readonly number[] = [101, 204, 205, 304];

/** A program that handles requests. */
interface Program {
  readonly handler: HttpHandler;
  readonly onUpgrade: UpgradeHandler | undefined;
  readonly links: Set<Link>;
}

/** An upgrade request on the server, until its response. */
interface Upgrade {
  readonly link: Link;
  readonly pair: SocketPair;
  isAccepted: boolean;
  idleTimeoutMs: number;
}

type Head = Pick<Response, "status" | "statusText" | "headers">;

/** HTTP and WebSocket of a network. */
export interface HttpNetwork {
  /** Creates the listener of a server on a host. */
  host(host: Host): UpgradeHost;
  /** Creates the `fetch` of programs on a host. */
  fetch(client: Host): typeof fetch;
  /** Creates the WebSocket constructor of programs on a host. */
  sockets(
    client: Host,
  ): (url: URL, protocols?: readonly string[], headers?: HeadersInit) => SimulatedWebSocket;
}

/** HTTP servers and clients of a network. */
export class SimulatedHttp implements HttpNetwork {
  readonly #links: Links;
  readonly #programs = new Map<string, Program>();
  readonly #upgrades = new WeakMap<Request, Upgrade>();

  /** Creates HTTP without servers. */
  constructor(links: Links) {
    this.#links = links;
  }

  /**
   * Creates the listener of a server on a host: the option `webSocket` of `serve()`.
   *
   * @returns A WebSocket host, whose ports close when the host's life ends.
   */
  host(host: Host): UpgradeHost {
    return {
      accept: this.accept,
      listen: (options, handler, onUpgrade) => this.#listen(host, options, handler, onUpgrade),
    };
  }

  /** Accepts an upgrade request that came over the network. */
  readonly accept: WebSocketEngine = (request, options = {}) => {
    const upgrade = this.#upgrades.get(request);
    if (upgrade === undefined) {
      throw new TypeError("Cannot accept: the request must be one of the simulated network");
    }
    return accept(upgrade, request, options);
  };

  /**
   * Creates the `fetch` of programs on a host.
   *
   * @returns A function that reaches the hosts of the simulation by name.
   */
  fetch(client: Host): typeof fetch {
    return async (input, init) => {
      const request = new Request(input, init);
      const signal = init?.signal ?? (input instanceof Request ? input.signal : undefined);
      const body = await bytesOf(request, init);
      signal?.throwIfAborted();
      const link = await this.#dial(client, new URL(request.url), "http", signal ?? undefined)
        .catch((cause) => {
          signal?.throwIfAborted();
          throw failed(request.url, cause);
        });
      return await this.#exchange(link, request, { body, signal: signal ?? undefined });
    };
  }

  /**
   * Creates the WebSocket constructor of programs on a host.
   *
   * @returns Opens a socket, as the constructor of `WebSocket` does.
   */
  sockets(
    client: Host,
  ): (url: URL, protocols?: readonly string[], headers?: HeadersInit) => SimulatedWebSocket {
    return (url, protocols = [], headers) => {
      const socket = new SimulatedWebSocket(client.runtime, url.href);
      void this.#upgrade(client, socket, { protocols, headers });
      return socket;
    };
  }

  #listen(
    host: Host,
    { port }: HttpListenOptions,
    handler: HttpHandler,
    onUpgrade: UpgradeHandler | undefined,
  ): HttpListener {
    const address = `${host.name}:${port}`;
    if (this.#programs.has(address)) {
      throw new Deno.errors.AddrInUse(`Cannot listen: the port must be free, received ${address}`);
    }
    const program: Program = { handler, onUpgrade, links: new Set() };
    this.#programs.set(address, program);
    const stop = this.#links.whileAlive(host, () => {
      if (this.#programs.get(address) === program) this.#programs.delete(address);
    });
    const hostname = this.#links.hostAddress(host);
    return {
      addr: { transport: "tcp", hostname, port },
      shutdown: async () => {
        stop();
        for (const link of program.links) if (link.kind === "websocket") link.disconnect();
        await Promise.all(Array.from(program.links, ({ over }) => over));
      },
    };
  }

  #dial(
    client: Host,
    url: URL,
    kind: "http" | "websocket",
    signal: AbortSignal | undefined,
  ): Promise<Link> {
    return this.#links.dial({
      kind,
      client,
      server: this.#links.find(url.hostname),
      signal,
      isSecure: isSecure(url),
      isListening: (server) => this.#programs.has(`${server.name}:${portOf(url)}`),
    });
  }

  /** Sends a request, and waits for the head of the response. */
  async #exchange(
    link: Link,
    request: Request,
    { body, signal }: {
      readonly body: ReadableStream<Uint8Array> | null;
      readonly signal: AbortSignal | undefined;
    },
  ): Promise<Response> {
    const leave = () => {
      up.stop();
      link.abandon();
    };
    const onAbort = () => {
      down.fail(signal!.reason);
      leave();
    };
    const down = new Body({ link, from: "server", onCancel: leave });
    const up = new Body({ link, from: "client", onCancel: () => {} });
    signal?.addEventListener("abort", onAbort);
    void link.over.then(() => signal?.removeEventListener("abort", onAbort));
    try {
      const head = await link.answer<Head>(signal, ({ resolve }) => {
        link.toServer.send(
          () => this.#serve(link, request, { up, down, answer: resolve }),
          0,
          HEAD_BYTES,
        );
        up.send(body).catch(() => link.abandon());
      });
      const broken = () => {
        link.leave("client");
        up.stop();
        down.fail(new TypeError("error reading a body from connection"));
      };
      link.attach({ client: { reset: broken, finish: broken } });
      const hasBody = !EMPTY.includes(head.status) && request.method !== "HEAD";
      const response = new Response(hasBody ? down.readable : null, head);
      Object.defineProperty(response, "url", { value: request.url });
      return response;
    } catch (error) {
      leave();
      signal?.throwIfAborted();
      throw failed(request.url, error);
    }
  }

  /** Handles a request on the server's host. */
  async #serve(
    link: Link,
    { url, method, headers }: Request,
    { up, down, answer }: {
      readonly up: Body;
      readonly down: Body;
      readonly answer: (head: Head) => void;
    },
  ): Promise<void> {
    const program = this.#programOf(link, url);
    if (program === undefined) return link.disconnect();
    const fault = this.#fault(link);
    const gone = new AbortController();
    const head = new Headers(headers);
    head.set("host", new URL(url).host);
    const request = new Request(url, {
      method,
      headers: head,
      body: method === "GET" || method === "HEAD" ? null : up.readable,
      signal: gone.signal,
    });
    const left = () => {
      link.leave("server");
      up.fail(new TypeError("error reading a body from connection"));
      down.stop();
      gone.abort();
    };
    link.attach({ server: { reset: left, finish: left } });
    const response = fault ?? await this.#answer(link, program, request);
    const { status, statusText } = response;
    link.toClient.send(
      () => answer({ status, statusText, headers: response.headers }),
      0,
      HEAD_BYTES,
    );
    const isSent = await down.send(response.body).catch(() => {
      link.abandon("server");
      return false;
    });
    if (!isSent) return;
    link.toClient.send(() => link.leave("client"));
    link.leave("server");
    gone.abort();
  }

  async #answer(link: Link, { handler }: Program, request: Request): Promise<Response> {
    try {
      return await handler(request, { remoteAddr: this.#links.addressOf(link) });
    } catch {
      // The same response as the runtime's server.
      return new Response("Internal Server Error", { status: 500 });
    }
  }

  /** Opens a WebSocket on the client's host. */
  async #upgrade(
    client: Host,
    socket: SimulatedWebSocket,
    { protocols, headers }: {
      readonly protocols: readonly string[];
      readonly headers: HeadersInit | undefined;
    },
  ): Promise<void> {
    const url = new URL(socket.url);
    const head = new Headers(headers);
    head.set("upgrade", "websocket");
    head.set("connection", "Upgrade");
    head.set("sec-websocket-version", "13");
    head.set("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
    if (protocols.length > 0) head.set("sec-websocket-protocol", protocols.join(", "));
    url.protocol = url.protocol.replace("ws", "http");
    const { signal } = socket.opening;
    let link: Link | undefined;
    try {
      link = await this.#dial(client, url, "websocket", signal);
      const request = new Request(url, { headers: head });
      const answered = await link.answer<number>(signal, ({ resolve }) => {
        const sent = link!;
        sent.toServer.send(
          () => void this.#serveUpgrade(sent, request, { socket, answer: resolve }),
          0,
          HEAD_BYTES,
        );
      });
      if (answered !== 101) throw new Error(`the server answered ${answered}`);
      socket.open();
    } catch (error) {
      link?.abandon();
      socket.failToOpen(error);
    }
  }

  /** Handles an upgrade request on the server's host. */
  async #serveUpgrade(
    link: Link,
    { url, headers: sent }: Request,
    { socket, answer }: {
      readonly socket: SimulatedWebSocket;
      readonly answer: (status: number) => void;
    },
  ): Promise<void> {
    const program = this.#programOf(link, url);
    if (program === undefined) return link.disconnect();
    const headers = new Headers(sent);
    headers.set("host", new URL(url).host);
    if (this.#links.direction(link.client, link.server).conditions.stripUpgrades) {
      headers.delete("upgrade");
      headers.delete("connection");
    }
    const gone = new AbortController();
    link.attach({ server: { reset: () => gone.abort(), finish: () => gone.abort() } });
    const request = new Request(url, { headers, signal: gone.signal });
    const upgrade: Upgrade = {
      link,
      pair: { link, client: socket },
      isAccepted: false,
      idleTimeoutMs: 0,
    };
    const response = this.#fault(link) ?? await this.#respondToUpgrade(program, request, upgrade);
    void response.body?.cancel();
    const { isAccepted, pair: { server } } = upgrade;
    const status = isAccepted ? 101 : response.status;
    link.toClient.send(() => answer(status), 0, HEAD_BYTES);
    // A socket whose peer disappeared before the response emits no event, as in Deno.
    if (isAccepted && !gone.signal.aborted) server?.open(upgrade.idleTimeoutMs);
  }

  async #respondToUpgrade(
    { handler, onUpgrade }: Program,
    request: Request,
    upgrade: Upgrade,
  ): Promise<Response> {
    const info = { remoteAddr: this.#links.addressOf(upgrade.link) };
    const { method, url, headers } = request;
    this.#upgrades.set(request, upgrade);
    try {
      const offered = {
        method,
        url,
        headers,
        request,
        accept: (options: AcceptWebSocketOptions) => accept(upgrade, request, options),
      };
      const isUpgrade = isWebSocketUpgrade(request);
      const answer = isUpgrade ? onUpgrade?.(offered, info) : undefined;
      return await (answer ?? handler(request, info));
    } catch {
      return new Response("Internal Server Error", { status: 500 });
    }
  }

  /** Finds the program of a request, and assigns the connection to it. */
  #programOf(link: Link, url: string): Program | undefined {
    const program = this.#programs.get(`${link.server.name}:${portOf(new URL(url))}`);
    program?.links.add(link);
    void link.over.then(() => program?.links.delete(link));
    return program;
  }

  /** Response of a proxy instead of the server's. */
  #fault({ client, server }: Link): Response | undefined {
    const fault = this.#links.direction(client, server).conditions.handshake;
    return typeof fault === "number"
      ? new Response("A proxy answers", { status: fault })
      : undefined;
  }
}

function accept(
  upgrade: Upgrade,
  request: Request,
  options: AcceptWebSocketOptions,
): ReturnType<WebSocketEngine> {
  checkOffered(request, options.protocol ?? "");
  if (upgrade.isAccepted) throw new TypeError("Cannot accept: the request must be new");
  upgrade.isAccepted = true;
  upgrade.idleTimeoutMs = options.idleTimeoutMs ?? IDLE_TIMEOUT_MS;
  return { connection: acceptedSocket(upgrade.pair, options), response: new Response() };
}

/** Reads a body that is not a stream immediately, so that it has a length. */
async function bytesOf(
  request: Request,
  init: RequestInit | undefined,
): Promise<ReadableStream<Uint8Array> | null> {
  if (request.body === null || init?.body instanceof ReadableStream) return request.body;
  const bytes = new Uint8Array(await request.arrayBuffer());
  request.headers.set("content-length", `${bytes.byteLength}`);
  return new Response(bytes).body;
}

function isSecure({ protocol }: URL): boolean {
  return protocol === "https:" || protocol === "wss:";
}

function portOf(url: URL): string {
  return url.port || (isSecure(url) ? "443" : "80");
}

function failed(url: string, cause: unknown): TypeError {
  return new TypeError(`error sending request for url (${url})`, { cause });
}
