/** One life of a NATS server: clients, messages, JetStream. */
import type { EventLoop } from "../event_loop.ts";
import type { Host } from "../host.ts";
import type { SimulatedSocket } from "../network/sockets.ts";
import { MessageBus } from "./bus.ts";
import { ClientLink } from "./client_link.ts";
import { JetStream, type JetStreamOptions } from "./jetstream.ts";
import { encodeLine, MAX_PAYLOAD } from "./wire.ts";

export const CLIENT_PORT = 4_222;

/** Version that the server announces; the model was compared with it. */
const VERSION = "2.9.10";

/** Most clients of one server; further ones are rejected. */
const MAX_CLIENTS = 65_536;

/** Collaborators of a {@linkcode NatsProcess}. */
interface ProcessOptions extends JetStreamOptions {
  readonly events: EventLoop;
  readonly host: Host;
}

/** A server from its start to the end of the process. */
export class NatsProcess {
  /** Subscriptions and messages. */
  readonly bus: MessageBus;
  /** Streams and their administration. */
  readonly jetstream: JetStream;
  /** Clients, oldest first. */
  readonly clients = new Set<ClientLink>();
  readonly #peers: readonly string[];
  readonly #id: string;
  #count = 0;
  #isDraining = false;

  /** Starts a server. */
  constructor({ events, host, ...options }: ProcessOptions) {
    this.#peers = options.peers;
    // A new identity in each life.
    this.#id = `N${host.runtime.randomUUID().replaceAll("-", "").toUpperCase()}`;
    this.bus = new MessageBus(events, host);
    this.jetstream = new JetStream(this.bus, options);
  }

  /** Accepts a client. */
  accept(socket: SimulatedSocket): void {
    if (this.#isDraining || this.clients.size >= MAX_CLIENTS) return socket.close();
    const client: ClientLink = new ClientLink(this.bus, socket, ++this.#count, () => {
      this.clients.delete(client);
    });
    this.clients.add(client);
    client.send(encodeLine(`INFO ${JSON.stringify(this.#info(this.#count))}`));
  }

  /**
   * Enters lame duck mode: new clients are rejected, and present ones are notified and then
   * disconnected.
   *
   * @param spreadMs Time in which clients are disconnected, in milliseconds.
   */
  drain(spreadMs: number): void {
    if (this.#isDraining) return;
    this.#isDraining = true;
    this.bus.note("enters lame duck mode");
    const info = encodeLine(`INFO ${JSON.stringify({ ...this.#info(0), ldm: true })}`);
    const step = spreadMs / Math.max(1, this.clients.size);
    for (const [i, client] of [...this.clients].entries()) {
      client.send(info);
      this.bus.later(() => client.close(), Math.ceil(step * (i + 1)));
    }
  }

  #info(client: number): object {
    const { name } = this.bus.host;
    return {
      server_id: this.#id,
      server_name: name,
      version: VERSION,
      proto: 1,
      host: name,
      port: CLIENT_PORT,
      headers: true,
      max_payload: MAX_PAYLOAD,
      jetstream: true,
      client_id: client,
      ...(this.#peers.length > 1 && {
        cluster: "simulated",
        connect_urls: this.#peers.map((peer) => `${peer}:${CLIENT_PORT}`),
      }),
    };
  }
}
