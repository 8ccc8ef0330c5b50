/** The NATS client library on simulated hosts: its transport over sockets of the network. */
import type { ConnectionOptions, NatsConnection } from "@nats-io/nats-core";
import {
  extractProtocolMessage,
  nuid,
  type Server,
  type Transport,
} from "@nats-io/nats-core/internal";
import { ConnectionError } from "../../../errors.ts";
import { concat } from "../../../base/bytes.ts";
import type { NatsServers } from "../../../brokers/nats/options.ts";
import { connectNats } from "../../../brokers/nats/transport.ts";
import type { Host } from "../host.ts";
import type { SimulatedNetwork } from "../network/network.ts";
import type { SimulatedSocket } from "../network/sockets.ts";

/** Opens a socket for a connection. */
type Dialer = (server: Server) => Promise<SimulatedSocket>;

/** Time after which an unanswered dial is abandoned, in milliseconds. */
const DIAL_MS = 2_000;

/**
 * Creates the function for the option `connect` of a `NatsBroker` on a host.
 *
 * The client library uses the platform's clocks, timers and random numbers, so call {@linkcode
 * installGlobals} first.
 *
 * @param host The running host of the program.
 * @returns A function that replaces `connect` of the client library.
 */
export function simulatedNatsConnect(
  network: SimulatedNetwork,
  host: Host,
  servers: readonly Host[],
): (options: NatsServers) => Promise<NatsConnection> {
  const byName = new Map(servers.map((server) => [server.name, server]));
  const dialer: Dialer = (server) => {
    const to = byName.get(server.hostname);
    if (to !== undefined) return connectSoon(network, host, to, server.port);
    throw new TypeError(
      `Cannot connect: the server must be one of the simulated NATS, received ${server.hostname}`,
    );
  };
  return (options) => {
    const { promise, resolve, reject } = Promise.withResolvers<NatsConnection>();
    // An event of the host, so that the library's timers end with the life in which they started.
    host.after(0, () => {
      nuid.reset();
      const connecting = connectNats(
        options as ConnectionOptions,
        () => new SocketTransport(dialer),
      );
      connecting.then(resolve, reject);
    });
    return promise;
  };
}

/**
 * Opens a socket. A real system sends the first packet again if there is no response; here the
 * client library dials again.
 */
async function connectSoon(
  network: SimulatedNetwork,
  from: Host,
  to: Host,
  port: number,
): Promise<SimulatedSocket> {
  const attempt = new AbortController();
  const { runtime } = from;
  const timer = runtime.setTimeout(
    () => attempt.abort(new ConnectionError(`Cannot connect to ${to.name}: no answer`)),
    DIAL_MS,
  );
  try {
    return await network.connectSocket(from, to, port, { signal: attempt.signal });
  } finally {
    runtime.clearTimeout(timer);
  }
}

/** A transport of the client library over a socket. */
class SocketTransport implements Transport {
  readonly lang = "nats.js";
  readonly version = "3.4.0";
  readonly #ended = Promise.withResolvers<void | Error>();
  readonly #dial: Dialer;
  #socket: SimulatedSocket | undefined;
  #frames: Uint8Array[] = [];
  #wake: PromiseWithResolvers<void> = Promise.withResolvers();
  #isLooking = false;
  #isConnected = false;
  #isDone = false;
  closeError?: Error;

  constructor(dial: Dialer) {
    this.#dial = dial;
  }

  get isClosed(): boolean {
    return this.#isDone;
  }

  /** Opens the socket, and waits for the first message of the server. */
  async connect(server: Server): Promise<void> {
    const socket = await this.#dial(server);
    if (this.#isDone) return socket.close();
    this.#socket = socket;
    const greeted = Promise.withResolvers<void>();
    greeted.promise.catch(() => {});
    socket.onMessage = (frame) => {
      // A program reads all available bytes together.
      this.#frames.push(frame as Uint8Array);
      if (this.#isLooking) return;
      this.#isLooking = true;
      socket.host.after(0, () => {
        this.#isLooking = false;
        if (this.#frames.length > 1) this.#frames = [concat(this.#frames)];
        if (this.#frames[0] && extractProtocolMessage(this.#frames[0]) !== "") greeted.resolve();
        this.#wake.resolve();
      });
    };
    socket.onClose = (reason) => {
      const end = () => {
        const error = new Error(`The connection was ${reason}`);
        greeted.reject(error);
        this.#end(reason === "reset" ? error : undefined);
      };
      // The program reads the last bytes before it is notified of the end.
      if (this.#isLooking) socket.host.after(0, end);
      else end();
    };
    await greeted.promise;
    this.#isConnected = true;
  }

  async *[Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
    while (true) {
      if (this.#frames.length === 0 && !this.#isDone) await this.#wake.promise;
      this.#wake = Promise.withResolvers();
      yield* this.#frames.splice(0);
      if (this.#isDone) return;
    }
  }

  isEncrypted(): boolean {
    return false;
  }

  send(frame: Uint8Array): void {
    if (!this.#isDone) this.#socket?.send(frame, frame.length);
  }

  close(error?: Error): Promise<void> {
    this.#end(error);
    return Promise.resolve();
  }

  disconnect(): void {
    this.#end();
  }

  closed(): Promise<void | Error> {
    return this.#ended.promise;
  }

  discard(): void {
    this.#isDone = true;
    this.#socket?.close();
    this.#wake.resolve();
  }

  #end(error?: Error): void {
    if (!this.#isConnected || this.#isDone) return void this.#socket?.close();
    if (error !== undefined) this.closeError = error;
    this.#isDone = true;
    this.#socket?.close();
    this.#wake.resolve();
    this.#ended.resolve(error);
  }
}
