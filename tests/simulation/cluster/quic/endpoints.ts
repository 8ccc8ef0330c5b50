/** The sockets, servers and dials of the runtime's QUIC API, between hosts of a simulation. */
import type { ListenWebTransportOptions } from "../../../../transport/h3/server.ts";
import { WebTransportListener } from "../../../../transport/h3/server.ts";
import { dialWebTransport } from "../../../../transport/h3/client.ts";
import { closeIdleEndpoints } from "../../../../transport/quic/dial.ts";
import type { Connection } from "../../../../transport/connection.ts";
import type { WebTransportDialer } from "../../../../transport/race/webtransport_leg.ts";
import type { WebTransportSource } from "../../../../server/listener/webtransport_options.ts";
import { SIMULATED_CERTIFICATE } from "../../../simulator/certificate.ts";
import { replaceProperty } from "../../../simulator/globals.ts";
import type { Host } from "../../../simulator/host.ts";
import type { Link } from "../../../simulator/network/link.ts";
import type { Links } from "../../../simulator/network/links.ts";
import { SimulatedQuicConn } from "./connection.ts";

/** Bytes of the first packet of a handshake. */
const HELLO_BYTES = 1_200;

/** Time until a client resends the first packet, in milliseconds. */
const AGAIN_MS = 1_000;

/**
 * Defaults of the runtime: number of streams, and keep-alive interval and idle timeout in
 * milliseconds.
 */
const [STREAMS, KEEP_ALIVE_MS, IDLE_MS] = [100, 60_000, 30_000] as const;

/** Outcome of a handshake for the client. */
type Answer = { readonly begin: () => Deno.QuicConn } | { readonly error: string };

/** First packet of a client. */
interface Hello {
  readonly link: Link;
  readonly protocols: readonly string[];
  readonly serverName: string | undefined;
  readonly options: Deno.QuicTransportOptions;
  /** Socket of the client. */
  readonly endpoint: SimulatedEndpoint;
  readonly links: Links;
  /** Replies to the client. */
  readonly answer: (answer: Answer) => void;
  /** Makes the client resend the packet. */
  readonly again: () => void;
}

/** WebTransport of a simulated network, over HTTP/3. */
export interface Http3Network {
  /** Creates the WebTransport engine for a server on a host. */
  engine(host: Host): (options: ListenWebTransportOptions) => WebTransportSource;
  /** Creates the WebTransport dialer for programs on a host. */
  dialer(host: Host): WebTransportDialer;
}

/** The parts of the network that sockets use. */
interface Surroundings {
  readonly links: Links;
  /** Servers by host and port. */
  readonly listeners: Map<string, SimulatedListener>;
}

/**
 * Replaces the runtime's QUIC with a simulated one between hosts.
 *
 * @param links Connections of the network.
 * @returns WebTransport over HTTP/3 on that network. Disposing it restores the runtime's QUIC.
 */
export function simulateQuic(links: Links): Http3Network & Disposable {
  const { simulation } = links;
  const surroundings: Surroundings = { links, listeners: new Map() };
  let starting: Host | undefined;
  const current = (): Host => {
    const host = starting ?? simulation.current;
    if (host === undefined) throw new Error("expected QUIC in an event of a host");
    return host;
  };
  const { querySync } = Deno.permissions;
  closeIdleEndpoints();
  const replace = (target: object, name: string, value: unknown) =>
    replaceProperty(target, name, { value, writable: true });
  const restore = [
    replace(Deno, "QuicEndpoint", function (options: Deno.QuicEndpointOptions = {}) {
      return new SimulatedEndpoint(surroundings, current(), options);
    }),
    replace(
      Deno,
      "connectQuic",
      (options: Deno.ConnectQuicOptions<false>) => connect(surroundings, current(), options),
    ),
    // Without a permission, the library leaves name resolution to the runtime. The simulated
    // runtime knows all hosts.
    replace(Deno.permissions, "querySync", (wanted: Deno.PermissionDescriptor) => {
      const isHost = wanted.name === "net" &&
        simulation.hosts.has(String(wanted.host).replace(/:\d+$/, ""));
      return isHost ? { state: "prompt" } : querySync.call(Deno.permissions, wanted);
    }),
  ];
  return {
    engine: (host) => (options) => {
      // This module loads with the listener, while virtual time is paused.
      const loading = import("../../../../transport/h3/accept.ts");
      starting = host;
      try {
        return new WebTransportListener({
          ...SIMULATED_CERTIFICATE,
          ...options,
          hostname: host.name,
        });
      } finally {
        starting = undefined;
        void simulation.hold(loading, host);
      }
    },
    dialer: (host) => (url, options) => {
      const dial = () => dialWebTransport(url, { runtime: host.runtime, ...options });
      if (simulation.current === host) return dial();
      const { promise, resolve } = Promise.withResolvers<Connection>();
      host.after(0, () => resolve(dial()));
      return promise;
    },
    [Symbol.dispose]() {
      closeIdleEndpoints();
      for (const back of restore) back();
    },
  };
}

/** A UDP socket. */
class SimulatedEndpoint implements Deno.QuicEndpoint {
  readonly addr: Deno.NetAddr;
  /** Aborted when the socket closes. */
  readonly closing = new AbortController();
  /** Open connections. */
  readonly conns = new Set<SimulatedQuicConn>();
  readonly #surroundings: Surroundings;
  readonly #host: Host;

  constructor(surroundings: Surroundings, host: Host, { port = 0 }: Deno.QuicEndpointOptions) {
    this.#surroundings = surroundings;
    this.#host = host;
    const hostname = surroundings.links.hostAddress(host);
    if (port !== 0 && surroundings.listeners.has(`${host.name}:${port}`)) {
      throw new Deno.errors.AddrInUse(`expected a free port, received ${host.name}:${port}`);
    }
    this.addr = { transport: "udp", hostname, port };
  }

  listen(options: Deno.QuicListenOptions): Deno.QuicListener {
    const { links, listeners } = this.#surroundings;
    const key = `${this.#host.name}:${this.addr.port}`;
    const listener = new SimulatedListener(this, options);
    listeners.set(key, listener);
    const stop = links.whileAlive(this.#host, () => {
      if (listeners.get(key) === listener) listeners.delete(key);
      listener.stop();
    });
    this.closing.signal.addEventListener("abort", stop, { once: true });
    return listener;
  }

  close(info: Deno.QuicCloseInfo = { closeCode: 0, reason: "" }): void {
    for (const conn of [...this.conns]) conn.close(info);
    this.closing.abort();
  }

  /** Counts a connection while it is open. */
  add(conn: SimulatedQuicConn): SimulatedQuicConn {
    this.conns.add(conn);
    const over = () => void this.conns.delete(conn);
    conn.closed.then(over, over);
    return conn;
  }
}

/** A server. */
class SimulatedListener implements Deno.QuicListener {
  readonly endpoint: SimulatedEndpoint;
  readonly options: Deno.QuicListenOptions;
  #arrived: Deno.QuicIncoming[] = [];
  #waiting: PromiseWithResolvers<Deno.QuicIncoming>[] = [];
  #isStopped = false;

  constructor(endpoint: SimulatedEndpoint, options: Deno.QuicListenOptions) {
    this.endpoint = endpoint;
    this.options = options;
  }

  incoming(): Promise<Deno.QuicIncoming> {
    const arrived = this.#arrived.shift();
    if (arrived !== undefined) return Promise.resolve(arrived);
    const wait = Promise.withResolvers<Deno.QuicIncoming>();
    if (this.#isStopped) wait.reject(new Error("closed"));
    else this.#waiting.push(wait);
    return wait.promise;
  }

  async accept(): Promise<Deno.QuicConn> {
    return await (await this.incoming()).accept();
  }

  stop(): void {
    this.#isStopped = true;
    for (const wait of this.#waiting.splice(0)) wait.reject(new Error("closed"));
  }

  async *[Symbol.asyncIterator](): AsyncIterableIterator<Deno.QuicIncoming> {
    while (true) yield await this.incoming();
  }

  /** Receives a client's first packet. */
  arrive(incoming: Deno.QuicIncoming): void {
    if (this.#isStopped) return;
    const wait = this.#waiting.shift();
    if (wait === undefined) this.#arrived.push(incoming);
    else wait.resolve(incoming);
  }
}

/** Dials a server, as `Deno.connectQuic` does. */
async function connect(
  { links, listeners }: Surroundings,
  client: Host,
  options: Deno.ConnectQuicOptions<false>,
): Promise<Deno.QuicConn> {
  const { hostname, port, alpnProtocols, serverName = hostname } = options;
  const endpoint = options.endpoint as SimulatedEndpoint;
  const { signal } = endpoint.closing;
  const link = await links.dial({
    kind: "webtransport",
    client,
    server: links.find(hostname),
    signal,
    isListening: (server) => listeners.has(`${server.name}:${port}`),
  });
  try {
    const given = await link.answer<Answer>(signal, ({ resolve }) => {
      const hello: Hello = {
        link,
        protocols: alpnProtocols,
        serverName,
        options,
        endpoint,
        links,
        answer: (answer) => link.toClient.send(() => resolve(answer), 0, HELLO_BYTES),
        again: () => link.client.runtime.setTimeout(ask, AGAIN_MS),
      };
      const ask = () => {
        if (signal.aborted) return;
        const key = `${link.server.name}:${port}`;
        link.toServer.send(() => arrive(listeners.get(key), hello), 0, HELLO_BYTES);
      };
      ask();
    });
    if ("error" in given) throw new Error(given.error);
    return given.begin();
  } catch (error) {
    link.abandon();
    throw error;
  }
}

/** Handles a client's first packet at the server. */
function arrive(listener: SimulatedListener | undefined, hello: Hello): void {
  const { link, answer } = hello;
  if (listener === undefined) return link.disconnect({ silent: true });
  listener.arrive({
    localIp: listener.endpoint.addr.hostname,
    remoteAddr: { transport: "udp", hostname: "", port: 0 },
    remoteAddressValidated: true,
    accept: (() => accept(listener, hello)) as Deno.QuicIncoming["accept"],
    refuse: () => answer({ error: "the server refused to accept a new connection" }),
    ignore: () => hello.again(),
  });
}

function accept(
  { endpoint, options }: SimulatedListener,
  { link, protocols, serverName, options: wishes, endpoint: socket, answer, links }: Hello,
): Deno.QuicConn {
  const protocol = options.alpnProtocols.find((one) => protocols.includes(one));
  if (protocol === undefined) {
    answer({ error: "aborted by peer: the cryptographic handshake failed: error 120" });
    throw new Error("peer doesn't support any known protocol");
  }
  const conn = (side: "client" | "server", own: Deno.QuicTransportOptions) =>
    new SimulatedQuicConn({
      link,
      side,
      protocol,
      remoteAddr: side === "server"
        ? { ...links.addressOf(link), transport: "udp" }
        : endpoint.addr,
      serverName: side === "server" ? serverName : undefined,
      endpoint: side === "server" ? endpoint : socket,
      limits: {
        bidirectional: own.maxConcurrentBidirectionalStreams ?? STREAMS,
        unidirectional: own.maxConcurrentUnidirectionalStreams ?? STREAMS,
      },
      keepAliveMs: own.keepAliveInterval ?? KEEP_ALIVE_MS,
      idleMs: Math.min(options.maxIdleTimeout ?? IDLE_MS, wishes.maxIdleTimeout ?? IDLE_MS),
    });
  const [server, client] = [conn("server", options), conn("client", wishes)];
  [server.peer, client.peer] = [client, server];
  endpoint.add(server).begin();
  const begin = () => {
    client.shookHands();
    link.toServer.send(() => server.shookHands());
    return socket.add(client).begin();
  };
  answer({ begin });
  return server;
}
