/**
 * Lets `node:http` and `node:https` listen on a simulated network, so that simulations run the
 * hardened WebSocket engine, which uses these modules, unchanged.
 */
import net, { type AddressInfo } from "node:net";
import https from "node:https";
import type { Server } from "node:http";
import { replaceProperty } from "../../../simulator/globals.ts";
import type { Host } from "../../../simulator/host.ts";
import type { HttpNetwork } from "../../../simulator/network/http.ts";
import type { Links } from "../../../simulator/network/links.ts";
import { SimulatedWebSocket } from "../../../simulator/network/websocket.ts";
import {
  hardenedWebSocket,
  type HardenedWebSocketOptions,
} from "../../../../transport/hardened/mod.ts";
import type { UpgradeHost } from "../../../../transport/websocket/server.ts";
import { SimulatedBytes } from "./bytes.ts";
import { openOver } from "./client.ts";
import { SimulatedNodeSocket } from "./socket.ts";

/** The members of node:net that this file replaces. */
interface Replaced {
  _createServerHandle(address: string, port: number, family: number): object | number;
}

/**
 * Replaces node:net's listening sockets with sockets of a simulated network.
 *
 * @param links Connections of the network.
 * @param plain The network's HTTP, for requests without an upgrade.
 * @param optionsOf Returns the engine options of a host.
 * @returns The network. Disposing it restores the runtime's sockets.
 */
export function simulateHardened(
  links: Links,
  plain: HttpNetwork,
  optionsOf: (host: Host) => HardenedWebSocketOptions,
): HttpNetwork & Disposable {
  const bound = new Map<string, ServerHandle>();
  let starting: Host | undefined;
  const handles = net as unknown as Replaced;
  const { _createServerHandle: create } = handles;
  const replace = (target: object, name: string, value: unknown) =>
    replaceProperty(target, name, { value, writable: true });
  const restore = [
    replace(handles, "_createServerHandle", (address: string, port: number, family: number) => {
      if (starting === undefined) return create(address, port, family);
      return new ServerHandle(links, starting, { port, bound });
    }),
    ...[net.Server.prototype, https.Server.prototype].map((prototype) => {
      const { listen } = prototype;
      return replace(prototype, "listen", function (this: Server, ...args: unknown[]) {
        const [handle] = args;
        if (handle instanceof ServerHandle) return handle.listen(this);
        return (listen as (...args: unknown[]) => Server).apply(this, args);
      });
    }),
    // The engine calls these for TLS sockets.
    ...(["_write", "_writev"] as const).map((name) => {
      const former = net.Socket.prototype[name] as (...args: unknown[]) => void;
      return replace(net.Socket.prototype, name, function (this: object, ...args: unknown[]) {
        const own = this instanceof SimulatedNodeSocket
          ? SimulatedNodeSocket.prototype[name] as (...args: unknown[]) => void
          : former;
        own.apply(this, args);
      });
    }),
  ];
  const dial = async (client: Host, url: URL, signal?: AbortSignal) => {
    const isSecure = /^(https|wss):$/.test(url.protocol);
    const port = url.port || (isSecure ? "443" : "80");
    let ends: ReturnType<typeof SimulatedBytes.pair> | undefined;
    let secure: (() => void) | undefined;
    const link = await links.dial({
      kind: "websocket",
      client,
      server: links.find(url.hostname),
      signal,
      isSecure,
      isListening: ({ name }) => bound.has(`${name}:${port}`),
      onArrival: (link) => {
        const { server } = ends = SimulatedBytes.pair(link);
        const address = links.addressOf(link);
        const handle = bound.get(`${link.server.name}:${port}`)!;
        link.server.after(0, () => {
          secure = handle.accept(server, address);
          if (!isSecure) secure();
        });
      },
      onSecure: () => secure?.(),
    });
    return { link, end: ends!.client };
  };
  const open = async (
    client: Host,
    socket: SimulatedWebSocket,
    { protocols, headers }: {
      readonly protocols: readonly string[];
      readonly headers: Headers;
    },
  ) => {
    const url = new URL(socket.url);
    let abandon: (() => void) | undefined;
    try {
      const { link, end } = await dial(client, url, socket.opening.signal);
      abandon = () => link.abandon();
      const { handshake, stripUpgrades: isStripped } =
        links.direction(client, link.server).conditions;
      if (typeof handshake === "number") {
        await link.answer<void>(
          socket.opening.signal,
          ({ resolve }) => link.toServer.send(() => link.toClient.send(resolve)),
        );
        throw new Error(`the server answered ${handshake}`);
      }
      await openOver(socket, link, end, { url, protocols, headers, isStripped });
    } catch (error) {
      abandon?.();
      socket.failToOpen(error);
    }
  };
  return {
    host: (host): UpgradeHost => {
      const engine = hardenedWebSocket(optionsOf(host)) as UpgradeHost;
      return {
        accept: engine.accept,
        listen(options, handler, onUpgrade) {
          const pages = plain.host(host).listen(options, handler);
          starting = host;
          try {
            const hostname = links.hostAddress(host);
            const listener = engine.listen({ ...options, hostname }, handler, onUpgrade);
            const shutdown = async () => {
              await Promise.all([listener.shutdown(), pages.shutdown()]);
            };
            return { addr: listener.addr, shutdown };
          } finally {
            starting = undefined;
          }
        },
      };
    },
    fetch: (client) => plain.fetch(client),
    sockets: (client) => (url, protocols = [], headers) => {
      const socket = new SimulatedWebSocket(client.runtime, url.href);
      void open(client, socket, { protocols, headers: new Headers(headers) });
      return socket;
    },
    [Symbol.dispose]() {
      for (const back of restore) back();
    },
  };
}

/** A listening socket of a host. */
class ServerHandle {
  readonly #links: Links;
  readonly #host: Host;
  readonly #port: number;
  readonly #bound: Map<string, ServerHandle>;
  readonly #sockets = new Set<SimulatedNodeSocket>();
  #server!: Server;
  #onEmpty: (() => void) | undefined;

  constructor(
    links: Links,
    host: Host,
    { port, bound }: { readonly port: number; readonly bound: Map<string, ServerHandle> },
  ) {
    this.#links = links;
    this.#host = host;
    this.#port = port;
    this.#bound = bound;
  }

  /** Starts listening, like node:net's `Server.listen()` with a bound socket. */
  listen(server: Server): Server {
    this.#server = server;
    if (server instanceof https.Server) {
      // The simulated network performs the TLS handshake.
      const [handshake] = server.listeners("connection") as [() => void];
      server.removeListener("connection", handshake);
    }
    const key = `${this.#host.name}:${this.#port}`;
    this.#bound.set(key, this);
    const unbind = () => {
      if (this.#bound.get(key) === this) this.#bound.delete(key);
    };
    const stop = this.#links.whileAlive(this.#host, unbind);
    // The sockets of a process that has ended have no further events.
    this.#host.onEnd(() => {
      this.#sockets.clear();
      this.#onEmpty?.();
    });
    const address: AddressInfo = {
      address: this.#links.hostAddress(this.#host),
      port: this.#port,
      family: "IPv4",
    };
    return Object.assign(server, {
      address: () => address,
      close: (done: () => void) => {
        stop();
        this.#onEmpty = done;
        if (this.#sockets.size === 0) queueMicrotask(done);
        return server;
      },
    });
  }

  /**
   * Accepts a connection.
   *
   * @param end The operating system's end of the connection.
   * @param address Address of the peer.
   * @returns A function that completes the TLS handshake, if the server uses TLS.
   */
  accept(end: SimulatedBytes, address: Deno.NetAddr): () => void {
    const { runtime } = this.#host;
    const socket = new SimulatedNodeSocket(end, { runtime, address });
    this.#sockets.add(socket);
    socket.on("close", () => {
      this.#sockets.delete(socket);
      if (this.#sockets.size === 0) this.#onEmpty?.();
    });
    this.#server.emit("connection", socket);
    return () => {
      if (socket.destroyed || !(this.#server instanceof https.Server)) return;
      const secure = new SimulatedNodeSocket(end, { runtime, address, below: socket });
      this.#server.emit("secureConnection", secure);
    };
  }
}
