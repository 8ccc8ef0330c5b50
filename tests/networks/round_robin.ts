/**
 * A reverse proxy for HTTP that is as hostile as corporate proxies. It forwards each request to the
 * next node, does not support upgrades, buffers responses, and closes idle responses.
 *
 * @module
 */
import {
  Agent,
  type ClientRequest,
  createServer,
  type IncomingMessage,
  request,
  type Server,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import { concat } from "../../base/bytes.ts";

/** Hop-by-hop headers, which a proxy does not forward. */
const HOP_BY_HOP = ["connection", "upgrade", "keep-alive", "transfer-encoding", "te", "trailer"];

/** Bytes of a response that are held back until it ends, or until more bytes arrive. */
export type Holding =
  /** None; each piece is forwarded immediately. */
  | "nothing"
  /** The first 4 KiB; all further bytes are forwarded immediately. */
  | "start"
  /** All bytes until a block of 4 KiB is full. */
  | "blocks"
  /** All bytes of event streams until they end. */
  | "streams";

/** Options for {@linkcode RoundRobin}. */
export interface RoundRobinOptions {
  /**
   * Bytes that the proxy holds back.
   *
   * @default {"start"}
   */
  readonly holds?: Holding;
  /**
   * Time after which the proxy aborts a response if the node sends no bytes, in milliseconds.
   *
   * @default {60000}
   */
  readonly idleMs?: number;
}

/** A forwarded request. */
export interface Passed {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  readonly headers: Headers;
  /** Index of the node. */
  readonly node: number;
  /** Status of the response; 0 until it arrives. */
  status: number;
}

/** Bytes that a proxy holds back. */
const HELD_BYTES = 4_096;

/** Maximum number of recorded requests. */
const MAX_PASSED = 100_000;

/**
 * Forwards HTTP to nodes on this machine in turn. It skips a node that rejects connections. If a
 * node dies during a request, the proxy responds with 502, or cuts off a response that has begun.
 *
 * @example Two nodes
 * ```ts ignore
 * await using proxy = await RoundRobin.start([portOf(one), portOf(two)], { holds: "blocks" });
 * const client = connect(proxy.url, { transports: ["websocket", "http"] });
 * ```
 */
export class RoundRobin implements AsyncDisposable {
  /** The newest forwarded requests, in order. */
  readonly passed: Passed[] = [];
  /** Returns a status if the proxy itself, and not a node, should respond to a request. */
  onRequest: (request: Passed) => number | undefined = () => undefined;
  /** Returns `true` for a node's response that is lost on its way to the client. */
  losesResponse: (request: Passed) => boolean = () => false;
  readonly #ports: number[];
  readonly #holds: Holding;
  readonly #idleMs: number;
  readonly #agent = new Agent({ keepAlive: true });
  readonly #server: Server;
  readonly #running = new Set<Promise<void>>();
  readonly #responses = new Set<ServerResponse>();
  /** The next node for each method, so that the requests of each method reach all nodes. */
  readonly #turns = new Map<string, number>();

  /** Starts listening. */
  private constructor(server: Server, ports: readonly number[], options: RoundRobinOptions) {
    const { holds = "start", idleMs = 60_000 } = options;
    this.#ports = [...ports];
    this.#holds = holds;
    this.#idleMs = idleMs;
    this.#server = server;
    server.on("request", (request: IncomingMessage, response: ServerResponse) => {
      const passing = this.#pass(request, response).catch(() => void response.destroy()).finally(
        () => {
          this.#running.delete(passing);
          this.#responses.delete(response);
        },
      );
      this.#running.add(passing);
      this.#responses.add(response);
    });
  }

  /**
   * Starts a proxy on a free port.
   *
   * @param ports Ports of the nodes.
   * @param options See {@linkcode RoundRobinOptions}.
   * @returns The proxy, which is already listening.
   */
  static async start(
    ports: readonly number[],
    options: RoundRobinOptions = {},
  ): Promise<RoundRobin> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return new RoundRobin(server, ports, options);
  }

  /** The port of the proxy. */
  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** The URL that clients dial. */
  get url(): string {
    return `http://127.0.0.1:${this.port}/`;
  }

  /**
   * Sets the port of a node, or adds a node.
   *
   * @param node Index of the node.
   */
  use(node: number, port: number): void {
    this.#ports[node] = port;
  }

  /** Cuts off all responses in progress. */
  cut(): void {
    for (const response of this.#responses) response.destroy();
  }

  /** Cuts off all requests, and stops listening. */
  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    this.cut();
    await Promise.all(this.#running);
    await closed;
    this.#agent.destroy();
  }

  async #pass(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const pieces: Uint8Array[] = [];
    for await (const piece of request) pieces.push(piece);
    const body = concat(pieces);
    for (let i = 0; i < this.#ports.length; i++) {
      const passed = this.#note(request);
      const status = this.onRequest(passed);
      if (status !== undefined) return void response.writeHead(status).end();
      try {
        return await this.#carry(passed, body, response);
      } catch (error) {
        if (response.headersSent || response.destroyed) throw error;
        // The request was not sent, so the next node may receive it.
        if ((error as { code?: string }).code !== "ECONNREFUSED") break;
      }
    }
    response.writeHead(502).end();
  }

  #note(request: IncomingMessage): Passed {
    const headers = new Headers();
    for (const [name, value] of Object.entries(request.headers)) headers.set(name, `${value}`);
    for (const name of HOP_BY_HOP) headers.delete(name);
    headers.set("accept-encoding", "identity");
    const { method = "GET", url: path = "/" } = request;
    const turn = this.#turns.get(method) ?? this.#turns.size;
    this.#turns.set(method, turn + 1);
    const node = turn % this.#ports.length;
    const passed: Passed = { method, path, headers, node, status: 0 };
    this.passed.push(passed);
    if (this.passed.length > MAX_PASSED) this.passed.shift();
    return passed;
  }

  /** Sends a request to a node, and sends the response to the client. */
  async #carry(passed: Passed, body: Uint8Array, response: ServerResponse): Promise<void> {
    const asking = this.#ask(passed, body);
    using idle = new Idle(this.#idleMs, () => asking.destroy());
    const end = () => asking.destroy();
    response.once("close", end);
    const got = await new Promise<IncomingMessage>((resolve, reject) => {
      asking.once("response", resolve).once("error", reject).once("close", reject);
    });
    asking.on("error", () => {}); // The response reports the same error.
    passed.status = got.statusCode!;
    if (this.losesResponse(passed)) {
      asking.destroy();
      return void response.destroy();
    }
    const { headers } = got;
    for (const name of HOP_BY_HOP) delete headers[name];
    const isStream = /^text\/event-stream/.test(headers["content-type"] ?? "");
    const held = new HeldBytes(this.#heldBytes(isStream), this.#holds === "blocks");
    const begin = () => {
      if (!response.headersSent) response.writeHead(passed.status, headers).flushHeaders();
    };
    const write = (pieces: readonly Uint8Array[]) => {
      if (pieces.length > 0) begin();
      for (const piece of pieces) response.write(piece);
    };
    if (held.limit === 0) begin();
    for await (const piece of got) {
      idle.restart();
      write(held.add(piece));
    }
    // The node died in the middle of its response.
    if (!got.complete) throw new Error("The response was cut off");
    response.off("close", end);
    begin();
    write(held.end());
    response.end();
  }

  #ask({ method, path, headers, node }: Passed, body: Uint8Array): ClientRequest {
    const asking = request({
      agent: this.#agent,
      host: "127.0.0.1",
      port: this.#ports[node]!,
      method,
      path,
      headers: Object.fromEntries(headers),
    });
    asking.end(body);
    return asking;
  }

  #heldBytes(isStream: boolean): number {
    if (this.#holds === "nothing") return 0;
    if (this.#holds !== "streams") return HELD_BYTES;
    return isStream ? Infinity : 0;
  }
}

/** A timer that restarts with each piece of a response. */
class Idle implements Disposable {
  readonly #ms: number;
  readonly #onIdle: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(ms: number, onIdle: () => void) {
    this.#ms = ms;
    this.#onIdle = onIdle;
    this.restart();
  }

  restart(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#onIdle, this.#ms);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** Pieces of a response that are held back until there are enough bytes. */
class HeldBytes {
  /** Number of bytes that are held back. */
  readonly limit: number;
  readonly #isRepeated: boolean;
  #pieces: Uint8Array[] = [];
  #length = 0;
  #isOpen: boolean;

  constructor(limit: number, isRepeated: boolean) {
    this.limit = limit;
    this.#isRepeated = isRepeated;
    this.#isOpen = limit === 0;
  }

  /** Adds a piece, and returns the pieces to forward. */
  add(piece: Uint8Array): Uint8Array[] {
    this.#pieces.push(piece);
    this.#length += piece.length;
    if (!this.#isOpen && this.#length < this.limit) return [];
    this.#isOpen = !this.#isRepeated || this.limit === 0;
    return this.end();
  }

  /** Returns the pieces that are held back. */
  end(): Uint8Array[] {
    const pieces = this.#pieces;
    this.#pieces = [];
    this.#length = 0;
    return pieces;
  }
}
