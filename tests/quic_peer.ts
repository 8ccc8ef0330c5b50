/**
 * A listener of raw QUIC, and clients that are the runtime's own: nothing of ours is in them.
 *
 * @module
 */
import { type DevCertificate, devCertificate } from "../transport/dev_certificate.ts";
import type { ConnectQuicOptions } from "../transport/h3/quic.ts";
import type { QuicConnection } from "../transport/quic/connection.ts";
import { listenQuic, type ListenQuicOptions, type QuicListener } from "../transport/quic_server.ts";
import { soon } from "./sessions.ts";

/** What test servers show, and clients trust by its hash. */
export const certificate: DevCertificate = devCertificate({ cacheFolder: null });

/** The protocol of tests. */
export const PROTOCOL = "skein-test";

/** One connection: our end, and the runtime's. */
export interface QuicEnds {
  /** Ours. */
  readonly connection: QuicConnection;
  /** The runtime's. */
  readonly peer: Deno.QuicConn;
}

/**
 * Connects with the runtime's client.
 *
 * @param port Where to.
 * @param options Those of the runtime that are to be others.
 * @returns The connection.
 */
export async function connectBare(
  port: number,
  options: Partial<ConnectQuicOptions> = {},
): Promise<Deno.QuicConn> {
  const all: ConnectQuicOptions = {
    hostname: "127.0.0.1",
    port,
    alpnProtocols: [PROTOCOL],
    serverCertificateHashes: [...certificate.hashes],
    ...options,
  };
  const conn = await Deno.connectQuic(all);
  conn.closed.catch(() => {});
  return conn;
}

/** A listener of ours on a free port. */
export class QuicServer implements AsyncDisposable {
  /** Ours. */
  readonly listener: QuicListener;
  readonly #connections: AsyncGenerator<QuicConnection, void, undefined>;
  readonly #peers: Deno.QuicConn[] = [];

  /**
   * Listens.
   *
   * @param options Those that are to be others.
   */
  constructor(options: Partial<ListenQuicOptions> = {}) {
    this.listener = listenQuic({
      hostname: "127.0.0.1",
      protocols: [PROTOCOL],
      ...certificate,
      ...options,
    });
    this.#connections = this.listener[Symbol.asyncIterator]();
  }

  /** Where it listens. */
  get port(): number {
    return this.listener.address.port;
  }

  /** The next connection. */
  async next(): Promise<QuicConnection> {
    const { value } = await soon(this.#connections.next());
    if (value === undefined) throw new Error("no connection");
    return value;
  }

  /**
   * Makes one connection.
   *
   * @param options Those of the runtime's client.
   * @returns Both ends.
   */
  async open(options?: Partial<ConnectQuicOptions>): Promise<QuicEnds> {
    const [connection, peer] = await Promise.all([this.next(), connectBare(this.port, options)]);
    this.#peers.push(peer);
    return { connection, peer };
  }

  /** Closes everything, and waits until the other ends know. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.listener.close();
    await Promise.all(this.#peers.map(({ closed }) => soon(closed.catch(() => {}))));
  }
}
