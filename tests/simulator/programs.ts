/** Programs on simulated hosts: complete Skein servers and clients. */
import * as responses from "../../client/page/chunk_responses.ts";
import * as insight from "../../client/page/chunk_insight.ts";
import * as state from "../../client/page/chunk_state.ts";
import * as recovery from "../../client/recovery.ts";
import { connectBy, type ConnectOptions } from "../../client/connect.ts";
import type { Client } from "../../client/client.ts";
import { serve, type ServeOptions, type Server } from "../../server.ts";
import { checkCall } from "../../client/call_checks.ts";
import type { Contract } from "../../session/contract.ts";
import { checkTransports } from "../../transport/race/options.ts";
import { SIMULATED_CERTIFICATE } from "./certificate.ts";
import type { Host } from "./host.ts";
import type { SimulatedNetwork } from "./network/network.ts";

/** Port of servers, as for `https:`. */
const PORT = 443;

/**
 * Options of a server on a host: the options of `serve()`, without those that the host provides.
 */
export type SimulatedServerOptions<V, C extends Contract> = Omit<
  ServeOptions<V, C>,
  "hostname" | "port" | "reusePort" | "runtime" | "tls" | "webSocket"
>;

/**
 * A server that runs on a host and can be killed and restarted.
 *
 * @typeParam V Type of the values from `authenticate`.
 * @typeParam C The contract.
 *
 * @example A server that is restarted
 * ```ts
 * import { SimulatedNetwork, SimulatedServer, Simulation } from "./mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const simulation = new Simulation({ seed: 1 });
 * const network = new SimulatedNetwork(simulation);
 * const server = new SimulatedServer(network, simulation.host("a"), ({ life }) => ({
 *   node: { name: `life ${life}` },
 * }));
 * server.host.kill();
 * server.restart();
 * assertEquals(server.host.life, 1);
 * assertEquals(server.server.manager.count, 0);
 * ```
 */
export class SimulatedServer<V = unknown, C extends Contract = Contract> {
  readonly host: Host;
  readonly #network: SimulatedNetwork;
  readonly #options: (host: Host) => SimulatedServerOptions<V, C>;
  #server: Server<V, C>;

  /**
   * Starts a server, with HTTP, WebSocket and WebTransport.
   *
   * @param host A running host.
   * @param options Returns the options for each start, for example with a new broker.
   */
  constructor(
    network: SimulatedNetwork,
    host: Host,
    options: (host: Host) => SimulatedServerOptions<V, C>,
  ) {
    this.host = host;
    this.#network = network;
    this.#options = options;
    this.#server = this.#start();
  }

  /** The server of the current life. */
  get server(): Server<V, C> {
    return this.#server;
  }

  /** Restarts the server after its earlier life has ended. */
  restart(): void {
    this.host.start();
    this.#server = this.#start();
  }

  #start(): Server<V, C> {
    const { host } = this;
    const { webTransport = {}, ...options } = this.#options(host);
    return serve<V, C>({
      ...options,
      onListen: options.onListen ?? (() => {}),
      runtime: host.runtime,
      hostname: host.name,
      port: PORT,
      tls: SIMULATED_CERTIFICATE,
      webSocket: this.#network.webSocket(host),
      webTransport: webTransport !== false && {
        ...(webTransport === true ? {} : webTransport),
        engine: this.#network.webTransport(host),
      },
    });
  }
}

/**
 * Connects a client on a host.
 *
 * @typeParam C The contract.
 * @param servers Hosts of the servers, in the order of attempts; or a function that returns the
 * host for each connection, like a URL function.
 * @param options Options of `connect()`.
 * @example A client that prefers WebSocket
 * ```ts
 * import {
 *   simulatedClient,
 *   SimulatedNetwork,
 *   SimulatedServer,
 *   Simulation,
 * } from "./mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const simulation = new Simulation({ seed: 1 });
 * const network = new SimulatedNetwork(simulation);
 * const { host } = new SimulatedServer(network, simulation.host("server"), () => ({}));
 * const client = simulatedClient(network, simulation.host("client"), [host], {
 *   transports: ["websocket"],
 * });
 * await simulation.run(1_000);
 * assertEquals(client.session?.transport, "websocket");
 * ```
 */
export function simulatedClient<C extends Contract = Contract>(
  network: SimulatedNetwork,
  host: Host,
  servers: readonly Host[] | (() => Host | Promise<Host>),
  options: ConnectOptions<C> = {},
): Client<C> {
  const urlOf = ({ name }: Host) => `https://${name}/`;
  return connectBy<C>(
    (transports) => ({
      dial: network.dialer(host, checkTransports(transports)),
      insight: () => Promise.resolve(insight),
      responses: () => Promise.resolve(responses),
      state: () => Promise.resolve(state),
      recovery: () => Promise.resolve(recovery),
      checkOptions: checkCall,
    }),
    typeof servers === "function" ? async () => urlOf(await servers()) : servers.map(urlOf),
    { ...options, runtime: host.runtime },
  );
}
