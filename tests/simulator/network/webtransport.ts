/** WebTransport between the hosts of a simulation, below the library's own message code. */
import { ConnectionError } from "../../../errors.ts";
import type { Runtime, Timer } from "../../../base/runtime.ts";
import { within } from "../../../base/wait.ts";
import type { WebTransportSource } from "../../../server/listener/webtransport_options.ts";
import type { Connection } from "../../../transport/connection.ts";
import type {
  AcceptOptions,
  RejectOptions,
  WebTransportRequest,
} from "../../../transport/h3/request.ts";
import { Http3RequestQueue } from "../../../transport/h3/request_queue.ts";
import type { ListenWebTransportOptions } from "../../../transport/h3/server.ts";
import { MemoryConnection } from "../../../transport/memory/connection.ts";
import type { WebTransportDialer } from "../../../transport/race/webtransport_leg.ts";
import { DIAL_TIMEOUT_MS } from "../../../transport/webtransport.ts";
import type { Host } from "../host.ts";
import type { Link } from "./link.ts";
import type { Links } from "./links.ts";

/** Keep-alive interval of one side, in milliseconds, as in the runtime's QUIC. */
const KEEP_ALIVE_MS = 5_000;

/** Idle timeouts of client and server, in milliseconds. */
const IDLE_MS = { client: 30_000, server: 15_000 };

/** Bytes of a request head. */
const HEAD_BYTES = 400;

/** A server on a host. */
interface Listener {
  readonly requests: Http3RequestQueue;
  readonly idleTimeoutMs: number;
  readonly links: Set<Link>;
}

/** The response of a server. */
type Answer = { readonly ends: Ends } | { readonly status: number };

/** Both sides of a session. */
type Ends = Readonly<Record<"client" | "server", MemoryConnection>>;

/** WebTransport servers and clients of a network. */
export class SimulatedQuic {
  readonly #links: Links;
  readonly #listeners = new Map<string, Listener>();

  /** Creates QUIC without servers. */
  constructor(links: Links) {
    this.#links = links;
  }

  /**
   * Creates the WebTransport engine of a server on a host: the option `engine` of `webTransport`.
   *
   * @returns The engine, whose port closes when the host's life ends.
   */
  engine(host: Host): (options: ListenWebTransportOptions) => WebTransportSource {
    return ({ port = 443, idleTimeoutMs = IDLE_MS.server }) => {
      const address = `${host.name}:${port}`;
      if (this.#listeners.has(address)) {
        throw new Deno.errors.AddrInUse(
          `Cannot listen: the port must be free, received ${address}`,
        );
      }
      const requests = new Http3RequestQueue();
      const listener: Listener = { requests, idleTimeoutMs, links: new Set() };
      this.#listeners.set(address, listener);
      const stop = this.#links.whileAlive(host, () => {
        if (this.#listeners.get(address) === listener) this.#listeners.delete(address);
      });
      return {
        address: { transport: "udp", hostname: this.#links.hostAddress(host), port },
        // All clients of the simulation trust all servers.
        rotate() {},
        stop: () => requests.stop(),
        close: () => {
          requests.stop();
          stop();
          for (const link of [...listener.links]) link.close("server");
          return Promise.resolve();
        },
        [Symbol.asyncIterator]: () => requests[Symbol.asyncIterator](),
      };
    };
  }

  /** Creates the WebTransport dialer of programs on a host, without messages. */
  dialer(client: Host): WebTransportDialer {
    return async (url, options) => {
      const { signal, timeoutMs = DIAL_TIMEOUT_MS, runtime = client.runtime } = options;
      signal?.throwIfAborted();
      const stop = new AbortController();
      const late = `Cannot dial ${url} within`;
      try {
        return await within(runtime, this.#open(client, url, { ...options, signal: stop.signal }), {
          late,
          signal,
          timeoutMs,
        });
      } catch (error) {
        stop.abort();
        throw error;
      }
    };
  }

  async #open(
    client: Host,
    url: URL,
    { signal, idleTimeoutMs = IDLE_MS.client, ...offer }:
      & Parameters<WebTransportDialer>[1]
      & { readonly signal: AbortSignal },
  ): Promise<Connection> {
    const port = url.port || "443";
    const link = await this.#links.dial({
      kind: "webtransport",
      client,
      server: this.#links.find(url.hostname),
      signal,
      isListening: (server) => this.#listeners.has(`${server.name}:${port}`),
    });
    try {
      const answer = await link.answer<Answer>(signal, ({ resolve }) => {
        const ask = { url: url.href, ...offer, idleTimeoutMs, signal, answer: resolve };
        link.toServer.send(() => this.#serve(link, ask), 0, HEAD_BYTES);
      });
      if ("ends" in answer) {
        const { client } = answer.ends;
        attach(link, "client", client);
        return client;
      }
      const { status } = answer;
      throw new ConnectionError(`The server rejected the session with status ${status}`, {
        status,
      });
    } catch (error) {
      link.abandon();
      throw error;
    }
  }

  /** Passes a request to the listener, on the server's host. */
  #serve(
    link: Link,
    { url, protocols = [], headers, idleTimeoutMs, signal, answer }:
      & Pick<Parameters<WebTransportDialer>[1], "protocols" | "headers">
      & {
        readonly url: string;
        readonly idleTimeoutMs: number;
        /** Aborted if the client cancels the attempt. */
        readonly signal: AbortSignal;
        readonly answer: (answer: Answer) => void;
      },
  ): void {
    const port = new URL(url).port || "443";
    const listener = this.#listeners.get(`${link.server.name}:${port}`);
    const { handshake } = this.#links.direction(link.client, link.server).conditions;
    const reply = (given: Answer) => link.toClient.send(() => answer(given), 0, HEAD_BYTES);
    if (listener === undefined) return link.disconnect({ silent: true });
    if (typeof handshake === "number") return reply({ status: handshake });
    listener.links.add(link);
    void link.over.then(() => listener.links.delete(link));
    const remoteAddress = { ...this.#links.addressOf(link), transport: "udp" as const };
    listener.requests.push(
      new SessionRequest(
        link,
        { url, protocols, headers: new Headers(headers), remoteAddress },
        (given) => {
          if ("ends" in given) {
            const { client } = given.ends;
            // A client that cancelled passes its side to no program, so the connection breaks.
            if (signal.aborted) client.break();
            else signal.addEventListener("abort", () => client.break(), { once: true });
            keepAlive(link, given.ends, Math.min(idleTimeoutMs, listener.idleTimeoutMs));
          }
          reply(given);
        },
      ),
    );
  }
}

/** A request for a session, on the server. */
class SessionRequest implements WebTransportRequest {
  readonly url: string;
  readonly headers: Headers;
  readonly protocols: readonly string[];
  readonly remoteAddress: Deno.NetAddr;
  readonly #link: Link;
  readonly #answer: (answer: Answer) => void;
  readonly #left = new AbortController();
  #hasReplied = false;

  constructor(
    link: Link,
    { url, headers, protocols, remoteAddress }: Pick<
      WebTransportRequest,
      "url" | "headers" | "protocols" | "remoteAddress"
    >,
    answer: (answer: Answer) => void,
  ) {
    this.url = url;
    this.headers = headers;
    this.protocols = protocols;
    this.remoteAddress = remoteAddress;
    this.#link = link;
    this.#answer = answer;
    const left = () => this.#left.abort();
    link.attach({ server: { reset: left, finish: left } });
  }

  get signal(): AbortSignal {
    return this.#left.signal;
  }

  accept({ protocol }: AcceptOptions = {}): Connection {
    if (protocol !== undefined && !this.protocols.includes(protocol)) {
      throw new TypeError(`Cannot accept: the protocol must be offered, received "${protocol}"`);
    }
    this.#take();
    const { client, server, toServer, toClient } = this.#link;
    const wire = {
      transport: "webtransport",
      protocol: protocol ?? "",
      frames: false,
      streams: true,
      datagrams: true,
    };
    const ends: Ends = {
      client: new MemoryConnection({ ...wire, runtime: client.runtime }, toServer, toClient),
      server: new MemoryConnection({ ...wire, runtime: server.runtime }, toClient, toServer),
    };
    ends.client.link(ends.server);
    ends.server.link(ends.client);
    attach(this.#link, "server", ends.server);
    for (const side of ["client", "server"] as const) {
      const leave = () => this.#link.leave(side);
      ends[side].closed.then(leave, leave);
    }
    if (this.signal.aborted) ends.server.break();
    else this.#answer({ ends });
    return ends.server;
  }

  reject(status: number, _options?: RejectOptions): void {
    if (!(status >= 300 && status <= 599)) {
      throw new RangeError(`Cannot reject: the status must be from 300 to 599, received ${status}`);
    }
    this.#take();
    this.#answer({ status });
  }

  #take(): void {
    if (this.#hasReplied) throw new TypeError("Cannot respond: the request must be new");
    this.#hasReplied = true;
  }
}

function attach(link: Link, side: "client" | "server", connection: MemoryConnection): void {
  const end = () => connection.break();
  link.attach({ [side]: { reset: end, finish: end } });
}

/**
 * Sends keep-alives in both directions, and breaks the connection on a side that receives none.
 *
 * @param idleMs Idle timeout, in milliseconds.
 */
function keepAlive(link: Link, ends: Ends, idleMs: number): void {
  const heardMs = { client: 0, server: 0 };
  for (const side of ["client", "server"] as const) {
    const other = side === "client" ? "server" : "client";
    const { runtime }: { readonly runtime: Runtime } = link[side];
    let timer: Timer | undefined;
    const tick = () => {
      if (runtime.monotonic() - heardMs[side] > idleMs) return ends[side].break();
      link.pathOf(side).send(() => heardMs[other] = link[other].runtime.monotonic());
      timer = runtime.setTimeout(tick, Math.min(KEEP_ALIVE_MS, idleMs / 3));
    };
    heardMs[side] = runtime.monotonic();
    tick();
    const stop = () => runtime.clearTimeout(timer);
    ends[side].closed.then(stop, stop);
  }
}
