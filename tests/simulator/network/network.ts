/** The network between the hosts of one simulation: faults, sockets, and all transports. */
import type { WebTransportSource } from "../../../server/listener/webtransport_options.ts";
import { fallBackToHttp } from "../../../transport/race/http_fallback.ts";
import { withLastResort } from "../../../transport/race/last_resort.ts";
import type {
  CheckedTransports,
  LoadHttp,
  TransportPlatform,
} from "../../../transport/race/options.ts";
import { race } from "../../../transport/race/race.ts";
import {
  type WebTransportDialer,
  webTransportLeg,
} from "../../../transport/race/webtransport_leg.ts";
import { openWebSocket } from "../../../transport/websocket/connection.ts";
import type { UpgradeHost } from "../../../transport/websocket/server.ts";
import * as streams from "../../../transport/websocket/streams.ts";
import type { ListenWebTransportOptions } from "../../../transport/h3/server.ts";
import type { ClientDialer } from "../../../transport/race/options.ts";
import type { Host } from "../host.ts";
import type { Simulation } from "../simulation.ts";
import type { LinkConditions } from "./conditions.ts";
import { type HttpNetwork, SimulatedHttp } from "./http.ts";
import type { SimulatedLink } from "./link.ts";
import { Links } from "./links.ts";
import { type SimulatedSocket, type SocketEnds, socketEnds } from "./sockets.ts";
import { SimulatedQuic } from "./webtransport.ts";
import { internals } from "../../../session/core.ts";
import type { SimulatedWebSocket } from "./websocket.ts";

/** Options of {@linkcode SimulatedNetwork.connectSocket}. */
export interface ConnectSocketOptions {
  /** Cancels the attempt. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * The network between the hosts of one simulation.
 *
 * - **Each direction** between two hosts has its own conditions, which may change at any time.
 * - **Each connection** has its own random numbers, determined by the seed, the names of both hosts
 *   and the number of earlier connections between them.
 * - **The hostname** in a URL is the name of a host.
 *
 * @example A partition between two programs
 * ```ts
 * import { SimulatedNetwork, Simulation } from "../mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const simulation = new Simulation({ seed: 1 });
 * const network = new SimulatedNetwork(simulation, { delayMs: 10, jitterMs: 0 });
 * const [server, client] = [simulation.host("server"), simulation.host("client")];
 * network.serve(server, 80, () => new Response("hello"));
 *
 * const got: string[] = [];
 * client.after(0, async () => {
 *   const response = await network.fetch(client)("http://server/");
 *   got.push(await response.text());
 * });
 * network.change(server, client, { isBlocked: true });
 * await simulation.run(1_000);
 * assertEquals(got, []);
 * network.change(server, client, { isBlocked: false });
 * await simulation.run(1_000);
 * assertEquals(got, ["hello"]);
 * ```
 */
export class SimulatedNetwork {
  /**
   * Only for Skein's own simulations: all connections, and WebTransport and HTTP, which can be
   * replaced.
   *
   * @ignore
   */
  readonly [internals]: {
    readonly links: Links;
    webTransport: Pick<SimulatedQuic, "engine" | "dialer">;
    http: HttpNetwork;
  };
  readonly #links: Links;
  readonly #loadMs = new Map<Host, number>();
  readonly #accepts = new Map<string, (socket: SimulatedSocket) => void>();

  /**
   * Creates a network.
   *
   * @param conditions Initial conditions between any two hosts.
   * @throws {RangeError} If a condition is out of range.
   */
  constructor(simulation: Simulation, conditions: LinkConditions = {}) {
    this.#links = new Links(simulation, conditions);
    const links = this.#links;
    const http = new SimulatedHttp(links);
    this[internals] = { links, webTransport: new SimulatedQuic(links), http };
  }

  /** All open connections, oldest first. */
  get links(): readonly SimulatedLink[] {
    return [...this.#links.open];
  }

  /**
   * Reads the conditions of one direction.
   *
   * @param from The sending host.
   * @param to The receiving host.
   * @returns All conditions.
   */
  conditions(from: Host, to: Host): Required<LinkConditions> {
    return this.#links.direction(from, to).conditions;
  }

  /**
   * Changes some conditions of one direction.
   *
   * @param from The sending host.
   * @param to The receiving host.
   * @throws {RangeError} If a condition is out of range.
   */
  change(from: Host, to: Host, conditions: LinkConditions): void {
    this.#links.change(from, to, conditions);
  }

  /**
   * Returns how long a slow link still needs for everything sent so far. Data that was sent while
   * the link was slow arrives at that rate, even if the link is faster now.
   *
   * @param from The sending host.
   * @param to The receiving host.
   * @returns Time until the last byte sent so far has left, in milliseconds.
   */
  backlogMs(from: Host, to: Host): number {
    return this.#links.backlogMs(from, to);
  }

  /** Restores the initial conditions in each direction. */
  heal(): void {
    this.#links.heal();
  }

  /**
   * Gives a host another address, as a move to another network does. TCP connections end on the
   * host without notifying the peers; QUIC connections continue.
   */
  move(host: Host): void {
    this.#links.move(host);
  }

  /**
   * Makes a host forward each connection to the next running host of a list, as a load balancer
   * does.
   *
   * @param host The host, which runs no program itself.
   * @param nodes The hosts that receive the connections.
   */
  front(host: Host, nodes: readonly Host[]): void {
    this.#links.front(host, nodes);
  }

  /**
   * Lets a program on a host accept sockets, until the host's current life ends.
   *
   * @param port Number of the port.
   * @param accept Called with each socket. MUST NOT throw.
   * @returns A function that stops listening; open sockets stay open.
   * @throws {TypeError} If a program on the host already listens on the port.
   */
  listenSockets(host: Host, port: number, accept: (socket: SimulatedSocket) => void): () => void {
    const address = `${host.name}:${port}`;
    if (this.#accepts.has(address)) {
      throw new TypeError(`Cannot listen: the port must be free, received ${address}`);
    }
    this.#accepts.set(address, accept);
    return this.#links.whileAlive(host, () => {
      if (this.#accepts.get(address) === accept) this.#accepts.delete(address);
    });
  }

  /**
   * Opens a socket.
   *
   * @param from The host that dials.
   * @param to The host that listens.
   * @param port Number of the port.
   * @param options `signal` cancels the attempt.
   * @returns The open socket.
   * @throws {ConnectionError} If no program listens, or the attempt fails.
   * @throws {TimeoutError} If there is no response within 130 s.
   */
  async connectSocket(
    from: Host,
    to: Host,
    port: number,
    { signal }: ConnectSocketOptions = {},
  ): Promise<SimulatedSocket> {
    let ends: SocketEnds | undefined;
    const link = await this.#links.dial({
      kind: "socket",
      client: from,
      server: to,
      signal,
      isListening: ({ name }) => this.#accepts.has(`${name}:${port}`),
      onArrival: (link) => {
        const accept = this.#accepts.get(`${link.server.name}:${port}`)!;
        const { server } = ends = socketEnds(link);
        link.attach({ server });
        link.server.after(0, () => accept(server));
      },
    });
    const { client } = ends!;
    link.attach({ client });
    return client;
  }

  /**
   * Creates a host's HTTP server with WebSockets, for the option `webSocket` of `serve()`.
   *
   * @ignore
   * @returns A listener whose ports close when the host's life ends.
   */
  webSocket(host: Host): UpgradeHost {
    return this[internals].http.host(host);
  }

  /**
   * Creates a host's WebTransport engine, for the option `webTransport.engine` of `serve()`. All
   * clients trust the server's certificate, which may be any PEM text.
   *
   * @ignore
   * @returns An engine whose port closes when the host's life ends.
   */
  webTransport(host: Host): (options: ListenWebTransportOptions) => WebTransportSource {
    return this[internals].webTransport.engine(host);
  }

  /**
   * Lets a program on a host handle requests, until the host's current life ends.
   *
   * @param port Number of the port.
   * @param handler Handles a request.
   * @returns A function that stops listening. It resolves once all responses are sent.
   * @throws {Deno.errors.AddrInUse} If a program on the host already listens on the port.
   */
  serve(
    host: Host,
    port: number,
    handler: (
      request: Request,
      info: { readonly remoteAddr: Deno.NetAddr },
    ) => Response | Promise<Response>,
  ): () => Promise<void> {
    const listener = this.webSocket(host).listen({ port, hostname: host.name }, handler);
    return () => listener.shutdown();
  }

  /**
   * Creates the `fetch` function for programs on a host.
   *
   * @returns A function that reaches the hosts of the simulation by name.
   */
  fetch(host: Host): typeof fetch {
    return this[internals].http.fetch(host);
  }

  /**
   * Creates the function with which programs on a host, such as plain pages, open WebSockets.
   *
   * @ignore
   * @returns A function that opens a socket, as the constructor of `WebSocket` does.
   */
  sockets(host: Host): (url: URL, protocols?: readonly string[]) => SimulatedWebSocket {
    return this[internals].http.sockets(host);
  }

  /**
   * Creates the WebTransport dialer for programs on a host, for streams and datagrams.
   *
   * @ignore
   * @returns A dialer for `https:` URLs; its connections carry no messages.
   */
  dialWebTransport(host: Host): WebTransportDialer {
    return this[internals].webTransport.dialer(host);
  }

  /**
   * Sets how long clients on a host take to load the code for streams over WebSocket; 0 by default.
   *
   * @ignore
   * @param ms Duration of each load, in milliseconds.
   */
  slowLoads(host: Host, ms: number): void {
    this.#loadMs.set(host, ms);
  }

  /**
   * Creates the dialer of a client on a host, for the given transports.
   *
   * @ignore
   */
  dialer(host: Host, options: CheckedTransports): ClientDialer {
    const socket = this[internals].http.sockets(host);
    const loadStreams = async () => {
      const ms = this.#loadMs.get(host) ?? 0;
      if (ms > 0) await new Promise<void>((resolve) => void host.after(ms, resolve));
      return streams;
    };
    const platform: TransportPlatform = {
      webSocket: (url, options) => openWebSocket(url, { ...options, socket, load: loadStreams }),
      webTransport: webTransportLeg(this[internals].webTransport.dialer(host)),
    };
    const send = this[internals].http.fetch(host);
    const load = () =>
      Promise.resolve<Awaited<ReturnType<LoadHttp>>>({
        fallBackToHttp: (dial, options) => fallBackToHttp(dial, options, { fetch: send }),
      });
    return withLastResort(race(platform, options), options, load);
  }
}
